"""A network runs alike by its step(), by layers over many steps, and event by event.

That holds whatever its parts and settings. Weights on the 1/16 grid make every sum
exact, so that equal means equal; leaks and what forgets leave the grid, and then values
are compared within rounding. benchmarks/robustness/engines.py takes a thousand cases.
"""

import copy
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from self_models.evaluation.operations import OperationCounter
from self_models.feedback.gates import GATES, Blocking
from self_models.running.dense.engine import DenseEngine
from self_models.running.dense.run import FoldedChain, fold_decoder
from self_models.running.draws import Draws
from self_models.running.graph import nodes_in_a_row
from self_models.running.loop import VALUES_AT_ONCE
from self_models.running.outputs import errors_by_step, open_share_by_step
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from snn_wFeedback import compute_losses
from wfeedback.event.engine import EventEngine

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
RUN = {
    "black": [0, 0, 0, 1, 3],  # number of black images
    "ties": [False, True],  # whether draws lie on the pixels' grid
    "at_once": [1, 5000, 2**22, 2**22],  # numbers of a chunk of timesteps
    "segments": [0, 0, 1, 4, "auto"],
}
LASTS = 7  # timesteps
IMAGES = 3
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
    """Draw the case of this number."""
    draw = random.Random(f"case {number}")
    settings = {name: draw.choice(values) for name, values in SETTINGS.items()}
    own = {name: draw.choice(values) for name, values in OWN.items()}
    run = {name: draw.choice(values) for name, values in RUN.items()}
    return settings | {"own": own, "run": run, "seed": number}


