"""Scenes: images of a data set, one after the other, for networks that stream.

A scene is what a network sees while the world changes. It is a function of a Source and
of epsilon, and yields frames for ever: each an image (C, H, W) uint8 with its label, or
-1 where there is nothing to be answered. What is drawn follows from the seed and the
number of the stream alone.

``moving_scenes`` makes frames in which digits move, for the benchmarks.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from harness import UserError
from self_models.basics.images import has_colour
from self_models.basics.settings import Registry
from self_models.data.sets import ImageSet
from self_models.runtime.draws import seed_for

SCENES = Registry("scene")  # name -> function (source, epsilon) that yields frames
GREY = 128  # what a pause shows: no input of a colour network, whose images lie in -1 to 1
BLACK = 0  # or of a grey one
NOTHING = -1  # label of a frame in which there is nothing to be answered

Frames = Iterator[tuple[np.ndarray, int]]  # images (C, H, W), uint8, and labels


class Scene(NamedTuple):
    """What B streams show in N frames.

    Attributes
    ----------
    frames : Tensor of shape (N, B, C, H, W), uint8
        The images.
    labels : Tensor of shape (N, B), int64
        Their labels, -1 where nothing is to be answered.
    """

    frames: torch.Tensor
    labels: torch.Tensor


class Source:
    """Images of a set, and numbers, drawn one after the other.

    Parameters
    ----------
    images : ImageSet
        The images.
    seed : int
        From which all that is drawn follows.

    Attributes
    ----------
    draw : numpy.random.Generator
        What draws.
    shape : tuple of int
        (C, H, W) of an image.
    """

    def __init__(self, images: ImageSet, seed: int):
        self.images = images
        self.draw = np.random.default_rng(seed)
        self.shape = tuple(images.images.shape[1:])

    def between(self, low: int, high: int) -> int:
        """Draw a whole number, low to high."""
        return int(self.draw.integers(low, high + 1))

    def image(self, but: int = NOTHING) -> tuple[np.ndarray, int]:
        """Draw an image (C, H, W) of another class than ``but``, with its label."""
        label = but
        while label == but:
            number = self.between(0, len(self.images.labels) - 1)
            label = int(self.images.labels[number])
        return self.images.images[number].numpy(), label


def make_scene(
    name: str,
    images: ImageSet,
    streams: int,
    frames: int,
    seed: int = 0,
    epsilon: float = 0.2,
) -> Scene:
    """Make a scene of the images of a set.

    Parameters
    ----------
    name : str
        One of SCENES.
    images : ImageSet
        Images, and their labels.
    streams : int
        Number of streams B. Each shows a scene of its own.
    frames : int
        Number of frames N.
    seed : int
        From which all follows.
    epsilon : float
        0 to 1, where 1 is a pixel's range. In the scene "noise" pixels flicker by less
        than it, and by more.

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
        pixels.append(np.stack([image for image, _ in shown]))
        labels.append([label for _, label in shown])
    return Scene(torch.from_numpy(np.stack(pixels, 1)), torch.tensor(labels).T)


@SCENES.register("switch")
def switch(source: Source, epsilon: float) -> Frames:
    """Show an image for 4 to 40 frames, then one of another class.

    Before half of them is a pause of 4 to 16 frames that show nothing.
    """
    background = GREY if has_colour(source.shape[0]) else BLACK
    pause = np.full(source.shape, background, np.uint8)
    label = NOTHING
    while True:
        image, label = source.image(label)
        yield from [(image, label)] * source.between(4, 40)
        if source.between(0, 1):
            yield from [(pause, NOTHING)] * source.between(4, 16)


@SCENES.register("watch")
def watch(source: Source, epsilon: float) -> Frames:
    """Show an image that stands still for nine tenths of the time.

    In the tenth between, an image of another class pushes it out at the left, by a
    column in each frame. The label is that of which more is seen.
    """
    image, label = source.image()
    width = source.shape[2]
    while True:
        yield from [(image, label)] * (9 * width)
        next_image, next_label = source.image(label)
        both = np.concatenate([image, next_image], 2)
        for column in range(1, width + 1):
            seen_label = label if 2 * column < width else next_label
            yield both[..., column : column + width], seen_label
        image = next_image
        label = next_label


