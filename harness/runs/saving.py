"""Checkpoints and other files, written whole or not at all; self_models/basics/checkpoints.py reads them."""

import contextlib
import os
import shutil
from pathlib import Path

import torch

from harness import UserError
from harness.runs import ranks
from self_models.integers import IntegerSNN


def save_checkpoint(path, model, **more):
    """Write the model, the settings that rebuild it, and whatever else. Raises UserError for one in whole numbers."""
    if isinstance(model, IntegerSNN):
        raise UserError(
            "a network with weights int8 is not saved: keep its checkpoint, and load(path, weights='int8')"
        )
    saved = {
        "model": type(model).__name__,
        "settings": model.settings,
        "state_dict": model.state_dict(),
        **more,
    }
    write_whole(path, lambda file: torch.save(saved, file))


def write_whole(path, write, any_rank=False):
    """Call write(file) on a temporary file beside path, then rename it; only the first rank does, or any. Raises UserError."""
    if not (any_rank or ranks.is_first()):
        return
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # torch.save reports a full disk as a RuntimeError
        cause = (
            error.__context__ if isinstance(error.__context__, OSError) else error
        )  # what torch.save makes unreadable
        reason = getattr(cause, "strerror", None) or " ".join(str(cause).split())[:200]
        raise UserError(
            f"cannot write {path}: {reason}; an earlier file of that name is as it was"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_folder(path, files):
    """Write a folder of text files, whole or not at all.

    The files are written to a temporary folder first. A folder that is there already keeps
    what it has until they are whole, and keeps files of other names.

    Parameters
    ----------
    path : Path
        The folder. It may be there; the folder that it lies in must be.
    files : dict of {str: str}
        Text of each file, by its path within the folder.

    Raises
    ------
    UserError
        Where it cannot be written, for example on a full disk.
    """
    is_there = path.is_dir()
    beside = path if is_there else path.parent  # of the same disk, so that files can be moved
    temporary = beside / f".{path.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir()
        for name, text in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            with open(temporary / name, "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())  # a full disk may show only here
        if is_there:
            for name in files:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / name, path / name)
        else:
            temporary.rename(path)
    except OSError as error:
        kept = "it is as it was" if is_there else "nothing of it was written"
        raise UserError(
            f"cannot write the folder {path}: {error.strerror}; {kept}: make room, or give another by --output"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
