"""A network as a folder of C99: its runtime, its weights, and a check.

The runtime is the kernel of the event engine, as it lies in event/c. The
weights are its tables. The check runs a few inputs and compares with step(): see
c_golden.py.
"""

import ctypes
import re
import subprocess
import warnings
from math import prod
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from self_models.checkpoints.loading import load
from self_models.errors import UserError
from self_models.evaluation.evaluate import evaluate
from self_models.running.draws import key_for
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.event.build import (
    FOLDER,
    KERNEL,
    Part,
    Settings,
    State,
    failure_message,
    kernel_build,
    library,
    read_structs,
    run_compiler,
)
from wfeedback.event.engine import EventEngine
from wfeedback.event.layout import lay_out
from wfeedback.event.quantize import IntegerSNN
from wfeedback.event.tables import NODE, K, Tables, settings_of
from wfeedback.export.c_golden import (
    MOST_INPUTS,
    SEED,
    candidate_images,
    golden_c,
    golden_recordings,
    run_inputs,
    stable_inputs,
    stepwise_copy,
)
from wfeedback.export.c_text import c_array, c_comment, c_string, c_struct, size_text, wrap
from wfeedback.nir.graph_snn import GraphSNN
from wfeedback.nir.nir_file import how_read, read_nir

TEMPLATES = Path(__file__).parent / "c"
COPIED_FILES = ("check.c", "board.h", "run.c", "Makefile", "qemu.mk")  # of TEMPLATES
ARDUINO_EXAMPLE = "examples/Digits"  # of an Arduino library

# Lines that network.h gets in a network of whole numbers.
STDINT = "#include <stdint.h>\n"
SMALL = (
    "#if UINTPTR_MAX <= 0xFFFFFFFF "
    "/* memory before time: in all files of a program, whatever their flags */"
)
WHOLE_NUMBERS = f"{STDINT}\n#define NETWORK_INT8\n{SMALL}\n#define NETWORK_SMALL\n#endif\n"

ALIGNMENT_SLACK = 24  # bytes by which alignment may differ where a pointer has 32 bits
MOST_WINDOWS = 256  # windows of weights that are added at once
MOST_WINDOWS_WHOLE = 64  # the same in whole numbers
ROOMY_FLASH = 1e6  # bytes of flash that larger boards have


class Memory(NamedTuple):
    """Bytes that a network takes.

    Attributes
    ----------
    flash : int
        Weights and tables, without code.
    ram : int
        A State, where a pointer has 32 bits.
    ram_of_numbers : int
        That part of it that does not depend on the size of a pointer.
    """

    flash: int
    ram: int
    ram_of_numbers: int


