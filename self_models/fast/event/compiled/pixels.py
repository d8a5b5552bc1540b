"""Compiled input and read-out of one image: its draws, what its input neurons send, its prediction, what its gate makes of it."""

import math
from collections import namedtuple

import numpy as np

from self_models.fast.compiling import compiled, inlined
from self_models.fast.event.compiled.kernels import copy, list_places, rest, unlist
from self_models.fast.event.compiled.nets import WORD
from self_models.fast.event.compiled.parts import encode, guess_of, look, predict
from self_models.fast.philox import philox_block, uniform

# What an image's run has come to. changed: whether a pixel has opened or closed, so that what is sent may change; look_again: all
# pixels must be looked at next time, those that the decoder has not moved, too; explained: the prediction is taken away from what
# is seen. compared: how many pixels are compared at each look; sending: how many may send, listed in Pixels.sending; active: how
# many of the open ones are not 0, of_image: of all; open_share: of these at the beginning of the step; steps: taken so far;
# decodes: of the decoder; comparisons: of a pixel with its prediction; error: squared error of the prediction.
PROGRESS = np.dtype(
    [("changed", "?"), ("look_again", "?"), ("explained", "?"), ("compared", "i8"), ("sending", "i8"), ("active", "i8"),
     ("of_image", "i8"), ("open_share", "f4"), ("steps", "i8"), ("decodes", "i8"), ("comparisons", "i8"), ("error", "f8")],
    align=True,
)  # fmt: skip


# One image's input and prediction, arrays (Q,) with Q = H W C in the order of the input node, and a record; or several images',
# with another dimension before. step_open: is_open of the step that is shown; readout_sum, prediction, error: of the read-out;
# guess: the prediction on the gate's scale; sending: the pixels that may send; run: PROGRESS.
KINDS = {
    "image": "f4", "is_open": "?", "step_open": "?", "predicted": "?", "readout_sum": "f4", "prediction": "f4", "error": "f4",
    "guess": "f4", "sending": "i4",
}  # fmt: skip
Pixels = namedtuple("Pixels", [*KINDS, "run"])


def new_pixels(size, count=1):
    """Pixels of this many images of that many; filled by start."""
    return Pixels(*(np.zeros((count, size), kind) for kind in KINDS.values()), np.zeros(count, PROGRESS))


@inlined
def pixels_at(pixels, b):
    """The Pixels of image b among several."""
    return Pixels(
        pixels.image[b], pixels.is_open[b], pixels.step_open[b], pixels.predicted[b], pixels.readout_sum[b], pixels.prediction[b],
        pixels.error[b], pixels.guess[b], pixels.sending[b], pixels.run[b],
    )  # fmt: skip


@compiled
def send(net, state, settings, pixels, uniforms, number, b, t):
    """Events of the input neurons at step t of these, of those that send something. Returns how many. uniforms: (T, B, Q), or
    empty: then the pixels that need a draw get it by the image's number and the step's in its run, see running/draws.py."""
    channels, places, first = net.nodes[0].channels, net.nodes[0].first_place, net.nodes[0].first_v
    events, event, last_place, block, words, u = 0, first, -1, -1, (0, 0, 0, 0), np.float32(0)
    silent = settings.phase and pixels.run.steps >= settings.phase
    for i in range(0 if silent else pixels.run.sending):
        pixel = pixels.sending[i]
        value = pixels.image[pixel]
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
        sent = encode(settings.encoding, value, u)
        if sent == 0:
            continue
        if pixel // channels != last_place:
            last_place = pixel // channels
            state.event_place[places + events], state.event_start[places + events] = last_place, event
            events += 1
        state.event_channel[event], state.event_value[event] = pixel % channels, sent
        event += 1
    state.event_start[places + events], state.event_count[0] = event, events
    return event - first


@compiled
def integrate(net, state, settings, pixels):
    """Where the decoder has run: read-out, prediction and look at the pixels that it moved, or at all of them, and who may send
    next. Clears the decoder's output."""
    n, channels, run, change = net.decoded, settings.channels, pixels.run, 0.0
    first, everywhere = net.nodes[n].first_v, run.look_again or settings.readout_leak != 1
    run.decodes, run.comparisons = run.decodes + 1, run.comparisons + run.compared
    for i in range(len(pixels.image) // channels if everywhere else list_places(net, state, n)):
        place, is_open = i if everywhere else state.places[i], False
        for pixel in range(place * channels, (place + 1) * channels):
            change += move(settings, pixels, pixel, state.v[first + pixel])
            is_open |= pixels.is_open[pixel]
        if settings.latch and not settings.reopens and not is_open:
            state.held[place // WORD] |= np.uint64(1) << np.uint64(place % WORD)
    run.error += change
    run.look_again = False
    for i in range(list_places(net, state, n)):
        for at in range(first + state.places[i] * channels, first + (state.places[i] + 1) * channels):
            state.v[at] = 0
    unlist(net, state, n)
    if run.changed or run.explained != settings.residual:
        run.explained = settings.residual
        list_sending(settings, pixels)


@compiled
def move(settings, pixels, pixel, decoded):
    """One pixel's read-out and prediction, and its gate's look at it; returns the change of its squared error."""
    value, change = pixels.image[pixel], 0.0
    if not (settings.latch and not pixels.is_open[pixel]):
        if settings.readout_slew > 0:
            decoded = settings.readout_slew * np.float32(math.tanh(decoded / settings.readout_slew))
        pixels.readout_sum[pixel] = settings.readout_leak * pixels.readout_sum[pixel] + decoded
        change -= pixels.error[pixel]
        predict_anew(settings, pixels, pixel, value)
        change += pixels.error[pixel]
    look(settings, pixels, pixel, value)
    return change


@compiled
def predict_anew(settings, pixels, pixel, value):
    """What the read-out makes of a pixel: prediction, the same on the gate's scale, squared error. value: image's."""
    prediction = predict(settings.readout, settings, pixels.readout_sum[pixel])
    pixels.prediction[pixel], pixels.guess[pixel] = prediction, guess_of(settings.readout, settings, prediction)
    pixels.error[pixel] = (value - prediction) * (value - prediction)


@compiled
def list_sending(settings, pixels):
    """Fill pixels.sending: open pixels that are not 0, or all open ones where a prediction is taken away; and count pixels."""
    run, sending, active, still_open = pixels.run, 0, 0, 0
    for pixel in range(len(pixels.image)):
        is_open, value = pixels.is_open[pixel], pixels.image[pixel]
        still_open += is_open
        active += is_open and value != 0
        if is_open and (run.explained or value != 0):
            pixels.sending[sending] = pixel
            sending += 1
    run.active, run.sending, run.changed, run.compared = active, sending, False, 0
    if settings.epsilon > 0:
        run.compared = len(pixels.image) if settings.reopens else still_open


@compiled
def start(net, state, settings, pixels, image):
    """Everything at rest and open."""
    rest(net, state)
    copy(pixels.image, image)
    run = pixels.run
    run.look_again, run.explained, run.steps, run.decodes, run.of_image, run.error = True, False, 0, 0, 0, 0.0
    pixels.is_open[:] = True
    pixels.predicted[:] = False
    pixels.readout_sum[:] = 0
    pixels.prediction[:] = predict(settings.readout, settings, np.float32(0))
    pixels.guess[:] = guess_of(settings.readout, settings, pixels.prediction[0])
    for pixel in range(len(image)):
        run.of_image += image[pixel] != 0
        error = image[pixel] - pixels.prediction[pixel]
        pixels.error[pixel] = error * error
        run.error += pixels.error[pixel]
    list_sending(settings, pixels)
