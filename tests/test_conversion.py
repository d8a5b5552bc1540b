"""ANNs become SNNs, ours and, by from_ann, somebody else's: thresholds, biases, rates."""

import contextlib
import copy
import json
import re

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
    tiny,
)
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import self_models.guests.from_ann.converting
from harness.runs.saving import save_checkpoint
from self_models import ModelError, conversion, from_ann, load, load_data
from self_models.basics.checkpoints import load_checkpoint
from self_models.guests.from_ann.traced_snn import TracedSNN
from self_models.layers.neurons import SpikingNeuron
from self_models.layers.norms import BatchNorm, ScaledByBatch, Staircase, folded_in
from self_models.runtime.draws import Draws
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

STEPS = 12
FORKED = [[4, "D", 6, "fork", 6, "D"], ["U", 4, "in"]]


def balanced(percentile=100.0, **settings):
    """A network balanced on five images, these, and the draws."""
    model = tiny(
        fc_width=8, timesteps=STEPS, readout="membrane_linear", default_threshold=1.0, **settings
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, -0.05, 0.1)
    x = images(5, model.image_shape)
    u = torch.rand(STEPS, *x.shape, generator=torch.Generator().manual_seed(1))
    biases = conversion.biases_of(model)
    conversion.balance_thresholds(model, x, lambda t: u[t], STEPS, percentile)
    for link, unit in conversion.iter_units(model):
        assert link.bias is None or torch.allclose(link.bias * unit, biases[link.target]), (
            "biases are the ANN's, in its unit"
        )
    return model, x, u


def test_a_conversion_balances_with_the_draws_before_training(trained):
    """And scales what it found once; the ANN's file is as it was."""
    own = {"fc_width": 16, "update": "immediate", "readout": "membrane_rescaled"}
    model = VGG_SNN_STDB_wFeedback("VGG5_wFeedback_small", **own)
    model.load_state_dict(load_checkpoint(trained.ann)["state_dict"], strict=False)
    batch = load_data("MNIST", limit_train=32)[0].batch(torch.arange(8))
    draws = Draws(0, 0, batch.index)
    expected = conversion.balance_thresholds(
        model, batch.images, lambda t: draws.at_step(t, (1, 28, 28), "cpu"), 12
    )
    saved = load_checkpoint(trained.snn)["state_dict"]
    kept = [value.item() for name, value in saved.items() if name.endswith(".threshold")]
    assert kept == pytest.approx([0.3 * value for value in expected]) and len(set(expected)) > 3
    log = (trained.folder / "logs/snn/tiny.log").read_text()
    assert (
        "balancing thresholds: 8 images, 12 timesteps\n" in log
        and f"  features.1: threshold {expected[0]:.4f}\n" in log
    )
    assert digests(trained.ann.parent) == trained.ann_files


def test_balancing_draws_by_the_seed(trained, tmp_path):
    """With --seed 3 thresholds are those that the draws of seed 3 give; those of 0 give others."""
    flags = f"{SPIKING} --epochs 0 --seed 3 --run_name x --output_dir {tmp_path}"
    run_here("snn", f"--pretrained_ann {trained.ann} {flags}")
    model = load(tmp_path / "trained_models/snn/x.pth")
    found = model.thresholds
    batch = load_data("MNIST", limit_train=32)[0].batch(torch.arange(8))
    expected = {}
    for seed in (0, 3):
        draws = Draws(seed, 0, batch.index)
        model.load_state_dict(load_checkpoint(trained.ann)["state_dict"], strict=False)
        expected[seed] = conversion.balance_thresholds(
            model, batch.images, lambda t, draws=draws: draws.at_step(t, (1, 28, 28), "cpu"), 12
        )
    assert found == pytest.approx([0.3 * value for value in expected[3]])
    assert found != pytest.approx([0.3 * value for value in expected[0]])


def test_balancing_leaves_leaks_and_mode_as_they_were():
    model, x = tiny(leak=0.5).train(), images(2)
    found = conversion.balance_thresholds(model, x, lambda t: torch.full_like(x, 0.3), 4)
    assert model.training and {neuron.leak.item() for neuron in model.neurons().values()} == {0.5}
    model.set_leak(1.0)
    assert (
        found
        == model.thresholds
        == conversion.balance_thresholds(model.eval(), x, lambda t: torch.full_like(x, 0.3), 4)
    )
    assert not model.training


