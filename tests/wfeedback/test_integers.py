"""A network in whole numbers: weights of 8 bits, and sums that nothing rounds."""

import copy
import math
from typing import NamedTuple

import pytest
import torch
from conftest import BIAS, FORK, MAXIMUM, POOLED, REPOSITORY, build, inputs, spiked
from torch import nn

from self_models import ModelError, evaluate, first_difference, load, load_data
from self_models.errors import UserError
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from wfeedback.event.engine import EventEngine
from wfeedback.event.quantize import (
    LARGEST,
    LEVELS,
    SHARES,
    Signal,
    decayed,
    portable_tanh,
    quantize,
    quantize_pool,
)
from wfeedback.runs.saving import save_checkpoint

QUICK = REPOSITORY / "trained_models/snn/quick_feedback.pth"


def test_portable_tanh_is_tanh_to_two_units_in_the_last_place():
    """Of tiny numbers and infinity, too."""
    x = torch.cat(
        [
            torch.linspace(0, 12, 1_000_001),
            torch.logspace(-44, 1, 100_001),
            torch.tensor([math.inf, 3e38]),
        ]
    )
    found = portable_tanh(x)

    exact = torch.tanh(x.double())
    nearest = exact.float()
    last_place = torch.nextafter(nearest, torch.tensor(2.0)).double() - nearest.double()
    assert ((found.double() - exact).abs() / last_place).max() < 2
    assert torch.equal(portable_tanh(-x), -found)
    assert found.max() == 1
    assert (found[x > 9] == 1).all()


def test_a_share_of_whole_numbers_by_hand():
    v = torch.tensor([[5, -3], [7, -7]], dtype=torch.int32)
    # Halves are rounded down: 2.5 to 2, -1.5 to -2, 3.5 to 3, -3.5 to -4.
    assert decayed(v, 0.5).tolist() == [[2, -2], [3, -4]]
    assert torch.equal(decayed(v, 1.0), v)
    # The first image keeps all. The second keeps 0.3, which is 9830 of 32768 parts:
    # 7000 * 9830 / 32768 is 2099.9.
    of_each_image = torch.tensor([1.0, 0.3])
    assert decayed(v * 1000, of_each_image).tolist() == [[5000, -3000], [2099, -2100]]
    # 0.7 of 32768 parts is 22937.6.
    assert decayed(torch.tensor([SHARES, -SHARES]), 0.7).tolist() == [22937, -22937]


def test_two_steps_of_whole_numbers_by_hand():
    model = build(
        VGG_SNN_STDB_wFeedback,
        plan=[[1], []],
        image_shape=(1, 1, 1),
        default_threshold=1.0,
        kernel_size=1,
        leak=0.75,
    )
    model.features[0].weight.data.fill_(0.3)
    model = quantize(model.change(encoding="direct"))

    # A white pixel, 255, is 1. Of all scales with which the weight fits 8 bits, that
    # one is taken with which threshold and weight, both whole, are nearest to 1 and
    # 0.3.
    threshold = model.features[1].threshold.item()
    weight = model.features[0].weight.item()
    assert threshold == round(threshold)
    assert weight == round(weight)
    assert 0.5 * LEVELS < weight <= LEVELS
    assert abs(weight * 255 / threshold - 0.3) < 0.5 / threshold * 255

    pixel = torch.full((1, 1, 1, 1), 200 / 255)
    record = {"features.1": ("spikes", "membrane")}
    recorded = model(pixel, record=record).recorded["features.1"]

    v = 0
    spikes = []
    potentials = []
    for _ in range(model.timesteps):
        v = math.floor(v * 24576 / 32768) + 200 * weight  # a leak of 0.75
        spikes.append(v > threshold)
        if v > threshold:
            v -= threshold
        potentials.append(v)
    assert recorded["spikes"].flatten().tolist() == spikes
    assert recorded["membrane"].flatten().tolist() == potentials


def one_pixel(bias=0.0, **settings):
    """Build a pixel with weight 1 onto a neuron with threshold 1.

    Both are 64 in whole numbers, and so is a bias of 1.
    """
    own = {
        "plan": [[1], []],
        "image_shape": (1, 1, 1),
        "kernel_size": 1,
        "default_threshold": 1.0,
        "bias": True,
        "timesteps": 5,
    }
    model = build(VGG_SNN_STDB_wFeedback, **own | settings)
    model.features[0].weight.data.fill_(1.0)
    model.features[0].bias.data.fill_(bias)
    return model


