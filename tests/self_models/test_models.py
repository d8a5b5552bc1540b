"""What networks are made of, by hand.

Plans, names and weights, norms, neurons and surrogates, read-outs, blocking.
"""

import math
from math import exp, inf, log, sqrt

import pytest
import torch
from conftest import ELSEWHERE, PLAN, images, tiny
from torch import nn

from self_models import ModelError
from self_models.feedback.contrast import original_contrast
from self_models.feedback.encoders import poisson
from self_models.feedback.readouts import READOUTS
from self_models.networks.architectures import PLANS, get_architecture, halvings
from self_models.neurons.norms import QCFS, BatchNorm, ScaledByBatch
from self_models.neurons.spiking import CountingMaxPool, HeldDropout, SpikingNeuron
from self_models.neurons.surrogates import SURROGATES
from self_models.running.dense.neuron_steps import neuron_steps
from self_models.running.outputs import by_part, part_of
from self_models.running.phased import PhasedNeuron
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

BOTH = pytest.mark.parametrize("cls", [VGG_wFeedback, VGG_SNN_STDB_wFeedback])


def image_shape_for(name):
    """Return the shape of images that are not smaller than this plan needs."""
    if halvings(get_architecture(name).encoder) > 4:
        return (1, 32, 32)
    return (1, 28, 28)


NAMES_AND_SHAPES = [(name, image_shape_for(name)) for name in PLANS]
NAMES_AND_SHAPES += [
    ("VGG9_wFeedback", (1, 33, 47)),  # odd sizes
    ("VGG5_wFeedback_narrow", (3, 32, 32)),  # colour
]


@BOTH
@pytest.mark.parametrize(("name", "shape"), NAMES_AND_SHAPES)
def test_every_plan_builds_and_runs(cls, name, shape):
    model = cls(vgg_name=name, fc_width=8, timesteps=1, image_shape=shape).eval()

    with torch.no_grad():
        output = model(images(2, shape))

    assert output.logits.shape == (2, 10)
    assert output.logits.isfinite().all()
    assert model.has_feedback == ("_wFeedback" in name)
    if model.has_feedback:
        assert output.predictions.shape == output.errors.shape == (1, 2, *shape)
    else:
        assert output.predictions is None
        assert output.errors is None
        assert model.generate is None


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
    expected = [f"features.{position}.weight" for position in features]
    expected += [f"generate.{position}.weight" for position in generate]
    expected += [f"classifier.{position}.weight" for position in (0, 3, 6)]

    ann = VGG_wFeedback(name, fc_width=4).state_dict()
    snn = VGG_SNN_STDB_wFeedback(name, fc_width=4).state_dict()

    assert list(ann) == expected
    assert [key for key in snn if not key.endswith((".threshold", ".leak"))] == expected


@BOTH
@pytest.mark.parametrize(("settings", "expected"), [({}, 0.5), ({"fc_dropout": 0.3}, 0.3)])
def test_the_classifiers_dropout_is_its_own(cls, settings, expected):
    model = cls(plan=PLAN, fc_width=4, dropout=0.1, **settings)

    probabilities = {}
    for name, stage in model.named_children():
        probabilities[name] = [layer.p for layer in stage if isinstance(layer, HeldDropout)]

    assert probabilities == {
        "features": [0.1],
        "generate": [0.1],
        "classifier": [expected, expected],
    }


