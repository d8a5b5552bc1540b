#!/usr/bin/env python3
"""Run a NIR network on recordings of an event camera, or on images: accuracy, spikes, additions, energy.

FOLDER/CLASS/* are files of N-MNIST (.bin), or .npy and .npz of events (x, y, p, t in microseconds) or of frames. With --dataset
and --timesteps the network sees still images. The predicted class is the output with the most spikes."""

import harness.idle_threads  # noqa: F401  (before torch)

import logging
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch

import snn_wFeedback
from harness import UserError
from harness.arguments import set_found
from harness.command_line.parser import Parser, SwitchAction, flag_type
from harness.command_line.reading import add_reading_flags, reading_of
from harness.command_line.scripts import run_script
from harness.data.facts import lines_on
from harness.data.nir_file import read_nir
from harness.drawing.raster import save_recording
from harness.measuring.simulators import SIMULATORS, check
from harness.measuring.still_images import (
    COUNTED,
    arrival_in_words,
    costs,
    evaluate_images,
    first_events,
    notes_on_training,
    open_images,
)
from harness.measuring.tables import aligned, figure
from harness.runs.run import Run, progress_bar
from self_models.basics import HOME, ModelError
from self_models.basics.images import readable_name
from self_models.basics.notes import some
from self_models.basics.settings import COUNT
from self_models.counting.operations import conventions
from self_models.data.events import rows_in
from self_models.data.folders import labelled_recordings
from self_models.objectives.encoders import OF_STILLS

SHARED = (
    "log",
    "output_dir",
    "run_name",
    "overwrite",
    "batch_size",
    "seed",
    "data_dir",
    "skip_bad",
)  # flags of other scripts, too
RECORDINGS = str(HOME / "data/nmnist")  # where nobody names any
FOR_IMAGES = ("timesteps", "encoding", "signed", "seed", "data_dir", "skip_bad")  # flags
FOR_RECORDINGS = ("steps", "events_per_step", "gif")
MOST = 100_000  # timesteps
CHECKED = 2  # recordings that are compared with other simulators


def build_parser():
    parser = Parser(__doc__)
    flags_of_training = snn_wFeedback.build_parser([]).settings
    settings = {name: one for name, one in flags_of_training.items() if name in SHARED}
    settings["batch_size"] = replace(settings["batch_size"], help="recordings or images at a time")
    settings["seed"] = replace(settings["seed"], help="images: seed of --encoding poisson")
    settings["dataset"] = replace(
        flags_of_training["dataset"],
        default=None,
        help=(
            "run on the test images of this data set instead of recordings, each for --timesteps "
            "T; a folder as in training"
        ),
    )
    for name, declared in settings.items():
        parser.add_setting(name, declared)
    parser.usage = (
        "%(prog)s NETWORK.nir [FOLDER] [FLAG ...]\n"
        "       %(prog)s NETWORK.nir --dataset NAME|FOLDER --timesteps T [FLAG ...]"
    )
    parser.add_argument("network", metavar="NETWORK.nir")
    help_text = "recordings in FOLDER/CLASS/, or FOLDER/test/CLASS/; default: 100 of N-MNIST that come with the program"
    parser.add_argument("folder", nargs="?", default=RECORDINGS, metavar="FOLDER", help=help_text)
    add_reading_flags(parser.add_argument_group("reading the network"))
    group = parser.add_argument_group("running")
    for flag, word, help_text in (
        (
            "events_per_step",
            "N",
            "timesteps of N events each, however long they take; --dt then sets time constants only",
        ),
        ("steps", "T", "timesteps of each recording; default: those of the longest"),
        ("limit", "N", "only N recordings, balanced over the classes, or the first N images"),
    ):
        group.add_argument(
            f"--{flag}", type=flag_type(COUNT), default=None, metavar=word, help=help_text
        )
    add_image_flags(parser.add_argument_group("images"))
    help_text = "event: the kernel; dense: PyTorch; auto: the kernel where it knows all nodes"
    group.add_argument(
        "--engine", choices=["auto", "event", "dense"], default="auto", help=help_text
    )
    group.add_argument(
        "--wrong",
        action=SwitchAction,
        default=False,
        help="name each recording or image that is classified wrongly",
    )
    help_text = "draw this recording: events, first layer's spikes, outputs"
    group.add_argument("--gif", default="", metavar="FILE", help=help_text)
    help_text = f"instead, compare spikes with other simulators on two recordings, or --limit N; default: {', '.join(SIMULATORS)}"
    group.add_argument(
        "--check",
        nargs="*",
        choices=[*SIMULATORS],
        default=None,
        metavar="SIMULATOR",
        help=help_text,
    )
    return parser


