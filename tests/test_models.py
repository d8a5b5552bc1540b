"""The networks: plans, names and weights, norms, neurons and surrogates, read-outs, blocking: by hand."""

import math
from math import exp, inf, log, sqrt

import pytest
import torch
from conftest import ELSEWHERE, PLAN, images, tiny
from torch import nn

from self_models import ModelError
from self_models.engines.dense.neuron_steps import neuron_steps
from self_models.guests.phased import PhasedNeuron
from self_models.layers.architectures import PLANS, get_architecture, halvings
from self_models.layers.neurons import CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.layers.norms import QCFS, BatchNorm, ScaledByBatch
from self_models.layers.surrogates import SURROGATES
from self_models.objectives.contrast import original_contrast
from self_models.objectives.encoders import poisson
from self_models.objectives.readouts import READOUTS
from self_models.runtime.outputs import by_part, part_of
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

BOTH = pytest.mark.parametrize("cls", [VGG_wFeedback, VGG_SNN_STDB_wFeedback])


SHAPES = [
    (name, (1, 32, 32) if halvings(get_architecture(name).encoder) > 4 else (1, 28, 28))
    for name in PLANS
]


@BOTH
@pytest.mark.parametrize(
    ("name", "shape"),
    [*SHAPES, ("VGG9_wFeedback", (1, 33, 47)), ("VGG5_wFeedback_narrow", (3, 32, 32))],
)
def test_every_plan_builds_and_runs(cls, name, shape):
    model = cls(vgg_name=name, fc_width=8, timesteps=1, image_shape=shape).eval()
    with torch.no_grad():
        output = model(images(2, shape))
    assert output.logits.shape == (2, 10) and output.logits.isfinite().all()
    assert model.has_feedback == name.partition("_")[2].startswith("wFeedback")
    if model.has_feedback:
        assert output.predictions.shape == output.errors.shape == (1, 2, *shape)
    else:
        assert output.predictions is None and output.errors is None and model.generate is None


@pytest.mark.parametrize(
    ("name", "features", "generate"),
    [
        ("VGG5_wFeedback", [0, 2, 3, 6, 8], [0, 1, 4, 6, 7]),
        (
            "VGG9_wFeedback",
            [0, 2, 3, 6, 8, 9, 12, 14, 15, 17, 18],
            [0, 2, 3, 5, 6, 9, 11, 12, 15, 17, 18],
        ),
        ("VGG5", [0, 3, 6], []),
    ],
)
def test_parameter_names_are_those_of_the_original(name, features, generate):
    positions = {"features": features, "generate": generate, "classifier": [0, 3, 6]}
    expected = [
        f"{stage}.{position}.weight" for stage, found in positions.items() for position in found
    ]
    ann, snn = (
        cls(name, fc_width=4).state_dict() for cls in (VGG_wFeedback, VGG_SNN_STDB_wFeedback)
    )
    assert list(ann) == expected
    assert [key for key in snn if not key.endswith((".threshold", ".leak"))] == expected


@BOTH
def test_the_classifiers_dropout_is_its_own(cls):
    for own, expected in (({}, 0.5), ({"fc_dropout": 0.3}, 0.3)):
        model = cls(plan=PLAN, fc_width=4, dropout=0.1, **own)
        p = {
            name: [layer.p for layer in stage if isinstance(layer, HeldDropout)]
            for name, stage in model.named_children()
        }
        assert p == {"features": [0.1], "generate": [0.1], "classifier": [expected, expected]}


DEVIATIONS = {
    "original": {
        "features.0": 2 / (9 * 64),
        "features.2": 2 / (4 * 64),
        "features.6": 2 / (9 * 128),  # 2 is D
        "generate.0": 2 / (4 * 128),
        "generate.1": 2 / (9 * 128),
        "generate.4": 2 / (9 * 64),
        "generate.7": 2 / 9,  # U, in
        "classifier.0": 1e-4,
        "classifier.3": 1e-4,
        "classifier.6": 1e-4,
    },
    "kaiming": {
        "features.0": 2 / 9,
        "features.2": 1 / (4 * 64),
        "features.3": 2 / (9 * 64),
        "generate.0": 2 / (9 * 32),
        "generate.2": 1 / 48,
        "classifier.0": 2 / (32 * 14 * 14),
        "classifier.3": 2 / 80,
        "classifier.6": 1 / 80,
    },
}


