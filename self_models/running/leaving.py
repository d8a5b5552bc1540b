"""A run in which each image stops by itself, and leaves the batch."""

import torch

from self_models.running.outputs import SNNOutput
from self_models.running.steps import Frame, stack_frames


def run_until_stopped(model, x, uniforms, draws):
    """The SNNOutput of images x (B, C, H, W), each stopped after the first step at which model.rule holds, or after T steps.

    uniforms, draws: as in the model's forward. Frames after an image has stopped repeat its last one; its spikes are those until
    it stopped.
    """
    run, running, frames, parts = model.start(x, draws), torch.arange(len(x), device=x.device), [], []
    for t, (drawn,) in enumerate(model.drawn(x, uniforms, draws), 1):
        frames.append(_among_all(model.step(run, drawn[running]), running, frames))
        done = torch.ones_like(running, dtype=torch.bool)
        if t < model.timesteps:
            done = model.rule.may_stop(run, model.gate.least_steps)
        if done.any():
            parts.append((running[done], model.output(run.select(done), Frame(), torch.full_like(running[done], t))))
            run, running = run.select(~done), running[~done]
        if not len(running):
            break
    frames += frames[-1:] * (model.timesteps - len(frames))
    return _join(parts, stack_frames(frames))


def _among_all(frame, running, earlier):
    """The running images' Frame put among all images; those that have stopped keep what the step before shows."""
    if not earlier:
        return frame
    both = zip(frame, earlier[-1], strict=True)
    return Frame(*(None if now is None else old.index_copy(0, running, now) for now, old in both))


def _join(parts, frames):
    """One SNNOutput, in the order of the batch, from (positions, SNNOutput without frames) pairs and all images' frames."""
    order = torch.cat([positions for positions, _ in parts]).argsort()
    outputs = [output for _, output in parts]
    return SNNOutput(
        torch.cat([output.logits for output in outputs])[order],
        frames.prediction,
        frames.error,
        {name: torch.cat([output.spikes[name] for output in outputs])[order] for name in outputs[0].spikes},
        torch.cat([output.steps for output in outputs])[order],
        frames.predicted,
        frames.is_open,
        torch.cat([output.comparisons for output in outputs])[order],
        logits_by_step=frames.logits,
        spikes_by_step=frames.spikes_by_step(outputs[0].spikes),
    )
