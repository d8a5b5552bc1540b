"""An evaluation: what a model's outputs, batch by batch, add up to."""

import time
from contextlib import ExitStack

import torch

from self_models.basics import ModelError
from self_models.basics.devices import wide
from self_models.basics.images import light
from self_models.counting.batches import Arrival, event_batches, image_batches
from self_models.counting.operations import OperationCounter, energies
from self_models.objectives.stopping import output_gap
from self_models.runtime.outputs import by_part, errors_by_step, open_share_by_step, total_spikes
from self_models.runtime.timing import EVERY_TIMESTEP
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

MEANS = {
    "correct": "accuracy",
    "error": "error",
    "steps": "mean_steps",
    "comparisons": "comparisons",
}  # of per_image


class Average:
    """Running means of figures, weighted by images; kept as tensors, so that adding does not wait for the device."""

    def __init__(self, sums=None, images=0):
        self.sums, self.images = sums or {}, images

    def add(self, images, **figures):
        """Figures that are means over these images: numbers, or tensors of any shape."""
        self.images += images
        for name, value in figures.items():
            value = torch.as_tensor(value).detach()
            sums = torch.as_tensor(
                self.sums.get(name, 0), device=value.device
            )  # those of a checkpoint lie on the CPU
            self.sums[name] = sums + value.to(wide(value.device)) * images

    def means(self):
        """name -> mean: a number, or a list of them."""
        return {name: (value / self.images).tolist() for name, value in self.sums.items()}

    def __add__(self, other):
        sums = {name: value + other.sums.get(name, 0) for name, value in self.sums.items()}
        return Average({**other.sums, **sums}, self.images + other.images)


class Figures(dict):
    """What an evaluation found, a dict, which prints without the figures of each image."""

    def __repr__(self):
        tensors = f"(tensors, one value per image: {', '.join(self.get('per_image', ()))})"
        return repr(
            {name: tensors if name == "per_image" else value for name, value in self.items()}
        )


class Evaluation(ExitStack):
    """Give it each batch's output, inside `with Evaluation(...) as evaluation` where operations are counted; then result()."""

    def __init__(self, model, count_operations=False):
        super().__init__()
        self.average, self.spikes, self.per_image, self.began = (
            Average(),
            [],
            [],
            time.perf_counter(),
        )
        self.counter = (
            OperationCounter(model) if count_operations is True else count_operations or None
        )
        interval = getattr(model, "timing", EVERY_TIMESTEP).interval(model)
        self.interval = {} if interval is None else {"interval": interval}

    def __enter__(self):
        if self.counter:
            self.enter_context(self.counter)
        return self

    def add(self, output, images, labels, **losses):
        """An ANNOutput or SNNOutput of images (B, C, H, W) with labels (B,); losses: further means over these images."""
        self.per_image.append(figures_per_image(output, images, labels))
        if hasattr(output, "spikes"):
            self.spikes.append({name: count.detach() for name, count in output.spikes.items()})
            shares = open_share_by_step(output, images)
            losses |= {} if shares is None else {"open_share": shares.mean(1)}
        self.average.add(len(labels), **losses)

    def result(self):
        """The figures as a dict: images, accuracy (0 to 1), seconds, images_per_second (counting included), and each of the
        losses; with feedback error (squared error summed over an image after the last step).

        From an SNN also spikes (layer -> mean per image), parts (input, encoder, decoder, classifier, total), mean_steps,
        median_steps, p95_steps, interval (timesteps from an image to the next, where that is not the latency), and comparisons (of a pixel
        with its prediction, per image); from a model that blocks open_share, a list of T: mean share of active input pixels open
        at each step; where they were counted operations, see
        OperationCounter, and their energies per image. per_image: tensors (N,), see figures_per_image.
        """
        average, per_image, spikes = self.average, joined(self.per_image), joined(self.spikes)
        seconds = time.perf_counter() - self.began
        result = {"images": average.images, **average.means(), "per_image": per_image}
        result |= {
            MEANS[name]: values.double().mean().item()
            for name, values in per_image.items()
            if name in MEANS
        }
        result |= {"seconds": seconds, "images_per_second": average.images / seconds}
        if spikes:
            steps = per_image["steps"].double()
            result |= {
                "median_steps": steps.median().item(),
                "p95_steps": steps.quantile(0.95).item(),
            }
            spikes = {
                name: (count.double().sum() / average.images).item()
                for name, count in spikes.items()
            }  # sums are exact
            result |= {"spikes": spikes, "parts": by_part(spikes)} | self.interval
        if self.counter:
            operations = self.counter.result(average.images)
            analog = not self.counter.model.encoding.uses_draws
            result |= {"operations": operations} | energies(
                operations, result["comparisons"], analog
            )
        return result


def joined(batches):
    """Figures of each image, name -> (B,), of several batches as one, on the CPU."""
    return (
        {name: torch.cat([figures[name] for figures in batches]).cpu() for name in batches[0]}
        if batches
        else {}
    )


