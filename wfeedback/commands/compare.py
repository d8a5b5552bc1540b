"""Compare networks over seeds: mean, standard deviation, and differences paired by seed.

Figures are read from the networks' logs; with --evaluate they are measured anew, on the
images and as the other flags say.
"""  # noqa: W505

import wfeedback.idle_threads  # noqa: F401  (before torch)

import re
import sys
from pathlib import Path
from typing import NamedTuple

from self_models.checkpoints.files import load_checkpoint
from self_models.errors import UserError
from self_models.places import INSTALLED
from self_models.settings import NOT_NEGATIVE, WHOLE, meant
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.arguments import Arguments
from wfeedback.building.idle_flags import needs_of_compare, refuse_idle
from wfeedback.building.models import OF_REPOSITORY
from wfeedback.command_line.parser import Parser, add_output_flag, flag_type
from wfeedback.command_line.posthoc import evaluate, open_as_trained, posthoc_parser
from wfeedback.command_line.recipes import as_flags, find, names
from wfeedback.command_line.scripts import check_seeds
from wfeedback.measuring import comparing
from wfeedback.measuring.comparing import Series
from wfeedback.measuring.log_lines import counts_operations, running
from wfeedback.measuring.read_logs import RunLog, read_run
from wfeedback.measuring.tables import aligned
from wfeedback.runs.run import (
    Paths,
    PublishedPaths,
    log_beside,
    name_for_training,
    numbered,
    path_from_here,
    program,
)
from wfeedback.runs.saving import write_whole

GAP_BOUNDS = (0.5, 1.0, 2.0, 4.0)  # margins at which early exit is tried with --at_accuracy
# Flags that the networks of the command line take the place of, or that say how to
# train.
RARE = {
    "preset",
    "pretrained_snn",
    "pretrained_ann",
    "seed",
    "run_name",
    "results_json",
    "test_only",
}


def build_parser(argv: list[str] | None = None) -> Parser:
    """Return the parser. argv may have a --model, whose settings are flags, too."""
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN)
    parser.usage = "%(prog)s A [B ...] --seeds 0 1 2 [--evaluate] [FLAG ...]"
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="A",
        help=(
            "a recipe, a run's name, or the path of a checkpoint: of seed 0; of seed 1 it is "
            "NAME_1. The others are compared with the last"
        ),
    )
    group = parser.add_argument_group("comparing")
    group.add_argument(
        "--seeds",
        type=flag_type(WHOLE),
        nargs="+",
        default=[0],
        metavar="N",
        help="of the networks",
    )
    group.add_argument(
        "--evaluate",
        action="store_true",
        help="evaluate the checkpoints, instead of reading their logs; only then do flags say how",
    )
    group.add_argument(
        "--equivalence",
        type=flag_type(NOT_NEGATIVE),
        default=0.0,
        metavar="BOUND",
        help=(
            "test whether spikes and energies are equivalent within this bound, in percent; "
            "0: no test"
        ),
    )
    group.add_argument(
        "--at_accuracy",
        type=flag_type(NOT_NEGATIVE),
        default=0.0,
        metavar="X",
        help=(
            "compare the spikes at this accuracy, in percent, with early exit; --evaluate: at "
            "margins of 0.5, 1, 2 and 4"
        ),
    )
    add_output_flag(
        group, "--output", "also write the figures as a table, or for programs", ".csv", ".json"
    )
    parser.rare |= RARE
    return parser


def main(argv: list[str] | None = None) -> list[tuple[Series, Series | None]]:
    """Print how the networks differ; return the pairs that are compared."""
    args = build_parser(argv).parse_args(argv)
    refuse_idle(args, needs_of_compare(args), args)
    if args.output and Path(args.output).exists() and not args.overwrite:
        raise UserError(
            f"{args.output} exists: --overwrite replaces it, --output writes elsewhere"
        )
    flags = sys.argv[1:] if argv is None else argv
    several = measure(args, flags)
    if args.at_accuracy:
        several = comparing.at_equal_accuracy(several, args.at_accuracy)
        for note in comparing.notes_on_accuracy(several, args.at_accuracy):
            print(note)
    pairs = comparing.pairs_of(several)

    for series, other in pairs:
        print("", *aligned(comparing.comparison(series, other)), sep="\n")
    print(f"\n{comparing.EXPLAINED}")
    changes = comparing.differences(pairs)
    if changes:
        print(comparing.correction_line(changes))
    if args.equivalence:
        shares = comparing.differences(pairs, only_shares=True)
        print(comparing.equivalence_line(shares, args.equivalence))
    if args.output:
        text = comparing.as_file(pairs, Path(args.output).suffix)
        write_whole(args.output, lambda file: file.write(text.encode()))
        print(f"wrote {args.output}")
    return pairs


