"""Settings: each is declared once, as a field of a dataclass, by ``setting()``.

By this declaration configurations and flags check values, and --help and pages say what
a setting means. What is registered as a gate, a stopping rule or a read-out brings its
own settings.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Collection
from numbers import Integral, Real

from self_models import plugins
from self_models.errors import ModelError

MOST = 2**31 - 1  # of anything that is counted
WORDS = {  # of a switch
    "true": True,
    "yes": True,
    "1": True,
    "false": False,
    "no": False,
    "0": False,
}


def choices(value: object, names: Collection[str]) -> str:
    """Return what to say where a name is none of these: the likely one, and all."""
    return f"{meant(value, names)}choose from {', '.join(names)}"


def meant(value: object, names: Collection[str]) -> str:
    """Return 'did you mean NAME? ', or "" where none of the names is like the value."""
    if not isinstance(value, str):
        return ""
    alike = difflib.get_close_matches(value, names, 1)
    if not alike:
        return ""
    return f"did you mean {alike[0]}? "


class Registry(dict):
    """A dict of classes or functions by name.

    Parameters
    ----------
    kind : str
        What one of them is called in an error.
    keeps_all : bool
        Whether a network keeps the settings of all of them, whichever is chosen.

    Attributes
    ----------
    base : type or None
        What is registered from now on must be a dataclass derived from this class.
    """

    def __init__(self, kind: str, *, keeps_all: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.keeps_all = keeps_all
        self.base = None

    def register(self, name: str) -> Callable:
        """Return a decorator that enters a class or function under this name.

        Parameters
        ----------
        name : str

        Returns
        -------
        callable
            Takes the class or function, and returns it.

        Raises
        ------
        ModelError
            For a class that cannot be used, or a name that is there already.
        """

        def enter(thing: Callable) -> Callable:
            if name in self:
                raise ModelError(
                    f"{self.kind} {name!r} is there already: register yours under another name"
                )
            if self.base:
                self.check_class(name, thing)
            self[name] = thing
            return thing

        return enter

    def offer(self, places: dict[str, str]) -> None:
        """Enter what is imported when it is first found.

        Parameters
        ----------
        places : dict of {str: str}
            Name -> "module:name", see plugins.
        """
        for name, place in places.items():
            super().__setitem__(name, plugins.Place(place))

    def __getitem__(self, name: str) -> object:
        """Return what is registered under this name, and import it if need be."""
        thing = super().__getitem__(name)
        if isinstance(thing, plugins.Place):
            thing = plugins.load_object(thing)
            self[name] = thing
        return thing

    def get(self, name: str, default: object = None) -> object:
        """Return what is registered under this name, or the default."""
        if name in self:
            return self[name]
        return default

    def check_class(self, name: str, cls: type) -> None:
        """Raise ModelError, with what to do, unless this class can be registered."""
        what = f"{self.kind} {name!r}"
        if not issubclass(cls, self.base):
            raise ModelError(
                f"{what}: derive {cls.__name__} from {self.base.__name__} "
                f"of {self.base.__module__}"
            )
        if any(isinstance(value, dataclasses.Field) for value in vars(cls).values()):
            raise ModelError(
                f"{what}: write @dataclass under its registration, so that the settings of "
                f"{cls.__name__} count"
            )
        for field in dataclasses.fields(cls):
            if "setting" not in field.metadata:
                raise ModelError(
                    f"{what}: declare {field.name} by setting() or objective_setting()"
                )
        for own_name, declared in settings_in(cls).items():
            for other_name, other in self.items():
                if settings_in(other).get(own_name, declared) is not declared:
                    raise ModelError(
                        f"{what}: {other_name} has a setting {own_name}, too: inherit it, "
                        "or take another name"
                    )

    def find(self, name: str) -> object:
        """Return what has this name. Raises ModelError, with all names, for another."""
        return self[required(Choice(self), self.kind, name)]

    def name_of(self, cls: type) -> str:
        """Return the name under which a class is registered, else its own."""
        for name in self:
            if self[name] is cls:
                return name
        return cls.__name__

    def settings_without(self, name: str) -> set[str]:
        """Return the names of settings that other classes declare, and this one not."""
        return settings_in(*self.values()).keys() - settings_in(self.find(name)).keys()


# --- kinds of values


class Number:
    """A whole number or a float within a range.

    Parameters
    ----------
    kind : {int, float}
    low, high : float
        Smallest and largest value.
    above, below : bool
        Whether ``low``, or ``high``, is excluded.

    Attributes
    ----------
    range : str
        The range in few words, for ``--help``.
    wanted : str
        The same for errors: "a number from 0".
    """

    def __init__(
        self,
        kind: type,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        above: bool = False,
        below: bool = False,
    ) -> None:
        self.kind = kind
        self.low = low
        self.high = high
        self.excluded = {low: above, high: below}
        ends = []
        if low > -math.inf:
            ends.append(f"{'above' if above else 'from'} {low}")
        if high < MOST:
            ends.append(f"{'below' if below else 'to'} {high}")
        self.range = " ".join(ends)
        name = "a whole number" if kind is int else "a number"
        self.wanted = f"{name} {self.range}".strip()

    def check(self, value: object) -> float:
        """Return the value as int or float. Raises ValueError for another."""
        abstract = Integral if self.kind is int else Real
        if isinstance(value, bool) or not isinstance(value, abstract):
            raise ValueError(f"{value!r} is not {self.wanted}")
        if not self.low <= value <= self.high or self.excluded.get(value):
            raise ValueError(f"{value} is not {self.wanted}")
        return self.kind(value)

    def parse(self, text: str) -> float:
        """Return the value that a flag's text stands for. Raises ValueError."""
        try:
            value = self.kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is not {self.wanted}") from None
        return self.check(value)


