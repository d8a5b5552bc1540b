"""Leaky integrate-and-fire neurons: pure steps, and the module that holds a layer's threshold and leak.

Three words are used for what happens in a step. Charge: the membrane potential V takes the drive W a[t]. Fire: s = H(v),
v = V/theta - 1, H(0) = 0. Reset: theta is subtracted from the membrane of a neuron that fired (soft reset).
"""

from typing import NamedTuple

import torch
from torch import nn

from self_models.errors import ModelError, choose
from self_models.surrogates import new_age, next_age


class NeuronState(NamedTuple):
    """State of one layer between steps. v: membrane potential (B, ...); age: steps since the last spike (B, ...) or
    None; count: spikes so far per image (B,)."""

    v: torch.Tensor
    age: torch.Tensor | None
    count: torch.Tensor


def delayed_step(drive, v, age, theta, leak, spike):
    """s[t] = H(V[t]/theta - 1);   V[t+1] = leak V[t] + drive[t] - theta s[t]

    Fire, then charge and reset: s[t] reads V before drive[t] arrives, so each layer delays by one step
    (Rathi et al., ICLR 2020). drive, v, s: (B, ...); theta in the unit of v; leak per step. The reset carries no gradient.
    """
    s = spike(v / theta - 1.0, age)
    return s, torch.addcmul(torch.addcmul(drive, v, leak), s.detach(), theta, value=-1)


def immediate_step(drive, v, age, theta, leak, spike):
    """V'[t] = leak V[t-1] + drive[t];   s[t] = H(V'[t]/theta - 1);   V[t] = V'[t] - theta s[t]

    Charge, then fire and reset, as in snnTorch, SpikingJelly and Norse: depth costs no steps.
    """
    v = torch.addcmul(drive, v, leak)
    s = spike(v / theta - 1.0, age)
    return s, torch.addcmul(v, s.detach(), theta, value=-1)


UPDATES = {"delayed": delayed_step, "immediate": immediate_step}


def count_events(signal):
    """Sum per image, (B, ...) -> (B,) float32: the number of spikes in {0, 1}; differentiable."""
    return signal.sum(tuple(range(1, signal.dim())), dtype=torch.float32)


class SpikingNeuron(nn.Module):
    """One layer of neurons with a common threshold and leak, both in the state_dict.

    forward(drive, state) -> (spikes, state): drive (B, ...) as the synapses deliver it, state a NeuronState or None for
    neurons at rest (V = 0).
    """

    def __init__(self, spike, update, threshold=1.0, leak=1.0, learn_threshold=False, learn_leak=False):
        super().__init__()
        self.spike = spike
        self.update = choose("update", update, UPDATES)
        if not 0 <= leak <= 1:
            raise ModelError(f"leak must be between 0 and 1 (1 = no leak), not {leak}")
        if not threshold > 0:
            raise ModelError(f"threshold must be above 0, not {threshold}")
        self.threshold = nn.Parameter(torch.tensor(float(threshold)), requires_grad=learn_threshold)
        self.leak = nn.Parameter(torch.tensor(float(leak)), requires_grad=learn_leak)

    def forward(self, drive, state=None):
        v, age, count = state or self.at_rest(drive)
        spikes, v = self.update(drive, v, age, self.threshold, self.leak, self.spike)
        if age is not None:
            age = next_age(age, spikes)
        return spikes, NeuronState(v, age, count + count_events(spikes))

    def at_rest(self, drive):
        age = new_age(drive) if getattr(self.spike, "needs_age", False) else None
        return NeuronState(torch.zeros_like(drive), age, drive.new_zeros(len(drive), dtype=torch.float32))

    @torch.no_grad()
    def clamp_dynamics(self):
        """Bring a learned threshold or leak back into its range after an optimiser step; what is not learned stays."""
        if self.threshold.requires_grad:
            self.threshold.clamp_(min=1e-2)
        if self.leak.requires_grad:
            self.leak.clamp_(0, 1)


class HeldDropout(nn.Module):
    """Dropout whose mask is drawn once per image and held for all steps. forward(signal, mask) -> (signal, mask)."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, signal, mask=None):
        if not self.training or self.p == 0:
            return signal, None
        if mask is None:
            mask = torch.empty_like(signal).bernoulli_(1 - self.p).div_(1 - self.p)
        return signal * mask, mask
