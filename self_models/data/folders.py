"""A folder of images, or of recordings of event cameras, as a data set.

Its files are listed, decoded once, and kept as memory-mapped tensors. What was decoded
lies beside the images, or in the user's cache: NAME.npy, and NAME.json that says of
which files.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from self_models.data.events import RECORDINGS, read_as_frames, read_shape
from self_models.data.images import ENDINGS, IMAGE_SHAPES, decode_image, open_image, readable_name
from self_models.errors import ModelError, UserError
from self_models.files import write_whole
from self_models.notes import say_once, some
from self_models.places import users_folder
from self_models.settings import meant

LAYOUT = "images belong in FOLDER/train/CLASS/ and FOLDER/test/CLASS/"
PARTS = ("train", "test")
KINDS = {"images": ENDINGS, "recordings": RECORDINGS}
AT_ONCE = 64  # files that are handed to the threads together
TEST_EVERY = 5  # of recordings without train/ and test/ every fifth of a class is for testing

FilesByClass = dict[str, list[str]]  # class -> paths within the folder


# --- which files there are


@dataclass(frozen=True)
class Listing:
    """The image files of a folder, or the recordings there.

    Those of train/ come first, then those of test/. The order mixes the classes in
    their proportions, so that the first and the last N are of all classes.

    Attributes
    ----------
    folder : Path
        The folder.
    of_recordings : bool
        Whether the files are recordings.
    classes : tuple of str
        Names in the order of the labels.
    paths : tuple of str
        Of the files, within the folder.
    labels : tuple of int
        Position of each file's class in ``classes``.
    trains : int
        How many files are of train/.
    digest : str
        Of paths, sizes and times of change. It tells whether decoded files are stale.
    known_by : dict of {str: str}
        "train" and "test" -> how many files there are and a digest of names and sizes,
        in words, the same wherever the folder is copied to.
    """

    folder: Path
    of_recordings: bool
    classes: tuple
    paths: tuple
    labels: tuple
    trains: int
    digest: str
    known_by: dict


def list_folder(name: str | os.PathLike) -> Listing:
    """List the images or recordings of a folder.

    Parameters
    ----------
    name : str or Path
        A folder with train/CLASS/ and test/CLASS/. Recordings may also lie in CLASS/
        alone: then every fifth of a class is for testing.

    Returns
    -------
    Listing
        The files.

    Raises
    ------
    UserError
        If it is no such folder.
    """
    folder = Path(name)
    parts = [part for part in PARTS if (folder / part).is_dir()]
    is_undivided = not parts and has_recordings(folder)
    if len(parts) < 2 and not is_undivided:
        raise UserError(f"--dataset {name} {lack_of_layout(folder, parts)}: {LAYOUT}")

    files = {part: files_by_class(folder, part) for part in parts or [""]}
    kind = find_kind(files)
    files = {part: select_kind(kind, classes) for part, classes in files.items()}
    if is_undivided:
        say_once(
            f"note: {folder} has no train/ and test/: "
            "every fifth recording of a class is for testing"
        )
        files = divide_files(files[""])
    check_both_parts(folder, kind, files)

    entries = order_files(files)
    paths = tuple(entry.path for entry in entries)
    num_train = sum(not entry.is_test for entry in entries)
    stats = [stat_file(folder / path) for path in paths]
    rows = list(zip(paths, stats, strict=True))
    return Listing(
        folder=folder,
        of_recordings=kind == "recordings",
        classes=tuple(files["train"]),
        paths=paths,
        labels=tuple(entry.label for entry in entries),
        trains=num_train,
        digest=make_digest(f"{path}\0{file.st_size} {file.st_mtime_ns}\0" for path, file in rows),
        known_by={
            "train": content_in_words(rows[:num_train]),
            "test": content_in_words(rows[num_train:]),
        },
    )


def has_recordings(folder: Path) -> bool:
    """Return whether there are recordings in FOLDER/CLASS/."""
    return any(path.suffix.lower() in RECORDINGS for path in folder.glob("*/*"))


def lack_of_layout(folder: Path, parts: list[str]) -> str:
    """Say what a folder lacks that has at most one of train/ and test/."""
    if folder.is_dir():
        lacking = "test" if parts == ["train"] else "train"
        return f"has no folder {lacking}/"
    hint = meant(folder.name, IMAGE_SHAPES).strip()
    if hint:
        hint = f" ({hint})"
    return f"is neither {', '.join(IMAGE_SHAPES)} nor a folder that is there{hint}"


def find_kind(files: dict[str, FilesByClass]) -> str:
    """Return which of `KINDS` there are, "images" if none; files: of each part."""
    names = []
    for classes in files.values():
        for paths in classes.values():
            names += [path.lower() for path in paths]
    for kind, endings in KINDS.items():
        if any(name.endswith(endings) for name in names):
            return kind
    return "images"


def divide_files(classes: FilesByClass) -> dict[str, FilesByClass]:
    """Divide the files of each class into those for training and for testing."""
    train = {}
    test = {}
    for name, paths in classes.items():
        test[name] = paths[TEST_EVERY - 1 :: TEST_EVERY]
        train[name] = [path for n, path in enumerate(paths) if (n + 1) % TEST_EVERY]
    return {"train": train, "test": test}


class Entry(NamedTuple):
    """A file's place in a Listing: entries are sorted by these fields, in this order.

    Attributes
    ----------
    is_test : bool
        Whether it is for testing.
    place : float, 0 to 1
        Of the n-th of a class's N files (n + 1/2) / N. It mixes the classes.
    label : int
        Number of its class.
    path : str
        Within the folder.
    """

    is_test: bool
    place: float
    label: int
    path: str


def order_files(files: dict[str, FilesByClass]) -> list[Entry]:
    """Return the files of both parts in the order of a Listing."""
    entries = []
    for part, classes in files.items():
        for label, paths in enumerate(classes.values()):
            for n, path in enumerate(paths):
                entries.append(Entry(part == "test", (n + 0.5) / len(paths), label, path))
    return sorted(entries)


def stat_file(path: Path) -> os.stat_result:
    """Return size and times of a file; of a link to nowhere, a bad file, its own."""
    return path.stat(follow_symlinks=path.exists())


def content_in_words(rows: Sequence[tuple[str, os.stat_result]]) -> str:
    """Say how many files there are, with a digest of their names and sizes.

    The first folder of a path, train/ or test/, does not count.
    """
    digest = make_digest(f"{path.split('/', 1)[1]}\0{file.st_size}\0" for path, file in rows)
    return f"{len(rows):,} files (names and sizes: {digest})"


def make_digest(words: Iterable[str]) -> str:
    """Return a digest of texts, twelve hexadecimal digits."""
    return hashlib.blake2b(os.fsencode("".join(words)), digest_size=6).hexdigest()


def files_by_class(folder: Path, part: str = "") -> FilesByClass:
    """Find the files of each class. What is hidden is left aside.

    Parameters
    ----------
    folder : Path
        The folder.
    part : {"train", "test", ""}
        In which of its folders the classes are; "": in itself.

    Returns
    -------
    dict of {str: list of str}
        Class -> paths within the folder. All are sorted.

    Raises
    ------
    UserError
        If a folder cannot be read, and for a class that no log could name.
    """
    within = folder / part
    classes = {}
    for name in sorted(path[:-1] for path in glob("*/", root_dir=within)):
        if readable_name(name) != name:
            path = readable_name(within / name)
            raise UserError(f"{path}: the name of this class is not UTF-8: rename the folder")
        paths = []
        walk = os.walk(within / name, onerror=refuse_folder, followlinks=True)
        for place, _, files in walk:
            paths += [os.path.relpath(os.path.join(place, file), folder) for file in files]
        visible = [path for path in paths if f"{os.sep}." not in path]
        classes[name] = sorted(visible, key=os.path.split)
    return classes


def refuse_folder(error: OSError) -> None:
    """Raise UserError for a folder that os.walk cannot read."""
    raise UserError(f"{error.filename} cannot be read: {error.strerror}")


def select_kind(kind: str, classes: FilesByClass) -> FilesByClass:
    """Return the files of each class that are of one of `KINDS`."""
    chosen = {}
    for name, paths in classes.items():
        chosen[name] = [path for path in paths if path.lower().endswith(KINDS[kind])]
    return chosen


def labelled_recordings(folder: str | os.PathLike) -> dict[str, list[Path]]:
    """Find the recordings of each class.

    Parameters
    ----------
    folder : str or Path
        A folder with CLASS/ or test/CLASS/.

    Returns
    -------
    dict of {str: list of Path}
        Class -> paths of its recordings, sorted. Classes without any are left out.

    Raises
    ------
    UserError
        If there are none.
    """
    folder = Path(folder)
    part = "test" if (folder / "test").is_dir() else ""
    classes = select_kind("recordings", files_by_class(folder, part))
    if not any(classes.values()):
        raise UserError(
            f"{folder} has no recordings ({', '.join(RECORDINGS)}) in folders of its classes: "
            "FOLDER/CLASS/*"
        )
    recordings = {}
    for name, paths in classes.items():
        if paths:
            recordings[name] = [folder / path for path in paths]
    return recordings


def check_both_parts(folder: Path, kind: str, files: dict[str, FilesByClass]) -> None:
    """Raise UserError unless both parts have files of the same two or more classes.

    Parameters
    ----------
    folder : Path
        The folder, for the message.
    kind : {"images", "recordings"}
        What the files are.
    files : dict of {str: dict of {str: list of str}}
        "train" and "test" -> class -> paths of its files.
    """
    names = sorted(files["train"].keys() | files["test"].keys())
    if len(names) < 2:
        raise UserError(
            f"two class folders or more are needed in {folder}, "
            f"which has {some(names) or 'none'}: {LAYOUT}"
        )
    lacking = []
    for part in PARTS:
        lacking += [f"{part}/{name}" for name in names if not files[part].get(name)]
    if lacking:
        endings = ", ".join(KINDS[kind])
        raise UserError(
            f"{folder}: no {kind} ({endings}) in {some(lacking)}: "
            "train/ and test/ need some of each class"
        )


# --- their shape


class Head(NamedTuple):
    """What a file says of itself.

    Attributes
    ----------
    values : list of int
        Of an image what `read_head` reads, of a recording its shape.
    path : str
        Of the file, within the folder.
    """

    values: list
    path: str


def shape_of(
    listing: Listing, image_size: int | None = None, grey: bool | None = None
) -> tuple[int, int, int]:
    """Find the shape in which a folder's images are read.

    Parameters
    ----------
    listing : Listing
        The images.
    image_size : int, optional
        Height and width; by default those of the files.
    grey : bool, optional
        Whether to read grey images; by default if all files are grey.

    Returns
    -------
    tuple of int
        (C, H, W).

    Raises
    ------
    UserError
        If the files are not square, or not of one size, and nobody says which, and if
        none can be read.
    """
    if image_size is None or grey is None:
        heads = read_heads(listing, read_head)
    if grey is None:
        grey = are_grey(heads)
    if image_size is None:
        image_size = common_size(listing, heads)
    return 1 if grey else 3, image_size, image_size


def are_grey(heads: list[Head]) -> bool:
    """Return whether all images are grey, and say so if only some of them are."""
    num_grey = 0
    for head in heads:
        _, _, has_colours = head.values
        if not has_colours:
            num_grey += 1
    if num_grey == len(heads):
        return True
    if num_grey:
        say_once(
            f"note: {num_grey:,} of {len(heads):,} files are grey, the others not: "
            "all are read in colour (--grey: grey)"
        )
    return False


def common_size(listing: Listing, heads: list[Head]) -> int:
    """Return the one size that all images have.

    Parameters
    ----------
    listing : Listing
        The images.
    heads : list of Head
        Of those that can be read: width, height, and whether there are colours.

    Returns
    -------
    int
        Height and width in pixels.

    Raises
    ------
    UserError
        If the images are of several sizes, or not square.
    """
    first_paths = {}  # (width, height) -> the first image of this size
    for head in heads:
        width, height, _ = head.values
        first_paths.setdefault((width, height), head.path)
    width, height = min(first_paths)
    if len(first_paths) > 1 or width != height:
        sizes = sorted(first_paths.items())
        named = some([f"{width}x{height} ({path})" for (width, height), path in sizes])
        raise UserError(
            f"{listing.folder}: images are not square and of one size, but {named}: "
            "add --image_size N (it crops)"
        )
    return width


def recorded_shape(
    listing: Listing, frames: int, image_shape: tuple[int, int, int] | None = None
) -> tuple[int, int, int, int]:
    """Find the shape in which a folder's recordings are read.

    Parameters
    ----------
    listing : Listing
        The recordings.
    frames : int
        Into how many frames events are split.
    image_shape : tuple of int, optional
        (2, H, W) of frames made of events; by default as large as the events reach.

    Returns
    -------
    tuple of int
        (T, 2, H, W): of recordings that have frames, theirs.

    Raises
    ------
    UserError
        If recordings are of several shapes, and if no file can be read.
    """
    first_paths = {}  # shape -> the first recording of this shape
    for head in read_heads(listing, read_shape):
        first_paths.setdefault(tuple(head.values), head.path)
    shapes = list(first_paths)
    if not any(shape[0] for shape in shapes):  # all are events, see read_shape
        if not image_shape:
            image_shape = np.max(shapes, 0).tolist()[1:]
        return frames, *image_shape
    if len(shapes) > 1:
        named = some([f"{shape} ({path})" for shape, path in sorted(first_paths.items())])
        raise UserError(
            f"{listing.folder}: recordings are not of one shape (T, C, H, W), but {named}: "
            "give each as many frames"
        )
    return shapes[0]


def read_heads(listing: Listing, take: Callable[[Path], np.ndarray]) -> list[Head]:
    """Return the heads of a folder's files that can be read.

    Parameters
    ----------
    listing : Listing
        The files.
    take : callable
        Path of a file -> what it says of itself, an array.

    Returns
    -------
    list of Head
        In the order of the listing.

    Raises
    ------
    UserError
        If no file can be read.
    """
    values, bad = decode_once(listing, "heads", take, "sizes of images")
    if len(bad) == len(listing.paths):
        check_left(listing, bad, skip_bad=True)
    paths = without_bad(listing.paths, bad)
    return [Head(head, path) for head, path in zip(values.tolist(), paths, strict=True)]


def read_head(path: Path) -> np.ndarray:
    """Return width, height, and whether an image file has colours, (3,) int32."""
    with open_image(path) as image:
        has_colours = Image.getmodebase(image.mode) != "L"
        return np.array([*image.size, has_colours], np.int32)


# --- their pixels


def pixels_of(
    listing: Listing,
    shape: tuple[int, ...],
    skip_bad: bool = False,
    bound: int = 1,
    split_by: str = "time",
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Read a folder's images or recordings.

    Parameters
    ----------
    listing : Listing
        The files.
    shape : tuple of int
        (C, H, W) of images, or (T, 2, H, W) of recordings.
    skip_bad : bool, default False
        Leave out what cannot be read.
    bound, split_by
        Of recordings, see `read_as_frames`.

    Returns
    -------
    dict of {str: (Tensor of shape (N, *shape), Tensor of shape (N,))}
        "train" and "test": pixels, uint8, memory-mapped, and labels.

    Raises
    ------
    UserError
        If a file cannot be read and is not to be skipped, and if nothing is left of a
        class.
    """
    name = f"{'x'.join(map(str, shape))}.pixels"
    take = partial(decode_image, shape=shape)
    if listing.of_recordings:
        name = f"to_{bound}_by_{split_by}_{name}"
        take = partial(read_as_frames, shape=shape, bound=bound, split_by=split_by)
    pixels, bad = decode_once(listing, name, take, "decoding images")
    if bad:
        check_left(listing, bad, skip_bad)
    labels = torch.tensor(without_bad(listing.labels, bad))
    num_train = listing.trains - sum(position < listing.trains for position in bad)
    return {
        "train": (pixels[:num_train], labels[:num_train]),
        "test": (pixels[num_train:], labels[num_train:]),
    }


