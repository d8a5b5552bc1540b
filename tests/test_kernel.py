"""The kernel as a library: how it is built and kept, by whatever compiler there is, and which blocks of bytes it refuses."""

import ctypes
import importlib.util
import math
import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, images, refused, run_here

import self_models.engines.event.engine
from self_models import ModelError, load
from self_models.engines.event import build
from self_models.engines.event.build import FOLDER, KINDS, KernelBuild, Network, Settings, State
from self_models.engines.event.engine import EventEngine
from self_models.engines.event.layout import lay_out
from self_models.engines.event.state import StatePool
from self_models.engines.event.tables import K, settings_of
from self_models.guests.from_ann.traced_snn import TracedSNN
from self_models.guests.quantize import quantize
from self_models.runtime.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

QUICK, FEW = (
    REPOSITORY / "trained_models/snn/quick_feedback.pth",
    "--preset quick_feedback --limit_test 16 --output_dir",
)
INTEL = platform.machine() in ("x86_64", "AMD64")
# without asan-stack=0 gcc 12 misaligns vectors
SANITIZED = "-O0 -fsanitize=address,undefined -fno-sanitize-recover=undefined --param=asan-stack=0"
ZIG, HAS_ZIG = f"{sys.executable} -m ziglang cc", importlib.util.find_spec("ziglang") is not None
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc")


def small(**settings):
    """A network with leaks, pools, a floor, biases and feedback, and weights whose sums are rounded."""
    torch.manual_seed(2)
    own = {
        "plan": [[5, "D", 6, "A"], [3, "U", "U", "in"]],
        "image_shape": (1, 12, 16),
        "fc_width": 11,
        "timesteps": 4,
    }
    own |= {
        "leak": 0.9,
        "default_threshold": 0.01,
        "membrane_floor": 1.0,
        "bias": True,
        "epsilon": 0.2,
    }
    return InputBlockingSNN(**own | settings).eval()


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A folder with an empty cache, whose name is no ASCII; nothing is built yet in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "Käßchen ö"))
    monkeypatch.setenv("CFLAGS", "-O0")
    cached = build.kernel_build, build.library
    for each in cached:
        each.cache_clear()
    yield tmp_path
    for each in cached:
        each.cache_clear()


def libraries():
    return sorted(build.cache_folder().rglob("*.so"))


def test_without_a_compiler_all_runs_dense(fresh, monkeypatch):
    """The draws are the same, so the logits are, too; auto says so once, and --engine event is refused in one line."""
    (fresh / "ziglang").mkdir()
    (fresh / "ziglang/__init__.py").touch()  # a package that has no compiler
    x, draws = images(3), Draws(3, EVALUATION, torch.tensor([0, 5, 2**32 - 1]))
    with monkeypatch.context() as patch:
        for name, value in {"PATH": "", "CC": "", "PYTHONPATH": str(fresh)}.items():
            patch.setenv(name, value)
        patch.syspath_prepend(fresh)
        with pytest.warns(RuntimeWarning, match="runs dense: the event engine: no C compiler"):
            model = load(QUICK)
        drawn = draws.uniforms(2, (2, 3, 4))
        logits = model(x, draws=draws).logits
        assert (
            run_here("obj1", f"{FEW} {fresh}")[1].count(
                "engine: dense (the event engine: no C compiler"
            )
            == 1
        )
        assert "pip install ziglang brings one; --engine dense runs it" in refused(
            "obj1", f"{FEW} {fresh} --engine event"
        )
        patch.setattr(build, "compilers", list)
        with pytest.raises(ModelError, match=r"no C compiler is here .*: pip install ziglang"):
            KernelBuild()
    assert model.engine is None and not libraries()
    for function in (build.kernel_build, build.library):
        function.cache_clear()
    assert torch.equal(draws.uniforms(2, (2, 3, 4)), drawn)
    assert torch.equal(load(QUICK, engine="dense")(x, draws=draws).logits, logits)


