"""The page's charts of accuracy against what it costs, as plotly figures."""

from math import log10

import plotly.graph_objects as go

from harness.measuring.comparing import FIGURES, spread
from harness.reporting.charts import TICKS, lay_out, marker, percent_top, plain
from harness.reporting.recipes import recipes_of

ENERGY = "An estimate of the arithmetic alone, 45 nm: 0.9 pJ per accumulate, 4.6 pJ per multiply-accumulate; no memory traffic."
KINDS = {  # title -> (figure of comparing.FIGURES, axis, note)
    "Accuracy against spikes": ("spikes", "spikes per image", ""),
    "Accuracy against energy, event by event": ("energy_event_joules", "energy in µJ per image", ENERGY),
    "Accuracy against energy, layer by layer": ("energy_joules", "energy in µJ per image", ENERGY),
}
MOST_LABELS = 12  # marks with their settings beside them; more would cover each other
MOST_TICKS = 6  # more would cover each other on a narrow page
CHART = 420, 230  # pixels of a chart between its axes, about: what labels reckon with
LETTER = 6.5, 15  # and of a letter


def against_cost(runs, styles, names):
    """(title, figure, note) of accuracy against spikes and against both energies. names: of the settings that labels say."""
    for title, (name, axis, note) in KINDS.items():
        figure, lacking = accuracy_against(name, axis, runs, styles, names)
        yield title, figure, note + f" Not in the logs of {lacking} of these results." * (lacking > 0)


def accuracy_against(name, axis, runs, styles, names):
    """Accuracy with its interval against a cost, one mark per result; of a recipe with several seeds small marks, and a large one
    at their mean, with standard deviations. Returns (figure, how many results it lacks)."""
    figure, lacking, cost = go.Figure(), 0, lambda result: FIGURES[name].of(vars(result))
    means = [recipe for recipe in recipes_of(runs) if len(recipe.results) > 1 and spread(name, recipe.results)]
    averaged = {recipe.name: None for recipe in means}
    for run, style in zip(runs, styles, strict=True):
        averaged[run.recipe] = averaged.get(run.recipe) or style
        here = sorted(filter(cost, run.results), key=cost)
        lacking += sum(bool(result.spikes) for result in run.results) - len(here)
        for rule in dict.fromkeys(result.settings.get("rule") for result in here):
            results = [result for result in here if result.settings.get("rule") == rule]
            shares, ends = [100 * result.accuracy for result in results], [result.interval for result in results]
            trace = _marks(style, style.title, axis, [cost(result) for result in results], shares)
            trace.customdata = [[plain(result.label(result.settings)), f"95 %: {100 * low:.2f} to {100 * high:.2f}",
                                 f"{result.images:,} {plain(result.where)}"]
                                for result, (low, high) in zip(results, ends, strict=True)]  # fmt: skip
            if any(run.recipe == recipe.name for recipe in means):
                trace.marker.size = 5
            else:
                letter = style.letter if len(runs) > 1 else ""
                trace.update(mode="lines+markers", text=[plain(f"{letter} {one.label(names)}".strip()) for one in results])
                up = [100 * high - share for share, (_, high) in zip(shares, ends, strict=True)]
                down = [share - 100 * low for share, (low, _) in zip(shares, ends, strict=True)]
                trace.error_y.update(array=up, arrayminus=down)
            figure.add_trace(trace)
    for recipe in means:
        share, paid, style = spread("accuracy", recipe.results), spread(name, recipe.results), averaged[recipe.name]
        trace = _marks(style, recipe.name, axis, [paid.mean], [share.mean], 13)
        trace.update(error_x={"array": [paid.deviation]}, error_y={"array": [share.deviation]})
        said = f"± {share.deviation:.2f}, standard deviation of {len(recipe.results)} seeds"
        trace.customdata = [[plain(recipe.run_with), said, plain(recipe.on)]]
        varied = [f"{one} = {value}" for one, value in recipe.settings.items() if one in names]
        trace.text = [plain(", ".join([recipe.name, *varied]))]
        figure.add_trace(trace)
    lay_out(figure, axis, "accuracy in %")
    if figure.data:
        place_labels(figure, *_cost_axis(figure), _accuracy_axis(figure))
    return figure, lacking


