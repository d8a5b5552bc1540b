"""Named recipes: `--preset NAME` stands for the flags of one, and names the checkpoints that it starts from.

Each network of docs/tables.md is a preset of both training scripts, and of those that evaluate. A twin is the same network by
the same recipe without a decoder; quick_... is the one to begin with; ..._base is a stage on the way to another; `own` is for
images of somebody's own, however few.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness import UserError
from harness.data.folders import LAYOUT
from harness.runs.commands import program
from harness.runs.place import Paths, numbered
from self_models.basics.home import HOME


class Network(NamedTuple):
    """What a network's tables show. label: its name there; steps: T of its training; seeds: how many are committed; epsilon: to
    evaluate with, None: the one it was trained with; opened: it is also run with its gate open; images: what its images are
    called, where they come from a folder of the reader's. Where images stop, RULE_SHOWN says when."""

    label: str
    steps: int
    seeds: int = 1
    epsilon: float | None = None
    opened: bool = False
    images: str = ""


RULE_SHOWN = {"rule": "confidence", "gap_bound": 1.0}  # at most 50 steps
JPEG = "CIFAR-10 (JPEG)"
NETWORKS = {  # by the presets of their SNNs, in the order of the tables
    "quick_feedback": Network("quick feedback", 6, seeds=5),
    "quick_twin": Network("twin of quick feedback", 6, seeds=5),
    "feedback": Network("feedback", 8, opened=True),
    "twin": Network("twin of feedback", 8),
    "accurate_feedback": Network("accurate feedback", 8, seeds=3, opened=True),
    "accurate_twin": Network("twin of accurate feedback", 8, seeds=3),
    "residual_feedback": Network("residual feedback", 5, opened=True),
    "residual_twin": Network("twin of residual feedback", 5),
    "fast_feedback": Network("fast feedback", 3, seeds=2, epsilon=0.5, opened=True),
    "fast_twin": Network("twin of fast feedback", 3, seeds=2),
    "fashion_feedback": Network("Fashion feedback", 4, opened=True),
    "fashion_twin": Network("twin of Fashion feedback", 4),
    "cifar10_feedback": Network("CIFAR-10 feedback", 7, images=JPEG),
    "cifar10_blind": Network("CIFAR-10, blind interpolation", 7, images=JPEG),
    "cifar10_twin": Network("twin of CIFAR-10 feedback", 5, images=JPEG),
    "deep_feedback": Network("CIFAR-10, deep, feedback", 7, images=JPEG),
    "deep_blind": Network("CIFAR-10, deep, blind interpolation", 7, images=JPEG),
    "deep_twin": Network("twin of CIFAR-10, deep, feedback", 4, images=JPEG),
}

FALLING = "--lr_schedule cosine --weight_decay 0 --no-amsgrad"
COMMON = f"--holdout 5000 {FALLING}"
CONVERT = "--dropout 0 --scaling_factor 0.4 --update immediate"
READOUT = "--readout membrane_linear --readout_slew 0.38 --latch --epsilon 0.2"