def phased_with_dropout():
    """A phased network of the ANN's weights, with a dropout before its last layer."""
    return tiny(
        update="phased", timesteps=4, readout="membrane_linear", bias=True, dropout=0.3
    ).train()


def test_levels_are_fitted_without_dropout_also_in_training_mode():
    """The logits are computed last; a dropout must still be in evaluation mode then."""
    model, other, x = phased_with_dropout(), phased_with_dropout().eval(), images(3)
    rates, logits = conversion.fit_levels(model, x)
    expected_rates, expected_logits = conversion.fit_levels(other, x)
    assert model.training and not other.training
    assert model.thresholds == other.thresholds and torch.equal(logits, expected_logits)
    assert rates.keys() == expected_rates.keys() == model.neurons().keys() - {"generate.7"}
    assert all(torch.equal(rate, expected_rates[name]) for name, rate in rates.items())


def test_a_conversion_that_fails_leaves_the_mode_as_it_was():
    model, x = phased_with_dropout(), images(2)

    def fail():
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        conversion.fit_levels(model, x, on_layer=fail)
    assert model.training


def test_a_phased_network_is_converted_with_the_default_dropout(trained, tmp_path):
    """As its user would: in training mode, with a dropout before the last layer."""
    flags = f"--update phased --timesteps 2 --readout membrane_linear --epochs 0 {DATA}"
    _, said = run_here(
        "snn", f"--pretrained_ann {trained.ann} {flags} --run_name x --output_dir {tmp_path}"
    )
    assert "thresholds fit the activations of 32 training images in 2 levels (phased)" in said
    saved = load_checkpoint(tmp_path / "trained_models/snn/x.pth")
    assert (saved["settings"]["dropout"], saved["settings"]["fc_dropout"]) == (0.3, 0.5)


@torch.no_grad()
def largest_drives(model, x, u, of):
    """The largest of what `of` makes of a step's drives that reach each spiking layer when the model runs step by step."""
    found, model.batched = dict.fromkeys(model.neurons(), -1.0), False
    for name, neuron in model.neurons().items():
        neuron.register_forward_pre_hook(
            lambda _, given, name=name: found.update({name: max(found[name], of(given[0]).item())})
        )
    model(x, u)
    return list(found.values())


POOLED = {
    "plan": [[4, "M", 6, "fork", "M", 6, "A"], ["U", 5, "in"]],
    "max_pool": "count",
    "bias": True,
    "initial_potential": 0.5,
}


@pytest.mark.parametrize("percentile", [100.0, 99.0])
@pytest.mark.parametrize(
    "settings", [{}, {"update": "delayed"}, {"plan": FORKED}, POOLED], ids=str
)
def test_thresholds_are_the_largest_drives_of_a_run(settings, percentile):
    """Of the decoder, too, which runs on what the encoder, or its part before a fork, sends; percentiles are of each step."""
    model, x, u = balanced(percentile, **settings)
    found = largest_drives(model, x, u, lambda drive: conversion.percentile_of(drive, percentile))
    assert model.thresholds == pytest.approx(found, rel=1e-5) and 1 not in model.thresholds


class Doubled(SpikingNeuron):
    """Neurons whose spikes are worth two."""

    def forward(self, current, state=None):
        spikes, state = super().forward(current, state)
        return 2 * spikes, state


def test_what_neurons_of_ones_own_send_reaches_the_next_layer_as_it_is():
    """In a conversion, too: thresholds behind them are the largest drives of a run."""
    model = tiny(fc_width=8, timesteps=STEPS, readout="membrane_linear", default_threshold=1.0)
    for name in ("features.4", "classifier.1"):
        become(Doubled)(model.neurons()[name])
    x = images(5, model.image_shape)
    u = torch.rand(STEPS, *x.shape, generator=torch.Generator().manual_seed(1))
    conversion.balance_thresholds(model, x, lambda t: u[t], STEPS)
    assert model.thresholds == pytest.approx(largest_drives(model, x, u, torch.max), rel=1e-5)


