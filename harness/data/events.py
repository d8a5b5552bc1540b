"""The former place of `self_models/data/events.py`, which works until 0.7."""

import warnings

from self_models.data.events import *  # noqa: F403

warnings.warn(
    "harness.data.events is now self_models.data.events: import from there",
    DeprecationWarning,
    stacklevel=2,
)
