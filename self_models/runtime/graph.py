"""A network as a graph: which module takes what from which, and one timestep of all.

Signals go along edges; where several lead to a node they are added. An edge that closes a circle acts one timestep later. Nodes
that send spikes, or values of their own (neurons, maximum pools), are senders; all linear modules from a sender, or the input, to
the next one, or to an end, are a link.
"""

import functools
import warnings
from functools import reduce
from itertools import pairwise
from math import prod
from operator import add
from typing import NamedTuple

from torch import nn

from self_models.basics import ModelError
from self_models.layers.neurons import HeldDropout, SpikingNeuron
from self_models.layers.node_kinds import has_state, is_sender, passes
from self_models.runtime.chains import Chain, placed, shape_after
from self_models.runtime.outputs import INPUT


class Node(NamedTuple):
    """sources: names of the nodes whose edges to it act in the same timestep; back: of those whose edges act one later."""

    name: str
    module: nn.Module
    sources: tuple
    back: tuple


class Link(NamedTuple):
    """What leads from a sender, or 'input', to a sender or an end. path: names of all nodes in between; through: of those that
    are linear and more than a Flatten; chain: these modules in a row; is_back: it acts one timestep later."""

    source: str
    path: tuple
    target: str
    through: tuple
    chain: Chain
    is_back: bool = False

    modules = property(lambda self: self.chain.modules)

    @property
    def bias(self):
        """That of the last module (C',), or None."""
        return getattr(self.modules[-1], "bias", None) if self.modules else None

    @property
    def end(self):
        """Name of the last module, or of the target where there is none."""
        return self.through[-1] if self.through else self.target


