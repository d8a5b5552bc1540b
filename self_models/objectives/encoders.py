"""Input encodings: what the input neurons send at one step for the image they see."""

from typing import NamedTuple

import numpy as np
import torch

from self_models.basics.settings import Registry
from self_models.fast.compiling import compiled


class Encoding(NamedTuple):
    """send(image, draws): image (B, C, H, W) in [-1, 1], draws uniform in [0, 1), (B, C, H, W), or (T, B, C, H, W) for T steps,
    as the result. uses_draws: whether anything need be drawn. kernel: the same for one pixel, (value, draw) -> float32."""

    send: callable
    uses_draws: bool
    kernel: callable


def poisson(image, draws):
    """spike = 1[u <= |x|] sign(x): rate code, as many spikes per step on average as |x|."""
    return torch.where(draws <= image.abs(), image.sign(), 0.0)


@compiled
def _poisson(value, draw):
    sign = np.float32(1) if value > 0 else np.float32(-1)
    return sign if value != 0 and draw <= abs(value) else np.float32(0)


def direct(image, draws):
    """The analog image itself drives the first layer at every step."""
    return image.expand_as(draws)


@compiled
def _direct(value, draw):
    return value


ENCODINGS = Registry("encoding", poisson=Encoding(poisson, True, _poisson), direct=Encoding(direct, False, _direct))
