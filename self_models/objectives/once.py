"""A gate for direct encoding: each pixel sends at most once, a coarse grid of them first, then those that are not predicted.

After a step the network knows of the image what has been sent; what could have been sent and was not, since it was predicted
within epsilon; and has a guess of the rest: the bilinear interpolation of the grid so far, which is blind to all else, plus the
decoder's prediction, which so learns what interpolation misses. What it knows and guesses drives its first layer.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from self_models.basics import ModelError
from self_models.basics.settings import COUNT, Choice, Switch, objective_setting
from self_models.objectives.gates import GATES, Tolerance
from self_models.running.steps import View

GUESSES = ("prediction", "interpolation", "decoder")


class Knowledge(NamedTuple):
    """What the network has of the image, batch first. held (B, C, H, W): values of the pixels that have had their turn, sent or
    predicted; done, bool: those; blind: what the others are taken for without the decoder; step: number of the step."""

    held: torch.Tensor
    done: torch.Tensor
    blind: torch.Tensor | float
    step: int

    def of_image(self, prediction):
        """The whole image (B, C, H, W), for the decoder's prediction of the rest."""
        return torch.where(self.done, self.held, self.blind + prediction)


@GATES.register("once")
@dataclass
class Once(Tolerance):
    """In the first step every grid-th pixel of every grid-th row sends its value; grid_steps steps later those of half the grid
    that are guessed wrong by epsilon or more, and so on until each pixel has had one turn. What is sent is held, and what is not
    sent at its turn is held as it was guessed. One event per value sent, of the first grid's only where it is not 0: silence in
    the first step says 0. grid 1: sample and hold, all pixels at once. epsilon 0: the same schedule without prediction.
    """

    grid: int = objective_setting(
        2, COUNT, "once: spacing of the first grid of pixels sent, a power of 2; 1: all at once", group="gate", adopted=True,
        common=True,
    )  # fmt: skip
    grid_steps: int = objective_setting(
        1, COUNT, "once: timesteps until the grid spacing is halved", group="gate", adopted=True, metavar="K"
    )
    guess: str = objective_setting(
        "prediction", Choice(GUESSES), "once: estimate of pixels not sent: interpolation of the grid, the decoder's output, or "
        "prediction, their sum", group="gate", adopted=True,
    )  # fmt: skip
    fill: bool = objective_setting(
        True, Switch(), "once: pixels not sent drive the first layer by their estimate; else by 0", group="gate", adopted=True
    )
    wait: bool = objective_setting(
        False, Switch(), "once: layers that the decoder does not need stay at rest until every pixel has had its turn",
        group="gate", adopted=True,
    )  # fmt: skip
    anew: bool = objective_setting(
        False, Switch(), "once, --wait: the other encoder layers then start from rest, too", group="gate", adopted=True,
    )  # fmt: skip
    reacts = completes = stays_in_evaluation = True
    follows_changes = False  # each pixel has one turn

    def check(self, has_feedback, encoding="poisson"):
        super().check(True, encoding)
        if self.grid & (self.grid - 1):
            raise ModelError(f"grid must be a power of 2 (1, 2, 4, ...), not {self.grid}")
        if encoding != "direct":
            raise ModelError(f"gate once sends a pixel's value, once: it needs --encoding direct, not {encoding}")
        if self.guess == "decoder" and not has_feedback:
            raise ModelError("guess decoder needs an architecture with feedback: choose one, or guess interpolation")

    def start(self, image):
        sent = on_grid(image, self.grid)
        known = Knowledge(image * sent, sent, self.blind(image * sent, self.grid), 0)
        return self.view(known, sent, sent & (image != 0), known.of_image(0.0), torch.zeros_like(sent))

    def next_view(self, image, guess, view):
        """guess: complete, see Knowledge.of_image."""
        known, guess, predicted = view.known, guess.detach(), self.is_predicted(image, guess)
        grid, before = self.grid_at(known.step + 1), self.grid_at(known.step)
        if grid == before:
            none = torch.zeros_like(known.done)
            return self.view(known._replace(step=known.step + 1), none, none, guess, predicted)
        turn = self.turn(known, grid)
        wrong = turn & ~predicted
        held = torch.where(wrong, image, torch.where(turn, guess, known.held))
        done = known.done | turn
        known = Knowledge(held, done, self.blind(held, grid) if grid > 1 else known.blind, known.step + 1)
        return self.view(known, wrong, wrong, held if grid == 1 else known.of_image(0.0), predicted)

    def view(self, known, sent, events, guess, predicted):
        """The View of a step in which these pixels send; open are they and all whose turn is yet to come."""
        drive = guess if self.fill else known.held
        return View(drive, is_open=sent | ~known.done, predicted=predicted, known=known, events=events)

    def wants(self, view):
        return self.guess != "interpolation" and self.grid_at(view.known.step) > 1

    def waits(self, view):
        return self.waits_at(view.known.step)

    def waits_at(self, step):
        return self.wait and self.grid_at(step) > 1

    def begins_anew(self, view):
        step = view.known.step
        return self.anew and step > 0 and self.waits_at(step - 1) and not self.waits_at(step)

    def complete(self, prediction, view):
        return view.known.of_image(0.0 if self.guess == "interpolation" else prediction)

    @property
    def least_steps(self):
        return self.grid_steps * (self.grid.bit_length() - 1) + 1 if self.wait else 1

    def grid_at(self, step):
        """How coarse the grid is in this step, from 0."""
        return max(1, self.grid >> min(step // self.grid_steps, 30))

    def turn(self, known, grid):
        """Which pixels may send in the first step of this grid, bool (B, C, H, W)."""
        return on_grid(known.done, grid) & ~known.done

    def blind(self, held, grid):
        """What pixels off the grid are taken for without a decoder."""
        return 0.0 if self.guess == "decoder" else interpolated(held, grid)

    def compared(self, view):
        turn = self.turn(view.known, self.grid_at(view.known.step + 1))  # nobody's, where the grid stays as it is
        return (turn & (self.epsilon > 0)).sum((1, 2, 3))


def on_grid(images, grid):
    """Every grid-th pixel of every grid-th row, bool of the shape of images (B, C, H, W)."""
    where = torch.zeros_like(images, dtype=torch.bool)
    where[..., ::grid, ::grid] = True
    return where


def interpolated(values, grid):
    """Bilinear interpolation from every grid-th pixel of every grid-th row; beyond the last of these, their value. values, and
    result: (B, C, H, W)."""
    if grid == 1:
        return values
    height, width = values.shape[2:]
    for dim, size in ((2, height), (3, width)):
        corners = values.index_select(dim, torch.arange(0, size, grid, device=values.device))
        place = torch.arange(size, device=values.device)
        left = place // grid
        right = (left + 1).clamp(max=corners.shape[dim] - 1)
        part = ((place % grid) / grid).to(values.dtype).view([-1 if each == dim else 1 for each in range(4)])
        values = torch.lerp(corners.index_select(dim, left), corners.index_select(dim, right), part)
    return values
