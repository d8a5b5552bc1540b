"""What the tests share: ways to run a script, small networks, folders of images, and checkpoints that the scripts trained."""

import contextlib
import copy
import functools
import hashlib
import importlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import harness.command_line.scripts
import self_models.data.sets
from harness.building.models import imported
from harness.runs.run import COMMANDS, read_records
from harness.training.losses import LOSSES
from self_models import first_difference
from self_models.basics.checkpoints import load_checkpoint
from self_models.layers.architectures import PLANS
from self_models.layers.neurons import UPDATES, SpikingNeuron
from self_models.layers.stages import INITS
from self_models.layers.surrogates import SURROGATES
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.stem for path in REPOSITORY.glob("*nn_wFeedback*.py"))

PLAN = [[4, "D", 6, 6, "D"], ["U", 4, "drop", "U", "in"]]  # small, with a layer of each kind
CLOCK = (
    "seconds",
    "images_per_second",
    "command",
    "lines",
)  # of records: what differs from run to run
DATA = "--limit_train 32 --limit_test 16 --batch_size 16"
TINY = f"-a VGG5_wFeedback_small --fc_width 16 -lr 5e-3 --epochs 1 --select test {DATA}"
BALANCE = "--balance_images 8 --balance_timesteps 12 --scaling_factor 0.3"  # else most tiny networks have silent layers
NET = "-a VGG5_wFeedback_small --fc_width 8 --batch_size 4"
SPIKING = f"--timesteps 5 --update immediate --readout membrane_rescaled --epochs 1 --select test {BALANCE} {DATA}"

ELSEWHERE = """the equations of neurons stand in layers/neurons.py, which step() runs, and again in engines/dense/neuron_steps.py and
guests/phased/neurons.py (dense), engines/event/c/network.c (events, C, the page) and guests/quantize.py (whole numbers): a change of one
is a change of all"""

# networks: on a grid, what fills no whole vectors, pools, biases
STEPS, COUNT, GRID = 9, 5, 16
FORK = [[4, "D", 6, "fork", 6, "D", 5], ["U", "in"]]
POOLED = {"plan": [[4, "A", 6, 5, "A"], []], "epsilon": 0.0, "default_threshold": 0.0625}
BIAS = {"bias": True, "initial_potential": 0.5}
MAXIMUM = {"plan": [[4, 5, "M", 6, "M", 6, "A"], []], "epsilon": 0.0}

torch.set_num_threads(1)
self_models.data.sets.load_set = functools.lru_cache(
    self_models.data.sets.load_set
)  # MNIST is unpacked once


def module_of(name):
    """The module of a script, which is named as in `wfeedback NAME`, or as its file is."""
    return importlib.import_module(COMMANDS.get(name, name))


