"""Input encodings: what the input neurons send in a timestep for the image they see."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import torch

from self_models.running.draws import Draws
from self_models.settings import Choice, Registry, required

ENCODINGS = Registry("encoding")
OF_STILLS = {"constant": "direct", "poisson": "poisson"}  # what they are called for events


class Encoding(NamedTuple):
    """An input encoding.

    Attributes
    ----------
    send : callable
        ``send(image, draws)`` returns what the input neurons send, in the shape of
        ``draws``. ``image``: Tensor of shape (B, C, H, W), values in [-1, 1].
        ``draws``: uniform samples in [0, 1), Tensor of shape (B, C, H, W), or (T, B, C,
        H, W) for ``T`` timesteps.
    uses_draws : bool
        Whether ``send`` reads the samples. If not, none are drawn.
    """

    send: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    uses_draws: bool


def poisson(image: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Rate code: a pixel sends ``|x|`` spikes per timestep on average.

    In each timestep ``spike = 1[u <= |x|] sign(x)``.

    Parameters
    ----------
    image : Tensor of shape (B, C, H, W), -1 to 1
        The images ``x``.
    draws : Tensor of shape (B, C, H, W) or (T, B, C, H, W), 0 to 1
        Uniform samples ``u``.

    Returns
    -------
    Tensor of the shape of ``draws``
        -1, 0 or 1.
    """
    return torch.where(draws <= image.abs(), image.sign(), 0.0)


ENCODINGS.register("poisson")(Encoding(poisson, uses_draws=True))


def direct(image: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Send the pixels' values themselves as a current, the same in every timestep.

    Parameters
    ----------
    image : Tensor of shape (B, C, H, W)
        The images.
    draws : Tensor of shape (B, C, H, W) or (T, B, C, H, W)
        Gives the shape; its values are not used.

    Returns
    -------
    Tensor of the shape of ``draws``
        The images.
    """
    return image.expand_as(draws)


ENCODINGS.register("direct")(Encoding(direct, uses_draws=False))


def encode_stills(
    images: torch.Tensor, timesteps: int, encoding: str, draws: Draws
) -> torch.Tensor:
    """Turn still images into what arrives at a network of events in each timestep.

    Parameters
    ----------
    images : Tensor of shape (B, ...)
        Values of the pixels; with "poisson" in [-1, 1].
    timesteps : int
        For how many timesteps ``T`` each image is shown.
    encoding : {"constant", "poisson"}
        "constant": each pixel's value arrives in each timestep. "poisson": an event
        arrives with the probability ``|value|``, with the value's sign.
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
