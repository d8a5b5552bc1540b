"""Objective 1, input blocking: an input neuron whose pixel is predicted within epsilon stops spiking."""

import torch

from self_models.basics.errors import ModelError, choose
from self_models.running.steps import View
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

BLOCKINGS = {"permanent": False, "dynamic": True}  # name -> whether a blocked pixel may open again


class InputBlockingSNN(VGG_SNN_STDB_wFeedback):
    """The SNN with blocked input: a pixel with |guess - x| < epsilon is predicted; its input is 0 in all later steps.

    epsilon: on the image's scale, at least 0; 0 blocks nothing. blocking: permanent (for good, as in the original) or
    dynamic (a pixel opens again when its prediction drifts off). latch: the prediction of a blocked pixel is held, so that
    it cannot drift off. residual: an open pixel sends its prediction error, x minus guess with its sign, instead of x
    (predictive coding, Rao & Ballard 1999). Raises ModelError where epsilon is
    negative, or above 0 for a plan without feedback.
    """

    objective = "input_blocking"  # in the records

    def __init__(self, *args, epsilon=0.1, blocking="permanent", latch=False, residual=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.reopens = choose("blocking", blocking, BLOCKINGS)
        self.settings["blocking"] = blocking
        self.latch = self.settings["latch"] = latch
        self.residual = self.settings["residual"] = residual
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

    def start(self, x, draws=None):
        run = super().start(x, draws)
        everywhere = torch.ones_like(x, dtype=torch.bool)
        run.view = View(x, is_open=everywhere, predicted=~everywhere)
        return run

    def integrate(self, trace, decoded, view):
        moved = super().integrate(trace, decoded, view)
        return torch.where(view.is_open, moved, trace) if self.latch else moved

    def compared(self, view):
        if not self.epsilon:
            return 0
        where = torch.ones_like(view.is_open) if self.reopens else view.is_open
        return (where if view.attended is None else where & view.attended).sum((1, 2, 3))

    def look(self, image, guess, view):
        predicted = (guess - image).abs() < self.epsilon
        is_open = ~predicted if self.reopens else view.is_open & ~predicted  # once closed, stays closed
        return View(image * is_open, is_open, predicted, explained=guess.detach() if self.residual else None)
