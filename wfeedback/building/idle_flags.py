"""Flags that count only where another one says so, and what each of them needs.

A flag of a gate, a stopping rule or an optimiser that is not chosen, and a flag of
training in an evaluation, are no errors: the log names them, see ``lines_on_flags``.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from self_models.config import Network
from self_models.data.images import IMAGE_SHAPES, has_colour
from self_models.errors import UserError
from self_models.feedback.stopping import RULES
from self_models.networks.architectures import get_architecture
from self_models.settings import settings_in
from wfeedback.arguments import Arguments


class Case(NamedTuple):
    """What a script is about to do.

    Attributes
    ----------
    args : Arguments
        Its flags, with what follows from the checkpoint and from other flags.
    model : Network
        The network, without the weights that it starts from.
    start : Start
        What it starts from.
    """

    args: Arguments
    model: Network
    start: object


class Need(NamedTuple):
    """A row of the table: what some flags need.

    Attributes
    ----------
    flags : tuple of str
    is_met : callable
        Takes a Case, or the Arguments of a script that makes no network, and says
        whether these flags have an effect there.
    words : str
        What the error says: what they need, or what to do instead.
    """

    flags: tuple[str, ...]
    is_met: Callable[[object], bool]
    words: str


def takes_recordings(case: Case) -> bool:
    """Return whether the network sees recordings of an event camera."""
    return bool(case.model.settings["recorded_frames"])


def takes_own_images(case: Case) -> bool:
    """Return whether the data set is a folder of images, none of recordings."""
    return case.args.dataset not in IMAGE_SHAPES and not takes_recordings(case)


def is_new(case: Case) -> bool:
    """Return whether no checkpoint says what the network and its images are."""
    return not case.start.settings


def takes_size(case: Case) -> bool:
    """Return whether images of one's own are loaded in the size that is typed."""
    return takes_own_images(case) and case.args.image_size == case.model.image_shape[-1]


def takes_grey(case: Case) -> bool:
    """Return whether images of one's own are loaded as grey, or in colour, as typed."""
    is_grey = case.model.image_shape[0] == 1
    return takes_own_images(case) and case.args.grey == is_grey


def begins_at_random(case: Case) -> bool:
    """Return whether some weights are drawn: all of them, or those of a decoder."""
    weights = case.start.saved.get("state_dict", {})
    has_decoder = any(name.startswith("generate") for name in weights)
    return not weights or (case.model.has_feedback and not has_decoder)


def has_maximum_pool(case: Case) -> bool:
    """Return whether the encoder has a maximum pool."""
    args = case.args
    return "M" in get_architecture(args.architecture, getattr(args, "plan", None)).encoder


def balances(case: Case) -> bool:
    """Return whether the conversion finds thresholds by running the network."""
    has_bounds = case.start.settings.get("activation_ann") == "qcfs"
    return case.start.kind == "ann" and not has_bounds and not case.model.timing.is_phased


def shows_files(case: Case) -> bool:
    """Return whether a picture or stream is of the user's own files."""
    words = getattr(case.args, "images", [1])
    is_number = len(words) == 1 and isinstance(words[0], int)
    return bool(getattr(case.args, "frames", "")) or not is_number


NEEDS = (
    # of training
    Need(("shift", "cutout"), lambda case: case.args.augment, "it needs --augment"),
    Need(
        ("mirror",),
        lambda case: case.args.augment and has_colour(case.model.image_shape[0]),
        "it needs --augment, and images in colour",
    ),
    Need(
        ("distillation", "temperature"),
        lambda case: bool(case.args.teacher_ann),
        "it needs --teacher_ann PATH",
    ),
    Need(
        ("warm_up",),
        lambda case: case.args.lr_schedule != "step",
        "it needs --lr_schedule cosine, or triangle",
    ),
    Need(
        ("lr_interval", "lr_reduce"),
        lambda case: case.args.lr_schedule == "step",
        "it needs --lr_schedule step",
    ),
    Need(
        ("alpha", "beta"),
        lambda case: case.args.activation not in ("Linear", "Triangle"),
        "it needs --activation STDB",
    ),
    Need(
        ("holdout",),
        lambda case: getattr(case.args, "select", "held-out") == "held-out",
        "it needs --select held-out",
    ),
    # of an architecture
    Need(
        ("norm_scale",), lambda case: case.args.norm != "none", "it needs --norm scale, or batch"
    ),
    Need(
        ("qcfs_levels",),
        lambda case: case.args.activation_ann == "qcfs",
        "it needs --activation_ann qcfs",
    ),
    Need(
        ("fc_width", "fc_dropout"),
        lambda case: case.model.settings["fc_layers"] > 0,
        "it needs --fc_layers above 0",
    ),
    Need(
        ("trade_off", "trade_off_type", "readout", "readout_leak", "readout_slew"),
        lambda case: case.model.has_feedback,
        "it needs an architecture with a decoder, named ..._wFeedback",
    ),
    Need(("max_pool",), has_maximum_pool, "it needs an architecture with maximum pools"),
    Need(
        ("init",),
        begins_at_random,
        "it needs weights that are drawn, and here all are of a checkpoint",
    ),
    # of conversion
    Need(
        ("balance_timesteps", "balance_percentile"),
        balances,
        "it needs thresholds that are balanced: not an ANN with qcfs, nor --update phased",
    ),
    # of a gate
    Need(("attention",), lambda case: case.args.contrast == "local", "it needs --contrast local"),
    Need(
        ("together",),
        lambda case: case.model.image_shape[0] > 1,
        "it needs images of several channels",
    ),
    # of images
    Need(("image_size",), takes_size, "it needs a folder of images, and a network of that size"),
    Need(("grey",), takes_grey, "it needs a folder of images, and a network of such images"),
    Need(("skip_bad",), takes_own_images, "it needs a folder of images"),
    Need(
        ("data_dir",),
        lambda case: case.args.dataset in IMAGE_SHAPES,
        "a folder of images is named by --dataset alone",
    ),
    Need(("count_bound", "split_by", "predict"), takes_recordings, "it needs recordings"),
    Need(
        ("event_frames",),
        lambda case: takes_recordings(case) and is_new(case),
        "it needs recordings, and a new network: another one has its frames",
    ),
    # of a run
    Need(("device",), lambda case: case.args.gpu or case.args.device == "cpu", "it needs --gpu"),
    Need(
        ("devices",),
        lambda case: case.args.gpu and case.args.device in ("auto", "cuda"),
        "it needs --device cuda, or auto",
    ),
    Need(
        ("engine",),
        lambda case: case.args.origins["engine"] != "found",
        "this script always runs dense",
    ),
    # of pictures and streams
    Need(("invert",), shows_files, "it needs --images PATH, or --frames PATH"),
    Need(("scene_frames",), lambda case: bool(case.args.scene), "it needs --scene NAME"),
)


