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

from harness import UserError
from harness.processes import ranks
from harness.runs.checkpoints import write_here
from self_models.basics.home import users_folder


def places(folder):
    """Where the cache files of a folder of images may lie: in its own .cache/, else in snn_wFeedback/ of the user's cache folder,
    $XDG_CACHE_HOME or ~/.cache."""
    folder = Path(folder).resolve()
    digest = hashlib.blake2b(os.fsencode(folder), digest_size=6).hexdigest()
    return folder / ".cache", users_folder() / f"{folder.name}_{digest}"


def kept(folder, name, read, write):
    """read(path) of the folder's cache file of this name, a tuple. Where read raises in all places, for a file that is absent,
    damaged or stale, write(file) makes it anew in the first place that can be written.

    The first of several ranks makes it; the others only where they do not see its file, on another machine.
    """
    found = look(folder, name, read)
    if not ranks.largest(found is None):
        return found
    failure = ranks.from_first(lambda: "" if found else make(folder, name, write))
    found = found or look(folder, name, read)
    if not found and not failure:
        failure = make(folder, name, write)
        found = look(folder, name, read)
    if failure or not found:
        changed = f"{name} changed while it was read: leave the images of {folder} alone until the run has begun"
        raise UserError(failure or changed)
    return found


def look(folder, name, read):
    """read(path) in the first place where it succeeds, else None."""
    for place in places(folder):
        try:
            return read(place / name)
        except Exception:  # zipfile raises whatever a damaged file makes of it
            continue
    return None


def make(folder, name, write):
    """Write the file in the first place that can be written; '' or the line that says why there is none."""
    for place in places(folder):
        try:
            place.mkdir(parents=True, exist_ok=True)
            write_here(place / name, write)
            return ""
        except (OSError, UserError) as error:
            failure = f"no place to keep the decoded images: {error}; set XDG_CACHE_HOME to a folder that can be written"
    return failure


def write_arrays(file, arrays, about):
    """Write arrays of one shape and type as they come, then about(), what JSON can hold: a zip archive, which has check sums."""
    shape, dtype = (0,), "uint8"
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(zipfile.ZipInfo("values"), "w", force_zip64=True) as values:
            begins = file.tell()
            for array in arrays:
                values.write(array.tobytes())
                shape, dtype = (shape[0] + 1, *array.shape), str(array.dtype)
        archive.writestr(zipfile.ZipInfo("about"), json.dumps({**about(), "begins": begins, "shape": shape, "dtype": dtype}))


def read_arrays(path):
    """(a memory-mapped tensor (N, ...), what is told about it) of a file that write_arrays wrote. Raises where it is damaged."""
    now = os.stat(path)
    about = about_file(path, now.st_ino, now.st_size, now.st_mtime_ns)
    if not about["shape"][0]:
        return torch.empty(0), about
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the values must not be written to, and nothing does
        return torch.from_numpy(np.memmap(path, about["dtype"], "r", about["begins"], tuple(about["shape"]))), about


@functools.cache
def about_file(path, *_state):
    """What is told in a file, all of which is checked once in a process while its state is the same."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip():
            raise zipfile.BadZipFile("a wrong check sum")
        return json.loads(archive.read("about"))
