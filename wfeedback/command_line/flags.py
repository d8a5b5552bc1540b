"""The flags that several scripts have, and what the short help leaves out.

Each function adds some of them to a parser. The flags of one script alone are declared
there, those of a network where its settings are: self_models/config.py, and
self_models/feedback/ for gates, stopping rules and read-outs.
"""

import argparse
from collections.abc import Collection
from contextlib import suppress

from self_models.config import Network, SNNConfig
from self_models.errors import UserError
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
    settings_in,
)
from self_models.vgg_wFeedback import PRECISIONS
from wfeedback.building.models import class_for
from wfeedback.command_line.parser import Parser, SwitchAction, flag_type, new_file
from wfeedback.command_line.recipes import find
from wfeedback.training.losses import loss_settings
from wfeedback.training.optimizers import checked_optimizer

# What a training script says where nothing is typed at all.
BARE = (
    "nothing to do: --preset quick_feedback trains in minutes, --preset list names all recipes; "
    "--preset own --dataset FOLDER trains on your own images; --dataset MNIST is the original's "
    "run, many hours on a CPU"
)


# --- texts that flags take


def plain_name(text: str) -> str:
    """Return the text, the name of a file. Raises ValueError for another."""
    if "/" in text or text.startswith((".", " ")) or not text.isprintable():
        raise ValueError(f"{text}: give a plain file name; --output_dir says where")
    return text


def fractions(text: str) -> list[float]:
    """Parse fractions: '0.60 0.80 0.90' -> [0.6, 0.8, 0.9]."""
    return [FRACTION.parse(word) for word in text.replace(",", " ").split()]


def number_or_path(text: str) -> int | str:
    """Parse a number of images, at least 1; any other text is a path."""
    if text.lstrip("-").isdigit():
        return COUNT.parse(text)
    return text


# --- flags of every script that trains or evaluates


def add_run_flags(parser: Parser, test_only: bool = False) -> None:
    """Add the flags of a run: seed, name, place, device, and what it starts from.

    Parameters
    ----------
    parser : Parser
    test_only : bool
        Default of ``--test_only``, which is True of scripts that only evaluate.
    """
    parser.add_flag(
        "run",
        "-s",
        "--seed",
        kind=WHOLE,
        default=0,
        help="random seed",
        common=True,
    )
    parser.add_flag(
        "run",
        "--log",
        kind=Switch(),
        default=True,
        help="write logs/…/NAME.log and NAME.jsonl",
    )
    parser.add_flag(
        "run",
        "--output_dir",
        kind=Text(),
        default=".",
        help="folder of logs/ and trained_models/",
        common=True,
    )
    parser.add_flag(
        "run",
        "--run_name",
        kind=Text(plain_name),
        default="",
        help="name of logs and checkpoints; default: from the flags",
        common=True,
    )
    parser.add_flag(
        "run",
        "--model",
        kind=Text(),
        default="",
        help=(
            "your own network, a class derived from ours; or a file that registers parts "
            "(gate, rule, read-out, loss)"
        ),
        metavar="FILE.py[:CLASS]",
        common=True,
    )
    parser.add_flag(
        "run",
        "--device",
        kind=Choice(("auto", "cpu", "cuda", "mps")),
        default="auto",
        help="auto: a GPU if there is one",
        common=True,
    )
    parser.add_flag(
        "run",
        "--gpu",
        kind=Switch(),
        default=True,
        help="--no-gpu: the same as --device cpu",
    )
    parser.add_flag(
        "run",
        "--devices",
        kind=WHOLE,
        default=0,
        help="index of the GPU, if there are several",
    )
    parser.add_flag(
        "checkpoint",
        "--pretrained_ann",
        kind=Text(),
        default="",
        help="ANN checkpoint to start from, or to evaluate",
        metavar="PATH",
        common=True,
    )
    parser.add_flag(
        "run",
        "--test_only",
        kind=Switch(),
        default=test_only,
        help="evaluate once, without training",
        common=True,
    )
    parser.add_flag(
        "run",
        "--overwrite",
        kind=Switch(),
        default=False,
        help="replace an earlier run of the same name",
        common=True,
    )
    parser.add_flag(
        "results",
        "--results_json",
        kind=new_file(),
        default="",
        help="also write all evaluations here",
        metavar="PATH",
        common=True,
    )


