"""What the pages say, the site made of them; tour and tutorial do what they say."""

import copy
import os
import re
import runpy
import subprocess
import sys
from argparse import ArgumentParser
from functools import partial
from pathlib import Path

import pytest
from conftest import (
    BALANCE,
    DATA,
    REPOSITORY,
    commands_in,
    make_folder,
    module_of,
    pixels,
    run_undrawn,
    write,
)

import wfeedback.runs.run
from self_models import evaluate, load, load_data
from self_models.feedback.encoders import ENCODINGS
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.command_line.parser import Parser
from wfeedback.runs.run import COMMANDS, Paths, run_name

PAGES_OF_DOCS = sorted((REPOSITORY / "docs").rglob("*.md"))
PAGES = [REPOSITORY / "README.md", *PAGES_OF_DOCS, REPOSITORY / "studies/README.md"]
NOTEBOOK = sorted((REPOSITORY / "studies/notebook").glob("*.md"))  # whose commands are of the past
LINKING = [*PAGES, *NOTEBOOK, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"]
MAKEFILES = ("Makefile", "wfeedback/export/c/Makefile", "wfeedback/export/c/qemu.mk")
REGISTRIES = VGG_SNN_STDB_wFeedback.parts | {"encoding": ENCODINGS}
DELIMITER = re.compile(r"\|( *:?-+:? *\|)+$")


# --- the pages and the site


def name_of(page):
    """Return a page's path in the repository."""
    return str(page.relative_to(REPOSITORY))


def anchors_of(page):
    """Return what may stand behind # in a link: headings, and marks of the page."""
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    anchors = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).strip()
        anchors.add(words.replace(" ", "-"))
    return anchors


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_links_lead_to_a_file_and_to_a_heading_that_is_there(page):
    """Mkdocs checks the pages of the site alone, and not those beside docs/."""
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = page
        if path:
            target = (page.parent / path).resolve()
        assert target.exists(), link
        is_of_python = anchor.startswith(("self_models.", "wfeedback."))  # mkdocstrings makes it
        if anchor and not is_of_python:
            assert anchor in anchors_of(target), link


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_every_table_has_its_head(page):
    """A table is a head, a delimiter row and rows with as many cells.

    After a blank line, rows would be plain text.
    """
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        head, *rows = block.splitlines()
        assert rows, f"no rows: {head}"
        assert DELIMITER.match(rows[0]), f"no head: {head}"
        for row in rows:
            assert row.replace("\\|", "").count("|") == head.count("|"), head


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_has_the_targets_that_a_page_names(page):
    makefiles = "".join((REPOSITORY / path).read_text() for path in MAKEFILES)
    text = page.read_text(encoding="utf-8")
    for targets in re.findall(r"^ {4}make (?:-C \S+ )?([\w./ ]*\w)", text, re.MULTILINE):
        for target in targets.split():
            assert re.search(rf"^([\w ]+ )?{target}( .*)?:", makefiles, re.MULTILINE), target


@pytest.mark.parametrize(
    "script",
    ["reference/configs", "reference/flags", "explanation/performance", "how_to/microcontroller"],
)
def test_generated_pages_are_up_to_date(script):
    """`PYTHONPATH=. python SCRIPT` writes its page anew."""
    made = runpy.run_path(str(REPOSITORY / f"docs/{script}.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"]()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site without a warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.others
def test_the_site_asks_no_other_host(site):
    request = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\"> ]*)"
    )
    pages = list(site.rglob("*.html"))
    # 404.html, and the page of Try it
    assert len(pages) == len(PAGES_OF_DOCS) + 2
    for page in pages:
        assert not request.findall(page.read_text(encoding="utf-8")), page