MEAN_SQUARES = {  # of new weights; a layer has 3 x 3 weights per channel, those of D and U 2 x 2
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
    """The original's; and kaiming's, of mean square 2 / inputs before a nonlinearity.

    Without one it is 1 / inputs. A U layer's outputs have one input each per channel.
    """
    torch.manual_seed(0)

    weights = cls("VGG5_wFeedback", plan=plan, fc_width=80, init=init).state_dict()

    for name, mean_square in MEAN_SQUARES[init].items():
        values = weights[f"{name}.weight"]
        # Four standard errors: of a standard deviation (relative to it), and of a mean.
        near = 4 / sqrt(2 * values.numel())
        assert values.std().item() == pytest.approx(sqrt(mean_square), rel=near), name
        assert abs(values.mean().item()) < 4 * sqrt(mean_square / values.numel()), name


def test_dirac_passes_an_image_through():
    """Also through fewer or more channels than it has, and back through the decoder."""
    plan = [[5, 3, "fork", 4, "D"], [6, "in"]]
    model = VGG_wFeedback(plan=plan, image_shape=(3, 5, 6), fc_width=4, init="dirac").eval()
    x = images(2, (3, 5, 6)).abs()

    signal = x
    for layer in model.features[:6]:
        if isinstance(layer, HeldDropout):
            continue
        signal = layer(signal)
        torch.testing.assert_close(signal[:, :3], x)
    torch.testing.assert_close(model.generate(x), x)

    # Of 5 filters 3 pass a channel each, and the others are as kaiming's.
    filters = model.features[0].weight
    assert filters[:3].count_nonzero() == 3
    assert filters[3:].count_nonzero() == filters[3:].numel()
    # So are layers of stride 2 (D, of 2 x 2 weights), and those of the classifier.
    assert model.features[8].weight.count_nonzero() == 4 * 4 * 2 * 2
    assert model.classifier[0].weight.count_nonzero() == 4 * 4 * 6


@pytest.mark.parametrize(
    ("cls", "settings", "mean"),
    [
        # The maxima of the two blocks, 1 and 2, over four blocks.
        (VGG_wFeedback, {}, (1 + 2) / 4),
        # Of 3 timesteps the neurons of the first block spike in the third, and in the
        # second and third; their maximum, the logical or, sends 2 spikes. The other's
        # sends 3.
        (
            VGG_SNN_STDB_wFeedback,
            {"encoding": "direct", "update": "immediate", "timesteps": 3},
            (2 + 3) / 4,
        ),
    ],
)
def test_maximum_pool_and_one_linear_layer_by_hand(cls, settings, mean):
    """Weights of 2 make drives 0.5 and 1 in a 2x2 block, 2 in another; threshold 1."""
    model = cls(
        plan=[[1, "fork", "M", "A"], ["in"]],
        image_shape=(1, 4, 4),
        kernel_size=1,
        labels=2,
        fc_layers=0,
        **settings,
    ).eval()
    model.features[0].weight.data.fill_(2.0)
    model.classifier[0].weight.data = torch.tensor([[1.0], [-3.0]])
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 0.25
    x[0, 0, 1, 1] = 0.5
    x[0, 0, 2, 3] = 1.0

    logits = model(x).logits

    torch.testing.assert_close(logits, torch.tensor([[mean, -3 * mean]]))
    assert list(model.state_dict())[-1] == "classifier.0.weight"
    assert len(model.features) == 4
    assert model.features.fork == 2


def test_a_pool_that_counts_by_hand():
    """It sends a spike where the highest count of its window rises."""
    spikes = torch.zeros(4, 1, 1, 2, 6)  # timesteps, ..., three windows of 2 x 2
    # The first window: two neurons that take turns.
    spikes[0::2, 0, 0, 0, 0] = 1
    spikes[1::2, 0, 0, 1, 1] = 1
    # The second: one that always spikes.
    spikes[:, 0, 0, 0, 2] = 1
    # The third: three that spike at once, then one of them again.
    spikes[1, 0, 0, :, 4] = 1
    spikes[1, 0, 0, 0, 5] = 1
    spikes[3, 0, 0, 1, 4] = 1
    pool = CountingMaxPool(2)

    passed, counts = pool(spikes.flatten(0, 1), None, 4)

    assert passed.reshape(4, 3).T.tolist() == [[1, 0, 1, 0], [1, 1, 1, 1], [0, 1, 0, 1]]
    assert torch.equal(counts, spikes.sum(0))
    # The logical or of the first window would send in all 4 timesteps.
    assert nn.MaxPool2d(2)(spikes.flatten(0, 1)).view(4, 3)[:, 0].sum() == 4

    # What a timestep passes is the same in pieces.
    first_three, counts = pool(spikes[:3].flatten(0, 1), None, 3)
    last, _ = pool(spikes[3], counts, 1)
    assert torch.equal(torch.cat([first_three, last]), passed)


def test_thresholds_are_checked_when_set():
    model = tiny()
    count = len(model.thresholds)

    for wrong in ([1.0], [0.0] * count, [math.nan] * count, None, 1.0, [None] * count):
        with pytest.raises(ModelError, match="thresholds"):
            model.set_thresholds(wrong)

    assert model.thresholds == pytest.approx([0.2] * count)


def test_leaks_and_thresholds_of_neurons_are_checked():
    model = tiny()

    with pytest.raises(ModelError, match=r"leak|threshold"):
        neuron(leak=math.nan)
    with pytest.raises(ModelError, match=r"leak|threshold"):
        neuron(threshold=0.0)
    with pytest.raises(ModelError, match=r"leak|threshold"):
        model.set_leak(1.5)


@BOTH
@pytest.mark.parametrize(
    ("plan", "seen"),
    [
        # A dropout before D is taken away, before a fork, too.
        (
            [[4, "D", "fork", 6, "D"], ["U", "in"]],
            ["features.0.weight", "features.2.weight"],
        ),
        ([[4, 6, "fork", "D", 6], ["in"]], ["features.0.weight", "features.3.weight"]),
        (
            [[4, "D", 6, "fork", 6, 5], ["U", "in"]],
            ["features.0.weight", "features.2.weight", "features.3.weight"],
        ),
    ],
    ids=["behind D", "before D", "between"],
)
def test_the_decoder_sees_exactly_the_layers_before_the_fork(cls, plan, seen):
    """As gradients tell. The classifier sees all."""
    model = tiny(cls, plan=plan, fc_layers=0).train()
    weights = {}
    for name, value in model.features.named_parameters(prefix="features"):
        if value.dim() > 1:
            weights[name] = value

    output = model(images(2), seed=0)

    assert names_with_gradient(output.predictions, weights) == seen
    assert names_with_gradient(output.logits, weights) == list(weights)


def names_with_gradient(output, weights):
    """Return the names of those weights on which an output depends."""
    gradients = torch.autograd.grad(
        output.sum(), list(weights.values()), retain_graph=True, materialize_grads=True
    )
    return [name for name, value in zip(weights, gradients, strict=True) if value.any()]


def test_scaling_by_the_batch_by_hand():
    """Channel 0: 3 and 4, mean square (9 + 16) / 2 = 12.5. Channel 1: 0.

    The running mean square begins at 1 and moves a tenth of the way.
    """
    x = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    layer = ScaledByBatch(2, nn.Identity()).train()

    torch.testing.assert_close(layer(x), x / sqrt(12.5 + 1e-5))
    assert layer.mean_square.tolist() == pytest.approx([1 + 0.1 * 11.5, 0.9])

    layer(x)
    running = 2.15 + 0.1 * (12.5 - 2.15)
    assert layer.mean_square.tolist() == pytest.approx([running, 0.81])

    # In evaluation nothing is learned.
    layer.gain.data = torch.tensor([2.0, 3.0])
    torch.testing.assert_close(layer.eval()(x)[:, 0], 2 * x[:, 0] / sqrt(running + 1e-5))
    assert layer.mean_square.tolist() == pytest.approx([running, 0.81])


def test_scaling_by_the_batch_takes_places_as_it_takes_images():
    spread = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)  # two places

    found = ScaledByBatch(2, nn.Identity())(spread)

    torch.testing.assert_close(found, spread / sqrt(12.5 + 1e-5))


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3)], ids=["maps", "vectors"])
def test_batch_norm_is_that_of_pytorch(shape):
    """In training and evaluation, with gradients and statistics."""
    torch.manual_seed(0)
    ours = BatchNorm(3, nn.ReLU())
    theirs = nn.BatchNorm2d(3)
    for layer in (ours, theirs):
        layer.weight.data = torch.tensor([0.5, 1.0, 2.0])
        layer.bias.data = torch.tensor([0.1, -0.3, 0.2])

    for _ in range(3):
        x = torch.randn(shape) * 3 + 1
        as_maps = x if x.dim() == 4 else x.view(4, 3, 1, 1)
        found = ours(x)
        wanted = theirs(as_maps).relu().view_as(x)
        torch.testing.assert_close(found, wanted)
        found.square().sum().backward()
        wanted.square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())

    # A single value has no variance, and is scaled by the running one, as in
    # evaluation.
    alone = torch.randn(1, 3)
    before = ours.running_var.clone()
    found = ours(alone)
    torch.testing.assert_close(ours.eval()(alone), found)
    wanted = theirs.eval()(alone.view(1, 3, 1, 1)).relu().view(1, 3)
    torch.testing.assert_close(wanted, found)
    assert torch.equal(ours.running_var, before)


