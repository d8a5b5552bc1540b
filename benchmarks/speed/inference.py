#!/usr/bin/env python3
"""How fast is a network here, in snnTorch, SpikingJelly, Norse and sinabs, and as an ANN? One JSON object per `case`.

Networks: `baseline`, the committed snn_baseline.pth; `blocking`, snn_feedback.pth with its decoder, which blocks predicted input;
the other simulators run it in a loop over the timesteps (Peer in peers.py). `random`: random weights and colour images of
32 x 32, analog input, T = 4, channels times --widths, thresholds at which a share `rate` of each layer's neurons spikes in a
timestep. `ann`: one dense pass of the ANN that the network was converted from, or of the same layers. Weights, thresholds, images
and random draws are the same for all.

Images per second are medians over rounds in which all take turns: of wall time, with one thread of processor time. A simulator
runs by step and by layer; the faster `way` counts. `same_spikes`: true where it sends as many spikes as ours_dense in each layer
for each image, else the share that differs. Simulators that are not installed are null. `additions` per image of the event
engine: one for each neuron that a spike or a pixel's value reaches.

    python benchmarks/speed/inference.py --rounds 3                       # 15 minutes on two cores
    python benchmarks/speed/inference.py --networks random --peers --threads 1     # ten minutes

docs/explanation/performance.py makes the page's table and picture from results/inference_peers.jsonl.
"""

import json
import statistics
import sys
import time
import timeit
from itertools import product
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import numpy as np
import torch

from benchmarks.speed.peers import INSTALLED, SIMULATORS, Peer
from harness import UserError
from harness.command_line.parser import Parser, add_output_flag, flag_type
from harness.command_line.scripts import run_script
from harness.drawing.figures import chart
from self_models import load
from self_models.basics import HOME
from self_models.basics.settings import COUNT, PROBABILITY
from self_models.counting.operations import OperationCounter
from self_models.data.sets import ImageSet, load_data
from self_models.engines.event.engine import EventEngine
from self_models.runtime.draws import EVALUATION, Draws
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

NETWORKS = {
    "baseline": "baseline",
    "blocking": "feedback",
    "random": None,
}  # name -> that of its files
PLAN, SHAPE, TIMESTEPS = "16 M 32 M 64 64 M", (3, 32, 32), 4  # of random ones, width 1
RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5]
LOOKS = {  # name -> (label, marker, colour, of its inside)
    "ours_event": ("event engine", "o", "#aa3377", "#aa3377"),
    "ours_dense": ("dense engine", "o", "#4477aa", "#4477aa"),
    "snntorch": ("snnTorch", "s", "#777777", "none"),
    "spikingjelly": ("SpikingJelly", "^", "#777777", "none"),
    "norse": ("Norse", "D", "#777777", "none"),
    "sinabs": ("sinabs", "v", "#777777", "none"),
    "ann": ("ANN, one pass", "x", "#222222", "none"),
}


def build_parser():
    parser, counts = Parser(__doc__), {"type": flag_type(COUNT), "nargs": "+"}
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=["baseline", "blocking"], help="which"
    )
    parser.add_argument(
        "--threads", default=[2, 1], metavar="N", help="torch.set_num_threads", **counts
    )
    parser.add_argument(
        "--timesteps",
        default=[8, 50],
        metavar="T",
        help="per image, of trained networks",
        **counts,
    )
    parser.add_argument(
        "--widths",
        default=[1, 4],
        metavar="N",
        help="of random ones, times the channels",
        **counts,
    )
    parser.add_argument(
        "--rates",
        type=flag_type(PROBABILITY),
        nargs="+",
        default=RATES,
        metavar="SHARE",
        help="of random ones",
    )
    parser.add_argument(
        "--batches", default=[1, 64], metavar="B", help="images at a time", **counts
    )
    parser.add_argument(
        "--images",
        type=flag_type(COUNT),
        default=64,
        metavar="N",
        help="the first N test images, in each case",
    )
    parser.add_argument(
        "--rounds",
        type=flag_type(COUNT),
        default=5,
        metavar="N",
        help="all images, by each simulator in turn",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=SIMULATORS,
        default=list(SIMULATORS),
        help="which; others are null",
    )
    parser.add_argument(
        "--machine", default="", metavar="WORDS", help="what the records call this machine"
    )
    add_output_flag(
        parser, "--picture", "a chart of the cases with the first number of threads", ".png"
    )
    return parser


