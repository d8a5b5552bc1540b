"""Run a NIR network on recordings of an event camera, or on images: accuracy, spikes, additions, energy.

FOLDER/CLASS/* are files of N-MNIST (.bin), or .npy and .npz of events (x, y, p, t in
microseconds) or of frames. With --dataset and --timesteps the network sees still
images. The predicted class is the output with the most spikes.
"""  # noqa: E501, W505

import wfeedback.idle_threads  # noqa: F401  (before torch)

import logging
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from self_models.data.events import rows_in
from self_models.data.folders import labelled_recordings
from self_models.data.images import readable_name
from self_models.errors import ModelError, UserError
from self_models.evaluation.operations import conventions
from self_models.feedback.encoders import OF_STILLS
from self_models.notes import some
from self_models.places import HOME
from self_models.settings import COUNT, Setting
from wfeedback.arguments import Arguments, set_found
from wfeedback.building.idle_flags import NEEDS_OF_NIR, refuse_idle
from wfeedback.command_line.flags import borrowed_flags
from wfeedback.command_line.parser import Parser, SwitchAction, flag_type
from wfeedback.command_line.reading import add_reading_flags, reading_of
from wfeedback.data.facts import lines_on
from wfeedback.drawing.raster import save_recording
from wfeedback.measuring.still_images import (
    COUNTED,
    arrival_in_words,
    costs,
    evaluate_images,
    first_events,
    notes_on_training,
    open_images,
)
from wfeedback.measuring.tables import aligned, figure
from wfeedback.nir.graph_snn import GraphSNN
from wfeedback.nir.nir_file import read_nir
from wfeedback.nir.simulators import SIMULATORS, check
from wfeedback.runs.run import Run, progress_bar

# Flags of other scripts, too.
SHARED = (
    "log",
    "output_dir",
    "run_name",
    "overwrite",
    "batch_size",
    "seed",
    "data_dir",
    "skip_bad",
)
RECORDINGS = str(HOME / "data/nmnist")  # where nobody names any
FOR_IMAGES = ("timesteps", "encoding", "signed", "seed", "data_dir", "skip_bad")  # flags
FOR_RECORDINGS = ("steps", "events_per_step", "gif")
MOST = 100_000  # timesteps
CHECKED = 2  # recordings that are compared with other simulators


# --- the flags


def build_parser() -> Parser:
    """Return the parser."""
    parser = Parser(__doc__)
    for name, declared in shared_flags().items():
        parser.add_setting(name, declared)
    parser.usage = (
        "%(prog)s NETWORK.nir [FOLDER] [FLAG ...]\n"
        "       %(prog)s NETWORK.nir --dataset NAME|FOLDER --timesteps T [FLAG ...]"
    )
    parser.add_argument("network", metavar="NETWORK.nir")
    parser.add_argument(
        "folder",
        nargs="?",
        default=RECORDINGS,
        metavar="FOLDER",
        help=(
            "recordings in FOLDER/CLASS/, or FOLDER/test/CLASS/; default: 100 of N-MNIST that "
            "come with the program"
        ),
    )
    add_reading_flags(parser.add_argument_group("reading the network"))
    running = parser.add_argument_group("running")
    images = parser.add_argument_group("images")
    add_running_flags(running)
    add_image_flags(images)
    return parser


def shared_flags() -> dict[str, Setting]:
    """Return the flags that the training script has, too, by name."""
    flags = borrowed_flags({*SHARED, "dataset"})
    flags["batch_size"] = replace(flags["batch_size"], help="recordings or images at a time")
    flags["seed"] = replace(flags["seed"], help="images: seed of --encoding poisson")
    flags["dataset"] = replace(
        flags["dataset"],
        default=None,
        help=(
            "run on the test images of this data set instead of recordings, each for --timesteps "
            "T; a folder as in training"
        ),
    )
    return flags


def add_running_flags(group: object) -> None:
    """Add the flags that say how a network runs, and what of it is shown."""
    group.add_argument(
        "--events_per_step",
        type=flag_type(COUNT),
        default=None,
        metavar="N",
        help=(
            "timesteps of N events each, however long they take; --dt then sets time constants "
            "only"
        ),
    )
    group.add_argument(
        "--steps",
        type=flag_type(COUNT),
        default=None,
        metavar="T",
        help="timesteps of each recording; default: those of the longest",
    )
    group.add_argument(
        "--limit",
        type=flag_type(COUNT),
        default=None,
        metavar="N",
        help="only N recordings, balanced over the classes, or the first N images",
    )
    group.add_argument(
        "--engine",
        choices=["auto", "event", "dense"],
        default="auto",
        help="event: the kernel; dense: PyTorch; auto: the kernel where it knows all nodes",
    )
    group.add_argument(
        "--wrong",
        action=SwitchAction,
        default=False,
        help="name each recording or image that is classified wrongly",
    )
    group.add_argument(
        "--gif",
        default="",
        metavar="FILE",
        help="draw this recording: events, first layer's spikes, outputs",
    )
    group.add_argument(
        "--check",
        nargs="*",
        choices=list(SIMULATORS),
        default=None,
        metavar="SIMULATOR",
        help=(
            "instead, compare spikes with other simulators on two recordings, or --limit N; "
            f"default: {', '.join(SIMULATORS)}"
        ),
    )


