"""From a checkpoint to another format.

Formats are files of other programs (NIR, PyTorch without this package), a page, a
folder of C or an Arduino library, and one block of bytes for C programs. `export`
writes them; `FORMATS` lists them.
"""

import io
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from self_models.checkpoints.loading import load
from self_models.errors import UserError
from self_models.networks.node_kinds import passes
from self_models.neurons.spiking import CountingMaxPool, SpikingNeuron
from self_models.places import HOME
from self_models.running.known_layers import check_known
from wfeedback.event.tables import settings_of
from wfeedback.export import c_folder, page_file
from wfeedback.export.c_folder import check_spiking
from wfeedback.nir.files import nir_package
from wfeedback.nir.nir_file import how_read, typed
from wfeedback.runs.saving import write_folder, write_whole

STEP = 1e-4  # seconds per step that snnTorch and Norse read a time constant by
NIR_LACKS = "NIR has no transposed convolution, no gate of two signals and no rule that stops"
TORCH_LACKS = "a chain of layers has no way back from output to input"
START_NOTE = (
    "membranes begin at initial_potential times the threshold, which NIR has no word for: "
    "set that where you read the file"
)
RESET_NOTE = (
    "NIR knows a reset to a value only; here the threshold is subtracted from V: "
    "set that where you read the file"
)
PHASED_NOTE = (
    "layers fire one after the other (update phased), which NIR has no word for; "
    "the metadata says when each fires"
)
LAYER_ARGUMENTS = (  # of PyTorch's layers
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "in_features",
    "out_features",
)


def export(
    checkpoint: Path | str,
    to: str,
    output: Path | str = "",
    overwrite: bool = False,
    own: type | None = None,
    weights: str = "float32",
    reading: dict | None = None,
    **data: object,
) -> list[str]:
    """Write a network in another format.

    Parameters
    ----------
    checkpoint : Path or str
        A checkpoint, the name of a network that came with the program, or a NIR file.
    to : str
        A name in ``FORMATS``.
    output : Path or str
        The file or folder to write; by default beside the checkpoint.
    overwrite : bool
        Replace what is there.
    own : type or None
        Class of the network, if it is somebody's own.
    weights : str
        Form of the weights, as ``load`` has it.
    reading : dict of {str: object}, optional
        How a NIR file is to be read, as ``read_nir`` has it.
    **data
        Which test images a format in ``RUNNING`` is tried on, as ``test_images`` has
        it.

    Returns
    -------
    list of str
        What to tell the user, line by line.

    Raises
    ------
    UserError, ModelError
        If the network cannot be written like that; then nothing is written.
    """
    ending, write = FORMATS[to]
    checkpoint = Path(checkpoint)
    path = Path(output) if output else checkpoint.with_name(checkpoint.stem + ending)
    committed = HOME / f"trained_models/snn/{checkpoint}.pth"
    if not checkpoint.exists() and committed.is_file():
        checkpoint = committed
    check_output(path, checkpoint, overwrite)
    if checkpoint.suffix == ".nir":
        check_nir_flags(checkpoint, to, own, weights, data)
        write = partial(write, reading=reading)
    else:
        check_checkpoint_flags(checkpoint, to, weights, reading, data)
        if to in RUNNING:
            write = partial(write, weights=weights, **data)
        elif to == "block":
            write = partial(write, weights=weights)
    content, what, *notes = write(checkpoint, own)
    if isinstance(content, dict):
        check_folder(path, content)
        write_folder(path, renamed(content, Path(output).stem or checkpoint.stem))
    else:
        write_whole(path, lambda file: file.write(content))
    return [f"wrote {path}: {what}", *notes]


# --- what is refused


def check_output(path: Path, checkpoint: Path, overwrite: bool) -> None:
    """Raise UserError if the output would replace what it may not."""
    if path.exists() and checkpoint.exists() and path.samefile(checkpoint):
        raise UserError(f"--output {path} is the checkpoint itself: give another path")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: --overwrite replaces it, --output PATH keeps both")


def check_nir_flags(checkpoint: Path, to: str, own: type | None, weights: str, data: dict) -> None:
    """Raise UserError for arguments of `export` that do not fit a NIR file."""
    if to not in ("c", "block") or weights != "float32":
        raise UserError(
            f"{checkpoint}: a NIR graph is written by --to c or --to block, in float32"
        )
    if own:
        raise UserError(
            f"{checkpoint} is a NIR file, and --model is for checkpoints: leave it out"
        )
    if data:
        refuse_data(data)


