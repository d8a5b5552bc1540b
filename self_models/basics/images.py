"""Images: what is known of the named data sets, what a network takes, checked and never rescaled in silence, and image files."""

import os
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from self_models.basics import ModelError
from self_models.basics.settings import POSITIVE, choices, required

TOLERANCE = 1e-4  # how far floats may lie outside their range: interpolation rounds
# data set -> image shape (channels, height, width)
IMAGE_SHAPES = {
    "MNIST": (1, 28, 28),
    "FashionMNIST": (1, 28, 28),
    "CIFAR10": (3, 32, 32),
    "CIFAR100": (3, 32, 32),
}
ELSEWHERE = "…/"  # begins the name of a folder of images, in a checkpoint

CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest
fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit
raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower
sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
worm
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

BACKGROUNDS = {
    "MNIST": 0.0,
    "FashionMNIST": 0.0,
}  # light of an image's border, 0 (black) to 1; of the others it says nothing
ENDINGS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".ppm",
    ".pgm",
    ".tif",
    ".tiff",
)  # of image files
FAR = 0.5  # difference in light to the training images' border above which dark and bright are likely the other way round


def data_set(value):
    """The name of a known data set, or the path of a folder, which has a slash in it. Raises ValueError for another text."""
    if isinstance(value, str) and (value in IMAGE_SHAPES or "/" in value or "\\" in value):
        return value
    raise ValueError(
        f"unknown name {value!r}: {choices(value, IMAGE_SHAPES)}, or give the path of a folder of images"
    )


def lasting_name(dataset):
    """The name of a data set in a checkpoint: of a folder ELSEWHERE and its last part, wherever it lies."""
    return dataset if dataset in IMAGE_SHAPES else ELSEWHERE + Path(dataset).resolve().name


def class_names(settings):
    """The name of each label: as given, else the data set's, else its number."""
    names = settings["classes"] or CLASSES.get(settings["dataset"], ())
    return (
        list(names)
        if len(names) == settings["labels"]
        else [str(label) for label in range(settings["labels"])]
    )


def find_image_shape(settings):
    """(C, H, W) as given, else of the known data set. Raises ModelError where it is unknown."""
    shape = settings["image_shape"] or IMAGE_SHAPES.get(settings["dataset"])
    if shape is None or len(shape) != 3:
        raise ModelError(f"image_shape must be three whole numbers, (C, H, W), not {shape}")
    return tuple(shape)


def background(settings):
    """Light of the training images' border, 0 (black) to 1; None where it is not known."""
    return (
        BACKGROUNDS.get(settings["dataset"])
        if settings["background"] is None
        else settings["background"]
    )


def has_colour(channels):
    """True for colour images, whose values lie in [-1, 1]; those of grey images and event cameras lie in [0, 1]."""
    return channels > 2


def scaled(images):
    """uint8 images (..., C, H, W) as float32, see has_colour for their range."""
    images = images.float().div_(255)
    return images.mul_(2).sub_(1) if has_colour(images.shape[-3]) else images


def pixel_values(pixels, signed):
    """Turn bytes into the values that stand for them: in [0, 1], or if signed in [-1, 1]."""
    values = pixels.float() / 255
    return 2 * values - 1 if signed else values


def arriving_values(values, scale=None, counts=False):
    """Take what is to arrive at a network of events for what the caller says that it is.

    A number n that arrives is n events, or a current of this size. A byte above 1 may be a
    pixel as well as a number of events, so the caller must say which of the two it is.

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
        For uint8 values above 1 without ``scale`` and ``counts``, for both of them, and for a
        scale that is not above 0.
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


def light(images):
    """Brightness of images (..., C, H, W), 0 (black) to 1: (x + 1) / 2 in colour, else |x|."""
    return (images + 1) / 2 if has_colour(images.shape[-3]) else images.abs()


def of_light(values):
    """Images (..., C, H, W) of this brightness, 0 to 1: the inverse of light()."""
    return 2 * values - 1 if has_colour(values.shape[-3]) else values


def checked_images(x, model, frames=0):
    """Images (B, C, H, W), or recordings (B, T, C, H, W) of so many frames, a tensor or array, as the model takes them: uint8
    scaled, floats as they are, in the dtype of its weights.

    Raises ModelError for anything else. On a GPU the values are not looked at, since that would wait for it.
    """
    lowest = -1 if has_colour(model.image_shape[0]) else 0
    shape = (frames, *model.image_shape) if frames else tuple(model.image_shape)
    wanted = f"images must be a tensor or array (B, {', '.join(map(str, shape))}), uint8, or float32 or float64 in [{lowest}, 1]"
    x = tensor_of(x)
    if not isinstance(x, torch.Tensor):
        raise ModelError(f"{wanted}, not a {type(x).__name__}: read_images takes files")
    if tuple(x.shape[1:]) != shape:
        raise ModelError(f"{wanted}, not of shape {tuple(x.shape)}")
    if x.dtype not in (torch.uint8, torch.float32, torch.float64):
        raise ModelError(f"{wanted}, not {x.dtype}".replace("torch.", ""))
    if x.dtype == torch.uint8:
        x = scaled(x)
    elif x.numel() and x.device.type == "cpu":
        low, high = torch.stack(x.detach().aminmax()).tolist()
        if not (low >= lowest - TOLERANCE and high <= 1 + TOLERANCE):  # also where one is NaN
            raise ModelError(f"{wanted}; these lie in [{low:g}, {high:g}]")
    return x.to(dtype_of(model))


def dtype_of(model):
    """The dtype of a model's images and predictions: its `image_dtype`, else that of its weights."""
    return getattr(model, "image_dtype", None) or next(model.parameters()).dtype


