"""What the compiled kernels of the event engine read and write: a model as Net and KernelSettings, one image as State."""

from collections import namedtuple

import numpy as np

from self_models.fast.compiling import SOURCES
from self_models.fast.event.compiled.vectors import LANES

SOURCES.add(__file__)  # compiled code holds its numbers

# Of a node: its shape; its first membrane and first place in the state; where its spikes come from, side of their window,
# channels of the source, channels of it whose weights stay in the cache together, floats of a row of the window, first weight,
# first entry of the tables, whether the source's events have values other than 1; its first bias, and the node of the maximum
# pool of its spikes, 0 where there is none; whether it is a pool of spike counts; its depth, see Wiring.depths.
NODE = np.dtype([(name, "i8") for name in (
    "height", "width", "channels", "first_v", "first_place", "source", "side", "fan", "group", "row", "first_w", "first_entry",
    "valued", "first_bias", "pool", "counts", "depth",
)], align=True)  # fmt: skip
WORD = 64  # bits of a word of State.listed, membranes compared with their threshold at once, and floats of a small window


# What kernels read of a network, arrays. Node 0 is the input; then come the spiking layers in the model's order, the output, the
# decoder's output, maximum pools of spikes, and the encoder's spikes that wait for the decoder. nodes: NODE. threshold, leak,
# start, floor: by node, start being the potential with which a run begins, floor the lowest that there is; bias: by channel, from
# first_bias on, what a neuron gets at each step whatever comes; immediate: of the update. weights: each connection's (phase,
# channel, window row, window column, target channel); phase, row, column: for each place of a connection's source the phase, -1
# where it reaches nothing, and the window's corner. forward, feedback: nodes that run at every step, and at those at which the
# decoder runs, in their order, each with a connection into it; forked, output, decoded, waiting: nodes, -1 where absent.
Net = namedtuple(
    "Net",
    "nodes threshold leak start floor bias immediate weights phase row column forward feedback forked output decoded waiting",
)

# What kernels read of a model's settings, as they are now. rule, readout, encoding: numbers of its parts, see parts.py; blocks:
# whether its gate does, the settings of which (epsilon to residual) are 0 and False where not; next_frame: predictions are
# compared with that; left_on: the network goes on from its state, for so many timesteps; phase: how many of them each phase of
# a phased network has, which an image is sent in the first of, else 0; channels: of the image, in colour or
# not; epoch, key: of the input's draws.
KernelSettings = namedtuple(
    "KernelSettings",
    "rule readout encoding blocks epsilon reopens together latch residual open_bound gap_bound entropy_bound readout_leak "
    "readout_slew surprise has_feedback feedback_interval next_frame left_on timesteps phase channels colour uses_draws epoch "
    "key",
)

# One image's network between steps; every array covers all nodes, see first_v and first_place. Several images' have another
# dimension before. v: membrane potentials. decayed: steps whose leak a place's membranes have had. listed: a bit for each place,
# whether it is a candidate: its membranes may have passed their threshold; busy: by node, whether it has one. event_place,
# event_start, event_channel, event_value: the node's latest spikes, in the order of their places; event_count: places with
# spikes, by node. sent: spikes of each neuron so far, and of what passes, where a maximum pool counts, else no room. held: a bit
# for each place, whether its prediction is held, so that the decoder's output there does not matter. places: room for a node's
# candidates; rows, values: for where one window's weights are; window: for the sum of a small one's.
State = namedtuple(
    "State",
    "v decayed listed busy places event_place event_start event_channel event_value event_count sent held rows values window",
)


def padded_places(size):
    """How many places of the state a node of this many has: whole words, and one more for the end of the last one's events."""
    return (int(size) // WORD + 1) * WORD


def state_sizes(nodes):
    """Array of a State -> (size, type), for Net.nodes.

    What numbers places or channels of one node has 32 bits, since a node has fewer than 2**31 neurons (memory_of in network.py
    refuses more); what numbers membranes or weights of all nodes together has 64.
    """
    sizes = nodes["height"] * nodes["width"]
    neurons = sizes * nodes["channels"]
    v, room, places = int(neurons.sum()), int(neurons.max()), int(nodes["first_place"][-1]) + padded_places(sizes[-1])
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
        "sent": (v if nodes["counts"].any() else 0, np.int32),
        "held": (padded_places(sizes[0]) // WORD, np.uint64),
        "rows": (room, np.int64),
        "values": (room, np.float32),
        "window": (WORD, np.float32),
    }


def new_state(net, count=1):
    """The State of this many images, zeros."""
    return State(**{name: np.zeros((count, size), kind) for name, (size, kind) in state_sizes(net.nodes).items()})
