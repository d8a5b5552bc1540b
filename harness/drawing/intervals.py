"""How far a figure could be from what was found."""

from math import sqrt

Z = 1.959964  # standard deviations of a normal distribution that hold 95 %


def wilson(share, count):
    """The 95 % interval (low, high) of a share of `count` images (Wilson 1927): the true shares that what was found is likely
    under, if the images are a random sample."""
    centre = share + Z**2 / (2 * count)
    spread = Z * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
