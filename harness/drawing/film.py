"""What a run shows of each image, step by step: the facts, a Film, and its pictures, a GIF and a sheet of selected steps."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from scipy.special import softmax

from harness.drawing.figures import (
    NO_ANSWER,
    PART_COLOURS,
    RIGHT,
    WRONG,
    plt,
    save,
    save_frames,
    show,
    stack_parts,
)
from self_models.basics.images import has_colour
from self_models.objectives.gates import GATES
from self_models.runtime.loop import prediction_targets
from self_models.runtime.outputs import (
    PARTS,
    by_part,
    frames_by_step,
    open_share_by_step,
    part_of,
    spiking_parts,
)

SILENT, DARK, BRIGHT, PREDICTED, BLOCKED, WAITS = range(6)  # of a pixel's input neurons in a step
STATES = {  # in words -> its colour
    "value 0: never spikes": "#20262e",
    "open: predicted too dark": "#4c9be8",
    "open: predicted too bright": "#e8743b",
    "predicted now: blocked next": "#f5f5f5",
    "blocked: was predicted": "#8b9098",
    "open, too dim for the present gain: waits": "#7a5ea8",
}
OF_OWN_GATE = {
    PREDICTED: "open: predicted",
    BLOCKED: "blocked by the gate",
    WAITS: "open: waits",
}  # what others do nobody knows
CELL = 1.45  # inches of one small picture
FEWEST = 5  # columns that a GIF has room for, for the words below and above
SURE = "sure: softmax of the network's outputs so far"


@dataclass(frozen=True)
class Film:
    """A run of B images over T steps, as numpy arrays (T, B, ...), but for images and stopped (B, ...) and names; later steps of
    an image that has stopped repeat its last. Pixels are 0 to 255, (..., H, W) or in colour (..., H, W, 3)."""

    images: np.ndarray  # of a recording each pixel's most
    predictions: np.ndarray  # what each step predicts of the input
    states: (
        np.ndarray
    )  # as in STATES: the state in a step and the prediction that it makes, (T, B, H, W)
    spikes: np.ndarray  # so far, by part of the network, (T, B, len(PARTS))
    parts: tuple  # those of the network that have a spiking layer
    outputs: np.ndarray  # summed so far, (T, B, K)
    titles: np.ndarray
    labels: np.ndarray  # -1 where nobody knows them
    blocked: np.ndarray  # share of active values blocked in a step
    errors: (
        np.ndarray
    )  # squared error of a prediction on the image's scale, summed over its pixels
    seen: np.ndarray | None  # by the input neurons, from a gate that changes the image
    inputs: np.ndarray | None  # the image at each step, where it changes
    stopped: np.ndarray  # steps that each image took
    names: tuple  # of the classes (K,)
    setting: str  # as gate_in_words says
    own_gate: bool  # of somebody's own
    heading: str = ""  # what all of it is called, a stream
    every: int = 1  # only each step of this many is in the Film
    baseline: dict | None = (
        None  # layer -> spikes so far of the network without a decoder, mean of the images (T,)
    )

    @property
    def colour(self):
        return self.images.ndim == 4

    @cached_property
    def sure(self):
        """How sure the network is of each class after each step, (T, B, K): the softmax of its outputs so far."""
        return softmax(self.outputs, -1)

    @cached_property
    def answers(self):
        """The class that it would answer after each step, (T, B), as answers_of says."""
        return answers_of(self.sure)

    def spikes_by_part(self):
        """input, encoder, decoder, classifier, total -> spikes so far (T, B)."""
        return dict(zip(PARTS.values(), np.moveaxis(self.spikes, -1, 0), strict=True)) | {
            "total": self.spikes.sum(-1)
        }


def answers_of(sure):
    """The class that it would answer, (...): -1 where none is ahead of all others."""
    is_ahead = (sure == sure.max(-1, keepdims=True)).sum(-1) == 1
    return np.where(is_ahead, sure.argmax(-1), -1)


def film_of(model, batch, output, names, titles):
    """The Film of an SNN that predicts, has run on a Batch and gave this SNNOutput, with its frames; names: of the classes;
    titles: of the images. Floats of no more than a step beside the output."""
    images, gate, steps = still(batch.images), model.gate, len(output.predictions)
    see, everywhere = getattr(gate, "seen", None), torch.ones_like(images, dtype=torch.bool)
    shown_at = frames_by_step(batch.images, output.steps).expand(steps, *images.shape)
    is_open = [everywhere] * steps if output.is_open is None else output.is_open
    predicted = [~everywhere] * steps if output.predicted is None else output.predicted
    targets = prediction_targets(model, batch.images, output.steps).expand(steps, *images.shape)
    labels = torch.full_like(batch.index, -1) if batch.labels is None else batch.labels
    spikes = by_part(output.spikes_by_step)
    share = open_share_by_step(output, batch.images)

    def of_each_step(take, *beside):
        """What take makes of the prediction of each step, on the pixels' scale, and of what is beside it in that step."""
        pairs = zip(map(model.on_pixel_scale, output.predictions), *beside, strict=True)
        return np.stack([take(*pair).cpu().numpy() for pair in pairs])

    return Film(
        images=as_pixels(images).cpu().numpy(),
        predictions=of_each_step(as_pixels),
        states=of_each_step(partial(state_of_blocking, gate), shown_at, is_open, predicted),
        spikes=torch.stack([spikes[part] + 0 * spikes["total"] for part in PARTS.values()], -1)
        .cumsum(0)
        .int()
        .cpu()
        .numpy(),
        parts=tuple(spiking_parts(output.spikes_by_step)),
        outputs=output.logits_by_step.float().cpu().numpy(),
        titles=np.broadcast_to(np.array(titles), (steps, len(images))),
        labels=np.broadcast_to(labels.cpu().numpy(), (steps, len(images))),
        blocked=np.zeros((steps, len(images))) if share is None else 1 - share.cpu().numpy(),
        errors=of_each_step(
            lambda prediction, target: (prediction - target).square().sum((1, 2, 3)), targets
        ),
        seen=np.stack([as_pixels(see(images, where)).cpu().numpy() for where in is_open])
        if see
        else None,
        inputs=None if images is batch.images else as_pixels(shown_at).cpu().numpy(),
        stopped=output.steps.cpu().numpy(),
        names=tuple(names),
        setting=gate_in_words(gate),
        own_gate=is_own(gate),
    )


