"""Figures of matplotlib as plain data: what stands in them, where, and in which colour.

A digest of pixels tells that two pictures differ; the data tell what differs.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text

matplotlib.use("Agg")  # on a screen, other canvases would draw
MOST_POINTS = 60  # of more points a digest is kept


class DrawnFigure:
    """A figure that has been drawn, maybe several times, as the frames of a GIF are.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    drawings : list of dict
        What ``figure_data`` gave after each drawing.
    pixels : str
        Digest of the pixels of the last drawing, as ``described_picture`` has it of a
        file.
    """

    def __init__(self, figure: Figure):
        self.figure = figure
        self.drawings = []
        self.pixels = ""

    def data(self) -> dict[str, object]:
        """Describe the figure after its last drawing.

        Returns
        -------
        dict of {str: object}
            What ``figure_data`` says of the last drawing. If there were several, the
            key ``drawings`` has a dict for each: its texts, and a digest of all of its
            data.
        """
        data = dict(self.drawings[-1])
        if len(self.drawings) > 1:
            data["drawings"] = {}
            for number, drawing in enumerate(self.drawings, start=1):
                data["drawings"][str(number)] = {
                    "texts": strings_in(drawing),
                    "digest": digest_of(repr(drawing).encode()),
                }
        return data


@contextmanager
def catching_figures() -> Iterator[list[DrawnFigure]]:
    """Describe every figure that is drawn meanwhile.

    Yields
    ------
    list of DrawnFigure
        The figures in the order of their first drawing.

    Raises
    ------
    Exception
        At the end, if a figure could not be described. Raised at once it would seem to
        be an error of the program that draws.
    """
    drawn_figures = []
    failures = []
    original_draw = FigureCanvasAgg.draw

    def draw_and_describe(canvas):
        original_draw(canvas)
        known = [drawn for drawn in drawn_figures if drawn.figure is canvas.figure]
        if known:
            drawn = known[0]
        else:
            drawn = DrawnFigure(canvas.figure)
            drawn_figures.append(drawn)
        try:
            drawn.drawings.append(figure_data(canvas.figure))
            drawn.pixels = digest_of(canvas.buffer_rgba())
        except Exception as error:
            failures.append(error)

    FigureCanvasAgg.draw = draw_and_describe
    try:
        yield drawn_figures
    finally:
        FigureCanvasAgg.draw = original_draw
    if failures:
        raise failures[0]


def figure_data(figure: Figure) -> dict[str, object]:
    """Describe a figure that has just been drawn.

    Hidden and empty parts are left out.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure, on a canvas of Agg.

    Returns
    -------
    dict of {str: object}
        Texts, numbers, lists and dicts: the size in pixels, texts and legends of the
        figure itself, and a dict for each of its axes. Positions are pixels from the
        lower left.
    """
    data = {"size": pixels(figure.bbox.size)}
    data["texts"] = texts_data(figure.texts)
    data["legends"] = [legend_data(legend) for legend in figure.legends if legend.get_visible()]
    for number, axes in enumerate(figure.axes, start=1):
        if axes.get_visible():
            data[f"axes {number}"] = axes_data(axes)
    return without_empty(data)


def axes_data(axes: Axes) -> dict[str, object]:
    """Describe one of a figure's axes, see ``figure_data``."""
    data = {"place": pixels(axes.get_window_extent().extents)}
    # Left, middle and right title are texts of the axes that are not among axes.texts.
    texts = [artist for artist in axes.get_children() if isinstance(artist, Text)]
    data["titles"] = texts_data([text for text in texts if text not in axes.texts])
    if axes.axison:
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            data[name] = axis_data(axis)
    legend = axes.get_legend()
    if legend is not None and legend.get_visible():
        data["legend"] = legend_data(legend)
    data["lines"] = [line_data(line) for line in axes.lines if line.get_visible()]
    data["patches"] = [patch_data(patch) for patch in axes.patches if patch.get_visible()]
    data["collections"] = [
        collection_data(collection) for collection in axes.collections if collection.get_visible()
    ]
    data["images"] = [image_data(image) for image in axes.images if image.get_visible()]
    data["texts"] = texts_data(axes.texts)
    return without_empty(data)


def axis_data(axis: Axis) -> dict[str, object]:
    """Describe an x or y axis: its label, limits and ticks with their labels."""
    low, high = sorted(axis.get_view_interval())
    ticks = []
    for place, text in zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False):
        if low <= place <= high and axis.get_visible():
            label = ""
            if is_shown(text):
                label = text_data(text)
            ticks.append(f"{number(place)}: {label}")
    return without_empty(
        {
            "label": texts_data([axis.label]),
            "scale": axis.get_scale(),
            "limits": [number(limit) for limit in axis.get_view_interval()],
            "ticks": ticks,
        }
    )


def legend_data(legend: Legend) -> dict[str, object]:
    """Describe a legend: its place and title, its texts and what is beside them."""
    entries = []
    for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
        entries.append(f"{text_data(text)}; {type(handle).__name__} {handle_look(handle)}")
    return without_empty(
        {
            "place": pixels(legend.get_window_extent().extents),
            "title": texts_data([legend.get_title()]),
            "entries": entries,
        }
    )


def handle_look(handle: Artist) -> str:
    """Return the colour of a legend's handle, and of a line its style and marker."""
    if hasattr(handle, "get_marker"):
        look = (colour(handle.get_color()), handle.get_linestyle(), handle.get_marker())
        return " ".join(map(str, look))
    if hasattr(handle, "get_facecolor"):
        return " ".join([*colours(handle.get_facecolor()), *colours(handle.get_edgecolor())])
    return ""


