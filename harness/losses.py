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


def classification_term(logits, labels, weights):
    """logits after each step (T, B, labels), weights (T,) -> weighted mean over the steps of their cross-entropies."""
    per_step = torch.stack([F.cross_entropy(so_far, labels) for so_far in logits])
    return weights @ per_step / weights.sum()


def losses_of(output, labels, trade_off, kind, spike_penalty=0.0, classification_kind="last_t"):
    """Losses of an ANNOutput (kind 'sum') or SNNOutput; total = classification + trade_off reconstruction + penalty.

    kind, classification_kind: see step_weights; the second holds in training, an evaluation judges the last output."""
    by_step = getattr(output, "logits_by_step", None)
    if by_step is None or classification_kind == "last_t":
        classification = F.cross_entropy(output.logits, labels)
    else:
        classification = classification_term(by_step, labels, step_weights(classification_kind, len(by_step), labels.device))
    reconstruction = penalty = torch.zeros_like(classification)
    errors = errors_by_step(output)
    if errors is not None:
        reconstruction = reconstruction_term(errors, step_weights(kind, len(errors), errors.device))
    if spike_penalty:
        penalty = spike_penalty * total_spikes(output.spikes).mean()
    return Losses(classification, reconstruction, penalty, classification + trade_off * reconstruction + penalty)
