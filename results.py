#!/usr/bin/env python3
"""Evaluate the committed networks and write the result tables of README and docs.

Those of CIFAR-10 (JPEG) need its folder, --dataset: without it they keep their rows, which are dated. `--only` without a name
evaluates nothing and writes tables and charts from results/*.json.
"""

import harness.idle_threads  # noqa: F401  (before torch)

import json
import shlex
from itertools import product
from math import floor
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from harness import UserError
from harness.command_line.parser import Parser
from harness.command_line.recipes import find, known_of, names
from harness.command_line.scripts import call, run_script
from harness.drawing.plots import save_accuracy_against_spikes
from harness.measuring import comparing
from harness.measuring.comparing import FIGURES, difference, spread
from harness.measuring.tables import save_results_json
from harness.runs.run import PublishedPaths, counted, numbered
from harness.runs.saving import write_whole
from self_models import load
from self_models.basics import HOME
from self_models.basics.images import IMAGE_SHAPES
from self_models.counting.operations import conventions
from self_models.data.folders import list_folder
from self_models.guests.energy import Ledger, entries_of
from self_models.runtime.outputs import PARTS

HERE = Path(__file__).resolve().parent
README, TABLES, ZOO = (
    "README.md",
    "docs/notebook/tables.md",
    "docs/reference/zoo.md",
)  # what is between MARKS is written here
MARKS = (
    "<!-- results: make results writes what stands between these lines -->",
    "<!-- end of results -->",
)
RULES = "--rules confidence entropy --gap_bounds 0.5 1 2 4 --entropy_bounds 0.1 0.3"
MARGIN_SHOWN = 1.0  # of confidence, at most 50 steps
EQUIVALENT = 10  # percent: the bound of the test for equivalence
SPREAD = (
    "accuracy",
    "spikes",
    "energy_joules",
    "energy_event_joules",
)  # figures of which a spread is given
KEPT = (  # of an evaluation's record, in results.json
    "dataset",
    "seed",
    "epsilon",
    "timesteps",
    "accuracy",
    "mean_steps",
    "reconstruction_error",
    "open_share",
    "rank_correlation",
    "rank_correlation_per_ink",
    "spikes",
)
ARITHMETIC, WITH_MEMORY = (conventions()[name] for name in ("arithmetic_45nm", "with_memory"))


class Network(NamedTuple):
    """What the tables show of a network. label: its name there; seeds: how many are committed; opened: it is also run with its
    gate open; images: what its images are called, where they come from a folder of the reader's."""

    label: str
    seeds: int = 1
    opened: bool = False
    images: str = ""


JPEG = "CIFAR-10 (JPEG)"
NETWORKS = {  # by the recipes of their SNNs, in the order of the tables
    "quick_feedback": Network("quick feedback", seeds=5),
    "quick_baseline": Network("baseline of quick feedback", seeds=5),
    "feedback": Network("feedback", opened=True),
    "baseline": Network("baseline of feedback"),
    "accurate_feedback": Network("accurate feedback", seeds=3, opened=True),
    "accurate_baseline": Network("baseline of accurate feedback", seeds=3),
    "residual_feedback": Network("residual feedback", opened=True),
    "residual_baseline": Network("baseline of residual feedback"),
    "fast_feedback": Network("fast feedback", seeds=2, opened=True),
    "fast_baseline": Network("baseline of fast feedback", seeds=2),
    "tiny_feedback": Network("tiny feedback", seeds=5),
    "tiny_baseline": Network("baseline of tiny feedback", seeds=5),
    "fashion_feedback": Network("Fashion feedback", opened=True),
    "fashion_baseline": Network("baseline of Fashion feedback"),
    "cifar10_baseline": Network("CIFAR-10", images=JPEG),
    "deep_baseline": Network("CIFAR-10, deep", images=JPEG),
    "deep_phased": Network("CIFAR-10, deep, phased", images=JPEG),
}
RECIPES = {recipe: find(recipe, "snn") for recipe in NETWORKS}
CHECKPOINTS = {  # name -> (its recipe, seed)
    numbered(RECIPES[recipe].run, seed): (recipe, seed)
    for recipe, network in NETWORKS.items()
    for seed in range(network.seeds)
}
ADD_FOLDER = "add --dataset FOLDER, of FOLDER/train/CLASS/ and FOLDER/test/CLASS/"


