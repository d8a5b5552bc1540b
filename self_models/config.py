"""The configuration of a network: its settings with types, ranges and defaults.

``ANNConfig`` and ``SNNConfig`` say what a network is. A ``Network`` is built from one
of them, or from the same settings as keyword arguments, and keeps them as a plain dict
in ``settings``, which checkpoints store.
"""

import dataclasses
import os
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from self_models.data.images import (
    IMAGE_SHAPES,
    background,
    class_names,
    data_set,
    find_image_shape,
)
from self_models.errors import ModelError
from self_models.feedback.contrast import Contrast
from self_models.feedback.encoders import ENCODINGS
from self_models.feedback.gates import GATES, Blocking, Gate, Tolerance
from self_models.feedback.readouts import READOUTS, Readout
from self_models.feedback.stopping import RULES, AllPredicted, Confidence, Entropy, Never
from self_models.networks.architectures import PLANS, get_architecture
from self_models.networks.stages import INITS, MAX_POOLS
from self_models.neurons.norms import ACTIVATIONS, NORMS
from self_models.neurons.spiking import UPDATES
from self_models.neurons.surrogates import SURROGATES
from self_models.settings import (
    COUNT,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    WHOLE,
    Choice,
    Number,
    Setting,
    Switch,
    Text,
    choices,
    describe_fields,
    field_of,
    field_values,
    objective_setting,
    setting,
    settings_in,
    suggest_fields,
    with_defaults,
)


def odd(value: int) -> int:
    """Return the value, an odd whole number from 1. Raises ValueError for another."""
    value = COUNT.check(value)
    if value % 2 == 0:
        raise ValueError(f"{value} is not odd, so images would not keep their size")
    return value


CHANGEABLE = (  # settings of a network that may change once it is built, beside those of its parts
    "timesteps",
    "encoding",
    "predict",
    "output_leak",
    "membrane_floor",
    "surprise",
    "gate",
    "rule",
)


@dataclass(kw_only=True)
class NetworkConfig:
    """Settings of every network.

    Raises
    ------
    ModelError
        For a value that cannot be. The line names the field.
    """

    architecture: str = setting(
        "VGG5_wFeedback",
        Text(Choice(PLANS).parse),
        f"layers of encoder and decoder: {', '.join(PLANS)}",
        flags=("-a", "--architecture"),
        group="network",
        metavar="PLAN",
        common=True,
        key="vgg_name",
    )
    fc_width: int = setting(
        4096, COUNT, "neurons of each hidden classifier layer", group="network", common=True
    )
    fc_layers: int = setting(
        2, Number(int, 0, 100), "hidden classifier layers; 0: one linear layer", group="network"
    )
    kernel_size: int = setting(
        3,
        Text(lambda text: odd(COUNT.parse(text)), odd),
        "side of convolution kernels",
        group="network",
    )
    dropout: float = setting(
        0.2, PROBABILITY, "dropout probability", group="network", training=True
    )
    fc_dropout: float = setting(
        0.5, PROBABILITY, "dropout probability in the classifier", group="network", training=True
    )
    init: str = setting(
        "original",
        Choice(INITS),
        "initial weights; kaiming: for deep networks; dirac: the same, convolutions "
        "being the identity",
        group="network",
        training=True,
    )
    timesteps: int = setting(
        1, COUNT, "T, feedback passes per image", group="network", common=True
    )
    dataset: str = setting(
        "MNIST",
        Text(lambda text: text if text in IMAGE_SHAPES else os.path.abspath(text), data_set),
        f"{', '.join(IMAGE_SHAPES)} (MNIST comes with the repository), or a folder of your own "
        "images: FOLDER/train/CLASS/* and FOLDER/test/CLASS/*, PNG, JPEG, WebP, ..., or "
        "recordings of an event camera, .bin of N-MNIST, .npz or .npy",
        group="data",
        metavar="NAME|FOLDER",
        common=True,
    )
    count_bound: int = setting(
        1,
        COUNT,
        "recordings: events of a pixel and polarity in one timestep that count as 1; fewer in "
        "proportion",
        group="data",
        metavar="N",
    )
    split_by: str = setting(
        "time",
        Choice(("time", "number")),
        "recordings: frames alike in time, or in events",
        group="data",
    )
    labels: int = setting(10, Number(int, 1, 2**20), "number of classes", flags=())
    plan: list | None = setting(
        None, Text(), "encoder and decoder, in place of the architecture's", flags=()
    )
    image_shape: tuple | None = setting(
        None, Text(), "channels, height, width; default: the data set's", flags=()
    )
    recorded_frames: int = setting(
        0, WHOLE, "frames of a recording's file; 0: of images", flags=()
    )
    classes: list | None = setting(
        None, Text(), "names of the classes; default: the data set's", flags=()
    )
    background: float | None = setting(
        None, FRACTION, "light of the images' border; default: the data set's", flags=()
    )

    def __post_init__(self) -> None:
        """Check each field, as the flags are checked."""
        for field in dataclasses.fields(self):
            declared = field.metadata["setting"]
            value = getattr(self, field.name)
            if isinstance(value, Gate | Never | Readout):
                raise ModelError(
                    f"{field.name}: a configuration has plain values: give the name of one here, "
                    f"or pass the object to the network, as {field.name}=..."
                )
            setattr(self, field.name, declared.check(field.name, value))
        get_architecture(self.architecture, self.plan)  # raises ModelError for what is no network

    def as_settings(self) -> dict[str, object]:
        """Return the settings as a dict, as checkpoints and ``model.settings`` do.

        There the architecture is called ``vgg_name``.
        """
        values = {}
        for field in dataclasses.fields(self):
            name = field.metadata["setting"].key or field.name
            values[name] = getattr(self, field.name)
        return values


