#!/usr/bin/env python3
"""Peak memory and time of a training step over T, with every step kept and with --bptt_segments: one JSON object per line.

Each case runs in a process of its own. peak_gb: the largest resident memory of that process, everything included (weights,
gradients, optimiser, Python itself); of_steps_gb: what of it the steps need, peak_gb without that of a step with T = 1.
wall_s, cpu_s: of the fastest step. Choose the cores with OMP_NUM_THREADS; see docs/training_speed.md.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.data.sets import load_data  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.training.losses import losses_of
from harness.training.schedules import make_optimizer
from self_models.running.draws import Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

import torch

OPTIMIZER = argparse.Namespace(optimizer="Adam", learning_rate=1e-5, weight_decay=5e-4, amsgrad=True)


def main():
    args = build_parser().parse_args()
    if args.alone:
        return print(json.dumps(case(args, args.timesteps[0], args.segments[0])))
    without_steps = in_process(args, 1, "0")["peak_gb"]
    for timesteps in args.timesteps:
        for segments in args.segments:
            found = in_process(args, timesteps, segments)
            print(json.dumps({**found, "of_steps_gb": round(found["peak_gb"] - without_steps, 3)}), flush=True)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-a", "--architecture", default="VGG5_wFeedback")
    parser.add_argument("--fc_width", type=int, default=4096)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[12, 25, 50, 100])
    parser.add_argument("--segments", nargs="+", default=["0", "auto"])
    parser.add_argument("--rounds", type=int, default=1, help="steps of each case")
    parser.add_argument("--alone", action="store_true", help="the first case, in this process")
    return parser


def in_process(args, timesteps, segments):
    command = [sys.executable, __file__, "--alone", "--timesteps", str(timesteps), "--segments", segments]
    for name in ("architecture", "fc_width", "batch_size", "rounds"):
        command += [f"--{name}", str(getattr(args, name))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def case(args, timesteps, segments):
    torch.manual_seed(0)
    batch = next(load_data("MNIST")[0].batches(args.batch_size))
    settings = {"timesteps": timesteps, "fc_width": args.fc_width, "update": "immediate", "default_threshold": 0.5}
    model = VGG_SNN_STDB_wFeedback(args.architecture, **settings).train()
    model.set_bptt_segments(segments if segments == "auto" else int(segments))
    optimizer = make_optimizer(model, OPTIMIZER)
    draws = Draws(0, 1, batch.index)
    wall, cpu = [], []
    for _ in range(args.rounds):
        began = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        losses_of(model(batch.images, draws=draws), batch.labels, 0.01, "linear_over_t").total.backward()
        optimizer.step()
        wall.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    found = {"timesteps": timesteps, "segments": model.bptt_segments, "peak_gb": round(peak, 3), "wall_s": round(min(wall), 2)}
    return {**found, "cpu_s": round(min(cpu), 2), "threads": torch.get_num_threads()}


if __name__ == "__main__":
    run_script(main)
