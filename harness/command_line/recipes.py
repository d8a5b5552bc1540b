"""Recipes: `--preset NAME` stands for the flags in recipes/NAME.toml, `--preset PATH.toml` for those in a file of one's own.

A recipe is three tables of flags, each whole: [ann] and [snn] of the scripts that train one, [evaluation] of those that evaluate
the SNN. pretrained_ann, pretrained_snn and teacher_ann name a recipe, whose network of the same seed is meant, or a .pth; an
[snn] with neither of the first two starts from the [ann] of its file. run_name is that of seed 0. A recipe that names no dataset
is for images of one's own.
"""

import json
import os
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness import UserError
from harness.arguments import take_over
from harness.measuring.tables import aligned
from harness.runs.run import (
    Paths,
    PublishedPaths,
    name_for_training,
    numbered,
    path_from_here,
    program,
    read_records,
)
from self_models.basics import HOME
from self_models.basics.images import reason
from self_models.basics.settings import meant
from self_models.data.folders import LAYOUT

HEAD = (
    "recipe",
    "accuracy, %",
    "spikes/image",
    "trained in",
    "checkpoint",
    "what it is",
)  # of --preset list
FOLDER = HOME / "recipes"
TABLES = ("ann", "snn", "evaluation")
STARTS = {
    "pretrained_ann": "ann",
    "pretrained_snn": "snn",
    "teacher_ann": "ann",
}  # flag -> what its checkpoint is of
PRETRAINED = {"pretrained_ann", "pretrained_snn"}


def names(kind):
    """The recipes that came with the program, of an ANN or SNN (kind)."""
    return [
        path.stem
        for path in sorted(FOLDER.glob("*.toml"))
        if f"\n[{kind}]" in path.read_text(encoding="utf-8")
    ]


@dataclass(frozen=True)
class Recipe:
    """How an ANN or SNN (kind) is made. path: of the file; run: name of the run with seed 0; flags, evaluation: flag -> value, of
    the script that trains it and those that evaluate it; starts: flag -> recipe or .pth of each checkpoint that it takes."""

    kind: str
    path: Path
    run: str
    flags: dict
    evaluation: dict
    starts: dict

    @property
    def committed(self):
        """The Paths of its network, seed 0, that came with the program."""
        return PublishedPaths(self.kind, self.run)

    def flags_for(self, table, typed):
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
            paths = {
                flag: word for flag, word in self.starts.items() if str(word).endswith(".pth")
            }
            flags = self.flags | paths
        if PRETRAINED & set(typed):  # another network was named
            for name in PRETRAINED:
                flags.pop(name, None)
        if "epochs" in typed and "updates" not in typed:  # either says how long
            flags.pop("updates", None)
        return flags

    def take_over_networks(self, args):
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
            path, command = recipe.made(args)
            take_over(args, {flag: path}, "followed")
            made_by[path] = command
        if not (args.test_only or args.run_name):
            take_over(args, {"run_name": numbered(self.run, args.seed)}, "followed")
        return made_by

    def start(self, flag):
        """The Recipe of a checkpoint that it takes, None for a .pth."""
        word = self.starts[flag]
        return None if str(word).endswith(".pth") else find(word, STARTS[flag], self.path, flag)

    def made(self, args):
        """(path of the network, the user's under --output_dir or as it came with the program; the command that makes it)."""
        name = numbered(self.run, args.seed)
        own_name = name_for_training(self.kind, name, args.output_dir)
        path = Paths(self.kind, own_name, args.output_dir).best_path
        published = PublishedPaths(self.kind, name).best_path
        came_with_it = self.path.parent == FOLDER
        if came_with_it and published.is_file() and not path.is_file():
            path = published
        words = {"preset": self.path.stem if came_with_it else str(self.path)}
        for name in ("dataset", "seed", "output_dir"):
            if name in args.typed and getattr(args, name):
                words[name] = getattr(args, name)
        if "dataset" not in self.flags | words:
            words["dataset"] = "FOLDER"
        command = f"{shlex.join(program(self.kind))} {as_flags(words)}"
        return str(path_from_here(path)), command


