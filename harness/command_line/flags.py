"""The flags of the scripts: the settings of a run, declared, and the parsers made of them and of the network's."""

import argparse
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from harness import UserError
from harness.building.models import class_for
from harness.building.start import CLASSES
from harness.command_line.parser import Parser, SwitchAction, new_file, typed
from harness.command_line.recipes import find
from harness.training.losses import STEP_WEIGHTS, loss_settings
from harness.training.optimizers import checked_optimizer
from self_models.assembly import ENGINE_NAMES
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
    setting,
    settings_in,
    with_defaults,
)
from self_models.vgg_wFeedback import PRECISIONS
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

recipe_setting = partial(setting, scope="recipe")
run_setting = partial(setting, group="run", scope="run")
command_setting = partial(setting, group="run", scope="command")
training_setting = partial(setting, group="training", training=True, scope="recipe")
conversion_setting = partial(setting, group="conversion", scope="recipe")


def segments(text):
    """'auto', or a whole number from 0."""
    return text if text == "auto" else WHOLE.parse(text)


def plain_name(text):
    """The text, the name of a file. Raises ValueError for another."""
    if "/" in text or text.startswith((".", " ")) or not text.isprintable():
        raise ValueError(f"{text}: give a plain file name; --output_dir says where")
    return text


def fractions(text):
    """'0.60 0.80 0.90' -> [0.6, 0.8, 0.9]"""
    return [FRACTION.parse(word) for word in text.replace(",", " ").split()]


@dataclass
class OfAll:
    """Flags of every script that trains or evaluates."""

    seed: int = recipe_setting(
        0, WHOLE, "random seed", flags=("-s", "--seed"), group="run", common=True
    )
    log: bool = run_setting(True, Switch(), "write logs/…/NAME.log and NAME.jsonl")
    output_dir: str = command_setting(
        ".", Text(), "folder of logs/ and trained_models/", common=True
    )
    run_name: str = command_setting(
        "", Text(plain_name), "name of logs and checkpoints; default: from the flags", common=True
    )
    model: str = command_setting(
        "",
        Text(),
        "your own network, a class derived from ours; or a file that registers parts (gate, "
        "rule, read-out, loss)",
        metavar="FILE.py[:CLASS]",
        common=True,
    )
    device: str = run_setting(
        "auto", Choice(("auto", "cpu", "cuda", "mps")), "auto: a GPU if there is one", common=True
    )
    gpu: bool = run_setting(True, Switch(), "--no-gpu: the same as --device cpu")
    devices: int = run_setting(0, WHOLE, "index of the GPU, if there are several")
    pretrained_ann: str = run_setting(
        "",
        Text(),
        "ANN checkpoint to start from, or to evaluate",
        group="checkpoint",
        metavar="PATH",
        common=True,
    )
    test_only: bool = command_setting(
        False, Switch(), "evaluate once, without training", common=True
    )
    overwrite: bool = command_setting(
        False, Switch(), "replace an earlier run of the same name", common=True
    )
    data_dir: str = run_setting(
        "",
        Text(),
        "folder of a known data set's files; default: data/ of the repository, or of the "
        "user's cache folder once installed",
        group="data",
    )
    image_size: int = recipe_setting(
        None,
        COUNT,
        "own images: resize the short side to N pixels, crop the centre to N x N; "
        "default: the network's, or the files' size if all are square and alike",
        group="data",
        metavar="N",
        common=True,
    )
    grey: bool = recipe_setting(
        None,
        Switch(),
        "own images: load as grey; default: as trained, or if all are",
        group="data",
    )
    event_frames: int = recipe_setting(
        10, COUNT, "recordings: frames that each is split into", group="data", metavar="N"
    )
    skip_bad: bool = recipe_setting(
        False, Switch(), "own images: leave out files that cannot be read", group="data"
    )
    batch_size: int = recipe_setting(64, COUNT, "images per batch", group="data", common=True)
    limit_train: int = recipe_setting(
        None, COUNT, "first N training images only", group="data", metavar="N", common=True
    )
    limit_test: int = recipe_setting(
        None, COUNT, "first N test images only", group="data", metavar="N", common=True
    )
    epochs: int = training_setting(
        100,
        Number(int, 0, COUNT.high),
        "passes over the training images; 0: no training",
        scope="run",
        common=True,
    )
    learning_rate: float = training_setting(
        1e-4, POSITIVE, "learning rate", flags=("-lr", "--learning_rate"), common=True
    )
    lr_schedule: str = training_setting(
        "step",
        Choice(("step", "cosine", "triangle")),
        "learning rate over time; step: divided "
        "at --lr_interval; cosine, triangle: warm-up, then down to 0",
    )
    lr_interval: list = setting(
        "0.60 0.80 0.90",
        Text(fractions),
        "step schedule: fractions of training at which the rate drops",
        group="training",
        training=True,
        scope="recipe",
    )
    lr_reduce: float = training_setting(
        10, POSITIVE, "step schedule: divisor of the rate at each drop"
    )
    optimizer: str = training_setting(
        "Adam",
        Text(checked_optimizer, checked_optimizer),
        "an optimiser of torch.optim, by its name: Adam, SGD, AdamW, RMSprop, NAdam, ...; "
        "LBFGS, SparseAdam and Muon do not fit",
        metavar="NAME",
        common=True,
    )
    weight_decay: float = training_setting(
        5e-4, NOT_NEGATIVE, "weight decay; thresholds, leaks and biases have none"
    )
    momentum: float = training_setting(0.9, FRACTION, "momentum of SGD and RMSprop")
    amsgrad: bool = training_setting(True, Switch(), "AMSGrad variant of Adam and AdamW")
    trade_off: float = recipe_setting(
        10.0, NOT_NEGATIVE, "weight of the reconstruction loss", group="training", common=True
    )
    precision: str = training_setting(
        "float32", Choice(PRECISIONS), "of matrix products; bfloat16: faster where hardware has it"
    )
    augment: bool = training_setting(
        False,
        Switch(),
        "random changes of training images: grey ones are rotated, scaled and "
        "shifted, colour ones mirrored and shifted",
        common=True,
    )
    test_acc_every_batch: bool = run_setting(
        False, Switch(), "log accuracy after each test batch", group="training"
    )
    train_acc_batches: int = training_setting(
        200, COUNT, "log running figures every N batches", scope="run"
    )
    results_json: str = command_setting(
        "",
        new_file(),
        "also write all evaluations here",
        group="results",
        metavar="PATH",
        common=True,
    )


