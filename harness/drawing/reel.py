"""What a network does in a stream, while its image changes: a Film for its GIF, and a chart of its timesteps."""

from dataclasses import replace
from itertools import product
from textwrap import fill

import numpy as np
from scipy.special import softmax

from harness.drawing.figures import NO_ANSWER, PART_COLOURS, RIGHT, WRONG
from harness.drawing.film import BY_STEP, answers_of, as_pixels, film_of
from harness.drawing.plots import ACCURACY_COLOUR, chart
from self_models.running.outputs import by_part, open_share_by_step

MOST = 240  # steps that a GIF shows
WIDEST = 80  # letters of a line of the title
SHOWN = 28  # images above a chart at most
SQUARE = 0.1  # of a chart's width is the height of these images
ROOM = 0.012  # of it takes a letter


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
        if self.model.has_feedback:
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


def save_stream(path, reel, baseline=None):
    """A PNG over the timesteps of a Reel: its images; the answers, right or wrong where labels are known; spikes by part.
    baseline: the Reel of the same images that the network without a decoder has seen, drawn beside."""
    figures, names = reel.so_far(), reel.model.classes
    both = [("this network", figures)] + ([("baseline", baseline.so_far())] if baseline else [])
    steps = np.arange(1, len(figures["answer"]) + 1)
    ratios = [1, 0.35 + 0.35 * len(both), 2.4]
    with chart(path, (12, 1.15 * sum(ratios) + 1), 3, 1, height_ratios=ratios, sharex=True) as (pictures, answers, spikes):
        draw_images(pictures, reel.images, len(steps))
        draw_answers(answers, steps, both, names)
        parts = [figures[part] for part in PART_COLOURS]
        said = [f"this network {np.sum(parts, 0).mean():,.0f}"]
        spikes.stackplot(steps, parts, labels=PART_COLOURS, colors=PART_COLOURS.values(), step="mid", linewidth=0)
        for name, found in both[1:]:
            total = sum(found[part] for part in PART_COLOURS)
            spikes.step(steps, total, where="mid", color=ACCURACY_COLOUR, linewidth=1, label=f"{name}, in all")
            said.append(f"{name} {total.mean():,.0f}")
        spikes.set(ylabel="spikes", ylim=(0, None), xlim=(0.5, len(steps) + 0.5), xlabel="timestep")
        spikes.set_title(f"spikes in each timestep; mean: {', '.join(said)}", loc="left")
        beside_title(spikes)
        spikes.xaxis.get_major_locator().set_params(integer=True)
        for axis, (begin, _) in product((answers, spikes), reel.images):
            axis.axvline(begin + 0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
        pictures.figure.suptitle(reel.title)


def draw_images(axis, images, steps):
    """The images (step, pixels) in a row, each where it begins, smaller where it is followed soon."""
    height, width = images[0][1].shape[:2]
    begins, full = [step + 0.5 for step, _ in images], SQUARE * steps * width / height
    for (_, image), left, right in zip(images, begins, [*begins[1:], steps + 0.5], strict=True):
        size = min((right - left) / full, 1)
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(left, left + size * full, 0, size), aspect="auto")
        axis.axvline(left, color="#bbbbbb", linewidth=0.8)
    title = f"images shown ({width}x{height} pixels), drawn smaller where the next one begins soon"
    axis.set(yticks=[], ylim=(0, 1), title=title)
    axis.tick_params(bottom=False)


def draw_answers(axis, steps, both, names):
    """For each network a row that says in colours whether it is right, and in words what it answers, where there is room.
    both: (name of the network, its figures)."""
    colours = {"right": RIGHT, "wrong": WRONG, "no label": NO_ANSWER, "no answer yet": "#e4e4e4"}
    for row, (_, found) in enumerate(both):
        answer, label = found["answer"], found["label"]
        verdict = np.select([answer < 0, label < 0, answer == label], [3, 2, 0], 1)
        changes = np.flatnonzero(np.diff(answer, prepend=-2) | np.diff(verdict, prepend=-2))
        for begin, end in zip(changes, [*changes[1:], len(steps)], strict=True):
            axis.barh(row, end - begin, 0.8, begin + 0.5, color=[*colours.values()][verdict[begin]])
            if answer[begin] >= 0 and end - begin > ROOM * len(steps) * len(names[answer[begin]]):
                axis.text((begin + end + 1) / 2, row, names[answer[begin]], color="white", ha="center", va="center", fontsize=9)
    axis.set(ylim=(len(both) - 0.5, -0.5))
    axis.set_yticks(range(len(both)), [name for name, _ in both])
    axis.set_title("answer at each timestep", loc="left")
    for word, colour in colours.items():
        axis.barh(0, 0, color=colour, label=word)
    beside_title(axis)


def beside_title(axis):
    """The key, where it hides nothing."""
    axis.legend(frameon=False, ncols=5, loc="lower right", bbox_to_anchor=(1, 0.97), borderaxespad=0, handletextpad=0.3)
