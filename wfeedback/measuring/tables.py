"""Figures as lines and tables for a reader, and as records for programs."""

import csv
import io
import json
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from os import PathLike

from self_models.running.outputs import PARTS, spiking_parts
from wfeedback.runs.saving import write_whole

NOT_DEFINED = "-: not defined, since spikes or difficulty are the same for all images"
COLUMNS = (
    "95 %: timesteps within which 95 % of the images end; rho: Spearman's rank correlation of "
    "an image's spikes with its difficulty (a small margin after all timesteps); per "
    "intensity: the same of spikes per total intensity (sum of the pixels); faster: images "
    "per second, relative to all timesteps"
)
OPERATIONS = {
    "effective_acs": "effective ACs",
    "effective_macs": "effective MACs",
    "dense": "dense",
    "event_acs": "event-driven ACs",
}


# --- numbers as text


def figure(value: float) -> str:
    """Format a number: four significant digits, thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(share: float) -> str:
    """Format a share, 0 to 1, in percent."""
    return f"{100 * share:.2f} %"


def blocked_percent(share: float, digits: int = 0) -> str:
    """Format a share of blocked pixels: "100 %" only where all of them are blocked."""
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text} %"


def signed(rho: float | None) -> str:
    """Format a correlation, such as "+0.250"; a dash if it is not defined."""
    return "-" if rho is None else f"{rho:+.3f}"


# --- tables of any content


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Align the columns of a table with spaces.

    Parameters
    ----------
    rows : sequence of sequence of str
        The cells. A row may be shorter than others.
    left : collection of int, default (0,)
        Numbers of the columns that are flush left. All others are flush right.

    Returns
    -------
    list of str
        A line for each row.
    """
    columns = zip_longest(*rows, fillvalue="")
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = []
    for row in rows:
        cells = []
        for number, cell in enumerate(row):
            if number in left:
                cells.append(cell.ljust(widths[number]))
            else:
                cells.append(cell.rjust(widths[number]))
        lines.append("  ".join(cells).rstrip())
    return lines


def in_words(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    """Format the cells of a table.

    Parameters
    ----------
    rows : sequence of sequence of str, float or None
        The cells.

    Returns
    -------
    list of list of str
        Texts as they are, numbers by ``figure``, a dash for None.
    """
    text_rows = []
    for row in rows:
        texts = []
        for cell in row:
            if cell is None:
                texts.append("-")
            elif isinstance(cell, str):
                texts.append(cell)
            else:
                texts.append(figure(cell))
        text_rows.append(texts)
    return text_rows


def as_text(rows: Sequence[Sequence[object]], form: str) -> str:
    """Write a table in one of several formats.

    Parameters
    ----------
    rows : sequence of sequence of str, float or None
        The cells. The first row is the head.
    form : {"text", "md", "csv"}
        Aligned text, Markdown, or values separated by commas, which keep all digits.

    Returns
    -------
    str
        The lines, without a line break at the end.
    """
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue().rstrip("\n")
    head, *body = in_words(rows)
    if form == "md":
        rule = ["---"] + ["---:"] * (len(head) - 1)
        lines = [f"| {' | '.join(row)} |" for row in [head, rule, *body]]
    else:
        lines = aligned([head, *body])
    return "\n".join(lines)


def save_results_json(path: str | PathLike, records: list[dict]) -> None:
    """Write evaluation records as one JSON list."""
    write_whole(path, lambda file: file.write(json.dumps(records, indent=1).encode()))


# --- tables of the post-hoc scripts, from evaluation records


def record_parts(record: dict) -> list[str]:
    """Name the parts of a network that have a spiking layer.

    Parameters
    ----------
    record : dict
        An evaluation record of the network. If it does not list layers, as those of
        epochs and of ``results.json``, they are the parts that sent a spike.

    Returns
    -------
    list of str
        Of "input", "encoder", "decoder" and "classifier".
    """
    if record.get("spikes_per_layer"):
        return spiking_parts(record["spikes_per_layer"])
    spikes = record.get("spikes") or {}
    return [part for part, count in spikes.items() if count and part != "total"]


def parts_of_any(records: Iterable[dict]) -> list[str]:
    """Name the parts that have a spiking layer in any of these networks, in order."""
    spiking = set()
    for record in records:
        spiking.update(record_parts(record))
    return [part for part in PARTS.values() if part in spiking]


def blocking_table(records: list[dict], baseline: dict | None = None) -> list[str]:
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
        The lines of the table. A part of the network that has no spiking layer has no
        column.
    """
    all_records = list(records)
    if baseline:
        all_records.append(baseline)
    parts = parts_of_any(all_records)
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
    if predicts and "decoder" not in parts:
        lines.append(
            "decoder: sends no spikes; the membrane potentials of its last layer are the "
            "prediction"
        )
    if has_energy:
        lines.append("energy: an estimate of the arithmetic alone")
    return lines


def details_table(records: list[dict]) -> list[str]:
    """Tabulate operations, energy layer by layer, and reconstruction, for few readers.

    Parameters
    ----------
    records : list of dict
        The evaluation records of a network, one for each epsilon.

    Returns
    -------
    list of str
        The lines of the table and of what it means; none if the records have nothing of
        it.
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
            "effective: an input that is not 0 times a weight that is not 0, as NeuroBench "
            "counts; dense: all of them; AC: accumulate; MAC: multiply-accumulate"
        )
    if predicts:
        lines.append(
            "error: of the last prediction, squared and summed over pixels; at epsilon 0 no "
            "prediction is used or held, and it may go far beyond the image"
        )
    return lines


