"""Data sets as whole tensors, in memory or memory-mapped, and their batches."""

import gzip
import math
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from self_models.data.folders import list_folder, pixels_of, recorded_shape, shape_of
from self_models.data.images import CLASSES, IMAGE_SHAPES, has_colour, is_image, scale_pixels
from self_models.devices import to_device
from self_models.errors import UserError
from self_models.places import HOME, INSTALLED, users_folder
from self_models.running.draws import Batch, Draws

BUNDLED = HOME / "data"
EVENT_FRAMES = 10  # into which events are split where nobody says
IDX_FILES = {  # training set or not -> images, labels
    True: ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    False: ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
IDX_GZ = ", ".join(f"{images}.gz, {labels}.gz" for images, labels in IDX_FILES.values())
# where Debian's package dataset-fashion-mnist puts its files
DEBIAN = {"FashionMNIST": Path("/usr/share/datasets/fashion-mnist")}
FILES = {  # which files a data set has, and where
    "MNIST": f"{IDX_GZ} in {{folder}}/mnist",
    "FashionMNIST": (
        f"{IDX_GZ} in {{folder}}/fashionmnist, or install Debian's package dataset-fashion-mnist"
    ),
    "CIFAR10": "cifar-10-python.tar.gz in {folder}",
    "CIFAR100": "cifar-100-python.tar.gz in {folder}",
}


@dataclass(frozen=True)
class ImageSet:
    """Images, or recordings of event cameras, with their labels.

    Attributes
    ----------
    name : str
        Of the data set.
    images : Tensor of shape (N, C, H, W) or (N, T, 2, H, W)
        uint8, maybe memory-mapped, or floats as the model takes them.
    labels : Tensor of shape (N,), int64, or None
        Their classes. None where nobody knows them.
    start : int
        Position of the first image in the whole set of which this is a part.
    names : tuple of str
        Of the classes, where the name of the data set does not say them.
    change : callable or None
        Takes the pixels of a batch, a copy, and returns those that it has instead.
    passes : int
        How often each image is in the set, at positions N apart, each time with draws
        of its own.
    known_by : str
        What is known of a folder's files, see Listing in folders.py.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor | None
    start: int = 0
    names: tuple = ()
    change: Callable[[torch.Tensor], torch.Tensor] | None = None
    passes: int = 1
    known_by: str = ""

    def __len__(self):
        """Return how many images there are, each as often as it passes."""
        return self.passes * len(self.images)

    @property
    def classes(self) -> tuple:
        """Names in the order of the labels; empty where they are unknown."""
        return self.names or CLASSES.get(self.name, ())

    def part(self, begin: int, end: int) -> "ImageSet":
        """Return the images from position ``begin`` to before ``end`` as a set."""
        labels = None if self.labels is None else self.labels[begin:end]
        start = self.start + begin
        return replace(self, images=self.images[begin:end], labels=labels, start=start)

    def batch(self, index: torch.Tensor, device: torch.device | str = "cpu") -> Batch:
        """Return some of the images.

        Parameters
        ----------
        index : Tensor of shape (B,), int64
            Their positions in the set.
        device : torch.device or str, default "cpu"
            Where the batch is to lie.

        Returns
        -------
        Batch
            Values as the model takes them, labels, and positions in the whole set.
        """
        position = index % len(self.images)
        labels = None
        if self.labels is not None:
            labels = to_device(self.labels[position], device)
        pixels = self.images[position]
        if self.change:
            pixels = self.change(pixels)
        pixels = to_device(pixels, device)
        if not pixels.is_floating_point():
            pixels = scale_pixels(pixels)
        return Batch(pixels, labels, index + self.start)

    def whole(self, device: torch.device | str = "cpu") -> Batch:
        """Return all images as one Batch."""
        return self.batch(torch.arange(len(self)), device)

    def batches(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        order: torch.Tensor | None = None,
        first: int = 0,
    ) -> Iterator[Batch]:
        """Iterate over all images.

        Parameters
        ----------
        batch_size : int
            How many are in a batch.
        device : torch.device or str, default "cpu"
            Where batches are to lie.
        order : Tensor of shape (N,), int64, optional
            Positions of the images in the order in which they come; by default as they
            lie.
        first : int, default 0
            Number of the batch to begin with.

        Yields
        ------
        Batch
            The next images.
        """
        if order is None:
            order = torch.arange(len(self))
        for index in order.split(batch_size)[first:]:
            yield self.batch(index, device)


def first_of_each_class(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Choose images that show all classes.

    Parameters
    ----------
    labels : Tensor of shape (N,), int64
        Classes of the images.
    count : int
        How many to choose.

    Returns
    -------
    Tensor of shape (count,), int64
        Positions of the first image of class 0, of class 1 and so on, then of the
        second image of each, and so on.
    """
    sizes = labels.bincount()
    begins = sizes.cumsum(0) - sizes  # of each class, among the images in order of class
    by_class = labels.argsort(stable=True)
    sorted_labels = labels[by_class]
    number = torch.arange(len(labels)) - begins[sorted_labels]  # 0 for the first of its class
    round_robin = torch.argsort(number * len(sizes) + sorted_labels)
    return by_class[round_robin][:count]


# --- augmentation


def augmented(
    batch: Batch,
    seed: int,
    epoch: int,
    mirror: str = "random",
    shift: int | None = None,
    cutout: int = 0,
) -> Batch:
    """Change each image, or recording, of a batch at random.

    Colour images are mirrored and shifted, all others turned, scaled and shifted. What
    happens to an image follows from the seed, the epoch, and the image.

    Parameters
    ----------
    batch : Batch
        The images.
    seed : int
        Seed of all random numbers.
    epoch : int
        Number of the epoch.
    mirror : {"random", "alternate"}, default "random"
        "alternate": every image is mirrored in every second epoch; seed and image say
        whether these are the even ones (Jordan, arXiv:2404.00498).
    shift : int, optional
        Largest shift in pixels; by default see `mirror_and_shift` and `turn_and_shift`.
    cutout : int, default 0
        Side of a square that is cut out, in pixels; 0: none.

    Returns
    -------
    Batch
        With the changed images.
    """
    device = batch.images.device
    draws = Draws(seed, epoch, batch.index)
    (numbers,) = draws.numbers("augmentation", 4, device)
    if mirror == "alternate":
        (first_epoch,) = Draws(seed, 0, batch.index).numbers("augmentation", 4, device)
        in_odd_epochs = first_epoch[:, 2] < 0.5
        is_even = epoch % 2 == 0
        is_mirrored = in_odd_epochs ^ is_even
        numbers[:, 2] = is_mirrored.to(numbers.dtype)
    images = batch.images.flatten(1, -3)  # all frames of a recording change alike
    if has_colour(batch.images.shape[-3]):
        images = mirror_and_shift(images, numbers, shift)
    else:
        images = turn_and_shift(images, numbers, shift)
    if cutout:
        (places,) = draws.numbers("cutout", 2, images.device)
        images = cut_out_square(images, cutout, places)
    return batch._replace(images=images.view_as(batch.images))


def turn_and_shift(
    images: torch.Tensor, numbers: torch.Tensor, shift: int | None = None
) -> torch.Tensor:
    """Turn images by up to 10 degrees, scale them by up to 10 %, and shift them.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W)
        The images.
    numbers : Tensor of shape (B, 4), 0 to 1
        Random numbers that say how far: turn, scale, shift across and down.
    shift : int, optional
        Largest shift in pixels, by default 2.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        Interpolated; what comes in from outside is 0.
    """
    largest_shift = 2 if shift is None else shift
    height, width = images.shape[2:]
    turn, scale, across, down = (2 * numbers - 1).unbind(1)
    angle = turn * math.pi / 18
    scale = 1 + 0.1 * scale
    cosine = angle.cos() / scale
    sine = angle.sin() / scale
    # affine_grid takes shifts as parts of half the image.
    first_row = torch.stack([cosine, -sine, across * 2 * largest_shift / width], 1)
    second_row = torch.stack([sine, cosine, down * 2 * largest_shift / height], 1)
    matrices = torch.stack([first_row, second_row], 1)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def mirror_and_shift(
    images: torch.Tensor, numbers: torch.Tensor, shift: int | None = None
) -> torch.Tensor:
    """Mirror half of the images, and shift all of them.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W)
        The images.
    numbers : Tensor of shape (B, 4), 0 to 1
        Random numbers: shift down and across; an image is mirrored if the third is 0.5
        or more. The fourth is not used.
    shift : int, optional
        Largest shift in pixels, by default an eighth of the size.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        What comes in from outside is the image, reflected at its edge.
    """
    height, width = images.shape[2:]
    rows = shifted_places(height, numbers[:, 0], shift)
    columns = shifted_places(width, numbers[:, 1], shift)
    columns = torch.where(numbers[:, 2:3] < 0.5, columns, width - 1 - columns)
    # Where each pixel comes from, (B, H W).
    place = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    place = place[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, place).view_as(images)


def shifted_places(size: int, numbers: torch.Tensor, shift: int | None) -> torch.Tensor:
    """Return which row or column comes to each place, (B, size).

    Parameters
    ----------
    size : int
        How many rows or columns there are.
    numbers : Tensor of shape (B,), 0 to 1
        Random numbers that say how far to shift.
    shift : int or None
        Largest shift; None: an eighth of the size.
    """
    largest_shift = size // 8 if shift is None else shift
    offset = (numbers * (2 * largest_shift + 1)).long()[:, None] - largest_shift
    place = torch.arange(size, device=numbers.device) + offset
    place = place.abs()  # reflects at the first one
    last = size - 1
    return last - (last - place).abs()  # reflects at the last one


def cut_out_square(images: torch.Tensor, side: int, numbers: torch.Tensor) -> torch.Tensor:
    """Set a square of each image to 0 (cutout: DeVries, Taylor, arXiv:1708.04552).

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W)
        The images.
    side : int
        Side of the square in pixels. Part of it may lie outside of the image.
    numbers : Tensor of shape (B, 2), 0 to 1
        Random numbers: row and column of its middle.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        The images without it.
    """
    inside = []  # of rows, and of columns: whether they meet the square, (B, size)
    for size, number in zip(images.shape[2:], numbers.T, strict=True):
        first = (number * size).long()[:, None] - side // 2
        place = torch.arange(size, device=images.device)
        inside.append((place >= first) & (place < first + side))
    rows, columns = inside
    square = rows[:, :, None] & columns[:, None, :]
    return images.masked_fill(square[:, None], 0)


# --- data sets


def default_holdout(count: int) -> int:
    """Return how many of so many training images are held out by default.

    It is a tenth, at least 1, and at most 5,000.
    """
    return min(max(count // 10, 1), 5000)


def load_data(
    name: str,
    data_dir: str | os.PathLike = "",
    limit_train: int | None = None,
    limit_test: int | None = None,
    holdout: int | None = 0,
    **of_folder: object,
) -> tuple[ImageSet, ImageSet | None, ImageSet]:
    """Load a known data set, or a folder of images or recordings.

    Parameters
    ----------
    name : str
        MNIST, FashionMNIST, CIFAR10, CIFAR100, or the path of a folder.
    data_dir : str or Path, optional
        Folder in which a known data set lies. By default that of this program, to which
        it is downloaded.
    limit_train, limit_test : int, optional
        How many training and test images to take; by default all.
    holdout : int or None, default 0
        How many training images, the last ones, are for selection. None: as many as
        `default_holdout` says of those that ``limit_train`` leaves.
    **of_folder : object
        For a folder: image_shape, skip_bad, frames, count_bound, split_by; see
        `load_folder`.

    Returns
    -------
    train : ImageSet
        Training images.
    selection : ImageSet or None
        Those held out; None for 0 of them.
    test : ImageSet
        Test images.

    Raises
    ------
    UserError
        If files are missing, corrupt, or fewer than asked for.
    """
    if name in IMAGE_SHAPES:
        folder = Path(data_dir) if data_dir else usual_folder(name)
        if data_dir and not folder.is_dir():
            raise UserError(f"--data_dir {data_dir}: no such folder")
        train = load_set(name, folder, True)
        test = load_set(name, folder, False)
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
            f"--limit_train {limit_train}: {name} has {len(train)} training images, "
            f"{holdout} of them held out"
        )
    if limit_test and limit_test > len(test):
        raise UserError(f"--limit_test {limit_test}: {name} has {len(test)} test images")
    selection = train.part(left, len(train)) if holdout else None
    return train.part(0, limit_train or left), selection, test.part(0, limit_test or len(test))


def usual_folder(name: str) -> Path:
    """Return where a known data set is looked for, and downloaded to.

    It is data/ of the repository. Without one, or where that cannot be written, it is
    the user's cache for all but MNIST, which comes with the program.
    """
    is_in_repository = not INSTALLED and os.access(BUNDLED, os.W_OK)
    if name == "MNIST" or is_in_repository:
        return BUNDLED
    return users_folder() / "data"


def load_folder(
    name: str,
    image_shape: tuple[int, int, int] | None = None,
    skip_bad: bool = False,
    frames: int = 0,
    count_bound: int = 1,
    split_by: str = "time",
) -> list[ImageSet]:
    """Load a folder of images or recordings.

    Parameters
    ----------
    name : str
        Path of the folder.
    image_shape : tuple of int, optional
        (C, H, W); by default that of the files.
    skip_bad : bool, default False
        Leave out what cannot be read.
    frames : int, default 0
        Frames of a recording; 0: its own, of events `EVENT_FRAMES`.
    count_bound : int, default 1
        See `read_as_frames`: this many events, or more, are the brightest value.
    split_by : {"time", "number"}, default "time"
        See `read_as_frames`: how events are split into frames.

    Returns
    -------
    list of ImageSet
        For training, and for testing.

    Raises
    ------
    UserError
        For a folder of another form, files that cannot be read, images in place of
        recordings, and too few frames.
    """
    listing = list_folder(name)
    if listing.of_recordings:
        frames_there, *shape = recorded_shape(listing, frames or EVENT_FRAMES, image_shape)
        shape = (frames or frames_there, *shape)
        if frames > frames_there:
            raise UserError(
                f"--dataset {name}: its recordings have {frames_there} frames, "
                f"and the network takes {frames}"
            )
    elif frames:
        raise UserError(
            f"--dataset {name} has images, and the network takes recordings of event cameras: "
            "give it those"
        )
    else:
        shape = image_shape or shape_of(listing)
    parts = pixels_of(listing, shape, skip_bad, count_bound, split_by)
    image_sets = []
    for part, (images, labels) in parts.items():
        image_set = ImageSet(
            listing.folder.name,
            images,
            labels,
            names=listing.classes,
            known_by=listing.known_by[part],
        )
        image_sets.append(image_set)
    return image_sets


def load_set(name: str, folder: Path, is_train: bool) -> ImageSet:
    """Load the training or the test images of a known data set.

    Parameters
    ----------
    name : str
        One of `FILES`.
    folder : Path
        Where its files lie, or are downloaded to.
    is_train : bool
        Whether to load the training images.

    Returns
    -------
    ImageSet
        The images and labels.

    Raises
    ------
    UserError
        If files are missing and cannot be downloaded, or corrupt.
    """
    paths = find_idx_files(name, folder, is_train)
    if paths is not None:
        images, labels = (read_idx(path) for path in paths)
        return ImageSet(name, images[:, None], labels.long())
    where = FILES[name].format(folder=folder)
    if folder != BUNDLED and has_images(folder):  # nothing is downloaded into the user's images
        raise UserError(
            f"--data_dir {folder} has image files, and {name} is expected there as {where}; "
            f"for your own images give --dataset {folder} with {folder}/train/CLASS/"
        )
    import torchvision  # takes a second, and only a download needs it

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
    if images.dim() == 3:
        images = images[:, None]
    else:
        images = images.permute(0, 3, 1, 2).contiguous()
    return ImageSet(name, images, torch.as_tensor(data.targets).long())


def find_idx_files(name: str, folder: Path, is_train: bool) -> list[Path] | None:
    """Return the paths of the images and labels of MNIST or FashionMNIST.

    None if they are not there, and for another data set. A file may be compressed.
    """
    if name == "MNIST":
        last_place = folder  # its files may lie about loose
    elif name in DEBIAN:
        last_place = DEBIAN[name]
    else:
        return None
    for place in (folder / name.lower(), folder / name / "raw", last_place):
        paths = []
        for file in IDX_FILES[is_train]:
            # Where both are there, take the compressed one.
            for path in (place / f"{file}.gz", place / file):
                if path.is_file():
                    paths.append(path)
                    break
        if len(paths) == 2:
            return paths
    return None


def has_images(folder: Path) -> bool:
    """Return whether a folder has image files, also as train/CLASS/IMAGE."""
    for pattern in ("*", "train/*/*"):
        if any(is_image(path.name) for path in folder.glob(pattern)):
            return True
    return False


def read_idx(path: Path) -> torch.Tensor:
    """Read an IDX file, plain or compressed; torchvision reads only plain ones.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    Tensor, uint8
        Of the shape that the file says.

    Raises
    ------
    UserError
        For a damaged file.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        num_dimensions = content[3]
        head = 4 + 4 * num_dimensions
        shape = np.frombuffer(content[4:head], ">u4").astype(int)
        values = np.frombuffer(content, np.uint8, offset=head).reshape(shape)
        return torch.from_numpy(values.copy())
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise UserError(
            f"{path} is corrupt or unreadable ({error}): put a fresh copy in its place"
        ) from None
