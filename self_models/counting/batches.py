"""What a model is evaluated on, batch by batch: images for a network of images, and images or
recordings for a network of events (GraphSNN)."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from self_models.basics import ModelError
from self_models.basics.images import (
    TOLERANCE,
    arriving_values,
    check_labels,
    checked_images,
    pixel_values,
    tensor_of,
)
from self_models.basics.settings import COUNT, required
from self_models.objectives.encoders import encode_stills
from self_models.runtime.draws import EVALUATION, Batch, Draws
from self_models.runtime.outputs import INPUT


class Arrival(NamedTuple):
    """How inputs arrive at a network of events.

    Attributes
    ----------
    timesteps : int or None
        For how many timesteps a still image is shown. None for recordings, which have their
        own; a list of recordings may be given a number, else it is that of the longest.
    scale : float or None
        The inputs are pixels, which are divided by this.
    counts : bool
        Bytes are numbers of events.
    encoding : {"constant", "poisson"}
        What still images send; see ``encode_stills``.
    """

    timesteps: int | None = None
    scale: float | None = None
    counts: bool = False
    encoding: str = "constant"


class EventBatch(NamedTuple):
    """Some inputs of a network of events.

    Attributes
    ----------
    images : Tensor or list
        Still images (B, ...); recordings (B, T, ...), or a list of B of them as GraphSNN
        takes it.
    labels : Tensor of shape (B,), int64
        Their classes.
    index : Tensor of shape (B,), int64
        Their positions in the set.
    timesteps : int or None
        Timesteps of still images, or of a list of recordings.
    encoding : {"constant", "poisson"} or None
        What still images send. None for recordings.
    """

    images: object
    labels: torch.Tensor
    index: torch.Tensor
    timesteps: int | None = None
    encoding: str | None = None

    def events(self, seed, epoch=EVALUATION):
        """Return what arrives at the network, as GraphSNN takes it."""
        if self.encoding is None:
            return self.images
        draws = Draws(seed, epoch, self.index)
        return encode_stills(self.images, self.timesteps, self.encoding, draws)

    def run(self, model, seed, epoch=EVALUATION, frames=False):
        """Return the network's SNNOutput. It has no frames, whatever ``frames`` says."""
        events = self.events(seed, epoch)
        # Bytes were looked at when the batch was made.
        output = model(events, self.timesteps, counts=True)
        if self.encoding != "constant":
            return output
        # What arrives are values. As with the encoding "direct" of our own SNNs, each one
        # that is not 0 counts as one event, whatever its size.
        sent = (events != 0).flatten(1).sum(1).to(output.spikes[INPUT].dtype)
        return output._replace(spikes=output.spikes | {INPUT: sent})


def split(data, labels, batch_size):
    """Iterate over the data of ``evaluate``: Batches of an ImageSet, else (images, labels)."""
    if labels is not None:
        images, labels = tensor_of(data), tensor_of(labels)
        pairs = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return (pair for pair in pairs if len(pair[0]))  # no images are split into one part
    if hasattr(data, "batches"):  # an ImageSet
        numbers = torch.arange(len(data)).split(batch_size)
        return (data.batch(index) for index in numbers if len(index))
    return DataLoader(data, batch_size) if isinstance(data, Dataset) else data


def image_batches(model, data, labels, batch_size):
    """Iterate over the data of ``evaluate`` for a network of images.

    Parameters
    ----------
    model : VGG_wFeedback or VGG_SNN_STDB_wFeedback
        The network.
    data, labels, batch_size
        As ``evaluate`` takes them.

    Yields
    ------
    Batch
        Checked, on the model's device.

    Raises
    ------
    ModelError
        For images or labels that do not fit, and where there are none.
    """
    device = next(model.parameters()).device
    begin = 0
    for part in split(data, labels, batch_size):
        if not isinstance(part, Batch):
            images, part_labels = part
            part = Batch(images, part_labels, torch.arange(begin, begin + len(images)))
        check_labels(part.labels, len(part.images), model.settings["labels"])
        images = checked_images(part.images, model, model.frames).to(device)
        yield part._replace(images=images, labels=part.labels.to(device))
        begin += len(images)
    if not begin:
        raise ModelError("data must have at least one image")


def event_batches(model, data, labels, batch_size, arrival):
    """Iterate over the data of ``evaluate`` for a network of events.

    Parameters
    ----------
    model : GraphSNN
        The network.
    data, labels, batch_size
        As ``evaluate`` takes them.
    arrival : Arrival
        How the data arrive at the network.

    Yields
    ------
    EventBatch
        Checked, on the model's device.

    Raises
    ------
    ModelError
        For inputs or labels that do not fit, where there are none, and for an Arrival that
        cannot be.
    """
    if arrival.timesteps is not None:
        required(COUNT, "timesteps", arrival.timesteps)
    if isinstance(data, (list, tuple)) and labels is not None:
        yield from listed_recordings(model, data, tensor_of(labels), batch_size, arrival)
        return
    if hasattr(data, "batches"):
        data = with_values(data, model, arrival)
        arrival = arrival._replace(scale=None)
    parameter = next(model.parameters(), None)
    device = "cpu" if parameter is None else parameter.device
    begin = 0
    for part in split(data, labels, batch_size):
        if isinstance(part, Batch):
            images, part_labels, index = part
        else:
            images, part_labels = part
            index = torch.arange(begin, begin + len(images))
        check_labels(part_labels, len(images), model.class_count)
        batch = fitted(model, torch.as_tensor(images), arrival)
        yield batch._replace(
            images=batch.images.to(device), labels=part_labels.to(device), index=index
        )
        begin += len(images)
    if not begin:
        raise ModelError("data must have at least one image")


