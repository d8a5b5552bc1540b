"""Networks compared over seeds: means and standard deviations of an evaluation's figures, differences paired by seed, and the
tables of both.

A record is the JSON object of an evaluation, or a mapping with the same names."""

import json
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from itertools import takewhile
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from harness import UserError
from harness.measuring.read_logs import USUAL
from harness.measuring.tables import as_text, record_parts
from self_models.runtime.outputs import PARTS

UNCERTAIN = "too uncertain"
PLACES = 9  # of decimals, beyond which a figure is what sums of floats leave behind
EXPLAINED = (
    "Network: mean ± standard deviation over seeds. Difference: paired by seed, ± its 95 % confidence interval (Student's t). If "
    "that contains 0, no difference was detected. 'too uncertain': wider than ± 50 %. Spikes and energy are per image."
)


class Figure(NamedTuple):
    """A figure of an evaluation. path: of its place in a record; form: of a mean; points: the unit of a difference, '' where it
    is one in percent of what is compared with; scale: of the record's number."""

    title: str
    path: tuple
    form: str
    points: str = ""
    scale: float = 1

    def of(self, record):
        """The number in a record, None where it has none, or its part has no spiking layer."""
        if self.path[0] == "spikes" and self.path[1] != "total":
            if self.path[1] not in record_parts(record):
                return None
        for key in self.path:
            record = record[key] if record and (key == -1 or key in record) else None
        return None if record is None else self.scale * record


FIGURES = {
    "accuracy": Figure("accuracy, %", ("accuracy",), ".2f", "points", 100),
    "spikes": Figure("spikes, all parts", ("spikes", "total"), ",.0f"),
    **{part: Figure(f"spikes, {part}", ("spikes", part), ",.0f") for part in PARTS.values()},
    "mean_steps": Figure("timesteps", ("mean_steps",), ".2f", "timesteps"),
    "energy_joules": Figure("energy layer by layer, µJ", ("energy_joules",), ".1f", scale=1e6),
    "energy_event_joules": Figure(
        "energy event-driven, µJ", ("energy_event_joules",), ".2f", scale=1e6
    ),
    "open_share": Figure("input open at the end, %", ("open_share", -1), ".1f", "points", 100),
}


# --- statistics


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1; None for one seed) of a figure over seeds, seed -> value."""

    mean: float
    deviation: float | None
    values: dict

    def text(self, form):
        return written(self.mean, form) + (
            "" if self.deviation is None else f" ± {written(self.deviation, form)}"
        )


class Difference(NamedTuple):
    """Mean of the differences of so many pairs, and half the width of its 95 % interval, None for one pair."""

    mean: float
    half: float | None
    pairs: int

    def text(self, figure):
        """'+0.14 ± 0.13' or '-91 ± 1 %', with as many decimals as it takes to contain 0 only if the interval does; 'too
        uncertain' for an interval of percentages wider than 100 %."""
        form, unit = (figure.form, "") if figure.points else (".0f", " %")
        if self.half is None:
            return written(self.mean, f"+{form}") + unit
        if not figure.points and 2 * self.half > 100:
            return UNCERTAIN
        for places in range(int(form[1:-1]), PLACES + 1):
            mean, half = written(self.mean, f"+.{places}f"), written(self.half, f".{places}f")
            if (abs(float(mean)) <= float(half)) == (
                abs(round(self.mean, PLACES)) <= round(self.half, PLACES)
            ):
                break
        return f"{mean} ± {half}{unit}"

    @property
    def p(self):
        """The two-sided p-value of no difference (Student's t), for several pairs that differ."""
        return 2 * float(
            stdtr(self.pairs - 1, -abs(self.mean) / self.half * stdtrit(self.pairs - 1, 0.975))
        )

    def is_within(self, bound):
        """Whether the difference of several pairs is shown to be below the bound: two one-sided tests at 5 %."""
        return (
            abs(self.mean)
            + self.half * stdtrit(self.pairs - 1, 0.95) / stdtrit(self.pairs - 1, 0.975)
            < bound
        )


