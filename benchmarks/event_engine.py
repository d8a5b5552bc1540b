#!/usr/bin/env python3
"""The event engine beside the dense engine: one JSON object per line, each with its `case`. docs/event_engine.md reads them.

Networks: `small`, the committed snn_feedback.pth (encoder 16 D 32 32 D, fc_width 256); `full`, --pretrained_snn, or a stand-in
for a trained network of VGG5_wFeedback's width: the committed one widened (encoder 64 D 128 128 D, fc_width 4096), each
channel and each hidden unit copied and its weights varied by 10 %, so that rates per neuron are those of a trained network.
Throughput cases run both engines in turn on the same images and draws; `accumulates` are the event-driven ACs of
counting/operations.py, one per spike and neuron it reaches.
"""

import argparse
import json
import multiprocessing
import resource
import time

from event_networks import (
    EPSILON,
    STEPS,
    accumulates_of,
    dense_run,
    event_run,
    full_network,
    part,
    small_network,
    test_images,
    timed,
    with_engine,
)

# isort: split
# harness is found by event_networks, and comes before torch (see harness/__init__.py)

import numpy as np
import torch
from numba import njit

from harness.command_line.flags import COUNT
from harness.command_line.parser import typed
from harness.command_line.scripts import run_script
from self_models.event.compiled.vectors import add_rows
from self_models.event.engine import EventEngine
from self_models.network.neurons import SpikingNeuron
from self_models.running.draws import EVALUATION, Draws

RULES = {  # name -> rule and bounds
    "blocking": ("never", {}),
    "blocking, stop at confidence 4": ("confidence", {"gap_bound": 4.0}),
    "blocking, stop at all_predicted 0": ("all_predicted", {"open_bound": 0.0}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained_snn", default="", metavar="PATH", help="checkpoint of the full-width network")
    parser.add_argument("--images", type=typed(COUNT), default=128, help="test images of the small network")
    parser.add_argument("--full_images", type=typed(COUNT), default=16, help="of the full-width network")
    parser.add_argument("--flip_images", type=typed(COUNT), default=500, help="images to count differing spikes on")
    parser.add_argument("--repeats", type=typed(COUNT), default=3, help="of each throughput case; the median counts")
    parser.add_argument("--threads", type=typed(COUNT), default=torch.get_num_threads(), help="of either engine")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="which measurements")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.parts:
        PARTS[name](args)


def say(case, args, **figures):
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps({"case": case, "threads": args.threads, **rounded}), flush=True)


def accuracy(output, batch):
    return (output.logits.argmax(1) == batch.labels).float().mean().item()


def throughput(case, args, model, batch):
    """Both engines in turn on the same images, as one batch."""
    seconds = {"dense": [], "event": []}
    for _ in range(args.repeats):
        for name, run in (("dense", dense_run), ("event", event_run)):
            taken, output = timed(run, model, batch)
            seconds[name].append(taken)
            seconds[f"{name} output"] = output
    images = len(batch.images)
    dense, event = (images / float(np.median(seconds[name])) for name in ("dense", "event"))
    acs, spikes = accumulates_of(model, batch)
    outputs = [seconds["dense output"], seconds["event output"]]
    say(
        case, args, batch=images, timesteps=model.timesteps, epsilon=model.gate.epsilon,
        dense_images_per_second=dense, event_images_per_second=event, speedup=event / dense,
        accumulates_per_second=acs * event, accumulates=acs, spikes=spikes,
        mean_steps=outputs[1].steps.double().mean().item(), same_steps=bool((outputs[0].steps == outputs[1].steps).all()),
        dense_accuracy=accuracy(outputs[0], batch), event_accuracy=accuracy(outputs[1], batch),
    )  # fmt: skip


def latency(case, args, model, batch, dense_images):
    """Batch 1, image after image; the dense engine on the first few, in turn with the event engine."""
    event, dense = [], []
    for n in range(len(batch.images)):
        one = part(batch, n, n + 1)
        event.append(timed(event_run, model, one)[0])
        if n < dense_images:
            dense.append(timed(dense_run, model, one)[0])
    acs, _ = accumulates_of(model, batch)
    figures = {}
    for name, seconds in (("dense", dense), ("event", event)):
        median, late = np.percentile(seconds, [50, 95])
        figures |= {f"{name}_latency_ms_median": 1e3 * median, f"{name}_latency_ms_p95": 1e3 * late}
    rates = [1 / np.median(seconds) for seconds in (dense, event)]
    say(
        case, args, batch=1, timesteps=model.timesteps, epsilon=model.gate.epsilon, images=len(event), **figures,
        dense_images_per_second=rates[0], event_images_per_second=rates[1], speedup=rates[1] / rates[0],
        accumulates_per_second=acs * len(event) / sum(event), accumulates=acs,
    )  # fmt: skip


