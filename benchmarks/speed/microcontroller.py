#!/usr/bin/env python3
"""What do the digit networks, in int8 and int8_folded, and NIR networks take on a microcontroller emulated by QEMU, and an ANN?

One JSON object per network, weights and core: bytes of flash (weights, tables, code), RAM and stack, and instructions, mean of
ten test images in all timesteps; `ann_...`: of one pass of the ANN of the same layers in int8 (microcontroller_ann.c). NIR
networks are float32 and run ten recordings of data/nmnist. `equal`: whether each spike is that of Python. Cores without their
tools, see harness/exporting/c/qemu.mk, are left out.
`python benchmarks/speed/microcontroller.py`: ten minutes, and nothing of it depends on the machine's speed.
"""

import json
import re
import subprocess
import sys
from functools import cache
from itertools import product
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

from torch import nn

from harness import UserError
from harness.command_line.parser import Parser
from harness.command_line.scripts import run_script
from harness.exporting.c_folder import TEMPLATES, c_files, c_tables
from harness.exporting.c_golden import stable_inputs
from harness.exporting.formats import forward_layers
from self_models.basics import HOME
from self_models.data.events import rows_in
from self_models.data.folders import labelled_recordings
from self_models.data.sets import load_data
from self_models.guests.nir.event_lists import check_recordings, event_frames
from self_models.loading import load

CORES, WEIGHTS = ("m4", "m7", "m33", "rv32"), ("int8", "int8_folded")
NETWORKS = [
    f"{name}_{kind}"
    for name in ("quick", "accurate", "fast", "snn", "tiny")
    for kind in ("feedback", "baseline")
]
COMMITTED = HOME / "trained_models/snn"
GRAPHS = [
    HOME / "examples/nmnist.nir",
    HOME.parent / "shared/data/nir/cnn_sinabs.nir",
]  # the second is somebody else's
FIGURES = re.compile(
    r"flash: (?P<flash>\d+) bytes; instructions per \w+: (?P<instructions>\d+) \(\d+ to \d+\); "
    r"RAM: (?P<ram>\d+) bytes, and (?P<stack>\d+) of stack"
)


def main(argv=None):
    parser = Parser(__doc__)
    found = [*NETWORKS, *(str(path) for path in GRAPHS if path.exists())]
    parser.add_argument(
        "--networks",
        nargs="+",
        default=found,
        metavar="NAME",
        help="committed ones, or paths of NIR files",
    )
    parser.add_argument(
        "--weights", nargs="+", choices=WEIGHTS, default=WEIGHTS, help="of committed ones"
    )
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES, help="which")
    args = parser.parse_args(argv)
    all_weights = product(args.networks, args.weights)
    for name, weights in dict.fromkeys(
        (name, "float32" if name.endswith(".nir") else one) for name, one in all_weights
    ):
        timesteps, files = files_for(name, weights)
        for core in args.cores:
            if figures := played(files, core):
                about = {"network": Path(name).name, "weights": weights, "core": core}
                control = {} if name.endswith(".nir") else ann_figures(name, core)
                print(json.dumps(about | {"timesteps": timesteps} | figures | control), flush=True)


def files_for(name, weights):
    """(timesteps, the folder's files) of a committed network, with ten test images, or of a NIR file's, with a recording of each
    class of N-MNIST."""
    model = load(name if name.endswith(".nir") else COMMITTED / f"{name}.pth", weights=weights)
    if name.endswith(".nir"):
        paths = [found[0] for found in labelled_recordings(HOME / "data/nmnist").values()]
        rows = [rows_in(each, model.graph.shape, model.dt)[0] for each in paths]
        rows, timesteps = check_recordings(rows, model.graph.shape, None)
        inputs = event_frames(rows, model.graph.shape, timesteps)
    else:
        inputs, timesteps = load_data("MNIST", limit_test=10)[2].images, model.latency
    numbers = stable_inputs(model, inputs)
    return timesteps, c_files(model, c_tables(model), inputs[numbers], numbers, Path(name).stem)


def played(files, core):
    """Whether all is equal, bytes of flash, RAM and stack, and instructions of a folder on a core; None where it is too large.
    Raises UserError without the core's tools."""
    with TemporaryDirectory() as folder:
        for file, text in files.items():
            (Path(folder) / file).write_text(text)
        done = subprocess.run(["make", f"qemu_{core}"], cwd=folder, capture_output=True, text=True)
    if "tools are missing" in done.stderr:
        raise UserError(done.stderr.splitlines()[0])
    if "untried" in done.stdout:
        print(done.stdout, end="", file=sys.stderr)
        return None
    if not (found := FIGURES.search(done.stdout)):
        raise RuntimeError(done.stdout + done.stderr)
    return {"equal": "equal: " in done.stdout} | {
        name: int(number) for name, number in found.groupdict().items()
    }


@cache
def ann_figures(name, core):
    control = ann_files(load(COMMITTED / f"{name}.pth", engine="dense"))
    figures, weights = (
        played(control, core),
        re.search(r"#define WEIGHTS (\d+)", control["check.c"])[1],
    )
    return {
        "ann_instructions": figures["instructions"],
        "ann_weights": int(weights),
        "ann_ram": figures["ram"],
    }


def ann_files(model):
    """The control's folder: its program takes the place of check.c, and what that checks is empty."""
    layers = [
        layer for layer in forward_layers(model) if isinstance(layer.module, nn.Conv2d | nn.Linear)
    ]
    numbers = [numbers_of(layer) for layer in layers]
    lengths = [-(-kernel * kernel * into // 4) * 4 for _, into, _, kernel, _ in numbers]
    sizes = {
        "LAYERS": ", ".join(f"{{{', '.join(map(str, each))}}}" for each in numbers),
        "WEIGHTS": sum(
            length * out for length, (_, _, out, _, _) in zip(lengths, numbers, strict=True)
        ),
        "LARGEST": max(prod(shape) for layer in layers for shape in (layer.before, layer.after)),
        "LONGEST": max(lengths),
    }
    program = Path(__file__).with_name("microcontroller_ann.c").read_text()
    texts = {
        "check.c": "".join(f"#define {name} {value}\n" for name, value in sizes.items()) + program
    }
    texts |= dict.fromkeys(
        ("golden.c", "network.c", "weights.c", "network.h", "vectors.h", "small.h", "weights.h"),
        "",
    )
    return texts | {
        name: (TEMPLATES / name).read_text() for name in ("Makefile", "qemu.mk", "board.h")
    }


def numbers_of(layer):
    """side, from, to, kernel, stride of a layer of an ANN."""
    module = layer.module
    if isinstance(module, nn.Linear):
        return 1, module.in_features, module.out_features, 1, 1
    return (
        layer.after[1],
        module.in_channels,
        module.out_channels,
        module.kernel_size[0],
        module.stride[0],
    )


if __name__ == "__main__":
    run_script(main)
