"""Charts of spikes, accuracy and steps, in the style of figures.py."""

import matplotlib.pyplot as plt
import numpy as np

from harness.drawing.figures import STYLE, shown
from harness.runs.checkpoints import write_whole
from self_models.counting.spikes import PARTS

PART_COLOURS = dict(zip(PARTS.values(), ("#4477aa", "#228833", "#ccbb44", "#aa3377"), strict=True))
ACCURACY_COLOUR = "#222222"


def save_chart(path, draw, size=(7, 4), panels=1, **layout):
    """A PNG with `panels` axes side by side; draw(*axes) fills them."""
    with plt.rc_context(STYLE | {"axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(1, panels, figsize=size, squeeze=False, layout="constrained", **layout)
        draw(*axes[0])
        write_whole(path, lambda file: figure.savefig(file, format="png"))
        plt.close(figure)


def save_sweep(path, records):
    """Accuracy and spikes per image, by part, against epsilon, and open input over time; records: evaluations in this order."""
    places = np.arange(len(records))

    def draw(accuracy, spikes, share):
        accuracy.plot(places, [100 * record["accuracy"] for record in records], "o-", color=ACCURACY_COLOUR)
        accuracy.set(title="accuracy on the test images", ylabel="accuracy in %")
        _stack(spikes, places, records)
        spikes.set(title="spikes per image, by part of the network", ylabel="spikes per image")
        for axis in (accuracy, spikes):
            axis.set_xticks(places, [f"{record['epsilon']:g}" if record["epsilon"] else "0 (off)" for record in records])
            axis.set_xlabel("epsilon: pixels predicted this well are blocked")
        for record in records:
            open_share = 100 * np.array(record.get("open_share", [np.nan]))
            share.plot(np.arange(1, len(open_share) + 1), open_share, label=f"epsilon {record['epsilon']:g}")
        share.set(title="active input pixels still open", xlabel="step", ylabel="open in %", ylim=(0, 105))
        share.legend(frameon=False)

    save_chart(path, draw, size=(14, 4), panels=3)


def save_spikes_over_time(path, spikes, open_share):
    """Mean spikes of each layer at each step as a table of colours, and the share of open input below it.

    spikes: layer -> (T,) per image; open_share: (T,) or None.
    """
    with plt.rc_context(STYLE):
        rows = 2 if open_share is not None else 1
        height = 0.45 * len(spikes) + 1.2 + 1.8 * (rows - 1)
        ratios = [0.45 * len(spikes) + 0.4, 1.8][:rows]
        figure, axes = plt.subplots(rows, 1, figsize=(8, height), squeeze=False, layout="constrained", height_ratios=ratios)
        counts = np.array(list(spikes.values()))
        steps = counts.shape[1]
        extent = (0.5, steps + 0.5, len(spikes) - 0.5, -0.5)
        shown = axes[0, 0].imshow(np.sqrt(counts), cmap="magma", aspect="auto", interpolation="nearest", extent=extent)
        axes[0, 0].set_yticks(
            range(len(spikes)), [f"{name}  ({count.sum():,.0f})" for name, count in zip(spikes, counts, strict=True)]
        )
        axes[0, 0].set_title("spikes per image and step (in brackets: sum over all steps)")
        ticks = np.linspace(0, np.sqrt(counts.max()), 5)
        bar = figure.colorbar(shown, ax=axes[0, 0], ticks=ticks, label="spikes per step")
        bar.set_ticklabels([f"{tick**2:,.0f}" for tick in ticks])
        if open_share is not None:
            axes[1, 0].step(np.arange(1, steps + 1), 100 * np.array(open_share), where="mid", color=PART_COLOURS["input"])
            axes[1, 0].set(ylim=(0, 105), xlim=(0.5, steps + 0.5), ylabel="open in %", title="active input pixels still open")
        axes[-1, 0].set_xlabel("step")
        write_whole(path, lambda file: figure.savefig(file, format="png"))
        plt.close(figure)


def save_extremes(path, images, per_image, count=10):
    """The cheapest and the dearest images, with their spikes. images: ImageSet; per_image: see evaluation.py."""
    order, count = per_image["spikes"].argsort(), min(count, len(images))
    chosen = [order[:count], order[-count:].flip(0)]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, count, figsize=(1.1 * count, 3.6), squeeze=False, layout="constrained")
        for row, label in enumerate(("cheapest", "dearest")):
            pictures = shown(images.batch(chosen[row]).images)
            for axis, position, picture in zip(axes[row], chosen[row].tolist(), pictures, strict=True):
                axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                found = int(per_image["found"][position])
                name = images.classes[found] if images.classes else found
                verdict = "right" if per_image["correct"][position] else f"taken for {name}"
                axis.set_title(f"{per_image['spikes'][position]:,.0f} spikes\n{verdict}", fontsize=8)
                axis.set_xticks([])
                axis.set_yticks([])
            axes[row, 0].set_ylabel(label)
        figure.suptitle(f"The {count} cheapest and the {count} dearest test images")
        write_whole(path, lambda file: figure.savefig(file, format="png"))
        plt.close(figure)


def save_adaptive(path, series, per_image, timesteps):
    """Accuracy against mean steps and against spikes for each rule, and the steps of each class under the first rule.

    series: name -> list of evaluation records; per_image: of the first setting of the first series.
    """

    def draw(by_steps, by_spikes, boxes):
        for name, records in series.items():
            accuracy = [100 * record["accuracy"] for record in records]
            style = {"marker": "s" if "without" in name else "o", "linestyle": ":" if "without" in name else "-", "label": name}
            by_steps.plot([record["mean_steps"] for record in records], accuracy, **style)
            by_spikes.plot([record["spikes"]["total"] for record in records], accuracy, **style)
        by_steps.set(title="accuracy against mean steps", xlabel="mean steps per image", ylabel="accuracy in %")
        by_spikes.set(title="accuracy against spikes", ylabel="accuracy in %")
        _spike_axis(by_spikes, [record["spikes"]["total"] for records in series.values() for record in records])
        by_steps.legend(frameon=False)
        labels = sorted(set(per_image["label"].tolist()))
        steps = [per_image["steps"][per_image["label"] == label].numpy() for label in labels]
        boxes.boxplot(steps, whis=(5, 95), showfliers=False, positions=labels, medianprops={"color": "#aa3377"})
        boxes.set(title="steps by class: median, quartiles, 5 % and 95 %", xlabel="class", ylabel="steps")
        boxes.set_ylim(0, timesteps + 1)

    save_chart(path, draw, size=(14, 4.2), panels=3)


def save_accuracy_against_spikes(path, rows):
    """Accuracy against total spikes, one mark per row of results.json: a colour per network, a shape per way of running it;
    joined where only the rule's bound differs.

    rows: of one data set."""
    shapes = "osD^vPX*hd<>"

    def draw(axis):
        groups, colours, kinds = {}, {}, {}
        for row in rows:
            blocking = ", no blocking" if row["feedback"] and not row["epsilon"] else ""
            kind = f"T = {row['timesteps']}{blocking}" if row["rule"] == "none" else f"stopped by {row['rule']}"
            groups.setdefault((row["name"], kind), []).append(row)
        for (name, kind), members in groups.items():
            colour = colours.setdefault(name, f"C{len(colours)}")
            shape = kinds.setdefault(kind, shapes[len(kinds) % len(shapes)])
            style = "-" if members[0]["feedback"] else ":"
            spikes = [row["spikes"]["total"] for row in members]
            axis.plot(spikes, [100 * row["accuracy"] for row in members], style, marker=shape, color=colour)
        for name, colour in colours.items():
            axis.plot([], [], color=colour, linewidth=4, label=name)
        for kind, shape in kinds.items():
            axis.plot([], [], shape, color="#555555", label=kind)
        axis.set(title=f"accuracy against spikes, {rows[0]['dataset']} test set", ylabel="accuracy in %")
        _spike_axis(axis, [row["spikes"]["total"] for row in rows])
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    save_chart(path, draw, size=(10, 4.5))


def save_step_histograms(path, per_image, timesteps):
    """One histogram of steps per class, on common axes."""
    classes = sorted(set(per_image["label"].tolist()))
    with plt.rc_context(STYLE):
        columns = min(5, len(classes))
        rows = -(-len(classes) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 1.8 * rows + 0.6), squeeze=False, sharex=True,
                                    sharey=True, layout="constrained")  # fmt: skip
        for axis, label in zip(axes.flat, classes, strict=False):
            axis.hist(per_image["steps"][per_image["label"] == label].numpy(), np.arange(0.5, timesteps + 1.5), color="#4477aa")
            axis.set_title(f"class {label}", fontsize=9)
        figure.supxlabel("steps until the image stopped")
        figure.supylabel("images")
        write_whole(path, lambda file: figure.savefig(file, format="png"))
        plt.close(figure)


