"""Still images for a network of events, such as one of a NIR file.

Which images are taken, how they become events, and what the network makes of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil, prod
from pathlib import Path

import torch

from self_models.data.folders import (
    PARTS,
    Listing,
    labelled_recordings,
    list_folder,
    shape_of,
)
from self_models.data.images import CLASSES, IMAGE_SHAPES, pixel_values
from self_models.data.sets import ImageSet, load_data
from self_models.errors import UserError
from self_models.evaluation.batches import Arrival, event_batches
from self_models.evaluation.evaluate import evaluate_parts
from self_models.evaluation.operations import conventions
from self_models.notes import some
from wfeedback.arguments import Arguments
from wfeedback.data.facts import described
from wfeedback.energy.ledger import graph_entries
from wfeedback.nir.graph_snn import GraphSNN
from wfeedback.runs.run import progress_bar

COUNTED = 10  # inputs of which additions are counted
AS_TRAINED = {"direct": "constant"}  # encoding in a file of ours -> what it is called for events


def open_images(args: Arguments, model: GraphSNN) -> ImageSet:
    """Open the test images that the flags name, for a network of events.

    Parameters
    ----------
    args : Arguments
        ``network``, ``dataset``, ``data_dir``, ``skip_bad``, ``limit``, and ``signed``,
        None for what the network takes.
    model : GraphSNN
        The network. One with an input (C, H, W) takes a folder's images in this size,
        as other scripts do; one with a vector takes images of as many pixels.

    Returns
    -------
    ImageSet
        The test images, or the first ``limit`` of them. Its batches have floats, in [0,
        1] or [-1, 1].

    Raises
    ------
    UserError
        For images or classes that do not fit the network, and where there are none.
    """
    shape = tuple(model.graph.shape)
    if args.dataset in IMAGE_SHAPES:  # checked before it is downloaded
        check_shape(args, IMAGE_SHAPES[args.dataset], shape)
        check_classes(args, CLASSES[args.dataset], model)
        _, _, test = load_data(args.dataset, args.data_dir)
    else:
        listing = list_images(args.dataset)
        check_classes(args, listing.classes, model)
        image_shape = shape
        if len(shape) != 3 or shape[0] not in (1, 3):
            image_shape = shape_of(listing)
        check_shape(args, image_shape, shape)
        _, _, test = load_data(args.dataset, image_shape=image_shape, skip_bad=args.skip_bad)
    if args.limit:
        test = test.part(0, args.limit)
    return replace(test, change=partial(pixel_values, signed=is_signed(args, model)))


def list_images(dataset: str) -> Listing:
    """List a folder of images.

    Parameters
    ----------
    dataset : str
        Path of the folder.

    Returns
    -------
    Listing
        Its images and classes.

    Raises
    ------
    UserError
        If it has recordings, or is no folder of images.
    """
    refusal = UserError(f"--dataset {dataset} has recordings: give the folder without --dataset")
    if not any((Path(dataset) / part).is_dir() for part in PARTS):
        # list_folder would first say how it splits recordings.
        try:
            labelled_recordings(dataset)
        except UserError:
            pass  # it has none, so list_folder says what is wrong
        else:
            raise refusal
    listing = list_folder(dataset)
    if listing.of_recordings:
        raise refusal
    return listing


def is_signed(args: Arguments, model: GraphSNN) -> bool:
    """Return whether pixels lie in [-1, 1], by ``--signed`` or by the network."""
    return model.has_signed_pixels if args.signed is None else args.signed


def check_shape(args: Arguments, image_shape: tuple, shape: tuple) -> None:
    """Raise UserError unless images (C, H, W) fit a network's input of this shape."""
    if image_shape == shape or (prod(image_shape),) == shape:
        return
    raise UserError(
        f"--dataset {args.dataset} has {described(image_shape)}, {image_shape}, and "
        f"{args.network} takes {shape}: give one that fits"
    )


def check_classes(args: Arguments, classes: Sequence[str], model: GraphSNN) -> None:
    """Raise UserError unless a network has one output for each of these classes."""
    if len(classes) == model.class_count:
        return
    raise UserError(
        f"--dataset {args.dataset} has {len(classes)} classes ({some(list(classes))}), and "
        f"{args.network} has {model.class_count} outputs: give a data set with a class for each "
        "output, in the order of the outputs"
    )


