"""A network as a graph: which module takes what from which, and one timestep of all.

Nodes are modules. A signal goes along each edge; where several edges lead to a node,
their signals are added. An edge that closes a circle, an edge *back*, acts one timestep
later.

Nodes that send spikes, or values of their own (neurons and maximum pools), are
*senders*. All linear modules on the way from a sender, or from the input, to the next
sender, or to an end of the graph, are a *link*.
"""

import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from math import prod
from operator import add
from typing import NamedTuple

import torch
from torch import nn

from self_models.errors import ModelError
from self_models.networks.node_kinds import has_state, is_sender, passes
from self_models.neurons.spiking import HeldDropout, SpikingNeuron
from self_models.running.chains import Chain, shape_after, spatial_shape
from self_models.running.draws import Draws
from self_models.running.outputs import INPUT
from self_models.running.state import GraphState

Shape = tuple[int, ...]
Edge = tuple[str, str]  # names of the source and the target


class Node(NamedTuple):
    """A node of a graph.

    Attributes
    ----------
    name : str
        Its name, such as "features.1".
    module : nn.Module
        What it computes.
    sources : tuple of str
        Names of the nodes whose edges to it act in the same timestep.
    back_sources : tuple of str
        Names of the nodes whose edges to it act one timestep later.
    """

    name: str
    module: nn.Module
    sources: tuple[str, ...]
    back_sources: tuple[str, ...]


class SignalPath(NamedTuple):
    """A way on which a signal reaches a node.

    Attributes
    ----------
    sender : str
        Name of the sender, or "input", where it begins.
    nodes : tuple of str
        Names of the linear nodes on the way, in order.
    is_back : bool
        Whether an edge back lies on it.
    """

    sender: str
    nodes: tuple[str, ...]
    is_back: bool


