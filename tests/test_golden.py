"""The models reproduce the numbers of the original implementation (tests/golden/README.md)."""

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
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {key: data[key] for key in data.files}


def build(cls, data, **settings):
    whole = {name: int(data[name]) for name in ("timesteps", "fc_width", "kernel_size")}
    model = cls(
        plan=json.loads(str(data["plan"])), dataset=str(data["dataset"]), **whole, **settings
    )
    weights = {
        key[2:]: torch.from_numpy(value) for key, value in data.items() if key.startswith("w/")
    }
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.endswith((".threshold", ".leak")) for key in missing)
    if "thresholds" in data:
        model.set_thresholds(data["thresholds"])
    return model.eval()


def close(found, expected, rel=1e-4):
    expected = torch.as_tensor(expected)
    scale = expected.abs().max().clamp(min=1e-12)
    torch.testing.assert_close(
        found.detach().to(expected.dtype), expected, rtol=rel, atol=rel * scale.item()
    )


def spiking(data, cls=VGG_SNN_STDB_wFeedback, **settings):
    for key in ("activation", "alpha", "beta", "leak"):
        if key in data:
            settings[key] = str(data[key]) if key == "activation" else float(data[key])
    return build(cls, data, vgg_name="VGG5_wFeedback", **settings)


def check_losses_and_gradients(model, data, output, trade_off, kind):
    labels = torch.arange(len(data["x"])) % 10
    losses = compute_losses(output, None, labels, trade_off, kind)
    close(losses["total"], data["loss"])
    losses["total"].backward()
    for name, parameter in model.named_parameters():
        if f"g/{name}" in data:
            close(parameter.grad, data[f"g/{name}"])


@pytest.mark.parametrize(
    "name", ["ann_mnist_t1", "ann_mnist_t3", "ann_cifar10_t1", "ann_cifar10_t3"]
)
def test_ann(name):
    data = load(name)
    model = build(VGG_wFeedback, data)
    output = model(torch.from_numpy(data["x"]))
    for key in ("logits", "predictions", "errors"):
        close(getattr(output, key), data[key])
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
    """Step by step, and as in training: all steps as one batch, the decoder's linear layers folded."""
    data = load(name)
    model = spiking(data, dropout=0.0).train(training)
    model.classifier[2].p = model.classifier[5].p = 0.0
    output = model(torch.from_numpy(data["x"]), torch.from_numpy(data["u"]))
    close(output.logits, data["logits"])
    close(output.predictions, data["predictions"])
    close(output.errors[-1], data["last_error"])
    check_losses_and_gradients(model, data, output, 0.01, "last_t")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", SNN_FILES)
def test_a_gpu_sends_the_spikes_of_the_cpu(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    data = load(name)
    x, u = (torch.from_numpy(data[key]) for key in ("x", "u"))
    here, there = (spiking(data).to(place)(x.to(place), u.to(place)) for place in ("cpu", "cuda"))
    for layer, counts in here.spikes.items():
        assert torch.equal(there.spikes[layer].cpu(), counts), layer


@pytest.mark.parametrize("name", SNN_FILES[:3])
def test_threshold_balancing(name):
    data = load(name)
    model = spiking(data)
    u = torch.from_numpy(data["u"])
    found = balance_thresholds(
        model, torch.from_numpy(data["x"]), lambda t: u[t % len(u)], int(data["balance_timesteps"])
    )
    close(torch.tensor(found, dtype=torch.float64), data["balanced_thresholds"])
    scaled = [float(data["scaling_factor"]) * value for value in found]
    close(torch.tensor(scaled, dtype=torch.float64), data["thresholds"])
    assert [neuron.leak.item() for neuron in model.neurons().values()] == pytest.approx(
        [float(data["leak"])] * len(found)
    )


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
@pytest.mark.parametrize(
    ("name", "cls", "own"),
    [("obj1", InputBlockingSNN, {}), ("obj3", ContrastAttentionSNN, {"contrast": "original"})],
)
def test_blocking_and_contrast(name, cls, own, epsilon):
    data = load(f"{name}_mnist_eps{epsilon}")
    output = spiking(data, cls, epsilon=epsilon, **own)(
        torch.from_numpy(data["x"]), torch.from_numpy(data["u"])
    )
    close(output.logits, data["logits"])
    close(output.predictions, data["predictions"])
    assert (
        output.predicted.sum((1, 2, 3, 4)).tolist() == data["predicted_pixels_per_step"].tolist()
    )
    spiking_layers = sum(
        count.sum().item() for name, count in output.spikes.items() if name != "input"
    )
    assert name == "obj3" or spiking_layers == float(data["spike_count"])