def test_percentiles_by_hand():
    values = torch.arange(1.0, 1001)[
        torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    ].view(10, 1, 100)
    for percentile, found in {
        100: 1000,
        99.95: 1000,
        99.9: 999,
        99: 990,
        55: 550,
        1e-9: 1,
    }.items():
        assert conversion.percentile_of(values, percentile).item() == found
    assert conversion.percentile_of(torch.tensor([-3.0, 5.0, 5.0, 7.0]), 75).item() == 5


@pytest.mark.parametrize(
    "part",
    ["features.1 (Tired)", "generate2 (Sequential)", "gain (Parameter)", "features.5 (Tanh)"],
)
def test_neurons_and_what_stands_beside_the_stages_may_be_ones_own_in_a_conversion(part):
    """Any other part that no architecture has is refused by name; what stands beside the stages keeps its threshold."""
    model, x = build(**BIAS), images(2)
    UNKNOWN[part](model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = "Tanh" not in part
    with (
        contextlib.nullcontext()
        if own
        else pytest.raises(ModelError, match=rf"^conversion does not know {re.escape(part)}")
    ):
        conversion.balance_thresholds(model, x, lambda t: torch.rand(2, 1, 28, 28), 3)
    assert (model.features[1].threshold != before["features.1.threshold"]) == own
    kept = [name for name in before if not own or name.startswith(("generate2", "gain"))]
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in kept)


def test_a_baseline_may_start_from_a_network_with_a_decoder(trained, tmp_path):
    """The decoder is left out, and said; without blocking it changes nothing of what the rest does."""
    flags = f"--test_only {SPIKING} --output_dir {tmp_path} --pretrained_ann {trained.ann}"
    run_here("snn", f"{flags} --run_name whole")
    out = run_here("snn", f"{flags} -a VGG5_small --run_name baseline")[1]
    assert f"{trained.ann} has a decoder, which VGG5_small has not: it is left out" in out
    whole, baseline = (
        records(tmp_path / f"logs/snn/{name}.jsonl", "evaluation")[0]
        for name in ("whole", "baseline")
    )
    kept = {
        name: count
        for name, count in whole["spikes_per_layer"].items()
        if not name.startswith("generate")
    }
    assert (
        baseline["spikes_per_layer"] == kept != whole["spikes_per_layer"]
        and baseline["accuracy"] == whole["accuracy"]
    )


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """Path of an ANN with batch norms and QCFS."""
    folder = tmp_path_factory.mktemp("normed")
    run_here(
        "ann", f"{TINY} --norm batch --activation_ann qcfs --run_name x --output_dir {folder}"
    )
    return folder / "trained_models/ann/x.pth"


def test_an_ann_becomes_phased_without_training_and_is_saved(normed, tmp_path):
    """Its accuracy is the ANN's, by every engine; the log says how long an answer takes."""
    run_here(
        "ann",
        f"--pretrained_ann {normed} --test_only {DATA} --run_name ann --output_dir {tmp_path}",
    )
    flags = f"{DATA} --update phased --encoding direct --timesteps 4 --epochs 0 --holdout 0 --output_dir {tmp_path}"
    out = run_here(
        "snn", f"--pretrained_ann {normed} --readout membrane_linear {flags} --run_name snn"
    )[1]
    assert (
        "nothing is balanced" in out
        and "phased: an answer after 24 timesteps, an image every 4" in out
    )
    for engine in ("reference", "event"):
        snn = f"--pretrained_snn {tmp_path}/trained_models/snn/snn.pth --run_name {engine}"
        run_here("obj1", f"{snn} --engine {engine} {DATA} --output_dir {tmp_path}")
    (ann,), (snn,) = (
        records(tmp_path / f"logs/{kind}/{kind}.jsonl", "evaluation") for kind in ("ann", "snn")
    )
    again = [
        records(tmp_path / f"logs/snn/{engine}.jsonl", "evaluation")[0]
        for engine in ("reference", "event")
    ]
    assert [one["accuracy"] for one in (snn, *again)] == [ann["accuracy"]] * 3 and snn[
        "interval"
    ] == 4
    assert len({json.dumps(one["spikes_per_layer"]) for one in (snn, *again)}) == 1
    snn = f"--pretrained_snn {tmp_path}/trained_models/snn/snn.pth --output_dir {tmp_path} {DATA}"
    assert "update phased answers one image after the other" in refused(
        "stream", snn, "--scene switch"
    )


