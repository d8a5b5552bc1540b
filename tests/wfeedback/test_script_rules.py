"""The rules of the scripts: one row for each sentence about their behaviour.

The headings and the sentences in quotation marks are those of `script_rules.md`. The
scripts are run as a user runs them, and judged by what they print, and by their records
and checkpoints: nothing here knows how they come to it. Most networks are made here,
untrained, since a rule asks what a checkpoint says, and not how good it is.
"""

import contextlib
import io
import math
import re
import shutil
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import (
    REPOSITORY,
    make_folder,
    module_of,
    records,
    refused,
    run_here,
    run_undrawn,
    same_weights,
)
from filelock import FileLock
from PIL import Image

from self_models import ModelError, load
from self_models.checkpoints.files import load_checkpoint
from self_models.data.sets import load_data
from self_models.running.draws import EVALUATION, Draws, seed_for, shuffled
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.command_line.scripts import run_script

SIZE = "--batch_size 4 --limit_test 4"
JUDGE = f"{SIZE} --test_only --engine dense"
# A network that is made, converted if it must be, and evaluated, but not trained.
MAKE = (
    f"{SIZE} --limit_train 8 --epochs 0 --holdout 0 --engine dense "
    "--balance_images 4 --balance_timesteps 3"
)
SMALL = "-a VGG4_wFeedback_tiny --fc_width 8"
NEW = f"{SMALL} --timesteps 2"
TRAIN = f"{NEW} {SIZE} --limit_train 8 --holdout 3 --engine dense -lr 1e-3"
PLAN = [[4, "D", 6], ["U", "in"]]
FRAMES = 4  # of a recording here
RECORDING = {
    "image_shape": (2, 12, 12),
    "labels": 2,
    "classes": ["down", "right"],
    "recorded_frames": FRAMES,
    "dataset": "…/moving",
}


def save(path, model, **more):
    """Write a checkpoint of a model as load() reads it; `more` are further entries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {
        "model": type(model).__name__,
        "settings": model.settings,
        "state_dict": model.state_dict(),
    }
    torch.save({**entries, **more}, path)
    return path


def new_ann(**settings):
    torch.manual_seed(0)
    return VGG_wFeedback(**{"vgg_name": "VGG4_wFeedback_tiny", "fc_width": 8, **settings})


def new_snn(cls=VGG_SNN_STDB_wFeedback, **settings):
    torch.manual_seed(0)
    common = {"vgg_name": "VGG4_wFeedback_tiny", "fc_width": 8, "timesteps": 3}
    return cls(**{**common, "update": "immediate", "default_threshold": 0.2, **settings})


def without(setting, path, target):
    """Copy a checkpoint, without one of its settings."""
    saved = torch.load(path, weights_only=True)
    del saved["settings"][setting]
    torch.save(saved, target)
    return target


def write_recordings(folder):
    """Write a data set of recordings of two classes, each of FRAMES frames."""
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in RECORDING["classes"]:
            (folder / part / name).mkdir(parents=True)
            for number in range(4):
                frames = draw.integers(0, 2, (FRAMES, 2, 12, 12)).astype(np.uint8)
                np.savez_compressed(folder / part / name / f"{number}.npz", frames=frames)
    return folder


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """Make what the rows are about, and return name -> path. Read only."""
    folder = tmp_path_factory.mktemp("rules")
    anns = {
        "ann": new_ann(),
        "normed": new_ann(norm="batch"),
        "scaled": new_ann(norm="scale"),
        "qcfs": new_ann(activation_ann="qcfs"),
        "max": new_ann(plan=[[4, "M", 6, "M"], []]),
        "moving_ann": new_ann(**RECORDING),
        # all that an SNN shares with it, and all that it does not
        "odd": new_ann(
            kernel_size=5, fc_layers=1, init="kaiming", dropout=0.1, fc_dropout=0.25, timesteps=2
        ),
    }
    snns = {
        "snn": new_snn(),
        "plain": new_snn(vgg_name="VGG4_tiny"),
        "phased": new_snn(update="phased", encoding="direct", readout="membrane_linear"),
        "planned": new_snn(plan=PLAN),
        "moving_snn": new_snn(**RECORDING, timesteps=2, gate="block", blocking="dynamic"),
        "blocks": new_snn(InputBlockingSNN, epsilon=0.3, blocking="dynamic", rule="confidence"),
        "opened": new_snn(InputBlockingSNN, gate="open"),
        "contrasts": new_snn(gate="contrast", epsilon=0.3),
        "moved": new_snn(
            dataset="/gone/cats", image_shape=(1, 12, 12), labels=2, classes=["cat", "dog"]
        ),
        "forgets": new_snn(output_leak=0.7, membrane_floor=1.0, leak=0.6),
        "surprised": new_snn(InputBlockingSNN, blocking="dynamic", surprise=3.0),
    }
    paths = {"here": folder, "trained": trained.snn}
    for name, model in (anns | snns).items():
        paths[name] = save(folder / f"{name}.pth", model)
    paths["ours"] = without("gate", paths["blocks"], folder / "ours.pth")
    original = {
        f"module.{name}": value
        for name, value in anns["ann"].state_dict().items()
        if name.endswith("weight")
    }
    paths["original"] = folder / "original.pth"
    torch.save({"accuracy": 97.0, "epoch": 3, "state_dict": original}, paths["original"])
    paths["moving"] = write_recordings(folder / "moving")
    return paths


def filled(flags, paths, **more):
    """Replace each {name} in flags by the path of this name."""
    return flags.format(**paths, **more)


def begun(name, *flags, folder, run="x"):
    """Run a script.

    Returns the record of its parameters and their origins, with what main returned as
    `result`, and what it printed as `said`.
    """
    result, said = run_undrawn(name, *flags, f"--run_name {run} --output_dir {folder}")
    kind = "ann" if name == "ann" else "snn"
    record = records(folder / f"logs/{kind}/{run}.jsonl", "run")[-1]
    return SimpleNamespace(result=result, said=said, **record)


def origin_of(record, names):
    """Return name -> (value, origin), or None for a flag that the script has not."""
    found = {}
    for name in names:
        if name in record.parameters:
            found[name] = (record.parameters[name], record.origins[name])
        else:
            found[name] = None
    return found


def rows(table):
    """Make the parameters of a test from a table with names in the first column."""
    return [pytest.param(*row, id=name) for name, *row in table]


def recipe(path, **tables):
    """Write a recipe; `tables` are the lines of each."""
    text = "".join(f"[{name}]\n{lines}\n" for name, lines in tables.items())
    path.write_text(text)
    return path


# --- Order


PATIENT = """
from dataclasses import dataclass
from self_models.feedback.gates import GATES, Gate

@GATES.register("patient")
@dataclass
class Patient(Gate):
    pass
