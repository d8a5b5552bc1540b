"""A folder of images, or of recordings of event cameras, as a data set: listed, decoded once, kept as memory-mapped tensors.

What was decoded lies beside the images, or in the user's cache: NAME.npy, and NAME.json that says of which files.
"""

import hashlib
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from glob import glob
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from self_models.basics import ModelError, UserError, users_folder
from self_models.basics.files import write_whole
from self_models.basics.images import ENDINGS, IMAGE_SHAPES, decoded, opened, readable_name
from self_models.basics.notes import say_once, some
from self_models.basics.settings import meant
from self_models.data.events import RECORDINGS, size_in, steps_in

LAYOUT = "images belong in FOLDER/train/CLASS/ and FOLDER/test/CLASS/"
PARTS = ("train", "test")
KINDS = {"images": ENDINGS, "recordings": RECORDINGS}
AT_ONCE = 64  # files that are handed to the threads together


@dataclass(frozen=True)
class Listing:
    """The image files of a folder, or the recordings there: those of train/, then those of test/, each in an order that mixes the
    classes in their proportions: the first and the last N are of all classes. paths: within the folder; labels: positions in
    classes; trains: how many are of train/; digest: of paths, sizes and times of change; known_by: 'train' and 'test' -> how many
    there are and a digest of names and sizes, in words, the same wherever the folder is copied to."""

    folder: Path
    of_recordings: bool
    classes: tuple
    paths: tuple
    labels: tuple
    trains: int
    digest: str
    known_by: dict


def list_folder(name):
    """The Listing of a folder; of recordings in FOLDER/CLASS/ every fifth is for testing. Raises UserError if it is none."""
    folder = Path(name)
    parts = [part for part in PARTS if (folder / part).is_dir()]
    is_whole = not parts and any(path.suffix.lower() in RECORDINGS for path in folder.glob("*/*"))
    if len(parts) < 2 and not is_whole:
        near = meant(folder.name, IMAGE_SHAPES)
        known = f"is neither {', '.join(IMAGE_SHAPES)} nor a folder that is there{near and f' ({near.strip()})'}"
        lacks = f"has no folder {'test' if parts == ['train'] else 'train'}/"
        raise UserError(f"--dataset {name} {lacks if folder.is_dir() else known}: {LAYOUT}")
    files = {part: files_by_class(folder, part) for part in parts or [""]}
    names = [
        path.lower() for classes in files.values() for paths in classes.values() for path in paths
    ]
    kind = next(
        (kind for kind in KINDS if any(name.endswith(KINDS[kind]) for name in names)), "images"
    )
    files = {part: of_kind(kind, classes) for part, classes in files.items()}
    if is_whole:
        say_once(
            f"note: {folder} has no train/ and test/: every fifth recording of a class is for testing"
        )
        train = {
            name: [path for n, path in enumerate(paths) if n % 5 < 4]
            for name, paths in files[""].items()
        }
        files = {"train": train, "test": {name: paths[4::5] for name, paths in files[""].items()}}
    check_classes(folder, kind, files)
    # the n-th of a class's N files stands at (n + 1/2) / N of its part
    mixed = sorted(
        (part == "test", (n + 0.5) / len(paths), label, path)
        for part, classes in files.items()
        for label, paths in enumerate(classes.values())
        for n, path in enumerate(paths)
    )
    is_test, _, labels, paths = zip(*mixed, strict=True)
    about = [
        (folder / path).stat(follow_symlinks=(folder / path).exists()) for path in paths
    ]  # a link to nowhere is a bad file
    rows, trains, known_by = list(zip(paths, about, strict=True)), is_test.count(False), {}
    digest = digest_of(f"{path}\0{file.st_size} {file.st_mtime_ns}\0" for path, file in rows)
    for part, files_of_part in (("train", rows[:trains]), ("test", rows[trains:])):
        lasting = digest_of(
            f"{path.split('/', 1)[1]}\0{file.st_size}\0" for path, file in files_of_part
        )
        known_by[part] = f"{len(files_of_part):,} files (names and sizes: {lasting})"
    return Listing(
        folder,
        kind == "recordings",
        tuple(files["train"]),
        paths,
        labels,
        trains,
        digest,
        known_by,
    )


def digest_of(words):
    return hashlib.blake2b(os.fsencode("".join(words)), digest_size=6).hexdigest()


