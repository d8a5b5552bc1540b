"""The tables that the rows of studies/findings/moving.py give."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from self_models.evaluation.operations import conventions
from wfeedback.data.scenes import KINDS
from wfeedback.measuring.comparing import interval

LOST = 0.3  # points of accuracy that an arm may lose, in grey
OURS = "ours"  # the arm whose accuracy and spikes are shown


# --- finding rows


def rows_of(path: Path) -> list[dict]:
    """Read the rows of a file, a JSON object in each line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_kind(rows: list[dict], noise: float = 0.0) -> dict[str, list[dict]]:
    """Return for each kind of scene its rows with this noise."""
    found = {}
    for kind in KINDS:
        found[kind] = [row for row in rows if row["kind"] == kind and row["noise"] == noise]
    return found


def curve(rows: list[dict], arm: str) -> dict[float, list[dict]]:
    """Return for each epsilon, from the smallest on, an arm's rows in grey."""
    found = {}
    for epsilon in sorted({row["epsilon"] for row in rows}):
        found[epsilon] = [row for row in rows if row["arm"] == arm and row["epsilon"] == epsilon]
    return found


def rows_within(rows: list[dict], arm: str) -> list[dict]:
    """Return an arm's rows at the largest epsilon up to which it loses at most LOST.

    It loses that in the mean over seeds. The list is empty if it always loses more.
    """
    within = []
    for of_epsilon in curve(rows, arm).values():
        if fmean(row["points_lost"] for row in of_epsilon) > LOST:
            break
        within = of_epsilon
    return within