class Choice:
    """One of some names.

    Parameters
    ----------
    names : Registry, dict or list of str
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = names

    def check(self, value: object) -> str:
        """Return the value. Raises ValueError, with all names, for another."""
        if not isinstance(value, str) or value not in self.names:
            raise ValueError(f"unknown name {value!r}: {choices(value, self.names)}")
        return value

    def parse(self, text: str) -> str:
        """Return the name that a flag's text stands for. Raises ValueError."""
        if text not in self.names and isinstance(self.names, Registry):
            raise ValueError(
                f"unknown name {text!r}: {choices(text, self.names)}, "
                "or add the --model FILE.py that registers it"
            )
        return self.check(text)


class Switch:
    """True or False, or as a flag's text one of ``WORDS``."""

    def check(self, value: object) -> bool:
        """Return the value. Raises ValueError for another type."""
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither True nor False")
        return value

    def parse(self, text: str) -> bool:
        """Return the value that a flag's text stands for. Raises ValueError."""
        return self.check(WORDS.get(text.lower(), text))


class Text:
    """Any text, or what functions make of it.

    Parameters
    ----------
    parse : callable
        Text of a flag -> value. Raises ValueError.
    check : callable
        Value given in Python -> value. Raises ValueError.
    """

    def __init__(
        self,
        parse: Callable[[str], object] = str,
        check: Callable[[object], object] = lambda value: value,
    ) -> None:
        self.parse = parse
        self.check = check


COUNT = Number(int, 1, MOST)
WHOLE = Number(int, 0)
POSITIVE = Number(float, 0, above=True)
NOT_NEGATIVE = Number(float, 0)
FRACTION = Number(float, 0, 1)
PROBABILITY = Number(float, 0, 1, below=True)


