"""Compiled kernels of the event engine: what one image's spikes do in one step.

Places are numbered row by row; the channels of a place lie side by side, in membranes and in weights, so that a spike adds
rows of contiguous memory. Indices are unsigned where a loop must become vector instructions: numba tests a signed index for
a negative value at every use.
"""

from typing import NamedTuple

import numpy as np

from self_models.basics.compiled import compiled, inlined

# columns of Net.nodes: shape; first membrane and first place in the state; where the spikes come from, window side, channels
# of the source, first weight, first entry of the tables, whether the source's events have values other than 1
HEIGHT, WIDTH, CHANNELS, FIRST_V, FIRST_PLACE, SOURCE, SIDE, FAN, FIRST_W, FIRST_ENTRY, VALUED = range(11)
SCAN = 64  # membranes compared with their threshold at once


class Net(NamedTuple):
    """Arrays that the kernels read. Node 0 is the input; then the spiking layers in the model's order; then the output, the
    decoder's output, the encoder's spikes that wait for the decoder, and what a held input adds to the first layer in a step.

    nodes: (nodes, 11) int64, see above. forward, feedback: nodes that run at every step, and at those at which the decoder runs,
    in their order, each with a connection into it; forked, output, decoded, waiting, drive: nodes, -1 where absent. weights: each
    connection's (phase, channel, window row, window column, target channel). phase, row, column: for each place of a connection's
    source the phase, -1 where it reaches nothing, and the window's corner.
    """

    nodes: np.ndarray
    threshold: np.ndarray
    leak: np.ndarray
    forward: np.ndarray
    feedback: np.ndarray
    forked: int
    output: int
    decoded: int
    waiting: int
    drive: int
    immediate: bool
    weights: np.ndarray
    phase: np.ndarray
    row: np.ndarray
    column: np.ndarray


class State(NamedTuple):
    """One image's network between steps; every array covers all nodes, see FIRST_V and FIRST_PLACE.

    v: membrane potentials. decayed: steps whose leak a place's membranes have had. listed: whether a place stands in
    candidates, the places whose membranes may have passed their threshold; candidate_count: by node. event_place, event_start,
    event_channel, event_value: the node's latest spikes, by place; event_count: places with spikes, by node. held: places whose
    prediction is held, so that the decoder's output there does not matter. rows, values: room for one window's weights.
    """

    v: np.ndarray
    decayed: np.ndarray
    listed: np.ndarray
    candidates: np.ndarray
    candidate_count: np.ndarray
    event_place: np.ndarray
    event_start: np.ndarray
    event_channel: np.ndarray
    event_value: np.ndarray
    event_count: np.ndarray
    held: np.ndarray
    rows: np.ndarray
    values: np.ndarray


def new_state(net):
    """A State at rest for one image."""
    sizes = net.nodes[:, HEIGHT] * net.nodes[:, WIDTH]
    v = int((sizes * net.nodes[:, CHANNELS]).sum())
    places, nodes = int((sizes + 1).sum()), len(net.nodes)
    room = int((sizes * net.nodes[:, CHANNELS]).max())
    return State(
        v=np.zeros(v, np.float32),
        decayed=np.zeros(places, np.int32),
        listed=np.zeros(places, np.uint8),
        candidates=np.zeros(places, np.int32),
        candidate_count=np.zeros(nodes, np.int64),
        event_place=np.zeros(places, np.int32),
        event_start=np.zeros(places, np.int32),
        event_channel=np.zeros(v, np.int32),
        event_value=np.zeros(v, np.float32),
        event_count=np.zeros(nodes, np.int64),
        held=np.zeros(int(sizes[0]), np.bool_),
        rows=np.zeros(room, np.int64),
        values=np.zeros(room, np.float32),
    )


@compiled
def copy(to, values):
    """to[:] = values, which would make an array."""
    for i in range(len(values)):
        to[i] = values[i]


@compiled
def rest(state):
    """Bring a state to rest, for the next image."""
    state.v[:] = 0
    state.decayed[:] = 0
    state.listed[:] = 0
    state.candidate_count[:] = 0
    state.event_count[:] = 0
    state.held[:] = False


@inlined
def add_row(v, at, w, a, size):
    """v[at : at + size] += w[a : a + size]"""
    at, a = np.uint64(at), np.uint64(a)
    for o in range(np.uint64(size)):
        v[at + o] += w[a + o]


@inlined
def add_scaled_row(v, at, w, a, value, size):
    """v[at : at + size] += value w[a : a + size]"""
    at, a = np.uint64(at), np.uint64(a)
    for o in range(np.uint64(size)):
        v[at + o] += value * w[a + o]


@inlined
def add_two_rows(v, at, w, a, b, size):
    """Two rows of w in one pass, see add_four_rows."""
    at, a, b = np.uint64(at), np.uint64(a), np.uint64(b)
    for o in range(np.uint64(size)):
        v[at + o] += w[a + o] + w[b + o]


@inlined
def add_four_rows(v, at, w, a, b, c, d, size):
    """Several rows in one pass, so that the membranes are loaded and stored once."""
    at, a, b, c, d = np.uint64(at), np.uint64(a), np.uint64(b), np.uint64(c), np.uint64(d)
    for o in range(np.uint64(size)):
        v[at + o] += (w[a + o] + w[b + o]) + (w[c + o] + w[d + o])


@inlined
def decay(net, state, n, place, clock):
    """Apply the leak of the steps that a place's membranes have missed, one after the other, as the dense engine rounds."""
    leak = net.leak[n]
    at = net.nodes[n, FIRST_PLACE] + place
    size = np.uint64(net.nodes[n, CHANNELS])
    first = np.uint64(net.nodes[n, FIRST_V] + place * net.nodes[n, CHANNELS])
    for _ in range(clock - state.decayed[at]):
        for o in range(size):
            state.v[first + o] *= leak
    state.decayed[at] = clock