def commands(folder=""):
    """(checkpoint, name of the run, Network, command, its flags) of each evaluation. folder: of the images of those that need
    one."""
    for checkpoint, (recipe, seed) in CHECKPOINTS.items():
        network, steps = NETWORKS[recipe], RECIPES[recipe].flags["timesteps"]
        source = (
            f"--preset {recipe} --seed {seed} --pretrained_snn trained_models/snn/{checkpoint}.pth"
        )
        folder_flags = f" --dataset {shlex.quote(folder)} --engine dense" if network.images else ""
        yield (
            checkpoint,
            f"{checkpoint}_T{steps}",
            network,
            "obj1",
            f"{source}{folder_flags} --timesteps {steps}",
        )
        if not network.images:  # of which an evaluation takes minutes
            yield (
                checkpoint,
                f"{checkpoint}_stop",
                network,
                "obj2",
                f"{source} --timesteps 50 {RULES}",
            )
        if network.opened:
            yield (
                checkpoint,
                f"{checkpoint}_T50_open",
                network,
                "obj1",
                f"{source} --timesteps 50 --epsilon 0 --no-residual",
            )


def main(argv=None):
    parser = Parser(__doc__)
    help_text = (
        "evaluate these checkpoints, or none; the others' results are read from results/*.json"
    )
    parser.add_argument(
        "--only", nargs="*", choices=list(CHECKPOINTS), metavar="NAME", help=help_text
    )
    parser.add_argument(
        "--dataset",
        default="",
        metavar="FOLDER",
        help="of CIFAR-10 (JPEG), for the networks that need it",
    )
    args = parser.parse_args(argv)
    if not (HOME / TABLES).is_file():
        raise UserError(
            "the trained networks and the pages are in the repository alone: run this in a clone of it"
        )
    wanted = list(CHECKPOINTS) if args.only is None else args.only
    without = [
        name for name in wanted if NETWORKS[CHECKPOINTS[name][0]].images and not args.dataset
    ]
    if args.dataset:
        list_folder(args.dataset)  # raises, before hours of work
    folder, rows = HERE / "results", []
    for checkpoint, run, network, command, flags in commands(
        args.dataset and str(Path(args.dataset).absolute())
    ):
        path = folder / f"{run}.json"
        if checkpoint in wanted and checkpoint not in without:
            call(
                command,
                f"{flags} --run_name {run} --output_dir results --results_json results/{path.name} --overwrite",
                HERE,
            )
        rows += [row_of(network, record) for record in json.loads(path.read_text())]
    save_results_json(folder / "results.json", rows)
    for dataset in {row["dataset"] for row in rows if row["dataset"] in IMAGE_SHAPES}:
        runs = [row for row in rows if row["dataset"] == dataset]
        points = [
            (group[0], *(spread(name, dict(enumerate(group))) for name in ("spikes", "accuracy")))
            for group in over_seeds(runs)
        ]
        apart = {name: comparing.at_spikes(*both) for name, both in stopped(runs).items()}
        save_accuracy_against_spikes(
            HERE / f"docs/accuracy_spikes_{dataset.lower()}.png", points, *verdicts(dataset, apart)
        )
    shown = [row for row in rows if is_shown(row)]
    put_into(
        HERE / TABLES,
        [*table(over_seeds(shown)), "", *pairs_table(shown), "", *equal_table(rows), ""],
    )
    put_into(HERE / README, short_table(folder))
    put_into(HERE / ZOO, zoo_table())
    print(
        f"wrote results/results.json, the charts of docs/, and the tables of {README}, {TABLES} and {ZOO}"
    )
    if without:
        print(
            f"not evaluated, and rows of before stay as they are: {', '.join(without)}; {ADD_FOLDER}"
        )


# --- rows of results.json


