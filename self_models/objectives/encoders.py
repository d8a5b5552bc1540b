"""Input encodings: what the input neurons send in a timestep for the image they see."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from self_models.basics.settings import Registry

ENCODINGS = Registry("encoding")


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
