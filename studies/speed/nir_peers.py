"""Measure how many recordings a second run NIR networks here, and in other simulators.

These are Norse, sinabs, snnTorch and SpikingJelly, all in one run. Networks: files, or
`recurrent` and `residual`, of random weights. Recordings: of N-MNIST, images of MNIST,
or random events, 5 % of the input in each timestep. There is one JSON object for each
network, simulator and batch size: recordings per second (the fastest of --repeats;
events already split into timesteps; a network that is fresh for each batch, made before
the clock starts), or why it fails. From results/nir_peers.jsonl
`PYTHONPATH=. python docs/explanation/performance.py` writes the page's table.

    wfeedback export quick_baseline --to nir --output vgg.nir
    python -m studies.speed.nir_peers cnn_sinabs.nir examples/nmnist.nir \
        vgg.nir braille.nir recurrent residual
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import contextlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import nir
import numpy as np
import torch

from self_models.data.events import rows_in
from self_models.data.sets import load_data
from self_models.errors import ModelError
from self_models.places import HOME
from self_models.settings import COUNT
from wfeedback.command_line.parser import Parser, flag_type
from wfeedback.command_line.scripts import run_script
from wfeedback.event.event_lists import check_recordings, event_frames
from wfeedback.nir.graph_snn import GraphSNN
from wfeedback.nir.reading import from_nir
from wfeedback.nir.simulators import SIMULATORS, outputs

# Of networks and events that are drawn
STEPS = 100
SIZE = 128  # neurons of a layer
SHARE = 0.05  # of the input neurons that send in a timestep
OUTPUTS = 10

OURS = "kernel"  # what records call our engines


def drawn(name: str) -> nir.NIRGraph:
    """Make a NIR graph of random weights: two layers of SIZE neurons, and the outputs.

    name: "recurrent", of the second layer with itself; or "residual", with a skip
    connection over the second layer.
    """
    draw = np.random.default_rng(0)
    nodes = {
        "input": nir.Input({"input": np.array([SIZE])}),
        "in": random_weights(draw, SIZE, SIZE),
        "a": leaky_neurons(SIZE),
        "w": random_weights(draw, SIZE, SIZE),
        "b": leaky_neurons(SIZE),
        "out": random_weights(draw, OUTPUTS, SIZE),
        "c": leaky_neurons(OUTPUTS),
        "output": nir.Output({"output": np.array([OUTPUTS])}),
    }
    edges = list(pairwise(nodes))  # a chain in this order
    if name == "residual":
        edges.append(("a", "b"))
    else:
        nodes["back"] = random_weights(draw, SIZE, SIZE)
        edges += [("b", "back"), ("back", "b")]
    return nir.NIRGraph(nodes, edges)


def leaky_neurons(count: int) -> nir.LIF:
    """Return neurons with a time constant of 10 ms and a threshold of 1."""
    return nir.LIF(
        tau=np.full(count, 1e-2),
        r=np.full(count, 10.0),
        v_leak=np.zeros(count),
        v_threshold=np.ones(count),
    )


def random_weights(draw: np.random.Generator, outputs: int, inputs: int) -> nir.Affine:
    """Draw weights from a normal distribution; the bias is 0."""
    weight = draw.normal(0, 2 / np.sqrt(inputs), (outputs, inputs))
    return nir.Affine(weight, np.zeros(outputs))


def events_for(model: GraphSNN, count: int) -> torch.Tensor:
    """Return recordings as counts of events, (count, T, ...), of the network's input.

    Recordings of N-MNIST or images of MNIST where its shape is theirs, else random
    events.
    """
    shape = model.graph.shape
    if shape == (2, 34, 34):
        return nmnist_events(model, count)
    if shape == (1, 28, 28):
        steps = int(model.metadata.get("timesteps", STEPS))
        images = load_data("MNIST")[2].images[:count, None] / 255
        rate = images.expand(-1, steps, -1, -1, -1)
    else:
        rate = torch.tensor(SHARE).expand(count, STEPS, *shape)
    return torch.bernoulli(rate, generator=torch.Generator().manual_seed(0))


def nmnist_events(model: GraphSNN, count: int) -> torch.Tensor:
    """Read the first recordings of data/nmnist, all as long as the longest."""
    shape = model.graph.shape
    paths = sorted((HOME / "data/nmnist").glob("*/*.bin"), key=lambda path: path.name)
    recordings = []
    longest = 0
    for path in paths[:count]:
        rows, steps = rows_in(path, shape, model.dt)
        recordings.append(rows)
        longest = max(longest, steps)
    recordings, _ = check_recordings(recordings, shape, longest)
    return event_frames(recordings, shape, longest)


def event_lists(events: torch.Tensor) -> list[np.ndarray]:
    """Return events (count, T, ...) as rows of each recording, for our engines."""
    lists = []
    for recording in events:
        places = recording.nonzero()
        counts = recording[recording > 0].long()
        lists.append(places.repeat_interleave(counts, 0).int().numpy())
    return lists


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "networks", nargs="+", metavar="NETWORK.nir", help="files, recurrent or residual"
    )
    counts = {"type": flag_type(COUNT), "metavar": "N"}
    parser.add_argument("--recordings", default=64, help="of each simulator", **counts)
    parser.add_argument("--batches", nargs="+", default=[1, 64], help="sizes of batches", **counts)
    parser.add_argument("--threads", default=2, help="of PyTorch", **counts)
    parser.add_argument(
        "--repeats", default=3, help="of each, of which the fastest counts", **counts
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the record of each network, simulator and batch size."""
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # what others say of the file
    warnings.simplefilter("ignore")
    for name in args.networks:
        if name in ("recurrent", "residual"):
            graph = drawn(name)
        else:
            graph = nir.read(name)
        try:
            model = from_nir(graph)
        except ModelError:  # time constants too short for steps of 1 ms
            model = from_nir(graph, dt=1e-4)
        events = events_for(model, args.recordings)
        about = {
            "network": Path(name).name,
            "recordings": len(events),
            "timesteps": events.shape[1],
            "threads": args.threads,
        }
        for simulator, batch in product((OURS, *SIMULATORS), args.batches):
            row = {**about, "simulator": simulator}
            if simulator == OURS:
                row["engine"] = "dense" if model.stays else "event"
                make = partial(our_run, model, events.shape[1])
                speed = timed(make, event_lists(events), batch, args.repeats)
            else:
                make = partial(peer_run, simulator, graph, model.dt)
                speed = timed(make, events, batch, args.repeats)
            print(json.dumps({**row, "batch": batch, **speed}), flush=True)


