"""What is known of a network's parts: which modules it has, and whether they are those of an architecture.

Of modules that no architecture makes, derived classes among them, nobody knows what they do: see check_known.
"""

from torch import nn

from self_models.basics import ModelError
from self_models.layers.neurons import (
    UPDATES,
    CountingMaxPool,
    HeldDropout,
    SpikingNeuron,
)
from self_models.layers.scale import Scale
from self_models.runtime.outputs import INPUT

STAGES = "features", "generate", "classifier", "network"
LINEAR = nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.AvgPool2d, nn.Flatten, Scale
KNOWN = *LINEAR, nn.MaxPool2d, CountingMaxPool, HeldDropout, nn.Identity
OF_READOUT = (
    "integrate",
    "prediction",
    "on_pixel_scale",
)  # methods that change neither what layers run nor on what
PLAIN = {"padding_mode": ("zeros",), "ceil_mode": (False,), "count_include_pad": (True,)}


def modules_of(model):
    """A model and all modules in it, once for each place that has one; in a few microseconds."""
    modules = [model]
    for module in modules:  # which grows
        modules += [part for part in module._modules.values() if part is not None]
    return modules


def is_hooked(module):
    """True if the module has forward hooks, or a forward of its own in place of its class's: a fast path would not call them."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def check_known(
    model,
    who,
    instead="it takes what architectures here are made of (layers/architectures.py)",
    own=False,
    but=OF_READOUT,
):
    """Raises ModelError where a model has a part that no architecture makes, or a method of its own but for these: who, in words,
    does not know it; instead: what to do. own: methods may be its own, and neurons, and what stands beside its stages."""
    if not own and model.replaces(but):
        raise ModelError(f"{who} does not know the methods of {type(model).__name__}: {instead}")
    if part := unknown(model, own):
        raise ModelError(f"{who} does not know {part}: {instead}")


def unknown(model, own=False):
    """The first part of a model that no architecture makes, in words, or None: its own parameter, a module beside its stages, or
    in one of them a layer of another class (derived from a known one, too), of another form or update, or out of place. own: as
    in check_known, and maximum pools may be of another form."""
    known, update = {""}, UPDATES.find(model.settings["update"])
    known_neuron = model.timing.plain_neuron
    for name, stage in ((name, getattr(model, name, None)) for name in STAGES):
        if type(stage) in (nn.Sequential, nn.ModuleDict):
            plain = {
                at
                for at, layer in stage.named_children()
                if is_plain(layer, known_neuron) and getattr(layer, "update", update) == update
            }
            known |= {name, *(f"{name}.{at}" for at in plain)}
    parts = [*model._parameters.items(), *model._buffers.items()]
    parts += [(name, module) for name, module in model.named_modules() if name not in known]
    if own:
        parts = [
            (name, part)
            for name, part in parts
            if in_stages(name) and not isinstance(part, SpikingNeuron | nn.MaxPool2d)
        ]
    if not parts:
        graph = model.make_graph()
        pools = (
            link for link in graph.links if link.target in graph.pools
        )  # of what is no spike:
        parts = [
            (link.target, graph.modules[link.target])
            for link in pools
            if link.through or link.source == INPUT
        ]
    return f"{parts[0][0]} ({type(parts[0][1]).__name__})" if parts else None


def in_stages(name):
    """Whether a module or tensor of this name belongs to one of the stages that plans make."""
    return name.split(".")[0] in STAGES


def names_of_ones_own(model):
    """Names of a model's tensors that no plan's network has: beside its stages, and of its neurons but for threshold and leak."""
    neurons = [
        f"{name}." for name, module in model.named_modules() if isinstance(module, SpikingNeuron)
    ]
    of_neurons = {name for name in model.state_dict() if name.startswith(tuple(neurons))}
    plain = {f"{neuron}{kind}" for neuron in neurons for kind in ("threshold", "leak")}
    return [
        name for name in model.state_dict() if not in_stages(name) or name in of_neurons - plain
    ]


def is_plain(layer, known_neuron):
    """True if a layer has a form that architectures make; known_neuron: the class of their neurons."""
    if isinstance(layer, SpikingNeuron):
        plain = layer.threshold.numel() == layer.leak.numel() == 1
        return plain and type(layer) is known_neuron
    return has_form(layer)


def has_form(layer):
    """True if all engines have the form of a module that is no neuron."""
    if type(layer) not in KNOWN:
        return False
    if isinstance(layer, nn.MaxPool2d):
        form = layer.kernel_size, layer.stride, layer.padding, layer.dilation
        return all(
            size in (usual, (usual, usual)) for size, usual in zip(form, (2, 2, 0, 1), strict=True)
        )
    return all(getattr(layer, name, plain[0]) in plain for name, plain in PLAIN.items()) and not (
        isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1
    )
