"""The parser of every script: argparse with short help, ranges, errors of one line.

Plain argparse: of simple-parsing 0.1.9, jsonargparse 4.53, tyro 1.0.17 and
argparse-dataclass 2.0, tried in November 2026, each lacks short flags, bare and valued
switches, groups or errors of one line.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from self_models.data.images import readable_name
from self_models.errors import UserError
from self_models.settings import Choice, Setting, Switch, Text, meant
from wfeedback.arguments import Arguments
from wfeedback.command_line import recipes
from wfeedback.command_line.scripts import fail

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
# The value of a flag that was not typed. A list, since the action `append` adds to it.
ABSENT = []
PRESET = (
    "flags of a recipe and its checkpoint; flags that you type override them. NAME: "
    "quick_feedback (minutes), fast_feedback, accurate_feedback, deep_phased, own (your images), "
    "...; list: show all, with accuracy and spikes; PATH.toml: your own recipe, copied from "
    f"{recipes.FOLDER}"
)


def flag_type(kind: object) -> Callable[[str], object]:
    """Return an argparse type that parses a flag's text.

    Parameters
    ----------
    kind : Number, Choice, Switch or Text
        What the value is, see self_models/settings.py. The type keeps it as its
        attribute ``kind``, by which ``--help`` tells the range.

    Returns
    -------
    callable
        Text -> value.
    """

    def parse(text: str) -> object:
        try:
            return kind.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parse.kind = kind
    return parse


def kind_of(action: argparse.Action) -> object:
    """Return the kind of value that a flag takes, None of a flag of plain argparse."""
    if isinstance(action, SwitchAction):
        return Switch()
    return getattr(action.type, "kind", None)


def new_file(*endings: str) -> Text:
    """Return the kind of a flag that names a file to be written.

    Parameters
    ----------
    *endings : str
        The name must have one of them, if there are any. Its folder must exist.
    """

    def parse(text: str) -> str:
        if not text:
            return text
        path = Path(text).absolute()
        what = "a file"
        if endings:
            what = f"a name that ends in {' or '.join(endings)}"
        has_ending = not endings or path.suffix.lower() in endings
        if not has_ending or not path.parent.is_dir() or path.is_dir():
            raise ValueError(f"{text}: give {what}, in a folder that exists")
        return text

    return Text(parse)


def add_output_flag(group: object, flag: str, help: str, *endings: str, default: str = "") -> None:
    """Add a flag that names a file with one of these endings."""
    group.add_argument(
        flag,
        type=flag_type(new_file(*endings)),
        default=default,
        metavar=f"X{'|'.join(endings)}",
        help=help,
    )


class Parser(argparse.ArgumentParser):
    """An argparse parser whose flags have ranges, and whose errors are one line.

    Flags are added by ``add_flag``, or as in argparse by ``add_argument``. Errors end
    the script with exit status 2.

    Parameters
    ----------
    description : str
        What the script does.
    table : {"", "ann", "snn", "evaluation"}
        The table of recipes/NAME.toml that this script reads. "": it has no
        ``--preset``.
    bare : str
        What to say where nothing is typed at all. "": that is no error.

    Attributes
    ----------
    settings : dict of {str: Setting}
        The flags that ``add_flag`` and ``add_setting`` have added, by name.
    rare : set of str
        Flags that ``--help`` leaves out, and ``--help_all`` has.
    """

    def __init__(self, description: str, table: str = "", bare: str = "") -> None:
        self.bare = bare
        self.table = table
        self.settings = {}
        self.rare = set()
        super().__init__(
            description=description,
            allow_abbrev=False,
            exit_on_error=False,
            formatter_class=partial(_Help, parser=self),
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
        # In this order. --help leaves out a group without flags.
        self._groups = {title: self.add_argument_group(title) for title in GROUPS}

    def add_flag(
        self, group: str, *names: str, kind: object, default: object, help: str, **more: object
    ) -> None:
        """Add a flag.

        Parameters
        ----------
        group : str
            One of ``GROUPS``.
        *names : str
            Such as "-s" and "--seed". The last names the attribute of ``args``.
        kind : Number, Choice, Switch or Text
            What its value is.
        default : object
            The value where the flag is not typed.
        help : str
            Without range and default, which ``--help`` adds.
        **more
            Further attributes of ``Setting``: common (the short help has it, too),
            training (it counts in training only), metavar, argparse.
        """
        declared = Setting(kind, help, default, flags=names, group=group, of_run=True, **more)
        self.add_setting(names[-1].removeprefix("--"), declared)

    def add_setting(self, name: str, declared: Setting) -> None:
        """Add the flag of a network's setting; nothing where it has none.

        A setting of somebody's own that names no group gets a flag among "network".

        Raises
        ------
        UserError
            If the parser has a flag of this name, no such group, or no name for the
            value, as a part of somebody's own may want.
        """
        option_strings = declared.option_strings(name)
        if not option_strings:
            return
        flag = declared.flag(name)
        if not flag.isidentifier():  # it is an attribute of the flags, too
            raise UserError(
                f"--model: the setting {name} has the flag {' '.join(option_strings)}: give it a "
                "long one of letters and _, such as --my_setting"
            )
        if set(option_strings) & self._option_string_actions.keys():
            raise UserError(
                f"--model: --{flag} is a flag of this script already: "
                "give your setting another name"
            )
        group = declared.group or "network"
        if group not in self._groups:
            raise UserError(
                f"--model: the setting {name} is of the group {group!r}, which --help does not "
                f"have: choose from {', '.join(GROUPS)}"
            )
        keywords = {"default": declared.default, "help": declared.help}
        if isinstance(declared.kind, Switch):
            keywords["action"] = SwitchAction
        else:
            keywords["type"] = flag_type(declared.kind)
            keywords["metavar"] = declared.metavar
            if isinstance(declared.kind, Choice):
                keywords["choices"] = list(declared.kind.names)
            keywords |= declared.argparse
        self._groups[group].add_argument(*option_strings, **keywords)
        self.settings[flag] = declared
        if not declared.common:
            self.rare.add(flag)

    def flag_actions(self) -> dict[str, argparse.Action]:
        """Return name -> action of all flags and words, in the order of --help."""
        actions = {}
        for group in self._action_groups:
            for action in group._group_actions:
                if argparse.SUPPRESS not in (action.dest, action.default):
                    actions[action.dest] = action
        return actions

    def groups_of_flags(self) -> dict[str, str]:
        """Return name -> title of the group of each flag, in the order of --help."""
        titles = {}
        flags = self.flag_actions()
        for group in self._action_groups:
            for action in group._group_actions:
                if action.dest in flags:
                    titles[action.dest] = group.title
        return titles

    def defaults(self) -> dict[str, object]:
        """Return name -> default of each flag. Defaults that are texts are parsed."""
        values = {}
        for name, action in self.flag_actions().items():
            values[name] = action.default
            if isinstance(action.default, str):
                values[name] = self._get_value(action, action.default)
        return values

    def parse_args(self, args: list[str] | None = None, namespace: None = None) -> Arguments:
        """Read a command line, and the recipe that it names.

        Parameters
        ----------
        args : list of str or None
            The words. None: those of this process.
        namespace : None
            Not used: the result is always new.

        Returns
        -------
        Arguments

        Raises
        ------
        UserError
            For a recipe that cannot be read. Other errors end the script.
        """
        words = args
        if args is None:
            words = sys.argv[1:]
            if self.bare and not words:
                self.error(self.bare)
        for word in words:
            if readable_name(word) != word:  # the log, which has the command, could not be written
                self.error(f"{readable_name(word)} is not UTF-8: rename that file or folder")
        try:
            typed = self.read_words(words)
        except argparse.ArgumentError as error:
            self.error(str(error))
        parsed = Arguments(self, self.defaults())
        self._give(parsed, typed, "typed")
        parsed.typed = tuple(typed)
        if "preset" in typed:
            self._read_recipe(parsed)
        return parsed

    def read_words(self, words: list[str]) -> dict[str, object]:
        """Return name -> value of the flags in these words, in the order of --help."""
        absent = dict.fromkeys(self.flag_actions(), ABSENT)
        said = super().parse_args(words, argparse.Namespace(**absent))
        return {name: value for name, value in vars(said).items() if value is not ABSENT}

    def error(self, message: str) -> None:
        """End the script with this line, and with what was meant by a mistyped flag."""
        if "--help" not in message:
            typo = re.search("unrecognized arguments: (--[^ =]+)", message)
            likely = ""
            if typo:
                likely = meant(typo[1], self._option_string_actions)
            message = f"{message} ({likely}--help lists the flags)"
        fail(message, 2)

    def _give(self, args: Arguments, values: dict[str, object], origin: str) -> None:
        """Set flags that the user (origin "typed") or the recipe has given."""
        for name, value in values.items():
            setattr(args, name, value)
            args.origins[name] = origin
        args.given.update(values)

    def _read_recipe(self, args: Arguments) -> None:
        """Set flags to what the recipe of ``--preset`` says, unless they were typed.

        ``--preset list`` prints a table of all recipes and ends the script instead.

        Parameters
        ----------
        args : Arguments
            With what was typed, and defaults. Changed in place:

            - Flags that the recipe has get its values, and count as given, with the
              origin "recipe".
            - Flags of the networks that the recipe takes (such as ``pretrained_ann``)
              and ``run_name`` get paths and a name, with the origin "followed", unless
              they are given. They do not count as given afterwards.
            - ``preset_flags`` is new: the recipe's flags as words, for the log.
            - ``made_by`` is new: path of a network that the recipe takes -> the command
              that makes it, to tell where the file is missing.

        Raises
        ------
        UserError
            For a recipe that cannot be read, or does not fit the script.
        """
        if args.preset == "list":
            print(recipes.recipe_list())
            self.exit()
        kind = "ann" if self.table == "ann" else "snn"  # an evaluation is of an SNN
        recipe = recipes.find(args.preset, kind)
        # Without flags that typed ones make meaningless, as --epochs does ``updates``.
        values_in_file = recipe.flags_for(self.table, args.typed)
        # Typed flags are parsed as well, so that an error in the file is always told.
        parsed_values = self._parse_recipe(recipe, values_in_file)

        not_typed = [name for name in values_in_file if name not in args.typed]
        self._give(args, {name: parsed_values[name] for name in not_typed}, "recipe")
        flags_of_words = {
            name for name, action in self.flag_actions().items() if action.nargs == "+"
        }
        args.preset_flags = recipes.as_flags(
            {name: values_in_file[name] for name in not_typed}, flags_of_words
        )
        # After the recipe's flags, since the networks' paths depend on them (seed,
        # output_dir), and a network that is given takes the place of the recipe's.
        args.made_by = recipe.take_over_networks(args)
        # Neither is a flag, so no checkpoint or rule may set them.
        args.origins |= {"preset_flags": "found", "made_by": "found"}

    def _parse_recipe(
        self, recipe: recipes.Recipe, values_in_file: dict[str, object]
    ) -> dict[str, object]:
        """Return flag -> value, of a recipe's flags as if they had been typed.

        Parameters
        ----------
        recipe : Recipe
            For errors, which name its file.
        values_in_file : dict of {str: object}
            Flag -> value, as the file has it.

        Raises
        ------
        UserError
            For the first flag that this script has not, or whose value cannot be.
        """
        # Only flags whose kind of value is declared may stand in a recipe: --preset,
        # for example, may not.
        known = {name: action for name, action in self.flag_actions().items() if kind_of(action)}
        parsed_values = {}
        for name, value in values_in_file.items():
            if name not in known:
                likely = meant(name, known)
                raise UserError(
                    f"{recipe.path}: {name} is no flag of this script: "
                    f"{likely}--help_all lists them"
                )
            parsed_values[name] = self._value_in_recipe(recipe, known[name], value)
        return parsed_values

    def _value_in_recipe(
        self, recipe: recipes.Recipe, flag: argparse.Action, value: object
    ) -> object:
        """Return the value of a flag in a recipe, which is parsed as if it were typed.

        Raises
        ------
        UserError
            With the file and the flag, for a value that cannot be.
        """
        name = flag.dest
        try:
            if isinstance(flag, SwitchAction):
                if isinstance(value, str):
                    return Switch().parse(value)
                return Switch().check(value)
            words = value if isinstance(value, list) else [value]
            words = [str(word) for word in words]
            if flag.nargs != "+":
                words = [f"--{name}={' '.join(words)}"]
            else:
                words = [f"--{name}", *words]
            with self._without_positional_words():
                return self.read_words(words)[name]
        except (ValueError, argparse.ArgumentError) as error:
            reason = getattr(error, "message", str(error))
            raise UserError(f"{recipe.path}: {name}: {reason}") from None

    @contextlib.contextmanager
    def _without_positional_words(self) -> Iterator[None]:
        """Let positional words be absent, as in a recipe, which has flags only."""
        required = [action for action in self._actions if action.required]
        for action in required:
            action.required = False
        try:
            yield
        finally:
            for action in required:
                action.required = True


class _HelpAll(argparse.Action):
    """``--help_all``: as --help, with the flags that that leaves out."""

    def __call__(self, parser: Parser, *_: object) -> None:
        parser.rare = set()
        parser.print_help()
        parser.exit()


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """--help without the flags that are rare, with range and default of each."""

    def __init__(self, prog: str, parser: Parser) -> None:
        super().__init__(prog, max_help_position=34, width=110)
        self._rare = parser.rare

    def add_argument(self, action: argparse.Action) -> None:
        if action.dest not in self._rare:
            super().add_argument(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Write '-s, --seed N'; X of a number that need not be whole; a switch bare."""
        names = ", ".join(action.option_strings)
        if isinstance(action, SwitchAction) or action.nargs == 0:
            return names
        number = getattr(kind_of(action), "kind", None)
        metavar = {int: "N", float: "X"}.get(number, action.dest.upper())
        return f"{names} {self._format_args(action, metavar)}"

    def _get_help_string(self, action: argparse.Action) -> str:
        # A text may tell the default itself: what no value stands for.
        text, _, default = action.help.partition(" (default: ")
        default = default.removesuffix(")")
        values = action.default if isinstance(action.default, list) else [action.default]
        has_default = values[:1] not in ([None], [""], [argparse.SUPPRESS])
        if not default and has_default and "default:" not in text:
            default = " ".join(str(value) for value in values)
        notes = []
        if getattr(kind_of(action), "range", ""):
            notes.append(kind_of(action).range)
        if default:
            notes.append(f"default: {default}")
        if not notes:
            return text
        return f"{text} ({'; '.join(notes)})"


class SwitchAction(argparse.Action):
    """A boolean flag: --log, --no-log, --log True, --log False."""

    def __init__(self, option_strings: list[str], dest: str, **keywords: object) -> None:
        negative = [f"--no-{name[2:]}" for name in option_strings if name.startswith("--")]
        names = [*option_strings, *negative]
        super().__init__(names, dest, nargs="?", metavar="True|False", **keywords)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        value: str | None,
        option_string: str | None = None,
    ) -> None:
        """Set the flag: to True without a value, to False by --no-FLAG."""
        is_negative = option_string.startswith("--no-")
        if value is None:
            setattr(namespace, self.dest, not is_negative)
            return
        try:
            # --no-log takes no value, so any is refused, as the empty text is.
            setattr(namespace, self.dest, Switch().parse("" if is_negative else value))
        except ValueError as error:
            parser.error(f"argument {option_string}: {error}")
