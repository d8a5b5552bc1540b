"""What the steps of a run hand on: what the input neurons see, the state of a run, and what its steps show."""

from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import torch

from self_models.running.draws import Draws
from self_models.running.outputs import share_of_active
from self_models.running.recording import Recorder


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


class ActiveParts(NamedTuple):
    """Which parts of the network run in some steps. first: number of the first of them, from 0; waits: whether the classifier,
    and the layers that lead to it alone, are skipped; decoder_idle: whether no prediction is wanted; decodes: for each step,
    whether the decoder runs in it."""

    first: int
    waits: bool
    decoder_idle: bool
    decodes: list


@dataclass
class RunState:
    """Everything that one step hands to the next, batch first."""

    image: torch.Tensor  # (B, C, H, W), of a recording that of the step
    view: View
    logits: torch.Tensor  # (B, labels)
    readout_sum: torch.Tensor | int = 0  # (B, C, H, W), decoder output summed over the steps so far
    stages: dict = field(default_factory=dict)  # name -> layers, (position, module) pairs
    draws: Draws | None = None  # of the dropout masks
    watcher: object = None  # see note() of OperationCounter
    recorder: Recorder = field(default_factory=Recorder)  # of nothing
    waiting: torch.Tensor | int = 0  # encoder output summed since the decoder last ran
    steps: int = 0  # taken so far
    streams: bool = False  # whether other images may come after these
    recording: torch.Tensor | None = None  # (B, T, C, H, W), whose frame t is seen in step t; None: the image stays
    memory: dict = field(default_factory=dict)  # module name -> state
    reached: list = field(default_factory=list)  # RunStates after each of the steps that were taken last, where a rule asks
    active_parts: list = field(default_factory=list)  # of these steps
    gate: type | None = None  # of the gate that has made the view
    at_once: bool = False  # whether layers take many steps at once, see fast/batched
    spikes: dict = field(default_factory=dict)  # of the latest step: layer, or 'input' -> spikes (B, ...), of those that ran

    def shown_now(self):
        """The image of the coming step, (B, C, H, W)."""
        return self.image if self.recording is None else self.recording[:, min(self.steps, self.recording.shape[1] - 1)]

    def note(self, name, signal):
        """What goes into a linear layer, or comes out of a maximum pool or of neurons, in this step."""
        if self.watcher:
            self.watcher.note(name, signal, [self.steps])

    def spike_counts(self, names):
        """Spikes of each of these layers in this step, (B, layers) float32."""
        none = self.logits.new_zeros(len(self.logits), dtype=torch.float32)
        sums = {name: spikes.flatten(1).sum(1, dtype=torch.float32) for name, spikes in self.spikes.items()}
        return torch.stack([sums.get(name, none) for name in names], -1)

    def forget(self, stage, part):
        """Bring the layers of a part of a stage to rest."""
        for position, _ in self.stages[part]:
            self.memory.pop(f"{stage}.{position}", None)

    def after(self, frames):
        """The state after each of the steps that were taken last, without the layers' memory."""
        return (replace(state, logits=logits) for state, logits in zip(self.reached, frames.logits, strict=True))

    def select(self, keep):
        """The same state for the images of keep, an index or a mask over the batch."""
        return RunState(**{f.name: _select(getattr(self, f.name), keep) for f in fields(self)})


class Frame(NamedTuple):
    """What steps show, (T, B, ...), or one step (B, ...). prediction (C, H, W); predicted and is_open, bool likewise, pixels
    within epsilon and input neurons that could spike; where nobody asks for these three, error, squared and summed over pixels,
    and open_share, of active pixels. logits so far (labels,). In this step alone: compared, pixels compared with their
    prediction, spikes of each layer (layers,), and recorded_spikes, bool, which recorded neurons spiked; recorded_v, of recorded
    neurons after the step: see Recorder. None where not there."""

    prediction: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    is_open: torch.Tensor | None = None
    error: torch.Tensor | None = None
    open_share: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    compared: torch.Tensor | None = None
    spikes: torch.Tensor | None = None
    recorded_spikes: torch.Tensor | None = None
    recorded_v: torch.Tensor | None = None

    def summed(self, image, target):
        """The same with sums over pixels in place of pictures; image: what was seen, target: what was to be predicted."""
        error = None if self.prediction is None else ((target - self.prediction) ** 2).sum((2, 3, 4))
        share = None if self.is_open is None else share_of_active(self.is_open, image)
        return self._replace(prediction=None, predicted=None, is_open=None, error=error, open_share=share)

    def until(self, ends, steps):
        """So many steps (steps, B, ...) of images that stop after ends (B,): later ones show the last one again, and count 0."""
        step = torch.arange(steps, device=ends.device)[:, None]
        shown, image = torch.minimum(step, ends - 1), torch.arange(len(ends), device=ends.device)
        found = self._each(lambda values: values[shown, image])
        for name in OF_ONE_STEP:
            if (values := getattr(found, name)) is not None:
                values[step >= ends] = 0
        return found

    def among(self, images, batch):
        """The Frame of a batch of so many images, 0 for all but these, whose Frame this is."""
        return self._each(lambda values: values.new_zeros(len(values), batch, *values.shape[2:]).index_copy(1, images, values))

    def _each(self, change):
        """change(values), of all that are there."""
        return Frame(*(None if values is None else change(values) for values in self))


OF_ONE_STEP = ("compared", "spikes", "recorded_spikes")


def stack_frames(frames, join=torch.stack):
    """A list of T Frames of one step as one whose tensors are (T, B, ...); of Frames (t, B, ...) with join=joined."""
    return Frame(*(None if tensors[0] is None else join(tensors) for tensors in zip(*frames, strict=True)))


def joined(parts):
    """A list of tensors (t, ...) as one (T, ...)."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def accumulated(logits, drives, steps, leak, at_once):
    """The outputs O after each of so many steps, (T, B, labels): O <- leak O + d, for the drives d (t, B, labels) of the last
    t of them. at_once: whether what does not leak may be one operation, which rounds otherwise than steps do."""
    waiting = steps - len(drives)
    if at_once and leak == 1:
        return torch.stack([logits] * waiting + [*(logits + drives.cumsum(0))])
    found = []
    for now in [None] * waiting + [*drives]:
        logits = logits if leak == 1 else leak * logits
        logits = logits if now is None else logits + now
        found.append(logits)
    return torch.stack(found)


def gathered(run, forked, decodes):
    """What the decoder gets at the steps at which it runs, (t, B, ...), None for none: forked, its input (T, B, ...), summed
    since it last ran, in place. decodes: for each step, whether it runs."""
    inflow = []
    for codes, now in zip(forked, decodes, strict=True):
        run.waiting = run.waiting + codes
        if now:
            inflow.append(run.waiting)
            run.waiting = 0
    return torch.stack(inflow) if inflow else None


def placed(counts, steps, among, image):
    """Counts (t, B) of these steps, None for none, as (T, B) of the T steps among: 0 in all others."""
    if len(steps) == len(among):
        return counts
    found = image.new_zeros(len(among), len(image), dtype=torch.float32)
    if steps:
        found[[step - among[0] for step in steps]] = counts
    return found


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
