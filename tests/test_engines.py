"""A network run by its step(), by layers over many timesteps, and event by event: the same, whatever its parts and settings.

Weights on the 1/16 grid make every sum exact, so that equal means equal; leaks and what forgets leave the grid, and then values
are compared within rounding. benchmarks/robustness/engines.py takes a thousand cases."""

import copy
import functools
import random
import re
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import torch
from conftest import (
    BIAS,
    COUNT,
    ELSEWHERE,
    GRID,
    REPOSITORY,
    STEPS,
    UNKNOWN,
    become,
    build,
    check_same,
    images,
    inputs,
    tiny,
)
from torch import nn

from self_models import ModelError, evaluate, first_difference, load
from self_models.counting.operations import OperationCounter
from self_models.engines.dense.engine import DenseEngine
from self_models.engines.dense.run import FoldedChain, fold_decoder
from self_models.engines.event.engine import EventEngine
from self_models.objectives.gates import GATES, Blocking
from self_models.runtime.draws import Draws
from self_models.runtime.graph import nodes_in_a_row
from self_models.runtime.loop import VALUES_AT_ONCE
from self_models.runtime.outputs import errors_by_step, open_share_by_step
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from snn_wFeedback import compute_losses

PLANS = {
    "plain": [[4, "D", 6, 6, "D"], ["U", 4, "drop", "U", "in"]],
    "fork": [[4, "D", 6, "fork", 6, "D", 5], ["U", "in"]],
    "deep": [[4, "D", 5, 6, "D"], ["U", 5, "drop", 3, "U", "in"]],
    "linear": [[2, "D", "D", 3], ["U", "U", "in"]],
    "maximum": [[4, "M", 5, "fork", 6, "M", 6, "A"], ["U", "in"]],
    "no decoder": [[4, "A", 6, "M", 5], []],
    "two strides": [[4, 5, "D", "D", 6], ["U", "U", 3, "in"]],
    "three strides": [[3, "D", 4, "D", 5, "D"], ["U", 4, "U", "U", "in"]],
    "early fork": [[4, "M", "fork", 6, "A"], [3, "U", "in"]],
}
SETTINGS = {  # a value that stands twice is drawn twice as often
    "plan": list(PLANS),
    "gate": ["open", "block", "block", "contrast"],
    "rule": ["never", "never", "confidence", "entropy", "all_predicted", "both"],
    "readout": [
        "spike_count",
        "spike_count_rescaled",
        "membrane",
        "membrane_linear",
        "membrane_linear",
        "membrane_rescaled",
    ],
    "encoding": ["poisson", "poisson", "direct"],
    "update": ["delayed", "immediate", "phased"],
    "leak": [1.0, 1.0, 0.5],
    "output_leak": [1.0, 1.0, 0.5],
    "membrane_floor": [None, None, 0.0, 0.5],
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
    "kernel_size": [3, 3, 3, 1, 5],
    "fc_layers": [2, 2, 1, 0],
}
OWN = {  # of gates and rules
    "epsilon": [0.1, 0.3],
    "blocking": ["permanent", "dynamic"],
    "latch": [False, True],
    "residual": [False, True],
    "together": [False, True],
    "contrast": ["local", "original", "none"],
    "gap_bound": [0.0, 0.5, 1.0],
    "open_bound": [0.6, 0.8, 0.9],
    "entropy_bound": [0.9, 0.99],
}
SINGLE_PIXEL_PLANS = {  # of layers that keep the size of an image: no D, no U, no pool
    "one pixel": [[4, "fork", 5], [3, "in"]],
}
ALL_PLANS = PLANS | SINGLE_PIXEL_PLANS
RUN = {  # black: how many images are; ties: draws lie on the pixels' grid; at_once: numbers of a chunk of steps
    "black": [0, 0, 0, 1, 3],
    "ties": [False, True],
    "at_once": [1, 5000, 2**22, 2**22],
    "segments": [0, 0, 1, 4, "auto"],
}
LASTS, IMAGES = 7, 3
EXTREMES = {  # what is the same in all cases of an extreme; the rest is drawn
    "one pixel": {"image_shape": (1, 1, 1), "plan": "one pixel"},
    "one pixel in colour": {"image_shape": (3, 1, 1), "plan": "one pixel"},
    "black images": {"run": {"black": IMAGES}},
    # No prediction misses by so much: blocked from the second timestep on.
    "all pixels blocked": {"gate": "block", "own": {"epsilon": 3.0}},
    "one timestep": {"timesteps": 1},
    "one class": {"labels": 1},
}
OF_PART = {
    "open": (),
    "block": ("epsilon", "blocking", "latch", "residual", "together"),
    "contrast": ("epsilon", "blocking", "latch", "contrast"),
    "reconstruct": ("epsilon",),  # of streams and recordings
}
PHASED = {
    "leak": 1.0,
    "output_leak": 1.0,
    "membrane_floor": None,
    "surprise": 0.0,
    "rule": "never",
    "learn_leak": False,
    "activation": "Linear",
}


