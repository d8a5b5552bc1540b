"""Input encodings: what the input neurons send at one step for the image they see.

image: (B, C, H, W), values in [-1, 1]; draws: uniform in [0, 1), (B, C, H, W), or (T, B, C, H, W) for T steps, as the result.
is_random: whether it looks at the draws; for one that does not none are made, and they only say the shape.
"""

import torch

from self_models.basics.errors import choose


def poisson(image, draws):
    """spike = 1[u <= |x|] sign(x): rate code, as many spikes per step on average as |x|."""
    return torch.where(draws <= image.abs(), image.sign(), 0.0)


def direct(image, draws):
    """The analog image itself drives the first layer at every step; draws are not used."""
    return image.expand_as(draws)


poisson.is_random, direct.is_random = True, False
ENCODERS = {"poisson": poisson, "direct": direct}


def find_encoder(name):
    """The named encoding. Raises ModelError for an unknown name."""
    return choose("encoding", name, ENCODERS)