def add_image_flags(group):
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


def check_flags(args):
    """Raise UserError for flags of recordings with those of images, and for images without T."""
    if not args.dataset:
        wrong = [flag for flag in FOR_IMAGES if flag in args.typed]
        if wrong:
            raise UserError(
                f"--{wrong[0]} is for images: add --dataset NAME|FOLDER, or leave it out for recordings"
            )
        return
    if args.folder != RECORDINGS:
        raise UserError(
            f"{args.folder} names recordings, and --dataset images: leave out one of the two"
        )
    wrong = [flag for flag in FOR_RECORDINGS if flag in args.typed]
    if wrong:
        raise UserError(
            f"--{wrong[0]} is for recordings, and --dataset names images: leave out one of the two"
        )
    if not args.timesteps:
        raise UserError("--dataset needs --timesteps T: for how many timesteps an image is shown")


def main(argv=None):
    args = build_parser().parse_args(argv)
    set_found(args, results_json="")
    check_flags(args)
    said = reading_of(args)
    model, notes = read_nir(args.network, said, args.engine)
    if not args.dataset and (len(model.graph.shape) != 3 or model.graph.shape[0] > 2):
        raise UserError(
            f"{args.network} takes {model.graph.shape}, and recordings are (2, H, W), or (1, H, W): "
            "for images give --dataset NAME|FOLDER --timesteps T"
        )
    run = Run("nir", args.run_name or Path(args.network).stem, args, trains=False)
    run.say(*[f"note: {note}" for note in notes])
    if args.dataset:
        return run_images(args, run, model, said)
    files, labels, names = listed(args, model)
    recordings, steps = read(args, model, files)
    drawn = read(args, model, [args.gif]) if args.gif else None
    run.begin()
    if args.check is not None:
        return compare(args, run, said, recordings[: args.limit or CHECKED], steps)
    run.say(
        f"{len(files):,} recordings of {len({*labels})} classes, {steps} timesteps of {length(args, model)}; "
        f"engine: {engine_in_words(model)}"
    )
    result, read_as = evaluate(model, recordings, labels, steps, args.batch_size)
    report(run, model, result, "recordings")
    for path, label, found in zip(files, labels, read_as, strict=True):
        if args.wrong and found != label:
            run.say(
                f"wrong: {readable_name(path)}: class {names[label]}, predicted {names[found]}"
            )
    record = {
        "event": "nir",
        "network": args.network,
        "timesteps": steps,
        "dt": model.dt,
        **result,
    }
    run.record(**record)
    if drawn:
        save_recording(
            run.picture(".gif"), model, drawn[0][0], drawn[1], names, Path(args.gif).name
        )
        run.say(f"wrote {run.picture('.gif')}")
    if args.log:
        run.say(f"log: {run.log_path}")
    return record