def texts_data(texts: Iterable[Text]) -> list[str]:
    """Describe those of these texts that are shown."""
    return [text_data(text) for text in texts if is_shown(text)]


def is_shown(text: Text) -> bool:
    """Return whether a text is visible and says something."""
    return text.get_visible() and bool(text.get_text().strip())


def text_data(text: Text) -> str:
    """Describe a text: its words, the place of its lower left corner, size, colour."""
    x, y = pixels(text.get_window_extent().p0)
    look = f"{text.get_fontsize():g} pt, {colour(text.get_color())}"
    if text.get_rotation():
        look += f", turned by {text.get_rotation():g}"
    return f"{text.get_text()!r} at {x}, {y}; {look}"


def line_data(line: Line2D) -> dict[str, object]:
    """Describe a line: its label, look and points."""
    look = [
        colour(line.get_color()),
        f"style {line.get_linestyle()}",
        f"width {line.get_linewidth():g}",
        f"marker {line.get_marker()} of {line.get_markersize():g}",
        f"filled {colour(line.get_markerfacecolor())} {line.get_fillstyle()}",
        line.get_drawstyle(),
    ]
    if line.get_markevery() is not None:
        look.append(f"markers at {line.get_markevery()}")
    return {
        "label": label_of(line),
        "look": ", ".join(look),
        "points": points(line.get_xydata()),
    }


def patch_data(patch: Patch) -> str:
    """Describe a bar, or another patch, in one line: its place and its colours."""
    if isinstance(patch, Rectangle):
        place = (patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height())
        where = ", ".join(str(number(value)) for value in place)
    else:
        where = str(points(patch.get_path().vertices))
    return f"{type(patch).__name__} {where}; {' '.join(colours(patch.get_facecolor()))}"


def collection_data(collection: Collection) -> dict[str, object]:
    """Describe what is drawn as a collection: event marks, error bars, areas."""
    data = {"kind": type(collection).__name__}
    if hasattr(collection, "get_positions"):
        data["positions"] = points(collection.get_positions())
        data["offset"] = number(collection.get_lineoffset())
        data["length"] = number(collection.get_linelength())
    else:
        data["paths"] = [points(path.vertices) for path in collection.get_paths()]
        data["offsets"] = points(collection.get_offsets())
    data["label"] = label_of(collection)
    data["colours"] = [*colours(collection.get_facecolor()), *colours(collection.get_edgecolor())]
    data["widths"] = [number(width) for width in np.atleast_1d(collection.get_linewidth())]
    return without_empty(data)


def image_data(image: AxesImage) -> dict[str, object]:
    """Describe a picture on axes: its values as a digest, range, colours and place."""
    values = np.ascontiguousarray(np.ma.filled(image.get_array(), np.nan))
    limits = [number(limit) for limit in image.get_clim() if limit is not None]
    return {
        "values": f"{values.dtype} {values.shape} {digest_of(values.tobytes())}",
        "limits": limits,
        "colours": f"{image.get_cmap().name}, {type(image.norm).__name__}",
        "extent": [number(edge) for edge in image.get_extent()],
    }


# --- small helpers


def strings_in(drawing: object) -> list[str]:
    """Return the texts of what ``figure_data`` gave, without their places."""
    strings = []
    if isinstance(drawing, dict):
        for part in drawing.values():
            strings += strings_in(part)
    elif isinstance(drawing, list):
        for part in drawing:
            strings += strings_in(part)
    elif isinstance(drawing, str) and " pt, #" in drawing:
        strings.append(drawing.rpartition(" at ")[0])
    return strings


def label_of(artist: Artist) -> str:
    """Return the label of an artist; empty for one that matplotlib has numbered."""
    label = str(artist.get_label())
    if label.startswith("_"):
        return ""
    return label


def points(values: object) -> list | str:
    """Return numbers of an array, rounded; of a large one a digest of all, exactly."""
    values = np.ascontiguousarray(np.ma.filled(np.ma.asarray(values, dtype=float), np.nan))
    if values.size > 2 * MOST_POINTS:
        return f"{values.shape} {digest_of(values.tobytes())}"
    rounded = np.array([number(value) for value in values.flat], dtype=object)
    return rounded.reshape(values.shape).tolist()


def number(value: float) -> float | str:
    """Return a number with nine significant digits; as text if it is not finite."""
    if not np.isfinite(value):
        return str(value)
    return float(f"{value:.9g}")


def pixels(values: Iterable[float]) -> list[float]:
    """Return positions or lengths in pixels, rounded to tenths."""
    return [round(float(value), 1) for value in values]


def colour(value: object) -> str:
    """Return a colour as '#rrggbbaa'; what is no colour, such as 'none', as text."""
    try:
        return to_hex(value, keep_alpha=True)
    except ValueError:
        return str(value)


def colours(values: object) -> list[str]:
    """Return the different colours of an array (N, 4), or of one colour (4,)."""
    rows = np.reshape(values, (-1, 4)) if np.size(values) else []
    return list(dict.fromkeys(colour(row) for row in rows))


def digest_of(content: bytes | memoryview) -> str:
    """Return the first digits of the SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def without_empty(data: dict[str, object]) -> dict[str, object]:
    """Copy a dict without what is empty, so that an absent legend, say, has no key."""
    return {name: value for name, value in data.items() if value not in ([], {}, "", None)}
