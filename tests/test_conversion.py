"""How ANNs become SNNs, ours and, by from_ann, those of others."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import (
    BIAS,
    DATA,
    REPOSITORY,
    SPIKING,
    TINY,
    UNKNOWN,
    become,
    build,
    digests,
    images,
    records,
    refused,
    run_here,
    run_undrawn,
    tiny,
)
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from self_models import ModelError, conversion, evaluate, from_ann, load, load_data
from self_models.checkpoints.files import load_checkpoint
from self_models.neurons.norms import BatchNorm, ScaledByBatch, Staircase, folded_in
from self_models.neurons.spiking import SpikingNeuron
from self_models.running.draws import Draws
from self_models.traced import converting
from self_models.traced.traced_snn import TracedSNN
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.runs.saving import save_checkpoint

STEPS = 12
FORKED = [[4, "D", 6, "fork", 6, "D"], ["U", 4, "in"]]


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


def balance_with_constant_draws(model, x):
    return conversion.balance_thresholds(model, x, lambda t: torch.full_like(x, 0.3), 4)


def test_balancing_leaves_leaks_and_mode_as_they_were():
    model = tiny(leak=0.5).train()
    x = images(2)

    with_leak = balance_with_constant_draws(model, x)

    assert model.training
    assert {neuron.leak.item() for neuron in model.neurons().values()} == {0.5}
    assert with_leak == model.thresholds
    # Balancing itself runs without leaks.
    model.set_leak(1.0)
    without_leak = balance_with_constant_draws(model.eval(), x)
    assert with_leak == without_leak
    assert not model.training


def phased_with_dropout():
    """Make a phased network with biases, and with a dropout before its last layer."""
    return tiny(update="phased", timesteps=4, readout="membrane_linear", bias=True, dropout=0.3)


def test_levels_are_fitted_without_dropout_also_in_training_mode():
    x = images(3)
    in_training = phased_with_dropout().train()
    in_evaluation = phased_with_dropout().eval()

    rates, logits = conversion.fit_levels(in_training, x)
    expected_rates, expected_logits = conversion.fit_levels(in_evaluation, x)

    assert in_training.training
    assert not in_evaluation.training
    assert in_training.thresholds == in_evaluation.thresholds
    # The logits are computed last: a dropout must still be in evaluation mode then.
    assert torch.equal(logits, expected_logits)
    decoders_last_layer = {"generate.7"}
    assert expected_rates.keys() == in_training.neurons().keys() - decoders_last_layer
    assert rates.keys() == expected_rates.keys()
    for name, rate in rates.items():
        assert torch.equal(rate, expected_rates[name])


def test_phased_logits_take_the_last_layers_sums_in_its_phase_alone():
    """Before it they are without the bias, in it as they are, after it zero."""
    model = phased_with_dropout()
    layers_before = model.timing.latency(model) // model.timesteps
    bias = torch.full((1, 10), 2.0)
    state = SimpleNamespace(zero_input_response={"output": bias})
    current = torch.full((1, 10), 5.0)

    taken = []
    for phase in range(layers_before + 1):
        run = SimpleNamespace(steps=phase * model.timesteps, graph_state=state)
        taken.append(model.timing.output_current(model, run, current)[0, 0].item())

    in_its_phase = taken.index(5.0)
    assert in_its_phase > 0
    assert taken[:in_its_phase] == [3.0] * in_its_phase
    assert taken[in_its_phase + 1 :] == [0.0] * (layers_before - in_its_phase)


def test_a_conversion_that_fails_leaves_the_mode_as_it_was():
    model = phased_with_dropout().train()

    def fail():
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        conversion.fit_levels(model, images(2), on_layer=fail)
    assert model.training


def test_a_phased_network_is_converted_with_the_default_dropout(trained, tmp_path):
    flags = f"--update phased --timesteps 2 --readout membrane_linear --epochs 0 {DATA}"
    here = f"--run_name x --output_dir {tmp_path}"

    _, said = run_here("snn", f"--pretrained_ann {trained.ann} {flags} {here}")

    assert "thresholds fit the activations of 32 training images in 2 levels (phased)" in said
    settings = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["settings"]
    assert settings["dropout"] == 0.3
    assert settings["fc_dropout"] == 0.5


@torch.no_grad()
def largest_drives(model, x, u, largest_of):
    """Run step by step, and return the largest drive that reached each spiking layer.

    `largest_of` makes one value of all drives of a step.
    """
    model.batched = False
    drives = {}
    for name, neuron in model.neurons().items():
        drives[name] = []
        neuron.register_forward_pre_hook(
            lambda _, inputs, seen=drives[name]: seen.append(largest_of(inputs[0]).item())
        )
    model(x, u)
    return [max(seen) for seen in drives.values()]


UNBALANCED = {
    "fc_width": 8,
    "timesteps": STEPS,
    "readout": "membrane_linear",
    "default_threshold": 1.0,
}
POOLED = {
    "plan": [[4, "M", 6, "fork", "M", 6, "A"], ["U", 5, "in"]],
    "max_pool": "count",
    "bias": True,
    "initial_potential": 0.5,
}


def images_and_draws(model):
    """Draw images for a model, and uniform samples for its timesteps."""
    x = images(5, model.image_shape)
    u = torch.rand(STEPS, *x.shape, generator=torch.Generator().manual_seed(1))
    return x, u


# The decoder's, too, which runs on what the encoder, or its part before a fork, sends.
@pytest.mark.parametrize("percentile", [100.0, 99.0])
@pytest.mark.parametrize(
    "settings",
    [{}, {"update": "delayed"}, {"plan": FORKED}, POOLED],
    ids=["immediate", "delayed", "forked", "pooled"],
)
def test_thresholds_are_the_largest_drives_of_a_run(settings, percentile):
    model = tiny(**UNBALANCED, **settings)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, -0.05, 0.1)
    x, u = images_and_draws(model)
    ann_biases = conversion.biases_of(model)

    conversion.balance_thresholds(model, x, lambda t: u[t], STEPS, percentile)

    for link, unit in conversion.iter_units(model):
        if link.bias is not None:
            assert torch.allclose(link.bias * unit, ann_biases[link.target])
    drives = largest_drives(model, x, u, lambda drive: conversion.percentile_of(drive, percentile))
    assert model.thresholds == pytest.approx(drives, rel=1e-5)
    assert 1 not in model.thresholds  # each has changed


class Doubled(SpikingNeuron):
    """Neurons whose spikes are worth two."""

    def forward(self, current, state=None):
        spikes, state = super().forward(current, state)
        return 2 * spikes, state


def test_what_neurons_of_ones_own_send_reaches_the_next_layer_as_it_is():
    model = tiny(**UNBALANCED)
    for name in ("features.4", "classifier.1"):
        become(Doubled)(model.neurons()[name])
    x, u = images_and_draws(model)

    conversion.balance_thresholds(model, x, lambda t: u[t], STEPS)

    assert model.thresholds == pytest.approx(largest_drives(model, x, u, torch.max), rel=1e-5)


@pytest.mark.parametrize(
    ("percentile", "expected"),
    [(100, 1000), (99.95, 1000), (99.9, 999), (99, 990), (55, 550), (1e-9, 1)],
)
def test_percentiles_of_1_to_1000(percentile, expected):
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    values = torch.arange(1.0, 1001)[order].view(10, 1, 100)
    assert conversion.percentile_of(values, percentile).item() == expected


def test_a_percentile_of_equal_values():
    # Three of four values, 75 %, do not exceed 5.
    assert conversion.percentile_of(torch.tensor([-3.0, 5.0, 5.0, 7.0]), 75).item() == 5


def network_with(part):
    """Make a network with a part that no architecture has, and copy its values."""
    model = build(**BIAS)
    UNKNOWN[part](model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    return model, before


def balance_with_random_draws(model):
    x = images(2)
    return conversion.balance_thresholds(model, x, lambda t: torch.rand_like(x), 3)


@pytest.mark.parametrize(
    "part", ["features.1 (Tired)", "generate2 (Sequential)", "gain (Parameter)"]
)
def test_neurons_and_what_stands_beside_the_stages_may_be_ones_own_in_a_conversion(part):
    model, before = network_with(part)

    balance_with_random_draws(model)

    after = model.state_dict()
    assert after["features.1.threshold"] != before["features.1.threshold"]
    for name in before:
        if name.startswith(("generate2", "gain")):  # what stands beside the stages
            assert torch.equal(after[name], before[name])


def test_a_part_that_no_architecture_has_is_refused_in_a_conversion():
    model, before = network_with("features.5 (Tanh)")

    with pytest.raises(ModelError, match=r"^conversion does not know features.5 \(Tanh\)"):
        balance_with_random_draws(model)

    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


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


@torch.no_grad()
def converted(ann, **settings):
    """Make an SNN of the ANN's weights and norms, with its bounds as thresholds."""
    snn = VGG_SNN_STDB_wFeedback(
        **settings, bias=True, encoding="direct", initial_potential=0.5
    ).eval()
    state, _ = conversion.bounds_as_thresholds(folded_in(ann.state_dict()))
    snn.load_state_dict(state, strict=False)
    ann_biases = conversion.biases_of(snn)
    conversion.fit_thresholds(snn)
    conversion.fit_biases(snn, ann_biases)
    return snn


