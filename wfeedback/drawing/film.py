"""What a run shows of each image, step by step.

A ``Film`` has the facts. Its pictures are a GIF of all steps, and a sheet of some.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.text import Text
from scipy.special import softmax

from self_models.data.images import has_colour
from self_models.data.sets import Batch
from self_models.feedback.gates import GATES, Gate
from self_models.running.loop import prediction_targets
from self_models.running.outputs import (
    PARTS,
    SNNOutput,
    by_part,
    frames_by_step,
    open_share_by_step,
    part_of,
    spiking_parts,
)
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.drawing.figures import (
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
from wfeedback.measuring.tables import blocked_percent

# The state of a pixel's input neurons in a timestep.
SILENT = 0
DARK = 1
BRIGHT = 2
PREDICTED = 3
BLOCKED = 4
WAITS = 5


class PixelState(NamedTuple):
    """What a picture calls a state, and its colour.

    Attributes
    ----------
    label : str
        Its name, for a gate of the program.
    colour : str
        Its colour.
    general_label : str
        Its name for a gate of somebody's own, of which nobody knows what it blocks.
    """

    label: str
    colour: str
    general_label: str


STATES = {
    SILENT: PixelState("value 0: never spikes", "#20262e", "value 0: never spikes"),
    DARK: PixelState("open: predicted too dark", "#4c9be8", "open: predicted too dark"),
    BRIGHT: PixelState("open: predicted too bright", "#e8743b", "open: predicted too bright"),
    PREDICTED: PixelState("predicted now: blocked next", "#f5f5f5", "open: predicted"),
    BLOCKED: PixelState("blocked: was predicted", "#8b9098", "blocked by the gate"),
    WAITS: PixelState("open, too dim for the present gain: waits", "#7a5ea8", "open: waits"),
}
CELL = 1.45  # inches, side of a small picture
FEWEST = 5  # columns that a GIF has room for, because of the texts above and below
LONGEST_TITLE = 18  # letters above a small picture
SURE = "sure: softmax of the network's outputs so far"


@dataclass(frozen=True)
class Film:
    """A run of ``B`` images over ``T`` timesteps, as arrays.

    Pixels are from 0 to 255, of shape ``(H, W)`` in grey or ``(H, W, 3)`` in colour.
    After an image has stopped, its last timestep is repeated.

    Attributes
    ----------
    images : ndarray of shape (B, H, W[, 3])
        The images. Of a recording, each pixel is what it was at most.
    predictions : ndarray of shape (T, B, H, W[, 3])
        What each timestep predicts of the input.
    states : ndarray of shape (T, B, H, W)
        State of each pixel in a timestep, a key of `STATES`, with regard to the
        prediction that this timestep makes.
    spikes : ndarray of shape (T, B, len(PARTS))
        Spikes so far, by part of the network.
    parts : tuple of str
        Parts that have a spiking layer.
    outputs : ndarray of shape (T, B, K)
        Outputs so far, for each of ``K`` classes.
    titles : ndarray of shape (T, B), str
        What is said above each image.
    labels : ndarray of shape (T, B)
        Class of each image. -1 where nobody knows it.
    blocked : ndarray of shape (T, B), 0 to 1
        Share of the active values that are blocked.
    errors : ndarray of shape (T, B)
        Squared error of a prediction on the image's scale, summed over its pixels.
    seen : ndarray of shape (T, B, H, W[, 3]) or None
        What the input neurons see, if the gate changes the image.
    inputs : ndarray of shape (T, B, H, W[, 3]) or None
        The image in each timestep, if it changes.
    stopped : ndarray of shape (B,)
        Timesteps that each image took.
    names : tuple of str
        Names of the classes.
    setting : str
        What ``gate_in_words`` says.
    own_gate : bool
        Whether the gate is somebody's own.
    heading : str
        What all of it is called, of a stream.
    every : int
        Only each timestep of so many is in the film.
    baseline : dict of {str: ndarray of shape (T,)} or None
        Layer -> spikes so far of a network without a decoder, mean of the images.
    """

    images: np.ndarray
    predictions: np.ndarray
    states: np.ndarray
    spikes: np.ndarray
    parts: tuple[str, ...]
    outputs: np.ndarray
    titles: np.ndarray
    labels: np.ndarray
    blocked: np.ndarray
    errors: np.ndarray
    seen: np.ndarray | None
    inputs: np.ndarray | None
    stopped: np.ndarray
    names: tuple[str, ...]
    setting: str
    own_gate: bool
    heading: str = ""
    every: int = 1
    baseline: dict[str, np.ndarray] | None = None

    @property
    def colour(self) -> bool:
        """Whether the images are in colour."""
        return self.images.ndim == 4

    @cached_property
    def sure(self) -> np.ndarray:
        """How sure the network is of each class after each timestep, (T, B, K).

        This is the softmax of its outputs so far.
        """
        return softmax(self.outputs, -1)

    @cached_property
    def answers(self) -> np.ndarray:
        """The answer after each timestep, (T, B), see ``leading_classes``."""
        return leading_classes(self.sure)

    def spikes_by_part(self) -> dict[str, np.ndarray]:
        """Return spikes so far (T, B) of each part, and as ``total`` of all."""
        spikes = dict(zip(PARTS.values(), np.moveaxis(self.spikes, -1, 0), strict=True))
        return spikes | {"total": self.spikes.sum(-1)}


def leading_classes(sure: np.ndarray) -> np.ndarray:
    """Find the class that is ahead of all others: what a network would answer.

    Parameters
    ----------
    sure : ndarray of shape (..., K)
        How sure it is of each class.

    Returns
    -------
    ndarray of shape (...)
        The class that is ahead of all others; -1 where none is.
    """
    is_ahead = (sure == sure.max(-1, keepdims=True)).sum(-1) == 1
    return np.where(is_ahead, sure.argmax(-1), -1)


def film_of(
    model: VGG_SNN_STDB_wFeedback,
    batch: Batch,
    output: SNNOutput,
    names: Sequence[str],
    titles: Sequence[str],
) -> Film:
    """Collect what a run has shown.

    Beside the output, floats of no more than one timestep are kept at a time.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network, which predicts.
    batch : Batch
        The images.
    output : SNNOutput
        What the network gave for them, with frames.
    names : sequence of str
        Names of the classes.
    titles : sequence of str
        What is said above each image.

    Returns
    -------
    Film
        The facts.
    """
    gate = model.gate
    num_steps = len(output.predictions)
    images = still_image(batch.images)
    shape = (num_steps, *images.shape)
    is_recording = images is not batch.images
    inputs = frames_by_step(batch.images, output.steps).expand(shape)
    targets = prediction_targets(model, batch.images, output.steps).expand(shape)
    everywhere = torch.ones_like(images, dtype=torch.bool)
    is_open = [everywhere] * num_steps if output.is_open is None else output.is_open
    predicted = [~everywhere] * num_steps if output.predicted is None else output.predicted

    predictions = []
    states = []
    errors = []
    for step in range(num_steps):
        prediction = model.on_pixel_scale(output.predictions[step])
        state = blocking_states(gate, prediction, inputs[step], is_open[step], predicted[step])
        error = (prediction - targets[step]).square().sum((1, 2, 3))
        predictions.append(as_array(as_pixels(prediction)))
        states.append(as_array(state))
        errors.append(as_array(error))

    seen = None
    see = getattr(gate, "seen", None)
    if see:
        seen = np.stack([as_array(as_pixels(see(images, where))) for where in is_open])
    labels = torch.full_like(batch.index, -1) if batch.labels is None else batch.labels
    share = open_share_by_step(output, batch.images)
    blocked = np.zeros((num_steps, len(images)))
    if share is not None:
        blocked = 1 - as_array(share)
    spikes = by_part(output.spikes_by_step)
    # A part without a spiking layer is a mere 0, which the sum makes a Tensor.
    spikes_of_parts = [spikes[part] + 0 * spikes["total"] for part in PARTS.values()]
    return Film(
        images=as_array(as_pixels(images)),
        predictions=np.stack(predictions),
        states=np.stack(states),
        spikes=as_array(torch.stack(spikes_of_parts, -1).cumsum(0).int()),
        parts=tuple(spiking_parts(output.spikes_by_step)),
        outputs=as_array(output.logits_by_step.float()),
        titles=np.broadcast_to(np.array(titles), (num_steps, len(images))),
        labels=np.broadcast_to(as_array(labels), (num_steps, len(images))),
        blocked=blocked,
        errors=np.stack(errors),
        seen=seen,
        inputs=as_array(as_pixels(inputs)) if is_recording else None,
        stopped=as_array(output.steps),
        names=tuple(names),
        setting=gate_in_words(gate),
        own_gate=is_own_gate(gate),
    )


def as_array(values: torch.Tensor) -> np.ndarray:
    """Return a Tensor as an array in main memory."""
    return values.cpu().numpy()


def is_own_gate(gate: Gate) -> bool:
    """Return whether a gate is somebody's own.

    Then nobody else knows what its epsilon and its states mean.
    """
    return not type(gate).__module__.startswith("self_models.")


def gate_in_words(gate: Gate) -> str:
    """Return "ε = 0.2", or "gate NAME" of one of somebody's own."""
    if not is_own_gate(gate):
        return f"ε = {getattr(gate, 'epsilon', 0.0):g}"
    for name, gate_class in GATES.items():
        if gate_class is type(gate):
            return f"gate {name}"
    return f"gate {type(gate).__name__}"


