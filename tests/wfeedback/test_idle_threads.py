"""How long idle threads spin: programs decide it before torch is imported."""

from wfeedback.idle_threads import choose_spin_count, others_running

import os
import subprocess
import sys
import tomllib

import pytest
from conftest import REPOSITORY

from wfeedback.runs.run import COMMANDS, is_script

CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

# Runs a script or a command, or imports a module; ends where torch would be imported.
UNTIL_TORCH = """
import importlib, os, runpy, sys

class Torch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            print("torch with", os.environ.get("GOMP_SPINCOUNT"))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Torch())
program = sys.argv[1]
if program.startswith("wfeedback "):
    sys.argv = [*program.split(), "--help"]
    runpy.run_module("wfeedback", run_name="__main__")
elif program.endswith(".py"):
    sys.argv = [program, "--help"]
    runpy.run_path(program, run_name="__main__")
else:
    importlib.import_module(program)
print("no torch,", os.environ.get("GOMP_SPINCOUNT"))
"""


def run_until_torch(program, **more):
    """Return what is printed at the first import of torch, or at the program's end."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    environment |= {"PYTHONPATH": str(REPOSITORY), **more}
    command = [sys.executable, "-c", UNTIL_TORCH, program]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wfeedback_module():
    """Return the module that the command `wfeedback` imports."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["scripts"]["wfeedback"].partition(":")[0]


def programs():
    """Return all commands, as typed, and the module of the command `wfeedback`."""
    typed = []
    for name, module in COMMANDS.items():
        typed.append(f"{module}.py" if is_script(name) else f"wfeedback {name}")
    return [*typed, wfeedback_module()]


@pytest.mark.parametrize("program", programs())
def test_each_program_decides_before_torch_is_imported(program):
    assert run_until_torch(program) in ("torch with 0", "torch with 3000")


def test_each_script_is_one_of_the_commands():
    """So that the test above has them all."""
    scripts = {path.stem for path in REPOSITORY.glob("*.py")} - {"setup"}
    assert scripts == {module for name, module in COMMANDS.items() if is_script(name)}


def test_what_the_user_has_set_stays():
    assert run_until_torch("wfeedback demo", GOMP_SPINCOUNT="7") == "torch with 7"
    assert run_until_torch("wfeedback demo", OMP_WAIT_POLICY="active") == "torch with None"


@pytest.mark.parametrize("package", ["wfeedback", "self_models", "self_models.places"])
def test_a_package_neither_decides_nor_imports_torch(package):
    assert run_until_torch(package) == "no torch, None"


def test_modules_of_the_models_do_not_decide():
    assert run_until_torch("self_models.data.sets") == "torch with None"


@pytest.mark.parametrize(
    ("others", "cores", "spins"), [(0, 2, "3000"), (1, 4, "3000"), (1, 2, "0"), (5, 2, "0")]
)
def test_threads_sleep_at_once_where_others_want_half_of_the_cores(
    monkeypatch, others, cores, spins
):
    environment = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr("wfeedback.idle_threads.others_running", lambda: others)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)

    choose_spin_count()

    assert environment == {"GOMP_SPINCOUNT": spins}


def test_where_nothing_says_what_runs_the_machine_counts_as_idle(monkeypatch):
    def refuse(*_):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", refuse)
    assert others_running() == 0
