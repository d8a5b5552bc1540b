"""A network as one HTML file that runs it: network.c as WebAssembly, its weights, ten test images to begin with, and how many
spikes Python counts of them, by which the page checks itself."""

import base64
import ctypes
import json
from html import escape
from math import prod
from pathlib import Path
from string import Template

import numpy as np
import torch

from harness import UserError
from harness.exporting.c_folder import tables_of, test_images
from self_models.counting.operations import conventions
from self_models.engines.event.build import read_structs
from self_models.engines.event.tables import settings_of
from self_models.loading import load
from self_models.runtime.draws import key_for
from self_models.runtime.outputs import part_of
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

FOLDER = Path(__file__).parent / "page"
SHOWN = {
    "blocking": "dynamic",
    "surprise": 8.0,
    "rule": "confidence",
    "gap_bound": 1.0,
}  # what is drawn comes piece by piece
PRICES = conventions()["arithmetic_45nm"]
SLEW = """ A prediction moves by up to {} in a timestep,
so with an epsilon below half of that it may jump over its pixel for ever."""
CHECKED = 12  # timesteps of each image by which a page checks itself
PIECE = 4096  # weights that travel in one way
LOOKED_AT = {
    "Tables": (),
    "Settings": ("epsilon", "gap_bound", "feedback"),
    "State": ("is_open", "prediction", "logits"),
}


def page(checkpoint, own, weights="float32", **data):
    """(the file, a line on it) of a checkpoint's network, streaming while an image is drawn. weights: float32, of which 16 bits
    travel and are what the page computes with; or int8; data: see test_images. Raises UserError and ModelError for a network that
    no page shows."""
    model = load(checkpoint, engine="dense", model=own)
    is_snn, size = (
        isinstance(model, VGG_SNN_STDB_wFeedback),
        (model.image_shape, len(model.classes)),
    )
    if not (is_snn and model.has_feedback) or size != ((1, 28, 28), 10):
        raise UserError(
            f"{checkpoint}: a page shows an SNN with a decoder, of 28 x 28 grey pixels and 10 classes: try --to c"
        )
    if model.timing.is_phased:
        raise UserError(f"{checkpoint}: a page streams, which update phased does not: try --to c")
    layers = layers_of(model)
    model = load(
        checkpoint,
        engine="dense",
        model=own,
        weights=weights,
        gate="block",
        **SHOWN,
    )
    if weights == "float32":
        round_to_16_bits(model, checkpoint)
    test = test_images(model, **data)
    images = test.images[[int((test.labels == label).nonzero()[0]) for label in range(10)]]
    stream = model.stream(seed=0)
    spikes = (stream(image[None], CHECKED, frames=False).spikes_by_step for image in images)
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
        "images": [text_of(image.numpy()) for image in images],
        "key": key_for(0, "input"),
        "golden": [
            torch.cat([*by_layer.values()], 1).int().tolist() for by_layer in spikes
        ],  # by image, step and layer
        "runtime": text_of((FOLDER / f"{weights.removesuffix('_folded')}.wasm").read_bytes()),
        **kernel_of(model),
    }
    content = filled(network).encode()
    return content, f"{len(content):,} bytes; open it in a browser"


@torch.no_grad()
def round_to_16_bits(model, checkpoint):
    """Round a network's weights to float16, in place, so that the page computes with what it gets.

    Biases, thresholds and leaks stay as they are. Raises UserError for weights that float16
    cannot hold, which end at 65,504.
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


def filled(network):
    """The page of what it is to know of a network."""
    words = {
        name: escape(str(value))
        for name, value in network.items()
        if isinstance(value, (str, int, float))
    }
    words["neurons"], words["slew"] = (
        f"{network['neurons']:,}",
        SLEW.format(network["slew"]) if network["slew"] else "",
    )
    words |= {
        "network": json.dumps(network).replace("<", r"\u003c"),
        "script": (FOLDER / "page.js").read_text("utf-8"),
    }
    return Template((FOLDER / "page.html").read_text("utf-8")).substitute(words)


def layers_of(model):
    """Each layer's name in words, part, number within that, and mean of the neurons that a spike reaches, forward and back."""
    graph, layers = model.graph, []
    of_decoder = {node.name for node in graph.required_nodes("decoded")} - {
        node.name for node in graph.required_nodes("output")
    } | {"decoded"}
    for node in model.layers:
        part = part_of(node)
        number = sum(layer["part"] == part for layer in layers)
        links = [
            link
            for link in graph.links
            if graph.before_pools(link.source) == node and link.target not in graph.pools
        ]
        forward, feedback = (
            sum(
                link.chain.reach().mean() for link in links if (link.target in of_decoder) == asked
            )
            for asked in (False, True)
        )
        name = part if part == "input" else f"{part} {number + 1}"
        layers.append(
            {
                "name": name,
                "part": part,
                "number": number,
                "forward": forward,
                "feedback": feedback,
            }
        )
    return layers


def kernel_of(model):
    """What the kernel is given, and where a page finds what it looks at. block: that of network.h in pieces, each (text, whether
    it travels as float16, which holds it exactly); sizes, and offsets of fields, of structs where a pointer has 32 bits."""
    *before, weights, names = tables_of(model, compact=True).parts(settings_of(model))
    pieces = [piece(weights[at : at + PIECE]) for at in range(0, len(weights), PIECE)]
    kinds = {
        name: kind
        for name, kind in read_structs(ctypes.c_uint32, ctypes.c_uint32).items()
        if name in LOOKED_AT
    }
    return {
        "block": [*((text_of(part), False) for part in before), *pieces, (text_of(names), False)],
        "sizes": {name.lower(): ctypes.sizeof(kind) for name, kind in kinds.items()},
        "offsets": {
            kind.lower(): {name: getattr(kinds[kind], name).offset for name in LOOKED_AT[kind]}
            for kind in kinds
        },
    }


def piece(values):
    with np.errstate(over="ignore"):
        short = values.astype(np.float16)
    is_short = values.dtype == np.float32 and np.array_equal(short, values)
    return text_of(short if is_short else values), is_short


def text_of(values):
    return base64.b64encode(bytes(values)).decode()
