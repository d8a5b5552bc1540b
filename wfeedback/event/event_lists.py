"""Recordings as lists of events: checked, as frames, and as the kernel reads them.

A recording is an array of whole numbers (n, 1 + d). Each row is an event: its timestep,
and where it lies in an input of d dimensions: channel, row and column, or one number.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from self_models.errors import ModelError


class KernelEvents(NamedTuple):
    """The events of one recording, as ``Run`` in network.h has them.

    Attributes
    ----------
    first : ndarray of shape (T + 1,), int32
        Number of the first event of each timestep, and the number of events.
    neurons : ndarray of shape (n,), int32
        Number of the input neuron of each event, in the order of timesteps. The
        channels of a pixel have numbers side by side.
    values : ndarray of shape (n,), float32, or None
        What each event brings; None where it is 1.
    """

    first: np.ndarray
    neurons: np.ndarray
    values: np.ndarray | None


def check_recordings(
    recordings: Sequence, shape: tuple[int, ...], timesteps: int | None
) -> tuple[list[np.ndarray], int]:
    """Check recordings, and turn their rows into columns.

    Parameters
    ----------
    recordings : list of array-like of shape (n, 1 + d), int
        Events, see this module.
    shape : tuple of int
        Shape of the input, of d dimensions.
    timesteps : int or None
        How many timesteps they have. By default as many as the longest one needs.

    Returns
    -------
    columns : list of ndarray of shape (1 + d, n)
        For each recording the timesteps of its events, and where they lie.
    timesteps : int
        How many timesteps they have.

    Raises
    ------
    ModelError
        For other arrays, and for events outside of the timesteps or the shape.
    """
    recordings = [np.asarray(rows) for rows in recordings]
    if timesteps is None:
        timesteps = 1 + max(last_timestep(rows) for rows in recordings)
    limits = (timesteps, *shape)
    columns = []
    for number, rows in enumerate(recordings):
        is_whole = rows.dtype.kind in "iu"
        if rows.ndim != 2 or rows.shape[1] != len(limits) or not is_whole:
            raise ModelError(
                f"recording {number}: its events must be whole numbers (n, {len(limits)}), "
                f"not {rows.dtype} {rows.shape}"
            )
        columns.append(np.ascontiguousarray(rows.T))
        for values, limit in zip(columns[number], limits, strict=True):
            if len(rows) and (values.min() < 0 or values.max() >= limit):
                raise ModelError(
                    f"recording {number}: an event lies outside of {timesteps} timesteps "
                    f"and the sensor {tuple(shape)}"
                )
    return columns, timesteps


def last_timestep(rows: np.ndarray) -> int:
    """Return the last timestep of a recording; 0 where it has no rows of events."""
    if rows.ndim != 2 or not len(rows):
        return 0
    return int(rows[:, 0].max())


def event_frames(
    recordings: Sequence[np.ndarray], shape: tuple[int, ...], timesteps: int
) -> torch.Tensor:
    """Count the events of each timestep at each place.

    Parameters
    ----------
    recordings : list of ndarray of shape (1 + d, n)
        Columns of ``check_recordings``.
    shape : tuple of int
        Shape of the input.
    timesteps : int
        How many timesteps they have.

    Returns
    -------
    Tensor of shape (B, T, *shape), float32
    """
    frames = np.zeros((len(recordings), timesteps, *shape), np.float32)
    for frame, columns in zip(frames, recordings, strict=True):
        np.add.at(frame, tuple(columns), 1)
    return torch.from_numpy(frames)


def kernel_events(
    columns: Sequence[np.ndarray],
    shape: tuple[int, ...],
    timesteps: int,
    values: np.ndarray | None = None,
) -> KernelEvents:
    """Bring the events of a recording into the form of the kernel.

    Parameters
    ----------
    columns : sequence of ndarray of shape (n,)
        Timesteps of the events, and where they lie.
    shape : tuple of int
        Shape of the input.
    timesteps : int
        How many timesteps the recording has.
    values : ndarray of shape (n,), float32, optional
        What each event brings; by default 1. Only for events that are in the order of
        timesteps already: others are sorted here, and their values are not.

    Returns
    -------
    KernelEvents
        With the events in the order of timesteps.
    """
    time, *places = columns
    if (time[1:] < time[:-1]).any():
        order = time.argsort(kind="stable")
        time = time[order]
        places = [axis[order] for axis in places]
    strides = neuron_strides(shape)
    neurons = sum(
        axis.astype(np.int32) * stride for axis, stride in zip(places, strides, strict=True)
    )
    events_per_timestep = np.bincount(time, minlength=timesteps)
    # (T + 1,): before each timestep so many events came, and so many in all
    first = np.append(0, events_per_timestep.cumsum()).astype(np.int32)
    return KernelEvents(first, neurons, values)


def neuron_strides(shape: tuple[int, ...]) -> Sequence[int]:
    """Return by how much an input neuron's number grows along each axis of the input.

    In the kernel the channels of a pixel lie side by side, and images row by row.
    """
    if len(shape) == 2:
        return (1, shape[0])
    if len(shape) == 3:
        channels, _, width = shape
        return (1, width * channels, channels)
    return np.cumprod([1, *shape[:0:-1]])[::-1].tolist()


def kernel_events_of_frames(frames: torch.Tensor) -> list[KernelEvents]:
    """Return what is not 0 in frames (B, T, *shape) as events with values."""
    _, timesteps, *shape = frames.shape
    recordings = []
    for recording in frames.detach().numpy():
        values = recording[recording != 0].astype(np.float32)
        events = kernel_events(recording.nonzero(), tuple(shape), timesteps, values)
        recordings.append(events)
    return recordings


def arrived_by_timestep(recordings: Sequence[KernelEvents]) -> torch.Tensor:
    """Sum up the sizes of what arrives in each timestep.

    Parameters
    ----------
    recordings : list of KernelEvents
        B recordings of T timesteps. Of an event without a value the size is 1.

    Returns
    -------
    Tensor of shape (T, B), float32
    """
    arrived = []  # of each recording (T + 1,): the sum before each timestep, and of all
    for events in recordings:
        # first[t] is the number of the first event of timestep t. So it is also how
        # many events came before t; the last of its T + 1 values counts them all.
        first = events.first
        if events.values is None:
            arrived.append(first)
        else:
            sums = np.abs(events.values).cumsum(dtype=float)
            sums_before_event = np.append(0, sums)  # (n + 1,), with the sum of all n
            arrived.append(sums_before_event[first])
    by_timestep = np.diff(arrived)  # (B, T)
    return torch.from_numpy(by_timestep.T.astype(np.float32))
