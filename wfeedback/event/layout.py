"""A network's graph as nodes and links of the kernel, in the order in which they run.

`Layout` makes the nodes: those that the graph has by name, and those that only the
kernel has. The latter are

- relays, which add up what reaches them in a timestep, and pass on the sums: where a
  chain is split (see splitting.py), and before an edge back, which acts one timestep
  later;
- further links of a node: a node has one link that leads to it; any other link is a
  node of its own, of the kind ADDING, that adds into the same potentials;
- the current of a synapse, which is an integrator before its neurons;
- maps, which count events for the operations of a run.

Methods that add nodes to the order of a timestep take it as `run_list`: the list of
`RunOrder` at whose end the numbers of these nodes are appended.

`lay_out` then writes them into tables. Outside the compact form each link of the graph
is folded into one set of weights. A network in whole numbers is always compact, since
it has a scale for each layer.
"""

import copy
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from torch import nn

from self_models.errors import ModelError
from self_models.neurons.nir import AsElsewhere, Constants, Integrator, NIRNeuron
from self_models.neurons.spiking import CountingMaxPool, SpikingNeuron, delayed
from self_models.running.graph import Link
from self_models.running.known_layers import has_form as is_known_layer
from self_models.running.outputs import INPUT
from self_models.running.phased.schedule import schedule_of
from wfeedback.event.constants import by_place, constants_of, nir_constants, tensor_of
from wfeedback.event.splitting import fewest_weights, is_halving
from wfeedback.event.tables import LARGEST, LINE, NODE, SPARE, CountingMap, K, Tables, whole_form
from wfeedback.event.windows import WindowedChain

NEURONS = (SpikingNeuron, NIRNeuron, Integrator, AsElsewhere)  # classes that the kernel has
# Fields of a neuron's Constants that constants.py brings into the tables.
KNOWN_CONSTANTS = {"gain", "drive", "reset", "synapse_leak", "synapse_gain", "start"}
CACHED_WEIGHTS = 2**18  # floats of a link that stay in the cache as a whole
GROUP_WEIGHTS = 3 * 2**16  # floats of a group of channels of a larger link


@dataclass
class LayoutNode:
    """A node, and the link that leads to it, before they are in the tables.

    Fields that NetworkNode of network.h has, too, mean the same as there.

    Attributes
    ----------
    kind : int
        Constant of network.h, such as NEURONS.
    shape : (C, H, W)
        Of its neurons.
    into : int
        Node to whose potentials the link adds.
    depth, valued, halvings, side, row_size, group, resets : int
        See NetworkNode.
    source : int
        Node that sends.
    link : int or None
        SAME or PLACED; None where nothing is added, as for the input and for pools.
    chain : WindowedChain or None
        Layers of the link.
    factor : float
        What an event of this node is to be multiplied by. Below 1 behind average pools
        that only add up.
    neuron : SpikingNeuron or None
        Module of the neurons.
    natural : tuple of int or None
        Shape that the neurons have in the network.
    leak : Tensor or None
        Of the current of a synapse.
    bias : ndarray of float64, shape (C,) or (C, H, W), or None
        What is added in every timestep.
    """

    kind: int
    shape: tuple
    into: int
    depth: int = 0
    valued: int = 0
    source: int = 0
    link: int | None = None
    chain: WindowedChain | None = None
    halvings: int = 0
    side: int = 0
    row_size: int = 0
    group: int = 0
    resets: int = 0
    factor: float = 1
    neuron: SpikingNeuron | None = None
    natural: tuple | None = None
    leak: torch.Tensor | None = None
    bias: np.ndarray | None = None

    def add_bias(self, bias: np.ndarray | None) -> None:
        """Add a constant to what is added in every timestep; None adds nothing."""
        if bias is None or not bias.any():
            return
        if self.bias is None:
            self.bias = bias
        else:
            self.bias = by_place(self.bias) + by_place(bias)


# Fields of a LayoutNode that are copied into the tables as they are.
COPIED_FIELDS = (
    "kind",
    "into",
    "depth",
    "valued",
    "source",
    "halvings",
    "side",
    "row_size",
    "group",
    "resets",
)


