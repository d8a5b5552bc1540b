"""How a script runs, once for each of --seeds, and fails: one clear line on standard error, exit status other than 0."""

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

import torch

from harness import UserError
from harness.command_line.recipes import STARTS
from harness.runs import ranks
from harness.runs.ranks import end_at_once, handling
from harness.runs.run import COMMANDS, Paths, numbered, program, run_name
from harness.training.training_state import Finished
from self_models.basics import HOME, ModelError
from self_models.basics.settings import choices

HELPS = "a smaller --batch_size, fewer --timesteps; in training --bptt_segments auto; in conversion fewer --balance_images"
OF_ONE_RUN = {"seed", "results_json"}  # flags
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # numbers of mallopt(3), from glibc's malloc.h


def run_script(main):
    """Run main() as a script, as one of several ranks if torchrun started it. A UserError or ModelError becomes one line and exit
    status 2; SIGINT and SIGTERM end with 130 and 143; a lost rank with 1."""
    keep_freed_memory()
    with handling(end_at_once), ranks.process_group():
        try:
            main()
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
    reason, on_gpu = " ".join(str(error).split()), isinstance(error, torch.OutOfMemoryError)
    if (
        on_gpu
        or isinstance(error, MemoryError)
        or "allocate memory" in reason
        or "size calculation overflowed" in reason
    ):
        full, more = ("the GPU's memory", "; or --device cpu") if on_gpu else ("the memory", "")
        fail(f"{full} is too small: try {HELPS}{more} ({reason[-120:]})", 2)
    if ranks.lost_contact(error):
        lost = f"rank {ranks.rank()} lost the others: one has died, or the network failed ({reason.split('. ')[0][:200]})"
        fail(
            f"{lost}. The last checkpoint of a training run is kept: --resume goes on, with any number of ranks",
            1,
        )
    raise error


def fail(message, status):
    """One line on standard error, with the rank if there are several; then the end."""
    prefix = f"error (rank {ranks.rank()})" if ranks.count() > 1 else "error"
    print(f"{prefix}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def train_each(train, parser, argv, kind):
    """train(args) of what was typed; with --seeds of each seed in turn: NAME, NAME_1, NAME_2. A typed checkpoint, PATH.pth,
    stands for PATH_1.pth with seed 1 where there is one. With --resume, runs that are done are left as they are."""
    args = parser.parse_args(argv)
    if not args.seeds:
        return train(args)
    for flag in OF_ONE_RUN & args.typed.keys():
        raise UserError(
            f"--{flag} is of one run, and --seeds makes several: leave out one of the two"
        )
    words, runs, results = list(sys.argv[1:] if argv is None else argv), [], []
    say = partial(print, flush=True) if ranks.is_first() else str
    for seed in dict.fromkeys(args.seeds):
        own = parser.parse_args([*words, "--seed", str(seed)])
        if (
            "run_name" in args.given or not own.run_name
        ):  # else a recipe has named it, with its seed
            own = own.having("found", run_name=numbered(run_name(kind, own), seed))
        paths = {
            flag: Path(getattr(own, flag))
            for flag in STARTS
            if flag in args.given and getattr(own, flag)
        }
        siblings = {
            flag: path.with_stem(numbered(path.stem, seed)) for flag, path in paths.items()
        }
        siblings = {flag: str(path) for flag, path in siblings.items() if path.is_file()}
        taken = Paths(kind, own.run_name, own.output_dir).taken()
        if (
            taken and ranks.is_first() and not (own.resume or own.overwrite or own.test_only)
        ):  # before the first seed trains
            raise UserError(taken)
        begin = "; ".join(
            [
                f"== seed {seed}: {own.run_name}",
                *(f"--{flag} {path}" for flag, path in siblings.items()),
            ]
        )
        runs.append((own.having("found", **siblings), begin))
    for own, begin in runs:
        say(begin)
        try:
            results.append(train(own))
        except Finished as done:
            say(f"left as it is: {done}")
    return results


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
