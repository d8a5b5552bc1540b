"""A trained network from its file, ready to use: load(path)."""

import os
import warnings
from pathlib import Path

import torch
from torch import nn

from self_models import plugins
from self_models.checkpoints.files import CheckpointError, load_checkpoint, may_hold, restore
from self_models.errors import ModelError
from self_models.networks.architectures import get_architecture
from self_models.running.known_layers import names_of_added_tensors
from self_models.settings import Choice, Registry, required
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
KINDS = CLASSES[:2]  # of one of these every network is derived
MODELS = Registry("network")  # name in a checkpoint -> class
MODELS.update({cls.__name__: cls for cls in CLASSES})
MODELS.offer(plugins.MODELS)
WEIGHTS = ("float32", *plugins.WEIGHTS)  # forms of weights, see load()


def load(
    path: str | os.PathLike,
    engine: str = "auto",
    device: str | torch.device = "cpu",
    model: type[nn.Module] | None = None,
    weights: str = "float32",
    **changed: object,
) -> nn.Module:
    """Load a trained network, ready to use.

    Parameters
    ----------
    path : str or Path
        The file: a checkpoint (``.pth``), or a NIR file (``.nir``), for which `load`
        takes the arguments of ``from_nir``.
    engine : {"auto", "dense", "event", "reference"}, default "auto"
        What runs an SNN in evaluation. "event": the event engine, which visits only the
        neurons that a spike reaches, on the CPU and with a C compiler; see
        docs/explanation/event_engine.md. "dense": PyTorch, which computes each layer
        for many timesteps at once where that is possible. "reference": the network's
        ``step()``, one timestep after the other. "auto": the event engine if it
        supports the network, else the dense one. Training, and gradients with respect
        to images, are always dense.
    device : str or torch.device, default "cpu"
        Where the network lies. On a GPU the figures equal the CPU's up to rounding, if
        ``torch.backends.cudnn.allow_tf32`` is False.
    model : type, optional
        A class of your own, derived from VGG_wFeedback or VGG_SNN_STDB_wFeedback:
        either the class that was saved, or one that is to take the weights of an
        ordinary network. Weights that only your class has keep their initial values.
    weights : {"float32", "int8", "int8_folded"}, default "float32"
        Form of an SNN's weights. "int8": integers of 8 bits. "int8_folded": the same,
        with each strided convolution merged into the convolution behind it.
    **changed : object
        Settings that replace the checkpoint's, for example timesteps=50 or epsilon=0.1;
        `SNNConfig` has their names. A gate, rule or read-out of your own is passed as
        an object (gate=MyGate(epsilon=0.1)), neurons as a class (neuron=MyNeuron). What
        the checkpoint says of that part then has no effect.

    Returns
    -------
    nn.Module
        The ANN or SNN with the settings, weights, thresholds and leaks of the file, in
        evaluation mode.

    Raises
    ------
    ModelError
        If a setting has no such value, or the engine does not support the network.
    CheckpointError
        If the file cannot be used. It is a kind of ModelError.
    """
    load_other_kind = plugins.FILES.get(Path(path).suffix)
    if load_other_kind is not None:
        load_file = plugins.load_object(load_other_kind)
        return load_file(path, engine, device, model, weights, **changed)

    saved = load_checkpoint(path)
    check_loadable(path, saved, changed)
    network = build_network(path, saved, model, changed)
    if saved["gone"]:
        warnings.warn(f"{path}: {ignored(saved)}", RuntimeWarning, stacklevel=2)
    restore_weights(network, path, saved)
    if "leak" in changed:  # the weights have brought that of the checkpoint
        network.set_leak(changed["leak"])
    network.eval()
    network = with_weights(network, weights)
    network = on_engine(network.to(device), engine)

    # A missing compiler is worth a warning, since the user can install one. All other
    # reasons follow from the network, which says them in `stays`.
    is_on_cpu = torch.device(device).type == "cpu"
    fallback_reason = getattr(network, "stays", None)
    if engine == "auto" and is_on_cpu and fallback_reason:
        event_engine = plugins.load_object(plugins.ENGINES["event"])
        if not event_engine.has_compiler():
            warnings.warn(f"runs dense: {fallback_reason}", RuntimeWarning, stacklevel=2)
    return network


