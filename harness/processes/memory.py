"""What freed memory is kept for."""

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # numbers of mallopt(3), from glibc's malloc.h
NEVER = -1


def keep_freed_memory():
    """Let this process keep the memory that it frees, for what it allocates next. Returns whether that can be had: with glibc. By
    default glibc returns each block above 32 MB to the system, which clears it anew for the next step or batch: 7 to 27 % of the
    time of a deep SNN's training step, 10 to 20 % of an evaluation (docs/notebook/training_speed.md)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    return all(mallopt(*option) == 1 for option in ((MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER), (TOP_PAD, 2**26)))
