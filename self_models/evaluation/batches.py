"""What a model is evaluated on, batch by batch.

A network of images takes images, a network of events (GraphSNN) images or recordings.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from self_models.data.images import (
    TOLERANCE,
    arriving_values,
    check_labels,
    pixel_values,
    prepare_images,
    tensor_of,
)
from self_models.data.sets import ImageSet
from self_models.errors import ModelError
from self_models.feedback.encoders import encode_stills
from self_models.running.draws import EVALUATION, Batch, Draws
from self_models.running.outputs import INPUT, SNNOutput
from self_models.settings import COUNT, required


class Arrival(NamedTuple):
    """How inputs arrive at a network of events.

    Attributes
    ----------
    timesteps : int or None
        For how many timesteps a still image is shown. None for recordings, which have
        their own; a list of recordings may be given a number, else it is that of the
        longest.
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
        Still images (B, ...); recordings (B, T, ...), or a list of B of them as
        GraphSNN takes it.
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

    def events(self, seed: int, epoch: int = EVALUATION) -> torch.Tensor | list:
        """Return what arrives at the network, as GraphSNN takes it."""
        if self.encoding is None:
            return self.images
        draws = Draws(seed, epoch, self.index)
        return encode_stills(self.images, self.timesteps, self.encoding, draws)

    def run(
        self, model: nn.Module, seed: int, epoch: int = EVALUATION, frames: bool = False
    ) -> SNNOutput:
        """Run a network on this batch.

        Parameters
        ----------
        model : GraphSNN
            The network.
        seed : int
            Seed of the encoding "poisson".
        epoch : int, optional
            Another one gives other random numbers.
        frames : bool, default False
            Not used here: such a network makes no pictures.

        Returns
        -------
        SNNOutput
            Its output, with what still images send counted as input spikes.
        """
        events = self.events(seed, epoch)
        # Bytes were looked at when the batch was made.
        output = model(events, self.timesteps, counts=True)
        if self.encoding != "constant":
            return output
        # What arrives are values. As with the encoding "direct" of our own SNNs, each
        # one that is not 0 counts as one event, whatever its size.
        sent = (events != 0).flatten(1).sum(1).to(output.spikes[INPUT].dtype)
        return output._replace(spikes=output.spikes | {INPUT: sent})


def split_data(
    data: object, labels: torch.Tensor | np.ndarray | None, batch_size: int
) -> Iterable:
    """Split the data of ``evaluate`` into batches.

    Parameters
    ----------
    data, labels, batch_size
        As ``evaluate`` takes them.

    Returns
    -------
    iterable of Batch or of (images, labels)
        Of an ImageSet a Batch each; of everything else pairs of images and labels.

    Raises
    ------
    ModelError
        If labels are given, and they or the data are no tensor or array, or there are
        not as many labels as images; and for a tensor or an array without labels.
    """
    if labels is not None:
        images = tensor_of(data)
        labels = tensor_of(labels)
        for name, values in (("data", images), ("labels", labels)):
            if not isinstance(values, torch.Tensor):
                raise ModelError(
                    f"{name} must be a tensor or an array, not a {type(values).__name__}"
                )
        labels = torch.atleast_1d(labels)
        if len(images) != len(labels):
            raise ModelError(
                f"data has {len(images):,} images, and labels has {len(labels):,} entries: "
                "give each image one label"
            )
        return split_arrays(images, labels, batch_size)
    if isinstance(data, torch.Tensor | np.ndarray):
        raise ModelError("labels are missing: give the class of each image")
    if hasattr(data, "batches"):  # an ImageSet
        return split_image_set(data, batch_size)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size)
    return data