def record_outputs(model):
    """Return a dict that gets the output of each module when the model runs."""
    outputs = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _, inputs, output, name=name: outputs.update({name: output})
        )
    return outputs


@torch.no_grad()
def draw_statistics(ann):
    """Give an ANN norms that scale and shift, and bounds of 1.5."""
    for module in ann.modules():
        if isinstance(module, BatchNorm):
            module.bias.uniform_(-0.2, 0.5)
            module.weight.uniform_(0.5, 1.5)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, ScaledByBatch):
            module.gain.uniform_(0.5, 2)
            module.mean_square.uniform_(0.5, 1.5)
        elif hasattr(module, "bound"):
            module.bound.fill_(1.5)


@pytest.mark.parametrize(
    ("levels", "pool", "norm"),
    [(4, "M", "batch"), (2, "A", "batch"), (1, "D", "batch"), (3, "A", "scale")],
)
@torch.no_grad()
def test_a_phased_network_answers_what_its_ann_answers(levels, pool, norm):
    torch.manual_seed(1)
    architecture = {
        "plan": [[6, pool, 8, 8, pool], ["U", 6, "U", "in"]],
        "fc_width": 16,
        "image_shape": (1, 12, 12),
        "init": "kaiming",
    }
    ann = VGG_wFeedback(**architecture, norm=norm, activation_ann="qcfs", qcfs_levels=levels)
    ann.eval()
    draw_statistics(ann)
    snn = converted(
        ann, **architecture, update="phased", timesteps=levels, readout="membrane_linear"
    )
    x = images(9, (1, 12, 12))

    activations = record_outputs(ann)
    expected = ann(x)
    found = snn(x, record=dict.fromkeys(snn.neurons(), "spikes"))

    # Five layers behind each other, and the last.
    assert snn.latency == 6 * levels
    assert found.steps.unique() == snn.latency
    unit = {}  # layer -> what a spike of threshold 1 is worth in the ANN, in T = levels steps
    for link, unit_before in conversion.iter_units(snn):
        unit[link.target] = unit_before / levels
    # Each layer's spikes are its activation.
    for name, neuron in snn.neurons().items():
        count = found.recorded[name]["spikes"].sum(0)
        values = count * unit[name] * neuron.threshold
        torch.testing.assert_close(values, activations[name], msg=name)
        assert 0 < values.count_nonzero() < values.numel()
    torch.testing.assert_close(
        found.logits * unit["output"], expected.logits, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        found.predictions[-1] * unit["decoded"],
        expected.predictions[-1].logit(),
        rtol=1e-4,
        atol=1e-4,
    )


