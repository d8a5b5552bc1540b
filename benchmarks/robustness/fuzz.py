#!/usr/bin/env python3
"""Check that mutated files, flags and blocks are either read or refused in one line.

What is mutated: checkpoints, data files, flag values and blocks (.snn). One JSON object
is printed: how many examples of each kind were run and how many were refused. It stops
at the smallest example that breaks a rule: a traceback, another exit status than 0 or
2, damage of a data file that is not noticed, what a sanitizer finds. 10,000 blocks of
each network take eight minutes.
"""

import argparse
import contextlib
import functools
import importlib
import inspect
import io
import json
import os
import resource
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from unittest import mock
from urllib.error import URLError

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/wfeedback"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/self_models"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wfeedback.idle_threads  # noqa: F401  (before torch)

import torch
from test_kernel import sanitised

import self_models.data.sets
from self_models.data.sets import BUNDLED
from self_models.errors import UserError
from self_models.settings import COUNT
from wfeedback.command_line.parser import Parser, flag_type
from wfeedback.command_line.scripts import run_script

load_set = inspect.unwrap(self_models.data.sets.load_set)  # the tests keep what it has loaded
cached_load_set = functools.lru_cache(load_set)
SCRIPTS = sorted(
    path.stem for path in Path(__file__).resolve().parents[2].glob("*nn_wFeedback*.py")
)
SNN = "snn_wFeedback"
NETWORK = shlex.split("-a VGG5_wFeedback_small --fc_width 4")
FEW = shlex.split("--timesteps 2 --limit_train 8 --limit_test 2 --batch_size 4 --device cpu")
TINY = NETWORK + FEW
# Bytes of address space that a script may take, so that a huge network fails at once
MEMORY = 8 * 2**30