def choices_table(records: list[dict], front: list[dict]) -> list[str]:
    """Tabulate combinations of settings, in the order of their spikes.

    Parameters
    ----------
    records : list of dict
        The evaluation records of a network, one for each combination.
    front : list of dict
        Those of them that get a mark, see ``on_front``.

    Returns
    -------
    list of str
        The lines of the table.
    """
    rows = [["epsilon", "slew", "T", "accuracy", "spikes", "energy, event-driven", ""]]
    for record in sorted(records, key=lambda record: record["spikes"]["total"]):
        energy = "-"
        if "energy_event_joules" in record:
            energy = f"{1e6 * record['energy_event_joules']:.3f} µJ"
        rows.append(
            [
                f"{record['epsilon']:g}",
                f"{record['readout_slew']:g}",
                f"{record['timesteps']:g}",
                percent(record["accuracy"]),
                f"{record['spikes']['total']:,.0f}",
                energy,
                "*" if record in front else "",
            ]
        )
    return aligned(rows)


def difficulty_lines(epsilon: float, correlations: dict[str, dict]) -> list[str]:
    """Tell how spikes depend on how difficult an image is.

    Parameters
    ----------
    epsilon : float
        Tolerance of the evaluation.
    correlations : dict of {str: dict of {str: float or None}}
        What ``difficulty_correlations`` returns.

    Returns
    -------
    list of str
        A line for each measure of difficulty, between a head and an explanation.
    """
    lines = [
        f"Spearman's rank correlation with difficulty (epsilon {epsilon:g}): "
        "spikes per image; spikes per total intensity"
    ]
    for name, rho in correlations.items():
        lines.append(f"  {name}: {signed(rho['spikes'])}; {signed(rho['spikes_per_ink'])}")
    if any(None in rho.values() for rho in correlations.values()):
        lines.append(NOT_DEFINED)
    return lines


def adaptive_table(series: dict[str, list[tuple[dict, dict]]]) -> list[str]:
    """Tabulate evaluations with early exit.

    Parameters
    ----------
    series : dict of {str: list of (dict, dict)}
        Name of a stopping rule -> evaluation record, and figures of each image, for
        each of its bounds. "all timesteps" has a single one, to which speeds are
        relative.

    Returns
    -------
    list of str
        The lines of the table, and what its columns mean.
    """
    slowest = series["all timesteps"][0][0]["images_per_second"]
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
    is_complete = True
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
            if record["rank_correlation"] is None:
                is_complete = False
    lines = [*aligned(rows), COLUMNS]
    if not is_complete:
        lines.append(NOT_DEFINED)
    return lines


def setting_in_words(rule: str, bounds: dict[str, float]) -> str:
    """Name a stopping rule with its bounds: "both open_bound 0.05, gap_bound 2"."""
    texts = [f"{name} {value:g}" for name, value in bounds.items()]
    return f"{rule} {', '.join(texts)}".rstrip()


def contrast_table(rows: list[dict], summary: dict) -> list[str]:
    """Tabulate the accuracy on clean and on dimmed images.

    Parameters
    ----------
    rows : list of dict
        How the images were dimmed, as ``dimming``, and the accuracy of each case: plain
        blocking, blocking with contrast, and controls.
    summary : dict
        ``dimmed_<case>``, the mean accuracy on dimmed images, and ``regained``, the
        share of the accuracy lost to dimming that contrast recovers, or None.

    Returns
    -------
    list of str
        The lines of the table, and of the summary.
    """
    cases = [key for key in rows[0] if key != "dimming"]
    table = [["images", *cases]]
    for row in rows:
        accuracies = [percent(row[case]) for case in cases]
        table.append([row["dimming"], *accuracies])
    lines = aligned(table)
    means = [f"{case} {percent(summary[f'dimmed_{case}'])}" for case in cases]
    lines.append(f"mean of dimmed: {', '.join(means)}")
    if summary["regained"] is not None:
        share = 100 * summary["regained"]
        lines.append(f"contrast recovers {share:.0f} % of the accuracy lost to dimming")
    return lines
