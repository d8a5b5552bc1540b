"""Neurons whose threshold rises by 10 % at each spike.

Of the rise, 90 % remain after each timestep.

wfeedback ann --preset quick_feedback    # once: the ANN that it starts from
wfeedback snn --preset quick_feedback --run_name adaptive \
    --model examples/adaptive_threshold.py:AdaptiveSNN
"""

from typing import NamedTuple

import torch

from self_models.neurons.spiking import SpikingNeuron
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

RISE = 0.1  # what a spike adds to the threshold, as a share of the threshold at rest
KEPT = 0.9  # share of the rise that is left after a timestep


class AdaptiveState(NamedTuple):
    """State of a layer between timesteps.

    Attributes
    ----------
    v : Tensor of shape (B, ...)
        Membrane potential.
    risen : Tensor of shape (B, ...)
        By how much the threshold has risen, in thresholds at rest.
    """

    v: torch.Tensor
    risen: torch.Tensor


class AdaptiveNeuron(SpikingNeuron):
    """A spiking neuron whose threshold rises with its spikes and then falls again."""

    def at_rest(self, current: torch.Tensor) -> AdaptiveState:
        """Return the state before the first timestep, for a current (B, ...)."""
        v = super().at_rest(current).v
        return AdaptiveState(v, risen=torch.zeros_like(v))

    def forward(
        self, current: torch.Tensor, state: AdaptiveState | None = None
    ) -> tuple[torch.Tensor, AdaptiveState]:
        """Run one timestep.

        Parameters
        ----------
        current : Tensor of shape (B, ...)
            What arrives, as the layer's weights deliver it.
        state : AdaptiveState or None
            After the timestep before. None for neurons at rest.

        Returns
        -------
        spikes : Tensor of shape (B, ...)
            0 or 1.
        state : AdaptiveState
            After this timestep.
        """
        # With --precision bfloat16 it arrives rounded; the state is to stay in float32.
        current = current.to(self.threshold.dtype)
        if state is None:
            state = self.at_rest(current)
        theta = self.threshold * (1 + state.risen)
        spikes, v = self.update(current, self.floored(state.v), theta, self.leak, self.spike)
        risen = KEPT * state.risen + RISE * spikes
        return spikes, AdaptiveState(self.floored(v), risen)


class AdaptiveSNN(VGG_SNN_STDB_wFeedback):
    """The network, made of these neurons."""

    Neuron = AdaptiveNeuron
