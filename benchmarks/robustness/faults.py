#!/usr/bin/env python3
"""Try whether the tests, or the recorded command lines, notice a slip in the code.

    python benchmarks/robustness/faults.py draw --seed 1 --count 50 > FAULTS.json
    python benchmarks/robustness/faults.py reach FAULTS.json > TESTS.json
    python benchmarks/robustness/frozen.py write RECORD --part commands
    python benchmarks/robustness/faults.py try FAULTS.json \
        --tests TESTS.json --record RECORD

`draw` writes a list of faults before any of them is tried. Each is one small change of
one function, as a rewriting might make it by mistake: see `KINDS`. The places are drawn
by `--seed` over all functions of self_models, wfeedback and the scripts.

`reach` runs all tests once, in a worktree in which each of these functions notes the
test that calls it, also in processes that the test starts. A few files of tests suffice
for a quick look: `reach FAULTS.json --in tests/studies/test_link.py`.

`try` first runs the tests that it has chosen without a fault, in a worktree whose files
differ by a comment. It leaves out those that fail there, that are not found, or that
take longer than LONGEST, and says which. Then it puts each fault into a worktree of its
own, and runs the quickest tests that call the function, until one fails. If none does,
it compares the command lines with the record, made on this machine. Each fault is
printed as one line of JSON with what noticed it; lines that are in --results already
are not tried again. All three work on the revision that is checked out, without changes
that are not committed.
"""

import argparse
import ast
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("self_models/**/*.py", "wfeedback/**/*.py", "*.py")
NOT_ROOMS = ("setup.py", "commands/demo.py")  # they build or drive, and have no rules
MOST_TESTS = 60  # of a fault, the quickest
NO_TEST = "none"
MOST_OF_ONE = 3  # of one test function, which may have hundreds of parameters
LONGEST = 60  # seconds that a test may take without a fault; a longer one is left out
# So much longer than without the fault a test run may take. Else it counts as one that
# noticed: it does not end any more.
SECONDS = 300
NOT_OTHERS = ("-m", "not others")  # nor tests that need other simulators

# A module that functions with a note import, outside the worktree. It writes a line at
# the first call in a test: some functions are called a million times.
NOTING = '''
import os

noted = set()


def note(number):
    """Write down which test has called a function."""
    test = os.environ.get("PYTEST_CURRENT_TEST", {no_test!r})
    if (number, test) not in noted:
        noted.add((number, test))
        with open({notes!r}, "a") as file:
            file.write(f"{{number}}\\t{{test}}\\n")
'''


@dataclass
class Fault:
    """One small change of one function.

    Attributes
    ----------
    file : str
        Path in the repository.
    function : str
        Name of the function.
    lines : list of int
        First and last line of the function.
    kind : str
        One of `KINDS`.
    start, end : int
        The bytes of the file that are replaced.
    before, after : str
        The text there, and what takes its place.
    """

    file: str
    function: str
    lines: list[int]
    kind: str
    start: int
    end: int
    before: str
    after: str


# --- the kinds: each yields (node that is replaced, text that takes its place)

SIGNS = {ast.Add: "-", ast.Sub: "+"}
JOINED = (ast.JoinedStr, ast.List, ast.Tuple)  # of which + makes no sum
NEIGHBOURS = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}


def wrong_sign(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str]]:
    """Yield sums that become differences and the reverse, and a minus that is lost."""
    for node in ast.walk(function):
        if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
            parts = list(ast.walk(node))
            texts = [part for part in parts if isinstance(getattr(part, "value", None), str)]
            if texts or any(isinstance(part, JOINED) for part in parts):
                continue
            left = ast.unparse(node.left)
            right = ast.unparse(node.right)
            yield node, f"({left} {SIGNS[type(node.op)]} ({right}))"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield node, f"({ast.unparse(node.operand)})"


def off_by_one(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str]]:
    """Yield whole numbers that become one larger, and bounds that take in their end."""
    for node in ast.walk(function):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            yield node, str(node.value + 1)
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            operator = NEIGHBOURS.get(type(node.ops[0]))
            if operator:
                left = ast.unparse(node.left)
                right = ast.unparse(node.comparators[0])
                yield node, f"({left} {operator} {right})"


def exchanged(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str]]:
    """Yield a variable in whose place another one of the function is read."""
    assigned = {argument.arg for argument in function.args.args} - {"self", "cls"}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assigned.add(node.id)
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in assigned:
            for other in sorted(assigned - {node.id}):
                yield node, other