def first_events(test: ImageSet, model: GraphSNN, args: Arguments, count: int) -> torch.Tensor:
    """Encode the first images as events.

    Parameters
    ----------
    test : ImageSet
        The images.
    model : GraphSNN
        The network.
    args : Arguments
        ``timesteps``, ``encoding`` and ``seed``.
    count : int
        How many images are encoded.

    Returns
    -------
    Tensor of shape (count, T, ...)
        What they send, as the network takes it.
    """
    arrival = Arrival(args.timesteps, encoding=args.encoding)
    first = test.part(0, count)
    (batch,) = event_batches(model, first, None, count, arrival)
    return batch.events(args.seed)


def evaluate_images(test: ImageSet, model: GraphSNN, args: Arguments) -> tuple[dict, list[int]]:
    """Evaluate a network of events on still images.

    Parameters
    ----------
    test : ImageSet
        The images, as ``open_images`` gives them.
    model : GraphSNN
        The network.
    args : Arguments
        ``timesteps``, ``encoding``, ``seed`` and ``batch_size``.

    Returns
    -------
    figures : dict
        Numbers of ``images`` and of those that are ``right``, ``accuracy``; ``seconds``
        and ``images_per_second``, what reads and encodes them included; ``threads``; by
        node mean ``spikes``; and what ``costs`` says of the first images.
    found : list of int
        The class as which each image is classified.
    """
    arrival = Arrival(args.timesteps, encoding=args.encoding)
    parts = event_batches(model, test, None, args.batch_size, arrival)
    with progress_bar("running", ceil(len(test) / args.batch_size)) as bar:
        result = evaluate_parts(model, parts, args.seed, on_part=lambda *_: bar.update())
    per_image = result["per_image"]
    figures = {
        "images": result["images"],
        "right": int(per_image["correct"].sum()),
        "accuracy": result["accuracy"],
        "seconds": result["seconds"],
        "images_per_second": result["images_per_second"],
        "threads": torch.get_num_threads(),
        "spikes": result["spikes"],
    }
    events = first_events(test, model, args, COUNTED)
    return figures | costs(model, events, args.timesteps), per_image["found"].tolist()


def costs(model: GraphSNN, inputs: list | torch.Tensor, timesteps: int) -> dict[str, dict]:
    """Count the additions of a network of events, and estimate its energy.

    Parameters
    ----------
    model : GraphSNN
        The network.
    inputs : list of array, or Tensor of shape (B, T, ...)
        Recordings, or what still images send, as the model takes them.
    timesteps : int
        How many timesteps they have.

    Returns
    -------
    dict
        ``additions``, by node, and ``joules``, by convention: means over the inputs.
    """
    entries = graph_entries(model, inputs, timesteps)
    joules = {}
    for name, convention in conventions().items():
        if convention.counts == "exact":
            picojoules = [entry.picojoules(convention, "event-driven") for entry in entries]
            joules[name] = 1e-12 * sum(picojoules)
    return {"additions": {entry.layer: entry.synops for entry in entries}, "joules": joules}


def arrival_in_words(args: Arguments, model: GraphSNN) -> str:
    """Say in a line how the images arrive at the network."""
    span = "-1 to 1" if is_signed(args, model) else "0 to 1"
    if args.encoding == "constant":
        sends = (
            f"constant: in each timestep each pixel's value, {span}, arrives; one that is not 0 "
            "counts as a spike of the input, and multiplies the weights"
        )
    else:
        sends = (
            "Poisson: in each timestep an event arrives with a probability that is its pixel's "
            f"value, {span}"
        )
    return f"{args.timesteps} timesteps of {1000 * model.dt:g} ms; {sends}"


def notes_on_training(args: Arguments, model: GraphSNN) -> list[str]:
    """Say how a network was trained, if that differs from the flags."""
    trained_encoding = model.metadata.get("encoding", args.encoding)
    trained_encoding = AS_TRAINED.get(trained_encoding, trained_encoding)
    trained_timesteps = model.metadata.get("timesteps", args.timesteps)
    if (trained_encoding, trained_timesteps) == (args.encoding, args.timesteps):
        return []
    return [
        f"note: the network was trained with --encoding {trained_encoding} --timesteps "
        f"{trained_timesteps}, as its file says"
    ]