def run_script(name, *flags):
    """Run a script as the user does, in a process of its own. A flag text with spaces is several flags."""
    command = [sys.executable, str(REPOSITORY / f"{COMMANDS.get(name, name)}.py"), *split(flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", env=environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done


def run_as_program(name, *flags):
    """Run a script in this process as if it were the program: from its last line on. Returns its stdout and stderr."""
    out, err, file = io.StringIO(), io.StringIO(), f"{COMMANDS.get(name, name)}.py"
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", [file, *split(flags)])
        runpy.run_path(str(REPOSITORY / file), run_name="__main__")
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def run_here(name, *flags):
    """Run a script in this process, which saves the imports; returns what its main returns and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        result = module_of(name).main(split(flags))
    return result, out.getvalue()


def run_make(folder, *flags, goals=("all",)):
    """Call make in a folder of C. Its kernel is compiled once in a process.

    Parameters
    ----------
    folder : Path
        As `wfeedback export --to c` writes it.
    *flags : str
        Of make, such as ``"CFLAGS=-O1"``.
    goals : sequence of str
        Of make.

    Returns
    -------
    subprocess.CompletedProcess
        With what make wrote, whether or not it failed.
    """
    sources = []
    for name in KERNEL_SOURCES:
        sources.append((Path(folder) / name).read_bytes())
    try:
        kernel = kernel_object(tuple(sources), flags)
    except subprocess.CalledProcessError as error:
        return error
    # Make builds what is older than a header, and the copy is new.
    shutil.copy(kernel, folder)
    return subprocess.run(
        ["make", "-C", str(folder), *goals, *flags], capture_output=True, text=True
    )


KERNEL_SOURCES = ("network.c", "network.h", "vectors.h", "small.h", "Makefile", "qemu.mk")
KERNELS = tempfile.TemporaryDirectory()  # removed when Python ends


@functools.cache
def kernel_object(sources, flags):
    """Compile network.o, which depends on these sources, in the order of KERNEL_SOURCES."""
    folder = Path(tempfile.mkdtemp(dir=KERNELS.name))
    for name, text in zip(KERNEL_SOURCES, sources, strict=True):
        (folder / name).write_bytes(text)
    (folder / "weights.h").touch()  # a prerequisite, which network.c does not include
    subprocess.run(
        ["make", "-C", str(folder), "network.o", *flags],
        check=True,
        capture_output=True,
        text=True,
    )
    return folder / "network.o"


def refused(name, *flags):
    """Run a script in this process; it must stop with status 2 and one line on standard error, which is returned."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        harness.command_line.scripts.run_script(lambda: module_of(name).main(split(flags)))
    line = err.getvalue()
    assert (
        stop.value.code == 2
        and line.startswith("error: ")
        and line.endswith("\n")
        and line.count("\n") == 1
    ), line
    return line.strip()


COMMAND = re.compile(
    r"^(?: {4})?(?:\S+=\S+ )*(?:\.venv/bin/)?(?:wfeedback (\w+)|python (\S+)\.py)((?: .*)?)$",
    re.MULTILINE,
)


def commands_in(page):
    """(script, words after it) of each command in a page's blocks, as `wfeedback NAME ...` or `python SCRIPT.py ...`."""
    names = {script: name for name, script in COMMANDS.items()}
    text = (REPOSITORY / page).read_text(encoding="utf-8").replace("\\\n", " ")
    return [
        (name or names.get(path, path), shlex.split(words, comments=True))
        for name, path, words in COMMAND.findall(text)
    ]


def split(flags):
    """The words of flags: of a text those between spaces, of a list each as it is."""
    words = []
    for flag in flags:
        if isinstance(flag, list):
            words += flag
        elif isinstance(flag, Path):
            words.append(str(flag))
        else:
            words += flag.split()
    return words


def records(path, event=None):
    """The JSON objects of a run's log, of one kind, or all but those that say what the run is, or only have lines."""
    found = read_records(Path(path))
    if event is None:
        return [record for record in found if record["event"] not in ("run", "text", "result")]
    return [record for record in found if record["event"] == event]


def figures(value):
    """The same figures without those that depend on the clock or on how the script was started."""
    if isinstance(value, dict):
        return {key: figures(part) for key, part in value.items() if key not in CLOCK}
    return [figures(part) for part in value] if isinstance(value, list) else value


def digests(folder):
    """Relative path -> digest of each file below a folder, locks aside: what must not change."""
    files = (
        path
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    )
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files
    }


def same_weights(path, other):
    a, b = (load_checkpoint(each)["state_dict"] for each in (path, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def images(count, shape=(1, 28, 28), seed=0):
    """Random images: colour in [-1, 1], others in [0, 1], a fifth of the pixels 0."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=draw)
    return torch.where(
        torch.rand(x.shape, generator=draw) < 0.2, 0.0, x if shape[0] < 3 else 2 * x - 1
    )


def tiny(cls=VGG_SNN_STDB_wFeedback, seed=0, batched=True, **settings):
    """A random network of PLAN, or another, that spikes in every layer; in evaluation. batched: else it runs step by step."""
    torch.manual_seed(seed)
    if cls is not VGG_wFeedback:
        settings = {"timesteps": 6, "update": "immediate", "default_threshold": 0.2, **settings}
    model = cls(**{"plan": PLAN, "fc_width": 12, **settings}).eval()
    for layer in model.classifier[::3]:
        layer.weight.data *= 20  # else hardly any of its neurons fires in a few steps
    model.batched = batched
    return model


def pixels(seed, shape=(12, 12, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(path, array):
    """Write an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make_folder(folder, classes=("cat", "dog"), count=4, shape=(12, 12, 3)):
    """A data set of so many images of each class for training, and for testing."""
    for part, offset in (("train", 0), ("test", 100)):
        for label, name in enumerate(classes):
            for n in range(count):
                write(folder / part / name / f"{n}.png", pixels(offset + 10 * label + n, shape))
    return folder


def build(cls=InputBlockingSNN, on_grid=True, **settings):
    """A network whose weights and thresholds are whole parts of 1/16, so that no sum of them is rounded; or any weights."""
    torch.manual_seed(4)
    own = {"epsilon": 0.3} if issubclass(cls, InputBlockingSNN) else {}
    common = {
        "plan": PLAN,
        "timesteps": STEPS,
        "fc_width": 24,
        "readout": "membrane_linear",
        "update": "immediate",
        **own,
    }
    model = cls(**{**common, "default_threshold": 0.25, **settings}).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.06)
            if on_grid:
                parameter.data.mul_(GRID).round_().div_(GRID)
        if parameter.dim() > 1:
            parameter.data *= (
                1 if name.startswith(("features", "generate")) else 15
            )  # else few of the classifier's fire
            if on_grid:
                parameter.data.mul_(GRID).round_().div_(GRID)
    return model


def inputs(model, count=COUNT):
    """Images whose values are whole parts of 1/16, and draws."""
    x = (images(count, model.image_shape) * GRID).round() / GRID
    return x, torch.rand(model.timesteps, *x.shape, generator=torch.Generator().manual_seed(3))


def check_same(dense, event, exact=True):
    """Two SNNOutputs, of the same parts, are equal, or within rounding of values."""
    assert first_difference(dense, event, tolerance=0 if exact else 1e-5) is None
    assert [part is None for part in dense[:-1]] == [part is None for part in event[:-1]]


def spiked(output):
    return all(count.sum() > 0 for name, count in output.spikes.items())


class Tired(SpikingNeuron):
    """Neurons that get half of their current."""

    def forward(self, current, state=None):
        return super().forward(current / 2, state)


def become(cls):
    """What makes a module one of this class, which is derived from its own."""
    return lambda module: setattr(module, "__class__", cls)


UNKNOWN = {  # what no architecture has -> what makes it part of a network of PLAN
    "features.1 (Tired)": lambda model: become(Tired)(model.features[1]),
    "features.5 (Tanh)": lambda model: model.features.__setitem__(5, nn.Tanh()),
    "features.0 (Conv2d)": lambda model: model.features.__setitem__(
        0, nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
    ),
    "features.4 (SpikingNeuron)": lambda model: setattr(
        model.features[4], "update", UPDATES["delayed"]
    ),
    "generate2 (Sequential)": lambda model: setattr(
        model, "generate2", copy.deepcopy(model.generate)
    ),
    "gain (Parameter)": lambda model: setattr(model, "gain", nn.Parameter(torch.ones(1))),
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """folder; ann, snn: paths of checkpoints trained there by the scripts; ann_run, snn_run: their stdout and stderr; ann_files:
    digests of the ANN's files before the SNN was made. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    ann, snn = folder / "trained_models/ann/tiny.pth", folder / "trained_models/snn/tiny.pth"

    here = f"--run_name tiny --output_dir {folder}"
    ann_run = run_as_program("ann", TINY, here)
    ann_files = digests(ann.parent)
    snn_run = run_as_program("snn", f"--pretrained_ann {ann}", SPIKING, here)
    return SimpleNamespace(
        folder=folder, ann=ann, snn=snn, ann_run=ann_run, snn_run=snn_run, ann_files=ann_files
    )


@pytest.fixture(scope="session")
def baseline(tmp_path_factory):
    """Path of an SNN of a plan without a decoder, trained by the script. Read only."""
    folder = tmp_path_factory.mktemp("baseline")
    run_here(
        "snn",
        f"-a VGG5_small --fc_width 16 {SPIKING} --run_name baseline --output_dir {folder}".replace(
            BALANCE, ""
        ),
    )
    return folder / "trained_models/snn/baseline.pth"


def run_undrawn(name, *flags):
    """As run_here, without most pictures, which take most of the time."""
    module = module_of(name)
    with pytest.MonkeyPatch.context() as patch:
        for each, value in list(vars(module).items()):
            if (
                each.startswith("save_")
                and each != "save_raster"
                and value.__module__.startswith("harness.drawing")
            ):
                patch.setattr(module, each, lambda *_, **__: None)
        return run_here(name, *flags)


@pytest.fixture
def forgotten():
    """What files register is forgotten after a test, and that they were imported."""
    registries = GATES, RULES, READOUTS, ENCODINGS, SURROGATES, LOSSES, PLANS, UPDATES, INITS
    before = [(registry, dict(registry)) for registry in registries]
    imported.cache_clear()
    yield
    for registry, parts in before:
        registry.clear()
        registry.update(parts)
    imported.cache_clear()


@pytest.fixture
def pictures(monkeypatch):
    """The figures that have been drawn, as matplotlib has them."""
    plots = importlib.import_module("harness.drawing.figures")  # not wanted under the sanitizers
    drawn, close = [], plots.plt.close
    monkeypatch.setattr(plots.plt, "close", lambda figure: (drawn.append(figure), close(figure)))
    return drawn
