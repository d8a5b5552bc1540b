"""The settings of a run that are not the model's, declared; and the parsers of the scripts, of both."""

from dataclasses import dataclass
from functools import partial

from harness.command_line.parser import GROUPS, Parser, SwitchAction, typed
from harness.command_line.presets import EVALUATIONS
from harness.training.losses import STEP_WEIGHTS
from self_models.basics import settings
from self_models.basics.settings import COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, WHOLE, Choice, Need, Switch, Text, setting
from self_models.loading import ENGINES
from self_models.network.plans import PLANS
from self_models.vgg_wFeedback import PRECISIONS, VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

STEPPED, WITH_SGD, WITH_ADAM = Need("lr_schedule", ("step",)), Need("optimizer", ("SGD",)), Need("optimizer", ("Adam",))
WITH_DECODER = Need(
    "architecture", tuple(name for name, (_, decoder) in PLANS.items() if decoder), "it has no decoder that could reconstruct"
)
CONVERTED = Need("pretrained_snn", ("",), "an SNN has its thresholds already, and nothing is converted")
NOT_COUNTED = Need("updates", (None,), "a length in --updates takes the place of one in epochs")
TAUGHT = Need("teacher_ann", why="there is no trained ANN to learn from")

run_setting = partial(setting, group="run", fixed=False)  # --resume may come with another value, which then holds
training_setting = partial(setting, group="training", training=True)
conversion_setting = partial(setting, group="conversion", needs=(CONVERTED,))


def segments(text):
    """'auto', or a whole number from 0."""
    return text if text == "auto" else WHOLE.parse(text)


def fractions(text):
    """'0.60 0.80 0.90' -> [0.6, 0.8, 0.9]"""
    return [FRACTION.parse(word) for word in text.replace(",", " ").split()]


@dataclass
class OfAll:
    """Flags of every script that trains or evaluates."""

    seed: int = setting(0, WHOLE, "of every random choice", flags=("-s", "--seed"), group="run", common=True)
    log: bool = run_setting(True, Switch(), "write logs/…/NAME.log and NAME.jsonl")
    output_dir: str = run_setting(".", Text(), "folder that holds logs/ and trained_models/", taken_up=False, common=True)
    run_name: str = run_setting(
        "", Text(), "NAME of logs and checkpoints, instead of one made from the flags", taken_up=False, common=True
    )
    device: str = run_setting("auto", Choice(("auto", "cpu", "cuda", "mps")), "auto: a GPU where there is one", common=True)
    gpu: bool = run_setting(True, Switch(), "--no-gpu is short for --device cpu")
    devices: int = run_setting(0, WHOLE, "index of the GPU to use, where there are several")
    test_only: bool = run_setting(False, Switch(), "evaluate once, train nothing", taken_up=False, common=True)
    overwrite: bool = run_setting(False, Switch(), "replace an earlier run of the same name", taken_up=False, common=True)
    data_dir: str = run_setting(
        "", Text(), "folder of the files of a known data set; default: the repository's data/", group="data"
    )
    image_size: int = setting(
        None, COUNT, "of a folder: resize the short side to N pixels and cut out the middle, N x N; default: the network's, or "
        "the files' own where all have one and are square", group="data", metavar="N",
    )  # fmt: skip
    grey: bool = setting(
        None, Switch(), "of a folder: read its images as grey ones; default: the network's way, or grey where all files are",
        group="data",
    )  # fmt: skip
    skip_bad: bool = setting(False, Switch(), "of a folder: leave out files that cannot be read", group="data")
    batch_size: int = setting(64, COUNT, "images per update, at least 1", group="data", common=True)
    limit_train: int = setting(None, COUNT, "use the first N training images only", group="data", metavar="N", common=True)
    limit_test: int = setting(None, COUNT, "use the first N test images only", group="data", metavar="N", common=True)
    epochs: int = training_setting(100, COUNT, "passes over the training images", fixed=False, common=True, needs=(NOT_COUNTED,))
    learning_rate: float = training_setting(1e-4, POSITIVE, "above 0", flags=("-lr", "--learning_rate"), common=True)
    lr_schedule: str = training_setting("step", Choice(("step", "cosine")), "cosine: warm up, then fall to 0")
    lr_interval: list = setting(
        "0.60 0.80 0.90", Text(fractions), "step: when, parts of epochs", group="training", training=True, needs=(STEPPED,)
    )
    lr_reduce: float = training_setting(10, POSITIVE, "step: what the learning rate is divided by", needs=(STEPPED,))
    optimizer: str = training_setting("Adam", Choice(("Adam", "SGD")), "of torch.optim")
    weight_decay: float = training_setting(5e-4, NOT_NEGATIVE, "of weights; thresholds and leaks have none")
    momentum: float = training_setting(0.9, FRACTION, "of SGD", needs=(WITH_SGD,))
    amsgrad: bool = training_setting(True, Switch(), "of Adam", needs=(WITH_ADAM,))
    trade_off: float = setting(
        10.0, NOT_NEGATIVE, "weight of the reconstruction loss", group="training", common=True, needs=(WITH_DECODER,)
    )
    precision: str = training_setting(
        "float32", Choice(PRECISIONS), "of the matrix products in training; bfloat16: faster where the hardware has it, less "
        "exact",
    )  # fmt: skip
    augment: bool = training_setting(
        False, Switch(), "change training images at random: turn, scale and shift grey ones, mirror (left for right) and shift "
        "colour ones", common=True,
    )  # fmt: skip
    test_acc_every_batch: bool = run_setting(False, Switch(), "log accuracy after each test batch", group="training")
    train_acc_batches: int = training_setting(200, COUNT, "log running figures every so many batches", fixed=False)
    results_json: str = run_setting(
        "", Text(), "write the list of all evaluations there as well", group="results", metavar="PATH", taken_up=False,
        common=True,
    )  # fmt: skip


