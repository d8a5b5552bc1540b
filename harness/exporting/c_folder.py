"""A network as a folder of C99: its runtime, as it lies in c/, its weights, and a run of a few inputs to check it by: images, or,
of a NIR graph, recordings of events."""

import copy
import ctypes
import re
import subprocess
import textwrap
import warnings
from math import prod
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import numpy as np
import torch

from harness import UserError
from harness.data.facts import check_fits, where_images_lie
from harness.data.nir_file import how_read, read_nir
from self_models.counting.evaluation import evaluate
from self_models.data.sets import load_data
from self_models.engines.event.build import (
    FOLDER,
    KERNEL,
    Part,
    State,
    failure_message,
    kernel_build,
    library,
    read_structs,
    run_compiler,
)
from self_models.engines.event.engine import EventEngine
from self_models.engines.event.layout import lay_out
from self_models.engines.event.state import in_rows
from self_models.engines.event.tables import NODE, K, settings_of
from self_models.guests.nir.graph_snn import GraphSNN
from self_models.guests.quantize import IntegerSNN
from self_models.loading import load
from self_models.runtime.draws import EVALUATION, Draws, key_for
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

TEMPLATES = Path(__file__).parent / "c"
STATIC = ("check.c", "board.h", "run.c", "Makefile", "qemu.mk")
EXAMPLE = "examples/Digits"  # of an Arduino library
STDINT = "#include <stdint.h>\n"
SMALL = "#if UINTPTR_MAX <= 0xFFFFFFFF /* memory before time: in all files of a program, whatever their flags */"
WHOLE = f"{STDINT}\n#define NETWORK_INT8\n{SMALL}\n#define NETWORK_SMALL\n#endif\n"
SEED = 0  # of the input's random numbers in golden.c, and in run.c unless told otherwise
COUNTS = {"images": 10, "recordings": 3}  # in golden.c, at most
IMAGES, RECORDINGS = 30, (12, 40)  # among which these are looked for; with so many timesteps
SHARES = (  # of the input that has events in each timestep of a random recording, how many each
    (0.02, 1),
    (0.1, 1),
    (0.5, 1),
    (0.5, 8),
)
SLACK = 24  # bytes by which alignment may differ where a pointer has 32 bits
WINDOWS, FEW_WINDOWS = (
    256,
    64,
)  # windows of weights that are added at once, at most; of whole numbers
ROOMY = 1e6  # bytes of flash that larger boards have
TOLERANCE = 1e-4  # of logits that are sums of rounded weights, as a part of 1 + their size


def c_folder(checkpoint, own, weights="float32", arduino=False, reading=None, **data):
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
    tables = tables_of(model)
    if isinstance(model, GraphSNN):
        what = "recordings"
        inputs, numbers, notes = golden_recordings(model)
        test = None
    else:
        what = "images"
        inputs, test, notes = inputs_for(model, **data)
        numbers = agreed(model, inputs)[: COUNTS[what]]
    flash, ram, _ = memory_of(tables)
    memory = f"memory: {size_of(flash)} of flash for weights and tables, 20 to 30 kB for code; {size_of(ram)} of RAM"
    notes = [memory, *[f"note: {one}" for one in warned], *notes]
    if how:
        notes.insert(0, how)
    if not numbers:
        advice = ": take --weights int8" if what == "images" else ""
        raise UserError(
            f"in each of {len(inputs)} {what} rounding decides a spike, so none can check C{advice}"
        )
    files = files_of(model, tables, inputs[numbers], numbers, checkpoint.stem, arduino, how)
    if not arduino:
        notes.append(f"checked here: {checked(files)}")
    notes.append(
        f"operations: {operations_of(model, inputs[numbers]):,.0f} additions per {what[:-1]} (mean of golden.c)"
    )
    if leaves_out_entropy(model):
        notes.append(
            "note: int8 leaves out the rule entropy, which needs exp and log: it takes all timesteps, or ./run -b BOUND"
        )
    if arduino and flash > ROOMY:
        notes.append("note: most boards have no such flash: --weights int8 takes less")
    if weights != "float32" and test:
        accuracies = [
            evaluate(each, test, operations=False)["accuracy"]
            for each in (model, load(checkpoint, model=own))
        ]
        notes.append(
            f"accuracy on {len(test):,} test images: {accuracies[0]:.2%} in {weights}, {accuracies[1]:.2%} in float32"
        )
    then = (
        "a library for the Arduino IDE, with an example"
        if arduino
        else "make check, in that folder"
    )
    return files, f"{len(files)} files, weights {weights}; {then}", *notes