def main(argv=None):
    args, records = build_parser().parse_args(argv), []
    for batch in args.batches:
        if args.images % batch:
            raise UserError(
                f"--images {args.images} are no whole number of batches of {batch}: give a multiple"
            )
    for threads in args.threads:
        torch.set_num_threads(threads)
        for (about, model, ann, images), batch in product(networks(args), args.batches):
            about = {
                "machine": args.machine,
                **about,
                "timesteps": model.timesteps,
                "batch": batch,
                "threads": threads,
            }
            case = "{network}, T = {timesteps}, batch {batch}, threads {threads}".format(**about)
            records.append({"case": case, **about, **measured(model, ann, images, batch, args)})
            print(json.dumps(records[-1]), flush=True)
    if args.picture:
        save_simulators(
            args.picture, [record for record in records if record["threads"] == args.threads[0]]
        )


# --- networks


def networks(args):
    """(what records say of it, SNN with an event engine, ANN, images) of each network that is asked for."""
    for name in args.networks:
        if name == "random":
            images = ImageSet(name, random_images(args.images), None)
            for width, rate in product(args.widths, args.rates):
                plan = [
                    [int(token) * width if token.isdigit() else token for token in PLAN.split()],
                    [],
                ]
                ann = VGG_wFeedback(
                    plan=plan, image_shape=SHAPE, fc_layers=0, init="kaiming"
                ).eval()
                about = {
                    "network": f"random, width {width}, rate {rate:g}",
                    "width": width,
                    "rate": rate,
                }
                yield about, random_network(plan, rate), ann, images
            continue
        path, images = HOME / "trained_models", load_data("MNIST", limit_test=args.images)[2]
        for steps in args.timesteps:
            model = load(path / f"snn/snn_{NETWORKS[name]}.pth", engine="event", timesteps=steps)
            ann = load(path / f"ann/ann_{NETWORKS[name]}.pth", engine="dense", timesteps=1)
            yield {"network": name}, model, ann, images


@torch.no_grad()
def random_network(plan, rate):
    """A network of this plan with random weights, in whose layers this share of neurons spikes in a timestep."""
    torch.manual_seed(0)
    settings = {"timesteps": TIMESTEPS, "encoding": "direct", "update": "immediate"}
    model = VGG_SNN_STDB_wFeedback(
        plan=plan, image_shape=SHAPE, fc_layers=0, init="kaiming", **settings
    ).eval()
    thresholds, images = model.thresholds, random_images(2)
    for layer, name in enumerate(model.neurons()):
        low, high = 1e-3, 1e3
        for _ in range(14):
            thresholds[layer] = (low * high) ** 0.5
            model.set_thresholds(thresholds)
            share = (
                model(images).spikes[name].mean().item()
                / TIMESTEPS
                / prod(model.graph.shapes[name])
            )
            low, high = (thresholds[layer], high) if share > rate else (low, thresholds[layer])
    model.engine = EventEngine(model)
    return model


def random_images(count):
    return 2 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)) - 1


# --- what is measured of them


