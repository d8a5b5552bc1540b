"""A network in whole numbers: weights of 8 bits, and sums that nothing rounds."""

import copy
import math

import pytest
import torch
from conftest import BIAS, FORK, MAXIMUM, POOLED, REPOSITORY, build, inputs, spiked
from torch import nn

from harness import UserError
from harness.runs.saving import save_checkpoint
from self_models import ModelError, evaluate, first_difference, load, load_data
from self_models.engines.event.engine import EventEngine
from self_models.guests.quantize import (
    LARGEST,
    LEVELS,
    SHARES,
    Signal,
    decayed,
    portable_tanh,
    quantize,
    quantize_pool,
)
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN

QUICK = REPOSITORY / "trained_models/snn/quick_feedback.pth"
TANH = {"readout": "membrane_rescaled", "readout_slew": 0.38}


def test_portable_tanh_is_tanh_to_two_units_in_the_last_place():
    """Odd, never above 1 nor falling by more than an ulp, and exactly 1 beyond 9; of tiny numbers and infinity, too."""
    x = torch.cat(
        [
            torch.linspace(0, 12, 1_000_001),
            torch.logspace(-44, 1, 100_001),
            torch.tensor([math.inf, 3e38]),
        ]
    )
    found, wanted = portable_tanh(x), torch.tanh(x.double())
    last_place = (
        torch.nextafter(wanted.float(), torch.tensor(2.0)).double() - wanted.float().double()
    )
    assert ((found.double() - wanted).abs() / last_place).max() < 2
    assert (
        torch.equal(portable_tanh(-x), -found) and found.max() == 1 and (found[x > 9] == 1).all()
    )


def test_a_share_of_whole_numbers_by_hand():
    """floor(v share): -3 halves to -2; 0.3 is 9830 of 32768 parts, 0.7 22937 and not 22938; what is kept whole stays as it is."""
    v = torch.tensor([[5, -3], [7, -7]], dtype=torch.int32)
    assert decayed(v, 0.5).tolist() == [[2, -2], [3, -4]] and torch.equal(decayed(v, 1.0), v)
    assert decayed(v * 1000, torch.tensor([1.0, 0.3])).tolist() == [[5000, -3000], [2099, -2100]]
    assert decayed(torch.tensor([SHARES, -SHARES]), 0.7).tolist() == [22937, -22937]


def test_two_steps_of_whole_numbers_by_hand():
    """Threshold 1 and the weight 0.3: the scale whose error is least makes them n and a whole number near 0.3 n."""
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
    theta, weight = (
        int(value.item()) for value in (model.features[1].threshold, model.features[0].weight)
    )
    assert 0.5 * LEVELS < weight <= LEVELS and abs(weight * 255 / theta - 0.3) < 0.5 / theta * 255
    assert all(
        value == round(value)
        for value in (model.features[1].threshold.item(), model.features[0].weight.item())
    )
    recorded = model(
        torch.full((1, 1, 1, 1), 200 / 255), record={"features.1": ("spikes", "membrane")}
    ).recorded["features.1"]
    v, spikes, potentials = 0, [], []
    for _ in range(model.timesteps):
        v = math.floor(v * 24576 / 32768) + 200 * weight
        spikes.append(v > theta)
        potentials.append(v := v - theta * (v > theta))
    assert (
        recorded["spikes"].flatten().tolist() == spikes
        and recorded["membrane"].flatten().tolist() == potentials
    )


def one_pixel(bias=0.0, **settings):
    """A pixel's weight 1 onto a neuron with threshold 1: both are 64 in whole numbers, and so is a bias of 1."""
    own = {
        "plan": [[1], []],
        "image_shape": (1, 1, 1),
        "kernel_size": 1,
        "default_threshold": 1.0,
        "bias": True,
        "timesteps": 5,
    }
    model = build(VGG_SNN_STDB_wFeedback, **{**own, **settings})
    model.features[0].weight.data.fill_(1.0)
    model.features[0].bias.data.fill_(bias)
    return model


def test_rest_and_floor_are_rounded_by_hand():
    """0.7 of a threshold of 64 is 44.8. With a pixel that sends nothing V stays at rest; with a bias of -2, which is -128, at its
    floor."""
    for bias, potential in ((0.0, 45), (-2.0, -45)):
        model = quantize(one_pixel(bias, initial_potential=0.7, membrane_floor=0.7))
        membranes = model(torch.zeros(1, 1, 1, 1), record={"features.1": "membrane"}).recorded[
            "features.1"
        ]["membrane"]
        assert membranes.flatten().tolist() == [potential] * 5
        assert (
            neuron := model.whole_form().neurons["features.1"]
        ).start == 45 and neuron.lowest == -45


