"""Conventions: what operations and memory cost, from TOML files with their sources."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from self_models.basics.errors import ModelError

FOLDER = Path(__file__).parent / "conventions"
PRICES = ("add", "multiply_add", "add_int8", "multiply_add_int8")
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
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from None
    known = Convention.__dataclass_fields__
    if wrong := [name for name in said if name not in known] or [name for name in list(known)[:6] if name not in said]:
        raise ModelError(f"{path}: {wrong[0]} {'is unknown' if wrong[0] in said else 'is missing'}: it wants {', '.join(known)}")
    prices = said["picojoules"]
    if missing := [name for name in PRICES if name not in prices]:
        raise ModelError(f"{path}: picojoules.{missing[0]} is missing")
    memory = said.get("memory") or {"bytes": [1, 2], "picojoules": [0, 0]}
    if len(memory.get("bytes", ())) != len(memory.get("picojoules", ())) or len(memory["bytes"]) < 2:
        raise ModelError(f"{path}: memory: give bytes and picojoules, two numbers or more each")
    for name, value in [*prices.items(), *(("memory", value) for values in memory.values() for value in values)]:
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise ModelError(f"{path}: {name} is {value!r}, and a price is a number at least 0")
    if said.get("counts", "exact") not in ("exact", "rate"):
        raise ModelError(f"{path}: counts is {said['counts']!r}: choose exact or rate")
    return Convention(**said)
