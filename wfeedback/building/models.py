"""Networks from flags and checkpoints, and of somebody's own, which ``--model`` names.

``--model FILE.py:CLASS`` names a class of networks, ``--model FILE.py`` a file that
registers parts, such as a gate.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch

from self_models.checkpoints.files import load_checkpoint, may_hold, restore
from self_models.checkpoints.loading import (
    MODELS,
    check_parts,
    ignored,
    kind_of,
    load_known,
    on_engine,
)
from self_models.config import Network
from self_models.data.images import lasting_name
from self_models.devices import compute_exactly
from self_models.errors import UserError
from self_models.places import INSTALLED
from self_models.running.draws import seed_for
from self_models.running.known_layers import in_stages, names_of_added_tensors
from self_models.settings import field_values, meant, settings_in
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN
from wfeedback.arguments import Arguments, set_found
from wfeedback.building.idle_flags import Case, check_augmentation, check_idle_flags
from wfeedback.data.facts import check_same, shape_and_classes
from wfeedback.runs import ranks
from wfeedback.runs.run import unused_flags
from wfeedback.training.losses import Teacher, own_losses
from wfeedback.training.optimizers import flags_without_effect

OF_GATE = {"block": InputBlockingSNN, "contrast": ContrastAttentionSNN}
# Not all networks of the repository are installed with the program.
OF_REPOSITORY = "; the repository has the networks of docs/reference/zoo.md in trained_models/"
# How the names of the decoder's weights begin, and those of a second one's, generate2.
DECODER = "generate"


# --- new networks


def new_ann(args: Arguments) -> VGG_wFeedback:
    """Make the ANN that the flags describe, with new weights."""
    cls = class_for(args.model, VGG_wFeedback)
    return build(cls, settings_from(cls, args), args)


def new_snn(
    args: Arguments,
    model_class: type[VGG_SNN_STDB_wFeedback] | None = None,
    **settings: object,
) -> VGG_SNN_STDB_wFeedback:
    """Make the SNN that the flags describe, with new weights.

    Parameters
    ----------
    args : Arguments
    model_class : type, optional
        Class of the network. Default: that of the gate. A network that ``from_ann``
        has traced is a TracedSNN.
    **settings
        Settings that hold instead of a flag's. A gate, rule or read-out of one's own
        may be an object, a neuron a class: ``gate=MyGate(epsilon=0.1)``.

    Returns
    -------
    VGG_SNN_STDB_wFeedback
    """
    nodes = getattr(args, "nodes", None)
    if nodes:  # the checkpoint's network is one that from_ann has traced
        model_class = MODELS["TracedSNN"]
        settings["nodes"] = nodes
    declared_by = class_for(args.model, model_class or VGG_SNN_STDB_wFeedback)
    values = settings_from(declared_by, args)
    objects = [value for value in settings.values() if dataclasses.is_dataclass(value)]
    for part in objects:
        for name in field_values(part):  # the object says them, and not the flags
            values.pop(name, None)
    values |= settings
    if model_class is None and isinstance(values["gate"], str):
        model_class = OF_GATE.get(values["gate"])
    model = build(class_for(args.model, model_class or VGG_SNN_STDB_wFeedback), values, args)
    # The log is to tell the settings in force, and not what the flags say.
    set_found(args, **model.settings_of_parts())
    return model


def settings_from(cls: type[Network], args: Arguments) -> dict[str, object]:
    """Return the arguments of a network's constructor, from the flags."""
    values = {}
    for name, declared in cls.known_settings().items():
        flag = declared.flag(name)
        if flag and hasattr(args, flag):
            values[name] = getattr(args, flag)
    values |= args.facts
    values["dataset"] = lasting_name(args.dataset)
    values["plan"] = getattr(args, "plan", None)
    return values


def build(cls: type[Network], settings: dict[str, object], args: Arguments) -> Network:
    """Make a network on the device of the flags; ``--seed`` draws its weights."""
    device = find_device(args)
    torch.manual_seed(seed_for(args.seed, "weights"))
    model = cls(**settings)
    # Once more, as in the constructor: parts of one's own may have been added after it.
    return model.to(device, memory_format=torch.channels_last)


