"""What the tests share: ways to run a script, small networks, and folders of images.

The fixtures `trained` and `baseline` are checkpoints that the scripts have trained.
"""

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

import self_models.data.sets
import wfeedback.command_line.scripts
from self_models import first_difference, from_ann
from self_models.checkpoints.files import load_checkpoint
from self_models.feedback.encoders import ENCODINGS
from self_models.feedback.gates import GATES
from self_models.feedback.readouts import READOUTS
from self_models.feedback.stopping import RULES
from self_models.networks.architectures import PLANS
from self_models.networks.stages import INITS
from self_models.neurons.spiking import UPDATES, SpikingNeuron
from self_models.neurons.surrogates import SURROGATES
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.building.models import imported
from wfeedback.runs.run import COMMANDS, read_records
from wfeedback.training.losses import LOSSES

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.stem for path in REPOSITORY.glob("*nn_wFeedback*.py"))

# A small network with a layer of each kind
PLAN = [[4, "D", 6, 6, "D"], ["U", 4, "drop", "U", "in"]]
# Keys of records whose values differ from run to run
CLOCK = ("seconds", "images_per_second", "command", "lines")

# Flags
DATA = "--limit_train 32 --limit_test 16 --batch_size 16"
TINY = f"-a VGG5_wFeedback_small --fc_width 16 -lr 5e-3 --epochs 1 --select test {DATA}"
# Without these flags, most tiny networks have layers that stay silent.
BALANCE = "--balance_images 8 --balance_timesteps 12 --scaling_factor 0.3"
NET = "-a VGG5_wFeedback_small --fc_width 8 --batch_size 4"
SPIKING = (
    "--timesteps 5 --update immediate --readout membrane_rescaled "
    f"--epochs 1 --select test {BALANCE} {DATA}"
)

ELSEWHERE = """the equations of neurons stand in neurons/spiking.py, which step() runs, and again
in running/dense/neuron_steps.py and running/phased/neurons.py (dense),
wfeedback/event/c/network.c (events, C, the page) and wfeedback/event/quantize.py (whole
numbers): a change of one is a change of all"""

# Networks whose weights are whole parts of 1 / GRID: their timesteps, and their images
STEPS = 9
COUNT = 5
GRID = 16
# Channels that fill no whole vectors, pools, and biases
FORK = [[4, "D", 6, "fork", 6, "D", 5], ["U", "in"]]
POOLED = {"plan": [[4, "A", 6, 5, "A"], []], "epsilon": 0.0, "default_threshold": 0.0625}
BIAS = {"bias": True, "initial_potential": 0.5}
MAXIMUM = {"plan": [[4, 5, "M", 6, "M", 6, "A"], []], "epsilon": 0.0}

torch.set_num_threads(1)
# MNIST is unpacked once in a process.
self_models.data.sets.load_set = functools.lru_cache(self_models.data.sets.load_set)


def module_of(name):
    """Import a script, which is named as in `wfeedback NAME`, or as its file is."""
    return importlib.import_module(COMMANDS.get(name, name))


def words_that_start(name):
    """Return what comes after `python` to run a script or command, named as above."""
    module = COMMANDS.get(name, name)
    if module.startswith("wfeedback."):
        return ["-P", "-m", "wfeedback", name]
    if module.startswith("studies."):
        return ["-P", "-m", module]
    return [str(REPOSITORY / f"{module}.py")]


