"""A parser made of declared settings (self_models/basics/settings.py): their flags, groups, ranges and defaults.

Plain argparse: of simple-parsing 0.1.9, jsonargparse 4.53, tyro 1.0.17 and argparse-dataclass 2.0, tried in November 2026, each
lacks short flags, bare and valued switches, groups or errors of one line.
"""

import argparse
import re
import sys
from functools import partial
from pathlib import Path

from harness import UserError
from harness.command_line import recipes
from harness.command_line.scripts import fail
from self_models.basics.images import readable_name
from self_models.basics.settings import Choice, Number, Switch, Text, meant

GROUPS = (  # of --help, in this order
    "run",
    "checkpoint",
    "engine",
    "conversion",
    "data",
    "network",
    "spiking",
    "forgetting",
    "gate",
    "stopping",
    "training",
    "fine-tuning",
    "results",
)
LAYERS = (
    "default",
    "checkpoint",
    "script",
    "followed",
    "recipe",
    "typed",
    "found",
)  # of a Configuration, a later one wins
ABSENT = []  # the value of a flag that was not typed, and what the action `append` begins with
PRESET = (
    "flags of a recipe and its checkpoint; flags that you type override them. NAME: quick_feedback (minutes), fast_feedback, "
    "accurate_feedback, deep_phased, own (your images), ...; list: show all, with accuracy and spikes; PATH.toml: your own "
    f"recipe, copied from {recipes.FOLDER}"
)


def typed(kind):
    """An argparse type that parses as this kind of setting, which it keeps as `kind`."""

    def parse(text):
        try:
            return kind.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parse.kind = kind
    return parse


def new_file(*endings):
    """The kind of a flag that names a file to be written, with one of these endings, if any, in a folder that exists."""

    def parse(text):
        path = Path(text).absolute()
        if text and (
            not path.parent.is_dir()
            or path.is_dir()
            or (endings and path.suffix.lower() not in endings)
        ):
            what = f"a name that ends in {' or '.join(endings)}" if endings else "a file"
            raise ValueError(f"{text}: give {what}, in a folder that exists")
        return text

    return Text(parse)


def add_output_flag(group, flag, help, *endings, default=""):
    """A flag that names a file with one of these endings."""
    group.add_argument(
        flag,
        type=typed(new_file(*endings)),
        default=default,
        metavar=f"X{'|'.join(endings)}",
        help=help,
    )


def merged(layers):
    """Name -> value, of a Configuration's layers: where several say it, the last."""
    return {name: value for values in layers.values() for name, value in values.items()}


class Configuration:
    """Settings as attributes. layers: name -> dict of the settings that it says: default; checkpoint (what the network is);
    script (what this script asks of any network); followed (what follows from others); recipe; typed; found (what came of them,
    as how many images are held out). known: flag -> Setting of the declared ones; groups: flag -> title of its group in
    --help."""

    def __init__(self, known=None, groups=None, **layers):
        self.known, self.groups, self.layers = (
            known or {},
            groups or {},
            {name: {} for name in LAYERS} | layers,
        )
        self.values = merged(self.layers)
        self.default, self.recipe, self.typed = (
            self.layers[name] for name in ("default", "recipe", "typed")
        )
        self.given = self.recipe | self.typed  # what the user said
        self.origins = {name: layer for layer in LAYERS for name in self.layers[layer]}

    def __getattr__(self, name):
        if name not in vars(self).get("values", ()):
            raise AttributeError(f"there is no flag {name}")
        return self.values[name]

    def having(self, layer, **values):
        """A copy with these values in one of LAYERS."""
        return Configuration(
            self.known, self.groups, **self.layers | {layer: self.layers[layer] | values}
        )


