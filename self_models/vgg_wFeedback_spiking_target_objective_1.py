"""Objective 1, input blocking: an input neuron whose pixel is predicted within epsilon stops spiking."""

import torch

from self_models.errors import ModelError
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback, View


class InputBlockingSNN(VGG_SNN_STDB_wFeedback):
    """The SNN with blocked input: a pixel with |guess - x| < epsilon is predicted; its input is 0 in all later steps.

    epsilon: on the image's scale, at least 0; 0 blocks nothing. Raises ModelError where epsilon is
    negative, or above 0 for a plan without feedback.
    """

    def __init__(self, *args, epsilon=0.1, **kwargs):
        super().__init__(*args, **kwargs)
        self.set_epsilon(epsilon)

    def set_epsilon(self, epsilon):
        """Block pixels predicted within this epsilon from now on. Raises ModelError as the constructor does."""
        if not epsilon >= 0:
            raise ModelError(f"epsilon must be at least 0, not {epsilon}")
        if epsilon and not self.has_feedback:
            raise ModelError(
                "input blocking needs a plan with feedback: choose one named ..._wFeedback, or epsilon 0 for no blocking"
            )
        self.epsilon = self.settings["epsilon"] = epsilon

    def start(self, x):
        run = super().start(x)
        run.view = View(x, is_open=torch.ones_like(x, dtype=torch.bool))
        return run

    def look(self, image, guess, view):
        predicted = (guess - image).abs() < self.epsilon
        is_open = view.is_open & ~predicted  # once closed, a pixel stays closed
        return View(image * is_open, is_open, predicted)
