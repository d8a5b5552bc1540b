"""Benchmarks whose figures the pages quote: what they hand to whom."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import DATA, refused, run_here, run_script
from PIL import Image

from benchmarks.findings.ramp_control import ControlSNN
from benchmarks.speed.gpu import compared as compared_with_cpu
from benchmarks.speed.gpu import table
from benchmarks.speed.inference_peers import compared, figures
from benchmarks.speed.peers import is_installed
from self_models.basics.errors import ModelError
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

RAMP = "benchmarks.findings.ramp_control"


def test_ramp_control_shuffled_gives_no_image_its_own_decoder_output(trained, tmp_path, monkeypatch):
    """Not when images stop, either: once only one is running, there is no other whose output it could get."""
    given, made = [], []
    swap, integrate = ControlSNN.integrate, InputBlockingSNN.integrate

    def watch(self, trace, decoded, view):
        made.append(decoded) if self.case == "shuffled" else None
        return swap(self, trace, decoded, view)

    def receive(self, trace, decoded, view):
        given.append(decoded) if self.case == "shuffled" else None
        return integrate(self, trace, decoded, view)

    monkeypatch.setattr(ControlSNN, "integrate", watch)
    monkeypatch.setattr(InputBlockingSNN, "integrate", receive)
    flags = f"{DATA} --rule confidence --gap_bound 0.02 --output_dir {tmp_path}"
    lines = [
        json.loads(line)
        for line in run_here(RAMP, "--pretrained_snn", trained.snn, flags)[1].splitlines()
        if line.startswith("{")
    ]
    lines = {line["case"]: line for line in lines if "case" in line}
    assert lines["decoder"]["mean_steps"] < lines["shuffled"]["mean_steps"] == 5
    assert {name: line["rule"] for name, line in lines.items() if line["rule"] != "confidence"} == {"shuffled": "never"}
    assert len(given) == len(made) == 5 and all(len(decoded) == 16 for decoded in given)
    for own, others in zip(made, given, strict=True):
        assert torch.equal(others, own[[15, *range(15)]])


def test_ramp_control_refuses_to_shuffle_one_image():
    model = ControlSNN(plan=[[4, "D"], ["U", "in"]], fc_width=4, timesteps=2)
    model.case = "shuffled"
    with pytest.raises(ModelError, match="batch_size"):
        model(torch.rand(1, 1, 28, 28))


def test_conversion_alone_beside_the_ann(trained, tmp_path):
    """One line for the ANN, one for each way to convert and T, one for the tuned SNN; what is the same way gives the same."""
    flags = "--holdout 16 --limit_train 16 --batch_size 16 --balance_images 8 --balance_timesteps 6 --update immediate"
    flags += f" --timesteps 2 6 --encoding direct poisson --balance_percentile 100 90 --output_dir {tmp_path}"
    said = run_here("benchmarks.findings.conversion_alone", f"--pretrained_ann {trained.ann} --tuned_snn {trained.snn} {flags}")[
        1
    ]
    ann, *converted, tuned = (json.loads(line) for line in said.splitlines() if line.startswith("{"))
    tried = [(row["encoding"], row["percentile"], row["timesteps"]) for row in converted]
    assert tried == [(code, percentile, t) for code in ("direct", "poisson") for percentile in (100, 90) for t in (2, 6)]
    assert ann["case"] == "ann" and all(0 <= row["accuracy"] <= 1 and row["spikes"] > 0 for row in (*converted, tuned))
    assert (tuned["case"], tuned["timesteps"]) == ("tuned", 5)
    first, other = (next(row for row in converted if row["percentile"] == percentile) for percentile in (100, 90))
    assert other["spikes"] > first["spikes"]  # lower thresholds
    last = said.splitlines()[-12:]
    assert sum(line.startswith(("ann ", "converted ", "tuned ")) for line in last) == 10
    for words, wanted in (("", "give --pretrained_ann"), (f"--pretrained_ann {trained.ann} --holdout 0", "test images")):
        assert wanted in refused("benchmarks.findings.conversion_alone", *filter(None, [words]))


def test_inference_peers_send_our_spikes(tmp_path):
    """Both networks, with the gate open and with blocking in a loop, by step and by layer; rounding may move a spike or two."""
    peers = ["snntorch", "spikingjelly"]
    for package in peers:
        pytest.importorskip(package, reason=f"{package} is not installed")
    flags = "--images 2 --batches 2 --timesteps 8 --rounds 1 --threads 1 --peers snntorch spikingjelly --picture"
    done = run_script("benchmarks/speed/inference_peers", flags, tmp_path / "peers.png")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["network"], row["stopped"]) for row in rows] == [
        ("twin", False), ("blocking", False), ("twin", True), ("blocking", True)
    ]  # fmt: skip
    for row in rows:
        assert row["case"].endswith("ours stopped when sure") == row["stopped"] == (row["mean_steps"] < 8)
        assert row["norse"] is None and row["missing"] == ["norse", "sinabs"] and row["spikes_per_image"] > 500
        assert row["ratio_to_fastest_peer"] == pytest.approx(row["ours_event"] / max(row[peer] for peer in peers), abs=0.01)
        for name, same in row["same_spikes"].items():
            expects = name == "ours_event" or (name in peers and not row["stopped"])
            assert (same is True or 0 < same < 1e-3) if expects else same is None, (row["case"], name)
    with Image.open(tmp_path / "peers.png") as picture:
        assert picture.width > 1000


@pytest.mark.parametrize(("flags", "wanted"), [("--images 10 --batches 1 4", "multiple"), ("--picture none/a.png", "folder")])
def test_inference_peers_refuses_before_it_measures(flags, wanted):
    assert wanted in refused("benchmarks.speed.inference_peers", flags)


def test_inference_peers_without_a_package(monkeypatch):
    """It is null and named; each of the others counts at its faster way."""
    monkeypatch.setitem(sys.modules, "norse.torch.functional.iaf", None)
    assert not is_installed("norse")
    speeds = {("ours_event", ""): 90.0, ("ours_dense", ""): 9.0, ("snntorch", "by step"): 20.0, ("snntorch", "by layer"): 30.0}
    found = figures(speeds)
    assert (found["snntorch"], found["way"], found["ratio_to_fastest_peer"]) == (30.0, {"snntorch": "by layer"}, 3.0)
    assert found["norse"] is None and found["missing"] == ["spikingjelly", "norse", "sinabs"]
    ours = {("ours_event", ""): 90.0, ("ours_dense", ""): 9.0}
    assert figures(ours)["ratio_to_fastest_peer"] is None


def test_inference_peers_says_by_how_much_spikes_differ():
    ours = {"input": torch.tensor([3.0, 5.0]), "features.1": torch.tensor([2.0, 10.0])}
    assert compared(ours, ours) is True
    assert compared({"input": torch.tensor([4.0, 4.0]), "features.1": torch.tensor([2.0, 10.0])}, ours) == 0.1  # 2 of 20


def test_large_foretells_the_memory_that_is_taken():
    """Both engines send the same spikes, but for one that rounding decides; a fault in a case is one line."""
    flags = "--size 20 --timesteps 2 --fc_width 8 --labels 10 --batch_size 1 --scaling_factor 0.3 --cases dense event"
    said = run_here("benchmarks.speed.large", flags, "--plan", Path("4 A 6 fork A 8"), Path("U in"))
    dense, event = (json.loads(line) for line in said[1].splitlines() if line.startswith("{"))
    assert event["spikes"] == pytest.approx(dense["spikes"], rel=0.01) and event["spikes"] > 0
    assert event["taken_gb"].items() <= event["foretold_gb"].items()
    assert dense["multiply_adds"] == 2 * (400 * 3 * 9 * 4 + 100 * 4 * 9 * 6 + 25 * 6 * 9 * 8 + 200 * 8 + 64 + 80
                                          + 100 * 6 * 4 * 6 + 400 * 6 * 9 * 3)  # fmt: skip
    assert "doubles it 0 times" in refused("benchmarks.speed.large", "--plan", Path("4 A"), "in")


def test_gpu_wants_a_gpu_and_shows_what_it_found(monkeypatch):
    """Without one: one line. A row that could not be measured says why; the CPU sends the spikes of the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pytest.importorskip("snntorch", reason="snntorch is not installed")
    pytest.importorskip("spikingjelly", reason="spikingjelly is not installed")
    assert "no GPU" in refused("benchmarks.speed.gpu")
    assert "no GPU" in refused("benchmarks.speed.train_step", "--device cuda")
    lines = table([10], lambda name, precision, steps: "no memory" if name == "snntorch" else (steps / 100, 1.0)).splitlines()
    assert lines[2] == "| ours | float32 | 10 | 0.1000 | 1.00 |"
    assert [line for line in lines if "snntorch" in line] == ["| snntorch | float32 | 10 | not run: no memory | |"]
    spikes, differ, logits = compared_with_cpu("snn_mnist_linear_leak1.0", "cpu")
    assert spikes > 1000 and differ == logits == 0
