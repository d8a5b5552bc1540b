"""What the tests share: ways to run a script, and a tiny ANN and SNN trained by the real scripts, once."""

import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import harness.command_line.scripts
import harness.data.sets
from harness.building.own import REGISTRIES, imported
from self_models.basics.checkpoints import load_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]
ANN, SNN = "ann_wFeedback", "snn_wFeedback"
ANALYSIS = "snn_wFeedback_posthoc_model_analysis"
STREAM = "snn_wFeedback_posthoc_model_stream"
OBJ1, OBJ2, OBJ3 = (f"snn_wFeedback_posthoc_model_inference_obj{number}" for number in (1, 2, 3))
SCRIPTS = sorted(path.stem for path in REPOSITORY.glob("*nn_wFeedback*.py"))

PLAN = [[4, "D", 6, 6, "D"], ["U", 4, "drop", "U", "in"]]  # small, with a layer of each kind
DATA = "--limit_train 32 --limit_test 16 --batch_size 16"
TINY = f"-a VGG5_wFeedback_small --fc_width 16 -lr 5e-3 --epochs 1 --select test {DATA}"
BALANCE = "--balance_images 8 --balance_timesteps 12 --scaling_factor 0.3"  # else most tiny networks have silent layers
SPIKING = f"--timesteps 5 --update immediate --readout membrane_rescaled --epochs 1 --select test {BALANCE} {DATA}"

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

torch.set_num_threads(1)
harness.data.sets.load_set = functools.lru_cache(harness.data.sets.load_set)  # MNIST is unpacked once


def run_script(name, *flags, check=True, cwd="/"):
    """Run a script as the user does, in a process of its own. A flag text with spaces is several flags."""
    command = [sys.executable, str(REPOSITORY / f"{name}.py"), *split(flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, done.stderr
    return done


def run_as_program(name, *flags):
    """Run a script in this process as if it were the program: from its last line on. Returns its stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", [f"{name}.py", *split(flags)])
        runpy.run_path(str(REPOSITORY / f"{name}.py"), run_name="__main__")
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def run_here(name, *flags):
    """Run a script in this process, which saves the imports; returns what its main returns and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        result = importlib.import_module(name).main(split(flags))
    return result, out.getvalue()


def browsed(page, folder, script, flags="--virtual-time-budget=20000"):
    """What a script in a page gives to found(...), once a browser of 500 pixels has opened it without an error. page: HTML."""
    report = """<script>const errors = []; window.onerror = (message) => errors.push(message);
    const found = (more) => { const report = {errors, wide: document.documentElement.scrollWidth, inner: innerWidth, ...more};
    document.body.insertAdjacentHTML("beforeend", `<pre id=found>${JSON.stringify(report)}</pre>`); };</script>"""
    hooked = folder / "hooked.html"
    hooked.write_text(page.replace("</head>", f"{report}<script>{script}</script></head>"), encoding="utf-8")
    flags = f"--headless=new --no-sandbox --disable-gpu --enable-logging=stderr --window-size=500,900 {flags}"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={folder}/profile", "--dump-dom", f"file://{hooked}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    result = json.loads(re.search(r"<pre id=\"found\">(.*?)</pre>", done.stdout, re.DOTALL)[1])
    assert said == result["errors"] == [] and result["wide"] <= result["inner"]
    return result


def refused(name, *flags):
    """Run a script in this process; it must stop with status 2 and one line on standard error, which is returned."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        harness.command_line.scripts.run_script(lambda: importlib.import_module(name).main(split(flags)))
    line = err.getvalue()
    assert stop.value.code == 2 and line.startswith("error: ") and line.endswith("\n") and line.count("\n") == 1, line
    return line.strip()


def split(flags):
    return [word for flag in flags for word in ([str(flag)] if isinstance(flag, Path) else flag.split())]


def records(path, event=None):
    """The JSON objects of a run's log, of one kind, or all but those that say what the run is."""
    found = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [record for record in found if record["event"] == event or (event is None and record["event"] != "run")]


def figures(value):
    """The same figures without those that depend on the clock or on how the script was started."""
    if isinstance(value, dict):
        return {key: figures(part) for key, part in value.items() if key not in ("seconds", "images_per_second", "command")}
    return [figures(part) for part in value] if isinstance(value, list) else value


def digests(folder):
    """Relative path -> digest of each file below a folder, locks aside: what must not change."""
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def same_weights(path, other):
    a, b = (load_checkpoint(each)["state_dict"] for each in (path, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def images(count, shape=(1, 28, 28), seed=0):
    """Random images: colour in [-1, 1], others in [0, 1], a fifth of the pixels 0."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(count, *shape, generator=draw)
    return torch.where(torch.rand(x.shape, generator=draw) < 0.2, 0.0, x if shape[0] < 3 else 2 * x - 1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """folder; ann, snn: paths of checkpoints trained there by the scripts; ann_run, snn_run: their stdout and stderr; ann_files:
    digests of the ANN's files before the SNN was made. Read only."""
    folder = tmp_path_factory.mktemp("trained")
    ann, snn = folder / "trained_models/ann/tiny.pth", folder / "trained_models/snn/tiny.pth"

    here = f"--run_name tiny --output_dir {folder}"
    ann_run = run_as_program(ANN, TINY, here)
    ann_files = digests(ann.parent)
    snn_run = run_as_program(SNN, f"--pretrained_ann {ann}", SPIKING, here)
    return SimpleNamespace(folder=folder, ann=ann, snn=snn, ann_run=ann_run, snn_run=snn_run, ann_files=ann_files)


@pytest.fixture(scope="session")
def baseline(tmp_path_factory):
    """Path of an SNN of a plan without a decoder, trained by the script. Read only."""
    folder = tmp_path_factory.mktemp("baseline")
    run_here(SNN, f"-a VGG5_small --fc_width 16 {SPIKING} --run_name baseline --output_dir {folder}".replace(BALANCE, ""))
    return folder / "trained_models/snn/baseline.pth"


def run_undrawn(name, *flags):
    """As run_here, without the pictures, which take most of the time."""
    module = importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch:
        for each, value in list(vars(module).items()):
            if getattr(value, "__module__", "") in ("harness.drawing.figures", "harness.drawing.plots"):
                patch.setattr(module, each, lambda *_, **__: None)
        return run_here(name, *flags)


@pytest.fixture(scope="session")
def looked(trained, tmp_path_factory):
    """folder; run: stdout and stderr of an analysis of two images in it, under the script's own name. Read only."""
    folder = tmp_path_factory.mktemp("looked")
    flags = f"{DATA} --images 2 --chart_images 4 --epsilon 0.1 --output_dir {folder}"
    return SimpleNamespace(folder=folder, run=run_as_program(ANALYSIS, "--pretrained_snn", trained.snn, flags))


@pytest.fixture
def forgotten():
    """What files register is forgotten after a test, and that they were imported."""
    before = [(registry, dict(registry)) for registry in REGISTRIES.values()]
    imported.cache_clear()
    yield
    for registry, parts in before:
        registry.clear()
        registry.update(parts)
    imported.cache_clear()
