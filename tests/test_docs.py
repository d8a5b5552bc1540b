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

import harness.runs.run
from harness.command_line.parser import Parser
from harness.runs.run import COMMANDS, Paths, run_name
from self_models import evaluate, load, load_data
from self_models.objectives.encoders import ENCODINGS
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
MAKEFILES = ("Makefile", "harness/exporting/c/Makefile", "harness/exporting/c/qemu.mk")
DELIMITER = re.compile(r"\|( *:?-+:? *\|)+$")
REGISTRIES = [*VGG_SNN_STDB_wFeedback.parts.values(), ENCODINGS]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_table_has_its_head_and_make_the_targets_that_are_named(page):
    """A table is a head, a delimiter row and rows of as many cells; after a blank line rows would be plain text."""
    text, made = (
        page.read_text(encoding="utf-8"),
        "".join((REPOSITORY / path).read_text() for path in MAKEFILES),
    )
    for target in " ".join(
        re.findall(r"^ {4}make (?:-C \S+ )?([\w./ ]*\w)", text, re.MULTILINE)
    ).split():
        assert re.search(rf"^([\w ]+ )?{target}( .*)?:", made, re.MULTILINE), target
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        head, *rows = block.splitlines()
        assert rows and DELIMITER.match(rows[0]), f"no head: {head}"
        assert {row.count("|") for row in rows} == {head.count("|")}, head


