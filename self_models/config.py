"""The settings that every network has, ANN or SNN, and those that spiking adds; its parts add their own. What a Network makes of
them, and which go together."""

import os
from dataclasses import dataclass

import torch
from torch import nn

from self_models.basics import ModelError
from self_models.basics.images import (
    IMAGE_SHAPES,
    background,
    class_names,
    data_set,
    find_image_shape,
)
from self_models.basics.settings import (
    COUNT,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    WHOLE,
    Choice,
    Number,
    Switch,
    Text,
    objective_setting,
    setting,
    settings_in,
    with_defaults,
)
from self_models.layers.architectures import PLANS
from self_models.layers.neurons import UPDATES
from self_models.layers.norms import ACTIVATIONS, NORMS
from self_models.layers.stages import INITS, MAX_POOLS
from self_models.layers.surrogates import SURROGATES
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES


def odd(value):
    """The value, an odd whole number from 1. Raises ValueError for another."""
    if (value := COUNT.check(value)) % 2 == 0:
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


@dataclass
class NetworkSettings:
    """plan=[encoder, decoder] overrides vgg_name; image_shape=(C, H, W) and classes, a list of names, override what is known of
    the data set, and background what its border is like. None of them is a flag."""

    vgg_name: str = setting(
        "VGG5_wFeedback",
        Text(Choice(PLANS).parse),
        ", ".join(PLANS),
        flags=("-a", "--architecture"),
        group="network",
        metavar="PLAN",
        common=True,
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
        f"{', '.join(IMAGE_SHAPES)} (MNIST comes with the repository), or a folder of your own images: FOLDER/train/CLASS/* and "
        "FOLDER/test/CLASS/*, PNG, JPEG, WebP, ..., or recordings of an event camera, .bin of N-MNIST, .npz or .npy",
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
    plan: list = setting(None, Text(), "encoder and decoder", flags=())
    image_shape: tuple = setting(None, Text(), "channels, height, width", flags=())
    recorded_frames: int = setting(
        0, WHOLE, "frames of a recording's file; 0: of images", flags=()
    )
    classes: list = setting(None, Text(), "names of the classes", flags=())
    background: float = setting(None, FRACTION, "light of the images' border", flags=())


@dataclass
class ANNSettings(NetworkSettings):
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


@dataclass
class SpikingSettings(NetworkSettings):
    """One time unit is one simulation step."""

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
        "immediate: charge first; phased: charge for T timesteps, then spike for T, layer after layer",
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
    membrane_floor: float = setting(
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


class Network(nn.Module):
    """A network that is built from declared settings and keeps them in self.settings, and what is known of its images. Settings:
    the declaration of its own; parts: setting -> Registry of the classes that it may name, each a declaration, too; defaults:
    where this class's differ from its bases'. build() makes its layers. Raises ModelError for settings that make no network."""

    Settings = None
    parts = {}  # noqa: RUF012
    defaults = {}  # noqa: RUF012
    why_not_saved = None  # what to do instead, of networks that no checkpoint can hold

    def __init__(self, vgg_name=None, **settings):
        super().__init__()
        self.settings = self.checked(
            settings if vgg_name is None else {"vgg_name": vgg_name, **settings}
        )
        self.image_shape, self.classes = (
            find_image_shape(self.settings),
            class_names(self.settings),
        )
        self.background = background(self.settings)
        self.build()
        self.to(memory_format=torch.channels_last)

    @classmethod
    def known_settings(cls):
        """name -> Setting, with this class's defaults; those of all parts are among them."""
        known, defaults = settings_in(cls.Settings), {}
        for kind, registry in cls.parts.items():
            parts = settings_in(*registry.values())
            if both := known.keys() & parts.keys():
                raise ModelError(
                    f"a {kind} declares a setting {min(both)}, which {cls.__name__} has already: take another name"
                )
            known = known | parts
        for base in reversed(cls.__mro__):
            defaults |= vars(base).get("defaults", {})
        return with_defaults(known, defaults)

    @classmethod
    def checked(cls, values):
        """All settings in force, these values among them, without those of parts that are not chosen. Raises ModelError for an
        unknown name or an impossible value."""
        known = cls.known_settings()
        if unknown := [name for name in values if name not in known]:
            raise ModelError(
                f"{cls.__name__} has no setting {unknown[0]!r}: choose from {', '.join(known)}"
            )
        checked = {
            name: one.check(name, values.get(name, one.default)) for name, one in known.items()
        }
        for kind, registry in cls.parts.items():
            idle = () if registry.keeps_all else registry.settings_without(checked[kind])
            checked = {name: value for name, value in checked.items() if name not in idle}
        return checked

    @staticmethod
    def check_in_force(asked, settings):
        """Raises ModelError where a setting that was asked for is of a gate or read-out that is not chosen."""
        if idle := sorted(asked - settings.keys()):
            raise ModelError(
                f"{idle[0]} belongs to a gate or read-out that is not chosen: choose that, too"
            )

    def make_parts(self, **common):
        """setting -> the part that it names, made of the settings that the part declares; common: attributes that all get."""
        made = {}
        for name, registry in self.parts.items():
            cls = registry.find(self.settings[name])
            made[name] = cls(**{own: self.settings[own] for own in settings_in(cls)})
            vars(made[name]).update(common)
        return made


def check_together(model, gate, rule):
    """Raise ModelError if settings of a model and of these parts conflict."""
    own, frames = model.settings, model.settings["recorded_frames"]
    model.timing.check(model, gate, rule)
    gate.check(model.has_feedback)
    if frames and own["timesteps"] > frames:
        each = f"these recordings have {frames} frames, one for each timestep"
        raise ModelError(f"timesteps: {each}: give at most {frames}, not {own['timesteps']}")
    if frames and not gate.follows_changes:
        raise ModelError(
            f"gate {own['gate']} is for an image that stays: for recordings choose block, or open"
        )
    if frames and gate.reacts and not gate.reopens:
        raise ModelError(
            "blocking: blocked pixels must reopen, because a recording changes: choose dynamic"
        )
    if rule.looks_at_input and not (model.has_feedback and gate.reacts):
        raise ModelError(
            f"rule {own['rule']} needs an architecture with feedback and a gate that blocks; choose another"
        )
    if rule.compares_classes and own["labels"] == 1:
        raise ModelError(
            f"rule {own['rule']} compares the logits of classes, and this network has only one: "
            "choose never, or all_predicted"
        )
