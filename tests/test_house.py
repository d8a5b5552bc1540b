"""The core knows no guest and no engine.

The contracts of import-linter see the statements that import; these tests see the rest.
"""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from conftest import REPOSITORY

CORE = (
    "self_models/vgg_*.py",
    "self_models/config.py",
    "self_models/conversion.py",
    "self_models/checkpoints/*.py",
    "self_models/devices.py",
    "self_models/errors.py",
    "self_models/files.py",
    "self_models/notes.py",
    "self_models/places.py",
    "self_models/settings.py",
    "self_models/evaluation/*.py",
    "self_models/data/*.py",
    "self_models/networks/*.py",
    "self_models/neurons/*.py",
    "self_models/feedback/*.py",
    "self_models/running/*.py",
)
# Where the core says what a spiking network is
NETWORK = ("vgg_", "networks/", "neurons/spiking.py", "feedback/", "running/")
WORDS_OF_GUESTS = r"\bNIR\b|simulator|network\.c\b|\bC code|[Mm]icrocontroller|int8|event engine"


def core_files():
    """Return the paths of the core's files, relative to the repository."""
    paths = []
    for pattern in CORE:
        paths += [str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob(pattern)]
    return sorted(paths)


def network_files():
    """Return the core's files that say what a spiking network is."""
    return [path for path in core_files() if any(part in path for part in NETWORK)]


def nodes_of(path, *types):
    """Return the nodes of some types in a file's syntax tree."""
    tree = ast.parse((REPOSITORY / path).read_text())
    return [node for node in ast.walk(tree) if isinstance(node, types)]


@pytest.mark.parametrize("path", core_files())
def test_the_core_imports_nothing_by_a_text(path):
    # The contracts would not see it.
    for node in nodes_of(path, ast.Constant):
        if isinstance(node.value, str):
            assert not re.match(r"self_models\.(guests|engines)\b", node.value)
    for node in nodes_of(path, ast.Name):
        assert node.id != "__import__"
    for node in nodes_of(path, ast.Import, ast.ImportFrom):
        names = {alias.name for alias in node.names}
        assert names.isdisjoint({"importlib", "runpy"})
    for node in nodes_of(path, ast.ImportFrom):
        assert node.module != "importlib"


@pytest.mark.parametrize("path", core_files())
def test_the_core_takes_plugins_alone_from_the_top_package(path):
    for node in nodes_of(path, ast.ImportFrom):
        if node.module == "self_models":
            assert {alias.name for alias in node.names} == {"plugins"}


@pytest.mark.parametrize("path", network_files())
def test_a_reader_of_the_core_meets_no_word_of_a_guest(path):
    assert re.findall(WORDS_OF_GUESTS, (REPOSITORY / path).read_text()) == []


def files_of_packages():
    """Return the paths of both packages' files, relative to the repository."""
    paths = []
    for package in ("self_models", "harness"):
        paths += (REPOSITORY / package).rglob("*.py")
    return sorted(str(path.relative_to(REPOSITORY)) for path in paths)


@pytest.mark.parametrize("path", files_of_packages())
def test_a_package_imports_no_script(path):
    scripts = {script.stem for script in REPOSITORY.glob("*.py")}
    imported = set()
    for node in nodes_of(path, ast.Import):
        imported.update(alias.name for alias in node.names)
    for node in nodes_of(path, ast.ImportFrom):
        imported.add(node.module)
    assert imported.isdisjoint(scripts)


# Prints the modules that are imported: before a model runs, and after it
MODEL = """
import sys
import torch
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

print(*sys.modules)
model = VGG_SNN_STDB_wFeedback("VGG5_wFeedback_small", fc_width=8, timesteps=2)
model(torch.zeros(1, 1, 28, 28))
print(*sys.modules)
"""


@dataclass
class ImportedModules:
    """Our modules that a process has imported."""

    before_run: list[str]
    after_run: list[str]


@pytest.fixture(scope="module")
def imported_modules():
    """Run a model in a process that has imported nothing else."""
    command = [sys.executable, "-c", MODEL]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    ours = []
    for line in done.stdout.splitlines():
        ours.append([name for name in line.split() if name.startswith("self_models.")])
    return ImportedModules(*ours)


def test_a_model_imports_no_guest_before_it_runs(imported_modules):
    modules = imported_modules.before_run
    assert modules
    assert not [
        name for name in modules if "guests" in name or "engines" in name or ".dense" in name
    ]


def test_a_dense_run_imports_no_other_engine_but_its_random_numbers(imported_modules):
    modules = imported_modules.after_run
    assert "self_models.running.dense.engine" in modules
    of_event_engine = [name for name in modules if name.startswith("self_models.engines.event.")]
    assert of_event_engine == ["self_models.engines.event.build"]
    assert not [name for name in modules if name.startswith("self_models.guests")]
