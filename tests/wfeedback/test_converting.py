"""How scripts and commands convert ANNs, and take networks of others."""

import re

import pytest
import torch
from conftest import (
    DATA,
    REPOSITORY,
    SPIKING,
    TINY,
    Residual,
    digests,
    records,
    refused,
    run_here,
    run_undrawn,
    snn_for,
)
from torch import nn

from self_models import conversion, evaluate, from_ann, load, load_data
from self_models.checkpoints.files import load_checkpoint
from self_models.running.draws import Draws
from self_models.traced.traced_snn import TracedSNN
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.runs.saving import save_checkpoint


def thresholds_for_seed(model, checkpoint, seed):
    """Balance a model with an ANN's weights as the script does with this seed."""
    model.load_state_dict(load_checkpoint(checkpoint)["state_dict"], strict=False)
    batch = load_data("MNIST", limit_train=32)[0].batch(torch.arange(8))
    draws = Draws(seed, 0, batch.index)  # epoch 0, before training
    return conversion.balance_thresholds(
        model, batch.images, lambda t: draws.at_step(t, (1, 28, 28), "cpu"), timesteps=12
    )


def test_a_conversion_balances_with_the_draws_before_training(trained):
    model = VGG_SNN_STDB_wFeedback(
        "VGG5_wFeedback_small", fc_width=16, update="immediate", readout="membrane_rescaled"
    )
    expected = thresholds_for_seed(model, trained.ann, seed=0)

    saved = load_checkpoint(trained.snn)["state_dict"]
    found = [value.item() for name, value in saved.items() if name.endswith(".threshold")]

    assert found == pytest.approx([0.3 * value for value in expected])  # scaled once
    assert len(set(expected)) > 3
    log = (trained.folder / "logs/snn/tiny.log").read_text()
    assert "balancing thresholds: 8 images, 12 timesteps\n" in log
    assert f"  features.1: threshold {expected[0]:.4f}\n" in log


def test_a_conversion_leaves_the_anns_file_as_it_is(trained):
    assert digests(trained.ann.parent) == trained.ann_files


def test_balancing_draws_by_the_seed(trained, tmp_path):
    flags = f"{SPIKING} --epochs 0 --seed 3 --run_name x --output_dir {tmp_path}"
    run_here("snn", f"--pretrained_ann {trained.ann} {flags}")

    model = load(tmp_path / "trained_models/snn/x.pth")
    found = model.thresholds

    of_seed_3 = thresholds_for_seed(model, trained.ann, seed=3)
    of_seed_0 = thresholds_for_seed(model, trained.ann, seed=0)
    assert found == pytest.approx([0.3 * value for value in of_seed_3])
    assert found != pytest.approx([0.3 * value for value in of_seed_0])


def test_a_phased_network_is_converted_with_the_default_dropout(trained, tmp_path):
    flags = f"--update phased --timesteps 2 --readout membrane_linear --epochs 0 {DATA}"
    here = f"--run_name x --output_dir {tmp_path}"

    _, said = run_here("snn", f"--pretrained_ann {trained.ann} {flags} {here}")

    assert "thresholds fit the activations of 32 training images in 2 levels (phased)" in said
    settings = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["settings"]
    assert settings["dropout"] == 0.3
    assert settings["fc_dropout"] == 0.5


def evaluation_of(folder, kind, run):
    """Read the record of a run's only evaluation."""
    (record,) = records(folder / f"logs/{kind}/{run}.jsonl", "evaluation")
    return record


def test_a_baseline_may_start_from_a_network_with_a_decoder(trained, tmp_path):
    flags = f"--test_only {SPIKING} --output_dir {tmp_path} --pretrained_ann {trained.ann}"
    run_here("snn", f"{flags} --run_name whole")
    flags = flags.replace("--readout membrane_rescaled", "")  # which is of a decoder
    _, said = run_here("snn", f"{flags} -a VGG5_small --run_name baseline")

    assert f"{trained.ann} has a decoder, which VGG5_small has not: it is left out" in said
    whole = evaluation_of(tmp_path, "snn", "whole")
    baseline = evaluation_of(tmp_path, "snn", "baseline")
    # Without blocking the decoder changes nothing of what the rest does.
    without_decoder = {}
    for name, count in whole["spikes_per_layer"].items():
        if not name.startswith("generate"):
            without_decoder[name] = count
    assert baseline["spikes_per_layer"] == without_decoder
    assert baseline["spikes_per_layer"] != whole["spikes_per_layer"]
    assert baseline["accuracy"] == whole["accuracy"]


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """Train an ANN with batch norms and QCFS, and return its path. Read only."""
    folder = tmp_path_factory.mktemp("normed")
    trains = f"{TINY} --norm batch --activation_ann qcfs"
    run_here("ann", f"{trains} --run_name x --output_dir {folder}")
    return folder / "trained_models/ann/x.pth"