@pytest.mark.others
@pytest.mark.parametrize("parts", REGISTRIES.values(), ids=REGISTRIES)
def test_the_site_links_every_part_to_its_class_or_function(site, parts):
    page = (site / "api/objectives.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        made = getattr(part, "send", part)  # an input code's function
        address = f"#{made.__module__}.{made.__qualname__}"
        link = f'<a class="autorefs autorefs-internal"[^>]*href="{address}"'
        assert re.search(f"<code>{name}</code> {link}", page), name


# --- what pages tell one to run


class Read(Exception):
    """All flags of a command have been read."""


def stop_after(parse_args):
    """Return a parse_args that ends its script once it has read all flags."""

    def parse_and_stop(parser, *args):
        parse_args(parser, *args)
        raise Read

    return parse_and_stop


# Pages whose commands, or whose Python, other tests run
COMMANDS_ELSEWHERE = [
    "docs/how_to/c_export.md",
    "docs/how_to/export.md",
    "docs/how_to/microcontroller.md",
    "docs/how_to/own_model.md",
    "docs/reference/flags.md",
]
PYTHON_ELSEWHERE = [
    "docs/how_to/c_export.md",
    "docs/how_to/export.md",
    "docs/how_to/nir.md",
    "docs/how_to/nir_write.md",
    "docs/how_to/own_model.md",
    "docs/reference/nir_nodes.md",
]
# Commands that would take long: only their flags are read.
LONG = re.compile(
    r"^(demo|studies/|compare.* runs$)"
    r"|\bNAME\b|full_feedback|original\.pth|(deep|cifar10)_\w+|--holdout 1000"
)
# Script -> flags that make it quick
QUICK = {
    "ann": f"{DATA} --epochs 1 --fc_width 8",
    "snn": f"{DATA} --epochs 1 --fc_width 8 --timesteps 3 {BALANCE}",
    "energy": "--limit_test 8",
    "analysis": "--timesteps 3 --chart_images 8",
    "obj1": "--limit_test 8 --timesteps 3",
    "obj2": "--limit_test 8 --timesteps 3",
    "obj3": "--limit_test 8 --timesteps 3",
}
# Script, and a flag -> flags that make it quick, but contradict that flag
QUICK_UNLESS = {
    ("ann", "--select"): "--holdout 8",
    ("snn", "--select"): "--holdout 8",
    ("analysis", "--images"): "--limit_test 16 --images 2",
    ("stream", "--frames"): "--scene_frames 4",
    ("nir", "--check"): "--limit 8",
}
# README trains for a minute.
LONG_DATA = "limit_train=6000, holdout=500"
QUICK_DATA = "limit_train=128, limit_test=16, holdout=32"
PEERS = REPOSITORY / "docs/explanation/performance.md"  # whose commands import other simulators
OF_PYTHON = ("pytest", "timeit")  # behind `python -m`, not ours


def run_command(script, words):
    """Run a command of a page, quickly; of one that would take long, read the flags."""
    if script in OF_PYTHON:
        return
    if Path(f"{script}.py").is_file() and not words:  # the page shows that file
        runpy.run_path(f"{script}.py")
        return
    if LONG.search(" ".join([script, *words])):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Read):
            patch.setattr(ArgumentParser, "parse_args", stop_after(ArgumentParser.parse_args))
            module_of(script.replace("/", ".")).main(words)
        return
    if script == "wfeedback/event":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, *words])
            runpy.run_module("wfeedback.event", run_name="__main__")
        return
    flags = [QUICK.get(script, "")]
    for (of_script, unless), quick in QUICK_UNLESS.items():
        if of_script == script and unless not in words:
            flags.append(quick)
    run_undrawn(script, *words, *flags)


def run_python(text):
    """Run a page's blocks of Python, without its files; they share their names."""
    names = {"evaluate": evaluate, "load": load, "test": load_data("MNIST")[2]}  # as in README
    blocks = r"^```python\n(?!# \S+\.py\n)(.*?)^```$"
    for block in re.findall(blocks, text, re.MULTILINE | re.DOTALL):
        for word in re.findall(r'"([\w/]+\.\w+)"', block):
            bring(word)
        exec(block.replace(LONG_DATA, QUICK_DATA), names)


def pages_to_run():
    """Make parameters of all pages but those of the notebook."""
    parameters = []
    for page in PAGES:
        marks = [pytest.mark.others] if page == PEERS else []
        parameters.append(pytest.param(page, marks=marks, id=name_of(page)))
    return parameters


@pytest.mark.parametrize("page", pages_to_run())
@pytest.mark.usefixtures("forgotten", "here")
def test_commands_of_a_page(page):
    """One after the other, with the files that the page shows; then its Python."""
    name = str(page.relative_to(REPOSITORY))
    text = page.read_text(encoding="utf-8")
    write_files_of(text)

    if name not in COMMANDS_ELSEWHERE:
        for script, words in commands_in(name):
            for word in words:
                bring(word.partition(":")[0])
            run_command(script, words)
    if name not in PYTHON_ELSEWHERE:
        run_python(text)


