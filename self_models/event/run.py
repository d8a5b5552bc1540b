"""Compiled runs of the event engine: the steps of the layers, and all steps of an image until it stops or falls silent."""

from typing import NamedTuple

import numpy as np

from self_models.basics.compiled import cached, compiled, sources_digest, switch
from self_models.event.counts import count
from self_models.event.kernels import CHANNELS, FIRST_PLACE, FIRST_V, SOURCE, charge, copy, fire, list_places, touch, unlist
from self_models.event.pixels import (
    LISTED,
    clear,
    emit,
    integrate,
    list_active,
    send,
    start,
)
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import ACTIVE, CHANGED, COMPARED, GATES, LOOK_AGAIN, WANTS
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES, Never

PARTS = {*ENCODINGS.values(), *GATES.values(), *READOUTS.values(), *RULES.values()}  # that are compiled here
may_stop = switch([rule.kernel or Never.kernel for rule in RULES.values()])


class Results(NamedTuple):
    """What a run fills in. logits (B, T, labels), after each step; counts (B, T, nodes), spikes of each step; steps, comparisons,
    decodes (B,), these of the decoder's steps; errors (B, T), squared error summed over pixels; open_share (B, T), of active
    pixels; frames (T, B, Q), (0, 0, 0) if not wanted."""

    logits: np.ndarray
    counts: np.ndarray
    steps: np.ndarray
    comparisons: np.ndarray
    decodes: np.ndarray
    errors: np.ndarray
    open_share: np.ndarray
    predictions: np.ndarray
    predicted: np.ndarray
    is_open: np.ndarray


# --- one step of the layers


@compiled
def drive(net, state):
    """Where the gate holds what it knows: what the input's events add to the first layer in each step until others come."""
    if net.drive > 0:
        clear(net, state, net.drive)
        charge(net, state, net.drive, 0)


@compiled
def charge_node(net, state, n, clock):
    """charge, or for the events of an input that is held the sum of drive."""
    if net.drive < 0 or net.nodes[n, SOURCE] != 0:
        charge(net, state, n, clock)
        return
    channels = net.nodes[n, CHANNELS]
    first, source = net.nodes[n, FIRST_V], net.nodes[net.drive, FIRST_V]
    for i in range(list_places(net, state, net.drive)):
        place = state.places[i]
        touch(net, state, n, place, place + 1, clock)
        for c in range(channels):
            state.v[first + place * channels + c] += state.v[source + place * channels + c]


@compiled
def run_layers(net, state, activity, nodes, clock, counts, rests):
    """One step of these nodes in their order; counts[n]: set to the spikes of each that fires, if any. clock: steps before;
    rests: whether the decoder does."""
    for n in nodes:
        source = net.nodes[n, SOURCE]
        if net.immediate and state.event_count[source]:
            charge_node(net, state, n, clock + 1)
        state.event_count[n] = 0
        if n < net.output and state.busy[n]:
            counts[n] = fire(net, state, n, clock + net.immediate)
            if activity.events.size:
                count(net, state, activity, n, rests)
        if not net.immediate and state.event_count[source]:
            charge_node(net, state, n, clock + 1)


@compiled
def wait(net, state):
    """Count the encoder's latest spikes until the decoder runs."""
    source, n = net.forked, net.waiting
    places, channels = net.nodes[source, FIRST_PLACE], net.nodes[source, CHANNELS]
    for i in range(places, places + state.event_count[source]):
        place = state.event_place[i]
        touch(net, state, n, place, place + 1, 0)
        for e in range(state.event_start[i], state.event_start[i + 1]):
            state.v[net.nodes[n, FIRST_V] + place * channels + state.event_channel[e]] += 1


@compiled
def release(net, state):
    """Make the spikes that wait for the decoder into events whose value is their number."""
    n = net.waiting
    places, channels, event = net.nodes[n, FIRST_PLACE], net.nodes[n, CHANNELS], net.nodes[n, FIRST_V]
    count = list_places(net, state, n)
    for i in range(count):
        place = state.places[i]
        state.event_place[places + i], state.event_start[places + i] = place, event
        at = net.nodes[n, FIRST_V] + place * channels
        for c in range(channels):
            if state.v[at + c] > 0:
                state.event_channel[event], state.event_value[event] = c, state.v[at + c]
                event += 1
                state.v[at + c] = 0
    state.event_start[places + count], state.event_count[n] = event, count
    unlist(net, state, n)


@compiled
def decode(net, state, activity, clock, counts):
    """The decoder's step number `clock`; its output is then net.decoded's membranes, at that node's candidates."""
    if net.waiting > 0:
        release(net, state)
        if activity.events.size:
            count(net, state, activity, net.waiting, False)
    run_layers(net, state, activity, net.feedback, clock, counts, False)
    last = net.feedback[len(net.feedback) - 1]
    if last == net.decoded:
        return
    places, channels = net.nodes[last, FIRST_PLACE], net.nodes[last, CHANNELS]
    for i in range(places, places + state.event_count[last]):
        place = state.event_place[i]
        touch(net, state, net.decoded, place, place + 1, 0)
        for e in range(state.event_start[i], state.event_start[i + 1]):
            state.v[net.nodes[net.decoded, FIRST_V] + place * channels + state.event_channel[e]] = 1


