"""The page's charts and tables: plotly express and pandas make them from frames of what runs have logged."""

import pandas as pd
import plotly.express as px
from markupsafe import Markup

from harness.drawing.figures import PART_COLOURS
from harness.drawing.film import in_words
from harness.drawing.plots import wilson
from harness.measuring.comparing import FIGURES
from harness.measuring.report import MOST_CLASSES
from self_models.counting.spikes import PARTS, part_of

HUES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#56b4e9", "#b8860b", "#882255", "#555555")  # told apart by the colour-blind
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "cross", "hexagon")
ACCURACY, SPIKES, SHARE = FIGURES["accuracy"].title, "spikes per image", "open, %"
COSTS = "spikes", "energy_event_joules", "energy_joules"  # of FIGURES
ENERGY = "An estimate of the arithmetic alone, 45 nm: 0.9 pJ per accumulate, 4.6 pJ per multiply-accumulate; no memory traffic."
NOT_COMPARED = "run_name output_dir overwrite resume log test_only results_json preset_flags tensorboard"
MOST_LABELS = 12  # marks with their settings beside them; more would cover each other
DRAWN = r"^(train|evaluated)\.(accuracy|total|classification|reconstruction|penalty|\w+_loss|spikes)$|^(thresholds|leaks)\."
ANALYSED = {"squared_error": "squared error of the prediction", "blocked_share": "share of active input blocked"}


def look_of(runs):
    """What plotly express is told to tell runs apart: a recipe has a colour, each of its runs a symbol."""
    recipes = list(dict.fromkeys(run.recipe for run in runs))
    hues = {run.mark: HUES[recipes.index(run.recipe) % len(HUES)] for run in runs}
    symbols = {run.mark: SYMBOLS[number % len(SYMBOLS)] for number, run in enumerate(runs)}
    look = {"color": "run", "color_discrete_map": hues, "symbol": "run", "symbol_map": symbols}
    return look | {"hover_name": "network"}


def results_of(runs):
    """A row for each evaluation: its run, what it was run with that differs between them, its images, and the FIGURES."""
    results = [result for run in runs for result in run.results if result.spikes]
    names = dict.fromkeys(name for result in results for name in result.settings)
    names = [name for name in names if len({result.settings.get(name) for result in results}) > 1]
    rows = []
    for run, result in [(one, result) for one in runs for result in one.results]:
        low, high = (100 * end for end in wilson(result.record["accuracy"], result.record["images"]))
        about = {"network": run.title, "run with": result.label(names), "images": f"{result.record['images']:,} ({result.where})"}
        about |= {"95 % interval": f"{low:.2f} to {high:.2f}", "run": run.mark, "recipe": run.recipe, "result": result}
        figures = {figure.title: figure.of(result.record) for figure in FIGURES.values()}
        rows.append(about | {"low": low, "high": high} | figures)
    return pd.DataFrame(rows)


def against_cost(results, look):
    """(title, figure, note) of accuracy against spikes and both energies: a mark with its interval for each result; of several
    seeds one at their mean, with standard deviations, and a small one for each."""
    for cost in (FIGURES[name].title for name in COSTS if len(results)):
        some = results.dropna(subset=cost)
        groups = some.groupby(["recipe", "run with", "images"], as_index=False, sort=False)
        means = groups.agg(**{cost: (cost, "mean"), ACCURACY: (ACCURACY, "mean"), "dx": (cost, "std"), "dy": (ACCURACY, "std")},
                           **{name: (name, "first") for name in ("run", "network", "low", "high")})  # fmt: skip
        if means.empty:
            continue
        means = means.sort_values(cost).assign(up=means.dy.fillna(means.high - means[ACCURACY]))
        means = means.assign(down=means.dy.fillna(means[ACCURACY] - means.low))
        axes = {"x": cost, "y": ACCURACY, "log_x": bool(some[cost].max() > 4 * some[cost].min() > 0), **look}
        label = "run with" if len(means) <= MOST_LABELS else None
        bars = {"error_x": "dx", "error_y": "up", "error_y_minus": "down", "hover_data": ["run with", "images"]}
        figure = px.scatter(means, text=label, **bars, **axes)
        figure.update_traces(mode="lines+markers+text", textposition="top center", line_width=1, marker_size=10)
        small = some[some.groupby(["recipe", "run with", "images"]).run.transform("size") > 1]
        figure.add_traces(px.scatter(small, **axes).update_traces(showlegend=False, marker_size=5).data)
        yield f"Accuracy against {cost}", figure, ENERGY * cost.startswith("energy")


