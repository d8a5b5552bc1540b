#!/usr/bin/env python3
"""What does a streaming network answer, by how it forgets, without having been trained for it?

Sequences of test digits, one after the other: of each digit the accuracy after so many steps since it came, and the spikes spent
on it; then a digit of which a part becomes another's, where the answer that counts is that of the same network that begins anew.
One JSON object per line. `OMP_NUM_THREADS=1 python benchmarks/findings/forgetting.py`: some minutes; see docs/how_to/streams.md.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.sets import load_data
from self_models.basics.settings import COUNT
from self_models.loading import load

import torch

SNNS = Path(__file__).resolve().parents[2] / "trained_models/snn"
DYNAMIC = {"blocking": "dynamic", "latch": True}
CASES = [  # network, settings
    ("accurate_baseline", {}),
    ("accurate_baseline", {"leak": 0.9, "membrane_floor": 0.0, "output_leak": 0.8}),
    ("accurate_feedback", DYNAMIC),
    ("accurate_feedback", {**DYNAMIC, "membrane_floor": 0.0, "output_leak": 0.8}),
    *[("accurate_feedback", {**DYNAMIC, "surprise": gain}) for gain in (1.0, 2.0, 4.0)],
]
PARTS = {"quarter": (slice(14, None), slice(None, 14)), "half": (slice(14, None), slice(None))}  # rows, columns
AFTER = (4, 8, 16)  # steps


def main(argv=None):
    args = build_parser().parse_args(argv)
    test = load_data("MNIST")[2]
    drawn = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(args.seed))
    drawn = drawn[: args.sequences * args.digits].view(args.digits, args.sequences)
    for name, settings in CASES:
        model = load(SNNS / f"{name}.pth", engine=args.engine, timesteps=AFTER[-1], **settings)
        about = {"network": name, **settings}
        stream = model.stream(args.seed)
        for place, digit in enumerate(drawn, 1):
            output = stream(test.images[digit], AFTER[-1], frames=False)
            print(json.dumps({**about, "digit": place, **figures(output, test.labels[digit])}), flush=True)
        for part, (rows, columns) in PARTS.items() if model.settings["surprise"] else ():
            before, after = test.images[drawn[0]], test.images[drawn[0]].clone()
            after[..., rows, columns] = test.images[drawn[1]][..., rows, columns]
            stream.reset()
            stream(before, AFTER[-1], frames=False)
            anew = model(after, seed=args.seed, frames=False).logits.argmax(1)
            print(json.dumps({**about, "part": part, **figures(stream(after, AFTER[-1], frames=False), anew)}), flush=True)


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--engine", choices=["event", "dense"], default="dense", help="which")
    for name, default, text in (("sequences", 200, "of digits"), ("digits", 5, "in each, 2 at least")):
        parser.add_argument(f"--{name}", type=typed(COUNT), default=default, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, help="of digits and draws")
    return parser


def figures(output, right):
    """Accuracy by AFTER, and spikes."""
    accuracy = (output.logits_by_step.argmax(2) == right).float().mean(1)
    spikes = sum(counts.sum().item() for counts in output.spikes.values()) / len(right)
    return {**{f"right_after_{t}": round(accuracy[t - 1].item(), 4) for t in AFTER}, "spikes": round(spikes, 1)}


if __name__ == "__main__":
    run_script(main)