def figures_per_image(output, images, labels):
    """Figures of each image (B,): label, found (the class), correct, margin (margin of the two largest logits); error; from
    an SNN spikes (all layers), steps, ink (sum of light) and comparisons (of a pixel with its prediction)."""
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
    model,
    data,
    labels=None,
    batch_size=64,
    seed=0,
    operations=True,
    timesteps=None,
    scale=None,
    counts=False,
    encoding="constant",
):
    """Judge a network by labelled images, or a network of events by labelled recordings.

    The figures are those that the scripts report for the same images. Image n (of an
    ImageSet its ``start`` is added) has draws of its own, which follow from the seed and n,
    so the batch size changes nothing.

    Parameters
    ----------
    model : VGG_wFeedback, VGG_SNN_STDB_wFeedback or GraphSNN
        An ANN, an SNN, or a network of events, as ``load`` gives them.
    data : Tensor or array of shape (N, C, H, W), ImageSet, Dataset or DataLoader
        Images, uint8 or float as the model takes them. Without ``labels`` an ImageSet
        (``load_data`` gives three), a Dataset of (image, label) pairs, or a DataLoader, whose
        own batches are taken, in its order. For a network of events still images
        (N, *shape), recordings (N, T, *shape), or a list of N recordings as GraphSNN takes it.
    labels : Tensor or array of shape (N,), optional
        Class of each image, a whole number from 0.
    batch_size : int, default 64
        How many images run at once.
    seed : int, default 0
        Seed of all random numbers.
    operations : bool or OperationCounter, default True
        Whether operations of an SNN are counted, or what counts them. Those of a network of
        events are not: ``wfeedback nir`` counts its additions.
    timesteps : int, optional
        Network of events only: for how many timesteps a still image is shown. Recordings
        have their own.
    scale : float, optional
        Network of events only: the data are pixels, which are divided by this number. Bytes
        of an ImageSet need none: they are brought to [0, 1], or, if the network's
        ``has_signed_pixels`` says so, to [-1, 1].
    counts : bool, default False
        Network of events only: bytes are numbers of events.
    encoding : {"constant", "poisson"}, default "constant"
        Network of events only: how still images arrive. "constant": each pixel's value
        arrives in each timestep; "poisson": an event arrives with this probability.

    Returns
    -------
    Figures
        What ``Evaluation.result`` says, and ``confusion``: for each class, as which classes
        its images were classified.

    Raises
    ------
    ModelError
        For other images or labels, for none, for a network of one class, for an SNN with a
        part that no architecture makes, whose operations are not known, for bytes above 1 of
        which nobody says whether they are pixels or numbers of events, and for arguments
        that this network does not take.
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


def takes_events(model):
    """Whether a network takes events, as a GraphSNN does, rather than images."""
    return getattr(model, "takes_events", False)


def class_count(model):
    """Return how many classes a network tells apart."""
    return model.class_count if takes_events(model) else model.settings["labels"]


@torch.no_grad()
def evaluate_parts(
    model, parts, seed, losses=None, on_part=None, count_operations=False, needs_frames=False
):
    """What Evaluation.result says of a model in evaluation on all Batches of a set, and `confusion`, lists: of the images of each
    class, how many were found to be of each. losses: (output, images, labels) -> further means, by name; needs_frames: whether
    these look at predictions or blocked pixels; on_part: called after each with (its number, Average so far); count_operations: a bool, or the OperationCounter
    that does. Raises ModelError for a network of one class."""
    if class_count(model) == 1:
        raise ModelError(
            "this network has only one class, which it always predicts: an evaluation needs two"
        )
    if hasattr(model, "refresh"):
        model.refresh()
    with Evaluation(model, count_operations) as evaluation:
        for number, part in enumerate(parts, 1):
            output = part.run(model, seed, frames=needs_frames)
            evaluation.add(
                output,
                part.images,
                part.labels,
                **(losses(output, part.images, part.labels) if losses else {}),
            )
            if on_part:
                on_part(number, evaluation.average)
    result = evaluation.result()
    labels, found = (result["per_image"][name] for name in ("label", "found"))
    classes = class_count(model)
    confusion = torch.bincount(labels.long() * classes + found, minlength=classes**2).view(
        classes, classes
    )  # rows: labels
    return Figures(result | {"confusion": confusion.tolist()})


@torch.no_grad()
def spikes_over_time(model, batches, seed):
    """Means over Batches: layer -> spikes per image at each step (T,); the share of active input open (T,), or None; accuracy, or
    None where nobody knows labels."""
    average = Average()
    for batch in batches:
        output = batch.run(model, seed)
        figures = {name: count.double().mean(1) for name, count in output.spikes_by_step.items()}
        if (share := open_share_by_step(output, batch.images)) is not None:
            figures["open"] = share.mean(1)
        if batch.labels is not None:
            figures["right"] = (output.logits.argmax(1) == batch.labels).double().mean()
        average.add(len(batch.images), **figures)
    means = average.means()
    share, accuracy = means.pop("open", None), means.pop("right", None)
    return means, share, accuracy
