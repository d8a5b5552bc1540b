"""A network as a folder of C99: its runtime, as it lies in c/, its weights, and a run of ten images to check it by."""

import ctypes
from contextlib import contextmanager
from math import prod
from pathlib import Path
from string import Template

import numpy as np
import torch

from harness import UserError
from harness.exporting.layers import check_spiking, test_images
from harness.runs.run import progress_bar
from self_models.basics.images import checked_images
from self_models.counting.evaluation import evaluate_parts
from self_models.integers import IntegerSNN
from self_models.kernel.build import FOLDER, Part, State, library, structs
from self_models.kernel.layout import lay_out
from self_models.kernel.state import in_rows
from self_models.kernel.tables import NODE, NUMBERS, settings_of, unknown_part
from self_models.loading import load
from self_models.network.known import check_known
from self_models.running.draws import EVALUATION, Draws, key_for

TEMPLATES = Path(__file__).parent / "c"
STATIC = ("check.c", "board.h", "run.c", "Makefile", "qemu.mk")
KERNEL = ("network.h", "vectors.h", "network.c")
EXAMPLE = "examples/Digits"  # of an Arduino library
STDINT = "#include <stdint.h>\n"
SMALL = "#if UINTPTR_MAX <= 0xFFFFFFFF /* memory before time: in all files of a program, whatever their flags */"
WHOLE = f"{STDINT}\n#define NETWORK_INT8\n{SMALL}\n#define NETWORK_SMALL\n#endif\n"
SEED = 0  # of the input's random numbers in golden.c, and in run.c unless told otherwise
IMAGES, TRIED = 10, 30  # in golden.c; among which these are looked for
KNOWN = 1  # golden images whose potentials golden.c has, too
SLACK = 24  # bytes by which alignment may differ where a pointer has 32 bits
ROWS, FEW_ROWS = 256, 64  # windows of weights that are added at once, at most; of whole numbers
WHO = "--to c"
ROOMY = 1e6  # bytes of flash that larger boards have
TOLERANCE = 1e-4  # of logits that are sums of rounded weights, as a part of 1 + their size


def c_folder(checkpoint, own, weights="float32", arduino=False, **data):
    """(file name -> text, of the folder of a checkpoint's network, lines on it). weights: as of load(); arduino: a library for
    its IDE in place of a folder with a Makefile; data: see test_images. Raises UserError and ModelError for a network that
    network.c cannot run, by the name of what it does not know."""
    model = load(checkpoint, model=own, weights=weights)
    tables, notes = tables_of(model), []
    try:
        test = test_images(model, **data)
        images = test.images[:TRIED]
    except UserError as error:
        if data:
            raise
        test, draw = None, torch.Generator().manual_seed(SEED)
        images = torch.randint(256, (TRIED, *model.image_shape), dtype=torch.uint8, generator=draw)
        notes.append(f"note: golden.c has random images ({error})")
    if not (numbers := agreed(model, images)):
        raise UserError(f"in each of {len(images)} images rounding decides a spike, so none can check C: take --weights int8")
    files = files_of(model, tables, images[numbers], numbers, checkpoint.stem, arduino)
    notes = [memory_line(tables), *notes]
    notes.append(f"operations: {operations_of(model, tables, images[numbers]):,.0f} additions per image (mean of golden.c)")
    if leaves_out_entropy(model):
        notes.append("note: int8 leaves out the rule entropy, which needs exp and log: it takes all timesteps, or ./run -b BOUND")
    if arduino and memory_of(tables)[0] > ROOMY:
        notes.append("note: most boards have no such flash: --weights int8 takes less")
    if weights != "float32" and test:
        found = [accuracy(each, test) for each in (model, load(checkpoint, model=own))]
        notes.append(f"accuracy on {len(test):,} test images: {found[0]:.2%} in {weights}, {found[1]:.2%} in float32")
    then = "a library for the Arduino IDE, with an example" if arduino else "make check, in that folder"
    return files, f"{len(files)} files, weights {weights}; {then}", *notes


