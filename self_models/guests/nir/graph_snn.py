"""GraphSNN: a spiking network as a graph, of a NIR file (see reading.py) or of modules and
edges.
"""

from math import prod

import numpy as np
import torch
from torch import nn

from self_models.assembly import ENGINE_NAMES
from self_models.basics import ModelError
from self_models.basics.devices import wide
from self_models.basics.images import arriving_values, has_colour
from self_models.basics.settings import Choice, required
from self_models.engines.event.engine import GraphEngine, engine_of
from self_models.runtime.loop import stack_outputs
from self_models.runtime.outputs import INPUT, SNNOutput
from self_models.runtime.recording import collect_records, parse_record, record_step
from self_models.runtime.state import GraphState


class GraphSNN(nn.Module):
    """A Graph with the end 'output' as a network.

    model(events) takes the events (B, T, *graph.shape) that arrive in each of T timesteps of dt seconds, numbers or values.
    layers: 'input', then the names of the nodes that spike. engine: 'event', the kernel in eval mode; 'dense', step() alone; or
    'auto', the kernel where it knows all nodes; its `stays` says which not. Raises ModelError where 'event' cannot be."""

    has_analog_input, has_colour, output_leak = True, False, 1.0  # see engines/event/layout.py
    takes_events = True  # rather than images: see event_batches in counting/batches.py
    input_shape = property(lambda self: self.graph.shape)

    def __init__(self, graph, dt=1.0, engine="auto"):
        super().__init__()
        self.graph, self.dt, self.owned = graph, dt, nn.ModuleList(graph.modules.values())
        self.metadata = {}  # of a NIR file
        self.reading = {}  # how a NIR file was read: name -> value, see from_nir()
        self.layers = [INPUT, *(name for name in graph.neuron_names if graph.modules[name].fires)]
        self.engine, self.stays = engine_of(
            GraphEngine, self, required(Choice(ENGINE_NAMES), "engine", engine)
        )

    def refresh(self):
        """See VGG_SNN_STDB_wFeedback."""
        if self.engine:
            self.engine.refresh()

    def neurons(self):
        """Name -> neurons, those that send V among them."""
        return {name: self.graph.modules[name] for name in self.graph.neuron_names}

    @property
    def class_count(self):
        """Number of classes: the values of the output node."""
        return prod(self.graph.shapes[self.graph.ends["output"]])

    @property
    def has_signed_pixels(self):
        """Whether pixels of images are meant to lie in [-1, 1], as those of colour do here.

        Only files that this program has written say their encoding. Networks of others
        usually take [0, 1].
        """
        shape = self.graph.shape
        return len(shape) == 3 and has_colour(shape[0]) and "encoding" in self.metadata

    def step(self, memory, events, scale=None, counts=False):
        """One timestep. events: (B, *graph.shape); memory: name -> state of a node, replaced in place; scale, counts: see forward. Returns name -> what each node
        sends (B, ...)."""
        state = GraphState(
            layer_states=memory,
            previous_outputs=memory.setdefault("previous outputs", {}),  # of edges back
        )
        return self.graph.step(state, arriving_values(events, scale, counts))

    def forward(self, events, timesteps=None, record=None, scale=None, counts=False):
        """The SNNOutput of events (B, T, *graph.shape), uint8 or float; or of a list of B recordings, whole numbers (n, 4), a row
        an event: its timestep, below `timesteps`, channel, row and column (of an input (N,): its timestep and number).

        logits (B, outputs): what the output node sends, added up over time: spikes, or, where its source is no neuron with a
        threshold, values. spikes, spikes_by_step: of 'input', the events, and of each node that spikes. record: see parse_record. In
        eval mode the engine runs it, if there is one, unless a gradient for the events is wanted.

        uint8 values above 1 may be pixels or numbers of events. scale: they are pixels, and are divided by this; counts: they
        are numbers of events; see arriving_values. Raises ModelError for events that do not fit, and for such bytes of which
        nobody says what they are."""
        asked, shape = parse_record(record, self), self.graph.shape
        on_kernel = self.engine and not self.training and self.engine.serves()
        if isinstance(events, (list, tuple)):
            if scale is not None:
                raise ModelError(
                    "scale is for images, and lists of events have no values: leave it out"
                )
            lists, timesteps = lists_of(events, shape, timesteps)
            given = [for_kernel(each, shape, timesteps) for each in lists] if on_kernel else []
            events = None if on_kernel else frames_of(lists, shape, timesteps)
        else:
            events = torch.as_tensor(events)
            if tuple(events.shape[2:]) != shape or 0 in events.shape:
                spaces = ", ".join(map(str, shape))
                raise ModelError(
                    f"events {tuple(events.shape)} do not fit this graph, whose input takes (B, T, {spaces})"
                )
            events = arriving_values(events, scale, counts)
            on_kernel, timesteps = (
                on_kernel and not events.requires_grad and events.device.type == "cpu",
                events.shape[1],
            )
            frames = events.detach().numpy() if on_kernel else ()
            given = [
                for_kernel(each.nonzero(), shape, timesteps, each[each != 0].astype(np.float32))
                for each in frames
            ]
        if on_kernel:
            shown = self.engine(given, timesteps, asked)
            arrived = [
                at if sizes is None else np.append(0, np.abs(sizes).cumsum(dtype=float))[at]
                for at, _, sizes in given
            ]
            shown[INPUT] = torch.from_numpy(np.diff(arrived).T.astype(np.float32))
        else:
            shown, memory = [], {}
            for now in events.unbind(1):
                now = now.to(torch.float32)
                sent = self.step(memory, now)
                counts = {name: sent[name].detach().flatten(1).sum(1) for name in self.layers[1:]}
                counts[INPUT] = (
                    now.detach().abs().flatten(1).sum(1, dtype=wide(now.device)).float()
                )
                of_neurons = record_step(asked, sent, memory, self.neurons())
                shown.append({"logits": sent["output"].flatten(1)} | counts | of_neurons)
            shown = stack_outputs(shown)
            shown["logits"] = shown["logits"].cumsum(0)
        logits, spikes = shown["logits"], {name: shown[name] for name in self.layers}
        steps = torch.full((logits.shape[1],), len(logits))
        total = {name: each.sum(0, dtype=wide(each.device)) for name, each in spikes.items()}
        return SNNOutput(
            logits=logits[-1],
            predictions=None,
            errors=None,
            spikes=total,
            steps=steps,
            logits_by_step=logits,
            spikes_by_step=spikes,
            recorded=collect_records(asked, shown),
        )