def test_an_ann_that_began_with_relu_is_trained_on_with_qcfs(trained, tmp_path):
    """But not evaluated so: nobody trained its bounds."""
    began = f"--pretrained_ann {trained.ann} {DATA} --activation_ann qcfs --output_dir {tmp_path}"
    run_here("ann", f"{began} --epochs 1 --run_name q")
    later = load_checkpoint(tmp_path / "trained_models/ann/q.pth")
    assert (
        "features.1.bound" in later["state_dict"] and later["settings"]["activation_ann"] == "qcfs"
    )
    evaluated = refused("ann", f"{began} --test_only --run_name e")
    assert "tiny.pth does not fit" in evaluated and ".bound is missing" in evaluated


def test_what_a_conversion_cannot_use_is_refused(trained, normed, tmp_path):
    convert = f"{DATA} --test_only --output_dir {tmp_path / 'out'} --pretrained_ann"
    assert "becomes a bias" in refused("snn", f"{convert} {normed} --no-bias")
    assert "needs --update immediate" in refused(
        "snn", f"{convert} {trained.ann} --calibrate --update delayed"
    )


def converted(ann, **settings):
    """An SNN of the ANN's weights, with its norms folded in, and its bounds as thresholds."""
    snn = VGG_SNN_STDB_wFeedback(
        **settings, bias=True, encoding="direct", initial_potential=0.5
    ).eval()
    snn.load_state_dict(
        conversion.bounds_as_thresholds(folded_in(ann.state_dict()))[0], strict=False
    )
    biases = conversion.biases_of(snn)
    conversion.fit_thresholds(snn), conversion.fit_biases(snn, biases)
    return snn


@pytest.mark.parametrize(
    ("levels", "pool", "norm"),
    [(4, "M", "batch"), (2, "A", "batch"), (1, "D", "batch"), (3, "A", "scale")],
)
@torch.no_grad()
def test_a_phased_network_answers_what_its_ann_answers(levels, pool, norm):
    """With T = L steps, norms, biases and pools: every layer's spikes are its activation, in whole numbers, and so are logits."""
    torch.manual_seed(1)
    own = {
        "plan": [[6, pool, 8, 8, pool], ["U", 6, "U", "in"]],
        "fc_width": 16,
        "image_shape": (1, 12, 12),
        "init": "kaiming",
    }
    ann = VGG_wFeedback(**own, norm=norm, activation_ann="qcfs", qcfs_levels=levels).eval()
    for module in ann.modules():
        if isinstance(module, BatchNorm):
            module.bias.uniform_(-0.2, 0.5), module.weight.uniform_(0.5, 1.5)
            module.running_mean.uniform_(-0.2, 0.2), module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, ScaledByBatch):
            module.gain.uniform_(0.5, 2), module.mean_square.uniform_(0.5, 1.5)
        elif hasattr(module, "bound"):
            module.bound.fill_(1.5)
    snn = converted(ann, **own, update="phased", timesteps=levels, readout="membrane_linear")
    x, activations = images(9, (1, 12, 12)), {}
    for name, module in ann.named_modules():
        module.register_forward_hook(
            lambda _, given, output, name=name: activations.update({name: output})
        )
    wanted, found = ann(x), snn(x, record=dict.fromkeys(snn.neurons(), "spikes"))
    assert (
        found.steps.unique() == snn.latency == 6 * levels
    )  # five layers behind each other, and the last
    unit = {one.target: unit / levels for one, unit in conversion.iter_units(snn)}
    for name, neuron in snn.neurons().items():
        value = found.recorded[name]["spikes"].sum(0) * unit[name] * neuron.threshold
        torch.testing.assert_close(value, activations[name], msg=name)
        assert 0 < value.count_nonzero() < value.numel()
    torch.testing.assert_close(found.logits * unit["output"], wanted.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        found.predictions[-1] * unit["decoded"],
        wanted.predictions[-1].logit(),
        rtol=1e-4,
        atol=1e-4,
    )


