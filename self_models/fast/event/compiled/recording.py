"""What is recorded of an image's run: which neurons spike in a step, and membrane potentials after it."""

from typing import NamedTuple

import numpy as np

from self_models.fast.compiling import compiled
from self_models.fast.event.compiled.kernels import decay
from self_models.fast.event.compiled.nets import CHANNELS, FIRST_PLACE, FIRST_V, HEIGHT, WIDTH


class Recorded(NamedTuple):
    """fired (T, B, N), membranes (T, B, M), of the neurons that are asked for. column: of each neuron, in the order of State.v,
    its place among the N, -1 for none; (0,) where none is asked for. node, place, neuron (M,): where the membranes are, neuron in
    the order of State.v. decodes: by node, whether it is the decoder's."""

    fired: np.ndarray
    membranes: np.ndarray
    column: np.ndarray
    node: np.ndarray
    place: np.ndarray
    neuron: np.ndarray
    decodes: np.ndarray


def new_recorded(net, steps, batch, spikes=(), membranes=()):
    """Recorded for a Net's run. spikes, membranes: (node, numbers of neurons in the order of (C, H, W), or None for all)."""
    decodes = np.zeros(len(net.nodes), np.bool_)
    decodes[net.feedback] = True
    (_, _, spiking), (node, place, neuron) = (positions(net, asked) for asked in (spikes, membranes))
    column = np.full(net.nodes[-1, FIRST_V] + np.prod(net.nodes[-1, : CHANNELS + 1]) if len(spiking) else 0, -1, np.int64)
    column[spiking] = np.arange(len(spiking))
    fired, values = (np.zeros((steps, batch, len(where)), kind) for where, kind in ((spiking, np.bool_), (neuron, np.float32)))
    return Recorded(fired, values, column, node, place, neuron, decodes)


def positions(net, asked):
    """(node, place, number in the order of State.v) of the neurons that are asked for, three arrays."""
    found = [np.zeros((3, 0), np.int64)]
    for node, neurons in asked:
        channels, places = net.nodes[node, CHANNELS], net.nodes[node, HEIGHT] * net.nodes[node, WIDTH]
        channel, place = np.divmod(np.arange(channels * places) if neurons is None else neurons.numpy(), places)
        found.append(np.stack([np.full_like(place, node), place, net.nodes[node, FIRST_V] + place * channels + channel]))
    return np.ascontiguousarray(np.concatenate(found, 1))


@compiled
def record_input(net, state, recorded, pixels, image, b, t):
    """Which input neurons send in step t: those whose events there are, or, where the gate counts them, see Once, those that have
    their turn."""
    if not len(recorded.column):
        return
    if pixels.gate.events < 0:
        record_events(net, state, recorded, 0, b, t)
    elif pixels.gate.events > 0:
        for pixel in range(len(image)):
            column = recorded.column[pixel]
            if column >= 0 and pixels.is_open[pixel] and pixels.done[pixel] and (t > 0 or image[pixel] != 0):
                recorded.fired[t, b, column] = True


@compiled
def record_events(net, state, recorded, n, b, t):
    """Which neurons of a node have just spiked, in step t."""
    places, channels, first = net.nodes[n, FIRST_PLACE], net.nodes[n, CHANNELS], net.nodes[n, FIRST_V]
    for i in range(places, places + state.event_count[n]):
        for e in range(state.event_start[i], state.event_start[i + 1]):
            column = recorded.column[first + state.event_place[i] * channels + state.event_channel[e]]
            if column >= 0:
                recorded.fired[t, b, column] = True


@compiled
def record_layers(net, state, recorded, clock, decodes, ran, b, t):
    """The spikes of step t, and the membranes after it, their leak brought up to date. clock, decodes: steps, and steps of the
    decoder, until then; ran: whether the decoder did."""
    if len(recorded.column):
        for n in range(1, net.output):
            if ran or not recorded.decodes[n]:
                record_events(net, state, recorded, n, b, t)
    record_membranes(net, state, recorded, clock, decodes, b, t)


@compiled
def record_membranes(net, state, recorded, clock, decodes, b, t):
    """The membranes after step t, see record_layers."""
    for i in range(len(recorded.neuron)):
        n = recorded.node[i]
        if net.leak[n] != 1:
            decay(net, state, n, recorded.place[i], decodes if recorded.decodes[n] else clock)
        recorded.membranes[t, b, i] = max(state.v[recorded.neuron[i]], net.floor[n])
