"""A trained ANN of somebody else's as a spiking network: from_ann(stack, images)."""

import copy
import re

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, images, refused, run_here
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import self_models.adopting
from harness.runs.checkpoints import save_checkpoint
from self_models import ModelError, from_ann, load
from self_models.conversion import nearest_bound, units
from self_models.network.norms import Staircase

PAGE = (REPOSITORY / "docs/how_to/own_model.md").read_text(encoding="utf-8")


def of_two_neurons():
    """Two pixels, each with a neuron a = relu(2 x - 1/2), and two outputs."""
    stack = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))
    for parameter, values in zip(stack.parameters(), ([2.0], [-0.5], [1.0, -1.0, 0.5, 2.0], [0.25, -1.0]), strict=True):
        parameter.data = torch.tensor(values).view_as(parameter)
    return stack


@pytest.mark.parametrize("engine", ["auto", "dense", "reference"])
@torch.no_grad()
def test_spikes_and_logits_by_hand(engine):
    """a = 1/2, 3/2 are two of the values that three steps can send with a threshold of 3/2: no other is so near. From V = 3/4 a
    neuron of drive 1/2 fires in step 2 (V' = 5/4, 7/4, 3/4), one of drive 3/2 in each. A spike is worth 3/2 in three steps."""
    x, stack = torch.tensor([0.5, 1.0]).view(1, 1, 1, 2), of_two_neurons()
    snn = from_ann(stack, x, timesteps=3, engine=engine)
    assert snn.thresholds == [1.5] and snn.features[0].bias.item() == -0.5
    assert snn.classifier[0].bias.tolist() == pytest.approx([0.25 / 1.5, -1 / 1.5])
    record = {} if engine == "auto" else {"record": {"features.1": "spikes"}}
    output = snn(x, **record)
    if record:
        assert output.recorded["features.1"]["spikes"].int().flatten(1).tolist() == [[0, 1], [1, 1], [0, 1]]
    assert output.spikes["features.1"].tolist() == [4]
    assert output.logits[0].tolist() == pytest.approx([1 - 3 + 0.5, 0.5 + 6 - 2])
    torch.testing.assert_close(output.logits * 1.5 / 3, stack(x))  # the ANN's
    assert (snn.engine is not None) == (engine == "auto")
    assert torch.equal(snn(x * 0).logits * 1.5 / 3, stack(x * 0))  # where nothing fires the bias is all that there is


def test_bounds_by_hand():
    """One level: with theta up to 2 all ones are sent as theta, and (4 (1 - theta)² + (3 - theta)²) / 5 is least at 7/5."""
    assert nearest_bound(torch.tensor([0.0, 1, 1, 1, 1, 3]), 1) == pytest.approx(1.4, abs=0.01)
    assert nearest_bound(torch.zeros(4), 4) == 1
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).relu()
    tried = torch.linspace(0.2, 4, 96).tolist()
    errors = [(values - Staircase.apply(values, torch.tensor(theta), 4)).square().mean() for theta in tried]
    best = tried[torch.stack(errors).argmin()]
    assert 1 < best < values.max() and nearest_bound(values, 4) == pytest.approx(best, abs=0.05)


def trained_stack(pool):
    """One of each layer that is taken, with norms that do something."""
    torch.manual_seed(0)
    relu = nn.ReLU()  # one module in several places
    stack = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, eps=0.1), relu),
        nn.Conv2d(6, 6, 2, stride=2, bias=False),
        nn.Conv2d(6, 8, 3, padding="same", bias=False),
        nn.BatchNorm2d(8, affine=False),
        relu,
        nn.Dropout2d(0.2),
        pool(2),
        nn.Identity(),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 24),
        nn.BatchNorm1d(24),
        relu,
        nn.Dropout(0.5),
        nn.Linear(24, 24),
        relu,
        weight_norm(nn.Linear(24, 5)),
    )
    for seed in range(30):
        stack(images(8, (3, 12, 12), seed))
    return stack


