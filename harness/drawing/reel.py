"""What a network does in a stream, while its image changes: a Film for its GIF, and a chart of its timesteps."""

from dataclasses import replace
from textwrap import fill

import numpy as np
from scipy.special import softmax

from harness.drawing.figures import ACCURACY_COLOUR, NO_ANSWER, PART_COLOURS, RIGHT, WRONG, chart
from harness.drawing.film import answers_of, as_pixels, film_of
from self_models.runtime.outputs import by_part, open_share_by_step, spiking_parts

MOST = 240  # steps that a GIF shows
WIDEST = 80  # letters of a line of the title
SHOWN = 28  # images above a chart at most
SQUARE = 0.1  # of a chart's width is the height of these images
ROOM = 0.012  # of it takes a letter
VERDICTS = {
    "right": RIGHT,
    "wrong": WRONG,
    "no label": NO_ANSWER,
    "no answer yet": "#e4e4e4",
}  # and their colours
BESIDE_TITLE = {
    "loc": "lower right",
    "bbox_to_anchor": (1, 0.97),
    "borderaxespad": 0,
    "handletextpad": 0.3,
}  # of a key
OF_IMAGES = ("images", "stopped")  # arrays of a Film that are not by step


class Reel:
    """What a stream of one image at a time has shown so far, to be drawn: figures of each step, and a Film, which has all of
    them, or every second, third, … so that there are no more than MOST. steps: how many there will be; title: of the stream."""

    def __init__(self, model, steps, title):
        self.model, self.title, self.steps, self.taken = model, fill(title, WIDEST), steps, 0
        self.every, self.figures, self.parts, self.spikes = (
            -(-steps // MOST),
            [],
            [],
            0,
        )  # figures, parts: of each call of add
        self.images, self.now, self.since, self.next = (
            [],
            None,
            0,
            0,
        )  # now: the image that began at step since

    def add(self, batch, output):
        """The SNNOutput of the next steps, on this Batch of one image. Returns the figures of these steps, name -> (T,)."""
        steps, image = len(output.logits_by_step), as_pixels(batch.images)[0].cpu().numpy()
        sure = softmax(output.logits_by_step[:, 0].double().cpu().numpy(), -1)
        spikes = by_part(
            {
                name: counts[:, 0].double().cpu().numpy()
                for name, counts in output.spikes_by_step.items()
            }
        )
        share = open_share_by_step(output, batch.images)
        figures = {part: spikes[part] + np.zeros(steps) for part in PART_COLOURS}
        figures |= {"answer": answers_of(sure), "sure": sure.max(-1)}
        figures["label"] = np.full(steps, -1 if batch.labels is None else int(batch.labels[0]))
        figures["open"] = np.ones(steps) if share is None else share[:, 0].cpu().numpy()
        self.figures.append(figures)
        if not np.array_equal(image, self.now):
            self.now, self.since = image, self.taken
        if self.taken >= self.next and (not self.images or self.images[-1][0] < self.since):
            self.images.append((self.since, image))
            self.next = self.taken + self.steps / SHOWN
        if self.model.has_feedback:
            self.add_film(batch, output)
        self.taken += steps
        return figures

    def add_film(self, batch, output):
        """Keep the Film of the next steps, or of every second, third, …"""
        names = self.model.classes
        title = (
            ""
            if batch.labels is None
            else f"label: {names[batch.labels[0]]}"
            if batch.labels[0] >= 0
            else "no label"
        )
        film = film_of(self.model, batch, output, names, [title])
        inputs = np.repeat(film.images[None], len(film.predictions), 0)
        self.last = replace(
            film, inputs=inputs, spikes=film.spikes + self.spikes, heading=self.title
        )
        self.spikes, first = (
            self.last.spikes[-1],
            -(self.taken + 1) % self.every,
        )  # of these steps that is kept
        by_step = {
            name: each
            for name, each in vars(self.last).items()
            if isinstance(each, np.ndarray) and name not in OF_IMAGES
        }
        self.parts.append({name: each[first :: self.every] for name, each in by_step.items()})

    def film(self):
        """The Film of the steps so far; None of a network that predicts nothing."""
        if not self.parts:
            return None
        parts = {
            name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]
        }
        return replace(
            self.last, **parts, stopped=np.array([len(parts["spikes"])]), every=self.every
        )

    def so_far(self):
        """The figures of all steps, name -> (T,)."""
        return {
            name: np.concatenate([figures[name] for figures in self.figures])
            for name in self.figures[0]
        }