@dataclass
class OfTraining:
    """Flags of both scripts that train."""

    seeds: list = setting(
        None,
        WHOLE,
        "train once for each seed, in turn: for seeds 0 1 2 as NAME, NAME_1, NAME_2; instead of "
        "--seed",
        group="run",
        scope="command",
        metavar="N",
        argparse={"nargs": "+"},
        common=True,
    )
    resume: str = command_setting(
        "",
        Text(),
        "continue this run from its last checkpoint, or from PATH, with its flags unless "
        "typed; starts the run if there is none and other flags say what to train",
        training=True,
        metavar="PATH",
        argparse={"nargs": "?", "const": "last"},
        common=True,
    )
    checkpoint_minutes: float = run_setting(
        15.0,
        NOT_NEGATIVE,
        "save the last checkpoint every M minutes within an epoch, too; 0: never",
        training=True,
        metavar="M",
    )
    updates: int = training_setting(
        None,
        COUNT,
        "length of training in weight updates, instead of --epochs; a small set is "
        "passed through several times",
        scope="run",
        metavar="N",
        common=True,
    )
    holdout: int = training_setting(
        None,
        WHOLE,
        "last N training images, held out to select the best epoch; 0: none, the last "
        "epoch counts; default: a tenth, from 1 to 5000",
        group="data",
        metavar="N",
        common=True,
    )
    select: str = training_setting(
        "held-out",
        Choice(("held-out", "test")),
        "images that select the best epoch; test: the test "
        "images, as in the original, which flatters the result",
        group="data",
    )
    warm_up: float = training_setting(
        0.05, PROBABILITY, "cosine, triangle: fraction of training in which the rate rises"
    )
    nesterov: bool = training_setting(False, Switch(), "Nesterov momentum of SGD")
    bias_lr_factor: float = training_setting(
        1.0, POSITIVE, "learning rate of biases, as a multiple of that of weights"
    )
    label_smoothing: float = training_setting(
        0.0, PROBABILITY, "fraction of each label spread evenly over all classes"
    )
    mirror: str = training_setting(
        "random",
        Choice(("random", "alternate")),
        "--augment, colour: random, or every second epoch",
    )
    shift: int = training_setting(
        None,
        WHOLE,
        "--augment: largest shift in pixels; default: 2 for grey images, an eighth of the "
        "size for colour",
        metavar="N",
    )
    cutout: int = training_setting(
        0, WHOLE, "--augment: side of a random square set to 0, in pixels; 0: none", metavar="N"
    )
    teacher_ann: str = training_setting(
        "", Text(), "ANN checkpoint to distil from", metavar="PATH"
    )
    distillation: float = training_setting(
        0.5, FRACTION, "weight of the teacher's outputs; labels have the rest"
    )
    temperature: float = training_setting(
        2.0, POSITIVE, "softmax temperature of the teacher's outputs"
    )


