"""The kernel as a library: built by this machine's C compiler when it is first needed, and kept in the user's cache."""

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from self_models.basics.errors import ModelError
from self_models.basics.home import users_folder

FOLDER = Path(__file__).parent
SOURCES = ("network.h", "vectors.h", "network.c")
ALWAYS = (
    "-std=c99",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-fno-trapping-math",
)  # behind the user's CFLAGS: sums are rounded one
# by one; no exception of theirs is looked at, so that comparisons become masks
NATIVE = ("-march=native",), ("-mcpu=native",), ()  # the first of these that a compiler knows
KINDS = {"float32": (), "int8": ("-DNETWORK_INT8",)}  # of weights
ADVICE = "pip install ziglang brings one; or use --engine dense"
TYPES = {f"{kind}_t": getattr(ctypes, f"c_{kind}") for kind in ("int32", "uint32", "int64", "uint8")} | {"float": ctypes.c_float}


def structs(pointer=ctypes.c_void_p, size=ctypes.c_size_t):
    """Name -> ctypes Structure of the structs of network.h, by its field names. pointer, size: of the machine it is for."""
    text, found = re.sub(r"/\*.*?\*/", "", (FOLDER / "network.h").read_text(), flags=re.S), {}
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, flags=re.S):
        fields = []
        for kind, declared in re.findall(r"(?:const )?(\w+) ([^;]+);", body):
            for star, field, count in re.findall(r"(\*?)(?:const )?(\w+)(?:\[(\d+)\])?", declared):
                base = pointer if star else size if kind == "size_t" else TYPES.get(kind) or found[kind]
                fields.append((field, base * int(count) if count else base))
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


STRUCTS = structs()
Node, Network, Settings, Part, State, Run = (STRUCTS[name] for name in ("Node", "Network", "Settings", "Part", "State", "Run"))


def numbers_of(header=FOLDER / "network.h"):
    """Name -> number of the enums of network.h."""
    enums = re.findall(r"enum \{([^}]*)\}", re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S))
    return {name.strip(): number for names in enums for number, name in enumerate(names.split(","))}


def compilers():
    """Command lines of the C compilers to look for, in this order."""
    own = shlex.split(os.environ.get("CC", ""))
    return [*([own] if own else []), ["cc"], ["gcc"], ["clang"], [sys.executable, "-m", "ziglang", "cc"]]


def answer(command, text=""):
    """What a command prints; raises OSError or CalledProcessError where it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return done.stdout


class Built:
    """A library: its file, and the command that made it. Raises ModelError where no compiler makes one."""

    def __init__(self, kind="float32", plain=False):
        reasons, extra = [], (*KINDS[kind], *(["-DPLAIN"] if plain else []))
        for compiler in compilers():
            try:
                self.command, key = self._key(compiler, extra)
                self.path = self._kept(key)
                return
            except (OSError, subprocess.CalledProcessError) as error:
                said = (getattr(error, "stderr", "") or str(error)).strip().splitlines() or [repr(error)]
                reasons.append(f"{' '.join(compiler[-2:])}: {said[0]}")
        found = [reason for reason in reasons if "No such file" not in reason and "No module named" not in reason]
        why = f"no C compiler builds its kernel ({found[0][:200]})" if found else "no C compiler is here to build its kernel"
        raise ModelError(f"the event engine: {why}: {ADVICE}")

    @staticmethod
    def _key(compiler, extra):
        """(command without files, digest of all that the library depends on: source, flags, compiler, processor)"""
        digest = hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in SOURCES))
        version = answer([*compiler, "--version"])
        for native in NATIVE:
            with contextlib.suppress(subprocess.CalledProcessError):
                macros = answer([*compiler, *native, "-dM", "-E", "-x", "c", "-"])
                break
        else:
            macros = answer([*compiler, "-dM", "-E", "-x", "c", "-"])
        flags = ["-O3", *native, *shlex.split(os.environ.get("CFLAGS", "")), *ALWAYS, *extra, "-shared", "-fPIC"]
        for part in (version, macros, *compiler, *flags):
            digest.update(part.encode())
        return [*compiler, *flags], digest.hexdigest()[:24]

    def _kept(self, key):
        """The library's file: in the user's cache, else, where that cannot be written, in a folder of this process."""
        name = f"network_{key}.so"
        kept = users_folder() / "kernel" / name
        if kept.is_file():
            return kept
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            return self._make(kept)
        except OSError:
            return self._make(Path(private_folder()) / name)

    def _make(self, path):
        """Build it beside its place, and give it its name when it is whole: whoever builds at the same time makes the same."""
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="building_") as folder:
            made = Path(folder) / path.name
            subprocess.run([*self.command, "-o", str(made), str(FOLDER / "network.c"), "-lm"],
                           check=True, capture_output=True, text=True)  # fmt: skip
            made.replace(path)
        return path


@functools.cache
def private_folder():
    """A folder that goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="snn_wFeedback_")
    private_folder.kept = folder
    return folder.name


@functools.cache
def built(kind="float32", plain=False):
    """(Built, '') of this kind, or (None, why not); once in a process."""
    try:
        return Built(kind, plain), ""
    except ModelError as error:
        return None, str(error)


@functools.cache
def library(kind="float32", plain=False):
    """The loaded library, with the types of its functions. Raises ModelError where there is none."""
    found, why = built(kind, plain)
    if not found:
        raise ModelError(why)
    loaded, pointer, i32 = ctypes.CDLL(str(found.path)), ctypes.c_void_p, ctypes.c_int32
    loaded.network_size.restype, loaded.network_size.argtypes = ctypes.c_size_t, [pointer]
    loaded.network_begin.restype, loaded.network_begin.argtypes = pointer, [pointer] * 3
    loaded.network_runs.restype, loaded.network_runs.argtypes = None, [pointer, pointer, i32]
    for name in ("network_settle", "network_wake"):
        getattr(loaded, name).restype, getattr(loaded, name).argtypes = None, [pointer]
    loaded.network_reset.restype, loaded.network_reset.argtypes = None, [pointer, *[ctypes.c_uint32] * 3]
    loaded.network_set.restype, loaded.network_set.argtypes = None, [pointer, pointer]
    loaded.network_draws.restype = None
    loaded.network_draws.argtypes = [pointer, i32, i32, i32, pointer, i32, *[ctypes.c_uint32] * 3]
    return loaded


def filled(out, first, index, epoch, key0, key1):
    """Fill out (T, B, a multiple of 4), float32, with the draws of steps from `first` on of the images of index (B,), int64, and
    return True; False, and nothing, without a compiler."""
    if not built()[0]:
        return False
    steps, images, positions = out.shape
    index = np.ascontiguousarray(index, np.int64)
    library().network_draws(out.ctypes.data, positions // 4, first, steps, index.ctypes.data, images, epoch, key0, key1)
    return True
