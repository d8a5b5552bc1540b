"""Compiled runs of the event engine: the steps of the layers, and all steps of an image until it stops or nothing can change."""

from collections import namedtuple

import numpy as np

from self_models.fast.compiling import cached, compiled, sources_digest
from self_models.fast.event.compiled.changing import forget_all, turn
from self_models.fast.event.compiled.counts import count
from self_models.fast.event.compiled.kernels import add_bias, charge, copy, decay, fire, list_places, state_at, touch, unlist
from self_models.fast.event.compiled.nets import WORD
from self_models.fast.event.compiled.parts import holds
from self_models.fast.event.compiled.pixels import integrate, pixels_at, send, start
from self_models.fast.event.compiled.vectors import above, lowest

# What a run fills in. logits (B, T, labels), after each step; counts (B, T, nodes), spikes of each step, 0 before; steps,
# comparisons, decodes (B,), these of the decoder's steps; error (B, T), squared, summed over pixels; open_share (B, T), of active
# pixels; prediction, predicted, is_open (T, B, Q), (0, 0, 0) if not wanted.
Results = namedtuple("Results", "logits counts steps comparisons decodes error open_share prediction predicted is_open")


def new_results(batch, steps, nodes, labels, frames):
    """Results of images (batch, Q) over so many steps. frames: whether they are wanted."""
    size, pixels = len(batch), (steps, *batch.shape) if frames else (0, 0, 0)
    return Results(
        logits=np.empty((size, steps, labels), np.float32),
        counts=np.zeros((size, steps, nodes), np.int32),
        **{name: np.zeros(size, np.int64) for name in ("steps", "comparisons", "decodes")},
        **{name: np.zeros((size, steps), np.float32) for name in ("error", "open_share")},
        **{name: np.empty(pixels, kind) for name, kind in (("prediction", "f4"), ("predicted", "?"), ("is_open", "?"))},
    )


# --- one step of the layers


@compiled
def charge_node(net, state, n, clock, biased):
    """What a node gets in a step: its bias, if it is biased now, and the weights of its source's latest spikes."""
    if biased and net.nodes[n].first_bias:
        add_bias(net, state, n, clock)
    if state.event_count[net.nodes[n].source]:
        charge(net, state, n, clock)


@compiled
def run_layers(net, state, activity, nodes, clock, phase, counts):
    """One step of these nodes in their order; counts[n]: set to the spikes of each that fires, if any. clock: steps before;
    phase: how many each phase has of a phased network, else 0."""
    for n in nodes:
        at = clock // phase - net.nodes[n].depth if phase else 0
        biased, fires = not phase or at == -1, at == 0
        if net.immediate:
            charge_node(net, state, n, clock + 1, biased)
        state.event_count[n] = 0
        if n < net.output and state.busy[n] and fires:
            counts[n] = fire(net, state, n, clock + net.immediate)
            count(net, state, activity, n)
        if not net.immediate:
            charge_node(net, state, n, clock + 1, biased)
        source, pool = n, net.nodes[n].pool
        while pool:
            pass_on(net, state, source, pool)
            counts[pool] = release(net, state, pool)
            count(net, state, activity, pool)
            source, pool = pool, net.nodes[pool].pool


@compiled
def pass_on(net, state, source, n):
    """Add a node's latest spikes, 1 each, to the membranes of node n, which has its shape, or is a pool of it: there those of 2x2
    places meet, and an odd row or column is left out; where it counts, the first that makes a new highest count."""
    places, channels, first = net.nodes[source].first_place, net.nodes[source].channels, net.nodes[n].first_v
    width, side = net.nodes[source].width, 2 if net.nodes[source].pool == n else 1
    for i in range(places, places + state.event_count[source]):
        place = state.event_place[i]
        if side > 1:
            row, column = place // width // side, place % width // side
            if row == net.nodes[n].height or column == net.nodes[n].width:
                continue
            place = row * net.nodes[n].width + column
        touch(net, state, n, place, place + 1, 0)
        from_, onto = net.nodes[source].first_v + state.event_place[i] * channels, first + place * channels
        for e in range(state.event_start[i], state.event_start[i + 1]):
            channel = state.event_channel[e]
            if net.nodes[n].counts:
                state.sent[from_ + channel] += not net.nodes[source].counts  # which has counted what it let through
                if state.sent[from_ + channel] <= state.sent[onto + channel]:
                    continue
                state.sent[onto + channel] += 1
            state.v[onto + channel] += 1


@compiled
def release(net, state, n):
    """Make the spikes that have met in a node, of a pool or waiting for the decoder, into events whose value is their number.
    Returns how many events."""
    places, channels, first = net.nodes[n].first_place, net.nodes[n].channels, net.nodes[n].first_v
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
def decode(net, state, activity, clock, phase, counts):
    """The decoder's step number `clock`; its output is then net.decoded's membranes, at that node's candidates."""
    if net.waiting > 0:
        release(net, state, net.waiting)
        count(net, state, activity, net.waiting)
    run_layers(net, state, activity, net.feedback, clock, phase, counts)
    last = net.feedback[len(net.feedback) - 1]
    if last != net.decoded:
        pass_on(net, state, last, net.decoded)


