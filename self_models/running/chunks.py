"""All steps of a run, some at a time: as many as fit into a bound on memory; images that may stop leave the batch in between."""

import torch
from torch.utils.checkpoint import checkpoint

from self_models.running.steps import join_frames

# numbers of the largest layer's signal, of all images and all steps at once in evaluation: what a cache holds, or fills a GPU
AT_ONCE = {"cpu": 2**20, "cuda": 2**25}
LOOKED_AFTER = 4  # steps taken at once while images may stop


def all_steps(model, x, uniforms, draws, frames, recorder):
    """(Frame of T steps, steps that each image took (B,)) for images x (B, C, H, W).

    In evaluation each image stops after the first step at which model.rule holds, or after T steps. uniforms, draws: as in the
    model's forward; frames: whether the Frame has pictures, else sums over them; recorder: see Recorder.
    """
    run, parts, stops = model.start(x, draws, recorder), [], model.rule.stops and not model.training
    running = torch.arange(len(x), device=x.device)
    taken = torch.full_like(running, model.timesteps)
    for drawn in model.drawn(x, uniforms, draws, chunk_length(model, x)):
        drawn, first = drawn if len(running) == len(x) else drawn[:, running], run.steps
        keeps = not model.training or model.bptt_segments == 0 or first + len(drawn) >= model.timesteps
        run, shown = (model.segment if keeps else recomputed(model.segment))(run, drawn, frames)
        ends = None
        if stops:
            may_stop = torch.stack([model.rule.may_stop(state, model.gate.least_steps) for state in run.after(shown)])
            ends = ((may_stop.cumsum(0) == 0).sum(0) + 1).clamp(max=len(drawn))
            shown, taken[running] = shown.until(ends), first + ends
        if run.watcher:
            run.watcher.settle(run.schedules, len(run.image), ends)
        parts.append(shown if len(running) == len(x) else shown.among(running, parts[-1]))
        if stops:
            left = (~may_stop.any(0)).nonzero().flatten()
            if not len(left):
                parts.append(parts[-1].held(model.timesteps - run.steps))
                break
            if len(left) < len(running):
                run, running = run.select(left), running[left]
    return join_frames(parts), taken


def chunk_length(model, x):
    """Steps that run together: all or a segment in training, in evaluation what the bound on memory allows."""
    if model.training:
        return -(-model.timesteps // max(1, model.bptt_segments))
    fit = max(1, AT_ONCE.get(x.device.type, 2**20) // max(1, len(x) * model.wiring.largest))
    return min(fit, LOOKED_AFTER if model.rule.stops else model.timesteps)


def recomputed(segment):
    """The same function, whose steps a backward pass computes again instead of keeping them."""
    return lambda *arguments: checkpoint(segment, *arguments, use_reentrant=False)