@torch.no_grad()
def test_calibrated_biases_give_each_channel_the_rate_of_the_ann():
    torch.manual_seed(0)
    own = {
        "plan": [[6, "M", 8, "M", 8, "A"], []],
        "fc_layers": 1,
        "fc_width": 16,
        "image_shape": (1, 12, 12),
    }
    ann = VGG_wFeedback(**own, norm="batch", activation_ann="qcfs", init="kaiming").train()
    x = images(16, (1, 12, 12))
    for _ in range(20):
        ann(x, seed=0)
    ann.eval()
    snn, values, said = (
        converted(ann, **own, update="immediate", timesteps=4, max_pool="count"),
        {},
        [],
    )
    conversion.calibrate_biases(
        snn, conversion.rates_of(ann, snn, x), x, lambda t: x, lambda *one: said.append(one)
    )
    for name, module in ann.named_modules():
        if name in snn.neurons():
            module.register_forward_hook(
                lambda _, given, output, name=name: values.update({name: output})
            )
    ann(x)
    sent = snn(x, record=dict.fromkeys(snn.neurons(), "spikes")).recorded
    assert [name for name, *_ in said] == list(snn.neurons())
    scale = {connection.target: unit for connection, unit in conversion.iter_units(snn)}
    for name, before, after in said:
        wanted = conversion.channel_means(values[name]) / (
            scale[name] * snn.neurons()[name].threshold
        )
        off = (
            (conversion.channel_means(sent[name]["spikes"].sum(0) / 4) - wanted)
            .square()
            .mean()
            .sqrt()
            .item()
        )
        assert off == pytest.approx(after, abs=1e-6)
        assert after < before / 3 or (
            name == "features.1" and before < 1e-6
        )  # of a constant drive the rate is exact


@pytest.mark.parametrize("update", ["immediate", "phased"])
@pytest.mark.parametrize(
    ("steps", "rate", "bias", "off"),
    [
        # off by 0.5, so 1.5 * 0.5 * 4 is added: V' = 3, 6, 5, 4, which is 2 spikes in 4 steps; phased V = 12, then 8, then 4
        (4, 0.5, 3.0, 0.0),
        (
            1,
            0.3,
            0.0,
            0.3,
        ),  # of rate 0 or 1: thrice 1.8 is added, it fires, 4.2 is taken off, …; after the 16th round it fires
    ],
)
@torch.no_grad()
def test_a_bias_is_shifted_in_thresholds_and_the_best_round_counts(steps, rate, bias, off, update):
    """One neuron of threshold 4 that gets nothing but its bias, from an ANN's that has this rate."""
    own = {"plan": [[1], []], "image_shape": (1, 1, 1), "kernel_size": 1, "fc_layers": 0}
    ann, snn = (
        VGG_wFeedback(**own).eval(),
        VGG_SNN_STDB_wFeedback(
            **own,
            bias=True,
            update=update,
            encoding="direct",
            timesteps=steps,
            default_threshold=4.0,
        ).eval(),
    )
    x, said = torch.ones(1, 1, 1, 1), []
    ann.features[0].weight.fill_(4 * rate)
    snn.features[0].weight.zero_()
    conversion.calibrate_biases(
        snn, conversion.rates_of(ann, snn, x), x, lambda t: x, lambda *one: said.append(one)
    )
    assert said == [("features.1", pytest.approx(rate), pytest.approx(off))]
    assert snn.features[0].bias.item() == pytest.approx(bias)


def of_two_neurons():
    """Two pixels, each with a neuron a = relu(2 x - 1/2), and two outputs."""
    stack = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    for parameter, values in zip(
        stack.parameters(), ([2.0], [-0.5], [1.0, -1.0, 0.5, 2.0], [0.25, -1.0]), strict=True
    ):
        parameter.data = torch.tensor(values).view_as(parameter)
    return stack