@dataclass
class RunOrder:
    """Numbers of nodes, in the order in which they run in a timestep.

    Attributes
    ----------
    forward : list of int
        Those that lead to the logits.
    feedback : list of int
        Those of the decoder alone, which run after them.
    """

    forward: list = field(default_factory=list)
    feedback: list = field(default_factory=list)

    def list_with(self, n: int) -> list:
        """Return the list that has this node."""
        return self.forward if n in self.forward else self.feedback


class Layout:
    """The nodes and links of a network.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback or GraphSNN
        The network, in evaluation.
    compact : bool
        Split links where that needs fewer weights.
    counting : bool
        Add a map before each layer that comes behind others in a link. It counts what
        reaches that layer.

    Attributes
    ----------
    nodes : list of LayoutNode
        The input, the neurons that fire and the outputs first.
    order : RunOrder
        The order in which they run.
    numbers : dict of {str: int}
        Name in the graph -> node.
    maps : list of CountingMap
        The maps, which are the last nodes. Empty unless `counting`.
    whole : WholeForm or None
        Of a network in whole numbers.

    Raises
    ------
    ModelError
        For what the kernel does not run.
    """

    def __init__(self, model, compact: bool = False, counting: bool = False):
        self.graph = model.graph
        self.whole = whole_form(model)
        self.is_compact = bool(compact or self.whole)
        self.nodes = []
        self.numbers = {}
        self.order = RunOrder()
        self._relays = {}  # (source, modules between it and the relay) -> the relay
        self._add_named_nodes(model)
        self._add_links()
        self.maps = []
        if counting:
            for n in range(len(self.nodes)):  # those before any map
                self._add_maps(n)

    # --- nodes

    def _add_named_nodes(self, model):
        """Add the nodes that the graph has by name.

        They get their numbers in the order of these calls. The kernel relies on the
        beginning: node 0 is the input, and behind it follow the layers that spike, in
        the order of ``model.layers``.
        """
        graph = self.graph
        for name in model.layers:  # "input" is the first
            self._add_named(name, K.NEURONS)
        # If pixels are sent as they are, events of the input have values, not 1 each.
        input_node = self.nodes[0]
        input_node.valued = int(model.has_analog_input)
        self._add_named("output", K.OUTPUT)
        if "decoded" in graph.ends:
            self._add_named("decoded", K.DECODED)
        for name in graph.pools:
            counts = isinstance(graph.modules[name], CountingMaxPool)
            self._add_named(name, K.COUNTING_POOL if counts else K.POOL)
        for name, module in graph.modules.items():
            # Only neurons have `fires`. Those without a threshold, integrators, do not:
            # they send V itself, so their events have values.
            if not getattr(module, "fires", True):
                self._add_named(name, K.INTEGRATOR, valued=1)

    def _add_named(self, name, kind, valued=0):
        """Add the node that the graph has by this name."""
        depth = schedule_of(self.graph).depths.get(name, 0)
        self.numbers[name] = self._add(
            kind, self.graph.spatial_shapes[name], valued=valued, depth=depth
        )

    def _add(self, kind, shape, **fields):
        """Add a node, and return its number. `fields`: others of LayoutNode."""
        n = len(self.nodes)
        fields = {"into": n} | fields
        self.nodes.append(LayoutNode(kind, shape, **fields))
        return n

    # --- links

    def _add_links(self):
        """Add all links of the graph, and fill in the order in which nodes run.

        Each node runs once in a timestep, even where both ends need it, such as the
        encoder. It is then in the forward list, since the kernel leaves the feedback
        list out where the decoder is off. So the forward list is filled first, and the
        feedback list gets those nodes alone that are not in it.
        """
        graph = self.graph
        # graph.links has targets in the order in which they run; the dict keeps it.
        links_by_target = {}
        for link in graph.links:
            link = link._replace(chain=WindowedChain.of(link.chain))
            links_by_target.setdefault(link.target, []).append(link)

        run_lists = {"output": self.order.forward}
        if "decoded" in graph.ends:
            run_lists["decoded"] = self.order.feedback
        in_a_list = set()  # names of the nodes and ends that are in a run list
        for end, run_list in run_lists.items():
            needed = {node.name for node in graph.required_nodes(end)}
            needed.add(end)
            new = needed - in_a_list
            for target, links in links_by_target.items():
                if target in new:  # appended to `run_list`, one list of self.order
                    self._add_target(target, links, run_list)
            in_a_list |= new

        # A node that leads to no end is in neither list, so the kernel would not run
        # it, and would count no spikes of it. The dense engine does.
        for name in (*graph.neuron_names, *graph.pools):
            if name not in in_a_list:
                raise ModelError(f"node {name!r} leads to no end: it runs dense")

    def _add_target(self, target, links, run_list):
        """Add the links that lead to a node of the graph, and fill in the node."""
        if isinstance(self.graph.modules.get(target), SpikingNeuron):
            self._add_neurons(target, links, run_list)
        elif target in self.graph.pools:
            self._add_pool(target, links, run_list)
        else:  # an end
            self._charge(self.numbers[target], links, run_list)

    def _add_pool(self, target, links, run_list):
        """Add a maximum pool, which takes the spikes of one node as they are."""
        link = links[0]
        sender = self.graph.modules.get(link.source)  # None for the input
        takes_spikes = link.source in self.graph.pools or getattr(sender, "fires", False)
        takes_one_node_as_it_is = len(links) == 1 and not link.through and not link.is_back
        if not takes_spikes or not takes_one_node_as_it_is:
            raise ModelError(
                f"node {target!r} is a maximum pool of what is no spike: it runs dense"
            )
        n = self.numbers[target]
        self.nodes[n].source = self.numbers[link.source]
        run_list.append(n)

    def _add_neurons(self, target, links, run_list):
        """Fill in the node of some neurons, and add the links that charge it.

        Where neurons have a synapse, as in NIR, what arrives charges the synapse's
        current, and that current charges V. Then the current is a node of its own.

        Parameters
        ----------
        target : str
            Name of the neurons in the graph. Their node has been added already.
        links : list of Link
            The linear layers that lead to them from each sender.
        run_list : list of int
            The neurons' node is appended, and what has to run with it.

        Raises
        ------
        ModelError
            If the kernel does not have such neurons.
        """
        n = self.numbers[target]
        node = self.nodes[n]
        neuron = self.graph.modules[target]
        constants = nir_constants(neuron)  # what a NIR file adds: gain, drive and so on
        refuse_unknown_neurons(target, neuron, constants)
        node.neuron = neuron
        node.natural = self.graph.shapes[target]  # before _add_synapse(), which reads it
        node.resets = when_reset(neuron)
        gain = input_gain(constants)
        if gain.numel() > 1:  # one of each neuron
            gain = gain.expand(node.natural).reshape(node.shape)
        links = scaled_links(links, gain)
        if constants.synapse_leak is not None:
            # The links charge the current of the synapse, and it alone the neurons.
            links = [self._add_synapse(target, links, constants.synapse_leak, run_list)]
        fires_first = neuron.update is delayed and neuron.fires
        self._charge(n, links, run_list, fires_first)

    def _add_synapse(self, target, links, leak, run_list):
        """Add the current of a synapse, which these links charge; return its link."""
        node = self.nodes[self.numbers[target]]
        name = f"{target} current"
        current = self._add(K.INTEGRATOR, node.shape, valued=1, leak=leak, natural=node.natural)
        self.numbers[name] = current
        self._charge(current, links, run_list)
        chain = WindowedChain([], [node.shape])
        return Link(source=name, path=(), target=target, through=(), chain=chain)

    def _charge(self, n, links, run_list, fires_first=False):
        """Add the links that charge a node, and append what they need to a run list.

        In the tables a node has one link, which the kernel follows when the node runs.
        So the first link becomes the node's own. Each other link gets a node of the
        kind ADDING, which adds to the potentials of node n when it runs. With three
        links, and the ADDING nodes 8 and 9 for the second and the third, these run:

            8, 9, n     the node runs last, so all is added before it fires
            n, 8, 9     with `fires_first`: it fires, and then all is added

        Parameters
        ----------
        n : int
            Number of the node.
        links : list of Link
            The linear layers that lead to it from each sender, one link at least.
        run_list : list of int
            The nodes are appended here.
        fires_first : bool
            Whether neurons fire in a timestep before it charges them, as with the
            update "delayed".

        Raises
        ------
        ModelError
            If the links bring signals of several shapes, or one that the kernel does
            not have.
        """
        node = self.nodes[n]
        shapes = {link.chain.after for link in links}
        if len(shapes) > 1:
            texts = ", ".join(str(shape) for shape in sorted(shapes))
            raise ModelError(f"a sum of signals of other shapes, {texts}: it runs dense")

        own_link, *other_links = links
        others = []  # (link, the node that gets it)
        for link in other_links:
            adding = self._add(K.ADDING, node.shape, into=n, depth=node.depth)
            others.append((link, adding))
        in_run_order = [(own_link, n), *others] if fires_first else [*others, (own_link, n)]

        # Where several links share a bias, it counts with the one that runs first.
        counted = set()
        for link, target in in_run_order:
            bias_counts = which_biases_count(link, counted)
            counted.update(ways_to_target(link))
            if link.is_back:
                source = self._source_of_edge_back(link, run_list)
            else:
                source = self.numbers[link.source]
            # It appends relays, and then the target itself, to the run list. So the
            # targets run in the order of this loop.
            self._lead(source, link.chain, target, bias_counts, run_list)

    def _source_of_edge_back(self, link, run_list):
        """Return a node that holds what the source of an edge back sent a timestep ago.

        A node holds what it has sent until it runs again in the next timestep. So what
        a link takes from it depends on which of the two runs first:

        - Neurons that are not yet in the run list will run after this link. Until then
          they hold the spikes of the timestep before: the link takes these.
        - Neurons that are in the run list have run before this link, and hold the
          spikes of this timestep.
        - What sends its potentials may be charged by others before this link runs.

        For the latter two there is a relay. At the head of the run list it runs before
        all else, and takes over what the source holds from the timestep before.

        Parameters
        ----------
        link : Link
            A link with an edge back.
        run_list : list of int
            What runs before the link. A relay is put at its head.

        Returns
        -------
        int
            Number of the source itself, or of the relay.

        Raises
        ------
        ModelError
            For an edge back from the input.
        """
        if link.source == INPUT:
            raise ModelError(
                f"an edge back leads from the input to node {link.target!r}: it runs dense"
            )
        source = self.numbers[link.source]
        node = self.nodes[source]
        runs_later = source not in run_list
        if node.kind == K.NEURONS and runs_later:
            return source
        relay = self._add(K.RELAY, node.shape, valued=1, source=source, link=K.SAME)
        run_list.insert(0, relay)
        return relay

    def _lead(self, source, chain, target, bias_counts, run_list):
        """Lead from a node to another by a chain, and append what runs to a run list.

        Where the chain is split (see splitting.py), a relay stands between two parts.
        A chain of 4 layers that is split behind 1 and 3 becomes

            source -layer 0-> relay -layers 1, 2-> relay -layer 3-> target

        A relay is a node that adds up what reaches it in a timestep, and passes on the
        sums. Other links from the same source may have added some of these relays
        already. They are used again.

        The biases of a part go to the node at its end, once for all timesteps: to a new
        relay by `_add_relay`, and to the target here. Those of a relay that is used
        again are there since it was added.

        Parameters
        ----------
        source : int
            Number of the node that sends.
        target : int
            Number of the node that gets the link as its own: an ADDING node, whose link
            adds to the potentials of another node, ``into``; or the charged node
            itself, whose ``into`` is its own number.
        chain : WindowedChain
            Layers between them.
        bias_counts : list of bool
            Of each layer: whether its bias counts. False if another link to the same
            neurons adds it.
        run_list : list of int
            New relays are appended here, and then the target.
        """
        # In a phased network a node gets its bias in one phase of a timestep. Relays
        # that lead to the target get theirs in its phase, or in an earlier one if other
        # targets need them then.
        phase = self.nodes[target].depth
        # Relays that earlier links have added come first: num_passed counts the layers
        # of the chain that lie before the node that is reached.
        node, num_passed = self._follow_relays(source, chain, phase)

        # Each new relay runs before what it leads to, so it goes into the list first.
        for num_layers in self._places_of_relays(chain, num_passed):
            part = chain.part(num_passed, num_layers)
            node = self._add_relay(node, part, bias_counts[num_passed:num_layers])
            self.nodes[node].depth = phase
            run_list.append(node)
            num_passed = num_layers

        last_part = chain.part(num_passed, len(chain.modules))
        self._link(node, last_part, target)
        run_list.append(target)
        # An ADDING node has no potentials: its bias goes to the node that it adds to.
        charged = self.nodes[self.nodes[target].into]
        charged.add_bias(last_part.constant(bias_counts[num_passed:]))

    def _places_of_relays(self, chain, num_passed):
        """Return behind how many layers of a chain each new relay is to stand.

        Without ``is_compact`` there is none: a link then has all layers in one.

        Parameters
        ----------
        chain : WindowedChain
            All layers.
        num_passed : int
            Layers at its beginning that have their relay already.

        Returns
        -------
        list of int
            Ascending, between ``num_passed`` and the number of layers.
        """
        if not self.is_compact:
            return []
        rest = chain.part(num_passed, len(chain.modules))
        return [num_passed + place for place in fewest_weights(rest, bool(self.whole))]

    def _follow_relays(self, source, chain, depth):
        """Go from a node along relays that are there, as far as they fit a chain.

        Parameters
        ----------
        source : int
            Number of the node.
        chain : WindowedChain
            Layers that are to follow it. The last one is never before a relay here: it
            belongs to the link that leads to the target.
        depth : int
            Phase of the target. Relays on the way get their bias then, or before.

        Returns
        -------
        source : int
            The last relay that fits, or the node itself.
        start : int
            How many layers of the chain lie before it.
        """
        start = 0
        while True:
            found = self._find_relay(source, chain.modules[start:-1])
            if found is None:
                return source, start
            source, num_modules = found
            start += num_modules
            self.nodes[source].depth = min(self.nodes[source].depth, depth)

    def _find_relay(self, source, modules):
        """Return (relay, number of layers before it) behind a node; None without one.

        modules: layers that follow the node in a chain; the relay must be behind the
        first of them.
        """
        for (relay_source, relay_modules), relay in self._relays.items():
            num_modules = len(relay_modules)
            if relay_source == source and relay_modules == tuple(modules[:num_modules]):
                return relay, num_modules
        return None

    def _add_relay(self, source, part, bias_counts):
        """Add a relay behind the layers of a part of a chain, and return its number.

        A relay is a node that adds up what reaches it in a timestep, and passes on the
        sums. So what it sends has values. It is noted in ``self._relays``, by which
        `_find_relay` finds it for other chains that begin with the same layers.

        Parameters
        ----------
        source : int
            Number of the node that sends.
        part : WindowedChain
            The layers between the two.
        bias_counts : list of bool
            Of each layer: whether its bias is added to the relay.

        Returns
        -------
        int
            Number of the relay.
        """
        relay = self._add(K.RELAY, part.after, valued=1)
        node = self.nodes[relay]
        self._relays[source, tuple(part.modules)] = relay
        if all(is_halving(module) for module in part.modules):
            # Average pools of 2 x 2 places, which have no bias. They need no weights:
            # the relay, of half the height and width for each pool, adds up what lies
            # at its place (SAME). What pools divide by is in its `factor`, which
            # weights_of() multiplies into the weights of what follows.
            node.source = source
            node.link = K.SAME
            node.halvings = len(part.modules)
            num_places = 4  # of the window of such a pool
            shares = [1 / (module.divisor_override or num_places) for module in part.modules]
            node.factor = self.nodes[source].factor * prod(shares)
        else:
            self._link(source, part, relay)
            node.add_bias(part.constant(bias_counts))
        return relay

    def _link(self, source, chain, target):
        """Link a node to another, by the weights of a chain or by its factor alone."""
        node = self.nodes[target]
        node.source = source
        node.chain = chain
        if chain.factor is not None:
            node.link = K.SAME
        else:
            node.link = K.PLACED
            node.side = chain.side
            node.row_size = chain.row_size
            node.group = channels_together(chain)

    # --- counting

    def _add_maps(self, n):
        """Add a map before each layer of a node's link but the first.

        A map is a node that counts how often something reaches each neuron of a layer's
        input. Of its potentials only that matters: whether they are 0 in a timestep.
        For a link by the layers A, B, C there are two maps: behind A, before B, and
        behind A and B, before C. What reaches A itself is what the source sends. They
        run right before node n, and are noted in ``self.maps``.
        """
        node = self.nodes[n]
        if node.chain is None:
            return
        run_list = self.order.list_with(n)
        for num_before in range(1, len(node.chain.modules)):
            # The layers before the one whose inputs are counted.
            part = node.chain.part(0, num_before)
            # A copy with weights by their size: so a sum of 0 by chance counts, too. Of
            # their biases nothing is added to a map: they are no events.
            modules = copy.deepcopy(part.modules)
            for module in modules:
                for parameter in module.parameters():
                    parameter.data.abs_()
            new_map = self._add(K.MAP, part.after)
            self._link(node.source, WindowedChain(modules, part.shapes), new_map)
            run_list.insert(run_list.index(n), new_map)
            # With the layers of the network themselves, not with their copies.
            counted_up_to = tuple(node.chain.modules[: num_before + 1])
            self.maps.append(CountingMap(new_map, node.source, counted_up_to))


