"""Decorators for functions that numba compiles. Once numba has failed they leave functions as they are; WHY_NOT says why."""

import functools
import hashlib
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

WHY_NOT = []  # how numba has failed, in words; empty while it works


@contextmanager
def noting_failure():
    """Whatever numba raises inside, on import, when it decorates or compiles, is noted in WHY_NOT and goes no further."""
    try:
        yield
    except Exception as error:
        WHY_NOT.append(in_words(error))


def in_words(error):
    """One line, not too long, that says what an error says."""
    return " ".join((str(error) or repr(error)).split())[:200]


with noting_failure():
    from numba import njit

# _nrt=False: no reference counts, which took half of the time; so a compiled function cannot make an array
OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}
FUNCTIONS = 77  # that the event engine compiles
SOURCES = {__file__}  # files that hold compiled functions


def compiled(function, forceinline=True, **options):
    """Machine code, made at the first call, and part of each function that calls it: a call would hand on all the arrays, which
    took a third of the time. options: njit's own."""
    with noting_failure():
        return _dispatched(function, forceinline=forceinline, **options)
    return function


def inlined(function):
    """The same before types are known: compiles more slowly, and may run faster."""
    return compiled(function, inline="always")


def apart(function):
    """Machine code that is called, and no part of its callers, which then compile sooner: for what runs rarely."""
    return compiled(function, forceinline=False)


def intrinsic(function):
    """A function of numba.extending.intrinsic: it writes LLVM's instructions itself."""
    SOURCES.add(function.__code__.co_filename)
    if not WHY_NOT:
        with noting_failure():
            from numba.extending import intrinsic

            return intrinsic(function)
    return function


def cached(function):
    """Compiled once and kept on disk, where there is a place for it.

    numba looks for changes in the file of a cached function only, not in what it calls: a function that calls those of other
    files closes over sources_digest(), which is then part of the key under which its code is kept.
    """
    with suppress(Exception):  # no place for it
        return _dispatched(function, cache=True)
    return compiled(function)


@contextmanager
def telling(say, every=5.0):
    """While it lasts, say(line) every so many seconds how far numba has come with what it compiles."""
    if WHY_NOT:
        yield
        return
    from numba.core.event import Listener, install_listener

    done, last = 0, time.monotonic()

    class Told(Listener):
        def on_start(self, _):
            pass

        def on_end(self, _):
            nonlocal done, last
            done += 1
            if time.monotonic() > last + every:
                last = time.monotonic()
                say(f"compiling the event engine, once: {done} of about {FUNCTIONS} functions (--engine dense does without)")

    with install_listener("numba:compile", Told()):
        yield


def is_saving(thread):
    """Whether a thread is just about numba's cache on disk. An index is written first, then the code: if a program ended between
    the two, the next would take older code of the same name for it."""
    frame = sys._current_frames().get(thread.ident)
    frames = traceback.walk_stack(frame) if frame else ()
    return any(one.f_globals.get("__name__") == "numba.core.caching" for one, _ in frames)


@functools.cache
def try_out():
    """Compile something, once, and not what is kept on disk: then WHY_NOT says whether numba works here."""
    with noting_failure():
        compiled(lambda: 0)()


def _dispatched(function, **options):
    SOURCES.add(function.__code__.co_filename)
    return function if WHY_NOT else njit(**OPTIONS, **options)(function)


def sources_digest():
    """A digest of all files from which functions have been compiled so far."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in sorted(SOURCES))).hexdigest()


def switch(kernels):
    """One compiled function of (number, *arguments) that calls the kernel of this number."""
    first, *rest = kernels
    if not rest:
        return compiled(lambda number, *arguments: first(*arguments))
    others = switch(rest)

    def chosen(number, *arguments):
        return first(*arguments) if number == 0 else others(number - 1, *arguments)

    return compiled(chosen)