"""


@dataclass
class Fault:
    """What is wrong at a place in the order.

    Attributes
    ----------
    flags : str
        Flags that have this fault.
    words : str
        Words of its error.
    alone : str
        Flags that it needs to be the only fault; {snn} is a network without any.
    """

    flags: str
    words: str
    alone: str = ""


FAULTS = {
    "resume": Fault("--resume {here}/none_last.pth", "none_last.pth: no such checkpoint file"),
    "refusals": Fault("--epochs 1 --updates 1", "--epochs and --updates contradict each other"),
    "checkpoint": Fault("--pretrained_snn {here}/none.pth", "none.pth: no such checkpoint file"),
    "facts": Fault(
        "--dataset CIFAR10",
        "--dataset CIFAR10 has colour images of 32x32",
        alone="--pretrained_snn {snn}",
    ),
    "folder": Fault("--dataset {here}/nowhere", "{here}/nowhere", alone="--epochs 1"),
    "conversion": Fault("--pretrained_ann {normed} --no-bias", "becomes a bias"),
    "model": Fault(
        "-a VGG4_tiny --gate block --epsilon 0.1",
        "blocking needs a decoder",
        alone="--pretrained_snn {plain}",
    ),
    "data": Fault(
        "--limit_train 60001",
        "--limit_train 60001: MNIST has 60000 training images",
        alone="--pretrained_snn {snn}",
    ),
    "engine": Fault(
        "--model {patient} --gate patient --engine event",
        "has no form of the gate",
        alone="--pretrained_snn {snn}",
    ),
    "Run": Fault("--run_name taken", "taken.pth exists", alone="--pretrained_snn {snn}"),
    "weights": Fault("--pretrained_snn {snn} --fc_width 9", "{snn} does not fit"),
}
ORDER = [  # which of two faults is told, the earlier; more: flags beside them
    ("resume", "refusals", ""),
    ("refusals", "checkpoint", ""),
    ("checkpoint", "folder", ""),
    ("facts", "conversion", ""),
    ("conversion", "model", ""),
    ("model", "data", "--pretrained_snn {plain}"),
    ("data", "engine", "--pretrained_snn {snn}"),
    ("engine", "Run", "--pretrained_snn {snn}"),
    ("Run", "weights", ""),
]


@pytest.fixture
def tell(made, tmp_path, forgotten):
    """Return a function that runs the script with flags and returns the error line."""
    (tmp_path / "patient.py").write_text(PATIENT)
    checkpoint = tmp_path / "trained_models/snn/taken.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()

    def run_with(*flags):
        filled_flags = filled(" ".join(flags), made, patient=tmp_path / "patient.py")
        return refused("snn", f"{filled_flags} --output_dir {tmp_path}")

    return run_with


# "Then: resume, refusals, checkpoint, facts of the data, rules, check of the
# conversion, model, data, engine, `Run` (which locks the name), weights." That rules
# come after facts and before the check of the conversion is seen below: `recordings`,
# and `bias of a batch norm`, which the check would refuse without it.
@pytest.mark.parametrize(
    ("first", "second", "more"), [pytest.param(*row, id=" before ".join(row[:2])) for row in ORDER]
)
def test_the_earlier_of_two_faults_is_told(tell, made, first, second, more):
    line = tell(FAULTS[first].flags, FAULTS[second].flags, more)
    assert filled(FAULTS[first].words, made) in line


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_each_fault_is_told_where_it_is_alone(tell, made, fault):
    """Else the rows above would say nothing of an order."""
    line = tell(fault.flags, fault.alone)
    assert filled(fault.words, made) in line


@pytest.mark.parametrize(
    ("flags", "name"),
    rows(
        [
            # "The run's name comes from the flags before a checkpoint is read", which
            # has 3 timesteps and another architecture.
            ("of a start", "", "snn_vgg5_wfeedback_mnist_50_tradeoff1.0_typelast_t"),
            ("typed", "--timesteps 2", "snn_vgg5_wfeedback_mnist_2_tradeoff1.0_typelast_t"),
        ]
    ),
)
def test_the_name_comes_from_the_flags(made, tmp_path, flags, name):
    run_here("snn", f"{MAKE} --pretrained_snn {made['snn']} {flags} --output_dir {tmp_path}")
    assert (tmp_path / f"trained_models/snn/{name}.pth").is_file()


# "`Run` (which locks the name), weights". That a second process is refused until the
# first ends is tested in test_survive.py.
def test_a_name_is_locked_before_the_weights_are_read(made, tmp_path):
    files = tmp_path / "trained_models/snn"
    files.mkdir(parents=True)
    with FileLock(files / ".x.lock"):
        line = refused(
            "snn",
            f"--pretrained_snn {made['snn']} --fc_width 9 --run_name x",
            f"--output_dir {tmp_path}",
        )
    assert "the run x in" in line and "is being written by another process" in line


# --- Refusals

EITHER = "contradict each other: leave out one of the two"
STARTS = "--pretrained_ann and --pretrained_snn"


# "A contradiction counts only if its left side was typed (`epochs` against `updates`,
# `pretrained_ann` against `pretrained_snn`)."
@pytest.mark.parametrize(
    ("name", "flags", "words"),
    rows(
        [
            ("ann epochs", "ann", f"{SMALL} --epochs 1 --updates 1", "--epochs and --updates"),
            ("snn epochs", "snn", f"{NEW} --epochs 1 --updates 1", "--epochs and --updates"),
            ("starts", "snn", "--pretrained_ann {ann} --pretrained_snn {snn}", STARTS),
            (
                "starts judged",
                "snn",
                "--test_only --pretrained_ann {ann} --pretrained_snn {snn}",
                STARTS,
            ),
            ("post-hoc", "obj1", "--pretrained_ann {ann} --pretrained_snn {snn}", STARTS),
        ]
    ),
)
def test_a_contradiction_is_refused(made, tmp_path, name, flags, words):
    line = refused(name, filled(flags, made), f"--output_dir {tmp_path}")
    assert words in line and EITHER in line


@pytest.mark.parametrize(
    ("table", "flags", "expected"),
    rows(
        [
            (
                "epochs by default",
                "",
                "--updates 50",
                {"epochs": (100, "default"), "updates": (50, "typed")},
            ),
            (
                "epochs of a recipe",
                "epochs = 1",
                "--updates 50",
                {"epochs": (1, "recipe"), "updates": (50, "typed")},
            ),
            (
                "both of a recipe",
                "epochs = 1\nupdates = 50",
                "",
                {"epochs": (1, "recipe"), "updates": (50, "recipe")},
            ),
            (
                "starts of a recipe",
                'pretrained_ann = "{ann}"\npretrained_snn = "{snn}"\nepochs = 0',
                "",
                {"pretrained_ann": ("{ann}", "recipe"), "pretrained_snn": ("{snn}", "recipe")},
            ),
        ]
    ),
)
def test_what_was_not_typed_contradicts_nothing(made, tmp_path, table, flags, expected):
    lines = f'dataset = "MNIST"\n{filled(table, made)}'
    preset = recipe(tmp_path / "own.toml", snn=lines)
    small = f"{NEW} {SIZE} --limit_train 4 --holdout 0 --engine dense --dropout 0"
    record = begun("snn", f"--preset {preset} {small} {flags}", folder=tmp_path)
    found = origin_of(record, expected)
    for name, (value, origin) in expected.items():
        wanted = filled(value, made) if isinstance(value, str) else value
        assert found[name] == (wanted, origin)


# "A bare command is refused, with a hint; it must not begin 100 epochs."
@pytest.mark.parametrize("words", [None, []], ids=["in a shell", "called with no words"])
@pytest.mark.parametrize("name", ["ann", "snn"])
def test_a_bare_command_is_refused(tmp_path, monkeypatch, name, words):
    for cls in (VGG_wFeedback, VGG_SNN_STDB_wFeedback):
        monkeypatch.setattr(cls, "forward", None)  # else a fault would train for hours
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}_wFeedback.py"])
    with contextlib.redirect_stderr(io.StringIO()) as err, pytest.raises(SystemExit) as stop:
        run_script(lambda: module_of(name).main(words))
    assert stop.value.code == 2 and err.getvalue().count("\n") == 1
    assert "nothing to do: --preset quick_feedback trains in minutes" in err.getvalue()
    assert list(tmp_path.iterdir()) == []


# --- Recipes

# what [ann] and [snn] of a small recipe have in common
BOTH = """
dataset = "MNIST"
architecture = "VGG4_wFeedback_tiny"
fc_width = 8
"""


@pytest.mark.parametrize(
    ("table", "flags", "expected"),
    rows(
        [
            # "A typed `epochs` drops the recipe's `updates`."
            (
                "epochs drop updates",
                "updates = 50",
                "--epochs 0",
                {"epochs": (0, "typed"), "updates": (None, "default")},
            ),
            # "A typed `pretrained_ann` or `pretrained_snn` drops both of the recipe's,
            # but not the teacher."
            (
                "an ANN drops both",
                'pretrained_ann = "{odd}"\npretrained_snn = "{snn}"\nteacher_ann = "{ann}"',
                "--pretrained_ann {ann}",
                {
                    "pretrained_ann": ("{ann}", "typed"),
                    "pretrained_snn": ("", "default"),
                    "teacher_ann": ("{ann}", "recipe"),
                },
            ),
            (
                "an SNN drops both",
                'pretrained_ann = "{odd}"\npretrained_snn = "{plain}"\nteacher_ann = "{ann}"',
                "--pretrained_snn {snn}",
                {
                    "pretrained_ann": ("", "default"),
                    "pretrained_snn": ("{snn}", "typed"),
                    "teacher_ann": ("{ann}", "recipe"),
                },
            ),
            (
                "an SNN drops the [ann] of the file",
                "",
                "--pretrained_snn {snn}",
                {"pretrained_ann": ("", "default"), "pretrained_snn": ("{snn}", "typed")},
            ),
            # "An `[snn]` without a start takes its file's `[ann]`: the user's own
            # output" "Paths and `run_name` that are derived in this way rank below the
            # recipe"
            (
                "[ann] of the file",
                "",
                "",
                {
                    "pretrained_ann": ("{own}/trained_models/ann/mine.pth", "followed"),
                    "pretrained_snn": ("", "default"),
                },
            ),
            (
                "[ann] of the file, by seed",
                "",
                "--seed 1",
                {"pretrained_ann": ("{own}/trained_models/ann/mine_1.pth", "followed")},
            ),
            (
                "a start of the recipe beats that",
                'pretrained_snn = "{snn}"',
                "",
                {"pretrained_ann": ("", "default"), "pretrained_snn": ("{snn}", "recipe")},
            ),
            (
                "a start that is a recipe beats that",
                'pretrained_snn = "base"',
                "",
                {
                    "pretrained_ann": ("", "default"),
                    "pretrained_snn": ("{own}/trained_models/snn/base.pth", "followed"),
                },
            ),
            (
                "an ANN of the recipe beats that",
                'pretrained_ann = "{ann}"',
                "",
                {"pretrained_ann": ("{ann}", "recipe")},
            ),
            # what is typed ranks above a recipe, and a recipe above a checkpoint
            (
                "typed, recipe, checkpoint",
                'pretrained_snn = "{snn}"\ntimesteps = 4\nleak = 0.5',
                "--leak 0.25",
                {
                    "leak": (0.25, "typed"),
                    "timesteps": (4, "recipe"),
                    "update": ("immediate", "checkpoint"),
                },
            ),
        ]
    ),
)
def test_what_a_recipe_gives(made, tmp_path, table, flags, expected):
    for name, start in (("ann/mine", "ann"), ("ann/mine_1", "ann"), ("snn/base", "snn")):
        own = tmp_path / f"trained_models/{name}.pth"
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made[start], own)
    recipe(tmp_path / "base.toml", snn=BOTH)
    preset = recipe(tmp_path / "mine.toml", ann=BOTH, snn=f"{BOTH}{filled(table, made)}")
    make = MAKE
    if "updates" in table:
        make = MAKE.replace("--epochs 0", "")
    if "timesteps" not in table:
        make += " --timesteps 2"
    more = filled(flags, made, own=tmp_path)
    record = begun("snn", f"--preset {preset} {make} {more}", folder=tmp_path)
    found = origin_of(record, expected)
    for name, (value, origin) in expected.items():
        wanted = filled(value, made, own=tmp_path) if isinstance(value, str) else value
        assert found[name] == (wanted, origin)


@pytest.mark.parametrize(
    ("flags", "words"),
    rows(
        [
            # "... numbered by seed"
            ("by seed", "--preset {mine} --seed 7", "needs {own}/mine_7.pth, which is not there"),
            ("seed 0", "--preset {mine}", "needs {own}/mine.pth, which is not there"),
            # "... else what came with the program": no width of 9 fits it
            ("of the program", "--preset baseline --fc_width 9", "error: {program} does not fit"),
            # "the user's own output" comes first; this one is no checkpoint
            ("the user's", "--preset feedback", "error: {own}/ann_feedback.pth cannot be read"),
        ]
    ),
)
def test_the_ann_that_a_recipe_takes(tmp_path, monkeypatch, flags, words):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # so that all paths are said whole
    mine = recipe(tmp_path / "mine.toml", ann=BOTH, snn=BOTH)
    own = tmp_path / "trained_models/ann"
    own.mkdir(parents=True)
    (own / "ann_feedback.pth").touch()
    program = REPOSITORY / "trained_models/ann/ann_baseline.pth"
    paths = {"mine": mine, "own": own, "program": program}
    line = refused("snn", filled(flags, paths), f"{MAKE} --output_dir {tmp_path}")
    assert filled(words, paths) in line


# "Paths and `run_name` that are derived in this way ... do not count as given
# (`--seeds` asks)."
def test_derived_names_are_not_given(tmp_path):
    mine = recipe(tmp_path / "mine.toml", ann=f"{BOTH}epochs = 0", snn=f"{BOTH}timesteps = 2")
    here = f"{MAKE} --output_dir {tmp_path}"
    of_ann = f"{SIZE} --limit_train 8 --holdout 0 --output_dir {tmp_path}"
    _, said = run_here("ann", f"--preset {mine} --seeds 0 1", of_ann)
    assert re.findall("== .*", said) == ["== seed 0: mine", "== seed 1: mine_1"]
    _, said = run_here("snn", f"--preset {mine} --seeds 0 1", here)
    assert re.findall("== .*", said) == ["== seed 0: mine", "== seed 1: mine_1"]
    record = records(tmp_path / "logs/snn/mine_1.jsonl", "run")[0]
    assert record["parameters"]["pretrained_ann"] == f"{tmp_path}/trained_models/ann/mine_1.pth"
    assert record["parameters"]["run_name"] == "mine_1"
    assert record["origins"]["pretrained_ann"] == record["origins"]["run_name"] == "followed"
    # where both are typed, they do
    ann = tmp_path / "trained_models/ann/mine.pth"
    typed = f"--pretrained_ann {ann} --run_name y --timesteps 2 --seeds 1"
    _, said = run_here("snn", typed, here)
    assert re.findall("== .*", said) == [
        f"== seed 1: y_1; --pretrained_ann {ann.with_stem('mine_1')}"
    ]


# "On resume a recipe beats the checkpoint (`epochs`)."
def test_on_resume_a_recipe_beats_the_checkpoint(tmp_path):
    small = f"--timesteps 2 {SIZE} --limit_train 4 --holdout 0 --engine dense"
    mine = recipe(tmp_path / "mine.toml", snn=f"{BOTH}epochs = 1")
    begun("snn", f"--preset {mine} {small}", folder=tmp_path)
    recipe(mine, snn=f"{BOTH}epochs = 2")
    record = begun("snn", f"--preset {mine} --resume", folder=tmp_path)
    assert origin_of(record, ["epochs", "timesteps"]) == {
        "epochs": (2, "recipe"),
        "timesteps": (2, "checkpoint"),
    }
    epochs = records(tmp_path / "logs/snn/x.jsonl", "epoch")
    assert [each["epoch"] for each in epochs] == [1, 2]


# --- From a checkpoint

FROM_CHECKPOINT = [
    # "From an ANN come only the fields that both share and that spiking does not
    # declare anew (not `dropout`, not `timesteps`)."
    (
        "shared with an ANN",
        "snn",
        "--pretrained_ann {odd} --update immediate",
        {
            "architecture": ("VGG4_wFeedback_tiny", "checkpoint"),
            "fc_width": (8, "checkpoint"),
            "fc_layers": (1, "checkpoint"),
            "kernel_size": (5, "checkpoint"),
            "fc_dropout": (0.25, "checkpoint"),
            "init": ("kaiming", "checkpoint"),
            "dataset": ("MNIST", "checkpoint"),
            "dropout": (0.3, "default"),
            "timesteps": (50, "default"),
            "norm": None,
            "activation_ann": None,
            "whitening": None,
        },
    ),
    (
        "from an ANN to an ANN",
        "ann",
        "--pretrained_ann {odd}",
        {"dropout": (0.1, "checkpoint"), "timesteps": (2, "checkpoint")},
    ),
    (
        "from an SNN to an SNN",
        "snn",
        "--pretrained_snn {forgets}",
        {
            "leak": (0.6, "checkpoint"),
            "membrane_floor": (1.0, "checkpoint"),
            "timesteps": (3, "checkpoint"),
        },
    ),
    # "The defaults of the checkpoint's class lie beneath its settings": {ours} is an
    # InputBlockingSNN whose settings name no gate
    (
        "defaults of the class",
        "snn",
        "--pretrained_snn {ours}",
        {"gate": ("block", "checkpoint"), "epsilon": (0.3, "checkpoint")},
    ),
    (
        "settings lie above them",
        "snn",
        "--pretrained_snn {opened}",
        {"gate": ("open", "checkpoint")},
    ),
    # "`plan` stays unless `architecture` is given."
    ("a plan stays", "snn", "--pretrained_snn {planned}", {"plan": (PLAN, "found")}),
    ("no plan", "snn", "--pretrained_snn {snn}", {"plan": (None, "found")}),
    # "Files of the original mean `selected_on=test`."
    (
        "of the original",
        "ann",
        "--pretrained_ann {original} -a VGG4_wFeedback_tiny --fc_width 8",
        {"selected_on": ("test", "found")},
    ),
    (
        "of ours, which says",
        "snn",
        "--pretrained_snn {trained}",
        {"selected_on": ("test", "found")},
    ),
    ("of ours, which does not", "snn", "--pretrained_snn {snn}", {"selected_on": (None, "found")}),
    # "In an evaluation, settings of objectives that no flag names fall to the default
    # of the script's class." {blocks} has gate block, blocking dynamic, and rule
    # confidence.
    (
        "objectives in training",
        "snn",
        "--pretrained_snn {blocks}",
        {
            "blocking": ("dynamic", "checkpoint"),
            "rule": ("confidence", "checkpoint"),
            "gate": ("block", "checkpoint"),
        },
    ),
    (
        "objectives in an evaluation",
        "obj1",
        "--pretrained_snn {blocks}",
        {
            "blocking": ("permanent", "script"),
            "rule": ("never", "script"),
            "gate": ("block", "script"),
            "surprise": (0.0, "script"),
            "timesteps": (3, "checkpoint"),
            "epsilon": (0.3, "checkpoint"),
        },
    ),
    (
        "those of the script's class",
        "obj3",
        "--pretrained_snn {blocks}",
        {"gate": ("contrast", "script"), "contrast": ("local", "script")},
    ),
    (
        "that a flag names",
        "obj1",
        "--pretrained_snn {blocks} --rule entropy --blocking dynamic",
        {"rule": ("entropy", "typed"), "blocking": ("dynamic", "typed")},
    ),
    (
        "of which the script has no flag",
        "stream",
        "--pretrained_snn {blocks} --scene switch --scene_frames 2 --steps_per_frame 1",
        {"rule": None, "timesteps": (3, "checkpoint")},
    ),
]


@pytest.mark.parametrize(("name", "flags", "expected"), rows(FROM_CHECKPOINT))
def test_what_comes_from_a_checkpoint(made, tmp_path, name, flags, expected):
    judge = JUDGE if name in ("ann", "snn") else f"{SIZE} --engine dense"
    if name == "ann":
        judge = judge.replace("--engine dense", "")
    converts = "--limit_train 8 --balance_images 4 --balance_timesteps 3" if name == "snn" else ""
    record = begun(name, filled(flags, made), judge, converts, folder=tmp_path)
    assert origin_of(record, expected) == expected


# "An SNN's checkpoint overrules an ANN's." A recipe may name both.
@pytest.mark.parametrize(
    ("starts", "weights", "is_balanced"),
    rows([("both", ["odd", "snn"], "snn", False), ("the ANN's alone", ["ann"], "ann", True)]),
)
def test_an_snns_checkpoint_overrules_an_anns(made, tmp_path, starts, weights, is_balanced):
    kinds = {"odd": "pretrained_ann", "ann": "pretrained_ann", "snn": "pretrained_snn"}
    lines = "\n".join(f'{kinds[name]} = "{made[name]}"' for name in starts)
    preset = recipe(tmp_path / "own.toml", snn=f'dataset = "MNIST"\n{lines}')
    record = begun("snn", f"--preset {preset} {MAKE}", folder=tmp_path)
    assert ("balancing thresholds" in record.said) == is_balanced
    first = "features.0.weight"
    found = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["state_dict"][first]
    assert torch.equal(found, load_checkpoint(made[weights])["state_dict"][first])
    assert record.parameters["kernel_size"] == 3 and record.parameters["timesteps"] in (3, 50)
    assert (record.origins["timesteps"] == "checkpoint") != is_balanced


# "In an evaluation, settings of objectives that no flag names fall to the default of
# the script's class": of objective 2, which has --rules instead of --rule, and block.
def test_objective_2_has_rules_of_its_own(made, tmp_path):
    record = begun("obj2", f"--pretrained_snn {made['blocks']} {SIZE}", folder=tmp_path)
    assert "rule" not in record.parameters
    found = records(tmp_path / "logs/snn/x.jsonl", "evaluation")
    assert {each["rule"] for each in found} == {"all_predicted", "none"}


# "`plan` stays unless `architecture` is given": then the network is the architecture's,
# which these weights do not fit.
@pytest.mark.parametrize("given", ["typed", "recipe"])
def test_a_given_architecture_drops_the_plan(made, tmp_path, given):
    preset = recipe(tmp_path / "own.toml", snn='architecture = "VGG4_wFeedback_tiny"')
    flags = {"typed": "-a VGG4_wFeedback_tiny", "recipe": f"--preset {preset}"}[given]
    start = f"--pretrained_snn {made['planned']} --dataset MNIST {JUDGE}"
    line = refused("snn", start, flags, f"--run_name x --output_dir {tmp_path}")
    assert f"{made['planned']} does not fit" in line


@pytest.fixture(scope="module")
def of_cats(tmp_path_factory):
    """Train an ANN on a folder of images, cats, and return its path."""
    folder = tmp_path_factory.mktemp("cats")
    make_folder(folder / "cats", shape=(12, 12))
    run_here(
        "ann",
        f"-a VGG4_wFeedback_tiny --fc_width 8 --dataset {folder / 'cats'} --epochs 0 --holdout 0",
        f"--batch_size 4 --run_name x --output_dir {folder}",
    )
    return folder / "trained_models/ann/x.pth"


# "Folder names become `…/NAME`."
def test_a_folder_is_kept_by_its_name(made, of_cats, tmp_path):
    assert load_checkpoint(of_cats)["settings"]["dataset"] == "…/cats"
    for kind, path in (("ann", of_cats), ("snn", made["moved"])):  # the latter says /gone/cats
        flags = f"--pretrained_{kind} {path} {SIZE} --test_only --output_dir {tmp_path}"
        line = refused(kind, flags)
        assert "the network was trained on a folder of images, cats (" in line
        assert "nothing says where it is: add --dataset FOLDER" in line


# "Facts stay those of the training set."
def test_facts_are_those_of_the_training_set(of_cats, tmp_path):
    facts = {
        name: load_checkpoint(of_cats)["settings"][name]
        for name in ("labels", "image_shape", "classes", "background")
    }
    assert facts["image_shape"] == (1, 12, 12) and facts["classes"] == ["cat", "dog"]
    make_folder(tmp_path / "white", shape=(12, 12))  # of other light
    for path in (tmp_path / "white").rglob("*.png"):
        Image.fromarray(np.full((12, 12), 255, np.uint8)).save(path)
    judge = f"--pretrained_ann {of_cats} --test_only --dataset {tmp_path / 'white'}"
    record = begun("ann", judge, "--batch_size 4", folder=tmp_path)
    found = record.parameters["facts"]
    assert found["background"] == facts["background"] < 0.9
    assert found["classes"] == facts["classes"] and record.origins["facts"] == "found"
    for part in ("train", "test"):
        (tmp_path / "white" / part / "dog").rename(tmp_path / "white" / part / "elk")
    line = refused("ann", judge, f"--run_name y --output_dir {tmp_path}")
    assert "has the classes cat, elk, and the network was trained on cat, dog" in line


# --- What follows from other values

TYPED = "typed"
FOLLOWS = "followed"
RECORDED = "--dataset {moving}"
PHASED = "--update phased --encoding direct --readout membrane_linear --timesteps 2"
QCFS = "--pretrained_ann {qcfs} --readout membrane_linear --update immediate --timesteps 2"
NOT_PHASED = "--pretrained_ann {ann} --update immediate --timesteps 2"
GROWN = "--pretrained_snn {snn}"
WHAT_FOLLOWS = [
    # "Recordings: `blocking=dynamic`; `timesteps` is the number of frames unless the
    # start is an SNN."
    (
        "recordings",
        "",
        f"{RECORDED} {SMALL}",
        {"blocking": ("dynamic", FOLLOWS), "timesteps": (FRAMES, FOLLOWS)},
    ),
    (
        "recordings from an ANN",
        "",
        f"{RECORDED} --pretrained_ann {{moving_ann}}",
        {"blocking": ("dynamic", FOLLOWS), "timesteps": (FRAMES, FOLLOWS)},
    ),
    (
        "recordings from an SNN",
        "",
        f"{RECORDED} --pretrained_snn {{moving_snn}}",
        {"blocking": ("dynamic", FOLLOWS), "timesteps": (2, "checkpoint")},
    ),
    (
        "typed instead",
        "",
        f"{RECORDED} {SMALL} --timesteps 3 --blocking permanent",
        {"blocking": ("permanent", TYPED), "timesteps": (3, TYPED)},
    ),
    (
        "of a recipe instead",
        "timesteps = 3",
        f"{RECORDED} {SMALL}",
        {"blocking": ("dynamic", FOLLOWS), "timesteps": (3, "recipe")},
    ),
    ("images", "", NEW, {"blocking": ("permanent", "default"), "timesteps": (2, TYPED)}),
    # "Batch norm or `calibrate`: `bias`."
    (
        "bias of a batch norm",
        "",
        "--pretrained_ann {normed} --update immediate --timesteps 2",
        {"bias": (True, FOLLOWS)},
    ),
    ("bias to calibrate", "", f"{NOT_PHASED} --calibrate", {"bias": (True, FOLLOWS)}),
    ("bias of neither", "", NOT_PHASED, {"bias": (False, "default")}),
    (
        "bias of another norm",
        "",
        "--pretrained_ann {scaled} --update immediate --timesteps 2",
        {"bias": (False, "default")},
    ),
    ("bias typed", "", f"{NOT_PHASED} --calibrate --bias", {"bias": (True, TYPED)}),
    ("bias of a recipe", "bias = true", f"{NOT_PHASED} --calibrate", {"bias": (True, "recipe")}),
    ("bias of an SNN", "", f"{GROWN} --calibrate", {"bias": (False, "checkpoint")}),
    # "Phased or QCFS: `initial_potential` 0.5, `scaling_factor` 1."
    (
        "phased",
        "",
        f"--pretrained_ann {{ann}} {PHASED}",
        {"initial_potential": (0.5, FOLLOWS), "scaling_factor": (1.0, FOLLOWS)},
    ),
    (
        "QCFS",
        "",
        QCFS,
        {"initial_potential": (0.5, FOLLOWS), "scaling_factor": (1.0, FOLLOWS)},
    ),
    (
        "neither",
        "",
        NOT_PHASED,
        {"initial_potential": (0.0, "default"), "scaling_factor": (0.7, "default")},
    ),
    (
        "QCFS, typed instead",
        "",
        f"{QCFS} --scaling_factor 0.6",
        {"initial_potential": (0.5, FOLLOWS), "scaling_factor": (0.6, TYPED)},
    ),
    (
        "QCFS, of a recipe instead",
        "initial_potential = 0.25",
        QCFS,
        {"initial_potential": (0.25, "recipe"), "scaling_factor": (1.0, FOLLOWS)},
    ),
    (
        "a phased SNN",
        "",
        "--pretrained_snn {phased}",
        {"initial_potential": (0.0, "checkpoint"), "scaling_factor": (0.7, "default")},
    ),
    # 'An "M" in the encoder: `max_pool=count`.'
    (
        "maximum pools",
        "",
        "--pretrained_ann {max} --update immediate --timesteps 2",
        {"max_pool": ("count", FOLLOWS)},
    ),
    ("no maximum pools", "", NOT_PHASED, {"max_pool": ("or", "default")}),
    (
        "maximum pools, typed instead",
        "",
        "--pretrained_ann {max} --update immediate --timesteps 2 --max_pool or",
        {"max_pool": ("or", TYPED)},
    ),
    (
        "maximum pools, of a recipe instead",
        'max_pool = "or"',
        "--pretrained_ann {max} --update immediate --timesteps 2",
        {"max_pool": ("or", "recipe")},
    ),
    # "A non-zero epsilon that is given while the gate is open and not given: `block`."
    ("epsilon typed", "", f"{GROWN} --epsilon 0.2", {"gate": ("block", FOLLOWS)}),
    ("epsilon of a recipe", "epsilon = 0.2", GROWN, {"gate": ("block", FOLLOWS)}),
    ("epsilon of 0", "", f"{GROWN} --epsilon 0", {"gate": ("open", "checkpoint")}),
    ("epsilon not given", "", GROWN, {"gate": ("open", "checkpoint")}),
    ("gate typed", "", f"{GROWN} --epsilon 0.2 --gate open", {"gate": ("open", TYPED)}),
    ("gate of a recipe", 'gate = "open"', f"{GROWN} --epsilon 0.2", {"gate": ("open", "recipe")}),
    (
        "epsilon and another gate",
        "",
        "--pretrained_snn {contrasts} --epsilon 0.2",
        {"gate": ("contrast", "checkpoint")},
    ),
    (
        "epsilon of a checkpoint",
        "",
        "--pretrained_snn {contrasts} --gate open",
        {"gate": ("open", TYPED)},
    ),
    ("epsilon of a new network", "", f"{NEW} --epsilon 0.2", {"gate": ("block", FOLLOWS)}),
    # "In an evaluation only": not where --test_only judges what was trained
    (
        "no decoder, in training",
        "",
        "--pretrained_snn {plain}",
        {"epsilon": (0.1, "default"), "surprise": (0.0, "checkpoint")},
    ),
]


@pytest.mark.parametrize(("table", "flags", "expected"), rows(WHAT_FOLLOWS))
def test_what_follows(made, tmp_path, table, flags, expected):
    preset = ""
    if table:
        recipe(tmp_path / "own.toml", snn=table)
        preset = f"--preset {tmp_path / 'own.toml'}"
    make = MAKE
    if "phased" in flags or "{qcfs}" in flags:  # where no threshold is balanced
        make = MAKE.replace("--balance_timesteps 3", "")
    record = begun("snn", preset, filled(flags, made), make, folder=tmp_path)
    assert origin_of(record, expected) == expected


STREAM = "--scene switch --scene_frames 2 --steps_per_frame 1"
FORGETS = ("surprise", "output_leak", "membrane_floor", "leak")
IN_AN_EVALUATION = [
    # "epsilon 0 where there are no predictions": without a decoder, or phased
    ("a decoder", "obj1", "--pretrained_snn {snn}", {"epsilon": ([0.1], "default")}),
    ("no decoder", "obj1", "--pretrained_snn {plain}", {"epsilon": (0.0, FOLLOWS)}),
    ("phased", "obj1", "--pretrained_snn {phased}", {"epsilon": (0.0, FOLLOWS)}),
    ("epsilon typed", "obj1", "--pretrained_snn {plain} --epsilon 0", {"epsilon": ([0.0], TYPED)}),
    # "how streams forget": by surprise where pixels are blocked, else by leaks, but as
    # trained
    (
        "a stream that blocks",
        "stream",
        "--pretrained_snn {snn}",
        {
            "blocking": ("dynamic", FOLLOWS),
            "surprise": (2.0, FOLLOWS),
            "output_leak": (1.0, "checkpoint"),
            "leak": (1.0, "checkpoint"),
        },
    ),
    (
        "a stream without a decoder",
        "stream",
        "--pretrained_snn {plain}",
        {
            "output_leak": (0.8, FOLLOWS),
            "membrane_floor": (0.0, FOLLOWS),
            "leak": (0.9, FOLLOWS),
            "surprise": (0.0, "script"),
        },
    ),
    (
        "a stream with an open gate",
        "stream",
        "--pretrained_snn {snn} --gate open",
        {"output_leak": (0.8, FOLLOWS), "surprise": (0.0, "script")},
    ),
    (
        "a stream with an epsilon and an open gate",
        "stream",
        "--pretrained_snn {snn} --epsilon 0.2 --gate open",
        {"output_leak": (0.8, FOLLOWS), "surprise": (0.0, "script")},
    ),
    (
        "a stream with epsilon 0",
        "stream",
        "--pretrained_snn {snn} --epsilon 0",
        {"output_leak": (0.8, FOLLOWS), "surprise": (0.0, "script")},
    ),
    (
        "leaks as trained",
        "stream",
        "--pretrained_snn {forgets} --gate open",
        {
            "output_leak": (0.7, FOLLOWS),
            "membrane_floor": (1.0, FOLLOWS),
            "leak": (0.6, FOLLOWS),
        },
    ),
    (
        "surprise as trained",
        "stream",
        "--pretrained_snn {surprised}",
        {"blocking": ("dynamic", FOLLOWS), "surprise": (3.0, FOLLOWS)},
    ),
    (
        "typed instead",
        "stream",
        "--pretrained_snn {snn} --surprise 1",
        {"surprise": (1.0, TYPED), "blocking": ("dynamic", FOLLOWS)},
    ),
    (
        "no stream",
        "obj1",
        "--pretrained_snn {surprised}",
        {"blocking": ("permanent", "script"), "surprise": (0.0, "script")},
    ),
    ("not in training", "snn", "--pretrained_snn {surprised}", {"surprise": (3.0, "checkpoint")}),
]


@pytest.mark.parametrize(("name", "flags", "expected"), rows(IN_AN_EVALUATION))
def test_what_follows_in_an_evaluation(made, tmp_path, name, flags, expected):
    more = {"stream": STREAM, "snn": "--test_only"}.get(name, "")
    flags = f"{filled(flags, made)} {SIZE} --engine dense {more}"
    record = begun(name, flags, folder=tmp_path)
    assert origin_of(record, expected) == expected


# "In an evaluation only: gates that stay". The gate of this file says that it stays.
@pytest.mark.parametrize(
    ("name", "flags", "gate", "around"),
    rows(
        [
            ("it stays", "obj1", "", ("neighbours", FOLLOWS), (2, FOLLOWS)),
            ("not where another is typed", "obj1", "--gate block", ("block", TYPED), None),
            ("not in objective 3", "obj3", "", ("contrast", "script"), None),
            ("in training, too", "snn", "--test_only", ("neighbours", "checkpoint"), None),
        ]
    ),
)
def test_a_gate_that_stays(made, tmp_path, forgotten, name, flags, gate, around):
    own = f"--model {REPOSITORY / 'examples/neighbours.py'}"
    grown = f"--pretrained_snn {made['snn']} --gate neighbours --around 2"
    begun("snn", own, grown, MAKE, folder=tmp_path)
    trained = tmp_path / "trained_models/snn/x.pth"
    record = begun(
        name, f"{own} --pretrained_snn {trained} {SIZE} {flags}", folder=tmp_path, run="y"
    )
    assert origin_of(record, ["gate"]) == {"gate": gate}
    if around:
        assert origin_of(record, ["around"]) == {"around": around}


# --- Resume

# "Nine flags never come from the checkpoint, fourteen may change, all others must be
# equal."
NEVER = {
    "preset",
    "output_dir",
    "run_name",
    "model",
    "test_only",
    "overwrite",
    "seeds",
    "resume",
    "results_json",
}
MAY_CHANGE = {  # flag -> what is typed instead; of the ANN's script too, unless said below
    "log": "--no-log",
    "device": "--device cpu",
    "gpu": "--no-gpu",
    "devices": "--devices 1",
    "data_dir": f"--data_dir {REPOSITORY / 'data'}",
    "pretrained_ann": "--pretrained_ann nowhere.pth",
    "epochs": "--epochs 1",
    "updates": "--updates 40",
    "checkpoint_minutes": "--checkpoint_minutes 1",
    "test_acc_every_batch": "--test_acc_every_batch",
    "train_acc_batches": "--train_acc_batches 3",
    "pretrained_snn": "--pretrained_snn nowhere.pth",
    "engine": "--engine reference",
    "bptt_segments": "--bptt_segments 2",
}
EQUAL = {  # likewise, of both scripts
    "seed": "--seed 1",
    "image_size": "--image_size 12",
    "grey": "--grey",
    "event_frames": "--event_frames 5",
    "skip_bad": "--skip_bad",
    "batch_size": "--batch_size 2",
    "limit_train": "--limit_train 9",
    "limit_test": "--limit_test 5",
    "holdout": "--holdout 4",
    "select": "--select test",
    "dataset": "--dataset CIFAR10",
    "count_bound": "--count_bound 2",
    "split_by": "--split_by number",
    "architecture": "-a VGG4_tiny",
    "fc_width": "--fc_width 9",
    "fc_layers": "--fc_layers 1",
    "kernel_size": "--kernel_size 5",
    "dropout": "--dropout 0.4",
    "fc_dropout": "--fc_dropout 0.4",
    "init": "--init kaiming",
    "timesteps": "--timesteps 3",
    "learning_rate": "-lr 0.5",
    "lr_schedule": "--lr_schedule cosine",
    "lr_interval": "--lr_interval 0.5",
    "lr_reduce": "--lr_reduce 3",
    "optimizer": "--optimizer SGD",
    "weight_decay": "--weight_decay 0.1",
    "momentum": "--momentum 0.5",
    "amsgrad": "--no-amsgrad",
    "nesterov": "--nesterov",
    "trade_off": "--trade_off 3",
    "precision": "--precision bfloat16",
    "augment": "--augment",
    "warm_up": "--warm_up 0.2",
    "bias_lr_factor": "--bias_lr_factor 2",
    "label_smoothing": "--label_smoothing 0.1",
    "mirror": "--mirror alternate",
    "shift": "--shift 1",
    "cutout": "--cutout 2",
    "teacher_ann": "--teacher_ann nowhere.pth",
    "distillation": "--distillation 0.1",
    "temperature": "--temperature 3",
}
EQUAL_ANN = {
    "norm": "--norm batch",
    "norm_scale": "--no-norm_scale",
    "activation_ann": "--activation_ann qcfs",
    "qcfs_levels": "--qcfs_levels 8",
    "whitening": "--whitening",
}
EQUAL_SNN = {
    "scaling_factor": "--scaling_factor 0.5",
    "balance_images": "--balance_images 9",
    "balance_timesteps": "--balance_timesteps 9",
    "balance_percentile": "--balance_percentile 99",
    "calibrate": "--calibrate",
    "leak": "--leak 0.5",
    "bias": "--bias",
    "output_bias": "--output_bias",
    "initial_potential": "--initial_potential 0.5",
    "max_pool": "--max_pool count",
    "default_threshold": "--default_threshold 2",
    "activation": "--activation Triangle",
    "alpha": "--alpha 0.5",
    "beta": "--beta 0.5",
    "update": "--update delayed",
    "encoding": "--encoding direct",
    "readout": "--readout membrane",
    "predict": "--predict next",
    "readout_leak": "--readout_leak 0.5",
    "readout_slew": "--readout_slew 0.5",
    "output_leak": "--output_leak 0.5",
    "membrane_floor": "--membrane_floor 1",
    "surprise": "--surprise 1",
    "gate": "--gate contrast",
    "epsilon": "--epsilon 0.3",
    "together": "--together",
    "blocking": "--blocking dynamic",
    "latch": "--latch",
    "residual": "--residual",
    "contrast": "--contrast none",
    "attention": "--attention 0.1",
    "rule": "--rule entropy",
    "open_bound": "--open_bound 0.5",
    "gap_bound": "--gap_bound 3",
    "entropy_bound": "--entropy_bound 0.5",
    "trade_off_type": "--trade_off_type mean_t",
    "classification_type": "--classification_type mean_t",
    "spike_penalty": "--spike_penalty 1",
    "train": "--train decoder",
    "learn_threshold": "--learn_threshold",
    "learn_leak": "--learn_leak",
}
OF_SNN = ("pretrained_snn", "engine", "bptt_segments")  # of those that may change
MAY_CHANGE_ANN = {flag: text for flag, text in MAY_CHANGE.items() if flag not in OF_SNN}


@dataclass
class FlagsOnResume:
    """Flags of a script, of which each has a text that types another value."""

    may_change: dict[str, str]
    equal: dict[str, str]


ON_RESUME = {
    "ann": FlagsOnResume(MAY_CHANGE_ANN, EQUAL | EQUAL_ANN),
    "snn": FlagsOnResume(MAY_CHANGE, EQUAL | EQUAL_SNN),
}


def flags_of(name):
    """Return the names of all flags of a script, as its help lists them."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        module_of(name).main(["--help_all"])
    names = re.findall(r"^  (?:-\w+(?: \w+)?, )?--(\w+)", out.getvalue(), re.MULTILINE)
    return set(names) - {"help", "help_all"}