BFLOAT = "--augment --precision bfloat16"
FIRST = {"feedback": "-a VGG5_wFeedback_linear --fc_width 256", "twin": "-a VGG5_small --fc_width 256"}
WIDE = {"feedback": "-a VGG4_wFeedback_linear", "twin": "-a VGG4_narrow"}
STRIDED = {"feedback": "-a VGG9_wFeedback --fc_layers 0", "twin": "-a VGG9_strided --fc_layers 0"}
LINEAR = {"twin": "-a VGG8_strided --fc_layers 0"}  # halved by a linear layer instead of maximum pools
POOLED = {"feedback": "-a VGG8_wFeedback_max --fc_layers 0", "twin": "-a VGG8_max --fc_layers 0"}
COLOUR = {"feedback": "-a VGG8_wFeedback_early --fc_width 256", "twin": "-a VGG8_small --fc_width 256"}
LABELLED = f"--dataset CIFAR10 {BFLOAT} --mirror alternate --label_smoothing 0.1"
STEEP = "--norm batch --no-norm_scale --dropout 0 --optimizer SGD --nesterov --lr_schedule triangle --batch_size 250"
STEEP += " --bias_lr_factor 16 --weight_decay 1e-3"
FEW_EPOCHS = f"{STEEP} --shift 2 --cutout 8"
FAMILIES = {  # family -> (plans, flags, those of its ANNs)
    "cifar10": (
        COLOUR, "--dataset CIFAR10 --augment --init kaiming --fc_dropout 0",
        "-a VGG8_wFeedback_fork --norm scale -lr 2e-3 --dropout 0 --trade_off 0.001 --epochs 12",
    ),
    "deep": (POOLED, LABELLED, f"{STEEP} --cutout 12"),
    "strided": (LINEAR, LABELLED, FEW_EPOCHS),
    "vgg9": (STRIDED, LABELLED, FEW_EPOCHS),
    "vgg11": ({"twin": "-a VGG11 --fc_layers 0"}, LABELLED, FEW_EPOCHS),
    "vgg16": ({"twin": "-a VGG16_max --fc_layers 0"}, LABELLED, FEW_EPOCHS),
    "full": ({"feedback": "-a VGG5_wFeedback"}, "--dataset MNIST --augment", "-lr 5e-4 --dropout 0 --trade_off 0.001 --epochs 3"),
    "quick": (FIRST, "--dataset MNIST", "-lr 2e-3 --dropout 0 --trade_off 0.001 --epochs 2"),
    "stream": (FIRST, "--dataset MNIST", ""),
    "accurate": (FIRST, f"--dataset MNIST {BFLOAT}", "-lr 2e-3 --dropout 0 --trade_off 0.001 --epochs 16"),
    "residual": (WIDE, f"--dataset MNIST {BFLOAT} --fc_width 128", "-lr 2e-3 --dropout 0 --trade_off 0.01 --epochs 5"),
    "fast": (WIDE, f"--dataset MNIST {BFLOAT} --fc_width 128", ""),
    "fashion": (
        WIDE, "--dataset FashionMNIST --precision bfloat16 --fc_width 256",
        "-lr 2e-3 --dropout 0.3 --trade_off 0.001 --epochs 12",
    ),
    "": (FIRST, "--dataset MNIST --augment", "-lr 2e-3 --dropout 0 --trade_off 0.01 --epochs 1"),
}  # fmt: skip
RELU, LEVELS = "--init dirac -lr 0.2 --warm_up 0.2", "--activation_ann qcfs -lr 0.05 --warm_up 0.1"
ANN_RECIPES = {  # preset -> (the ANN that it starts from, further flags)
    "deep_twin_base": ("", f"{RELU} --whitening --epochs 36"),
    "deep_twin": ("deep_twin_base", f"{LEVELS} --epochs 7"),
    "strided_twin_base": ("", f"{RELU} --whitening --epochs 20"),
    "strided_twin": ("strided_twin_base", f"{LEVELS} --epochs 2"),
    "vgg9_twin_base": ("", f"{RELU} --epochs 6"),
    "vgg9_twin": ("vgg9_twin_base", f"{LEVELS} --epochs 1"),
    "vgg9_feedback": ("vgg9_twin_base", f"{LEVELS} --epochs 1 --trade_off 1e-4"),
    "vgg11_plain_base": ("", f"{RELU} --epochs 6"),
    "vgg11_plain": ("vgg11_plain_base", f"{LEVELS} --epochs 1"),
    "vgg16_plain_base": ("", f"{RELU} --epochs 11"),
    "vgg16_plain": ("vgg16_plain_base", f"{LEVELS} --epochs 3"),
}
QUICK = "--activation Triangle --timesteps 6 --epochs 1 -lr 1e-3 --spike_penalty 3e-5"
STREAM = f"{QUICK} --sequence 4 --limit_train 20000"  # of a network that is left on
STEPS_8 = "--timesteps 8 --epochs 8 -lr 2e-3 --spike_penalty 3e-6"
STEPS_5 = "--timesteps 5 --epochs 6 -lr 3e-3 --spike_penalty 2e-5"
STEPS_3 = "--timesteps 3 --epochs 2 -lr 1e-3 --spike_penalty 2e-5"
ACCURATE = "--activation Triangle --timesteps 8 --spike_penalty 5e-5 -lr 5e-4 --epochs 10"
FULL = "--activation Triangle --timesteps 8 --epochs 1 -lr 2e-4 --spike_penalty 5e-6"
THEN = "--no-augment --epochs 2 -lr 2e-4"
FASHION = "--activation Triangle --encoding direct --timesteps 4 --spike_penalty 3e-6 -lr 5e-4 --distillation 0.7"
FASHION_LONG = f"{FASHION} --epochs 3 --dropout 0.3"
LATER = "--readout membrane_linear --latch --trade_off_type mean_t --trade_off 1e-5"  # a decoder given to a trained twin
BY_STEP = "--trade_off_type linear_over_t"
CIFAR10 = "--activation Triangle --encoding direct --epochs 1 -lr 5e-4"
CIFAR10_MORE = f"{CIFAR10} --spike_penalty 2e-6"
CIFAR10_BALANCE = "--scaling_factor 0.5 --balance_percentile 99.9 --balance_timesteps 8"
DEEP_SNN = "--scaling_factor 1 --activation Triangle --encoding direct --batch_size 125 -lr 2e-4 --spike_penalty 1e-6"
LESS = f"{DEEP_SNN} --calibrate --timesteps 4 --epochs 1 --limit_train 20000"
BLOCKED = "--gate block --epsilon 0.1 --latch --readout membrane --readout_leak 0 --trade_off 2e-3 --trade_off_type mean_t"
SENT_ONCE = "--gate once --grid 4 --wait"
CIFAR10_GATE = f"{SENT_ONCE} --epsilon 0.15"
DEEP_GATE = f"{SENT_ONCE} --epsilon 0.1 --timesteps 7 --epochs 1"
CIFAR10_DECODER = "--readout membrane_linear --readout_leak 0 --trade_off 2e-3 --trade_off_type mean_t"
SNN_RECIPES = {  # preset -> (what it starts from, flags)
    "quick_feedback": ("ann quick_feedback", f"{QUICK} {READOUT} --trade_off 0.005 {BY_STEP}"),
    "quick_twin": ("ann quick_twin", QUICK),
    "stream_feedback": (
        "snn quick_feedback",
        f"{STREAM} {READOUT} --trade_off 0.005 {BY_STEP} --classification_type linear_over_t --blocking dynamic --surprise 2",
    ),
    "stream_twin": (
        "snn quick_twin",
        f"{STREAM} --timesteps 10 -lr 2e-4 --spike_penalty 1e-4 --output_leak 0.7 --membrane_floor 0 --leak 0.9",
    ),
    "feedback": ("ann feedback", f"{STEPS_8} {READOUT} --trade_off 0.01 {BY_STEP}"),
    "twin": ("ann twin", STEPS_8),
    "accurate_feedback_base": ("ann accurate_feedback", f"{ACCURATE} {READOUT} --trade_off 0.002 {BY_STEP}"),
    "accurate_twin_base": ("ann accurate_twin", ACCURATE),
    "accurate_feedback": ("snn accurate_feedback_base", f"{ACCURATE} {THEN} {READOUT} --trade_off 0.002 {BY_STEP}"),
    "accurate_twin": ("snn accurate_twin_base", f"{ACCURATE} {THEN}"),
    "full_feedback": ("ann full_feedback", f"{FULL} {READOUT} --trade_off 0.002 {BY_STEP}"),
    "residual_feedback": ("ann residual_feedback", f"{STEPS_5} {READOUT} --residual --trade_off 0.003 --trade_off_type mean_t"),
    "residual_twin": ("ann residual_twin", STEPS_5),
    "fast_twin_base": ("snn residual_twin", f"{STEPS_3} --epochs 4 -lr 3e-3"),
    "fast_feedback": ("snn fast_twin_base", f"{STEPS_3} {LATER} --epsilon 0.2"),
    "fast_twin": ("snn fast_twin_base", STEPS_3),
    "fashion_twin_base": ("ann fashion_twin", f"{FASHION} --epochs 5"),
    "fashion_twin_long": ("snn fashion_twin_base", FASHION_LONG),
    "fashion_feedback": ("snn fashion_twin_long", f"{FASHION_LONG} {LATER} --readout_slew 0.15 --epsilon 0.08"),
    "fashion_twin": ("snn fashion_twin_long", FASHION_LONG),
    "cifar10_twin_base": ("ann cifar10_feedback", f"{CIFAR10} --timesteps 4 --spike_penalty 5e-6 {CIFAR10_BALANCE}"),
    "cifar10_twin_long": ("snn cifar10_twin_base", f"{CIFAR10_MORE} --timesteps 5"),
    "cifar10_feedback": ("snn cifar10_twin_long", f"{CIFAR10_MORE} --timesteps 7 {CIFAR10_GATE} {CIFAR10_DECODER}"),
    "cifar10_blind": ("snn cifar10_twin_long", f"{CIFAR10_MORE} --timesteps 7 {CIFAR10_GATE} --guess interpolation"),
    "cifar10_twin": ("snn cifar10_twin_long", f"{CIFAR10_MORE} --timesteps 5"),
    "deep_twin_base": ("ann deep_twin", f"{DEEP_SNN} --timesteps 4 --epochs 1"),
    "deep_twin_short": ("snn deep_twin_base", f"{DEEP_SNN} --timesteps 2 --epochs 1"),
    "deep_feedback": ("snn deep_twin_base", f"{DEEP_SNN} {DEEP_GATE} --anew {CIFAR10_DECODER}"),
    "deep_blind": ("snn deep_twin_base", f"{DEEP_SNN} {DEEP_GATE} --guess interpolation"),
    "deep_twin": ("snn deep_twin_base", f"{DEEP_SNN} --timesteps 4 --epochs 1"),
    "strided_twin": ("ann strided_twin", LESS),
    "vgg9_feedback": ("ann vgg9_feedback", f"{LESS} --limit_train 10000 {BLOCKED}"),
    "vgg9_twin": ("ann vgg9_twin", LESS),
    "vgg11_plain": ("ann vgg11_plain", f"{LESS} --limit_train 10000"),
    "vgg16_plain": ("ann vgg16_plain", f"{DEEP_SNN} --timesteps 4 --epochs 1"),
}
TEACHERS = {  # family -> preset of the ANN that teaches its SNNs, and ANNs that come from it
    "fashion": "fashion_feedback", "cifar10": "cifar10_feedback", "deep": "deep_twin_base", "vgg9": "deep_twin_base",
    "vgg11": "deep_twin_base", "strided": "deep_twin_base", "vgg16": "vgg16_plain_base",
}  # fmt: skip
COMMITTED_AS = {"feedback": "{kind}_feedback", "twin": "{kind}_twin", "fast_twin_base": "fast_base"}


