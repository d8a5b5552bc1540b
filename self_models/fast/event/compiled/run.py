"""Compiled runs of the event engine: the steps of the layers, and all steps of an image until it stops or nothing can change."""

from typing import NamedTuple

import numpy as np

from self_models.fast.compiling import cached, compiled, sources_digest, switch
from self_models.fast.event.compiled.counts import count
from self_models.fast.event.compiled.kernels import (
    add_bias,
    charge,
    copy,
    decay,
    fire,
    list_places,
    rest_again,
    state_at,
    touch,
    unlist,
)
from self_models.fast.event.compiled.nets import (
    CHANNELS,
    COUNTS,
    FIRST_BIAS,
    FIRST_PLACE,
    FIRST_V,
    HEIGHT,
    POOL,
    SOURCE,
    WIDTH,
    WORD,
)
from self_models.fast.event.compiled.pixels import clear, integrate, look_is_due, pixels_at, send, start
from self_models.fast.event.compiled.recording import Recorded, record_input, record_layers, record_membranes
from self_models.fast.event.compiled.turning import forget_all, turn
from self_models.fast.event.compiled.vectors import above, lowest
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES, Never

PARTS = {*ENCODINGS.values(), *GATES.values(), *READOUTS.values(), *RULES.values()}  # that are compiled here
holds = switch([rule.kernel or Never.kernel for rule in RULES.values()])


class Results(NamedTuple):
    """What a run fills in. logits (B, T, labels), after each step; counts (B, T, nodes), spikes of each step, 0 before; steps,
    comparisons, decodes (B,), these of the decoder's steps; errors (B, T), squared error summed over pixels; open_share (B, T),
    of active pixels; frames (T, B, Q), (0, 0, 0) if not wanted; recorded: what record asks for."""

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
    recorded: Recorded


def new_results(batch, steps, nodes, labels, frames, recorded):
    """Results of images (batch, Q) over so many steps. frames: whether they are wanted; recorded: to be filled, too."""
    size, pixels = len(batch), (steps, *batch.shape) if frames else (0, 0, 0)
    return Results(
        logits=np.empty((size, steps, labels), np.float32),
        counts=np.zeros((size, steps, nodes), np.int32),
        **{name: np.zeros(size, np.int64) for name in ("steps", "comparisons", "decodes")},
        **{name: np.zeros((size, steps), np.float32) for name in ("errors", "open_share")},
        **{name: np.empty(pixels, kind) for name, kind in (("predictions", "f4"), ("predicted", "?"), ("is_open", "?"))},
        recorded=recorded,
    )


# --- one step of the layers


@compiled
def drive(net, state):
    """Where the gate holds what it knows: what the input's events add to the first layer in each step until others come."""
    if net.drive > 0:
        clear(net, state, net.drive)
        charge(net, state, net.drive, 0)


@compiled
def charge_node(net, state, n, clock):
    """A node's bias, and charge, or for the events of an input that is held the sum of drive."""
    if net.nodes[n, FIRST_BIAS]:
        add_bias(net, state, n, clock)
    if state.event_count[net.nodes[n, SOURCE]] == 0:
        return
    if net.drive < 0 or net.nodes[n, SOURCE] != 0:
        charge(net, state, n, clock)
        return
    channels = np.uint64(net.nodes[n, CHANNELS])
    for i in range(list_places(net, state, net.drive)):
        place = state.places[i]
        touch(net, state, n, place, place + 1, clock)
        at = np.uint64(net.nodes[n, FIRST_V] + place * net.nodes[n, CHANNELS])
        source = np.uint64(net.nodes[net.drive, FIRST_V] + place * net.nodes[n, CHANNELS])
        for o in range(channels):
            state.v[at + o] += state.v[source + o]


@compiled
def run_layers(net, state, activity, nodes, clock, counts, rests, waits):
    """One step of these nodes in their order; counts[n]: set to the spikes of each that fires, if any. clock: steps before;
    rests: whether the decoder does; waits: whether what is behind the fork does."""
    for n in nodes:
        if net.immediate:
            charge_node(net, state, n, clock + 1)
        state.event_count[n] = 0
        if n < net.output and state.busy[n]:
            counts[n] = fire(net, state, n, clock + net.immediate)
            if activity.events.size:
                count(net, state, activity, n, rests, waits)
        if not net.immediate:
            charge_node(net, state, n, clock + 1)
        source, pool = n, net.nodes[n, POOL]
        while pool and not (waits and source == net.forked):
            pass_on(net, state, source, pool)
            counts[pool] = release(net, state, pool)
            if activity.events.size:
                count(net, state, activity, pool, rests, waits)
            source, pool = pool, net.nodes[pool, POOL]


