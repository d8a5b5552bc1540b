"""Series: runs that only the seed tells apart, compared in tables; the arithmetic is in measuring/comparing.py."""

import json
from dataclasses import dataclass

from harness import UserError
from harness.measuring import energy
from harness.measuring.comparing import FIGURES, at_accuracy, difference, spread
from harness.reporting.reading import TOLD


@dataclass
class Series:
    """Results of a network run in one way (settings) on some images. results: seed -> what a Result knows, by name; trained_on:
    how many images, in words, '' where the log does not say."""

    name: str
    settings: dict
    on: str
    results: dict
    trained_on: str = ""

    @property
    def run_with(self):
        return ", ".join(f"{name} = {value}" for name, value in self.settings.items())

    @property
    def key(self):
        """What several to be compared have in common: not what a network is, nor epsilon, which one without a decoder lacks."""
        return {name: value for name, value in self.settings.items() if name not in ("ε", *TOLD)}


def series_of(runs):
    """The Series of Runs. Of a seed that has several results alike the last counts."""
    found = {}
    for run in runs:
        told = run.parameters.get("train_images", "")
        trained = f"{int(told):,}" if told.isdecimal() else ""
        for result in run.results:
            key = run.recipe, result.on, tuple(result.settings.items())
            series = found.setdefault(key, Series(run.recipe, result.settings, result.on, {}, trained))
            series.results[run.seed] = result.record
    return list(found.values())


def at_equal_accuracy(several, accuracy):
    """A Series for each network of these, of one data set: its spikes at an accuracy in %, between the margins that it was run
    with. Raises UserError for one without early exit, or that stays below the accuracy."""
    found = []
    for name in dict.fromkeys(series.name for series in several):
        runs = [series for series in several if series.name == name and series.settings.get("rule") == "confidence"]
        if not runs:
            raise UserError(f"--at_accuracy: {name} has no run with early exit: --evaluate runs it at several margins")
        results = {seed: at_accuracy([run.results[seed] for run in runs], accuracy) for seed in runs[0].results}
        if None in results.values():
            best = min(100 * max(run.results[seed]["accuracy"] for run in runs) for seed in results)
            raise UserError(f"--at_accuracy {accuracy:g}: {name} reaches {best:.2f} % in one of its seeds: choose less")
        margins = " ".join(f"{float(run.settings['gap_bound']):g}" for run in runs)
        found.append(Series(name, {"T": runs[0].settings["T"], "margin": margins}, runs[0].on, results, runs[0].trained_on))
    return found


def pairs_of(several):
    """(Series, the one that it is compared with or None): with the network named last, run alike on the same images. What is in
    no pair is there without a second one."""
    last = [series for series in several if series.name == several[-1].name]
    pairs = [(series, _partner(series, several, last)) for series in several if series not in last]
    return pairs + [(series, None) for series in last if not any(series is other for _, other in pairs)]


def _partner(series, several, last):
    """The one of `last` that is run like this series; with the same epsilon, if there are several."""
    mine = [other for other in several if other.name == series.name]
    some = [other for other in last if other.on == series.on]
    if len(mine) > 1 or len(some) > 1:
        some = [other for other in some if other.key == series.key]
        some = [other for other in some if other.settings == series.settings] or some
    return some[0] if len(some) == 1 else None


def comparison(series, other):
    """Rows of text that compare a Series with another, or show it alone where other is None; the first row is the head."""
    both = [series, other or series]
    pairs = len(both[0].results.keys() & both[1].results.keys())
    rows = [
        ["", *(one.name for one in both), "difference"],
        ["seeds", *(" ".join(map(str, one.results)) for one in both), f"{pairs} pair{'s' * (pairs != 1)}"],
        ["run with", *(one.run_with for one in both), ""],
        ["images", *(one.on for one in both), ""],
        ["training images", *(one.trained_on for one in both), ""],
    ]
    for name, figure in FIGURES.items():
        spreads = [spread(name, one.results) for one in both]
        found = difference(name, both[0].results, both[1].results)
        words = [one.text(figure.form) if one else "-" for one in spreads]
        rows += [[figure.title, *words, found.text(figure) if found else "-"]] * any(spreads)
    return [row if other else row[:2] for row in rows if any(row[1:])]


def differences(pairs, only_shares=False):
    """Title, and name of the network where several are compared -> Difference of several pairs: of all figures that vary over the
    seeds, or of those compared in percent, varying or not."""
    both = [(series, other) for series, other in pairs if other]
    every = {
        f"{series.name}: {figure.title}" if len(both) > 1 else figure.title: difference(name, series.results, other.results)
        for series, other in both
        for name, figure in FIGURES.items()
        if not (only_shares and figure.points)
    }
    return {name: found for name, found in every.items() if found and (found.pairs > 1 if only_shares else found.half)}


def figures_of(pairs):
    """One dict for each network of these pairs, run in one way, and figure: numbers for programs."""
    several = {id(one): (one, None) for pair in pairs for one in pair if one} | {id(one): (one, other) for one, other in pairs}
    for series, other in several.values():
        for name, figure in FIGURES.items():
            if found := spread(name, series.results):
                compared = other and difference(name, series.results, other.results)
                yield {
                    "network": series.name, "run_with": series.run_with, "images": series.on, "figure": figure.title,
                    "mean": found.mean, "standard_deviation": found.deviation, "by_seed": found.values,
                    "compared_with": compared and other.name, "difference": compared and compared.mean,
                    "difference_in": compared and (figure.points or "%"),
                    "half_of_95_percent_interval": compared and compared.half, "pairs": compared and compared.pairs,
                }  # fmt: skip


def as_text(pairs, ending):
    """The figures as a file of this ending: .json or .csv."""
    rows = list(figures_of(pairs))
    if ending == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    rows = [row | {"by_seed": " ".join(f"{seed}:{value}" for seed, value in row["by_seed"].items())} for row in rows]
    return energy.as_text([rows[0].keys(), *(row.values() for row in rows)], "csv") + "\n"