def add_data_flags(parser: Parser) -> None:
    """Add the flags of the images: where they are, how many count, in what batches."""
    parser.add_flag(
        "data",
        "--data_dir",
        kind=Text(),
        default="",
        help=(
            "folder of a known data set's files; default: data/ of the repository, or of the "
            "user's cache folder once installed"
        ),
    )
    parser.add_flag(
        "data",
        "--image_size",
        kind=COUNT,
        default=None,
        help=(
            "own images: resize the short side to N pixels, crop the centre to N x N; "
            "default: the network's, or the files' size if all are square and alike"
        ),
        metavar="N",
        common=True,
    )
    parser.add_flag(
        "data",
        "--grey",
        kind=Switch(),
        default=None,
        help="own images: load as grey; default: as trained, or if all are",
    )
    parser.add_flag(
        "data",
        "--event_frames",
        kind=COUNT,
        default=10,
        help="recordings: frames that each is split into",
        metavar="N",
    )
    parser.add_flag(
        "data",
        "--skip_bad",
        kind=Switch(),
        default=False,
        help="own images: leave out files that cannot be read",
    )
    parser.add_flag(
        "data",
        "--batch_size",
        kind=COUNT,
        default=64,
        help="images per batch",
        common=True,
    )
    parser.add_flag(
        "data",
        "--limit_train",
        kind=COUNT,
        default=None,
        help="first N training images only",
        metavar="N",
        common=True,
    )
    parser.add_flag(
        "data",
        "--limit_test",
        kind=COUNT,
        default=None,
        help="first N test images only",
        metavar="N",
        common=True,
    )


def add_training_flags(parser: Parser, momentum: float = 0.9, trade_off: float = 10.0) -> None:
    """Add the flags of training that the original has.

    Scripts that evaluate have them, too, so that they take the same command lines.

    Parameters
    ----------
    parser : Parser
    momentum, trade_off : float
        Defaults of these flags.
    """
    parser.add_flag(
        "training",
        "--epochs",
        kind=Number(int, 0, COUNT.high),
        default=100,
        help="passes over the training images; 0: no training",
        training=True,
        common=True,
    )
    parser.add_flag(
        "training",
        "-lr",
        "--learning_rate",
        kind=POSITIVE,
        default=0.0001,
        help="learning rate",
        training=True,
        common=True,
    )
    parser.add_flag(
        "training",
        "--lr_schedule",
        kind=Choice(("step", "cosine", "triangle")),
        default="step",
        help=(
            "learning rate over time; step: divided at --lr_interval; cosine, triangle: warm-"
            "up, then down to 0"
        ),
        training=True,
    )
    parser.add_flag(
        "training",
        "--lr_interval",
        kind=Text(fractions),
        default="0.60 0.80 0.90",
        help="step schedule: fractions of training at which the rate drops",
        training=True,
    )
    parser.add_flag(
        "training",
        "--lr_reduce",
        kind=POSITIVE,
        default=10,
        help="step schedule: divisor of the rate at each drop",
        training=True,
    )
    parser.add_flag(
        "training",
        "--optimizer",
        kind=Text(checked_optimizer, checked_optimizer),
        default="Adam",
        help=(
            "an optimiser of torch.optim, by its name: Adam, SGD, AdamW, RMSprop, NAdam, ...;"
            " LBFGS, SparseAdam and Muon do not fit"
        ),
        training=True,
        metavar="NAME",
        common=True,
    )
    parser.add_flag(
        "training",
        "--weight_decay",
        kind=NOT_NEGATIVE,
        default=0.0005,
        help="weight decay; thresholds, leaks and biases have none",
        training=True,
    )
    parser.add_flag(
        "training",
        "--momentum",
        kind=FRACTION,
        default=momentum,
        help="momentum of SGD and RMSprop",
        training=True,
    )
    parser.add_flag(
        "training",
        "--amsgrad",
        kind=Switch(),
        default=True,
        help="AMSGrad variant of Adam and AdamW",
        training=True,
    )
    parser.add_flag(
        "training",
        "--trade_off",
        kind=NOT_NEGATIVE,
        default=trade_off,
        help="weight of the reconstruction loss",
        common=True,
    )
    parser.add_flag(
        "training",
        "--precision",
        kind=Choice(PRECISIONS),
        default="float32",
        help="of matrix products; bfloat16: faster where hardware has it",
        training=True,
    )
    parser.add_flag(
        "training",
        "--augment",
        kind=Switch(),
        default=False,
        help=(
            "random changes of training images: grey ones are rotated, scaled and shifted, "
            "colour ones mirrored and shifted"
        ),
        training=True,
        common=True,
    )
    parser.add_flag(
        "training",
        "--test_acc_every_batch",
        kind=Switch(),
        default=False,
        help="log accuracy after each test batch",
    )
    parser.add_flag(
        "training",
        "--train_acc_batches",
        kind=COUNT,
        default=200,
        help="log running figures every N batches",
        training=True,
    )


