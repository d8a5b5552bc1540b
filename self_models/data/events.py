"""Files of what is seen over time.

These are recordings of event cameras, which hold events, or frames that count them, and
frames to stream. A recording's counts are of shape (T, 2, H, W): of events off and on.
"""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as imageio
import numpy as np
import torch
from PIL import Image
from torch import nn

from self_models.data.images import (
    decode_image,
    has_colour,
    image_sources,
    open_image,
    prepare_images,
    reason,
    tensor_of,
)
from self_models.errors import ModelError, UserError

ARRAYS = (".npy", ".npz")
RECORDINGS = (*ARRAYS, ".bin")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ogv", ".wmv")
ANIMATED = (".gif", ".apng", ".webp")
FRAMES = (
    f"a folder of images, {', '.join(ANIMATED)}, a video ({', '.join(VIDEOS)}), "
    "or an array (N, C, H, W) or (N, H, W) in .npy or .npz"
)
# One file is read at a time: NumPy's parsing of headers can fail in threads (ast,
# Python 3.11: SystemError).
READING = threading.Lock()
NMNIST_BYTES = 5  # of an event in a file of N-MNIST


# --- recordings


class Events(NamedTuple):
    """The events of a recording, in order of time.

    Attributes
    ----------
    x, y : array of shape (N,), int64
        Column and row of the pixel.
    p : array of shape (N,), int64
        Polarity; 1: on, brighter; 0: off.
    t : array of shape (N,), int64
        Time in microseconds.
    """

    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    t: np.ndarray

    def inside(self, height: int, width: int) -> "Events":
        """Return these events.

        Parameters
        ----------
        height, width : int
            How many pixels there are.

        Returns
        -------
        Events
            The same.

        Raises
        ------
        ModelError
            If one of them lies outside of these pixels.
        """
        is_outside = (self.x < 0) | (self.y < 0) | (self.x >= width) | (self.y >= height)
        if is_outside.any():
            first_x = self.x[is_outside][0]
            first_y = self.y[is_outside][0]
            raise ModelError(
                f"an event at x = {first_x}, y = {first_y} lies outside {width}x{height} pixels: "
                "choose smaller recordings, or crop them"
            )
        return self


def read_recording(path: Path, channels: int = 2) -> Events | np.ndarray:
    """Read a recording of N-MNIST (.bin), SpikingJelly or tonic.

    Parameters
    ----------
    path : Path
        The file.
    channels : int, default 2
        Frames may have so many channels, or two.

    Returns
    -------
    Events or array of shape (T, C, H, W)
        The events, or frames that count them, as the file has them.

    Raises
    ------
    ModelError
        If it is no such file.
    """
    if path.suffix.lower() == ".bin":
        arrays = read_nmnist(path)
    else:
        arrays = read_arrays(path)
    if arrays.keys() >= set(Events._fields):
        return check_events(*(arrays[name] for name in Events._fields))
    counts = get_frames(arrays).numpy()
    if not channels <= counts.shape[1] <= 2:
        raise ModelError(
            f"frames must be (T, 2, H, W), of events off and on, not of shape {counts.shape}"
        )
    if not (counts >= 0).all():
        raise ModelError("frames must be counts of events, and some are negative or no numbers")
    return counts


def read_nmnist(path: Path) -> dict[str, np.ndarray]:
    """Read a file of N-MNIST.

    An event has a byte x, a byte y, and then 24 bits, highest first: one of polarity
    and 23 of microseconds.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of {str: array of shape (N,), int64}
        The fields of `Events`.

    Raises
    ------
    ModelError
        If it cannot be read, or was cut off.
    """
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ModelError(reason(error, path)) from None
    if len(raw) % NMNIST_BYTES:
        raise ModelError(
            f"its {len(raw):,} bytes are no whole events of {NMNIST_BYTES} bytes: "
            "it was cut off, or is no recording of N-MNIST"
        )
    x, y, high, middle, low = raw.reshape(-1, NMNIST_BYTES).T.astype(np.int64)
    polarity = high >> 7
    time = (high & 127) << 16 | middle << 8 | low
    return {"x": x, "y": y, "p": polarity, "t": time}


def check_events(*fields: np.ndarray) -> Events:
    """Check the fields of events.

    Parameters
    ----------
    *fields : arrays
        x, y, p and t as a file has them.

    Returns
    -------
    Events
        The same as int64, with polarities 0 and 1.

    Raises
    ------
    ModelError
        If they are not whole numbers, one for each event, or not in order of time.
    """
    for field in fields:
        is_list = field.ndim == 1 and field.shape == fields[0].shape
        if not is_list or field.dtype.kind not in "iub":
            given = ", ".join(f"{field.dtype} {field.shape}" for field in fields)
            raise ModelError(
                "x, y, p and t (in microseconds) must be whole numbers, one each for an event, "
                f"not {given}"
            )
    if not fields[0].size:
        raise ModelError("it has no events")
    x, y, p, t = (field.astype(np.int64) for field in fields)
    goes_back = np.diff(t) < 0
    if goes_back.any():
        n = int(goes_back.argmax())
        raise ModelError(
            f"event {n + 1} is at {t[n + 1]} us, after one at {t[n]}: sort its events by t"
        )
    return Events(x, y, (p > 0).astype(np.int64), t)


