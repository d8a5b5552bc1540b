"""The arms that a film is compared over, by name, and the rungs that add to them."""

from dataclasses import replace

from studies.link.predictors import Motion

RUNGS = {  # each adds one thing to the one before
    "blocks of 8": {"held": False},
    "held": {},
    "4 to 16": {"sides": (4, 8, 16)},
    "half pixels": {"sides": (4, 8, 16), "half_pixels": True},
}
PLACES = ("receiver", "sender")


def motion_on_rung(motion: Motion, rung: str) -> Motion:
    """Return a motion as it is on a rung.

    Parameters
    ----------
    motion : Motion
        With the price, coupling and recruitment that were chosen.
    rung : {"blocks of 8", "held", "4 to 16", "half pixels"}

    Returns
    -------
    Motion
    """
    return replace(motion, **RUNGS[rung])