def find_device(args: Arguments) -> torch.device:
    """Return the device that the flags ask for; each rank gets a GPU of its own.

    Raises
    ------
    UserError
        If it is not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    name = args.device if args.gpu else "cpu"
    if name == "auto":
        name = next(kind for kind, is_available in available.items() if is_available)
        if getattr(args, "engine", "") == "event":  # which is an engine of the CPU
            name = "cpu"
    if not available[name]:
        raise UserError(f"--device {name}: there is none here; choose auto or cpu")
    if name != "cuda":
        return torch.device(name)
    index = args.devices + ranks.local_rank()
    if index >= torch.cuda.device_count():
        which = f" (rank {ranks.local_rank()} of this machine)" if ranks.count() > 1 else ""
        last = torch.cuda.device_count() - 1
        raise UserError(f"--devices {args.devices}{which}: there are GPUs 0 to {last} here")
    compute_exactly()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


# --- networks from checkpoints


def read(path: str, args: Arguments, model: str) -> dict:
    """Read a checkpoint.

    Parameters
    ----------
    path : str
    args : Arguments
    model : str
        ``--model``, whose class the checkpoint may be of.

    Returns
    -------
    dict

    Raises
    ------
    UserError
        If a recipe's network is missing, with the command that makes it.
    """
    made_by = getattr(args, "made_by", {})
    if path in made_by and not Path(path).is_file():
        advice = f"{made_by[path]}{OF_REPOSITORY if INSTALLED else ''}"
        raise UserError(
            f"--preset {args.preset} needs {path}, which is not there; this makes it: {advice}"
        )
    return load_known(path, named(model))


def load_ann(
    model: VGG_wFeedback,
    saved: dict,
    path: str,
    say: Callable[[str], None] | None = None,
) -> VGG_wFeedback:
    """Give an ANN the weights of a checkpoint.

    Parameters
    ----------
    model : VGG_wFeedback
    saved : dict
        The checkpoint.
    path : str
        Its file, for errors.
    say : callable, optional
        Gets a line on what the checkpoint lacks and training will learn: bounds of
        qcfs, a decoder. Without it nothing may be lacking.

    Returns
    -------
    VGG_wFeedback
        The same.
    """
    if say is None:
        return fill(model, saved, path, say_nothing)
    may_lack = ()
    activation = saved.get("settings", {}).get("activation_ann", "relu")
    if model.settings["activation_ann"] == "qcfs" and activation == "relu":
        say(f"{path} has no bounds of qcfs: they start where those of new networks do")
        may_lack = (".bound",)
    return fill(model, saved, path, say, may_grow=True, may_lack=may_lack)


def say_nothing(line: str) -> None:
    """Take the place of a log where nothing is to be told."""


def ann_of(path: str, args: Arguments) -> VGG_wFeedback:
    """Load the ANN of a checkpoint, in evaluation.

    It has its own settings. The original's files have none: of those the flags say
    them.

    Raises
    ------
    UserError
        If the checkpoint holds an SNN.
    """
    word = word_for(args.model, path)
    saved = read(path, args, word)
    cls = class_for(word, VGG_wFeedback)
    if "ANN" not in may_hold(saved):
        raise UserError(f"{path} holds an SNN, and an ANN is wanted")
    settings = saved.get("settings")
    if not settings:
        settings = settings_from(cls, args) | {"timesteps": 1}
    return load_ann(build(cls, settings, args), saved, path).eval()


def fill(
    model: Network,
    saved: dict,
    path: str,
    say: Callable[[str], None],
    may_grow: bool = False,
    may_lack: tuple[str, ...] = (),
) -> Network:
    """Give a network the weights of a checkpoint.

    What the checkpoint may lack starts as the class makes it, which a line tells:
    somebody's own parts of an ordinary network, and what the arguments allow.

    Parameters
    ----------
    model : Network
    saved : dict
        The checkpoint.
    path : str
        Its file.
    say : callable
        Gets the lines.
    may_grow : bool
        Whether it may lack a decoder.
    may_lack : tuple of str
        Ends of the names of tensors that it may lack.

    Returns
    -------
    Network
        The same.

    Raises
    ------
    CheckpointError
        If the weights do not fit.
    """
    check_parts(path, saved, model)
    if saved.get("gone"):
        say(f"note: {path} has {ignored(saved)}")
    weights = saved["state_dict"]
    state = model.state_dict()
    lacking = [name for name in state if name.endswith(tuple(may_lack))]
    own = [name for name in names_of_added_tensors(model) if name not in weights]
    class_name = type(model).__name__
    if own and saved.get("model") != class_name:
        parts = dict.fromkeys(name.rpartition(".")[0] or name for name in own)
        say(f"{path} has no {', '.join(parts)}: what is {class_name}'s own starts as it makes it")
        lacking += own
    if may_grow and model.has_feedback and not has_decoder(weights):
        say(f"{path} has no decoder: this one starts at random")
        lacking += [name for name in state if name.startswith(DECODER)]
    return restore(model, saved, path, lacking)


def has_decoder(weights: dict[str, torch.Tensor]) -> bool:
    """Return whether there are weights of a decoder among these, by name."""
    return any(name.startswith(DECODER) for name in weights)


def teacher_from(args: Arguments) -> Teacher | None:
    """Load the ANN of --teacher_ann, which training distils from, if there is one.

    Raises
    ------
    UserError
        If it was trained on other images.
    """
    if args.test_only or not args.teacher_ann:
        return None
    model = ann_of(args.teacher_ann, args)
    known = shape_and_classes(args.facts, args.dataset)
    check_same(f"--teacher_ann {args.teacher_ann}", (model.image_shape, model.classes), known)
    return Teacher(model, args.distillation, args.temperature, args.precision)


def choose_trained(model: VGG_SNN_STDB_wFeedback, args: Arguments) -> None:
    """Fix all weights but the decoder's, with --train decoder.

    Raises
    ------
    UserError
        If nothing would learn then.
    """
    if args.test_only or args.train == "all":
        return
    if not model.has_feedback:
        raise UserError(
            f"--train decoder needs an architecture with feedback; {args.architecture} has none"
        )
    losses = own_losses(args, model).values()
    if not args.trade_off and not any(loss.needs_frames for loss in losses):
        raise UserError(
            "--train decoder needs --trade_off above 0: the decoder learns from the reconstruction"
        )
    for name, parameter in model.named_parameters():
        if not name.startswith(DECODER):
            parameter.requires_grad_(False)


def use_engine(model: Network, args: Arguments) -> str:
    """Put a network on the engine of --engine.

    Returns
    -------
    str
        A line that says what runs it.

    Raises
    ------
    ModelError
        If that engine cannot run it.
    """
    on_engine(model, args.engine)
    if model.runs_by == "reference" and args.engine != "reference":
        return "engine: reference (it replaces methods, or has parts or hooks of its own)"
    if model.stays:
        return f"engine: {model.runs_by} ({model.stays})"
    return f"engine: {model.runs_by}"


# --- --model: a network of somebody's own, or a part of one


def class_for(word: str, cls: type[Network]) -> type[Network]:
    """Return the class that a --model names, or ``cls`` where it names none.

    Raises
    ------
    UserError
        If it is an ANN, and ``cls`` an SNN, or the other way round.
    """
    own = named(word)
    kind = kind_of(cls)
    if own and not issubclass(own, kind):
        raise UserError(
            f"--model {word}: {own.__name__} is not derived from {kind.__name__}, which this "
            "script needs"
        )
    return own or cls


def named(word: str) -> type[Network] | None:
    """Import the file of a --model, and return the class that it names, or None."""
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


def parts_of(word: str) -> tuple[Path, str]:
    """Separate a --model into the path of its file, and the name of a class or ""."""
    file = word
    name = ""
    if not word.endswith(".py"):
        file, _, name = word.rpartition(":")
    if not file.endswith(".py") or (name and not name.isidentifier()):
        raise UserError(
            f"--model {word}: give FILE.py:CLASS, or FILE.py alone for what it registers"
        )
    return Path(file).resolve(), name


def word_for(word: str, path: str) -> str:
    """Return the --model for a checkpoint's network.

    FILE.py:CLASS where the file has the class that the checkpoint names, else FILE.py.
    """
    if not word or not Path(path).is_file():  # who reads the checkpoint says what is missing
        return word
    file, _ = parts_of(word)
    name = str(load_checkpoint(path).get("model"))
    if name in imported(file).classes:
        return f"{file}:{name}"
    return str(file)


# --- what the log tells of flags


def lines_on_flags(args: Arguments, model: Network, start: object) -> Iterator[str]:
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

    Raises
    ------
    UserError
        For a typed flag that can have no effect, and that no line tells of.
    """
    idle = idle_settings(model)
    if "gate" in args.typed and model.gate.reacts and not model.has_feedback:
        idle.add("gate")
    if "nodes" in model.settings:  # which are the network's layers, by from_ann
        idle.add("architecture")
    idle |= flags_without_effect(args)
    if start.kind != "run":  # a run that goes on is told the flags that it began with
        idle |= unused_flags(args.parser.settings, vars(args))
        is_own_class = named(args.model) is not None
        check_idle_flags(Case(args, model, start), told=idle, is_own_class=is_own_class)
    if not args.test_only:
        check_augmentation(args, model)
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
        classes = ", ".join(imported(path).classes) or "none"
        yield f"--model: {path.name}, digest {digest}, classes: {classes}"