@BOTH
@pytest.mark.parametrize(
    ("init", "plan"), [("original", None), ("kaiming", [[64, "D", 32], [48, "U", "in"]])]
)
def test_new_weights_by_hand(cls, init, plan):
    """The original's; and kaiming, whose mean square is 2 / inputs before a nonlinearity, else 1 / inputs; a U layer's outputs
    have one input each per channel."""
    torch.manual_seed(0)
    weights = cls("VGG5_wFeedback", plan=plan, fc_width=80, init=init).state_dict()
    for name, square in DEVIATIONS[init].items():
        values = weights[f"{name}.weight"]
        near = 4 / sqrt(
            2 * values.numel()
        )  # relative standard error of a standard deviation, four times
        assert values.std().item() == pytest.approx(sqrt(square), rel=near), name
        assert abs(values.mean().item()) < 4 * sqrt(square / values.numel()), name


def test_dirac_passes_an_image_through():
    """Also through fewer or more channels than there are, and back through the decoder; layers of stride 2 are as kaiming's."""
    model = VGG_wFeedback(
        plan=[[5, 3, "fork", 4, "D"], [6, "in"]], image_shape=(3, 5, 6), fc_width=4, init="dirac"
    ).eval()
    signal = x = images(2, (3, 5, 6)).abs()
    for layer in model.features[:6]:
        signal = layer(signal) if not isinstance(layer, HeldDropout) else signal
        torch.testing.assert_close(signal[:, :3], x)
    torch.testing.assert_close(model.generate(x), x)
    filters = model.features[0].weight
    assert filters[:3].count_nonzero() == 3 and filters[3:].count_nonzero() == filters[3:].numel()
    assert (
        model.features[8].weight.count_nonzero() == 4 * 4 * 2 * 2
        and model.classifier[0].weight.count_nonzero() == 4 * 4 * 6
    )


@BOTH
def test_maximum_pool_and_one_linear_layer_by_hand(cls):
    """Weights of 2 make drives 0.5 and 1 in one 2x2 block, 2 in another. Spikes of threshold 1: in step 3, in steps 2 and 3, in
    all 3; so the first block's maximum, the logical or, sends 2 spikes, the other's 3."""
    own = (
        {}
        if cls is VGG_wFeedback
        else {"encoding": "direct", "update": "immediate", "timesteps": 3}
    )
    plan = [[1, "fork", "M", "A"], ["in"]]
    model = cls(
        plan=plan, image_shape=(1, 4, 4), kernel_size=1, labels=2, fc_layers=0, **own
    ).eval()
    assert (
        [*model.state_dict()][-1] == "classifier.0.weight"
        and len(model.features) == 4
        and model.features.fork == 2
    )
    model.features[0].weight.data.fill_(2.0)
    model.classifier[0].weight.data = torch.tensor([[1.0], [-3.0]])
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 1, 1], x[0, 0, 2, 3] = 0.25, 0.5, 1.0
    mean = (1 + 2) / 4 if cls is VGG_wFeedback else (2 + 3) / 4
    torch.testing.assert_close(model(x).logits, torch.tensor([[mean, -3 * mean]]))


