"""Pictures of a Film: prediction, input neurons and answer over time. One style for all pictures."""

import imageio.v3 as imageio
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from harness.drawing.film import STATES, WAITS
from harness.runs.checkpoints import write_whole
from self_models.counting.spikes import PARTS

STYLE = {"font.size": 10, "axes.titlesize": 10, "figure.dpi": 100, "savefig.dpi": 100, "font.family": "DejaVu Sans"}
STATE_COLOURS = ("#20262e", "#4c9be8", "#e8743b", "#f5f5f5", "#8b9098", "#7a5ea8")
PART_COLOURS = dict(zip(PARTS.values(), ("#4477aa", "#228833", "#b8a21e", "#aa3377"), strict=True))
RIGHT, WRONG, NO_ANSWER = "#1a6b2f", "#b3261e", "#555555"
CELL = 1.45  # inches of one small picture
FEWEST = 5  # columns of a GIF, for the words below and above
SURE = "sure: softmax of the network's outputs so far"


def save_gif(path, film, seconds_per_step):
    """One frame per step: input, prediction, input neurons, answer, spikes so far; the last frame stays longer."""
    frames = list(_frames(film))
    pauses = [1000 * seconds_per_step] * (len(frames) - 1) + [3000]
    data = imageio.imwrite("<bytes>", frames, extension=".gif", duration=pauses, loop=0)
    write_whole(path, lambda file: file.write(data))


def save_contact_sheet(path, film, images=3, columns=6):
    """A PNG: for the first images, each its input, then prediction, input neurons and answer at selected steps."""
    steps = len(film.guesses)
    chosen = sorted({round(t) for t in np.geomspace(1, steps, min(columns, steps))})
    listed = film.titles[:images]
    ratios = [1, 0.25, *[1] * len(chosen)]  # the narrow column keeps the input apart
    with plt.rc_context(STYLE):
        figure, axes = _grid([1, 1, 0.45] * len(listed), ratios, below=0.35)  # the third row is for what stands below the second
        for number, title in enumerate(listed):
            top, bottom, gap = axes[3 * number : 3 * number + 3]
            for axis in (top[1], *bottom[:2], *gap):
                axis.set_visible(False)
            _grey(top[0], film.images[number])
            top[0].set_xlabel(short(title))
            top[0].set_ylabel("input")
            top[2].set_ylabel("prediction")
            bottom[2].set_ylabel("input neurons")
            for column, t in enumerate(chosen, 2):
                _grey(top[column], film.guesses[t - 1, number])
                _state(bottom[column], film.states[t - 1, number])
                _say_answer(bottom[column].set_xlabel(""), film, t - 1, number)
                if number == 0:
                    top[column].set_title(f"step {t}")
        figure.suptitle(
            f"Prediction of the input, the input neurons it blocks (within ε = {film.epsilon:g} of the pixel), and the answer\n"
            f"{SURE}; blocked: share of the pixels that are not 0"
        )
        _finish(figure, film)
        write_whole(path, lambda file: figure.savefig(file, format="png"))
        plt.close(figure)


def _frames(film):
    steps = len(film.guesses)
    rows = {
        "input": (_grey, [film.images] * steps),
        "prediction": (_grey, film.guesses),
        "input neurons": (_state, film.states),
    }
    if film.seen is not None:
        rows = {"input": rows.pop("input"), "seen by neurons": (_grey, film.seen), **rows}
    with plt.rc_context(STYLE):
        figure, axes = _grid([1] * len(rows), [1] * max(len(film.titles), FEWEST), below=2.0)
        for axis in axes[:, len(film.titles) :].flat:
            axis.set_visible(False)
        axes = axes[:, : len(film.titles)]
        drawn = []
        for axes_row, (label, (draw, frames)) in zip(axes, rows.items(), strict=True):
            axes_row[0].set_ylabel(label)
            drawn += [(draw(axis, frames[0][column]), frames, column) for column, axis in enumerate(axes_row)]
        for axis, title in zip(axes[0], film.titles, strict=True):
            axis.set_title(short(title))
        answers = [axis.set_xlabel("") for axis in axes[-1]]
        heading = figure.suptitle(" ")
        _finish(figure, film)
        say_spikes = _spike_bar(figure, film)
        for t in range(steps):
            heading.set_text(
                f"step {t + 1} of {steps}   |   blocked within ε = {film.epsilon:g}: {100 * film.blocked[t].mean():.0f} % of the "
                f"pixels that are not 0\n{SURE}"
            )
            for picture, frames, column in drawn:
                picture.set_data(frames[t][column])
            for column, answer in enumerate(answers):
                _say_answer(answer, film, t, column)
            say_spikes(t)
            figure.canvas.draw()
            yield np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
        plt.close(figure)


