#!/usr/bin/env python3
"""How fast is a network in C (`wfeedback export NAME --to c`), and are its spikes those of Python?

One JSON object per network and kind of weights: images per second of ./run, of the event engine and of one pass of an ANN of the
same architecture (--ann, batches of 64), each the fastest of --repeats, in processor time of one core. `differing`: images in
which a layer emits another number of spikes in some timestep: float32 against the event engine; int8 against the reference
engine, on the first --compared images. `python benchmarks/speed/c_export.py`: five minutes.
"""

import json
import resource
import sys
import time
import timeit
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import torch

from harness.command_line.parser import Parser, flag_type
from harness.command_line.scripts import run_script
from harness.exporting.c_build import CBuild
from harness.exporting.c_folder import c_files, c_tables
from self_models.basics.settings import COUNT
from self_models.data.sets import load_data
from self_models.loading import load
from self_models.runtime.draws import EVALUATION, Draws

NETWORKS, WEIGHTS = ["quick_feedback", "quick_baseline"], ("float32", "int8", "int8_folded")
COMMITTED = Path(__file__).resolve().parents[2] / "trained_models"
AT_ONCE = 100  # images whose traces are held
children_time = lambda: resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime  # noqa: E731


def main(argv=None):
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
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    images = load_data("MNIST", limit_test=args.images)[2].images
    ann = load(args.ann, timesteps=1)

    @torch.no_grad()
    def fastest(run, clock=time.process_time):
        """Images per second of the fastest of several runs."""
        return len(images) / min(timeit.repeat(run, timer=clock, repeat=args.repeats, number=1))

    ann_speed = fastest(lambda: [ann(part) for part in images.split(64)])
    for name in args.networks:
        path = COMMITTED / f"snn/{name}.pth"
        event = load(path, engine="event")
        event(images[:8], seed=0)  # folds
        event_speed = fastest(partial(event, images, seed=0, frames=False))
        for weights in args.weights:
            snn = event if weights == "float32" else load(path, weights=weights)
            with TemporaryDirectory() as folder:
                for file, text in c_files(snn, c_tables(snn), images[:1], [0], name).items():
                    (Path(folder) / file).write_text(text)
                network = CBuild(folder, snn, f"CFLAGS={args.cflags}")
                speed = fastest(partial(network.run, images), children_time)
                compared = images if weights == "float32" else images[: args.compared]
                differing = sum(
                    differ(network, snn, compared[part], part)
                    for part in torch.arange(len(compared)).split(AT_ONCE)
                )
            speeds = {
                "c": round(speed),
                "event_engine": round(event_speed),
                "ann": round(ann_speed),
            }
            about = {"network": name, "weights": weights, "images_per_second": speeds}
            about |= {
                "of_event_engine": round(speed / event_speed, 2),
                "differing": differing,
                "compared": len(compared),
            }
            print(json.dumps(about), flush=True)


@torch.no_grad()
def differ(network, snn, images, index):
    """How many of these images differ."""
    draws = Draws(0, EVALUATION, index)
    outputs = (one(images, draws=draws) for one in (network, snn))
    here, there = (torch.stack([*output.spikes_by_step.values()]) for output in outputs)
    return int((here != there).any(0).any(0).sum())


if __name__ == "__main__":
    run_script(main)