def row_of(network, record):
    """A row of results.json from an evaluation record of this Network."""
    return {
        "name": network.label + " (chosen on test images)" * (record.get("selected_on") == "test"),
        "plan": record["model"],
        "feedback": record["feedback"],
        "blocking": record["epsilon"] > 0,
        "rule": record.get("rule", "none"),
        "bounds": record.get("bounds", {}),
        **{key: record[key] for key in KEPT if key in record},
        **({"dataset": network.images, "date": record["date"]} if network.images else {}),
        "operations": {
            kind: value for kind, value in record["operations"].items() if kind != "layers"
        },
        **{
            key: record[key]
            for key in ("energy_joules", "energy_event_joules", "images_per_second")
        },
    }


def is_shown(row):
    """True for a row of the tables: all steps, or stopped by confidence at a margin of 1."""
    return row["rule"] == "none" or row["bounds"].get("gap_bound") == MARGIN_SHOWN


def grouped(rows, key):
    """key(row) -> the rows that have it, in their order."""
    groups = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def over_seeds(rows):
    """Lists of the rows that only the seed tells apart."""
    return list(
        grouped(
            rows, lambda row: (row["name"], row["dataset"], row["epsilon"], *run_of(row))
        ).values()
    )


def paired(rows, network):
    """How a network differs from its baseline run for the same steps by the same rule, each seed's pair by itself: run ->
    figure -> Difference."""
    both, differences = (network, f"baseline of {network}"), {}
    for run, alike in grouped((row for row in rows if row["name"] in both), run_of).items():
        pair = [{row["seed"]: row for row in alike if row["name"] == name} for name in both]
        differences[run] = {name: difference(name, *pair) for name in SPREAD}
    return {run: figures for run, figures in differences.items() if figures["accuracy"]}


def run_of(row):
    """What tells the runs of one network apart, the seed aside."""
    return row["timesteps"], stop_of(row)


def stop_of(row):
    """'confidence 1', of a rule and its bounds; '' where all steps are run."""
    return (
        " ".join([row["rule"], *(f"{value:g}" for value in row["bounds"].values())])
        if row["rule"] != "none"
        else ""
    )


def stopped(rows):
    """network -> its rows with early exit by margin, and those of its baseline: seed -> rows."""
    by_name = grouped(
        (row for row in rows if row["rule"] == "confidence"), lambda row: row["name"]
    )
    by_seed = {name: grouped(rows, lambda row: row["seed"]) for name, rows in by_name.items()}
    return {
        name: (by_seed[name], by_seed[f"baseline of {name}"])
        for name in by_seed
        if f"baseline of {name}" in by_seed
    }


# --- tables


def markdown(head, rows):
    """Lines of a Markdown table. head: its titles, between bars; rows: of cells."""
    yield from (f"| {head} |", "|" + " --- |" * (head.count(" | ") + 1))
    yield from (f"| {' | '.join(map(str, cells))} |" for cells in rows)


def table(groups):
    """Write lists of rows as a Markdown table.

    In thousands of operations and microjoules per image; with several seeds mean ±
    standard deviation. A part that spikes in no network, as the decoder, has no column.
    """
    sent = set()
    for rows in groups:
        for row in rows:
            sent.update(part for part, count in row["spikes"].items() if count)
    parts = [part for part in PARTS.values() if part in sent]
    head = "data set | network | seeds | T | epsilon | stop | mean timesteps | accuracy, % | "
    head += " | ".join(parts)
    head += (
        " | total spikes | event-driven ACs | energy layer by layer, µJ | energy event-driven, µJ"
    )
    lines = []
    for rows in groups:
        row, of_seeds = rows[0], dict(enumerate(rows))
        accuracy, total, *energies = (
            spread(name, of_seeds).text(FIGURES[name].form) for name in SPREAD
        )
        images = ", ".join(row[key] for key in ("dataset", "date") if key in row)
        spikes = [f"{fmean(row['spikes'][part] for row in rows):,.0f}" for part in parts]
        steps, acs = (
            fmean(row["mean_steps"] for row in rows),
            fmean(row["operations"]["event_acs"] for row in rows),
        )
        run = (
            row["name"],
            len(rows),
            row["timesteps"],
            row["epsilon"] or "off",
            stop_of(row),
            f"{steps:.1f}",
        )
        lines.append([images, *run, accuracy, *spikes, total, f"{acs / 1000:,.0f} k", *energies])
    return markdown(head, lines)


