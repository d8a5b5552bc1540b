"""How a script runs, once for each of --seeds, and how it fails.

A failure is one clear line on standard error, and an exit status other than 0.
"""

import wfeedback.idle_threads

import ast
import ctypes
import importlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, NoReturn

import torch

from self_models.errors import ModelError, UserError
from self_models.places import HOME, ROOT
from self_models.settings import choices
from wfeedback.arguments import Arguments, set_found, take_over
from wfeedback.command_line.recipes import STARTS
from wfeedback.runs import ranks
from wfeedback.runs.ranks import end_at_once, handling
from wfeedback.runs.run import (
    COMMANDS,
    GROUPS,
    Paths,
    asked_name,
    folder_of_run,
    is_script,
    numbered,
    program,
    run_name,
)
from wfeedback.training.last_checkpoint import Finished

MEMORY_ADVICE = (
    "a smaller --batch_size, fewer --timesteps; in training --bptt_segments auto; "
    "in conversion fewer --balance_images"
)
OF_ONE_RUN = {"seed", "results_json"}  # flags

# Numbers of the options of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD = -1
TOP_PAD = -2
MMAP_MAX = -4


class SeedsFailed(UserError):
    """Some runs of --seeds failed, and the others are done. A line tells of each."""


# --- one script


def run_script(main: Callable[[], object]) -> None:
    """Run ``main`` as a script, as one of several ranks if torchrun started it.

    A UserError or ModelError, and full memory, become one line and exit status 2.
    SIGINT and SIGTERM end with 130 and 143; a lost rank, and seeds of several that
    failed, with 1. Any other error is a fault in the program, and keeps its traceback.

    Parameters
    ----------
    main : callable
        Takes no arguments.
    """
    keep_freed_memory()
    with handling(end_at_once), ranks.process_group():
        try:
            main()
        except SeedsFailed as error:
            for line in str(error).splitlines():
                print(f"{error_prefix()}: {line}", file=sys.stderr)
            sys.exit(1)
        except (UserError, ModelError) as error:
            fail(str(error), 2)
        except (RuntimeError, MemoryError) as error:
            fail_for(error)
        except BrokenPipeError:
            # The reader of our output, say head, has gone: nothing is left to tell it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt as stop:
            if ranks.is_first():
                print(str(stop) or "interrupted", file=sys.stderr)
            sys.exit(128 + getattr(stop, "number", signal.SIGINT))


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    Without this, glibc returns blocks above 32 MB, and the system clears them anew: 7
    to 27 % of a training step's time (studies/notebook/training_speed.md).
    """
    options = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 2**26}
    with suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)


def fail_for(error: Exception) -> NoReturn:
    """End the script for full memory, or a lost rank. Raise any other error again."""
    memory_line = line_on_memory(error)
    if memory_line:
        fail(memory_line, 2)
    if ranks.lost_contact(error):
        reason = in_one_line(error).split(". ")[0][:200]
        fail(
            f"rank {ranks.rank()} lost the others: one has died, or the network failed "
            f"({reason}). The last checkpoint of a training run is kept: --resume goes on, "
            "with any number of ranks",
            1,
        )
    raise error


def line_on_memory(error: Exception) -> str:
    """Return what to say of an error that full memory has raised, "" of another."""
    reason = in_one_line(error)
    is_on_gpu = isinstance(error, torch.OutOfMemoryError)
    is_full = (
        is_on_gpu
        or isinstance(error, MemoryError)
        or "allocate memory" in reason
        or "size calculation overflowed" in reason
    )
    if not is_full:
        return ""
    what = "the memory"
    advice = MEMORY_ADVICE
    if is_on_gpu:
        what = "the GPU's memory"
        advice = f"{MEMORY_ADVICE}; or --device cpu"
    return f"{what} is too small: try {advice} ({reason[-120:]})"


def in_one_line(error: Exception) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())


def fail(message: str, status: int) -> NoReturn:
    """End the script with one line on standard error; it names one rank of several."""
    print(f"{error_prefix()}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def error_prefix() -> str:
    """Return what a line on an error begins with; it names one rank of several."""
    if ranks.count() > 1:
        return f"error (rank {ranks.rank()})"
    return "error"


# --- one run for each seed


def train_each(
    train: Callable[[Arguments], object], parser: object, argv: list[str] | None, kind: str
) -> object:
    """Train once or, with --seeds, once for each seed in turn: NAME, NAME_1, NAME_2.

    A typed checkpoint, PATH.pth, stands for PATH_1.pth with seed 1 where there is one.
    With --resume, runs that are done are left as they are. Where one seed fails, the
    others are trained all the same.

    Parameters
    ----------
    train : callable
        Trains the run of these Arguments, and returns its figures.
    parser : Parser
        Reads the flags.
    argv : list of str or None
        The flags; None: what was typed.
    kind : {"ann", "snn"}
        What is trained.

    Returns
    -------
    object or list
        What ``train`` returns; with --seeds, a list of it.

    Raises
    ------
    UserError
        Where no seed can begin: the error of the first. Nothing is trained then.
    SeedsFailed
        Where some seeds failed, after the others are done.
    """
    if argv is not None and not argv:  # as where nothing is typed
        parser.error(parser.bare)
    args = read_flags(parser, argv, kind)
    if not args.seeds:
        return train(args)
    wrong = OF_ONE_RUN.intersection(args.typed)
    if wrong:
        raise UserError(
            f"--{min(wrong)} is of one run, and --seeds makes several: leave out one of the two"
        )
    check_seeds(args.seeds)
    words = list(sys.argv[1:] if argv is None else argv)
    runs = [run_of_seed(parser, words, kind, seed) for seed in args.seeds]
    return train_in_turn(train, runs)


def check_seeds(seeds: list[int]) -> None:
    """Raise UserError for a seed that --seeds names twice."""
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise UserError(f"--seeds names {seed} twice: a seed is one run, so name it once")


def read_flags(parser: object, words: list[str] | None, kind: str) -> Arguments:
    """Read the command line of a training.

    With ``--resume PATH`` the run goes on in the folder where it was, unless flags name
    another folder, or another run.

    Parameters
    ----------
    parser : Parser
    words : list of str or None
        None: what was typed.
    kind : {"ann", "snn"}
        What is trained.
    """
    args = parser.parse_args(words)
    if args.resume in ("", "last") or args.test_only:
        return args
    last = Path(args.resume)
    folder = folder_of_run(kind, last)
    is_same_run = asked_name(kind, args) == last.stem.removesuffix("_last")
    if folder and is_same_run:
        take_over(args, {"output_dir": str(folder)}, "followed")
    return args


class SeedRun(NamedTuple):
    """One run of --seeds.

    Attributes
    ----------
    name : str
        Name of the run, with its seed.
    args : Arguments
        Its flags.
    title : str
        The line that it begins with.
    """

    name: str
    args: Arguments
    title: str


def run_of_seed(parser: object, words: list[str], kind: str, seed: int) -> SeedRun:
    """Prepare the run of a seed, before the first one trains.

    Parameters
    ----------
    parser : Parser
    words : list of str
        The command line.
    kind : {"ann", "snn"}
        What is trained.
    seed : int

    Returns
    -------
    SeedRun

    Raises
    ------
    UserError
        If its files are there already.
    """
    args = read_flags(parser, [*words, "--seed", str(seed)], kind)
    if "run_name" in args.given or not args.run_name:  # else a recipe has named it
        set_found(args, run_name=numbered(asked_name(kind, args), seed))
    name = run_name(kind, args)
    if ranks.is_first() and not (args.resume or args.overwrite or args.test_only):
        conflict = Paths(kind, name, args.output_dir).taken()
        if conflict:
            raise UserError(conflict)

    checkpoints = checkpoints_of_seed(args, seed)
    starts = [f"--{flag} {path}" for flag, path in checkpoints.items()]
    title = "; ".join([f"== seed {seed}: {name}", *starts])
    set_found(args, **checkpoints)
    return SeedRun(name, args, title)


def checkpoints_of_seed(args: Arguments, seed: int) -> dict[str, str]:
    """Return the checkpoints of a seed that lie beside those that the user named.

    Returns
    -------
    dict of {str: str}
        Flag that names PATH.pth -> path of PATH_1.pth with seed 1, if that is there.
    """
    checkpoints = {}
    for flag in STARTS:
        if flag in args.given and getattr(args, flag):
            path = Path(getattr(args, flag))
            sibling = path.with_stem(numbered(path.stem, seed))
            if sibling.is_file():
                checkpoints[flag] = str(sibling)
    return checkpoints


class SeedFailure(NamedTuple):
    """A run of --seeds that failed.

    Attributes
    ----------
    run : SeedRun
    message : str
        Of the error, in one line.
    """

    run: SeedRun
    message: str

    @property
    def line(self) -> str:
        """The message, with what failed."""
        return f"seed {self.run.args.seed}, run {self.run.name}: {self.message}"


def train_in_turn(train: Callable[[Arguments], object], runs: list[SeedRun]) -> list:
    """Train several runs, one after the other.

    Parameters
    ----------
    train : callable
        As ``train_each`` has it.
    runs : list of SeedRun

    Returns
    -------
    list
        What ``train`` returns of each run that is not left as it is.

    Raises
    ------
    UserError, SeedsFailed
        As ``train_each`` has them. Of several ranks the first error ends all; it is a
        UserError only where no seed has begun.
    """
    results = []
    failures = []
    has_begun = False  # any of them
    for number, run in enumerate(runs):
        print_once(run.title)
        try:
            results.append(train(run.args))
            has_begun = True
        except Finished as done:
            print_once(f"left as it is: {done}")
            has_begun = True
        except (UserError, ModelError, RuntimeError, MemoryError) as error:
            failure = SeedFailure(run, message_on_failure(error))
            if getattr(error, "had_begun", False):
                has_begun = True
            if ranks.count() > 1:  # the others may wait for this rank, and cannot go on
                line = failure.line + seeds_not_begun(runs[number + 1 :])
                failed = SeedsFailed if has_begun else UserError
                raise failed(line) from None
            print_once(f"failed: {failure.message}")
            failures.append(failure)
    messages = {failure.message for failure in failures}
    if not has_begun and len(messages) == 1:  # it concerns all seeds, so none is named
        raise UserError(messages.pop())
    if failures:
        raise SeedsFailed("\n".join(failure.line for failure in failures))
    return results


def message_on_failure(error: Exception) -> str:
    """Return the message on an error that has ended a run, in one line.

    An error that is a fault in the program, or a lost rank, is raised again.
    """
    if isinstance(error, UserError | ModelError):
        return in_one_line(error)
    memory_line = line_on_memory(error)
    if not memory_line:
        raise error
    return memory_line


def seeds_not_begun(runs: list[SeedRun]) -> str:
    """Return the end of a line, with the seeds that have not been trained."""
    if not runs:
        return ""
    return f"; not begun: --seeds {' '.join(str(run.args.seed) for run in runs)}"


def print_once(line: str) -> None:
    """Print a line on the first rank only."""
    if ranks.is_first():
        print(line, flush=True)


# --- one script that calls others


def call(name: str, flags: str, folder: Path | None = None) -> None:
    """Run a command as the user would, in a process of its own.

    Where it fails, this program ends, too.

    Parameters
    ----------
    name : str
        One of ``COMMANDS``.
    flags : str
        As they would be typed.
    folder : Path, optional
        Where it runs. Default: the present folder.
    """
    print(f"\n$ {shlex.join(program(name))} {flags}", flush=True)
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "wfeedback", name, *shlex.split(flags)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    if done.returncode:
        sys.exit(done.returncode)


# --- the command `wfeedback`: every script and command by its name, from any folder


def wfeedback() -> None:
    """Run the command ``wfeedback``."""
    run_script(run_named)


def run_named() -> None:
    """Run the command that the first word of the command line names.

    It is named as in ``COMMANDS``, or by the file of its script. The other words are
    its flags.

    Raises
    ------
    UserError
        If there is none of this name.
    """
    name, *flags = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "--help_all"):
        print("\n".join(overview()))
        return
    names = {module: command for command, module in COMMANDS.items()}
    name = names.get(name.removesuffix(".py"), name)
    if name not in COMMANDS:
        raise UserError(f"there is no command wfeedback {name}: {choices(name, COMMANDS)}")
    sys.argv = [f"wfeedback {name}", *flags]
    module_of(name).main()


def module_of(name: str) -> ModuleType:
    """Import the script or module of a command, and return it.

    Parameters
    ----------
    name : str
        A key of ``COMMANDS``.
    """
    if is_script(name) and str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    return importlib.import_module(COMMANDS[name])


def overview() -> Iterator[str]:
    """Yield lines that list the commands, with the first sentence of each."""
    yield "usage: wfeedback COMMAND [FLAG ...]"
    for title, group in GROUPS.items():
        yield f"\n{title}:"
        for name in group:
            source = file_of(name).read_text(encoding="utf-8")
            first_line, *_ = ast.get_docstring(ast.parse(source)).split("\n")
            yield f"  {name:10}{first_line}"
    yield (
        "\nwfeedback COMMAND --help lists a command's flags, "
        "wfeedback ann --preset list the recipes."
    )


def file_of(name: str) -> Path:
    """Return the Python file of a command, a key of ``COMMANDS``."""
    if is_script(name):
        return HOME / f"{COMMANDS[name]}.py"
    return ROOT / f"{COMMANDS[name].replace('.', '/')}.py"