@pytest.mark.parametrize("engine", ["auto", "dense", "reference"])
@torch.no_grad()
def test_spikes_and_logits_by_hand(engine):
    """a = 1/2, 3/2 are two of the values that three steps can send with a threshold of 3/2: no other is so near. From V = 3/4 a
    neuron of drive 1/2 fires in step 2 (V' = 5/4, 7/4, 3/4), one of drive 3/2 in each. A spike is worth 3/2 in three steps."""
    x, stack = torch.tensor([0.5, 1.0]).view(1, 1, 1, 2), of_two_neurons()
    snn = from_ann(stack, x, timesteps=3, engine=engine)
    assert snn.thresholds == [1.5] and snn.features[0].bias.item() == -0.5
    assert snn.classifier[0].bias.tolist() == pytest.approx([0.25 / 1.5, -1 / 1.5])
    record = {} if engine == "auto" else {"record": {"features.1": "spikes"}}
    output = snn(x, **record)
    if record:
        assert output.recorded["features.1"]["spikes"].int().flatten(1).tolist() == [
            [0, 1],
            [1, 1],
            [0, 1],
        ]
    assert output.spikes["features.1"].tolist() == [4]
    assert output.logits[0].tolist() == pytest.approx([1 - 3 + 0.5, 0.5 + 6 - 2])
    torch.testing.assert_close(output.logits * 1.5 / 3, stack(x))  # the ANN's
    assert torch.equal(
        snn(x * 0).logits * 1.5 / 3, stack(x * 0)
    )  # where nothing fires the bias is all that there is


def test_bounds_by_hand():
    """One level: with theta up to 2 all ones are sent as theta, and (4 (1 - theta)² + (3 - theta)²) / 5 is least at 7/5."""
    assert conversion.nearest_bound(torch.tensor([0.0, 1, 1, 1, 1, 3]), 1) == pytest.approx(
        1.4, abs=0.01
    )
    assert conversion.nearest_bound(torch.zeros(4), 4) == 1
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).relu()
    tried = torch.linspace(0.2, 4, 96).tolist()
    errors = [
        (values - Staircase.apply(values, torch.tensor(theta), 4)).square().mean()
        for theta in tried
    ]
    best = tried[torch.stack(errors).argmin()]
    assert 1 < best < values.max() and conversion.nearest_bound(values, 4) == pytest.approx(
        best, abs=0.05
    )


def trained_stack(pool):
    """One of each layer that is taken, with norms that do something."""
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
    stack, x = trained_stack(pool), images(12, (3, 12, 12), 99)
    before = copy.deepcopy(stack.state_dict())
    snn = from_ann(stack, x, timesteps=400, update=update, engine="dense", classes=list("abcde"))
    assert stack.training and all(
        torch.equal(value, before[name]) for name, value in stack.state_dict().items()
    )
    *_, (output, unit) = conversion.iter_units(snn)
    assert output.target == "output" and snn.classes == list("abcde")
    wanted = stack.eval()(x)
    torch.testing.assert_close(
        snn(x).logits * unit / 400, wanted, rtol=0, atol=0.07 * wanted.abs().max().item()
    )


@pytest.mark.parametrize(("shift", "stays"), [(0.0, True), (-9.0, False)])
def test_a_calibration_that_helps_nothing_is_undone(monkeypatch, shift, stays):
    x, calibrated = torch.tensor([0.5, 1.0]).view(1, 1, 1, 2), []

    def calibrate(model, *given):
        model.features[0].bias.add_(shift)
        calibrated.append(model.features[0].bias.item())

    monkeypatch.setattr(self_models.guests.from_ann.converting, "calibrate_biases", calibrate)
    snn = from_ann(of_two_neurons(), x, timesteps=3)
    assert snn.features[0].bias.item() == -0.5 and (calibrated == [-0.5]) == stays
    assert (
        len(calibrated) == 1
        and from_ann(of_two_neurons(), x, 3, "delayed").thresholds == snn.thresholds
    )
    assert len(calibrated) == 1  # nothing is calibrated where a layer answers a step later


def test_a_decoder_is_added_and_other_settings_are_taken():
    x, own = images(4, (3, 12, 12)), {"encoding": "poisson", "readout": "membrane", "leak": 0.9}
    snn = from_ann(trained_stack(nn.AvgPool2d), x, timesteps=4, decoder="U 6 U in", **own)
    output = snn(x, seed=1)
    assert (
        output.predictions.shape == (4, *x.shape)
        and snn.settings["leak"] == 0.9
        and len(snn.thresholds) == 5
    )


