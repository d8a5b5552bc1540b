"""What a network does in a stream, while its image changes: a Film for its GIF, and a chart of its steps."""

from dataclasses import replace
from textwrap import fill

import numpy as np
from scipy.special import softmax

from harness.drawing.figures import NO_ANSWER, PART_COLOURS, RIGHT, WRONG
from harness.drawing.film import BY_STEP, answers_of, as_pixels, film_of
from harness.drawing.plots import ACCURACY_COLOUR, chart
from self_models.counting.spikes import by_part
from self_models.running.outputs import open_share_by_step

MOST = 240  # steps that a GIF shows
WIDEST = 80  # letters of a line of the title
SHOWN = 28  # images above a chart at most
LABEL_COLOUR = "#cfe3d4"
SQUARE = 0.1  # of a chart's width is the height of these images


class Reel:
    """What a stream of one image at a time has shown so far, to be drawn: figures of each step, and a Film, which has all of
    them, or every second, third, … so that there are no more than MOST. steps: how many there will be; title: of the stream."""

    def __init__(self, model, steps, title):
        self.model, self.title, self.steps, self.taken = model, fill(title, WIDEST), steps, 0
        self.every, self.figures, self.parts, self.spikes = -(-steps // MOST), [], [], 0  # figures, parts: of each call of add
        self.images, self.now, self.since, self.next = [], None, 0, 0  # now: the image that began at step since

    def add(self, batch, output):
        """The SNNOutput of the next steps, on this Batch of one image. Returns the figures of these steps, name -> (T,)."""
        steps = len(output.logits_by_step)
        sure = softmax(output.logits_by_step[:, 0].double().cpu().numpy(), -1)
        spikes = by_part({name: counts[:, 0].double().cpu().numpy() for name, counts in output.spikes_by_step.items()})
        share = open_share_by_step(output, batch.images)
        found = {part: spikes[part] + np.zeros(steps) for part in PART_COLOURS}
        found |= {"answer": answers_of(sure), "sure": sure.max(-1)}
        found["label"] = np.full(steps, -1 if batch.labels is None else int(batch.labels[0]))
        found["open"] = np.ones(steps) if share is None else share[:, 0].cpu().numpy()
        self.figures.append(found)
        image = as_pixels(batch.images)[0].cpu().numpy()
        if not np.array_equal(image, self.now):
            self.now, self.since = image, self.taken
        if self.taken >= self.next and (not self.images or self.images[-1][0] < self.since):
            self.images.append((self.since, image))
            self.next = self.taken + self.steps / SHOWN
        if self.model.predicts:
            film = film_of(self.model, batch, output, self.model.classes, [""])
            now = {"inputs": np.repeat(film.images[None], steps, 0), "shown_labels": found["label"][:, None]}
            self.last = replace(film, **now, spikes=film.spikes + self.spikes, heading=self.title)
            self.spikes, arrays = self.last.spikes[-1], self.last.arrays()
            first = -(self.taken + 1) % self.every  # of these steps that the Film has
            self.parts.append({name: arrays[name][first :: self.every] for name in BY_STEP if name in arrays})
        self.taken += steps
        return found

    def film(self):
        """The Film of the steps so far; None of a network that predicts nothing."""
        if not self.parts:
            return None
        parts = {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
        return replace(self.last, **parts, stopped=np.array([len(parts["spikes"])]), every=self.every)

    def so_far(self):
        """The figures of all steps, name -> (T,)."""
        return {name: np.concatenate([figures[name] for figures in self.figures]) for name in self.figures[0]}


def save_stream(path, reel, blocks):
    """A PNG over the steps of a Reel: its images; the answer at each step, right or wrong where labels are known; how sure the
    network is; spikes by part; and, of a gate that blocks, the share of active pixels that is open."""
    figures, names = reel.so_far(), reel.model.classes
    steps = np.arange(1, len(figures["answer"]) + 1)
    ratios = [1, 2.2, 1.5, 2, 1.5][: 5 if blocks else 4]
    with chart(path, (12, 1.15 * sum(ratios) + 0.8), len(ratios), 1, height_ratios=ratios, sharex=True) as axes:
        pictures, answers, sure, spikes, *shares = axes
        draw_images(pictures, reel.images, len(steps))
        draw_answers(answers, steps, figures["answer"], figures["label"], names)
        sure.plot(steps, 100 * figures["sure"], color=ACCURACY_COLOUR, linewidth=1)
        sure.set(ylim=(0, 104), ylabel="certainty, %", title="certainty: softmax of the logits")
        parts = [figures[part] for part in PART_COLOURS]
        spikes.stackplot(steps, parts, labels=PART_COLOURS, colors=PART_COLOURS.values(), step="mid", linewidth=0)
        spikes.set(ylabel="spikes", ylim=(0, None))
        spikes.set_title(f"spikes of each step, mean {np.sum(parts, 0).mean():,.0f}", loc="left")
        beside_title(spikes)
        for axis in shares:
            axis.step(steps, 100 * figures["open"], where="mid", color=PART_COLOURS["input"])
            axis.set(ylim=(0, 104), ylabel="open, %", title="input pixels that are not 0: open")
        axes[-1].set(xlim=(0.5, len(steps) + 0.5), xlabel="step")
        axes[-1].xaxis.get_major_locator().set_params(integer=True)
        axes[0].figure.suptitle(reel.title)


def draw_images(axis, images, steps):
    """The images (step, pixels) in a row, each with its left edge at the step from which on it was shown."""
    height, width = images[0][1].shape[:2]
    ends = [step + 0.5 for step, _ in images] + [steps + 0.5]
    for (_, image), left, right in zip(images, ends[:-1], ends[1:], strict=True):
        wide = min(right - left, SQUARE * steps * width / height)
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(left, left + wide, 0, 1), aspect="auto")
        axis.axvline(left, color="white", linewidth=1)
    axis.set(yticks=[], ylim=(0, 1), title=f"images shown ({width}x{height} pixels): each from its left edge on")
    axis.tick_params(bottom=False)


def draw_answers(axis, steps, answers, labels, names):
    """A point for each answer, on a bar where its label is known."""
    known = labels >= 0
    ahead = answers >= 0
    colours = np.where(known, np.where(answers == labels, RIGHT, WRONG), NO_ANSWER)
    axis.fill_between(steps, labels - 0.4, labels + 0.4, where=known, step="mid", color=LABEL_COLOUR, linewidth=0)
    axis.scatter(steps[ahead], answers[ahead], s=6, c=colours[ahead], marker="s", linewidths=0)
    places = sorted({*answers[ahead].tolist(), *labels[known].tolist()})
    axis.set(ylabel="answer")
    axis.set_title("answer at each timestep", loc="left")
    axis.set_yticks(places, [names[place] for place in places])
    if known.any():
        for colour, word in ((RIGHT, "right"), (WRONG, "wrong"), (NO_ANSWER, "no label")):
            axis.scatter([], [], s=12, color=colour, marker="s", label=word)
        axis.fill_between([], [], [], color=LABEL_COLOUR, linewidth=0, label="label, while it is shown")
        beside_title(axis)


def beside_title(axis):
    """The key, where it hides nothing."""
    axis.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 0.97), borderaxespad=0, handletextpad=0.3)
