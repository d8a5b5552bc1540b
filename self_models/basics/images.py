"""Images: what a network takes, checked, never rescaled in silence; and what is known of the named data sets before their files
are read."""

from pathlib import Path

import numpy as np
import torch

from self_models.basics import ModelError
from self_models.basics.settings import choices

TOLERANCE = 1e-4  # how far floats may lie outside their range: interpolation rounds
# data set -> image shape (channels, height, width)
IMAGE_SHAPES = {"MNIST": (1, 28, 28), "FashionMNIST": (1, 28, 28), "CIFAR10": (3, 32, 32), "CIFAR100": (3, 32, 32)}
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
    "FashionMNIST": ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    "CIFAR10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "CIFAR100": tuple(CIFAR100.split()),
}

BACKGROUNDS = {"MNIST": 0.0, "FashionMNIST": 0.0}  # light of an image's border, 0 (black) to 1; of the others it says nothing


def data_set(value):
    """The name of a known data set, or the path of a folder, which has a slash in it. Raises ValueError for another text."""
    if isinstance(value, str) and (value in IMAGE_SHAPES or "/" in value or "\\" in value):
        return value
    raise ValueError(f"unknown name {value!r}: {choices(value, IMAGE_SHAPES)}, or give the path of a folder of images")


def lasting_name(dataset):
    """What a checkpoint calls a data set: a known one by its name, a folder by ELSEWHERE and its own name, wherever it lies."""
    return dataset if dataset in IMAGE_SHAPES else ELSEWHERE + Path(dataset).resolve().name


def class_names(settings):
    """A name for each label: those given, else the data set's, else numbers."""
    labels, known = settings["labels"], settings["classes"] or CLASSES.get(settings["dataset"], ())
    return list(known) if len(known) == labels else [str(label) for label in range(labels)]


def find_image_shape(settings):
    """(C, H, W) as given, else that of the data set. Raises ModelError for no such shape, as of a folder that was not read."""
    shape = IMAGE_SHAPES.get(settings["dataset"]) if settings["image_shape"] is None else settings["image_shape"]
    if shape is None or len(shape) != 3:
        raise ModelError(f"image_shape must be three whole numbers, (C, H, W), not {shape}")
    return tuple(shape)


def background(settings):
    """How bright the border of the images is that a network was trained on, 0 to 1; None where it is not known."""
    return BACKGROUNDS.get(settings["dataset"]) if settings["background"] is None else settings["background"]


def has_colour(channels):
    """Whether images of so many channels are in colour, in [-1, 1]; grey ones, and an event camera's, lie in [0, 1]."""
    return channels > 2


def scaled(images):
    """uint8 images (..., C, H, W) as float32: in colour in [-1, 1], else in [0, 1]."""
    images = images.float().div_(255)
    return images.mul_(2).sub_(1) if has_colour(images.shape[-3]) else images


def light(images):
    """How bright each value of images (..., C, H, W) is, 0 (black) to 1: (x + 1) / 2 in colour, else |x|."""
    return (images + 1) / 2 if has_colour(images.shape[-3]) else images.abs()


def of_light(values):
    """Images (..., C, H, W) in their range, of which values in [0, 1] are the light."""
    return 2 * values - 1 if has_colour(values.shape[-3]) else values


def checked_images(x, model, frames=0):
    """x (B, C, H, W), or recordings (B, T, C, H, W) of so many frames, a tensor or array, as the model takes it, in the dtype of
    its weights: uint8 scaled, floats in their range as they are.

    Raises ModelError for anything else; on a GPU, which would have to be waited for, the values are not looked at.
    """
    lowest, shape = -1 if has_colour(model.image_shape[0]) else 0, (*[frames] * bool(frames), *model.image_shape)
    wanted = f"a tensor or array (B, {', '.join(map(str, shape))}), uint8, or float32 or float64 in [{lowest}, 1]"
    x = tensor_of(x)
    if not isinstance(x, torch.Tensor):
        raise ModelError(f"images must be {wanted}, not a {type(x).__name__}: read_images takes files")
    if x.dim() != len(shape) + 1 or tuple(x.shape[1:]) != shape:
        raise ModelError(f"images must be {wanted}, not of shape {tuple(x.shape)}")
    if x.dtype not in (torch.uint8, torch.float32, torch.float64):
        raise ModelError(f"images must be {wanted}, not {x.dtype}".replace("torch.", ""))
    if x.dtype == torch.uint8:
        x = scaled(x)
    elif x.numel() and x.device.type == "cpu":
        low, high = torch.stack(x.detach().aminmax()).tolist()
        if not (low >= lowest - TOLERANCE and high <= 1 + TOLERANCE):  # not where one is NaN
            raise ModelError(f"images must be {wanted}; these lie in [{low:g}, {high:g}]")
    return x.to(dtype_of(model))


def dtype_of(model):
    """The dtype in which a model takes images and predicts them: that of its weights, unless it says another."""
    return getattr(model, "image_dtype", None) or next(model.parameters()).dtype


def tensor_of(values):
    """A NumPy array, of whatever byte order and strides, as a tensor; anything else as it is."""
    if not isinstance(values, np.ndarray):
        return values
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), "C", copy=False))


def check_labels(labels, images, classes):
    """Raises ModelError unless labels is a tensor (N,) of whole numbers, one of 0 to classes - 1 for each of the N images."""
    wanted = f"labels must be a tensor ({images},) of whole numbers, 0 to {classes - 1}"
    if labels.is_floating_point() or labels.shape != (images,):
        raise ModelError(f"{wanted}, not {labels.dtype} of shape {tuple(labels.shape)}".replace("torch.", ""))
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ModelError(f"{wanted}; these are {labels.min()} to {labels.max()}")
