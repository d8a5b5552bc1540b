#!/usr/bin/env python3
"""When do events pay on a CPU? Events against dense layers, over firing rates, widths and batches. One JSON object per `case`.

A random network of --plan, times a width, on random colour images of 32 x 32, --encoding direct, T = 4. Its thresholds are set so
that a share `rate` of each layer's neurons spikes in a timestep. Additions: one for each neuron that a spike or a pixel's value
reaches. Images per second of processor time, fastest of --repeats: `event`, the kernel; `dense`, PyTorch, the same timesteps;
`ann`, one pass of an ANN of the same plan in PyTorch; `ann_int8`, that in ONNX Runtime in 8 bits (packages onnx, onnxruntime;
else null). nanoseconds_per_addition: of the event engine. --picture: a map, shaded where dense is faster. `python
benchmarks/speed/crossover.py --picture map.png`: about ten minutes.
"""

import json
import sys
import tempfile
import time
from functools import partial
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, add_output_flag, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.drawing.figures import chart, log_scale
from self_models.basics.settings import COUNT, PROBABILITY
from self_models.counting.operations import OperationCounter
from self_models.kernel.engine import EventEngine
from self_models.network.neurons import HeldDropout
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

import torch
from torch import nn

PLAN = "16 M 32 M 64 64 M"  # times the width
SHAPE, TIMESTEPS = (3, 32, 32), 4
RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5]
RUNS = {"event": "#aa3377", "dense": "#4477aa", "ann": "#222222", "ann_int8": "#999999"}  # name -> its colour in the picture


def main(argv=None):
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    records = []
    for width in args.widths:
        plan = [[int(token) * width if token.isdigit() else token for token in args.plan], []]
        ann = VGG_wFeedback(plan=plan, image_shape=SHAPE, fc_layers=0, init="kaiming").eval()
        for rate in args.rates:
            model = random_network(plan, rate)
            for batch in args.batches:
                records.append(compare(model, ann, batch, args) | {"width": width, "rate": rate})
                print(json.dumps({"case": f"width {width}, rate {rate}, batch {batch}", **records[-1]}), flush=True)
    if args.picture:
        save_map(args.picture, records)


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--plan", nargs="+", default=PLAN.split(), metavar="TOKEN", help="encoder of width 1")
    parser.add_argument("--widths", nargs="+", type=typed(COUNT), default=[1, 4], metavar="N", help="times the plan's channels")
    parser.add_argument("--rates", nargs="+", type=typed(PROBABILITY), default=RATES, metavar="SHARE", help=(
        "of each layer's neurons that spikes in a timestep"))  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=typed(COUNT), default=[1, 32], metavar="N", help="images at once")
    parser.add_argument("--repeats", type=typed(COUNT), default=3, metavar="N", help="of what is timed; the least counts")
    parser.add_argument("--threads", type=typed(COUNT), default=1, metavar="N", help="of all")
    add_output_flag(parser, "--picture", "a map of all cases", ".png")
    return parser


@torch.no_grad()
def random_network(plan, rate):
    """A network of this plan with random weights, in whose layers this share of neurons spikes in a timestep."""
    torch.manual_seed(0)
    model = InputBlockingSNN(
        plan=plan, image_shape=SHAPE, fc_layers=0, init="kaiming", encoding="direct", epsilon=0.0, timesteps=TIMESTEPS,
        update="immediate", initial_potential=0.5,
    ).eval()  # fmt: skip
    thresholds, images = model.thresholds, random_images(2)
    for layer, name in enumerate(model.neurons()):
        shape = model.graph.shapes[name]
        low, high = 1e-3, 1e3
        for _ in range(14):
            thresholds[layer] = (low * high) ** 0.5
            model.set_thresholds(thresholds)
            found = model(images).spikes[name].mean().item() / TIMESTEPS / prod(shape)
            low, high = (thresholds[layer], high) if found > rate else (low, thresholds[layer])
    return model


def random_images(count):
    return 2 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)) - 1


@torch.no_grad()
def compare(model, ann, batch, args):
    """What a batch of this size costs each of RUNS."""
    images, engine = random_images(batch), EventEngine(model)
    runs = {"event": partial(engine, images, seed=0, frames=False), "dense": partial(model.forward, images, seed=0, frames=False)}
    runs |= {"ann": partial(ann, images), "ann_int8": in_eight_bits(ann, images, args.threads)}
    seconds = {name: [] for name in RUNS}
    for _ in range(args.repeats + 1):  # of which the first prepares
        for name, run in runs.items():
            began = time.process_time()
            if run:
                run()
                seconds[name].append(time.process_time() - began)
    least = {name: min(taken[1:], default=None) for name, taken in seconds.items()}
    model.engine = engine
    with OperationCounter(model) as counter:
        model(images, seed=0, frames=False)
    model.engine, additions = None, counter.result(batch)["event_acs"]
    speeds = {name: taken and batch / taken for name, taken in least.items()}
    found = {"batch": batch, "threads": args.threads, "additions": additions, "images_per_second": speeds}
    return rounded(found | {"nanoseconds_per_addition": 1e9 * least["event"] / batch / additions})


def in_eight_bits(ann, images, threads):
    """One pass of the ANN, quantised statically on these images, in ONNX Runtime; None without it."""
    try:
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, quantize_static
    except ImportError:
        return None

    class Images(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": images.numpy()}]

        def get_next(self):
            return self.left.pop() if self.left else None

    kept = [[layer for layer in stage if not isinstance(layer, HeldDropout)] for stage in (ann.features, ann.classifier)]
    layers = nn.Sequential(*kept[0], nn.Flatten(), *kept[1]).requires_grad_(False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        plain, small = f"{folder}/plain.onnx", f"{folder}/small.onnx"
        torch.onnx.export(layers, (images,), plain, input_names=["x"], dynamo=False)
        quantize_static(plain, small, Images())
        session = onnxruntime.InferenceSession(small, options)
    return partial(session.run, None, {"x": images.numpy()})


def rounded(found):
    """Figures to four places."""
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    return float(f"{found:.4g}") if isinstance(found, float) else found


def save_map(path, records):
    """A panel for each width and batch: images per second by the share of neurons that spikes."""
    panels = sorted({(one["width"], one["batch"]) for one in records})
    with chart(path, (10, 7), len(panels), 2) as axes:
        for (width, batch), ax in zip(panels, axes, strict=True):
            rows = [one for one in records if (one["width"], one["batch"]) == (width, batch)]
            rates = [100 * one["rate"] for one in rows]
            for name, colour in RUNS.items():
                speeds = [one["images_per_second"][name] for one in rows]
                if None not in speeds:
                    ax.loglog(rates, speeds, marker="o", color=colour, label=name.replace("_", " "))
            log_scale(ax.xaxis, (1, 2, 5))
            log_scale(ax.yaxis, (1, 2, 5))
            slower = [one["rate"] for one in rows if one["images_per_second"]["dense"] > one["images_per_second"]["event"]]
            if slower:
                ax.axvspan(100 * min(slower), max(rates), alpha=0.1, label="dense is faster than events")
            ax.set(
                title=f"width {width}, batch {batch}", xlabel="neurons that spike in a timestep, %", ylabel="images per second"
            )
        axes[0].figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)


if __name__ == "__main__":
    run_script(main)
