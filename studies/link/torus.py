"""Motion on a torus: what leaves a frame at one border comes in at the opposite one."""

from itertools import product

import torch
import torch.nn.functional as F

from studies.link.predictors import Report

FASTEST = 2


def velocities_up_to(fastest: int) -> list[tuple[int, int]]:
    """Return all velocities (down, right) up to a largest one in each direction."""
    return list(product(range(-fastest, fastest + 1), repeat=2))


def wrap_borders(frames: torch.Tensor, margin: int) -> torch.Tensor:
    """Surround frames with what lies beyond their borders on a torus.

    Parameters
    ----------
    frames : Tensor of shape (B, C, H, W)
    margin : int
        In pixels.

    Returns
    -------
    Tensor of shape (B, C, H + 2 margin, W + 2 margin)
    """
    return F.pad(frames, (margin,) * 4, mode="circular")


def move_by_each(frames: torch.Tensor, velocities: list[tuple[int, int]]) -> torch.Tensor:
    """Move frames by each velocity on a torus.

    Parameters
    ----------
    frames : Tensor of shape (B, H, W)
    velocities : list of (int, int)
        N of them, in pixels down and right.

    Returns
    -------
    Tensor of shape (N, B, H, W)
    """
    return torch.stack([frames.roll(velocity, (1, 2)) for velocity in velocities])


class TorusMatching:
    """Move each block of the last frame as the last two frames agree best there.

    A predictor for `run_link` that works at the receiver. With one block for the whole
    frame it is the best shift, with smaller blocks it is block matching.

    Parameters
    ----------
    fastest : int
        Largest velocity in each direction, in pixels per frame.
    block : int, optional
        Side of a block, in pixels, which divides that of the frame. By default the
        whole frame is one block.
    """

    at_sender = False

    def __init__(self, fastest: int = FASTEST, block: int | None = None):
        self.velocities = velocities_up_to(fastest)
        self.block = block

    def __call__(
        self, seen: torch.Tensor, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Report]:
        """Return the moved frame. See `run_link` for the arguments."""
        last, before = seen.unbind(1)
        height = self.block or last.shape[1]
        width = self.block or last.shape[2]
        misses = (move_by_each(before, self.velocities) - last).abs()
        best = F.avg_pool2d(misses, (height, width)).argmin(0)
        best_of_pixel = best.repeat_interleave(height, 1).repeat_interleave(width, 2)
        candidates = move_by_each(last, self.velocities)
        prediction = candidates.gather(0, best_of_pixel[None])[0]
        # At both sides, for each velocity: a subtraction for each pixel, added up.
        return prediction, Report(additions=2 * 2 * misses.numel())