def blocking_states(
    gate: Gate,
    prediction: torch.Tensor,
    images: torch.Tensor,
    is_open: torch.Tensor,
    predicted: torch.Tensor,
) -> torch.Tensor:
    """Find the state of each pixel in a timestep.

    Parameters
    ----------
    gate : Gate
        The gate, which knows what a prediction is judged by.
    prediction : Tensor of shape (B, C, H, W)
        What the timestep predicts.
    images : Tensor of shape (B, C, H, W)
        The images.
    is_open : Tensor of shape (B, C, H, W), bool
        Input neurons that may spike in the timestep.
    predicted : Tensor of shape (B, C, H, W), bool
        Pixels whose prediction is good enough.

    Returns
    -------
    Tensor of shape (B, H, W), uint8
        Keys of `STATES`. A pixel is predicted too dark, or too bright, by what its open
        channels that are not predicted miss in sum.
    """
    targets, attended = gate.judged_by(images, is_open)
    # With residual, a pixel of value 0 sends its error.
    sends = (images != 0) | getattr(gate, "residual", False)
    miss = ((prediction - targets) * (is_open & ~predicted)).sum(1)
    states = torch.where(miss > 0, BRIGHT, PREDICTED)
    states = torch.where(miss < 0, DARK, states)
    states = torch.where((is_open & attended).any(1), states, WAITS)
    states = torch.where(is_open.any(1), states, BLOCKED)
    return torch.where(sends.any(1), states, SILENT).byte()


