"""How training runs a network (in segments, in bfloat16, linear layers folded) learns what its steps learn; large presets."""

from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import torch
from conftest import ANN, PLAN, SNN, images, run_here
from torch.utils._python_dispatch import TorchDispatchMode

import self_models.vgg_wFeedback_spiking
from harness.data.sets import ImageSet
from harness.training.losses import Criterion
from self_models import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.fast.batched.folding import folded
from self_models.network.neurons import HeldDropout
from self_models.network.plans import PLANS
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
LEARNED = {"learn_threshold": True, "learn_leak": True, "leak": 0.9}
CASES = {
    "plain": {},
    "delayed, leaky, STDB": {"update": "delayed", "leak": 0.9, "activation": "STDB", "timesteps": 9},
    "direct input, leaking read-out": {"encoding": "direct", "readout": "membrane", "readout_leak": 0.8, "readout_slew": 0.3},
    "latch, linear decoder, learned dynamics": {**BLOCKING, **LEARNED, "plan": LINEAR, "latch": True, "readout_slew": 0.38},
    "contrast": {**BLOCKING, "cls": ContrastAttentionSNN},
    "delayed, biases": {**POOLED, "update": "delayed", "timesteps": 9, "leak": 0.9},
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


def inputs(model):
    """Images, and draws, that are always the same."""
    x = images(5, model.image_shape)
    return x, torch.rand(model.timesteps, *x.shape, generator=torch.Generator().manual_seed(2))


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
    for chain in (folded(list_layers(generate), signals, (19, 27)), list_layers(generate)):
        signal = x.clone().requires_grad_()
        output = signal
        for _, layer in chain:
            output = layer(output)
        gradients = torch.autograd.grad(output.square().sum(), [signal, *generate.parameters()])
        found.append((len(chain), output, gradients))
    assert [number for number, *_ in found] == [layers, 4] and output.shape == (signals, 3, 19, 27)
    torch.testing.assert_close(found[0][1:], found[1][1:], rtol=1e-4, atol=1e-5)


def test_bfloat16_products_keep_float32_membranes_and_learn_as_well():
    """A rounded drive can flip a spike, so single gradients differ; losses do not by much, at the start and after learning."""
    losses, (x, u) = {}, inputs(build())
    for precision in ("float32", "bfloat16"):
        model = build(**CASES["latch, linear decoder, learned dynamics"]).train()
        model.precision = precision
        optimizer, losses[precision] = torch.optim.Adam(model.parameters(), 5e-3), []
        for _ in range(12):
            optimizer.zero_grad()
            output = model(x, u, record={"features.1": "membrane"})
            loss = CRITERION(output, torch.arange(5))["total"]
            loss.backward()
            optimizer.step()
            losses[precision].append(loss.item())
        numbers = [output.logits, output.predictions, output.recorded["features.1"]["membrane"]]
        numbers += [weight.grad for weight in model.parameters() if weight.requires_grad]
        assert {one.dtype for one in numbers} == {torch.float32}
    for place in (0, -1):
        assert losses["bfloat16"][place] == pytest.approx(losses["float32"][place], rel=0.1)
    assert losses["bfloat16"] != losses["float32"] and losses["bfloat16"][-1] < 0.9 * losses["bfloat16"][0]


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


def test_impossible_segments_are_refused():
    for segments in (-1, 7, 100):
        with pytest.raises(ModelError, match="bptt_segments"):
            build().set_bptt_segments(segments)


# --- presets whose networks are not committed


@pytest.mark.parametrize(
    ("base", "name", "plan"),
    [("vgg9_base", "vgg9_feedback", "VGG9_wFeedback"), ("vgg16_plain_base", "vgg16_plain", "VGG16_max"),
     ("vgg11_plain_base", "vgg11_plain", "VGG11")],
)  # fmt: skip
def test_a_preset_of_a_large_network_converts_and_learns(base, name, plan, tmp_path, monkeypatch):
    """An eighth as wide (the full ones take a minute), on a few images: its first ANN, its ANN and the SNN made of it."""
    for one in {"VGG9_strided", plan}:
        thin = [" ".join(str(int(part) // 8) if part.isdigit() else part for part in text.split()) for text in PLANS[one]]
        monkeypatch.setitem(PLANS, one, thin)
    pixels = torch.randint(256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    monkeypatch.setattr("harness.data.sets.load_set", lambda *_: ImageSet("CIFAR10", pixels, torch.arange(8)))
    folder, here = tmp_path / "trained_models", f"--epochs 1 --batch_size 4 --limit_train 6 --holdout 2 --output_dir {tmp_path}"
    run_here(ANN, f"--preset {base} {here}")
    teacher = f"--teacher_ann {folder}/ann/{base}.pth {here} --preset {name}"
    run_here(ANN, teacher)
    run_here(SNN, teacher)
    ann, snn = (load_checkpoint(folder / kind / f"{name}.pth") for kind in ("ann", "snn"))
    assert ann["settings"]["norm"] == "batch" and snn["settings"]["dataset"] == "CIFAR10"
    assert all(weight.isfinite().all() for one in (ann, snn) for weight in one["state_dict"].values())


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
@pytest.mark.parametrize("name", CASES)
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