@pytest.mark.parametrize("update", ["immediate", "delayed", "phased"])
@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
@torch.no_grad()
def test_a_long_run_answers_as_the_ann_which_stays_as_it_is(pool, update):
    stack, x = trained_stack(pool), images(12, (3, 12, 12), 99)
    before = copy.deepcopy(stack.state_dict())
    snn = from_ann(stack, x, timesteps=400, update=update, engine="dense", classes=list("abcde"))
    assert stack.training and all(torch.equal(value, before[name]) for name, value in stack.state_dict().items())
    *_, (output, unit) = units(snn)
    assert output.target == snn.wiring.output and snn.classes == list("abcde")
    wanted = stack.eval()(x)
    torch.testing.assert_close(snn(x).logits * unit / 400, wanted, rtol=0, atol=0.07 * wanted.abs().max().item())


@pytest.mark.parametrize(("shift", "stays"), [(0.0, True), (-9.0, False)])
def test_a_calibration_that_helps_nothing_is_undone(monkeypatch, shift, stays):
    x, calibrated = torch.tensor([0.5, 1.0]).view(1, 1, 1, 2), []

    def calibrate(model, *given):
        model.features[0].bias.add_(shift)
        calibrated.append(model.features[0].bias.item())

    monkeypatch.setattr(self_models.adopting, "calibrate_biases", calibrate)
    snn = from_ann(of_two_neurons(), x, timesteps=3)
    assert snn.features[0].bias.item() == -0.5 and (calibrated == [-0.5]) == stays
    assert len(calibrated) == 1 and from_ann(of_two_neurons(), x, 3, "delayed").thresholds == snn.thresholds
    assert len(calibrated) == 1  # nothing is calibrated where a layer answers a step later


def test_a_decoder_is_added_and_other_settings_are_taken():
    x, own = images(4, (3, 12, 12)), {"encoding": "poisson", "readout": "membrane", "leak": 0.9}
    snn = from_ann(trained_stack(nn.AvgPool2d), x, timesteps=4, decoder="U 6 U in", **own)
    output = snn(x, seed=1)
    assert output.predictions.shape == (4, *x.shape) and snn.settings["leak"] == 0.9 and len(snn.thresholds) == 5


@pytest.mark.parametrize(
    ("shape", "outputs", "settings", "dataset"),
    [
        ((1, 28, 28), 10, {}, "MNIST"),
        ((1, 8, 8), 10, {}, "…/images"),
        ((3, 32, 32), 10, {}, "…/images"),
        ((1, 28, 28), 5, {}, "…/images"),
        ((1, 28, 28), 10, {"classes": list("abcdefghij")}, "…/images"),
        ((3, 32, 32), 10, {"dataset": "CIFAR10"}, "CIFAR10"),
        ((1, 8, 8), 2, {"dataset": "my/pets", "classes": ["cat", "dog"]}, "my/pets"),
    ],
)
def test_of_which_images_it_is(tmp_path, shape, outputs, settings, dataset):
    """MNIST's where they may be; else a script says that it wants a folder, and does not blame images that nobody gave it."""
    stack = nn.Sequential(
        nn.Conv2d(shape[0], 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * shape[1] * shape[2], outputs)
    )
    snn = from_ann(stack, torch.rand(2, *shape), timesteps=2, engine="dense", **settings)
    assert snn.background == (0.0 if dataset == "MNIST" else None)
    save_checkpoint(tmp_path / "x.pth", snn)
    again = load(tmp_path / "x.pth")
    assert (again.settings["dataset"], again.image_shape, again.classes) == (dataset, shape, snn.classes)
    if dataset.startswith("…"):
        assert "and nothing says where it is: add --dataset FOLDER" in refused("energy", tmp_path / "x.pth")


def test_numpy_pixels_are_taken():
    pixels = np.array([128, 255], np.uint8).reshape(1, 1, 1, 2)
    assert from_ann(of_two_neurons(), pixels).thresholds == pytest.approx([1.5])


def stack_with(position, *layers):
    """The small network with these layers instead of the one at this position."""
    small = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten()]
    small += [nn.Linear(4 * 16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10)]
    return nn.Sequential(*small[:position], *layers, *small[position + 1 :])


def filled(layer, value):
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


class Residual(nn.Module):
    """Adds its input."""


