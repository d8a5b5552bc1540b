"""The three stages of a network, features, generate and classifier, as nn.Sequential; ANN and SNN share this builder.

Positions count nonlinearities and dropouts, so that parameter names are the same in ANN, SNN and the original:
features.0.weight, generate.1.weight, classifier.6.weight.
"""

from functools import partial
from itertools import pairwise
from math import sqrt

import torch
from torch import nn

from self_models.basics.settings import Registry
from self_models.layers.architectures import HALVING, halvings
from self_models.layers.neurons import CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.layers.node_kinds import has_state

LINEAR = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
POOLS = {"A": nn.AvgPool2d, "M": nn.MaxPool2d}  # token -> class
MAX_POOLS = {
    "or": nn.MaxPool2d,
    "count": CountingMaxPool,
}  # of spikes: --max_pool -> class of the token M


def build_stages(plan, image_shape, settings, nonlinearity, output_nonlinearity=None):
    """features, generate (None without a decoder) and classifier, initialised. features.fork: how many layers of it the decoder
    needs.

    settings: fc_width, fc_layers, kernel_size, dropout, fc_dropout, labels, init, of an SNN max_pool, bias, output_bias;
    nonlinearity: (stage name, channels) -> new module; output_nonlinearity: the module after the decoder's last layer, or None.
    With bias each linear layer right before neurons has one: the others are linear together with the one after them, or their
    output is only added up. Raises ModelError where the image is too small for the plan.
    """
    channels, height, width = image_shape
    kernel_size = settings["kernel_size"]
    sizes, drop = plan.sizes(height, width), partial(HeldDropout, settings["dropout"])
    pools = POOLS | {"M": MAX_POOLS[settings.get("max_pool", "or")]}
    features, depth, at_fork = _encoder(
        plan.encoder, channels, kernel_size, partial(nonlinearity, "features"), drop, pools
    )
    generate = None
    features.fork = (
        features.fork if plan.decoder else 0
    )  # whose end it is where the plan names none
    if plan.decoder:
        new_neuron, sizes_there = (
            partial(nonlinearity, "generate"),
            sizes[: halvings(plan.before_fork) + 1],
        )
        generate = _decoder(
            plan.decoder,
            at_fork,
            channels,
            sizes_there,
            kernel_size,
            new_neuron,
            drop,
            output_nonlinearity,
        )
    flat = depth * sizes[-1][0] * sizes[-1][1]
    classifier = _classifier(flat, settings, partial(nonlinearity, "classifier"))
    stages = nn.ModuleList(filter(None, (features, generate, classifier)))
    for stage in stages:
        for layer, after in pairwise([*stage, None]):
            if isinstance(layer, LINEAR):
                is_rectified = not isinstance(
                    after, (*LINEAR, *POOLS.values(), HeldDropout, type(None))
                )
                INITS[settings["init"]](layer, is_rectified)
                if settings.get("bias") and isinstance(after, SpikingNeuron):
                    add_bias(layer)
    if settings.get("output_bias"):
        add_bias(classifier[-1])
    for layer, module in enumerate(
        module for module in stages.modules() if isinstance(module, HeldDropout)
    ):
        module.layer = layer
    return features, generate, classifier


def add_bias(layer):
    """Give a linear layer a bias of zeros, (C',)."""
    layer.bias = nn.Parameter(
        torch.zeros(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
    )


def _encoder(tokens, channels, kernel_size, nonlinearity, drop, pools):
    """(stage, its channels at the end, those at its fork)"""
    layers, fork, at_fork = [], None, None
    for token in tokens:
        if token == "fork":
            fork, at_fork = len(layers), channels
        elif token in HALVING:
            if isinstance(layers[-1], HeldDropout):
                layers.pop()
                fork = fork and min(fork, len(layers))
            layers.append(
                pools[token](2)
                if token in pools
                else nn.Conv2d(channels, channels, 2, stride=2, bias=False)
            )
        else:
            layers += [
                nn.Conv2d(channels, token, kernel_size, padding=kernel_size // 2, bias=False)
            ]
            layers += [nonlinearity(token), drop()]
            channels = token
    stage = nn.Sequential(*layers)
    stage.fork = fork or len(layers)
    return stage, channels, at_fork or channels


def _decoder(
    tokens, channels, image_channels, sizes, kernel_size, nonlinearity, drop, output_nonlinearity
):
    sizes = list(sizes)
    layers = []
    for token in tokens:
        if token == "U":
            small, large = sizes.pop(), sizes[-1]
            lost = tuple(
                b - 2 * a for a, b in zip(small, large, strict=True)
            )  # 1 where the encoder halved an odd size
            layers.append(
                nn.ConvTranspose2d(
                    channels, channels, 2, stride=2, output_padding=lost, bias=False
                )
            )
        elif token == "drop":
            layers.append(drop())
        else:
            width = image_channels if token == "in" else token
            layers.append(
                nn.ConvTranspose2d(
                    channels, width, kernel_size, padding=kernel_size // 2, bias=False
                )
            )
            layers += [output_nonlinearity] if token == "in" else [nonlinearity(width)]
            channels = width
    return nn.Sequential(*filter(None, layers))


def _classifier(width, settings, nonlinearity):
    layers = []
    for _ in range(settings["fc_layers"]):
        layers += [
            nn.Linear(width, settings["fc_width"], bias=False),
            nonlinearity(settings["fc_width"]),
        ]
        layers += [HeldDropout(settings["fc_dropout"])]
        width = settings["fc_width"]
    return nn.Sequential(*layers, nn.Linear(width, settings["labels"], bias=False))


INITS = Registry(
    "init"
)  # name -> function (layer, rectified: whether a nonlinearity follows) that draws its weights


@INITS.register("original")
def original(layer, rectified):
    """Normal, whatever follows, of deviation sqrt(2 / (k k out_channels)) in a convolution, 0.01 in a linear layer."""
    deviation = (
        0.01
        if isinstance(layer, nn.Linear)
        else sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
    )
    nn.init.normal_(layer.weight, 0, deviation)


@INITS.register("kaiming")
def kaiming(layer, rectified):
    """Normal, of deviation sqrt(2 / inputs of an output) where a nonlinearity follows (rectified), which takes half of the mean
    square, else sqrt(1 / inputs): a signal neither fades nor grows on its way through a deep network (He et al., ICCV 2015)."""
    inputs = layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):
        inputs = layer.in_channels * (layer.kernel_size[0] / layer.stride[0]) ** 2
    nn.init.normal_(layer.weight, 0, sqrt((2 if rectified else 1) / inputs))


@INITS.register("dirac")
def dirac(layer, rectified):
    """As kaiming; but output channels of a k x k convolution hand on the input channels of their numbers, as far as there are."""
    kaiming(layer, rectified)
    if not isinstance(layer, nn.Linear) and layer.stride == (1, 1):
        filters = layer.weight.detach().transpose(
            0, int(isinstance(layer, nn.ConvTranspose2d))
        )  # (C', C, k, k)
        nn.init.dirac_(filters[: filters.shape[1]])


def pass_on(layer, signal, memory, key, draws=None):
    """What a layer that does not spike makes of one step's signal (B, ...). memory: key -> its state, if it has one, updated in
    place; draws: the batch's Draws, of a dropout mask in training."""
    if isinstance(layer, HeldDropout) and key not in memory:
        memory[key] = layer.new_mask(draws, signal.shape[1:], signal.device)
    if not has_state(layer):
        return layer(signal)
    signal, memory[key] = layer(signal, memory.get(key))
    return signal
