"""Compiled kernels of the event engine: what one image's spikes do in one step.

Places are numbered row by row; the channels of a place lie side by side, in membranes and in weights, so that a spike adds
rows of contiguous memory. Indices are unsigned where a loop must become vector instructions: numba tests a signed index for
a negative value at every use.
"""

from typing import NamedTuple

import numpy as np

from self_models.basics.compiled import compiled, inlined
from self_models.event.compiled.vectors import LANES, above, add_rows, lowest

# columns of Net.nodes: shape; first membrane and first place in the state; where the spikes come from, window side, channels
# of the source, channels of it whose weights stay in the cache together, floats of a row of the window, first weight, first entry
# of the tables, whether the source's events have values other than 1; first bias, and the node of the maximum pool of its spikes,
# 0 where there is none
HEIGHT, WIDTH, CHANNELS, FIRST_V, FIRST_PLACE, SOURCE, SIDE, FAN, GROUP, ROW, FIRST_W, FIRST_ENTRY, VALUED = range(13)
FIRST_BIAS, POOL, COLUMNS = range(13, 16)
WORD = 64  # bits of a word of State.listed, membranes compared with their threshold at once, and floats of a small window
TOGETHER, LINES, FEWER = 16, 1024, 6  # rows of weights read at once; fewer that lie whole LINES floats apart, which share lines
# of the cache, or two and more
FOR_A_GROUP = 4  # spikes of a place in a group of channels, at least, in the mean, so that it pays to take groups one by one
FULL = np.uint64(2**WORD - 1)


