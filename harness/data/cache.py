"""What was decoded once is kept beside the images, or where the user's caches lie, and checked when it is read again."""

import hashlib
import json
import os
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch

from harness import UserError
from harness.processes import ranks
from harness.runs.checkpoints import write_here

LENGTH = 8  # bytes at the end of a file of pixels: the length of the JSON text before them
BLOCK = 2**24  # bytes that are summed up at a time


def places(folder):
    """Where the cache files of a folder of images may lie: in its own .cache/, else in snn_wFeedback/ of the user's cache folder,
    $XDG_CACHE_HOME or ~/.cache."""
    folder = Path(folder).resolve()
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snn_wFeedback"
    digest = hashlib.blake2b(os.fsencode(folder), digest_size=6).hexdigest()
    return folder / ".cache", users / f"{folder.name}_{digest}"


def kept(folder, name, read, write):
    """read(path) of the folder's cache file of this name. Where read raises ValueError or OSError in all places, for a file
    that is absent, damaged or stale, write(file) makes it anew in the first place that can be written.

    The first of several ranks makes it; the others only where they do not see its file, on another machine.
    """
    found = look(folder, name, read)
    if not ranks.largest(found is None):
        return found
    if failure := ranks.from_first(lambda: failure_of(folder, name, write) if found is None else ""):
        raise UserError(failure)
    found = look(folder, name, read) if found is None else found
    if found is None:
        make(folder, name, write)
        found = look(folder, name, read)
    if found is None:
        raise UserError(f"{name} changed while it was read: leave the images of {folder} alone until the run has begun")
    return found


def look(folder, name, read):
    """read(path) in the first place where it succeeds, else None."""
    for place in places(folder):
        try:
            return read(place / name)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def failure_of(folder, name, write):
    """Make the file; '' or the line that says why it could not be made."""
    try:
        make(folder, name, write)
    except UserError as error:
        return str(error)
    return ""


def make(folder, name, write):
    """Write the file in the first place that can be written. Raises UserError where none can."""
    for place in places(folder):
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        except OSError:
            continue
        return write_here(place / name, write)
    raise UserError(f"no place to keep the decoded images: neither {' nor '.join(map(str, places(folder)))} can be written; "
                    "set XDG_CACHE_HOME to a folder that can")  # fmt: skip


def write_pixels(file, arrays, about):
    """Write uint8 arrays of one shape as they come, then about(), what JSON can hold, with their number and check sum."""
    count, check = 0, 0
    for array in arrays:
        content = array.tobytes()
        file.write(content)
        count, check = count + 1, zlib.crc32(content, check)
    text = json.dumps({**about(), "count": count, "check": check}).encode()
    file.write(text + len(text).to_bytes(LENGTH, "big"))


def read_pixels(path, shape):
    """(a memory-mapped uint8 tensor (N, *shape), what is told about it) of a file that write_pixels wrote. Raises ValueError
    where it is damaged."""
    with open(path, "rb") as file:
        end = file.seek(-LENGTH, os.SEEK_END)
        length = int.from_bytes(file.read(LENGTH), "big")
        if not length < end:
            raise ValueError("no length at the end")
        end = file.seek(end - length)
        about = json.loads(file.read(length))
        if about["count"] * int(np.prod(shape)) != end:
            raise ValueError("another number of bytes")
        file.seek(0)
        left, check = end, 0
        while left and (block := file.read(min(BLOCK, left))):
            left, check = left - len(block), zlib.crc32(block, check)
        if left or check != about["check"]:
            raise ValueError("a wrong check sum")
    if not about["count"]:
        return torch.empty(0, *shape, dtype=torch.uint8), about
    pixels = np.memmap(path, np.uint8, "r", shape=(about["count"], *shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the pixels must not be written to, and nothing does
        return torch.from_numpy(pixels), about