def build_network(
    path: str | os.PathLike, saved: dict, model: type[nn.Module] | None, changed: dict
) -> nn.Module:
    """Build the network that a checkpoint's settings describe, with new weights.

    Parameters
    ----------
    path : str or Path
        Where the checkpoint came from.
    saved : dict
        The checkpoint. Its "gone" then has settings that are no more.
    model : type, optional
        A class of one's own, instead of the checkpoint's.
    changed : dict of {str: object}
        Settings that are to be others, and parts of one's own; see `load`.

    Returns
    -------
    nn.Module

    Raises
    ------
    ModelError
        If the settings make no network, or one of ``changed`` has no effect.
    """
    saved_class = network_class(path, saved, model)
    cls = model or saved_class
    changed = dict(changed)
    neuron = changed.pop("neuron", None)
    plain, own_parts = cls.separate_parts(changed)
    check_own_parts(path, saved, cls, neuron, own_parts)
    settings = cls.checked(network_settings(path, saved, cls, own_parts) | plain)
    cls.check_in_force(plain.keys(), settings)

    arguments = dict(settings)
    for name in cls.names_of_parts(own_parts):
        arguments.pop(name, None)  # the object says it
    arguments |= own_parts
    if neuron is not None:
        arguments["neuron"] = neuron
    with torch.random.fork_rng(devices=[]):  # new weights leave the caller's generator alone
        return cls(**arguments)


def restore_weights(network: nn.Module, path: str | os.PathLike, saved: dict) -> None:
    """Give a network the weights of a checkpoint.

    An ordinary network's weights may lack what a class of somebody's own has added,
    which then stays as the class has made it.

    Raises
    ------
    CheckpointError
        If they do not fit.
    """
    name = str(saved.get("model") or type(network).__name__)
    may_lack = ()
    if name in MODELS:
        may_lack = names_of_added_tensors(network)
    restore(network, saved, path, may_lack)


def check_loadable(path: str | os.PathLike, saved: dict, changed: dict) -> None:
    """Raise ModelError if ``load`` cannot build a network from a checkpoint.

    Parameters
    ----------
    path : str or Path
        Where the checkpoint came from.
    saved : dict
        The checkpoint.
    changed : dict of {str: object}
        Settings that the caller wants to be others.
    """
    if "settings" not in saved:
        raise CheckpointError(
            f"{path} holds weights without the settings of their network, as files of the "
            "original do: give it to snn_wFeedback.py as --pretrained_snn or --pretrained_ann, "
            "with the flags (-a, --fc_width, ...) it was trained with"
        )
    if "default_threshold" in changed:
        raise ModelError(
            "default_threshold: the checkpoint has thresholds of its own; change them with "
            "set_thresholds"
        )


def check_own_parts(
    path: str | os.PathLike,
    saved: dict,
    cls: type[nn.Module],
    neuron: type | None,
    given: dict[str, object],
) -> None:
    """Raise CheckpointError if a checkpoint has parts that are not known here.

    Parameters
    ----------
    path : str or Path
        Where the checkpoint came from.
    saved : dict
        The checkpoint. The name of the neurons is taken out of its settings.
    cls : type
        Class of the network, which may name the neurons, too.
    neuron : type, optional
        The class of neurons that is given. It must be the one that the checkpoint
        names.
    given : dict of {str: object}
        Other parts that take the place of the checkpoint's, by their kind.
    """
    for kind, name in unregistered_parts(saved["settings"], cls).items():
        is_given = kind in given
        if kind == "neuron" and neuron is not None:
            is_given = neuron.__name__ == name
        if not is_given:
            raise unknown_part_error(path, kind, name)
    saved["settings"].pop("neuron", None)


def unregistered_parts(settings: dict[str, object], cls: type[nn.Module]) -> dict[str, str]:
    """Find parts in a checkpoint's settings that nobody has registered.

    Parameters
    ----------
    settings : dict of {str: object}
        The checkpoint's.
    cls : type
        Class of the network.

    Returns
    -------
    dict of {str: str}
        "gate", "rule", "readout" or "neuron" -> the name of its class.
    """
    found = {}
    for kind, registry in cls.parts.items():
        name = settings.get(kind)
        if isinstance(name, str) and name not in registry:
            found[kind] = name
    neuron = settings.get("neuron")
    class_neuron = getattr(cls, "Neuron", None)
    if neuron is not None and neuron != getattr(class_neuron, "__name__", None):
        found["neuron"] = neuron
    return found


