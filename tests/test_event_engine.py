"""The event engine gives what the dense engine gives. Weights on a grid make every sum exact, so that equal means equal."""

import copy
import os
import re
import subprocess
import sys
import threading

import hypothesis
import numpy as np
import pytest
import torch
from conftest import ANALYSIS, DATA, OBJ1, OBJ2, OBJ3, PLAN, REPOSITORY, SNN, SPIKING, figures, images, records, refused, run_here
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import self_models.fast.event.engine
import self_models.fast.event.layouts
from harness.command_line.declared import OfAll
from harness.data.sets import load_data
from harness.runs.checkpoints import save_checkpoint
from self_models.basics.errors import ModelError
from self_models.basics.settings import declared
from self_models.counting.operations import OperationCounter
from self_models.fast.compiling import compiled
from self_models.fast.event.compiled.nets import new_state
from self_models.fast.event.compiled.vectors import above, add_rows, lowest
from self_models.fast.event.engine import EventEngine
from self_models.fast.event.layouts import KeptLayout
from self_models.fast.event.network import Folded, memory_of, nodes_of
from self_models.loading import load
from self_models.network.neurons import UPDATES, SpikingNeuron
from self_models.objectives.gates import GATES, Blocking
from self_models.objectives.readouts import READOUTS
from self_models.running.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN

STEPS, COUNT, GRID = 9, 5, 16
TOTALS = ("event_acs", "dense")  # others differ where sums cancel, which they do on a grid
FEEDBACK = REPOSITORY / "trained_models/snn/snn_feedback.pth"
BASELINE = [[4, "D", 6, 6, "D"], []]
FORK = [[4, "D", 6, "fork", 6, "D", 5], ["U", "in"]]
DEEP = [[4, "D", 5, 6, "D"], ["U", 5, "drop", 3, "U", "in"]]
POOLED = {"plan": [[4, "A", 6, 5, "A"], []], "epsilon": 0.0, "default_threshold": 0.0625}
ONCE = {"gate": "once", "encoding": "direct", "grid": 4, "default_threshold": 0.25}
BIAS = {"bias": True, "initial_potential": 0.5}
COUNTED = {"max_pool": "count"}
MAXIMUM = {"plan": [[4, 5, "M", 6, "M", 6, "A"], []], "epsilon": 0.0}


def build(cls=InputBlockingSNN, on_grid=True, **settings):
    """A network whose weights and thresholds are whole parts of 1/16, so that no sum of them is rounded; or any weights."""
    torch.manual_seed(4)
    own = {"epsilon": 0.3} if issubclass(cls, InputBlockingSNN) else {}
    common = {"plan": PLAN, "timesteps": STEPS, "fc_width": 24, "readout": "membrane_linear", "update": "immediate", **own}
    model = cls(**{**common, "default_threshold": 0.25, **settings}).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.06)
            if on_grid:
                parameter.data.mul_(GRID).round_().div_(GRID)
        if parameter.dim() > 1:
            parameter.data *= 1 if name.startswith(("features", "generate")) else 15  # else few of the classifier's fire
            if on_grid:
                parameter.data.mul_(GRID).round_().div_(GRID)
    return model


