"""Notes for whoever runs a program, and words that are made of lists."""

import functools
import sys
from collections.abc import Sequence

import torch.distributed as dist


@functools.cache
def say_once(line: str) -> None:
    """Print a line on standard error, once in a process.

    Of several processes that train one network together, only the first says it.

    Parameters
    ----------
    line : str
        The line, without its end.
    """
    is_one_of_many = dist.is_available() and dist.is_initialized()
    if is_one_of_many and dist.get_rank() > 0:
        return
    print(line, file=sys.stderr, flush=True)


def some(names: Sequence, most: int = 3) -> str:
    """Name the first few of a list, and say how many more there are.

    Parameters
    ----------
    names : sequence
        The list.
    most : int, default 3
        How many are named.

    Returns
    -------
    str
        For example ``cats, dogs, fish and 7 more``.
    """
    named = ", ".join(str(name) for name in names[:most])
    if len(names) > most:
        return f"{named} and {len(names) - most:,} more"
    return named
