"""What is counted of an image's spikes beside their number: of each neuron, and of the inputs of modules behind others."""

from typing import NamedTuple

import numpy as np

from self_models.fast.compiling import compiled
from self_models.fast.event.compiled.kernels import charge, list_places, unlist
from self_models.fast.event.compiled.nets import CHANNELS, FIRST_PLACE, FIRST_V, SOURCE, Net

BINARY, OTHER, UNREAD, UNHEARD = range(4)  # rows of Activity.events; UNHEARD + OTHER is one, too
ROWS = 5


class Activity(NamedTuple):
    """events (ROWS, V): how often each neuron spiked, how often it sent another value than -1 or 1, and how often it did while
    the decoder, which it feeds, rested, or, BINARY or OTHER, the layers behind it waited, in the order of State.v; (ROWS, 0)
    where nothing is counted. maps: the Net with further nodes, one for the inputs of each module behind another one, whose
    events are the steps in which an input was reached; late: which of the modules wait; decoders: the first of these nodes that
    is the decoder's."""

    events: np.ndarray
    maps: Net
    late: np.ndarray
    decoders: int


def blank(activity):
    """An Activity for another thread, to count from 0."""
    return activity._replace(events=np.zeros_like(activity.events))


@compiled
def count(net, state, activity, n, rests, waits):
    """Count a node's latest spikes, and the inputs that they reach of modules behind others. rests: whether the decoder does;
    waits: whether the layers behind the fork do."""
    places, channels, first = net.nodes[n, FIRST_PLACE], net.nodes[n, CHANNELS], net.nodes[n, FIRST_V]
    begin, end = places, places + state.event_count[n]
    if begin == end:
        return
    kind = BINARY
    if n == 0 or n == net.waiting:
        for e in range(state.event_start[begin], state.event_start[end]):
            if abs(state.event_value[e]) != 1:
                kind = OTHER
    spiked, unread, unheard = activity.events[kind], activity.events[UNREAD], activity.events[UNHEARD + kind]
    forked = n == net.forked
    for i in range(begin, end):
        for e in range(state.event_start[i], state.event_start[i + 1]):
            at = np.uint64(first + state.event_place[i] * channels + state.event_channel[e])
            spiked[at] += 1
            unread[at] += rests and forked
            unheard[at] += waits and forked
    for m in range(len(net.nodes), len(activity.maps.nodes)):
        takes = not (rests and m >= activity.decoders) and not (waits and activity.late[m])
        if activity.maps.nodes[m, SOURCE] == n and takes:
            count_reached(state, activity, m)


@compiled
def count_reached(state, activity, m):
    """Count the inputs of map m that its source's latest spikes reach: no weight of a map is negative."""
    channels, first = activity.maps.nodes[m, CHANNELS], activity.maps.nodes[m, FIRST_V]
    size, reached = np.uint64(channels), activity.events[OTHER]
    charge(activity.maps, state, m, 0)
    for i in range(list_places(activity.maps, state, m)):
        at = np.uint64(first + state.places[i] * channels)
        for o in range(size):
            reached[at + o] += state.v[at + o] > 0
            state.v[at + o] = 0
    unlist(activity.maps, state, m)
