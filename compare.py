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
from harness.measuring.comparing import EXPLAINED, equivalence_line, surviving
from harness.measuring.report import aligned, running
from harness.reporting.reading import read_run
from harness.reporting.series import as_text, at_equal_accuracy, comparison, differences, pairs_of, series_of
from harness.runs.commands import program
from harness.runs.run import Paths, numbered
from harness.runs.saving import write_whole
from self_models.basics import HOME, INSTALLED
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import NOT_NEGATIVE, WHOLE, meant
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

ENDINGS = (".csv", ".json")
MARGINS = [{"rule": "confidence", "gap_bound": bound} for bound in (0.5, 1.0, 2.0, 4.0)]  # with --at_accuracy
NAMED_HERE = ("preset", "pretrained_snn", "pretrained_ann", "seed", "run_name", "results_json")


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
    parser.rare |= {*NAMED_HERE, "test_only"}
    return parser


def main(argv=None):
    args = build_parser(argv).parse_args(argv)
    check(args)
    argv = sys.argv[1:] if argv is None else argv
    words, seeds = list(dict.fromkeys(args.networks)), list(dict.fromkeys(args.seeds))
    found, runs = [one for word in words for one in networks_of(word, seeds, args)], []
    for one in found:
        runs.append(evaluated(one, argv) if args.evaluate else read(one))
        alike = [word for word in words if Path(word).stem == Path(one.word).stem]
        runs[-1].seed, runs[-1].recipe = one.seed, Path(one.word).stem if len(alike) == 1 else one.word
        several = series_of(runs)
        check_images(several)
    if short := next((series for series in several if len(series.results) < len(seeds)), None):
        of = " ".join(map(str, short.results))
        raise UserError(f"{short.name} was run with {short.run_with} for seed {of} only: --evaluate runs all seeds alike")
    pairs = pairs_of(at_equal_accuracy(several, args.at_accuracy) if args.at_accuracy else several)
    if not args.evaluate:
        print(f"read from logs (--evaluate evaluates again): {' '.join(str(run.path) for run in runs)}")
    tables = [comparison(*pair) for pair in pairs]
    for table in tables:
        print(*["", *aligned(table)], sep="\n")
    print(f"\n{EXPLAINED}")
    if found := differences(pairs):
        print(f"Corrected for {len(found)} comparisons (Holm, 5 %), different from 0: {'; '.join(surviving(found)) or 'none'}.")
    if args.equivalence:
        print(equivalence_line(differences(pairs, only_shares=True), args.equivalence))
    if args.output:
        path = Path(args.output)
        write_whole(path, lambda file: file.write(as_text(pairs, path.suffix).encode()))
        print(f"wrote {args.output}")
    return pairs


def check(args):
    """Raises UserError for flags that do not go together, before anything is evaluated."""
    path = Path(args.output or "x.csv")
    if path.suffix not in ENDINGS or not path.parent.is_dir():
        raise UserError(f"--output {path}: give a name that ends in {' or '.join(ENDINGS)}, in a folder that exists")
    if path.exists() and args.output and not args.overwrite:
        raise UserError(f"{path} exists: --overwrite replaces it, --output writes elsewhere")


class Trained(NamedTuple):
    """A network of one seed: the word that names it for all seeds, its recipe or '', the name of its run, and its files."""

    word: str
    recipe: str
    seed: int
    name: str
    checkpoint: Path
    log: Path


def networks_of(word, seeds, args):
    """The Trained of each seed. Raises UserError where a file is missing, with the command that makes it if it is known."""
    own = [Paths("snn", numbered(word, seed), args.output_dir) for seed in seeds]
    is_own = any(path.is_file() for paths in own for path in (paths.best_path, paths.json_path))
    recipe = word if word in names("snn") and not (is_own and find(word, "snn").run != word) else ""
    found = [trained(word, recipe, seed, args.output_dir) for seed in seeds]
    absent = [one for one in found if not one.checkpoint.is_file() and (args.evaluate or not one.log.is_file())]
    if absent and Path(word).suffix == ".pth":
        raise UserError(f"there is no checkpoint {absent[0].checkpoint}: give the path of one, a recipe or a run's name")
    if absent and not recipe and not any(one.log.is_file() or one.checkpoint.is_file() for one in found):
        known = [*names("snn"), *(log.stem for log in own[0].logs.glob("*.jsonl"))]
        raise UserError(f"there is no network {word}: {meant(word, known)}give a recipe or a run's name")
    if absent:
        command = f"{' '.join(program('snn'))} --preset {recipe}" if recipe else "train it as the others were, with"
        makes = f"{command} --seeds {' '.join(str(one.seed) for one in absent)}"
        where = f" --output_dir {shlex.quote(args.output_dir)}" * (args.output_dir != ".") + " makes it" * bool(recipe)
        raise UserError(f"{absent[0].name} is missing: {makes}{where}{OF_REPOSITORY * INSTALLED * bool(recipe)}")
    if unread := [one for one in found if not args.evaluate and not one.log.is_file()]:
        raise UserError(f"{unread[0].log} is missing, but {unread[0].checkpoint} is there: --evaluate measures it")
    return found


def trained(word, recipe, seed, output_dir):
    """The Trained of a word: a path, or a name under output_dir or, where nothing there has it, in the repository."""
    path = Path(word)
    if path.suffix == ".pth":
        path = path.with_stem(numbered(path.stem, seed))
        return Trained(word, "", seed, path.stem, path, path.absolute().parent.parent.parent / f"logs/snn/{path.stem}.jsonl")
    name = numbered(find(recipe, "snn").run if recipe else word, seed)
    both = [Paths("snn", name, folder) for folder in (output_dir, HOME)]
    paths = next((paths for paths in both if paths.best_path.is_file() or paths.json_path.is_file()), both[0])
    return Trained(word, recipe, seed, name, paths.best_path, paths.json_path)


def read(one):
    """The Run of a network's log. Raises UserError where it holds no result, or is of another seed or another training than the
    checkpoint beside it."""
    run = read_run(one.log)
    if not any(result.spikes for result in run.results):
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


def check_images(several):
    """Raises UserError where networks were evaluated on different images."""
    if len(kinds := {series.on: series for series in several}) > 1:
        one, other, *_ = kinds.values()
        differ = f"{one.name} was evaluated on {one.on}, {other.name} on {other.on}"
        raise UserError(f"{differ}: compare networks of one data set; --evaluate takes the same images of it for all")


if __name__ == "__main__":
    run_script(main)
