"""Checkpoints, read without executing code and restored exactly."""

import warnings
from pathlib import Path

import torch

from self_models.basics import HOME, ModelError

POSITIVE = (".threshold", ".bound")  # ends of the names of tensors that are above 0


class CheckpointError(ModelError):
    """A checkpoint that is missing, damaged, or of another model."""


def load_checkpoint(path):
    """A checkpoint as a dict with at least state_dict; ours have model and settings too. The original's `module.` prefix is taken
    off. Raises CheckpointError for a file that is missing or is no checkpoint."""
    if not Path(path).is_file():
        ours = (
            f"; {HOME / path} came with the program"
            if not Path(path).exists() and (HOME / path).is_file()
            else ""
        )
        raise CheckpointError(f"{path}: no such checkpoint file{ours}")
    if str(path).endswith(".nir"):
        raise CheckpointError(
            f"{path} is a NIR file, no checkpoint: run_nir.py runs it, with its energy; export.py --to c takes it"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saved = torch.load(path, map_location="cpu", weights_only=True)
        state = {
            name.removeprefix("module."): value
            for name, value in saved.get("state_dict", saved).items()
        }
        if (
            saved.get("settings", {}).get("feedback_interval") == 1
        ):  # of former versions; all networks do so today
            del saved["settings"]["feedback_interval"]
    except Exception as error:  # torch's reader raises whatever a damaged file makes of it
        reason = f"{type(error).__name__}: {error}".split("\n")[0].split(". ")[0][:160]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint, or not safely ({reason}); use another copy"
        ) from None
    return {**(saved if "state_dict" in saved else {}), "state_dict": state}


def may_hold(saved):
    """What a loaded checkpoint may hold: {'ANN'}, {'SNN'}, or both for the original's, whose ANN files get thresholds, too."""
    if any(name.endswith(".threshold") for name in saved["state_dict"]):
        return {"SNN"}
    return {"ANN", "SNN"} if "thresholds" in saved and "settings" not in saved else {"ANN"}


def restore(model, saved, path, may_lack=()):
    """Load saved["state_dict"] into the model, exactly; may_lack: names that the file need not have. Raises CheckpointError with
    three names at most that do not fit, or with one whose values cannot be."""
    own = model.state_dict()
    state = {name: own[name] for name in may_lack} | saved["state_dict"]
    try:
        model.load_state_dict(state)
    except RuntimeError:
        words = [f"{name} is missing" for name in own if name not in state]
        words += [f"{name} is not in the model" for name in state if name not in own]
        shapes = {
            name: (tuple(state[name].shape), tuple(own[name].shape))
            for name in own
            if name in state
        }
        words += [
            f"{name} is {shape}, not {wanted}"
            for name, (shape, wanted) in shapes.items()
            if shape != wanted
        ]
        more = f" and {len(words) - 3} more" if len(words) > 3 else ""
        advice = "give the settings it was trained with (flags -a, --fc_width, --dataset, --readout, …), or another copy"
        raise CheckpointError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(words[:3])}{more}; {advice}"
        ) from None
    for name, value in model.state_dict().items():
        if not value.isfinite().all() or (name.endswith(POSITIVE) and (value <= 0).any()):
            raise CheckpointError(
                f"{path} is damaged: {name} is not finite, or not above 0; use another copy"
            )
    return model
