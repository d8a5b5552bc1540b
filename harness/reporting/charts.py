"""The page's charts, as plotly figures: curves over epochs, spikes by part and by layer, steps."""

from dataclasses import dataclass
from html import escape
from statistics import fmean
from textwrap import wrap

import plotly.graph_objects as go

from harness.drawing.figures import PART_COLOURS
from harness.drawing.film import in_words
from self_models.counting.spikes import PARTS, part_of

HUES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#56b4e9", "#b8860b", "#882255", "#555555")  # told apart by the colour-blind
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "cross", "hexagon")
GREY = "#dddddd"
TICKS = [step * 10**power for power in range(-6, 12) for step in (1, 2, 5)]


@dataclass
class Style:
    """How a run is drawn: a recipe has one hue, each of its seeds a mark; without feedback it is dashed and hollow. letter: its
    short name."""

    letter: str
    name: str
    colour: str
    dash: str
    symbol: str

    @property
    def title(self):
        return f"{self.letter} {self.name}"


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


@dataclass
class Line:
    """A curve over epochs or steps: what it is called, the numbers of these, and a value of each; thick ones have a letter."""

    style: Style
    title: str
    numbers: list
    values: list
    is_thick: bool = True


def over(lines, axis, unit, runs, low=None):
    """A chart of Lines. low: where the axis of values begins, by default below the least of them."""
    figure = go.Figure()
    for line in lines:
        size, title = 2.5 if line.is_thick else 1, plain(line.title)
        figure.add_scatter(x=line.numbers, y=line.values, name=title, mode="lines+markers" if len(line.numbers) < 20 else "lines",
                           line={"color": line.style.colour, "dash": line.style.dash, "width": size},
                           marker=marker(line.style, 3 * size), opacity=1 if line.is_thick else 0.55,
                           hovertemplate=f"{title}<br>{axis} %{{x}}<br>{unit}: %{{y:,.4~g}}<extra></extra>")  # fmt: skip
    lay_out(figure, axis, unit)
    if lines:  # a tick at whole numbers only, about eight of them
        eighth = max(max(line.numbers) for line in lines) / 8
        figure.update_xaxes(dtick=next(tick for tick in TICKS if tick >= max(1, eighth)), tick0=0)
    named = [line for line in lines if line.is_thick]
    if lines:
        _fit(figure, lines, unit, low)
    if 1 < len(runs) >= len(named) > 0:  # else letters would pile up
        _label_ends(figure, named)
    return figure


CURVES = {  # figure -> (title, unit on the axis, factor)
    "accuracy": ("Accuracy", "accuracy in %", 100),
    "total": ("Loss that is trained: all terms", "loss", 1),
    "classification": ("Classification loss", "loss", 1),
    "reconstruction": ("Reconstruction loss, before its weight", "loss", 1),
    "spikes": ("Spikes, all parts", "spikes per image", 1),
}


def curves(runs, styles):
    """(title, chart) of each figure over epochs, thick on the images that judge an epoch, thin in training where any judge."""
    for name, (title, unit, factor) in CURVES.items():
        lines = []
        for run, style in zip(runs, styles, strict=True):
            is_judged = any(epoch.judged for epoch in run.epochs)
            for kind, words in (("train", "training"), ("judged", "judged")):
                each = {epoch.number: getattr(epoch, kind) for epoch in run.epochs}
                found = {number: factor * figures[name] for number, figures in each.items() if name in figures}
                if any(found.values()):
                    is_thick = kind == "judged" or not is_judged
                    lines.append(Line(style, f"{style.title}, {words}", list(found), list(found.values()), is_thick))
        yield title, over(lines, "epoch", unit, runs)


def spikes(runs, styles, names):
    """(title, figure) of results that counted spikes. names: of the settings that labels say."""
    rows = list(_spiking(runs, styles, names))
    if rows:
        yield "By part of the network", spikes_by_part(rows)
        yield "By layer", spikes_by_layer(rows)
        yield "Active input pixels open at each step", open_input(rows, runs)


def spikes_by_part(rows):
    """Stacked bars, one for each result. rows: (label, style, result)."""
    figure = go.Figure()
    places, ticks = list(range(len(rows))), ["<br>".join(map(plain, wrap(label, 24))) for label, *_ in rows]
    for part, colour in PART_COLOURS.items():
        figure.add_bar(y=places, x=[result.spikes.get(part, 0) for *_, result in rows], name=part, orientation="h",
                       marker={"color": colour}, customdata=[plain(label) for label, *_ in rows],
                       hovertemplate=f"%{{customdata}}<br>{part}: %{{x:,.0f}} spikes per image<extra></extra>")  # fmt: skip
    for place, (_, _, result) in enumerate(rows):
        total = result.spikes["total"]
        figure.add_annotation(x=total, y=place, text=f" {total:,.0f}", showarrow=False, xanchor="left", font={"size": 12})
    lay_out(figure, "spikes per image", "", height=90 + (40 if any("<br>" in tick for tick in ticks) else 32) * len(rows))
    largest = max((result.spikes["total"] for *_, result in rows))
    figure.update_xaxes(range=[0, 1.18 * largest])
    figure.update_yaxes(tickvals=places, ticktext=ticks, autorange="reversed", showgrid=False)
    legend = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal", "font": {"size": 12}}
    figure.update_layout(barmode="stack", showlegend=True, legend=legend)
    return figure


