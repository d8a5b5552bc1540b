"""Spiking neurons, surrogate gradients and held dropout, against numbers worked out on paper."""

from math import exp, inf

import pytest
import torch
from conftest import PLAN, REPOSITORY, images

from harness.data.sets import load_data
from self_models.basics.errors import ModelError
from self_models.fast.batched import stages
from self_models.fast.batched.neurons import neuron_steps
from self_models.loading import load
from self_models.network.neurons import HeldDropout, NeuronState, SpikingNeuron
from self_models.network.surrogates import SURROGATES
from self_models.running.draws import Draws
from self_models.running.steps import RunState, View
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


def neuron(update="delayed", threshold=1.0, leak=1.0, activation="Linear", **learn):
    return SpikingNeuron(SURROGATES.find(activation)(alpha=0.3, beta=0.01), update, threshold, leak, **learn)


def trace(drives, **settings):
    """(spike, membrane potential) after each drive, by a step's equations and as fast/batched takes the steps."""
    layer, state, other, seen = neuron(**settings), None, None, []
    for drive in torch.tensor(drives).view(-1, 1, 1):
        spikes, state = layer(drive, state)
        fast, other, _ = neuron_steps(layer, drive, other)
        assert torch.equal(spikes, fast) and torch.equal(state.v, other.v)
        seen.append((spikes.item(), pytest.approx(state.v.item(), abs=1e-6)))
    return seen


@pytest.mark.parametrize(
    ("update", "drives", "threshold", "leak", "expected"),
    [
        ("delayed", [0.6, 0.6, 0.0], 1, 1, [(0, 0.6), (0, 1.2), (1, 0.2)]),
        ("delayed", [3, 3, 0, 0], 2, 0.5, [(0, 3), (1, 2.5), (1, -0.75), (0, -0.375)]),
        ("delayed", [2.5, 0, 0, 0], 1, 1, [(0, 2.5), (1, 1.5), (1, 0.5), (0, 0.5)]),
        ("delayed", [-1, 1, 1, 0.5, 0], 1, 0, [(0, -1), (0, 1), (0, 1), (0, 0.5), (0, 0)]),
        ("delayed", [1, 0, 0], 1, 1, [(0, 1), (0, 1), (0, 1)]),  # exactly at threshold: no spike
        ("immediate", [0.6, 0.6, 0.0], 1, 1, [(0, 0.6), (1, 0.2), (0, 0.2)]),
        ("immediate", [3, 3, 0], 2, 0.5, [(1, 1), (1, 1.5), (0, 0.75)]),
        ("immediate", [2.5, 0, 0, 0], 1, 1, [(1, 1.5), (1, 0.5), (0, 0.5), (0, 0.5)]),
        ("immediate", [-1, 1, 2, 0.5], 1, 0, [(0, -1), (0, 1), (1, 1), (0, 0.5)]),
        ("immediate", [1, 0.5], 1, 1, [(0, 1), (1, 0.5)]),  # exactly at threshold: no spike
    ],
)
def test_updates_by_hand(update, drives, threshold, leak, expected):
    assert trace(drives, update=update, threshold=threshold, leak=leak) == expected


@pytest.mark.parametrize(
    ("update", "leak", "expected"),
    [("immediate", 0.8, [(1, 0.1), (0, 0.58), (0, 0.964)]), ("delayed", 1, [(0, 1.75), (1, 0.75), (0, 1.25)])],
)
def test_a_start_at_half_the_threshold_by_hand(update, leak, expected):
    """Threshold 1.5, drives 1, 0.5, 0.5: V begins at 0.75."""
    found = trace([1, 0.5, 0.5], update=update, threshold=1.5, leak=leak, initial_potential=0.5)
    assert found == expected


@pytest.mark.parametrize("update", ["delayed", "immediate"])
def test_a_learned_threshold_learns_from_where_membranes_begin(update):
    """As PyTorch differentiates the equations with V = 0.4 theta at first. So the first spike of a delayed neuron, which compares
    one with the other, has no gradient."""
    drives = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0)) + 0.3
    layer = neuron(update, 0.8, 0.9, learn_threshold=True, initial_potential=0.4)
    spikes, state, _ = neuron_steps(layer, drives.flatten(0, 1), None, 4)
    v = (0.4 * layer.threshold).expand(5, 7)
    expected, last = by_autograd(drives, v, layer.threshold, layer.leak, update, SLOPES["Linear"])
    assert torch.equal(spikes.unflatten(0, (4, 5)), expected) and expected.any()
    weights = torch.rand(4, 5, 7)
    for found, wanted in (
        ((spikes.unflatten(0, (4, 5)) * weights).sum(), (expected * weights).sum()),
        (state.v.sum(), last.sum()),
    ):
        (gradient,), (other,) = (torch.autograd.grad(loss, layer.threshold, retain_graph=True) for loss in (found, wanted))
        torch.testing.assert_close(gradient, other)
    if update == "delayed":
        first, *_ = neuron_steps(layer, drives[0])
        assert not first.any() and torch.autograd.grad(first.sum(), layer.threshold)[0].item() == pytest.approx(0, abs=1e-5)


