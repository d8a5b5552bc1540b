"""Objective 1, input blocking: an input neuron whose pixel is predicted within epsilon stops spiking."""

import torch

from self_models.errors import ModelError
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback, View


class InputBlockingSNN(VGG_SNN_STDB_wFeedback):
    """The SNN with blocked input: a pixel with |guess - x| < epsilon is predicted; its input is 0 in all later steps.

    epsilon: on the image's scale, at least 0; 0 blocks nothing. Raises ModelError for a plan without feedback.
    """

    def __init__(self, *args, epsilon=0.1, **kwargs):
        super().__init__(*args, **kwargs)
        if not epsilon >= 0:
            raise ModelError(f"epsilon must be at least 0, not {epsilon}")
        if not self.has_feedback:
            raise ModelError("input blocking needs a plan with feedback (a decoder): choose one named ..._wFeedback")
        self.epsilon = epsilon
        self.settings["epsilon"] = epsilon

    def start(self, x):
        run = super().start(x)
        run.view = View(x, is_open=torch.ones_like(x, dtype=torch.bool))
        return run

    def look(self, image, guess, view):
        predicted = (guess - image).abs() < self.epsilon
        is_open = view.is_open & ~predicted  # once closed, a pixel stays closed
        return View(image * is_open, is_open, predicted)
