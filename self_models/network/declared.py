"""The settings that every network has, ANN or SNN, and those that spiking adds; its parts add their own."""

import os
from dataclasses import dataclass

from self_models.basics.images import IMAGE_SHAPES, data_set, names
from self_models.basics.settings import (
    COUNT,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    WHOLE,
    Choice,
    Need,
    Number,
    Switch,
    Text,
    objective_setting,
    setting,
)
from self_models.network.neurons import UPDATES
from self_models.network.norms import ACTIVATIONS, NORMS
from self_models.network.plans import PLANS
from self_models.network.stages import INITS, MAX_POOLS
from self_models.network.surrogates import SURROGATES
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
    "timesteps", "encoding", "predict", "feedback_interval", "output_leak", "membrane_floor", "surprise", "gate", "rule",
)  # fmt: skip
HIDDEN = Need("fc_layers", why="the classifier has no hidden layers")


@dataclass
class NetworkSettings:
    """plan=[encoder, decoder] overrides vgg_name; image_shape=(C, H, W) and classes, a list of names, override what is known of
    the data set, and background what its border is like. None of them is a flag."""

    vgg_name: str = setting(
        "VGG5_wFeedback", Text(Choice(PLANS).parse), ", ".join(PLANS), flags=("-a", "--architecture"), group="network",
        metavar="PLAN", common=True,
    )  # fmt: skip
    fc_width: int = setting(4096, COUNT, "width of the classifier's hidden layers", group="network", common=True, needs=(HIDDEN,))
    fc_layers: int = setting(
        2, Number(int, 0, 100), "hidden layers of the classifier; 0: one linear layer on the encoder's output", group="network"
    )
    kernel_size: int = setting(3, Text(lambda text: odd(COUNT.parse(text)), odd), "of the convolutions, odd", group="network")
    dropout: float = setting(0.2, PROBABILITY, "probability, 0 to below 1", group="network", training=True)
    fc_dropout: float = setting(
        0.5, PROBABILITY, "probability in the classifier, 0 to below 1", group="network", needs=(HIDDEN,), training=True
    )
    init: str = setting(
        "original",
        Choice(INITS),
        "of new weights; kaiming: as large as deep plans need; dirac: so, but convolutions first hand on what they get",
        group="network",
        training=True,
    )
    timesteps: int = setting(1, COUNT, "T, passes of feedback per image", group="network", balanced=False, common=True)
    dataset: str = setting(
        "MNIST", Text(lambda text: text if text in IMAGE_SHAPES else os.path.abspath(text), data_set),
        f"{', '.join(IMAGE_SHAPES)} (MNIST comes with the repository), or a folder of your own images: FOLDER/train/CLASS/* and "
        "FOLDER/test/CLASS/*, PNG, JPEG, WebP, ..., or recordings of an event camera, .npz or .npy",
        group="data", metavar="NAME|FOLDER", common=True,
    )  # fmt: skip
    count_bound: int = setting(
        1, COUNT, "of recordings: a pixel's events in a step, of one polarity, from which its value is 1; fewer in proportion",
        group="data", metavar="N", balanced=False,
    )  # fmt: skip
    labels: int = setting(10, Number(int, 1, 2**20), "number of classes", flags=())
    plan: list = setting(None, Text(), "encoder and decoder", flags=())
    image_shape: tuple = setting(None, Text(), "channels, height, width", flags=())
    recorded_frames: int = setting(0, WHOLE, "frames of a recording's file; 0: of images", flags=(), balanced=False)
    classes: list = setting(None, Text(check=names), "names of the classes", flags=(), balanced=False)
    background: float = setting(None, FRACTION, "light of the images' border", flags=(), balanced=False)


@dataclass
class ANNSettings(NetworkSettings):
    norm: str = setting(
        "none", Choice(NORMS), "of what each nonlinearity gets, by channel, for deep plans; scale: divide by root mean square "
        "over the batch; batch: torch.nn.BatchNorm2d; conversion folds both into the weights", group="network", common=True,
    )  # fmt: skip
    norm_scale: bool = setting(
        True, Switch(), "learn a scale of each channel behind its norm, which else stays 1", group="network",
        needs=(Need("norm", ("scale", "batch")),), training=True,
    )  # fmt: skip
    activation_ann: str = setting(
        "relu", Choice(ACTIVATIONS), "nonlinearity; qcfs: in steps up to a learned bound of each layer, which becomes its "
        "threshold in conversion", group="network", common=True,
    )  # fmt: skip
    qcfs_levels: int = setting(
        4, Number(int, 0, 2**16), "steps from 0 to the bound; 0: clipped, without steps", group="network",
        needs=(Need("activation_ann", ("qcfs",)),),
    )  # fmt: skip
    whitening: bool = setting(
        False, Switch(), "the first convolution stays as it begins: the training images' patterns of most variance, scaled to "
        "variance 1, and their negatives", group="network", training=True,
        needs=(Need("pretrained_ann", ("",), "a trained first layer stays as trained"),),
    )  # fmt: skip


