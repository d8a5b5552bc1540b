"""Data sets as whole tensors, in memory or memory-mapped, and their batches."""

import gzip
import math
import os
import pickle
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

from self_models.basics import HOME, INSTALLED, UserError, users_folder
from self_models.basics.devices import sent
from self_models.basics.images import CLASSES, IMAGE_SHAPES, has_colour, is_image, scaled
from self_models.data.folders import list_folder, pixels_of, recorded_shape, shape_of
from self_models.runtime.draws import Batch, Draws

BUNDLED = HOME / "data"
EVENT_FRAMES = 10  # into which events are split where nobody says
IDX_FILES = {  # training set or not -> images, labels
    True: ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    False: ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DEBIAN = {
    "FashionMNIST": Path("/usr/share/datasets/fashion-mnist")
}  # package dataset-fashion-mnist
IDX_GZ = ", ".join(f"{file}.gz" for pair in IDX_FILES.values() for file in pair)
FILES = {  # which files a data set has, and where
    "MNIST": f"{IDX_GZ} in {{folder}}/mnist",
    "FashionMNIST": f"{IDX_GZ} in {{folder}}/fashionmnist, or install Debian's package dataset-fashion-mnist",
    "CIFAR10": "cifar-10-python.tar.gz in {folder}",
    "CIFAR100": "cifar-100-python.tar.gz in {folder}",
}


@dataclass(frozen=True)
class ImageSet:
    """images: uint8 (N, C, H, W), or recordings (N, T, 2, H, W), maybe memory-mapped, or floats as the model takes them; labels:
    int64 (N,) or None; start: position of the first in its whole set; names: of the classes, where the data set's name does not
    say them; change: uint8 pixels of a batch, a copy -> those that it has instead; passes: how often each image is in the set, at
    positions N apart, each time with draws of its own; known_by: what is known of a folder's files, see Listing."""

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    start: int = 0
    names: tuple = ()
    change: object = None
    passes: int = 1
    known_by: str = ""

    def __len__(self):
        return self.passes * len(self.images)

    @property
    def classes(self):
        """Names in the order of the labels; empty where they are unknown."""
        return self.names or CLASSES.get(self.name, ())

    def part(self, begin, end):
        labels = None if self.labels is None else self.labels[begin:end]
        return replace(
            self, images=self.images[begin:end], labels=labels, start=self.start + begin
        )

    def batch(self, index, device="cpu"):
        """The Batch of the images at these positions, (B,) int64."""
        at = index % len(self.images)
        labels = None if self.labels is None else sent(self.labels[at], device)
        pixels = sent(self.change(self.images[at]) if self.change else self.images[at], device)
        return Batch(
            pixels if pixels.is_floating_point() else scaled(pixels), labels, index + self.start
        )

    def whole(self, device="cpu"):
        """All images as one Batch."""
        return self.batch(torch.arange(len(self)), device)

    def batches(self, batch_size, device="cpu", order=None, first=0):
        """Batches of all images from that numbered `first` on, in this order (N,) or, without one, as they lie."""
        if order is None:
            order = torch.arange(len(self))
        for index in order.split(batch_size)[first:]:
            yield self.batch(index, device)


def first_of_each_class(labels, count):
    """Positions of the first image of class 0, 1, …, then the second of each and so on, `count` in all; labels (N,) int64."""
    by_class, sizes = labels.argsort(stable=True), labels.bincount()
    number = (
        torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    )  # 0 for the first of its class
    return by_class[torch.argsort(number * len(sizes) + labels[by_class])][:count]


def augmented(batch, seed, epoch, mirror="random", shift=None, cutout=0):
    """The batch with each image, or recording, changed at random: in colour mirrored and shifted, else turned, scaled, shifted.
    mirror: 'random', or 'alternate': in every second epoch, of which seed and image say whether it is even (Jordan,
    arXiv:2404.00498). shift: most pixels, see mirrored and moved. cutout: side of a square that is cut out, 0: none."""
    (numbers,) = Draws(seed, epoch, batch.index).numbers("augmentation", 4, batch.images.device)
    if mirror == "alternate":
        (first,) = Draws(seed, 0, batch.index).numbers("augmentation", 4, batch.images.device)
        numbers[:, 2] = ((first[:, 2] < 0.5) ^ (epoch % 2 == 0)).to(numbers.dtype)  # 0: mirrored
    change = mirrored if has_colour(batch.images.shape[-3]) else moved
    images = change(batch.images.flatten(1, -3), numbers, shift)
    if cutout:
        images = without_square(
            images, cutout, *Draws(seed, epoch, batch.index).numbers("cutout", 2, images.device)
        )
    return batch._replace(images=images.view_as(batch.images))


def moved(images, numbers, shift=None):
    """Images turned by up to 10 degrees, scaled by up to 10 %, shifted by up to `shift` pixels (2). numbers: (B, 4) in [0, 1)."""
    most = 2 if shift is None else shift
    height, width = images.shape[2:]
    turn, scale, across, down = (2 * numbers - 1).unbind(1)
    angle, scale = turn * math.pi / 18, 1 + 0.1 * scale
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    rows = (
        torch.stack([cosine, -sine, across * 2 * most / width], 1),
        torch.stack([sine, cosine, down * 2 * most / height], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def mirrored(images, numbers, shift=None):
    """Half of the images mirrored, all shifted by up to `shift` pixels (size / 8), edges reflected. numbers: (B, 4) in [0, 1)."""
    places = []
    for size, number in zip(images.shape[2:], numbers[:, :2].T, strict=True):
        most = size // 8 if shift is None else shift
        place = (
            torch.arange(size, device=images.device)
            + (number * (2 * most + 1)).long()[:, None]
            - most
        ).abs()
        places.append(
            size - 1 - (size - 1 - place).abs()
        )  # (B, size): where each row or column comes from
    rows, columns = places
    columns = torch.where(numbers[:, 2:3] < 0.5, columns, images.shape[3] - 1 - columns)
    place = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).flatten(
        1
    )  # (B, H W): where each pixel comes from
    return (
        images.flatten(2).gather(2, place[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    )


def without_square(images, side, numbers):
    """Images with a square of this side set to 0 (cutout: DeVries, Taylor, arXiv:1708.04552). numbers: (B, 2) in [0, 1)."""
    inside = []
    for size, number in zip(images.shape[2:], numbers.T, strict=True):
        first = (number * size).long()[:, None] - side // 2
        place = torch.arange(size, device=images.device)
        inside.append((place >= first) & (place < first + side))  # (B, size)
    rows, columns = inside
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def default_holdout(count):
    """How many of so many training images are held out by default: a tenth, at least 1, at most 5,000."""
    return min(max(count // 10, 1), 5000)


def load_data(name, data_dir="", limit_train=None, limit_test=None, holdout=0, **of_folder):
    """Training, selection and test ImageSets of a known data set or a folder of images or recordings, see folders.py. selection:
    the last `holdout` training images, None for 0 of them; with holdout None as many as default_holdout says of those that
    limit_train leaves. of_folder: see load_folder. Raises UserError where files are absent, corrupt, or fewer than asked for."""
    if name in IMAGE_SHAPES:
        folder = Path(data_dir) if data_dir else usual_folder(name)
        if data_dir and not folder.is_dir():
            raise UserError(f"--data_dir {data_dir}: no such folder")
        train, test = (load_set(name, folder, is_train) for is_train in (True, False))
    else:
        train, test = load_folder(name, **of_folder)
        name = train.name
    if holdout is None:
        holdout = default_holdout(limit_train or len(train))
    left = len(train) - holdout
    if left < 1:
        raise UserError(f"--holdout {holdout} leaves no training images: {name} has {len(train)}")
    if limit_train and limit_train > left:
        raise UserError(
            f"--limit_train {limit_train}: {name} has {len(train)} training images, {holdout} of them held out"
        )
    if limit_test and limit_test > len(test):
        raise UserError(f"--limit_test {limit_test}: {name} has {len(test)} test images")
    selection = train.part(left, len(train)) if holdout else None
    return train.part(0, limit_train or left), selection, test.part(0, limit_test or len(test))


def usual_folder(name):
    """Where a known data set is looked for, and downloaded to: data/ of the repository; without one, or where that cannot be
    written, the user's cache for all but MNIST, which comes with the program."""
    ours = name == "MNIST" or (not INSTALLED and os.access(BUNDLED, os.W_OK))
    return BUNDLED if ours else users_folder() / "data"


def load_folder(name, image_shape=None, skip_bad=False, frames=0, count_bound=1, split_by="time"):
    """(training, test) ImageSets of a folder of images or recordings. image_shape: (C, H, W), by default their own; skip_bad:
    leave out what cannot be read; frames: of each recording, by default its own, of events EVENT_FRAMES; count_bound, split_by:
    see steps_in. Raises UserError as folders.py does, and for images instead of recordings, or too few frames."""
    listing = list_folder(name)
    if listing.of_recordings:
        there, *shape = recorded_shape(listing, frames or EVENT_FRAMES, image_shape)
        shape = (frames or there, *shape)
        if frames > there:
            raise UserError(
                f"--dataset {name}: its recordings have {there} frames, and the network takes {frames}"
            )
    elif frames:
        raise UserError(
            f"--dataset {name} has images, and the network takes recordings of event cameras: give it those"
        )
    else:
        shape = image_shape or shape_of(listing)
    parts, name = pixels_of(listing, shape, skip_bad, count_bound, split_by), listing.folder.name
    return [
        ImageSet(name, *part, names=listing.classes, known_by=listing.known_by[of])
        for of, part in parts.items()
    ]


def load_set(name, folder, is_train):
    """The training or the test images of one data set. Raises UserError as load_data does."""
    last = {"MNIST": folder, **DEBIAN}  # MNIST's files may lie about loose
    for place in (
        (folder / name.lower(), folder / name / "raw", last[name]) if name in last else ()
    ):
        files = {
            file: path
            for file in IDX_FILES[is_train]
            for path in (place / file, place / f"{file}.gz")
            if path.is_file()
        }
        if len(files) == 2:
            images, labels = (read_idx(files[file]) for file in IDX_FILES[is_train])
            return ImageSet(name, images[:, None], labels.long())
    where = FILES[name].format(folder=folder)
    if folder != BUNDLED and any(
        is_image(path.name) for pattern in ("*", "train/*/*") for path in folder.glob(pattern)
    ):
        own = f"for your own images give --dataset {folder} with {folder}/train/CLASS/"  # nothing is downloaded into it
        raise UserError(
            f"--data_dir {folder} has image files, and {name} is expected there as {where}; {own}"
        )
    try:
        data = getattr(torchvision.datasets, name)(str(folder), train=is_train, download=True)
    except (
        RuntimeError,
        OSError,
        ValueError,
        AssertionError,
        EOFError,
        KeyError,
        pickle.UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name} is not there, or corrupt, and could not be downloaded ({reason}): put {where}"
        ) from None
    images = torch.as_tensor(np.asarray(data.data))
    images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return ImageSet(name, images, torch.as_tensor(data.targets).long())


def read_idx(path):
    """A uint8 tensor from an IDX file, plain or gzip (torchvision reads it plain). Raises UserError for a damaged one."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        head = 4 + 4 * content[3]  # the number of dimensions
        shape = np.frombuffer(content[4:head], ">u4").astype(int)
        return torch.from_numpy(
            np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy()
        )
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise UserError(
            f"{path} is corrupt or unreadable ({error}): put a fresh copy in its place"
        ) from None
