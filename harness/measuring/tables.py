"""Figures as lines and tables for a reader, and as records for programs."""

import csv
import io
import json
from itertools import zip_longest

from harness.runs.saving import write_whole
from self_models.runtime.outputs import PARTS, spiking_parts

NOT_DEFINED = "-: not defined, since spikes or difficulty are the same for all images"
COLUMNS = (
    "95 %: timesteps within which 95 % of the images end; rho: Spearman's rank correlation of an image's spikes with its "
    "difficulty (a small margin after all timesteps); per intensity: the same of spikes per total intensity (sum of the pixels); "
    "faster: images per second, relative to all timesteps"
)
OPERATIONS = {
    "effective_acs": "effective ACs",
    "effective_macs": "effective MACs",
    "dense": "dense",
    "event_acs": "event-driven ACs",
}


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


# --- an evaluation


def save_results_json(path, records):
    """Write the records as one JSON list."""
    write_whole(path, lambda file: file.write(json.dumps(records, indent=1).encode()))


# --- tables of the post-hoc scripts, as lines, from evaluation records


def record_parts(record):
    """Return the parts with a spiking layer, of the network of an evaluation record.

    Where the record does not list layers, as those of epochs and of ``results.json``,
    they are the parts that sent a spike.
    """
    if record.get("spikes_per_layer"):
        return spiking_parts(record["spikes_per_layer"])
    spikes = record.get("spikes") or {}
    return [part for part, count in spikes.items() if count and part != "total"]


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