def short(title):
    """The title, cut where it would not fit above a small picture."""
    return title if len(title) <= 18 else title[:17] + "…"


def _say_answer(text, film, t, number):
    """What the network would answer after this step, how sure it is, and how much of the input is blocked."""
    answer = film.answers[t, number]
    label = film.labels[number]
    verdict, colour = ("", NO_ANSWER) if label < 0 else (" ✓", RIGHT) if answer == label else (" ✗", WRONG)
    stopped = f", stopped at {film.steps[number]}" if t >= film.steps[number] else ""
    said = f"answer: {film.names[answer]}{verdict}\n{100 * film.sureness[t, number]:.0f} % sure{stopped}"
    said = "no answer yet\n" if answer < 0 else said
    text.set_text(f"{said}\n{100 * film.blocked[t, number]:.0f} % blocked")
    text.set_color(NO_ANSWER if answer < 0 else colour)


def _spike_bar(figure, film):
    """A bar of the spikes so far by part, mean of the images; returns what draws it for a step."""
    spikes = {part: count.mean(1) for part, count in film.spikes_by_part().items()}
    total = spikes.pop("total")
    width, height = figure.get_size_inches()
    axis = figure.add_axes([0.5 / width, 0.78 / height, 1 - 1.5 / width, 0.16 / height])
    axis.set(xlim=(0, max(total[-1], 1)), yticks=[], xticks=[])
    bars = {part: axis.barh(0, 0, 1, color=PART_COLOURS[part])[0] for part in spikes}
    axis.set_ylim(-0.5, 0.5)
    said = axis.set_title("", fontsize=10)

    def say(t):
        start = 0.0
        for part, bar in bars.items():
            bar.set_x(start)
            bar.set_width(spikes[part][t])
            start += spikes[part][t]
        said.set_text(f"spikes so far, mean of these images: {total[t]:,.0f}")
        for part, text in texts.items():
            text.set_text(f"{part} {spikes[part][t]:,.0f}")

    places = np.linspace(0, 1, len(bars), endpoint=False)
    texts = {
        part: axis.text(place, -0.35, "", color=PART_COLOURS[part], weight="bold", transform=axis.transAxes, va="top")
        for place, part in zip(places, bars, strict=True)
    }
    return say


def _grid(heights, widths, below):
    """Small pictures. heights, widths: of rows and columns, 1 for a whole picture; below: inches beneath them, for texts and the
    key."""
    above, beside = 0.95, 1.6
    size = (CELL * sum(widths) + beside, (CELL + 0.1) * sum(heights) + above + below)
    figure, axes = plt.subplots(
        len(heights), len(widths), figsize=size, squeeze=False, height_ratios=heights, width_ratios=widths
    )
    figure.subplots_adjust(top=1 - above / size[1], bottom=below / size[1])
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


def _finish(figure, film):
    """The common grey scale at the right, and the key of the states below."""
    width = figure.get_figwidth()
    figure.subplots_adjust(left=0.5 / width, right=1 - 1 / width, hspace=0.1, wspace=0.1)
    bar = figure.add_axes([1 - 0.8 / width, 0.4, 0.15 / width, 0.4])
    scale = plt.cm.ScalarMappable(norm=plt.Normalize(0, 1), cmap="gray")
    figure.colorbar(scale, cax=bar, label="grey value")
    key = [
        Patch(facecolor=colour, edgecolor="#888888", label=name)
        for number, (colour, name) in enumerate(zip(STATE_COLOURS, STATES, strict=True))
        if number != WAITS or (film.states == WAITS).any()
    ]
    figure.legend(handles=key, loc="lower left", ncols=3, frameon=False, fontsize=9, columnspacing=1)


def _grey(axis, image):
    return axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _state(axis, state):
    last = len(STATES) - 1
    return axis.imshow(state, cmap=ListedColormap(STATE_COLOURS), vmin=0, vmax=last, interpolation="nearest")