def files_by_class(folder, part=""):
    """Class -> paths of its files within the folder, of one of PARTS or of a folder without, all sorted; what is hidden aside.
    Raises UserError where a folder cannot be read, and for a class that no log could name."""

    def refuse(error):
        raise UserError(f"{error.filename} cannot be read: {error.strerror}")

    classes, within = {}, folder / part
    for name in sorted(path[:-1] for path in glob("*/", root_dir=within)):
        if readable_name(name) != name:
            path = readable_name(within / name)
            raise UserError(f"{path}: the name of this class is not UTF-8: rename the folder")
        walk = os.walk(within / name, onerror=refuse, followlinks=True)
        paths = (
            os.path.relpath(os.path.join(place, file), folder)
            for place, _, files in walk
            for file in files
        )
        classes[name] = sorted(
            (path for path in paths if f"{os.sep}." not in path), key=os.path.split
        )
    return classes


def of_kind(kind, classes):
    """Class -> its paths of one of KINDS."""
    return {
        name: [path for path in paths if path.lower().endswith(KINDS[kind])]
        for name, paths in classes.items()
    }


def labelled_recordings(folder):
    """Class -> paths of its recordings, sorted, of FOLDER/CLASS/ or FOLDER/test/CLASS/. Raises UserError where there are none."""
    folder = Path(folder)
    classes = of_kind(
        "recordings", files_by_class(folder, "test" if (folder / "test").is_dir() else "")
    )
    if not any(classes.values()):
        raise UserError(
            f"{folder} has no recordings ({', '.join(RECORDINGS)}) in folders of its classes: FOLDER/CLASS/*"
        )
    return {name: [folder / path for path in paths] for name, paths in classes.items() if paths}


def check_classes(folder, kind, files):
    """Raises UserError unless both parts have the same classes, two or more, each with files."""
    names = sorted(files["train"].keys() | files["test"].keys())
    if len(names) < 2:
        raise UserError(
            f"two class folders or more are needed in {folder}, which has {some(names) or 'none'}: {LAYOUT}"
        )
    if lacking := [
        f"{part}/{name}" for part in PARTS for name in names if not files[part].get(name)
    ]:
        endings = ", ".join(KINDS[kind])
        raise UserError(
            f"{folder}: no {kind} ({endings}) in {some(lacking)}: train/ and test/ need some of each class"
        )


# --- their shape


def shape_of(listing, image_size=None, grey=None):
    """(C, H, W) of a Listing's images: grey if all are, their size. Raises UserError if sizes differ, or none can be read."""
    if image_size is None or grey is None:
        heads = heads_of(listing, head_of)
    if grey is None:
        without = sum(not colour for (_, _, colour), _ in heads)
        grey = without == len(heads)
        if without and not grey:
            say_once(
                f"note: {without:,} of {len(heads):,} files are grey, the others not: all are read in colour (--grey: grey)"
            )
    if image_size is None:
        sizes = {(width, height): path for (width, height, _), path in reversed(heads)}
        image_size, height = min(sizes)
        if len(sizes) > 1 or image_size != height:
            named = some(
                [f"{width}x{height} ({path})" for (width, height), path in sorted(sizes.items())]
            )
            raise UserError(
                f"{listing.folder}: images are not square and of one size, but {named}: add --image_size N (it crops)"
            )
    return 1 if grey else 3, image_size, image_size


def recorded_shape(listing, frames, image_shape=None):
    """(T, 2, H, W) of a Listing's recordings; where they are events, as many frames as wanted of this shape, by default as large
    as what they reach. Raises UserError where they are of several shapes, and where no file can be read."""
    heads = heads_of(listing, size_in)
    shapes = {tuple(shape): path for shape, path in reversed(heads)}
    if not any(shape[0] for shape in shapes):
        return frames, *(image_shape or np.max(list(shapes), 0).tolist()[1:])
    if len(shapes) > 1:
        named = some([f"{shape} ({path})" for shape, path in sorted(shapes.items())])
        raise UserError(
            f"{listing.folder}: recordings are not of one shape (T, C, H, W), but {named}: give each as many frames"
        )
    return next(iter(shapes))


def heads_of(listing, take):
    """[(take(path) as a list, path)] of a Listing's files whose heads can be read. Raises UserError only where none can."""
    heads, bad = decoded_once(listing, "heads", take, "sizes of images")
    if len(bad) == len(listing.paths):
        check_left(listing, bad, skip_bad=True)
    return list(zip(heads.tolist(), good(listing.paths, bad), strict=True))


def head_of(path):
    """Width, height, and whether it has colours, of an image file, (3,) int32."""
    with opened(path) as image:
        return np.array([*image.size, Image.getmodebase(image.mode) != "L"], np.int32)


# --- their pixels


