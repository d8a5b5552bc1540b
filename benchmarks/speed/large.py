#!/usr/bin/env python3
"""How long, on how much memory, do large colour images take? A VGG11 with a decoder in training and on both engines.

One JSON object per line and case, each measured in a process of its own. peak_gb: the largest resident memory of that process;
before_gb: what it was when the network stood there (libraries, weights). What limits: of training `bytes_per_neuron_and_step`,
which the backward pass keeps; of the dense engine its multiply-adds; of the event engine `accumulates`, each the reading and
adding of one weight, and its folded weights: `foretold_gb` is said before they are taken (memory_of in
self_models/fast/event/network.py), `taken_gb` is what they are; a part of them is `largest`, one layer's.

The default plan forks early, after its second A: there each of 56 x 56 places has 128 channels for its 4 x 4 pixels of 3
colours, enough to predict them to within epsilon, which 14 x 14 places of 512 channels cannot (16 x 16 pixels each), and two
doublings cost little. Weights are random and thresholds balanced on the image, a smooth random one, so that all layers spike;
`rate` is the spikes per neuron and step, on which the event engine's time depends.
`OMP_NUM_THREADS=2 python benchmarks/speed/large.py`: 1.5 minutes, 2.1 GB.
"""

import json
import subprocess
import sys
import time
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness import UserError  # noqa: I001  (harness before torch, see harness/__init__.py)
from benchmarks.shared import resident_gb
from harness.building.conversion import balance_thresholds
from harness.command_line.parser import Parser, typed
from harness.command_line.scripts import run_script
from harness.training.losses import Criterion
from self_models.basics.settings import COUNT, POSITIVE
from self_models.fast.event.costs import multiply_adds
from self_models.fast.event.engine import EventEngine
from self_models.fast.event.compiled.nets import new_state
from self_models.fast.event.network import memory_of, nodes_of
from self_models.network.plans import as_tokens
from self_models.running.draws import Draws
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

import torch

PLAN = ("64 A 128 A fork 256 256 A 512 512 A 512 512", "U U in")
CASES = ("train", "train, segments", "dense", "event")


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.alone:
        return print(json.dumps({"case": args.alone, **alone(args)}))
    model = network(args)
    images, draws = pictures(args), Draws(0, 0, torch.arange(args.batch_size))
    at = lambda t: draws.at_step(t, model.image_shape)  # noqa: E731
    thresholds = [args.scaling_factor * found for found in balance_thresholds(model, images, at, args.balance_timesteps)]
    for case in args.cases:
        print(json.dumps(in_process(args, case, thresholds)), flush=True)


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--size", type=typed(COUNT), default=224, metavar="N", help="images of N x N pixels in colour")
    parser.add_argument("--timesteps", type=typed(COUNT), default=4, metavar="T", help="steps of training and of an image")
    parser.add_argument("--batch_size", type=typed(COUNT), default=2, metavar="B", help="of a training step; engines take 1")
    parser.add_argument("--plan", nargs=2, default=PLAN, metavar=("ENCODER", "DECODER"), help="layers, as in network/plans.py")
    parser.add_argument("--rounds", type=typed(COUNT), default=1, metavar="N", help="training steps, of which the fastest counts")
    parser.add_argument("--fc_width", type=typed(COUNT), default=512, metavar="N", help="of the classifier's hidden layers")
    parser.add_argument("--labels", type=typed(COUNT), default=1000, metavar="N", help="classes")
    parser.add_argument("--scaling_factor", type=typed(POSITIVE), default=1.0, help="what balanced thresholds are multiplied by")
    parser.add_argument("--balance_timesteps", type=typed(COUNT), default=4, metavar="T", help="steps to balance with")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which")
    parser.add_argument("--alone", choices=CASES, help="this case, in this process")
    parser.add_argument("--thresholds", type=typed(POSITIVE), nargs="+", help="of the spiking layers, for --alone")
    return parser


