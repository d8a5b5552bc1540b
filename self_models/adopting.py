"""Somebody else's stack of layers as a network of ours: from_layers(stack) of spiking ones, from_ann(stack, images) of a trained
ANN."""

import copy
from itertools import takewhile, zip_longest
from math import inf

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from self_models.basics import ModelError
from self_models.basics.images import CLASSES, ELSEWHERE, IMAGE_SHAPES, background, checked_images, tensor_of
from self_models.conversion import biases_of, calibrate_biases, fit_biases, fit_levels, fit_thresholds, units
from self_models.loading import on_engine
from self_models.network.neurons import SpikingNeuron
from self_models.network.plans import as_tokens
from self_models.network.stages import POOLS
from self_models.network.wiring import is_altered
from self_models.running.draws import Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

NEURONS = {  # class -> its attribute that is the threshold, whether it fires at the threshold, too, and what others must be
    "snntorch.Leaky": ("threshold", False, {"beta": 1, "reset_mechanism": "subtract", "reset_delay": True, "inhibition": False,
                                            "state_quant": False, "graded_spikes_factor": 1}),
    "spikingjelly.IFNode": ("v_threshold", True, {"v_reset": None}),
    "spikingjelly.LIFNode": ("v_threshold", True, {"v_reset": None, "decay_input": False}),
}  # fmt: skip
LIBRARIES = ("torch", "spikingjelly", "self_models")  # whose classes do what they are called, one derived from them perhaps not
ORDER = "convolution, neuron (of an ANN: ReLU), pools or 2x2 convolutions of stride 2, …, Flatten, Linear, neuron, …, Linear"
OF_DECODER = ("readout", "readout_leak", "readout_slew", "feedback_interval")  # settings
OF_NEW_LAYERS, OF_NEURONS = ("init",), ("default_threshold", "leak")  # the second where the neurons given have them


def neuron(name, module, threshold, fires_at_it, own):
    """Threshold and leak of a user's neurons, floats. Raises ModelError for neurons that are not ours under another name.

    snnTorch's are, with beta 1 and the reset in the next step: V'[t] = V'[t-1] - theta s[t-1] + drive[t]. SpikingJelly's fire
    where V >= theta, ours above it, so the threshold is the float below; LIFNode: V[t+1] = (1 - 1/tau) V[t] + drive.
    """
    for attribute, value in own.items():
        if (found := value_of(name, module, attribute)) != value:
            words = f"{found:g}" if isinstance(found, float) else found
            raise ModelError(f"{name}: {type(module).__name__} with {attribute}={words}; here it must be {value}")
    theta, tau = map(float, (value_of(name, module, threshold), value_of(name, module, "tau", inf)))
    for attribute, value in ((threshold, theta), ("tau", tau)):
        if not value > 0:
            raise ModelError(f"{name}: {attribute}={value:g} is not above 0")
    below = torch.nextafter(torch.tensor(theta), torch.tensor(0.0)).item()
    return {"threshold": below if fires_at_it else theta, "leak": 1 - 1 / tau}


def value_of(name, module, attribute, default=None):
    """The module's attribute of this name; of a tensor its one number. Raises ModelError where it has several."""
    found = getattr(module, attribute, default)
    if isinstance(found, torch.Tensor) and found.numel() != 1:
        raise ModelError(f"{name}: {attribute} differs from neuron to neuron; here a layer has one")
    return found.item() if isinstance(found, torch.Tensor) else found


def from_layers(stack, decoder="", engine="auto", **settings):
    """A VGG_SNN_STDB_wFeedback in eval mode with the weights, thresholds and leaks of an nn.Sequential; a decoder is new.

    stack: what a plan is made of (network/plans.py): convolutions with a neuron after each, 2x2 strided convolutions or pools,
    nn.Flatten, nn.Linear with neurons between them; biases where a neuron follows, and in the last layer. If it ends before
    nn.Flatten the classifier is new, too. Neurons: snntorch.Leaky with beta 1, SpikingJelly's IFNode and LIFNode, each with reset
    by subtraction. decoder: its tokens, a text or list. engine: see load(). settings: the model's others; without dataset it is
    MNIST where image shape and classes are MNIST's, else a folder's, which scripts ask for. Raises ModelError for what would not
    run the same here, and for settings that would do nothing.
    """
    given = leaves_of(stack)
    model = network_of(given, decoder, {"update": "immediate"}, settings, spiking=True)
    copy_layers(model, given, spiking=True)
    return on_engine(model, engine)


