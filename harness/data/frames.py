"""Frames from files, in their order: a folder of images, a GIF, a video, or an array; and recordings of event cameras."""

import re
import threading
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from PIL import Image

from harness import UserError
from self_models.basics import ModelError
from self_models.basics.files import decoded, image_sources, opened, reason
from self_models.basics.images import checked_images, has_colour, tensor_of

READING = threading.Lock()  # one file at a time: NumPy's parsing of headers can fail in threads (ast, Python 3.11: SystemError)
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ogv", ".wmv")
ANIMATED = (".gif", ".apng", ".webp")
ARRAYS = (".npy", ".npz")
KINDS = (
    f"a folder of images, {', '.join(ANIMATED)}, a video ({', '.join(VIDEOS)}), or an array (N, C, H, W) or (N, H, W) in .npy "
    "or .npz"
)


def read_frames(path, model, invert=False):
    """The frames of a file or folder as the model takes images, (N, C, H, W), uint8, or floats from an array of them. Those of a
    folder come in the order of their names, the numbers in which count as numbers; pictures are resized as read_images does, and
    arrays must fit. invert: turn dark and bright round. Raises UserError for what cannot be read, or is of several sizes."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"--frames {path}: no such file or folder; give {KINDS}")
    try:
        if path.suffix.lower() in ARRAYS and path.is_file():
            frames = array_in(path)
            checked_images(frames, model)
        else:
            frames = torch.from_numpy(np.stack([decoded(each, model.image_shape) for each in same_size(pictures_in(path))]))
    except ModelError as error:
        raise UserError(f"--frames {path}: {str(error).removeprefix(f'{path}: ')}") from None
    if not invert:
        return frames
    return 255 - frames if frames.dtype == torch.uint8 else -frames if has_colour(model.image_shape[0]) else 1 - frames


def array_in(path):
    """A tensor (N, C, H, W) of what a file holds: the only array of an .npz, or that named frames. Raises ModelError."""
    try:
        with READING:
            held = np.load(path, allow_pickle=False)
            arrays = {"frames": held} if isinstance(held, np.ndarray) else dict(held)
    except Exception as error:  # NumPy raises whatever a damaged file makes of it
        raise ModelError(f"no array can be read from it ({reason(error, path)})") from None
    if len(arrays) != 1 and "frames" not in arrays:
        raise ModelError(f"it holds {', '.join(arrays) or 'no array'}: name the array of the frames 'frames'")
    values = arrays.get("frames", next(iter(arrays.values())))
    values = values[:, None] if values.ndim == 3 else values
    frames = tensor_of(values)
    if values.ndim != 4 or not values.size or not isinstance(frames, torch.Tensor):
        wanted = "numbers of at most 64 bits, (N, C, H, W) or (N, H, W)"
        raise ModelError(f"frames must be {wanted}, not {values.dtype} of shape {values.shape}")
    return frames


def recording_in(path):
    """The counts of events (T, 2, H, W), an array, in a file of SpikingJelly or tonic, see array_in. Raises ModelError."""
    counts = array_in(path).numpy()
    if counts.shape[1] != 2:
        raise ModelError(f"frames must be (T, 2, H, W), of events off and on, not of shape {counts.shape}")
    if not (counts >= 0).all() or not np.isfinite(counts).all():
        raise ModelError("frames must be counts of events, and some are negative or no numbers")
    return counts


def steps_in(path, shape, bound):
    """A recording as uint8 (steps, 2, H, W), this shape: neighbouring frames are added up to so many steps, as even as can be,
    and a pixel that has had `bound` events or more in a step is 255, fewer count in proportion. Raises ModelError."""
    counts = recording_in(path)
    if counts.shape[1:] != shape[1:]:
        raise ModelError(f"frames are of shape {counts.shape[1:]}, not {shape[1:]}")
    first = -(-np.arange(shape[0]) * len(counts) // shape[0])
    summed = np.add.reduceat(counts, first, dtype=np.float64)
    return np.round(np.minimum(summed, bound) * (255 / bound)).astype(np.uint8)


def pictures_in(path):
    """PIL images one after the other. Raises ModelError where they cannot be read."""
    if path.is_dir():
        for file in sorted(image_sources([path]), key=by_numbers):
            with opened(file) as image:
                yield image
        return
    is_video = path.suffix.lower() in VIDEOS
    if not is_video and path.suffix.lower() not in ANIMATED:
        raise ModelError(f"give {KINDS}")
    try:
        for frame in imageio.imiter(path, plugin="pyav" if is_video else "pillow"):
            yield Image.fromarray(frame)
    except ImportError:
        raise ModelError("to read a video a package is needed: pip install av") from None
    except Exception as error:  # each library raises whatever a damaged file makes of it
        raise ModelError(f"{'not a video' if is_video else 'no frames'}, or damaged ({reason(error, path)})") from None


def by_numbers(path):
    """What sorts frame_2 before frame_10."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split("([0-9]+)", path.name)]


def same_size(pictures):
    """The pictures as they come. Raises ModelError for one that has not the size of the first, and for none at all."""
    size = None
    for number, picture in enumerate(pictures):
        size = size or picture.size
        if picture.size != size:
            sizes = " and ".join("{} x {}".format(*each) for each in (size, picture.size))
            raise ModelError(f"frames 0 and {number} are of {sizes} pixels: all must be of one size")
        yield picture
    if size is None:
        raise ModelError("it has no frames")
