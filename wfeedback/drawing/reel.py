"""What a network does in a stream, while its image changes.

A ``Reel`` has a ``Film`` for the GIF, and figures for a chart over the timesteps.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from os import PathLike
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy.special import softmax

from self_models.data.sets import Batch
from self_models.running.outputs import SNNOutput, by_part, open_share_by_step, spiking_parts
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.drawing.figures import ACCURACY_COLOUR, NO_ANSWER, PART_COLOURS, RIGHT, WRONG, chart
from wfeedback.drawing.film import Film, as_pixels, film_of, leading_classes

MOST = 240  # timesteps that a GIF shows
WIDEST = 80  # letters of a line of the title
SHOWN = 28  # images above a chart at most
SQUARE = 0.1  # of a chart's width is the height of these images
ROOM = 0.012  # of it takes a letter
VERDICTS = {  # in words -> the colour
    "right": RIGHT,
    "wrong": WRONG,
    "no label": NO_ANSWER,
    "no answer yet": "#e4e4e4",
}
BESIDE_TITLE = {  # where a legend stands
    "loc": "lower right",
    "bbox_to_anchor": (1, 0.97),
    "borderaxespad": 0,
    "handletextpad": 0.3,
}
NOT_BY_STEP = ("images", "stopped")  # arrays of a Film


class ShownImage(NamedTuple):
    """An image of the stream: the timestep before which it begins, and its pixels."""

    begin: int
    pixels: np.ndarray


class Reel:
    """What a stream of one image at a time has shown so far.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    steps : int
        How many timesteps the stream will have.
    title : str
        What it is called.

    Attributes
    ----------
    every : int
        The film has each timestep of so many, so that there are no more than `MOST`.
    images : list of ShownImage
        Images for the chart, no more than about `SHOWN`.
    """

    def __init__(self, model: VGG_SNN_STDB_wFeedback, steps: int, title: str):
        self.model = model
        self.title = fill(title, WIDEST)
        self.steps = steps
        self.every = ceil(steps / MOST)
        self.images: list[ShownImage] = []
        self._steps_done = 0
        self._figures = []  # of each call of add: name -> (T,)
        self._image = None  # the present one, as pixels
        self._image_begin = 0  # the timestep before which it began
        self._next_image_from = 0  # the timestep from which on the chart has room for one
        self._film_parts = []  # of each call of add: name of an array -> kept timesteps
        self._last_film = None
        self._spikes_before = 0  # by part, (1, len(PARTS))

    def add(self, batch: Batch, output: SNNOutput) -> dict[str, np.ndarray]:
        """Add the next timesteps.

        Parameters
        ----------
        batch : Batch
            One image.
        output : SNNOutput
            What the network gave in these timesteps.

        Returns
        -------
        dict of {str: ndarray of shape (T,)}
            Figures of these timesteps: spikes of each part, ``answer``, how ``sure`` it
            is, ``label``, and the share of ``open`` input.
        """
        steps = len(output.logits_by_step)
        figures = _figures_of(batch, output, steps)
        self._figures.append(figures)
        self._add_image(as_pixels(batch.images)[0].cpu().numpy())
        if self.model.has_feedback:
            self._add_film(batch, output)
        self._steps_done += steps
        return figures

    def _add_image(self, image: np.ndarray) -> None:
        """Keep an image for the chart, if it is new and there is room for it."""
        if not np.array_equal(image, self._image):
            self._image = image
            self._image_begin = self._steps_done
        is_new = not self.images or self.images[-1].begin < self._image_begin
        if is_new and self._steps_done >= self._next_image_from:
            self.images.append(ShownImage(self._image_begin, image))
            self._next_image_from = self._steps_done + self.steps / SHOWN

    def _add_film(self, batch: Batch, output: SNNOutput) -> None:
        """Keep the film of the next timesteps, or of each of ``every``."""
        names = self.model.classes
        title = ""
        if batch.labels is not None:
            label = batch.labels[0]
            title = f"label: {names[label]}" if label >= 0 else "no label"
        film = film_of(self.model, batch, output, names, [title])
        inputs = np.repeat(film.images[None], len(film.predictions), 0)
        spikes = film.spikes + self._spikes_before
        film = replace(film, inputs=inputs, spikes=spikes, heading=self.title)
        self._last_film = film
        self._spikes_before = spikes[-1]

        first_kept = -(self._steps_done + 1) % self.every
        kept = {}
        for name, values in vars(film).items():
            if isinstance(values, np.ndarray) and name not in NOT_BY_STEP:
                kept[name] = values[first_kept :: self.every]
        self._film_parts.append(kept)

    def film(self) -> Film | None:
        """Return the film so far; None of a network that predicts nothing."""
        if not self._film_parts:
            return None
        arrays = {}
        for name in self._film_parts[0]:
            arrays[name] = np.concatenate([part[name] for part in self._film_parts])
        stopped = np.array([len(arrays["spikes"])])
        return replace(self._last_film, **arrays, stopped=stopped, every=self.every)

    def so_far(self) -> dict[str, np.ndarray]:
        """Return the figures (T,) of all timesteps, see ``add``."""
        joined = {}
        for name in self._figures[0]:
            joined[name] = np.concatenate([figures[name] for figures in self._figures])
        return joined


def _figures_of(batch: Batch, output: SNNOutput, steps: int) -> dict[str, np.ndarray]:
    """Return the figures (T,) of a few timesteps on one image, see ``Reel.add``."""
    counts = {}
    for layer, values in output.spikes_by_step.items():
        counts[layer] = values[:, 0].double().cpu().numpy()
    spikes = by_part(counts)
    figures = {}
    for part in PART_COLOURS:
        figures[part] = spikes[part] + np.zeros(steps)  # a part without layers is a mere 0
    sure = softmax(output.logits_by_step[:, 0].double().cpu().numpy(), -1)
    figures["answer"] = leading_classes(sure)
    figures["sure"] = sure.max(-1)
    label = -1 if batch.labels is None else int(batch.labels[0])
    figures["label"] = np.full(steps, label)
    share = open_share_by_step(output, batch.images)
    figures["open"] = np.ones(steps) if share is None else share[:, 0].cpu().numpy()
    return figures


def save_stream(path: str | PathLike, reel: Reel, baseline: Reel | None = None) -> None:
    """Draw a stream over its timesteps: images, answers, and spikes by part.

    Parameters
    ----------
    path : str or Path
        The PNG.
    reel : Reel
        What the network has shown.
    baseline : Reel, optional
        That of another network on the same stream.
    """
    networks = {"this network": reel.so_far()}
    if baseline:
        networks["baseline"] = baseline.so_far()
    steps = len(networks["this network"]["answer"])
    heights = [1, 0.35 + 0.35 * len(networks), 2.4]
    size = (12, 1.15 * sum(heights) + 1)
    with chart(path, size, 3, 1, height_ratios=heights, sharex=True) as axes:
        images_axis, answers_axis, spikes_axis = axes
        draw_images(images_axis, reel.images, steps)
        draw_answers(answers_axis, networks, reel.model.classes)
        draw_spikes(spikes_axis, steps, networks, spiking_parts(reel.model.layers))
        for begin, _ in reel.images:
            for axis in (answers_axis, spikes_axis):
                axis.axvline(begin + 0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
        images_axis.figure.suptitle(reel.title)


def draw_images(axis: Axes, images: Sequence[ShownImage], steps: int) -> None:
    """Draw images in a row, each where it begins, smaller where the next one is near.

    Parameters
    ----------
    axis : Axes
        The axis.
    images : sequence of ShownImage
        The images, all of one size.
    steps : int
        Number of timesteps of the stream.
    """
    _, first = images[0]
    height, width = first.shape[:2]
    full_width = SQUARE * steps * width / height  # in timesteps
    lefts = [begin + 0.5 for begin, _ in images]
    rights = [*lefts[1:], steps + 0.5]
    for (_, pixels), left, right in zip(images, lefts, rights, strict=True):
        size = min((right - left) / full_width, 1)
        axis.imshow(
            pixels,
            cmap="gray",
            vmin=0,
            vmax=255,
            extent=(left, left + size * full_width, 0, size),
            aspect="auto",
        )
        axis.axvline(left, color="#bbbbbb", linewidth=0.8)
    title = f"images shown ({width}x{height} pixels), drawn smaller where the next one begins soon"
    axis.set(yticks=[], ylim=(0, 1), title=title)
    axis.tick_params(bottom=False)


def draw_answers(
    axis: Axes, networks: dict[str, dict[str, np.ndarray]], names: Sequence[str]
) -> None:
    """Draw a row for each network: in colours whether its answer is right.

    Parameters
    ----------
    axis : Axes
        The axis.
    networks : dict of {str: dict of {str: ndarray of shape (T,)}}
        Name of a network -> its figures, of which ``answer`` and ``label`` are drawn.
        -1 is no answer, and no label.
    names : sequence of str
        Names of the classes, which are written where there is room.
    """
    for row, figures in enumerate(networks.values()):
        draw_answer_row(axis, row, figures["answer"], figures["label"], names)
    axis.set(ylim=(len(networks) - 0.5, -0.5))
    axis.set_yticks(range(len(networks)), list(networks))
    axis.set_title("answer at each timestep", loc="left")
    for verdict, colour in VERDICTS.items():
        axis.barh(0, 0, color=colour, label=verdict)
    axis.legend(ncols=5, **BESIDE_TITLE)


def draw_answer_row(
    axis: Axes, row: int, answer: np.ndarray, label: np.ndarray, names: Sequence[str]
) -> None:
    """Draw answers (T,) as bars, each as long as answer and verdict stay the same."""
    steps = len(answer)
    right, wrong, no_label, no_answer = range(len(VERDICTS))
    verdict = np.select(
        [answer < 0, label < 0, answer == label], [no_answer, no_label, right], wrong
    )
    colours = list(VERDICTS.values())
    changes = np.diff(answer, prepend=-2) | np.diff(verdict, prepend=-2)
    begins = np.flatnonzero(changes)
    for begin, end in zip(begins, [*begins[1:], steps], strict=True):
        axis.barh(row, end - begin, 0.8, begin + 0.5, color=colours[verdict[begin]])
        if answer[begin] < 0:
            continue
        name = names[answer[begin]]
        if end - begin > ROOM * steps * len(name):
            axis.text(
                (begin + end + 1) / 2,
                row,
                name,
                color="white",
                ha="center",
                va="center",
                fontsize=9,
            )


def draw_spikes(
    axis: Axes,
    steps: int,
    networks: dict[str, dict[str, np.ndarray]],
    spiking: Sequence[str],
) -> None:
    """Draw the spikes of the first network by part, and those of another in all.

    Parameters
    ----------
    axis : Axes
        The axis.
    steps : int
        Number of timesteps, T.
    networks : dict of {str: dict of {str: ndarray of shape (T,)}}
        Name of a network -> its figures, of which the spikes of parts are drawn.
    spiking : sequence of str
        Parts of the first network that have a spiking layer.
    """
    # Timestep t reaches from t - 0.5 to t + 0.5, as in the panels above. The last value
    # is repeated at the end of the last timestep.
    edges = np.arange(steps + 1) + 0.5
    means = []
    for number, (name, figures) in enumerate(networks.items()):
        total = sum(figures[part] for part in PART_COLOURS)
        means.append(f"{name} {total.mean():,.0f}")
        if number == 0:
            axis.stackplot(
                edges,
                [np.append(figures[part], figures[part][-1]) for part in spiking],
                labels=spiking,
                colors=[PART_COLOURS[part] for part in spiking],
                step="post",
                linewidth=0,
            )
        else:
            axis.step(
                edges,
                np.append(total, total[-1]),
                where="post",
                color=ACCURACY_COLOUR,
                linewidth=1,
                label=f"{name}, in all",
            )
    axis.set(ylabel="spikes", ylim=(0, None), xlim=(0.5, steps + 0.5), xlabel="timestep")
    axis.set_title(f"spikes in each timestep; mean: {', '.join(means)}", loc="left")
    axis.legend(ncols=5, **BESIDE_TITLE)
    axis.locator_params("x", integer=True)