@dataclass
class OfEvaluation:
    holdout: int = recipe_setting(
        0,
        WHOLE,
        "evaluate on the last N training images, which training held out, instead of the "
        "test images",
        group="data",
        metavar="N",
        common=True,
    )


@dataclass
class OfSNN:
    """Flags of every script that trains or evaluates an SNN."""

    pretrained_snn: str = run_setting(
        "",
        Text(),
        "SNN checkpoint; flags that you type override its settings",
        group="checkpoint",
        metavar="PATH",
        common=True,
    )
    engine: str = run_setting(
        "auto",
        Choice(ENGINE_NAMES),
        "of evaluation; dense: PyTorch, layer by layer; event: the "
        "event-driven kernel in C, on the CPU; reference: step(), step by step; auto: event if the kernel can, else dense",
        group="engine",
        common=True,
    )
    scaling_factor: float = conversion_setting(
        0.7, POSITIVE, "factor on balanced thresholds", common=True
    )
    balance_images: int = conversion_setting(
        128, COUNT, "training images for threshold balancing (original: 512)"
    )
    balance_timesteps: int = conversion_setting(
        100, COUNT, "timesteps for threshold balancing (original: 1000)"
    )
    balance_percentile: float = conversion_setting(
        100.0,
        Number(float, 0, 100, above=True),
        "percentile of a layer's input currents that becomes its threshold; 100: the maximum",
    )
    calibrate: bool = conversion_setting(
        False,
        Switch(),
        "shift biases until each channel's mean rate over T timesteps is the "
        "ANN's, on --balance_images images; not with --update delayed",
    )
    trade_off_type: str = recipe_setting(
        "last_t", Choice(STEP_WEIGHTS), "timesteps whose errors count", group="fine-tuning"
    )
    classification_type: str = training_setting(
        "last_t",
        Choice(STEP_WEIGHTS),
        "timesteps whose logits count in training; mean_t: all alike, which early exit needs",
        group="fine-tuning",
    )
    spike_penalty: float = training_setting(
        0.0, NOT_NEGATIVE, "loss per spike", group="fine-tuning", common=True
    )


@dataclass
class OfFineTuning:
    bptt_segments: str = training_setting(
        0,
        Text(segments),
        "recompute in N segments in the backward pass: memory of T/N "
        "timesteps; auto: root of T; 0: off",
        group="fine-tuning",
        scope="run",
        metavar="N|auto",
    )
    train: str = training_setting(
        "all",
        Choice(("all", "decoder")),
        "weights that are trained; decoder: all others are fixed",
        group="fine-tuning",
    )


UNUSED_GROUPS = (
    "training",
    "fine-tuning",
)  # where nothing is trained; their flags are of the original's command lines
EVALUATED_WITH = (
    "timesteps",
    "epsilon",
    "dataset",
)  # of what a checkpoint holds, these are what an evaluation varies
SELDOM = (
    "pretrained_ann",
    "scaling_factor",
    "limit_train",
    "image_size",
    "test_only",
)  # of an evaluation
SNN_DEFAULTS = {"momentum": 0.95, "trade_off": 1.0}
BARE = (
    "nothing to do: --preset quick_feedback trains in minutes, --preset list names all recipes; --preset own --dataset FOLDER "
    "trains on your own images; --dataset MNIST is the original's run, many hours on a CPU"
)


