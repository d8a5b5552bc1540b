"""A trained ANN of somebody's own, an nn.Sequential with ReLUs, as a network of ours that sends with spikes: from_ann()."""

import copy
from itertools import takewhile, zip_longest

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from self_models.basics import ModelError
from self_models.basics.images import CLASSES, ELSEWHERE, IMAGE_SHAPES, background, checked_images, tensor_of
from self_models.conversion import biases_of, calibrate_biases, fit_biases, fit_levels, fit_thresholds, units
from self_models.loading import on_engine
from self_models.network.known import is_hooked
from self_models.network.neurons import SpikingNeuron
from self_models.network.plans import as_tokens
from self_models.network.stages import POOLS
from self_models.running.draws import Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

ORDER = "convolution, ReLU, pools or 2x2 convolutions of stride 2, …, Flatten, Linear, ReLU, …, Linear"
NORM = "a batch norm stands right behind a Conv2d or Linear that is not parametrized, has its channels, and keeps statistics"


@torch.no_grad()
def from_ann(stack, images, timesteps=32, update="immediate", decoder="", engine="auto", seed=0, **settings):
    """A VGG_SNN_STDB_wFeedback in eval mode that sends with spikes, in `timesteps` steps, what a trained ReLU ANN computes.

    stack: an nn.Sequential of what a plan is made of (network/plans.py): convolutions with nn.ReLU after each, 2x2 strided
    convolutions or pools, nn.Flatten, nn.Linear with nn.ReLU between them; biases, which become currents, where a ReLU follows,
    and in the last layer; batch norm right behind a convolution or nn.Linear, into which it is folded. Thresholds are fitted to
    the activations on the images, a few hundred of the training images, (N, C, H, W) as the model takes them, see fit_levels;
    unless update is delayed biases are then calibrated on them, see calibrate_if_better. decoder: its tokens, a text or list: it
    is new, and its thresholds fit its random weights. engine: see load(). seed: of the draws with encoding poisson. settings:
    the model's others; if not given encoding is direct, max_pool count and initial_potential 0.5, and without dataset it is
    MNIST where image shape and classes are MNIST's, else a folder's, which scripts ask for. Raises ModelError for what would not
    run the same here, and for images that the model does not take.
    """
    if not is_sequential(stack):
        raise ModelError(f"give an nn.Sequential of the layers in order, not a {type(stack).__name__}: a network here is a chain")
    given, images = without_norms(leaves(copy.deepcopy(stack).eval())), tensor_of(images)
    own = {"timesteps": timesteps, "update": update, **settings_of(given, decoder)}
    defaults = {"encoding": "direct", "max_pool": "count", "initial_potential": 0.5}
    if "image_shape" not in settings and settings.get("dataset") not in IMAGE_SHAPES:
        defaults["image_shape"] = tuple(images.shape[-3:])
    model = VGG_SNN_STDB_wFeedback(**defaults | settings, **own).eval()
    if "dataset" not in settings and (model.image_shape, model.classes) != (IMAGE_SHAPES["MNIST"], [*CLASSES["MNIST"]]):
        model.settings |= {"dataset": f"{ELSEWHERE}images", "image_shape": model.image_shape}
        model.background = background(model.settings)
    copy_layers(model, given)
    images, biases = checked_images(images, model, model.frames).cpu(), biases_of(model)
    draws = Draws(seed, 0, torch.arange(len(images)))
    rates, logits = fit_levels(model, images)
    fit_thresholds(model)
    fit_biases(model, biases)
    if update != "delayed":
        calibrate_if_better(model, rates, logits, images, draws)
    return on_engine(model, engine)


def calibrate_if_better(model, rates, logits, images, draws):
    """calibrate_biases, undone where on the images the model's answers were nearer to the ANN's before (cross-entropy of their
    softmaxes): a channel's mean rate may fit while its neurons are further off. rates, logits: see fit_levels."""
    unit = next(unit for link, unit in units(model) if link.target == "output")

    def off():
        return F.cross_entropy(model(images, draws=draws, frames=False).logits * unit / model.timesteps, logits.softmax(1))

    before, biases = off(), {name: value.clone() for name, value in model.state_dict().items() if name.endswith(".bias")}
    calibrate_biases(model, rates, images, lambda t: draws.at_step(t, model.image_shape, "cpu"))
    if off() > before:
        model.load_state_dict(biases, strict=False)