def run_script(name, *flags):
    """Run a script in its own process, as the user does; flags are as for `split`."""
    command = [sys.executable, *words_that_start(name), *split(flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", env=environment, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done


def run_as_program(name, *flags):
    """Run a script as the program, but here; return its stdout and stderr."""
    out = io.StringIO()
    err = io.StringIO()
    module = COMMANDS.get(name, name)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        if module.startswith("wfeedback."):
            patch.setattr(sys, "argv", ["wfeedback", name, *split(flags)])
            runpy.run_module("wfeedback", run_name="__main__")
        else:
            file = f"{module.replace('.', '/')}.py"
            patch.setattr(sys, "argv", [file, *split(flags)])
            runpy.run_path(str(REPOSITORY / file), run_name="__main__")
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def run_here(name, *flags):
    """Run a script in this process, which saves the imports.

    Parameters
    ----------
    name : str
        As for `module_of`.
    *flags : str, Path or list of str
        As for `split`.

    Returns
    -------
    result : object
        What the script's main returns.
    printed : str
        Its standard output.
    """
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
    """Compile network.o from these sources, in the order of KERNEL_SOURCES."""
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
    """Run a script that must stop with status 2 and one line on stderr; return it."""
    err = io.StringIO()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        wfeedback.command_line.scripts.run_script(lambda: module_of(name).main(split(flags)))
    line = err.getvalue()
    assert stop.value.code == 2, line
    assert line.startswith("error: "), line
    assert line.endswith("\n"), line
    assert line.count("\n") == 1, line
    return line.strip()


# `wfeedback NAME ...` or `python SCRIPT.py ...`; variables may stand before either
COMMAND = re.compile(
    r"^(?: {4})?(?:\S+=\S+ )*(?:\.venv/bin/)?"
    r"(?:wfeedback (\w+)|python (?:(\S+)\.py|-m (\S+)))((?: .*)?)$",
    re.MULTILINE,
)


def commands_in(page):
    """Find the commands in a page's blocks: pairs of a script's name and its words."""
    names = {script: name for name, script in COMMANDS.items()}
    text = (REPOSITORY / page).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = []
    for name, path, module, words in COMMAND.findall(text):
        script = name or names.get(path, path) or module.replace(".", "/")
        commands.append((script, shlex.split(words, comments=True)))
    return commands


def split(flags):
    """Split texts at their spaces; a path, and each item of a list, stays one word."""
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
    """Read from a run's log the records of one event, or all measurements."""
    found = read_records(Path(path))
    if event is None:
        # The others say what the run is, or only have lines.
        return [record for record in found if record["event"] not in ("run", "text", "result")]
    return [record for record in found if record["event"] == event]


def figures(value):
    """Remove at any depth what depends on the clock or on how a script was started."""
    if isinstance(value, dict):
        return {key: figures(part) for key, part in value.items() if key not in CLOCK}
    if isinstance(value, list):
        return [figures(part) for part in value]
    return value


def digests(folder):
    """Digest each file below a folder, locks aside: relative path -> digest."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            name = str(path.relative_to(folder))
            found[name] = hashlib.md5(path.read_bytes()).hexdigest()
    return found


def same_weights(path, other):
    """Return whether two checkpoints have the same tensors under the same names."""
    one = load_checkpoint(path)["state_dict"]
    two = load_checkpoint(other)["state_dict"]
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def images(count, shape=(1, 28, 28), seed=0):
    """Draw images: colour in [-1, 1], others in [0, 1], a fifth of the pixels 0."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=draw)
    is_zero = torch.rand(x.shape, generator=draw) < 0.2
    if shape[0] >= 3:
        x = 2 * x - 1
    return torch.where(is_zero, 0.0, x)


def tiny(cls=VGG_SNN_STDB_wFeedback, seed=0, batched=True, **settings):
    """Make a random network that spikes in every layer, in evaluation.

    Parameters
    ----------
    cls : type
        Class of the network.
    seed : int
        Of its weights.
    batched : bool
        Whether it may run several timesteps at once.
    **settings
        Of the network, in place of PLAN and the other values below.

    Returns
    -------
    nn.Module
        The network.
    """
    torch.manual_seed(seed)
    defaults = {"plan": PLAN, "fc_width": 12}
    if cls is not VGG_wFeedback:
        defaults |= {"timesteps": 6, "update": "immediate", "default_threshold": 0.2}
    model = cls(**{**defaults, **settings}).eval()
    for layer in model.classifier[::3]:
        layer.weight.data *= 20  # else hardly any of its neurons fires in a few steps
    model.batched = batched
    return model


def pixels(seed, shape=(12, 12, 3)):
    """Draw the bytes of an image."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(path, array):
    """Write an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make_folder(folder, classes=("cat", "dog"), count=4, shape=(12, 12, 3)):
    """Write a data set with `count` images of each class to train, and to test."""
    for part, offset in (("train", 0), ("test", 100)):
        for label, name in enumerate(classes):
            for number in range(count):
                image = pixels(offset + 10 * label + number, shape)
                write(folder / part / name / f"{number}.png", image)
    return folder


def build(cls=InputBlockingSNN, on_grid=True, **settings):
    """Make a network whose sums are not rounded.

    Parameters
    ----------
    cls : type
        Class of the network.
    on_grid : bool
        Whether its weights and biases are whole parts of 1 / GRID, or any numbers.
    **settings
        Of the network, in place of the values below.

    Returns
    -------
    nn.Module
        The network, in evaluation.
    """
    torch.manual_seed(4)
    defaults = {
        "plan": PLAN,
        "timesteps": STEPS,
        "fc_width": 24,
        "readout": "membrane_linear",
        "update": "immediate",
        "default_threshold": 0.25,
    }
    if issubclass(cls, InputBlockingSNN):
        defaults["epsilon"] = 0.3
    model = cls(**{**defaults, **settings}).eval()
    for name, parameter in model.named_parameters():
        is_bias = name.endswith("bias")
        is_weight = parameter.dim() > 1
        if is_bias:
            parameter.data.normal_(0, 0.06)
        if is_weight and not name.startswith(("features", "generate")):
            parameter.data *= 15  # else few of the classifier's neurons fire
        if on_grid and (is_bias or is_weight):
            parameter.data.mul_(GRID).round_().div_(GRID)
    return model


def inputs(model, count=COUNT):
    """Make images of whole parts of 1 / GRID, and the draws that encode them."""
    x = (images(count, model.image_shape) * GRID).round() / GRID
    uniforms = torch.rand(model.timesteps, *x.shape, generator=torch.Generator().manual_seed(3))
    return x, uniforms


def check_same(dense, event, exact=True):
    """Check that two SNNOutputs have the same parts, equal or within rounding."""
    assert first_difference(dense, event, tolerance=0 if exact else 1e-5) is None
    assert [part is None for part in dense[:-1]] == [part is None for part in event[:-1]]


def spiked(output):
    """Return whether the input and every layer have spiked."""
    return all(count.sum() > 0 for name, count in output.spikes.items())


class Tired(SpikingNeuron):
    """Neurons that get half of their current."""

    def forward(self, current, state=None):
        return super().forward(current / 2, state)


def become(cls):
    """Return a function that makes a module one of this subclass of its class."""

    def change(module):
        module.__class__ = cls

    return change


def tire_the_first_neurons(model):
    """Halve the current of the first spiking layer."""
    become(Tired)(model.features[1])


def replace_a_layer_by_tanh(model):
    """Put a function that does not spike in place of a layer."""
    model.features[5] = nn.Tanh()


def pad_the_first_layer_circularly(model):
    """Put a convolution in place of the first that pads it with the opposite side."""
    model.features[0] = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")


def delay_one_layer(model):
    """Give one spiking layer another update than the others have."""
    model.features[4].update = UPDATES["delayed"]


def add_a_second_decoder(model):
    """Add a part that the network does not run."""
    model.generate2 = copy.deepcopy(model.generate)


def add_a_gain(model):
    """Add a parameter that belongs to no layer."""
    model.gain = nn.Parameter(torch.ones(1))


# What no architecture has -> what makes it part of a network of PLAN
UNKNOWN = {
    "features.1 (Tired)": tire_the_first_neurons,
    "features.5 (Tanh)": replace_a_layer_by_tanh,
    "features.0 (Conv2d)": pad_the_first_layer_circularly,
    "features.4 (SpikingNeuron)": delay_one_layer,
    "generate2 (Sequential)": add_a_second_decoder,
    "gain (Parameter)": add_a_gain,
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Train an ANN, and an SNN from it, with the scripts; tests only read them.

    Returns
    -------
    SimpleNamespace
        `folder`; `ann` and `snn`, the paths of the checkpoints; `ann_run` and
        `snn_run`, what `run_as_program` returned; `ann_files`, digests of the ANN's
        files before the SNN was made.
    """
    folder = tmp_path_factory.mktemp("trained")
    ann = folder / "trained_models/ann/tiny.pth"
    snn = folder / "trained_models/snn/tiny.pth"
    here = f"--run_name tiny --output_dir {folder}"
    ann_run = run_as_program("ann", TINY, here)
    ann_files = digests(ann.parent)
    snn_run = run_as_program("snn", f"--pretrained_ann {ann}", SPIKING, here)
    return SimpleNamespace(
        folder=folder, ann=ann, snn=snn, ann_run=ann_run, snn_run=snn_run, ann_files=ann_files
    )


@pytest.fixture(scope="session")
def baseline(tmp_path_factory):
    """Train an SNN without a decoder; tests only read its checkpoint."""
    folder = tmp_path_factory.mktemp("baseline")
    spiking = SPIKING.replace(BALANCE, "").replace("--readout membrane_rescaled", "")
    flags = f"-a VGG5_small --fc_width 16 {spiking} --run_name baseline --output_dir {folder}"
    run_here("snn", flags)
    return folder / "trained_models/snn/baseline.pth"


def run_undrawn(name, *flags):
    """Run a script as `run_here` does, without pictures, which take long."""
    module = module_of(name)
    # Rasters are drawn, since tests read their pictures.
    with pytest.MonkeyPatch.context() as patch:
        for attribute, value in list(vars(module).items()):
            if not attribute.startswith("save_") or attribute == "save_raster":
                continue
            if value.__module__.startswith("wfeedback.drawing"):
                patch.setattr(module, attribute, draw_nothing)
        return run_here(name, *flags)


def draw_nothing(*_, **__):
    """Stand for a function that saves a picture."""


@pytest.fixture
def forgotten():
    """Forget after a test what files have registered, and that they were imported."""
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
    """Keep each figure of matplotlib that the program draws and closes."""
    plots = importlib.import_module("wfeedback.drawing.figures")  # not wanted under the sanitizers
    close = plots.plt.close
    drawn = []

    def keep_and_close(figure):
        drawn.append(figure)
        close(figure)

    monkeypatch.setattr(plots.plt, "close", keep_and_close)
    return drawn


def sparse_network(plan, shape=(1, 9, 10), steps=5, **settings):
    """Make a random network, some weights of which are 0: effective is not dense."""
    torch.manual_seed(1)
    common = {
        "readout": "membrane_linear",
        "update": "immediate",
        "default_threshold": 0.1,
        "fc_width": 7,
        "labels": 3,
    }
    model = VGG_SNN_STDB_wFeedback(
        plan=plan, image_shape=shape, timesteps=steps, **{**common, **settings}
    ).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= torch.rand_like(parameter) > 0.1
    return model


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def snn_for(shape, labels, **settings):
    """Convert an ANN for images of this shape."""
    channels, height, width = shape
    ann = nn.Sequential(
        nn.Conv2d(channels, 2, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * height * width, labels),
    )
    return from_ann(ann, torch.rand(2, *shape), timesteps=2, engine="dense", **settings)


def check_same_figures(found, record):
    """Check that evaluate() has found what a script recorded."""
    assert record["accuracy"] == found["accuracy"]
    assert record["spikes"] == found["parts"]
    assert record["spikes_per_layer"] == found["spikes"]
    assert record["mean_steps"] == found["mean_steps"]

    # Sums of floats, whose order depends on the batch size
    assert record["reconstruction_error"] == pytest.approx(found["error"], rel=1e-5)
    for name in ("energy_joules", "open_share", "comparisons"):
        assert record[name] == pytest.approx(found[name], rel=1e-5), name

    layers = found["operations"].pop("layers")
    recorded_layers = record["operations"].pop("layers")
    assert found["operations"] == pytest.approx(record["operations"])
    assert layers["event_acs"] == recorded_layers["event_acs"]
