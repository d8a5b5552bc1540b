"""What is counted of an image's spikes beside their number: of each neuron, and of the inputs of modules behind others."""

from typing import NamedTuple

import numpy as np

from self_models.basics.compiled import compiled
from self_models.event.compiled.kernels import charge, list_places, unlist
from self_models.event.compiled.nets import CHANNELS, FIRST_PLACE, FIRST_V, SOURCE, Net

BINARY, OTHER, UNREAD = range(3)  # rows of Activity.events


class Activity(NamedTuple):
    """events (3, V): how often each neuron spiked, how often it sent another value than -1 or 1, and how often it spiked while
    the decoder, which it feeds, rested, in the order of State.v; (3, 0) where nothing is counted. maps: the Net with further
    nodes, one for the inputs of each module behind another one, whose events are the steps in which an input was reached;
    decoders: the first of them that is the decoder's."""

    events: np.ndarray
    maps: Net
    decoders: int


def blank(activity):
    """An Activity for another thread, to count from 0."""
    return activity._replace(events=np.zeros_like(activity.events))


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
    spiked, unread, is_read = activity.events[kind], activity.events[UNREAD], not (rests and n == net.forked)
    for i in range(begin, end):
        for e in range(state.event_start[i], state.event_start[i + 1]):
            at = np.uint64(first + state.event_place[i] * channels + state.event_channel[e])
            spiked[at] += 1
            if not is_read:
                unread[at] += 1
    for m in range(len(net.nodes), len(activity.maps.nodes)):
        if activity.maps.nodes[m, SOURCE] == n and not (rests and m >= activity.decoders):
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
