"""A folder of C that `wfeedback export` has written, built and called from Python.

`CBuild` looks like a network, so `first_difference` can hold the C against the SNN that
it was made of.
"""

import re
import subprocess
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch

from self_models.data.images import arriving_values, tensor_of
from self_models.errors import ModelError, UserError
from self_models.running.draws import Draws, draws_for, in_space, key_for
from self_models.running.outputs import SNNOutput
from self_models.running.recording import shapes_of_layers
from wfeedback.event.state import in_rows
from wfeedback.nir.graph_snn import GraphSNN

END_OF_RECORDING = b"\xff" * 8  # an event that run takes for the end


class CBuild:
    """A network in C, called as the SNN that it was made of.

    Parameters
    ----------
    folder : Path or str
        What ``wfeedback export --to c`` has written.
    snn : VGG_SNN_STDB_wFeedback or GraphSNN
        The network that it was made of.
    *flags : str
        Flags of make. With any, all is built anew.

    Attributes
    ----------
    timesteps : int
        Of an image.
    spaces : dict of {str: tuple of int}
        Shape of each layer, and of "output".

    Raises
    ------
    UserError
        If the folder is no such folder, or make fails.
    """

    def __init__(self, folder: Path | str, snn, *flags: str):
        self.folder = Path(folder)
        self.thresholds = getattr(snn, "thresholds", None)
        self.takes_events = isinstance(snn, GraphSNN)
        sizes = self.folder / "weights.h"
        if not sizes.is_file():
            raise UserError(f"{folder} is no folder that wfeedback export --to c has written")
        self.timesteps = int(re.search(r"_TIMESTEPS (\d+)", sizes.read_text())[1])
        self.spaces = {}
        for name, space in shapes_of_layers(snn).items():
            if name in (*snn.layers, "output"):
                self.spaces[name] = space
        self.placed = snn.graph.spatial_shapes
        self.has_whole_numbers = "_INT8\n#if UINTPTR" in (self.folder / "network.h").read_text()
        self._make(folder, flags)

    def _make(self, folder, flags):
        """Build the program `run` of the folder."""
        command = ["make", "-C", str(folder), *flags]
        if flags:
            command.insert(1, "-B")
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"make -C {folder} fails: {done.stderr.strip()[-500:]}")

    def run(self, inputs: torch.Tensor, *options: str, counts: bool = False) -> bytes:
        """Run the program.

        Parameters
        ----------
        inputs : Tensor of shape (B, C, H, W), uint8; of a GraphSNN (B, T, ...)
            Images; or events, whole numbers.
        *options : str
            Options of ``./run``.
        counts : bool
            Of events that are bytes: whether they are numbers of events, as GraphSNN
            has it.

        Returns
        -------
        bytes
            What it writes.

        Raises
        ------
        ModelError
            For other inputs than it takes, and for options that it refuses.
        """
        inputs = tensor_of(inputs)
        shape = self.spaces["input"]
        if self.takes_events:
            inputs = arriving_values(inputs, counts=counts)
            if inputs.dtype == torch.uint8:
                inputs = inputs.int()  # torch repeats nothing by numbers that are bytes
            raw = encode_events(inputs)
            options = ("-s", str(inputs.shape[1]), *options)
        else:
            if getattr(inputs, "dtype", None) != torch.uint8 or inputs.shape[1:] != shape:
                sizes = ", ".join(str(size) for size in shape)
                raise ModelError(f"images of a C build must be uint8 (B, {sizes})")
            raw = in_rows(inputs).tobytes()
        program = self.folder / "run"
        done = subprocess.run([str(program), *options], input=raw, capture_output=True)
        if done.returncode:
            raise ModelError(f"{program}: {done.stderr.decode().strip()}")
        return done.stdout

    def __call__(
        self,
        images: torch.Tensor,
        uniforms: torch.Tensor | None = None,
        draws: Draws | None = None,
        seed: int | None = None,
        frames: bool = True,
        record: object = None,
        counts: bool = False,
    ) -> SNNOutput:
        """Run images, or recordings, as the SNN's forward does.

        Parameters
        ----------
        images, counts
            Inputs as `run` takes them.
        uniforms : None
            Not supported.
        draws : Draws, optional
            Random numbers, of images that are numbered one after the other.
        seed : int, optional
            In place of draws.
        frames, record
            Not used: all is recorded.

        Returns
        -------
        SNNOutput
            As `output` has it.

        Raises
        ------
        ModelError
            For other images, and for uniforms.
        """
        if uniforms is not None:
            raise ModelError(
                "a C build draws by itself: give a seed or draws in place of uniforms"
            )
        draws = draws_for(images, draws, seed)
        if (draws.index.diff() != 1).any():
            raise ModelError(
                "images of a C build have numbers that follow each other: give them one by one"
            )
        key0, key1 = (str(key) for key in key_for(draws.seed, "input"))
        first = str(int(draws.index[0]))
        trace = self.run(images, "-t", "-k", key0, key1, "-n", first, counts=counts)
        return self.output(trace, images.shape[1] if self.takes_events else None)

    def output(self, trace: bytes, timesteps: int | None = None) -> SNNOutput:
        """Read a trace, which ``./run -t`` writes.

        Parameters
        ----------
        trace : bytes
            A row for each timestep of each input.
        timesteps : int, optional
            Timesteps of an input; by default those of an image.

        Returns
        -------
        SNNOutput
            Its predictions and errors are None. An image that stopped early shows its
            last timestep again, without spikes.
        """
        rows = np.frombuffer(trace, self._row_dtype())
        ends = rows["is_last"].nonzero()[0] + 1  # of each input
        steps_taken = np.diff(ends, prepend=0)
        step = np.arange(timesteps or self.timesteps)[:, None]
        # (T, B): which row shows a timestep of an input, and whether the input still
        # ran.
        row_shown = ends - steps_taken + np.minimum(step, steps_taken - 1)
        is_running = step < steps_taken

        *layers, _ = self.spaces  # without the output
        recorded = {}
        for name in layers:
            spikes = rows[name][row_shown] * is_running[..., None]
            recorded[name] = {"spikes": self._in_layer(spikes, name).bool()}
        for name in layers[1:]:
            potentials = rows[f"v {name}"][row_shown]
            recorded[name]["membrane"] = self._in_layer(potentials, name)
        spikes_by_step = {}
        for name in layers:
            spikes_by_step[name] = recorded[name]["spikes"].flatten(2).sum(2).float()
        logits = torch.from_numpy(rows["logits"][row_shown])
        return SNNOutput(
            logits=logits[-1],
            predictions=None,
            errors=None,
            spikes={name: counts.sum(0) for name, counts in spikes_by_step.items()},
            steps=torch.from_numpy(steps_taken),
            predicted=None,
            is_open=self._in_layer(rows["is_open"][row_shown], "input").bool(),
            logits_by_step=logits,
            spikes_by_step=spikes_by_step,
            recorded=recorded,
        )

    def _row_dtype(self):
        """Return what a row of a trace has: see trace() in run.c."""
        potential = "<i4" if self.has_whole_numbers else "<f4"
        *layers, output = self.spaces
        fields = [("is_open", "u1", prod(self.spaces["input"]))]
        for name in layers:
            fields.append((name, "u1", prod(self.spaces[name])))
        for name in layers[1:]:
            fields.append((f"v {name}", potential, prod(self.spaces[name])))
        fields.append(("logits", "<f4", prod(self.spaces[output])))
        fields.append(("is_last", "u1"))
        return np.dtype(fields)

    def _in_layer(self, values, name):
        """Return values (T, B, N), in the order of C, in the shape of a layer."""
        values = in_space(torch.from_numpy(values), self.placed[name])
        return values.reshape(*values.shape[:2], *self.spaces[name])


def encode_events(recordings: Sequence[torch.Tensor]) -> bytes:
    """Write recordings of events as ``./run`` reads them.

    Parameters
    ----------
    recordings : Tensor of shape (B, T, *shape), whole numbers
        How many events there are, in each timestep, of each input neuron.

    Returns
    -------
    bytes
        Four numbers of 16 bits for each event: x, y, channel and timestep. Behind each
        recording comes `END_OF_RECORDING`.
    """
    parts = []
    for recording in recordings:
        positions = recording.nonzero().repeat_interleave(recording[recording > 0], 0)
        step, channel, *places = positions.T
        while len(places) < 2:  # a recording without rows, or without columns either
            places.insert(0, torch.zeros_like(step))
        y, x = places
        events = torch.stack([x, y, channel, step], 1)
        parts.append(events.numpy().astype("<u2").tobytes())
        parts.append(END_OF_RECORDING)
    return b"".join(parts)
