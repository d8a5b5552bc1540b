"""What compiled code knows of a model: whether it has a form of all that the model does, and the settings that it reads."""

import numpy as np

from self_models.basics.images import has_colour
from self_models.fast.event.compiled.nets import KernelSettings
from self_models.fast.event.compiled.parts import FORMS
from self_models.running.draws import key_for

NUMBERS = ("epsilon", "open_bound", "gap_bound", "entropy_bound", "readout_leak", "readout_slew", "surprise")
SWITCHES = ("together", "latch", "residual")


def why_not(model):
    """Why compiled code cannot run the model as it is now, or ''."""
    if hook := model.overridden():
        return f"the event engine does not know {type(model).__name__}.{hook}: use --engine dense"
    for name, part in parts_of(model).items():
        if part not in FORMS[name]:
            return f"the event engine has no compiled form of the {name} {model.settings[name]}: use --engine dense"
    if model.settings["update"] not in ("delayed", "immediate", "phased"):
        return "the event engine knows the updates delayed, immediate and phased: use --engine dense"
    return ""


def parts_of(model):
    """The setting that names a part -> that by which its compiled form is found."""
    return {name: type(getattr(model, name)) for name in model.parts} | {"encoding": model.encoding.send}


def kernel_settings(model, draws, steps=None):
    """The KernelSettings of a model. steps: how many are to be taken, of a streaming network."""
    own = model.settings | vars(model.gate) | vars(model.rule) | vars(model.readout)  # a part may have been changed in place
    parts = {name: list(FORMS[name]).index(part) for name, part in parts_of(model).items() if name != "gate"}
    return KernelSettings(
        **parts,
        **{name: np.float32(own.get(name, 0)) for name in NUMBERS},
        **{name: bool(own.get(name, False)) for name in SWITCHES},
        blocks=model.gate.reacts,
        reopens=model.gate.reopens,
        has_feedback=model.has_feedback,
        feedback_interval=model.feedback_interval,
        next_frame=own["predict"] == "next",
        left_on=steps is not None,
        timesteps=model.latency if steps is None else steps,
        phase=model.timesteps if model.phased else 0,
        channels=model.image_shape[0],
        colour=has_colour(model.image_shape[0]),
        uses_draws=model.encoding.uses_draws,
        epoch=draws.epoch,
        key=key_for(draws.seed, "input"),
    )
