"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from self_models.errors import UserError


def write_whole(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file so that nobody ever finds half of it, also after a crash.

    The file is written beside its place, under a temporary name, and then renamed.

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
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, ValueError) as error:  # torch.save raises the last two
        raise UserError(
            f"cannot write {path}: {_reason(error)}; an earlier file of that name is as it was"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Say in a few words why writing failed."""
    cause = error
    # torch.save reports a full disk as a RuntimeError whose text does not say so.
    if isinstance(error.__context__, OSError):
        cause = error.__context__
    if getattr(cause, "strerror", None):
        return cause.strerror
    return " ".join(str(cause).split())[:200]