def ann_that_has_seen(x, **architecture):
    """Make an ANN with QCFS whose norms have the statistics of these images."""
    torch.manual_seed(0)
    ann = VGG_wFeedback(**architecture, norm="batch", activation_ann="qcfs", init="kaiming")
    ann.train()
    for _ in range(20):
        ann(x, seed=0)
    return ann.eval()


@torch.no_grad()
def test_calibrated_biases_give_each_channel_the_rate_of_the_ann():
    architecture = {
        "plan": [[6, "M", 8, "M", 8, "A"], []],
        "fc_layers": 1,
        "fc_width": 16,
        "image_shape": (1, 12, 12),
    }
    x = images(16, (1, 12, 12))
    ann = ann_that_has_seen(x, **architecture)
    snn = converted(ann, **architecture, update="immediate", timesteps=4, max_pool="count")
    errors = {}  # layer -> root mean square error over channels, before and after

    conversion.calibrate_biases(
        snn,
        conversion.rates_of(ann, snn, x),
        x,
        lambda t: x,
        lambda name, before, after: errors.update({name: (before, after)}),
    )

    activations = record_outputs(ann)
    ann(x)
    recorded = snn(x, record=dict.fromkeys(snn.neurons(), "spikes")).recorded
    unit = {link.target: unit for link, unit in conversion.iter_units(snn)}
    assert list(errors) == list(snn.neurons())
    for name, (before, after) in errors.items():
        spike_value = unit[name] * snn.neurons()[name].threshold
        wanted = conversion.channel_means(activations[name]) / spike_value
        found = conversion.channel_means(recorded[name]["spikes"].sum(0) / 4)
        error = (found - wanted).square().mean().sqrt().item()
        assert error == pytest.approx(after, abs=1e-6)
        # What the first layer gets is constant, so its rate may be exact already.
        is_exact = name == "features.1" and before < 1e-6
        assert after < before / 3 or is_exact


