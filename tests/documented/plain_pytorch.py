"""Run what `wfeedback export NETWORK --to torch` writes. Needs PyTorch only: copy this file."""

import torch
from torch import nn


class Neuron(nn.Module):
    """Charge, fire above the threshold, subtract it."""

    def __init__(self, threshold, leak, start):
        super().__init__()
        self.threshold, self.leak, self.v = threshold, leak, start

    def forward(self, drive):
        v = self.leak * self.v + drive
        spikes = (v > self.threshold).float()
        self.v = v - self.threshold * spikes
        return spikes


class CountingMaxPool(nn.MaxPool2d):
    """Pass a spike where the highest spike count of a window rises."""

    counts = torch.zeros(1, 1, 1, 1)

    def forward(self, spikes):
        before, self.counts = self.counts.expand_as(spikes), self.counts + spikes
        return super().forward(self.counts) - super().forward(before)


class PhasedNeuron(nn.Module):
    """How often a neuron spikes in T timesteps after it has charged for T (update phased)."""

    def __init__(self, threshold, start, timesteps):
        super().__init__()
        self.threshold, self.start, self.timesteps = threshold, start, timesteps

    def forward(self, drive):
        return ((self.start + drive) / self.threshold - 1).ceil().clamp(0, self.timesteps)


def rebuild(path):
    """The network of a file, at rest. It keeps its state from run to run: rebuild it for other images."""
    saved = torch.load(path, weights_only=True)
    layers = [(globals().get(kind) or getattr(nn, kind))(**own) for kind, own in saved["layers"]]
    network = nn.Sequential(*layers)
    network.load_state_dict(saved["state_dict"])
    network.phased = saved["update"] == "phased"
    return network


def run(network, input_spikes):
    """Logits (B, labels) for input spikes (T, B, C, H, W). The layers of a phased network pass spike counts."""
    return sum(
        network(spikes)
        for spikes in (input_spikes.sum(0, keepdim=True) if network.phased else input_spikes)
    )