def check_checkpoint_flags(
    checkpoint: Path, to: str, weights: str, reading: dict | None, data: dict
) -> None:
    """Raise UserError for arguments of `export` that do not fit a checkpoint."""
    reading_flags = [f"--{name}" for name in typed(reading or {})]
    if reading_flags:
        verb = "says" if len(reading_flags) == 1 else "say"
        raise UserError(
            f"{', '.join(reading_flags)} {verb} how a NIR file (.nir) is read, and {checkpoint} "
            "is none: leave that out"
        )
    if data and to not in RUNNING:
        refuse_data(data)
    if weights != "float32" and to not in RUNNING and to != "block":
        raise UserError(f"--weights is for --to {', '.join(RUNNING)} and block: leave it out")


def refuse_data(data: dict) -> None:
    """Raise UserError for flags that say which images a network is tried on."""
    flags = ", ".join(f"--{name}" for name in data)
    raise UserError(
        f"{flags}: only a checkpoint by --to {', '.join(RUNNING)} is tried on images: leave "
        "that out"
    )


def check_folder(path: Path, files: dict) -> None:
    """Raise UserError if a folder has files that are not of an export like this one."""
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not all((path / name).is_file() for name in files):
        raise UserError(f"{path} has other files in it: give a folder of its own by --output")


def renamed(content: dict[str, str], name: str) -> dict[str, str]:
    """Give the names in files of C a prefix of their own in place of ``network``.

    So folders of several networks make one program. Strings, such as the names of
    classes, stay as they are.

    Parameters
    ----------
    content : dict of {str: str}
        File name -> text.
    name : str
        Name of the network.

    Returns
    -------
    dict of {str: str}
        The same files.
    """
    lower = re.sub(r"\W", "_", name.lower(), flags=re.ASCII)
    lower = re.sub(r"^(?=[^a-z])", "n", lower)  # a name in C begins with a letter
    prefixes = {
        "network_": f"{lower}_",
        "NETWORK_": f"{lower.upper()}_",
        "Network": lower.title().replace("_", ""),
    }
    found = re.compile(r'"[^"\n]*"|\bnetwork_|\bNETWORK_|\bNetwork(?=[A-Z])')
    replace = partial(replace_prefix, prefixes)
    return {file: found.sub(replace, text) for file, text in content.items()}


def replace_prefix(prefixes: dict[str, str], match: re.Match) -> str:
    """Return the new prefix for an old one; anything else, such as a string, stays."""
    return prefixes.get(match[0], match[0])


# --- one block of bytes


def block(
    checkpoint: Path, own: type | None, weights: str = "float32", reading: dict | None = None
) -> tuple:
    """Write a network as one file for C programs.

    Parameters
    ----------
    checkpoint, own, weights, reading
        As ``c_folder`` has them.

    Returns
    -------
    tuple
        The bytes that ``network_open`` of network.h takes, then lines for the user.

    Raises
    ------
    UserError, ModelError
        If network.c cannot run the network; the message names what it does not know.
    """
    notes = []
    if checkpoint.suffix == ".nir":
        model, warnings = c_folder.read_for_c(checkpoint, reading)
        settings = model.engine.settings(1)
        notes.append(how_read(model, checkpoint, reading))
        notes += [f"note: {warning}" for warning in warnings]
    else:
        model = load(checkpoint, engine="event", model=own, weights=weights)
        settings = settings_of(model)
    content = c_folder.c_tables(model).block(settings).tobytes()
    what = f"{len(content):,} bytes, weights {weights}; network_open() of network.h reads it"
    return content, what, *notes


# --- encoder and classifier alone


class Layer(NamedTuple):
    """A layer of encoder or classifier.

    Attributes
    ----------
    name : str
        Of the module in the checkpoint, say "features.0"; or "flatten".
    module : nn.Module
        Conv2d, AvgPool2d, MaxPool2d, Flatten, Linear or SpikingNeuron.
    before, after : tuple of int
        Shape of its input, and of its output, without the batch.
    """

    name: str
    module: nn.Module
    before: tuple
    after: tuple