def without_bad(values: Sequence, bad: dict[int, str]) -> list:
    """Return the values whose position is not among those of bad files."""
    return [value for position, value in enumerate(values) if position not in bad]


def check_left(listing: Listing, bad: dict[int, str], skip_bad: bool) -> None:
    """Say which files are bad, and raise UserError unless enough is left.

    Parameters
    ----------
    listing : Listing
        The files.
    bad : dict of {int: str}
        Position of a file -> why it cannot be read.
    skip_bad : bool
        Whether they may be left out. One file of each class must remain.
    """
    count = f"{len(bad):,} of {len(listing.paths):,} files in {listing.folder}"
    named = some([f"{listing.paths[position]} ({why})" for position, why in bad.items()])
    if not skip_bad:
        raise UserError(
            f"{count} cannot be read: {named}; "
            "repair or remove them, or --skip_bad leaves them out"
        )
    places = []
    for position, label in enumerate(listing.labels):
        part = "train" if position < listing.trains else "test"
        places.append(f"{part}/{listing.classes[label]}")
    gone = sorted(set(places) - set(without_bad(places, bad)))
    if gone:
        raise UserError(f"{listing.folder}: no file of {some(gone)} can be read: {named}")
    say_once(f"note: {count} cannot be read and are left out: {named}")


