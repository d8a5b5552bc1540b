"""What the steps of a run hand on: what the input neurons see, the state of a run, and what a step shows."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch

from self_models.running.draws import Draws


class View(NamedTuple):
    """What the input neurons see in a step: image (B, C, H, W); is_open, bool, neurons that may spike; predicted, bool,
    pixels within epsilon of the latest prediction; attended, bool, pixels of which a prediction is made; explained, a
    prediction (B, C, H, W) that is taken away from the image; known, a gate's own knowledge of the image, a named tuple;
    events, bool, input neurons whose sending counts. Each is None from a gate that has no use for it."""

    image: torch.Tensor
    is_open: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    attended: torch.Tensor | None = None
    explained: torch.Tensor | None = None
    known: tuple | None = None
    events: torch.Tensor | None = None

    def sent(self, signal):
        """Which input neurons send in a step, bool as the signal (T, B, C, H, W) that drives the first layer."""
        return signal != 0 if self.events is None else self.events.expand_as(signal)

    def unexplained(self):
        """What the input neurons encode (B, C, H, W)."""
        if self.explained is None:
            return self.image
        visible = self.is_open if self.attended is None else self.is_open & self.attended
        return (self.image - self.explained) * visible


@dataclass
class RunState:
    """Everything that one step hands to the next, batch first."""

    image: torch.Tensor  # (B, C, H, W)
    view: View
    logits: torch.Tensor | int = 0  # (B, labels) once a step has run
    trace: torch.Tensor | int = 0  # (B, C, H, W), decoder output summed over the steps so far
    waiting: torch.Tensor | int = 0  # encoder output summed since the decoder last ran
    steps: int = 0  # taken so far
    compared: torch.Tensor | int = 0  # pixels compared with their prediction so far (B,)
    input_count: torch.Tensor | int = 0  # (B,)
    memory: dict = field(default_factory=dict)  # module name -> state
    decoder: list = field(default_factory=list)  # the decoder's layers, as run_stage takes them
    draws: Draws | None = None  # of the dropout masks

    def select(self, keep):
        """The same state for the images of keep, an index or a mask over the batch."""
        return RunState(**{f.name: _select(getattr(self, f.name), keep) for f in fields(self)})


class Frame(NamedTuple):
    """What one step shows: prediction and error (B, C, H, W), predicted and is_open (bool); logits so far (B, labels); spikes
    so far of each layer (B, layers), in evaluation only. None where not there."""

    prediction: torch.Tensor | None = None
    error: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    is_open: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    spikes: torch.Tensor | None = None

    def spikes_by_step(self, layers):
        """Layer name -> spikes of each step (T, B), from spikes so far (T, B, layers); None where they are not there."""
        if self.spikes is None:
            return None
        steps = self.spikes.diff(dim=0, prepend=torch.zeros_like(self.spikes[:1]))
        return dict(zip(layers, steps.unbind(-1), strict=True))


def stack_frames(frames):
    """A list of T Frames as one whose tensors are (T, B, C, H, W)."""
    return _each(torch.stack, frames)


def join_frames(parts):
    """Frames of (t, B, C, H, W) as one of (T, B, C, H, W)."""
    return parts[0] if len(parts) == 1 else _each(torch.cat, parts)


def _each(join, frames):
    return Frame(*(None if tensors[0] is None else join(tensors) for tensors in zip(*frames, strict=True)))


def _select(value, keep):
    if isinstance(value, torch.Tensor):
        return value[keep]
    if isinstance(value, Draws):
        return value.select(keep)
    if isinstance(value, dict):
        return {name: _select(state, keep) for name, state in value.items()}
    if isinstance(value, tuple):
        return type(value)(*(_select(part, keep) for part in value))
    return value
