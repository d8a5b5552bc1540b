"""Charts of evaluations, of one network and of several, in the style of ``figures.py``.

Each function ``save_...`` lays out a figure from records of evaluations; each function
``draw_...`` draws one plot on an axis, from plain arrays.
"""

from collections.abc import Iterable, Sequence
from math import ceil
from os import PathLike
from textwrap import fill
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.lines import Line2D

from self_models.data.sets import ImageSet
from self_models.evaluation.operations import Convention
from self_models.feedback.contrast import WINDOW
from wfeedback.drawing.figures import (
    ACCURACY_COLOUR,
    PART_COLOURS,
    chart,
    log_scale,
    show,
    stack_parts,
)
from wfeedback.drawing.film import as_pixels, layer_labels, still_image
from wfeedback.energy.ledger import PARTS, Ledger
from wfeedback.measuring.comparing import FIGURES, Figure, Spread, wilson
from wfeedback.measuring.log_lines import LOSSES, accuracy_by_class
from wfeedback.measuring.read_logs import RunLog
from wfeedback.measuring.tables import record_parts

SPIKES = "spikes per image: input, encoder, decoder and classifier"
STILL_OPEN = "input pixels that are not 0: still open"
ENERGY_COLOURS = dict(
    zip(PARTS, ("#888888", "#0072b2", "#d55e00", "#aa4499", "#009e73"), strict=True)
)
HUES = (  # which the colour-blind can tell apart
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#aa4499",
    "#56b4e9",
    "#b8860b",
    "#882255",
    "#555555",
)
MARKERS = "osD^v*P"
COSTS = ("spikes", "energy_event_joules")  # of FIGURES
LABEL_GAP = 0.04  # of a panel's width, between upright texts
CURVES = (*LOSSES, "accuracy", "spikes")  # as the names of means end that are drawn over epochs
EPOCH_STYLES = {  # means in the record of an epoch -> how their curve is drawn
    "train": {"linestyle": ":", "fillstyle": "none"},
    "evaluated": {},
}


class Case(NamedTuple):
    """How one way to see dimmed images is drawn."""

    label: str
    colour: str


DIMMING = {
    "plain": Case("blocking", "#4477aa"),
    "contrast": Case("blocking with contrast", "#e66100"),
    "normalised": Case("control: blocking, image divided by its brightest pixel", "#999999"),
    "locally": Case(
        f"control: blocking, each pixel divided by the brightest within {WINDOW} x {WINDOW}",
        "#555555",
    ),
}


class MarginPoint(NamedTuple):
    """Spikes and accuracy in percent, over seeds, with early exit at a margin."""

    margin: float
    spikes: Spread
    accuracy: Spread


