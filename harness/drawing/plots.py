"""Charts of spikes, accuracy and steps, in the style of figures.py."""

from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
import torch

from harness.drawing.figures import PART_COLOURS, picture
from harness.drawing.film import in_words, shown, still
from harness.drawing.intervals import wilson

ACCURACY_COLOUR = "#222222"
SPIKES = "spikes per image: input, encoder, decoder and classifier"


@contextmanager
def chart(path, size=(7, 4), panels=1, columns=None, **layout):
    """A PNG with as many axes as panels, which are yielded; columns: how many of them stand side by side, by default all."""
    columns = columns or panels
    with picture(path), plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        _, axes = plt.subplots(-(-panels // columns), columns, figsize=size, squeeze=False, layout="constrained", **layout)
        for spare in axes.flat[panels:]:
            spare.remove()
        yield axes.flat[:panels]


def save_sweep(path, records):
    """Accuracy and spikes per image, by part, against epsilon, and open input over time where any is blocked; records:
    evaluations in this order."""
    places, blocking = np.arange(len(records)), [record for record in records if record.get("open_share")]
    panels = 3 if blocking else 2
    with chart(path, (4.7 * panels, 4), panels) as (accuracy, spikes, *shares):
        accuracy.errorbar(places, *accuracies(records), fmt="o-", color=ACCURACY_COLOUR, capsize=3)
        accuracy.set(title="accuracy on the test images, 95 % interval", ylabel="accuracy in %", xlim=(-0.5, len(places) - 0.5))
        low, high = accuracy.get_ylim()
        margin = (high - low) / 4  # wider than the intervals
        accuracy.set_ylim(low - margin, min(high + margin, 100 + margin / 4))
        _stack(spikes, places, records)
        spikes.set(title="spikes per image, by part of the network", ylabel="spikes per image")
        for axis in (accuracy, spikes):
            axis.set_xticks(places, [f"{record['epsilon']:g}" if record["epsilon"] else "0 (off)" for record in records])
            axis.set_xlabel("epsilon: pixels predicted this well are blocked")
        for share in shares:
            for record in blocking:
                steps, open_share = np.arange(1, len(record["open_share"]) + 1), 100 * np.array(record["open_share"])
                share.plot(steps, open_share, ".-", label=f"epsilon {record['epsilon']:g}")
            share.set(title="input pixels that are not 0: still open", xlabel="step", ylabel="open in %", ylim=(0, 105))
            share.xaxis.get_major_locator().set_params(integer=True)
            share.legend(frameon=False)


def accuracies(records):
    """Accuracies in percent (N,), and how far their 95 % intervals go down and up (2, N), for the images that were evaluated."""
    found = np.array([record["accuracy"] for record in records])
    ends = np.array([wilson(record["accuracy"], record["images"]) for record in records])
    return 100 * found, 100 * abs(ends.T - found)


def save_spikes_over_time(path, spikes, open_share, epsilon, images):
    """Mean spikes of each layer at each step as a table of colours, and the share of open input below it.

    spikes: layer -> (T,) per image; open_share: (T,) or None; epsilon: of the gate; images: which they are of, in words.
    """
    ratios = [0.45 * len(spikes) + 0.4, 1.8][: 1 if open_share is None else 2]
    with chart(path, (8, sum(ratios) + 0.8), len(ratios), 1, height_ratios=ratios) as (table, *below):
        counts = np.array(list(spikes.values()))
        steps = counts.shape[1]
        extent = (0.5, steps + 0.5, len(spikes) - 0.5, -0.5)
        colours = table.imshow(np.sqrt(counts), cmap="magma", aspect="auto", interpolation="nearest", extent=extent)
        names = [f"{name}  ({count.sum():,.0f})" for name, count in zip(in_words(spikes), counts, strict=True)]
        table.set_yticks(range(len(spikes)), names)
        table.set_title(f"spikes per image and step, mean of {images}\nε = {epsilon:g} (in brackets: sum over all steps)")
        ticks = np.linspace(0, np.sqrt(counts.max()), 5)
        bar = table.figure.colorbar(colours, ax=table, ticks=ticks, label="spikes per step (square-root scale)")
        bar.set_ticklabels([f"{tick**2:,.0f}" for tick in ticks])
        for axis in below:
            axis.step(np.arange(1, steps + 1), 100 * np.array(open_share), where="mid", color=PART_COLOURS["input"])
            axis.set(ylim=(0, 105), xlim=(0.5, steps + 0.5), ylabel="open in %", title="input pixels that are not 0: still open")
        for axis in (table, *below):
            axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel("step")


def save_extremes(path, images, per_image, epsilon, count=10):
    """The cheapest and the dearest images, with their spikes. images: ImageSet; per_image: see evaluation.py; epsilon: that they
    were evaluated with."""
    order, count = per_image["spikes"].argsort(), min(count, len(images))
    chosen = torch.cat([order[:count], order[-count:].flip(0)])
    with chart(path, (1.1 * count, 3.6), 2 * count, count) as axes:
        for axis, position, pixels in zip(axes, chosen.tolist(), shown(still(images.batch(chosen).images)).numpy(), strict=True):
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            found = int(per_image["found"][position])
            name = images.classes[found] if images.classes else found
            verdict = "right" if per_image["correct"][position] else f"taken for {name}"
            axis.set_title(f"{per_image['spikes'][position]:,.0f} spikes\n{verdict}", fontsize=8)
            axis.set(xticks=[], yticks=[])
        for axis, label in zip(axes[::count], ("cheapest", "dearest"), strict=True):
            axis.set_ylabel(label)
        axis.figure.suptitle(f"The {count} cheapest and the {count} dearest test images, ε = {epsilon:g}")


def save_adaptive(path, series, per_image, timesteps, setting, names):
    """Accuracy against mean steps and against spikes for each rule, and the steps of each class under one setting of a rule.

    series: name -> list of evaluation records; per_image: of this setting, which is named in words; names: of the classes.
    """
    with chart(path, size=(14, 4.2), panels=3) as (by_steps, by_spikes, boxes):
        for name, records in series.items():
            accuracy, spread = accuracies(records)
            style = {"marker": "s" if "without" in name else "o", "linestyle": ":" if "without" in name else "-", "label": name}
            style |= {"yerr": spread, "elinewidth": 0.5}
            by_steps.errorbar([record["mean_steps"] for record in records], accuracy, **style)
            by_spikes.errorbar([record["spikes"]["total"] for record in records], accuracy, **style)
        by_steps.set(title="accuracy against mean steps, 95 % intervals", xlabel="mean steps per image", ylabel="accuracy in %")
        by_spikes.set(title="accuracy against spikes, 95 % intervals", ylabel="accuracy in %")
        _log_axis(by_spikes, [record["spikes"]["total"] for records in series.values() for record in records], SPIKES)
        by_steps.legend(framealpha=0.9, edgecolor="none")  # hides what it lies on
        steps = steps_by_class(per_image)
        labels = list(steps)
        boxes.boxplot(steps.values(), whis=(5, 95), showfliers=False, positions=labels, medianprops={"color": "#aa3377"})
        boxes.set(title=f"steps by class, {setting}:\nmedian, quartiles, 5 % and 95 %", xlabel="class", ylabel="steps")
        boxes.set_xticks(labels, [names[label] for label in labels], rotation=45 if max(map(len, names)) > 3 else 0)
        boxes.set_ylim(0, timesteps + 1)


def save_accuracy_against_spikes(path, rows):
    """Accuracy against total spikes, a panel per network and its twin: the network filled, the twin hollow, joined where only the
    bound of the stopping rule differs; bars are standard deviations over the seeds.

    rows: of results.json, of one data set, means over the seeds. Entropy stops where confidence does, and is left out."""
    rows, families = [row for row in rows if row["rule"] != "entropy"], {}
    for row in rows:
        families.setdefault(row["name"].removeprefix("twin of "), []).append(row)
    spikes, accuracy = [row["spikes"]["total"] for row in rows], [100 * row["accuracy"] for row in rows]
    middle, room = (max(accuracy) + min(accuracy)) / 2, max(accuracy) - min(accuracy)
    columns = min(2, len(families))
    size = (6.5 * columns, 4.3 * -(-len(families) // columns))
    with chart(path, size, len(families), columns) as axes:
        for number, (axis, (name, members)) in enumerate(zip(axes, families.items(), strict=False)):
            seeds = max(row["seeds"] for row in members)
            several = f" (means of {seeds} seeds, bars: standard deviation)" if seeds > 1 else " (one seed)"
            axis.set(title=f"{name} (filled) and its twin without a decoder (hollow)\n{rows[0]['dataset']} test set{several}")
            axis.set(ylabel="accuracy in %", ylim=(middle - 1.05 * room, middle + 0.95 * room))
            _log_axis(axis, spikes, SPIKES, room=3)
            for feedback in (True, False):
                draw_runs(axis, [row for row in members if row["feedback"] == feedback], f"C{number}", feedback)


def draw_runs(axis, rows, colour, filled):
    """One network in every way that it was run, each named at its last point: below where filled, else above; the leftmost point
    has the farthest name, so that no line to a name crosses another name."""
    groups = {}
    for row in sorted(rows, key=lambda row: row["spikes"]["total"]):
        groups.setdefault(run_in_words(row), []).append(row)
    for number, (kind, members) in enumerate(sorted(groups.items(), key=lambda group: group[1][-1]["spikes"]["total"])):
        spikes, accuracy = [row["spikes"]["total"] for row in members], [100 * row["accuracy"] for row in members]
        spread = [[row["deviation"].get(figure, 0) for row in members] for figure in ("spikes", "accuracy")]
        axis.errorbar(
            spikes, accuracy, spread[1], spread[0], fmt="o-" if filled else "o:", color=colour, markersize=6,
            markerfacecolor=colour if filled else "white", linewidth=1.2, elinewidth=0.7,
        )  # fmt: skip
        axis.annotate(
            f"{'' if filled else 'twin, '}{kind}", (spikes[-1], accuracy[-1]), (spikes[-1], (0.02 + 0.05 * number) if filled else
            (0.98 - 0.05 * number)), textcoords=axis.get_xaxis_transform(), fontsize=9, va="bottom" if filled else "top",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#999999", "relpos": (0, 1 if filled else 0)},
        )  # fmt: skip


def run_in_words(row):
    """How a network was run, its bounds aside."""
    if row["rule"] != "none":
        return f"stopped by {row['rule']}"
    blocking = (", blocking" if row["epsilon"] else ", no blocking") if row["feedback"] else ""
    return f"T = {row['timesteps']}{blocking}"


def steps_by_class(per_image):
    """label -> steps of its images, in order of the labels."""
    return {label: per_image["steps"][per_image["label"] == label].numpy() for label in sorted(set(per_image["label"].tolist()))}


def save_step_histograms(path, per_image, timesteps, setting, names):
    """One histogram of steps per class, on common axes; setting: how images stopped, in words; names: of the classes."""
    classes = steps_by_class(per_image)
    columns = min(5, len(classes))
    size = (2.2 * columns, 1.8 * -(-len(classes) // columns) + 0.9)
    with chart(path, size, len(classes), columns, sharex=True, sharey=True) as axes:
        for axis, (label, steps) in zip(axes, classes.items(), strict=True):
            axis.hist(steps, np.arange(0.5, timesteps + 1.5), color="#4477aa")
            axis.set_title(f"class {names[label]}", fontsize=9)
        axes[0].figure.suptitle(f"steps until an image stops, {setting}")
        axes[0].figure.supxlabel("steps")
        axes[0].figure.supylabel("images")


def save_dimming(path, rows, epsilon):
    """Accuracy on each kind of dimmed digits, with plain blocking and with contrast; rows: dicts dimming, plain, contrast."""
    places = np.arange(len(rows))
    with chart(path, size=(8, 4)) as (axis,):
        for shift, key, colour in ((-0.2, "plain", "#4477aa"), (0.2, "contrast", "#e66100")):
            bars = axis.bar(places + shift, [100 * row[key] for row in rows], 0.4, label=f"{key} blocking", color=colour)
            axis.bar_label(bars, fmt="%.1f", fontsize=8)
        axis.set_xticks(places, [row["dimming"] for row in rows])
        axis.set(ylabel="accuracy in %", ylim=(0, 119), yticks=range(0, 101, 20))
        axis.set_title(f"accuracy on dimmed digits, ε = {epsilon:g}: the same weights, the same draws")
        axis.legend(frameon=False, ncols=2, loc="upper center")


def _log_axis(axis, values, label, room=1.3):
    """A logarithmic axis for these values with plain numbers at its ticks. room: factor right of the last, for labels."""
    ticks = [step * 10.0**power for power in range(-1, 9) for step in (1, 2, 5)]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlim(max(min(values), 0.1) / 1.3, max(*values, 0.1) * room)
    axis.set_xlabel(label)


def _stack(axis, places, records):
    base = np.zeros(len(records))
    for part, colour in PART_COLOURS.items():
        counts = np.array([record["spikes"][part] for record in records])
        axis.bar(places, counts, 0.7, base, label=part, color=colour)
        base += counts
    for place, total in zip(places, base, strict=True):
        axis.annotate(f"{total:,.0f}", (place, total), ha="center", va="bottom", fontsize=8)
    axis.set_ylim(0, 1.3 * base.max())  # room for the key
    axis.legend(frameon=False, loc="upper right", ncols=2)
