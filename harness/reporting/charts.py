"""The page's charts, as plotly figures: curves over epochs, accuracy against cost, spikes by part and by layer, steps."""

from dataclasses import dataclass
from math import log10, sqrt
from textwrap import wrap

import plotly.graph_objects as go

from harness.drawing.figures import PART_COLOURS
from harness.drawing.film import in_words

HUES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#56b4e9", "#b8860b", "#882255", "#555555")  # told apart by the colour-blind
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "cross", "hexagon")
GREY = "#dddddd"
MOST_LABELS = 12  # points with their settings beside them; more would cover each other


@dataclass
class Style:
    """How a run is drawn: a network and its twin have one hue, the twin is dashed and hollow; letter: its short name."""

    letter: str
    name: str
    colour: str
    dash: str
    symbol: str


def styles_of(runs):
    """A Style for each run, in order."""
    families, kin, styles = [], {}, []
    for position, run in enumerate(runs):
        if run.family not in families:
            families.append(run.family)
        hue = families.index(run.family)
        members = kin.setdefault((run.family, run.has_feedback), [])
        members.append(run)
        symbol = SYMBOLS[(len(members) - 1 + hue // len(HUES)) % len(SYMBOLS)]
        dash, symbol = ("solid", symbol) if run.has_feedback else ("dash", f"{symbol}-open")
        styles.append(Style(letter(position), run.name, HUES[hue % len(HUES)], dash, symbol))
    return styles


def letter(position):
    """A, B, ..., Z, AA, AB, ..."""
    return (letter(position // 26 - 1) if position >= 26 else "") + chr(ord("A") + position % 26)


CURVES = {  # figure -> (title, unit on the axis, factor)
    "accuracy": ("Accuracy", "%", 100),
    "total": ("Loss that is trained: all terms", "loss", 1),
    "classification": ("Classification loss", "loss", 1),
    "reconstruction": ("Reconstruction loss, before its weight", "loss", 1),
    "spikes": ("Spikes, all parts", "spikes per image", 1),
}


def curves(runs, styles):
    """(title, chart) of each figure over epochs that the runs have, thick on the images that judge an epoch, thin in training."""
    for name, (title, unit, factor) in CURVES.items():
        figure, ends = go.Figure(), []
        for run, style in zip(runs, styles, strict=True):
            for kind, width in (("train", 1), ("judged", 2.5)):
                epochs = [epoch for epoch in run.epochs if name in getattr(epoch, kind)]
                values = [factor * getattr(epoch, kind)[name] for epoch in epochs]
                if values and any(value != 0 for value in values):
                    numbers = [epoch.number for epoch in epochs]
                    words = f"{style.letter} {style.name}, {'training' if kind == 'train' else 'judged'}"
                    figure.add_scatter(x=numbers, y=values, name=words, mode="lines+markers", marker=_marker(style, 3 * width),
                                       line={"color": style.colour, "dash": style.dash, "width": width},
                                       opacity=1 if width > 1 else 0.55,
                                       hovertemplate=f"{words}<br>epoch %{{x}}: %{{y:,.4~g}} {unit}<extra></extra>")  # fmt: skip
                    if kind == "judged" or not any(epoch.judged for epoch in run.epochs):
                        ends.append((numbers[-1], values[-1], style))
        if figure.data:
            _layout(figure, "epoch", "accuracy in %" if unit == "%" else unit)
            _whole_steps(figure)
            _label_ends(figure, ends if len(runs) > 1 else [])
            yield title, figure


def accuracy_against(cost, axis, runs, styles, names):
    """Accuracy with its interval against a cost, one mark per result; cost(result): None where not known. names: of the settings
    that labels say. Returns (figure, how many results it lacks)."""
    figure, known, lacking = go.Figure(), [], 0
    for run, style in zip(runs, styles, strict=True):
        here = [result for result in run.results if cost(result)]
        lacking += sum(bool(result.spikes) for result in run.results) - len(here)
        known += here
        for rule in dict.fromkeys(result.settings.get("rule") for result in here):
            results = sorted((result for result in here if result.settings.get("rule") == rule), key=cost)
            shares = [100 * result.accuracy for result in results]
            intervals = [[100 * end for end in result.interval] for result in results]
            figure.add_scatter(
                x=[cost(result) for result in results],
                y=shares,
                name=f"{style.letter} {style.name}",
                mode="lines+markers+text",
                text=[f"{style.letter if len(runs) > 1 else ''} {result.label(names)}".strip() for result in results],
                textfont={"color": style.colour, "size": 12},
                marker=_marker(style, 10),
                line={"color": style.colour, "dash": style.dash, "width": 1},
                error_y={
                    "array": [high - share for (_, high), share in zip(intervals, shares, strict=True)],
                    "arrayminus": [share - low for (low, _), share in zip(intervals, shares, strict=True)],
                    "thickness": 1,
                },
                customdata=[[style.letter, style.name, result.label(result.settings), *ends, result.where, f"{result.images:,}"]
                            for result, ends in zip(results, intervals, strict=True)],
                hovertemplate="%{customdata[0]} %{customdata[1]}<br>%{customdata[2]}<br>%{y:.2f} % (95 %: "
                "%{customdata[3]:.2f} to %{customdata[4]:.2f})<br>%{x:,.4~g} "
                + axis + "<br>%{customdata[6]} %{customdata[5]}<extra></extra>",
            )  # fmt: skip
    if len(known) > MOST_LABELS:
        figure.update_traces(mode="lines+markers")
    _layout(figure, axis, "accuracy in %")
    if known:
        values = [cost(result) for result in known]
        middle = _cost_axis(figure, min(values), max(values))
        for trace in figure.data:
            trace.textposition = ["bottom left" if x > middle else "bottom right" for x in trace.x]
    return figure, lacking


def spikes_by_part(runs, styles, names):
    """Stacked bars, one for each result with spikes."""
    figure, rows = go.Figure(), list(_spiking(runs, styles, names))
    places, ticks = list(range(len(rows))), ["<br>".join(wrap(label, 24)) for label, *_ in rows]
    for part, colour in PART_COLOURS.items():
        figure.add_bar(y=places, x=[result.spikes.get(part, 0) for *_, result in rows], name=part, orientation="h",
                       marker={"color": colour}, customdata=[label for label, *_ in rows],
                       hovertemplate=f"%{{customdata}}<br>{part}: %{{x:,.0f}} spikes per image<extra></extra>")  # fmt: skip
    for place, (_, _, result) in enumerate(rows):
        total = result.spikes["total"]
        figure.add_annotation(x=total, y=place, text=f" {total:,.0f}", showarrow=False, xanchor="left", font={"size": 12})
    _layout(figure, "spikes per image", "", height=90 + (40 if any("<br>" in tick for tick in ticks) else 32) * len(rows))
    largest = max((result.spikes["total"] for *_, result in rows), default=1)
    figure.update_xaxes(range=[0, 1.18 * largest])
    figure.update_yaxes(tickvals=places, ticktext=ticks, autorange="reversed", showgrid=False)
    legend = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "traceorder": "normal", "font": {"size": 12}}
    figure.update_layout(barmode="stack", showlegend=True, legend=legend)
    return figure


def spikes_by_layer(runs, styles, names):
    """A mark for each result and layer."""
    rows = list(_spiking(runs, styles, names))
    layers = sorted({layer for *_, result in rows for layer in result.layers}, key=_order)
    figure = go.Figure()
    for label, style, result in rows:
        places, words = [layers.index(layer) for layer in result.layers], f"{label} {style.name}<br>%{{customdata}}: %{{x:,.1f}}"
        figure.add_scatter(x=list(result.layers.values()), y=places, mode="markers", name=label, marker=_marker(style, 10),
                           customdata=list(result.layers), hovertemplate=f"{words} spikes per image<extra></extra>")  # fmt: skip
    _layout(figure, "spikes per image", "", height=90 + 30 * len(layers))
    figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=in_words(layers), autorange="reversed")
    figure.update_xaxes(rangemode="tozero")
    return figure


def open_input(runs, styles, names):
    """The share of active input that is open at each step, of results in which input was blocked."""
    figure, ends = go.Figure(), []
    for label, style, result in _spiking(runs, styles, names):
        if result.open_share and min(result.open_share) < 1:
            steps, shares = list(range(1, len(result.open_share) + 1)), [100 * share for share in result.open_share]
            _add_steps(figure, steps, shares, style, f"{label} {style.name}", "% open")
            ends.append((steps[-1], shares[-1], style))
    _layout(figure, "step", "open in %")
    _whole_steps(figure)
    _label_ends(figure, ends if 1 < len(runs) >= len(ends) else [], low=0, high=100)  # else letters would pile up
    return figure


ANALYSED = {  # title -> (axis, figure of a step, factor)
    "Squared error of the prediction": ("squared error per image", "squared_error", 1),
    "Active input pixels blocked": ("blocked in %", "blocked_share", 100),
    "Values of the image sent so far": ("sent in %", "sent_share", 100),
}


def analysed(runs, styles):
    """(title, figure) over the steps of runs of the analysis: error of the prediction, and blocked, or sent input."""
    for title, (axis, name, factor) in ANALYSED.items():
        figure, ends = go.Figure(), []
        for run, style in zip(runs, styles, strict=True):
            steps = [step for step in run.analysis if getattr(step, name) is not None]
            if steps:
                numbers, values = [step.number for step in steps], [factor * getattr(step, name) for step in steps]
                _add_steps(figure, numbers, values, style, f"{style.letter} {style.name}", axis)
                ends.append((numbers[-1], values[-1], style))
        _layout(figure, "step", axis)
        _whole_steps(figure)
        _label_ends(figure, ends if len(runs) > 1 else [], low=0)
        yield title, figure


def _add_steps(figure, steps, values, style, label, unit):
    figure.add_scatter(x=steps, y=values, name=label, line={"color": style.colour, "dash": style.dash}, marker=_marker(style, 6),
                       mode="lines+markers" if len(steps) < 20 else "lines",
                       hovertemplate=f"{label}<br>step %{{x}}: %{{y:.4~g}} {unit}<extra></extra>")  # fmt: skip


def _spiking(runs, styles, names):
    """(label, style, result) of each result that counted spikes; a run of several is labelled by what differs among them."""
    for run, style in zip(runs, styles, strict=True):
        own = [name for name in names if len({result.settings.get(name) for result in run.results}) > 1]
        for result in run.results:
            if result.spikes:
                words = result.label(own or names) or ("" if len(runs) > 1 else style.name)
                yield f"{style.letter} {words}".strip() if len(runs) > 1 else words, style, result


def _order(layer):
    part, *number = layer.split(".")
    return ["input", "features", "generate", "classifier"].index(part), [int(word) for word in number]


def _marker(style, size):
    return {"color": style.colour, "symbol": style.symbol, "size": size, "line": {"width": 1.5, "color": style.colour}}


def _layout(figure, x, y, height=320):
    """The same look everywhere; the page gives width and title."""
    axis = {"gridcolor": GREY, "linecolor": "#888888", "automargin": True, "zeroline": False}
    figure.update_layout(template="none", height=height, margin={"l": 10, "r": 24, "t": 12, "b": 10}, showlegend=False,
                         font={"family": "system-ui, sans-serif", "size": 13, "color": "#222222"}, hoverlabel={"align": "left"},
                         xaxis={**axis, "title": {"text": x}}, yaxis={**axis, "title": {"text": y}})  # fmt: skip


def _whole_steps(figure):
    """A tick at whole numbers only, about eight of them."""
    largest = max((max(trace.x) for trace in figure.data), default=1)
    step = next(step * 10**power for power in range(9) for step in (1, 2, 5) if largest / (step * 10**power) <= 8)
    figure.update_xaxes(dtick=step, tick0=0)


def _label_ends(figure, ends, low=None, high=None):
    """Letters at the ends of lines, moved apart where they would cover each other. ends: (x, y, style); low, high: of the axis,
    default: what is drawn."""
    if not ends:
        return
    drawn = [value for trace in figure.data for value in trace.y]
    low, high = min(drawn) if low is None else low, max(drawn) if high is None else high
    margin = 0.06 * (high - low) or 1
    low, high, gap, last = low - margin, high + margin, margin, low - 9 * margin
    last_x = max(max(trace.x) for trace in figure.data)
    for x, y, style in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + gap)
        figure.add_annotation(x=x, y=last, text=f"<b>{style.letter}</b>", font={"color": style.colour}, showarrow=False,
                              xanchor="left", xshift=8)  # fmt: skip
    high = max(high, last + margin)
    figure.update_yaxes(range=[low, high])
    figure.update_xaxes(range=[0.7 if last_x > 1 else 0, 1.08 * last_x + 0.2])


def _cost_axis(figure, low, high):
    """Plain numbers on a logarithmic axis where the values differ much, else a linear one. Returns its middle."""
    if high < 4 * low:
        room = max(0.35 * (high - low), 0.1 * high)
        figure.update_xaxes(range=[max(0, low - room), high + room])
        return (low + high) / 2
    ticks = [step * 10.0**power for power in range(-6, 12) for step in (1, 2, 5)]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,.10g}" for tick in ticks],
                        range=[log10(low / 1.4), log10(1.8 * high)])  # fmt: skip
    return sqrt(low * high)
