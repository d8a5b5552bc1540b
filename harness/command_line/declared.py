"""The settings of a run that are not the model's, declared: their flags follow from them."""

from dataclasses import dataclass
from functools import partial

from harness.training.losses import STEP_WEIGHTS
from self_models.basics import settings
from self_models.basics.settings import (
    COUNT,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    WHOLE,
    Choice,
    Need,
    Switch,
    Text,
    setting,
)
from self_models.loading import ENGINES
from self_models.vgg_wFeedback import PRECISIONS

STEPPED, RISING = Need("lr_schedule", ("step",)), Need("lr_schedule", ("cosine", "triangle"))
WITH_SGD, WITH_ADAM = Need("optimizer", ("SGD",)), Need("optimizer", ("Adam",))
AVERAGED = Need("average_weights", ("mean", "ema"))
AUGMENTED = Need("augment", why="the images stay as they are")
WITH_DECODER = Need("architecture", why="it has no decoder that could reconstruct", of_plan=lambda plan: bool(plan.decoder))
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


# fmt: off
@dataclass
class OfAll:
    """Flags of every script that trains or evaluates."""

    seed: int = setting(0, WHOLE, "of every random choice", flags=("-s", "--seed"), group="run", common=True)
    log: bool = run_setting(True, Switch(), "write logs/…/NAME.log and NAME.jsonl")
    output_dir: str = run_setting(".", Text(), "folder that holds logs/ and trained_models/", taken_up=False, common=True)
    run_name: str = run_setting("", Text(), "NAME of logs and checkpoints, instead of one made from the flags", taken_up=False,
        common=True)
    model: str = run_setting("", Text(), "a network of your own, derived from the one here, or, without :CLASS, what the file "
        "registers, a gate say", metavar="FILE.py[:CLASS]", taken_up=False, common=True)
    device: str = run_setting("auto", Choice(("auto", "cpu", "cuda", "mps")), "auto: a GPU where there is one", common=True)
    gpu: bool = run_setting(True, Switch(), "--no-gpu is short for --device cpu")
    devices: int = run_setting(0, WHOLE, "index of the GPU to use, where there are several")
    test_only: bool = run_setting(False, Switch(), "evaluate once, train nothing", taken_up=False, common=True)
    overwrite: bool = run_setting(False, Switch(), "replace an earlier run of the same name", taken_up=False, common=True)
    data_dir: str = run_setting("", Text(), "folder of the files of a known data set; default: data/ of the repository; "
        "installed: data/ in $XDG_CACHE_HOME/snn_wFeedback or ~/.cache/snn_wFeedback", group="data")
    image_size: int = setting(None, COUNT, "of a folder: resize the short side to N pixels and cut out the middle, N x N; "
        "default: the network's, or the files' own where all have one and are square", group="data", metavar="N", common=True)
    grey: bool = setting(None, Switch(), "of a folder: read its images as grey ones; default: the network's way, or grey where "
        "all files are", group="data")
    skip_bad: bool = setting(False, Switch(), "of a folder: leave out files that cannot be read", group="data")
    batch_size: int = setting(64, COUNT, "images per update, at least 1", group="data", common=True)
    limit_train: int = setting(None, COUNT, "use the first N training images only", group="data", metavar="N", common=True)
    limit_test: int = setting(None, COUNT, "use the first N test images only", group="data", metavar="N", common=True)
    epochs: int = training_setting(100, COUNT, "passes over the training images", fixed=False, common=True, needs=(NOT_COUNTED,))
    learning_rate: float = training_setting(1e-4, POSITIVE, "above 0", flags=("-lr", "--learning_rate"), common=True)
    lr_schedule: str = training_setting("step", Choice(("step", "cosine", "triangle")), "cosine, triangle: rise, then fall to 0")
    lr_interval: list = setting("0.60 0.80 0.90", Text(fractions), "step: when, parts of epochs", group="training", training=True,
        needs=(STEPPED,))
    lr_reduce: float = training_setting(10, POSITIVE, "step: what the learning rate is divided by", needs=(STEPPED,))
    optimizer: str = training_setting("Adam", Choice(("Adam", "SGD")), "of torch.optim")
    weight_decay: float = training_setting(5e-4, NOT_NEGATIVE, "of weights; thresholds and leaks have none")
    momentum: float = training_setting(0.9, FRACTION, "of SGD", needs=(WITH_SGD,))
    amsgrad: bool = training_setting(True, Switch(), "of Adam", needs=(WITH_ADAM,))
    trade_off: float = setting(10.0, NOT_NEGATIVE, "weight of the reconstruction loss", group="training", common=True,
        needs=(WITH_DECODER,))
    precision: str = training_setting("float32", Choice(PRECISIONS), "of the matrix products in training; bfloat16: faster where "
        "the hardware has it, less exact")
    augment: bool = training_setting(False, Switch(), "change training images at random: turn, scale and shift grey ones, mirror "
        "(left for right) and shift colour ones", common=True)
    test_acc_every_batch: bool = run_setting(False, Switch(), "log accuracy after each test batch", group="training")
    train_acc_batches: int = training_setting(200, COUNT, "log running figures every so many batches", fixed=False)
    results_json: str = run_setting("", Text(), "write the list of all evaluations there as well", group="results",
        metavar="PATH", taken_up=False, common=True)


