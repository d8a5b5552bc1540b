"""Many steps of a stage's layers at once, without asking layers what is known anyhow."""

import torch
from torch import nn

from self_models.fast.batched.neurons import dynamics, neuron_steps, stays_quiet, traced_steps
from self_models.network.neurons import CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.network.stages import LINEAR, LINEAR_OR_POOL


def run_stage(name, layers, signal, memory, draws=None, counts=None, watch=None, recorded=None):
    """T steps of a stage; returns the signal that comes out. layers: (position, module) pairs; signal: (T, B, ...); memory:
    module name -> state, updated in place; draws: the batch's Draws, of the dropout masks in training. counts: filled with
    spiking layer -> spikes per step and image. watch: called with the name of each linear layer and what goes into it, (T B,
    ...), or of each spiking layer and maximum pool and what comes out of it. recorded: spiking layer -> a dict whose keys
    'spikes' and 'membrane', where they are there, get what it sends and its potential after each step, (T, B, ...).

    In evaluation on a CPU linear layers are not asked about steps in which no image of the batch sends anything (a GPU would have
    to be waited for), nor are quiet neurons that then get nothing. Where all steps are views of one, as of an image that is sent
    as it is, the layers before the first neurons are asked once.
    """
    looks = signal.device.type == "cpu" and not torch.is_grad_enabled() and bool(layers)
    sends = torch.linalg.vector_norm(signal, 1, tuple(range(1, signal.dim()))).tolist() if looks else []
    (steps, images), layers = signal.shape[:2], list(layers)
    if steps > 1 and not signal.stride(0):
        signal, sends = of_all_steps(name, layers, signal, sends, watch)
    signal = signal.flatten(0, 1)
    waiting = []  # linear layers that are not asked unless their neurons need them
    for position, module in layers:
        key = f"{name}.{position}"
        if isinstance(module, SpikingNeuron):
            state, asked = memory.get(key), (recorded or {}).get(key, {})
            if looks and state and state.quiet and not any(sends) and state.quiet == dynamics(module):
                waiting, signal = [], state.v.new_zeros(1).expand(steps * images, *state.v.shape[1:])
                if counts is not None:
                    counts[key] = signal.new_zeros(steps, images, dtype=torch.float32)
                continue
            signal, waiting = apply_to_silence(waiting, signal, sends, images), []
            run = traced_steps if "membrane" in asked else neuron_steps
            signal, memory[key], spiked, *membranes = run(module, signal, state, steps)
            if membranes:
                asked["membrane"] = membranes[0].unflatten(0, (steps, images))
            if "spikes" in asked:
                asked["spikes"] = signal.unflatten(0, (steps, images))
            if counts is not None:
                counts[key] = spiked
            if watch:
                watch(key, signal)
            sends = spiked.any(1).tolist() if looks else []
            if sends and not sends[-1] and stays_quiet(module):
                memory[key] = memory[key]._replace(quiet=dynamics(module))
        elif isinstance(module, HeldDropout):
            signal, memory[key] = module(signal, memory.get(key), steps, draws)
        else:
            pools = isinstance(module, nn.MaxPool2d)
            if not isinstance(module, LINEAR_OR_POOL):
                signal, waiting, sends = apply_to_silence(waiting, signal, sends, images), [], [True] * len(sends)
            if watch and not pools:
                watch(key, signal)
            if isinstance(module, CountingMaxPool):
                signal, memory[key] = module.run(signal, memory.get(key), steps)
            elif sends and not any(sends) and not watch:
                waiting.append(module)
            elif all(sends):
                signal = module(signal)
            else:
                signal = apply_to_active_steps(module, signal.unflatten(0, (len(sends), images)), sends)
            if watch and pools:
                watch(key, signal)
    return apply_to_silence(waiting, signal, sends, images).unflatten(0, (steps, images))


def of_all_steps(name, layers, signal, sends, watch):
    """(what linear layers at the beginning make of a signal (T, B, ...) whose steps are one, T times; whether it is sent, T
    numbers); these layers are taken off the list. watch: as in run_stage."""
    steps, signal = len(signal), signal[0]
    while layers and isinstance(layers[0][1], LINEAR):
        position, module = layers.pop(0)
        if watch:
            watch(f"{name}.{position}", torch.cat([signal] * steps))
        signal, sends = module(signal), [True] * len(sends)
    return torch.cat([signal] * steps).unflatten(0, (steps, -1)), sends


def apply_to_silence(modules, signal, sends, images):
    """What linear layers make of a signal (T B, ...) of zeros; sends: T numbers."""
    for module in modules:
        signal = apply_to_active_steps(module, signal.unflatten(0, (len(sends), images)), sends)
    return signal


def apply_to_active_steps(module, signal, sends):
    """What a linear layer makes, (T B, ...), of a signal (T, B, ...) that is 0 where sends, T numbers, is 0: its bias there."""
    at = [t for t, any_ in enumerate(sends) if any_]
    found = module(signal[at].flatten(0, 1)).unflatten(0, (len(at), signal.shape[1]))
    whole = found.new_zeros(len(signal), *found.shape[1:])
    if (bias := getattr(module, "bias", None)) is not None:
        whole += bias.view(-1, *[1] * (found.dim() - 3))
    whole[at] = found
    return whole.flatten(0, 1)
