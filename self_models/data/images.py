"""Images: what is known of data sets, what a network takes, and image files.

Images are checked, and never rescaled in silence. Their shape is (C, H, W): channels,
height, width. The values of colour images lie in [-1, 1], those of grey images and of
event cameras in [0, 1].
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from self_models.errors import ModelError
from self_models.settings import POSITIVE, choices, required

TOLERANCE = 1e-4  # how far floats may lie outside their range: interpolation rounds
IMAGE_SHAPES = {  # data set -> (C, H, W)
    "MNIST": (1, 28, 28),
    "FashionMNIST": (1, 28, 28),
    "CIFAR10": (3, 32, 32),
    "CIFAR100": (3, 32, 32),
}
ELSEWHERE = "…/"  # begins the name of a folder of images, in a checkpoint

CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange
orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit
raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES = {  # in the order of the labels
    "MNIST": tuple("0123456789"),
    "FashionMNIST": (
        "T-shirt",
        "trousers",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    "CIFAR10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    "CIFAR100": tuple(CIFAR100.split()),
}

# Light of an image's border, 0 (black) to 1. That of the other data sets says nothing.
BACKGROUNDS = {"MNIST": 0.0, "FashionMNIST": 0.0}

# How far the light of a border may lie from that of the training images. If it is
# further away, dark and bright are likely the other way round.
FAR = 0.5

# of image files
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")


# --- data sets


def data_set(value: object) -> str:
    """Return the name of a data set if it can be one.

    Parameters
    ----------
    value : object
        What somebody gave: a name of `IMAGE_SHAPES`, or the path of a folder, which has
        a slash in it.

    Returns
    -------
    str
        The same.

    Raises
    ------
    ValueError
        For anything else.
    """
    if isinstance(value, str):
        is_path = "/" in value or "\\" in value
        if is_path or value in IMAGE_SHAPES:
            return value
    raise ValueError(
        f"unknown name {value!r}: {choices(value, IMAGE_SHAPES)}, "
        "or give the path of a folder of images"
    )


def lasting_name(dataset: str) -> str:
    """Return the name of a data set for a checkpoint.

    Of a folder it is `ELSEWHERE` and the last part of the path, wherever it lies.
    """
    if dataset in IMAGE_SHAPES:
        return dataset
    return ELSEWHERE + Path(dataset).resolve().name


def class_names(settings: dict) -> list[str]:
    """Return the name of each label: as given, else the data set's, else its number."""
    names = settings["classes"] or CLASSES.get(settings["dataset"], ())
    if len(names) == settings["labels"]:
        return list(names)
    return [str(label) for label in range(settings["labels"])]


def find_image_shape(settings: dict) -> tuple[int, int, int]:
    """Return (C, H, W) of a network's images: as given, else of its data set.

    Parameters
    ----------
    settings : dict
        image_shape and dataset of the network.

    Returns
    -------
    tuple of int
        (C, H, W).

    Raises
    ------
    ModelError
        If nobody knows it.
    """
    shape = settings["image_shape"] or IMAGE_SHAPES.get(settings["dataset"])
    if shape is None or len(shape) != 3:
        raise ModelError(f"image_shape must be three whole numbers, (C, H, W), not {shape}")
    return tuple(shape)


def background(settings: dict) -> float | None:
    """Return the light of the training images' border, 0 to 1; None if unknown."""
    if settings["background"] is not None:
        return settings["background"]
    return BACKGROUNDS.get(settings["dataset"])


# --- values


def has_colour(channels: int) -> bool:
    """Return whether images of so many channels have colours."""
    return channels > 2


def scale_pixels(images: torch.Tensor) -> torch.Tensor:
    """Bring the bytes of images into their range.

    Parameters
    ----------
    images : Tensor of shape (..., C, H, W), uint8
        The images.

    Returns
    -------
    Tensor of the same shape, float32
        In [0, 1], or in colour in [-1, 1].
    """
    images = images.float().div_(255)
    if has_colour(images.shape[-3]):
        return images.mul_(2).sub_(1)
    return images