def inputs(model, count=COUNT):
    """Images whose values are whole parts of 1/16, and draws."""
    x = (images(count, model.image_shape) * GRID).round() / GRID
    return x, torch.rand(model.timesteps, *x.shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def both(model, count=COUNT):
    """Output of the dense and of the event engine, and the spikes of each, layer -> (T, B, ...)."""
    x, u = inputs(model, count)
    return model(x, u), EventEngine(model)(x, u)


def check_same(dense, event, exact=True):
    assert list(event.spikes) == list(dense.spikes)
    for name, count in dense.spikes.items():
        assert torch.equal(event.spikes[name], count), name
        assert torch.equal(event.spikes_by_step[name], dense.spikes_by_step[name]), name
        assert torch.equal(event.spikes_by_step[name].sum(0), count), name
    for name in ("steps", "comparisons", "predicted", "is_open"):
        ours, theirs = getattr(event, name), getattr(dense, name)
        assert (ours is None) == (theirs is None) and (ours is None or torch.equal(ours, theirs)), name
    for name in ("logits", "logits_by_step", "predictions", "errors"):
        ours, theirs = getattr(event, name), getattr(dense, name)
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(ours, theirs, **tolerance)


def spiked(output):
    return all(count.sum() > 0 for name, count in output.spikes.items())


# --- spike for spike


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1}, {"image_shape": (2, 5, 6), "kernel_size": 5}, {"fc_layers": 0, "leak": 0.5}, POOLED, MAXIMUM,
        {"plan": [[4, 5, "D", "D", 6], ["U", "U", 3, "in"]], "default_threshold": 0.125},
        {"plan": [[3, "D", 4, "D", 5, "D"], ["U", 4, "U", "U", "in"]], "latch": True, "residual": True},
        {"plan": [[4, "D", "fork", 6, "D", 5], ["U", 3, "in"]], "feedback_interval": 2, "readout": "spike_count", "latch": True},
        {"plan": [[4, "D", 5], [4, "U", "in"]], "feedback_interval": 3, "blocking": "dynamic", "residual": True},
        {"plan": [[4, "M", "fork", 6, "A"], [3, "U", "in"]], "feedback_interval": 2},
        {**BIAS, "plan": [[4, "fork", "M", 6, "M"], ["in"]]},
        {**BIAS, **MAXIMUM, **COUNTED, "encoding": "direct", "fc_layers": 0},
        {**COUNTED, "plan": [[4, "M", 6, "M", "M", 5], []], "epsilon": 0.0, "image_shape": (1, 27, 13)},
        {**BIAS, **COUNTED, "plan": [[4, "M", 6, "M", "M", "fork", 3], ["U", 3, "U", "U", "in"]], "image_shape": (1, 13, 14)},
        {**BIAS, "plan": [[128, 256], []], "image_shape": (1, 4, 5), "fc_layers": 0, "epsilon": 0.0, "encoding": "direct"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("update", ["immediate", "delayed"])
def test_same_spikes_and_same_numbers(update, settings):
    """What tests/test_engines.py does not draw: other kernels, plans, odd sizes; and everywhere there are spikes."""
    dense, event = both(build(**{"update": update, "timesteps": STEPS if update == "immediate" else 12, **settings}))
    check_same(dense, event)
    assert spiked(dense)


@pytest.mark.parametrize("settings", [BIAS, {**BIAS, **MAXIMUM, "encoding": "direct", "fc_layers": 0}], ids=str)
@torch.no_grad()
def test_a_bias_drives_a_network_that_sees_nothing(settings):
    """A black image, of which nothing is sent, is not over."""
    model = build(**settings, timesteps=20)
    x = torch.zeros(2, 1, 28, 28)
    dense, event = model(x, seed=0), EventEngine(model)(x, seed=0)
    check_same(dense, event)
    assert event.spikes["input"].sum() == 0 and event.spikes_by_step["features.4"][10:].sum() > 0


RANDOM = {
    "encoding": ["direct", "poisson"], "update": ["immediate", "delayed"], "residual": [True, False],
    "image_shape": [(1, 9, 14), (3, 4, 4), (1, 12, 12)],
    "plan": [PLAN, FORK, [[4, "D", 5], [4, "U", "in"]], [[4, "M", "fork", 5, "A"], [4, "U", "in"]]],
    "bias": [True, False], "max_pool": ["or", "count"], "initial_potential": [0.0, 0.5], "fc_layers": [0, 2],
    "kernel_size": [1, 3], "timesteps": [1, 6], "epsilon": [0.0, 0.3], "latch": [True, False], "together": [True, False],
    "blocking": ["permanent", "dynamic"], "readout": READOUTS, "readout_leak": [1.0, 0.5], "readout_slew": [0.0, 0.4],
    "leak": [1.0, 0.9], "default_threshold": [0.125, 0.5], "open_bound": [0.3], "gap_bound": [1.0],
    "rule": ["never", "all_predicted", "confidence"],
}  # fmt: skip
A_LITTLE = 2e-6  # some sixteen units of the last digit


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.fixed_dictionaries({name: st.sampled_from(list(values)) for name, values in RANDOM.items()}), st.sampled_from([1, 0.1, 0])
)
@torch.no_grad()
def test_where_no_neuron_is_at_its_threshold_nothing_differs(settings, dim):
    """Any weights, any settings: an image whose spikes are the same with slightly lower and higher thresholds."""
    model = build(AdaptiveTimestepsSNN, on_grid=False, **settings)
    x, u = inputs(model)
    x[..., : (x.shape[2] + 1) // 2, :] *= dim
    thresholds, spikes = model.thresholds, []
    for change in (-A_LITTLE, A_LITTLE, 0):
        model.set_thresholds([(1 + change) * threshold for threshold in thresholds])
        spikes.append(torch.stack(list(model(x, u).spikes_by_step.values())))
    sure = (torch.stack(spikes) == spikes[-1]).flatten(0, 2).all(0)
    assume(sure.any())
    check_same(model(x[sure], u[:, sure]), EventEngine(model)(x[sure], u[:, sure]), exact=False)


@torch.no_grad()
def test_trained_network_with_rounded_sums():
    """The committed checkpoint: sums are rounded in another order, and no spike of these images depends on it."""
    model, batch = load(FEEDBACK, engine="dense", timesteps=20), load_data("MNIST")[2].part(0, 24).whole()
    model.change(gate="block", epsilon=0.1)
    draws = Draws(0, EVALUATION, batch.index)
    check_same(model(batch.images, draws=draws), EventEngine(model)(batch.images, draws=draws), exact=False)


def test_leak_of_steps_without_spikes_is_applied_one_by_one():
    """One spike, then silence for five steps, then one more: leak 0.9 is no power of 2, so five products are rounded."""
    model = build(plan=[[2], []], epsilon=0.0, image_shape=(1, 3, 3), timesteps=7, leak=0.9, default_threshold=1.0)
    model.features[0].weight.data.fill_(0.625)
    x, u = torch.zeros(1, 1, 3, 3), torch.ones(7, 1, 1, 3, 3)
    x[..., 1, 1] = 0.5
    u[0, ..., 1, 1] = u[6, ..., 1, 1] = 0.25
    v = torch.tensor(0.625)
    for _ in range(6):
        v = v * torch.tensor(0.9)
    with torch.no_grad():
        for shift, spikes in ((0.0, 0), (1e-7, 18)):  # the second spike brings the membranes exactly to the threshold, or over
            model.set_thresholds([(v + 0.625).item() - shift, 1, 1])
            event = EventEngine(model)(x, u)
            assert event.spikes["features.1"].item() == model(x, u).spikes["features.1"].item() == spikes


@pytest.mark.parametrize("size", [1, 3, 4, 7, 15, 16, 33, 64, 100, 131])
def test_rows_are_added_whatever_their_length(size):
    """Whole numbers, so that the order of a sum is no matter; nothing beside the row changes."""
    draw = np.random.default_rng(0)
    weights, rows = draw.integers(-9, 9, 2000).astype(np.float32), draw.integers(0, 1500, 9)
    values = draw.integers(-3, 4, 9).astype(np.float32)
    for first, last, valued in ((0, 0, False), (2, 3, False), (1, 9, False), (3, 9, True)):
        found = np.full(300, 5, np.float32)
        add_rows_to(found, 17, weights, rows, values, first, last, 11, size, valued)
        expected = np.full(300, 5, np.float32)
        for i in range(first, last):
            expected[17 : 17 + size] += (values[i] if valued else 1) * weights[rows[i] + 11 :][:size]
        assert np.array_equal(found, expected)


@compiled
def add_rows_to(v, at, w, rows, values, first, last, shift, size, valued):
    add_rows(v, at, w, rows, values, first, last, shift, size, valued)


@pytest.mark.parametrize("count", [1, 5, 15, 16, 17, 48, 63, 64])
def test_bits_say_who_is_above_the_bound(count):
    values = np.random.default_rng(0).normal(size=200).astype(np.float32)
    values[30], values[33] = 0.5, np.nextafter(np.float32(0.5), np.float32(1))
    room = np.zeros(64, np.int64)
    found = room[: bits_above(values, 30, count, np.float32(0.5), room)].tolist()
    assert found == [i for i in range(count) if values[30 + i] > np.float32(0.5)]


@compiled
def bits_above(values, at, count, bound, room):
    bits, found = above(values, at, count, bound), 0
    while bits:
        room[found] = lowest(bits)
        bits &= bits - np.uint64(1)
        found += 1
    return found


@pytest.mark.parametrize("modules", ["D 5", "A 5", "D D 5", "U 5", "D U 5", "U U in", "D linear", "linear"])
def test_folded_layers_are_the_layers(modules):
    """A random signal through the modules, and through one window of folded weights per input."""
    torch.manual_seed(0)
    shape, layers = (2, 9, 8), []
    signal = signal_in = torch.randn(1, *shape)
    for token in modules.split():
        channels = signal.shape[1]
        layer = {
            "D": lambda c: nn.Conv2d(c, c, 2, stride=2, bias=False),
            "A": lambda c: nn.AvgPool2d(2),
            "U": lambda c: nn.ConvTranspose2d(c, c, 2, stride=2, output_padding=(1, 0), bias=False),
            "5": lambda c: nn.Conv2d(c, 5, 3, padding=1, bias=False),
            "in": lambda c: nn.ConvTranspose2d(c, 1, 5, padding=2, bias=False),
            "linear": lambda c, signal=signal: nn.Linear(signal.numel(), 7, bias=False),
        }[token](channels)
        signal = layer(signal.flatten(1) if token == "linear" else signal).detach()
        layers.append(layer)
    target = (*signal.shape[1:], 1, 1)[:3]
    connection = Folded(0, shape, 1, layers, target)
    side, (channels, height, width) = connection.side, target
    weights = torch.from_numpy(connection.weights()[..., : side * channels]).unflatten(3, (side, channels))
    found = torch.zeros(channels, height, width)
    for place, (phase, row, column) in enumerate(zip(*connection.tables(), strict=True)):
        for c in range(shape[0]):
            for y in range(side):
                for x in range(side):
                    if phase >= 0 and 0 <= row + y < height and 0 <= column + x < width:
                        value = signal_in[0, c, place // shape[2], place % shape[2]]
                        found[:, row + y, column + x] += value * weights[phase, c, y, x]
    torch.testing.assert_close(found.reshape(signal.shape[1:]), signal[0], rtol=1e-5, atol=1e-5)


# --- draws, batches, threads


@pytest.mark.parametrize("settings", [{}, {"image_shape": (3, 11, 14)}, {"residual": True}])
def test_the_pixels_own_draws_are_those_of_whole_images(settings):
    """By index or seed, by the global generator, or given, even in bfloat16, which NumPy has not. The engine is first used in
    inference mode, which forbids the gradients that folding takes."""
    model = build(**settings)
    engine, x = EventEngine(model), inputs(model)[0]
    draws = Draws(2**40, 3, torch.tensor([7, 0, 123, 4, 99999]))
    u = draws.uniforms(STEPS, model.image_shape)
    with torch.inference_mode():
        found = engine(x, draws=draws)
    check_same(engine(x, u), found)
    with torch.no_grad():
        for given in ({"draws": draws}, {"seed": 3}, {}, {"uniforms": u.bfloat16()}):
            torch.manual_seed(5)
            dense = model(x, **given)
            torch.manual_seed(5)
            check_same(dense, engine(x, **given), exact=False)


def test_a_draw_as_large_as_its_pixel_is_a_spike():
    """Draws on the pixels' own grid, so that many are equal: u <= |x|, and a black pixel sends nothing."""
    model = build(image_shape=(3, 12, 10), epsilon=0.0)
    x, u = inputs(model)
    u = (u * GRID).floor() / GRID
    event = EventEngine(model)(x, u)
    assert (u == x.abs())[:, x != 0].any()
    assert torch.equal(event.spikes["input"], ((u <= x.abs()) & (x != 0)).sum((0, 2, 3, 4)).float())
    with torch.no_grad():
        check_same(model(x, u), event)


def test_result_does_not_depend_on_batch_or_threads():
    model = build()
    engine, (x, u) = EventEngine(model), inputs(model, 11)
    together = engine(x, u)
    for n in (0, 10):
        alone = engine(x[n : n + 1], u[:, n : n + 1])
        assert torch.equal(alone.logits[0], together.logits[n])
        assert all(count.item() == together.spikes[name][n].item() for name, count in alone.spikes.items())
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        callers = [threading.Thread(target=lambda: found.append(engine(x, u))) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(before)
    assert len(found) == 4
    for output in found:
        check_same(together, output)


def test_without_frames_there_are_their_sums():
    model = build(latch=True)
    x, u = inputs(model)
    engine = EventEngine(model)
    whole, short = engine(x, u), engine(x, u, frames=False)
    assert short.predictions is short.errors is short.is_open is short.predicted is None
    assert torch.equal(short.logits, whole.logits)
    torch.testing.assert_close(short.sums.errors, whole.errors.sum((2, 3, 4)))
    active = x != 0
    torch.testing.assert_close(short.sums.open_share, (whole.is_open & active).sum((2, 3, 4)) / active.sum((1, 2, 3)))
    assert all(torch.equal(count.sum(0).float(), whole.spikes[name]) for name, count in short.spikes_by_step.items())


def steps_by(cls, **how):
    """What takes a step with an optimiser of torch.optim."""
    return lambda model: cls(model.parameters(), 0.5, **how).step()


CHANGES = {
    **{f"{cls.__name__} {how}": steps_by(cls, **{how: True}) for cls in (torch.optim.Adam, torch.optim.SGD)
       for how in ("fused", "foreach", "maximize")},
    "one weight through .data": lambda model: model.features[0].weight.data[0, 0, 1, 1].add_(2),
    "through numpy": lambda model: np.negative(array := model.features[0].weight.detach().numpy(), out=array),
    "a bias": lambda model: model.features[0].bias.data.add_(0.25),
    "a threshold": lambda model: model.features[1].threshold.data.mul_(2),
    "a leak": lambda model: model.features[1].leak.data.mul_(0.5),
    "data put in its place": lambda model: setattr(model.features[0].weight, "data", -model.features[0].weight),
    "another order of its data": lambda model: setattr(
        model.classifier[3].weight, "data", model.classifier[3].weight.t()
    ),
    "a parameter in its place": lambda model: setattr(model.features[0], "weight", nn.Parameter(-model.features[0].weight)),
    "a layer in its place": lambda model: model.features.__setitem__(0, nn.Conv2d(1, 4, 3, padding=1)),
    "a start potential": lambda model: setattr(model.features[1], "initial_potential", 0.0),
    "a floor": lambda model: model.set_floor(0.0),
}  # fmt: skip


def test_changed_weights_and_settings_count_at_the_next_run():
    model = build()
    engine, (x, u) = EventEngine(model), inputs(model)
    first = engine(x, u)
    with torch.no_grad():
        model.features[0].weight *= 2
    model.change(epsilon=0.05, feedback_interval=2)
    check_same(model(x, u), engine(x, u))
    model.set_thresholds([2 * threshold for threshold in model.thresholds])
    model.set_leak(0.5)
    changed = engine(x, u)
    check_same(model(x, u), changed)
    assert not torch.equal(first.logits, changed.logits)
    engine.frozen = True  # a promise, which is broken here
    model.features[0].weight.data.neg_()
    assert torch.equal(engine(x, u).logits, changed.logits)
    engine.frozen = False
    check_same(model(x, u), engine(x, u))


@pytest.mark.parametrize("way", CHANGES, ids=CHANGES)
def test_whatever_changes_a_weight_counts_at_the_next_run(way):
    """Not all that writes to a tensor is counted by its version: fused optimisers are not, nor is what goes around autograd."""
    model = build(**BIAS, on_grid=False)
    engine, (x, u) = EventEngine(model), inputs(model)
    with torch.no_grad():
        before = engine(x, u)
        check_same(model(x, u), before, exact=False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    CHANGES[way](model)
    with torch.no_grad():
        after = engine(x, u)
        check_same(model(x, u), after, exact=False)
        assert not torch.equal(before.logits, after.logits)
        assert engine.prepare() is engine.prepare()  # which is kept while nothing changes


@torch.no_grad()
def test_a_copy_of_a_model_runs_on_its_own_weights():
    model = build()
    model.engine, (x, u) = EventEngine(model), inputs(model)
    before, other = model(x, u), copy.deepcopy(model)
    other.features[0].weight.data.neg_()
    check_same(other.forward(x, u), other(x, u))
    check_same(before, model(x, u))


# --- operations


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"plan": DEEP}, POOLED, {"image_shape": (1, 9, 14), "update": "delayed"}, {"image_shape": (3, 12, 10)},
        {"encoding": "direct", "default_threshold": 0.5}, {"feedback_interval": 3}, {"plan": FORK},
        {"cls": AdaptiveTimestepsSNN, "rule": "confidence", "gap_bound": 1.5},
        {"plan": [[4, "D", "fork", 6, "D", 5], ["U", 3, "in"]], "feedback_interval": 2},
        {**BIAS, "update": "delayed"}, {**BIAS, **MAXIMUM, "encoding": "direct", "fc_layers": 0},
        {**BIAS, "plan": [[4, "M", "M", "fork", 6, "D", 5], ["U", 3, "U", "in"]], "feedback_interval": 2},
    ],
    ids=str,
)  # fmt: skip
def test_operations_are_counted_as_in_the_dense_engine(settings):
    model = build(on_grid=False, **settings)  # on the grid sums often cancel, and the engine counts such inputs as not 0
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # some weights are 0, so that effective and dense differ
        if parameter.dim() > 1:
            parameter.data *= torch.rand(parameter.shape, generator=draw) > 0.1
    x, u = inputs(model, 3)
    results = []
    for engine in (None, EventEngine(model)):
        model.engine = engine
        with torch.no_grad(), OperationCounter(model) as counter:
            for part in (slice(0, 1), slice(1, 3)):
                (engine or model)(x[part], u[:, part])
        results.append(counter.result(3))
    dense, event = results
    layers, expected = event.pop("layers"), dense.pop("layers")
    assert event == pytest.approx(dense)
    for kind, by in expected.items():
        assert layers[kind] == pytest.approx(by), kind


# --- scripts


@pytest.fixture(scope="module")
def on_grid(tmp_path_factory):
    """The checkpoint of a network of which no sum is rounded."""
    path = tmp_path_factory.mktemp("grid") / "grid.pth"
    save_checkpoint(path, build())
    return path


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        (OBJ1, "--epsilon 0 0.2"),
        (OBJ2, "--epsilon 0.2 --rules all_predicted entropy"),
        (SNN, "--test_only --leak 0.5"),
    ],
)
def test_scripts_report_the_same(on_grid, tmp_path, name, flags):
    """Every spike; only errors, sums of squares, are rounded otherwise. Operations of sums that are exactly 0 differ: they have
    their own test."""
    found = {}
    for engine in ("dense", "event"):
        here = f"{flags} {DATA} --engine {engine} --run_name {engine} --output_dir {tmp_path}"
        run_here(name, "--pretrained_snn", on_grid, here)
        found[engine] = [{**figures(record), "engine": ""} for record in records(tmp_path / f"logs/snn/{engine}.jsonl")]
    assert len(found["dense"]) > 0
    for ours, theirs in zip(found["event"], found["dense"], strict=True):
        ours, theirs = flat(ours), flat(theirs)
        assert ours.keys() == theirs.keys()
        different = {path for path in ours if ours[path] != theirs[path] and not path.startswith(("/operations", "/energy"))}
        assert {path: ours[path] for path in different} == pytest.approx({path: theirs[path] for path in different}, rel=1e-6)