@pytest.mark.parametrize("name", ["ann", "snn"])
def test_each_flag_is_in_one_class(name):
    """A new flag is to be put in one of them: it is a decision."""
    may_change = ON_RESUME[name].may_change.keys()
    equal = ON_RESUME[name].equal.keys()
    flags = flags_of(name)
    assert len(NEVER) == 9
    assert len(MAY_CHANGE) == 14
    assert len(NEVER) + len(may_change) + len(equal) == len(flags)
    assert NEVER | may_change | equal == flags


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Train x by both scripts, two epochs, and u, in updates; return the folder."""
    folder = tmp_path_factory.mktemp("ended")
    here = f"--output_dir {folder}"
    of_snn = "--update immediate --epsilon 0.2 --engine dense --timesteps 2"
    trains = f"{SMALL} {SIZE} --limit_train 8 --holdout 3 -lr 1e-3 --epochs 2"
    never = f"--overwrite --results_json {folder / 'figures.json'}"
    run_here("ann", f"{trains} --run_name x {here}")
    run_here("snn", f"{trains} {of_snn} --run_name x {never} {here}")
    shorter = f"{SMALL} --batch_size 2 --limit_test 4 --limit_train 4 --updates 50 --dropout 0"
    run_here("snn", f"{shorter} {of_snn} --run_name u {here}")
    return folder


def other_values(name, flags):
    """Make the parameters of a test: script, flag, and what is typed instead."""
    parameters = []
    for flag, text in flags.items():
        if flag != "updates":  # which shortens a run: see below
            parameters.append(pytest.param(name, flag, text, id=f"{name}-{flag}"))
    return parameters


@pytest.mark.parametrize(
    ("name", "flag", "other"),
    other_values("ann", ON_RESUME["ann"].equal) + other_values("snn", ON_RESUME["snn"].equal),
)
def test_what_must_be_equal(ended, name, flag, other):
    line = refused(name, f"--resume --run_name x --epochs 3 --output_dir {ended} {other}")
    assert f"x_last.pth was trained with other settings ({flag}); --resume needs the same" in line


@pytest.mark.parametrize(
    ("name", "flag", "other"),
    other_values("ann", ON_RESUME["ann"].may_change)
    + other_values("snn", ON_RESUME["snn"].may_change),
)
def test_what_may_change(ended, name, flag, other):
    """It is taken: that the run has ended is told after all else has been looked at."""
    line = refused(name, f"--resume --run_name x --output_dir {ended} {other}")
    assert "x_last.pth has trained 2 epochs already: raise --epochs" in line


# Of "`updates` may change", and of a contradiction: what stands in the checkpoint
# counts as the right side of one, but never as the left.
@pytest.mark.parametrize(
    ("flags", "words"),
    rows(
        [
            ("fewer updates", "--run_name u --updates 40", "has trained 1 epoch already"),
            ("as many", "--run_name u", "has trained 1 epoch already"),
            ("epochs typed", "--run_name u --epochs 3", "--epochs and --updates contradict each"),
            (
                "of epochs",
                "--run_name x --updates 40",
                "x_last.pth has its length in epochs: give",
            ),
            (
                "a start typed",
                "--run_name x --pretrained_ann a.pth --pretrained_snn b.pth",
                "--pretrained_ann and --pretrained_snn contradict each other",
            ),
        ]
    ),
)
def test_a_length_in_updates_and_one_in_epochs(ended, flags, words):
    assert words in refused("snn", f"--resume {flags} --output_dir {ended}")


@pytest.mark.parametrize("name", ["ann", "snn"])
def test_what_a_run_goes_on_with(ended, tmp_path, name):
    """Nine flags are as typed or by default, others the checkpoint's unless typed."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    stored = ON_RESUME[name].may_change.keys() | ON_RESUME[name].equal.keys()
    last = load_checkpoint(tmp_path / f"trained_models/{name}/x_last.pth")
    assert last["flags"].keys() == stored
    record = begun(
        name, "--resume --epochs 3 --checkpoint_minutes 0 --device cpu", folder=tmp_path
    )
    assert record.began == "resumed"
    found = origin_of(record, NEVER - {"resume", "run_name", "output_dir", "seeds"})
    assert found == {
        "preset": ("", "default"),
        "model": ("", "default"),
        "test_only": (False, "default"),
        "overwrite": (False, "default"),
        "results_json": ("", "default"),
    }
    origins = {flag: record.origins[flag] for flag in stored}
    expected = dict.fromkeys(stored, "checkpoint")
    expected |= dict.fromkeys(("epochs", "checkpoint_minutes", "device"), "typed")
    expected["holdout"] = "found"  # it is counted anew
    assert origins == expected
    assert record.parameters["epochs"] == 3 and record.parameters["learning_rate"] == 1e-3
    assert record.parameters["fc_width"] == 8 and record.parameters["limit_train"] == 8


