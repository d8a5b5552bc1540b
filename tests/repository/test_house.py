"""The method knows nothing of what is done with it, but by plugins.

The contracts of import-linter see the statements that import; these tests see the rest.
"""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from conftest import REPOSITORY

# Files of the method that name no other package, not even as a text
METHOD = sorted(
    str(path.relative_to(REPOSITORY))
    for path in (REPOSITORY / "self_models").rglob("*.py")
    if path.name != "plugins.py"
)
# Where the method says what a spiking network is
NETWORK = ("vgg_", "networks/", "neurons/spiking.py", "feedback/", "running/")
WORDS_OF_OTHERS = r"\bNIR\b|simulator|network\.c\b|\bC code|[Mm]icrocontroller|int8|event engine"
# Not all who use the rest have these, or want to wait for their import.
OPTIONAL = {
    "nir",
    "h5py",
    "av",
    "tensorboard",
    "ziglang",
    "norse",
    "sinabs",
    "snntorch",
    "spikingjelly",
}


def network_files():
    """Return the method's files that say what a spiking network is."""
    return [path for path in METHOD if any(part in path for part in NETWORK)]


def nodes_of(path, *types):
    """Return the nodes of some types in a file's syntax tree."""
    tree = ast.parse((REPOSITORY / path).read_text())
    return [node for node in ast.walk(tree) if isinstance(node, types)]


@pytest.mark.parametrize("path", METHOD)
def test_the_method_imports_nothing_by_a_text(path):
    # The contracts would not see it.
    for node in nodes_of(path, ast.Constant):
        if isinstance(node.value, str):
            assert not re.match(r"wfeedback\.\w+|studies\.\w+", node.value)
    for node in nodes_of(path, ast.Name):
        assert node.id != "__import__"
    if path == "self_models/__init__.py":  # it looks its names up when they are first used
        return
    for node in nodes_of(path, ast.Import, ast.ImportFrom):
        names = {alias.name for alias in node.names}
        assert names.isdisjoint({"importlib", "runpy"})
    for node in nodes_of(path, ast.ImportFrom):
        assert node.module != "importlib"


@pytest.mark.parametrize("path", METHOD)
def test_the_method_takes_plugins_alone_from_the_top_package(path):
    for node in nodes_of(path, ast.ImportFrom):
        if node.module == "self_models":
            assert {alias.name for alias in node.names} == {"plugins"}


@pytest.mark.parametrize("path", network_files())
def test_a_reader_of_the_method_meets_no_word_of_what_is_done_with_it(path):
    assert re.findall(WORDS_OF_OTHERS, (REPOSITORY / path).read_text()) == []


def files_of_packages():
    """Return the paths of both packages' files, relative to the repository."""
    paths = []
    for package in ("self_models", "wfeedback"):
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


def imports_when_run(tree):
    """Yield the packages that a file imports, without those for its types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if isinstance(node.args[0], ast.Constant):
                yield node.args[0].value.split(".")[0]
        yield from imports_when_run(node)


def test_an_optional_package_is_imported_in_one_file():
    files = {}
    for path in files_of_packages():
        for package in imports_when_run(ast.parse((REPOSITORY / path).read_text())):
            if package in OPTIONAL:
                files.setdefault(package, set()).add(path)
    assert files["nir"] == {"wfeedback/nir/files.py"}
    assert {package: paths for package, paths in files.items() if len(paths) > 1} == {}


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
        ours.append(
            [name for name in line.split() if name.startswith(("self_models.", "wfeedback"))]
        )
    return ImportedModules(*ours)


def test_a_model_imports_no_engine_before_it_runs(imported_modules):
    modules = imported_modules.before_run
    assert modules
    assert not [name for name in modules if name.startswith("wfeedback") or ".dense" in name]


def test_a_dense_run_imports_no_other_engine_but_its_random_numbers(imported_modules):
    modules = imported_modules.after_run
    assert "self_models.running.dense.engine" in modules
    of_wfeedback = [name for name in modules if name.startswith("wfeedback")]
    assert of_wfeedback == ["wfeedback", "wfeedback.event", "wfeedback.event.build"]
