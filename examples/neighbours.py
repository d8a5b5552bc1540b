"""A gate that blocks a pixel only if its neighbours are predicted, too.

So the pixels at edges stay open longer.

wfeedback ann --preset quick_feedback    # once: the ANN that it starts from
wfeedback snn --preset quick_feedback --run_name neighbours \
    --model examples/neighbours.py --gate neighbours
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from self_models.feedback.gates import GATES, Blocking
from self_models.settings import WHOLE, objective_setting


@GATES.register("neighbours")
@dataclass
class Neighbours(Blocking):
    """The gate `block`, where all pixels around a predicted one must be predicted.

    At the image's border, only those that lie in the image count.

    Attributes
    ----------
    around : int, 0 or more
        How many pixels far the neighbourhood goes, in each direction. The flag
        ``--around`` sets it. 0: as `block`.
    """

    around: int = objective_setting(
        1, WHOLE, "neighbours: how far around a pixel all others must be predicted", group="gate"
    )
    stays_in_evaluation = True  # networks trained with this gate are evaluated with it

    def is_predicted(self, image: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """Return where a pixel and all of its neighbours are predicted.

        Parameters
        ----------
        image, prediction : Tensor of shape (B, C, H, W)

        Returns
        -------
        Tensor of shape (B, C, H, W), bool
        """
        missed = 1.0 - super().is_predicted(image, prediction).float()
        # The maximum over a window is 0 only if none of its pixels is missed. Padding
        # never is the maximum, so pixels beyond the border have no say.
        window = 2 * self.around + 1
        any_missed = F.max_pool2d(missed, window, stride=1, padding=self.around)
        return any_missed == 0
