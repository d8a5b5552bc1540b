"""What a log's JSON objects say, one class for each kind of event: its attributes are their fields, each checked. Each raises
ValueError, in words for a reader, where an object lacks a field or says what cannot be."""

from functools import partial

from harness.drawing.plots import wilson
from self_models.basics.settings import COUNT, FRACTION, NOT_NEGATIVE, WHOLE, Number, Switch
from self_models.loading import MODELS

FIGURE, NATURAL = Number(float).check, NOT_NEGATIVE.check
SHARE = Number(float, -1e-6, 1 + 1e-6).check  # a mean may be rounded so far
TOLD = {"gate": ("open", "block"), "encoding": ("poisson",), "class": MODELS}  # where they are not these; of gates ε tells which
JUDGED = ("accuracy", "classification", "reconstruction", "total")  # figures of an epoch that are drawn


def checked(record, name, check, required=True):
    """What the check makes of record[name]; None where that is missing and not required. Raises ValueError."""
    if (value := record.get(name)) is None:
        if required:
            raise ValueError(f"no {name}")
        return None
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def of_kind(kind, value):
    """The value, if it is an object (dict) or a list. Raises ValueError."""
    if not isinstance(value, kind):
        raise ValueError(f"{value!r} is no {'object' if kind is dict else 'list'}")
    return value


def named(check, *required):
    """The check of an object: name -> what `check` makes of its value; required: names that it must have."""
    return lambda values: {name: checked(values, name, check) for name in dict.fromkeys((*required, *of_kind(dict, values)))}


def listed(check):
    """The check of a list: what `check` makes of each value."""
    return lambda values: [check(value) for value in of_kind(list, values)]


class Record:
    def read(self, record, required, optional):
        """Take from an object what is required and, if it is there, what is optional: name -> check."""
        for name, check in {**required, **optional}.items():
            setattr(self, name, checked(record, name, check, name in required))


class Opening(Record):
    """A start of a run. parameters: name -> value as text; line: its command, and when and by which code."""

    def __init__(self, record):
        texts = dict.fromkeys(("began", "time", "command", "git_revision"), str)
        more = {"seed": WHOLE.check, "versions": named(str), "parameters": partial(of_kind, dict)}
        self.read(record, texts | more, {})
        self.parameters = {name: str(value) for name, value in self.parameters.items()}
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        self.line = f"{self.command}   ({self.began} {self.time}; {versions}, git {self.git_revision})"


class Result(Record):
    """An evaluation: accuracy (0 to 1), means per image of spikes by part and by layer, and of energies in J, layer by layer and
    event by event; or what an epoch was judged by. settings: name -> what it was run with; on: which images; where: that, and
    what was chosen on them."""

    def __init__(self, record):
        self.read(record, {"accuracy": FRACTION.check, "images": COUNT.check}, {
            **dict.fromkeys(("timesteps", "epsilon", "rule", "dimming", "contrast", "dataset", "selected_on"), str),
            **dict.fromkeys(TOLD, str),
            **dict.fromkeys(("energy_joules", "energy_event_joules", "mean_steps"), NATURAL), "feedback": Switch().check,
            "spikes": named(NATURAL, "total"), "spikes_per_layer": named(NATURAL), "open_share": listed(SHARE),
            "bounds": named(FIGURE), "classes": listed(str), "confusion": listed(listed(WHOLE.check)), "epoch": COUNT.check,
            "holdout": WHOLE.check,
        })  # fmt: skip
        found = {"T": self.timesteps, "ε": self.epsilon} if self.spikes else {}
        found |= {name: value for name, usual in TOLD.items() if self.spikes and (value := getattr(self, name)) not in usual}
        found |= {"rule": self.rule, **(self.bounds or {}), "dimming": self.dimming, "contrast": self.contrast}
        self.settings = {name: str(value) for name, value in found.items() if value is not None}
        self.classes = self.classes or [str(label) for label in range(len(self.confusion or ()))]
        if self.confusion and {len(self.classes)} != {len(each) for each in (self.confusion, *self.confusion)}:
            raise ValueError("confusion: not as many rows and columns as classes")
        kind = "held-out" if self.holdout or (self.epoch and self.selected_on != "test") else f"{self.dataset or ''} test"
        images = (f"{self.holdout:,} " if self.holdout else "") + f"{kind} images".strip()
        chosen = f"epoch {self.epoch}" if self.epoch else "the epoch" * (self.selected_on == "test")
        self.on, self.where = f"{self.images:,} {images}", images + f", which chose {chosen}" * bool(chosen)

    @property
    def interval(self):
        """The 95 % interval of its accuracy, (low, high)."""
        return wilson(self.accuracy, self.images)

    def label(self, names):
        """'T = 8, ε = 0.2' of those of these settings that it has."""
        return ", ".join(f"{name} = {self.settings[name]}" for name in names if name in self.settings)


class Epoch(Record):
    """An epoch: train, judged: figure -> mean per image; result: of the images that judge, as of an evaluation, or None;
    thresholds, leaks: of an SNN, layer -> value, or None."""

    def __init__(self, record):
        optional = {"evaluated": partial(of_kind, dict), "selected_on": str}
        optional |= {"thresholds": named(FIGURE), "leaks": named(FIGURE)}
        self.read(record, {"epoch": COUNT.check, "train": named(FIGURE)}, optional)
        figures = self.evaluated or {}
        self.judged = {name: checked(figures, name, FIGURE) for name in figures if name in JUDGED or name.endswith("_loss")}
        renamed = {"spikes": "parts", "spikes_per_layer": "spikes", "timesteps": "mean_steps"}  # an evaluation's name -> here
        other = {name: figures.get(here) for name, here in renamed.items()}
        other |= {"epoch": self.epoch, "selected_on": self.selected_on}
        self.result = Result(figures | other) if figures else None
        if self.result and self.result.spikes:
            self.judged["spikes"] = self.result.spikes["total"]


class Step(Record):
    """A step of the analysis: squared error per image of the prediction, and the share of active input that is blocked, or of all
    input that was sent so far: None where the gate does the other."""

    def __init__(self, record):
        shares = {"blocked_share": SHARE, "sent_share": SHARE}
        self.read(record, {"step": COUNT.check, "squared_error": NATURAL}, shares)
        if self.blocked_share is None and self.sent_share is None:
            raise ValueError("neither blocked_share nor sent_share")


class Priced(Record):
    """An energy ledger: lines that say what decides, and the rows of its tables, texts."""

    def __init__(self, record):
        self.read(record, {"lines": listed(str), "tables": listed(listed(listed(str)))}, {})


KINDS = {"run": Opening, "epoch": Epoch, "evaluation": Result, "step": Step, "ledger": Priced}  # by the event's name
