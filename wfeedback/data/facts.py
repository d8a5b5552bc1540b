"""What a network must know of its images.

These *facts* are the number and names of the classes, the shape of an image, how bright
a background is, and of recordings the number of frames.
"""

from collections.abc import Iterator

from self_models.config import Network
from self_models.data.folders import LAYOUT, list_folder, pixels_of, recorded_shape, shape_of
from self_models.data.images import (
    BACKGROUNDS,
    CLASSES,
    ELSEWHERE,
    IMAGE_SHAPES,
    border,
    class_names,
    find_image_shape,
)
from self_models.data.sets import ImageSet, load_data
from self_models.errors import UserError
from self_models.notes import some
from wfeedback.arguments import Arguments, set_found

# Settings of a network.
FACTS = ("labels", "image_shape", "classes", "background", "recorded_frames")
FEWEST = 10  # training images of a class, below which a line warns
# What selects the best epoch: held-out training images; nothing; the test images, as in
# the original.
SELECTED_ON = ("held-out", "last epoch", "test")
LOOKED_AT = 1000  # training images, for the light of their borders


# --- finding them


def find_facts(args: Arguments) -> None:
    """Find what a network must know of its images, and set ``args.facts`` to it.

    Parameters
    ----------
    args : Arguments
        Changed in place. Where a checkpoint has told the facts, they stay.

    Raises
    ------
    UserError
        If a data set does not fit the checkpoint's network, or a folder cannot be read.
    """
    facts = getattr(args, "facts", None)
    if facts:
        if args.dataset in IMAGE_SHAPES:  # told here, before the data set is downloaded
            known = IMAGE_SHAPES[args.dataset], CLASSES[args.dataset]
            check_same(f"--dataset {args.dataset}", known, shape_and_classes(facts, args.dataset))
    elif args.dataset in IMAGE_SHAPES:
        facts = {"labels": len(CLASSES[args.dataset])}
    else:
        facts = facts_of_folder(args)
    set_found(args, facts=facts)


def facts_of_folder(args: Arguments) -> dict[str, object]:
    """Return the facts of a folder of images or recordings, for a new network."""
    listing = list_folder(args.dataset)
    facts = {"labels": len(listing.classes), "classes": list(listing.classes)}
    if listing.of_recordings:
        frames, *shape = recorded_shape(listing, args.event_frames)
        facts["image_shape"] = tuple(shape)
        facts["recorded_frames"] = frames
        return facts
    shape = shape_of(listing, args.image_size, args.grey)
    images, _ = pixels_of(listing, shape, args.skip_bad)["train"]
    facts["image_shape"] = shape
    facts["background"] = round(border(images[:LOOKED_AT]).mean().item(), 4)
    return facts


def facts_of(settings: dict[str, object], dataset: str) -> dict[str, object]:
    """Return the facts in a checkpoint's settings.

    Parameters
    ----------
    settings : dict of {str: object}
        Of the network that the checkpoint holds.
    dataset : str
        What the network is to be used on.

    Returns
    -------
    dict of {str: object}
        Name of each of ``FACTS`` that is known -> its value.
    """
    trained_on = settings.get("dataset", "MNIST")
    facts = {name: settings[name] for name in FACTS if settings.get(name) is not None}
    # On the data set that it was trained on, the name tells the rest. On another one it
    # is still a network for images like those that it was trained on.
    if trained_on != dataset and trained_on in IMAGE_SHAPES:
        facts_of_data_set = {
            "image_shape": IMAGE_SHAPES[trained_on],
            "background": BACKGROUNDS.get(trained_on),
            "classes": list(CLASSES[trained_on]),
        }
        facts = facts_of_data_set | facts
    return facts


def shape_and_classes(facts: dict[str, object], dataset: str) -> tuple[tuple[int, ...], list[str]]:
    """Return shape and class names of a network's images.

    Parameters
    ----------
    facts : dict of {str: object}
        What is known of them. Where a fact is missing, the data set's name tells it.
    dataset : str

    Returns
    -------
    shape : tuple of int
        (C, H, W).
    classes : list of str
    """
    unknown = dict.fromkeys(FACTS)
    full = unknown | {"labels": 10} | facts | {"dataset": dataset}
    return find_image_shape(full), class_names(full)


# --- loading the images


def where_images_lie(dataset: str, facts: dict[str, object]) -> str:
    """Return a network's data set, unless nobody said where that folder is.

    Parameters
    ----------
    dataset : str
        A data set's name, a folder, or the name of a folder that lies elsewhere, as
        checkpoints have it.
    facts : dict of {str: object}
        What the network knows of its images.

    Raises
    ------
    UserError
        If nothing says where the folder is.
    """
    if not dataset.startswith(ELSEWHERE):
        return dataset
    shape, classes = shape_and_classes(facts, dataset)
    folder = dataset.removeprefix(ELSEWHERE)
    known = f"{described(shape)}, {len(classes)} classes: {some(classes)}"
    raise UserError(
        f"the network was trained on a folder of images, {folder} ({known}), and nothing says "
        f"where it is: add --dataset FOLDER ({LAYOUT})"
    )