def pixel_values(pixels: torch.Tensor, signed: bool) -> torch.Tensor:
    """Turn bytes into what they stand for: 0 to 1, or if signed -1 to 1."""
    values = pixels.float() / 255
    if signed:
        return 2 * values - 1
    return values


def arriving_values(
    values: torch.Tensor, scale: float | None = None, counts: bool = False
) -> torch.Tensor:
    """Take what arrives at a network of events for what the caller says that it is.

    A number n that arrives is n events, or a current of this size. A byte above 1 may
    be a pixel as well as a number of events, so the caller must say which of the two it
    is.

    Parameters
    ----------
    values : Tensor of any shape
        Numbers of events, currents, or pixels.
    scale : float above 0, optional
        The values are pixels, which are divided by this: 255 brings bytes to [0, 1].
    counts : bool, default False
        The values are numbers of events. They stay as they are.

    Returns
    -------
    Tensor of the same shape
        The values, with ``scale`` as floats.

    Raises
    ------
    ModelError
        For uint8 values above 1 without ``scale`` and ``counts``, for both of them, and
        for a scale that is not above 0.
    """
    if scale is None:
        is_unclear = values.dtype == torch.uint8 and not counts
        if is_unclear and values.numel() and values.max() > 1:
            raise ModelError(
                f"bytes up to {values.max()} may be pixels or numbers of events: say "
                "scale=255 for images, which are divided by 255, or counts=True for recordings"
            )
        return values
    if counts:
        raise ModelError("scale is for images, and counts for recordings: give one of the two")
    scale = required(POSITIVE, "scale", scale)
    if not values.is_floating_point():
        values = values.float()
    return values / scale


def light(images: torch.Tensor) -> torch.Tensor:
    """Return the brightness of images.

    Parameters
    ----------
    images : Tensor of shape (..., C, H, W)
        Values x as a network takes them.

    Returns
    -------
    Tensor of the same shape, 0 (black) to 1
        (x + 1) / 2 in colour, else |x|.
    """
    if has_colour(images.shape[-3]):
        return (images + 1) / 2
    return images.abs()


def light_to_pixels(values: torch.Tensor) -> torch.Tensor:
    """Return images (..., C, H, W) of this brightness: the inverse of `light`."""
    if has_colour(values.shape[-3]):
        return 2 * values - 1
    return values


# --- what a network takes


