"""Surrogate gradients: the slope that the backward pass takes for a spike.

A neuron sends ``s = H(v)``, the step function with ``H(0) = 0``, of ``v = V / theta -
1``: the distance of its membrane potential from the threshold, measured in thresholds.
A neuron exactly at its threshold does not spike. The slope of ``H`` is 0 almost
everywhere, so the backward pass takes another function for ``ds/dv``.

The *age* of a neuron is the number of timesteps since its last spike.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from self_models.settings import Registry

SURROGATES = Registry("activation")  # name -> function (alpha, beta) that returns a Surrogate
GAMMA = 0.3  # slope of the surrogate "Linear" at the threshold, as in the original


class Surrogate(NamedTuple):
    """A surrogate gradient ``ds/dv = scale * shape(v, age)``.

    Attributes
    ----------
    scale : float
        Constant factor.
    onto : callable
        ``onto(grad, v, age)`` returns ``grad * shape(v, age)``. All are Tensors of the
        shape of the neurons. It may write into ``v``, which nobody reads afterwards.
    needs_age : bool
        Whether the shape depends on the age. If not, ``age`` is None.
    """

    scale: float
    onto: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    needs_age: bool = False


def _onto_triangle(grad, v, age):
    """Return ``grad * max(0, 1 - |v|)``, and write it into ``v`` to save memory."""
    distance = v.abs_().clamp_(max=1)
    return torch.addcmul(grad, distance, grad, value=-1, out=v)


@SURROGATES.register("Linear")
def linear(alpha: float, beta: float) -> Surrogate:
    """Piecewise linear: ``ds/dv = gamma * max(0, 1 - |v|)``.

    The shape is that of Bellec et al., NeurIPS 2018.

    Parameters
    ----------
    alpha, beta : float
        Not used here; all surrogates take the same arguments.

    Returns
    -------
    Surrogate
        With ``gamma`` = 0.3, as in the original.
    """
    return Surrogate(GAMMA, _onto_triangle)


@SURROGATES.register("Triangle")
def triangle(alpha: float, beta: float) -> Surrogate:
    """Piecewise linear: ``ds/dv = max(0, 1 - |v|)``.

    The shape is that of Esser et al., PNAS 2016.

    This is "Linear" without its factor of 0.3, because a gradient is multiplied by that
    factor in every layer that it passes. Behind five layers, 0.002 of the gradient of
    the classification loss reaches the first layer, but 0.3 of the gradient of a
    penalty on that layer's own spikes.

    Parameters
    ----------
    alpha, beta : float
        Not used here; all surrogates take the same arguments.

    Returns
    -------
    Surrogate
        With scale 1.
    """
    return Surrogate(1.0, _onto_triangle)


@SURROGATES.register("STDB")
def stdb(alpha: float, beta: float) -> Surrogate:
    """Spike-time dependent: ``ds/dv = alpha * exp(-age) ** beta``.

    This is the surrogate of Rathi et al., ICLR 2020.

    With ``beta`` above 0, a neuron that has never spiked has no gradient, because its
    age is infinite. In float32 ``exp(-age)`` underflows to 0 beyond an age of about 103
    timesteps, as in the original.

    Parameters
    ----------
    alpha : float
        Factor of the gradient. One timestep after a spike, the earliest age that is
        asked, the gradient is ``alpha * exp(-1) ** beta``.
    beta : float
        How fast the gradient decays with the age.

    Returns
    -------
    Surrogate
        It needs the age.
    """

    def onto(grad, v, age):
        """Overwrite v with ``grad * exp(-age) ** beta``."""
        return torch.neg(age, out=v).exp_().pow_(beta).mul_(grad)

    return Surrogate(scale=alpha, onto=onto, needs_age=True)


def new_age(drive: torch.Tensor) -> torch.Tensor:
    """Return the age of neurons that have never spiked.

    Parameters
    ----------
    drive : Tensor of shape (B, ...)
        Input current of the neurons, which gives shape, type and device.

    Returns
    -------
    Tensor of the same shape
        Infinity.
    """
    return torch.full_like(drive, math.inf)


def next_age(age: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
    """Return the timesteps since the last spike, as of the next timestep.

    Parameters
    ----------
    age : Tensor of shape (B, ...)
        Age in this timestep.
    spikes : Tensor of shape (B, ...)
        What the neurons send in this timestep.

    Returns
    -------
    Tensor of the same shape, in timesteps
        1 for neurons that have just spiked, otherwise one more than before.
    """
    age_after_spikes = torch.where(spikes > 0, 0.0, age)
    return age_after_spikes + 1
