"""Processes of one run: ranks 0 to N - 1, started by torchrun, without it rank 0 alone; and the signals that end them.

Every rank has the whole model and trains it on its part of every global batch; gradients are the ranks' means, as
DistributedDataParallel makes them. Each evaluates all images. Rank 0 alone writes files and lines.
"""

import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

OUTLIVE = []  # the group joined last, to the end of the process: freed in the frames of an error, gloo may wait for ever (2.13)


def rank():
    """This process's number among all ranks, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def count():
    """How many ranks there are, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first():
    """True for the rank that writes."""
    return rank() == 0


def local_rank():
    """Position among the ranks of this machine; picks the GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def process_group():
    """Join the other ranks that torchrun has started, if it has; leave them at the end. gloo on CPUs, nccl on GPUs."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        sys.exit(
            f"error: the ranks did not find each other ({' '.join(str(error).split())[:200]}); see docs/how_to/long_runs.md"
        )
    OUTLIVE[:] = [dist.group.WORLD]
    try:
        yield
    finally:
        with suppress(RuntimeError):
            dist.destroy_process_group()


def lost_contact(error):
    """True for a RuntimeError that says that another rank, or the way to it, is gone."""
    words = ("gloo", "nccl", "connection", "socket", "broken pipe", "timed out")
    return count() > 1 and (
        isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
    )


def gathered(value):
    """The ranks' values, in their order; every rank must ask. Tensors in them must be on the CPU."""
    values = [value] * count()
    if count() > 1:
        dist.all_gather_object(values, value)
    return values


def largest(value):
    """The largest of the ranks' whole numbers; every rank must ask."""
    return max(gathered(int(value)))


def from_first(read):
    """read() of rank 0, for every rank, so that a file need only lie on its machine."""
    return gathered(read() if is_first() else None)[0]


def part(index):
    """This rank's part of a batch's positions (N,); the first of them fill up parts that would be smaller."""
    size = -(-len(index) // count())
    return index[torch.arange(rank() * size, (rank() + 1) * size) % len(index)]


def parallel(model):
    """The model as one of several ranks trains it: called like it, and gradients are the ranks' means; with one rank the model
    itself. Its loss must reach the same weights in each step. Each rank normalises by its own part of a batch."""
    if count() == 1:
        return model
    device = next(model.parameters()).device
    where = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=where, static_graph=True)


# --- signals


class Interrupted(KeyboardInterrupt):
    """Ended by a signal; the message says what was saved and how to go on."""

    def __init__(self, number, message="interrupted"):
        super().__init__(message)
        self.number = int(number)


def end_at_once(number, frame):
    """The handler of a script that has nothing to save."""
    raise Interrupted(number)


@contextmanager
def handling(handler):
    """SIGINT and SIGTERM go to the handler meanwhile; only the main thread may say so, so nothing changes in another."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def noted_signals():
    """Both signals are only noted meanwhile: yields an object whose `caught` is the last one's number, 0 for none. A second
    SIGINT ends the program at once; not with several ranks, to which torchrun sends again what a terminal has sent already."""
    signals = SimpleNamespace(caught=0)

    def note(number, frame):
        if number == signals.caught == signal.SIGINT and count() == 1:
            raise Interrupted(number)
        signals.caught = int(number)

    with handling(note):
        yield signals
