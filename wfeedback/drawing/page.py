"""One HTML file of runs side by side: tables, and pictures inside it.

The page is small, so it is put together from strings, without a language of templates.
``html.escape`` of the standard library keeps texts of logs from becoming tags.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from self_models.errors import UserError
from self_models.settings import Setting
from wfeedback.drawing.plots import (
    looks_of,
    save_accuracies,
    save_confusion,
    save_curves,
    save_parts,
)
from wfeedback.measuring.comparing import FIGURES, wilson
from wfeedback.measuring.log_lines import MOST_CLASSES
from wfeedback.measuring.read_logs import Result, RunLog
from wfeedback.runs.run import unused_flags
from wfeedback.runs.saving import write_whole

MADE_BY = '<meta name="generator" content="report.py">'
HEADER = f"""<!doctype html><html lang="en"><head><meta charset="utf-8">{MADE_BY}
<meta name="viewport" content="width=device-width, initial-scale=1">"""
NOT_COMPARED = {  # flags that say nothing of how a run was made
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
SHOWN = ("spikes", "energy_event_joules", "energy_joules", "mean_steps")  # of FIGURES
HEAD = [
    "run",
    "run with",
    "images",
    "accuracy, %",
    "95 % interval",
    *(FIGURES[name].title for name in SHOWN),
]
RESULTS = (
    "95 % interval: how much another sample of as many images could differ (Wilson). "
    "Another seed can differ more. Spikes\nand energy are per image. Energy is an estimate "
    "of the arithmetic alone, at 45 nm."
)
CURVES = (
    "Solid: on the images that judge an epoch. Dotted, with hollow marks: in training, "
    "while the weights change."
)
CONFUSION = (
    "Each row has the images of a class, each column those that were predicted as a class: "
    "numbers on the\ndiagonal are right. Colour is the share of the row."
)
# What the pictures that a run has drawn show, by how their names end.
SEEN = {
    ".gif": "what the network sees, predicts and answers, one timestep after the other",
    ".png": "its results as the script has drawn them",
    "_spikes.png": "spikes of each layer over the timesteps",
    "_raster.png": "spikes of single neurons, and membrane potentials, for one image",
    "_sweep.png": "accuracy and spikes for each epsilon",
    "_extremes.png": "the images with the fewest spikes, and those with the most",
    "_steps.png": "how many images stop at each timestep",
}
# A line that ends with a backslash goes on in the next one.
STYLE = """
body { margin: 0 auto; max-width: 1200px; padding: 0 16px 40px; \
font: 16px/1.45 system-ui, sans-serif; color: #222; }
h2 { font-size: 1.25rem; border-top: 1px solid #ddd; padding-top: 16px; overflow-wrap: anywhere; }
p { color: #555; max-width: 80ch; } \
pre { white-space: pre-wrap; overflow-wrap: anywhere; } img { max-width: 100%; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; \
font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 16px 4px 0; \
border-bottom: 1px solid #e4e4e4; max-width: 30em; }
.results td:nth-child(2) { min-width: 12em; } .results td:nth-child(n+3) { white-space: nowrap; }
.results :is(th, td):nth-child(n+4) { text-align: right; }
"""


def save_page(
    path: Path, runs: Sequence[RunLog], overwrite: bool, known: dict[str, Setting]
) -> None:
    """Write the page of some runs.

    Parameters
    ----------
    path : Path
        The HTML file.
    runs : sequence of RunLog
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
    if path.exists() and not overwrite and not is_report(path):
        raise UserError(
            f"{path} exists and is no report: --overwrite replaces it, --output writes elsewhere"
        )
    title = escape(runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    parts = [
        f"{HEADER}<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>",
        *parts_of_all(runs, known),
    ]
    for run in runs:
        parts += parts_of_run(run)
    parts.append("</body></html>\n")
    content = "".join(parts).encode("utf-8", "replace")
    write_whole(path, lambda file: file.write(content))


def is_report(path: Path) -> bool:
    """Return whether a report wrote this file."""
    return path.is_file() and MADE_BY.encode() in path.read_bytes()[:1000]


def parts_of_all(runs: Sequence[RunLog], known: dict[str, Setting]) -> Iterator[str]:
    """Yield the parts of the page that show all runs.

    Parameters
    ----------
    runs : sequence of RunLog
        The runs.
    known : dict of {str: Setting}
        The declared flags of all scripts.

    Yields
    ------
    str
        HTML.
    """
    looks = looks_of(run.name for run in runs)
    results = []
    for run in runs:
        results += [(run, result) for result in run.results]
    differing = differing_settings([result for _, result in results])
    if results:
        rows = [result_row(run, result, result.label(differing)) for run, result in results]
        yield f"<h2>Results</h2>{table_html(HEAD, rows, 'results')}<p>{RESULTS}</p>"

    spiking = {}
    for run, result in results:
        if result.spikes:
            spiking[f"{run.name} {result.label(differing)}".strip()] = result.record
    if spiking:
        series = {}
        for run in runs:
            if run.is_spiking:
                series[run.name] = [result.record for result in run.results]
        yield "<h2>Accuracy against spikes and energy</h2>" + chart_html(
            "Accuracy of each result against its spikes and its energy per image.",
            save_accuracies,
            series,
            looks,
        )
        yield "<h2>Spikes by part of the network</h2>" + chart_html(
            "Spikes per image of each result, as a bar of the parts of the network.",
            save_parts,
            spiking,
        )

    trained = [run for run in runs if run.epochs]
    if trained:
        curves = chart_html(
            "Figures of each training over its epochs, a curve for each run.",
            save_curves,
            trained,
            looks,
        )
        yield f"<h2>Training</h2>{curves}<p>{CURVES}</p>"
    rows = rows_of_flags(runs, known)
    if rows:
        yield "<h2>Flags that differ</h2>" + table_html(
            ["flag", *(run.name for run in runs)], rows
        )


def differing_settings(results: Sequence[Result]) -> list[str]:
    """Name the settings that are not the same in all of these results."""
    names = {}  # a dict keeps their order
    for result in results:
        names |= dict.fromkeys(result.settings)
    differing = []
    for name in names:
        if len({result.settings.get(name) for result in results}) > 1:
            differing.append(name)
    return differing


def rows_of_flags(runs: Sequence[RunLog], known: dict[str, Setting]) -> list[list[str | None]]:
    """Compare the flags of runs.

    Parameters
    ----------
    runs : sequence of RunLog
        The runs.
    known : dict of {str: Setting}
        The declared flags of all scripts.

    Returns
    -------
    list of list of str or None
        For each flag that differs its name and, for each run, its value as text. None
        stands for a run that lacks the flag, or in which the flag had no effect.
    """
    used = [used_flags(run, known) for run in runs]
    flags = set().union(*used)
    rows = []
    for flag in sorted(flags - NOT_COMPARED):
        values = [flags_of_run.get(flag) for flags_of_run in used]
        if len(set(values) - {None}) > 1:
            rows.append([flag, *values])
    return rows


def used_flags(run: RunLog, known: dict[str, Setting]) -> dict[str, str]:
    """Return the flags that had an effect in a run, by name, as texts."""
    if not run.openings:
        return {}
    values = run.openings[-1]["parameters"]
    unused = unused_flags(known, values)
    if values.get("test_only"):
        unused |= LOSS_FLAGS
        converts = bool(values.get("pretrained_ann")) and not values.get("pretrained_snn")
        # The test images are judged; only scripts that train have --select, and these
        # judge no others.
        if "select" in values or not values.get("holdout"):
            unused.add("holdout")
            if not converts:
                unused.add("limit_train")
    return {flag: text for flag, text in run.parameters.items() if flag not in unused}


def parts_of_run(run: RunLog) -> Iterator[str]:
    """Yield the parts of the page that show one run, as HTML."""
    commands = [f"<pre>{escape(opening['command'])}</pre>" for opening in run.openings]
    yield f"<h2>{escape(run.name)}</h2>{''.join(commands)}"
    if run.results:
        last = run.results[-1]
        num_classes = len(last.record.get("confusion") or ())
        if 0 < num_classes <= MOST_CLASSES:
            images = last.on
            if last.settings:
                images += f", {last.label(last.settings)}"
            text = f"How many images of each class {run.name} has predicted as each class."
            confusion = chart_html(text, save_confusion, last.record, images)
            yield f"{confusion}<p>{CONFUSION}</p>"
    for path in run.pictures:
        ending = path.name.removeprefix(run.path.stem)
        yield image_html(path, f"{run.name}: {SEEN[ending]}.")


def result_row(run: RunLog, result: Result, label: str) -> list[str | None]:
    """Compose a result's row of the table below `HEAD`.

    Parameters
    ----------
    run : RunLog
        The run.
    result : Result
        One of its results.
    label : str
        Those of its settings that differ between the results, in words.

    Returns
    -------
    list of str or None
        The cells. None for a figure that the result lacks.
    """
    record = result.record
    low, high = wilson(record["accuracy"], record["images"])
    row = [
        run.name,
        label,
        result.where,
        f"{100 * record['accuracy']:.2f}",
        f"{100 * low:.2f} to {100 * high:.2f}",
    ]
    for name in SHOWN:
        value = FIGURES[name].value_in(record)
        row.append(None if value is None else format(value, FIGURES[name].form))
    return row


def table_html(head: Sequence[str], rows: Sequence[Sequence[str | None]], style: str = "") -> str:
    """Write texts as a table in HTML, with a dash for None.

    Parameters
    ----------
    head : sequence of str
        The head.
    rows : sequence of sequence of str or None
        The rows below it.
    style : str
        Class of the table.

    Returns
    -------
    str
        HTML.
    """
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    for row in rows:
        texts = ["-" if cell is None else escape(cell) for cell in row]
        lines.append("".join(f"<td>{text}</td>" for text in texts))
    content = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table class="{style}">{content}</table></div>'


def chart_html(text: str, save: Callable, *content: object) -> str:
    """Return the picture that ``save(path, *content)`` writes, as HTML.

    The text says what it shows, for those who do not see it.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "chart.png"
        save(path, *content)
        return image_html(path, text)


def image_html(path: Path, text: str) -> str:
    """Return a picture as HTML that holds it, with a text on what it shows."""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/{path.suffix[1:]};base64,{data}"
    return f'<div><img alt="{escape(text)}" src="{source}"></div>'