# "The data set may have moved, but its files are compared."
def test_a_data_set_may_move_but_not_change(of_cats, tmp_path):
    make_folder(tmp_path / "cats", shape=(12, 12))
    here = f"--run_name x --output_dir {tmp_path}"
    new = f"{SMALL} --dataset {tmp_path / 'cats'} --epochs 1 --batch_size 4"
    run_here("ann", new, here)
    moved = tmp_path / "elsewhere/cats"
    shutil.move(tmp_path / "cats", moved)
    again = f"--resume --dataset {moved} {here}"
    assert "has trained 1 epoch already" in refused("ann", again)
    shutil.copytree(moved, tmp_path / "dogs")
    renamed = f"--resume --dataset {tmp_path / 'dogs'} {here}"
    assert "other settings (dataset)" in refused("ann", renamed)
    (moved / "train/cat/0.png").rename(moved / "train/cat/9.png")
    line = refused("ann", again)
    assert "cats are not those that" in line and "train/ had" in line
    shutil.move(moved, tmp_path / "gone")
    assert str(moved) in refused("ann", again)


# "A fresh start only if a flag says what to train." Where one does, the next thing that
# is looked at is the contradiction, as the order says.
@pytest.mark.parametrize(
    ("flags", "may_begin"),
    rows(
        [
            ("none", "", False),
            ("of the run", "--seed 1 --device cpu --no-log --engine dense", False),
            ("of this command", "--overwrite --checkpoint_minutes 1", False),
            ("a network", "-a VGG4_tiny", True),
            ("a setting of it", "--epsilon 0.1", True),
            ("a data set", "--dataset MNIST", True),
            ("how it is trained", "--learning_rate 0.1", True),
            ("an ANN", "--pretrained_ann {ann}", True),
            ("an SNN", "--pretrained_snn {snn}", True),
            ("a recipe", "--preset {mine}", True),
        ]
    ),
)
def test_a_fresh_start_needs_to_be_told_what_to_train(made, tmp_path, flags, may_begin):
    mine = recipe(tmp_path / "mine.toml", snn=f"{BOTH}timesteps = 2")
    here = f"--resume --run_name x --output_dir {tmp_path} --epochs 1 --updates 1"
    line = refused("snn", filled(flags, made, mine=mine), here)
    nothing = f"{tmp_path}/trained_models/snn/x_last.pth is not there, and no flag says what"
    assert (nothing in line) == (not may_begin)
    assert (EITHER in line) == may_begin
    assert not (tmp_path / "trained_models").exists()