def accuracies(records: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Compute accuracies with their intervals of 95 %.

    Parameters
    ----------
    records : sequence of dict
        ``accuracy``, 0 to 1, and the number of ``images``, of ``N`` evaluations.

    Returns
    -------
    percents : ndarray of shape (N,)
        Accuracies in percent.
    reach : ndarray of shape (2, N)
        How far their intervals go down, and up.
    """
    shares = np.array([record["accuracy"] for record in records])
    ends = np.array([wilson(record["accuracy"], record["images"]) for record in records])
    return 100 * shares, 100 * abs(ends.T - shares)


def part_colours(records: Iterable[dict]) -> dict[str, str]:
    """Return the colours of the parts that have a spiking layer in any network."""
    parts = set()
    for record in records:
        parts.update(record_parts(record))
    return {part: colour for part, colour in PART_COLOURS.items() if part in parts}


# --- one network by epsilon


def save_sweep(
    path: str | PathLike, records: Sequence[dict], baseline: dict | None = None
) -> None:
    """Draw accuracy, spikes by part and, with blocking, the open input, by epsilon.

    Parameters
    ----------
    path : str or Path
        The PNG.
    records : sequence of dict
        Evaluation records of a network.
    baseline : dict, optional
        The record of another network, which is drawn first.
    """
    blocking = [record for record in records if record.get("open_share")]
    names = []
    for record in records:
        names.append(f"{record['epsilon']:g}" if record["epsilon"] else "0 (off)")
    all_records = list(records)
    if baseline is not None:
        names.insert(0, "baseline")
        all_records.insert(0, baseline)
    percents, reach = accuracies(all_records)
    spikes = [record["spikes"] for record in all_records]

    num_panels = 3 if blocking else 2
    with chart(path, (4.7 * num_panels, 4), num_panels) as axes:
        has_baseline = baseline is not None
        draw_accuracies(axes[0], percents, reach, has_baseline)
        draw_spikes_by_part(axes[1], spikes, part_colours(all_records), has_baseline)
        for axis in axes[:2]:
            axis.set_xticks(range(len(names)), names)
            axis.set_xlabel("epsilon: pixels predicted this well are blocked")
        if blocking:
            for record in blocking:
                label = f"epsilon {record['epsilon']:g}"
                draw_open_share(axes[2], record["open_share"], label=label)
            axes[2].legend()


def draw_accuracies(
    axis: Axes, percents: np.ndarray, reach: np.ndarray, has_baseline: bool
) -> None:
    """Draw accuracies in percent (N,), with how far their intervals reach (2, N).

    If the first is that of a baseline, a dashed line shows its height.
    """
    places = np.arange(len(percents))
    axis.errorbar(places, percents, reach, fmt="o", color=ACCURACY_COLOUR, capsize=3)
    axis.set(
        title="accuracy on the test images, 95 % interval", ylabel="accuracy in %", xmargin=0.2
    )
    if has_baseline:
        draw_level(axis, percents[0])


def draw_spikes_by_part(
    axis: Axes,
    spikes: Sequence[dict[str, float]],
    colours: dict[str, str],
    has_baseline: bool,
) -> None:
    """Draw a bar for each of these dicts, part -> spikes, in the colours of the parts.

    If the first is that of a baseline, a dashed line shows its height.
    """
    places = np.arange(len(spikes))
    bars, totals = stack_parts(axis.bar, places, spikes, 0.7, colours)
    axis.bar_label(bars, [f"{total:,.0f}" for total in totals], fontsize=8)
    axis.set(
        title="spikes per image, by part of the network",
        ylabel="spikes per image",
        ylim=(0, 1.3 * totals.max()),  # room for the legend
    )
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.legend(loc="upper right", ncols=3 if len(colours) == 3 else 2)
    if has_baseline:
        draw_level(axis, totals[0])


def draw_level(axis: Axes, height: float) -> None:
    """Draw a dashed line at the height of a baseline, behind all else."""
    axis.axhline(height, color=ACCURACY_COLOUR, linestyle="--", linewidth=1, zorder=0)


def draw_open_share(axis: Axes, open_share: Sequence[float], **style: object) -> None:
    """Draw the share of open input, 0 to 1, at each timestep."""
    timesteps = np.arange(1, len(open_share) + 1)
    axis.plot(timesteps, 100 * np.array(open_share), ".-", **style)
    axis.set(title=STILL_OPEN, xlabel="timestep", ylabel="open in %", ylim=(0, 105))
    axis.locator_params("x", integer=True)


# --- one network over time


def save_spikes_over_time(
    path: str | PathLike,
    networks: dict[str, dict[str, Sequence[float]]],
    open_share: Sequence[float] | None,
    setting: str,
    images: str,
) -> None:
    """Draw the spikes of each timestep: their sum so far, by layer, and the open input.

    Parameters
    ----------
    path : str or Path
        The PNG.
    networks : dict of {str: dict of {str: sequence of float}}
        Name of a network -> layer -> its spikes in each timestep, mean per image. The
        first is shown by layer; a second one is its baseline.
    open_share : sequence of float, or None
        Share of open input at each timestep, 0 to 1.
    setting : str
        Setting of the gate, in words.
    images : str
        Which images these are, in words.
    """
    network, spikes = next(iter(networks.items()))
    counts = np.array(list(spikes.values()))
    heights = [2.6, 0.45 * len(spikes) + 0.4]
    if open_share is not None:
        heights.append(1.8)
    size = (8, sum(heights) + 0.8)
    layout = {"height_ratios": heights, "sharex": True}
    with chart(path, size, len(heights), 1, **layout) as axes:
        totals = {}
        for name, by_layer in networks.items():
            totals[name] = np.array(list(by_layer.values())).sum(0)
        draw_spikes_so_far(axes[0], totals)
        axes[0].set_title(f"spikes per image so far, mean of {images}, {setting}")
        draw_layers(axes[1], counts, layer_labels(spikes))
        axes[1].set_title(f"{network} by layer (in brackets: sum over all timesteps)")
        if open_share is not None:
            draw_open_share(axes[2], open_share, color=PART_COLOURS["input"])
        axes[1].locator_params("x", integer=True)
        axes[-1].set_xlabel("timestep")


def draw_spikes_so_far(axis: Axes, networks: dict[str, np.ndarray]) -> None:
    """Draw the sums so far of spikes (T,), of a network and perhaps its baseline."""
    styles = (
        {"color": PART_COLOURS["encoder"]},
        {"color": ACCURACY_COLOUR, "linestyle": "--"},
    )
    for (name, spikes), style in zip(networks.items(), styles, strict=False):
        timesteps = np.arange(1, len(spikes) + 1)
        total = spikes.cumsum()
        label = f"{name}: {total[-1]:,.0f} after timestep {len(timesteps)}"
        axis.plot(timesteps, total, linewidth=2, label=label, **style)
    axis.set(ylabel="spikes so far", ylim=(0, None))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.legend(loc="upper left")


def draw_layers(axis: Axes, counts: np.ndarray, names: Sequence[str]) -> None:
    """Draw spikes (layers, T) as a table of colours, their sums beside the names."""
    num_layers, num_steps = counts.shape
    colours = axis.imshow(
        counts,
        cmap="magma",
        aspect="auto",
        interpolation="nearest",
        norm=PowerNorm(0.5, vmin=0),
        extent=(0.5, num_steps + 0.5, num_layers - 0.5, -0.5),
    )
    labels = []
    for name, count in zip(names, counts, strict=True):
        labels.append(f"{name}  ({count.sum():,.0f})")
    axis.set_yticks(range(num_layers), labels)
    axis.figure.colorbar(
        colours, ax=axis, label="spikes per timestep\n(square-root scale)", format="{x:,.0f}"
    )


# --- one network, its images


def save_extremes(
    path: str | PathLike,
    images: ImageSet,
    per_image: dict[str, torch.Tensor],
    epsilon: float,
    count: int = 10,
) -> None:
    """Draw the images with the fewest and with the most spikes.

    Parameters
    ----------
    path : str or Path
        The PNG.
    images : ImageSet
        The images that were evaluated.
    per_image : dict of {str: Tensor of shape (N,)}
        Their figures, see ``figures_per_image``.
    epsilon : float
        Tolerance of the evaluation.
    count : int
        How many are drawn of either, at most.
    """
    order = per_image["spikes"].argsort()
    count = min(count, len(images))
    chosen = torch.cat([order[:count], order[-count:].flip(0)])
    pixels = as_pixels(still_image(images.batch(chosen).images)).numpy()
    with chart(path, (1.1 * count, 3.6), 2 * count, count) as axes:
        for axis, number, image in zip(axes, chosen.tolist(), pixels, strict=True):
            predicted = int(per_image["found"][number])
            name = images.classes[predicted] if images.classes else predicted
            verdict = "right" if per_image["correct"][number] else f"predicted {name}"
            show(axis, image)
            axis.set_title(f"{per_image['spikes'][number]:,.0f} spikes\n{verdict}", fontsize=8)
        axes[0].set_ylabel("fewest spikes")
        axes[count].set_ylabel("most spikes")
        title = (
            f"The {count} test images with the fewest and the {count} with the most spikes, "
            f"ε = {epsilon:g}"
        )
        axes[0].figure.suptitle(title, wrap=True)


def save_step_histograms(
    path: str | PathLike,
    per_image: dict[str, torch.Tensor],
    timesteps: int,
    setting: str,
    names: Sequence[str],
) -> None:
    """Draw a histogram of timesteps for each class, on common axes.

    Parameters
    ----------
    path : str or Path
        The PNG.
    per_image : dict of {str: Tensor of shape (N,)}
        ``label`` of each image, and its ``steps``.
    timesteps : int
        The most that an image takes.
    setting : str
        How images stopped, in words.
    names : sequence of str
        Names of the classes.
    """
    labels = sorted(set(per_image["label"].tolist()))
    columns = min(5, len(labels))
    size = (2.2 * columns, 1.8 * ceil(len(labels) / columns) + 0.9)
    with chart(path, size, len(labels), columns, sharex=True, sharey=True) as axes:
        for axis, label in zip(axes, labels, strict=True):
            steps = per_image["steps"][per_image["label"] == label].numpy()
            draw_step_histogram(axis, steps, timesteps)
            axis.set_title(f"class {names[label]}", fontsize=9)
        axes[0].figure.suptitle(f"timesteps until an image stops, {setting}")
        axes[0].figure.supxlabel("timesteps")
        axes[0].figure.supylabel("images")


def draw_step_histogram(axis: Axes, steps: np.ndarray, timesteps: int) -> None:
    """Draw how many images took so many timesteps, from 1 to ``timesteps``."""
    axis.hist(steps, np.arange(0.5, timesteps + 1.5), color="#4477aa")


def save_dimming(path: str | PathLike, rows: Sequence[dict], epsilon: float, images: int) -> None:
    """Draw the accuracy on dimmed images, by the cases of `DIMMING`.

    Parameters
    ----------
    path : str or Path
        The PNG.
    rows : sequence of dict
        ``dimming`` in words, and the accuracy in each case. The first is not dimmed.
    epsilon : float
        Tolerance of the evaluation.
    images : int
        Number of images, for the intervals.
    """
    percents_by_case = {}
    reach_by_case = {}
    for case in DIMMING:
        records = [{"accuracy": row[case], "images": images} for row in rows]
        percents_by_case[case], reach_by_case[case] = accuracies(records)
    means = [percents[1:].mean() for percents in percents_by_case.values()]

    with chart(path, size=(10, 4.8)) as (axis,):
        draw_dimming(axis, percents_by_case, reach_by_case)
        axis.set_xticks(range(len(rows)), [row["dimming"] for row in rows])
        axis.set(ylabel="accuracy in %", ylim=(0, 108), yticks=range(0, 101, 20))
        plain, contrast, *controls = means
        axis.figure.suptitle(
            f"Dimmed images: contrast takes mean accuracy from {plain:.0f} to {contrast:.0f} %, "
            f"the best control to {max(controls):.0f} %\n"
            f"{images:,} images, 95 % intervals; the same weights, ε = {epsilon:g}"
        )
        axis.figure.legend(ncols=2, loc="outside lower center")


def draw_dimming(
    axis: Axes, percents_by_case: dict[str, np.ndarray], reach_by_case: dict[str, np.ndarray]
) -> None:
    """Draw accuracies (N,) and intervals (2, N) of each case as bars side by side."""
    for number, (case, percents) in enumerate(percents_by_case.items()):
        bars = axis.bar(
            np.arange(len(percents)) + 0.21 * (number - 1.5),
            percents,
            0.2,
            label=DIMMING[case].label,
            color=DIMMING[case].colour,
            yerr=reach_by_case[case],
            ecolor=ACCURACY_COLOUR,
            error_kw={"elinewidth": 0.8},
        )
        axis.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)


# --- several networks


def save_accuracy_against_spikes(
    path: str | PathLike,
    runs: Iterable[tuple[dict, Spread, Spread]],
    verdicts: dict[str, str],
    title: str,
) -> None:
    """Draw accuracy against spikes with early exit, networks beside their baselines.

    There is a panel for each network, and a point for each margin, with bars of a
    standard deviation over the seeds.

    Parameters
    ----------
    path : str or Path
        The PNG.
    runs : iterable of (dict, Spread, Spread)
        A row of ``results.json``, its spikes, and its accuracy in percent. All are of
        one data set.
    verdicts : dict of {str: str}
        Name of a network -> what is said above its panel, in the order of the panels.
    title : str
        What is found, in a line.
    """
    families = {}  # network -> whether with feedback -> its points
    for row, spikes, accuracy in runs:
        if row["rule"] != "confidence":
            continue
        family = families.setdefault(row["name"].removeprefix("baseline of "), {})
        points = family.setdefault(row["feedback"], [])
        points.append(MarginPoint(row["bounds"]["gap_bound"], spikes, accuracy))

    columns = min(3, len(families))
    size = (3.9 + 2.45 * columns, 1.4 + 2.6 * ceil(len(families) / 3))
    with chart(path, size, len(families), columns, sharex=True, sharey=True) as axes:
        for axis, (name, verdict) in zip(axes, verdicts.items(), strict=True):
            draw_margins(axis, families[name][False], "baseline", "#222222", "white")
            draw_margins(
                axis, families[name][True], "with feedback and blocking", "#e66100", "#e66100"
            )
            axis.set_title(f"{name}, {verdict}")
        axes[-1].set_xscale("log")  # of all panels, which share it
        log_scale(axes[-1].xaxis, (1, 2, 3, 5, 7), "{x:,.0f}")
        figure = axes[-1].figure
        figure.supxlabel(f"{SPIKES} (log scale)", fontsize=10)
        figure.supylabel("accuracy in %", fontsize=10)
        last_network = list(verdicts)[-1]
        margins = ", ".join(f"{point.margin:g}" for point in families[last_network][True])
        caption = (
            f"{title}\nEarly exit; points from left to right: margin {margins}\n"
            "±: 95 % interval, uncorrected. Bars: standard deviation over seeds"
        )
        legend = figure.legend(
            *axes[-1].get_legend_handles_labels(),
            title=caption,
            ncols=2,
            loc="outside upper center",
        )
        legend.get_title().set_multialignment("center")


def draw_margins(
    axis: Axes, points: Sequence[MarginPoint], label: str, colour: str, marker_colour: str
) -> None:
    """Draw a network's accuracy against its spikes, a point for each margin."""
    axis.errorbar(
        [point.spikes.mean for point in points],
        [point.accuracy.mean for point in points],
        yerr=[point.accuracy.deviation or 0 for point in points],
        xerr=[point.spikes.deviation or 0 for point in points],
        fmt="o-",
        color=colour,
        markerfacecolor=marker_colour,
        elinewidth=0.7,
        label=label,
    )


def save_energies(
    path: str | PathLike, ledgers: dict[str, Ledger], conventions: dict[str, Convention]
) -> None:
    """Draw the energy of networks, event-driven, by part, beside that of their ANNs.

    Parameters
    ----------
    path : str or Path
        The PNG.
    ledgers : dict of {str: Ledger}
        What each network does for an image, by name.
    conventions : dict of {str: Convention}
        The cost models. Each has a panel.
    """
    size = (4.2 * len(conventions), 1.6 + 0.5 * len(ledgers))
    with chart(path, size, len(conventions), sharey=True) as axes:
        for axis, convention in zip(axes, conventions.values(), strict=True):
            bars = []
            anns = []
            for ledger in ledgers.values():
                anns.append(1e6 * ledger.ann_joules(convention, 8))
                bar = {}
                for part in PARTS:
                    bar[part] = 1e6 * ledger.joules(convention, "event-driven", part)
                bars.append(bar)
            draw_energies(axis, bars, anns)
            axis.set(title=convention.title, xlabel="µJ per image")
            axis.set_yticks(range(len(ledgers)), list(ledgers))
        axes[0].invert_yaxis()
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6
        )


