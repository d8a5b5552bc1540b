"""One HTML file of runs that compares them, with all that it shows inside: charts, tables, and a player of single images."""

import base64
import json
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_hex
from plotly.offline import get_plotlyjs

from harness import UserError
from harness.drawing.figures import ERROR_MAP, PART_COLOURS, STATE_COLOURS
from harness.drawing.film import SHAPES, STATES, keyed
from harness.measuring.comparing import EXPLAINED
from harness.reporting import charts, classes, tables
from harness.reporting.costs import against_cost
from harness.reporting.recipes import over_seeds
from harness.runs.checkpoints import write_whole

HERE = Path(__file__).resolve().parent
MADE_BY = '<meta name="generator" content="report.py">'
LARGEST_PLAYERS = 4 * 2**20  # bytes of step data in the page, so that it stays below 10 MB with plotly's 4.8
MOST_PIXELS = 96  # along a side of a picture in the player
INTERVALS = (
    "Intervals: 95 % of an accuracy on that many images (Wilson), how much another sample of images could differ. They say "
    "nothing about another seed, which can differ more; on the same images, two networks are compared more exactly in pairs."
)
BARS = "Bars: the 95 % intervals above. Of a recipe's several seeds a large mark is the mean, its bars standard deviations."
NEURONS = "Neurons: which input neurons were open in the step, and how the prediction made in it judges them."
ONCE = (
    "Where each pixel sends once: the first in the key that any of its channels does. A pixel that sent is shown as it is known; "
    "the error is the largest of its channels, in % of a pixel's range."
)
THINNED = f"Of images of more than {MOST_PIXELS} pixels a side every second or third pixel is shown, and so on; all are counted."


def save_page(path, runs, overwrite, pairs=None):
    """Write the page of Runs. pairs: of Recipes to compare, by default those that have several seeds. Raises UserError where that
    can't be done, or a file is in the way that no report wrote."""
    check_replaceable(Path(path), overwrite)
    write_whole(path, lambda file: file.write(page(runs, pairs).encode("utf-8", "replace")))


def check_replaceable(path, overwrite):
    """Raises UserError where a file is in the way that no report wrote."""
    if path.exists() and not overwrite and not (path.is_file() and _is_report(path)):
        raise UserError(f"{path} exists and is no report: --overwrite replaces it, --output writes elsewhere")


def _is_report(path):
    with open(path, "rb") as file:
        return MADE_BY.encode() in file.read(1000)


def page(runs, pairs=None):
    """The page of Runs, as HTML."""
    styles = charts.styles_of(runs)
    names, content = varied(runs), Content()
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    rows = [(style, result) for run, style in zip(runs, styles, strict=True) for result in run.results]
    if rows:
        content.section("Results", tables.results_table(rows, names), INTERVALS)
    if pairs := over_seeds(runs) if pairs is None else pairs:
        content.section("Over seeds", tables.comparisons(pairs), EXPLAINED)
    content.charts("Accuracy against cost", against_cost(runs, styles, names), BARS)
    content.charts("Which class is read as which", classes.matrices(runs, styles), classes.NOTE)
    if worst := classes.worst_table(runs, styles):
        content.section("Classes that are taken for others most often", worst)
    players, note = players_of(runs, styles)
    if note:
        content.section("Single images, step by step", _read("player.html") if players else "", note)
    content.charts("Spikes", charts.spikes(runs, styles, names))
    content.charts("Prediction over the steps", charts.analysed(runs, styles))
    thick = "Thick: on the images that judge an epoch. Thin: in training, while the weights change."
    content.charts("Curves over epochs", charts.curves(runs, styles), thick)
    if flags := tables.flags_tables(runs, styles):
        content.section("Flags that differ", flags, "A dash: the run has no such flag.")
    content.section("Commands", tables.commands_list(runs, styles))
    data = {"charts": content.figures, "players": players, "parts": PART_COLOURS}
    data["states"] = list(zip(STATE_COLOURS, STATES, strict=True))
    data["error_colours"] = [to_hex(colour) for colour in plt.get_cmap(ERROR_MAP)(np.arange(256))]
    return "\n".join(
        (
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MADE_BY}',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">',
            f"<style>\n{_read('page.css')}</style>\n</head>\n<body>",
            f"<header><h1>{escape(title)}</h1>{key(runs, styles)}</header>\n<main>",
            *content.parts,
            "</main>",
            f'<script type="application/json" id="data">{as_json(data)}</script>',
            f"<script>{get_plotlyjs()}</script>\n<script>\n{_read('page.js')}</script>\n</body>\n</html>\n",
        )
    )


