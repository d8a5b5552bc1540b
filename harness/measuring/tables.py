"""Figures as lines and tables for a reader, and as records for programs."""

import csv
import io
import json
from datetime import date
from itertools import zip_longest

from harness.runs.run import command_line
from harness.runs.saving import write_whole
from self_models.basics import ModelError
from self_models.basics.images import ELSEWHERE
from self_models.basics.settings import settings_in
from self_models.counting.operations import OperationCounter
from self_models.objectives.stopping import RULES
from self_models.runtime.outputs import PARTS, part_of, spiking_parts
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

HELPS_AGAINST_SILENCE = (
    "a lower threshold (--scaling_factor, --default_threshold), more --timesteps, a lower --learning_rate or --spike_penalty, "
    "or --update immediate usually help"
)
NOT_DEFINED = "-: not defined, since spikes or difficulty are the same for all images"
COLUMNS = (
    "95 %: timesteps within which 95 % of the images end; rho: Spearman's rank correlation of an image's spikes with its "
    "difficulty (a small margin after all timesteps); per intensity: the same of spikes per total intensity (sum of the pixels); "
    "faster: images per second, relative to all timesteps"
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
OPERATIONS = {
    "effective_acs": "effective ACs",
    "effective_macs": "effective MACs",
    "dense": "dense",
    "event_acs": "event-driven ACs",
}
ENERGIES = "energy_joules", "energy_event_joules"  # layer by layer, event-driven


# --- words and tables


def figure(value):
    """Four significant digits, thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(share):
    return f"{100 * share:.2f} %"


def signed(rho):
    """'+0.250' of a correlation; a dash where there is none."""
    return "-" if rho is None else f"{rho:+.3f}"


def aligned(rows, left=(0,)):
    """Rows of text, of which some may be shorter, as lines: columns of these numbers to the left, the others to the right."""
    columns = list(zip_longest(*rows, fillvalue=""))
    sides = [str.ljust if number in left else str.rjust for number in range(len(columns))]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(side(*cell) for side, *cell in zip(sides, row, widths, strict=False)).rstrip()
        for row in rows
    ]


def in_words(rows):
    """A table's cells as texts."""
    return [
        [cell if isinstance(cell, str) else "-" if cell is None else figure(cell) for cell in row]
        for row in rows
    ]


def as_text(rows, form):
    """A table as aligned text, md or csv."""
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue().rstrip("\n")
    head, *body = in_words(rows)
    if form == "md":
        return "\n".join(
            f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *body]
        )
    return "\n".join(aligned([head, *body]))


# --- training


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


# --- an evaluation


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


def record_parts(record):
    """Return the parts with a spiking layer, of the network of an evaluation record.

    Where the record does not list layers, as those of epochs and of ``results.json``,
    they are the parts that sent a spike.
    """
    if record.get("spikes_per_layer"):
        return spiking_parts(record["spikes_per_layer"])
    spikes = record.get("spikes") or {}
    return [part for part, count in spikes.items() if count and part != "total"]


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
            "bounds": {name: settings[name] for name in settings_in(RULES[settings["rule"]])},
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


def save_results_json(path, records):
    """Write the records as one JSON list."""
    write_whole(path, lambda file: file.write(json.dumps(records, indent=1).encode()))


# --- tables of the post-hoc scripts, as lines, from evaluation records


def blocking_table(records, baseline=None):
    """Tabulate accuracy, spikes, open input and energy by epsilon.

    Parameters
    ----------
    records : list of dict
        The evaluation records of a network, one for each epsilon.
    baseline : dict, optional
        The record of a network without a decoder, which becomes the last row.

    Returns
    -------
    list of str
        The lines of the table. A part of the network that has no spiking layer has no column.
    """
    all_records = list(records)
    if baseline:
        all_records.append(baseline)
    shown = {part for record in all_records for part in record_parts(record)}
    parts = [part for part in PARTS.values() if part in shown]
    predicts = records[0]["reconstruction_error"] is not None
    has_energy = "energy_event_joules" in records[0]

    head = ["epsilon", "accuracy", *parts, "total"]
    if predicts:
        head.append("open at the end")
    if has_energy:
        head.append("energy event-driven, µJ")
    rows = [head]
    for record in all_records:
        row = ["baseline" if record is baseline else f"{record['epsilon']:g}"]
        row.append(percent(record["accuracy"]))
        own_parts = record_parts(record)
        for part in parts:
            row.append(f"{record['spikes'][part]:,.0f}" if part in own_parts else "-")
        row.append(f"{record['spikes']['total']:,.0f}")
        if predicts:
            open_share = record.get("open_share")
            row.append(f"{100 * open_share[-1]:.1f} %" if open_share else "")
        if has_energy:
            row.append(f"{1e6 * record['energy_event_joules']:.3f}")
        rows.append(row)

    lines = aligned(rows)
    if predicts and "decoder" not in shown:
        lines.append(
            "decoder: sends no spikes; the membrane potentials of its last layer are the prediction"
        )
    if has_energy:
        lines.append("energy: an estimate of the arithmetic alone")
    return lines


