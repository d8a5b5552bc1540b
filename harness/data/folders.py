"""The former place of `self_models/data/folders.py`, which works until 0.7."""

import warnings

from self_models.data.folders import *  # noqa: F403

warnings.warn(
    "harness.data.folders is now self_models.data.folders: import from there",
    DeprecationWarning,
    stacklevel=2,
)
