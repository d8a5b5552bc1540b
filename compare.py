#!/usr/bin/env python3
"""Compare networks over seeds: mean, standard deviation, and differences paired by seed.

Figures are read from the networks' logs; with --evaluate they are measured anew, on the images and as the other flags say."""

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from harness import UserError
from harness.building.models import OF_REPOSITORY
from harness.command_line.flags import posthoc_parser
from harness.command_line.parser import typed
from harness.command_line.posthoc import open_network
from harness.command_line.recipes import find, names
from harness.command_line.scripts import run_script
from harness.measuring import comparing
from harness.measuring.logs import read_run
from harness.measuring.tables import aligned, running
from harness.runs.commands import program
from harness.runs.run import Paths, numbered
from harness.runs.saving import check_output, write_whole
from self_models.basics import HOME, INSTALLED
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import NOT_NEGATIVE, WHOLE, meant
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

MARGINS = [{"rule": "confidence", "gap_bound": bound} for bound in (0.5, 1.0, 2.0, 4.0)]  # with --at_accuracy


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN)
    parser.usage = "%(prog)s A [B ...] --seeds 0 1 2 [--evaluate] [FLAG ...]"
    help_text = "a recipe, a run's name, or the path of a checkpoint: of seed 0; of seed 1 it is NAME_1. The others are compared "
    parser.add_argument("networks", nargs="+", metavar="A", help=f"{help_text}with the last")
    group = parser.add_argument_group("comparing")
    group.add_argument("--seeds", type=typed(WHOLE), nargs="+", default=[0], metavar="N", help="of the networks")
    help_text = "evaluate the checkpoints, instead of reading their logs; only then do flags say how"
    group.add_argument("--evaluate", action="store_true", help=help_text)
    help_text = "test whether spikes and energies are equivalent within this bound, in percent; 0: no test"
    group.add_argument("--equivalence", type=typed(NOT_NEGATIVE), default=0.0, metavar="BOUND", help=help_text)
    help_text = "compare the spikes at this accuracy, in percent, with early exit; --evaluate: at margins of 0.5, 1, 2 and 4"
    group.add_argument("--at_accuracy", type=typed(NOT_NEGATIVE), default=0.0, metavar="X", help=help_text)
    group.add_argument("--output", default="", metavar="X.csv|.json", help="also write the figures as a table, or for programs")
    parser.rare |= {"preset", "pretrained_snn", "pretrained_ann", "seed", "run_name", "results_json", "test_only"}
    return parser


def main(argv=None):
    args, output = build_parser(argv).parse_args(argv), None
    if args.output:
        check_output("--output", output := Path(args.output), ".csv", ".json")
        if output.exists() and not args.overwrite:
            raise UserError(f"{output} exists: --overwrite replaces it, --output writes elsewhere")
    several = measured(args, sys.argv[1:] if argv is None else argv)
    pairs = comparing.pairs_of(comparing.at_equal_accuracy(several, args.at_accuracy) if args.at_accuracy else several)
    for pair in pairs:
        print("", *aligned(comparing.comparison(*pair)), sep="\n")
    print(f"\n{comparing.EXPLAINED}")
    if changes := comparing.differences(pairs):
        print(comparing.correction_line(changes))
    if args.equivalence:
        print(comparing.equivalence_line(comparing.differences(pairs, only_shares=True), args.equivalence))
    if output:
        write_whole(output, lambda file: file.write(comparing.as_file(pairs, output.suffix).encode()))
        print(f"wrote {output}")
    return pairs


def measured(args, argv):
    """The Series of the networks. Raises UserError where they were run on different images, or not with all seeds."""
    words, seeds, runs = list(dict.fromkeys(args.networks)), list(dict.fromkeys(args.seeds)), []
    for one in [network for word in words for network in networks_of(word, seeds, args)]:
        runs.append(evaluated(one, argv) if args.evaluate else read(one))
        alike = [word for word in words if Path(word).stem == Path(one.word).stem]
        runs[-1].seed, runs[-1].recipe = one.seed, Path(one.word).stem if len(alike) == 1 else one.word
        several = comparing.series_of(runs)
        if other := next((series for series in several if series.on != several[0].on), None):
            differ = f"{several[0].name} was evaluated on {several[0].on}, {other.name} on {other.on}"
            raise UserError(f"{differ}: compare networks of one data set; --evaluate takes the same images of it for all")
    if short := next((series for series in several if len(series.results) < len(seeds)), None):
        of = " ".join(map(str, short.results))
        raise UserError(f"{short.name} was run with {short.run_with} for seed {of} only: --evaluate runs all seeds alike")
    if not args.evaluate:
        print(f"read from logs (--evaluate evaluates again): {' '.join(str(run.path) for run in runs)}")
    return several