# One neuron of threshold 4 gets nothing but its bias, and its ANN has this rate.
@pytest.mark.parametrize("update", ["immediate", "phased"])
@pytest.mark.parametrize(
    ("steps", "rate", "bias", "error"),
    [
        # Its rate is 0, too low by 0.5, so 1.5 * 0.5 * 4 = 3 is added. Then V' = 3, 6,
        # 5, 4, which is 2 spikes in 4 steps. Phased V = 12, then 8, then 4.
        pytest.param(4, 0.5, 3.0, 0.0, id="4 steps"),
        # Its rate is 0 or 1. Too low by 0.3, it gets 1.5 * 0.3 * 4 = 1.8 thrice; then
        # it fires, 1.5 * 0.7 * 4 = 4.2 is taken off, and so on. In the last of 16
        # rounds it fires, which is off by 0.7, so the start counts.
        pytest.param(1, 0.3, 0.0, 0.3, id="1 step"),
    ],
)
@torch.no_grad()
def test_a_bias_is_shifted_in_thresholds_and_the_best_round_counts(
    steps, rate, bias, error, update
):
    architecture = {
        "plan": [[1], []],
        "image_shape": (1, 1, 1),
        "kernel_size": 1,
        "fc_layers": 0,
    }
    x = torch.ones(1, 1, 1, 1)
    ann = VGG_wFeedback(**architecture).eval()
    ann.features[0].weight.fill_(4 * rate)
    snn = VGG_SNN_STDB_wFeedback(
        **architecture,
        bias=True,
        update=update,
        encoding="direct",
        timesteps=steps,
        default_threshold=4.0,
    ).eval()
    snn.features[0].weight.zero_()
    said = []

    conversion.calibrate_biases(
        snn, conversion.rates_of(ann, snn, x), x, lambda t: x, lambda *one: said.append(one)
    )

    assert said == [("features.1", pytest.approx(rate), pytest.approx(error))]
    assert snn.features[0].bias.item() == pytest.approx(bias)


def two_neuron_ann():
    """Make an ANN of two pixels with a neuron relu(2 x - 1/2) each, and two outputs."""
    conv = nn.Conv2d(1, 1, 1)
    conv.weight.data.fill_(2.0)
    conv.bias.data.fill_(-0.5)
    linear = nn.Linear(2, 2)
    linear.weight.data = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    linear.bias.data = torch.tensor([0.25, -1.0])
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), linear)


# For these the neurons are a = 1/2 and 3/2.
TWO_PIXELS = torch.tensor([0.5, 1.0]).view(1, 1, 1, 2)


