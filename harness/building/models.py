"""Models from flags and checkpoints, and of somebody's own: --model FILE.py:CLASS, or FILE.py alone for what it registers."""

import functools
import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path

import torch

from harness import UserError
from harness.data.facts import check_same, shape_and_classes
from harness.runs import ranks
from harness.runs.run import unused_flags
from harness.training.losses import Teacher, own_losses
from harness.training.optimizers import flags_without_effect
from self_models.basics import INSTALLED
from self_models.basics.checkpoints import load_checkpoint, may_hold, restore
from self_models.basics.devices import compute_exactly
from self_models.basics.images import lasting_name
from self_models.basics.settings import meant
from self_models.loading import ignored, kind_of, load_known, on_engine
from self_models.runtime.draws import seed_for
from self_models.runtime.known_parts import in_stages, names_of_ones_own
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN

OF_GATE = {"block": InputBlockingSNN, "contrast": ContrastAttentionSNN}
OF_REPOSITORY = "; the repository has the networks of docs/reference/zoo.md in trained_models/"  # not all of them are installed
DECODER = "generate"  # how the names of the decoder's weights begin, and those of a second one's, generate2


def new_ann(args):
    """An ANN for the flags, with new weights."""
    cls = class_for(args.model, VGG_wFeedback)
    return build(cls, settings_from(cls, args), args)


def new_snn(args, cls=None, **own):
    """An SNN for the flags, with new weights. cls: default, that of the gate; own: settings that hold instead of a flag's."""
    settings = settings_from(class_for(args.model, cls or VGG_SNN_STDB_wFeedback), args) | own
    cls = cls or OF_GATE.get(settings["gate"], VGG_SNN_STDB_wFeedback)
    return build(class_for(args.model, cls), settings, args)


def settings_from(cls, args):
    """The arguments of the constructor of cls, from the flags."""
    flags = {name: setting.flag(name) for name, setting in cls.known_settings().items()}
    values = {
        name: getattr(args, flag) for name, flag in flags.items() if flag and hasattr(args, flag)
    }
    return values | {
        **args.facts,
        "dataset": lasting_name(args.dataset),
        "plan": getattr(args, "plan", None),
    }


def build(cls, settings, args):
    """A model of class cls on the device that the flags name."""
    device = find_device(args)
    torch.manual_seed(seed_for(args.seed, "weights"))  # of the initial weights
    return cls(**settings).to(
        device, memory_format=torch.channels_last
    )  # so that parts of one's own are, too


def find_device(args):
    """The torch.device that the flags ask for, a GPU of its own for each rank. Raises UserError for one that is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    name = args.device if args.gpu else "cpu"
    if name == "auto":
        by_events = getattr(args, "engine", "") == "event"  # which is an engine of the CPU
        name = "cpu" if by_events else next(kind for kind, is_there in there.items() if is_there)
    if not there[name]:
        raise UserError(f"--device {name}: there is none here; choose auto or cpu")
    if name != "cuda":
        return torch.device(name)
    index = args.devices + ranks.local_rank()
    if index >= torch.cuda.device_count():
        ours = f" (rank {ranks.local_rank()} of this machine)" if ranks.count() > 1 else ""
        raise UserError(
            f"--devices {args.devices}{ours}: there are GPUs 0 to {torch.cuda.device_count() - 1} here"
        )
    compute_exactly()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def read(path, args, model):
    """The checkpoint, which may be of the --model. Raises UserError for a recipe's that is missing, with the command for it."""
    made_by = getattr(args, "made_by", {})
    if path in made_by and not Path(path).is_file():
        makes = f"{made_by[path]}{OF_REPOSITORY if INSTALLED else ''}"
        raise UserError(
            f"--preset {args.preset} needs {path}, which is not there; this makes it: {makes}"
        )
    return load_known(path, named(model))


def load_ann(model, saved, path, say=None):
    """The ANN with the weights of a checkpoint. With say, it may lack what then is trained: bounds of qcfs, a decoder."""
    ends = ()
    if (
        say
        and model.settings["activation_ann"] == "qcfs"
        and saved.get("settings", {}).get("activation_ann", "relu") == "relu"
    ):
        say(f"{path} has no bounds of qcfs: they start where those of new networks do")
        ends = (".bound",)
    return fill(model, saved, path, say or str, bool(say), ends)


def ann_of(path, args):
    """The ANN of a checkpoint, in evaluation: with its own settings or, of the original's files, which have none, the flags'."""
    word = word_for(args.model, path)
    saved, cls = read(path, args, word), class_for(word, VGG_wFeedback)
    if "ANN" not in may_hold(saved):
        raise UserError(f"{path} holds an SNN, and an ANN is wanted")
    settings = saved.get("settings") or settings_from(cls, args) | {"timesteps": 1}
    return load_ann(build(cls, settings, args), saved, path).eval()


def fill(model, saved, path, say, may_grow=False, may_lack=()):
    """The model with a checkpoint's weights, which need not have tensors with these ends, nor, if it may grow, a decoder, nor
    somebody's own parts of an ordinary network: they start as the class makes them, which is said."""
    if saved.get("gone"):
        say(f"note: {path} has {ignored(saved)}")
    weights, state = saved["state_dict"], model.state_dict()
    names = [name for name in state if name.endswith(tuple(may_lack))]
    own = [name for name in names_of_ones_own(model) if name not in weights]
    if own and saved.get("model") != type(model).__name__:
        parts = dict.fromkeys(name.rpartition(".")[0] or name for name in own)
        say(
            f"{path} has no {', '.join(parts)}: what is {type(model).__name__}'s own starts as it makes it"
        )
        names += own
    if may_grow and model.has_feedback and not has_decoder(weights):
        say(f"{path} has no decoder: this one starts at random")
        names += [name for name in state if name.startswith(DECODER)]
    return restore(model, saved, path, names)


