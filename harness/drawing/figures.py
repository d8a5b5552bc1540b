"""Pictures of a Film: prediction, input neurons and answer over time. One style for all pictures."""

from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from harness import UserError
from harness.runs.saving import write_whole
from self_models.running.outputs import PARTS, by_part

STYLE = {"font.size": 10, "axes.titlesize": 10, "figure.dpi": 100, "savefig.dpi": 100, "font.family": "DejaVu Sans"}
STATE_COLOURS = ("#20262e", "#4c9be8", "#e8743b", "#f5f5f5", "#8b9098", "#7a5ea8")
PART_COLOURS = dict(zip(PARTS.values(), ("#4477aa", "#228833", "#b8a21e", "#aa3377"), strict=True))
RIGHT, WRONG, NO_ANSWER = "#1a6b2f", "#b3261e", "#555555"
CELL = 1.45  # inches of one small picture
FEWEST = 5  # columns that a GIF has room for, for the words below and above
SURE = "sure: softmax of the network's outputs so far"


@contextmanager
def picture(path):
    """What is drawn inside, in the style of all pictures, becomes a PNG."""
    with plt.rc_context(STYLE):
        yield
        figure = plt.gcf()
        write_whole(path, lambda file: figure.savefig(file, format="png"))
        plt.close(figure)


def check_png(flag, path):
    """Raises UserError unless a picture can be written to the path that this flag names: said before hours of work, not after."""
    path = Path(path)
    if path.suffix.lower() != ".png" or not path.parent.is_dir() or path.is_dir():
        raise UserError(f"{flag} {path}: give a file X.png, which is what is drawn, in a folder that exists")


def save_gif(path, film, seconds_per_step):
    """One frame per step, from the first in which a pixel is blocked: input, the rows of rows_of, answer, spikes so far; the last
    frame stays longer."""
    first = film.blocked.any(1).argmax()  # 0 where none ever is
    save_frames(path, lambda chosen: _frames(film, [first + t for t in chosen]), len(film.blocked) - first, seconds_per_step)


