"""The parsers of the scripts, of a run's settings (run_settings.py) and the model's."""

from dataclasses import replace

from harness import UserError
from harness.building.own import class_for
from harness.command_line.parser import GROUPS, Parser, SwitchAction, model_in, typed
from harness.command_line.run_settings import OfAll, OfANN, OfEvaluation, OfFineTuning, OfSNN, OfTraining
from harness.training.losses import loss_settings
from self_models.basics import settings
from self_models.basics.settings import COUNT, POSITIVE, WHOLE, Text
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

NOT_USED = "accepted for the original's command lines; only --trade_off, its type and --test_acc_every_batch are used here"
UNUSED_GROUPS = ("training", "fine-tuning")  # where nothing is trained
EVALUATED_WITH = ("timesteps", "epsilon", "dataset")  # of what a checkpoint holds, these are what an evaluation varies
SELDOM = ("pretrained_ann", "scaling_factor", "limit_train", "image_size", "test_only")  # of an evaluation
SNN_DEFAULTS = {"momentum": 0.95, "trade_off": 1.0}


def ann_settings(model=""):
    """name -> Setting of all that the ANN's script has flags for. model: of --model."""
    return joined(settings.settings_in(OfAll, OfTraining, OfANN), class_for(model, VGG_wFeedback).known_settings())


def snn_settings(model=""):
    """name -> Setting of all that the SNN's training script has flags for. model: of --model."""
    own = settings.settings_in(OfAll, OfTraining, OfSNN, OfFineTuning)
    own, network = settings.with_defaults(own, SNN_DEFAULTS), class_for(model, VGG_SNN_STDB_wFeedback)
    return joined(loss_settings(), own, network.known_settings())


def posthoc_settings(cls, model=""):
    """name -> Setting of all that a script has flags for that evaluates a trained SNN as a model of class cls, or of --model's,
    which gets the defaults of cls. model: of --model."""
    own, network = settings.settings_in(OfAll, OfEvaluation, OfSNN), class_for(model, cls)
    known = settings.with_defaults(network.known_settings(), cls.defaults | network.defaults)
    return joined(settings.with_defaults(own, SNN_DEFAULTS | {"test_only": True}), known)


def joined(*several):
    """All of these name -> Setting. Raises UserError for a name that two of them have, as a part of somebody's own may."""
    found = {}
    for each in several:
        if both := found.keys() & each.keys():
            raise UserError(f"--model: --{min(both)} is a flag of this script already: give your setting another name")
        found |= each
    return found


BARE = (
    "nothing to do: --preset quick_feedback trains in minutes, --preset list names all recipes; --preset own --dataset FOLDER "
    "trains on your own images; --dataset MNIST is the original's run, many hours on a CPU"
)


def ann_parser(description, argv=None):
    return Parser(description, "ann", ann_settings(model_in(argv, "ann")), bare=BARE)


def snn_parser(description, argv=None):
    return Parser(description, "snn", snn_settings(model_in(argv, "snn")), bare=BARE)


def posthoc_parser(description, argv, cls, without=()):
    """The parser of a script that evaluates a trained SNN as a model of class cls, or of --model's, see class_for, whose settings
    are flags; without: settings that get no flag here, nor do those of the parts that they choose."""
    model = model_in(argv, "evaluation")
    known = class_for(model, cls).known_settings()
    held = {name for name, one in known.items() if one.adopted}
    parts = [part for kind in without for part in cls.parts.get(kind, {}).values()]
    out = {*without, *settings.settings_in(*parts)}
    own = {name: one for name, one in posthoc_settings(cls, model).items() if name not in out}
    own |= {name: replace(one, help=f"{one.help} (default: the checkpoint's)") for name, one in own.items() if name in held}
    parser = Parser(description, "evaluation", own, GROUPS | dict.fromkeys(UNUSED_GROUPS, NOT_USED))
    seldom = {*held.difference(EVALUATED_WITH), *SELDOM}
    parser.rare |= {one.flag(name) for name, one in own.items() if one.group in UNUSED_GROUPS or name in seldom}
    return parser


def add_picture_flags(parser):
    """What a GIF shows, and how fast; returns the group."""
    group = parser.add_argument_group("pictures")
    number_or_path = typed(Text(lambda text: COUNT.parse(text) if text.lstrip("-").isdigit() else text))
    group.add_argument("--images", type=number_or_path, nargs="+", default=[5], metavar="N|PATH", help="N test images, the "
                       "first of each class, or your own images: files and folders, without a data set")  # fmt: skip
    help_text = "test images by number"
    group.add_argument("--index", type=typed(WHOLE), nargs="+", default=None, metavar="I", help=help_text)
    group.add_argument("--invert", action=SwitchAction, default=False, help="files as --images: swap dark and bright, "
                       "as for dark digits on white paper")  # fmt: skip
    group.add_argument("--frame_seconds", type=typed(POSITIVE), default=0.5, help="seconds per frame of the GIF")
    return group
