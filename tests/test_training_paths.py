"""How training runs a network (all steps of a layer as one batch, linear layers folded) gives what its steps give."""

from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import torch
from conftest import PLAN, images
from torch.utils._python_dispatch import TorchDispatchMode

import self_models.vgg_wFeedback_spiking
from harness.building.conversion import bounds_as_thresholds, fit_thresholds
from harness.building.models import new_ann, new_snn
from harness.command_line.flags import ann_parser, snn_parser
from harness.training.losses import Criterion
from harness.training.schedules import make_optimizer
from self_models.basics.errors import ModelError
from self_models.fast.batched import stages
from self_models.fast.batched.folding import decoder_layers
from self_models.fast.batched.neurons import neuron_steps
from self_models.network.neurons import HeldDropout
from self_models.network.norms import folded_in
from self_models.network.plans import PLANS, as_tokens
from self_models.network.stages import list_layers
from self_models.running.draws import Draws
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN

LINEAR = [[4, "D", 6, 6, "D"], ["U", "U", "in"]]
FORK = [[4, "D", 6, "fork", 6, "D"], ["U", "in"]]
BLOCKING = {"cls": InputBlockingSNN, "readout": "membrane_linear", "epsilon": 0.2}
POOLED = {"plan": [[4, "M", 6, "fork", "M", 6, "A"], ["U", "in"]], "bias": True, "readout": "membrane", "fc_layers": 1}
CRITERION = Criterion(0.1, "linear_over_t", 1e-3)
CASES = {
    "plain": {},
    "delayed, leaky, STDB": {"update": "delayed", "leak": 0.9, "activation": "STDB", "timesteps": 9},
    "without feedback": {"plan": [[4, "A", 6, "A"], []]},
    "every second step decodes": {"feedback_interval": 2, "readout": "membrane_rescaled"},
    "direct input, leaking read-out": {"encoding": "direct", "readout": "membrane", "readout_leak": 0.8, "readout_slew": 0.3},
    "wide decoder, odd images": {"plan": [[4, "D", 6, "D"], ["U", "U", 5, "in"]], "image_shape": (1, 11, 14)},
    "linear decoder, odd colour images": {"plan": LINEAR, "image_shape": (3, 11, 14), "readout": "membrane"},
    "delayed, dropout amid linear layers": {
        "update": "delayed",
        "timesteps": 9,
        "plan": [[4, "D", 6, "D"], ["U", "drop", "U", "in"]],
    },
    "blocking": BLOCKING,
    "blocking, latch, linear decoder": {**BLOCKING, "plan": LINEAR, "latch": True, "readout_slew": 0.38},
    "learned dynamics": {**BLOCKING, "learn_threshold": True, "learn_leak": True, "leak": 0.9},
    "contrast": {**BLOCKING, "cls": ContrastAttentionSNN},
    "biases, maximum pools": {**POOLED, "initial_potential": 0.5, "encoding": "direct", "learn_threshold": True},
    "delayed, biases": {**POOLED, "update": "delayed", "timesteps": 9, "leak": 0.9},
    "biases in all of the decoder": {"bias": True, "readout": "spike_count_rescaled", "feedback_interval": 2},
    "gate once, fork": {**BLOCKING, "gate": "once", "grid": 4, "encoding": "direct", "plan": FORK, "image_shape": (3, 9, 10)},
}


def build(cls=VGG_SNN_STDB_wFeedback, dropout=0.0, **settings):
    torch.manual_seed(0)
    settings = {"plan": PLAN, "fc_width": 12, "timesteps": 6, "update": "immediate", "default_threshold": 0.2, **settings}
    model = cls(dropout=dropout, **settings)
    for module in model.modules():
        if isinstance(module, HeldDropout):
            module.p = dropout
    for layer in model.classifier[::3]:
        layer.weight.data *= 20  # else hardly any of its neurons fires in a few steps
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.uniform_(-0.05, 0.1)
    return model


def result(model):
    """SNNOutput and gradients of every weight, for images and draws that are always the same."""
    x = images(5, model.image_shape)
    torch.manual_seed(1)  # of dropout masks
    output = model(x, torch.rand(model.timesteps, *x.shape, generator=torch.Generator().manual_seed(2)))
    CRITERION(output, torch.arange(len(x)))["total"].backward()
    return output, {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}