def test_a_fresh_start_says_so(tmp_path):
    record = begun("snn", f"--resume {NEW} {MAKE}", folder=tmp_path)
    last = tmp_path / "trained_models/snn/x_last.pth"
    assert f"{last} is not there yet: the run begins" in record.said and last.is_file()
    assert record.began == "started"


# "`best` is kept only for the same run." No epoch is as good as this one says that it
# was.
@pytest.mark.parametrize(
    ("flags", "run", "epoch"),
    rows(
        [
            ("the same run", "--resume", "x", 2),
            ("by its path", "--resume {last}", "x", 2),
            ("another", "--resume {last}", "y", 3),
        ]
    ),
)
def test_the_best_epoch_of_a_run_that_goes_on(ended, tmp_path, flags, run, epoch):
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "trained_models/snn/x_last.pth"
    saved = torch.load(last, weights_only=True)
    saved["best"] = {"epoch": 2, "accuracy": 1.5}
    torch.save(saved, last)
    begun("snn", flags.format(last=last), "--epochs 3", folder=tmp_path, run=run)
    after = load_checkpoint(tmp_path / f"trained_models/snn/{run}_last.pth")
    assert after["epoch"] == 3 and after["best"]["epoch"] == epoch
    said = (tmp_path / f"logs/snn/{run}.log").read_text()
    assert f"best: epoch {epoch}, " in said