def images_for(
    args: Arguments, model: Network, holdout: int | None
) -> tuple[ImageSet, ImageSet | None, ImageSet]:
    """Load the images that the flags name.

    Parameters
    ----------
    args : Arguments
    model : Network
    holdout : int or None
        How many of the last training images are held out. None: as ``load_data`` has
        it.

    Returns
    -------
    train_set : ImageSet
    holdout_set : ImageSet or None
    test_set : ImageSet

    Raises
    ------
    UserError
        If they are not the network's images.
    """
    data = load_data(
        where_images_lie(args.dataset, args.facts),
        args.data_dir,
        args.limit_train,
        args.limit_test,
        holdout,
        image_shape=model.image_shape,
        skip_bad=args.skip_bad,
        frames=model.frames,
        count_bound=model.settings["count_bound"],
        split_by=model.settings["split_by"],
    )
    check_fits(data[0], model)
    return data


def sets_of_training(
    args: Arguments, model: Network
) -> tuple[ImageSet, ImageSet | None, ImageSet]:
    """Load the images of a script that trains.

    How many of them are held out, and what selects the best epoch, is set in ``args``.

    Parameters
    ----------
    args : Arguments
        Changed in place.
    model : Network

    Returns
    -------
    train_set : ImageSet
    holdout_set : ImageSet or None
        Images that select the best epoch.
    test_set : ImageSet

    Raises
    ------
    UserError
        If the images are not the network's.
    """
    if args.test_only:
        return images_for(args, model, 0)
    holdout = 0 if args.select == "test" else args.holdout
    train_set, holdout_set, test_set = images_for(args, model, holdout)
    count = len(holdout_set) if holdout_set else 0
    selected_on = "last epoch"
    if args.select == "test":
        selected_on = "test"
    elif holdout_set:
        selected_on = "held-out"
    set_found(args, holdout=count, train_images=len(train_set), selected_on=selected_on)
    return train_set, holdout_set, test_set


# --- checking them


def check_fits(images: ImageSet, model: Network) -> None:
    """Raise UserError unless images have a network's shape and class names."""
    shape = tuple(images.images.shape[-3:])
    classes = images.classes or model.classes
    check_same(f"--dataset {images.name}", (shape, classes), (model.image_shape, model.classes))


def check_same(what: str, images: tuple, known: tuple) -> None:
    """Raise UserError if images that a flag names are not like those of a network.

    Parameters
    ----------
    what : str
        The flag, for the message.
    images, known : tuple of (tuple of int, list of str)
        Shape and class names of both, as ``shape_and_classes`` returns them.
    """
    shape, classes = images
    known_shape, known_classes = known
    if shape != known_shape:
        raise UserError(
            f"{what} has {described(shape)}, and the network takes {described(known_shape)}: "
            "give one that fits"
        )
    if list(classes) != list(known_classes):
        raise UserError(
            f"{what} has the classes {some(classes)}, and the network was trained on "
            f"{some(known_classes)}: give one of its own classes, or train a new network"
        )


# --- telling of them


def lines_on(
    data: tuple[ImageSet | None, ImageSet | None, ImageSet],
    names: list[str],
    test_only: bool,
) -> Iterator[str]:
    """Yield lines on a network's images, for the log.

    Parameters
    ----------
    data : tuple of (ImageSet or None, ImageSet or None, ImageSet)
        Training images, held-out images and test images.
    names : list of str
        Name of each class.
    test_only : bool
        Whether only the test images are used.
    """
    train_set, holdout_set, test_set = data
    parts = {"test": test_set}
    if not test_only:
        parts = {"training": train_set, "held out": holdout_set, "test": test_set}
    counts = {}  # name of a part -> number of its images of each class
    for part, images in parts.items():
        if images:
            counts[part] = images.labels.bincount(minlength=len(names)).tolist()

    parts_in_words = []
    for part, class_counts in counts.items():
        parts_in_words.append(
            f"{part} {sum(class_counts):,} ({class_sizes_in_words(class_counts, names)})"
        )
    yield (
        f"data: {test_set.name}, {described(test_set.images.shape[1:])}, {len(names)} classes; "
        f"images: {', '.join(parts_in_words)}"
    )

    rare = []
    for name, count in zip(names, counts.get("training", ()), strict=False):
        if count < FEWEST:
            rare.append(f"{name} ({count})")
    if rare:
        yield (
            f"warning: fewer than {FEWEST} training images of class {some(rare)}: more of them "
            "would be learned from better"
        )


def class_sizes_in_words(counts: list[int], names: list[str]) -> str:
    """Say from how few to how many images the classes have."""
    fewest = min(counts)
    most = max(counts)
    if fewest == most:
        return f"{fewest:,} of each class"
    smallest = names[counts.index(fewest)]
    largest = names[counts.index(most)]
    return f"{fewest:,} of {smallest} to {most:,} of {largest}"


def described(shape: tuple[int, ...]) -> str:
    """Say what images are like: "grey images of 28x28 pixels".

    Parameters
    ----------
    shape : tuple of int
        (C, H, W), or of recordings (2, H, W) or (T, 2, H, W).
    """
    *frames, channels, height, width = shape
    kinds = {1: "grey images", 2: "recordings", 3: "colour images"}
    kind = kinds.get(channels, "images")
    frames_in_words = "".join(f"{count} frames of " for count in frames)
    return f"{kind} of {frames_in_words}{width}x{height} pixels"