def still_image(images: torch.Tensor) -> torch.Tensor:
    """Make one image of each recording.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W) or (B, T, C, H, W)
        Images, or recordings.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        Images as they are. Of recordings, each pixel is what it was at most.
    """
    return images.amax(1) if images.dim() > 4 else images


def layer_labels(layers: Iterable[str]) -> list[str]:
    """Name layers for a reader, such as "encoder, layer 2".

    Parameters
    ----------
    layers : iterable of str
        Their names in the network, in order.

    Returns
    -------
    list of str
        What to call them: "input", "encoder, layer 2", "classifier, hidden layer 1".
    """
    numbers = Counter()
    labels = []
    for layer in layers:
        part = part_of(layer)
        numbers[part] += 1
        if part == "input":
            labels.append(part)
        elif part == "classifier":
            labels.append(f"{part}, hidden layer {numbers[part]}")
        else:
            labels.append(f"{part}, layer {numbers[part]}")
    return labels


def as_pixels(images: torch.Tensor) -> torch.Tensor:
    """Turn images on the model's scale into pixels.

    Parameters
    ----------
    images : Tensor of shape (..., C, H, W)
        Grey images from 0 to 1, colour images from -1 to 1, or two channels of events,
        "off" and "on".

    Returns
    -------
    Tensor of shape (..., H, W) or (..., H, W, 3), uint8
        Pixels from 0 to 255. Events "on" are orange, "off" blue.
    """
    channels = images.shape[-3]
    if channels == 2:
        off, on = images.unbind(-3)
        images = torch.stack([on, (on + off) / 2, off], -3)
    if has_colour(channels):
        images = (images + 1) / 2
    pixels = (255 * images.clamp(0, 1)).round().byte()
    return pixels[..., 0, :, :] if channels == 1 else pixels.movedim(-3, -1)


