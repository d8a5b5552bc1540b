"""Every number of README, the findings and the page on motion: made anew of results/, or named in NOT_MADE with where it is from."""

import json
import re
from functools import cache
from itertools import chain, product
from statistics import fmean

import pytest
from conftest import REPOSITORY

import results
from benchmarks.findings import moving
from harness.measuring.comparing import FIGURES, UNCERTAIN, difference, spread, written

FOLDER = REPOSITORY / "results"
NO_NUMBERS = re.compile(
    r"`[^`]*`|CIFAR-10|VGG\d|\b\d+-bit|\b\d+ bits|findings? \d+( and \d+)?|#+ \d+\. |\b\d+\. (?=\*\*)|T = \d+\b"
    r"|[Mm]argins?( of)? [\d.]+|\b95 % intervals?"
)
NOT_MADE = {  # page -> what stands there -> where it is from
    "README.md": {
        "99.99 % of images": "10 of 80,000: explanation/phased.md, benchmarks/findings/phased.py; it needs CIFAR-10",
        "within 50 timesteps": "a flag of results.py",
        "about 98.7 % and 3,600 spikes": "reference/zoo.md",
        "ICLR 2020": "a year",
        "Python 3.11 or newer": "pyproject.toml",
        "[C99]": "a standard",
    },
    "docs/explanation/findings.md": {
        "10,000 test images": "MNIST and Fashion-MNIST",
        "takes at most 50 timesteps.": "a flag of results.py",
        "its 95 % confidence": "a definition",
        "If it contains 0,": "a definition",
        "wider than ± 50 %": "a definition",
        "(Holm, 5 %)": "a definition",
        "to within ± 10 % either": "a definition",
        "four margins, 0.5 to 4.": "flags of results.py",
        "| ramp, network trained with it | 98.60 ± 0.04 | 3,569 ± 78 |": "at commit c243943: notebook/results.md, section 4",
        "| decoder, but each image gets another image's prediction | 98.58 ± 0.06 | 4,407 ± 121 |": "obj1 with controls.py; the same section",
        "by -2 ± 8 %: equivalent within ± 10 %": "of these seeds",
        "21 ± 8 % more spikes": "of these seeds",
        "rise by only 0.15 per timestep": "recipes/fashion_feedback.toml",
        "s < 2 epsilon": "a condition",
        "first 200 test images.": "a default of the command below it",
        "the two rules differ by 16 images of 10,000.": "of the table above",
        "in steps of 0.1 % that": "a definition",
        "28 % of the non-black pixels": "a trial: notebook/trials.md, where the spikes went",
        "At most 50 timesteps": "a flag of results.py",
        "epsilon 0.2, first 1,000 test images": "flags of the command below the table",
        "brightest within 7 x 7, before": "a setting",
        "within 7 x 7 |": "a setting",
        "0: unrelated, 1: the same order": "a definition",
        "not 0 or 1.": "values of spikes",
        "difference is not 0 after": "a definition",
        "| unchanged | 98.9 | 98.7 | 98.9 | 98.8 |": "the command below it: notebook/trials.md, objective 3",
        "dimmed to 15 %, mean of four halves | 63.9 | 78.7 | 64.2 | 87.7 |": "the same",
        "dimmed to 30 % | 41.2 | 98.7 | 98.8 | 98.8 |": "the same",
        "89.66 ± 0.24 % on CIFAR-10": "notebook/results.md, section 12; results/ have seed 0 alone",
    },
    "docs/explanation/motion.md": {
        "each block of 7 x 7 pixels": "block_matching of moving.py",
        "± 95 % interval; 100 scenes of 60 frames": "a definition; flags of moving.py",
        "lies above 2 with one digit": "the plan: notebook/moving.md",
        "where 1 % of the pixels are inverted": "a setting",
        "within 5 frames of a change of digit": "SINCE of moving.py",
        "at 0.9 pJ each": "the convention arithmetic_45nm",
        "costs 1.7 to 40 pJ, and one between chips of a board 22 to 72 pJ": "notebook/moving.md, prices of links",
        "costs 160 nJ or more": "the same",
        "at most 0.3 points of accuracy": "LOST of moving.py",
        "our limit of 0.3 points": "the same",
        "in 95 % of cases, at epsilon 0.1.": "a definition",
        "Our run of this seed had 13.7 and 57.8.": "the command above it",
    },
}
FEEDBACK = [
    f"{family} feedback".strip()
    for family in ("quick", "accurate", "fast", "tiny", "", "residual", "Fashion")
]
BASELINE = f"baseline of {FEEDBACK[0]}"
RANKS, STAR, ALL, MARGIN = (
    ("rank_correlation", "rank_correlation_per_ink"),
    " \\*",
    "none",
    "confidence 1",
)
RULES = {
    "none": "none | |",
    "confidence": "margin, at least | {:g} |",
    "entropy": "entropy, at most | {:g} |",
}
STOPPED = {  # in finding 6
    FEEDBACK[0]: (ALL, MARGIN, "entropy 0.3"),
    "baseline of fast feedback": ("confidence 2", "entropy 0.3"),
    "baseline of Fashion feedback": (MARGIN, "entropy 0.3"),
}


