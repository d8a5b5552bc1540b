"""Benchmarks whose figures the pages quote: what they hand to whom."""

import json

import pytest
import torch
from conftest import DATA, refused, run_here

from benchmarks.ramp_control import ControlSNN
from self_models.basics.errors import ModelError
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

RAMP = "benchmarks.ramp_control"


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


def test_attention_is_chosen_on_held_out_images(trained, tmp_path):
    flags = f"--holdout 12 --batch_size 12 --epsilon 0.2 --output_dir {tmp_path} --attention"
    said = run_here("benchmarks.attention_constant", "--pretrained_snn", trained.snn, flags, "0.6 0 1")[1]
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    plain, *tried, last = lines
    assert plain["contrast"] == "none" and [line["attention"] for line in tried] == [0.6, 0, 1]
    assert {line["images"] for line in lines[:-1]} == {12} and all(0 <= line["dimmed"] <= 1 for line in tried)
    best = max(line["dimmed"] for line in tried)
    assert last == {"best": min(line["attention"] for line in tried if line["dimmed"] == best)}
    assert "test images" in refused("benchmarks.attention_constant", f"--holdout 0 --pretrained_snn {trained.snn}")


def test_conversion_alone_beside_the_ann(trained, tmp_path):
    """One line for the ANN, one for each way to convert and T, one for the tuned SNN; what is the same way gives the same."""
    flags = "--holdout 16 --limit_train 16 --batch_size 16 --balance_images 8 --balance_timesteps 6 --update immediate"
    flags += f" --timesteps 2 6 --encoding direct poisson --balance_percentile 100 90 --output_dir {tmp_path}"
    said = run_here("benchmarks.conversion_alone", f"--pretrained_ann {trained.ann} --tuned_snn {trained.snn} {flags}")[1]
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
        assert wanted in refused("benchmarks.conversion_alone", *filter(None, [words]))
