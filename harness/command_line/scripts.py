"""How a script runs, once for each of --seeds, and fails: one clear line on standard error, exit status other than 0."""

import harness.idle_threads  # noqa: F401  (before torch)

import ast
import ctypes
import importlib
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from harness import UserError
from harness.arguments import Arguments, set_found
from harness.command_line.recipes import STARTS
from harness.runs import ranks
from harness.runs.ranks import end_at_once, handling
from harness.runs.run import COMMANDS, Paths, asked_name, numbered, program, run_name
from harness.training.last_checkpoint import Finished
from self_models.basics import HOME, ModelError
from self_models.basics.settings import choices

HELPS = "a smaller --batch_size, fewer --timesteps; in training --bptt_segments auto; in conversion fewer --balance_images"
OF_ONE_RUN = {"seed", "results_json"}  # flags
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # numbers of mallopt(3), from glibc's malloc.h


class SeedsFailed(UserError):
    """Some runs of --seeds failed, and the others are done. The message has a line of each."""


def run_script(main):
    """Run main() as a script, as one of several ranks if torchrun started it. A UserError or ModelError becomes one line and exit
    status 2; SIGINT and SIGTERM end with 130 and 143; a lost rank, and seeds of several that failed, with 1."""
    keep_freed_memory()
    with handling(end_at_once), ranks.process_group():
        try:
            main()
        except SeedsFailed as error:
            for line in str(error).splitlines():
                print(f"error: {line}", file=sys.stderr)
            sys.exit(1)
        except (UserError, ModelError) as error:
            fail(str(error), 2)
        except (RuntimeError, MemoryError) as error:
            fail_for(error)
        except (
            BrokenPipeError
        ):  # the reader of our output, say head, has gone; nothing is left to tell it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt as stop:
            if ranks.is_first():
                print(str(stop) or "interrupted", file=sys.stderr)
            sys.exit(128 + getattr(stop, "number", signal.SIGINT))


def keep_freed_memory():
    """Let this process keep the memory that it frees, with glibc, which else returns blocks above 32 MB, and the system clears
    them anew: 7 to 27 % of a training step's time (docs/notebook/training_speed.md)."""
    with suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        for option in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, 2**26)):
            ctypes.CDLL(None).mallopt(*option)


def fail_for(error):
    """End the script for an error that is no fault in the program: full memory, or a lost rank."""
    if full := line_on_memory(error):
        fail(full, 2)
    if ranks.lost_contact(error):
        reason = " ".join(str(error).split())
        lost = f"rank {ranks.rank()} lost the others: one has died, or the network failed ({reason.split('. ')[0][:200]})"
        fail(
            f"{lost}. The last checkpoint of a training run is kept: --resume goes on, with any number of ranks",
            1,
        )
    raise error


def line_on_memory(error):
    """What to say of an error that full memory has raised, '' of another."""
    reason, on_gpu = " ".join(str(error).split()), isinstance(error, torch.OutOfMemoryError)
    if (
        on_gpu
        or isinstance(error, MemoryError)
        or "allocate memory" in reason
        or "size calculation overflowed" in reason
    ):
        full, more = ("the GPU's memory", "; or --device cpu") if on_gpu else ("the memory", "")
        return f"{full} is too small: try {HELPS}{more} ({reason[-120:]})"
    return ""


