"""Frames from files, in their order: a folder of images, a GIF, a video, or an array."""

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
    arrays must fit. invert: turn dark and bright round. Raises UserError for what cannot be read."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"--frames {path}: no such file or folder; give {KINDS}")
    try:
        if path.suffix.lower() in ARRAYS and path.is_file():
            frames = frames_of(arrays_in(path))
            checked_images(frames, model)
        else:
            frames = [torch.from_numpy(decoded(each, model.image_shape)) for each in pictures_in(path)]
            if not frames:
                raise ModelError("it has no frames")
            frames = torch.stack(frames)
    except ModelError as error:
        raise UserError(f"--frames {path}: {str(error).removeprefix(f'{path}: ')}") from None
    if not invert:
        return frames
    return 255 - frames if frames.dtype == torch.uint8 else -frames if has_colour(model.image_shape[0]) else 1 - frames


def arrays_in(path):
    """Name -> array of what a file holds, a lone one as 'frames'; of an array with fields, these. Raises ModelError."""
    try:
        with READING:
            held = np.load(path, allow_pickle=False)
            arrays = {"frames": held} if isinstance(held, np.ndarray) else dict(held)
    except Exception as error:  # NumPy raises whatever a damaged file makes of it
        raise ModelError(f"no array can be read from it ({reason(error, path)})") from None
    only = next(iter(arrays.values())) if len(arrays) == 1 else None
    if only is None or not only.dtype.names:
        return arrays if only is None else {"frames": only}
    return {name: only[name] for name in only.dtype.names}


def frames_of(arrays):
    """A tensor (N, C, H, W) of the arrays of a file, see arrays_in. Raises ModelError."""
    if "frames" not in arrays:
        raise ModelError(f"it holds {', '.join(arrays) or 'no array'}: name the array of the frames 'frames'")
    values = arrays["frames"]
    values = values[:, None] if values.ndim == 3 else values
    if values.ndim != 4 or not values.size:
        raise ModelError(f"frames must be (N, C, H, W) or (N, H, W), not of shape {values.shape}")
    return tensor_of(values)


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