def drawn(number):
    """The case of this number."""
    draw = random.Random(f"case {number}")
    settings, own, run = (
        {name: draw.choice(values) for name, values in each.items()}
        for each in (SETTINGS, OWN, RUN)
    )
    return settings | {"own": own, "run": run, "seed": number}


def networks(numbers, extreme=None):
    """(case, its network) of these numbers, as far as settings go together.

    extreme: a name in EXTREMES, of what all cases have in common; None: they are drawn.
    """
    for number in numbers:
        case = drawn(number)
        if extreme:
            case = with_extreme(case, EXTREMES[extreme])
        try:
            model = network(**case)
        except ModelError:
            continue
        yield case, model


def with_extreme(case, extreme):
    """The case with these entries; of an entry that is a dict, with its entries."""
    case = dict(case)
    for name, value in extreme.items():
        if isinstance(value, dict):
            value = case[name] | value
        case[name] = value
    return case


def network(plan, gate, own, run, recorded, seed, **settings):
    """A network of these settings; ModelError where they do not go together."""
    settings |= {
        name: own[name] for name in (*OF_PART[gate], "gap_bound", "open_bound", "entropy_bound")
    }
    timesteps = settings.pop("timesteps", LASTS)
    settings |= {"recorded_frames": timesteps} if recorded else {}
    if recorded and gate == "block":
        settings["blocking"] = "dynamic"
    if settings["update"] == "phased":
        settings |= PHASED | ({"epsilon": 0.0} if gate == "block" else {})
    if not ALL_PLANS[plan][1] and "epsilon" in settings:
        settings["epsilon"] = 0.0  # what is left to a network without a decoder
    cls = VGG_SNN_STDB_wFeedback if gate == "open" else AdaptiveTimestepsSNN
    return build(
        cls=cls,
        plan=ALL_PLANS[plan],
        gate=gate,
        timesteps=timesteps,
        fc_width=12,
        dropout=0.5,
        **settings,
    )


def on_grid(model, run, seed):
    """Images, or recordings in which half of the frames stay as they were, on the grid; and draws."""
    steps = model.timesteps
    draw = torch.Generator().manual_seed(seed)
    x = (
        torch.rand(IMAGES, *[steps] * bool(model.frames), *model.image_shape, generator=draw)
        * GRID
    ).round() / GRID
    x = x * 2 - 1 if model.image_shape[0] == 3 else x
    x = x * (torch.rand(x.shape, generator=draw) > 0.2)
    if model.frames:
        for t in range(1, steps):
            stays = torch.rand(IMAGES, generator=draw) < 0.5
            x[stays, t] = x[stays, t - 1]
    x[: run["black"]] = 0
    u = torch.rand(steps, IMAGES, *model.image_shape, generator=draw)
    return x, (u * GRID).floor() / GRID if run["ties"] else u


def by_steps(model):
    baseline = copy.deepcopy(model)
    baseline.batched = False
    return baseline


ENGINES = {"reference": by_steps, "dense": lambda model: model, "event": EventEngine}


