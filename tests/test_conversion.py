"""Threshold balancing: each layer's threshold is the largest drive that reaches it in a run."""

import os
import signal

import pytest
import torch
from conftest import PLAN, SNN, SPIKING, digests, images, run_here

import harness.building.conversion
from harness import UserError
from harness.building.conversion import balance_thresholds
from harness.command_line.scripts import run_script
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

STEPS = 12


def balanced(**settings):
    """A network balanced on five images, these, and the draws."""
    torch.manual_seed(0)
    own = {"plan": PLAN, "fc_width": 8, "timesteps": STEPS, "readout": "membrane_linear"}
    model = VGG_SNN_STDB_wFeedback(**own | settings).eval()
    for layer in (0, 3, 6):  # as drawn, linear weights are too small for the classifier to fire
        model.classifier[layer].weight.data *= 20
    x = images(5, model.image_shape)
    u = torch.rand(STEPS, *x.shape, generator=torch.Generator().manual_seed(1))
    balance_thresholds(model, x, lambda t: u[t], STEPS)
    return model, x, u


def largest_drives(model, x, u):
    """The largest drive that reaches each spiking layer when the model runs as it does in use."""
    found = {}

    def watch(name):
        def look(module, inputs):
            found[name] = max(found.get(name, -1), inputs[0].max().item())

        return look

    for name, neuron in model.neurons().items():
        neuron.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        model(x, u)
    return [found[name] for name in model.neurons()]


@pytest.mark.parametrize("interval", [1, 2, 4])
@pytest.mark.parametrize("update", ["immediate", "delayed"])
def test_thresholds_are_the_largest_drives_of_a_run(update, interval):
    """Of the decoder, too, which runs every few steps on all that the encoder has sent since."""
    model, x, u = balanced(update=update, feedback_interval=interval)
    assert model.thresholds == pytest.approx(largest_drives(model, x, u), rel=1e-5) and 1 not in model.thresholds


def test_the_longer_the_decoder_waits_the_higher_its_threshold():
    every, second, fourth = (balanced(update="immediate", feedback_interval=k)[0].thresholds for k in (1, 2, 4))
    decoder = list(balanced()[0].neurons()).index("generate.2")
    assert every[decoder] < second[decoder] < fourth[decoder]
    assert every[:decoder] == second[:decoder] == fourth[:decoder]


def test_layers_whose_drives_are_too_many_to_keep_get_the_same_thresholds(monkeypatch):
    kept = balanced(readout="spike_count", image_shape=(3, 12, 14))[0].thresholds
    monkeypatch.setattr(harness.building.conversion, "KEPT", 0)
    assert balanced(readout="spike_count", image_shape=(3, 12, 14))[0].thresholds == kept


@pytest.mark.parametrize("plan", [PLAN, [[4, 4, "D", 6, 6, 6, "D"], []]], ids=str)
def test_each_layer_runs_once(plan):
    """Whatever the depth: a layer's product is computed once for each step, not once more for each layer behind it."""
    calls, forward = [], torch.nn.Conv2d.forward
    try:
        torch.nn.Conv2d.forward = lambda self, x: (calls.append(self), forward(self, x))[1]
        model, _, _ = balanced(plan=plan)
    finally:
        torch.nn.Conv2d.forward = forward
    inner = [module for module in model.features if isinstance(module, torch.nn.Conv2d)][:-1]
    assert [calls.count(module) for module in inner] == [STEPS + 1] * len(inner)  # the first once more, to see its size


def test_fewer_steps_than_the_decoder_waits_are_refused():
    model = VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=4, feedback_interval=4)
    with pytest.raises(UserError, match="feedback_interval is 4"):
        balance_thresholds(model, images(2), lambda t: torch.rand(2, 1, 28, 28), 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_balancing_says_what_was_done(trained, tmp_path, monkeypatch, capsys, number):
    real, calls = harness.building.conversion.spikes_of, []

    def spikes_of(*given):
        calls.append(given)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return real(*given)

    monkeypatch.setattr(harness.building.conversion, "spikes_of", spikes_of)
    command = f"--pretrained_ann {trained.ann} {SPIKING} --output_dir {tmp_path}"
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: run_here(SNN, command))
    assert stop.value.code == 128 + number
    line = capsys.readouterr().err
    assert "while balancing thresholds, 2 of " in line and line.count("\n") == 1
    before = digests(tmp_path)
    run_here(SNN, command)  # begins anew
    assert len(digests(tmp_path)) > len(before)
