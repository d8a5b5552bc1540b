"""Compiled input and read-out of one image: its draws, what its input neurons send, its prediction, what its gate makes of that.

The parts that a network may have, its encoding, read-out and gate, are called by their number: their place in their registry when
this module is imported.
"""

import math
from typing import NamedTuple

import numpy as np

from self_models.fast.compiling import compiled, inlined, switch
from self_models.fast.event.compiled.kernels import copy, list_places, rest, unlist
from self_models.fast.event.compiled.nets import CHANNELS, FIRST_PLACE, FIRST_V, WORD
from self_models.fast.philox import philox_block, uniform
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES, Gate
from self_models.objectives.readouts import READOUTS

encode = switch([encoding.kernel for encoding in ENCODINGS.values()])
predict, guess_of = (
    switch(kernels) for kernels in zip(*(part.kernels or READOUTS["membrane"].kernels for part in READOUTS.values()), strict=True)
)
see, look, rests, complete = (
    switch(kernels) for kernels in zip(*(part.kernels or Gate.kernels for part in GATES.values()), strict=True)
)

# What a gate has decided. changed: whether a pixel has opened or closed, so that what is seen may change; look_again: whether all
# pixels must be looked at next time, those that the decoder has not moved, too; wants: whether it wants a prediction; compared:
# how many pixels it compares at each look; events: how many there are in this step, -1 where they are what is sent; waits, anew:
# whether in this step the layers that the decoder does not need rest, and whether the others begin anew.
DECIDED = np.dtype(
    [("changed", "?"), ("look_again", "?"), ("wants", "?"), ("compared", "i8"), ("events", "i8"), ("waits", "?"), ("anew", "?")],
    align=True,
)

# What an image's run has come to. sending: how many pixels may send, listed in Pixels.sending; active: how many of the open ones
# are not 0, of_image: of all; open_share: of these at the beginning of the step; renewed: whether what is sent may differ from
# what the last step sent; explained: whether the prediction is taken away from what is seen; steps: taken so far; decodes: of
# the decoder; comparisons: of a pixel with its prediction; error: squared error of the prediction.
PROGRESS = np.dtype(
    [("sending", "i8"), ("active", "i8"), ("of_image", "i8"), ("open_share", "f4"), ("renewed", "?"), ("explained", "?"),
     ("steps", "i8"), ("decodes", "i8"), ("comparisons", "i8"), ("error", "f8")], align=True,
)  # fmt: skip


class Pixels(NamedTuple):
    """One image's input and prediction, arrays (Q,) with Q = H W C in the order of the input node, and two records; or several
    images', with another dimension before.

    image; is_open; step_open: is_open of the step that is shown; predicted; trace, prediction, error: of the read-out; guess: the
    prediction on the gate's scale; seen: what the input neurons see; sending: the pixels that may send; sent: what each of these
    sends. Of the gate contrast: attended, whether a prediction is made of a pixel; brightness, of its surroundings. Of the gate
    once: done, known. gate: see DECIDED; run: see PROGRESS.
    """

    image: np.ndarray
    is_open: np.ndarray
    step_open: np.ndarray
    predicted: np.ndarray
    attended: np.ndarray
    done: np.ndarray
    trace: np.ndarray
    prediction: np.ndarray
    error: np.ndarray
    guess: np.ndarray
    seen: np.ndarray
    brightness: np.ndarray
    known: np.ndarray
    sent: np.ndarray
    sending: np.ndarray
    gate: np.record
    run: np.record


def new_pixels(size, count=1):
    """Pixels of this many images of that many; filled by start."""
    kinds = ["f4"] + ["?"] * 5 + ["f4"] * 8 + ["i4"]
    records = (np.zeros(count, kind) for kind in (DECIDED, PROGRESS))
    return Pixels(*(np.zeros((count, size), kind) for kind in kinds), *records)


@inlined
def pixels_at(pixels, b):
    """The Pixels of image b among several."""
    return Pixels(
        pixels.image[b], pixels.is_open[b], pixels.step_open[b], pixels.predicted[b], pixels.attended[b], pixels.done[b],
        pixels.trace[b], pixels.prediction[b], pixels.error[b], pixels.guess[b], pixels.seen[b], pixels.brightness[b],
        pixels.known[b], pixels.sent[b], pixels.sending[b], pixels.gate[b], pixels.run[b],
    )  # fmt: skip


# --- input and read-out


@compiled
def emit(net, state, pixels):
    """Events of the input neurons, of those that send something. Returns how many."""
    channels, places, event = net.nodes[0, CHANNELS], net.nodes[0, FIRST_PLACE], net.nodes[0, FIRST_V]
    events, last_place = 0, -1
    for i in range(pixels.run.sending):
        if pixels.sent[i] == 0:
            continue
        place = pixels.sending[i] // channels
        if place != last_place:
            state.event_place[places + events], state.event_start[places + events] = place, event
            events += 1
            last_place = place
        state.event_channel[event], state.event_value[event] = pixels.sending[i] % channels, pixels.sent[i]
        event += 1
    state.event_start[places + events] = event
    state.event_count[0] = events
    return event - net.nodes[0, FIRST_V]


