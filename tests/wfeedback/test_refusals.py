"""Bad input is one clear line on standard error, with status 2, and nothing is lost."""

import functools
import io
import pickle
import re
import shutil
import sys
from contextlib import contextmanager
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
from torch.utils.data import DataLoader, TensorDataset

from self_models import ModelError, evaluate, load
from self_models.checkpoints.files import load_checkpoint
from self_models.evaluation.operations import OperationCounter
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from studies import results
from wfeedback.command_line.scripts import run_script
from wfeedback.energy.ledger import ledger
from wfeedback.event.quantize import quantize
from wfeedback.export.formats import forward_layers
from wfeedback.training.last_checkpoint import LastCheckpoint

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
        "--pretrained_snn is missing, and"
        " {here}/trained_models/snn/snn_vgg5_wfeedback_mnist_50_tradeoff1.0_",
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
        "{nmnist}",
        "nmnist.nir is a NIR file, no checkpoint: wfeedback nir runs it",
    ),
    (
        "energy",
        "{snn} --against {deep_ann}",
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
        "needs {here}/trained_models/snn/fast_base_7.pth, which is not there; this makes it:"
        " python snn_wFeedback.py --preset fast_base --dataset {here} --seed 7"
        " --output_dir {here}",
    ),
    (
        "snn",
        "--test_only",
        "error: --test_only needs a trained network:"
        " give --pretrained_ann PATH or --pretrained_snn PATH",
    ),
]


@pytest.mark.parametrize(("script", "flags", "words"), COMMANDS)
def test_a_command_is_refused_in_one_line_before_anything_is_written(
    trained, baseline, tmp_path, script, flags, words
):
    paths = {  # not in the list above: names of tests should be the same in each clone
        "ann": trained.ann,
        "snn": trained.snn,
        "baseline": baseline,
        "here": tmp_path,
        "nmnist": REPOSITORY / "examples/nmnist.nir",
        "deep_ann": REPOSITORY / "trained_models/ann/deep_base.pth",
    }
    before = digests(trained.folder)

    line = refused(script, f"{DATA} --output_dir {tmp_path}", flags.format(**paths))

    assert words.format(**paths) in line
    assert digests(tmp_path) == {}
    assert digests(trained.folder) == before


FEEDBACK = REPOSITORY / "trained_models/snn/snn_feedback.pth"
TRAINED_ANN = REPOSITORY / "trained_models/ann/ann_feedback.pth"


@contextmanager
def refused_call(words):
    """Check that a call raises a ModelError of one line with these words."""
    with pytest.raises(ModelError, match=words) as error:
        yield
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"epsilom": 0.1},
            r"no setting 'epsilom': did you mean epsilon\? choose from .*epsilon",
        ),
        ({"epsilon": "much"}, "epsilon: 'much' is not a number from 0"),
        ({"timesteps": True}, "timesteps: True is not a whole number from 1"),
        ({"latch": 1}, "latch: 1 is neither True nor False"),
        ({"vgg_name": 5}, "architecture: unknown name 5: choose from VGG5"),
        ({"image_shape": [28, 28]}, "three whole numbers"),
        ({"default_threshold": 2.0}, "set_thresholds"),
    ],
    ids=str,
)
def test_load_refuses_settings_that_a_network_cannot_have(settings, words):
    with refused_call(words):
        load(FEEDBACK, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        # plans, and shapes of images
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
        # what an ANN cannot have
        ({"vgg_name": "VGG5", "timesteps": 2}, "no decoder"),
        # What is folded into weights is one set of statistics.
        ({"norm": "scale", "timesteps": 2}, "^norm scale .* give 1 timestep"),
        (
            {"plan": [[7], []], "whitening": True},
            "first number, 7, must be even, and at most 18",
        ),
        ({"plan": [[20], []], "whitening": True}, "first number, 20, must be even"),
    ],
    ids=str,
)
def test_an_ann_that_cannot_be_is_refused(settings, words):
    with refused_call(words):
        VGG_wFeedback(**{"fc_width": 4, **settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"leak": 0.9}, "leak must be 1"),
        ({"membrane_floor": 1.0}, "membrane"),
        ({"gate": "block", "epsilon": 0.1}, "gate block would react to predictions"),
        (
            {"gate": "block", "epsilon": 0.0, "residual": True},
            "gate block would react to predictions",
        ),
        ({"rule": "confidence"}, "rule confidence"),
        ({"activation": "STDB"}, "activation STDB"),
    ],
    ids=str,
)
def test_a_phased_snn_that_cannot_be_is_refused(settings, words):
    with refused_call(f"^update phased: {words}"):
        VGG_SNN_STDB_wFeedback(fc_width=4, update="phased", **settings)