def fail(message, status):
    """One line on standard error, with the rank if there are several; then the end."""
    prefix = f"error (rank {ranks.rank()})" if ranks.count() > 1 else "error"
    print(f"{prefix}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def train_each(train, parser, argv, kind):
    """Train once or, with --seeds, once for each seed in turn: NAME, NAME_1, NAME_2.

    A typed checkpoint, PATH.pth, stands for PATH_1.pth with seed 1 where there is one. With
    --resume, runs that are done are left as they are. Where one seed fails, the others are
    trained all the same.

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
    args = parser.parse_args(argv)
    if not args.seeds:
        return train(args)
    wrong = OF_ONE_RUN.intersection(args.typed)
    if wrong:
        raise UserError(
            f"--{min(wrong)} is of one run, and --seeds makes several: leave out one of the two"
        )
    words = list(sys.argv[1:] if argv is None else argv)
    runs = [run_of_seed(parser, words, kind, seed) for seed in dict.fromkeys(args.seeds)]
    return train_in_turn(train, runs)


class SeedRun(NamedTuple):
    """One run of --seeds."""

    name: str
    args: Arguments
    title: str  # the line that it begins with


def run_of_seed(parser, words, kind, seed):
    """Make the SeedRun of a seed. Raises UserError where its files are there already."""
    own = parser.parse_args([*words, "--seed", str(seed)])
    if "run_name" in own.given or not own.run_name:  # else a recipe has named it, with its seed
        set_found(own, run_name=numbered(asked_name(kind, own), seed))
    name = run_name(kind, own)
    if ranks.is_first() and not (own.resume or own.overwrite or own.test_only):
        if taken := Paths(kind, name, own.output_dir).taken():
            raise UserError(taken)

    siblings = {}  # flag -> the checkpoint of the same seed
    for flag in STARTS:
        if flag in own.given and getattr(own, flag):
            path = Path(getattr(own, flag))
            sibling = path.with_stem(numbered(path.stem, seed))
            if sibling.is_file():
                siblings[flag] = str(sibling)
    starts = [f"--{flag} {path}" for flag, path in siblings.items()]
    title = "; ".join([f"== seed {seed}: {name}", *starts])
    set_found(own, **siblings)
    return SeedRun(name, own, title)


def train_in_turn(train, runs):
    """Train these SeedRuns, see train_each()."""
    say = partial(print, flush=True) if ranks.is_first() else str
    results, failures, errors = [], [], []
    none_began = True
    for number, run in enumerate(runs):
        say(run.title)
        try:
            results.append(train(run.args))
            none_began = False
        except Finished as done:
            say(f"left as it is: {done}")
            none_began = False
        except (UserError, ModelError, RuntimeError, MemoryError) as error:
            line = line_on_failure(error)
            failure = f"seed {run.args.seed}, run {run.name}: {line}"
            if ranks.count() > 1:  # the others may wait for this rank, and cannot go on
                left = [str(other.args.seed) for other in runs[number + 1 :]]
                not_begun = f"; not begun: --seeds {' '.join(left)}" if left else ""
                raise UserError(f"{failure}{not_begun}") from None
            say(f"failed: {line}")
            failures.append(failure)
            errors.append(line)
            if getattr(error, "had_begun", False):
                none_began = False
    if none_began and len(set(errors)) == 1:  # it concerns all seeds, so none is named
        raise UserError(errors[0])
    if failures:
        raise SeedsFailed("\n".join(failures))
    return results


def line_on_failure(error):
    """The line on an error that has ended a run. Raises an error again that is a fault in the program, or a lost rank."""
    if isinstance(error, UserError | ModelError):
        return " ".join(str(error).split())
    full = line_on_memory(error)
    if not full:
        raise error
    return full


def call(name, flags, folder=None):
    """Run a command as the user would, in a process of its own, from this folder; where it fails, this program ends, too."""
    print(f"\n$ {shlex.join(program(name))} {flags}", flush=True)
    done = subprocess.run(
        [sys.executable, HOME / f"{COMMANDS[name]}.py", *shlex.split(flags)], cwd=folder
    )
    if done.returncode:
        sys.exit(done.returncode)


# --- the command `wfeedback`, of an installed package: every script by its name, from any folder


def wfeedback():
    run_script(run_named)


def run_named():
    """Run the script that the first word names, as in COMMANDS or by its file, with the other words as its flags."""
    name, *flags = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "--help_all"):
        return print("\n".join(overview()))
    script = COMMANDS.get(name, name.removesuffix(".py"))
    known = {script: name for name, script in COMMANDS.items()}
    if script not in known:
        raise UserError(f"there is no command wfeedback {name}: {choices(name, COMMANDS)}")
    sys.argv = [f"wfeedback {known[script]}", *flags]
    sys.path.insert(0, str(HOME))
    importlib.import_module(script).main()


def overview():
    """Lines that list the commands, each with the first sentence of its script."""
    yield "usage: wfeedback COMMAND [FLAG ...]\n"
    for name, script in COMMANDS.items():
        about = ast.get_docstring(ast.parse((HOME / f"{script}.py").read_text(encoding="utf-8")))
        yield f"  {name:10}{about.partition(chr(10))[0]}"
    yield "\nwfeedback COMMAND --help lists a command's flags, wfeedback ann --preset list the recipes."
