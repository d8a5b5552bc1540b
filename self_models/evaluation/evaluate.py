"""An evaluation: what a model's outputs, batch by batch, add up to."""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from self_models.data.images import light
from self_models.data.sets import ImageSet
from self_models.devices import wide
from self_models.errors import ModelError
from self_models.evaluation.batches import Arrival, EventBatch, event_batches, image_batches
from self_models.evaluation.operations import OperationCounter, energies
from self_models.feedback.stopping import output_gap
from self_models.running.draws import Batch
from self_models.running.outputs import (
    ANNOutput,
    SNNOutput,
    by_part,
    errors_by_step,
    open_share_by_step,
    total_spikes,
)
from self_models.running.timing import EVERY_TIMESTEP
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

MEANS = {  # figure of each image -> what an evaluation calls its mean
    "correct": "accuracy",
    "error": "error",
    "steps": "mean_steps",
    "comparisons": "comparisons",
}


class Average:
    """Running means of figures, weighted by images.

    Sums are kept as tensors, so that adding does not wait for a GPU.

    Parameters
    ----------
    sums : dict of {str: Tensor}, optional
        Sums over images so far.
    images : int, default 0
        How many images these are.
    """

    def __init__(self, sums: dict | None = None, images: int = 0):
        self.sums = sums or {}
        self.images = images

    def add(self, images: int, **figures: float | torch.Tensor) -> None:
        """Add figures, numbers or tensors of any shape, that are means over images."""
        self.images += images
        for name, value in figures.items():
            value = torch.as_tensor(value).detach()
            # A checkpoint's sums lie on the CPU.
            sums = torch.as_tensor(self.sums.get(name, 0), device=value.device)
            self.sums[name] = sums + value.to(wide(value.device)) * images

    def means(self) -> dict[str, float | list]:
        """Return the mean of each figure: a number, or a list of them."""
        return {name: (value / self.images).tolist() for name, value in self.sums.items()}

    def __add__(self, other: "Average") -> "Average":
        """Return the Average over the images of both."""
        sums = dict(other.sums)
        for name, value in self.sums.items():
            sums[name] = value + other.sums.get(name, 0)
        return Average(sums, self.images + other.images)


class Figures(dict):
    """What an evaluation found: a dict that prints without figures of each image."""

    def __repr__(self):
        """Return the dict as text, in which names stand for the tensors of images."""
        shown = dict(self)
        if "per_image" in self:
            names = ", ".join(self["per_image"])
            shown["per_image"] = f"(tensors, one value per image: {names})"
        return repr(shown)


class Evaluation(ExitStack):
    """Adds up what a network's outputs say, batch by batch.

    ``add`` the output of each batch, then ask for the ``result``. To count operations,
    run the network inside ``with Evaluation(model, count_operations=True) as
    evaluation``.

    Parameters
    ----------
    model : VGG_wFeedback, VGG_SNN_STDB_wFeedback or GraphSNN
        The network.
    count_operations : bool or OperationCounter, default False
        Whether to count operations, or what counts them.
    """

    def __init__(self, model: nn.Module, count_operations: bool | OperationCounter = False):
        super().__init__()
        self.average = Average()
        self.spikes = []  # of each batch: layer -> spikes (B,)
        self.per_image = []  # of each batch: name -> figures (B,)
        self.began = time.perf_counter()
        if count_operations is True:
            self.counter = OperationCounter(model)
        else:
            self.counter = count_operations or None
        self.interval = getattr(model, "timing", EVERY_TIMESTEP).interval(model)

    def __enter__(self):
        """Count operations from now on, if they are to be counted."""
        if self.counter:
            self.enter_context(self.counter)
        return self

    def add(
        self,
        output: ANNOutput | SNNOutput,
        images: torch.Tensor,
        labels: torch.Tensor,
        **losses: torch.Tensor,
    ) -> None:
        """Add the output of a batch.

        Parameters
        ----------
        output : ANNOutput or SNNOutput
            What the network returned.
        images : Tensor of shape (B, ...)
            What it was given.
        labels : Tensor of shape (B,), int64
            Their classes.
        **losses : Tensor
            Further means over these images.
        """
        self.per_image.append(figures_per_image(output, images, labels))
        if hasattr(output, "spikes"):
            self.spikes.append({name: count.detach() for name, count in output.spikes.items()})
            open_share = open_share_by_step(output, images)
            if open_share is not None:
                losses["open_share"] = open_share.mean(1)
        self.average.add(len(labels), **losses)

    def result(self) -> dict:
        """Return the figures.

        Returns
        -------
        dict
            Of every network:

            - "images": how many there were;
            - "accuracy": 0 to 1;
            - each of the losses, by its name;
            - "per_image": Tensors of shape (N,), see `figures_per_image`;
            - "seconds" and "images_per_second", counting included;
            - "error", if it has a decoder: squared error of the last prediction, summed
              over an image.

            Of an SNN also, as means per image:

            - "mean_steps", "median_steps", "p95_steps": timesteps;
            - "comparisons" of a pixel with its prediction;
            - "spikes": by layer;
            - "parts": spikes of input, encoder, decoder, classifier and total;
            - "interval": timesteps from an image to the next, if that is not the
              latency;
            - "open_share", if it blocks: a list of T, in each timestep the share of
              active input pixels that were open.

            If operations were counted, "operations", see `OperationCounter.result`, and
            the energies per image, see `energies`.
        """
        images = self.average.images
        per_image = join_batches(self.per_image)
        spikes = join_batches(self.spikes)
        seconds = time.perf_counter() - self.began
        result = {"images": images, **self.average.means(), "per_image": per_image}
        for name, values in per_image.items():
            if name in MEANS:
                result[MEANS[name]] = values.double().mean().item()
        result["seconds"] = seconds
        result["images_per_second"] = images / seconds
        if spikes:
            steps = per_image["steps"].double()
            result["median_steps"] = steps.median().item()
            result["p95_steps"] = steps.quantile(0.95).item()
            mean_spikes = {}
            for name, count in spikes.items():
                mean_spikes[name] = (count.double().sum() / images).item()  # an exact sum
            result["spikes"] = mean_spikes
            result["parts"] = by_part(mean_spikes)
            if self.interval is not None:
                result["interval"] = self.interval
        if self.counter:
            operations = self.counter.result(images)
            sends_values = not self.counter.model.encoding.uses_draws
            result["operations"] = operations
            result |= energies(operations, result["comparisons"], sends_values)
        return result


