#!/usr/bin/env python3
"""Does a phased network predict the same class as its ANN, image for image?

One JSON object for each pair of an ANN with QCFS and the SNN that it was converted to: both accuracies, how many test images get
another class, spikes, latency and interval, and the share of the ANN's products whose activation is not 0. Then one for each of
these images: the first layer in which a neuron's spikes are not its ANN's level, and how far its input lies from the edge between
two levels. A small distance means rounding. `OMP_NUM_THREADS=1 python benchmarks/findings/phased.py --pair
trained_models/ann/deep_phased.pth trained_models/snn/deep_phased.pth --dataset CIFAR10`: minutes for 10,000 images; see
docs/explanation/phased.md.
"""

import json
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from harness.command_line.parser import Parser, flag_type
from harness.command_line.scripts import run_script
from self_models.basics.settings import COUNT
from self_models.counting.operations import fan_out
from self_models.data.sets import load_data
from self_models.loading import load


@torch.no_grad()
def main(argv=None):
    parser = Parser(__doc__)
    text = "checkpoints; may be given several times"
    parser.add_argument(
        "--pair", nargs=2, action="append", required=True, metavar=("ANN", "SNN"), help=text
    )
    parser.add_argument("--dataset", default="CIFAR10", help="as the scripts take it")
    parser.add_argument("--data_dir", default="", help="where that is")
    parser.add_argument(
        "--limit_test", type=flag_type(COUNT), default=None, metavar="N", help="of the test images"
    )
    parser.add_argument(
        "--batch_size", type=flag_type(COUNT), default=50, metavar="N", help="images at once"
    )
    args = parser.parse_args(argv)
    for path, converted in args.pair:
        ann, snn = load(path), load(converted, engine="dense")
        test = load_data(
            args.dataset, args.data_dir, limit_test=args.limit_test, image_shape=ann.image_shape
        )[2]
        right, spikes, others = torch.zeros(2, dtype=torch.int64), 0.0, []
        products = torch.zeros(2, dtype=torch.float64)  # of an activation other than 0; all
        for batch in test.batches(args.batch_size, "cpu"):
            with register_module_forward_pre_hook(partial(count, products)):
                wanted = ann(batch.images).logits.argmax(1)
            output = snn(batch.images, frames=False)
            found = output.logits.argmax(1)
            right += torch.stack([(answer == batch.labels).sum() for answer in (wanted, found)])
            spikes += sum(
                counts.sum().item() for name, counts in output.spikes.items() if name != "input"
            )
            others += batch.index[wanted != found].tolist()
        ann_accuracy, accuracy = (100 * right / len(test)).tolist()
        about = {
            "ann": Path(path).stem,
            "levels": snn.timesteps,
            "latency": snn.latency,
            "interval": snn.timesteps,
        }
        figures = {
            "ann_accuracy": ann_accuracy,
            "accuracy": accuracy,
            "other_class": len(others),
            "images": len(test),
        }
        figures |= {
            "spikes_of_layers": round(spikes / len(test), 1),
            "not_0": round((products[0] / products[1]).item(), 4),
        }
        print(json.dumps({**about, **figures}), flush=True)
        for index in others:
            images = test.batch(torch.tensor([index]), "cpu").images
            print(
                json.dumps(
                    {"ann": Path(path).stem, "image": index, **first_other(ann, snn, images)}
                ),
                flush=True,
            )


def count(products, layer, given):
    """Count the products of a layer's inputs (B, ...) with its weights: those that are not 0, and all."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        met = fan_out(layer, given[0].shape[1:], every=True)
        products += torch.stack([((given[0] != 0) * met).sum(), len(given[0]) * met.sum()])


def first_other(ann, snn, image):
    """The first layer in which spikes are not the ANN's level, how many neurons that are, and the largest distance of their
    inputs from the edge between two levels, in levels; empty if there is none."""
    layers = []  # of each the drive and the level of its neurons, in levels

    def keep(module, given, level):
        if hasattr(module, "levels"):
            layers.append([x * module.levels / module.bound for x in (*given, level)])

    with register_module_forward_hook(keep):
        ann(image)
    recorded = snn(image, record=dict.fromkeys(snn.neurons(), "spikes")).recorded
    for (name, sent), (drive, level) in zip(recorded.items(), layers, strict=True):
        differ = sent["spikes"].sum(0) != level.round()
        if differ.any():
            edge = (drive + 0.5 - (drive + 0.5).round())[differ].abs().max().item()
            return {"layer": name, "neurons": int(differ.sum()), "from_the_edge": edge}
    return {"layer": "output"}


if __name__ == "__main__":
    run_script(main)
