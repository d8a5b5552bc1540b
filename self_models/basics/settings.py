"""Settings: each declared once, as a field of a dataclass, by setting(). Constructors check values by it, flags and --help are
made of it, checkpoints keep its values. What is registered as a gate, a stopping rule or a read-out brings its own."""

import dataclasses
import difflib
import functools
import math
from numbers import Integral, Real

from self_models import assembly
from self_models.basics import ModelError

MOST = 2**31 - 1  # of anything that is counted
WORDS = {
    "true": True,
    "yes": True,
    "1": True,
    "false": False,
    "no": False,
    "0": False,
}  # of a switch


def choices(value, names):
    """What to say where a name is none of these: which it was meant to be, if one is like it, and all."""
    return f"{meant(value, names)}choose from {', '.join(names)}"


def meant(value, names):
    """'did you mean NAME? ', or '' where none of the names is like the value."""
    like = difflib.get_close_matches(value, names, 1) if isinstance(value, str) else ()
    return f"did you mean {like[0]}? " if like else ""


class Registry(dict):
    """A dict of named classes or functions. kind: what one of them is called in an error; keeps_all: a network keeps the settings
    of all its classes, whichever is chosen. base: what is registered from now on must be a dataclass derived from this class."""

    def __init__(self, kind, *, keeps_all=False):
        super().__init__()
        self.kind, self.keeps_all, self.base = kind, keeps_all, None

    def register(self, name):
        """Decorator: enter a class or function under this name. Raises ModelError for a class that cannot be used."""

        def enter(thing):
            if name in self:
                raise ModelError(
                    f"{self.kind} {name!r} is there already: register yours under another name"
                )
            if self.base:
                self.check_class(name, thing)
            self[name] = thing
            return thing

        return enter

    def offer(self, places):
        """Enter what is imported when it is first found: name -> "module:name", see assembly."""
        for name, place in places.items():
            super().__setitem__(name, assembly.Place(place))

    def __getitem__(self, name):
        thing = super().__getitem__(name)
        if isinstance(thing, assembly.Place):
            thing = assembly.load_object(thing)
            self[name] = thing
        return thing

    def get(self, name, default=None):
        if name in self:
            return self[name]
        return default

    def check_class(self, name, cls):
        """Raises ModelError, with what to do, unless this class can be what is expected."""
        told = f"{self.kind} {name!r}"
        if not issubclass(cls, self.base):
            raise ModelError(
                f"{told}: derive {cls.__name__} from {self.base.__name__} of {self.base.__module__}"
            )
        if any(isinstance(value, dataclasses.Field) for value in vars(cls).values()):
            raise ModelError(
                f"{told}: write @dataclass under its registration, so that the settings of {cls.__name__} count"
            )
        if plain := [
            field.name for field in dataclasses.fields(cls) if "setting" not in field.metadata
        ]:
            raise ModelError(f"{told}: declare {plain[0]} by setting() or objective_setting()")
        for own, one in settings_in(cls).items():
            if others := [
                other for other, part in self.items() if settings_in(part).get(own, one) is not one
            ]:
                raise ModelError(
                    f"{told}: {others[0]} has a setting {own}, too: inherit it, or take another name"
                )

    def find(self, name):
        """self[name], or a ModelError that lists the valid names."""
        return self[required(Choice(self), self.kind, name)]

    def settings_without(self, name):
        """Names of the settings that its other classes declare, and the one of this name does not."""
        return settings_in(*self.values()).keys() - settings_in(self.find(name)).keys()