def tables_of(model, compact=False):
    """The Tables of an SNN, for C. Raises UserError or ModelError for a part of the model that the kernel does not know, by its
    name."""
    check_spiking(model)
    if not isinstance(model, IntegerSNN):  # which knows no other parts
        check_known(model, WHO)
        if part := unknown_part(model):
            raise UserError(f"{WHO} does not know the {' '.join(map(str, part))}: of gates it knows open and block")
    if model.frames:
        raise UserError(f"{WHO} takes images, and this network takes recordings of {model.frames} frames")
    tables, whole = lay_out(model, compact), isinstance(model, IntegerSNN)
    rows = min(tables.header["rows"], ROWS, FEW_ROWS if whole else ROWS)
    tables.header["rows"] = max(rows // 2 * 2, 2)  # even: see in_pairs() in vectors.h
    return tables


def leaves_out_entropy(model):
    return isinstance(model, IntegerSNN) and model.settings["rule"] == "entropy"


def accuracy(model, test):
    parts = torch.arange(len(test)).split(500)
    with progress_bar("accuracy", len(parts)) as bar:
        return evaluate_parts(model, map(test.batch, parts), SEED, on_part=lambda *_: bar.update())["accuracy"]


@contextmanager
def unstopped(model):
    """The model takes all timesteps, by step(), as golden.c has them."""
    rule, batched = model.settings["rule"], model.batched
    model.change(rule="never").batched = False
    try:
        yield
    finally:
        model.change(rule=rule).batched = batched


@torch.no_grad()
def agreed(model, images):
    """The numbers of IMAGES images of which no spike depends on the order in which weights are added: the event engine, and whole
    layers at once, give those of step(), in timesteps, too, before which the stopping rule would end an image."""
    if isinstance(model, IntegerSNN):
        return list(range(min(IMAGES, len(images))))
    x, draws = checked_images(images, model), Draws(SEED, EVALUATION, torch.arange(len(images)))
    with unstopped(model):
        runs = [run(x, draws=draws) for run in (model.forward, model.engine) if run]
        model.batched = True
        runs.append(model.forward(x, draws=draws))
    wanted, *others = (torch.stack([*run.spikes_by_step.values()]) for run in runs)
    return torch.stack([(wanted == one).all(0).all(0) for one in others]).all(0).nonzero().flatten().tolist()[:IMAGES]


@torch.no_grad()
def operations_of(model, tables, images):
    """Additions an image takes, mean of these: each event of a node adds so many weights as it reaches neurons, on average."""
    chains = tables.chains.values()
    counts = dict.fromkeys((chain.modules[0] for chain in chains), 0)

    def count(module, given):
        counts[module] += (given[0] != 0).sum().item()

    hooks = [module.register_forward_pre_hook(count) for module in counts]
    model.batched = False  # all modules are called, at each step
    model.forward(checked_images(images, model), seed=SEED, frames=False)
    model.batched = True
    for hook in hooks:
        hook.remove()
    return sum(counts[chain.modules[0]] * chain.reach().mean() for chain in chains) / len(images)


def files_of(model, tables, images, numbers, name, arduino=False):
    """File name -> text. images: uint8 (B, C, H, W), which golden.c has; numbers: in their set; arduino: see c_folder."""
    (flash, ram, _), (channels, height, width) = memory_of(tables), model.image_shape
    words = {"name": name, "steps": model.latency, "weights": tables.weights.dtype, "flash": size_of(flash), "ram": size_of(ram)}
    words |= {"pixels": channels * height * width, "shape": f"{height} x {width} x {channels}"}
    files = {file: (FOLDER / file).read_text() for file in KERNEL}
    if tables.weights.dtype == np.int8:
        files["network.h"] = files["network.h"].replace(STDINT, WHOLE, 1)
    settings = settings_of(model)
    settings.rule = NUMBERS["NEVER"] if leaves_out_entropy(model) else settings.rule
    files |= {"weights.h": weights_h(model, tables), "weights.c": weights_c(tables, settings)}
    golden = golden_c(model, tables, images, numbers)
    if arduino:
        files = {f"src/{file}": text for file, text in files.items()} | {f"{EXAMPLE}/golden.h": golden}
        templates = {"README.md": "", "library.properties": "", "Digits.ino": f"{EXAMPLE}/"}
        filled = {there + file: TEMPLATES / "arduino" / file for file, there in templates.items()}
    else:
        files |= {"golden.c": golden, **{file: (TEMPLATES / file).read_text() for file in STATIC}}
        filled = {"README.md": TEMPLATES / "README.md"}
    return files | {file: Template(path.read_text()).safe_substitute(words) for file, path in filled.items()}


def memory_of(tables, whole="small"):
    """Bytes of (flash, without code; RAM, where a pointer has 32 bits; of that RAM what does not depend on the size of one).
    whole: the library's kind for whole numbers: small, or int8, as on a PC."""
    flash = sum(array.nbytes for array in (tables.weights, tables.constants, tables.nodes, tables.order, tables.places))
    network, kind = tables.network(), whole if tables.weights.dtype == np.int8 else "float32"
    size, nodes, rows = library(kind).network_size(ctypes.byref(network)), tables.header["nodes"], tables.header["rows"]
    rest = size - sum(map(ctypes.sizeof, (State, nodes * Part, rows * ctypes.c_size_t)))
    small = structs(ctypes.c_uint32, ctypes.c_uint32)
    return flash, rest + sum(map(ctypes.sizeof, (small["State"], nodes * small["Part"], rows * ctypes.c_uint32))), rest


def memory_line(tables):
    """What memory_of() finds, for the user."""
    flash, ram, _ = memory_of(tables)
    return f"memory: {size_of(flash)} of flash for weights and tables, 20 to 30 kB for code; {size_of(ram)} of RAM"


def size_of(count):
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def array(kind, name, values, width=16):
    """A C array's definition. values: numbers, float32 or whole."""
    values = np.asarray(values).ravel()
    texts = [f"{text}f" for text in values.astype(str).tolist()] if values.dtype.kind == "f" else list(map(str, values.tolist()))
    lines = [", ".join(texts[i : i + width]) for i in range(0, len(texts), width)]
    return f"const {kind} {name}[] = {{\n" + ",\n".join(lines) + "\n};\n"


def fields(values):
    """A C struct's initialiser by names."""
    texts = (f".{name} = {value!r}f" if isinstance(value, float) else f".{name} = {value}" for name, value in values.items())
    return "{" + ", ".join(texts) + "}"


def quoted(text):
    """A C string of this text, in UTF-8."""
    codes = text.encode(errors="surrogateescape")
    return '"' + "".join(chr(code) if 32 <= code < 127 and code not in b'"?\\' else f"\\{code:03o}" for code in codes) + '"'


def weights_h(model, tables):
    """Sizes of this network, and the names of its tables."""
    header = tables.header
    sizes = {"PIXELS": prod(model.image_shape), "CLASSES": model.settings["labels"], "LAYERS": header["layers"]}
    sizes |= {"TIMESTEPS": model.latency, **{f"KEY{i}": f"{key}u" for i, key in enumerate(key_for(SEED, "input"))}}
    parts = f"sizeof(NetworkState) + {header['nodes']} * sizeof(NetworkPart) + {header['rows']} * sizeof(size_t)"
    lines = [f"#define NETWORK_{name} {value}" for name, value in sizes.items()]
    small, wide = (f"#define NETWORK_BYTES ({parts} + {memory_of(tables, kind)[2] + SLACK})" for kind in ("small", "int8"))
    lines.append("/* of a State with all that it needs */")
    lines += ["#ifdef NETWORK_SMALL", small, "#else", wide, "#endif"] if small != wide else [wide]
    lines += ["#define NETWORK_CLASS_NAMES { \\", *(f"    {quoted(name)}, \\" for name in model.classes), "}"]
    guard, linkage = "#ifndef NETWORK_WEIGHTS_H\n#define NETWORK_WEIGHTS_H\n", '#ifdef __cplusplus\nextern "C" {\n#endif'
    declared = "extern const NetworkTables network_tables;\nextern const NetworkSettings network_defaults;"
    end = "#ifdef __cplusplus\n}\n#endif\n#endif\n"
    return "\n".join([guard, '#include "network.h"\n', *lines, "", linkage, declared, end])


def weights_c(tables, settings):
    """The tables and the settings."""
    nodes = ",\n".join(fields({name: int(node[name]) for name in NODE.names}) for node in tables.nodes)
    names = " ".join(f'"{name}\\0"' for name in tables.names)
    pointers = {name: name for name in ("node", "order", "constants", "weights", "names", *["places"] * bool(len(tables.places)))}
    return "\n".join([
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
    ])  # fmt: skip


@torch.no_grad()
def golden_c(model, tables, images, numbers):
    """What step() does with these images, without a stopping rule: pixels, key, and by image, step and layer which neurons spike,
    logits, which pixels are open, and of the first KNOWN the potentials. Neurons and pixels by row, column, channel."""
    record = dict.fromkeys(tables.names[1:], ("spikes", "membrane")) | {"input": "spikes"}
    with unstopped(model):
        output = model(images, draws=Draws(SEED, EVALUATION, torch.as_tensor(numbers)), record=record)
    is_open = torch.ones(model.latency, *images.shape) if output.is_open is None else output.is_open
    bits = [words_of(is_open), *(words_of(output.recorded[name]["spikes"]) for name in tables.names)]
    potentials = [in_rows(output.recorded[name]["membrane"][:, :KNOWN]) for name in tables.names[1:]]
    kind, tolerance = tables.constants.dtype, TOLERANCE if tables.weights.dtype == np.float32 else 0
    return "\n".join([
        '#include "network.h"\n',
        f"enum {{ golden_images = {len(images)}, golden_known = {KNOWN} }};",
        f"static const double golden_tolerance = {tolerance};",
        "static " + array("uint32_t", "golden_key", key_for(SEED, "input")),
        "static " + array("uint32_t", "golden_numbers", numbers),
        "static " + array("uint8_t", "golden_pixels", in_rows(images), 28),
        "static " + array("uint32_t", "golden_bits", np.concatenate(bits, -1).swapaxes(0, 1)),
        "static " + array("float", "golden_logits", output.logits_by_step.transpose(0, 1).float()),
        "static " + array("network_potential_t", "golden_potentials", np.concatenate(potentials, -1).swapaxes(0, 1).astype(kind)),
    ])  # fmt: skip


def words_of(values):
    """Bools (T, B, C, H, W), or (T, B, N) -> as bits of words, uint32 (T, B, words)."""
    bits = np.packbits(in_rows(values) != 0, axis=-1, bitorder="little")
    return np.pad(bits, [(0, 0), (0, 0), (0, -bits.shape[-1] % 4)]).view(np.uint32)
