#!/usr/bin/env python3
"""How many recordings a second run a NIR network here, and in Norse, sinabs, snnTorch and SpikingJelly, in one run?

One JSON object per simulator and batch size: recordings per second (the fastest of --repeats; files already read and split into
timesteps; a network that is fresh for each batch, made before the clock starts), how many are right, or why it fails. All have
--threads threads. `python benchmarks/speed/nir_peers.py examples/nmnist.nir data/nmnist`: a minute.
"""

import contextlib
import io
import json
import logging
import sys
import time
import warnings
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.events import rows_in
from harness.data.folders import labelled_recordings
from harness.measuring.simulators import SIMULATORS, outputs
from self_models.basics.settings import COUNT
from self_models.graph import frames_of, lists_of
from self_models.nir import from_nir

import nir
import torch


def summed(name, graph, batch, dt):
    """A simulator's run(events (B, T, ...)) -> what its network sends, (B, outputs), added up over the timesteps."""
    network = SIMULATORS[name](graph, dt, batch)

    def run(events):
        sent = list(outputs(name, network, events))
        return sum(sent) if len(sent) > 1 else sent[0].reshape(*events.shape[:2], -1).sum(1)

    return run


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("network", metavar="NETWORK.nir")
    parser.add_argument("folder", metavar="FOLDER", help="recordings, as run_nir.py takes them")
    counts = {"type": typed(COUNT), "metavar": "N"}
    parser.add_argument("--recordings", default=32, help="of each simulator", **counts)
    parser.add_argument("--batches", nargs="+", default=[1, 32], help="sizes of batches", **counts)
    parser.add_argument("--threads", default=2, help="of PyTorch", **counts)
    parser.add_argument("--repeats", default=3, help="of the kernel, whose runs are short", **counts)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # what others say of the file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, graph = from_nir(args.network), nir.read(args.network)
    found = labelled_recordings(args.folder)
    files = sorted((n, label, path) for label, paths in found.items() for n, path in enumerate(paths))[: args.recordings]
    labels = torch.tensor([int(label) for _, label, _ in files])
    rows, lengths = zip(*(rows_in(Path(path), model.graph.shape, model.dt) for _, _, path in files), strict=True)
    steps = max(lengths)
    events = frames_of(lists_of(list(rows), model.graph.shape, steps)[0], model.graph.shape, steps)
    for name, make, given in (
        ("kernel", lambda *_: lambda part: model(part, steps).logits, list(rows)),
        *((name, partial(summed, name), events) for name in SIMULATORS),
    ):
        for batch in args.batches:
            about = {"simulator": name, "batch": batch, "recordings": len(files), "timesteps": steps, "threads": args.threads}
            repeats = args.repeats if name == "kernel" else 1
            print(json.dumps(about | timed(make, given, labels, batch, (graph, model.dt), repeats)), flush=True)


@torch.no_grad()
def timed(make, given, labels, batch, of, repeats):
    """Recordings per second and how many are right, or the words with which it fails."""
    graph, dt = of
    fastest, right = float("inf"), 0
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            for _ in range(repeats):
                seconds, right = 0.0, 0
                for begin in range(0, len(given), batch):
                    part = given[begin : begin + batch]
                    run = make(graph, len(part), dt)
                    began = time.perf_counter()
                    logits = run(part)
                    seconds += time.perf_counter() - began
                    right += (logits.reshape(len(part), -1).argmax(1) == labels[begin : begin + batch]).sum().item()
                fastest = min(fastest, seconds)
    except Exception as error:  # whatever a simulator raises is what there is to say
        return {"fails": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"}
    return {"recordings_per_second": round(len(given) / fastest, 1), "right": right}


if __name__ == "__main__":
    run_script(main)