def tensor_of(values):
    """A NumPy array of any byte order and strides as a tensor; anything else unchanged."""
    if not isinstance(values, np.ndarray):
        return values
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), "C", copy=False))


def check_labels(labels, images, classes):
    """Raises ModelError unless labels is a tensor (N,) of whole numbers, one of 0 to classes - 1 for each of the N images."""
    wanted = f"labels must be a tensor ({images},) of whole numbers, 0 to {classes - 1}"
    if labels.is_floating_point() or labels.shape != (images,):
        raise ModelError(
            f"{wanted}, not {labels.dtype} of shape {tuple(labels.shape)}".replace("torch.", "")
        )
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ModelError(f"{wanted}; these are {labels.min()} to {labels.max()}")


# --- files


def read_images(images, model, note=warnings.warn, invert=False):
    """The images of these files and folders (str or Path) and PIL images, one or a list, as the model takes them: uint8
    (N, C, H, W), see decoded. invert: turn dark and bright round.

    note: called with a line where dark and bright look the other way round than in the images that the model was trained on.
    Raises ModelError for what cannot be read, and for a folder without images.
    """
    if model.image_shape[0] not in (1, 3):
        raise ModelError(
            f"image files are grey or colour, and this network takes {model.image_shape[0]} channels"
        )
    sources = image_sources([images] if isinstance(images, str | Path | Image.Image) else images)
    images = torch.from_numpy(np.stack([decoded(source, model.image_shape) for source in sources]))
    images = 255 - images if invert else images
    usual = model.background
    if usual is not None and (far := (border(images) - usual).abs() > FAR).any():
        theirs, usual = ("bright", "dark") if usual < 0.5 else ("dark", "bright")
        first = getattr(sources[far.nonzero()[0]], "name", "a PIL image")
        note(
            f"note: values look inverted: {far.sum()} of {len(images)} images have a {theirs} border (the first is {first}), and "
            f"the network was trained on images with a {usual} one; invert=True, or --invert of the scripts, turns dark and "
            "bright round"
        )
    return images


def image_sources(images):
    """PIL images and Paths of files; of a folder its images by name. Raises ModelError for a folder without any."""
    sources = []
    for image in images:
        if isinstance(image, Image.Image) or not Path(image).is_dir():
            sources.append(image if isinstance(image, Image.Image) else Path(image))
            continue
        if not (inside := sorted(path for path in Path(image).iterdir() if is_image(path.name))):
            raise ModelError(f"{image} has no image files ({', '.join(ENDINGS)})")
        sources += inside
    return sources


def readable_name(name):
    """The name of a file as text, with what is not UTF-8 in it as \\xNN: logs cannot hold that otherwise."""
    return str(name).encode(errors="surrogateescape").decode(errors="backslashreplace")


def is_image(name):
    """True for the name of an image file that is not hidden."""
    return name.lower().endswith(ENDINGS) and not os.path.basename(name).startswith(".")


def decoded(source, shape):
    """An image file, or a PIL image, as a uint8 array of this shape (C, H, W), grey with one channel, else colour. It is turned
    as its EXIF entry says; the largest part of these proportions is cut from its middle and resized (bicubic). Transparent parts
    lie on black, 16-bit values keep their high byte. Raises ModelError where it cannot be read."""
    channels, height, width = shape
    with opened(source) as image:
        if (
            image is not source
        ):  # a large JPEG is read at a half, a quarter or an eighth, which is faster, and changes it
            image.draft(None, (2 * width, 2 * height))
        image = in_mode(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
        pixels = np.array(ImageOps.fit(image, (width, height)))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def opened(source):
    """A PIL image, of a file closed at the end. Raises ModelError where it cannot be read, also inside the block."""
    is_open = isinstance(source, Image.Image)
    try:
        with nullcontext(source) if is_open else Image.open(source) as image:
            yield image
    except Exception as error:  # Pillow raises whatever a damaged file makes of it
        name = (getattr(source, "filename", "") or "a PIL image") if is_open else source
        raise ModelError(f"{name}: {reason(error, name)}") from None


def reason(error, path):
    """Why a file cannot be read, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    return (
        " ".join(str(error).split()).replace(str(path), "").strip()[:100] or type(error).__name__
    )


def in_mode(image, mode):
    """A PIL image in mode L or RGB. Raises ValueError for values of another kind than 8 or 16 bits."""
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its values are neither of 8 nor of 16 bits (Pillow's mode {image.mode})"
        )
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert(mode)


def border(images):
    """Mean light of the outermost pixels of uint8 images (N, C, H, W), 0 (black) to 1, (N,)."""
    edges = images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]
    return torch.cat([edge.flatten(1) for edge in edges], 1).float().mean(1) / 255