def test_qcfs_by_hand():
    """A bound theta of 8 and 4 levels make steps of 2 that begin at odd numbers.

    The slope of x is 1 from 0 to theta. That of theta is (y - x) / theta there, and 1
    above.
    """
    layer = QCFS(4, 8.0)
    x = torch.tensor([-3.0, 0.5, 0.99, 1.0, 4.4, 6.9, 7.5, 9.0], requires_grad=True)

    y = layer(x)
    torch.autograd.backward(y, torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]))

    assert y.tolist() == [0, 0, 0, 2, 4, 6, 8, 8]
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 7, 0]
    slopes = [0, 2 * -0.5, 3 * -0.99, 4 * 1, 5 * -0.4, 6 * -0.9, 7 * 0.5, 8 * 8]
    assert layer.bound.grad.item() == pytest.approx(sum(slopes) / 8)


def test_qcfs_without_levels_clips_by_hand():
    layer = QCFS(0, 8.0)
    x = torch.tensor([-3.0, 0.5, 0.99, 1.0, 4.4, 6.9, 7.5, 9.0])

    y = layer(x)
    y.sum().backward()

    assert y.tolist() == pytest.approx([0, 0.5, 0.99, 1, 4.4, 6.9, 7.5, 8])
    assert layer.bound.grad.item() == pytest.approx(1)  # of 9, which is clipped