@pytest.mark.parametrize(
    ("flags", "goes_on_in"),
    rows(
        [
            ("its own folder", "", "x"),
            ("a folder that is typed", "--output_dir {here}", "here"),
            ("another run", "--run_name y", "here"),
            ("the same run", "--run_name x", "x"),
        ]
    ),
)
@pytest.mark.parametrize("name", ["snn", "ann"])
def test_where_a_run_goes_on(ended, tmp_path, monkeypatch, name, flags, goes_on_in):
    """--resume PATH goes on in the folder of its file, from wherever it is typed."""
    shutil.copytree(ended, tmp_path / "x")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    last = tmp_path / f"x/trained_models/{name}/x_last.pth"
    run_here(name, f"--resume {last} --epochs 3", flags.format(here=tmp_path / "here"))
    run = "y" if "y" in flags else "x"
    for folder in ("x", "here"):
        epochs = records(tmp_path / folder / f"logs/{name}/{run}.jsonl", "epoch")
        has_gone_on = 3 in [record["epoch"] for record in epochs]
        assert has_gone_on == (folder == goes_on_in)


def test_a_run_goes_on_in_its_folder_where_its_path_goes_up(ended, tmp_path, monkeypatch):
    shutil.copytree(ended, tmp_path / "x")
    monkeypatch.chdir(tmp_path / "x/trained_models/ann")
    run_here("snn", "--resume ../snn/x_last.pth --epochs 3")
    epochs = records(tmp_path / "x/logs/snn/x.jsonl", "epoch")
    assert [record["epoch"] for record in epochs] == [1, 2, 3]


# "The learning rate is computed anew": of three epochs in place of two, from the first
# step on.
def test_the_learning_rate_is_computed_anew(tmp_path, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def noted(self, *args, **more):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **more)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    cosine = f"{TRAIN} --lr_schedule cosine --warm_up 0 --epochs 1"
    begun("snn", cosine, folder=tmp_path)
    begun("snn", "--resume --epochs 2", folder=tmp_path)
    first = [(1 + math.cos(math.pi * part)) / 2 for part in (0, 1 / 2)]
    second = [(1 + math.cos(math.pi * part)) / 2 for part in (2 / 4, 3 / 4)]
    assert rates == pytest.approx([1e-3 * factor for factor in first + second])


# "`holdout` and `epochs` are stored as found, while the first record has `epochs` as
# typed."
def test_holdout_and_epochs_are_stored_as_found(ended):
    last = load_checkpoint(ended / "trained_models/snn/u_last.pth")
    assert last["flags"]["holdout"] == 1  # a tenth of 4 images, at least 1
    assert last["flags"]["epochs"] == 1 and last["flags"]["updates"] == 50
    record = records(ended / "logs/snn/u.jsonl", "run")[0]
    assert record["parameters"]["epochs"] == 100 and record["origins"]["epochs"] == "default"
    assert record["parameters"]["holdout"] == 1 and record["origins"]["holdout"] == "found"


# What follows from other values has followed when the run began: on resume nothing is
# derived anew.
@pytest.mark.parametrize(
    ("first", "second", "expected"),
    rows(
        [
            (
                "recordings",
                f"--dataset {{moving}} {SMALL}",
                "",
                {"blocking": ("dynamic", "checkpoint"), "timesteps": (FRAMES, "checkpoint")},
            ),
            (
                "recordings, that would not reopen",
                f"--dataset {{moving}} {SMALL} --blocking permanent",
                "",
                {"blocking": ("permanent", "checkpoint")},
            ),
            (
                "an epsilon that is given",
                f"{NEW} --epsilon 0.2 --gate open",
                "--epsilon 0.2",
                {"gate": ("open", "checkpoint")},
            ),
            (
                "an epsilon that made the gate block",
                f"{NEW} --epsilon 0.2",
                "--epsilon 0.2",
                {"gate": ("block", "checkpoint")},
            ),
            (
                "an epsilon that is not",
                f"{NEW} --epsilon 0.2 --gate open",
                "",
                {"gate": ("open", "checkpoint"), "epsilon": (0.2, "checkpoint")},
            ),
            (
                "of an ANN, only once",
                "--pretrained_ann {qcfs} --readout membrane_linear --timesteps 2",
                "",
                {"initial_potential": (0.5, "checkpoint"), "scaling_factor": (1.0, "checkpoint")},
            ),
        ]
    ),
)
def test_what_follows_on_resume(made, tmp_path, first, second, expected):
    trains = f"{SIZE} --limit_train 4 --holdout 0 --engine dense --epochs 1"
    begun("snn", filled(first, made), trains, folder=tmp_path)
    record = begun("snn", "--resume --epochs 2", second, folder=tmp_path)
    assert origin_of(record, expected) == expected


