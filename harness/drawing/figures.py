"""Pictures: predictions and blocked pixels over time. One style for all of them."""

import imageio.v3 as imageio
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from harness.runs.checkpoints import write_whole

STYLE = {"font.size": 10, "axes.titlesize": 10, "figure.dpi": 100, "savefig.dpi": 100, "font.family": "DejaVu Sans"}
STATES = ("value 0, never spikes", "open, may spike", "blocked, predicted")
STATE_COLOURS = ("#20262e", "#f5f5f5", "#e66100")
CELL = 1.35  # inches of one small picture


class Film:
    """What the pictures show of a run, as numpy arrays; see film_of."""

    def __init__(self, images, guesses, states, titles, epsilon, seen=None):
        self.images, self.guesses, self.states, self.titles, self.epsilon = images, guesses, states, titles, epsilon
        self.seen = seen
        self.steps = len(guesses)

    def blocked_share(self, t, column=None):
        """Share of active pixels blocked at step t, of one image or of all of them."""
        states = self.states[t] if column is None else self.states[t, column]
        return (states == 2).sum() / max((states > 0).sum(), 1)


def film_of(images, output, guesses, titles, epsilon, seen=None):
    """A Film for images (B, C, H, W), a blocking model's SNNOutput and its guesses (T, B, C, H, W); titles: of the images.

    seen: T tensors (B, C, H, W), what the input neurons see at each step, where that is not the image.
    """
    active = (images != 0).any(1)
    blocked = ~output.is_open.any(2)
    states = active.int() * (1 + blocked.int())  # 0 black, 1 open, 2 blocked
    seen = None if seen is None else [shown(images) for images in seen]
    return Film(shown(images), shown(guesses), states.cpu().numpy(), titles, epsilon, seen)


def save_gif(path, film, seconds_per_step):
    """One frame per step: input, prediction, state of the input neurons; the last frame stays longer."""
    frames = list(_frames(film))
    pauses = [1000 * seconds_per_step] * (len(frames) - 1) + [3000]
    data = imageio.imwrite("<bytes>", frames, extension=".gif", duration=pauses, loop=0)
    write_whole(path, lambda file: file.write(data))


def save_contact_sheet(path, film, images=3, columns=6):
    """A PNG: for the first images, each its input, then prediction and input neurons at selected steps."""
    chosen = sorted({round(t) for t in np.geomspace(1, film.steps, min(columns, film.steps))})
    listed = film.titles[:images]
    ratios = [1, 0.25, *[1] * len(chosen)]  # the narrow column keeps the input apart
    with plt.rc_context(STYLE):
        figure, axes = _grid(2 * len(listed), len(ratios), wide=1.2, width_ratios=ratios)
        for number, title in enumerate(listed):
            top, bottom = axes[2 * number], axes[2 * number + 1]
            for axis in (top[1], bottom[0], bottom[1]):
                axis.set_visible(False)
            _grey(top[0], film.images[number])
            top[0].set_title(title)
            top[0].set_ylabel("input")
            top[2].set_ylabel("prediction")
            bottom[2].set_ylabel("input neurons")
            for column, t in enumerate(chosen, 2):
                _grey(top[column], film.guesses[t - 1, number])
                _state(bottom[column], film.states[t - 1, number])
                top[column].set_title(f"step {t}")
                bottom[column].set_xlabel(f"{100 * film.blocked_share(t - 1, number):.0f} % blocked")
        figure.suptitle(f"Prediction of the input, and the input neurons it blocks (within ε = {film.epsilon:g} of the pixel)")
        _finish(figure)
        write_whole(path, lambda file: figure.savefig(file, format="png"))
        plt.close(figure)


def _frames(film):
    rows = {
        "input": (_grey, [film.images] * film.steps),
        "prediction": (_grey, film.guesses),
        "input neurons": (_state, film.states),
    }
    if film.seen is not None:
        rows = {"input": rows.pop("input"), "seen, with contrast": (_grey, film.seen), **rows}
    with plt.rc_context(STYLE):
        figure, axes = _grid(len(rows), len(film.titles), wide=1.6)
        drawn = []
        for axes_row, (label, (draw, frames)) in zip(axes, rows.items(), strict=True):
            axes_row[0].set_ylabel(label)
            drawn += [(draw(axis, frames[0][column]), frames, column) for column, axis in enumerate(axes_row)]
        for axis, title in zip(axes[0], film.titles, strict=True):
            axis.set_title(title)
        heading = figure.suptitle(" ")
        _finish(figure)
        for t in range(film.steps):
            blocked = f"{100 * film.blocked_share(t):.0f} % of active pixels blocked"
            heading.set_text(f"step {t + 1} of {film.steps}   |   ε = {film.epsilon:g}   |   {blocked}")
            for picture, frames, column in drawn:
                picture.set_data(frames[t][column])
            for column, axis in enumerate(axes[-1]):
                axis.set_xlabel(f"{100 * film.blocked_share(t, column):.0f} % blocked")
            figure.canvas.draw()
            yield np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
        plt.close(figure)


def _grid(rows, columns, wide, width_ratios=None):
    size = (CELL * sum(width_ratios or [1] * columns) + wide, (CELL + 0.3) * rows + 1)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, width_ratios=width_ratios)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


def _finish(figure):
    """The common grey scale at the right, the key of the states below, and room for both."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.5 / width, right=1 - 1 / width, top=1 - 0.8 / height, bottom=0.75 / height, hspace=0.28, wspace=0.1
    )
    bar = figure.add_axes([1 - 0.8 / width, 0.25, 0.15 / width, 0.5])
    scale = plt.cm.ScalarMappable(norm=plt.Normalize(0, 1), cmap="gray")
    figure.colorbar(scale, cax=bar, label="grey value")
    key = [Patch(facecolor=colour, edgecolor="#888888", label=name) for colour, name in zip(STATE_COLOURS, STATES, strict=True)]
    figure.legend(handles=key, loc="lower center", ncols=3, frameon=False)


def _grey(axis, image):
    return axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _state(axis, state):
    return axis.imshow(state, cmap=ListedColormap(STATE_COLOURS), vmin=0, vmax=2, interpolation="nearest")


def shown(images):
    """(..., C, H, W) on the model's scale -> (..., H, W) or (..., H, W, 3) in [0, 1]."""
    colour = images.shape[-3] > 1
    images = ((images + 1) / 2 if colour else images).clamp(0, 1).cpu().numpy()
    return np.moveaxis(images, -3, -1) if colour else images[..., 0, :, :]