class Number:
    """An int or float between low and high; above, below: exclude that end. range: the same in few words."""

    def __init__(self, kind, low=-math.inf, high=math.inf, *, above=False, below=False):
        self.kind, self.low, self.high, self.excluded = kind, low, high, {low: above, high: below}
        start = f"{'above' if above else 'from'} {low}" if low > -math.inf else ""
        end = f"{'below' if below else 'to'} {high}" if high < MOST else ""
        self.range = f"{start} {end}".strip()
        self.wanted = f"{'a whole number' if kind is int else 'a number'} {self.range}".strip()

    def check(self, value):
        """The value as int or float. Raises ValueError for another type or range."""
        if isinstance(value, bool) or not isinstance(
            value, Integral if self.kind is int else Real
        ):
            raise ValueError(f"{value!r} is not {self.wanted}")
        if not self.low <= value <= self.high or self.excluded.get(value):
            raise ValueError(f"{value} is not {self.wanted}")
        return self.kind(value)

    def parse(self, text):
        """The value that a flag's text stands for. Raises ValueError."""
        try:
            value = self.kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is not {self.wanted}") from None
        return self.check(value)


class Choice:
    """One of the names, texts, of a registry, a dict or a list."""

    def __init__(self, names):
        self.names = names

    def check(self, value):
        if not isinstance(value, str) or value not in self.names:
            raise ValueError(f"unknown name {value!r}: {choices(value, self.names)}")
        return value

    def parse(self, text):
        if text not in self.names and isinstance(self.names, Registry):
            raise ValueError(
                f"unknown name {text!r}: {choices(text, self.names)}, or add the --model FILE.py that registers it"
            )
        return self.check(text)


class Switch:
    """True or False, or as a flag's text one of WORDS."""

    def check(self, value):
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither True nor False")
        return value

    def parse(self, text):
        return self.check(WORDS.get(text.lower(), text))


class Text:
    """Any text; or, with parse, what parse makes of it (and check of what is given in Python)."""

    def __init__(self, parse=str, check=lambda value: value):
        self.parse, self.check = parse, check


COUNT = Number(int, 1, MOST)
WHOLE = Number(int, 0)
POSITIVE = Number(float, 0, above=True)
NOT_NEGATIVE = Number(float, 0)
FRACTION = Number(float, 0, 1)
PROBABILITY = Number(float, 0, 1, below=True)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is declared of a setting beside its name. kind: its type and range; help: with unit. Its flag: flags: option
    strings, else --NAME; none for an empty tuple. group: of --help; common: the short
    one has it, too. metavar, argparse: for argparse; tried: values that objective 2
    tries. training: it counts in training only.

    scope: what it belongs to. network: what a network is, which its checkpoint says;
    objective: what it is told to do, of which evaluations have their own; recipe: how
    it is trained, or on what; run: a --resume may come with another value; command: of
    one command, which --resume does not take over."""

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
    scope: str = "network"

    def check(self, name, value):
        """The value, of its proper type. Raises ModelError for a value that cannot be."""
        return None if value is None and self.default is None else required(self.kind, name, value)

    def option_strings(self, name):
        """The flags of this setting of this name; none for one that has no flag."""
        return (f"--{name}",) if self.flags is None else self.flags

    def flag(self, name):
        """The name under which a parser keeps it, '' for one without a flag."""
        return next(
            (words.removeprefix("--") for words in reversed(self.option_strings(name))), ""
        )


def required(kind, name, value):
    """The value, of its kind. Raises ModelError, with the name, for another."""
    try:
        return kind.check(value)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from None


def setting(default, kind, help, **more):
    """A dataclass field that is declared as a Setting."""
    return dataclasses.field(
        default=default, metadata={"setting": Setting(kind, help, default, **more)}
    )


# of what a trained network is told to do: scripts that evaluate have their own
objective_setting = functools.partial(setting, scope="objective")


@functools.cache
def settings_in(*declarations):
    """name -> Setting of these dataclasses, in their order; of a name that several have the last counts. Not to be changed."""
    return {
        field.name: field.metadata["setting"]
        for each in declarations
        for field in dataclasses.fields(each)
    }


def with_defaults(settings, defaults):
    """These name -> Setting, but for the defaults that name -> value says."""
    return settings | {
        name: dataclasses.replace(settings[name], default=value)
        for name, value in defaults.items()
    }