def save_frames(path, drawn, count, seconds):
    """A GIF of so many frames, of which drawn(numbers) yields those as arrays of bytes."""
    some = np.concatenate([*drawn(range(0, count, -(-count // 8)))])
    palette = Image.fromarray(some).quantize()  # one for all frames, so that the colours of what stands still do not flicker
    frames = (Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in drawn(range(count)))
    look = {"save_all": True, "append_images": frames, "duration": [1000 * seconds] * (count - 1) + [3000], "loop": 0}
    write_whole(path, lambda file: next(frames).save(file, "GIF", **look))


def save_contact_sheet(path, film, images=3, columns=6):
    """A PNG: for the first images, each its input, then the rows of rows_of and the answer at selected steps."""
    chosen, rows, titles = _spread(len(film.predictions), columns), rows_of(film), film.titles[:images]
    with picture(path):
        figure, axes = _grid(film, len(rows) * len(titles), 1 + len(chosen), 0.55 * len(titles))
        for number, title in enumerate(titles):
            pictures = axes[len(rows) * number :][: len(rows)]
            _picture(pictures[0][0], film.images[number])
            pictures[0][0].set(xlabel=short(title), ylabel="input" if film.inputs is None else "most of all timesteps")
            for row, (label, frames) in zip(pictures, rows.items(), strict=True):
                row[1].set_ylabel(label)
                for axis, t in zip(row[1:], chosen, strict=True):
                    _picture(axis, frames[t - 1, number])
            for axis, t in zip(pictures[-1][1:], chosen, strict=True):
                _say_answer(axis, film, t - 1, number)
        for axis, t in zip(axes[0][1:], chosen, strict=True):
            axis.set_title(f"timestep {t}")
        figure.suptitle(f"Prediction, and the input neurons it blocks, and the answer\n{rule_of(film)}\n{SURE}", wrap=True)
        _explain(figure, axes, film)


def rows_of(film):
    """What pictures show of each step: label -> pixels (T, B, H, W) or (T, B, H, W, 3), 0 to 255."""
    rows = {} if film.inputs is None else {"input": film.inputs}
    colours = np.array([to_rgb(colour) for colour in STATE_COLOURS])
    return rows | {"prediction": film.predictions, "input neurons": (255 * colours).astype(np.uint8)[film.states]}


def _spread(steps, columns):
    """At most so many of the steps, from 1: closer together at the beginning, where more happens."""
    return sorted({round(t) for t in np.geomspace(1, steps, min(columns, steps))})


def _frames(film, chosen):
    """The picture at each of these steps, from 0, as an array of bytes."""
    steps, images = len(film.predictions), len(film.titles)
    rows = {"input": np.broadcast_to(film.images, film.predictions.shape)}
    rows |= ({} if film.seen is None else {"seen by neurons": film.seen}) | rows_of(film)
    with plt.rc_context(STYLE):
        ratios = [*[1] * len(rows), 0.2 if film.baseline else 0.12]
        figure, grid = _grid(film, len(rows) + 1, max(images, FEWEST), height_ratios=ratios)
        spikes = figure.add_subplot(grid[-1][0].get_gridspec()[-1, :])
        first, drawn = max(FEWEST - images, 0) // 2, []  # few images stand in the middle
        axes = grid[:-1, first : first + images]
        for row, (label, frames) in zip(axes, rows.items(), strict=True):
            row[0].set_ylabel(label)
            drawn += [(_picture(axis, frames[0, number]), frames[:, number]) for number, axis in enumerate(row)]
        heading = figure.suptitle("", wrap=True)
        _explain(figure, grid[:-1], film)
        for t in chosen:
            now = f"timestep {film.every * (t + 1)} of {film.every * steps}   |   {amount(film, t)}"
            heading.set_text("\n".join(filter(None, (film.heading, now, rule_of(film), SURE))))
            for axis, title in zip(axes[0], film.titles_at(t), strict=True):
                axis.set_title(short(title))
            for image, frames in drawn:
                image.set_data(frames[t])
            for number, axis in enumerate(axes[-1]):
                _say_answer(axis, film, t, number)
            _draw_spikes(spikes, film, t)
            figure.canvas.draw()
            figure.set_layout_engine("none")  # from now on everything stays where it is
            yield np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
        plt.close(figure)


def rule_of(film):
    """What epsilon decides, or a gate of somebody's own, in words."""
    rule = f"{film.own_gate}; blocked" if film.own_gate else f"blocked: predicted within ε = {film.epsilon:g}"
    return f"{rule}, in % of {'pixel channels' if film.colour else 'pixels'} that are not 0"


def amount(film, t, number=slice(None)):
    """How much of an image, or of all in the mean, is blocked."""
    return f"{100 * film.blocked[t, number].mean():.0f} % blocked"


def short(title):
    """The title, cut where it would not fit above a small picture."""
    return title if len(title) <= 18 else title[:17] + "…"


def answer_of(film, t, number):
    """(words, colour): what the network would answer after step t, from 0, how sure it is, and whether it has stopped."""
    answer, label = film.answers[t, number], film.label(t, number)
    if answer < 0:
        return "no answer yet\n", NO_ANSWER
    verdict, colour = ("", NO_ANSWER) if label < 0 else (" ✓", RIGHT) if answer == label else (" ✗", WRONG)
    stopped = f", T = {film.stopped[number]}" if t >= film.stopped[number] else ""
    return f"answer: {film.names[answer]}{verdict}\n{100 * film.sure[t, number, answer]:.0f} % sure{stopped}", colour


def _say_answer(axis, film, t, number):
    words, colour = answer_of(film, t, number)
    axis.set_xlabel(f"{words}\n{amount(film, t, number)}", color=colour)


def _draw_spikes(axis, film, t):
    """A bar of the spikes so far by part, mean of the images where there are several; below, in brackets, of a baseline."""
    theirs, left = film.baseline or {}, 0.0
    now = [{part: count[t].mean() for part, count in film.spikes_by_part().items()}]
    now += [by_part({layer: count[min(t, len(count) - 1)] for layer, count in theirs.items()})] * bool(theirs)
    words = {part: [f"{spikes[part]:,.0f}" for spikes in now] for part in now[0]}
    axis.clear()
    for part, colour in PART_COLOURS.items():
        counts, label = np.array([spikes[part] for spikes in now]), f"{part} {' ('.join(words[part])}{')' * bool(theirs)}"
        axis.barh(range(len(now)), counts, 0.9, left, color=colour, label=label)
        left += counts
    most = max(film.spikes[-1].sum(-1).mean(), sum(count[-1] for count in theirs.values()), 1)
    axis.set(xlim=(0, most), ylim=(len(now) - 0.5, -0.5), yticks=[], xticks=[])
    totals = "; baseline (lower bar, in brackets): ".join(words["total"])
    axis.set_title(f"spikes so far{', mean of these images' * (len(film.titles) > 1)}: {totals}")
    axis.legend(ncols=4, frameon=False, loc="upper left", bbox_to_anchor=(0, 0))


def _grid(film, rows, columns, words=0.0, **ratios):
    """Room for small pictures, on axes that are hidden until they have one. words: inches for what stands below rows."""
    size = (CELL * columns + (0.8 if film.colour else 1.7), (CELL + 0.05) * rows + 1.5 + words)
    hidden = {"xticks": [], "yticks": [], "visible": False}
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="compressed", subplot_kw=hidden, **ratios)


def _explain(figure, axes, film):
    """The scale of grey values at the right, and the key of the states below."""
    if not film.colour:
        greys = plt.cm.ScalarMappable(plt.Normalize(0, 1), "gray")
        figure.colorbar(greys, ax=axes, shrink=0.4, aspect=25, label="grey value")
    key = [Patch(facecolor=STATE_COLOURS[state], edgecolor="#888888", label=words) for state, words in film.key]
    title = "a pixel's colour: open if any channel is" if film.colour else None
    look = {"ncols": 3, "fontsize": 9, "columnspacing": 1, "title": title, "alignment": "left"}
    figure.legend(handles=key, loc="outside lower left", frameon=False, **look)


def _picture(axis, image):
    axis.set_visible(True)
    return axis.imshow(image, cmap="gray", vmin=0, vmax=255)