def is_own(gate):
    """True for a gate of somebody's own, of which nobody else knows what epsilon and its states mean."""
    return not type(gate).__module__.startswith("self_models.")


def gate_in_words(gate):
    """'ε = 0.2', or 'gate NAME' of one of somebody's own."""
    if is_own(gate):
        return f"gate {next((name for name, cls in GATES.items() if cls is type(gate)), type(gate).__name__)}"
    return f"ε = {getattr(gate, 'epsilon', 0.0):g}"


def state_of_blocking(gate, prediction, images, is_open, predicted):
    """The state of each pixel in a step, (B, H, W), from whether its channels are open, and predicted, (B, C, H, W). Too dark or
    too bright: what the open channels that are not predicted miss in sum."""
    targets, attended = gate.judged_by(images, is_open)
    sends = (images != 0) | getattr(
        gate, "residual", False
    )  # then a pixel of value 0 sends its error, too
    miss = ((prediction - targets) * (is_open & ~predicted)).sum(1)
    open_states = torch.where(miss < 0, DARK, torch.where(miss > 0, BRIGHT, PREDICTED))
    open_states = torch.where((is_open & attended).any(1), open_states, WAITS)
    return torch.where(
        sends.any(1), torch.where(is_open.any(1), open_states, BLOCKED), SILENT
    ).byte()


def still(images):
    """Images as they are; of recordings (B, T, C, H, W) one (B, C, H, W) in which each pixel is what it was at most."""
    return images.amax(1) if images.dim() > 4 else images


def in_words(layers):
    """What to call layers, in their order, for a reader: 'input', 'encoder, layer 2', 'classifier, hidden layer 1'."""
    numbers, words = Counter(), []
    for part in map(part_of, layers):
        numbers[part] += 1
        kind = "hidden layer" if part == "classifier" else "layer"
        words.append(part if part == "input" else f"{part}, {kind} {numbers[part]}")
    return words


