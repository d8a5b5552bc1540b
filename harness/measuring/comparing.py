"""Recipes compared over seeds: means and standard deviations of an evaluation's figures, and differences paired by seed.

A record is the JSON object of an evaluation, or a mapping with the same names."""

from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from itertools import takewhile
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from self_models.running.outputs import PARTS

UNCERTAIN = "too uncertain"
PLACES = 9  # of decimals, beyond which a figure is what sums of floats leave behind
EXPLAINED = (
    "Network: mean ± standard deviation over seeds. Difference: paired by seed, ± its 95 % confidence interval (Student's t). If "
    "that contains 0, no difference was detected. 'too uncertain': wider than ± 50 %. Spikes and energy are per image."
)


class Figure(NamedTuple):
    """A figure of an evaluation. of: record -> number, or None where it has none; form: of a mean; points: the unit of a
    difference, '' where it is one in percent of what is compared with."""

    title: str
    of: Callable
    form: str
    points: str = ""


def _joules(name):
    return lambda record: None if record.get(name) is None else 1e6 * record[name]


def _spikes(part):
    return lambda record: (record.get("spikes") or {}).get(part)


def _open_at_the_end(record):
    return 100 * record["open_share"][-1] if record.get("open_share") else None


FIGURES = {
    "accuracy": Figure("accuracy, %", lambda record: 100 * record["accuracy"], ".2f", "points"),
    "spikes": Figure("spikes, all parts", _spikes("total"), ",.0f"),
    **{part: Figure(f"spikes, {part}", _spikes(part), ",.0f") for part in PARTS.values()},
    "mean_steps": Figure("timesteps", lambda record: record.get("mean_steps"), ".2f", "timesteps"),
    "energy_joules": Figure("energy layer by layer, µJ", _joules("energy_joules"), ".1f"),
    "energy_event_joules": Figure("energy event-driven, µJ", _joules("energy_event_joules"), ".2f"),
    "open_share": Figure("input open at the end, %", _open_at_the_end, ".1f", "points"),
}


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1; None for one seed) of a figure over seeds, seed -> value."""

    mean: float
    deviation: float | None
    values: dict

    def text(self, form):
        return written(self.mean, form) + ("" if self.deviation is None else f" ± {written(self.deviation, form)}")


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
            if (abs(float(mean)) <= float(half)) == (abs(round(self.mean, PLACES)) <= round(self.half, PLACES)):
                break
        return f"{mean} ± {half}{unit}"

    @property
    def p(self):
        """The two-sided p-value of no difference (Student's t), for several pairs that differ."""
        return 2 * float(stdtr(self.pairs - 1, -abs(self.mean) / self.half * stdtrit(self.pairs - 1, 0.975)))

    def is_within(self, bound):
        """Whether the difference of several pairs is shown to be below the bound: two one-sided tests at 5 %."""
        return abs(self.mean) + self.half * stdtrit(self.pairs - 1, 0.95) / stdtrit(self.pairs - 1, 0.975) < bound


def surviving(differences):
    """Which of name -> Difference, of several pairs, differ from 0 after correction for as many comparisons: Holm, 5 %."""
    ordered = enumerate(sorted(differences, key=lambda name: differences[name].p))
    return [name for _, name in takewhile(lambda one: differences[one[1]].p * (len(differences) - one[0]) <= 0.05, ordered)]


def equivalence_line(shares, bound):
    """Which of name -> Difference in percent, of several pairs, are shown to be below the bound, in words."""
    if not shares:
        return "Equivalence was not tested: it needs several seeds of two networks (--seeds 0 1 2)."
    alike = "; ".join(name for name, found in shares.items() if found.is_within(bound))
    return f"Equivalent within ± {bound:g} % (two one-sided tests, each at 5 %): {alike or 'none'}."


def written(value, form):
    """The number in this form, a half rounded away from 0, and what becomes 0 without a minus."""
    with localcontext(Context(rounding=ROUND_HALF_UP)):
        return format(Decimal(f"{value:.{PLACES}f}"), f"+z{form[1:]}" if form[0] == "+" else f"z{form}")


def spread(name, records):
    """The Spread of a figure over seed -> record; None where a record lacks it."""
    values = {seed: FIGURES[name].of(record) for seed, record in records.items()}
    if not values or None in values.values():
        return None
    return Spread(fmean(values.values()), stdev(values.values()) if len(values) > 1 else None, values)


def difference(name, ours, theirs):
    """The Difference of a figure between two of seed -> record, over the seeds of both; None where there is none."""
    figure, found = FIGURES[name], []
    for one, other in ((figure.of(record), figure.of(theirs[seed])) for seed, record in ours.items() if seed in theirs):
        if one is None or other is None or (not figure.points and not other):
            return None
        found.append(one - other if figure.points else 100 * (one / other - 1))
    return interval(found) if found else None


def interval(differences):
    """The Difference of these, its interval by Student's t."""
    count = len(differences)
    half = float(stdtrit(count - 1, 0.975)) * stdev(differences) / count**0.5 if count > 1 else None
    return Difference(fmean(differences), half, count)


def curve(records):
    """Spikes, and accuracy in %, of a network's evaluations that differ in their margin: two arrays, in order of spikes."""
    return np.array(sorted((FIGURES["spikes"].of(record), FIGURES["accuracy"].of(record)) for record in records)).T


def at_spikes(ours, theirs):
    """Difference of accuracy between two networks, seed -> records each, over the spikes that both curves of a seed reach."""
    apart = []
    for seed in ours:
        both = curve(ours[seed]), curve(theirs[seed])
        spikes = np.linspace(max(points[0, 0] for points in both), min(points[0, -1] for points in both), 100)
        one, other = (np.interp(spikes, *points) for points in both)
        apart.append(float((one - other).mean()))
    return interval(apart)


def at_accuracy(records, accuracy):
    """A record of the fewest spikes at which a curve has an accuracy in %, or a higher one if it begins there; else None."""
    spikes, reached = curve(records)
    if not len(enough := np.flatnonzero(reached >= accuracy - 10**-PLACES)):
        return None
    near = slice(max(enough[0] - 1, 0), enough[0] + 1)  # the first point that has it, and the one before
    total = float(np.interp(accuracy, reached[near], spikes[near]))
    return {"accuracy": max(accuracy, reached[0]) / 100, "spikes": {"total": total}}
