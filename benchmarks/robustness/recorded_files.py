"""What scripts print and write, as data that two runs of one revision have in common.

Clock times, durations, speeds, revisions and the folders of a run are taken out. Files
are known by their content: tensors, arrays, pixels and lines, since the bytes of a
container may hold times.
"""

import base64
import io
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence

from benchmarks.robustness.figure_data import digest_of

TIMED = (  # keys of records and checkpoints whose values differ from run to run
    "seconds",
    "images_per_second",
    "recordings_per_second",
    "date",
    "time",
    "git_revision",
)
TEXTS = {".log", ".txt", ".md", ".csv", ".html", ".c", ".h", ".ino", ".toml", ".properties", ""}
MOST_LINES = 400  # of a longer text a digest is kept
MOST_LETTERS = 1000  # of a longer line the beginning and a digest are kept
SHOWN_LETTERS = 80  # of such a line
PICTURE = re.compile(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)")
# A table of speeds: its last two columns are images per second, and how much faster
# that is.
SPEED_TABLE = re.compile(r"(.*\S)\s+images/s\s+faster")
SPEED_ROW = re.compile(r"(.*\S)\s+[\d.,]+\s+[\d.]+")


class Normaliser:
    """Takes out of texts and records what differs between two runs of one revision.

    Parameters
    ----------
    folders : dict of {str: Path}
        For each name the folder that it stands for in what is recorded.
    """

    def __init__(self, folders: Mapping[str, Path]):
        self.replacements = []
        for name, folder in folders.items():
            for path in (str(folder.resolve()), str(folder)):
                self.replacements.append((path, name))
        # A folder within another one is replaced first.
        self.replacements.sort(key=lambda pair: len(pair[0]), reverse=True)

    def line(self, line: str) -> str:
        """Normalise one line of text."""
        for path, name in self.replacements:
            line = line.replace(path, name)
        line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", line)
        line = re.sub(r"\d{4}-\d\d-\d\d", "DATE", line)
        line = re.sub(r"git revision: [^;,]+", "git revision: REVISION", line)
        line = re.sub(r"[\d,]+\.\d s$", "SECONDS s", line)
        line = re.sub(r"[\d,.]+ (images|recordings) per second", r"SPEED \1 per second", line)
        line = PICTURE.sub(picture_in_text, line)
        if len(line) > MOST_LETTERS:
            line = f"{line[:SHOWN_LETTERS]} ... {digest_of(line.encode())}"
        return line

    def text(self, text: str) -> list[str] | str:
        """Normalise a text.

        Parameters
        ----------
        text : str
            The text.

        Returns
        -------
        list of str, or str
            Its lines; of a long text their number and a digest.
        """
        lines = []
        in_speed_table = False
        for line in text.splitlines():
            head = SPEED_TABLE.fullmatch(line)
            row = SPEED_ROW.fullmatch(line)
            if head:
                line = head[1]
            elif in_speed_table and row:
                line = row[1]
            in_speed_table = bool(head or (in_speed_table and row))
            lines.append(self.line(line))
        if len(lines) > MOST_LINES:
            return f"{len(lines)} lines, {digest_of(chr(10).join(lines).encode())}"
        return lines

    def value(self, value: object) -> object:
        """Normalise a value of a record or a checkpoint.

        Parameters
        ----------
        value : object
            Numbers, texts, tensors and arrays, in dicts and lists.

        Returns
        -------
        object
            The same as JSON knows it: keys are texts; a tensor is its type, shape and
            digest.
        """
        if isinstance(value, dict):
            normalised = self.mapping(value)
        elif isinstance(value, list | tuple):
            normalised = self.sequence(value)
        elif isinstance(value, torch.Tensor):
            normalised = described_array(value.detach().cpu().contiguous().numpy())
        elif isinstance(value, np.ndarray):
            normalised = self.array(value)
        elif isinstance(value, str):
            normalised = "\n".join(self.line(line) for line in value.split("\n"))
        elif isinstance(value, float) and not np.isfinite(value):
            normalised = str(value)  # nan would differ from itself
        elif value is None or isinstance(value, bool | int | float):
            normalised = value
        else:
            normalised = self.line(str(value))
        return normalised

    def mapping(self, values: dict) -> dict[str, object]:
        """Normalise a dict, without what the clock has measured."""
        kept = {}
        for key, part in values.items():
            if key not in TIMED:
                kept[str(key)] = self.value(part)
        return kept

    def sequence(self, values: list | tuple) -> list | str:
        """Normalise a list; the lines of a table together."""
        if values and all(isinstance(part, str) for part in values):
            return self.text("\n".join(values))
        return [self.value(part) for part in values]

    def array(self, values: np.ndarray) -> object:
        """Describe an array; one of texts, whose bytes are addresses, by its values."""
        if values.dtype == object:
            return self.value(values.tolist())
        return described_array(values)

    def file(self, path: Path) -> object:
        """Describe what a file holds.

        Parameters
        ----------
        path : Path
            The file.

        Returns
        -------
        object
            As ``value`` returns it; what that is depends on the ending of the file's
            name.
        """
        ending = path.suffix.lower()
        content = path.read_bytes()
        if ending in (".pth", ".pt"):
            described = self.value(torch.load(path, map_location="cpu", weights_only=True))
        elif ending == ".jsonl":
            described = self.records(content.decode())
        elif ending == ".json":
            described = self.value(json.loads(content))
        elif ending == ".npz":
            described = self.value(dict(np.load(path)))
        elif ending == ".npy":
            described = self.value(np.load(path))
        elif ending in (".png", ".gif"):
            described = described_picture(content)
        elif ending == ".nir":
            described = self.value(hdf5_content(path))
        elif ending in TEXTS:
            described = self.text(content.decode())
        else:
            described = f"{len(content)} bytes, {digest_of(content)}"
        return described

    def records(self, text: str) -> dict[str, object]:
        """Describe a log of JSON objects: its records by event and number."""
        records = {}
        counts = Counter()
        for line in text.splitlines():
            record = json.loads(line)
            event = record["event"]
            counts[event] += 1
            records[f"{event} {counts[event]}"] = self.value(record)
        return records