def load_with_notes(checkpoint, own, weights):
    """(the network of a checkpoint, what load() warns of, each once); see c_folder."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        model = load(checkpoint, model=own, weights=weights)
    return model, list(dict.fromkeys(str(one.message) for one in caught))


def read_for_c(path, reading):
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
        If the kernel cannot run its neurons as the simulator does that they were read for.
    """
    library("float32")  # where there is no compiler, it is not the network's fault
    model, notes = read_nir(path, reading)
    if model.stays:
        reason = model.stays.removesuffix(": it runs dense")
        raise UserError(
            f"{path}: {reason}, which C does not know: it cannot be exported; wfeedback nir runs it"
        )
    return model, notes


def check_spiking(model):
    """Raises UserError for an ANN."""
    if not isinstance(model, VGG_SNN_STDB_wFeedback):
        raise UserError(
            "this checkpoint holds an ANN, which has no spiking layers: convert it with snn_wFeedback.py first"
        )


def test_images(model, dataset="", data_dir="", skip_bad=False):
    """The test ImageSet of this data set, by default the model's own. Raises UserError where it is not to be had, and for images
    or classes that are not the model's."""
    name = dataset or where_images_lie(model.settings["dataset"], model.settings)
    _, _, test = load_data(name, data_dir, image_shape=model.image_shape, skip_bad=skip_bad)
    check_fits(test, model)
    return test


def golden_recordings(model):
    """Choose random recordings of events that golden.c may have.

    Those with the fewest events are taken unless some node does not spike in them, since
    they would not show how it resets. Then those are taken in which most nodes spike.

    Parameters
    ----------
    model : GraphSNN
        Network of a NIR file.

    Returns
    -------
    recordings : Tensor of shape (B, T, *model.graph.shape), int32
        Events.
    numbers : list of int
        Recordings in which rounding decides no spike, at most ``COUNTS["recordings"]``.
    notes : list of str
        What they do not show.
    """
    recordings = random_recordings(model, *SHARES[0])
    numbers = []
    silent = model.layers
    for share, count in SHARES:
        candidates = random_recordings(model, share, count)
        chosen = agreed(model, candidates)[: COUNTS["recordings"]]
        if not chosen:
            continue
        still_silent = silent_nodes(model, candidates[chosen])
        if not numbers or len(still_silent) < len(silent):
            recordings = candidates
            numbers = chosen
            silent = still_silent
        if not silent:
            break
    notes = []
    if numbers and silent:
        notes.append(
            f"note: in the recordings of golden.c no neuron of {', '.join(silent)} spikes, so make "
            "check does not show how it resets"
        )
    return recordings, numbers, notes


def random_recordings(model, share, count):
    """Recordings (B, T, *shape), int32: so many events in this share of the input, and always in its first neuron."""
    draw = torch.Generator().manual_seed(SEED)
    has_events = torch.rand(*RECORDINGS, *model.graph.shape, generator=draw) < share
    has_events[:, :, *(0,) * len(model.graph.shape)] = True  # small inputs have events, too
    return count * has_events.to(torch.int32)


@torch.no_grad()
def silent_nodes(model, recordings):
    """Names of the nodes with neurons of which none spikes in these recordings."""
    output = output_of(by_step(model)[0], recordings, range(len(recordings)))
    return [name for name in model.layers[1:] if not output.spikes[name].any()]


def inputs_for(model, **data):
    """(images that golden.c may have, the set of test images, or None, notes). data: see test_images."""
    draw = torch.Generator().manual_seed(SEED)
    try:
        test = test_images(model, **data)
        return test.images[:IMAGES], test, []
    except UserError as error:
        if data:
            raise
        images = torch.randint(
            256, (IMAGES, *model.image_shape), dtype=torch.uint8, generator=draw
        )
        return images, None, [f"note: golden.c has random images ({error})"]


