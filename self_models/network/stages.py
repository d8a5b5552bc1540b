"""The three stages of a network, features, generate and classifier, as nn.Sequential; ANN and SNN share this builder.

Positions count nonlinearities and dropouts, so that parameter names are the same in ANN, SNN and the original:
features.0.weight, generate.1.weight, classifier.6.weight.
"""

from functools import partial
from math import prod, sqrt

import torch
import torch.nn.functional as F
from torch import nn

from self_models.network.neurons import HeldDropout, SpikingNeuron
from self_models.network.plans import halvings

LINEAR = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
FEW_CHANNELS = 4  # up to here a transposed convolution is faster as a matrix product whose columns are added up


def build_stages(plan, image_shape, settings, nonlinearity, output_nonlinearity=None):
    """features, generate (None without a decoder) and classifier, initialised. features.fork: how many layers of it the decoder
    needs.

    settings: fc_width, kernel_size, dropout, fc_dropout, labels, init; nonlinearity: (stage name, channels) -> new module;
    output_nonlinearity: the module after the decoder's last layer, or None for none. Convolutions have no bias. Raises
    ModelError where the image is too small for the plan.
    """
    channels, height, width = image_shape
    kernel_size, fc_width = settings["kernel_size"], settings["fc_width"]
    sizes, drop = plan.sizes(height, width), partial(HeldDropout, settings["dropout"])
    features, depth, at_fork = _encoder(plan.encoder, channels, kernel_size, partial(nonlinearity, "features"), drop)
    generate = None
    features.fork = features.fork if plan.decoder else 0  # whose end it is where the plan names none
    if plan.decoder:
        new_neuron, sizes_there = partial(nonlinearity, "generate"), sizes[: halvings(plan.before_fork) + 1]
        generate = _decoder(plan.decoder, at_fork, channels, sizes_there, kernel_size, new_neuron, drop, output_nonlinearity)
    flat = depth * sizes[-1][0] * sizes[-1][1]
    classifier = nn.Sequential(
        nn.Linear(flat, fc_width, bias=False),
        nonlinearity("classifier", fc_width),
        HeldDropout(settings["fc_dropout"]),
        nn.Linear(fc_width, fc_width, bias=False),
        nonlinearity("classifier", fc_width),
        HeldDropout(settings["fc_dropout"]),
        nn.Linear(fc_width, settings["labels"], bias=False),
    )
    stages = nn.ModuleList(filter(None, (features, generate, classifier)))
    for stage in stages:
        initialise(stage, settings["init"])
    for layer, module in enumerate(module for module in stages.modules() if isinstance(module, HeldDropout)):
        module.layer = layer
    return features, generate, classifier


def _encoder(tokens, channels, kernel_size, nonlinearity, drop):
    """(stage, its channels at the end, those at its fork)"""
    layers, fork, at_fork = [], None, None
    for token in tokens:
        if token == "fork":
            fork, at_fork = len(layers), channels
        elif token in ("D", "A"):
            if isinstance(layers[-1], HeldDropout):
                layers.pop()
                fork = fork and min(fork, len(layers))
            down = nn.Conv2d(channels, channels, 2, stride=2, bias=False) if token == "D" else nn.AvgPool2d(2)
            layers.append(down)
        else:
            layers += [nn.Conv2d(channels, token, kernel_size, padding=kernel_size // 2, bias=False)]
            layers += [nonlinearity(token), drop()]
            channels = token
    stage = nn.Sequential(*layers)
    stage.fork = fork or len(layers)
    return stage, channels, at_fork or channels


def _decoder(tokens, channels, image_channels, sizes, kernel_size, nonlinearity, drop, output_nonlinearity):
    sizes = list(sizes)
    layers = []
    for token in tokens:
        if token == "U":
            small, large = sizes.pop(), sizes[-1]
            lost = tuple(b - 2 * a for a, b in zip(small, large, strict=True))  # 1 where the encoder halved an odd size
            layers.append(nn.ConvTranspose2d(channels, channels, 2, stride=2, output_padding=lost, bias=False))
        elif token == "drop":
            layers.append(drop())
        else:
            width = image_channels if token == "in" else token
            layers.append(nn.ConvTranspose2d(channels, width, kernel_size, padding=kernel_size // 2, bias=False))
            layers += [output_nonlinearity] if token == "in" else [nonlinearity(width)]
            channels = width
    return nn.Sequential(*filter(None, layers))


def initialise(stage, init):
    """Draw a stage's weights, normal with the deviations of this name in INITS."""
    layers = list(stage)
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, LINEAR):
            nn.init.normal_(
                layer.weight, 0, INITS[init](layer, rectified=not isinstance(after, (*LINEAR, HeldDropout, type(None))))
            )


def original_deviation(layer, rectified):
    """The original's, whatever follows: sqrt(2 / (k k out_channels)) of a convolution, 0.01 of a linear layer."""
    return 0.01 if isinstance(layer, nn.Linear) else sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))


def kaiming_deviation(layer, rectified):
    """sqrt(2 / inputs of an output) where a nonlinearity follows (rectified), which takes half of the mean square, else
    sqrt(1 / inputs): so a signal neither fades nor grows on its way through a deep network (He et al., ICCV 2015)."""
    inputs = layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):
        inputs = layer.in_channels * (layer.kernel_size[0] / layer.stride[0]) ** 2
    return sqrt((2 if rectified else 1) / inputs)