class Trained(NamedTuple):
    """A network of one seed: the word that names it for all seeds, its recipe or None, the name of its run, and its files."""

    word: str
    recipe: str | None
    seed: int
    name: str
    checkpoint: Path
    log: Path


def networks_of(word, seeds, args):
    """The Trained of each seed. Raises UserError where a file is missing, with the command that makes it if it is known."""
    networks = [trained(word, seed, args.output_dir) for seed in seeds]
    missing = [one for one in networks if not (one.checkpoint if args.evaluate else one.log).is_file()]
    if not missing:
        return networks
    one = missing[0]
    if one.checkpoint.is_file():
        raise UserError(f"{one.log} is missing, but {one.checkpoint} is there: --evaluate measures it")
    flags = f"--seeds {' '.join(str(one.seed) for one in missing)}"
    flags += f" --output_dir {shlex.quote(args.output_dir)}" if args.output_dir != "." else ""
    if one.recipe:
        makes = f"{' '.join(program('snn'))} --preset {one.recipe} {flags} makes it{OF_REPOSITORY if INSTALLED else ''}"
    elif len(missing) < len(networks):
        makes = f"train it as the others were, with {flags}"
    else:
        known = [*names("snn"), *(log.stem for log in Paths("snn", word, args.output_dir).logs.glob("*.jsonl"))]
        makes = f"{meant(word, known)}give a recipe, a run's name or the path of a checkpoint"
    raise UserError(f"{one.name} is missing: {makes}")


def trained(word, seed, output_dir):
    """The Trained of a word: a path, or a name under output_dir or, where nothing there has it, in the repository."""
    path, recipe = Path(word), find(word, "snn") if word in names("snn") else None
    if path.suffix == ".pth":
        path = path.with_stem(numbered(path.stem, seed))
        return Trained(word, None, seed, path.stem, path, path.absolute().parent.parent.parent / f"logs/snn/{path.stem}.jsonl")
    own = Paths("snn", word, output_dir)
    if recipe and recipe.run != word and (own.best_path.is_file() or own.json_path.is_file()):
        recipe = None  # a run of the reader's has the name of a recipe, whose run has another
    name = numbered(recipe.run if recipe else word, seed)
    both = [Paths("snn", name, folder) for folder in (output_dir, HOME)]
    paths = next((paths for paths in both if paths.best_path.is_file() or paths.json_path.is_file()), both[0])
    return Trained(word, word if recipe else None, seed, name, paths.best_path, paths.json_path)


def read(one):
    """The Run of a network's log. Raises UserError where it holds no result, or is of another seed or another training than the
    checkpoint beside it."""
    run = read_run(one.log)
    if not run.is_spiking:
        raise UserError(f"{run.path} has no evaluation of an SNN: --evaluate measures its network")
    if run.epochs and run.seed != one.seed:
        raise UserError(f"{run.path} is of seed {run.seed}, not {one.seed}: name it without its number, or give the seed it has")
    saved = load_checkpoint(one.checkpoint) if run.epochs and one.checkpoint.is_file() else {}
    chosen = {epoch["epoch"]: epoch.get("evaluated", {}).get("accuracy") for epoch in run.epochs}
    if "accuracy" in saved and chosen.get(saved.get("epoch")) != saved["accuracy"]:
        raise UserError(f"{run.path} is of another training than {one.checkpoint}: --evaluate measures the checkpoint")
    return run


def evaluated(one, argv):
    """The Run of a new evaluation of a network, which is written to --output_dir like any other."""
    recipe = ["--preset", one.recipe] if one.recipe else []
    words = [*argv, *recipe, "--pretrained_snn", str(one.checkpoint), "--seed", str(one.seed)]
    posthoc = open_network(build_parser(argv), words, "", run_name=f"{one.name}_compared")
    for margin in MARGINS if posthoc.args.at_accuracy else [{}]:
        posthoc.model.change(**margin)
        record, _ = posthoc.evaluate()
        stopped = f", margin {margin['gap_bound']:g}" if margin else ""
        posthoc.run.say(f"{one.name}{stopped}: {running(record, ['accuracy'])} on {record['images']:,} images")
    return read_run(posthoc.run.json_path)


if __name__ == "__main__":
    run_script(main)
