"""The kernel as a library: built by this machine's C compiler when it is first needed, and kept in the user's cache."""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from self_models.basics import ModelError, users_folder

FOLDER = Path(__file__).parent / "c"
KERNEL = ("network.h", "vectors.h", "small.h", "network.c", "block.c")  # of C programs
SOURCES = (*KERNEL, "runs.c")  # which has network.c within it
ALWAYS = (
    "-std=c99",
    "-fno-fast-math",
    "-ffp-contract=off",
    "-fno-trapping-math",
)  # behind the user's CFLAGS: sums are rounded
# one by one; no exception of theirs is looked at, so that comparisons become masks
INEXACT = re.compile(
    "-Ofast|-f.*(fast|math).*|-mdaz-ftz"
)  # not taken from the user: some change all sums of the process
NATIVE = ("-march=native",), ("-mcpu=native",), ()  # the first of these that a compiler knows
KINDS = {"float32": (), "int8": ("-DNETWORK_INT8",)}  # of weights
SMALL = {
    "small": ("-DNETWORK_INT8", "-DNETWORK_SMALL")
}  # as in exported folders of int8; here only its network_size() is asked
ADVICE = "pip install ziglang brings one"
PATIENCE = 600  # seconds until a compiler is taken to hang
TYPES = {
    f"{kind}_t": getattr(ctypes, f"c_{kind}") for kind in ("int32", "uint32", "int64", "uint8")
} | {"float": ctypes.c_float}


def structs(pointer=ctypes.c_void_p, size=ctypes.c_size_t):
    """Name, without its prefix, -> ctypes Structure, of network.h and runs.c. pointer, size: of the machine it is for."""
    texts = ((FOLDER / name).read_text() for name in ("network.h", "runs.c"))
    text, structs_by_name = re.sub(r"/\*.*?\*/", "", "".join(texts), flags=re.S), {}
    for body, name in re.findall(r"typedef struct \{(.*?)\} Network(\w+);", text, flags=re.S):
        fields = []
        for kind, declared in re.findall(r"(?:const )?(?:Network)?(\w+) ([^;]+);", body):
            for star, field, count in re.findall(r"(\*?)(?:const )?(\w+)(?:\[(\d+)\])?", declared):
                base = (
                    pointer
                    if star
                    else size
                    if kind == "size_t"
                    else TYPES.get(kind) or structs_by_name[kind]
                )
                fields.append((field, base * int(count) if count else base))
        structs_by_name[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return structs_by_name


STRUCTS = structs()
Node, Network, Settings, Block, Part, State, Run = map(
    STRUCTS.get, ("Node", "Tables", "Settings", "Block", "Part", "State", "Run")
)
MAGIC, VERSION = (
    b"SNN ",
    int(re.search(r"NETWORK_API (\d+)", (FOLDER / "network.h").read_text())[1]),
)


def numbers_of():
    """Name, without its prefix, -> number of the enums of network.h."""
    text = (FOLDER / "network.h").read_text()
    enums = re.findall(r"enum \{([^}]*)\}", re.sub(r"/\*.*?\*/", "", text, flags=re.S))
    return {
        name.strip().removeprefix("NETWORK_"): number
        for names in enums
        for number, name in enumerate(names.split(","))
    }


def words_of(variable):
    """The words of an environment variable of the user's, but for those that have sums rounded in another way."""
    try:
        return [
            word
            for word in shlex.split(os.environ.get(variable, ""))
            if not INEXACT.fullmatch(word)
        ]
    except ValueError as error:
        raise ModelError(
            f"the event engine: {variable} cannot be read ({error}): mend it"
        ) from None


def compilers():
    """Command lines of the C compilers that are here, in the order in which they are tried."""
    own, others = words_of("CC"), [[name] for name in ("cc", "gcc", "clang") if shutil.which(name)]
    zig = [[sys.executable, "-m", "ziglang", "cc"]] if importlib.util.find_spec("ziglang") else []
    return [*([own] if own else []), *others, *zig]


def kept_folder():
    return users_folder() / "kernel"


class Built:
    """A library, `loaded`, the command that makes it and its path in the user's cache; `kept` is False where that cannot be
    written, and it is built for this process alone. reasons: why compilers before failed. Raises ModelError where all do."""

    def __init__(self, kind="float32", plain=False):
        self.sources = [
            str(FOLDER / name) for name in ("network.c" if kind in SMALL else "runs.c", "block.c")
        ]
        self.reasons, extra = [], [*(KINDS | SMALL)[kind], *(["-DPLAIN"] if plain else [])]
        for compiler in compilers():
            try:
                with self._new_folder() as folder:
                    self._find(compiler, extra, Path(folder))
                return
            except (OSError, subprocess.SubprocessError) as error:
                self.reasons.append(f"{' '.join(compiler[-2:])}: {said_by(error)[:200]}")
        why = (
            f"builds its kernel ({self.reasons[0]})"
            if self.reasons
            else "is here to build its kernel"
        )
        raise ModelError(f"the event engine: no C compiler {why}: {ADVICE}")

    def _new_folder(self):
        """A folder to build in, which goes again: within the cache, if that can be written."""
        make = functools.partial(
            tempfile.TemporaryDirectory, prefix="building_", ignore_cleanup_errors=True
        )
        self.kept = True
        try:
            kept_folder().mkdir(parents=True, exist_ok=True)
            return make(dir=kept_folder())
        except (OSError, ModelError):
            self.kept = False
            return make()

    def _find(self, compiler, extra, folder):
        """Load what is kept, or what this compiler makes in this folder, which gets its name once it is whole and loads: whoever
        builds at the same time makes the same. The name has a digest of all that the library depends on: source, flags, compiler
        and processor."""
        answer = functools.partial(answer_of, folder)
        digest = hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in SOURCES))
        for native in NATIVE:
            try:
                macros = answer([*compiler, *native, "-dM", "-E", "-x", "c", "-"])
                break
            except subprocess.CalledProcessError:
                if not native:
                    raise
        self.command = [
            *compiler,
            "-O3",
            *native,
            *words_of("CFLAGS"),
            *ALWAYS,
            *extra,
            "-shared",
            "-fPIC",
        ]
        for part in (answer([*compiler, "--version"]), macros, *self.command):
            digest.update(os.fsencode(part))
        self.path, made = (
            kept_folder() / f"network_{digest.hexdigest()[:24]}.so" if self.kept else None,
            folder / "network.so",
        )
        if self.kept and self.path.is_file():
            with contextlib.suppress(OSError):
                self.loaded = ctypes.CDLL(str(self.path))
                return
        answer([*self.command, "-o", str(made), *self.sources, "-lm"])
        self.loaded = ctypes.CDLL(str(made))
        if self.kept:
            made.replace(self.path)


