"""Lines of a log, and the record of an evaluation: what a run prints of its figures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date

from torch import nn

from self_models.data.images import ELSEWHERE
from self_models.errors import ModelError
from self_models.evaluation.operations import OperationCounter
from self_models.running.outputs import part_of, spiking_parts
from self_models.settings import field_values
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.arguments import Arguments
from wfeedback.measuring.tables import aligned, figure, percent
from wfeedback.runs.run import command_line

HELPS_AGAINST_SILENCE = (
    "a lower threshold (--scaling_factor, --default_threshold), more --timesteps, "
    "a lower --learning_rate or --spike_penalty, or --update immediate usually help"
)
FURTHER = (  # figures of an evaluation that its record has only if they were measured
    "median_steps",
    "p95_steps",
    "interval",
    "comparisons",
    "open_share",
    "operations",
    "energy_joules",
    "energy_event_joules",
)
MOST_CLASSES = 20  # of which the whole confusion matrix is shown
WORST = 10  # classes of which accuracies are shown, if there are more classes
LOSSES = ("classification", "reconstruction", "penalty", "_loss", "total")  # as their names end
NO_LOSSES = ("accuracy", "spikes", "spikes_by_layer")  # among the means of an epoch
JUDGES = {  # images that choose the best epoch -> what its line calls them
    "held-out": "held out",
    "test": "test (which chooses)",
}


# --- training


def running(
    means: dict[str, float], names: Iterable[str] = ("accuracy", *LOSSES, "spikes")
) -> str:
    """Write means in a line: "accuracy 97.10 % | total 0.123 | spikes 4,123".

    Parameters
    ----------
    means : dict of {str: float}
        Means over images; accuracy is 0 to 1.
    names : iterable of str
        How the names of those that are shown end, in the order in which they are shown.

    Returns
    -------
    str
        The line. A mean that is not there is left out.
    """
    texts = []
    for end in names:
        for name, value in means.items():
            if name.endswith(end):
                text = percent(value) if name == "accuracy" else figure(value)
                texts.append(f"{name} {text}")
    return " | ".join(texts)


def losses_and_accuracy(means: dict[str, float], losses: list[str]) -> str:
    """Write the losses of these names, and the accuracy."""
    texts = [f"{name} {figure(means[name])}" for name in losses if name in means]
    return f"{' | '.join(texts)}, {running(means, ['accuracy'])}"


def epoch_line(
    epoch: int,
    epochs: int,
    learned: dict[str, float],
    seconds: float,
    on: str,
    evaluated: dict | None = None,
    best: float = 0.0,
) -> str:
    """Write the line of an epoch.

    Parameters
    ----------
    epoch, epochs : int
        Number of the epoch, and of all.
    learned : dict of {str: float}
        Means over the training images.
    seconds : float
        Which it took.
    on : {"held-out", "test", "last epoch"}
        Which images choose the best epoch.
    evaluated : dict, optional
        Means over those images.
    best : float
        Best accuracy on them so far, 0 to 1.

    Returns
    -------
    str
        The line.
    """
    # All terms that compute_losses() returned, also those of somebody's own.
    losses = [name for name in learned if name not in NO_LOSSES]
    line = f"epoch {epoch}/{epochs}: train {losses_and_accuracy(learned, losses)}"
    if evaluated:
        judged = losses_and_accuracy(evaluated, losses)
        line += f"; {JUDGES[on]} {judged} (best {100 * best:.2f} %)"
        if "parts" in evaluated:
            line += f", {figure(evaluated['parts']['total'])} spikes per image"
    return f"{line}; {seconds:.1f} s"


def best_line(best: dict, on: str) -> str:
    """Write which epoch is kept: "best: epoch 3, held-out accuracy 97.10 %".

    Parameters
    ----------
    best : dict
        Its ``epoch`` and ``accuracy``.
    on : {"held-out", "test", "last epoch"}
        Which images have chosen it.

    Returns
    -------
    str
        The line. It warns if the test images have chosen.
    """
    if on == "last epoch":
        return f"last: epoch {best['epoch']}, nothing was chosen"
    warning = ", chosen on the test images" if on == "test" else ""
    return f"best: epoch {best['epoch']}, {on} accuracy {percent(best['accuracy'])}{warning}"


# --- an evaluation


def counts_operations(model: nn.Module, say: Callable[[str], object]) -> bool:
    """Find out whether the operations of a model can be counted.

    Parameters
    ----------
    model : nn.Module
        An SNN or ANN.
    say : callable
        Gets a line on an SNN with parts of its own, whose operations are not known.

    Returns
    -------
    bool
        False for an ANN, too, which has no line.
    """
    if not isinstance(model, VGG_SNN_STDB_wFeedback):
        return False
    try:
        OperationCounter(model)
    except ModelError as error:
        say(f"note: {str(error).rpartition(': ')[0]}: there are none in the records")
        return False
    return True


def result_lines(result: dict) -> Iterator[str]:
    """Yield the lines of an evaluation.

    Parameters
    ----------
    result : dict
        What ``evaluate`` returns: accuracy, and as far as they were measured spikes by
        part, energies, and the error of the prediction.
    """
    accuracy = running(result, ["accuracy"])
    yield f"{accuracy} on {result['images']:,} images, {result['seconds']:.1f} s"
    if "parts" in result:
        yield spikes_text(result["parts"], result["spikes"])
    if "energy_joules" in result:
        layers = figure(1e6 * result["energy_joules"])
        events = figure(1e6 * result["energy_event_joules"])
        yield f"energy per image, estimated: {layers} µJ layer by layer, {events} µJ event-driven"
    if "interval" in result:
        yield (
            f"phased: an answer after {result['mean_steps']:.0f} timesteps, "
            f"an image every {result['interval']}"
        )
    if "error" in result:
        error = figure(result["error"])
        yield f"squared error of the last prediction, summed over an image: {error}"


def spikes_text(spikes: dict[str, float], layers: Iterable[str]) -> str:
    """Say how many spikes the parts of a network send.

    Parameters
    ----------
    spikes : dict of {str: float}
        Spikes per image by part, and ``total``.
    layers : iterable of str
        Names of what spikes, see ``spiking_parts``. Parts without any are left out.

    Returns
    -------
    str
        ``spikes per image: input 334, encoder 2,636, classifier 386, total 3,357``.
    """
    shown_parts = {*spiking_parts(layers), "total"}
    counts = [f"{part} {figure(count)}" for part, count in spikes.items() if part in shown_parts]
    return f"spikes per image: {', '.join(counts)}"


def silent_outputs(result: dict) -> Iterator[str]:
    """Yield a warning if the outputs of an SNN say nothing.

    They say nothing if the layer before them, the last hidden one, sends no spike.

    Parameters
    ----------
    result : dict
        What ``evaluate`` returns.
    """
    hidden = [layer for layer in result.get("spikes", ()) if part_of(layer) == "classifier"]
    if hidden and not result["spikes"][hidden[-1]]:
        yield (
            "warning: the classifier's last hidden layer sent no spike on any image, so all "
            "outputs are 0 and the first class is always predicted: "
            f"{HELPS_AGAINST_SILENCE}"
        )


def accuracy_by_class(confusion: list[list[int]]) -> list[float | None]:
    """Compute the accuracy on the images of each class.

    Parameters
    ----------
    confusion : list of list of int
        ``confusion[label][predicted]`` is a number of images.

    Returns
    -------
    list of float or None
        From 0 to 1. None for a class without images.
    """
    accuracies = []
    for label, row in enumerate(confusion):
        count = sum(row)
        accuracies.append(row[label] / count if count else None)
    return accuracies


def class_lines(
    confusion: list[list[int]], names: Sequence[str], suffix: str = ""
) -> Iterator[str]:
    """Yield lines on the accuracy by class, and the confusion matrix.

    Parameters
    ----------
    confusion : list of list of int
        ``confusion[label][predicted]`` is a number of images.
    names : sequence of str
        Names of the classes. Of more than `MOST_CLASSES` the lowest accuracies are
        shown, and no matrix.
    suffix : str
        What follows the words "accuracy by class", such as ", epsilon 0.1".
    """
    accuracies = []
    for share, name in zip(accuracy_by_class(confusion), names, strict=True):
        if share is not None:
            accuracies.append((share, name))
    is_long = len(names) > MOST_CLASSES
    if is_long:
        accuracies = sorted(accuracies)[:WORST]
    texts = ", ".join(f"{name} {100 * share:.1f} %" for share, name in accuracies)
    if is_long:
        yield f"accuracy by class{suffix}, the lowest of {len(names)}: {texts}"
        return
    yield f"accuracy by class{suffix}: {texts}"
    yield f"confusion matrix{suffix} (rows: class, columns: predicted class):"
    rows = [["", *names]]
    for name, counts in zip(names, confusion, strict=True):
        rows.append([name, *(f"{count:,}" for count in counts)])
    yield from aligned(rows)


def evaluation_record(model: nn.Module, result: dict, args: Arguments, **more: object) -> dict:
    """Compose the record of an evaluation, for programs.

    Parameters
    ----------
    model : nn.Module
        The network.
    result : dict
        What ``evaluate`` returns.
    args : Arguments
        ``seed``, and ``selected_on``: which images chose the epoch, where that is
        known.
    **more
        Further entries.

    Returns
    -------
    dict
        What was run, and its figures, as JSON knows them.
    """
    settings = model.settings
    name = settings["vgg_name"]
    if settings.get("nodes"):  # the layers of somebody's own ANN, and no architecture
        name = type(model).__name__
    record = {
        "event": "evaluation",
        "model": name,
        "feedback": model.has_feedback,
        "dataset": settings["dataset"].removeprefix(ELSEWHERE),
        "images": result["images"],
        "timesteps": settings["timesteps"],
        "epsilon": settings.get("epsilon", 0.0),
    }
    for name in ("gate", "encoding"):
        if name in settings:
            record[name] = settings[name]
    record |= {
        "class": type(model).__name__,
        "objective": getattr(model, "objective", "none"),
        "engine": getattr(model, "runs_by", "dense"),
        "accuracy": result["accuracy"],
        "mean_steps": result.get("mean_steps"),
        "reconstruction_error": result.get("error"),
        "seconds": result["seconds"],
        "images_per_second": result["images_per_second"],
        "seed": args.seed,
        "date": date.today().isoformat(),
        "command": command_line(),
    }
    if settings.get("rule", "never") != "never":
        record["rule"] = settings["rule"]
        record["bounds"] = field_values(model.rule)
    if "parts" in result:
        record["spikes"] = result["parts"]
        record["spikes_per_layer"] = result["spikes"]
    record["classes"] = model.classes
    record["accuracy_by_class"] = accuracy_by_class(result["confusion"])
    record["confusion"] = result["confusion"]
    for name in FURTHER:
        if name in result:
            record[name] = result[name]
    selected_on = getattr(args, "selected_on", None)
    if selected_on:
        record["selected_on"] = selected_on
    return record | more