def test_poisson_encoding_by_hand():
    x = torch.tensor([0.0, 0.0, 0.5, 0.5, 0.5, -0.5, -0.5, 1.0])
    u = torch.tensor([0.0, 0.1, 0.4, 0.5, 0.6, 0.2, 0.7, 0.99])

    # Where u <= |x|, and x is not 0, a spike has x's sign.
    assert poisson(x, u).tolist() == [0, 0, 1, 1, 0, -1, 0, 1]


LOGITS = torch.tensor([0.0, log(3), log(7)]).reshape(1, 1, 1, 3)  # of 1/2, 3/4 and 7/8


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
    readout = READOUTS[name]()
    readout.colour = False

    predictions = readout.prediction(LOGITS)
    guesses = readout.on_pixel_scale(predictions)

    assert readout.spiking == spiking
    assert predictions.flatten().tolist() == pytest.approx(prediction)
    assert guesses.flatten().tolist() == pytest.approx(guess)


@pytest.mark.parametrize(
    "name", ["spike_count", "spike_count_rescaled", "membrane", "membrane_rescaled"]
)
def test_readouts_of_colour_images_by_hand(name):
    """Colour images lie in [-1, 1]: all take tanh(x) = 2 sigmoid(2 x) - 1."""
    readout = READOUTS[name]()
    readout.colour = True

    guesses = readout.on_pixel_scale(readout.prediction(-LOGITS / 2))

    assert guesses.flatten().tolist() == pytest.approx([0, -0.5, -0.75])


def test_original_contrast_by_hand():
    """Blocked pixels count as 0; 0, 0.2 and 0.4 are stretched to 0, 1/2 and 1."""
    image = torch.tensor([0.9, 0.2, 0.4, 0.0]).reshape(1, 1, 2, 2)
    is_open = torch.tensor([False, True, True, True]).reshape(1, 1, 2, 2)

    contrast = original_contrast(image, is_open)

    # As in the original, which adds 1e-5 to what it divides by.
    assert contrast.flatten().tolist() == pytest.approx([0, 0.5, 1, 0], abs=1e-4)
    assert not original_contrast(0 * image, is_open).any()  # an empty image stays empty


def neuron(update="delayed", threshold=1.0, leak=1.0, activation="Linear", **settings):
    """Make a layer of neurons."""
    surrogate = SURROGATES.find(activation)(alpha=0.3, beta=0.01)
    return SpikingNeuron(surrogate, update, threshold, leak, **settings)


