"""What a network returns, and how spikes are added up by part of the network."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import torch

INPUT = "input"  # what a network calls its input, among its layers
PARTS = {INPUT: "input", "features": "encoder", "generate": "decoder", "classifier": "classifier"}

Count = TypeVar("Count", float, torch.Tensor)  # of spikes


class Sums(NamedTuple):
    """Sums over pixels, which an output has in place of frames that nobody asked for.

    Attributes
    ----------
    errors : Tensor of shape (T, B) or None
        Squared prediction errors, summed over the pixels of each image. None for a
        network without a decoder.
    open_share : Tensor of shape (T, B), 0 to 1, or None
        Share of each image's active input pixels that were open. None if the gate does
        not block.
    """

    errors: torch.Tensor | None
    open_share: torch.Tensor | None


class ANNOutput(NamedTuple):
    """Outputs of an ANN for a batch of ``B`` images, with ``T`` feedback passes.

    Attributes
    ----------
    logits : Tensor of shape (B, num_classes)
        Logits after the last pass.
    predictions : Tensor of shape (T, B, C, H, W) or None
        The decoder's prediction of the image after each pass. None for a network
        without a decoder, or if no frames were requested.
    errors : Tensor of shape (T, B, C, H, W) or None
        Squared prediction errors, ``(image - predictions) ** 2``. None if
        ``predictions`` is.
    sums : Sums or None
        Sums over pixels, if the network has a decoder and no frames were requested.
    """

    logits: torch.Tensor
    predictions: torch.Tensor | None
    errors: torch.Tensor | None
    sums: Sums | None = None


class SNNOutput(NamedTuple):
    """Outputs of an SNN for a batch of ``B`` images over ``T`` timesteps.

    Once an image has stopped, it sends no spikes, and its membrane potentials keep
    their values.

    Attributes
    ----------
    logits : Tensor of shape (B, num_classes)
        Logits after the last timestep.
    predictions : Tensor of shape (T, B, C, H, W) or None
        The decoder's prediction of the image after each timestep. None for a network
        without a decoder, or if no frames were requested.
    errors : Tensor of shape (T, B, C, H, W) or None
        Squared prediction errors, ``(image - predictions) ** 2``. None if
        ``predictions`` is.
    spikes : dict of {str: Tensor of shape (B,)}
        Spikes of each layer, summed over neurons and timesteps. The first key is
        "input", for the input neurons; the spiking layers follow in the order encoder,
        decoder, classifier.
    steps : Tensor of shape (B,), int64
        Number of timesteps after which each image stopped.
    predicted : Tensor of shape (T, B, C, H, W), bool, or None
        Pixels whose prediction is within epsilon after each timestep. None if the gate
        does not block, or if no frames were requested.
    is_open : Tensor of shape (T, B, C, H, W), bool, or None
        Input neurons that were allowed to spike in each timestep. None if ``predicted``
        is.
    comparisons : Tensor of shape (B,), int64, or None
        Number of comparisons of a pixel with its prediction, over all timesteps.
    sums : Sums or None
        Sums over pixels, if the network has a decoder and no frames were requested.
    logits_by_step : Tensor of shape (T, B, num_classes) or None
        Logits after each timestep.
    spikes_by_step : dict of {str: Tensor of shape (T, B)} or None
        Spikes of each layer in each timestep, with the keys of ``spikes``.
    recorded : dict of {str: dict of {str: Tensor of shape (T, B, ...)}} or None
        What the argument ``record`` asked for. For each layer: "spikes" (bool) and
        "membrane" (float32, the potential after the reset, in the unit of the
        threshold). None if nothing was recorded.
    """

    logits: torch.Tensor
    predictions: torch.Tensor | None
    errors: torch.Tensor | None
    spikes: dict[str, torch.Tensor]
    steps: torch.Tensor
    predicted: torch.Tensor | None = None
    is_open: torch.Tensor | None = None
    comparisons: torch.Tensor | None = None
    sums: Sums | None = None
    logits_by_step: torch.Tensor | None = None
    spikes_by_step: dict[str, torch.Tensor] | None = None
    recorded: dict[str, dict[str, torch.Tensor]] | None = None


def errors_by_step(output: ANNOutput | SNNOutput) -> torch.Tensor | None:
    """Return the squared prediction error in each timestep, summed over pixels.

    Parameters
    ----------
    output : ANNOutput or SNNOutput
        With frames, or with ``sums`` in their place.

    Returns
    -------
    Tensor of shape (T, B) or None
        None for a network without a decoder.
    """
    if output.sums:
        return output.sums.errors
    if output.errors is None:
        return None
    return output.errors.sum((2, 3, 4))


def open_share_by_step(output: SNNOutput, images: torch.Tensor) -> torch.Tensor | None:
    """Return the share of each image's active pixels that were open in each timestep.

    Parameters
    ----------
    output : SNNOutput
        With frames, or with ``sums`` in their place.
    images : Tensor of shape (B, C, H, W), or recordings (B, T, C, H, W)
        What the network has seen.

    Returns
    -------
    Tensor of shape (T, B), 0 to 1, or None
        See ``share_of_active``. None if the gate does not block.
    """
    if output.sums:
        return output.sums.open_share
    if output.is_open is None:
        return None
    return share_of_active(output.is_open, frames_by_step(images, output.steps))


def frames_by_step(
    images: torch.Tensor, steps: torch.Tensor | None = None, ahead: int = 0
) -> torch.Tensor:
    """Return what a network is shown in each timestep.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W), or recordings (B, T, C, H, W)
        A recording shows its frame ``t`` in timestep ``t``.
    steps : Tensor of shape (B,), int64, optional
        Number of timesteps after which each recording stopped. It goes on showing the
        frame of its last timestep.
    ahead : int, default 0
        By how many frames to look ahead; 1 gives the next frame of each timestep. The
        last frame follows itself.

    Returns
    -------
    Tensor of shape (B, C, H, W) or (T, B, C, H, W)
        The images as they are, since they stay; or the frames of the recordings.
    """
    if images.dim() == 4:
        return images
    batch_size, num_frames = images.shape[:2]
    frames = torch.arange(num_frames, device=images.device)[:, None].expand(-1, batch_size)
    if steps is not None:
        frames = torch.minimum(frames, steps - 1)
    frames = (frames + ahead).clamp(max=num_frames - 1)
    return images[torch.arange(batch_size, device=images.device), frames]


def share_of_active(where: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return which share of each image's active pixels a mask covers.

    Active is a pixel that sends something while it is open: one other than 0. That is
    not a matter of light. Black is 0 in a grey image, which is silent; in a colour
    image it is -1, and sends.

    Parameters
    ----------
    where : Tensor of shape (..., B, C, H, W), bool
        The mask.
    images : Tensor of shape (..., B, C, H, W), or (B, C, H, W) for all alike
        The images.

    Returns
    -------
    Tensor of shape (..., B), 0 to 1
        0 for an image without active pixels.
    """
    active = images != 0
    return (where & active).sum((-3, -2, -1)) / active.sum((-3, -2, -1)).clamp(min=1)


