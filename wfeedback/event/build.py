"""The kernel as a library: compiled when first needed, and kept in the user's cache.

`library` is what the other files of the room call. The structs and enums of network.h
are read from its text, so that they are written down in one place.
"""

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
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock

from self_models.errors import ModelError
from self_models.places import users_folder

FOLDER = Path(__file__).parent / "c"
KERNEL = ("network.h", "vectors.h", "small.h", "network.c", "block.c")  # of C programs
SOURCES = (*KERNEL, "runs.c")  # of the library; runs.c includes network.c

# The compiler gets these behind the user's CFLAGS. Sums are rounded one by one. Nobody
# looks at exceptions of floating point, so comparisons may become masks.
REQUIRED_FLAGS = ("-std=c99", "-fno-fast-math", "-ffp-contract=off", "-fno-trapping-math")
# Flags that are not taken from the user. Some of them change all sums of the process.
INEXACT_FLAGS = re.compile("-Ofast|-f.*(fast|math).*|-mdaz-ftz")
# The first of these that a compiler knows is taken.
NATIVE_FLAGS = (("-march=native",), ("-mcpu=native",), ())

KINDS = {"float32": (), "int8": ("-DNETWORK_INT8",)}  # kind of the weights -> macros
# A library for whole numbers as exported folders have them. Here only its
# network_size() is called.
SMALL_KINDS = {"small": ("-DNETWORK_INT8", "-DNETWORK_SMALL")}

ADVICE = "pip install ziglang brings one"
TIMEOUT = 600  # seconds until a compiler is taken to hang
BUILDING = "building_"  # begins the names of folders in which libraries are built
ABANDONED_AFTER = 24 * 3600  # seconds after which nobody builds there any more

C_TYPES = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint8_t": ctypes.c_uint8,
    "float": ctypes.c_float,
}


# --- network.h as Python reads it