def test_a_pool_that_counts_by_hand():
    """Two neurons that take turns send twice each in 4 steps: their or sends 4 times, the highest count rises twice. The third
    window has three that spike at once, then one of them again. What a step passes is the same in pieces."""
    pool, spikes = CountingMaxPool(2), torch.zeros(4, 1, 1, 2, 6)
    spikes[0::2, 0, 0, 0, 0] = spikes[1::2, 0, 0, 1, 1] = 1
    spikes[:, 0, 0, 0, 2] = 1
    spikes[1, 0, 0, :, 4] = spikes[1, 0, 0, 0, 5] = spikes[3, 0, 0, 1, 4] = 1
    passed, counts = pool(spikes.flatten(0, 1), None, 4)
    assert passed.reshape(4, 3).T.tolist() == [[1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 0, 1]]
    assert (
        torch.equal(counts, spikes.sum(0))
        and nn.MaxPool2d(2)(spikes.flatten(0, 1)).view(4, 3)[:, 0].sum() == 4
    )
    first, between = pool(spikes[:3].flatten(0, 1), None, 3)
    assert torch.equal(torch.cat([first, pool(spikes[3], between, 1)[0]]), passed)


def test_thresholds_are_checked_when_set():
    model = tiny()
    for wrong in ([1.0], [0.0] * len(model.thresholds), [math.nan] * len(model.thresholds)):
        with pytest.raises(ModelError, match="thresholds"):
            model.set_thresholds(wrong)
    for call in (
        lambda: neuron(leak=math.nan),
        lambda: neuron(threshold=0.0),
        lambda: model.set_leak(1.5),
    ):
        with pytest.raises(ModelError, match=r"leak|threshold"):
            call()
    assert model.thresholds == pytest.approx([0.2] * len(model.thresholds))


FORKED = {  # plan -> the layers with weights before its fork; a dropout before D is taken away, before a fork too
    (4, "D", "fork", 6, "D"): ["features.0.weight", "features.2.weight"],
    (4, 6, "fork", "D", 6): ["features.0.weight", "features.3.weight"],
    (4, "D", 6, "fork", 6, 5): ["features.0.weight", "features.2.weight", "features.3.weight"],
}


@BOTH
@pytest.mark.parametrize("encoder", FORKED, ids=str)
def test_the_decoder_sees_exactly_the_layers_before_the_fork(cls, encoder):
    """By gradients; the classifier sees all."""
    decoder = ["U"] * encoder[: encoder.index("fork")].count("D") + ["in"]
    model = tiny(cls, plan=[list(encoder), decoder], fc_layers=0).train()
    output = model(images(2), seed=0)
    weights = {
        name: value
        for name, value in model.features.named_parameters(prefix="features")
        if value.dim() > 1
    }
    for of, seen in ((output.predictions, FORKED[encoder]), (output.logits, [*weights])):
        found = torch.autograd.grad(
            of.sum(), [*weights.values()], retain_graph=True, materialize_grads=True
        )
        assert [name for name, value in zip(weights, found, strict=True) if value.any()] == seen


def test_scaling_by_the_batch_by_hand():
    """Channel 0: 3 and 4, mean square 12.5; channel 1: 0. The running mean square moves a tenth of the way from 1."""
    layer, x = ScaledByBatch(2, nn.Identity()), torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    found = layer.train()(x)
    torch.testing.assert_close(found, x / sqrt(12.5 + 1e-5))
    assert layer.mean_square.tolist() == pytest.approx([1 + 0.1 * 11.5, 0.9])
    layer(x)
    running = 2.15 + 0.1 * (12.5 - 2.15)
    assert layer.mean_square.tolist() == pytest.approx([running, 0.81])
    layer.gain.data = torch.tensor([2.0, 3.0])
    torch.testing.assert_close(layer.eval()(x)[:, 0], 2 * x[:, 0] / sqrt(running + 1e-5))
    assert layer.mean_square.tolist() == pytest.approx(
        [running, 0.81]
    )  # nothing is learned in evaluation
    spread = x.t().reshape(1, 2, 1, 2)  # the same values over space
    torch.testing.assert_close(ScaledByBatch(2, nn.Identity())(spread), spread / sqrt(12.5 + 1e-5))