def at_equal_accuracy(columns: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Turn rows in grey into such as those in black and white, at equal accuracy.

    Parameters
    ----------
    columns : dict of str to list of dict
        Rows of `by_kind`, one for each seed, arm and epsilon.

    Returns
    -------
    dict of str to list of dict
        A row for each seed. Of each arm it has the events at the largest epsilon up to
        which the arm loses at most LOST points, and this epsilon. Arms that always lose
        more are left out. What else it has is that of OURS: columns in which this
        always loses more are left out, too.
    """
    found = {}
    for column, rows in columns.items():
        arms = dict.fromkeys(row["arm"] for row in rows)
        of_arms = {arm: rows_within(rows, arm) for arm in arms}
        if not of_arms.get(OURS):
            continue
        of_arms = [of_arm for of_arm in of_arms.values() if of_arm]
        for of_seed in zip(*of_arms, strict=True):
            by_arm = {row["arm"]: row for row in of_seed}
            together = {
                "events": {arm: row["events"] for arm, row in by_arm.items()},
                "epsilon": {arm: row["epsilon"] for arm, row in by_arm.items()},
                "accuracy": by_arm[OURS]["of_true"],
                "inside": by_arm[OURS]["inside"],
            }
            found.setdefault(column, []).append(together)
    return found


# --- figures of one row, in which events are [in all frames, after a change, elsewhere]


def sent_by(row: dict, arm: str) -> float | None:
    """Return an arm's events per frame, None of an arm that is left out."""
    if arm not in row["events"]:
        return None
    return row["events"][arm][0]


def fewer_than(row: dict, arm: str) -> float | None:
    """Return how many events less than an arm ours sends, None if it is left out."""
    sent = sent_by(row, arm)
    if sent is None:
        return None
    return sent - sent_by(row, OURS)


def after_changes(row: dict) -> float:
    """Return our events per frame within 5 frames of a change."""
    return row["events"]["ours"][1]


def elsewhere(row: dict) -> float:
    """Return our events per frame in other frames."""
    return row["events"]["ours"][2]


def times_fewer(row: dict) -> float | None:
    """Return how many times fewer events ours sends than send-on-delta."""
    sent = sent_by(row, "send-on-delta")
    if sent is None:
        return None
    return sent / sent_by(row, OURS)


def fewer_than_best_shift(row: dict) -> float | None:
    """Return how many events less than best shift ours sends."""
    return fewer_than(row, "best shift")


def our_spikes(row: dict) -> float:
    """Return the spikes of our predictor."""
    inside = row["inside"]
    return inside["D"] + inside["V"] + inside["M"]


def spikes_of_plain(row: dict) -> float | None:
    """Return the spikes of the network that was trained from a random start."""
    return row["inside"].get("plain")


def spikes_as_trains(row: dict) -> float | None:
    """Return the spikes of M, a train in the place of each graded one."""
    return row["inside"].get("trains")


def thousand_additions(row: dict) -> float:
    """Return the additions of our predictor, in thousands."""
    return row["inside"]["additions"] / 1000


def multiply_adds(row: dict) -> float | None:
    """Return the multiply-adds of our predictor."""
    return row["inside"].get("multiply_adds")


def percent_right(row: dict) -> float:
    """Return the accuracy in %."""
    return 100 * row["accuracy"]


def frames_until_right(row: dict) -> float | None:
    """Return how many frames a new digit takes until it is classified."""
    return row.get("frames_until_right")


def computing(row: dict) -> float:
    """Return nJ per frame of two of our predictors, by arithmetic at 45 nm."""
    picojoules = conventions()["arithmetic_45nm"].picojoules
    inside = row["inside"]
    additions = inside["additions"] * picojoules["add"]
    products = inside.get("multiply_adds", 0) * picojoules["multiply_add"]
    return 2 * (additions + products) / 1000


def price(row: dict) -> float | None:
    """Return the nJ of an event at which ours and send-on-delta cost the same.

    It is None where ours sends more, or send-on-delta is left out.
    """
    fewer = fewer_than(row, "send-on-delta")
    if fewer is None or fewer <= 0:
        return None
    return computing(row) / fewer


# --- tables


@dataclass
class Line:
    """A line of the table below the arms.

    Attributes
    ----------
    name : str
    form : str
        Format of its numbers.
    figure : callable
        Takes a row, and returns the number, or None where it was not measured.
    """

    name: str
    form: str
    figure: Callable[[dict], float | None]


LINES = (
    Line("ours, within 5 frames of a change", ".1f", after_changes),
    Line("ours, in other frames", ".1f", elsewhere),
    Line("send-on-delta divided by ours", ".2f", times_fewer),
    Line("best shift less ours", ".1f", fewer_than_best_shift),
    Line("predictor spikes, ours", ".0f", our_spikes),
    Line("predictor spikes, random start", ".0f", spikes_of_plain),
    Line("M's spikes as trains", ".0f", spikes_as_trains),
    Line("additions, ours, thousands", ".1f", thousand_additions),
    Line("multiply-adds, ours", ".0f", multiply_adds),
    Line("price of an event, nJ", ".2f", price),
    Line("accuracy, %", ".1f", percent_right),
    Line("frames until right", ".2f", frames_until_right),
)


def in_words(values: list[float | None], form: str) -> str:
    """Return the mean of values ± its interval, or a dash if one is missing."""
    if None in values:
        return "-"
    found = interval(values)
    text = f"{found.mean:{form}}"
    if found.half is not None:
        text += f" ± {found.half:{form}}"
    return text


def arm_cell(rows: list[dict], arm: str) -> str:
    """Return the events of an arm; of rows in grey its epsilon, too, or a dash."""
    cell = in_words([sent_by(row, arm) for row in rows], ".1f")
    if arm in rows[0].get("epsilon", {}):
        cell += f" ({rows[0]['epsilon'][arm]})"
    return cell


def table_line(cells: list[str]) -> str:
    """Return a line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def summary(columns: dict[str, list[dict]]) -> Iterator[str]:
    """Yield the lines of a table: the arms, then what else was measured.

    Parameters
    ----------
    columns : dict of str to list of dict
        Rows of `by_kind`, in grey those of `at_equal_accuracy`.
    """
    yield "| | " + " | ".join(columns) + " |"
    yield "| --- |" + " --- |" * len(columns)
    arms = {}
    for rows in columns.values():
        arms |= dict.fromkeys(rows[0]["events"])
    for arm in arms:
        yield table_line([arm, *(arm_cell(rows, arm) for rows in columns.values())])
    for line in LINES:
        cells = []
        for rows in columns.values():
            cells.append(in_words([line.figure(row) for row in rows], line.form))
        if set(cells) != {"-"}:
            yield table_line([line.name, *cells])


def print_summary(rows: list[dict], grey: bool) -> None:
    """Print a table without noise, and one with it."""
    for noise in (0.0, 0.01):
        columns = by_kind(rows, noise)
        if grey:
            in_grey = columns
            columns = at_equal_accuracy(in_grey)
            for column, rows_of_column in in_grey.items():
                if rows_of_column and column not in columns:
                    print(f"{column}: {OURS} loses more than {LOST} points at every epsilon")
        if columns:
            for line in summary(columns):
                print(line)
        print()
