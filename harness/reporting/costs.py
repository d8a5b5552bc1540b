"""The page's charts of accuracy against what it costs, as plotly figures."""

from harness.measuring.comparing import FIGURES, spread
from harness.reporting.charts import blank, plain
from harness.reporting.recipes import recipes_of

ENERGY = "An estimate of the arithmetic alone, 45 nm: 0.9 pJ per accumulate, 4.6 pJ per multiply-accumulate; no memory traffic."
KINDS = {  # title -> (figure of comparing.FIGURES, axis, note)
    "Accuracy against spikes": ("spikes", "spikes per image", ""),
    "Accuracy against energy, event by event": ("energy_event_joules", "energy in µJ per image", ENERGY),
    "Accuracy against energy, layer by layer": ("energy_joules", "energy in µJ per image", ENERGY),
}
MOST_LABELS = 12  # marks with their settings beside them; more would cover each other


def against_cost(runs, styles, names):
    """(title, figure, note) of accuracy against spikes and against both energies. names: of the settings that labels say."""
    for title, (name, axis, note) in KINDS.items():
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