def written(value, form):
    """The number in this form, a half rounded away from 0, and what becomes 0 without a minus."""
    with localcontext(Context(rounding=ROUND_HALF_UP)):
        return format(
            Decimal(f"{value:.{PLACES}f}"), f"+z{form[1:]}" if form[0] == "+" else f"z{form}"
        )


def surviving(differences):
    """Which of name -> Difference, of several pairs, differ from 0 after correction for as many comparisons: Holm, 5 %."""
    ordered = enumerate(sorted(differences, key=lambda name: differences[name].p))
    rejected = takewhile(
        lambda pair: differences[pair[1]].p * (len(differences) - pair[0]) <= 0.05, ordered
    )
    return [name for _, name in rejected]


def correction_line(differences):
    """Which of name -> Difference, of several pairs, differ from 0 after correction, in words."""
    names = "; ".join(surviving(differences)) or "none"
    return f"Corrected for {len(differences)} comparisons (Holm, 5 %), different from 0: {names}."


def equivalence_line(shares, bound):
    """Which of name -> Difference in percent, of several pairs, are shown to be below the bound, in words."""
    if not shares:
        return (
            "Equivalence was not tested: it needs several seeds of two networks (--seeds 0 1 2)."
        )
    alike = "; ".join(name for name, difference in shares.items() if difference.is_within(bound))
    return (
        f"Equivalent within ± {bound:g} % (two one-sided tests, each at 5 %): {alike or 'none'}."
    )


def spread(name, records):
    """The Spread of a figure over seed -> record; None where a record lacks it."""
    values = {seed: FIGURES[name].of(record) for seed, record in records.items()}
    if not values or None in values.values():
        return None
    return Spread(
        fmean(values.values()), stdev(values.values()) if len(values) > 1 else None, values
    )


def difference(name, ours, theirs):
    """The Difference of a figure between two of seed -> record, over the seeds of both; None where there is none."""
    figure = FIGURES[name]
    pairs = [
        (figure.of(record), figure.of(theirs[seed]))
        for seed, record in ours.items()
        if seed in theirs
    ]
    if not pairs or any(a is None or b is None or (not figure.points and not b) for a, b in pairs):
        return None
    return interval([a - b if figure.points else 100 * (a / b - 1) for a, b in pairs])


def interval(differences):
    """The Difference of these, its interval by Student's t."""
    count = len(differences)
    half = (
        float(stdtrit(count - 1, 0.975)) * stdev(differences) / count**0.5 if count > 1 else None
    )
    return Difference(fmean(differences), half, count)


def wilson(share, count):
    """The 95 % interval (low, high) of a share of `count` images, if they are a random sample (Wilson 1927)."""
    from scipy.stats import binomtest  # half a second

    return tuple(map(float, binomtest(round(share * count), count).proportion_ci(method="wilson")))


def spike_correlations(difficulty, per_image):
    """Spearman's rho of a measure of difficulty (N,), larger being harder, with spikes and with spikes per total intensity, None
    where one of both is constant. An image of more total intensity (sum of light) has more input spikes to begin with."""
    from scipy.stats import spearmanr  # half a second

    spikes = {
        "spikes": per_image["spikes"],
        "spikes_per_ink": per_image["spikes"] / per_image["ink"].clamp(min=1e-6),
    }
    is_constant = {
        name: (values == values[0]).all() or (difficulty == difficulty[0]).all()
        for name, values in spikes.items()
    }
    return {
        name: None if is_constant[name] else float(spearmanr(difficulty, spikes[name]).statistic)
        for name in spikes
    }


