"""Flags that do nothing are refused: each row of the table, and what makes it count."""

from types import SimpleNamespace

import pytest
from conftest import REPOSITORY, make_folder, module_of, refused, run_here

from wfeedback.building.idle_flags import NEEDS_OF_COMPARE, NEEDS_OF_ENERGY, NEEDS_OF_NIR, needs

NEW = "-a VGG4_wFeedback_tiny --fc_width 8 --epochs 1"
SNN = f"{NEW} --timesteps 2"
PLAIN = "--fc_width 8 --epochs 1"
FROM_SNN = "--pretrained_snn {snn}"
FROM_ANN = "--pretrained_ann {ann} --timesteps 2"
ON_IMAGES = "{nir} --dataset MNIST --timesteps 2"
QUICK = "quick_feedback"
# flag -> script, what is typed beside the flag, the flag, and what it needs. None: it
# has no effect in this script, whatever is typed.
ROWS = {
    "shift": ("ann", NEW, "--shift 1", "--augment"),
    "cutout": ("snn", SNN, "--cutout 2", "--augment"),
    "mirror": ("ann", f"{NEW} --augment", "--mirror random", "--dataset {cats}"),
    "distillation": ("ann", NEW, "--distillation 0.3", "--teacher_ann {ann}"),
    "temperature": ("snn", SNN, "--temperature 3", "--teacher_ann {ann}"),
    "warm_up": ("ann", NEW, "--warm_up 0.1", "--lr_schedule cosine"),
    "lr_interval": (
        "ann",
        f"{NEW} --lr_schedule triangle",
        "--lr_interval 0.5",
        "--lr_schedule step",
    ),
    "lr_reduce": ("snn", f"{SNN} --lr_schedule cosine", "--lr_reduce 3", "--lr_schedule step"),
    "alpha": ("snn", SNN, "--alpha 0.2", "--activation STDB"),
    "beta": ("snn", f"{SNN} --activation Triangle", "--beta 0.2", "--activation STDB"),
    "holdout": ("ann", f"{NEW} --select test", "--holdout 4", "--select held-out"),
    "norm_scale": ("ann", NEW, "--norm_scale", "--norm batch"),
    "qcfs_levels": ("ann", NEW, "--qcfs_levels 3", "--activation_ann qcfs"),
    "fc_width": ("ann", "-a VGG4_tiny --fc_layers 0", "--fc_width 9", "--fc_layers 1"),
    "fc_dropout": ("snn", "-a VGG4_tiny --fc_layers 0", "--fc_dropout 0.1", "--fc_layers 1"),
    "trade_off": ("ann", f"{PLAIN} -a VGG4_tiny", "--trade_off 2", "-a VGG4_wFeedback_tiny"),
    "trade_off_type": (
        "snn",
        f"{PLAIN} -a VGG4_tiny",
        "--trade_off_type mean_t",
        "-a VGG4_wFeedback_tiny",
    ),
    "readout": ("snn", f"{PLAIN} -a VGG4_tiny", "--readout membrane", "-a VGG4_wFeedback_tiny"),
    "readout_leak": (
        "snn",
        f"{PLAIN} -a VGG4_tiny",
        "--readout_leak 0.5",
        "-a VGG4_wFeedback_tiny",
    ),
    "readout_slew": (
        "snn",
        f"{PLAIN} -a VGG4_tiny",
        "--readout_slew 0.5",
        "-a VGG4_wFeedback_tiny",
    ),
    "max_pool": ("snn", SNN, "--max_pool count", "-a VGG8_max --dataset {cats}"),
    "init": (
        "snn",
        FROM_ANN,
        "--init kaiming",
        "-a VGG5_wFeedback_small --pretrained_ann {plain}",
    ),
    "balance_timesteps": (
        "snn",
        f"{FROM_ANN} --update phased --encoding direct --readout membrane_linear",
        "--balance_timesteps 3",
        "--update delayed",
    ),
    "balance_percentile": (
        "snn",
        f"{FROM_ANN} --update phased --encoding direct --readout membrane_linear",
        "--balance_percentile 99",
        "--update delayed",
    ),
    "attention": (
        "snn",
        f"{SNN} --gate contrast --contrast original",
        "--attention 0.2",
        "--contrast local",
    ),
    "together": ("snn", f"{SNN} --gate block", "--together", "--dataset {cats}"),
    "image_size": ("ann", NEW, "--image_size 32", "--dataset {cats}"),
    "grey": ("ann", NEW, "--grey", "--dataset {cats}"),
    "skip_bad": ("ann", NEW, "--skip_bad", "--dataset {cats}"),
    "data_dir": (
        "ann",
        f"{NEW} --dataset {{cats}}",
        "--data_dir {data}",
        "--dataset MNIST",
    ),
    "count_bound": ("snn", SNN, "--count_bound 2", "--dataset {moving}"),
    "split_by": ("ann", NEW, "--split_by number", "--dataset {moving}"),
    "predict": ("snn", SNN, "--predict next", "--dataset {moving}"),
    "event_frames": ("ann", NEW, "--event_frames 4", "--dataset {moving}"),
    "device": ("ann", f"{NEW} --no-gpu", "--device auto", "--gpu"),
    "devices": ("ann", f"{NEW} --device cpu", "--devices 1", "--device auto"),
    "engine": ("energy", QUICK, "--engine event", None),
    "invert": ("analysis", FROM_SNN, "--invert", "--images {cats}/test/cat/0.png"),
    "scene_frames": (
        "stream",
        FROM_SNN,
        "--scene_frames 4 --frames {cats}/test/cat",
        "--frames= --scene part",
    ),
    "open_bounds": ("obj2", f"{FROM_SNN} --rules entropy", "--open_bounds 0.1", "--rules both"),
    "gap_bounds": ("obj2", FROM_SNN, "--gap_bounds 1", "--rules confidence"),
    "entropy_bounds": ("obj2", FROM_SNN, "--entropy_bounds 0.1", "--rules entropy"),
}
OF_NIR = {
    "seed": ("nir", ON_IMAGES, "--seed 1", "--encoding poisson"),
    "wrong": ("nir", "{nir} --check sinabs", "--wrong", None),
    "gif": ("nir", "{nir} --check sinabs", "--gif {recording}", None),
}
OF_ENERGY = {
    "preset": ("energy", QUICK, f"--preset {QUICK}", None),
    "pretrained_snn": ("energy", QUICK, FROM_SNN, None),
    "pretrained_ann": ("energy", QUICK, "--pretrained_ann {ann}", None),
    "results_json": ("energy", QUICK, "--results_json x.json", None),
}
OF_COMPARE = {
    "preset": ("compare", QUICK, f"--preset {QUICK}", None),
    "pretrained_snn": ("compare", QUICK, FROM_SNN, None),
    "pretrained_ann": ("compare", QUICK, "--pretrained_ann {ann}", None),
    "seed": ("compare", f"{QUICK} --evaluate", "--seed 1", None),
    "run_name": ("compare", f"{QUICK} --evaluate", "--run_name x", None),
    "results_json": ("compare", f"{QUICK} --evaluate", "--results_json x.json", None),
    "rule": (
        "compare",
        f"{QUICK} --evaluate",
        "--rule entropy --at_accuracy 90",
        "--at_accuracy 0",
    ),
    "gap_bound": (
        "compare",
        f"{QUICK} --evaluate",
        "--gap_bound 3 --at_accuracy 9",
        "--at_accuracy 0",
    ),
    "timesteps": ("compare", QUICK, "--timesteps 3", "--evaluate"),
    "device": ("compare", QUICK, "--device cpu", "--evaluate"),
}
# What a script does once its flags have been looked at.
NEXT = {
    "ann": "sets_of_training",
    "snn": "sets_of_training",
    "analysis": "choose_images",
    "obj2": "choose_images",
    "stream": "choose_images",
    "compare": "measure",
    "energy": "estimate",
    "nir": "read_nir",
}