def prepare_images(
    x: torch.Tensor | np.ndarray, model: nn.Module, frames: int = 0
) -> torch.Tensor:
    """Check images, and bring them into the form that a model takes.

    On a GPU the values are not looked at, since that would wait for it.

    Parameters
    ----------
    x : Tensor or array of shape (B, C, H, W), or (B, T, C, H, W) with frames
        Images, or recordings. uint8 is scaled; float32 and float64 stay as they are.
    model : nn.Module
        Its ``image_shape`` and the dtype of its weights.
    frames : int, default 0
        T of recordings; 0: images.

    Returns
    -------
    Tensor of the same shape
        In the dtype of the model's weights.

    Raises
    ------
    ModelError
        For anything else, and for values out of their range.
    """
    lowest = -1 if has_colour(model.image_shape[0]) else 0
    shape = tuple(model.image_shape)
    if frames:
        shape = (frames, *shape)
    sizes = ", ".join(map(str, shape))
    wanted = (
        f"images must be a tensor or array (B, {sizes}), uint8, or float32 or float64 "
        f"in [{lowest}, 1]"
    )
    x = tensor_of(x)
    if not isinstance(x, torch.Tensor):
        raise ModelError(f"{wanted}, not a {type(x).__name__}: read_images takes files")
    if tuple(x.shape[1:]) != shape:
        raise ModelError(f"{wanted}, not of shape {tuple(x.shape)}")
    if x.dtype not in (torch.uint8, torch.float32, torch.float64):
        raise ModelError(f"{wanted}, not {x.dtype}".replace("torch.", ""))
    if x.dtype == torch.uint8:
        x = scale_pixels(x)
    elif x.numel() and x.device.type == "cpu":
        low, high = torch.stack(x.detach().aminmax()).tolist()
        is_in_range = low >= lowest - TOLERANCE and high <= 1 + TOLERANCE
        if not is_in_range:  # also where one is NaN
            raise ModelError(f"{wanted}; these lie in [{low:g}, {high:g}]")
    return x.to(dtype_of(model))


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of a model's images and predictions.

    It is the model's ``image_dtype``, if it has one, else that of its weights.
    """
    return getattr(model, "image_dtype", None) or next(model.parameters()).dtype


def tensor_of(values: object) -> object:
    """Return a NumPy array as a Tensor, and anything else as it is."""
    if not isinstance(values, np.ndarray):
        return values
    # torch takes only the byte order of this machine, and no negative strides.
    native = values.astype(values.dtype.newbyteorder("="), "C", copy=False)
    return torch.from_numpy(native)


def check_labels(labels: torch.Tensor, images: int, classes: int) -> None:
    """Raise ModelError unless each image has a label.

    Parameters
    ----------
    labels : Tensor
        What must be of shape (images,), whole numbers from 0 to classes - 1.
    images : int
        How many images there are.
    classes : int
        How many classes the network tells apart.
    """
    wanted = f"labels must be a tensor ({images},) of whole numbers, 0 to {classes - 1}"
    if labels.is_floating_point() or labels.shape != (images,):
        raise ModelError(
            f"{wanted}, not {labels.dtype} of shape {tuple(labels.shape)}".replace("torch.", "")
        )
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ModelError(f"{wanted}; these are {labels.min()} to {labels.max()}")


# --- files


def read_images(
    images: str | os.PathLike | Image.Image | Iterable,
    model: nn.Module,
    note: Callable[[str], None] = warnings.warn,
    invert: bool = False,
) -> torch.Tensor:
    """Read images from files, as a model takes them.

    Each is turned as its EXIF entry says. The largest part with the model's proportions
    is cut from its middle and resized (bicubic). Transparent parts lie on black, and
    16-bit values keep their high byte.

    Parameters
    ----------
    images : str, Path, PIL image, or an iterable of them
        Files, folders, whose images are read by name, and PIL images.
    model : nn.Module
        A network of grey or colour images, see its ``image_shape``.
    note : callable, optional
        Called with a line if dark and bright look the other way round than in the
        images that the model was trained on. By default it is a warning.
    invert : bool, default False
        Turn dark and bright round.

    Returns
    -------
    Tensor of shape (N, C, H, W), uint8
        The images.

    Raises
    ------
    ModelError
        For what cannot be read, and for a folder without images.
    """
    channels = model.image_shape[0]
    if channels not in (1, 3):
        raise ModelError(
            f"image files are grey or colour, and this network takes {channels} channels"
        )
    if isinstance(images, str | Path | Image.Image):
        images = [images]
    sources = image_sources(images)
    arrays = [decode_image(source, model.image_shape) for source in sources]
    pixels = torch.from_numpy(np.stack(arrays))
    if invert:
        pixels = 255 - pixels
    if model.background is not None:
        line = inverted_note(pixels, sources, model.background)
        if line:
            note(line)
    return pixels


def inverted_note(
    images: torch.Tensor, sources: Sequence[Path | Image.Image], usual: float
) -> str:
    """Return a line if dark and bright look the other way round, else an empty text.

    Parameters
    ----------
    images : Tensor of shape (N, C, H, W), uint8
        The images that were read.
    sources : sequence of Path or PIL image
        Where they came from.
    usual : float, 0 (black) to 1
        Light of the training images' border.

    Returns
    -------
    str
        The line names the first image whose border is far from the usual one.
    """
    is_far = (border(images) - usual).abs() > FAR
    if not is_far.any():
        return ""
    first = getattr(sources[is_far.nonzero()[0]], "name", "a PIL image")
    theirs = "bright"
    ours = "dark"
    if usual >= 0.5:
        theirs = "dark"
        ours = "bright"
    return (
        f"note: values look inverted: {is_far.sum()} of {len(images)} images have a {theirs} "
        f"border (the first is {first}), and the network was trained on images with a {ours} "
        "one; invert=True, or --invert of the scripts, turns dark and bright round"
    )


def image_sources(images: Iterable) -> list[Path | Image.Image]:
    """Find the images of files and folders.

    Parameters
    ----------
    images : iterable of str, Path or PIL image
        Files, folders, and PIL images.

    Returns
    -------
    list of Path or PIL image
        Each file and PIL image; of a folder its image files, by name.

    Raises
    ------
    ModelError
        For a folder without image files.
    """
    sources = []
    for image in images:
        if isinstance(image, Image.Image):
            sources.append(image)
        elif Path(image).is_dir():
            inside = sorted(path for path in Path(image).iterdir() if is_image(path.name))
            if not inside:
                raise ModelError(f"{image} has no image files ({', '.join(ENDINGS)})")
            sources += inside
        else:
            sources.append(Path(image))
    return sources


def readable_name(name: object) -> str:
    """Return the name of a file as text that logs can hold: non-UTF-8 bytes escaped."""
    return str(name).encode(errors="surrogateescape").decode(errors="backslashreplace")


def is_image(name: str) -> bool:
    """Return whether this is the name of an image file that is not hidden."""
    return name.lower().endswith(ENDINGS) and not os.path.basename(name).startswith(".")


def decode_image(
    source: str | os.PathLike | Image.Image, shape: tuple[int, int, int]
) -> np.ndarray:
    """Decode an image; `read_images` says how.

    Parameters
    ----------
    source : str, Path or PIL image
        A file, or an image.
    shape : tuple of int
        (C, H, W) that it is to have; grey with one channel, else in colour.

    Returns
    -------
    array of this shape, uint8
        The image.

    Raises
    ------
    ModelError
        If it cannot be read.
    """
    channels, height, width = shape
    with open_image(source) as image:
        if image is not source:  # a file, which is only open, and not read yet
            # A large JPEG is read at a half, a quarter or an eighth, which is faster.
            # That changes the image, so one of the caller's stays as it is.
            image.draft(None, (2 * width, 2 * height))
        image = convert_mode(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
        pixels = np.array(ImageOps.fit(image, (width, height)))
    if channels == 1:
        return pixels[None]
    return pixels.transpose(2, 0, 1)


@contextmanager
def open_image(source: str | os.PathLike | Image.Image) -> Iterator[Image.Image]:
    """Open an image file for a ``with`` block; a PIL image is open, and stays so.

    Parameters
    ----------
    source : str, Path or PIL image
        The file, or the image.

    Yields
    ------
    PIL image
        The image.

    Raises
    ------
    ModelError
        If it cannot be read, also where that turns out inside the block.
    """
    is_open = isinstance(source, Image.Image)
    try:
        with nullcontext(source) if is_open else Image.open(source) as image:
            yield image
    except Exception as error:  # Pillow raises whatever a damaged file makes of it
        name = source
        if is_open:
            name = getattr(source, "filename", "") or "a PIL image"
        raise ModelError(f"{name}: {reason(error, name)}") from None


def reason(error: Exception, path: object) -> str:
    """Say in a few words why a file cannot be read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    line = " ".join(str(error).split())
    return line.replace(str(path), "").strip()[:100] or type(error).__name__


def convert_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert a PIL image.

    Parameters
    ----------
    image : PIL image
        Its values have 8 or 16 bits.
    mode : {"L", "RGB"}
        Grey, or colour.

    Returns
    -------
    PIL image
        Of 8 bits; what was transparent is black.

    Raises
    ------
    ValueError
        For values of another kind.
    """
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its values are neither of 8 nor of 16 bits (Pillow's mode {image.mode})"
        )
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert(mode)


def border(images: torch.Tensor) -> torch.Tensor:
    """Return the mean light of the outermost pixels of images.

    Parameters
    ----------
    images : Tensor of shape (N, C, H, W), uint8
        The images.

    Returns
    -------
    Tensor of shape (N,), 0 (black) to 1
        The mean over channels and pixels; a corner counts twice.
    """
    top = images[..., 0, :]
    bottom = images[..., -1, :]
    left = images[..., :, 0]
    right = images[..., :, -1]
    edges = [edge.flatten(1) for edge in (top, bottom, left, right)]
    return torch.cat(edges, 1).float().mean(1) / 255