# --- flags of the scripts that train, and of no other


def add_flags_of_training_scripts(parser: Parser) -> None:
    """Add the flags that only the scripts that train have."""
    parser.add_flag(
        "run",
        "--seeds",
        kind=WHOLE,
        default=None,
        help=(
            "train once for each seed, in turn: for seeds 0 1 2 as NAME, NAME_1, NAME_2; "
            "instead of --seed"
        ),
        metavar="N",
        argparse={"nargs": "+"},
        common=True,
    )
    parser.add_flag(
        "run",
        "--resume",
        kind=Text(),
        default="",
        help=(
            "continue this run from its last checkpoint, or from PATH, with its flags unless "
            "typed; starts the run if there is none and other flags say what to train"
        ),
        training=True,
        metavar="PATH",
        argparse={"nargs": "?", "const": "last"},
        common=True,
    )
    parser.add_flag(
        "run",
        "--checkpoint_minutes",
        kind=NOT_NEGATIVE,
        default=15.0,
        help="save the last checkpoint every M minutes within an epoch, too; 0: never",
        training=True,
        metavar="M",
    )
    parser.add_flag(
        "training",
        "--updates",
        kind=COUNT,
        default=None,
        help=(
            "length of training in weight updates, instead of --epochs; a small set is passed"
            " through several times"
        ),
        training=True,
        metavar="N",
        common=True,
    )
    parser.add_flag(
        "data",
        "--holdout",
        kind=WHOLE,
        default=None,
        help=(
            "last N training images, held out to select the best epoch; 0: none, the last "
            "epoch counts; default: a tenth, from 1 to 5000"
        ),
        training=True,
        metavar="N",
        common=True,
    )
    parser.add_flag(
        "data",
        "--select",
        kind=Choice(("held-out", "test")),
        default="held-out",
        help=(
            "images that select the best epoch; test: the test images, as in the original, "
            "which flatters the result"
        ),
        training=True,
    )
    parser.add_flag(
        "training",
        "--warm_up",
        kind=PROBABILITY,
        default=0.05,
        help="cosine, triangle: fraction of training in which the rate rises",
        training=True,
    )
    parser.add_flag(
        "training",
        "--nesterov",
        kind=Switch(),
        default=False,
        help="Nesterov momentum of SGD",
        training=True,
    )
    parser.add_flag(
        "training",
        "--bias_lr_factor",
        kind=POSITIVE,
        default=1.0,
        help="learning rate of biases, as a multiple of that of weights",
        training=True,
    )
    parser.add_flag(
        "training",
        "--label_smoothing",
        kind=PROBABILITY,
        default=0.0,
        help="fraction of each label spread evenly over all classes",
        training=True,
    )
    parser.add_flag(
        "training",
        "--mirror",
        kind=Choice(("random", "alternate")),
        default="random",
        help="--augment, colour: random, or every second epoch",
        training=True,
    )
    parser.add_flag(
        "training",
        "--shift",
        kind=WHOLE,
        default=None,
        help=(
            "--augment: largest shift in pixels; default: 2 for grey images, an eighth of the"
            " size for colour"
        ),
        training=True,
        metavar="N",
    )
    parser.add_flag(
        "training",
        "--cutout",
        kind=WHOLE,
        default=0,
        help="--augment: side of a random square set to 0, in pixels; 0: none",
        training=True,
        metavar="N",
    )
    parser.add_flag(
        "training",
        "--teacher_ann",
        kind=Text(),
        default="",
        help="ANN checkpoint to distil from",
        training=True,
        metavar="PATH",
    )
    parser.add_flag(
        "training",
        "--distillation",
        kind=FRACTION,
        default=0.5,
        help="weight of the teacher's outputs; labels have the rest",
        training=True,
    )
    parser.add_flag(
        "training",
        "--temperature",
        kind=POSITIVE,
        default=2.0,
        help="softmax temperature of the teacher's outputs",
        training=True,
    )


