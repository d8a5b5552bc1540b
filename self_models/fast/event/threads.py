"""Threads, and the room in which each of them runs its images."""

import itertools
import math
import threading
from typing import NamedTuple

import numpy as np
import torch

from self_models.basics.errors import ModelError
from self_models.fast.event.compiled.counts import Activity, blank
from self_models.fast.event.compiled.nets import FIRST_PLACE, FIRST_V, HEIGHT, SOURCE, WIDTH, WORD, State, new_state
from self_models.fast.event.compiled.recording import new_recorded
from self_models.fast.event.counts import no_activity
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
        from self_models.fast.event.compiled.pixels import new_pixels

        self.draws, self.layout, self.settings, count = draws, layout, settings, len(draws.index)
        self.state, self.pixels = new_state(layout.net, count), new_pixels(math.prod(layout.shapes[0]), count)

    def take_up(self, layout, maps, settings):
        """Make ready for steps with this Layout, whose Activity has these maps, and these settings. Raises ModelError where it is
        that of another network."""
        nodes, before = layout.net.nodes[:, :SOURCE], self.layout.net.nodes[:, :SOURCE]
        if nodes.shape != before.shape or (nodes != before).any():
            raise ModelError("this stream began with another feedback_interval or encoding: call reset() to begin anew")
        if layout is not self.layout or self.settings._replace(timesteps=settings.timesteps) != settings:
            self.settle()  # up to now the settings before hold
            if settings.gate != self.settings.gate:
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
        from self_models.fast.event.compiled.run import new_results, run_images

        images, settings, net = self.pixels.image, self.settings._replace(timesteps=0), self.layout.net
        none, nobody = np.zeros((0, 0, 0), np.float32), new_recorded(net, 0, len(images), (), ())
        results = new_results(images, 0, len(net.nodes), 0, False, nobody)
        index = self.draws.index.numpy()
        run_images(
            net, self.state, no_activity(net), self.pixels, settings, images[:, None], none, index, results, 0, len(images)
        )

    def open_all(self):
        """All pixels are open, and none is predicted, as at the beginning of a run: the gate is another one."""
        self.pixels.is_open[:] = self.pixels.attended[:] = True
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
            full, left = divmod(int(net.nodes[n, HEIGHT] * net.nodes[n, WIDTH]), WORD)
            first = net.nodes[n, FIRST_PLACE] // WORD
            self.state.listed[:, first : first + full] = np.uint64(2**WORD - 1)
            self.state.listed[:, first + full] = np.uint64(2**left - 1)
            self.state.busy[:, n] = True
        self.pixels.gate["changed"] = self.pixels.gate["look_again"] = True
        self.pixels.gate["compared"] = 0

    def _membranes(self, n):
        """Those of a node, (B, H W C)."""
        first = self.layout.net.nodes[n, FIRST_V]
        return self.state.v[:, first : first + math.prod(self.layout.shapes[n])]

    def _nodes(self):
        """(name, node) of the potentials that a state holds."""
        net = self.layout.net
        return [*((MEMBRANES + name, n) for n, name in enumerate(self.layout.names) if n), ("logits", net.output)]

    def state_dict(self, spaces):
        """See state_of of running/stream.py; spaces: name -> shape (C, H, W) or (N,), the pixels' under 'input'. Membranes must
        be up to date."""
        of_image = {name: getattr(self.pixels, name) for name in ("image", "trace", "is_open", "predicted")}
        if self.settings and self.settings.residual and self.pixels.run["explained"].any():
            of_image["explained"] = self.pixels.guess
        found = {name: in_planes(values, spaces["input"]) for name, values in of_image.items()}
        for name, n in self._nodes():
            found[name] = in_planes(
                self._membranes(n), spaces[name.removeprefix(MEMBRANES) if n < self.layout.net.output else "output"]
            )
        return found

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
                first = net.nodes[n, FIRST_PLACE]
                self.state.decayed[:, first : first + net.nodes[n, HEIGHT] * net.nodes[n, WIDTH]] = clock
        self.open_all()
        for name in ("image", "trace", "is_open", "predicted"):
            if name in state:
                getattr(pixels, name)[:] = in_rows(state[name])
        pixels.gate["wants"] = True
        pixels.gate["events"] = -1
        pixels.run["steps"], pixels.run["decodes"], pixels.run["explained"] = steps, decodes, "explained" in state
        self.wake(net)


def in_rows(values):
    """(B, C, H, W) or (B, N) -> array (B, H W C), the order of the membranes of a node."""
    values = values.detach().cpu().numpy()
    return (values.transpose(0, 2, 3, 1) if values.ndim == 4 else values).reshape(len(values), -1)


def in_planes(values, shape):
    """The same back, a tensor of its own; shape: (C, H, W) or (N,)."""
    channels, *space = shape
    planes = torch.from_numpy(values.copy()).reshape(len(values), *space, channels)
    return planes.movedim(-1, 1).contiguous()


class Rooms:
    """The Rooms of a network: as many as there were threads at once; free: those that no thread is using."""

    def __init__(self, layout, activity):
        self.layout, self.activity, self.free = layout, activity, []

    def take(self):
        """A Room that no other thread is using."""
        try:
            return self.free.pop()
        except IndexError:
            from self_models.fast.event.compiled.pixels import new_pixels

            return Room(new_state(self.activity.maps), blank(self.activity), new_pixels(math.prod(self.layout.shapes[0])))

    def counted(self):
        """The Activity of all of them together."""
        total = blank(self.activity)
        for room in self.free:
            total.events[:] += room.activity.events
        return total


def spread(work, rooms, first, last, most=CHUNK):
    """Call work(room, begin, end) for chunks of the images first to last - 1, of `most` at the most, here and, if there are many,
    in more threads, which hold no lock in compiled code. Raises what work raises."""
    threads, begins, lock, failures = torch.get_num_threads(), itertools.count(), threading.Lock(), []
    chunk = max(1, min(most, -(-(last - first) // threads)))

    def take():
        room = rooms.take()
        try:
            while True:
                with lock:
                    begin = first + next(begins) * chunk
                if begin >= last or failures:
                    break
                work(room, begin, min(begin + chunk, last))
        except BaseException as error:
            failures.append(error)
        rooms.free.append(room)

    others = [threading.Thread(target=take) for _ in range(min(threads, -(-(last - first) // chunk)) - 1)]
    for thread in others:
        thread.start()
    take()
    for thread in others:
        thread.join()
    if failures:
        raise failures[0]
