"""A folder of images, or of recordings of event cameras, as a data set, decoded once into a memory-mapped tensor."""

import functools
import hashlib
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from harness import UserError
from harness.data.cache import decoded_once
from harness.data.events import RECORDINGS, size_in, steps_in
from harness.runs import ranks
from self_models.basics.files import ENDINGS, decoded, size_and_colour
from self_models.basics.images import IMAGE_SHAPES
from self_models.basics.settings import meant

LAYOUT = "images belong in FOLDER/train/CLASS/ and FOLDER/test/CLASS/"
PARTS = ("train", "test")
KINDS = {"images": ENDINGS, "recordings": RECORDINGS}


@dataclass(frozen=True)
class Listing:
    """The image files of a folder, or the recordings there: those of train/, then those of test/, each in an order that mixes the
    classes in their proportions: the first and the last N are of all classes. paths: within the folder; labels: positions in
    classes; trains: how many are of train/; digest: of names, sizes and times of change; known_by: 'train' and 'test' -> how many
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
    """The Listing of a folder, of recordings where it has no images. Of recordings in FOLDER/CLASS/ every fifth of a class is for
    testing. Raises UserError where it makes no data set."""
    folder = Path(name)
    parts = [part for part in PARTS if (folder / part).is_dir()]
    is_whole = not parts and any(path.suffix.lower() in RECORDINGS for path in folder.glob("*/*"))
    if len(parts) < 2 and not is_whole:
        near = meant(folder.name, IMAGE_SHAPES)
        known = f"is neither {', '.join(IMAGE_SHAPES)} nor a folder that is there{near and f' ({near.strip()})'}"
        lacks = f"has no folder {'test' if parts == ['train'] else 'train'}/"
        raise UserError(f"--dataset {name} {lacks if folder.is_dir() else known}: {LAYOUT}")
    found = {part: files_by_class(folder, part) for part in parts or [""]}
    names = [path.lower() for files in found.values() for each in files.values() for path in each]
    kind = next((kind for kind in KINDS if any(name.endswith(KINDS[kind]) for name in names)), "images")
    found = {part: of_kind(kind, files) for part, files in found.items()}
    if is_whole:
        if few := [one for one, each in found[""].items() if len(each) < 5]:
            advice = "every fifth is for testing: add some, or make train/ and test/"
            raise UserError(f"{folder}: fewer than 5 recordings in {some(few)}, and {advice}")
        say_once(f"note: {folder} has no train/ and test/: every fifth recording of a class is for testing")
        test = {one: each[4::5] for one, each in found[""].items()}
        train = {one: [path for n, path in enumerate(each) if n % 5 < 4] for one, each in found[""].items()}
        found = {"train": train, "test": test}
    check_classes(folder, found)
    if empty := [f"{part}/{one}" for part, files in found.items() for one, each in files.items() if not each]:
        raise UserError(f"{folder}: no {kind} ({', '.join(KINDS[kind])}) in {some(empty)}: add some, or remove the folder")
    mixed = sorted(
        (part == "test", (n + 0.5) / len(each), label, path)
        for part, files in found.items() for label, each in enumerate(files.values()) for n, path in enumerate(each)
    )  # fmt: skip
    is_test, _, labels, paths = zip(*mixed, strict=True)
    trains = is_test.count(False)
    rows = [(path, *size_and_time(folder / path)) for path in paths]
    known_by = {"train": lasting(rows[:trains]), "test": lasting(rows[trains:])}
    return Listing(folder, kind == "recordings", tuple(found["train"]), paths, labels, trains, digest_of(rows), known_by)


def files_by_class(folder, part=""):
    """Class -> its files, paths within the folder, of one of PARTS or of a folder without, all sorted. Raises
    UserError where they cannot be read."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder / part) if entry.is_dir() and not entry.name.startswith("."))
        return {name: sorted(files_below(folder, os.path.join(part, name)), key=os.path.split) for name in names}
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}") from None


def of_kind(kind, files):
    """Class -> its files of one of KINDS."""
    return {name: [path for path in each if path.lower().endswith(KINDS[kind])] for name, each in files.items()}


def labelled_recordings(folder):
    """Class -> paths of its recordings, sorted, of FOLDER/CLASS/ or FOLDER/test/CLASS/. Raises UserError where there are none."""
    folder = Path(folder)
    found = files_by_class(folder, "test" if (folder / "test").is_dir() else "")
    found = {one: [folder / path for path in each] for one, each in of_kind("recordings", found).items()}
    if not any(found.values()):
        raise UserError(f"{folder} has no recordings ({', '.join(RECORDINGS)}) in folders of its classes: FOLDER/CLASS/*")
    return {one: each for one, each in found.items() if each}


def check_classes(folder, found):
    """Raises UserError where a part has fewer than two classes, or not those of the other part."""
    for part, names in found.items():
        if len(names) < 2:
            has = some([*names]) or "none"
            where = folder / part if (folder / part).is_dir() else folder
            raise UserError(f"two class folders or more are needed in {where}, which has {has}: {LAYOUT}")
    lone = [f"{part}/{one}" for part in PARTS for one in found[part] if one not in found["train"].keys() & found["test"].keys()]
    if lone:
        raise UserError(f"--dataset {folder}: train/ and test/ must have the same classes, and only one has {some(lone)}")


