#!/usr/bin/env python3
"""What do the digit networks take on a microcontroller, as QEMU plays it, in int8, beside one pass of their ANN?

One JSON object per network and core: bytes of flash (weights, tables, code), RAM and stack, and instructions an image, mean of
ten test images in all timesteps; `ann_instructions`: of one pass of the ANN of the same layers in int8 (microcontroller_ann.c).
`equal`: whether each spike is that of Python. Tools: see harness/exporting/c/qemu.mk; cores without theirs are left out.
`python benchmarks/speed/microcontroller.py`: a few minutes, and nothing of it depends on the machine's speed.
"""

import json
import re
import subprocess
import sys
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.sets import load_data
from harness.exporting.c_folder import IMAGES, TEMPLATES, files_of, tables_of
from harness.exporting.layers import forward_layers
from self_models.basics import HOME
from self_models.loading import load

from torch import nn

CORES = ("m4", "m7", "m33", "rv32")
NETWORKS = [f"{name}_{kind}" for name in ("quick", "accurate", "fast", "snn") for kind in ("feedback", "baseline")]
FOUND = r"flash: (\d+) bytes; instructions an image: (\d+) \(\d+ to \d+\); RAM: (\d+) bytes, and (\d+) of stack"


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="committed ones")
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES, help="which")
    args = parser.parse_args(argv)
    images = load_data("MNIST", limit_test=IMAGES)[2].images
    for name in args.networks:
        path = HOME / f"trained_models/snn/{name}.pth"
        model = load(path, weights="int8")
        files = files_of(model, tables_of(model), images, range(IMAGES), name)
        control = ann_files(load(path, engine="dense"))
        for core in args.cores:
            if found := played(files, core):
                equal, flash, instructions, ram, stack = found
                about = {"network": name, "core": core, "timesteps": model.latency, "equal": equal, "flash": flash, "ram": ram}
                print(
                    json.dumps(
                        {**about, "stack": stack, "instructions": instructions, "ann_instructions": played(control, core)[2]}
                    )
                )


def played(files, core):
    """(all equal, bytes of flash, instructions, bytes of RAM, of stack) of a folder on a core; None without its tools."""
    with TemporaryDirectory() as folder:
        for file, text in files.items():
            (Path(folder) / file).write_text(text)
        done = subprocess.run(["make", f"qemu_{core}"], cwd=folder, capture_output=True, text=True)
    if "untried" in done.stdout:
        print(done.stdout, end="", file=sys.stderr)
        return None
    if not (found := re.search(FOUND, done.stdout)):
        raise RuntimeError(done.stdout + done.stderr)
    return "equal: " in done.stdout, *map(int, found.groups())


def ann_files(model):
    """The control's folder: its program takes the place of check.c, and what that checks is empty."""
    layers = [layer for layer in forward_layers(model) if isinstance(layer.module, nn.Conv2d | nn.Linear)]
    numbers = [numbers_of(layer) for layer in layers]
    lengths = [-(-kernel * kernel * into // 4) * 4 for _, into, _, kernel, _ in numbers]
    sizes = {
        "LAYERS": ", ".join(f"{{{', '.join(map(str, each))}}}" for each in numbers),
        "WEIGHTS": sum(length * out for length, (_, _, out, _, _) in zip(lengths, numbers, strict=True)),
        "LARGEST": max(prod(shape) for layer in layers for shape in (layer.before, layer.after)),
        "LONGEST": max(lengths),
    }
    program = Path(__file__).with_name("microcontroller_ann.c").read_text()
    texts = {"check.c": "".join(f"#define {name} {value}\n" for name, value in sizes.items()) + program}
    texts |= dict.fromkeys(("golden.c", "network.c", "weights.c", "network.h", "vectors.h", "weights.h"), "")
    return texts | {name: (TEMPLATES / name).read_text() for name in ("Makefile", "qemu.mk", "board.h")}


def numbers_of(layer):
    """side, from, to, kernel, stride of a layer of an ANN."""
    if isinstance(layer.module, nn.Linear):
        return 1, layer.module.in_features, layer.module.out_features, 1, 1
    module = layer.module
    return layer.after[1], module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0]


if __name__ == "__main__":
    run_script(main)
