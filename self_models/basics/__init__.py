"""What does every room build on: what is a setting, an image, a checkpoint, an error?

Here are the two exceptions that are meant for users, and the program's folders. Nothing
here imports torch, which reads environment variables that a program may still want to set.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = (
    ROOT / "wfeedback"
).is_dir()  # by pip install: see setup.py; else this is a copy of the repository
HOME = ROOT / "wfeedback" if INSTALLED else ROOT  # of the scripts, data/ and trained_models/


class ModelError(ValueError):
    """A model setting or input that cannot work; the message says what was wrong and what to do."""


class UserError(Exception):
    """Something the user can put right; the message says what was wrong and what to do."""


def users_folder():
    """The program's folder among the user's caches, $XDG_CACHE_HOME or ~/.cache, which need not be there yet. Raises ModelError
    for a user without a home, as in a container."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snn_wFeedback"
    except RuntimeError as error:
        raise ModelError(
            f"there is no folder for what is kept ({error}): set XDG_CACHE_HOME to one"
        ) from None