def named(name):
    return lambda text: f"{name}: {text}"


def gradients(model, x, u):
    """Of every weight, of a loss in which all that training knows has a part."""
    output = model(x, u, seed=1)
    errors = 0 if output.errors is None else output.errors.sum()
    loss = (
        output.logits.square().sum()
        + errors
        + 1e-3 * sum(counts.sum() for counts in output.spikes.values())
    )
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return dict(
        zip(
            weights,
            torch.autograd.grad(loss, list(weights.values()), materialize_grads=True),
            strict=True,
        )
    )


def nonzero(counter):
    return {
        kind: {name: count for name, count in of.items() if count}
        for kind, of in counter.counts().items()
    }


def check_case(case, model):
    """One network: equal in evaluation by every engine that can run it, in training equal gradients. Returns who ran it."""
    run, plain = case["run"], by_steps(model)
    x, u = on_grid(model, run, case["seed"])
    record = dict.fromkeys(model.neurons(), ("spikes", "membrane")) | {
        "input": "spikes",
        "output": "membrane",
    }
    exact = (
        case["leak"] == case["output_leak"] == case["readout_leak"] == 1
        and not case["surprise"]
        and not case["readout_slew"]
    )
    exact &= (
        case["readout"] == "membrane_linear"
        and case["own"]["contrast"] != "original"
        and case["gate"] in ("open", "block")
    )
    ran, tolerance = ["reference", "batched"], 0 if exact else 1e-4
    with torch.no_grad(), mock.patch.dict(VALUES_AT_ONCE, cpu=run["at_once"]):
        with OperationCounter(plain) as stepwise:
            wanted = plain(x, u, record=record)
        with OperationCounter(model) as counted:
            sums = [model(x, u, frames=False)]
        for found in (model(x, u, record=record), model(x, u), *sums):
            assert first_difference(found, wanted, tolerance=tolerance) is None
        if case["gate"] in ("open", "block"):
            model.engine = EventEngine(model)
            with OperationCounter(model) as by_event:
                assert first_difference(model(x, u), wanted, tolerance=tolerance) is None
            sums.append(model(x, u, frames=False))
            model.engine = None
            sums_aside = {
                "macs": {}
            }  # of what layers without neurons hand on: on the grid it may add up to 0
            assert nonzero(by_event) | sums_aside == nonzero(stepwise) | sums_aside
            ran.append("event")
    for name, count in wanted.spikes_by_step.items():
        assert torch.equal(wanted.recorded[name]["spikes"].flatten(2).sum(2), count), name
    assert torch.equal(wanted.recorded["output"]["membrane"], wanted.logits_by_step)
    assert nonzero(counted) == nonzero(stepwise)
    for found in sums:
        assert found.predictions is found.errors is found.is_open is found.predicted is None
        for of in (errors_by_step, lambda output: open_share_by_step(output, x)):
            torch.testing.assert_close(of(found), of(wanted), rtol=1e-4, atol=1e-4)
    model.change(rule="never"), plain.change(rule="never")
    model.set_bptt_segments(run["segments"])
    x, u = x.double(), u.double()  # else sums are rounded
    with (
        OperationCounter(model.double().train()) as counted,
        OperationCounter(plain.double().train()) as stepwise,
    ):
        found, expected = gradients(model, x, u), gradients(plain, x, u)
    assert nonzero(counted) == nonzero(stepwise)
    for name, gradient in expected.items():
        near = {"rtol": 1e-4, "atol": 1e-4 * gradient.abs().max().item() + 1e-6}
        torch.testing.assert_close(found[name], gradient, **near, msg=named(name))
    return ran


def check_cases(numbers, extreme=None):
    """check_case() of the cases of these numbers. Returns how many have run."""
    count = 0
    for case, model in networks(numbers, extreme):
        try:
            check_case(case, model)
        except Exception as error:
            error.add_note(f"{ELSEWHERE}; case: {case}")
            raise
        count += 1
    return count


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_every_engine_runs_the_network_as_its_step_says(first):
    assert check_cases(range(first, first + 20)) > 8