def ways_to_target(link: Link) -> list[tuple[str, ...]]:
    """Return for each layer of a link by which way its bias reaches the link's target.

    That is the names of the nodes from the layer on, for the layers of
    ``link.through``. Where the senders A and B lead to the layer C, and C to a node,
    there are two links to that node, A C and B C. But C adds its bias to their sum
    once: its way, (C,), is the same in both links. If C also leads there by a layer D,
    that is a second way, (C, D), and its bias arrives a second time.
    """
    return [link.path[link.path.index(name) :] for name in link.through]


def which_biases_count(link: Link, counted: set) -> list[bool]:
    """Return of each layer of ``link.chain`` whether its bias counts with this link.

    It does if no other link has counted it, that is, if its way (see `ways_to_target`)
    is not in ``counted``, the set of ways whose biases count already.
    """
    ways = ways_to_target(link)
    is_new = [way not in counted for way in ways]
    # Behind them may lie layers that this file has added, such as scales: no bias.
    num_added = len(link.chain.modules) - len(ways)
    return is_new + [False] * num_added


def input_gain(constants: Constants) -> torch.Tensor:
    """Return by what the current of neurons is multiplied, their synapse included."""
    gain = tensor_of(constants.gain)
    if constants.synapse_leak is not None:
        gain = gain * tensor_of(constants.synapse_gain)
    return gain