def by_autograd(drives, v, theta, leak, update, slope):
    """The equations of a step, one operation at a time: (spikes (T, B, N), last V), with PyTorch's own gradients."""
    spikes, age = [], torch.full_like(v, inf)
    for drive in drives:
        v = leak * v + drive if update == "immediate" else v
        distance = v / theta - 1
        smooth = distance * slope(distance.detach(), age)  # its derivative is the surrogate's
        s = (distance > 0).float() + (smooth - smooth.detach())
        v = v - theta * s.detach() if update == "immediate" else leak * v + drive - theta * s.detach()
        age = torch.where(s > 0, 0.0, age) + 1
        spikes.append(s)
    return torch.stack(spikes), v


SLOPES = {
    "Linear": lambda v, age: 0.3 * (1 - v.abs()).clamp(min=0),
    "Triangle": lambda v, age: (1 - v.abs()).clamp(min=0),
    "STDB": lambda v, age: 0.3 * torch.exp(-age) ** 0.01,
}


@pytest.mark.parametrize("used", ["spikes", "count", "v", "all"])
@pytest.mark.parametrize("activation", list(SLOPES))
@pytest.mark.parametrize("update", ["delayed", "immediate"])
def test_hand_written_gradient_is_that_of_the_equations(update, activation, used):
    draw = torch.Generator().manual_seed(0)
    drives, v, weights = (torch.randn(shape, generator=draw) for shape in ((6, 5, 7), (5, 7), (6, 5, 7)))
    layer = neuron(update, 0.8, 0.9, activation, learn_threshold=True, learn_leak=True)
    inputs = [drives.requires_grad_(), v.requires_grad_(), layer.threshold, layer.leak]
    spikes, state, counts = neuron_steps(layer, drives.flatten(0, 1), NeuronState(v), 6)
    spikes = spikes.unflatten(0, (6, 5))
    expected, last = by_autograd(*inputs, update, SLOPES[activation])
    assert torch.equal(spikes, expected) and 0.1 < spikes.mean() < 0.9
    assert torch.equal(counts, expected.sum(2))
    torch.testing.assert_close(state.v, last)

    def gradients(s, count, v):
        parts = {"spikes": (s * weights).sum(), "count": (count * weights[..., 0]).sum(), "v": (v * weights[1]).sum()}
        loss = sum(parts.values()) if used == "all" else parts[used]
        return torch.autograd.grad(loss, inputs, materialize_grads=True)

    wanted = gradients(expected, expected.sum(2), last)
    for found, each in zip(gradients(spikes, counts, state.v), wanted, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("update", ["delayed", "immediate"])
def test_steps_together_are_the_steps_one_by_one(update):
    drives = torch.randn(6, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    for gradient in (True, False):
        layer, state, seen = neuron(update, 0.8, 0.9, "STDB", learn_leak=gradient), None, []
        for drive in drives:
            spikes, state, counts = neuron_steps(layer, drive, state)
            seen.append((spikes, counts))
        together, last, counted = neuron_steps(layer, drives.flatten(0, 1), steps=6)
        for whole, parts in zip((together, counted), zip(*seen, strict=True), strict=True):
            assert torch.equal(whole, torch.cat(parts))
        assert torch.equal(last.v, state.v) and (not gradient or torch.equal(last.age, state.age))


DISTANCES = [-1.5, -1.0, -0.5, 0.0, 0.25, 2.0]


@pytest.mark.parametrize(
    ("activation", "v", "age", "expected"),
    [
        ("Linear", DISTANCES, [inf] * 6, [0, 0, 0.15, 0.3, 0.225, 0]),  # 0.3 max(0, 1 - |v|)
        ("Triangle", DISTANCES, [inf] * 6, [0, 0, 0.5, 1, 0.75, 0]),
        ("STDB", [0.5, -3.0, 0.5, 0.5], [1.0, 2.0, 50.0, inf], [0.4 * exp(-0.02), 0.4 * exp(-0.04), 0.4 * exp(-1), 0]),
    ],
)
def test_surrogates_by_hand(activation, v, age, expected):
    """Age infinity: a neuron that has never spiked."""
    surrogate, v = SURROGATES.find(activation)(alpha=0.4, beta=0.02), torch.tensor(v)
    found = surrogate.scale * surrogate.onto(torch.ones_like(v), v, torch.tensor(age))
    assert found.tolist() == pytest.approx(expected)


def test_clamp_dynamics():
    layer = neuron(learn_threshold=True, learn_leak=True)
    for given, kept in (((-1.0, 1.5), (0.01, 1.0)), ((0.7, -0.2), (0.7, 0.0)), ((2.0, 0.5), (2.0, 0.5))):
        layer.threshold.data.fill_(given[0])
        layer.leak.data.fill_(given[1])
        layer.clamp_dynamics()
        assert (layer.threshold.item(), layer.leak.item()) == pytest.approx(kept)
    balanced = neuron(threshold=0.005)
    balanced.clamp_dynamics()
    assert balanced.threshold.item() == pytest.approx(0.005)  # not learned: as balancing found it


@pytest.mark.parametrize("settings", [{"leak": 1.1}, {"leak": -0.1}, {"leak": float("nan")}, {"threshold": 0.0}])
def test_impossible_dynamics_are_refused(settings):
    with pytest.raises(ModelError, match=next(iter(settings))):
        neuron(**settings)


@pytest.mark.parametrize(("learn_threshold", "learn_leak"), [(False, False), (True, False), (False, True), (True, True)])
def test_threshold_and_leak_learn_only_when_asked(learn_threshold, learn_leak):
    torch.manual_seed(0)
    model = VGG_SNN_STDB_wFeedback(
        plan=PLAN, fc_width=8, timesteps=4, update="immediate", leak=0.9, default_threshold=0.3, dropout=0.0,
        learn_threshold=learn_threshold, learn_leak=learn_leak,
    )  # fmt: skip
    output = model(images(3))
    (output.logits.square().sum() + output.errors.sum()).backward()
    first = model.neurons()["features.1"]
    for parameter, learns in ((first.threshold, learn_threshold), (first.leak, learn_leak)):
        assert (parameter.grad is not None and parameter.grad.item() != 0) == learns
    assert all(layer.threshold.requires_grad == learn_threshold for layer in model.neurons().values())
    assert all(layer.leak.requires_grad == learn_leak for layer in model.neurons().values())


def test_held_dropout():
    dropout, ones = HeldDropout(0.25), torch.ones(2, 2000)
    first, mask = dropout(ones, draws=Draws(0, 1, torch.arange(2)))
    again, _ = dropout(2 * ones, mask)
    assert torch.equal(again, 2 * first)
    assert not torch.equal(first[0], first[1])  # each image has a mask of its own
    assert torch.equal(dropout.eval()(ones)[0], ones)


def test_dropout_masks_are_held_over_all_steps_of_a_model():
    torch.manual_seed(0)
    model, x = VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=32, timesteps=8, dropout=0.5).train(), images(2)
    run, names = model.start(x), [name for name, module in model.named_modules() if isinstance(module, HeldDropout)]
    held = []
    for draws in torch.rand(8, *x.shape):
        model.step(run, x, draws)
        held.append({name: run.memory[name] for name in names})
    assert {name.split(".")[0] for name in names} == {"features", "generate", "classifier"}
    for name in names:
        masks = [step[name] for step in held if step[name] is not None]  # none before the first spikes can have arrived
        assert len(masks) > 1 and all(torch.equal(masks[0], later) for later in masks)
        assert not torch.equal(masks[0][0], masks[0][1])


@pytest.mark.parametrize("settings", [{}, {"blocking": "dynamic"}, {"leak": 0.9}, {"rule": "confidence"}], ids=str)
@torch.no_grad()
def test_quiet_neurons_are_left_alone_and_nothing_changes(settings, monkeypatch):
    """With blocking a network falls silent; then its layers are not asked any more, unless something may still happen in them."""
    model = load(REPOSITORY / "trained_models/snn/quick_feedback.pth", engine="dense", timesteps=30, **settings)
    x, found, asked = load_data("MNIST")[2].images[:2], [], []
    model.features[3].register_forward_hook(lambda _, given, output: asked.append(len(output)))
    for quiet in (True, False):
        if not quiet:
            monkeypatch.setattr(stages, "stays_quiet", lambda neuron: False)
        output = model(x, seed=1)
        found.append((*output.spikes_by_step.values(), output.logits_by_step, output.predictions, output.is_open))
        if not settings:
            silent = (output.spikes_by_step["features.1"].sum(1) == 0).sum().item()
            assert silent > 5 and (len(asked) == 30) == (not quiet) and sum(asked) == 2 * (30 - silent)
        asked.clear()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_part_of_a_batch_keeps_what_is_known_of_its_neurons():
    """Some images stop while the layers of others are quiet."""
    state = NeuronState(torch.arange(3.0), None, (1.0, 1.0, None))
    run = RunState(
        torch.zeros(3, 1, 2, 2), View(torch.zeros(3, 1, 2, 2)), torch.zeros(3, 4), memory={"features.1": state, "x": None}
    )
    chosen = run.select(torch.tensor([2, 0])).memory
    assert chosen["features.1"].v.tolist() == [2, 0] and chosen["features.1"].quiet == state.quiet and chosen["x"] is None