def flat(value, path=""):
    """Nested figures as one dict, so that pytest.approx can compare them."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: figure for key, part in parts for name, figure in flat(part, f"{path}/{key}").items()}
    return {path: value}


def test_analysis_with_the_event_engine(trained, tmp_path):
    said = {}
    for engine in ("dense", "event"):
        here = f"{DATA} --images 2 --chart_images 8 --engine {engine} --run_name {engine} --output_dir {tmp_path}"
        said[engine] = (
            run_here(ANALYSIS, "--pretrained_snn", trained.snn, here)[1].replace(f"/{engine}", "/NAME").replace(f": {engine}", "")
        )
    assert said["event"] == said["dense"]


@pytest.mark.parametrize("optimizer", declared(OfAll)["optimizer"].kind.names)
def test_training_evaluates_on_the_engine_that_the_flag_names(trained, tmp_path, optimizer):
    """After each epoch, with the weights as they are then."""
    found, rate = {}, {"Adam": 0.02, "SGD": 1}[optimizer]
    for engine in ("dense", "event"):
        here = f"--optimizer {optimizer} -lr {rate} --engine {engine} --run_name {engine} --output_dir {tmp_path}"
        assert f"engine: {engine}\n" in run_here(SNN, f"--pretrained_ann {trained.ann} {SPIKING} --epochs 2 {here}")[1]
        found[engine] = records(tmp_path / f"logs/snn/{engine}.jsonl", "epoch")
    for dense, event in zip(found["dense"], found["event"], strict=True):
        assert dense["train"]["total"] == event["train"]["total"]
        assert event["evaluated"]["parts"]["total"] == pytest.approx(dense["evaluated"]["parts"]["total"], rel=0.01)
        assert event["evaluated"]["classification"] == pytest.approx(dense["evaluated"]["classification"], rel=0.01)
    first, second = (epoch["evaluated"]["parts"]["total"] for epoch in found["dense"])
    assert first != pytest.approx(second, rel=0.02)
    assert "--device" in refused(SNN, f"--engine event --test_only --device cuda {DATA} --output_dir {tmp_path}")


NO_NUMBA = [  # by a package of that name, or by the real one, which says so when it first compiles
    "raise RuntimeError('cannot cache function')",
    "def njit(**options): raise KeyError('unknown option _nrt')",
    "def njit(**options):\n def decorate(function): raise ValueError('no bytecode')\n return decorate",
    "def njit(**options):\n def fail(*_): raise KeyError('fails to compile')\n return lambda f: fail",
    "def njit(**options):\n def fail(*_): raise SystemError('no LLVM')\n"
    " return lambda f: fail if f.__name__ == 'run_images' else f",
    "import numba; njit = numba.njit; numba.njit = lambda *f, **o: njit(*f, **o | ({'made_up': True} if '_nrt' in o else {}))",
]
WITHOUT_NUMBA = f"""
import os, sys, torch
for setup in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    exec(setup)
    from self_models import load
    from self_models.basics.errors import ModelError
    for engine in ("dense", "auto", "event"):
        try:
            snn = load({str(FEEDBACK)!r}, engine=engine)
            print(snn.engine, snn(torch.full((1, 1, 28, 28), 0.5), seed=0).spikes["input"].item(), end=" | ")
        except ModelError as error:
            print(error, end=" | ")
    print()
    break