def test_batch_norm_is_that_of_pytorch():
    """Of maps and of vectors, in training and evaluation, with gradients and statistics; one value gets the running ones."""
    torch.manual_seed(0)
    for shape in ((4, 3, 5, 6), (4, 3)):
        ours, theirs = BatchNorm(3, nn.ReLU()), nn.BatchNorm2d(3)
        for layer in (ours, theirs):
            layer.weight.data, layer.bias.data = (
                torch.tensor([0.5, 1.0, 2.0]),
                torch.tensor([0.1, -0.3, 0.2]),
            )
        for _ in range(3):
            x = torch.randn(shape) * 3 + 1
            outputs = ours(x), theirs(x.view(4, 3, *shape[2:] or (1, 1))).relu().view_as(x)
            torch.testing.assert_close(*outputs)
            for output in outputs:
                output.square().sum().backward()
        torch.testing.assert_close(
            [ours.weight.grad, ours.bias.grad], [theirs.weight.grad, theirs.bias.grad]
        )
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
        alone, before = torch.randn(1, 3), ours.running_var.clone()
        found = ours(alone)
        torch.testing.assert_close(ours.eval()(alone), found)
        torch.testing.assert_close(theirs.eval()(alone.view(1, 3, 1, 1)).relu().view(1, 3), found)
        assert torch.equal(ours.running_var, before)


def test_qcfs_by_hand():
    """theta 8 and 4 levels make steps of 2 that begin at odd numbers. Slopes: 1 from 0 to theta; of theta (y - x) / theta there,
    1 above."""
    layer, x = (
        QCFS(4, 8.0),
        torch.tensor([-3.0, 0.5, 0.99, 1.0, 4.4, 6.9, 7.5, 9.0], requires_grad=True),
    )
    y = layer(x)
    assert y.tolist() == [0, 0, 0, 2, 4, 6, 8, 8]
    torch.autograd.backward(y, torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 7, 0]
    slopes = [0, 2 * -0.5, 3 * -0.99, 4 * 1, 5 * -0.4, 6 * -0.9, 7 * 0.5, 8 * 8]
    assert layer.bound.grad.item() == pytest.approx(sum(slopes) / 8)
    clipped = QCFS(0, 8.0)
    y = clipped(x)
    assert y.tolist() == pytest.approx([0, 0.5, 0.99, 1, 4.4, 6.9, 7.5, 8])
    y.sum().backward()
    assert clipped.bound.grad.item() == pytest.approx(1)  # of what is clipped


def test_poisson_encoding_by_hand():
    x = torch.tensor([0.0, 0.0, 0.5, 0.5, 0.5, -0.5, -0.5, 1.0])
    u = torch.tensor([0.0, 0.1, 0.4, 0.5, 0.6, 0.2, 0.7, 0.99])
    assert poisson(x, u).tolist() == [0, 0, 1, 1, 0, -1, 0, 1]  # u <= |x| spikes with x's sign


QUARTERS = torch.tensor([0.0, log(3), log(7)]).reshape(1, 1, 1, 3)  # their sigmoids: 1/2, 3/4, 7/8


@pytest.mark.parametrize(
    ("name", "spiking", "prediction", "guess"),
    [
        ("spike_count", True, [0.5, 0.75, 0.875], [0.0, 0.5, 0.75]),
        ("spike_count_rescaled", True, [0.0, 0.5, 0.75], [0.0, 0.5, 0.75]),
        ("membrane", False, [0.5, 0.75, 0.875], [0.5, 0.75, 0.875]),
        ("membrane_rescaled", False, [0.0, 0.5, 0.75], [0.0, 0.5, 0.75]),
    ],
)
def test_readouts_by_hand(name, spiking, prediction, guess):
    readout, colour = READOUTS[name](), READOUTS[name]()
    readout.colour, colour.colour = (
        False,
        True,
    )  # colour images lie in [-1, 1]: tanh in every read-out
    assert readout.spiking == spiking
    assert readout.prediction(QUARTERS).flatten().tolist() == pytest.approx(prediction)
    assert readout.on_pixel_scale(
        readout.prediction(QUARTERS)
    ).flatten().tolist() == pytest.approx(guess)
    assert colour.on_pixel_scale(
        colour.prediction(-QUARTERS / 2)
    ).flatten().tolist() == pytest.approx([0, -0.5, -0.75])


