#!/usr/bin/env python3
"""How fast is a trained network here, in snnTorch, SpikingJelly, Norse and sinabs, and as an ANN? One JSON object per `case`.

Networks: `baseline`, the committed snn_baseline.pth, and `blocking`, snn_feedback.pth with its decoder, which blocks predicted
input; the other simulators run it in a loop over the timesteps (Peer in peers.py). `ann`: one dense pass of the ANN that the
network was converted from. Weights, thresholds, images and random draws are the same for all; draws are made before the clock
starts.

Images per second are medians over rounds in which all take turns: of wall time, with one thread of processor time. A simulator
runs by step and by layer; the faster `way` counts. `same_spikes`: true where it sends as many spikes as ours_dense in each layer
for each image, else the share that differs. Simulators that are not installed are null, and `missing`. ratio_to_...: ours_event
over that.

`--rounds 3` takes 15 minutes on two cores; `--images 8 --batches 1 8 --timesteps 8 --rounds 1 --threads 1` half a minute.
docs/explanation/performance.py makes the page's table and picture from results/inference_peers.jsonl.
"""

import json
import statistics
import sys
import time
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness import UserError  # noqa: I001  (harness before torch, see harness/__init__.py)
from benchmarks.speed.peers import SIMULATORS, Peer, is_installed
from harness.command_line.parser import Parser, add_output_flag, typed
from harness.command_line.scripts import run_script
from harness.data.sets import load_data
from harness.drawing.figures import chart
from self_models import load
from self_models.basics.settings import COUNT
from self_models.running.draws import EVALUATION, Draws

import numpy as np
import torch

COMMITTED = Path(__file__).resolve().parents[2] / "trained_models"
NETWORKS = {"baseline": "baseline", "blocking": "feedback"}  # name -> that of its files
SHOWN = ("ours_event", "ours_dense", *SIMULATORS, "ann")
WAYS = {"by step": False, "by layer": True}
CASE = "{network}, T = {timesteps}, batch {batch}, threads {threads}"


def main(argv=None):
    args = build_parser().parse_args(argv)
    for batch in args.batches:
        if args.images % batch:
            raise UserError(f"--images {args.images} are no whole number of batches of {batch}: give a multiple")
    peers, records = [name for name in args.peers if is_installed(name)], []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for (network, name), steps in product(NETWORKS.items(), args.timesteps):
            model = load(COMMITTED / f"snn/snn_{name}.pth", engine="event", timesteps=steps)
            ann = load(COMMITTED / f"ann/ann_{name}.pth", engine="dense", timesteps=1)
            for batch in args.batches:
                case = {"machine": args.machine, "network": network, "timesteps": steps, "batch": batch, "threads": threads}
                records.append({"case": CASE.format(**case), **case, **measured(model, ann, peers, batch, args)})
                print(json.dumps(records[-1]), flush=True)
    if args.picture:
        save_simulators(args.picture, [record for record in records if record["threads"] == args.threads[0]])


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--threads", type=typed(COUNT), nargs="+", default=[2, 1], metavar="N", help="torch.set_num_threads")
    parser.add_argument("--timesteps", type=typed(COUNT), nargs="+", default=[8, 50], metavar="T", help="per image")
    parser.add_argument("--batches", type=typed(COUNT), nargs="+", default=[1, 64], metavar="B", help="images at a time")
    parser.add_argument("--images", type=typed(COUNT), default=64, metavar="N", help="the first N test images, in each case")
    parser.add_argument("--rounds", type=typed(COUNT), default=5, metavar="N", help="all images, by each simulator in turn")
    parser.add_argument("--peers", nargs="+", choices=list(SIMULATORS), default=list(SIMULATORS), help="which; others are null")
    parser.add_argument("--machine", default="", metavar="WORDS", help="what the records call this machine")
    add_output_flag(parser, "--picture", "a chart of the cases with the first number of threads", ".png")
    return parser


@torch.no_grad()
def measured(model, ann, peers, batch, args):
    """What a record says of one case."""
    parts = load_data("MNIST")[2].part(0, args.images).batches(batch)
    parts = [(one.images, Draws(0, EVALUATION, one.index).uniforms(model.timesteps, model.image_shape)) for one in parts]
    ways = {(peer, way): by_layer for peer in peers for way, by_layer in WAYS.items()}
    runs = {
        ("ours_event", ""): lambda x, uniforms: model.engine(x, uniforms, frames=False),
        ("ours_dense", ""): lambda x, uniforms: model.forward(x, uniforms, frames=False),
    }
    ours = {name: [run(*each) for each in parts] for (name, _), run in runs.items()}  # folds, too
    spikes = {name: joined(output.spikes for output in outputs) for name, outputs in ours.items()}
    same = {"ours_event": compared(spikes["ours_event"], spikes["ours_dense"])}
    for peer in peers:
        differing = [compared(counted(model, peer, by_layer, parts), spikes["ours_dense"]) for by_layer in WAYS.values()]
        same[peer] = next((found for found in differing if found is not True), True)
    runs |= {(peer, way): Peer(model, peer, by_layer).eval() for (peer, way), by_layer in ways.items()}
    speeds = in_turns(runs | {("ann", ""): lambda x, uniforms: ann(x)}, parts, args)
    sent = round(sum(spikes["ours_event"].values()).mean().item(), 1)
    return {**figures(speeds), "same_spikes": same, "spikes_per_image": sent, "images": args.images, "rounds": args.rounds}