def _marks(style, title, axis, x, y, size=10):
    """A trace without text and bars. customdata: (settings, spread, images) of each mark."""
    template = "%{fullData.name}<br>%{customdata[0]}<br>%{y:.2f} % (%{customdata[1]})<br>"
    line = {"color": style.colour, "dash": style.dash, "width": 1}
    return go.Scatter(x=x, y=y, name=plain(title), mode="markers", marker=marker(style, size), line=line,
                      error_y={"thickness": 1}, error_x={"thickness": 1}, textfont={"color": style.colour, "size": 12},
                      hovertemplate=f"{template}%{{x:,.4~g}} {axis}<br>%{{customdata[2]}}<extra></extra>")  # fmt: skip


def place_labels(figure, place, costs, shares):
    """Give each label a corner of its mark, if there is one, where it covers no mark and no label before it. place: cost -> where
    that is on its axis; costs, shares: the axes' ends."""
    if sum(len(trace.text or ()) for trace in figure.data) > MOST_LABELS:
        figure.update_traces(text=None)
        return

    def at(x, y):
        return CHART[0] * (place(x) - costs[0]) / (costs[1] - costs[0]), CHART[1] * (y - shares[0]) / (shares[1] - shares[0])

    taken = [(x - 6, y - 6, x + 6, y + 6) for trace in figure.data for x, y in map(at, trace.x, trace.y)]
    for trace in figure.data:
        corners = []
        for (x, y), text in zip(map(at, trace.x, trace.y), trace.text or (), strict=False):
            width, inwards = LETTER[0] * len(text), ("left", "right") if x > CHART[0] / 2 else ("right", "left")
            boxes = {}
            for side in inwards:
                for level in ("bottom", "top"):
                    left, low = x - width - 6 if side == "left" else x + 6, y - LETTER[1] - 3 if level == "bottom" else y + 3
                    boxes[f"{level} {side}"] = (left, low, left + width, low + LETTER[1])
            free = [corner for corner, box in boxes.items() if not any(_overlap(box, other) for other in taken)]
            corners.append((free or list(boxes))[0])
            taken.append(boxes[corners[-1]])
        if corners:
            trace.update(mode=f"{trace.mode}+text", textposition=corners)


def _overlap(box, other):
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _accuracy_axis(figure):
    """Ends of the axis of accuracies: it holds the bars, and goes no further than to 100."""
    ends = []
    for trace in figure.data:
        up = trace.error_y.array or [0] * len(trace.y)
        ends += [y + bar for y, bar in zip(trace.y, up, strict=True)]
        ends += [y - bar for y, bar in zip(trace.y, trace.error_y.arrayminus or up, strict=True)]
    room = 0.08 * (max(ends) - min(ends)) or 1
    figure.update_yaxes(range=[min(ends) - room, percent_top(max(ends), room)])
    return figure.layout.yaxis.range


def _cost_axis(figure):
    """Plain numbers on a logarithmic axis where the values differ much, else a linear one. Returns (cost -> its place there, the
    ends of the axis)."""
    values = [x for trace in figure.data for x in trace.x]
    low, high = min(values), max(values)
    if high < 4 * low:
        room = max(0.35 * (high - low), 0.1 * high)
        figure.update_xaxes(range=[max(0, low - room), high + room])
        return float, figure.layout.xaxis.range
    ticks = [tick for tick in TICKS if low / 1.4 <= tick <= 1.8 * high]
    ticks = ticks if len(ticks) <= MOST_TICKS else [tick for tick in ticks if tick in TICKS[::3]]  # whole powers of ten
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,.10g}" for tick in ticks],
                        range=[log10(low / 1.4), log10(1.8 * high)])  # fmt: skip
    return log10, figure.layout.xaxis.range
