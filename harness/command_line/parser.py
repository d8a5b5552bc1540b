"""A parser made of declared settings (self_models/basics/settings.py): their flags, groups, ranges and defaults.

Plain argparse: of simple-parsing 0.1.9, jsonargparse 4.53, tyro 1.0.17 and argparse-dataclass 2.0, tried in November 2026, each
lacks short flags, bare and valued switches, groups or errors of one line.
"""

import argparse
import re
import shlex
import sys
from collections import ChainMap
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from harness import UserError
from harness.command_line import presets
from harness.command_line.scripts import fail
from self_models.basics.settings import Choice, Switch, meant

GROUPS = {  # title -> description, in the order of --help
    **dict.fromkeys(("run", "checkpoint", "engine", "conversion", "data", "network", "spiking")),
    "forgetting": "streaming: how old evidence decays",
    **dict.fromkeys(("gate", "stopping", "training", "fine-tuning", "results")),
}
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}  # of a switch


def typed(kind):
    """An argparse type that parses as this kind of setting, which it keeps as `kind`."""

    def parse(text):
        try:
            return kind.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parse.kind = kind
    return parse


def model_in(argv, table):
    """--model of a command line, or of the recipe's table that it names, '' for none: to be known before there are flags."""
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--model", "--preset"):
        scan.add_argument(flag, nargs="?", default="")
    found = scan.parse_known_args(argv)[0]
    if found.preset and not found.model:
        with suppress(UserError):  # of a recipe, which is told when flags are parsed
            found.model = str(presets.find(found.preset, "ann" if table == "ann" else "snn").of(table).get("model", ""))
    return found.model or ""


@dataclass(frozen=True)
class Configuration:
    """Flags as attributes, each with its value in the first of these layers that has it: settled (what came of the flags, as how
    many images are held out, whatever was given), typed (on the command line), recipe (of --preset), found (in a checkpoint, or
    what follows from it or from other flags), default. about: flag -> (title of its group in --help, default, whether it counts
    in training only). Immutable: with_found() and with_settled() return copies."""

    about: dict = field(default_factory=dict)
    found: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)
    typed: dict = field(default_factory=dict)
    settled: dict = field(default_factory=dict)

    @cached_property
    def given(self):
        """flag -> value of what the user said, typed or in the recipe."""
        return ChainMap(self.typed, self.recipe)

    @cached_property
    def values(self):
        """Name -> value of all."""
        defaults = {flag: default for flag, (_, default, _) in self.about.items()}
        return ChainMap(self.settled, self.typed, self.recipe, self.found, defaults)

    def __getattr__(self, name):
        if name in self.__dataclass_fields__ or name not in self.values:
            raise AttributeError(f"there is no flag {name}")
        return self.values[name]

    def with_found(self, **found):
        """A copy with these defaults filled in; values of the user and the recipe win."""
        return replace(self, found=self.found | found)

    def with_settled(self, **settled):
        """A copy with these values, whatever the user gave."""
        return replace(self, settled=self.settled | settled)


class Parser(argparse.ArgumentParser):
    """The flags of name -> Setting in their groups, title -> description. Fails with one line and exit status 2; parse_args
    returns a Configuration.

    --help leaves out the flags that are `rare`, --help_all shows all. table: of the recipe that --preset names (presets.py); '':
    there is no --preset. bare: what to say where nothing is typed at all.
    """

    def __init__(self, description, table="", settings=(), groups=GROUPS, bare=""):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Help, usage="%(prog)s [FLAG ...]")
        self.bare, self.table, self.source = bare, table, ""  # of what is parsed, in errors
        flags = {name: one for name, one in dict(settings).items() if one.option_strings(name)}
        self.rare = {one.flag(name) for name, one in flags.items() if not one.common}
        self.of_training = {one.flag(name) for name, one in flags.items() if one.training}
        self.add_argument("--help_all", action=_HelpAll, nargs=0, dest=argparse.SUPPRESS, help="show all flags and exit")
        if table:
            self.add_argument("--preset", default="", metavar="NAME|PATH.toml|list", help="flags of a recipe "
                              "and its checkpoint; flags that you type override them. NAME: quick_feedback (minutes), "
                              "fast_feedback, accurate_feedback, deep_phased, own (your images), ...; list: show all, with "
                              f"accuracy and spikes; PATH.toml: your own recipe, copied from {presets.FOLDER}")  # fmt: skip
        for title, text in groups.items():
            group = self.add_argument_group(title, text)  # --help leaves out one without flags
            for name, one in flags.items():
                if one.group == title:
                    group.add_argument(*one.option_strings(name), default=one.default, help=one.help, **_of_kind(one))

    def error(self, message):
        typo = re.search("unrecognized arguments: (--[^ =]+)", message)
        likely = meant(typo[1], self._option_string_actions) if typo else ""
        fail(self.source + (message if "--help" in message else f"{message} ({likely}--help lists the flags)"), 2)

    def format_help(self):
        """What --help shows: no rare flag, and no group that has no other."""
        page = self._get_formatter()
        page.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        page.add_text(self.description)
        for group in self._action_groups:
            if shown := [action for action in group._group_actions if action.dest not in self.rare]:
                page.start_section(group.title)
                page.add_text(group.description)
                page.add_arguments(shown)
                page.end_section()
        return page.format_help()

    def _about(self):
        """See Configuration."""
        flags = [(group.title, flag) for group in self._action_groups for flag in group._group_actions]
        return {
            flag.dest: (
                title,
                self._get_value(flag, one) if isinstance(one := flag.default, str) else one,
                flag.dest in self.of_training,
            )
            for title, flag in flags
            if argparse.SUPPRESS not in (flag.dest, flag.default)
        }

    def words_of(self, recipe):
        """flag -> the words of a command line that say what a recipe says of it. Raises UserError for what is no flag here."""
        known, found = {flag.dest: flag for flag in self._actions if _kind_of(flag)}, {}
        for name, value in recipe.of(self.table).items():
            if name not in known:
                likely = meant(name, known)
                raise UserError(f"{recipe.path}: {name} is no flag of this script: {likely}--help_all lists them")
            parts = [str(part) for part in (value if isinstance(value, list) else [value])]
            parts = parts if known[name].nargs == "+" else [" ".join(parts)]
            found[name] = [f"--{'no-' * (not value)}{name}"] if isinstance(value, bool) else [f"--{name}", *parts]
        return found

    def parse_args(self, args=None):
        is_typed, args = args is None, list(sys.argv[1:] if args is None else args)
        if self.bare and is_typed and not args:
            self.error(self.bare)
        typed = vars(super().parse_args(args, _Given()))
        if not (preset := typed.get("preset")):
            return Configuration(self._about(), typed=typed)
        if preset == "list":
            print(presets.preset_list())
            self.exit()
        recipe = presets.find(preset, "ann" if self.table == "ann" else "snn")
        words, self.source = self.words_of(recipe), f"{recipe.path}: "
        if "epochs" in typed and "updates" not in typed:  # either says how long
            words.pop("updates", None)
        said = vars(super().parse_args([*args, *chain(*words.values())], _Given()))
        told = shlex.join(chain(*(each for flag, each in words.items() if flag not in typed)))
        return recipe.complete(Configuration(self._about(), recipe=said, typed=typed, settled={"preset_flags": told}))