def c_folder(
    checkpoint: Path,
    own: type | None,
    weights: str = "float32",
    arduino: bool = False,
    reading: dict | None = None,
    **data: object,
) -> tuple:
    """Write a network as a folder of C.

    Parameters
    ----------
    checkpoint : Path
        A checkpoint, or a NIR file.
    own : type or None
        Class of the checkpoint's network, if it is somebody's own.
    weights : str
        Form of the weights, as ``load`` has it.
    arduino : bool
        Write a library for the Arduino IDE in place of a folder with a Makefile.
    reading : dict of {str: object}, optional
        How a NIR file is to be read, as ``read_nir`` has it.
    **data
        Which test images a checkpoint's network is tried on, as ``test_images`` has it.

    Returns
    -------
    tuple
        The folder as a dict of file name -> text, then lines for the user.

    Raises
    ------
    UserError, ModelError
        If network.c cannot run the network; the message names what it does not know.
    """
    how = ""
    if checkpoint.suffix == ".nir":
        model, warned = read_for_c(checkpoint, reading)
        how = how_read(model, checkpoint, reading)
    else:
        model, warned = load_with_notes(checkpoint, own, weights)
    tables = c_tables(model)
    test = None
    if isinstance(model, GraphSNN):
        what = "recordings"
        inputs, numbers, notes = golden_recordings(model)
    else:
        what = "images"
        inputs, test, notes = candidate_images(model, **data)
        numbers = stable_inputs(model, inputs)[: MOST_INPUTS[what]]
    if not numbers:
        advice = ": take --weights int8" if what == "images" else ""
        raise UserError(
            f"in each of {len(inputs)} {what} rounding decides a spike, "
            f"so none can check C{advice}"
        )
    inputs = inputs[numbers]
    files = c_files(model, tables, inputs, numbers, checkpoint.stem, arduino, how)

    memory = memory_needed(tables)
    lines = [how] if how else []
    lines.append(
        f"memory: {size_text(memory.flash)} of flash for weights and tables, "
        f"20 to 30 kB for code; {size_text(memory.ram)} of RAM"
    )
    lines += [f"note: {warning}" for warning in warned]
    lines += notes
    if not arduino:
        lines.append(f"checked here: {check_here(files)}")
    lines.append(
        f"operations: {additions_per_input(model, inputs):,.0f} additions per {what[:-1]} "
        "(mean of golden.c)"
    )
    if leaves_out_entropy(model):
        lines.append(
            "note: int8 leaves out the rule entropy, which needs exp and log: it takes all "
            "timesteps, or ./run -b BOUND"
        )
    if arduino and memory.flash > ROOMY_FLASH:
        lines.append("note: most boards have no such flash: --weights int8 takes less")
    if weights != "float32" and test:
        accuracy = evaluate(model, test, operations=False)["accuracy"]
        of_float32 = evaluate(load(checkpoint, model=own), test, operations=False)["accuracy"]
        lines.append(
            f"accuracy on {len(test):,} test images: {accuracy:.2%} in {weights}, "
            f"{of_float32:.2%} in float32"
        )
    then = "make check, in that folder"
    if arduino:
        then = "a library for the Arduino IDE, with an example"
    return files, f"{len(files)} files, weights {weights}; {then}", *lines


# --- the network


def load_with_notes(checkpoint: Path, own: type | None, weights: str) -> tuple:
    """Load the network of a checkpoint.

    Parameters
    ----------
    checkpoint, own, weights
        As `c_folder` has them.

    Returns
    -------
    model : nn.Module
        The network.
    notes : list of str
        What ``load`` warns of, each once.
    """
    with warnings.catch_warnings(record=True, action="always") as caught:
        model = load(checkpoint, model=own, weights=weights)
    return model, list(dict.fromkeys(str(warning.message) for warning in caught))


def read_for_c(path: Path, reading: dict | None) -> tuple[GraphSNN, list[str]]:
    """Read a NIR file for C.

    Parameters
    ----------
    path : Path
        The file.
    reading : dict of {str: object} or None
        How it is to be read, as ``read_nir`` has it.

    Returns
    -------
    model : GraphSNN
        The network; the kernel runs it.
    notes : list of str
        What the user should know about it.

    Raises
    ------
    ModelError
        If the file cannot be read like that, or there is no C compiler.
    UserError
        If the kernel cannot run its neurons as the simulator does that they were read
        for.
    """
    library("float32")  # where there is no compiler, it is not the network's fault
    model, notes = read_nir(path, reading)
    if model.stays:
        reason = model.stays.removesuffix(": it runs dense")
        raise UserError(
            f"{path}: {reason}, which C does not know: it cannot be exported; "
            "wfeedback nir runs it"
        )
    return model, notes


def check_spiking(model) -> None:
    """Raise UserError for an ANN."""
    if not isinstance(model, VGG_SNN_STDB_wFeedback):
        raise UserError(
            "this checkpoint holds an ANN, which has no spiking layers: "
            "convert it with snn_wFeedback.py first"
        )


