"""Every number of README, the findings and the page on motion has its source.

Either a sentence with it is made of results/ here and found on the page, or `NOT_MADE`
says where the number is from.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from statistics import fmean
from typing import NamedTuple

import pytest
from conftest import REPOSITORY

from studies import results
from studies.findings import moving, video_summary
from wfeedback.measuring.comparing import FIGURES, UNCERTAIN, difference, spread, written

FOLDER = REPOSITORY / "results"

# Numbers that belong to a name, or to a word that has nothing to do with results
NO_NUMBERS = re.compile(
    "|".join(
        [
            r"`[^`]*`",
            r"CIFAR-10",
            r"VGG\d",
            r"\b\d+-bit",
            r"\b\d+ bits",
            r"findings? \d+( and \d+)?",
            r"#+ \d+\. ",
            r"\b\d+\. (?=\*\*)",
            r"T = \d+\b",
            r"[Mm]argins?( of)? [\d.]+",
            r"\b95 % intervals?",
        ]
    )
)

# What a page has besides its sentences: blocks, commands, marks, and addresses of links
NOT_SENTENCES = [r"^```.*?^```$", r"^ {4}.*?$", r"<!--.*?-->", r"(?<=\])\([^)]*\)"]

# Page -> what stands there -> where it is from
NOT_MADE = {
    "README.md": {
        "99.99 % of images": (
            "10 of 80,000: explanation/phased.md, studies/findings/phased.py; it needs CIFAR-10"
        ),
        "within 50 timesteps": "a flag of studies.results",
        "about 98.7 % and 3,600 spikes": "reference/zoo.md",
        "ICLR 2020": "a year",
        "Python 3.11 or newer": "pyproject.toml",
        "[C99]": "a standard",
    },
    "docs/explanation/findings.md": {
        "10,000 test images": "MNIST and Fashion-MNIST",
        "takes at most 50 timesteps.": "a flag of studies.results",
        "its 95 % confidence": "a definition",
        "If it contains 0,": "a definition",
        "wider than ± 50 %": "a definition",
        "(Holm, 5 %)": "a definition",
        "to within ± 10 % either": "a definition",
        "four margins, 0.5 to 4.": "flags of studies.results",
        "| ramp, network trained with it | 98.60 ± 0.04 | 3,569 ± 78 |": (
            "at commit c243943: studies/notebook/results.md, section 4"
        ),
        (
            "| decoder, but each image gets another image's prediction "
            "| 98.58 ± 0.06 | 4,407 ± 121 |"
        ): "obj1 with controls.py; the same section",
        "by -2 ± 8 %: equivalent within ± 10 %": "of these seeds",
        "21 ± 8 % more spikes": "of these seeds",
        "rise by only 0.15 per timestep": "recipes/fashion_feedback.toml",
        "s < 2 epsilon": "a condition",
        "first 200 test images.": "a default of the command below it",
        "the two rules differ by 16 images of 10,000.": "of the table above",
        "in steps of 0.1 % that": "a definition",
        "28 % of the non-black pixels": (
            "a trial: studies/notebook/trials.md, where the spikes went"
        ),
        "At most 50 timesteps": "a flag of studies.results",
        "epsilon 0.2, first 1,000 test images": "flags of the command below the table",
        "brightest within 7 x 7, before": "a setting",
        "within 7 x 7 |": "a setting",
        "0: unrelated, 1: the same order": "a definition",
        "not 0 or 1.": "values of spikes",
        "difference is not 0 after": "a definition",
        "| unchanged | 98.9 | 98.7 | 98.9 | 98.8 |": (
            "the command below it: studies/notebook/trials.md, objective 3"
        ),
        "dimmed to 15 %, mean of four halves | 63.9 | 78.7 | 64.2 | 87.7 |": "the same",
        "dimmed to 30 % | 41.2 | 98.7 | 98.8 | 98.8 |": "the same",
        "89.66 ± 0.24 % on CIFAR-10": (
            "studies/notebook/results.md, section 12; results/ have only seed 0"
        ),
    },
    "docs/explanation/motion.md": {
        "each block of 7 x 7 pixels": "block_matching of moving.py",
        "± 95 % interval; 100 scenes of 60 frames": "a definition; flags of moving.py",
        "lies above 2 with one digit": "the plan: studies/notebook/moving.md",
        "where 1 % of the pixels are inverted": "a setting",
        "within 5 frames of a change of digit": "SINCE of moving.py",
        "at 0.9 pJ each": "the convention arithmetic_45nm",
        "costs 1.7 to 40 pJ, and one between chips of a board 22 to 72 pJ": (
            "studies/notebook/moving.md, prices of links"
        ),
        "costs 160 nJ or more": "the same",
        "at most 0.3 points of accuracy": "LOST of moving.py",
        "our limit of 0.3 points": "the same",
        "in 95 % of cases, at epsilon 0.1.": "a definition",
        "Our run of this seed had 13.7 and 57.8.": "the command above it",
        "blocks of 8 x 8 pixels": "Motion.sides",
        "wrong by less than 0.1 of": "EPSILON of video.py",
        "± 95 % interval of the mean over": "a definition",
        "blocks of 4 to 16 pixels": "RUNGS of studies/link/arms.py",
        "CC BY 4.0": "a licence",
        "at 160 nJ or more": "studies/notebook/moving.md, prices of links",
        "win by 2 to 15 %": "a trial outside of the repository: studies/notebook/video.md",
    },
}

FEEDBACK = [
    "quick feedback",
    "accurate feedback",
    "fast feedback",
    "tiny feedback",
    "feedback",
    "residual feedback",
    "Fashion feedback",
]
SIMULATORS = ("snntorch", "spikingjelly", "norse", "sinabs")
RANKS = ("rank_correlation", "rank_correlation_per_ink")
STAR = " \\*"  # behind a difference that is left after correction
# How networks stop: after all timesteps, or early
NEVER = "none"
MARGIN = "confidence 1"
ENTROPY = "entropy 0.3"

Sentences = Iterator[str]


# --- reading results/


@cache
def records(name):
    """Read a file of results: one value of JSON, or one on each line."""
    text = (FOLDER / name).read_text()
    if name.endswith(".json"):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines()]


def runs_of(name, stop=NEVER, steps=50):
    """Find the rows of a network that ran so, by seed; one with a decoder blocks."""
    runs = {}
    for row in records("results.json"):
        if row["feedback"] and not row["blocking"]:
            continue
        has_stop = (results.stop_of(row) or NEVER) == stop
        if row["name"] == name and row["timesteps"] == steps and has_stop:
            runs[row["seed"]] = row
    return runs


def mean(by_seed, name):
    """Average a figure over the seeds."""
    return fmean(row[name] for row in by_seed.values())


def cells(by_seed, *names):
    """Write the cells of a row: figures of all seeds."""
    return " | ".join(spread(name, by_seed).text(FIGURES[name].form) for name in names)


def rows_of_table(lines):
    """Split the rows of a table in Markdown into cells, without those of its titles."""
    rows = []
    for line in lines:
        if line.startswith("| "):
            rows.append([cell.strip() for cell in line.split("|")[1:-1]])
    return rows[2:]


class Comparison(NamedTuple):
    """How a network differs from its baseline, as tables say it."""

    accuracy: str
    spikes: str
    layers: str  # energy, layer by layer
    events: str  # energy, event-driven


TITLES = Comparison(
    "accuracy, %", "spikes, all parts", "energy layer by layer", "energy event-driven"
)


@cache
def comparisons():
    """Compare each network with its baseline; the keys are (network, T, stop)."""
    shown = [row for row in records("results.json") if results.is_shown(row)]
    lines = list(results.pairs_table(shown))
    corrected = {}  # how a network was run -> titles of what is left after correction
    for line in lines:
        if line.startswith("- "):
            run, titles = line.removeprefix("- ").split(": ")
            corrected[run] = titles.split("; ")

    found = {}
    for _, name, _, steps, stop, *texts in rows_of_table(lines):
        run = f"{name}, T = {steps}"
        if stop:
            run += f", {stop}"
        marked = []
        for text, title in zip(texts, TITLES, strict=True):
            is_left = title in corrected.get(run, [])
            marked.append(text + STAR if is_left else text)
        found[name, int(steps), stop or NEVER] = Comparison(*marked)
    return found


def trained_timesteps(name):
    """Return the T that a network was trained with; it is compared there and at 50."""
    (steps,) = (steps for network, steps, _ in comparisons() if network == name and steps != 50)
    return steps


class EqualAccuracy(NamedTuple):
    """How a network and its baseline differ where they are equally good, or as busy."""

    pairs: str
    accuracy: str  # at equal spikes
    level: str  # the accuracy in % at which spikes are counted
    ours: str
    baseline: str
    spikes: str  # at that accuracy


def lines_at_equal_accuracy():
    """Write a table of `EqualAccuracy`, and a line on what is left after correction."""
    return list(results.equal_table(records("results.json")))


def saved_at_50():
    """Say what share of the spikes blocking saves at 50 timesteps."""
    shares = []
    for name in FEEDBACK:
        change = difference("spikes", runs_of(name), runs_of(f"baseline of {name}"))
        shares.append(change.mean)
    return f"saves {-max(shares):.0f} to {-min(shares):.0f} %"


# --- README


def results_in_readme() -> Sentences:
    """Say what networks save."""
    yield from results.short_table(FOLDER)
    yield f"blocking {saved_at_50()} of the baseline's spikes"
    trained = [trained_timesteps(name) for name in FEEDBACK]
    yield f"the T of training, {min(trained)} to {max(trained)}, no saving is"
    late = comparisons()[FEEDBACK[0], 50, NEVER].spikes.removesuffix(STAR)
    early = comparisons()[FEEDBACK[0], 50, MARGIN].spikes.removesuffix(STAR)
    yield f"by {late} at T = 50 and {early} with early exit (95 % intervals, paired"


def speed_range(network):
    """Find how much faster ours is than the best other simulator: least and most."""
    ratios = []
    for row in records("inference_peers.jsonl"):
        if row["network"] == network:
            best_peer = max(row[simulator] for simulator in SIMULATORS)
            ratios.append(row["ours_event"] / best_peer)
    return round(min(ratios)), round(max(ratios))


def kernel_speed_range(batch):
    """Find how much faster the kernel runs NIR graphs than the best other simulator."""
    speeds = {}  # network -> simulator -> recordings per second
    for row in records("nir_peers.jsonl"):
        if row["batch"] == batch:
            by_simulator = speeds.setdefault(row["network"], {})
            by_simulator[row["simulator"]] = row.get("recordings_per_second", 0)
    ratios = []
    for by_simulator in speeds.values():
        kernel = by_simulator.pop("kernel")
        ratios.append(kernel / max(by_simulator.values()))
    return min(ratios), max(ratios)


def speeds_in_readme() -> Sentences:
    """Say how fast networks run, in comparison with other simulators."""
    least, most = speed_range("baseline")
    yield f"[{least} to {most} times]"
    least, most = speed_range("blocking")
    yield f"; {least} to {most} with blocking"
    least, most = kernel_speed_range(batch=1)
    yield f"at batch 1, {least:.0f} to {most:.0f} times as fast as the best other simulator"
    least, most = kernel_speed_range(batch=64)
    yield f"at batch 64, {least:.2g} to {most:.2g} times"


def motion_in_readme() -> Sentences:
    """Say what a prediction of motion saves."""
    two = moving.by_kind(records("moving.jsonl"))["two"]
    yield f"sends {fewer_events(two, '.1f')} (95 % interval) times fewer events"
    yield f"costs more than about {mean_price(two):.0f} nJ"


# --- the findings


def corrections_in_findings() -> Sentences:
    """Say how many intervals are corrected for."""
    intervals = 0
    for comparison in comparisons().values():
        intervals += sum("±" in text or text == UNCERTAIN for text in comparison)
    yield f"correction for [{intervals} comparisons"
    # "Corrected for 8 comparisons (Holm, 5 %), different from 0: ..."
    *_, last = lines_at_equal_accuracy()
    yield f"Of the {last.split()[2]} intervals"


def decoder_in_findings() -> Sentences:
    """Say what the decoder saves."""
    yield f"blocking {saved_at_50()} of the spikes"
    runs = runs_of(FEEDBACK[0], steps=6)
    first_seeds = {seed: row for seed, row in runs.items() if seed < 3}
    yield f"| decoder | {cells(first_seeds, 'accuracy', 'spikes')} |"


def networks_in_findings() -> Sentences:
    """Write the rows of both tables of all networks."""
    lines = lines_at_equal_accuracy()
    equal = {name: EqualAccuracy(*texts) for name, *texts in rows_of_table(lines)}
    _, corrected = lines[-1].rstrip(".").split(": ")

    for name in FEEDBACK:
        row = equal[name]
        accuracy = row.accuracy
        if f"{name}, accuracy at equal spikes" in corrected.split("; "):
            accuracy += STAR
        early = comparisons()[name, 50, MARGIN]
        yield (
            f"| {name}, {row.pairs} | {accuracy} | {row.spikes} | {row.level} "
            f"| {early.accuracy} | {early.spikes} | {early.layers} |"
        )

        trained = trained_timesteps(name)
        short = comparisons()[name, trained, NEVER]
        long = comparisons()[name, 50, NEVER]
        yield f"| {name}, {row.pairs} | {trained}, as trained | {row_without_stop(short)}"
        yield f"| | 50 | {row_without_stop(long)}"


def row_without_stop(comparison):
    """Write the cells of a network without early exit."""
    return (
        f"{comparison.accuracy} | {comparison.spikes} "
        f"| {comparison.events} | {comparison.layers} |"
    )


def fashion_in_findings() -> Sentences:
    """Say what the network of Fashion-MNIST saves."""
    late = comparisons()["Fashion feedback", 50, NEVER]
    spikes = late.spikes.removeprefix("-")
    accuracy = late.accuracy.removeprefix("-")
    yield f"saves no spikes. At T = 50 it saves {spikes} and loses {accuracy} points of accuracy"


def closed_inputs_in_findings() -> Sentences:
    """Say how many pixels are open at the end."""
    open_shares = []
    for seed in ("", "_1", "_2", "_3", "_4"):
        *_, late = records(f"quick_feedback{seed}_stop.json")
        assert late["rule"] == NEVER
        open_shares.append(late["open_share"][-1])
    assert fmean(open_shares) < 1e-5
    yield "after 50 timesteps. With all three, less than one in 100,000 is"


STOPS = {  # of finding 6: how a network stops -> cells that say it
    NEVER: "none | |",
    MARGIN: "margin, at least | 1 |",
    "confidence 2": "margin, at least | 2 |",
    ENTROPY: "entropy, at most | 0.3 |",
}
STOPPED = {  # network -> how it stops, in the order of the table
    FEEDBACK[0]: (NEVER, MARGIN, ENTROPY),
    "baseline of fast feedback": ("confidence 2", ENTROPY),
    "baseline of Fashion feedback": (MARGIN, ENTROPY),
}


def stopping_in_findings() -> Sentences:
    """Write the rows of the rules by which networks stop, and compare two rules."""
    for name, stops in STOPPED.items():
        label = f"{name}, {len(runs_of(name, stops[0]))} "  # in the network's first row
        for stop in stops:
            runs = runs_of(name, stop)
            steps = mean(runs, "mean_steps")
            yield f"| {label}| {STOPS[stop]} {cells(runs, 'accuracy', 'spikes')} | {steps:.1f} |"
            label = ""
    margin = spread("spikes", runs_of(FEEDBACK[0], MARGIN)).mean
    entropy = spread("spikes", runs_of(FEEDBACK[0], ENTROPY)).mean
    yield f"of the outputs needs {100 * (entropy / margin - 1):.0f} % more spikes"


def ranks_in_findings() -> Sentences:
    """Say how well first spikes tell an order of brightness."""
    for name in ("quick feedback", "accurate feedback", "fast feedback", "Fashion feedback"):
        ours = runs_of(name, MARGIN)
        baseline = runs_of(f"baseline of {name}", MARGIN)
        ranks = []
        for runs in (ours, baseline):
            ranks += [f"{mean(runs, rank):.2f}" for rank in RANKS]
        yield f"| {name}, {len(ours)} | {' | '.join(ranks)} |"

    pairs = 0
    for name in FEEDBACK:
        baseline = runs_of(f"baseline of {name}", MARGIN)
        for seed, row in runs_of(name, MARGIN).items():
            assert row[RANKS[1]] > baseline[seed][RANKS[1]]
            pairs += 1
    yield f"in all {pairs} pairs"
    yield f"a correlation of {mean(runs_of(FEEDBACK[0]), RANKS[0]):.2f}."


def deep_network_in_findings() -> Sentences:
    """Say how long the deep network takes."""
    (deep,) = (row for row in records("results.json") if row["name"] == "CIFAR-10, deep, phased")
    yield f"T is {deep['timesteps']} and the latency {deep['mean_steps']:.0f} timesteps"


def motion_in_findings() -> Sentences:
    """Say what a prediction of motion saves."""
    black_and_white, in_grey = motion_columns(0.0)
    yield f"our predictor sends {fewer_events(black_and_white['two'])} times fewer"
    yield f"with one {fewer_events(black_and_white['one'])} times"
    price = mean_price(black_and_white["two"])
    price_in_grey = mean_price(in_grey["two"])
    yield f"costs more than about {price:.0f} nJ ({price_in_grey:.1f} in grey)"


def streams_in_findings() -> Sentences:
    """Say how networks do in streams; the names of the scenes stand before the rows."""
    runs = {}  # (scene, case) -> seed -> row
    for row in records("streams.jsonl"):
        if "case" in row:
            runs.setdefault((row["scene"], row["case"]), {})[row["seed"]] = row
    scenes = list(dict.fromkeys(scene for scene, _ in runs))

    for scene in scenes:
        for case in ("baseline", "detector"):
            ours = runs[scene, "feedback"]
            theirs = runs[scene, case]
            accuracy = difference("accuracy", ours, theirs)
            spikes = difference("spikes", ours, theirs).text(FIGURES["spikes"])
            energy = difference("energy_joules", ours, theirs).text(FIGURES["spikes"])
            points = f"{written(accuracy.mean, '+.1f')} ± {written(accuracy.half, '.1f')}"
            yield f"| {points} | {spikes} | {energy} |"

    on_time = {}
    for case in ("feedback", "baseline", "detector"):
        on_time[case] = f"{100 * mean(runs['switch', case], 'within_6'):.1f} %"
    yield (
        f"by the 6th timestep and kept after {on_time['feedback']} of the changes with blocking, "
        f"{on_time['baseline']} always on, {on_time['detector']} with the"
    )

    fewer = []
    for scene in scenes:
        fewer.append(difference("spikes", runs[scene, "ramp"], runs[scene, "feedback"]).mean)
    yield f"A ramp needs {-max(fewer):.0f} to {-min(fewer):.0f} % fewer spikes"
    yield f"on {runs['switch', 'ramp'][0]['streams']} streams"


# --- the page on motion


def motion_columns(noise):
    """Find rows by kind of scene: in black and white, and in grey at equal accuracy."""
    black_and_white = moving.by_kind(records("moving.jsonl"), noise)
    in_grey = moving.at_equal_accuracy(moving.by_kind(records("moving_grey.jsonl"), noise))
    return black_and_white, in_grey


def fewer_events(rows, form=".2f"):
    """Say how many times fewer events ours sends than send-on-delta."""
    ratios = [row["events"]["send-on-delta"][0] / row["events"]["ours"][0] for row in rows]
    return moving.in_words(ratios, form)


def mean_price(rows):
    """Average the price of an event from which on ours pays, in nJ."""
    return fmean(moving.price(row) for row in rows)


def prices(rows):
    """Say the price of an event from which on ours pays, in nJ."""
    return moving.in_words([moving.price(row) for row in rows], ".2f")


def events_sent(rows, arm, part, form):
    """Say how many events an arm sends: in all (0), after changes (1), or else (2)."""
    return moving.in_words([row["events"][arm][part] for row in rows], form)


def points_lost_in_grey():
    """Say what ours loses with two digits, at an epsilon of 0.1."""
    two = moving.by_kind(records("moving_grey.jsonl"))["two"]
    points = [row["points_lost"] for row in moving.curve(two, "ours")[0.1]]
    return moving.in_words(points, ".2f")


def range_of_a_sixth_seed(kind):
    """Say how many events 95 % of further seeds send, in grey at an epsilon of 0.1."""
    rows = moving.by_kind(records("moving_grey.jsonl"))[kind]
    curve = moving.curve(rows, "ours")[0.1]
    sent = moving.interval([row["events"][0] for row in curve])
    # Of a mean of 5, half the interval is t * s / sqrt 5; of a sixth value it is
    # t * s * sqrt(1 + 1 / 5), which is sqrt 6 times as much.
    return f"{sent.mean:.1f} ± {6**0.5 * sent.half:.1f}"


def black_and_white_on_page() -> Sentences:
    """Say what the page on motion says of scenes in black and white."""
    black_and_white, _ = motion_columns(0.0)
    two = black_and_white["two"]
    rows = {line.split("|")[1].strip(): line for line in moving.summary(black_and_white)}
    yield rows["send-on-delta"]
    yield rows["best shift"]
    yield rows["block matching"]
    yield rows["ours"]
    yield rows["send-on-delta divided by ours"]
    yield f"sends {fewer_events(two)} times fewer events than one"
    yield f"costs more than about {mean_price(two):.0f} nJ"
    yield f"Up to about {mean_price(two):.0f} nJ per event"

    noisy, _ = motion_columns(0.01)
    yield f"the factor for two digits is {fewer_events(noisy['two'])}"
    for arm in ("float network", "trained from a random start"):
        yield f"sends {events_sent(two, arm, 0, '.1f')}"
    yield f"ours sends {events_sent(two, 'ours', 1, '.1f')} events"
    yield f"and {events_sent(two, 'ours', 2, '.1f')} in other frames"
    yield (
        f"with one digit {prices(black_and_white['one'])} nJ, with two {prices(two)}. "
        f"With rotation it is {prices(black_and_white['turn'])}, "
        f"behind a bar {prices(black_and_white['bar'])}"
    )


def grey_on_page() -> Sentences:
    """Say what the page on motion says of scenes in grey."""
    _, in_grey = motion_columns(0.0)
    yield f"ours sends {fewer_events(in_grey['one'])} times fewer events"
    yield f"and {fewer_events(in_grey['two'])} times with two"
    yield f"An event must now cost {prices(in_grey['two'])} nJ (two digits)"
    yield f"({points_lost_in_grey()})"
    one = range_of_a_sixth_seed("one")
    two = range_of_a_sixth_seed("two")
    yield f"should be {one} (`one`) and {two} (`two`)"


def test_the_notebook_has_every_row_of_motion():
    page = (REPOSITORY / "studies/notebook/moving.md").read_text(encoding="utf-8")
    rows = records("moving.jsonl")

    assert {(row["scenes"], row["seed"]) for row in rows} == {(100, seed) for seed in range(5)}
    for noise in (0.0, 0.01):
        for columns in motion_columns(noise):
            assert "\n".join(moving.summary(columns)) in page
    sentence = f"ours loses {points_lost_in_grey()} points at an epsilon of 0.1"
    assert sentence in " ".join(page.split())


# --- films


def films():
    """Return the rows of the table of films."""
    return video_summary.rows_with(records("video.jsonl"), part="table")


def film_ratios(arm, other):
    """Return for each film how many times the events of an arm are those of another."""
    return list(video_summary.ratio_over_clips(films(), arm, other).values())


def film_range(arm, form):
    """Say how many times fewer events an arm sends than send-on-delta does."""
    ratios = film_ratios(("send-on-delta", None, None), arm)
    return f"{min(ratios):{form}} to {max(ratios):{form}} times"


def over_films(arm, other, before=""):
    """Say a ratio over films, with its interval in brackets."""
    ratio, low, high = video_summary.geometric_interval(film_ratios(arm, other))
    return f"{ratio:.2f}{before} ({low:.2f} to {high:.2f}"


def film_prices(place):
    """Say from which prices of an event on block matching pays, in nJ."""
    prices = []
    for clip in video_summary.clips_of(films()):
        own = video_summary.arm_rows(films(), clip, ("matching", place, "held"))
        other = video_summary.arm_rows(films(), clip, ("send-on-delta", None, None))
        prices.append(float(video_summary.price_cell(own, other)))
    return prices


def films_in_readme() -> Sentences:
    """Say what README says of films."""
    yield f"needs {film_range(('matching', 'receiver', 'held'), '.1f')} fewer events"
    yield f"and {film_range(('matching', 'sender', 'held'), '.1f')} fewer if the sensor"


def films_on_page() -> Sentences:
    """Say what the page on motion says of films."""
    yield from video_summary.short_table(films())
    yield f"sends {film_range(('matching', 'receiver', 'held'), '.2f')} fewer events than"
    yield f"sends {film_range(('matching', 'sender', 'held'), '.2f')} fewer, also"
    yield f"as in a codec {film_range(('matching', 'sender', 'half pixels'), '.2f')}."
    places = {}
    for place in ("receiver", "sender"):
        places[place] = (("matching", place, "held"), ("competition", place, "held"))
    yield f"the ratio is {over_films(*places['sender'])}, 95 % over the five films)"
    yield f"At the receiver it is {over_films(*places['receiver'])})"
    without_race = (("coupling", "receiver", "held"), ("competition", "receiver", "held"))
    ratio = over_films(*without_race, before=" times as many events")
    yield f"the receiver sends {ratio})"
    first = ("matching", "sender", "blocks of 8")
    last = ("matching", "sender", "half pixels")
    yield f"bring {over_films(first, last, before=' times fewer events')})"
    at_sender = film_prices("sender")
    at_receiver = film_prices("receiver")
    yield (
        f"is {min(at_sender):.1f} to {max(at_sender):.1f} nJ at the sender, "
        f"and {min(at_receiver):.1f} to {max(at_receiver):.1f} nJ at the receiver"
    )
    assert max(at_sender) < 160
    assert sum(price < 160 for price in at_receiver) == 4
    nothing = ("send-on-delta", None, None)
    yield f"is so wide: {over_films(nothing, ('matching', 'receiver', 'held'))})"


@pytest.mark.parametrize(
    "print_table",
    [
        video_summary.print_events,
        video_summary.print_ratios,
        video_summary.print_prices,
        video_summary.print_inside,
    ],
)
def test_the_notebook_has_every_table_of_films(print_table, capsys):
    page = (REPOSITORY / "studies/notebook/video.md").read_text(encoding="utf-8")

    print_table(films())

    assert capsys.readouterr().out.strip() in page


def sentences_on(page):
    """Read the words of a page, in one line."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    text = text.replace("\u2212", "-").replace("\u00d7", "x")
    for pattern in NOT_SENTENCES:
        text = re.sub(pattern, "", text, flags=re.MULTILINE | re.DOTALL)
    return " ".join(text.split())


# Page -> what makes its sentences. The order matters where two of them are alike.
PAGES = {
    "README.md": [results_in_readme, speeds_in_readme, motion_in_readme, films_in_readme],
    "docs/explanation/findings.md": [
        corrections_in_findings,
        decoder_in_findings,
        networks_in_findings,
        fashion_in_findings,
        closed_inputs_in_findings,
        stopping_in_findings,
        ranks_in_findings,
        deep_network_in_findings,
        motion_in_findings,
        streams_in_findings,
    ],
    "docs/explanation/motion.md": [black_and_white_on_page, grey_on_page, films_on_page],
}


@pytest.mark.parametrize("page", PAGES)
def test_every_number_is_made_of_results_or_named(page):
    text = sentences_on(page)
    sentences = []
    for make in PAGES[page]:
        sentences += make()

    for sentence in [*sentences, *NOT_MADE[page]]:
        assert sentence in text, sentence
        text = text.replace(sentence, " | ", 1)

    assert re.findall(r".{0,30}\d.{0,30}", NO_NUMBERS.sub("", text)) == []
