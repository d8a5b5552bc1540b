#!/usr/bin/env python3
"""Draw the pictures of docs/explanation/motion.md beside this file.

moving.png: events by scene, and what an event may cost; moving_grey.png: accuracy
against events in grey; moving.gif: two digits that move.

`python docs/pictures/moving.py`, from results/moving*.jsonl and runs/moving/ours_0.pth,
which studies/findings/moving.py trains.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wfeedback.idle_threads  # noqa: F401  (before torch)

import numpy as np
import torch
from matplotlib.axes import Axes

from self_models.data.sets import load_data
from studies.findings import moving
from wfeedback.data.scenes import moving_scenes
from wfeedback.drawing.figures import chart, log_scale, plt, save_frames

HERE = Path(__file__).resolve().parent
ARMS = {
    "send-on-delta": "#999999",
    "best shift": "#56b4e9",
    "block matching": "#0072b2",
    "ours": "#d55e00",
}
IN_GREY = {"all pixels": "#555555", **ARMS, "float network": "#009e73"}


class Link(NamedTuple):
    """What an event costs on a kind of link, see studies/notebook/moving.md."""

    lowest: float  # pJ
    highest: float
    height: float  # of its name in the picture, as a share of the axis


LINKS = {
    "chip": Link(1.7, 40, 0.5),
    "board": Link(22, 72, 0.1),
    "radio": Link(1.6e5, 2.1e6, 0.5),
}
PANELS = ("the scene", "predicted", "send-on-delta sends", "ours sends")


def draw_chart(rows: Sequence[dict]) -> None:
    """Draw moving.png, from rows in black and white."""
    rows_by_kind = moving.by_kind(rows)
    with chart(HERE / "moving.png", (10, 4), panels=2) as (left, right):
        draw_events(left, list(rows_by_kind.values()))
        draw_energies(right, rows_by_kind["two"])


def draw_events(axis: Axes, scenes: Sequence[Sequence[dict]]) -> None:
    """Draw a group of bars for each scene: events of each way to send."""
    width = 0.2
    for number, (name, colour) in enumerate(ARMS.items()):
        events = []
        for rows in scenes:
            events.append(moving.interval([row["events"][name][0] for row in rows]))
        axis.bar(
            np.arange(len(scenes)) + width * (number - 1.5),  # four bars around the tick
            [interval.mean for interval in events],
            width,
            yerr=[interval.half for interval in events],
            color=colour,
            label=name,
        )
    axis.set_xticks(range(len(scenes)), [rows[0]["kind"] for rows in scenes])
    axis.set(ylim=(0, None), ylabel="events over the link per frame")
    axis.set_title("Events, without noise")
    axis.legend(frameon=False)


def draw_energies(axis: Axes, rows: Sequence[dict]) -> None:
    """Draw energy against the price of an event, and where kinds of links lie."""
    price = np.logspace(0, 7, 200)  # pJ
    for name in ("send-on-delta", "ours"):
        events = fmean(row["events"][name][0] for row in rows)
        computing = 0.0  # nJ; send-on-delta computes nothing
        if name == "ours":
            computing = fmean(moving.computing(row) for row in rows)
        energy = computing + price * events / 1000
        axis.loglog(price, energy, color=ARMS[name], label=name)
    top = axis.get_ylim()[1]
    for name, link in LINKS.items():
        axis.axvspan(link.lowest, link.highest, color="#dddddd", alpha=0.6, lw=0)
        middle = (link.lowest * link.highest) ** 0.5  # on a logarithmic axis
        axis.text(middle, link.height * top, name, ha="center", va="top", fontsize=9)
    axis.set(xlabel="price of an event over the link, pJ", ylabel="energy per frame, nJ")
    axis.set_title("Two digits: link and computing")
    axis.legend(frameon=False, loc="lower right")


def draw_grey(rows: Sequence[dict]) -> None:
    """Draw moving_grey.png, from rows in grey."""
    rows_by_kind = moving.by_kind(rows)
    with chart(HERE / "moving_grey.png", (10, 4), panels=2) as axes:
        for axis, kind in zip(axes, ("one", "two"), strict=True):
            for name, colour in IN_GREY.items():
                curve = moving.curve(rows_by_kind[kind], name)
                draw_curve(axis, list(curve.values()), colour, name)
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


def draw_curve(axis: Axes, points: Sequence[Sequence[dict]], colour: str, label: str) -> None:
    """Draw accuracy against events. A point has the rows of all seeds at an epsilon."""
    events = [moving.interval([row["events"][0] for row in rows]) for rows in points]
    gained = [moving.interval([-row["points_lost"] for row in rows]) for rows in points]
    axis.errorbar(
        [interval.mean for interval in events],
        [interval.mean for interval in gained],
        xerr=[interval.half for interval in events],
        yerr=[interval.half for interval in gained],
        color=colour,
        label=label,
        marker="o",
        ms=4,
        lw=1.5,
        elinewidth=0.8,
    )


def draw_gif() -> None:
    """Draw moving.gif, with the network that the benchmark has trained."""
    model = moving.Predictor().eval()
    model.load_state_dict(torch.load("runs/moving/ours_0.pth", weights_only=True))
    digits = load_data("MNIST")[2].images[:, 0]
    scenes = moving_scenes("two", digits, 1, 60, seed=12)
    all_frames, all_following = moving.frames_of(scenes)
    frames = all_frames[0]  # of the only scene
    following = all_following[0]
    with torch.no_grad():
        guess = (model(frames)[0] > 0).float()
    sent_on_delta = (frames[:, 0] != following).float()
    sent_by_ours = (guess != following).float()
    shown = [following, guess, sent_on_delta, sent_by_ours]
    figure, axes = plt.subplots(1, len(PANELS), figsize=(6.4, 2), layout="constrained")

    def draw(number):
        for axis, title, panel in zip(axes, PANELS, shown, strict=True):
            axis.clear()
            axis.imshow(panel[number], cmap="gray", vmin=0, vmax=1)
            count = ""
            if title.endswith("sends"):
                count = f"{int(panel[number].sum())} events"
            axis.set(xticks=[], yticks=[], title=title, xlabel=count)

    save_frames(HERE / "moving.gif", figure, draw, range(len(following)), 0.15)


if __name__ == "__main__":
    draw_chart(moving.rows_of(HERE.parents[1] / "results/moving.jsonl"))
    draw_grey(moving.rows_of(HERE.parents[1] / "results/moving_grey.jsonl"))
    draw_gif()
