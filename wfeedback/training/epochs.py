"""Epochs of training: how long they are, their batches, and their lines in the log."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil

from torch import nn

from self_models.data.sets import ImageSet
from self_models.running.draws import Batch, shuffled
from wfeedback.measuring import log_lines
from wfeedback.runs import ranks
from wfeedback.runs.run import Run, counted

LEAST = 50  # updates of an epoch, where --updates counts
FEW = 300  # updates below which a network from scratch or from a conversion hardly learns


def length_of(
    train_set: ImageSet, batch_size: int, epochs: int, updates: int | None
) -> tuple[ImageSet, int, int]:
    """Work out how long a run trains.

    Parameters
    ----------
    train_set : ImageSet
    batch_size : int
    epochs : int
        Passes over the images; they count without ``updates``.
    updates : int or None
        Weight updates. Epochs then have ``LEAST`` of them or more: a small set is
        passed through several times.

    Returns
    -------
    train_set : ImageSet
        Of an epoch.
    epochs : int
    updates_per_epoch : int
    """
    if updates:
        passes = ceil(LEAST * batch_size / len(train_set))
        train_set = replace(train_set, passes=passes)
        epochs = ceil(updates / ceil(len(train_set) / batch_size))
    return train_set, epochs, ceil(len(train_set) / batch_size)


def plan_lines(
    model: nn.Module, architecture: str, train_set: ImageSet, epochs: int, updates_per_epoch: int
) -> Iterator[str]:
    """Yield a line on the network and how long it trains; a warning if that is short.

    The line says how large the network's checkpoint is, too.
    """
    weights = sum(value.numel() for value in model.state_dict().values())
    total = epochs * updates_per_epoch
    passes = f"{train_set.passes} times each of " if train_set.passes > 1 else ""
    images = counted(len(train_set.images), "image")
    length = f"{counted(total, 'update')} in {counted(epochs, 'epoch')} of {passes}{images}"
    size = f"{weights:,} weights: {length}; checkpoint {4e-6 * weights:.1f} MB"
    yield f"training {architecture}, {size}"
    if total < FEW:
        are_few = f"{counted(total, 'update')} {'is' if total == 1 else 'are'} few"
        yield (
            f"warning: {are_few}: most networks need {FEW} or more: "
            "--updates N sets how many, instead of --epochs"
        )


def training_batches(
    train_set: ImageSet, batch_size: int, seed: int, epoch: int, device, first: int = 0
) -> Iterator[Batch]:
    """Yield this rank's part of the batches of an epoch, in a random order.

    No random generator keeps a state: the order follows from the seed and the epoch, so
    a resumed run gets the same batches.

    Parameters
    ----------
    train_set : ImageSet
    batch_size : int
        Of all ranks together.
    seed, epoch : int
    device : torch.device or str
        Where the images are wanted.
    first : int
        Number of the batch to begin with.
    """
    order = shuffled(len(train_set), seed, epoch)
    for index in order.split(batch_size)[first:]:
        yield train_set.batch(ranks.part(index), device)


def record_epoch(
    run: Run,
    model: nn.Module,
    epoch: int,
    epochs: int,
    learned: dict,
    judged: dict,
    seconds: float,
    selected_on: str,
) -> None:
    """Write the line and the record of an epoch.

    Parameters
    ----------
    run : Run
    model : nn.Module
        Whose thresholds and leaks are recorded.
    epoch, epochs : int
        Number of the epoch, and of all.
    learned : dict
        Means over the training images, see ``Progress.means``.
    judged : dict
        What ``keep_if_best`` returned.
    seconds : float
        Which it took.
    selected_on : str
        Which images choose the best epoch.
    """
    learned = dict(learned)
    by_layer = learned.pop("spikes_by_layer", [])
    silent = []
    if by_layer:
        for name, mean in zip(model.layers, by_layer, strict=True):
            if not mean and name != "input":
                silent.append(name)
    lines = []
    for name in silent:
        lines.append(
            f"warning: epoch {epoch}: layer {name} sent no spike in the whole epoch: "
            f"{log_lines.HELPS_AGAINST_SILENCE}"
        )
    lines.append(log_lines.epoch_line(epoch, epochs, learned, seconds, **judged, on=selected_on))
    record = {"event": "epoch", "epoch": epoch, "train": learned, **judged}
    record["selected_on"] = selected_on
    record["seconds"] = seconds
    if silent:
        record["silent"] = silent
    if hasattr(model, "neurons"):
        neurons = model.neurons()
        record["thresholds"] = {name: neuron.threshold.item() for name, neuron in neurons.items()}
        record["leaks"] = {name: neuron.leak.item() for name, neuron in neurons.items()}
    run.record(*lines, **record)
