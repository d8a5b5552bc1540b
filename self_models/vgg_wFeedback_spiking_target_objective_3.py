"""Objective 3, implicit attention through contrast: what is not yet explained gains contrast."""

import torch

from self_models.errors import choose
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def original_contrast(image, is_open):
    """(z - min z) / (max z - min z + 1e-5), z = (open image - mean) / standard deviation, per image; blocked pixels at 0.

    image: (B, C, H, W); is_open: bool. The original's rule. An image that is 0 everywhere stays 0.
    """
    seen = image * is_open
    deviation = seen.std((1, 2, 3), keepdim=True)
    z = (seen - seen.mean((1, 2, 3), keepdim=True)) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    low, high = z.amin((1, 2, 3), keepdim=True), z.amax((1, 2, 3), keepdim=True)
    return (z - low) / (high - low + 1e-5)


CONTRASTS = {"original": original_contrast}


class ContrastAttentionSNN(InputBlockingSNN):
    """Input blocking, and before each step the image with blocked pixels at 0 is normalised again.

    contrast: name of the rule. Raises ModelError for an unknown rule, and as InputBlockingSNN does.
    """

    def __init__(self, *args, contrast="original", **kwargs):
        super().__init__(*args, **kwargs)
        self.contrast = choose("contrast", contrast, CONTRASTS)
        self.settings["contrast"] = contrast

    def start(self, x):
        run = super().start(x)
        run.view = run.view._replace(image=self.contrast(x, run.view.is_open))
        return run

    def look(self, image, guess, view):
        view = super().look(image, guess, view)
        return view._replace(image=self.contrast(image, view.is_open))
