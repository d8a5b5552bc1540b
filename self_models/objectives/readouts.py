"""Read-outs: how the output of the decoder's last layer becomes a prediction of the image.

That layer's output summed over the steps so far is readout_sum, (B, C, H, W): its spike count if it spikes, else its membrane
potential. prediction(readout_sum) is compared with the image in the loss, on_pixel_scale(prediction) by a gate. Grey images lie
in [0, 1], colour images in [-1, 1]; `colour` says which."""

from dataclasses import dataclass

import torch

from self_models.basics.settings import FRACTION, NOT_NEGATIVE, Registry, setting

READOUTS = Registry("readout")


@dataclass
class Readout:
    """integrate: the sum and the decoder's output -> the sum one step later. spiking: whether the decoder's last layer spikes."""

    readout_leak: float = setting(
        1.0, FRACTION, "fraction of the read-out kept per timestep", group="spiking"
    )
    readout_slew: float = setting(
        0.0,
        NOT_NEGATIVE,
        "largest change of the read-out per timestep; 0: no limit",
        group="spiking",
        common=True,
    )
    spiking = False
    tanh, sigmoid = staticmethod(torch.tanh), staticmethod(torch.sigmoid)

    def integrate(self, readout_sum, decoded):
        """sum <- leak sum + d; a slew s > 0 limits each move: d = s tanh(decoded / s). With membrane_linear and s < 2 epsilon
        no prediction can jump over its pixel's tolerance band."""
        if self.readout_slew:
            decoded = self.readout_slew * self.tanh(decoded / self.readout_slew)
        return self.readout_leak * readout_sum + decoded

    def prediction(self, readout_sum):
        return self.tanh(readout_sum) if self.colour else self.sigmoid(readout_sum)

    def on_pixel_scale(self, prediction):
        return prediction


READOUTS.base = Readout


@READOUTS.register("spike_count")
class SpikeCount(Readout):
    """The original: p = sigmoid(R) lies in [0.5, 1), so blocking stretches it back, 2p - 1, but the loss does not."""

    spiking = True

    def on_pixel_scale(self, prediction):
        return prediction if self.colour else 2 * prediction - 1


class Rescaled(Readout):
    """p = 2 sigmoid(sum) - 1 for grey images, in loss and blocking alike."""

    def prediction(self, readout_sum):
        return self.tanh(readout_sum) if self.colour else 2 * self.sigmoid(readout_sum) - 1


@READOUTS.register("spike_count_rescaled")
class SpikeCountRescaled(Rescaled):
    spiking = True


@READOUTS.register("membrane")
class Membrane(Readout):
    """The last layer integrates without spiking; p = sigmoid(V), tanh(V) in colour."""


@READOUTS.register("membrane_linear")
class MembraneLinear(Readout):
    """p = V; a gate sees it clamped to the image's range."""

    def prediction(self, readout_sum):
        return readout_sum

    def on_pixel_scale(self, prediction):
        return prediction.clamp(-1 if self.colour else 0, 1)


@READOUTS.register("membrane_rescaled")
class MembraneRescaled(Rescaled):
    pass
