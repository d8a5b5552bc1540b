"""What was decoded once is kept beside the images, or where the user's caches lie, and checked when it is read again."""

import functools
import hashlib
import json
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from harness import UserError
from harness.runs.checkpoints import write_here
from self_models.basics import users_folder


def places(folder):
    """Where the cache files of a folder of images may lie: in its own .cache/, else in the user's cache folder."""
    folder = Path(folder).resolve()
    digest = hashlib.blake2b(os.fsencode(folder), digest_size=6).hexdigest()
    return folder / ".cache", users_folder() / f"{folder.name}_{digest}"


def cached(folder, name, is_current, make):
    """(a memory-mapped tensor (N, ...), what is told about it) of the folder's cache file of this name.

    Where no place has one that is whole and is_current(what is told), make() gives (arrays, about) for a new one, which is
    written in the first place that can be. A process that wants it meanwhile, say another rank, waits for it.
    """
    for place in places(folder):
        path = place / name
        if found := look(path, is_current):
            return found
        try:
            place.mkdir(parents=True, exist_ok=True)
            with FileLock(place / f"{name}.lock"):
                if not look(path, is_current):
                    write_here(path, lambda file: write_arrays(file, *make()))
        except (OSError, UserError) as error:
            failure = error
            continue
        if found := look(path, is_current):
            return found
        raise UserError(f"{name} changed while it was read: leave the images of {folder} alone until the run has begun")
    raise UserError(f"no place to keep the decoded images: {failure}; set XDG_CACHE_HOME to a folder that can be written")


def look(path, is_current):
    """What a cache file holds, see cached; None where it is absent, damaged or stale."""
    try:
        state = os.stat(path)
        found = read_arrays(path, state.st_ino, state.st_size, state.st_mtime_ns)
        return found if is_current(found[1]) else None
    except Exception:  # zipfile raises whatever a damaged file makes of it
        return None


def write_arrays(file, arrays, about):
    """Write arrays of one shape and type as they come, then about, what JSON can hold: a zip archive, which has check sums."""
    shape, dtype = (0,), "uint8"
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(zipfile.ZipInfo("values"), "w", force_zip64=True) as values:
            begins = file.tell()
            for array in arrays:
                values.write(array.tobytes())
                shape, dtype = (shape[0] + 1, *array.shape), str(array.dtype)
        archive.writestr(zipfile.ZipInfo("about"), json.dumps({**about, "begins": begins, "shape": shape, "dtype": dtype}))


@functools.cache
def read_arrays(path, *_state):
    """What a file that write_arrays wrote holds, see cached; all is checked, once in a process. Raises where it is damaged."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip():
            raise zipfile.BadZipFile("a wrong check sum")
        about = json.loads(archive.read("about"))
    values = np.memmap(path, about["dtype"], "r", about["begins"], tuple(about["shape"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the values must not be written to, and nothing does
        return torch.from_numpy(values), about
