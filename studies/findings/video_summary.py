"""The tables that the rows of studies/findings/video.py give."""

import math
from itertools import pairwise
from statistics import fmean

from self_models.evaluation.operations import conventions
from studies.link import PLACES, RUNGS, price_that_pays
from wfeedback.measuring.comparing import interval

STRETCHES = 6  # of neighbouring frames, for the interval in a clip
RUNG_ORDER = tuple(RUNGS)


# --- finding rows


def clips_of(rows: list[dict]) -> list[str]:
    """Return the names of the clips, in the order of the rows."""
    return list(dict.fromkeys(row["clip"] for row in rows))


def rows_with(rows: list[dict], **wanted: object) -> list[dict]:
    """Return the rows that have these values."""
    found = []
    for row in rows:
        if all(row.get(key) == value for key, value in wanted.items()):
            found.append(row)
    return found


def arm_rows(rows: list[dict], clip: str, arm: tuple) -> list[dict]:
    """Return the rows of an arm (name, place, rung): one, or one for each seed."""
    name, place, rung = arm
    return rows_with(rows, clip=clip, arm=name, place=place, rung=rung)


# --- figures of one row


def events_of(row: dict) -> list[int]:
    """Return pixels and shifts sent, of each frame."""
    return [sum(both) for both in zip(row["pixels"], row["vectors"], strict=True)]


def stretch_means(row: dict) -> list[float]:
    """Return the means of events over stretches of neighbouring frames."""
    events = events_of(row)
    count = min(STRETCHES, len(events))
    edges = [round(number * len(events) / count) for number in range(count + 1)]
    means = []
    for first, end in pairwise(edges):
        means.append(fmean(events[first:end]))
    return means


def mean_events(rows: list[dict]) -> float:
    """Return the mean of events per frame over rows."""
    return fmean(fmean(events_of(row)) for row in rows)


def joules_of(rows: list[dict]) -> float:
    """Return what an arm computes per frame, in joules, by arithmetic at 45 nm."""
    price = conventions()["arithmetic_45nm"].picojoules
    additions = fmean(row["additions"] for row in rows)
    multiply_adds = fmean(row["multiply_adds"] for row in rows)
    return (additions * price["add"] + multiply_adds * price["multiply_add"]) * 1e-12


# --- tables


def print_line(cells: list[str]) -> None:
    """Print a line of a table in Markdown."""
    print("| " + " | ".join(cells) + " |")


def print_head(cells: list[str]) -> None:
    """Print the head of a table."""
    print()
    print_line(cells)
    print_line(["---"] * len(cells))


def arms_in(rows: list[dict]) -> list[tuple]:
    """Return the arms (name, place, rung) of rows, in a fixed order."""
    arms = dict.fromkeys((row["arm"], row["place"], row["rung"]) for row in rows)

    def order(arm: tuple) -> tuple:
        _, place, rung = arm
        if rung is None:
            return (0, "", 0)
        return (1, place, RUNG_ORDER.index(rung))

    return sorted(arms, key=order)


def name_of(arm: tuple) -> str:
    """Return an arm in words."""
    name, place, rung = arm
    if place is None:
        return name
    return f"{name}, {place}, {rung}"


def events_cell(rows: list[dict]) -> str:
    """Return events ± interval (bits by entropy, in fixed length), in thousands."""
    if not rows:
        return "-"
    if len(rows) == 1:
        found = interval(stretch_means(rows[0]))
    else:
        found = interval([mean_events([row]) for row in rows])
    mean = mean_events(rows)
    entropy = fmean(row["entropy_bits"] for row in rows) / 1000
    fixed = fmean(row["fixed_bits"] for row in rows) / 1000
    half = "" if found.half is None else f" ± {found.half:.0f}"
    return f"{mean:.0f}{half} ({entropy:.1f}, {fixed:.1f})"


def print_events(rows: list[dict]) -> None:
    """Print the events of each arm and clip."""
    clips = clips_of(rows)
    print_head(["", *clips])
    for arm in arms_in(rows):
        cells = [events_cell(arm_rows(rows, clip, arm)) for clip in clips]
        print_line([name_of(arm), *cells])


