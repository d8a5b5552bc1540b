"""A run: all its timesteps, some at a time, and what another image changes.

What steps show is a dict of tensors (T, B, ...), or of one step (B, ...): logits so far; spikes of each layer (layers,); where
there are any prediction, predicted and is_open (C, H, W), or in place of these three error, squared and summed over pixels, and
open_share, of active pixels; compared, pixels compared with their prediction; and what is recorded, by (layer, kind).
"""

from dataclasses import replace
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from self_models import assembly
from self_models.basics import ModelError
from self_models.runtime.outputs import by_step, share_of_active

# numbers of the largest layer's signal, of all images and all steps at once in evaluation: what pays for a call, or fills a GPU
AT_ONCE = {"cpu": 2**22, "cuda": 2**25}
LOOKED_AFTER = 4  # steps taken at once while images may stop
OF_ONE_STEP = ("compared", "spikes")  # what is shown of a step alone, as recorded spikes are


# --- all steps


def all_steps(model, run, steps, uniforms=None, frames=True):
    """Run T = steps timesteps. Returns what they show, the steps used per image (B,), and the RunState after them. In evaluation
    an image stops after the first step at which model.rule holds, unless the run is open-ended: its later steps show the last again.
    uniforms: as in the model's forward; frames: whether pictures are shown, else sums over them."""
    x, begin, stops = (
        run.image,
        run.steps,
        model.rule.stops and not model.training and not run.is_open_ended,
    )
    running, shown = (
        torch.arange(len(x), device=x.device),
        {},
    )  # the images that have not stopped; what all steps show
    taken = torch.full_like(running, steps)
    length = chunk_length(
        model, x, steps, stops, one_by_one=run.is_open_ended or run.engine is None
    )
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
    """Steps that run together: all, where the timing says so; in training all or a segment, in evaluation what the bound on
    memory allows; 1 where a recording may surprise, since all layers forget between two frames, where step() is taken step by
    step, and of a run that is open-ended, so that its pieces give what the whole gives to the last bit."""
    if model.frames and model.settings["surprise"]:
        return 1
    if model.timing.takes_all_at_once(model) and not one_by_one:
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
    sends = model.timing.active_input_steps(model, steps)
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


# --- another image in the place of the one before


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
        assembly.load_object(assembly.FORGET)(model, run, opened)