@torch.no_grad()
def from_ann(stack, images, timesteps=32, update="immediate", decoder="", engine="auto", seed=0, **settings):
    """A VGG_SNN_STDB_wFeedback in eval mode that sends with spikes, in `timesteps` steps, what a trained ReLU ANN computes.

    stack: an nn.Sequential as from_layers() takes it, nn.ReLU in the place of neurons, and batch norm right behind a convolution
    or nn.Linear, into which it is folded. Biases become currents. Thresholds are fitted to the activations on the images, a few
    hundred of the training images, (N, C, H, W) as the model takes them, see fit_levels; unless update is delayed biases are
    then calibrated on them, see calibrate_if_better. decoder, engine: as in from_layers(); a decoder is new, and its thresholds
    fit its random weights. seed: of the draws with encoding poisson. settings: as in from_layers(); if not given encoding is
    direct, max_pool count and initial_potential 0.5. Raises ModelError as from_layers() does.
    """
    leaves_of(stack)  # what has no weights cannot be copied
    given, images = without_norms(leaves_of(copy.deepcopy(stack).eval())), tensor_of(images)
    for name, module in given:
        if not all(value.isfinite().all() for value in module.parameters()):
            raise ModelError(f"{name} has weights that are no finite numbers: train it again")
    defaults = {"encoding": "direct", "max_pool": "count", "initial_potential": 0.5}
    if "image_shape" not in settings and settings.get("dataset") not in [*IMAGE_SHAPES]:
        if not isinstance(images, torch.Tensor) or images.dim() < 4:
            raise ModelError("images must be a tensor or array (N, C, H, W): give a few hundred of the training images")
        defaults["image_shape"] = tuple(images.shape[-3:])
    own, fitted = {"timesteps": timesteps, "update": update}, {"bias": True, "default_threshold": 1.0}
    model = network_of(given, decoder, fitted, defaults | settings | own)
    copy_layers(model, given)
    images, biases = checked_images(images, model, model.frames).cpu(), biases_of(model)
    draws = Draws(seed, 0, torch.arange(len(images)))
    if not len(images):
        raise ModelError("from_ann fits thresholds to images, and there are none: give a few hundred of the training images")
    rates, logits = fit_levels(model, images)
    if not logits.isfinite().all():
        raise ModelError("the outputs on these images are no finite numbers; train with smaller weights or inputs")
    fit_thresholds(model)
    fit_biases(model, biases)
    if update != "delayed":
        calibrate_if_better(model, rates, logits, images, draws)
    return on_engine(model, engine)


def calibrate_if_better(model, rates, logits, images, draws):
    """calibrate_biases, undone where on the images the model's answers were nearer to the ANN's before (cross-entropy of their
    softmaxes): a channel's mean rate may fit while its neurons are further off. rates, logits: see fit_levels."""
    *_, unit = (unit for connection, unit in units(model) if connection.target == model.wiring.output)

    def off():
        return F.cross_entropy(model(images, draws=draws, frames=False).logits * unit / model.timesteps, logits.softmax(1))

    before, biases = off(), {name: value.clone() for name, value in model.state_dict().items() if name.endswith(".bias")}
    calibrate_biases(model, rates, images, lambda t: draws.at_step(t, model.image_shape, "cpu"))
    if off() > before:
        model.load_state_dict(biases, strict=False)


def leaves_of(stack):
    """(name, module) of all layers of an nn.Sequential, see leaves. Raises ModelError for anything else."""
    if not is_a(stack, nn.Sequential):
        raise ModelError(f"give an nn.Sequential of the layers in order, not a {type(stack).__name__}: a network here is a chain")
    return leaves(stack)


def is_a(module, *classes):
    """Whether the module is of one of these classes and does what that does: forward() is no user's own."""
    return isinstance(module, classes) and type(module).forward.__module__.split(".")[0] in LIBRARIES


def leaves(module, name="the stack"):
    """(name, module) of all layers of nested nn.Sequentials, in order; without dropout, which does nothing in eval mode.
    Raises ModelError for one with a hook or a forward of its own, or without weights."""
    if any(is_lazy(value) or value.is_meta for value in (*module.parameters(False), *module.buffers(False))):
        raise ModelError(f"{name} has no weights yet (lazy, or on device meta): run it on images, or load them, and train it")
    if is_altered(module):
        raise ModelError(f"{name} has a hook or a forward of its own, which the network here would not call: remove it")
    if not is_a(module, nn.Sequential):
        return [] if isinstance(module, nn.Identity) or "Dropout" in type(module).__name__ else [(name, module)]
    prefix = "layer " if name == "the stack" else f"{name}."
    return [leaf for position, child in module._modules.items() for leaf in leaves(child, f"{prefix}{position}")]


def without_norms(given):
    """The (name, module) pairs with each batch norm folded into weights and bias of the layer before it. Raises ModelError where
    that is none that could take it."""
    folded = []
    for name, module in given:
        if not is_a(module, nn.BatchNorm1d, nn.BatchNorm2d):
            folded.append((name, module))
            continue
        before, layer = folded[-1] if folded else ("nothing", None)
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            raise ModelError(f"{name} is a batch norm behind {before}: train it right behind a Conv2d or Linear, before its ReLU")
        if module.running_mean is None:
            raise ModelError(f"{name} keeps no running statistics: train it with track_running_stats=True")
        if module.num_features != len(layer.weight):
            raise ModelError(f"{name} is a batch norm of {module.num_features} channels behind {before} of {len(layer.weight)}")
        if is_parametrized(layer):  # by weight norm, or another
            raise ModelError(f"{before} is parametrized, so {name} cannot be folded into it: call remove_parametrizations first")
        fold = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
        folded[-1] = before, fold(layer, module)
    return folded