def short_table(folder):
    """The README's table of this folder's results: the baselines' ANNs, whose accuracy their training has logged, and SNNs."""
    logs = [
        PublishedPaths("ann", numbered("quick_baseline", seed)).json_path
        for seed in range(NETWORKS["quick_baseline"].seeds)
    ]
    tested = spread(
        "accuracy",
        {seed: json.loads(log.read_text().splitlines()[-1]) for seed, log in enumerate(logs)},
    )
    models = {
        recipe: load(HOME / f"trained_models/snn/{recipe}.pth")
        for recipe in ("quick_baseline", "quick_feedback")
    }
    baseline = ledger_of(records_of(folder, "quick_baseline", "none")[0], models["quick_baseline"])
    arithmetic, memory = (
        1e6 * baseline.ann_joules(prices, 8) for prices in (ARITHMETIC, WITH_MEMORY)
    )
    ann = "the baseline's ANN (accuracy in float32, energy in 8 bits)"
    rows = [[ann, tested.text(".2f"), "-", f"{arithmetic:.2f}", f"{memory:.1f}"]]
    for (words, rule), (recipe, model) in product(
        (("early exit, margin 1", "confidence"), ("T = 50", "none")), models.items()
    ):
        records = records_of(folder, recipe, rule)
        memory = [
            1e6 * ledger_of(record, model).joules(WITH_MEMORY, "event-driven")
            for record in records.values()
        ]
        cells = [
            spread(figure, records).text(FIGURES[figure].form)
            for figure in ("accuracy", "spikes", "energy_event_joules")
        ]
        name = "blocking" if model.has_feedback else "baseline"
        rows.append([f"{name}, {words}", *cells, f"{fmean(memory):,.1f} ± {stdev(memory):.1f}"])
    return markdown(
        "network | accuracy, % | spikes per image | energy of arithmetic, µJ | energy with memory, µJ",
        rows,
    )


def records_of(folder, recipe, rule):
    """Seed -> record of a network's evaluation over 50 timesteps: of all (rule none), or stopped by confidence."""
    paths = [
        folder / f"{numbered(recipe, seed)}_stop.json" for seed in range(NETWORKS[recipe].seeds)
    ]
    runs = [{"rule": "none"} | record for path in paths for record in json.loads(path.read_text())]
    return dict(
        enumerate(record for record in runs if record["rule"] == rule and is_shown(record))
    )


def ledger_of(record, model):
    """The Ledger of an evaluation's record, for event-driven execution; of this model, without biases and leaks."""
    layers, steps = record["operations"]["layers"], record["mean_steps"]
    kinds = {
        "acs": "effective_acs",
        "macs": "effective_macs",
        "dense": "dense",
        "events": "event_acs",
    }
    kinds = {kind: layers[name] for kind, name in kinds.items()} | {
        "steps": dict.fromkeys(layers["dense"], steps)
    }
    figures = {
        "images": 1,
        "spikes": record["spikes_per_layer"],
        "comparisons": record["comparisons"],
    }
    entries = entries_of(model, kinds | {"biases": {}, "reached": {}}, figures)
    return Ledger(
        "",
        record["images"],
        record["accuracy"],
        model.timesteps,
        steps,
        leaks=False,
        entries=entries,
    )


def pairs_table(rows):
    """What feedback with blocking changes against the baseline, as a Markdown table: paired by seed, with 95 % intervals; then
    which differences are left after correction, and which are equivalent."""
    blocked, lines, several = (
        [row for row in rows if row["blocking"] or not row["feedback"]],
        [],
        {},
    )
    for network, dataset in dict.fromkeys(
        (row["name"], row["dataset"]) for row in blocked if row["feedback"]
    ):
        for (steps, stop), figures in paired(
            [row for row in blocked if row["dataset"] == dataset], network
        ).items():
            texts = [change.text(FIGURES[name]) for name, change in figures.items()]
            lines.append([dataset, network, figures["accuracy"].pairs, steps, stop, *texts])
            run = f"{network}, T = {steps}{f', {stop}' * bool(stop)}"
            several |= {
                (run, FIGURES[name].title): change
                for name, change in figures.items()
                if change.half
            }
    head = "data set | network | pairs | T | stop | accuracy, points | spikes | energy layer by layer | energy event-driven"
    yield from markdown(head, lines)
    yield from (
        "",
        f"Corrected for {len(several)} comparisons (Holm, 5 %), these differ from 0:",
        "",
    )
    for run, both in grouped(comparing.surviving(several), lambda key: key[0]).items():
        yield f"- {run}: {'; '.join(title.removesuffix(', µJ') for _, title in both)}"
    shares = {
        ": ".join(key): change
        for key, change in several.items()
        if key[1] != FIGURES["accuracy"].title
    }
    yield from ("", comparing.equivalence_line(shares, EQUIVALENT))


