"""The program as pip installs it: what is in the package, and its commands and Python in a folder far from the repository."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY, SCRIPTS

import self_models.data.sets
from harness.command_line.scripts import wfeedback
from harness.runs.run import COMMANDS


def test_the_program_as_pip_installs_it(tmp_path):
    """All modules, pages, data and the networks that the pages load; its kernel, commands and Python far from the repository."""
    program = installed(tmp_path)
    check_content(program), check_commands(program), check_python(program)
    if shutil.which("cc"):
        check_kernel(program)


def installed(folder):
    """lib: a folder with what a wheel holds; run(*words): python in an empty folder, with that on its path."""
    lib, work = folder / "lib", folder / "work"
    work.mkdir()
    build = f"-q egg_info --egg-base {folder} build --build-base {folder}/build --build-lib {lib}"
    done = subprocess.run(
        [sys.executable, "setup.py", *shlex.split(build)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    own = {"PYTHONPATH": str(lib), "OMP_NUM_THREADS": "1"}
    own |= {"XDG_CACHE_HOME": str(folder / "cache"), "https_proxy": "http://127.0.0.1:9"}
    own["CFLAGS"] = "-O1"  # of the kernel, which then builds in less time

    def run(*words):
        return subprocess.run(
            [sys.executable, *words],
            cwd=work,
            capture_output=True,
            text=True,
            env=os.environ | own,
        )

    return SimpleNamespace(lib=lib, work=work, run=run)


def check_content(installed):
    held = {
        str(path.relative_to(installed.lib)) for path in installed.lib.rglob("*") if path.is_file()
    }
    ours = [
        path
        for room in ("harness", "self_models")
        for path in (REPOSITORY / room).rglob("*")
        if path.is_file()
    ]
    assert {
        str(path.relative_to(REPOSITORY)) for path in ours if "__pycache__" not in path.parts
    } <= held
    assert {f"wfeedback/{script}.py" for script in COMMANDS.values()} <= held
    files = [
        path
        for pattern in ("data/mnist/*", "data/nmnist/*/*.bin", "recipes/*.toml")
        for path in REPOSITORY.glob(pattern)
    ]
    assert {f"wfeedback/{path.relative_to(REPOSITORY)}" for path in files} <= held
    pages = "".join(
        (REPOSITORY / page).read_text(encoding="utf-8")
        for page in ("README.md", "docs/reference/python.md")
    )
    named = set(re.findall(r'load\("(trained_models/\S+?)"', pages))
    assert named and {f"wfeedback/{path}" for path in named} <= held
    assert not any(path.startswith(("tests", "benchmarks", "docs")) for path in held)


def check_kernel(installed):
    """From its sources in the package; the library lies in the user's cache."""
    sources = {
        path.name for path in (installed.lib / "self_models/engines/event/c").glob("*.[ch]")
    }
    assert sources == {"block.c", "network.c", "network.h", "runs.c", "small.h", "vectors.h"}
    done = installed.run("-m", "self_models.engines.event")
    kept = {str(path) for path in installed.work.parent.glob("cache/snn_wFeedback/kernel/*.so")}
    assert (
        done.returncode == 0
        and done.stdout.count("spike for spike as the reference step") == len(kept) == 2
    ), done.stderr
    assert {line.strip() for line in done.stdout.splitlines() if line.endswith(".so")} == kept


def test_each_script_is_a_command():
    scripts = {path.stem for path in REPOSITORY.glob("*.py")} - {"setup"}
    assert set(COMMANDS.values()) == scripts > set(SCRIPTS) and len(COMMANDS) == len(scripts)


CALLS = """
import contextlib, io, json, sys
from harness.command_line.scripts import wfeedback

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


def check_commands(installed):
    """They find MNIST and a committed network, write where they are called, and say what to type there.

    One process calls them all, which imports once.
    """
    commands = [
        f"{COMMANDS['obj1']} --preset quick_feedback --limit_test 16 --engine dense",
        "compare quick_feedback quick_baseline --seeds 0 1 2 3 4",  # as docs/how_to/compare.md
        "snn --preset quick_baseline",
    ]
    called = installed.run("-c", CALLS, *commands)
    assert called.returncode == 0, called.stderr
    evaluated, compared, refused = (
        SimpleNamespace(**json.loads(line)) for line in called.stdout.splitlines()
    )
    assert evaluated.returncode == 0 and "accuracy" in evaluated.stdout, evaluated.stderr
    log = (installed.work / "logs/snn/quick_feedback_epsilon_0.2.log").read_text()
    assert (
        "git revision: unknown" in log
        and "command: wfeedback obj1 --preset quick_feedback --limit_test 16" in log
    )
    assert compared.returncode == 0 and compared.stdout.count("5 pairs") == 1, compared.stderr
    assert (
        refused.returncode == 2
        and "makes it: wfeedback ann --preset quick_baseline; the repository has" in refused.stderr
    )


def check_python(installed):
    program = """
from self_models import evaluate, load, load_data, read_images
try:
    load("trained_models/snn/quick_feedback.pth")
except ValueError as error:
    path = str(error).split("; ")[1].removesuffix(" came with the program")
test = load_data("MNIST")[2]
print("right:", evaluate(load(path, engine="dense"), test.images[:8], test.labels[:8])["accuracy"])
try:
    load_data("CIFAR10")
except Exception as error:
    print(error)
"""
    done = installed.run("-c", program)
    assert (
        "right: 1.0" in done.stdout
        and f"in {installed.work.parent}/cache/snn_wFeedback/data" in done.stdout
    ), done.stderr


def test_data_are_kept_in_the_repository_where_it_can_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    usual, ours, users = (
        self_models.data.sets.usual_folder,
        REPOSITORY / "data",
        tmp_path / "snn_wFeedback/data",
    )
    assert usual("MNIST") == usual("CIFAR10") == ours
    monkeypatch.setattr("os.access", lambda *_: False)
    assert (usual("MNIST"), usual("CIFAR10")) == (ours, users)


def test_the_command_says_what_there_is(monkeypatch, capsys):
    def called(*words):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/wfeedback", *words])
        wfeedback()
        return capsys.readouterr().out

    said = called()
    assert said == called("--help") == called("--help_all")
    for name, script in COMMANDS.items():
        first = ast.get_docstring(ast.parse((REPOSITORY / f"{script}.py").read_text())).split(
            "\n\n"
        )[0]
        assert f"\n  {name:10}{first}\n" in said
    with pytest.raises(SystemExit) as stop:
        called("anm")
    assert stop.value.code == 2 and "did you mean ann?" in capsys.readouterr().err
