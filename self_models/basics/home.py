"""Where the program is at home: what came with it, and where it may keep what it fetches for a user."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = (ROOT / "wfeedback").is_dir()  # by pip install: see setup.py; else this is a copy of the repository
HOME = ROOT / "wfeedback" if INSTALLED else ROOT  # of the scripts, data/ and trained_models/


def users_folder():
    """The program's folder among the user's caches, $XDG_CACHE_HOME or ~/.cache; it need not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snn_wFeedback"


def came_with_it(path):
    """The file that came with the program by this relative path, where the folder one works in lacks it; else None."""
    found = HOME / path
    return found if not Path(path).exists() and found.is_file() else None
