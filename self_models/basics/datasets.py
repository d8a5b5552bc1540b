"""What is known of the named data sets before their files are read: image shapes, class names, and how bright a background is."""

from pathlib import Path

from self_models.basics.errors import ModelError
from self_models.basics.settings import choices

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


def names(value):
    """The value, a list of class names. Raises ValueError for another."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{value!r} is not a list of class names")
    return list(value)


def class_names(settings):
    """A name for each label of a network: those given, else the data set's, else numbers. Raises ModelError for a wrong number
    of names."""
    given, labels = settings["classes"], settings["labels"]
    if given and len(given) != labels:
        raise ModelError(f"classes: {len(given)} names for {labels} labels: give one for each")
    known = given or CLASSES.get(settings["dataset"], ())
    return list(known) if len(known) == labels else [str(label) for label in range(labels)]


def find_image_shape(settings):
    """(C, H, W) as given, else that of the data set. Raises ModelError for no such shape."""
    shape = IMAGE_SHAPES.get(settings["dataset"]) if settings["image_shape"] is None else settings["image_shape"]
    if not isinstance(shape, list | tuple) or len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ModelError(f"image_shape must be three whole numbers above 0, (C, H, W), not {shape}")
    return tuple(shape)


def background(settings):
    """How bright the border of the images is that a network was trained on, 0 to 1; None where it is not known."""
    return BACKGROUNDS.get(settings["dataset"]) if settings["background"] is None else settings["background"]
