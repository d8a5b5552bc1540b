"""What the event engine counts beside spikes: which inputs of which linear module were not 0, for counting/operations.py.

The engine folds 2x2 layers away, but NeuroBench's operations are those of the layers one by one. So each linear module behind
another one gets a map of its inputs: an input counts as not 0 where a spike reaches it through weights that are not 0.
"""

import copy
from math import prod
from typing import NamedTuple

import numpy as np
from torch import nn

from self_models.event.compiled.counts import Activity
from self_models.event.compiled.nets import FIRST_V, SOURCE, VALUED, WORD
from self_models.event.network import node_table


class Inputs(NamedTuple):
    """Counts of inputs that were not 0, (C, H, W): where all of a step's inputs were -1 or 1, and in other steps. steps: how
    many there were in all, of all images. unread: spikes that a resting decoder did not take, (C, H, W)."""

    binary: np.ndarray
    other: np.ndarray
    steps: int
    unread: np.ndarray


class Counted(NamedTuple):
    """modules: linear module -> Inputs; neurons: spiking layer, maximum pool or 'input' -> Inputs of what it feeds, which are its
    spikes."""

    modules: dict
    neurons: dict


def no_activity(net):
    """The Activity of runs in which nothing is counted."""
    return Activity(np.zeros((3, 0), np.int64), net, 0)


def new_activity(layout):
    """An Activity of zeros that counts a Layout's inputs."""
    net, maps = layout.net, befores(layout)
    shapes = [*layout.shapes, *(each.target_shape for each in maps)]
    nodes, entries = node_table(shapes), [0, *np.cumsum([prod(each.source_shape[1:]) for each in maps])]
    nodes[: len(net.nodes)] = net.nodes
    weights = [each.weights().ravel() for each in maps]
    firsts = [0, *np.cumsum([part.size for part in weights])]
    for node, each, first_w, entry in zip(nodes[len(net.nodes) :], maps, firsts, entries, strict=False):
        node[SOURCE : VALUED + 1] = each.source, each.side, each.source_shape[0], each.group, each.row, first_w, entry, 0
    phase, row, column = [np.concatenate(parts) for parts in zip(*(each.tables() for each in maps), strict=True)] or net[-3:]
    weights, leak = np.concatenate([*weights, np.zeros(WORD, np.float32)]), np.ones(len(nodes), np.float32)
    with_maps = net._replace(nodes=nodes, leak=leak, start=0 * leak, weights=weights, phase=phase, row=row, column=column)
    decoders = len(nodes) - sum(each.target in net.feedback for each in maps)
    return Activity(np.zeros((3, sum(map(prod, shapes))), np.int64), with_maps, decoders)


def befores(layout):
    """For each module behind others the Connection of the modules before it, with the size of their weights."""
    found = []
    for connection in layout.connections:
        for count in range(1, len(connection.modules)):
            modules = copy.deepcopy(nn.Sequential(*connection.modules[:count]))
            for parameter in modules.parameters():
                parameter.data.abs_()
            shape = layout.signals[connection.target][count]
            found.append(connection._replace(modules=list(modules), target_shape=shape))
    return found


def counted_runs(layout, activity, steps, decodes):
    """Counted for an Activity of this many steps of images, at `decodes` of which the decoder ran."""
    modules, neurons, of_map = {}, {}, len(layout.shapes)

    def events(node, shape):
        first = activity.maps.nodes[node, FIRST_V]
        return (in_planes(row[first : first + prod(shape)], shape) for row in activity.events)

    for connection in layout.connections:
        for_decoder = connection.target in layout.net.feedback
        taken = decodes if for_decoder else steps
        for module, shape in zip(connection.modules, layout.signals[connection.target], strict=True):
            behind = module is not connection.modules[0]
            binary, other, unread = events(of_map if behind else connection.source, shape)
            of_map += behind
            inputs = Inputs(binary - unread if for_decoder else binary, other, taken, np.zeros(shape, np.int64))
            modules.setdefault(module, inputs)  # the encoder's last modules feed the classifier, then the decoder
    pools = [(pool.target, pool.name) for pool in layout.pools]
    for node, name in (*enumerate(layout.names), *pools):
        binary, other, unread = events(node, layout.shapes[node])
        neurons[name] = Inputs(binary, other, decodes if node in layout.net.feedback else steps, unread)
    return Counted(modules, neurons)


def in_planes(values, shape):
    """(H W C,) -> (C, H, W)."""
    channels, height, width = shape
    return values.reshape(height, width, channels).transpose(2, 0, 1)
