"""Threads, and the room in which each of them runs its images."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from self_models.basics.errors import ModelError
from self_models.fast.event.compiled.counts import Activity, blank
from self_models.fast.event.compiled.nets import WORD, State, new_state
from self_models.fast.event.compiled.pixels import new_pixels
from self_models.fast.event.compiled.run import new_results, run_images
from self_models.fast.event.counts import no_activity
from self_models.running.draws import in_space
from self_models.running.stream import MEMBRANES

CHUNK = 4  # images that a thread takes at once


class Room(NamedTuple):
    """What one thread runs its images in, and what it has counted so far."""

    state: State
    activity: Activity
    pixels: tuple


class LeftOn:
    """The networks of a stream between its calls, one for each image: state and pixels have a row for each. draws: Draws;
    settings: those that compiled code read in the latest steps."""

    def __init__(self, layout, draws, settings):
        self.draws, self.layout, self.settings, count = draws, layout, settings, len(draws.index)
        self.state, self.pixels = new_state(layout.net, count), new_pixels(math.prod(layout.shapes[0]), count)

    def take_up(self, layout, maps, settings):
        """Make ready for steps with this Layout, whose Activity has these maps, and these settings. Raises ModelError where it is
        that of another network."""
        if layout.shapes != self.layout.shapes:
            raise ModelError("this stream began with another feedback_interval: call reset() to begin anew")
        waits = settings.has_feedback and self.pixels.run["steps"][0] % settings.feedback_interval
        if waits and layout is not self.layout and not np.array_equal(layout.net.weights, self.layout.net.weights):
            every = f"with feedback_interval {settings.feedback_interval} change them after a multiple of so many steps"
            raise ModelError(f"weights have changed while spikes wait for the decoder: {every}, or use --engine dense")
        if layout is not self.layout or self.settings._replace(timesteps=settings.timesteps) != settings:
            self.settle()  # up to now the settings before hold
            if settings.blocks != self.settings.blocks:
                self.open_all()
            self.wake(layout.net)
        self.layout, self.settings = layout, settings
        if self.state.busy.shape[1] < len(maps.nodes):
            larger = new_state(maps, len(self.state.busy))
            for values, grown in zip(self.state, larger, strict=True):
                grown[:, : values.shape[1]] = values
            self.state = larger

    def settle(self):
        """Bring all membranes up to date."""
        images, settings, net = self.pixels.image, self.settings._replace(timesteps=0), self.layout.net
        none, results = np.zeros((0, 0, 0), np.float32), new_results(images, 0, len(net.nodes), 0, False)
        given = images[:, None], none, self.draws.index.numpy()
        run_images(net, self.state, no_activity(net), self.pixels, settings, *given, results, 0, len(images))

    def open_all(self):
        """All pixels are open, and none is predicted, as at the beginning of a run: the gate is another one."""
        self.pixels.is_open[:] = True
        self.pixels.predicted[:] = self.pixels.run["explained"] = False

    def wake(self, net):
        """All neurons and pixels are looked at in the next step, whatever has changed, and until then no prediction is held.
        Membranes are brought up to their floor."""
        for n, floor in enumerate(net.floor):
            np.maximum(self._membranes(n), floor, out=self._membranes(n))
        if net.decoded > 0:
            self._membranes(net.decoded)[:] = 0  # what has come while predictions were held
        self.state.held[:] = 0
        for n in range(1, net.output):
            full, left = divmod(math.prod(self.layout.shapes[n][1:]), WORD)
            first = net.nodes["first_place"][n] // WORD
            self.state.listed[:, first : first + full] = np.uint64(2**WORD - 1)
            self.state.listed[:, first + full] = np.uint64(2**left - 1)
            self.state.busy[:, n] = True
        self.pixels.run["changed"] = self.pixels.run["look_again"] = True

    def _membranes(self, n):
        """Those of a node, (B, H W C)."""
        first = self.layout.net.nodes["first_v"][n]
        return self.state.v[:, first : first + math.prod(self.layout.shapes[n])]

    def _nodes(self):
        """(name, node) of the potentials that a state holds."""
        names = [MEMBRANES + name for name in self.layout.names[1:]]
        return [*zip(names, range(1, len(names) + 1), strict=True), ("logits", self.layout.net.output)]

    def state_dict(self, shapes):
        """See state_of of running/stream.py; shapes: those of its shapes_of. Membranes must be up to date."""
        values = {name: getattr(self.pixels, name) for name in ("image", "readout_sum", "is_open", "predicted")}
        if self.settings.residual and self.pixels.run["explained"].any():
            values["explained"] = self.pixels.guess
        values |= {name: self._membranes(n) for name, n in self._nodes()}
        values = {name: torch.from_numpy(each.copy()) for name, each in values.items()}
        return {name: in_space(each, shapes[name]).contiguous() for name, each in values.items()}

    def load(self, state, steps, decodes):
        """Fill in what state_dict gave, after so many steps, and steps of the decoder."""
        net, pixels = self.layout.net, self.pixels
        for n, start in enumerate(net.start):
            self._membranes(n)[:] = start
        for name, n in self._nodes():
            if name in state:
                self._membranes(n)[:] = in_rows(state[name])
        for nodes, clock in ((net.forward, steps), (net.feedback, decodes)):
            for n in nodes:
                first = net.nodes["first_place"][n]
                self.state.decayed[:, first : first + math.prod(self.layout.shapes[n][1:])] = clock
        self.open_all()
        for name in ("image", "readout_sum", "is_open", "predicted"):
            if name in state:
                getattr(pixels, name)[:] = in_rows(state[name])
        pixels.run["steps"], pixels.run["decodes"], pixels.run["explained"] = steps, decodes, "explained" in state
        self.wake(net)


def in_rows(values):
    """(..., C, H, W), (B, N) or (T, B, N) -> contiguous array, (..., H W C) of the first: the order of a node's membranes."""
    values = values.detach().cpu()
    return (values.movedim(-3, -1).flatten(-3) if values.dim() > 3 else values).contiguous().numpy()


class Rooms:
    """The Rooms of a network: as many as there were threads at once; free: those that no thread is using."""

    def __init__(self, layout, activity):
        self.layout, self.activity, self.free = layout, activity, []

    def take(self):
        """A Room that no other thread is using."""
        try:
            return self.free.pop()
        except IndexError:
            return Room(new_state(self.activity.maps), blank(self.activity), new_pixels(math.prod(self.layout.shapes[0])))

    def counted(self):
        """The Activity of all of them together."""
        total = blank(self.activity)
        for room in self.free:
            total.events[:] += room.activity.events
        return total


def spread(work, rooms, first, last, most=CHUNK):
    """Call work(room, begin, end) for chunks of the images first to last - 1, of `most` at the most, in threads, which hold no
    lock in compiled code, or here, if there is but one chunk. Raises what work raises."""
    threads = torch.get_num_threads()
    begins = range(first, last, max(1, min(most, -(-(last - first) // threads))))

    def take(begin):
        room = rooms.take()
        try:
            work(room, begin, min(begin + begins.step, last))
        finally:
            rooms.free.append(room)

    if min(threads, len(begins)) < 2:
        for begin in begins:
            take(begin)
    else:
        with ThreadPoolExecutor(min(threads, len(begins))) as pool:
            list(pool.map(take, begins))
