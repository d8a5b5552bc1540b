"""A network as network.c reads it: the tables of layout.h and its weights, for a C compiler or for a page.

In the compact form a chain of linear modules is not folded into one where that needs more weights: a relay stands between them,
which adds up what reaches it in a step and passes it on. A network in whole numbers (load(..., weights="int8")) has its own
scale for each module, so each is a link of its own; average pools add up, without weights, in both.
"""

from math import prod
from typing import NamedTuple

import numpy as np
from torch import nn

from harness import UserError
from self_models.basics.images import has_colour
from self_models.fast.event.compiled.parts import FORMS
from self_models.fast.event.network import Folded
from self_models.fast.event.settings import NUMBERS, parts_of
from self_models.integers import LARGEST, SHARES, IntegerSNN, whole_form
from self_models.network.neurons import CountingMaxPool
from self_models.network.wiring import check_known, shape_after
from self_models.objectives.readouts import Membrane, MembraneLinear, MembraneRescaled, SpikeCount, SpikeCountRescaled
from self_models.objectives.stopping import AllPredicted, Both, Confidence, Entropy, Never

NEURONS, OUTPUT, DECODED, RELAY, POOL, COUNTING_POOL, WAITING = range(7)  # as in layout.h
WINDOWS, LINEAR, SAME = range(3)
READOUTS = (SpikeCount, SpikeCountRescaled, Membrane, MembraneLinear, MembraneRescaled)
RULES = (Never, Confidence, Entropy, AllPredicted, Both)  # as in network.h
NODE = np.dtype([(name, "i4") for name in (
    "kind", "link", "source", "height", "width", "channels", "halvings", "doublings", "padding", "side", "row", "valued",
    "first_v", "first_word", "first_place", "first_weight", "first_bias", "first_sent", "depth",
)])  # fmt: skip
LOWEST, HIGHEST = -np.finfo(np.float32).max, np.finfo(np.float32).max  # bounds of a potential that has none
WORD, ROWS = 32, 256  # bits of a word; windows of weights that network.c adds at once, at most
WHO = "--to c"


class Laid(NamedTuple):
    """header, settings: field of layout.h -> number, in its order; nodes: NODE (N,); order (M,); constants, weights: float32, or
    int32 and int8 in whole numbers; names: of the layers; sizes: macro of weights.h -> number; links: node -> Folded."""

    header: dict
    nodes: np.ndarray
    order: np.ndarray
    constants: np.ndarray
    settings: dict
    weights: np.ndarray
    names: list
    sizes: dict
    links: dict


def check_exportable(model):
    """Raises UserError or ModelError for a part of the model that network.c does not know, by its name."""
    if not isinstance(model, IntegerSNN):  # which knows no other parts
        check_known(model, WHO)
        for name, part in parts_of(model).items():
            if part not in FORMS[name]:
                raise UserError(f"{WHO} does not know the {name} {model.settings[name]}: of gates it knows open and block")
    if model.frames:
        raise UserError(f"{WHO} takes images, and this network takes recordings of {model.frames} frames")


class Graph:
    """Nodes, links and the order in which they run. nodes: fields of NODE, and shape, and factor: what the weights behind it are
    multiplied by; links: node -> Folded, of those that weights lead to. compact: see above; whole: in whole numbers."""

    def __init__(self, model, compact, whole):
        self.compact, self.whole, self.links, self.relays = compact, whole, {}, {}  # relays: (source, modules) -> node
        self.forward, self.feedback, self.waiting, wiring = [], [], -1, model.wiring
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
                if model.feedback_interval > 1:
                    source = self.waiting = self.relay(source, (), self.forward, WAITING)
            self.lead(source, modules, one.target, self.feedback)
        if model.has_feedback:
            self.nodes[wiring.decoded]["kind"] = DECODED
            if (last := self.feedback[-1]) != wiring.decoded:  # a read-out that counts spikes
                self.nodes[wiring.decoded] |= {"source": last, "link": SAME}
                self.feedback.append(wiring.decoded)

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

    def relay(self, source, modules, order, kind=RELAY):
        """A new node behind these modules, or behind none, where what reaches it waits."""
        new, shape = len(self.nodes), self.nodes[source]["shape"]
        for module in modules:
            shape = shape_after(module, shape)
        self.nodes.append({"kind": kind, "shape": shape, "factor": 1})
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
                               "doublings": one.doublings, "padding": one.padding, "side": one.side, "row": one.row}  # fmt: skip
        self.links[target] = one
        order.append(target)

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


