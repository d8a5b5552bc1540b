"""One style for all pictures, and what several of them share: panels, frames of a GIF, bars by part, scales."""

from contextlib import contextmanager

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

from harness.runs.saving import write_whole
from self_models.runtime.outputs import PARTS

STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "font.family": "DejaVu Sans",
}
plt.rcParams.update(STYLE | {"legend.frameon": False})
PART_COLOURS = dict(zip(PARTS.values(), ("#4477aa", "#228833", "#b8a21e", "#aa3377"), strict=True))
RIGHT, WRONG, NO_ANSWER = "#1a6b2f", "#b3261e", "#555555"
ACCURACY_COLOUR = "#222222"


def save(path, figure):
    """Write a figure as a PNG, and close it."""
    write_whole(path, lambda file: figure.savefig(file, format="png"))
    plt.close(figure)


@contextmanager
def chart(path, size=(7, 4), panels=1, columns=None, **layout):
    """A PNG with as many axes as panels, which are yielded; columns: how many of them stand side by side, by default all."""
    columns = columns or panels
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            -(-panels // columns),
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


def save_frames(path, figure, draw, numbers, seconds):
    """A GIF of a figure in which draw(number) draws each frame; the last stays longer."""

    def drawn(chosen):
        """The frames as arrays of bytes (H, W, 3)."""
        for number in chosen:
            draw(number)
            figure.canvas.draw()
            figure.set_layout_engine("none")  # from now on everything stays where it is
            yield np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()

    some = np.concatenate([*drawn(numbers[:: -(-len(numbers) // 8)])])
    palette = Image.fromarray(
        some
    ).quantize()  # one for all frames, so that the colours of what stands still do not flicker
    frames = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in drawn(numbers)
    )
    look = {
        "save_all": True,
        "append_images": frames,
        "duration": [1000 * seconds] * (len(numbers) - 1) + [3000],
        "loop": 0,
    }
    write_whole(path, lambda file: next(frames).save(file, "GIF", **look))
    plt.close(figure)


def show(axis, image):
    """A picture, values 0 to 255, (H, W) in grey or (H, W, 3), on an axis without ticks, which may have been hidden."""
    axis.set(xticks=[], yticks=[], visible=True)
    return axis.imshow(image, cmap="gray", vmin=0, vmax=255)


def stack_parts(draw, places, bars, width, colours=PART_COLOURS):
    """Bars stacked by part. draw: an axis's bar or barh; bars: part -> value, for each. Returns (bars of the last part, sums)."""
    sums = np.zeros(len(bars))
    for part, colour in colours.items():
        values = np.array([bar.get(part, 0) for bar in bars])
        drawn = draw(places, values, width, sums.copy(), label=part, color=colour)
        sums += values
    return drawn, sums


def log_scale(axis, subs, form="{x:,.10g}"):
    """Numbers of a logarithmic x or y axis: these multiples of powers of ten."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(form)
    axis.axes.minorticks_off()
