"""The three stages of a network: features, generate and classifier.

They are the encoder, the decoder and what gives the logits, each an nn.Sequential. ANN
and SNN share this builder. Positions count nonlinearities and dropouts, so that
parameters have the same names in ANN, SNN and the original: features.0.weight,
generate.1.weight, classifier.6.weight.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import NamedTuple

import torch
from torch import nn

from self_models.networks.architectures import HALVING, Plan, halvings
from self_models.networks.node_kinds import has_state
from self_models.neurons.spiking import CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.settings import Registry

LINEAR = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
POOLS = {"A": nn.AvgPool2d, "M": nn.MaxPool2d}  # token -> class
# What a maximum pool of spikes is: --max_pool -> class of the token M.
MAX_POOLS = {"or": nn.MaxPool2d, "count": CountingMaxPool}


def build_stages(
    plan: Plan,
    image_shape: tuple[int, int, int],
    settings: dict,
    nonlinearity: Callable[[str, int], nn.Module],
    output_nonlinearity: nn.Module | None = None,
) -> tuple[nn.Sequential, nn.Sequential | None, nn.Sequential]:
    """Build the stages of a network, with new weights.

    With bias, each linear layer right before neurons has one. All others are linear
    together with the layer after them, or their output is only added up.

    Parameters
    ----------
    plan : Plan
        The architecture.
    image_shape : tuple of int
        (C, H, W).
    settings : dict
        fc_width, fc_layers, kernel_size, dropout, fc_dropout, labels and init; of an
        SNN also max_pool, bias and output_bias.
    nonlinearity : callable
        ``nonlinearity(stage name, channels)`` returns a new module.
    output_nonlinearity : nn.Module, optional
        What follows the decoder's last layer.

    Returns
    -------
    features : nn.Sequential
        The encoder. ``features.fork`` is how many of its layers the decoder needs.
    generate : nn.Sequential or None
        The decoder, if there is one.
    classifier : nn.Sequential
        From the flattened output of the encoder to the logits.

    Raises
    ------
    ModelError
        If the image is too small for the architecture.
    """
    channels, height, width = image_shape
    sizes = plan.sizes(height, width)
    encoder = _build_encoder(plan.encoder, channels, settings, partial(nonlinearity, "features"))
    features = encoder.stage
    features.fork = encoder.fork if plan.decoder else 0
    generate = None
    if plan.decoder:
        generate = _build_decoder(
            plan.decoder,
            encoder.fork_channels,
            channels,
            sizes[: halvings(plan.before_fork) + 1],
            settings,
            partial(nonlinearity, "generate"),
            output_nonlinearity,
        )
    last_height, last_width = sizes[-1]
    num_inputs = encoder.channels * last_height * last_width
    classifier = _build_classifier(num_inputs, settings, partial(nonlinearity, "classifier"))

    stages = [stage for stage in (features, generate, classifier) if stage is not None]
    for stage in stages:
        _init_stage(stage, settings)
    if settings.get("output_bias"):
        add_bias(classifier[-1])
    _number_dropouts(stages)
    return features, generate, classifier


def add_bias(layer: nn.Module) -> None:
    """Give a linear layer a bias of zeros, one for each channel that it gives."""
    size = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    layer.bias = nn.Parameter(torch.zeros(size))


class Encoder(NamedTuple):
    """An encoder, and what the decoder has to know of it.

    Attributes
    ----------
    stage : nn.Sequential
        Its layers.
    channels : int
        That its last layer gives.
    fork : int
        How many of its layers the decoder needs: those before the token fork, else all.
    fork_channels : int
        That the last one of these gives.
    """

    stage: nn.Sequential
    channels: int
    fork: int
    fork_channels: int


def _build_encoder(tokens: tuple, channels: int, settings: dict, new_neurons: Callable) -> Encoder:
    """Build the encoder.

    Parameters
    ----------
    tokens : tuple of int and str
        Tokens of its layers, see `Plan`.
    channels : int
        Channels of the images.
    settings : dict
        kernel_size, dropout, and of an SNN max_pool.
    new_neurons : callable
        ``new_neurons(channels)`` returns a new nonlinearity.

    Returns
    -------
    Encoder
        The layers, and where the decoder takes its input.
    """
    kernel_size = settings["kernel_size"]
    pools = POOLS | {"M": MAX_POOLS[settings.get("max_pool", "or")]}
    layers = []
    fork = None
    fork_channels = None
    for token in tokens:
        if token == "fork":
            fork = len(layers)
            fork_channels = channels
        elif token in HALVING:
            # As in the original, no dropout stands before a layer that halves the
            # image.
            if isinstance(layers[-1], HeldDropout):
                layers.pop()
                if fork is not None:
                    fork = min(fork, len(layers))
            if token in pools:
                layers.append(pools[token](2))
            else:
                layers.append(nn.Conv2d(channels, channels, 2, stride=2, bias=False))
        else:
            padding = kernel_size // 2
            layers.append(nn.Conv2d(channels, token, kernel_size, padding=padding, bias=False))
            layers.append(new_neurons(token))
            layers.append(HeldDropout(settings["dropout"]))
            channels = token
    if fork is None:
        fork = len(layers)
        fork_channels = channels
    return Encoder(nn.Sequential(*layers), channels, fork, fork_channels)


def _build_decoder(
    tokens: tuple,
    channels: int,
    image_channels: int,
    sizes: list[tuple[int, int]],
    settings: dict,
    new_neurons: Callable,
    output_nonlinearity: nn.Module | None,
) -> nn.Sequential:
    """Build the decoder, which goes from the encoder's fork back to the image.

    Parameters
    ----------
    tokens : tuple of int and str
        Tokens of its layers, see `Plan`.
    channels : int
        Channels that arrive from the encoder.
    image_channels : int
        Channels of the images.
    sizes : list of (int, int)
        Height and width of the image before each halving up to the fork, and at the
        fork.
    settings : dict
        kernel_size and dropout.
    new_neurons : callable
        ``new_neurons(channels)`` returns a new nonlinearity.
    output_nonlinearity : nn.Module or None
        What follows the last layer.

    Returns
    -------
    nn.Sequential
        The layers.
    """
    kernel_size = settings["kernel_size"]
    sizes = list(sizes)
    layers = []
    for token in tokens:
        if token == "U":
            small = sizes.pop()
            large = sizes[-1]
            # Where the encoder has halved an odd size, one row or column was lost.
            lost = tuple(b - 2 * a for a, b in zip(small, large, strict=True))
            layers.append(
                nn.ConvTranspose2d(
                    channels, channels, 2, stride=2, output_padding=lost, bias=False
                )
            )
        elif token == "drop":
            layers.append(HeldDropout(settings["dropout"]))
        else:
            width = image_channels if token == "in" else token
            padding = kernel_size // 2
            layers.append(
                nn.ConvTranspose2d(channels, width, kernel_size, padding=padding, bias=False)
            )
            if token != "in":
                layers.append(new_neurons(width))
            elif output_nonlinearity is not None:
                layers.append(output_nonlinearity)
            channels = width
    return nn.Sequential(*layers)


def _build_classifier(num_inputs: int, settings: dict, new_neurons: Callable) -> nn.Sequential:
    """Build the classifier: hidden layers, and the one whose outputs are the logits.

    Parameters
    ----------
    num_inputs : int
        Values of the flattened output of the encoder.
    settings : dict
        fc_layers, fc_width, fc_dropout and labels.
    new_neurons : callable
        ``new_neurons(channels)`` returns a new nonlinearity.

    Returns
    -------
    nn.Sequential
        The layers.
    """
    layers = []
    width = num_inputs
    for _ in range(settings["fc_layers"]):
        layers.append(nn.Linear(width, settings["fc_width"], bias=False))
        layers.append(new_neurons(settings["fc_width"]))
        layers.append(HeldDropout(settings["fc_dropout"]))
        width = settings["fc_width"]
    return nn.Sequential(*layers, nn.Linear(width, settings["labels"], bias=False))


def _init_stage(stage: nn.Sequential, settings: dict) -> None:
    """Draw the weights of a stage's linear layers, and add biases if settings say so.

    Weights depend on whether a nonlinearity follows the layer, and only a layer right
    before spiking neurons may have a bias.

    Parameters
    ----------
    stage : nn.Sequential
        Its linear layers are changed in place.
    settings : dict
        init, the name of one of `INITS`, and bias, of an SNN.
    """
    init = INITS[settings["init"]]
    no_nonlinearity = (*LINEAR, *POOLS.values(), HeldDropout, type(None))
    for layer, following in pairwise([*stage, None]):
        if not isinstance(layer, LINEAR):
            continue
        init(layer, not isinstance(following, no_nonlinearity))
        if settings.get("bias") and isinstance(following, SpikingNeuron):
            add_bias(layer)


def _number_dropouts(stages: Sequence[nn.Sequential]) -> None:
    """Give each dropout of a network its number, from which its masks follow."""
    dropouts = []
    for stage in stages:
        dropouts += [module for module in stage.modules() if isinstance(module, HeldDropout)]
    for number, dropout in enumerate(dropouts):
        dropout.layer = number


# --- initial weights

# A function of (layer, rectified) draws the layer's weights in place. rectified:
# whether a nonlinearity follows.
INITS = Registry("init")


@INITS.register("original")
def original(layer: nn.Module, rectified: bool) -> None:
    """Draw from a normal distribution, whatever follows.

    Its deviation is ``sqrt(2 / (k k out_channels))`` in a convolution, and 0.01 in a
    linear layer.
    """
    if isinstance(layer, nn.Linear):
        deviation = 0.01
    else:
        deviation = sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
    nn.init.normal_(layer.weight, 0, deviation)


@INITS.register("kaiming")
def kaiming(layer: nn.Module, rectified: bool) -> None:
    """Draw from a normal distribution that keeps the size of signals.

    With n inputs of an output, its deviation is ``sqrt(2 / n)`` where a nonlinearity
    follows, which takes half of the mean square, else ``sqrt(1 / n)``. So a signal
    neither fades nor grows on its way through a deep network (He et al., ICCV 2015).
    """
    num_inputs = layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):
        # With a stride an output meets only part of the kernel.
        num_inputs = layer.in_channels * (layer.kernel_size[0] / layer.stride[0]) ** 2
    gain = 2 if rectified else 1
    nn.init.normal_(layer.weight, 0, sqrt(gain / num_inputs))


@INITS.register("dirac")
def dirac(layer: nn.Module, rectified: bool) -> None:
    """Draw as `kaiming`, but let convolutions hand on their input.

    Output channels of a k x k convolution without stride give the input channels of
    their numbers, as far as there are some.
    """
    kaiming(layer, rectified)
    if isinstance(layer, nn.Linear) or layer.stride != (1, 1):
        return
    filters = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out, k, k)
        filters = filters.transpose(0, 1)
    nn.init.dirac_(filters[: filters.shape[1]])


def pass_on(
    layer: nn.Module, signal: torch.Tensor, memory: dict, key: str, draws=None
) -> torch.Tensor:
    """Run a layer that does not spike for one timestep.

    Parameters
    ----------
    layer : nn.Module
        The layer.
    signal : Tensor of shape (B, ...)
        What arrives.
    memory : dict
        Has the layer's state under ``key``, if it has one, and is updated in place.
    key : str
        Name of the layer in ``memory``.
    draws : Draws, optional
        Random numbers of the batch, for a dropout in training.

    Returns
    -------
    Tensor of shape (B, ...)
        What the layer gives.
    """
    if isinstance(layer, HeldDropout) and key not in memory:
        memory[key] = layer.new_mask(draws, signal.shape[1:], signal.device)
    if not has_state(layer):
        return layer(signal)
    signal, memory[key] = layer(signal, memory.get(key))
    return signal