@pytest.mark.parametrize(
    ("bias", "potential"),
    [
        (0.0, 45),  # V stays at rest: 0.7 of a threshold of 64 is 44.8
        (-2.0, -45),  # -128 in whole numbers, which takes V to its floor
    ],
    ids=["rest", "floor"],
)
def test_rest_and_floor_are_rounded_by_hand(bias, potential):
    model = quantize(one_pixel(bias, initial_potential=0.7, membrane_floor=0.7))
    neuron = model.whole_form().neurons["features.1"]
    assert neuron.start == 45
    assert neuron.lowest == -45

    black = torch.zeros(1, 1, 1, 1)
    recorded = model(black, record={"features.1": "membrane"}).recorded
    membranes = recorded["features.1"]["membrane"]
    assert membranes.flatten().tolist() == [potential] * 5


# The weight is 64 and the bias is 64 * (2^16 + 1/64) = 2^22 + 1.
CURRENT = 2**22 + 65


@pytest.mark.parametrize(
    ("update", "timestep", "potential"),
    [
        ("immediate", 0, CURRENT - 64),  # behind the reset of a spike
        ("phased", 4, 5 * CURRENT),  # an odd number that float32 does not hold
    ],
    ids=["immediate", "phased"],
)
def test_what_is_charged_in_five_steps_fits_by_hand(update, timestep, potential):
    model = quantize(one_pixel(2**16 + 1 / 64, update=update))
    white = torch.ones(1, 1, 1, 1)
    recorded = model(white, seed=0, record={"features.1": "membrane"}).recorded
    assert recorded["features.1"]["membrane"][timestep].item() == potential


def test_what_does_not_fit_in_five_steps_is_refused_by_hand():
    # The current is 64 + 64 * 2^22 = 2^28 + 64: one fits, and five do not.
    quantize(one_pixel(2**22))
    words = r"sums of layer features.0 \(Conv2d\) might not fit 32 bits"
    with pytest.raises(ModelError, match=words):
        quantize(one_pixel(2**22, update="phased"))


def test_an_average_pool_by_hand():
    """A pool adds four up and quarters the unit."""
    pooled = quantize_pool(nn.AvgPool2d(2), Signal(0.5, 3, signed=False))
    assert pooled == Signal(0.125, 12, signed=False)


def test_logits_stay_within_32_bits():
    """In a stream that has come to the ends."""
    model = one_pixel(1.0, fc_layers=0)  # a neuron that spikes in each timestep
    # Five classes for it, and five against it.
    signs = torch.tensor([[1.0] * 5 + [-1.0] * 5])
    model.classifier[0].weight.data.copy_(signs.T)
    stream = quantize(model).stream()
    x = torch.ones(1, 1, 1, 1)
    stream(x, 1)
    for distance in (0, 3):
        logits = (LARGEST - distance) * signs.int()
        stream.load_state_dict(stream.state_dict() | {"logits": logits})
        stream(x, 2)
        assert stream.state_dict()["logits"].tolist() == (LARGEST * signs.int()).tolist()


CASES = [
    {},
    {"plan": FORK},
    {**BIAS, "update": "delayed", "timesteps": 12},
    {**POOLED, "encoding": "direct"},
    MAXIMUM,
    {**BIAS, **MAXIMUM, "max_pool": "count", "fc_layers": 0},
    {"plan": [[4, "M", "fork", 6, "A"], [3, "U", "in"]]},
    {
        "plan": [[3, "D", 4, "D", 5, "D"], ["U", 4, "U", "U", "in"]],
        "latch": True,
        "residual": True,
        "blocking": "dynamic",
    },
    {"image_shape": (3, 9, 11), "readout": "spike_count", "together": True},
    {"membrane_floor": 0.5},
    {"cls": AdaptiveTimestepsSNN, "rule": "confidence", "gap_bound": 1.5},
    {**MAXIMUM, **BIAS, "update": "phased"},
    {**POOLED, "update": "phased", "encoding": "direct", "initial_potential": 0.5},
]


def round_strided_weights(modules):
    """Make the weights of strided layers whole.

    Then their product with weights on the grid is on the grid, too.
    """
    for module in modules:
        if getattr(module, "stride", 1) == (2, 2) and hasattr(module, "weight"):
            module.weight.data.round_()


def network_and_whole(**settings):
    """Build a network on the grid, and the same in whole numbers."""
    model = build(**settings)
    round_strided_weights(model.generate or ())
    return model, quantize(copy.deepcopy(model))


@pytest.mark.parametrize("settings", CASES, ids=str)
@torch.no_grad()
def test_a_network_on_the_grid_is_its_own_form_in_whole_numbers(settings):
    """Weights of whole parts of 1/16 have a scale without error, and sums are exact."""
    model, whole = network_and_whole(**settings)
    x, uniforms = inputs(model)
    if settings.get("encoding") == "direct":
        x = x.round()  # black or white: other bytes are 255ths, which are off the grid
    output = whole(x, uniforms)
    tolerance = 1e-5 if "readout" in settings else 0
    assert first_difference(model(x, uniforms), output, tolerance=tolerance) is None
    assert spiked(output)
    assert whole.runs_by == "reference"