class Net(NamedTuple):
    """Arrays that the kernels read. Node 0 is the input; then the spiking layers in the model's order; then the output, the
    decoder's output, maximum pools of spikes, the encoder's spikes that wait for the decoder, and what a held input adds to the
    first layer in a step.

    nodes: (nodes, COLUMNS) int64, see above. threshold, leak, start: by node, start being the potential with which a run begins;
    bias: by channel, from FIRST_BIAS on, what a neuron gets at each step whatever comes. forward, feedback: nodes that run at
    every step, and at those at which the decoder runs, in their order, each with a connection into it; forked, output, decoded,
    waiting, drive: nodes, -1 where absent. weights: each connection's (phase, channel, window row, window column, target
    channel). phase, row, column: for each place of a connection's source the phase, -1 where it reaches nothing, and the
    window's corner.
    """

    nodes: np.ndarray
    threshold: np.ndarray
    leak: np.ndarray
    start: np.ndarray
    bias: np.ndarray
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

    v: membrane potentials. decayed: steps whose leak a place's membranes have had. listed: a bit for each place, whether it is a
    candidate: its membranes may have passed their threshold; busy: by node, whether it has one. event_place, event_start,
    event_channel, event_value: the node's latest spikes, in the order of their places; event_count: places with spikes, by node.
    held: a bit for each place, whether its prediction is held, so that the decoder's output there does not matter. places: room
    for a node's candidates; rows, values: for where one window's weights are; window: for the sum of a small one's.
    """

    v: np.ndarray
    decayed: np.ndarray
    listed: np.ndarray
    busy: np.ndarray
    places: np.ndarray
    event_place: np.ndarray
    event_start: np.ndarray
    event_channel: np.ndarray
    event_value: np.ndarray
    event_count: np.ndarray
    held: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    window: np.ndarray


def padded_places(size):
    """How many places of the state a node of this many has: whole words, and one more for the end of the last one's events."""
    return (int(size) // WORD + 1) * WORD


def state_sizes(nodes):
    """Array of a State -> (size, type), for Net.nodes.

    What numbers places or channels of one node has 32 bits, since a node has fewer than 2**31 neurons (memory_of in network.py
    refuses more); what numbers membranes or weights of all nodes together has 64.
    """
    sizes = nodes[:, HEIGHT] * nodes[:, WIDTH]
    neurons = sizes * nodes[:, CHANNELS]
    v, room, places = int(neurons.sum()), int(neurons.max()), int(nodes[-1, FIRST_PLACE]) + padded_places(sizes[-1])
    return {
        "v": (v + LANES, np.float32),
        "decayed": (places, np.int32),
        "listed": (places // WORD, np.uint64),
        "busy": (len(nodes), np.bool_),
        "places": (int(sizes.max()), np.int32),
        "event_place": (places, np.int32),
        "event_start": (places, np.int64),
        "event_channel": (v, np.int32),
        "event_value": (v, np.float32),
        "event_count": (len(nodes), np.int64),
        "held": (padded_places(sizes[0]) // WORD, np.uint64),
        "rows": (room, np.int64),
        "values": (room, np.float32),
        "window": (WORD, np.float32),
    }


def new_state(net):
    """A State at rest for one image."""
    return State(**{name: np.zeros(*sizes) for name, sizes in state_sizes(net.nodes).items()})


@compiled
def copy(to, values):
    """to[:] = values, which would make an array."""
    for i in range(len(values)):
        to[i] = values[i]


@compiled
def rest(net, state):
    """Bring a state to rest, for the next image: where a run begins."""
    state.v[:] = 0
    for n in range(len(net.nodes)):
        first = net.nodes[n, FIRST_V]
        if net.start[n] != 0:
            state.v[first : first + neurons_of(net, n)] = net.start[n]
    state.decayed[:] = 0
    state.listed[:] = 0
    state.busy[:] = False
    state.event_count[:] = 0
    state.held[:] = 0


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
    """List places first to last - 1 as candidates, but for those held, and bring their leak up to date."""
    place = first
    while place < last:
        size = min(last - place, WORD - place % WORD)
        bits = (FULL >> np.uint64(WORD - size)) << np.uint64(place % WORD)
        if n == net.decoded:
            bits &= ~state.held[place // WORD]
        state.listed[(net.nodes[n, FIRST_PLACE] + place) // WORD] |= bits
        place += size
    state.busy[n] = True
    if net.leak[n] != 1:
        for place in range(first, last):
            decay(net, state, n, place, clock)


@inlined
def neurons_of(net, n):
    return net.nodes[n, HEIGHT] * net.nodes[n, WIDTH] * net.nodes[n, CHANNELS]


@inlined
def words_of(net, n):
    """First and last + 1 of a node's words in State.listed."""
    first = net.nodes[n, FIRST_PLACE] // WORD
    return first, first + net.nodes[n, HEIGHT] * net.nodes[n, WIDTH] // WORD + 1


@compiled
def list_places(net, state, n):
    """Fill state.places with a node's candidates, in order; returns how many."""
    begin, end = words_of(net, n)
    count = 0
    for word in range(begin, end):
        bits = state.listed[word]
        while bits:
            state.places[count] = (word - begin) * WORD + lowest(bits)
            bits &= bits - np.uint64(1)
            count += 1
    return count


@compiled
def unlist(net, state, n):
    """A node has no candidates any more."""
    begin, end = words_of(net, n)
    for word in range(begin, end):
        state.listed[word] = 0
    state.busy[n] = False


@inlined
def add_window(net, state, n, row, column, count, clock):
    """Add `count` windows of weights, state.rows, whose corner lies at (row, column) and may stick out over the border."""
    side, channels, width = net.nodes[n, SIDE], net.nodes[n, CHANNELS], net.nodes[n, WIDTH]
    top, bottom = max(0, -row), min(side, net.nodes[n, HEIGHT] - row)
    left, right = max(0, -column), min(side, width - column)
    size = (net.nodes[n, ROW] if right == side else right * channels) - left * channels  # with the zeros at the row's end
    valued, weights, block = net.nodes[n, VALUED] != 0, net.weights, side * net.nodes[n, ROW]
    together = TOGETHER if block % LINES and block < 2 * LINES else FEWER
    if count > 1 and block <= WORD:  # a small window: add them all up first, and what follows them
        state.window[:] = 0
        add_rows(state.window, 0, weights, state.rows, state.values, 0, count, 0, WORD, valued)
        valued, weights, count, state.rows[0] = False, state.window, 1, 0
    for y in range(top, bottom):
        first = (row + y) * width + column + left
        touch(net, state, n, first, first + right - left, clock)
        at, shift = net.nodes[n, FIRST_V] + first * channels, y * net.nodes[n, ROW] + left * channels
        for i in range(0, count, together):
            add_rows(state.v, at, weights, state.rows, state.values, i, min(i + together, count), shift, size, valued)


@compiled
def add_bias(net, state, n, clock):
    """Add a node's bias to all of its membranes, all of which it lists as candidates."""
    places, channels = net.nodes[n, HEIGHT] * net.nodes[n, WIDTH], np.uint64(net.nodes[n, CHANNELS])
    at, bias = np.uint64(net.nodes[n, FIRST_V]), np.uint64(net.nodes[n, FIRST_BIAS])
    touch(net, state, n, 0, places, clock)
    for _ in range(places):
        for o in range(channels):
            state.v[at + o] += net.bias[bias + o]
        at += channels


@compiled
def charge(net, state, n, clock):
    """Add the weights of the source's latest spikes to the membranes they reach, and list these places as candidates.

    Where weights are more than the cache holds and places have many spikes, one group of channels after the other: its weights
    are read from far once, and then for every place from near.
    """
    fan, group, first = net.nodes[n, FAN], net.nodes[n, GROUP], net.nodes[net.nodes[n, SOURCE], FIRST_PLACE]
    last = first + state.event_count[net.nodes[n, SOURCE]]
    if (state.event_start[last] - state.event_start[first]) * group < FOR_A_GROUP * fan * (last - first):
        group = fan
    for begin in range(0, fan, group):
        charge_group(net, state, n, clock, first, last, begin, begin + group)


@compiled
def charge_group(net, state, n, clock, first, last, begin, end):
    """The same for the channels begin to end - 1 of the source's events first to last - 1. state.places: how many events of each
    place earlier groups had."""
    fan, entry, block = net.nodes[n, FAN], net.nodes[n, FIRST_ENTRY], net.nodes[n, SIDE] * net.nodes[n, ROW]
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
            e = state.event_start[i] + (state.places[i - first] if begin else 0)
            while e < state.event_start[i + 1] and state.event_channel[e] < end:
                state.rows[count] = net.nodes[n, FIRST_W] + (phase * fan + state.event_channel[e]) * block
                state.values[count] = state.event_value[e]
                count += 1
                e += 1
            state.places[i - first] = e - state.event_start[i]


@compiled
def fire(net, state, n, clock):
    """Spikes of the candidates, their soft reset, and how many; who is still above threshold stays a candidate.

    clock: steps whose leak the potential compared with the threshold has had. A delayed neuron leaks before its reset.
    """
    threshold, leaks = net.threshold[n], net.leak[n] != 1
    channels, first_v, places = net.nodes[n, CHANNELS], net.nodes[n, FIRST_V], net.nodes[n, FIRST_PLACE]
    events, event, kept = 0, first_v, False
    begin_word, end_word = words_of(net, n)
    for word in range(begin_word, end_word):
        bits, keep = state.listed[word], np.uint64(0)
        while bits:
            bit = lowest(bits)
            bits &= bits - np.uint64(1)
            place = (word - begin_word) * WORD + bit
            at = first_v + place * channels
            if leaks:
                decay(net, state, n, place, clock)
            start = event
            for begin in range(0, channels, WORD):
                mask = above(state.v, at + begin, min(WORD, channels - begin), threshold)
                while mask:
                    state.event_channel[event] = begin + lowest(mask)
                    mask &= mask - np.uint64(1)
                    event += 1
            if event > start:
                state.event_place[places + events], state.event_start[places + events] = place, start
                events += 1
                if leaks and not net.immediate:
                    decay(net, state, n, place, clock + 1)
                for e in range(start, event):
                    neuron = at + state.event_channel[e]
                    state.v[neuron] -= threshold
                    if state.v[neuron] > threshold:
                        keep |= np.uint64(1) << np.uint64(bit)
        state.listed[word] = keep
        kept |= keep != 0
    state.event_start[places + events] = event
    state.event_count[n], state.busy[n] = events, kept
    return event - first_v
