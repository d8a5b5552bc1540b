"""What a network must know of its images: number and names of the classes, image shape, how bright a background is."""

from harness import UserError
from harness.arguments import set_found
from self_models.basics.images import (
    BACKGROUNDS,
    CLASSES,
    ELSEWHERE,
    IMAGE_SHAPES,
    border,
    class_names,
    find_image_shape,
)
from self_models.basics.notes import some
from self_models.data.folders import LAYOUT, list_folder, pixels_of, recorded_shape, shape_of
from self_models.data.sets import load_data

FACTS = (
    "labels",
    "image_shape",
    "classes",
    "background",
    "recorded_frames",
)  # settings of a network
FEWEST = 10  # training images of a class, below which a line warns
SELECTED_ON = (
    "held-out",
    "last epoch",
    "test",
)  # held-out training images; nothing; the test images, as in the original
LOOKED_AT = 1000  # training images, for the light of their borders


def find_facts(args):
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


def facts_of_folder(args):
    """Return the FACTS of a folder of images or recordings, for a new network."""
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


def where_images_lie(dataset, facts):
    """The data set of a network with these FACTS. Raises UserError for a folder of which nobody said where it is."""
    if not dataset.startswith(ELSEWHERE):
        return dataset
    shape, classes = shape_and_classes(facts, dataset)
    folder = f"{dataset.removeprefix(ELSEWHERE)} ({described(shape)}, {len(classes)} classes: {some(classes)})"
    told = f"the network was trained on a folder of images, {folder}, and nothing says where it is"
    raise UserError(f"{told}: add --dataset FOLDER ({LAYOUT})")


def facts_of(settings, dataset):
    """The FACTS in a checkpoint's settings, for a network that is to be used on this data set."""
    was = settings.get("dataset", "MNIST")
    facts = {name: settings[name] for name in FACTS if settings.get(name) is not None}
    if was != dataset and was in IMAGE_SHAPES:  # of its own data set its name tells them
        facts = {
            "image_shape": IMAGE_SHAPES[was],
            "background": BACKGROUNDS.get(was),
            "classes": list(CLASSES[was]),
        } | facts
    return facts


def shape_and_classes(facts, dataset):
    """((C, H, W), class names) of a network with these FACTS on this data set."""
    full = {**dict.fromkeys(FACTS), "labels": 10, **facts, "dataset": dataset}
    return find_image_shape(full), class_names(full)


def check_fits(images, model):
    """Raises UserError unless the ImageSet's images have the shape, and its classes the names, that the network knows."""
    known = tuple(images.images.shape[-3:]), images.classes or model.classes
    check_same(f"--dataset {images.name}", known, (model.image_shape, model.classes))


def check_same(what, images, known):
    """Raises UserError where images that a flag names differ from those that are known: (shape, classes) of both."""
    (shape, classes), (known_shape, known_classes) = images, known
    if shape != known_shape:
        raise UserError(
            f"{what} has {described(shape)}, and the network takes {described(known_shape)}: give one that fits"
        )
    if list(classes) != list(known_classes):
        told = f"has the classes {some(classes)}, and the network was trained on {some(known_classes)}"
        raise UserError(f"{what} {told}: give one of its own classes, or train a new network")


def lines_on(data, names, test_only):
    """Lines on a network's images. data: (training, selection or None, test) ImageSets; test_only: only the last count."""
    parts = {
        part: images
        for part, images in zip(("training", "held out", "test"), data, strict=True)
        if images
    }
    if test_only:
        parts = {"test": data[2]}
    counts = {
        part: images.labels.bincount(minlength=len(names)).tolist()
        for part, images in parts.items()
    }
    said = []
    for part, of_classes in counts.items():
        least, most = min(of_classes), max(of_classes)
        ends = f"{least:,} of {names[of_classes.index(least)]} to {most:,} of {names[of_classes.index(most)]}"
        said.append(
            f"{part} {sum(of_classes):,} ({f'{least:,} of each class' if least == most else ends})"
        )
    yield f"data: {data[2].name}, {described(data[2].images.shape[1:])}, {len(names)} classes; images: {', '.join(said)}"
    rare = [
        f"{name} ({count})"
        for name, count in zip(names, counts.get("training", ()), strict=False)
        if count < FEWEST
    ]
    if rare:
        yield f"warning: fewer than {FEWEST} training images of class {some(rare)}: more of them would be learned from better"


def described(shape):
    """'grey images of 28x28 pixels', of (C, H, W), or of recordings of (2, H, W) or (T, 2, H, W)."""
    *frames, channels, height, width = shape
    kinds = {1: "grey images", 2: "recordings", 3: "colour images"}
    return f"{kinds.get(channels, 'images')} of {''.join(f'{count} frames of ' for count in frames)}{width}x{height} pixels"


def images_for(args, model, holdout):
    """(training, selection or None, test) ImageSets that the flags name. Raises UserError for images that are not the model's."""
    of_folder = {
        "image_shape": model.image_shape,
        "skip_bad": args.skip_bad,
        "frames": model.frames,
    }
    of_folder |= {name: model.settings[name] for name in ("count_bound", "split_by")}
    dataset = where_images_lie(args.dataset, args.facts)
    data = load_data(
        dataset, args.data_dir, args.limit_train, args.limit_test, holdout, **of_folder
    )
    check_fits(data[0], model)
    return data


def sets_of_training(args, model):
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
