#!/usr/bin/env python3
"""What does a decoder predict of an event camera? Feedback networks on N-MNIST, whose camera moves in three saccades, their
baseline, and two predictions without a network: the last frame, and nothing.

FOLDER/CLASS/*.bin is split at random, --splits times, into 100 recordings to test and the others to train. The baseline is
trained without a decoder. `next` and `frame` are the baseline with a decoder, which alone is trained. `joint` is trained with its
decoder from the start. One JSON object for each network of each split: accuracy, spikes per recording, and the share of events
that are blocked, by epsilon. `OMP_NUM_THREADS=1 python benchmarks/findings/saccades.py FOLDER`: half an hour with 600 recordings.
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.folders import labelled_recordings
from harness.data.sets import load_data
from self_models import evaluate, load
from self_models.basics.settings import COUNT

import numpy as np

import ann_wFeedback
import snn_wFeedback
import snn_wFeedback_posthoc_model_inference_obj1

DECODER = "-a VGG5_wFeedback_linear --train decoder --trade_off 1 --trade_off_type linear_over_t -lr 0.002 --lr_schedule cosine"
NETWORKS = {  # name -> flags, and the epsilons that it is evaluated with
    "baseline": ("-a VGG5_small --epsilon 0", "0"),
    "next": (f"{DECODER} --holdout 0 --predict next --epsilon 0.2", "0 0.1 0.2 0.4"),
    "frame": (f"{DECODER} --holdout 0 --predict frame --epsilon 0.2", "0.2"),
    "joint": ("--trade_off 0.001 --predict next --no-latch --epsilon 0.2", "0 0.2"),
}


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--splits", type=typed(COUNT), default=5, metavar="N")
    parser.add_argument("--tested", type=typed(COUNT), default=100, metavar="N", help="recordings to test in each split")
    parser.add_argument("--frames", type=typed(COUNT), default=8, metavar="N", help="of a recording")
    parser.add_argument("--updates", type=typed(COUNT), nargs=2, default=[300, 100], metavar="N", help="of the ANN and the SNN")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    for split in range(args.splits):
        with tempfile.TemporaryDirectory() as folder:
            for name, figures in of_split(args, split, Path(folder)):
                print(json.dumps({"split": split, "network": name, **figures}), flush=True)


def of_split(args, split, folder):
    """(network, its figures) of one split, which is written to this folder."""
    recordings = [(path, name) for name, paths in labelled_recordings(args.folder).items() for path in paths]
    for number, index in enumerate(np.random.default_rng(split).permutation(len(recordings))):
        path, name = recordings[index]
        place = folder / "data" / ("test" if number < args.tested else "train") / name
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).symlink_to(path.resolve())
    here = f"--dataset {folder}/data --output_dir {folder} --seed {split} --batch_size 32"
    for name in args.networks:
        (flags, epsilons), path, results = NETWORKS[name], folder / f"trained_models/snn/{name}.pth", folder / f"{name}.json"
        own = f"{here} {flags} --updates {args.updates[1]} --run_name {name}"
        if "--train" in flags:
            quietly(snn_wFeedback, f"{own} --pretrained_snn {folder}/trained_models/snn/baseline.pth")
        else:
            shared = " ".join(flags.split()[:2]) + f" --preset own {here} --fc_width 64 --run_name {name}"
            quietly(ann_wFeedback, f"{shared} --event_frames {args.frames} --updates {args.updates[0]}")
            ann = f"--pretrained_ann {folder}/trained_models/ann/{name}.pth --timesteps {args.frames} --readout_slew 0"
            quietly(snn_wFeedback, f"--preset own {own} --fc_width 64 {ann}")
        evaluated = f"--pretrained_snn {path} {here} --epsilon {epsilons} --results_json {results}"
        quietly(snn_wFeedback_posthoc_model_inference_obj1, evaluated)
        for found in json.loads(results.read_text()):
            blocked = 1 - np.mean(found["open_share"]) if found.get("open_share") else 0.0
            yield f"{name}, epsilon {found['epsilon']:g}", told(found["accuracy"], found["spikes"], blocked)
        if name == "baseline":
            yield "baseline, blocked by the last frame", without_last_frame(path, folder, args)


def without_last_frame(path, folder, args):
    """A network's figures when events that the previous frame has, too, are removed."""
    test = load_data(f"{folder}/data", frames=args.frames)[2]
    same = (test.images[:, 1:] == test.images[:, :-1]) & (test.images[:, 1:] > 0)
    left = test.images.clone()
    left[:, 1:][same] = 0
    found, blocked = evaluate(load(path), left, test.labels), (same.sum() / (test.images > 0).sum()).item()
    return told(found["accuracy"], found["parts"], blocked)


def told(accuracy, spikes, blocked):
    figures = {"accuracy": accuracy, "spikes": spikes["total"], "input": spikes["input"], "blocked": blocked}
    return {name: round(float(value), 4) for name, value in figures.items()}


def quietly(script, flags):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        script.main(flags.split())


if __name__ == "__main__":
    run_script(main)