def test_a_setting_that_a_gate_has_gained_is_refused(monkeypatch):
    """Until the kernel knows it, here as if it did not know `blocking`: at its default it changes nothing."""
    monkeypatch.setattr("self_models.engines.event.tables.GATE_FLAGS", ("together",))
    engine = EventEngine(small())
    engine.update()
    engine.model.change(blocking="dynamic")
    with pytest.raises(ModelError, match="no form of the blocking dynamic"):
        engine.update()


def test_a_compiler_that_fails(fresh, monkeypatch):
    """One line if there is no other; else it is passed over."""
    compiler = fresh / "cc"
    compiler.write_text("#!/bin/sh\necho a warning >&2\necho error: no licence >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with monkeypatch.context() as patch:
        patch.setattr(build, "compilers", lambda: [[str(compiler)]])
        with pytest.raises(ModelError, match="pip install ziglang") as error:
            KernelBuild()
    assert (
        "cc: error: no licence)" in str(error.value)
        and "\n" not in str(error.value)
        and not libraries()
    )
    if shutil.which("cc"):
        found = KernelBuild()
        assert (
            found.command[0] == "cc"
            and str(compiler) in found.reasons[0]
            and [found.path] == libraries()
        )


@needs_cc
@torch.no_grad()
def test_all_compilers_and_flags_give_the_same_bytes(fresh, monkeypatch):
    """Of layers that fill whole vectors, and not; and the smallest numbers of this process stay what they are."""
    x, wide = (
        images(20, (1, 12, 16)),
        {"plan": [[17, "D", 67], [33, "U", 15, "in"]], "fc_width": 131, "update": "immediate"},
    )
    ways, found = (
        [
            ("cc", "-O3"),
            ("cc", "-O0"),
            ("cc", "-O1 -Ofast -ffast-math -mdaz-ftz"),
            ("cc", "-O1 -DPLAIN -DX='a b'"),
        ],
        [],
    )
    ways += (
        [("cc", "-O1 -march=x86-64")] * INTEL
        + [("clang", "-O2")] * ("clang" in COMPILERS)
        + [(ZIG, "-O3")] * HAS_ZIG
    )
    monkeypatch.setattr(build, "kernel_build", KernelBuild)
    monkeypatch.setattr(self_models.engines.event.engine, "library", build.library.__wrapped__)
    for compiler, flags in ways:
        monkeypatch.setenv("CC", compiler)
        monkeypatch.setenv("CFLAGS", flags)
        outputs = [EventEngine(small(**own))(x, seed=1) for own in ({}, wide)]
        parts = [
            (each.logits_by_step, each.predictions, *each.spikes.values()) for each in outputs
        ]
        found.append([part.numpy().tobytes() for part in (*parts[0], *parts[1])])
        assert found[0] == found[-1] and math.ldexp(1.0, -1074) * len(found) > 0, (compiler, flags)
    assert all(
        outputs[1].spikes[name].sum() > 0 for name in ("features.4", "generate.4", "classifier.4")
    )
    assert len(libraries()) == len(ways)
    if not HAS_ZIG:
        pytest.skip("all but zig, which is not here: pip install ziglang")


@pytest.mark.parametrize("flags", [*KINDS.values(), build.SMALL_KINDS["small"], ("-DPLAIN",)])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_compiler_warns(compiler, flags, tmp_path):
    words = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-c"]
    sources = [
        FOLDER / "network.c" if "-DNETWORK_SMALL" in flags else FOLDER / "runs.c",
        FOLDER / "block.c",
    ]
    done = subprocess.run(
        [compiler, *words, *sources, *flags], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not INTEL or "gcc" not in COMPILERS, reason="gcc for x86 is not here")
def test_a_build_that_rounds_sums_in_another_way_does_not_begin(tmp_path):
    """As by clang -ffp-contract=fast, which passes over the pragma."""
    if "fma" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("this processor does not fuse them")
    tables, memory = lay_out(model := small()), np.zeros(100_000, np.uint64)
    network, settings = tables.network(build.library()), settings_of(model)
    for name, begins in (("network.c", True), ("fused.c", False)):
        text = (FOLDER / "network.c").read_text()
        (tmp_path / name).write_text(
            text if begins else text.replace('#pragma GCC optimize("fp-contract=off")', "")
        )
        command = f"gcc -O2 -march=native -ffp-contract=fast -shared -fPIC {name} -I {FOLDER} -o {name}.so -lm"
        subprocess.run(command.split(), cwd=tmp_path, check=True)
        begin = ctypes.CDLL(str(tmp_path / f"{name}.so")).network_begin
        begin.restype, begin.argtypes = ctypes.c_void_p, [*[ctypes.c_void_p] * 3, ctypes.c_size_t]
        given = (
            ctypes.addressof(network),
            ctypes.addressof(settings),
            memory.ctypes.data,
            memory.nbytes,
        )
        assert bool(begin(*given)) == begins
    for flags in ("-ffast-math", "-mfpmath=387"):
        done = subprocess.run(
            ["gcc", flags, "-S", "network.c", "-o", "-"],
            cwd=FOLDER,
            capture_output=True,
            text=True,
        )
        assert done.returncode and "sums must be rounded one by one" in done.stderr


@needs_cc
def test_a_library_is_kept_and_one_that_does_not_load_is_built_again(fresh, monkeypatch):
    with monkeypatch.context() as patch:  # else this process has it in memory
        patch.setattr(ctypes, "CDLL", str)
        path = KernelBuild().path
        made = path.stat().st_mtime_ns
        assert (
            KernelBuild().path == path
            and path.stat().st_mtime_ns == made
            and libraries() == [path]
        )
    path.write_bytes(b"no library")
    assert (
        KernelBuild().library.network_runs
        and path.stat().st_size > 10_000
        and libraries() == [path]
    )


@needs_cc
def test_where_nothing_can_be_kept_it_is_built_for_this_process(fresh, monkeypatch):
    """And nothing of it stays."""
    temporary = fresh / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    build.users_folder().parent.touch()
    found = KernelBuild()
    assert not found.is_cached and found.library.network_runs and not list(temporary.iterdir())


@needs_cc
def test_several_at_once_and_what_a_killed_build_left(fresh):
    (build.cache_folder() / "building_x").mkdir(parents=True)
    (build.cache_folder() / "building_x/network.so").write_text("half")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: KernelBuild(), range(4)))
    (path,) = {one.path for one in found}
    assert {each.name for each in build.cache_folder().iterdir()} == {"building_x", path.name}


