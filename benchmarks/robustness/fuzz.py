#!/usr/bin/env python3
"""Are mutated checkpoints, data files, flag values and blocks (.snn) either read or refused in one line?

One JSON object: how many examples of each kind were run and how many were refused. It stops at the smallest example that breaks a
rule: a traceback, another exit status than 0 or 2, damage of a data file that is not noticed, what a sanitizer finds. 10,000
blocks of each network take eight minutes.
"""

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
from pathlib import Path
from unittest import mock
from urllib.error import URLError

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import torch
from test_kernel import sanitised

import self_models.data.sets
from harness import UserError
from harness.command_line.parser import Parser, flag_type
from harness.command_line.scripts import run_script
from self_models.basics.settings import COUNT
from self_models.data.sets import BUNDLED

load_set = inspect.unwrap(self_models.data.sets.load_set)  # the tests keep what it has loaded
kept = functools.lru_cache(load_set)
SCRIPTS = sorted(
    path.stem for path in Path(__file__).resolve().parents[2].glob("*nn_wFeedback*.py")
)
SNN = "snn_wFeedback"
NETWORK = shlex.split("-a VGG5_wFeedback_small --fc_width 4")
TINY = NETWORK + shlex.split(
    "--timesteps 2 --limit_train 8 --limit_test 2 --batch_size 4 --device cpu"
)
MEMORY = (
    8 * 2**30
)  # bytes of address space that a script may take meanwhile, so that a huge network fails at once


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument(
        "--examples", type=flag_type(COUNT), default=1000, metavar="N", help="of each kind"
    )
    kinds = {kind.__name__: kind for kind in (checkpoints, data_files, flag_values, blocks)}
    parser.add_argument(
        "--kinds", nargs="+", choices=list(kinds), default=list(kinds), help="what is mutated"
    )
    args, found = parser.parse_args(argv), {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in map(kinds.get, args.kinds):
            found[kind.__name__] = kind(args.examples, Path(folder))
            print(json.dumps(found), flush=True)


def trained(folder):
    """The folder of a tiny trained SNN's checkpoints, x.pth and x_last.pth."""
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module(SNN).main(
            [*TINY, "--epochs", "1", "--run_name", "x", "--output_dir", str(folder)]
        )
    return folder / "trained_models/snn"


class Reached(Exception):
    """Everything was accepted: the run itself would begin."""


def outcome(name, flags):
    """Run a script until its work begins; returns '' then, else its one line. Anything else is a fault."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    module, stop = importlib.import_module(name), mock.Mock(side_effect=Reached)
    patches = []
    for begins in ("evaluate", "film_images", "show_frames"):  # where a post-hoc script's does
        if hasattr(module, begins):
            patches.append(mock.patch.object(module, begins, stop))
    if "--resume" not in flags:
        for begins in ("report_test", "length_of"):  # where a training script's work begins
            if hasattr(module, begins):
                patches.append(mock.patch.object(module, begins, stop))
    patches += (
        mock.patch("self_models.data.sets.load_set", kept),
        mock.patch("self_models.conversion.balance_thresholds", stop),
    )
    patches.append(mock.patch("urllib.request.urlopen", side_effect=URLError("offline")))
    with contextlib.ExitStack() as stack:
        for patch in (*patches, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)):
            stack.enter_context(patch)
        try:
            run_script(lambda: module.main(flags))
        except Reached:
            return ""
        except SystemExit as end:
            status = end.code
    line = err.getvalue()
    assert status == 2 and line.startswith("error: ") and line.count("\n") == 1, (status, line)
    return line


def fuzz(examples, check, **given_):
    """Run `check`, which gives what it was refused with, on that many examples, the same ones each time. Returns the counts."""
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
def mutations(draw, file):
    """Not the file's bytes: a part of them, or all from somewhere on, is lost, doubled, zeroed or foreign, or a bit flipped."""
    raw = file.read_bytes()
    begin = draw(st.integers(0, len(raw) - 1))
    end = draw(st.just(len(raw)) | st.integers(begin, min(len(raw), begin + len(raw) // 4)))
    part, flipped = raw[begin:end], raw[begin] ^ 1 << draw(st.integers(0, 7))
    new = draw(
        st.sampled_from([b"", 2 * part, bytes(len(part)), bytes([flipped]) + part[1:]])
        | st.binary(max_size=200)
    )
    mutated = raw[:begin] + new + raw[end:]
    assume(mutated != raw)
    return mutated


# --- checkpoints


def checkpoints(examples, folder):
    """A damaged last checkpoint is read, or refused in a line, by evaluation and by --resume."""
    folder = folder / "checkpoints"
    last, path = trained(folder) / "x_last.pth", folder / "mutated.pth"

    def check(mutated):
        path.write_bytes(mutated)
        where = ["--output_dir", str(folder / "out")]
        evaluated = outcome(
            SNN, ["--pretrained_snn", str(path), "--test_only", *TINY[len(NETWORK) :], *where]
        )
        resumed = outcome(
            SNN, [*TINY, "--epochs", "1", "--resume", str(path), "--run_name", "y", *where]
        )
        assert resumed, "a finished run has nothing left to do"
        return evaluated

    return fuzz(examples, check, mutated=mutations(last))


def data_files(examples, folder):
    """MNIST's test set with one damaged file is refused by its path, or read as it was."""
    place, (images, labels) = folder / "mnist", self_models.data.sets.IDX_FILES[False]
    place.mkdir()
    whole = load_set("MNIST", BUNDLED, False)
    files = {name: BUNDLED / "mnist" / f"{name}.gz" for name in (images, labels)}

    def check(example):
        name, mutated = example
        for other in (images, labels):
            (place / f"{other}.gz").write_bytes(
                mutated if other == name else files[other].read_bytes()
            )
        try:
            found = load_set("MNIST", folder, False)
        except UserError as error:
            assert str(place / f"{name}.gz") in str(error) and "corrupt" in str(error)
            return error
        assert torch.equal(found.images, whole.images) and torch.equal(found.labels, whole.labels)

    kinds = st.sampled_from([images, labels, labels]).flatmap(
        lambda name: st.tuples(st.just(name), mutations(files[name]))
    )
    return fuzz(examples, check, example=kinds)


def values(action, folder):
    """Strategy of words that may follow a flag: numbers, choices, words, paths."""
    odd = [
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
    numbers = st.one_of(
        st.integers(-3, 70).map(str),
        st.integers().map(str),
        st.floats().map(repr),
        st.sampled_from(odd),
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
    choices = st.sampled_from(
        [str(choice) for choice in action.choices or ["True", "False", "no"]]
    )
    return st.lists(st.one_of(numbers, words, paths, choices), max_size=2)


def flag_values(examples, folder):
    """Any value of any flag of any script is accepted or refused in one line."""
    folder = folder / "flags"
    folder.mkdir()
    snn = trained(folder) / "x.pth"

    def check(example):
        name, words = example
        assume(not {"-h", "--help", "--help_all"} & set(words))
        base = [] if name == "ann_wFeedback" else ["--pretrained_snn", str(snn)]
        with (
            tempfile.TemporaryDirectory(dir=folder) as work,
            contextlib.chdir(work),
        ):  # what a relative path makes lies here
            return outcome(name, [*TINY, *base, *words])

    @st.composite
    def command(draw):
        name, words = draw(st.sampled_from(SCRIPTS)), []
        actions = [
            each
            for each in importlib.import_module(name).build_parser()._actions
            if each.dest not in ("help", "resume")
        ]
        for action in draw(st.lists(st.sampled_from(actions), min_size=1, max_size=3)):
            words += [action.option_strings[0], *draw(values(action, folder))]
        return name, words

    return fuzz(examples, check, example=command())


# --- blocks

NETWORKS = """
import json, os, test_kernel as kernel
from self_models import from_nir, load
path = "../shared/data/nir/braille_noDelay_bias_zero.nir"  # recurrent; of somebody else, where it is
if not os.path.exists(path):
    path = "examples/nmnist.nir"
graph = from_nir(path, dt=1e-4)
models = {kind: load("trained_models/snn/quick_feedback.pth", weights=kind) for kind in ("float32", "int8")}
networks = {kind: (kind, kernel.lay_out(model), kernel.settings_of(model)) for kind, model in models.items()}
networks |= {"nir": ("float32", kernel.lay_out(graph), graph.engine.settings(1)), "small": ("small", *networks["int8"][1:])}
"""


def blocks(examples, _):
    """A mutated network is refused, or runs within its memory."""
    return json.loads(sanitised(f"{NETWORKS}print(json.dumps(kernel.fuzz(networks, {examples})))"))


if __name__ == "__main__":
    run_script(main)