def has_decoder(weights):
    """Whether there are weights of a decoder among these, by name."""
    return any(name.startswith(DECODER) for name in weights)


def teacher_from(args):
    """The Teacher of --teacher_ann in training, else None. Raises UserError for one of another data set."""
    if args.test_only or not args.teacher_ann:
        return None
    model = ann_of(args.teacher_ann, args)
    known = shape_and_classes(args.facts, args.dataset)
    check_same(f"--teacher_ann {args.teacher_ann}", (model.image_shape, model.classes), known)
    return Teacher(model, args.distillation, args.temperature, args.precision)


def choose_trained(model, args):
    """With --train decoder no other weight learns. Raises UserError where nothing would."""
    if args.test_only or args.train == "all":
        return
    if not model.has_feedback:
        raise UserError(
            f"--train decoder needs an architecture with feedback; {args.architecture} has none"
        )
    if not args.trade_off and not any(
        loss.needs_frames for loss in own_losses(args, model).values()
    ):
        raise UserError(
            "--train decoder needs --trade_off above 0: the decoder learns from the reconstruction"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name.startswith(DECODER))


def use_engine(model, args):
    """Put the model on the engine of --engine. Returns the line that says what runs it. Raises ModelError where it cannot."""
    on_engine(model, args.engine)
    if model.runs_by == "reference" != args.engine:
        return "engine: reference (it replaces methods, or has parts or hooks of its own)"
    return (
        f"engine: {model.runs_by} ({model.stays})" if model.stays else f"engine: {model.runs_by}"
    )


# --- --model: a network of somebody's own, or a part of one


def class_for(word, cls):
    """The class that a --model names, cls where it names none. Raises UserError where it is no network of the kind of cls."""
    own, kind = named(word), kind_of(cls)
    if own and not issubclass(own, kind):
        raise UserError(
            f"--model {word}: {own.__name__} is not derived from {kind.__name__}, which this script needs"
        )
    return own or cls


def named(word):
    """The class that a --model names, None where it names none. Its file is imported."""
    if not word:
        return None
    path, name = parts_of(word)
    classes = imported(path).classes
    if name and name not in classes:
        known = ", ".join(classes) or "none"
        raise UserError(
            f"--model {word}: there is no class {name}; {meant(name, classes)}it has {known}"
        )
    return classes.get(name)


def parts_of(word):
    """(path of the file, name of the class or '') of a --model."""
    file, _, name = (word, "", "") if word.endswith(".py") else word.rpartition(":")
    if not file.endswith(".py") or (name and not name.isidentifier()):
        raise UserError(
            f"--model {word}: give FILE.py:CLASS, or FILE.py alone for what it registers"
        )
    return Path(file).resolve(), name


def word_for(word, path):
    """--model for the network of a checkpoint: FILE.py:CLASS where the file has the class that it names, else FILE.py."""
    if not word or not Path(path).is_file():  # who reads it says what is missing
        return word
    file, name = parts_of(word)[0], str(load_checkpoint(path).get("model"))
    return f"{file}:{name}" if name in imported(file).classes else str(file)


def lines_on_flags(args, model, start):
    """Yield lines on typed flags without effect, and on the file of ``--model``.

    Parameters
    ----------
    args : Arguments
        The flags.
    model : Network
        The network, as it is before it gets the weights that it starts from.
    start : Start
        What it starts from.

    Yields
    ------
    str
        A line for the reader.
    """
    idle = {
        name
        for kind, registry in model.parts.items()
        for name in registry.settings_without(model.settings[kind])
    }
    if "gate" in args.typed and model.gate.reacts and not model.has_feedback:
        idle.add("gate")
    idle |= flags_without_effect(args)
    if start.kind != "run":  # a run that goes on is told the flags that it began with
        idle |= unused_flags(args.parser.settings, vars(args))
    typed = [flag for flag in args.typed if flag in idle and flag in args.parser.settings]
    if typed:
        yield f"note: without effect here: --{', --'.join(typed)}"
    # Of a recipe nothing else is told: its tables are whole, and each command uses a
    # part of them. Nor is it refused: other commands, or another start, may need it.
    if "default_threshold" in args.given and not takes_default_threshold(model, start):
        reason = f"the thresholds are those of {start.path}"
        if start.kind == "ann":
            reason = f"the conversion of {start.path} finds the thresholds"
        yield f"note: --default_threshold has no effect: {reason}"
    if args.model:
        path = parts_of(args.model)[0]
        digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        yield f"--model: {path.name}, digest {digest}, classes: {', '.join(imported(path).classes) or 'none'}"


def takes_default_threshold(model, start):
    """Whether a neuron of the SNN begins with --default_threshold, not as its start says."""
    if start.kind in ("", "run"):  # in a run that goes on, it must be as it was
        return True
    if "thresholds" in start.saved and "settings" not in start.saved:  # the original's
        return False
    for name in model.neurons():
        # Conversion finds the thresholds of the three stages.
        is_converted = start.kind == "ann" and in_stages(name)
        if not is_converted and f"{name}.threshold" not in start.saved["state_dict"]:
            return True
    return False


@functools.cache
def imported(path):
    """A file's module, imported once; `classes`: name -> class of its own. Raises UserError, with the line, for its errors."""
    if not path.is_file():
        raise UserError(f"--model {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # of what it imports itself
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path)
        ]
        where = (
            (error.filename, error.lineno)
            if isinstance(error, SyntaxError)
            else (path, *lines[-1:])
        )
        raise UserError(
            f"--model {':'.join(map(str, where))}: {type(error).__name__}: {error}"
        ) from None
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]
    module.classes = {cls.__name__: cls for cls in own}
    return module
