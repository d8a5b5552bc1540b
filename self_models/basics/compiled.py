"""Numba's compiler as the event engine uses it; without numba the functions stay as they are and WHY_NOT says why."""

WHY_NOT = ""
try:
    from numba import njit
except (ImportError, RuntimeError) as error:  # numba is missing, does not fit numpy, or has no place to keep its code
    WHY_NOT = " ".join(str(error).split())[:200]

    def njit(**options):
        return lambda function: function


# _nrt=False: no reference counts, which took half of the time; so a kernel cannot make an array
compiled = njit(nogil=True, error_model="numpy", _nrt=False)
inlined = njit(nogil=True, error_model="numpy", _nrt=False, inline="always")  # a call hands on all the arrays, which takes time
cached = njit(nogil=True, error_model="numpy", _nrt=False, cache=True)  # on disk; see entry_points in event/run.py


def switch(kernels):
    """One compiled function of (number, *arguments) that calls the kernel of this number."""
    first, rest = kernels[0], kernels[1:]
    if not rest:

        @compiled
        def only(number, *arguments):
            return first(*arguments)

        return only
    others = switch(rest)

    @compiled
    def chosen(number, *arguments):
        if number == 0:
            return first(*arguments)
        return others(number - 1, *arguments)

    return chosen
