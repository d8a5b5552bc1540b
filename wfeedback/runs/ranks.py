"""The processes of one run, called ranks, and the signals that end them.

``torchrun`` starts N ranks, numbered from 0. Without it there is rank 0 alone. Every
rank has the whole model and trains it on its part of every global batch; gradients are
the means over ranks, as DistributedDataParallel makes them. Every rank evaluates all
images. Only rank 0 writes files and prints lines.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# The group that was joined last is kept until the process ends. If it were freed in the
# frames of an error, gloo could wait for ever (seen in torch 2.13).
OUTLIVE = []


def rank() -> int:
    """Return this process's number among all ranks, 0 without torchrun."""
    if dist.is_initialized():
        return dist.get_rank()
    return 0


def count() -> int:
    """Return the number of ranks, 1 without torchrun."""
    if dist.is_initialized():
        return dist.get_world_size()
    return 1


def is_first() -> bool:
    """Return whether this is the rank that writes."""
    return rank() == 0


def local_rank() -> int:
    """Return this process's number on this machine, which picks the GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def process_group() -> Iterator[None]:
    """Join the ranks that torchrun has started, if any, and leave them at the end.

    A group that this process has joined already stays. Tensors on CPUs travel by gloo,
    those on GPUs by nccl. If the ranks do not find each other, the program ends with a
    line that says so.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1 or dist.is_initialized():
        yield
        return

    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        sys.exit(
            f"error: the ranks did not find each other ({reason}); see docs/how_to/long_runs.md"
        )
    OUTLIVE[:] = [dist.group.WORLD]  # see there: gloo could wait for ever without it
    try:
        yield
    finally:
        with suppress(RuntimeError):  # if another rank has gone, there is nothing to leave
            dist.destroy_process_group()


def lost_contact(error: Exception) -> bool:
    """Return whether an error says that another rank, or the way to it, is gone.

    Parameters
    ----------
    error : Exception
        What was raised. torch raises most of these as a plain RuntimeError, so that
        only the message tells.

    Returns
    -------
    bool
        False if there is one rank alone.
    """
    if count() == 1:
        return False
    if isinstance(error, dist.DistError):
        return True
    message = str(error).lower()
    causes = ("gloo", "nccl", "connection", "socket", "broken pipe", "timed out")
    return any(cause in message for cause in causes)


def gathered(value: Any) -> list:
    """Collect a value of every rank. Every rank must call this.

    Parameters
    ----------
    value : object
        This rank's value. Tensors in it must be on the CPU.

    Returns
    -------
    list
        The values of all ranks, in the order of ranks.
    """
    values = [value] * count()
    if count() > 1:
        dist.all_gather_object(values, value)
    return values


def largest(value: int) -> int:
    """Return the largest of the ranks' whole numbers. Every rank must call this."""
    return max(gathered(int(value)))


def from_first(read: Callable[[], Any]) -> Any:
    """Call a function on rank 0 and give its result to every rank.

    So a file need only lie on the machine of rank 0. Every rank must call this.

    Parameters
    ----------
    read : callable
        Takes nothing. Its result must be something that can be pickled.

    Returns
    -------
    object
        What ``read()`` has returned on rank 0.
    """
    value = None
    if is_first():
        value = read()
    return gathered(value)[0]


def part(index: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a batch.

    All parts have the same size. Where N does not divide evenly, the last parts are
    filled up with images from the start of the batch, so that some images occur twice.

    Parameters
    ----------
    index : Tensor of shape (N,)
        Positions of the batch's images in the data set.

    Returns
    -------
    Tensor of shape (ceil(N / number of ranks),)
        Positions of this rank's images.
    """
    size = -(-len(index) // count())  # rounded up
    first = rank() * size
    within_batch = torch.arange(first, first + size) % len(index)
    return index[within_batch]


def parallel(model: nn.Module) -> nn.Module:
    """Wrap a model so that the gradients of all ranks are averaged.

    Parameters
    ----------
    model : nn.Module
        The model, the same on every rank.

    Returns
    -------
    nn.Module
        Is called like the model; with one rank it is the model. Its loss must reach the
        same weights in every step. Batch norm uses each rank's own part of a batch.
    """
    if count() == 1:
        return model
    device = next(model.parameters()).device
    device_ids = None
    if device.type == "cuda":
        device_ids = [device.index]
    return DistributedDataParallel(model, device_ids=device_ids, static_graph=True)


# --- signals


class Interrupted(KeyboardInterrupt):
    """The program was ended by a signal.

    Parameters
    ----------
    number : int
        Number of the signal.
    message : str
        What was saved, and how to go on.
    """

    def __init__(self, number: int, message: str = "interrupted"):
        super().__init__(message)
        self.number = int(number)


def end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal in a script that has nothing to save: raise Interrupted."""
    raise Interrupted(number)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Send SIGINT and SIGTERM to a handler for the time of a ``with`` block.

    Parameters
    ----------
    handler : callable
        Takes the signal's number and the present frame, as `signal.signal` has it.
    """
    # Python lets only the main thread set handlers; in another thread nothing changes.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        earlier[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old_handler in earlier.items():
            signal.signal(number, old_handler)


@contextmanager
def noted_signals() -> Iterator[SimpleNamespace]:
    """Note SIGINT and SIGTERM during a ``with`` block instead of ending at once.

    If SIGINT comes twice in a row, the program ends at once. With several ranks it does
    not, because one Ctrl-C arrives twice: from the terminal and from torchrun.

    Yields
    ------
    SimpleNamespace
        Its ``caught`` is the number of the last signal, 0 for none.
    """
    signals = SimpleNamespace(caught=0)

    def note(number, frame):
        is_second = number == signal.SIGINT and signals.caught == signal.SIGINT
        if is_second and count() == 1:
            raise Interrupted(number)
        signals.caught = int(number)

    with handling(note):
        yield signals