class Content:
    """parts: the page's sections as HTML; figures: id -> plotly figure, which the page's script draws."""

    def __init__(self):
        self.parts, self.figures = [], {}

    def section(self, title, body, note=""):
        note = f"<p class=note>{escape(note)}</p>" if note else ""
        self.parts.append(f"<section><h2>{escape(title)}</h2>{note}\n{body}\n</section>")

    def charts(self, title, figures, note=""):
        """A section of (title, figure[, note]) side by side; a figure without data is left out."""
        boxes = []
        for name, figure, *words in figures:
            if figure.data:
                chart = f"chart{len(self.figures)}"
                self.figures[chart] = json.loads(figure.to_json()) | {"title": name}
                words = "".join(f"<figcaption>{escape(word)}</figcaption>" for word in words if word)
                boxes.append(f'<figure><h3>{escape(name)}</h3><div id="{chart}" class=chart></div>{words}</figure>')
        if boxes:
            self.section(title, "<div class=charts>" + "\n".join(boxes) + "</div>", note)


def varied(runs):
    """Names of the settings that differ between the results."""
    results = [result for run in runs for result in run.results if result.spikes]
    names = dict.fromkeys(name for result in results for name in result.settings)
    return [name for name in names if len({result.settings.get(name) for result in results}) > 1]


def key(runs, styles):
    """The runs with their letters, colours and marks, and what was not whole in their logs."""
    items = []
    for run, style in zip(runs, styles, strict=True):
        facts = "; ".join(["with feedback" if run.has_feedback else "without feedback", *run.faults])
        line = f'<span class="line {style.dash}" style="border-color:{style.colour}"></span>'
        words = f"<b>{style.letter}</b> {escape(style.name)} <small>{escape(facts)}</small>"
        items.append(f"<li>{line}{words}</li>")
    return f"<ul class=key>{''.join(items)}</ul>"


def players_of(runs, styles):
    """(what the player shows of each run that has a film, a note). Each gets an equal part of the room that is left, for as many
    of its first images as fit."""
    watched = [(run.film, style) for run, style in zip(runs, styles, strict=True) if run.film]
    players, cut, room = [], [], LARGEST_PLAYERS
    for number, (film, style) in enumerate(watched):
        one = {"run": style.letter, "name": style.name, **as_player(film.first(1))}
        images = len(film.titles)
        count = min(images, int(room / (len(watched) - number) // len(json.dumps(one))))
        if count < images:
            cut.append(f"{style.title} {count} of {images} images")
        if count:
            players.append(one | as_player(film.first(count)))
            room -= len(json.dumps(players[-1]))
    notes = [NEURONS] * bool(watched) + [ONCE] * any(film.once for film, _ in watched)
    notes += [THINNED] * any(_every(film) > 1 for film, _ in watched)
    notes += [f"All would be too large for the page, which has of {', of '.join(cut)}: fewer steps leave room."] * bool(cut)
    return players, " ".join(notes)


def _every(film):
    """Which pixels of each row and column the player shows: every so manyth."""
    return -(-max(film.images.shape[1:3]) // MOST_PIXELS)


def as_player(film):
    """A Film as JSON: pixels as base64 of bytes; key: the states to explain; counts: pixels in each state (T, B, states); sure:
    share of each class; answers: the class ahead of all others, or -1. Of a gate of which each pixel sends once: largest, where
    the colour scale of misses ends, and tolerance, epsilon, 1 being a pixel's range; board: greys of the checkerboard, square:
    pixels along a side of its squares."""
    some = (slice(None, None, _every(film)),) * 2
    pixels = ("images", "guesses", "states", *["misses"] * film.once, *["inputs"] * (film.inputs is not None))
    height, width = film.images[0][some].shape[:2]
    player = {"steps": len(film.states), "height": height, "width": width, "channels": 3 if film.colour else 1}
    player |= {name: as_base64(getattr(film, name)[(slice(None),) * SHAPES[name][0].index("H") + some]) for name in pixels}
    lists = ("spikes", "labels", "names", "titles", "layers", "stopped", "index", "answers")
    player |= {name: getattr(film, name).tolist() for name in lists}
    player |= {"epsilon": film.epsilon, "key": keyed(film.states), "values": film.values, "sure": film.sure.round(4).tolist()}
    player["counts"] = np.stack([(film.states == state).sum((2, 3)) for state in range(len(STATES))], -1).tolist()
    if film.once:
        player |= {"largest": film.largest_miss, "tolerance": film.tolerance, "board": film.board}
        player["square"] = -(-film.square // _every(film))
    return player


def as_base64(pixels):
    return base64.b64encode(pixels.tobytes()).decode()


def as_json(data):
    """JSON that may stand inside a script element, whatever its texts are."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def _read(name):
    return (HERE / name).read_text(encoding="utf-8")
