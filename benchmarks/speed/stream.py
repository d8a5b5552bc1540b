#!/usr/bin/env python3
"""How many timesteps per second does a streaming network take, at rest and while its images change, in both engines?

One JSON object per line: engine; scene (`rest`: the same digits for --settle timesteps and more, only what follows is timed;
`changing`: other digits every --every timesteps); streams at once; timesteps per call; microseconds per stream and timestep;
timesteps per second; streams that one core can watch at 100 timesteps per second; spikes per stream and timestep; MB by which the
process has grown. Processor time, one thread. The network is accurate_feedback.pth with dynamic blocking, latch and reset on
change. `OMP_NUM_THREADS=1 python benchmarks/speed/stream.py`: a minute or two. `--engines event --streams 1 --lengths 50 --every
50 --settle 10000 --steps 100000` shows whether memory grows in a long stream.
"""

import json
import sys
import time
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from benchmarks.shared import resident_gb
from harness.command_line.scripts import run_script
from harness.data.sets import load_data
from self_models.basics.settings import COUNT
from self_models.loading import load

import torch

NETWORK = Path(__file__).resolve().parents[2] / "trained_models/snn/accurate_feedback.pth"
SETTINGS = {"blocking": "dynamic", "latch": True, "surprise": 2.0}


def main(argv=None):
    args = build_parser().parse_args(argv)
    torch.set_num_threads(1)
    digits = load_data("MNIST", limit_test=2 * max(args.streams))[2].images
    for engine in args.engines:
        model = load(args.pretrained_snn, engine=engine, **SETTINGS)
        for scene, streams, length in product(("rest", "changing"), args.streams, args.lengths):
            found = measured(model, digits[: 2 * streams], scene, length, args)
            about = {"engine": engine, "scene": scene, "streams": streams, "per_call": length}
            print(json.dumps({**about, **found}), flush=True)


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--pretrained_snn", default=str(NETWORK), metavar="PATH", help="the network, one that can block")
    parser.add_argument("--engines", nargs="+", choices=["event", "dense"], default=["event", "dense"], help="which")
    counts = {"type": typed(COUNT), "metavar": "N"}
    parser.add_argument("--streams", nargs="+", default=[1, 64], help="at once", **counts)
    parser.add_argument("--lengths", nargs="+", default=[1, 16], help="steps per call", **counts)
    parser.add_argument("--steps", default=64, help="that are timed", **counts)
    parser.add_argument("--settle", default=64, help="steps before, not timed", **counts)
    parser.add_argument("--every", default=16, help="changing: steps until other digits come", **counts)
    return parser


def measured(model, digits, scene, length, args):
    """The JSON object of one case. digits: two for each stream, in turns where the scene changes."""
    frames, stream, taken, spikes, settle = digits.chunk(2), model.stream(), 0, 0, args.values["settle"]
    for begun in range(0, settle, length):
        stream(frames[0], min(length, settle - begun), frames=False)
    before, began = resident_gb("VmRSS"), time.process_time()
    while taken < args.steps:
        frame = frames[(1 + taken // args.every) % 2 if scene == "changing" else 0]
        output = stream(frame, length, frames=False)
        spikes, taken = spikes + sum(count.sum().item() for count in output.spikes.values()), taken + length
    seconds = (time.process_time() - began) / taken / len(frames[0])
    return {
        "microseconds": round(1e6 * seconds, 2),
        "steps_per_second": round(1 / seconds),
        "streams_per_core": round(1 / seconds / 100, 1),
        "spikes_per_step": round(spikes / taken / len(frames[0]), 2),
        "grown_mb": round(1000 * (resident_gb("VmRSS") - before), 1),
    }


if __name__ == "__main__":
    run_script(main)