def forward_part(content_of: Callable, lacks: str, checkpoint: Path, own: type | None) -> tuple:
    """Write encoder and classifier of a checkpoint, for formats that have no more.

    Parameters
    ----------
    content_of : callable
        Takes the layers and facts, name -> text or number; returns the bytes of the
        file, then what is to be said of it.
    lacks : str
        Why the rest stays behind.
    checkpoint, own
        As ``export`` has them.

    Returns
    -------
    tuple
        The bytes of the file, then lines for the user.

    Raises
    ------
    UserError, ModelError
        For an ANN, and for a part of the model that is not known.
    """
    model = load(checkpoint, engine="dense", model=own)
    layers = forward_layers(model)
    rest = left_out(model)
    facts = {
        "source": checkpoint.name,
        **conventions(model),
        "why_left_out": lacks if rest else "nothing is",
    }
    content, *notes = content_of(layers, facts)
    lines = []
    if rest:
        lines.append(f"left out: {', '.join(rest)} ({lacks})")
    lines += [f"note: {note}" for note in notes]
    return content, f"encoder and classifier, {len(layers)} layers", *lines


@torch.no_grad()
def forward_layers(model) -> list[Layer]:
    """Return the layers of encoder and classifier, without dropout.

    Raises
    ------
    UserError
        For an ANN, and for a network that is no row of layers.
    ModelError
        For a part of the model that is not known.
    """
    check_spiking(model)
    check_known(model, "an export")
    graph = model.graph
    nodes = graph.required_nodes("output")
    if any(node.sources != (before.name,) for before, node in pairwise(nodes)):
        raise UserError("this network has connections that no row of layers has: --to c takes it")
    layers = []
    for node in nodes:
        if not passes(node.module):
            before = graph.shapes[node.sources[0]]
            layers.append(Layer(node.name, node.module, before, graph.shapes[node.name]))
    return layers


def left_out(model) -> list[str]:
    """Return what of the model is not among its forward layers, in words."""
    parts = []
    if model.has_feedback:
        parts.append(f"the decoder with its read-out {model.settings['readout']}")
        if model.gate.reacts:
            parts.append(f"the gate {model.settings['gate']}")
    if model.rule.stops:
        parts.append(f"the stopping rule {model.settings['rule']}")
    return parts


def conventions(model) -> dict[str, object]:
    """Say how layers are to be run, name -> text or number, for readers of the file."""
    settings = model.settings
    steps = model.timesteps
    fires = f"in the {steps} steps after the {steps} in which the layer before fires"
    if settings["update"] == "delayed":
        fires = "one step later than charged"
    if settings["update"] == "immediate":
        fires = "in the step that charges"
    floor = settings["membrane_floor"]
    bound = ""
    if floor is not None:
        bound = f"; V does not fall below {-floor:g} thresholds"
    leak = settings["output_leak"]
    fades = ""
    if leak != 1:
        fades = f", of which a part of {leak:g} is kept per step"
    return {
        "timesteps": steps,
        "encoding": settings["encoding"],
        "update": settings["update"],
        "neuron": (
            f"fires where V > threshold, {fires}; then the threshold is subtracted from V{bound}"
        ),
        # V before the first step, in thresholds
        "initial_potential": settings["initial_potential"],
        "output": (
            "the last layer has no neurons: its output, summed over all steps"
            f"{fades}, is the logits"
        ),
        "left_out": ", ".join(left_out(model)) or "nothing",
    }


# --- a file for PyTorch


def torch_file(layers: list[Layer], facts: dict) -> tuple[bytes]:
    """Write a file for ``torch.load(path, weights_only=True)``.

    It holds a dict: "layers", a list of (class name, arguments); "names" of the same
    layers in the checkpoint; "state_dict" of their nn.Sequential; and the facts. A
    phased network's layers hand on spike counts of all T steps, so its biases are T
    times those of a step, and its maximum pools are plain.

    Parameters
    ----------
    layers : list of Layer
        The layers.
    facts : dict of {str: object}
        Name -> text or number.

    Returns
    -------
    tuple of bytes
        The file.
    """
    phased_steps = facts["timesteps"] if facts["update"] == "phased" else 0
    modules = nn.Sequential(*(layer.module for layer in layers))
    state = {}
    for name, value in modules.named_parameters():
        if name.endswith(("weight", "bias")):
            state[name] = value.detach().contiguous()
            if phased_steps and name.endswith("bias"):
                state[name] = state[name] * phased_steps
    content = {
        "layers": [describe_layer(module, phased_steps) for module in modules],
        "names": [layer.name for layer in layers],
        "state_dict": state,
        **facts,
    }
    file = io.BytesIO()
    torch.save(content, file)
    return (file.getvalue(),)