def in_turns(runs, parts, args):
    """Images per second of each run, the median over the rounds. One batch comes before, which is not timed."""
    seconds, clock = {key: [] for key in runs}, time.perf_counter if torch.get_num_threads() > 1 else time.process_time
    for run in runs.values():
        run(*parts[0])
    for _ in range(args.rounds):
        for key, run in runs.items():
            began = clock()
            for each in parts:
                run(*each)
            seconds[key].append(clock() - began)
    return {key: args.images / statistics.median(times) for key, times in seconds.items()}


def figures(speeds):
    """The figures of a record from (name, way) -> images per second: each at its faster way; ratios are of what is shown."""
    fastest = {name: max((round(speed, 1), way) for (other, way), speed in speeds.items() if other == name) for name, _ in speeds}
    best = max((fastest[peer][0] for peer in SIMULATORS if peer in fastest), default=None)
    return {
        **{name: fastest[name][0] if name in fastest else None for name in SHOWN},
        "ratio_to_fastest_peer": best and round(fastest["ours_event"][0] / best, 2),
        "ratio_to_ann": round(fastest["ours_event"][0] / fastest["ann"][0], 2),
        "missing": [peer for peer in SIMULATORS if peer not in fastest],
        "way": {peer: fastest[peer][1] for peer in SIMULATORS if peer in fastest},
    }


def counted(model, peer, by_layer, parts):
    """Spikes of each layer for each image, name -> (N,), of a peer that nobody times."""
    network, found = Peer(model, peer, by_layer).eval(), []
    for each in parts:
        counts = network.counting()
        network(*each)
        found.append(dict(counts))
    return joined(found)


def joined(found):
    """Dicts name -> (B,) of all batches as one, name -> (N,)."""
    found = list(found)
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def compared(spikes, ours):
    """True for the same spikes in every layer and image, else the share of spikes that are more or fewer."""
    differing = sum((spikes[name] - ours[name]).abs().sum().item() for name in ours)
    return differing == 0 or float(f"{differing / sum(own.sum().item() for own in ours.values()):.1e}")


LOOKS = {  # name -> (label, marker, colour, of its inside)
    "ours_event": ("event engine", "o", "#aa3377", "#aa3377"),
    "ours_dense": ("dense engine", "o", "#4477aa", "#4477aa"),
    "snntorch": ("snnTorch", "s", "#777777", "none"),
    "spikingjelly": ("SpikingJelly", "^", "#777777", "none"),
    "norse": ("Norse", "D", "#777777", "none"),
    "sinabs": ("sinabs", "v", "#777777", "none"),
    "ann": ("ANN, one pass", "x", "#222222", "none"),
}


def save_simulators(path, records):
    """Images per second of each simulator on a logarithmic axis, a row per case. A line from the fastest other one to the event
    engine has their ratio. records: of one number of threads."""
    rows, words = range(len(records)), "{network}, T = {timesteps}, batch {batch}"
    with chart(path, (10.5, 1.3 + 0.42 * len(records))) as (axis,):
        for row, record in enumerate(records):
            if best := max(record[peer] or 0 for peer in SIMULATORS):
                ends, place = (best, record["ours_event"]), ((best * record["ours_event"]) ** 0.5, row - 0.08)
                axis.plot(ends, [row] * 2, color=LOOKS["ours_event"][2], lw=1.2, zorder=1)
                axis.text(*place, f"{ends[1] / best:.1f} times", ha="center", va="bottom", weight="bold")
        for name, (label, marker, colour, inside) in LOOKS.items():
            if any(record[name] for record in records):
                speeds = [record[name] or np.nan for record in records]
                axis.plot(speeds, rows, marker, label=label, color=colour, mfc=inside, ms=7.5, mew=1.4, ls="")
        label = f"images per second (log scale), threads: {records[0]['threads']}"
        axis.set(xscale="log", xlabel=label, ylim=(len(records) - 0.5, -0.6))
        axis.set_yticks(rows, [words.format(**record) for record in records])
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.grid(color="#dddddd", axis="x")
        axis.figure.legend(loc="outside upper center", ncols=len(LOOKS), frameon=False, handletextpad=0.1, columnspacing=1.2)


if __name__ == "__main__":
    run_script(main)