def _kind_of(flag):
    """The kind of setting that a parser's flag has, None of another flag."""
    return Switch() if isinstance(flag, SwitchAction) else getattr(flag.type, "kind", None)


def _of_kind(setting):
    """What argparse is told of a flag by its setting's kind."""
    if isinstance(setting.kind, Switch):
        return {"action": SwitchAction}
    choices = {"choices": list(setting.kind.names)} if isinstance(setting.kind, Choice) else {}
    return {"type": typed(setting.kind), "metavar": setting.metavar} | choices | setting.argparse


class _Given(argparse.Namespace):
    """A namespace that already has every name, so that argparse sets no defaults: vars() are the flags typed."""

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return None


class _HelpAll(argparse.Action):
    def __call__(self, parser, *_):
        parser.rare = set()
        parser.print_help()
        parser.exit()


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=34, width=110)

    def _format_action_invocation(self, action):
        """'-s, --seed N'; '--log, --no-log' of a switch; X of a number that need not be whole."""
        bare, number = isinstance(action, SwitchAction) or action.nargs == 0, getattr(_kind_of(action), "kind", None)
        name = {int: "N", float: "X"}.get(number, action.dest.upper())
        return ", ".join(action.option_strings) + ("" if bare else f" {self._format_args(action, name)}")

    def _get_help_string(self, action):
        default = action.default if isinstance(action.default, list) else [action.default]
        text, _, said = action.help.partition(" (default: ")  # said there: what no value stands for
        told = default[:1] not in ([None], [""], [argparse.SUPPRESS]) and "default:" not in text
        said = said.removesuffix(")") or " ".join(map(str, default)) * told
        words = [getattr(_kind_of(action), "range", ""), f"default: {said}" * bool(said)]
        return f"{text} ({'; '.join(filter(None, words))})" if any(words) else text


class SwitchAction(argparse.Action):
    """A boolean flag: --log, --no-log, --log True, --log False."""

    def __init__(self, option_strings, dest, **kwargs):
        negative = [f"--no-{name[2:]}" for name in option_strings if name.startswith("--")]
        super().__init__([*option_strings, *negative], dest, nargs="?", metavar="True|False", **kwargs)

    def __call__(self, parser, namespace, value, option_string=None):
        negative, word = option_string.startswith("--no-"), "true" if value is None else value.lower()
        if word not in WORDS or (negative and value is not None):
            parser.error(f"argument {option_string}: {value!r} is neither True nor False")
        setattr(namespace, self.dest, WORDS[word] != negative)


def lines_on_unused(args, known, model):
    """A line that names the typed flags without effect, if there are any: settings of parts that the model has not chosen, and
    with --test_only those of training. known: name -> Setting of all flags. A recipe's flags are not judged, since it serves
    every way of using its network."""
    others = {name for kind, registry in model.parts.items() for name in registry.settings_without(model.settings[kind])}
    unused = {one.flag(name) for name, one in known.items() if name in others or (one.training and args.test_only)}
    if typed := [flag for flag in args.typed if flag in unused]:
        yield f"note: without effect here: --{', --'.join(typed)}"
