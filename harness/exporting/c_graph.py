"""A NIR graph as a folder of C99, which reads events and checks itself."""

import subprocess
import warnings
from math import prod
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import torch

from harness import UserError
from harness.exporting.c_folder import KERNEL, ROWS, TEMPLATES, array, memory_line, memory_of, size_of, weights_c, weights_h
from self_models.graph import for_kernel, frames_of, lists_of
from self_models.kernel.build import FOLDER, answer_of, built, said_by
from self_models.kernel.layout import lay_out
from self_models.kernel.state import in_rows
from self_models.nir import from_nir

RECORDINGS, TRIED, TIMESTEPS, SHARE = 3, 12, 40, 0.02  # of golden.c: random events, this share of the input in each timestep
STATIC = ("Makefile", "qemu.mk", "board.h")


@torch.no_grad()
def c_graph(path, recordings=None):
    """(file name -> text, lines on it) of the graph in this file. recordings: of golden.c, as the GraphSNN takes them; None:
    random ones. Raises UserError and ModelError for a graph that the kernel does not run."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        model = from_nir(path)
    if model.stays:
        raise UserError(f"{path}: what the kernel does not run cannot be C: {model.stays}")
    tables = lay_out(model)
    tables = tables._replace(header=tables.header | {"rows": min(ROWS, tables.header["rows"])})
    recordings, most = (recordings, len(recordings)) if recordings else (random_recordings(model.graph.shape), RECORDINGS)
    rows, timesteps = lists_of(recordings, model.graph.shape, None)
    record = dict.fromkeys(model.layers[1:], "spikes")
    engine, found = model.engine, spikes_of(model(recordings, timesteps, record), tables)
    model.engine = None
    step = model(frames_of(rows, model.graph.shape, timesteps), record=record)
    spikes = spikes_of(step, tables)
    agreed = (found == spikes).all((0, 2)).nonzero()[0].tolist()[:most]
    if not agreed:
        raise UserError(f"{path}: in each of {len(rows)} recordings rounding decides a spike, so none can check C")
    shape, (flash, ram, _) = tables.shapes[tables.header["output"]], memory_of(tables)
    sizes = SimpleNamespace(image_shape=tables.shapes[0], settings={"labels": prod(shape)}, latency=timesteps,
                            classes=list(map(str, range(prod(shape)))))  # fmt: skip
    files = {file: (FOLDER / file).read_text() for file in KERNEL} | {file: (TEMPLATES / file).read_text() for file in STATIC}
    files |= {name: (TEMPLATES / f"events_{name}").read_text() for name in ("run.c", "check.c", "README.md")}
    words = {"name": Path(path).stem, "flash": size_of(flash), "ram": size_of(ram), "recordings": len(agreed)}
    files["README.md"] = Template(files["README.md"]).safe_substitute(words)
    files |= {"weights.h": weights_h(sizes, tables), "weights.c": weights_c(tables, engine.settings(timesteps))}
    given = [for_kernel(rows[number], model.graph.shape, timesteps) for number in agreed]
    files["golden.c"] = golden_c(given, spikes[:, agreed], tables, step.logits_by_step[:, agreed])
    return (
        files,
        f"{len(files)} files; make check, in that folder",
        f"checked here: {checked(path, files)}",
        memory_line(tables),
        *{f"note: {note.message}" for note in notes},
    )


def random_recordings(shape):
    events = torch.rand(TRIED, TIMESTEPS, *shape, generator=torch.Generator().manual_seed(0)) < SHARE
    events[:, :, *(0,) * len(shape)] = True  # small inputs have events, too; so each timestep has
    return [each.nonzero().numpy() for each in events]


def spikes_of(output, tables):
    """Which neurons spike, (T, B, neurons): of one node after the other, each in the kernel's order, and behind each a True."""
    found = [np.zeros((*output.logits_by_step.shape[:2], 0), bool)]
    for name, shape in zip(tables.names[1:], tables.shapes[1 : len(tables.names)], strict=True):
        each = output.recorded[name]["spikes"]
        found.append(np.pad(in_rows(each.reshape(*each.shape[:2], *shape)), ((0, 0), (0, 0), (0, 1)), constant_values=True))
    return np.concatenate(found, 2)


def golden_c(recordings, spikes, tables, logits):
    """Events of these recordings; by recording, timestep and node the numbers of neurons that spike, then -1; logits."""
    first, events = np.concatenate([one[0] for one in recordings]).reshape(len(recordings), -1), [one[1] for one in recordings]
    first = first + np.cumsum([0, *map(len, events)])[: len(events), None]
    numbers = np.array([n for shape in tables.shapes[1 : len(tables.names)] for n in (*range(prod(shape)), -1)], int)
    return "\n".join([
        '#include "network.h"\n',
        f"enum {{ golden_recordings = {len(recordings)}, golden_timesteps = {len(logits)} }};",
        "static " + array("int32_t", "golden_first", first),
        "static " + array("int32_t", "golden_events", np.concatenate(events)),
        "static " + array("int32_t", "golden_fired", np.append(numbers[spikes.swapaxes(0, 1).nonzero()[2]], -1)),
        "static " + array("float", "golden_logits", logits.transpose(0, 1).float().numpy()),
    ])  # fmt: skip


def checked(path, files):
    """What check.c of these files prints, built and run here, or why it cannot be. Raises UserError where it is not equal."""
    with TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        program, sources = f"{folder}/check", (f"{folder}/{name}.c" for name in ("check", "network", "weights"))
        try:
            answer_of(folder, [*built()[0].command[:-2], "-O0", "-DPLAIN", "-o", program, *sources, "-lm"])
            done = subprocess.run([program], capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            return f"it cannot be checked ({said_by(error)})"
    if done.returncode:
        raise UserError(f"{path}: its C is not equal to step(), a fault of this program: {done.stdout.strip()}")
    return done.stdout.strip()
