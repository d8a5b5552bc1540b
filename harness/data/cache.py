"""What was decoded once is kept beside the images, or where the user's caches lie, and checked when it is read again."""

import functools
import hashlib
import json
import math
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
    if failure := ranks.from_first(lambda: make(folder, name, write) if found is None else ""):
        raise UserError(failure)
    found = look(folder, name, read) if found is None else found
    if found is None and not (failure := make(folder, name, write)):
        found = look(folder, name, read)
    if found is None:
        changed = f"{name} changed while it was read: leave the images of {folder} alone until the run has begun"
        raise UserError(failure or changed)
    return found


def look(folder, name, read):
    """read(path) in the first place where it succeeds, else None."""
    for place in places(folder):
        try:
            return read(place / name)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def make(folder, name, write):
    """Write the file in the first place that can be written; '' or the line that says why it could not be."""
    for place in places(folder):
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
            write_here(place / name, write)
            return ""
        except UserError as error:
            return str(error)
        except OSError:
            continue
    return (f"no place to keep the decoded images: neither {' nor '.join(map(str, places(folder)))} can be written; "
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
        if length > end:
            raise ValueError("no length at the end")
        end = file.seek(end - length)
        about, now = json.loads(file.read(length)), os.fstat(file.fileno())
    if about["count"] * math.prod(shape) != end:
        raise ValueError("another number of bytes")
    if about["check"] != check_sum(path, end, now.st_ino, now.st_size, now.st_mtime_ns):
        raise ValueError("a wrong check sum")
    if not end:
        return torch.empty(0, *shape, dtype=torch.uint8), about
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the pixels must not be written to, and nothing does
        return torch.from_numpy(np.memmap(path, np.uint8, "r", shape=(about["count"], *shape))), about


@functools.cache
def check_sum(path, length, *_state):
    """CRC-32 of a file's first `length` bytes, which are read once in a process while the file's state is the same."""
    check = 0
    with open(path, "rb") as file:
        while length and (block := file.read(min(BLOCK, length))):
            length, check = length - len(block), zlib.crc32(block, check)
    return check
