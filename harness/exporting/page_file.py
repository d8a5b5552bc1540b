"""A network as one HTML file that runs it: network.c as WebAssembly, its weights, ten test images to begin with, and how many
spikes Python counts of them, by which the page checks itself."""

import base64
import re
import struct
from math import prod
from pathlib import Path

import jinja2
import numpy as np
import torch

from harness import UserError
from harness.exporting.c_layout import laid_out
from harness.exporting.layers import test_images
from self_models.counting.prices import conventions
from self_models.counting.spikes import part_of
from self_models.loading import load
from self_models.running.draws import key_for
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

FOLDER = Path(__file__).parent / "page"
TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
MOST = 1_500_000  # bytes of a page
TRAVELS = {"float32": "float16", "int8": "int8"}  # kind of arithmetic -> of the weights, as load() has them
SHOWN = {"blocking": "dynamic", "surprise": 8.0, "rule": "confidence", "gap_bound": 1.0}  # what is drawn comes piece by piece
PRICES = conventions()["arithmetic_45nm"]
BLOCK = 4096  # weights that travel in one way


def page(checkpoint, own, weights="float32", **data):
    """(the file, a line on it) of a checkpoint's network, streaming while an image is drawn. weights: float32, of which 16 bits
    travel and are what the page computes with; or int8; data: see test_images. Raises UserError and ModelError for a network that
    no page shows."""
    model = load(checkpoint, engine="dense", model=own)
    is_snn, size = isinstance(model, VGG_SNN_STDB_wFeedback), (model.image_shape, len(model.classes))
    if not (is_snn and model.has_feedback) or size != ((1, 28, 28), 10):
        raise UserError(f"{checkpoint}: a page shows an SNN with a decoder, of 28 x 28 grey pixels and 10 classes: try --to c")
    if model.phased:
        raise UserError(f"{checkpoint}: a page streams, which update phased does not: try --to c")
    layers = layers_of(model)
    model = load(checkpoint, engine="dense", model=own, weights=TRAVELS[weights], gate="block", **SHOWN)
    test = test_images(model, **data)
    images = test.images[[int((test.labels == label).nonzero()[0]) for label in range(10)]]
    network = {
        "name": checkpoint.stem,
        "weights": f"weights of {8 if weights == 'int8' else 16} bits",
        "neurons": sum(map(prod, model.wiring.shapes[1 : len(layers)])),
        "classes": model.classes,
        "layers": layers,
        "epsilon": model.gate.epsilon,
        "bound": model.rule.gap_bound,
        "slew": model.readout.readout_slew,
        "picojoules": PRICES.picojoules["add"],
        "source": PRICES.source,
        "images": [text_of(image.numpy()) for image in images],
        "key": key_for(0, "input"),
        "golden": spikes_of(model, images),
        "runtime": text_of((FOLDER / f"{weights}.wasm").read_bytes()),
        "arrays": arrays_of(model),
    }
    content = TEMPLATES.get_template("page.html").render(network=network).encode()
    if len(content) > MOST:
        instead = "take a smaller network" if weights == "int8" else "--weights int8 halves it"
        raise UserError(f"the page of {checkpoint} would have {len(content):,} bytes, of {MOST:,} at most: {instead}")
    return content, f"{len(content):,} bytes; open it in a browser"


def layers_of(model):
    """Of each layer its name in words, its part, its number within that, and how many neurons a spike reaches, on average over
    the layer's places: those of the next layers (forward), and those of the decoder (feedback)."""
    wiring, layers = model.wiring, []
    for node, name in enumerate(wiring.names):
        part = part_of(name)
        number = sum(layer["part"] == part for layer in layers)
        forward, feedback = (
            sum(one.reach().mean() for one in connections if wiring.before_pools(one.source) == node)
            for connections in (wiring.forward, wiring.feedback)
        )
        name = part if part == "input" else f"{part} {number + 1}"
        layers.append({"name": name, "part": part, "number": number, "forward": forward, "feedback": feedback})
    return layers


def spikes_of(model, images, steps=12):
    """Spikes by image, step and layer of a stream that is shown these images one after the other."""
    stream = model.stream(seed=0)
    outputs = [stream(image[None], steps, frames=False) for image in images]
    return [torch.cat(list(output.spikes_by_step.values()), 1).int().tolist() for output in outputs]


def arrays_of(model):
    """What network.c calls network_NAME, of layout.h: NAME -> parts one after the other, each (text, whether it travels as
    float16, which holds it exactly). Raises UserError where there is no room for it."""
    laid = laid_out(model, compact=True)
    room = dict(re.findall(r"^#define NETWORK_(\w+) (\d+)$", (FOLDER / "weights.h").read_text(), re.M))
    if over := [f"{size:,} {name.lower()}" for name, size in laid.sizes.items() if size > int(room.get(name, size))]:
        raise UserError(f"this network is too large for a page: it has {over[0]}: try --to c")
    structs = {name: packed(getattr(laid, name).values()) for name in ("header", "settings")}
    whole = {name: [(text_of(values), False)] for name, values in structs.items()}
    plain = {name: [(text_of(getattr(laid, name)), False)] for name in ("nodes", "order", "constants")}
    return whole | plain | {"weights": [piece(laid.weights[at : at + BLOCK]) for at in range(0, len(laid.weights), BLOCK)]}


def packed(values):
    """Fields of a C struct, of 4 bytes each."""
    return b"".join(struct.pack("<f" if isinstance(value, np.floating) else "<i", value) for value in values)


def piece(values):
    with np.errstate(over="ignore"):
        short = values.astype(np.float16)
    is_short = values.dtype == np.float32 and np.array_equal(short, values)
    return text_of(short if is_short else values), is_short


def text_of(values):
    return base64.b64encode(bytes(values)).decode()
