"""A folder of images, or of recordings of event cameras, as a data set: FOLDER/train/CLASS/*, FOLDER/test/CLASS/*, decoded once
into memory-mapped tensors."""

import functools
import hashlib
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from harness import UserError
from harness.data.cache import kept, read_arrays, write_arrays
from harness.data.frames import ARRAYS, is_recording, shape_in, steps_in
from harness.processes import ranks
from self_models.basics.errors import ModelError
from self_models.basics.files import ENDINGS, decoded, is_image, size_and_colour
from self_models.basics.images import IMAGE_SHAPES
from self_models.basics.settings import meant

LAYOUT = "images belong in FOLDER/train/CLASS/ and FOLDER/test/CLASS/"
REPAIR = "; repair or remove them, or --skip_bad leaves them out"
AT_ONCE = 64  # files that are handed to the threads together


@dataclass(frozen=True)
class Listing:
    """The image files of FOLDER/train or FOLDER/test, or the recordings there, in an order that mixes the classes in their
    proportions: the first and the last N are of all classes. labels: positions in classes; digest: of names, sizes and times of
    change; known_by: how many there are and a digest of names and sizes, in words, the same wherever the folder is copied to."""

    folder: Path
    part: str
    paths: tuple
    labels: tuple
    classes: tuple
    digest: str
    known_by: str

    @property
    def of_recordings(self):
        return is_recording(self.paths[0])

    def shown(self, position):
        """A file's path within FOLDER, for a reader."""
        return str(Path(self.paths[position]).relative_to(self.folder))


def list_folder(name):
    """(training, test) Listings of a folder. Raises UserError where they make no data set."""
    folder, parts = Path(name), ("train", "test")
    if lacks := [part for part in parts if not (folder / part).is_dir()]:
        near = meant(folder.name, IMAGE_SHAPES)
        known = f"is neither {', '.join(IMAGE_SHAPES)} nor a folder that is there{near and f' ({near.strip()})'}"
        raise UserError(f"--dataset {name} {f'has no folder {lacks[0]}/' if folder.is_dir() else known}: {LAYOUT}")
    train, test = (list_part(folder, part) for part in parts)
    if train.of_recordings != test.of_recordings:
        raise UserError(f"--dataset {name}: one of train/ and test/ has images, the other recordings: both must have the same")
    both = set(train.classes) & set(test.classes)
    if lone := [f"{one.part}/{each}" for one in (train, test) for each in one.classes if each not in both]:
        raise UserError(f"--dataset {name}: train/ and test/ must have the same classes, and only one has {some(lone)}")
    return train, test


def list_part(folder, part):
    """The Listing of one part, of recordings where there are no images. Raises UserError for fewer than two classes, or an empty
    one."""
    root, keyed, digest, lasting = folder / part, [], hashlib.blake2b(digest_size=12), hashlib.blake2b(digest_size=6)
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
        if len(names) < 2:
            raise UserError(f"two class folders or more are needed in {root}, which has {some(names) or 'none'}: {LAYOUT}")
        for is_wanted in (is_image, is_recording):
            files = [sorted(files_below(root / name, is_wanted), key=os.path.split) for name in names]
            if any(files):
                break
        if empty := [name for name, paths in zip(names, files, strict=True) if not paths]:
            kinds = [f"images ({', '.join(ENDINGS)})"] * (is_wanted is is_image or not any(files))
            kinds += [f"recordings ({', '.join(ARRAYS)})"] * (is_wanted is is_recording)
            raise UserError(f"{root}: no {' or '.join(kinds)} of class {some(empty)}: add some, or remove the folder")
    except OSError as error:
        raise UserError(f"{error.filename or root} cannot be read: {error.strerror}") from None
    for label, paths in enumerate(files):
        keyed += [((within + 0.5) / len(paths), label, path) for within, path in enumerate(paths)]
    _, labels, paths = zip(*sorted(keyed), strict=True)
    for path in paths:
        within, size, time = os.fsencode(path.removeprefix(f"{root}{os.sep}")), *size_and_time(path)
        digest.update(within + f"\0{size} {time}\0".encode())
        lasting.update(within + f"\0{size}\0".encode())
    classes = tuple(os.fsencode(name).decode(errors="replace") for name in names)
    known_by = f"{len(paths):,} files (names and sizes: {lasting.hexdigest()})"
    return Listing(folder, part, paths, labels, classes, digest.hexdigest(), known_by)


def files_below(folder, is_wanted, above=()):
    """The paths of the files whose name is wanted in a folder and in those inside it, hidden ones aside; a link that leads back
    is not followed. above: the folders around it."""
    if (itself := os.path.realpath(folder)) in above:
        return
    for entry in os.scandir(folder):
        if entry.is_dir() and not entry.name.startswith("."):
            yield from files_below(entry.path, is_wanted, (*above, itself))
        elif is_wanted(entry.name) and (entry.is_file() or entry.is_symlink()):  # a link to nowhere is a file that cannot be read
            yield entry.path


def size_and_time(path):
    """(bytes, ns) of a file, or why there is nothing to be known of it, twice."""
    try:
        about = os.stat(path)
    except OSError as error:
        return error.strerror, error.strerror
    return about.st_size, about.st_mtime_ns


