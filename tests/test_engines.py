"""A network run by its step(), by whole layers over many steps, and event by event: the same, whatever its parts and settings.

Weights on the 1/16 grid make every sum exact, so that equal means equal; leaks and what forgets leave the grid, and then values
are compared within rounding. benchmarks/robustness/engines.py takes a thousand cases.
"""

import copy

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from test_event_engine import GRID, Tired, become, build

from self_models import ModelError, first_difference
from self_models.fast.event.engine import EventEngine
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN

PLANS = {
    "plain": [[4, "D", 6, 6, "D"], ["U", 4, "drop", "U", "in"]],
    "fork": [[4, "D", 6, "fork", 6, "D", 5], ["U", "in"]],
    "deep": [[4, "D", 5, 6, "D"], ["U", 5, "drop", 3, "U", "in"]],
    "maximum": [[4, "M", 5, "fork", 6, "M", 6, "A"], ["U", "in"]],
    "no decoder": [[4, "A", 6, "M", 5], []],
}
SETTINGS = {
    "plan": st.sampled_from(list(PLANS)),
    "gate": st.sampled_from(["open", "block", "block", "contrast", "once"]),
    "rule": st.sampled_from(["never", "never", "confidence", "entropy", "all_predicted", "both"]),
    "readout": st.sampled_from(
        ["spike_count", "spike_count_rescaled", "membrane", "membrane_linear", "membrane_linear", "membrane_rescaled"]
    ),
    "encoding": st.sampled_from(["poisson", "poisson", "direct"]),
    "update": st.sampled_from(["delayed", "immediate", "phased"]),
    "leak": st.sampled_from([1.0, 1.0, 0.5]),
    "output_leak": st.sampled_from([1.0, 1.0, 0.5]),
    "membrane_floor": st.sampled_from([None, None, 0.0, 0.5]),
    "feedback_interval": st.sampled_from([1, 1, 2, 3]),
    "bias": st.booleans(),
    "output_bias": st.booleans(),
    "initial_potential": st.sampled_from([0.0, 0.5]),
    "max_pool": st.sampled_from(["or", "count"]),
    "readout_slew": st.sampled_from([0.0, 0.25]),
    "readout_leak": st.sampled_from([1.0, 1.0, 0.5]),
    "image_shape": st.sampled_from([(1, 12, 10), (1, 9, 11), (2, 12, 10), (3, 8, 8)]),
    "recorded": st.sampled_from([False, False, False, True]),
    "predict": st.sampled_from(["frame", "next"]),
    "surprise": st.sampled_from([0.0, 0.0, 1.0]),
    "activation": st.sampled_from(["Linear", "Triangle", "STDB"]),
    "own": st.fixed_dictionaries(
        {
            "epsilon": st.sampled_from([0.1, 0.3]), "blocking": st.sampled_from(["permanent", "dynamic"]), "latch": st.booleans(),
            "residual": st.booleans(), "together": st.booleans(), "contrast": st.sampled_from(["local", "original", "none"]),
            "guess": st.sampled_from(["prediction", "interpolation", "decoder"]), "grid": st.sampled_from([1, 2, 4]),
            "grid_steps": st.sampled_from([1, 2]), "fill": st.booleans(), "wait": st.booleans(), "gap_bound": st.just(1.0),
            "open_bound": st.just(0.3), "entropy_bound": st.just(0.5),
        }
    ),
    "seed": st.integers(0, 999),
}  # fmt: skip
STEPS, IMAGES = 7, 3
OF_PART = {
    "open": (),
    "block": ("epsilon", "blocking", "latch", "residual", "together"),
    "contrast": ("epsilon", "blocking", "latch", "contrast"),
    "once": ("epsilon", "together", "grid", "grid_steps", "guess", "fill", "wait"),
}


PHASED = {
    "leak": 1.0, "output_leak": 1.0, "membrane_floor": None, "feedback_interval": 1, "surprise": 0.0, "rule": "never",
}  # fmt: skip


def network(plan, gate, own, recorded, seed, **settings):
    """A network of these settings, as far as they go together; hypothesis is told where they do not."""
    settings |= {name: own[name] for name in (*OF_PART[gate], "gap_bound", "open_bound", "entropy_bound")}
    settings |= {"recorded_frames": STEPS} if recorded else {"predict": "frame"}
    if gate == "once":
        settings["encoding"] = "direct"
    if recorded and gate == "block":
        settings["blocking"] = "dynamic"
    if gate != "block" or settings["blocking"] != "dynamic":
        settings["surprise"] = 0.0
    if settings["update"] == "phased":
        settings |= PHASED | {"once": {"guess": "interpolation", "wait": True}, "block": {"epsilon": 0.0}}.get(gate, {})
    if not PLANS[plan][1]:
        settings |= {"feedback_interval": 1, **({"epsilon": 0.0} if "epsilon" in settings else {})}
    try:
        cls = VGG_SNN_STDB_wFeedback if gate == "open" else AdaptiveTimestepsSNN
        return build(cls=cls, plan=PLANS[plan], gate=gate, timesteps=STEPS, fc_width=12, dropout=0.5, **settings)
    except ModelError:
        hypothesis.reject()


