"""The parts of a network in compiled code: its encoding, its read-out, its gate and its stopping rule.

Each is found by its class, an encoding by its function, and called by its number: its place in its dict. What is not here, like a
class derived from one of these, the event engine refuses by name.
"""

import math

import numpy as np

from self_models.fast.compiling import compiled, switch
from self_models.objectives.encoders import direct, poisson
from self_models.objectives.gates import Blocking, Gate
from self_models.objectives.readouts import Membrane, MembraneLinear, MembraneRescaled, SpikeCount, SpikeCountRescaled
from self_models.objectives.stopping import AllPredicted, Both, Confidence, Entropy, Never

ONE, TWO = np.float32(1), np.float32(2)

# --- encodings: (value of a pixel, its draw) -> what its input neuron sends


@compiled
def send_poisson(value, draw):
    sign = ONE if value > 0 else -ONE
    return sign if value != 0 and draw <= abs(value) else np.float32(0)


@compiled
def send_direct(value, draw):
    return value


ENCODINGS = {poisson: send_poisson, direct: send_direct}
encode = switch([*ENCODINGS.values()])

# --- read-outs: (settings, sum of a pixel) -> its prediction; (settings, prediction) -> the same on the gate's scale


@compiled
def sigmoid(x):
    return ONE / (ONE + math.exp(-x))


@compiled
def same(settings, value):
    return value


@compiled
def activation(settings, readout_sum):
    return np.float32(math.tanh(readout_sum)) if settings.colour else np.float32(sigmoid(readout_sum))


@compiled
def rescaled(settings, readout_sum):
    return np.float32(math.tanh(readout_sum)) if settings.colour else np.float32(TWO * sigmoid(readout_sum) - ONE)


@compiled
def stretched(settings, prediction):
    return prediction if settings.colour else TWO * prediction - ONE


@compiled
def clamped(settings, prediction):
    return min(max(prediction, np.float32(-1 if settings.colour else 0)), ONE)


READOUTS = {
    SpikeCount: (activation, stretched), SpikeCountRescaled: (rescaled, same), Membrane: (activation, same),
    MembraneLinear: (same, clamped), MembraneRescaled: (rescaled, same),
}  # fmt: skip
predict, guess_of = (switch(forms) for forms in zip(*READOUTS.values(), strict=True))

# --- gates: one form, since an open gate is one that blocks with epsilon 0

GATES = {Gate: None, Blocking: None}


@compiled
def look(settings, pixels, pixel, value):
    """Open or close a pixel of this value for its guess; where channels count together, all of them once the last is judged."""
    predicted, first = abs(pixels.guess[pixel] - value) < settings.epsilon, pixel
    if settings.together:
        pixels.predicted[pixel] = predicted
        if (pixel + 1) % settings.channels:
            return
        first = pixel + 1 - settings.channels
        for channel in range(first, pixel):
            predicted &= pixels.predicted[channel]
    for channel in range(first, pixel + 1):
        pixels.predicted[channel] = predicted
        is_open = not predicted and (settings.reopens or pixels.is_open[channel])
        pixels.run.changed |= is_open != pixels.is_open[channel]
        pixels.is_open[channel] = is_open


# --- stopping rules: (settings, logits (labels,), open and active pixels, active pixels of the image) -> whether the rule holds


@compiled
def never(settings, logits, open_active, active):
    return False


@compiled
def all_predicted(settings, logits, open_active, active):
    return np.float32(open_active) / np.float32(max(active, 1)) <= settings.open_bound


@compiled
def confidence(settings, logits, open_active, active):
    best, second = np.float32(-np.inf), np.float32(-np.inf)
    for value in logits:
        second = max(second, min(best, value))
        best = max(best, value)
    return best - second >= settings.gap_bound


@compiled
def entropy(settings, logits, open_active, active):
    best = np.float32(-np.inf)
    for value in logits:
        best = max(best, value)
    total = weighted = 0.0
    for value in logits:
        p = math.exp(np.float64(value - best))
        total += p
        weighted += p * np.float64(value - best)
    return np.float32((math.log(total) - weighted / total) / math.log(len(logits))) <= settings.entropy_bound


@compiled
def both(settings, logits, open_active, active):
    return all_predicted(settings, logits, open_active, active) and confidence(settings, logits, open_active, active)


RULES = {Never: never, AllPredicted: all_predicted, Confidence: confidence, Entropy: entropy, Both: both}
holds = switch([*RULES.values()])

FORMS = {"gate": GATES, "rule": RULES, "readout": READOUTS, "encoding": ENCODINGS}  # by the setting that names the part
