"""Networks that block as a trained one does, but with something else in the decoder's place."""

import torch

from self_models.basics.errors import ModelError
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


class ControlSNN(InputBlockingSNN):
    """Input blocking with a decoder whose output may be replaced."""

    case = "decoder"

    def integrate(self, trace, decoded, view):
        if self.case == "ramp":
            looked = view.predicted.any() or not view.is_open.all()
            decoded = torch.full_like(decoded, 1e6 if looked else 0.0)  # limited to the slew
        elif self.case == "shuffled":
            if len(decoded) == 1:
                raise ModelError("shuffled: an image alone in its batch has no other's output: choose another --batch_size")
            decoded = decoded.roll(1, 0)
        return super().integrate(trace, decoded, view)


class RampSNN(ControlSNN):
    """The ramp from the first step of training on."""

    case = "ramp"