def matrices(runs):
    """(title, figure, note) of each run's last confusion matrix, of classes few enough to be drawn."""
    for run in runs:
        result = next((result for result in reversed(run.results) if result.confusion), None)
        if result and len(result.confusion) <= MOST_CLASSES:
            names = result.record.get("classes") or list(map(str, range(len(result.confusion))))
            shares = [[count / max(sum(row), 1) for count in row] for row in result.confusion]
            rows = [f"{name} ({100 * shares[label][label]:.0f} %)" for label, name in enumerate(names)]
            axes = {"x": names, "y": rows, "labels": {"x": "predicted", "y": "class", "color": "share of the class"}}
            figure = px.imshow(shares, color_continuous_scale="Blues", zmin=0, zmax=1, aspect="auto", **axes)
            counts = [[f"{count:,}" if count else "" for count in row] for row in result.confusion]
            figure.update_traces(text=counts, texttemplate="%{text}").update_layout(height=110 + 30 * max(3, len(names)))
            figure.update_xaxes(type="category").update_yaxes(type="category").update_coloraxes(showscale=False)
            yield run.title, figure, f"{100 * result.record['accuracy']:.2f} % of {result.on}"


def spikes(results, look):
    """(title, figure) of results that counted spikes: by part, by layer, and input that is open at each step. Of several alike
    the last is drawn."""
    total, ids = FIGURES["spikes"].title, ["run", "network", "label"]
    told = results.dropna(subset=total) if len(results) else results
    if told.empty:
        return
    told = told.assign(label=(told.run + " " + told["run with"]).str.strip()).drop_duplicates("label", keep="last")
    parts = {FIGURES[part].title: part for part in PARTS.values()}
    by_part = told.rename(columns=parts).melt([*ids, total], [*parts.values()], "part", SPIKES).fillna(0)
    by_part[""] = by_part.label + by_part[total].map("<br><b>{:,.0f}</b>".format)
    figure = px.bar(by_part, x=SPIKES, y="", color="part", orientation="h", color_discrete_map=PART_COLOURS)
    figure.update_layout(height=110 + 42 * len(told)).update_yaxes(autorange="reversed")
    yield "By part of the network", figure
    counts = pd.DataFrame([result.record.get("spikes_per_layer") or {} for result in told.result], told.index)
    layers = sorted(counts, key=lambda layer: ([*PARTS.values()].index(part_of(layer)), len(layer), layer))
    words = dict(zip(layers, in_words(layers), strict=True))
    if layers:
        by_layer = counts.rename(columns=words).join(told[ids]).melt(ids, [*words.values()], "layer", SPIKES).dropna()
        order = {"layer": list(words.values())}
        figure = px.scatter(by_layer, x=SPIKES, y="layer", hover_data=["label"], category_orders=order, **look)
        figure.update_layout(height=110 + max(30, 9 * len(told)) * len(layers), scattermode="group").update_traces(marker_size=9)
        yield "By layer", figure
    shares = told[ids].assign(open=[result.record.get("open_share") for result in told.result]).dropna()
    shares = shares[shares.open.map(lambda share: min(share, default=1) < 1).astype(bool)].explode("open")
    if len(shares):
        shares = shares.assign(timestep=shares.groupby("label").cumcount() + 1, **{SHARE: 100 * shares.open.astype(float)})
        yield "Active input pixels open at each timestep", px.line(shares, x="timestep", y=SHARE, line_group="label", **look)