def in_process(args, case, thresholds):
    """The record of a case, which another process measures."""
    command = [sys.executable, __file__, "--alone", case, "--plan", *args.plan, "--thresholds", *map(str, thresholds)]
    for name in ("size", "timesteps", "batch_size", "rounds", "fc_width", "labels"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it was killed: too little memory?"])[-1]
        raise UserError(f"{case}: {why.removeprefix('error: ')}")
    return json.loads(done.stdout)


def network(args):
    torch.manual_seed(0)
    model = InputBlockingSNN(
        plan=[as_tokens(part) for part in args.plan],
        image_shape=(3, args.size, args.size),
        **{"labels": args.labels, "fc_width": args.fc_width, "timesteps": args.timesteps, "init": "kaiming"},
        **{"update": "immediate", "readout": "membrane", "epsilon": 0.1, "latch": True},
    )
    if args.thresholds:
        if len(args.thresholds) != len(model.neurons()):
            raise UserError(f"--thresholds: give {len(model.neurons())} of them, not {len(args.thresholds)}")
        model.set_thresholds(args.thresholds)
    return model


def pictures(args):
    """Smooth random images (B, 3, N, N)."""
    coarse = torch.rand(args.batch_size, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (args.size, args.size), mode="bilinear")


def alone(args):
    model, images, before = network(args), pictures(args), resident_gb("VmRSS")
    case = {"train": train, "train, segments": train, "dense": dense, "event": event}[args.alone]
    found = case(args, model, images)
    shapes = model.wiring.shapes[1 : len(model.neurons()) + 1]
    peak, neurons = resident_gb("VmHWM"), sum(map(prod, shapes))
    if args.alone.startswith("train"):
        kept = (peak - before) * 1e9 - 4 * sum(value.numel() for value in model.parameters())  # that are gradients
        found["bytes_per_neuron_and_step"] = round(kept / neurons / args.timesteps / args.batch_size, 1)
    else:
        found["rate"] = round(found["spikes"] / neurons / args.timesteps, 4)
    sizes = {"size": args.size, "timesteps": args.timesteps, "neurons": neurons, "threads": torch.get_num_threads()}
    return {**found, "before_gb": round(before, 3), "peak_gb": round(peak, 3), **sizes}


def train(args, model, images):
    """Steps, forward and backward: the fastest."""
    model.train().set_bptt_segments("auto" if args.alone == "train, segments" else 0)
    labels, draws = torch.arange(args.batch_size) % args.labels, Draws(0, 1, torch.arange(args.batch_size))
    seconds = []
    for _ in range(args.rounds):
        model.zero_grad(set_to_none=True)
        began = time.perf_counter()
        Criterion(0.01, "linear_over_t")(model(images, draws=draws), labels)["total"].backward()
        seconds.append(time.perf_counter() - began)
    return {"seconds": round(min(seconds), 2), "batch": args.batch_size, "segments": model.bptt_segments}


def timed(run, image):
    """(seconds of the second run, its output)"""
    with torch.no_grad():
        run(image, seed=0)
        began = time.perf_counter()
        output = run(image, seed=0)
    return time.perf_counter() - began, output


def dense(args, model, images):
    seconds, output = timed(model.eval(), images[:1])
    steps = args.timesteps * multiply_adds(nodes_of(model)[2])
    found = {"seconds": round(seconds, 3), "spikes": round(sum(own.sum().item() for own in output.spikes.values()))}
    return {**found, "multiply_adds": steps, "multiply_adds_per_s": round(steps / seconds)}


def event(args, model, images):
    engine, told = EventEngine(model.eval()), memory_of(model)
    began = time.perf_counter()
    layout = engine.prepare()
    folding = time.perf_counter() - began
    seconds, output = timed(lambda *given, **more: engine(*given, **more, frames=False), images[:1])
    spikes = {n: output.spikes[name].sum().item() for n, name in enumerate(layout.names)}
    spikes[layout.net.waiting] = spikes.get(layout.net.forked)
    total = sum(spikes[each.source] * each.side**2 * each.target_shape[0] for each in layout.connections)
    net, largest = layout.net, max(layout.connections, key=lambda each: each.size)
    weights = sum(part.nbytes for part in (net.weights, net.phase, net.row, net.column))
    return {
        "seconds": round(seconds, 3),
        "folding_s": round(folding, 2),
        "spikes": round(sum(spikes[n] for n in range(len(layout.names)))),
        "accumulates": round(total),
        "accumulates_per_s": round(total / seconds),
        "foretold_gb": {name: round(size / 1e9, 3) for name, size in told._asdict().items()},
        "taken_gb": {"weights": round(weights / 1e9, 3), "state": round(sum(part.nbytes for part in new_state(net)) / 1e9, 3)},
        "largest": [layout.names[largest.target] if largest.target < len(layout.names) else "output",
                    round(largest.size * 4 / 1e9, 3)],
    }  # fmt: skip


if __name__ == "__main__":
    run_script(main)