def details_table(records):
    """Tabulate operations, energy layer by layer, and reconstruction, for few readers.

    Parameters
    ----------
    records : list of dict
        The evaluation records of a network, one for each epsilon.

    Returns
    -------
    list of str
        The lines of the table and of what it means; none if the records have nothing of it.
    """
    has_operations = "operations" in records[0]
    predicts = records[0]["reconstruction_error"] is not None
    if not has_operations and not predicts:
        return []
    head = ["epsilon"]
    if has_operations:
        head += [*OPERATIONS.values(), "activation sparsity", "energy layer by layer, µJ"]
    if predicts:
        head.append("error")
    rows = [head]
    for record in records:
        row = [f"{record['epsilon']:g}"]
        if has_operations:
            row += [f"{record['operations'][kind]:,.0f}" for kind in OPERATIONS]
            row.append(f"{record['operations']['activation_sparsity']:.4f}")
            row.append(f"{1e6 * record['energy_joules']:.3f}")
        if predicts:
            row.append(f"{record['reconstruction_error']:,.2f}")
        rows.append(row)

    lines = ["details, per image:", *aligned(rows)]
    if has_operations:
        lines.append(
            "effective: an input that is not 0 times a weight that is not 0, as NeuroBench counts; "
            "dense: all of them; AC: accumulate; MAC: multiply-accumulate"
        )
    if predicts:
        lines.append(
            "error: of the last prediction, squared and summed over pixels; at epsilon 0 no "
            "prediction is used or held, and it may go far beyond the image"
        )
    return lines


def choices_table(records, front):
    """Lines of a table: a row for each combination of settings, by spikes; those among them on the front are marked."""
    rows = [["epsilon", "slew", "T", "accuracy", "spikes", "energy, event-driven", ""]]
    for record in sorted(records, key=lambda record: record["spikes"]["total"]):
        settings = [f"{record[name]:g}" for name in ("epsilon", "readout_slew", "timesteps")]
        energy = (
            f"{1e6 * record['energy_event_joules']:.3f} µJ"
            if "energy_event_joules" in record
            else "-"
        )
        figures = percent(record["accuracy"]), f"{record['spikes']['total']:,.0f}", energy
        rows.append([*settings, *figures, "*" if record in front else ""])
    return aligned(rows)


def difficulty_lines(epsilon, correlations):
    """Rank correlations between difficulty and spikes."""
    yield f"Spearman's rank correlation with difficulty (epsilon {epsilon:g}): spikes per image; spikes per total intensity"
    for name, rho in correlations.items():
        yield f"  {name}: {signed(rho['spikes'])}; {signed(rho['spikes_per_ink'])}"
    if any(None in rho.values() for rho in correlations.values()):
        yield NOT_DEFINED


def adaptive_table(series):
    """A row per rule and bound. series: name -> list of (record, per_image)."""
    rows = [
        [
            "rule",
            "accuracy",
            "mean timesteps",
            "median",
            "95 %",
            "spikes",
            "rho",
            "per intensity",
            "images/s",
            "faster",
        ]
    ]
    slowest = series["all timesteps"][0][0]["images_per_second"]
    for name, results in series.items():
        for record, _ in results:
            rows.append(
                [
                    setting_in_words(name, record["bounds"]),
                    percent(record["accuracy"]),
                    f"{record['mean_steps']:.2f}",
                    f"{record['median_steps']:.0f}",
                    f"{record['p95_steps']:.0f}",
                    f"{record['spikes']['total']:,.0f}",
                    signed(record["rank_correlation"]),
                    signed(record["rank_correlation_per_ink"]),
                    f"{record['images_per_second']:.1f}",
                    f"{record['images_per_second'] / slowest:.2f}",
                ]
            )
    return [
        *aligned(rows),
        COLUMNS,
        *([NOT_DEFINED] if any(row[6] == "-" for row in rows) else []),
    ]


def setting_in_words(rule, bounds):
    """'confidence gap_bound 2', of a rule's name and its bounds."""
    return " ".join(
        [rule, ", ".join(f"{bound} {value:g}" for bound, value in bounds.items())]
    ).rstrip()


def contrast_table(rows, summary):
    """Accuracy on clean and dimmed images with plain blocking, with contrast and with the controls, then the summary."""
    cases = [key for key in rows[0] if key != "dimming"]
    accuracies = ([row["dimming"], *(percent(row[key]) for key in cases)] for row in rows)
    yield from aligned([["images", *cases], *accuracies])
    yield "mean of dimmed: " + ", ".join(
        f"{key} {percent(summary[f'dimmed_{key}'])}" for key in cases
    )
    if summary["regained"] is not None:
        yield f"contrast recovers {100 * summary['regained']:.0f} % of the accuracy lost to dimming"
