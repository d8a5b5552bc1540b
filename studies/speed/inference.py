"""Measure how fast a network is here, in other simulators, and as an ANN.

The other simulators are snnTorch, SpikingJelly, Norse and sinabs. There is one JSON
object per `case`. Networks:

- `baseline`: the committed snn_baseline.pth.
- `blocking`: snn_feedback.pth with its decoder, which blocks predicted input. The other
  simulators run it in a loop over the timesteps (Peer in peers.py).
- `random`: random weights and colour images of 32 x 32, analog input, T = 4, channels
  times --widths, thresholds at which a share `rate` of each layer's neurons spikes in a
  timestep.

`ann` is one dense pass of the ANN that the network was converted from, or of the same
layers. Weights, thresholds, images and random draws are the same for all.

Images per second are medians over rounds in which all take turns: of wall time, with
one thread of processor time. A simulator runs by step and by layer; the faster `way`
counts. `same_spikes`: true where it sends as many spikes as ours_dense in each layer
for each image, else the share that differs. Simulators that are not installed are null.
`additions` per image of the event engine: one for each neuron that a spike or a pixel's
value reaches.

    python -m studies.speed.inference --rounds 3
    python -m studies.speed.inference --networks random --peers --threads 1

They take 15 minutes on two cores, and ten minutes. docs/explanation/performance.py
makes the page's table and picture from results/inference_peers.jsonl.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import argparse
import json
import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes

from self_models import load
from self_models.data.sets import ImageSet, load_data
from self_models.errors import UserError
from self_models.evaluation.operations import OperationCounter
from self_models.places import HOME
from self_models.running.draws import EVALUATION, Draws
from self_models.settings import COUNT, PROBABILITY
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from studies.speed.peers import INSTALLED, SIMULATORS, Peer
from wfeedback.command_line.parser import Parser, add_output_flag, flag_type
from wfeedback.command_line.scripts import run_script
from wfeedback.drawing.figures import chart
from wfeedback.event.engine import EventEngine

COMMITTED = {  # name -> ending of its files' names, snn_… and ann_…
    "baseline": "baseline",
    "blocking": "feedback",
}
NETWORKS = [*COMMITTED, "random"]

# Random networks, of width 1
PLAN = "16 M 32 M 64 64 M"
SHAPE = (3, 32, 32)
TIMESTEPS = 4
RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.5]


class Look(NamedTuple):
    """How the picture shows what is measured."""

    label: str
    marker: str
    colour: str
    inside: str  # colour of the marker's inside


LOOKS = {
    "ours_event": Look("event engine", "o", "#aa3377", "#aa3377"),
    "ours_dense": Look("dense engine", "o", "#4477aa", "#4477aa"),
    "snntorch": Look("snnTorch", "s", "#777777", "none"),
    "spikingjelly": Look("SpikingJelly", "^", "#777777", "none"),
    "norse": Look("Norse", "D", "#777777", "none"),
    "sinabs": Look("sinabs", "v", "#777777", "none"),
    "ann": Look("ANN, one pass", "x", "#222222", "none"),
}


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__)
    counts = {"type": flag_type(COUNT), "nargs": "+"}
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


def main(argv: Sequence[str] | None = None) -> None:
    """Print the record of each case, and save the picture if it is asked for."""
    args = build_parser().parse_args(argv)
    for batch in args.batches:
        if args.images % batch:
            raise UserError(
                f"--images {args.images} are no whole number of batches of {batch}: "
                "give a multiple"
            )
    records = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for network in networks(args):
            for batch in args.batches:
                record = record_of_case(network, batch, threads, args)
                records.append(record)
                print(json.dumps(record), flush=True)
    if args.picture:
        first_threads = args.threads[0]
        shown = [record for record in records if record["threads"] == first_threads]
        save_simulators(args.picture, shown)


# --- networks


@dataclass
class Network:
    """A network that is measured.

    Attributes
    ----------
    about : dict
        What records say of it.
    model : VGG_SNN_STDB_wFeedback
        The SNN, with an event engine.
    ann : VGG_wFeedback
        The ANN.
    images : ImageSet
        What both run.
    """

    about: dict
    model: VGG_SNN_STDB_wFeedback
    ann: VGG_wFeedback
    images: ImageSet


def networks(args: argparse.Namespace) -> Iterator[Network]:
    """Make each network that is asked for."""
    for name in args.networks:
        if name == "random":
            yield from random_networks(args)
        else:
            yield from committed_networks(name, args)


def committed_networks(name: str, args: argparse.Namespace) -> Iterator[Network]:
    """Load a trained network, once for each T."""
    folder = HOME / "trained_models"
    _, _, images = load_data("MNIST", limit_test=args.images)
    for timesteps in args.timesteps:
        snn_path = folder / f"snn/snn_{COMMITTED[name]}.pth"
        ann_path = folder / f"ann/ann_{COMMITTED[name]}.pth"
        model = load(snn_path, engine="event", timesteps=timesteps)
        ann = load(ann_path, engine="dense", timesteps=1)
        yield Network({"network": name}, model, ann, images)


def random_networks(args: argparse.Namespace) -> Iterator[Network]:
    """Make a random network for each width and rate."""
    images = ImageSet("random", random_images(args.images), None)
    for width, rate in product(args.widths, args.rates):
        encoder = [int(token) * width if token.isdigit() else token for token in PLAN.split()]
        plan = [encoder, []]
        ann = VGG_wFeedback(plan=plan, image_shape=SHAPE, fc_layers=0, init="kaiming").eval()
        about = {
            "network": f"random, width {width}, rate {rate:g}",
            "width": width,
            "rate": rate,
        }
        yield Network(about, random_network(plan, rate), ann, images)


@torch.no_grad()
def random_network(plan: list, rate: float) -> VGG_SNN_STDB_wFeedback:
    """Make a network of this plan with random weights, with an event engine.

    Its thresholds are such that in each layer this share of the neurons spikes in a
    timestep.
    """
    torch.manual_seed(0)
    model = VGG_SNN_STDB_wFeedback(
        plan=plan,
        image_shape=SHAPE,
        fc_layers=0,
        init="kaiming",
        timesteps=TIMESTEPS,
        encoding="direct",
        update="immediate",
    ).eval()
    images = random_images(2)
    thresholds = model.thresholds
    # Layer by layer, because a layer's spikes follow from the thresholds before it.
    for layer, name in enumerate(model.neurons()):
        neurons = prod(model.graph.shapes[name])
        low = 1e-3
        high = 1e3
        for _ in range(14):  # halves the interval, on a logarithmic scale
            thresholds[layer] = (low * high) ** 0.5
            model.set_thresholds(thresholds)
            share = model(images).spikes[name].mean().item() / TIMESTEPS / neurons
            if share > rate:
                low = thresholds[layer]
            else:
                high = thresholds[layer]
    model.engine = EventEngine(model)
    return model


def random_images(count: int) -> torch.Tensor:
    """Draw colour images of uniform noise from -1 to 1, (count, 3, 32, 32)."""
    return 2 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)) - 1


# --- what is measured of them


@torch.no_grad()
def record_of_case(network: Network, batch: int, threads: int, args: argparse.Namespace) -> dict:
    """Measure a network with batches of this size, and return the record."""
    about = {
        "machine": args.machine,
        **network.about,
        "timesteps": network.model.timesteps,
        "batch": batch,
        "threads": threads,
    }
    case = "{network}, T = {timesteps}, batch {batch}, threads {threads}".format(**about)
    return {"case": case, **about, **measure(network, batch, args)}


def measure(network: Network, batch_size: int, args: argparse.Namespace) -> dict:
    """Return the figures of a case: of speed, and of spikes."""
    model = network.model
    (every,) = network.images.batches(len(network.images))
    x = every.images
    draws = Draws(0, EVALUATION, every.index)
    uniforms = draws.uniforms(model.timesteps, model.image_shape)

    runs = {  # (name, way) -> a function of images and draws
        ("ours_event", ""): lambda x, uniforms: model.engine(x, uniforms, frames=False),
        ("ours_dense", ""): lambda x, uniforms: model.forward(x, uniforms, frames=False),
        ("ann", ""): lambda x, uniforms: network.ann(x),
    }
    event_spikes = runs["ours_event", ""](x, uniforms).spikes
    dense_spikes = runs["ours_dense", ""](x, uniforms).spikes
    same_spikes = {"ours_event": compare_spikes(event_spikes, dense_spikes)}
    for peer in args.peers:
        if peer not in INSTALLED:
            continue
        for way, by_layer in (("by step", False), ("by layer", True)):
            runs[peer, way] = Peer(model, peer, by_layer).eval()
            # Another one, because hooks that count spikes would slow the first.
            spikes = Peer(model, peer, by_layer).eval().spikes(x, uniforms)
            found = compare_spikes(spikes, dense_spikes)
            if same_spikes.get(peer, True) is True:  # else the first way differs already
                same_spikes[peer] = found

    with OperationCounter(model) as counter:
        model(x, uniforms, frames=False)
    additions = counter.result(args.images)["event_acs"]

    uniforms_of_batches = [part.contiguous() for part in uniforms.split(batch_size, 1)]
    batches = list(zip(x.split(batch_size), uniforms_of_batches, strict=True))
    result = figures(images_per_second(runs, batches, args))
    result |= {
        "same_spikes": same_spikes,
        "spikes_per_image": round(sum(event_spikes.values()).mean().item(), 1),
        "additions": additions,
    }
    nanoseconds = 1e9 / result["ours_event"] / additions
    result["nanoseconds_per_addition"] = float(f"{nanoseconds:.4g}")
    return result | {"images": args.images, "rounds": args.rounds}


def images_per_second(runs: dict, batches: list, args: argparse.Namespace) -> dict:
    """Time all runs in turns.

    Parameters
    ----------
    runs : dict of {(str, str): callable}
        By name and way; each takes images and draws.
    batches : list of (Tensor, Tensor)
        Images and draws of each batch.
    args : Namespace
        With the numbers of images and of rounds.

    Returns
    -------
    dict of {(str, str): float}
        Images per second, the median over the rounds.
    """
    clock = time.process_time  # depends less on other programs
    if torch.get_num_threads() > 1:
        clock = time.perf_counter
    for run in runs.values():
        run(*batches[0])  # warms up
    seconds = {key: [] for key in runs}
    for _ in range(args.rounds):
        for key, run in runs.items():
            run_all = partial(run_on_each, run, batches)
            seconds[key].append(timeit.timeit(run_all, timer=clock, number=1))
    return {key: args.images / statistics.median(times) for key, times in seconds.items()}


def run_on_each(run: Callable, batches: list) -> list:
    """Run all batches. The outputs are kept, so freeing them is not timed."""
    return [run(x, uniforms) for x, uniforms in batches]


def figures(speeds: dict) -> dict:
    """Return each one's images per second at its faster way, and which way that is.

    speeds: (name, way) -> images per second. What is not measured is None.
    """
    fastest = {}  # name -> images per second, at the faster way
    ways = {}
    for (name, way), speed in sorted(speeds.items(), key=lambda item: item[1]):
        fastest[name] = round(speed, 1)
        if way:
            ways[name] = way
    return {name: fastest.get(name) for name in LOOKS} | {"way": ways}


def compare_spikes(spikes: dict, ours: dict) -> bool | float:
    """Compare spikes (B,) of each layer with ours.

    Returns
    -------
    True or float
        True for the same spikes in every layer and image, else the share of spikes that
        are more or fewer, rounded to two digits.
    """
    differing = sum((spikes[name] - ours[name]).abs().sum().item() for name in ours)
    if differing == 0:
        return True
    every = sum(counts.sum().item() for counts in ours.values())
    return float(f"{differing / every:.1e}")


# --- pictures


def save_simulators(path: str | Path, records: Sequence[dict]) -> None:
    """Draw images per second of each simulator on a logarithmic axis, a row per case.

    A line from the fastest other one to the event engine has their ratio.

    Parameters
    ----------
    path : str or Path
        The picture's file.
    records : sequence of dict
        Of one number of threads.
    """
    with chart(path, (10.5, 1.3 + 0.42 * len(records))) as (axis,):
        for row, record in enumerate(records):
            draw_ratio(axis, row, record)
        rows = range(len(records))
        for name, look in LOOKS.items():
            speeds = [record[name] or np.nan for record in records]
            if np.isnan(speeds).all():
                continue
            axis.plot(
                speeds,
                rows,
                look.marker,
                label=look.label,
                color=look.colour,
                mfc=look.inside,
                mew=1.4,
                ms=7.5,
                ls="",
            )
        label = f"images per second (log scale), threads: {records[0]['threads']}"
        axis.set(xscale="log", xlabel=label, ylim=(len(records) - 0.5, -0.6))
        words = "{network}, T = {timesteps}, batch {batch}"
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


def draw_ratio(axis: Axes, row: int, record: dict) -> None:
    """Draw the line from the fastest other one to the event engine, and the ratio."""
    best = max(record[peer] or 0 for peer in SIMULATORS)
    if not best:  # no other one is installed
        return
    ours = record["ours_event"]
    axis.plot((best, ours), [row, row], color=LOOKS["ours_event"].colour, lw=1.2, zorder=1)
    middle = (best * ours) ** 0.5  # on a logarithmic axis
    words = f"{ours / best:.1f} times"
    axis.text(middle, row - 0.08, words, ha="center", va="bottom", weight="bold")


if __name__ == "__main__":
    run_script(main)
