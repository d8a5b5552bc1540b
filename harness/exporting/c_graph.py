"""A NIR graph as a folder of C99, which reads events and checks itself."""

import warnings
from math import prod
from pathlib import Path
from string import Template
from types import SimpleNamespace

import numpy as np
import torch

from harness import UserError
from harness.exporting.c_folder import KERNEL, ROWS, TEMPLATES, array, memory_line, memory_of, size_of, weights_c, weights_h
from self_models.graph import for_kernel, frames_of, from_nir, lists_of
from self_models.kernel.build import FOLDER
from self_models.kernel.graphs import lay_out, settings_for
from self_models.kernel.state import in_rows

RECORDINGS, TRIED, TIMESTEPS, SHARE = 3, 12, 40, 0.02  # of golden.c: random events, this share of the input in each timestep
HASH = 2654435761  # times 1 + a neuron's number: added up over a layer's spikes
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
    tables, _ = lay_out(model)
    tables = tables._replace(header=tables.header | {"rows": min(ROWS, tables.header["rows"])})
    recordings, most = (recordings, len(recordings)) if recordings else (random_recordings(model.input_shape), RECORDINGS)
    rows, timesteps = lists_of(recordings, model.input_shape, None)
    runs = [model(recordings, timesteps)]
    model.engine = None
    runs.append(step := model(frames_of(rows, model.input_shape, timesteps), record="all"))
    by_step = [torch.stack([*output.spikes_by_step.values()]) for output in runs]
    agreed = (by_step[0] == by_step[1]).all(0).all(0).nonzero().flatten().tolist()[:most]
    if not agreed:
        raise UserError(f"{path}: in each of {len(rows)} recordings rounding decides a spike, so none can check C")
    shape, (flash, ram, _) = tables.shapes[tables.header["output"]], memory_of(tables)
    sizes = SimpleNamespace(image_shape=tables.shapes[0], settings={"labels": prod(shape)}, latency=timesteps,
                            classes=list(map(str, range(prod(shape)))))  # fmt: skip
    files = {file: (FOLDER / file).read_text() for file in KERNEL} | {file: (TEMPLATES / file).read_text() for file in STATIC}
    files |= {name: (TEMPLATES / f"events_{name}").read_text() for name in ("run.c", "check.c", "README.md")}
    words = {"name": Path(path).stem, "flash": size_of(flash), "ram": size_of(ram), "recordings": len(agreed)}
    files["README.md"] = Template(files["README.md"]).safe_substitute(words)
    files |= {"weights.h": weights_h(sizes, tables), "weights.c": weights_c(tables, settings_for(model, timesteps))}
    given = [for_kernel(rows[number], model.input_shape, timesteps) for number in agreed]
    files["golden.c"] = golden_c(model, given, step, agreed)
    return (
        files,
        f"{len(files)} files; make check, in that folder",
        memory_line(tables),
        *{f"note: {note.message}" for note in notes},
    )


def random_recordings(shape):
    events = torch.rand(TRIED, TIMESTEPS, *shape, generator=torch.Generator().manual_seed(0)) < SHARE
    events[:, :, *(0,) * len(shape)] = True  # small inputs have events, too; so each timestep has
    return [each.nonzero().numpy() for each in events]


def golden_c(model, recordings, step, numbers):
    """Events of these recordings; by recording, timestep and node the sum of hashes of neurons that spike in step(); logits."""
    first, events = np.concatenate([one[0] for one in recordings]).reshape(len(recordings), -1), [one[1] for one in recordings]
    first = first + np.cumsum([0, *map(len, events)])[: len(events), None]
    spikes = [in_rows(step.recorded[name]["spikes"][:, numbers]) for name in model.spiking]
    spikes = [each.reshape(*each.shape[:2], -1) for each in spikes]
    sums = [(each * ((np.arange(each.shape[2], dtype=np.uint64) + 1) * HASH)).sum(2) % 2**32 for each in spikes]
    return "\n".join([
        '#include "network.h"\n',
        f"enum {{ golden_recordings = {len(numbers)}, golden_timesteps = {len(step.logits_by_step)} }};",
        "static " + array("int32_t", "golden_first", first),
        "static " + array("int32_t", "golden_events", np.concatenate(events)),
        "static " + array("uint32_t", "golden_spikes", np.array(sums or [[[0]]], np.uint32).T),
        "static " + array("float", "golden_logits", step.logits_by_step[:, numbers].transpose(0, 1).float().numpy()),
    ])  # fmt: skip
