"""How a script fails: one clear line on standard error and an exit status other than 0."""

import os
import signal
import sys

import torch

from harness import UserError
from harness.processes import ranks
from harness.processes.signals import end_at_once, handling
from harness.runs.commands import resume_command
from self_models.basics.errors import ModelError


def run_script(main):
    """Run main() as a script, as one of several ranks if torchrun started it.

    A UserError or ModelError becomes one line and exit status 2, no traceback; SIGINT and SIGTERM end with 130 and 143; a
    lost rank with 1.
    """
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


def fail_for(error):
    """End the script for an error that is no fault in the program: full memory, or a lost rank."""
    reason = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        fail("the GPU's memory is full: try a smaller --batch_size, or --device cpu", 2)
    if isinstance(error, MemoryError) or "allocate memory" in reason or "size calculation overflowed" in reason:
        fail(f"the memory is too small: try a smaller --batch_size, --fc_width or --timesteps ({reason[-120:]})", 2)
    if ranks.lost_contact(error):
        fail(
            f"rank {ranks.rank()} lost the others: one has died, or the network failed ({reason.split('. ')[0][:200]}). The last "
            f"checkpoint of a training run is kept; go on with any number of ranks: {resume_command()}",
            1,
        )
    raise error


def fail(message, status):
    """One line on standard error, with the rank if there are several; then the end."""
    prefix = f"error (rank {ranks.rank()})" if ranks.count() > 1 else "error"
    print(f"{prefix}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
