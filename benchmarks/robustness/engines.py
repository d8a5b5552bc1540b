#!/usr/bin/env python3
"""Do all engines run a network as its step says, whatever its parts and settings? A thousand cases of tests/test_engines.py.

One JSON object: cases `tried`; those `run`, whose settings go together; of these how many `by_gate` and `by_engine`; `failures`,
each with its case and what differs, which should be none: else the exit status is 1. The same seed draws the same cases.
`OMP_NUM_THREADS=1 python benchmarks/robustness/engines.py`: two minutes of one core.
"""

import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from self_models.basics.settings import COUNT, WHOLE

import hypothesis
import test_engines


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--cases", type=typed(COUNT), default=1000, metavar="N", help="to run")
    parser.add_argument("-s", "--seed", type=typed(WHOLE), default=0, help="of the cases")
    args = parser.parse_args(argv)
    found = {"tried": 0, "run": 0, "by_gate": Counter(), "by_engine": Counter(), "failures": []}

    def check(case):
        found["tried"] += 1
        try:
            found["by_engine"].update(test_engines.check_case(case))
        except hypothesis.errors.UnsatisfiedAssumption:
            raise  # its settings do not go together
        except Exception as error:
            found["failures"].append({"case": case, "error": f"{type(error).__name__}: {error}"})
        found["run"] += 1
        found["by_gate"][case["gate"]] += 1

    options = {"max_examples": args.cases, "deadline": None, "database": None, "phases": [hypothesis.Phase.generate]}
    settings = hypothesis.settings(**options, suppress_health_check=list(hypothesis.HealthCheck))
    settings(hypothesis.seed(args.seed)(hypothesis.given(test_engines.CASES)(check)))()
    print(json.dumps(found))
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    run_script(main)