def unknown_part_error(path: str | os.PathLike, kind: str, name: str) -> CheckpointError:
    """Return the error for a part that a checkpoint names and nobody has registered."""
    file = "FILE.py that registers it (in Python import FILE)"
    part = f"{kind}={name}(...)"
    if kind == "neuron":  # a class, which a network names and nobody registers
        file = "FILE.py:CLASS of a network with it"
        part = f"{kind}={name}"
    return CheckpointError(
        f"{path} has a {kind} of somebody's own, {name}, which nobody has registered: add the "
        f"--model {file}, or pass it, as load(path, {part}) and new_snn(args, {part}) take it"
    )


@torch.no_grad()
def with_weights(model: nn.Module, weights: str) -> nn.Module:
    """Return the model, or another one, with its weights in this form; see load()."""
    required(Choice(WEIGHTS), "weights", weights)
    if weights == "float32":
        return model
    quantize = plugins.load_object(plugins.WEIGHTS[weights])
    return quantize(model)


def load_known(path: str | os.PathLike, own: type[nn.Module] | None = None) -> dict:
    """Read a checkpoint, and check that its settings are those of a network known here.

    Parameters
    ----------
    path : str or Path
        The file. One without settings, as the original has them, is not checked.
    own : type, optional
        See `network_class`.

    Returns
    -------
    dict
        As `load_checkpoint` returns it; with settings also "gone", see
        `network_settings`, and "own_parts", see `take_own_parts`.

    Raises
    ------
    CheckpointError
        If the file cannot be used, or its settings make no network that is known.
    """
    saved = load_checkpoint(path)
    if "settings" in saved:
        cls = network_class(path, saved, own)
        saved["own_parts"] = take_own_parts(saved["settings"], cls)
        network_settings(path, saved, cls)
    return saved


def take_own_parts(settings: dict[str, object], cls: type[nn.Module]) -> dict[str, str]:
    """Take parts that nobody has registered out of a checkpoint's settings.

    They were passed to the network as objects, so their fields are not known here, and
    are taken out, too.

    Parameters
    ----------
    settings : dict of {str: object}
        The checkpoint's. Changed in place.
    cls : type
        Class of the network.

    Returns
    -------
    dict of {str: str}
        "gate", "rule", "readout" or "neuron" -> the name of its class.
    """
    own_parts = unregistered_parts(settings, cls)
    for kind in own_parts:
        del settings[kind]
    settings.pop("neuron", None)
    if own_parts:
        for name in settings.keys() - cls.known_settings().keys():
            del settings[name]
    return own_parts


def check_parts(path: str | os.PathLike, saved: dict, model: nn.Module) -> None:
    """Raise CheckpointError if a network lacks a part that a checkpoint names.

    Parameters
    ----------
    path : str or Path
        Where the checkpoint came from.
    saved : dict
        The checkpoint, as `load_known` returns it.
    model : nn.Module
        The network that is to have its weights.
    """
    for kind, name in saved.get("own_parts", {}).items():
        if model.settings.get(kind) != name:
            raise unknown_part_error(path, kind, name)


def network_class(
    path: str | os.PathLike, saved: dict, own: type[nn.Module] | None = None
) -> type[nn.Module]:
    """Find the class of a checkpoint's network.

    Parameters
    ----------
    path : str or Path
        Where the checkpoint came from.
    saved : dict
        The checkpoint.
    own : type, optional
        A class of somebody's own, which the network may be of, or which takes the place
        of its class.

    Returns
    -------
    type
        ``own`` if the checkpoint names it, else the class of this program that it
        names.

    Raises
    ------
    CheckpointError
        If the network is of none of ours and not of ``own``, or if one is an ANN and
        the other an SNN.
    ModelError
        If ``own`` cannot be a network's class.
    """
    own_kind = kind_of(own) if own else None
    # Early files do not name a class.
    usual_class = VGG_wFeedback if "ANN" in may_hold(saved) else VGG_SNN_STDB_wFeedback
    name = str(saved.get("model") or usual_class.__name__)[:40]
    cls = own if own and name == own.__name__ else MODELS.get(name)
    if not cls:
        raise CheckpointError(
            f"{path} holds {name!r}, a network of somebody's own: --model FILE.py:{name}, "
            f"or load(path, model={name})"
        )
    if own and not issubclass(cls, own_kind):
        raise CheckpointError(
            f"{path} holds {name!r}, and {own.__name__} is derived from {own_kind.__name__}"
        )
    return cls