def shape_of(listings, image_size=None, grey=None, skip_bad=False):
    """(C, H, W) of the images of these Listings, where not given their own: grey where all files are, and their size. Raises
    UserError where they have several, or are not square."""
    heads, looks = [], image_size is None or grey is None
    for found in each_of(listings, partial(heads_of, skip_bad=skip_bad)) if looks else ():
        heads += found
    if grey is None:
        without = sum(not colour for (_, _, colour), _ in heads)
        grey = without == len(heads)
        if without and not grey and ranks.is_first():
            say_once(
                f"note: {without:,} of {len(heads):,} files are grey, the others in colour: all are read in colour (--grey: grey)"
            )
    if image_size is None:
        sizes = {(width, height): where for (width, height, _), where in reversed(heads)}
        image_size, height = min(sizes)
        if len(sizes) > 1 or image_size != height:
            found = some([f"{width}x{height} ({of.shown(at)})" for (width, height), (of, at) in sorted(sizes.items())])
            raise UserError(
                f"the images of {listings[0].folder} are not square and of one size, but {found}: add --image_size N, to which "
                "their short side is resized before the middle is cut out, N x N pixels"
            )
    return 1 if grey else 3, image_size, image_size


def recorded_shape(listings, skip_bad=False):
    """(T, 2, H, W) of the recordings of these Listings. Raises UserError where they have several."""
    heads = [head for found in each_of(listings, partial(heads_of, skip_bad=skip_bad)) for head in found]
    shapes = {tuple(shape): where for shape, where in reversed(heads)}
    if len(shapes) > 1:
        found = some([f"{shape} ({of.shown(at)})" for shape, (of, at) in sorted(shapes.items())])
        raise UserError(
            f"the recordings of {listings[0].folder} are not of one shape (T, C, H, W), but {found}: split each into as many "
            "frames as the others, of one size"
        )
    return next(iter(shapes))


def each_of(listings, take):
    """[take(listing) of each of these]. Raises one UserError for all of them whose files cannot be read."""
    found, faults = [], []
    for listing in listings:
        try:
            found.append(take(listing))
        except UserError as error:
            faults.append(str(error))
    if faults := list(dict.fromkeys(faults)):
        raise UserError("; ".join([*(fault.removesuffix(REPAIR) for fault in faults[:-1]), faults[-1]]))
    return found


def heads_of(listing, skip_bad):
    """[((width, height, whether it has colours), or of recordings (T, C, H, W), (the Listing, position))] of the files of a
    Listing that can be read."""
    take = shape_in if listing.of_recordings else head_of
    heads, positions, _ = arrays_of(listing, "heads", take, skip_bad, "sizes of")
    return [(head, (listing, position)) for head, position in zip(heads.tolist(), positions, strict=True)]


def head_of(path):
    size, has_colours = size_and_colour(path)
    return np.array([*size, has_colours], np.int32)


def pixels_of(listing, shape, skip_bad, bound=1):
    """(uint8 (N, *shape) in a memory-mapped file, labels (N,)) of a Listing, decoded where there is no such file yet. bound: of
    recordings, see steps_in."""
    name, take = f"{'x'.join(map(str, shape))}.pixels", partial(decoded, shape=shape)
    if listing.of_recordings:
        name, take = f"to_{bound}_{name}", partial(steps_in, shape=shape, bound=bound)
    pixels, positions, note = arrays_of(listing, name, take, skip_bad, "decoding")
    if note and ranks.is_first():
        say_once(note)
    return pixels, torch.tensor(listing.labels)[positions]


def arrays_of(listing, name, take, skip_bad, what):
    """(a memory-mapped tensor of take(path), an array, of each file of a Listing that can be read; their positions; a line on the
    others or ''). It is kept under this name. Raises UserError for files that cannot be read, unless they are to be skipped."""

    def write(file):
        bad = []
        write_arrays(file, read_all(listing, take, what, bad), lambda: {"digest": listing.digest, "bad": bad})

    def read(path):
        arrays, about = read_arrays(path)
        still_bad = all(isinstance(attempt(take, listing.paths[position]), str) for position, _ in about["bad"])
        if about["digest"] != listing.digest or not still_bad:
            raise ValueError("the files have changed")
        return arrays, about["bad"]

    arrays, bad = kept(listing.folder, f"{listing.part}_{name}", read, write)
    without = {position for position, _ in bad}
    positions = [position for position in range(len(listing.paths)) if position not in without]
    return arrays, positions, left_out(listing, bad, skip_bad)


def read_all(listing, read, what, bad):
    """read(path) of each file that can be read, with a progress bar; of the others bad gets [position, why]."""
    count = len(listing.paths)
    label, off = f"{what} {listing.part} images", None if ranks.is_first() else True
    with ThreadPoolExecutor() as pool, tqdm(total=count, desc=label, disable=off, leave=False, unit="file") as bar:
        for begin in range(0, count, AT_ONCE):  # so many results at most wait for whoever takes them
            for position, found in enumerate(pool.map(partial(attempt, read), listing.paths[begin : begin + AT_ONCE]), begin):
                if isinstance(found, str):
                    bad.append([position, found])
                else:
                    yield found
                bar.update()


def attempt(read, path):
    """read(path), or a str that says why it cannot be read."""
    try:
        return read(path)
    except ModelError as error:
        return str(error).removeprefix(f"{path}: ")


def left_out(listing, bad, skip_bad):
    """A line that names the files which cannot be read, '' where all can. Raises UserError unless they are to be skipped and
    leave an image of each class."""
    if not bad:
        return ""
    count = f"{len(bad):,} of {len(listing.paths):,} files in {listing.folder / listing.part}"
    named = some([f"{listing.shown(position)} ({why})" for position, why in bad])
    if not skip_bad:
        raise UserError(f"{count} cannot be read: {named}{REPAIR}")
    left = Counter(listing.labels) - Counter(listing.labels[position] for position, _ in bad)
    if gone := [name for label, name in enumerate(listing.classes) if not left[label]]:
        raise UserError(f"{listing.folder / listing.part}: no file of class {some(gone)} can be read: {named}")
    return f"note: {count} cannot be read and are left out: {named}"


@functools.cache
def say_once(line):
    """A line on standard error, once in a process."""
    print(line, file=sys.stderr, flush=True)


def some(names, most=3):
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