def read_shape(path: Path) -> np.ndarray:
    """Return the shape of a recording.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    array of shape (4,), int32
        (T, 2, H, W). Of events T is 0, and H and W are how far they reach.

    Raises
    ------
    ModelError
        If it is no recording.
    """
    recording = read_recording(path)
    shape = recording.shape if isinstance(recording, np.ndarray) else shape_of_events(recording)
    return np.array(shape, np.int32)


def shape_of_events(events: Events) -> tuple[int, int, int, int]:
    """Return (0, 2, H, W): the pixels that events reach."""
    return 0, 2, events.y.max() + 1, events.x.max() + 1


def read_as_frames(
    path: Path, shape: tuple[int, int, int, int], bound: int, split_by: str = "time"
) -> np.ndarray:
    """Read a recording as frames of bytes.

    Parameters
    ----------
    path : Path
        The file.
    shape : tuple of int
        (T, 2, H, W) that the frames are to have. If a file has more frames, neighbours
        are added up, as evenly as can be.
    bound : int
        So many events of a pixel, or more, are 255, and fewer are in proportion.
    split_by : {"time", "number"}, default "time"
        Whether events are split into T parts of one duration, or of one number of
        events.

    Returns
    -------
    array of this shape, uint8
        The frames.

    Raises
    ------
    ModelError
        If it is no recording, or does not fit the shape.
    """
    num_frames = shape[0]
    recording = read_recording(path)
    if isinstance(recording, Events):
        x, y, p, t = recording.inside(*shape[2:])
        if split_by == "number":
            position = np.arange(len(t))
            end = len(t)
        else:
            position = t - t[0]
            end = t[-1] - t[0] + 1
        counts = np.zeros(shape)
        np.add.at(counts, (position * num_frames // end, p, y, x), 1)
    elif recording.shape[1:] != shape[1:]:
        raise ModelError(f"frames are of shape {recording.shape[1:]}, not {shape[1:]}")
    else:
        # Frame k begins with the first one of the file that is not before k / T of it.
        first = -(-np.arange(num_frames) * len(recording) // num_frames)
        counts = np.add.reduceat(recording, first, dtype=np.float64)
    return np.round(np.minimum(counts, bound) * (255 / bound)).astype(np.uint8)


def rows_in(
    path: Path, shape: tuple[int, int, int], seconds: float, count: int | None = None
) -> tuple[np.ndarray, int]:
    """Read a recording as a list of events, as GraphSNN takes it.

    Parameters
    ----------
    path : Path
        The file.
    shape : tuple of int
        (C, H, W) that a network takes. With C = 1 both polarities are alike, and frames
        may be of shape (T, 1, H, W).
    seconds : float
        Duration of a timestep. The first one is that of the first event. A frame is a
        timestep anyhow.
    count : int, optional
        A timestep has so many events instead. Only for a file of events.

    Returns
    -------
    rows : array of shape (n, 4), int32
        Timestep, polarity, row and column of each event.
    timesteps : int
        How many timesteps there are.

    Raises
    ------
    ModelError
        If it is no recording, or does not fit the network.
    """
    channels, height, width = shape
    recording = read_recording(path, channels)
    if isinstance(recording, Events):
        events = recording.inside(height, width)
        step = timesteps_of(events, seconds, count)
        rows = np.stack([step, events.p, events.y, events.x], 1)
        timesteps = int(step[-1]) + 1
    else:
        if count:
            raise ModelError(
                "its frames are timesteps, each with the events that it has: "
                "leave out --events_per_step"
            )
        check_counts(recording, height, width)
        repeats = recording[recording > 0].astype(np.int64)
        rows = np.argwhere(recording).repeat(repeats, 0)
        timesteps = len(recording)
    if channels == 1:
        rows[:, 1] = 0
    return rows.astype(np.int32), timesteps


def timesteps_of(events: Events, seconds: float, count: int | None) -> np.ndarray:
    """Return the timestep of each event, (N,) int64; see `rows_in`."""
    if count:
        step = np.arange(len(events.t)) // count
    else:
        # A product such as 1e6 * 0.000123 is rounded off, and would put an event at a
        # border into the timestep before.
        microseconds = float(f"{1e6 * seconds:.12g}")
        step = np.floor(events.t / microseconds)
    return step.astype(np.int64) - int(step[0])


def check_counts(frames: np.ndarray, height: int, width: int) -> None:
    """Raise ModelError unless frames are whole numbers, of so many pixels."""
    if frames.shape[2:] != (height, width) or (frames % 1).any():
        raise ModelError(
            f"frames must be counts of {width}x{height} pixels, whole numbers, "
            f"and are {frames.dtype} {frames.shape}"
        )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .npy or .npz file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of {str: array}
        By name. A lone array is called "frames"; one with fields is taken apart.

    Raises
    ------
    ModelError
        If it cannot be read.
    """
    try:
        with READING:
            content = np.load(path, allow_pickle=False)
            arrays = {"frames": content} if isinstance(content, np.ndarray) else dict(content)
    except Exception as error:  # NumPy raises whatever a damaged file makes of it
        raise ModelError(f"no array can be read from it ({reason(error, path)})") from None
    if len(arrays) != 1:
        return arrays
    (array,) = arrays.values()
    if array.dtype.names:
        return {name: array[name] for name in array.dtype.names}
    return {"frames": array}


def get_frames(arrays: dict[str, np.ndarray]) -> torch.Tensor:
    """Return the frames among the arrays of a file.

    Parameters
    ----------
    arrays : dict of {str: array}
        See `read_arrays`. "frames" is (N, C, H, W) or (N, H, W).

    Returns
    -------
    Tensor of shape (N, C, H, W)
        The frames.

    Raises
    ------
    ModelError
        If there are none.
    """
    if "frames" not in arrays:
        raise ModelError(
            f"it holds {', '.join(arrays) or 'no array'}: name the array of the frames 'frames'"
        )
    values = arrays["frames"]
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or not values.size:
        raise ModelError(f"frames must be (N, C, H, W) or (N, H, W), not of shape {values.shape}")
    return tensor_of(values)


# --- frames to stream


def read_frames(path: str | Path, model: nn.Module, invert: bool = False) -> torch.Tensor:
    """Read the frames of a file or folder, as a model takes images.

    Parameters
    ----------
    path : str or Path
        A folder of images, which come in the order of their names, numbers in these
        counting as numbers; a video or an animated image, whose pictures are resized as
        `read_images` does; or an array, which must fit.
    model : nn.Module
        The network.
    invert : bool, default False
        Turn dark and bright round.

    Returns
    -------
    Tensor of shape (N, C, H, W)
        uint8, or floats from an array of them.

    Raises
    ------
    UserError
        For what cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"--frames {path}: no such file or folder; give {FRAMES}")
    try:
        if path.suffix.lower() in ARRAYS and path.is_file():
            frames = get_frames(read_arrays(path))
            prepare_images(frames, model)
        else:
            shape = model.image_shape
            pictures = [
                torch.from_numpy(decode_image(image, shape)) for image in read_pictures(path)
            ]
            if not pictures:
                raise ModelError("it has no frames")
            frames = torch.stack(pictures)
    except ModelError as error:
        raise UserError(f"--frames {path}: {str(error).removeprefix(f'{path}: ')}") from None
    if invert:
        return inverted(frames)
    return frames


def inverted(frames: torch.Tensor) -> torch.Tensor:
    """Turn dark and bright round in images (..., C, H, W) as a model takes them."""
    if frames.dtype == torch.uint8:
        return 255 - frames
    if has_colour(frames.shape[-3]):  # in [-1, 1]
        return -frames
    return 1 - frames


def read_pictures(path: Path) -> Iterator[Image.Image]:
    """Yield the pictures of a folder, a video or an animated image.

    Parameters
    ----------
    path : Path
        The folder or file.

    Yields
    ------
    PIL image
        The next picture.

    Raises
    ------
    ModelError
        If it cannot be read.
    """
    ending = path.suffix.lower()
    if path.is_dir():
        for file in sorted(image_sources([path]), key=natural_sort_key):
            with open_image(file) as image:
                yield image
    elif ending in VIDEOS:
        yield from decode_pictures("pyav", path, "not a video")
    elif ending in ANIMATED:
        yield from decode_pictures("pillow", path, "no frames")
    else:
        raise ModelError(f"give {FRAMES}")


def decode_pictures(plugin: str, path: Path, fault: str) -> Iterator[Image.Image]:
    """Yield the pictures that a plugin of imageio reads; ``fault``: if it cannot."""
    try:
        for frame in imageio.imiter(path, plugin=plugin):
            yield Image.fromarray(frame)
    except ImportError:
        raise ModelError("to read a video a package is needed: pip install av") from None
    except Exception as error:  # each library raises whatever a damaged file makes of it
        raise ModelError(f"{fault}, or damaged ({reason(error, path)})") from None


def natural_sort_key(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts frame_2 before frame_10."""
    key = []
    for word in re.split("([0-9]+)", path.name):
        if word.isdigit():
            key.append((int(word), ""))
        else:
            key.append((-1, word))
    return key
