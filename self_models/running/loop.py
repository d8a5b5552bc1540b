"""The loop over timesteps, and what changes when another image is shown.

The outputs of a timestep are a dict of tensors of shape (B, ...); those of ``T``
timesteps have the shape (T, B, ...). The keys:

- "logits", (num_classes,): the outputs so far;
- "spikes", (num_layers,): the number of spikes of each layer;
- "prediction", (C, H, W): the prediction of the image, if there is a decoder;
- "predicted" and "is_open", (C, H, W), bool: fields of the next and of the present
  View, if the gate has them;
- "compared", (): the number of pixels that were compared with their prediction;
- (layer, kind): what is recorded of a layer.

If nobody asked for frames, sums over pixels take the place of the three frames:
"error", of the squared prediction error, and "open_share", the share of active pixels
that are open, both ().
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from self_models import plugins
from self_models.errors import ModelError
from self_models.running.outputs import frames_by_step, share_of_active
from self_models.running.state import RunState

# How many values the largest layer's signal may have in an evaluation, over all images
# and timesteps that run together: enough to pay for a call on a CPU, and to fill a GPU.
VALUES_AT_ONCE = {"cpu": 2**22, "cuda": 2**25}
# Most timesteps that run together while images may stop: those after a stop are wasted.
STEPS_BETWEEN_CHECKS = 4
FRAMES = ("prediction", "predicted", "is_open")

Outputs = dict[Any, torch.Tensor]


# --- all timesteps


def run_timesteps(
    model: nn.Module,
    run: RunState,
    num_steps: int,
    uniforms: torch.Tensor | None = None,
    return_frames: bool = True,
) -> tuple[Outputs, torch.Tensor, RunState]:
    """Run a batch of images for a number of timesteps.

    In evaluation an image stops after the first timestep at which ``model.rule`` holds,
    unless the run is open-ended. A stopped image leaves the batch; its last output is
    repeated up to the last timestep.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    run : RunState
        State before the first timestep. It is not changed.
    num_steps : int
        Number of timesteps ``T``.
    uniforms : Tensor of shape (T, B, C, H, W), 0 to 1, optional
        Uniform samples for the input encoding. By default ``run.draws`` gives them.
    return_frames : bool, default True
        Whether to return predictions and masks for every pixel. If False, the outputs
        have their sums over pixels instead.

    Returns
    -------
    outputs : dict of {str: Tensor of shape (T, B, ...)}
        Outputs of every timestep. The docstring of this module lists the keys.
    steps_taken : Tensor of shape (B,), int64
        Number of timesteps after which each image stopped.
    run : RunState
        State after the last timestep, of the images that took part in it.

    Raises
    ------
    ModelError
        If ``uniforms`` has another shape.
    """
    batch_size = len(run.image)
    first_step = run.steps
    may_stop = model.rule.stops and not model.training and not run.is_open_ended
    one_by_one = run.is_open_ended or run.engine is None
    chunk_size = chunk_length(model, run.image, num_steps, may_stop, one_by_one)

    active = torch.arange(batch_size, device=run.image.device)  # images that have not stopped
    steps_taken = torch.full_like(active, num_steps)
    outputs = {}
    for draws in iter_draws(model, run, num_steps, uniforms, chunk_size):
        if len(active) < batch_size:
            draws = draws[:, active]
        start = run.steps - first_step
        is_last = start + len(draws) >= num_steps
        run, chunk = run_chunk(model, run, draws, return_frames, is_last)

        steps_in_chunk = None  # all of them, for every image
        if may_stop:
            holds = rule_holds(model.rule, run.step_states, chunk["logits"])
            steps_before_stop = (holds.cumsum(0) == 0).sum(0)
            steps_in_chunk = (steps_before_stop + 1).clamp(max=len(draws))
            steps_taken[active] = start + steps_in_chunk
        if model.operation_counter:
            model.operation_counter.add(run, len(draws), steps_in_chunk)

        if len(draws) == num_steps:  # the only chunk
            outputs = chunk
        else:
            write_chunk(outputs, chunk, start, active, num_steps)

        if may_stop:
            remaining = (~holds.any(0)).nonzero().flatten()
            if len(remaining) == 0:
                break
            if len(remaining) < len(active):
                run = run.select(remaining)
                active = active[remaining]

    if may_stop:
        repeat_last_output(outputs, steps_taken)
    return outputs, steps_taken, run


def run_chunk(
    model: nn.Module, run: RunState, draws: torch.Tensor, return_frames: bool, is_last: bool
) -> tuple[RunState, Outputs]:
    """Run some timesteps together; arguments and results as of ``model.run_chunk``.

    In training in segments, the backward pass runs all chunks but the last again, which
    saves the memory of what it would need from them.
    """
    if model.training and model.bptt_segments != 0 and not is_last:
        return checkpoint(model.run_chunk, run, draws, return_frames, use_reentrant=False)
    return model.run_chunk(run, draws, return_frames)


def rule_holds(rule: Any, states: Sequence[RunState], logits: torch.Tensor) -> torch.Tensor:
    """Ask a stopping rule after each timestep of a chunk.

    Parameters
    ----------
    rule : Rule
        The stopping rule.
    states : sequence of RunState
        State after each of the ``t`` timesteps. Their logits are not read, since an
        engine adds them up only at the end of the chunk.
    logits : Tensor of shape (t, B, num_classes)
        Logits after each timestep.

    Returns
    -------
    Tensor of shape (t, B), bool
        Whether the rule holds.
    """
    holds = []
    for state, step_logits in zip(states, logits, strict=True):
        holds.append(rule.holds(replace(state, logits=step_logits)))
    return torch.stack(holds)


def chunk_length(
    model: nn.Module,
    images: torch.Tensor,
    num_steps: int,
    may_stop: bool,
    one_by_one: bool = False,
) -> int:
    """Return how many timesteps run together.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    images : Tensor of shape (B, C, H, W)
        The images; only their number and their device count.
    num_steps : int
        Number of timesteps ``T`` of the run.
    may_stop : bool
        Whether an image may stop before the last timestep.
    one_by_one : bool, default False
        Whether an evaluation must take its timesteps one by one: because ``step()``
        runs them, or because the run is open-ended, so that a stream in pieces gives
        what it gives as a whole, to the last bit.

    Returns
    -------
    int
        From 1 to ``T``.
    """
    forgets_between_frames = model.frames and model.settings["surprise"]
    if forgets_between_frames:
        return 1
    if model.timing.takes_all_at_once(model) and not one_by_one:
        return num_steps
    if model.training:
        num_segments = max(1, model.bptt_segments)
        return -(-num_steps // num_segments)  # rounded up
    if one_by_one:
        return 1
    max_values = VALUES_AT_ONCE.get(images.device.type, VALUES_AT_ONCE["cpu"])
    fitting = max_values // max(1, len(images) * model.graph.largest_signal)
    if may_stop:
        length = min(fitting // STEPS_BETWEEN_CHECKS, STEPS_BETWEEN_CHECKS)
    else:
        length = min(fitting, num_steps)
    return max(1, length)


# --- random numbers of the input encoding


def check_uniforms(uniforms: torch.Tensor | None, num_steps: int, images: torch.Tensor) -> None:
    """Check the shape of a caller's uniform samples.

    Parameters
    ----------
    uniforms : Tensor or None
        The samples, if the caller gave any.
    num_steps : int
        Number of timesteps ``T`` in which the input is active.
    images : Tensor of shape (B, C, H, W)
        The images.

    Raises
    ------
    ModelError
        If the shape is not (T, B, C, H, W).
    """
    if uniforms is None:
        return
    expected = (num_steps, *images.shape)
    if uniforms.shape != expected:
        raise ModelError(f"uniforms must have shape {expected}, not {tuple(uniforms.shape)}")


def iter_draws(
    model: nn.Module,
    run: RunState,
    num_steps: int,
    uniforms: torch.Tensor | None = None,
    chunk_size: int = 1,
) -> Iterator[torch.Tensor]:
    """Iterate over the uniform samples of a run's next timesteps, chunk by chunk.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    run : RunState
        State before these timesteps.
    num_steps : int
        Number of timesteps ``T``.
    uniforms : Tensor of shape (t, B, C, H, W), 0 to 1, optional
        Samples of the ``t`` timesteps in which the input is active. By default
        ``run.draws`` gives them.
    chunk_size : int, default 1
        Number of timesteps in a chunk; the last one may be shorter.

    Yields
    ------
    Tensor of shape (chunk_size, B, C, H, W)
        0 where they are not used: in timesteps in which the input is not active, and
        with an encoding that is not random.

    Raises
    ------
    ModelError
        If ``uniforms`` has another shape.
    """
    images = run.image
    first_step = run.steps
    active_steps = model.timing.active_input_steps(model, num_steps)
    check_uniforms(uniforms, active_steps, images)
    unused = images.new_zeros(())
    if not model.encoding.uses_draws:
        uniforms = unused.expand(num_steps, *images.shape)
    elif active_steps < num_steps:
        if uniforms is None:
            uniforms = run.draws.uniforms(active_steps, model.image_shape, images.device)
        unused = unused.expand(num_steps - active_steps, *images.shape)
        uniforms = torch.cat([uniforms, unused])

    if uniforms is not None:
        yield from uniforms.split(chunk_size)
        return
    for start in range(0, num_steps, chunk_size):
        length = min(chunk_size, num_steps - start)
        yield run.draws.uniforms(length, model.image_shape, images.device, first_step + start)


# --- outputs of timesteps


def write_chunk(
    outputs: Outputs,
    chunk: Mapping[Any, torch.Tensor],
    start: int,
    images: torch.Tensor,
    num_steps: int,
) -> None:
    """Write the outputs of some timesteps to those of all, in place.

    Parameters
    ----------
    outputs : dict of {str: Tensor of shape (T, B, ...)}
        Outputs of all timesteps. Empty before the first chunk, which has all images.
    chunk : mapping of {str: Tensor of shape (t, b, ...)}
        Outputs of ``t`` of them, for ``b`` of the images.
    start : int
        The first of these timesteps.
    images : Tensor of shape (b,), int64
        Positions of these images in the batch.
    num_steps : int
        Number of all timesteps ``T``.
    """
    if not outputs:
        for name, values in chunk.items():
            outputs[name] = values.new_zeros(num_steps, *values.shape[1:])
    for name, values in chunk.items():
        timesteps = slice(start, start + len(values))
        if len(images) == outputs[name].shape[1]:
            outputs[name][timesteps] = values
        else:
            outputs[name][timesteps, images] = values


def repeat_last_output(outputs: Outputs, steps_taken: torch.Tensor) -> None:
    """Repeat the last output of each image that has stopped, in place.

    Parameters
    ----------
    outputs : dict of {str: Tensor of shape (T, B, ...)}
        Outputs of all timesteps. What an image only has in a timestep that runs, its
        spikes and its comparisons, becomes 0 in the others.
    steps_taken : Tensor of shape (B,), int64
        Number of timesteps after which each image stopped.
    """
    num_steps = len(outputs["logits"])
    steps = torch.arange(num_steps, device=steps_taken.device)[:, None]
    images = torch.arange(len(steps_taken), device=steps_taken.device)
    for name, values in outputs.items():
        outputs[name] = values[torch.minimum(steps, steps_taken - 1), images]
        is_recorded_spikes = isinstance(name, tuple) and name[1] == "spikes"
        if name in ("compared", "spikes") or is_recorded_spikes:
            outputs[name][steps >= steps_taken] = 0


def stack_outputs(steps: Sequence[Mapping[Any, torch.Tensor]]) -> Outputs:
    """Return the outputs of timesteps, (T, B, ...), from those of each, (B, ...)."""
    return {name: torch.stack([outputs[name] for outputs in steps]) for name in steps[0]}


def sum_over_pixels(
    outputs: Mapping[Any, torch.Tensor], images: torch.Tensor, targets: torch.Tensor
) -> Outputs:
    """Put sums over pixels in the place of frames.

    Parameters
    ----------
    outputs : mapping of {str: Tensor of shape (T, B, ...)}
        Outputs of timesteps, with frames.
    images : Tensor of shape (B, C, H, W) or (T, B, C, H, W)
        What was shown.
    targets : Tensor of shape (B, C, H, W) or (T, B, C, H, W)
        What was to be predicted.

    Returns
    -------
    dict of {str: Tensor of shape (T, B, ...)}
        The other outputs, and "error" and "open_share", where there are such frames.
    """
    sums = {name: values for name, values in outputs.items() if name not in FRAMES}
    if "prediction" in outputs:
        sums["error"] = ((targets - outputs["prediction"]) ** 2).sum((2, 3, 4))
    if "is_open" in outputs:
        sums["open_share"] = share_of_active(outputs["is_open"], images)
    return sums


# --- another image in the place of the one before


def prediction_targets(
    model: nn.Module, images: torch.Tensor, steps: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what a network's predictions are compared with.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network. Its setting ``predict`` says whether a frame of a recording is
        predicted, or the next one.
    images : Tensor of shape (B, C, H, W), or recordings (B, T, C, H, W)
        What it is shown.
    steps : Tensor of shape (B,), int64, optional
        Number of timesteps after which each recording stopped.

    Returns
    -------
    Tensor of shape (B, C, H, W) or (T, B, C, H, W)
        As of ``frames_by_step``.
    """
    ahead = 1 if model.settings["predict"] == "next" else 0
    return frames_by_step(images, steps, ahead)


def show_image(model: nn.Module, run: RunState, image: torch.Tensor) -> None:
    """Show another image from the next timestep on.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network. With its setting ``surprise`` it forgets a part of what it has seen
        if pixels open again.
    run : RunState
        It is changed, but not the dicts and tensors that it has.
    image : Tensor of shape (B, C, H, W)
        The new images. Where they are the same as before, nothing happens.
    """
    if image is run.image:
        return
    changed = image != run.image
    if not changed.any():
        return
    before = run.view
    prediction = model.on_pixel_scale(model.prediction(run))
    run.view = model.gate.on_image_change(image, prediction, before, changed)
    run.image = image
    if model.settings["surprise"] and model.gate.reopens:
        opened = run.view.is_open & ~before.is_open
        if opened.any():
            plugins.load_object(plugins.FORGET)(model, run, opened)