@cache
def records(name):
    path = FOLDER / name
    return (
        json.loads(path.read_text())
        if path.suffix == ".json"
        else [*map(json.loads, path.read_text().splitlines())]
    )


def of_runs(name, stop=ALL, steps=50):
    """seed -> row of results.json, of a network run in this way; with blocking where it has a decoder."""
    found = [
        row for row in records("results.json") if (row["name"], row["timesteps"]) == (name, steps)
    ]
    return {
        row["seed"]: row
        for row in found
        if (results.stop_of(row) or ALL) == stop and row["blocking"] >= row["feedback"]
    }


def mean(by_seed, name):
    return fmean(row[name] for row in by_seed.values())


def cells(by_seed, *names):
    return " | ".join(spread(name, by_seed).text(FIGURES[name].form) for name in names)


def table(lines):
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")
    ]


@cache
def compared():
    """(network, T, stop) -> cells: accuracy, spikes, energy layer by layer, event-driven, with a star where they are left after
    correction."""
    lines = [*results.pairs_table(filter(results.is_shown, records("results.json")))]
    left, found = dict(line[2:].split(": ") for line in lines if line.startswith("- ")), {}
    for _, name, _, steps, stop, *texts in table(lines)[2:]:
        titles = left.get(f"{name}, T = {steps}" + f", {stop}" * bool(stop), "").split("; ")
        among = (
            "accuracy, %",
            "spikes, all parts",
            "energy layer by layer",
            "energy event-driven",
        )
        found[name, int(steps), stop or ALL] = [
            text + STAR * (title in titles) for text, title in zip(texts, among, strict=True)
        ]
    return found


def saved_at_50():
    shares = [
        difference("spikes", of_runs(name), of_runs(f"baseline of {name}")).mean
        for name in FEEDBACK
    ]
    return f"saves {-max(shares):.0f} to {-min(shares):.0f} %"


def of_readme():
    """What README says."""
    yield from (
        *results.short_table(FOLDER),
        f"blocking {saved_at_50()} of the baseline's spikes",
    )
    trained = [steps for _, steps, _ in compared() if steps != 50]
    yield f"the T of training, {min(trained)} to {max(trained)}, no saving is"
    late, early = (
        compared()[FEEDBACK[0], 50, stop][1].removesuffix(STAR) for stop in (ALL, MARGIN)
    )
    yield f"by {late} at T = 50 and {early} with early exit (95 % intervals, paired"
    for network, text in (
        ("baseline", "[{} to {} times]"),
        ("blocking", "; {} to {} with blocking"),
    ):
        rows = [row for row in records("inference_peers.jsonl") if row["network"] == network]
        ratios = [
            row["ours_event"]
            / max(row[name] for name in ("snntorch", "spikingjelly", "norse", "sinabs"))
            for row in rows
        ]
        yield text.format(round(min(ratios)), round(max(ratios)))
    for batch, text, form in (
        (1, "at batch 1, {} to {} times as fast as the best other simulator", ".0f"),
        (64, "at batch 64, {} to {} times", ".2g"),
    ):
        speeds = {}
        for row in records("nir_peers.jsonl"):
            if row["batch"] == batch:
                speeds.setdefault(row["network"], {})[row["simulator"]] = row.get(
                    "recordings_per_second", 0
                )
        ratios = [each.pop("kernel") / max(each.values()) for each in speeds.values()]
        yield text.format(f"{min(ratios):{form}}", f"{max(ratios):{form}}")
    two = moving.by_kind(records("moving.jsonl"))["two"]
    ratios = [row["events"]["send-on-delta"][0] / row["events"]["ours"][0] for row in two]
    yield f"sends {moving.in_words(ratios, '.1f')} (95 % interval) times fewer events"
    yield f"costs more than about {fmean(map(moving.price, two)):.0f} nJ"