@dataclass(frozen=True)
class Preset:
    """kind: ann or snn, what it trains; name: of its checkpoint for seed 0; flags: that it stands for; starts: (flag, kind, name
    of a preset) of each checkpoint that it takes."""

    kind: str
    name: str
    flags: str
    starts: tuple = ()

    def complete(self, args):
        """Name the run, and the checkpoints that it starts from or, in an evaluation, the network itself, where no flag does.
        args.made_by: path of such a checkpoint -> the command that makes it. Raises UserError for `own` without images."""
        has_images = {"dataset", "resume", "pretrained_ann"} & args.given.keys()
        if (self.kind, self.name) == ("ann", "own") and not args.test_only and not has_images:
            raise UserError(f"--preset own trains on images of your own: add --dataset FOLDER ({LAYOUT})")
        if "epochs" in args.typed and "updates" not in args.typed and args.given.pop("updates", None):
            args.updates = None  # what is typed holds
        args.made_by = {}
        starts = ((f"pretrained_{self.kind}", self.kind, self.name),) if args.test_only else self.starts
        has_one = {"pretrained_ann", "pretrained_snn"} & args.given.keys()
        for flag, kind, name in starts:
            if flag not in args.given and not (has_one and flag != "teacher_ann"):
                path = str(checkpoint_path(kind, name, args))
                setattr(args, flag, path)
                args.made_by[path] = command(kind, name, args)
        if not args.test_only and not args.run_name:
            args.run_name = run_name(self.kind, self.name, args.seed)