class Graph:
    """modules: name -> module; edges: (source, target), 'input' being what arrives in a timestep, of this shape; ends: name of an
    end -> the node whose signal it takes.

    It holds references: the network owns its modules. nodes: in an order in which each comes behind its sources; back: the
    edges that act one timestep later: those that a search from the input, depth first and by name, finds to close a circle.
    Raises ModelError for a node that nothing reaches."""

    def __init__(self, modules, edges, shape, ends):
        self.modules, self.shape, self.ends = dict(modules), tuple(shape), dict(ends)
        self.targets, edges = {name: [] for name in (INPUT, *self.modules)}, sorted({*edges})
        if wrong := sorted(
            {name for edge in edges for name in edge}.union(self.ends.values()) - {*self.targets}
        ):
            raise ModelError(
                f"an edge, or an end, asks for the node {wrong[0]!r}, which is not there: {', '.join(self.modules)}"
            )
        for source, target in edges:
            self.targets[source].append(target)
        finished, closing = searched(INPUT, self.targets)
        self.back = sorted(closing)
        around = {
            node: searched(INPUT, self.targets | {node: []})[0] for _, node in self.back
        }  # what is reached around a node
        if chosen := [
            f"{a!r} -> {b!r}" for a, b in self.back if a != b and a in around[b]
        ]:  # another entry
            warnings.warn(
                f"a circle has several entries; these edges act a timestep later: {', '.join(chosen)}",
                stacklevel=3,
            )
        if lost := [name for name in self.modules if name not in finished]:
            raise ModelError(
                f"node {lost[0]!r} is not reached from the input: no edge leads to it"
            )
        sources, back = ({name: [] for name in self.modules} for _ in range(2))
        for source, target in edges:
            (back if (source, target) in closing else sources)[target].append(source)
        order = [name for name in reversed(finished) if name != INPUT]
        self.nodes = [
            Node(name, self.modules[name], tuple(sources[name]), tuple(back[name]))
            for name in order
        ]
        self._node = {node.name: node for node in self.nodes}
        self.sent_back = sorted({source for source, _ in closing})
        self.derived = {}  # what engines and guests derive from it, by a name of their own

    # --- a timestep

    def step(self, memory, arriving):
        """One timestep: name of a node, or an end -> what it sends (B, ...). arriving: (B, *shape), at the input; memory: name ->
        state of a node, replaced in place; under of_back(name) what that node has sent in the timestep before, for edges back.
        In the first timestep that is what the node sends when nothing has arrived: biases."""
        sent = {INPUT: arriving}
        if self.sent_back and of_back(self.sent_back[0]) not in memory:
            quiet = self.quiet(arriving)
            memory |= {of_back(name): quiet[name] for name in self.sent_back}
        for node in self.nodes:
            name, module = node.name, node.module
            signal = self.arriving(node, sent, memory)
            if has_state(module):
                sent[name], memory[name] = module(signal, memory.get(name))
            else:
                sent[name] = module(signal)
        memory |= {of_back(name): sent[name] for name in self.sent_back}
        return sent | {end: sent[name] for end, name in self.ends.items() if name in sent}

    def arriving(self, node, sent, memory):
        """What arrives at a node. sent: name -> what those before it have sent; memory: as before the timestep."""
        return reduce(
            add,
            [
                *(sent[name] for name in node.sources),
                *(memory[of_back(name)] for name in node.back),
            ],
        )

    def quiet(self, arriving):
        """Name -> what a node, or an end, sends (B, ...) in a timestep in which neither the input nor neurons send: biases."""
        sent = {
            name: arriving.new_zeros(len(arriving), *shape) for name, shape in self.shapes.items()
        }
        for name, module, sources, back in self.nodes:
            if not has_state(module):
                sent[name] = module(reduce(add, (sent[source] for source in (*sources, *back))))
        return sent | {end: sent[name] for end, name in self.ends.items()}

    def masks(self, draws, device):
        """Name -> mask of a dropout that drops something, for a batch with these Draws: what a memory begins with."""
        dropouts = {
            name: module
            for name, module in self.modules.items()
            if isinstance(module, HeldDropout)
        }
        masks = {
            name: module.new_mask(draws, self.shapes[name], device)
            for name, module in dropouts.items()
        }
        return {name: mask for name, mask in masks.items() if mask is not None}

    def node(self, name):
        """Return the Node of this name."""
        return self._node[name]

    def needed(self, end):
        """The nodes that an end needs, in their order."""
        sources = {INPUT: ()} | {node.name: (*node.sources, *node.back) for node in self.nodes}
        wanted, _ = searched(self.ends[end], sources)
        return [node for node in self.nodes if node.name in wanted]

    # --- structure

    @functools.cached_property
    def shapes(self):
        """Name -> shape of what a node sends in a timestep. Raises ModelError where a node does not fit what arrives."""
        shapes = {INPUT: self.shape}
        for name, module, sources, _ in self.nodes:
            arriving = {shapes[source] for source in sources}
            if len(arriving) > 1:
                raise ModelError(
                    f"node {name!r}: the shapes of its sources differ: {', '.join(map(str, sorted(arriving)))}"
                )
            (shape,) = arriving
            try:
                shapes[name] = shape_after(module, shape)
            except ValueError as error:
                raise ModelError(
                    f"node {name!r} does not fit what arrives, {shape}: {error}"
                ) from None
        for source, target in self.back:
            taken = shapes[self._node[target].sources[0]]
            if shapes[source] != taken:
                raise ModelError(
                    f"the edge back from {source!r}, {shapes[source]}, does not fit node {target!r}, {taken}"
                )
        return shapes

    @functools.cached_property
    def neuron_names(self):
        """Names of the neurons, in the order in which the modules were given."""
        return [name for name, module in self.modules.items() if isinstance(module, SpikingNeuron)]

    @functools.cached_property
    def pools(self):
        """Names of the maximum pools, in the order in which they run."""
        return [node.name for node in self.nodes if isinstance(node.module, nn.MaxPool2d)]

    @functools.cached_property
    def links(self):
        """All Links, those to one target one after the other, edges back behind the others; targets in the order in which they
        run, ends last. Raises ModelError for a circle without a neuron, and for a Flatten of some dimensions alone."""
        return [link for links in self._placed_links[1].values() for link in links]

    @functools.cached_property
    def placed(self):
        """Name of a sender, or an end -> shape (C, H, W) in which its signal lies: behind a Flatten that of what is flattened."""
        return self._placed_links[0]

    @functools.cached_property
    def _placed_links(self):
        """(placed, target -> its Links)"""
        shapes, links = {INPUT: placed(self.shape)}, {}

        def link(target, source, path, is_back):
            modules = [self.modules[name] for name in path if not passes(self.modules[name])]
            chain = Chain.of_modules(modules, shapes[source], self.shapes[source])
            through = tuple(name for name in path if self.modules[name] in chain.modules)
            return Link(source, path, target, through, chain, is_back)

        targets = {
            node.name: self._paths_into(node, ()) for node in self.nodes if is_sender(node.module)
        }
        targets |= {end: self._paths_from(name, ()) for end, name in self.ends.items()}
        for target, signals in targets.items():
            links[target] = [link(target, *signal) for signal in signals if not signal[2]]
            shapes[target] = links[target][0].chain.after
            if target in self.pools:
                shapes[target] = shape_after(self.modules[target], shapes[target])
        for (
            target,
            signals,
        ) in targets.items():  # a source of an edge back may have been placed only now
            links[target] += [link(target, *signal) for signal in signals if signal[2]]
        return shapes, links

    def _paths_into(self, node, passed):
        """(sender, linear nodes behind it, whether an edge back lies among them) of all that arrives at a node."""
        signals = [
            signal for source in node.sources for signal in self._paths_from(source, passed)
        ]
        for source in node.back:
            for sender, through, is_back in self._paths_from(source, passed):
                if is_back:
                    raise ModelError(f"two edges back lie between {sender!r} and {node.name!r}")
                signals.append((sender, through, True))
        return signals

    def _paths_from(self, name, passed):
        """The same of all that a node sends. passed: linear nodes behind it, of which it is none."""
        if name == INPUT or is_sender(self.modules[name]):
            return [(name, (), False)]
        if name in passed:
            raise ModelError(f"node {name!r} lies in a circle without a neuron")
        return [
            (sender, (*path, name), back)
            for sender, path, back in self._paths_into(self._node[name], (*passed, name))
        ]

    # --- what follows from the links

    def before_pools(self, sender):
        """The neurons that fire what a sender sends: a maximum pool passes on the spikes of another."""
        while sender in self.pools:
            sender = next(link.source for link in self.links if link.target == sender)
        return sender

    def bias_before(self, name):
        """The first bias (C,) that goes to no node but this one at once, sums left aside, or None."""
        for source in self._node[name].sources:
            if self.targets[source] == [name]:
                module = self.modules.get(source)
                bias = (
                    self.bias_before(source) if passes(module) else getattr(module, "bias", None)
                )
                if bias is not None:
                    return bias
        return None

    @functools.cached_property
    def largest(self):
        """Numbers of the largest signal of a sender, or an end."""
        return max(
            prod(self.shapes[self.ends.get(name, name)])
            for name in (INPUT, *self.neuron_names, *self.pools, *self.ends)
        )


