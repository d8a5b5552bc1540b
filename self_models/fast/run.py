"""Steps of a run that a layer takes as one batch, as far as no prediction comes in between: what the model's step() says."""

import torch
from torch import nn

from self_models.fast import phased
from self_models.fast.folded_chain import folded
from self_models.fast.neuron_steps import UPDATES, accumulated, count_events, counts_by_layer, neuron_steps
from self_models.network.neurons import CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.network.stages import LINEAR
from self_models.running.steps import show_image, stacked


def can_run(model):
    """True if the model's steps can be taken at once; else step() runs it."""
    updates = {neuron.update for neuron in model.neurons().values()}
    return not (model.is_custom or model.unknown) and (model.phased or updates <= {*UPDATES})


def prepared(model, stages, x):
    """The layers of a run's stages, name -> (position, module) pairs, for images x: in evaluation without dropout, which does
    nothing; chains of the decoder's linear layers folded into one where that pays. In evaluation it must pay for one signal, so
    that the same layers are folded in any batch, and in a stream. A phased network's decoder runs once an image: it is left."""
    if not model.training:
        stages = {name: [one for one in layers if not isinstance(one[1], HeldDropout)] for name, layers in stages.items()}
    if not model.has_feedback or model.phased:
        return stages
    signals = len(x) * model.timesteps if model.training else 1
    return stages | {"generate": folded(stages["generate"], signals, x.shape[2:])}


def advance(model, run, draws):
    """T steps, in place. draws: uniform in [0, 1), (T, B, C, H, W). Returns what they show, with pictures.

    A layer takes all steps as one batch, but for encoder and decoder where the gate makes the input of a step depend on the
    prediction of the step before.
    """
    if model.phased:
        return phased.advance(model, run, draws)
    parts = [encode_and_decode(model, run, part) for part in draws.split(1 if model.gate.reacts else len(draws))]
    codes = [codes.flatten(2) for codes, _ in parts]
    logits = classify(model, run, codes[0] if len(codes) == 1 else torch.cat(codes))
    shown = stacked([shown for _, of_part in parts for shown in of_part])
    return shown | {"logits": logits, "spikes": counts_by_layer(run, model.wiring.names, len(draws))}


def encode_and_decode(model, run, draws):
    """T steps of encoder and decoder on what the input neurons see now, in place. draws: (T, B, C, H, W). Returns the encoder's
    output (T, B, ...), and what each step shows."""
    steps = range(run.steps, run.steps + len(draws))
    if run.recording is not None and len(draws) > 1:  # several frames of a recording are seen at once, (T, B, C, H, W)
        view = model.gate.start(run.recording[:, steps.start : steps.stop].transpose(0, 1))
    else:
        show_image(model, run, run.shown_now())
        view = run.view
    signal = model.encoding.send(view.unexplained(), draws)
    if run.sent is not None:
        run.note("input", signal.flatten(0, 1), steps)
    run.counts.setdefault("input", []).append((steps, count_events(view.sent(signal))))
    forked = propagate(run, "features", "before_fork", signal, steps)
    encoded = propagate(run, "features", "after_fork", forked, steps)
    decoded = propagate(run, "generate", "generate", forked, steps) if model.has_feedback else [None] * len(draws)
    return encoded, [model.read_out_and_gate(run, codes) for codes in decoded]


def classify(model, run, codes):
    """The classifier on the encoder's output (T, B, ...) of the last steps, in place. Returns the logits after each step
    (T, B, labels)."""
    steps = range(run.steps - len(codes), run.steps)
    drives = propagate(run, "classifier", "classifier", codes, steps).to(run.image.dtype)
    so_far = accumulated(run.logits, drives, model.settings["output_leak"], at_once=model.training)
    run.logits = so_far[-1]
    return so_far


def propagate(run, stage, part, signal, steps):
    """A part of a stage in the steps of these numbers, in place: what comes out of it for a signal, both (t, B, ...). Where all
    steps are views of one, as of an image that is sent unchanged, the linear layers before the first neurons run once."""
    times = len(steps)
    alike = times > 1 and not signal.stride(0)
    signal = signal[0] if alike else signal.flatten(0, 1)
    for position, layer in run.stages[part]:
        if alike and not isinstance(layer, LINEAR):
            signal, alike = torch.cat([signal] * times), False
        key = f"{stage}.{position}"
        if isinstance(layer, SpikingNeuron):
            signal, run.memory[key], counts = neuron_steps(layer, signal, run.memory.get(key), times)
            run.counts.setdefault(key, []).append((steps, counts))
        elif isinstance(layer, HeldDropout):
            signal, run.memory[key] = layer(signal, run.memory.get(key), times, run.draws)
        elif isinstance(layer, CountingMaxPool):
            signal, run.memory[key] = layer.run(signal, run.memory.get(key), times)
        else:
            signal = layer(signal)
        if isinstance(layer, SpikingNeuron | nn.MaxPool2d):
            run.note(key, signal, steps)
    return (torch.cat([signal] * times) if alike else signal).unflatten(0, (times, -1))
