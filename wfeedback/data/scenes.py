"""Scenes: frames that a streaming network sees, made of a data set's images.

``make_scene`` shows whole images, as ``SCENES`` says: it is for the stream script.
``moving_scenes`` shows digits that move over a torus.

What is drawn follows from the seed and the number of the stream alone.
"""

from collections.abc import Iterator
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
import torch

from self_models.data.images import has_colour
from self_models.data.sets import ImageSet
from self_models.errors import UserError
from self_models.running.draws import seed_for
from self_models.settings import Registry

# Name -> function (source, epsilon) that yields Frames for ever, of a Source.
SCENES = Registry("scene")
# What a pause shows: no input. The images of a colour network lie in -1 to 1.
GREY = 128  # to a colour network
BLACK = 0  # to a grey one
NO_LABEL = -1  # where there is nothing to be answered


class Scene(NamedTuple):
    """What B streams show in N frames.

    Attributes
    ----------
    frames : Tensor of shape (N, B, C, H, W), uint8
    labels : Tensor of shape (N, B), int64
        -1 where nothing is to be answered.
    """

    frames: torch.Tensor
    labels: torch.Tensor


class Frame(NamedTuple):
    """What a stream shows at a time.

    Attributes
    ----------
    pixels : array of shape (C, H, W), uint8
    label : int
        -1 where nothing is to be answered.
    """

    pixels: np.ndarray
    label: int


def make_scene(
    name: str,
    images: ImageSet,
    streams: int,
    frames: int,
    seed: int = 0,
    epsilon: float = 0.2,
) -> Scene:
    """Make a scene of a data set's images.

    Parameters
    ----------
    name : str
        One of ``SCENES``.
    images : ImageSet
    streams : int
        How many streams there are, each with draws of its own.
    frames : int
        How long each is.
    seed : int
    epsilon : float, 0 to 1
        Below and above which a pixel flickers in the scene "noise"; 1 is a pixel's
        range.

    Returns
    -------
    Scene

    Raises
    ------
    UserError
        If the images are of one class only.
    """
    if len(images.labels.unique()) < 2:
        raise UserError(
            "a scene shows images of one class after those of another, and these are all of one: "
            "use more images"
        )
    scene = SCENES.find(name)
    pixels = []
    labels = []
    for stream in range(streams):
        source = Source(images, seed_for(seed, f"{name} {stream}"))
        shown = list(islice(scene(source, epsilon), frames))
        pixels.append(np.stack([frame.pixels for frame in shown]))
        labels.append([frame.label for frame in shown])
    return Scene(torch.from_numpy(np.stack(pixels, 1)), torch.tensor(labels).T)


class Source:
    """Draws the images of a set, and numbers.

    Parameters
    ----------
    images : ImageSet
    seed : int

    Attributes
    ----------
    draw : numpy.random.Generator
    shape : tuple of int
        (C, H, W) of each image.
    """

    def __init__(self, images: ImageSet, seed: int):
        self.images = images
        self.draw = np.random.default_rng(seed)
        self.shape = tuple(images.images.shape[1:])

    def between(self, low: int, high: int) -> int:
        """Draw a whole number from low to high, both included."""
        return int(self.draw.integers(low, high + 1))

    def image(self, other_than: int = NO_LABEL) -> Frame:
        """Draw an image of another class than this one."""
        label = other_than
        while label == other_than:
            number = self.between(0, len(self.images.labels) - 1)
            label = int(self.images.labels[number])
        return Frame(self.images.images[number].numpy(), label)


@SCENES.register("switch")
def switch(source: Source, epsilon: float) -> Iterator[Frame]:
    """Show an image for 4 to 40 frames, then one of another class.

    Before half of them there is a pause of 4 to 16 frames that show nothing.
    """
    nothing = GREY if has_colour(source.shape[0]) else BLACK
    pause = Frame(np.full(source.shape, nothing, np.uint8), NO_LABEL)
    label = NO_LABEL
    while True:
        image = source.image(other_than=label)
        label = image.label
        yield from repeat(image, source.between(4, 40))
        if source.between(0, 1):
            yield from repeat(pause, source.between(4, 16))


