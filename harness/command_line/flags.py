"""Command-line flags in shared groups. Names and defaults are the original's; what is new stands in the same groups."""

import argparse
import math
import shlex
import sys
from types import MappingProxyType

import torch

from harness.command_line.errors import UserError, fail
from harness.runs import ranks
from harness.training.losses import TRADE_OFF_TYPES
from self_models.network.neurons import UPDATES
from self_models.network.plans import IMAGE_SHAPES, PLANS
from self_models.network.surrogates import SURROGATES
from self_models.objectives.encoders import ENCODERS
from self_models.running.outputs import READOUTS
from self_models.vgg_wFeedback import PRECISIONS


class Parser(argparse.ArgumentParser):
    """Fails with one line and exit status 2; parse_args also fills `given`, the flags that were typed.

    presets: name -> flags that `--preset NAME` stands for; they count as typed before the others.
    """

    def __init__(self, description, presets=None):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Help)
        self.presets = presets or {}
        if presets:
            self.add_argument("--preset", choices=list(presets), default="", help="flags of the committed networks; what is "
                              "typed beside it holds instead")  # fmt: skip

    def error(self, message):
        fail(f"{message} (--help lists the flags)", 2)

    def parse_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        for word in args:
            if any("\ud800" <= letter <= "\udfff" for letter in word):  # Python's stand-ins for what is not UTF-8
                self.error(f"{word!a} is not UTF-8")
        preset = getattr(super().parse_args(args), "preset", "")
        flags = self.presets.get(preset, "")
        args = shlex.split(flags) + args
        parsed = super().parse_args(args, namespace)
        if preset:
            parsed.preset_flags = flags
        parsed.given = vars(super().parse_args(args, _Given()))
        return parsed


class _Given(argparse.Namespace):
    """A namespace that already has every name, so that argparse sets no defaults: vars() are the flags typed."""

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return None


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog):
        super().__init__(prog, max_help_position=34, width=110)

    def _get_help_string(self, action):
        return action.help if action.default in (None, "") else super()._get_help_string(action)


class Switch(argparse.Action):
    """A boolean flag: --log, --no-log, --log True, --log False."""

    WORDS = MappingProxyType({"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False})

    def __init__(self, option_strings, dest, **kwargs):
        negative = [f"--no-{name[2:]}" for name in option_strings if name.startswith("--")]
        super().__init__([*option_strings, *negative], dest, nargs="?", metavar="True|False", **kwargs)

    def __call__(self, parser, namespace, value, option_string=None):
        negative = option_string.startswith("--no-")
        if value is None:
            value = "true"
        if (negative and value != "true") or str(value).lower() not in self.WORDS:
            parser.error(f"argument {option_string}: {value!r} is neither True nor False")
        setattr(namespace, self.dest, self.WORDS[value.lower()] != negative)


LARGEST = 1e30  # of any number: the models' 32-bit floats overflow not far beyond


def number(kind, low=-math.inf, high=math.inf, *, above=False, below=False, unit=""):
    """An argparse type: an int or float between low and high; above, below: exclude that end."""
    ends = [f"{'above' if above else 'at least'} {low}"] * (low > -math.inf)
    ends += [f"{'below' if below else 'at most'} {high}"] * (high < math.inf)
    wanted = f"{'a whole number' if kind is int else 'a number'} {' and '.join(ends)}".strip()

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
        if abs(value) > LARGEST:
            raise argparse.ArgumentTypeError(f"{text} is too large")
        inside = (value > low if above else value >= low) and (value < high if below else value <= high)
        if not inside:
            raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
        return value

    return parse


COUNT = number(int, 1, 2**31 - 1)
SIZE_OR_NONE = number(int, 0)
POSITIVE = number(float, 0, above=True)
NOT_NEGATIVE = number(float, 0)
FRACTION = number(float, 0, 1)
PROBABILITY = number(float, 0, 1, below=True)


def segments(text):
    """'auto', or a whole number from 0."""
    return text if text == "auto" else SIZE_OR_NONE(text)


def fractions(text):
    """'0.60 0.80 0.90' -> [0.6, 0.8, 0.9]"""
    return [FRACTION(word) for word in text.replace(",", " ").split()]


def add_run_args(parser, trains=True):
    """Seed, files, device; trains: with what only a training run has, such as --resume."""
    group = parser.add_argument_group("run")
    group.add_argument("-s", "--seed", type=number(int, 0), default=0, help="of every random choice")
    group.add_argument("--log", action=Switch, default=True, help="write logs/…/NAME.log and NAME.jsonl")
    group.add_argument("--output_dir", default=".", help="folder that holds logs/ and trained_models/")
    group.add_argument("--run_name", default="", help="NAME of logs and checkpoints, instead of one made from the flags")
    group.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="auto: a GPU where there is one")
    group.add_argument("--gpu", action=Switch, default=True, help="--no-gpu is short for --device cpu")
    group.add_argument("--devices", type=number(int, 0), default=0, help="index of the GPU to use, where there are several")
    group.add_argument("--test_only", action=Switch, default=not trains, help="evaluate once, train nothing")
    if trains:
        group.add_argument(
            "--resume", nargs="?", const="last", default="", metavar="PATH",
            help="go on from this run's own last checkpoint, or from PATH",
        )  # fmt: skip
        group.add_argument(
            "--checkpoint_minutes", type=NOT_NEGATIVE, default=15, metavar="M",
            help="save within an epoch, too, every M minutes; 0 = after each epoch only",
        )  # fmt: skip
    group.add_argument("--overwrite", action=Switch, default=False, help="replace an earlier run of the same name")


def add_data_args(parser, trains=True):
    """Data set, its folder, batches, limits; trains: as for add_run_args."""
    use = "choose the best epoch on" if trains else "evaluate on"
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=list(IMAGE_SHAPES), default="MNIST", help="MNIST comes with the repository")
    group.add_argument("--data_dir", default="", help="folder of the data files; default: the repository's data/")
    group.add_argument("--batch_size", type=COUNT, default=64, help="images per step, at least 1")
    group.add_argument("--limit_train", type=COUNT, metavar="N", help="use the first N training images only")
    group.add_argument("--limit_test", type=COUNT, metavar="N", help="use the first N test images only")
    group.add_argument("--holdout", type=SIZE_OR_NONE, default=0, metavar="N", help=f"{use} the last N training images, "
                       "held out; 0: the test images" + ", as the original does" * trains)  # fmt: skip


