"""Threads, and the room in which each of them runs its images."""

import itertools
import math
import threading
from typing import NamedTuple

import torch

from self_models.event.compiled.counts import Activity, blank
from self_models.event.compiled.nets import State, new_state

CHUNK = 4  # images that a thread takes at once


class Room(NamedTuple):
    """What one thread runs its images in, and what it has counted so far."""

    state: State
    activity: Activity
    pixels: tuple


class Rooms:
    """The Rooms of a network: as many as there were threads at once; free: those that no thread is using."""

    def __init__(self, layout, activity):
        self.layout, self.activity, self.free = layout, activity, []

    def take(self):
        """A Room that no other thread is using."""
        try:
            return self.free.pop()
        except IndexError:
            from self_models.event.compiled.pixels import new_pixels

            return Room(new_state(self.activity.maps), blank(self.activity), new_pixels(math.prod(self.layout.shapes[0])))

    def counted(self):
        """The Activity of all of them together."""
        total = blank(self.activity)
        for room in self.free:
            total.events[:] += room.activity.events
        return total


def spread(work, rooms, first, last):
    """Call work(room, begin, end) for chunks of the images first to last - 1, here and, if there are many, in more threads, which
    hold no lock in compiled code. Raises what work raises."""
    threads, begins, lock, failures = torch.get_num_threads(), itertools.count(), threading.Lock(), []
    chunk = max(1, min(CHUNK, -(-(last - first) // threads)))

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