def split_arrays(
    images: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images and labels, so many at once."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    for image_part, label_part in parts:
        if len(image_part):  # torch splits an empty tensor into one empty part
            yield image_part, label_part


def split_image_set(image_set: ImageSet, batch_size: int) -> Iterator[Batch]:
    """Yield the Batches of an ImageSet, so many images at once."""
    for index in torch.arange(len(image_set)).split(batch_size):
        if len(index):
            yield image_set.batch(index)


def image_batches(
    model: nn.Module, data: object, labels: torch.Tensor | np.ndarray | None, batch_size: int
) -> Iterator[Batch]:
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
    for part in split_data(data, labels, batch_size):
        if not isinstance(part, Batch):
            images, part_labels = part
            part = Batch(images, part_labels, torch.arange(begin, begin + len(images)))
        check_labels(part.labels, len(part.images), model.settings["labels"])
        images = prepare_images(part.images, model, model.frames).to(device)
        yield part._replace(images=images, labels=part.labels.to(device))
        begin += len(images)
    if not begin:
        raise ModelError("data must have at least one image")


def event_batches(
    model: nn.Module,
    data: object,
    labels: torch.Tensor | np.ndarray | None,
    batch_size: int,
    arrival: Arrival,
) -> Iterator[EventBatch]:
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
        For inputs or labels that do not fit, where there are none, and for an Arrival
        that cannot be.
    """
    if arrival.timesteps is not None:
        required(COUNT, "timesteps", arrival.timesteps)
    if isinstance(data, (list, tuple)) and labels is not None:
        yield from listed_recordings(model, data, tensor_of(labels), batch_size, arrival)
        return
    if hasattr(data, "batches"):
        data = convert_pixels(data, model, arrival)
        arrival = arrival._replace(scale=None)
    parameter = next(model.parameters(), None)
    device = "cpu" if parameter is None else parameter.device
    begin = 0
    for part in split_data(data, labels, batch_size):
        if isinstance(part, Batch):
            images, part_labels, index = part
        else:
            images, part_labels = part
            index = torch.arange(begin, begin + len(images))
        check_labels(part_labels, len(images), model.class_count)
        batch = make_event_batch(model, torch.as_tensor(images), arrival)
        yield batch._replace(
            images=batch.images.to(device), labels=part_labels.to(device), index=index
        )
        begin += len(images)
    if not begin:
        raise ModelError("data must have at least one image")


def listed_recordings(
    model: nn.Module,
    recordings: Sequence,
    labels: torch.Tensor,
    batch_size: int,
    arrival: Arrival,
) -> Iterator[EventBatch]:
    """Iterate over recordings whose events are listed, as GraphSNN takes them.

    All recordings have as many timesteps as the longest, so that the batch size changes
    nothing.

    Parameters
    ----------
    model : GraphSNN
        The network.
    recordings : sequence of array (n, 4)
        Timestep, polarity, row and column of each event.
    labels : Tensor of shape (N,), int64
        Their classes.
    batch_size : int
        How many run at once.
    arrival : Arrival
        May say how many timesteps there are.

    Yields
    ------
    EventBatch
        On the CPU.

    Raises
    ------
    ModelError
        For labels that do not fit, where there are no recordings, and for an Arrival of
        images.
    """
    if not recordings:
        raise ModelError("data must have at least one recording")
    if arrival.scale is not None or arrival.encoding != "constant":
        raise ModelError("scale and encoding are for images, and these are recordings")
    check_labels(labels, len(recordings), model.class_count)
    timesteps = arrival.timesteps
    if timesteps is None:
        timesteps = latest_timestep(recordings) + 1
    for begin in range(0, len(recordings), batch_size):
        part = list(recordings[begin : begin + batch_size])
        part_labels = labels[begin : begin + batch_size]
        yield EventBatch(part, part_labels, torch.arange(begin, begin + len(part)), timesteps)


def latest_timestep(recordings: Sequence) -> int:
    """Return the number of the last timestep with an event; 0 where there is none."""
    latest = 0
    for recording in recordings:
        rows = np.asarray(recording)
        # Anything that is no list of events is refused by the network later.
        if rows.ndim == 2 and len(rows):
            latest = max(latest, int(rows[:, 0].max()))
    return latest


def make_event_batch(model: nn.Module, images: torch.Tensor, arrival: Arrival) -> EventBatch:
    """Check images or recordings of a network of events.

    Parameters
    ----------
    model : GraphSNN
        The network.
    images : Tensor of shape (B, ...) or (B, T, ...)
        Still images if ``arrival.timesteps`` is given, else recordings. Images may also
        be pictures for a network that takes a vector of all their pixels.
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
    if arrival.timesteps is not None and is_flat_picture(images, shape):
        images = images.flatten(1)
    given = tuple(images.shape[1:])  # (*shape) of a still image, (T, *shape) of a recording
    check_shape(given, shape, images, arrival)
    values = arriving_values(images, arrival.scale, arrival.counts)
    if values.is_floating_point() and not values.isfinite().all():
        raise ModelError("some values of the data are not finite")

    is_recording = given != shape
    if is_recording:
        check_recordings(given[0], arrival)
        return EventBatch(values, labels=None, index=None)
    values = values.float()
    if arrival.encoding == "poisson" and values.abs().max() > 1 + TOLERANCE:
        raise ModelError(
            "poisson takes values for probabilities, so they must lie in [-1, 1]; these reach "
            f"{values.abs().max():g}: give a scale"
        )
    return EventBatch(values, None, None, arrival.timesteps, arrival.encoding)


def is_flat_picture(images: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """Return whether these are pictures for a network that takes a vector of pixels."""
    is_picture = images.dim() == 4
    return is_picture and len(shape) == 1 and images[0].numel() == shape[0]


def check_shape(
    given: tuple[int, ...], shape: tuple[int, ...], images: torch.Tensor, arrival: Arrival
) -> None:
    """Raise ModelError unless inputs fit a network of events.

    Parameters
    ----------
    given : tuple of int
        Shape of an input.
    shape : tuple of int
        What the network takes in a timestep.
    images : Tensor of shape (B, ...)
        The inputs, whose shape the message names.
    arrival : Arrival
        Still images need its number of timesteps.
    """
    if given == shape and arrival.timesteps is None:
        raise ModelError(
            f"data of shape {tuple(images.shape)} are still images: say for how many timesteps "
            "each of them is shown, timesteps=T"
        )
    if given != shape and given[1:] != shape:
        sizes = ", ".join(map(str, shape))
        wanted = f"images (B, {sizes}) with timesteps=T, or recordings (B, T, {sizes})"
        raise ModelError(f"this network takes {wanted}, not {tuple(images.shape)}")


def check_recordings(timesteps: int, arrival: Arrival) -> None:
    """Raise ModelError if an Arrival does not fit recordings of so many timesteps."""
    if arrival.timesteps not in (None, timesteps):
        raise ModelError(
            f"these recordings have {timesteps} timesteps of their own: leave out "
            f"timesteps={arrival.timesteps}"
        )
    if arrival.encoding != "constant":
        raise ModelError("encoding is for still images, and these are recordings")


def convert_pixels(image_set: ImageSet, model: nn.Module, arrival: Arrival) -> ImageSet:
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

    values = partial(
        values_of_pixels,
        change=image_set.change,
        scale=arrival.scale,
        signed=model.has_signed_pixels,
    )
    return replace(image_set, change=values)


def values_of_pixels(
    pixels: torch.Tensor, change: Callable | None, scale: float | None, signed: bool
) -> torch.Tensor:
    """Turn pixels of a batch into what a network of events takes.

    Parameters
    ----------
    pixels : Tensor of shape (B, ...)
        Bytes, or floats.
    change : callable or None
        What the ImageSet itself changes first.
    scale : float or None
        What they are divided by. None: bytes are brought to the network's range, and
        floats stay.
    signed : bool
        Whether that range is [-1, 1], and not [0, 1].

    Returns
    -------
    Tensor of shape (B, ...)
        Floats.
    """
    if change:
        pixels = change(pixels)
    if scale is not None:
        return arriving_values(pixels, scale)
    if pixels.is_floating_point():
        return pixels
    return pixel_values(pixels, signed)