@pytest.mark.parametrize("extreme", EXTREMES)
def test_every_engine_runs_the_extremes_as_its_step_says(extreme):
    assert check_cases(range(160, 164), extreme) > 1


@pytest.mark.parametrize("way", ENGINES)
@torch.no_grad()
def test_an_image_of_which_every_pixel_is_blocked_by_hand(way):
    """No prediction misses a pixel by 3, so all 784 pixels are blocked after timestep 1.

    Until then each is compared once, and sends where its draw is at most its value.
    """
    model = build(epsilon=3.0)
    x, u = inputs(model)
    output = ENGINES[way](model)(x, u)
    assert output.is_open[0].all() and not output.is_open[1:].any()
    assert output.comparisons.tolist() == [784] * COUNT
    assert torch.equal(output.spikes["input"], (u[0] <= x).logical_and(x > 0).flatten(1).sum(1))
    model.change(rule="all_predicted", open_bound=0.0)
    assert ENGINES[way](model)(x, u).steps.tolist() == [1] * COUNT


@pytest.mark.parametrize("way", ENGINES)
@torch.no_grad()
def test_black_images_by_hand(way):
    """A pixel of value 0 sends nothing, even where its draw is 0.

    No pixel is active, so no active one is open, and images stop after timestep 1.
    """
    model = build(rule="all_predicted", open_bound=0.0)
    output = ENGINES[way](model)(torch.zeros(2, 1, 28, 28), torch.zeros(STEPS, 2, 1, 28, 28))
    assert sum(output.spikes.values()).tolist() == [0, 0] and not output.logits.any()
    assert output.steps.tolist() == [1, 1]


@pytest.mark.parametrize("way", ENGINES)
@torch.no_grad()
def test_a_pixel_opens_again_when_its_prediction_has_leaked_away_by_hand(way):
    """While the pixel is blocked nothing moves but the read-out, and yet a run is not over.

    An open pixel of 1/2 brings 1 to a neuron of threshold 3/4. A spike adds 1/2 to the
    prediction, of which a timestep keeps half. The prediction misses the pixel by epsilon,
    0.3, or more after timesteps 3 and 6, so the pixel is open again in 4 and 7.

    timestep             1    2    3     4      5       6        7         8
    membrane, charged    1   1/4  1/4   5/4    1/2     1/2      3/2       3/4
    spike                1    0    0     1      0       0        1         0
    prediction          .5  .25  .125 .5625 .28125 .140625 .5703125 .28515625

    In timestep 8 the membrane is at its threshold, and not above it.
    """
    model = build(
        plan=[[1], ["in"]],
        image_shape=(1, 1, 1),
        kernel_size=1,
        fc_layers=0,
        encoding="direct",
        timesteps=8,
        default_threshold=0.75,
        readout_leak=0.5,
        epsilon=0.3,
        blocking="dynamic",
    )
    model.features[0].weight.fill_(2)
    model.generate[0].weight.fill_(0.5)
    output = ENGINES[way](model)(torch.full((1, 1, 1, 1), 0.5))
    assert output.is_open.flatten().int().tolist() == [1, 0, 0, 1, 0, 0, 1, 0]
    assert output.spikes_by_step["features.1"].flatten().tolist() == [1, 0, 0, 1, 0, 0, 1, 0]
    predictions = [0.5, 0.25, 0.125, 0.5625, 0.28125, 0.140625, 0.5703125, 0.28515625]
    assert output.predictions.flatten().tolist() == predictions


@torch.no_grad()
def test_a_folded_decoder_rounds_alike_however_it_runs():
    """Off the grid: sums are the same to the last bit while operations are counted, with a gradient, of one image alone, in each
    memory format, and step by step in a stream."""
    model = build(
        gate="block",
        plan=PLANS["linear"],
        readout="membrane_linear",
        blocking="dynamic",
        latch=True,
        on_grid=False,
    )
    x, u = inputs(model)
    chains = [
        node.module for node in DenseEngine(model, x).nodes if node.name.startswith("generate")
    ]
    assert [type(one) for one in chains] == [FoldedChain] and chains[0].stride == 4
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
    found = stream(x, 4)
    assert (
        first_difference(found, plain(x, 4), tolerance=1e-5) is None
        and found.spikes["input"].any()
    )


