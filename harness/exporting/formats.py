"""From a checkpoint to another format: files of other programs, these scripts' own with weights of 16 bits, a page, C."""

import io
import re
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from harness import UserError
from harness.data.nir_file import how_read, typed
from harness.exporting import c_folder, page_file
from harness.exporting.c_folder import check_spiking
from harness.runs.saving import write_folder, write_whole
from self_models.basics import HOME
from self_models.engines.event.tables import settings_of
from self_models.layers.neurons import CountingMaxPool, SpikingNeuron
from self_models.layers.node_kinds import passes
from self_models.loading import load
from self_models.runtime.known_parts import check_known

STEP = 1e-4  # seconds per step that snnTorch and Norse read a time constant by
LACKS = "NIR has no transposed convolution, no gate of two signals and no rule that stops"
START = "membranes begin at initial_potential times the threshold, which NIR has no word for: set that where you read the file"
RESET = "NIR knows a reset to a value only; here the threshold is subtracted from V: set that where you read the file"
PHASED = "layers fire one after the other (update phased), which NIR has no word for; the metadata says when each fires"
ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "in_features",
    "out_features",
)  # of layers


def export(
    checkpoint,
    to,
    output="",
    overwrite=False,
    own=None,
    weights="float32",
    reading=None,
    **data,
):
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
        Which test images a format in ``RUNNING`` is tried on, as ``test_images`` has it.

    Returns
    -------
    list of str
        What to tell the user, line by line.

    Raises
    ------
    UserError, ModelError
        If the network cannot be written like that; then nothing is written.
    """
    ending, content_of = FORMATS[to]
    checkpoint, committed = Path(checkpoint), HOME / f"trained_models/snn/{checkpoint}.pth"
    path = Path(output) if output else checkpoint.with_name(checkpoint.stem + ending)
    if not checkpoint.exists() and committed.is_file():
        checkpoint = committed
    if path.exists() and checkpoint.exists() and path.samefile(checkpoint):
        raise UserError(f"--output {path} is the checkpoint itself: give another path")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: --overwrite replaces it, --output PATH keeps both")
    is_nir = checkpoint.suffix == ".nir"
    if is_nir and (to not in ("c", "block") or weights != "float32"):
        raise UserError(
            f"{checkpoint}: a NIR graph is written by --to c or --to block, in float32"
        )
    if is_nir and own:
        raise UserError(
            f"{checkpoint} is a NIR file, and --model is for checkpoints: leave it out"
        )
    asked = [f"--{name}" for name in typed(reading or {})]
    if asked and not is_nir:
        verb = "says" if len(asked) == 1 else "say"
        raise UserError(
            f"{', '.join(asked)} {verb} how a NIR file (.nir) is read, and {checkpoint} is none: "
            "leave that out"
        )
    if data and (is_nir or to not in RUNNING):
        flags = ", ".join(f"--{name}" for name in data)
        raise UserError(
            f"{flags}: only a checkpoint by --to {', '.join(RUNNING)} is tried on images: leave "
            "that out"
        )
    if is_nir:
        content_of = partial(content_of, reading=reading)
    elif to in RUNNING:
        content_of = partial(content_of, weights=weights, **data)
    elif to == "block":
        content_of = partial(content_of, weights=weights)
    elif weights != "float32":
        raise UserError(f"--weights is for --to {', '.join(RUNNING)} and block: leave it out")
    content, what, *notes = content_of(checkpoint, own)
    if isinstance(content, dict):  # of a folder
        if (
            path.is_dir()
            and any(path.iterdir())
            and not all((path / name).is_file() for name in content)
        ):
            raise UserError(f"{path} has other files in it: give a folder of its own by --output")
        write_folder(path, renamed(content, Path(output).stem or checkpoint.stem))
    else:
        write_whole(path, lambda file: file.write(content))
    return [f"wrote {path}: {what}", *notes]


def renamed(content, name):
    """Files of C in which names begin with this one, not with network, so that folders of several networks make one program."""
    lower = re.sub(r"^(?=[^a-z])", "n", re.sub(r"\W", "_", name.lower(), flags=re.ASCII))
    forms = {
        "network_": f"{lower}_",
        "NETWORK_": f"{lower.upper()}_",
        "Network": lower.title().replace("_", ""),
    }
    own = re.compile(
        r'"[^"\n]*"|\bnetwork_|\bNETWORK_|\bNetwork(?=[A-Z])'
    )  # strings, such as names of classes, stay
    return {
        file: own.sub(lambda found: forms.get(found[0], found[0]), text)
        for file, text in content.items()
    }


def block(checkpoint, own, weights="float32", reading=None):
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
        model, warned = c_folder.read_for_c(checkpoint, reading)
        settings = model.engine.settings(1)
        notes.append(how_read(model, checkpoint, reading))
        notes += [f"note: {one}" for one in warned]
    else:
        model = load(checkpoint, engine="event", model=own, weights=weights)
        settings = settings_of(model)
    content = c_folder.tables_of(model).block(settings).tobytes()
    what = f"{len(content):,} bytes, weights {weights}; network_open() of network.h reads it"
    return content, what, *notes


def forward_part(bytes_of, lacks, checkpoint, own):
    """(the file, lines on it) of a checkpoint's encoder and classifier. bytes_of(layers, facts): the file, and what is to be said
    of it; lacks: why the rest stays behind. Raises UserError for an ANN."""
    model = load(checkpoint, engine="dense", model=own)
    layers, rest = forward_layers(model), left_out(model)
    facts = {
        "source": checkpoint.name,
        **conventions(model),
        "why_left_out": lacks if rest else "nothing is",
    }
    content, *notes = bytes_of(layers, facts)
    lines = [f"left out: {', '.join(rest)} ({lacks})"] * bool(rest) + [
        f"note: {line}" for line in notes
    ]
    return content, f"encoder and classifier, {len(layers)} layers", *lines


class Layer(NamedTuple):
    """name: of the module in the checkpoint, say features.0, or flatten; module: Conv2d, AvgPool2d, MaxPool2d, Flatten, Linear
    or SpikingNeuron; before, after: shape of its input and output, without the batch."""

    name: str
    module: nn.Module
    before: tuple
    after: tuple


@torch.no_grad()
def forward_layers(model):
    """The Layers of encoder and classifier, without dropout. Raises UserError for an ANN, ModelError for an unknown part."""
    check_spiking(model)
    check_known(model, "an export")
    graph = model.graph
    if any(
        node.sources != (before.name,) for before, node in pairwise(graph.required_nodes("output"))
    ):
        raise UserError("this network has connections that no row of layers has: --to c takes it")
    return [
        Layer(node.name, node.module, graph.shapes[node.sources[0]], graph.shapes[node.name])
        for node in graph.required_nodes("output")
        if not passes(node.module)
    ]


def left_out(model):
    """What of the model is not among its forward layers, in words."""
    parts = (
        [f"the decoder with its read-out {model.settings['readout']}"]
        if model.has_feedback
        else []
    )
    parts += (
        [f"the gate {model.settings['gate']}"] if model.has_feedback and model.gate.reacts else []
    )
    return parts + ([f"the stopping rule {model.settings['rule']}"] if model.rule.stops else [])


def conventions(model):
    """How the layers are to be run, name -> text or number, for whoever reads the file."""
    settings = model.settings
    after = {
        "delayed": "one step later than charged",
        "immediate": "in the step that charges",
    }.get(
        settings["update"],
        f"in the {model.timesteps} steps after the {model.timesteps} in which the layer before fires",
    )
    floor, leak = settings["membrane_floor"], settings["output_leak"]
    held = "" if floor is None else f"; V does not fall below {-floor:g} thresholds"
    fades = "" if leak == 1 else f", of which a part of {leak:g} is kept per step"
    return {
        "timesteps": model.timesteps,
        "encoding": settings["encoding"],
        "update": settings["update"],
        "neuron": f"fires where V > threshold, {after}; then the threshold is subtracted from V{held}",
        "initial_potential": settings[
            "initial_potential"
        ],  # V before the first step, in thresholds
        "output": f"the last layer has no neurons: its output, summed over all steps{fades}, is the logits",
        "left_out": ", ".join(left_out(model)) or "nothing",
    }


def torch_file(layers, facts):
    """(the file,), for torch.load(path, weights_only=True): layers, a list of (class name, arguments); names, of the same layers
    in the checkpoint; state_dict of their nn.Sequential; and the facts, name -> text or number. A phased network's layers hand on
    spike counts of all T steps, so its biases are T times those of a step, and its maximum pools are plain."""
    described, modules, file = (
        [],
        torch.nn.Sequential(*(layer.module for layer in layers)),
        io.BytesIO(),
    )
    steps = facts["timesteps"] if facts["update"] == "phased" else 0
    for module in modules:
        if isinstance(module, SpikingNeuron):
            threshold = module.threshold.item()
            own = {"threshold": threshold, "start": module.initial_potential * threshold}
            phased = ("PhasedNeuron", {**own, "timesteps": steps})
            described.append(phased if steps else ("Neuron", {**own, "leak": module.leak.item()}))
            continue
        arguments = {name: getattr(module, name) for name in ARGUMENTS if hasattr(module, name)}
        weighs = {"bias": module.bias is not None} if hasattr(module, "weight") else {}
        kind = (
            "MaxPool2d" if steps and isinstance(module, CountingMaxPool) else type(module).__name__
        )
        described.append((kind, arguments | weighs))
    state = {
        name: value.detach().contiguous()
        for name, value in modules.named_parameters()
        if name.endswith(("weight", "bias"))
    }
    state = {
        name: value * steps if steps and name.endswith("bias") else value
        for name, value in state.items()
    }
    torch.save(
        {
            "layers": described,
            "names": [layer.name for layer in layers],
            "state_dict": state,
            **facts,
        },
        file,
    )
    return (file.getvalue(),)


def nir_bytes(layers, facts):
    """(the file's content, lines on it). facts: its metadata, name -> text or number. from_nir() reads back the same spikes."""
    import nir  # it brings HDF5

    nodes = {"input": nir.Input({"input": np.array(layers[0].before)})}
    nodes |= {
        layer.name.replace(".", "_"): node_of(layer, nir) for layer in layers
    }  # PyTorch has no dots in a name
    nodes["output"] = nir.Output({"output": np.array(layers[-1].after)})
    file, more = io.BytesIO(), {"reset": RESET, "seconds_per_step": STEP}
    nir.write(file, nir.NIRGraph(nodes, list(pairwise(nodes)), metadata={**facts, **more}))
    return (
        file.getvalue(),
        RESET,
        *[START] * bool(facts["initial_potential"]),
        *[PHASED] * (facts["update"] == "phased"),
    )


def node_of(layer, nir):
    """The NIR node of a Layer. A matrix is an Affine, since not every reader knows Linear; a neuron with a leak a LIF, whose time
    constant gives that leak in steps of STEP. Raises UserError for a maximum pool."""
    module = layer.module
    if isinstance(module, SpikingNeuron):
        values = module.threshold.item(), module.leak.item(), 1, 0
        threshold, leak, one, zero = (np.full(layer.after, value, np.float32) for value in values)
        if leak.flat[0] == 1:
            return nir.IF(r=one, v_threshold=threshold)
        return nir.LIF(
            tau=np.float32(STEP) / (1 - leak), r=1 / (1 - leak), v_leak=zero, v_threshold=threshold
        )
    if isinstance(module, nn.AvgPool2d):
        pair = np.array([module.kernel_size] * 2)
        return nir.AvgPool2d(kernel_size=pair, stride=pair, padding=np.zeros(2, int))
    if isinstance(module, nn.MaxPool2d):
        raise UserError(f"NIR has no maximum pool, which {layer.name} is: use --to torch")
    if isinstance(module, nn.Flatten):
        return nir.Flatten({"input": np.array(layer.before)}, start_dim=0, end_dim=-1)
    weight = np.ascontiguousarray(module.weight.detach().numpy())
    bias = (
        np.zeros(len(weight), weight.dtype)
        if module.bias is None
        else module.bias.detach().numpy()
    )
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


FORMATS = {  # ending of the file, what makes (its content, lines for the user) of a checkpoint's Path
    "nir": (".nir", partial(forward_part, nir_bytes, LACKS)),
    "torch": (
        "_torch.pt",
        partial(
            forward_part, torch_file, "a chain of layers has no way back from output to input"
        ),
    ),
    "block": (".snn", block),
    "page": (".html", page_file.page),
    "c": ("_c", c_folder.c_folder),  # a folder: file name -> content
    "arduino": ("_arduino", partial(c_folder.c_folder, arduino=True)),
}
RUNNING = ("page", "c", "arduino")  # formats that run the network, in float32 or int8, on images