@compiled
def pass_on(net, state, source, n):
    """Add a node's latest spikes, 1 each, to the membranes of node n, which has its shape, or is a pool of it: there those of 2x2
    places meet, and an odd row or column is left out; where it counts, the first that makes a new highest count."""
    places, channels, first = net.nodes[source, FIRST_PLACE], net.nodes[source, CHANNELS], net.nodes[n, FIRST_V]
    width, side = net.nodes[source, WIDTH], 2 if net.nodes[source, POOL] == n else 1
    for i in range(places, places + state.event_count[source]):
        place = state.event_place[i]
        if side > 1:
            row, column = place // width // side, place % width // side
            if row == net.nodes[n, HEIGHT] or column == net.nodes[n, WIDTH]:
                continue
            place = row * net.nodes[n, WIDTH] + column
        touch(net, state, n, place, place + 1, 0)
        from_, onto = net.nodes[source, FIRST_V] + state.event_place[i] * channels, first + place * channels
        for e in range(state.event_start[i], state.event_start[i + 1]):
            channel = state.event_channel[e]
            if net.nodes[n, COUNTS]:
                state.sent[from_ + channel] += not net.nodes[source, COUNTS]  # which has counted what it let through
                if state.sent[from_ + channel] <= state.sent[onto + channel]:
                    continue
                state.sent[onto + channel] += 1
            state.v[onto + channel] += 1


@compiled
def release(net, state, n):
    """Make the spikes that have met in a node, of a pool or waiting for the decoder, into events whose value is their number.
    Returns how many events."""
    places, channels, first = net.nodes[n, FIRST_PLACE], net.nodes[n, CHANNELS], net.nodes[n, FIRST_V]
    count, event = list_places(net, state, n), first
    for i in range(count):
        place = state.places[i]
        state.event_place[places + i], state.event_start[places + i] = place, event
        for begin in range(0, channels, WORD):
            at = first + place * channels + begin
            mask = above(state.v, at, min(WORD, channels - begin), np.float32(0))
            while mask:
                neuron = at + lowest(mask)
                mask &= mask - np.uint64(1)
                state.event_channel[event], state.event_value[event] = neuron - at + begin, state.v[neuron]
                event += 1
                state.v[neuron] = 0
    state.event_start[places + count], state.event_count[n] = event, count
    unlist(net, state, n)
    return event - first


@compiled
def decode(net, state, activity, clock, counts):
    """The decoder's step number `clock`; its output is then net.decoded's membranes, at that node's candidates."""
    if net.waiting > 0:
        release(net, state, net.waiting)
        if activity.events.size:
            count(net, state, activity, net.waiting, False, False)
    run_layers(net, state, activity, net.feedback, clock, counts, False, False)
    last = net.feedback[len(net.feedback) - 1]
    if last != net.decoded:
        pass_on(net, state, last, net.decoded)


# --- a whole run


@compiled
def is_quiet(net, state):
    """Whether no neuron has anything left to do; one with a bias always has."""
    busy = False
    for n in range(len(net.nodes)):
        if n != net.output and n != net.drive:
            busy |= state.busy[n] or net.nodes[n, FIRST_BIAS] > 0
    return not busy


@compiled
def is_over(net, state, settings, pixels):
    """Whether nothing can change any more: no input neuron can send, no neuron is left above its threshold, and neither the
    pixels that the gate has yet to look at nor a read-out that leaks change what is seen."""
    decodes = settings.has_feedback and pixels.gate.wants
    looks = look_is_due(settings, pixels, decodes) and (pixels.gate.look_again or settings.readout_leak != 1)
    return pixels.run.sending == 0 and not (looks or pixels.gate.waits) and is_quiet(net, state)


@compiled
def begin_step(results, pixels):
    """What is open in the coming step, for what it shows."""
    pixels.run.open_share = np.float32(pixels.run.active) / np.float32(max(pixels.run.of_image, 1))
    if len(results.predictions):
        copy(pixels.step_open, pixels.is_open)