def answer_of(folder, command):
    """What a compiler prints, which may keep its own files in this folder meanwhile. Raises OSError or SubprocessError where it
    fails."""
    own = dict.fromkeys(("TMPDIR", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(folder))
    return subprocess.run(
        command,
        input="",
        capture_output=True,
        check=True,
        env=own | os.environ,
        timeout=PATIENCE,
        encoding="utf-8",
        errors="surrogateescape",
    ).stdout


def said_by(error):
    """The line that says why a compiler failed."""
    lines = str(getattr(error, "stderr", None) or str(error)).splitlines() or [""]
    return next((line for line in lines if "error" in line), lines[0]).strip()


@functools.cache
def built(kind="float32", plain=False):
    """The Built of this kind, or the ModelError that says why there is none; once in a process."""
    try:
        return Built(kind, plain)
    except ModelError as error:
        return error


POINTER, UINT32, INT32 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int32
FUNCTIONS = {  # name, without its prefix -> what it returns, and takes
    "size": (ctypes.c_size_t, POINTER),
    "open": (ctypes.c_char_p, POINTER, ctypes.c_size_t, POINTER, POINTER),
    "accepts": (ctypes.c_int, POINTER, POINTER),
    "begin": (POINTER, POINTER, POINTER, POINTER, ctypes.c_size_t),
    "settle": (None, POINTER),
    "set": (ctypes.c_int, POINTER, POINTER),
    "reset": (None, POINTER, UINT32, UINT32, UINT32),
    "runs": (None, POINTER, POINTER, INT32),
    "draws": (None, POINTER, INT32, INT32, INT32, POINTER, INT32, UINT32, UINT32, UINT32),
}


@functools.cache
def library(kind="float32", plain=False):
    """The loaded library, with the types of its functions. Raises ModelError where there is none."""
    compiled = built(kind, plain)
    if isinstance(compiled, ModelError):
        raise compiled
    for name, (result, *arguments) in FUNCTIONS.items():
        if function := getattr(
            compiled.loaded, f"network_{name}", None
        ):  # a SMALL one has neither runs nor draws
            function.restype, function.argtypes = result, arguments
    return compiled.loaded


def filled(out, first, index, epoch, key0, key1):
    """Fill out (T, B, a multiple of 4), float32, with the draws of steps from `first` on of the images of index (B,), int64, and
    return True; False, and nothing, without a compiler."""
    if isinstance(built(), ModelError):
        return False
    steps, images, positions = out.shape
    index = np.ascontiguousarray(index, np.int64)
    library().network_draws(
        out.ctypes.data, positions // 4, first, steps, index.ctypes.data, images, epoch, key0, key1
    )
    return True
