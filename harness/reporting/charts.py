"""The page's charts, as plotly figures: curves over epochs, accuracy against cost, spikes by part and by layer, steps."""

from html import escape
from textwrap import wrap
from typing import NamedTuple

import plotly.graph_objects as go

from harness.drawing.figures import PART_COLOURS
from harness.drawing.film import in_words
from harness.measuring.classes import MOST_CLASSES, accuracy_by_class
from harness.measuring.comparing import FIGURES, spread
from harness.reporting.recipes import recipes_of
from self_models.counting.spikes import PARTS, part_of

HUES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#56b4e9", "#b8860b", "#882255", "#555555")  # told apart by the colour-blind
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "cross", "hexagon")


class Style(NamedTuple):
    """How a run is drawn: a recipe has one hue, each of its seeds a mark; without feedback it is dashed and hollow. letter: its
    short name, which the legends of charts show."""

    letter: str
    name: str
    colour: str
    dash: str
    symbol: str

    @property
    def title(self):
        return f"{self.letter} {self.name}"

    def marker(self, size):
        return {"color": self.colour, "symbol": self.symbol, "size": size, "line": {"width": 1.5, "color": self.colour}}


def styles_of(runs):
    """A Style for each run, in order."""
    members, styles = {}, []
    for position, run in enumerate(runs):
        members.setdefault(run.recipe, []).append(run)
        hue = list(members).index(run.recipe)
        symbol = SYMBOLS[(len(members[run.recipe]) - 1 + hue // len(HUES)) % len(SYMBOLS)]
        dash, symbol = ("solid", symbol) if run.has_feedback else ("dash", f"{symbol}-open")
        styles.append(Style(letter(position), run.name, HUES[hue % len(HUES)], dash, symbol))
    return styles


def letter(position):
    """A, B, ..., Z, AA, AB, ..."""
    return (letter(position // 26 - 1) if position >= 26 else "") + chr(ord("A") + position % 26)


class Line(NamedTuple):
    """A curve over epochs or steps: what it is called, and number of each -> value; thick ones are in the legend."""

    style: Style
    title: str
    points: dict
    is_thick: bool = True


def over(lines, axis, unit, **yaxis):
    """A chart of Lines."""
    figure = blank(axis, unit, yaxis=yaxis)
    for style, title, points, is_thick in lines:
        size, mode = 2.5 if is_thick else 1, "lines+markers" if len(points) < 20 else "lines"
        hover = f"{plain(title)}<br>{axis} %{{x}}<br>{unit}: %{{y:,.4~g}}<extra></extra>"
        figure.add_scatter(x=list(points), y=list(points.values()), mode=mode, marker=style.marker(3 * size), hovertemplate=hover,
                           line={"color": style.colour, "dash": style.dash, "width": size}, opacity=1 if is_thick else 0.55,
                           name=style.letter, legendgroup=style.letter, showlegend=None if is_thick else False)  # fmt: skip
    if lines and max(max(line.points) for line in lines) < 15:
        figure.update_xaxes(dtick=1)  # no ticks between whole numbers
    return figure


CURVES = {  # figure -> (title, unit on the axis, factor)
    "accuracy": ("Accuracy", "accuracy in %", 100),
    "total": ("Loss that is trained: all terms", "loss", 1),
    "classification": ("Classification loss", "loss", 1),
    "reconstruction": ("Reconstruction loss, before its weight", "loss", 1),
    "spikes": ("Spikes, all parts", "spikes per image", 1),
}


def curves(runs, styles):
    """(title, chart) of each figure over epochs, thick on the images that judge an epoch, thin in training where any judge;
    then of each layer's threshold and leak, where it is learned."""
    own = dict.fromkeys(name for run in runs for epoch in run.epochs for name in epoch.train if name.endswith("_loss"))
    for name, (title, unit, factor) in {**CURVES, **{name: (name.replace("_", " "), "loss", 1) for name in own}}.items():
        lines = []
        for run, style in zip(runs, styles, strict=True):
            is_judged = any(epoch.judged for epoch in run.epochs)
            for kind, words in (("train", "training"), ("judged", "judged")):
                each = {epoch.epoch: getattr(epoch, kind) for epoch in run.epochs}
                found = {number: factor * figures[name] for number, figures in each.items() if name in figures}
                if any(found.values()):
                    lines.append(Line(style, f"{style.title}, {words}", found, kind == "judged" or not is_judged))
        yield title, over(lines, "epoch", unit)
    for kind in ("thresholds", "leaks"):  # where they are learned
        lines = []
        for run, style in zip(runs, styles, strict=True):
            found = {epoch.epoch: getattr(epoch, kind) for epoch in run.epochs if getattr(epoch, kind)}
            for layer in found and found[max(found)]:
                points = {number: values[layer] for number, values in found.items() if layer in values}
                if len({*points.values()}) > 1:
                    lines.append(Line(style, f"{style.title}, {layer}", points, False))
        yield kind.capitalize(), over(lines, "epoch", kind[:-1])


ENERGY = "An estimate of the arithmetic alone, 45 nm: 0.9 pJ per accumulate, 4.6 pJ per multiply-accumulate; no memory traffic."
COSTS = {  # title -> (figure of comparing.FIGURES, axis, note)
    "Accuracy against spikes": ("spikes", "spikes per image", ""),
    "Accuracy against energy, event by event": ("energy_event_joules", "energy in µJ per image", ENERGY),
    "Accuracy against energy, layer by layer": ("energy_joules", "energy in µJ per image", ENERGY),
}
MOST_LABELS = 12  # marks with their settings beside them; more would cover each other


def against_cost(runs, styles, names):
    """(title, figure, note) of accuracy against spikes and against both energies. names: of the settings that labels say."""
    for title, (name, axis, note) in COSTS.items():
        figure, lacking = accuracy_against(name, axis, runs, styles, names)
        yield title, figure, note + f" Not in the logs of {lacking} of these results." * (lacking > 0)


def accuracy_against(name, axis, runs, styles, names):
    """Accuracy with its interval against a cost, one mark per result; of a recipe with several seeds small marks, and a large one
    at their mean, with standard deviations. Returns (figure, how many results it lacks)."""
    figure, lacking, first, cost = blank(axis, "accuracy in %"), 0, {}, lambda result: FIGURES[name].of(vars(result))
    means = [recipe for recipe in recipes_of(runs) if len(recipe.results) > 1 and spread(name, recipe.results)]
    averaged = {recipe.name for recipe in means}
    for run, style in zip(runs, styles, strict=True):
        first.setdefault(run.recipe, style)
        found = sorted(filter(cost, run.results), key=cost)
        lacking += sum(bool(result.spikes) for result in run.results) - len(found)
        for rule in dict.fromkeys(result.rule for result in found):
            results = [result for result in found if result.rule == rule]
            shares = [100 * result.accuracy for result in results]
            ends = [[100 * end for end in result.interval] for result in results]
            add_marks(figure, style, style.title, axis, list(map(cost, results)), shares, [
                (result.label(result.settings), f"95 %: {low:.2f} to {high:.2f}", f"{result.images:,} {result.where}")
                for result, (low, high) in zip(results, ends, strict=True)
            ])  # fmt: skip
            if run.recipe in averaged:
                figure.data[-1].update(showlegend=False, marker_size=5)
                continue
            bars = {"array": [high - share for share, (_, high) in zip(shares, ends, strict=True)]}
            bars["arrayminus"] = [share - low for share, (low, _) in zip(shares, ends, strict=True)]
            figure.data[-1].update(error_y=bars, mode="lines+markers+text", text=[plain(one.label(names)) for one in results])
    for recipe in means:
        share, paid = spread("accuracy", recipe.results), spread(name, recipe.results)
        said = f"± {share.deviation:.2f}, standard deviation of {len(recipe.results)} seeds"
        title = ", ".join([recipe.name, *(f"{one} = {value}" for one, value in recipe.settings.items() if one in names)])
        words = [(recipe.run_with, said, recipe.on)]
        add_marks(figure, first[recipe.name], title, axis, [paid.mean], [share.mean], words)
        figure.data[-1].update(marker_size=13, error_x_array=[paid.deviation], error_y_array=[share.deviation])
    if sum(len(marks.text or ()) for marks in figure.data) > MOST_LABELS:
        figure.update_traces(text=None)
    costs = [cost for marks in figure.data for cost in marks.x]
    if costs and max(costs) > 4 * min(costs):
        figure.update_xaxes(type="log", tickformat=",")
    return figure, lacking


def add_marks(figure, style, title, axis, costs, shares, words):
    """Marks in a run's style, without bars and labels. words: (settings, spread, images) of each, as the pointer says them."""
    template = f"%{{fullData.name}}<br>%{{customdata[0]}}<br>%{{y:.2f}} % (%{{customdata[1]}})<br>%{{x:,.4~g}} {axis}<br>"
    figure.add_scatter(x=costs, y=shares, name=plain(title), mode="markers", marker=style.marker(10), textposition="top center",
                       line={"color": style.colour, "dash": style.dash, "width": 1}, textfont={"color": style.colour},
                       error_x={"thickness": 1}, error_y={"thickness": 1}, customdata=[tuple(map(plain, each)) for each in words],
                       hovertemplate=f"{template}%{{customdata[2]}}<extra></extra>")  # fmt: skip


def last_with_classes(runs, styles):
    """(style, the last of a run's results that says which classes were read as which) of the runs that have one."""
    for run, style in zip(runs, styles, strict=True):
        if found := [result for result in run.results if result.confusion]:
            yield style, found[-1]


def matrices(runs, styles):
    """(title, figure, note) of the runs' last evaluations that know it, of classes few enough to be drawn."""
    for style, result in last_with_classes(runs, styles):
        if len(result.classes) <= MOST_CLASSES:
            words = f"{100 * result.accuracy:.2f} % of {result.images:,} images ({result.where})"
            yield style.title, matrix(result), ", ".join(filter(None, (words, result.label(result.settings))))


def matrix(result):
    """A confusion matrix in colours, counts in its cells."""
    shares = [[count / sum(row) if sum(row) else 0 for count in row] for row in result.confusion]
    counts = [[f"{count:,}" if count else "" for count in row] for row in result.confusion]
    known = accuracy_by_class(result.confusion)
    names = list(map(plain, result.classes))
    rows = [name if one is None else f"{name} ({100 * one:.0f} %)" for name, one in zip(names, known, strict=True)]
    ticks = {"tickvals": list(range(len(names))), "showgrid": False}
    axes = {"xaxis": ticks | {"ticktext": names}, "yaxis": ticks | {"ticktext": rows, "autorange": "reversed"}}
    figure = blank("read as", "", 110 + max(3, len(names)) * 30, **axes)
    figure.add_heatmap(z=shares, text=counts, texttemplate="%{text}", zmin=0, zmax=1, colorscale="Blues", showscale=False, xgap=1,
                       ygap=1, hovertemplate="%{y} read as %{x}: %{z:.1%} %{text}<extra></extra>")  # fmt: skip
    return figure


def spikes(runs, styles, names):
    """(title, figure) of results that counted spikes. names: of the settings that labels say."""
    rows = list(_spiking(runs, styles, names))
    if rows:
        yield "By part of the network", spikes_by_part(rows)
        yield "By layer", spikes_by_layer(rows)
        yield "Active input pixels open at each step", open_input(rows)


def spikes_by_part(rows):
    """Stacked bars, one for each result, whose sum stands beside its name. rows: (label, style, result)."""
    labels = ["<br>".join([*map(plain, wrap(label, 24)), f"<b>{result.spikes['total']:,.0f}</b>"]) for label, _, result in rows]
    ticks = {"tickvals": list(range(len(rows))), "ticktext": labels, "autorange": "reversed", "showgrid": False}
    figure = blank("spikes per image", "", 110 + 42 * len(rows), yaxis=ticks, barmode="stack")
    for part, colour in PART_COLOURS.items():
        counts = [result.spikes.get(part, 0) for *_, result in rows]
        figure.add_bar(x=counts, name=part, orientation="h", marker={"color": colour},
                       hovertemplate=f"{part}: %{{x:,.0f}} spikes per image<extra></extra>")  # fmt: skip
    return figure


def spikes_by_layer(rows):
    """A mark for each result and layer; those of a layer below each other."""
    layers = sorted({layer for *_, result in rows for layer in result.spikes_per_layer or ()}, key=_order)
    words = dict(zip(layers, in_words(layers), strict=True))
    ticks = {"categoryorder": "array", "categoryarray": list(words.values()), "autorange": "reversed"}
    height = 110 + max(30, 9 * len(rows)) * len(layers)
    figure = blank("spikes per image", "", height, xaxis={"rangemode": "tozero"}, yaxis=ticks, scattermode="group")
    for number, (label, style, result) in enumerate(rows):
        counts = {words[layer]: count for layer, count in (result.spikes_per_layer or {}).items()}
        figure.add_scatter(x=list(counts.values()), y=list(counts), orientation="h", mode="markers", name=plain(label),
                           marker=style.marker(8), offsetgroup=number,
                           hovertemplate=f"{plain(style.name)}<br>%{{y}}: %{{x:,.1f}} spikes per image")  # fmt: skip
    return figure


def open_input(rows):
    """The share of active input that is open at each step, of results in which input was blocked."""
    shares = [(style, f"{label} {style.name}", result.open_share) for label, style, result in rows if result.open_share]
    lines = [Line(*named, {step: 100 * one for step, one in enumerate(share, 1)}) for *named, share in shares if min(share) < 1]
    return over(lines, "step", "open in %", rangemode="tozero")


ANALYSED = {  # title -> (axis, figure of a step, factor)
    "Squared error of the prediction": ("squared error per image", "squared_error", 1),
    "Active input pixels blocked": ("blocked in %", "blocked_share", 100),
    "Values of the image sent so far": ("sent in %", "sent_share", 100),
}


def analysed(runs, styles):
    """(title, figure) over the steps of runs of the analysis: error of the prediction, and blocked, or sent input."""
    for title, (unit, name, factor) in ANALYSED.items():
        lines = []
        for run, style in zip(runs, styles, strict=True):
            found = {step.step: factor * getattr(step, name) for step in run.analysis if getattr(step, name) is not None}
            if found:
                lines.append(Line(style, style.title, found))
        yield title, over(lines, "step", unit, rangemode="tozero")


def _spiking(runs, styles, names):
    """(label, style, result) of each result that counted spikes; a run of several is labelled by what differs among them."""
    for run, style in zip(runs, styles, strict=True):
        own = [name for name in names if len({result.settings.get(name) for result in run.results}) > 1]
        for result in run.results:
            if result.spikes:
                words = result.label(own or names) or ("" if len(runs) > 1 else style.name)
                yield f"{style.letter} {words}".strip() if len(runs) > 1 else words, style, result


def _order(layer):
    """By part as the image goes through the network, then by number."""
    _, *numbers = layer.split(".")
    return list(PARTS.values()).index(part_of(layer)), [(len(number), number) for number in numbers]


def plain(text):
    """Text that a chart shows as it is."""
    return escape(text, quote=False)


def blank(x, y, height=340, xaxis=(), yaxis=(), **layout):
    """A figure without data in the look of all. x, y: titles of the axes; xaxis, yaxis: more of their layout."""
    axis = {"gridcolor": "#dddddd", "linecolor": "#888888", "automargin": True, "zeroline": False}
    font = {"family": "system-ui, sans-serif", "size": 13, "color": "#222222"}
    legend = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    look = {"template": "none", "margin": {"l": 10, "r": 24, "t": 12, "b": 10}, "font": font, "legend": legend}
    axes = {"xaxis": {**axis, "title": {"text": x}, **dict(xaxis)}, "yaxis": {**axis, "title": {"text": y}, **dict(yaxis)}}
    return go.Figure(layout={**look, **axes, "height": height, "hoverlabel": {"align": "left"}, **layout})