def test_an_ann_becomes_phased_without_training_and_is_saved(normed, tmp_path):
    here = f"{DATA} --output_dir {tmp_path}"
    run_here("ann", f"--pretrained_ann {normed} --test_only --run_name ann {here}")
    phased = "--update phased --encoding direct --timesteps 4 --readout membrane_linear"
    _, said = run_here(
        "snn",
        f"--pretrained_ann {normed} {phased} --epochs 0 --holdout 0 --run_name snn {here}",
    )
    saved = f"--pretrained_snn {tmp_path}/trained_models/snn/snn.pth"
    for engine in ("reference", "event"):
        run_undrawn("obj1", f"{saved} --run_name {engine} --engine {engine} {here}")

    assert "nothing is balanced" in said
    # The last of six layers fires in phase 5, of 4 timesteps each: 24 until it is over.
    assert "phased: an answer after 24 timesteps, an image every 4" in said
    ann = evaluation_of(tmp_path, "ann", "ann")
    snn = evaluation_of(tmp_path, "snn", "snn")
    assert snn["accuracy"] == ann["accuracy"]
    assert snn["interval"] == 4
    for engine in ("reference", "event"):
        again = evaluation_of(tmp_path, "snn", engine)
        assert again["accuracy"] == ann["accuracy"]
        assert again["spikes_per_layer"] == snn["spikes_per_layer"]
    line = refused("stream", f"{saved} {here} --scene switch")
    assert "update phased answers one image after the other" in line


def test_an_ann_that_began_with_relu_is_trained_on_with_qcfs(trained, tmp_path):
    began = f"--pretrained_ann {trained.ann} {DATA} --activation_ann qcfs --output_dir {tmp_path}"
    run_here("ann", f"{began} --epochs 1 --run_name q")

    saved = load_checkpoint(tmp_path / "trained_models/ann/q.pth")
    assert "features.1.bound" in saved["state_dict"]
    assert saved["settings"]["activation_ann"] == "qcfs"


def test_an_ann_that_began_with_relu_is_not_evaluated_with_qcfs(trained, tmp_path):
    # Nobody has trained its bounds.
    began = f"--pretrained_ann {trained.ann} {DATA} --activation_ann qcfs --output_dir {tmp_path}"
    line = refused("ann", f"{began} --test_only --run_name e")
    assert "tiny.pth does not fit" in line
    assert ".bound is missing" in line


def test_what_a_conversion_cannot_use_is_refused(trained, normed, tmp_path):
    convert = f"{DATA} --test_only --output_dir {tmp_path / 'out'} --pretrained_ann"
    without_biases = refused("snn", f"{convert} {normed} --no-bias")
    delayed = refused("snn", f"{convert} {trained.ann} --calibrate --update delayed")
    assert "becomes a bias" in without_biases
    assert "needs --update immediate" in delayed


def test_a_script_asks_for_images_of_which_nothing_is_said(tmp_path):
    """Ask for a folder, and do not blame images that nobody gave."""
    save_checkpoint(tmp_path / "x.pth", snn_for((3, 32, 32), 10))
    line = refused("energy", tmp_path / "x.pth")
    assert "and nothing says where it is: add --dataset FOLDER" in line


