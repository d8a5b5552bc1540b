"""Recipes: ``--preset NAME`` stands for the flags in recipes/NAME.toml.

``--preset PATH.toml`` stands for those in a file of one's own.

A recipe is three tables of flags, each whole: ``[ann]`` and ``[snn]``, of the scripts
that train one, and ``[evaluation]``, of those that evaluate the SNN. The flags
pretrained_ann, pretrained_snn and teacher_ann name a recipe, whose network of the same
seed is meant, or a .pth. An ``[snn]`` with neither of the first two starts from the
``[ann]`` of its file. run_name is that of seed 0. A recipe that names no dataset is for
images of one's own.
"""

import json
import os
import shlex
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from self_models.data.folders import LAYOUT
from self_models.data.images import reason
from self_models.errors import UserError
from self_models.places import HOME
from self_models.settings import meant
from wfeedback.arguments import Arguments, take_over
from wfeedback.measuring.tables import aligned
from wfeedback.runs.run import (
    Paths,
    PublishedPaths,
    name_for_training,
    numbered,
    path_from_here,
    program,
    read_records,
)

# Head of the table of --preset list.
HEAD = ("recipe", "accuracy, %", "spikes/image", "trained in", "checkpoint", "what it is")
FOLDER = HOME / "recipes"
TABLES = ("ann", "snn", "evaluation")
# Flags that name a checkpoint -> what it is of.
STARTS = {"pretrained_ann": "ann", "pretrained_snn": "snn", "teacher_ann": "ann"}
PRETRAINED = {"pretrained_ann", "pretrained_snn"}


def names(kind: str) -> list[str]:
    """Return the names of the recipes that came with the program.

    Parameters
    ----------
    kind : {"ann", "snn"}
        What they are to have a table for.
    """
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        if f"\n[{kind}]" in path.read_text(encoding="utf-8"):
            found.append(path.stem)
    return found


def is_checkpoint(word: object) -> bool:
    """Return whether a word names a file of weights, and no recipe."""
    return str(word).endswith(".pth")


@dataclass(frozen=True)
class Recipe:
    """How an ANN or SNN is made.

    Attributes
    ----------
    kind : {"ann", "snn"}
        What is made.
    path : Path
        The recipe's file.
    run : str
        Name of the run with seed 0.
    flags : dict of {str: object}
        Flags of the script that trains it.
    evaluation : dict of {str: object}
        Flags of the scripts that evaluate it.
    starts : dict of {str: str}
        Flag of each checkpoint that it takes -> name of a recipe, or path of a .pth.
    """

    kind: str
    path: Path
    run: str
    flags: dict[str, object]
    evaluation: dict[str, object]
    starts: dict[str, str]

    @property
    def came_with_program(self) -> bool:
        """Whether the recipe is none of the user's own."""
        return self.path.parent == FOLDER

    @property
    def published(self) -> PublishedPaths:
        """Paths of its network, seed 0, if that came with the program."""
        return PublishedPaths(self.kind, self.run)

    def flags_for(self, table: str, typed: Collection[str]) -> dict[str, object]:
        """Return flag -> value, of the flags that a script takes from this recipe.

        Parameters
        ----------
        table : {"ann", "snn", "evaluation"}
            The table that the script reads.
        typed : collection of str
            Flags that were typed. Some make those of the recipe meaningless: another
            start takes the place of the recipe's, and ``epochs`` that of ``updates``.

        Returns
        -------
        dict of {str: object}
        """
        if table == "evaluation":
            flags = dict(self.evaluation)
        else:
            flags = dict(self.flags)
            for flag, word in self.starts.items():
                if is_checkpoint(word):
                    flags[flag] = word
        if PRETRAINED & set(typed):  # another network was named
            for name in PRETRAINED:
                flags.pop(name, None)
        if "epochs" in typed and "updates" not in typed:  # either says how long
            flags.pop("updates", None)
        return flags

    def take_over_networks(self, args: Arguments) -> dict[str, str]:
        """Set flags to the networks that this recipe takes, and to the run's name.

        They rank below what is given, and do not count as given.

        Parameters
        ----------
        args : Arguments
            Changed in place.

        Returns
        -------
        dict of {str: str}
            Path of each network that is taken -> the command that makes it.

        Raises
        ------
        UserError
            If the recipe is for images of one's own, and none are named.
        """
        needs_images = self.kind == "ann" and not args.test_only
        if needs_images and not {"dataset", "resume", "pretrained_ann"} & args.given:
            raise UserError(
                f"--preset {args.preset} trains on images of your own: "
                f"add --dataset FOLDER ({LAYOUT})"
            )
        if args.test_only:
            recipes = {f"pretrained_{self.kind}": self}
        else:
            recipes = {flag: self.start(flag) for flag in self.starts}

        made_by = {}
        has_start = bool(PRETRAINED & args.given)
        for flag, recipe in recipes.items():
            if recipe is None or flag in args.given or (flag in PRETRAINED and has_start):
                continue
            path = str(recipe.checkpoint_for(args))
            take_over(args, {flag: path}, "followed")
            made_by[path] = recipe.command_for(args)
        if not (args.test_only or args.run_name):
            take_over(args, {"run_name": numbered(self.run, args.seed)}, "followed")
        return made_by

    def start(self, flag: str) -> "Recipe | None":
        """Return the recipe of a checkpoint that this one takes, None for a .pth."""
        word = self.starts[flag]
        if is_checkpoint(word):
            return None
        return find(word, STARTS[flag], self.path, flag)

    def checkpoint_for(self, args: Arguments) -> Path:
        """Return the path of its network, of the seed and the folder in the flags.

        It is the user's own, unless only the one that came with the program is there.
        """
        name = numbered(self.run, args.seed)
        own_name = name_for_training(self.kind, name, args.output_dir)
        path = Paths(self.kind, own_name, args.output_dir).best_path
        published = PublishedPaths(self.kind, name).best_path
        if self.came_with_program and published.is_file() and not path.is_file():
            path = published
        return path_from_here(path)

    def command_for(self, args: Arguments) -> str:
        """Return the command that makes its network, with the flags that were typed."""
        flags = {"preset": self.path.stem if self.came_with_program else str(self.path)}
        for name in ("dataset", "seed", "output_dir"):
            if name in args.typed and getattr(args, name):
                flags[name] = getattr(args, name)
        if "dataset" not in self.flags and "dataset" not in flags:
            flags["dataset"] = "FOLDER"
        return f"{shlex.join(program(self.kind))} {as_flags(flags)}"


