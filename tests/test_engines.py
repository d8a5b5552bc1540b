"""x"""

import copy
import random
from contextlib import nullcontext
from unittest import mock
from unittest.mock import Mock

import pytest
import torch
from conftest import ANN, GRID, PLAN, SNN, Tired, become, build, images, inputs, run_here
from torch.utils._python_dispatch import TorchDispatchMode

import self_models.vgg_wFeedback_spiking
from harness.data.sets import ImageSet
from harness.training.losses import Criterion
from self_models import ModelError, first_difference
from self_models.basics.checkpoints import load_checkpoint
from self_models.counting.operations import OperationCounter
from self_models.fast.batched.folding import FoldedChain, folded
from self_models.kernel.engine import EventEngine
from self_models.network.neurons import HeldDropout
from self_models.network.plans import PLANS as ARCHITECTURES
from self_models.network.stages import list_layers
from self_models.running.draws import Draws
from self_models.running.outputs import errors_by_step, open_share_by_step
from self_models.running.steps import AT_ONCE
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN

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


LINEAR = [[4, "D", 6, 6, "D"], ["U", "U", "in"]]
FORKED = [[4, "D", 6, "fork", 6, "D"], ["U", "in"]]
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
    "gate once, fork": {**BLOCKING, "gate": "once", "grid": 4, "encoding": "direct", "plan": FORKED, "image_shape": (3, 9, 10)},
}


def trainable(cls=VGG_SNN_STDB_wFeedback, dropout=0.0, **settings):
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


def five_images(model):
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
    generate = trainable(plan=plan, image_shape=(3, 19, 27), readout="membrane").generate
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
    losses, (x, u) = {}, five_images(trainable())
    for precision in ("float32", "bfloat16"):
        model = trainable(**CASES["latch, linear decoder, learned dynamics"]).train()
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
        model, sizes = trainable(timesteps=9).train(), []
        model.set_bptt_segments(segments)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            model(images(2))
        kept[segments] = sum(sizes)
    assert kept[3] < 0.5 * kept[0]


def test_impossible_segments_are_refused():
    for segments in (-1, 7, 100):
        with pytest.raises(ModelError, match="bptt_segments"):
            trainable().set_bptt_segments(segments)


# --- presets whose networks are not committed


@pytest.mark.parametrize(
    ("base", "name", "plan"),
    [("vgg9_base", "vgg9_feedback", "VGG9_wFeedback"), ("vgg16_plain_base", "vgg16_plain", "VGG16_max"),
     ("vgg11_plain_base", "vgg11_plain", "VGG11")],
)  # fmt: skip
def test_a_preset_of_a_large_network_converts_and_learns(base, name, plan, tmp_path, monkeypatch):
    """An eighth as wide (the full ones take a minute), on a few images: its first ANN, its ANN and the SNN made of it."""
    for one in {"VGG9_strided", plan}:
        thin = [" ".join(str(int(part) // 8) if part.isdigit() else part for part in text.split()) for text in ARCHITECTURES[one]]
        monkeypatch.setitem(ARCHITECTURES, one, thin)
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
    model = trainable(**CASES[name], dropout=0.2).train().to("meta")
    model.set_bptt_segments(segments)
    x, labels = torch.empty(3, *model.image_shape, device="meta"), torch.empty(3, dtype=torch.int64, device="meta")
    monkeypatch.setattr(torch, "tensor", Mock(side_effect=AssertionError("a list that a GPU is waited for to take")))
    with Copies() as copies:
        CRITERION(model(x, draws=Draws(0, 1, torch.arange(3))), labels)["total"].backward()
        model.clamp_dynamics()
    assert copies.shapes and set(copies.shapes) == {(3,)}
