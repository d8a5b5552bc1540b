"""What scripts print and write, as data that two runs of one revision have in common.

Clock times, durations, speeds, revisions and the folders of a run are taken out. Files are
known by their content: tensors, arrays, pixels and lines, since the bytes of a container may
hold times.
"""

import base64
import io
import json
import os
import re
from collections import Counter

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
# A table of speeds: its last two columns are images per second, and how much faster that is.
SPEED_TABLE = re.compile(r"(.*\S)\s+images/s\s+faster")
SPEED_ROW = re.compile(r"(.*\S)\s+[\d.,]+\s+[\d.]+")


class Normaliser:
    """Takes out of texts and records what differs between two runs of one revision.

    Parameters
    ----------
    folders : dict of {str: Path}
        For each name the folder that it stands for in what is recorded.
    """

    def __init__(self, folders):
        self.replacements = []
        for name, folder in folders.items():
            for path in (str(folder.resolve()), str(folder)):
                self.replacements.append((path, name))
        # A folder within another one is replaced first.
        self.replacements.sort(key=lambda pair: len(pair[0]), reverse=True)

    def line(self, line):
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

    def text(self, text):
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

    def value(self, value):
        """Normalise a value of a record or a checkpoint.

        Parameters
        ----------
        value : object
            Numbers, texts, tensors and arrays, in dicts and lists.

        Returns
        -------
        object
            The same as JSON knows it: keys are texts; a tensor is its type, shape and digest.
        """
        if isinstance(value, dict):
            kept = {}
            for key, part in value.items():
                if key not in TIMED:
                    kept[str(key)] = self.value(part)
            return kept
        if isinstance(value, list | tuple):
            if value and all(isinstance(part, str) for part in value):
                return self.text("\n".join(value))  # lines of a table belong together
            return [self.value(part) for part in value]
        if isinstance(value, torch.Tensor):
            return described_array(value.detach().cpu().contiguous().numpy())
        if isinstance(value, np.ndarray):
            if value.dtype == object:  # of texts, whose bytes are addresses
                return self.value(value.tolist())
            return described_array(value)
        if isinstance(value, str):
            return "\n".join(map(self.line, value.split("\n")))
        if isinstance(value, float) and not np.isfinite(value):
            return str(value)  # nan would differ from itself
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.line(str(value))

    def file(self, path):
        """Describe what a file holds.

        Parameters
        ----------
        path : Path
            The file.

        Returns
        -------
        object
            As ``value`` returns it; what that is depends on the ending of the file's name.
        """
        ending = path.suffix.lower()
        content = path.read_bytes()
        if ending in (".pth", ".pt"):
            return self.value(torch.load(path, map_location="cpu", weights_only=True))
        if ending == ".jsonl":
            return self.records(content.decode())
        if ending == ".json":
            return self.value(json.loads(content))
        if ending in (".npz", ".npy"):
            loaded = np.load(path)
            return self.value(loaded if ending == ".npy" else dict(loaded))
        if ending in (".png", ".gif"):
            return described_picture(content)
        if ending == ".nir":
            return self.value(hdf5_content(path))
        if ending in TEXTS:
            return self.text(content.decode())
        return f"{len(content)} bytes, {digest_of(content)}"

    def records(self, text):
        """Describe a log of JSON objects: its records by event and their number among these."""
        records = {}
        counts = Counter()
        for line in text.splitlines():
            record = json.loads(line)
            event = record["event"]
            counts[event] += 1
            records[f"{event} {counts[event]}"] = self.value(record)
        return records


def described_array(values):
    """The type, shape and digest of an array."""
    shape = "x".join(map(str, values.shape)) or "one"
    return f"{values.dtype} {shape} {digest_of(np.ascontiguousarray(values).tobytes())}"


def described_picture(content):
    """Describe a picture, or the frames of a GIF.

    Parameters
    ----------
    content : bytes
        The file.

    Returns
    -------
    dict of {str: object}
        Width and height in pixels; a digest of the pixels of each frame; of a GIF how long each
        frame is shown, in milliseconds, and how often it is repeated.
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


def picture_in_text(match):
    """Name a picture within a text by its content."""
    frames = described_picture(base64.b64decode(match[1]))["frames"]
    return f"picture of {len(frames)} frames, {digest_of(repr(frames).encode())}"


def hdf5_content(path):
    """The values in an HDF5 file, such as a network in NIR, by their path in it."""
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


def files_in(folder):
    """Find the files of a run below a folder.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    dict of {str: tuple}
        For each path within it what tells whether the file has been written since. Hidden files,
        such as locks and caches, are left out.
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