def without_comments(text: str) -> str:
    """Return the text of a C file without its comments."""
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def read_structs(
    pointer: type = ctypes.c_void_p, size: type = ctypes.c_size_t
) -> dict[str, type[ctypes.Structure]]:
    """Read the structs of network.h and runs.c.

    Parameters
    ----------
    pointer, size : type of ctypes
        What the machine that the structs are for has as a pointer, and as ``size_t``.

    Returns
    -------
    dict of {str: type of ctypes.Structure}
        By the name in C without ``Network``, for example "Node".
    """
    text = "".join((FOLDER / name).read_text() for name in ("network.h", "runs.c"))
    declarations = re.findall(
        r"typedef struct \{(.*?)\} Network(\w+);", without_comments(text), flags=re.DOTALL
    )
    structs_by_name = {}
    for body, name in declarations:
        types = C_TYPES | {"size_t": size} | structs_by_name
        fields = read_fields(body, types, pointer)
        structs_by_name[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return structs_by_name


def read_fields(body: str, types: dict, pointer: type) -> list[tuple[str, type]]:
    """Return (name, ctypes type) of each field that the body of a C struct declares."""
    fields = []
    # A line such as `const float *frames, *uniforms;` has a type and several fields.
    for type_name, declared in re.findall(r"(?:const )?(?:Network)?(\w+) ([^;]+);", body):
        for star, name, length in re.findall(r"(\*?)(?:const )?(\w+)(?:\[(\d+)\])?", declared):
            field_type = pointer if star else types[type_name]
            if length:
                field_type = field_type * int(length)
            fields.append((name, field_type))
    return fields


def read_enums() -> dict[str, int]:
    """Read the enums of network.h: name without ``NETWORK_`` -> number."""
    text = without_comments((FOLDER / "network.h").read_text())
    numbers = {}
    for body in re.findall(r"enum \{([^}]*)\}", text):
        for number, name in enumerate(body.split(",")):
            numbers[name.strip().removeprefix("NETWORK_")] = number
    return numbers


STRUCTS = read_structs()
Node = STRUCTS["Node"]
Network = STRUCTS["Tables"]
Settings = STRUCTS["Settings"]
Block = STRUCTS["Block"]
Part = STRUCTS["Part"]
State = STRUCTS["State"]
Run = STRUCTS["Run"]
MAGIC = b"SNN "  # the first bytes of a block
VERSION = int(re.search(r"NETWORK_API (\d+)", (FOLDER / "network.h").read_text())[1])


# --- compilers


def environment_flags(variable: str) -> list[str]:
    """Return the words of an environment variable, such as CFLAGS.

    Parameters
    ----------
    variable : str
        Its name.

    Returns
    -------
    list of str
        All but those that have sums rounded in another way.

    Raises
    ------
    ModelError
        If a quote is not closed.
    """
    try:
        flags = shlex.split(os.environ.get(variable, ""))
    except ValueError as error:
        raise ModelError(
            f"the event engine: {variable} cannot be read ({error}): mend it"
        ) from None
    return [flag for flag in flags if not INEXACT_FLAGS.fullmatch(flag)]


def compilers() -> list[list[str]]:
    """Return command lines of this machine's C compilers, in the order of trial."""
    commands = []
    chosen = environment_flags("CC")
    if chosen:
        commands.append(chosen)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            commands.append([name])
    if importlib.util.find_spec("ziglang"):
        commands.append([sys.executable, "-m", "ziglang", "cc"])
    return commands


def run_compiler(folder: Path | str, command: list[str]) -> str:
    """Run a compiler, and return what it prints.

    Parameters
    ----------
    folder : Path or str
        Folder in which the compiler may keep its own files meanwhile.
    command : list of str
        Its command line.

    Raises
    ------
    OSError, subprocess.SubprocessError
        If it is not there, fails, or hangs.
    """
    scratch = dict.fromkeys(("TMPDIR", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(folder))
    done = subprocess.run(
        command,
        input="",
        capture_output=True,
        check=True,
        env=scratch | os.environ,
        timeout=TIMEOUT,
        encoding="utf-8",
        errors="surrogateescape",
    )
    return done.stdout


def failure_message(error: Exception) -> str:
    """Return the line that says why a compiler failed."""
    text = getattr(error, "stderr", None) or str(error)
    lines = str(text).splitlines() or [""]
    for line in lines:
        if "error" in line:
            return line.strip()
    return lines[0].strip()


def cache_folder() -> Path:
    """Return the folder in which libraries are kept; it need not be there yet."""
    return users_folder() / "kernel"


# --- the library


class KernelBuild:
    """The kernel, built by the first compiler that can, or found in the user's cache.

    Parameters
    ----------
    kind : str
        Of the weights: a key of `KINDS` or `SMALL_KINDS`.
    plain : bool
        Build plain loops in place of vectors. They give the same bits.

    Attributes
    ----------
    library : ctypes.CDLL
        The library, without the types of its functions.
    command : list of str
        The command that makes it, without its output and sources.
    path : Path or None
        Where it lies in the user's cache.
    is_cached : bool
        False if that cannot be written: then the library is for this process alone.
    reasons : list of str
        Why the compilers that were tried before failed.

    Raises
    ------
    ModelError
        If there is no compiler, or none can build the kernel.
    """

    def __init__(self, kind: str = "float32", plain: bool = False):
        main_source = "network.c" if kind in SMALL_KINDS else "runs.c"
        self.sources = [str(FOLDER / name) for name in (main_source, "block.c")]
        self.reasons = []
        macros = [*(KINDS | SMALL_KINDS)[kind]]
        if plain:
            macros.append("-DPLAIN")
        for compiler in compilers():
            try:
                with self._build_folder() as folder:
                    self._load(compiler, macros, Path(folder))
                return
            except (OSError, subprocess.SubprocessError) as error:
                name = " ".join(compiler[-2:])
                self.reasons.append(f"{name}: {failure_message(error)[:200]}")
        why = "is here to build its kernel"
        if self.reasons:
            why = f"builds its kernel ({self.reasons[0]})"
        raise ModelError(f"the event engine: no C compiler {why}: {ADVICE}")

    def _build_folder(self):
        """Return a temporary folder to build in, if possible within the cache."""
        make = functools.partial(
            tempfile.TemporaryDirectory, prefix=BUILDING, ignore_cleanup_errors=True
        )
        self.is_cached = True
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
            return make(dir=cache_folder())
        except (OSError, ModelError):
            self.is_cached = False
            return make()

    def _load(self, compiler, macros, folder):
        """Load the library from the cache, or else build it with this compiler."""
        native, predefined = native_flags(compiler, folder)
        # Before the digest, which takes it in. It has neither output nor sources: their
        # paths would give the same library another name in another folder.
        self.command = [
            *compiler,
            "-O3",
            *native,
            *environment_flags("CFLAGS"),
            *REQUIRED_FLAGS,
            *macros,
            "-shared",
            "-fPIC",
        ]
        digest = self._digest(compiler, predefined, folder)
        self.path = None
        if not self.is_cached:
            self._build(folder)
            return
        self.path = cache_folder() / f"network_{digest[:24]}.so"
        if self._load_kept():
            return
        with waiting_for_others(self.path):
            if not self._load_kept():  # who had the lock before may have built it
                remove_abandoned_folders()
                self._build(folder)

    def _load_kept(self):
        """Load the library from the cache; return whether one that loads is there."""
        if not self.path.is_file():
            return False
        try:
            self.library = ctypes.CDLL(str(self.path))
        except OSError:  # a damaged one is built anew
            return False
        return True

    def _build(self, folder):
        """Build the library, load it, and keep it in the cache if there is one."""
        made = folder / "network.so"
        run_compiler(folder, [*self.command, "-o", str(made), *self.sources, "-lm"])
        self.library = ctypes.CDLL(str(made))
        if self.path:
            # It gets its name once it is whole and loads. `folder` lies in the cache
            # folder then, so this is a renaming within one file system.
            made.replace(self.path)

    def _digest(self, compiler, predefined, folder):
        """Return a digest of all that the library depends on.

        That is the sources, the flags, the compiler and, by the macros that it has
        `predefined`, the processor.
        """
        digest = hashlib.sha256()
        for name in SOURCES:
            digest.update((FOLDER / name).read_bytes())
        version = run_compiler(folder, [*compiler, "--version"])
        for text in (version, predefined, *self.command):
            digest.update(os.fsencode(text))
        return digest.hexdigest()


@contextlib.contextmanager
def waiting_for_others(path: Path) -> Iterator[None]:
    """Wait while another process builds this library.

    Where files cannot be locked, or the other one hangs, each builds its own: it makes
    the same file, and the last one stays.
    """
    lock = FileLock(f"{path}.lock", timeout=TIMEOUT)
    with contextlib.suppress(OSError, NotImplementedError):  # a Timeout is an OSError
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_abandoned_folders() -> None:
    """Remove what builds that were killed have left in the cache folder."""
    for folder in cache_folder().glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):  # another process may remove it, too
            if time.time() - folder.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(folder)


def native_flags(compiler: list[str], folder: Path) -> tuple[tuple[str, ...], str]:
    """Find by which flags a compiler builds for the processor of this machine.

    Parameters
    ----------
    compiler : list of str
        Its command line.
    folder : Path
        Folder for its own files.

    Returns
    -------
    flags : tuple of str
        One of `NATIVE_FLAGS`.
    predefined : str
        The macros that the compiler defines with these flags.

    Raises
    ------
    OSError, subprocess.SubprocessError
        If the compiler does not work without them either.
    """
    for flags in NATIVE_FLAGS:
        try:
            return flags, run_compiler(folder, [*compiler, *flags, "-dM", "-E", "-x", "c", "-"])
        except subprocess.CalledProcessError:
            if not flags:
                raise
    raise AssertionError("the last of NATIVE_FLAGS is empty")


@functools.cache
def kernel_build(kind: str = "float32", plain: bool = False) -> KernelBuild | ModelError:
    """Return the `KernelBuild` of this kind, or the error that says why there is none.

    A process builds each kind once.
    """
    try:
        return KernelBuild(kind, plain)
    except ModelError as error:
        return error


POINTER = ctypes.c_void_p
UINT32 = ctypes.c_uint32
INT32 = ctypes.c_int32
FUNCTIONS = {  # name without network_ -> type of the result, then types of the arguments
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
def library(kind: str = "float32", plain: bool = False) -> ctypes.CDLL:
    """Return the library, with the types of its functions.

    Parameters
    ----------
    kind, plain
        As `KernelBuild` has them.

    Raises
    ------
    ModelError
        If it cannot be built.
    """
    build = kernel_build(kind, plain)
    if isinstance(build, ModelError):
        raise build
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(build.library, f"network_{name}", None)
        if function:  # SMALL_KINDS have neither runs nor draws
            function.restype = result
            function.argtypes = arguments
    return build.library


def fill_uniforms(
    out: np.ndarray, first: int, index: np.ndarray, epoch: int, key0: int, key1: int
) -> bool:
    """Fill an array with the random numbers of an encoding, if there is a compiler.

    Parameters
    ----------
    out : ndarray of float32, shape (T, B, P)
        Array to fill, with numbers in [0, 1); P is a multiple of 4.
    first : int
        First of the T timesteps.
    index : ndarray of int, shape (B,)
        Numbers of the images in their set.
    epoch, key0, key1 : int, 0 to 2**32 - 1
        What the numbers depend on, too; see `key_for` of running/draws.py.

    Returns
    -------
    bool
        False, and nothing is filled, if the kernel cannot be built.
    """
    if isinstance(kernel_build(), ModelError):
        return False
    num_steps, num_images, num_positions = out.shape
    index = np.ascontiguousarray(index, np.int64)
    library().network_draws(
        out.ctypes.data,
        num_positions // 4,
        first,
        num_steps,
        index.ctypes.data,
        num_images,
        epoch,
        key0,
        key1,
    )
    return True