# --- the GIF


class FilmFrames:
    """A figure that shows one timestep of a film after the other.

    Parameters
    ----------
    film : Film
        What is shown.

    Attributes
    ----------
    figure : Figure
        The figure.
    heading : Text
        What stands above all.
    pictures : list of (AxesImage, ndarray of shape (T, H, W[, 3]))
        Each small picture, and what it shows in each timestep.
    top, bottom : ndarray of Axes
        The first and the last small picture of each image.
    spikes_axis : Axes
        Where the spikes are drawn.
    """

    def __init__(self, film: Film):
        self.film = film
        num_images = film.labels.shape[1]
        rows = {"input": np.broadcast_to(film.images, film.predictions.shape)}
        if film.seen is not None:
            rows["seen by neurons"] = film.seen
        rows |= picture_rows(film)

        heights = [1] * len(rows) + [0.2 if film.baseline else 0.12]
        columns = max(num_images, FEWEST)
        self.figure, grid = _grid(film, len(rows) + 1, columns, height_ratios=heights)
        self.spikes_axis = self.figure.add_subplot(grid[-1][0].get_gridspec()[-1, :])
        left = max(FEWEST - num_images, 0) // 2  # few images stand in the middle
        axes = grid[:-1, left : left + num_images]
        self.top = axes[0]
        self.bottom = axes[-1]
        self.pictures: list[tuple[AxesImage, np.ndarray]] = []
        for axes_of_row, (label, frames) in zip(axes, rows.items(), strict=True):
            axes_of_row[0].set_ylabel(label)
            for number, axis in enumerate(axes_of_row):
                picture = show(axis, frames[0, number])
                self.pictures.append((picture, frames[:, number]))
        self.heading: Text = self.figure.suptitle("", wrap=True)
        _explain(self.figure, grid[:-1], film)

    def draw(self, t: int) -> None:
        """Show timestep ``t``, from 0."""
        film = self.film
        num_steps = len(film.labels)
        now = f"timestep {film.every * (t + 1)} of {film.every * num_steps}"
        blocked = f"{blocked_percent(film.blocked[t].mean())} blocked"
        lines = [f"{now}   |   {blocked}", _rule_text(film), SURE]
        if film.heading:
            lines.insert(0, film.heading)
        self.heading.set_text("\n".join(lines))
        for number, (top, bottom) in enumerate(zip(self.top, self.bottom, strict=True)):
            top.set_title(_shortened(film.titles[t, number]))
            _say_answer(bottom, film, t, number)
        for picture, frames in self.pictures:
            picture.set_data(frames[t])
        self._draw_spikes(t)

    def _draw_spikes(self, t: int) -> None:
        """Draw the spikes so far, mean of the images, and those of a baseline."""
        film = self.film
        means = {part: count[t].mean() for part, count in film.spikes_by_part().items()}
        bars = [SpikesBar(means, film.parts)]
        most = max(film.spikes[-1].sum(-1).mean(), 1)
        if film.baseline:
            spikes = {}
            for layer, count in film.baseline.items():
                spikes[layer] = count[min(t, len(count) - 1)]
            bars.append(SpikesBar(by_part(spikes), spiking_parts(film.baseline)))
            most = max(most, sum(count[-1] for count in film.baseline.values()))
        draw_spikes_bars(self.spikes_axis, bars, most)
        mean = ", mean of these images" if len(film.images) > 1 else ""
        totals = [f"{bar.spikes['total']:,.0f}" for bar in bars]
        texts = "; baseline (lower bar, in brackets): ".join(totals)
        self.spikes_axis.set_title(f"spikes so far{mean}: {texts}")