PETS = {"dataset": "my/pets", "classes": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("shape", "outputs", "settings", "dataset"),
    [
        ((1, 28, 28), 10, {}, "MNIST"),
        ((3, 32, 32), 10, {}, "…/images"),
        ((1, 8, 8), 2, PETS, "my/pets"),
    ],
)
def test_of_which_images_it_is(tmp_path, shape, outputs, settings, dataset):
    """MNIST's where they may be; else a script says that it wants a folder, and does not blame images that nobody gave it."""
    stack = [
        nn.Conv2d(shape[0], 2, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * shape[1] * shape[2], outputs),
    ]
    snn = from_ann(
        nn.Sequential(*stack), torch.rand(2, *shape), timesteps=2, engine="dense", **settings
    )
    assert snn.background == (0.0 if dataset == "MNIST" else None)
    save_checkpoint(tmp_path / "x.pth", snn)
    again = load(tmp_path / "x.pth")
    assert (again.settings["dataset"], again.image_shape, again.classes) == (
        dataset,
        shape,
        snn.classes,
    )
    if dataset.startswith("…"):
        assert "and nothing says where it is: add --dataset FOLDER" in refused(
            "energy", tmp_path / "x.pth"
        )


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (
            (
                nn.Conv2d(1, 4, 3, 1, 1),
                nn.ReLU(),
                nn.Conv2d(4, 4, 3, 1, 1, groups=2),
                nn.Flatten(),
                nn.Linear(256, 10),
            ),
            r"layer 2 \(Conv2d\) stands where",
        ),
        (
            (Residual(nn.Conv2d(1, 1, 3, padding=1)), nn.Flatten(), nn.Linear(64, 10)),
            "does not stand right before it",
        ),
        (
            (nn.Flatten(), nn.Linear(64, 10)),
            r"layer 0 \(Flatten\) begins no network with a decoder, .*: conv",
        ),
    ],
    ids=["grouped", "residual", "linear"],
)
def test_a_decoder_is_added_to_plain_networks_alone(layers, words):
    stack = nn.Sequential(*layers)
    with pytest.raises(ModelError, match=words):
        from_ann(stack, torch.rand(2, 1, 8, 8), decoder="in")
    assert isinstance(from_ann(stack, torch.rand(2, 1, 8, 8), timesteps=2), TracedSNN)


def test_the_pages_ann_is_trained_converted_evaluated_priced_and_exported(tmp_path, monkeypatch):
    """The blocks of docs/how_to/own_model.md as they stand; the network loses little."""
    monkeypatch.chdir(tmp_path)
    page, space = (REPOSITORY / "docs/how_to/own_model.md").read_text(encoding="utf-8"), {}
    for title in ("train", "convert"):
        exec(re.search(rf"^```python\n(# {title}\n.*?)^```$", page, re.M | re.S)[1], space)
    shown, found = space["test"].whole(), space["found"]
    with torch.no_grad():
        accuracy = (space["ann"](shown.images).argmax(1) == shown.labels).double().mean().item()
    assert accuracy > 0.9 and found["images"] == 2000 and found["accuracy"] > accuracy - 0.01
    assert space["snn"].runs_by == "event" and found["energy_event_joules"] > 0
    said = run_here("energy", "mine.pth --limit_test 16")[1]
    assert "mine.pth" in said and "45 nm" in said
    run_here("export", "mine.pth --to torch")
    assert (tmp_path / "mine_torch.pt").is_file()


def test_a_decoder_that_the_ann_lacks_is_not_made_up(tmp_path):
    """Only an SNN that goes on learning may get one at random: here its thresholds would be balanced."""
    path = tmp_path / "ann.pth"
    save_checkpoint(path, VGG_wFeedback("VGG5_small", fc_width=8))
    flags = f"--pretrained_ann {path} -a VGG5_wFeedback_small --fc_width 8 {SPIKING}"
    assert "generate.0.weight is missing" in refused("snn", flags, f"--output_dir {tmp_path}")
