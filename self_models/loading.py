"""A trained network from its file, ready to use: load(path)."""

import warnings
from pathlib import Path

import torch

from self_models import assembly
from self_models.basics import ModelError
from self_models.basics.checkpoints import CheckpointError, load_checkpoint, may_hold, restore
from self_models.basics.settings import Choice, Registry, required
from self_models.layers.architectures import find_plan
from self_models.runtime.known_parts import names_of_ones_own
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN

CLASSES = (
    VGG_wFeedback,
    VGG_SNN_STDB_wFeedback,
    InputBlockingSNN,
    AdaptiveTimestepsSNN,
    ContrastAttentionSNN,
)
MODELS = Registry("network")  # name in a checkpoint -> class
MODELS.update({cls.__name__: cls for cls in CLASSES})
MODELS.offer(assembly.MODELS)
WEIGHTS = ("float32", *assembly.WEIGHTS)


def load(path, engine="auto", device="cpu", model=None, weights="float32", **changed):
    """The checkpoint's own ANN or SNN, with its settings, weights, thresholds and leaks, in eval mode on the device; or the
    network of another kind of file, by its ending: x.nir, with the arguments of from_nir.

    changed: settings to take instead of the checkpoint's, as the model's class names them (timesteps=50, epsilon=0.1).
    model: a class of one's own, derived from VGG_wFeedback or VGG_SNN_STDB_wFeedback: the checkpoint's, or one that runs an
    ordinary network's weights; what that has not got is as the class makes it.
    weights: float32; or of an SNN int8, or int8_folded: 8 bits.
    engine: of an SNN: reference, its step() as it is written; dense, the same for many steps of a layer at once where it can;
    event, which costs what the spikes cost (on the CPU, with a C compiler; see docs/explanation/event_engine.md); or auto,
    event where the kernel can, else dense. Training and gradients with respect to the images are dense anyhow. On a GPU the
    figures are the CPU's but for rounding if torch.backends.cudnn.allow_tf32 is False. Raises ModelError for a setting or engine
    that cannot be, and CheckpointError, which is one, for a file that cannot be used."""
    other_kind = assembly.FILES.get(Path(path).suffix)
    if other_kind is not None:
        return assembly.load_object(other_kind)(path, engine, device, model, weights, **changed)
    saved = load_checkpoint(path)
    if "settings" not in saved:
        raise CheckpointError(
            f"{path} holds weights without the settings of their network, as files of the original do: give it to "
            "snn_wFeedback.py as --pretrained_snn or --pretrained_ann, with the flags (-a, --fc_width, ...) it was trained with"
        )
    if "default_threshold" in changed:
        raise ModelError(
            "default_threshold: the checkpoint has thresholds of its own; change them with set_thresholds"
        )
    saved_class = class_of(path, saved, model)
    cls = model or saved_class
    settings = cls.checked(settings_of(path, saved, cls) | changed)
    if saved["gone"]:
        warnings.warn(f"{path}: {ignored(saved)}", RuntimeWarning, stacklevel=2)
    cls.check_in_force(changed.keys(), settings)
    with torch.random.fork_rng(devices=[]):  # of the initial weights
        model = cls(**settings)
    is_ours = MODELS.get(saved_class.__name__) is saved_class
    restore(model, saved, path, names_of_ones_own(model) if is_ours else ()).eval()
    if "leak" in changed:
        model.set_leak(changed["leak"])
    model = on_engine(with_weights(model, weights).to(device), engine)
    might_run = (
        engine == "auto" and torch.device(device).type == "cpu" and getattr(model, "stays", None)
    )
    if might_run and not assembly.load_object(assembly.ENGINES["event"]).has_compiler():
        warnings.warn(f"runs dense: {model.stays}", RuntimeWarning, stacklevel=2)
    return model


@torch.no_grad()
def with_weights(model, weights):
    """The model, or another one, with its weights in this form of WEIGHTS, see load()."""
    required(Choice(WEIGHTS), "weights", weights)
    if weights == "float32":
        return model
    return assembly.load_object(assembly.WEIGHTS[weights])(model)


