"""Charts of evaluations, of one network and of several, in the style of figures.py."""

from textwrap import fill

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.lines import Line2D

from harness.drawing.figures import (
    ACCURACY_COLOUR,
    PART_COLOURS,
    chart,
    log_scale,
    show,
    stack_parts,
)
from harness.drawing.film import as_pixels, in_words, still
from harness.measuring.comparing import FIGURES, wilson
from harness.measuring.log_lines import LOSSES, accuracy_by_class
from harness.measuring.tables import record_parts
from self_models.guests.energy import PARTS
from self_models.objectives.contrast import WINDOW

SPIKES = "spikes per image: input, encoder, decoder and classifier"
STILL_OPEN = "input pixels that are not 0: still open"
ENERGY_COLOURS = dict(
    zip(PARTS, ("#888888", "#0072b2", "#d55e00", "#aa4499", "#009e73"), strict=True)
)
DIMMING = {  # case -> what it is called, and its colour
    "plain": ("blocking", "#4477aa"),
    "contrast": ("blocking with contrast", "#e66100"),
    "normalised": ("control: blocking, image divided by its brightest pixel", "#999999"),
    "locally": (
        f"control: blocking, each pixel divided by the brightest within {WINDOW} x {WINDOW}",
        "#555555",
    ),
}
HUES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#aa4499",
    "#56b4e9",
    "#b8860b",
    "#882255",
    "#555555",
)  # told apart by the colour-blind
MARKERS = "osD^v*P"
COSTS = "spikes", "energy_event_joules"  # of FIGURES
LABEL_GAP = 0.04  # of a panel's width, between upright texts
LINES = {
    "train": {"linestyle": ":", "fillstyle": "none"},
    "evaluated": {},
}  # of means in the record of an epoch


def accuracies(records):
    """Accuracies in percent (N,), and how far their 95 % intervals go down and up (2, N), for the images that were evaluated."""
    shares = np.array([record["accuracy"] for record in records])
    ends = np.array([wilson(record["accuracy"], record["images"]) for record in records])
    return 100 * shares, 100 * abs(ends.T - shares)


def part_colours(records):
    """Return the colours of the parts that have a spiking layer in any of the networks."""
    parts = {part for record in records for part in record_parts(record)}
    return {part: colour for part, colour in PART_COLOURS.items() if part in parts}


# --- one network


def save_sweep(path, records, baseline=None):
    """Accuracy, spikes by part and, with blocking, the open input, of evaluation records by epsilon; baseline: a record."""
    blocking, all_records = (
        [record for record in records if record.get("open_share")],
        [*filter(None, [baseline]), *records],
    )
    places, panels = np.arange(len(all_records)), 3 if blocking else 2
    names = [f"{record['epsilon']:g}" if record["epsilon"] else "0 (off)" for record in records]
    with chart(path, (4.7 * panels, 4), panels) as (accuracy, spikes, *shares):
        percents, spread = accuracies(all_records)
        accuracy.errorbar(places, percents, spread, fmt="o", color=ACCURACY_COLOUR, capsize=3)
        accuracy.set(
            title="accuracy on the test images, 95 % interval", ylabel="accuracy in %", xmargin=0.2
        )
        counts = [record["spikes"] for record in all_records]
        colours = part_colours(all_records)
        bars, totals = stack_parts(spikes.bar, places, counts, 0.7, colours)
        spikes.bar_label(bars, [f"{total:,.0f}" for total in totals], fontsize=8)
        spikes.set(
            title="spikes per image, by part of the network",
            ylabel="spikes per image",
            ylim=(0, 1.3 * totals.max()),
        )
        spikes.yaxis.set_major_formatter("{x:,.0f}")
        spikes.legend(loc="upper right", ncols=3 if len(colours) == 3 else 2)
        for axis, height in ((accuracy, percents[0]), (spikes, totals[0])):
            if baseline:
                axis.axhline(height, color=ACCURACY_COLOUR, linestyle="--", linewidth=1, zorder=0)
            axis.set_xticks(places, ["baseline", *names] if baseline else names)
            axis.set_xlabel("epsilon: pixels predicted this well are blocked")
        for share in shares:
            for record in blocking:
                _draw_open(share, record["open_share"], label=f"epsilon {record['epsilon']:g}")
            share.legend()