def trace(drives, **settings):
    """Return (spike, membrane potential) after each drive.

    By the equations of a step, with which those of many steps at once must agree.
    """
    layer = neuron(**settings)
    state = None
    state_of_many = None
    seen = []
    for drive in torch.tensor(drives).view(-1, 1, 1):
        spikes, state = layer(drive, state)
        spikes_of_many, state_of_many, _ = neuron_steps(layer, drive, state_of_many)
        assert torch.equal(spikes, spikes_of_many), ELSEWHERE
        assert torch.equal(state.v, state_of_many.v), ELSEWHERE
        seen.append((spikes.item(), pytest.approx(state.v.item(), abs=1e-6)))
    return seen


@pytest.mark.parametrize(
    ("update", "drives", "threshold", "leak", "start", "expected"),
    [
        # expected: (spike, membrane potential V) after each drive; V begins at
        # start * threshold.
        ("delayed", [0.6, 0.6, 0.0], 1, 1, 0, [(0, 0.6), (0, 1.2), (1, 0.2)]),
        ("delayed", [3, 3, 0, 0], 2, 0.5, 0, [(0, 3), (1, 2.5), (1, -0.75), (0, -0.375)]),
        ("delayed", [2.5, 0, 0, 0], 1, 1, 0, [(0, 2.5), (1, 1.5), (1, 0.5), (0, 0.5)]),
        ("delayed", [-1, 1, 1, 0.5, 0], 1, 0, 0, [(0, -1), (0, 1), (0, 1), (0, 0.5), (0, 0)]),
        # Exactly at the threshold there is no spike.
        ("delayed", [1, 0, 0], 1, 1, 0, [(0, 1), (0, 1), (0, 1)]),
        ("immediate", [1, 0.5], 1, 1, 0, [(0, 1), (1, 0.5)]),
        ("immediate", [0.6, 0.6, 0.0], 1, 1, 0, [(0, 0.6), (1, 0.2), (0, 0.2)]),
        ("immediate", [3, 3, 0], 2, 0.5, 0, [(1, 1), (1, 1.5), (0, 0.75)]),
        ("immediate", [2.5, 0, 0, 0], 1, 1, 0, [(1, 1.5), (1, 0.5), (0, 0.5), (0, 0.5)]),
        ("immediate", [-1, 1, 2, 0.5], 1, 0, 0, [(0, -1), (0, 1), (1, 1), (0, 0.5)]),
        # V begins at half of 1.5, at 0.75.
        ("delayed", [1, 0.5, 0.5], 1.5, 1, 0.5, [(0, 1.75), (1, 0.75), (0, 1.25)]),
        ("immediate", [1, 0.5, 0.5], 1.5, 0.8, 0.5, [(1, 0.1), (0, 0.58), (0, 0.964)]),
    ],
)
def test_updates_by_hand(update, drives, threshold, leak, start, expected):
    settings = {"threshold": threshold, "leak": leak, "initial_potential": start}

    assert trace(drives, update=update, **settings) == expected


@pytest.mark.parametrize(
    ("drives", "start", "expected"),
    [
        ([1.5, 1.25, 9, 9], 0, [(0, 1.5), (0, 2.75), (1, 1.75), (1, 0.75)]),
        # At 2 thresholds there is one spike, at 1 none.
        ([1, 1, 9, 9, 9], 0, [(0, 1), (0, 2), (1, 1), (0, 1), (0, 1)]),
        # At most T spikes, and what is left is dropped.
        ([5, 1, -9, -9, -9], 0.5, [(0, 5.5), (0, 6.5), (1, 5.5), (1, 4.5), (0, 4.5)]),
        ([-1, 1.5, 0, 0], 0.75, [(0, -0.25), (0, 1.25), (1, 0.25), (0, 0.25)]),
    ],
)
def test_a_phased_layer_charges_and_then_fires_by_hand(drives, start, expected):
    """T = 2 and threshold 1, of the layer behind the first, which begins at timestep 2.

    What arrives out of its phase is lost.
    """
    layer = PhasedNeuron(SURROGATES.find("Linear")(0.3, 0.01), "phased", initial_potential=start)
    layer.fires_in = 2
    layer.steps = 2

    state = None
    seen = []
    before_its_phase = [7.0, 7.0]
    for drive in torch.tensor([*before_its_phase, *drives]).view(-1, 1, 1):
        spikes, state = layer(drive, state)
        seen.append((spikes.item(), state.v.item()))
    assert seen == [(0, start), (0, start), *expected]

    # The dense engine takes the timesteps of a phase at once.
    charge = torch.tensor([[sum(drives[:2])]])
    fired = layer.fired(charge, 2).flatten().tolist()
    assert fired == [spike for spike, _ in expected[2:4]], ELSEWHERE