@SCENES.register("watch")
def watch(source: Source, epsilon: float) -> Iterator[Frame]:
    """Show an image that stands still, until one of another class pushes it out.

    It stands still for nine tenths of the time. In the tenth between, the next one
    moves in from the right, by a column in each frame. The label is that of which more
    is seen.
    """
    width = source.shape[2]
    image = source.image()
    while True:
        yield from repeat(image, 9 * width)
        following = source.image(other_than=image.label)
        both = np.concatenate([image.pixels, following.pixels], 2)
        for column in range(1, width + 1):
            label = image.label if 2 * column < width else following.label
            yield Frame(both[..., column : column + width], label)
        image = following


@SCENES.register("part")
def part(source: Source, epsilon: float) -> Iterator[Frame]:
    """Show an image of which a quarter becomes that of other ones.

    It changes after every 10 to 30 frames, to the quarter of an image of another class.
    The label stays.
    """
    image, label = source.image()
    height = source.shape[1] // 2
    width = source.shape[2] // 2
    top = source.between(0, 1) * height
    left = source.between(0, 1) * width
    quarter = np.s_[:, top : top + height, left : left + width]
    pixels = image
    while True:
        yield from repeat(Frame(pixels, label), source.between(10, 30))
        pixels = image.copy()
        pixels[quarter] = source.image(other_than=label).pixels[quarter]