def spikes_by_layer(rows):
    """A mark for each result and layer; those of a layer below each other."""
    layers = sorted({layer for *_, result in rows for layer in result.layers}, key=_order)
    figure, apart = go.Figure(), 0.7 / len(rows)
    for number, (label, style, result) in enumerate(rows):
        shift = apart * (number - (len(rows) - 1) / 2)
        places, words = [layers.index(layer) + shift for layer in result.layers], plain(f"{label} {style.name}")
        figure.add_scatter(x=list(result.layers.values()), y=places, mode="markers", name=plain(label), marker=marker(style, 8),
                           customdata=list(map(plain, result.layers)),
                           hovertemplate=f"{words}<br>%{{customdata}}: %{{x:,.1f}} spikes per image<extra></extra>")  # fmt: skip
    lay_out(figure, "spikes per image", "", height=90 + max(30, 9 * len(rows)) * len(layers))
    figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=in_words(layers), autorange="reversed")
    figure.update_xaxes(rangemode="tozero")
    return figure


def open_input(rows, runs):
    """The share of active input that is open at each step, of results in which input was blocked."""
    lines = [
        Line(style, f"{label} {style.name}", list(range(1, len(result.open_share) + 1)), [100 * one for one in result.open_share])
        for label, style, result in rows
        if result.open_share and min(result.open_share) < 1
    ]
    return over(lines, "step", "open in %", runs, low=0)


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
            found = {step.number: factor * getattr(step, name) for step in run.analysis if getattr(step, name) is not None}
            if found:
                lines.append(Line(style, style.title, list(found), list(found.values())))
        yield title, over(lines, "step", unit, runs, low=0)


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


def marker(style, size):
    return {"color": style.colour, "symbol": style.symbol, "size": size, "line": {"width": 1.5, "color": style.colour}}


def lay_out(figure, x, y, height=320):
    """The same look everywhere; the page gives width and title."""
    axis = {"gridcolor": GREY, "linecolor": "#888888", "automargin": True, "zeroline": False}
    figure.update_layout(template="none", height=height, margin={"l": 10, "r": 24, "t": 12, "b": 10}, showlegend=False,
                         font={"family": "system-ui, sans-serif", "size": 13, "color": "#222222"}, hoverlabel={"align": "left"},
                         xaxis={**axis, "title": {"text": x, "standoff": 10}, "tickangle": 0},
                         yaxis={**axis, "title": {"text": y, "standoff": 12}})  # fmt: skip


def percent_top(high, room):
    """Where an axis of percents ends above its highest value: 100 % and what a mark needs, at most."""
    return min(high + room, 100 + room / 4)


def _fit(figure, lines, unit, low):
    """Axes that hold all lines, percents no further than to 100."""
    drawn, last = [value for line in lines for value in line.values], max(max(line.numbers) for line in lines)
    low, high = min(drawn) if low is None else low, max(drawn)
    room = 0.06 * (high - low) or 1
    figure.update_yaxes(range=[low - room, percent_top(high, room) if "%" in unit else high + room])
    figure.update_xaxes(range=[0.7 if last > 1 else 0.5, last + 0.04 * last + 0.1])


def _label_ends(figure, named):
    """Letters at the ends of the named lines; those that would cover each other stand side by side."""
    low, high = figure.layout.yaxis.range
    groups = []
    for line in sorted(named, key=lambda line: (line.numbers[-1], line.values[-1])):
        first = groups[-1][0] if groups else None
        if first and first.numbers[-1] == line.numbers[-1] and line.values[-1] - first.values[-1] < 0.06 * (high - low):
            groups[-1].append(line)
        else:
            groups.append([line])
    for group in groups:
        group.sort(key=lambda line: (len(line.style.letter), line.style.letter))
        words = " ".join(f'<b><span style="color:{line.style.colour}">{line.style.letter}</span></b>' for line in group)
        height = fmean(line.values[-1] for line in group)
        figure.add_annotation(x=group[0].numbers[-1], y=height, text=words, showarrow=False, xanchor="left", xshift=8,
                              bgcolor="rgba(255, 255, 255, 0.7)")  # fmt: skip
    figure.update_layout(margin={"r": 14 + 12 * max(map(len, groups))})