def _draw_open(axis, open_share, **look):
    """The share of open input at each timestep."""
    axis.plot(np.arange(1, len(open_share) + 1), 100 * np.array(open_share), ".-", **look)
    axis.set(title=STILL_OPEN, xlabel="timestep", ylabel="open in %", ylim=(0, 105))
    axis.locator_params("x", integer=True)


def save_spikes_over_time(path, networks, open_share, setting, images):
    """Mean spikes so far of the network and its baseline; spikes of each layer of the first at each timestep as a table of
    colours; the share of open input. networks: name -> layer -> (T,) per image; open_share: (T,) or None; setting: of the gate,
    images: which, in words."""
    network, spikes = next(iter(networks.items()))
    ratios = [2.6, 0.45 * len(spikes) + 0.4, 1.8][: 2 if open_share is None else 3]
    with chart(
        path, (8, sum(ratios) + 0.8), len(ratios), 1, height_ratios=ratios, sharex=True
    ) as (sums, table, *below):
        counts = np.array(list(spikes.values()))
        steps = np.arange(1, counts.shape[1] + 1)
        looks = {"color": PART_COLOURS["encoder"]}, {"color": ACCURACY_COLOUR, "linestyle": "--"}
        for (name, by_layer), look in zip(networks.items(), looks, strict=False):
            total = np.array(list(by_layer.values())).sum(0).cumsum()
            sums.plot(
                steps,
                total,
                linewidth=2,
                label=f"{name}: {total[-1]:,.0f} after timestep {len(steps)}",
                **look,
            )
        sums.set(
            ylabel="spikes so far",
            ylim=(0, None),
            title=f"spikes per image so far, mean of {images}, {setting}",
        )
        sums.yaxis.set_major_formatter("{x:,.0f}")
        sums.legend(loc="upper left")
        extent = (0.5, counts.shape[1] + 0.5, len(spikes) - 0.5, -0.5)
        look = {
            "cmap": "magma",
            "aspect": "auto",
            "interpolation": "nearest",
            "norm": PowerNorm(0.5, vmin=0),
            "extent": extent,
        }
        colours = table.imshow(counts, **look)
        names = [
            f"{name}  ({count.sum():,.0f})"
            for name, count in zip(in_words(spikes), counts, strict=True)
        ]
        table.set_yticks(range(len(spikes)), names)
        table.set_title(f"{network} by layer (in brackets: sum over all timesteps)")
        table.figure.colorbar(
            colours, ax=table, label="spikes per timestep\n(square-root scale)", format="{x:,.0f}"
        )
        for axis in below:
            _draw_open(axis, open_share, color=PART_COLOURS["input"])
        table.locator_params("x", integer=True)
        (below or [table])[0].set_xlabel("timestep")


def save_extremes(path, images, per_image, epsilon, count=10):
    """The images of an ImageSet with the fewest and the most spikes. per_image: see evaluation.py; epsilon: of the evaluation."""
    order, count = per_image["spikes"].argsort(), min(count, len(images))
    chosen = torch.cat([order[:count], order[-count:].flip(0)])
    pixels = as_pixels(still(images.batch(chosen).images)).numpy()
    with chart(path, (1.1 * count, 3.6), 2 * count, count) as axes:
        for axis, number, image in zip(axes, chosen.tolist(), pixels, strict=True):
            show(axis, image)
            predicted = int(per_image["found"][number])
            name = images.classes[predicted] if images.classes else predicted
            verdict = "right" if per_image["correct"][number] else f"predicted {name}"
            axis.set_title(f"{per_image['spikes'][number]:,.0f} spikes\n{verdict}", fontsize=8)
        for axis, label in zip(axes[::count], ("fewest spikes", "most spikes"), strict=True):
            axis.set_ylabel(label)
        title = f"The {count} test images with the fewest and the {count} with the most spikes, ε = {epsilon:g}"
        axis.figure.suptitle(title, wrap=True)


