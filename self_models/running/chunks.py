"""All steps of a run, some at a time: as many as fit into a bound on memory; images that may stop leave the batch in between."""

from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from self_models.basics import ModelError
from self_models.running.steps import joined, stack_frames

# numbers of the largest layer's signal, of all images and all steps at once in evaluation: what pays for a call, or fills a GPU
AT_ONCE = {"cpu": 2**22, "cuda": 2**25}
LOOKED_AFTER = 4  # steps taken at once while images may stop


def all_steps(model, run, steps, uniforms=None, frames=True):
    """Run T = steps timesteps. Returns their Frame, the steps used per image (B,), and the RunState after them. In evaluation an
    image stops after the first step at which model.rule holds, unless the run streams. uniforms: as in the model's forward;
    frames: whether the Frame has pictures, else sums over them."""
    x, end, parts, stops = run.image, run.steps + steps, [], model.rule.stops and not model.training and not run.streams
    running = torch.arange(len(x), device=x.device)
    taken = torch.full_like(running, steps)
    length = chunk_length(model, x, steps, stops, one_by_one=run.streams or not run.at_once)
    for drawn in drawn_for(model, run, steps, uniforms, length):
        drawn, first = drawn if len(running) == len(x) else drawn[:, running], run.steps
        keeps = not model.training or model.bptt_segments == 0 or first + len(drawn) >= end
        segment = model.segment if keeps else partial(checkpoint, model.segment, use_reentrant=False)
        run, shown = segment(run, drawn, frames)
        ends = None
        if stops:
            may_stop = torch.stack([model.rule.may_stop(state, model.gate.least_steps) for state in run.after(shown)])
            ends = ((may_stop.cumsum(0) == 0).sum(0) + 1).clamp(max=len(drawn))
            taken[running] = first + ends
        if run.watcher:
            run.watcher.settle(run.active_parts, len(run.image), ends)
        parts.append(shown if len(running) == len(x) else shown.among(running, len(x)))
        if stops:
            left = (~may_stop.any(0)).nonzero().flatten()
            if not len(left):
                break
            if len(left) < len(running):
                run, running = run.select(left), running[left]
    shown = stack_frames(parts, joined)
    return shown.until(taken, steps) if stops else shown, taken, run


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
    fit = AT_ONCE.get(x.device.type, AT_ONCE["cpu"]) // max(1, len(x) * model.wiring.largest)
    return max(1, min(fit // LOOKED_AFTER, LOOKED_AFTER) if stops else min(fit, steps))


def check_uniforms(uniforms, steps, x):
    """Raises ModelError where uniforms are given and not of these images' shape."""
    if uniforms is not None and uniforms.shape != (steps, *x.shape):
        raise ModelError(f"uniforms must have shape {(steps, *x.shape)}, not {tuple(uniforms.shape)}")


def drawn_for(model, run, steps, uniforms=None, length=1):
    """The draws of a run's next steps, `length` of them at a time, (length, B, C, H, W): uniforms if given, else run.draws'."""
    x, first = run.image, run.steps
    sends = min(steps, model.timesteps) if model.phased else steps
    check_uniforms(uniforms, sends, x)
    if not model.encoding.uses_draws:
        uniforms = x.new_zeros(()).expand(steps, *x.shape)
    elif sends < steps:
        drawn = run.draws.uniforms(sends, model.image_shape, x.device) if uniforms is None else uniforms
        uniforms = torch.cat([drawn, x.new_zeros(()).expand(steps - sends, *x.shape)])
    if uniforms is not None:
        return iter(uniforms.split(length))
    starts, draws = range(0, steps, length), run.draws
    return (draws.uniforms(min(length, steps - t), model.image_shape, x.device, first + t) for t in starts)
