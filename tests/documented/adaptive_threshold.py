"""Neurons whose threshold rises by 10 % at each spike; of the rise, 90 % remain after each timestep.

wfeedback ann --preset quick_feedback    # once: the ANN that it starts from
wfeedback snn --preset quick_feedback --model examples/adaptive_threshold.py:AdaptiveSNN --run_name adaptive
"""

from typing import NamedTuple

import torch

from self_models.network.neurons import SpikingNeuron
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

RISE, KEPT = 0.1, 0.9


class Adapted(NamedTuple):
    """v: membrane potential (B, ...); risen: by how many thresholds the threshold has risen (B, ...)."""

    v: torch.Tensor
    risen: torch.Tensor


class AdaptiveNeuron(SpikingNeuron):
    def at_rest(self, current):
        v = super().at_rest(current).v
        return Adapted(v, torch.zeros_like(v))

    def forward(self, current, state=None):
        v, risen = state or self.at_rest(current)
        theta = self.threshold * (1 + risen)
        spikes, v = self.update(current, self.floored(v), theta, self.leak, self.spike)
        return spikes, Adapted(self.floored(v), KEPT * risen + RISE * spikes)


class AdaptiveSNN(VGG_SNN_STDB_wFeedback):
    Neuron = AdaptiveNeuron