WITH_MAX_POOL = Need("architecture", why="it has no such pool", of_plan=lambda plan: "M" in plan.encoder)
STDB = Need("activation", ("STDB",))
RANDOM_WEIGHTS = (
    Need("pretrained_snn", ("",), "an SNN has its thresholds already"),
    Need("pretrained_ann", ("",), "its conversion balances all thresholds"),
)


@dataclass
class SpikingSettings(NetworkSettings):
    """One time unit is one simulation step."""

    dropout: float = setting(0.3, PROBABILITY, "probability, 0 to below 1", group="network", training=True)
    timesteps: int = setting(50, COUNT, "T, steps per image", group="spiking", balanced=False, common=True)
    leak: float = setting(1.0, FRACTION, "membrane kept per step, 0 to 1; 1 = no leak", group="spiking")
    bias: bool = setting(
        False, Switch(), "neurons get a constant current at each step, learned by channel; the conversion of an ANN with norm "
        "batch has it anyhow", group="spiking",
    )  # fmt: skip
    initial_potential: float = setting(
        0.0, PROBABILITY, "where membranes begin, in thresholds, 0 to below 1; the conversion of an ANN with qcfs takes 0.5",
        group="spiking",
    )  # fmt: skip
    max_pool: str = setting(
        "or", Choice(MAX_POOLS), "what passes a maximum pool of spikes: or, a spike of any of its neurons; count, one at which "
        "their highest spike count rises; the conversion of an ANN takes count", group="spiking",
        needs=(WITH_MAX_POOL,),
    )  # fmt: skip
    default_threshold: float = setting(
        1.0, POSITIVE, "of every layer of a network that starts from random weights", group="spiking", needs=RANDOM_WEIGHTS
    )
    activation: str = setting("Linear", Choice(SURROGATES), "surrogate gradient", group="spiking", training=True)
    alpha: float = setting(0.3, NOT_NEGATIVE, "scale of the STDB surrogate", group="spiking", needs=(STDB,), training=True)
    beta: float = setting(0.01, NOT_NEGATIVE, "how fast the STDB surrogate fades", group="spiking", needs=(STDB,), training=True)
    update: str = setting("delayed", Choice(UPDATES), "immediate: charge, then fire at once", group="spiking", common=True)
    encoding: str = setting("poisson", Choice(ENCODINGS), "direct: the analog image at each step", group="spiking")
    readout: str = setting("spike_count", Choice(READOUTS), "how the decoder's output predicts", group="spiking", common=True)
    predict: str = setting(
        "frame", Choice(("frame", "next")), "of recordings: what a step's prediction is compared with, the frame of that step or "
        "of the next; at the end the last one", group="spiking", balanced=False,
    )  # fmt: skip
    feedback_interval: int = setting(1, COUNT, "run the decoder every K steps", group="spiking", metavar="K")
    learn_threshold: bool = setting(False, Switch(), "train each layer's threshold", group="fine-tuning", training=True)
    learn_leak: bool = setting(False, Switch(), "train each layer's leak", group="fine-tuning", training=True)
    output_leak: float = setting(
        1.0, FRACTION, "part of the outputs kept per step, 0 to 1; below 1 old evidence fades", group="forgetting", balanced=False
    )
    membrane_floor: float = setting(
        None, NOT_NEGATIVE, "membranes do not fall below -F thresholds; default: no floor", group="forgetting", metavar="F"
    )
    surprise: float = setting(
        0.0, NOT_NEGATIVE, "of a network that is left on: when its image changes, so that a share r of the active pixels opens "
        "again, outputs, membranes and predictions keep 1 - min(1, G r) of what they were; 0 = all", group="forgetting",
        balanced=False, adopted=False, metavar="G",
    )  # fmt: skip
    gate: str = objective_setting(
        "open", Choice(GATES), "what decides which pixels the input neurons see", group="gate", common=True
    )
    rule: str = objective_setting("never", Choice(RULES), "when an image stops before T steps", group="stopping", common=True)