@compiled
def take_step(net, state, activity, settings, pixels, image, uniforms, number, results, b, t):
    """Step t of these of one image, row b of the results: input, layers, and where the decoder runs or the gate looks, pixels."""
    counts, rests = results.counts[b, t], settings.has_feedback and not pixels.gate.wants
    clock, waits = pixels.run.steps, pixels.gate.waits
    if pixels.gate.anew:
        for n in net.early:
            rest_again(net, state, n)
        pixels.gate.anew = False
    decodes = settings.has_feedback and not rests and (clock + 1) % settings.feedback_interval == 0
    counts[0] = send(net, state, settings, pixels, uniforms, number, b, t)
    record_input(net, state, results.recorded, pixels, image, b, t)
    if pixels.run.renewed:
        drive(net, state)
        pixels.run.renewed = False
    if activity.events.size:
        count(net, state, activity, 0, rests, waits)
    run_layers(net, state, activity, net.early if waits else net.forward, clock, counts, rests, waits)
    if net.waiting > 0:
        pass_on(net, state, net.forked, net.waiting)  # until the decoder runs
    if decodes:
        decode(net, state, activity, pixels.run.decodes, counts)
    if look_is_due(settings, pixels, decodes):
        integrate(net, state, settings, pixels, image, decodes, clock + 1)
    pixels.run.steps = clock + 1
    record_layers(net, state, results.recorded, clock + 1, pixels.run.decodes, decodes, b, t)


@compiled
def show(net, state, settings, results, pixels, aim, b, t):
    """Fill in what step t shows, beside its spikes; the outputs leak up to the steps taken. aim: what a prediction of the next
    frame is compared with."""
    first = net.nodes[net.output, FIRST_V]
    if net.leak[net.output] != 1:
        decay(net, state, net.output, 0, pixels.run.steps)
    logits = state.v[first : first + net.nodes[net.output, CHANNELS]]
    results.errors[b, t], results.open_share[b, t] = pixels.run.error, pixels.run.open_share
    if settings.predict:
        error = 0.0
        for pixel in range(len(aim)):
            error += (aim[pixel] - pixels.prediction[pixel]) ** 2
        results.errors[b, t] = error
    copy(results.logits[b, t], logits)
    if len(results.predictions):
        copy(results.predictions[t, b], pixels.prediction)
        copy(results.predicted[t, b], pixels.predicted)
        copy(results.is_open[t, b], pixels.step_open)


@compiled
def run_image(net, state, activity, settings, pixels, frames, uniforms, number, results, b):
    """All steps of one image, row b of the results: until it stops, or to the last, or until nothing can change any more. What
    later steps show is filled in. A network that is left on goes on from its state, and does not stop. frames (F, Q): of a
    recording what each step sees, else the image alone."""
    image = aim = frames[0]
    first, run, goes_on = net.nodes[net.output, FIRST_V], pixels.run, settings.left_on and pixels.run.steps > 0
    logits = state.v[first : first + net.nodes[net.output, CHANNELS]]
    if goes_on:
        turn(net, state, settings, pixels, image)
    else:
        start(net, state, settings, pixels, image)
    begun, end, t, stops, run.comparisons = run.decodes, run.steps + settings.timesteps, 0, False, 0
    least = max(settings.least_steps, len(frames))
    while not stops and run.steps < end and (t < least or not is_over(net, state, settings, pixels)):
        if 0 < t < len(frames):
            image = frames[t]
            turn(net, state, settings, pixels, image)
        aim = frames[min(t + settings.predict, len(frames) - 1)]
        begin_step(results, pixels)
        take_step(net, state, activity, settings, pixels, image, uniforms, number, results, b, t)
        show(net, state, settings, results, pixels, aim, b, t)
        t += 1
        may_stop = t >= settings.least_steps and not settings.left_on
        stops = may_stop and holds(settings.rule, settings, logits, run.active, run.of_image)
    decodes = not stops and settings.has_feedback and pixels.gate.wants  # the decoder goes on
    results.steps[b] = t if stops else settings.timesteps
    if not stops:
        begin_step(results, pixels)
    for later in range(t, settings.timesteps):
        if not stops:
            run.steps += 1
            if decodes and run.steps % settings.feedback_interval == 0:
                run.decodes, run.comparisons = run.decodes + 1, run.comparisons + pixels.gate.compared
        show(net, state, settings, results, pixels, aim, b, later)
        record_membranes(net, state, results.recorded, run.steps, run.decodes, b, later)
    if settings.timesteps == 0:
        forget_all(net, state, pixels, np.float32(1))
    results.comparisons[b], results.decodes[b] = run.comparisons, run.decodes - begun


def entry_point():
    """run_images, compiled once and kept on disk."""
    digest = sources_digest()

    @cached
    def run_images(net, states, activity, pixels, settings, images, uniforms, index, results, first, last):
        """Images first to last - 1, one after the other. images (B, F, Q), F frames of a recording, or 1;
        uniforms (T, B, Q), see send, or empty; index (B,). states, pixels: of one image, for each in turn, or of all, if the
        network is left on; with no step to take these are then brought up to date."""
        assert digest
        for b in range(first, last):
            row = b if settings.left_on else 0
            state, own = state_at(states, row), pixels_at(pixels, row)
            run_image(net, state, activity, settings, own, images[b], uniforms, index[b], results, b)

    return run_images


run_images = entry_point()
