"""One HTML file of runs that compares them, with all that it shows inside: charts, tables, and a player of single images."""

import base64
import io
import json
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from harness import UserError
from harness.drawing.figures import PART_COLOURS, STATE_COLOURS, amount, answer_of, rows_of, rule_of
from harness.measuring.comparing import EXPLAINED
from harness.reporting import charts, tables
from harness.reporting.recipes import comparison, over_seeds
from harness.runs.checkpoints import write_whole

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False}
MADE_BY = '<meta name="generator" content="report.py">'
LARGEST_PLAYERS = 4 * 2**20  # bytes of step data in the page, so that it stays below 10 MB with plotly's 4.8
MOST_PIXELS = 96  # along a side of a picture in the player


def save_page(path, runs, overwrite, pairs=None):
    """Write the page of Runs. pairs: of Recipes to compare, by default those that have several seeds. Raises UserError where that
    can't be done, or a file is in the way that no report wrote."""
    check_replaceable(Path(path), overwrite)
    write_whole(path, lambda file: file.write(page(runs, pairs).encode("utf-8", "replace")))


def check_replaceable(path, overwrite):
    """Raises UserError where a file is in the way that no report wrote."""
    if path.exists() and not overwrite and not (path.is_file() and MADE_BY.encode() in path.read_bytes()[:1000]):
        raise UserError(f"{path} exists and is no report: --overwrite replaces it, --output writes elsewhere")


def page(runs, pairs=None):
    """The page of Runs, as HTML."""
    styles, names = charts.styles_of(runs), varied(runs)
    films = [run.film for run in runs if run.film]
    players, cut = players_of(runs, styles)
    sections = {
        "costs": charts.against_cost(runs, styles, names),
        "classes": charts.matrices(runs, styles),
        "spikes": charts.spikes(runs, styles, names),
        "steps": charts.analysed(runs, styles),
        "curves": charts.curves(runs, styles),
    }
    shown = {name: [chart for chart in each if chart[1].data] for name, each in sections.items()}
    figures = {f"{name}{number}": json.loads(figure.to_json()) | {"title": title}
               for name, each in shown.items() for number, (title, figure, *_) in enumerate(each)}  # fmt: skip
    pairs = over_seeds(runs) if pairs is None else pairs
    return TEMPLATES.get_template("page.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared",
        runs=list(zip(runs, styles, strict=True)),
        results=list(tables.results_table(runs, styles, names)),
        comparisons=[comparison(*pair) for pair in pairs],
        worst=list(tables.worst_classes(runs, styles)),
        flags=tables.flags_tables(runs, styles),
        charts=shown,
        films=films,
        cut=cut,
        is_thinned=any(max(film.images.shape[1:3]) > MOST_PIXELS for film in films),
        most_pixels=MOST_PIXELS,
        data={"charts": figures, "players": players, "parts": PART_COLOURS},
        explained=EXPLAINED,
        made_by=Markup(MADE_BY),
        plotly=Markup(get_plotlyjs()),
    )


def varied(runs):
    """Names of the settings that differ between the results."""
    results = [result for run in runs for result in run.results if result.spikes]
    names = dict.fromkeys(name for result in results for name in result.settings)
    return [name for name in names if len({result.settings.get(name) for result in results}) > 1]


def players_of(runs, styles):
    """(what the player shows of each run that has a film, lines on those of which it has not all images). Each gets an equal part
    of the room that is left, for as many of its first images as fit."""
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
    return players, cut


def as_player(film):
    """A Film as JSON. images, pictures (by label, image and step): URLs, see url_of; said: words, by step and image; key:
    (colour, words) of the states that a pixel's colour tells."""
    steps, count = film.states.shape[:2]
    rows = {"input": film.images[None]} | rows_of(film)
    lists = ("spikes", "labels", "names", "titles", "layers", "stopped", "index", "answers")
    return {name: getattr(film, name).tolist() for name in lists} | {
        "sure": film.sure.round(4).tolist(),
        "images": list(map(url_of, film.images)),
        "pictures": {label: [list(map(url_of, frames[:, n])) for n in range(count)] for label, frames in rows.items()},
        "said": [[f"{answer_of(film, t, n)[0].strip()}\n{amount(film, t, n)}" for n in range(count)] for t in range(steps)],
        "key": [(STATE_COLOURS[state], words) for state, words in film.key],
        "rule": rule_of(film),
        "scale": f"Error: white is {100 * film.largest_miss:.0f} % of a pixel's range and more." if film.once else "",
    }


def url_of(pixels):
    """A picture (H, W) or (H, W, 3) of bytes as the data URL of a PNG; of a large one only every so manyth row and column."""
    some, file = -(-max(pixels.shape[:2]) // MOST_PIXELS), io.BytesIO()
    Image.fromarray(pixels[::some, ::some]).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
