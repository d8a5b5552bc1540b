"""One HTML file of runs that compares them, with all that it shows inside: charts, tables, and a player of single images."""

import base64
import io
import json
from importlib.util import find_spec
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from harness import UserError
from harness.drawing.figures import PART_COLOURS, STATE_COLOURS, amount, answer_of, rows_of, rule_of
from harness.measuring.comparing import EXPLAINED
from harness.reporting.recipes import comparison, over_seeds
from harness.runs.saving import write_whole

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False}
MADE_BY = '<meta name="generator" content="report.py">'
MOST_PIXELS = 96  # along a side of a picture in the player


def check_page(path, overwrite):
    """Raises UserError where a package that draws a page is not installed, or a file is in the way that no report wrote."""
    if missing := [name for name in ("pandas", "plotly") if not find_spec(name)]:
        raise UserError(f"a page needs {' and '.join(missing)}: pip install pandas plotly")
    path = Path(path)
    if path.exists() and not overwrite and not (path.is_file() and MADE_BY.encode() in path.read_bytes()[:1000]):
        raise UserError(f"{path} exists and is no report: --overwrite replaces it, --output writes elsewhere")


def save_page(path, runs, overwrite, pairs=None):
    """Write the page of Runs. pairs: of Recipes to compare, by default those that have several seeds. Raises UserError where that
    can't be done, see check_page."""
    check_page(path, overwrite)
    write_whole(path, lambda file: file.write(page(runs, pairs).encode("utf-8", "replace")))


def page(runs, pairs=None):
    """The page of Runs, as HTML."""
    from plotly.offline import get_plotlyjs  # of the extra "report", as what charts.py imports

    from harness.reporting import charts

    for number, run in enumerate(runs, 1):
        run.mark = f"#{number}"
    look, results = charts.look_of(runs), charts.results_of(runs)
    films = [run.film for run in runs if run.film]
    players = [{"run": run.mark, "name": run.name, **as_player(run.film)} for run in runs if run.film]
    sections = {
        "costs": charts.against_cost(results, look),
        "classes": charts.matrices(runs),
        "spikes": charts.spikes(results, look),
        "steps": charts.analysed(runs, look),
        "curves": charts.curves(runs, look),
    }
    shown = {name: list(each) for name, each in sections.items()}
    figures = {f"{name}{number}": json.loads(charts.dressed(figure).to_json()) | {"title": title}
               for name, each in shown.items() for number, (title, figure, *_) in enumerate(each)}  # fmt: skip
    return TEMPLATES.get_template("page.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared",
        runs=runs,
        hues=look["color_discrete_map"],
        table=charts.table,
        results=charts.results_table(results),
        comparisons=[comparison(*pair) for pair in (over_seeds(runs) if pairs is None else pairs)],
        flags=charts.flags_tables(runs),
        charts=shown,
        films=films,
        most_pixels=MOST_PIXELS,
        data={"charts": figures, "players": players, "parts": PART_COLOURS},
        explained=EXPLAINED,
        made_by=Markup(MADE_BY),
        plotly=Markup(get_plotlyjs()),
    )


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
    }


def url_of(pixels):
    """A picture (H, W) or (H, W, 3) of bytes as the data URL of a PNG; of a large one only every so manyth row and column."""
    some, file = -(-max(pixels.shape[:2]) // MOST_PIXELS), io.BytesIO()
    Image.fromarray(pixels[::some, ::some]).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
