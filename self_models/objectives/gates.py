"""Input gates: what the input neurons see in the next step, once the prediction of this step is known.

A gate is a dataclass of its settings with a few hooks on tensors. Registered under a name, it is a choice of --gate, and its
settings are flags.
"""

from dataclasses import dataclass

import torch

from self_models.basics import ModelError
from self_models.basics.settings import (
    NOT_NEGATIVE,
    Choice,
    Registry,
    Switch,
    objective_setting,
    setting,
)
from self_models.running.steps import View

GATES = Registry("gate")


# --- no gate


@GATES.register("open")
@dataclass
class Gate:
    """Every input neuron sees its pixel, whatever is predicted."""

    reacts = False  # whether what is seen depends on predictions
    follows_changes = True  # whether it can go on with another image
    reopens = False  # whether what is closed may open again, by itself or for another image
    stays_in_evaluation = (
        False  # whether a network that was trained with it runs with it wherever it is evaluated
    )

    def check(self, has_feedback):
        """Raises ModelError where the gate cannot work in a network with or without a decoder."""

    def start(self, image):
        """The View of the first step, for images (B, C, H, W)."""
        return View(image)

    def next_view(self, image, prediction, view):
        """The View of the next step; image, prediction (B, C, H, W) on the same scale; view: that of this step."""
        return view

    def on_image_change(self, image, prediction, view, changed):
        """The View of the next step where another image takes the place of the one before: image, prediction (B, C, H, W) on the
        same scale; changed: bool likewise, where it differs."""
        return self.start(image)

    def held(self, view):
        """Where predictions are held, bool (B, C, H, W); None for nowhere."""
        return None

    def judged_by(self, image, is_open):
        """(what predictions are compared with, (B, C, H, W), where that is done, bool or True for everywhere) while these pixels
        are open: for pictures."""
        return image, True

    def compared(self, view):
        """How many pixels next_view compares with their prediction, per image (B,)."""
        return torch.zeros(len(view.image), dtype=torch.int64, device=view.image.device)


GATES.base = Gate


# --- objective 1: a pixel that is predicted is blocked


@dataclass
class Tolerance(Gate):
    """What counts as predicted: |prediction - x| < epsilon; together: in all channels of a pixel, else none of them is."""

    epsilon: float = setting(
        0.1,
        NOT_NEGATIVE,
        "pixels predicted within ±epsilon are blocked, on the image's scale; 0: none; typed alone it means "
        "--gate block",
        group="gate",
        common=True,
    )
    together: bool = setting(
        False, Switch(), "a pixel is predicted only if all its channels are", group="gate"
    )

    def check(self, has_feedback):
        if self.epsilon and not has_feedback:
            raise ModelError(
                "epsilon: blocking needs a decoder: choose an architecture named ..._wFeedback, or epsilon 0"
            )

    def is_predicted(self, image, prediction):
        """bool (B, C, H, W)"""
        predicted = (prediction - image).abs() < self.epsilon
        return predicted.all(1, keepdim=True).expand_as(predicted) if self.together else predicted


@GATES.register("block")
@dataclass
class Blocking(Tolerance):
    """A pixel with |prediction - x| < epsilon is predicted; from the next step on its input is 0: for good, or (dynamic) until a
    prediction misses it.

    residual: an open pixel sends its prediction error, x minus prediction with its sign, instead of x (predictive coding, Rao &
    Ballard 1999). latch: the prediction of a blocked pixel is held, so that it cannot drift off."""

    blocking: str = objective_setting(
        "permanent",
        Choice(("permanent", "dynamic")),
        "permanent: once blocked, always blocked; dynamic: a blocked pixel may reopen",
        group="gate",
    )
    latch: bool = setting(
        False, Switch(), "hold the prediction of a blocked pixel", group="gate", common=True
    )
    residual: bool = setting(
        False,
        Switch(),
        "an open pixel sends its prediction error instead of its value",
        group="gate",
    )
    reacts = True

    @property
    def reopens(self):
        return self.blocking == "dynamic"

    def start(self, image):
        everywhere = torch.ones_like(image, dtype=torch.bool)
        return View(image, is_open=everywhere, predicted=~everywhere)

    def next_view(self, image, prediction, view):
        predicted = self.is_predicted(image, prediction)
        is_open = (
            ~predicted if self.reopens else view.is_open & ~predicted
        )  # once closed, stays closed
        return View(
            image * is_open,
            is_open,
            predicted,
            explained=prediction.detach() if self.residual else None,
        )

    def on_image_change(self, image, prediction, view, changed):
        """Each changed pixel is judged at once: it opens where it no longer fits its prediction, if it may; others stay as they
        are."""
        changed = changed.any(1, keepdim=True).expand_as(changed) if self.together else changed
        predicted = torch.where(changed, self.is_predicted(image, prediction), view.predicted)
        is_open = torch.where(
            changed, ~predicted if self.reopens else view.is_open & ~predicted, view.is_open
        )
        return view._replace(image=image * is_open, is_open=is_open, predicted=predicted)

    def held(self, view):
        return ~view.is_open if self.latch else None

    def compared(self, view):
        if not self.epsilon:
            return super().compared(view)
        where = torch.ones_like(view.is_open) if self.reopens else view.is_open
        return (where if view.attended is None else where & view.attended).sum((1, 2, 3))


# --- a link: what is predicted is not sent


@GATES.register("reconstruct")
@dataclass
class Reconstruct(Tolerance):
    """Sensor and receiver predict alike. A pixel that the prediction misses by epsilon or more is open: it is sent, and counts as
    an event. The network sees a pixel where it is open, elsewhere its prediction: the frame as the receiver rebuilds it."""

    reacts = True
    reopens = True

    def start(self, image):
        everywhere = torch.ones_like(image, dtype=torch.bool)
        return View(image, everywhere, ~everywhere, events=everywhere)

    def next_view(self, image, prediction, view):
        predicted = self.is_predicted(image, prediction)
        return View(
            torch.where(predicted, prediction, image), ~predicted, predicted, events=~predicted
        )

    def on_image_change(self, image, prediction, view, changed):
        return self.next_view(image, prediction, view)

    def compared(self, view):
        return torch.full_like(super().compared(view), view.is_open[0].numel())
