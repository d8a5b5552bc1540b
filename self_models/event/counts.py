"""What the event engine counts beside spikes: which inputs of which linear module were not 0, for counting/operations.py.

The engine folds 2x2 layers away, but NeuroBench's operations are those of the layers one by one. So each linear module behind
another one gets a map of its inputs: an input counts as not 0 where a spike reaches it through weights that are not 0.
"""

import copy
from math import prod
from typing import NamedTuple

import numpy as np
from torch import nn

from self_models.basics.compiled import compiled
from self_models.event.kernels import CHANNELS, FIRST_PLACE, FIRST_V

# columns of Activity.behind: node, and of the modules before: window side, source channels; target width and channels; first
# weight, table entry and map entry; whether it is one of the decoder
NODE, BEFORE_SIDE, BEFORE_FAN, MAP_WIDTH, MAP_CHANNELS, PATTERN, ENTRY, MAP, DECODES = range(9)
BINARY, OTHER, UNREAD = range(3)  # rows of Activity.events


class Activity(NamedTuple):
    """events (3, V): how often each neuron spiked, how often it sent another value than -1 or 1, and how often it spiked while
    the decoder, which it feeds, rested, in the order of State.v; (3, 0) where nothing is counted. behind: modules behind others,
    see above; pattern: which weights before them are not 0; phase, row, column: as in Net; reached: inputs reached in this step;
    inputs: in how many steps."""

    events: np.ndarray
    behind: np.ndarray
    pattern: np.ndarray
    phase: np.ndarray
    row: np.ndarray
    column: np.ndarray
    reached: np.ndarray
    inputs: np.ndarray


class Inputs(NamedTuple):
    """Counts of inputs that were not 0, (C, H, W): where all of a step's inputs were -1 or 1, and in other steps. steps: how
    many there were in all, of all images. unread: spikes that a resting decoder did not take, (C, H, W)."""

    binary: np.ndarray
    other: np.ndarray
    steps: int
    unread: np.ndarray


class Counted(NamedTuple):
    """modules: linear module -> Inputs; neurons: spiking layer or 'input' -> Inputs of what it feeds, its spikes."""

    modules: dict
    neurons: dict


def new_activity(layout):
    """An Activity of zeros that counts a Layout's inputs."""
    before = befores(layout)
    behind, tables, patterns, entry, pattern, at = [], [], [], 0, 0, 0
    for connection in before:
        channels, height, width = connection.target_shape
        decodes = connection.target in layout.net.feedback
        place = (connection.source, connection.side, connection.source_shape[0], width, channels, pattern, entry, at, decodes)
        behind.append(place)
        patterns.append(connection.weights() > 0)
        tables.append(connection.tables())
        pattern, entry, at = pattern + connection.size, entry + len(tables[-1][0]), at + channels * height * width
    joined = [np.concatenate(parts) for parts in zip(*tables, strict=True)] or [np.zeros(0, np.int32)] * 3
    return Activity(
        np.zeros((3, layout.v_size), np.int64),
        np.array(behind, np.int64).reshape(-1, 9),
        np.concatenate([np.zeros(0, np.uint8), *patterns], dtype=np.uint8),
        *joined,
        np.zeros(at, np.uint8),
        np.zeros(at, np.int64),
    )


def blank(activity):
    """An Activity for another thread, to count from 0."""
    zeros = {name: np.zeros_like(getattr(activity, name)) for name in ("events", "reached", "inputs")}
    return activity._replace(**zeros)


NOTHING = Activity(
    np.zeros((3, 0), np.int64), np.zeros((0, 9), np.int64), np.zeros(0, np.uint8), *[np.zeros(0, np.int32)] * 3,
    np.zeros(0, np.uint8), np.zeros(0, np.int64),
)  # fmt: skip


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
    modules, neurons, at = {}, {}, 0

    def events(node):
        first, size = layout.net.nodes[node, FIRST_V], prod(layout.shapes[node])
        return (in_planes(row[first : first + size], layout.shapes[node]) for row in activity.events)

    for connection in layout.connections:
        for_decoder = connection.target in layout.net.feedback
        taken = decodes if for_decoder else steps
        for module, shape in zip(connection.modules, layout.signals[connection.target], strict=True):
            none = np.zeros(shape, np.int64)
            if module is connection.modules[0]:
                binary, other, unread = events(connection.source)
                inputs = Inputs(binary - unread if for_decoder else binary, other, taken, none)
            else:
                size = prod(shape)
                inputs = Inputs(none, in_planes(activity.inputs[at : at + size], shape), taken, none)
                at += size
            modules.setdefault(module, inputs)  # the encoder's last modules feed the classifier, then the decoder
    for node, name in enumerate(layout.names):
        binary, other, unread = events(node)
        neurons[name] = Inputs(binary, other, decodes if node in layout.net.feedback else steps, unread)
    return Counted(modules, neurons)


def in_planes(values, shape):
    """(H W C,) -> (C, H, W)."""
    channels, height, width = shape
    return values.reshape(height, width, channels).transpose(2, 0, 1)


@compiled
def count(net, state, activity, n, rests):
    """Count a node's latest spikes, and the inputs that they reach of modules behind others. rests: whether the decoder does."""
    places, channels, first = net.nodes[n, FIRST_PLACE], net.nodes[n, CHANNELS], net.nodes[n, FIRST_V]
    begin, end = places, places + state.event_count[n]
    if begin == end:
        return
    kind = BINARY
    if n == 0 or n == net.waiting:
        for e in range(state.event_start[begin], state.event_start[end]):
            if abs(state.event_value[e]) != 1:
                kind = OTHER
    for i in range(begin, end):
        for e in range(state.event_start[i], state.event_start[i + 1]):
            at = first + state.event_place[i] * channels + state.event_channel[e]
            activity.events[kind, at] += 1
            activity.events[UNREAD, at] += rests and n == net.forked
    for b in range(len(activity.behind)):
        if activity.behind[b, NODE] == n and not (rests and activity.behind[b, DECODES]):
            reach(state, activity, b, begin, end)


@compiled
def reach(state, activity, b, begin, end):
    """Add the inputs of a module behind others that the events of places begin to end - 1 reach."""
    side, fan, channels = activity.behind[b, BEFORE_SIDE], activity.behind[b, BEFORE_FAN], activity.behind[b, MAP_CHANNELS]
    entry, width, size = activity.behind[b, ENTRY], activity.behind[b, MAP_WIDTH], np.uint64(side * channels)
    for adds in (False, True):
        for i in range(begin, end):
            place = entry + state.event_place[i]
            if activity.phase[place] < 0:
                continue
            for y in range(side):
                corner = (activity.row[place] + y) * width + activity.column[place]
                at = np.uint64(activity.behind[b, MAP] + corner * channels)
                if adds:
                    for o in range(size):
                        activity.inputs[at + o] += activity.reached[at + o]
                        activity.reached[at + o] = 0
                    continue
                for e in range(state.event_start[i], state.event_start[i + 1]):
                    row = ((activity.phase[place] * fan + state.event_channel[e]) * side + y) * side * channels
                    a = np.uint64(activity.behind[b, PATTERN] + row)
                    for o in range(size):
                        activity.reached[at + o] |= activity.pattern[a + o]