# --- Seeds and numbers


# '`manual_seed(seed_for(seed, "weights"))` directly before construction.'
@pytest.mark.parametrize(
    ("name", "flags", "cls"),
    rows(
        [
            ("an ANN", "ann", SMALL, VGG_wFeedback),
            ("an SNN", "snn", NEW, VGG_SNN_STDB_wFeedback),
            ("that blocks", "snn", f"{NEW} --epsilon 0.2", InputBlockingSNN),
            # a teacher is made, too
            ("with a teacher", "snn", f"{NEW} --teacher_ann {{ann}}", VGG_SNN_STDB_wFeedback),
        ]
    ),
)
def test_the_first_weights(made, tmp_path, name, flags, cls):
    make = f"{SIZE} --limit_train 8 --epochs 0 --holdout 0 --seed 3"
    begun(name, filled(flags, made), make, folder=tmp_path)
    saved = load_checkpoint(tmp_path / f"trained_models/{name}/x.pth")
    torch.manual_seed(seed_for(3, "weights"))
    expected = cls(**saved["settings"]).state_dict()
    assert saved["state_dict"].keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(saved["state_dict"][key], value)


@pytest.fixture
def drawn(monkeypatch):
    """Note what is drawn, in order: (purpose, seed, epoch, positions of the images)."""
    seen = []
    numbers = Draws.numbers

    def noted(self, purpose, *args, **more):
        seen.append((purpose, self.seed, self.epoch, tuple(self.index.tolist())))
        return numbers(self, purpose, *args, **more)

    monkeypatch.setattr(Draws, "numbers", noted)
    return seen


# "Balancing draws use epoch 0; epochs of training begin at 1; the index includes the
# set's start": what is held out is the end of the training images. That thresholds are
# those of these draws:
# test_conversion.py::test_a_conversion_balances_with_the_draws_before_training.
def test_what_draws_follow_from(made, tmp_path, drawn):
    flags = f"{SIZE} --limit_train 8 --holdout 3 --epochs 2 --seed 5 --engine dense --timesteps 2"
    balance = "--update immediate --balance_images 3 --balance_timesteps 2"
    begun("snn", f"--pretrained_ann {made['ann']}", flags, balance, folder=tmp_path)
    assert {seed for _, seed, _, _ in drawn} == {5}
    epochs = [epoch for _, _, epoch, _ in drawn]
    assert list(dict.fromkeys(epochs)) == [0, 1, EVALUATION, 2]
    positions = {epoch: [] for epoch in epochs}
    for purpose, _, epoch, index in drawn:
        if purpose == "input":
            positions[epoch].append(index)
    assert set(positions[0]) == {(0, 1, 2)}
    for epoch in (1, 2):
        assert sum(positions[epoch], ()) == tuple(shuffled(8, 5, epoch).tolist())
    assert set(positions[EVALUATION]) == {(59997, 59998, 59999), (0, 1, 2, 3)}
    assert positions[EVALUATION].count((59997, 59998, 59999)) == 2  # after each epoch


# losses of somebody's own: of which one looks at predictions, one is so large that sums
# with it are rounded and another takes it away, and one has a gradient that is not
# finite
OWN_LOSSES = """
from dataclasses import dataclass

import torch
from wfeedback.training.losses import LOSSES, Loss

@LOSSES.register("looks")
@dataclass
class Looks(Loss):
    needs_frames = True

    def value(self, output, images, labels):
        return output.predictions.mean()

@LOSSES.register("up")
@dataclass
class Up(Loss):
    def value(self, output, images, labels):
        return torch.tensor(3e8)

@LOSSES.register("down")
@dataclass
class Down(Loss):
    def value(self, output, images, labels):
        return torch.tensor(-3e8)

@LOSSES.register("steep")
@dataclass
class Steep(Loss):
    def value(self, output, images, labels):
        return (0 * output.logits).sum().sqrt()
"""


@pytest.fixture
def own_losses(tmp_path, forgotten):
    """Write OWN_LOSSES, and return the flag that brings them."""
    (tmp_path / "own_losses.py").write_text(OWN_LOSSES)
    return f"--model {tmp_path / 'own_losses.py'}"


# "`frames=` follows from the losses". Also, of what is kept: test_extending.py::
# test_no_step_is_kept_for_a_loss_that_does_not_look_at_it.
@pytest.mark.parametrize(
    ("flags", "frames"),
    rows(
        [
            ("no loss of one's own", "", False),
            ("one that does not look", "--up_weight 1", False),
            ("one that looks", "--looks_weight 1", True),
            ("one that weighs nothing", "--looks_weight 0", False),
            ("both", "--looks_weight 1 --up_weight 1", True),
        ]
    ),
)
def test_frames_are_kept_for_losses_that_look(tmp_path, monkeypatch, own_losses, flags, frames):
    seen = []
    forward = VGG_SNN_STDB_wFeedback.forward

    def noted(self, x, *args, **more):
        seen.append((self.training, more["frames"]))
        return forward(self, x, *args, **more)

    monkeypatch.setattr(VGG_SNN_STDB_wFeedback, "forward", noted)
    begun("snn", f"{TRAIN} --epochs 1 {own_losses} {flags}", folder=tmp_path)
    # two batches to learn from, one that is held out, one to test
    assert seen == [(True, frames)] * 2 + [(False, frames)] * 2


# "the order of the sum of losses stays": classification, reconstruction, penalty, one's
# own in the order of their registration. An epoch of one update has the figures of that
# update.
def test_the_order_of_the_sum_of_losses(tmp_path, own_losses):
    weighs = "--trade_off 0.7 --spike_penalty 0.3 --up_weight 1 --down_weight 1"
    one = f"{NEW} --batch_size 8 --limit_train 8 --limit_test 4 --holdout 0 --epochs 1"
    begun("snn", f"{one} {own_losses} {weighs}", folder=tmp_path)
    (epoch,) = records(tmp_path / "logs/snn/x.jsonl", "epoch")
    names = ("classification", "reconstruction", "penalty", "up_loss", "down_loss")
    weights = (1, 0.7, 1, 1, 1)
    terms = []
    for name, weight in zip(names, weights, strict=True):
        terms.append(weight * torch.tensor(epoch["train"][name], dtype=torch.float32))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    assert epoch["train"]["total"] == total.item()
    assert all(epoch["train"][name] > 1 for name in names[:3])
    other = sum(reversed(terms[:-1]), start=terms[-1])  # the order tells
    assert other.item() != total.item()


# "The gate picks the model's class, and so the checkpoint's `model`."
@pytest.mark.parametrize(
    ("flags", "model"),
    rows(
        [
            ("open", "", "VGG_SNN_STDB_wFeedback"),
            ("block", "--gate block", "InputBlockingSNN"),
            ("block, that follows", "--epsilon 0.2", "InputBlockingSNN"),
            ("contrast", "--gate contrast", "ContrastAttentionSNN"),
            ("reconstruct", "--gate reconstruct", "VGG_SNN_STDB_wFeedback"),
            ("of a checkpoint", "--pretrained_snn {contrasts}", "ContrastAttentionSNN"),
            (
                "not the checkpoint's",
                "--pretrained_snn {blocks} --gate open",
                "VGG_SNN_STDB_wFeedback",
            ),
        ]
    ),
)
def test_the_class_of_a_gate(made, tmp_path, flags, model):
    begun("snn", filled(flags, made), f"{NEW} {MAKE}", folder=tmp_path)
    assert load_checkpoint(tmp_path / "trained_models/snn/x.pth")["model"] == model


# "Three groups in the optimiser, fused": weights, which decay, others, and biases. More
# cases: test_training.py::test_biases_have_no_weight_decay_and_a_rate_of_their_own.
@pytest.mark.parametrize(
    ("name", "flags", "of_group"),
    rows(
        [
            ("an SNN", "snn", f"{NEW} --bias --learn_threshold --learn_leak", (10, 10, 5)),
            ("an SNN without biases", "snn", f"{NEW} --learn_leak", (10, 5)),
            ("an ANN", "ann", f"{SMALL} --norm batch", (10, 4, 4)),
        ]
    ),
)
def test_the_groups_of_the_optimiser(tmp_path, name, flags, of_group):
    trains = f"{SIZE} --limit_train 8 --holdout 0 --epochs 1 --lr_interval 1 -lr 2e-3"
    begun(name, flags, trains, "--bias_lr_factor 3 --weight_decay 0.01", folder=tmp_path)
    path = tmp_path / f"trained_models/{name}/x_last.pth"
    saved = load_checkpoint(path)["optimizer"]
    weights = []
    others = []
    biases = []
    for key, parameter in load(path).named_parameters():
        if not parameter.requires_grad:
            continue
        if key.endswith(".bias"):
            biases.append(parameter.shape)
        elif parameter.dim() > 1:
            weights.append(parameter.shape)
        else:
            others.append(parameter.shape)
    expected = [(weights, 0.01, 2e-3), (others, 0.0, 2e-3)]
    if biases:
        expected.append((biases, 0.0, 6e-3))
    found = []
    for group in saved["param_groups"]:
        assert group["fused"] is True
        shapes = [saved["state"][number]["exp_avg"].shape for number in group["params"]]
        found.append((shapes, group["weight_decay"], pytest.approx(group["initial_lr"])))
    assert found == expected
    assert tuple(len(group["params"]) for group in saved["param_groups"]) == of_group


