"""docs/tutorials/tour.ipynb, executed, says what is stored in it. To store it anew:
.venv/bin/jupyter execute --inplace docs/tutorials/tour.ipynb"""

import copy
import os

import nbformat
from conftest import REPOSITORY
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

TOUR = REPOSITORY / "docs/tutorials/tour.ipynb"


def told(notebook):
    """What each code cell printed, and the kinds of what else it showed."""
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    printed = ["".join(output.text for output in cell if output.get("name") == "stdout") for cell in cells]
    return printed, [[sorted(output.data) for output in cell if "data" in output] for cell in cells]


def test_the_tour_says_what_is_stored_in_it(tmp_path, monkeypatch):
    """In this interpreter, with a kernel, settings and a history of its own."""
    for name in ("JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    write_kernel_spec(tmp_path / "kernels/ours")
    stored = nbformat.read(TOUR, as_version=4)
    fresh, environment = copy.deepcopy(stored), os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": ""}
    NotebookClient(fresh, kernel_name="ours", resources={"metadata": {"path": TOUR.parent}}).execute(env=environment)
    assert told(fresh) == told(stored)
    assert told(stored)[1] == [[], [], [["image/png", "text/plain"]], [], []] and TOUR.stat().st_size < 300_000