def save_dimming(path, rows):
    """Accuracy on each kind of dimmed digits, with plain blocking and with contrast; rows: dicts dimming, plain, contrast."""
    places = np.arange(len(rows))

    def draw(axis):
        for shift, key, colour in ((-0.2, "plain", "#4477aa"), (0.2, "contrast", "#e66100")):
            bars = axis.bar(places + shift, [100 * row[key] for row in rows], 0.4, label=f"{key} blocking", color=colour)
            axis.bar_label(bars, fmt="%.1f", fontsize=8)
        axis.set_xticks(places, [row["dimming"] for row in rows])
        axis.set(
            ylabel="accuracy in %",
            title="accuracy on dimmed digits: the same weights, the same draws",
            ylim=(0, 119),
            yticks=range(0, 101, 20),
        )
        axis.legend(frameon=False, ncols=2, loc="upper center")

    save_chart(path, draw, size=(8, 4))


def _spike_axis(axis, totals):
    """A logarithmic axis of total spikes with plain numbers at its ticks."""
    ticks = [step * 10**power for power in range(9) for step in (1, 2, 5)]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlim(max(min(totals), 1) / 1.3, max(max(totals), 1) * 1.3)
    axis.set_xlabel("spikes per image: input, encoder, decoder and classifier")


def _stack(axis, places, records):
    base = np.zeros(len(records))
    for part, colour in PART_COLOURS.items():
        counts = np.array([record["spikes"][part] for record in records])
        axis.bar(places, counts, 0.7, base, label=part, color=colour)
        base += counts
    for place, total in zip(places, base, strict=True):
        axis.annotate(f"{total:,.0f}", (place, total), ha="center", va="bottom", fontsize=8)
    axis.legend(frameon=False, loc="upper right")
    axis.margins(y=0.15)