"""


@torch.no_grad()
def test_a_numba_that_cannot_be_used_stops_nobody_else(tmp_path):
    """On import, as a decorator or when it compiles: dense networks run with the same draws, auto is dense, where it is not the
    engine alone that does not compile, and the engine says why it does not run."""
    setups = []
    for case, numba in enumerate(NO_NUMBA[:-1]):
        folder = tmp_path / str(case) / "numba"
        folder.mkdir(parents=True)
        for name, text in (("__init__", numba), ("extending", "def intrinsic(f): return f"), ("core", "cgutils = types = 0")):
            (folder / f"{name}.py").write_text(text)
        setups.append(f"sys.path.insert(0, {str(folder.parent)!r})")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", WITHOUT_NUMBA, *setups, NO_NUMBA[-1]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    expected = load(FEEDBACK, engine="dense")(torch.full((1, 1, 28, 28), 0.5), seed=0).spikes["input"].item()
    assert expected > 0 and "Traceback" not in done.stderr
    for numba, line in zip(NO_NUMBA, done.stdout.splitlines(), strict=True):
        dense, auto, event, _ = line.split(" | ")
        words = numba.split("'")[1]
        assert dense == f"None {expected}" and auto == (event if words == "no LLVM" else dense)
        assert words in event and "pip install numba" in event and "--engine dense" in event


def test_auto_gives_a_batch_that_spikes_much_to_the_dense_engine():
    """By its first images' spikes: few at high thresholds, at low ones half of a wide network's neurons."""
    model = build(VGG_SNN_STDB_wFeedback, plan=[[32, "D", 64, 64, "D"], []], timesteps=3)
    model.engine = EventEngine(model, chooses=True)
    x, u = inputs(model, 16)
    model.set_thresholds([64.0] * len(model.thresholds))
    model(x, u)
    assert model.engine.runs == {"event": 16, "dense": 0} and model.engine.name == "event"
    model.set_thresholds([1 / 16] * len(model.thresholds))
    chosen = model(x, u)
    assert model.engine.runs == {"event": 16, "dense": 16} and model.engine.name == "event and dense"
    model(x[:15], u[:, :15])  # few images: always event by event
    assert model.engine.runs == {"event": 31, "dense": 16}
    model.engine = None
    assert torch.equal(chosen.logits, model(x, u).logits)


def test_the_images_that_decided_for_a_batch_are_counted_once(monkeypatch):
    """Whatever is decided, results and operations are those of the engine alone."""
    model, found = build(), {}
    x, u = inputs(model, 16)
    for name, chooses, pays in (("event", False, None), ("chosen event", True, False), ("chosen dense", True, True)):
        monkeypatch.setattr(self_models.fast.event.engine, "dense_pays", lambda *_, pays=pays: pays)
        model.engine = EventEngine(model, chooses)
        with OperationCounter(model) as counter:
            outputs = [model(x, u) for _ in range(2)]
            assert len(model.engine._rooms.free) <= torch.get_num_threads()  # rooms are used again
        assert model.engine.runs[name.split()[-1]] == 32
        counted = counter.result(32)
        found[name] = [outputs[1].logits, outputs[1].steps, *(torch.tensor(counted[kind]) for kind in TOTALS)]
    for name in ("chosen event", "chosen dense"):
        for here, there in zip(found[name], found["event"], strict=True):
            torch.testing.assert_close(here, there, rtol=1e-6, atol=0)


@pytest.mark.parametrize("hook", ["forward", "integrate", "step"])  # benchmarks/findings/ramp_control.py has an integrate
@torch.no_grad()
def test_a_model_with_a_hook_of_its_own_is_refused_and_auto_takes_dense(hook):
    model = build(type("Own", (InputBlockingSNN,), {hook: getattr(InputBlockingSNN, hook)}))
    x, u = inputs(model)
    for use in (EventEngine(model).check, lambda: EventEngine(model)(x, u)):
        with pytest.raises(ModelError, match=f"Own.{hook}: use --engine dense"):
            use()
    chooses = EventEngine(model, chooses=True)
    assert torch.equal(chooses(x, u).logits, model(x, u).logits) and chooses.name == "dense"
    EventEngine(build(type("Named", (InputBlockingSNN,), {"title": lambda self: "what the SNN does not have"}))).check()


class Tired(SpikingNeuron):
    """Neurons that get half of their current."""

    def forward(self, current, state=None):
        return super().forward(current / 2, state)


class Half(nn.ConvTranspose2d):
    def forward(self, x):
        return super().forward(x) / 2


def become(cls):
    """What makes a module one of this class, which is derived from its own."""
    return lambda module: setattr(module, "__class__", cls)


UNKNOWN = {  # what no plan has -> what makes it part of a network of PLAN
    "features.1 (Tired)": lambda model: become(Tired)(model.features[1]),
    "generate.1 (Half)": lambda model: become(Half)(model.generate[1]),
    "features.5 (Identity)": lambda model: model.features.__setitem__(5, nn.Identity()),
    "features.0 (Conv2d)": lambda model: model.features.__setitem__(0, nn.Conv2d(1, 4, 3, padding=2, dilation=2)),
    "features.8 (Conv2d)": lambda model: model.features.__setitem__(8, nn.Conv2d(6, 6, 2, 2)),  # with a bias, before no neuron
    "features.2 (AvgPool2d)": lambda model: model.features.__setitem__(2, nn.AvgPool2d(4, 2, 1)),
    "features.4 (SpikingNeuron)": lambda model: setattr(model.features[4], "update", UPDATES["delayed"]),
    "generate2 (Sequential)": lambda model: setattr(model, "generate2", copy.deepcopy(model.generate)),
    "gain (Parameter)": lambda model: setattr(model, "gain", nn.Parameter(torch.ones(1))),
}


@pytest.mark.parametrize("part", UNKNOWN)
@torch.no_grad()
def test_a_layer_that_no_plan_has_is_refused_and_auto_takes_dense(part):
    """Whether it was there from the beginning or came to a network that has run."""
    model = build()
    engine, auto, (x, u) = EventEngine(model), EventEngine(model, chooses=True), inputs(model)
    assert torch.equal(engine(x, u).logits, auto(x, u).logits)
    UNKNOWN[part](model)
    for one in (engine, EventEngine(model)):
        with pytest.raises(ModelError, match=rf"^the event engine does not know {re.escape(part)}: use --engine dense$"):
            one(x, u)
    check_same(model(x, u), auto(x, u))
    assert auto.runs == {"event": COUNT, "dense": COUNT}


ALTERED = {
    "a hook or forward of its own of features.1": lambda model: model.features[1].register_forward_hook(
        lambda module, given, output: (0 * output[0], *output[1:])
    ),
    "a hook or forward of its own of features.0": lambda model: model.features[0].register_forward_pre_hook(
        lambda module, given: (given[0] / 2,)
    ),
    "a hook or forward of its own of classifier.0": lambda model: setattr(model.classifier[0], "forward", lambda x: x[:, :24]),
    "InputBlockingSNN.integrate": lambda model: setattr(model, "integrate", lambda readout_sum, decoded, view: readout_sum),
}


@pytest.mark.parametrize("part", ALTERED)
@torch.no_grad()
def test_an_altered_layer_is_refused_and_auto_takes_dense(part):
    """It would not be called."""
    model = build()
    auto, (x, u) = EventEngine(model, chooses=True), inputs(model)
    before = auto(x, u)
    ALTERED[part](model)
    with pytest.raises(ModelError, match=rf"^the event engine does not know {re.escape(part)}: use --engine dense$"):
        EventEngine(model)(x, u)
    after = auto(x, u)
    check_same(model(x, u), after)
    assert auto.name == "event and dense" and not torch.equal(before.logits, after.logits)


@pytest.mark.parametrize(("gate", "encoding"), [("once", "direct"), ("contrast", "poisson"), ("own", "poisson")])
@torch.no_grad()
def test_a_gate_without_a_compiled_form_is_refused_and_auto_takes_dense(monkeypatch, gate, encoding):
    """From the beginning, or while a changed setting asks for it; of one's own it may differ from its base in anything."""
    monkeypatch.setitem(GATES, "own", type("Own", (Blocking,), {"is_predicted": lambda self, image, guess: image > guess}))
    model = build(VGG_SNN_STDB_wFeedback, gate="block", encoding=encoding, epsilon=0.3)
    model.engine, (x, u) = EventEngine(model, chooses=True), inputs(model)
    check_same(model.forward(x, u), model(x, u))
    model.change(gate=gate)
    with pytest.raises(ModelError, match=f"^the event engine has no compiled form of the gate {gate}: use --engine dense$"):
        EventEngine(model)(x, u)
    counts = []
    for _ in range(2):
        with OperationCounter(model) as counter:
            check_same(model.forward(x, u), model(x, u))
        counts.append(counter.counts())
        model.engine = EventEngine(model, chooses=True)
    assert counts[0] == counts[1] and counts[0]["spikes"]["features.1"] > 0 and model.engine.name == "event"
    model.change(gate="open")
    check_same(model.forward(x, u), model(x, u))