# --- the networks


class SeedNetwork(NamedTuple):
    """A trained network of one seed.

    Attributes
    ----------
    word : str
        What the command line calls it, for all seeds.
    recipe : str or None
        Name of the recipe that makes it.
    seed : int
    checkpoint : Path
    log : Path
        Records of its run. Neither file need be there.
    """

    word: str
    recipe: str | None
    seed: int
    checkpoint: Path
    log: Path

    @property
    def name(self) -> str:
        """Name of its run, with the seed."""
        return self.checkpoint.stem

    @property
    def is_published(self) -> bool:
        """Whether it came with the program."""
        published = PublishedPaths("snn", self.name)
        return self.log.absolute() == published.json_path.absolute()


def find_network(word: str, seed: int, output_dir: str) -> SeedNetwork:
    """Find the network that a word of the command line means.

    Parameters
    ----------
    word : str
        Path of the checkpoint of seed 0, or the name of a run or a recipe.
    seed : int
        Seed of the network.
    output_dir : str
        Folder of the user's runs. Where it has none of this name, the network that came
        with the program is meant.

    Returns
    -------
    SeedNetwork
        The network, whose files need not be there.
    """
    if word.endswith(".pth"):
        path = Path(word).with_stem(numbered(Path(word).stem, seed))
        return SeedNetwork(word, None, seed, path, log_beside(path))
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
            recipe_name = word if recipe and name == run else None
            return SeedNetwork(word, recipe_name, seed, checkpoint, log)
    missing = Paths("snn", numbered(run, seed), output_dir)
    recipe_name = word if recipe else None
    return SeedNetwork(word, recipe_name, seed, missing.best_path, missing.json_path)


def check_there(networks: list[SeedNetwork], args: Arguments) -> None:
    """Raise UserError where a file of a network is missing.

    Parameters
    ----------
    networks : list of SeedNetwork
        One network, of all seeds.
    args : Arguments
        With ``--evaluate`` checkpoints are needed, else logs.
    """
    missing = []
    for network in networks:
        path = network.checkpoint if args.evaluate else network.log
        if not path.is_file():
            missing.append(network)
    if not missing:
        return
    network = missing[0]
    if network.checkpoint.is_file():
        raise UserError(
            f"{network.log} is missing, but {network.checkpoint} is there: --evaluate measures it"
        )
    raise UserError(f"{network.name} is missing: {advice_on(missing, networks, args)}")


def advice_on(missing: list[SeedNetwork], networks: list[SeedNetwork], args: Arguments) -> str:
    """Say how to get the seeds of a network that are missing, or what may be meant."""
    network = missing[0]
    seeds = [other.seed for other in missing]
    if network.recipe:
        flags = {"preset": network.recipe, "seeds": seeds, "output_dir": args.output_dir}
        command = f"{' '.join(program('snn'))} {as_flags(flags, ['seeds'])}"
        return f"{command} makes it{OF_REPOSITORY if INSTALLED else ''}"
    if len(missing) < len(networks):
        return f"train it as the others were, with {as_flags({'seeds': seeds}, ['seeds'])}"
    logs = Paths("snn", network.word, args.output_dir).logs.glob("*.jsonl")
    known = names("snn") + [log.stem for log in logs]
    return f"{meant(network.word, known)}give a recipe, a run's name or the path of a checkpoint"


# --- their figures


