"""The state of a run: what the input neurons see, and what one timestep hands to the next."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch

from self_models.runtime.draws import Draws


class View(NamedTuple):
    """What the input neurons see in a step: image (B, C, H, W); is_open, bool, neurons that may spike; predicted, bool,
    pixels within epsilon of the latest prediction; attended, bool, pixels of which a prediction is made; explained, a
    prediction (B, C, H, W) that is taken away from the image; events, bool, input neurons whose sending counts. Each is None from
    a gate that has no use for it."""

    image: torch.Tensor
    is_open: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    attended: torch.Tensor | None = None
    explained: torch.Tensor | None = None
    events: torch.Tensor | None = None

    def sent(self, signal):
        """Which input neurons send in a step, bool as the signal (T, B, C, H, W) that drives the first layer."""
        return signal != 0 if self.events is None else self.events.expand_as(signal)

    def unexplained(self):
        """What the input neurons encode (B, C, H, W)."""
        if self.explained is None:
            return self.image
        visible = self.is_open if self.attended is None else self.is_open & self.attended
        return (
            self.image - self.explained
        ) * visible  # blocked, the image is 0 already, but x - p is not


@dataclass
class RunState:
    """Everything that one step hands to the next, batch first."""

    image: torch.Tensor  # (B, C, H, W), of a recording that of the step
    view: View
    logits: torch.Tensor  # (B, labels)
    readout_sum: torch.Tensor | int = (
        0  # (B, C, H, W), decoder output summed over the steps so far
    )
    draws: Draws | None = None  # of the dropout masks
    asked: dict = field(default_factory=dict)  # layer -> Asked: what is recorded
    steps: int = 0  # taken so far
    is_open_ended: bool = False  # whether other images may come after these, so that none stops
    recording: torch.Tensor | None = (
        None  # (B, T, C, H, W), whose frame t is seen in step t; None: the image stays
    )
    memory: dict = field(default_factory=dict)  # module name -> state
    engine: object = None  # takes many timesteps of a layer at once; None: step() is taken
    spikes: dict = field(
        default_factory=dict
    )  # of the latest step: layer, or 'input' -> spikes (B, ...)
    # of the steps that were taken last:
    reached: list = field(default_factory=list)  # RunStates after each of them, where a rule asks
    noted: dict | None = (
        None  # layer, pool, or "input" -> list of (steps, (t B, ...)); None: nobody counts
    )
    counts: dict = field(
        default_factory=dict
    )  # layer -> list of (steps, spikes of each image (t, B)), of layers at once

    def shown_now(self):
        """The image of the coming step, (B, C, H, W)."""
        return (
            self.image
            if self.recording is None
            else self.recording[:, min(self.steps, self.recording.shape[1] - 1)]
        )

    def note(self, layer, signal, steps):
        """Keep what a layer, a pool or the input sends in the steps of these numbers, (t B, ...), if somebody counts."""
        if self.noted is not None:
            self.noted.setdefault(layer, []).append((steps, signal.detach()))

    def spike_counts(self, names):
        """Spikes of each of these layers in this step, (B, layers) float32."""
        none = self.logits.new_zeros(len(self.logits), dtype=torch.float32)
        sums = {
            name: spikes.flatten(1).sum(1, dtype=torch.float32)
            for name, spikes in self.spikes.items()
        }
        return torch.stack([sums.get(name, none) for name in names], -1)

    def select(self, keep):
        """The same state for the images of keep, an index or a mask over the batch."""
        return RunState(**{f.name: _select(getattr(self, f.name), keep) for f in fields(self)})


def _select(value, keep):
    if isinstance(value, torch.Tensor):
        return value[keep]
    if isinstance(value, Draws):
        return value.select(keep)
    if isinstance(value, dict):
        return {name: _select(state, keep) for name, state in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*(_select(part, keep) for part in value))
    return value
