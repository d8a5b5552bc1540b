"""Bad input: one clear line on standard error, exit status 2, no traceback, nothing lost."""

import functools
import io
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    DATA,
    REPOSITORY,
    SPIKING,
    TINY,
    UNKNOWN,
    build,
    digests,
    images,
    module_of,
    refused,
    run_here,
    same_weights,
)

import results
from harness.command_line.scripts import run_script
from harness.exporting.formats import forward_layers
from harness.training.last_checkpoint import LastCheckpoint
from self_models import ModelError, evaluate, load
from self_models.basics.checkpoints import load_checkpoint
from self_models.counting.operations import OperationCounter
from self_models.guests.energy import ledger
from self_models.guests.quantize import quantize
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

DEEP_ANN = REPOSITORY / "trained_models/ann/deep_base.pth"
COMMANDS = [  # script, flags, words of its one line
    # a choice, a range, a type, a name
    ("ann", "-a VGG5_wFeedbak", "did you mean VGG5_wFeedback?"),
    ("ann", "--dataset MINST", "mean MNIST?"),
    ("snn", "--preset quik_feedback", "mean quick_feedback? --preset list names all"),
    ("obj1", "--epsilon 0.1 -0.1", "from 0"),
    ("snn", "--epsilon nan", "from 0"),
    ("ann", "--kernel_size 4", "odd"),
    ("snn", "--timesteps 2.5", "whole number"),
    ("ann", "--no-log False", "--no-log"),
    ("obj1", "--epsilom 3", "did you mean --epsilon?"),
    ("ann", "stray", "stray"),
    ("snn", "--gate patient", ", or add the --model FILE.py that registers it"),
    (
        "ann",
        "--epochs 1 --run_name a/b",
        "--run_name: a/b: give a plain file name; --output_dir says where",
    ),
    # what a checkpoint, or a file, cannot be
    (
        "ann",
        "--pretrained_ann {ann} --test_only --fc_width 8",
        "{ann} does not fit VGG_wFeedback: classifier.0.weight is",
    ),
    (
        "obj1",
        "",
        "--pretrained_snn is missing, and {here}/trained_models/snn/snn_vgg5_wfeedback_mnist_50_tradeoff1.0_",
    ),
    ("obj1", "--pretrained_snn {baseline} --epsilon 0 0.1", "blocking needs a decoder:"),
    ("obj3", "--pretrained_snn {baseline} --epsilon 0", "VGG5_small has no decoder: choose"),
    (
        "obj1",
        "--pretrained_snn {snn} --results_json {here}",
        "--results_json: {here}: give a file, in a folder that exists",
    ),
    (
        "obj1",
        "--pretrained_snn {snn} --timesteps 2 3",
        "tiny.jsonl names no held-out training images: choose on the last",
    ),
    (
        "ann",
        "--epochs 1 --output_dir {ann}/below",
        "--output_dir {ann}/below: cannot write there (Not a directory)",
    ),
    ("energy", "{snn} --against {snn}", "{snn} holds an SNN"),
    (
        "energy",
        "{snn} --picture {here}/p.xyz",
        "--picture: {here}/p.xyz: give a name that ends in .png, in a",
    ),
    (
        "energy",
        f"{REPOSITORY}/examples/nmnist.nir",
        "nmnist.nir is a NIR file, no checkpoint: run_nir.py runs it",
    ),
    (
        "energy",
        f"{{snn}} --against {DEEP_ANN}",
        "is not the ANN of {snn}: its features.0.weight differs",
    ),
    (
        "ann",
        "--epochs 2 --run_name y --resume {ann}",
        "{ann} has no optimiser state: --resume needs the checkpoint",
    ),
    (
        "ann",
        "--epochs 1 --fc_width 2000000000",
        "error: the memory is too small: try a smaller --batch_size",
    ),
    ("stream", "--pretrained_snn {snn} --frames {here}/none", "no such file or folder"),
    # what contradicts another flag, or has nothing to begin with
    ("snn", "--seed 3 --seeds 0 1", "--seed is of one run"),
    (
        "snn",
        "--pretrained_snn {snn} --pretrained_ann {ann}",
        "--pretrained_ann and --pretrained_snn contradict each other",
    ),
    ("stream", "--pretrained_snn {snn}", "give --frames PATH, or --scene with one of switch"),
    (
        "snn",
        "--preset fast_baseline --seed 7 --dataset {here}",
        "needs {here}/trained_models/snn/fast_base_7.pth, which is "
        "not there; this makes it: python snn_wFeedback.py --preset fast_base --dataset {here} --seed 7 --output_dir {here}",
    ),
    (
        "snn",
        "--test_only",
        "error: --test_only needs a trained network: give --pretrained_ann PATH or --pretrained_snn PATH",
    ),
]


