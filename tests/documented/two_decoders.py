"""A second decoder, which reads the encoder's first spiking layer; the prediction is the mean of both.

wfeedback ann --preset quick_feedback    # once: the ANN that it starts from
wfeedback snn --preset quick_feedback --model examples/two_decoders.py:TwoDecoders --run_name two_decoders
"""

import torch
from torch import nn

from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


class TwoDecoders(VGG_SNN_STDB_wFeedback):
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        first, channels = self.features[0], self.image_shape[0]
        self.generate2 = nn.Sequential(
            nn.ConvTranspose2d(first.out_channels, channels, 3, padding=1, bias=False)
        )
        if self.readout.spiking:
            self.generate2.append(self.new_neuron("generate2"))

    def read_out_and_gate(self, run, decoded):
        if self.has_feedback:
            sent = self.through(run, "generate2", run.spikes["features.1"])
            run.memory["generate2"] = self.integrate(self.of_second(run), sent, run.view)
        return super().read_out_and_gate(run, decoded)

    def prediction(self, run):
        return (super().prediction(run) + self.readout.prediction(self.of_second(run))) / 2

    def of_second(self, run):
        """What the second decoder has sent so far, (B, C, H, W)."""
        return run.memory.get("generate2", torch.zeros_like(run.readout_sum))
