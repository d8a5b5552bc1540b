"""The program as pip installs it.

What is in the package; its commands and Python in a folder far from the repository.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY, SCRIPTS

import self_models.data.sets
from wfeedback.command_line.scripts import wfeedback
from wfeedback.runs.run import COMMANDS


@dataclass
class Installed:
    """What a wheel holds, beside an empty folder to work in."""

    folder: Path

    @property
    def lib(self):
        """The modules, and wfeedback/home/ with scripts and data."""
        return self.folder / "lib"

    @property
    def work(self):
        """Where one works."""
        return self.folder / "work"

    @property
    def cache(self):
        """The user's cache."""
        return self.folder / "cache/snn_wFeedback"

    def run(self, *words):
        """Run python where one works, with the modules on its path and no network."""
        environment = {
            "PYTHONPATH": str(self.lib),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "https_proxy": "http://127.0.0.1:9",
            "CFLAGS": "-O1",  # of the kernel, which then builds in less time
        }
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.work,
            capture_output=True,
            text=True,
            env=os.environ | environment,
        )

    def files(self):
        """Return the paths of all files, relative to the modules."""
        paths = [path for path in self.lib.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.lib)) for path in paths}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build what a wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    program = Installed(folder)
    program.work.mkdir()
    build = f"build --build-base {folder}/build --build-lib {program.lib}"
    command = [sys.executable, "setup.py", *f"-q egg_info --egg-base {folder} {build}".split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("package", ["wfeedback", "self_models"])
def test_a_package_is_installed_whole(installed, package):
    files = installed.files()
    for path in (REPOSITORY / package).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(REPOSITORY)) in files


@pytest.mark.parametrize("pattern", ["data/mnist/*", "data/nmnist/*/*.bin", "recipes/*.toml"])
def test_data_and_recipes_are_installed(installed, pattern):
    files = installed.files()
    for path in REPOSITORY.glob(pattern):
        assert f"wfeedback/home/{path.relative_to(REPOSITORY)}" in files


def test_scripts_are_installed(installed):
    assert {f"wfeedback/home/{script}.py" for script in SCRIPTS} <= installed.files()


