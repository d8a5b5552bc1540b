"""In which phase each layer of a graph charges and fires."""

import functools

from self_models.networks.node_kinds import is_sender, passes
from self_models.neurons.spiking import SpikingNeuron
from self_models.running.outputs import INPUT


class PhaseSchedule:
    """The phase, from 0 on, in which each layer of a graph fires: its depth.

    A phase is T timesteps. A layer charges in the phase before it fires.

    Parameters
    ----------
    graph : Graph
        A network's graph, which does not change.
    """

    def __init__(self, graph):
        self.graph = graph

    @functools.cached_property
    def depths(self) -> dict[str, int]:
        """Number of links on the longest path from the input to each target of links.

        Maximum pools do not count, since they pass spikes on at once, nor do edges
        back.
        """
        graph = self.graph
        depths = {INPUT: 0}
        for link in graph.links:  # in the order in which targets run: sources come first
            if link.target in graph.pools or link.is_back:
                continue
            depth = depths[graph.before_pools(link.source)] + 1
            depths[link.target] = max(depths.get(link.target, 0), depth)
        return depths

    @property
    def phases(self) -> int:
        """Number of phases until all ends of the graph are complete."""
        counts = []
        for name, depth in self.depths.items():
            is_neuron = name != INPUT and name not in self.graph.ends
            if is_neuron:
                counts.append(depth + 1)  # after the phases before it, it fires in its own
            else:
                counts.append(depth)
        return max(counts)

    @functools.cached_property
    def early(self) -> list[str]:
        """Targets of a skip connection, which spikes reach before they charge.

        Such a target has a source that lies more than one link above it.
        """
        targets = set()
        for link in self.graph.links:
            if link.target not in self.depths:
                continue
            depth = self.depths[self.graph.before_pools(link.source)]
            if depth + 1 < self.depths[link.target]:
                targets.add(link.target)
        return sorted(targets)

    @functools.cached_property
    def before_neurons(self) -> set[str]:
        """Names of the linear nodes whose signal goes to neurons alone.

        Of such a node the sum over timesteps is enough, since the neurons that it leads
        to charge before they fire. It leads there directly, or through nodes that pass
        on what arrives as it is. Left out are nodes whose signal is needed in each
        timestep: an end of the graph, which is read then, and senders, that is neurons
        and maximum pools.
        """
        graph = self.graph
        neurons = {
            name for name, module in graph.modules.items() if isinstance(module, SpikingNeuron)
        }
        accepted = set()
        # From the last node to the first: the targets of a node have been looked at
        # before the node itself.
        for node in reversed(graph.nodes):
            targets = graph.targets[node.name]
            is_end = not targets or node.name in graph.ends.values()
            if is_end or is_sender(node.module):
                continue
            lead_to_neurons = []
            for target in targets:
                passes_on = target in accepted and passes(graph.modules[target])
                lead_to_neurons.append(target in neurons or passes_on)
            if all(lead_to_neurons):
                accepted.add(node.name)
        return accepted


def schedule_of(graph) -> PhaseSchedule:
    """Return a graph's schedule, which is computed once."""
    if "phases" not in graph.derived:
        graph.derived["phases"] = PhaseSchedule(graph)
    return graph.derived["phases"]