@dataclass
class OfTraining:
    """Flags of both scripts that train."""

    seeds: list = setting(None, WHOLE, "instead of --seed: one run after the other, for seeds 0 1 2 NAME, NAME_1 and NAME_2",
        group="run", fixed=False, taken_up=False, metavar="N", argparse={"nargs": "+"}, common=True)
    resume: str = run_setting("", Text(), "go on from this run's own last checkpoint, all of whose flags hold unless typed, or "
        "from PATH; begin where there is none yet and other flags say what to train", taken_up=False, training=True,
        metavar="PATH", argparse={"nargs": "?", "const": "last"}, common=True)
    checkpoint_minutes: float = run_setting(15.0, NOT_NEGATIVE, "also save the last checkpoint within an epoch, every so many "
        "minutes; 0 = never", training=True, metavar="M")
    tensorboard: bool = run_setting(False, Switch(), "also write figures and predictions of each epoch to "
        "logs/…/tensorboard/NAME; needs the package tensorboard", training=True)
    updates: int = training_setting(None, COUNT, "instead of --epochs: so many updates of the weights, or more to end an epoch, "
        "which goes through a small set several times", fixed=False, metavar="N", common=True)
    holdout: int = training_setting(None, WHOLE, "hold out the last N training images, choose the best epoch on them; 0: nothing "
        "is chosen, the last epoch counts; default: a tenth of the training images in use, from 1 to 5000", group="data",
        metavar="N", common=True)
    select: str = training_setting("held-out", Choice(("held-out", "test")), "what the best epoch, the first of equals, is "
        "chosen on; test: the test images, as the original does, so that its figures are better than they should be",
        group="data")
    warm_up: float = training_setting(0.05, PROBABILITY, "cosine, triangle: part of all steps in which the learning rate rises",
        needs=(RISING,))
    nesterov: bool = training_setting(False, Switch(), "of SGD: Nesterov's momentum",
        needs=(WITH_SGD, Need("momentum", why="there is no momentum")))
    bias_lr_factor: float = training_setting(1.0, POSITIVE, "the learning rate of biases (a normalisation's, an SNN's), times "
        "that of weights")
    average_weights: str = training_setting("none", Choice(("none", "mean", "ema")), "judge and keep, in place of the weights, "
        "their average over the last steps: their mean, or the exponential moving average")
    average_from: float = training_setting(0.75, PROBABILITY, "part of all steps after which weights are averaged",
        needs=(AVERAGED,))
    average_decay: float = training_setting(0.999, PROBABILITY, "of ema: part of the average that each step leaves as it is",
        needs=(Need("average_weights", ("ema",)),))
    label_smoothing: float = training_setting(0.0, PROBABILITY, "part of each label that is spread evenly over all classes")
    mirror: str = training_setting("random", Choice(("random", "alternate")), "when --augment mirrors a colour image: in half of "
        "the epochs at random; alternate: in every second epoch", needs=(AUGMENTED,))
    shift: int = training_setting(None, WHOLE, "by how many pixels --augment shifts an image at most; default: 2 of grey ones, "
        "an eighth of the size of colour ones", metavar="N", needs=(AUGMENTED,))
    cutout: int = training_setting(0, WHOLE, "side in pixels of a square, anywhere, that --augment sets to 0 in each image; 0: "
        "none", metavar="N", needs=(AUGMENTED,))
    teacher_ann: str = training_setting("", Text(), "ANN checkpoint whose outputs to learn, too", metavar="PATH")
    distillation: float = training_setting(0.5, FRACTION, "how much the teacher counts, 0 to 1; the labels count for the rest",
        needs=(TAUGHT,))
    temperature: float = training_setting(2.0, POSITIVE, "that softens the teacher's outputs", needs=(TAUGHT,))


