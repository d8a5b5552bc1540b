"""A gate for direct encoding: each pixel sends at most once, a coarse grid of them first, then those that are not predicted.

After a step the network knows of the image what has been sent; what could have been sent and was not, since it was predicted
within epsilon; and has a guess of the rest: the bilinear interpolation of the grid so far, which is blind to all else, plus the
decoder's prediction, which so learns what interpolation misses. What it knows and guesses drives its first layer.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from self_models.basics.errors import ModelError
from self_models.basics.settings import COUNT, Choice, Need, Switch, objective_setting
from self_models.fast.compiling import compiled
from self_models.objectives.gates import GATES, Kernels, Tolerance, all_predicted, never
from self_models.running.steps import View

GUESSES = ("prediction", "interpolation", "decoder")
INTERPOLATION, DECODER = (GUESSES.index(name) for name in ("interpolation", "decoder"))


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


# In compiled code pixels.done are those that have had their turn; pixels.known is what these hold, and what the others are taken
# for without the decoder.


@compiled
def grid_at(settings, step):
    return max(1, settings.grid >> min(step // settings.grid_steps, 30))


@compiled
def size_of(settings, pixels, grid):
    """How many input neurons lie on a grid."""
    height = len(pixels.seen) // (settings.width * settings.channels)
    return ((height + grid - 1) // grid) * ((settings.width + grid - 1) // grid) * settings.channels


@compiled
def see_once(settings, pixels, image, step):
    """What this step sends: at the first step of a grid the turn of its pixels; and what drives the network."""
    if step == 0:
        pixels.done[:] = False
        pixels.known[:] = 0
    else:
        note_predicted(settings, pixels, image)
    grid, next_grid = grid_at(settings, step), grid_at(settings, step + 1)
    is_turn = step == 0 or grid != grid_at(settings, step - 1)
    pixels.is_open[:] = False
    pixels.gate.events = 0
    if is_turn:
        take_turn(settings, pixels, image, grid, step)
        if settings.guess != DECODER:
            interpolate(settings, pixels, grid)
    for pixel in range(len(image)):
        done = pixels.done[pixel]
        pixels.is_open[pixel] |= not done
        value = pixels.known[pixel] if is_turn or not settings.fill else pixels.guess[pixel]
        pixels.seen[pixel] = value if done or settings.fill else 0
    turns = size_of(settings, pixels, next_grid) - size_of(settings, pixels, grid)
    pixels.gate.compared = turns if settings.epsilon > 0 else 0
    pixels.gate.look_again = is_turn or grid > 1  # once more after the last turn, to show what is then predicted
    pixels.gate.wants = settings.guess != INTERPOLATION and grid > 1
    pixels.gate.anew = settings.anew and pixels.gate.waits and grid == 1
    pixels.gate.waits = settings.wait and grid > 1


@compiled
def note_predicted(settings, pixels, image):
    """Which pixels are predicted by the latest guesses."""
    for pixel in range(len(image)):
        pixels.predicted[pixel] = abs(pixels.guess[pixel] - image[pixel]) < settings.epsilon
    if settings.together:
        for last in range(settings.channels - 1, len(image), settings.channels):
            together = all_predicted(settings, pixels, last)
            for channel in range(last + 1 - settings.channels, last + 1):
                pixels.predicted[channel] = together


@compiled
def take_turn(settings, pixels, image, grid, step):
    """Those on the grid that have not had their turn send their value, unless they are predicted: then their guess is held."""
    channels, width = settings.channels, settings.width
    for y in range(0, len(image) // (width * channels), grid):
        for x in range(0, width, grid):
            for pixel in range((y * width + x) * channels, (y * width + x + 1) * channels):
                if not pixels.done[pixel]:
                    sends = not pixels.predicted[pixel]
                    pixels.known[pixel] = image[pixel] if sends else pixels.guess[pixel]
                    pixels.done[pixel], pixels.is_open[pixel] = True, sends
                    pixels.gate.events += sends and (image[pixel] != 0 or step > 0)


@compiled
def interpolate(settings, pixels, grid):
    """What is known off the grid, as `interpolated` says."""
    channels, width, size = settings.channels, settings.width, np.float32(grid)
    row = width * channels
    height = len(pixels.known) // row
    for y in range(height):
        top = y - y % grid
        bottom = top + grid if top + grid < height else top
        for x in range(width):
            left = x - x % grid
            right = left + grid if left + grid < width else left
            down, across = np.float32(y % grid) / size, np.float32(x % grid) / size
            for channel in range(channels):
                pixel, at_left, at_right = y * row + x * channels + channel, left * channels + channel, right * channels + channel
                if not pixels.done[pixel]:
                    pixels.known[pixel] = between(
                        between(pixels.known[top * row + at_left], pixels.known[bottom * row + at_left], down),
                        between(pixels.known[top * row + at_right], pixels.known[bottom * row + at_right], down),
                        across,
                    )


@compiled
def between(start, end, part):
    """torch.lerp, rounded as it does."""
    if part < np.float32(0.5):
        return start + part * (end - start)
    return end - (end - start) * (np.float32(1) - part)


@compiled
def look_once(settings, pixels, pixel, value, guess):
    """All is looked at by see_once, while a turn is to come or the last one is to be shown: later nothing changes."""
    pixels.gate.changed |= pixels.gate.look_again


@compiled
def complete_once(settings, pixels, pixel, prediction):
    uses_decoder = settings.has_feedback and settings.guess != INTERPOLATION
    return pixels.known[pixel] + prediction if uses_decoder and not pixels.done[pixel] else pixels.known[pixel]


@GATES.register("once")
@dataclass
class Once(Tolerance):
    """In the first step every grid-th pixel of every grid-th row sends its value; grid_steps steps later those of half the grid
    that are guessed wrong by epsilon or more, and so on until each pixel has had one turn. What is sent is held, and what is not
    sent at its turn is held as it was guessed. One event per value sent, of the first grid's only where it is not 0: silence in
    the first step says 0. grid 1: sample and hold, all pixels at once. epsilon 0: the same schedule without prediction.
    """

    grid: int = objective_setting(
        2, COUNT, "once: every N-th pixel of every N-th row sends first, a power of 2; 1 = all at once", group="gate",
        adopted=True, common=True,
    )  # fmt: skip
    grid_steps: int = objective_setting(1, COUNT, "once: steps until the grid is halved", group="gate", adopted=True, metavar="K")
    guess: str = objective_setting(
        "prediction", Choice(GUESSES), "once: what an unsent pixel is taken for: blind interpolation of the grid; the decoder's "
        "output; prediction: their sum", group="gate", adopted=True,
    )  # fmt: skip
    fill: bool = objective_setting(
        True, Switch(), "once: an unsent pixel drives the first layer with what it is taken for; else with 0", group="gate",
        adopted=True,
    )  # fmt: skip
    wait: bool = objective_setting(
        False, Switch(), "once: the layers that the decoder does not need rest until each pixel has had its turn", group="gate",
        adopted=True,
    )  # fmt: skip
    anew: bool = objective_setting(
        False, Switch(), "once, --wait: when each pixel has had its turn the other layers of the encoder begin anew, too",
        group="gate", adopted=True, needs=(Need("wait", why="no layer waits"),),
    )  # fmt: skip
    reacts = completes = lasts = True
    turns = False  # each pixel has one turn
    kernels = Kernels(see_once, look_once, never, complete_once)

    def check(self, has_feedback, encoding="poisson"):
        super().check(True, encoding)
        if self.grid & (self.grid - 1):
            raise ModelError(f"grid must be a power of 2 (1, 2, 4, ...), not {self.grid}")
        if encoding != "direct":
            raise ModelError(f"gate once sends a pixel's value, once: it needs --encoding direct, not {encoding}")
        if self.guess == "decoder" and not has_feedback:
            raise ModelError("guess decoder needs a plan with feedback: choose one, or guess interpolation")

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
