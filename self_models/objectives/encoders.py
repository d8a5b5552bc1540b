"""Input encodings: what the input neurons send at one step for the image they see."""

from math import prod
from typing import NamedTuple

import torch

from self_models.basics.settings import Choice, Registry, required

ENCODINGS = Registry("encoding")
OF_STILLS = {"constant": "direct", "poisson": "poisson"}  # what they are called for events


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


def encode_stills(images, timesteps, encoding, draws):
    """Turn still images into what arrives at a network of events in each timestep.

    Parameters
    ----------
    images : Tensor of shape (B, ...)
        Values of the pixels; with "poisson" in [-1, 1].
    timesteps : int
        For how many timesteps ``T`` each image is shown.
    encoding : {"constant", "poisson"}
        "constant": each pixel's value arrives in each timestep. "poisson": an event arrives
        with the probability ``|value|``, with the value's sign.
    draws : Draws
        Random numbers of "poisson".

    Returns
    -------
    Tensor of shape (B, T, ...)
        Values or events.

    Raises
    ------
    ModelError
        For another encoding.
    """
    name = OF_STILLS[required(Choice(OF_STILLS), "encoding", encoding)]
    if not ENCODINGS[name].uses_draws:
        return images[:, None].expand(-1, timesteps, *images.shape[1:])
    shape = images.shape[1:]
    # Draws know images (C, H, W) and vectors; any other shape has those of a vector.
    if len(shape) != 3:
        shape = (prod(shape),)
    uniforms = draws.uniforms(timesteps, shape, images.device)
    uniforms = uniforms.reshape(timesteps, *images.shape)
    return ENCODINGS[name].send(images, uniforms).transpose(0, 1)