def as_pixels(images):
    """(..., C, H, W) on the model's scale -> (..., H, W) or (..., H, W, 3), 0 to 255; events on are orange, off blue."""
    channels = images.shape[-3]
    if channels == 2:
        off, on = images.unbind(-3)
        images = torch.stack([on, (on + off) / 2, off], -3)
    images = (
        (255 * ((images + 1) / 2 if has_colour(channels) else images).clamp(0, 1)).round().byte()
    )
    return images[..., 0, :, :] if channels == 1 else images.movedim(-3, -1)


# --- its pictures


def save_gif(path, film, seconds_per_step):
    """One frame per step, from the first in which a pixel is blocked: input, the rows of rows_of, answer, spikes so far."""
    steps, images = film.labels.shape
    rows = {"input": np.broadcast_to(film.images, film.predictions.shape)}
    rows |= ({} if film.seen is None else {"seen by neurons": film.seen}) | rows_of(film)
    ratios = [*[1] * len(rows), 0.2 if film.baseline else 0.12]
    figure, grid = _grid(film, len(rows) + 1, max(images, FEWEST), height_ratios=ratios)
    spikes = figure.add_subplot(grid[-1][0].get_gridspec()[-1, :])
    left, shown = max(FEWEST - images, 0) // 2, []  # few images stand in the middle
    axes = grid[:-1, left : left + images]
    for row, (label, frames) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(label)
        shown += [
            (show(axis, frames[0, number]), frames[:, number]) for number, axis in enumerate(row)
        ]
    heading = figure.suptitle("", wrap=True)
    _explain(figure, grid[:-1], film)

    def draw(t):
        """Step t, from 0."""
        now = f"timestep {film.every * (t + 1)} of {film.every * steps}   |   {100 * film.blocked[t].mean():.0f} % blocked"
        heading.set_text("\n".join(filter(None, (film.heading, now, _rule_of(film), SURE))))
        for number, (above, below) in enumerate(zip(axes[0], axes[-1], strict=True)):
            above.set_title(_short(film.titles[t, number]))
            _say_answer(below, film, t, number)
        for image, frames in shown:
            image.set_data(frames[t])
        _draw_spikes(spikes, film, t)

    first = film.blocked.any(1).argmax()  # 0 where none ever is
    save_frames(path, figure, draw, range(first, steps), seconds_per_step)


def save_contact_sheet(path, film, images=3, columns=6):
    """A PNG: of the first images input, the rows of rows_of and answer, at steps that are closer together at the beginning."""
    steps, rows, titles = len(film.predictions), rows_of(film), film.titles[0][:images]
    chosen = sorted({round(t) for t in np.geomspace(1, steps, min(columns, steps))})
    figure, axes = _grid(film, len(rows) * len(titles), 1 + len(chosen), 0.55 * len(titles))
    for number, title in enumerate(titles):
        pictures = axes[len(rows) * number :][: len(rows)]
        show(pictures[0][0], film.images[number])
        pictures[0][0].set(
            xlabel=_short(title),
            ylabel="input" if film.inputs is None else "most of all timesteps",
        )
        for row, (label, frames) in zip(pictures, rows.items(), strict=True):
            row[1].set_ylabel(label)
            for axis, t in zip(row[1:], chosen, strict=True):
                show(axis, frames[t - 1, number])
        for axis, t in zip(pictures[-1][1:], chosen, strict=True):
            _say_answer(axis, film, t - 1, number)
    for axis, t in zip(axes[0][1:], chosen, strict=True):
        axis.set_title(f"timestep {t}")
    figure.suptitle(
        f"Prediction, and the input neurons it blocks, and the answer\n{_rule_of(film)}\n{SURE}",
        wrap=True,
    )
    _explain(figure, axes, film)
    save(path, figure)


def rows_of(film):
    """What pictures show of each step: label -> pixels (T, B, H, W) or (T, B, H, W, 3), 0 to 255."""
    rows = {} if film.inputs is None else {"input": film.inputs}
    colours = np.array([to_rgb(colour) for colour in STATES.values()])
    return rows | {
        "prediction": film.predictions,
        "input neurons": (255 * colours).astype(np.uint8)[film.states],
    }


def _rule_of(film):
    """What epsilon decides, or a gate of somebody's own, in words."""
    rule = (
        f"{film.setting}; blocked"
        if film.own_gate
        else f"blocked: predicted within {film.setting}"
    )
    return f"{rule}, in % of {'pixel channels' if film.colour else 'pixels'} that are not 0"


