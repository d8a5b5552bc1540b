"""A NIR graph as a folder of C99, which reads events and checks itself."""

import warnings
from math import prod
from types import SimpleNamespace

import numpy as np
import torch

from harness import UserError
from harness.exporting.c_folder import KERNEL, ROWS, TEMPLATES, array, memory_line, weights_c, weights_h
from self_models import ModelError, load
from self_models.graph import for_kernel
from self_models.kernel.build import FOLDER
from self_models.kernel.graphs import lay_out, settings_for
from self_models.kernel.state import in_rows

RECORDINGS, TRIED, TIMESTEPS, SHARE = 3, 12, 40, 0.02  # of golden.c: random events, this share of the input in each timestep
HASH = 2654435761  # times 1 + a neuron's number: added up over a layer's spikes


@torch.no_grad()
def c_graph(path):
    """(file name -> text, lines on it) of the graph in this file. Raises UserError and ModelError for one that is not run by
    the kernel."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        plain = load(path, engine="dense")
        try:
            model = load(path, engine="event")
        except ModelError as error:
            raise UserError(f"{path}: what the kernel does not run cannot be C: {error}") from None
    tables, _ = lay_out(model)
    tables = tables._replace(header=tables.header | {"rows": min(ROWS, tables.header["rows"])})
    events = (torch.rand(TRIED, TIMESTEPS, *model.input_shape, generator=torch.Generator().manual_seed(0)) < SHARE).byte()
    events[:, :, *(0,) * len(model.input_shape)] = 1  # small inputs have events, too
    step = plain(events, record="all")
    by_step = [torch.stack([*output.spikes_by_step.values()]) for output in (step, model(events))]
    agreed = (by_step[0] == by_step[1]).all(0).all(0).nonzero().flatten().tolist()[:RECORDINGS]
    if not agreed:
        raise UserError(f"{path}: in each of {TRIED} recordings rounding decides a spike, so none can check C")
    shape = tables.shapes[tables.header["output"]]
    sizes = SimpleNamespace(image_shape=tables.shapes[0], settings={"labels": prod(shape)}, latency=TIMESTEPS,
                            classes=list(map(str, range(prod(shape)))))  # fmt: skip
    files = {file: (FOLDER / file).read_text() for file in KERNEL}
    files |= {name: (TEMPLATES / f"events_{name}").read_text() for name in ("run.c", "check.c")}
    files["Makefile"] = (TEMPLATES / "Makefile").read_text().replace("\ninclude qemu.mk\n", "")
    files |= {"weights.h": weights_h(sizes, tables), "weights.c": weights_c(tables, settings_for(model, TIMESTEPS))}
    given = [for_kernel(each.nonzero(), model.input_shape, TIMESTEPS) for each in events[agreed].numpy()]
    files["golden.c"] = golden_c(model, given, step, agreed)
    return (
        files,
        f"{len(files)} files; make check, in that folder",
        memory_line(tables),
        *{f"note: {note.message}" for note in notes},
    )


def golden_c(model, recordings, step, numbers):
    """Events of these recordings; by recording, timestep and node the sum of hashes of neurons that spike in step(); logits."""
    first, events = np.concatenate([one[0] for one in recordings]).reshape(len(recordings), -1), [one[1] for one in recordings]
    first = first + np.cumsum([0, *map(len, events)])[: len(events), None]
    spikes = [in_rows(step.recorded[name]["spikes"][:, numbers]).reshape(TIMESTEPS, len(numbers), -1) for name in model.spiking]
    sums = [(each * ((np.arange(each.shape[2], dtype=np.uint64) + 1) * HASH)).sum(2) % 2**32 for each in spikes]
    return "\n".join([
        '#include "network.h"\n',
        f"enum {{ golden_recordings = {len(numbers)}, golden_timesteps = {TIMESTEPS} }};",
        "static " + array("int32_t", "golden_first", first),
        "static " + array("int32_t", "golden_events", np.concatenate(events)),
        "static " + array("uint32_t", "golden_spikes", np.array(sums or [[[0]]], np.uint32).T),
        "static " + array("float", "golden_logits", step.logits_by_step[:, numbers].transpose(0, 1).float().numpy()),
    ])  # fmt: skip