def over(runs, objects, axis, drawn):
    """Of these JSON objects of runs the numbers whose names match `drawn`, a row for each: run, network, axis, name, value."""
    frames = [pd.json_normalize(getattr(run, objects)).assign(run=run.mark, network=run.title) for run in runs]
    frame = pd.concat([frame for frame in frames if axis in frame] or [pd.DataFrame(columns=[axis, "run", "network"])])
    frame = frame.drop(columns="evaluated.spikes", errors="ignore").rename(columns={"evaluated.parts.total": "evaluated.spikes"})
    rows = frame.set_index(["run", "network", axis]).filter(regex=drawn).melt(ignore_index=False, var_name="name").reset_index()
    return rows.assign(value=pd.to_numeric(rows.value, errors="coerce")).dropna(subset="value")


def analysed(runs, look):
    """(title, figure) over the steps of runs of the analysis: error of the prediction, and blocked, or sent input."""
    for name, rows in over(runs, "steps", "step", f"^({'|'.join(ANALYSED)})$").groupby("name", sort=False):
        labels = {"step": "timestep", "value": ANALYSED[name]}
        yield ANALYSED[name].capitalize(), px.line(rows, x="step", y="value", labels=labels, **look)


def curves(runs, look):
    """(title, figure) of each figure over epochs, in training and on the images that judge an epoch; then of each layer's
    threshold and leak, where it is learned."""
    rows = over(runs, "epochs", "epoch", DRAWN)
    rows[["images", "figure"]] = rows.name.str.split(".", n=1, expand=True).reindex(columns=[0, 1])
    learned = rows.images.isin(["thresholds", "leaks"])
    for name, some in rows[~learned].groupby("figure", sort=False):
        if some.value.any():
            dashes = {"train": "dot", "evaluated": "solid"}
            figure = px.line(some, x="epoch", y="value", line_dash="images", line_dash_map=dashes, labels={"value": name}, **look)
            is_judged = "evaluated" in {*some.images}
            for line in figure.data:
                line.update(name=line.name.split(",")[0], showlegend=not is_judged or line.line.dash == "solid")
            yield name.replace("_", " ").capitalize(), figure
    changes = rows.groupby(["run", "name"]).value.transform("nunique") > 1
    for name, some in rows[learned & changes].groupby("images", sort=False):
        figure = px.line(some, x="epoch", y="value", line_group="figure", hover_data=["figure"], labels={"value": name}, **look)
        yield name.capitalize(), figure


def dressed(figure):
    """The figure in the look of all."""
    figure.update_layout(template="plotly_white", margin={"l": 10, "r": 24, "t": 12, "b": 10}, legend_title_text="")
    figure.update_layout(legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0}, hoverlabel_align="left")
    if figure.layout.xaxis.title.text in ("epoch", "timestep") and max(max(line.x) for line in figure.data) < 15:
        figure.update_xaxes(dtick=1)  # no ticks between whole numbers
    return figure.update_layout(height=figure.layout.height or 340).update_xaxes(automargin=True).update_yaxes(automargin=True)


def table(rows, classes="numbers"):
    """A DataFrame, or rows of which the first is the head, as HTML; a dash for what is not known."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows[1:], columns=rows[0])
    with pd.option_context("display.max_colwidth", None):
        html = frame.to_html(index=False, na_rep="-", border=0, classes=classes, justify="inherit")
    return Markup(f"<div class=scroll>{html}</div>")


def results_table(results):
    """The frame of results_of as it is read, without what no result has."""
    shown = results[["network", "run with", "images", "95 % interval"]].replace("", None) if len(results) else results
    for figure in map(FIGURES.get, ("accuracy", *COSTS, "mean_steps") if len(results) else ()):
        shown[figure.title] = results[figure.title].map(lambda value, form=figure.form: format(value, form), na_action="ignore")
    return shown.dropna(axis="columns", how="all")


def flags_tables(runs):
    """kind -> frame, of the ANNs and of the SNNs, where there are several: a row for each run, a column for each flag that
    differs between them."""
    tables = {}
    for kind in ("ANNs", "SNNs"):
        some = [run for run in runs if run.is_spiking == (kind == "SNNs")]
        if len(some) > 1:
            frame = pd.DataFrame([run.parameters for run in some]).drop(columns=NOT_COMPARED.split(), errors="ignore")
            frame = frame.loc[:, frame.nunique(dropna=False) > 1].sort_index(axis="columns")
            frame.insert(0, "run", [run.title for run in some])
            tables[kind] = frame
    return tables
