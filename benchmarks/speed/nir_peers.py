#!/usr/bin/env python3
"""How many recordings a second run NIR networks here, and in Norse, sinabs, snnTorch and SpikingJelly, in one run?

Networks: files, or `recurrent` and `residual`, of random weights. Recordings: of N-MNIST, images of MNIST, or random events, 5 %
of the input in each timestep. One JSON object for each network, simulator and batch size: recordings per second (the fastest of
--repeats; events already split into timesteps; a network that is fresh for each batch, made before the clock starts), or why it
fails. From results/nir_peers.jsonl `PYTHONPATH=. python docs/explanation/performance.py` writes the page's table.

    python export.py quick_baseline --to nir --output vgg.nir
    python benchmarks/speed/nir_peers.py cnn_sinabs.nir examples/nmnist.nir vgg.nir braille.nir recurrent residual
"""

import contextlib
import io
import json
import logging
import sys
import time
import warnings
from functools import partial
from itertools import pairwise, product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import nir
import numpy as np
import torch

from harness.command_line.parser import Parser, flag_type
from harness.command_line.scripts import run_script
from harness.measuring.simulators import SIMULATORS, outputs
from self_models.basics import HOME, ModelError
from self_models.basics.settings import COUNT
from self_models.data.events import rows_in
from self_models.data.sets import load_data
from self_models.guests.nir.event_lists import check_recordings, event_frames
from self_models.guests.nir.reading import from_nir

STEPS, SIZE, SHARE = 100, 128, 0.05  # of networks and events that are drawn


def drawn(name):
    """A NIR graph of two layers of SIZE neurons, and 10 outputs: 'recurrent', or 'residual', with a skip over the second."""
    draw = np.random.default_rng(0)
    lif = lambda n: nir.LIF(  # noqa: E731
        tau=np.full(n, 1e-2), r=np.full(n, 10.0), v_leak=np.zeros(n), v_threshold=np.ones(n)
    )
    weigh = lambda n, m: nir.Affine(draw.normal(0, 2 / np.sqrt(m), (n, m)), np.zeros(n))  # noqa: E731
    nodes = {
        "input": nir.Input({"input": np.array([SIZE])}),
        "in": weigh(SIZE, SIZE),
        "a": lif(SIZE),
        "w": weigh(SIZE, SIZE),
    }
    nodes |= {
        "b": lif(SIZE),
        "out": weigh(10, SIZE),
        "c": lif(10),
        "output": nir.Output({"output": np.array([10])}),
    }
    edges = [*pairwise(nodes)]
    if name == "residual":
        return nir.NIRGraph(nodes, [*edges, ("a", "b")])
    return nir.NIRGraph(
        nodes | {"back": weigh(SIZE, SIZE)}, [*edges, ("b", "back"), ("back", "b")]
    )


def events_for(model, count):
    """So many recordings (B, T, ...) of a network: counts of events."""
    shape, draw = model.graph.shape, torch.Generator().manual_seed(0)
    if shape == (2, 34, 34):
        paths = sorted((HOME / "data/nmnist").glob("*/*.bin"), key=lambda path: path.name)[:count]
        rows, steps = zip(*(rows_in(path, shape, model.dt) for path in paths), strict=True)
        return event_frames(check_recordings(list(rows), shape, max(steps))[0], shape, max(steps))
    rate = torch.tensor(SHARE).expand(count, STEPS, *shape)
    if shape == (1, 28, 28):
        images = load_data("MNIST")[2].images[:count, None] / 255
        rate = images.expand(-1, int(model.metadata.get("timesteps", STEPS)), -1, -1, -1)
    return torch.bernoulli(rate, generator=draw)


def runner(simulator, graph, dt, batch):
    """A simulator's run(events (B, T, ...)), which gives what its network sends."""
    network = SIMULATORS[simulator](graph, dt, batch)
    return lambda events: list(outputs(simulator, network, events))


def main(argv=None):
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
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # what others say of the file
    warnings.simplefilter("ignore")
    for name in args.networks:
        graph = drawn(name) if name in ("recurrent", "residual") else nir.read(name)
        try:
            model = from_nir(graph)
        except ModelError:  # time constants too short for steps of 1 ms
            model = from_nir(graph, dt=1e-4)
        events = events_for(model, args.recordings)
        steps = events.shape[1]
        rows = [
            each.nonzero().repeat_interleave(each[each > 0].long(), 0).int().numpy()
            for each in events
        ]
        about = {
            "network": Path(name).name,
            "recordings": len(rows),
            "timesteps": steps,
            "threads": args.threads,
        }
        for simulator, batch in product(("kernel", *SIMULATORS), args.batches):
            if simulator == "kernel":
                engine = {"engine": "dense" if model.stays else "event"}
                speed = timed(
                    lambda count: lambda part: model(part, steps),  # noqa: B023
                    rows,
                    batch,
                    args.repeats,
                )
            else:
                engine, speed = (
                    {},
                    timed(
                        partial(runner, simulator, graph, model.dt), events, batch, args.repeats
                    ),
                )
            print(
                json.dumps(about | {"simulator": simulator, **engine, "batch": batch, **speed}),
                flush=True,
            )


@torch.no_grad()
def timed(make, given, batch, repeats):
    """Recordings per second of make(batch size)(recordings), or the words with which it fails."""
    seconds, parts = (
        [0.0] * repeats,
        [given[begin : begin + batch] for begin in range(0, len(given), batch)],
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for repeat, part in product(range(repeats), parts):
                run = make(len(part))
                began = time.perf_counter()
                run(part)
                seconds[repeat] += time.perf_counter() - began
    except Exception as error:  # whatever a simulator raises is what there is to say
        return {"fails": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
    return {"recordings_per_second": round(len(given) / min(seconds), 1)}


if __name__ == "__main__":
    run_script(main)