def networks(numbers, extreme=None):
    """Yield (case, its network) of these numbers, as far as settings go together.

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
    """Replace entries of a case; of an entry that is a dict, its entries."""
    case = dict(case)
    for name, value in extreme.items():
        if isinstance(value, dict):
            value = case[name] | value
        case[name] = value
    return case


def network(plan, gate, own, run, recorded, seed, **settings):
    """Build a network of these settings; ModelError where they do not go together."""
    for name in (*OF_PART[gate], "gap_bound", "open_bound", "entropy_bound"):
        settings[name] = own[name]
    timesteps = settings.pop("timesteps", LASTS)
    if recorded:
        settings["recorded_frames"] = timesteps
        if gate == "block":
            settings["blocking"] = "dynamic"
    if settings["update"] == "phased":
        settings |= PHASED
        if gate == "block":
            settings["epsilon"] = 0.0
    decoder = ALL_PLANS[plan][1]
    if not decoder and "epsilon" in settings:
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
    """Draw images on the grid and the draws of a run.

    If the network takes recordings, they are these, and half of the frames stay as they
    were.
    """
    steps = model.timesteps
    draw = torch.Generator().manual_seed(seed)
    shape = (IMAGES, *model.image_shape)
    if model.frames:
        shape = (IMAGES, steps, *model.image_shape)

    x = (torch.rand(shape, generator=draw) * GRID).round() / GRID
    if model.image_shape[0] == 3:  # colour images lie in [-1, 1]
        x = x * 2 - 1
    x = x * (torch.rand(shape, generator=draw) > 0.2)
    if model.frames:
        for t in range(1, steps):
            stays = torch.rand(IMAGES, generator=draw) < 0.5
            x[stays, t] = x[stays, t - 1]
    x[: run["black"]] = 0

    u = torch.rand(steps, IMAGES, *model.image_shape, generator=draw)
    if run["ties"]:
        u = (u * GRID).floor() / GRID
    return x, u


def by_steps(model):
    """Copy a network so that it runs by its step(), timestep by timestep."""
    baseline = copy.deepcopy(model)
    baseline.batched = False
    return baseline


def as_it_is(model):
    """Return a network, which runs by layers over many timesteps."""
    return model


ENGINES = {"reference": by_steps, "dense": as_it_is, "event": EventEngine}


def named(name):
    """Return what puts a name before a message of torch.testing.assert_close()."""
    return lambda text: f"{name}: {text}"


def gradients(model, x, u):
    """Return the gradients of all weights, of a loss of all that training uses."""
    output = model(x, u, seed=1)
    loss = output.logits.square().sum()
    if output.errors is not None:
        loss = loss + output.errors.sum()
    loss = loss + 1e-3 * sum(counts.sum() for counts in output.spikes.values())
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    values = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
    return dict(zip(weights, values, strict=True))


def nonzero(counter):
    """Return the counts of an OperationCounter without those that are 0."""
    kept = {}
    for kind, counts in counter.counts().items():
        kept[kind] = {name: count for name, count in counts.items() if count}
    return kept


def sums_are_exact(case):
    """Return whether all numbers of a run of this case stay on the grid."""
    return (
        case["leak"] == case["output_leak"] == case["readout_leak"] == 1
        and not case["surprise"]
        and not case["readout_slew"]
        and case["readout"] == "membrane_linear"
        and case["own"]["contrast"] != "original"
        and case["gate"] in ("open", "block")
    )


def check_case(case, model):
    """Check that every engine that can run a network runs it as its step() says.

    In evaluation outputs are equal, in training gradients. Returns the names of the
    engines.
    """
    plain = by_steps(model)
    x, u = on_grid(model, case["run"], case["seed"])
    ran = check_evaluation(case, model, plain, x, u)

    model.change(rule="never")
    plain.change(rule="never")
    model.set_bptt_segments(case["run"]["segments"])
    check_training(model, plain, x, u)
    return ran


def check_evaluation(case, model, plain, x, u):
    """Compare outputs and counts with those of `plain`; return the engines that ran."""
    tolerance = 0 if sums_are_exact(case) else 1e-4
    record = dict.fromkeys(model.neurons(), ("spikes", "membrane"))
    record |= {"input": "spikes", "output": "membrane"}
    ran = ["reference", "batched"]
    with torch.no_grad(), mock.patch.dict(VALUES_AT_ONCE, cpu=case["run"]["at_once"]):
        with OperationCounter(plain) as stepwise:
            wanted = plain(x, u, record=record)
        with OperationCounter(model) as counted:
            without_frames = [model(x, u, frames=False)]
        for found in (model(x, u, record=record), model(x, u), without_frames[0]):
            assert first_difference(found, wanted, tolerance=tolerance) is None
        assert nonzero(counted) == nonzero(stepwise)

        if case["gate"] in ("open", "block"):
            model.engine = EventEngine(model)
            with OperationCounter(model) as by_event:
                assert first_difference(model(x, u), wanted, tolerance=tolerance) is None
            without_frames.append(model(x, u, frames=False))
            model.engine = None
            # Multiplications are of what layers without neurons hand on. On the grid
            # such a sum may be 0, so their number may differ.
            sums_aside = {"macs": {}}
            assert nonzero(by_event) | sums_aside == nonzero(stepwise) | sums_aside
            ran.append("event")

    for name, count in wanted.spikes_by_step.items():
        assert torch.equal(wanted.recorded[name]["spikes"].flatten(2).sum(2), count), name
    assert torch.equal(wanted.recorded["output"]["membrane"], wanted.logits_by_step)
    for found in without_frames:
        assert found.predictions is found.errors is found.is_open is found.predicted is None
        near = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(errors_by_step(found), errors_by_step(wanted), **near)
        open_share = open_share_by_step(found, x)
        torch.testing.assert_close(open_share, open_share_by_step(wanted, x), **near)
    return ran


def check_training(model, plain, x, u):
    """Compare gradients and counts of a training step with those of `plain`."""
    # In double precision, because a sum that is rounded otherwise can flip a spike.
    x = x.double()
    u = u.double()
    with OperationCounter(model.double().train()) as counted:
        found = gradients(model, x, u)
    with OperationCounter(plain.double().train()) as stepwise:
        expected = gradients(plain, x, u)

    assert nonzero(counted) == nonzero(stepwise)
    for name, gradient in expected.items():
        near = {"rtol": 1e-4, "atol": 1e-4 * gradient.abs().max().item() + 1e-6}
        torch.testing.assert_close(found[name], gradient, **near, msg=named(name))


def check_cases(numbers, extreme=None):
    """Check the cases of these numbers; return how many have run."""
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
    """No prediction misses a pixel by 3, so all 784 are blocked after timestep 1.

    Until then each is compared once, and sends where its draw is at most its value.
    """
    model = build(epsilon=3.0)
    x, u = inputs(model)

    output = ENGINES[way](model)(x, u)

    assert output.is_open[0].all()
    assert not output.is_open[1:].any()
    assert output.comparisons.tolist() == [784] * COUNT
    sends = (u[0] <= x) & (x > 0)
    assert torch.equal(output.spikes["input"], sends.flatten(1).sum(1))

    model.change(rule="all_predicted", open_bound=0.0)
    assert ENGINES[way](model)(x, u).steps.tolist() == [1] * COUNT


@pytest.mark.parametrize("way", ENGINES)
@torch.no_grad()
def test_black_images_by_hand(way):
    """A pixel of value 0 sends nothing, even where its draw is 0.

    No pixel is active, so no active one is open, and images stop after timestep 1.
    """
    model = build(rule="all_predicted", open_bound=0.0)
    black = torch.zeros(2, 1, 28, 28)
    draws = torch.zeros(STEPS, 2, 1, 28, 28)

    output = ENGINES[way](model)(black, draws)

    assert sum(output.spikes.values()).tolist() == [0, 0]
    assert not output.logits.any()
    assert output.steps.tolist() == [1, 1]


@pytest.mark.parametrize("way", ENGINES)
@torch.no_grad()
def test_a_pixel_opens_again_when_its_prediction_has_leaked_away_by_hand(way):
    """While the pixel is blocked only the read-out moves, and yet a run is not over.

    An open pixel of 1/2 brings 1 to a neuron of threshold 3/4. A spike adds 1/2 to the
    prediction, of which a timestep keeps half. The prediction misses the pixel by
    epsilon, 0.3, or more after timesteps 3 and 6, so the pixel is open again in 4 and
    7.

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
    """Off the grid, sums are the same to the last bit.

    So they are while operations are counted, with a gradient, of one image alone, and
    in each memory format; step by step in a stream within rounding.
    """
    model = build(
        gate="block",
        plan=PLANS["linear"],
        readout="membrane_linear",
        blocking="dynamic",
        latch=True,
        on_grid=False,
    )
    x, u = inputs(model)
    nodes = DenseEngine(model, x).nodes
    (decoder,) = [node.module for node in nodes if node.name.startswith("generate")]
    assert type(decoder) is FoldedChain
    assert decoder.stride == 4

    wanted = model(x, u)
    with OperationCounter(model):
        counted = model(x, u)
    with torch.enable_grad():
        with_gradient = model(x, u)
    assert wanted.predictions.any()
    assert first_difference(counted, wanted, tolerance=0) is None
    assert first_difference(with_gradient, wanted, tolerance=0) is None

    channels = decoder.kernel.shape[0]
    signal = torch.rand(5, channels, 3, 2)
    decoder.bias = torch.rand(1)
    one_by_one = torch.cat([decoder(image[None]) for image in signal])
    assert torch.equal(one_by_one, decoder(signal))
    channels_last = signal.contiguous(memory_format=torch.channels_last)
    assert torch.equal(one_by_one, decoder(channels_last))

    found = model.stream()(x, 4)
    expected = by_steps(model).stream()(x, 4)
    assert first_difference(found, expected, tolerance=1e-5) is None
    assert found.spikes["input"].any()


