"""Networks compared over seeds: means, differences paired by seed, and their tables.

A *record* is the JSON object of an evaluation, or a mapping with the same names. Most
functions take the records of a network by seed.

Holm's correction and the test of equivalence are written out here, since scipy has
neither; its distributions give their numbers.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import stdtr, stdtrit

from self_models.errors import UserError
from self_models.running.outputs import PARTS
from wfeedback.measuring.read_logs import USUAL, RunLog
from wfeedback.measuring.tables import as_text, record_parts

UNCERTAIN = "too uncertain"
PLACES = 9  # of decimals, beyond which a figure is what sums of floats leave behind
LEVEL = 0.05  # of significance
EXPLAINED = (
    "Network: mean ± standard deviation over seeds. Difference: paired by seed, ± its 95 % "
    "confidence interval (Student's t). If that contains 0, no difference was detected. "
    "'too uncertain': wider than ± 50 %. Spikes and energy are per image."
)

Records = Mapping[int, Mapping]  # seed -> record


class Figure(NamedTuple):
    """A figure of an evaluation.

    Attributes
    ----------
    title : str
        What tables call it.
    path : tuple of str or int
        Keys that lead to its number in a record.
    form : str
        Format of a mean, such as ".2f".
    points : str
        Unit of a difference. Empty if a difference is in percent of what is compared
        with.
    scale : float
        Factor from the number in the record to the figure.
    """

    title: str
    path: tuple[str | int, ...]
    form: str
    points: str = ""
    scale: float = 1

    def value_in(self, record: Mapping) -> float | None:
        """Return the figure of a record; None if the record or the network has none."""
        is_of_part = self.path[0] == "spikes" and self.path[1] != "total"
        if is_of_part and self.path[1] not in record_parts(record):
            return None  # the part has no spiking layer
        value = record
        for key in self.path:
            # A list, of which the last item (-1) counts, may be None or empty.
            if not value or (key != -1 and key not in value):
                return None
            value = value[key]
        return None if value is None else self.scale * value


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
    """How a figure varies over seeds.

    Attributes
    ----------
    mean : float
        Mean over the seeds.
    deviation : float or None
        Standard deviation, with n - 1. None for a single seed.
    values : dict of {int: float}
        The figure by seed.
    """

    mean: float
    deviation: float | None
    values: dict[int, float]

    def text(self, form: str) -> str:
        """Return "97.10 ± 0.12", with both numbers in this format."""
        if self.deviation is None:
            return written(self.mean, form)
        return f"{written(self.mean, form)} ± {written(self.deviation, form)}"


class Difference(NamedTuple):
    """Mean difference of pairs, with its interval of 95 %.

    Attributes
    ----------
    mean : float
        Mean of the differences.
    half : float or None
        Half the width of the interval. None for a single pair.
    pairs : int
        Number of pairs.
    """

    mean: float
    half: float | None
    pairs: int

    def text(self, figure: Figure) -> str:
        """Write the difference, such as "+0.14 ± 0.13" or "-91 ± 1 %".

        It has as many decimals as it takes to show, after rounding, whether the
        interval contains 0.

        Parameters
        ----------
        figure : Figure
            What differs.

        Returns
        -------
        str
            The text. "too uncertain" for an interval of percentages that is wider than
            100 %.
        """
        is_share = not figure.points
        form = ".0f" if is_share else figure.form
        unit = " %" if is_share else ""
        if self.half is None:
            return written(self.mean, f"+{form}") + unit
        if is_share and 2 * self.half > 100:
            return UNCERTAIN
        contains_0 = abs(round(self.mean, PLACES)) <= round(self.half, PLACES)
        fewest_places = int(form[1:-1])
        for places in range(fewest_places, PLACES + 1):
            mean = written(self.mean, f"+.{places}f")
            half = written(self.half, f".{places}f")
            seems_to_contain_0 = abs(float(mean)) <= float(half)
            if seems_to_contain_0 == contains_0:
                break
        return f"{mean} ± {half}{unit}"

    @property
    def p(self) -> float:
        """The two-sided p-value of no difference (Student's t), for varying pairs."""
        freedom = self.pairs - 1
        t = abs(self.mean) / self.half * stdtrit(freedom, 0.975)
        return 2 * float(stdtr(freedom, -t))

    def is_within(self, bound: float) -> bool:
        """Return whether several pairs show that the difference is below a bound.

        These are two one-sided tests of Student's t, each at 5 % (Schuirmann 1987).
        Both reject if the interval of 90 % lies within the bounds.
        """
        freedom = self.pairs - 1
        half_of_90_percent = self.half * stdtrit(freedom, 0.95) / stdtrit(freedom, 0.975)
        return abs(self.mean) + half_of_90_percent < bound


def written(value: float, form: str) -> str:
    """Format a number, with a half rounded away from 0, and 0 without a minus.

    Parameters
    ----------
    value : float
        The number.
    form : str
        Format, such as ".2f", ",.0f" or "+.1f".

    Returns
    -------
    str
        The text.
    """
    # "z" is what takes the minus from 0, and stands after the sign.
    form = f"+z{form[1:]}" if form.startswith("+") else f"z{form}"
    with localcontext(Context(rounding=ROUND_HALF_UP)):
        return format(Decimal(f"{value:.{PLACES}f}"), form)


def surviving(differences: Mapping[str, Difference]) -> list[str]:
    """Name the differences from 0 that are left after correction (Holm 1979, at 5 %).

    Parameters
    ----------
    differences : mapping of {str: Difference}
        All that were tested, each of several pairs, by name.

    Returns
    -------
    list of str
        Their names, in the order of their p-values.
    """
    names = sorted(differences, key=lambda name: differences[name].p)
    rejected = []
    for number, name in enumerate(names):
        if not differences[name].p * (len(names) - number) <= LEVEL:
            break
        rejected.append(name)
    return rejected


def correction_line(differences: Mapping[str, Difference]) -> str:
    """Say which differences from 0 are left after correction, see ``surviving``."""
    names = "; ".join(surviving(differences)) or "none"
    return f"Corrected for {len(differences)} comparisons (Holm, 5 %), different from 0: {names}."


def equivalence_line(shares: Mapping[str, Difference], bound: float) -> str:
    """Say which differences are shown to be below a bound.

    Parameters
    ----------
    shares : mapping of {str: Difference}
        Differences in percent, each of several pairs, by name.
    bound : float
        The bound, in percent.

    Returns
    -------
    str
        The line.
    """
    if not shares:
        return (
            "Equivalence was not tested: it needs several seeds of two networks (--seeds 0 1 2)."
        )
    alike = [name for name, difference in shares.items() if difference.is_within(bound)]
    names = "; ".join(alike) or "none"
    return f"Equivalent within ± {bound:g} % (two one-sided tests, each at 5 %): {names}."


def spread(name: str, records: Records) -> Spread | None:
    """Compute how a figure varies over seeds.

    Parameters
    ----------
    name : str
        A key of `FIGURES`.
    records : mapping of {int: mapping}
        Records by seed.

    Returns
    -------
    Spread or None
        None if a record lacks the figure.
    """
    values = {seed: FIGURES[name].value_in(record) for seed, record in records.items()}
    if not values or None in values.values():
        return None
    deviation = stdev(values.values()) if len(values) > 1 else None
    return Spread(fmean(values.values()), deviation, values)


def difference(name: str, ours: Records, theirs: Records) -> Difference | None:
    """Compute by how much a figure of one network differs from that of another.

    Parameters
    ----------
    name : str
        A key of `FIGURES`.
    ours, theirs : mapping of {int: mapping}
        Records of both networks by seed. Seeds that both have are paired.

    Returns
    -------
    Difference or None
        In points, or in percent of the other network's, as the figure says. None if no
        seed is in both, a record lacks the figure, or it were percent of 0.
    """
    figure = FIGURES[name]
    differences = []
    for seed, record in ours.items():
        if seed not in theirs:
            continue
        value = figure.value_in(record)
        other = figure.value_in(theirs[seed])
        if value is None or other is None:
            return None
        if figure.points:
            differences.append(value - other)
        elif other:
            differences.append(100 * (value / other - 1))
        else:
            return None
    return interval(differences) if differences else None


def interval(differences: Sequence[float]) -> Difference:
    """Compute the mean of differences, and its interval of 95 % by Student's t."""
    count = len(differences)
    half = None
    if count > 1:
        half = float(stdtrit(count - 1, 0.975)) * stdev(differences) / count**0.5
    return Difference(fmean(differences), half, count)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Compute the interval of 95 % of a share of images (Wilson 1927).

    Parameters
    ----------
    share : float, 0 to 1
        The share that was measured.
    count : int
        Number of images, taken as a random sample.

    Returns
    -------
    low, high : float, 0 to 1
        The ends of the interval.
    """
    from scipy.stats import binomtest  # takes half a second

    low, high = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(low), float(high)


def spike_correlations(
    difficulty: torch.Tensor, per_image: dict[str, torch.Tensor]
) -> dict[str, float | None]:
    """Correlate the difficulty of images with their spikes (Spearman's rho).

    An image with more light has more input spikes to begin with. So its spikes are also
    taken relative to its total intensity.

    Parameters
    ----------
    difficulty : Tensor of shape (N,)
        A measure of difficulty, the larger the harder.
    per_image : dict of {str: Tensor of shape (N,)}
        ``spikes``, and ``ink``, the total intensity, of each image.

    Returns
    -------
    dict of {str: float or None}
        ``spikes`` and ``spikes_per_ink``. None if one of both sides is constant.
    """
    from scipy.stats import spearmanr  # takes half a second

    measures = {
        "spikes": per_image["spikes"],
        "spikes_per_ink": per_image["spikes"] / per_image["ink"].clamp(min=1e-6),
    }
    correlations = {}
    for name, spikes in measures.items():
        is_constant = (spikes == spikes[0]).all() or (difficulty == difficulty[0]).all()
        correlations[name] = None
        if not is_constant:
            correlations[name] = float(spearmanr(difficulty, spikes).statistic)
    return correlations


def difficulty_correlations(
    per_image: dict[str, torch.Tensor],
) -> dict[str, dict[str, float | None]]:
    """Correlate several measures of difficulty with spikes.

    Parameters
    ----------
    per_image : dict of {str: Tensor of shape (N,)}
        Figures of each image: ``spikes``, ``ink``, ``margin`` of the output, whether it
        is ``correct``, and of a network with a decoder the ``error`` of its prediction.

    Returns
    -------
    dict of {str: dict of {str: float or None}}
        Measure of difficulty -> what ``spike_correlations`` returns.
    """
    measures = {"small margin": -per_image["margin"], "wrong": ~per_image["correct"]}
    if "error" in per_image:
        measures["reconstruction error"] = per_image["error"]
    return {name: spike_correlations(measure, per_image) for name, measure in measures.items()}


# --- early exit: accuracy against spikes, a point for each margin


def on_front(records: Sequence[Mapping]) -> list[Mapping]:
    """Find the evaluations that no other beats in both accuracy and spikes.

    Parameters
    ----------
    records : sequence of mapping
        The evaluation records.

    Returns
    -------
    list of mapping
        Those on the Pareto front: every other one that is at least as good in both is
        equal in both.
    """
    points = [(record["accuracy"], -record["spikes"]["total"]) for record in records]
    front = []
    for record, point in zip(records, points, strict=True):
        if not any(_beats(other, point) for other in points):
            front.append(record)
    return front


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    """Return whether a point is at least as large in both values, and larger in one."""
    return other != point and other[0] >= point[0] and other[1] >= point[1]


def curve(records: Iterable[Mapping]) -> np.ndarray:
    """Arrange a network's evaluations at several margins as a curve.

    Parameters
    ----------
    records : iterable of mapping
        The evaluation records.

    Returns
    -------
    ndarray of shape (2, N)
        Spikes per image in ascending order, and accuracy in percent.
    """
    points = []
    for record in records:
        points.append((FIGURES["spikes"].value_in(record), FIGURES["accuracy"].value_in(record)))
    return np.array(sorted(points)).T


def at_spikes(
    ours: Mapping[int, Sequence[Mapping]], theirs: Mapping[int, Sequence[Mapping]]
) -> Difference:
    """Compare the accuracy of two networks at equal spikes.

    Parameters
    ----------
    ours, theirs : mapping of {int: sequence of mapping}
        Seed -> records at several margins.

    Returns
    -------
    Difference
        In points of percent. Of a seed it is the mean over the spikes that the curves
        of both networks reach.
    """
    differences = []
    for seed in ours:
        our_curve = curve(ours[seed])
        their_curve = curve(theirs[seed])
        fewest = max(our_curve[0, 0], their_curve[0, 0])
        most = min(our_curve[0, -1], their_curve[0, -1])
        spikes = np.linspace(fewest, most, 100)
        accuracy = np.interp(spikes, *our_curve)
        other = np.interp(spikes, *their_curve)
        differences.append(float((accuracy - other).mean()))
    return interval(differences)


def at_accuracy(records: Sequence[Mapping], accuracy: float) -> dict | None:
    """Find the fewest spikes with which a network reaches an accuracy.

    Between two margins, spikes are interpolated.

    Parameters
    ----------
    records : sequence of mapping
        The network's records at several margins.
    accuracy : float
        In percent.

    Returns
    -------
    dict or None
        ``accuracy``, 0 to 1, and ``spikes``, as in a record. The accuracy is higher
        than asked for if the curve begins above it. None if no point reaches it.
    """
    spikes, reached = curve(records)
    enough = np.flatnonzero(reached >= accuracy - 10**-PLACES)
    if not len(enough):
        return None
    first = enough[0]
    near = slice(max(first - 1, 0), first + 1)  # with the point before it, if there is one
    total = float(np.interp(accuracy, reached[near], spikes[near]))
    return {"accuracy": max(accuracy, reached[0]) / 100, "spikes": {"total": total}}


# --- series: runs that only the seed tells apart


@dataclass
class Series:
    """Results of a network that was run in one way on some images.

    Attributes
    ----------
    name : str
        Name of the network.
    settings : dict of {str: str}
        How it was run.
    on : str
        On how many images, and which.
    results : dict of {int: mapping}
        Record by seed.
    trained_on : str
        Number of its training images, as text. Empty if it is not known.
    """

    name: str
    settings: dict[str, str]
    on: str
    results: dict[int, Mapping]
    trained_on: str = ""

    @property
    def run_with(self) -> str:
        """How it was run, in words."""
        return ", ".join(f"{name} = {value}" for name, value in self.settings.items())


class Pair(NamedTuple):
    """A series, and the one that it is compared with, if there is one."""

    series: Series
    other: Series | None


def series_of(runs: Iterable[RunLog]) -> list[Series]:
    """Arrange the results of runs as series.

    Parameters
    ----------
    runs : iterable of RunLog
        The runs. If a seed has several results of a series, the last counts.

    Returns
    -------
    list of Series
        In the order of their first result.
    """
    by_key = {}
    for run in runs:
        count = run.parameters.get("train_images", "")
        trained_on = f"{int(count):,}" if count.isdecimal() else ""
        for result in run.results:
            key = (run.recipe, result.on, tuple(result.settings.items()))
            if key not in by_key:
                by_key[key] = Series(run.recipe, result.settings, result.on, {}, trained_on)
            by_key[key].results[run.seed] = result.record
    return list(by_key.values())


def at_equal_accuracy(several: Iterable[Series], accuracy: float) -> list[Series]:
    """Make a series for each network: its spikes at an accuracy, between its margins.

    Parameters
    ----------
    several : iterable of Series
        The networks, at several margins. Series without early exit are left out.
    accuracy : float
        In percent.

    Returns
    -------
    list of Series
        One for each network.

    Raises
    ------
    UserError
        If a network has no early exit, or does not reach the accuracy in each of its
        seeds. Then nothing is compared.
    """
    by_network = {}
    for series in several:
        at_margins = by_network.setdefault(series.name, [])
        if series.settings.get("rule") == "confidence":
            at_margins.append(series)
    reached = {}  # accuracy that a network reaches in each of its seeds
    for name, at_margins in by_network.items():
        if not at_margins:
            raise UserError(
                f"--at_accuracy: {name} has no run with early exit: "
                "--evaluate runs it at several margins"
            )
        reached[name] = _reached_by(at_margins)
    short = {name: best for name, best in reached.items() if best < accuracy - 10**-PLACES}
    if short:
        who = "no network reaches it" if len(short) == len(reached) > 1 else "it is not reached"
        best = ", ".join(f"{name} {value:.2f} %" for name, value in short.items())
        lowest = int(100 * min(reached.values())) / 100
        raise UserError(
            f"--at_accuracy {accuracy:g}: {who} with every seed ({best} in the worst seed), so "
            f"nothing is compared: choose at most {lowest:.2f}"
        )
    return [_join_margins(name, margins, accuracy) for name, margins in by_network.items()]


def _reached_by(at_margins: list[Series]) -> float:
    """Return the accuracy in percent that a network reaches with each of its seeds."""
    best_by_seed = []
    for seed in at_margins[0].results:
        records = [series.results[seed] for series in at_margins]
        best_by_seed.append(100 * max(record["accuracy"] for record in records))
    return min(best_by_seed)


def _join_margins(name: str, at_margins: list[Series], accuracy: float) -> Series:
    """Join the series of a network, one for each margin, to one at an accuracy."""
    first = at_margins[0]
    results = {}
    for seed in first.results:
        records = [series.results[seed] for series in at_margins]
        results[seed] = at_accuracy(records, accuracy)
    margins = " ".join(f"{float(series.settings['gap_bound']):g}" for series in at_margins)
    settings = {"T": first.settings["T"], "margin": margins}
    return Series(name, settings, first.on, results, first.trained_on)


def notes_on_accuracy(several: Iterable[Series], accuracy: float) -> Iterator[str]:
    """Yield a line on each network that is above the accuracy with its fewest spikes.

    Parameters
    ----------
    several : iterable of Series
        As ``at_equal_accuracy`` returns them.
    accuracy : float
        In percent, which was asked for.
    """
    for series in several:
        found = {}
        for seed, record in series.results.items():
            if 100 * record["accuracy"] > accuracy + 10**-PLACES:
                found[seed] = f"{100 * record['accuracy']:.2f} % with seed {seed}"
        if found:
            yield (
                f"note: {series.name} is above {accuracy:g} % with its fewest spikes already: "
                f"{', '.join(found.values())}; compared are the spikes at that accuracy"
            )


def pairs_of(several: Sequence[Series]) -> list[Pair]:
    """Pair each series with that of the last network which was run alike.

    Parameters
    ----------
    several : sequence of Series
        The series. Those of the network that is named last are what others are compared
        with.

    Returns
    -------
    list of Pair
        A pair for each series of the other networks, and one without a partner for each
        series of the last network that no other is compared with.
    """
    last_network = [series for series in several if series.name == several[-1].name]
    pairs = []
    for series in several:
        if series not in last_network:
            pairs.append(Pair(series, _partner(series, several, last_network)))
    partners = [id(pair.other) for pair in pairs]
    for series in last_network:
        if id(series) not in partners:
            pairs.append(Pair(series, None))
    return pairs


def _partner(
    series: Series, several: Sequence[Series], last_network: Sequence[Series]
) -> Series | None:
    """Find the series of the last network that was run like this one.

    Networks that were run in one way alone need not agree in it. If they were run in
    several, all that is no part of the network must agree; of several such series, the
    one that agrees in epsilon, too, is meant.
    """
    ways = [other for other in several if other.name == series.name]
    partners = [other for other in last_network if other.on == series.on]
    if len(ways) > 1 or len(partners) > 1:
        settings = _settings_of_run(series)
        partners = [other for other in partners if _settings_of_run(other) == settings]
        exact = [other for other in partners if other.settings == series.settings]
        partners = exact or partners
    return partners[0] if len(partners) == 1 else None


def _settings_of_run(series: Series) -> dict[str, str]:
    """Return how a network was run, without epsilon and what belongs to the network."""
    ignored_names = ("ε", *USUAL)
    return {name: value for name, value in series.settings.items() if name not in ignored_names}


# --- tables and files


def comparison(series: Series, other: Series | None) -> list[list[str]]:
    """Tabulate a series beside the one that it is compared with.

    Parameters
    ----------
    series : Series
        The series.
    other : Series or None
        What it is compared with. None shows it alone.

    Returns
    -------
    list of list of str
        The rows, the first of which is the head. Rows without content are left out.
    """
    both = [series, other or series]
    count = len(both[0].results.keys() & both[1].results.keys())
    seeds = [" ".join(str(seed) for seed in one.results) for one in both]
    rows = [
        ["", *(one.name for one in both), "difference"],
        ["seeds", *seeds, f"{count} pair{'' if count == 1 else 's'}"],
        ["run with", *(one.run_with for one in both), ""],
        ["images", *(one.on for one in both), ""],
        ["training images", *(one.trained_on for one in both), ""],
    ]
    for name, figure in FIGURES.items():
        spreads = [spread(name, one.results) for one in both]
        if not any(spreads):
            continue
        row = [figure.title]
        for one in spreads:
            row.append(one.text(figure.form) if one else "-")
        change = difference(name, both[0].results, both[1].results)
        row.append(change.text(figure) if change else "-")
        rows.append(row)
    rows = [row for row in rows if any(row[1:])]
    if other is None:
        rows = [row[:2] for row in rows]
    return rows


def differences(pairs: Iterable[Pair], only_shares: bool = False) -> dict[str, Difference]:
    """Collect the differences of several seeds, to be tested.

    Parameters
    ----------
    pairs : iterable of Pair
        The series that are compared.
    only_shares : bool, default False
        Whether to take those in percent alone, also where seeds do not vary. By default
        all are taken that vary.

    Returns
    -------
    dict of {str: Difference}
        By title, and by network if there are several.
    """
    compared = [(series, other) for series, other in pairs if other]
    by_title = {}
    for series, other in compared:
        for name, figure in FIGURES.items():
            change = difference(name, series.results, other.results)
            if not change:
                continue
            if only_shares:
                is_wanted = not figure.points and change.pairs > 1
            else:
                is_wanted = bool(change.half)
            if is_wanted:
                title = figure.title
                if len(compared) > 1:
                    title = f"{series.name}: {title}"
                by_title[title] = change
    return by_title


def figure_rows(pairs: Sequence[Pair]) -> Iterator[dict[str, object]]:
    """Yield the numbers of a comparison for programs.

    Parameters
    ----------
    pairs : sequence of Pair
        The series that are compared.

    Yields
    ------
    dict
        For each series and each figure that it has: mean, deviation, and by how much it
        differs from what it is compared with.
    """
    partners = {}  # identity of each series -> it, and what it is compared with
    for series, other in pairs:
        partners[id(series)] = (series, other)
        if other:
            partners.setdefault(id(other), (other, None))
    for series, other in partners.values():
        for name, figure in FIGURES.items():
            values = spread(name, series.results)
            if not values:
                continue
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


def as_file(pairs: Sequence[Pair], ending: str) -> str:
    """Write the numbers of a comparison as the text of a file.

    Parameters
    ----------
    pairs : sequence of Pair
        The series that are compared.
    ending : {".json", ".csv"}
        Format of the file.

    Returns
    -------
    str
        The text.
    """
    rows = list(figure_rows(pairs))
    if ending == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    for row in rows:
        row["by_seed"] = " ".join(f"{seed}:{value}" for seed, value in row["by_seed"].items())
    return as_text([list(rows[0]), *(list(row.values()) for row in rows)], "csv") + "\n"