def part_of(layer: str) -> str:
    """Return the part of the network that a layer belongs to.

    Parameters
    ----------
    layer : str
        Name of the layer, such as "features.1", or "input".

    Returns
    -------
    {"input", "encoder", "decoder", "classifier"}
        A layer beside these stages belongs to the part of the stage with which its name
        begins ("generate2.1" to the decoder), and else to the encoder.
    """
    if layer == INPUT:
        return PARTS[INPUT]
    for stage, part in PARTS.items():
        if stage != INPUT and layer.startswith(stage):  # a layer called input_gain is no input
            return part
    return "encoder"


def spiking_parts(layers: Iterable[str]) -> list[str]:
    """Return the parts of a network that have a spiking layer.

    Parameters
    ----------
    layers : iterable of str
        Names of what spikes: ``input``, and the layers, as in ``SNNOutput.spikes``.

    Returns
    -------
    list of str
        Of input, encoder, decoder and classifier those with one of these layers. A
        decoder whose last layer does not spike, and that has no other, is missing.
    """
    parts = {part_of(layer) for layer in layers}
    return [part for part in PARTS.values() if part in parts]


def by_part(spikes: Mapping[str, Count]) -> dict[str, Count]:
    """Add up the spikes of each part of the network.

    Parameters
    ----------
    spikes : mapping of {str: float or Tensor}
        Spikes of each layer, such as ``SNNOutput.spikes``.

    Returns
    -------
    dict of {str: float or Tensor}
        Spikes of "input", "encoder", "decoder" and "classifier", and their "total". A
        part without layers has 0.0.
    """
    parts = dict.fromkeys(PARTS.values(), 0.0)
    for layer, count in spikes.items():
        part = part_of(layer)
        parts[part] = parts[part] + count
    return {**parts, "total": total_spikes(spikes)}


def total_spikes(spikes: Mapping[str, Count]) -> Count:
    """Return the spikes of all layers together.

    Parameters
    ----------
    spikes : mapping of {str: float or Tensor}
        Spikes of each layer, those of the input among them.

    Returns
    -------
    float or Tensor
        Their sum.
    """
    return sum(spikes.values())
