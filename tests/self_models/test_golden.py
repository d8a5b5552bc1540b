"""The models give the numbers of the original implementation.

tests/self_models/golden/README.md says what these are.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from self_models.conversion import balance_thresholds
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN
from snn_wFeedback import compute_losses

GOLDEN = Path(__file__).parent / "golden"


def load(name):
    """Read what the original gave."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {key: data[key] for key in data.files}


def build(cls, data, **settings):
    """Build the network of these data, with their weights and thresholds."""
    model = cls(
        plan=json.loads(str(data["plan"])),
        dataset=str(data["dataset"]),
        timesteps=int(data["timesteps"]),
        fc_width=int(data["fc_width"]),
        kernel_size=int(data["kernel_size"]),
        **settings,
    )
    weights = {}
    for key, value in data.items():
        if key.startswith("w/"):
            weights[key.removeprefix("w/")] = torch.from_numpy(value)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    for key in missing:
        assert key.endswith((".threshold", ".leak"))
    if "thresholds" in data:
        model.set_thresholds(data["thresholds"])
    return model.eval()


def build_spiking(data, cls=VGG_SNN_STDB_wFeedback, **settings):
    """Build the spiking network of these data, with their neurons."""
    if "activation" in data:
        settings["activation"] = str(data["activation"])
    for name in ("alpha", "beta", "leak"):
        if name in data:
            settings[name] = float(data[name])
    return build(cls, data, vgg_name="VGG5_wFeedback", **settings)


def check_close(found, expected, rel=1e-4):
    """Check values to a part of themselves, or of the largest one."""
    expected = torch.as_tensor(expected)
    scale = expected.abs().max().clamp(min=1e-12)
    torch.testing.assert_close(
        found.detach().to(expected.dtype), expected, rtol=rel, atol=rel * scale.item()
    )


def check_losses_and_gradients(model, data, output, trade_off, kind):
    """Check the loss, and the gradients that the data have."""
    labels = torch.arange(len(data["x"])) % 10
    loss = compute_losses(output, None, labels, trade_off, kind)["total"]
    check_close(loss, data["loss"])

    loss.backward()

    for name, parameter in model.named_parameters():
        if f"g/{name}" in data:
            check_close(parameter.grad, data[f"g/{name}"])


@pytest.mark.parametrize(
    "name", ["ann_mnist_t1", "ann_mnist_t3", "ann_cifar10_t1", "ann_cifar10_t3"]
)
def test_ann(name):
    data = load(name)
    model = build(VGG_wFeedback, data)

    output = model(torch.from_numpy(data["x"]))

    check_close(output.logits, data["logits"])
    check_close(output.predictions, data["predictions"])
    check_close(output.errors, data["errors"])
    check_losses_and_gradients(model, data, output, 0.1, "sum")


SNN_FILES = [
    "snn_mnist_linear_leak1.0",
    "snn_mnist_linear_leak0.95",
    "snn_mnist_stdb_leak0.99",
    "snn_cifar10_linear_leak1.0",
    "snn_cifar10_stdb_leak0.99",
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SNN_FILES)
def test_snn(name, training):
    """In evaluation, and as in training."""
    data = load(name)
    model = build_spiking(data, dropout=0.0).train(training)
    model.classifier[2].p = 0.0
    model.classifier[5].p = 0.0

    output = model(torch.from_numpy(data["x"]), torch.from_numpy(data["u"]))

    check_close(output.logits, data["logits"])
    check_close(output.predictions, data["predictions"])
    check_close(output.errors[-1], data["last_error"])
    check_losses_and_gradients(model, data, output, 0.01, "last_t")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", SNN_FILES)
def test_a_gpu_sends_the_spikes_of_the_cpu(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    data = load(name)
    x = torch.from_numpy(data["x"])
    u = torch.from_numpy(data["u"])

    on_cpu = build_spiking(data)(x, u)
    on_gpu = build_spiking(data).cuda()(x.cuda(), u.cuda())

    for layer, counts in on_cpu.spikes.items():
        assert torch.equal(on_gpu.spikes[layer].cpu(), counts), layer


@pytest.mark.parametrize("name", SNN_FILES[:3])
def test_threshold_balancing(name):
    data = load(name)
    model = build_spiking(data)
    x = torch.from_numpy(data["x"])
    u = torch.from_numpy(data["u"])
    steps = int(data["balance_timesteps"])

    found = balance_thresholds(model, x, lambda timestep: u[timestep % len(u)], steps)

    thresholds = torch.tensor(found, dtype=torch.float64)
    check_close(thresholds, data["balanced_thresholds"])
    check_close(float(data["scaling_factor"]) * thresholds, data["thresholds"])
    leaks = [neurons.leak.item() for neurons in model.neurons().values()]
    assert leaks == pytest.approx([float(data["leak"])] * len(found))


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
@pytest.mark.parametrize(
    ("name", "cls", "settings"),
    [("obj1", InputBlockingSNN, {}), ("obj3", ContrastAttentionSNN, {"contrast": "original"})],
)
def test_blocking_and_contrast(name, cls, settings, epsilon):
    data = load(f"{name}_mnist_eps{epsilon}")
    model = build_spiking(data, cls, epsilon=epsilon, **settings)

    output = model(torch.from_numpy(data["x"]), torch.from_numpy(data["u"]))

    check_close(output.logits, data["logits"])
    check_close(output.predictions, data["predictions"])
    predicted_pixels = output.predicted.sum((1, 2, 3, 4))
    assert predicted_pixels.tolist() == data["predicted_pixels_per_step"].tolist()
    if name == "obj1":  # there is no count of obj3
        spikes_of_layers = 0
        for layer, counts in output.spikes.items():
            if layer != "input":
                spikes_of_layers += counts.sum().item()
        assert spikes_of_layers == float(data["spike_count"])