def test_original_contrast_by_hand():
    """Blocked pixels count as 0 and the rest is stretched: 0, 0.2, 0.4 becomes 0, 1/2, 1 (but for the original's 1e-5)."""
    image = torch.tensor([0.9, 0.2, 0.4, 0.0]).reshape(1, 1, 2, 2)
    is_open = torch.tensor([False, True, True, True]).reshape(1, 1, 2, 2)
    assert original_contrast(image, is_open).flatten().tolist() == pytest.approx(
        [0, 0.5, 1, 0], abs=1e-4
    )
    assert not original_contrast(0 * image, is_open).any()  # an empty image stays empty


def neuron(update="delayed", threshold=1.0, leak=1.0, activation="Linear", **learn):
    return SpikingNeuron(
        SURROGATES.find(activation)(alpha=0.3, beta=0.01), update, threshold, leak, **learn
    )


def trace(drives, **settings):
    """(spike, membrane potential) after each drive, by a step's equations and as fast takes the steps."""
    layer, state, other, seen = neuron(**settings), None, None, []
    for drive in torch.tensor(drives).view(-1, 1, 1):
        spikes, state = layer(drive, state)
        fast, other, _ = neuron_steps(layer, drive, other)
        assert torch.equal(spikes, fast) and torch.equal(state.v, other.v), ELSEWHERE
        seen.append((spikes.item(), pytest.approx(state.v.item(), abs=1e-6)))
    return seen


@pytest.mark.parametrize(
    ("update", "drives", "threshold", "leak", "start", "expected"),
    [
        ("delayed", [0.6, 0.6, 0.0], 1, 1, 0, [(0, 0.6), (0, 1.2), (1, 0.2)]),
        ("delayed", [3, 3, 0, 0], 2, 0.5, 0, [(0, 3), (1, 2.5), (1, -0.75), (0, -0.375)]),
        ("delayed", [2.5, 0, 0, 0], 1, 1, 0, [(0, 2.5), (1, 1.5), (1, 0.5), (0, 0.5)]),
        ("delayed", [-1, 1, 1, 0.5, 0], 1, 0, 0, [(0, -1), (0, 1), (0, 1), (0, 0.5), (0, 0)]),
        (
            "delayed",
            [1, 0, 0],
            1,
            1,
            0,
            [(0, 1), (0, 1), (0, 1)],
        ),  # exactly at threshold: no spike
        ("immediate", [0.6, 0.6, 0.0], 1, 1, 0, [(0, 0.6), (1, 0.2), (0, 0.2)]),
        ("immediate", [3, 3, 0], 2, 0.5, 0, [(1, 1), (1, 1.5), (0, 0.75)]),
        ("immediate", [2.5, 0, 0, 0], 1, 1, 0, [(1, 1.5), (1, 0.5), (0, 0.5), (0, 0.5)]),
        ("immediate", [-1, 1, 2, 0.5], 1, 0, 0, [(0, -1), (0, 1), (1, 1), (0, 0.5)]),
        ("immediate", [1, 0.5], 1, 1, 0, [(0, 1), (1, 0.5)]),  # exactly at threshold: no spike
        (
            "delayed",
            [1, 0.5, 0.5],
            1.5,
            1,
            0.5,
            [(0, 1.75), (1, 0.75), (0, 1.25)],
        ),  # V begins at 0.75
        ("immediate", [1, 0.5, 0.5], 1.5, 0.8, 0.5, [(1, 0.1), (0, 0.58), (0, 0.964)]),
    ],
)
def test_updates_by_hand(update, drives, threshold, leak, start, expected):
    assert (
        trace(drives, update=update, threshold=threshold, leak=leak, initial_potential=start)
        == expected
    )