# What flags of single scripts need, beside that.
NEEDS_OF_NIR = (
    Need(("seed",), lambda args: args.encoding == "poisson", "it needs --encoding poisson"),
    Need(("wrong", "gif"), lambda args: args.check is None, "with --check nothing is evaluated"),
)
ONE_NETWORK = ("preset", "pretrained_snn", "pretrained_ann")
NEEDS_OF_ENERGY = (
    Need(ONE_NETWORK, lambda args: False, "name the network as a word, energy NETWORK"),
    Need(("results_json",), lambda args: False, "--format json prints all figures"),
)
NEEDS_OF_COMPARE = (
    Need(ONE_NETWORK, lambda args: False, "name the networks as words, compare A B"),
    Need(("seed",), lambda args: False, "give --seeds in its place"),
    Need(("run_name",), lambda args: False, "the runs are called NAME_compared"),
    Need(("results_json",), lambda args: False, "give --output X.json in its place"),
    Need(
        ("rule", "gap_bound"),
        lambda args: not args.at_accuracy,
        "--at_accuracy tries margins of its own",
    ),
)


def needs_of_compare(args: Arguments) -> Iterator[Need]:
    """Yield what compare's flags need; those of an evaluation need --evaluate."""
    yield from NEEDS_OF_COMPARE
    of_evaluation = args.parser.settings.keys() - {"output_dir", "overwrite", "model"}
    yield Need(tuple(sorted(of_evaluation)), lambda args: args.evaluate, "it needs --evaluate")


def needs() -> Iterator[Need]:
    """Yield the rows of the table, with those of the bounds that objective 2 tries."""
    yield from NEEDS
    for bound in settings_in(*RULES.values()):
        rules = [name for name, rule in RULES.items() if bound in settings_in(rule)]
        yield Need(
            (f"{bound}s",),
            lambda case, rules=rules: bool(set(rules) & set(case.args.rules)),
            f"it needs --rules {', or '.join(rules)}",
        )


def check_idle_flags(case: Case, told: set[str], is_own_class: bool) -> None:
    """Raise UserError for a typed flag that can have no effect on a network.

    Parameters
    ----------
    case : Case
    told : set of str
        Flags without effect that the log tells of: they are no errors.
    is_own_class : bool
        Whether the network is of a class of somebody's own. What that makes of its
        settings, and of the weight of the reconstruction, nobody here knows.
    """
    passed = set(told)
    if is_own_class:
        for flag, declared in case.args.parser.settings.items():
            if not declared.of_run or flag.startswith("trade_off"):
                passed.add(flag)
    refuse_idle(case.args, needs(), case, passed)


def refuse_idle(
    args: Arguments, rows: Iterable[Need], case: object, passed: Collection[str] = ()
) -> None:
    """Raise UserError for the first typed flag whose need is not met.

    A value that asks for nothing, such as 0 or False, is no fault, since nothing is
    what comes of it.

    Parameters
    ----------
    args : Arguments
    rows : iterable of Need
    case : Case or Arguments
        What the rows take.
    passed : collection of str
        Flags that are not looked at.
    """
    for need in rows:
        for flag in need.flags:
            asks = flag in args.typed and flag not in passed and getattr(args, flag)
            if asks and not need.is_met(case):
                raise UserError(f"--{flag} has no effect here: {need.words}")


def check_augmentation(args: Arguments, model: Network) -> None:
    """Raise UserError where --augment would leave nothing of an image."""
    if not getattr(args, "augment", False):
        return
    side = min(model.image_shape[1:])
    if getattr(args, "shift", None) is not None and args.shift >= side:
        raise UserError(
            f"--shift {args.shift} shifts images of {side} pixels out of sight: give less"
        )
    largest = 2 * max(model.image_shape[1:]) - 1
    if getattr(args, "cutout", 0) >= largest:
        raise UserError(
            f"--cutout {args.cutout} leaves nothing of any image, wherever its middle lies: "
            f"give less than {largest}"
        )