def add_image_flags(group: object) -> None:
    """Add the flags of still images but for those that other scripts have, too."""
    group.add_argument(
        "--timesteps",
        type=flag_type(COUNT),
        default=None,
        metavar="T",
        help="images: for how many timesteps each is shown",
    )
    group.add_argument(
        "--encoding",
        choices=list(OF_STILLS),
        default="constant",
        help=(
            "images: what arrives in a timestep; constant: the pixel's value; poisson: an event, "
            "with this probability"
        ),
    )
    group.add_argument(
        "--signed",
        action=SwitchAction,
        default=None,
        help=(
            "images: pixels have values from -1 to 1 instead of 0 to 1; default: those of colour "
            "images in files that this program has written"
        ),
    )


def check_flags(args: Arguments) -> None:
    """Raise UserError for flags of recordings with images, or the other way round."""
    if not args.dataset:
        flag = first_typed(args, FOR_IMAGES)
        if flag:
            raise UserError(
                f"--{flag} is for images: add --dataset NAME|FOLDER, or leave it out for "
                "recordings"
            )
        return
    if args.folder != RECORDINGS:
        raise UserError(
            f"{args.folder} names recordings, and --dataset images: leave out one of the two"
        )
    flag = first_typed(args, FOR_RECORDINGS)
    if flag:
        raise UserError(
            f"--{flag} is for recordings, and --dataset names images: leave out one of the two"
        )
    if not args.timesteps:
        raise UserError("--dataset needs --timesteps T: for how many timesteps an image is shown")


def first_typed(args: Arguments, flags: Collection[str]) -> str | None:
    """Return the first of these flags that was typed, None where none was."""
    for flag in flags:
        if flag in args.typed:
            return flag
    return None


# --- running a network


def main(argv: list[str] | None = None) -> dict | list:
    """Run a network; return its record, or with --check what compare() returns."""
    args = build_parser().parse_args(argv)
    set_found(args, results_json="")
    check_flags(args)
    refuse_idle(args, NEEDS_OF_NIR, args)
    reading = reading_of(args)
    model, notes = read_nir(args.network, reading, args.engine)
    shape = model.graph.shape
    if not args.dataset and (len(shape) != 3 or shape[0] > 2):
        raise UserError(
            f"{args.network} takes {shape}, and recordings are (2, H, W), or (1, H, W): "
            "for images give --dataset NAME|FOLDER --timesteps T"
        )
    run = Run("nir", args.run_name or Path(args.network).stem, args, trains=False)
    run.say(*[f"note: {note}" for note in notes])
    if args.dataset:
        return run_images(args, run, model, reading)
    return run_recordings(args, run, model, reading)


def run_recordings(
    args: Arguments, run: Run, model: GraphSNN, reading: dict[str, object]
) -> dict | list:
    """Run the network on recordings, say what it does, and return the record of it.

    Parameters
    ----------
    args : Arguments
        The flags.
    run : Run
        Where lines and records go.
    model : GraphSNN
        The network.
    reading : dict of {str: object}
        How its file is read, as from_nir takes it.

    Returns
    -------
    dict or list
        The record; with ``--check`` what compare() returns.
    """
    listing = list_recordings(args, model)
    recordings, steps = read_recordings(args, model, listing.paths)
    gif_recordings = None
    if args.gif:
        gif_recordings, gif_steps = read_recordings(args, model, [args.gif])
    run.begin()
    if args.check is not None:
        return compare(args, run, reading, recordings[: args.limit or CHECKED], steps)
    num_classes = len(set(listing.labels))
    run.say(
        f"{len(listing.paths):,} recordings of {num_classes} classes, {steps} timesteps of "
        f"{length_of_timestep(args, model)}; engine: {engine_in_words(model)}"
    )
    result, predicted = evaluate(model, recordings, listing.labels, steps, args.batch_size)
    report(run, model, result, "recordings")
    if args.wrong:
        names = listing.names
        for path, label, answer in zip(listing.paths, listing.labels, predicted, strict=True):
            if answer != label:
                run.say(
                    f"wrong: {readable_name(path)}: class {names[label]}, "
                    f"predicted {names[answer]}"
                )
    record = {
        "event": "nir",
        "network": args.network,
        "timesteps": steps,
        "dt": model.dt,
        **result,
    }
    run.record(**record)
    if gif_recordings:
        path = run.picture(".gif")
        title = Path(args.gif).name
        save_recording(path, model, gif_recordings[0], gif_steps, listing.names, title)
        run.say(f"wrote {path}")
    if args.log:
        run.say(f"log: {run.log_path}")
    return record


