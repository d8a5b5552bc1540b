"""The page's part on classes: which are read as which, a picture for each run or, of many classes, a table of the worst."""

from html import escape

import plotly.graph_objects as go

from harness.measuring.classes import MOST_CLASSES, accuracy_by_class, worst_pairs
from harness.reporting.tables import table

SHORT = 14  # letters of a class's name on an axis
LETTERS = 30  # below the picture, in one line
NOTE = "Rows: the class of an image; columns: what it was read as; colours: share of the row. In brackets: accuracy by class."


def last_with_classes(run):
    """The last of a run's results that says which classes were read as which, or None."""
    return next((result for result in reversed(run.results) if result.confusion), None)


def matrices(runs, styles):
    """(title, figure, note) of the runs' last evaluations that know it, of classes few enough to be drawn."""
    for run, style in zip(runs, styles, strict=True):
        result = last_with_classes(run)
        if result and len(result.classes) <= MOST_CLASSES:
            yield style.title, matrix(result), _words(result)


def matrix(result):
    """A confusion matrix in colours, counts in its cells."""
    shares = [[count / sum(row) if sum(row) else 0 for count in row] for row in result.confusion]
    names = [name if len(name) <= SHORT else f"{name[: SHORT // 2]}…{name[-(SHORT // 2) :]}" for name in result.classes]
    known = accuracy_by_class(result.confusion)
    rows = [
        f"{escape(name)} ({100 * one:.0f} %)" if one is not None else escape(name) for name, one in zip(names, known, strict=True)
    ]
    places = list(range(len(names)))
    hover = [
        [f"{escape(of)} read as {escape(to)}: {count:,} of {sum(row):,}" for to, count in zip(result.classes, row, strict=True)]
        for of, row in zip(result.classes, result.confusion, strict=True)
    ]
    counts = [[f"{count:,}" if count else "" for count in row] for row in result.confusion]
    figure = go.Figure()
    look = {"zmin": 0, "zmax": 1, "colorscale": "Blues", "showscale": False, "xgap": 1, "ygap": 1, "texttemplate": "%{text}"}
    hover_look = {"customdata": hover, "hovertemplate": "%{customdata}<extra></extra>"}
    figure.add_heatmap(z=shares, x=places, y=places, text=counts, **look, **hover_look)
    axis = {"tickvals": places, "showgrid": False, "zeroline": False, "automargin": True}
    figure.update_layout(template="none", height=110 + max(3, len(names)) * 30, margin={"l": 10, "r": 10, "t": 12, "b": 10},
                         font={"family": "system-ui, sans-serif", "size": 13, "color": "#222222"},
                         xaxis={**axis, "ticktext": [escape(name) for name in names], "title": {"text": "read as"},
                                "tickangle": 0 if len(names) * max(map(len, names)) < LETTERS else -90},
                         yaxis={**axis, "ticktext": rows, "autorange": "reversed"})  # fmt: skip
    return figure


def worst_table(runs, styles):
    """A table of the most frequent mistakes of runs with more classes, '' where there are none."""
    lines = []
    for run, style in zip(runs, styles, strict=True):
        result = last_with_classes(run)
        if result and len(result.classes) > MOST_CLASSES:
            accuracies = accuracy_by_class(result.confusion)
            lines += [
                [
                    style.title,
                    result.classes[of],
                    f"{100 * accuracies[of]:.1f}",
                    result.classes[to],
                    f"{count:,}",
                    f"{100 * share:.1f}",
                ]
                for of, to, count, share in worst_pairs(result.confusion)
            ]
    head = ["run", "class", "its accuracy in %", "read as", "images", "of the class, %"]
    return table(head, lines, numeric=(2, 4, 5)) if lines else ""


def _words(result):
    """Which evaluation a matrix is of."""
    label = result.label(result.settings)
    return f"{100 * result.accuracy:.2f} % of {result.images:,} images ({result.where})" + f", {label}" * bool(label)