@pytest.mark.parametrize(("script", "flags", "words"), COMMANDS)
def test_a_command_that_is_refused(trained, baseline, tmp_path, script, flags, words):
    """In one line, before anything is written."""
    paths, before = (
        {"ann": trained.ann, "snn": trained.snn, "baseline": baseline, "here": tmp_path},
        digests(trained.folder),
    )
    typed = flags.format(**paths)
    assert words.format(**paths) in refused(script, f"{DATA} --output_dir {tmp_path}", typed)
    assert digests(tmp_path) == {} and digests(trained.folder) == before


FEEDBACK, TRAINED_ANN = (
    REPOSITORY / "trained_models" / name
    for name in ("snn/snn_feedback.pth", "ann/ann_feedback.pth")
)
CHANGED = [
    ({"epsilom": 0.1}, r"no setting 'epsilom': did you mean epsilon\? choose from .*epsilon"),
    ({"epsilon": "much"}, "epsilon: 'much' is not a number from 0"),
    ({"timesteps": True}, "timesteps: True is not a whole number from 1"),
    ({"latch": 1}, "latch: 1 is neither True nor False"),
    ({"vgg_name": 5}, "architecture: unknown name 5: choose from VGG5"),
    ({"image_shape": [28, 28]}, "three whole numbers"),
    ({"default_threshold": 2.0}, "set_thresholds"),
]  # settings of load()
PLANS = [  # and shapes
    ({"image_shape": (1, 15, 28), "vgg_name": "VGG9_wFeedback"}, "15x28 is too small"),
    ({"plan": [[4, "D"], ["U"]]}, "end with 'in'"),
    ({"plan": [[4, "D"], ["in"]]}, "halves the image 1 times"),
    ({"plan": [["D", 4], []]}, "begin with a number"),
    ({"plan": [[4, "X"], []]}, "unknown encoder token"),
    ({"plan": [[4, "D"], ["drop", "up", "in"]]}, "unknown decoder token"),
    ({"plan": [[4, "D", "M"], []]}, "behind a number, not behind 'D'"),
    ({"plan": [[4, "fork", "D", "fork", 4], ["in"]]}, "have it once"),
    ({"plan": [[4, "fork", "D"], []]}, "only beside a decoder"),
    (
        {"plan": [[4, "D", "fork", 4, "D"], ["U", "U", "in"]]},
        "halves the image 1 times before its fork",
    ),
]
OF_AN_ANN = [
    ({"vgg_name": "VGG5", "timesteps": 2}, "no decoder"),
    (
        {"norm": "scale", "timesteps": 2},
        "^norm scale .* give 1 timestep",
    ),  # what is folded into weights is one set of statistics
    ({"plan": [[7], []], "whitening": True}, "first number, 7, must be even, and at most 18"),
    ({"plan": [[20], []], "whitening": True}, "first number, 20, must be even"),
]
OF_AN_SNN = [
    *(
        ({"update": "phased"} | settings, f"^update phased: {words}")
        for settings, words in (
            ({"leak": 0.9}, "leak must be 1"),
            ({"membrane_floor": 1.0}, "membrane"),
            ({"gate": "block", "epsilon": 0.1}, "gate block would react to predictions"),
            (
                {"gate": "block", "epsilon": 0.0, "residual": True},
                "gate block would react to predictions",
            ),
            ({"rule": "confidence"}, "rule confidence"),
            ({"activation": "STDB"}, "activation STDB"),
        )
    ),
]
MADE = [(VGG_wFeedback, *case) for case in PLANS + OF_AN_ANN] + [
    (VGG_SNN_STDB_wFeedback, *case) for case in OF_AN_SNN
]
SHOWN = [
    (images(2) * 255, r"in \[0, 1\]; these lie in \[0, 25\d"),
    (2 * images(2) - 1, r"these lie in \[-1, "),
    (images(2).masked_fill(images(2) == 0, torch.nan), "nan"),
    (torch.zeros(2, 1, 28, 28, dtype=torch.int64), "not int64"),
    *(
        (torch.zeros(shape), re.escape(f"not of shape {shape}"))
        for shape in ((28, 28), (2, 3, 28, 28), (2, 1, 32, 32))
    ),
    (np.zeros((2, 28, 28), np.uint8), r"not of shape \(2, 28, 28\)"),
    ([0.5], "not a list: read_images takes files"),
]  # images