def describe_layer(module: nn.Module, phased_steps: int) -> tuple[str, dict]:
    """Return class name and arguments of a layer in a file for PyTorch.

    phased_steps: timesteps of each phase; 0 if the network is not phased.
    """
    if isinstance(module, SpikingNeuron):
        threshold = module.threshold.item()
        arguments = {"threshold": threshold, "start": module.initial_potential * threshold}
        if phased_steps:
            return "PhasedNeuron", {**arguments, "timesteps": phased_steps}
        return "Neuron", {**arguments, "leak": module.leak.item()}
    arguments = {}
    for name in LAYER_ARGUMENTS:
        if hasattr(module, name):
            arguments[name] = getattr(module, name)
    if hasattr(module, "weight"):
        arguments["bias"] = module.bias is not None
    if phased_steps and isinstance(module, CountingMaxPool):
        return "MaxPool2d", arguments
    return type(module).__name__, arguments


# --- a file of NIR


def nir_bytes(layers: list[Layer], facts: dict) -> tuple:
    """Write a NIR file, of which ``from_nir`` reads back the same spikes.

    Parameters
    ----------
    layers : list of Layer
        The layers.
    facts : dict of {str: object}
        Its metadata, name -> text or number.

    Returns
    -------
    tuple
        The bytes of the file, then notes for the user.
    """
    nir = nir_package()
    nodes = {"input": nir.Input({"input": np.array(layers[0].before)})}
    for layer in layers:
        name = layer.name.replace(".", "_")  # PyTorch has no dots in a name
        nodes[name] = nir_node(layer, nir)
    nodes["output"] = nir.Output({"output": np.array(layers[-1].after)})
    metadata = {**facts, "reset": RESET_NOTE, "seconds_per_step": STEP}
    file = io.BytesIO()
    nir.write(file, nir.NIRGraph(nodes, list(pairwise(nodes)), metadata=metadata))
    notes = [RESET_NOTE]
    if facts["initial_potential"]:
        notes.append(START_NOTE)
    if facts["update"] == "phased":
        notes.append(PHASED_NOTE)
    return file.getvalue(), *notes


def nir_node(layer: Layer, nir) -> object:
    """Return the NIR node of a layer.

    A matrix is an Affine, since not every reader knows Linear. A neuron with a leak is
    a LIF whose time constant gives that leak in steps of `STEP`.

    Parameters
    ----------
    layer : Layer
        The layer.
    nir : module
        The package.

    Raises
    ------
    UserError
        For a maximum pool.
    """
    module = layer.module
    if isinstance(module, SpikingNeuron):
        return nir_neuron(layer, nir)
    if isinstance(module, nn.AvgPool2d):
        size = np.array([module.kernel_size] * 2)
        return nir.AvgPool2d(kernel_size=size, stride=size, padding=np.zeros(2, int))
    if isinstance(module, nn.MaxPool2d):
        raise UserError(f"NIR has no maximum pool, which {layer.name} is: use --to torch")
    if isinstance(module, nn.Flatten):
        return nir.Flatten({"input": np.array(layer.before)}, start_dim=0, end_dim=-1)
    weight = np.ascontiguousarray(module.weight.detach().numpy())
    if module.bias is None:
        bias = np.zeros(len(weight), weight.dtype)
    else:
        bias = module.bias.detach().numpy()
    if isinstance(module, nn.Linear):
        return nir.Affine(weight, bias)
    return nir.Conv2d(
        layer.before[1:],
        weight,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
        bias,
    )


def nir_neuron(layer: Layer, nir) -> object:
    """Return the NIR node of a layer of neurons: an IF, or a LIF if they leak."""
    threshold = np.full(layer.after, layer.module.threshold.item(), np.float32)
    leak = np.full(layer.after, layer.module.leak.item(), np.float32)
    if leak.flat[0] == 1:
        return nir.IF(r=np.ones_like(leak), v_threshold=threshold)
    return nir.LIF(
        tau=np.float32(STEP) / (1 - leak),
        r=1 / (1 - leak),
        v_leak=np.zeros_like(leak),
        v_threshold=threshold,
    )


# Ending of the file, or folder, and what makes of a checkpoint, and the class of its
# network, the content and lines for the user. The content is bytes; of a folder file
# name -> text.
FORMATS = {
    "nir": (".nir", partial(forward_part, nir_bytes, NIR_LACKS)),
    "torch": ("_torch.pt", partial(forward_part, torch_file, TORCH_LACKS)),
    "block": (".snn", block),
    "page": (".html", page_file.page),
    "c": ("_c", c_folder.c_folder),
    "arduino": ("_arduino", partial(c_folder.c_folder, arduino=True)),
}
RUNNING = ("page", "c", "arduino")  # formats that run the network, in float32 or int8, on images