def run_name(kind, name, seed):
    """NAME for seed 0, NAME_3 for seed 3; the first networks' names are longer."""
    name = COMMITTED_AS.get(name, name).format(kind=kind)
    return numbered(name, seed)


def checkpoint_path(kind, name, args):
    """A preset's checkpoint: under --output_dir, or where there is none that which came with the program."""
    ours, committed = (Paths(kind, run_name(kind, name, args.seed), folder).best_path for folder in (args.output_dir, HOME))
    return committed if committed.is_file() and not ours.is_file() else ours


def command(kind, name, args):
    """What makes a preset's checkpoint, of the images in the folder that was typed, if any."""
    images = args.dataset if "dataset" in args.typed and Path(args.dataset).is_dir() else "FOLDER" if name == "own" else ""
    more = ["--dataset", images] * bool(images)
    more += ["--seed", args.seed] * bool(args.seed) + ["--output_dir", args.output_dir] * (args.output_dir != ".")
    return shlex.join([*program(kind), "--preset", name, *map(str, more)])


def family_of(name):
    """'quick' of quick_feedback; '' of the first networks."""
    return name.split("_")[0] if "_" in name else ""


def plan_of(name):
    """The flags of a preset's plan and images."""
    plans, flags, _ = FAMILIES[family_of(name)]
    return f"{plans['feedback' if 'feedback' in name else 'twin']} {flags} {COMMON}"


