"""Conventions: what operations and memory cost, from TOML files with their sources."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from self_models.basics import ModelError

FOLDER = Path(__file__).parent / "conventions"
PRICES = ("add", "multiply_add", "add_int8", "multiply_add_int8")
MEMORY = ("bytes", "picojoules")
MOST = 1e12  # of a price, in pJ, and of a size, in bytes
WORD = 4  # bytes of a weight, a membrane potential or an event


@dataclass(frozen=True)
class Convention:
    """Prices of operations, in pJ. title, source, year, technology, leaves_out: in words; picojoules: PRICES; memory: 'bytes' and
    'picojoules' of an access to a word, by the size of the memory, or None; counts: 'exact', or 'rate': each layer's mean rate
    times Entry.formula, as most papers have it."""

    title: str
    source: str
    year: int
    technology: str
    leaves_out: str
    picojoules: dict
    memory: dict | None = None
    counts: str = "exact"

    def access(self, words, word=WORD):
        """pJ of an access to so many bytes in a memory of so many words."""
        if not self.memory:
            return 0.0
        sizes, prices = self.memory["bytes"], self.memory["picojoules"]
        size = max(words * word, sizes[0])
        if size > sizes[-1]:  # on in the last proportion
            slope = (prices[-1] - prices[-2]) / (sizes[-1] - sizes[-2])
            return (prices[-1] + slope * (size - sizes[-1])) * word / WORD
        return float(np.interp(size, sizes, prices)) * word / WORD


@functools.cache
def conventions():
    """name -> Convention of those that come with the program. Not to be changed."""
    return {path.stem: read_convention(path) for path in sorted(FOLDER.glob("*.toml"))}


def read_convention(path):
    """The Convention of a TOML file. Raises ModelError, with the file, for what is none."""
    try:
        said = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        check_convention(said)
    except (OSError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from None
    return Convention(**said)


def check_convention(said):
    """Raises ValueError for fields of which no Convention can be made."""
    fields = Convention.__dataclass_fields__
    check_names("", said, list(fields)[:6], list(fields))
    check_names("picojoules.", said["picojoules"], PRICES)
    tables = {"picojoules": [*said["picojoules"].values()]}
    if "memory" in said:
        check_names("memory.", said["memory"], MEMORY)
        sizes, prices = (said["memory"][name] for name in MEMORY)
        if len(sizes) != len(prices) or len(sizes) < 2 or sizes != sorted(set(sizes)) or prices != sorted(prices):
            raise ValueError("memory: give two bytes or more, which rise, and as many picojoules, which do not fall")
        tables["memory"] = [*sizes, *prices]
    for name, values in tables.items():
        for value in values:
            if isinstance(value, str) or not 0 <= value <= MOST:
                raise ValueError(f"{name}: {value!r} is no number from 0 to {MOST:g}")
    if said.get("counts", "exact") not in ("exact", "rate"):
        raise ValueError(f"counts is {said['counts']!r}: choose exact or rate")
    if "memory" in said and said.get("counts") == "rate":
        raise ValueError("counts 'rate' knows operations alone, and memory would be that of the ANN only: leave memory out")


def check_names(place, said, needed, known=None):
    """Raises ValueError for a table with a name that is unknown, or without one that it needs."""
    wrong = [f"{name} is unknown" for name in said if name not in (known or needed)]
    if wrong := wrong or [f"{name} is missing" for name in needed if name not in said]:
        raise ValueError(f"{place}{wrong[0]}: it needs {', '.join(known or needed)}")
