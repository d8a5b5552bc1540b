"""What the models return, and how spikes are added up by part of the network."""

from typing import NamedTuple

import torch

INPUT = "input"  # what a network calls its input, among its layers
PARTS = {INPUT: "input", "features": "encoder", "generate": "decoder", "classifier": "classifier"}


class Sums(NamedTuple):
    """What a run gives in place of frames (T, B, C, H, W): errors (T, B), summed over pixels, None without feedback;
    open_share (T, B), share of active input pixels open, None from a model that does not block."""

    errors: torch.Tensor | None
    open_share: torch.Tensor | None


class ANNOutput(NamedTuple):
    """logits (B, labels); predictions and errors = (x - p)^2, (T, B, C, H, W), None without feedback or frames; sums: instead."""

    logits: torch.Tensor
    predictions: torch.Tensor | None
    errors: torch.Tensor | None
    sums: Sums | None = None


class SNNOutput(NamedTuple):
    """What a run of T steps gives. logits: (B, labels). predictions, errors = (x - p)^2: (T, B, C, H, W), None for a plan without
    feedback. spikes: layer name -> spikes per image over all steps (B,), 'input' for the input neurons, then one key per spiking
    layer in the order encoder, decoder, classifier. steps: steps each image took (B,). predicted: bool (T, B, C, H, W), pixels
    within epsilon at that step; is_open: bool, same shape, input neurons that could spike at that step. Both only from models
    that block, else None. comparisons: pixels compared with their prediction over the run (B,). sums: where no frames are kept.
    logits_by_step: the logits after each step (T, B, labels). spikes_by_step: layer name -> spikes of each step (T, B). recorded:
    layer name -> 'spikes', bool, and 'membrane', float32 after the reset of that step, (T, B, ...), as far as `record` asked for
    them, else None. Once an image has stopped nothing spikes, and membranes stay."""

    logits: torch.Tensor
    predictions: torch.Tensor | None
    errors: torch.Tensor | None
    spikes: dict
    steps: torch.Tensor
    predicted: torch.Tensor | None = None
    is_open: torch.Tensor | None = None
    comparisons: torch.Tensor | None = None
    sums: Sums | None = None
    logits_by_step: torch.Tensor | None = None
    spikes_by_step: dict | None = None
    recorded: dict | None = None


def errors_by_step(output):
    """Squared error of an ANNOutput or SNNOutput at each step, summed over an image's pixels (T, B), None without feedback."""
    if output.sums:
        return output.sums.errors
    return None if output.errors is None else output.errors.sum((2, 3, 4))


def open_share_by_step(output, images):
    """Share of each image's active (non-zero) input pixels that were open at each step (T, B), None where nothing blocks."""
    if output.sums:
        return output.sums.open_share
    return (
        None
        if output.is_open is None
        else share_of_active(output.is_open, by_step(images, output.steps))
    )


def by_step(images, steps=None, ahead=0):
    """Images (B, C, H, W) as they are, or the frames that recordings (B, T, C, H, W) show in each step, (T, B, C, H, W). steps:
    how many each took (B,), after which the last stays. ahead: of each step the frame that comes so many later."""
    if images.dim() == 4:
        return images
    shown = torch.arange(images.shape[1], device=images.device)[:, None].expand(-1, len(images))
    shown = shown if steps is None else torch.minimum(shown, steps - 1)
    return images[
        torch.arange(len(images), device=images.device),
        (shown + ahead).clamp(max=images.shape[1] - 1),
    ]


def share_of_active(where, images):
    """Share of each image's active pixels among those of where, bool (..., B, C, H, W) -> (..., B); images likewise, or the same
    for all, (B, C, H, W).

    Active is what sends something while it is open: a value other than 0. That is not a matter of light: black is silent in
    a grey image, and in a colour one, where it is -1, it sends.
    """
    active = images != 0
    return (where & active).sum((-3, -2, -1)) / active.sum((-3, -2, -1)).clamp(min=1)


def part_of(layer):
    """Part that a layer belongs to: input, encoder, decoder or classifier; beside these stages that of the stage with which its
    name begins (generate2: decoder), else the encoder."""
    if layer == INPUT:
        return PARTS[INPUT]
    for stage, part in PARTS.items():
        if stage != INPUT and layer.startswith(stage):  # a layer called input_gain is no input
            return part
    return "encoder"


def spiking_parts(layers):
    """Return the parts of a network that have a spiking layer.

    Parameters
    ----------
    layers : iterable of str
        Names of what spikes: ``input``, and the layers, as in ``SNNOutput.spikes``.

    Returns
    -------
    list of str
        Of input, encoder, decoder and classifier those with one of these layers. A decoder
        whose last layer does not spike, and that has no other, is missing.
    """
    parts = {part_of(layer) for layer in layers}
    return [part for part in PARTS.values() if part in parts]


def by_part(spikes):
    """layer -> spikes to input, encoder, decoder, classifier, total -> spikes; numbers or tensors alike."""
    parts = dict.fromkeys(PARTS.values(), 0.0)
    for layer, count in spikes.items():
        parts[part_of(layer)] = parts[part_of(layer)] + count
    return {**parts, "total": total_spikes(spikes)}


def total_spikes(spikes):
    """Spikes of all layers, the input included."""
    return sum(spikes.values())