def ann_preset(name):
    start, flags = ANN_RECIPES.get(name, ("", ""))
    starts = (("pretrained_ann", "ann", start), *taught(name)) if start else ()
    return Preset("ann", name, f"{plan_of(name)} {FAMILIES[family_of(name)][2]} {flags}".rstrip(), starts)


def taught(name):
    """Where a preset's network learns from another's outputs: the start that says so, in a tuple."""
    teacher = TEACHERS.get(family_of(name))
    return (("teacher_ann", "ann", teacher),) if teacher else ()


def snn_preset(name):
    start, flags = SNN_RECIPES[name]
    kind, origin = start.split()
    starts = ((f"pretrained_{kind}", kind, origin), *taught(name))
    return Preset("snn", name, f"{plan_of(name)} {CONVERT} {flags}", starts)


def origin_of(name):
    """The preset of the ANN from which the SNN of this preset comes in the end."""
    kind, start = SNN_RECIPES[name][0].split()
    return start if kind == "ann" else origin_of(start)


OWN = f"{FIRST['feedback']} --augment --holdout 0 {FALLING}"  # of few images, a part held out would choose by chance
OWN_ANN = f"{OWN} -lr 2e-3 --dropout 0 --trade_off 0.001 --updates 2000"
OWN_SNN = (
    f"{OWN} {CONVERT} --activation Triangle -lr 1e-3 --spike_penalty 3e-5 {READOUT} --trade_off 0.005 {BY_STEP} --timesteps 8"
)
OWN_SNN += " --updates 500"
ANN_PRESETS = {"own": Preset("ann", "own", OWN_ANN)}
ANN_PRESETS |= {name: ann_preset(origin_of(name)) for name in SNN_RECIPES}
ANN_PRESETS |= {name: ann_preset(name) for name in ANN_RECIPES}
ANN_PRESETS |= {teacher: ann_preset(teacher) for teacher in TEACHERS.values()}
SNN_PRESETS = {"own": Preset("snn", "own", OWN_SNN, (("pretrained_ann", "ann", "own"),))}
SNN_PRESETS |= {name: snn_preset(name) for name in SNN_RECIPES}
EPSILONS = {name: f"--epsilon {one.epsilon:g}" for name, one in NETWORKS.items() if one.epsilon is not None}
EVALUATIONS = {name: Preset("snn", name, EPSILONS.get(name, "")) for name in SNN_PRESETS}  # of the scripts that evaluate