def save_step_histograms(path, per_image, timesteps, setting, names):
    """One histogram of timesteps per class, on common axes; setting: how images stopped, in words; names: of the classes."""
    labels = sorted(set(per_image["label"].tolist()))
    columns = min(5, len(labels))
    size = (2.2 * columns, 1.8 * -(-len(labels) // columns) + 0.9)
    with chart(path, size, len(labels), columns, sharex=True, sharey=True) as axes:
        for axis, label in zip(axes, labels, strict=True):
            steps = per_image["steps"][per_image["label"] == label].numpy()
            axis.hist(steps, np.arange(0.5, timesteps + 1.5), color="#4477aa")
            axis.set_title(f"class {names[label]}", fontsize=9)
        axes[0].figure.suptitle(f"timesteps until an image stops, {setting}")
        axes[0].figure.supxlabel("timesteps")
        axes[0].figure.supylabel("images")


def save_dimming(path, rows, epsilon, images):
    """Accuracy on dimmed digits, by case of DIMMING. rows: dicts of `dimming` and case -> accuracy; images: how many."""
    places, means = np.arange(len(rows)), []  # means: of the dimmed images
    with chart(path, size=(10, 4.8)) as (axis,):
        for number, (key, (label, colour)) in enumerate(DIMMING.items()):
            percents, spread = accuracies(
                [{"accuracy": row[key], "images": images} for row in rows]
            )
            look = {"yerr": spread, "ecolor": ACCURACY_COLOUR, "error_kw": {"elinewidth": 0.8}}
            bars = axis.bar(
                places + 0.21 * (number - 1.5), percents, 0.2, label=label, color=colour, **look
            )
            means.append(percents[1:].mean())
            axis.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)
        axis.set_xticks(places, [row["dimming"] for row in rows])
        axis.set(ylabel="accuracy in %", ylim=(0, 108), yticks=range(0, 101, 20))
        title = "Dimmed images: contrast takes mean accuracy from {:.0f} to {:.0f} %, the best control to {:.0f} %"
        about = f"{images:,} images, 95 % intervals; the same weights, ε = {epsilon:g}"
        axis.figure.suptitle(f"{title.format(*means[:2], max(means[2:]))}\n{about}")
        axis.figure.legend(ncols=2, loc="outside lower center")


# --- several networks


def save_accuracy_against_spikes(path, runs, verdicts, title):
    """Accuracy against spikes with early exit: a panel for each network and its baseline, a point for each margin, bars of a
    standard deviation over the seeds. runs: (row of results.json, Spread of its spikes, Spread of its accuracy) of one data set;
    verdicts: network -> what is said above its panel, in their order."""
    families = {}
    for row, *spreads in runs:
        if row["rule"] == "confidence":
            kinds = families.setdefault(row["name"].removeprefix("baseline of "), {})
            kinds.setdefault(row["feedback"], []).append((row["bounds"]["gap_bound"], *spreads))
    columns, rows = min(3, len(families)), -(-len(families) // 3)
    size = (3.9 + 2.45 * columns, 1.4 + 2.6 * rows)
    with chart(path, size, len(families), columns, sharex=True, sharey=True) as axes:
        for axis, (name, verdict) in zip(axes, verdicts.items(), strict=True):
            for feedback, colour, fill in (
                (False, "#222222", "white"),
                (True, "#e66100", "#e66100"),
            ):
                margins, *spreads = zip(*families[name][feedback], strict=True)
                values = [[one.mean for one in each] for each in spreads]
                bars = [[one.deviation or 0 for one in each] for each in reversed(spreads)]
                label = "with feedback and blocking" if feedback else "baseline"
                axis.errorbar(
                    *values,
                    *bars,
                    fmt="o-",
                    color=colour,
                    markerfacecolor=fill,
                    elinewidth=0.7,
                    label=label,
                )
            axis.set_title(f"{name}, {verdict}")
        axis.set_xscale("log")
        log_scale(axis.xaxis, (1, 2, 3, 5, 7), "{x:,.0f}")
        axis.figure.supxlabel(f"{SPIKES} (log scale)", fontsize=10)
        axis.figure.supylabel("accuracy in %", fontsize=10)
        points = f"Early exit; points from left to right: margin {', '.join(f'{one:g}' for one in margins)}"
        about = f"{title}\n{points}\n±: 95 % interval, uncorrected. Bars: standard deviation over seeds"
        look = {"title": about, "ncols": 2, "loc": "outside upper center"}
        axis.figure.legend(
            *axis.get_legend_handles_labels(), **look
        ).get_title().set_multialignment("center")


def save_energies(path, ledgers, conventions):
    """Each network's energy, event-driven, by part, and its ANN's in 8 bits; a panel per convention. ledgers: name -> Ledger."""
    with chart(
        path, (4.2 * len(conventions), 1.6 + 0.5 * len(ledgers)), len(conventions), sharey=True
    ) as axes:
        for axis, convention in zip(axes, conventions.values(), strict=True):
            places, of_ann = (
                np.arange(len(ledgers)),
                [1e6 * one.ann_joules(convention, 8) for one in ledgers.values()],
            )
            bars = [
                {part: 1e6 * one.joules(convention, "event-driven", part) for part in PARTS}
                for one in ledgers.values()
            ]
            stack_parts(axis.barh, places, bars, 0.6, ENERGY_COLOURS)
            axis.vlines(of_ann, places - 0.4, places + 0.4, "black", label="its ANN, 8 bits")
            axis.set(title=convention.title, xlabel="µJ per image")
            axis.set_yticks(places, list(ledgers))
        axes[0].invert_yaxis()
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6
        )


# --- networks, runs or settings, told apart by colour and marker


def looks_of(names):
    """name -> how matplotlib draws it."""
    return {
        name: {"color": HUES[n % len(HUES)], "marker": MARKERS[n % len(MARKERS)]}
        for n, name in enumerate(names)
    }


def name_all(figure, looks):
    """The key of a figure: which colour and marker is which of these names."""
    key = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    figure.legend(handles=key, loc="outside lower left", ncols=3)


def save_accuracies(path, series, looks, figures=COSTS, labels=()):
    """Draw accuracy against some figures, a panel for each.

    Parameters
    ----------
    path : Path
        The PNG.
    series : dict of {str: list of dict}
        Evaluation records by name.
    looks : dict of {str: dict}
        How matplotlib draws each name, see ``looks_of``.
    figures : sequence of str
        Names of ``FIGURES``, of which those that no record has are left out.
    labels : sequence of (dict, str)
        A record, and what is written above the first panel at its place.
    """
    known = [record for records in series.values() for record in records]
    figures = [
        FIGURES[name]
        for name in figures
        if any(FIGURES[name].value_in(record) is not None for record in known)
    ]
    height = 5.6 if labels else 4.5
    with chart(path, (5.5 * len(figures), height), len(figures), sharey=True) as axes:
        for axis, figure in zip(axes, figures, strict=True):
            for name, records in series.items():
                if records := sorted(
                    (one for one in records if figure.value_in(one) is not None),
                    key=figure.value_in,
                ):
                    look = {"linewidth": 1, "capsize": 3} | looks[name]
                    axis.errorbar([*map(figure.value_in, records)], *accuracies(records), **look)
            axis.set(xlabel=f"{figure.title}, per image")
            low, high = axis.dataLim.intervalx
            if high > 10 * low > 0:
                axis.set_xscale("log")
                log_scale(axis.xaxis, (1, 2, 5))
            axis.xaxis.set_major_formatter("{x:,.10g}")
        places = [(figures[0].value_in(record), 100 * record["accuracy"]) for record, _ in labels]
        label_above(axes[0], places, [text for _, text in labels])
        axes[0].set(ylabel="accuracy, %, 95 % intervals")
        name_all(axes[0].figure, {name: looks[name] for name in series})


def label_above(axis, points, texts):
    """Write texts above an axis, each tied to its point by a thin line.

    Beside the points they would lie over error bars. They are set upright, and as far
    apart as it takes to read each.

    Parameters
    ----------
    axis : Axes
        The axis, with all that is drawn on it.
    points : list of (float, float)
        The point of each text, in data coordinates.
    texts : list of str
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


def apart(places, gap):
    """Move ascending places within 0 to 1 apart, to ``gap`` or more: right, and back."""
    moved = list(places)
    for number in range(1, len(moved)):
        moved[number] = max(moved[number], moved[number - 1] + gap)
    limit = 1.0
    for number in reversed(range(len(moved))):
        moved[number] = min(moved[number], limit)
        limit = moved[number] - gap
    return moved


def save_choices(path, records, front, baselines):
    """Accuracy against spikes of evaluation records, of those among them on the front, as a line, and of the baseline's."""
    series = {"this network": records, "not beaten in both": front, "baseline": baselines}
    looks = {
        "this network": {"color": "#e69f5e", "marker": "o", "linestyle": ""},
        "not beaten in both": {"color": "#e66100", "marker": "o"},
        "baseline": {"color": ACCURACY_COLOUR, "marker": "s", "linestyle": ""},
    }
    labels = [
        (one, f"ε {one['epsilon']:g}, slew {one['readout_slew']:g}, T {one['timesteps']}")
        for one in front
    ]
    drawn = {name: some for name, some in series.items() if some}
    save_accuracies(path, drawn, looks, ["spikes"], labels)


def save_parts(path, records):
    """Spikes by part of the network. records: label -> record of an evaluation."""
    colours = part_colours(records.values())
    with chart(path, (11, 1.2 + 0.4 * len(records))) as (axis,):
        counts = [record["spikes"] for record in records.values()]
        bars, totals = stack_parts(axis.barh, list(records), counts, 0.7, colours)
        axis.bar_label(bars, [f"{total:,.0f}" for total in totals], padding=3)
        axis.set(xlabel="spikes per image", xlim=(0, 1.1 * max(totals.max(), 1)))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.invert_yaxis()
        axis.figure.legend(loc="outside lower left", ncols=len(colours))


def save_confusion(path, record, images=""):
    """Draw a confusion matrix.

    Rows are classes, with their accuracy, columns predicted classes, numbers images.
    Colours are shares of the row.

    Parameters
    ----------
    path : Path
        The PNG.
    record : dict
        An evaluation record.
    images : str
        Which images were evaluated, and how, in words.
    """
    counts = np.array(record["confusion"])
    names = record.get("classes") or list(map(str, range(len(counts))))
    size = 2 + 0.45 * len(counts)
    width = size + 0.7
    title = [fill("Confusion matrix: images by class and predicted class", int(12 * width))]
    if images:
        title.append(fill(images, int(12 * width)))
    with chart(path, (width, size + 0.2 * "\n".join(title).count("\n") + 0.3)) as (axis,):
        shares = counts / counts.sum(1, keepdims=True).clip(1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (label, predicted), count in np.ndenumerate(counts):
            colour = "white" if shares[label, predicted] > 0.5 else "black"
            axis.text(
                predicted,
                label,
                f"{count:,}" if count else "",
                ha="center",
                va="center",
                fontsize=7,
                color=colour,
            )
        rights = [
            "-" if share is None else f"{100 * share:.1f} %"
            for share in accuracy_by_class(record["confusion"])
        ]
        axis.set_yticks(
            range(len(names)),
            [f"{name}  {right}" for name, right in zip(names, rights, strict=True)],
        )
        axis.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        # Of the figure: the layout keeps room for them beside the names of classes.
        axis.figure.supxlabel("predicted class", fontsize=10)
        axis.figure.supylabel("class, with its accuracy", fontsize=10)
        axis.figure.suptitle("\n".join(title), fontsize=10)


def save_curves(path, runs, looks):
    """Accuracy, losses and spikes over epochs: solid on the images that judge an epoch, dotted in training."""
    curves = {}  # name -> (the run's name, train or evaluated) -> epoch -> value
    for run in runs:
        for epoch in run.epochs:
            for images in LINES:
                means = epoch.get(images) or {}
                means = means | ({"spikes": means["parts"]["total"]} if "parts" in means else {})
                for name in means:
                    if name.endswith(("accuracy", *LOSSES, "spikes")):
                        curves.setdefault(name, {}).setdefault((run.name, images), {})[
                            epoch["epoch"]
                        ] = means[name]
    last = max(epoch["epoch"] for run in runs for epoch in run.epochs)
    with chart(path, (12, 3.2 * -(-len(curves) // 3) + 0.5), len(curves), 3) as axes:
        for axis, (name, lines) in zip(axes, curves.items(), strict=True):
            for (run_name, images), points in lines.items():
                axis.plot(
                    points.keys(),
                    points.values(),
                    markersize=4,
                    **looks[run_name],
                    **LINES[images],
                )
            axis.set(title=name.replace("_", " "), xlabel="epoch", xlim=(0.5, last + 0.5))
            axis.locator_params("x", integer=True)
        name_all(axis.figure, {run.name: looks[run.name] for run in runs})