def measure(args: Arguments, flags: list[str]) -> list[Series]:
    """Read or measure the figures of the networks that are compared.

    Parameters
    ----------
    args : Arguments
    flags : list of str
        The command line, by which each network is evaluated with ``--evaluate``.

    Returns
    -------
    list of Series
        Results of each network and way to run it, over the seeds.

    Raises
    ------
    UserError
        If a network is missing, or they were run on different images, or not with all
        seeds.
    """
    words = list(dict.fromkeys(args.networks))
    check_seeds(args.seeds)
    seeds = args.seeds
    networks = {}
    for word in words:
        networks[word] = [find_network(word, seed, args.output_dir) for seed in seeds]
    for seed_networks in networks.values():
        check_there(seed_networks, args)

    runs = []
    stems = [Path(word).stem for word in words]
    for word, seed_networks in networks.items():
        stem = Path(word).stem
        is_unique = stems.count(stem) == 1
        for network in seed_networks:
            run = evaluate_again(network, flags) if args.evaluate else read_log(network)
            run.seed = network.seed
            run.recipe = stem if is_unique else word
            runs.append(run)
    several = comparing.series_of(runs)
    check_comparable(several, seeds)

    for word, seed_networks in networks.items():
        published = [str(network.seed) for network in seed_networks if network.is_published]
        if 0 < len(published) < len(seed_networks):
            print(
                f"note: {word} of seed {' '.join(published)} came with the program, the others "
                "are yours: --seeds names seeds of one kind"
            )
    if not args.evaluate:
        paths = " ".join(str(run.path) for run in runs)
        print(f"read from logs (--evaluate evaluates again): {paths}")
    return several


def check_comparable(several: list[Series], seeds: list[int]) -> None:
    """Raise UserError unless all were run on the same images, with all seeds."""
    first = several[0]
    for series in several:
        if series.on != first.on:
            advice = "compare networks of one data set"
            for each in (first, series):
                if re.fullmatch("[0-9,]+ test images", each.on):
                    advice = f"the log of {each.name} does not name its data set"
            raise UserError(
                f"{first.name} was evaluated on {first.on}, {series.name} on {series.on}: "
                f"{advice}; --evaluate takes the same images of it for all"
            )
        if len(series.results) < len(seeds):
            seeds_of_series = " ".join(str(seed) for seed in series.results)
            raise UserError(
                f"{series.name} was run with {series.run_with} for seed {seeds_of_series} only: "
                "--evaluate runs all seeds alike"
            )


def read_log(network: SeedNetwork) -> RunLog:
    """Read the log of a network's run.

    Raises
    ------
    UserError
        If it holds no result, or is of another seed or another training than the
        checkpoint beside it.
    """
    run = read_run(network.log)
    if not run.is_spiking:
        raise UserError(f"{run.path} has no evaluation of an SNN: --evaluate measures its network")
    if not run.epochs:
        return run
    if run.seed != network.seed:
        raise UserError(
            f"{run.path} is of seed {run.seed}, not {network.seed}: name it without its number, "
            "or give its seed"
        )
    saved = {}
    if network.checkpoint.is_file():
        saved = load_checkpoint(network.checkpoint)
    accuracies = {}  # of each epoch
    for epoch in run.epochs:
        accuracies[epoch["epoch"]] = epoch.get("evaluated", {}).get("accuracy")
    if "accuracy" in saved and accuracies.get(saved.get("epoch")) != saved["accuracy"]:
        raise UserError(
            f"{run.path} is of another training than {network.checkpoint}: --evaluate measures "
            "the checkpoint"
        )
    return run


def evaluate_again(network: SeedNetwork, flags: list[str]) -> RunLog:
    """Evaluate a network, and read the log of that, which is written like any other.

    Parameters
    ----------
    network : SeedNetwork
    flags : list of str
        The command line.

    Returns
    -------
    RunLog
    """
    words = list(flags)
    if network.recipe:
        words += ["--preset", network.recipe]
    words += ["--pretrained_snn", str(network.checkpoint), "--seed", str(network.seed)]
    args, model, images, run = open_as_trained(
        build_parser(flags), words, "", run_name=f"{network.name}_compared"
    )
    counts = counts_operations(model, run.say)
    changes = [{}]
    if args.at_accuracy:
        changes = [{"rule": "confidence", "gap_bound": bound} for bound in GAP_BOUNDS]
    for change in changes:
        model.change(**change)
        record, _ = evaluate(model, images.test, args, run, counts)
        margin = f", margin {change['gap_bound']:g}" if change else ""
        accuracy = running(record, ["accuracy"])
        run.say(f"{network.name}{margin}: {accuracy} on {record['images']:,} images")
    return read_run(run.json_path)
