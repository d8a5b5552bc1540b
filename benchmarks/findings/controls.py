"""What could stand in the decoder's place, classes for --model: a ramp, and the decoder's output for another image."""

import torch

from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


class RampSNN(InputBlockingSNN):
    """After the first timestep the prediction of each open pixel rises by the slew limit."""

    def integrate(self, readout_sum, decoded, view):
        looked = view.predicted.any() or not view.is_open.all()
        return super().integrate(
            readout_sum, torch.full_like(decoded, 1e6 if looked else 0.0), view
        )


class OtherImageSNN(InputBlockingSNN):
    """Each image gets the decoder's output for the image before it in the batch, so a batch needs two or more."""

    def integrate(self, readout_sum, decoded, view):
        return super().integrate(readout_sum, decoded.roll(1, 0), view)