@describe_fields
@suggest_fields
@dataclass(kw_only=True)
class ANNConfig(NetworkConfig):
    """Settings of an ANN, see ``VGG_wFeedback``."""

    norm: str = setting(
        "none",
        Choice(NORMS),
        "normalisation before each nonlinearity, per channel; scale: by the root mean "
        "square; batch: torch.nn.BatchNorm2d; folded into the weights at conversion",
        group="network",
        common=True,
    )
    norm_scale: bool = setting(
        True,
        Switch(),
        "learn a scale per channel after the normalisation; else 1",
        group="network",
        training=True,
    )
    activation_ann: str = setting(
        "relu",
        Choice(ACTIVATIONS),
        "nonlinearity of the ANN; qcfs: quantised up to a learned bound "
        "per layer, its threshold after conversion",
        group="network",
        common=True,
    )
    qcfs_levels: int = setting(
        4, Number(int, 0, 2**16), "quantisation levels of qcfs; 0: clipped only", group="network"
    )
    whitening: bool = setting(
        False,
        Switch(),
        "fix the first convolution to whitening filters of the training images' patches, "
        "and their negatives",
        group="network",
        training=True,
    )


@describe_fields
@suggest_fields
@dataclass(kw_only=True)
class SNNConfig(NetworkConfig):
    """Settings of an SNN, ``VGG_SNN_STDB_wFeedback``. All times are in timesteps.

    ``gate``, ``rule`` and ``readout`` name its parts. Fields of a part that is not
    chosen have no effect: for example, ``epsilon`` needs a gate that blocks. A gate of
    your own is passed to the network beside the configuration: ``gate=MyGate(...)``.
    """

    dropout: float = setting(
        0.3, PROBABILITY, "dropout probability", group="network", training=True
    )
    timesteps: int = setting(50, COUNT, "T, timesteps per image", group="spiking", common=True)
    leak: float = setting(
        1.0,
        FRACTION,
        "fraction of the membrane potential kept per timestep; 1: no leak",
        group="spiking",
    )
    bias: bool = setting(
        False,
        Switch(),
        "learned constant current per channel and timestep; an ANN with norm batch needs it",
        group="spiking",
    )
    output_bias: bool = setting(
        False, Switch(), "learned constant current of each output per timestep", group="spiking"
    )
    initial_potential: float = setting(
        0.0,
        PROBABILITY,
        "membrane potential at the start, in thresholds; an ANN with qcfs takes 0.5",
        group="spiking",
    )
    max_pool: str = setting(
        "or",
        Choice(MAX_POOLS),
        "spikes that pass a maximum pool; or: any; count: one whenever the highest "
        "spike count of the window rises (converted ANNs)",
        group="spiking",
    )
    default_threshold: float = setting(
        1.0, POSITIVE, "threshold of all layers, if training starts at random", group="spiking"
    )
    activation: str = setting(
        "Linear", Choice(SURROGATES), "surrogate gradient", group="spiking", training=True
    )
    alpha: float = setting(
        0.3, NOT_NEGATIVE, "scale of the STDB surrogate gradient", group="spiking", training=True
    )
    beta: float = setting(
        0.01, NOT_NEGATIVE, "decay of the STDB surrogate gradient", group="spiking", training=True
    )
    update: str = setting(
        "delayed",
        Choice(UPDATES),
        "order of charge and spike; delayed: spike first in a timestep; "
        "immediate: charge first; phased: charge for T timesteps, then spike for T, "
        "layer after layer",
        group="spiking",
        common=True,
    )
    encoding: str = setting(
        "poisson",
        Choice(ENCODINGS),
        "input encoding; poisson: random spikes at the pixel's rate; direct: "
        "the pixel value at each timestep",
        group="spiking",
    )
    readout: str = setting(
        "spike_count",
        Choice(READOUTS),
        "how the decoder's output predicts",
        group="spiking",
        common=True,
    )
    predict: str = setting(
        "frame",
        Choice(("frame", "next")),
        "recordings: predicted is the frame, or the next",
        group="spiking",
    )
    learn_threshold: bool = setting(
        False, Switch(), "train the threshold of each layer", group="fine-tuning", training=True
    )
    learn_leak: bool = setting(
        False, Switch(), "train the leak of each layer", group="fine-tuning", training=True
    )
    output_leak: float = setting(
        1.0,
        FRACTION,
        "fraction of the logits kept per timestep; below 1 old evidence decays",
        group="forgetting",
    )
    membrane_floor: float | None = setting(
        None,
        NOT_NEGATIVE,
        "lower bound of membranes, in negative thresholds; default: none",
        group="forgetting",
        metavar="F",
    )
    surprise: float = objective_setting(
        0.0,
        NOT_NEGATIVE,
        "streaming: reset on change, by gain G: when a share r of non-zero "
        "pixels reopens, logits, membranes and predictions keep 1 - min(1, G r); 0: none",
        group="forgetting",
        metavar="G",
    )
    gate: str = objective_setting(
        "open",
        Choice(GATES),
        "which pixels are sent; open: all; block: those not predicted; "
        "contrast: the same, with more contrast; reconstruct: predictions stand in for the others",
        group="gate",
        common=True,
    )
    rule: str = objective_setting(
        "never",
        Choice(RULES),
        "early exit: an image ends, in evaluation, at the first timestep at which this rule holds",
        group="stopping",
        common=True,
    )

    # Of the parts. Each is declared where the part is.
    epsilon: float = field_of(Tolerance, "epsilon")
    together: bool = field_of(Tolerance, "together")
    blocking: str = field_of(Blocking, "blocking")
    latch: bool = field_of(Blocking, "latch")
    residual: bool = field_of(Blocking, "residual")
    contrast: str = field_of(Contrast, "contrast")
    attention: float = field_of(Contrast, "attention")
    open_bound: float = field_of(AllPredicted, "open_bound")
    gap_bound: float = field_of(Confidence, "gap_bound")
    entropy_bound: float = field_of(Entropy, "entropy_bound")
    readout_leak: float = field_of(Readout, "readout_leak")
    readout_slew: float = field_of(Readout, "readout_slew")