@dataclass
class OfEvaluation:
    holdout: int = setting(0, WHOLE, "evaluate on the last N training images, held out, instead of the test images", group="data",
        metavar="N", common=True)


@dataclass
class OfANN:
    pretrained_ann: str = run_setting("", Text(), "ANN checkpoint to start from, or to test", group="checkpoint", metavar="PATH",
        common=True)


@dataclass
class OfSNN:
    """Flags of every script that trains or evaluates an SNN."""

    pretrained_snn: str = run_setting("", Text(), "SNN checkpoint; its settings hold unless typed", group="checkpoint",
        metavar="PATH", common=True)
    engine: str = run_setting("auto", Choice(ENGINES), "what evaluates: dense; event, whose cost follows the spikes, on the CPU, "
        "with numba; auto: event where that pays; training is dense", group="engine", common=True)
    pretrained_ann: str = conversion_setting("", Text(), "ANN checkpoint to convert", fixed=False, metavar="PATH", common=True)
    scaling_factor: float = conversion_setting(0.7, POSITIVE, "what balanced thresholds are multiplied by", common=True)
    balance_images: int = conversion_setting(128, COUNT, "training images to balance with (original: 512)")
    balance_timesteps: int = conversion_setting(100, COUNT, "steps to balance with (original: 1000)")
    balance_percentile: float = conversion_setting(100.0, settings.PERCENTILE, "which of a layer's drives is its threshold; 100: "
        "the largest")
    calibrate: bool = conversion_setting(False, Switch(), "shift biases until each channel's mean rate in T steps is the ANN's, "
        "on --balance_images images; wants --update immediate",
        needs=(CONVERTED, Need("pretrained_ann", why="nothing is converted")))
    trade_off_type: str = setting("last_t", Choice(STEP_WEIGHTS), "which steps' errors count", group="fine-tuning",
        needs=(WITH_DECODER,))
    classification_type: str = training_setting("last_t", Choice(STEP_WEIGHTS), "which steps' outputs count in training; mean_t: "
        "all alike, so that early stops are right", group="fine-tuning")
    spike_penalty: float = training_setting(0.0, NOT_NEGATIVE, "loss per spike", group="fine-tuning", common=True)


@dataclass
class OfFineTuning:
    sequence: int = training_setting(1, COUNT, "train as a network that is left on: the images of N updates come one after the "
        "other, each for T/2 to 3T/2 steps, at random, and membranes, outputs and predictions go on; gradients are cut, and "
        "weights updated, where an image goes; the best epoch is the best at such sequences of held-out images, T steps each",
        group="fine-tuning", metavar="N")
    bptt_segments: str = training_setting(0, Text(segments), "compute steps again in the backward pass, in N segments: memory "
        "for T/N steps; auto: root of T; 0 = off", group="fine-tuning", fixed=False, metavar="N|auto")
    train: str = training_setting("all", Choice(("all", "decoder")), "which weights; decoder: the others stay as they are",
        group="fine-tuning")