@dataclass
class OfTraining:
    """Flags of both scripts that train."""

    resume: str = run_setting(
        "", Text(), "go on from this run's own last checkpoint, all of whose flags hold unless typed, or from PATH; begin where "
        "there is none yet", taken_up=False, training=True, metavar="PATH", argparse={"nargs": "?", "const": "last"}, common=True,
    )  # fmt: skip
    checkpoint_minutes: float = run_setting(
        15.0, NOT_NEGATIVE, "also save the last checkpoint within an epoch, every so many minutes; 0 = never", training=True,
        metavar="M",
    )  # fmt: skip
    tensorboard: bool = run_setting(
        False, Switch(), "also write figures and predictions of each epoch to logs/…/tensorboard/NAME; needs the package "
        "tensorboard", training=True,
    )  # fmt: skip
    updates: int = training_setting(
        None, COUNT, "instead of --epochs: so many updates of the weights, or more to end an epoch, which goes through a small "
        "set several times", fixed=False, metavar="N", common=True,
    )  # fmt: skip
    holdout: int = training_setting(
        None, WHOLE, "hold out the last N training images, choose the best epoch on them; 0: nothing is chosen, the last epoch "
        "counts; default: a tenth of the training images in use, from 1 to 5000", group="data", metavar="N", common=True,
    )  # fmt: skip
    select: str = training_setting(
        "held-out", Choice(("held-out", "test")), "what the best epoch, the first of equals, is chosen on; test: the test "
        "images, as the original does, so that its figures are better than they should be", group="data",
    )  # fmt: skip


@dataclass
class OfEvaluation:
    holdout: int = setting(
        0, WHOLE, "evaluate on the last N training images, held out, instead of the test images", group="data", metavar="N",
        common=True,
    )  # fmt: skip


@dataclass
class OfANN:
    pretrained_ann: str = run_setting(
        "", Text(), "ANN checkpoint to start from, or to test", group="checkpoint", metavar="PATH", common=True
    )


@dataclass
class OfSNN:
    """Flags of every script that trains or evaluates an SNN."""

    pretrained_snn: str = run_setting(
        "", Text(), "SNN checkpoint; its settings hold unless typed; training starts a decoder that it lacks at random",
        group="checkpoint", metavar="PATH", common=True,
    )  # fmt: skip
    engine: str = run_setting(
        "auto", Choice(ENGINES), "what evaluates: dense; event, whose cost follows the spikes, on the CPU, with numba; auto: "
        "event where that pays; training is dense", group="engine", common=True,
    )  # fmt: skip
    pretrained_ann: str = conversion_setting("", Text(), "ANN checkpoint to convert", fixed=False, metavar="PATH", common=True)
    scaling_factor: float = conversion_setting(0.7, POSITIVE, "what balanced thresholds are multiplied by")
    balance_images: int = conversion_setting(128, COUNT, "training images to balance with (original: 512)")
    balance_timesteps: int = conversion_setting(100, COUNT, "steps to balance with (original: 1000)")
    balance_percentile: float = conversion_setting(
        100.0, settings.PERCENTILE, "which of a layer's drives is its threshold; 100: the largest"
    )
    trade_off_type: str = setting(
        "last_t", Choice(STEP_WEIGHTS), "which steps' errors count", group="fine-tuning", needs=(WITH_DECODER,)
    )
    classification_type: str = training_setting(
        "last_t", Choice(STEP_WEIGHTS), "which steps' outputs count in training; mean_t: all alike, so that early stops are "
        "right", group="fine-tuning",
    )  # fmt: skip
    spike_penalty: float = training_setting(0.0, NOT_NEGATIVE, "loss per spike", group="fine-tuning", common=True)