def add_network_args(parser, dropout):
    """Plan, width, kernel size, and dropout with this default."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "-a", "--architecture", choices=list(PLANS), metavar="PLAN", default="VGG5_wFeedback", help=", ".join(PLANS)
    )
    group.add_argument("--fc_width", type=COUNT, default=4096, help="width of the classifier's two hidden layers")
    group.add_argument("--kernel_size", type=COUNT, default=3, help="of the convolutions, odd")
    group.add_argument("--dropout", type=PROBABILITY, default=dropout, help="probability, 0 to below 1")
    return group


def add_training_args(parser, momentum, trade_off, note=None):
    """Optimiser, schedule, loss; momentum and trade_off: defaults; note: the group's description."""
    group = parser.add_argument_group("training", note)
    group.add_argument("--epochs", type=COUNT, default=100, help="passes over the training images")
    group.add_argument("-lr", "--learning_rate", type=POSITIVE, default=1e-4, help="above 0")
    group.add_argument("--lr_schedule", choices=["step", "cosine"], default="step", help="cosine: warm up, then fall to 0")
    group.add_argument("--lr_interval", type=fractions, default="0.60 0.80 0.90", help="step: when, parts of epochs")
    group.add_argument("--lr_reduce", type=POSITIVE, default=10, help="step: what the learning rate is divided by")
    group.add_argument("--optimizer", choices=["Adam", "SGD"], default="Adam", help="of torch.optim")
    group.add_argument("--weight_decay", type=NOT_NEGATIVE, default=5e-4, help="of weights; thresholds and leaks have none")
    group.add_argument("--momentum", type=FRACTION, default=momentum, help="of SGD")
    group.add_argument("--amsgrad", action=Switch, default=True, help="of Adam")
    group.add_argument("--trade_off", type=NOT_NEGATIVE, default=trade_off, help="weight of the reconstruction loss")
    group.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the matrix products in training; "
                       "bfloat16: faster where the hardware has it, less exact")  # fmt: skip
    group.add_argument("--augment", action=Switch, default=False, help="turn, scale and shift training images at random")
    group.add_argument("--test_acc_every_batch", action=Switch, default=False, help="log accuracy after each test batch")
    group.add_argument("--train_acc_batches", type=COUNT, default=200, help="log running figures every so many batches")


def add_spiking_args(parser):
    """Steps, neurons, surrogate, input code, read-out."""
    group = parser.add_argument_group("spiking", "one time unit = one simulation step")
    group.add_argument("--timesteps", type=COUNT, default=50, help="T, steps per image")
    group.add_argument("--leak", type=FRACTION, default=1.0, help="membrane kept per step, 0 to 1; 1 = no leak")
    group.add_argument("--default_threshold", type=POSITIVE, default=1.0, help="of every layer, before balancing")
    group.add_argument("--activation", choices=list(SURROGATES), default="Linear", help="surrogate gradient")
    group.add_argument("--alpha", type=NOT_NEGATIVE, default=0.3, help="scale of the STDB surrogate")
    group.add_argument("--beta", type=NOT_NEGATIVE, default=0.01, help="how fast the STDB surrogate fades")
    group.add_argument("--update", choices=list(UPDATES), default="delayed", help="immediate: charge, then fire at once")
    group.add_argument("--encoding", choices=list(ENCODERS), default="poisson", help="direct: the analog image at each step")
    group.add_argument("--readout", choices=list(READOUTS), default="spike_count", help="how the decoder's output predicts")
    group.add_argument("--readout_leak", type=FRACTION, default=1.0, help="part of the read-out kept per step, 0 to 1")
    group.add_argument("--readout_slew", type=NOT_NEGATIVE, default=0.0, help="largest move of the read-out per step; 0 = any")
    group.add_argument("--latch", action=Switch, default=False, help="hold the prediction of a blocked pixel")
    group.add_argument("--residual", action=Switch, default=False, help="an open pixel sends its prediction error, not itself")
    group.add_argument("--feedback_interval", type=COUNT, default=1, metavar="K", help="run the decoder every K steps")