# --- decoded once


class DecodedFiles(NamedTuple):
    """What was made of a folder's files.

    Attributes
    ----------
    values : Tensor of shape (N, ...)
        Of the files that can be read; memory-mapped.
    bad : dict of {int: str}
        Position of each other file -> why it cannot be read.
    """

    values: torch.Tensor
    bad: dict[int, str]


def decode_once(
    listing: Listing, name: str, take: Callable[[Path], np.ndarray], doing: str
) -> DecodedFiles:
    """Decode a folder's files, or find them decoded.

    Another process that wants the same meanwhile waits.

    Parameters
    ----------
    listing : Listing
        The files.
    name : str
        Under which the result is kept.
    take : callable
        Path of a file -> array, of one shape for all. It may raise ModelError.
    doing : str
        What the progress bar says.

    Returns
    -------
    DecodedFiles
        The result.

    Raises
    ------
    UserError
        If there is no place where it can be kept.
    """
    folder = listing.folder.resolve()
    attempt = partial(take_or_reason, listing.folder, take)
    for find_place in (place_beside, place_of_user):
        try:
            path = find_place(folder) / name
            kept = find_kept(path, listing, attempt)
            if kept:
                return kept
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                # Whoever had the lock before may have made it.
                kept = find_kept(path, listing, attempt)
                if kept:
                    return kept
                return decode_and_keep(path, listing, attempt, doing)
        except (OSError, UserError, ModelError) as error:
            failure = error
    raise UserError(
        f"no place to keep the decoded images: {failure}; "
        "set XDG_CACHE_HOME to a folder that can be written"
    )


