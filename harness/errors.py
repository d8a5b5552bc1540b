"""How a script fails: one clear line on standard error and exit status 2."""

import os
import sys

import torch

from self_models.errors import ModelError


class UserError(Exception):
    """Something the user can put right; the message says what was wrong and what to do."""


def run_script(main):
    """Run main() as a script: a UserError or ModelError becomes one line and exit status 2, no traceback."""
    try:
        main()
    except (UserError, ModelError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError:
        print("error: the GPU's memory is full: try a smaller --batch_size, or --device cpu", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output, say head, has gone; nothing is left to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