def run_images(
    args: Arguments, run: Run, model: GraphSNN, reading: dict[str, object]
) -> dict | list:
    """Run the network on still images, say what it does, and return the record of it.

    Parameters
    ----------
    args, run, model, reading
        As in ``run_recordings``.

    Returns
    -------
    dict or list
        The record; with ``--check`` what compare() returns.
    """
    test = open_images(args, model)
    run.begin()
    run.say(
        *lines_on((None, None, test), test.classes, test_only=True),
        f"{arrival_in_words(args, model)}; engine: {engine_in_words(model)}",
        *notes_on_training(args, model),
    )
    if args.check is not None:
        events = first_events(test, model, args, args.limit or CHECKED)
        return compare(args, run, reading, events, args.timesteps)
    result, predicted = evaluate_images(test, model, args)
    report(run, model, result, "images")
    if args.wrong:
        names = test.classes
        labels = test.labels.tolist()
        for number, (label, answer) in enumerate(zip(labels, predicted, strict=True)):
            if answer != label:
                run.say(f"wrong: image {number}: class {names[label]}, predicted {names[answer]}")
    record = {
        "event": "nir",
        "network": args.network,
        "dataset": test.name,
        "timesteps": args.timesteps,
        "encoding": args.encoding,
        "dt": model.dt,
        **result,
    }
    run.record(**record)
    if args.log:
        run.say(f"log: {run.log_path}")
    return record


def compare(
    args: Arguments, run: Run, reading: dict[str, object], inputs: object, steps: int
) -> list:
    """Say what other simulators do with the same input, and record it.

    Parameters
    ----------
    args : Arguments
    run : Run
    reading : dict of {str: object}
        How the file is read, as from_nir takes it.
    inputs : list of array, or Tensor
        Recordings, or what still images send, as ``simulators.check`` takes them.
    steps : int
        Number of timesteps.

    Returns
    -------
    list of tuple
        The rows that ``simulators.check`` returns.
    """
    logging.disable(logging.WARNING)  # what they say of the file while they read it
    names = args.check or list(SIMULATORS)
    with warnings.catch_warnings(action="ignore"):
        rows = check(args.network, inputs, steps, names, **reading)
    logging.disable(logging.NOTSET)
    run.record(event="check", network=args.network, timesteps=steps, rows=rows)
    run.say(
        "compared: the spikes of every node, here with these flags, and in the network that the "
        "simulator's own importer makes of the file"
    )
    run.say(*aligned([("compared with", "version", "spikes", ""), *rows], left=range(4)))
    return rows


# --- recordings