def c_tables(model, compact: bool = False) -> Tables:
    """Lay out a network for C.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback or GraphSNN
        The network.
    compact : bool
        As `lay_out` has it.

    Returns
    -------
    Tables
        As many windows are added at once as a small state has room for.

    Raises
    ------
    UserError, ModelError
        For a part of the model that the kernel does not know; the message has its name.
    """
    if not isinstance(model, GraphSNN):
        check_spiking(model)
        EventEngine(model)  # it raises for what the kernel does not know
        if model.frames:
            raise UserError(
                f"--to c takes images, and this network takes recordings of {model.frames} frames"
            )
    is_whole = isinstance(model, IntegerSNN)
    tables = lay_out(model, compact)
    windows = min(tables.header["windows"], MOST_WINDOWS_WHOLE if is_whole else MOST_WINDOWS)
    # An even number, of whole numbers at least 2: see in_pairs() in small.h.
    tables.header["windows"] = max(windows // 2 * 2, 2 if is_whole else 1)
    return tables


def leaves_out_entropy(model) -> bool:
    """Return whether the stopping rule is left out: of entropy, in whole numbers."""
    return isinstance(model, IntegerSNN) and model.settings["rule"] == "entropy"


# --- what it costs


def memory_needed(tables: Tables, whole: str = "small") -> Memory:
    """Return the memory that a network takes in C.

    Parameters
    ----------
    tables : Tables
        The network.
    whole : {"small", "int8"}
        Kind of the library for whole numbers: as on a microcontroller, or on a PC.
    """
    flash = 0
    for array in (tables.weights, tables.constants, tables.nodes, tables.order, tables.places):
        flash += array.nbytes
    kernel = library(whole if tables.weights.dtype == np.int8 else "float32")
    network = tables.network(kernel)
    size = kernel.network_size(ctypes.byref(network))
    num_nodes = tables.header["nodes"]
    num_windows = tables.header["windows"]
    ram_of_numbers = size - size_of_structs(State, Part, ctypes.c_size_t, num_nodes, num_windows)
    small = read_structs(ctypes.c_uint32, ctypes.c_uint32)
    ram = ram_of_numbers + size_of_structs(
        small["State"], small["Part"], ctypes.c_uint32, num_nodes, num_windows
    )
    return Memory(flash, ram, ram_of_numbers)


def size_of_structs(
    state: type, part: type, size_type: type, num_nodes: int, num_windows: int
) -> int:
    """Return the bytes of that in a State that depends on the size of a pointer."""
    return (
        ctypes.sizeof(state)
        + num_nodes * ctypes.sizeof(part)
        + num_windows * ctypes.sizeof(size_type)
    )


@torch.no_grad()
def additions_per_input(model, inputs: torch.Tensor) -> float:
    """Count the additions that an input takes, mean of these inputs.

    Each event that a layer is given adds as many weights as it reaches neurons, on
    average.
    """
    model, _ = stepwise_copy(model)  # all layers are called, at each step
    modules = {*model.modules()}
    chains = [chain for chain in c_tables(model).chains.values() if chain.modules[0] in modules]
    counter = EventCounter()
    for module in {chain.modules[0] for chain in chains}:
        module.register_forward_pre_hook(counter.count)
    run_inputs(model, inputs, range(len(inputs)))
    additions = 0
    for chain in chains:
        additions += counter.counts.get(chain.modules[0], 0) * chain.reach().mean()
    return additions / len(inputs)


class EventCounter:
    """Counts the values other than 0 that layers are given.

    Attributes
    ----------
    counts : dict of {nn.Module: int}
        Of each layer whose hook is `count`.
    """

    def __init__(self):
        self.counts = {}

    def count(self, module, given) -> None:
        """Count what a layer is given; a forward pre-hook."""
        num_events = (given[0] != 0).sum().item()
        self.counts[module] = self.counts.get(module, 0) + num_events


# --- the files


def c_files(
    model,
    tables: Tables,
    inputs: torch.Tensor,
    numbers: list[int],
    name: str,
    arduino: bool = False,
    how: str = "",
) -> dict[str, str]:
    """Write the files of a folder.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback or GraphSNN
        The network.
    tables : Tables
        The same.
    inputs : Tensor
        Inputs of golden.c, as `run_inputs` has them.
    numbers : list of int
        Numbers of the images in their set.
    name : str
        Name of the network.
    arduino : bool
        As `c_folder` has it.
    how : str
        How a NIR file was read, as `how_read` has it.

    Returns
    -------
    dict of {str: str}
        File name -> text.
    """
    golden, num_steps = golden_c(model, tables, inputs, numbers)
    if how:
        golden = f"{c_comment(f'What the network sends, {how}.')}\n{golden}"
    sources = {file: (FOLDER / file).read_text() for file in KERNEL}
    if tables.weights.dtype == np.int8:
        sources["network.h"] = sources["network.h"].replace(STDINT, WHOLE_NUMBERS, 1)
    sources["weights.h"] = weights_h(model, tables, num_steps, how)
    sources["weights.c"] = weights_c(tables, settings_for_c(model, num_steps))

    files = {}
    if arduino:
        for file, text in sources.items():
            files[f"src/{file}"] = text
        files[f"{ARDUINO_EXAMPLE}/golden.h"] = golden
        templates = {
            "README.md": "arduino/README.md",
            "library.properties": "arduino/library.properties",
            f"{ARDUINO_EXAMPLE}/Digits.ino": "arduino/Digits.ino",
        }
    else:
        files |= sources
        files["golden.c"] = golden
        for file in COPIED_FILES:
            files[file] = (TEMPLATES / file).read_text()
        templates = {"README.md": "README.md"}
    words = template_words(tables, name, num_steps, len(inputs), how)
    for file, template in templates.items():
        text = Template((TEMPLATES / template).read_text()).safe_substitute(words)
        files[file] = lines_for(text, isinstance(model, GraphSNN))
    return files


def template_words(
    tables: Tables, name: str, num_steps: int, num_inputs: int, how: str
) -> dict[str, object]:
    """Return the words that fill the templates."""
    memory = memory_needed(tables)
    channels, height, width = tables.shapes[0]
    reading = ""
    if how:
        sentences = (
            f"The network was {how}. `make check` compares the C with the network as it was read."
        )
        reading = wrap(sentences, 128)
    return {
        "name": name,
        "reading": reading,
        "steps": num_steps,
        "weights": tables.weights.dtype,
        "flash": size_text(memory.flash),
        "ram": size_text(memory.ram),
        "pixels": channels * height * width,
        "shape": f"{height} x {width} x {channels}",
        "count": num_inputs,
    }


def lines_for(text: str, takes_events: bool) -> str:
    """Leave out lines of a README that are for networks of the other inputs.

    Such lines begin with ``images|`` or ``events|``; what is left of them has no mark.
    """
    other = "images" if takes_events else "events"
    return re.sub(rf"^{other}\| .*\n|^\w+s\| ", "", text, flags=re.MULTILINE)


def settings_for_c(model, num_steps: int) -> Settings:
    """Return the settings with which a network begins in C."""
    if isinstance(model, GraphSNN):
        settings = model.engine.settings(num_steps)
    else:
        settings = settings_of(model)
    if leaves_out_entropy(model):
        settings.rule = K.NEVER
    return settings


def weights_h(model, tables: Tables, num_steps: int, how: str = "") -> str:
    """Write weights.h: sizes of this network, and the names of its tables.

    Parameters
    ----------
    model, tables
        The network.
    num_steps : int
        Timesteps of an input.
    how : str
        As `c_files` has it.
    """
    header = tables.header
    num_classes = prod(tables.shapes[header["output"]])
    sizes = {
        "EVENTS": int(isinstance(model, GraphSNN)),
        "PIXELS": prod(tables.shapes[0]),
        "CLASSES": num_classes,
        "LAYERS": header["layers"],
        "TIMESTEPS": num_steps,
    }
    for number, key in enumerate(key_for(SEED, "input")):
        sizes[f"KEY{number}"] = f"{key}u"
    lines = []
    if how:
        lines.append(c_comment(f"The network was {how}."))
    lines += [
        "#ifndef NETWORK_WEIGHTS_H",
        "#define NETWORK_WEIGHTS_H",
        "",
        '#include "network.h"',
        "",
    ]
    for name, value in sizes.items():
        lines.append(f"#define NETWORK_{name} {value}")
    lines += lines_of_bytes(tables)
    classes = getattr(model, "classes", [str(number) for number in range(num_classes)])
    lines.append("#define NETWORK_CLASS_NAMES { \\")
    lines += [f"    {c_string(name)}, \\" for name in classes]
    lines += [
        "}",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "extern const NetworkTables network_tables;",
        "extern const NetworkSettings network_defaults;",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def lines_of_bytes(tables: Tables) -> list[str]:
    """Return the lines of weights.h that say how much memory a State takes."""
    header = tables.header
    structs = (
        f"sizeof(NetworkState) + {header['nodes']} * sizeof(NetworkPart) + "
        f"{header['windows']} * sizeof(size_t)"
    )
    definitions = []
    for kind in ("small", "int8"):
        size = memory_needed(tables, kind).ram_of_numbers + ALIGNMENT_SLACK
        definitions.append(f"#define NETWORK_BYTES ({structs} + {size})")
    small, wide = definitions
    lines = ["/* of a State with all that it needs */"]
    if small == wide:
        lines.append(wide)
    else:
        lines += ["#ifdef NETWORK_SMALL", small, "#else", wide, "#endif"]
    return lines


def weights_c(tables: Tables, settings: Settings) -> str:
    """Write weights.c: the tables and the settings."""
    nodes = []
    for node in tables.nodes:
        nodes.append(c_struct({name: int(node[name]) for name in NODE.names}))
    names = " ".join(f'"{name}\\0"' for name in tables.names)
    has_places = len(tables.places) > 0
    parts = [
        '#include "weights.h"\n',
        f"static const char names[] = {names};",
        "static const NetworkNode node[] = {\n" + ",\n".join(nodes) + "\n};",
        "static " + c_array("int32_t", "order", tables.order),
    ]
    if has_places:
        parts.append("static " + c_array("int32_t", "places", tables.places))
    parts.append("static " + c_array("network_potential_t", "constants", tables.constants))
    parts.append("static " + c_array("network_weight_t", "weights", tables.weights))
    pointers = ["node", "order", "constants", "weights", "names"]
    if has_places:
        pointers.append("places")
    fields = tables.header | {name: name for name in pointers}
    values = {name: getattr(settings, name) for name, _ in settings._fields_}
    parts.append(f"const NetworkTables network_tables = {c_struct(fields)};")
    parts.append(f"const NetworkSettings network_defaults = {c_struct(values)};")
    parts.append("")
    return "\n".join(parts)


# --- the check


def check_here(files: dict[str, str]) -> str:
    """Build check.c of these files, and run it, on this machine.

    Returns
    -------
    str
        What it prints, or why it cannot be built.

    Raises
    ------
    UserError
        If it finds that the C is not equal.
    """
    command = [*kernel_build().command[:-2], "-O0", "-DPLAIN"]  # without -shared -fPIC
    with TemporaryDirectory() as folder:
        program = f"{folder}/check"
        sources = [f"{folder}/{name}.c" for name in ("check", "network", "weights")]
        try:
            for name, text in files.items():
                (Path(folder) / name).write_text(text)
            run_compiler(folder, [*command, "-o", program, *sources, "-lm"])
            done = subprocess.run([program], capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            return f"it cannot be checked ({failure_message(error)})"
    printed = done.stdout.strip()
    if done.returncode:
        raise UserError(f"its C is not equal to step(), a fault of this program: {printed}")
    return printed
