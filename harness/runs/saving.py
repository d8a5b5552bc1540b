"""Checkpoints and other files, written whole or not at all; self_models/basics/checkpoints.py reads them."""

import contextlib
import os
from pathlib import Path

import torch

from harness import UserError
from harness.processes import ranks
from self_models.integers import IntegerSNN


def save_checkpoint(path, model, previous=None, **more):
    """Write the model, the settings that rebuild it, and whatever else. previous: see write_whole. Raises UserError for one in
    whole numbers, which load() makes of a checkpoint."""
    if isinstance(model, IntegerSNN):
        raise UserError(
            "a network with weights int8 is not saved: keep its checkpoint, of which load(path, weights='int8') makes it"
        )
    saved = {"model": type(model).__name__, "settings": model.settings, "state_dict": model.state_dict(), **more}
    write_whole(path, lambda file: torch.save(saved, file), previous)


def write_whole(path, write, previous=None):
    """Call write(file) on a temporary file beside path, then rename it; of several ranks only the first does. previous: where the
    file that is replaced is kept. Raises UserError where it can't be done; a folder is not made: its disk may be gone."""
    if ranks.is_first():
        write_here(path, write, previous)


def write_here(path, write, previous=None):
    """write_whole for the rank that calls it, whichever it is."""
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            keep(path, previous)
        os.replace(temporary, path)
    except (OSError, RuntimeError, ValueError) as error:  # torch.save reports a full disk as a RuntimeError
        cause = error.__context__ if isinstance(error.__context__, OSError) else error  # what torch.save makes unreadable
        reason = getattr(cause, "strerror", None) or " ".join(str(cause).split())[:200]
        raise UserError(f"cannot write {path}: {reason}; an earlier file of that name is as it was") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def keep(path, previous):
    """Give the file a second name, in one move; a new file can then take its first one, and there is always one of each."""
    with contextlib.suppress(OSError):  # no hard links here: nothing is kept, and nothing lost
        link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, previous)
        link.unlink(missing_ok=True)  # it stays where previous was the same file already, as after a kill at this line
