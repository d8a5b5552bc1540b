"""Runs of the kernel in memory: a room for each thread, and the states of a stream, one for each image."""

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from self_models.basics import ModelError
from self_models.engines.event.build import Part, Settings, State
from self_models.engines.event.tables import line_of_bytes
from self_models.guests.streams.stream import MEMBRANES
from self_models.runtime.draws import in_space, key_for

CHUNK = 4  # images that a thread takes at once


def in_rows(values):
    """(..., C, H, W), (B, N) or (T, B, N) -> contiguous array, (..., H W C) of the first: the order of a node's neurons."""
    values = values.detach().cpu()
    return (
        (values.movedim(-3, -1).flatten(-3) if values.dim() > 3 else values).contiguous().numpy()
    )


class Room:
    """One State in a block of memory. library: the kernel's; tables: Tables; network: their Network."""

    def __init__(self, library, tables, network, settings):
        self.library, self.tables, self.network = library, tables, network
        self.memory = line_of_bytes(library.network_size(ctypes.byref(network)))
        given = (
            ctypes.byref(network),
            ctypes.byref(settings),
            self.memory.ctypes.data,
            len(self.memory),
        )
        self.address = library.network_begin(*given)
        if self.address is None:
            raise ModelError(
                "the event engine does not begin: use --engine dense, and report this"
            )
        self.state = State.from_address(self.address)
        self.parts = (Part * len(tables.nodes)).from_address(self.state.part)

    def at(self, pointer, size, kind):
        """What lies there, an array of this size and kind."""
        return np.frombuffer(
            (ctypes.c_char * (size * np.dtype(kind).itemsize)).from_address(pointer), kind
        )

    def pixels(self, name):
        """The array of the input of this name."""
        return self.at(
            getattr(self.state, name),
            self.state.pixels,
            np.uint8 if name in ("is_open", "predicted") else np.float32,
        )

    def potentials(self, n):
        """Those of a node, (H W C,)."""
        return self.at(
            self.parts[n].v, math.prod(self.tables.shapes[n]), self.tables.constants.dtype
        )

    def spikes(self, n):
        """Which neurons of a node have sent something in the latest step, bool (H W C,)."""
        channels, *sides = self.tables.shapes[n]
        words = self.at(self.parts[n].spikes, 4 * math.prod(sides) * self.parts[n].words, np.uint8)
        bits = np.unpackbits(
            words.reshape(math.prod(sides), -1), axis=1, count=channels, bitorder="little"
        )
        return bits.ravel().astype(bool)