@functools.cache
def taking(kind):
    """A model of this kind."""
    return load(TRAINED_ANN) if kind == "ann" else load(FEEDBACK, engine=kind)


GREY, LABELS = torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.tensor([3, 4])
NONE = torch.utils.data.TensorDataset(GREY[:0], LABELS[:0])
SETS = [
    ([torch.utils.data.DataLoader(NONE)], "at least one image"),
    (
        [GREY, torch.zeros(3, dtype=torch.int64)],
        r"a tensor \(2,\) of whole numbers, 0 to 9, not int64 of shape \(3,\)",
    ),
    ([GREY, torch.zeros(2)], "not float32"),
    ([GREY, torch.tensor([-1, 3])], "these are -1 to 3"),
    ([torch.utils.data.TensorDataset(GREY, LABELS + 6)], "these are 9 to 10"),
]  # of evaluate()
KNOW = {  # who knows the parts of architectures alone
    "weights int8": quantize,
    "an export": forward_layers,
    "a count of operations": OperationCounter,
    "an energy ledger": lambda model: ledger(model, GREY, LABELS),
}


def unknown(part):
    """A network with a part that no architecture has."""
    model = build()
    UNKNOWN[part](model)
    return model


CALLS = [  # what is called, words of the error
    *(
        (
            lambda call=call, part=part: call(unknown(part)),
            rf"^{who} does not know {re.escape(part)}",
        )
        for who, call in KNOW.items()
        for part in UNKNOWN
    ),
    *((functools.partial(load, FEEDBACK, **changed), words) for changed, words in CHANGED),
    *(
        (functools.partial(cls, **{"fc_width": 4} | settings), words)
        for cls, settings, words in MADE
    ),
    *((lambda data=data: evaluate(taking("ann"), *data), words) for data, words in SETS),
    *(
        (lambda kind=kind, x=x: taking(kind)(x), words)
        for kind in ("ann", "dense", "event")
        for x, words in SHOWN
    ),
]


@pytest.mark.parametrize(
    ("call", "words"), CALLS, ids=[re.sub(r"\W+", "_", words)[:50] for _, words in CALLS]
)
def test_a_call_that_is_refused(call, words):
    with pytest.raises(ModelError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "kind", "other"),
    [("ann", "ann", "snn"), ("snn", "ann", "snn"), ("analysis", "snn", "ann")],
)
def test_every_use_of_a_checkpoint_is_checked(trained, tmp_path, name, kind, other):
    """None is there; its code is not run, however it was written; it is one of the other kind."""
    path, proof, flags = (
        tmp_path / "foreign.pth",
        tmp_path / "proof",
        f"--output_dir {tmp_path / 'out'} --pretrained_{kind}",
    )
    assert f"{path}: no such checkpoint file" in refused(name, flags, path)
    for write in (pickle.dumps, saved):
        path.write_bytes(write({"state_dict": Malice(proof)}))
        assert str(path) in refused(name, flags, path)
        assert digests(tmp_path).keys() == {"foreign.pth"}
    pickle.loads(pickle.dumps(Malice(proof)))
    assert proof.exists()  # it would have been run by a careless loader
    line = refused(name, flags, getattr(trained, other))
    assert f"holds an {other.upper()}" in line and f"--pretrained_{kind}" in line


def test_a_teacher_of_another_data_set(trained, tmp_path):
    saved = load_checkpoint(trained.ann)
    torch.save(
        saved | {"settings": saved["settings"] | {"dataset": "FashionMNIST"}},
        tmp_path / "fashion.pth",
    )
    flags = f"--pretrained_ann {trained.ann} --teacher_ann {tmp_path}/fashion.pth {SPIKING} --output_dir {tmp_path / 'out'}"
    assert (
        "fashion.pth has the classes T-shirt" in refused("snn", flags)
        and not (tmp_path / "out").exists()
    )


def test_weights_spoilt_by_the_last_step_of_an_epoch_are_not_saved(tmp_path, monkeypatch):
    """The last good checkpoint stays."""
    real = LastCheckpoint.check_finite

    def spoil(self, loss=0.0):
        if self.progress.epoch == 1 and self.progress.step:  # at the end of the second epoch
            self.model.features[0].weight.data[0] = (
                torch.nan
            )  # an SNN hides it: its neurons do not fire, and the loss is finite
        return real(self, loss)

    monkeypatch.setattr(LastCheckpoint, "check_finite", spoil)
    line = refused(
        "snn",
        f"-a VGG5_wFeedback_small --fc_width 16 {SPIKING} --epochs 2 --run_name x --output_dir {tmp_path}",
    )
    assert "in epoch 2 of 2, after update 2" in line
    kept = load_checkpoint(tmp_path / "trained_models/snn/x_last.pth")
    assert kept["epoch"] == 1 and same_weights(
        tmp_path / "trained_models/snn/x.pth", tmp_path / "trained_models/snn/x_last.pth"
    )


