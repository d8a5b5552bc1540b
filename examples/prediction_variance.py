"""A loss that penalises changing predictions.

Logs and records have its value before the weight, as variance_loss.

wfeedback ann --preset quick_feedback    # once: the ANN that it starts from
wfeedback snn --preset quick_feedback --run_name steady \
    --model examples/prediction_variance.py --variance_weight 0.01
"""

from dataclasses import dataclass

import torch

from self_models.running.outputs import SNNOutput
from self_models.settings import COUNT, setting
from wfeedback.training.losses import LOSSES, Loss


@LOSSES.register("variance")
@dataclass
class PredictionVariance(Loss):
    """Variance of each pixel's prediction over the last timesteps.

    Attributes
    ----------
    weight : float, 0 or more
        Weight in the total loss, which `Loss` declares. The flag ``--variance_weight``
        sets it.
    steps : int, 1 or more
        How many of the last timesteps count. The flag ``--variance_steps`` sets it.
    """

    steps: int = setting(4, COUNT, "over so many of the last steps", metavar="N")
    needs_frames = True  # it looks at predictions, which are not kept otherwise

    def value(self, output: SNNOutput, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the variance, summed over an image's pixels, as the mean over images.

        Parameters
        ----------
        output : SNNOutput
            With predictions of shape (T, B, C, H, W).
        images : Tensor of shape (B, C, H, W)
            Not needed here, as are the labels.
        labels : Tensor of shape (B,)

        Returns
        -------
        Tensor of shape ()
        """
        last_predictions = output.predictions[-self.steps :]
        variance_per_pixel = last_predictions.var(0, correction=0)  # (B, C, H, W)
        return variance_per_pixel.sum((1, 2, 3)).mean()
