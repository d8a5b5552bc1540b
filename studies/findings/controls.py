"""What could stand in the decoder's place, as classes for --model.

A ramp, and the decoder's output for another image.
"""

import torch

from self_models.feedback.gates import View
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


class RampSNN(InputBlockingSNN):
    """A network whose predictions rise blindly.

    After the first timestep, the prediction of each open pixel rises by the slew limit.
    """

    def integrate(
        self, readout_sum: torch.Tensor | int, decoded: torch.Tensor, view: View
    ) -> torch.Tensor:
        """Return the read-out's sum after a blind step, (B, C, H, W)."""
        is_first_timestep = view.is_open.all() and not view.predicted.any()
        step = 0.0 if is_first_timestep else 1e6  # far above any slew limit, which cuts it
        return super().integrate(readout_sum, torch.full_like(decoded, step), view)


class OtherImageSNN(InputBlockingSNN):
    """A network in which each image gets another image's prediction.

    That of the image before it in the batch, so a batch needs two images or more.
    """

    def integrate(
        self, readout_sum: torch.Tensor | int, decoded: torch.Tensor, view: View
    ) -> torch.Tensor:
        """Return the read-out's sum with the other image's output, (B, C, H, W)."""
        return super().integrate(readout_sum, decoded.roll(1, 0), view)