# --- a whole run


@compiled
def is_over(net, state, settings, pixels):
    """Whether nothing can change any more: no input neuron can send, no neuron is left above its threshold or has a bias, and
    neither the pixels that the gate has yet to look at nor a read-out that leaks change what is seen."""
    looks = settings.has_feedback and (pixels.run.look_again or settings.readout_leak != 1)
    if looks or pixels.run.sending:
        return False
    busy = False
    for n in range(len(net.nodes)):
        busy |= n != net.output and (state.busy[n] or net.nodes[n].first_bias > 0)
    return not busy


@compiled
def begin_step(results, pixels):
    """What is open in the coming step, for what it shows."""
    pixels.run.open_share = np.float32(pixels.run.active) / np.float32(max(pixels.run.of_image, 1))
    if len(results.prediction):
        copy(pixels.step_open, pixels.is_open)


@compiled
def take_step(net, state, activity, settings, pixels, uniforms, number, results, b, t):
    """Step t of these of one image, row b of the results: input, layers, and where the decoder runs, pixels."""
    counts, clock = results.counts[b, t], pixels.run.steps
    counts[0] = send(net, state, settings, pixels, uniforms, number, b, t)
    count(net, state, activity, 0)
    run_layers(net, state, activity, net.forward, clock, settings.phase, counts)
    if net.waiting > 0:
        pass_on(net, state, net.forked, net.waiting)  # until the decoder runs
    if settings.has_feedback and (clock + 1) % settings.feedback_interval == 0:
        decode(net, state, activity, pixels.run.decodes, settings.phase, counts)
        integrate(net, state, settings, pixels)
    pixels.run.steps = clock + 1


@compiled
def show(net, state, settings, results, pixels, aim, b, t):
    """Fill in what step t shows, beside its spikes; the outputs leak up to the steps taken. aim: what a prediction of the next
    frame is compared with."""
    first = net.nodes[net.output].first_v
    if net.leak[net.output] != 1:
        decay(net, state, net.output, 0, pixels.run.steps)
    logits = state.v[first : first + net.nodes[net.output].channels]
    results.error[b, t], results.open_share[b, t] = pixels.run.error, pixels.run.open_share
    if settings.next_frame:
        error = 0.0
        for pixel in range(len(aim)):
            error += (aim[pixel] - pixels.prediction[pixel]) ** 2
        results.error[b, t] = error
    copy(results.logits[b, t], logits)
    if len(results.prediction):
        copy(results.prediction[t, b], pixels.prediction)
        copy(results.predicted[t, b], pixels.predicted)
        copy(results.is_open[t, b], pixels.step_open)


@compiled
def run_image(net, state, activity, settings, pixels, frames, uniforms, number, results, b):
    """All steps of one image, row b of the results: until it stops, or to the last, or until nothing can change any more. What
    later steps show is filled in. A streaming network goes on from its state, and does not stop. frames (F, Q): of a
    recording what each step sees, else the image alone."""
    aim = frames[0]
    first, run, goes_on = net.nodes[net.output].first_v, pixels.run, settings.left_on and pixels.run.steps > 0
    logits = state.v[first : first + net.nodes[net.output].channels]
    if goes_on:
        turn(net, state, settings, pixels, frames[0])
    else:
        start(net, state, settings, pixels, frames[0])
    begun, end, t, stops, run.comparisons = run.decodes, run.steps + settings.timesteps, 0, False, 0
    while not stops and run.steps < end and (t < len(frames) or not is_over(net, state, settings, pixels)):
        if 0 < t < len(frames):
            turn(net, state, settings, pixels, frames[t])
        aim = frames[min(t + settings.next_frame, len(frames) - 1)]
        begin_step(results, pixels)
        take_step(net, state, activity, settings, pixels, uniforms, number, results, b, t)
        show(net, state, settings, results, pixels, aim, b, t)
        t += 1
        stops = not settings.left_on and holds(settings.rule, settings, logits, run.active, run.of_image)
    results.steps[b] = t if stops else settings.timesteps
    if not stops:
        begin_step(results, pixels)
    for later in range(t, settings.timesteps):
        if not stops:
            run.steps += 1
            if settings.has_feedback and run.steps % settings.feedback_interval == 0:  # the decoder goes on
                run.decodes, run.comparisons = run.decodes + 1, run.comparisons + run.compared
        show(net, state, settings, results, pixels, aim, b, later)
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
        network streams; with no step to take these are then brought up to date."""
        assert digest
        for b in range(first, last):
            row = b if settings.left_on else 0
            state, own = state_at(states, row), pixels_at(pixels, row)
            run_image(net, state, activity, settings, own, images[b], uniforms, index[b], results, b)

    return run_images


run_images = entry_point()
