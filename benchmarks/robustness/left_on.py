#!/usr/bin/env python3
"""Does a network that is left on for 100,000 steps take no more memory at the end, and no more time for a step?

Digits come and go; one JSON object per line, for each of ten parts: steps so far, resident memory in MB, microseconds of the
processor per step, and largest membrane potential in thresholds. Exit status 1 where memory has grown by more than --bound MB
since the first part. `OMP_NUM_THREADS=1 python benchmarks/robustness/left_on.py`: some minutes in the event engine.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.shared import resident_gb
from harness.command_line.parser import Parser, typed
from harness.command_line.scripts import run_script
from harness.data.sets import load_data
from self_models.basics.settings import COUNT
from self_models.loading import load

NETWORK = Path(__file__).resolve().parents[2] / "trained_models/snn/accurate_feedback.pth"


def main(argv=None):
    args = build_parser().parse_args(argv)
    digits = load_data("MNIST", limit_test=100)[2].images
    model = load(NETWORK, engine=args.engine, blocking="dynamic", latch=True, surprise=2.0)
    stream, thresholds, sizes = model.stream(), dict(zip(model.neurons(), model.thresholds, strict=True)), []
    for _ in range(10):
        began = time.process_time()
        for _ in range(args.steps // 10 // args.every):
            stream(digits[stream.steps // args.every % len(digits)][None], args.every, frames=False)
        taken, state = time.process_time() - began, stream.state_dict()
        largest = max((state[f"membranes.{name}"].abs().max() / theta).item() for name, theta in thresholds.items())
        sizes.append(1000 * resident_gb("VmRSS"))
        about = {"engine": args.engine, "steps": stream.steps, "resident_mb": round(sizes[-1], 1)}
        print(json.dumps({**about, "microseconds": round(1e7 * taken / args.steps, 2), "largest": round(largest, 1)}), flush=True)
    if max(sizes) > sizes[0] + args.bound:
        raise SystemExit(1)


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--engine", choices=["event", "dense"], default="event", help="which")
    for name, default, text in (("steps", 100_000, "in all"), ("every", 50, "steps of each digit"), ("bound", 20, "in MB")):
        parser.add_argument(f"--{name}", type=typed(COUNT), default=default, metavar="N", help=text)
    return parser


if __name__ == "__main__":
    run_script(main)