def dropped_argument(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str]]:
    """Yield calls that lose a keyword argument, or the last of several others."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        for number in range(len(node.keywords)):
            kept = node.keywords[:number] + node.keywords[number + 1 :]
            yield node, ast.unparse(ast.Call(node.func, node.args, kept))
        if len(node.args) > 1:
            yield node, ast.unparse(ast.Call(node.func, node.args[:-1], node.keywords))


def dropped_condition(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str]]:
    """Yield conditions that always hold, and parts of `and` and `or` that are lost."""
    for node in ast.walk(function):
        if isinstance(node, ast.If | ast.IfExp):
            yield node.test, "True"
        if isinstance(node, ast.BoolOp):
            for number in range(len(node.values)):
                kept = node.values[:number] + node.values[number + 1 :]
                joined = kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)
                yield node, f"({ast.unparse(joined)})"


def wrong_default(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str]]:
    """Yield defaults of parameters that are another value of their type."""
    arguments = function.args
    for node in [*arguments.defaults, *arguments.kw_defaults]:
        if not isinstance(node, ast.Constant):
            continue
        if isinstance(node.value, bool):
            yield node, str(not node.value)
        elif isinstance(node.value, int | float):
            yield node, repr(2 * node.value + 1)
        elif isinstance(node.value, str):
            yield node, repr(f"{node.value}_")


KINDS = {
    "wrong sign": wrong_sign,
    "off by one": off_by_one,
    "another variable": exchanged,
    "argument dropped": dropped_argument,
    "condition dropped": dropped_condition,
    "wrong default": wrong_default,
}


# --- drawing


def functions_of(path: Path) -> list[ast.FunctionDef]:
    """Return the functions of a file, with those inside classes and other functions."""
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def byte_offset(source: bytes, line: int, column: int) -> int:
    """Return the place of a line (from 1) and column (in bytes) in a source text."""
    lines = source.splitlines(keepends=True)
    return sum(len(each) for each in lines[: line - 1]) + column


def fault_of(path: Path, function: ast.FunctionDef, kind: str, node: ast.AST, after: str) -> Fault:
    """Describe the fault that replaces a node of a function by a text."""
    source = path.read_bytes()
    start = byte_offset(source, node.lineno, node.col_offset)
    end = byte_offset(source, node.end_lineno, node.end_col_offset)
    return Fault(
        file=str(path.relative_to(REPOSITORY)),
        function=function.name,
        lines=[function.lineno, function.end_lineno],
        kind=kind,
        start=start,
        end=end,
        before=source[start:end].decode(),
        after=after,
    )


def is_where_it_says(fault: Fault, node: ast.AST) -> bool:
    """Return whether the text of a fault is its node.

    Python 3.11 gives wrong places for what stands inside an f-string.
    """
    try:
        there = ast.parse(f"({fault.before})", mode="eval").body
    except SyntaxError:
        return False
    return ast.dump(there) == ast.dump(node)


def draw(seed: int, count: int) -> list[Fault]:
    """Draw faults over all functions, with each kind equally often.

    Parameters
    ----------
    seed : int
        Of the random choices.
    count : int
        Number of faults.

    Returns
    -------
    list of Fault
        No two in the same place.
    """
    generator = random.Random(seed)
    places = []
    for pattern in ROOMS:
        for path in sorted(REPOSITORY.glob(pattern)):
            if path.name not in NOT_ROOMS:
                places += [(path, function) for function in functions_of(path)]
    faults = []
    taken = set()
    while len(faults) < count:
        kind = list(KINDS)[len(faults) % len(KINDS)]
        path, function = generator.choice(places)
        changes = list(KINDS[kind](function))
        if not changes:
            continue  # this function has no place for this kind: draw another one
        node, after = generator.choice(changes)
        fault = fault_of(path, function, kind, node, after)
        is_new = (fault.file, fault.start) not in taken
        if is_new and is_where_it_says(fault, node):
            taken.add((fault.file, fault.start))
            faults.append(fault)
    return faults


# --- trying


@contextmanager
def worktree() -> Iterator[Path]:
    """Make a worktree of the revision that is checked out, and remove it at the end."""
    git = ["git", "-C", str(REPOSITORY), "worktree"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tree"
        subprocess.run([*git, "add", "-q", "--detach", str(folder), "HEAD"], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def reach(faults: list[Fault], files: list[str]) -> dict[str, list[str]]:
    """Run tests once, and find those that call the functions of faults.

    Parameters
    ----------
    faults : list of Fault
        The faults, which are not put in.
    files : list of str
        Files of tests; all if there are none.

    Returns
    -------
    dict of str to list of str
        Number of a fault -> the tests that call its function, the quickest first.
    """
    with worktree() as folder:
        notes = folder.parent / "notes_of_functions.txt"
        module = NOTING.format(no_test=NO_TEST, notes=str(notes))
        (folder.parent / "noted_functions.py").write_text(module)
        # From the end of each file, so that the lines before stay where they are.
        for number in sorted(range(len(faults)), key=lambda number: -faults[number].start):
            add_note(folder / faults[number].file, faults[number], number, folder.parent)
        _, text, seconds = run_tests(["-n", "2", *NOT_OTHERS, *files], folder, seconds=None)
        print(text, file=sys.stderr)  # tests should pass: a failed one reaches less
        lines = notes.read_text().splitlines() if notes.exists() else []

    tests = {str(number): set() for number in range(len(faults))}
    for line in lines:
        number, test = line.split("\t")
        if test != NO_TEST:  # else it was called while tests were collected
            tests[number].add(test.rsplit(" (", 1)[0])  # without "(call)"
    ordered = {}
    for number, found in tests.items():
        ordered[number] = sorted(found, key=lambda test: (seconds.get(test, 0.0), test))
    return ordered


def add_note(path: Path, fault: Fault, number: int, folder: Path) -> None:
    """Let the function of a fault note which test calls it.

    pytest has the name of the running test in the environment, which processes that a
    test starts have, too. The module that notes it is found in `folder`, wherever the
    function runs.
    """
    note = (
        f"import sys as _sys; _sys.path.append({str(folder)!r}); import noted_functions; "
        f"_sys.path.pop(); noted_functions.note({number})"
    )
    lines = path.read_text().splitlines(keepends=True)
    first_line, last_line = fault.lines
    for function in functions_of(path):
        is_it = function.name == fault.function and first_line <= function.lineno <= last_line
        if is_it:
            statement = first_statement_after_docstring(function)
            indentation = " " * statement.col_offset
            lines.insert(statement.lineno - 1, f"{indentation}{note}\n")
            break
    path.write_text("".join(lines))


def first_statement_after_docstring(function: ast.FunctionDef) -> ast.stmt:
    """Return a function's first statement that does something."""
    has_docstring = ast.get_docstring(function) is not None and len(function.body) > 1
    return function.body[1 if has_docstring else 0]


