"""What does every room build on: what is a setting, an image, a checkpoint, an error? Here: the models' one exception, what
devices can do, and the program's folders."""

import os
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = (
    ROOT / "wfeedback"
).is_dir()  # by pip install: see setup.py; else this is a copy of the repository
HOME = ROOT / "wfeedback" if INSTALLED else ROOT  # of the scripts, data/ and trained_models/


class ModelError(ValueError):
    """A model setting or input that cannot work; the message says what was wrong and what to do."""


def users_folder():
    """The program's folder among the user's caches, $XDG_CACHE_HOME or ~/.cache, which need not be there yet. Raises ModelError
    for a user without a home, as in a container."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snn_wFeedback"
    except RuntimeError as error:
        raise ModelError(
            f"there is no folder for what is kept ({error}): set XDG_CACHE_HOME to one"
        ) from None


def wide(device):
    """The widest floating-point type of a device, for long sums: float64, but float32 on mps."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


def sent(values, device):
    """A tensor of the CPU on the device. From memory that cannot be paged out it goes to a GPU while the host runs on."""
    if torch.device(device).type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def kept_in_memory(tensors):
    """Return what keeps the ids and addresses of tensors from being given to others."""
    # A tensor whose `.data` is set gives its memory free. The next one to be set might
    # get it, and would look as if it had never changed; an alias holds the memory.
    aliases = [tensor.detach() for tensor in tensors]
    return tensors, aliases


def compute_exactly():
    """Ask a GPU's convolutions for the same result each time, so that a run that was stopped goes on as if it had not been, and
    for factors that are not rounded to 10 bits, which would flip spikes near the threshold."""
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = False
