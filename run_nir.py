#!/usr/bin/env python3
"""Run a NIR network on recordings of an event camera: accuracy, spikes, additions, energy.

FOLDER/CLASS/* are files of N-MNIST (.bin), or .npy and .npz of events (x, y, p, t in microseconds) or of frames. The predicted
class is the output with the most spikes."""

import logging
import time
import warnings
from dataclasses import replace
from math import prod
from pathlib import Path

import torch

from harness import UserError
from harness.command_line.flags import OfAll
from harness.command_line.parser import Parser, SwitchAction, typed
from harness.command_line.reading import add_reading_flags, reading_of
from harness.command_line.scripts import run_script
from harness.data.events import rows_in
from harness.data.folders import labelled_recordings
from harness.drawing.raster import save_recording
from harness.measuring.simulators import SIMULATORS, check
from harness.measuring.tables import aligned, figure
from harness.runs.run import Run, progress_bar, some
from self_models.basics import HOME, ModelError
from self_models.basics.settings import COUNT, settings_in
from self_models.counting.ledger import graph_entries
from self_models.counting.operations import conventions
from self_models.nir import LIKE, from_nir

SHARED = (
    "log",
    "output_dir",
    "run_name",
    "overwrite",
    "batch_size",
)  # flags of other scripts, too
MOST = 100_000  # timesteps
CHECKED = 2  # recordings that are compared with other simulators
COUNTED = 10  # recordings of which additions are counted


def build_parser():
    settings = {name: one for name, one in settings_in(OfAll).items() if name in SHARED}
    settings["batch_size"] = replace(settings["batch_size"], help="recordings at a time")
    parser = Parser(__doc__, settings=settings)
    parser.usage = "%(prog)s NETWORK.nir [FOLDER] [FLAG ...]"
    parser.add_argument("network", metavar="NETWORK.nir")
    help_text = "recordings in FOLDER/CLASS/, or FOLDER/test/CLASS/; default: 100 of N-MNIST that come with the program"
    parser.add_argument(
        "folder", nargs="?", default=str(HOME / "data/nmnist"), metavar="FOLDER", help=help_text
    )
    add_reading_flags(parser.add_argument_group("reading the network"))
    group = parser.add_argument_group("running")
    for flag, word, help_text in (
        (
            "events_per_step",
            "N",
            "timesteps of N events each, however long they take; --dt then sets time constants only",
        ),
        ("steps", "T", "timesteps of each recording; default: those of the longest"),
        ("limit", "N", "only N recordings, balanced over the classes"),
    ):
        group.add_argument(
            f"--{flag}", type=typed(COUNT), default=None, metavar=word, help=help_text
        )
    help_text = "event: the kernel; dense: PyTorch; auto: the kernel where it knows all nodes"
    group.add_argument(
        "--engine", choices=["auto", "event", "dense"], default="auto", help=help_text
    )
    group.add_argument(
        "--wrong",
        action=SwitchAction,
        default=False,
        help="name each recording that is classified wrongly",
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


def main(argv=None):
    args = build_parser().parse_args(argv).having("found", seed=0, results_json="")
    said = reading_of(args)
    with warnings.catch_warnings(record=True, action="always") as notes:
        model = from_nir(args.network, engine=args.engine, **said)
    if len(model.graph.shape) != 3 or model.graph.shape[0] > 2:
        raise UserError(
            f"{args.network} takes {model.graph.shape}, and recordings are (2, H, W), or (1, H, W)"
        )
    run = Run("nir", args.run_name or Path(args.network).stem, args, trains=False)
    run.say(*dict.fromkeys(f"note: {note.message}" for note in notes))
    if not (args.like or model.metadata):
        run.say(
            f"note: the file does not say who wrote it: --like {'|'.join(LIKE)} sets that simulator's reset and timestep"
        )
    files, labels, names = listed(args, model)
    recordings, steps = read(args, model, files)
    drawn = read(args, model, [args.gif]) if args.gif else None
    run.begin()
    if args.check is not None:
        return compare(args, run, said, recordings[: args.limit or CHECKED], steps)
    engine = f"dense ({model.stays})" if model.stays else "event" if model.engine else "dense"
    run.say(
        f"{len(files):,} recordings of {len({*labels})} classes, {steps} timesteps of {length(args, model)}; engine: {engine}"
    )
    result, read_as = evaluate(model, recordings, labels, steps, args.batch_size)
    report(run, model, result)
    for path, label, found in zip(files, labels, read_as, strict=True):
        if args.wrong and found != label:
            run.say(f"wrong: {path}: class {names[label]}, predicted {names[found]}")
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
    found, outputs = (
        labelled_recordings(args.folder),
        prod(model.graph.shapes[model.graph.ends["output"]]),
    )
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
    entries = graph_entries(model, recordings[:COUNTED], steps)
    exact = {name: one for name, one in conventions().items() if one.counts == "exact"}
    energies = {
        name: 1e-12 * sum(entry.picojoules(one, "event-driven") for entry in entries)
        for name, one in exact.items()
    }
    means = {"spikes": {name: count / len(recordings) for name, count in spikes.items()}}
    return counts | rates | means | {
        "additions": {one.layer: one.synops for one in entries},
        "joules": energies,
    }, read_as


def report(run, model, result):
    """Say what evaluate() has found."""
    shapes, spikes, total = model.graph.shapes, result["spikes"], result["recordings"]
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
        f"accuracy {100 * result['accuracy']:.2f} %: {result['right']:,} of {total:,} recordings",
        *aligned([["node", "shape", "spikes", "additions"], *rows], left=(0, 1)),
        f"energy, estimated: {', '.join(energies)}; energy and additions: means of {min(COUNTED, total)} recordings",
    )
    if silent := [name for name, count in spikes.items() if not count]:
        run.say(f"note: no node {', '.join(silent)} sends a spike")
    run.say(
        f"{result['recordings_per_second']:.1f} recordings per second (files already read; threads: {result['threads']})"
    )


if __name__ == "__main__":
    run_script(main)