def is_sequential(module):
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def leaves(module, name="the stack"):
    """(name, module) of all layers of nested nn.Sequentials, in order; without dropout, which does nothing in eval mode.
    Raises ModelError for one with a hook or a forward of its own."""
    if is_hooked(module):
        raise ModelError(f"{name} has a hook or a forward of its own, which the network here would not call: remove it")
    if not is_sequential(module):
        return [] if isinstance(module, nn.Identity) or "Dropout" in type(module).__name__ else [(name, module)]
    prefix = "layer " if name == "the stack" else f"{name}."
    return [leaf for position, child in module._modules.items() for leaf in leaves(child, f"{prefix}{position}")]


def without_norms(given):
    """The (name, module) pairs with each batch norm folded into weights and bias of the layer before it. Raises ModelError where
    that is none that could take it."""
    folded = []
    for name, module in given:
        if type(module) not in (nn.BatchNorm1d, nn.BatchNorm2d):
            folded.append((name, module))
            continue
        before, layer = folded[-1] if folded else ("nothing", None)
        try:
            if is_parametrized(layer):  # by weight norm, or another
                raise TypeError
            fold = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
            folded[-1] = before, fold(layer, module)
        except Exception as error:  # whatever a layer without weights makes of it
            raise ModelError(f"{name} cannot be folded into {before}: {NORM}") from error
    return folded


def settings_of(given, decoder):
    """The settings of a network with the architecture of these (name, module) pairs, and a decoder of these tokens. Raises
    ModelError where they make none; numbers of channels are compared later, with all else."""
    linears = [module for _, module in given if isinstance(module, nn.Linear)]
    if not linears or not isinstance(given[0][1], nn.Conv2d):
        raise ModelError(f"{given[0][0] if given else 'the stack'} begins no network of this order: {ORDER}")
    encoder, kernels = [], []
    for module in takewhile(lambda module: not isinstance(module, nn.Flatten), (module for _, module in given)):
        encoder += [token for token, pool in POOLS.items() if isinstance(module, pool)]
        if isinstance(module, nn.Conv2d):
            halves = tuple(module.kernel_size) == (2, 2)
            encoder.append("D" if halves else module.out_channels)
            kernels += [] if halves else [module.kernel_size[0]]
    return {
        "plan": [encoder, as_tokens(decoder) if isinstance(decoder, str) else decoder], "vgg_name": "VGG5_wFeedback",
        "kernel_size": (kernels or [3])[0], "fc_layers": len(linears) - 1, "fc_width": linears[0].out_features,
        "labels": linears[-1].out_features, "output_bias": linears[-1].bias is not None, "bias": True, "default_threshold": 1.0,
    }  # fmt: skip


@torch.no_grad()
def copy_layers(model, given):
    """Fill the model from the (name, module) pairs given, and compare each with the model's layer, ReLUs in the place of spiking
    neurons, on noise, since on images a layer that is silent would hide a difference. Raises ModelError at the first layer that
    computes something else."""
    ours = leaves(nn.Sequential(model.features, nn.Flatten(), model.classifier))
    shape, noise, end = model.image_shape, torch.Generator().manual_seed(0), (f"what follows {given[-1][0]}", None)
    for one, leaf in zip_longest(ours, given):
        (_, module), (name, theirs) = one or ("", None), leaf or end
        is_neuron = isinstance(module, SpikingNeuron)
        same = nn.ReLU() if is_neuron else nn.MaxPool2d(2) if isinstance(module, nn.MaxPool2d) else module
        try:
            signal = torch.randn(2, *shape, generator=noise).double()
            shape = compared(same, theirs, signal).shape[1:]
        except Exception as error:  # whatever a module raises on what is not for it
            is_ours = "nothing" if module is None else "neuron" if is_neuron else module
            found = "nothing" if theirs is None else " ".join(f"{theirs}".split())
            raise ModelError(f"{name} is {found}, where a network here has {is_ours}: {ORDER}") from error


def compared(ours, theirs, signal):
    """What their layer makes of a signal, in float64, after its parameters are copied to ours. Raises an error unless ours makes
    the same."""
    theirs = copy.deepcopy(theirs).cpu().float()
    for name, value in ours.named_parameters():
        if getattr(theirs, name, None) is not None:
            value.copy_(getattr(theirs, name))
    found = theirs.double()(signal)
    torch.testing.assert_close(copy.deepcopy(ours).double()(signal), found, equal_nan=True)
    return found
