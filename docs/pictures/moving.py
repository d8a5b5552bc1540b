#!/usr/bin/env python3
"""Writes the pictures of docs/explanation/motion.md beside itself.

moving.png: events by scene, and what an event may cost; moving_grey.png: accuracy against
events in grey; moving.gif: two digits that move.

`python docs/pictures/moving.py`, from results/moving*.jsonl and runs/moving/ours_0.pth: benchmarks/findings/moving.py trains it.
"""

import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import numpy as np
import torch

from benchmarks.findings import moving
from harness.drawing.figures import chart, log_scale, plt, save_frames

HERE = Path(__file__).resolve().parent
ARMS = {
    "send-on-delta": "#999999",
    "best shift": "#56b4e9",
    "block matching": "#0072b2",
    "ours": "#d55e00",
}
IN_GREY = {"all pixels": "#555555", **ARMS, "float network": "#009e73"}
LINKS = {
    "chip": (1.7, 40, 0.5),
    "board": (22, 72, 0.1),
    "radio": (1.6e5, 2.1e6, 0.5),
}  # pJ: docs/notebook/moving.md; height
PANELS = "the scene", "predicted", "send-on-delta sends", "ours sends"


def draw_chart(rows):
    scenes = list(moving.by_kind(rows).values())
    with chart(HERE / "moving.png", (10, 4), panels=2) as (left, right):
        for number, (name, colour) in enumerate(ARMS.items()):
            found = [moving.interval([row["events"][name][0] for row in of]) for of in scenes]
            places = np.arange(len(scenes)) + 0.2 * (number - 1.5)
            left.bar(
                places,
                [one.mean for one in found],
                0.2,
                yerr=[one.half for one in found],
                color=colour,
                label=name,
            )
        left.set_xticks(range(len(scenes)), [of[0]["kind"] for of in scenes])
        left.set(
            ylim=(0, None), ylabel="events over the link per frame", title="Events, without noise"
        )
        left.legend(frameon=False)
        price, two = np.logspace(0, 7, 200), moving.by_kind(rows)["two"]
        for name in ("send-on-delta", "ours"):
            events = fmean(row["events"][name][0] for row in two)
            inside = fmean(moving.computing(row) for row in two) * (name == "ours")
            right.loglog(price, inside + price * events / 1000, color=ARMS[name], label=name)
        top = right.get_ylim()[1]
        for name, (low, high, height) in LINKS.items():
            right.axvspan(low, high, color="#dddddd", alpha=0.6, lw=0)
            right.text((low * high) ** 0.5, height * top, name, ha="center", va="top", fontsize=9)
        right.set(xlabel="price of an event over the link, pJ", ylabel="energy per frame, nJ")
        right.set_title("Two digits: link and computing")
        right.legend(frameon=False, loc="lower right")


def draw_grey(rows):
    of_kind = moving.by_kind(rows)
    with chart(HERE / "moving_grey.png", (10, 4), panels=2) as axes:
        for axis, kind in zip(axes, ("one", "two"), strict=True):
            for name, colour in IN_GREY.items():
                curve = moving.curve(of_kind[kind], name).values()
                events = [moving.interval([row["events"][0] for row in of]) for of in curve]
                lost = [moving.interval([-row["points_lost"] for row in of]) for of in curve]
                halves = {
                    "xerr": [each.half for each in events],
                    "yerr": [each.half for each in lost],
                }
                means = [each.mean for each in events], [each.mean for each in lost]
                axis.errorbar(
                    *means,
                    **halves,
                    color=colour,
                    label=name,
                    marker="o",
                    ms=4,
                    lw=1.5,
                    elinewidth=0.8,
                )
            axis.axhline(-moving.LOST, color="#888888", lw=0.8, ls="--")
            axis.set(
                xscale="log",
                xlabel="events over the link per frame",
                title=f"Grey, {kind}, epsilon 0.05 to 0.4",
            )
            log_scale(axis.xaxis, (1, 2, 5))
        axes[0].set_ylabel("accuracy, less that on true frames, points")
        axes[0].legend(
            frameon=False, loc="lower center", fontsize=8, handlelength=1, borderaxespad=0
        )


def draw_gif():
    model = moving.Predictor().eval()
    model.load_state_dict(torch.load("runs/moving/ours_0.pth", weights_only=True))
    digits = moving.load_data("MNIST")[2].images[:, 0]
    frames, following = (
        each[0] for each in moving.frames_of(moving.moving_scenes("two", digits, 1, 60, seed=12))
    )
    with torch.no_grad():
        guess = (model(frames)[0] > 0).float()
    shown = [following, guess, (frames[:, 0] != following).float(), (guess != following).float()]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(6.4, 2), layout="constrained")

    def draw(number):
        for axis, title, panel in zip(axes, PANELS, shown, strict=True):
            axis.clear()
            axis.imshow(panel[number], cmap="gray", vmin=0, vmax=1)
            count = f"{int(panel[number].sum())} events" if title.endswith("sends") else ""
            axis.set(xticks=[], yticks=[], title=title, xlabel=count)

    save_frames(HERE / "moving.gif", figure, draw, range(len(following)), 0.15)


if __name__ == "__main__":
    draw_chart(moving.rows_of(HERE.parents[1] / "results/moving.jsonl"))
    draw_grey(moving.rows_of(HERE.parents[1] / "results/moving_grey.jsonl"))
    draw_gif()
