"""One HTML file of runs side by side: tables, and pictures inside it."""

import base64
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from harness import UserError
from harness.drawing.plots import (
    looks_of,
    save_accuracies,
    save_confusion,
    save_curves,
    save_parts,
)
from harness.measuring.comparing import FIGURES, wilson
from harness.measuring.log_lines import MOST_CLASSES
from harness.runs.run import unused_flags
from harness.runs.saving import write_whole

MADE_BY = '<meta name="generator" content="report.py">'
HEADER = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">{MADE_BY}
<meta name="viewport" content="width=device-width, initial-scale=1">"""
NOT_COMPARED = {
    "run_name",
    "output_dir",
    "overwrite",
    "resume",
    "log",
    "test_only",
    "results_json",
    "preset_flags",
    "facts",
}
LOSS_FLAGS = {"trade_off", "trade_off_type"}  # no result of an evaluation has losses
SHOWN = "spikes", "energy_event_joules", "energy_joules", "mean_steps"  # of FIGURES
HEAD = [
    "run",
    "run with",
    "images",
    "accuracy, %",
    "95 % interval",
    *(FIGURES[name].title for name in SHOWN),
]
RESULTS = """95 % interval: how much another sample of as many images could differ (Wilson). Another seed can differ more. Spikes
and energy are per image. Energy is an estimate of the arithmetic alone, at 45 nm."""
CURVES = "Solid: on the images that judge an epoch. Dotted, with hollow marks: in training, while the weights change."
CONFUSION = """Each row has the images of a class, each column those that were predicted as a class: numbers on the
diagonal are right. Colour is the share of the row."""
STYLE = """
body { margin: 0 auto; max-width: 1200px; padding: 0 16px 40px; font: 16px/1.45 system-ui, sans-serif; color: #222; }
h2 { font-size: 1.25rem; border-top: 1px solid #ddd; padding-top: 16px; overflow-wrap: anywhere; }
p { color: #555; max-width: 80ch; } pre { white-space: pre-wrap; overflow-wrap: anywhere; } img { max-width: 100%; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid #e4e4e4; max-width: 30em; }
.results td:nth-child(2) { min-width: 12em; } .results td:nth-child(n+3) { white-space: nowrap; }
.results :is(th, td):nth-child(n+4) { text-align: right; }
"""


def save_page(path, runs, overwrite, known):
    """Write the page of some runs.

    Parameters
    ----------
    path : Path
        The HTML file.
    runs : list of Run
        The runs, in the order of the page.
    overwrite : bool
        Whether a file that no report wrote may be replaced.
    known : dict of {str: Setting}
        The declared flags of all scripts.

    Raises
    ------
    UserError
        If a file is in the way that no report wrote and ``overwrite`` is False.
    """
    if (
        path.exists()
        and not overwrite
        and not (path.is_file() and MADE_BY.encode() in path.read_bytes()[:1000])
    ):
        raise UserError(
            f"{path} exists and is no report: --overwrite replaces it, --output writes elsewhere"
        )
    title = escape(runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    head = f"{HEADER}<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
    content = "".join(
        [
            head,
            *compared(runs, known),
            *(part for run in runs for part in alone(run)),
            "</body></html>\n",
        ]
    )
    write_whole(path, lambda file: file.write(content.encode("utf-8", "replace")))


def compared(runs, known):
    """Yield the parts of the page that show all runs; ``known``: the declared flags."""
    looks, results = (
        looks_of(run.name for run in runs),
        [(run, result) for run in runs for result in run.results],
    )
    names = dict.fromkeys(name for _, result in results for name in result.settings)
    differ = [
        name for name in names if len({result.settings.get(name) for _, result in results}) > 1
    ]
    if results:
        rows = [result_row(run, result, result.label(differ)) for run, result in results]
        yield f"<h2>Results</h2>{table(HEAD, rows, 'results')}<p>{RESULTS}</p>"
    if spiking := {
        f"{run.name} {result.label(differ)}".strip(): result.record
        for run, result in results
        if result.spikes
    }:
        costs = {
            run.name: [result.record for result in run.results] for run in runs if run.is_spiking
        }
        yield "<h2>Accuracy against spikes and energy</h2>" + drawn(save_accuracies, costs, looks)
        yield "<h2>Spikes by part of the network</h2>" + drawn(save_parts, spiking)
    if trained := [run for run in runs if run.epochs]:
        yield f"<h2>Training</h2>{drawn(save_curves, trained, looks)}<p>{CURVES}</p>"
    rows = rows_of_flags(runs, known)
    if rows:
        yield "<h2>Flags that differ</h2>" + table(["flag", *(run.name for run in runs)], rows)


def rows_of_flags(runs, known):
    """Compare the flags of runs.

    Parameters
    ----------
    runs : list of Run
        The runs.
    known : dict of {str: Setting}
        The declared flags of all scripts.

    Returns
    -------
    list of list
        For each flag that differs its name and, for each run, its value as text. None stands
        for a run that lacks the flag, or in which the flag had no effect.
    """
    used = [used_flags(run, known) for run in runs]
    flags = {flag for each in used for flag in each}
    rows = []
    for flag in sorted(flags - NOT_COMPARED):
        values = [each.get(flag) for each in used]
        if len(set(values) - {None}) > 1:
            rows.append([flag, *values])
    return rows


def used_flags(run, known):
    """Return the flags that had an effect in a run, by name, as texts."""
    if not run.openings:
        return {}
    values = run.openings[-1]["parameters"]
    unused = unused_flags(known, values)
    if values.get("test_only"):
        unused |= LOSS_FLAGS
    return {flag: text for flag, text in run.parameters.items() if flag not in unused}


def alone(run):
    """Parts of the page that show one run."""
    yield f"<h2>{escape(run.name)}</h2>" + "".join(
        f"<pre>{escape(opening['command'])}</pre>" for opening in run.openings
    )
    last = run.results[-1] if run.results else None
    if last and 0 < len(last.record.get("confusion") or ()) <= MOST_CLASSES:
        images = ", ".join(filter(None, [last.on, last.label(last.settings)]))
        yield f"{drawn(save_confusion, last.record, images)}<p>{CONFUSION}</p>"
    yield from map(image, run.pictures)


def result_row(run, result, label):
    """A result's row below HEAD. label: those of its settings that differ between the results, in words."""
    record = result.record
    low, high = wilson(record["accuracy"], record["images"])
    values = [(FIGURES[name].value_in(record), FIGURES[name].form) for name in SHOWN]
    cells = [None if value is None else format(value, form) for value, form in values]
    about = [run.name, label, result.where, f"{100 * record['accuracy']:.2f}"]
    return [*about, f"{100 * low:.2f} to {100 * high:.2f}", *cells]


def table(head, rows, style=""):
    """Rows of texts as HTML, a dash for None."""
    lines = [
        "".join(f"<td>{'-' if cell is None else escape(cell)}</td>" for cell in row)
        for row in rows
    ]
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head), *lines]
    return f'<div class="scroll"><table class="{style}">{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def drawn(save, *given):
    """What save(path, *given) draws, as HTML."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "chart.png"
        save(path, *given)
        return image(path)


def image(path):
    """A picture as HTML that holds it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<div><img alt="{escape(path.stem)}" src="data:image/{path.suffix[1:]};base64,{data}"></div>'
