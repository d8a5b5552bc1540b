"""A gate that blocks a pixel only if its neighbours are predicted, too: edges stay open longer.

wfeedback ann --preset quick_feedback    # once: the ANN that it starts from
wfeedback snn --preset quick_feedback --model examples/neighbours.py --gate neighbours --run_name neighbours
"""

from dataclasses import dataclass

import torch.nn.functional as F

from self_models.basics.settings import WHOLE, objective_setting
from self_models.objectives.gates import GATES, Blocking


@GATES.register("neighbours")
@dataclass
class Neighbours(Blocking):
    """As `block`, but a pixel counts as predicted only where all pixels around it are, as far as the image goes."""

    around: int = objective_setting(
        1, WHOLE, "neighbours: how far around a pixel all others must be predicted", group="gate"
    )
    stays_in_evaluation = True  # networks trained with this gate are evaluated with it

    def is_predicted(self, image, prediction):
        missed = 1.0 - super().is_predicted(image, prediction).float()  # (B, C, H, W)
        return F.max_pool2d(missed, 2 * self.around + 1, stride=1, padding=self.around) == 0
