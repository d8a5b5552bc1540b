"""A network as one HTML file that runs it.

The page has network.c as WebAssembly, the network's weights, and ten test images to
begin with. It also has how many spikes Python counts of these images, by which it
checks itself.
"""

import base64
import ctypes
import json
from html import escape
from math import prod
from pathlib import Path
from string import Template

import numpy as np
import torch

from self_models.checkpoints.loading import load
from self_models.errors import UserError
from self_models.evaluation.operations import conventions
from self_models.running.draws import key_for
from self_models.running.outputs import part_of
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.event.build import read_structs
from wfeedback.event.tables import settings_of
from wfeedback.export.c_folder import c_tables
from wfeedback.export.c_golden import test_images

FOLDER = Path(__file__).parent / "page"
# What is drawn comes piece by piece, so pixels may open again, and the network forgets.
SETTINGS = {
    "blocking": "dynamic",
    "surprise": 8.0,
    "rule": "confidence",
    "gap_bound": 1.0,
}
PRICES = conventions()["arithmetic_45nm"]
SLEW_NOTE = """ A prediction moves by up to {} in a timestep,
so with an epsilon below half of that it may jump over its pixel for ever."""
CHECK_STEPS = 12  # timesteps of each image by which a page checks itself
PIECE_SIZE = 4096  # weights that travel in one form
# Structs of network.h, and their fields, that the page looks at.
FIELDS_READ = {
    "Tables": (),
    "Settings": ("epsilon", "gap_bound", "feedback"),
    "State": ("is_open", "prediction", "logits"),
}


def page(
    checkpoint: Path, own: type | None, weights: str = "float32", **data: object
) -> tuple[bytes, str]:
    """Write a network as a page, which streams while an image is drawn.

    Parameters
    ----------
    checkpoint : Path
        The network.
    own : type or None
        Its class, if it is somebody's own.
    weights : {"float32", "int8"}
        Form of the weights. Of float32, 16 bits travel, and the page computes with
        these.
    **data
        Which test images are taken, as `test_images` has it.

    Returns
    -------
    content : bytes
        The HTML file.
    line : str
        A line on it for the user.

    Raises
    ------
    UserError, ModelError
        For a network that no page shows.
    """
    model = load(checkpoint, engine="dense", model=own)
    check_fits_page(model, checkpoint)
    layers = describe_layers(model)
    model = load(
        checkpoint,
        engine="dense",
        model=own,
        weights=weights,
        gate="block",
        **SETTINGS,
    )
    if weights == "float32":
        round_to_16_bits(model, checkpoint)
    test = test_images(model, **data)
    images = first_of_each_class(test, model.classes)
    network = {
        "name": checkpoint.stem,
        "weights": f"weights of {16 if weights == 'float32' else 8} bits",
        "neurons": sum(prod(model.graph.shapes[name]) for name in model.layers[1:]),
        "classes": model.classes,
        "layers": layers,
        "epsilon": model.gate.epsilon,
        "bound": model.rule.gap_bound,
        "slew": model.readout.readout_slew,
        "picojoules": PRICES.picojoules["add"],
        "source": PRICES.source,
        "images": [base64_text(image.numpy()) for image in images],
        "key": key_for(0, "input"),
        "golden": golden_spikes(model, images),
        "runtime": base64_text((FOLDER / f"{weights.removesuffix('_folded')}.wasm").read_bytes()),
        **kernel_data(model),
    }
    content = fill_template(network).encode()
    return content, f"{len(content):,} bytes; open it in a browser"


def check_fits_page(model, checkpoint: Path) -> None:
    """Raise UserError for a network that no page shows."""
    is_shown = isinstance(model, VGG_SNN_STDB_wFeedback) and model.has_feedback
    if not is_shown or model.image_shape != (1, 28, 28) or len(model.classes) != 10:
        raise UserError(
            f"{checkpoint}: a page shows an SNN with a decoder, of 28 x 28 grey pixels and "
            "10 classes: try --to c"
        )
    if model.timing.is_phased:
        raise UserError(f"{checkpoint}: a page streams, which update phased does not: try --to c")


def first_of_each_class(test, classes: list[str]) -> torch.Tensor:
    """Return the first image of each of ten classes, uint8 (10, C, H, W).

    Raises
    ------
    UserError
        If there is no image of a class.
    """
    numbers = []
    for label, name in enumerate(classes):
        found = (test.labels == label).nonzero()
        if not len(found):
            raise UserError(
                f"{test.name} has no test image of class {name}, and a page shows one of each: "
                "give more test images"
            )
        numbers.append(int(found[0]))
    return test.images[numbers]