INITS = {"original": original_deviation, "kaiming": kaiming_deviation}


def list_layers(stage):
    """The (position, module) pairs of a stage, as run_stage takes them."""
    return list(stage.named_children())


def encoder_parts(features):
    """The same of the encoder in two parts: up to where the decoder takes its input, and the rest, maybe none."""
    layers = list_layers(features)
    return layers[: features.fork], layers[features.fork :]


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
        if channels > FEW_CHANNELS:
            return F.conv_transpose2d(signal, self.kernel, None, self.stride, self.padding, self.lost)
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
    -> spikes per step and image. watch: called with the name of each linear layer and what goes into it, and with that of each
    spiking layer and what comes out of it, (T, B, ...). final: whether no step will follow. kept: spiking layer -> a dict whose
    keys 'spikes' and 'membrane', where they are there, get what it sends and its potential after each step, (T, B, ...).

    A signal may lack steps at its beginning, all of them even, in which nothing can have arrived yet: with the update `delayed` a
    layer at rest is silent in its first step, so k layers take k steps off. So it is with counts. Linear layers are not asked
    about the drive of the last step, if it would be fired after it, nor, in evaluation on a CPU, about steps in which no image of
    the batch sends anything (a GPU would have to be waited for); nor are quiet neurons that then get nothing.
    """
    looks = signal.device.type == "cpu" and not torch.is_grad_enabled() and bool(layers)
    sends = torch.linalg.vector_norm(signal, 1, tuple(range(1, signal.dim()))).tolist() if looks else []
    (steps, images), signal = signal.shape[:2], signal.flatten(0, 1)
    idle, driven = late_chains(layers) if final and not (watch or kept) else (), steps  # steps of which the signal is
    waiting = []  # linear layers that are not asked unless their neurons need them
    for position, module in layers:
        key = f"{name}.{position}"
        if isinstance(module, SpikingNeuron):
            if steps:
                state = memory.get(key)
                if looks and state and state.quiet and not any(sends):
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
                    memory[key] = memory[key]._replace(quiet=True)
        elif isinstance(module, HeldDropout):
            signal, memory[key] = module(signal, memory.get(key), driven, draws)
        else:
            if watch:
                watch(key, signal, steps)
            if position in idle and steps > 1:
                signal, sends, driven = signal[:-images], sends[:-1], steps - 1
            if sends and not any(sends) and not watch:
                waiting.append(module)
            else:
                signal = module(signal) if all(sends) else sparsely(module, signal.unflatten(0, (len(sends), images)), sends)
    return silently(waiting, signal, sends, images).unflatten(0, (steps, images))


def silently(modules, signal, sends, images):
    """What linear layers make of a signal (T B, ...) of zeros; sends: T numbers."""
    for module in modules:
        signal = sparsely(module, signal.unflatten(0, (len(sends), images)), sends)
    return signal


def late_chains(layers):
    """The positions at which chains of linear layers begin that drive neurons which fire a step later."""
    return [linear[0][0] for linear, neuron in chains(layers) if linear and neuron and neuron[1].update.delays]


def sparsely(module, signal, sends):
    """What a linear layer makes, (T B, ...), of a signal (T, B, ...) that is 0 where sends, T numbers, is 0."""
    at = [t for t, any_ in enumerate(sends) if any_]
    found = module(signal[at].flatten(0, 1)).unflatten(0, (len(at), signal.shape[1]))
    whole = found.new_zeros(len(signal), *found.shape[1:])
    whole[at] = found
    return whole.flatten(0, 1)
