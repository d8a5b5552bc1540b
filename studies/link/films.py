"""Films as the link takes them: grey, small, in 8 bits."""

import math
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from self_models.data.events import read_pictures
from self_models.errors import ModelError
from studies.link.shifts import GREY_LEVELS

MULTIPLE = 8  # pixels: frames are cropped to multiples of it
FEWEST_FRAMES = 3  # two come whole, and one is predicted


def read_film(path: Path, reduce_by: int = 1, most_frames: int | None = None) -> torch.Tensor:
    """Read a film in grey (luma after ITU-R BT.601).

    Parameters
    ----------
    path : Path
        A video, which takes the package av, an animated image or a folder of images.
    reduce_by : int
        How many times shorter each side becomes. A pixel is the mean of so many rows
        and columns.
    most_frames : int, optional
        Later ones are not read.

    Returns
    -------
    Tensor of shape (T, H, W), 0 to 1
        Multiples of 1 / 255, cropped in the middle to multiples of 8 pixels.

    Raises
    ------
    ModelError
        If it is no film, has fewer than three frames, or frames that are too small or
        of different sizes.
    """
    frames = []
    for picture in islice(read_pictures(Path(path)), most_frames):
        grey = np.asarray(picture.convert("L"), dtype=np.float64)
        frame = crop_middle(reduce_frame(grey, reduce_by))
        if 0 in frame.shape:
            height, width = grey.shape
            raise ModelError(
                f"frames of {width} x {height} pixels are too small to be reduced by {reduce_by}"
            )
        if frames and frame.shape != frames[0].shape:
            raise ModelError("its frames have different sizes")
        frames.append(frame)
    if len(frames) < FEWEST_FRAMES:
        raise ModelError(
            f"it has {len(frames)} frame{'s' * (len(frames) != 1)}, and a film needs "
            f"{FEWEST_FRAMES} or more"
        )
    levels = np.round(np.stack(frames)).astype(np.float32)
    return torch.from_numpy(levels) / GREY_LEVELS


def reduction_to(path: Path, height: int) -> int:
    """Return by how much a film must be reduced so that it is no higher than wanted.

    Parameters
    ----------
    path : Path
        See `read_film`.
    height : int
        In pixels.

    Returns
    -------
    int
        1 for a film that is small enough.
    """
    for picture in read_pictures(Path(path)):
        return max(1, math.ceil(picture.height / height))
    return 1  # no frames: `read_film` says so


def reduce_frame(frame: np.ndarray, by: int) -> np.ndarray:
    """Replace squares of pixels of a frame (H, W) by their mean."""
    height = frame.shape[0] // by
    width = frame.shape[1] // by
    squares = frame[: height * by, : width * by].reshape(height, by, width, by)
    return squares.mean((1, 3))


def crop_middle(frame: np.ndarray) -> np.ndarray:
    """Cut a frame (H, W) to multiples of 8 pixels, as much on both sides."""
    height = frame.shape[0] // MULTIPLE * MULTIPLE
    width = frame.shape[1] // MULTIPLE * MULTIPLE
    top = (frame.shape[0] - height) // 2
    left = (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]