@pytest.mark.parametrize("engine", ["auto", "dense", "reference"])
@torch.no_grad()
def test_spikes_and_logits_by_hand(engine):
    ann = two_neuron_ann()

    snn = from_ann(ann, TWO_PIXELS, timesteps=3, engine=engine)
    if engine == "auto":  # the event engine, which records nothing
        output = snn(TWO_PIXELS)
    else:
        output = snn(TWO_PIXELS, record={"features.1": "spikes"})

    # With a threshold of 3/2 three steps can send 0, 1/2, 1 and 3/2, so both
    # activations are met. No other threshold comes as close.
    assert snn.thresholds == [1.5]
    assert snn.features[0].bias.item() == -0.5
    # A spike brings 3/2 times the ANN's weight, so biases are divided by that.
    assert snn.classifier[0].bias.tolist() == pytest.approx([0.25 / 1.5, -1 / 1.5])
    # From V = 3/4 the neuron of drive 1/2 fires in step 2 (V' = 5/4, 7/4, 3/4), and
    # that of drive 3/2 in each step.
    if engine != "auto":
        spikes = output.recorded["features.1"]["spikes"]
        assert spikes.int().flatten(1).tolist() == [[0, 1], [1, 1], [0, 1]]
    assert output.spikes["features.1"].tolist() == [4]
    # One spike and three, by the weights, and three times the biases, 1/6 and -2/3.
    assert output.logits[0].tolist() == pytest.approx([1 - 3 + 0.5, 0.5 + 6 - 2])
    # A spike in each of three steps is worth 3/2, which gives the ANN's logits.
    torch.testing.assert_close(output.logits * 1.5 / 3, ann(TWO_PIXELS))
    # Where nothing fires there is only the bias, to the bit.
    black = torch.zeros_like(TWO_PIXELS)
    assert torch.equal(snn(black).logits * 1.5 / 3, ann(black))


def test_bounds_by_hand():
    # One level: with theta up to 2 the ones and the 3 are sent as theta. The sum of
    # squared errors is 4 (1 - theta)² + (3 - theta)², which is least at theta = 7/5.
    values = torch.tensor([0.0, 1, 1, 1, 1, 3])
    assert conversion.nearest_bound(values, 1) == pytest.approx(1.4, abs=0.01)


def test_the_bound_of_a_silent_layer_is_1():
    assert conversion.nearest_bound(torch.zeros(4), 4) == 1


def test_a_bound_has_the_least_error_of_all():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).relu()
    bounds = torch.linspace(0.2, 4, 96).tolist()
    errors = []
    for bound in bounds:
        sent = Staircase.apply(values, torch.tensor(bound), 4)
        errors.append((values - sent).square().mean())
    best = bounds[torch.stack(errors).argmin()]

    assert 1 < best < values.max()
    assert conversion.nearest_bound(values, 4) == pytest.approx(best, abs=0.05)


def trained_stack(pool):
    """Make an ANN with one of each layer that is taken, and norms that do something."""
    torch.manual_seed(0)
    relu = nn.ReLU()  # one module in several places
    stack = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, eps=0.1), relu),
        nn.Conv2d(6, 6, 2, stride=2, bias=False),
        nn.Conv2d(6, 8, 3, padding="same", bias=False),
        nn.BatchNorm2d(8, affine=False),
        relu,
        nn.Dropout2d(0.2),
        pool(2),
        nn.Identity(),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 24),
        nn.BatchNorm1d(24),
        relu,
        nn.Dropout(0.5),
        nn.Linear(24, 24),
        relu,
        weight_norm(nn.Linear(24, 5)),
    )
    for seed in range(30):
        stack(images(8, (3, 12, 12), seed))
    return stack


@pytest.mark.parametrize(
    ("pool", "update"), [(nn.MaxPool2d, "immediate"), (nn.AvgPool2d, "delayed")]
)
@torch.no_grad()
def test_a_long_run_answers_as_the_ann_which_stays_as_it_is(pool, update):
    stack = trained_stack(pool)
    before = copy.deepcopy(stack.state_dict())
    x = images(12, (3, 12, 12), 99)

    snn = from_ann(stack, x, timesteps=200, update=update, engine="dense", classes=list("abcde"))

    assert stack.training
    for name, value in stack.state_dict().items():
        assert torch.equal(value, before[name])
    assert snn.classes == list("abcde")
    *_, (last_link, unit) = conversion.iter_units(snn)
    assert last_link.target == "output"
    expected = stack.eval()(x)
    tolerance = 0.04 * expected.abs().max().item()
    torch.testing.assert_close(snn(x).logits * unit / 200, expected, rtol=0, atol=tolerance)