def test_an_existing_run_is_not_overwritten_before_the_new_one_is_sure(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    flags, files = (
        f"{TINY} --run_name tiny --output_dir {tmp_path}",
        tmp_path / "trained_models/ann",
    )
    shutil.copy(files / "tiny_last.pth", tmp_path / "other_last.pth")
    before = digests(tmp_path)
    for more in ("", f"--resume {tmp_path / 'other_last.pth'}"):
        said = refused("ann", flags, more)
        assert (
            "tiny.pth exists: --resume goes on with that run, --overwrite replaces it, --run_name"
            in said
        )
    refused(
        "snn", flags, f"--overwrite --pretrained_ann {trained.ann} -a VGG5_wFeedback_linear"
    )  # which does not fit
    assert digests(tmp_path) == before
    run_here("ann", flags, "--overwrite --seed 1")
    after = digests(tmp_path)
    run = [
        "logs/ann/tiny.jsonl",
        "logs/ann/tiny.log",
        "trained_models/ann/tiny.pth",
        "trained_models/ann/tiny_last.pth",
    ]
    assert (
        after.keys() == before.keys()
        and sorted(path for path in after if after[path] != before[path]) == run
    )


def test_results_are_of_the_networks_whose_images_are_there(tmp_path, monkeypatch):
    """Without --dataset the rows of CIFAR-10 stay, and the last line says so. The tables, written anew, are as they were."""
    for path in ("results", "docs"):
        shutil.copytree(
            REPOSITORY / path, tmp_path / path, ignore=shutil.ignore_patterns("*.png", "*.gif")
        )
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    before = digests(tmp_path)
    said = []
    monkeypatch.setattr("results.HERE", tmp_path)
    monkeypatch.setattr("results.call", lambda name, flags, folder: said.append(flags))
    monkeypatch.setattr("results.save_accuracy_against_spikes", lambda *_: None)
    _, printed = run_here("results")
    assert {flags.split()[1] for flags in said} == {
        name for name, one in results.NETWORKS.items() if not one.images
    }
    assert digests(tmp_path) == before
    assert (
        " stay as they are: cifar10_baseline, deep_baseline, deep_phased; add --dataset FOLDER"
        in printed.splitlines()[-1]
    )
    said.clear()
    assert (
        f"--dataset {tmp_path}/gone is neither" in refused("results", f"--dataset {tmp_path}/gone")
        and not said
    )


WORDS = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
FULL_GPU = torch.OutOfMemoryError


@pytest.mark.parametrize(
    ("where", "fault", "words"),
    [
        ("torch.optim.Adam.step", MemoryError, "--bptt_segments auto"),
        ("self_models.counting.evaluation.Evaluation.add", FULL_GPU, "a smaller --batch_size"),
    ],
)
def test_full_memory_says_what_helps(tmp_path, monkeypatch, where, fault, words):
    def fail(*args, **more):
        raise fault(WORDS)

    monkeypatch.setattr(where, fail)
    line = refused("ann", TINY, f"--output_dir {tmp_path}")
    full, more = (
        ("the GPU's memory", "; or --device cpu") if fault is FULL_GPU else ("the memory", "")
    )
    assert (
        line.startswith(f"error: {full} is too small: try ")
        and words in line
        and line.endswith(f"{more} ({WORDS})")
    )


def test_who_does_not_say_what_to_train_is_told_what_can_be_done(tmp_path, monkeypatch, capsys):
    """By default it would be 43 million weights for 100 epochs."""
    line = refused("ann", f"--run_name x --resume --epochs 2 --seed 1 --output_dir {tmp_path}")
    assert (
        "ann/x_last.pth is not there, and no flag says what to train: " in line
        and digests(tmp_path) == {}
    )
    monkeypatch.setattr(sys, "argv", ["snn_wFeedback.py"])
    with pytest.raises(SystemExit) as stop:
        run_script(module_of("snn").main)
    assert stop.value.code == 2
    assert (
        "error: nothing to do: --preset quick_feedback trains in minutes"
        in capsys.readouterr().err
    )