@pytest.fixture
def traced(tmp_path):
    """Save a network that from_ann has traced, for MNIST; return its path."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        *(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU()),
        *(Residual(nn.Conv2d(3, 3, 3, padding=1)), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)),
    )
    snn = from_ann(ann, torch.rand(20, 1, 28, 28), timesteps=3)
    assert isinstance(snn, TracedSNN)
    path = tmp_path / "traced.pth"
    save_checkpoint(path, snn)
    return path


def test_scripts_that_need_no_prediction_take_a_traced_network(traced, tmp_path):
    flags = f"--limit_test 40 --output_dir {tmp_path}"
    few = load_data("MNIST")[2].part(0, 40)
    expected = evaluate(load(traced), few)

    ledgers, _ = run_here("energy", str(traced), flags)
    (energy,) = ledgers.values()
    (blocking,), _ = run_here("obj1", f"--pretrained_snn {traced}", flags)
    exits, _ = run_here("obj2", f"--pretrained_snn {traced} --rules confidence", flags)

    assert energy.accuracy == expected["accuracy"]
    assert energy.total("spikes") == pytest.approx(expected["parts"]["total"])
    assert energy.total("synops") == expected["operations"]["event_acs"]
    for record in (blocking, exits[-1]):  # the last of obj2 is without early exit
        for name in ("accuracy", "operations", "energy_event_joules", "confusion"):
            assert record[name] == expected[name]
        assert record["spikes"] == expected["parts"]
        assert record["model"] == "TracedSNN"
    assert (blocking["gate"], blocking["epsilon"]) == ("open", 0.0)
    assert exits[0]["mean_steps"] <= exits[-1]["mean_steps"] == 3


NO_PREDICTION = "by from_ann, has no decoder, so there is no prediction"


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("snn", "--epochs 1", "could train or show: wfeedback energy, python snn_wFeedback_"),
        ("obj3", "", "--rules confidence and wfeedback export --to c take it"),
        ("analysis", "", "--rules confidence and wfeedback export --to c take it"),
        ("obj1", "--epsilon 0.1", "by which to block: leave out --gate and --epsilon"),
        ("obj1", "--gate contrast", "by which to block: leave out --gate and --epsilon"),
        ("obj2", "", "obj2 takes it with --rules confidence or entropy"),
        ("obj2", "--rules entropy both", "rule both: "),
    ],
)
def test_what_needs_a_prediction_refuses_a_traced_network(traced, script, flags, words):
    line = refused(script, f"--pretrained_snn {traced} --output_dir {traced.parent}", flags)
    assert f"{traced}, {NO_PREDICTION}" in line
    assert words in line


def test_a_traced_network_has_no_ann_of_ours_and_no_architecture(traced, tmp_path):
    ann = REPOSITORY / "trained_models/ann/ann_baseline.pth"
    flags = f"--limit_test 20 --output_dir {tmp_path}"

    line = refused("energy", f"{traced} --against {ann}", flags)
    _, said = run_here("obj1", f"--pretrained_snn {traced} -a VGG9", flags)

    assert line.endswith("by from_ann, is in no checkpoint of ours: leave out --against")
    assert "note: without effect here: --architecture" in said


def run_block(page, title, variables):
    """Run the Python block of a page that begins with this comment."""
    (block,) = re.findall(rf"^```python\n(# {title}\n.*?)^```$", page, re.M | re.S)
    exec(block, variables)


def test_the_pages_ann_is_trained_converted_evaluated_priced_and_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs/how_to/own_model.md").read_text(encoding="utf-8")
    variables = {}
    run_block(page, "train", variables)
    run_block(page, "convert", variables)

    test = variables["test"].whole()
    with torch.no_grad():
        classes = variables["ann"](test.images).argmax(1)
    ann_accuracy = (classes == test.labels).double().mean().item()
    found = variables["found"]
    assert ann_accuracy > 0.9
    assert found["images"] == 2000
    assert found["accuracy"] > ann_accuracy - 0.01
    assert variables["snn"].runs_by == "event"
    assert found["energy_event_joules"] > 0

    _, said = run_here("energy", "mine.pth --limit_test 16")
    assert "mine.pth" in said
    assert "45 nm" in said

    run_here("export", "mine.pth --to torch")
    assert (tmp_path / "mine_torch.pt").is_file()


def test_a_decoder_that_the_ann_lacks_is_not_made_up(tmp_path):
    # Only an SNN that goes on learning may get one at random. Here its thresholds would
    # be balanced.
    path = tmp_path / "ann.pth"
    save_checkpoint(path, VGG_wFeedback("VGG5_small", fc_width=8))
    flags = f"--pretrained_ann {path} -a VGG5_wFeedback_small --fc_width 8 {SPIKING}"
    line = refused("snn", flags, f"--output_dir {tmp_path}")
    assert "generate.0.weight is missing" in line
