#!/usr/bin/env python3
"""Check that all engines run a network as its step() says, with any parts and settings.

These are a thousand cases of tests/self_models/test_engines.py. One JSON object is
printed: cases `tried`; those `run`, whose settings go together; of these how many
`by_gate` and `by_engine`; `failures`, each with its case and the difference. With
failures the exit status is 1. The same seed draws the same cases. `OMP_NUM_THREADS=1
python benchmarks/robustness/engines.py`: three minutes of one core.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/wfeedback"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/self_models"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wfeedback.idle_threads  # noqa: F401  (before torch)

import test_engines

from self_models.settings import COUNT, WHOLE
from wfeedback.command_line.parser import Parser, flag_type
from wfeedback.command_line.scripts import run_script


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, and print what came of them."""
    parser = Parser(__doc__)
    parser.add_argument("--cases", type=flag_type(COUNT), default=1000, metavar="N", help="to try")
    parser.add_argument(
        "-s", "--seed", type=flag_type(WHOLE), default=0, help="the number of the first"
    )
    args = parser.parse_args(argv)
    found = {
        "tried": args.cases,
        "run": 0,
        "by_gate": Counter(),
        "by_engine": Counter(),
        "failures": [],
    }
    for case, model in test_engines.networks(range(args.seed, args.seed + args.cases)):
        try:
            found["by_engine"].update(test_engines.check_case(case, model))
        except Exception as error:
            found["failures"].append({"case": case, "error": f"{type(error).__name__}: {error}"})
        found["run"] += 1
        found["by_gate"][case["gate"]] += 1
    print(json.dumps(found))
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    run_script(main)