def on_grid(model, seed):
    """Images, or recordings in which half of the frames stay as they were, on the grid; and draws."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.rand(IMAGES, *[STEPS] * bool(model.frames), *model.image_shape, generator=draw) * GRID).round() / GRID
    x = x * 2 - 1 if model.image_shape[0] == 3 else x
    x = x * (torch.rand(x.shape, generator=draw) > 0.2)
    if model.frames:
        for t in range(1, STEPS):
            stays = torch.rand(IMAGES, generator=draw) < 0.5
            x[stays, t] = x[stays, t - 1]
    return x, torch.rand(STEPS, IMAGES, *model.image_shape, generator=draw)


def by_steps(model):
    baseline = copy.deepcopy(model)
    baseline.batched = False
    return baseline


def named(name):
    return lambda text: f"{name}: {text}"


def gradients(model, x, u):
    """Of every weight, of a loss in which all that training knows has a part."""
    output = model(x, u, seed=1)
    errors = 0 if output.errors is None else output.errors.sum()
    loss = output.logits.square().sum() + errors + 1e-3 * sum(counts.sum() for counts in output.spikes.values())
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values()), materialize_grads=True), strict=True))


def check_case(case):
    """One network: equal in evaluation by every engine that can run it, in training equal gradients. Returns who ran it."""
    model = network(**case)
    plain, (x, u) = by_steps(model), on_grid(model, case["seed"])
    record = dict.fromkeys(model.neurons(), ("spikes", "membrane")) | {"input": "spikes", "output": "membrane"}
    exact = case["leak"] == case["output_leak"] == case["readout_leak"] == 1 and not case["surprise"] and not case["readout_slew"]
    exact &= case["readout"] == "membrane_linear" and case["own"]["contrast"] != "original" and case["gate"] in ("open", "block")
    ran, tolerance = ["reference", "batched"], 0 if exact else 1e-4
    with torch.no_grad():
        wanted = plain(x, u, record=record)
        for found in (model(x, u, record=record), model(x, u)):
            assert first_difference(found, wanted, tolerance=tolerance) is None
        if case["gate"] in ("open", "block"):
            assert first_difference(EventEngine(model)(x, u), wanted, tolerance=tolerance) is None
            ran.append("event")
    model.change(rule="never"), plain.change(rule="never")
    for one in (model, plain):
        one.train()
    found, expected = gradients(model, x, u), gradients(plain, x, u)
    for name, gradient in expected.items():
        near = {"rtol": 1e-4, "atol": 1e-4 * gradient.abs().max().item() + 1e-6}
        torch.testing.assert_close(found[name], gradient, **near, msg=named(name))
    return ran


CASES = st.fixed_dictionaries(SETTINGS)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(CASES)
def test_every_engine_runs_the_network_as_its_step_says(case):
    check_case(case)


def test_a_step_of_ones_own_runs_by_itself_and_no_other_way():
    """A network whose step differs: the reference runs it, in training, too, and the event engine says by name why not."""

    class Halved(VGG_SNN_STDB_wFeedback):
        def step(self, run, image, u):
            return super().step(run, image, u * 2)  # half as many spikes are sent

    model, other = build(cls=Halved), build(cls=VGG_SNN_STDB_wFeedback)
    x, u = on_grid_images(model)
    with torch.no_grad():
        assert torch.equal(model(x, u).logits_by_step, by_steps(other)(x, 2 * u).logits_by_step)
    gradients_of = gradients(model.train(), x, u)
    assert all(value is not None for name, value in gradients_of.items() if name.startswith("classifier"))
    try:
        EventEngine(model.eval()).check()
    except ModelError as error:
        assert "Halved.step" in str(error)
    else:
        raise AssertionError("the event engine would run a step that it does not know")


def on_grid_images(model):
    draw = torch.Generator().manual_seed(0)
    x = (torch.rand(IMAGES, *model.image_shape, generator=draw) * GRID).round() / GRID
    return x, torch.rand(model.timesteps, *x.shape, generator=draw)


def halve_current(neuron):
    forward = neuron.forward
    neuron.forward = lambda current, state=None: forward(current / 2, state)


@pytest.mark.parametrize("change", [become(Tired), halve_current])
@torch.no_grad()
def test_neurons_that_change_what_they_do_are_run_as_they_do_from_then_on(change):
    """In a network that has run, many steps at once: its neurons become others, or get a forward of their own."""
    model = build()
    x, u = on_grid_images(model)
    model(x, u)
    assert model.runs_by == "dense"
    change(model.features[1])
    assert model.runs_by == "reference"
    assert first_difference(model(x, u), by_steps(model)(x, u), tolerance=0) is None
