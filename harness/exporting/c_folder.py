"""A network as a folder of C99: its runtime, as it lies in c/, its weights, and a run of ten images to check it by."""

from pathlib import Path

import numpy as np

from harness.exporting.c_layout import NODE, laid_out
from self_models.running.draws import EVALUATION, Draws, key_for

TEMPLATES = Path(__file__).parent / "c"
SEED = 0  # of the input's random numbers in golden.c, and in run.c unless told otherwise
KNOWN = 1  # golden images whose potentials golden.c has, too


def array(kind, name, values, width=16):
    """A C array's definition. values: numbers, float32 or whole."""
    values = np.asarray(values).ravel()
    texts = ["%.9gf" % value if "." in "%.9g" % value or "e" in "%.9g" % value else "%.9g.0f" % value for value in values.tolist()] if (
        values.dtype.kind == "f") else list(map(str, values.tolist()))  # fmt: skip
    lines = [", ".join(texts[i : i + width]) for i in range(0, len(texts), width)]
    return f"const {kind} {name}[] = {{\n" + ",\n".join(lines) + "\n};\n"


def fields(values):
    """A C struct's initialiser by names."""
    texts = (f".{name} = {value}" if isinstance(value, int) else f".{name} = {float(value)!r}f" for name, value in values.items())
    return "{" + ", ".join(texts) + "}"


def weights_h(laid, whole):
    key0, key1 = key_for(SEED, "input")
    lines = ["#define NETWORK_INT8"] * whole + [f"#define NETWORK_{name} {value}" for name, value in laid.sizes.items()]
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