def difficulty_correlations(per_image):
    """spike_correlations by measure of difficulty: a small margin of the output, being wrong, the error of the prediction."""
    measures = {"small margin": -per_image["margin"], "wrong": ~per_image["correct"]}
    if "error" in per_image:
        measures["reconstruction error"] = per_image["error"]
    return {name: spike_correlations(measure, per_image) for name, measure in measures.items()}


# --- early exit: accuracy against spikes, a point for each margin


def on_front(records):
    """Those evaluation records that no other beats in both accuracy and spikes, or in one of them at an equal other."""
    points = [(record["accuracy"], -record["spikes"]["total"]) for record in records]
    return [
        record
        for record, (accuracy, saved) in zip(records, points, strict=True)
        if not any(
            other != (accuracy, saved) and other[0] >= accuracy and other[1] >= saved
            for other in points
        )
    ]


def curve(records):
    """Spikes, and accuracy in %, of a network's evaluations that differ in their margin: two arrays, in order of spikes."""
    return np.array(
        sorted(
            (FIGURES["spikes"].of(record), FIGURES["accuracy"].of(record)) for record in records
        )
    ).T


def at_spikes(ours, theirs):
    """Difference of accuracy between two networks, seed -> records each, over the spikes that both curves of a seed reach."""
    differences = []
    for seed in ours:
        both = curve(ours[seed]), curve(theirs[seed])
        spikes = np.linspace(
            max(points[0, 0] for points in both), min(points[0, -1] for points in both), 100
        )
        accuracy, other = (np.interp(spikes, *points) for points in both)
        differences.append(float((accuracy - other).mean()))
    return interval(differences)


def at_accuracy(records, accuracy):
    """A record of the fewest spikes at which a curve has an accuracy in %, or a higher one if it begins there; else None."""
    spikes, reached = curve(records)
    if not len(enough := np.flatnonzero(reached >= accuracy - 10**-PLACES)):
        return None
    near = slice(
        max(enough[0] - 1, 0), enough[0] + 1
    )  # the first point that has it, and the one before
    total = float(np.interp(accuracy, reached[near], spikes[near]))
    return {"accuracy": max(accuracy, reached[0]) / 100, "spikes": {"total": total}}


# --- series: runs that only the seed tells apart


@dataclass
class Series:
    """Results of a network run in one way on some images. results: seed -> record; trained_on: how many images, '' if unknown."""

    name: str
    settings: dict
    on: str
    results: dict
    trained_on: str = ""

    @property
    def run_with(self):
        return ", ".join(f"{name} = {value}" for name, value in self.settings.items())


def series_of(runs):
    """The Series of Runs. Of a seed that has several results alike the last counts."""
    by_key = {}
    for run in runs:
        count = run.parameters.get("train_images", "")
        trained_on = f"{int(count):,}" if count.isdecimal() else ""
        for result in run.results:
            key = run.recipe, result.on, tuple(result.settings.items())
            series = by_key.setdefault(
                key, Series(run.recipe, result.settings, result.on, {}, trained_on)
            )
            series.results[run.seed] = result.record
    return list(by_key.values())


def at_equal_accuracy(several, accuracy):
    """A Series for each network: its spikes at an accuracy in %, between its margins. Raises UserError for one without it."""
    networks = {}
    for series in several:
        networks.setdefault(series.name, []).extend(
            [series] if series.settings.get("rule") == "confidence" else []
        )
    for name, runs in networks.items():
        if not runs:
            raise UserError(
                f"--at_accuracy: {name} has no run with early exit: --evaluate runs it at several margins"
            )
        results = {
            seed: at_accuracy([run.results[seed] for run in runs], accuracy)
            for seed in runs[0].results
        }
        if None in results.values():
            best = min(
                100 * max(run.results[seed]["accuracy"] for run in runs) for seed in results
            )
            raise UserError(
                f"--at_accuracy {accuracy:g}: {name} reaches {best:.2f} % in one of its seeds: choose less"
            )
        margins = " ".join(f"{float(run.settings['gap_bound']):g}" for run in runs)
        settings = {"T": runs[0].settings["T"], "margin": margins}
        networks[name] = Series(name, settings, runs[0].on, results, runs[0].trained_on)
    return list(networks.values())


