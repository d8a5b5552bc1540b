"""The core knows no guest and no engine; import-linter's contracts see the import statements."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

CORE = (
    "self_models/vgg_*.py",
    "self_models/config.py",
    "self_models/conversion.py",
    "self_models/loading.py",
    "self_models/basics/*.py",
    "self_models/counting/*.py",
    "self_models/data/*.py",
    "self_models/layers/*.py",
    "self_models/objectives/*.py",
    "self_models/runtime/*.py",
)
OF_ONE_SITTING = ("vgg_", "layers/", "objectives/", "runtime/")  # what a spiking network is
GUESTS_WORDS = r"\bNIR\b|simulator|network\.c\b|\bC code|[Mm]icrocontroller|int8|event engine"


def core_files():
    """Return the paths of the core's files, relative to the repository."""
    paths = []
    for pattern in CORE:
        paths += [str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob(pattern)]
    return sorted(paths)


@pytest.mark.parametrize("path", core_files())
def test_the_core_asks_assembly_alone(path):
    """No import by a text, which the contracts would not see, nor of the top package's names."""
    tree = ast.parse((REPOSITORY / path).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.match(r"self_models\.(guests|engines)\b", node.value)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names}
            assert names.isdisjoint({"importlib", "runpy"})
            assert getattr(node, "module", None) != "importlib"
            if getattr(node, "module", None) == "self_models":
                assert names == {"assembly"}
        if isinstance(node, ast.Name):
            assert node.id != "__import__"


@pytest.mark.parametrize(
    "path", [path for path in core_files() if any(room in path for room in OF_ONE_SITTING)]
)
def test_a_reader_of_the_core_meets_no_word_of_a_guest(path):
    assert re.findall(GUESTS_WORDS, (REPOSITORY / path).read_text()) == []


def modules_after(code):
    """Return our modules that a process has imported after it has run this code."""
    printed = "; import sys; print(*[m for m in sys.modules if m.startswith('self_models.')])"
    words = [sys.executable, "-c", code + printed]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return done.stdout.split()


def test_a_model_imports_no_guest_before_it_runs():
    modules = modules_after("import self_models.vgg_wFeedback_spiking")
    assert not [name for name in modules if "guests" in name or "engines" in name]


def test_a_dense_run_imports_no_other_engine_but_its_random_numbers():
    code = """
import torch
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
VGG_SNN_STDB_wFeedback("VGG5_wFeedback_small", fc_width=8, timesteps=2)(torch.zeros(1, 1, 28, 28))
""".strip()
    modules = modules_after(code.replace("\n", "; "))
    assert "self_models.engines.dense.engine" in modules
    of_event = [name for name in modules if name.startswith("self_models.engines.event.")]
    assert of_event == ["self_models.engines.event.build"]
    assert not [name for name in modules if name.startswith("self_models.guests")]
