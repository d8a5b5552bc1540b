"""Spike functions: a step forward, a surrogate gradient backward.

s = H(v), H(0) = 0: a neuron exactly at its threshold does not spike. v = V/theta - 1 is the membrane potential's distance
from the threshold, in thresholds. `age` is the time since the neuron's last spike, in steps.
"""

import math

import torch

from self_models.errors import choose


class LinearSurrogate(torch.autograd.Function):
    """ds/dv = gamma * max(0, 1 - |v|)   (piecewise linear, as in Bellec et al., NeurIPS 2018)."""

    @staticmethod
    def forward(ctx, v, gamma):
        ctx.save_for_backward(v)
        ctx.gamma = gamma
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return grad * (1 - v.abs()).clamp_(min=0).mul_(ctx.gamma), None


class STDBSurrogate(torch.autograd.Function):
    """ds/dv = alpha * exp(-age)^beta   (spike-time dependent, as in Rathi et al., ICLR 2020).

    A neuron that has never spiked has age infinity and gradient 0. In float32 exp(-age) underflows to 0 beyond an age of
    about 103 steps, in the original as here.
    """

    @staticmethod
    def forward(ctx, v, age, alpha, beta):
        ctx.save_for_backward(age)
        ctx.alpha, ctx.beta = alpha, beta
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx, grad):
        (age,) = ctx.saved_tensors
        return grad * ctx.alpha * torch.exp(-age) ** ctx.beta, None, None, None


def linear(alpha, beta):
    """Spike function with the Linear surrogate; gamma is the original's 0.3, alpha and beta are STDB's."""
    return lambda v, age: LinearSurrogate.apply(v, 0.3)


def stdb(alpha, beta):
    """Spike function with the STDB surrogate: alpha scales it, beta sets how fast it fades with age."""
    spike = lambda v, age: STDBSurrogate.apply(v, age, alpha, beta)  # noqa: E731
    spike.needs_age = True
    return spike


SURROGATES = {"Linear": linear, "STDB": stdb}


def make_spike_function(activation, alpha, beta):
    """A function (v, age) -> spikes for the named surrogate. Raises ModelError for an unknown name."""
    return choose("activation", activation, SURROGATES)(alpha, beta)


def new_age(drive):
    """Age of neurons that have never spiked: infinite, in steps, shaped like drive."""
    return torch.full_like(drive, math.inf)


def next_age(age, spikes):
    """One step later: 1 where the neuron has just spiked, else one more than before."""
    return torch.where(spikes > 0, 0.0, age) + 1
