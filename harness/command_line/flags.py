"""The parsers of the scripts, of a run's settings (run_settings.py) and the model's."""

import sys
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

from harness import UserError
from harness.building.own import class_for
from harness.command_line.parser import GROUPS, Parser, SwitchAction, typed
from harness.command_line.recipes import find
from harness.command_line.run_settings import OfAll, OfANN, OfEvaluation, OfFineTuning, OfSNN, OfTraining
from harness.training.losses import loss_settings
from self_models.basics.settings import COUNT, POSITIVE, WHOLE, Text, settings_in, with_defaults
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

NOT_USED = "accepted for the original's command lines; only --trade_off, its type and --test_acc_every_batch are used here"
UNUSED_GROUPS = ("training", "fine-tuning")  # where nothing is trained
EVALUATED_WITH = ("timesteps", "epsilon", "dataset")  # of what a checkpoint holds, these are what an evaluation varies
SELDOM = ("pretrained_ann", "scaling_factor", "limit_train", "image_size", "test_only")  # of an evaluation
SNN_DEFAULTS = {"momentum": 0.95, "trade_off": 1.0}
BARE = (
    "nothing to do: --preset quick_feedback trains in minutes, --preset list names all recipes; --preset own --dataset FOLDER "
    "trains on your own images; --dataset MNIST is the original's run, many hours on a CPU"
)


def class_in(argv, table, cls):
    """The class of the --model in a command line, or in the table of the recipe that it names; else cls. Its file is imported
    here, before there is a parser: what it registers has flags."""
    words = [part for word in (sys.argv[1:] if argv is None else argv) for part in word.split("=", 1)]
    said = dict(pairwise(words))  # of a flag that is typed twice the last holds
    if "--preset" in said and "--model" not in said:
        with suppress(UserError):  # of a recipe, which is told when flags are parsed
            recipe = find(said["--preset"], "ann" if table == "ann" else "snn")
            said["--model"] = str(recipe.of(table, {}).get("model", ""))
    return class_for(said.get("--model", ""), cls)


def ann_settings(cls=VGG_wFeedback):
    """name -> Setting of all that the ANN's script has flags for. cls: of the network."""
    return joined(settings_in(OfAll, OfTraining, OfANN), cls.known_settings())


def snn_settings(cls=VGG_SNN_STDB_wFeedback):
    """name -> Setting of all that the SNN's training script has flags for. cls: of the network."""
    own = with_defaults(settings_in(OfAll, OfTraining, OfSNN, OfFineTuning), SNN_DEFAULTS)
    return joined(loss_settings(), own, cls.known_settings())


def posthoc_settings(cls, own=None):
    """name -> Setting of all that a script has flags for that evaluates a trained SNN as a model of class cls, or of own, a class
    of somebody's own, which gets the defaults of cls."""
    own = own or cls
    known = with_defaults(own.known_settings(), cls.defaults | own.defaults)
    return joined(with_defaults(settings_in(OfAll, OfEvaluation, OfSNN), SNN_DEFAULTS | {"test_only": True}), known)


def joined(*several):
    """All of these name -> Setting. Raises UserError for a name that two of them have, as a part of somebody's own may."""
    found = {}
    for each in several:
        if both := found.keys() & each.keys():
            raise UserError(f"--model: --{min(both)} is a flag of this script already: give your setting another name")
        found |= each
    return found


def ann_parser(description, argv=None):
    return Parser(description, "ann", ann_settings(class_in(argv, "ann", VGG_wFeedback)), bare=BARE)


def snn_parser(description, argv=None):
    return Parser(description, "snn", snn_settings(class_in(argv, "snn", VGG_SNN_STDB_wFeedback)), bare=BARE)


def posthoc_parser(description, argv, cls, without=()):
    """The parser of a script that evaluates a trained SNN as a model of class cls, or of --model's, whose settings are flags;
    without: settings that get no flag here, nor do those of the parts that they choose."""
    out = {*without, *settings_in(*(part for kind in without for part in cls.parts.get(kind, {}).values()))}
    network = class_in(argv, "evaluation", cls)
    known = {name: one for name, one in posthoc_settings(cls, network).items() if name not in out}
    held = {name for name in network.known_settings().keys() & known.keys() if known[name].scope == "network"}
    known |= {name: replace(known[name], help=f"{known[name].help} (default: the checkpoint's)") for name in held}
    parser = Parser(description, "evaluation", known, GROUPS | dict.fromkeys(UNUSED_GROUPS, NOT_USED))
    seldom = {*held.difference(EVALUATED_WITH), *SELDOM}
    parser.rare |= {one.flag(name) for name, one in known.items() if one.group in UNUSED_GROUPS or name in seldom}
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
