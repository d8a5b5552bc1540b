"""A folder of C that export.py has written, built and run from here: what it is held against Python with."""

import re
import subprocess
from math import prod
from pathlib import Path

import numpy as np
import torch

from harness import UserError
from self_models.basics import ModelError
from self_models.basics.images import arriving_values, tensor_of
from self_models.engines.event.state import in_rows
from self_models.guests.nir.graph_snn import GraphSNN
from self_models.runtime.draws import draws_for, in_space, key_for
from self_models.runtime.outputs import SNNOutput
from self_models.runtime.recording import shapes_of_layers


class CBuild:
    """A network in C, called as the SNN that it was made of, for first_difference(snn, CBuild(folder, snn), images); inputs are
    images, uint8 (B, C, H, W), or of a GraphSNN events (B, T, ...), whole numbers; counts: as GraphSNN has it. flags: of make,
    with which all is built anew. Raises UserError where it cannot be built."""

    def __init__(self, folder, snn, *flags):
        self.folder, self.thresholds, self.of_graph = (
            Path(folder),
            getattr(snn, "thresholds", None),
            isinstance(snn, GraphSNN),
        )
        if not (sizes := self.folder / "weights.h").is_file():
            raise UserError(f"{folder} is no folder that export.py --to c has written")
        self.timesteps = int(re.search(r"_TIMESTEPS (\d+)", sizes.read_text())[1])
        self.spaces = {
            name: space
            for name, space in shapes_of_layers(snn).items()
            if name in (*snn.layers, "output")
        }
        self.placed, self.whole = (
            snn.graph.spatial_shapes,
            "_INT8\n#if UINTPTR" in (self.folder / "network.h").read_text(),
        )
        done = subprocess.run(
            ["make", *["-B"] * bool(flags), "-C", str(folder), *flags],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"make -C {folder} fails: {done.stderr.strip()[-500:]}")

    def run(self, inputs, *options, counts=False):
        """What ./run writes for these inputs. Raises ModelError for others than it takes, and for options that it refuses."""
        inputs, shape = tensor_of(inputs), self.spaces["input"]
        if self.of_graph:
            inputs = arriving_values(inputs, counts=counts)
            if inputs.dtype == torch.uint8:
                inputs = inputs.int()  # torch repeats nothing by numbers that are bytes
            raw, options = bytes_of(inputs), ("-s", str(inputs.shape[1]), *options)
        elif getattr(inputs, "dtype", None) != torch.uint8 or inputs.shape[1:] != shape:
            raise ModelError(
                f"images of a C build must be uint8 (B, {', '.join(map(str, shape))})"
            )
        else:
            raw = in_rows(inputs).tobytes()
        done = subprocess.run([str(self.folder / "run"), *options], input=raw, capture_output=True)
        if done.returncode:
            raise ModelError(f"{self.folder / 'run'}: {done.stderr.decode().strip()}")
        return done.stdout

    def __call__(
        self,
        images,
        uniforms=None,
        draws=None,
        seed=None,
        frames=True,
        record=None,
        counts=False,
    ):
        """The SNNOutput, all recorded, of images numbered one after the other. Raises ModelError for others, and for uniforms."""
        if uniforms is not None:
            raise ModelError(
                "a C build draws by itself: give a seed or draws in place of uniforms"
            )
        draws = draws_for(images, draws, seed)
        if (draws.index.diff() != 1).any():
            raise ModelError(
                "images of a C build have numbers that follow each other: give them one by one"
            )
        key0, key1 = map(str, key_for(draws.seed, "input"))
        first = str(int(draws.index[0]))
        trace = self.run(images, "-t", "-k", key0, key1, "-n", first, counts=counts)
        return self.output(trace, images.shape[1] if self.of_graph else None)

    def output(self, trace, timesteps=None):
        """The SNNOutput of a trace. An image that stopped early shows its last timestep again, without spikes."""
        *names, output = self.spaces
        sizes = [prod(self.spaces[name]) for name in names]
        kind = "<i4" if self.whole else "<f4"
        fields = [
            ("is_open", "u1", sizes[0]),
            *((name, "u1", size) for name, size in zip(names, sizes, strict=True)),
        ]
        fields += [
            (f"v {name}", kind, size) for name, size in zip(names[1:], sizes[1:], strict=True)
        ]
        rows = np.frombuffer(
            trace,
            np.dtype([*fields, ("logits", "<f4", prod(self.spaces[output])), ("is_last", "u1")]),
        )
        ends = rows["is_last"].nonzero()[0] + 1
        steps, step = np.diff(ends, prepend=0), np.arange(timesteps or self.timesteps)[:, None]
        shown, runs = (
            ends - steps + np.minimum(step, steps - 1),
            step < steps,
        )  # (T, B): of each the row; whether it still ran

        def of(field, name, where=True):
            values = torch.from_numpy(rows[field][shown] * np.asarray(where)[..., None])
            return in_space(values, self.placed[name]).reshape(*shown.shape, *self.spaces[name])

        recorded = {name: {"spikes": of(name, name, runs).bool()} for name in names}
        for name in names[1:]:
            recorded[name]["membrane"] = of(f"v {name}", name)
        by_step = {name: recorded[name]["spikes"].flatten(2).sum(2).float() for name in names}
        logits, is_open = torch.from_numpy(rows["logits"][shown]), of("is_open", "input").bool()
        counts = {name: each.sum(0) for name, each in by_step.items()}
        return SNNOutput(
            logits[-1],
            None,
            None,
            counts,
            torch.from_numpy(steps),
            None,
            is_open,
            logits_by_step=logits,
            spikes_by_step=by_step,
            recorded=recorded,
        )


def bytes_of(events):
    """Events (B, T, *shape), whole numbers, as run reads them: x, y, channel and timestep of each; behind a recording its end."""
    parts = []
    for one in events:
        step, channel, *places = one.nonzero().repeat_interleave(one[one > 0], 0).T
        y, x = [torch.zeros_like(step)] * (2 - len(places)) + places
        parts += [
            torch.stack([x, y, channel, step], 1).numpy().astype("<u2").tobytes(),
            b"\xff" * 8,
        ]
    return b"".join(parts)
