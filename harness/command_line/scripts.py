"""How a script fails: one clear line on standard error and an exit status other than 0."""

import ctypes
import os
import signal
import sys
import traceback

import torch

from harness import UserError
from harness.processes import ranks
from harness.processes.signals import end_at_once, handling
from harness.runs.commands import resume_command
from self_models.basics import ModelError

HELPS = {  # how the functions at work begin -> (what they do, what takes less memory there); the first that fits counts
    "harness.building.start.convert_ann": ("converting", "fewer --balance_images or --balance_timesteps"),
    "harness.measuring.evaluation.spikes_over_time": ("the chart of spikes", "fewer --chart_images"),
    "harness.measuring.evaluation.": ("evaluating", "a smaller --batch_size"),
    "harness.command_line.posthoc.watch": ("pictures", "fewer --images"),
    "harness.training.epoch.": ("training", "a smaller --batch_size or fewer --timesteps, or for an SNN --bptt_segments auto"),
    "harness.data.": ("the images", "a smaller --limit_train or --limit_test or, of a folder, a smaller --image_size"),
    "harness.building.models.": ("the network", "a smaller --fc_width, a narrower --architecture or, of a folder, --image_size"),
}
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # numbers of mallopt(3), from glibc's malloc.h


def run_script(main):
    """Run main() as a script that keeps the memory it frees, as one of several ranks if torchrun started it. A UserError or
    ModelError becomes one line and exit status 2; SIGINT and SIGTERM end with 130 and 143; a lost rank with 1."""
    keep_freed_memory()
    with handling(end_at_once), ranks.process_group():
        try:
            main()
        except (UserError, ModelError) as error:
            fail(str(error), 2)
        except (RuntimeError, MemoryError) as error:
            fail_for(error)
        except BrokenPipeError:  # the reader of our output, say head, has gone; nothing is left to tell it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except KeyboardInterrupt as stop:
            if ranks.is_first():
                print(str(stop) or "interrupted", file=sys.stderr)
            sys.exit(128 + getattr(stop, "number", signal.SIGINT))


def keep_freed_memory():
    """Let this process keep the memory that it frees, for what it allocates next. Returns whether that can be had: with glibc. By
    default glibc returns each block above 32 MB to the system, which clears it anew for the next step or batch: 7 to 27 % of the
    time of a deep SNN's training step, 10 to 20 % of an evaluation (docs/notebook/training_speed.md)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    return all(mallopt(*option) == 1 for option in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, 2**26)))


def fail_for(error):
    """End the script for an error that is no fault in the program: full memory, or a lost rank."""
    reason, on_gpu = " ".join(str(error).split()), isinstance(error, torch.OutOfMemoryError)
    if on_gpu or isinstance(error, MemoryError) or "allocate memory" in reason or "size calculation overflowed" in reason:
        full, more = ("the GPU's memory", ", or --device cpu") if on_gpu else ("the memory", "")
        work, advice = at_work(error)
        fail(f"{full} is too small for {work}: try {advice}{more} ({reason[-120:]})", 2)
    if ranks.lost_contact(error):
        lost = f"rank {ranks.rank()} lost the others: one has died, or the network failed ({reason.split('. ')[0][:200]})"
        fail(f"{lost}. The last checkpoint of a training run is kept; go on with any number of ranks: {resume_command()}", 1)
    raise error


def at_work(error):
    """(what the program was doing when the memory was full, what takes less there), in words."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    functions = [f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}" for frame in frames]
    found = (HELPS[start] for start in HELPS if any(name.startswith(start) for name in functions))
    return next(found, ("this", "a smaller --batch_size, --fc_width or --timesteps"))


def fail(message, status):
    """One line on standard error, with the rank if there are several; then the end."""
    prefix = f"error (rank {ranks.rank()})" if ranks.count() > 1 else "error"
    print(f"{prefix}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