def network_of(given, decoder, own, settings, spiking=False):
    """A new VGG_SNN_STDB_wFeedback in eval mode with the architecture of these (name, module) pairs. own: settings that must not
    be given, like those that follow from the layers; settings: those given; spiking: whether the layers have spiking neurons.
    Raises ModelError for layers that make no network, and for idle settings."""
    if not given or not isinstance(given[0][1], nn.Conv2d):
        raise ModelError(f"{given[0][0] if given else 'the stack'} is no convolution, with which a network here begins: {ORDER}")
    linears = [module for _, module in given if isinstance(module, nn.Linear)]
    kernels = [module.kernel_size[0] for _, module in given if isinstance(module, nn.Conv2d) and not halves(module)]
    decoder = as_tokens(decoder) if isinstance(decoder, str) else decoder
    own = {"plan": [encoder_tokens(given), decoder], "vgg_name": "VGG5_wFeedback", "kernel_size": (kernels or [3])[0], **own}
    if linears:
        own |= {"fc_layers": len(linears) - 1, "fc_width": linears[0].out_features, "labels": linears[-1].out_features}
        own["output_bias"] = linears[-1].bias is not None
    if any(getattr(module, "bias", None) is not None and module not in linears[-1:] for _, module in given):
        own["bias"] = True
    if both := own.keys() & settings.keys():
        raise ModelError(f"{min(both)} follows from the layers: leave it out")
    idle = () if decoder else OF_DECODER
    idle += () if decoder or not linears else OF_NEW_LAYERS + (OF_NEURONS if spiking else ())
    if does_nothing := [name for name in idle if name in settings]:
        what = "a decoder" if does_nothing[0] in OF_DECODER else "layers that are new"
        raise ModelError(f"{does_nothing[0]} is of {what}, and there are none: leave it out, or give decoder")
    model = VGG_SNN_STDB_wFeedback(**own, **settings)
    known = "dataset" in settings or (model.image_shape, model.classes) == (IMAGE_SHAPES["MNIST"], [*CLASSES["MNIST"]])
    if not known:
        model.settings |= {"dataset": f"{ELSEWHERE}images", "image_shape": model.image_shape}
        model.background = background(model.settings)
    return model.eval()


def encoder_tokens(given):
    """The tokens of the layers before nn.Flatten; the numbers of channels are checked later, with all else."""
    before = takewhile(lambda module: not isinstance(module, nn.Flatten), (module for _, module in given))
    tokens = []
    for module in before:
        tokens += [token for token, pool in POOLS.items() if isinstance(module, pool)]
        tokens += ["D" if halves(module) else module.out_channels] if isinstance(module, nn.Conv2d) else []
    return tokens


def halves(convolution):
    return tuple(convolution.kernel_size) == (2, 2)


@torch.no_grad()
def copy_layers(model, given, spiking=False):
    """Fill the model from the (name, module) pairs given, and compare each with the model's layer, ReLUs in the place of spiking
    neurons, on noise, since on images a layer that is silent would hide a difference. spiking: whether the layers given have
    spiking neurons, whose threshold and leak are copied. Raises ModelError at the first layer that computes something else."""
    is_whole = any(isinstance(module, nn.Linear) for _, module in given)
    ours = leaves(nn.Sequential(model.features, *([nn.Flatten(), model.classifier] if is_whole else [])))
    shape, noise, end = model.image_shape, torch.Generator().manual_seed(0), (f"what follows {given[-1][0]}", None)
    for one, leaf in zip_longest(ours, given):
        (_, module), (name, other) = one or ("", None), leaf or end
        kind = f"{type(other).__module__.split('.')[0]}.{type(other).__name__}"
        wanted, theirs = nn.ReLU() if isinstance(module, SpikingNeuron) else module, other
        if spiking and isinstance(module, SpikingNeuron):
            for parameter, value in neuron(name, other, *NEURONS[kind]).items() if kind in NEURONS else ():
                getattr(module, parameter).fill_(value)
            theirs = wanted if kind in NEURONS else None
        try:
            shape = compared(wanted, theirs, torch.randn(2, *shape, generator=noise)).shape[1:]
        except Exception as error:  # whatever a module raises on what is not for it
            is_ours = "nothing" if module is None else "neuron" if isinstance(module, SpikingNeuron) else module
            found = "nothing" if other is None else " ".join(f"{other}".split())
            raise ModelError(f"{name} is {found}, where a network here has {is_ours}: {ORDER}") from error


def compared(ours, theirs, signal):
    """What their layer makes of a signal, in float64, after its parameters are copied to ours. Raises an error unless ours makes
    the same."""
    signal, theirs = signal.double(), copy.deepcopy(theirs).cpu().float()
    for name, value in ours.named_parameters():
        if getattr(theirs, name, None) is not None:
            value.copy_(getattr(theirs, name))
    found = theirs.double()(signal)
    torch.testing.assert_close(copy.deepcopy(ours).double()(signal), found, equal_nan=True)
    return found
