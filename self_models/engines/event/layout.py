"""A network's graph as the kernel's tables: nodes with their constants, links with folded weights, the order in which they run.

Each link of the graph is folded into one set of weights; one without modules adds what its source sends as it is. In the compact
form it is not folded where that needs more weights: a relay stands between the parts, which adds up what reaches it in a step
and passes it on. A network in whole numbers (load(..., weights="int8")) has its own scale for each module, so each is a link of
its own; average pools add up, without weights, in both. Further links to a node are nodes of their own that add into it, and a
synapse is a node before its neurons, which sends its current.
"""

import copy
from math import prod

import numpy as np
import torch
from torch import nn

from self_models.basics import ModelError
from self_models.engines.event.tables import (
    HIGHEST,
    LARGEST,
    LINE,
    LOWEST,
    NODE,
    SPARE,
    K,
    Tables,
    whole_form,
)
from self_models.engines.event.windows import WindowedChain
from self_models.guests.nir.neurons import AsElsewhere, Constants, Integrator, NIRNeuron
from self_models.guests.phased.timing import schedule_of
from self_models.layers.neurons import CountingMaxPool, SpikingNeuron, delayed
from self_models.runtime.graph import Link
from self_models.runtime.known_parts import has_form as is_known_layer
from self_models.runtime.outputs import INPUT

NEURONS = SpikingNeuron, NIRNeuron, Integrator, AsElsewhere  # that the kernel has
CACHE, NEAR = (
    2**18,
    3 * 2**16,
)  # floats of a link whose weights stay in the cache, and of a part of a larger one