def as_flags(values: Mapping[str, object], several: Collection[str] = ()) -> str:
    """Write flags as words of a command line.

    Parameters
    ----------
    values : dict of {str: object}
        Flag -> value. A list is written as one word, with spaces.
    several : collection of str
        Flags that take several words, so that each element of a list is one.

    Returns
    -------
    str
        Quoted for a shell.
    """
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
            continue
        elements = value if isinstance(value, list) else [value]
        elements = [str(element) for element in elements]
        words.append(f"--{name}")
        if name in several:
            words += elements
        else:
            words.append(" ".join(elements))
    return shlex.join(words)


# --- reading them


def find(word: str, kind: str, named_in: Path | None = None, flag: str = "") -> Recipe:
    """Find a recipe, and read it.

    Parameters
    ----------
    word : str
        NAME, of a recipe that came with the program or lies beside the one that names
        it; or PATH.toml.
    kind : {"ann", "snn"}
        What is to be made.
    named_in : Path, optional
        The recipe that names this one. Its folder is searched first.
    flag : str
        The flag by which it does, for errors.

    Returns
    -------
    Recipe

    Raises
    ------
    UserError
        If there is none, or its file cannot be read.
    """
    place = f"{named_in}: {flag}: " if named_in else ""
    path = find_file(word, kind, named_in, place)
    tables = read_tables(path)
    if kind not in tables:
        raise UserError(f"{place}{word} has no [{kind}]")
    flags = tables[kind]
    if kind == "snn" and "ann" in tables and not PRETRAINED & flags.keys():
        flags["pretrained_ann"] = path.stem
    starts = {}
    for name in STARTS:
        # An ANN does not start from an SNN: its script refuses that flag.
        is_known = not (kind == "ann" and name == "pretrained_snn")
        if name in flags and is_known:
            starts[name] = flags.pop(name)
    run = str(flags.pop("run_name", path.stem))
    return Recipe(kind, path, run, flags, tables.get("evaluation", {}), starts)


