"""What the event engine counts beside spikes: which inputs of which linear module were not 0, for counting/operations.py.

The engine folds 2x2 layers away, but NeuroBench's operations are those of the layers one by one. So each linear module behind
another one gets a map of its inputs: an input counts as not 0 where a spike reaches it through weights that are not 0.
"""

import copy
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from self_models.fast.event.compiled.counts import ROWS, Activity
from self_models.fast.event.network import lay_connections, node_table
from self_models.running.draws import in_space


class Inputs(NamedTuple):
    """Counts of inputs that were not 0, (C, H, W): where all of a step's inputs were -1 or 1, and in other steps. steps: how many
    there were in all, of all images."""

    binary: torch.Tensor
    other: torch.Tensor
    steps: int


class Counted(NamedTuple):
    """modules: linear module -> Inputs; neurons: spiking layer, maximum pool or 'input' -> Inputs of what it feeds, which are its
    spikes."""

    modules: dict
    neurons: dict


def no_activity(net):
    """The Activity of runs in which nothing is counted."""
    return Activity(np.zeros((ROWS, 0), np.int64), net)


def new_activity(layout):
    """An Activity of zeros that counts a Layout's inputs."""
    net, maps = layout.net, befores(layout)
    shapes = [*layout.shapes, *(each.target_shape for each in maps)]
    nodes, leak = node_table(shapes), np.ones(len(shapes), np.float32)
    nodes[: len(net.nodes)] = net.nodes
    laid = zip(("weights", "phase", "row", "column"), lay_connections(nodes[len(net.nodes) :], maps), strict=True)
    with_maps = net._replace(nodes=nodes, leak=leak, start=0 * leak, floor=-np.inf * leak, **dict(laid))
    return Activity(np.zeros((ROWS, sum(map(prod, shapes))), np.int64), with_maps)


def befores(layout):
    """For each module behind others the Connection of the modules before it, with the size of their weights."""
    found = []
    for connection in layout.connections:
        for count in range(1, len(connection.modules)):
            modules = copy.deepcopy(nn.Sequential(*connection.modules[:count]))
            for parameter in modules.parameters():
                parameter.data.abs_()
            found.append(connection._replace(modules=list(modules), target_shape=connection.sizes()[count]))
    return found


def counted_runs(layout, activity, steps, decodes):
    """Counted for an Activity of this many steps of images, at `decodes` of which the decoder ran."""
    modules, neurons, of_map = {}, {}, len(layout.shapes)

    def inputs(node, target, shape):
        first = activity.maps.nodes["first_v"][node]
        events = (in_space(torch.from_numpy(row[first : first + prod(shape)]), shape) for row in activity.events)
        return Inputs(*events, decodes if target in layout.net.feedback else steps)

    for connection in layout.connections:
        for module, shape in zip(connection.modules, connection.sizes()[:-1], strict=True):
            behind = module is not connection.modules[0]
            found = inputs(of_map if behind else connection.source, connection.target, shape)
            of_map += behind
            modules.setdefault(module, found)  # the encoder's last modules feed the classifier, then the decoder
    pools = [(pool.target, pool.name) for pool in layout.pools]
    for node, name in (*enumerate(layout.names), *pools):
        neurons[name] = inputs(node, node, layout.shapes[node])
    return Counted(modules, neurons)