@torch.no_grad()
def measured(model, ann, images, batch, args):
    """What a record says of one case."""
    (every,) = images.batches(len(images))
    x, uniforms = (
        every.images,
        Draws(0, EVALUATION, every.index).uniforms(model.timesteps, model.image_shape),
    )
    parts = [
        *zip(x.split(batch), (part.contiguous() for part in uniforms.split(batch, 1)), strict=True)
    ]
    runs = {
        ("ours_event", ""): lambda x, uniforms: model.engine(x, uniforms, frames=False),
        ("ours_dense", ""): lambda x, uniforms: model.forward(x, uniforms, frames=False),
        ("ann", ""): lambda x, uniforms: ann(x),
    }
    event, dense = (runs[name, ""](x, uniforms).spikes for name in ("ours_event", "ours_dense"))
    same = {"ours_event": compared(event, dense)}
    for peer in (name for name in args.peers if name in INSTALLED):
        for way, by_layer in {"by step": False, "by layer": True}.items():
            runs[peer, way] = Peer(model, peer, by_layer).eval()
            found = compared(Peer(model, peer, by_layer).eval().spikes(x, uniforms), dense)
            same[peer] = found if same.get(peer, True) is True else same[peer]
    with OperationCounter(model) as counter:
        model(x, uniforms, frames=False)
    spikes, additions = (
        round(sum(event.values()).mean().item(), 1),
        counter.result(args.images)["event_acs"],
    )
    found = figures(in_turns(runs, parts, args)) | {
        "same_spikes": same,
        "spikes_per_image": spikes,
        "additions": additions,
    }
    found["nanoseconds_per_addition"] = float(f"{1e9 / found['ours_event'] / additions:.4g}")
    return found | {"images": args.images, "rounds": args.rounds}


def in_turns(runs, parts, args):
    """Images per second of each run, the median over the rounds. One batch comes before, which is not timed."""
    seconds, clock = (
        {key: [] for key in runs},
        time.perf_counter if torch.get_num_threads() > 1 else time.process_time,
    )
    for run in runs.values():
        run(*parts[0])
    for _, (key, run) in product(range(args.rounds), runs.items()):
        seconds[key].append(
            timeit.timeit(
                lambda: [run(*part) for part in parts],  # noqa: B023
                timer=clock,
                number=1,
            )
        )
    return {key: args.images / statistics.median(times) for key, times in seconds.items()}


def figures(speeds):
    """The figures of a record from (name, way) -> images per second: each at its faster way, null where it is not measured."""
    faster = {
        name: (round(speed, 1), way)
        for (name, way), speed in sorted(speeds.items(), key=lambda pair: pair[1])
    }
    ways = {name: way for name, (_, way) in faster.items() if way}
    return {name: faster.get(name, (None, ""))[0] for name in LOOKS} | {"way": ways}


def compared(spikes, ours):
    """True for the same spikes in every layer and image, else the share of spikes that are more or fewer."""
    differing = sum((spikes[name] - ours[name]).abs().sum().item() for name in ours)
    return differing == 0 or float(
        f"{differing / sum(own.sum().item() for own in ours.values()):.1e}"
    )


# --- pictures


def save_simulators(path, records):
    """Images per second of each simulator on a logarithmic axis, a row per case. A line from the fastest other one to the event
    engine has their ratio. records: of one number of threads."""
    rows, words = range(len(records)), "{network}, T = {timesteps}, batch {batch}"
    with chart(path, (10.5, 1.3 + 0.42 * len(records))) as (axis,):
        for row, record in enumerate(records):
            if best := max(record[peer] or 0 for peer in SIMULATORS):
                ends, place = (
                    (best, record["ours_event"]),
                    ((best * record["ours_event"]) ** 0.5, row - 0.08),
                )
                axis.plot(ends, [row] * 2, color=LOOKS["ours_event"][2], lw=1.2, zorder=1)
                axis.text(
                    *place, f"{ends[1] / best:.1f} times", ha="center", va="bottom", weight="bold"
                )
        for name, (label, marker, colour, inside) in LOOKS.items():
            speeds = [record[name] or np.nan for record in records]
            if not np.isnan(speeds).all():
                axis.plot(
                    speeds,
                    rows,
                    marker,
                    label=label,
                    color=colour,
                    mfc=inside,
                    mew=1.4,
                    ms=7.5,
                    ls="",
                )
        label = f"images per second (log scale), threads: {records[0]['threads']}"
        axis.set(xscale="log", xlabel=label, ylim=(len(records) - 0.5, -0.6))
        axis.set_yticks(rows, [words.format(**record) for record in records])
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.grid(color="#dddddd", axis="x")
        axis.figure.legend(
            loc="outside upper center",
            ncols=len(LOOKS),
            frameon=False,
            handletextpad=0.1,
            columnspacing=1.2,
        )


if __name__ == "__main__":
    run_script(main)