def laid_out(model, compact=False):
    """The Laid of an SNN, in evaluation. Raises UserError or ModelError as check_exportable does."""
    check_exportable(model)
    whole = whole_form(model) if isinstance(model, IntegerSNN) else None
    graph, wiring = Graph(model, compact or whole, whole), model.wiring
    own = model.settings | vars(model.gate) | vars(model.rule) | vars(model.readout)  # a part may have been changed in place
    colour, residual, direct = has_colour(model.image_shape[0]), bool(own.get("residual")), own["encoding"] == "direct"
    nodes, weights, biases = np.zeros(len(graph.nodes), NODE), [], []
    constants = (constants_in_whole if whole else constants_of)(model, len(nodes))
    dtype, first_w, first_bias = np.int8 if whole else np.float32, 0, constants.size
    sizes = {"POTENTIALS": 0, "WORDS": 0, "PLACES": 0, "SENT": 0}

    def take(name, size):
        sizes[name] += size
        return sizes[name] - size

    for n, (node, known) in enumerate(zip(nodes, graph.nodes, strict=True)):
        for name in known.keys() & set(NODE.names):
            node[name] = known[name]
        node["channels"], node["height"], node["width"] = known["shape"]
        places, kind = int(node["height"] * node["width"]), known["kind"]
        sums = kind in (RELAY, WAITING)
        node["valued"] = sums or (n == 0 and (colour or residual or direct))
        held = node["valued"] or (n > 0 and kind not in (POOL, COUNTING_POOL))
        node["first_v"] = take("POTENTIALS", prod(known["shape"])) if held else -1
        node["first_word"] = take("WORDS", 0 if kind in (OUTPUT, DECODED) else places * -(-int(node["channels"]) // WORD))
        node["first_place"] = take("PLACES", -(-places // WORD) * WORD if n > 0 else 0)
        counted = kind == COUNTING_POOL or any(one["kind"] == COUNTING_POOL and one["source"] == n for one in graph.nodes)
        node["first_sent"] = take("SENT", prod(known["shape"])) if counted else 0
        node["depth"] = wiring.depths.get(n, 0)
        if n in graph.links:
            one = graph.links[n]
            node["first_weight"] = first_w
            weights.append((one.weights().ravel() * np.float32(graph.nodes[one.source]["factor"])).astype(dtype))
            first_w += one.size
            if one.bias is not None:
                node["first_bias"] = first_bias
                biases.append(one.bias.detach().numpy().astype(constants.dtype))
                first_bias += len(biases[-1])
    sizes["POTENTIALS"] += 3  # which the zeros at a row's end reach
    sizes["DECAYED"] = sizes["PLACES"] if (constants[: wiring.output, 1] != constants[0, 1]).any() else 1
    sizes["SENT"] = max(1, sizes["SENT"])
    sizes |= {"NODES": len(nodes), "LAYERS": len(wiring.names), "PIXELS": prod(model.image_shape), "ROWS": ROWS}
    sizes |= {"CLASSES": model.settings["labels"], "TIMESTEPS": model.latency}
    order = np.array([*graph.forward, *graph.feedback], np.int32)
    header = {
        "layers": len(wiring.names), "nodes": len(nodes), "forward": len(graph.forward), "feedback": len(graph.feedback),
        "output": wiring.output, "decoded": wiring.decoded, "waiting": graph.waiting, "colour": colour,
        "immediate": own["update"] != "delayed", "encoding": direct, "readout": READOUTS.index(type(model.readout)),
        "residual": residual, "together": own.get("together"), "interval": model.feedback_interval, "timesteps": model.latency,
        "phase": model.timesteps * model.phased,
    }  # fmt: skip
    settings = {name: np.float32(own.get(name) or 0) for name in NUMBERS}
    scales = (whole.decoded_unit, whole.output.unit) if whole else (1, 1)
    settings |= dict(zip(("decoded_scale", "logits_scale"), map(np.float32, scales), strict=True))
    chosen = {"rule": RULES.index(type(model.rule)), "dynamic": model.gate.reopens, "latch": own.get("latch")}
    header, chosen = ({name: int(value or 0) for name, value in each.items()}
                      for each in (header, {**chosen, "feedback": model.has_feedback}))  # fmt: skip
    constants = np.concatenate([constants.ravel(), *biases])
    return Laid(header, nodes, order, constants, settings | chosen, np.concatenate(weights), wiring.names, sizes, graph.links)


def constants_of(model, nodes):
    """threshold, leak, start, floor, ceiling of each node, (nodes, 5) float32."""
    constants = np.tile(np.float32([1, 1, 0, LOWEST, HIGHEST]), (nodes, 1))
    constants[model.wiring.output, 1] = model.settings["output_leak"]
    for n, neuron in enumerate(model.neurons().values(), 1):
        lowest = LOWEST if neuron.floor is None else (-neuron.floor * neuron.threshold).item()
        constants[n, :4] = neuron.threshold.item(), neuron.leak.item(), neuron.rest.item(), lowest
    return constants


def constants_in_whole(model, nodes):
    """The same of a network in whole numbers, int32; the leak in SHARES."""
    form, constants = whole_form(model), np.tile(np.int32([1, SHARES, 0, -LARGEST, LARGEST]), (nodes, 1))
    for n, one in [*enumerate(form.neurons.values(), 1), (model.wiring.output, form.output)]:
        constants[n] = one.threshold, one.kept, one.start, one.lowest, one.highest
    return constants