# --- the measurements


def measure_speed(args):
    """Images per second with and without blocking and early stop, and latency at batch 1."""
    for name, model, count in networks(args):
        batch = test_images(count)
        for case, (rule, bounds) in RULES.items():
            model.change(epsilon=EPSILON)
            model.change(rule=rule, **bounds)
            throughput(f"{name}, {case}", args, model, batch)
            latency(f"{name}, {case}, batch 1", args, model, batch, min(count, 8))
        model.change(epsilon=0.0)
        model.change(rule="never")
        throughput(f"{name}, no blocking", args, model, batch)


def networks(args):
    yield "small", with_engine(small_network()), args.images
    name, model = full_network(args)
    yield name, with_engine(model), args.full_images


def measure_scaling(args):
    """Time per image against T and epsilon; and of single images against their accumulates, with a least-squares fit."""
    for name, model, count in networks(args):
        batch = test_images(count)
        for timesteps in (25, 50, 100, 200):
            model.change(timesteps=timesteps)
            say_time(f"{name}, T {timesteps}", args, model, batch)
        model.change(timesteps=STEPS)
        for epsilon in (0.0, 0.05, 0.1, 0.2, 0.3):
            model.change(epsilon=epsilon)
            say_time(f"{name}, epsilon {epsilon}", args, model, batch)
        model.change(epsilon=EPSILON)
        fit(f"{name}, fit", args, model, batch)


def say_time(case, args, model, batch):
    seconds = min(timed(event_run, model, batch)[0] for _ in range(args.repeats)) / len(batch.images)
    acs, spikes = accumulates_of(model, batch)
    say(case, args, timesteps=model.timesteps, epsilon=model.gate.epsilon, event_ms_per_image=1e3 * seconds,
        accumulates=acs, spikes=spikes, accumulates_per_second=acs / seconds)  # fmt: skip


def fit(case, args, model, batch):
    """time = a + b accumulates, over single images, and against spikes; r is the correlation."""
    seconds, acs, spikes = [], [], []
    for n in range(len(batch.images)):
        one = part(batch, n, n + 1)
        seconds.append(min(timed(event_run, model, one)[0] for _ in range(args.repeats)))
        found = accumulates_of(model, one)
        acs.append(found[0])
        spikes.append(found[1])
    for kind, values in (("accumulates", acs), ("spikes", spikes)):
        slope, constant = np.polyfit(values, seconds, 1)
        say(f"{case} against {kind}", args, images=len(seconds), constant_ms=1e3 * constant, nanoseconds_each=1e9 * slope,
            r=float(np.corrcoef(values, seconds)[0, 1]))  # fmt: skip


def measure_flips(args):
    """Spikes that differ between the engines: each image's first one, and how near the threshold its layer came."""
    for name, model, count in (("small", small_network(), args.flip_images), ("full", full_network(args)[1], args.full_images)):
        for epsilon in (EPSILON, 0.0):
            model.engine = None
            model.change(epsilon=epsilon)
            engine, total = EventEngine(model), dict.fromkeys(("images", "spikes", "decisions", "first_differences"), 0)
            distances, wrong = [], [0, 0]
            for begin in range(0, count, 10):
                batch = part(test_images(count), begin, begin + 10)
                counted = flips(model, engine, batch)
                total = {key: value + counted[key] for key, value in total.items()}
                distances += counted["distances"]
                wrong = [a + b for a, b in zip(wrong, counted["wrong"], strict=True)]
            say(f"{name}, epsilon {epsilon}, differing spikes", args, **total,
                per_million_decisions=1e6 * total["first_differences"] / total["decisions"],
                per_million_spikes=1e6 * total["first_differences"] / total["spikes"],
                largest_distance_from_threshold=max(distances, default=0.0),
                dense_wrong=wrong[0], event_wrong=wrong[1])  # fmt: skip


@torch.no_grad()
def flips(model, engine, batch):
    """Counts of a batch. A difference is looked for step by step, layer by layer; what follows from it is not counted again.
    distance: |v/theta - 1| of the layer's neuron nearest to its threshold in that step of that image."""
    counts, near, decisions, hooks = {}, {}, 0, []

    def hook_for(name):
        def hook(neuron, inputs, output):
            spikes, state = output
            v = (state.v + spikes * neuron.threshold) / neuron.threshold - 1
            counts.setdefault(name, []).append(spikes.flatten(1).sum(1))
            near.setdefault(name, []).append(v.abs().flatten(1).amin(1))
            nonlocal decisions
            decisions += spikes.numel()

        return hook

    for name, neuron in model.named_modules():
        if isinstance(neuron, SpikingNeuron):
            hooks.append(neuron.register_forward_hook(hook_for(name)))
    dense = dense_run(model, batch)
    for hook in hooks:
        hook.remove()
    event = engine(batch.images, draws=Draws(0, EVALUATION, batch.index), frames=False)
    distances = []
    for n in range(len(batch.images)):
        for t in range(model.timesteps):
            bad = next((name for name in counts if counts[name][t][n] != event.spikes_by_step[name][t, n]), None)
            if bad:
                distances.append(near[bad][t][n].item())
                break
    return {
        "images": len(batch.images),
        "spikes": int(sum(count.sum().item() for count in dense.spikes.values())),
        "decisions": decisions,
        "first_differences": len(distances),
        "distances": distances,
        "wrong": [int((output.logits.argmax(1) != batch.labels).sum()) for output in (dense, event)],
    }