def lists_of(recordings, shape, timesteps):
    """(of each recording the columns of its events: timesteps, then where they lie; timesteps); see GraphSNN.forward."""
    recordings = [np.asarray(rows) for rows in recordings]
    if timesteps is None:
        timesteps = 1 + max(
            int(rows[:, 0].max()) if rows.ndim == 2 and len(rows) else 0 for rows in recordings
        )
    limits = timesteps, *shape
    for number, rows in enumerate(recordings):
        what = f"recording {number}"
        if rows.ndim != 2 or rows.shape[1] != len(limits) or rows.dtype.kind not in "iu":
            raise ModelError(
                f"{what}: its events must be whole numbers (n, {len(limits)}), not {rows.dtype} {rows.shape}"
            )
        recordings[number] = columns = np.ascontiguousarray(rows.T)
        if len(rows) and any(
            each.min() < 0 or each.max() >= most
            for each, most in zip(columns, limits, strict=True)
        ):
            raise ModelError(
                f"{what}: an event lies outside of {timesteps} timesteps and the sensor {tuple(shape)}"
            )
    return recordings, timesteps


def for_kernel(columns, shape, timesteps, sizes=None):
    """(first, events, sizes) of a recording's columns, as Run in network.h has them. sizes: of events in order, or None."""
    time, *places = columns
    if (time[1:] < time[:-1]).any():
        order = time.argsort(kind="stable")
        time, *places = time[order], *(each[order] for each in places)
    steps = {
        2: (1, shape[0]),
        3: (1, shape[-1] * shape[0], shape[0]),
    }  # by axis; channels lie side by side
    steps = steps.get(len(shape)) or np.cumprod([1, *shape[:0:-1]])[::-1].tolist()
    neurons = sum(each.astype(np.int32) * step for each, step in zip(places, steps, strict=True))
    return (
        np.append(0, np.bincount(time, minlength=timesteps).cumsum()).astype(np.int32),
        neurons,
        sizes,
    )


def frames_of(lists, shape, timesteps):
    """Events (B, T, *shape) of recordings' columns."""
    frames = np.zeros((len(lists), timesteps, *shape), np.float32)
    for one, columns in zip(frames, lists, strict=True):
        np.add.at(one, tuple(columns), 1)
    return torch.from_numpy(frames)