@pytest.mark.parametrize(
    ("drives", "start", "expected"),
    [
        ([1.5, 1.25, 9, 9], 0, [(0, 1.5), (0, 2.75), (1, 1.75), (1, 0.75)]),
        (
            [1, 1, 9, 9, 9],
            0,
            [(0, 1), (0, 2), (1, 1), (0, 1), (0, 1)],
        ),  # at 2 thresholds: one spike, at 1 none
        (
            [5, 1, -9, -9, -9],
            0.5,
            [(0, 5.5), (0, 6.5), (1, 5.5), (1, 4.5), (0, 4.5)],
        ),  # at most T, and what is left is dropped
        ([-1, 1.5, 0, 0], 0.75, [(0, -0.25), (0, 1.25), (1, 0.25), (0, 0.25)]),
    ],
)
def test_a_phased_layer_charges_and_then_fires_by_hand(drives, start, expected):
    """T = 2, threshold 1, of the layer behind the first, after 2 steps of rest: what arrives out of its phase is lost."""
    layer = PhasedNeuron(SURROGATES.find("Linear")(0.3, 0.01), "phased", initial_potential=start)
    layer.fires_in, layer.steps, state, seen = 2, 2, None, []
    for drive in torch.tensor([7.0, 7.0, *drives]).view(-1, 1, 1):
        spikes, state = layer(drive, state)
        seen.append((spikes.item(), state.v.item()))
    assert seen == [(0, start), (0, start), *expected]
    fast = layer.fired(torch.tensor([[sum(drives[:2])]]), 2).flatten().tolist()
    assert fast == [spike for spike, _ in expected[2:4]], ELSEWHERE


@pytest.mark.parametrize(
    ("update", "spikes", "membranes"),
    [
        ("delayed", [0, 0, 0, 1, 0], [-0.5, 0.25, 1.5, 0.5, -0.5]),
        ("immediate", [0, 0, 1, 0, 0], [-0.5, 0.25, 0.5, 0.5, -0.5]),
    ],
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
        (
            "STDB",
            [0.5, -3.0, 0.5, 0.5],
            [1.0, 2.0, 50.0, inf],
            [0.4 * exp(-0.02), 0.4 * exp(-0.04), 0.4 * exp(-1), 0],
        ),
    ],
)
def test_surrogates_by_hand(activation, v, age, expected):
    """Age infinity: a neuron that has never spiked."""
    surrogate, v = SURROGATES.find(activation)(alpha=0.4, beta=0.02), torch.tensor(v)
    found = surrogate.scale * surrogate.onto(torch.ones_like(v), v, torch.tensor(age))
    assert found.tolist() == pytest.approx(expected)


def test_clamp_dynamics():
    snn = tiny(learn_threshold=True, learn_leak=True)
    layer = snn.features[1]
    for given, kept in (
        ((-1.0, 1.5), (0.01, 1.0)),
        ((0.7, -0.2), (0.7, 0.0)),
        ((2.0, 0.5), (2.0, 0.5)),
    ):
        layer.threshold.data.fill_(given[0])
        layer.leak.data.fill_(given[1])
        snn.clamp_dynamics()
        assert (layer.threshold.item(), layer.leak.item()) == pytest.approx(kept)
    ann = tiny(VGG_wFeedback, activation_ann="qcfs")
    ann.features[1].bound.data.fill_(-1.0)
    ann.clamp_dynamics()
    assert ann.features[1].bound > 0
    balanced = tiny(default_threshold=0.005)
    balanced.clamp_dynamics()
    assert balanced.thresholds == pytest.approx(
        [0.005] * len(balanced.thresholds)
    )  # not learned: as balancing found them


def test_a_layer_is_of_the_part_with_whose_name_it_begins():
    """Beside the stages, too; only the input itself is the input."""
    parts = {"input": "input", "features.1": "encoder", "classifier.1": "classifier"}
    parts |= {"generate2.0": "decoder", "input_gain": "encoder", "other.3": "encoder"}
    assert {layer: part_of(layer) for layer in parts} == parts
    assert by_part({"input": 1, "input_gain.0": 2})["input"] == 1
