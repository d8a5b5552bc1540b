#!/usr/bin/env python3
"""Compare networks over seeds: mean, standard deviation, and differences paired by seed.

Figures are read from the networks' logs; with --evaluate they are measured anew, on the images and as the other flags say."""

import harness.idle_threads  # noqa: F401  (before torch)

import sys
from pathlib import Path
from typing import NamedTuple

from harness import UserError
from harness.building.models import OF_REPOSITORY
from harness.command_line.parser import add_output_flag, flag_type
from harness.command_line.posthoc import evaluate, open_as_trained, posthoc_parser
from harness.command_line.recipes import as_flags, find, names
from harness.command_line.scripts import run_script
from harness.measuring import comparing
from harness.measuring.log_lines import counts_operations, running
from harness.measuring.read_logs import read_run
from harness.measuring.tables import aligned
from harness.runs.run import (
    Paths,
    PublishedPaths,
    log_beside,
    name_for_training,
    numbered,
    path_from_here,
    program,
)
from harness.runs.saving import write_whole
from self_models.basics import INSTALLED
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import NOT_NEGATIVE, WHOLE, meant
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

MARGINS = [
    {"rule": "confidence", "gap_bound": bound} for bound in (0.5, 1.0, 2.0, 4.0)
]  # with --at_accuracy


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN)
    parser.usage = "%(prog)s A [B ...] --seeds 0 1 2 [--evaluate] [FLAG ...]"
    help_text = "a recipe, a run's name, or the path of a checkpoint: of seed 0; of seed 1 it is NAME_1. The others are compared "
    parser.add_argument("networks", nargs="+", metavar="A", help=f"{help_text}with the last")
    group = parser.add_argument_group("comparing")
    group.add_argument(
        "--seeds",
        type=flag_type(WHOLE),
        nargs="+",
        default=[0],
        metavar="N",
        help="of the networks",
    )
    help_text = (
        "evaluate the checkpoints, instead of reading their logs; only then do flags say how"
    )
    group.add_argument("--evaluate", action="store_true", help=help_text)
    help_text = (
        "test whether spikes and energies are equivalent within this bound, in percent; 0: no test"
    )
    group.add_argument(
        "--equivalence", type=flag_type(NOT_NEGATIVE), default=0.0, metavar="BOUND", help=help_text
    )
    help_text = "compare the spikes at this accuracy, in percent, with early exit; --evaluate: at margins of 0.5, 1, 2 and 4"
    group.add_argument(
        "--at_accuracy", type=flag_type(NOT_NEGATIVE), default=0.0, metavar="X", help=help_text
    )
    add_output_flag(
        group, "--output", "also write the figures as a table, or for programs", ".csv", ".json"
    )
    parser.rare |= {
        "preset",
        "pretrained_snn",
        "pretrained_ann",
        "seed",
        "run_name",
        "results_json",
        "test_only",
    }
    return parser


def main(argv=None):
    args = build_parser(argv).parse_args(argv)
    if args.output and Path(args.output).exists() and not args.overwrite:
        raise UserError(
            f"{args.output} exists: --overwrite replaces it, --output writes elsewhere"
        )
    several = measured(args, sys.argv[1:] if argv is None else argv)
    pairs = comparing.pairs_of(
        comparing.at_equal_accuracy(several, args.at_accuracy) if args.at_accuracy else several
    )
    for pair in pairs:
        print("", *aligned(comparing.comparison(*pair)), sep="\n")
    print(f"\n{comparing.EXPLAINED}")
    if changes := comparing.differences(pairs):
        print(comparing.correction_line(changes))
    if args.equivalence:
        print(
            comparing.equivalence_line(
                comparing.differences(pairs, only_shares=True), args.equivalence
            )
        )
    if args.output:
        write_whole(
            args.output,
            lambda file: file.write(comparing.as_file(pairs, Path(args.output).suffix).encode()),
        )
        print(f"wrote {args.output}")
    return pairs


def measured(args, argv):
    """The Series of the networks. Raises UserError where they were run on different images, or not with all seeds."""
    words, seeds, runs = list(dict.fromkeys(args.networks)), list(dict.fromkeys(args.seeds)), []
    networks = {word: [trained(word, seed, args.output_dir) for seed in seeds] for word in words}
    for of_seeds in networks.values():
        check_there(of_seeds, args)
    for word, of_seeds in networks.items():
        is_unique = [Path(other).stem for other in words].count(Path(word).stem) == 1
        for network in of_seeds:
            runs.append(evaluated(network, argv) if args.evaluate else read(network))
            runs[-1].seed, runs[-1].recipe = network.seed, Path(word).stem if is_unique else word
    several = comparing.series_of(runs)
    for series in several:
        if series.on != several[0].on:
            differ = (
                f"{several[0].name} was evaluated on {several[0].on}, {series.name} on {series.on}"
            )
            raise UserError(
                f"{differ}: compare networks of one data set; --evaluate takes the same images of it for all"
            )
        if len(series.results) < len(seeds):
            of = " ".join(map(str, series.results))
            raise UserError(
                f"{series.name} was run with {series.run_with} for seed {of} only: --evaluate runs all seeds alike"
            )
    for word, of_seeds in networks.items():
        published = [network for network in of_seeds if network.is_published]
        if 0 < len(published) < len(of_seeds):
            numbers = " ".join(str(network.seed) for network in published)
            print(
                f"note: {word} of seed {numbers} came with the program, the others are yours: "
                "--seeds names seeds of one kind"
            )
    if not args.evaluate:
        print(
            f"read from logs (--evaluate evaluates again): {' '.join(str(run.path) for run in runs)}"
        )
    return several