def as_flags(values, several=()):
    """The words of a command line that say flag -> value. several: flags that take several words."""
    words = []
    for name, value in values.items():
        parts = [str(part) for part in (value if isinstance(value, list) else [value])]
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *(parts if name in several else [" ".join(parts)])]
    return shlex.join(words)


def find(word, kind, teller=None, key=""):
    """The Recipe of an ANN or SNN (kind): NAME or PATH.toml. teller, key: recipe and flag that name it; its folder is first."""
    says, is_path = f"{teller}: {key}: " if teller else "", str(word).endswith(".toml")
    beside = teller.parent if teller else Path() if is_path else FOLDER
    places = [beside / word] if is_path else [beside / f"{word}.toml", FOLDER / f"{word}.toml"]
    if not (path := next(filter(os.path.isfile, places), None)):
        none, known = (
            ("no file", map(str, Path().glob("*.toml")))
            if is_path
            else ("unknown recipe", names(kind))
        )
        raise UserError(
            f"{says}{none} {word!r}: {meant(word, list(known))}--preset list names all"
        )
    path = FOLDER / path.name if path.resolve().parent == FOLDER else path
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {reason(error, path)}") from None
    if outside := [
        name for name, value in tables.items() if name not in TABLES or not isinstance(value, dict)
    ]:
        raise UserError(
            f"{path}: {outside[0]} stands in none of the tables {', '.join(f'[{name}]' for name in TABLES)}"
        )
    if kind not in tables:
        raise UserError(f"{says}{word} has no [{kind}]")
    flags = tables[kind]
    if kind == "snn" and "ann" in tables and not PRETRAINED & flags.keys():
        flags["pretrained_ann"] = path.stem
    starts = {
        flag: flags.pop(flag)
        for flag in STARTS
        if flag in flags and (kind, flag) != ("ann", "pretrained_snn")
    }
    run = str(flags.pop("run_name", path.stem))
    return Recipe(kind, path, run, flags, tables.get("evaluation", {}), starts)


# --- what is known of the recipes' networks


def recipe_list():
    """A table of all recipes, by name: seed 0 as trained, without early exit."""
    of_snns, rows = names("snn"), []
    for name in sorted({*names("ann"), *of_snns}):
        recipe = find(name, "snn" if name in of_snns else "ann")
        known, aim = (
            known_of(recipe),
            recipe.path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# "),
        )
        rows.append(
            [
                name,
                *(known[column] for column in ("accuracy", "spikes", "training")),
                known["checkpoint"],
                aim,
            ]
        )
    return "\n".join(aligned([HEAD, *rows], left=(0, 4, 5)))


def known_of(recipe):
    """What is known of a recipe's network, seed 0, as texts, else -: accuracy, spikes, energy in µJ, size, time of training."""
    result, path = (
        HOME / f"results/{recipe.run}_T{recipe.flags.get('timesteps')}.json",
        recipe.committed.best_path,
    )
    log = (
        json.loads(result.read_text(encoding="utf-8"))[:1]
        if result.is_file()
        else read_records(recipe.committed.json_path)
    )
    record = next((record for record in reversed(log) if record["event"] == "evaluation"), {})
    spikes, energy, seconds = (
        record.get("spikes"),
        record.get("energy_event_joules"),
        seconds_of(recipe),
    )
    return {
        "accuracy": f"{100 * record['accuracy']:.2f}" if record else "-",
        "spikes": f"{spikes['total']:,.0f}" if spikes else "-",
        "energy": f"{1e6 * energy:.2f}" if energy else "-",
        "checkpoint": f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "-",
        "training": f"{round(seconds / 60)} minutes" if seconds else "-",
    }


def seconds_of(recipe):
    """How long a recipe's network took to train, with those that it starts from; 0 where a log is not committed."""
    log = read_records(recipe.committed.json_path)
    own = sum(record["seconds"] for record in log if record["event"] == "epoch")
    before = [
        seconds_of(start)
        for flag in recipe.starts
        if "pretrained" in flag and (start := recipe.start(flag))
    ]
    return own + sum(before) if log and all(before) else 0