class Rooms:
    """As many Rooms of a network as there were threads at once; free: those that no thread is using; counting: all, where they
    count."""

    def __init__(self, library, tables):
        self.library, self.network, self.free, self.counting = (
            library,
            tables.network(library),
            [],
            [],
        )
        self.tables = tables._replace(
            weights=None
        )  # those of the network's block are the only ones

    def check(self, settings):
        """Raise ModelError if the kernel refuses these Settings."""
        given = ctypes.byref(self.network), ctypes.byref(settings)
        if self.library.network_accepts(*given):
            return
        values = [
            f"{name} {getattr(settings, name)}"
            for name, kind in Settings._fields_
            if kind is ctypes.c_float
        ]
        raise ModelError(
            f"the event engine does not run one of these settings, which is out of range: {', '.join(values)}"
        )

    def new(self, settings):
        self.check(settings)
        room = Room(self.library, self.tables, self.network, settings)
        if self.tables.header["counting"]:
            self.counting.append(room)
        return room

    def run(self, runs, settings, most=CHUNK):
        """Run an array of Run in threads, which hold no lock meanwhile. most: at once in one thread."""
        self.check(settings)
        threads, last = torch.get_num_threads(), len(runs)
        begins = range(0, last, max(1, min(most, -(-last // threads))))

        def work(begin):
            try:
                room = self.free.pop()
            except IndexError:
                room = self.new(settings)
            room.state.settings = settings
            count = min(begins.step, last - begin)
            try:
                self.library.network_runs(
                    room.address, runs.ctypes.data + begin * runs.itemsize, count
                )
            finally:
                self.free.append(room)

        if min(threads, len(begins)) < 2:
            for begin in begins:
                work(begin)
        else:
            with ThreadPoolExecutor(min(threads, len(begins))) as pool:
                list(pool.map(work, begins))

    def events(self, n):
        """Counted of a node in all rooms, (2, H W C) int64: how often each neuron sent 1 or -1, and another value."""
        total = np.zeros(2 * math.prod(self.tables.shapes[n]), np.int64)
        for room in self.counting:
            total += room.at(room.parts[n].counted, total.size, np.uint32)
        return total.reshape(2, -1)


class StreamMemory:
    """The networks of a stream between its calls, a Room for each image. draws: Draws; settings: Settings, as it began."""

    def __init__(self, rooms, draws, settings):
        self.draws, self.rooms, self.settings = draws, rooms, settings
        self.states = [rooms.new(settings) for _ in draws.index]
        for room, index in zip(self.states, draws.index.tolist(), strict=True):
            rooms.library.network_reset(room.address, *key_for(draws.seed, "input"), index)
            room.state.epoch = draws.epoch

    def settle(self):
        """Bring all membranes up to date."""
        for room in self.states:
            self.rooms.library.network_settle(room.address)

    def spikes(self):
        """Layer -> which neurons have sent something in the latest step, bool (B, C, H, W)."""
        tables = self.rooms.tables
        values = {
            name: np.stack([room.spikes(n) for room in self.states])
            for n, name in enumerate(tables.names)
        }
        return {
            name: in_space(torch.from_numpy(each), tables.shapes[tables.numbers[name]])
            for name, each in values.items()
        }

    def _nodes(self):
        """(name, node) of the potentials that a state holds."""
        names = [MEMBRANES + name for name in self.rooms.tables.names[1:]]
        return [
            *zip(names, range(1, len(names) + 1), strict=True),
            ("logits", self.rooms.tables.header["output"]),
        ]

    def state_dict(self, forms):
        """See state_of of guests/streams/stream.py; forms: of its forms_of."""
        self.settle()
        parts = {
            name: [room.pixels(name) for room in self.states]
            for name in ("image", "readout_sum", "is_open", "predicted")
        }
        if self.settings.residual and any(room.state.subtracts_prediction for room in self.states):
            parts["explained"] = [room.pixels("prediction") for room in self.states]
        parts |= {name: [room.potentials(n) for room in self.states] for name, n in self._nodes()}
        values = {
            name: in_space(torch.from_numpy(np.stack(each)), forms[name][0]).contiguous()
            for name, each in parts.items()
        }
        return {name: value.to(forms[name][1]) for name, value in values.items()}

    def load(self, state, steps):
        """Fill in what state_dict gave, after so many steps."""
        rows = {
            name: in_rows(value)
            for name, value in state.items()
            if isinstance(value, torch.Tensor)
        }
        for b, room in enumerate(self.states):
            room.pixels("is_open")[:], room.pixels("predicted")[:] = (
                1,
                0,
            )  # as at the beginning of a run
            now = room.state
            now.steps, now.begun, now.unproven, now.subtracts_prediction = (
                steps,
                1,
                1,
                "explained" in state,
            )
            self.rooms.library.network_settle(
                room.address
            )  # the potentials that are filled in next have had their leak
            for name, n in self._nodes():
                if name in rows:
                    room.potentials(n)[:] = rows[name][b]
            for name in ("image", "readout_sum", "is_open", "predicted"):
                if name in rows:
                    room.pixels(name)[:] = rows[name][b]
            self.rooms.library.network_set(room.address, ctypes.byref(self.settings))
        self.settle()