def trainable(**settings):
    """Build a network that spikes, in training mode, without dropout."""
    return tiny(dropout=0.0, fc_dropout=0.0, **settings).train()


@pytest.mark.parametrize(("signals", "layers"), [(1, 2), (3, 2), (4, 1)])
def test_linear_layers_are_folded_as_far_as_that_pays(signals, layers):
    """Folding the first of three U layers in, too, pays from 22 places on.

    The decoder's input has 2 x 3 places of 8 channels. To fold it in costs 8 * 8 * 4
    multiply-adds for each of the 3 * 6 * 6 numbers of the kernel behind it, and saves 8
    * 8 * 4 + 4 * 8 * 3 * 6 * 6 - 8 * 3 * 10 * 10 = 1,312 at a place: 27,648 / 1,312 =
    21.1. The map stays the same, also where the encoder has halved odd sizes.
    """
    plan = [[4, "D", 6, "D", 8, "D"], ["U", "U", "U", "in"]]
    generate = trainable(plan=plan, image_shape=(3, 19, 27), readout="membrane").generate
    unfolded = nodes_in_a_row(generate.named_children())
    signal = torch.rand(signals, 8, 2, 3)

    folded = fold_decoder(unfolded, unfolded[-1].name, signals, (19, 27))

    assert len(unfolded) == 4
    assert len(folded) == layers
    wanted = signal
    for node in unfolded:
        wanted = node.module(wanted)
    found = signal
    for node in folded:
        found = node.module(found)
    assert wanted.shape == (signals, 3, 19, 27)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def listen(module, *arguments):
    """Do nothing, as a hook."""


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_full_backward_hook"], ids=["forward", "back"]
)
def test_a_hooked_layer_stays_and_those_before_it_are_counted_at_their_size(register):
    """A signal of 3 x 5 places is doubled to 6 x 10 and 12 x 20, the latter hooked."""
    generate = nn.Sequential(
        nn.ConvTranspose2d(8, 8, 2, stride=2, bias=False),
        nn.ConvTranspose2d(8, 4, 3, padding=1, bias=False),
        nn.ConvTranspose2d(4, 4, 2, stride=2, bias=False),
        nn.ConvTranspose2d(4, 1, 3, padding=1, bias=False),
    )
    getattr(generate[2], register)(listen)
    asked = []

    def pays(chain, up, places):
        asked.append((up, places))
        return True

    nodes = nodes_in_a_row(generate.named_children())
    folded = fold_decoder(nodes, nodes[-1].name, 2, (12, 20), pays)

    assert [node.name for node in folded] == ["1", "2", "3"]
    assert folded[1].module is generate[2]
    assert asked == [(generate[0], 2 * 3 * 5)]
    signal = torch.rand(2, 8, 3, 5)
    found = signal
    for node in folded:
        found = node.module(found)
    torch.testing.assert_close(found, generate(signal), rtol=1e-4, atol=1e-5)


