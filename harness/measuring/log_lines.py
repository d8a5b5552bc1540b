"""Lines of a log, and the record of an evaluation: what a run prints of its figures."""

from datetime import date

from harness.measuring.tables import aligned, figure, percent
from harness.runs.run import command_line
from self_models.basics import ModelError
from self_models.basics.images import ELSEWHERE
from self_models.basics.settings import field_values
from self_models.counting.operations import OperationCounter
from self_models.runtime.outputs import part_of, spiking_parts
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

HELPS_AGAINST_SILENCE = (
    "a lower threshold (--scaling_factor, --default_threshold), more --timesteps, a lower --learning_rate or --spike_penalty, "
    "or --update immediate usually help"
)
FURTHER = (
    "median_steps",
    "p95_steps",
    "interval",
    "comparisons",
    "open_share",
    "operations",
    "energy_joules",
    "energy_event_joules",
)
MOST_CLASSES, WORST = (
    20,
    10,
)  # of which the whole confusion matrix is shown; of more so many accuracies are
LOSSES = ("classification", "reconstruction", "penalty", "_loss", "total")  # as their names end
JUDGES = {
    "held-out": "held out",
    "test": "test (which chooses)",
}  # what an epoch is chosen on, in its line
ENERGIES = "energy_joules", "energy_event_joules"  # layer by layer, event-driven


def running(means, names=("accuracy", *LOSSES, "spikes")):
    """'accuracy 97.10 % | total 0.123 | spikes 4,123' of those of these means that there are; names: their ends."""
    chosen = [(name, means[name]) for end in names for name in means if name.endswith(end)]
    return " | ".join(
        f"{name} {percent(value) if name == 'accuracy' else figure(value)}"
        for name, value in chosen
    )


def epoch_line(epoch, epochs, learned, seconds, on, evaluated=None, best=0.0):
    """One line per epoch: losses and accuracy in training and, where images choose the epoch, on those, best, spikes; seconds."""
    train, judged = (
        means and f"{running(means, LOSSES)}, {running(means, ['accuracy'])}"
        for means in (learned, evaluated)
    )
    line = f"epoch {epoch}/{epochs}: train {train}"
    if evaluated:
        line += f"; {JUDGES[on]} {judged} (best {100 * best:.2f} %)"
        line += (
            f", {figure(evaluated['parts']['total'])} spikes per image"
            if "parts" in evaluated
            else ""
        )
    return f"{line}; {seconds:.1f} s"


def best_line(best, on):
    """'best: epoch 3, held-out accuracy 97.10 %' of the epoch that is kept; on: what it was chosen on."""
    if on == "last epoch":
        return f"last: epoch {best['epoch']}, nothing was chosen"
    warned = ", chosen on the test images" if on == "test" else ""
    return f"best: epoch {best['epoch']}, {on} accuracy {percent(best['accuracy'])}{warned}"


def counts_operations(model, say):
    """True if a model's operations can be counted: an SNN's, but for one with parts of its own, of which a line tells."""
    try:
        return isinstance(model, VGG_SNN_STDB_wFeedback) and bool(OperationCounter(model))
    except ModelError as error:
        say(f"note: {str(error).rpartition(': ')[0]}: there are none in the records")
        return False


def result_lines(result):
    """Accuracy, spikes by part, energy and reconstruction of an evaluation, as lines."""
    yield f"{running(result, ['accuracy'])} on {result['images']:,} images, {result['seconds']:.1f} s"
    if "parts" in result:
        yield spikes_text(result["parts"], result["spikes"])
    if "energy_joules" in result:
        layers, events = (figure(1e6 * result[name]) for name in ENERGIES)
        yield f"energy per image, estimated: {layers} µJ layer by layer, {events} µJ event-driven"
    if "interval" in result:
        yield f"phased: an answer after {result['mean_steps']:.0f} timesteps, an image every {result['interval']}"
    if "error" in result:
        yield f"squared error of the last prediction, summed over an image: {figure(result['error'])}"


def spikes_text(spikes, layers):
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
    shown = {*spiking_parts(layers), "total"}
    counts = [f"{part} {figure(count)}" for part, count in spikes.items() if part in shown]
    return f"spikes per image: {', '.join(counts)}"


def silent_outputs(result):
    """A warning where an SNN's outputs say nothing, since the layer before them sends no spike."""
    hidden = [layer for layer in result.get("spikes", ()) if part_of(layer) == "classifier"]
    if hidden and not result["spikes"][hidden[-1]]:
        words = "sent no spike on any image, so all outputs are 0 and the first class is always predicted"
        yield f"warning: the classifier's last hidden layer {words}: {HELPS_AGAINST_SILENCE}"


def accuracy_by_class(confusion):
    """Accuracy (0 to 1) on the images of each class, None where there are none. confusion[label][predicted]: how many images."""
    return [row[label] / sum(row) if sum(row) else None for label, row in enumerate(confusion)]


def class_lines(confusion, names, of=""):
    """Lines for a reader: accuracy by class, and the matrix; of many classes the lowest accuracies. of: says of what they are."""
    accuracies = [
        (share, name)
        for share, name in zip(accuracy_by_class(confusion), names, strict=True)
        if share is not None
    ]
    if len(names) > MOST_CLASSES:
        worst = ", ".join(
            f"{name} {100 * share:.1f} %" for share, name in sorted(accuracies)[:WORST]
        )
        yield f"accuracy by class{of}, the lowest of {len(names)}: {worst}"
        return
    yield f"accuracy by class{of}: " + ", ".join(
        f"{name} {100 * share:.1f} %" for share, name in accuracies
    )
    yield f"confusion matrix{of} (rows: class, columns: predicted class):"
    yield from aligned(
        [
            ["", *names],
            *(
                [name, *(f"{n:,}" for n in row)]
                for name, row in zip(names, confusion, strict=True)
            ),
        ]
    )


def evaluation_record(model, result, args, **more):
    """The JSON object of an evaluation: what was run, and its figures, see Evaluation.result."""
    settings = model.settings
    record = {
        "event": "evaluation",
        "model": settings["vgg_name"],
        "feedback": model.has_feedback,
        "dataset": settings["dataset"].removeprefix(ELSEWHERE),
        "images": result["images"],
        "timesteps": settings["timesteps"],
        "epsilon": settings.get("epsilon", 0.0),
        **{name: settings[name] for name in ("gate", "encoding") if name in settings},
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
        record |= {
            "rule": settings["rule"],
            "bounds": field_values(model.rule),
        }
    if "parts" in result:
        record |= {"spikes": result["parts"], "spikes_per_layer": result["spikes"]}
    confusion = result["confusion"]
    record |= {
        "classes": model.classes,
        "accuracy_by_class": accuracy_by_class(confusion),
        "confusion": confusion,
    }
    record |= {name: result[name] for name in FURTHER if name in result}
    selected_on = getattr(
        args, "selected_on", None
    )  # what the network's epoch was chosen on, where it is known
    return record | ({"selected_on": selected_on} if selected_on else {}) | more