def main(argv: Sequence[str] | None = None) -> None:
    """Run the examples of each kind, and print the counts."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--examples", type=flag_type(COUNT), default=1000, metavar="N", help="of each kind"
    )
    kinds = {kind.__name__: kind for kind in (checkpoints, data_files, flag_values, blocks)}
    parser.add_argument(
        "--kinds", nargs="+", choices=list(kinds), default=list(kinds), help="what is mutated"
    )
    args = parser.parse_args(argv)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.kinds:
            found[name] = kinds[name](args.examples, Path(folder))
            print(json.dumps(found), flush=True)


def trained(folder: Path) -> Path:
    """Train a tiny SNN, and return the folder of its checkpoints x and x_last."""
    flags = [*TINY, "--epochs", "1", "--run_name", "x", "--output_dir", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module(SNN).main(flags)
    return folder / "trained_models/snn"


class Reached(Exception):
    """Everything was accepted: the run itself would begin."""


def outcome(name: str, flags: Sequence[str]) -> str:
    """Run a script until its work begins.

    Parameters
    ----------
    name : str
        One of SCRIPTS.
    flags : sequence of str
        Its command line.

    Returns
    -------
    str
        "" if the work would begin; else the one line with which the script refuses.

    Raises
    ------
    AssertionError
        If it ends otherwise.
    """
    module = importlib.import_module(name)
    output = io.StringIO()
    errors = io.StringIO()
    status = 0
    with contextlib.ExitStack() as stack:
        for patch in patches_at_work(module, resumes="--resume" in flags):
            stack.enter_context(patch)
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(errors))
        try:
            run_script(lambda: module.main(flags))
        except Reached:
            return ""
        except SystemExit as end:
            status = end.code
    line = errors.getvalue()
    assert status == 2 and line.startswith("error: ") and line.count("\n") == 1, (status, line)
    return line


def patches_at_work(module: ModuleType, resumes: bool) -> list:
    """Return patches by which a script raises Reached where its work begins.

    They also keep loaded sets of images, and take the network away.
    """
    stop = mock.Mock(side_effect=Reached)
    begins = ["evaluate", "film_images", "show_frames"]  # of post-hoc scripts
    if not resumes:
        begins += ["report_test", "length_of"]  # of training scripts
    patches = []
    for function in begins:
        if hasattr(module, function):
            patches.append(mock.patch.object(module, function, stop))
    patches += [
        mock.patch("self_models.data.sets.load_set", cached_load_set),
        mock.patch("self_models.conversion.balance_thresholds", stop),
        mock.patch("urllib.request.urlopen", side_effect=URLError("offline")),
    ]
    return patches


def fuzz(examples: int, check: Callable, **given_: st.SearchStrategy) -> dict[str, int]:
    """Run a check on many examples, the same ones each time.

    Parameters
    ----------
    examples : int
        How many.
    check : callable
        Takes an example, and returns what it was refused with.
    **given_ : SearchStrategy
        What draws the check's arguments.

    Returns
    -------
    dict of {str: int}
        How many "examples" were run, and how many were "refused".
    """
    counts = {"examples": 0, "refused": 0}

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(**given_)
    def count(**example):
        refused = check(**example)
        counts["examples"] += 1
        counts["refused"] += bool(refused)

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    try:
        count()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return counts


@st.composite
def mutations(draw: st.DrawFn, file: Path) -> bytes:
    """Draw bytes that are not the file's.

    A part of them, or all from somewhere on, is lost, doubled, zeroed or foreign, or a
    bit is flipped.
    """
    raw = file.read_bytes()
    begin = draw(st.integers(0, len(raw) - 1))
    end = draw(st.just(len(raw)) | st.integers(begin, min(len(raw), begin + len(raw) // 4)))
    part = raw[begin:end]
    flipped = raw[begin] ^ 1 << draw(st.integers(0, 7))
    new = draw(
        st.sampled_from([b"", 2 * part, bytes(len(part)), bytes([flipped]) + part[1:]])
        | st.binary(max_size=200)
    )
    mutated = raw[:begin] + new + raw[end:]
    assume(mutated != raw)
    return mutated


# --- checkpoints


def checkpoints(examples: int, folder: Path) -> dict[str, int]:
    """Damage a checkpoint: evaluation and --resume read it, or refuse in a line."""
    folder = folder / "checkpoints"
    last = trained(folder) / "x_last.pth"
    path = folder / "mutated.pth"
    output = ["--output_dir", str(folder / "out")]

    def check(mutated):
        path.write_bytes(mutated)
        evaluated = outcome(SNN, ["--pretrained_snn", str(path), "--test_only", *FEW, *output])
        resume = ["--epochs", "1", "--resume", str(path), "--run_name", "y"]
        resumed = outcome(SNN, [*TINY, *resume, *output])
        assert resumed, "a finished run has nothing left to do"
        return evaluated

    return fuzz(examples, check, mutated=mutations(last))


def data_files(examples: int, folder: Path) -> dict[str, int]:
    """Damage a file of MNIST: it is refused by its path, or read as it was."""
    place = folder / "mnist"
    place.mkdir()
    images, labels = self_models.data.sets.IDX_FILES[False]
    whole = load_set("MNIST", BUNDLED, False)
    files = {name: BUNDLED / "mnist" / f"{name}.gz" for name in (images, labels)}

    def check(example):
        name, mutated = example
        for other, file in files.items():
            content = mutated if other == name else file.read_bytes()
            (place / f"{other}.gz").write_bytes(content)
        try:
            found = load_set("MNIST", folder, False)
        except UserError as error:
            assert str(place / f"{name}.gz") in str(error) and "corrupt" in str(error)
            return error
        assert torch.equal(found.images, whole.images) and torch.equal(found.labels, whole.labels)

    damaged = st.sampled_from([images, labels, labels]).flatmap(
        lambda name: st.tuples(st.just(name), mutations(files[name]))
    )
    return fuzz(examples, check, example=damaged)


ODD_NUMBERS = [
    "1e400",
    "-0",
    "0x10",
    "1_000",
    "½",
    "1e-320",
    "99999999999999999999",
    "2147483647",
    "1e30",
]


def values(action: argparse.Action, folder: Path) -> st.SearchStrategy:
    """Return what draws words to follow a flag: numbers, choices, words, paths."""
    numbers = st.one_of(
        st.integers(-3, 70).map(str),
        st.integers().map(str),
        st.floats().map(repr),
        st.sampled_from(ODD_NUMBERS),
    )
    letters = st.characters(exclude_characters="\0/", exclude_categories=())
    words = st.text(letters, max_size=8).filter(lambda text: ".." not in text)
    paths = st.sampled_from(
        [
            str(folder),
            f"{folder}/none",
            __file__,
            os.devnull,
            "",
            "a" * 300,
            "a" * 240,
            "a/b",
            "a\udc80",
        ]
    )
    names = [str(choice) for choice in action.choices or ["True", "False", "no"]]
    choices = st.sampled_from(names)
    return st.lists(st.one_of(numbers, words, paths, choices), max_size=2)


@st.composite
def command_lines(draw: st.DrawFn, folder: Path) -> tuple[str, list[str]]:
    """Draw a script and up to three of its flags, each with any words behind it."""
    name = draw(st.sampled_from(SCRIPTS))
    parser = importlib.import_module(name).build_parser()
    actions = [action for action in parser._actions if action.dest not in ("help", "resume")]
    words = []
    for action in draw(st.lists(st.sampled_from(actions), min_size=1, max_size=3)):
        words += [action.option_strings[0], *draw(values(action, folder))]
    return name, words


def flag_values(examples: int, folder: Path) -> dict[str, int]:
    """Give any value to any flag of any script: it is taken, or refused in a line."""
    folder = folder / "flags"
    folder.mkdir()
    snn = trained(folder) / "x.pth"

    def check(example):
        name, words = example
        assume(not {"-h", "--help", "--help_all"} & set(words))
        flags = list(TINY)
        if name != "ann_wFeedback":
            flags += ["--pretrained_snn", str(snn)]
        # What a relative path makes lies in a folder that is removed.
        with tempfile.TemporaryDirectory(dir=folder) as work, contextlib.chdir(work):
            return outcome(name, [*flags, *words])

    return fuzz(examples, check, example=command_lines(folder))


# --- blocks

# Each network: the kind of its weights, its block, and how it is run
NETWORKS = """
import json, os, test_kernel as kernel
from self_models import from_nir, load

path = "../shared/data/nir/braille_noDelay_bias_zero.nir"  # recurrent; of somebody else
if not os.path.exists(path):
    path = "examples/nmnist.nir"
graph = from_nir(path, dt=1e-4)
networks = {}
for kind in ("float32", "int8"):
    model = load("trained_models/snn/quick_feedback.pth", weights=kind)
    networks[kind] = (kind, kernel.lay_out(model), kernel.settings_of(model))
networks["nir"] = ("float32", kernel.lay_out(graph), graph.engine.settings(1))
networks["small"] = ("small", *networks["int8"][1:])
"""


def blocks(examples: int, _: Path) -> dict[str, int]:
    """Mutate networks' blocks: they are refused, or run within their memory."""
    return json.loads(sanitised(f"{NETWORKS}print(json.dumps(kernel.fuzz(networks, {examples})))"))


if __name__ == "__main__":
    run_script(main)
