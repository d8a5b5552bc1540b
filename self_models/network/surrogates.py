"""Surrogate gradients: what the backward pass takes for the slope of the spike function s = H(v), H(0) = 0.

v = V/theta - 1 is the membrane potential's distance from the threshold, in thresholds: a neuron exactly at its threshold does
not spike. `age` is the time since the neuron's last spike, in steps.
"""

import math
from typing import NamedTuple

import torch

from self_models.basics.settings import Registry

SURROGATES = Registry("activation")  # name -> function (alpha, beta) that returns a Surrogate
GAMMA = 0.3  # of the Linear surrogate, the original's


class Surrogate(NamedTuple):
    """ds/dv = scale * shape(v, age). onto(grad, v, age) -> grad * shape(v, age), and may write into v; needs_age: else age is
    None."""

    scale: float
    onto: callable
    needs_age: bool = False


def _onto_triangle(grad, v, age):
    return torch.addcmul(grad, v.abs_().clamp_(max=1), grad, value=-1, out=v)


@SURROGATES.register("Linear")
def linear(alpha, beta):
    """ds/dv = gamma * max(0, 1 - |v|)   (piecewise linear, as in Bellec et al., NeurIPS 2018), without alpha and beta."""
    return Surrogate(GAMMA, _onto_triangle)


@SURROGATES.register("Triangle")
def triangle(alpha, beta):
    """ds/dv = max(0, 1 - |v|)   (Esser et al., PNAS 2016), without alpha and beta.

    Linear without its factor, which a gradient meets once in every layer: behind five of them the classification loss speaks
    to the first layer with 0.002 of its voice, while a penalty on that layer's own spikes has 0.3."""
    return Surrogate(1.0, _onto_triangle)


@SURROGATES.register("STDB")
def stdb(alpha, beta):
    """ds/dv = alpha * exp(-age)^beta   (spike-time dependent, as in Rathi et al., ICLR 2020).

    A neuron that has never spiked has age infinity and gradient 0. In float32 exp(-age) underflows to 0 beyond an age of
    about 103 steps, in the original as here."""
    return Surrogate(
        alpha, lambda grad, v, age: torch.neg(age, out=v).exp_().pow_(beta).mul_(grad), True
    )


def new_age(drive):
    """Age of neurons that have never spiked: infinite, in steps, shaped like drive."""
    return torch.full_like(drive, math.inf)


def next_age(age, spikes):
    """One step later: 1 where the neuron has just spiked, else one more than before."""
    return torch.where(spikes > 0, 0.0, age) + 1