def pixels_of(listing, shape, skip_bad=False, bound=1, split_by="time"):
    """'train', 'test' -> (uint8 (N, *shape), memory-mapped, labels (N,)). bound, split_by: see steps_in. Raises UserError."""
    name, take = f"{'x'.join(map(str, shape))}.pixels", partial(decoded, shape=shape)
    if listing.of_recordings:
        name, take = (
            f"to_{bound}_by_{split_by}_{name}",
            partial(steps_in, shape=shape, bound=bound, split_by=split_by),
        )
    pixels, bad = decoded_once(listing, name, take, "decoding images")
    if bad:
        check_left(listing, bad, skip_bad)
    labels = torch.tensor(good(listing.labels, bad))
    trains = listing.trains - sum(position < listing.trains for position in bad)
    return {
        "train": (pixels[:trains], labels[:trains]),
        "test": (pixels[trains:], labels[trains:]),
    }


def good(values, bad):
    """Those of the values whose position is not bad."""
    return [value for position, value in enumerate(values) if position not in bad]


def check_left(listing, bad, skip_bad):
    """Say which files are bad, position -> why. Raises UserError unless they may be skipped and leave one of each class."""
    count = f"{len(bad):,} of {len(listing.paths):,} files in {listing.folder}"
    named = some([f"{listing.paths[position]} ({why})" for position, why in bad.items()])
    if not skip_bad:
        raise UserError(
            f"{count} cannot be read: {named}; repair or remove them, or --skip_bad leaves them out"
        )
    places = [
        f"{PARTS[position >= listing.trains]}/{listing.classes[label]}"
        for position, label in enumerate(listing.labels)
    ]
    if gone := sorted({*places} - {*good(places, bad)}):
        raise UserError(f"{listing.folder}: no file of {some(gone)} can be read: {named}")
    say_once(f"note: {count} cannot be read and are left out: {named}")


# --- decoded once


def decoded_once(listing, name, take, doing):
    """(take(path), an array, of each file of a Listing that can be read, as one memory-mapped tensor; position -> why not, of the
    others), kept under this name. Another process that wants it meanwhile waits. Raises UserError where it cannot be kept."""

    def attempt(path):
        """take(path), or a str that says why it cannot be read."""
        try:
            return take(listing.folder / path)
        except ModelError as error:
            return str(error).removeprefix(f"{listing.folder / path}: ")

    folder = listing.folder.resolve()
    own_name = f"{folder.name}_{digest_of([str(folder)])}"
    for place in (lambda: folder / ".cache", lambda: users_folder() / own_name):
        try:
            path = place() / name
            if kept := cached(path, listing, attempt):
                return kept
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                return cached(path, listing, attempt) or cache(path, listing, attempt, doing)
        except (OSError, UserError, ModelError) as error:
            failure = error
    raise UserError(
        f"no place to keep the decoded images: {failure}; set XDG_CACHE_HOME to a folder that can be written"
    )


def cached(path, listing, attempt):
    """What is kept, see decoded_once; None where it is absent, damaged or stale, or where a bad file can be read by now."""
    try:
        about = json.loads(Path(f"{path}.json").read_bytes())
        bad = dict(about["bad"])
        if about["digest"] != listing.digest or not all(
            isinstance(attempt(listing.paths[n]), str) for n in bad
        ):
            return None
        return mapped(path), bad
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def mapped(path):
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch warns that the values must not be written to, and nothing does
        return torch.from_numpy(np.load(f"{path}.npy", mmap_mode="r"))


def cache(path, listing, attempt, doing):
    """Decode the files, with a progress bar, and keep them; returns what is kept, see decoded_once."""
    bad, paths = {}, listing.paths

    def fill(file):
        count, array = 0, np.uint8(0)
        with ThreadPoolExecutor() as pool:
            parts = (paths[begin : begin + AT_ONCE] for begin in range(0, len(paths), AT_ONCE))
            results = chain.from_iterable(
                pool.map(attempt, part) for part in parts
            )  # one part at most waits for the disk
            for position, result in enumerate(
                tqdm(results, doing, len(paths), disable=None, leave=False, unit="file")
            ):
                if isinstance(result, str):
                    bad[position] = result
                    continue
                count, array = count + 1, result
                if count == 1:
                    write_head(file, count, array)
                file.write(array.tobytes())
        file.seek(0)
        write_head(file, count, array)  # of the same length: NumPy leaves room for the count

    Path(f"{path}.json").unlink(missing_ok=True)  # of other files
    write_whole(f"{path}.npy", fill)
    about = {"digest": listing.digest, "bad": [*bad.items()]}
    write_whole(f"{path}.json", lambda file: file.write(json.dumps(about).encode()))
    return mapped(path), bad


def write_head(file, count, array):
    shape = {"descr": array.dtype.str, "fortran_order": False, "shape": (count, *array.shape)}
    np.lib.format.write_array_header_1_0(file, shape)