@pytest.mark.parametrize("seed", [1.5, "1", True])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    model = build()
    with refused_call(f"^seed: {seed!r} is not a whole number$"):
        model(images(2), seed=seed)
    with refused_call(f"^seed: {seed!r} is not a whole number$"):
        model.stream(seed=seed)
    seen = model(images(2), seed=-1).logits
    assert torch.equal(model(images(2), seed=np.int64(-1)).logits, seen)


def test_thresholds_of_channels_are_taken_and_such_as_do_not_fit_are_refused():
    """The event engine leaves such a network to step()."""
    model = build()
    neuron = model.neurons()["features.1"]
    neuron.threshold.data = neuron.threshold.expand(4)
    words = r"^a threshold of shape \(4,\) does not fit neurons of shape \(4, 28, 28\): one for "
    with torch.no_grad(), refused_call(words):
        model(images(2), seed=0)
    neuron.threshold.data = neuron.threshold.reshape(4, 1, 1)
    with torch.no_grad():
        expected = build()(images(2), seed=0).logits
        assert torch.equal(model(images(2), seed=0).logits, expected)


WITH_NAN = images(2).masked_fill(images(2) == 0, torch.nan)
SHOWN = [  # images, words
    (images(2) * 255, r"in \[0, 1\]; these lie in \[0, 25\d"),
    (2 * images(2) - 1, r"these lie in \[-1, "),
    (WITH_NAN, "nan"),
    (torch.zeros(2, 1, 28, 28, dtype=torch.int64), "not int64"),
    (torch.zeros(28, 28), r"not of shape \(28, 28\)"),
    (torch.zeros(2, 3, 28, 28), r"not of shape \(2, 3, 28, 28\)"),
    (torch.zeros(2, 1, 32, 32), r"not of shape \(2, 1, 32, 32\)"),
    (np.zeros((2, 28, 28), np.uint8), r"not of shape \(2, 28, 28\)"),
    ([0.5], "not a list: read_images takes files"),
]


@functools.cache
def load_kind(kind):
    """Load the ANN, or the SNN with an engine."""
    if kind == "ann":
        return load(TRAINED_ANN)
    return load(FEEDBACK, engine=kind)


@pytest.mark.parametrize(
    ("shown", "words"), SHOWN, ids=[re.sub(r"\W+", "_", words) for _, words in SHOWN]
)
@pytest.mark.parametrize("kind", ["ann", "dense", "event"])
def test_a_network_refuses_what_is_no_batch_of_its_images(kind, shown, words):
    model = load_kind(kind)

    with refused_call(words):
        model(shown)


GREY = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
LABELS = torch.tensor([3, 4])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([DataLoader(TensorDataset(GREY[:0], LABELS[:0]))], "at least one image"),
        (
            [GREY, torch.zeros(3, dtype=torch.int64)],
            "data has 2 images, and labels has 3 entries: give each image one label",
        ),
        # The first batch of 64 would be whole.
        (
            [GREY[:1].expand(100, -1, -1, -1), torch.zeros(70, dtype=torch.int64)],
            "data has 100 images, and labels has 70 entries",
        ),
        ([GREY, [3, 4]], "labels must be a tensor or an array, not a list"),
        ([GREY], "labels are missing"),
        ([GREY, torch.zeros(2)], "not float32"),
        ([GREY, torch.tensor([-1, 3])], "these are -1 to 3"),
        ([TensorDataset(GREY, LABELS + 6)], "these are 9 to 10"),
    ],
    ids=[
        "no image",
        "another number of labels",
        "another number in the last batch",
        "a list",
        "no labels",
        "fractions",
        "negative",
        "beyond the classes",
    ],
)
def test_evaluate_refuses_what_is_no_set_of_images_with_labels(data, words):
    model = load_kind("ann")

    with refused_call(words):
        evaluate(model, *data)


def count_energy(model):
    """Count the energy of a network for two images."""
    return ledger(model, GREY, LABELS)