def trainable(**settings):
    """A network that spikes, in training mode, without dropout."""
    return tiny(dropout=0.0, fc_dropout=0.0, **settings).train()


@pytest.mark.parametrize(("signals", "layers"), [(1, 2), (3, 2), (4, 1)])
def test_linear_layers_are_folded_as_far_as_that_pays(signals, layers):
    """The decoder's input has 2 x 3 places of 8 channels. To fold the first of three U layers in, too, costs 8 8 4 multiply-adds
    for each of the 3 x 6 x 6 numbers of the kernel behind it, and saves at a place 8 8 4 + 4 8 3 6 6 - 8 3 10 10: from 22 places
    on it pays. The map stays the same, also where the encoder has halved odd sizes."""
    plan = [[4, "D", 6, "D", 8, "D"], ["U", "U", "U", "in"]]
    generate = trainable(plan=plan, image_shape=(3, 19, 27), readout="membrane").generate
    plain, signal = nodes_in_a_row(generate.named_children()), torch.rand(signals, 8, 2, 3)
    chain = fold_decoder(plain, plain[-1].name, signals, (19, 27))
    found, wanted = (
        functools.reduce(lambda x, node: node.module(x), nodes, signal) for nodes in (chain, plain)
    )
    assert (len(chain), len(plain)) == (layers, 4) and wanted.shape == (signals, 3, 19, 27)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_bfloat16_products_keep_float32_membranes_and_learn_as_well():
    """A rounded drive can flip a spike, so gradients differ; losses do not by much, at the start and after learning."""
    losses, x = {}, images(5)
    u = torch.rand(6, *x.shape, generator=torch.Generator().manual_seed(2))
    own = {
        "cls": InputBlockingSNN,
        "readout": "membrane_linear",
        "epsilon": 0.2,
        "latch": True,
        "readout_slew": 0.38,
    }
    own |= {
        "plan": [[4, "D", 6, 6, "D"], ["U", "U", "in"]],
        "learn_threshold": True,
        "learn_leak": True,
        "leak": 0.9,
    }
    for precision in ("float32", "bfloat16"):
        model = trainable(**own)
        model.precision = precision
        optimizer, losses[precision] = torch.optim.Adam(model.parameters(), 5e-3), []
        for _ in range(12):
            optimizer.zero_grad()
            output = model(x, u, record={"features.1": "membrane"})
            losses_of_step = compute_losses(
                output, None, torch.arange(5), 0.1, "linear_over_t", spike_penalty=1e-3
            )
            loss = losses_of_step["total"]
            loss.backward()
            optimizer.step()
            losses[precision].append(loss.item())
        numbers = [output.logits, output.predictions, output.recorded["features.1"]["membrane"]]
        numbers += [weight.grad for weight in model.parameters() if weight.requires_grad]
        assert {one.dtype for one in numbers} == {torch.float32}
    evaluated = model.eval()(x, u).logits  # in float32 whatever training takes
    model.precision = "float32"
    assert torch.equal(model(x, u).logits, evaluated)
    assert losses["bfloat16"][::11] == pytest.approx(losses["float32"][::11], rel=0.1)
    assert (
        losses["bfloat16"] != losses["float32"]
        and losses["bfloat16"][-1] < 0.9 * losses["bfloat16"][0]
    )


def test_segments_keep_less_for_the_backward_pass():
    kept = {}
    for segments in (0, 3):
        model, sizes = trainable(timesteps=9), []
        model.set_bptt_segments(segments)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            model(images(2))
        kept[segments] = sum(sizes)
    assert kept[3] < 0.5 * kept[0]


