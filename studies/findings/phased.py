"""Compare a phased network's classes with those of its ANN, image for image.

There is one JSON object for each pair of an ANN with QCFS and the SNN that it was
converted to: both accuracies, how many test images get another class, spikes, latency
and interval, and the share of the ANN's products whose activation is not 0. Then one
for each of these images: the first layer in which a neuron's spikes are not its ANN's
level, and how far its input lies from the edge between two levels. A small distance
means rounding.

    OMP_NUM_THREADS=1 python -m studies.findings.phased --dataset CIFAR10 --pair \
        trained_models/ann/deep_phased.pth trained_models/snn/deep_phased.pth

This takes minutes for 10,000 images. Its results are in docs/explanation/phased.md.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from self_models.checkpoints.loading import load
from self_models.data.sets import ImageSet, load_data
from self_models.evaluation.operations import fan_out
from self_models.settings import COUNT
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.command_line.parser import Parser, flag_type
from wfeedback.command_line.scripts import run_script


def build_parser() -> Parser:
    """Return the parser of the command line."""
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
    return parser


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Print the figures of each pair, then its images with another class."""
    args = build_parser().parse_args(argv)
    for ann_path, snn_path in args.pair:
        ann = load(ann_path)
        snn = load(snn_path, engine="dense")
        _, _, test = load_data(
            args.dataset, args.data_dir, limit_test=args.limit_test, image_shape=ann.image_shape
        )
        name = Path(ann_path).stem
        result = compare_pair(ann, snn, test, args.batch_size)
        row = {
            "ann": name,
            "levels": snn.timesteps,
            "latency": snn.latency,
            "interval": snn.timesteps,
            "ann_accuracy": 100 * result.ann_right / len(test),
            "accuracy": 100 * result.snn_right / len(test),
            "other_class": len(result.others),
            "images": len(test),
            "spikes_of_layers": round(result.spikes / len(test), 1),
            "not_0": round(result.share_of_products, 4),
        }
        print(json.dumps(row), flush=True)
        for index in result.others:
            image = test.batch(torch.tensor([index]), "cpu").images
            row = {"ann": name, "image": index, **first_other(ann, snn, image)}
            print(json.dumps(row), flush=True)


@dataclass
class Comparison:
    """What a pair has answered.

    Attributes
    ----------
    ann_right, snn_right : int
        How many images each has classified correctly.
    spikes : float
        Of all layers and images, without those of the input.
    share_of_products : float
        Share of the ANN's products whose activation is not 0.
    others : list of int
        The images that get another class from the SNN.
    """

    ann_right: int
    snn_right: int
    spikes: float
    share_of_products: float
    others: list[int]


def compare_pair(
    ann: VGG_wFeedback, snn: VGG_SNN_STDB_wFeedback, test: ImageSet, batch_size: int
) -> Comparison:
    """Run both networks on all test images."""
    ann_right = 0
    snn_right = 0
    spikes = 0.0
    others = []
    products = torch.zeros(2, dtype=torch.float64)  # of an activation other than 0; all
    for batch in test.batches(batch_size, "cpu"):
        with register_module_forward_pre_hook(partial(count_products, products)):
            wanted = ann(batch.images).logits.argmax(1)
        output = snn(batch.images, frames=False)
        found = output.logits.argmax(1)
        ann_right += (wanted == batch.labels).sum().item()
        snn_right += (found == batch.labels).sum().item()
        for name, counts in output.spikes.items():
            if name != "input":
                spikes += counts.sum().item()
        others += batch.index[wanted != found].tolist()
    not_zero, every = products.tolist()
    return Comparison(ann_right, snn_right, spikes, not_zero / every, others)


def count_products(products: torch.Tensor, layer: nn.Module, args: tuple) -> None:
    """Count the products of a layer's inputs with its weights, as a forward pre-hook.

    Parameters
    ----------
    products : Tensor of shape (2,)
        The products whose input is not 0, and all. It is changed.
    layer : Module
        Counted if it is a convolution or linear.
    args : tuple
        The layer's input, (B, ...).
    """
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return
    (signal,) = args
    # How many weights each value of an image's input meets.
    weights_met = fan_out(layer, signal.shape[1:], every=True)
    not_zero = ((signal != 0) * weights_met).sum()
    every = len(signal) * weights_met.sum()
    products += torch.stack([not_zero, every])


def first_other(ann: VGG_wFeedback, snn: VGG_SNN_STDB_wFeedback, image: torch.Tensor) -> dict:
    """Find the first layer in which spikes are not the ANN's level.

    Returns
    -------
    dict
        The layer's name; how many neurons differ; and the largest distance of their
        inputs from the edge between two levels, in levels. If only the classes differ,
        "output" alone.
    """
    drives = []  # of each layer, the inputs of its neurons, in levels
    levels = []  # and what they send

    def keep(module, args, level):
        if hasattr(module, "levels"):
            (drive,) = args
            drives.append(drive * module.levels / module.bound)
            levels.append(level * module.levels / module.bound)

    with register_module_forward_hook(keep):
        ann(image)
    recorded = snn(image, record=dict.fromkeys(snn.neurons(), "spikes")).recorded
    for (name, sent), drive, level in zip(recorded.items(), drives, levels, strict=True):
        differ = sent["spikes"].sum(0) != level.round()
        if differ.any():
            # The edges are half-way between two levels.
            distance = (drive + 0.5) - (drive + 0.5).round()
            return {
                "layer": name,
                "neurons": int(differ.sum()),
                "from_the_edge": distance[differ].abs().max().item(),
            }
    return {"layer": "output"}


if __name__ == "__main__":
    run_script(main)