def measure_memory(args):
    """Bytes of the folded weights and of a thread's state; peak memory of the process after dense runs, then event runs."""
    for name in ("small", "full"):
        context = multiprocessing.get_context("spawn")
        for engine in ("dense", "event"):
            queue = context.Queue()
            process = context.Process(target=memory_of, args=(name, args.pretrained_snn, engine, queue))
            process.start()
            say(f"{name}, memory, {engine}", args, **queue.get())
            process.join()


def memory_of(name, checkpoint, engine, queue):
    args = argparse.Namespace(pretrained_snn=checkpoint)
    model = small_network() if name == "small" else full_network(args)[1]
    batch, before = test_images(16), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"weights_mb": sum(value.nbytes for value in model.parameters()) / 1e6}
    if engine == "event":
        with_engine(model)
        event_run(model, batch)
        layout, state = model.engine.prepare(), model.engine._rooms.free[0].state
        figures |= {"folded_weights_mb": layout.net.weights.nbytes / 1e6, "state_mb": sum(part.nbytes for part in state) / 1e6}
    else:
        dense_run(model, batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put(figures | {"peak_mb": peak / 1e3, "before_runs_mb": before / 1e3, "batch": 16})


BOUNDS = {  # what is read -> floats of a row, rows of weights, membranes
    "vector units: weights in the first-level cache": (96, 64, 1024),
    "second-level cache: a 3x3 layer of 128 channels": (384, 384, 25088),
    "memory: the classifier's first layer": (4096, 25088, 4096),
}


def measure_bounds(args):
    """Accumulates per second of the bare inner loop, four random rows at a time on one thread, and reading with torch alone."""
    draw = np.random.default_rng(0)
    for name, (size, rows, membranes) in BOUNDS.items():
        weights, v = draw.random(size * rows, dtype=np.float32), np.zeros(membranes, np.float32)
        count = 40_000_000 // size // 4 * 4
        first, values = draw.integers(0, rows, count) * size, np.ones(count, np.float32)
        at = draw.integers(0, (membranes - size) // 16 + 1, count) * 16
        add_many(v, weights, first[:4], values, at[:4], size)
        seconds = []
        for _ in range(args.repeats):
            began = time.perf_counter()
            add_many(v, weights, first, values, at, size)
            seconds.append(time.perf_counter() - began)
        say(f"bound, {name}", args, weights_mb=weights.nbytes / 1e6, accumulates_per_second=count * size / min(seconds))
    values, threads = torch.ones(10**8), torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    for _ in range(args.repeats):
        began = time.perf_counter()
        values.sum()
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    say("bound, memory: torch.sum of 400 MB on one thread", args, floats_per_second=1e8 / min(seconds))


@njit
def add_many(v, weights, first, values, at, size):
    for i in range(0, len(first), 4):
        add_rows(v, at[i], weights, first, values, i, i + 4, 0, size, False)


def measure_processes(args):
    """The same images by one process with two threads, and by two processes with one thread each at once."""
    model, batch = with_engine(small_network()), test_images(args.images)
    context = multiprocessing.get_context("fork")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        seconds = min(timed(event_run, model, batch)[0] for _ in range(args.repeats))
        say(f"small, one process, threads {threads}", args, event_images_per_second=len(batch.images) / seconds)
    torch.set_num_threads(1)
    ready, found = context.Barrier(2), context.Queue()

    def work():
        ready.wait()
        found.put(min(timed(event_run, model, batch)[0] for _ in range(args.repeats)))

    processes = [context.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    rates = [len(batch.images) / found.get() for _ in processes]
    for process in processes:
        process.join()
    torch.set_num_threads(args.threads)
    say("small, two forked processes, threads 1", args, event_images_per_second=sum(rates))


PARTS = {
    "speed": measure_speed,
    "scaling": measure_scaling,
    "flips": measure_flips,
    "memory": measure_memory,
    "bounds": measure_bounds,
    "processes": measure_processes,
}

if __name__ == "__main__":
    run_script(main)
