"""Many steps of a stage's layers at once, without asking layers what is known anyhow."""

from math import prod

import torch
from torch import nn

from self_models.fast.batched.folding import FoldedChain
from self_models.fast.batched.neurons import dynamics, neuron_steps, stays_quiet, traced_steps
from self_models.network.neurons import CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.network.stages import LINEAR, LINEAR_OR_POOL

PASSES = (*LINEAR_OR_POOL, FoldedChain)  # they make 0 of 0, but for a bias


def run_stage(name, layers, signal, memory, draws, counts, watch, recorded):
    """T steps of a stage; returns the signal that comes out. layers: (position, module) pairs; signal: (T, B, ...); memory:
    module name -> state, updated in place; draws: the batch's Draws, of the dropout masks in training. counts: filled with
    spiking layer -> spikes per step and image. watch: called with the name of each linear layer and what goes into it, (T B,
    ...), or of each spiking layer and maximum pool and what comes out of it. recorded: spiking layer -> a dict whose keys
    'spikes' and 'membrane', where they are there, get what it sends and its potential after each step, (T, B, ...).

    In evaluation on a CPU (a GPU would have to be waited for) linear layers are not asked about images that send nothing in a
    step, nor are quiet neurons that then get nothing. Where all steps are views of one, as of an image that is sent as it is,
    the layers before the first neurons are asked once.
    """
    looks = signal.device.type == "cpu" and not torch.is_grad_enabled() and bool(layers)
    at = rows_that_send(signal.abs().sum(tuple(range(2, signal.dim())))) if looks else None
    (steps, images), layers = signal.shape[:2], list(layers)
    if steps > 1 and not signal.stride(0):
        signal, at = of_all_steps(name, layers, signal, at, watch)
    signal = signal.flatten(0, 1)
    waiting = []  # linear layers that are not asked unless their neurons need them
    for position, module in layers:
        key = f"{name}.{position}"
        if isinstance(module, SpikingNeuron):
            state, asked = memory.get(key), recorded.get(key, {})
            if state and state.quiet and at is not None and not len(at) and state.quiet == dynamics(module):
                waiting, signal = [], state.v.new_zeros(1).expand(steps * images, *state.v.shape[1:])
                counts[key] = signal.new_zeros(steps, images, dtype=torch.float32)
                continue
            signal, waiting = apply_to_rows(waiting, signal, at, state and state.v), []
            run = traced_steps if "membrane" in asked else neuron_steps
            signal, memory[key], spiked, *membranes = run(module, signal, state, steps)
            if membranes:
                asked["membrane"] = membranes[0].unflatten(0, (steps, images))
            if "spikes" in asked:
                asked["spikes"] = signal.unflatten(0, (steps, images))
            counts[key] = spiked
            if watch:
                watch(key, signal)
            at = rows_that_send(spiked) if looks else None
            if at is not None and not len(at) and stays_quiet(module):
                memory[key] = memory[key]._replace(quiet=dynamics(module))
        elif isinstance(module, HeldDropout):
            signal, waiting = apply_to_rows(waiting, signal, at), []
            signal, memory[key] = module(signal, memory.get(key), steps, draws)
        elif isinstance(module, PASSES) and not isinstance(module, CountingMaxPool) and not watch:
            waiting.append(module)
        else:
            signal, waiting = apply_to_rows(waiting, signal, at), []
            if watch and isinstance(module, FoldedChain):
                for at_layer, given in module.inputs(signal):
                    watch(f"{name}.{at_layer}", given)
            elif watch and not isinstance(module, nn.MaxPool2d):
                watch(key, signal)
            if isinstance(module, CountingMaxPool):
                signal, memory[key] = module.run(signal, memory.get(key), steps)
            else:
                signal = module(signal)
            at = at if isinstance(module, PASSES) else None
            if watch and isinstance(module, nn.MaxPool2d):
                watch(key, signal)
    return apply_to_rows(waiting, signal, at).unflatten(0, (steps, images))


def of_all_steps(name, layers, signal, at, watch):
    """(what linear layers at the beginning make of a signal (T, B, ...) whose steps are one, T times; which rows of it are not 0,
    see rows_that_send); these layers are taken off the list. watch: as in run_stage."""
    steps, signal = len(signal), signal[0]
    while layers and isinstance(layers[0][1], LINEAR):
        position, module = layers.pop(0)
        if watch:
            watch(f"{name}.{position}", torch.cat([signal] * steps))
        signal, at = module(signal), None
    return torch.cat([signal] * steps).unflatten(0, (steps, -1)), at


def rows_that_send(sent):
    """The rows of a layer's signal (T B, ...) that are to be looked at, None for all: those of which sent (T, B) is not 0, and
    others up to an eighth of all, since PyTorch prepares a convolution anew for each number of rows."""
    part, count = max(1, -(-sent.numel() // 8)), int(sent.count_nonzero())
    count = -(-count // part) * part
    if count >= sent.numel():
        return None
    return sent.flatten().argsort(descending=True)[:count] if count else torch.empty(0, dtype=torch.int64)


def apply_to_rows(modules, signal, at, like=None):
    """What linear layers or pools make, one after the other, of a signal (T B, ...) that is 0 but for the rows `at`, None for
    all: of zeros the last one's bias, if it has one. like: None, or a tensor whose rows are like those that come out."""
    if not modules or at is None:
        for module in modules:
            signal = module(signal)
        return signal
    if like is None or len(at):
        like = signal[at]
        for module in modules:
            like = module(like)
    sizes = like.shape[1:]
    whole = like.new_empty_strided((len(signal), *sizes), (prod(sizes), *like.stride()[1:])).zero_()
    if (bias := getattr(modules[-1], "bias", None)) is not None:
        whole += bias.view(-1, *[1] * (len(sizes) - 1))
    if len(at):
        whole[at] = like
    return whole
