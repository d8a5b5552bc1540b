"""Neurons that charge in one phase, and fire in the next."""

from typing import NamedTuple

import torch

from self_models.layers.neurons import SpikingNeuron


def phased(current, v, theta, leak, spike, turn):
    """turn < 0: V += I[t];   turn 0: s[t] = H(V/theta - 1), V -= theta s[t];   turn > 0: neither.

    turn: phases since the one in which the layer fires, as in engines/event/c/network.c. A layer charges for T steps (turn -1),
    while the one before it fires, and then fires for T (turn 0). With V = V0 + sum of I at the end of its charging phase it
    sends n = clip(ceil(V/theta) - 1, 0, T) spikes, at V = n theta exactly one fewer than n: a quantised activation of T levels
    (QCFS, Bu et al., ICLR 2022) as spikes. What is left of V is dropped. Nothing leaks. Returns (s, V)."""
    spikes = torch.zeros_like(v)
    if turn < 0:
        v = v + current
    elif turn == 0:
        spikes = spike(v, theta)
        v = v - theta * spikes.detach()
    return spikes, v


class PhasedState(NamedTuple):
    """v: membrane potential (B, ...); step: of the run; quiet: what arrives while nothing is sent, (B, ...), or None where
    nothing arrives before the phase in which the neuron charges."""

    v: torch.Tensor
    step: int = 0
    quiet: torch.Tensor | None = None


class PhasedNeuron(SpikingNeuron):
    """The same with the update phased: of phases of `steps` steps each, from 0 on, it fires in number `fires_in`, its depth in
    the graph, and charges in the one before; until then by what spikes bring over skip connections alone, without biases."""

    fires_in, steps = 1, 1  # a network's timing sets them
    charges_first = True

    def at_rest(self, current):
        return PhasedState(super().at_rest(current).v)

    def forward(self, current, state=None):
        current = current.to(self.threshold.dtype)
        v, step, quiet = state or self.at_rest(current)
        turn = step // self.steps - self.fires_in
        if turn < -1:
            current = torch.zeros_like(v) if quiet is None else current - quiet
        spikes, v = self.update(current, v, self.threshold, self.leak, self.spike, turn)
        return spikes, PhasedState(v, step + 1, quiet)

    def fired(self, drive, steps):
        """The spikes (steps B, ...) of a layer that has got this drive (B, ...) in all, as the network's step says."""
        drive = drive.to(self.threshold.dtype)  # float32 where matrix products are bfloat16
        own, spikes = (self.threshold, self.leak, self.spike), []
        _, v = self.update(drive, self.at_rest(drive).v, *own, turn=-1)
        for _ in range(steps):
            now, v = self.update(drive, v, *own, turn=0)
            spikes.append(now)
        return torch.cat(spikes)
