"""Evaluate the committed networks and write the result tables of README and docs.

Those of CIFAR-10 (JPEG) need its folder, --dataset: without it they keep their rows,
which are dated. `--only` without a name evaluates nothing and writes tables and charts
from results/*.json.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import json
import shlex
from collections.abc import Callable, Hashable, Iterable, Iterator
from math import floor
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from self_models import load
from self_models.data.folders import list_folder
from self_models.data.images import IMAGE_SHAPES
from self_models.errors import UserError
from self_models.evaluation.operations import conventions
from self_models.places import HOME
from self_models.running.outputs import PARTS
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.command_line.parser import Parser
from wfeedback.command_line.recipes import find, known_of, names
from wfeedback.command_line.scripts import call, run_script
from wfeedback.drawing.plots import save_accuracy_against_spikes
from wfeedback.energy.ledger import Ledger, entries_of
from wfeedback.measuring import comparing
from wfeedback.measuring.comparing import FIGURES, Difference, difference, spread
from wfeedback.measuring.tables import save_results_json
from wfeedback.runs.run import PublishedPaths, counted, numbered
from wfeedback.runs.saving import write_whole

HERE = Path(__file__).resolve().parents[1]
# Pages of which this script writes what stands between MARKS.
README = "README.md"
TABLES = "studies/notebook/tables.md"
ZOO = "docs/reference/zoo.md"
MARKS = (
    "<!-- results: make results writes what stands between these lines -->",
    "<!-- end of results -->",
)
RULES = "--rules confidence entropy --gap_bounds 0.5 1 2 4 --entropy_bounds 0.1 0.3"
MARGIN_SHOWN = 1.0  # of confidence, at most 50 steps
EQUIVALENT = 10  # percent: the bound of the test for equivalence
# Figures of which a spread is given.
SPREAD = ("accuracy", "spikes", "energy_joules", "energy_event_joules")
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
ARITHMETIC = conventions()["arithmetic_45nm"]
WITH_MEMORY = conventions()["with_memory"]

Row = dict[str, object]  # of results.json, see row_of()


# --- the networks


class Network(NamedTuple):
    """What the tables show of a network.

    Attributes
    ----------
    label : str
        Its name there.
    seeds : int
        How many of it are committed.
    opened : bool
        Whether it is also run with its gate open.
    images : str
        What its images are called, where they come from a folder of the reader's.
    """

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


class Checkpoint(NamedTuple):
    """A committed network.

    Attributes
    ----------
    recipe : str
        Its key in ``NETWORKS``.
    seed : int
    """

    recipe: str
    seed: int

    @property
    def network(self) -> Network:
        """What the tables show of it."""
        return NETWORKS[self.recipe]


def committed_checkpoints() -> dict[str, Checkpoint]:
    """Return all checkpoints by name, in the order of the tables."""
    checkpoints = {}
    for recipe, network in NETWORKS.items():
        for seed in range(network.seeds):
            checkpoints[numbered(RECIPES[recipe].run, seed)] = Checkpoint(recipe, seed)
    return checkpoints


CHECKPOINTS = committed_checkpoints()
ADD_FOLDER = "add --dataset FOLDER, of FOLDER/train/CLASS/ and FOLDER/test/CLASS/"


class Evaluation(NamedTuple):
    """A command that evaluates a checkpoint.

    Attributes
    ----------
    checkpoint : str
        Its key in ``CHECKPOINTS``.
    run : str
        Name of the run.
    command : str
        One of ``wfeedback.runs.run.COMMANDS``.
    flags : str
        Flags of the command, without those that say where results go.
    """

    checkpoint: str
    run: str
    command: str
    flags: str


def evaluations(folder: str = "") -> Iterator[Evaluation]:
    """Yield the evaluations of all checkpoints.

    Parameters
    ----------
    folder : str
        Folder of the images of the networks that need one.
    """
    for name, (recipe, seed) in CHECKPOINTS.items():
        network = NETWORKS[recipe]
        steps = RECIPES[recipe].flags["timesteps"]
        source = f"--preset {recipe} --seed {seed} --pretrained_snn trained_models/snn/{name}.pth"
        images = ""
        if network.images:
            images = f" --dataset {shlex.quote(folder)} --engine dense"
        yield Evaluation(name, f"{name}_T{steps}", "obj1", f"{source}{images} --timesteps {steps}")
        if not network.images:  # of which an evaluation takes minutes
            flags = f"{source} --timesteps 50 {RULES}"
            yield Evaluation(name, f"{name}_stop", "obj2", flags)
        if network.opened:
            flags = f"{source} --timesteps 50 --epsilon 0 --no-residual"
            yield Evaluation(name, f"{name}_T50_open", "obj1", flags)


def build_parser() -> Parser:
    """Return the parser."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--only",
        nargs="*",
        choices=list(CHECKPOINTS),
        metavar="NAME",
        help=(
            "evaluate these checkpoints, or none; the others' results are read from results/*.json"
        ),
    )
    parser.add_argument(
        "--dataset",
        default="",
        metavar="FOLDER",
        help="of CIFAR-10 (JPEG), for the networks that need it",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Evaluate the checkpoints, and write results.json, charts and tables."""
    args = build_parser().parse_args(argv)
    if not (HOME / TABLES).is_file():
        raise UserError(
            "the trained networks and the pages are in the repository alone: "
            "run this in a clone of it"
        )
    image_folder = ""
    if args.dataset:
        list_folder(args.dataset)  # raises, before hours of work
        image_folder = str(Path(args.dataset).absolute())
    wanted = list(CHECKPOINTS) if args.only is None else args.only
    without_images = []
    for name in wanted:
        if CHECKPOINTS[name].network.images and not args.dataset:
            without_images.append(name)

    folder = HERE / "results"
    rows = []
    for evaluation in evaluations(image_folder):
        path = folder / f"{evaluation.run}.json"
        name = evaluation.checkpoint
        if name in wanted and name not in without_images:
            place = f"--output_dir results --results_json results/{path.name} --overwrite"
            flags = f"{evaluation.flags} --run_name {evaluation.run} {place}"
            call(evaluation.command, flags, HERE)
        network = CHECKPOINTS[name].network
        rows += [row_of(network, record) for record in json.loads(path.read_text())]
    save_results_json(folder / "results.json", rows)
    save_charts(rows)
    write_tables(rows, folder)
    print(
        "wrote results/results.json, the charts of docs/, and the tables of "
        f"{README}, {TABLES} and {ZOO}"
    )
    if without_images:
        print(
            "not evaluated, and rows of before stay as they are: "
            f"{', '.join(without_images)}; {ADD_FOLDER}"
        )


def save_charts(rows: list[Row]) -> None:
    """Draw accuracy against spikes with early exit, a chart for each data set."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        if dataset not in IMAGE_SHAPES:
            continue
        runs = [row for row in rows if row["dataset"] == dataset]
        points = []
        for group in over_seeds(runs):
            by_seed = dict(enumerate(group))
            points.append((group[0], spread("spikes", by_seed), spread("accuracy", by_seed)))
        at_equal_spikes = {}
        for name, family in early_exit_families(runs).items():
            at_equal_spikes[name] = comparing.at_spikes(family.ours, family.baseline)
        path = HERE / f"docs/accuracy_spikes_{dataset.lower()}.png"
        save_accuracy_against_spikes(path, points, *verdicts(dataset, at_equal_spikes))


def write_tables(rows: list[Row], folder: Path) -> None:
    """Write the tables of the pages."""
    shown = [row for row in rows if is_shown(row)]
    lines = [*table(over_seeds(shown)), ""]
    lines += [*pairs_table(shown), ""]
    lines += [*equal_table(rows), ""]
    put_into(HERE / TABLES, lines)
    put_into(HERE / README, short_table(folder))
    put_into(HERE / ZOO, zoo_table())


# --- rows of results.json


def row_of(network: Network, record: dict[str, object]) -> Row:
    """Return a row of results.json from an evaluation record of a network."""
    name = network.label
    if record.get("selected_on") == "test":
        name += " (chosen on test images)"
    row = {
        "name": name,
        "plan": record["model"],
        "feedback": record["feedback"],
        "blocking": record["epsilon"] > 0,
        "rule": record.get("rule", "none"),
        "bounds": record.get("bounds", {}),
    }
    for key in KEPT:
        if key in record:
            row[key] = record[key]
    if network.images:
        row["dataset"] = network.images
        row["date"] = record["date"]
    operations = dict(record["operations"])
    operations.pop("layers", None)
    row["operations"] = operations
    for key in ("energy_joules", "energy_event_joules", "images_per_second"):
        row[key] = record[key]
    return row


def is_shown(row: Row) -> bool:
    """Return whether tables show a row: all steps, or early exit at a margin of 1."""
    return row["rule"] == "none" or row["bounds"].get("gap_bound") == MARGIN_SHOWN


def grouped(items: Iterable, key: Callable[[object], Hashable]) -> dict[Hashable, list]:
    """Return key(item) -> the items that have it, in their order."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def by_seed_of(rows: list[Row]) -> dict[int, list[Row]]:
    """Return seed -> its rows."""
    return grouped(rows, lambda row: row["seed"])


def over_seeds(rows: list[Row]) -> list[list[Row]]:
    """Return the rows, in lists of those that only the seed tells apart."""

    def key(row: Row) -> tuple:
        return (row["name"], row["dataset"], row["epsilon"], *run_of(row))

    return list(grouped(rows, key).values())


def run_of(row: Row) -> tuple[int, str]:
    """Return T and stop_of(), which tell the runs of a network and seed apart."""
    return row["timesteps"], stop_of(row)


def stop_of(row: Row) -> str:
    """Return "confidence 1", of a rule and its bounds; "" where all steps are run."""
    if row["rule"] == "none":
        return ""
    bounds = [f"{value:g}" for value in row["bounds"].values()]
    return " ".join([row["rule"], *bounds])


def paired(rows: list[Row], network: str) -> dict[tuple, dict[str, Difference]]:
    """Compare a network with its baseline, run for the same steps by the same rule.

    Parameters
    ----------
    rows : list of Row
    network : str
        Its name in the tables.

    Returns
    -------
    dict
        run_of() -> figure -> Difference, over the pairs of the same seed.
    """
    baseline = f"baseline of {network}"
    both = [row for row in rows if row["name"] in (network, baseline)]
    differences = {}
    for run, alike in grouped(both, run_of).items():
        ours = {row["seed"]: row for row in alike if row["name"] == network}
        theirs = {row["seed"]: row for row in alike if row["name"] == baseline}
        figures = {name: difference(name, ours, theirs) for name in SPREAD}
        if figures["accuracy"]:
            differences[run] = figures
    return differences


class Family(NamedTuple):
    """A network and its baseline, evaluated with early exit at several margins.

    Attributes
    ----------
    ours, baseline : dict of {int: list of Row}
        Seed -> a row for each margin.
    """

    ours: dict[int, list[Row]]
    baseline: dict[int, list[Row]]


def early_exit_families(rows: list[Row]) -> dict[str, Family]:
    """Return the families among these rows, by the network's name."""
    stopped = [row for row in rows if row["rule"] == "confidence"]
    by_name = grouped(stopped, lambda row: row["name"])
    families = {}
    for name, ours in by_name.items():
        baseline = by_name.get(f"baseline of {name}")
        if baseline:
            families[name] = Family(by_seed_of(ours), by_seed_of(baseline))
    return families


# --- tables


def markdown(head: str, rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield the lines of a Markdown table.

    Parameters
    ----------
    head : str
        Its titles, between bars.
    rows : iterable of iterable
        Their cells.
    """
    columns = head.count(" | ") + 1
    yield f"| {head} |"
    yield "|" + " --- |" * columns
    for cells in rows:
        yield f"| {' | '.join(str(cell) for cell in cells)} |"


def table(groups: list[list[Row]]) -> Iterator[str]:
    """Write rows as a Markdown table.

    In thousands of operations and microjoules per image; with several seeds mean ±
    standard deviation. A part that spikes in no network, as the decoder, has no column.

    Parameters
    ----------
    groups : list of list of Row
        Lists of rows that only the seed tells apart. Each becomes a line.
    """
    sent = set()
    for rows in groups:
        for row in rows:
            sent.update(part for part, count in row["spikes"].items() if count)
    parts = [part for part in PARTS.values() if part in sent]
    titles = [
        "data set",
        "network",
        "seeds",
        "T",
        "epsilon",
        "stop",
        "mean timesteps",
        "accuracy, %",
        *parts,
        "total spikes",
        "event-driven ACs",
        "energy layer by layer, µJ",
        "energy event-driven, µJ",
    ]
    lines = []
    for rows in groups:
        texts = texts_by_title(rows, parts)
        lines.append([texts[title] for title in titles])
    return markdown(" | ".join(titles), lines)


def texts_by_title(rows: list[Row], parts: list[str]) -> dict[str, object]:
    """Return what a line of table() says, by the titles of its columns.

    Parameters
    ----------
    rows : list of Row
        Rows that only the seed tells apart. All of them have the same data set, name,
        timesteps, epsilon and stopping rule, which the first one tells. Of the other
        figures the line has means over the seeds.
    parts : list of str
        The network's parts that have a column for their spikes.
    """
    first = rows[0]
    data_set = first["dataset"]
    if "date" in first:  # of images from a folder, which not every reader has
        data_set = f"{data_set}, {first['date']}"
    # Mean ± standard deviation; of energies in µJ, where the rows have joules.
    spreads = {name: spread_text(name, dict(enumerate(rows))) for name in SPREAD}
    mean_timesteps = fmean(row["mean_steps"] for row in rows)
    mean_acs = fmean(row["operations"]["event_acs"] for row in rows)  # per image
    texts = {
        "data set": data_set,
        "network": first["name"],
        "seeds": len(rows),
        "T": first["timesteps"],
        "epsilon": first["epsilon"] or "off",
        "stop": stop_of(first),
        "mean timesteps": f"{mean_timesteps:.1f}",
        "accuracy, %": spreads["accuracy"],
        "total spikes": spreads["spikes"],
        "event-driven ACs": f"{mean_acs / 1000:,.0f} k",
        "energy layer by layer, µJ": spreads["energy_joules"],
        "energy event-driven, µJ": spreads["energy_event_joules"],
    }
    for part in parts:
        mean_spikes = fmean(row["spikes"][part] for row in rows)
        texts[part] = f"{mean_spikes:,.0f}"
    return texts


def spread_text(name: str, by_seed: dict[int, Row]) -> str:
    """Write a figure over seeds: its mean ± standard deviation."""
    return spread(name, by_seed).text(FIGURES[name].form)


def short_table(folder: Path) -> Iterator[str]:
    """Write the README's table: the quick baseline's ANN and SNN, and the blocking SNN.

    Parameters
    ----------
    folder : Path
        Of the results.
    """
    tested = {}  # seed -> record of the ANN, whose accuracy its training has logged
    for seed in range(NETWORKS["quick_baseline"].seeds):
        log = PublishedPaths("ann", numbered("quick_baseline", seed)).json_path
        tested[seed] = json.loads(log.read_text().splitlines()[-1])
    models = {}
    for recipe in ("quick_baseline", "quick_feedback"):
        models[recipe] = load(HOME / f"trained_models/snn/{recipe}.pth")
    baseline_record = records_of(folder, "quick_baseline", "none")[0]
    baseline = ledger_of(baseline_record, models["quick_baseline"])
    rows = [
        [
            "the baseline's ANN (accuracy in float32, energy in 8 bits)",
            spread("accuracy", tested).text(".2f"),
            "-",
            f"{1e6 * baseline.ann_joules(ARITHMETIC, 8):.2f}",
            f"{1e6 * baseline.ann_joules(WITH_MEMORY, 8):.1f}",
        ]
    ]
    for rule, words in (("confidence", "early exit, margin 1"), ("none", "T = 50")):
        for recipe, model in models.items():
            records = records_of(folder, recipe, rule)
            microjoules = []
            for record in records.values():
                joules = ledger_of(record, model).joules(WITH_MEMORY, "event-driven")
                microjoules.append(1e6 * joules)
            name = "blocking" if model.has_feedback else "baseline"
            rows.append(
                [
                    f"{name}, {words}",
                    spread_text("accuracy", records),
                    spread_text("spikes", records),
                    spread_text("energy_event_joules", records),
                    f"{fmean(microjoules):,.1f} ± {stdev(microjoules):.1f}",
                ]
            )
    return markdown(
        "network | accuracy, % | spikes per image | energy of arithmetic, µJ | "
        "energy with memory, µJ",
        rows,
    )


def records_of(folder: Path, recipe: str, rule: str) -> dict[int, Row]:
    """Return a network's evaluations over 50 timesteps.

    Parameters
    ----------
    folder : Path
        Of the results.
    recipe : str
    rule : {"none", "confidence"}
        Over all timesteps, or with early exit.

    Returns
    -------
    dict of {int: Row}
        Seed -> record.
    """
    found = []
    for seed in range(NETWORKS[recipe].seeds):
        path = folder / f"{numbered(recipe, seed)}_stop.json"
        for record in json.loads(path.read_text()):
            record = {"rule": "none"} | record
            if record["rule"] == rule and is_shown(record):
                found.append(record)
    return dict(enumerate(found))


def ledger_of(record: dict[str, object], model: VGG_SNN_STDB_wFeedback) -> Ledger:
    """Return the Ledger of an evaluation, for event-driven execution.

    Parameters
    ----------
    record : dict of {str: object}
        The evaluation's record.
    model : VGG_SNN_STDB_wFeedback
        The network that was evaluated, without biases and leaks.
    """
    layers = record["operations"]["layers"]
    steps = record["mean_steps"]
    counts = {
        "acs": layers["effective_acs"],
        "macs": layers["effective_macs"],
        "dense": layers["dense"],
        "events": layers["event_acs"],
        "steps": dict.fromkeys(layers["dense"], steps),
        "biases": {},
        "reached": {},
    }
    figures = {
        "images": 1,
        "spikes": record["spikes_per_layer"],
        "comparisons": record["comparisons"],
    }
    return Ledger(
        name="",
        images=record["images"],
        accuracy=record["accuracy"],
        timesteps=model.timesteps,
        mean_steps=steps,
        leaks=False,
        entries=entries_of(model, counts, figures),
    )


def pairs_table(rows: Iterable[Row]) -> Iterator[str]:
    """Write what feedback with blocking changes against the baseline.

    Differences are paired by seed, with 95 % intervals, in a Markdown table. Then come
    those that are left after correction, and those that are equivalent.
    """
    kept = [row for row in rows if row["blocking"] or not row["feedback"]]
    networks = dict.fromkeys((row["name"], row["dataset"]) for row in kept if row["feedback"])
    lines = []
    changes = {}  # (run, title of a figure) -> Difference, of several pairs
    for network, dataset in networks:
        on_data_set = [row for row in kept if row["dataset"] == dataset]
        for (steps, stop), figures in paired(on_data_set, network).items():
            texts = [change.text(FIGURES[name]) for name, change in figures.items()]
            lines.append([dataset, network, figures["accuracy"].pairs, steps, stop, *texts])
            run = f"{network}, T = {steps}"
            if stop:
                run += f", {stop}"
            for name, change in figures.items():
                if change.half:
                    changes[run, FIGURES[name].title] = change
    yield from markdown(
        "data set | network | pairs | T | stop | accuracy, points | spikes | "
        "energy layer by layer | energy event-driven",
        lines,
    )
    yield ""
    yield f"Corrected for {len(changes)} comparisons (Holm, 5 %), these differ from 0:"
    yield ""
    for run, keys in grouped(comparing.surviving(changes), lambda key: key[0]).items():
        titles = [title.removesuffix(", µJ") for _, title in keys]
        yield f"- {run}: {'; '.join(titles)}"
    shares = {}
    for (run, title), change in changes.items():
        if title != FIGURES["accuracy"].title:
            shares[f"{run}: {title}"] = change
    yield ""
    yield comparing.equivalence_line(shares, EQUIVALENT)


def equal_table(rows: list[Row]) -> Iterator[str]:
    """Write how feedback differs with early exit, at equal spikes and equal accuracy.

    It differs from the baseline, in a Markdown table. The accuracy is the highest in
    tenths of a percent that all networks of the family reach. Then come the differences
    that are left after correction.
    """
    lines = []
    changes = {}
    for name, family in early_exit_families(rows).items():
        level = shared_accuracy(family)
        ours = at_accuracy(family.ours, level)
        baseline = at_accuracy(family.baseline, level)
        accuracy = comparing.at_spikes(family.ours, family.baseline)
        spikes = difference("spikes", ours, baseline)
        lines.append(
            [
                name,
                accuracy.pairs,
                accuracy.text(FIGURES["accuracy"]),
                f"{level:.1f}",
                spread("spikes", ours).text(",.0f"),
                spread("spikes", baseline).text(",.0f"),
                spikes.text(FIGURES["spikes"]),
            ]
        )
        changes[f"{name}, accuracy at equal spikes"] = accuracy
        changes[f"{name}, spikes at equal accuracy"] = spikes
    yield from markdown(
        "network | pairs | accuracy at equal spikes, points | at an accuracy of, % | "
        "spikes there | baseline's | difference",
        lines,
    )
    yield ""
    several = {name: change for name, change in changes.items() if change.half}
    yield comparing.correction_line(several)


def shared_accuracy(family: Family) -> float:
    """Return the highest accuracy that all seeds reach, in %, in whole tenths."""
    highest = []
    for by_seed in family:
        for rows in by_seed.values():
            highest.append(max(row["accuracy"] for row in rows))
    return floor(1000 * min(highest) + 1e-9) / 10


def at_accuracy(by_seed: dict[int, list[Row]], level: float) -> dict[int, Row]:
    """Return for each seed where it has this accuracy in %, between its margins."""
    return {seed: comparing.at_accuracy(rows, level) for seed, rows in by_seed.items()}


def zoo_table() -> Iterator[str]:
    """Write a table of the networks of all recipes, by the logs of seed 0."""
    rows = []
    for name in names("snn"):
        if name == "own":  # it is for images of the reader's
            continue
        recipe = find(name, "snn")
        known = known_of(recipe)
        images = recipe.flags["dataset"]
        if images == "CIFAR10":
            images = JPEG
        rows.append(
            [
                f"`{recipe.path.stem}`",
                recipe.flags["architecture"],
                images,
                recipe.flags["timesteps"],
                known.accuracy,
                known.spikes,
                known.energy,
                known.checkpoint,
                known.training,
            ]
        )
    return markdown(
        "recipe | architecture | images | T | accuracy, % | spikes | energy, µJ | checkpoint | "
        "training",
        rows,
    )


def verdicts(dataset: str, apart: dict[str, Difference]) -> tuple[dict[str, str], str]:
    """Say which of a network and its baseline is ahead.

    Parameters
    ----------
    dataset : str
    apart : dict of {str: Difference}
        Name of a network -> by how much its accuracy differs at equal spikes.

    Returns
    -------
    words : dict of {str: str}
        Name of a network -> two lines on it. First come differences over several seeds,
        then of one seed, then none detected.
    line : str
        All in one line.
    """
    unsure = {}
    for name, change in apart.items():
        unsure[name] = abs(change.mean) <= (change.half or 0)
    order = sorted(apart, key=lambda name: (unsure[name], not apart[name].half, apart[name].mean))
    words = {}
    pairs_behind = []  # how many seeds there are of each network whose baseline is ahead
    for name in order:
        change = apart[name]
        verdict = "feedback ahead" if change.mean > 0 else "baseline ahead"
        if unsure[name]:
            verdict = "no difference detected"
        points = change.text(FIGURES["accuracy"])
        words[name] = f"{counted(change.pairs, 'seed')}\n{points} points: {verdict}"
        if verdict == "baseline ahead":
            pairs_behind.append(change.pairs)
    line = (
        f"{dataset}: at equal spikes the baseline is ahead in {len(pairs_behind)} of {len(apart)} "
        "families"
    )
    if 1 in pairs_behind:
        line += f" ({pairs_behind.count(1)} with one seed)"
    return words, line


# --- pages


def put_into(page: Path, lines: Iterable[str]) -> None:
    """Replace what stands between the marks of a page."""
    text = between(page.read_text(encoding="utf-8"), *MARKS, lines)
    write_whole(page, lambda file: file.write(text.encode()))


def between(text: str, begin: str, end: str, lines: Iterable[str]) -> str:
    """Return a text with these lines between two marks of it.

    Raises
    ------
    ValueError
        If it lacks one of the marks.
    """
    first = text.index(begin)
    last = text.index(end, first)
    return "\n".join([text[:first] + begin, *lines, text[last:]])


if __name__ == "__main__":
    run_script(main)
