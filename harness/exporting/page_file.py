"""A network as one HTML file that runs it: network.c as WebAssembly, its weights, ten test images to begin with, and how many spikes
Python counts of them, by which the page checks itself."""

import base64
import re
from pathlib import Path

import jinja2
import numpy as np
import torch

from harness import UserError
from harness.data.sets import load_data
from harness.exporting.c_folder import laid_out
from self_models.basics.errors import ModelError
from self_models.counting.prices import conventions
from self_models.counting.spikes import part_of
from self_models.loading import load
from self_models.running.draws import key_for

FOLDER = Path(__file__).parent / "page"
TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
MOST = 1_500_000  # bytes of a page
SHOWN = {"blocking": "dynamic", "surprise": 8.0, "rule": "confidence", "gap_bound": 1.0}  # a drawing comes in small pieces
PRICES = conventions()["arithmetic_45nm"]
BLOCK = 4096  # weights that travel in one way


def page(checkpoint, own, weights="float32"):
    """(the file, a line on it) of a checkpoint's network, left on while what is drawn changes. weights: float32, of which 16 bits
    travel and are what the page's network has; or int8. Raises UserError and ModelError for a network that no page can show."""
    network = described(network_of(checkpoint, own, weights), weights) | {"name": checkpoint.stem}
    content = TEMPLATES.get_template("page.html").render(network=network).encode()
    if len(content) > MOST:
        instead = "--weights int8 halves it" if weights == "float32" else "take a smaller network"
        raise UserError(f"the page of {checkpoint} would have {len(content):,} bytes, of {MOST:,} at most: {instead}")
    return content, f"{len(content):,} bytes; open it in a browser"


@torch.no_grad()
def network_of(checkpoint, own=None, weights="float32"):
    """The network that a page runs: of a checkpoint, with SHOWN as its settings, its weights rounded to 16 bits, or to int8."""
    int8 = {"weights": weights} if weights == "int8" else {}
    model = load(checkpoint, engine="dense", model=own, **int8)
    shape, classes = getattr(model, "image_shape", None), len(getattr(model, "classes", ()))
    if not getattr(model, "has_feedback", False) or shape != (1, 28, 28) or classes != 10:
        raise UserError(f"{checkpoint}: a page shows an SNN with a decoder, of 28 x 28 grey pixels and 10 classes: try --to c")
    for parameter in () if int8 else model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(parameter.half())
    return model.change(gate="block", **SHOWN)


def described(model, weights):
    """What a page wants to know of a network, name -> what JSON has."""
    laid, test, slew = laid_out(model, weights, compact=True), load_data(model.settings["dataset"])[2], model.settings["readout_slew"]
    room = dict(re.findall(r"^#define (\w+) (\d+)$", (FOLDER / "weights.h").read_text(), re.M))
    if over := [name for name, size in laid.sizes.items() if size > int(room.get(name, size))]:
        raise ModelError(f"this network is too large for a page, which has room for {room[over[0]]} {over[0]}: try --to c")
    chosen = [int((test.labels == label).nonzero()[0]) for label in range(10)]
    images = test.images[chosen]
    return {
        "weights": "integer weights of 8 bits" if weights == "int8" else "weights of 16 bits",
        "neurons": sum(map(np.prod, model.wiring.shapes[1 : len(model.wiring.names)])),
        "classes": list(model.classes),
        "layers": layers_of(model),
        "epsilon": model.gate.epsilon,
        "bound": model.rule.gap_bound,
        "slew": slew,
        "picojoules": PRICES.picojoules["add"],
        "source": PRICES.source,
        "images": [text_of(image.numpy()) for image in images],
        "key": key_for(0, "input"),
        "golden": spikes_of(model, images),
        "runtime": text_of((FOLDER / f"{weights}.wasm").read_bytes()),
        "arrays": {name: pieces(getattr(laid, name)) for name in ("header", "nodes", "order", "constants", "settings", "weights")},
    }


def layers_of(model):
    """Of each layer its name in words, part and number within it, and how many neurons a spike of it reaches, on average over its
    places: forward, and through the decoder."""
    wiring, layers = model.wiring, []
    for node, name in enumerate(model.wiring.names):
        part = part_of(name)
        number = sum(layer["part"] == part for layer in layers)
        reached = [sum(one.reach().mean() for one in connections if wiring.before_pools(one.source) == node)
                   for connections in (wiring.forward, wiring.feedback)]  # fmt: skip
        word = part if part == "input" else f"{part} {number + 1}"
        layers.append({"name": word, "part": part, "number": number, "forward": reached[0], "feedback": reached[1]})
    return layers


@torch.no_grad()
def spikes_of(model, images, steps=12):
    """Spikes by image, step and layer of a stream that is shown these images one after the other."""
    stream = model.stream(seed=0)
    outputs = [stream(image[None], steps, frames=False) for image in images]
    return [torch.cat(list(output.spikes_by_step.values()), 1).tolist() for output in outputs]


def pieces(values):
    """An array as (text, whether it travels as float16) of its parts one after the other: what float16 holds exactly."""
    if values.dtype != np.float32:
        return [(text_of(values), False)]
    parts = np.split(values.ravel(), range(BLOCK, values.size, BLOCK))
    half = [bool((part == part.astype(np.float16)).all()) for part in parts]
    return [(text_of(part.astype(np.float16) if short else part), short) for part, short in zip(parts, half, strict=True)]


def text_of(values):
    return base64.b64encode(bytes(values)).decode()
