#!/usr/bin/env python3
"""Check that random networks send the same spikes by all ways.

The checks are those of tests/, over any number of seeds:

- --part graphs: the kernel against step() on random NIR graphs, by vectors, by plain
  loops and as a folder of C (tests/wfeedback/test_graph.py).
- --part traced: all engines on random ANNs with each update
  (tests/self_models/test_tracing.py).
- --part c: random networks as C in all forms, under the sanitisers
  (tests/wfeedback/test_c_export.py).
- --part streams: streams cut, saved and run in any way
  (tests/wfeedback/test_stream.py).
- --part counts: operations against a plain recount (tests/self_models/test_counts.py).

All engines on random networks: engines.py.

A JSON object per part: cases `run`; `failures`, each with its case and the difference.
With failures the exit status is 1. The same seed draws the same cases.
`OMP_NUM_THREADS=1 python benchmarks/robustness/random_networks.py`: some minutes of one
core.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/wfeedback"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/self_models"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from wfeedback.command_line.parser import Parser, flag_type  # noqa: I001  (wfeedback before torch)
from wfeedback.command_line.scripts import run_script
from self_models.settings import COUNT, WHOLE

import test_c_export
import test_counts
import test_engines
import test_graph
import test_stream
import test_tracing


Check = Callable[[Path], object]  # of one case; it takes an empty folder


def graph_cases(seeds: Iterable[int]) -> Iterator[tuple[dict, Check]]:
    """Yield (case, its check) for each seed."""
    for seed in seeds:
        yield {"seed": seed}, lambda folder, seed=seed: test_graph.check_graph(seed, folder)


def traced_cases(seeds: Iterable[int]) -> Iterator[tuple[dict, Check]]:
    """Yield (case, its check) for each seed and update."""
    for seed, update in product(seeds, test_tracing.UPDATES):
        case = {"seed": seed, "update": update}
        yield case, lambda folder, case=case: test_tracing.check_events(**case)


def c_cases(seeds: Iterable[int]) -> Iterator[tuple[dict, Check]]:
    """Yield (case, its check) for each seed whose network C runs, and each form."""
    for seed in seeds:
        if not test_c_export.runs_in_c(seed):
            continue
        for form in test_c_export.FORMS:
            case = {"number": seed, "form": form}
            yield case, lambda folder, case=case: test_c_export.check_in_c(**case, folder=folder)


def stream_cases(seeds: Iterable[int]) -> Iterator[tuple[dict, Check]]:
    """Yield (case, its check) for each seed whose network streams."""
    for case, model in test_stream.streaming(seeds):
        yield case, partial(check_here, test_stream.check_stream, case, model)


def count_cases(seeds: Iterable[int]) -> Iterator[tuple[dict, Check]]:
    """Yield (case, its check) for each seed that makes a network."""
    for case, model in test_engines.networks(seeds):
        yield case, partial(check_here, test_counts.check_counts, case, model)


def check_here(
    check: Callable[[dict, object], object], case: dict, model: object, folder: Path
) -> None:
    """Check a network without writing anything into the folder."""
    check(case, model)


PARTS = {
    "graphs": graph_cases,
    "traced": traced_cases,
    "c": c_cases,
    "streams": stream_cases,
    "counts": count_cases,
}


def failure_of(case: dict, check: Check) -> dict | None:
    """Run a check, and return its failure if it fails."""
    try:
        with TemporaryDirectory() as folder:
            check(Path(folder))
    except Exception as error:
        return {"case": case, "error": f"{type(error).__name__}: {error}"}
    return None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the parts, and print what came of each."""
    parser = Parser(__doc__)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="which")
    parser.add_argument(
        "--seeds", type=flag_type(COUNT), default=120, metavar="N", help="of each part"
    )
    parser.add_argument("-s", "--seed", type=flag_type(WHOLE), default=0, help="the first")
    args = parser.parse_args(argv)
    has_failed = False
    for part in args.part:
        count = 0
        failures = []
        for case, check in PARTS[part](range(args.seed, args.seed + args.seeds)):
            count += 1
            failure = failure_of(case, check)
            if failure:
                failures.append(failure)
        has_failed |= bool(failures)
        print(json.dumps({"part": part, "run": count, "failures": failures}), flush=True)
    sys.exit(has_failed)


if __name__ == "__main__":
    run_script(main)