def draw_energies(axis: Axes, bars: Sequence[dict[str, float]], anns: Sequence[float]) -> None:
    """Draw energies of networks by part as bars, and those of their ANNs as lines."""
    places = np.arange(len(bars))
    stack_parts(axis.barh, places, bars, 0.6, ENERGY_COLOURS)
    axis.vlines(anns, places - 0.4, places + 0.4, "black", label="its ANN, 8 bits")


# --- networks, runs or settings, told apart by colour and marker


def looks_of(names: Iterable[str]) -> dict[str, dict]:
    """Choose colour and marker of each name, as arguments of matplotlib's ``plot``."""
    looks = {}
    for number, name in enumerate(names):
        looks[name] = {
            "color": HUES[number % len(HUES)],
            "marker": MARKERS[number % len(MARKERS)],
        }
    return looks


def draw_key(axis: Axes, looks: dict[str, dict]) -> None:
    """Draw below an axis's figure which colour and marker is which name."""
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    axis.figure.legend(handles=handles, loc="outside lower left", ncols=3)


def save_accuracies(
    path: str | PathLike,
    series: dict[str, Sequence[dict]],
    looks: dict[str, dict],
    figures: Sequence[str] = COSTS,
    labels: Sequence[tuple[dict, str]] = (),
) -> None:
    """Draw accuracy against some figures, a panel for each.

    Parameters
    ----------
    path : str or Path
        The PNG.
    series : dict of {str: sequence of dict}
        Evaluation records by name.
    looks : dict of {str: dict}
        How matplotlib draws each name, see ``looks_of``.
    figures : sequence of str
        Names of ``FIGURES``, of which those that no record has are left out.
    labels : sequence of (dict, str)
        A record, and what is written above the first panel at its place.
    """
    figures = figures_in(series, figures)
    height = 5.6 if labels else 4.5
    with chart(path, (5.5 * len(figures), height), len(figures), sharey=True) as axes:
        for axis, figure in zip(axes, figures, strict=True):
            for name, records in series.items():
                known = [one for one in records if figure.value_in(one) is not None]
                if known:
                    known.sort(key=figure.value_in)
                    values = [figure.value_in(record) for record in known]
                    draw_against(axis, values, *accuracies(known), looks[name])
            axis.set(xlabel=f"{figure.title}, per image")
            use_log_scale_if_wide(axis)
            axis.xaxis.set_major_formatter("{x:,.10g}")
        points = []
        for record, _ in labels:
            points.append((figures[0].value_in(record), 100 * record["accuracy"]))
        label_above(axes[0], points, [text for _, text in labels])
        axes[0].set(ylabel="accuracy, %, 95 % intervals")
        draw_key(axes[0], {name: looks[name] for name in series})


