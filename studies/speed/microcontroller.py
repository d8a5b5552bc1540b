"""Measure what networks take on a microcontroller that QEMU emulates.

These are the digit networks, in int8 and int8_folded, networks of NIR files, and an
ANN. There is one JSON object per network, weights and core: bytes of flash (weights,
tables, code), RAM and stack, and instructions, mean of ten test images in all
timesteps; `ann_...`: of one pass of the ANN of the same layers in int8
(microcontroller_ann.c). NIR networks are float32 and run ten recordings of data/nmnist.
`equal`: whether each spike is that of Python. Cores without their tools, see
wfeedback/export/c/qemu.mk, are left out.

`python -m studies.speed.microcontroller`: ten minutes, and nothing of it depends on
the machine's speed.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from torch import nn

from self_models.checkpoints.loading import load
from self_models.data.events import rows_in
from self_models.data.folders import labelled_recordings
from self_models.data.sets import load_data
from self_models.errors import UserError
from self_models.places import HOME
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.command_line.parser import Parser
from wfeedback.command_line.scripts import run_script
from wfeedback.event.event_lists import check_recordings, event_frames
from wfeedback.export.c_folder import TEMPLATES, c_files, c_tables
from wfeedback.export.c_golden import stable_inputs
from wfeedback.export.formats import Layer, forward_layers

CORES = ("m4", "m7", "m33", "rv32")
WEIGHTS = ("int8", "int8_folded")
FAMILIES = ("quick", "accurate", "fast", "snn", "tiny")
NETWORKS = []
for family in FAMILIES:
    NETWORKS += [f"{family}_feedback", f"{family}_baseline"]
COMMITTED = HOME / "trained_models/snn"
GRAPHS = [
    HOME / "examples/nmnist.nir",
    HOME.parent / "shared/data/nir/cnn_sinabs.nir",  # somebody else's
]
EMPTY_FILES = (
    "golden.c",
    "network.c",
    "weights.c",
    "network.h",
    "vectors.h",
    "small.h",
    "weights.h",
)
FIGURES = re.compile(
    r"flash: (?P<flash>\d+) bytes; instructions per \w+: (?P<instructions>\d+) \(\d+ to \d+\); "
    r"RAM: (?P<ram>\d+) bytes, and (?P<stack>\d+) of stack"
)


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__)
    graphs = [str(path) for path in GRAPHS if path.exists()]
    parser.add_argument(
        "--networks",
        nargs="+",
        default=NETWORKS + graphs,
        metavar="NAME",
        help="committed ones, or paths of NIR files",
    )
    parser.add_argument(
        "--weights", nargs="+", choices=WEIGHTS, default=WEIGHTS, help="of committed ones"
    )
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES, help="which")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures of each network, kind of weights and core."""
    args = build_parser().parse_args(argv)
    for name in dict.fromkeys(args.networks):
        is_nir = name.endswith(".nir")
        all_weights = ["float32"] if is_nir else dict.fromkeys(args.weights)
        for weights in all_weights:
            timesteps, files = files_for(name, weights)
            for core in args.cores:
                figures = played(files, core)
                if figures is None:  # it is too large for this core
                    continue
                row = {"network": Path(name).name, "weights": weights, "core": core}
                row |= {"timesteps": timesteps, **figures}
                if not is_nir:
                    row |= ann_figures(name, core)
                print(json.dumps(row), flush=True)


def files_for(name: str, weights: str) -> tuple[int, dict[str, str]]:
    """Export a network to C, with inputs on which it checks itself.

    Parameters
    ----------
    name : str
        A committed network, which gets ten test images; or a NIR file, which gets a
        recording of each class of N-MNIST.
    weights : str
        The kind of weights.

    Returns
    -------
    timesteps : int
        How many timesteps an input takes.
    files : dict of {str: str}
        Name -> text of each file of the folder.
    """
    if name.endswith(".nir"):
        model = load(name, weights=weights)
        shape = model.graph.shape
        classes = labelled_recordings(HOME / "data/nmnist").values()
        recordings = [rows_in(paths[0], shape, model.dt)[0] for paths in classes]
        recordings, timesteps = check_recordings(recordings, shape, None)
        inputs = event_frames(recordings, shape, timesteps)
    else:
        model = load(COMMITTED / f"{name}.pth", weights=weights)
        inputs = load_data("MNIST", limit_test=10)[2].images
        timesteps = model.latency
    numbers = stable_inputs(model, inputs)
    files = c_files(model, c_tables(model), inputs[numbers], numbers, Path(name).stem)
    return timesteps, files


