"""The style of all pictures, and what several of them share.

A picture is made by a function ``save_...``, which lays out a figure and writes it. It
calls a function ``draw_...`` for each plot, which takes an axis and plain arrays.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from os import PathLike

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator

from self_models.running.outputs import PARTS
from wfeedback.runs.saving import write_whole

STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.family": "DejaVu Sans",
}
plt.rcParams.update(STYLE | {"legend.frameon": False})
PART_COLOURS = dict(zip(PARTS.values(), ("#4477aa", "#228833", "#b8a21e", "#aa3377"), strict=True))
RIGHT = "#1a6b2f"
WRONG = "#b3261e"
NO_ANSWER = "#555555"
ACCURACY_COLOUR = "#222222"
PALETTE_FRAMES = 8  # frames of a GIF, at most, that choose its colours
LAST_FRAME_MS = 3000


def save(path: str | PathLike, figure: Figure) -> None:
    """Write a figure as a PNG, and close it."""
    write_whole(path, lambda file: figure.savefig(file, format="png"))
    plt.close(figure)


@contextmanager
def chart(
    path: str | PathLike,
    size: tuple[float, float] = (7, 4),
    panels: int = 1,
    columns: int | None = None,
    **layout: object,
) -> Iterator[np.ndarray]:
    """Lay out panels, and write them as a PNG at the end of a ``with`` block.

    Parameters
    ----------
    path : str or Path
        The PNG.
    size : (float, float)
        Width and height in inches.
    panels : int
        Number of panels.
    columns : int, optional
        How many of them stand side by side. By default all.
    **layout
        Further arguments of ``plt.subplots``.

    Yields
    ------
    ndarray of Axes
        The panels, row by row.
    """
    if columns is None:
        columns = panels
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            ceil(panels / columns),
            columns,
            figsize=size,
            squeeze=False,
            layout="constrained",
            **layout,
        )
        for spare in axes.flat[panels:]:
            spare.remove()
        yield axes.flat[:panels]
        save(path, figure)


def save_frames(
    path: str | PathLike,
    figure: Figure,
    draw: Callable[[int], None],
    numbers: Sequence[int],
    seconds: float,
) -> None:
    """Write a figure that changes as a GIF, and close it.

    All frames share one palette, so that the colours of what stands still do not
    flicker. matplotlib's own writer makes a palette for each frame.

    Parameters
    ----------
    path : str or Path
        The GIF.
    figure : Figure
        The figure.
    draw : callable
        ``draw(number)`` changes it to what a frame shows.
    numbers : sequence of int
        Number of each frame.
    seconds : float
        How long a frame is shown. The last one stays for 3 s.
    """
    step = ceil(len(numbers) / PALETTE_FRAMES)
    samples = np.concatenate(list(_drawn_frames(figure, draw, numbers[::step])))
    palette = Image.fromarray(samples).quantize()
    frames = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in _drawn_frames(figure, draw, numbers)
    )
    first = next(frames)
    options = {
        "save_all": True,
        "append_images": frames,
        "duration": [1000 * seconds] * (len(numbers) - 1) + [LAST_FRAME_MS],
        "loop": 0,
    }
    write_whole(path, lambda file: first.save(file, "GIF", **options))
    plt.close(figure)


def _drawn_frames(
    figure: Figure, draw: Callable[[int], None], numbers: Iterable[int]
) -> Iterator[np.ndarray]:
    """Yield frames as bytes (H, W, 3). The layout is made once, and then stays."""
    for number in numbers:
        draw(number)
        figure.canvas.draw()
        figure.set_layout_engine("none")
        yield np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def show(axis: Axes, image: np.ndarray) -> AxesImage:
    """Show an image on an axis, without ticks.

    Parameters
    ----------
    axis : Axes
        The axis. It may have been hidden.
    image : ndarray of shape (H, W) or (H, W, 3), 0 to 255
        The image, in grey or in colour.

    Returns
    -------
    AxesImage
        Whose data another image of the same shape may replace.
    """
    axis.set(xticks=[], yticks=[], visible=True)
    return axis.imshow(image, cmap="gray", vmin=0, vmax=255)


def stack_parts(
    draw: Callable,
    places: Sequence,
    bars: Sequence[dict[str, float]],
    width: float,
    colours: dict[str, str] = PART_COLOURS,
) -> tuple[BarContainer, np.ndarray]:
    """Draw bars in which the parts of a network are stacked.

    Parameters
    ----------
    draw : callable
        ``bar`` or ``barh`` of an axis.
    places : sequence
        Where each bar stands.
    bars : sequence of dict of {str: float}
        Part -> its value, for each bar. A part that is missing counts as 0.
    width : float
        Width of a bar.
    colours : dict of {str: str}
        Part -> its colour, from the lowest part to the highest.

    Returns
    -------
    last : BarContainer
        The bars of the highest part, to be labelled.
    sums : ndarray
        Sum of each bar.
    """
    sums = np.zeros(len(bars))
    for part, colour in colours.items():
        values = np.array([bar.get(part, 0) for bar in bars])
        last = draw(places, values, width, sums.copy(), label=part, color=colour)
        sums += values
    return last, sums


def log_scale(axis: Axis, subs: Sequence[float], form: str = "{x:,.10g}") -> None:
    """Choose the ticks of a logarithmic scale.

    Parameters
    ----------
    axis : matplotlib.axis.Axis
        The x or y axis.
    subs : sequence of float
        Multiples of the powers of ten that get a tick.
    form : str
        Format of their numbers.
    """
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(form)
    axis.axes.minorticks_off()