class ResidualBlock(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Scaled(nn.Flatten):
    def forward(self, x):
        return super().forward(x) / 2


class Mean(nn.MaxPool2d):
    def forward(self, x):
        return nn.functional.avg_pool2d(x, 2)


def hooked(module):
    module.register_forward_hook(lambda module, given, output: 2 * output)
    return module


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        (
            stack_with(3, nn.Conv2d(4, 4, 5, padding=2)),
            r"layer 3 is Conv2d\(.*kernel_size=.5, 5..*, where a network here has Conv2d\(.*kernel_size=.3, 3.",
        ),
        (
            stack_with(3, nn.Conv2d(4, 4, 3, 2, 1)),
            r"layer 3 is Conv2d\(.*stride=.2, 2..*, where .* has Conv2d\(.*stride=.1, 1..*: convolution, neuron",
        ),
        (stack_with(3, nn.Conv2d(4, 4, 3, padding=1, groups=2)), r"layer 3 is Conv2d\(.*groups=2"),
        (stack_with(3, Residual()), r"layer 3 is Residual\(\), where a network here has Flatten"),
        (
            stack_with(3, ResidualBlock(nn.Conv2d(4, 4, 3, padding=1))),
            r"layer 3 is ResidualBlock\( .0.: Conv2d.*, where a network here has Flatten",
        ),
        (stack_with(3, Standardised(4, 4, 3, padding=1)), r"layer 3 is Standardised\(.*, where a network here has Conv2d"),
        (stack_with(1, nn.GELU()), "layer 1 is GELU.*, where a network here has neuron"),
        (stack_with(1, hooked(nn.ReLU())), "layer 1 has a hook or a forward of its own, .*: remove it"),
        (stack_with(1, nn.ReLU(), nn.BatchNorm2d(4)), "layer 2 is a batch norm behind layer 1: train it right behind"),
        (stack_with(1, nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()), "layer 1 keeps no running statistics"),
        (
            stack_with(3, weight_norm(nn.Conv2d(4, 4, 3, padding=1)), nn.BatchNorm2d(4)),
            "layer 3 is parametrized, so layer 4 cannot be folded into it: call remove_parametrizations first",
        ),
        (stack_with(2, nn.Conv2d(4, 4, 2, 2)), "layer 2 is Conv2d.*, where a network here has Conv2d.*bias=False"),
        (stack_with(2, nn.Conv2d(4, 4, 2, 2, bias=False), nn.ReLU()), r"layer 3 is ReLU\(\), where a network here has Conv2d"),
        (
            stack_with(8, nn.Linear(8, 9)),
            "layer 8 is Linear.*out_features=9, .*, where a network here has Linear.*out_features=8",
        ),
        (stack_with(6, nn.Linear(4 * 9, 8)), "layer 6 is Linear.*in_features=36, .* has Linear.in_features=64"),
        (stack_with(10, nn.Linear(8, 10), nn.LogSoftmax(1)), "layer 11 is LogSoftmax.*, where a network here has nothing"),
        (stack_with(1, nn.BatchNorm2d(5), nn.ReLU()), "layer 1 is a batch norm of 5 channels behind layer 0 of 4"),
        (stack_with(5, Scaled(1, -1)), r"layer 5 is Scaled\(.*, where a network here has Flatten"),
        (stack_with(2, Mean(2)), "layer 2 is Mean.kernel_size=2, .*, where a network here has CountingMaxPool"),
        (stack_with(2, nn.MaxPool2d(3, 2, 1)), "layer 2 is MaxPool2d.kernel_size=3, .*, where a network here has Count"),
        (
            # behind neurons that are silent on every image
            nn.Sequential(filled(nn.Conv2d(1, 4, 3, padding=1), -1.0), *stack_with(3, nn.Conv2d(4, 4, 3, 1, 1, groups=4))[1:]),
            "layer 3 is Conv2d.*groups=4",
        ),
        (stack_with(0, nn.Conv2d(3, 4, 3, padding=1)), "layer 0 is Conv2d.3, 4, .* has Conv2d.1, 4,"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "layer 0 is no convolution, with which a network here begins"),
        (nn.Sequential(), "the stack is no convolution"),
        (stack_with(0, filled(nn.Conv2d(1, 4, 3, padding=1), float("nan"))), "layer 0 has weights that are no finite numbers"),
        (stack_with(0, nn.Conv2d(1, 4, 3, padding=1, device="meta")), "layer 0 has no weights yet"),
        (stack_with(0, nn.LazyConv2d(4, 3, padding=1)), "layer 0 has no weights yet"),
        (stack_with(10, filled(nn.Linear(8, 10), 3e38)), "the outputs on these images are no finite numbers"),
        (
            stack_with(0, filled(nn.Conv2d(1, 4, 3, padding=1), 3e38)),
            "features.1: its activations on these images are no finite numbers",
        ),
        (Residual(), "give an nn.Sequential of the layers in order, not a Residual"),
        (ResidualBlock(nn.Conv2d(1, 1, 3, padding=1)), "give an nn.Sequential of the layers in order, not a ResidualBlock"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_network_here_has_is_refused_by_layer(stack, words):
    with pytest.raises(ModelError, match=words) as error:
        from_ann(stack, torch.rand(2, 1, 8, 8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("x", "settings", "words"),
    [
        (torch.rand(0, 1, 8, 8), {}, "there are none: give a few hundred"),
        (torch.rand(2, 1, 8, 8) * 3, {}, "images must be .* in .0, 1.; these lie in"),
        (torch.rand(1, 8, 8), {}, r"images must be a tensor or array \(N, C, H, W\)"),
        ("digits.png", {}, r"images must be a tensor or array \(N, C, H, W\)"),
        (torch.rand(2, 1, 8, 8), {"dataset": ["MNIST"]}, "dataset: unknown name"),
        ("digits.png", {"image_shape": (1, 8, 8)}, "images must be .*, not a str"),
        (torch.rand(2, 1, 8, 8), {"bias": False}, "bias follows from the layers"),
        (torch.rand(2, 1, 8, 8), {"default_threshold": 2.0, "decoder": "U in"}, "default_threshold follows from the layers"),
        (torch.rand(2, 1, 8, 8), {"vgg_name": "VGG11"}, "vgg_name follows from the layers"),
        (torch.rand(2, 1, 8, 8), {"readout": "membrane"}, "readout is of a decoder, and there are none: leave it out, or give d"),
        (torch.rand(2, 1, 8, 8), {"init": "kaiming"}, "init is of layers that are new, and there are none"),
        *((torch.rand(2, 1, 8, 8), {"seed": seed, "update": "delayed"}, f"seed: {seed!r} is not a whole") for seed in ("a", -1)),
        (torch.rand(2, 1, 8, 8), {"engine": "fast"}, "engine"),
        (torch.rand(2, 1, 8, 8), {"update": "later"}, "update"),
    ],
)
def test_what_from_ann_cannot_use_is_refused(x, settings, words):
    with pytest.raises(ModelError, match=words):
        from_ann(stack_with(0, nn.Conv2d(1, 4, 3, padding=1)), x, **settings)


def run_blocks(*titles):
    """What the page's blocks of these titles leave behind."""
    space = {}
    for title in titles:
        (code,) = re.findall(rf"^```python\n(# {title}\n.*?)^```$", PAGE, re.M | re.S)
        exec(code, space)
    return space


def test_the_pages_ann_is_trained_converted_evaluated_priced_and_exported(tmp_path, monkeypatch):
    """The blocks of docs/how_to/own_model.md as they stand; the network loses little."""
    monkeypatch.chdir(tmp_path)
    space = run_blocks("train", "convert")
    shown, found = space["test"].whole(), space["found"]
    with torch.no_grad():
        accuracy = (space["ann"](shown.images).argmax(1) == shown.labels).double().mean().item()
    assert accuracy > 0.9 and found["images"] == 2000 and found["accuracy"] > accuracy - 0.01
    assert space["snn"].engine.runs["event"] > 0 and found["energy_event_joules"] > 0
    said = run_here("energy", "mine.pth --limit_test 16")[1]
    assert "mine.pth" in said and "45 nm" in said
    run_here("export", "mine.pth --to torch")
    assert (tmp_path / "mine_torch.pt").is_file()


def test_the_pages_spiking_layers_become_a_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("snntorch")
    monkeypatch.chdir(tmp_path)
    model = run_blocks("layers")["model"]
    assert model.engine and load("layers.pth").thresholds == model.thresholds