# --- a whole run


@compiled
def is_quiet(net, state):
    """Whether no neuron has anything left to do."""
    busy = False
    for n in range(len(net.nodes)):
        if n != net.output and n != net.drive:
            busy |= state.busy[n]
    return not busy


@compiled
def show(results, pixels, b, t):
    """Frames of step t, where wanted."""
    copy(results.predictions[t, b], pixels.prediction)
    copy(results.predicted[t, b], pixels.predicted)
    copy(results.is_open[t, b], pixels.step_open)


@compiled
def run_image(net, state, activity, settings, pixels, image, uniforms, number, results, b):
    """All steps of one image, row b of the results. Once nothing can change any more the rest is filled in."""
    error, active = start(net, state, settings, pixels, image)
    decodes = comparisons = t = 0
    logits = state.v[net.nodes[net.output, FIRST_V] : net.nodes[net.output, FIRST_V] + net.nodes[net.output, CHANNELS]]
    frames = len(results.predictions) > 0
    stopped = explains = False
    is_new = True  # what the input neurons may send
    while t < settings.timesteps:
        open_share = np.float32(pixels.tally[ACTIVE]) / np.float32(max(active, 1))
        if frames:
            copy(pixels.step_open, pixels.is_open)
        counts = results.counts[b, t]
        counts[0] = send(net, state, settings, pixels, explains, uniforms, number, b, t)
        if is_new:
            drive(net, state)
            is_new = False
        rests = settings.has_feedback and not pixels.tally[WANTS]
        if activity.events.size:
            count(net, state, activity, 0, rests)
        run_layers(net, state, activity, net.forward, t, counts, rests)
        if net.waiting > 0:
            wait(net, state)
        decodes_now = settings.has_feedback and not rests and (t + 1) % settings.feedback_interval == 0
        if decodes_now:
            decode(net, state, activity, decodes, counts)
        if decodes_now or (settings.completes and pixels.tally[LOOK_AGAIN]):
            comparisons += pixels.tally[COMPARED]
            everywhere = decodes == 0 or settings.readout_leak != 1
            error += integrate(net, state, settings, pixels, image, decodes_now, everywhere)
            decodes += decodes_now
            is_new = settings.residual or pixels.tally[CHANGED] > 0
            if pixels.tally[CHANGED] or explains != settings.residual:
                explains = settings.residual
                list_active(pixels, image, explains)
        results.errors[b, t], results.open_share[b, t] = error, open_share
        copy(results.logits[b, t], logits)
        if frames:
            show(results, pixels, b, t)
        t += 1
        stopped = t == settings.timesteps or may_stop(settings.rule, settings, logits, pixels.tally[ACTIVE], active)
        if stopped:
            break
        still = not settings.has_feedback or not pixels.tally[WANTS] or (decodes > 0 and settings.readout_leak == 1)
        if still and pixels.tally[LOOK_AGAIN] == 0 and pixels.tally[LISTED] == 0 and is_quiet(net, state):
            break
    results.steps[b] = t if stopped else settings.timesteps
    if not stopped:
        left = settings.timesteps // settings.feedback_interval - decodes if settings.has_feedback and pixels.tally[WANTS] else 0
        comparisons, decodes = comparisons + left * pixels.tally[COMPARED], decodes + left
        open_share = np.float32(pixels.tally[ACTIVE]) / np.float32(max(active, 1))
        copy(pixels.step_open, pixels.is_open)
    for later in range(t, settings.timesteps):
        results.counts[b, later] = 0
        results.errors[b, later], results.open_share[b, later] = error, open_share
        copy(results.logits[b, later], logits)
        if frames:
            show(results, pixels, b, later)
    results.comparisons[b], results.decodes[b] = comparisons, decodes


# --- what Python calls


def entry_points():
    """(run_images, advance), compiled once and kept on disk."""
    digest = sources_digest()

    @cached
    def run_images(net, state, activity, settings, pixels, images, uniforms, index, results, first, last):
        """Images first to last - 1, one after the other. images (B, Q); uniforms (T, B, Q), see send, or empty; index (B,)."""
        assert digest
        for b in range(first, last):
            run_image(net, state, activity, settings, pixels, images[b], uniforms, index[b], results, b)

    @cached
    def advance(net, state, activity, every, signal, clock, decodes_at, rests, counts, decoded):
        """One step on what the input neurons send, (Q,). counts (nodes,): filled with the spikes. decodes_at: number of the
        decoder's step, or -1 where it does not run; rests: nor will; decoded (Q,): filled with its output."""
        assert digest
        counts[0] = emit(net, state, every, signal)
        drive(net, state)
        if activity.events.size:
            count(net, state, activity, 0, rests)
        run_layers(net, state, activity, net.forward, clock, counts, rests)
        if net.waiting > 0:
            wait(net, state)
        if decodes_at >= 0:
            decode(net, state, activity, decodes_at, counts)
            first = net.nodes[net.decoded, FIRST_V]
            copy(decoded, state.v[first : first + len(decoded)])
            clear(net, state, net.decoded)

    return run_images, advance


run_images, advance = entry_points()
