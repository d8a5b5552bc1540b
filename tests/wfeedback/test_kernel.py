"""The kernel as a library.

How it is built and kept, by whatever compiler there is, and which blocks of bytes it
refuses.
"""

import ctypes
import importlib.util
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, images, refused, run_here

import wfeedback.event.engine
from self_models import ModelError, load
from self_models.running.draws import EVALUATION, Draws
from self_models.traced.traced_snn import TracedSNN
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.event import build
from wfeedback.event.build import FOLDER, KINDS, KernelBuild, Network, Settings, State
from wfeedback.event.engine import EventEngine
from wfeedback.event.layout import lay_out
from wfeedback.event.quantize import quantize
from wfeedback.event.state import StatePool
from wfeedback.event.tables import K, settings_of

QUICK = REPOSITORY / "trained_models/snn/quick_feedback.pth"
FEW_IMAGES = "--preset quick_feedback --limit_test 16 --output_dir"
# Folders that these tests import from
IMPORTED_FROM = (".", "tests", "tests/self_models", "tests/wfeedback")
INTEL = platform.machine() in ("x86_64", "AMD64")
SANITIZED = (
    "-O0 -fsanitize=address,undefined -fno-sanitize-recover=undefined "
    "--param=asan-stack=0"  # else gcc 12 misaligns vectors
)
ZIG = f"{sys.executable} -m ziglang cc"
HAS_ZIG = importlib.util.find_spec("ziglang") is not None
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc")


def small_network(**changes):
    """Build a network with leaks, pools, a floor, biases and feedback."""
    torch.manual_seed(2)
    settings = {
        "plan": [[5, "D", 6, "A"], [3, "U", "U", "in"]],
        "image_shape": (1, 12, 16),
        "fc_width": 11,
        "timesteps": 4,
        "leak": 0.9,
        "default_threshold": 0.01,
        "membrane_floor": 1.0,
        "bias": True,
        "epsilon": 0.2,
    }
    return InputBlockingSNN(**settings | changes).eval()


CACHED = (build.kernel_build, build.library)  # also where a test puts others in their place


def forget_libraries():
    """Have this process build the kernel again, or find it in the cache."""
    for function in CACHED:
        function.cache_clear()


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Return a folder whose cache is empty and has no ASCII name; forget all builds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "Käßchen ö"))
    monkeypatch.setenv("CFLAGS", "-O0")
    forget_libraries()
    yield tmp_path
    forget_libraries()


@pytest.fixture
def built_anew(monkeypatch):
    """Have each engine of this process ask for the kernel, by the flags of then."""
    monkeypatch.setattr(build, "kernel_build", KernelBuild)
    monkeypatch.setattr(wfeedback.event.engine, "library", build.library.__wrapped__)


def libraries():
    return sorted(build.cache_folder().rglob("*.so"))


def test_without_a_compiler_all_runs_dense(fresh, monkeypatch):
    """Random numbers are the same, so the logits are, too."""
    x = images(3)
    draws = Draws(3, EVALUATION, torch.tensor([0, 5, 2**32 - 1]))
    (fresh / "ziglang").mkdir()
    (fresh / "ziglang/__init__.py").touch()  # a package that has no compiler

    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        patch.setenv("CC", "")
        patch.setenv("PYTHONPATH", str(fresh))
        patch.syspath_prepend(fresh)
        with pytest.warns(RuntimeWarning, match="runs dense: the event engine: no C compiler"):
            model = load(QUICK)
        assert model.engine is None
        uniforms = draws.uniforms(2, (2, 3, 4))
        logits = model(x, draws=draws).logits
        said = run_here("obj1", f"{FEW_IMAGES} {fresh}")[1]
        assert said.count("engine: dense (the event engine: no C compiler") == 1
        line = refused("obj1", f"{FEW_IMAGES} {fresh} --engine event")
        assert "pip install ziglang brings one; --engine dense runs it" in line
        patch.setattr(build, "compilers", list)
        with pytest.raises(ModelError, match=r"no C compiler is here .*: pip install ziglang"):
            KernelBuild()
    assert not libraries()

    forget_libraries()
    assert torch.equal(draws.uniforms(2, (2, 3, 4)), uniforms)
    assert torch.equal(load(QUICK, engine="dense")(x, draws=draws).logits, logits)


