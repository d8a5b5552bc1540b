"""The link itself: what is sent for each frame, and what the receiver rebuilds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from self_models.feedback.gates import Reconstruct


@dataclass
class LinkStep:
    """One frame on its way over the link.

    Attributes
    ----------
    seen : Tensor of shape (B, 2, H, W)
        The last rebuilt frame and the one before. Both sides of the link have them.
    prediction : Tensor of shape (B, H, W)
        What the predictor returned, before it is clamped to 0 to 1.
    report : object
        What else the predictor returned, such as its spikes.
    events : Tensor of shape (B, H, W), bool
        The pixels that are sent.
    rebuilt : Tensor of shape (B, H, W)
        The frame as the receiver shows it: sent pixels as they are, all others as
        predicted.
    """

    seen: torch.Tensor
    prediction: torch.Tensor
    report: Any
    events: torch.Tensor
    rebuilt: torch.Tensor


def run_link(
    predict: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Any]],
    frames: torch.Tensor,
    epsilon: float | torch.Tensor,
) -> Iterator[LinkStep]:
    """Send films over a link in a closed loop.

    Sensor and receiver make the same prediction from what the receiver has rebuilt so
    far. The sensor sends the pixels that it misses by epsilon or more: the gate
    "reconstruct". The first two frames come whole, and yield nothing. No gradient goes
    through what is rebuilt.

    Parameters
    ----------
    predict : callable
        Takes the last two rebuilt frames (B, 2, H, W), the last one first, and the
        frame that is to be sent (B, H, W), which only the sensor has. Returns the
        prediction (B, H, W) and a report.
    frames : Tensor of shape (B, T, H, W), 0 to 1
    epsilon : float, or Tensor of shape (B, 1, 1, 1)
        Tolerance of the link, of all films or of each.

    Yields
    ------
    LinkStep
        Of each frame from the third on.
    """
    gate = Reconstruct(epsilon=epsilon)
    seen = torch.stack([frames[:, 1], frames[:, 0]], 1)
    for frame in frames[:, 2:].unbind(1):
        prediction, report = predict(seen, frame)
        shown = prediction.detach().clamp(0, 1)
        view = gate.next_view(frame[:, None], shown[:, None], None)
        rebuilt = view.image[:, 0]
        yield LinkStep(seen, prediction, report, view.events[:, 0], rebuilt)
        seen = torch.stack([rebuilt, seen[:, 0]], 1)
