"""Checkpoints, read without executing code and restored exactly."""

import warnings
import zipfile
from pathlib import Path

import torch

from self_models.basics import HOME, ModelError

POSITIVE = (".threshold", ".bound")  # ends of the names of tensors that are above 0
SQUARES = (".running_var", ".mean_square")  # and of those that may be 0
RETIRED = {"feedback_interval": 1}  # former settings -> the value that networks have today


class CheckpointError(ModelError):
    """A checkpoint that is missing, damaged, or of another model."""


def load_checkpoint(path):
    """A checkpoint as a dict with at least state_dict; ours have model and settings too. The original's `module.` prefix is taken
    off. Raises CheckpointError for a file that is missing or is no checkpoint."""
    if not Path(path).is_file():
        ours = f"; {HOME / path} came with the program" if not Path(path).exists() and (HOME / path).is_file() else ""
        raise CheckpointError(f"{path}: no such checkpoint file{ours}")
    if str(path).endswith(".nir"):
        raise CheckpointError(
            f"{path} is a NIR file, no checkpoint: run_nir.py runs it, with its energy; export.py --to c takes it"
        )
    try:
        saved = _read(path)
    except Exception as error:  # torch's reader raises whatever a damaged file makes of it
        reason = f"{type(error).__name__}: {error}".split("\n")[0].split(". ")[0][:160]
        raise CheckpointError(f"{path} cannot be read, or not safely ({reason}); use another copy") from None
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path} holds a {type(saved).__name__}, not a checkpoint")
    state, advice = saved.get("state_dict", saved), "give a checkpoint written by these scripts"
    is_state = isinstance(state, dict) and state
    if not is_state or not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()):
        raise CheckpointError(f"{path} holds no state_dict of tensors by name; {advice}")
    if odd := [name for name, value in state.items() if not is_plain(value)]:
        raise CheckpointError(f"{path}: {odd[0]} is no plain tensor of real numbers; {advice}")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    return {**(without_retired(saved) if "state_dict" in saved else {}), "state_dict": state}


def without_retired(saved):
    """A checkpoint, its settings without those of RETIRED. One of another value stays: no class knows it."""
    if not isinstance(settings := saved.get("settings"), dict):
        return saved
    kept = {name: value for name, value in settings.items() if name not in RETIRED or value != RETIRED[name]}
    return {**saved, "settings": kept}


def _read(path):
    """torch.load, after a look at the file's check sums, which torch passes over."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            folders = (entry.filename for entry in archive.infolist() if entry.external_attr & 0x10)
            if damaged := archive.testzip() or next(folders, None):  # torch leaves a folder's tensor uninitialised
                raise zipfile.BadZipFile(f"wrong check sum or kind of {damaged}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def is_plain(value):
    """Whether a tensor has real numbers, one beside the other: neither quantised nor sparse, complex, bool or on device meta."""
    return value.layout == torch.strided and not (
        value.is_quantized or value.is_meta or value.is_complex() or value.dtype == torch.bool
    )


def may_hold(saved):
    """What a loaded checkpoint may hold: {'ANN'}, {'SNN'}, or both for the original's, whose ANN files get thresholds, too."""
    if any(name.endswith(".threshold") for name in saved["state_dict"]):
        return {"SNN"}
    return {"ANN", "SNN"} if "thresholds" in saved and "settings" not in saved else {"ANN"}


def restore(model, saved, path, may_lack=()):
    """Load saved["state_dict"] into the model, exactly; may_lack: names that the file need not have. Raises CheckpointError with
    the names that differ, or of a tensor that cannot be."""
    state, own = saved["state_dict"], model.state_dict()
    if words := differences(own, state, may_lack):
        named = f"{path} does not fit {type(model).__name__}: {words}"
        raise CheckpointError(f"{named}. Give the settings it was trained with (flags -a, --fc_width, --dataset, --readout, …)")
    for name, value in state.items():
        if why := impossible(name, value, own[name].dtype):
            raise CheckpointError(f"{path} is damaged: {name} {why}; use another copy")
    model.load_state_dict(state, strict=False)
    return model


def differences(own, state, may_lack=()):
    """How a state_dict differs from a model's own in names and shapes, in words; '' where it does not. may_lack: see restore."""
    words = [f"{name} is missing" for name in own if name not in state and name not in may_lack]
    words += [f"{name} is not in the model" for name in state if name not in own]
    shapes = {name: (tuple(state[name].shape), tuple(own[name].shape)) for name in own if name in state}
    words += [f"{name} is {found}, not {wanted}" for name, (found, wanted) in shapes.items() if found != wanted]
    return "; ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def impossible(name, value, dtype):
    """What is wrong with a tensor of this name, which becomes one of this dtype, in words; '' where it may be."""
    if value.is_floating_point() != dtype.is_floating_point:
        return f"is of {value.dtype}, not {dtype}".replace("torch.", "")
    value = value.to(dtype)
    if not value.isfinite().all():
        return "is not finite"
    if name.endswith(POSITIVE) and (value <= 0).any():
        return "is not above 0"
    if name.endswith(".leak") and ((value < 0) | (value > 1)).any():
        return "is not within 0 and 1"
    return "is below 0" if name.endswith(SQUARES) and (value < 0).any() else ""


def from_original(model, saved):
    """Take over what a checkpoint of the original keeps beside the state: thresholds, scaled already, and leak."""
    try:
        if "thresholds" in saved:
            model.set_thresholds(saved["thresholds"])
        leak = saved.get("leak", saved.get("leak_mem"))
        if leak is not None:
            model.set_leak(float(leak))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's thresholds or leak are damaged ({error})") from None
