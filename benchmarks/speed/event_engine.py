#!/usr/bin/env python3
"""How fast is the event engine beside the dense one, and does it find the same?

One JSON object per line, each with its `case`; docs/notebook/event_engine.md reads them. `speed` runs both engines in turn on the
same images and draws, on the networks `small`, the committed snn_feedback.pth (encoder 16 D 32 32 D, fc_width 256), and `full`,
--pretrained_snn, or a stand-in for a trained network of VGG5_wFeedback's width: the committed one widened (encoder 64 D 128 128
D, fc_width 4096), each channel and each hidden unit copied and its weights varied by 10 %, so that rates per neuron are those of
a trained network. `trained` does so on each of the checkpoints --trained as it was trained, on test images of its data set.
`accumulates` are the event-driven ACs of counting/operations.py, one per spike
and neuron it reaches. `python benchmarks/speed/event_engine.py --parts speed`: some minutes; --networks small --images 12
--repeats 1, all parts: one minute.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.sets import Batch, load_data
from self_models.basics.checkpoints import load_checkpoint, restore
from self_models.basics.settings import COUNT
from self_models.counting.operations import OperationCounter
from self_models.kernel.engine import EventEngine
from self_models.loading import load
from self_models.running.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

import numpy as np
import torch

SMALL = Path(__file__).resolve().parents[2] / "trained_models/snn/snn_feedback.pth"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SETTINGS = {"gate": "block", "timesteps": 50, "epsilon": 0.2}
RULES = {  # name -> rule and bounds
    "blocking": ("never", {}),
    "blocking, stop at confidence 4": ("confidence", {"gap_bound": 4.0}),
    "blocking, stop at all_predicted 0": ("all_predicted", {"open_bound": 0.0}),
}


def main(argv=None):
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    for name in args.parts:
        PARTS[name](args)


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--pretrained_snn", default="", metavar="PATH", help="checkpoint of the full-width network")
    parser.add_argument("--networks", nargs="+", choices=["small", "full"], default=["small", "full"], help="which")
    parser.add_argument("--images", type=typed(COUNT), default=128, metavar="N", help="test images of the small network")
    parser.add_argument("--full_images", type=typed(COUNT), default=16, metavar="N", help="of the full-width network")
    parser.add_argument("--repeats", type=typed(COUNT), default=3, metavar="N", help="of what is timed; the median counts")
    parser.add_argument("--threads", type=typed(COUNT), default=torch.get_num_threads(), metavar="N", help="of either engine")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: of this process, on a machine with others")
    parser.add_argument("--trained", nargs="+", default=[], metavar="PATH", help="checkpoints of --parts trained")
    parser.add_argument("--dataset", default="MNIST", metavar="NAME|FOLDER", help="their images")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="which measurements")
    return parser


# --- networks, images, runs


def networks(args):
    """(name, model, its images) of each network, with blocking, at T = 50; the event engine has compiled and folded."""
    for name in args.networks:
        path = SMALL if name == "small" else args.pretrained_snn
        model = load(path, engine="event", **SETTINGS) if path else widened_network()
        images = load_data("MNIST")[2].part(0, args.images if name == "small" else args.full_images)
        event_run(model, images.part(0, 2).whole())
        yield name if name == "small" else f"full, {'trained' if path else 'widened'}", model, images.whole()


@torch.no_grad()
def widened_network():
    """The small network with copies of its channels: a copy gets its share of what each channel gave."""
    saved, draw = load_checkpoint(SMALL), torch.Generator().manual_seed(0)
    wide_plan = {"plan": [[64, "D", 128, 128, "D"], ["U", "U", "in"]], "fc_width": 4096}
    model = InputBlockingSNN(**{**saved["settings"], **SETTINGS, **wide_plan})
    state = dict(saved["state_dict"])
    for name, wide in model.state_dict().items():
        weight = state[name]
        for dim in range(wide.dim()):
            copies = wide.shape[dim] // weight.shape[dim]
            if name == "classifier.0.weight" and dim == 1:  # channels, then places
                weight = weight.reshape(len(weight), 32, -1).repeat_interleave(copies, 1).flatten(1) / copies
            else:
                weight = weight.repeat_interleave(copies, dim)
                is_source = dim == (0 if "generate" in name else 1)  # transposed layers have the source first
                weight = weight / copies if is_source else weight
        vary = 1 + 0.1 * (2 * torch.rand(weight.shape, generator=draw) - 1) if weight.dim() > 1 else 1
        state[name] = weight * vary
    model = restore(model, {"state_dict": state}, SMALL).eval()
    model.engine = EventEngine(model)
    return model


def part(batch, begin, end):
    return Batch(*(each[begin:end] for each in batch[:3]))


@torch.no_grad()
def dense_run(model, batch):
    return model.forward(batch.images, draws=Draws(0, EVALUATION, batch.index))


def event_run(model, batch):
    return model.engine(batch.images, draws=Draws(0, EVALUATION, batch.index), frames=False)


def timed(args, run, model, batch):
    clock = CLOCKS[args.clock]
    began = clock()
    output = run(model, batch)
    return clock() - began, output


def accumulates_of(model, batch):
    """Event-driven ACs and spikes per image."""
    with OperationCounter(model) as counter:
        output = event_run(model, batch)
    return counter.result(len(batch.images))["event_acs"], sum(count.mean().item() for count in output.spikes.values())


# --- the measurements


def measure_speed(args):
    """Images per second with and without blocking and early stop, and latency at batch 1."""
    for name, model, batch in networks(args):
        for case, (rule, bounds) in RULES.items():
            model.change(rule=rule, **bounds)
            throughput(f"{name}, {case}", args, model, batch)
            latency(f"{name}, {case}, batch 1", args, model, batch)
        model.change(epsilon=0.0, rule="never")
        throughput(f"{name}, no blocking", args, model, batch)


def throughput(case, args, model, batch, **more):
    """Both engines in turn on the same images, as one batch. more: to be said with it."""
    seconds, outputs = {"dense": [], "event": []}, {}
    for _ in range(args.repeats):
        for name, run in (("dense", dense_run), ("event", event_run)):
            taken, outputs[name] = timed(args, run, model, batch)
            seconds[name].append(taken)
    images, (acs, spikes) = len(batch.images), accumulates_of(model, batch)
    dense, event = (images / float(np.median(times)) for times in seconds.values())
    steps, accuracy = (
        [found(output) for output in outputs.values()]
        for found in (lambda output: output.steps, lambda output: (output.logits.argmax(1) == batch.labels).float().mean().item())
    )
    say(
        case, args, model, batch=images, dense_images_per_second=dense, event_images_per_second=event, speedup=event / dense,
        accumulates_per_second=acs * event, accumulates=acs, spikes=spikes, mean_steps=steps[1].double().mean().item(),
        same_steps=torch.equal(*steps), dense_accuracy=accuracy[0], event_accuracy=accuracy[1], **more,
    )  # fmt: skip


def latency(case, args, model, batch, dense_images=8):
    """Batch 1, image after image; the dense engine on the first few, in turn with the event engine."""
    event, dense = [], []
    for n in range(len(batch.images)):
        one = part(batch, n, n + 1)
        event.append(timed(args, event_run, model, one)[0])
        if n < dense_images:
            dense.append(timed(args, dense_run, model, one)[0])
    figures = {}
    for name, seconds in (("dense", dense), ("event", event)):
        median, late = np.percentile(seconds, [50, 95])
        figures |= {f"{name}_latency_ms_median": 1e3 * median, f"{name}_latency_ms_p95": 1e3 * late}
        figures[f"{name}_images_per_second"] = 1 / median
    acs, _ = accumulates_of(model, batch)
    speedup = figures["event_images_per_second"] / figures["dense_images_per_second"]
    say(case, args, model, batch=1, images=len(event), **figures, speedup=speedup,
        accumulates_per_second=acs * len(event) / sum(event), accumulates=acs)  # fmt: skip


def measure_trained(args):
    """Both engines on trained networks, in a batch and at batch 1."""
    for path in args.trained:
        model, name = load(path, engine="event"), Path(path).stem
        batch = load_data(args.dataset, image_shape=model.image_shape)[2].part(0, args.images).whole()
        event_run(model, part(batch, 0, 2))
        throughput(name, args, model, batch, auto=chosen(model, batch))
        latency(f"{name}, batch 1", args, model, part(batch, 0, 8))


def chosen(model, batch):
    """The engine that --engine auto takes for the batch."""
    engine = EventEngine(model, chooses=True)
    engine(batch.images, draws=Draws(0, EVALUATION, batch.index), frames=False)
    return engine.name


def say(case, args, model, **figures):
    figures = {"threads": args.threads, "timesteps": model.timesteps, "epsilon": model.settings.get("epsilon", 0.0), **figures}
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"case": case, **rounded}), flush=True)


PARTS = {"speed": measure_speed, "trained": measure_trained}

if __name__ == "__main__":
    run_script(main)
