"""Write checkpoints and other files whole or not at all.

`self_models/checkpoints/files.py` reads checkpoints.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from self_models import files
from self_models.errors import UserError
from wfeedback.runs import ranks


def save_checkpoint(path: str | os.PathLike, model: nn.Module, **more: Any) -> None:
    """Save a model with the settings that rebuild it.

    Parameters
    ----------
    path : str or Path
        Where to write.
    model : VGG_wFeedback or VGG_SNN_STDB_wFeedback
        The model.
    **more
        Further entries of the checkpoint, such as ``epoch``.

    Raises
    ------
    UserError
        If no checkpoint can hold such a model, or the file cannot be written.
    """
    if model.why_not_saved:
        raise UserError(model.why_not_saved)
    checkpoint = {
        "model": type(model).__name__,
        "settings": model.settings,
        "state_dict": model.state_dict(),
        **more,
    }
    write_whole(path, lambda file: torch.save(checkpoint, file))


def write_whole(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all, of several ranks on the first alone.

    Parameters
    ----------
    path : str or Path
        Where to write. A file that is there is replaced.
    write : callable
        Takes the open file and writes to it.

    Raises
    ------
    UserError
        If the file cannot be written. An earlier file of this name is then as it was.
    """
    if ranks.is_first():
        files.write_whole(path, write)


def write_folder(path: Path, files: dict[str, str]) -> None:
    """Write a folder of text files so that a full disk leaves no half of it.

    The files are written to a temporary folder first. A new folder is then renamed into
    its place. In a folder that exists, each new file replaces the old one of its name;
    files of other names stay.

    Parameters
    ----------
    path : Path
        The folder. The folder that it lies in must exist.
    files : dict of {str: str}
        Text of each file, by its path within the folder.

    Raises
    ------
    UserError
        If it cannot be written, for example on a full disk.
    """
    exists = path.is_dir()
    # On the same disk as the folder, since files cannot be renamed across disks.
    parent = path if exists else path.parent
    temporary = parent / f".{path.name}.{os.getpid()}.tmp"
    replaced = 0
    try:
        temporary.mkdir()
        for name, text in files.items():
            _write_text(temporary / name, text)
        if exists:
            for name in files:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / name, path / name)
                replaced += 1
        else:
            temporary.rename(path)
    except OSError as error:
        outcome = "nothing of it was written"
        if exists:
            outcome = "it is as it was"
        if replaced:
            outcome = f"{replaced} of its files are new"
        raise UserError(
            f"cannot write the folder {path}: {error.strerror}; {outcome}: make room, or give "
            "another by --output"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    """Write a text to the disk itself, because a full one may show only there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
