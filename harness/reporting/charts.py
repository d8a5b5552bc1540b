"""Charts of a report, each a PNG: runs are told apart by colour and marker."""

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from harness.drawing.figures import PART_COLOURS
from harness.drawing.plots import accuracies, chart
from harness.measuring.comparing import FIGURES
from harness.measuring.report import LOSSES, accuracy_by_class

HUES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#56b4e9", "#b8860b", "#882255", "#555555")  # told apart by the colour-blind
MARKERS = "osD^v*P"
COSTS = "spikes", "energy_event_joules"  # of FIGURES
LINES = {"train": {"linestyle": ":", "fillstyle": "none"}, "evaluated": {}}  # of means in the record of an epoch


def looks_of(runs):
    """A run's name -> how matplotlib draws it."""
    looks = enumerate(run.name for run in runs)
    return {name: {"color": HUES[n % len(HUES)], "marker": MARKERS[n % len(MARKERS)], "label": name} for n, name in looks}


def save_costs(path, runs, looks):
    """Accuracy, with 95 % intervals, against spikes and energy."""
    records = [result.record for run in runs for result in run.results]
    figures = [FIGURES[name] for name in COSTS if any(FIGURES[name].of(record) is not None for record in records)]
    with chart(path, (5.5 * len(figures), 4.5), len(figures), sharey=True) as axes:
        for axis, figure in zip(axes, figures, strict=True):
            for run in runs:
                records = [result.record for result in run.results if figure.of(result.record) is not None]
                if records := sorted(records, key=figure.of):
                    accuracy, spread = accuracies(records)
                    costs = [figure.of(record) for record in records]
                    axis.errorbar(costs, accuracy, spread, linewidth=1, capsize=3, **looks[run.name])
            axis.set(xlabel=f"{figure.title}, per image")
            low, high = axis.dataLim.intervalx
            if high > 10 * low > 0:
                axis.set_xscale("log")
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.minorticks_off()
            axis.xaxis.set_major_formatter("{x:,.10g}")
        axes[0].set(ylabel="accuracy, %")
        name_runs(axes[0].figure, runs, looks)


def name_runs(figure, runs, looks):
    """The key of a figure: which colour and marker is which run."""
    figure.legend(handles=[Line2D([], [], **looks[run.name]) for run in runs], loc="outside lower left", ncols=3, frameon=False)


def save_parts(path, records):
    """Spikes by part of the network. records: label -> record of an evaluation."""
    with chart(path, (11, 1.2 + 0.4 * len(records))) as (axis,):
        totals = np.zeros(len(records))
        for part, colour in PART_COLOURS.items():
            counts = np.array([record["spikes"].get(part, 0) for record in records.values()])
            bars = axis.barh(list(records), counts, 0.7, totals, label=part, color=colour)
            totals += counts
        axis.bar_label(bars, [f"{total:,.0f}" for total in totals], padding=3)
        axis.set(xlabel="spikes per image", xlim=(0, 1.1 * max(totals.max(), 1)))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.invert_yaxis()
        axis.figure.legend(loc="outside lower left", ncols=len(PART_COLOURS), frameon=False)


def save_confusion(path, record):
    """A confusion matrix: rows are classes, with their accuracy, columns predicted classes; colours are shares of the row."""
    counts = np.array(record["confusion"])
    names, size = record.get("classes") or list(map(str, range(len(counts)))), 2 + 0.45 * len(counts)
    with chart(path, (size + 0.5, size)) as (axis,):
        shares = counts / counts.sum(1, keepdims=True).clip(1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (label, found), count in np.ndenumerate(counts):
            colour = "white" if shares[label, found] > 0.5 else "black"
            axis.text(found, label, f"{count:,}" if count else "", ha="center", va="center", fontsize=7, color=colour)
        rights = ["-" if share is None else f"{100 * share:.1f} %" for share in accuracy_by_class(record["confusion"])]
        axis.set_yticks(range(len(names)), [f"{name}  {right}" for name, right in zip(names, rights, strict=True)])
        axis.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axis.set(xlabel="predicted class", ylabel="class, its accuracy")


def save_curves(path, runs, looks):
    """Accuracy, losses and spikes over epochs: solid on the images that judge an epoch, dotted in training."""
    curves = {}  # name -> (the run's name, train or evaluated) -> epoch -> value
    for run in runs:
        for epoch in run.epochs:
            for images in LINES:
                for name, value in means_of(epoch.get(images) or {}).items():
                    curves.setdefault(name, {}).setdefault((run.name, images), {})[epoch["epoch"]] = value
    last = max(epoch["epoch"] for run in runs for epoch in run.epochs)
    with chart(path, (12, 3.2 * -(-len(curves) // 3) + 0.5), len(curves), 3) as axes:
        for axis, (name, lines) in zip(axes, curves.items(), strict=True):
            for (run_name, images), points in lines.items():
                axis.plot(points.keys(), points.values(), markersize=4, **looks[run_name], **LINES[images])
            axis.set(title=name.replace("_", " "), xlabel="epoch", xlim=(0.5, last + 0.5))
            axis.xaxis.get_major_locator().set_params(integer=True)
        name_runs(axis.figure, runs, looks)


def means_of(means):
    """Those of the means of an epoch that have a curve, name -> number."""
    spikes = {"spikes": means["parts"]["total"]} if "parts" in means else {}
    return {name: value for name, value in (means | spikes).items() if name.endswith(("accuracy", *LOSSES, "spikes"))}
