"""Input encodings: what the input neurons send at one step for the image they see."""

from typing import NamedTuple

import torch

from self_models.basics.settings import Registry

ENCODINGS = Registry("encoding")


class Encoding(NamedTuple):
    """send(image, draws): image (B, C, H, W) in [-1, 1], draws uniform in [0, 1), (B, C, H, W), or (T, B, C, H, W) for T steps,
    as the result. uses_draws: whether anything need be drawn."""

    send: callable
    uses_draws: bool


def poisson(image, draws):
    """spike = 1[u <= |x|] sign(x): rate code, as many spikes per step on average as |x|."""
    return torch.where(draws <= image.abs(), image.sign(), 0.0)


ENCODINGS.register("poisson")(Encoding(poisson, uses_draws=True))


def direct(image, draws):
    """The analog image itself drives the first layer at every step."""
    return image.expand_as(draws)


ENCODINGS.register("direct")(Encoding(direct, uses_draws=False))
