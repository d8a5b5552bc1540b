"""What a log's JSON objects say, one class for each kind of event. Each has of(record), which raises ValueError, TypeError,
KeyError or AttributeError where a record lacks something or is damaged."""

from dataclasses import dataclass
from math import isfinite, sqrt

Z = 1.959964  # standard deviations of a normal distribution that hold 95 %


def number(value):
    """A finite number; raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise ValueError(f"not a number: {value!r}")
    return value


def named(values):
    """name -> finite number, of a dict; of None an empty one."""
    return {str(name): number(value) for name, value in ({} if values is None else values).items()}


def in_order(values):
    """A list of finite numbers; of None an empty one."""
    if not isinstance(values, (list, type(None))):
        raise ValueError("no list")
    return [number(value) for value in values or ()]


def spikes_by_part(values):
    """part -> spikes per image, of which 'total' is one; of None an empty dict."""
    spikes = named(values)
    if spikes and "total" not in spikes:
        raise ValueError("no total")
    return spikes


def wilson(share, count):
    """The 95 % interval (low, high) of a share of `count` images (Wilson 1927): the true shares that what was found is likely
    under, if the images are a random sample."""
    centre = share + Z**2 / (2 * count)
    spread = Z * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@dataclass
class Opening:
    """When a run was started or resumed, and what it is: parameters, name -> value as text; code: versions of it."""

    when: str
    command: str
    parameters: dict
    code: str

    @classmethod
    def of(cls, record):
        versions = [f"{name} {version}" for name, version in record["versions"].items()]
        code = ", ".join([*versions, f"git {record['git_revision']}"])
        parameters = {str(name): str(value) for name, value in record["parameters"].items()}
        return cls(f"{record['began']} {record['time']}", str(record["command"]), parameters, code)


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
    energy_event: float | None = None
    energy_layer: float | None = None
    mean_steps: float | None = None
    open_share: list | tuple = ()
    feedback: bool | None = None
    command: str = ""

    @classmethod
    def of(cls, record):
        settings = {"T": record.get("timesteps"), "ε": record.get("epsilon")} if record.get("spikes") else {}
        settings |= {"rule": record.get("rule"), **named(record.get("bounds"))}
        settings |= {name: record.get(name) for name in ("dimming", "contrast")}
        where = f"{record['holdout']:,} held-out images" if record.get("holdout") else f"{record.get('dataset', '')} test images"
        return cls(
            *_accuracy(record),
            where=where.strip() + ", which chose the epoch" * (record.get("selected_on") == "test"),
            settings={name: str(value) for name, value in settings.items() if value is not None},
            spikes=spikes_by_part(record.get("spikes")),
            layers=named(record.get("spikes_per_layer")),
            **{f"energy_{way}": _known(record.get(name)) for way, name in ENERGIES.items()},
            mean_steps=_known(record.get("mean_steps")),
            open_share=in_order(record.get("open_share")),
            feedback=record.get("feedback"),
            command=str(record.get("command", "")),
        )

    @classmethod
    def of_epoch(cls, record):
        """What an epoch was judged by; None where no images judge."""
        figures = record.get("evaluated") or {}
        if not figures:
            return None
        chosen_on = {"test": "test images, which chose"}.get(record.get("selected_on"), "held-out images, which chose")
        parts, layers = spikes_by_part(figures.get("parts")), named(figures.get("spikes"))
        settings = {"T": f"{number(figures['mean_steps']):g}"} if layers else {}
        where, shares = f"{chosen_on} epoch {record['epoch']}", in_order(figures.get("open_share"))
        return cls(*_accuracy(figures), where, settings, parts, layers, mean_steps=figures.get("mean_steps"), open_share=shares)

    def label(self, names):
        """'T = 8, ε = 0.2' of those of these settings that it has."""
        return ", ".join(f"{name} = {self.settings[name]}" for name in names if name in self.settings)


ENERGIES = {"event": "energy_event_joules", "layer": "energy_joules"}


def _accuracy(record):
    accuracy, images = number(record["accuracy"]), record["images"]
    if not 0 <= accuracy <= 1 or not isinstance(images, int) or images < 1:
        raise ValueError("no accuracy of images")
    return accuracy, wilson(accuracy, images), images


def _known(value):
    return None if value is None else number(value)


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
        result, judged = Result.of_epoch(record), record.get("evaluated") or {}
        judged = {name: judged[name] for name in ("accuracy", "classification", "reconstruction", "total") if name in judged}
        if result and result.spikes:
            judged["spikes"] = result.spikes["total"]
        return cls(int(number(record["epoch"])), named(record["train"]), named(judged), result)


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
        blocked, sent = _known(record.get("blocked_share")), _known(record.get("sent_share"))
        if blocked is None and sent is None:
            raise ValueError("neither blocked nor sent")
        return cls(int(number(record["step"])), number(record["squared_error"]), blocked, sent)


KINDS = {"run": Opening, "epoch": Epoch, "evaluation": Result, "step": Step}  # by the event's name