@inlined
def touch(net, state, n, first, last, clock):
    """List places first to last - 1 as candidates and bring their leak up to date."""
    places = net.nodes[n, FIRST_PLACE]
    at, free = np.uint64(places + first), np.uint64(places + state.candidate_count[n])
    for i in range(np.uint64(last - first)):
        if not state.listed[at + i]:
            state.listed[at + i] = 1
            state.candidates[free] = np.uint64(first) + i
            free += np.uint64(1)
    state.candidate_count[n] = np.int64(free) - places
    if net.leak[n] != 1:
        for place in range(first, last):
            decay(net, state, n, place, clock)


@inlined
def all_held(held, first, last):
    """Whether all of held[first : last], zeros and ones, are 1."""
    count = 0
    for place in range(np.uint64(first), np.uint64(last)):
        count += held[place]
    return count == last - first


@inlined
def add_window(net, state, n, row, column, count, clock):
    """Add `count` windows of weights, state.rows, whose corner lies at (row, column) and may stick out over the border."""
    side, channels, width = net.nodes[n, SIDE], net.nodes[n, CHANNELS], net.nodes[n, WIDTH]
    top, bottom = max(0, -row), min(side, net.nodes[n, HEIGHT] - row)
    left, right = max(0, -column), min(side, width - column)
    size = (right - left) * channels
    whole = 0 if net.nodes[n, VALUED] else count - count % 4
    for y in range(top, bottom):
        first = (row + y) * width + column + left
        if n == net.decoded and all_held(state.held, first, first + right - left):
            continue
        touch(net, state, n, first, first + right - left, clock)
        at, shift = net.nodes[n, FIRST_V] + first * channels, (y * side + left) * channels
        for i in range(0, whole, 4):
            a, b, c, d = state.rows[i], state.rows[i + 1], state.rows[i + 2], state.rows[i + 3]
            add_four_rows(state.v, at, net.weights, a + shift, b + shift, c + shift, d + shift, size)
        if count - whole > 1 and not net.nodes[n, VALUED]:
            add_two_rows(state.v, at, net.weights, state.rows[whole] + shift, state.rows[whole + 1] + shift, size)
        for i in range(whole if net.nodes[n, VALUED] else count - count % 2, count):
            if net.nodes[n, VALUED]:
                add_scaled_row(state.v, at, net.weights, state.rows[i] + shift, state.values[i], size)
            else:
                add_row(state.v, at, net.weights, state.rows[i] + shift, size)


@compiled
def charge(net, state, n, clock):
    """Add the weights of the source's latest spikes to the membranes they reach, and list these places as candidates."""
    source, fan, entry = net.nodes[n, SOURCE], net.nodes[n, FAN], net.nodes[n, FIRST_ENTRY]
    block = net.nodes[n, SIDE] * net.nodes[n, SIDE] * net.nodes[n, CHANNELS]
    first = net.nodes[source, FIRST_PLACE]
    last = first + state.event_count[source]
    count = row = column = next_row = next_column = 0
    for i in range(first, last + 1):
        phase = 0
        if i < last:
            place = entry + state.event_place[i]
            phase, next_row, next_column = net.phase[place], net.row[place], net.column[place]
        if phase < 0:
            continue
        if count and (i == last or next_row != row or next_column != column):
            add_window(net, state, n, row, column, count, clock)
            count = 0
        if i < last:
            row, column = next_row, next_column
            for e in range(state.event_start[i], state.event_start[i + 1]):
                state.rows[count] = net.nodes[n, FIRST_W] + (phase * fan + state.event_channel[e]) * block
                state.values[count] = state.event_value[e]
                count += 1


@inlined
def find_spikes(v, at, begin, end, bound, channel, event):
    """Write the channels begin to end - 1 whose membrane is above bound to channel[event:]; returns the next event."""
    first, found = np.uint64(at + begin), 0
    for o in range(np.uint64(end - begin)):
        found |= v[first + o] > bound
    if found:
        for c in range(begin, end):
            if v[at + c] > bound:
                channel[event] = c
                event += 1
    return event


@compiled
def fire(net, state, n, clock):
    """Spikes of the candidates, their soft reset, and how many; who is still above threshold stays a candidate.

    clock: steps whose leak the potential compared with the threshold has had. A delayed neuron leaks before its reset.
    """
    threshold, leaks = net.threshold[n], net.leak[n] != 1
    channels, first_v, places = net.nodes[n, CHANNELS], net.nodes[n, FIRST_V], net.nodes[n, FIRST_PLACE]
    events, event, kept = 0, first_v, 0
    for i in range(state.candidate_count[n]):
        place = state.candidates[places + i]
        at = first_v + place * channels
        if leaks:
            decay(net, state, n, place, clock)
        start = event
        for begin in range(0, channels, SCAN):
            event = find_spikes(state.v, at, begin, min(begin + SCAN, channels), threshold, state.event_channel, event)
        stays = False
        if event > start:
            state.event_place[places + events], state.event_start[places + events] = place, start
            events += 1
            if leaks and not net.immediate:
                decay(net, state, n, place, clock + 1)
            for e in range(start, event):
                neuron = at + state.event_channel[e]
                state.v[neuron] -= threshold
                stays |= state.v[neuron] > threshold
        if stays:
            state.candidates[places + kept] = place
            kept += 1
        else:
            state.listed[places + place] = 0
    state.event_start[places + events] = event
    state.event_count[n], state.candidate_count[n] = events, kept
    return event - first_v
