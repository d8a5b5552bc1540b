"""Compiled input and read-out of one image: its draws, what its input neurons send, its prediction, what its gate makes of that.

The parts that a network may have, its encoding, read-out and gate, are called by their number: their place in their registry when
this module is imported.
"""

import math
from typing import NamedTuple

import numpy as np

from self_models.basics.compiled import compiled, switch
from self_models.event.kernels import CHANNELS, FIRST_PLACE, FIRST_V, WORD, list_places, rest, unlist
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import ACTIVE, CHANGED, GATES, LOOK_AGAIN, OPEN, SENDS, WANTS, Gate
from self_models.objectives.readouts import READOUTS
from self_models.running.draws import philox_block, uniform

LISTED = 8  # of Pixels.tally; the others are in objectives/gates.py

encode = switch([encoding.kernel for encoding in ENCODINGS.values()])
predict, guess_of = (
    switch(kernels) for kernels in zip(*(part.kernels or READOUTS["membrane"].kernels for part in READOUTS.values()), strict=True)
)
start_gate, rests, look, see, complete = (
    switch(kernels) for kernels in zip(*(part.kernels or Gate.kernels for part in GATES.values()), strict=True)
)


class Pixels(NamedTuple):
    """One image's input and prediction, (Q,) with Q = H W C in the order of the input node. step_open: is_open of the step that
    is shown; attended: pixels of which a prediction is made; seen: what the input neurons see; own: values that a gate keeps;
    active: the pixels that may send; sent: what each of these sends; tally: how many pixels are open, and of these not 0, whether
    what is seen changes, how many are compared at each look, whether all must be looked at next time, how many events the
    gate says there are, -1 where they are what is sent, its step, whether it wants a prediction, how many may send."""

    is_open: np.ndarray
    step_open: np.ndarray
    predicted: np.ndarray
    attended: np.ndarray
    trace: np.ndarray
    prediction: np.ndarray
    error: np.ndarray
    seen: np.ndarray
    own: np.ndarray
    active: np.ndarray
    sent: np.ndarray
    tally: np.ndarray


def new_pixels(size):
    """Pixels of an image of this many; filled by start."""
    flags = (np.zeros(size, np.bool_) for _ in range(4))
    values = (np.zeros(size, np.float32) for _ in range(5))
    active, sent, tally = np.zeros(size, np.int32), np.zeros(size, np.float32), np.zeros(LISTED + 1, np.int64)
    return Pixels(*flags, *values, active, sent, tally)


# --- input and read-out


@compiled
def emit(net, state, listed, sent):
    """Events of the input neurons: sent[i] is what the listed[i]-th of them sends, 0 for nothing. Returns how many."""
    channels, places, event = net.nodes[0, CHANNELS], net.nodes[0, FIRST_PLACE], net.nodes[0, FIRST_V]
    events, last_place = 0, -1
    for i in range(len(listed)):
        if sent[i] == 0:
            continue
        place = listed[i] // channels
        if place != last_place:
            state.event_place[places + events], state.event_start[places + events] = place, event
            events += 1
            last_place = place
        state.event_channel[event], state.event_value[event] = listed[i] % channels, sent[i]
        event += 1
    state.event_start[places + events] = event
    state.event_count[0] = events
    return event - net.nodes[0, FIRST_V]


@compiled
def send(net, state, settings, pixels, explains, uniforms, number, b, t):
    """The input neurons at step t, and how many events that is. explains: whether the prediction is taken away from what is seen.
    uniforms: (T, B, Q), or empty: then the pixels that need a draw get it by the image's number, see draws.py."""
    count, block, words, u = pixels.tally[LISTED], -1, (0, 0, 0, 0), np.float32(0)
    for i in range(count):
        pixel = pixels.active[i]
        value = pixels.seen[pixel]
        if explains:
            value -= guess_of(settings.readout, settings, pixels.prediction[pixel])
        if settings.uses_draws and value != 0:
            if len(uniforms):
                u = uniforms[t, b, pixel]
            else:
                if pixel // 4 != block:
                    block = pixel // 4
                    words = philox_block(block, t, number, settings.epoch, settings.key[0], settings.key[1])
                u = uniform(words[pixel % 4])
        pixels.sent[i] = encode(settings.encoding, value, u)
    sent = emit(net, state, pixels.active[:count], pixels.sent)
    return sent if pixels.tally[SENDS] < 0 else pixels.tally[SENDS]


@compiled
def integrate(net, state, settings, pixels, image, decodes, everywhere):
    """Read-out, prediction and look at the pixels that the decoder moved, or at all of them, and what is seen next; returns the
    change of the squared error. Clears the decoder's output. decodes: whether the decoder has run; else all are looked at."""
    n, channels = net.decoded, settings.channels
    first = net.nodes[n, FIRST_V]
    everywhere |= pixels.tally[LOOK_AGAIN] > 0
    change = 0.0
    count = len(image) // channels if everywhere else list_places(net, state, n)
    for i in range(count):
        place, is_open = i if everywhere else state.places[i], False
        for pixel in range(place * channels, (place + 1) * channels):
            decoded = state.v[first + pixel] if decodes else np.float32(0)
            change += move(settings, pixels, pixel, image[pixel], decoded, decodes)
            is_open |= pixels.is_open[pixel]
        if settings.latch and not settings.blocking and not is_open:
            state.held[place // WORD] |= np.uint64(1) << np.uint64(place % WORD)
    pixels.tally[LOOK_AGAIN] = 0
    if decodes:
        clear(net, state, n)
    if pixels.tally[CHANGED]:
        see(settings.gate, settings, pixels, image)
    return change


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
        prediction = complete(settings.gate, settings, pixels, pixel, predict(settings.readout, settings, pixels.trace[pixel]))
        pixels.prediction[pixel] = prediction
        change -= pixels.error[pixel]
        pixels.error[pixel] = (value - prediction) * (value - prediction)
        change += pixels.error[pixel]
    guess = pixels.prediction[pixel]
    if settings.has_feedback:
        guess = guess_of(settings.readout, settings, guess)
    look(settings.gate, settings, pixels, pixel, value, guess)
    return change


@compiled
def list_active(pixels, image, explains):
    """Fill pixels.active, all pixels that are seen where a prediction is taken away, and count them."""
    listed = active = 0
    for pixel in range(len(image)):
        is_open = pixels.is_open[pixel]
        active += is_open and image[pixel] != 0
        if (is_open and pixels.attended[pixel]) if explains else pixels.seen[pixel] != 0:
            pixels.active[listed] = pixel
            listed += 1
    pixels.tally[ACTIVE], pixels.tally[CHANGED], pixels.tally[LISTED] = active, 0, listed


@compiled
def start(net, state, settings, pixels, image):
    """Everything at rest and open; returns the squared error of the prediction before any step, and how many pixels are not 0."""
    rest(state)
    pixels.is_open[:] = True
    pixels.attended[:] = True
    pixels.predicted[:] = False
    pixels.trace[:] = 0
    pixels.prediction[:] = predict(settings.readout, settings, np.float32(0))
    total, active = 0.0, 0
    for pixel in range(len(image)):
        active += image[pixel] != 0
        error = image[pixel] - pixels.prediction[pixel]
        pixels.seen[pixel] = image[pixel]
        pixels.error[pixel] = error * error
        total += pixels.error[pixel]
    pixels.tally[:] = 0
    pixels.tally[OPEN], pixels.tally[SENDS], pixels.tally[WANTS] = len(image), -1, 1
    start_gate(settings.gate, settings, pixels, image)
    list_active(pixels, image, False)
    return total, active
