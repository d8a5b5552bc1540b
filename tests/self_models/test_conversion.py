"""How ANNs become SNNs, ours and, by from_ann, those of others."""

import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import (
    BIAS,
    UNKNOWN,
    Residual,
    become,
    build,
    images,
    snn_for,
    tiny,
)
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from self_models import ModelError, conversion, from_ann, load
from self_models.neurons.norms import BatchNorm, ScaledByBatch, Staircase, folded_in
from self_models.neurons.spiking import SpikingNeuron
from self_models.traced import converting
from self_models.traced.traced_snn import TracedSNN
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.runs.saving import save_checkpoint

STEPS = 12
FORKED = [[4, "D", 6, "fork", 6, "D"], ["U", 4, "in"]]


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
