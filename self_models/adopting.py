"""Somebody else's stack of convolutions and integrate-and-fire neurons as a network of ours: from_layers(stack)."""

from itertools import takewhile, zip_longest
from math import inf

import torch
from torch import nn

from self_models.basics.errors import ModelError
from self_models.network.neurons import SpikingNeuron
from self_models.network.plans import as_tokens
from self_models.network.stages import POOLS
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


def from_layers(stack, decoder="", **settings):
    """A VGG_SNN_STDB_wFeedback in eval mode with the weights, thresholds and leaks of an nn.Sequential; a decoder is new.

    stack: what a plan is made of (network/plans.py): convolutions with a neuron after each, 2x2 strided convolutions or pools,
    nn.Flatten, nn.Linear with neurons between them; biases where a neuron follows. If it ends before nn.Flatten the classifier
    is new, too. Neurons: snntorch.Leaky with beta 1, SpikingJelly's IFNode and LIFNode, each with reset by subtraction. decoder:
    its tokens, a text or list. settings: the model's others. Raises ModelError for what would not run the same here.
    """
    if not isinstance(stack, nn.Sequential):
        raise ModelError(f"from_layers takes an nn.Sequential of the layers in order, not a {type(stack).__name__}")
    given = leaves(stack)
    for name, module in given:
        if isinstance(module, SpikingNeuron):
            raise ModelError(f"{name} is a neuron of this package: load() gives a model from its file")
        describe(name, module)  # raises before anything is built
    linears = [module for _, module in given if isinstance(module, nn.Linear)]
    kernels = [module.kernel_size[0] for _, module in given if isinstance(module, nn.Conv2d) and not halves(module)]
    decoder = as_tokens(decoder) if isinstance(decoder, str) else decoder
    own = {"plan": [encoder_tokens(given), decoder], "update": "immediate", "kernel_size": (kernels or [3])[0]}
    if linears:
        own |= {"fc_layers": len(linears) - 1, "fc_width": linears[0].out_features, "labels": linears[-1].out_features}
    if any(getattr(module, "bias", None) is not None for _, module in given):
        own["bias"] = True
    if both := own.keys() & settings.keys():
        raise ModelError(f"{min(both)} follows from the layers: leave it out")
    model = VGG_SNN_STDB_wFeedback(**own, **settings)
    ours = nn.Sequential(model.features, *([nn.Flatten(), model.classifier] if linears else []))
    copy_layers([module for _, module in leaves(ours)], given)
    return model.eval()


def leaves(module, name="the stack"):
    """(name, module) of all layers of nested nn.Sequentials, in order; without dropout, which does nothing in eval mode."""
    if not isinstance(module, nn.Sequential):
        return [] if "Dropout" in type(module).__name__ else [(name, module)]
    prefix = "layer " if name == "the stack" else f"{name}."
    return [leaf for position, child in module.named_children() for leaf in leaves(child, f"{prefix}{position}")]


def encoder_tokens(given):
    """The tokens of the layers before nn.Flatten; the numbers of channels are checked later, with all else."""
    before = takewhile(lambda module: not isinstance(module, nn.Flatten), (module for _, module in given))
    layers = [module for module in before if isinstance(module, (nn.Conv2d, *POOLS.values()))]
    pools = {cls: token for token, cls in POOLS.items()}
    return [pools.get(type(one)) or ("D" if halves(one) else one.out_channels) for one in layers]


def halves(convolution):
    return tuple(convolution.kernel_size) == (2, 2)


@torch.no_grad()
def copy_layers(ours, given):
    """Fill our modules from the (name, module) pairs given. Raises ModelError at the first that is not the same."""
    after = f"after {given[-1][0]}", None
    for module, leaf in zip_longest(ours, given):
        name, other = leaf or after
        found, wanted = describe(name, other), describe("", module)
        if found[0] != wanted[0] or (found[0] != "neuron" and found != wanted):
            raise ModelError(f"{name} is {told(found)}; an architecture has {told(wanted)} there")
        if found[0] == "neuron":
            module.threshold.fill_(found[1]["threshold"])
            module.leak.fill_(found[1]["leak"])
        elif hasattr(module, "weight"):
            module.weight.copy_(other.weight)
            if other.bias is not None and module.bias is not None:
                module.bias.copy_(other.bias)
            elif other.bias is not None and other.bias.any():
                raise ModelError(f"{name} has a bias and no neuron right after it: train it with bias=False")


def told(description):
    kind, own = description
    return " ".join([kind, *(f"{name}={shown(value)}" for name, value in own.items())])


def shown(value):
    return f"{value:g}" if isinstance(value, float) else value


def describe(name, module):
    """(kind, its arguments): equal for layers that do the same; None is no layer. Raises ModelError for one that no architecture
    has."""
    if module is None or isinstance(module, SpikingNeuron):
        return "nothing" if module is None else "neuron", {}
    kind = f"{type(module).__module__.split('.')[0]}.{type(module).__name__}"
    if kind in NEURONS:
        return "neuron", neuron(name, module, *NEURONS[kind])
    for base, arguments in SHAPES.items():
        if isinstance(module, base):
            return base.__name__, {each: plain(module, each) for each in arguments}
    raise ModelError(
        f"{name} is {kind}, which none can have: give {', '.join(base.__name__ for base in SHAPES)} and {', '.join(NEURONS)}"
    )


def plain(module, name):
    """The module's attribute of this name; sizes, which may be written in several ways, in one of them."""
    value = getattr(module, name)
    if value == "same":
        return tuple(size // 2 for size in module.kernel_size)
    return (value, value) if name in ("kernel_size", "stride", "padding") and isinstance(value, int) else value