def test_bfloat16_products_keep_float32_membranes_and_learn_as_well():
    """A rounded drive can flip a spike, so gradients differ; losses hardly do."""
    x = images(5)
    u = torch.rand(6, *x.shape, generator=torch.Generator().manual_seed(2))
    losses = {"float32": [], "bfloat16": []}
    for precision in losses:
        model = trainable(
            cls=InputBlockingSNN,
            readout="membrane_linear",
            epsilon=0.2,
            latch=True,
            readout_slew=0.38,
            plan=[[4, "D", 6, 6, "D"], ["U", "U", "in"]],
            learn_threshold=True,
            learn_leak=True,
            leak=0.9,
        )
        model.precision = precision
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
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

        tensors = [output.logits, output.predictions, output.recorded["features.1"]["membrane"]]
        tensors += [weight.grad for weight in model.parameters() if weight.requires_grad]
        assert {tensor.dtype for tensor in tensors} == {torch.float32}

    # Before and after learning losses are near each other, but not the same.
    rounded = losses["bfloat16"]
    assert rounded[::11] == pytest.approx(losses["float32"][::11], rel=0.1)
    assert rounded != losses["float32"]
    assert rounded[-1] < 0.9 * rounded[0]

    # An evaluation takes float32 whatever training takes.
    evaluated = model.eval()(x, u).logits
    model.precision = "float32"
    assert torch.equal(model(x, u).logits, evaluated)


def test_segments_keep_less_for_the_backward_pass():
    numbers_kept = {0: 0, 3: 0}
    for segments in numbers_kept:
        model = trainable(timesteps=9)
        model.set_bptt_segments(segments)

        def count_numbers(tensor, segments=segments):
            numbers_kept[segments] += tensor.numel()
            return tensor

        def return_tensor(tensor):
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count_numbers, return_tensor):
            model(images(2))

    assert numbers_kept[3] < 0.5 * numbers_kept[0]


