"""Files of what is seen over time: recordings of event cameras (events, or frames that count them), and frames to stream."""

import re
import threading
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as imageio
import numpy as np
import torch
from PIL import Image

from self_models.basics import ModelError, UserError
from self_models.basics.images import (
    checked_images,
    decoded,
    has_colour,
    image_sources,
    opened,
    reason,
    tensor_of,
)

ARRAYS = (".npy", ".npz")
RECORDINGS = (*ARRAYS, ".bin")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ogv", ".wmv")
ANIMATED = (".gif", ".apng", ".webp")
FRAMES = (
    f"a folder of images, {', '.join(ANIMATED)}, a video ({', '.join(VIDEOS)}), or an array (N, C, H, W) or (N, H, W) in .npy "
    "or .npz"
)
READING = threading.Lock()  # one file at a time: NumPy's parsing of headers can fail in threads (ast, Python 3.11: SystemError)


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
            raise ModelError(
                f"an event at {at} lies outside {width}x{height} pixels: choose smaller recordings, or crop them"
            )
        return self


def recording_in(path, channels=2):
    """Events, or counts (T, C, H, W), of N-MNIST (.bin), SpikingJelly or tonic; C may be `channels` or 2. Raises ModelError."""
    arrays = nmnist_in(path) if path.suffix.lower() == ".bin" else arrays_in(path)
    if arrays.keys() >= {*Events._fields}:
        return checked_events(*(arrays[name] for name in Events._fields))
    counts = frames_of(arrays).numpy()
    if not channels <= counts.shape[1] <= 2:
        raise ModelError(
            f"frames must be (T, 2, H, W), of events off and on, not of shape {counts.shape}"
        )
    if not (counts >= 0).all():
        raise ModelError("frames must be counts of events, and some are negative or no numbers")
    return counts


def nmnist_in(path):
    """Fields of a file of N-MNIST: of each event bytes x and y, a bit of polarity, 23 of microseconds. Raises ModelError."""
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ModelError(reason(error, path)) from None
    if len(raw) % 5:
        raise ModelError(
            f"its {len(raw):,} bytes are no whole events of 5 bytes: it was cut off, or is no recording of N-MNIST"
        )
    x, y, high, middle, low = raw.reshape(-1, 5).T.astype(np.int64)
    return {"x": x, "y": y, "p": high >> 7, "t": (high & 127) << 16 | middle << 8 | low}


def checked_events(*fields):
    """The Events of these fields. Raises ModelError where they are none."""
    if any(
        field.ndim != 1 or field.shape != fields[0].shape or field.dtype.kind not in "iub"
        for field in fields
    ):
        given = ", ".join(f"{field.dtype} {field.shape}" for field in fields)
        raise ModelError(
            f"x, y, p and t (in microseconds) must be whole numbers, one each for an event, not {given}"
        )
    if not fields[0].size:
        raise ModelError("it has no events")
    x, y, p, t = (field.astype(np.int64) for field in fields)
    if (back := np.diff(t) < 0).any():
        n = int(back.argmax())
        raise ModelError(
            f"event {n + 1} is at {t[n + 1]} us, after one at {t[n]}: sort its events by t"
        )
    return Events(x, y, (p > 0).astype(np.int64), t)


def size_in(path):
    """(T, 2, H, W) of a recording, int32: of Events T = 0 and what pixels they reach. Raises ModelError."""
    recording = recording_in(path)
    is_events = isinstance(recording, Events)
    return np.array(
        (0, 2, recording.y.max() + 1, recording.x.max() + 1) if is_events else recording.shape,
        np.int32,
    )