def test_leak_of_steps_without_spikes_is_applied_one_by_one():
    """One spike, then silence for five steps, then one more: leak 0.9 is no power of 2, so five products are rounded."""
    model = build(
        plan=[[2], []],
        epsilon=0.0,
        image_shape=(1, 3, 3),
        timesteps=7,
        leak=0.9,
        default_threshold=1.0,
    )
    model.features[0].weight.data.fill_(0.625)
    x, u = torch.zeros(1, 1, 3, 3), torch.ones(7, 1, 1, 3, 3)
    x[..., 1, 1] = 0.5
    u[0, ..., 1, 1] = u[6, ..., 1, 1] = 0.25
    v = torch.tensor(0.625)
    for _ in range(6):
        v = v * torch.tensor(0.9)
    with torch.no_grad():
        for shift, spikes in (
            (0.0, 0),
            (1e-7, 18),
        ):  # the second spike brings the membranes exactly to the threshold, or over
            model.set_thresholds([(v + 0.625).item() - shift, 1, 1])
            event = EventEngine(model)(x, u)
            assert (
                event.spikes["features.1"].item()
                == model(x, u).spikes["features.1"].item()
                == spikes
            )


def test_the_pixels_own_draws_are_those_of_whole_images():
    """By index or seed, by the global generator, or given, even in bfloat16, which NumPy has not. The engine is first used in
    inference mode, which forbids the gradients that folding takes."""
    model = build(image_shape=(3, 11, 14))
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


def test_threads_that_share_an_engine_have_its_results():
    model = build()
    engine, (x, u) = EventEngine(model), inputs(model, 11)
    together = engine(x, u)
    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = [*pool.map(lambda _: engine(x, u), range(4))]
    finally:
        torch.set_num_threads(1)
    for output in found:
        check_same(together, output)


CHANGES = {  # what torch counts, an optimiser's step, or a module, or a setting
    "SGD": lambda model: torch.optim.SGD(model.parameters(), 0.5, foreach=False).step(),
    "a fused optimiser": lambda model: torch.optim.SGD(model.parameters(), 0.5, fused=True).step(),
    "a layer in its place": lambda model: model.features.__setitem__(
        0, nn.Conv2d(1, 4, 3, padding=1)
    ),
    "a start potential": lambda model: setattr(model.features[1], "initial_potential", 0.0),
    "settings": lambda model: model.change(epsilon=0.05, output_leak=0.5),
    "a read-out in its place": lambda model: setattr(model.readout, "readout_leak", 0.5),
}


@pytest.mark.parametrize("way", CHANGES)
def test_what_changes_a_network_counts_at_the_next_run(way):
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
        pools = engine.pools
        assert (
            engine(x, u) and engine.pools is pools and pools
        )  # which are kept while nothing changes


@torch.no_grad()
def test_weights_are_seen_that_lie_where_others_were():
    """nn.utils.vector_to_parameters gives all parameters other memory, and sets the one before free: the next vector may get it."""
    model = build(**BIAS)
    x, u = inputs(model)
    parameters = [*model.parameters()]
    vector = torch.cat([parameter.flatten() for parameter in parameters])
    nn.utils.vector_to_parameters(vector.clone(), parameters)
    engine = EventEngine(model)
    before = engine(x, u)
    address = parameters[0].data_ptr()
    for _ in range(10):
        nn.utils.vector_to_parameters(vector / 2, parameters)
        if parameters[0].data_ptr() == address:
            break
    after = engine(x, u)
    check_same(model(x, u), after)
    assert not torch.equal(before.logits, after.logits)


def test_an_optimiser_of_other_tensors_changes_nothing():
    """Nor do tensors of the network that it has, but that have no gradient: it leaves them as they are."""
    model = build()
    engine, (x, u) = EventEngine(model), inputs(model)
    engine(x, u)
    pools = engine.pools
    other = nn.Linear(2, 2)
    other(torch.ones(1, 2)).sum().backward()
    torch.optim.Adam([*other.parameters(), *model.parameters()], fused=True).step()
    assert engine(x, u) and engine.pools is pools and pools


