"""What a log's JSON objects say, one class for each kind of event. Each has of(record), which raises ValueError, in words for a
reader, where a record lacks something or says what cannot be."""

import re
from dataclasses import dataclass, replace

from harness.drawing.intervals import wilson
from self_models.basics.settings import COUNT, FRACTION, NOT_NEGATIVE, WHOLE, Number, Switch

FIGURE = Number(float)
SHARE = Number(float, -1e-6, 1 + 1e-6)  # a mean may be rounded so far
JUDGED = ("accuracy", "classification", "reconstruction", "total")  # figures of an epoch that are drawn
REQUIRED = object()


def take(record, name, check, default=REQUIRED):
    """What check makes of record[name]; the default where that is not there. Raises ValueError for what check refuses, and for
    what is required and not there."""
    value = record.get(name)
    if value is None:
        if default is REQUIRED:
            raise ValueError(f"no {name}")
        return default
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def an_object(value):
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no object")
    return value


def named(check=FIGURE.check):
    """A check of an object: name -> what check makes of its value."""
    return lambda value: {name: take(value, name, check) for name in an_object(value)}


def shares(values):
    """Numbers from 0 to 1, in order."""
    if not isinstance(values, list):
        raise ValueError(f"{values!r} is no list")
    return [SHARE.check(value) for value in values]


def confusion(values):
    """Counts of images, a row for each class and as many columns."""
    if not isinstance(values, list) or not all(isinstance(row, list) and len(row) == len(values) for row in values):
        raise ValueError("not as many columns as rows")
    return [[WHOLE.check(count) for count in row] for row in values]


def names(values):
    """Names of classes."""
    if not isinstance(values, list):
        raise ValueError(f"{values!r} is no list")
    return [str(name) for name in values]


def spikes_by_part(values):
    """part -> spikes per image, of which 'total' is one."""
    spikes = named(NOT_NEGATIVE.check)(values)
    take(spikes, "total", FIGURE.check)
    return spikes


def spikes_by_layer(values):
    """layer -> spikes per image."""
    spikes = named(NOT_NEGATIVE.check)(values)
    for layer in spikes:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", layer):
            raise ValueError(f"{layer!r} is no layer's name")
    return spikes


@dataclass
class Opening:
    """When a run was started or resumed, and what it is: parameters, name -> value as text; code: versions of it."""

    when: str
    command: str
    parameters: dict
    code: str

    @classmethod
    def of(cls, record):
        versions = [f"{name} {version}" for name, version in take(record, "versions", named(str)).items()]
        code = ", ".join([*versions, f"git {take(record, 'git_revision', str)}"])
        when = f"{take(record, 'began', str)} {take(record, 'time', str)}"
        parameters = take(record, "parameters", an_object)
        return cls(when, take(record, "command", str), {name: str(value) for name, value in parameters.items()}, code)


@dataclass
class Result:
    """An evaluation: accuracy and its 95 % interval (0 to 1); spikes per image by part and by layer; energies in J. None or empty
    where not known. settings: name -> what it was run with; where: on which images."""

    accuracy: float
    interval: tuple
    images: int
    where: str
    settings: dict
    spikes: dict
    layers: dict
    energy_joules: float | None = None  # layer by layer
    energy_event_joules: float | None = None
    mean_steps: float | None = None
    open_share: list | tuple = ()
    feedback: bool | None = None
    command: str = ""
    classes: list | tuple = ()
    confusion: list | tuple = ()
    seed: int | None = None

    @classmethod
    def of(cls, record):
        accuracy, images = take(record, "accuracy", FRACTION.check), take(record, "images", COUNT.check)
        spikes, holdout = take(record, "spikes", spikes_by_part, {}), take(record, "holdout", WHOLE.check, 0)
        settings = {"T": record.get("timesteps"), "ε": record.get("epsilon")} if spikes else {}
        settings |= {"rule": record.get("rule"), **take(record, "bounds", named(), {})}
        settings |= {name: record.get(name) for name in ("dimming", "contrast")}
        matrix = take(record, "confusion", confusion, ())
        classes = take(record, "classes", names, [str(label) for label in range(len(matrix))])
        where = f"{holdout:,} held-out images" if holdout else f"{record.get('dataset', '')} test images".strip()
        return cls(
            accuracy=accuracy,
            interval=wilson(accuracy, images),
            images=images,
            where=where + ", which chose the epoch" * (record.get("selected_on") == "test"),
            settings={name: str(value) for name, value in settings.items() if value is not None},
            spikes=spikes,
            layers=take(record, "spikes_per_layer", spikes_by_layer, {}),
            energy_joules=take(record, "energy_joules", NOT_NEGATIVE.check, None),
            energy_event_joules=take(record, "energy_event_joules", NOT_NEGATIVE.check, None),
            mean_steps=take(record, "mean_steps", NOT_NEGATIVE.check, None),
            open_share=take(record, "open_share", shares, ()),
            feedback=take(record, "feedback", Switch().check, None),
            command=take(record, "command", str, ""),
            classes=classes,
            confusion=matrix if len(matrix) == len(classes) else (),
            seed=take(record, "seed", WHOLE.check, None),
        )

    @classmethod
    def of_epoch(cls, figures, epoch, selected_on):
        """What an epoch was judged by: an evaluation's figures, where `spikes` are those by layer and `parts` those by part."""
        images = "test images" if selected_on == "test" else "held-out images"
        settings = {"T": f"{take(figures, 'mean_steps', NOT_NEGATIVE.check):g}"} if figures.get("spikes") else {}
        result = cls.of(figures | {"spikes": figures.get("parts"), "spikes_per_layer": figures.get("spikes")})
        return replace(result, where=f"{images}, which chose epoch {epoch}", settings=settings)

    @property
    def on(self):
        """Which images, whatever was chosen on them."""
        return f"{self.images:,} {self.where.split(', which chose')[0]}"

    def label(self, names):
        """'T = 8, ε = 0.2' of those of these settings that it has."""
        return ", ".join(f"{name} = {self.settings[name]}" for name in names if name in self.settings)


@dataclass
class Epoch:
    """An epoch: its number; train, judged: figure -> mean per image in training and on the images that judge, the latter's result
    in full, None without any."""

    number: int
    train: dict
    judged: dict
    result: Result | None

    @classmethod
    def of(cls, record):
        number, figures = take(record, "epoch", COUNT.check), take(record, "evaluated", an_object, {})
        result = Result.of_epoch(figures, number, record.get("selected_on")) if figures else None
        judged = {name: take(figures, name, FIGURE.check) for name in figures if name in JUDGED}
        if result and result.spikes:
            judged["spikes"] = result.spikes["total"]
        return cls(number, take(record, "train", named()), judged, result)


@dataclass
class Step:
    """A step of the analysis: squared error per image of the prediction, and the share of active input that is blocked, or of all
    input that was sent so far: None where the gate does the other."""

    number: int
    squared_error: float
    blocked_share: float | None
    sent_share: float | None

    @classmethod
    def of(cls, record):
        blocked, sent = (take(record, name, SHARE.check, None) for name in ("blocked_share", "sent_share"))
        if blocked is None and sent is None:
            raise ValueError("neither blocked_share nor sent_share")
        return cls(take(record, "step", COUNT.check), take(record, "squared_error", NOT_NEGATIVE.check), blocked, sent)


KINDS = {"run": Opening, "epoch": Epoch, "evaluation": Result, "step": Step}  # by the event's name