def played(files: Mapping[str, str], core: str) -> dict | None:
    """Run an exported folder on an emulated core.

    Parameters
    ----------
    files : mapping of {str: str}
        Name -> text of each file of the folder.
    core : str
        One of CORES.

    Returns
    -------
    dict or None
        "equal": whether all spikes are Python's; "flash", "ram" and "stack" in bytes;
        and "instructions". None where the network is too large for the core.

    Raises
    ------
    UserError
        Without the core's tools.
    RuntimeError
        With what make has printed, if it fails otherwise.
    """
    with TemporaryDirectory() as folder:
        for file, text in files.items():
            (Path(folder) / file).write_text(text)
        done = subprocess.run(["make", f"qemu_{core}"], cwd=folder, capture_output=True, text=True)
    if "tools are missing" in done.stderr:
        raise UserError(done.stderr.splitlines()[0])
    if "untried" in done.stdout:
        print(done.stdout, end="", file=sys.stderr)
        return None
    found = FIGURES.search(done.stdout)
    if not found:
        raise RuntimeError(done.stdout + done.stderr)
    figures = {"equal": "equal: " in done.stdout}
    for name, number in found.groupdict().items():
        figures[name] = int(number)
    return figures


@cache
def ann_figures(name: str, core: str) -> dict[str, int]:
    """Return what the ANN of a committed network's layers takes."""
    files = ann_files(load(COMMITTED / f"{name}.pth", engine="dense"))
    figures = played(files, core)
    weights = re.search(r"#define WEIGHTS (\d+)", files["check.c"])[1]
    return {
        "ann_instructions": figures["instructions"],
        "ann_weights": int(weights),
        "ann_ram": figures["ram"],
    }


class LayerNumbers(NamedTuple):
    """What microcontroller_ann.c needs of a layer, in the order of its struct."""

    side: int  # of the output, which is square
    inputs: int  # channels
    outputs: int
    kernel: int
    stride: int

    @property
    def weights_per_output(self) -> int:
        """Weights of an output channel, padded to whole words of four."""
        return -(-self.kernel * self.kernel * self.inputs // 4) * 4


def ann_files(model: VGG_SNN_STDB_wFeedback) -> dict[str, str]:
    """Return the control's folder.

    Its program takes the place of check.c. The files of what that would check are
    empty.
    """
    layers = []
    for layer in forward_layers(model):
        if isinstance(layer.module, nn.Conv2d | nn.Linear):
            layers.append(layer)
    numbers = [numbers_of(layer) for layer in layers]
    structs = ["{" + ", ".join(map(str, layer_numbers)) + "}" for layer_numbers in numbers]
    signal_sizes = [prod(layer.before) for layer in layers]
    signal_sizes += [prod(layer.after) for layer in layers]
    constants = {
        "LAYERS": ", ".join(structs),
        "WEIGHTS": sum(each.weights_per_output * each.outputs for each in numbers),
        "LARGEST": max(signal_sizes),
        "LONGEST": max(each.weights_per_output for each in numbers),
    }
    defines = [f"#define {name} {value}\n" for name, value in constants.items()]
    program = Path(__file__).with_name("microcontroller_ann.c").read_text()

    files = {"check.c": "".join(defines) + program}
    for name in EMPTY_FILES:
        files[name] = ""
    for name in ("Makefile", "qemu.mk", "board.h"):
        files[name] = (TEMPLATES / name).read_text()
    return files


def numbers_of(layer: Layer) -> LayerNumbers:
    """Return the numbers of a convolution or linear layer."""
    module = layer.module
    if isinstance(module, nn.Linear):
        return LayerNumbers(1, module.in_features, module.out_features, kernel=1, stride=1)
    return LayerNumbers(
        side=layer.after[1],
        inputs=module.in_channels,
        outputs=module.out_channels,
        kernel=module.kernel_size[0],
        stride=module.stride[0],
    )


if __name__ == "__main__":
    run_script(main)
