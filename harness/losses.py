"""Loss terms, the same in training and evaluation."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from harness.spikes import total_spikes
from self_models.outputs import errors_by_step


class Losses(NamedTuple):
    """Scalars: classification (cross-entropy), reconstruction (before trade_off), penalty (after its weight), total."""

    classification: torch.Tensor
    reconstruction: torch.Tensor
    penalty: torch.Tensor
    total: torch.Tensor


def step_weights(kind, timesteps, device=None):
    """Weight of each step's error (T,): last_t (only the last), linear_over_t (t/T/T, t = 1..T), mean_t (1/T each) or sum
    (1 each)."""
    t = torch.arange(1, timesteps + 1, device=device)
    if kind == "last_t":
        return (t == timesteps).float()
    if kind == "linear_over_t":
        return t / timesteps**2
    return torch.full((timesteps,), 1 / timesteps if kind == "mean_t" else 1.0, device=device)


TRADE_OFF_TYPES = ("last_t", "linear_over_t", "mean_t")


def reconstruction_term(errors, weights):
    """errors (T, B), summed over pixels; weights (T,) -> weighted squared error per image."""
    return weights @ errors.mean(1)


def losses_of(output, labels, trade_off, kind, spike_penalty=0.0):
    """Losses of an ANNOutput (kind 'sum') or SNNOutput; total = classification + trade_off reconstruction + penalty."""
    classification = F.cross_entropy(output.logits, labels)
    reconstruction = penalty = torch.zeros_like(classification)
    errors = errors_by_step(output)
    if errors is not None:
        reconstruction = reconstruction_term(errors, step_weights(kind, len(errors), errors.device))
    if spike_penalty:
        penalty = spike_penalty * total_spikes(output.spikes).mean()
    return Losses(classification, reconstruction, penalty, classification + trade_off * reconstruction + penalty)