def check_same(found, expected):
    for name in ("logits", "logits_by_step", "predictions", "errors"):
        if getattr(expected[0], name) is not None:
            torch.testing.assert_close(getattr(found[0], name), getattr(expected[0], name), rtol=1e-4, atol=1e-5)
    for name in ("predicted", "is_open", "comparisons"):
        assert getattr(expected[0], name) is None or torch.equal(getattr(found[0], name), getattr(expected[0], name)), name
    assert found[0].spikes.keys() == expected[0].spikes.keys()
    for name, count in expected[0].spikes.items():
        assert torch.equal(found[0].spikes[name], count) and count.sum() > 0, name
    for name, gradient in expected[1].items():
        assert gradient.abs().max() > 0, name
        close = {"rtol": 1e-4, "atol": 1e-4 * gradient.abs().max().item()}
        torch.testing.assert_close(found[1][name], gradient, **close, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", CASES)
def test_training_path_is_the_steps_one_by_one(name):
    expected = result(build(**CASES[name]).eval())
    check_same(result(build(**CASES[name]).train()), expected)


@pytest.mark.parametrize(("signals", "layers"), [(1, 2), (3, 2), (4, 1)])
def test_linear_layers_are_folded_as_far_as_that_pays(signals, layers):
    """The decoder's input has 2 x 3 places of 8 channels. To fold the first of three U layers in, too, costs 8 8 4 multiply-adds
    for each of the 3 x 6 x 6 numbers of the kernel behind it, and saves at a place 8 8 4 + 4 8 3 6 6 - 8 3 10 10: from 22 places
    on it pays. The map and its gradients stay the same, also where the encoder has halved odd sizes."""
    torch.manual_seed(0)
    plan = [[4, "D", 6, "D", 8, "D"], ["U", "U", "U", "in"]]
    generate = build(plan=plan, image_shape=(3, 19, 27), readout="membrane").generate
    x = torch.rand(signals, 8, 2, 3)
    found = []
    for chain in (decoder_layers(generate, signals, (19, 27)), list_layers(generate)):
        signal = x.clone().requires_grad_()
        output = stages.run_stage("generate", chain, signal[None], {})
        gradients = torch.autograd.grad(output.square().sum(), [signal, *generate.parameters()])
        found.append((len(chain), output, gradients))
    assert [number for number, *_ in found] == [layers, 4] and output.shape == (1, signals, 3, 19, 27)
    torch.testing.assert_close(found[0][1:], found[1][1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("segments", [1, 3, 4, "auto"])
@pytest.mark.parametrize(
    "name",
    [
        *(name for name in CASES if "delayed" in name),
        "plain",
        "blocking, latch, linear decoder",
        "learned dynamics",
        "gate once, fork",
    ],
)
def test_segments_give_what_the_whole_run_gives(name, segments):
    """With dropout, whose masks the recomputation must draw again as they were."""
    expected = result(build(**CASES[name], dropout=0.2).train())
    model = build(**CASES[name], dropout=0.2).train()
    model.set_bptt_segments(segments)
    check_same(result(model), expected)


@pytest.mark.parametrize("name", ["plain", "blocking, latch, linear decoder", "learned dynamics"])
def test_bfloat16_products_keep_float32_membranes_and_learn_as_well(name, monkeypatch):
    """A rounded drive can flip a spike, so single gradients differ; losses do not by much, at the start and after learning."""
    losses, dtypes = {}, {}
    for precision in ("float32", "bfloat16"):
        model, dtypes[precision] = build(**CASES[name]).train(), set()
        model.precision = precision

        def noted(neuron, drive, *more, precision=precision):
            found = neuron_steps(neuron, drive, *more)
            dtypes[precision].add((drive.dtype, found[1].v.dtype))
            return found

        monkeypatch.setattr(stages, "neuron_steps", noted)
        optimizer, losses[precision] = torch.optim.Adam(model.parameters(), 5e-3), []
        for _ in range(12):
            optimizer.zero_grad()
            output, _ = result(model)
            losses[precision].append(CRITERION(output, torch.arange(5))["total"].item())
            optimizer.step()
        assert output.logits.dtype == output.predictions.dtype == torch.float32
        assert {weight.grad.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    drive_and_membrane = {"float32": {(torch.float32, torch.float32)}, "bfloat16": {(torch.bfloat16, torch.float32)}}
    assert dtypes == drive_and_membrane
    for place in (0, -1):
        assert losses["bfloat16"][place] == pytest.approx(losses["float32"][place], rel=0.1)
    assert losses["bfloat16"][-1] < 0.9 * losses["bfloat16"][0]


@pytest.mark.parametrize("cls", [VGG_wFeedback, VGG_SNN_STDB_wFeedback])
def test_bfloat16_is_for_training_only(cls):
    torch.manual_seed(0)
    model, x = cls(plan=PLAN, fc_width=12, timesteps=2), images(3)
    model.precision, dtypes = "bfloat16", {True: set(), False: set()}
    for layer in model.classifier[::3]:
        layer.register_forward_hook(lambda layer, given, output: dtypes[layer.training].add(output.dtype))
    for training in (False, True):
        model.train(training)(x, seed=0)
    assert dtypes == {True: {torch.bfloat16}, False: {torch.float32}}


def test_segments_keep_less_for_the_backward_pass():
    kept = {}
    for segments in (0, 3):
        model, sizes = build(timesteps=9).train(), []
        model.set_bptt_segments(segments)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            model(images(2))
        kept[segments] = sum(sizes)
    assert kept[3] < 0.5 * kept[0]


@pytest.mark.parametrize("segments", [-1, 7, 100])
def test_impossible_segments_are_refused(segments):
    with pytest.raises(ModelError, match="bptt_segments"):
        build().set_bptt_segments(segments)


# --- presets whose networks are not committed


# the presets' plans, an eighth as wide: the full ones take a minute
THIN = {
    name: [[token // 8 if isinstance(token, int) else token for token in as_tokens(text)] for text in PLANS[plan]]
    for name, plan in (
        ("vgg9_feedback", "VGG9_wFeedback"),
        ("vgg9_baseline", "VGG9_strided"),
        ("vgg11_plain", "VGG11"),
        ("vgg16_plain", "VGG16_max"),
    )
}


@pytest.mark.parametrize("name", THIN)
def test_a_preset_of_a_large_network_converts_and_learns(name):
    """ANN and SNN by its flags, but small: one step of each, the conversion between them, and an evaluation."""
    x, labels = images(2, (3, 32, 32)), torch.tensor([1, 2])

    def learns(model, args):
        optimizer, before = make_optimizer(model, args), {name: one.clone() for name, one in model.state_dict().items()}
        output = model.train()(x, seed=0)
        Criterion(args.trade_off, getattr(args, "trade_off_type", "sum"))(output, labels)["total"].backward()
        assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)
        optimizer.step()
        assert any(not torch.equal(before[name], one) for name, one in model.state_dict().items() if name.endswith("weight"))
        assert model.eval()(x, seed=0).logits.isfinite().all()

    args = ann_parser("").parse_args(["--preset", name]).settle(facts={"labels": 10}, plan=THIN[name])
    ann = new_ann(args)
    learns(ann, args)
    args = snn_parser("").parse_args(["--preset", name, "--timesteps", "2", "--bias", "--initial_potential", "0.5"])
    snn = new_snn(args := args.settle(facts={"labels": 10}, plan=THIN[name]))
    lost, extra = snn.load_state_dict(bounds_as_thresholds(folded_in(ann.state_dict()))[0], strict=False)
    assert not extra and all(name.endswith(".leak") for name in lost)
    fit_thresholds(snn)
    learns(snn, args)
    assert ann.settings["norm"] == "batch" and snn.settings["dataset"] == "CIFAR10"


class Copies(TorchDispatchMode):
    """Shapes of what is copied from one device to another."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if str(function).startswith(("aten._to_copy", "aten.copy_")):
            given = args["copy_" in str(function).split(".")[1]]
            self.shapes += [tuple(given.shape)] if given.device != found.device else []
        return found


@pytest.mark.parametrize("segments", [0, 2])
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("without feedback", "every second step decodes")])
def test_a_training_step_draws_on_the_device_and_reads_no_value(name, segments, monkeypatch):
    """On the meta device, which has no values: who reads one, and so would wait for a GPU, fails. Only the images' numbers go
    there, for their draws."""
    monkeypatch.setattr(self_models.vgg_wFeedback_spiking, "mixed_precision", lambda *_: nullcontext())  # unknown there
    model = build(**CASES[name], dropout=0.2).train().to("meta")
    model.set_bptt_segments(segments)
    x, labels = torch.empty(3, *model.image_shape, device="meta"), torch.empty(3, dtype=torch.int64, device="meta")
    monkeypatch.setattr(torch, "tensor", Mock(side_effect=AssertionError("a list that a GPU is waited for to take")))
    with Copies() as copies:
        CRITERION(model(x, draws=Draws(0, 1, torch.arange(3))), labels)["total"].backward()
        model.clamp_dynamics()
    assert copies.shapes and set(copies.shapes) == {(3,)}