def run_images(args, run, model, said):
    """Run the network on still images, say what it does, and return the record of it.

    Parameters
    ----------
    args : Arguments
        The flags.
    run : Run
        Where lines and records go.
    model : GraphSNN
        The network.
    said : dict
        How its file is read, as from_nir takes it.

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
        return compare(args, run, said, events, args.timesteps)
    result, found = evaluate_images(test, model, args)
    report(run, model, result, "images")
    for number, (label, read_as) in enumerate(zip(test.labels.tolist(), found, strict=True)):
        if args.wrong and read_as != label:
            run.say(
                f"wrong: image {number}: class {test.classes[label]}, "
                f"predicted {test.classes[read_as]}"
            )
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


def engine_in_words(model):
    """Name the engine that runs the network, and say why if it is not the kernel."""
    if model.stays:
        return f"dense ({model.stays})"
    return "event" if model.engine else "dense"


def compare(args, run, said, recordings, steps):
    """Say, and return, what other simulators do with these recordings, see check()."""
    logging.disable(logging.WARNING)  # what they say of the file while they read it
    with warnings.catch_warnings(action="ignore"):
        rows = check(args.network, recordings, steps, args.check or [*SIMULATORS], **said)
    logging.disable(logging.NOTSET)
    run.record(event="check", network=args.network, timesteps=steps, rows=rows)
    run.say(
        "compared: the spikes of every node, here with these flags, and in the network that the "
        "simulator's own importer makes of the file"
    )
    run.say(*aligned([("compared with", "version", "spikes", ""), *rows], left=range(4)))
    return rows


def length(args, model):
    """Of a timestep, in words."""
    return f"{args.events_per_step} events" if args.events_per_step else f"{1000 * model.dt:g} ms"


def listed(args, model):
    """(paths of the recordings, their labels, name of each output). Classes with numbers as names are those of the outputs."""
    outputs = model.class_count
    try:
        found = labelled_recordings(args.folder)
    except UserError as error:
        raise UserError(f"{error}; of images: --dataset FOLDER --timesteps T") from None
    numbered = all(name.isdecimal() and int(name) < outputs for name in found)
    if not numbered and len(found) != outputs:
        raise UserError(
            f"{args.folder} has {len(found)} classes ({some([*found])}), and {args.network} {outputs} outputs: give a folder for "
            "each output, in the order of their names, or name them by the outputs' numbers, from 0"
        )
    labels = {name: int(name) if numbered else number for number, name in enumerate(found)}
    files = sorted(
        (n, labels[name], path) for name, paths in found.items() for n, path in enumerate(paths)
    )
    _, labels_of, paths = zip(*files[: args.limit], strict=True)
    return (
        paths,
        labels_of,
        [dict(zip(labels.values(), labels, strict=True)).get(n, str(n)) for n in range(outputs)],
    )


def read(args, model, paths):
    """(recordings as the model takes them, how many timesteps all have). Raises UserError for one that cannot be read."""
    found, longest, bar = [], 0, progress_bar("reading", len(paths))
    for path in paths:
        try:
            rows, steps = rows_in(Path(path), model.graph.shape, model.dt, args.events_per_step)
        except ModelError as error:
            raise UserError(
                f"{path}: {str(error).removeprefix(f'{path}: ')}; mend it, or take it out"
            ) from None
        if (args.steps or steps) > MOST:
            long = f"{path} has {args.steps or steps:,} timesteps of {length(args, model)}"
            raise UserError(f"{long}: give a larger --dt, or fewer --steps")
        found.append(rows[rows[:, 0] < args.steps] if args.steps else rows)
        longest = max(longest, steps)
        bar.update()
    bar.close()
    return found, args.steps or longest


@torch.no_grad()
def evaluate(model, recordings, labels, steps, batch_size):
    """(figures, the class that each recording is read as). Times are of the model alone."""
    spikes, read_as, seconds, bar = {}, [], 0.0, progress_bar("running", len(recordings))
    for begin in range(0, len(recordings), batch_size):
        batch, began = recordings[begin : begin + batch_size], time.perf_counter()
        output = model(batch, steps)
        seconds += time.perf_counter() - began
        read_as += output.logits.argmax(1).tolist()
        spikes = {
            name: spikes.get(name, 0) + each.double().sum().item()
            for name, each in output.spikes.items()
        }
        bar.update(len(batch))
    bar.close()
    right = sum(found == label for found, label in zip(read_as, labels, strict=True))
    rates = {
        "seconds": seconds,
        "recordings_per_second": len(recordings) / seconds,
        "threads": torch.get_num_threads(),
    }
    counts = {"recordings": len(recordings), "right": right, "accuracy": right / len(recordings)}
    means = {"spikes": {name: count / len(recordings) for name, count in spikes.items()}}
    return counts | rates | means | costs(model, recordings[:COUNTED], steps), read_as


def report(run, model, result, what):
    """Say what evaluate() has found, of recordings, or evaluate_images(), of images (what)."""
    shapes, spikes, total = model.graph.shapes, result["spikes"], result[what]
    rows = [
        [
            name,
            "x".join(map(str, shapes[name])),
            figure(spikes[name]) if name in spikes else "-",
            figure(count),
        ]
        for name, count in result["additions"].items()
    ]
    energies = (
        f"{figure(1e6 * joules)} µJ ({conventions()[name].title})"
        for name, joules in result["joules"].items()
    )
    run.result(
        f"accuracy {100 * result['accuracy']:.2f} %: {result['right']:,} of {total:,} {what}",
        *aligned([["node", "shape", "spikes", "additions"], *rows], left=(0, 1)),
        f"energy, estimated: {', '.join(energies)}; energy and additions: means of {min(COUNTED, total)} {what}",
    )
    if silent := [name for name, count in spikes.items() if not count]:
        run.say(f"note: no node {', '.join(silent)} sends a spike")
    included = "files already read" if what == "recordings" else "reading included"
    run.say(
        f"{result[f'{what}_per_second']:.1f} {what} per second ({included}; threads: {result['threads']})"
    )


if __name__ == "__main__":
    run_script(main)
