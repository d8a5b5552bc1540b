"""The page's part on classes: which are read as which, a picture for each run or, of many classes, a table of the worst."""

from harness.measuring.classes import MOST_CLASSES, accuracy_by_class, worst_pairs
from harness.reporting.charts import blank, plain


def last_with_classes(runs, styles):
    """(style, the last of a run's results that says which classes were read as which) of the runs that have one."""
    for run, style in zip(runs, styles, strict=True):
        if found := [result for result in run.results if result.confusion]:
            yield style, found[-1]


def matrices(runs, styles):
    """(title, figure, note) of the runs' last evaluations that know it, of classes few enough to be drawn."""
    for style, result in last_with_classes(runs, styles):
        if len(result.classes) <= MOST_CLASSES:
            words = f"{100 * result.accuracy:.2f} % of {result.images:,} images ({result.where})"
            yield style.title, matrix(result), ", ".join(filter(None, (words, result.label(result.settings))))


def matrix(result):
    """A confusion matrix in colours, counts in its cells."""
    shares = [[count / sum(row) if sum(row) else 0 for count in row] for row in result.confusion]
    counts = [[f"{count:,}" if count else "" for count in row] for row in result.confusion]
    known = accuracy_by_class(result.confusion)
    names = list(map(plain, result.classes))
    rows = [name if one is None else f"{name} ({100 * one:.0f} %)" for name, one in zip(names, known, strict=True)]
    ticks = {"tickvals": list(range(len(names))), "showgrid": False}
    axes = {"xaxis": ticks | {"ticktext": names}, "yaxis": ticks | {"ticktext": rows, "autorange": "reversed"}}
    figure = blank("read as", "", 110 + max(3, len(names)) * 30, **axes)
    figure.add_heatmap(z=shares, text=counts, texttemplate="%{text}", zmin=0, zmax=1, colorscale="Blues", showscale=False, xgap=1,
                       ygap=1, hovertemplate="%{y} read as %{x}: %{z:.1%} %{text}<extra></extra>")  # fmt: skip
    return figure


def worst(runs, styles):
    """Rows of a table of the most frequent mistakes of runs with more classes."""
    for style, result in last_with_classes(runs, styles):
        names, accuracies = result.classes, accuracy_by_class(result.confusion)
        if len(names) > MOST_CLASSES:
            for of, to, count, share in worst_pairs(result.confusion):
                yield style.title, names[of], f"{100 * accuracies[of]:.1f}", names[to], f"{count:,}", f"{100 * share:.1f}"