def of_findings():
    """What the findings say."""
    lines = [*results.equal_table(records("results.json"))]
    equal, left = {name: row for name, *row in table(lines)}, lines[-1].rstrip(".").split(": ")
    intervals = [
        text for row in compared().values() for text in row if "±" in text or text == UNCERTAIN
    ]
    yield from (
        f"correction for [{len(intervals)} comparisons",
        f"Of the {left[0].split()[2]} intervals",
    )
    three = {seed: row for seed, row in of_runs(FEEDBACK[0], steps=6).items() if seed < 3}
    yield from (
        f"blocking {saved_at_50()} of the spikes",
        f"| decoder | {cells(three, 'accuracy', 'spikes')} |",
    )
    for name in FEEDBACK:
        pairs, accuracy, level, _, _, spikes = equal[name]
        star = STAR * (f"{name}, accuracy at equal spikes" in left[1].split("; "))
        yield f"| {name}, {pairs} | {accuracy}{star} | {spikes} | {level} | {' | '.join(compared()[name, 50, MARGIN][:3])} |"
        (trained,) = (steps for network, steps, _ in compared() if network == name and steps != 50)
        for steps, said in (
            (trained, f"| {name}, {pairs} | {trained}, as trained |"),
            (50, "| | 50 |"),
        ):
            accuracy, spikes, layers, events = compared()[name, steps, ALL]
            yield f"{said} {accuracy} | {spikes} | {events} | {layers} |"
    accuracy, spikes, *_ = compared()["Fashion feedback", 50, ALL]
    yield f"saves no spikes. At T = 50 it saves {spikes[1:]} and loses {accuracy[1:]} points of accuracy"
    last = [
        records(f"quick_feedback{seed}_stop.json")[-1] for seed in ("", "_1", "_2", "_3", "_4")
    ]
    assert fmean(record["open_share"][-1] for record in last) < 1e-5 and {
        record["rule"] for record in last
    } == {ALL}
    yield "after 50 timesteps. With all three, less than one in 100,000 is"
    for name, stops in STOPPED.items():
        for stop, runs in ((stop, of_runs(name, stop)) for stop in stops):
            rule, *bounds = stop.split()
            label = f"{name}, {len(runs)} " if stop == stops[0] else ""
            run = RULES[rule].format(*map(float, bounds))
            yield f"| {label}| {run} {cells(runs, 'accuracy', 'spikes')} | {mean(runs, 'mean_steps'):.1f} |"
    margin, entropy = (
        spread("spikes", of_runs(FEEDBACK[0], stop)).mean for stop in STOPPED[FEEDBACK[0]][1:]
    )
    yield f"of the outputs needs {100 * (entropy / margin - 1):.0f} % more spikes"
    pairs = {
        name: [of_runs(one, MARGIN) for one in (name, f"baseline of {name}")] for name in FEEDBACK
    }
    for name in (*FEEDBACK[:3], FEEDBACK[-1]):
        ranks = [f"{mean(runs, rank):.2f}" for runs in pairs[name] for rank in RANKS]
        yield f"| {name}, {len(pairs[name][0])} | {' | '.join(ranks)} |"
    higher = [
        row[RANKS[1]] > theirs[seed][RANKS[1]]
        for ours, theirs in pairs.values()
        for seed, row in ours.items()
    ]
    yield f"in all {sum(higher) if all(higher) else 'but'} pairs"
    yield f"a correlation of {mean(of_runs(FEEDBACK[0]), RANKS[0]):.2f}."
    (deep,) = (row for row in records("results.json") if row["name"] == "CIFAR-10, deep, phased")
    yield f"T is {deep['timesteps']} and the latency {deep['mean_steps']:.0f} timesteps"
    black_and_white, in_grey = motion_columns(0.0)
    yield f"our predictor sends {fewer_events(black_and_white['two'])} times fewer"
    yield f"with one {fewer_events(black_and_white['one'])} times"
    prices = [fmean(map(moving.price, of["two"])) for of in (black_and_white, in_grey)]
    yield "costs more than about {:.0f} nJ ({:.1f} in grey)".format(*prices)


def of_streams():
    """What finding 9 says, after the names of its scenes."""
    runs = {}
    for row in (row for row in records("streams.jsonl") if "case" in row):
        runs.setdefault((row["scene"], row["case"]), {})[row["seed"]] = row
    scenes = list(dict.fromkeys(scene for scene, _ in runs))
    for scene, case in product(scenes, ("baseline", "detector")):
        names = ("accuracy", "spikes", "energy_joules")
        first, *found = (
            difference(name, runs[scene, "feedback"], runs[scene, case]) for name in names
        )
        texts = [
            f"{written(first.mean, '+.1f')} ± {written(first.half, '.1f')}",
            *(one.text(FIGURES["spikes"]) for one in found),
        ]
        yield f"| {' | '.join(texts)} |"
    on_time = [
        f"{100 * mean(runs['switch', case], 'within_6'):.1f} %"
        for case in ("feedback", "baseline", "detector")
    ]
    yield "by the 6th timestep and kept after {} of the changes with blocking, {} always on, {} with the".format(
        *on_time
    )
    fewer = [
        difference("spikes", runs[scene, "ramp"], runs[scene, "feedback"]).mean for scene in scenes
    ]
    yield f"A ramp needs {-max(fewer):.0f} to {-min(fewer):.0f} % fewer spikes"
    yield f"on {runs['switch', 'ramp'][0]['streams']} streams"