@pytest.mark.parametrize("page", ["README.md", "docs/reference/python.md"])
def test_networks_that_a_page_loads_are_installed(installed, page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    networks = re.findall(r'load\("(trained_models/\S+?)"', text)
    assert networks
    assert {f"wfeedback/home/{path}" for path in networks} <= installed.files()


def test_neither_tests_nor_studies_nor_pages_are_installed(installed):
    for path in installed.files():
        assert not path.startswith(("tests", "benchmarks", "docs", "studies"))


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc")
def test_the_kernel_is_built_from_the_package_in_the_users_cache(installed):
    folder = installed.lib / "wfeedback/event/c"
    sources = {path.name for path in folder.glob("*.[ch]")}
    assert sources == {"block.c", "network.c", "network.h", "runs.c", "small.h", "vectors.h"}

    done = installed.run("-m", "wfeedback.event")

    assert done.returncode == 0, done.stderr
    built = {str(path) for path in installed.cache.glob("kernel/*.so")}
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert {line for line in lines if line.endswith(".so")} == built
    assert len(built) == 2
    assert done.stdout.count("spike for spike as the reference step") == 2


def test_each_script_and_each_module_of_commands_is_a_command():
    files = {f"{module.replace('.', '/')}.py" for module in COMMANDS.values()}
    modules = (REPOSITORY / "wfeedback/commands").glob("*.py")
    in_folder = {f"wfeedback/commands/{path.name}" for path in modules}
    scripts = {f"{script}.py" for script in SCRIPTS}
    assert files == scripts | in_folder - {"wfeedback/commands/__init__.py"}
    assert len(COMMANDS) == len(files)


# Calls the command `wfeedback` once for each argument; prints a JSON object for each.
CALLS = """
import contextlib, io, json, sys
from wfeedback.command_line.scripts import wfeedback

for words in sys.argv[1:]:
    sys.argv = ["wfeedback", *words.split()]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            wfeedback()
        except SystemExit as stop:
            code = stop.code or 0
    print(json.dumps({"returncode": code, "stdout": out.getvalue(), "stderr": err.getvalue()}))
"""


@pytest.fixture(scope="module")
def called(installed):
    """Call three commands in one process, which imports once: script -> result."""
    commands = {
        "obj1": f"{COMMANDS['obj1']} --preset quick_feedback --limit_test 16 --engine dense",
        # as docs/how_to/compare.md says
        "compare": "compare quick_feedback quick_baseline --seeds 0 1 2 3 4",
        "snn": "snn --preset quick_baseline",
    }
    done = installed.run("-c", CALLS, *commands.values())
    assert done.returncode == 0, done.stderr
    results = [SimpleNamespace(**json.loads(line)) for line in done.stdout.splitlines()]
    return dict(zip(commands, results, strict=True))


def test_a_command_finds_mnist_and_a_network_and_writes_where_it_is_called(installed, called):
    evaluated = called["obj1"]
    assert evaluated.returncode == 0, evaluated.stderr
    assert "accuracy" in evaluated.stdout
    log = (installed.work / "logs/snn/quick_feedback_epsilon_0.2.log").read_text()
    assert "git revision: unknown" in log
    assert "command: wfeedback obj1 --preset quick_feedback --limit_test 16" in log


def test_a_command_finds_the_logs_that_were_installed(called):
    compared = called["compare"]
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.count("5 pairs") == 1


def test_a_command_says_what_to_type_where_it_is_installed(called):
    refused = called["snn"]
    assert refused.returncode == 2
    line = "makes it: wfeedback ann --preset quick_baseline; the repository has"
    assert line in refused.stderr


FROM_PYTHON = """
from self_models import evaluate, load, load_data, read_images

try:
    load("trained_models/snn/quick_feedback.pth")
except ValueError as error:
    path = str(error).split("; ")[1].removesuffix(" came with the program")
test = load_data("MNIST")[2]
model = load(path, engine="dense")
print("right:", evaluate(model, test.images[:8], test.labels[:8])["accuracy"])
try:
    load_data("CIFAR10")
except Exception as error:
    print(error)
"""


def test_python_finds_mnist_and_says_where_networks_are_and_data_go(installed):
    done = installed.run("-c", FROM_PYTHON)
    assert "right: 1.0" in done.stdout, done.stderr
    assert f"in {installed.cache}/data" in done.stdout


def test_data_are_kept_in_the_repository_where_it_can_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    usual_folder = self_models.data.sets.usual_folder
    assert usual_folder("MNIST") == REPOSITORY / "data"
    assert usual_folder("CIFAR10") == REPOSITORY / "data"

    monkeypatch.setattr("os.access", lambda *_: False)
    assert usual_folder("MNIST") == REPOSITORY / "data"  # which is there
    assert usual_folder("CIFAR10") == tmp_path / "snn_wFeedback/data"


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the command `wfeedback` with some words; return what it prints."""

    def call_with(*words):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/wfeedback", *words])
        wfeedback()
        return capsys.readouterr().out

    return call_with


def test_the_command_says_what_there_is(call):
    printed = call()

    assert call("--help") == printed
    assert call("--help_all") == printed
    for title in ("train", "look", "measure", "take elsewhere"):
        assert f"\n{title}:\n" in printed
    for name, module in COMMANDS.items():
        path = REPOSITORY / f"{module.replace('.', '/')}.py"
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        summary = docstring.split("\n\n")[0]
        assert f"\n  {name:10}{summary}\n" in printed


def test_an_unknown_command_is_corrected(call, capsys):
    with pytest.raises(SystemExit) as stop:
        call("anm")
    assert stop.value.code == 2
    assert "did you mean ann?" in capsys.readouterr().err