class Parser(argparse.ArgumentParser):
    """The flags of name -> Setting in their groups. Fails with one line and exit status 2; parse_args returns a Configuration.
    --help leaves out the flags that are `rare`. table: of the recipe that --preset names (recipes.py), '' without --preset.
    bare: what to say where nothing is typed at all."""

    def __init__(self, description, table="", settings=(), bare=""):
        self.bare, self.table = bare, table
        self.known = {
            known.flag(name): known
            for name, known in dict(settings).items()
            if known.option_strings(name)
        }
        self.rare = {flag for flag, known in self.known.items() if not known.common}
        form = partial(_Help, parser=self)
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=form,
            usage="%(prog)s [FLAG ...]",
        )
        self.add_argument(
            "--help_all",
            action=_HelpAll,
            nargs=0,
            dest=argparse.SUPPRESS,
            help="show all flags and exit",
        )
        if table:
            self.add_argument("--preset", default="", metavar="NAME|PATH.toml|list", help=PRESET)
        for title in GROUPS:
            group = self.add_argument_group(title)  # --help leaves out one without flags
            for flag, known in self.known.items():
                if known.group == title:
                    group.add_argument(
                        *known.option_strings(flag),
                        default=known.default,
                        help=known.help,
                        **_of_kind(known),
                    )

    def error(self, message):
        typo = re.search("unrecognized arguments: (--[^ =]+)", message)
        likely = meant(typo[1], self._option_string_actions) if typo else ""
        fail(message if "--help" in message else f"{message} ({likely}--help lists the flags)", 2)

    def parse_args(self, args=None):
        if self.bare and args is None and not sys.argv[1:]:
            self.error(self.bare)
        for word in sys.argv[1:] if args is None else args:
            if readable_name(word) != word:  # the log, which has the command, could not be written
                self.error(f"{readable_name(word)} is not UTF-8: rename that file or folder")
        flags = {
            flag.dest: flag
            for flag in self._actions
            if argparse.SUPPRESS not in (flag.dest, flag.default)
        }
        said = super().parse_args(args, argparse.Namespace(**dict.fromkeys(flags, ABSENT)))
        config = Configuration(
            self.known,
            {
                flag.dest: group.title
                for group in self._action_groups
                for flag in group._group_actions
                if flag.dest in flags
            },
            default={
                name: self._get_value(flag, flag.default)
                if isinstance(flag.default, str)
                else flag.default
                for name, flag in flags.items()
            },
            typed={name: value for name, value in vars(said).items() if value is not ABSENT},
        )
        return self._with_recipe(config) if "preset" in config.typed else config

    def _with_recipe(self, config):
        """The Configuration with what the recipe of --preset says, and the networks that it takes."""
        if config.preset == "list":
            print(recipes.recipe_list())
            self.exit()
        recipe = recipes.find(config.preset, "ann" if self.table == "ann" else "snn")
        flags, told = (
            {flag.dest: flag for flag in self._actions if _kind_of(flag)},
            recipe.of(self.table, config.typed),
        )
        if unknown := [name for name in told if name not in flags]:
            likely = meant(unknown[0], flags)
            raise UserError(
                f"{recipe.path}: {unknown[0]} is no flag of this script: {likely}--help_all lists them"
            )
        try:
            config = config.having(
                "recipe", **{name: _checked(flags[name], value) for name, value in told.items()}
            )
        except ValueError as error:
            raise UserError(f"{recipe.path}: {error}") from None
        networks, made_by = recipe.networks(config)
        several = {name for name, flag in flags.items() if flag.nargs == "+"}
        words = recipes.as_flags(
            {name: value for name, value in told.items() if name not in config.typed}, several
        )
        return config.having("followed", **networks).having(
            "found", preset_flags=words, made_by=made_by
        )


def _checked(flag, value):
    """The value that a recipe gives a parser's flag. Raises ValueError, with the flag's name, for one that cannot be."""
    kind, takes_several = _kind_of(flag), flag.nargs == "+"
    if not takes_several and not isinstance(kind, Number | Switch):
        value = (
            " ".join(map(str, value)) if isinstance(value, list) else str(value)
        )  # the words that would be typed
    values = value if takes_several and isinstance(value, list) else [value]
    try:
        checked = [
            kind.parse(part) if isinstance(part, str) else kind.check(part) for part in values
        ]
    except ValueError as error:
        raise ValueError(f"{flag.dest}: {error}") from None
    return checked if takes_several else checked[0]


def _kind_of(flag):
    """The kind of setting that a parser's flag has, None of another flag."""
    return Switch() if isinstance(flag, SwitchAction) else getattr(flag.type, "kind", None)


def _of_kind(setting):
    """What argparse is told of a flag by its setting's kind."""
    if isinstance(setting.kind, Switch):
        return {"action": SwitchAction}
    choices = {"choices": list(setting.kind.names)} if isinstance(setting.kind, Choice) else {}
    return {"type": typed(setting.kind), "metavar": setting.metavar} | choices | setting.argparse


class _HelpAll(argparse.Action):
    def __call__(self, parser, *_):
        parser.rare = set()
        parser.print_help()
        parser.exit()


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """--help without the flags that are rare in this parser; ranges and defaults stand behind each text."""

    def __init__(self, prog, parser):
        super().__init__(prog, max_help_position=34, width=110)
        self._rare = parser.rare

    def add_argument(self, action):
        if action.dest not in self._rare:
            super().add_argument(action)

    def _format_action_invocation(self, action):
        """'-s, --seed N'; '--log, --no-log' of a switch; X of a number that need not be whole."""
        bare, number = (
            isinstance(action, SwitchAction) or action.nargs == 0,
            getattr(_kind_of(action), "kind", None),
        )
        name = {int: "N", float: "X"}.get(number, action.dest.upper())
        return ", ".join(action.option_strings) + (
            "" if bare else f" {self._format_args(action, name)}"
        )

    def _get_help_string(self, action):
        default = action.default if isinstance(action.default, list) else [action.default]
        text, _, said = action.help.partition(
            " (default: "
        )  # said there: what no value stands for
        if (
            not said
            and default[:1] not in ([None], [""], [argparse.SUPPRESS])
            and "default:" not in text
        ):
            said = " ".join(map(str, default))
        words = [
            getattr(_kind_of(action), "range", ""),
            said and f"default: {said.removesuffix(')')}",
        ]
        return f"{text} ({'; '.join(filter(None, words))})" if any(words) else text


class SwitchAction(argparse.Action):
    """A boolean flag: --log, --no-log, --log True, --log False."""

    def __init__(self, option_strings, dest, **kwargs):
        negative = [f"--no-{name[2:]}" for name in option_strings if name.startswith("--")]
        super().__init__(
            [*option_strings, *negative], dest, nargs="?", metavar="True|False", **kwargs
        )

    def __call__(self, parser, namespace, value, option_string=None):
        negative = option_string.startswith("--no-")
        try:
            setattr(
                namespace,
                self.dest,
                not negative if value is None else Switch().parse("" if negative else value),
            )
        except ValueError as error:
            parser.error(f"argument {option_string}: {error}")
