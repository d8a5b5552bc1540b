"""Which parts of a network are known: those that an architecture makes.

Engines and counters know the modules of which architectures are made. A module of
another class, even one derived from a known class, may compute anything.
"""

from collections.abc import Collection, Iterator

import torch
from torch import nn

from self_models.errors import ModelError
from self_models.networks.scale import Scale
from self_models.neurons.spiking import UPDATES, CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.running.outputs import INPUT

STAGES = ("features", "generate", "classifier", "network")  # that architectures make
LINEAR = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.AvgPool2d, nn.Flatten, Scale)
KNOWN = (*LINEAR, nn.MaxPool2d, CountingMaxPool, HeldDropout, nn.Identity)
# Methods that change neither what layers compute, nor what arrives at them.
READOUT_METHODS = ("integrate", "prediction", "on_pixel_scale")
KNOWN_FORMS = {  # attribute of a layer -> the values with which it is known
    "padding_mode": ("zeros",),
    "ceil_mode": (False,),
    "count_include_pad": (True,),
}
NEURON_PARAMETERS = ("threshold", "leak")

Part = tuple[str, nn.Module | torch.Tensor]  # a module, parameter or buffer with its name


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Return a model and all modules in it, in a few microseconds.

    Parameters
    ----------
    model : nn.Module
        The model.

    Returns
    -------
    list of nn.Module
        A module that has several places in the model is there once for each.
    """
    modules = [model]
    for module in modules:  # the list grows while the loop runs
        modules += [part for part in module._modules.values() if part is not None]
    return modules


def is_hooked(module: nn.Module) -> bool:
    """Return whether a call of a module runs more than the forward of its class.

    It does if the module has forward hooks, or a forward of its own. An engine that
    does not call the module would leave these out.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def check_known(
    model: nn.Module,
    who: str,
    instead: str = "it takes what architectures here are made of (networks/architectures.py)",
    own: bool = False,
    but: Collection[str] = READOUT_METHODS,
) -> None:
    """Check that a network only has parts that an architecture makes.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    who : str
        Who asks, for the message.
    instead : str
        What to do otherwise, for the message.
    own : bool, default False
        Whether methods and neurons may be of the network's own, and what stands beside
        its stages.
    but : collection of str
        Names of methods that may be the network's own in any case.

    Raises
    ------
    ModelError
        If it has another part, or a method of its own.
    """
    if not own and model.replaces(but):
        raise ModelError(f"{who} does not know the methods of {type(model).__name__}: {instead}")
    part = find_unknown_part(model, own)
    if part:
        raise ModelError(f"{who} does not know {part}: {instead}")


def find_unknown_part(model: nn.Module, own: bool = False) -> str | None:
    """Find the first part of a network that no architecture makes.

    Such a part is a parameter or buffer of the network itself, a module beside its
    stages, or a layer in a stage that has another class, form or update than an
    architecture gives it, or that is out of place: a maximum pool of what is no spike.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    own : bool, default False
        Whether neurons may be of the network's own, and what stands beside its stages.
        Maximum pools may have another form then, too.

    Returns
    -------
    str or None
        The part's name and class. None if all parts are known.
    """
    known = {"", *known_names(model)}  # "" is the network itself
    parts = [*model._parameters.items(), *model._buffers.items()]
    for name, module in model.named_modules():
        if name not in known:
            parts.append((name, module))
    if own:
        parts = [part for part in parts if not may_be_own(*part)]
    if not parts:
        parts = list(pools_of_values(model))
    if not parts:
        return None
    name, part = parts[0]
    return f"{name} ({type(part).__name__})"


def known_names(model: nn.Module) -> Iterator[str]:
    """Iterate over the names of a network's stages, and of their known layers."""
    update = UPDATES.find(model.settings["update"])
    neuron_class = model.timing.plain_neuron
    for stage_name in STAGES:
        stage = getattr(model, stage_name, None)
        if type(stage) not in (nn.Sequential, nn.ModuleDict):
            continue
        yield stage_name
        for position, layer in stage.named_children():
            has_update = getattr(layer, "update", update) == update
            if is_plain(layer, neuron_class) and has_update:
                yield f"{stage_name}.{position}"


def may_be_own(name: str, part: nn.Module | torch.Tensor) -> bool:
    """Return whether check_known lets a part be of the network's own with ``own``."""
    return not in_stages(name) or isinstance(part, SpikingNeuron | nn.MaxPool2d)


def pools_of_values(model: nn.Module) -> Iterator[Part]:
    """Iterate over the maximum pools at which something else than spikes arrives."""
    graph = model.make_graph()
    for link in graph.links:
        takes_values = link.through or link.source == INPUT
        if link.target in graph.pools and takes_values:
            yield link.target, graph.modules[link.target]


def in_stages(name: str) -> bool:
    """Return whether a module, or tensor, belongs to a stage that architectures make.

    Parameters
    ----------
    name : str
        Its name in the network, such as "features.0.weight".

    Returns
    -------
    bool
        False for what stands beside the stages.
    """
    return name.split(".")[0] in STAGES


def names_of_added_tensors(model: nn.Module) -> list[str]:
    """Return the names of tensors that somebody's own class has added to a network.

    An ordinary network has features, generate and classifier, and of each neuron a
    threshold and a leak. When its weights are loaded into a class of somebody's own,
    they lack whatever that class has added.

    Parameters
    ----------
    model : nn.Module
        The network.

    Returns
    -------
    list of str
        Keys of its state_dict.
    """
    neurons = [name for name, part in model.named_modules() if isinstance(part, SpikingNeuron)]
    added = []
    for name in model.state_dict():
        module, _, tensor = name.rpartition(".")
        is_beside_stages = not in_stages(name)
        is_below_neuron = any(name.startswith(f"{neuron}.") for neuron in neurons)
        is_usual = module in neurons and tensor in NEURON_PARAMETERS
        if is_beside_stages or (is_below_neuron and not is_usual):
            added.append(name)
    return added


def is_plain(layer: nn.Module, neuron_class: type[SpikingNeuron]) -> bool:
    """Return whether an architecture makes layers of this class and form.

    Parameters
    ----------
    layer : nn.Module
        A layer of a stage.
    neuron_class : type
        Class of the neurons that architectures have.

    Returns
    -------
    bool
        Of neurons: whether the layer has one threshold and one leak.
    """
    if not isinstance(layer, SpikingNeuron):
        return has_form(layer)
    has_one_value = layer.threshold.numel() == layer.leak.numel() == 1
    return has_one_value and type(layer) is neuron_class


def has_form(layer: nn.Module) -> bool:
    """Return whether all engines know a module that is no neuron.

    Parameters
    ----------
    layer : nn.Module
        The module.

    Returns
    -------
    bool
        Whether its class is known, and its arguments are among those that engines
        compute with.
    """
    if type(layer) not in KNOWN:
        return False
    if isinstance(layer, nn.MaxPool2d):
        return has_pool_form(layer)
    for attribute, known_values in KNOWN_FORMS.items():
        if getattr(layer, attribute, known_values[0]) not in known_values:
            return False
    is_grouped = isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1
    return not is_grouped


def has_pool_form(pool: nn.MaxPool2d) -> bool:
    """Return whether a maximum pool takes windows of 2 x 2 pixels side by side."""
    form = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    for sizes, expected in zip(form, (2, 2, 0, 1), strict=True):
        if sizes not in (expected, (expected, expected)):
            return False
    return True
