"""Decorators for functions that numba compiles. Without numba they leave the functions as they are, and WHY_NOT says why."""

import hashlib
from pathlib import Path

WHY_NOT = ""
try:
    from numba import njit
except (ImportError, RuntimeError) as error:  # numba is missing, or does not fit numpy
    WHY_NOT = " ".join(str(error).split())[:200]

# _nrt=False: no reference counts, which took half of the time; so a compiled function cannot make an array
OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}
SOURCES = {__file__}  # files that hold compiled functions


def compiled(function, **options):
    """Machine code, made at the first call. options: njit's own."""
    SOURCES.add(function.__code__.co_filename)
    return function if WHY_NOT else njit(**OPTIONS, **options)(function)


def inlined(function):
    """Part of each function that calls it: else a call hands on all the arrays, which takes time."""
    return compiled(function, inline="always")


def cached(function):
    """Compiled once and kept on disk, where there is a place for it.

    numba looks for changes in the file of a cached function only, not in what it calls: a function that calls those of other
    files closes over sources_digest(), which is then part of the key under which its code is kept.
    """
    try:
        return compiled(function, cache=True)
    except RuntimeError:  # no place for it
        return compiled(function)


def sources_digest():
    """A digest of all files from which functions have been compiled so far."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in sorted(SOURCES))).hexdigest()


def switch(kernels):
    """One compiled function of (number, *arguments) that calls the kernel of this number."""
    first, rest = kernels[0], kernels[1:]
    others = switch(rest) if rest else first

    def only(number, *arguments):
        return first(*arguments)

    def chosen(number, *arguments):
        return first(*arguments) if number == 0 else others(number - 1, *arguments)

    return compiled(chosen if rest else only)
