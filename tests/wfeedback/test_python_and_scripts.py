"""Python beside the scripts: the same figures, and files that cannot be loaded."""

import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, check_same_figures, records, run_here

from self_models import evaluate, load, load_data
from self_models.checkpoints.files import CheckpointError, load_checkpoint

FEEDBACK = REPOSITORY / "trained_models/snn/snn_feedback.pth"


@pytest.fixture(scope="module")
def digits():
    """Load test images of MNIST."""
    return load_data("MNIST", limit_test=20)[2]


WEIGHT = "features.0.weight"


THRESHOLD = "features.1.threshold"


def change_settings(saved, **changed):
    """Change settings of a checkpoint."""
    return saved | {"settings": saved["settings"] | changed}


def scale_tensor(saved, name, factor):
    """Multiply a tensor of a checkpoint, in double precision."""
    scaled = saved["state_dict"][name].double() * factor
    return saved | {"state_dict": saved["state_dict"] | {name: scaled}}


def weights_of(saved):
    """Take the weights alone, named as torch.nn.DataParallel does."""
    weights = {}
    for name, values in saved["state_dict"].items():
        if "weight" in name:
            weights[f"module.{name}"] = values
    return weights


@pytest.mark.filterwarnings("ignore")  # torch's, of what it will no longer make
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(lambda saved: [1], "cannot be read as a checkpoint", id="a list"),
        pytest.param(
            lambda saved: {"state_dict": weights_of(saved)},
            "without the settings .* snn_wFeedback.py as --pretrained_snn",
            id="weights alone",
        ),
        pytest.param(
            lambda saved: saved | {"state_dict": weights_of(saved)},
            r"features.1.threshold is missing; .* and \d+ more; give the",
            id="no thresholds",
        ),
        pytest.param(
            lambda saved: change_settings(saved, timesteps=2.5),
            r": its settings build no .*timesteps: 2\.5 is not",
            id="impossible setting",
        ),
        pytest.param(
            lambda saved: change_settings(saved, gate="mine"),
            " has a gate of somebody's own, mine, .* add the --model FILE.py that registers",
            id="unknown gate",
        ),
        pytest.param(
            lambda saved: scale_tensor(saved, WEIGHT, 1e300),
            f"is damaged: {WEIGHT} is not finite",
            id="infinite in single precision",
        ),
        pytest.param(
            lambda saved: scale_tensor(saved, THRESHOLD, 1e-300),
            f"is damaged: {THRESHOLD} is .*not above 0; use another copy",
            id="0 in single precision",
        ),
    ],
)
def test_files_that_cannot_be_loaded(tmp_path, trained, damage, words):
    torch.save(damage(load_checkpoint(trained.snn)), tmp_path / "x.pth")
    device = torch.get_default_device()

    with pytest.raises(CheckpointError, match=rf"x\.pth.*{words}"):
        load(tmp_path / "x.pth")

    assert torch.get_default_device() == device


def test_a_setting_that_is_no_more_is_named_and_ignored(tmp_path, trained):
    path = tmp_path / "x.pth"
    torch.save(change_settings(load_checkpoint(trained.snn), warp=9), path)

    warning = r"x\.pth: settings that are no more, and are ignored: warp"
    with pytest.warns(RuntimeWarning, match=warning):
        model = load(path)
    assert "warp" not in model.settings

    flags = f"--pretrained_snn {path} --test_only --limit_test 8 --output_dir {tmp_path}"
    _, printed = run_here("snn", flags)
    assert f"note: {path} has settings that are no more, and are ignored: warp\n" in printed


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_arrays_have_the_same_figures_as_in_the_script(tmp_path, digits, engine):
    flags = f"--pretrained_snn {FEEDBACK} --test_only --limit_test 20 --epsilon 0.2 --seed 3"
    here = f"--batch_size 7 --engine {engine} --run_name x --output_dir {tmp_path}"
    run_here("snn", flags, here)
    (record,) = records(tmp_path / "logs/snn/x.jsonl", "evaluation")

    model = load(FEEDBACK, engine=engine)
    found = evaluate(model, digits.images, digits.labels, batch_size=6, seed=3)

    check_same_figures(found, record)


def test_importing_is_cheap():
    code = """
import sys
import self_models

assert not {"wfeedback", "matplotlib", "torchvision"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