def our_run(model: GraphSNN, timesteps: int, batch: int) -> Callable:
    """Return a function that runs our network on lists of events of any batch size."""
    return lambda recordings: model(recordings, timesteps)


def peer_run(simulator: str, graph: nir.NIRGraph, dt: float, batch: int) -> Callable:
    """Return a function that runs a fresh network on events (batch, T, ...)."""
    network = SIMULATORS[simulator](graph, dt, batch)
    return lambda events: list(outputs(simulator, network, events))


@torch.no_grad()
def timed(
    make: Callable[[int], Callable], recordings: Sequence, batch: int, repeats: int
) -> dict[str, float | str]:
    """Measure the speed of a simulator.

    Parameters
    ----------
    make : callable
        From a batch size to the function that runs a network on so many recordings.
    recordings : Tensor or list
        What is to be run.
    batch : int
        How many at once.
    repeats : int
        How often all are run.

    Returns
    -------
    dict
        "recordings_per_second" in the fastest repeat; or "fails", with the error.
    """
    parts = [recordings[begin : begin + batch] for begin in range(0, len(recordings), batch)]
    seconds = []
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for _ in range(repeats):
                seconds_of_repeat = 0.0
                for part in parts:
                    run = make(len(part))
                    began = time.perf_counter()
                    run(part)
                    seconds_of_repeat += time.perf_counter() - began
                seconds.append(seconds_of_repeat)
    except Exception as error:  # whatever a simulator raises is what there is to say
        first_line = (str(error).strip().splitlines() or [""])[0]
        return {"fails": f"{type(error).__name__}: {first_line}"}
    return {"recordings_per_second": round(len(recordings) / min(seconds), 1)}


if __name__ == "__main__":
    run_script(main)