def network_settings(
    path: str | os.PathLike,
    saved: dict,
    cls: type[nn.Module],
    own_parts: dict[str, object] | None = None,
) -> dict:
    """Return all settings of a checkpoint's network.

    Settings that are no more are taken out of ``saved["settings"]``, and their names
    are put into ``saved["gone"]``.

    Parameters
    ----------
    path : str or Path
        Where the checkpoint came from.
    saved : dict
        The checkpoint. Changed in place.
    cls : type
        Class of the network.
    own_parts : dict of {str: object}, optional
        Parts that take the place of the checkpoint's, by "gate", "rule" or "readout".

    Returns
    -------
    dict of {str: object}
        The checkpoint's, and defaults for those that it does not have.

    Raises
    ------
    CheckpointError
        If they make no network of this class.
    """
    try:
        for name in cls.names_of_parts(own_parts or {}):
            saved["settings"].pop(name, None)
        saved["gone"] = sorted(saved["settings"].keys() - cls.known_settings().keys())
        for name in saved["gone"]:
            del saved["settings"][name]
        # The class that trained it has the say, where it is not the one that runs it.
        saved_class = MODELS.get(str(saved.get("model")))
        defaults = getattr(saved_class, "defaults", {})
        settings = cls.checked(defaults | saved["settings"])
        get_architecture(settings["vgg_name"], settings["plan"])
        return settings
    except (ModelError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its settings build no {cls.__name__} ({error}); use another copy, or add "
            "the --model FILE.py that registers what they name (in Python import FILE)"
        ) from None


def ignored(saved: dict) -> str:
    """Say which settings `network_settings` has taken out of a checkpoint."""
    return f"settings that are no more, and are ignored: {', '.join(saved['gone'])}"


def kind_of(cls: type) -> type[nn.Module]:
    """Return VGG_wFeedback or VGG_SNN_STDB_wFeedback, from which a class is derived.

    Raises
    ------
    ModelError
        If it is derived from neither.
    """
    for kind in KINDS:
        if issubclass(cls, kind):
            return kind
    names = " or ".join(kind.__name__ for kind in KINDS)
    raise ModelError(f"{cls.__name__} is not derived from {names}")


def on_engine(model: nn.Module, engine: str) -> nn.Module:
    """Choose what runs a network in evaluation, in place, and return it.

    Parameters
    ----------
    model : nn.Module
        An ANN, which only its own forward runs, or an SNN.
    engine : {"auto", "dense", "event", "reference"}
        ``auto``: event where it can run the network; else dense, and the network's
        ``stays`` has the reason. ``reference``: ``step()``, timestep by timestep.

    Returns
    -------
    nn.Module
        The same.

    Raises
    ------
    ModelError
        If there is no such engine, or it cannot run this network, which then stays as
        it is.
    """
    required(Choice(plugins.ENGINE_NAMES), "engine", engine)
    if not isinstance(model, VGG_SNN_STDB_wFeedback):
        if engine == "event":
            raise ModelError(
                "the event engine runs SNNs, and this is an ANN: load with engine='dense'"
            )
        return model
    runner = None
    reason = None
    if engine in ("auto", "event"):
        event_engine = plugins.load_object(plugins.ENGINES["event"])
        try:
            runner = event_engine(model)
        except ModelError as error:
            reason = str(error)
    if engine == "event" and reason:
        raise ModelError(f"{reason}; --engine dense runs it")
    model.engine = runner
    model.stays = reason
    model.batched = engine != "reference"
    return model