def described_array(values: np.ndarray) -> str:
    """Return the type, shape and digest of an array."""
    shape = "x".join(map(str, values.shape)) or "one"
    return f"{values.dtype} {shape} {digest_of(np.ascontiguousarray(values).tobytes())}"


def described_picture(content: bytes) -> dict[str, object]:
    """Describe a picture, or the frames of a GIF.

    Parameters
    ----------
    content : bytes
        The file.

    Returns
    -------
    dict of {str: object}
        Width and height in pixels; a digest of the pixels of each frame; of a GIF how
        long each frame is shown, in milliseconds, and how often it is repeated.
    """
    with Image.open(io.BytesIO(content)) as picture:
        data = {"size": list(picture.size)}
        frames = []
        durations = []
        for frame in ImageSequence.Iterator(picture):
            frames.append(digest_of(frame.convert("RGBA").tobytes()))
            durations.append(frame.info.get("duration"))
        data["frames"] = frames
        if picture.format == "GIF":
            data["durations"] = durations
            data["loop"] = picture.info.get("loop")
    return data


def picture_in_text(match: re.Match) -> str:
    """Name a picture within a text by its content."""
    frames = described_picture(base64.b64decode(match[1]))["frames"]
    return f"picture of {len(frames)} frames, {digest_of(repr(frames).encode())}"


def hdf5_content(path: Path) -> dict[str, object]:
    """Read the values of an HDF5 file, such as a network in NIR, by their paths."""
    import h5py  # comes with the package nir, which is optional

    values = {}

    def note(name, node):
        if isinstance(node, h5py.Dataset):
            is_text = h5py.check_string_dtype(node.dtype) is not None
            values[name] = node.asstr()[()] if is_text else np.asarray(node[()])
        for key, value in node.attrs.items():
            values[f"{name} {key}"] = str(value)

    with h5py.File(path) as file:
        file.visititems(note)
    return values


def files_in(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Find the files of a run below a folder.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    dict of {str: tuple}
        For each path within it what tells whether the file has been written since.
        Hidden files, such as locks and caches, are left out.
    """
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                path = os.path.join(place, name)
                status = os.stat(path)
                written = (status.st_mtime_ns, status.st_size, status.st_ino)
                found[os.path.relpath(path, folder)] = written
    return dict(sorted(found.items()))
