"""Scenes: images of a data set, one after the other, as a network sees them that streams while the world changes.

A scene is a function of a Source and of epsilon that yields frames for ever, each an image (C, H, W) uint8 with its label, -1
where there is nothing to be answered. What is drawn follows from the seed and the number of the stream alone.
"""

from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from harness import UserError
from self_models.basics.images import has_colour
from self_models.basics.settings import Registry
from self_models.runtime.draws import seed_for

SCENES = Registry("scene")
GREY, BLACK = (
    128,
    0,
)  # what a pause shows: no input of a colour network, whose images lie in -1 to 1, or of a grey one


class Scene(NamedTuple):
    """What B streams show: frames uint8 (N, B, C, H, W) and their labels int64 (N, B), -1 where nothing is to be answered."""

    frames: torch.Tensor
    labels: torch.Tensor


def make_scene(name, images, streams, frames, seed=0, epsilon=0.2):
    """The Scene of this name, of so many streams and frames, made of an ImageSet's images. epsilon: 0 to 1, 1 being a pixel's
    range, below and above which a pixel flickers. Raises UserError where the images are of one class only."""
    if len(images.labels.unique()) < 2:
        raise UserError(
            "a scene shows images of one class after those of another, and these are all of one: use more images"
        )
    scene, shown = SCENES.find(name), []
    for stream in range(streams):
        source = Source(images, seed_for(seed, f"{name} {stream}"))
        shown.append(list(islice(scene(source, epsilon), frames)))
    pixels = np.stack([np.stack([frame for frame, _ in stream]) for stream in shown], 1)
    return Scene(
        torch.from_numpy(pixels),
        torch.tensor([[label for _, label in stream] for stream in shown]).T,
    )


class Source:
    """Images of a set, and numbers, drawn one after the other."""

    def __init__(self, images, seed):
        self.images, self.draw = images, np.random.default_rng(seed)
        self.shape = tuple(images.images.shape[1:])

    def between(self, low, high):
        """A whole number, low to high."""
        return int(self.draw.integers(low, high + 1))

    def image(self, but=-1):
        """(an image, its label), of another class than this one."""
        label = but
        while label == but:
            number = self.between(0, len(self.images.labels) - 1)
            label = int(self.images.labels[number])
        return self.images.images[number].numpy(), label


@SCENES.register("switch")
def switch(source, epsilon):
    """An image for 4 to 40 frames, then one of another class; before half of them a pause of 4 to 16 frames that show nothing."""
    label, pause = (
        -1,
        np.full(source.shape, GREY if has_colour(source.shape[0]) else BLACK, np.uint8),
    )
    while True:
        image, label = source.image(label)
        yield from [(image, label)] * source.between(4, 40)
        if source.between(0, 1):
            yield from [(pause, -1)] * source.between(4, 16)


@SCENES.register("watch")
def watch(source, epsilon):
    """An image stands still for nine tenths of the time; in the tenth between, one of another class pushes it out at the left, by
    a column in each frame. The label is that of which more is seen."""
    image, label = source.image()
    width = source.shape[2]
    while True:
        yield from [(image, label)] * (9 * width)
        (after, next_label), before = source.image(label), label
        both = np.concatenate([image, after], 2)
        for column in range(1, width + 1):
            label = before if 2 * column < width else next_label
            yield both[..., column : column + width], label
        image = after