@dataclass(frozen=True)
class Listing:
    """Recordings in a folder, and what they are.

    Attributes
    ----------
    paths : tuple of Path
    labels : tuple of int
        Of each recording: the number of its output.
    names : list of str
        Of each output: the name of its class.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    names: list[str]


def list_recordings(args: Arguments, model: GraphSNN) -> Listing:
    """List the recordings in a folder: the first of each class, then the second ones.

    Classes with numbers as names are those of the outputs. Others are so in
    alphabetical order.

    Parameters
    ----------
    args : Arguments
        With ``folder``, and ``limit``, to how many the list is cut off.
    model : GraphSNN

    Returns
    -------
    Listing

    Raises
    ------
    UserError
        If there are none, or the classes do not fit the outputs.
    """
    num_outputs = model.class_count
    try:
        paths_of_class = labelled_recordings(args.folder)
    except UserError as error:
        raise UserError(f"{error}; of images: --dataset FOLDER --timesteps T") from None
    are_numbers = all(name.isdecimal() and int(name) < num_outputs for name in paths_of_class)
    if not are_numbers and len(paths_of_class) != num_outputs:
        raise UserError(
            f"{args.folder} has {len(paths_of_class)} classes ({some(list(paths_of_class))}), and "
            f"{args.network} {num_outputs} outputs: give a folder for each output, in the order "
            "of their names, or name them by the outputs' numbers, from 0"
        )
    names = [str(number) for number in range(num_outputs)]
    recordings = []
    for number, (name, paths) in enumerate(paths_of_class.items()):
        label = int(name) if are_numbers else number
        names[label] = name
        for number_in_class, path in enumerate(paths):
            recordings.append((number_in_class, label, path))
    recordings.sort()
    _, labels, paths = zip(*recordings[: args.limit], strict=True)
    return Listing(paths, labels, names)


def read_recordings(
    args: Arguments, model: GraphSNN, paths: Collection[Path | str]
) -> tuple[list[np.ndarray], int]:
    """Read recordings.

    Parameters
    ----------
    args : Arguments
        With ``steps`` and ``events_per_step``.
    model : GraphSNN
    paths : collection of Path or str

    Returns
    -------
    recordings : list of array
        As the model takes them.
    steps : int
        How many timesteps all have.

    Raises
    ------
    UserError
        If one cannot be read, or is too long.
    """
    recordings = []
    longest = 0
    bar = progress_bar("reading", len(paths))
    for path in paths:
        try:
            rows, steps = rows_in(Path(path), model.graph.shape, model.dt, args.events_per_step)
        except ModelError as error:
            message = str(error).removeprefix(f"{path}: ")
            raise UserError(f"{path}: {message}; mend it, or take it out") from None
        if (args.steps or steps) > MOST:
            raise UserError(
                f"{path} has {args.steps or steps:,} timesteps of "
                f"{length_of_timestep(args, model)}: give a larger --dt, or fewer --steps"
            )
        if args.steps:
            rows = rows[rows[:, 0] < args.steps]
        recordings.append(rows)
        longest = max(longest, steps)
        bar.update()
    bar.close()
    return recordings, args.steps or longest


@torch.no_grad()
def evaluate(
    model: GraphSNN,
    recordings: list[np.ndarray],
    labels: Collection[int],
    steps: int,
    batch_size: int,
) -> tuple[dict[str, object], list[int]]:
    """Evaluate a network on recordings.

    Parameters
    ----------
    model : GraphSNN
    recordings : list of array
    labels : collection of int
        Of each recording.
    steps : int
        Number of timesteps.
    batch_size : int
        Recordings at a time.

    Returns
    -------
    figures : dict of {str: object}
        For the record. Times are of the model alone.
    predicted : list of int
        The class that each recording is read as.
    """
    spikes = {}  # of each node, over all recordings
    predicted = []
    seconds = 0.0
    bar = progress_bar("running", len(recordings))
    for first in range(0, len(recordings), batch_size):
        batch = recordings[first : first + batch_size]
        began = time.perf_counter()
        output = model(batch, steps)
        seconds += time.perf_counter() - began
        predicted += output.logits.argmax(1).tolist()
        for name, counts in output.spikes.items():
            spikes[name] = spikes.get(name, 0) + counts.double().sum().item()
        bar.update(len(batch))
    bar.close()
    count = len(recordings)
    right = sum(answer == label for answer, label in zip(predicted, labels, strict=True))
    figures = {
        "recordings": count,
        "right": right,
        "accuracy": right / count,
        "seconds": seconds,
        "recordings_per_second": count / seconds,
        "threads": torch.get_num_threads(),
        "spikes": {name: total / count for name, total in spikes.items()},
    }
    return figures | costs(model, recordings[:COUNTED], steps), predicted


# --- what is said of it


def engine_in_words(model: GraphSNN) -> str:
    """Name the engine that runs the network, and say why if it is not the kernel."""
    if model.stays:
        return f"dense ({model.stays})"
    return "event" if model.engine else "dense"


def length_of_timestep(args: Arguments, model: GraphSNN) -> str:
    """Say how long a timestep is, in events or milliseconds."""
    if args.events_per_step:
        return f"{args.events_per_step} events"
    return f"{1000 * model.dt:g} ms"


def report(run: Run, model: GraphSNN, result: dict[str, object], what: str) -> None:
    """Say what an evaluation has found.

    Parameters
    ----------
    run : Run
        Where lines go.
    model : GraphSNN
    result : dict of {str: object}
        Figures of evaluate(), or of evaluate_images().
    what : {"recordings", "images"}
        What it was evaluated on.
    """
    spikes = result["spikes"]
    rows = [["node", "shape", "spikes", "additions"]]
    for name, additions in result["additions"].items():
        shape = "x".join(str(size) for size in model.graph.shapes[name])
        sent = figure(spikes[name]) if name in spikes else "-"
        rows.append([name, shape, sent, figure(additions)])
    energies = []
    for name, joules in result["joules"].items():
        energies.append(f"{figure(1e6 * joules)} µJ ({conventions()[name].title})")
    total = result[what]
    run.result(
        f"accuracy {100 * result['accuracy']:.2f} %: {result['right']:,} of {total:,} {what}",
        *aligned(rows, left=(0, 1)),
        f"energy, estimated: {', '.join(energies)}; energy and additions: means of "
        f"{min(COUNTED, total)} {what}",
    )
    silent = [name for name, count in spikes.items() if not count]
    if silent:
        run.say(f"note: no node {', '.join(silent)} sends a spike")
    included = "files already read" if what == "recordings" else "reading included"
    run.say(
        f"{result[f'{what}_per_second']:.1f} {what} per second "
        f"({included}; threads: {result['threads']})"
    )