def motion_columns(noise):
    """Kind of scene -> rows with this noise: in black and white, and in grey at equal accuracy."""
    black_and_white = moving.by_kind(records("moving.jsonl"), noise)
    in_grey = moving.at_equal_accuracy(moving.by_kind(records("moving_grey.jsonl"), noise))
    return black_and_white, in_grey


def fewer_events(rows):
    """How many times fewer events ours sends than send-on-delta."""
    ratios = [row["events"]["send-on-delta"][0] / row["events"]["ours"][0] for row in rows]
    return moving.in_words(ratios, ".2f")


def points_lost_in_grey():
    """By ours, with two digits, at an epsilon of 0.1."""
    two = moving.by_kind(records("moving_grey.jsonl"))["two"]
    return moving.in_words([row["points_lost"] for row in moving.curve(two, "ours")[0.1]], ".2f")


ROWS_OF_MOTION = (
    "send-on-delta",
    "best shift",
    "block matching",
    "ours",
    "send-on-delta divided by ours",
)


def of_motion():
    """What the page on motion says."""
    black_and_white, in_grey = motion_columns(0.0)
    noisy, _ = motion_columns(0.01)
    rows = {line.split("|")[1].strip(): line for line in moving.summary(black_and_white)}
    yield from (rows[name] for name in ROWS_OF_MOTION)
    two = black_and_white["two"]
    yield f"sends {fewer_events(two)} times fewer events than one"
    yield f"costs more than about {fmean(map(moving.price, two)):.0f} nJ"
    yield f"Up to about {fmean(map(moving.price, two)):.0f} nJ per event"
    yield f"the factor for two digits is {fewer_events(noisy['two'])}"
    for arm in ("float network", "trained from a random start"):
        sent = moving.in_words([row["events"][arm][0] for row in two], ".1f")
        yield f"sends {sent}"
    yield "ours sends {} events".format(
        moving.in_words([row["events"]["ours"][1] for row in two], ".1f")
    )
    yield "and {} in other frames".format(
        moving.in_words([row["events"]["ours"][2] for row in two], ".1f")
    )
    prices = [
        moving.in_words([*map(moving.price, black_and_white[kind])], ".2f")
        for kind in ("one", "two", "turn", "bar")
    ]
    yield "with one digit {} nJ, with two {}. With rotation it is {}, behind a bar {}".format(
        *prices
    )
    yield f"ours sends {fewer_events(in_grey['one'])} times fewer events"
    yield f"and {fewer_events(in_grey['two'])} times with two"
    price = moving.in_words([*map(moving.price, in_grey["two"])], ".2f")
    yield f"An event must now cost {price} nJ (two digits)"
    yield f"({points_lost_in_grey()})"
    told = []  # where a sixth seed lies
    for kind in ("one", "two"):
        rows = moving.curve(moving.by_kind(records("moving_grey.jsonl"))[kind], "ours")[0.1]
        sent = moving.interval([row["events"][0] for row in rows])
        told.append(f"{sent.mean:.1f} ± {6**0.5 * sent.half:.1f}")
    yield f"should be {told[0]} (`one`) and {told[1]} (`two`)"


def test_the_notebook_has_every_row_of_motion():
    page = (REPOSITORY / "docs/notebook/moving.md").read_text(encoding="utf-8")
    rows = records("moving.jsonl")
    assert {(row["scenes"], row["seed"]) for row in rows} == {(100, seed) for seed in range(5)}
    for noise in (0.0, 0.01):
        for columns in motion_columns(noise):
            assert "\n".join(moving.summary(columns)) in page
    said = f"ours loses {points_lost_in_grey()} points at an epsilon of 0.1"
    assert said in " ".join(page.split())


@pytest.mark.parametrize(
    ("page", "made"),
    {
        "README.md": (of_readme,),
        "docs/explanation/findings.md": (of_findings, of_streams),
        "docs/explanation/motion.md": (of_motion,),
    }.items(),
)
def test_every_number_is_made_of_results_or_named(page, made):
    text = (
        (REPOSITORY / page)
        .read_text(encoding="utf-8")
        .replace("\u2212", "-")
        .replace("\u00d7", "x")
    )
    for left_out in (
        r"^```.*?^```$",
        r"^ {4}.*?$",
        r"<!--.*?-->",
        r"(?<=\])\([^)]*\)",
    ):  # blocks, commands, marks, links
        text = re.sub(left_out, "", text, flags=re.MULTILINE | re.DOTALL)
    text = " ".join(text.split())
    for said in (*chain(*(make() for make in made)), *NOT_MADE[page]):
        assert said in text, said
        text = text.replace(said, " | ", 1)
    assert re.findall(r".{0,30}\d.{0,30}", NO_NUMBERS.sub("", text)) == []