def files_below(folder, within):
    """The paths, within the folder, of the files in a folder of it and in those inside, hidden ones aside; an empty folder counts
    as a file."""
    for entry in os.scandir(folder / within):
        path = f"{within}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from [*files_below(folder, path)] or [path]  # one named like a file is a bad file
        elif entry.is_file() or entry.is_symlink():  # a link to nowhere is a bad file
            yield path


def size_and_time(path):
    """(bytes, ns) of a file, or of a link to nowhere itself."""
    about = path.stat(follow_symlinks=path.exists())
    return about.st_size, about.st_mtime_ns


def lasting(rows):
    """What is known of the files of a part, (path, size, time) each, wherever they lie and however old they are."""
    names_and_sizes = digest_of((path.split("/", 1)[1], size) for path, size, _ in rows)
    return f"{len(rows):,} files (names and sizes: {names_and_sizes})"


def digest_of(rows):
    """A digest of rows, a path and numbers each."""
    text = "".join(f"{path}\0{' '.join(map(str, numbers))}\0" for path, *numbers in rows)
    return hashlib.blake2b(os.fsencode(text), digest_size=6).hexdigest()


def shape_of(listing, image_size=None, grey=None):
    """(C, H, W) of a Listing's images, where not given their own: grey where all files are, and their size. Raises UserError
    where they have several, or are not square, and where no file can be read."""
    if image_size is None or grey is None:
        heads = heads_of(listing, head_of)
    if grey is None:
        without = sum(not colour for (_, _, colour), _ in heads)
        grey = without == len(heads)
        if without and not grey:
            say_once(f"note: {without:,} of {len(heads):,} files are grey, the others not: all are read in colour (--grey: grey)")
    if image_size is None:
        sizes = {(width, height): path for (width, height, _), path in reversed(heads)}
        image_size, height = min(sizes)
        if len(sizes) > 1 or image_size != height:
            found = some([f"{width}x{height} ({path})" for (width, height), path in sorted(sizes.items())])
            raise UserError(
                f"the images of {listing.folder} are not square and of one size, but {found}: add --image_size N (it crops)"
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
        found = some([f"{shape} ({path})" for shape, path in sorted(shapes.items())])
        raise UserError(
            f"the recordings of {listing.folder} are not of one shape (T, C, H, W), but {found}: split each into as many "
            "frames as the others, of one size"
        )
    return next(iter(shapes))


def heads_of(listing, take):
    """[(take(path) as a list, path)] of the files of a Listing whose heads can be read, in its order. Of the others pixels_of
    tells, together with those that are damaged behind their heads; UserError only where there are no others."""
    heads, bad = decoded_once(listing, "heads", take, "sizes of images")
    if len(bad) == len(listing.paths):
        check_left(listing, bad, skip_bad=True)
    return list(zip(heads.tolist(), good(listing.paths, bad), strict=True))


def head_of(path):
    size, has_colours = size_and_colour(path)
    return np.array([*size, has_colours], np.int32)


def pixels_of(listing, shape, skip_bad=False, bound=1, split_by="time"):
    """'train' and 'test' -> (uint8 (N, *shape), memory-mapped, labels (N,)). bound, split_by: of recordings, see steps_in. Raises
    UserError for files that cannot be read, unless they are to be skipped, which a line then says."""
    name, take = f"{'x'.join(map(str, shape))}.pixels", partial(decoded, shape=shape)
    if listing.of_recordings:
        name, take = f"to_{bound}_by_{split_by}_{name}", partial(steps_in, shape=shape, bound=bound, split_by=split_by)
    pixels, bad = decoded_once(listing, name, take, "decoding images")
    if bad:
        check_left(listing, bad, skip_bad)
    labels = torch.tensor(good(listing.labels, bad))
    trains = listing.trains - sum(position < listing.trains for position in bad)
    return {"train": (pixels[:trains], labels[:trains]), "test": (pixels[trains:], labels[trains:])}


def good(values, bad):
    """Those of the values whose position is not bad."""
    return [value for position, value in enumerate(values) if position not in bad]


def check_left(listing, bad, skip_bad):
    """Say which files are bad, position -> why. Raises UserError unless they may be skipped and leave one of each class."""
    count = f"{len(bad):,} of {len(listing.paths):,} files in {listing.folder}"
    named = some([f"{listing.paths[position]} ({why})" for position, why in bad.items()])
    if not skip_bad:
        raise UserError(f"{count} cannot be read: {named}; repair or remove them, or --skip_bad leaves them out")
    places = [f"{PARTS[position >= listing.trains]}/{listing.classes[label]}" for position, label in enumerate(listing.labels)]
    left = set(good(places, bad))
    if gone := sorted({*places} - left):
        raise UserError(f"{listing.folder}: no file of {some(gone)} can be read: {named}")
    say_once(f"note: {count} cannot be read and are left out: {named}")


@functools.cache
def say_once(line):
    """A line of the first rank on standard error, once in a process."""
    if ranks.is_first():
        print(line, file=sys.stderr, flush=True)


def some(names, most=3):
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