def place_beside(folder: Path) -> Path:
    """Return where decoded files are kept beside the images."""
    return folder / ".cache"


def place_of_user(folder: Path) -> Path:
    """Return where they are kept among the user's caches, for a folder of others."""
    return users_folder() / f"{folder.name}_{make_digest([str(folder)])}"


def take_or_reason(
    folder: Path, take: Callable[[Path], np.ndarray], path: str
) -> np.ndarray | str:
    """Decode a file; a text says why if that cannot be done."""
    try:
        return take(folder / path)
    except ModelError as error:
        return str(error).removeprefix(f"{folder / path}: ")


def find_kept(
    path: Path, listing: Listing, attempt: Callable[[str], np.ndarray | str]
) -> DecodedFiles | None:
    """Load what was kept.

    Parameters
    ----------
    path : Path
        Without its endings .npy and .json.
    listing : Listing
        The files of which it should be.
    attempt : callable
        Decodes a file, see `take_or_reason`.

    Returns
    -------
    DecodedFiles or None
        None if it is absent, damaged or stale, or if a bad file can be read by now.
    """
    try:
        about = json.loads(Path(f"{path}.json").read_bytes())
        bad = dict(about["bad"])
        if about["digest"] != listing.digest:
            return None
        for position in bad:
            if not isinstance(attempt(listing.paths[position]), str):
                return None
        return DecodedFiles(memory_mapped(path), bad)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def memory_mapped(path: Path) -> torch.Tensor:
    """Return the tensor of PATH.npy, of which only what is read is loaded."""
    with warnings.catch_warnings():
        # torch warns that the values must not be written to, and nothing does.
        warnings.simplefilter("ignore")
        return torch.from_numpy(np.load(f"{path}.npy", mmap_mode="r"))