FLOATS = np.float32([-1, 0.5, 3e38, math.inf, math.nan]).view(np.int32).tolist()
# numbers in place of a block's
OTHERS = -1, 0, 1, 2, 3, 5, 17, 59, 200, 2**15, 2**31 - 1, -(2**31), *FLOATS


def mutated(block, front, draw):
    """A block, perhaps cut short, with up to three other numbers, most of them of its head, or before its weights (front)."""
    block = block[: draw.integers(len(block)) if draw.random() < 0.05 else len(block)].copy()
    numbers = block[: len(block) // 4 * 4].view(np.int32)
    for last in draw.choice(
        [200, front // 4, len(numbers)], draw.integers(1, 4), p=[0.3, 0.4, 0.3]
    ):
        at = slice(first := draw.integers(max(min(last, len(numbers)), 1)), first + 1)
        numbers[at] = (
            draw.choice(OTHERS) if draw.random() < 0.7 else numbers[at] ^ 2 ** draw.integers(31)
        )
    return block


def why_refused(library, block):
    """What network_open says of a block, '' where it opens it."""
    why = library.network_open(
        block.ctypes.data, len(block), ctypes.byref(Network()), ctypes.byref(Settings())
    )
    return why.decode() if why else ""


NAN, INFINITE = math.nan, math.inf
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
    **{
        name: [-1, 2, 59]
        for name in ("dynamic", "latch", "feedback", "immediate", "residual", "per_pixel")
    },
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


def named_values(values_by_name):
    """(name, value) of each of the values."""
    return [(name, value) for name, values in values_by_name.items() for value in values]


@needs_cc
@pytest.mark.parametrize("kind", KINDS)
def test_settings_out_of_range_are_refused(kind):
    """By network_open, network_begin and network_set, which then changes nothing."""
    model = small(encoding="direct")
    model = quantize(model) if kind == "int8" else model
    kernel, tables = build.library(kind), lay_out(model)
    pool = StatePool(kernel, tables)
    state = pool.new(settings_of(model))
    before = bytes(state.struct.settings)
    assert {*OUT_OF_RANGE} == {name for name, _ in Settings._fields_}
    for ranges, is_taken in ((IN_RANGE, 1), (OUT_OF_RANGE, 0)):
        for name, value in named_values(ranges):
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
            assert kernel.network_set(state.address, ctypes.byref(settings)) == is_taken
            assert bytes(state.struct.settings) == (bytes(settings) if is_taken else before)


def test_a_setting_out_of_range_is_refused_in_a_line():
    """One that was put there by hand, past change(); a state that is free is not used either."""
    engine, x = EventEngine(small()), images(1, (1, 12, 16))
    assert engine(x, seed=0)
    engine.model.gate.epsilon = NAN
    with pytest.raises(
        ModelError, match=r"one of these settings, which is out of range: epsilon nan"
    ):
        engine(x, seed=0)


@needs_cc
def test_more_windows_than_neurons_are_refused():
    """They would take 12 bytes each, 26 GB of 2^31 - 1 of them. An even number may be one more than there are."""
    model, kernel = small(), build.library()
    tables, settings = lay_out(model), settings_of(model)
    largest = max(map(math.prod, tables.shapes))
    for windows, why in {
        0: "the windows",
        largest + 1: "",
        largest + 2: "the windows",
        2**31 - 1: "the windows",
    }.items():
        tables.header["windows"] = windows
        assert why_refused(kernel, tables.block(settings)) == why, windows


@needs_cc
@torch.no_grad()
def test_links_that_run_on_the_other_side_of_their_neurons_are_refused():
    """A delayed neuron that was charged, and had leaked, before it fires, would leak 2^32 - 1 times more."""
    kernel = build.library()
    convolution = {"in_channels": 1, "out_channels": 1, "kernel_size": 1}
    nodes = [
        ("a", "Conv2d", convolution, ["input"]),
        ("b", "Conv2d", convolution, ["input"]),
        ("n", "neuron", {}, ["a", "b"]),
        ("f", "Flatten", {}, ["n"]),
        ("o", "Linear", {"in_features": 4, "out_features": 2}, ["f"]),
    ]
    for update in ("delayed", "immediate"):
        own = {"image_shape": (1, 2, 2), "labels": 2, "leak": 0.9, "update": update}
        model = TracedSNN(nodes=nodes, **own).eval()
        tables, settings = lay_out(model), settings_of(model)
        state = StatePool(kernel, tables).new(settings)
        (further,) = (n for n, node in enumerate(tables.nodes) if node["kind"] == K.ADDING)
        assert why_refused(kernel, tables.block(settings)) == ""
        settings.immediate = 1 - settings.immediate
        assert not kernel.network_set(state.address, ctypes.byref(settings)), update
        settings.immediate = 1 - settings.immediate
        places = [tables.order.tolist().index(n) for n in (1, further)]
        tables.order[places] = tables.order[places[::-1]]
        assert why_refused(kernel, tables.block(settings)) == "the settings", update


@needs_cc
def test_a_prediction_that_is_no_number_sends_nothing_in_whole_numbers():
    """A read-out that overflows, times 0, is none; what is left of a pixel, x minus it, was the smallest whole number there is."""
    model = quantize(
        small(encoding="direct", residual=True, readout="membrane_linear", epsilon=0.0)
    )
    kernel = build.library("int8")
    settings = settings_of(model)
    settings.decoded_scale, settings.readout_leak = 3e38, 0
    state = StatePool(kernel, lay_out(model)).new(settings)
    pixels = np.full(state.struct.pixels, 200, np.uint8)
    kernel.network_reset(state.address, 0, 0, 0)
    kernel.network_show(ctypes.c_void_p(state.address), ctypes.c_void_p(pixels.ctypes.data))
    for _ in range(12):
        kernel.network_step(ctypes.c_void_p(state.address))
    is_lost = np.isnan(state.pixels("prediction"))
    assert is_lost.any() and not state.spikes(0)[is_lost].any()


def use(library, block):
    """What becomes of a block: refused, not begun, as its settings do not fit, or run."""
    network, settings, pointer = Network(), Settings(), ctypes.c_void_p
    if library.network_open(
        block.ctypes.data, len(block), ctypes.byref(network), ctypes.byref(settings)
    ):
        return "refused"
    size = library.network_size(ctypes.byref(network))
    memory, events = np.empty(size if size < 2**24 else 0, np.uint8), np.zeros(2, np.int32)
    library.network_begin.restype = pointer
    given = (
        ctypes.byref(network),
        ctypes.byref(settings),
        pointer(memory.ctypes.data),
        ctypes.c_size_t(len(memory)),
    )
    if not (run := pointer(library.network_begin(*given))):
        return "not begun"
    pixels = np.full(State.from_address(run.value).pixels, 200, np.uint8)
    shown = (
        ("show", pointer(pixels.ctypes.data)),
        ("step",),
        ("arrive", pointer(events.ctypes.data), 2),
        ("step",),
    )
    for name, *values in (
        ("reset", 1, 2, 3),
        *shown,
        ("settle",),
        ("set", ctypes.byref(settings)),
        *shown,
    ):
        getattr(library, f"network_{name}")(run, *values)
        pixels[::2] = 0
    return "run"


def fuzz(networks, count):
    """What becomes of so many mutations of each network, counted. networks: name -> (kind of library, tables, settings)."""
    found = {}
    for name, (kind, tables, settings) in networks.items():
        draw, block, library = (
            np.random.default_rng(0),
            np.array(tables.block(settings)),
            build.library(kind),
        )
        assert use(library, block) == "run"
        found[name] = Counter(
            use(library, mutated(block, len(block) - tables.weights.nbytes, draw))
            for _ in range(count)
        )
    return found


def fuzz_small():
    """A few mutations of small networks, which are run by the engine, and in a stream, as they are."""
    x, networks = images(2, (1, 12, 16)), {}
    pooled, whole = (
        {"plan": [[4, "M", 5, "fork", 6, "A"], [3, "U", "in"]], "residual": True},
        quantize(small()),
    )
    for kind, model in (
        ("float32", small()),
        ("float32", small(**pooled)),
        ("int8", whole),
        ("small", whole),
    ):
        EventEngine(model)(x, seed=0), model.stream(seed=0)(x, 3)
        networks[len(networks)] = (
            kind,
            lay_out(model, compact=True, counting=True),
            settings_of(model),
        )
    for name, counts in fuzz(networks, 150).items():
        assert counts["refused"] > 20 < counts["run"], (name, counts)
    use_where_rows_have_no_windows()


def use_where_rows_have_no_windows():
    """Run a network whose first rows reach nothing, and have numbers that nobody may compute with."""
    tables, settings = lay_out(model := small()), settings_of(model)
    for node in tables.nodes[tables.nodes["link"] == K.PLACED]:
        rows = tables.nodes[node["source"]]["height"]
        places = tables.places[node["first_place"] :][: 3 * rows].reshape(-1, 3)
        places[0] = -1, -(2**31), 2**31 - 1
    assert use(build.library(), np.array(tables.block(settings))) == "run"


def sanitised(program):
    """What a Python program prints, run by the sanitizers of addresses and of undefined behaviour, which end it at a finding."""
    runtime = (
        shutil.which("gcc")
        and subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip()
    )
    if not runtime or not Path(runtime).is_absolute():
        pytest.skip("gcc, or its sanitizer, is not here")
    own = {
        "CC": "gcc",
        "CFLAGS": SANITIZED,
        "ASAN_OPTIONS": "detect_leaks=0",
        "LD_PRELOAD": runtime,
        "OMP_NUM_THREADS": "1",
    }
    own |= {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_nothing_is_read_or_written_beyond_a_block(fresh):
    """benchmarks/robustness/fuzz.py takes ten thousand mutations of each network."""
    sanitised("import test_kernel; test_kernel.fuzz_small()")
