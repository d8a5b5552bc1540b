"""Compiled input and read-out of one image: its draws, what its input neurons send, its prediction, what that blocks."""

import math
from typing import NamedTuple

import numpy as np

from self_models.basics.compiled import compiled
from self_models.event.kernels import CHANNELS, FIRST_PLACE, FIRST_V, rest
from self_models.running.draws import philox_block, uniform

IDENTITY, SIGMOID, RESCALED, TANH = range(4)  # activations: p of the trace
SAME, STRETCHED, CLAMPED = range(3)  # guesses: of p


class Settings(NamedTuple):
    """Scalars of a run; the model's own names. spikes: Poisson code, else the analog image. blocks: epsilon above 0.
    uses_open, uses_gap, uses_entropy: what the stopping rule asks for, all false for no rule; has_feedback. epoch, key: of the
    draws."""

    timesteps: int
    interval: int
    spikes: bool
    has_feedback: bool
    blocks: bool
    reopens: bool
    latch: bool
    residual: bool
    epsilon: np.float32
    readout_leak: np.float32
    readout_slew: np.float32
    activation: int
    guess: int
    lowest: np.float32
    uses_open: bool
    uses_gap: bool
    uses_entropy: bool
    open_bound: np.float32
    gap_bound: np.float32
    entropy_bound: np.float32
    epoch: int
    key: tuple


class Pixels(NamedTuple):
    """One image's input and prediction, (Q,) with Q = H W C in the order of the input node. step_open: is_open of the step that
    is shown; active: the open pixels that may send; sent: what each of these sends; tally: open pixels, those that are not 0,
    whether any pixel closed or opened, how many may send."""

    is_open: np.ndarray
    step_open: np.ndarray
    predicted: np.ndarray
    trace: np.ndarray
    prediction: np.ndarray
    error: np.ndarray
    active: np.ndarray
    sent: np.ndarray
    tally: np.ndarray


def new_pixels(size):
    """Pixels of an image of this many; filled by start."""
    flags = (np.zeros(size, np.bool_) for _ in range(3))
    values = (np.zeros(size, np.float32) for _ in range(3))
    active, sent, tally = np.zeros(size, np.int32), np.zeros(size, np.float32), np.zeros(4, np.int64)
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
def send(net, state, settings, pixels, image, explains, uniforms, number, b, t):
    """The input neurons at step t, and how many spike. uniforms: (T, B, Q), or empty: then the pixels that need a draw get it
    by the image's number, see draws.py. explains: whether the prediction is taken away from the image."""
    count, block, words = pixels.tally[3], -1, (0, 0, 0, 0)
    for i in range(count):
        pixel = pixels.active[i]
        value = image[pixel]
        if explains:
            value -= guess_of(settings, pixels.prediction[pixel])
        if settings.spikes and value != 0:
            if len(uniforms):
                u = uniforms[t, b, pixel]
            else:
                if pixel // 4 != block:
                    block = pixel // 4
                    words = philox_block(block, t, number, settings.epoch, settings.key[0], settings.key[1])
                u = uniform(words[pixel % 4])
            sign = np.float32(1) if value > 0 else np.float32(-1)
            value = sign if u <= abs(value) else np.float32(0)
        pixels.sent[i] = value
    return emit(net, state, pixels.active[:count], pixels.sent)


@compiled
def predict(activation, trace):
    """A read-out's activation of one pixel's trace."""
    if activation == SIGMOID:
        return np.float32(1) / (np.float32(1) + math.exp(-trace))
    if activation == RESCALED:
        return np.float32(2) * (np.float32(1) / (np.float32(1) + math.exp(-trace))) - np.float32(1)
    if activation == TANH:
        return math.tanh(trace)
    return trace


@compiled
def guess_of(settings, prediction):
    """The guess that one pixel's prediction stands for, in the image's own range."""
    if settings.guess == STRETCHED:
        return np.float32(2) * prediction - np.float32(1)
    if settings.guess == CLAMPED:
        return min(max(prediction, settings.lowest), np.float32(1))
    return prediction


@compiled
def integrate(net, state, settings, pixels, image, everywhere):
    """Read-out, prediction and look at the pixels that the decoder moved, or at all of them; returns the change of the
    squared error. Clears the decoder's output."""
    n = net.decoded
    channels, first, places = net.nodes[n, CHANNELS], net.nodes[n, FIRST_V], net.nodes[n, FIRST_PLACE]
    change = 0.0
    count = len(image) // channels if everywhere else state.candidate_count[n]
    for i in range(count):
        place, is_open = i if everywhere else state.candidates[places + i], False
        for pixel in range(place * channels, (place + 1) * channels):
            change += move(settings, pixels, pixel, image[pixel], state.v[first + pixel])
            is_open |= pixels.is_open[pixel]
        state.held[place] = settings.latch and not settings.reopens and not is_open
    clear(net, state)
    return change


@compiled
def clear(net, state):
    """Set the decoder's output to 0 again."""
    n = net.decoded
    channels, first, places = net.nodes[n, CHANNELS], net.nodes[n, FIRST_V], net.nodes[n, FIRST_PLACE]
    for i in range(state.candidate_count[n]):
        place = state.candidates[places + i]
        state.listed[places + place] = 0
        for pixel in range(place * channels, (place + 1) * channels):
            state.v[first + pixel] = 0
    state.candidate_count[n] = 0


@compiled
def move(settings, pixels, pixel, value, decoded):
    """One pixel's trace, prediction and blocking; returns the change of its squared error. value: of the image."""
    was_open = pixels.is_open[pixel]
    if settings.latch and not was_open:
        return 0.0
    if settings.readout_slew > 0:
        decoded = settings.readout_slew * np.float32(math.tanh(decoded / settings.readout_slew))
    pixels.trace[pixel] = settings.readout_leak * pixels.trace[pixel] + decoded
    prediction = np.float32(predict(settings.activation, pixels.trace[pixel]))
    pixels.prediction[pixel] = prediction
    before = pixels.error[pixel]
    pixels.error[pixel] = (value - prediction) * (value - prediction)
    if settings.blocks:
        near = abs(guess_of(settings, prediction) - value) < settings.epsilon
        pixels.predicted[pixel] = near
        is_open = not near if settings.reopens else was_open and not near
        if is_open != was_open:
            pixels.is_open[pixel] = is_open
            pixels.tally[0] += 1 if is_open else -1
            pixels.tally[2] = 1
    return np.float64(pixels.error[pixel]) - np.float64(before)


@compiled
def list_active(pixels, image, explains):
    """Fill pixels.active, all open pixels where a prediction is taken away from the image, and count them."""
    listed = active = 0
    for pixel in range(len(image)):
        if pixels.is_open[pixel] and (image[pixel] != 0 or explains):
            pixels.active[listed] = pixel
            listed += 1
            active += image[pixel] != 0
    pixels.tally[1], pixels.tally[2], pixels.tally[3] = active, 0, listed


@compiled
def start(net, state, settings, pixels, image):
    """Everything at rest and open; returns the squared error of the prediction before any step."""
    rest(state)
    pixels.is_open[:] = True
    pixels.predicted[:] = False
    pixels.trace[:] = 0
    pixels.prediction[:] = predict(settings.activation, np.float32(0))
    total = 0.0
    for pixel in range(len(image)):
        error = image[pixel] - pixels.prediction[pixel]
        pixels.error[pixel] = error * error
        total += pixels.error[pixel]
    pixels.tally[0] = len(image)
    list_active(pixels, image, False)
    return total
