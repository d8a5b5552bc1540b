"""A network as a folder of C99: its runtime, as it lies in c/, its weights, and a run of ten images to check it by."""

from pathlib import Path

import numpy as np
import torch

from harness.exporting.c_layout import NODE, laid_out
from self_models.running.draws import EVALUATION, Draws, key_for

TEMPLATES = Path(__file__).parent / "c"
STATIC = ("network.h", "layout.h", "network.c", "check.c", "run.c", "Makefile", "README.md")
SEED = 0  # of the input's random numbers in golden.c, and in run.c unless told otherwise
KNOWN = 1  # golden images whose potentials golden.c has, too
TOLERANCE = 1e-4  # of logits that are sums of rounded weights, as a part of 1 + their size


def files_of(model, images, numbers, compact=False):
    """File name -> text, of the folder of an SNN in evaluation. images: uint8 (B, C, H, W), which golden.c has; numbers: in their
    set, (B,). compact: see laid_out. Raises UserError and ModelError as that does."""
    laid = laid_out(model, compact)
    files = {name: (TEMPLATES / name).read_text() for name in STATIC}
    return files | {"weights.h": weights_h(laid), "weights.c": weights_c(laid), "golden.c": golden_c(model, laid, images, numbers)}


def array(kind, name, values, width=16):
    """A C array's definition. values: numbers, float32 or whole."""
    values = np.asarray(values).ravel()
    texts = ["%.8ef" % value if values.dtype.kind == "f" else str(value) for value in values.tolist()]
    lines = [", ".join(texts[i : i + width]) for i in range(0, len(texts), width)]
    return f"const {kind} {name}[] = {{\n" + ",\n".join(lines) + "\n};\n"


def fields(values):
    """A C struct's initialiser by names."""
    texts = (f".{name} = {value}" if isinstance(value, int) else f".{name} = {float(value)!r}f" for name, value in values.items())
    return "{" + ", ".join(texts) + "}"


def weights_h(laid):
    key0, key1 = key_for(SEED, "input")
    lines = ["#define NETWORK_INT8"] * (laid.weights.dtype == np.int8) + [f"#define NETWORK_{name} {value}" for name, value in laid.sizes.items()]
    lines += [f"#define NETWORK_KEY0 {key0}u", f"#define NETWORK_KEY1 {key1}u"]
    return "\n".join(["#ifndef WEIGHTS_H", "#define WEIGHTS_H", "", *lines, "", "#endif", ""])


def weights_c(laid):
    nodes = ",\n".join(fields({name: int(node[name]) for name in NODE.names}) for node in laid.nodes)
    names = " ".join(f'"{name}\\0"' for name in laid.names)
    return "\n".join([
        '#include "layout.h"\n',
        f"const Header network_header = {fields(laid.header)};",
        f"Settings network_settings = {fields(laid.settings)};",
        f"const char network_names[] = {names};",
        f"const Node network_nodes[] = {{\n{nodes}\n}};",
        array("int32_t", "network_order", laid.order),
        array("potential_t", "network_constants", laid.constants),
        array("weight_t", "network_weights", laid.weights),
    ])  # fmt: skip


@torch.no_grad()
def golden_c(model, laid, images, numbers):
    """What the model does with these images in all of its steps: pixels, key, and by image, step and layer which neurons spike,
    logits, which pixels are open, and of the first KNOWN the potentials. Neurons and pixels by row, column, channel."""
    record = dict.fromkeys(laid.names[1:], ("spikes", "membrane")) | {"input": "spikes"}
    rule = model.settings["rule"]
    try:
        output = model.change(rule="never")(images, draws=Draws(SEED, EVALUATION, torch.as_tensor(numbers)), record=record)
    finally:
        model.change(rule=rule)
    is_open = torch.ones(model.timesteps, *images.shape) if output.is_open is None else output.is_open
    bits = [words_of(is_open), *(words_of(output.recorded[name]["spikes"]) for name in laid.names)]
    potentials = [in_rows(output.recorded[name]["membrane"][:, :KNOWN]).numpy() for name in laid.names[1:]]
    kind = laid.constants.dtype
    whole = laid.weights.dtype == np.int8
    return "\n".join([
        '#include "layout.h"\n',
        f"enum {{ golden_images = {len(images)}, golden_known = {KNOWN} }};",
        f"static const double golden_tolerance = {0 if whole else TOLERANCE};",
        "static " + array("uint32_t", "golden_key", key_for(SEED, "input")),
        "static " + array("uint32_t", "golden_numbers", numbers),
        "static " + array("uint8_t", "golden_pixels", in_rows(images).numpy(), 28),
        "static " + array("uint32_t", "golden_bits", np.concatenate(bits, -1).swapaxes(0, 1)),
        "static " + array("float", "golden_logits", output.logits_by_step.transpose(0, 1).float()),
        "static " + array("potential_t", "golden_potentials", np.concatenate(potentials, -1).swapaxes(0, 1).astype(kind)),
    ])  # fmt: skip


def in_rows(values):
    """(..., C, H, W), or (T, B, N) -> (..., H W C), or (T, B, N)"""
    return values.movedim(-3, -1).flatten(-3) if values.dim() > 3 else values


def words_of(values):
    """Bools (T, B, C, H, W), or (T, B, N) -> as bits of words, uint32 (T, B, words)."""
    bits = np.packbits(in_rows(values).numpy() != 0, axis=-1, bitorder="little")
    return np.pad(bits, [(0, 0), (0, 0), (0, -bits.shape[-1] % 4)]).view(np.uint32)