@SCENES.register("drift")
def drift(source: Source, epsilon: float) -> Iterator[Frame]:
    """Show an image that moves by a pixel in every fourth frame, straight or aslant.

    It moves by up to an eighth of its size to each side, where it turns round. What
    comes in at an edge is what was at it.
    """
    image, label = source.image()
    height, width = source.shape[1:]
    margins = [height // 8, width // 8]
    padding = [(0, 0)] + [(margin, margin) for margin in margins]
    padded = np.pad(image, padding, "edge")
    step = [0, 0]
    while step == [0, 0]:
        step = [source.between(-1, 1) for _ in margins]
    corner = list(margins)  # row and column of `padded` at which the frame begins
    while True:
        top, left = corner
        frame = padded[:, top : top + height, left : left + width]
        yield from repeat(Frame(frame, label), 4)
        for axis, margin in enumerate(margins):
            if not 0 <= corner[axis] + step[axis] <= 2 * margin:
                step[axis] = -step[axis]
            corner[axis] += step[axis]


@SCENES.register("noise")
def noise(source: Source, epsilon: float) -> Iterator[Frame]:
    """Show one image whose pixels flicker in each frame.

    For 40 frames they do so by up to half of epsilon, for 40 by up to one and a half.
    """
    image, label = source.image()
    while True:
        for amplitude in (0.5 * epsilon, 1.5 * epsilon):
            for _ in range(40):
                flicker = 255 * amplitude * source.draw.uniform(-1, 1, source.shape)
                pixels = np.clip(np.round(image + flicker), 0, 255).astype(np.uint8)
                yield Frame(pixels, label)


# --- scenes that move

KINDS = {"one": 1, "two": 2, "turn": 1, "bar": 1, "still": 1}  # of moving scenes -> digits
BAR_WIDTH = 6  # pixels


class Moving(NamedTuple):
    """N moving scenes of T frames, in each of which D digits are seen.

    Attributes
    ----------
    frames : Tensor of shape (N, T, H, W), uint8
    digits : Tensor of shape (N, T, D), int64
        Which of the images are seen.
    changed : Tensor of shape (N, T), bool
        Frames with a new velocity or another digit, the first frame among them.
    velocity : Tensor of shape (N, T, D, 2), int64
        In rows and columns per frame.
    """

    frames: torch.Tensor
    digits: torch.Tensor
    changed: torch.Tensor
    velocity: torch.Tensor


def moving_scenes(
    kind: str,
    images: torch.Tensor,
    scenes: int,
    frames: int,
    seed: int = 0,
    noise: float = 0.0,
    grey: bool = False,
    fastest: int = 2,
) -> Moving:
    """Make scenes of digits that move over a torus.

    Each digit has a new velocity in 3 % of the frames, and becomes another digit in 2
    %. The same seed makes the same scenes.

    Parameters
    ----------
    kind : {"one", "two", "turn", "bar", "still"}
        "one" digit, or "two", each with a velocity of its own, of which the brighter
        pixel is seen; "turn": it rotates, too; "bar": it moves behind a white bar that
        stands still; "still": it does not move.
    images : Tensor of shape (M, H, H), uint8
        The digits.
    scenes : int
        How many scenes are made.
    frames : int
        How long each is.
    seed : int
    noise : float, 0 to 1
        Share of the pixels that are inverted.
    grey : bool
        Whether pixels keep their brightness; else they become black or white.
    fastest : int
        Largest velocity in each direction, in pixels per frame.

    Returns
    -------
    Moving
    """
    draw = np.random.default_rng(seed_for(seed, f"moving {kind}"))
    size = images.shape[-1]
    num_digits = KINDS[kind]
    shape = (scenes, frames, num_digits)

    has_new_velocity = draw.random(shape) < 0.03
    has_new_digit = draw.random(shape) < 0.02
    digits = hold(draw.integers(len(images), size=shape), has_new_digit)
    velocity = hold(draw.integers(-fastest, fastest + 1, (*shape, 2)), has_new_velocity)
    if kind == "still":
        velocity = np.zeros_like(velocity)
    start = draw.integers(size, size=(scenes, 1, num_digits, 2))
    centres = start + velocity.cumsum(1)
    degrees_per_frame = hold(draw.uniform(-10, 10, shape), has_new_velocity)
    angles = degrees_per_frame.cumsum(1) * (np.pi / 180)
    if kind != "turn":
        angles = np.zeros_like(angles)

    pixels = place_digits(images.numpy(), digits, centres, angles).max(2)
    if kind == "bar":
        left = draw.integers(size, size=scenes)[:, None]
        in_bar = (np.arange(size) - left) % size < BAR_WIDTH  # (N, W)
        pixels[np.broadcast_to(in_bar[:, None, None], pixels.shape)] = 255
    if not grey:
        pixels = (pixels > 127) * np.uint8(255)
    is_inverted = draw.random(pixels.shape) < noise
    pixels = np.where(is_inverted, 255 - pixels, pixels)
    is_first = np.arange(frames) == 0
    changed = (has_new_velocity | has_new_digit).any(2) | is_first
    return Moving(
        frames=torch.from_numpy(pixels),
        digits=torch.from_numpy(digits),
        changed=torch.from_numpy(changed),
        velocity=torch.from_numpy(velocity),
    )


def hold(values: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """Let values stay as they are until a frame in which there is a new one.

    Parameters
    ----------
    values : array of shape (N, T, D) or (N, T, D, 2)
        A value of its own for each frame.
    is_new : array of shape (N, T, D), bool

    Returns
    -------
    array of the shape of values
    """
    frames = values.shape[1]
    number = np.arange(frames)[:, None]
    last_new = np.maximum.accumulate(np.where(is_new, number, 0), 1)
    more_axes = (1,) * (values.ndim - is_new.ndim)
    return np.take_along_axis(values, last_new.reshape(last_new.shape + more_axes), 1)


def place_digits(
    images: np.ndarray, digits: np.ndarray, centres: np.ndarray, angles: np.ndarray
) -> np.ndarray:
    """Draw each digit by itself, on a torus of the size of its image.

    Parameters
    ----------
    images : array of shape (M, H, H), uint8
    digits : array of shape (N, T, D), int64
        Which image is seen.
    centres : array of shape (N, T, D, 2), int64
        Row and column of its centre.
    angles : array of shape (N, T, D)
        How far it is turned, in radians.

    Returns
    -------
    array of shape (N, T, D, H, H), uint8
    """
    size = images.shape[-1]
    half = size // 2
    # How far each pixel lies from the digit's centre on the torus: (N, T, D, 2, H)
    offset = ((np.arange(size) - centres[..., None] + half) % size) - half
    down = offset[..., 0, :, None]
    right = offset[..., 1, None, :]
    # Where that is in the image, which is turned back
    cosine = np.cos(angles)[..., None, None]
    sine = np.sin(angles)[..., None, None]
    rows = np.rint(cosine * down - sine * right).astype(np.int64) + half
    columns = np.rint(sine * down + cosine * right).astype(np.int64) + half
    is_inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    seen = images[digits[..., None, None], rows.clip(0, size - 1), columns.clip(0, size - 1)]
    return seen * is_inside