# --- settings


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is declared of a setting, or of a flag, beside its name.

    Attributes
    ----------
    kind : Number, Choice, Switch or Text
        Type and range of its values.
    help : str
        Its meaning, with the unit.
    default : object
    flags : tuple of str, optional
        Option strings of its flag. Default: ``--NAME``. An empty tuple: it has none.
    group : str
        Title of its group in ``--help``.
    common : bool
        Whether the short ``--help`` has it, too, and not only ``--help_all``.
    tried : tuple
        Values that objective 2 tries, of a bound of a stopping rule.
    metavar : str, optional
        What ``--help`` calls the value.
    argparse : dict
        Further arguments of argparse's ``add_argument``.
    training : bool
        Whether it counts in training only.
    objective : bool
        Whether it tells a network what to do. Then scripts that evaluate have their own
        default. Else it says what the network is, and its checkpoint decides.
    of_run : bool
        Whether it is a flag of a run, and no setting of a network.
    key : str
        Its name in ``model.settings`` where that is not the field's.
    """

    kind: object
    help: str
    default: object
    flags: tuple | None = None
    group: str = ""
    common: bool = False
    tried: tuple = ()
    metavar: str | None = None
    argparse: dict = dataclasses.field(default_factory=dict)
    training: bool = False
    objective: bool = False
    of_run: bool = False
    key: str = ""

    def check(self, name: str, value: object) -> object:
        """Return the value, of its proper type. Raises ModelError for another."""
        if value is None and self.default is None:
            return None
        return required(self.kind, name, value)

    def option_strings(self, name: str) -> tuple[str, ...]:
        """Return the option strings of the flag of a setting of this name."""
        if self.flags is None:
            return (f"--{name}",)
        return self.flags

    def flag(self, name: str) -> str:
        """Return the name under which a parser keeps it, "" for one without a flag."""
        long_names = [words for words in self.option_strings(name) if words.startswith("--")]
        if not long_names:
            return ""
        return long_names[-1].removeprefix("--")


def required(kind: object, name: str, value: object) -> object:
    """Return the value, of its kind. Raises ModelError, with the name, for another."""
    try:
        return kind.check(value)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from None


def setting(default: object, kind: object, help: str, **more: object) -> dataclasses.Field:
    """Return a dataclass field that is a setting.

    Parameters
    ----------
    default : object
    kind : Number, Choice, Switch or Text
        Type and range of its values.
    help : str
        Its meaning, with the unit.
    **more
        Further attributes of ``Setting``, such as ``group``.

    Returns
    -------
    dataclasses.Field
        Its ``metadata`` has "help", "range" and "choices", and as "setting" all of it.
    """
    metadata = {
        "setting": Setting(kind, help, default, **more),
        "help": help,
        "range": getattr(kind, "range", ""),
        "choices": getattr(kind, "names", None),
    }
    return dataclasses.field(default=default, metadata=metadata)


# Of what a network is told to do: scripts that evaluate have their own default.
objective_setting = functools.partial(setting, objective=True)


def field_of(cls: type, name: str) -> dataclasses.Field:
    """Return a field like one that another dataclass declares."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    return dataclasses.field(default=fields[name].default, metadata=fields[name].metadata)


def field_values(part: object) -> dict[str, object]:
    """Return the values of a dataclass instance's fields, by name."""
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


def describe_fields(cls: type) -> type:
    """Complete the docstring of a dataclass of settings by a section on its fields.

    Each field has its type, default, range or choices, and meaning, as it is declared.
    """
    lines = [cls.__doc__.rstrip(), "", "    Parameters", "    ----------"]
    for field in dataclasses.fields(cls):
        declared = field.metadata["setting"]
        annotation = getattr(field.type, "__name__", str(field.type))
        lines.append(f"    {field.name} : {annotation}, default {field.default!r}")
        meaning = declared.help
        if not meaning.split()[0].endswith(":"):  # otherwise a value's name, kept as it is
            meaning = meaning[0].upper() + meaning[1:]
        lines.append(f"        {meaning}.{range_in_words(declared.kind)}")
    cls.__doc__ = "\n".join(lines) + "\n"
    return cls


def suggest_fields(cls: type) -> type:
    """Have a dataclass of settings say which field was meant by a name that is none.

    Its TypeError for an unknown name then says what `choices` says.
    """
    init = cls.__init__
    names = [field.name for field in dataclasses.fields(cls)]

    @functools.wraps(init)
    def init_with_suggestions(self, *args, **values):
        for name in values:
            if name not in names:
                raise TypeError(f"{cls.__name__} has no setting {name!r}: {choices(name, names)}")
        init(self, *args, **values)

    cls.__init__ = init_with_suggestions
    return cls


def range_in_words(kind: object) -> str:
    """Return a sentence on the values that a kind allows, "" where any text may be."""
    if isinstance(kind, Choice):
        return f" One of {', '.join(kind.names)}."
    if isinstance(kind, Number) and kind.range:
        return f" Range: {kind.range}."
    return ""


@functools.cache
def settings_in(*declarations: type) -> dict[str, Setting]:
    """Return the settings that these dataclasses declare, by name, in their order.

    Of a name that several have, the last counts. The dict is not to be changed.
    """
    settings = {}
    for declaration in declarations:
        for field in dataclasses.fields(declaration):
            if "setting" in field.metadata:
                declared = field.metadata["setting"]
                settings[declared.key or field.name] = declared
    return settings


def with_defaults(settings: dict[str, Setting], defaults: dict[str, object]) -> dict[str, Setting]:
    """Return these settings, with other defaults for those that are named."""
    changed = dict(settings)
    for name, value in defaults.items():
        changed[name] = dataclasses.replace(settings[name], default=value)
    return changed
