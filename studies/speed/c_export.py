"""Measure how fast a network is in C, and compare its spikes with Python's.

The C is that of `wfeedback export NAME --to c`. There is one JSON object per network
and kind of weights: images per second of ./run, of the event engine and of one pass of
an ANN of the same architecture (--ann, batches of 64), each the fastest of --repeats,
in processor time of one core. `differing`: images in which a layer emits another number
of spikes in some timestep: float32 against the event engine; int8 against the reference
engine, on the first --compared images. `python -m studies.speed.c_export`: five
minutes.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import json
import resource
import time
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from self_models.checkpoints.loading import load
from self_models.data.sets import load_data
from self_models.places import HOME
from self_models.running.draws import EVALUATION, Draws
from self_models.settings import COUNT
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.command_line.parser import Parser, flag_type
from wfeedback.command_line.scripts import run_script
from wfeedback.export.c_build import CBuild
from wfeedback.export.c_folder import c_files, c_tables

NETWORKS = ["quick_feedback", "quick_baseline"]
WEIGHTS = ("float32", "int8", "int8_folded")
COMMITTED = HOME / "trained_models"
AT_ONCE = 100  # images whose traces are held


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, metavar="NAME", help="committed ones"
    )
    parser.add_argument(
        "--weights", nargs="+", choices=WEIGHTS, default=["float32", "int8"], help="which"
    )
    parser.add_argument(
        "--ann",
        default=str(COMMITTED / "ann/ann_feedback.pth"),
        metavar="PATH",
        help="of the same architecture",
    )
    parser.add_argument("--cflags", default="-O3", help="of the compiler")
    counts = {"type": flag_type(COUNT), "metavar": "N"}
    parser.add_argument("--images", default=10000, help="test images", **counts)
    parser.add_argument("--compared", default=500, help="of them in int8", **counts)
    parser.add_argument("--repeats", default=3, help="of what is timed", **counts)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures of each network and kind of weights."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(1)
    images = load_data("MNIST", limit_test=args.images)[2].images
    ann = load(args.ann, timesteps=1)
    run_ann = partial(run_in_batches, ann, images.split(64))
    ann_speed = len(images) / fastest_seconds(run_ann, args.repeats)
    for name in args.networks:
        path = COMMITTED / f"snn/{name}.pth"
        event = load(path, engine="event")
        event(images[:8], seed=0)  # prepares the engine, which is not to be timed
        run_event = partial(event, images, seed=0, frames=False)
        event_speed = len(images) / fastest_seconds(run_event, args.repeats)
        for weights in args.weights:
            snn = event
            compared = images
            if weights != "float32":
                snn = load(path, weights=weights)
                compared = images[: args.compared]
            with TemporaryDirectory() as folder:
                network = build_in(folder, snn, images, name, args.cflags)
                run_c = partial(network.run, images)
                c_speed = len(images) / fastest_seconds(run_c, args.repeats, children_seconds)
                differing = count_differing(network, snn, compared)
            row = {
                "network": name,
                "weights": weights,
                "images_per_second": {
                    "c": round(c_speed),
                    "event_engine": round(event_speed),
                    "ann": round(ann_speed),
                },
                "of_event_engine": round(c_speed / event_speed, 2),
                "differing": differing,
                "compared": len(compared),
            }
            print(json.dumps(row), flush=True)


@torch.no_grad()
def run_in_batches(model: nn.Module, batches: Sequence[torch.Tensor]) -> list:
    """Run a model on each batch, and return its outputs."""
    return [model(images) for images in batches]


def children_seconds() -> float:
    """Return the processor time of all children of this process that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


@torch.no_grad()
def fastest_seconds(
    run: Callable[[], object], repeats: int, clock: Callable[[], float] = time.process_time
) -> float:
    """Return the seconds of the fastest of several runs."""
    return min(timeit.repeat(run, timer=clock, repeat=repeats, number=1))


def build_in(
    folder: str, snn: VGG_SNN_STDB_wFeedback, images: torch.Tensor, name: str, cflags: str
) -> CBuild:
    """Export a network to this folder and compile it. It checks itself on one image."""
    files = c_files(snn, c_tables(snn), images[:1], [0], name)
    for file, text in files.items():
        (Path(folder) / file).write_text(text)
    return CBuild(folder, snn, f"CFLAGS={cflags}")


@torch.no_grad()
def count_differing(network: CBuild, snn: VGG_SNN_STDB_wFeedback, images: torch.Tensor) -> int:
    """Count the images in which a layer's spikes differ in a timestep."""
    differing = 0
    for index in torch.arange(len(images)).split(AT_ONCE):
        draws = Draws(0, EVALUATION, index)
        spikes = []
        for one in (network, snn):
            output = one(images[index], draws=draws)
            spikes.append(torch.stack(list(output.spikes_by_step.values())))
        in_c, in_python = spikes  # (layers, T, images)
        differing += int((in_c != in_python).any(0).any(0).sum())
    return differing


if __name__ == "__main__":
    run_script(main)
