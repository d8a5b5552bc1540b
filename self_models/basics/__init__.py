"""What every room builds on: settings, images, checkpoints and errors.

Here are the two exceptions that are meant for users, and the program's folders. Nothing
here imports torch, which reads environment variables that a program may still want to
set.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Whether pip has installed the program (see setup.py); else this is a copy of the
# repository.
INSTALLED = (ROOT / "wfeedback").is_dir()
HOME = ROOT / "wfeedback" if INSTALLED else ROOT  # of the scripts, data/ and trained_models/


class ModelError(ValueError):
    """A setting or input of a model that cannot work.

    The message says what was wrong, and what to do.
    """


class UserError(Exception):
    """Something the user can put right.

    The message says what was wrong, and what to do.
    """


def users_folder() -> Path:
    """Return the program's folder among the user's caches, which need not be there yet.

    It lies in $XDG_CACHE_HOME, or in ~/.cache.

    Raises
    ------
    ModelError
        For a user without a home, as in a container.
    """
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise ModelError(
            f"there is no folder for what is kept ({error}): set XDG_CACHE_HOME to one"
        ) from None
    return Path(caches) / "snn_wFeedback"
