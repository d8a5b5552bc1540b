"""Checkpoints, read without executing code and restored exactly."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from self_models.errors import ModelError
from self_models.places import HOME

POSITIVE = (".threshold", ".bound")  # ends of the names of tensors that are above 0


class CheckpointError(ModelError):
    """A checkpoint that is missing, damaged, or of another model."""


def load_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint file.

    Files of the original and of former versions are read, too.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    dict
        "state_dict", name -> Tensor; in our own files also "model", the name of its
        class, and "settings", name -> value.

    Raises
    ------
    CheckpointError
        If the file is missing, or no checkpoint.
    """
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saved = torch.load(path, map_location="cpu", weights_only=True)
        state = {}
        for name, value in saved.get("state_dict", saved).items():
            # The original has saved its models inside an nn.DataParallel.
            state[name.removeprefix("module.")] = value
        # A setting of former versions; all networks do so today.
        if saved.get("settings", {}).get("feedback_interval") == 1:
            del saved["settings"]["feedback_interval"]
    except Exception as error:  # torch's reader raises whatever a damaged file makes of it
        message = f"{type(error).__name__}: {error}"
        reason = message.split("\n")[0].split(". ")[0][:160]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint, or not safely ({reason}); use another copy"
        ) from None
    if "state_dict" not in saved:  # a file of weights alone
        return {"state_dict": state}
    return {**saved, "state_dict": state}


def check_file(path: str | os.PathLike) -> None:
    """Raise CheckpointError unless there is a file that may be a checkpoint."""
    if not Path(path).is_file():
        hint = ""
        if not Path(path).exists() and (HOME / path).is_file():
            hint = f"; {HOME / path} came with the program"
        raise CheckpointError(f"{path}: no such checkpoint file{hint}")
    if str(path).endswith(".nir"):
        raise CheckpointError(
            f"{path} is a NIR file, no checkpoint: wfeedback nir runs it, with its energy; "
            "wfeedback export --to c takes it"
        )


def may_hold(saved: dict) -> set[str]:
    """Return what a loaded checkpoint may hold: "ANN", "SNN", or both.

    The original gives its ANNs thresholds, too, so its files may be either.
    """
    if any(name.endswith(".threshold") for name in saved["state_dict"]):
        return {"SNN"}
    if "thresholds" in saved and "settings" not in saved:
        return {"ANN", "SNN"}
    return {"ANN"}


def restore(
    model: nn.Module, saved: dict, path: str | os.PathLike, may_lack: Sequence[str] = ()
) -> nn.Module:
    """Load a checkpoint's weights into a model, exactly.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    saved : dict
        The checkpoint, as `load_checkpoint` returns it.
    path : str or Path
        Where it came from, for messages.
    may_lack : sequence of str
        Names of tensors that it need not have. These stay as they are.

    Returns
    -------
    nn.Module
        The model.

    Raises
    ------
    CheckpointError
        If names or shapes do not fit, three of which are named, or if a value cannot
        be.
    """
    own_state = model.state_dict()
    state = {name: own_state[name] for name in may_lack}
    state |= saved["state_dict"]
    try:
        model.load_state_dict(state)
    except RuntimeError:
        faults = misfits(state, own_state)
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(faults[:3])}{more}; "
            "give the settings it was trained with (flags -a, --fc_width, --dataset, "
            "--readout, …), or another copy"
        ) from None
    for name, value in model.state_dict().items():
        is_too_small = name.endswith(POSITIVE) and (value <= 0).any()
        if not value.isfinite().all() or is_too_small:
            raise CheckpointError(
                f"{path} is damaged: {name} is not finite, or not above 0; use another copy"
            )
    return model


def misfits(state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> list[str]:
    """Say which tensors of a state_dict do not fit those that are wanted.

    Parameters
    ----------
    state, wanted : dict of {str: Tensor}
        What a file has, and what a model has.

    Returns
    -------
    list of str
        First what is missing, then what is too much, then what has another shape.
    """
    missing = [f"{name} is missing" for name in wanted if name not in state]
    unknown = [f"{name} is not in the model" for name in state if name not in wanted]
    misshapen = []
    for name in wanted:
        if name in state and state[name].shape != wanted[name].shape:
            given = tuple(state[name].shape)
            misshapen.append(f"{name} is {given}, not {tuple(wanted[name].shape)}")
    return missing + unknown + misshapen