class Network(nn.Module):
    """A network that is built from a configuration, and keeps it in ``settings``.

    Parameters
    ----------
    config : NetworkConfig or str, optional
        The configuration, or the name of the architecture.
    gate, rule, readout : object, optional
        A part of one's own, instead of the name of one.
    neuron : type, optional
        Class of the neurons of an SNN, derived from ``SpikingNeuron``.
    **settings
        Settings by name. With a configuration they hold in place of its own.

    Attributes
    ----------
    settings : dict of {str: object}
        All settings in force, plain values. Checkpoints store them.
    own_parts : dict of {str: object}
        Parts that were passed as objects, by "gate", "rule" or "readout".
    Settings : type
        The class of its configurations.
    parts : dict of {str: Registry}
        Setting -> the classes that it may name. Each of them declares settings, too.
    defaults : dict of {str: object}
        Where this class's defaults differ from its base's.
    why_not_saved : str or None
        What to do instead, of networks that no checkpoint can hold.

    Raises
    ------
    ModelError
        For settings that make no network.
    """

    Settings = NetworkConfig
    parts: ClassVar[dict] = {}
    defaults: ClassVar[dict] = {}
    why_not_saved = None

    def __init__(self, config: NetworkConfig | str | None = None, **settings: object) -> None:
        super().__init__()
        neuron = settings.pop("neuron", None)
        settings, self.own_parts = self.separate_parts(settings)
        settings_of_parts = self.settings_of_parts()
        if isinstance(config, NetworkConfig):
            for name, value in self.settings_of_config(config).items():
                if name not in settings_of_parts:  # of a part that takes another's place
                    settings.setdefault(name, value)
        elif config is not None:
            settings["vgg_name"] = config
        self.settings = self.checked(settings) | settings_of_parts
        if neuron is not None:
            self.Neuron = neuron
            self.settings["neuron"] = neuron.__name__
        self.image_shape = find_image_shape(self.settings)
        self.classes = class_names(self.settings)
        self.background = background(self.settings)
        self.build()
        self.to(memory_format=torch.channels_last)

    @classmethod
    def settings_of_config(cls, config: NetworkConfig) -> dict[str, object]:
        """Return a configuration's settings. Raises ModelError for the wrong kind."""
        known = cls.known_settings()
        settings = config.as_settings()
        for name in settings:
            if name not in known:
                raise ModelError(
                    f"{cls.__name__} takes {cls.Settings.__name__}, not {type(config).__name__}"
                )
        return settings

    @classmethod
    def separate_parts(
        cls, settings: dict[str, object]
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Separate parts that are objects from settings that are plain values.

        Parameters
        ----------
        settings : dict of {str: object}
            By name. The architecture may be called so.

        Returns
        -------
        settings : dict of {str: object}
            Without the objects, and without their fields.
        parts : dict of {str: object}
            The objects.

        Raises
        ------
        ModelError
            If an object is not derived from the class that its place needs, a value of
            it cannot be, or one of its fields is given beside it.
        """
        settings = dict(settings)
        if "architecture" in settings:
            settings["vgg_name"] = settings.pop("architecture")
        parts = {}
        for kind, registry in cls.parts.items():
            if kind not in settings or isinstance(settings[kind], str):
                continue
            part = settings.pop(kind)
            if not isinstance(part, registry.base):
                base = registry.base
                raise ModelError(
                    f"{kind}: give a name, or an object of a class derived from "
                    f"{base.__name__} of {base.__module__}, not {part!r}"
                )
            for name, declared in settings_in(type(part)).items():
                declared.check(name, getattr(part, name))
            for name in field_values(part):
                if name in settings:
                    raise ModelError(f"{name}: the {kind} that is passed has it: give it to that")
            parts[kind] = part
        return settings, parts

    @staticmethod
    def names_of_parts(parts: dict[str, object]) -> list[str]:
        """Return the names of all settings that parts (objects) tell."""
        names = []
        for kind, part in parts.items():
            names += [kind, *field_values(part)]
        return names

    def settings_of_parts(self) -> dict[str, object]:
        """Return what ``settings`` tells of parts that were passed as objects.

        The class is told by the name that it is registered under, else by its own.
        """
        settings = {}
        for kind, part in self.own_parts.items():
            settings[kind] = self.parts[kind].name_of(type(part))
            settings |= field_values(part)
        return settings

    def _set_settings(self, changes: dict[str, object], new_parts: dict[str, object]) -> None:
        """Set settings and own parts to what holds after a change.

        Parameters
        ----------
        changes : dict of {str: object}
            Settings that change, plain values.
        new_parts : dict of {str: object}
            Parts that take the place of present ones.
        """
        changes = dict(changes)
        # Objects that stay get their changed fields; objects that are replaced go.
        parts = dict(new_parts)
        for kind, part in self.own_parts.items():
            is_replaced = kind in changes or kind in new_parts
            if not is_replaced:
                fields = {
                    name: changes.pop(name) for name in field_values(part) if name in changes
                }
                parts[kind] = dataclasses.replace(part, **fields)

        # What objects tell, or have told, is no plain setting.
        told = {"neuron", *self.names_of_parts(self.own_parts), *self.names_of_parts(parts)}
        plain = {name: value for name, value in self.settings.items() if name not in told}
        settings = self.checked(plain | changes)
        if "neuron" in self.settings:
            settings["neuron"] = self.settings["neuron"]
        self.own_parts = parts
        self.settings = settings | self.settings_of_parts()

    @classmethod
    def fixed_settings(cls) -> set[str]:
        """Return the names of settings that cannot change once a network is built."""
        changeable = set(CHANGEABLE)
        for registry in cls.parts.values():
            changeable.update(settings_in(*registry.values()))
        return settings_in(cls.Settings).keys() - changeable

    @classmethod
    def known_settings(cls) -> dict[str, Setting]:
        """Return the declared settings by name, with the defaults of this class.

        Those of all parts are among them, also of parts that somebody has registered.

        Raises
        ------
        ModelError
            If a part declares a setting that the network has already.
        """
        known = settings_in(cls.Settings)
        for kind, registry in cls.parts.items():
            of_parts = settings_in(*registry.values())
            for name, declared in of_parts.items():
                if known.get(name, declared) is not declared:
                    raise ModelError(
                        f"a {kind} declares a setting {name}, which {cls.__name__} has already: "
                        "take another name"
                    )
            known = known | of_parts
        defaults = {}
        for base in reversed(cls.__mro__):
            defaults |= vars(base).get("defaults", {})
        return with_defaults(known, defaults)

    @classmethod
    def checked(cls, values: dict[str, object]) -> dict[str, object]:
        """Return all settings in force, these values among them, and defaults.

        Settings of parts that are not chosen are left out.

        Parameters
        ----------
        values : dict of {str: object}
            By name.

        Raises
        ------
        ModelError
            For an unknown name or an impossible value.
        """
        known = cls.known_settings()
        for name in values:
            if name not in known:
                raise ModelError(f"{cls.__name__} has no setting {name!r}: {choices(name, known)}")
        checked = {}
        for name, declared in known.items():
            checked[name] = declared.check(name, values.get(name, declared.default))
        for kind, registry in cls.parts.items():
            if not registry.keeps_all:
                for name in registry.settings_without(checked[kind]):
                    checked.pop(name, None)
        return checked

    @staticmethod
    def check_in_force(asked: set[str], settings: dict[str, object]) -> None:
        """Raise ModelError for a setting that was asked for, and has no effect.

        It belongs to a gate or read-out that is not chosen.
        """
        idle = sorted(asked - settings.keys())
        if idle:
            raise ModelError(
                f"{idle[0]} belongs to a gate or read-out that is not chosen: choose that, too"
            )

    def make_parts(self, **common: object) -> dict[str, object]:
        """Make the parts that the settings name.

        Parameters
        ----------
        **common
            Attributes that all of them get.

        Returns
        -------
        dict of {str: object}
            By "gate", "rule" or "readout".
        """
        made = {}
        for kind, registry in self.parts.items():
            if kind in self.own_parts:
                made[kind] = self.own_parts[kind]
            else:
                cls = registry.find(self.settings[kind])
                made[kind] = cls(**{name: self.settings[name] for name in settings_in(cls)})
            vars(made[kind]).update(common)
        return made


def check_together(model: Network, gate: Gate, rule: Never) -> None:
    """Raise ModelError if settings of an SNN and of these parts conflict."""
    settings = model.settings
    frames = settings["recorded_frames"]  # 0: it takes images
    timesteps = settings["timesteps"]
    model.timing.check(model, gate, rule)
    gate.check(model.has_feedback)
    if frames and timesteps > frames:
        raise ModelError(
            f"timesteps: these recordings have {frames} frames, one for each timestep: "
            f"give at most {frames}, not {timesteps}"
        )
    if frames and not gate.follows_changes:
        raise ModelError(
            f"gate {settings['gate']} is for an image that stays: for recordings choose block, "
            "or open"
        )
    if frames and gate.reacts and not gate.reopens:
        raise ModelError(
            "blocking: blocked pixels must reopen, because a recording changes: choose dynamic"
        )
    if rule.looks_at_input and not (model.has_feedback and gate.reacts):
        raise ModelError(
            f"rule {settings['rule']} needs an architecture with feedback and a gate that "
            "blocks; choose another"
        )
    if rule.compares_classes and settings["labels"] == 1:
        raise ModelError(
            f"rule {settings['rule']} compares the logits of classes, and this network has only "
            "one: choose never, or all_predicted"
        )