class SpikesBar(NamedTuple):
    """Spikes of a network by part, and the parts of it that have a spiking layer."""

    spikes: dict[str, float]
    parts: Sequence[str]


def draw_spikes_bars(axis: Axes, bars: Sequence[SpikesBar], most: float) -> None:
    """Draw the spikes of networks by part, one bar below the other.

    Parameters
    ----------
    axis : Axes
        The axis, which is cleared.
    bars : sequence of SpikesBar
        The networks. The key below gives the numbers of the first, and in brackets
        those of the others.
    most : float
        Spikes at the right end of the axis.
    """
    colours = {}
    for part, colour in PART_COLOURS.items():
        if any(part in bar.parts for bar in bars):
            colours[part] = colour
    axis.clear()
    stack_parts(axis.barh, range(len(bars)), [bar.spikes for bar in bars], 0.9, colours)
    for container, part in zip(axis.containers, colours, strict=True):
        counts = []
        for bar in bars:
            counts.append(f"{bar.spikes[part]:,.0f}" if part in bar.parts else "-")
        others = "".join(f" ({count})" for count in counts[1:])
        container.set_label(f"{part} {counts[0]}{others}")
    axis.set(xlim=(0, most), ylim=(len(bars) - 0.5, -0.5), yticks=[], xticks=[])
    axis.legend(ncols=4, loc="upper left", bbox_to_anchor=(0, 0))


def save_gif(path: str | PathLike, film: Film, seconds_per_step: float) -> None:
    """Write a GIF with a frame for each timestep: pictures, answers, and spikes so far.

    It begins with the first timestep in which a pixel is blocked.

    Parameters
    ----------
    path : str or Path
        The GIF.
    film : Film
        What is shown.
    seconds_per_step : float
        How long a frame is shown.
    """
    frames = FilmFrames(film)
    first = film.blocked.any(1).argmax()  # 0 where none ever is
    steps = range(first, len(film.labels))
    save_frames(path, frames.figure, frames.draw, steps, seconds_per_step)


# --- the sheet


def save_contact_sheet(
    path: str | PathLike, film: Film, images: int = 3, columns: int = 6
) -> None:
    """Write a PNG of the first images, at timesteps that are closer at the beginning.

    Parameters
    ----------
    path : str or Path
        The PNG.
    film : Film
        What is shown.
    images : int
        Number of images, at most.
    columns : int
        Number of timesteps, at most.
    """
    num_steps = len(film.predictions)
    rows = picture_rows(film)
    titles = film.titles[0][:images]
    places = np.geomspace(1, num_steps, min(columns, num_steps))
    timesteps = sorted({round(place) for place in places})
    figure, axes = _grid(film, len(rows) * len(titles), 1 + len(timesteps), 0.55 * len(titles))
    for number, title in enumerate(titles):
        first_row = len(rows) * number
        axes_of_image = axes[first_row : first_row + len(rows)]
        show(axes_of_image[0][0], film.images[number])
        axes_of_image[0][0].set(
            xlabel=_shortened(title),
            ylabel="input" if film.inputs is None else "most of all timesteps",
        )
        for axes_of_row, (label, frames) in zip(axes_of_image, rows.items(), strict=True):
            axes_of_row[1].set_ylabel(label)
            for axis, timestep in zip(axes_of_row[1:], timesteps, strict=True):
                show(axis, frames[timestep - 1, number])
        for axis, timestep in zip(axes_of_image[-1][1:], timesteps, strict=True):
            _say_answer(axis, film, timestep - 1, number)
    for axis, timestep in zip(axes[0][1:], timesteps, strict=True):
        axis.set_title(f"timestep {timestep}")
    figure.suptitle(
        f"Prediction, and the input neurons it blocks, and the answer\n{_rule_text(film)}\n{SURE}",
        wrap=True,
    )
    _explain(figure, axes, film)
    save(path, figure)


