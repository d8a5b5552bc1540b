#!/usr/bin/env python3
"""With which gain of the reset on change does a streaming network hear what is drawn, and does it fall silent?

drawn: a test digit appears from top to bottom, piece by piece, behind another digit and a blank; accuracy after it. switch: it
takes the other's place at once; accuracy, the steps to the last spike (median, 90 %, 99 % of the digits), spikes, share of digits
that are silent at the end. One JSON object per line. `OMP_NUM_THREADS=1 python benchmarks/findings/drawn.py`: minutes; see
docs/try_it.md.
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
PIECES, STEPS_A_PIECE, AFTER, SHOWN, TAIL = 20, 3, 40, 60, 10  # steps after a drawing; of a digit at once, and its last


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--networks", nargs="+", default=["quick_feedback", "accurate_feedback"], metavar="NAME")
    parser.add_argument("--gains", type=float, nargs="+", default=[2.0, 4.0, 8.0, 16.0])
    parser.add_argument("--streams", type=typed(COUNT), default=100)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    test = load_data("MNIST")[2]
    chosen = torch.randperm(len(test.images), generator=torch.Generator().manual_seed(1))[: 5 * args.streams].view(5, -1)
    images, labels = test.images[chosen], test.labels[chosen]
    for name in args.networks:
        for gain in args.gains:
            model = load(SNNS / f"{name}.pth", engine="dense", blocking="dynamic", surprise=gain)
            found = {"drawn": drawn(model.stream(), images[:2], labels[1]), "switch": switch(model.stream(), images, labels)}
            print(json.dumps({"network": name, "surprise": gain, **found}), flush=True)


def drawn(stream, images, labels):
    before, digit = images
    ink = (digit > 0).flatten(1).cumsum(1)
    place = (ink / ink[:, -1:]).view_as(digit)  # 0 to 1 from the first pixel that is not black to the last
    stream(before, AFTER, frames=False)
    stream(torch.zeros_like(digit), TAIL, frames=False)
    for piece in range(1, PIECES + 1):
        stream(digit * (place <= piece / PIECES), STEPS_A_PIECE, frames=False)
    return {"accuracy": accuracy(stream(digit, AFTER, frames=False).logits, labels)}


def switch(stream, images, labels):
    outputs = [stream(digits, SHOWN, frames=False) for digits in images][1:]
    spikes = torch.cat([sum(output.spikes_by_step.values()) for output in outputs], 1)  # (T, B)
    last = ((spikes > 0) * torch.arange(1, SHOWN + 1)[:, None]).amax(0).float()
    logits = torch.stack([output.logits_by_step for output in outputs])  # (digits, T, streams, classes)
    return {
        "accuracy_at_step": {step: accuracy(logits[:, step - 1], labels[1:]) for step in (4, 8, 16, SHOWN)},
        "last_spike": last.quantile(torch.tensor([0.5, 0.9, 0.99])).round().tolist(),
        "spikes": round(spikes.sum(0).mean().item()),
        "silent": round((spikes[-TAIL:].sum(0) == 0).double().mean().item(), 4),
    }


def accuracy(logits, labels):
    return round((logits.argmax(-1) == labels).double().mean().item(), 4)


if __name__ == "__main__":
    run_script(main)