def test_an_evaluation_looks_at_the_weights_anew():
    """What was written through `.data`, which nobody counts, is evaluated; so is an inference tensor, which has no count."""
    model = load(REPOSITORY / "trained_models/snn/snn_feedback.pth", engine="event")
    x, labels = torch.rand(4, 1, 28, 28), torch.arange(4)
    evaluate(model, x, labels, operations=False)
    model.features[0].weight.data.mul_(0.5)
    found = evaluate(model, x, labels, operations=False)
    model.engine = None
    assert found["spikes"] == evaluate(model, x, labels, operations=False)["spikes"]
    with torch.inference_mode():
        model.features[0].weight = nn.Parameter(model.features[0].weight * 1, requires_grad=False)
    assert EventEngine(model)(x, seed=0)


ALTERED = {  # a method replaced, or a hook: what the kernel would not call
    "integrate": become(
        type(
            "Own",
            (VGG_SNN_STDB_wFeedback,),
            {"integrate": lambda self, total, decoded, view: total},
        )
    ),
    "a patched forward": lambda model: setattr(
        model.classifier[0], "forward", lambda x: x[:, :24]
    ),
    "a hook of the decoder": lambda model: model.generate[-1].register_forward_hook(
        lambda layer, given, output: 0 * output
    ),
}
REFUSED = {  # what is said of a network -> what makes it one of which that is said
    **{f"does not know {part}": change for part, change in UNKNOWN.items()},
    **{
        f"does not know the methods or hooks of this {name}": change
        for name, change in ALTERED.items()
    },
    "has no form of the gate own": lambda model: model.change(gate="own"),
}


@pytest.mark.parametrize("what", REFUSED)
@torch.no_grad()
def test_what_has_no_form_is_refused_and_auto_takes_dense(what, monkeypatch):
    """Whether it was there from the beginning or came to a network that has run; hooks and methods of its own are called."""
    monkeypatch.setitem(
        GATES,
        "own",
        type("Own", (Blocking,), {"is_predicted": lambda self, image, guess: image > guess}),
    )
    model = build(VGG_SNN_STDB_wFeedback, gate="block", epsilon=0.3, dropout=0.0)
    engine, (x, u) = EventEngine(model), inputs(model)
    before = engine(x, u)
    assert model.runs_by == "dense" and first_difference(model(x, u), before, tolerance=0) is None
    REFUSED[what](model)
    words = (
        what
        if "methods" not in what
        else f"does not know the methods or hooks of this {type(model).__name__}"
    )
    for call in (lambda: engine(x, u), lambda: EventEngine(model)):
        with pytest.raises(ModelError, match=f"^the event engine {re.escape(words)}$"):
            call()
    for mode in (True, False):
        after = model.train(mode)(x, u, seed=1)
        assert first_difference(by_steps(model)(x, u, seed=1), after, tolerance=1e-5) is None
    model.engine = engine
    check_same(model(x, u), after)
    assert not engine.serves() and (
        model.runs_by == "reference" if "methods" in what else model.runs_by != "event"
    )
    assert "a hook" not in what or first_difference(before, after)
    if "gate" in what:
        model.change(gate="block", epsilon=0.3)
        check_same(before, engine(x, u))


@torch.no_grad()
def test_a_batch_of_no_images():
    for settings in ({}, {"rule": "confidence", "cls": AdaptiveTimestepsSNN}):
        event = EventEngine(build(**settings))(torch.zeros(0, 1, 28, 28))
        assert (
            event.logits.shape == (0, 10)
            and event.logits_by_step.shape == (STEPS, 0, 10)
            and event.steps.shape == (0,)
        )
        assert all(count.shape == (0,) for count in event.spikes.values())


def test_draws_of_another_shape_are_refused():
    model, x = build(), torch.zeros(2, 1, 28, 28)
    for run in (model, EventEngine(model)):
        with pytest.raises(ModelError, match="uniforms"):
            run(x, torch.zeros(STEPS - 1, 2, 1, 28, 28))