def add_loss_flags(parser: Parser) -> None:
    """Add the flags of the losses that a --model registers; see ``Loss``."""
    for name, declared in loss_settings().items():
        parser.add_setting(name, declared)


# --- flags of the network


def network_class(argv: list[str] | None, table: str, default: type[Network]) -> type[Network]:
    """Find the class of the network, since its settings are flags of the parser.

    It is the class of the ``--model`` in the command line, or in the recipe that this
    names. The file of ``--model`` is imported, so that what it registers has flags,
    too.

    Parameters
    ----------
    argv : list of str or None
        The command line. None: that of this process.
    table : {"ann", "snn", "evaluation"}
        The table of the recipe that the script reads.
    default : type
        The class where there is no ``--model``, or one without a class.

    Returns
    -------
    type
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--model", nargs="?")
    first.add_argument("--preset", nargs="?")
    typed = first.parse_known_args(argv)[0]
    model = typed.model
    if typed.preset and model is None:
        kind = "ann" if table == "ann" else "snn"
        with suppress(UserError):  # the parser tells what is wrong with the recipe
            model = find(typed.preset, kind).flags_for(table, ()).get("model")
    return class_for(str(model or ""), default)


def borrowed_flags(names: Collection[str]) -> dict[str, Setting]:
    """Return flags of runs, images and networks for a script that has a few of them.

    Parameters
    ----------
    names : collection of str
        Names of the flags. "dataset" is a setting of a network.

    Returns
    -------
    dict of {str: Setting}
        By name, in the order of ``--help``.
    """
    lender = Parser("")
    add_run_flags(lender)
    add_data_flags(lender)
    add_network_flags(lender, {"dataset": settings_in(SNNConfig)["dataset"]})
    return {name: declared for name, declared in lender.settings.items() if name in names}


def add_network_flags(parser: Parser, settings: dict[str, Setting]) -> None:
    """Add a flag for each setting, as ``Network.known_settings`` gives them."""
    for name, declared in settings.items():
        parser.add_setting(name, declared)


# --- flags of scripts that draw


def add_picture_flags(parser: Parser) -> object:
    """Add the flags of what a GIF shows, and how fast; return their argument group."""
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--images",
        type=flag_type(Text(number_or_path)),
        nargs="+",
        default=[5],
        metavar="N|PATH",
        help=(
            "N test images, the first of each class, or your own images: files and folders, "
            "without a data set"
        ),
    )
    group.add_argument(
        "--index",
        type=flag_type(WHOLE),
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
        "--frame_seconds",
        type=flag_type(POSITIVE),
        default=0.5,
        help="seconds per frame of the GIF",
    )
    return group


def add_baseline_flag(group: object, what: str) -> None:
    """Add ``--baseline`` to a group. what: which network it names, for --help."""
    group.add_argument(
        "--baseline",
        default="",
        metavar="PATH",
        help=f"{what}, beside it in the chart: a checkpoint",
    )