def of_back(name):
    """What the memory calls what this node sent, for an edge back."""
    return f"sent {name}"


def searched(first, targets):
    """(nodes that the first leads to, and itself, each behind its targets; edges that close a circle), depth first."""
    finished, closing, seen, stack = (
        {},
        set(),
        {first},
        [(first, iter(targets[first]))],
    )  # stack: the path
    while stack:
        name, rest = stack[-1]
        target = next(rest, None)
        if target is None:
            stack.pop()
            finished[name] = True
        elif target not in seen:
            seen.add(target)
            stack.append((target, iter(targets[target])))
        elif target not in finished:
            closing.add((name, target))
    return finished, closing


def chained(names, source=INPUT):
    """The edges of nodes each of which takes what the one before sends, the first the source's."""
    return list(pairwise([source, *names]))


def in_a_row(layers):
    """The Nodes of (name, module) pairs, each of which takes what the one before sends."""
    return [
        Node(name, module, (before,), ())
        for (before, _), (name, module) in pairwise([(INPUT, None), *layers])
    ]


def graph_of_stages(
    features: nn.Sequential,
    generate: nn.Sequential | None,
    classifier: nn.Sequential,
    shape: tuple[int, int, int],
) -> Graph:
    """Return the graph of a network's stages.

    Parameters
    ----------
    features : nn.Sequential
        The encoder. ``features.fork``: how many of its layers the decoder needs.
    generate : nn.Sequential or None
        The decoder, if there is one.
    classifier : nn.Sequential
        What follows the encoder, behind a Flatten.
    shape : tuple of int
        Of the images: (C, H, W).

    Returns
    -------
    Graph
        Its ends are 'output', and with a decoder 'decoded'.
    """
    encoder = named_layers("features", features)
    behind = {"flatten": nn.Flatten()} | named_layers("classifier", classifier)
    modules = encoder | behind
    ends = {"output": list(behind)[-1]}
    edges = chained([*encoder, *behind])
    if generate:
        decoder = named_layers("generate", generate)
        modules = encoder | decoder | behind
        ends["decoded"] = list(decoder)[-1]
        edges += chained(decoder, list(encoder)[features.fork - 1])
    return Graph(modules, edges, shape, ends)


def named_layers(name: str, stage: nn.Sequential) -> dict[str, nn.Module]:
    """Return a stage's layers by their names in the network, such as features.0."""
    return {f"{name}.{position}": layer for position, layer in stage.named_children()}
