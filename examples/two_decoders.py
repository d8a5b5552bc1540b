"""A second decoder, which reads the encoder's first spiking layer.

The prediction is the mean of both decoders' predictions.

wfeedback ann --preset quick_feedback    # once: the ANN that it starts from
wfeedback snn --preset quick_feedback --run_name two_decoders \
    --model examples/two_decoders.py:TwoDecoders
"""

import torch
from torch import nn

from self_models.running.state import RunState
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


class TwoDecoders(VGG_SNN_STDB_wFeedback):
    """The network with a second decoder, `generate2`."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        first_convolution = self.features[0]
        image_channels = self.image_shape[0]
        self.generate2 = nn.Sequential(
            nn.ConvTranspose2d(
                first_convolution.out_channels, image_channels, 3, padding=1, bias=False
            )
        )
        if self.readout.spiking:
            self.generate2.append(self.new_neuron("generate2"))

    def read_out_and_gate(
        self, run: RunState, decoded: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Run the second decoder, then end the timestep as without it.

        Parameters
        ----------
        run : RunState
            It is changed.
        decoded : Tensor of shape (B, C, H, W) or None
            Output of the first decoder. None for an architecture without a decoder.

        Returns
        -------
        dict of {str: Tensor of shape (B, ...)}
            As of the method that this overrides.
        """
        if self.has_feedback:
            first_layer_spikes = run.spikes["features.1"]
            decoded2 = self.through(run, "generate2", first_layer_spikes)
            # What `run.memory` holds is kept between timesteps, and by streams.
            run.memory["generate2"] = self.integrate(self.second_sum(run), decoded2, run.view)
        return super().read_out_and_gate(run, decoded)

    def prediction(self, run: RunState) -> torch.Tensor | float:
        """Return the mean of both decoders' predictions, (B, C, H, W)."""
        first = super().prediction(run)
        second = self.readout.prediction(self.second_sum(run))
        return (first + second) / 2

    def second_sum(self, run: RunState) -> torch.Tensor:
        """Return what the second decoder has sent so far, (B, C, H, W)."""
        return run.memory.get("generate2", torch.zeros_like(run.readout_sum))
