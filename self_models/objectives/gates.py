"""Input gates: what the input neurons see in the next step, once the prediction of this step is known.

A gate is a dataclass of its settings with a few hooks on dense tensors, and beside them the same on one image's pixels in
compiled code, see Kernels. Registered under a name, it is a choice of --gate, its settings are flags, and both engines run it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from self_models.basics.errors import ModelError
from self_models.basics.settings import NOT_NEGATIVE, Choice, Registry, Switch, objective_setting
from self_models.fast.compiling import compiled
from self_models.running.steps import View

GATES = Registry("gate")
BLOCKINGS = {"permanent": False, "dynamic": True}  # name -> whether a blocked pixel may open again


class Kernels(NamedTuple):
    """A gate in compiled code; pixels: a Pixels of fast/event/compiled/pixels.py, in whose record `gate` it says what it has decided.

    see(settings, pixels, image, step): what is seen in this step, into pixels.seen; called before step 0, when every pixel is
    open and seen, and after all looks if something has changed. look(settings, pixels, pixel, value, guess): open or close one
    pixel, of this value in the image, for its guess. rests(settings, pixels, pixel): whether its prediction is held.
    complete(settings, pixels, pixel, prediction): what it is taken for, where the read-out predicts this of it.
    """

    see: callable
    look: callable
    rests: callable
    complete: callable


# --- no gate


@compiled
def see_all(settings, pixels, image, step):
    pass


@compiled
def no_look(settings, pixels, pixel, value, guess):
    pass


@compiled
def never(settings, pixels, pixel):
    return False


@compiled
def as_predicted(settings, pixels, pixel, prediction):
    return prediction


@GATES.register("open")
@dataclass
class Gate:
    """Every input neuron sees its pixel, whatever is predicted."""

    reacts = False  # whether what is seen depends on predictions
    completes = False  # whether it knows something of the image, decoder or not: complete() says what
    least_steps = 1  # from which the network answers: before, no image stops
    turns = True  # whether it can go on with another image
    reopens = False  # whether what is closed may open again, by itself or for another image
    lasts = False  # whether a network that was trained with it runs with it wherever it is evaluated
    kernels = Kernels(see_all, no_look, never, as_predicted)

    def check(self, has_feedback, encoding="poisson"):
        """Raises ModelError where the gate cannot work in a network with or without a decoder, of this encoding (its name)."""

    def start(self, image):
        """The View of the first step, for images (B, C, H, W)."""
        return View(image)

    def next_view(self, image, guess, view):
        """The View of the next step; image, guess (B, C, H, W) on the same scale; view: that of this step."""
        return view

    def turned(self, image, guess, view, changed):
        """The View of the next step where another image takes the place of the one before: image, guess (B, C, H, W) on the same
        scale; changed: bool likewise, where it differs."""
        return self.start(image)

    def wants(self, view):
        """Whether a prediction made in this step can still matter; where not, the decoder rests."""
        return True

    def waits(self, view):
        """Whether the layers that the decoder does not need rest in this step; not again once they have run."""
        return False

    def begins_anew(self, view):
        """Whether the layers that the decoder needs are at rest again at the beginning of this step."""
        return False

    def complete(self, prediction, view):
        """What the image is taken for, (B, C, H, W), where the read-out predicts this of it."""
        return prediction

    def rests(self, view):
        """Where predictions are held, bool (B, C, H, W); None for nowhere."""
        return None

    def judged_by(self, image, is_open):
        """(what predictions are compared with, (B, C, H, W), where that is done, bool or True for everywhere) while these pixels
        are open: for pictures."""
        return image, True

    def compared(self, view):
        """How many pixels next_view compares with their prediction, per image (B,)."""
        return 0


GATES.expects(Gate)


# --- objective 1: a pixel that is predicted is blocked


@compiled
def held_if_latched(settings, pixels, pixel):
    return settings.latch and not pixels.is_open[pixel]


@compiled
def close_or_open(settings, pixels, pixel, predicted):
    """Note a pixel as predicted or not, and close or open it."""
    pixels.predicted[pixel] = predicted
    was_open = pixels.is_open[pixel]
    is_open = not predicted if settings.blocking else was_open and not predicted
    if is_open != was_open:
        pixels.is_open[pixel] = is_open
        pixels.gate.changed = True


@compiled
def all_predicted(settings, pixels, last):
    """Whether all channels of a pixel are noted as predicted; last: the input neuron of the last of them."""
    together = True
    for channel in range(last + 1 - settings.channels, last + 1):
        together &= pixels.predicted[channel]
    return together


@compiled
def judge(settings, pixels, pixel, predicted):
    """Close or open a pixel, together with the other channels once the last of them is judged."""
    if not settings.together:
        close_or_open(settings, pixels, pixel, predicted)
        return
    pixels.predicted[pixel] = predicted
    if (pixel + 1) % settings.channels == 0:
        predicted = all_predicted(settings, pixels, pixel)
        for channel in range(pixel + 1 - settings.channels, pixel + 1):
            close_or_open(settings, pixels, channel, predicted)


@compiled
def look_at_image(settings, pixels, pixel, value, guess):
    judge(settings, pixels, pixel, abs(guess - value) < settings.epsilon)


@compiled
def see_open(settings, pixels, image, step):
    still_open = 0
    for pixel in range(len(image)):
        pixels.seen[pixel] = image[pixel] if pixels.is_open[pixel] else 0
        still_open += pixels.is_open[pixel]
    if settings.epsilon > 0:
        pixels.gate.compared = len(image) if settings.blocking else still_open


@dataclass
class Tolerance(Gate):
    """What counts as predicted: |guess - x| < epsilon; together: in all channels of a pixel, else none of them is."""

    epsilon: float = objective_setting(
        0.1, NOT_NEGATIVE, "block pixels predicted this well, on the image's scale; 0 = off; alone it stands for --gate block",
        group="gate", adopted=True, common=True,
    )  # fmt: skip
    together: bool = objective_setting(
        False, Switch(), "a pixel's channels count as predicted together, or not at all", group="gate", adopted=True
    )

    def check(self, has_feedback, encoding="poisson"):
        if self.epsilon and not has_feedback:
            raise ModelError(
                "epsilon: input blocking needs a plan with feedback: choose one named ..._wFeedback, or epsilon 0 for no blocking"
            )

    def is_predicted(self, image, guess):
        """bool (B, C, H, W)"""
        predicted = (guess - image).abs() < self.epsilon
        return predicted.all(1, keepdim=True).expand_as(predicted) if self.together else predicted


@GATES.register("block")
@dataclass
class Blocking(Tolerance):
    """A pixel with |guess - x| < epsilon is predicted; its input is 0 in all later steps, for good or until it opens again.

    residual: an open pixel sends its prediction error, x minus guess with its sign, instead of x (predictive coding, Rao &
    Ballard 1999). latch: the prediction of a blocked pixel is held, so that it cannot drift off.
    """

    blocking: str = objective_setting("permanent", Choice(BLOCKINGS), "dynamic: a blocked pixel may open again", group="gate")
    latch: bool = objective_setting(
        False, Switch(), "hold the prediction of a blocked pixel", group="gate", adopted=True, common=True
    )
    residual: bool = objective_setting(
        False, Switch(), "an open pixel sends its prediction error, not itself", group="gate", adopted=True
    )
    reacts = True
    kernels = Kernels(see_open, look_at_image, held_if_latched, as_predicted)

    @property
    def reopens(self):
        return BLOCKINGS[self.blocking]

    def start(self, image):
        everywhere = torch.ones_like(image, dtype=torch.bool)
        return View(image, is_open=everywhere, predicted=~everywhere)

    def next_view(self, image, guess, view):
        predicted = self.is_predicted(image, guess)
        is_open = ~predicted if BLOCKINGS[self.blocking] else view.is_open & ~predicted  # once closed, stays closed
        return View(image * is_open, is_open, predicted, explained=guess.detach() if self.residual else None)

    def turned(self, image, guess, view, changed):
        """Each changed pixel is judged at once: it opens where it no longer fits its prediction, if it may; others stay as they
        are."""
        changed = changed.any(1, keepdim=True).expand_as(changed) if self.together else changed
        predicted = torch.where(changed, self.is_predicted(image, guess), view.predicted)
        is_open = torch.where(changed, ~predicted if BLOCKINGS[self.blocking] else view.is_open & ~predicted, view.is_open)
        return view._replace(image=image * is_open, is_open=is_open, predicted=predicted)

    def rests(self, view):
        return ~view.is_open if self.latch else None

    def compared(self, view):
        if not self.epsilon:
            return 0
        where = torch.ones_like(view.is_open) if BLOCKINGS[self.blocking] else view.is_open
        return (where if view.attended is None else where & view.attended).sum((1, 2, 3))