def steps_in(path, shape, bound, split_by="time"):
    """A recording as uint8 (T, 2, H, W), this shape: 255 for `bound` events or more, fewer in proportion. Events are split into T
    equal parts in 'time' or 'number'; of frames neighbours are added up, as even as can be. Raises ModelError."""
    recording = recording_in(path)
    if isinstance(recording, Events):
        x, y, p, t = recording.inside(*shape[2:])
        place, whole = (
            (np.arange(len(t)), len(t)) if split_by == "number" else (t - t[0], t[-1] - t[0] + 1)
        )
        counts = np.zeros(shape)
        np.add.at(counts, (place * shape[0] // whole, p, y, x), 1)
    elif recording.shape[1:] != shape[1:]:
        raise ModelError(f"frames are of shape {recording.shape[1:]}, not {shape[1:]}")
    else:
        first = -(-np.arange(shape[0]) * len(recording) // shape[0])
        counts = np.add.reduceat(recording, first, dtype=np.float64)
    return np.round(np.minimum(counts, bound) * (255 / bound)).astype(np.uint8)


def rows_in(path, shape, seconds, count=None):
    """(a recording for a network that takes this shape (C, H, W), int32 (n, 4): timestep, polarity, row and column of each event;
    its timesteps). A timestep lasts so many seconds, the first being that of the first event, or has `count` Events, or a frame.
    With C = 1 both polarities are alike, and frames may be (T, 1, H, W). Raises ModelError."""
    channels, height, width = shape
    recording = recording_in(path, channels)
    if isinstance(recording, Events):
        x, y, p, t = recording.inside(height, width)
        step = (
            np.arange(len(t)) // count if count else np.floor(t / float(f"{1e6 * seconds:.12g}"))
        )  # 123.0 is 123
        step = step.astype(np.int64) - int(step[0])
        rows, steps = np.stack([step, p, y, x], 1), int(step[-1]) + 1
    elif count:
        raise ModelError(
            "its frames are timesteps, each with the events that it has: leave out --events_per_step"
        )
    elif recording.shape[2:] != (height, width) or (recording % 1).any():
        given = f"{recording.dtype} {recording.shape}"
        raise ModelError(
            f"frames must be counts of {width}x{height} pixels, whole numbers, and are {given}"
        )
    else:
        rows, steps = (
            np.argwhere(recording).repeat(recording[recording > 0].astype(np.int64), 0),
            len(recording),
        )
    if channels == 1:
        rows[:, 1] = 0
    return rows.astype(np.int32), steps


def arrays_in(path):
    """Name -> array of a file, a lone one as 'frames'; of an array with fields, these. Raises ModelError."""
    try:
        with READING:
            content = np.load(path, allow_pickle=False)
            arrays = {"frames": content} if isinstance(content, np.ndarray) else dict(content)
    except Exception as error:  # NumPy raises whatever a damaged file makes of it
        raise ModelError(f"no array can be read from it ({reason(error, path)})") from None
    if len(arrays) != 1:
        return arrays
    (only,) = arrays.values()
    return (
        {name: only[name] for name in only.dtype.names} if only.dtype.names else {"frames": only}
    )


def frames_of(arrays):
    """A tensor (N, C, H, W) of the arrays of a file, see arrays_in. Raises ModelError."""
    if "frames" not in arrays:
        raise ModelError(
            f"it holds {', '.join(arrays) or 'no array'}: name the array of the frames 'frames'"
        )
    values = arrays["frames"]
    values = values[:, None] if values.ndim == 3 else values
    if values.ndim != 4 or not values.size:
        raise ModelError(f"frames must be (N, C, H, W) or (N, H, W), not of shape {values.shape}")
    return tensor_of(values)


# --- frames to stream


def read_frames(path, model, invert=False):
    """The frames of a file or folder as the model takes images, (N, C, H, W), uint8, or floats from an array of them. Those of a
    folder come in the order of their names, the numbers in which count as numbers; pictures are resized as read_images does, and
    arrays must fit. invert: turn dark and bright round. Raises UserError for what cannot be read."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"--frames {path}: no such file or folder; give {FRAMES}")
    try:
        if path.suffix.lower() in ARRAYS and path.is_file():
            frames = frames_of(arrays_in(path))
            checked_images(frames, model)
        else:
            frames = [
                torch.from_numpy(decoded(picture, model.image_shape))
                for picture in pictures_in(path)
            ]
            if not frames:
                raise ModelError("it has no frames")
            frames = torch.stack(frames)
    except ModelError as error:
        raise UserError(f"--frames {path}: {str(error).removeprefix(f'{path}: ')}") from None
    if not invert:
        return frames
    return (
        255 - frames
        if frames.dtype == torch.uint8
        else -frames
        if has_colour(model.image_shape[0])
        else 1 - frames
    )


def pictures_in(path):
    """PIL images one after the other. Raises ModelError where they cannot be read."""
    if path.is_dir():
        for file in sorted(image_sources([path]), key=by_numbers):
            with opened(file) as image:
                yield image
        return
    is_video = path.suffix.lower() in VIDEOS
    if not is_video and path.suffix.lower() not in ANIMATED:
        raise ModelError(f"give {FRAMES}")
    try:
        for frame in imageio.imiter(path, plugin="pyav" if is_video else "pillow"):
            yield Image.fromarray(frame)
    except ImportError:
        raise ModelError("to read a video a package is needed: pip install av") from None
    except Exception as error:  # each library raises whatever a damaged file makes of it
        raise ModelError(
            f"{'not a video' if is_video else 'no frames'}, or damaged ({reason(error, path)})"
        ) from None


def by_numbers(path):
    """What sorts frame_2 before frame_10."""
    return [
        (int(word), "") if word.isdigit() else (-1, word)
        for word in re.split("([0-9]+)", path.name)
    ]