def figures_in(series: dict[str, Sequence[dict]], names: Iterable[str]) -> list[Figure]:
    """Return the figures of these names that any of the records has."""
    figures = []
    for name in names:
        figure = FIGURES[name]
        values = []
        for records in series.values():
            values += [figure.value_in(record) for record in records]
        if any(value is not None for value in values):
            figures.append(figure)
    return figures


def draw_against(
    axis: Axes,
    values: Sequence[float],
    percents: np.ndarray,
    reach: np.ndarray,
    look: dict[str, object],
) -> None:
    """Draw accuracies (N,) and intervals (2, N) against the values of a figure (N,)."""
    axis.errorbar(values, percents, reach, **({"linewidth": 1, "capsize": 3} | look))


def use_log_scale_if_wide(axis: Axes) -> None:
    """Make the x axis logarithmic if what is drawn spans more than a factor of ten."""
    low, high = axis.dataLim.intervalx
    if high > 10 * low > 0:
        axis.set_xscale("log")
        log_scale(axis.xaxis, (1, 2, 5))


def label_above(axis: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str]) -> None:
    """Write texts above an axis, each tied to its point by a thin line.

    Beside the points they would lie over error bars. They are set upright, and as far
    apart as it takes to read each.

    Parameters
    ----------
    axis : Axes
        The axis, with all that is drawn on it.
    points : sequence of (float, float)
        The point of each text, in data coordinates.
    texts : sequence of str
        The texts.
    """
    axis.get_xlim()  # settles the limits, on which the transformation depends
    to_axis = axis.transScale + axis.transLimits
    order = sorted(range(len(points)), key=lambda number: points[number])
    gap = min(LABEL_GAP, 1 / max(1, len(points) - 1))
    places = apart([to_axis.transform(points[number])[0] for number in order], gap)
    for number, place in zip(order, places, strict=True):
        axis.annotate(
            texts[number],
            points[number],
            (place, 1.06),
            textcoords="axes fraction",
            rotation=90,
            fontsize=8,
            ha="center",
            va="bottom",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "lw": 0.8, "relpos": (0.5, 0)},
            zorder=0,  # lines lie behind points and bars
        )


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart, so that neighbours have a gap between them.

    Parameters
    ----------
    places : sequence of float
        Ascending places, from 0 to 1.
    gap : float
        The least distance of two of them. All must find room from 0 to 1.

    Returns
    -------
    list of float
        The places, moved to the right where they are too close, and back from the end.
    """
    moved = list(places)
    for number in range(1, len(moved)):
        moved[number] = max(moved[number], moved[number - 1] + gap)
    limit = 1.0
    for number in reversed(range(len(moved))):
        moved[number] = min(moved[number], limit)
        limit = moved[number] - gap
    return moved


def save_choices(
    path: str | PathLike,
    records: Sequence[dict],
    front: Sequence[dict],
    baselines: Sequence[dict],
) -> None:
    """Draw combinations of settings by accuracy and spikes.

    Parameters
    ----------
    path : str or Path
        The PNG.
    records : sequence of dict
        The evaluation records of a network, one for each combination.
    front : sequence of dict
        Those of them that no other beats, see ``on_front``. They are joined and
        labelled.
    baselines : sequence of dict
        Records of a network beside them.
    """
    series = {"this network": records, "not beaten in both": front, "baseline": baselines}
    looks = {
        "this network": {"color": "#e69f5e", "marker": "o", "linestyle": ""},
        "not beaten in both": {"color": "#e66100", "marker": "o"},
        "baseline": {"color": ACCURACY_COLOUR, "marker": "s", "linestyle": ""},
    }
    labels = []
    for record in front:
        text = f"ε {record['epsilon']:g}, slew {record['readout_slew']:g}, T {record['timesteps']}"
        labels.append((record, text))
    series = {name: some for name, some in series.items() if some}
    save_accuracies(path, series, looks, ["spikes"], labels)


def save_parts(path: str | PathLike, records: dict[str, dict]) -> None:
    """Draw the spikes of networks by part.

    Parameters
    ----------
    path : str or Path
        The PNG.
    records : dict of {str: dict}
        Label of a bar -> evaluation record.
    """
    colours = part_colours(records.values())
    with chart(path, (11, 1.2 + 0.4 * len(records))) as (axis,):
        draw_parts(axis, list(records), [record["spikes"] for record in records.values()], colours)
        axis.figure.legend(loc="outside lower left", ncols=len(colours))


def draw_parts(
    axis: Axes,
    labels: Sequence[str],
    spikes: Sequence[dict[str, float]],
    colours: dict[str, str],
) -> None:
    """Draw a bar from left to right for each of these dicts, part -> spikes."""
    bars, totals = stack_parts(axis.barh, labels, spikes, 0.7, colours)
    axis.bar_label(bars, [f"{total:,.0f}" for total in totals], padding=3)
    axis.set(xlabel="spikes per image", xlim=(0, 1.1 * max(totals.max(), 1)))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.invert_yaxis()


# --- a confusion matrix


def save_confusion(path: str | PathLike, record: dict, images: str = "") -> None:
    """Draw a confusion matrix.

    Rows are classes, with their accuracy, columns predicted classes, numbers images.
    Colours are shares of the row.

    Parameters
    ----------
    path : str or Path
        The PNG.
    record : dict
        An evaluation record.
    images : str
        Which images were evaluated, and how, in words.
    """
    counts = np.array(record["confusion"])
    names = record.get("classes") or [str(number) for number in range(len(counts))]
    size = 2 + 0.45 * len(counts)
    width = size + 0.7
    title = fill("Confusion matrix: images by class and predicted class", int(12 * width))
    if images:
        title += "\n" + fill(images, int(12 * width))
    with chart(path, (width, size + 0.2 * title.count("\n") + 0.3)) as (axis,):
        draw_confusion(axis, counts)
        labels = []
        for name, share in zip(names, accuracy_by_class(record["confusion"]), strict=True):
            accuracy = "-" if share is None else f"{100 * share:.1f} %"
            labels.append(f"{name}  {accuracy}")
        is_wide = max(len(name) for name in names) > 3
        axis.set_yticks(range(len(names)), labels)
        axis.set_xticks(range(len(names)), names, rotation=90 if is_wide else 0)
        # Of the figure: the layout keeps room for them beside the names of classes.
        axis.figure.supxlabel("predicted class", fontsize=10)
        axis.figure.supylabel("class, with its accuracy", fontsize=10)
        axis.figure.suptitle(title, fontsize=10)


def draw_confusion(axis: Axes, counts: np.ndarray) -> None:
    """Draw numbers of images (classes, predicted classes) on shares of the row."""
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (label, predicted), count in np.ndenumerate(counts):
        axis.text(
            predicted,
            label,
            f"{count:,}" if count else "",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if shares[label, predicted] > 0.5 else "black",
        )


# --- training


def save_curves(path: str | PathLike, runs: Sequence[RunLog], looks: dict[str, dict]) -> None:
    """Draw accuracy, losses and spikes over epochs, a panel for each.

    Parameters
    ----------
    path : str or Path
        The PNG.
    runs : sequence of RunLog
        The runs, which have epochs. Lines are solid for the images that judge an epoch,
        and dotted for those of training.
    looks : dict of {str: dict}
        How matplotlib draws each run, by name, see ``looks_of``.
    """
    curves = {}  # name of a mean -> (name of a run, images) -> epoch -> value
    last = 0
    for run in runs:
        for record in run.epochs:
            last = max(last, record["epoch"])
            for images in EPOCH_STYLES:
                for name, value in means_of_epoch(record, images).items():
                    lines = curves.setdefault(name, {})
                    lines.setdefault((run.name, images), {})[record["epoch"]] = value
    with chart(path, (12, 3.2 * ceil(len(curves) / 3) + 0.5), len(curves), 3) as axes:
        for axis, (name, lines) in zip(axes, curves.items(), strict=True):
            for (run_name, images), points in lines.items():
                draw_curve(axis, points, looks[run_name] | EPOCH_STYLES[images])
            axis.set(title=name.replace("_", " "), xlabel="epoch", xlim=(0.5, last + 0.5))
            axis.locator_params("x", integer=True)
        draw_key(axes[0], {run.name: looks[run.name] for run in runs})


def means_of_epoch(record: dict, images: str) -> dict[str, float]:
    """Return the means of an epoch that are drawn.

    Parameters
    ----------
    record : dict
        Record of the epoch.
    images : {"train", "evaluated"}
        Over which images.

    Returns
    -------
    dict of {str: float}
        Accuracy, losses, and spikes of an SNN. Empty if nothing was evaluated.
    """
    means = dict(record.get(images) or {})
    if "parts" in means:
        means["spikes"] = means["parts"]["total"]
    return {name: value for name, value in means.items() if name.endswith(CURVES)}


def draw_curve(axis: Axes, points: dict[int, float], style: dict[str, object]) -> None:
    """Draw values by epoch."""
    axis.plot(points.keys(), points.values(), markersize=4, **style)