def equal_table(rows):
    """How feedback with early exit differs from the baseline at equal spikes and at equal accuracy, the highest in tenths of a
    percent that all networks of the family have, as a Markdown table; then which differences are left after correction."""
    lines, several = [], {}
    for name, both in stopped(rows).items():
        best = min(
            max(row["accuracy"] for row in runs) for seeds in both for runs in seeds.values()
        )
        level = floor(1000 * best + 1e-9) / 10
        there = [
            {seed: comparing.at_accuracy(runs, level) for seed, runs in seeds.items()}
            for seeds in both
        ]
        accuracy, spikes = comparing.at_spikes(*both), difference("spikes", *there)
        spreads = [spread("spikes", seeds).text(",.0f") for seeds in there]
        texts = (
            accuracy.text(FIGURES["accuracy"]),
            f"{level:.1f}",
            *spreads,
            spikes.text(FIGURES["spikes"]),
        )
        lines.append([name, accuracy.pairs, *texts])
        several |= {
            f"{name}, accuracy at equal spikes": accuracy,
            f"{name}, spikes at equal accuracy": spikes,
        }
    head = "network | pairs | accuracy at equal spikes, points | at an accuracy of, % | spikes there | baseline's | difference"
    yield from markdown(head, lines)
    yield from (
        "",
        comparing.correction_line(
            {name: change for name, change in several.items() if change.half}
        ),
    )


def zoo_table():
    """Every network that a recipe makes, as a Markdown table, by the logs of seed 0."""
    rows = []
    for recipe in (find(name, "snn") for name in names("snn") if name != "own"):
        flags, known = recipe.flags, known_of(recipe)
        images = JPEG if flags["dataset"] == "CIFAR10" else flags["dataset"]
        figures = [
            known[name] for name in ("accuracy", "spikes", "energy", "checkpoint", "training")
        ]
        rows.append(
            [f"`{recipe.path.stem}`", flags["architecture"], images, flags["timesteps"], *figures]
        )
    return markdown(
        "recipe | architecture | images | T | accuracy, % | spikes | energy, µJ | checkpoint | training",
        rows,
    )


def verdicts(dataset, apart):
    """(network -> which one is ahead, and all in one line) in words. apart: network -> Difference of accuracy at equal spikes.
    First come differences over several seeds, then of one seed, then none detected."""
    unsure = {name: abs(change.mean) <= (change.half or 0) for name, change in apart.items()}
    words, ahead = {}, []  # ahead: how many seeds there are of each network whose baseline is
    for name in sorted(
        apart, key=lambda name: (unsure[name], not apart[name].half, apart[name].mean)
    ):
        change = apart[name]
        verdict = (
            "no difference detected"
            if unsure[name]
            else f"{'feedback' if change.mean > 0 else 'baseline'} ahead"
        )
        words[name] = (
            f"{counted(change.pairs, 'seed')}\n{change.text(FIGURES['accuracy'])} points: {verdict}"
        )
        if verdict == "baseline ahead":
            ahead.append(change.pairs)
    line = f"{dataset}: at equal spikes the baseline is ahead in {len(ahead)} of {len(apart)} families"
    return words, f"{line} ({ahead.count(1)} with one seed)" if 1 in ahead else line


def put_into(page, lines):
    """Replace what stands between the marks of a page."""
    text = between(page.read_text(encoding="utf-8"), *MARKS, lines)
    write_whole(page, lambda file: file.write(text.encode()))


def between(text, begin, end, lines):
    """The text with these lines between two marks of it. Raises ValueError where it lacks one."""
    first = text.index(begin)
    return "\n".join([text[:first] + begin, *lines, text[text.index(end, first) :]])


if __name__ == "__main__":
    run_script(main)
