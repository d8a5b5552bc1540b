"""What the event engine counts beside spikes: which inputs of which linear module were not 0, for counting/operations.py.

The engine folds 2x2 layers away, but NeuroBench's operations are those of the layers one by one. So each linear module behind
another one gets a map of its inputs: an input counts as not 0 where a spike reaches it through weights that are not 0.
"""

import copy
from math import prod
from typing import NamedTuple

import numpy as np
from torch import nn

from self_models.fast.event.compiled.counts import ROWS, Activity
from self_models.fast.event.compiled.nets import FIRST_V, SOURCE, VALUED, WORD
from self_models.fast.event.network import node_table


class Inputs(NamedTuple):
    """Counts of inputs that were not 0, (C, H, W): where all of a step's inputs were -1 or 1, and in other steps; unread: of the
    first what a resting decoder did not take; unheard, unheard_other: of each what the layers behind the fork did not take, while
    they waited. steps: how many there were in all, of all images."""

    binary: np.ndarray
    other: np.ndarray
    unread: np.ndarray
    unheard: np.ndarray
    unheard_other: np.ndarray
    steps: int

    def heard(self, steps):
        """Those that were taken, in so many steps."""
        none = np.zeros_like(self.unheard)
        binary, other = self.binary - self.unheard, self.other - self.unheard_other
        return self._replace(binary=binary, other=other, unheard=none, unheard_other=none, steps=steps)


class Counted(NamedTuple):
    """modules: linear module -> Inputs; neurons: spiking layer, maximum pool or 'input' -> Inputs of what it feeds, which are its
    spikes."""

    modules: dict
    neurons: dict


def no_activity(net):
    """The Activity of runs in which nothing is counted."""
    return Activity(np.zeros((ROWS, 0), np.int64), net, np.zeros(len(net.nodes), np.bool_), 0)


def new_activity(layout):
    """An Activity of zeros that counts a Layout's inputs."""
    net, (maps, behind) = layout.net, befores(layout)
    shapes = [*layout.shapes, *(each.target_shape for each in maps)]
    nodes, entries = node_table(shapes), [0, *np.cumsum([prod(each.source_shape[1:]) for each in maps])]
    nodes[: len(net.nodes)] = net.nodes
    weights = [each.weights().ravel() for each in maps]
    firsts = [0, *np.cumsum([part.size for part in weights])]
    for node, each, first_w, entry in zip(nodes[len(net.nodes) :], maps, firsts, entries, strict=False):
        node[SOURCE : VALUED + 1] = each.source, each.side, each.source_shape[0], each.group, each.row, first_w, entry, 0
    phase, row, column = [np.concatenate(parts) for parts in zip(*(each.tables() for each in maps), strict=True)] or net[-3:]
    weights, leak = np.concatenate([*weights, np.zeros(WORD, np.float32)]), np.ones(len(nodes), np.float32)
    of_nodes = {"nodes": nodes, "leak": leak, "start": 0 * leak, "floor": np.full(len(nodes), -np.inf, np.float32)}
    with_maps = net._replace(**of_nodes, weights=weights, phase=phase, row=row, column=column)
    decoders = len(nodes) - sum(each.target in net.feedback for each in maps)
    late = [False] * len(net.nodes) + [may_wait(layout, *pair) for pair in zip(maps, behind, strict=True)]
    return Activity(np.zeros((ROWS, sum(map(prod, shapes))), np.int64), with_maps, np.array(late), decoders)


def may_wait(layout, connection, module):
    """Whether a module of a connection is behind the fork, and waits where the gate says so."""
    return layout.waits(connection.target) and not any(module is each for each in layout.early)


def befores(layout):
    """(for each module behind others the Connection of the modules before it, with the size of their weights; these modules)"""
    found, behind = [], []
    for connection in layout.connections:
        for count in range(1, len(connection.modules)):
            modules = copy.deepcopy(nn.Sequential(*connection.modules[:count]))
            for parameter in modules.parameters():
                parameter.data.abs_()
            shape = layout.signals[connection.target][count]
            found.append(connection._replace(modules=list(modules), target_shape=shape))
            behind.append(connection.modules[count])
    return found, behind


def counted_runs(layout, activity, steps, decodes, waited):
    """Counted for an Activity of this many steps of images, at `decodes` of which the decoder ran, and in `waited` of which the
    layers behind the fork did not."""
    modules, neurons, of_map = {}, {}, len(layout.shapes)
    before = (0, layout.net.forked) if layout.net.forked else ()  # which are no neurons, but do not wait

    def events(node, shape):
        first = activity.maps.nodes[node, FIRST_V]
        return (in_planes(row[first : first + prod(shape)], shape) for row in activity.events)

    for connection in layout.connections:
        for_decoder = connection.target in layout.net.feedback
        for module, shape in zip(connection.modules, layout.signals[connection.target], strict=True):
            behind = module is not connection.modules[0]
            inputs = Inputs(*events(of_map if behind else connection.source, shape), steps)
            of_map += behind
            if for_decoder:
                inputs = inputs._replace(binary=inputs.binary - inputs.unread, steps=decodes)
            elif may_wait(layout, connection, module):
                inputs = inputs.heard(steps - waited)
            modules.setdefault(module, inputs)  # the encoder's last modules feed the classifier, then the decoder
    pools = [(pool.target, pool.name) for pool in layout.pools]
    for node, name in (*enumerate(layout.names), *pools):
        waits = layout.waits(node) and node not in before
        inputs = Inputs(*events(node, layout.shapes[node]), decodes if node in layout.net.feedback else steps)
        neurons[name] = inputs.heard(steps - waited) if waits else inputs
    return Counted(modules, neurons)


def in_planes(values, shape):
    """(H W C,) -> (C, H, W)."""
    channels, height, width = shape
    return values.reshape(height, width, channels).transpose(2, 0, 1)