SHORT_TABLE = {  # rows of the table on the page of motion
    "send-on-delta": ("send-on-delta", None, None),
    "block matching at the receiver": ("matching", "receiver", "held"),
    "spiking competition at the receiver": ("competition", "receiver", "held"),
    "the same, learned": ("learned", "receiver", "held"),
    "block matching at the sender": ("matching", "sender", "held"),
    "spiking competition at the sender": ("competition", "sender", "held"),
    "block matching at the sender, as in a codec": ("matching", "sender", "half pixels"),
    "spiking competition at the sender, as in a codec": ("competition", "sender", "half pixels"),
}


def short_table(rows: list[dict]) -> list[str]:
    """Return the lines of a table of events ± interval for the main arms."""
    lines = []
    for title, arm in SHORT_TABLE.items():
        cells = [title]
        for clip in clips_of(rows):
            cell = events_cell(arm_rows(rows, clip, arm))
            cells.append(cell.split(" (")[0])  # without the bits
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def ratio_over_clips(rows: list[dict], arm: tuple, other: tuple) -> dict[str, float]:
    """Return for each clip how many times the events of an arm are those of another."""
    ratios = {}
    for clip in clips_of(rows):
        of_arm = arm_rows(rows, clip, arm)
        of_other = arm_rows(rows, clip, other)
        if of_arm and of_other:
            ratios[clip] = mean_events(of_arm) / mean_events(of_other)
    return ratios