def load_known(path, own=None):
    """As load_checkpoint; where it has settings, they are those of a network that is known here. own: see class_of. Raises
    CheckpointError where they are not, and as class_of()."""
    saved = load_checkpoint(path)
    if "settings" in saved:
        settings_of(path, saved, class_of(path, saved, own))
    return saved


def class_of(path, saved, own=None):
    """The class of a loaded checkpoint's network. own: a class of somebody's own that it may be of, or that takes its place.
    Raises CheckpointError where it is none of ours and not own, or where own is of the other kind; ModelError where own cannot be
    a network's class."""
    kind = kind_of(own) if own else None
    of_plan = VGG_wFeedback if "ANN" in may_hold(saved) else VGG_SNN_STDB_wFeedback
    name = str(saved.get("model") or of_plan.__name__)[:40]
    cls = own if own and name == own.__name__ else MODELS.get(name)
    if not cls:
        words = f"--model FILE.py:{name}, or load(path, model={name})"
        raise CheckpointError(f"{path} holds {name!r}, a network of somebody's own: {words}")
    if own and not issubclass(cls, kind):
        raise CheckpointError(
            f"{path} holds {name!r}, and {own.__name__} is derived from {kind.__name__}"
        )
    return cls


def settings_of(path, saved, cls):
    """All settings of a loaded checkpoint's network, which is of class cls. Those that are no more leave saved["settings"], and
    saved["gone"] names them. Raises CheckpointError where they cannot be."""
    try:
        saved["gone"] = sorted(saved["settings"].keys() - cls.known_settings().keys())
        for name in saved["gone"]:
            del saved["settings"][name]
        settings = cls.checked(
            getattr(MODELS.get(str(saved.get("model"))), "defaults", {}) | saved["settings"]
        )
        find_plan(settings["vgg_name"], settings["plan"])
        return settings
    except (ModelError, TypeError, AttributeError) as error:
        advice = "use another copy, or add the --model FILE.py that registers what they name (in Python import FILE)"
        raise CheckpointError(
            f"{path}: its settings build no {cls.__name__} ({error}); {advice}"
        ) from None


def ignored(saved):
    """A note on the settings that settings_of() has taken out of a loaded checkpoint."""
    return f"settings that are no more, and are ignored: {', '.join(saved['gone'])}"


def kind_of(cls):
    """VGG_wFeedback or VGG_SNN_STDB_wFeedback, of which a class is derived. Raises ModelError for another."""
    kind = next((kind for kind in CLASSES[:2] if issubclass(cls, kind)), None)
    if not kind:
        raise ModelError(
            f"{cls.__name__} is not derived from {' or '.join(one.__name__ for one in CLASSES[:2])}"
        )
    return kind


def on_engine(model, engine):
    """Choose what runs a network in evaluation, in place, and return it.

    Parameters
    ----------
    model : Network
        An ANN, which only its own forward runs, or an SNN.
    engine : {"auto", "dense", "event", "reference"}
        ``auto``: event where it can run the network; else dense, and the network's
        ``stays`` has the reason. ``reference``: ``step()``, timestep by timestep.

    Returns
    -------
    Network
        The same.

    Raises
    ------
    ModelError
        If there is no such engine, or it cannot run this network, which then stays as it is.
    """
    required(Choice(assembly.ENGINE_NAMES), "engine", engine)
    if not isinstance(model, VGG_SNN_STDB_wFeedback):
        if engine == "event":
            raise ModelError(
                "the event engine runs SNNs, and this is an ANN: load with engine='dense'"
            )
        return model
    runs_it = None
    reason = None
    if engine in ("auto", "event"):
        event_engine = assembly.load_object(assembly.ENGINES["event"])
        try:
            runs_it = event_engine(model)
        except ModelError as error:
            reason = str(error)
    if engine == "event" and reason:
        raise ModelError(f"{reason}; --engine dense runs it")
    model.engine = runs_it
    model.stays = reason
    model.batched = engine != "reference"
    return model
