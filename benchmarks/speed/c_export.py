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
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.sets import load_data
from harness.exporting.c_build import CBuild
from harness.exporting.c_folder import files_of, tables_of
from self_models.basics.settings import COUNT
from self_models.loading import load
from self_models.running.draws import EVALUATION, Draws

import torch

WEIGHTS = ("float32", "int8", "int8_folded")
COMMITTED = Path(__file__).resolve().parents[2] / "trained_models"
AT_ONCE = 100  # images whose traces are held
children_time = lambda: resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime  # noqa: E731


def main(argv=None):
    parser = Parser(__doc__)
    names = ["quick_feedback", "quick_baseline"]
    parser.add_argument("--networks", nargs="+", default=names, metavar="NAME", help="committed ones")
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=["float32", "int8"], help="which")
    parser.add_argument("--ann", default=str(COMMITTED / "ann/ann_feedback.pth"), metavar="PATH", help="of the same architecture")
    parser.add_argument("--cflags", default="-O3", help="of the compiler")
    counts = {"type": typed(COUNT), "metavar": "N"}
    parser.add_argument("--images", default=10000, help="test images", **counts)
    parser.add_argument("--compared", default=500, help="of them in int8", **counts)
    parser.add_argument("--repeats", default=3, help="of what is timed", **counts)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    images = load_data("MNIST", limit_test=args.images)[2].images
    ann = load(args.ann, timesteps=1)
    speed = fastest(lambda: [ann(part) for part in images.split(64)], time.process_time, len(images), args)
    for name in args.networks:
        event = load(COMMITTED / f"snn/{name}.pth", engine="event")
        event(images[:8], seed=0)  # folds
        event_speed = fastest(lambda event=event: event(images, seed=0, frames=False), time.process_time, len(images), args)
        for weights in args.weights:
            snn = event if weights == "float32" else load(COMMITTED / f"snn/{name}.pth", weights=weights)
            with TemporaryDirectory() as folder:
                for file, text in files_of(snn, tables_of(snn), images[:1], [0], name).items():
                    (Path(folder) / file).write_text(text)
                network = CBuild(folder, snn, f"CFLAGS={args.cflags}")
                found = fastest(lambda network=network: network.run(images), children_time, len(images), args)
                compared = images if weights == "float32" else images[: args.compared]
                differing = sum(differ(network, snn, compared[part], part) for part in torch.arange(len(compared)).split(AT_ONCE))
            speeds = {"c": round(found), "event_engine": round(event_speed), "ann": round(speed)}
            about = {"network": name, "weights": weights, "images_per_second": speeds}
            about |= {"of_event_engine": round(found / event_speed, 2), "differing": differing, "compared": len(compared)}
            print(json.dumps(about), flush=True)


@torch.no_grad()
def fastest(run, clock, count, args):
    """Images per second of the fastest of several runs."""
    seconds = float("inf")
    for _ in range(args.repeats):
        begin = clock()
        run()
        seconds = min(seconds, clock() - begin)
    return count / seconds


@torch.no_grad()
def differ(network, snn, images, index):
    """How many of these images differ."""
    draws = Draws(0, EVALUATION, index)
    outputs = (one(images, draws=draws) for one in (network, snn))
    here, there = (torch.stack([*output.spikes_by_step.values()]) for output in outputs)
    return int((here != there).any(0).any(0).sum())


if __name__ == "__main__":
    run_script(main)