def idle_settings(model: Network) -> set[str]:
    """Return settings of gates, rules and read-outs that have no effect as flags.

    The part is not chosen, or was passed as an object, which says them itself.
    """
    idle = set()
    for kind, registry in model.parts.items():
        idle.update(settings_in(*registry.values()))
        if kind not in model.own_parts:
            idle.difference_update(field_values(getattr(model, kind)))
    return idle


def takes_default_threshold(model: VGG_SNN_STDB_wFeedback, start: object) -> bool:
    """Return whether any neuron begins with --default_threshold.

    Else all have thresholds of the checkpoint that they start from, or of its
    conversion.
    """
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
def imported(path: Path) -> ModuleType:
    """Import a file, once. The module's ``classes`` are those that it defines, by name.

    Raises
    ------
    UserError
        If there is no such file, or it fails; the line says where.
    """
    if not path.is_file():
        raise UserError(f"--model {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.append(str(path.parent))  # of what it imports itself
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        where = place_of(error, path)
        raise UserError(f"--model {where}: {type(error).__name__}: {error}") from None
    module.classes = {}
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__:
            module.classes[value.__name__] = value
    return module


def place_of(error: BaseException, path: Path) -> str:
    """Return FILE:LINE of an error that came up while a file was imported."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(path):
            lines.append(frame.lineno)
    if lines:
        return f"{path}:{lines[-1]}"
    return str(path)
