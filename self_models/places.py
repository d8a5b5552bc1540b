"""Where the program's files lie, and the folder that it keeps of its own.

Nothing here imports torch, which reads environment variables that a program may still
want to set.
"""

import os
from pathlib import Path

from self_models.errors import ModelError

ROOT = Path(__file__).resolve().parents[1]
# Whether pip has installed the program (see setup.py); else this is a copy of the
# repository.
INSTALLED = (ROOT / "wfeedback" / "home").is_dir()
HOME = (
    ROOT / "wfeedback" / "home" if INSTALLED else ROOT
)  # of the scripts, data/ and trained_models/


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