class Trained(NamedTuple):
    """A network of one seed. word: its name for all seeds; recipe: its name, or None; log: path of its run's records."""

    word: str
    recipe: str | None
    seed: int
    checkpoint: Path
    log: Path

    name = property(lambda self: self.checkpoint.stem)

    @property
    def is_published(self):
        """Whether it came with the program."""
        published = PublishedPaths("snn", self.name)
        return self.log.absolute() == published.json_path.absolute()


def trained(word, seed, output_dir):
    """Find the network that a word of the command line means.

    Parameters
    ----------
    word : str
        Path of the checkpoint of seed 0, or the name of a run or a recipe.
    seed : int
        Seed of the network.
    output_dir : str
        Folder of the user's runs. Where it has none of this name, the network that came with
        the program is meant.

    Returns
    -------
    Trained
        The network, whose files need not be there.
    """
    if word.endswith(".pth"):
        path = Path(word).with_stem(numbered(Path(word).stem, seed))
        return Trained(word, None, seed, path, log_beside(path))
    recipe = find(word, "snn") if word in names("snn") else None
    run = recipe.run if recipe else word

    candidates = []
    for name in dict.fromkeys((word, run)):  # the user may have a run of a recipe's name
        own_name = name_for_training("snn", numbered(name, seed), output_dir)
        candidates.append((name, Paths("snn", own_name, output_dir)))
    candidates.append((run, PublishedPaths("snn", numbered(run, seed))))

    for name, paths in candidates:
        checkpoint = path_from_here(paths.best_path)
        log = path_from_here(paths.json_path)
        if checkpoint.is_file() or log.is_file():
            of_recipe = word if recipe and name == run else None
            return Trained(word, of_recipe, seed, checkpoint, log)
    missing = Paths("snn", numbered(run, seed), output_dir)
    return Trained(word, recipe and word, seed, missing.best_path, missing.json_path)


def check_there(networks, args):
    """Raises UserError where a file of these Trained, of all seeds, is missing, with the command that makes it if it is known."""
    missing = [
        network
        for network in networks
        if not (network.checkpoint if args.evaluate else network.log).is_file()
    ]
    if not missing:
        return
    network, seeds = missing[0], [other.seed for other in missing]
    if network.checkpoint.is_file():
        raise UserError(
            f"{network.log} is missing, but {network.checkpoint} is there: --evaluate measures it"
        )
    if network.recipe:
        flags = as_flags(
            {"preset": network.recipe, "seeds": seeds, "output_dir": args.output_dir}, ["seeds"]
        )
        makes = f"{' '.join(program('snn'))} {flags} makes it{OF_REPOSITORY if INSTALLED else ''}"
    elif len(missing) < len(networks):
        makes = f"train it as the others were, with {as_flags({'seeds': seeds}, ['seeds'])}"
    else:
        known = [
            *names("snn"),
            *(
                log.stem
                for log in Paths("snn", network.word, args.output_dir).logs.glob("*.jsonl")
            ),
        ]
        makes = (
            f"{meant(network.word, known)}give a recipe, a run's name or the path of a checkpoint"
        )
    raise UserError(f"{network.name} is missing: {makes}")


def read(network):
    """The Run of a network's log. Raises UserError where it holds no result, or is of another seed or another training than the
    checkpoint beside it."""
    run = read_run(network.log)
    if not run.is_spiking:
        raise UserError(f"{run.path} has no evaluation of an SNN: --evaluate measures its network")
    if run.epochs and run.seed != network.seed:
        raise UserError(
            f"{run.path} is of seed {run.seed}, not {network.seed}: name it without its number, or give its seed"
        )
    saved = (
        load_checkpoint(network.checkpoint) if run.epochs and network.checkpoint.is_file() else {}
    )
    chosen = {epoch["epoch"]: epoch.get("evaluated", {}).get("accuracy") for epoch in run.epochs}
    if "accuracy" in saved and chosen.get(saved.get("epoch")) != saved["accuracy"]:
        raise UserError(
            f"{run.path} is of another training than {network.checkpoint}: --evaluate measures the checkpoint"
        )
    return run


def evaluated(network, argv):
    """The Run of a new evaluation of a network, which is written to --output_dir like any other."""
    recipe = ["--preset", network.recipe] if network.recipe else []
    words = [
        *argv,
        *recipe,
        "--pretrained_snn",
        str(network.checkpoint),
        "--seed",
        str(network.seed),
    ]
    args, model, images, run = open_as_trained(
        build_parser(argv), words, "", run_name=f"{network.name}_compared"
    )
    counts = counts_operations(model, run.say)
    margins = MARGINS if args.at_accuracy else [{}]
    for margin in margins:
        model.change(**margin)
        record, _ = evaluate(model, images.test, args, run, counts)
        stopped = f", margin {margin['gap_bound']:g}" if margin else ""
        accuracy = running(record, ["accuracy"])
        run.say(f"{network.name}{stopped}: {accuracy} on {record['images']:,} images")
    return read_run(run.json_path)


if __name__ == "__main__":
    run_script(main)