def add_learning_args(parser, trains):
    """What only the SNN's training has; trains: else only what is accepted and not used."""
    group = parser.add_argument_group("fine-tuning", None if trains else NOT_USED)
    group.add_argument("--trade_off_type", choices=TRADE_OFF_TYPES, default="last_t", help="which steps' errors count")
    group.add_argument("--classification_type", choices=TRADE_OFF_TYPES, default="last_t", help="which steps' outputs count in "
                       "training; mean_t: all alike, so that early stops are right")  # fmt: skip
    if trains:
        group.add_argument(
            "--bptt_segments", type=segments, default=0, metavar="N|auto",
            help="compute steps again in the backward pass, in N segments: memory for T/N steps; auto: root of T; 0 = off",
        )  # fmt: skip
        group.add_argument("--epsilon", type=NOT_NEGATIVE, default=0.0, help="block predicted input in training too; 0 = off")
        group.add_argument("--train", choices=["all", "decoder"], default="all", help="which weights; decoder: the others stay "
                           "as they are")  # fmt: skip
        group.add_argument("--teacher_ann", default="", metavar="PATH", help="ANN checkpoint whose outputs to learn, too")
        group.add_argument("--distillation", type=FRACTION, default=0.5, help="how much the teacher counts, 0 to 1; the labels "
                           "count for the rest")  # fmt: skip
        group.add_argument("--temperature", type=POSITIVE, default=2.0, help="that softens the teacher's outputs")
    group.add_argument("--spike_penalty", type=NOT_NEGATIVE, default=0.0, help="loss per spike")
    group.add_argument("--learn_threshold", action=Switch, default=False, help="train each layer's threshold")
    group.add_argument("--learn_leak", action=Switch, default=False, help="train each layer's leak")


def add_conversion_args(parser):
    """The ANN to convert, and how its thresholds are balanced."""
    group = parser.add_argument_group("conversion")
    group.add_argument("--pretrained_ann", default="", metavar="PATH", help="ANN checkpoint to convert")
    group.add_argument("--scaling_factor", type=POSITIVE, default=0.7, help="what balanced thresholds are multiplied by")
    group.add_argument("--balance_images", type=COUNT, default=128, help="training images to balance with (original: 512)")
    group.add_argument("--balance_timesteps", type=COUNT, default=100, help="steps to balance with (original: 1000)")


def add_checkpoint_args(parser):
    """The SNN to start from."""
    group = parser.add_argument_group("checkpoint")
    help_text = "SNN checkpoint; its settings hold unless typed; training starts a decoder that it lacks at random"
    group.add_argument("--pretrained_snn", default="", metavar="PATH", help=help_text)


def add_engine_args(parser, trains):
    """Which engine evaluates; trains: in a script that trains, too."""
    group = parser.add_argument_group("engine")
    help_text = (
        "what evaluates: dense, or event: cost follows the spikes; on the CPU, needs numba" + ", with --test_only" * trains
    )
    group.add_argument("--engine", choices=["dense", "event"], default="dense", help=help_text)


NOT_USED = "accepted for the original's command lines; only --trade_off, its type and --test_acc_every_batch are used here"


def add_snn_args(parser, trains=True):
    """Everything but the run: the same flags for training an SNN and for the post-hoc scripts, as in the original."""
    add_checkpoint_args(parser)
    add_engine_args(parser, trains)
    add_conversion_args(parser)
    add_data_args(parser, trains)
    add_network_args(parser, dropout=0.3)
    add_spiking_args(parser)
    add_training_args(parser, momentum=0.95, trade_off=1.0, note=None if trains else NOT_USED)
    add_learning_args(parser, trains)


def add_results_args(parser):
    """Where the records of all evaluations go."""
    group = parser.add_argument_group("results")
    group.add_argument("--results_json", default="", metavar="PATH", help="write the list of all evaluations there as well")


def find_device(args):
    """The torch.device that the flags ask for, a GPU of its own for each rank. Raises UserError for one that is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = args.device if args.gpu else "cpu"
    if getattr(args, "engine", "dense") == "event":
        if name not in ("auto", "cpu"):
            raise UserError(f"--engine event runs on the CPU: leave out --device {name}, or use --engine dense")
        name = "cpu"
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there[name]:
        raise UserError(f"--device {name}: there is none here; choose auto or cpu")
    if name != "cuda":
        return torch.device(name)
    index = args.devices + ranks.local_rank()
    if index >= torch.cuda.device_count():
        ours = f" (rank {ranks.local_rank()} of this machine)" if ranks.count() > 1 else ""
        raise UserError(f"--devices {args.devices}{ours}: there are GPUs 0 to {torch.cuda.device_count() - 1} here")
    torch.backends.cudnn.allow_tf32 = False  # rounding to 10 bits would flip spikes near the threshold
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