@pytest.mark.parametrize(
    ("update", "spikes", "membranes"),
    [
        ("delayed", [0, 0, 0, 1, 0], [-0.5, 0.25, 1.5, 0.5, -0.5]),
        ("immediate", [0, 0, 1, 0, 0], [-0.5, 0.25, 0.5, 0.5, -0.5]),
    ],
)
def test_a_membrane_does_not_fall_below_its_floor_by_hand(update, spikes, membranes):
    """With the threshold 1 and the floor 0.5, below 0."""
    drives = [-2.0, 0.75, 1.25, 0, -3]

    assert trace(drives, update=update, floor=0.5) == list(zip(spikes, membranes, strict=True))


@pytest.mark.parametrize("update", ["delayed", "immediate"])
def test_no_gradient_goes_back_where_a_membrane_lies_on_its_floor(update):
    drives = torch.tensor([-2.0, 0.75, 1.25, 0]).view(4, 1).requires_grad_()

    _, state, _ = neuron_steps(neuron(update, floor=0.5), drives, steps=4)
    state.v.sum().backward()

    assert drives.grad[0].item() == 0  # V would be -2, and is -0.5
    assert drives.grad[3].item() == 1


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
    surrogate = SURROGATES.find(activation)(alpha=0.4, beta=0.02)
    distances = torch.tensor(v)
    ones = torch.ones_like(distances)

    found = surrogate.scale * surrogate.onto(ones, distances, torch.tensor(age))

    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("threshold", "leak", "kept_threshold", "kept_leak"),
    [(-1.0, 1.5, 0.01, 1.0), (0.7, -0.2, 0.7, 0.0), (2.0, 0.5, 2.0, 0.5)],
)
def test_learned_thresholds_and_leaks_are_clamped(threshold, leak, kept_threshold, kept_leak):
    snn = tiny(learn_threshold=True, learn_leak=True)
    layer = snn.features[1]
    layer.threshold.data.fill_(threshold)
    layer.leak.data.fill_(leak)

    snn.clamp_dynamics()

    assert layer.threshold.item() == pytest.approx(kept_threshold)
    assert layer.leak.item() == pytest.approx(kept_leak)


def test_bounds_of_qcfs_are_clamped():
    ann = tiny(VGG_wFeedback, activation_ann="qcfs")
    ann.features[1].bound.data.fill_(-1.0)

    ann.clamp_dynamics()

    assert ann.features[1].bound > 0


def test_thresholds_that_are_not_learned_stay_as_balancing_found_them():
    balanced = tiny(default_threshold=0.005)

    balanced.clamp_dynamics()

    assert balanced.thresholds == pytest.approx([0.005] * len(balanced.thresholds))


def test_a_layer_is_of_the_part_with_whose_name_it_begins():
    """Beside the stages, too; only the input itself is the input."""
    parts = {
        "input": "input",
        "features.1": "encoder",
        "classifier.1": "classifier",
        "generate2.0": "decoder",
        "input_gain": "encoder",
        "other.3": "encoder",
    }

    assert {layer: part_of(layer) for layer in parts} == parts
    assert by_part({"input": 1, "input_gain.0": 2})["input"] == 1


def test_an_output_bias_is_that_of_the_last_layer_alone():
    model = VGG_SNN_STDB_wFeedback(
        plan=[[4, "M"], ["U", "in"]], fc_layers=2, fc_width=6, output_bias=True
    )

    linear = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]

    assert len(linear) > 1
    assert linear[-1].bias is not None
    assert linear[-1] is model.classifier[-1]
    assert all(layer.bias is None for layer in linear[:-1])