def tables_of(model, compact=False):
    """The Tables of an SNN, for C. Raises UserError or ModelError for a part of the model that the kernel does not know, by its
    name."""
    whole = isinstance(model, IntegerSNN)
    if not isinstance(model, GraphSNN):
        check_spiking(model)
        EventEngine(model)  # which raises for what the kernel does not know
        if model.frames:
            raise UserError(
                f"--to c takes images, and this network takes recordings of {model.frames} frames"
            )
    tables = lay_out(model, compact)
    windows = min(tables.header["windows"], FEW_WINDOWS if whole else WINDOWS)
    tables.header["windows"] = max(windows // 2 * 2, 1 + whole)  # even: see in_pairs() in small.h
    return tables


def leaves_out_entropy(model):
    return isinstance(model, IntegerSNN) and model.settings["rule"] == "entropy"


def by_step(model):
    """(a copy of the model that takes all timesteps, by step(), as golden.c has them; the engine of that copy, or None)"""
    model = copy.deepcopy(model)
    engine, model.engine, model.batched = model.engine, None, False
    return model if isinstance(model, GraphSNN) else model.change(rule="never"), engine


def output_of(model, inputs, numbers, record=None):
    """The SNNOutput of images, uint8 (B, C, H, W), with these numbers in their set, or of events (B, T, ...)."""
    draws = (
        {}
        if isinstance(model, GraphSNN)
        else {"draws": Draws(SEED, EVALUATION, torch.as_tensor(numbers))}
    )
    return model(inputs, record=record, **draws)


@torch.no_grad()
def agreed(model, inputs):
    """The numbers of inputs of which no spike depends on the order in which weights are added: the event engine, and whole
    layers at once, give those of step(), in timesteps, too, before which the stopping rule would end an image."""
    numbers = range(len(inputs))
    if isinstance(model, IntegerSNN):
        return [*numbers]
    (model, engine), runs = by_step(model), []
    for kernel, at_once in (
        (None, False),
        (None, True),
        (engine, True),
    ):  # step(), whole layers, events
        model.engine, model.batched = kernel, at_once
        runs.append(output_of(model, inputs, numbers))
    wanted, *others = (torch.stack([*run.spikes_by_step.values()]) for run in runs)
    return (
        torch.stack([(wanted == one).all(0).all(0) for one in others])
        .all(0)
        .nonzero()
        .flatten()
        .tolist()
    )


@torch.no_grad()
def operations_of(model, inputs):
    """Additions an input takes, mean of these: each event that a module is given adds so many weights as it reaches neurons, on
    average."""
    model, _ = by_step(model)  # all modules are called, at each step
    modules = {*model.modules()}
    chains = [chain for chain in tables_of(model).chains.values() if chain.modules[0] in modules]
    counts = dict.fromkeys((chain.modules[0] for chain in chains), 0)

    def count(module, given):
        counts[module] += (given[0] != 0).sum().item()

    for module in counts:
        module.register_forward_pre_hook(count)
    output_of(model, inputs, range(len(inputs)))
    return sum(counts[chain.modules[0]] * chain.reach().mean() for chain in chains) / len(inputs)


def files_of(model, tables, inputs, numbers, name, arduino=False, how=""):
    """File name -> text. inputs: which golden.c has, see output_of; numbers: of images in their set; arduino: see c_folder; how:
    a NIR file was read, see how_read."""
    (flash, ram, _), (channels, height, width) = memory_of(tables), tables.shapes[0]
    golden, steps = golden_c(model, tables, inputs, numbers)
    reading = ""
    if how:
        golden = f"{comment(f'What the network sends, {how}.')}\n{golden}"
        sentences = (
            f"The network was {how}. `make check` compares the C with the network as it was read."
        )
        reading = wrapped(sentences, 128)
    words = {
        "name": name,
        "reading": reading,
        "steps": steps,
        "weights": tables.weights.dtype,
        "flash": size_of(flash),
        "ram": size_of(ram),
    }
    words |= {
        "pixels": channels * height * width,
        "shape": f"{height} x {width} x {channels}",
        "count": len(inputs),
    }
    files = {file: (FOLDER / file).read_text() for file in KERNEL}
    if tables.weights.dtype == np.int8:
        files["network.h"] = files["network.h"].replace(STDINT, WHOLE, 1)
    is_graph = isinstance(model, GraphSNN)
    settings = model.engine.settings(steps) if is_graph else settings_of(model)
    settings.rule = K.NEVER if leaves_out_entropy(model) else settings.rule
    files |= {
        "weights.h": weights_h(model, tables, steps, how),
        "weights.c": weights_c(tables, settings),
    }
    if arduino:
        files = {f"src/{file}": text for file, text in files.items()} | {
            f"{EXAMPLE}/golden.h": golden
        }
        templates = {"README.md": "", "library.properties": "", "Digits.ino": f"{EXAMPLE}/"}
        filled = {there + file: TEMPLATES / "arduino" / file for file, there in templates.items()}
    else:
        files |= {"golden.c": golden, **{file: (TEMPLATES / file).read_text() for file in STATIC}}
        filled = {"README.md": TEMPLATES / "README.md"}
    other = re.compile(
        rf"^{'image' if is_graph else 'event'}s\| .*\n|^\w+s\| ", re.MULTILINE
    )  # lines of another README.md
    texts = {
        file: Template(path.read_text()).safe_substitute(words) for file, path in filled.items()
    }
    return files | {file: other.sub("", text) for file, text in texts.items()}


def checked(files):
    """What check.c of these files prints, built and run here, or why it cannot be. Raises UserError where it is not equal."""
    with TemporaryDirectory() as folder:
        program, sources = (
            f"{folder}/check",
            (f"{folder}/{name}.c" for name in ("check", "network", "weights")),
        )
        try:
            for name, text in files.items():
                (Path(folder) / name).write_text(text)
            run_compiler(
                folder,
                [*kernel_build().command[:-2], "-O0", "-DPLAIN", "-o", program, *sources, "-lm"],
            )
            done = subprocess.run([program], capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            return f"it cannot be checked ({failure_message(error)})"
    if done.returncode:
        raise UserError(
            f"its C is not equal to step(), a fault of this program: {done.stdout.strip()}"
        )
    return done.stdout.strip()


def memory_of(tables, whole="small"):
    """Bytes of (flash, without code; RAM, where a pointer has 32 bits; of that RAM what does not depend on the size of one).
    whole: the library's kind for whole numbers: small, or int8, as on a PC."""
    flash = sum(
        array.nbytes
        for array in (tables.weights, tables.constants, tables.nodes, tables.order, tables.places)
    )
    kernel = library(whole if tables.weights.dtype == np.int8 else "float32")
    network, nodes, windows = (
        tables.network(kernel),
        tables.header["nodes"],
        tables.header["windows"],
    )
    size = kernel.network_size(ctypes.byref(network))
    rest = size - sum(map(ctypes.sizeof, (State, nodes * Part, windows * ctypes.c_size_t)))
    small = read_structs(ctypes.c_uint32, ctypes.c_uint32)
    return (
        flash,
        rest
        + sum(
            map(ctypes.sizeof, (small["State"], nodes * small["Part"], windows * ctypes.c_uint32))
        ),
        rest,
    )


def size_of(count):
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def array(kind, name, values, width=16):
    """A C array's definition. values: numbers, float32 or whole."""
    values = np.asarray(values).ravel()
    texts = (
        [f"{text}f" for text in values.astype(str).tolist()]
        if values.dtype.kind == "f"
        else list(map(str, values.tolist()))
    )
    lines = [", ".join(texts[i : i + width]) for i in range(0, len(texts), width)]
    return f"const {kind} {name}[] = {{\n" + ",\n".join(lines) + "\n};\n"


def fields(values):
    """A C struct's initialiser by names."""
    texts = (
        f".{name} = {value!r}f" if isinstance(value, float) else f".{name} = {value}"
        for name, value in values.items()
    )
    return "{" + ", ".join(texts) + "}"


def quoted(text):
    """A C string of this text, in UTF-8."""
    codes = text.encode(errors="surrogateescape")
    return (
        '"'
        + "".join(
            chr(code) if 32 <= code < 127 and code not in b'"?\\' else f"\\{code:03o}"
            for code in codes
        )
        + '"'
    )


def comment(text):
    """A C comment of this text."""
    return f"/* {wrapped(text, 110, '   ')} */"


def wrapped(text, width, indent=""):
    """The text in lines of this width; flags and names stay whole. indent: of the second line and later ones."""
    return textwrap.fill(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def weights_h(model, tables, steps, how=""):
    """Sizes of this network, and the names of its tables. steps: of an input; how: see files_of."""
    header, (pixels, labels) = (
        tables.header,
        (prod(tables.shapes[n]) for n in (0, tables.header["output"])),
    )
    sizes = {
        "EVENTS": int(isinstance(model, GraphSNN)),
        "PIXELS": pixels,
        "CLASSES": labels,
        "LAYERS": header["layers"],
    }
    sizes |= {
        "TIMESTEPS": steps,
        **{f"KEY{i}": f"{key}u" for i, key in enumerate(key_for(SEED, "input"))},
    }
    parts = f"sizeof(NetworkState) + {header['nodes']} * sizeof(NetworkPart) + {header['windows']} * sizeof(size_t)"
    lines = [f"#define NETWORK_{name} {value}" for name, value in sizes.items()]
    small, wide = (
        f"#define NETWORK_BYTES ({parts} + {memory_of(tables, kind)[2] + SLACK})"
        for kind in ("small", "int8")
    )
    lines.append("/* of a State with all that it needs */")
    lines += ["#ifdef NETWORK_SMALL", small, "#else", wide, "#endif"] if small != wide else [wide]
    classes = getattr(model, "classes", map(str, range(labels)))
    lines += [
        "#define NETWORK_CLASS_NAMES { \\",
        *(f"    {quoted(name)}, \\" for name in classes),
        "}",
    ]
    guard, linkage = (
        "#ifndef NETWORK_WEIGHTS_H\n#define NETWORK_WEIGHTS_H\n",
        '#ifdef __cplusplus\nextern "C" {\n#endif',
    )
    declared = "extern const NetworkTables network_tables;\nextern const NetworkSettings network_defaults;"
    end = "#ifdef __cplusplus\n}\n#endif\n#endif\n"
    if how:
        guard = f"{comment(f'The network was {how}.')}\n{guard}"
    return "\n".join([guard, '#include "network.h"\n', *lines, "", linkage, declared, end])


def weights_c(tables, settings):
    """The tables and the settings."""
    nodes = ",\n".join(
        fields({name: int(node[name]) for name in NODE.names}) for node in tables.nodes
    )
    names = " ".join(f'"{name}\\0"' for name in tables.names)
    pointers = {
        name: name
        for name in (
            "node",
            "order",
            "constants",
            "weights",
            "names",
            *["places"] * bool(len(tables.places)),
        )
    }
    return "\n".join(
        [
            '#include "weights.h"\n',
            f"static const char names[] = {names};",
            f"static const NetworkNode node[] = {{\n{nodes}\n}};",
            "static " + array("int32_t", "order", tables.order),
            *["static " + array("int32_t", "places", tables.places)] * bool(len(tables.places)),
            "static " + array("network_potential_t", "constants", tables.constants),
            "static " + array("network_weight_t", "weights", tables.weights),
            f"const NetworkTables network_tables = {fields(tables.header | pointers)};",
            f"const NetworkSettings network_defaults = {fields({name: getattr(settings, name) for name, _ in settings._fields_})};",
            "",
        ]
    )


@torch.no_grad()
def golden_c(model, tables, inputs, numbers):
    """(what step() does with these inputs, without a stopping rule, how many timesteps): pixels of images, key, by input and
    timestep lists that end in -1, of blocked pixels, of the events that arrive, or of pixels that spike, and for each layer of
    neurons that spike; logits. Neurons and pixels by row, column, channel."""
    is_graph, names = isinstance(model, GraphSNN), tables.names
    output = output_of(by_step(model)[0], inputs, numbers, dict.fromkeys(names, "spikes"))
    steps, (first, *layers) = (
        len(output.logits_by_step),
        (output.recorded[name]["spikes"] for name in names),
    )
    blocked = torch.zeros_like(first) if output.is_open is None else ~output.is_open
    sent, shapes = (
        [inputs.transpose(0, 1) if is_graph else first, *layers],
        tables.shapes[: len(names)],
    )
    listed, counts = [], []
    for values, shape in zip([blocked, *sent], [shapes[0], *shapes], strict=True):
        listed += [*range(prod(shape)), -1]
        rows = in_rows(values.reshape(steps, len(inputs), *shape)).swapaxes(0, 1).astype(np.int32)
        counts.append(np.pad(rows, ((0, 0), (0, 0), (0, 1)), constant_values=1))
    counts, pixels = np.concatenate(counts, -1), [0] if is_graph else in_rows(inputs)
    at = counts.nonzero()
    return "\n".join(
        [
            '#include "network.h"\n',
            f"enum {{ golden_inputs = {len(inputs)} }};",
            f"static const double golden_tolerance = {TOLERANCE if tables.weights.dtype == np.float32 else 0};",
            "static " + array("uint32_t", "golden_key", key_for(SEED, "input")),
            "static " + array("uint32_t", "golden_numbers", numbers),
            "static " + array("uint8_t", "golden_pixels", pixels, 28),
            "static "
            + array("int32_t", "golden_lists", np.repeat(np.array(listed)[at[2]], counts[at])),
            "static "
            + array("float", "golden_logits", output.logits_by_step.transpose(0, 1).float()),
        ]
    ), steps