def listed_recordings(model, recordings, labels, batch_size, arrival):
    """Iterate over EventBatches of recordings whose events are listed, as GraphSNN takes them.

    All recordings have as many timesteps as the longest, so that the batch size changes
    nothing.
    """
    if not recordings:
        raise ModelError("data must have at least one recording")
    if arrival.scale is not None or arrival.encoding != "constant":
        raise ModelError("scale and encoding are for images, and these are recordings")
    check_labels(labels, len(recordings), model.class_count)
    timesteps = arrival.timesteps
    if timesteps is None:
        last = 0
        for rows in map(np.asarray, recordings):
            if rows.ndim == 2 and len(rows):  # the network refuses what is no list of events
                last = max(last, int(rows[:, 0].max()))
        timesteps = last + 1
    for begin in range(0, len(recordings), batch_size):
        part = list(recordings[begin : begin + batch_size])
        part_labels = labels[begin : begin + batch_size]
        yield EventBatch(part, part_labels, torch.arange(begin, begin + len(part)), timesteps)


def fitted(model, images, arrival):
    """Check images or recordings of a network of events.

    Parameters
    ----------
    model : GraphSNN
        The network.
    images : Tensor of shape (B, ...) or (B, T, ...)
        Still images if ``arrival.timesteps`` is given, else recordings. Images may also be
        pictures for a network that takes a vector of all their pixels.
    arrival : Arrival
        How they arrive.

    Returns
    -------
    EventBatch
        The inputs with their values, without labels and positions.

    Raises
    ------
    ModelError
        For a shape or values that do not fit.
    """
    shape = tuple(model.graph.shape)
    given = tuple(images.shape[1:])
    sizes = ", ".join(map(str, shape))
    wanted = f"images (B, {sizes}) with timesteps=T, or recordings (B, T, {sizes})"
    is_picture = len(shape) == 1 and len(given) == 3 and images[0].numel() == shape[0]
    if is_picture and arrival.timesteps is not None:
        images = images.flatten(1)
        given = shape
    if given == shape and arrival.timesteps is None:
        raise ModelError(
            f"data of shape {tuple(images.shape)} are still images: say for how many timesteps "
            "each of them is shown, timesteps=T"
        )
    if given != shape and given[1:] != shape:
        raise ModelError(f"this network takes {wanted}, not {tuple(images.shape)}")

    images = arriving_values(images, arrival.scale, arrival.counts)
    if images.is_floating_point() and not images.isfinite().all():
        raise ModelError("some values of the data are not finite")
    if given != shape:
        if arrival.timesteps not in (None, given[0]):
            raise ModelError(
                f"these recordings have {given[0]} timesteps of their own: leave out "
                f"timesteps={arrival.timesteps}"
            )
        if arrival.encoding != "constant":
            raise ModelError("encoding is for still images, and these are recordings")
        return EventBatch(images, None, None)
    images = images.float()
    if arrival.encoding == "poisson" and images.abs().max() > 1 + TOLERANCE:
        raise ModelError(
            "poisson takes values for probabilities, so they must lie in [-1, 1]; these reach "
            f"{images.abs().max():g}: give a scale"
        )
    return EventBatch(images, None, None, arrival.timesteps, arrival.encoding)


def with_values(image_set, model, arrival):
    """Return an ImageSet whose batches have the values that a network of events takes.

    Parameters
    ----------
    image_set : ImageSet
        Its bytes are pixels, or parts of a bound in a recording; it may have floats.
    model : GraphSNN
        The network. Its ``has_signed_pixels`` says in which range pixels lie.
    arrival : Arrival
        A ``scale`` in it replaces the network's range.

    Returns
    -------
    ImageSet
        The same images, as floats.

    Raises
    ------
    ModelError
        If ``arrival`` says that the bytes are numbers of events.
    """
    if arrival.counts:
        raise ModelError("counts=True is for arrays of recordings: an ImageSet has no counts")

    def change(pixels):
        if image_set.change:
            pixels = image_set.change(pixels)
        if arrival.scale is not None:
            return arriving_values(pixels, arrival.scale)
        if pixels.is_floating_point():
            return pixels
        return pixel_values(pixels, model.has_signed_pixels)

    return replace(image_set, change=change)