def find_file(word: str, kind: str, named_in: Path | None, place: str) -> Path:
    """Return the path of a recipe's file, as ``find`` has it.

    Parameters
    ----------
    word, kind, named_in
        As in ``find``.
    place : str
        What an error begins with.
    """
    is_path = str(word).endswith(".toml")
    folder = Path() if is_path else FOLDER
    if named_in:
        folder = named_in.parent
    if is_path:
        candidates = [folder / word]
    else:
        candidates = [folder / f"{word}.toml", FOLDER / f"{word}.toml"]
    for path in candidates:
        if os.path.isfile(path):
            is_in_folder = path.resolve().parent == FOLDER
            return FOLDER / path.name if is_in_folder else path

    if is_path:
        missing = "no file"
        known = [str(path) for path in Path().glob("*.toml") if is_recipe(path)]
    else:
        missing = "unknown recipe"
        known = names(kind)
    raise UserError(f"{place}{missing} {word!r}: {meant(word, known)}--preset list names all")


def is_recipe(path: Path) -> bool:
    """Return whether a TOML file has a recipe's tables, and no others."""
    try:
        return bool(read_tables(path))
    except UserError:
        return False


def read_tables(path: Path) -> dict[str, dict[str, object]]:
    """Read the tables of a recipe's file. Raises UserError for what is no recipe."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {reason(error, path)}") from None
    for name, value in tables.items():
        if name not in TABLES or not isinstance(value, dict):
            known = ", ".join(f"[{table}]" for table in TABLES)
            raise UserError(f"{path}: {name} stands in none of the tables {known}")
    return tables


# --- what is known of the recipes' networks


def recipe_list() -> str:
    """Return a table of all recipes, by name: seed 0 as trained, without early exit."""
    snn_recipes = names("snn")
    rows = [HEAD]
    for name in sorted({*names("ann"), *snn_recipes}):
        recipe = find(name, "snn" if name in snn_recipes else "ann")
        known = known_of(recipe)
        first_line = recipe.path.read_text(encoding="utf-8").partition("\n")[0]
        rows.append(
            [
                name,
                known.accuracy,
                known.spikes,
                known.training,
                known.checkpoint,
                first_line.removeprefix("# "),
            ]
        )
    return "\n".join(aligned(rows, left=(0, 4, 5)))


UNKNOWN = "-"


@dataclass(frozen=True)
class KnownFigures:
    """What is known of a recipe's network, seed 0, as texts, each "-" where it is not.

    Attributes
    ----------
    accuracy : str
        In percent.
    spikes : str
        Number of spikes per image.
    energy : str
        Energy per image, event-driven, in µJ.
    checkpoint : str
        Size of the file, in MB.
    training : str
        How long it took, in minutes, with the networks that it starts from.
    """

    accuracy: str = UNKNOWN
    spikes: str = UNKNOWN
    energy: str = UNKNOWN
    checkpoint: str = UNKNOWN
    training: str = UNKNOWN


def known_of(recipe: Recipe) -> KnownFigures:
    """Look up what is known of a recipe's network: in results/, else in its log."""
    figures = {}
    record = last_evaluation(recipe)
    if record:
        figures["accuracy"] = f"{100 * record['accuracy']:.2f}"
    if record.get("spikes"):
        figures["spikes"] = f"{record['spikes']['total']:,.0f}"
    if record.get("energy_event_joules"):
        figures["energy"] = f"{1e6 * record['energy_event_joules']:.2f}"
    path = recipe.published.best_path
    if path.is_file():
        figures["checkpoint"] = f"{path.stat().st_size / 1e6:.1f} MB"
    seconds = seconds_of(recipe)
    if seconds:
        figures["training"] = f"{round(seconds / 60)} minutes"
    return KnownFigures(**figures)


def last_evaluation(recipe: Recipe) -> dict[str, object]:
    """Return the record of a network's evaluation, seed 0, {} where there is none."""
    results = HOME / f"results/{recipe.run}_T{recipe.flags.get('timesteps')}.json"
    if results.is_file():
        records = json.loads(results.read_text(encoding="utf-8"))[:1]
    else:
        records = read_records(recipe.published.json_path)
    for record in reversed(records):
        if record["event"] == "evaluation":
            return record
    return {}


def seconds_of(recipe: Recipe) -> float:
    """Return how long a recipe's network took to train, with those that it starts from.

    0 where one of the logs did not come with the program.
    """
    records = read_records(recipe.published.json_path)
    if not records:
        return 0
    seconds = sum(record["seconds"] for record in records if record["event"] == "epoch")
    for flag in recipe.starts:
        start = recipe.start(flag) if flag in PRETRAINED else None
        if start:
            seconds_before = seconds_of(start)
            if not seconds_before:
                return 0
            seconds += seconds_before
    return seconds