def test_a_setting_that_a_gate_has_gained_is_refused(monkeypatch):
    """Here as if the kernel did not know `blocking`; its default changes nothing."""
    monkeypatch.setattr("wfeedback.event.tables.GATE_FLAGS", ("together",))
    engine = EventEngine(small_network())
    engine.update()
    engine.model.change(blocking="dynamic")
    with pytest.raises(ModelError, match="no form of the blocking dynamic"):
        engine.update()


@pytest.fixture
def failing_compiler(fresh, monkeypatch):
    """Set CC to a compiler that always fails, and return its path."""
    compiler = fresh / "cc"
    compiler.write_text("#!/bin/sh\necho a warning >&2\necho error: no licence >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    return compiler


def test_the_only_compiler_that_fails_is_said_in_a_line(failing_compiler, monkeypatch):
    monkeypatch.setattr(build, "compilers", lambda: [[str(failing_compiler)]])
    with pytest.raises(ModelError, match="pip install ziglang") as error:
        KernelBuild()
    assert "cc: error: no licence)" in str(error.value)
    assert "\n" not in str(error.value)
    assert not libraries()


@needs_cc
def test_a_compiler_that_fails_is_passed_over_where_there_is_another(failing_compiler):
    kernel = KernelBuild()
    assert kernel.command[0] == "cc"
    assert str(failing_compiler) in kernel.reasons[0]
    assert libraries() == [kernel.path]


def compilers_and_flags():
    """Return (compiler, flags), of the compilers that are here."""
    ways = [
        ("cc", "-O3"),
        ("cc", "-O0"),
        ("cc", "-O1 -Ofast -ffast-math -mdaz-ftz"),
        ("cc", "-O1 -DPLAIN -DX='a b'"),
    ]
    if INTEL:
        ways.append(("cc", "-O1 -march=x86-64"))
    if "clang" in COMPILERS:
        ways.append(("clang", "-O2"))
    if HAS_ZIG:
        ways.append((ZIG, "-O3"))
    return ways


@needs_cc
@torch.no_grad()
def test_all_compilers_and_flags_give_the_same_bytes(fresh, built_anew, monkeypatch):
    x = images(20, (1, 12, 16))
    no_whole_vectors = small_network()
    whole_vectors_and_more = small_network(
        plan=[[17, "D", 67], [33, "U", 15, "in"]], fc_width=131, update="immediate"
    )

    ways = compilers_and_flags()
    of_first_way = None
    for compiler, flags in ways:
        monkeypatch.setenv("CC", compiler)
        monkeypatch.setenv("CFLAGS", flags)
        in_bytes = []
        for model in (no_whole_vectors, whole_vectors_and_more):
            output = EventEngine(model)(x, seed=1)
            parts = (output.logits_by_step, output.predictions, *output.spikes.values())
            in_bytes += [part.numpy().tobytes() for part in parts]
        of_first_way = of_first_way or in_bytes
        assert in_bytes == of_first_way, (compiler, flags)
        # No flag makes this process take its smallest numbers for 0.
        assert math.ldexp(1.0, -1074) * len(ways) > 0, (compiler, flags)

    for name in ("features.4", "generate.4", "classifier.4"):
        assert output.spikes[name].sum() > 0
    assert len(libraries()) == len(ways)
    if not HAS_ZIG:
        pytest.skip("all but zig, which is not here: pip install ziglang")


@pytest.mark.parametrize("flags", [*KINDS.values(), build.SMALL_KINDS["small"], ("-DPLAIN",)])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_compiler_warns(compiler, flags, tmp_path):
    words = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-c"]
    engine = "network.c" if "-DNETWORK_SMALL" in flags else "runs.c"
    command = [compiler, *words, FOLDER / engine, FOLDER / "block.c", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


needs_gcc_for_x86 = pytest.mark.skipif(
    not INTEL or "gcc" not in COMPILERS, reason="gcc for x86 is not here"
)


@needs_gcc_for_x86
@pytest.mark.parametrize("is_fused", [False, True], ids=["as_it_is", "fused"])
def test_a_build_that_fuses_sums_does_not_begin(tmp_path, is_fused):
    """As by clang -ffp-contract=fast, which passes over the pragma."""
    if "fma" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("this processor does not fuse them")
    source = (FOLDER / "network.c").read_text()
    if is_fused:
        source = source.replace('#pragma GCC optimize("fp-contract=off")', "")
    (tmp_path / "kernel.c").write_text(source)
    flags = ["-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", f"-I{FOLDER}"]
    command = ["gcc", *flags, "kernel.c", "-o", "kernel.so", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)

    model = small_network()
    tables = lay_out(model)
    network = tables.network(build.library())
    settings = settings_of(model)
    memory = np.zeros(100_000, np.uint64)
    begin = ctypes.CDLL(str(tmp_path / "kernel.so")).network_begin
    begin.restype = ctypes.c_void_p
    begin.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    address = begin(
        ctypes.addressof(network),
        ctypes.addressof(settings),
        memory.ctypes.data,
        memory.nbytes,
    )
    assert bool(address) == (not is_fused)


@needs_gcc_for_x86
@pytest.mark.parametrize("flag", ["-ffast-math", "-mfpmath=387"])
def test_flags_that_round_sums_in_another_way_are_refused_by_the_compiler(flag):
    command = ["gcc", flag, "-S", "network.c", "-o", "-"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode
    assert "sums must be rounded one by one" in done.stderr


@needs_cc
def test_a_library_is_kept_and_one_that_does_not_load_is_built_again(fresh, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", str)  # else this process has it in memory
        path = KernelBuild().path
        time_built = path.stat().st_mtime_ns
        assert KernelBuild().path == path
        assert path.stat().st_mtime_ns == time_built
        assert libraries() == [path]

    path.write_bytes(b"no library")
    assert KernelBuild().library.network_runs
    assert path.stat().st_size > 10_000
    assert libraries() == [path]


@needs_cc
def test_where_nothing_can_be_kept_it_is_built_for_this_process_alone(fresh, monkeypatch):
    temporary = fresh / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    build.users_folder().parent.touch()  # a file, in which no folder can be made
    kernel = KernelBuild()
    assert not kernel.is_cached
    assert kernel.library.network_runs
    assert not list(temporary.iterdir())


@needs_cc
def test_of_several_at_once_one_builds_and_removes_what_a_killed_build_left(fresh, monkeypatch):
    noted_run = NotedRun()
    monkeypatch.setattr(build.subprocess, "run", noted_run)
    recent = build.cache_folder() / "building_recent"
    old = build.cache_folder() / "building_old"
    for folder in (recent, old):
        folder.mkdir(parents=True)
        (folder / "network.so").write_text("half")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))

    with ThreadPoolExecutor(4) as pool:
        kernels = list(pool.map(lambda _: KernelBuild(), range(4)))

    (path,) = {kernel.path for kernel in kernels}
    assert all(kernel.library.network_runs for kernel in kernels)
    assert noted_run.builds == 1
    assert {*build.cache_folder().iterdir()} - {Path(f"{path}.lock")} == {recent, path}


@needs_cc
def test_where_files_cannot_be_locked_it_is_built(fresh, monkeypatch):
    def fail(*args, **more):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(build.FileLock, "acquire", fail)
    assert KernelBuild().library.network_runs


class NotedRun:
    """subprocess.run, which counts how often a library is built."""

    def __init__(self):
        self.builds = 0
        self.run = subprocess.run

    def __call__(self, command, *args, **more):
        """Run a command."""
        self.builds += "-shared" in command
        return self.run(command, *args, **more)


FLOATS = np.float32([-1, 0.5, 3e38, math.inf, math.nan]).view(np.int32).tolist()
# Numbers that mutated() puts in place of a block's.
OTHERS = -1, 0, 1, 2, 3, 5, 17, 59, 200, 2**15, 2**31 - 1, -(2**31), *FLOATS


def mutated(block, front, draw):
    """Return a copy of a block with one to three other numbers, sometimes cut short.

    Parameters
    ----------
    block : ndarray of uint8
        A network.
    front : int
        How many bytes come before its weights; most of the new numbers are there, many
        of them in its head.
    draw : np.random.Generator
        Random numbers.
    """
    length = len(block)
    if draw.random() < 0.05:
        length = draw.integers(len(block))
    block = block[:length].copy()
    numbers = block[: length // 4 * 4].view(np.int32)
    ends = [200, front // 4, len(numbers)]
    for end in draw.choice(ends, draw.integers(1, 4), p=[0.3, 0.4, 0.3]):
        place = draw.integers(max(min(end, len(numbers)), 1))
        chosen = slice(place, place + 1)  # no number of a block that is cut to nothing
        if draw.random() < 0.7:
            numbers[chosen] = draw.choice(OTHERS)
        else:
            numbers[chosen] ^= 2 ** draw.integers(31)
    return block


def why_refused(library, block):
    """Return what network_open says of a block, "" where it opens it."""
    why = library.network_open(
        block.ctypes.data, len(block), ctypes.byref(Network()), ctypes.byref(Settings())
    )
    return why.decode() if why else ""


NAN = math.nan
INFINITE = math.inf
OUT_OF_RANGE = {
    "epsilon": [-0.1, NAN],
    "open_bound": [NAN],
    "gap_bound": [NAN],
    "entropy_bound": [NAN],
    "readout_leak": [-0.1, 1.1, NAN],
    "readout_slew": [-0.1, INFINITE, NAN],
    "surprise": [-0.1, NAN],
    "decoded_scale": [0, -1, INFINITE, NAN],
    "logits_scale": [0, -1, INFINITE, NAN],
    "rule": [-1, 5],
    "encoding": [-1, 2],
    "readout": [-1, 5],
    "timesteps": [0, -1],
    "phase_steps": [-1],
    "dynamic": [-1, 2, 59],
    "latch": [-1, 2, 59],
    "feedback": [-1, 2, 59],
    "immediate": [-1, 2, 59],
    "residual": [-1, 2, 59],
    "per_pixel": [-1, 2, 59],
}
IN_RANGE = {
    "epsilon": [0, INFINITE],
    "open_bound": [-INFINITE],
    "gap_bound": [INFINITE],
    "entropy_bound": [INFINITE],
    "readout_leak": [0, 1],
    "readout_slew": [0],
    "surprise": [0, INFINITE],
    "rule": [0, 4],
    "encoding": [0, 1],
    "readout": [0, 4],
    "timesteps": [1, 2**31 - 1],
    "phase_steps": [0, 2**31 - 1],
    "immediate": [0, 1],
}


@needs_cc
@pytest.mark.parametrize("is_taken", [True, False], ids=["in_range", "out_of_range"])
@pytest.mark.parametrize("kind", KINDS)
def test_settings_out_of_range_are_refused(kind, is_taken):
    """By network_open, network_begin and network_set, which then changes nothing."""
    assert {*OUT_OF_RANGE} == {name for name, _ in Settings._fields_}
    model = small_network(encoding="direct")
    if kind == "int8":
        model = quantize(model)
    kernel = build.library(kind)
    tables = lay_out(model)
    pool = StatePool(kernel, tables)
    state = pool.new(settings_of(model))
    before = bytes(state.struct.settings)

    for name, values in (IN_RANGE if is_taken else OUT_OF_RANGE).items():
        for value in values:
            settings = settings_of(model)
            setattr(settings, name, value)

            why = why_refused(kernel, tables.block(settings))
            assert why == ("" if is_taken else "the settings"), (name, value)

            begun = kernel.network_begin(
                ctypes.byref(pool.network),
                ctypes.byref(settings),
                state.memory.ctypes.data,
                len(state.memory),
            )
            assert bool(begun) == is_taken, (name, value)

            state.struct.settings = settings_of(model)
            is_set = kernel.network_set(state.address, ctypes.byref(settings))
            assert is_set == is_taken, (name, value)
            after = bytes(settings) if is_taken else before
            assert bytes(state.struct.settings) == after, (name, value)


def test_a_setting_out_of_range_is_refused_in_a_line():
    """A state of an earlier run, which is free, is not used either."""
    engine = EventEngine(small_network())
    x = images(1, (1, 12, 16))
    assert engine(x, seed=0)
    engine.model.gate.epsilon = NAN  # by hand, past the checks of change()
    words = "one of these settings, which is out of range: epsilon nan"
    with pytest.raises(ModelError, match=words):
        engine(x, seed=0)


@needs_cc
def test_more_windows_than_neurons_are_refused():
    """They would take 12 bytes each, 26 GB of 2^31 - 1 of them."""
    model = small_network()
    kernel = build.library()
    tables = lay_out(model)
    settings = settings_of(model)
    most_neurons = max(math.prod(shape) for shape in tables.shapes)
    for windows, why in (
        (0, "the windows"),
        (most_neurons + 1, ""),  # an even number may be one more than there are neurons
        (most_neurons + 2, "the windows"),
        (2**31 - 1, "the windows"),
    ):
        tables.header["windows"] = windows
        assert why_refused(kernel, tables.block(settings)) == why, windows


@needs_cc
@torch.no_grad()
@pytest.mark.parametrize("update", ["delayed", "immediate"])
def test_links_that_run_on_the_other_side_of_their_neurons_are_refused(update):
    """A delayed neuron that leaked before it fires would leak 2^32 - 1 times more."""
    convolution = {"in_channels": 1, "out_channels": 1, "kernel_size": 1}
    nodes = [
        ("a", "Conv2d", convolution, ["input"]),
        ("b", "Conv2d", convolution, ["input"]),
        ("n", "neuron", {}, ["a", "b"]),
        ("f", "Flatten", {}, ["n"]),
        ("o", "Linear", {"in_features": 4, "out_features": 2}, ["f"]),
    ]
    model = TracedSNN(nodes=nodes, image_shape=(1, 2, 2), labels=2, leak=0.9, update=update).eval()
    kernel = build.library()
    tables = lay_out(model)
    settings = settings_of(model)
    state = StatePool(kernel, tables).new(settings)
    assert why_refused(kernel, tables.block(settings)) == ""

    settings.immediate = 1 - settings.immediate
    assert not kernel.network_set(state.address, ctypes.byref(settings))

    settings.immediate = 1 - settings.immediate
    (adding,) = (tables.nodes["kind"] == K.ADDING).nonzero()[0]
    order = tables.order.tolist()
    places = [order.index(1), order.index(adding)]
    tables.order[places] = tables.order[places[::-1]]
    assert why_refused(kernel, tables.block(settings)) == "the settings"


@needs_cc
@pytest.mark.parametrize("counts", [False, True])
def test_a_pool_keeps_the_states_of_streams_only_to_count(counts):
    """Else the states of each stream would stay in memory when it has ended."""
    model = small_network()
    pool = StatePool(build.library(), lay_out(model, counting=counts))

    states = [pool.new(settings_of(model)) for _ in range(3)]

    assert pool.counting == (states if counts else [])


@needs_cc
def test_a_prediction_that_is_no_number_sends_nothing_in_whole_numbers():
    """Else a pixel minus this prediction is the smallest whole number there is."""
    model = quantize(
        small_network(encoding="direct", residual=True, readout="membrane_linear", epsilon=0.0)
    )
    kernel = build.library("int8")
    settings = settings_of(model)
    # A read-out that overflows, times 0, is no number.
    settings.decoded_scale = 3e38
    settings.readout_leak = 0
    state = StatePool(kernel, lay_out(model)).new(settings)
    pixels = np.full(state.struct.pixels, 200, np.uint8)

    run = ctypes.c_void_p(state.address)
    kernel.network_reset(run, 0, 0, 0)
    kernel.network_show(run, ctypes.c_void_p(pixels.ctypes.data))
    for _ in range(12):
        kernel.network_step(run)

    is_lost = np.isnan(state.pixels("prediction"))
    assert is_lost.any()
    assert not state.spikes(0)[is_lost].any()


def use(library, block):
    """Do with a block what a program does.

    Returns
    -------
    {"refused", "not begun", "run"}
        What became of it; a run does not begin where its settings do not fit.
    """
    network = Network()
    settings = Settings()
    why = library.network_open(
        block.ctypes.data, len(block), ctypes.byref(network), ctypes.byref(settings)
    )
    if why:
        return "refused"
    size = library.network_size(ctypes.byref(network))
    memory = np.empty(size if size < 2**24 else 0, np.uint8)
    library.network_begin.restype = ctypes.c_void_p
    address = library.network_begin(
        ctypes.byref(network),
        ctypes.byref(settings),
        ctypes.c_void_p(memory.ctypes.data),
        ctypes.c_size_t(len(memory)),
    )
    if not address:
        return "not begun"

    run = ctypes.c_void_p(address)
    pixels = np.full(State.from_address(address).pixels, 200, np.uint8)
    pixels[::2] = 0
    events = np.zeros(2, np.int32)  # two of the first neuron
    library.network_reset(run, 1, 2, 3)
    show_and_send(library, run, pixels, events)
    library.network_settle(run)
    library.network_set(run, ctypes.byref(settings))
    show_and_send(library, run, pixels, events)
    return "run"


def show_and_send(library, run, pixels, events):
    """Take a timestep with an image, and one with events."""
    library.network_show(run, ctypes.c_void_p(pixels.ctypes.data))
    library.network_step(run)
    library.network_arrive(run, ctypes.c_void_p(events.ctypes.data), len(events))
    library.network_step(run)


def fuzz(networks, count):
    """Use so many mutations of each network.

    Parameters
    ----------
    networks : dict of {str: (str, Tables, Settings)}
        Name -> kind of the library, the network, and its settings.
    count : int
        Mutations of each.

    Returns
    -------
    dict of {str: Counter}
        Name -> how often it became what; see use.
    """
    found = {}
    for name, (kind, tables, settings) in networks.items():
        draw = np.random.default_rng(0)
        library = build.library(kind)
        block = np.array(tables.block(settings))
        front = len(block) - tables.weights.nbytes
        assert use(library, block) == "run"
        found[name] = Counter(use(library, mutated(block, front, draw)) for _ in range(count))
    return found


def fuzz_small():
    """Use mutations of small networks; run these as they are, too, and in a stream."""
    x = images(2, (1, 12, 16))
    pooled_plan = [[4, "M", 5, "fork", 6, "A"], [3, "U", "in"]]
    in_whole_numbers = quantize(small_network())
    networks = {}
    for name, kind, model in (
        ("small", "float32", small_network()),
        ("pooled", "float32", small_network(plan=pooled_plan, residual=True)),
        ("in whole numbers", "int8", in_whole_numbers),
        ("for a microcontroller", "small", in_whole_numbers),
    ):
        EventEngine(model)(x, seed=0)
        model.stream(seed=0)(x, 3)
        tables = lay_out(model, compact=True, counting=True)
        networks[name] = (kind, tables, settings_of(model))

    for name, counts in fuzz(networks, 150).items():
        assert counts["refused"] > 20, (name, counts)
        assert counts["run"] > 20, (name, counts)
    use_where_rows_have_no_windows()


def use_where_rows_have_no_windows():
    """Run a network whose first rows reach nothing, by numbers not to compute with."""
    model = small_network()
    tables = lay_out(model)
    for node in tables.nodes[tables.nodes["link"] == K.PLACED]:
        rows = tables.nodes[node["source"]]["height"]
        places = tables.places[node["first_place"] :][: 3 * rows].reshape(-1, 3)
        places[0] = -1, -(2**31), 2**31 - 1
    assert use(build.library(), np.array(tables.block(settings_of(model)))) == "run"


def sanitised(program):
    """Run a Python program by the sanitizers, and return what it prints.

    Those of addresses and of undefined behaviour end it, and the test, at a finding.
    """
    if not shutil.which("gcc"):
        pytest.skip("gcc is not here")
    command = ["gcc", "-print-file-name=libasan.so"]
    runtime = subprocess.check_output(command, text=True).strip()
    if not Path(runtime).is_absolute():
        pytest.skip("the sanitizer of gcc is not here")
    environment = {
        **os.environ,
        "CC": "gcc",
        "CFLAGS": SANITIZED,
        "ASAN_OPTIONS": "detect_leaks=0",
        "LD_PRELOAD": runtime,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": ":".join(str(REPOSITORY / folder) for folder in IMPORTED_FROM),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_nothing_is_read_or_written_beyond_a_block(fresh):
    """benchmarks/robustness/fuzz.py takes ten thousand mutations of each network."""
    sanitised("import test_kernel; test_kernel.fuzz_small()")