@pytest.mark.parametrize(
    "script",
    ["reference/configs", "reference/flags", "explanation/performance", "how_to/microcontroller"],
)
def test_generated_pages_are_up_to_date(script):
    """`PYTHONPATH=. python SCRIPT` writes its page anew."""
    made = runpy.run_path(str(REPOSITORY / f"docs/{script}.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"]()


@pytest.mark.others
def test_the_site_asks_no_other_host_and_names_every_part(tmp_path):
    """It is built without a warning. Each registered name stands on the page of objectives, beside a link to its class or
    function."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asking = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\"> ]*)"
    )
    pages = list(tmp_path.rglob("*.html"))
    assert (
        len(pages) == len(PAGES) + 1
    )  # README.md is none of them, 404.html is one, and the page of Try it
    for page in pages:
        assert not asking.findall(page.read_text(encoding="utf-8")), page
    page = (tmp_path / "api/objectives.html").read_text(encoding="utf-8")
    for name, part in (each for registry in REGISTRIES for each in registry.items()):
        made = getattr(part, "send", part)  # an input code's function
        link = f'<code>{name}</code> <a class="autorefs autorefs-internal"[^>]*href="#{made.__module__}.{made.__qualname__}"'
        assert re.search(link, page), name


ELSEWHERE = {  # pages whose commands, or Python, other tests run
    "commands": "docs/how_to/c_export docs/how_to/export docs/how_to/microcontroller docs/how_to/own_model docs/reference/flags",
    "Python": "docs/how_to/c_export docs/how_to/export docs/how_to/nir docs/how_to/nir_write"
    " docs/how_to/own_model docs/reference/nir_nodes",
}
LONG = re.compile(
    r"^(demo|results|benchmarks/|compare.* runs$)|\bNAME\b|full_feedback|original\.pth|(deep|cifar10)_\w+|--holdout 1000"
)  # flags alone are read
SMALL = {
    "ann": f"{DATA} --epochs 1 --fc_width 8",
    "energy": "--limit_test 8",
}  # flags that make it quick
SMALL |= {
    "snn": f"{SMALL['ann']} --timesteps 3 {BALANCE}",
    "analysis": "--timesteps 3 --chart_images 8",
}
SMALL |= dict.fromkeys(("obj1", "obj2", "obj3"), "--limit_test 8 --timesteps 3")
UNLESS = {  # a word is among them -> the same
    "--select": dict.fromkeys(("ann", "snn"), "--holdout 8"),
    "--images": {"analysis": "--limit_test 16 --images 2"},
    "--frames": {"stream": "--scene_frames 4"},
    "--check": {"nir": "--limit 8"},
}


class Read(Exception):
    """All flags of a command have been read."""


PEERS = REPOSITORY / "docs/explanation/performance.md"  # whose benchmarks import other simulators


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.others] * (page == PEERS), id=page.stem)
        for page in PAGES
    ],
)
@pytest.mark.usefixtures("forgotten")
def test_commands_of_a_page(page, here):
    """One after the other in an empty folder, with the files that the page shows, the reader's and the repository's; then its
    Python. Those of the notebook are of the past."""
    text, page = (
        page.read_text(encoding="utf-8"),
        str(page.relative_to(REPOSITORY).with_suffix("")),
    )
    commands, python = (
        "notebook" not in page and page not in pages.split() for pages in ELSEWHERE.values()
    )
    write_files_of(text)
    for script, words in commands_in(f"{page}.md") if commands else ():
        for word in words:
            bring(word.partition(":")[0])
        if Path(f"{script}.py").is_file() and not words:  # of the page
            runpy.run_path(f"{script}.py")
        elif LONG.search(" ".join((script, *words))):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Read):
                patch.setattr(ArgumentParser, "parse_args", read)
                module_of(script.replace("/", ".")).main(words)
        else:
            small = [SMALL, *(flags for flag, flags in UNLESS.items() if flag not in words)]
            run_undrawn(script, *words, *(flags.get(script, "") for flags in small))
    space = (
        {"evaluate": evaluate, "load": load, "test": load_data("MNIST")[2]} if python else {}
    )  # as README's have them
    for block in (
        re.findall(r"^```python\n(?!# \S+\.py\n)(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if python
        else ()
    ):
        for word in re.findall(r'"([\w/]+\.\w+)"', block):
            bring(word)
        exec(
            block.replace(
                "limit_train=6000, holdout=500", "limit_train=128, limit_test=16, holdout=32"
            ),
            space,
        )


@pytest.fixture
def clone(here, monkeypatch):
    """The root of a clone in which nobody has trained yet; committed checkpoints and logs are empty."""
    command = ["git", "ls-files", "logs", "trained_models"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if not listed.stdout:
        pytest.skip("these files are not in a clone")
    for name in listed.stdout.splitlines():
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(harness.runs.run, "HOME", here)
    return here


OF_TODAY = [page for page in PAGES if "notebook" not in page.parts]
OF_TODAY += [REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("examples/*.py"))]


@pytest.mark.parametrize("page", OF_TODAY, ids=lambda page: page.stem)
@pytest.mark.usefixtures("forgotten", "clone")
def test_commands_of_a_page_are_accepted_in_a_clone(page, monkeypatch):
    """One after the other: flags are read, what a command starts from is there, no file is in a training run's way."""
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
                patch.setattr(Parser, "parse_args", read_with_recipe)
                with pytest.raises(Read):
                    module_of(script).main(words)


def train_in_name_only(kind, args):
    """Check that a run could begin, and leave an empty checkpoint in its name."""
    for flag in ("pretrained_ann", "pretrained_snn"):
        path = getattr(args, flag, "")
        assert not path or Path(path).is_file() or Path(path).name == "mine.pth", path
    paths = Paths(kind, run_name(kind, args), args.output_dir)
    assert args.resume or paths.taken() is None
    paths.files.mkdir(parents=True, exist_ok=True)
    paths.best_path.touch()


def read_with_recipe(parser, *args, parse=Parser.parse_args):
    parse(parser, *args)
    raise Read


def write_files_of(text):
    """Write the files that a page shows, which begin with their names."""
    shown = r"^```\w+\n# (\S+\.(?:py|toml))\n(.*?)^```$"
    for name, file in re.findall(shown, text, re.MULTILINE | re.DOTALL):
        Path(name).write_text(file)


def read(parser, *args, parse=ArgumentParser.parse_args):
    parse(parser, *args)
    raise Read


def bring(word):
    """The file or folder that a word of a command names, if it is not here."""
    if Path(word).exists():
        return
    if word == "FOLDER":
        make_folder(Path(word), count=20)
    elif word.endswith((".jpg", ".gif", "/")):
        write(Path(word) / "dog.png" if word.endswith("/") else Path(word), pixels(1))
    elif (REPOSITORY / word).exists():
        Path(word).parent.mkdir(parents=True, exist_ok=True)
        Path(word).symlink_to(REPOSITORY / word)


TOUR = REPOSITORY / "docs/tutorials/tour.ipynb"


def told(notebook):
    """What each code cell printed, and the kinds of what else it showed."""
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    printed = [
        "".join(output.text for output in cell if output.get("name") == "stdout") for cell in cells
    ]
    return printed, [
        [sorted(output.data) for output in cell if "data" in output] for cell in cells
    ]


@pytest.mark.others
def test_the_tour_says_what_is_stored_in_it(tmp_path, monkeypatch):
    """In this interpreter, with a kernel, settings and a history of its own."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    kernelspec = pytest.importorskip("ipykernel.kernelspec")
    for name in (
        "JUPYTER_PATH",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
    ):
        monkeypatch.setenv(name, str(tmp_path))
    kernelspec.write_kernel_spec(tmp_path / "kernels/ours")
    stored = nbformat.read(TOUR, as_version=4)
    fresh, environment = (
        copy.deepcopy(stored),
        os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": ""},
    )
    nbclient.NotebookClient(
        fresh, kernel_name="ours", resources={"metadata": {"path": TOUR.parent}}
    ).execute(env=environment)
    assert told(fresh) == told(stored)
    assert (
        told(stored)[1] == [[], [], [["image/png", "text/plain"]], [], []]
        and TOUR.stat().st_size < 300_000
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tmp_path
