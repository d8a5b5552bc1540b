"""What was decoded once is kept beside the images, or in the user's cache: NAME.npy, and NAME.json that says of what."""

import hashlib
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from harness import UserError
from harness.runs.saving import write_here
from self_models.basics import ModelError, users_folder

AT_ONCE = 64  # files that are handed to the threads together


def decoded_once(listing, name, take, doing):
    """(a memory-mapped tensor of take(path), an array, of each file of a Listing that can be read; position -> why not, of
    the others), kept under this name. Another process that wants it meanwhile waits. Raises UserError where it cannot be kept."""

    def attempt(path):
        """take(path), or a str that says why it cannot be read."""
        try:
            return take(listing.folder / path)
        except ModelError as error:
            return str(error).removeprefix(f"{listing.folder / path}: ")

    folder = listing.folder.resolve()
    own_name = f"{folder.name}_{hashlib.blake2b(os.fsencode(folder), digest_size=6).hexdigest()}"
    for place in (lambda: folder / ".cache", lambda: users_folder() / own_name):
        try:
            path = place() / name
            if found := read(path, listing, attempt):
                return found
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                return read(path, listing, attempt) or write(path, listing, attempt, doing)
        except (OSError, UserError, ModelError) as error:
            failure = error
    raise UserError(f"no place to keep the decoded images: {failure}; set XDG_CACHE_HOME to a folder that can be written")


def read(path, listing, attempt):
    """What a cache holds, see decoded_once; None where it is absent, damaged or stale."""
    try:
        about = json.loads(Path(f"{path}.json").read_bytes())
        if about["digest"] != listing.digest:
            return None
        bad = dict(about["bad"])
        return (mapped(path), bad) if all(isinstance(attempt(listing.paths[n]), str) for n in bad) else None
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def mapped(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the values must not be written to, and nothing does
        return torch.from_numpy(np.load(f"{path}.npy", mmap_mode="r"))


def write(path, listing, attempt, doing):
    """Decode the files into a cache, with a progress bar; returns what it holds, see decoded_once."""
    bad, paths = {}, listing.paths

    def fill(file):
        count, array = 0, np.uint8(0)
        with ThreadPoolExecutor() as pool:
            parts = (paths[begin : begin + AT_ONCE] for begin in range(0, len(paths), AT_ONCE))
            found = chain.from_iterable(pool.map(attempt, part) for part in parts)  # one part at most waits for the disk
            for position, one in enumerate(tqdm(found, doing, len(paths), disable=None, leave=False, unit="file")):
                if isinstance(one, str):
                    bad[position] = one
                    continue
                count, array = count + 1, one
                if count == 1:
                    write_head(file, count, array)
                file.write(array.tobytes())
        file.seek(0)
        write_head(file, count, array)  # of the same length: NumPy leaves room for the count

    Path(f"{path}.json").unlink(missing_ok=True)  # of other files
    write_here(f"{path}.npy", fill)
    about = {"digest": listing.digest, "bad": [*bad.items()]}
    write_here(f"{path}.json", lambda file: file.write(json.dumps(about).encode()))
    return mapped(path), bad


def write_head(file, count, array):
    shape = {"descr": array.dtype.str, "fortran_order": False, "shape": (count, *array.shape)}
    np.lib.format.write_array_header_1_0(file, shape)