def _short(title):
    """The title, cut where it would not fit above a small picture."""
    return title if len(title) <= 18 else title[:17] + "…"


def _say_answer(axis, film, t, number):
    """Below an image: the answer after step t, from 0, how sure, in colour whether right; if it has stopped; what is blocked."""
    answer, label = film.answers[t, number], film.labels[t, number]
    words, colour = "no answer yet\n", NO_ANSWER
    if answer >= 0:
        verdict, colour = (
            ("", NO_ANSWER) if label < 0 else (" ✓", RIGHT) if answer == label else (" ✗", WRONG)
        )
        stopped = f", T = {film.stopped[number]}" if t >= film.stopped[number] else ""
        words = f"answer: {film.names[answer]}{verdict}\n{100 * film.sure[t, number, answer]:.0f} % sure{stopped}"
    axis.set_xlabel(f"{words}\n{100 * film.blocked[t, number]:.0f} % blocked", color=colour)


def _draw_spikes(axis, film, t):
    """A bar of the spikes so far by part, mean of the images where there are several; below, in brackets, of a baseline."""
    theirs = film.baseline or {}
    bars = [{part: count[t].mean() for part, count in film.spikes_by_part().items()}]
    spiking = [film.parts]  # parts of each network that have a spiking layer
    if theirs:
        bars.append(
            by_part({layer: count[min(t, len(count) - 1)] for layer, count in theirs.items()})
        )
        spiking.append(spiking_parts(theirs))
    colours = {}
    words = {"total": [f"{spikes['total']:,.0f}" for spikes in bars]}
    for part, colour in PART_COLOURS.items():
        if any(part in parts for parts in spiking):
            colours[part] = colour
            words[part] = [
                f"{spikes[part]:,.0f}" if part in parts else "-"
                for spikes, parts in zip(bars, spiking, strict=True)
            ]
    axis.clear()
    stack_parts(axis.barh, range(len(bars)), bars, 0.9, colours)
    for container, part in zip(axis.containers, colours, strict=True):
        ours, *beside = words[part]
        container.set_label(f"{part} {ours}" + "".join(f" ({count})" for count in beside))
    most = max(film.spikes[-1].sum(-1).mean(), sum(count[-1] for count in theirs.values()), 1)
    axis.set(xlim=(0, most), ylim=(len(bars) - 0.5, -0.5), yticks=[], xticks=[])
    totals = "; baseline (lower bar, in brackets): ".join(words["total"])
    axis.set_title(
        f"spikes so far{', mean of these images' if len(film.images) > 1 else ''}: {totals}"
    )
    axis.legend(ncols=4, loc="upper left", bbox_to_anchor=(0, 0))


def _grid(film, rows, columns, words=0.0, **ratios):
    """Room for small pictures, on axes that are hidden until they have one. words: inches for what stands below rows."""
    size = (CELL * columns + (0.8 if film.colour else 1.7), (CELL + 0.05) * rows + 1.5 + words)
    hidden = {"xticks": [], "yticks": [], "visible": False}
    return plt.subplots(
        rows,
        columns,
        figsize=size,
        squeeze=False,
        layout="compressed",
        subplot_kw=hidden,
        **ratios,
    )


def _explain(figure, axes, film):
    """The scale of grey values at the right, and below the key of the states: those of blocking, others where they are there."""
    if not film.colour:
        greys = plt.cm.ScalarMappable(plt.Normalize(0, 1), "gray")
        figure.colorbar(greys, ax=axes, shrink=0.4, aspect=25, label="grey value")
    own, shown = (
        OF_OWN_GATE if film.own_gate else {},
        {*np.unique(film.states).tolist(), *range(DARK, WAITS)},
    )
    key = [
        Patch(facecolor=colour, edgecolor="#888888", label=own.get(state, words))
        for state, (words, colour) in enumerate(STATES.items())
        if state in shown
    ]
    title = "a pixel's colour: open if any channel is" if film.colour else None
    look = {"ncols": 3, "fontsize": 9, "columnspacing": 1, "title": title, "alignment": "left"}
    figure.legend(handles=key, loc="outside lower left", **look)