@pytest.mark.parametrize(("below", "spikes"), [(0.0, 0), (1e-7, 18)])
@torch.no_grad()
def test_leak_of_steps_without_spikes_is_applied_one_by_one(below, spikes):
    """Input in the first timestep, silence for five, then input once more.

    Leak 0.9 is no power of 2, so the products of the silence are rounded. Then the
    second input brings the membranes exactly to the threshold, or over it: of 2
    channels of 3 x 3 neurons.
    """
    model = build(
        plan=[[2], []],
        epsilon=0.0,
        image_shape=(1, 3, 3),
        timesteps=7,
        leak=0.9,
        default_threshold=1.0,
    )
    model.features[0].weight.data.fill_(0.625)
    x = torch.zeros(1, 1, 3, 3)
    x[..., 1, 1] = 0.5
    u = torch.ones(7, 1, 1, 3, 3)
    u[0, ..., 1, 1] = 0.25
    u[6, ..., 1, 1] = 0.25
    v = torch.tensor(0.625)
    for _ in range(6):
        v = v * torch.tensor(0.9)
    model.set_thresholds([(v + 0.625).item() - below, 1, 1])

    assert EventEngine(model)(x, u).spikes["features.1"].item() == spikes
    assert model(x, u).spikes["features.1"].item() == spikes


def test_the_pixels_own_draws_are_those_of_whole_images():
    """By index or seed, by the global generator, or given, even in bfloat16.

    NumPy has no bfloat16. The engine is first used in inference mode, which forbids the
    gradients that folding takes.
    """
    model = build(image_shape=(3, 11, 14))
    engine = EventEngine(model)
    x, _ = inputs(model)
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
    engine = EventEngine(model)
    x, u = inputs(model, 11)
    alone = engine(x, u)

    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(4) as pool:
            outputs = list(pool.map(lambda _: engine(x, u), range(4)))
    finally:
        torch.set_num_threads(1)

    for output in outputs:
        check_same(alone, output)


def step_with_sgd(model):
    """Change weights by operations, which torch counts."""
    torch.optim.SGD(model.parameters(), 0.5, foreach=False).step()


def step_with_fused_sgd(model):
    """Change weights by a fused optimiser, whose writing torch does not count."""
    torch.optim.SGD(model.parameters(), 0.5, fused=True).step()


def replace_a_layer(model):
    """Put another layer into the place of the first one."""
    model.features[0] = nn.Conv2d(1, 4, 3, padding=1)


def change_a_start_potential(model):
    """Change an attribute of a layer."""
    model.features[1].initial_potential = 0.0


def change_settings(model):
    """Change settings of the network."""
    model.change(epsilon=0.05, output_leak=0.5)


def change_the_readout(model):
    """Change an attribute of a part, of which the settings say nothing."""
    model.readout.readout_leak = 0.5


@pytest.mark.parametrize(
    "change",
    [
        step_with_sgd,
        step_with_fused_sgd,
        replace_a_layer,
        change_a_start_potential,
        change_settings,
        change_the_readout,
    ],
)
def test_what_changes_a_network_counts_at_the_next_run(change):
    model = build(**BIAS, on_grid=False)
    engine = EventEngine(model)
    x, u = inputs(model)
    with torch.no_grad():
        before = engine(x, u)
        check_same(model(x, u), before, exact=False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)

    change(model)

    with torch.no_grad():
        after = engine(x, u)
        check_same(model(x, u), after, exact=False)
        assert not torch.equal(before.logits, after.logits)

        # What the engine has prepared is kept while nothing changes.
        pools = engine.pools
        assert engine(x, u)
        assert engine.pools is pools
        assert pools


@torch.no_grad()
def test_weights_are_seen_that_lie_where_others_were():
    """As those of nn.utils.vector_to_parameters, which gives parameters other memory.

    It sets the memory before free, and the next vector may get it.
    """
    model = build(**BIAS)
    x, u = inputs(model)
    parameters = list(model.parameters())
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
    """Nor does one that has tensors of the network without a gradient."""
    model = build()
    engine = EventEngine(model)
    x, u = inputs(model)
    engine(x, u)
    pools = engine.pools

    other = nn.Linear(2, 2)
    other(torch.ones(1, 2)).sum().backward()
    torch.optim.Adam([*other.parameters(), *model.parameters()], fused=True).step()

    assert engine(x, u)
    assert engine.pools is pools
    assert pools


def test_an_evaluation_looks_at_the_weights_anew():
    """What was written through `.data`, which nobody counts, is evaluated."""
    model = load(REPOSITORY / "trained_models/snn/snn_feedback.pth", engine="event")
    x = torch.rand(4, 1, 28, 28)
    labels = torch.arange(4)
    evaluate(model, x, labels, operations=False)

    model.features[0].weight.data.mul_(0.5)
    found = evaluate(model, x, labels, operations=False)

    model.engine = None
    assert found["spikes"] == evaluate(model, x, labels, operations=False)["spikes"]

    # So is an inference tensor, which has no count.
    with torch.inference_mode():
        model.features[0].weight = nn.Parameter(model.features[0].weight * 1, requires_grad=False)
    assert EventEngine(model)(x, seed=0)