@compiled
def send(net, state, settings, pixels, uniforms, number, b, t):
    """The input neurons at step t of these, and how many events that is. uniforms: (T, B, Q), or empty: then the pixels that need
    a draw get it by the image's number and the step's in its run, see draws.py."""
    block, words, u = -1, (0, 0, 0, 0), np.float32(0)
    for i in range(pixels.run.sending):
        pixel = pixels.sending[i]
        value = pixels.seen[pixel]
        if pixels.run.explained:
            value -= pixels.guess[pixel]
        if settings.uses_draws and value != 0:
            if len(uniforms):
                u = uniforms[t, b, pixel]
            else:
                if pixel // 4 != block:
                    block = pixel // 4
                    words = philox_block(block, pixels.run.steps, number, settings.epoch, settings.key[0], settings.key[1])
                u = uniform(words[pixel % 4])
        pixels.sent[i] = encode(settings.encoding, value, u)
    sent = emit(net, state, pixels)
    return sent if pixels.gate.events < 0 else pixels.gate.events


@compiled
def look_is_due(settings, pixels, decodes):
    """Whether the gate looks at pixels in this step. decodes: whether the decoder runs."""
    return decodes or (settings.completes and pixels.gate.look_again)


@compiled
def integrate(net, state, settings, pixels, image, decodes, step):
    """Read-out, prediction and look at the pixels that the decoder moved, or at all of them, and what is seen next, in this step.
    Clears the decoder's output. decodes: whether the decoder has run; else all are looked at."""
    n, channels = net.decoded, settings.channels
    first, change = net.nodes[n, FIRST_V], 0.0
    everywhere = pixels.gate.look_again or settings.readout_leak != 1
    pixels.run.comparisons += pixels.gate.compared
    for i in range(len(image) // channels if everywhere else list_places(net, state, n)):
        place, is_open = i if everywhere else state.places[i], False
        for pixel in range(place * channels, (place + 1) * channels):
            decoded = state.v[first + pixel] if decodes else np.float32(0)
            change += move(settings, pixels, pixel, image[pixel], decoded, decodes)
            is_open |= pixels.is_open[pixel]
        if settings.latch and not settings.blocking and not is_open:
            state.held[place // WORD] |= np.uint64(1) << np.uint64(place % WORD)
    pixels.run.error += change
    pixels.run.decodes += decodes
    pixels.gate.look_again = False
    if decodes:
        clear(net, state, n)
    if pixels.gate.changed:
        see(settings.gate, settings, pixels, image, step)
    pixels.run.renewed = settings.residual or pixels.gate.changed
    if pixels.gate.changed or pixels.run.explained != settings.residual:
        pixels.run.explained = settings.residual
        list_sending(pixels, image)


@compiled
def clear(net, state, n):
    """Set a node's candidates to 0 again, and list none."""
    channels, first = net.nodes[n, CHANNELS], net.nodes[n, FIRST_V]
    for i in range(list_places(net, state, n)):
        place = state.places[i]
        for at in range(first + place * channels, first + (place + 1) * channels):
            state.v[at] = 0
    unlist(net, state, n)


@compiled
def move(settings, pixels, pixel, value, decoded, decodes):
    """One pixel's trace, if the decoder has run, and prediction, and its gate's look at it; returns the change of its squared
    error. value: image's."""
    change = 0.0
    if not rests(settings.gate, settings, pixels, pixel):
        if decodes:
            if settings.readout_slew > 0:
                decoded = settings.readout_slew * np.float32(math.tanh(decoded / settings.readout_slew))
            pixels.trace[pixel] = settings.readout_leak * pixels.trace[pixel] + decoded
        change -= pixels.error[pixel]
        predict_anew(settings, pixels, pixel, value)
        change += pixels.error[pixel]
    look(settings.gate, settings, pixels, pixel, value, pixels.guess[pixel])
    return change


@compiled
def predict_anew(settings, pixels, pixel, value):
    """What the read-out makes of a pixel's trace: prediction, the same on the gate's scale, squared error. value: image's."""
    prediction = complete(settings.gate, settings, pixels, pixel, predict(settings.readout, settings, pixels.trace[pixel]))
    pixels.prediction[pixel], pixels.guess[pixel] = prediction, as_guess(settings, prediction)
    pixels.error[pixel] = (value - prediction) * (value - prediction)


@compiled
def as_guess(settings, prediction):
    return guess_of(settings.readout, settings, prediction) if settings.has_feedback else prediction


@compiled
def list_sending(pixels, image):
    """Fill pixels.sending, with all pixels that are seen where a prediction is taken away, and count them."""
    sending = active = 0
    for pixel in range(len(image)):
        is_open = pixels.is_open[pixel]
        active += is_open and image[pixel] != 0
        if (is_open and pixels.attended[pixel]) if pixels.run.explained else pixels.seen[pixel] != 0:
            pixels.sending[sending] = pixel
            sending += 1
    pixels.run.active, pixels.run.sending, pixels.gate.changed = active, sending, False


@compiled
def start(net, state, settings, pixels, image):
    """Everything at rest and open, and what the gate shows first."""
    rest(net, state)
    copy(pixels.image, image)
    gate, run = pixels.gate, pixels.run
    gate.changed, gate.look_again, gate.wants, gate.compared, gate.events = False, True, True, 0, -1
    gate.waits = gate.anew = False
    run.of_image, run.renewed, run.explained, run.comparisons, run.error = 0, True, False, 0, 0.0
    run.steps, run.decodes = 0, 0
    pixels.is_open[:] = True
    pixels.attended[:] = True
    pixels.predicted[:] = False
    pixels.trace[:] = 0
    pixels.prediction[:] = predict(settings.readout, settings, np.float32(0))
    pixels.guess[:] = as_guess(settings, pixels.prediction[0])
    for pixel in range(len(image)):
        run.of_image += image[pixel] != 0
        error = image[pixel] - pixels.prediction[pixel]
        pixels.seen[pixel] = image[pixel]
        pixels.error[pixel] = error * error
        run.error += pixels.error[pixel]
    see(settings.gate, settings, pixels, image, 0)
    list_sending(pixels, image)