def test_what_is_charged_in_five_steps_fits_by_hand():
    """A current of 64 + 64 (2^16 + 1/64), odd, five of which float32 does not hold; of 64 + 2^28 one fits 32 bits, and five do
    not."""
    current = 2**22 + 65
    for update, charged in (("immediate", current - 64), ("phased", 5 * current)):
        model = quantize(one_pixel(2**16 + 1 / 64, update=update))
        output = model(torch.ones(1, 1, 1, 1), seed=0, record={"features.1": "membrane"})
        membranes = output.recorded["features.1"]["membrane"].flatten().tolist()
        assert membranes[0 if update == "immediate" else 4] == charged
    quantize(one_pixel(2**22))
    with pytest.raises(
        ModelError, match=r"sums of layer features.0 \(Conv2d\) might not fit 32 bits"
    ):
        quantize(one_pixel(2**22, update="phased"))


def test_an_average_pool_by_hand():
    """A pool adds four up and quarters the unit."""
    assert quantize_pool(nn.AvgPool2d(2), Signal(0.5, 3, signed=False)) == Signal(
        0.125, 12, signed=False
    )


def test_logits_stay_within_32_bits():
    """A neuron that spikes in each step, five classes for it and five against it, in a stream that has come to the ends."""
    model = one_pixel(1.0, fc_layers=0)
    signs = torch.tensor([[1.0] * 5 + [-1.0] * 5])
    model.classifier[0].weight.data.copy_(signs.T)
    stream, x = quantize(model).stream(), torch.ones(1, 1, 1, 1)
    stream(x, 1)
    for near in (0, 3):
        stream.load_state_dict(stream.state_dict() | {"logits": (LARGEST - near) * signs.int()})
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


def both(**settings):
    """A network on the grid, and the same in whole numbers. Its U layers have whole weights, so that their product with others is
    on the grid, too."""
    models = build(**settings), build(**settings)
    for module in (
        module
        for model in models
        for module in model.generate or ()
        if getattr(module, "stride", 1) == (2, 2)
    ):
        module.weight.data.round_()
    return models[0], quantize(models[1])


@pytest.mark.parametrize("settings", CASES, ids=str)
@torch.no_grad()
def test_a_network_on_the_grid_is_its_own_form_in_whole_numbers(settings):
    """Weights of whole parts of 1/16 have a scale without error, and their sums are exact in both: the same spikes, logits and
    predictions. Pixels that are sent as they are are black or white, since others are 255ths, which are off the grid."""
    model, whole = both(**settings)
    x, u = inputs(model)
    x = x.round() if settings.get("encoding") == "direct" else x
    output = whole(x, u)
    assert (
        first_difference(model(x, u), output, tolerance=1e-5 if "readout" in settings else 0)
        is None
    )
    assert spiked(output) and whole.runs_by == "reference"


@pytest.mark.parametrize("update", ["immediate", "delayed"])
@torch.no_grad()
def test_no_sum_is_rounded(update):
    """Every sum is the one that float64 gives, every potential and logit is whole and within its bounds: of any weights, with
    leaks, floors, biases, a slew, and a stream that forgets."""
    own = {
        **TANH,
        **BIAS,
        "leak": 0.9,
        "output_leak": 0.8,
        "membrane_floor": 2.3,
        "blocking": "dynamic",
        "surprise": 0.5,
    }
    model = quantize(build(on_grid=False, update=update, image_shape=(3, 12, 10), **own))
    called = []

    def check_linear(module):
        twin = copy.deepcopy(module).double()
        module.register_forward_hook(
            lambda _, given, sums: called.append(
                torch.equal(twin(given[0].double()), sums.double())
            )
        )

    def check_neuron(module):
        low = -round(2.3 * module.threshold.item())
        within = lambda v: v.dtype == torch.int32 and low <= v.min() and v.max() <= LARGEST  # noqa: E731
        module.register_forward_hook(lambda _, given, output: called.append(within(output[1].v)))

    for module in [*model.modules()]:
        if hasattr(module, "weight"):
            check_linear(module)
        elif hasattr(module, "threshold"):
            check_neuron(module)
    stream, (x, _) = model.stream(), inputs(model)
    assert spiked(stream(x, 4)) and spiked(stream(x.flip(0), 4)) and all(called)
    state = stream.state_dict()
    assert len(called) == 8 * 18 and state["logits"].dtype == torch.int32 and state["logits"].any()
    other = model.stream()
    other.load_state_dict(state)
    assert first_difference(other(x, 3), stream(x, 3), tolerance=0) is None


@pytest.mark.parametrize(
    "settings", [{}, {"plan": [[64, "D"], ["U", "in"]], "fc_width": 50}], ids=str
)
def test_sums_fit_into_32_bits_whatever_comes(settings):
    """By the sums of all weights at work, with relays and biases: of no current, nor of what it is added to, more than 2^31."""
    form = quantize(build(on_grid=False, **settings)).whole_form()
    assert all(
        -LARGEST <= one.lowest <= one.start <= one.highest <= LARGEST
        for one in form.neurons.values()
    )
    for one in form.neurons.values():
        assert (one.threshold, one.kept) == (
            round(0.25 / one.unit),
            SHARES,
        ) and one.threshold * one.unit == pytest.approx(0.25)
    huge = build(plan=[[64, "D", "D", "D", 64], []], epsilon=0.0, bias=True)
    huge.features[0].bias.data.fill_(1e12)
    with pytest.raises(ModelError, match="might not fit 32 bits: load it with weights='float32'"):
        quantize(huge)