def test_the_scripts_refuse_a_gate_without_a_compiled_form_by_name(on_grid, tmp_path, monkeypatch):
    """That of objective 3; auto takes the dense engine, and says why."""
    monkeypatch.setattr("harness.building.models.WORTH_IT", 0)
    flags, refusal = f"{DATA} --output_dir {tmp_path}", "the event engine has no compiled form of the gate contrast"
    assert f"{refusal}: use --engine dense" in refused(OBJ3, "--pretrained_snn", on_grid, f"{flags} --engine event")
    assert f"engine: dense ({refusal})" in run_here(OBJ3, "--pretrained_snn", on_grid, flags)[1]


@pytest.mark.parametrize(
    "settings", [{}, {"rule": "confidence", "cls": AdaptiveTimestepsSNN}, {"epsilon": 0.0, "plan": BASELINE}]
)
@pytest.mark.parametrize("drawn", [False, True])
@torch.no_grad()
def test_a_batch_of_no_images(drawn, settings):
    model = build(**settings)
    x, u = inputs(model, 0)
    uniforms = u if drawn else None
    event = EventEngine(model)(x, uniforms)
    assert event.logits.shape == (0, 10) and event.logits_by_step.shape == (STEPS, 0, 10) and event.steps.shape == (0,)
    assert all(count.shape == (0,) for count in event.spikes.values())
    if "rule" not in settings:  # which the dense engine cannot do
        check_same(model(x, uniforms), event)