def geometric_interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios, and its interval of 95 %."""
    found = interval([math.log(ratio) for ratio in ratios])
    half = found.half or 0.0
    return math.exp(found.mean), math.exp(found.mean - half), math.exp(found.mean + half)


def print_ratio(rows: list[dict], arm: tuple, other: tuple) -> None:
    """Print a line with the ratio of two arms: of each clip, and over clips."""
    ratios = ratio_over_clips(rows, arm, other)
    if not ratios:
        return
    mean, low, high = geometric_interval(list(ratios.values()))
    over_clips = f"{mean:.2f}"
    if len(ratios) > 1:  # a single clip says nothing of others
        over_clips += f" ({low:.2f} to {high:.2f})"
    cells = [f"{name_of(arm)} / {name_of(other)}"]
    for clip in clips_of(rows):
        cells.append(f"{ratios[clip]:.2f}" if clip in ratios else "-")
    print_line([*cells, over_clips])


def print_ratios(rows: list[dict]) -> None:
    """Print what each step gains."""
    print_head(["how many times fewer events", *clips_of(rows), "over clips"])
    nothing = ("send-on-delta", None, None)
    for place in PLACES:
        for rung in RUNG_ORDER:
            matching = ("matching", place, rung)
            coupling = ("coupling", place, rung)
            competition = ("competition", place, rung)
            print_ratio(rows, nothing, matching)
            print_ratio(rows, nothing, competition)
            print_ratio(rows, matching, competition)
            print_ratio(rows, coupling, competition)
            print_ratio(rows, competition, ("learned", place, rung))
        first = ("matching", place, RUNG_ORDER[0])
        print_ratio(rows, first, ("matching", place, RUNG_ORDER[-1]))


def print_prices(rows: list[dict]) -> None:
    """Print from which price of an event on an arm pays, in nJ."""
    clips = clips_of(rows)
    print_head(["against send-on-delta, nJ / against matching at the sender, nJ", *clips])
    for arm in arms_in(rows):
        if arm[0] == "send-on-delta":
            continue
        cells = []
        for clip in clips:
            own = arm_rows(rows, clip, arm)
            others = [("send-on-delta", None, None), ("matching", "sender", arm[2])]
            prices = [price_cell(own, arm_rows(rows, clip, other)) for other in others]
            cells.append(" / ".join(prices))
        print_line([name_of(arm), *cells])


def price_cell(rows: list[dict], other_rows: list[dict]) -> str:
    """Return from which price of an event, in nJ, an arm costs less than another."""
    if not rows or not other_rows or rows == other_rows:
        return "-"
    price = price_that_pays(
        joules_of(rows), mean_events(rows), joules_of(other_rows), mean_events(other_rows)
    )
    return "never" if price is None else f"{price * 1e9:.1f}"


def print_inside(rows: list[dict]) -> None:
    """Print millions of additions, and of multiply-adds, and spikes per frame."""
    clips = clips_of(rows)
    print_head(["additions, multiply-adds in millions; spikes", *clips])
    for arm in arms_in(rows):
        cells = []
        for clip in clips:
            own = arm_rows(rows, clip, arm)
            if not own:
                cells.append("-")
                continue
            additions = fmean(row["additions"] for row in own) / 1e6
            products = fmean(row["multiply_adds"] for row in own) / 1e6
            spikes = fmean(row["spikes"] for row in own)
            cells.append(f"{additions:.1f}, {products:.1f}; {spikes:.0f}")
        print_line([name_of(arm), *cells])


# --- equal PSNR


def events_at_psnr(rows: list[dict], psnr: float) -> float | None:
    """Return the events of an arm at a PSNR, between its rows of several epsilons."""
    points = sorted((row["psnr"], math.log(mean_events([row]))) for row in rows)
    for (low, events_low), (high, events_high) in pairwise(points):
        if low <= psnr <= high:
            part = (psnr - low) / (high - low)
            return math.exp(events_low + part * (events_high - events_low))
    return None


def print_equal_psnr(rows: list[dict]) -> None:
    """Print the events at the PSNR that send-on-delta has at epsilon 0.1."""
    clips = clips_of(rows)
    print_head(["events at equal PSNR", *clips])
    aims = {}
    for clip in clips:
        (row,) = rows_with(rows, clip=clip, arm="send-on-delta", epsilon=0.1)
        aims[clip] = row["psnr"]
    print_line(["PSNR, dB", *[f"{aims[clip]:.1f}" for clip in clips]])
    wanted = arms_in(rows_with(rows, part="epsilons"))
    for arm in wanted:
        cells = []
        for clip in clips:
            events = events_at_psnr(arm_rows(rows, clip, arm), aims[clip])
            cells.append("-" if events is None else f"{events:.0f}")
        print_line([name_of(arm), *cells])


def print_summary(rows: list[dict]) -> None:
    """Print all tables."""
    table = rows_with(rows, part="table")
    print("Events per frame at epsilon 0.1 ± 95 % (thousands of bits: entropy, fixed length)")
    print_events(table)
    print_ratios(table)
    print("\nThe main arms")
    print_head(["events per frame", *clips_of(table)])
    print("\n".join(short_table(table)))
    print("\nPrices of an event")
    print_prices(table)
    print("\nComputing per frame")
    print_inside(table)
    epsilons = rows_with(rows, part="epsilons")
    if epsilons:
        print_equal_psnr(table + epsilons)
    robustness = rows_with(rows, part="robustness")
    conditions = dict.fromkeys((row["every"], row["noise"], row["reach"]) for row in robustness)
    for every, noise, reach in conditions:
        print(f"\nEvery {every} frames, noise {noise}, shifts up to {reach}")
        own = rows_with(robustness, every=every, noise=noise, reach=reach)
        print_events(own)
        print_ratios(own if rows_with(own, arm="send-on-delta") else own + table)
    print_details("Chosen on the first halves", rows_with(rows, part="choices"))
    print_details("Traps", rows_with(rows, part="traps"))


def print_details(title: str, rows: list[dict]) -> None:
    """Print what rows say, a line for each key that is no figure of an arm."""
    print(f"\n{title}")
    for row in rows:
        print(row["clip"], row.get("place", ""))
        for key, value in row.items():
            if isinstance(value, dict):
                chosen = [f"{name} {value[name]}" for name in ("price", "coupling", "recruitment")]
                print(f"    {key}: {', '.join(chosen)}")
            elif isinstance(value, float):
                print(f"    {key}: {value:.3g}")
            elif key not in ("part", "clip", "place"):
                print(f"    {key}: {value}")
