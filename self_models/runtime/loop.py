"""A run: what a step hands on to the next, all steps, some at a time, and what another image changes.

What steps show is a dict of tensors (T, B, ...), or of one step (B, ...): logits so far; spikes of each layer (layers,); where
there are any prediction, predicted and is_open (C, H, W), or in place of these three error, squared and summed over pixels, and
open_share, of active pixels; compared, pixels compared with their prediction; and what is recorded, by (layer, kind).
"""

from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from self_models.basics import ModelError
from self_models.runtime.draws import Draws
from self_models.runtime.outputs import by_step, share_of_active

# numbers of the largest layer's signal, of all images and all steps at once in evaluation: what pays for a call, or fills a GPU
AT_ONCE = {"cpu": 2**22, "cuda": 2**25}
LOOKED_AFTER = 4  # steps taken at once while images may stop
SHARES = 2**15  # a leak of whole numbers is so many parts
OF_ONE_STEP = ("compared", "spikes")  # what is shown of a step alone, as recorded spikes are


# --- the state of a run


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
    streams: bool = False  # whether other images may come after these
    recording: torch.Tensor | None = (
        None  # (B, T, C, H, W), whose frame t is seen in step t; None: the image stays
    )
    memory: dict = field(default_factory=dict)  # module name -> state
    nodes: list | None = (
        None  # the graph's, where layers take many steps at once, see fast; None: step() is taken
    )
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


# --- all steps


def all_steps(model, run, steps, uniforms=None, frames=True):
    """Run T = steps timesteps. Returns what they show, the steps used per image (B,), and the RunState after them. In evaluation
    an image stops after the first step at which model.rule holds, unless the run streams: its later steps show the last again.
    uniforms: as in the model's forward; frames: whether pictures are shown, else sums over them."""
    x, begin, stops = (
        run.image,
        run.steps,
        model.rule.stops and not model.training and not run.streams,
    )
    running, shown = (
        torch.arange(len(x), device=x.device),
        {},
    )  # the images that have not stopped; what all steps show
    taken = torch.full_like(running, steps)
    length = chunk_length(model, x, steps, stops, one_by_one=run.streams or run.nodes is None)
    for drawn in drawn_for(model, run, steps, uniforms, length):
        drawn, at = drawn if len(running) == len(x) else drawn[:, running], run.steps - begin
        keeps = not model.training or model.bptt_segments == 0 or at + len(drawn) >= steps
        segment = (
            model.segment if keeps else partial(checkpoint, model.segment, use_reentrant=False)
        )
        run, now = segment(run, drawn, frames)
        ends = None  # after how many of these steps an image stops
        if stops:
            after = (
                replace(state, logits=logits)
                for state, logits in zip(run.reached, now["logits"], strict=True)
            )
            may_stop = torch.stack([model.rule.holds(state) for state in after])
            ends = ((may_stop.cumsum(0) == 0).sum(0) + 1).clamp(max=len(drawn))
            taken[running] = at + ends
        if model.watcher:
            model.watcher.add(run, len(drawn), ends)
        if len(drawn) == steps:
            shown = now
        else:
            shown = shown or {
                name: values.new_zeros(steps, *values.shape[1:]) for name, values in now.items()
            }
            rows = slice(at, at + len(drawn))
            for name, values in now.items():
                shown[name][rows if len(running) == len(x) else (rows, running)] = values
        if stops:
            left = (~may_stop.any(0)).nonzero().flatten()
            if not len(left):
                break
            if len(left) < len(running):
                run, running = run.select(left), running[left]
    return until(shown, taken) if stops else shown, taken, run


def until(shown, taken):
    """What steps show of images that stop after so many of them (B,), in place: later ones show the last one again, count 0."""
    step, image = (
        torch.arange(len(shown["logits"]), device=taken.device)[:, None],
        torch.arange(len(taken), device=taken.device),
    )
    for name, values in shown.items():
        shown[name] = values[torch.minimum(step, taken - 1), image]
        if name in OF_ONE_STEP or name[-1] == "spikes":
            shown[name][step >= taken] = 0
    return shown


def stacked(steps):
    """What each of T steps shows, as one."""
    return {name: torch.stack([shown[name] for shown in steps]) for name in steps[0]}


def summed(shown, seen, targets):
    """What steps show, with sums over pixels in place of pictures; seen: the images, targets: what was to be predicted."""
    sums = {
        name: values
        for name, values in shown.items()
        if name not in ("prediction", "predicted", "is_open")
    }
    if "prediction" in shown:
        sums["error"] = ((targets - shown["prediction"]) ** 2).sum((2, 3, 4))
    if "is_open" in shown:
        sums["open_share"] = share_of_active(shown["is_open"], seen)
    return sums


