"""A network as the kernel reads it: the tables and settings of network.h, for this machine, for C, or for a page.

In the compact form a chain of linear modules is not folded into one where that needs more weights: a relay stands between them,
which adds up what reaches it in a step and passes it on. A network in whole numbers (load(..., weights="int8")) has its own
scale for each module, so each is a link of its own; average pools add up, without weights, in both.
"""

import copy
from math import prod
from typing import NamedTuple

import numpy as np
from torch import nn

from self_models.basics import ModelError
from self_models.basics.images import has_colour
from self_models.kernel.build import Network, Node, Settings, numbers_of
from self_models.kernel.folding import Folded
from self_models.network.neurons import CountingMaxPool
from self_models.network.wiring import shape_after
from self_models.objectives.encoders import ENCODINGS, direct, poisson
from self_models.objectives.gates import Blocking, Gate
from self_models.objectives.readouts import Membrane, MembraneLinear, MembraneRescaled, SpikeCount, SpikeCountRescaled
from self_models.objectives.stopping import AllPredicted, Both, Confidence, Entropy, Never

NUMBERS = numbers_of()
NEURONS, OUTPUT, DECODED, RELAY, POOL, COUNTING_POOL, MAP, INTEGRATOR, ADDING = (NUMBERS[name] for name in (
    "NEURONS", "OUTPUT", "DECODED", "RELAY", "POOL", "COUNTING_POOL", "MAP", "INTEGRATOR", "ADDING"))  # fmt: skip
WINDOWS, LINEAR, SAME, PLACED = (NUMBERS[name] for name in ("WINDOWS", "LINEAR", "SAME", "PLACED"))
FORMS = {  # the setting that names a part -> its class, or function -> its number in network.h; open is a gate with epsilon 0
    "gate": {Gate: 0, Blocking: 0},
    "rule": {cls: NUMBERS[name] for cls, name in (
        (Never, "NEVER"), (Confidence, "CONFIDENCE"), (Entropy, "ENTROPY"), (AllPredicted, "ALL_PREDICTED"), (Both, "BOTH"))},
    "readout": {cls: NUMBERS[name] for cls, name in (
        (SpikeCount, "SPIKE_COUNT"), (SpikeCountRescaled, "SPIKE_COUNT_RESCALED"), (Membrane, "MEMBRANE"),
        (MembraneLinear, "MEMBRANE_LINEAR"), (MembraneRescaled, "MEMBRANE_RESCALED"))},
    "encoding": {poisson: NUMBERS["POISSON"], direct: NUMBERS["DIRECT"]},
}  # fmt: skip
OF_PARTS = (
    "epsilon", "open_bound", "gap_bound", "entropy_bound", "readout_leak", "readout_slew", "surprise", "latch", "residual",
    "together",
)  # fmt: skip
NODE = np.dtype(Node)
LOWEST, HIGHEST = -np.finfo(np.float32).max, np.finfo(np.float32).max  # bounds of a potential that has none
LARGEST = 2**31 - 1  # neurons of a layer, and weights of a network: both are numbered in 32 bits
SPARE = 64  # weights behind the last one that may be read
LINE = 64  # bytes of a line of the cache; of weights whole lines of bytes, whatever their kind