@SCENES.register("part")
def part(source, epsilon):
    """An image of which a quarter becomes that of one of another class after every 10 to 30 frames; the label stays."""
    image, label = source.image()
    height, width = (size // 2 for size in source.shape[1:])
    down, right = source.between(0, 1) * height, source.between(0, 1) * width
    quarter = np.s_[:, down : down + height, right : right + width]
    shown = image
    while True:
        yield from [(shown, label)] * source.between(10, 30)
        shown = image.copy()
        shown[quarter] = source.image(label)[0][quarter]


@SCENES.register("drift")
def drift(source, epsilon):
    """An image moves by a pixel in every fourth frame, straight or aslant, by up to an eighth of its size to each side, where it
    turns round. What comes in at an edge is what was at it."""
    image, label = source.image()
    room = [size // 8 for size in source.shape[1:]]
    whole = np.pad(image, [(0, 0), *((each, each) for each in room)], "edge")
    step = (0, 0)
    while step == (0, 0):
        step = source.between(-1, 1), source.between(-1, 1)
    place = list(room)
    while True:
        rows, columns = (
            slice(at, at + size) for at, size in zip(place, source.shape[1:], strict=True)
        )
        yield from [(whole[:, rows, columns], label)] * 4
        step = [
            -move if not 0 <= at + move <= 2 * most else move
            for at, move, most in zip(place, step, room, strict=True)
        ]
        place = [at + move for at, move in zip(place, step, strict=True)]


@SCENES.register("noise")
def noise(source, epsilon):
    """One image whose pixels flicker in each frame: for 40 frames by up to half of epsilon, for 40 by up to one and a half."""
    image, label = source.image()
    while True:
        for most in (0.5 * epsilon, 1.5 * epsilon):
            for _ in range(40):
                flicker = 255 * most * source.draw.uniform(-1, 1, source.shape)
                yield np.clip(np.round(image + flicker), 0, 255).astype(np.uint8), label


# --- scenes that move


class Moving(NamedTuple):
    """frames: uint8 (N, T, H, W); digits: which images are seen, int64 (N, T, digits); changed: bool (N, T), frames with a new
    velocity or another digit, the first among them; velocity: int64 (N, T, digits, 2), rows and columns per frame."""

    frames: torch.Tensor
    digits: torch.Tensor
    changed: torch.Tensor
    velocity: torch.Tensor


KINDS = {"one": 1, "two": 2, "turn": 1, "bar": 1, "still": 1}  # of moving scenes -> digits


def moving_scenes(kind, images, scenes, frames, seed=0, noise=0.0, grey=False, fastest=2):
    """Moving scenes of digits (M, H, H) uint8 on a torus. one; two, each its own way, of which the brighter pixel is seen; turn:
    it rotates, too; bar: behind a white bar that stands still; still: it does not move. Each digit has a new velocity, of up to
    `fastest` pixels per frame and direction, in 3 % of the frames, and becomes another in 2 %. noise: share of the pixels that
    are inverted; grey: else black and white. The same seed shows the same."""
    draw, size = np.random.default_rng(seed_for(seed, f"moving {kind}")), images.shape[-1]
    count, axes = KINDS[kind], (scenes, frames, KINDS[kind])

    def held(values, when):
        """Values that are drawn anew where `when`, and kept in between."""
        first = np.maximum.accumulate(np.where(when, np.arange(frames)[:, None], 0), 1)
        return np.take_along_axis(values, first.reshape(first.shape + (1,) * (values.ndim - 3)), 1)

    turns_off, becomes = draw.random(axes) < 0.03, draw.random(axes) < 0.02
    digits = held(draw.integers(len(images), size=axes), becomes)
    velocity = held(draw.integers(-fastest, fastest + 1, (*axes, 2)), turns_off) * (
        kind != "still"
    )
    place = draw.integers(size, size=(scenes, 1, count, 2)) + velocity.cumsum(1)
    angle = (
        held(draw.uniform(-10, 10, axes), turns_off).cumsum(1) * (np.pi / 180) * (kind == "turn")
    )
    # of each pixel: how far it lies from the digit's middle on the torus, then where that is in the digit as it is drawn
    offset = [
        ((np.arange(size) - place[..., axis, None] + size // 2) % size) - size // 2
        for axis in (0, 1)
    ]
    down, right, (cosine, sine) = (
        offset[0][..., None],
        offset[1][..., None, :],
        (np.cos(angle), np.sin(angle)),
    )
    cosine, sine = (each[..., None, None] for each in (cosine, sine))
    seen = cosine * down - sine * right, sine * down + cosine * right
    rows, columns = (np.rint(at).astype(np.int64) + size // 2 for at in seen)
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    pixels = (
        images.numpy()[digits[..., None, None], rows.clip(0, size - 1), columns.clip(0, size - 1)]
        * inside
    )
    pixels = pixels.max(2)
    if kind == "bar":
        left = draw.integers(size, size=scenes)[:, None]
        pixels[
            np.broadcast_to(((np.arange(size) - left) % size < 6)[:, None, None], pixels.shape)
        ] = 255
    if not grey:
        pixels = (pixels > 127) * np.uint8(255)
    pixels = np.where(draw.random(pixels.shape) < noise, 255 - pixels, pixels)
    changed = (turns_off | becomes).any(2) | (np.arange(frames) == 0)
    return Moving(*map(torch.from_numpy, (pixels, digits, changed, velocity)))