def join_batches(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Join figures of each image, name -> (B,), of several batches, on the CPU."""
    if not batches:
        return {}
    whole = {}
    for name in batches[0]:
        whole[name] = torch.cat([figures[name] for figures in batches]).cpu()
    return whole


def figures_per_image(
    output: ANNOutput | SNNOutput, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the figures of each image.

    Parameters
    ----------
    output : ANNOutput or SNNOutput
        What the network returned.
    images : Tensor of shape (B, ...)
        What it was given.
    labels : Tensor of shape (B,), int64
        Their classes.

    Returns
    -------
    dict of {str: Tensor of shape (B,)}
        Of every network:

        - "label", and "found", the class that the network found;
        - "correct": whether these are equal;
        - "margin": difference of the two largest logits;
        - "error", if it has a decoder: squared error of the last prediction.

        Of an SNN also:

        - "spikes" of all layers, and "steps", the timesteps taken;
        - "comparisons" of a pixel with its prediction, and "ink", the sum of light.
          Networks of events have neither.
    """
    found = output.logits.argmax(1)
    figures = {
        "label": labels,
        "found": found,
        "correct": found == labels,
        "margin": output_gap(output.logits),
    }
    errors = errors_by_step(output)
    if errors is not None:
        figures["error"] = errors[-1]
    if hasattr(output, "spikes"):
        figures["spikes"] = total_spikes(output.spikes)
        figures["steps"] = output.steps
        if output.comparisons is not None:  # a network of events compares nothing
            figures["comparisons"] = output.comparisons
            figures["ink"] = light(images).sum(tuple(range(1, images.dim())))
    return figures


def evaluate(
    model: nn.Module,
    data: torch.Tensor | np.ndarray | ImageSet | Dataset | DataLoader | list,
    labels: torch.Tensor | np.ndarray | None = None,
    batch_size: int = 64,
    seed: int = 0,
    operations: bool | OperationCounter = True,
    timesteps: int | None = None,
    scale: float | None = None,
    counts: bool = False,
    encoding: str = "constant",
) -> Figures:
    """Measure accuracy, spikes and energy of a network on images or recordings.

    The figures are those that the scripts report for the same images. The random
    numbers of an image follow from the seed and the image's index, so the batch size
    changes nothing. In an ImageSet the index is the place in the data set's file.

    Parameters
    ----------
    model : VGG_wFeedback, VGG_SNN_STDB_wFeedback or GraphSNN
        An ANN, an SNN, or a network of events, such as that of a NIR file.
    data : Tensor or array of shape (N, C, H, W), ImageSet, Dataset or DataLoader
        Images, uint8 or float as the model takes them, with ``labels``. Or, without
        ``labels``, an ImageSet (``load_data`` returns three), a Dataset of (image,
        label) pairs, or a DataLoader, whose batches are taken in its order. For a
        network of events: still images (N, *shape), recordings (N, T, *shape), or a
        list of N recordings, each an array of events, see GraphSNN.
    labels : Tensor or array of shape (N,), optional
        Class of each image, a whole number from 0.
    batch_size : int, default 64
        How many images run at once.
    seed : int, default 0
        Seed of all random numbers.
    operations : bool or OperationCounter, default True
        Whether to count the operations of an SNN, from which its energy follows, or
        what counts them. They are not counted for a network of events; the command
        ``wfeedback nir`` counts its additions.
    timesteps : int, optional
        Network of events only: for how many timesteps a still image is shown.
        Recordings have their own number.
    scale : float, optional
        Network of events only: the data are pixels, which are divided by this number.
        An ImageSet needs none: its bytes are brought to [0, 1], or to [-1, 1] if the
        network's ``has_signed_pixels`` is True.
    counts : bool, default False
        Network of events only: the bytes are numbers of events, and not pixels.
    encoding : {"constant", "poisson"}, default "constant"
        Network of events only: how still images arrive. "constant": each pixel's value
        arrives in each timestep; "poisson": an event arrives with this probability.

    Returns
    -------
    Figures
        A dict, see ``Evaluation.result``, and in it ``confusion``: for each class (row)
        how many of its images were given each class (column).

    Raises
    ------
    ModelError
        If the network does not take these images, labels or arguments, if there are no
        images, or if the network has only one class. If an SNN has a part whose
        operations nobody knows how to count: then pass operations=False. For bytes
        above 1, if neither ``scale`` nor ``counts`` says what they are.
    """
    arrival = Arrival(timesteps, scale, counts, encoding)
    was_training = model.training
    try:
        model.eval()
        if takes_events(model):
            parts = event_batches(model, data, labels, batch_size, arrival)
        elif arrival == Arrival():
            parts = image_batches(model, data, labels, batch_size)
        else:
            raise ModelError(
                "timesteps, scale, counts and encoding are for networks of events, as NIR files "
                "have them: this network has settings of its own, see its change()"
            )
        operations = isinstance(model, VGG_SNN_STDB_wFeedback) and operations
        return evaluate_parts(model, parts, seed, count_operations=operations)
    finally:
        model.train(was_training)


def takes_events(model: nn.Module) -> bool:
    """Return whether a network takes events, as a GraphSNN does, rather than images."""
    return getattr(model, "takes_events", False)


def class_count(model: nn.Module) -> int:
    """Return how many classes a network tells apart."""
    if takes_events(model):
        return model.class_count
    return model.settings["labels"]


@torch.no_grad()
def evaluate_parts(
    model: nn.Module,
    parts: Iterable[Batch | EventBatch],
    seed: int,
    losses: Callable | None = None,
    on_part: Callable[[int, Average], None] | None = None,
    count_operations: bool | OperationCounter = False,
    needs_frames: bool = False,
) -> Figures:
    """Evaluate a model, batch by batch.

    Parameters
    ----------
    model : VGG_wFeedback, VGG_SNN_STDB_wFeedback or GraphSNN
        The network, in evaluation.
    parts : iterable of Batch or EventBatch
        What it is evaluated on.
    seed : int
        Seed of all random numbers.
    losses : callable, optional
        ``losses(output, images, labels)`` returns further means over a batch, by name.
    on_part : callable, optional
        Called after each batch with its number, from 1, and the Average so far.
    count_operations : bool or OperationCounter, default False
        Whether to count operations, or what counts them.
    needs_frames : bool, default False
        Whether ``losses`` looks at predictions, or at blocked pixels.

    Returns
    -------
    Figures
        What `Evaluation.result` returns, and "confusion": a list for each class, of how
        many of its images were found to be of each class.

    Raises
    ------
    ModelError
        For a network of one class.
    """
    num_classes = class_count(model)
    if num_classes == 1:
        raise ModelError(
            "this network has only one class, which it always predicts: an evaluation needs two"
        )
    if hasattr(model, "refresh"):
        model.refresh()
    with Evaluation(model, count_operations) as evaluation:
        for number, part in enumerate(parts, 1):
            output = part.run(model, seed, frames=needs_frames)
            means = losses(output, part.images, part.labels) if losses else {}
            evaluation.add(output, part.images, part.labels, **means)
            if on_part:
                on_part(number, evaluation.average)
    result = evaluation.result()
    labels = result["per_image"]["label"].long()
    found = result["per_image"]["found"]
    confusion = torch.bincount(labels * num_classes + found, minlength=num_classes**2)
    confusion = confusion.view(num_classes, num_classes)  # rows: labels
    return Figures(result | {"confusion": confusion.tolist()})


@torch.no_grad()
def spikes_over_time(
    model: VGG_SNN_STDB_wFeedback, batches: Iterable[Batch], seed: int
) -> tuple[dict[str, list], list | None, float | None]:
    """Return means over batches of what happens in each timestep.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network, in evaluation.
    batches : iterable of Batch
        Images, with or without labels.
    seed : int
        Seed of all random numbers.

    Returns
    -------
    spikes : dict of {str: list of float}
        Layer -> spikes per image in each of the T timesteps.
    open_share : list of float or None
        Share of active input pixels that are open in each timestep. None where nothing
        blocks.
    accuracy : float or None
        From 0 to 1. None without labels.
    """
    average = Average()
    for batch in batches:
        output = batch.run(model, seed)
        figures = {name: count.double().mean(1) for name, count in output.spikes_by_step.items()}
        open_share = open_share_by_step(output, batch.images)
        if open_share is not None:
            figures["open"] = open_share.mean(1)
        if batch.labels is not None:
            figures["right"] = (output.logits.argmax(1) == batch.labels).double().mean()
        average.add(len(batch.images), **figures)
    spikes = average.means()
    open_share = spikes.pop("open", None)
    accuracy = spikes.pop("right", None)
    return spikes, open_share, accuracy