@pytest.mark.parametrize("update", ["immediate", "delayed"])
@torch.no_grad()
def test_no_sum_is_rounded(update):
    """Of any weights, with leaks, floors, biases, a slew, and a stream that forgets."""
    model = build(
        on_grid=False,
        update=update,
        image_shape=(3, 12, 10),
        leak=0.9,
        output_leak=0.8,
        membrane_floor=2.3,
        blocking="dynamic",
        surprise=0.5,
        readout="membrane_rescaled",  # by tanh
        readout_slew=0.38,
        **BIAS,
    )
    model = quantize(model)
    in_float64 = {}
    checked = []

    def check_sums(module, given, sums):
        """Check that every sum is the one that float64 gives."""
        assert torch.equal(in_float64[module](given[0].double()), sums.double())
        checked.append(module)

    def check_potentials(module, _, output):
        """Check that every potential is whole and within its bounds."""
        v = output[1].v
        assert v.dtype == torch.int32
        assert v.min() >= -round(2.3 * module.threshold.item())
        assert v.max() <= LARGEST
        checked.append(module)

    for module in [*model.modules()]:
        if hasattr(module, "weight"):
            in_float64[module] = copy.deepcopy(module).double()
            module.register_forward_hook(check_sums)
        elif hasattr(module, "threshold"):
            module.register_forward_hook(check_potentials)
    stream = model.stream()
    x, _ = inputs(model)
    assert spiked(stream(x, 4))
    assert spiked(stream(x.flip(0), 4))
    assert len(checked) == 8 * 18  # timesteps, modules
    state = stream.state_dict()
    assert state["logits"].dtype == torch.int32
    assert state["logits"].any()

    other = model.stream()
    other.load_state_dict(state)
    assert first_difference(other(x, 3), stream(x, 3), tolerance=0) is None


@pytest.mark.parametrize(
    "settings", [{}, {"plan": [[64, "D"], ["U", "in"]], "fc_width": 50}], ids=str
)
def test_sums_fit_into_32_bits_whatever_comes(settings):
    """By the sums of all weights at work, with relays and biases."""
    form = quantize(build(on_grid=False, **settings)).whole_form()
    for neuron in form.neurons.values():
        assert -LARGEST <= neuron.lowest <= neuron.start <= neuron.highest <= LARGEST
        assert neuron.threshold == round(0.25 / neuron.unit)
        assert neuron.threshold * neuron.unit == pytest.approx(0.25)
        assert neuron.kept == SHARES


def test_a_network_whose_sums_might_not_fit_into_32_bits_is_refused():
    huge = build(plan=[[64, "D", "D", "D", 64], []], epsilon=0.0, bias=True)
    huge.features[0].bias.data.fill_(1e12)
    with pytest.raises(ModelError, match="might not fit 32 bits: load it with weights='float32'"):
        quantize(huge)


def test_a_decoders_chain_is_one_convolution_where_that_has_no_more_weights():
    """U U in, of odd sizes too."""
    model, whole = network_and_whole(
        plan=[[4, "D", 6, "D"], ["U", "U", "in"]], image_shape=(1, 13, 11)
    )
    ((name, convolution),) = whole.generate.named_children()
    assert name == "2"
    assert convolution.weight.shape == (6, 1, 6, 6)
    assert convolution.stride == (4, 4)
    signal = torch.randint(0, 5, (2, 6, 3, 2)).float()
    in_whole_numbers = whole.generate(signal.double()).float()
    assert torch.equal(in_whole_numbers / 64, model.generate(signal))  # a weight of 1 is 64


def test_a_strided_layer_whose_kernel_would_grow_too_much_stays():
    wide = quantize(build(plan=[[4, "D", 20], ["U", 20, "in"]]))
    assert [name for name, _ in wide.generate.named_children()][:2] == ["0", "1"]


UP_ONCE = ["U", "in"]
UP_TWICE = ["U", "U", "in"]


class Convolution(NamedTuple):
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


PLAIN = Convolution(kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
HALF = Convolution(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))
FOLDED = Convolution(kernel_size=(6, 6), stride=(2, 2), padding=(2, 2))  # HALF, then PLAIN