def golden_spikes(model, images: torch.Tensor) -> list:
    """Count the spikes that Python finds, by image, timestep and layer.

    One stream sees the images one after the other, each for `CHECK_STEPS` timesteps.
    """
    stream = model.stream(seed=0)
    counts = []
    for image in images:
        spikes = stream(image[None], CHECK_STEPS, frames=False).spikes_by_step
        counts.append(torch.cat([*spikes.values()], 1).int().tolist())
    return counts


@torch.no_grad()
def round_to_16_bits(model, checkpoint: Path) -> None:
    """Round a network's weights to float16, in place.

    So Python computes with the weights of the page. Biases, thresholds and leaks stay
    as they are.

    Parameters
    ----------
    model : nn.Module
        The network.
    checkpoint : Path
        Its file, for the message.

    Raises
    ------
    UserError
        For weights that float16 cannot hold, which ends at 65,504.
    """
    for value in model.parameters():
        if value.dim() > 1:
            rounded = value.half()
            if not rounded.isfinite().all():
                raise UserError(
                    f"{checkpoint} has weights beyond 65,504, which do not travel in 16 bits: "
                    "try --to c, or --weights int8"
                )
            value.copy_(rounded)


def fill_template(network: dict) -> str:
    """Return the page, filled with what it is to know of a network."""
    words = {}
    for name, value in network.items():
        if isinstance(value, (str, int, float)):
            words[name] = escape(str(value))
    words["neurons"] = f"{network['neurons']:,}"
    words["slew"] = SLEW_NOTE.format(network["slew"]) if network["slew"] else ""
    words["network"] = json.dumps(network).replace("<", r"\u003c")
    words["script"] = (FOLDER / "page.js").read_text("utf-8")
    return Template((FOLDER / "page.html").read_text("utf-8")).substitute(words)


def describe_layers(model) -> list[dict]:
    """Describe each layer for the page.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.

    Returns
    -------
    list of dict
        "name", in words; "part", as `part_of` has it; "number" within that part, from 0
        on; "forward" and "feedback", the mean number of neurons that a spike reaches
        there.
    """
    graph = model.graph
    only_decoder = {node.name for node in graph.required_nodes("decoded")}
    only_decoder -= {node.name for node in graph.required_nodes("output")}
    only_decoder.add("decoded")
    layers = []
    for node in model.layers:
        part = part_of(node)
        number = sum(layer["part"] == part for layer in layers)
        forward = 0
        feedback = 0
        for link in graph.links:
            if graph.before_pools(link.source) != node or link.target in graph.pools:
                continue
            num_reached = link.chain.reach().mean()
            if link.target in only_decoder:
                feedback += num_reached
            else:
                forward += num_reached
        layers.append(
            {
                "name": part if part == "input" else f"{part} {number + 1}",
                "part": part,
                "number": number,
                "forward": forward,
                "feedback": feedback,
            }
        )
    return layers


def kernel_data(model) -> dict:
    """Return what the kernel is given, and where the page finds what it looks at.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.

    Returns
    -------
    dict
        "block", the block of network.h in pieces, each (text, whether it travels as
        float16, which holds it exactly); "sizes" of structs and "offsets" of their
        fields, where a pointer has 32 bits.
    """
    *head, weights, names = c_tables(model, compact=True).parts(settings_of(model))
    block = [(base64_text(part), False) for part in head]
    for begin in range(0, len(weights), PIECE_SIZE):
        block.append(encode_weights(weights[begin : begin + PIECE_SIZE]))
    block.append((base64_text(names), False))
    sizes = {}
    offsets = {}
    for name, struct in read_structs(ctypes.c_uint32, ctypes.c_uint32).items():
        if name in FIELDS_READ:
            sizes[name.lower()] = ctypes.sizeof(struct)
            offsets[name.lower()] = {
                field: getattr(struct, field).offset for field in FIELDS_READ[name]
            }
    return {"block": block, "sizes": sizes, "offsets": offsets}


def encode_weights(values: np.ndarray) -> tuple[str, bool]:
    """Return weights as text, and whether as float16, if that holds them exactly."""
    with np.errstate(over="ignore"):
        short = values.astype(np.float16)
    is_short = values.dtype == np.float32 and np.array_equal(short, values)
    return base64_text(short if is_short else values), is_short


def base64_text(values: bytes | np.ndarray) -> str:
    """Return bytes as text in base 64."""
    return base64.b64encode(bytes(values)).decode()