class ShiftedBias:
    """Stands in for a calibration: shifts the first layer's bias, and notes it."""

    def __init__(self, shift):
        self.shift = shift
        self.biases = []

    def __call__(self, model, *_):
        bias = model.features[0].bias
        bias.add_(self.shift)
        self.biases.append(bias.item())


@pytest.mark.parametrize("shift", [0.0, -9.0])
def test_a_calibration_that_helps_nothing_is_undone(monkeypatch, shift):
    calibration = ShiftedBias(shift)
    monkeypatch.setattr(converting, "calibrate_biases", calibration)

    snn = from_ann(two_neuron_ann(), TWO_PIXELS, timesteps=3)

    assert calibration.biases == [-0.5 + shift]
    assert snn.features[0].bias.item() == -0.5


def test_nothing_is_calibrated_where_a_layer_answers_a_step_later(monkeypatch):
    calibration = ShiftedBias(0.0)
    monkeypatch.setattr(converting, "calibrate_biases", calibration)

    immediate = from_ann(two_neuron_ann(), TWO_PIXELS, timesteps=3)
    delayed = from_ann(two_neuron_ann(), TWO_PIXELS, 3, "delayed")

    assert delayed.thresholds == immediate.thresholds
    assert len(calibration.biases) == 1  # of the first alone


def test_a_decoder_is_added_and_other_settings_are_taken():
    x = images(4, (3, 12, 12))
    settings = {"encoding": "poisson", "readout": "membrane", "leak": 0.9}

    snn = from_ann(trained_stack(nn.AvgPool2d), x, timesteps=4, decoder="U 6 U in", **settings)

    assert snn(x, seed=1).predictions.shape == (4, *x.shape)
    assert snn.settings["leak"] == 0.9
    assert len(snn.thresholds) == 5


def snn_for(shape, labels, **settings):
    """Convert an ANN for images of this shape."""
    channels, height, width = shape
    ann = nn.Sequential(
        nn.Conv2d(channels, 2, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * height * width, labels),
    )
    return from_ann(ann, torch.rand(2, *shape), timesteps=2, engine="dense", **settings)


PETS = {"dataset": "my/pets", "classes": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("shape", "labels", "settings", "dataset", "background"),
    [
        pytest.param((1, 28, 28), 10, {}, "MNIST", 0.0, id="may be MNIST's"),
        pytest.param((3, 32, 32), 10, {}, "…/images", None, id="not said"),
        pytest.param((1, 8, 8), 2, PETS, "my/pets", None, id="said"),
    ],
)
def test_of_which_images_it_is(tmp_path, shape, labels, settings, dataset, background):
    snn = snn_for(shape, labels, **settings)
    save_checkpoint(tmp_path / "x.pth", snn)
    again = load(tmp_path / "x.pth")

    assert snn.background == background
    assert again.settings["dataset"] == dataset
    assert again.image_shape == shape
    assert again.classes == snn.classes


def test_a_script_asks_for_images_of_which_nothing_is_said(tmp_path):
    """Ask for a folder, and do not blame images that nobody gave."""
    save_checkpoint(tmp_path / "x.pth", snn_for((3, 32, 32), 10))
    line = refused("energy", tmp_path / "x.pth")
    assert "and nothing says where it is: add --dataset FOLDER" in line


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        pytest.param(
            [
                nn.Conv2d(1, 4, 3, 1, 1),
                nn.ReLU(),
                nn.Conv2d(4, 4, 3, 1, 1, groups=2),
                nn.Flatten(),
                nn.Linear(256, 10),
            ],
            r"layer 2 \(Conv2d\) stands where",
            id="grouped",
        ),
        pytest.param(
            [Residual(nn.Conv2d(1, 1, 3, padding=1)), nn.Flatten(), nn.Linear(64, 10)],
            "does not stand right before it",
            id="residual",
        ),
        pytest.param(
            [nn.Flatten(), nn.Linear(64, 10)],
            r"layer 0 \(Flatten\) begins no network with a decoder, .*: conv",
            id="linear",
        ),
    ],
)
def test_a_decoder_is_added_to_plain_networks_alone(layers, words):
    ann = nn.Sequential(*layers)
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ModelError, match=words):
        from_ann(ann, x, decoder="in")
    assert isinstance(from_ann(ann, x, timesteps=2), TracedSNN)


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