class Tables(NamedTuple):
    """header: field of Network -> number; nodes: NODE (N,); order: nodes as they run; constants, weights: float32, or int32 and
    int8 in whole numbers; names: of the layers; shapes: (C, H, W) of every node; links: node -> Folded; pools: the wiring's;
    maps: the first node that is one, of those behind the network's own; places: see network.h."""

    header: dict
    nodes: np.ndarray
    order: np.ndarray
    constants: np.ndarray
    weights: np.ndarray
    names: list
    shapes: list
    links: dict
    pools: list
    maps: int
    places: np.ndarray = np.zeros(0, np.int32)

    def check(self):
        """Raises ModelError where the tables do not fit each other: the kernel trusts them, and would read and write beyond."""

        def want(what, holds):
            if not holds:
                raise ModelError(f"the event engine's tables do not fit each other ({what}): use --engine dense, and report this")

        own, order, kinds, constants = self.header, self.order.tolist(), self.nodes["kind"].tolist(), NUMBERS["CONSTANTS"]
        types = (NODE, np.int32, np.int32, *((np.int32, np.int8) if self.weights.dtype == np.int8 else (np.float32, np.float32)))
        for each, kind in zip((self.nodes, self.order, self.places, self.constants, self.weights), types, strict=True):
            want("types", each.dtype == kind and each.ndim == 1 and each.flags.c_contiguous)
        want("nodes", own["nodes"] == len(kinds) == len(self.shapes) and constants * len(kinds) <= len(self.constants))
        want("order", min(own["forward"], own["feedback"]) >= 0 and own["forward"] + own["feedback"] == len(order))
        want("layers", 0 < own["layers"] <= len(kinds))
        want("order", sorted(order) == [*range(1, len(kinds))] and own["output"] > 0)
        want("rows", 0 < own["rows"] <= max(map(prod, self.shapes)))
        ends = {NEURONS: range(own["layers"]), OUTPUT: [own["output"]], DECODED: [own["decoded"]]}
        for kind, nodes in ends.items():
            want("kinds", [n for n, its in enumerate(kinds) if its == kind] == [n for n in nodes if n != -1])
        want("kinds", set(kinds) <= set(range(ADDING + 1)) and own["counting"] in range(MAP in kinds, 2))
        want("decoder", (own["decoded"] == -1) == (own["feedback"] == 0) and own["layers"] == len(self.names))
        want("decoder", own["decoded"] == -1 or prod(self.shapes[own["decoded"]]) == prod(self.shapes[0]))
        for n, values in enumerate(self.nodes.tolist()):
            node, shape = dict(zip(NODE.names, values, strict=True)), tuple(self.shapes[n])
            halvings, doublings, side = (node[name] for name in ("halvings", "doublings", "side"))
            want(f"shape of {n}", shape == (node["channels"], node["height"], node["width"]) and min(shape) > 0)
            want(f"shape of {n}", prod(shape) + SPARE <= LARGEST and 0 <= node["depth"] <= len(kinds))
            each, first = (prod(shape) if node["first_own"] else shape[0]), constants * len(kinds)
            kept = {"first_bias": each, "first_reset": 1, "first_own": 3 * prod(shape)}
            want(f"biases of {n}", all(not node[at] or first <= node[at] <= len(self.constants) - kept[at] for at in kept))
            if n == 0:
                continue
            want(f"source of {n}", node["source"] in [0, *order][: order.index(n) + 1])
            want(f"source of {n}", kinds[node["source"]] not in (OUTPUT, DECODED, MAP, ADDING))
            want(f"source of {n}", 0 <= halvings < 16 > doublings >= 0)
            if node["kind"] == ADDING:
                want(f"target of {n}", 0 < node["into"] < len(kinds) and shape == tuple(self.shapes[node["into"]]))
            (channels, *sides), linear = self.shapes[node["source"]], node["link"] == LINEAR
            if kinds[n] in (POOL, COUNTING_POOL) or node["link"] == SAME:
                want(f"channels of {n}", channels == shape[0])
                continue
            if node["link"] == PLACED:
                self.check_places(n, node, want)
                continue
            window = 1 if linear else 2**doublings + 2 * node["padding"]
            want(f"window of {n}", node["link"] in (WINDOWS, LINEAR) and 0 <= node["padding"] < side == window)
            want(f"window of {n}", node["row"] == -(-side * shape[0] // 4) * 4 and max(sides) << doublings < LARGEST // 2)
            end = node["first_weight"] + (prod(sides) if linear else 4**halvings) * channels * side * node["row"]
            want(f"weights of {n}", node["first_weight"] >= 0 and end <= len(self.weights) - SPARE and node["group"] > 0)

    def check_places(self, n, node, want):
        """The same of a PLACED link."""
        (channels, height, width), side, row = self.shapes[node["source"]], node["side"], node["row"]
        first, count = node["first_place"], 3 * (height + width)
        want(f"places of {n}", 0 <= first <= len(self.places) - count)
        phases, corners, skipped = self.places[first : first + count].reshape(-1, 3).T.astype(np.int64)
        want(f"places of {n}", min(phases) >= -1 and max(abs(corners)) < LARGEST // 2)
        want(f"places of {n}", 0 <= min(skipped) <= max(skipped) <= side)
        phases = max(phases[:height]) + max(phases[height:]) + 1
        end = node["first_weight"] + phases * channels * side * row
        want(f"weights of {n}", node["first_weight"] >= 0 and end <= len(self.weights) - SPARE and node["group"] > 0)
        want(f"window of {n}", side > 0 and row == -(-side * self.shapes[n][0] // 4) * 4)

    def network(self):
        """The Network, which holds on to its arrays. Raises ModelError as check does."""
        self.check()
        names = "".join(f"{name}\0" for name in self.names).encode()
        pointers = {name: getattr(self, name) for name in ("order", "places", "constants", "weights")} | {"node": self.nodes}
        network = Network(**self.header, **{name: array.ctypes.data for name, array in pointers.items()})
        network.held = *pointers.values(), names
        return network


def parts_of(model):
    """The setting that names a part -> that by which FORMS finds it."""
    return {name: type(getattr(model, name)) for name in model.parts} | {
        "encoding": ENCODINGS.find(model.settings["encoding"]).send
    }


def unknown_part(model):
    """(setting, its value) of the first part of a model that the kernel has no form of, or None."""
    found = parts_of(model).items()
    return next(((name, model.settings[name]) for name, part in found if part not in FORMS[name]), None)


def own_settings(model):
    """A model's settings, with those of its parts as they are now: a part may have been changed in place."""
    return model.settings | vars(model.gate) | vars(model.rule) | vars(model.readout)


def settings_of(model):
    """The Settings of a model as they are now."""
    own, parts, whole = own_settings(model), parts_of(model), whole_form(model)
    kinds = dict(Settings._fields_)
    values = {name: own.get(name) or 0 for name in OF_PARTS}
    values |= {name: FORMS[name][parts[name]] for name in ("rule", "readout", "encoding")}
    values |= {
        "dynamic": model.gate.reopens, "feedback": model.has_feedback, "immediate": own["update"] != "delayed",
        "timesteps": model.latency, "phase": model.timesteps * model.phased,
        "decoded_scale": whole.decoded_unit if whole else 1, "logits_scale": whole.output.unit if whole else 1,
    }  # fmt: skip
    return Settings(**{name: float(value) if kinds[name] is kinds["epsilon"] else int(value) for name, value in values.items()})


class Graph:
    """Nodes, links and the order in which they run. nodes: fields of NODE, and shape, and factor: what the weights behind it are
    multiplied by; links: node -> Folded, of those that weights lead to. compact: see above; whole: in whole numbers; counting:
    each module behind others has a map of what reaches it, a node, too."""

    def __init__(self, model, compact=False, whole=False, counting=False):
        self.compact, self.whole, self.links, self.relays = compact, whole, {}, {}  # relays: (source, modules) -> node
        self.forward, self.feedback, wiring = [], [], model.wiring
        self.nodes = [{"kind": NEURONS, "shape": shape, "factor": 1} for shape in wiring.shapes]
        self.nodes[wiring.output]["kind"] = OUTPUT
        self.pools = {pool.source: pool.target for pool in wiring.pools}
        for pool in wiring.pools:
            counts = isinstance(model.get_submodule(pool.name), CountingMaxPool)
            self.nodes[pool.target] |= {"kind": COUNTING_POOL if counts else POOL, "source": pool.source}
        for one in wiring.forward:
            self.lead(one.source, tuple(one.modules), one.target, self.forward)
        for one in wiring.feedback:
            source, modules = one.source, tuple(one.modules)
            if source == wiring.forked:
                source, modules = self.behind_relays(source, modules)
            self.lead(source, modules, one.target, self.feedback)
        if model.has_feedback:
            self.nodes[wiring.decoded]["kind"] = DECODED
            if (last := self.feedback[-1]) != wiring.decoded:  # a read-out that counts spikes
                self.nodes[wiring.decoded] |= {"source": last, "link": SAME}
                self.feedback.append(wiring.decoded)
        self.maps = len(self.nodes)
        for target, one in list(self.links.items()) if counting else ():
            for count in range(1, len(one.modules)):
                self.map_behind(one, count, target)

    def behind_relays(self, source, modules):
        """(the last relay that these modules share with what there is, the modules behind it)"""
        for (begin, passed), relay in self.relays.items():
            if begin == source and modules[: len(passed)] == passed:
                return self.behind_relays(relay, modules[len(passed) :])
        return source, modules

    def lead(self, source, modules, target, order):
        """From a node through linear modules to another, and on through its maximum pools."""
        *first, last = self.parts(source, modules)
        for part in first:
            source = self.relay(source, part, order)
        self.link(source, last, target, order)
        while target in self.pools:
            target = self.pools[target]
            order.append(target)

    def relay(self, source, modules, order):
        """A new node behind these modules."""
        new, shape = len(self.nodes), self.nodes[source]["shape"]
        for module in modules:
            shape = shape_after(module, shape)
        self.nodes.append({"kind": RELAY, "shape": shape, "factor": 1})
        self.relays[source, modules] = new
        if all(isinstance(module, nn.AvgPool2d) for module in modules):
            factor = self.nodes[source]["factor"] * prod(1 / (module.divisor_override or 4) for module in modules)
            self.nodes[new] |= {"source": source, "link": SAME, "halvings": len(modules), "factor": factor}
            order.append(new)
        else:
            self.link(source, modules, new, order)
        return new

    def link(self, source, modules, target, order):
        """From a node to another by the weights of these modules."""
        one = Folded(source, self.nodes[source]["shape"], target, list(modules), self.nodes[target]["shape"])
        self.nodes[target] |= {"source": source, "link": LINEAR if one.is_linear else WINDOWS, "halvings": one.halvings,
                               "doublings": one.doublings, "padding": one.padding, "side": one.side, "row": one.row,
                               "group": one.group}  # fmt: skip
        self.links[target] = one
        order.append(target)

    def map_behind(self, one, count, target):
        """A new node that is reached through the first `count` modules of a connection, by the size of their weights; it runs
        before the connection's target."""
        modules = copy.deepcopy(nn.Sequential(*one.modules[:count]))
        for parameter in modules.parameters():
            parameter.data.abs_()
        self.nodes.append({"kind": MAP, "shape": one.sizes()[count], "factor": 1})
        order = self.forward if target in self.forward else self.feedback
        at = order.index(target)
        self.link(one.source, modules, len(self.nodes) - 1, order)
        order.insert(at, order.pop())

    def parts(self, source, modules):
        """These modules, cut where relays stand, so that there are the fewest weights."""
        if not self.compact:
            return [modules]
        shapes, best = [self.nodes[source]["shape"]], {len(modules): (0, 0, [])}  # of modules[i:]: weights, how many parts, these
        for module in modules:
            shapes.append(shape_after(module, shapes[-1]))
        for i in reversed(range(len(modules))):
            found = []
            for j in range(i + 1, len(modules) + 1):
                part, (size, count, rest) = modules[i:j], best[j]
                pools = j < len(modules) and all(isinstance(module, nn.AvgPool2d) for module in part)
                if pools or j == i + 1 or not self.whole:
                    own = 0 if pools else Folded(source, shapes[i], source, list(part), shapes[j]).size
                    found.append((own + size, 1 + count, [part, *rest]))
            best[i] = min(found, key=lambda one: one[:2])
        return best[0][2]


def graph_of(model, compact=False, counting=False):
    """The Graph of a model, without taking memory. Raises ModelError for a layer, or weights, that 32 bits do not number."""
    whole = whole_form(model) is not None
    graph = Graph(model, compact or whole, whole, counting)
    neurons, weights = max(prod(node["shape"]) for node in graph.nodes), sum(one.size for one in graph.links.values())
    for what, size in (("neurons of a layer,", neurons), ("weights, as they are folded,", weights)):
        if size + SPARE > LARGEST:
            raise ModelError(f"the event engine numbers at most {LARGEST:,} {what} not {size:,}")
    return graph


def whole_form(model):
    """The WholeForm of a network in whole numbers, else None."""
    return model.whole_form() if hasattr(model, "whole_form") else None


def table_of(model, graph):
    """The nodes of a Graph, NODE (N,), but for where their weights and biases begin."""
    own, nodes = own_settings(model), np.zeros(len(graph.nodes), NODE)
    sends_values = has_colour(model.image_shape[0]) or own.get("residual") or own["encoding"] == "direct"
    for n, (node, known) in enumerate(zip(nodes, graph.nodes, strict=True)):
        for name in known.keys() & set(NODE.names):
            node[name] = known[name]
        node["channels"], node["height"], node["width"] = known["shape"]
        node["valued"] = known["kind"] == RELAY or (n == 0 and sends_values)
        node["depth"] = model.wiring.depths.get(n, 0)
    return nodes


def lay_out(model, compact=False, counting=False):
    """The Tables of an SNN, in evaluation, with its present weights, thresholds and leaks."""
    graph, whole, weights, biases, first_weight = graph_of(model, compact, counting), whole_form(model), [], [], 0
    nodes, wiring = table_of(model, graph), model.wiring
    constants = constants_of(model, len(nodes))
    first_bias, kind = constants.size, np.int8 if whole else np.float32
    for n, one in graph.links.items():
        nodes[n]["first_weight"] = first_weight
        weights.append((one.weights().ravel() * np.float32(graph.nodes[one.source]["factor"])).astype(kind))
        weights.append(np.zeros(-one.size % LINE, kind))  # the next begin with a line of the cache, too
        first_weight += one.size + -one.size % LINE
        if one.bias is not None and n < graph.maps:
            nodes[n]["first_bias"] = first_bias
            biases.append(one.bias.detach().numpy().astype(constants.dtype))
            first_bias += len(biases[-1])
    weights.append(np.zeros(SPARE, kind))
    weights = np.concatenate(weights, out=line_of_bytes(sum(each.nbytes for each in weights)).view(kind))
    order, constants = np.array([*graph.forward, *graph.feedback], np.int32), np.concatenate([constants.ravel(), *biases])
    shapes = [node["shape"] for node in graph.nodes]
    header = {
        "layers": len(wiring.names), "nodes": len(graph.nodes), "forward": len(graph.forward), "feedback": len(graph.feedback),
        "output": wiring.output, "decoded": wiring.decoded, "colour": int(has_colour(model.image_shape[0])),
        "counting": int(counting), "rows": max(one.met for one in graph.links.values()),
    }  # fmt: skip
    tables = Tables(header, nodes, order, constants, weights, wiring.names, shapes, graph.links, wiring.pools, graph.maps)
    if whole:
        model.mark_bounds(tables)
    return tables


def line_of_bytes(size):
    """So many bytes, not filled in, from a line of the cache on: vectors that lie across two are read at half the speed."""
    room = np.empty(size + LINE, np.uint8)
    first = -room.ctypes.data % LINE
    return room[first : first + size]


def constants_of(model, nodes):
    """threshold, leak, start, floor, ceiling of each node, (nodes, 5) float32; in whole numbers int32, and the leak in parts."""
    whole, output = whole_form(model), model.wiring.output
    if whole:
        constants = np.tile(np.int32([1, whole.shares, 0, -whole.largest, whole.largest]), (nodes, 1))
        for n, one in [*enumerate(whole.neurons.values(), 1), (output, whole.output)]:
            constants[n] = one.threshold, one.kept, one.start, one.lowest, one.highest
        return constants
    constants = np.tile(np.float32([1, 1, 0, LOWEST, HIGHEST]), (nodes, 1))
    constants[output, 1] = model.settings["output_leak"]
    for n, neuron in enumerate(model.neurons().values(), 1):
        lowest = LOWEST if neuron.floor is None else (-neuron.floor * neuron.threshold).item()
        constants[n, :4] = neuron.threshold.item(), neuron.leak.item(), neuron.rest.item(), lowest
    return constants
