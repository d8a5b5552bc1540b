"""A loss that penalises changing predictions. Logs and records have its unweighted value, variance_loss.

wfeedback ann --preset quick_feedback    # once: the ANN that it starts from
wfeedback snn --model examples/prediction_variance.py --preset quick_feedback --variance_weight 0.01 --run_name steady
"""

from dataclasses import dataclass

from harness.training.losses import LOSSES, Loss
from self_models.basics.settings import COUNT, setting


@LOSSES.register("variance")
@dataclass
class PredictionVariance(Loss):
    """The variance of each pixel's prediction over the last timesteps, summed over an image's pixels, mean over images."""

    steps: int = setting(4, COUNT, "over so many of the last steps", metavar="N")
    needs_frames = True

    def value(self, output, images, labels):
        return output.predictions[-self.steps :].var(0, correction=0).sum((1, 2, 3)).mean()