# --- what both have


def picture_rows(film: Film) -> dict[str, np.ndarray]:
    """Return what pictures show of each timestep.

    Parameters
    ----------
    film : Film
        The facts.

    Returns
    -------
    dict of {str: ndarray of shape (T, B, H, W[, 3]), 0 to 255}
        Label of a row of pictures -> its pixels.
    """
    rows = {}
    if film.inputs is not None:
        rows["input"] = film.inputs
    colours = np.array([to_rgb(state.colour) for state in STATES.values()])
    rows["prediction"] = film.predictions
    rows["input neurons"] = (255 * colours).astype(np.uint8)[film.states]
    return rows


def _rule_text(film: Film) -> str:
    """Say what epsilon, or a gate of somebody's own, decides."""
    rule = f"blocked: predicted within {film.setting}"
    if film.own_gate:
        rule = f"{film.setting}; blocked"
    values = "pixel channels" if film.colour else "pixels"
    return f"{rule}, in % of {values} that are not 0"


def _shortened(title: str) -> str:
    """Cut a title that would not fit above a small picture."""
    return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…"


def _say_answer(axis: Axes, film: Film, t: int, number: int) -> None:
    """Write below an image what the network answers after timestep ``t``, from 0.

    The colour shows whether it is right. "T = 3" follows if the image has stopped.
    """
    answer = film.answers[t, number]
    label = film.labels[t, number]
    text = "no answer yet\n"
    colour = NO_ANSWER
    if answer >= 0:
        mark = ""
        if label >= 0 and answer == label:
            mark = " ✓"
            colour = RIGHT
        elif label >= 0:
            mark = " ✗"
            colour = WRONG
        certainty = f"{100 * film.sure[t, number, answer]:.0f} % sure"
        if t >= film.stopped[number]:
            certainty += f", T = {film.stopped[number]}"
        text = f"answer: {film.names[answer]}{mark}\n{certainty}"
    blocked = f"{blocked_percent(film.blocked[t, number])} blocked"
    axis.set_xlabel(f"{text}\n{blocked}", color=colour)


def _grid(
    film: Film, rows: int, columns: int, text_height: float = 0.0, **ratios: object
) -> tuple[Figure, np.ndarray]:
    """Make room for small pictures, on axes that are hidden until they have one.

    ``text_height`` is in inches, of what stands below rows.
    """
    width = CELL * columns + (0.8 if film.colour else 1.7)
    height = (CELL + 0.05) * rows + 1.5 + text_height
    return plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        squeeze=False,
        layout="compressed",
        subplot_kw={"xticks": [], "yticks": [], "visible": False},
        **ratios,
    )


def _explain(figure: Figure, axes: np.ndarray, film: Film) -> None:
    """Draw the scale of grey values at the right, and the key of the states below.

    The key has the states of blocking; others if they are there.
    """
    if not film.colour:
        greys = plt.cm.ScalarMappable(plt.Normalize(0, 1), "gray")
        figure.colorbar(greys, ax=axes, shrink=0.4, aspect=25, label="grey value")
    present = {DARK, BRIGHT, PREDICTED, BLOCKED, *np.unique(film.states).tolist()}
    key = []
    for state, look in STATES.items():
        if state in present:
            label = look.general_label if film.own_gate else look.label
            key.append(Patch(facecolor=look.colour, edgecolor="#888888", label=label))
    for columns in (3, 2, 1):
        legend = figure.legend(
            handles=key,
            loc="outside lower left",
            ncols=columns,
            fontsize=9,
            columnspacing=1,
            title="a pixel's colour: open if any channel is" if film.colour else None,
            alignment="left",
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
