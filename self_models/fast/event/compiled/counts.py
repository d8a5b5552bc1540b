"""What is counted of an image's spikes beside their number: of each neuron, and of the inputs of modules behind others."""

from typing import NamedTuple

import numpy as np

from self_models.fast.compiling import compiled
from self_models.fast.event.compiled.kernels import charge, list_places, unlist
from self_models.fast.event.compiled.nets import Net

BINARY, OTHER, ROWS = range(3)  # rows of Activity.events, and how many


class Activity(NamedTuple):
    """events (ROWS, V): how often each neuron spiked, and how often it sent another value than -1 or 1, in the order of State.v;
    (ROWS, 0) where nothing is counted. maps: the Net with further nodes, one for the inputs of each module behind another one,
    whose events are the steps in which an input was reached."""

    events: np.ndarray
    maps: Net


def blank(activity):
    """An Activity for another thread, to count from 0."""
    return activity._replace(events=np.zeros_like(activity.events))


@compiled
def count(net, state, activity, n):
    """Count a node's latest spikes, and the inputs that they reach of modules behind others, if that is wanted."""
    places, channels, first = net.nodes[n].first_place, net.nodes[n].channels, net.nodes[n].first_v
    begin, end = places, places + state.event_count[n]
    if begin == end or not activity.events.size:
        return
    kind = BINARY
    if n == 0 or n == net.waiting:
        for e in range(state.event_start[begin], state.event_start[end]):
            if abs(state.event_value[e]) != 1:
                kind = OTHER
    spiked = activity.events[kind]
    for i in range(begin, end):
        for e in range(state.event_start[i], state.event_start[i + 1]):
            spiked[np.uint64(first + state.event_place[i] * channels + state.event_channel[e])] += 1
    for m in range(len(net.nodes), len(activity.maps.nodes)):
        if activity.maps.nodes[m].source == n:
            count_reached(state, activity, m)


@compiled
def count_reached(state, activity, m):
    """Count the inputs of map m that its source's latest spikes reach: no weight of a map is negative."""
    channels, first = activity.maps.nodes[m].channels, activity.maps.nodes[m].first_v
    size, reached = np.uint64(channels), activity.events[OTHER]
    charge(activity.maps, state, m, 0)
    for i in range(list_places(activity.maps, state, m)):
        at = np.uint64(first + state.places[i] * channels)
        for o in range(size):
            reached[at + o] += state.v[at + o] > 0
            state.v[at + o] = 0
    unlist(activity.maps, state, m)