@dataclass
class OfFineTuning:
    bptt_segments: str = training_setting(
        0, Text(segments), "compute steps again in the backward pass, in N segments: memory for T/N steps; auto: root of T; "
        "0 = off", group="fine-tuning", fixed=False, metavar="N|auto",
    )  # fmt: skip
    train: str = training_setting(
        "all", Choice(("all", "decoder")), "which weights; decoder: the others stay as they are", group="fine-tuning"
    )
    teacher_ann: str = training_setting(
        "", Text(), "ANN checkpoint whose outputs to learn, too", group="fine-tuning", metavar="PATH"
    )
    distillation: float = training_setting(
        0.5, FRACTION, "how much the teacher counts, 0 to 1; the labels count for the rest", group="fine-tuning", needs=(TAUGHT,)
    )
    temperature: float = training_setting(
        2.0, POSITIVE, "that softens the teacher's outputs", group="fine-tuning", needs=(TAUGHT,)
    )


NOT_USED = "accepted for the original's command lines; only --trade_off, its type and --test_acc_every_batch are used here"
UNUSED_GROUPS = ("training", "fine-tuning")  # where nothing is trained
SNN_DEFAULTS = {"momentum": 0.95, "trade_off": 1.0}


def ann_settings():
    """name -> Setting of all that the ANN's script has flags for."""
    return settings.declared(OfAll, OfTraining, OfANN) | VGG_wFeedback.declared()


def snn_settings():
    """name -> Setting of all that the SNN's training script has flags for."""
    own = settings.declared(OfAll, OfTraining, OfSNN, OfFineTuning)
    return settings.with_defaults(own, SNN_DEFAULTS) | VGG_SNN_STDB_wFeedback.declared()


def posthoc_settings(cls):
    """name -> Setting of all that a script has flags for that evaluates a trained SNN as a model of class cls."""
    own = settings.declared(OfAll, OfEvaluation, OfSNN)
    return settings.with_defaults(own, SNN_DEFAULTS | {"test_only": True}) | cls.declared()


BARE = (
    "nothing is asked for: --preset quick_feedback trains in minutes, another --preset longer; --preset own --dataset FOLDER "
    "trains on your own images; --dataset MNIST is the original's run, of many hours on a CPU"
)


def ann_parser(description, presets):
    return Parser(description, presets, ann_settings(), bare=BARE)


def snn_parser(description, presets):
    return Parser(description, presets, snn_settings(), bare=BARE)


def posthoc_parser(description, cls, without=()):
    """The parser of a script that evaluates a trained SNN as a model of class cls; without: settings that the script has its own
    flags for, which it adds."""
    own = {name: one for name, one in posthoc_settings(cls).items() if name not in without}
    parser = Parser(description, EVALUATIONS, own, GROUPS | dict.fromkeys(UNUSED_GROUPS, NOT_USED))
    parser.rare |= {one.flag(name) for name, one in own.items() if one.group in UNUSED_GROUPS or name == "test_only"}
    return parser


def number_or_path(text):
    """A count where the text is a number, else the text, which names a file or folder."""
    return COUNT.parse(text) if text.lstrip("-").isdigit() else text


def add_picture_flags(parser):
    """What a GIF shows, and how fast; returns the group."""
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--images", type=typed(Text(number_or_path)), nargs="+", default=[5], metavar="N|PATH", help="show N test images, the "
        "first of each class; or these files and folders of your own: no data set is needed then, and no accuracy is claimed",
    )  # fmt: skip
    group.add_argument(
        "--index", type=typed(WHOLE), nargs="+", default=None, metavar="I", help="show the test images of these numbers, from 0"
    )
    group.add_argument("--invert", action=SwitchAction, default=False, help="of files that --images names: turn dark and bright "
                       "round, as for ink on paper and a network that was trained on light digits")  # fmt: skip
    group.add_argument("--frame_seconds", type=typed(POSITIVE), default=0.5, help="seconds per frame of the GIF")
    return group
