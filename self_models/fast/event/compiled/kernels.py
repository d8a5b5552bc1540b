"""Compiled kernels of the event engine: what one image's spikes do in one step.

Places are numbered row by row; the channels of a place lie side by side, in membranes and in weights, so that a spike adds
rows of contiguous memory. Indices are unsigned where a loop must become vector instructions: numba tests a signed index for
a negative value at every use.
"""

import numpy as np

from self_models.fast.compiling import compiled, inlined
from self_models.fast.event.compiled.nets import WORD, State
from self_models.fast.event.compiled.vectors import above, add_rows, lowest

TOGETHER, LINES, FEWER = 16, 1024, 6  # rows of weights read at once; fewer that lie whole LINES floats apart, which share lines
# of the cache, or two and more
FOR_A_GROUP = 4  # spikes of a place in a group of channels, at least, in the mean, so that it pays to take groups one by one
FULL = np.uint64(2**WORD - 1)


@inlined
def state_at(states, b):
    """The State of image b among several."""
    return State(
        states.v[b], states.decayed[b], states.listed[b], states.busy[b], states.places[b], states.event_place[b],
        states.event_start[b], states.event_channel[b], states.event_value[b], states.event_count[b], states.sent[b],
        states.held[b], states.rows[b], states.values[b], states.window[b],
    )  # fmt: skip


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
        first = net.nodes[n].first_v
        if net.start[n] != 0:
            state.v[first : first + neurons_of(net, n)] = net.start[n]
    state.decayed[:] = 0
    state.listed[:] = 0
    state.busy[:] = False
    state.event_count[:] = 0
    state.sent[:] = 0
    state.held[:] = 0


@inlined
def decay(net, state, n, place, clock):
    """Apply the leak of the steps that a place's membranes have missed, one after the other, as the dense engine rounds; until it
    changes nothing any more."""
    leak = net.leak[n]
    at = net.nodes[n].first_place + place
    size = np.uint64(net.nodes[n].channels)
    first = np.uint64(net.nodes[n].first_v + place * net.nodes[n].channels)
    missed, moves = clock - state.decayed[at], True
    while missed > 0 and moves:
        moves = False
        for o in range(size):
            value = state.v[first + o] * leak
            moves |= value != state.v[first + o]
            state.v[first + o] = value
        missed -= 1
    state.decayed[at] = clock


@inlined
def lift(net, state, n, place):
    """Bring a place's membranes up to their floor."""
    size = np.uint64(net.nodes[n].channels)
    first = np.uint64(net.nodes[n].first_v + place * net.nodes[n].channels)
    for o in range(size):
        state.v[first + o] = max(state.v[first + o], net.floor[n])


@compiled
def forget(net, state, n, clock, keep):
    """Bring a node's membranes up to date with this clock, and keep so much of what they are away from rest."""
    start, size = net.start[n], np.uint64(net.nodes[n].channels)
    for place in range(net.nodes[n].height * net.nodes[n].width):
        decay(net, state, n, place, clock)
        lift(net, state, n, place)
        first = np.uint64(net.nodes[n].first_v + place * net.nodes[n].channels)
        if keep != 1:
            for o in range(size):
                state.v[first + o] = start + (state.v[first + o] - start) * keep


@inlined
def touch(net, state, n, first, last, clock):
    """List places first to last - 1 as candidates, but for those held, and bring their leak up to date."""
    place = first
    while place < last:
        size = min(last - place, WORD - place % WORD)
        bits = (FULL >> np.uint64(WORD - size)) << np.uint64(place % WORD)
        if n == net.decoded:
            bits &= ~state.held[place // WORD]
        state.listed[(net.nodes[n].first_place + place) // WORD] |= bits
        place += size
    state.busy[n] = True
    if net.leak[n] != 1:
        for place in range(first, last):
            decay(net, state, n, place, clock)


@inlined
def neurons_of(net, n):
    return net.nodes[n].height * net.nodes[n].width * net.nodes[n].channels


@inlined
def words_of(net, n):
    """First and last + 1 of a node's words in State.listed."""
    first = net.nodes[n].first_place // WORD
    return first, first + net.nodes[n].height * net.nodes[n].width // WORD + 1


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
    side, channels, width = net.nodes[n].side, net.nodes[n].channels, net.nodes[n].width
    top, bottom = max(0, -row), min(side, net.nodes[n].height - row)
    left, right = max(0, -column), min(side, width - column)
    size = (net.nodes[n].row if right == side else right * channels) - left * channels  # with the zeros at the row's end
    valued, weights, block = net.nodes[n].valued != 0, net.weights, side * net.nodes[n].row
    together = TOGETHER if block % LINES and block < 2 * LINES else FEWER
    if count > 1 and block <= WORD:  # a small window: add them all up first, and what follows them
        state.window[:] = 0
        add_rows(state.window, 0, weights, state.rows, state.values, 0, count, 0, WORD, valued)
        valued, weights, count, state.rows[0] = False, state.window, 1, 0
    for y in range(top, bottom):
        first = (row + y) * width + column + left
        touch(net, state, n, first, first + right - left, clock)
        at, shift = net.nodes[n].first_v + first * channels, y * net.nodes[n].row + left * channels
        for i in range(0, count, together):
            add_rows(state.v, at, weights, state.rows, state.values, i, min(i + together, count), shift, size, valued)


@compiled
def add_bias(net, state, n, clock):
    """Add a node's bias to all of its membranes, all of which it lists as candidates."""
    places, channels = net.nodes[n].height * net.nodes[n].width, np.uint64(net.nodes[n].channels)
    at, bias = np.uint64(net.nodes[n].first_v), np.uint64(net.nodes[n].first_bias)
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
    fan, group, first = net.nodes[n].fan, net.nodes[n].group, net.nodes[net.nodes[n].source].first_place
    last = first + state.event_count[net.nodes[n].source]
    if (state.event_start[last] - state.event_start[first]) * group < FOR_A_GROUP * fan * (last - first):
        group = fan
    for begin in range(0, fan, group):
        charge_group(net, state, n, clock, first, last, begin, begin + group)


@compiled
def charge_group(net, state, n, clock, first, last, begin, end):
    """The same for the channels begin to end - 1 of the source's events first to last - 1. state.places: how many events of each
    place earlier groups had."""
    fan, entry, block = net.nodes[n].fan, net.nodes[n].first_entry, net.nodes[n].side * net.nodes[n].row
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
                state.rows[count] = net.nodes[n].first_w + (phase * fan + state.event_channel[e]) * block
                state.values[count] = state.event_value[e]
                count += 1
                e += 1
            state.places[i - first] = e - state.event_start[i]


@compiled
def fire(net, state, n, clock):
    """Spikes of the candidates, their soft reset, and how many; who is still above threshold stays a candidate, and so does who
    is below the floor, to which candidates are brought up first.

    clock: steps whose leak the potential compared with the threshold has had. A delayed neuron leaks before its reset.
    """
    threshold, floor, leaks = net.threshold[n], net.floor[n], net.leak[n] != 1
    channels, first_v, places = net.nodes[n].channels, net.nodes[n].first_v, net.nodes[n].first_place
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
            if floor > -np.inf:
                lift(net, state, n, place)
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
                    if state.v[neuron] > threshold or state.v[neuron] < floor:
                        keep |= np.uint64(1) << np.uint64(bit)
        state.listed[word] = keep
        kept |= keep != 0
    state.event_start[places + events] = event
    state.event_count[n], state.busy[n] = events, kept
    return event - first_v
