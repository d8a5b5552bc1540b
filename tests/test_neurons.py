"""Spiking neurons, surrogate gradients and held dropout, against numbers worked out on paper."""

from math import exp, inf

import pytest
import torch
from conftest import PLAN, images

from self_models.basics import ModelError
from self_models.fast.batched.neurons import neuron_steps
from self_models.fast.batched.phased import fired
from self_models.network.neurons import NeuronState, PhasedNeuron, SpikingNeuron
from self_models.network.surrogates import SURROGATES
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
    ("drives", "start", "expected"),
    [
        ([1.5, 1.25, 9, 9], 0, [(0, 1.5), (0, 2.75), (1, 1.75), (1, 0.75)]),
        ([1, 1, 9, 9, 9], 0, [(0, 1), (0, 2), (1, 1), (0, 1), (0, 1)]),  # at 2 thresholds: one spike, at 1 none
        ([5, 1, -9, -9, -9], 0.5, [(0, 5.5), (0, 6.5), (1, 5.5), (1, 4.5), (0, 4.5)]),  # at most T, and what is left is dropped
        ([-1, 1.5, 0, 0], 0.75, [(0, -0.25), (0, 1.25), (1, 0.25), (0, 0.25)]),
    ],
)
def test_a_phased_layer_charges_and_then_fires_by_hand(drives, start, expected):
    """T = 2, threshold 1, of the layer behind the first, after 2 steps of rest: what arrives out of its phase is lost."""
    layer = PhasedNeuron(SURROGATES.find("Linear")(0.3, 0.01), "phased", initial_potential=start)
    layer.phase, layer.steps, state, seen = 1, 2, None, []
    for drive in torch.tensor([7.0, 7.0, *drives]).view(-1, 1, 1):
        spikes, state = layer(drive, state)
        seen.append((spikes.item(), state.v.item()))
    assert seen == [(0, start), (0, start), *expected]
    assert fired(layer, torch.tensor([[sum(drives[:2])]]), 2).flatten().tolist() == [spike for spike, _ in expected[2:4]]


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
    spiked = (spikes.unflatten(0, (4, 5)) * weights).sum(), (expected * weights).sum()
    for losses in (spiked, (state.v.sum(), last.sum())):
        found, wanted = (torch.autograd.grad(loss, layer.threshold, retain_graph=True) for loss in losses)
        torch.testing.assert_close(found, wanted)
    if update == "delayed":
        first, *_ = neuron_steps(layer, drives[0])
        assert not first.any() and torch.autograd.grad(first.sum(), layer.threshold)[0].item() == pytest.approx(0, abs=1e-5)


def by_autograd(drives, v, theta, leak, update, slope, floor=inf):
    """The equations of a step, one operation at a time: (spikes (T, B, N), last V), with PyTorch's own gradients."""
    spikes, age = [], torch.full_like(v, inf)
    for drive in drives:
        v = leak * v + drive if update == "immediate" else v
        distance = v / theta - 1
        smooth = distance * slope(distance.detach(), age)  # its derivative is the surrogate's
        s = (distance > 0).float() + (smooth - smooth.detach())
        v = v - theta * s.detach() if update == "immediate" else leak * v + drive - theta * s.detach()
        v = v if floor == inf else torch.maximum(v, -floor * theta)
        age = torch.where(s > 0, 0.0, age) + 1
        spikes.append(s)
    return torch.stack(spikes), v


SLOPES = {
    "Linear": lambda v, age: 0.3 * (1 - v.abs()).clamp(min=0),
    "Triangle": lambda v, age: (1 - v.abs()).clamp(min=0),
    "STDB": lambda v, age: 0.3 * torch.exp(-age) ** 0.01,
}


@pytest.mark.parametrize("floor", [None, 0.3])
@pytest.mark.parametrize("activation", list(SLOPES))
@pytest.mark.parametrize("update", ["delayed", "immediate"])
def test_hand_written_gradient_is_that_of_the_equations(update, activation, floor):
    draw = torch.Generator().manual_seed(0)
    drives, v, weights = (torch.randn(shape, generator=draw) for shape in ((6, 5, 7), (5, 7), (6, 5, 7)))
    layer = neuron(update, 0.8, 0.9, activation, learn_threshold=True, learn_leak=True, floor=floor)
    inputs = [drives.requires_grad_(), v.requires_grad_(), layer.threshold, layer.leak]
    spikes, state, counts = neuron_steps(layer, drives.flatten(0, 1), NeuronState(v), 6)
    spikes = spikes.unflatten(0, (6, 5))
    expected, last = by_autograd(*inputs, update, SLOPES[activation], inf if floor is None else floor)
    assert torch.equal(spikes, expected) and 0.1 < spikes.mean() < 0.9
    assert torch.equal(counts, expected.sum(2))
    torch.testing.assert_close(state.v, last)

    def losses(s, count, v):
        parts = [(s * weights).sum(), (count * weights[..., 0]).sum(), (v * weights[1]).sum()]
        return [*parts, sum(parts)]

    for ours, theirs in zip(losses(spikes, counts, state.v), losses(expected, expected.sum(2), last), strict=True):
        found, wanted = (torch.autograd.grad(one, inputs, retain_graph=True, materialize_grads=True) for one in (ours, theirs))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("update", "spikes", "membranes"),
    [("delayed", [0, 0, 0, 1, 0], [-0.5, 0.25, 1.5, 0.5, -0.5]), ("immediate", [0, 0, 1, 0, 0], [-0.5, 0.25, 0.5, 0.5, -0.5])],
)
def test_a_membrane_does_not_fall_below_its_floor_by_hand(update, spikes, membranes):
    """theta 1, floor 0.5; where V lies on its floor no gradient goes back."""
    drives = [-2.0, 0.75, 1.25, 0, -3]
    assert trace(drives, update=update, floor=0.5) == list(zip(spikes, membranes, strict=True))
    drive = torch.tensor(drives[:4]).view(4, 1).requires_grad_()
    _, state, _ = neuron_steps(neuron(update, floor=0.5), drive, steps=4)
    state.v.sum().backward()
    assert drive.grad[0].item() == 0 and drive.grad[3].item() == 1


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


def test_impossible_dynamics_are_refused():
    for name, value in (("leak", 1.1), ("leak", -0.1), ("leak", float("nan")), ("threshold", 0.0)):
        with pytest.raises(ModelError, match=name):
            neuron(**{name: value})


@pytest.mark.parametrize(("learn_threshold", "learn_leak"), [(False, True), (True, False)])
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