def quickest(tests: list[str]) -> list[str]:
    """Return the first of tests, which are sorted, at most three of one function."""
    found = []
    of_function = Counter()
    for test in tests:
        function = test.split("[")[0]
        of_function[function] += 1
        if of_function[function] <= MOST_OF_ONE:
            found.append(test)
    return found[:MOST_TESTS]


def run(command: list, folder: Path, seconds: float | None = SECONDS) -> tuple[int, str]:
    """Run a command in a folder. Returns its exit status, and what it has printed."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": str(folder),
    }
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return 1, f"FAILED: did not end within {seconds} seconds"
    return done.returncode, done.stdout


def run_tests(
    arguments: list[str], folder: Path, seconds: float | None
) -> tuple[int, str, dict[str, float]]:
    """Run pytest in a folder.

    Parameters
    ----------
    arguments : list of str
        Of pytest, such as names of tests.
    folder : Path
        A worktree.
    seconds : float or None
        After which it is stopped.

    Returns
    -------
    status : int
        Of the process.
    text : str
        What it has printed.
    seconds : dict of {str: float}
        Name of a test -> how long it took, with what had to be set up for it.
    """
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    shown = ["--durations=0", "-vv", "-rfEp"]  # at the end, what failed and what passed
    status, text = run([*pytest, *shown, *arguments], folder, seconds)
    took = Counter()
    durations = r"^([\d.]+)s (?:setup|call|teardown) +(\S.*)$"
    for duration, test in re.findall(durations, text, re.MULTILINE):
        took[test.strip()] += float(duration)
    return status, text, dict(took)


def run_without_fault(faults: list[Fault], tests: list[str]) -> dict[str, float]:
    """Run tests without a fault, and say which of them are left out, and why.

    Parameters
    ----------
    faults : list of Fault
        Their files get a comment at the end, so that a test that fails on any change
        fails here, too.
    tests : list of str
        Names of tests.

    Returns
    -------
    dict of {str: float}
        Name of a test that is kept -> the seconds that it took.
    """
    left_out = {}  # test -> why
    with worktree() as folder:
        for file in sorted({fault.file for fault in faults}):
            with open(folder / file, "a") as opened:
                opened.write("# There is no fault in this file.\n")
        collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts="]
        _, listed = run(collect, folder, seconds=None)
        found = set(listed.splitlines())
        for test in tests:
            if test not in found:
                left_out[test] = "there is no such test in another folder"
        known = [test for test in tests if test in found]
        text = ""
        seconds = {}
        if known:
            _, text, seconds = run_tests(known, folder, seconds=None)
    passed = set(re.findall(r"^PASSED (.*)$", text, re.MULTILINE))
    for test in known:
        if test not in passed:
            left_out[test] = "it fails, or is skipped, without a fault"
        elif seconds.get(test, 0.0) > LONGEST:
            left_out[test] = f"it takes {seconds[test]:.0f} seconds"
    print(f"{len(tests)} tests chosen, {len(left_out)} left out", file=sys.stderr)
    for test, why in left_out.items():
        print(f"left out: {test}: {why}", file=sys.stderr)
    return {test: seconds.get(test, 0.0) for test in known if test not in left_out}


def what_notices(folder: Path, tests: dict[str, float], record: str) -> str:
    """Return the test or recorded command that notices the fault in a worktree.

    tests: name of a test -> the seconds that it takes without the fault.
    """
    if tests:
        limit = SECONDS + sum(tests.values())
        status, text, _ = run_tests(["-x", *tests], folder, limit)
        if status == 1:
            failed = re.search(r"^(?:FAILED|ERROR):? (.*?)(?: - |$)", text, re.MULTILINE)
            return failed[1] if failed else "tests"
        if status != 0:
            return f"tests could not run: {text.strip().splitlines()[-1]}"
    if record:
        frozen = [sys.executable, "benchmarks/robustness/frozen.py", "compare", record]
        status, text = run([*frozen, "--part", "commands"], folder)
        if status != 0:
            return f"recorded commands: {' | '.join(text.strip().splitlines()[:4])[:300]}"
    return ""


def try_fault(fault: Fault, tests: dict[str, float], record: str) -> dict:
    """Put a fault into a worktree, and return it with `noticed_by`, which may be "".

    tests: those that are run, see `what_notices`.
    """
    with worktree() as folder:
        path = folder / fault.file
        source = path.read_bytes()
        if source[fault.start : fault.end].decode() != fault.before:
            return {**asdict(fault), "noticed_by": "the file has changed: draw again"}
        changed = source[: fault.start] + fault.after.encode() + source[fault.end :]
        path.write_bytes(changed)
        noticed_by = what_notices(folder, tests, record)
        return {**asdict(fault), "tried": len(tests), "noticed_by": noticed_by}


def main() -> None:
    """Draw faults, find the tests that reach them, or try them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="write a list of faults to standard output")
    drawing.add_argument("--seed", type=int, required=True)
    drawing.add_argument("--count", type=int, default=50)
    reaching = commands.add_parser("reach", help="find the tests that call their functions")
    reaching.add_argument("faults", type=Path, metavar="FAULTS.json")
    reaching.add_argument("--in", nargs="+", default=[], dest="files", metavar="TESTS.py")
    trying = commands.add_parser("try", help="try the faults of a list")
    trying.add_argument("faults", type=Path, metavar="FAULTS.json")
    trying.add_argument("--tests", type=Path, required=True, metavar="TESTS.json")
    trying.add_argument("--record", default="", metavar="FILE", help="absolute path")
    trying.add_argument("--results", type=Path, default=None, metavar="FILE.jsonl")
    trying.add_argument("--part", default="0/1", metavar="I/N", help="each Nth fault, from I")
    args = parser.parse_args()

    if args.command == "draw":
        print(json.dumps([asdict(fault) for fault in draw(args.seed, args.count)], indent=1))
        return

    faults = [Fault(**row) for row in json.loads(args.faults.read_text())]
    if args.command == "reach":
        print(json.dumps(reach(faults, args.files), indent=1))
        return

    tests = json.loads(args.tests.read_text())
    done = set()
    if args.results and args.results.is_file():
        for line in args.results.read_text().splitlines():
            row = json.loads(line)
            done.add((row["file"], row["start"], row["after"]))
    first, step = map(int, args.part.split("/"))
    chosen = {}  # number of a fault -> tests
    for number in range(first, len(faults), step):
        fault = faults[number]
        if (fault.file, fault.start, fault.after) not in done:
            chosen[number] = quickest(tests[str(number)])
    of_all = sorted(set().union(*chosen.values()))
    seconds = run_without_fault([faults[number] for number in chosen], of_all)
    for number, names in chosen.items():
        kept = {test: seconds[test] for test in names if test in seconds}
        row = try_fault(faults[number], kept, args.record)
        line = json.dumps({**row, "tests": len(tests[str(number)])})
        print(line, flush=True)
        if args.results:
            with open(args.results, "a") as file:
                file.write(f"{line}\n")


if __name__ == "__main__":
    main()
