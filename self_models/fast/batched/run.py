"""Steps of a run that a layer takes as one batch, as far as no prediction comes in between: what the model's step() says."""

import torch
from torch import nn

from self_models.fast.batched import phased
from self_models.fast.batched.folding import FoldedChain, folded
from self_models.fast.batched.neurons import UPDATES, count_events, neuron_steps, traced_steps
from self_models.network.neurons import CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.network.stages import LINEAR
from self_models.network.wiring import is_altered
from self_models.running.changing import shown_next
from self_models.running.steps import ActiveParts, accumulated, gathered, joined, placed, stack_frames


def why_not(model):
    """Why the model's steps cannot be taken at once, in words, or ''."""
    if hook := model.overridden():
        return f"{type(model).__name__}.{hook} is its own"
    if model.unknown:
        return f"{model.unknown} is its own"
    for name, neuron in model.neurons().items():
        if neuron.update not in UPDATES and not model.phased:
            return f"the update of {name} is its own"
        if is_altered(neuron):
            return f"the neurons {name} have a hook or a forward of their own, which wants to be called step by step"
    return ""


def prepared(model, stages, x):
    """The layers of a run's stages, name -> (position, module) pairs, for images x: in evaluation without dropout, which does
    nothing; chains of the decoder's linear layers folded into one where that pays. In evaluation it must pay for one signal, so
    that the same layers are folded in any batch, and in a stream. A phased network's decoder runs once an image: it is left."""
    if not model.training:
        stages = {name: [one for one in layers if not isinstance(one[1], HeldDropout)] for name, layers in stages.items()}
    if not model.has_feedback or model.phased:
        return stages
    signals = len(x) * model.timesteps // model.feedback_interval if model.training else 1
    return stages | {"generate": folded(stages["generate"], signals, x.shape[2:])}


def advance(model, run, draws):
    """T steps, in place. draws: uniform in [0, 1), (T, B, C, H, W). Returns their Frame, with pictures.

    A layer takes all steps as one batch, but for encoder and decoder where the gate makes the input of a step depend on the
    prediction of the step before.
    """
    if model.phased:
        return phased.advance(model, run, draws)
    spike_counts = {name: [] for name in model.wiring.names}
    parts = [encode_and_decode(model, run, part, spike_counts) for part in draws.split(1 if model.gate.reacts else len(draws))]
    codes = [codes.flatten(2) for codes, _ in parts if codes is not None]
    logits = classify(model, run, joined(codes) if codes else (), len(draws), spike_counts)
    spikes = torch.stack([joined(one) for one in spike_counts.values()], -1)
    shown = stack_frames([frame for _, frames in parts for frame in frames])
    return shown._replace(logits=logits, spikes=spikes, **run.recorder.taken())


def encode_and_decode(model, run, draws, spike_counts):
    """T steps of encoder and decoder on what the input neurons see now, in place. draws: (T, B, C, H, W). Adds to spike_counts
    what their layers send. Returns the encoder's output (T, B, ...), None where what follows waits, and a Frame of each step."""
    view, steps = shown_next(model, run, len(draws)), range(run.steps, run.steps + len(draws))
    signal = model.encoding.send(view.unexplained(), draws)
    sent = view.sent(signal)
    spike_counts["input"].append(count_events(sent))
    run.recorder.note_input(sent)
    waits, idle, decodes = model.gate.waits(view), model.decoder_idle(view), [model.decodes(view, step) for step in steps]
    run.active_parts.append(ActiveParts(run.steps, waits, idle, decodes))
    if model.gate.begins_anew(view):
        run.forget("features", "before_fork")
    forked = propagate(run, "features", "before_fork", signal, steps, steps, spike_counts)
    encoded = propagate(run, "features", "after_fork", forked, () if waits else steps, steps, spike_counts)
    decoded = [None] * len(draws)
    if model.has_feedback:
        chosen = [step for step, now in zip(steps, decodes, strict=True) if now]
        inflow = forked if idle or model.feedback_interval == 1 else gathered(run, forked, decodes)
        output = propagate(run, "generate", "generate", inflow, chosen, steps, spike_counts)
        output = iter(output if chosen else ())
        decoded = [next(output) if now else None for now in decodes]
    return encoded, [model.read_out_and_gate(run, codes) for codes in decoded]


def classify(model, run, codes, steps, spike_counts):
    """The classifier on the encoder's output of so many steps, (t, B, ...) of the last t of them, in place. Returns the logits
    after each step (T, B, labels)."""
    among = range(run.steps - steps, run.steps)
    drives = propagate(run, "classifier", "classifier", codes, among[steps - len(codes) :], among, spike_counts)
    drives = run.logits[None][:0] if drives is None else drives.to(run.image.dtype)
    so_far = accumulated(run.logits, drives, steps, model.settings["output_leak"], at_once=model.training)
    run.logits = so_far[-1]
    return so_far


def propagate(run, name, part, signal, steps, among, spike_counts):
    """A part of the stage of this name in these steps of those among (numbers), in place: what comes out of it (t, B, ...), None
    where it runs in none. signal: (t, B, ...). Adds to spike_counts each layer's spikes per step and image, (T, B)."""
    neurons = {f"{name}.{at}": layer for at, layer in run.stages[part] if isinstance(layer, SpikingNeuron)}
    spikes, recorded = {}, run.recorder.begin(neurons, run.memory)
    output = run_part(run, name, part, signal, steps, spikes, recorded) if steps else None
    for key in neurons:
        spike_counts[key].append(placed(spikes.get(key), steps, among, run.image))
    run.recorder.end(recorded, steps, among, run.image)
    return output


def run_part(run, name, part, signal, steps, spike_counts, recorded):
    """What comes out of a part of a stage in these steps, (t, B, ...). Fills spike_counts with each layer's spikes per step and
    image, and recorded, layer -> kind -> None, with the spikes and potentials asked for, (t, B, ...). Where all steps are views
    of one, as of an image that is sent unchanged, the linear layers before the first neurons run once."""
    times = len(steps)
    alike = times > 1 and not signal.stride(0)
    signal = signal[0] if alike else signal.flatten(0, 1)
    for position, layer in run.stages[part]:
        if alike and not isinstance(layer, LINEAR):
            signal, alike = torch.cat([signal] * times), False
        key, before = f"{name}.{position}", signal
        if isinstance(layer, SpikingNeuron):
            asked = recorded.get(key, {})
            take = traced_steps if "membrane" in asked else neuron_steps
            signal, run.memory[key], spike_counts[key], *potentials = take(layer, signal, run.memory.get(key), times)
            found = {"spikes": signal, "membrane": potentials and potentials[0]}
            asked.update((kind, found[kind].unflatten(0, (times, -1))) for kind in asked)
        elif isinstance(layer, HeldDropout):
            signal, run.memory[key] = layer(signal, run.memory.get(key), times, run.draws)
        elif isinstance(layer, CountingMaxPool):
            signal, run.memory[key] = layer.run(signal, run.memory.get(key), times)
        else:
            signal = layer(signal)
        if run.watcher:
            seen = signal if isinstance(layer, SpikingNeuron | nn.MaxPool2d) else before
            for at, values in layer.inputs(before) if isinstance(layer, FoldedChain) else [(position, seen)]:
                run.watcher.note(f"{name}.{at}", torch.cat([values] * times) if alike else values, steps)
    return (torch.cat([signal] * times) if alike else signal).unflatten(0, (times, -1))
