"""What compiled code knows of a model: whether it has a form of all that the model does, and the settings that it reads."""

import functools
import itertools
from collections import namedtuple

import numpy as np

from self_models.basics.images import has_colour
from self_models.running.draws import key_for
from self_models.vgg_wFeedback_spiking import methods

PARTS = {"gate": "kernels", "rule": "kernel", "readout": "kernels"}  # setting -> attribute with the part's compiled form


def why_not(model):
    """Why compiled code cannot run the model as it is now, or ''."""
    from self_models.fast.event.compiled import run  # now: it knows the parts that are registered when it is first imported

    if hook := model.overridden():
        return f"the event engine does not know {type(model).__name__}.{hook}: use --engine dense"
    for name, kernel in PARTS.items():
        part = type(getattr(model, name))
        if part not in run.PARTS or not is_compiled(part, kernel):
            return f"the event engine has no compiled form of the {name} {part.__name__} ({kernel}): use --engine dense"
    if model.encoding not in run.PARTS:
        return f"the event engine has no compiled form of the encoding {model.settings['encoding']}: use --engine dense"
    if model.settings["update"] not in ("delayed", "immediate"):
        return "the event engine knows the updates delayed and immediate: use --engine dense"
    if getattr(model.gate, "wait", False) and any(neuron.leak.item() != 1 for neuron in model.neurons().values()):
        return "the event engine lets no layer wait whose membranes leak (setting wait of gate once): use --engine dense"
    return ""


@functools.cache
def is_compiled(cls, kernel):
    """Whether a part has a compiled form, its attribute `kernel`, and no class below the one that it is of has a method."""
    below = itertools.takewhile(lambda base: kernel not in vars(base), cls.__mro__)
    return getattr(cls, kernel, None) is not None and not any(methods(base) for base in below)


def kernel_settings(model, draws, steps=None):
    """What compiled code reads of a model: settings that are declared so, names as numbers, its images' shape, the draws' key.
    steps: how many are to be taken, of a network that is left on."""
    registered = tuple(part for registry in model.parts.values() for part in registry.values())
    held = model.settings | vars(model.gate) | vars(model.rule) | vars(model.readout)  # a part may have been changed in place
    values = {name: one.scalar(held.get(name, one.default)) for name, one in read_by_kernels(type(model), registered)}
    values = {name: np.float32(value) if isinstance(value, float) else value for name, value in values.items()}
    channels, _, width = model.image_shape
    values |= {"has_feedback": model.has_feedback, "completes": model.gate.completes, "least_steps": model.gate.least_steps}
    values |= {"left_on": steps is not None, "timesteps": model.timesteps if steps is None else steps}
    values |= {"colour": has_colour(channels), "channels": channels, "width": width}
    values |= {"uses_draws": model.encoding.uses_draws, "epoch": draws.epoch, "key": key_for(draws.seed, "input")}
    return settings_class(tuple(values))._make(values.values())


@functools.cache
def read_by_kernels(cls, registered):
    """The (name, Setting) pairs that compiled code reads of models of this class, while these parts are registered."""
    return [(name, one) for name, one in cls.declared().items() if one.kernel]


@functools.cache
def settings_class(names):
    """The named tuple of these settings, under a name of this module, where numba's cache on disk finds it again."""
    global KernelSettings
    KernelSettings = namedtuple("KernelSettings", names)
    return KernelSettings
