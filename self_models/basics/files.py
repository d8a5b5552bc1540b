"""Image files as what a network takes: one way for a folder of training images, for pictures of one's own, and from Python."""

import os
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from self_models.basics import ModelError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
TURN_ROUND = "invert=True, or --invert of the scripts, turns dark and bright round"
FAR = 0.5  # from the training images' border, of a border in light: then dark and bright are likely the other way round


def read_images(images, model, note=warnings.warn, invert=False):
    """The images of these files and folders (str or Path) and PIL images, one or a list, as the model takes them: uint8
    (N, C, H, W), see decoded. invert: turn dark and bright round.

    note: called with one line where dark and bright look the other way round than in the images that the model was trained on.
    Raises ModelError for what cannot be read, and for a folder without images.
    """
    if model.image_shape[0] not in (1, 3):
        raise ModelError(f"image files are grey or colour, and this network takes {model.image_shape[0]} channels")
    sources = image_sources([images] if isinstance(images, str | Path | Image.Image) else images)
    images = torch.from_numpy(np.stack([decoded(source, model.image_shape) for source in sources]))
    images = 255 - images if invert else images
    usual, found = model.background, border(images)
    if usual is not None and (far := (found - usual).abs() > FAR).any():
        kinds = ("dark", "bright") if usual < 0.5 else ("bright", "dark")
        first = sources[far.nonzero()[0]]
        note(
            f"note: values look inverted: {far.sum()} of {len(images)} images have a {kinds[1]} border (the first is "
            f"{getattr(first, 'name', 'a PIL image')}), and the network was trained on images with a {kinds[0]} one; {TURN_ROUND}"
        )
    return images


def image_sources(images):
    """PIL images and files as they are, of a folder its images by name, as Paths. Raises ModelError where there is none."""
    files = []
    for each in images:
        if isinstance(each, Image.Image):
            files.append(each)
            continue
        path = Path(each)
        inside = sorted(each for each in path.iterdir() if is_image(each.name)) if path.is_dir() else [path]
        if not inside:
            raise ModelError(f"{path} has no image files ({', '.join(ENDINGS)})")
        files += inside
    return files


def is_image(name):
    """Whether a file of this name is taken for an image; hidden ones are not."""
    return name.lower().endswith(ENDINGS) and not os.path.basename(name).startswith(".")


def decoded(source, shape):
    """An image file, or a PIL image, as a uint8 array of this shape (C, H, W), grey with one channel, else colour. It is turned
    as its EXIF entry says; the largest part of these proportions is cut from its middle and resized (bicubic). Transparent parts
    lie on black, 16-bit values keep their high byte. Raises ModelError where it cannot be read."""
    channels, height, width = shape
    with opened(source) as image:
        if image is not source:  # a large JPEG is read at a half, a quarter or an eighth, which is faster, and changes it
            image.draft(None, (2 * width, 2 * height))
        image = in_mode(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
        pixels = np.array(ImageOps.fit(image, (width, height)))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def opened(source):
    """An image file as a PIL image, for as long as the block lasts. Raises ModelError where it cannot be read there."""
    is_open = isinstance(source, Image.Image)
    try:
        with nullcontext(source) if is_open else Image.open(source) as image:
            yield image
    except Exception as error:  # Pillow raises whatever a damaged file makes of it
        name = (getattr(source, "filename", "") or "a PIL image") if is_open else source
        raise ModelError(f"{name}: {reason(error, name)}") from None


def reason(error, path):
    """Why a file is no image, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    return " ".join(str(error).split()).replace(str(path), "").strip()[:100] or type(error).__name__


def in_mode(image, mode):
    """A PIL image in mode L or RGB. Raises ValueError for values of another kind than 8 or 16 bits."""
    if image.mode in ("I", "F"):
        raise ValueError(f"its values are neither of 8 nor of 16 bits (Pillow's mode {image.mode})")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert(mode)


def size_and_colour(path):
    """((width, height), whether it has colours) of an image file, from its head. Raises ModelError where it cannot be read."""
    with opened(path) as image:
        return image.size, Image.getmodebase(image.mode) != "L"


def border(images):
    """Mean light of the outermost pixels of uint8 images (N, C, H, W), 0 (black) to 1, (N,)."""
    edges = images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]
    return torch.cat([edge.flatten(1) for edge in edges], 1).float().mean(1) / 255
