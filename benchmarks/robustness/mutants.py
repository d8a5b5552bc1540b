#!/usr/bin/env python3
"""Do the tests notice generated mutants of a room's code? mutmut on all of its mutants, or on a random sample.

mutmut's own output goes to standard error. One JSON object: `faults`, how many mutants there are; how many were `tried`, `killed`
(or timed out), `survived`, or are reached by no test, with the names of the last two for `mutmut show NAME`; seconds. Rooms and
their tests are in pyproject.toml, [tool.mutmut.rooms]. The work is done in mutants/. The room's tests run once first, to find
which functions they reach; a mutant then takes a second to a minute.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import time
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ENDS = {"killed": ("killed", "timeout", "segfault"), "survived": ("survived",), "no_tests": ("no tests",)}


def main(argv=None):
    """Imports nothing of the project, so that the tests find its mutated copy."""
    rooms = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["mutmut"]["rooms"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", choices=list(rooms), metavar="ROOM", help=", ".join(rooms))
    parser.add_argument("--sample", type=int, metavar="N", help="faults to try, at random; default: all")
    parser.add_argument("-s", "--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="faults that are tried at a time")
    args, began = parser.parse_args(argv), time.perf_counter()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.chdir(REPOSITORY)
    found = tried(args.room, rooms[args.room], args)
    record = {"room": args.room, "seed": args.seed, **found, "seconds": round(time.perf_counter() - began)}
    print(json.dumps(record, ensure_ascii=False), file=out)


def tried(room, tests, args):
    """The JSON object of these mutants. tests: pytest's arguments."""
    from mutmut import __main__ as mutmut

    mutmut.config().only_mutate = [f"{room}.py" if Path(f"{room}.py").exists() else f"{room}/*.py"]
    mutmut.config().pytest_add_cli_args_test_selection = tests
    shutil.rmtree("mutants", ignore_errors=True)  # mutmut takes another room's files for ones that are done
    mutmut.set_mutant_under_test("mutant_generation")
    with contextlib.redirect_stdout(io.StringIO()):
        mutmut.copy_src_dir()
        mutmut.create_mutants(1)
    names = sorted(faults_of(mutmut))
    chosen = names if args.sample is None else random.Random(args.seed).sample(names, min(args.sample, len(names)))
    mutmut._run(chosen, args.processes)
    ends = {name: mutmut.status_by_exit_code[code] for name, code in faults_of(mutmut).items() if name in chosen}
    found = {end: [name for name, status in ends.items() if status in statuses] for end, statuses in ENDS.items()}
    counts = {end: len(those) for end, those in found.items()}
    return {"faults": len(names), "tried": len(ends), **counts, "names": found["survived"] + found["no_tests"]}


def faults_of(mutmut):
    """Name -> how its tests ended, None where they have not run, of all mutants."""
    return {name: code for _, name, code in mutmut.collect_source_file_mutation_data(mutant_names=())[0]}


if __name__ == "__main__":
    main()