class Layout:
    """nodes: fields of NODE, and shape, chain and neuron, by number: the input, the neurons that fire, the ends, then the rest;
    forward, feedback: numbers as they run. compact: see above; counting: each module behind others has a map of what reaches
    it, a node, too. Raises ModelError for what the kernel does not run."""

    def __init__(self, model, compact=False, counting=False):
        self.graph, self.whole = model.graph, whole_form(model)
        self.compact, self.numbers, self.nodes, self.relays = compact or self.whole, {}, [], {}
        graph = self.graph
        for name in model.layers:
            self.new(name, K.NEURONS)
        self.new("output", K.OUTPUT)
        if "decoded" in graph.ends:
            self.new("decoded", K.DECODED)
        self.nodes[0]["valued"] = model.has_analog_input
        for name in graph.pools:
            self.new(
                name,
                K.COUNTING_POOL if isinstance(graph.modules[name], CountingMaxPool) else K.POOL,
            )
        for name, module in graph.modules.items():
            if not getattr(module, "fires", True):
                self.new(name, K.INTEGRATOR, valued=1)
        links, done = {}, set()
        for link in graph.links:
            link = link._replace(chain=WindowedChain.of(link.chain))
            links.setdefault(link.target, []).append(link)
        self.forward, self.feedback = [], []
        for end in ("output", "decoded")[: len(graph.ends)]:
            self.order = self.forward if end == "output" else self.feedback
            wanted = {node.name for node in graph.required_nodes(end)} | {end}
            for target in [name for name in links if name in wanted - done]:
                self.reach(target, links[target])
            done |= wanted
        if lost := [name for name in (*graph.neuron_names, *graph.pools) if name not in done]:
            raise ModelError(f"node {lost[0]!r} leads to no end: it runs dense")
        self.maps = len(self.nodes)
        for n in range(self.maps) if counting else ():
            for count in range(
                1, len(self.nodes[n]["chain"].modules) if "chain" in self.nodes[n] else 0
            ):
                self.map_before(n, count)

    def new(self, name, kind, **more):
        """A new node, of the graph's node of this name."""
        self.numbers[name] = len(self.nodes)
        self.add(
            kind,
            self.graph.spatial_shapes[name],
            depth=schedule_of(self.graph).depths.get(name, 0),
            **more,
        )

    def add(self, kind, shape, **more):
        """The number of a new node."""
        number = len(self.nodes)
        self.nodes.append({"kind": kind, "shape": shape, "into": number, "factor": 1, **more})
        return number

    def reach(self, target, links):
        """Lay out what leads to a node, and the node itself."""
        n, neuron = self.numbers[target], self.graph.modules.get(target)
        if not isinstance(neuron, SpikingNeuron):
            if target in self.graph.pools:
                link, *more = links
                fires = link.source in self.graph.pools or getattr(
                    self.graph.modules.get(link.source), "fires", False
                )
                if more or link.through or link.is_back or not fires:
                    raise ModelError(
                        f"node {target!r} is a maximum pool of what is no spike: it runs dense"
                    )
                self.nodes[n]["source"] = self.numbers[link.source]
                self.order.append(n)
            else:
                self.charge(n, links)
            return
        theta, elsewhere = neuron.threshold, isinstance(neuron, AsElsewhere)
        constants = nir_constants(neuron)
        rest = tensor_of(neuron.rest)
        is_driven = bool(tensor_of(constants.drive).all())
        is_late = elsewhere and (neuron.subtracts or neuron.whole)
        sends_several = elsewhere and neuron.several
        subtracts_early = elsewhere and neuron.subtracts and not neuron.reset_delay
        for is_refused, why in (
            (sends_several, "sends several spikes in a timestep, as in sinabs"),
            (subtracts_early, "subtracts its threshold as snnTorch does with reset_delay=False"),
            (
                is_late and ((rest > theta).any() or (theta <= 0).any()),
                "begins above its threshold, and is reset later",
            ),
            (
                neuron.update is delayed and (theta < 0).any(),
                "fires before it is charged, and has thresholds below 0",
            ),
            (
                not neuron.fires and rest.any() and not is_driven,
                "sends V, which does not begin at 0",
            ),
            (
                constants.start is not None and (rest != rest.flatten()[0]).any(),
                "has neurons that begin at potentials of their own",
            ),
            (
                neuron.floor is not None and (theta <= 0).any(),
                "has a floor, and thresholds of 0 or below",
            ),
        ):
            if is_refused:
                raise ModelError(f"node {target!r} {why}: it runs dense")
        if elsewhere:
            self.nodes[n]["resets"] = K.RESET_NEXT_STEP if is_late else K.RESET_NEVER
        shape, natural, gain = (
            self.nodes[n]["shape"],
            self.graph.shapes[target],
            tensor_of(constants.gain),
        )
        if constants.synapse_leak is not None:
            gain = gain * tensor_of(constants.synapse_gain)
        gain = gain if gain.numel() == 1 else gain.expand(natural).reshape(shape)
        if (gain != 1).any():
            links = [link._replace(chain=link.chain.scaled(gain)) for link in links]
        self.nodes[n] |= {"neuron": neuron, "natural": natural}
        if constants.synapse_leak is not None:
            current = self.add(
                K.INTEGRATOR, shape, valued=1, leak=constants.synapse_leak, natural=natural
            )
            self.numbers[f"{target} current"] = current
            self.charge(current, links)
            links = [Link(f"{target} current", (), target, (), WindowedChain([], [shape]))]
        self.charge(n, links, neuron.update is delayed and neuron.fires)

    def charge(self, n, links, is_delayed=False):
        """The links of a node; it runs behind those that add into it, or before them, if it is delayed and fires before it is
        charged. The bias of a layer through which several links lead counts once."""
        node, counted = self.nodes[n], set()
        if len(shapes := {link.chain.after for link in links}) > 1:
            raise ModelError(
                f"a sum of signals of other shapes, {', '.join(map(str, sorted(shapes)))}: it runs dense"
            )
        targets = [
            n,
            *(
                self.add(K.ADDING, node["shape"], into=n, depth=node.get("depth", 0))
                for _ in links[1:]
            ),
        ]
        order = [*zip(links, targets, strict=True)]
        for link, target in order if is_delayed else [*order[1:], order[0]]:
            ways = [link.path[link.path.index(name) :] for name in link.through]
            biases = [way not in counted for way in ways] + [False] * (
                len(link.chain.modules) - len(ways)
            )
            counted.update(ways)
            self.lead(
                self.before(link) if link.is_back else self.numbers[link.source],
                link.chain,
                target,
                biases,
            )

    def before(self, link):
        """The node that sends in a timestep what the source of an edge back has sent in the one before: the source itself, if it
        runs later; else, and of potentials, which are charged in place, a relay that runs first."""
        source = self.numbers[link.source]
        if link.source == INPUT:
            raise ModelError(
                f"an edge back leads from the input to node {link.target!r}: it runs dense"
            )
        if self.nodes[source]["kind"] == K.NEURONS and source not in self.order:
            return source
        relay = self.add(
            K.RELAY, self.nodes[source]["shape"], valued=1, source=source, link=K.SAME
        )
        self.order.insert(0, relay)
        return relay

    def lead(self, source, chain, target, biases):
        """From a node by a WindowedChain to another, in as many parts as there are fewest weights. biases: of each module whether its own
        counts."""
        count, depth = 0, self.nodes[target].get("depth", 0)
        while relays := [
            (to, first)
            for (begin, first), to in self.relays.items()
            if begin == source and first == tuple(chain.modules[count:-1][: len(first)])
        ]:
            source, count = relays[0][0], count + len(relays[0][1])
            self.nodes[source]["depth"] = min(self.nodes[source]["depth"], depth)
        at = count
        for end in self.cuts(chain.part(count, len(chain.modules))):
            source, at = (
                self.relay(source, chain.part(at, count + end), biases[at : count + end]),
                count + end,
            )
            self.nodes[source]["depth"] = depth  # it gets its bias as the target does
        last = chain.part(at, len(chain.modules))
        self.link(source, last, target)
        self.add_bias(self.nodes[target]["into"], last.constant(biases[at:]))

    def add_bias(self, n, bias):
        if bias is not None and bias.any():
            node = self.nodes[n]
            node["bias"] = bias if "bias" not in node else by_place(node["bias"]) + by_place(bias)

    def relay(self, source, part, biases):
        """A new node behind these modules."""
        new = self.add(K.RELAY, part.after, valued=1)
        self.relays[source, tuple(part.modules)] = new
        if all(map(is_halving, part.modules)):
            factor = self.nodes[source]["factor"] * prod(
                1 / (module.divisor_override or 4) for module in part.modules
            )
            self.nodes[new] |= {
                "source": source,
                "link": K.SAME,
                "halvings": len(part.modules),
                "factor": factor,
            }
            self.order.append(new)
        else:
            self.link(source, part, new)
            self.add_bias(new, part.constant(biases))
        return new

    def link(self, source, chain, target):
        """From a node to another by the weights of a WindowedChain, or by its factor alone."""
        node = self.nodes[target]
        node |= {"source": source, "chain": chain}
        if chain.factor is None:
            group = max(1, NEAR // (chain.side * chain.row))
            group = (
                chain.before[0]
                if chain.count > 1 or chain.size <= CACHE
                else min(chain.before[0], group)
            )
            node |= {"link": K.PLACED, "side": chain.side, "row_size": chain.row, "group": group}
        else:
            node["link"] = K.SAME
        self.order.append(target)

    def map_before(self, n, count):
        """A new node that is reached through the first `count` modules of a node's chain, by the size of their weights; it runs
        before that node."""
        part = self.nodes[n]["chain"].part(0, count)
        modules = copy.deepcopy(part.modules)
        for module in modules:
            for parameter in module.parameters():
                parameter.data.abs_()
        self.order = self.forward if n in self.forward else self.feedback
        self.link(
            self.nodes[n]["source"],
            WindowedChain(modules, part.shapes),
            self.add(K.MAP, part.after),
        )
        self.order.insert(self.order.index(n), self.order.pop())

    def cuts(self, chain):
        """Behind how many of its modules relays stand, so that there are the fewest weights."""
        modules = chain.modules
        if not self.compact or not modules:
            return []
        best = {
            len(modules): (0, 0, [])
        }  # of modules[i:]: weights, how many parts, where they end
        for i in reversed(range(len(modules))):
            ways = []
            for j in range(i + 1, len(modules) + 1):
                size, count, rest = best[j]
                pools = j < len(modules) and all(is_halving(module) for module in modules[i:j])
                if pools or j == i + 1 or not self.whole:
                    ways.append(
                        ((0 if pools else chain.part(i, j).size) + size, 1 + count, [j, *rest])
                    )
            best[i] = min(ways, key=lambda way: way[:2])
        return best[0][2][:-1]


def has_form(module: nn.Module) -> bool:
    """Return whether the kernel has the form of a node of a GraphSNN.

    It has none of a class derived from these: nobody knows what that does.
    """
    return type(module) in NEURONS or is_known_layer(module)


def nir_constants(neuron: SpikingNeuron) -> Constants:
    """Return the constants of neurons; those of the core have none but the defaults."""
    return neuron.constants if isinstance(neuron, NIRNeuron) else Constants()


def is_halving(module):
    return (
        isinstance(module, nn.AvgPool2d)
        and module.kernel_size == module.stride == 2
        and module.padding == 0
    )


def tensor_of(value):
    return value.detach() if isinstance(value, torch.Tensor) else torch.tensor(float(value))


def by_place(values):
    """(C,) or (C, H, W) -> (C, H or 1, W or 1)"""
    return values if values.ndim > 1 else values[:, None, None]


def lay_out(model, compact=False, counting=False):
    """The Tables of an SNN, in evaluation, with its present weights, thresholds and leaks. Raises ModelError for what the kernel
    does not run."""
    layout = Layout(model, compact, counting)
    chains = {
        n: node["chain"] for n, node in enumerate(layout.nodes) if node.get("link") == K.PLACED
    }
    if (size := sum(chain.size for chain in chains.values())) + SPARE > LARGEST:
        raise ModelError(
            f"the event engine numbers at most {LARGEST:,} weights, as they are folded, not {size:,}"
        )
    whole, nodes = layout.whole, np.zeros(len(layout.nodes), NODE)
    constants, more = constants_of(model, layout, nodes)
    kind, weights, places, first_weight, first_place = (
        np.int8 if whole else np.float32,
        [],
        [np.zeros(0, np.int32)],
        0,
        0,
    )
    for n, known in enumerate(layout.nodes):
        for name in known.keys() & set(NODE.names):
            nodes[n][name] = known[name]
        nodes[n]["channels"], nodes[n]["height"], nodes[n]["width"] = known["shape"]
        if "link" not in known:
            continue
        nodes[n]["first_weight"], nodes[n]["first_place"] = first_weight, first_place
        if n in chains:
            factor = np.float32(layout.nodes[known["source"]]["factor"])
            values = (chains[n].folded_weights().ravel() * factor).astype(kind)
            places.append(chains[n].places.ravel())
            first_place += places[-1].size
        else:
            values = np.array([known["chain"].factor if "chain" in known else 1], kind)
        weights += [
            values,
            np.zeros(-values.size % LINE, kind),
        ]  # the next begin with a line of the cache, too
        first_weight += values.size + -values.size % LINE
    weights.append(np.zeros(SPARE, kind))
    weights = np.concatenate(weights)
    header = {
        "layers": len(model.layers),
        "nodes": len(nodes),
        "forward": len(layout.forward),
        "feedback": len(layout.feedback),
        "output": layout.numbers["output"],
        "decoded": layout.numbers.get("decoded", -1),
        "colour": int(model.has_colour),
        "counting": int(counting),
        "windows": max((chain.met for chain in chains.values()), default=1),
    }
    order, constants = (
        np.array([*layout.forward, *layout.feedback], np.int32),
        np.concatenate([constants.ravel(), *more]),
    )
    shapes, places = [node["shape"] for node in layout.nodes], np.concatenate(places)
    tables = Tables(
        header,
        nodes,
        order,
        constants,
        weights,
        model.layers,
        shapes,
        chains,
        layout.numbers,
        layout.maps,
        places,
    )
    if whole:
        model.mark_bounds(tables)
    return tables


def constants_of(model, layout, nodes):
    """(threshold, leak, start, floor, ceiling of each node, (nodes, 5) float32; in whole numbers int32, and the leak in parts;
    what comes behind them: biases, values to reset to, values of each neuron). Fills in where the latter begin, in the nodes."""
    whole, more, output = layout.whole, [], layout.numbers["output"]
    if whole:
        constants = np.tile(
            np.int32([1, whole.shares, 0, -whole.largest, whole.largest]), (len(nodes), 1)
        )
        for n, form in [
            *((layout.numbers[name], form) for name, form in whole.neurons.items()),
            (output, whole.output),
        ]:
            constants[n] = form.threshold, form.kept, form.start, form.lowest, form.highest
    else:
        constants = np.tile(np.float32([1, 1, 0, LOWEST, HIGHEST]), (len(nodes), 1))
        constants[output, 1] = model.output_leak

    def keep(values):
        """Where these constants begin."""
        more.append(np.ascontiguousarray(values, constants.dtype).ravel())
        return constants.size + sum(each.size for each in more[:-1])

    for n, known in enumerate(layout.nodes):
        neuron, bias, shape = (
            known.get("neuron") if not whole else None,
            known.get("bias"),
            known["shape"],
        )
        values = (
            (0, known["leak"], 0) if "leak" in known else (1, 1, 0)
        )  # threshold, leak, reset; a leak: of a synapse
        if neuron is not None:
            of_file = nir_constants(neuron)
            reset = 0 if of_file.reset is None else of_file.reset
            values = neuron.threshold if neuron.fires else 0, neuron.leak, reset
            constants[n, 2] = tensor_of(neuron.rest).flatten()[0].item()
            constants[n, 3] = (
                LOWEST
                if neuron.floor is None
                else (-neuron.floor * neuron.threshold).flatten()[0].item()
            )
            if neuron.fires and (of_file.reset is not None or getattr(neuron, "whole", False)):
                nodes[n]["first_reset"] = keep([tensor_of(reset).flatten()[0].item()])
            drive = of(of_file.drive, known["natural"], shape)
            always = (
                neuron.fires and neuron.threshold.min() < 0
            )  # they spike where nothing arrives
            bias = (
                drive + (0 if bias is None else by_place(bias)) if drive.any() or always else bias
            )
        own = [of(value, known.get("natural", shape), shape) for value in values]
        if "leak" in known or neuron is not None:
            constants[n, 0], constants[n, 1] = (
                own[0].flat[0],
                own[1].flat[0] if (own[1] == own[1].flat[0]).all() else 0,
            )
        differ = any((values != values.flat[0]).any() for values in own) or (
            bias is not None and prod(bias.shape[1:]) > 1
        )
        if differ:
            if (constants[n, 2] or constants[n, 3] != LOWEST) and (own[0] != own[0].flat[0]).any():
                raise ModelError(
                    "neurons with thresholds of their own that begin above 0, or have a floor: it runs dense"
                )
            nodes[n]["first_own"] = keep(
                np.stack([np.broadcast_to(values, shape).transpose(1, 2, 0) for values in own])
            )
        if bias is not None:
            bias = np.broadcast_to(by_place(bias), shape)
            nodes[n]["first_bias"] = keep(bias.transpose(1, 2, 0) if differ else bias[:, 0, 0])
    return constants, more


def of(value, natural, shape):
    """A neuron's value, (C, H, W) or one, in float32. natural: its shape in the network."""
    value = tensor_of(value).float()
    return (
        value.numpy().reshape(1, 1, 1)
        if value.numel() == 1
        else np.broadcast_to(value.numpy(), natural).reshape(shape)
    )