@pytest.fixture
def steps(monkeypatch):
    """Note what happens to weights, in order: "step" of Adam, "clamp" of a model."""
    seen = []

    def note(cls, name, word):
        real = getattr(cls, name)

        def noted(self, *args, **more):
            seen.append(word)
            return real(self, *args, **more)

        monkeypatch.setattr(cls, name, noted)

    note(torch.optim.Adam, "step", "step")
    note(VGG_SNN_STDB_wFeedback, "clamp_dynamics", "clamp")
    note(VGG_wFeedback, "clamp_dynamics", "clamp")
    return seen


# "gradients are checked before the step": this loss is 0, and its gradient is not
# finite
def test_gradients_are_checked_before_the_step(tmp_path, own_losses, steps):
    flags = f"{TRAIN} --epochs 1 {own_losses} --steep_weight 1"
    line = refused("snn", flags, f"--run_name x --output_dir {tmp_path}")
    assert "a gradient is not finite at epoch 1, update 1; training stopped" in line
    assert steps == []
    log = (tmp_path / "logs/snn/x.log").read_text()
    assert "the run ended by an error: UserError: a gradient is not finite" in log


# "dynamics clamped after it"
@pytest.mark.parametrize(
    ("name", "flags"),
    [("snn", f"{TRAIN} --learn_leak --learn_threshold"), ("ann", "--activation_ann qcfs")],
)
def test_dynamics_are_clamped_after_each_step(tmp_path, steps, name, flags):
    if name == "ann":
        flags = f"{flags} {SMALL} {SIZE} --limit_train 8 --holdout 0"
    begun(name, flags, "-lr 5 --epochs 2", folder=tmp_path)
    assert steps == ["step", "clamp"] * 4
    model = load(tmp_path / f"trained_models/{name}/x_last.pth")
    if name == "snn":
        assert all(0 <= neuron.leak.item() <= 1 for neuron in model.neurons().values())
        assert all(neuron.threshold.item() > 0 for neuron in model.neurons().values())


ECHO = """
import torch
from self_models.running.outputs import Sums
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

class Echo(VGG_SNN_STDB_wFeedback):
    def forward(self, x, *args, **more):
        output = super().forward(x, *args, **more)
        return output._replace(sums=Sums(torch.ones(self.timesteps, len(output.logits)), None))
"""


# "`trade_off` is 0 without a decoder": only a class of somebody's own has errors then
@pytest.mark.parametrize(
    ("architecture", "weight"), [("VGG4_tiny", 0), ("VGG4_wFeedback_tiny", 7)]
)
def test_the_trade_off_without_a_decoder(tmp_path, forgotten, architecture, weight):
    (tmp_path / "echo.py").write_text(ECHO)
    flags = f"{TRAIN} -a {architecture} --model {tmp_path / 'echo.py'}:Echo --trade_off 7"
    record = begun("snn", flags, "--epochs 1", folder=tmp_path)
    assert record.parameters["trade_off"] == 7  # what was typed is told as it was
    (epoch,) = records(tmp_path / "logs/snn/x.jsonl", "epoch")
    for figures in (epoch["train"], epoch["evaluated"]):
        assert figures["reconstruction"] == 1
        expected = figures["classification"] + weight
        assert figures["total"] == pytest.approx(expected, rel=1e-6)


# "The judging evaluation uses the last timestep, no smoothing, no teacher."
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param("--classification_type mean_t", id="the last timestep"),
        pytest.param("--label_smoothing 0.5", id="no smoothing"),
        pytest.param("--teacher_ann {ann} --distillation 0.8", id="no teacher"),
    ],
)
def test_what_judges(trained, tmp_path, flags):
    """The cross-entropy of the last logits, on what is held out and in the test."""
    start = f"--pretrained_snn {trained.snn} {SIZE} --limit_train 8 --holdout 8 --engine dense"
    run = begun("snn", start, flags.format(ann=trained.ann), "--epochs 1", folder=tmp_path)
    (epoch,) = records(tmp_path / "logs/snn/x.jsonl", "epoch")
    model = load(tmp_path / "trained_models/snn/x.pth", engine="dense")
    _, held_out, test = load_data("MNIST", limit_test=4, holdout=8)
    for images, figures in ((held_out, epoch["evaluated"]), (test, run.result)):
        batch = images.whole()
        output = model(batch.images, draws=Draws(0, EVALUATION, batch.index))
        expected = F.cross_entropy(output.logits, batch.labels).item()
        assert figures["classification"] == pytest.approx(expected, rel=1e-5)
        every = [F.cross_entropy(logits, batch.labels) for logits in output.logits_by_step]
        smooth = F.cross_entropy(output.logits, batch.labels, label_smoothing=0.5)
        for other in (torch.stack(every).mean(), smooth):  # the figures tell
            assert other.item() != pytest.approx(expected, rel=1e-3)


# "Best means strictly better": of epochs that are as good, the first. Also with
# accuracies that rise and fall: test_training.py::test_which_epoch_is_kept.
@pytest.mark.parametrize("name", ["ann", "snn"])
def test_of_equal_epochs_the_first_is_best(tmp_path, name):
    small = f"{SMALL} {SIZE} --limit_train 4 --holdout 3 -lr 1e-30 --weight_decay 0 --epochs 3"
    begun(name, small, "--timesteps 1", folder=tmp_path)
    epochs = records(tmp_path / f"logs/{name}/x.jsonl", "epoch")
    accuracies = [epoch["evaluated"]["accuracy"] for epoch in epochs]
    assert len(epochs) == 3 and len(set(accuracies)) == 1
    assert load_checkpoint(tmp_path / f"trained_models/{name}/x.pth")["epoch"] == 1
    last = load_checkpoint(tmp_path / f"trained_models/{name}/x_last.pth")
    assert last["best"]["epoch"] == 1 and last["epoch"] == 3


def test_a_better_epoch_is_kept(ended, tmp_path):
    """Here any is: the best so far is said to have had less than nothing right."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "trained_models/ann/x_last.pth"
    saved = torch.load(last, weights_only=True)
    saved["best"] = {"epoch": 1, "accuracy": -0.5}
    torch.save(saved, last)
    begun("ann", "--resume --epochs 3", folder=tmp_path)
    assert load_checkpoint(last)["best"]["epoch"] == 3
    assert same_weights(last, tmp_path / "trained_models/ann/x.pth")


# "epoch 0 is judged": what a run of --epochs 0 makes. A run that trains judges it not.
@pytest.mark.parametrize(("epochs", "judged"), [(0, 0), (1, 1)])
def test_epoch_0_is_judged(made, tmp_path, epochs, judged):
    flags = f"--pretrained_snn {made['snn']} {SIZE} --limit_train 8 --holdout 3 --engine dense"
    record = begun("snn", flags, f"--epochs {epochs}", folder=tmp_path)
    assert f"best: epoch {judged}, held-out accuracy" in record.said
    saved = load_checkpoint(tmp_path / "trained_models/snn/x.pth")
    assert saved["epoch"] == judged and saved["selected_on"] == "held-out"
    _, held_out, _ = load_data("MNIST", holdout=3)
    model = load(tmp_path / "trained_models/snn/x.pth", engine="dense")
    batch = held_out.whole()
    logits = model(batch.images, draws=Draws(0, EVALUATION, batch.index)).logits
    right = (logits.argmax(1) == batch.labels).float().mean().item()
    assert saved["accuracy"] == pytest.approx(right)
    assert len(records(tmp_path / "logs/snn/x.jsonl", "epoch")) == epochs


# a read-out with a field of its own: those that are there share theirs
OWN_READOUT = """
from dataclasses import dataclass

from self_models.settings import NOT_NEGATIVE, setting
from self_models.feedback.readouts import READOUTS, SpikeCount

@READOUTS.register("gained")
@dataclass
class Gained(SpikeCount):
    readout_gain: float = setting(2.0, NOT_NEGATIVE, "factor", group="spiking")
"""
OF_BLOCK = {"epsilon", "together", "blocking", "latch", "residual"}
OF_GATES = OF_BLOCK | {"contrast", "attention"}
OF_ALL_READOUTS = {"readout_leak", "readout_slew"}
OF_RULES = {"open_bound", "gap_bound", "entropy_bound"}


@pytest.fixture
def own_readout(tmp_path, forgotten):
    """Write OWN_READOUT, and return the flag that brings it."""
    (tmp_path / "own_readout.py").write_text(OWN_READOUT)
    return f"--model {tmp_path / 'own_readout.py'}"


# "Checkpoints omit fields of gates and read-outs that are not chosen and keep those of
# all rules".
@pytest.mark.parametrize(
    ("flags", "kept"),
    rows(
        [
            ("gate open", "", set()),
            ("gate block", "--gate block", OF_BLOCK),
            ("gate contrast", "--gate contrast", OF_GATES),
            ("gate reconstruct", "--gate reconstruct", {"epsilon", "together"}),
            ("a read-out", "--readout gained", {"readout_gain"}),
            ("another read-out", "--readout membrane_linear", set()),
            ("a rule", "--rule confidence", set()),
        ]
    ),
)
def test_the_fields_of_a_checkpoint(tmp_path, own_readout, flags, kept):
    begun("snn", f"{NEW} {flags} {own_readout} {MAKE}", folder=tmp_path)
    settings = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["settings"]
    assert settings.keys() & (OF_GATES | {"readout_gain"}) == kept
    assert settings.keys() >= OF_ALL_READOUTS | OF_RULES


# "asking for an idle field stays an error in `load`"
@pytest.mark.parametrize(
    ("changed", "is_idle"),
    rows(
        [
            ("of a gate", {"epsilon": 0.1}, True),
            ("of a read-out", {"readout_gain": 3.0}, True),
            ("with its gate", {"gate": "block", "epsilon": 0.1}, False),
            ("with its read-out", {"readout": "gained", "readout_gain": 3.0}, False),
            ("of a rule", {"gap_bound": 1.0}, False),
        ]
    ),
)
def test_an_idle_field_is_an_error_in_load(tmp_path, own_readout, changed, is_idle):
    begun("snn", f"{NEW} {own_readout} {MAKE}", folder=tmp_path)
    path = tmp_path / "trained_models/snn/x.pth"
    if is_idle:
        with pytest.raises(ModelError, match="belongs to a gate or read-out that is not chosen"):
            load(path, **changed)
    else:
        model = load(path, **changed)
        assert {name: model.settings[name] for name in changed} == changed