def pairs_of(several):
    """Each Series with the one of the network named last that was run alike on the same images, or with None."""
    last = [series for series in several if series.name == several[-1].name]
    pairs = [(series, _partner(series, several, last)) for series in several if series not in last]
    return pairs + [
        (series, None) for series in last if not any(series is other for _, other in pairs)
    ]


def _partner(series, several, last):
    """The one of `last` run like this series, but for epsilon and what a network is; of several that with the same epsilon."""

    def told_apart_by(one):
        return {name: value for name, value in one.settings.items() if name not in ("ε", *USUAL)}

    runs = [other for other in several if other.name == series.name]
    partners = [other for other in last if other.on == series.on]
    if len(runs) > 1 or len(partners) > 1:
        partners = [other for other in partners if told_apart_by(other) == told_apart_by(series)]
        partners = [other for other in partners if other.settings == series.settings] or partners
    return partners[0] if len(partners) == 1 else None


def comparison(series, other):
    """Rows of text that compare a Series with another, or show it alone where other is None; the first row is the head."""
    both = [series, other or series]
    count = len(both[0].results.keys() & both[1].results.keys())
    rows = [
        ["", *(one.name for one in both), "difference"],
        [
            "seeds",
            *(" ".join(map(str, one.results)) for one in both),
            f"{count} pair{'' if count == 1 else 's'}",
        ],
        ["run with", *(one.run_with for one in both), ""],
        ["images", *(one.on for one in both), ""],
        ["training images", *(one.trained_on for one in both), ""],
    ]
    for name, figure in FIGURES.items():
        spreads = [spread(name, one.results) for one in both]
        if any(spreads):
            change = difference(name, both[0].results, both[1].results)
            cells = [one.text(figure.form) if one else "-" for one in spreads]
            rows.append([figure.title, *cells, change.text(figure) if change else "-"])
    return [row if other else row[:2] for row in rows if any(row[1:])]


def differences(pairs, only_shares=False):
    """Title, and name where several are compared -> Difference of several pairs: of all that varies, or of shares in percent."""
    both, by_title = [(series, other) for series, other in pairs if other], {}
    for series, other in both:
        for name, figure in FIGURES.items():
            change = difference(name, series.results, other.results)
            if change and (not figure.points and change.pairs > 1 if only_shares else change.half):
                by_title[f"{series.name}: {figure.title}" if len(both) > 1 else figure.title] = (
                    change
                )
    return by_title


def figures_of(pairs):
    """One dict for each network of these pairs, run in one way, and figure: numbers for programs."""
    several = {id(one): (one, None) for pair in pairs for one in pair if one} | {
        id(one): (one, other) for one, other in pairs
    }
    for series, other in several.values():
        for name, figure in FIGURES.items():
            if values := spread(name, series.results):
                change = difference(name, series.results, other.results) if other else None
                yield {
                    "network": series.name,
                    "run_with": series.run_with,
                    "images": series.on,
                    "figure": figure.title,
                    "mean": values.mean,
                    "standard_deviation": values.deviation,
                    "by_seed": values.values,
                    "compared_with": change and other.name,
                    "difference": change and change.mean,
                    "difference_in": change and (figure.points or "%"),
                    "half_of_95_percent_interval": change and change.half,
                    "pairs": change and change.pairs,
                }


def as_file(pairs, ending):
    """The figures as text of a file with this ending: .json or .csv."""
    rows = list(figures_of(pairs))
    if ending == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    rows = [
        row | {"by_seed": " ".join(f"{seed}:{value}" for seed, value in row["by_seed"].items())}
        for row in rows
    ]
    return as_text([rows[0].keys(), *(row.values() for row in rows)], "csv") + "\n"
