"""What the compiled kernels of the event engine read and write: a model as a Net, and one image's network as a State."""

from typing import NamedTuple

import numpy as np

from self_models.fast.compiling import SOURCES
from self_models.fast.event.compiled.vectors import LANES

SOURCES.add(__file__)  # compiled code holds its numbers

# columns of Net.nodes: shape; first membrane and first place in the state; where the spikes come from, window side, channels
# of the source, channels of it whose weights stay in the cache together, floats of a row of the window, first weight, first entry
# of the tables, whether the source's events have values other than 1; first bias, and the node of the maximum pool of its spikes,
# 0 where there is none; whether the node is a pool of spike counts
HEIGHT, WIDTH, CHANNELS, FIRST_V, FIRST_PLACE, SOURCE, SIDE, FAN, GROUP, ROW, FIRST_W, FIRST_ENTRY, VALUED = range(13)
FIRST_BIAS, POOL, COUNTS, COLUMNS = range(13, 17)
WORD = 64  # bits of a word of State.listed, membranes compared with their threshold at once, and floats of a small window


class Net(NamedTuple):
    """Arrays that the kernels read. Node 0 is the input; then the spiking layers in the model's order; then the output, the
    decoder's output, maximum pools of spikes, the encoder's spikes that wait for the decoder, and what a held input adds to the
    first layer in a step.

    nodes: (nodes, COLUMNS) int64, see above. threshold, leak, start, floor: by node, start being the potential with which a run
    begins, floor the lowest that there is; bias: by channel, from FIRST_BIAS on, what a neuron gets at each step whatever comes.
    forward, feedback: nodes that run at every step, and at those at which the decoder runs, in their order, each with a
    connection into it; early: of forward, those that the gate lets run while the others wait, the first ones; forked, output,
    decoded, waiting, drive: nodes, -1 where absent. weights: each connection's (phase,
    channel, window row, window column, target channel). phase, row, column: for each place of a connection's source the phase, -1
    where it reaches nothing, and the window's corner.
    """

    nodes: np.ndarray
    threshold: np.ndarray
    leak: np.ndarray
    start: np.ndarray
    floor: np.ndarray
    bias: np.ndarray
    forward: np.ndarray
    feedback: np.ndarray
    early: np.ndarray
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
    """One image's network between steps; every array covers all nodes, see FIRST_V and FIRST_PLACE. Several images' have another
    dimension before.

    v: membrane potentials. decayed: steps whose leak a place's membranes have had. listed: a bit for each place, whether it is a
    candidate: its membranes may have passed their threshold; busy: by node, whether it has one. event_place, event_start,
    event_channel, event_value: the node's latest spikes, in the order of their places; event_count: places with spikes, by node.
    sent: spikes of each neuron so far, and of what passes, where a maximum pool counts, else no room.
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
    sent: np.ndarray
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
        "sent": (v if nodes[:, COUNTS].any() else 0, np.int32),
        "held": (padded_places(sizes[0]) // WORD, np.uint64),
        "rows": (room, np.int64),
        "values": (room, np.float32),
        "window": (WORD, np.float32),
    }


def new_state(net, count=1):
    """The State of this many images, zeros."""
    return State(**{name: np.zeros((count, size), kind) for name, (size, kind) in state_sizes(net.nodes).items()})
