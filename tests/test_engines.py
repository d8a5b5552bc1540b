"""A network run by its step(), by whole layers over many steps, and event by event: the same, whatever its parts and settings.

Weights on the 1/16 grid make every sum exact, so that equal means equal; leaks and what forgets leave the grid, and then values
are compared within rounding. benchmarks/robustness/engines.py takes a thousand cases.
"""

import copy
import random
from unittest import mock

import pytest
import torch
from conftest import GRID, Tired, become, build, inputs

from self_models import ModelError, first_difference
from self_models.counting.operations import OperationCounter
from self_models.fast.batched.folding import FoldedChain
from self_models.kernel.engine import EventEngine
from self_models.running.chunks import AT_ONCE
from self_models.running.outputs import errors_by_step, open_share_by_step
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN

PLANS = {
    "plain": [[4, "D", 6, 6, "D"], ["U", 4, "drop", "U", "in"]],
    "fork": [[4, "D", 6, "fork", 6, "D", 5], ["U", "in"]],
    "deep": [[4, "D", 5, 6, "D"], ["U", 5, "drop", 3, "U", "in"]],
    "linear": [[2, "D", "D", 3], ["U", "U", "in"]],
    "maximum": [[4, "M", 5, "fork", 6, "M", 6, "A"], ["U", "in"]],
    "no decoder": [[4, "A", 6, "M", 5], []],
}
SETTINGS = {  # a value that stands twice is drawn twice as often
    "plan": list(PLANS),
    "gate": ["open", "block", "block", "contrast", "once"],
    "rule": ["never", "never", "confidence", "entropy", "all_predicted", "both"],
    "readout": ["spike_count", "spike_count_rescaled", "membrane", "membrane_linear", "membrane_linear", "membrane_rescaled"],
    "encoding": ["poisson", "poisson", "direct"],
    "update": ["delayed", "immediate", "phased"],
    "leak": [1.0, 1.0, 0.5],
    "output_leak": [1.0, 1.0, 0.5],
    "membrane_floor": [None, None, 0.0, 0.5],
    "feedback_interval": [1, 1, 2, 3],
    "bias": [False, True],
    "output_bias": [False, True],
    "initial_potential": [0.0, 0.5],
    "max_pool": ["or", "count"],
    "readout_slew": [0.0, 0.25],
    "readout_leak": [1.0, 1.0, 0.5],
    "image_shape": [(1, 12, 10), (1, 9, 11), (2, 12, 10), (3, 8, 8)],
    "recorded": [False, False, False, True],
    "predict": ["frame", "next"],
    "surprise": [0.0, 0.0, 1.0],
    "activation": ["Linear", "Triangle", "STDB"],
    "learn_threshold": [False, True],
    "learn_leak": [False, True],
}
OWN = {  # of gates and rules
    "epsilon": [0.1, 0.3], "blocking": ["permanent", "dynamic"], "latch": [False, True], "residual": [False, True],
    "together": [False, True], "contrast": ["local", "original", "none"], "guess": ["prediction", "interpolation", "decoder"],
    "grid": [1, 2, 4], "grid_steps": [1, 2], "fill": [False, True], "wait": [False, True], "gap_bound": [0.0, 0.5, 1.0],
    "open_bound": [0.6, 0.8, 0.9], "entropy_bound": [0.9, 0.99],
}  # fmt: skip
RUN = {  # black: how many images are; ties: draws lie on the pixels' grid; at_once: numbers of a chunk of steps
    "black": [0, 0, 0, 1, 3], "ties": [False, True], "at_once": [1, 5000, 2**22, 2**22], "segments": [0, 0, 1, 4, "auto"],
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
VAIN = {"epsilon": 0.0, "guess": "interpolation"}  # what is left to a network without a decoder


def drawn(number):
    """The case of this number. (hypothesis comes back to the same values: of its sixty cases none had gate once.)"""
    draw = random.Random(f"case {number}")
    settings, own, run = ({name: draw.choice(values) for name, values in each.items()} for each in (SETTINGS, OWN, RUN))
    return settings | {"own": own, "run": run, "seed": number}


def networks(numbers):
    """(case, its network) of these numbers, as far as settings go together."""
    for case in map(drawn, numbers):
        try:
            model = network(**case)
        except ModelError:
            continue
        yield case, model


def network(plan, gate, own, run, recorded, seed, **settings):
    """A network of these settings; ModelError where they do not go together."""
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
        settings |= {"feedback_interval": 1} | {name: VAIN[name] for name in VAIN.keys() & settings.keys()}
    cls = VGG_SNN_STDB_wFeedback if gate == "open" else AdaptiveTimestepsSNN
    return build(cls=cls, plan=PLANS[plan], gate=gate, timesteps=STEPS, fc_width=12, dropout=0.5, **settings)


def on_grid(model, run, seed):
    """Images, or recordings in which half of the frames stay as they were, on the grid; and draws."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.rand(IMAGES, *[STEPS] * bool(model.frames), *model.image_shape, generator=draw) * GRID).round() / GRID
    x = x * 2 - 1 if model.image_shape[0] == 3 else x
    x = x * (torch.rand(x.shape, generator=draw) > 0.2)
    if model.frames:
        for t in range(1, STEPS):
            stays = torch.rand(IMAGES, generator=draw) < 0.5
            x[stays, t] = x[stays, t - 1]
    x[: run["black"]] = 0
    u = torch.rand(STEPS, IMAGES, *model.image_shape, generator=draw)
    return x, (u * GRID).floor() / GRID if run["ties"] else u


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


def nonzero(counter):
    return {kind: {name: count for name, count in of.items() if count} for kind, of in counter.counts().items()}


def check_case(case, model):
    """One network: equal in evaluation by every engine that can run it, in training equal gradients. Returns who ran it."""
    run, plain = case["run"], by_steps(model)
    x, u = on_grid(model, run, case["seed"])
    record = dict.fromkeys(model.neurons(), ("spikes", "membrane")) | {"input": "spikes", "output": "membrane"}
    exact = case["leak"] == case["output_leak"] == case["readout_leak"] == 1 and not case["surprise"] and not case["readout_slew"]
    exact &= case["readout"] == "membrane_linear" and case["own"]["contrast"] != "original" and case["gate"] in ("open", "block")
    ran, tolerance = ["reference", "batched"], 0 if exact else 1e-4
    with torch.no_grad(), mock.patch.dict(AT_ONCE, cpu=run["at_once"]):
        with OperationCounter(plain) as stepwise:
            wanted = plain(x, u, record=record)
        with OperationCounter(model) as counted:
            sums = model(x, u, frames=False)
        for found in (model(x, u, record=record), model(x, u), sums):
            assert first_difference(found, wanted, tolerance=tolerance) is None
        if case["gate"] in ("open", "block"):
            model.engine = EventEngine(model)
            with OperationCounter(model) as by_event:
                assert first_difference(model(x, u), wanted, tolerance=tolerance) is None
            model.engine = None
            sums_aside = {"macs": {}}  # of what layers without neurons hand on: on the grid it may add up to 0
            assert nonzero(by_event) | sums_aside == nonzero(stepwise) | sums_aside
            ran.append("event")
    for name, count in wanted.spikes_by_step.items():
        assert torch.equal(wanted.recorded[name]["spikes"].flatten(2).sum(2), count), name
    assert torch.equal(wanted.recorded["output"]["membrane"], wanted.logits_by_step)
    assert nonzero(counted) == nonzero(stepwise)
    assert sums.predictions is sums.errors is sums.is_open is sums.predicted is None
    for of in (errors_by_step, lambda output: open_share_by_step(output, x)):
        torch.testing.assert_close(of(sums), of(wanted), rtol=1e-4, atol=1e-4)
    model.change(rule="never"), plain.change(rule="never")
    model.set_bptt_segments(run["segments"])
    x, u = x.double(), u.double()  # else sums are rounded
    with OperationCounter(model.double().train()) as counted, OperationCounter(plain.double().train()) as stepwise:
        found, expected = gradients(model, x, u), gradients(plain, x, u)
    assert nonzero(counted) == nonzero(stepwise)
    for name, gradient in expected.items():
        near = {"rtol": 1e-4, "atol": 1e-4 * gradient.abs().max().item() + 1e-6}
        torch.testing.assert_close(found[name], gradient, **near, msg=named(name))
    return ran


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_every_engine_runs_the_network_as_its_step_says(first):
    for case, model in networks(range(first, first + 25)):
        try:
            check_case(case, model)
        except Exception as error:
            error.add_note(f"of {case}")
            raise


def test_a_step_of_ones_own_runs_by_itself_and_no_other_way():
    """A network whose step differs: the reference runs it, in training, too, and the event engine says by name why not."""

    class Halved(VGG_SNN_STDB_wFeedback):
        def step(self, run, image, u):
            return super().step(run, image, u * 2)  # half as many spikes are sent

    model, other = build(cls=Halved), build(cls=VGG_SNN_STDB_wFeedback)
    x, u = inputs(model)
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


@torch.no_grad()
def test_a_decoders_layer_with_a_hook_is_called():
    """Also in training, in which its chain is one matrix product without: the hook takes away what is predicted."""
    model = build(gate="block", plan=PLANS["linear"], readout="membrane_linear").train()
    x, u = inputs(model)
    assert model(x, u).predictions.any()
    model.generate[-1].register_forward_hook(lambda layer, given, output: 0 * output)
    for mode in (True, False):
        assert model.train(mode).runs_by == "dense" and not model(x, u).predictions.any()


@torch.no_grad()
def test_a_folded_decoder_rounds_alike_however_it_runs():
    """Off the grid: sums are the same to the last bit while operations are counted, with a gradient, of one image alone, in each
    memory format. A stream takes up weights that change between two of its calls, and calls a hook."""
    model = build(gate="block", plan=PLANS["linear"], readout="membrane_linear", blocking="dynamic", latch=True, on_grid=False)
    x, u = inputs(model)
    chains = [layer for _, layer in model.stages_for(x, at_once=True)["generate"]]
    assert [type(one) for one in chains] == [FoldedChain] and len(chains[0].layers) == 3
    wanted, stream, plain = model(x, u), model.stream(), by_steps(model).stream()
    with OperationCounter(model):
        counted = model(x, u)
    with torch.enable_grad():
        graded = model(x, u)
    for found in (counted, graded):
        assert first_difference(found, wanted, tolerance=0) is None and wanted.predictions.any()
    signal = torch.rand(5, *chains[0].kernel.shape[:1], 3, 2)
    chains[0].bias = torch.rand(1)
    for alike in (signal, signal.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(torch.cat([chains[0](one[None]) for one in signal]), chains[0](alike))
    changes = [lambda layer: layer.weight.mul_(-2), lambda layer: layer.register_forward_hook(lambda *of: 0 * of[-1]), None]
    for change in changes:
        found = stream(x, 4)
        assert first_difference(found, plain(x, 4), tolerance=1e-5) is None and found.spikes["input"].any()
        for one in (stream.model, plain.model) if change else ():
            change(one.generate[0])


def halve_current(neuron):
    forward = neuron.forward
    neuron.forward = lambda current, state=None: forward(current / 2, state)


@pytest.mark.parametrize("change", [become(Tired), halve_current])
@torch.no_grad()
def test_neurons_that_change_what_they_do_are_run_as_they_do_from_then_on(change):
    """In a network that has run, many steps at once: its neurons become others, or get a forward of their own."""
    model = build()
    x, u = inputs(model)
    model(x, u)
    assert model.runs_by == "dense"
    change(model.features[1])
    assert model.runs_by == "reference"
    assert first_difference(model(x, u), by_steps(model)(x, u), tolerance=0) is None