def flags_of(rows):
    """Return the flags that rows of the table are about."""
    flags = set()
    for need in rows:
        flags.update(need.flags)
    return flags


def test_each_flag_of_the_table_is_tried_here():
    assert ROWS.keys() == flags_of(needs())
    assert OF_NIR.keys() == flags_of(NEEDS_OF_NIR)
    assert OF_ENERGY.keys() == flags_of(NEEDS_OF_ENERGY)
    assert OF_COMPARE.keys() - {"timesteps", "device"} == flags_of(NEEDS_OF_COMPARE)


class Reached(Exception):
    """A script has looked at its flags, and goes on."""


@pytest.fixture(scope="module")
def paths(trained, baseline, tmp_path_factory):
    """Return what the rows name: checkpoints, folders, files."""
    folder = tmp_path_factory.mktemp("idle")
    small = "-a VGG4_wFeedback_tiny --fc_width 8 --limit_train 4 --limit_test 2 --epochs 0"
    where = f"--holdout 0 --output_dir {folder} --run_name"
    run_here("ann", small, where, "tiny")
    run_here("ann", small.replace("VGG4_wFeedback_tiny", "VGG5_small"), where, "plain")
    return {
        "ann": folder / "trained_models/ann/tiny.pth",
        "plain": folder / "trained_models/ann/plain.pth",
        "snn": trained.snn,
        "cats": make_folder(folder / "cats", shape=(32, 32, 3)),
        "moving": REPOSITORY / "data/nmnist",
        "data": REPOSITORY / "data",
        "nir": REPOSITORY / "examples/nmnist.nir",
        "recording": REPOSITORY / "data/nmnist/3/00013.bin",
    }


