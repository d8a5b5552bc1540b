"""The former place of `self_models/data/sets.py`, which works until 0.7."""

import warnings

from self_models.data.sets import *  # noqa: F403

warnings.warn(
    "harness.data.sets is now self_models.data.sets: import from there",
    DeprecationWarning,
    stacklevel=2,
)
