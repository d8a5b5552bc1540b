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

from self_models.basics.errors import ModelError
from self_models.basics.images import CLASSES, ELSEWHERE, IMAGE_SHAPES, background, checked_images, tensor_of
from self_models.conversion import biases_of, calibrate_biases, fit_biases, fit_levels, fit_thresholds, units
from self_models.loading import on_engine
from self_models.network.neurons import SpikingNeuron
from self_models.network.plans import as_tokens
from self_models.network.stages import POOLS
from self_models.network.wiring import is_altered
from self_models.running.draws import Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

SHAPES = {  # class -> what two layers that do the same have in common
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "ceil_mode", "divisor_override"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.Flatten: ("start_dim", "end_dim"),
    nn.Linear: ("in_features", "out_features"),
}
NEURONS = {  # class -> its attribute that is the threshold, whether it fires at the threshold, too, and what others must be
    "snntorch.Leaky": ("threshold", False, {"beta": 1, "reset_mechanism": "subtract", "reset_delay": True, "inhibition": False,
                                            "state_quant": False, "graded_spikes_factor": 1}),
    "spikingjelly.IFNode": ("v_threshold", True, {"v_reset": None}),
    "spikingjelly.LIFNode": ("v_threshold", True, {"v_reset": None, "decay_input": False}),
}  # fmt: skip
LIBRARIES = ("torch", "spikingjelly", "self_models")  # whose classes do what they are called, one derived from them perhaps not
OF_ANNS = ("torch.ReLU", "torch.BatchNorm1d", "torch.BatchNorm2d")
ORDER = "convolution, neuron (of an ANN: ReLU), pools or 2x2 convolutions of stride 2, …, Flatten, Linear, neuron, …, Linear"
ADVICE = {  # argument of a layer -> what to do where it is another
    "kernel_size": "convolutions have one odd size, pools and convolutions of stride 2 have 2",
    "stride": "halve with a pool, or a 2x2 convolution of stride 2 without a nonlinearity",
    "padding": "a convolution pads by half its size, and a pool not at all",
    "in_channels": "so many come of the layer before, or of these images (image_shape)",
    "in_features": "so many come of these images (image_shape)",
    "out_features": "hidden layers have one width",
}
OF_DECODER = ("readout", "readout_leak", "readout_slew", "feedback_interval")  # settings
OF_NEW_LAYERS, OF_NEURONS = ("init",), ("default_threshold", "leak")  # the second where the neurons given have them


def neuron(name, module, threshold, fires_at_it, own):
    """Threshold and leak of a user's neurons, floats. Raises ModelError for neurons that are not ours under another name.

    snnTorch's are, with beta 1 and the reset in the next step: V'[t] = V'[t-1] - theta s[t-1] + drive[t]. SpikingJelly's fire
    where V >= theta, ours above it, so the threshold is the float below; LIFNode: V[t+1] = (1 - 1/tau) V[t] + drive.
    """
    for attribute, value in own.items():
        if (found := value_of(name, module, attribute)) != value:
            raise ModelError(f"{name}: {type(module).__name__} with {attribute}={shown(found)}; here it must be {value}")
    theta, tau = map(float, (value_of(name, module, threshold), value_of(name, module, "tau", inf)))
    for attribute, value in ((threshold, theta), ("tau", tau)):
        if not value > 0:
            raise ModelError(f"{name}: {attribute}={shown(value)} is not above 0")
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
    return on_engine(network_of(leaves_of(stack), NEURONS, decoder, {"update": "immediate"}, settings), engine)


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
    model = network_of(given, {"torch.ReLU": None}, decoder, fitted, defaults | settings | own)
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


