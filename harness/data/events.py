"""Recordings of event cameras: files of events, or of frames that count them."""

from typing import NamedTuple

import numpy as np

from harness.data.frames import arrays_in, frames_of
from self_models.basics import ModelError
from self_models.basics.files import reason

RECORDINGS = (".npy", ".npz", ".bin")


class Events(NamedTuple):
    """The events of a recording in order of time, arrays (N,): pixel, polarity (1: on), time in microseconds."""

    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    t: np.ndarray

    def inside(self, height, width):
        """These Events. Raises ModelError where one lies outside of so many pixels."""
        if (outside := (self.x < 0) | (self.y < 0) | (self.x >= width) | (self.y >= height)).any():
            at = f"x = {self.x[outside][0]}, y = {self.y[outside][0]}"
            raise ModelError(f"an event at {at} lies outside {width}x{height} pixels: choose smaller recordings, or crop them")
        return self

    def split(self, frames, by):
        """The frame of each event (N,), of so many that are alike in 'time' or 'number'."""
        if by == "number":
            return np.arange(len(self.t)) * frames // len(self.t)
        return (self.t - self.t[0]) * frames // (self.t[-1] - self.t[0] + 1)


def recording_in(path):
    """What a file holds, Events or an array of counts (T, 2, H, W): of N-MNIST (.bin: 40 bits an event), SpikingJelly or tonic.
    Raises ModelError."""
    arrays = nmnist_in(path) if path.suffix.lower() == ".bin" else arrays_in(path)
    if arrays.keys() >= {*Events._fields}:
        return checked_events(*(arrays[name] for name in Events._fields))
    counts = frames_of(arrays).numpy()
    if counts.shape[1] != 2:
        raise ModelError(f"frames must be (T, 2, H, W), of events off and on, not of shape {counts.shape}")
    if not (counts >= 0).all():
        raise ModelError("frames must be counts of events, and some are negative or no numbers")
    return counts


def nmnist_in(path):
    """Field -> array of a file of N-MNIST: bytes x, y, then a bit of polarity and 23 of microseconds. Raises ModelError."""
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ModelError(reason(error, path)) from None
    if len(raw) % 5:
        raise ModelError(f"its {len(raw):,} bytes are no whole events of 5 bytes: it was cut off, or is no recording of N-MNIST")
    x, y, high, middle, low = raw.reshape(-1, 5).T.astype(np.int64)
    return {"x": x, "y": y, "p": high >> 7, "t": (high & 127) << 16 | middle << 8 | low}


def checked_events(*fields):
    """The Events of these fields. Raises ModelError where they are none."""
    if any(one.ndim != 1 or one.shape != fields[0].shape or one.dtype.kind not in "iub" for one in fields):
        told = ", ".join(f"{one.dtype} {one.shape}" for one in fields)
        raise ModelError(f"x, y, p and t (in microseconds) must be whole numbers, one each for an event, not {told}")
    if not fields[0].size:
        raise ModelError("it has no events")
    x, y, p, t = (one.astype(np.int64) for one in fields)
    if (back := np.diff(t) < 0).any():
        n = int(back.argmax())
        raise ModelError(f"event {n + 1} is at {t[n + 1]} us, after one at {t[n]}: sort its events by t")
    return Events(x, y, (p > 0).astype(np.int64), t)


def size_in(path):
    """(T, 2, H, W) of a recording, int32: of Events T = 0 and what pixels they reach. Raises ModelError."""
    found = recording_in(path)
    size = (0, 2, found.y.max() + 1, found.x.max() + 1) if isinstance(found, Events) else found.shape
    return np.array(size, np.int32)


def steps_in(path, shape, bound, split_by="time"):
    """A recording as uint8 (T, 2, H, W), this shape: Events split as Events.split says, or neighbouring frames added up, as even
    as can be; a pixel that has had `bound` events or more in a timestep is 255, fewer count in proportion. Raises ModelError."""
    counts = recording_in(path)
    if isinstance(counts, Events):
        summed, found = np.zeros(shape), counts.inside(*shape[2:])
        np.add.at(summed, (found.split(shape[0], split_by), found.p, found.y, found.x), 1)
    elif counts.shape[1:] != shape[1:]:
        raise ModelError(f"frames are of shape {counts.shape[1:]}, not {shape[1:]}")
    else:
        first = -(-np.arange(shape[0]) * len(counts) // shape[0])
        summed = np.add.reduceat(counts, first, dtype=np.float64)
    return np.round(np.minimum(summed, bound) * (255 / bound)).astype(np.uint8)


def rows_in(path, shape, seconds, count=None):
    """(a recording for a network that takes this shape (C, H, W), int32 (n, 4): timestep, polarity, row and column of each event;
    its timesteps). A timestep lasts so many seconds, the first being that of the first event, or has `count` Events, or a frame.
    With C = 1 both polarities are alike. Raises ModelError."""
    found, (channels, height, width) = recording_in(path), shape
    if isinstance(found, Events):
        step = np.arange(len(found.t)) // count if count else np.floor(found.t / float(f"{1e6 * seconds:.12g}"))  # 123.0 is 123
        step = step.astype(np.int64) - int(step[0])
        rows, steps = np.stack([step, found.p, found.inside(height, width).y, found.x], 1), int(step[-1]) + 1
    elif count:
        raise ModelError("its frames are timesteps, each with the events that it has: leave out --events_per_step")
    elif found.shape[2:] != (height, width) or (found % 1).any():
        raise ModelError(f"frames must be counts of {width}x{height} pixels, whole numbers, and are {found.dtype} {found.shape}")
    else:
        rows, steps = np.argwhere(found).repeat(found[found > 0].astype(np.int64), 0), len(found)
    rows[:, 1] *= channels > 1
    return rows.astype(np.int32), steps