@pytest.mark.parametrize(
    ("encoder", "decoder", "image_shape", "before_fork", "behind_fork"),
    [
        ([3, "D", 4, 5, "D"], UP_TWICE, (1, 28, 28), [PLAIN, FOLDED, PLAIN, HALF], []),
        ([3, "D", 4, "D", 5], UP_TWICE, (1, 28, 28), [PLAIN, FOLDED, FOLDED], []),
        # What the second D halves has an odd side, of 5.
        ([3, "D", 4, "D", 5], UP_TWICE, (1, 10, 10), [PLAIN, FOLDED, HALF, PLAIN], []),
        # Two odd sides, of 7 and 5.
        ([3, "D", 4, "D", 5], UP_TWICE, (1, 14, 10), [PLAIN, FOLDED, HALF, PLAIN], []),
        # Average pools count as halvings: the D halves a side of 7.
        ([3, "A", 4, "D", 5], UP_TWICE, (1, 14, 12), [PLAIN, PLAIN, HALF, PLAIN], []),
        # The fork stands between the first D and the layer behind it.
        ([3, "D", "fork", 4, "D", 3], UP_ONCE, (1, 12, 16), [PLAIN, HALF], [PLAIN, FOLDED]),
        ([3, "D", "fork", 4, "D", 3], UP_ONCE, (1, 14, 10), [PLAIN, HALF], [PLAIN, HALF, PLAIN]),
    ],
)
@torch.no_grad()
def test_a_strided_convolution_and_the_one_behind_it_are_folded_into_one(
    encoder, decoder, image_shape, before_fork, behind_fork
):
    """Not so with an odd side, nor where the fork stands between them."""
    model = build(plan=[encoder, decoder], image_shape=image_shape)
    round_strided_weights([*model.features, *model.generate])
    whole = quantize(copy.deepcopy(model), fold=True)

    x, uniforms = inputs(model)
    output = whole(x, uniforms)
    assert first_difference(model(x, uniforms), output) is None
    assert spiked(output)
    assert first_difference(output, EventEngine(whole)(x, uniforms), tolerance=0) is None

    fork = whole.features.fork
    assert convolutions_of(whole.features[:fork]) == before_fork
    assert convolutions_of(whole.features[fork:]) == behind_fork


def convolutions_of(modules):
    found = []
    for module in modules:
        if isinstance(module, nn.Conv2d):
            found.append(Convolution(module.kernel_size, module.stride, module.padding))
    return found


@pytest.fixture(scope="module")
def in_eight_bits():
    """Load the committed network in whole numbers."""
    return load(QUICK, weights="int8")


@torch.no_grad()
def test_the_committed_network_in_eight_bits_is_as_accurate(in_eight_bits):
    """Within what 200 images can tell."""
    x, labels, *_ = load_data("MNIST")[2].part(0, 200).whole()
    expected = evaluate(load(QUICK), x, labels, operations=False)
    found = evaluate(in_eight_bits, x, labels, operations=False)
    assert abs(found["accuracy"] - expected["accuracy"]) < 0.02
    assert found["parts"]["total"] == pytest.approx(expected["parts"]["total"], rel=0.03)

    assert isinstance(in_eight_bits.engine, EventEngine)
    by_step = load(QUICK, engine="reference", weights="int8")
    assert first_difference(in_eight_bits, by_step, x[:40], tolerance=0) is None


def test_the_committed_network_in_eight_bits_has_weights_of_eight_bits(in_eight_bits):
    size = 0
    for name, parameter in in_eight_bits.named_parameters():
        if name.endswith("weight"):
            assert torch.equal(parameter, parameter.round())
            assert parameter.abs().max() <= LEVELS
            size += parameter.numel()
    assert size < 512_000


@pytest.mark.parametrize("fold", [False, True])
def test_a_hook_is_refused_since_a_folded_layer_would_lose_it(fold):
    model = load(QUICK)
    name, strided = next(
        (name, layer)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)
    )
    hook = strided.register_forward_hook(lambda *_: None)

    with pytest.raises(ModelError, match=rf"{name} \(Conv2d\) has a hook, .*: remove it"):
        quantize(model, fold)
    hook.remove()
    quantize(model, fold)


def test_what_has_no_form_in_whole_numbers_is_refused_by_name(tmp_path):
    model = load(QUICK, weights="int8")
    words = "weights int8 does not know the gate contrast: load it with weights='float32'"
    with pytest.raises(ModelError, match=words):
        model.change(gate="contrast")
    assert model.change(epsilon=0.2).gate.epsilon == 0.2

    with pytest.raises(ModelError, match="an ANN"):
        load(REPOSITORY / "trained_models/ann/ann_feedback.pth", weights="int8")

    with pytest.raises(UserError, match="weights int8 is not saved"):
        save_checkpoint(tmp_path / "eight.pth", model)
    assert not list(tmp_path.iterdir())