class SumsAsTheyAre(VGG_SNN_STDB_wFeedback):
    """A network with an integrate() of its own."""

    def integrate(self, total, _decoded, _view):
        """Leave the read-out as it is."""
        return total


class BrighterThanGuessed(Blocking):
    """A gate of one's own, which no kernel has."""

    def is_predicted(self, image, guess):
        """Return whether a pixel is brighter than its prediction."""
        return image > guess


def patch_a_forward(model):
    """Replace the forward() of one layer."""
    model.classifier[0].forward = lambda x: x[:, :24]


def hook_the_decoder(model):
    """Register a hook that makes predictions 0."""
    model.generate[-1].register_forward_hook(lambda _layer, _given, output: 0 * output)


def take_the_gate_own(model):
    """Change the gate to that which the test registers."""
    model.change(gate="own")


@dataclass
class Unknown:
    """What the event engine does not know.

    make: what makes a network one that has it; words: what is said of it then; called:
    whether it is a method or a hook, which only the reference calls.
    """

    make: Callable
    words: str
    called: bool = False


METHODS = "does not know the methods or hooks of this {network}"
UNKNOWNS = {
    "integrate": Unknown(become(SumsAsTheyAre), METHODS, called=True),
    "a patched forward": Unknown(patch_a_forward, METHODS, called=True),
    "a hook of the decoder": Unknown(hook_the_decoder, METHODS, called=True),
    "the gate own": Unknown(take_the_gate_own, "has no form of the gate own"),
}
for part, make in UNKNOWN.items():
    UNKNOWNS[part] = Unknown(make, f"does not know {part}")


@pytest.mark.parametrize("name", UNKNOWNS)
@torch.no_grad()
def test_what_has_no_form_is_refused_and_auto_takes_dense(name, monkeypatch):
    """Whether it was there from the beginning or came to a network that has run."""
    monkeypatch.setitem(GATES, "own", BrighterThanGuessed)
    unknown = UNKNOWNS[name]
    model = build(VGG_SNN_STDB_wFeedback, gate="block", epsilon=0.3, dropout=0.0)
    engine = EventEngine(model)
    x, u = inputs(model)
    before = engine(x, u)
    assert model.runs_by == "dense"
    assert first_difference(model(x, u), before, tolerance=0) is None

    unknown.make(model)

    words = re.escape(unknown.words.format(network=type(model).__name__))
    with pytest.raises(ModelError, match=f"^the event engine {words}$"):
        engine(x, u)
    with pytest.raises(ModelError, match=f"^the event engine {words}$"):
        EventEngine(model)
    for mode in (True, False):
        after = model.train(mode)(x, u, seed=1)
        assert first_difference(by_steps(model)(x, u, seed=1), after, tolerance=1e-5) is None

    model.engine = engine
    check_same(model(x, u), after)
    assert not engine.serves()
    if unknown.called:
        assert model.runs_by == "reference"
    else:
        assert model.runs_by != "event"
    if name == "a hook of the decoder":
        assert first_difference(before, after)
    if name == "the gate own":
        model.change(gate="block", epsilon=0.3)
        check_same(before, engine(x, u))


@pytest.mark.parametrize("settings", [{}, {"rule": "confidence", "cls": AdaptiveTimestepsSNN}])
@torch.no_grad()
def test_a_batch_of_no_images(settings):
    event = EventEngine(build(**settings))(torch.zeros(0, 1, 28, 28))

    assert event.logits.shape == (0, 10)
    assert event.logits_by_step.shape == (STEPS, 0, 10)
    assert event.steps.shape == (0,)
    for counts in event.spikes.values():
        assert counts.shape == (0,)


def test_draws_of_another_shape_are_refused():
    model = build()
    images = torch.zeros(2, 1, 28, 28)
    too_few = torch.zeros(STEPS - 1, 2, 1, 28, 28)

    for run in (model, EventEngine(model)):
        with pytest.raises(ModelError, match="uniforms"):
            run(images, too_few)