class Link(NamedTuple):
    """What leads from one sender to the next.

    Attributes
    ----------
    source : str
        Name of a sender, or "input".
    path : tuple of str
        Names of all nodes in between.
    target : str
        Name of a sender, or of an end of the graph.
    through : tuple of str
        Names of those nodes of ``path`` that compute something: neither a Flatten nor
        what passes on a signal as it is.
    chain : Chain
        The modules of ``through``, in a row.
    is_back : bool
        Whether it acts one timestep later.
    """

    source: str
    path: tuple[str, ...]
    target: str
    through: tuple[str, ...]
    chain: Chain
    is_back: bool = False

    @property
    def modules(self) -> list[nn.Module]:
        """The modules of ``through``."""
        return self.chain.modules

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias of the last module, (C,), or None."""
        if not self.modules:
            return None
        return getattr(self.modules[-1], "bias", None)

    @property
    def end(self) -> str:
        """Name of the last module, or of the target if there is no module."""
        if not self.through:
            return self.target
        return self.through[-1]


@dataclass
class Layout:
    """How signals lie in space between the senders of a graph.

    Attributes
    ----------
    spatial_shapes : dict of {str: (C, H, W)}
        Of the signal of each sender, "input" and each end: behind a Flatten the shape
        of what is flattened.
    links : dict of {str: list of Link}
        The links to each target.
    """

    spatial_shapes: dict[str, tuple[int, int, int]]
    links: dict[str, list[Link]] = field(default_factory=dict)


class Graph:
    """A network as a graph of modules.

    It refers to the modules: the network owns them.

    Parameters
    ----------
    modules : mapping of {str: nn.Module}
        The nodes, by name.
    edges : iterable of (str, str)
        Names of source and target. The source "input" is what arrives in a timestep.
    shape : sequence of int
        Shape of what arrives, without the batch.
    ends : mapping of {str: str}
        Name of an end of the graph -> name of the node whose signal it takes.

    Attributes
    ----------
    modules, shape, ends
        As the parameters.
    targets : dict of {str: list of str}
        To which nodes the edges of "input", and of each node, lead.
    nodes : list of Node
        In an order in which each node comes behind its sources.
    back : list of (str, str)
        The edges that act one timestep later: those that a search from the input, depth
        first and by name, finds to close a circle.
    back_senders : list of str
        Names of the nodes at which these edges begin.
    derived : dict
        What engines and others derive from the graph, under names of their own.

    Raises
    ------
    ModelError
        If an edge or an end names a node that does not exist, or nothing reaches a
        node.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        edges: Iterable[Edge],
        shape: Sequence[int],
        ends: Mapping[str, str],
    ):
        self.modules = dict(modules)
        self.shape = tuple(shape)
        self.ends = dict(ends)
        edges = sorted(set(edges))
        self._check_names(edges)
        self.targets = {name: [] for name in (INPUT, *self.modules)}
        for source, target in edges:
            self.targets[source].append(target)

        search = depth_first_search(INPUT, self.targets)
        self.back = sorted(search.closing_edges)
        ambiguous = [f"{a!r} -> {b!r}" for a, b in self.back if self._has_other_entry(a, b)]
        if ambiguous:
            warnings.warn(
                "a circle has several entries; these edges act a timestep later: "
                f"{', '.join(ambiguous)}",
                stacklevel=3,
            )
        for name in self.modules:
            if name not in search.finished:
                raise ModelError(
                    f"node {name!r} is not reached from the input: no edge leads to it"
                )

        self.nodes = self._sorted_nodes(edges, search)
        self._node_by_name = {node.name: node for node in self.nodes}
        self.back_senders = sorted({source for source, _ in self.back})
        self.derived = {}

    def _check_names(self, edges):
        """Raise ModelError if an edge, or an end, names a node that does not exist."""
        names = set(self.ends.values())
        for edge in edges:
            names.update(edge)
        unknown = sorted(names - {INPUT, *self.modules})
        if unknown:
            raise ModelError(
                f"an edge, or an end, asks for the node {unknown[0]!r}, "
                f"which is not there: {', '.join(self.modules)}"
            )

    def _has_other_entry(self, source, target):
        """Return whether an edge back closes a circle that has more than one entry.

        Then its source is reached without its target, and another edge of the circle
        could act a timestep later as well.
        """
        return source != target and source in self.reachable_without(target)

    def _sorted_nodes(self, edges, search):
        """Return the nodes, each behind its sources."""
        sources = {name: [] for name in self.modules}
        back_sources = {name: [] for name in self.modules}
        for source, target in edges:
            if (source, target) in search.closing_edges:
                back_sources[target].append(source)
            else:
                sources[target].append(source)
        nodes = []
        for name in reversed(search.finished):
            if name != INPUT:
                nodes.append(
                    Node(name, self.modules[name], tuple(sources[name]), tuple(back_sources[name]))
                )
        return nodes

    def reachable_without(self, name: str) -> set[str]:
        """Return the nodes that are reached from the input if one node sends nothing.

        Parameters
        ----------
        name : str
            Name of that node.

        Returns
        -------
        set of str
            Names; "input" and the node itself may be among them.
        """
        targets = self.targets | {name: []}
        return set(depth_first_search(INPUT, targets).finished)

    # --- a timestep

    def step(self, state: GraphState, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run one timestep of all nodes.

        Parameters
        ----------
        state : GraphState
            What the nodes keep from one timestep to the next. It is changed. In the
            first timestep an edge back brings what its source sends while nothing
            arrives: biases.
        signal : Tensor of shape (B, *shape)
            What arrives at the input.

        Returns
        -------
        dict of {str: Tensor of shape (B, ...)}
            What each node, each end and "input" sends.
        """
        outputs = {INPUT: signal}
        if self.back_senders and self.back_senders[0] not in state.previous_outputs:
            zero_input_response = self.zero_input_response(signal)
            for name in self.back_senders:
                state.previous_outputs[name] = zero_input_response[name]
        for node in self.nodes:
            node_input = self.node_input(node, outputs, state.previous_outputs)
            outputs[node.name] = run_node(node, node_input, state)
        for name in self.back_senders:
            state.previous_outputs[name] = outputs[name]
        for end, name in self.ends.items():
            outputs[end] = outputs[name]
        return outputs

    def node_input(
        self,
        node: Node,
        outputs: Mapping[str, torch.Tensor],
        previous_outputs: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Add up what arrives at a node.

        Parameters
        ----------
        node : Node
            The node.
        outputs : mapping of {str: Tensor of shape (B, ...)}
            What the nodes before it have sent in this timestep.
        previous_outputs : mapping of {str: Tensor of shape (B, ...)}
            What nodes with edges back have sent in the timestep before.

        Returns
        -------
        Tensor of shape (B, ...)
            The sum.
        """
        signals = [outputs[name] for name in node.sources]
        signals += [previous_outputs[name] for name in node.back_sources]
        return reduce(add, signals)

    def zero_input_response(self, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what nodes send while neither the input nor a neuron sends: biases.

        Parameters
        ----------
        signal : Tensor of shape (B, *shape)
            What could arrive; only its number, type and device count.

        Returns
        -------
        dict of {str: Tensor of shape (B, ...)}
            Of each node, each end and "input".
        """
        outputs = {}
        for name, shape in self.shapes.items():
            outputs[name] = signal.new_zeros(len(signal), *shape)
        for name, module, sources, back_sources in self.nodes:
            if not has_state(module):
                signals = [outputs[source] for source in (*sources, *back_sources)]
                outputs[name] = module(reduce(add, signals))
        for end, name in self.ends.items():
            outputs[end] = outputs[name]
        return outputs

    def draw_masks(self, draws: Draws, device: torch.device | str) -> dict[str, torch.Tensor]:
        """Draw the dropout masks of a batch.

        Parameters
        ----------
        draws : Draws
            Random numbers of the batch.
        device : torch.device or str
            Where the masks are needed.

        Returns
        -------
        dict of {str: Tensor of shape (B, ...)}
            By name of the dropout; none of one that drops nothing.
        """
        masks = {}
        for name, module in self.modules.items():
            if isinstance(module, HeldDropout):
                mask = module.new_mask(draws, self.shapes[name], device)
                if mask is not None:
                    masks[name] = mask
        return masks

    def node(self, name: str) -> Node:
        """Return the node of this name."""
        return self._node_by_name[name]

    def required_nodes(self, end: str) -> list[Node]:
        """Return the nodes without which an end would have another signal.

        Parameters
        ----------
        end : str
            Name of an end, such as "output".

        Returns
        -------
        list of Node
            In the order of ``nodes``.
        """
        sources = {INPUT: ()}
        for node in self.nodes:
            sources[node.name] = (*node.sources, *node.back_sources)
        required = depth_first_search(self.ends[end], sources).finished
        return [node for node in self.nodes if node.name in required]

    # --- structure

    @functools.cached_property
    def shapes(self) -> dict[str, Shape]:
        """Shape of what each node, and "input", sends for one image in a timestep.

        Returns
        -------
        dict of {str: tuple of int}
            Shapes without the batch.

        Raises
        ------
        ModelError
            If a node does not fit what arrives.
        """
        shapes = {INPUT: self.shape}
        for node in self.nodes:
            shapes[node.name] = self._shape_after(node, shapes)
        for source, target in self.back:
            expected = shapes[self.node(target).sources[0]]
            if shapes[source] != expected:
                raise ModelError(
                    f"the edge back from {source!r}, {shapes[source]}, "
                    f"does not fit node {target!r}, {expected}"
                )
        return shapes

    def _shape_after(self, node, shapes):
        """Return the shape of what a node sends; shapes: of what its sources send."""
        arriving = {shapes[source] for source in node.sources}
        if len(arriving) > 1:
            differing = ", ".join(str(shape) for shape in sorted(arriving))
            raise ModelError(f"node {node.name!r}: the shapes of its sources differ: {differing}")
        (shape,) = arriving
        try:
            return shape_after(node.module, shape)
        except ValueError as error:
            raise ModelError(
                f"node {node.name!r} does not fit what arrives, {shape}: {error}"
            ) from None

    @functools.cached_property
    def neuron_names(self) -> list[str]:
        """Names of the neurons, in the order in which the modules were given."""
        return [name for name, module in self.modules.items() if isinstance(module, SpikingNeuron)]

    @functools.cached_property
    def pools(self) -> list[str]:
        """Names of the maximum pools, in the order in which they run."""
        return [node.name for node in self.nodes if isinstance(node.module, nn.MaxPool2d)]

    @functools.cached_property
    def links(self) -> list[Link]:
        """All links; those to one target are neighbours, edges back behind the others.

        Returns
        -------
        list of Link
            Targets come in the order in which they run, ends last.

        Raises
        ------
        ModelError
            For a circle without a neuron, and for a Flatten of some dimensions alone.
        """
        links = []
        for links_to_target in self._layout.links.values():
            links += links_to_target
        return links

    @property
    def spatial_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Shape (C, H, W) in which the signal of each sender and each end lies.

        Returns
        -------
        dict of {str: (C, H, W)}
            Behind a Flatten the shape of what is flattened.
        """
        return self._layout.spatial_shapes

    @functools.cached_property
    def _layout(self):
        """The Layout of the graph."""
        paths = {}
        for node in self.nodes:
            if is_sender(node.module):
                paths[node.name] = self._paths_into(node, visited=())
        for end, name in self.ends.items():
            paths[end] = self._paths_from(name, visited=())
        layout = Layout({INPUT: spatial_shape(self.shape)})
        for target, paths_to_target in paths.items():
            self._lay_out_forward_links(layout, target, paths_to_target)
        # Edges back come last, since their sources have been laid out only now.
        for target, paths_to_target in paths.items():
            back_paths = [path for path in paths_to_target if path.is_back]
            layout.links[target] += [self._make_link(layout, path, target) for path in back_paths]
        return layout

    def _lay_out_forward_links(self, layout, target, paths):
        """Add the links to a target that act at once, and the target's shape."""
        forward_paths = [path for path in paths if not path.is_back]
        links = [self._make_link(layout, path, target) for path in forward_paths]
        shape = links[0].chain.after
        if target in self.pools:
            shape = shape_after(self.modules[target], shape)
        layout.links[target] = links
        layout.spatial_shapes[target] = shape

    def _make_link(self, layout, path, target):
        """Return the Link that a SignalPath to a target becomes.

        Of the nodes of the path, only those that compute something are part of the
        link's chain. Take the path dropout, conv, flatten, fc: the chain has conv and
        fc.

        Parameters
        ----------
        layout : Layout
            It has the spatial shape of the path's sender already.
        path : SignalPath
            Sender, and names of the linear nodes behind it.
        target : str
            Name of the sender, or of the end, to which the path leads.

        Returns
        -------
        Link
        """
        # Dropouts and identities give what they take, so they cannot change a shape.
        changing = [name for name in path.nodes if not passes(self.modules[name])]
        # Flattens are given to the chain, which follows the shapes through them, but it
        # does not keep them: they only number the same values in another way.
        chain = Chain.of_modules(
            [self.modules[name] for name in changing],
            before=layout.spatial_shapes[path.sender],
            network_shape=self.shapes[path.sender],
        )
        # So these are the names of chain.modules, in the same order.
        through = [name for name in changing if not isinstance(self.modules[name], nn.Flatten)]
        return Link(
            source=path.sender,
            path=path.nodes,
            target=target,
            through=tuple(through),
            chain=chain,
            is_back=path.is_back,
        )

    def _paths_into(self, node, visited):
        """Find the senders whose signal reaches a node, and the paths from them.

        visited: the linear nodes on the way from this node to the target, by which a
        circle is noticed.
        """
        paths = []
        for source in node.sources:
            paths += self._paths_from(source, visited)
        for source in node.back_sources:
            for path in self._paths_from(source, visited):
                if path.is_back:
                    raise ModelError(
                        f"two edges back lie between {path.sender!r} and {node.name!r}"
                    )
                paths.append(path._replace(is_back=True))
        return paths

    def _paths_from(self, name, visited):
        """Find the senders behind what a node sends, and the paths from them.

        Behind what a sender sends is the sender itself. visited: the linear nodes on
        the way from this node to the target, by which a circle is noticed.
        """
        if name == INPUT or is_sender(self.modules[name]):
            return [SignalPath(name, (), is_back=False)]
        if name in visited:
            raise ModelError(f"node {name!r} lies in a circle without a neuron")
        paths = []
        for path in self._paths_into(self.node(name), (*visited, name)):
            paths.append(path._replace(nodes=(*path.nodes, name)))
        return paths

    # --- what follows from the links

    def before_pools(self, sender: str) -> str:
        """Return the neurons that fire what a sender sends.

        A maximum pool passes on spikes of the neurons before it.

        Parameters
        ----------
        sender : str
            Name of a sender, or "input".

        Returns
        -------
        str
            The same name, or that of the neurons before the maximum pools.
        """
        while sender in self.pools:
            sender = next(link.source for link in self.links if link.target == sender)
        return sender

    def bias_before(self, name: str) -> torch.Tensor | None:
        """Return the bias of a linear module right before a node.

        Parameters
        ----------
        name : str
            Name of the node.

        Returns
        -------
        Tensor of shape (C,) or None
            The first bias that goes to this node alone, and to it at once, not by a
            node that adds up several signals.
        """
        for source in self.node(name).sources:
            if self.targets[source] != [name]:
                continue
            module = self.modules.get(source)
            if passes(module):
                bias = self.bias_before(source)
            else:
                bias = getattr(module, "bias", None)
            if bias is not None:
                return bias
        return None

    @functools.cached_property
    def largest_signal(self) -> int:
        """How many values the largest signal of a sender, or an end, has."""
        sizes = []
        for name in (INPUT, *self.neuron_names, *self.pools, *self.ends):
            node = self.ends.get(name, name)
            sizes.append(prod(self.shapes[node]))
        return max(sizes)


def run_node(node: Node, signal: torch.Tensor, state: GraphState) -> torch.Tensor:
    """Run one timestep of a node, and keep its state.

    Parameters
    ----------
    node : Node
        The node.
    signal : Tensor of shape (B, ...)
        What arrives at it.
    state : GraphState
        What the nodes of the graph keep. It is changed.

    Returns
    -------
    Tensor of shape (B, ...)
        What it sends.
    """
    if not has_state(node.module):
        return node.module(signal)
    states = state.masks if isinstance(node.module, HeldDropout) else state.layer_states
    output, states[node.name] = node.module(signal, states.get(node.name))
    return output


# --- how graphs are searched and built


@dataclass
class Search:
    """What a search of a graph has found.

    Attributes
    ----------
    finished : dict of {str: True}
        The nodes that were reached, each behind the nodes to which its edges lead.
    closing_edges : set of (str, str)
        The edges that close a circle.
    """

    finished: dict[str, bool] = field(default_factory=dict)
    closing_edges: set[Edge] = field(default_factory=set)


def depth_first_search(start: str, targets: Mapping[str, Iterable[str]]) -> Search:
    """Search a graph from one node on, depth first.

    Parameters
    ----------
    start : str
        Where to begin.
    targets : mapping of {str: iterable of str}
        Node -> where its edges lead.

    Returns
    -------
    Search
        What was reached, ``start`` among it.
    """
    search = Search()
    seen = {start}
    path = [(start, iter(targets[start]))]  # nodes on the way, and what is left of their edges
    while path:
        name, remaining = path[-1]
        target = next(remaining, None)
        if target is None:
            path.pop()
            search.finished[name] = True
        elif target not in seen:
            seen.add(target)
            path.append((target, iter(targets[target])))
        elif target not in search.finished:
            search.closing_edges.add((name, target))
    return search


def chain_edges(names: Iterable[str], source: str = INPUT) -> list[Edge]:
    """Return the edges of nodes in a row, which begins at a source.

    Parameters
    ----------
    names : iterable of str
        The nodes.
    source : str
        Where the row begins.

    Returns
    -------
    list of (str, str)
        One edge for each node.
    """
    return list(pairwise([source, *names]))


def nodes_in_a_row(layers: Iterable[tuple[str, nn.Module]]) -> list[Node]:
    """Return the nodes of layers in a row, the first of which takes the input.

    Parameters
    ----------
    layers : iterable of (str, nn.Module)
        Names and modules.

    Returns
    -------
    list of Node
        In the same order.
    """
    nodes = []
    source = INPUT
    for name, module in layers:
        nodes.append(Node(name, module, (source,), ()))
        source = name
    return nodes


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
    edges = chain_edges([*encoder, *behind])
    if generate:
        decoder = named_layers("generate", generate)
        modules = encoder | decoder | behind
        ends["decoded"] = list(decoder)[-1]
        edges += chain_edges(decoder, list(encoder)[features.fork - 1])
    return Graph(modules, edges, shape, ends)


def named_layers(name: str, stage: nn.Sequential) -> dict[str, nn.Module]:
    """Return a stage's layers by their names in the network, such as features.0."""
    return {f"{name}.{position}": layer for position, layer in stage.named_children()}