def scaled_links(links: list, gain: torch.Tensor) -> list:
    """Return links whose chains also multiply by a gain: one value, or (C, H, W)."""
    if (gain == 1).all():
        return links
    return [link._replace(chain=link.chain.scaled(gain)) for link in links]


def channels_together(chain: WindowedChain) -> int:
    """Return of how many source channels the weights stay in the cache together."""
    num_channels = chain.before[0]
    if chain.num_sets > 1 or chain.size <= CACHED_WEIGHTS:
        return num_channels
    return min(num_channels, max(1, GROUP_WEIGHTS // (chain.side * chain.row_size)))


# --- what the kernel has


def has_form(module: nn.Module) -> bool:
    """Return whether the kernel has the form of a node of a GraphSNN.

    It has none of a class derived from these: nobody knows what that does.
    """
    return type(module) in NEURONS or is_known_layer(module)


def refuse_unknown_neurons(name: str, neuron: SpikingNeuron, constants: Constants) -> None:
    """Raise ModelError if the kernel does not have such neurons.

    Parameters
    ----------
    name : str
        Name of their node in the graph, for the message.
    neuron : SpikingNeuron
        The neurons.
    constants : Constants
        Theirs, of a NIR file.
    """
    unknown = set(constants._fields) - KNOWN_CONSTANTS
    if unknown:  # else C would run the neuron without it
        raise ModelError(
            f"node {name!r} has the constant {min(unknown)}, which C does not know: it runs dense"
        )
    reason = why_not_run(neuron, constants)
    if reason:
        raise ModelError(f"node {name!r} {reason}: it runs dense")


def when_reset(neuron: SpikingNeuron) -> int:
    """Return when the kernel resets a neuron that has spiked: K.RESET_NOW and others.

    NOW is with the spike, as the network's own neurons are. Neurons as other simulators
    have them (AsElsewhere) are reset in the next timestep, after what arrives then, if
    they ``subtracts`` their threshold or lose the ``whole`` of V; else never.
    """
    if not isinstance(neuron, AsElsewhere):
        return K.RESET_NOW
    if neuron.subtracts or neuron.whole:
        return K.RESET_NEXT_STEP
    return K.RESET_NEVER


def why_not_run(neuron: SpikingNeuron, constants: Constants) -> str | None:
    """Return what of neurons the kernel does not run, or None if it runs them.

    In a timestep the kernel looks only at those places that something has reached. It
    takes it that V everywhere else neither spikes nor is sent. A bias, such as a
    constant ``drive``, reaches all neurons in each timestep.

    Parameters
    ----------
    neuron : SpikingNeuron
        The neurons.
    constants : Constants
        Theirs, of a NIR file.

    Returns
    -------
    str or None
        What goes on behind the name of the node in a message.
    """
    theta = neuron.threshold
    rest = tensor_of(neuron.rest)  # V before the first timestep
    if isinstance(neuron, AsElsewhere):
        reason = why_not_run_elsewhere(neuron, rest)
        if reason:
            return reason
    # V = 0 is above such a threshold. So a neuron may spike in its first timestep,
    # before anything, a bias included, has reached it.
    if neuron.update is delayed and (theta < 0).any():
        return "fires before it is charged, and has thresholds below 0"
    # Neurons without a threshold send V in each timestep, but the kernel only that of
    # places that were reached. For that, each neuron has to have a drive.
    is_driven = bool(tensor_of(constants.drive).all())
    if not neuron.fires and rest.any() and not is_driven:
        return "sends V, which does not begin at 0"
    # A node has one K.START for all its neurons.
    if constants.start is not None and (rest != rest.flatten()[0]).any():
        return "has neurons that begin at potentials of their own"
    # V is raised to its floor, -floor theta, where the kernel looks. If that is not
    # below 0, it has to be raised elsewhere, too.
    if neuron.floor is not None and (theta <= 0).any():
        return "has a floor, and thresholds of 0 or below"
    return None


def why_not_run_elsewhere(neuron: AsElsewhere, rest: torch.Tensor) -> str | None:
    """Return what of other simulators' neurons the kernel does not run, or None.

    rest: V before the first timestep.
    """
    if neuron.several:  # in the kernel a spike is one bit
        return "sends several spikes in a timestep, as in sinabs"
    if neuron.subtracts and not neuron.reset_delay:
        return "subtracts its threshold as snnTorch does with reset_delay=False"
    # Such neurons are reset for having been above theta a timestep ago. The kernel
    # takes the spikes of that timestep for it. That differs where V is above theta
    # without a spike: before the first timestep.
    theta = neuron.threshold
    is_reset_late = neuron.subtracts or neuron.whole
    if is_reset_late and ((rest > theta).any() or (theta <= 0).any()):
        return "begins above its threshold, and is reset later"
    return None


# --- the tables


def lay_out(model, compact: bool = False, counting: bool = False) -> Tables:
    """Lay out a network as tables, with its present weights, thresholds and leaks.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback or GraphSNN
        The network, in evaluation.
    compact : bool
        Split links where that needs fewer weights.
    counting : bool
        Have the kernel count events by neuron.

    Returns
    -------
    Tables
        What the kernel reads.

    Raises
    ------
    ModelError
        For what the kernel does not run.
    """
    layout = Layout(model, compact, counting)
    chains = {}
    for n, node in enumerate(layout.nodes):
        if node.link == K.PLACED:
            chains[n] = node.chain
    num_weights = sum(chain.size for chain in chains.values())
    if num_weights + SPARE > LARGEST:
        raise ModelError(
            f"the event engine numbers at most {LARGEST:,} weights, as they are folded, "
            f"not {num_weights:,}"
        )
    nodes = nodes_of(layout)
    # Both also write into `nodes` where the constants, or weights, of each node begin.
    constants = constants_of(model, layout, nodes)
    weights, places = weights_of(layout, nodes)
    header = {
        "layers": len(model.layers),
        "nodes": len(nodes),
        "forward": len(layout.order.forward),
        "feedback": len(layout.order.feedback),
        "output": layout.numbers["output"],
        "decoded": layout.numbers.get("decoded", -1),
        "colour": int(model.has_colour),
        "counting": int(counting),
        "windows": max((chain.max_windows for chain in chains.values()), default=1),
    }
    tables = Tables(
        header=header,
        nodes=nodes,
        order=np.array(layout.order.forward + layout.order.feedback, np.int32),
        constants=constants,
        weights=weights,
        names=model.layers,
        shapes=[node.shape for node in layout.nodes],
        chains=chains,
        numbers=layout.numbers,
        maps=layout.maps,
        places=places,
    )
    if layout.whole:
        model.mark_bounds(tables)
    return tables


def nodes_of(layout: Layout) -> np.ndarray:
    """Return the nodes of the tables, without where their weights and constants begin.

    Parameters
    ----------
    layout : Layout
        The nodes.

    Returns
    -------
    ndarray of NODE, shape (N,)
        NetworkNode of network.h. The fields ``first_...`` are 0: `weights_of` and
        `constants_of` fill them in.
    """
    nodes = np.zeros(len(layout.nodes), NODE)
    for node, fields in zip(layout.nodes, nodes, strict=True):
        # `fields` is a view of one row: what is set in it is set in `nodes`.
        for name in COPIED_FIELDS:
            fields[name] = getattr(node, name)
        if node.link is not None:  # of a node without a link nobody reads the field
            fields["link"] = node.link
        fields["channels"], fields["height"], fields["width"] = node.shape
    return nodes


def weights_of(layout: Layout, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fold the weights of all links, and note in the tables where those of each begin.

    Parameters
    ----------
    layout : Layout
        The nodes.
    nodes : ndarray of NODE
        The same nodes in the tables, which are changed: ``first_weight`` and
        ``first_place`` get the positions in the two arrays at which a node's link
        begins.

    Returns
    -------
    weights : ndarray of float32, or of int8 in whole numbers
        Link after link, with zeros in between: each begins at a multiple of LINE (64)
        weights. At the end lie SPARE zeros, since the kernel reads a little beyond the
        last weight. In whole numbers -127 to 127 each, which event/quantize.py takes
        care of.
    places : ndarray of int32
        Of each PLACED link: of each row and each column of its source three numbers,
        which say where its windows lie; see `WindowedChain.places`.
    """
    dtype = np.int8 if layout.whole else np.float32
    weights = []
    places = [np.zeros(0, np.int32)]  # so that there is an array without such links, too
    num_weights = 0
    num_places = 0
    for node, fields in zip(layout.nodes, nodes, strict=True):
        if node.link is None:
            continue
        fields["first_weight"] = num_weights  # `fields` is a view of a row of `nodes`
        fields["first_place"] = num_places
        values = link_weights(layout, node).astype(dtype)
        padding = np.zeros(-values.size % LINE, dtype)
        weights += [values, padding]
        num_weights += values.size + padding.size
        if node.link == K.PLACED:
            places.append(node.chain.places.ravel())
            num_places += places[-1].size
    weights.append(np.zeros(SPARE, dtype))
    return np.concatenate(weights), np.concatenate(places)


def link_weights(layout: Layout, node: LayoutNode) -> np.ndarray:
    """Return the weights of a node's link, one after another.

    Parameters
    ----------
    layout : Layout
        All nodes.
    node : LayoutNode
        One with a link.

    Returns
    -------
    ndarray of shape (number of weights,)
        A PLACED link has windows of folded weights. A SAME link, over which each neuron
        gets what the one at its place sends, has one number, by which that is
        multiplied.
    """
    if node.link == K.PLACED:
        # Average pools before the source may have added up without dividing: the
        # source's factor makes up for that.
        factor = np.float32(layout.nodes[node.source].factor)
        return node.chain.folded_weights().ravel() * factor
    return np.array([1 if node.chain is None else node.chain.factor])