@SCENES.register("part")
def part(source: Source, epsilon: float) -> Frames:
    """Show an image of which a quarter becomes that of one of another class.

    It does so after every 10 to 30 frames. The label stays.
    """
    image, label = source.image()
    _, height, width = source.shape
    top = source.between(0, 1) * (height // 2)
    left = source.between(0, 1) * (width // 2)
    quarter = np.s_[:, top : top + height // 2, left : left + width // 2]
    shown = image
    while True:
        yield from [(shown, label)] * source.between(10, 30)
        other, _ = source.image(label)
        shown = image.copy()
        shown[quarter] = other[quarter]


@SCENES.register("drift")
def drift(source: Source, epsilon: float) -> Frames:
    """Show an image that moves by a pixel in every fourth frame, straight or aslant.

    It moves by up to an eighth of its size to each side, where it turns round. What
    comes in at an edge is what was at it.
    """
    image, label = source.image()
    _, height, width = source.shape
    room = [height // 8, width // 8]  # to each side, in rows and columns
    borders = [(0, 0), (room[0], room[0]), (room[1], room[1])]
    padded = np.pad(image, borders, "edge")
    step = [0, 0]
    while step == [0, 0]:
        step = [source.between(-1, 1), source.between(-1, 1)]
    place = list(room)  # of the image's corner in the padded one
    while True:
        top, left = place
        yield from [(padded[:, top : top + height, left : left + width], label)] * 4
        for axis in range(2):
            if not 0 <= place[axis] + step[axis] <= 2 * room[axis]:
                step[axis] = -step[axis]
            place[axis] += step[axis]


@SCENES.register("noise")
def noise(source: Source, epsilon: float) -> Frames:
    """Show one image whose pixels flicker in each frame.

    They do so for 40 frames by up to half of epsilon, and for 40 by up to one and a
    half.
    """
    image, label = source.image()
    while True:
        for largest in (0.5 * epsilon, 1.5 * epsilon):
            for _ in range(40):
                flicker = 255 * largest * source.draw.uniform(-1, 1, source.shape)
                yield np.clip(np.round(image + flicker), 0, 255).astype(np.uint8), label


# --- scenes that move

KINDS = {"one": 1, "two": 2, "turn": 1, "bar": 1, "still": 1}  # of moving scenes -> digits
TURN_SHARE = 0.03  # of the frames: a digit gets a new velocity
CHANGE_SHARE = 0.02  # of the frames: a digit becomes another
BAR_WIDTH = 6  # columns


class Moving(NamedTuple):
    """Scenes of moving digits.

    Attributes
    ----------
    frames : Tensor of shape (N, T, H, W), uint8
        T frames of each of N scenes.
    digits : Tensor of shape (N, T, digits), int64
        Which images are seen.
    changed : Tensor of shape (N, T), bool
        Frames with a new velocity or another digit, the first one among them.
    velocity : Tensor of shape (N, T, digits, 2), int64
        Rows and columns per frame.
    """

    frames: torch.Tensor
    digits: torch.Tensor
    changed: torch.Tensor
    velocity: torch.Tensor


def moving_scenes(  # noqa: PLR0913  (what a scene of the benchmarks has)
    kind: str,
    images: torch.Tensor,
    scenes: int,
    frames: int,
    seed: int = 0,
    noise: float = 0.0,
    grey: bool = False,
    fastest: int = 2,
) -> Moving:
    """Make scenes of digits that move on a torus.

    In 3 % of the frames a digit has a new velocity, and in 2 % it becomes another.

    Parameters
    ----------
    kind : {"one", "two", "turn", "bar", "still"}
        One digit; two, each on its own way, of which the brighter pixel is seen; one
        that rotates, too; one behind a white bar that stands still; one that does not
        move.
    images : Tensor of shape (M, H, H), uint8
        Digits.
    scenes, frames : int
        Number of scenes N, and of frames T of each.
    seed : int
        From which all follows.
    noise : float
        Share of the pixels that are inverted.
    grey : bool
        Whether pixels keep their grey values, else they are black or white.
    fastest : int
        Largest velocity, in pixels per frame and direction.

    Returns
    -------
    Moving
    """
    draw = np.random.default_rng(seed_for(seed, f"moving {kind}"))
    size = images.shape[-1]
    count = KINDS[kind]
    axes = (scenes, frames, count)

    turns = draw.random(axes) < TURN_SHARE
    becomes_other = draw.random(axes) < CHANGE_SHARE
    digits = hold(draw.integers(len(images), size=axes), becomes_other)
    velocity = hold(draw.integers(-fastest, fastest + 1, (*axes, 2)), turns) * (kind != "still")
    place = draw.integers(size, size=(scenes, 1, count, 2)) + velocity.cumsum(1)
    rotation = hold(draw.uniform(-10, 10, axes), turns)  # degrees per frame
    angle = rotation.cumsum(1) * (np.pi / 180) * (kind == "turn")

    pixels = render_digits(images.numpy(), digits, place, angle).max(2)
    if kind == "bar":
        first_column = draw.integers(size, size=scenes)[:, None]
        is_bar = (np.arange(size) - first_column) % size < BAR_WIDTH
        pixels[np.broadcast_to(is_bar[:, None, None], pixels.shape)] = 255
    if not grey:
        pixels = (pixels > 127) * np.uint8(255)
    is_inverted = draw.random(pixels.shape) < noise
    pixels = np.where(is_inverted, 255 - pixels, pixels)
    is_first = np.arange(frames) == 0
    changed = (turns | becomes_other).any(2) | is_first
    return Moving(
        torch.from_numpy(pixels),
        torch.from_numpy(digits),
        torch.from_numpy(changed),
        torch.from_numpy(velocity),
    )


def hold(values: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """Keep values until the next new one.

    Parameters
    ----------
    values : ndarray of shape (N, T, digits, ...)
        A value for each frame.
    is_new : ndarray of shape (N, T, digits), bool
        Frames whose value counts, until the next such frame. The first one always does.

    Returns
    -------
    ndarray of the shape of ``values``
    """
    number = np.arange(is_new.shape[1])[:, None]
    latest = np.maximum.accumulate(np.where(is_new, number, 0), 1)
    more_axes = (1,) * (values.ndim - latest.ndim)
    return np.take_along_axis(values, latest.reshape(latest.shape + more_axes), 1)


def render_digits(
    images: np.ndarray, digits: np.ndarray, place: np.ndarray, angle: np.ndarray
) -> np.ndarray:
    """Draw digits on a torus.

    Parameters
    ----------
    images : ndarray of shape (M, H, H), uint8
        Digits.
    digits : ndarray of shape (N, T, digits), int
        Which of them are drawn.
    place : ndarray of shape (N, T, digits, 2), int
        Row and column of each one's middle.
    angle : ndarray of shape (N, T, digits)
        By which it is rotated, in radians.

    Returns
    -------
    ndarray of shape (N, T, digits, H, H), uint8
    """
    size = images.shape[-1]
    # How far each pixel lies from the digit's middle, on the torus
    down = offset_on_torus(size, place[..., 0, None])[..., None]
    right = offset_on_torus(size, place[..., 1, None])[..., None, :]
    # Where that is in the digit as it was before it was rotated
    cosine = np.cos(angle)[..., None, None]
    sine = np.sin(angle)[..., None, None]
    rows = np.rint(cosine * down - sine * right).astype(np.int64) + size // 2
    columns = np.rint(sine * down + cosine * right).astype(np.int64) + size // 2
    is_inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    last = size - 1
    values = images[digits[..., None, None], rows.clip(0, last), columns.clip(0, last)]
    return values * is_inside


def offset_on_torus(size: int, place: np.ndarray) -> np.ndarray:
    """Return how far each of ``size`` pixels lies from a place, by the shortest way."""
    return ((np.arange(size) - place + size // 2) % size) - size // 2