def class_in(argv, table, cls):
    """The class of the --model in a command line, or in the table of the recipe that it names; else cls. Its file is imported
    here, before there is a parser: what it registers has flags."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--model", "--preset"):
        first.add_argument(flag, nargs="?")
    typed = first.parse_known_args(argv)[0]
    if typed.preset and typed.model is None:
        with suppress(UserError):  # of a recipe, which is told when flags are parsed
            typed.model = (
                find(typed.preset, "ann" if table == "ann" else "snn").of(table, {}).get("model")
            )
    return class_for(str(typed.model or ""), cls)


def training_settings(kind, cls=None):
    """name -> Setting of all flags of the script that trains an ANN or SNN (kind). cls: of a network of somebody's own."""
    network = (cls or CLASSES[kind]).known_settings()
    if kind == "ann":
        return joined(settings_in(OfAll, OfTraining), network)
    return joined(
        loss_settings(),
        with_defaults(settings_in(OfAll, OfTraining, OfSNN, OfFineTuning), SNN_DEFAULTS),
        network,
    )


def posthoc_settings(cls, own=None):
    """name -> Setting of the flags of a script that evaluates an SNN as a model of class cls, or of somebody's own."""
    own = own or cls
    known = with_defaults(own.known_settings(), cls.defaults | own.defaults)
    return joined(
        with_defaults(settings_in(OfAll, OfEvaluation, OfSNN), SNN_DEFAULTS | {"test_only": True}),
        known,
    )


def declared_flags():
    """Return the declared flags of all scripts that train or evaluate.

    Returns
    -------
    dict of {str: Setting}
        By the flag's name. Of a flag that several scripts have, what evaluations say counts:
        training selects an epoch by ``--holdout``, and they choose their images by it.
    """
    settings = training_settings("ann") | training_settings("snn")
    settings |= posthoc_settings(VGG_SNN_STDB_wFeedback)
    return {one.flag(name): one for name, one in settings.items()}


def joined(*declared):
    """All of these name -> Setting. Raises UserError for a name that two of them have, as a part of somebody's own may."""
    joint = {}
    for settings in declared:
        if both := joint.keys() & settings.keys():
            raise UserError(
                f"--model: --{min(both)} is a flag of this script already: give your setting another name"
            )
        joint |= settings
    return joint


def training_parser(description, kind, argv=None):
    """The parser of the script that trains an ANN or SNN (kind). argv: where a --model is looked for, see class_in."""
    return Parser(
        description, kind, training_settings(kind, class_in(argv, kind, CLASSES[kind])), bare=BARE
    )


def posthoc_parser(description, argv, cls, without=()):
    """The parser of a script that evaluates a trained SNN as a model of class cls, or of --model's, whose settings are flags;
    without: settings that get no flag here, nor do those of the parts that they choose."""
    out = {
        *without,
        *settings_in(*(part for kind in without for part in cls.parts.get(kind, {}).values())),
    }
    network = class_in(argv, "evaluation", cls)
    known = {
        name: kind for name, kind in posthoc_settings(cls, network).items() if name not in out
    }
    kept = {
        name
        for name in network.known_settings().keys() & known.keys()
        if known[name].scope == "network"
    }
    known |= {
        name: replace(known[name], help=f"{known[name].help} (default: the checkpoint's)")
        for name in kept
    }
    parser, seldom = (
        Parser(description, "evaluation", known),
        {*kept.difference(EVALUATED_WITH), *SELDOM},
    )
    parser.rare |= {
        one.flag(name)
        for name, one in known.items()
        if one.group in UNUSED_GROUPS or name in seldom
    }
    return parser


def add_picture_flags(parser):
    """What a GIF shows, and how fast; returns the group."""
    group = parser.add_argument_group("pictures")
    number_or_path = typed(
        Text(lambda text: COUNT.parse(text) if text.lstrip("-").isdigit() else text)
    )
    group.add_argument(
        "--images",
        type=number_or_path,
        nargs="+",
        default=[5],
        metavar="N|PATH",
        help="N test images, the "
        "first of each class, or your own images: files and folders, without a data set",
    )
    group.add_argument(
        "--index",
        type=typed(WHOLE),
        nargs="+",
        default=None,
        metavar="I",
        help="test images by number",
    )
    group.add_argument(
        "--invert",
        action=SwitchAction,
        default=False,
        help="files as --images: swap dark and bright, as for dark digits on white paper",
    )
    group.add_argument(
        "--frame_seconds", type=typed(POSITIVE), default=0.5, help="seconds per frame of the GIF"
    )
    return group


def add_baseline_flag(group, what):
    group.add_argument(
        "--baseline",
        default="",
        metavar="PATH",
        help=f"{what}, beside it in the chart: a checkpoint",
    )
