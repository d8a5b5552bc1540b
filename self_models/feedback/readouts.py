"""Read-outs: how the decoder's output becomes a prediction of the image.

The output of that layer, summed over the timesteps so far, is ``readout_sum``. It is a
spike count if the layer spikes, and otherwise the layer's membrane potential. Grey
images lie in [0, 1], colour images in [-1, 1]. The network sets the attribute
``colour`` of its read-out to say which.

In this file ``B`` is the number of images, and ``(C, H, W)`` the shape of an image.
"""

from dataclasses import dataclass

import torch

from self_models.settings import FRACTION, NOT_NEGATIVE, Registry, setting

READOUTS = Registry("readout")


@dataclass
class Readout:
    """Base class: the decoder's last layer integrates without spiking.

    Attributes
    ----------
    readout_leak : float, 0 to 1
        Fraction of ``readout_sum`` that is kept per timestep; 1 means no leak.
    readout_slew : float, >= 0
        Largest change of ``readout_sum`` per timestep; 0 means no limit.
    spiking : bool
        Whether the decoder's last layer spikes.
    colour : bool
        Whether images have three channels, in [-1, 1]. Set by the network.
    """

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
    # Attributes, so that a network may compute with functions that round otherwise.
    tanh = staticmethod(torch.tanh)
    sigmoid = staticmethod(torch.sigmoid)

    def integrate(self, readout_sum: torch.Tensor | float, decoded: torch.Tensor) -> torch.Tensor:
        """Add the decoder's output of one timestep: ``sum <- leak * sum + change``.

        ``change`` is ``decoded``. A slew ``s > 0`` limits it to ``s * tanh(decoded /
        s)``, which lies between -s and s. With the read-out ``membrane_linear``, no
        leak, and ``s < 2 epsilon`` a prediction cannot jump over the band of ±epsilon
        around its pixel.

        Parameters
        ----------
        readout_sum : Tensor of shape (B, C, H, W), or 0 before the first timestep
            The sum over the timesteps so far.
        decoded : Tensor of shape (B, C, H, W)
            Output of the decoder's last layer in this timestep.

        Returns
        -------
        Tensor of shape (B, C, H, W)
            The sum after this timestep.
        """
        change = decoded
        if self.readout_slew:
            change = self.readout_slew * self.tanh(decoded / self.readout_slew)
        return self.readout_leak * readout_sum + change

    def prediction(self, readout_sum: torch.Tensor) -> torch.Tensor:
        """Return the prediction of the image, which the loss compares with it.

        Parameters
        ----------
        readout_sum : Tensor of shape (..., B, C, H, W)
            The decoder's output, summed over timesteps.

        Returns
        -------
        Tensor of the same shape
            The prediction.
        """
        if self.colour:
            return self.tanh(readout_sum)
        return self.sigmoid(readout_sum)

    def on_pixel_scale(self, prediction: torch.Tensor) -> torch.Tensor:
        """Map the prediction to the scale of the image. A gate compares the result.

        Parameters
        ----------
        prediction : Tensor of shape (..., B, C, H, W)
            What `prediction` has returned.

        Returns
        -------
        Tensor of the same shape
            The prediction on the scale of the image.
        """
        return prediction


READOUTS.base = Readout


@READOUTS.register("spike_count")
class SpikeCount(Readout):
    """The original's read-out: the last layer spikes, and ``p = sigmoid(spike count)``.

    A sigmoid of a count lies in [0.5, 1). So the gate stretches it back to [0, 1) by
    ``2p - 1``, but the loss does not.
    """

    spiking = True

    def on_pixel_scale(self, prediction: torch.Tensor) -> torch.Tensor:
        """Map [0.5, 1) to [0, 1) for grey images; see `Readout.on_pixel_scale`."""
        if self.colour:
            return prediction
        return 2 * prediction - 1


class Rescaled(Readout):
    """A prediction of grey images in [0, 1), for the loss and the gate alike."""

    def prediction(self, readout_sum: torch.Tensor) -> torch.Tensor:
        """Return ``2 sigmoid(sum) - 1``, in colour ``tanh(sum)``."""
        if self.colour:
            return self.tanh(readout_sum)
        return 2 * self.sigmoid(readout_sum) - 1


@READOUTS.register("spike_count_rescaled")
class SpikeCountRescaled(Rescaled):
    """The last layer spikes, and ``p = 2 sigmoid(spike count) - 1``."""

    spiking = True


@READOUTS.register("membrane")
class Membrane(Readout):
    """The last layer integrates: ``p = sigmoid(V)``, in colour ``tanh(V)``."""


@READOUTS.register("membrane_linear")
class MembraneLinear(Readout):
    """The last layer integrates: ``p = V``."""

    def prediction(self, readout_sum: torch.Tensor) -> torch.Tensor:
        """Return the membrane potential itself; see `Readout.prediction`."""
        return readout_sum

    def on_pixel_scale(self, prediction: torch.Tensor) -> torch.Tensor:
        """Clamp the prediction to the range of images; see `Readout.on_pixel_scale`."""
        black = -1 if self.colour else 0
        return prediction.clamp(black, 1)


@READOUTS.register("membrane_rescaled")
class MembraneRescaled(Rescaled):
    """The last layer integrates: ``p = 2 sigmoid(V) - 1``, in colour ``tanh(V)``."""