def test_wrong_images_and_draws_are_refused():
    engine = EventEngine(build())
    with pytest.raises(ModelError, match="images"):
        engine(torch.zeros(1, 1, 5, 5))
    with pytest.raises(ModelError, match="uniforms"):
        engine(torch.zeros(1, 1, 28, 28), torch.zeros(STEPS, 1, 1, 5, 5))


# --- memory


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"feedback_interval": 2, **BIAS},
        {"plan": [[4, "A", 6, "fork", "M", 5], [3, "U", "in"]]},
        {"plan": MAXIMUM["plan"], **COUNTED},
    ],
    ids=str,
)
def test_memory_is_known_before_it_is_taken(settings):
    model = VGG_SNN_STDB_wFeedback(**{"plan": PLAN, "fc_width": 7, "image_shape": (3, 13, 10), **settings})
    told, kept = memory_of(model), KeptLayout(model)
    net = kept.prepare().net
    assert told.copy == sum(len(copy) for copy, _ in kept._copies)
    assert told.weights == sum(part.nbytes for part in (net.weights, net.bias, net.phase, net.row, net.column))
    assert told.state == sum(part.nbytes for part in new_state(net))


def test_a_network_of_any_size_is_measured_without_its_memory():
    """On the meta device, which has shapes and no values. By hand: the 196 places before the classifier are a phase each."""
    plan = [[64, "A", 128, "fork", "A", 256, "A", 512, "A", 512], [64, "U", "in"]]
    with torch.device("meta"):
        model = VGG_SNN_STDB_wFeedback(plan=plan, fc_width=4096, image_shape=(3, 224, 224))
        wide = VGG_SNN_STDB_wFeedback(plan=[[64, "A", 64], []], fc_width=2, image_shape=(3, 6000, 6000))
    first = max(nodes_of(model)[2], key=lambda connection: connection.size)
    assert first.size == 196 * 512 * 4096
    assert memory_of(model).weights > 4 * first.size
    with pytest.raises(ModelError, match="2,304,000,000: use --engine dense"):
        memory_of(wide)


def test_a_network_larger_than_the_free_memory_is_refused_and_auto_takes_dense(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(self_models.fast.event.layouts, "free_memory", lambda: 10**6)
    said = refused(OBJ1, "--pretrained_snn", trained.snn, f"--engine event {DATA} --output_dir {tmp_path}")
    assert "GB for this network and 0.0 GB are free: use --engine dense" in said
    model = build()
    engine, x = EventEngine(model, chooses=True), torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        assert torch.equal(engine(x, seed=0).logits, model(x, seed=0).logits)
    assert engine.name == "dense"
    assert load(FEEDBACK).engine is None
    monkeypatch.setattr(self_models.fast.event.layouts, "free_memory", lambda: None)  # nobody tells
    assert EventEngine(model, chooses=True)(x, seed=0) and load(FEEDBACK).engine