def chunk_length(model, x, steps, stops, one_by_one=False):
    """Steps that run together: of a phased network all; in training all or a segment, in evaluation what the bound on memory
    allows; 1 where a recording may surprise, since all layers forget between two frames, where step() is taken step by step, and
    of a stream, so that its pieces give what the whole gives to the last bit."""
    if model.frames and model.settings["surprise"]:
        return 1
    if model.phased and not one_by_one:
        return steps
    if model.training:
        return -(-steps // max(1, model.bptt_segments))
    if one_by_one:
        return 1
    fit = AT_ONCE.get(x.device.type, AT_ONCE["cpu"]) // max(1, len(x) * model.graph.largest)
    return max(1, min(fit // LOOKED_AFTER, LOOKED_AFTER) if stops else min(fit, steps))


def check_uniforms(uniforms, steps, x):
    """Raises ModelError where uniforms are given and not of these images' shape."""
    if uniforms is not None and uniforms.shape != (steps, *x.shape):
        raise ModelError(
            f"uniforms must have shape {(steps, *x.shape)}, not {tuple(uniforms.shape)}"
        )


def drawn_for(model, run, steps, uniforms=None, length=1):
    """The draws of a run's next steps, `length` of them at a time, (length, B, C, H, W): uniforms if given, else run.draws'."""
    x, first, draws = run.image, run.steps, run.draws
    sends = min(steps, model.timesteps) if model.phased else steps
    check_uniforms(uniforms, sends, x)
    if not model.encoding.uses_draws:
        uniforms = x.new_zeros(()).expand(steps, *x.shape)
    elif sends < steps:
        drawn = (
            draws.uniforms(sends, model.image_shape, x.device) if uniforms is None else uniforms
        )
        uniforms = torch.cat([drawn, x.new_zeros(()).expand(steps - sends, *x.shape)])
    if uniforms is not None:
        return iter(uniforms.split(length))
    return (
        draws.uniforms(min(length, steps - t), model.image_shape, x.device, first + t)
        for t in range(0, steps, length)
    )


# --- another image in the place of the one before, and what is forgotten then


def prediction_targets(model, x, steps=None):
    """What a model's predictions of each step are compared with, for images or recordings x. steps: see by_step."""
    return by_step(x, steps, ahead=model.settings["predict"] == "next")


def show_image(model, run, image):
    """Put another image (B, C, H, W) in the place of the run's own, from its next step on; the run changes, not its memory."""
    if image is run.image or not (changed := image != run.image).any():
        return
    before = run.view
    run.view = model.gate.on_image_change(
        image, model.on_pixel_scale(model.prediction(run)), before, changed
    )
    run.image = image
    if (
        model.settings["surprise"]
        and model.gate.reopens
        and (opened := run.view.is_open & ~before.is_open).any()
    ):
        forget(model, run, opened)


def forget(model, run, opened):
    """Forget, likewise, as much as the image surprises, of which these pixels, bool (B, C, H, W), have just opened again: a share
    r of the active ones. Outputs, membranes, as far as they are from rest, and the read-out's sum keep 1 - min(1, gain r), the
    sum of these pixels nothing; where any has opened all pixels are judged anew."""
    keep = 1 - (model.settings["surprise"] * share_of_active(opened, run.image)).clamp(max=1)
    neurons, run.memory = model.neurons(), dict(run.memory)
    for name in run.memory.keys() & neurons.keys():
        state, rest = run.memory[name], neurons[name].rest
        run.memory[name] = state._replace(v=rest + decayed(state.v - rest, keep))
    run.readout_sum, run.logits = (
        decayed(run.readout_sum, keep).masked_fill(opened, 0),
        decayed(run.logits, keep),
    )
    judged = model.gate.next_view(run.image, model.on_pixel_scale(model.prediction(run)), run.view)
    run.view = chosen(opened.flatten(1).any(1), judged, run.view)


def chosen(images, view, other):
    """The View that is `view` for these images, bool (B,), and `other` for the rest, with 0 for what that lacks."""

    def each(one, old):
        if one is None:
            return None
        return torch.where(
            images.view(-1, *[1] * (one.dim() - 1)), one, one.new_zeros(()) if old is None else old
        )

    return View(*map(each, view, other))


def in_shares(keep):
    """How many of SHARES parts a share, 0 to 1, is at least: a float32 tensor."""
    return (torch.as_tensor(keep, dtype=torch.float32) * SHARES).floor()


def decayed(values, keep):
    """Values (B, ...) times keep, a number or one for each image (B,). Integers stay integers: both are rounded down, keep to
    whole parts of SHARES."""
    keep = keep.view(-1, *[1] * (values.dim() - 1)) if isinstance(keep, torch.Tensor) else keep
    if values.is_floating_point():
        return values * keep
    return (values.double() * in_shares(keep) / SHARES).floor().to(values.dtype)
