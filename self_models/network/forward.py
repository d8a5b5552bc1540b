"""How a stage's layers are run, step by step or all steps at once, without asking layers what is known anyhow."""

from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from self_models.network.neurons import CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.network.stages import LINEAR, LINEAR_OR_POOL, list_layers

FEW_CHANNELS = 4  # up to here a transposed convolution is faster as a matrix product whose columns are added up


def decoder_layers(stage, signals, image_size):
    """list_layers of a decoder, in training each chain of U layers and the convolution after it as one FoldedChain, as far as
    that pays: the same map in fewer multiply-adds. signals: how many of them will come; image_size: (height, width) of the
    decoder's output."""
    if not stage.training:
        return list_layers(stage)
    layers, size, chain = [], list(image_size), None
    for position, module in reversed(list_layers(stage)):
        is_transposed = isinstance(module, nn.ConvTranspose2d)
        if is_transposed and module.stride[0] > 1:
            size = [(here - lost) // 2 for here, lost in zip(size, module.output_padding, strict=True)]
            if chain and chain.pays_with(module, signals * prod(size)):
                chain.fold_in(module)
                layers[0] = (layers[0][0], chain)
                continue
            chain = None
        else:
            chain = FoldedChain(module) if is_transposed else None
        layers.insert(0, (position, module))
    return layers


class FoldedChain:
    """A k x k transposed convolution and U layers before it, which are linear together, as one transposed convolution.

    Two transposed convolutions after each other are one, whose kernel is the first kernel passed through the second as if it
    were an image. Begun at the end, where channels are fewest, that takes the fewest operations. At borders nothing changes: a
    U layer's output pixels each come from one input pixel.
    """

    def __init__(self, module):
        self.kernel, self.stride, self.padding, self.lost = module.weight, 1, module.padding[0], [0, 0]
        self.bias = module.bias

    def pays_with(self, up, places):
        """Whether fewer multiply-adds are needed with this U layer before it folded in than without, for this many places
        (of all signals together) before that layer. (The backward pass needs twice the forward pass's, whichever way.)"""
        (channels, width, size, _), grown = self.kernel.shape, self.kernel.shape[-1] + self.stride
        apart = places * up.weight.numel() + 4 * places * channels * width * size**2
        return up.weight.numel() * width * size**2 + places * up.in_channels * width * grown**2 < apart

    def fold_in(self, up):
        """Become the map of this U layer and what was before."""
        self.kernel = F.conv_transpose2d(up.weight, self.kernel, stride=self.stride)
        self.lost = [self.stride * here + rest for here, rest in zip(up.output_padding, self.lost, strict=True)]
        self.stride *= up.stride[0]

    def __call__(self, signal):
        """(B, C, H, W) -> (B, C', stride H + lost, stride W + lost)"""
        channels, size = self.kernel.shape[1], self.kernel.shape[-1]
        if channels > FEW_CHANNELS or self.bias is not None:
            return F.conv_transpose2d(signal, self.kernel, self.bias, self.stride, self.padding, self.lost)
        columns = self.kernel.flatten(1).t() @ signal.flatten(2)
        shape = [self.stride * here + lost for here, lost in zip(signal.shape[2:], self.lost, strict=True)]
        return F.fold(columns, shape, size, padding=self.padding, stride=self.stride)


def chains(layers):
    """The (position, module) pairs of a stage's layers as (linear ones in a row, the spiking layer that ends them or None)."""
    linear = []
    for position, module in layers:
        if isinstance(module, SpikingNeuron):
            yield linear, (position, module)
            linear = []
        elif not isinstance(module, HeldDropout):
            linear.append((position, module))
    if linear:
        yield linear, None


def run_stage(name, layers, signal, memory, draws=None, counts=None, watch=None, final=False, kept=None):
    """Steps of a stage; returns the signal that comes out. layers: (position, module) pairs; signal: (T, B, ...); memory: module
    name -> state, updated in place; draws: the batch's Draws, of the dropout masks in training. counts: filled with spiking layer
    -> spikes per step and image. watch: called with the name of each linear layer and what goes into it, (T B, ...), or of each
    spiking layer and maximum pool and what comes out of it, and with T. final: whether no step will follow. kept: spiking
    layer -> a dict whose keys 'spikes' and 'membrane', where they are there, get what it sends and its potential after each step,
    (T, B, ...).

    A signal may lack steps at its beginning, all of them even, in which nothing can have arrived yet: with the update `delayed` a
    layer at rest is silent in its first step, so k layers take k steps off. So it is with counts. Linear layers are not asked
    about the drive of the last step, if it would be fired after it, nor, in evaluation on a CPU, about steps in which no image of
    the batch sends anything (a GPU would have to be waited for); nor are quiet neurons that then get nothing. Where all steps are
    views of one, as of an image that is sent as it is, the layers before the first neurons are asked once.
    """
    looks = signal.device.type == "cpu" and not torch.is_grad_enabled() and bool(layers)
    sends = torch.linalg.vector_norm(signal, 1, tuple(range(1, signal.dim()))).tolist() if looks else []
    (steps, images), layers = signal.shape[:2], list(layers)
    if steps > 1 and not signal.stride(0):
        signal, sends = of_all_steps(name, layers, signal, sends, watch)
    signal = signal.flatten(0, 1)
    idle, driven = late_chains(layers) if final and not (watch or kept) else (), steps  # steps of which the signal is
    waiting = []  # linear layers that are not asked unless their neurons need them
    for position, module in layers:
        key = f"{name}.{position}"
        if isinstance(module, SpikingNeuron):
            if steps:
                state = memory.get(key)
                if looks and state and state.quiet == module.dynamics and not any(sends):
                    waiting, signal = [], state.v.new_zeros(1).expand(steps * images, *state.v.shape[1:])
                    if counts is not None:
                        counts[key] = signal.new_zeros(steps, images, dtype=torch.float32)
                    continue
                signal, waiting = silently(waiting, signal, sends, images), []
                if driven < steps:
                    signal = torch.cat([signal, torch.zeros_like(signal[:images])])
                was_at_rest = key not in memory
                asked = (kept or {}).get(key, {})
                run = module.traced if "membrane" in asked else module
                signal, memory[key], fired, *membranes = run(signal, state, steps)
                if membranes:
                    asked["membrane"] = membranes[0].unflatten(0, (steps, images))
                if was_at_rest and module.begins_silent:
                    steps, signal, fired = steps - 1, signal[images:], fired[1:]
                if "spikes" in asked:
                    asked["spikes"] = signal.unflatten(0, (steps, images))
                if counts is not None:
                    counts[key] = fired
                if watch:
                    watch(key, signal, steps)
                sends, driven = fired.any(1).tolist() if looks else [], steps
                if sends and not sends[-1] and module.stays_quiet:
                    memory[key] = memory[key]._replace(quiet=module.dynamics)
        elif isinstance(module, HeldDropout):
            signal, memory[key] = module(signal, memory.get(key), driven, draws)
        else:
            pools = isinstance(module, nn.MaxPool2d)
            if not isinstance(module, LINEAR_OR_POOL):
                signal, waiting, sends = silently(waiting, signal, sends, images), [], [True] * len(sends)
            if watch and not pools:
                watch(key, signal, steps)
            if position in idle and steps > 1:
                signal, sends, driven = signal[:-images], sends[:-1], steps - 1
            if isinstance(module, CountingMaxPool):
                signal, memory[key] = module.run(signal, memory.get(key), driven)
            elif sends and not any(sends) and not watch:
                waiting.append(module)
            else:
                signal = module(signal) if all(sends) else sparsely(module, signal.unflatten(0, (len(sends), images)), sends)
            if watch and pools:
                watch(key, signal, steps)
    return silently(waiting, signal, sends, images).unflatten(0, (steps, images))


def of_all_steps(name, layers, signal, sends, watch):
    """(what linear layers at the beginning make of a signal (T, B, ...) whose steps are one, T times; whether it is sent, T
    numbers); these layers are taken off the list. watch: as in run_stage."""
    steps, signal = len(signal), signal[0]
    while layers and isinstance(layers[0][1], LINEAR):
        position, module = layers.pop(0)
        if watch:
            watch(f"{name}.{position}", torch.cat([signal] * steps), steps)
        signal, sends = module(signal), [True] * len(sends)
    return torch.cat([signal] * steps).unflatten(0, (steps, -1)), sends


def silently(modules, signal, sends, images):
    """What linear layers make of a signal (T B, ...) of zeros; sends: T numbers."""
    for module in modules:
        signal = sparsely(module, signal.unflatten(0, (len(sends), images)), sends)
    return signal


def late_chains(layers):
    """The positions at which chains of linear layers begin that drive neurons which fire a step later."""
    return [linear[0][0] for linear, neuron in chains(layers) if linear and neuron and neuron[1].update.delays]


def sparsely(module, signal, sends):
    """What a linear layer makes, (T B, ...), of a signal (T, B, ...) that is 0 where sends, T numbers, is 0: its bias there."""
    at = [t for t, any_ in enumerate(sends) if any_]
    found = module(signal[at].flatten(0, 1)).unflatten(0, (len(at), signal.shape[1]))
    whole = found.new_zeros(len(signal), *found.shape[1:])
    if (bias := getattr(module, "bias", None)) is not None:
        whole += bias.view(-1, *[1] * (found.dim() - 3))
    whole[at] = found
    return whole.flatten(0, 1)