def network_of(given, neurons, decoder, own, settings):
    """A VGG_SNN_STDB_wFeedback in eval mode with the weights and biases of these (name, module) pairs, and what their neurons say
    of themselves. neurons: which may be among them, as NEURONS; own: settings that are not to be given, beside those that follow
    from the layers; settings: those given. Raises ModelError for a layer that no network here has, and for idle settings."""
    for name, module in given:
        if isinstance(module, SpikingNeuron):
            raise ModelError(f"{name} is a neuron of this package: load() gives a model from its file")
        describe(name, module, neurons)  # raises before anything is built
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
    idle += () if decoder or not linears else OF_NEW_LAYERS + (OF_NEURONS if any(neurons.values()) else ())
    if does_nothing := [name for name in idle if name in settings]:
        what = "a decoder" if does_nothing[0] in OF_DECODER else "layers that are new"
        raise ModelError(f"{does_nothing[0]} is of {what}, and there are none: leave it out, or give decoder")
    model = VGG_SNN_STDB_wFeedback(**own, **settings)
    known = "dataset" in settings or (model.image_shape, model.classes) == (IMAGE_SHAPES["MNIST"], [*CLASSES["MNIST"]])
    if not known:
        model.settings |= {"dataset": f"{ELSEWHERE}images", "image_shape": model.image_shape}
        model.background = background(model.settings)
    ours = nn.Sequential(model.features, *([nn.Flatten(), model.classifier] if linears else []))
    copy_layers([module for _, module in leaves(ours)], given, neurons)
    return model.eval()


def encoder_tokens(given):
    """The tokens of the layers before nn.Flatten; the numbers of channels are checked later, with all else."""
    before = takewhile(lambda module: not isinstance(module, nn.Flatten), (module for _, module in given))
    layers = [module for module in before if isinstance(module, (nn.Conv2d, *POOLS.values()))]
    pools = {cls: token for token, cls in POOLS.items()}
    return [pools.get(type(one)) or ("D" if halves(one) else one.out_channels) for one in layers]


def halves(convolution):
    return tuple(convolution.kernel_size) == (2, 2)


@torch.no_grad()
def copy_layers(ours, given, neurons):
    """Fill our modules from the (name, module) pairs given. Raises ModelError at the first that is not the same."""
    after = f"what follows {given[-1][0]}", None
    for module, leaf in zip_longest(ours, given):
        name, other = leaf or after
        (found, its), (wanted, own) = describe(name, other, neurons), describe("", module, neurons)
        if found != wanted:
            kind = "nothing" if other is None else type(other).__name__
            raise ModelError(f"{name} is {kind}, where a network here has {wanted}: {ORDER}")
        if found == "neuron":
            for parameter, value in its.items():
                getattr(module, parameter).fill_(value)
            continue
        if differing := [each for each in own if its[each] != own[each]]:
            each = differing[0]
            advice = ADVICE.get(each, "train it so")
            raise ModelError(f"{name} is {found} with {each}={its[each]}, where a network here has {own[each]}: {advice}")
        if hasattr(module, "weight"):
            module.weight.copy_(other.weight)
            if other.bias is not None and module.bias is not None:
                module.bias.copy_(other.bias)
            elif other.bias is not None and other.bias.any():
                raise ModelError(f"{name} has a bias, or a batch norm, and no neuron right after it: train it without")


def shown(value):
    return f"{value:g}" if isinstance(value, float) else value


def describe(name, module, neurons):
    """(kind, its arguments) of a layer, None for no layer; equal for those that do the same. neurons: as in network_of. Raises
    ModelError for a layer that no network here has."""
    if module is None or isinstance(module, SpikingNeuron):
        return "nothing" if module is None else "neuron", {}
    kind = f"{type(module).__module__.split('.')[0]}.{type(module).__name__}"
    if kind in neurons:
        return "neuron", neuron(name, module, *neurons[kind]) if neurons[kind] else {}
    for base, arguments in SHAPES.items():
        if is_a(module, base):
            return base.__name__, {each: plain(module, each) for each in arguments}
    other = "; from_layers takes spiking layers" if kind in NEURONS else "; from_ann takes a trained ANN" * (kind in OF_ANNS)
    known = ", ".join([*(base.__name__ for base in SHAPES), *neurons])
    raise ModelError(f"{name} is {kind}, and a network here is a chain of {known}{other}")


def plain(module, name):
    """The module's attribute of this name; sizes, which may be written in several ways, in one of them."""
    value = getattr(module, name)
    if value == "same":
        return tuple(size // 2 for size in module.kernel_size)
    return (value, value) if name in ("kernel_size", "stride", "padding") and isinstance(value, int) else value