def decode_and_keep(
    path: Path, listing: Listing, attempt: Callable[[str], np.ndarray | str], doing: str
) -> DecodedFiles:
    """Decode all files, with a progress bar, and keep them.

    Parameters
    ----------
    path : Path
        Where to, without the endings .npy and .json.
    listing : Listing
        The files.
    attempt : callable
        Decodes a file, see `take_or_reason`.
    doing : str
        What the progress bar says.

    Returns
    -------
    DecodedFiles
        What is kept now.
    """
    bad = {}
    Path(f"{path}.json").unlink(missing_ok=True)  # it is of other files
    write = partial(write_decoded, paths=listing.paths, attempt=attempt, doing=doing, bad=bad)
    write_whole(f"{path}.npy", write)
    about = {"digest": listing.digest, "bad": list(bad.items())}
    content = json.dumps(about).encode()
    write_whole(f"{path}.json", lambda file: file.write(content))
    return DecodedFiles(memory_mapped(path), bad)


def write_decoded(
    file: BinaryIO,
    paths: Sequence[str],
    attempt: Callable[[str], np.ndarray | str],
    doing: str,
    bad: dict[int, str],
) -> None:
    """Decode files, and write those that can be read as one array in NumPy's format.

    Parameters
    ----------
    file : file object
        Where to.
    paths : sequence of str
        The files.
    attempt : callable
        Decodes a file, see `take_or_reason`.
    doing : str
        What the progress bar says.
    bad : dict of {int: str}
        Gets the position of each file that cannot be read, and why.
    """
    count = 0
    array = np.uint8(0)
    with ThreadPoolExecutor() as pool:
        results = attempts(pool, attempt, paths)
        bar = tqdm(results, doing, len(paths), disable=None, leave=False, unit="file")
        for position, result in enumerate(bar):
            if isinstance(result, str):
                bad[position] = result
                continue
            count += 1
            array = result
            if count == 1:
                write_head(file, count, array)
            file.write(array.tobytes())
    file.seek(0)
    write_head(file, count, array)  # of the same length: NumPy leaves room for the count


def attempts(
    pool: ThreadPoolExecutor, attempt: Callable[[str], np.ndarray | str], paths: Sequence[str]
) -> Iterator[np.ndarray | str]:
    """Yield what the threads make of each file, in order.

    They get some files at once, so that only so many results wait to be written.
    """
    for begin in range(0, len(paths), AT_ONCE):
        yield from pool.map(attempt, paths[begin : begin + AT_ONCE])


def write_head(file: BinaryIO, count: int, array: np.ndarray) -> None:
    """Write the head of a .npy file of so many arrays like this one."""
    head = {"descr": array.dtype.str, "fortran_order": False, "shape": (count, *array.shape)}
    np.lib.format.write_array_header_1_0(file, head)
