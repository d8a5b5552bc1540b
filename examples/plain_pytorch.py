"""Run what `wfeedback export NETWORK --to torch` writes.

It needs nothing but PyTorch: copy this file.
"""

import torch
from torch import nn


class Neuron(nn.Module):
    """Spiking neurons that charge, fire above the threshold, and subtract it.

    Parameters
    ----------
    threshold : float
        In the unit of the input current.
    leak : float, 0 to 1
        Share of the membrane potential that a timestep keeps; 1: no leak.
    start : float
        Membrane potential before the first timestep.
    """

    def __init__(self, threshold: float, leak: float, start: float):
        super().__init__()
        self.threshold = threshold
        self.leak = leak
        self.v = start

    def forward(self, drive: torch.Tensor) -> torch.Tensor:
        """Run one timestep, and return the spikes, 0 or 1."""
        v = self.leak * self.v + drive
        spikes = (v > self.threshold).float()
        self.v = v - self.threshold * spikes
        return spikes


class CountingMaxPool(nn.MaxPool2d):
    """A maximum pool of spike counts.

    A spike passes where the highest count in a window rises.
    """

    counts = torch.zeros(1, 1, 1, 1)  # spikes so far; after a timestep (B, C, H, W)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Run one timestep, and return the spikes that pass, 0 or 1."""
        counts_before = self.counts.expand_as(spikes)
        self.counts = self.counts + spikes
        return super().forward(self.counts) - super().forward(counts_before)


class PhasedNeuron(nn.Module):
    """Neurons that charge for T timesteps, and spike in the next T (update phased).

    Parameters
    ----------
    threshold : float
        In the unit of the input current.
    start : float
        Membrane potential before the first timestep.
    timesteps : int
        T.
    """

    def __init__(self, threshold: float, start: float, timesteps: int):
        super().__init__()
        self.threshold = threshold
        self.start = start
        self.timesteps = timesteps

    def forward(self, drive: torch.Tensor) -> torch.Tensor:
        """Return how many spikes follow from the sum of all that arrives, 0 to T."""
        v = self.start + drive
        return (v / self.threshold - 1).ceil().clamp(0, self.timesteps)


OWN_LAYERS = {
    "Neuron": Neuron,
    "CountingMaxPool": CountingMaxPool,
    "PhasedNeuron": PhasedNeuron,
}


def rebuild(path: str) -> nn.Sequential:
    """Rebuild the network of an exported file.

    The network keeps its state from one run to the next: rebuild it for other images.

    Parameters
    ----------
    path : str
        What the export has written.

    Returns
    -------
    nn.Sequential
        The network at rest. Its attribute `phased` says whether the layers pass spike
        counts, instead of one timestep's spikes.
    """
    saved = torch.load(path, weights_only=True)
    layers = []
    for kind, arguments in saved["layers"]:
        layer_class = OWN_LAYERS.get(kind) or getattr(nn, kind)
        layers.append(layer_class(**arguments))
    network = nn.Sequential(*layers)
    network.load_state_dict(saved["state_dict"])
    network.phased = saved["update"] == "phased"
    return network


def run(network: nn.Sequential, input_spikes: torch.Tensor) -> torch.Tensor:
    """Run a network that `rebuild` has returned.

    Parameters
    ----------
    network : nn.Sequential
        The network.
    input_spikes : Tensor of shape (T, B, C, H, W)
        Spikes of the input in each timestep.

    Returns
    -------
    Tensor of shape (B, labels)
        The logits.
    """
    if network.phased:  # its layers take the spike counts of all timesteps at once
        return network(input_spikes.sum(0))
    logits = 0
    for spikes in input_spikes:
        logits = logits + network(spikes)
    return logits