def parameters():
    """Return the rows of all tables, as the parameters of a test."""
    tables = SimpleNamespace(all=ROWS, nir=OF_NIR, energy=OF_ENERGY, compare=OF_COMPARE)
    found = []
    for title, table in vars(tables).items():
        for flag, row in table.items():
            found.append(pytest.param(flag, row, id=f"{title}-{flag}"))
    return found


@pytest.mark.parametrize(("flag", "row"), parameters())
def test_a_flag_that_does_nothing_is_refused(paths, tmp_path, monkeypatch, flag, row):
    name, beside, typed, needed = row
    monkeypatch.chdir(tmp_path)
    words = f"{beside} {typed}".format(**paths)

    assert f"--{flag} has no effect here: " in refused(name, words)

    if needed is None:
        return

    def reach(*args, **more):
        raise Reached

    monkeypatch.setattr(module_of(name), NEXT[name], reach)
    with pytest.raises(Reached):
        run_here(name, words, needed.format(**paths))


def test_a_value_that_asks_for_nothing_is_no_fault(tmp_path, monkeypatch):
    """So is what a recipe says: each command takes what it needs of it."""
    monkeypatch.setattr(module_of("ann"), "sets_of_training", lambda *args: 1 / 0)
    (tmp_path / "own.toml").write_text('[ann]\ndataset = "MNIST"\nwarm_up = 0.1\ncutout = 3\n')
    for flags in (f"{NEW} --cutout 0 --warm_up 0", f"--preset {tmp_path}/own.toml {NEW}"):
        with pytest.raises(ZeroDivisionError):
            run_here("ann", flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--cutout 55", "--cutout 55 leaves nothing of any image"),
        ("--shift 28", "--shift 28 shifts images of 28 pixels out of sight"),
    ],
)
def test_an_augmentation_that_leaves_nothing_is_refused(flags, words):
    assert words in refused("ann", f"{NEW} --augment {flags}")


@pytest.mark.parametrize("name", ["ann", "snn"])
def test_a_seed_twice_is_refused(name):
    assert "--seeds names 1 twice" in refused(name, f"{NEW} --seeds 1 0 1")


def test_a_seed_twice_is_refused_where_networks_are_compared():
    assert "--seeds names 1 twice" in refused("compare", f"{QUICK} --seeds 1 1")