def save_stream(path, reel, baseline=None):
    """A PNG over the timesteps of a Reel: images; answers, right or wrong; spikes by part. baseline: a Reel drawn beside."""
    networks = {"this network": reel.so_far()} | (
        {"baseline": baseline.so_far()} if baseline else {}
    )
    count = len(networks["this network"]["answer"])
    ratios = [1, 0.35 + 0.35 * len(networks), 2.4]
    with chart(path, (12, 1.15 * sum(ratios) + 1), 3, 1, height_ratios=ratios, sharex=True) as (
        pictures,
        answers,
        spikes,
    ):
        draw_images(pictures, reel.images, count)
        draw_answers(answers, count, networks, reel.model.classes)
        draw_spikes(spikes, count, networks, spiking_parts(reel.model.layers))
        for begin, _ in reel.images:
            for axis in (answers, spikes):
                axis.axvline(begin + 0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
        pictures.figure.suptitle(reel.title)


def draw_images(axis, images, steps):
    """The images (step, pixels) in a row, each where it begins, smaller where it is followed soon."""
    height, width = images[0][1].shape[:2]
    begins, full = [step + 0.5 for step, _ in images], SQUARE * steps * width / height
    for (_, image), left, right in zip(images, begins, [*begins[1:], steps + 0.5], strict=True):
        size = min((right - left) / full, 1)
        axis.imshow(
            image,
            cmap="gray",
            vmin=0,
            vmax=255,
            extent=(left, left + size * full, 0, size),
            aspect="auto",
        )
        axis.axvline(left, color="#bbbbbb", linewidth=0.8)
    title = f"images shown ({width}x{height} pixels), drawn smaller where the next one begins soon"
    axis.set(yticks=[], ylim=(0, 1), title=title)
    axis.tick_params(bottom=False)


def draw_answers(axis, steps, networks, names):
    """A row for each network (name -> figures): right or wrong in colours, and the answer in words where there is room."""
    for row, figures in enumerate(networks.values()):
        answer, label = figures["answer"], figures["label"]
        verdict = np.select([answer < 0, label < 0, answer == label], [3, 2, 0], 1)
        changes = np.flatnonzero(np.diff(answer, prepend=-2) | np.diff(verdict, prepend=-2))
        for begin, end in zip(changes, [*changes[1:], steps], strict=True):
            axis.barh(
                row, end - begin, 0.8, begin + 0.5, color=[*VERDICTS.values()][verdict[begin]]
            )
            if answer[begin] >= 0 and end - begin > ROOM * steps * len(names[answer[begin]]):
                axis.text(
                    (begin + end + 1) / 2,
                    row,
                    names[answer[begin]],
                    color="white",
                    ha="center",
                    va="center",
                    fontsize=9,
                )
    axis.set(ylim=(len(networks) - 0.5, -0.5))
    axis.set_yticks(range(len(networks)), list(networks))
    axis.set_title("answer at each timestep", loc="left")
    for word, colour in VERDICTS.items():
        axis.barh(0, 0, color=colour, label=word)
    axis.legend(ncols=5, **BESIDE_TITLE)


def draw_spikes(axis, count, networks, spiking):
    """Draw the spikes of the first network by part, of the other in all.

    ``networks``: figures by name; ``spiking``: parts of the first that have a spiking layer.
    """
    steps, means = np.arange(1, count + 1), []
    for name, figures in networks.items():
        parts = [figures[part] for part in PART_COLOURS]
        if means:
            axis.step(
                steps,
                sum(parts),
                where="mid",
                color=ACCURACY_COLOUR,
                linewidth=1,
                label=f"{name}, in all",
            )
        else:
            axis.stackplot(
                steps,
                [figures[part] for part in spiking],
                labels=spiking,
                colors=[PART_COLOURS[part] for part in spiking],
                step="mid",
                linewidth=0,
            )
        means.append(f"{name} {sum(parts).mean():,.0f}")
    axis.set(ylabel="spikes", ylim=(0, None), xlim=(0.5, count + 0.5), xlabel="timestep")
    axis.set_title(f"spikes in each timestep; mean: {', '.join(means)}", loc="left")
    axis.legend(ncols=5, **BESIDE_TITLE)
    axis.locator_params("x", integer=True)