def test_a_decoders_chain_is_one_convolution_where_that_has_no_more_weights():
    """U U in, of odd sizes too; a U whose kernel would grow too much stays."""
    model, whole = both(plan=[[4, "D", 6, "D"], ["U", "U", "in"]], image_shape=(1, 13, 11))
    kinds = [
        (name, tuple(one.weight.shape), one.stride)
        for name, one in whole.generate.named_children()
    ]
    assert kinds == [("2", (6, 1, 6, 6), (4, 4))]
    signal = torch.randint(0, 5, (2, 6, 3, 2)).float()
    assert torch.equal(
        whole.generate(signal.double()).float() / 64, model.generate(signal)
    )  # where a weight of 1 is 64
    wide = quantize(build(plan=[[4, "D", 20], ["U", 20, "in"]]))
    assert [name for name, _ in wide.generate.named_children()][:2] == ["0", "1"]


@torch.no_grad()
def test_a_strided_convolution_and_the_one_behind_it_folded():
    """With whole strided weights their product is on the grid, so spikes stay. Not so with an odd side, nor where the fork stands
    between them; average pools count as halvings."""

    def folded(*encoder, decoder=("U", "U", "in"), image=(1, 28, 28)):
        models = [build(plan=[list(encoder), list(decoder)], image_shape=image) for _ in range(2)]
        for module in (
            module for model in models for module in (*model.features, *model.generate)
        ):
            if getattr(module, "stride", 1) == (2, 2) and hasattr(module, "weight"):
                module.weight.data.round_()
        model, whole = models[0], quantize(models[1], fold=True)
        x, u = inputs(model)
        assert first_difference(model(x, u), output := whole(x, u)) is None and spiked(output)
        assert first_difference(output, EventEngine(whole)(x, u), tolerance=0) is None
        kinds = [
            (*one.kernel_size, *one.stride, *one.padding)
            for one in whole.features
            if isinstance(one, torch.nn.Conv2d)
        ]
        return sum(
            isinstance(one, torch.nn.Conv2d) for one in whole.features[: whole.features.fork]
        ), kinds

    plain, half, both = (3, 3, 1, 1, 1, 1), (2, 2, 2, 2, 0, 0), (6, 6, 2, 2, 2, 2)
    assert folded(3, "D", 4, 5, "D") == (4, [plain, both, plain, half])
    assert folded(3, "D", 4, "D", 5) == (3, [plain, both, both])
    assert folded(3, "D", 4, "D", 5, image=(1, 10, 10)) == (4, [plain, both, half, plain])
    assert folded(3, "D", 4, "D", 5, image=(1, 14, 10)) == (4, [plain, both, half, plain])
    assert folded(3, "D", "fork", 4, "D", 3, decoder=("U", "in"), image=(1, 12, 16)) == (
        2,
        [plain, half, plain, both],
    )
    assert folded(3, "D", "fork", 4, "D", 3, decoder=("U", "in"), image=(1, 14, 10)) == (
        2,
        [plain, half, plain, half, plain],
    )
    assert folded(3, "A", 4, "D", 5, image=(1, 14, 12)) == (4, [plain, plain, half, plain])


@torch.no_grad()
def test_the_committed_network_in_eight_bits():
    """As accurate, within what 200 images can tell; no weight above 127, and the event engine runs it, as step() does."""
    whole, images = load(QUICK, weights="int8"), load_data("MNIST")[2].part(0, 200).whole()
    found = [evaluate(one, *images[:2], operations=False) for one in (load(QUICK), whole)]
    assert abs(found[0]["accuracy"] - found[1]["accuracy"]) < 0.02
    assert found[1]["parts"]["total"] == pytest.approx(found[0]["parts"]["total"], rel=0.03)
    weights = [value for name, value in whole.named_parameters() if name.endswith("weight")]
    assert all(
        torch.equal(value, value.round()) and value.abs().max() <= LEVELS for value in weights
    )
    assert sum(value.numel() for value in weights) < 512_000
    assert isinstance(whole.engine, EventEngine)
    assert (
        first_difference(
            whole, load(QUICK, engine="reference", weights="int8"), images[0][:40], tolerance=0
        )
        is None
    )


def test_what_has_no_form_in_whole_numbers_is_refused_by_name(tmp_path):
    words = "weights int8 does not know the gate contrast: load it with weights='float32'"
    model = load(QUICK, weights="int8")
    with pytest.raises(ModelError, match=words):
        model.change(gate="contrast")
    assert model.change(epsilon=0.2).gate.epsilon == 0.2
    with pytest.raises(ModelError, match="an ANN"):
        load(REPOSITORY / "trained_models/ann/ann_feedback.pth", weights="int8")
    with pytest.raises(UserError, match="weights int8 is not saved"):
        save_checkpoint(tmp_path / "eight.pth", model)
    assert not list(tmp_path.iterdir())