@pytest.mark.parametrize("part", UNKNOWN)
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("weights int8", quantize),
        ("an export", forward_layers),
        ("a count of operations", OperationCounter),
        ("an energy ledger", count_energy),
    ],
)
def test_who_knows_the_parts_of_architectures_alone_refuses_another(name, use, part):
    model = build()
    add_part = UNKNOWN[part]
    add_part(model)

    with refused_call(rf"^{name} does not know {re.escape(part)}"):
        use(model)


def torch_bytes(content):
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Malice:
    """Code that runs when it is unpickled: it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


USES = [("ann", "ann", "snn"), ("snn", "ann", "snn"), ("analysis", "snn", "ann")]


@pytest.mark.parametrize(("script", "kind", "other_kind"), USES)
def test_a_checkpoint_that_is_not_there_or_of_the_other_kind_is_refused(
    trained, tmp_path, script, kind, other_kind
):
    flags = f"--output_dir {tmp_path / 'out'} --pretrained_{kind}"
    path = tmp_path / "foreign.pth"

    line = refused(script, flags, path)
    assert f"{path}: no such checkpoint file" in line

    other = trained.snn if other_kind == "snn" else trained.ann
    line = refused(script, flags, other)
    assert f"holds an {other_kind.upper()}" in line
    assert f"--pretrained_{kind}" in line


@pytest.mark.parametrize("write", [pickle.dumps, torch_bytes], ids=["pickle", "torch"])
@pytest.mark.parametrize(("script", "kind", "other_kind"), USES)
def test_the_code_of_a_checkpoint_is_not_run(tmp_path, script, kind, other_kind, write):
    path = tmp_path / "foreign.pth"
    proof = tmp_path / "proof"
    path.write_bytes(write({"state_dict": Malice(proof)}))

    line = refused(script, f"--output_dir {tmp_path / 'out'} --pretrained_{kind}", path)

    assert str(path) in line
    assert digests(tmp_path).keys() == {"foreign.pth"}
    pickle.loads(pickle.dumps(Malice(proof)))
    assert proof.exists()  # it would have been run by a careless loader


def test_a_teacher_of_another_data_set_is_refused(trained, tmp_path):
    saved = load_checkpoint(trained.ann)
    settings = saved["settings"] | {"dataset": "FashionMNIST"}
    teacher = tmp_path / "fashion.pth"
    torch.save(saved | {"settings": settings}, teacher)
    flags = f"--pretrained_ann {trained.ann} --teacher_ann {teacher} {SPIKING}"

    line = refused("snn", f"{flags} --output_dir {tmp_path / 'out'}")

    assert "fashion.pth has the classes T-shirt" in line
    assert not (tmp_path / "out").exists()


def test_weights_spoilt_by_the_last_step_of_an_epoch_are_not_saved(tmp_path, monkeypatch):
    check_finite = LastCheckpoint.check_finite

    def spoil_epoch_2(self, loss=0.0):
        is_last_step = self.progress.step > 0
        if self.progress.epoch == 1 and is_last_step:
            # An SNN hides it: its neurons do not fire, and the loss is finite.
            self.model.features[0].weight.data[0] = torch.nan
        return check_finite(self, loss)

    monkeypatch.setattr(LastCheckpoint, "check_finite", spoil_epoch_2)
    network = f"-a VGG5_wFeedback_small --fc_width 16 {SPIKING}"

    line = refused("snn", f"{network} --epochs 2 --run_name x --output_dir {tmp_path}")

    assert "in epoch 2 of 2, after update 2" in line
    # The last good checkpoint stays.
    last = tmp_path / "trained_models/snn/x_last.pth"
    assert load_checkpoint(last)["epoch"] == 1
    assert same_weights(tmp_path / "trained_models/snn/x.pth", last)


@pytest.fixture
def copied_runs(trained, tmp_path):
    """Copy the runs that were trained; return the folder."""
    folder = tmp_path / "runs"
    shutil.copytree(trained.folder, folder)
    return folder


def test_an_existing_run_is_not_overwritten_before_the_new_one_is_sure(trained, copied_runs):
    flags = f"{TINY} --run_name tiny --output_dir {copied_runs}"
    other = copied_runs / "other_last.pth"
    shutil.copy(copied_runs / "trained_models/ann/tiny_last.pth", other)
    before = digests(copied_runs)
    ways = "--resume goes on with that run, --overwrite replaces it, --run_name"

    assert f"tiny.pth exists: {ways}" in refused("ann", flags)
    assert f"tiny.pth exists: {ways}" in refused("ann", flags, f"--resume {other}")
    does_not_fit = f"--pretrained_ann {trained.ann} -a VGG5_wFeedback_linear"
    refused("snn", flags, f"--overwrite {does_not_fit}")

    assert digests(copied_runs) == before


def test_overwrite_replaces_the_files_of_one_run(copied_runs):
    before = digests(copied_runs)

    run_here("ann", f"{TINY} --run_name tiny --output_dir {copied_runs} --overwrite --seed 1")

    after = digests(copied_runs)
    assert after.keys() == before.keys()
    assert sorted(path for path in after if after[path] != before[path]) == [
        "logs/ann/tiny.jsonl",
        "logs/ann/tiny.log",
        "trained_models/ann/tiny.pth",
        "trained_models/ann/tiny_last.pth",
    ]


@pytest.fixture
def asked_for(tmp_path, monkeypatch):
    """Let studies.results write into a copy, run nothing; return the flags of runs."""
    for folder in ("results", "docs"):
        no_pictures = shutil.ignore_patterns("*.png", "*.gif")
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=no_pictures)
    shutil.copytree(REPOSITORY / "studies/notebook", tmp_path / "studies/notebook")
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    asked = []

    def note(name, flags, folder):
        asked.append(flags)

    monkeypatch.setattr("studies.results.HERE", tmp_path)
    monkeypatch.setattr("studies.results.call", note)
    monkeypatch.setattr("studies.results.save_accuracy_against_spikes", lambda *_: None)
    return asked


def test_without_a_folder_of_images_the_rows_of_its_networks_stay(tmp_path, asked_for):
    before = digests(tmp_path)

    _, printed = run_here("studies.results")

    bundled = {name for name, network in results.NETWORKS.items() if not network.images}
    assert {flags.split()[1] for flags in asked_for} == bundled
    # The tables, written anew, are as they were, and the last line says so.
    assert digests(tmp_path) == before
    networks = "cifar10_baseline, deep_baseline, deep_phased"
    last_line = printed.splitlines()[-1]
    assert f" stay as they are: {networks}; add --dataset FOLDER" in last_line


def test_results_of_a_folder_that_is_not_there_are_refused_before_anything_runs(
    tmp_path, asked_for
):
    line = refused("studies.results", f"--dataset {tmp_path}/gone")

    assert f"--dataset {tmp_path}/gone is neither" in line
    assert asked_for == []


OUT_OF_MEMORY = (
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
)


@pytest.mark.parametrize(
    ("where", "fault", "memory", "help_before", "help_after"),
    [
        ("torch.optim.Adam.step", MemoryError, "the memory", "--bptt_segments auto", ""),
        (
            "self_models.evaluation.evaluate.Evaluation.add",
            torch.OutOfMemoryError,
            "the GPU's memory",
            "a smaller --batch_size",
            "; or --device cpu",
        ),
    ],
    ids=["training, CPU", "evaluation, GPU"],
)
def test_full_memory_says_what_helps(
    tmp_path, monkeypatch, where, fault, memory, help_before, help_after
):
    def fail(*args, **more):
        raise fault(OUT_OF_MEMORY)

    monkeypatch.setattr(where, fail)

    line = refused("ann", TINY, f"--output_dir {tmp_path}")

    assert line.startswith(f"error: {memory} is too small: try ")
    assert help_before in line
    assert line.endswith(f"{help_after} ({OUT_OF_MEMORY})")


def test_a_run_that_is_not_there_is_not_resumed_without_a_word_what_to_train(tmp_path):
    line = refused("ann", f"--run_name x --resume --epochs 2 --seed 1 --output_dir {tmp_path}")

    assert "ann/x_last.pth is not there, and no flag says what to train: " in line
    assert digests(tmp_path) == {}


def test_a_script_without_flags_says_what_can_be_done(monkeypatch, capsys):
    # By default it would train 43 million weights for 100 epochs.
    monkeypatch.setattr(sys, "argv", ["snn_wFeedback.py"])

    with pytest.raises(SystemExit) as stop:
        run_script(module_of("snn").main)

    assert stop.value.code == 2
    words = "error: nothing to do: --preset quick_feedback trains in minutes"
    assert words in capsys.readouterr().err