@pytest.fixture
def clone(here, monkeypatch):
    """Work at the root of a clone in which nobody has trained yet.

    The committed checkpoints and logs are empty files.
    """
    command = ["git", "ls-files", "logs", "trained_models"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if not listed.stdout:
        pytest.skip("these files are not in a clone")
    for name in listed.stdout.splitlines():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(wfeedback.runs.run, "HOME", here)
    return here


OF_TODAY = [*PAGES, REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("examples/*.py"))]


@pytest.mark.parametrize("page", OF_TODAY, ids=name_of)
@pytest.mark.usefixtures("forgotten", "clone")
def test_commands_of_a_page_are_accepted_in_a_clone(page, monkeypatch):
    """One after the other: what each starts from is there, nothing is in its way."""
    text = page.read_text(encoding="utf-8")
    write_files_of(text)
    for script, words in commands_in(str(page.relative_to(REPOSITORY))):
        if script not in COMMANDS or "--help_all" in words:
            continue
        words = [word.replace("NAME", "quick_feedback") for word in words]
        for word in words:
            if "/" in word or "." in word:
                bring(word.partition(":")[0])
        with monkeypatch.context() as patch:
            if script in ("ann", "snn"):
                patch.setattr(module_of(script), "train", partial(train_in_name_only, script))
                module_of(script).main(words)
            else:
                patch.setattr(Parser, "parse_args", stop_after(Parser.parse_args))
                with pytest.raises(Read):
                    module_of(script).main(words)


def train_in_name_only(kind, args):
    """Check that a run could begin, and leave an empty checkpoint in its name."""
    for flag in ("pretrained_ann", "pretrained_snn"):
        path = getattr(args, flag, "")
        if path and Path(path).name != "mine.pth":  # which is the reader's
            assert Path(path).is_file(), path
    paths = Paths(kind, run_name(kind, args), args.output_dir)
    assert args.resume or paths.taken() is None
    paths.files.mkdir(parents=True, exist_ok=True)
    paths.best_path.touch()


def write_files_of(text):
    """Write the files that a page shows, which begin with their names."""
    shown = r"^```\w+\n# (\S+\.(?:py|toml))\n(.*?)^```$"
    for name, file in re.findall(shown, text, re.MULTILINE | re.DOTALL):
        Path(name).write_text(file)


def bring(word):
    """Make or link the file or folder that a word names, if it is not here."""
    path = Path(word)
    if path.exists():
        return
    if word == "FOLDER":
        make_folder(path, count=20)
    elif word.endswith((".jpg", ".gif")):
        write(path, pixels(1))
    elif word.endswith("/"):
        write(path / "dog.png", pixels(1))
    elif (REPOSITORY / word).exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(REPOSITORY / word)


# --- the tour


TOUR = REPOSITORY / "docs/tutorials/tour.ipynb"
JUPYTER_FOLDERS = [
    "JUPYTER_PATH",
    "JUPYTER_CONFIG_DIR",
    "JUPYTER_DATA_DIR",
    "JUPYTER_RUNTIME_DIR",
    "IPYTHONDIR",
]


def outputs_of_cells(notebook):
    """Return the outputs of each code cell."""
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def printed_by_cells(notebook):
    """Return what each code cell printed."""
    printed = []
    for outputs in outputs_of_cells(notebook):
        texts = [output.text for output in outputs if output.get("name") == "stdout"]
        printed.append("".join(texts))
    return printed


def shown_by_cells(notebook):
    """Return the kinds of what else each code cell showed."""
    shown = []
    for outputs in outputs_of_cells(notebook):
        shown.append([sorted(output.data) for output in outputs if "data" in output])
    return shown


@pytest.mark.others
def test_the_tour_says_what_is_stored_in_it(tmp_path, monkeypatch):
    """In this interpreter, with a kernel, settings and a history of its own."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    kernelspec = pytest.importorskip("ipykernel.kernelspec")
    for name in JUPYTER_FOLDERS:
        monkeypatch.setenv(name, str(tmp_path))
    kernelspec.write_kernel_spec(tmp_path / "kernels/ours")
    stored = nbformat.read(TOUR, as_version=4)
    fresh = copy.deepcopy(stored)

    client = nbclient.NotebookClient(
        fresh, kernel_name="ours", resources={"metadata": {"path": TOUR.parent}}
    )
    client.execute(env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": ""})

    assert printed_by_cells(fresh) == printed_by_cells(stored)
    assert shown_by_cells(fresh) == shown_by_cells(stored)
    assert shown_by_cells(stored) == [[], [], [["image/png", "text/plain"]], [], []]


def test_the_tour_is_small():
    assert TOUR.stat().st_size < 300_000


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tmp_path
