"""Threshold balancing: each layer's threshold is the largest drive that reaches it in a run; and the cache of what was found."""

import json
import os
import re
import signal
from types import SimpleNamespace

import pytest
import torch
from conftest import ANN, BALANCE, DATA, PLAN, SNN, SPIKING, TINY, digests, images, records, refused, run_here, split
from test_event_engine import BIAS, UNKNOWN, build

import harness.building.conversion
import snn_wFeedback
from harness import UserError
from harness.building.conversion import (
    balance_thresholds,
    balanced_thresholds,
    biases_of,
    bounds_as_thresholds,
    calibrate_biases,
    channel_means,
    fit_biases,
    fit_thresholds,
    largest,
    layer_by_layer,
    scale_thresholds,
    spikes_of,
    units,
)
from harness.building.models import new_snn
from harness.building.start import resolve_snn, start_snn
from harness.command_line.scripts import run_script
from harness.data.sets import ImageSet
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.errors import ModelError
from self_models.network.norms import ACTIVATIONS, QCFS, BatchNorm, folded_in
from self_models.running.draws import Draws
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

STEPS = 12
FORKED = [[4, "D", 6, "fork", 6, "D"], ["U", 4, "in"]]


def balanced(percentile=100.0, **settings):
    """A network balanced on five images, these, and the draws."""
    torch.manual_seed(0)
    own = {"plan": PLAN, "fc_width": 8, "timesteps": STEPS, "readout": "membrane_linear"}
    model = VGG_SNN_STDB_wFeedback(**own | settings).eval()
    for layer in (0, 3, 6):  # as drawn, linear weights are too small for the classifier to fire
        model.classifier[layer].weight.data *= 20
    x = images(5, model.image_shape)
    u = torch.rand(STEPS, *x.shape, generator=torch.Generator().manual_seed(1))
    balance_thresholds(model, x, lambda t: u[t], STEPS, percentile)
    return model, x, u


def random_set(seed=0, count=6):
    pixels = torch.randint(256, (count, 1, 28, 28), generator=torch.Generator().manual_seed(seed)).byte()
    return ImageSet("MNIST", pixels, torch.zeros(count, dtype=torch.int64))


BALANCING = {"balance_images": 4, "balance_timesteps": 3, "balance_percentile": 99.0, "seed": 0}


def through_the_cache(folder, train=None, weight=1.0, **own):
    """(thresholds, lines said) of a network that is balanced, or of which a cache in folder tells. own: flags and settings."""
    torch.manual_seed(0)
    args = SimpleNamespace(**{name: own.pop(name, default) for name, default in BALANCING.items()})
    model = VGG_SNN_STDB_wFeedback(**{"plan": PLAN, "fc_width": 8, "timesteps": 5, "readout": "membrane_linear"} | own)
    model.features[0].weight.data *= weight
    said = []
    balanced_thresholds(model, random_set() if train is None else train, args, folder, said.append)
    return model.thresholds, said


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"train": random_set(1)}, True), ({"weight": 1.5}, True), ({"seed": 1}, True), ({"update": "immediate"}, True),
        ({"balance_images": 5}, True), ({"balance_timesteps": 4}, True), ({"balance_percentile": 90.0}, True),
        ({"feedback_interval": 2}, True), ({"encoding": "direct"}, True), ({"timesteps": 6}, False),
        ({"gate": "block", "latch": True}, False), ({"rule": "confidence"}, False), ({"dropout": 0.0}, False),
        ({"activation": "STDB"}, False), ({"init": "kaiming", "weight": 1.0}, True), ({"train": random_set(0, 7)}, False),
    ], ids=lambda value: "_".join(value) if isinstance(value, dict) else str(value),
)  # fmt: skip
def test_a_cache_is_of_these_weights_images_and_settings(tmp_path, change, counts):
    first, said = through_the_cache(tmp_path)
    assert said[0] == "balancing thresholds: 4 images, 3 steps" and len(said) == 1 + len(first) == 7
    assert said[1] == f"  features.1: threshold {first[0]:.4f}"
    found, said = through_the_cache(tmp_path, **change)
    assert said[0].startswith("balancing thresholds: " if counts else f"balanced thresholds read from {tmp_path}/balanced_thr")
    assert len(list(tmp_path.iterdir())) == 1 + counts
    (tmp_path / "anew").mkdir()
    assert found == through_the_cache(tmp_path / "anew", **change)[0]


def test_the_cache_holds_what_balancing_finds_with_the_draws_before_training(tmp_path):
    """Of the training images that there are, in their order."""
    found, said = through_the_cache(tmp_path, seed=3, balance_images=9)
    assert said[0] == "balancing thresholds: 6 images, 3 steps"
    torch.manual_seed(0)
    model = VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=8, timesteps=5, readout="membrane_linear")
    batch = random_set().batch(torch.arange(6))
    draws = Draws(3, 0, batch.index)
    expected = balance_thresholds(model, batch.images, lambda t: draws.at_step(t, (1, 28, 28), "cpu"), 3, 99.0)
    (cache,) = tmp_path.iterdir()
    saved = json.loads(cache.read_text())
    assert found == expected == saved["thresholds"] and saved["layers"] == list(model.neurons())


@pytest.mark.parametrize("damage", ["", "{}", '{"thresholds": [1, 2]}', "[]", "[" * 100_000, "a digit"])
def test_a_damaged_cache_is_found_again(tmp_path, damage):
    first, _ = through_the_cache(tmp_path)
    (cache,) = tmp_path.iterdir()
    whole = cache.read_text()
    cache.write_text(whole.replace('"thresholds": [', '"thresholds": [1') if damage == "a digit" else damage)
    found, said = through_the_cache(tmp_path)
    assert found == first and said[0].startswith("balancing") and cache.read_text() == whole


@pytest.mark.parametrize("interval", [1, 2])
def test_the_bar_comes_to_its_end(tmp_path, monkeypatch, interval):
    bars, real = [], harness.building.conversion.progress_bar
    monkeypatch.setattr(harness.building.conversion, "progress_bar", lambda *given: bars.append(real(*given)) or bars[-1])
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    through_the_cache(tmp_path, feedback_interval=interval)
    assert bars[0].n == bars[0].total == 5 * 3 + 3 // interval and bars[0].desc == "balancing thresholds"


# --- balancing


def test_balancing_leaves_leaks_and_mode_as_they_were():
    model = VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=8, leak=0.5).train()
    x = images(2)
    found = balance_thresholds(model, x, lambda t: torch.full_like(x, 0.3), 4)
    assert model.training and {neuron.leak.item() for neuron in model.neurons().values()} == {0.5}
    model.set_leak(1.0)
    assert found == model.thresholds == balance_thresholds(model.eval(), x, lambda t: torch.full_like(x, 0.3), 4)
    assert not model.training


def largest_drives(model, x, u, of=torch.max):
    """The largest drive, or what `of` makes of a step's, that reaches each spiking layer when the model runs as in use."""
    found = {}

    def watch(name):
        def look(module, inputs):
            found[name] = max([found.get(name, -1), *(of(step).item() for step in inputs[0].split(len(x)))])

        return look

    for name, neuron in model.neurons().items():
        neuron.register_forward_pre_hook(watch(name))
    model.watcher = SimpleNamespace(
        **dict.fromkeys(("begin", "note", "settle"), lambda *_: None)
    )  # then no drive is left out, read or not
    with torch.no_grad():
        model(x, u)
    return [found[name] for name in model.neurons()]


@pytest.mark.parametrize("interval", [1, 2, 4])
@pytest.mark.parametrize(("update", "plan"), [("immediate", PLAN), ("delayed", PLAN), ("immediate", FORKED)], ids=str)
def test_thresholds_are_the_largest_drives_of_a_run(update, plan, interval):
    """Of the decoder, too, which runs every few steps on all that the encoder, or its part before a fork, has sent since."""
    model, x, u = balanced(update=update, plan=plan, feedback_interval=interval)
    assert model.thresholds == pytest.approx(largest_drives(model, x, u), rel=1e-5) and 1 not in model.thresholds


def test_percentiles_by_hand():
    values = torch.arange(1.0, 1001)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    found = {percentile: largest(values.view(10, 1, 100), percentile).item() for percentile in (100, 99.95, 99.9, 99, 55, 1e-9)}
    assert found == {100: 1000, 99.95: 1000, 99.9: 999, 99: 990, 55: 550, 1e-9: 1}
    assert largest(torch.tensor([-3.0, 5.0, 5.0, 7.0]), 75).item() == 5


def test_a_percentile_is_taken_of_each_steps_drives():
    model, x, u = balanced(99.0, update="immediate")
    assert model.thresholds == pytest.approx(largest_drives(model, x, u, lambda drive: largest(drive, 99.0)), rel=1e-5)
    assert model.thresholds[0] < balanced(100.0, update="immediate")[0].thresholds[0]  # later layers are driven more


def test_layers_whose_drives_are_too_many_to_keep_get_the_same_thresholds(monkeypatch):
    kept = balanced(readout="spike_count", image_shape=(3, 12, 14))[0].thresholds
    monkeypatch.setattr(harness.building.conversion, "CACHED", 0)
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


OWN = ("features.1 (Tired)", "features.4 (SpikingNeuron)", "generate2 (Sequential)", "gain (Parameter)")  # neurons, and beside


@pytest.mark.parametrize("part", UNKNOWN)
def test_neurons_and_what_stands_beside_the_stages_may_be_ones_own_in_a_conversion(part):
    """Any other part that no plan has is refused by name; what stands beside the stages keeps its threshold."""
    model, x = build(**BIAS), images(2)
    UNKNOWN[part](model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for convert in (balance_thresholds, lambda *given: calibrate_biases(model, None, *given[1:3])):
        if part in OWN and convert is balance_thresholds:
            convert(model, x, lambda t: torch.rand(2, 1, 28, 28), 3)
            assert model.features[1].threshold != before["features.1.threshold"]
            scale_thresholds(model, 0.5)
            own = {name: value for name, value in model.state_dict().items() if name.startswith(("generate2", "gain"))}
            assert all(torch.equal(value, before[name]) for name, value in own.items())
        elif part not in OWN:
            with pytest.raises(ModelError, match=rf"^conversion does not know {re.escape(part)}"):
                convert(model, x, lambda t: torch.rand(2, 1, 28, 28), 3)
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_of_a_class_of_ones_own_is_no_ordinary_one(trained, tmp_path, monkeypatch):
    """Its weights alone do not say what it did with them; nor do those of an ANN with another nonlinearity."""
    here = f"{SPIKING} --test_only --output_dir {tmp_path}"
    for kind in ("ann", "snn"):
        torch.save(load_checkpoint(getattr(trained, kind)) | {"model": "Own"}, tmp_path / f"{kind}.pth")
        flags = f"--pretrained_{kind} {tmp_path / kind}.pth {here if kind == 'ann' else here.replace(BALANCE, '')}"
        said = refused(SNN, flags)
        assert f"{kind}.pth holds 'Own', a network of somebody's own: --model FILE.py:Own, or load(path, model=Own)" in said
    saved = load_checkpoint(trained.ann)
    torch.save(saved | {"settings": {**saved["settings"], "activation_ann": "tanh"}}, tmp_path / "ann.pth")
    monkeypatch.setitem(ACTIVATIONS, "tanh", lambda stage, settings: torch.nn.Tanh())
    said = refused(SNN, f"--pretrained_ann {tmp_path / 'ann.pth'} {here}")
    assert "conversion knows the nonlinearities relu and qcfs, and " in said and "ann.pth has tanh" in said


@pytest.mark.parametrize("kind", ["ann", "snn"])
def test_a_baseline_may_start_from_a_network_with_a_decoder(trained, tmp_path, kind):
    """The decoder is left out, and said; without blocking it changes nothing of what the rest does."""
    flags = f"--test_only {DATA} --output_dir {tmp_path} --pretrained_{kind} {getattr(trained, kind)}"
    flags += f" --update immediate --timesteps 5 --readout membrane_rescaled {BALANCE}" * (kind == "ann")
    out = run_here(SNN, f"{flags} --run_name whole")[1]
    assert "left out" not in out
    out = run_here(SNN, f"{flags} -a VGG5_small --run_name baseline")[1]
    assert f"{getattr(trained, kind)} has a decoder, which VGG5_small has not: it is left out" in out
    whole, baseline = (records(tmp_path / f"logs/snn/{name}.jsonl", "evaluation")[0] for name in ("whole", "baseline"))
    kept = {name: count for name, count in whole["spikes_per_layer"].items() if not name.startswith("generate")}
    assert baseline["spikes_per_layer"] == kept != whole["spikes_per_layer"] and baseline["accuracy"] == whole["accuracy"]


@pytest.mark.parametrize(("norm", "statistic"), [("scale", "mean_square"), ("batch", "running_var")])
def test_a_normalised_ann_is_converted_folded(tmp_path, norm, statistic):
    """And one whose normalisation is damaged is refused."""
    ann = tmp_path / "trained_models/ann/x.pth"
    run_here(ANN, f"{TINY} --norm {norm} --run_name x --output_dir {tmp_path}")
    out = run_here(SNN, f"--pretrained_ann {ann} {SPIKING} --test_only --run_name y --output_dir {tmp_path}")[1]
    assert out.count("threshold ") == 7
    saved = load_checkpoint(ann)
    assert saved["settings"]["norm"] == norm
    for wrong in (None, torch.ones(3)):
        state = {name: wrong if name == f"features.1.{statistic}" else value for name, value in saved["state_dict"].items()}
        state = {name: value for name, value in state.items() if value is not None}
        torch.save(saved | {"state_dict": state}, tmp_path / "damaged.pth")
        torch.save({"state_dict": state}, tmp_path / "bare.pth")
        for file, words in (
            ("damaged.pth", f" is damaged: its settings are of another VGG_wFeedback: features.1.{statistic} is "),
            ("bare.pth", ": its normalisation does not fit its weights"),
        ):
            used = f"-a VGG5_wFeedback_small --fc_width 16 --pretrained_ann {tmp_path / file}"
            assert f"{file}{words}" in refused(SNN, f"{used} {SPIKING} --test_only --output_dir {tmp_path / 'out'}")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("running_var", -1.0, "is below 0"),
        ("weight", float("nan"), "is not finite"),
        ("nonlinearity.bound", 0.0, "is not above 0"),
    ],
)
def test_a_checkpoint_of_what_cannot_be_is_refused(tmp_path, name, value, said):
    here, name = f"--output_dir {tmp_path}", f"features.1.{name}"
    run_here(ANN, f"{TINY} --norm batch --activation_ann qcfs --run_name x {here}")
    saved = load_checkpoint(tmp_path / "trained_models/ann/x.pth")
    saved["state_dict"][name].fill_(value)
    torch.save(saved, tmp_path / "damaged.pth")
    assert f"damaged.pth is damaged: {name} {said}; use another copy" in refused(
        ANN, f"--pretrained_ann {tmp_path / 'damaged.pth'} {DATA} --test_only {here}"
    )
    line = refused(SNN, f"--pretrained_ann {tmp_path / 'damaged.pth'} {SPIKING.replace(BALANCE, '')} --test_only {here}")
    assert "damaged.pth is damaged: " in line and "; use another copy" in line


def test_an_ann_with_batch_norm_and_qcfs_brings_biases_and_thresholds(tmp_path):
    """Nothing is balanced; the SNN that is trained remembers what it is made of."""
    ann, snn, here = tmp_path / "trained_models/ann/x.pth", tmp_path / "trained_models/snn/y.pth", f"--output_dir {tmp_path}"
    run_here(ANN, f"{TINY} --norm batch --activation_ann qcfs --run_name x {here}")
    own = SPIKING.replace(BALANCE, "")
    out = run_here(SNN, f"--pretrained_ann {ann} {own} --engine dense --run_name y {here}")[1]
    assert f"thresholds are the bounds of {ann}, nothing is balanced; membranes begin at 0.5 of them" in out
    saved, given = load_checkpoint(snn), load_checkpoint(ann)["state_dict"]
    assert saved["settings"]["bias"] and saved["settings"]["initial_potential"] == 0.5
    names = [name.removesuffix(".threshold") for name in saved["state_dict"] if name.endswith(".threshold")]
    assert f"{names[0]}.nonlinearity.bound" in given and len(names) == sum(name.endswith(".bound") for name in given)
    assert saved["state_dict"]["features.1.threshold"] == given["features.1.nonlinearity.bound"]
    run_here(SNN, f"--pretrained_snn {snn} --test_only --engine dense --run_name z {DATA} {here}")
    run_here(ANN, f"{TINY} --norm batch --run_name r {here}")  # the same is to be had from an ANN that began with ReLU
    began = f"--pretrained_ann {tmp_path}/trained_models/ann/r.pth"
    run_here(ANN, f"{began} {DATA} --activation_ann qcfs --epochs 1 --limit_train 40 --limit_test 20 --run_name q {here}")
    evaluated = refused(ANN, f"{began} {DATA} --activation_ann qcfs --test_only --run_name e {here}")  # nobody trained its bounds
    assert "r.pth does not fit" in evaluated and ".bound is missing" in evaluated
    later = load_checkpoint(tmp_path / "trained_models/ann/q.pth")
    assert later["state_dict"].keys() == given.keys() and later["settings"]["activation_ann"] == "qcfs"
    for idle in ("--balance_timesteps 9", "--balance_percentile 99", "--balance_images 9"):
        line = refused(SNN, f"--pretrained_ann {ann} {own} {idle} --run_name v {here}")
        why = f"does nothing, nothing is balanced: the bounds of {ann} are its thresholds; leave it out"
        assert f"{idle.split()[0]} {why}" in line
    run_here(SNN, f"--pretrained_ann {ann} {own} --calibrate --balance_images 9 --test_only --run_name calibrated {here}")
    assert "becomes a bias" in refused(SNN, f"--pretrained_ann {ann} {own} --no-bias --run_name v {here}")
    assert "choose a membrane read-out" in refused(SNN, f"--pretrained_ann {ann} {own} --readout spike_count --run_name v {here}")


def test_a_neuron_sends_what_qcfs_says_of_its_drive_by_hand():
    """In T = L steps of a constant drive, membranes beginning at half the threshold, spikes / T theta is the ANN's value, exactly
    where floats are exact."""
    theta, levels = 2.0, 8
    own = {"plan": [[2], []], "fc_layers": 0, "image_shape": (1, 8, 9), "kernel_size": 1}
    ann = VGG_wFeedback(**own, activation_ann="qcfs", qcfs_levels=levels).eval()
    state = ann.state_dict() | {"features.0.weight": torch.tensor([3.0, -1.0]).view(2, 1, 1, 1)}
    state["features.1.bound"] = torch.tensor(theta)
    ann.load_state_dict(state)
    snn = VGG_SNN_STDB_wFeedback(
        **own, update="immediate", encoding="direct", timesteps=levels, initial_potential=0.5, default_threshold=3.0
    ).eval()
    snn.load_state_dict(bounds_as_thresholds(state)[0], strict=False)
    fit_thresholds(snn)
    assert snn.thresholds == [theta]  # the first layer's drive is the ANN's
    x = torch.linspace(0, 1, 72).mul(64).round().div(64).reshape(1, 1, 8, 9)
    x[(3 * x * levels / theta + 0.5) % 1 == 0] += 1 / 128  # on a step's edge: QCFS counts it, a neuron at its threshold does not
    spikes = []
    snn.features[1].register_forward_hook(lambda module, given, output: spikes.append(output[0]))
    snn(x)
    rate = torch.cat(spikes).mean(0, keepdim=True)
    assert torch.equal(rate * theta, ann.features[:2](x))
    assert rate.unique().tolist() == [step / levels for step in range(levels + 1)]


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("activation", ["relu", "qcfs"])
@torch.no_grad()
def test_with_biases_a_long_run_sends_what_the_ann_computes(activation, interval):
    """Batch norms folded, thresholds balanced and scaled or taken from bounds: every layer's rate, in its unit, is the ANN's
    activation, and so are outputs and prediction."""
    torch.manual_seed(0)
    own = {"plan": [[6, "D", 8, "A", 8], ["U", 6, "U", "in"]], "fc_width": 16, "image_shape": (1, 12, 12)}
    ann = VGG_wFeedback(**own, norm="batch", activation_ann=activation, qcfs_levels=0, init="kaiming").eval()
    for module in ann.modules():
        if isinstance(module, BatchNorm):
            for values, low in (
                (module.weight, 0.5),
                (module.running_var, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
            ):
                values.uniform_(low, low + 1)
            if activation == "relu":  # in the decoder, too, whose nonlinearity leaks
                module.nonlinearity = torch.nn.ReLU()
        if isinstance(module, QCFS):
            module.bound.uniform_(0.7, 1.2)
    snn = VGG_SNN_STDB_wFeedback(
        **own, bias=True, update="immediate", encoding="direct", timesteps=900, initial_potential=0.5, readout="membrane_linear",
        feedback_interval=interval,
    ).eval()  # fmt: skip
    state, has_bounds = bounds_as_thresholds(folded_in(ann.state_dict()))
    lost, extra = snn.load_state_dict(state, strict=False)
    assert not extra and all(name.endswith((".leak", ".threshold")[: 2 - has_bounds]) for name in lost)
    x, biases, values, spikes = images(3, (1, 12, 12)), biases_of(snn), {}, {}
    if has_bounds:
        fit_thresholds(snn)
    else:
        balance_thresholds(snn, x, lambda t: x, 60)
        scale_thresholds(snn, 1.1)
    fit_biases(snn, biases)
    for name, module in ann.named_modules():
        if isinstance(module, BatchNorm):
            module.register_forward_hook(lambda _, given, output, name=name: values.update({name: output}))
    for name, module in snn.neurons().items():
        spikes[name] = 0
        module.register_forward_hook(
            lambda _, given, output, name=name: spikes.update({name: spikes[name] + output[0].unflatten(0, (-1, 3)).sum(0)})
        )
    expected, found, runs = ann(x), snn(x), {"generate": 900 // interval}
    scale = {connection.target: unit for connection, unit in units(snn)}
    for node, (name, neuron) in enumerate(snn.neurons().items(), 1):
        rate, top = spikes[name] / runs.get(name.split(".")[0], 900), values[name].max()
        assert rate.any()
        torch.testing.assert_close(rate * scale[node] * neuron.threshold, values[name], rtol=0, atol=0.03 * top.item())
    for sent, node, steps, wanted in (
        (found.logits, snn.wiring.output, 900, expected.logits),
        (found.predictions[-1], snn.wiring.decoded, 900 // interval, expected.predictions[-1].logit()),
    ):
        torch.testing.assert_close(sent / steps * scale[node], wanted, rtol=0, atol=0.05 * wanted.abs().max().item())


def drives_of(model, x):
    """Name of a layer -> its drives at all steps, (T B, ...): layer by layer, and in a run."""
    seen, run = {}, {}

    def note(name, linear, neuron, drive, steps):
        seen[name] = torch.cat([drive(t) for t in range(steps)])
        return spikes_of(neuron, drive, steps)

    layer_by_layer(model, x, lambda t: x, model.timesteps, note)
    for name, neuron in model.neurons().items():
        neuron.register_forward_hook(lambda _, given, out, name=name: run.setdefault(name, []).append(given[0]))
    model(x)
    return seen, {name: torch.cat(drives) for name, drives in run.items()}


@pytest.mark.parametrize("interval", [1, 2])
def test_layer_by_layer_each_layer_gets_what_it_gets_in_a_run(interval):
    """Pools that count what they have seen, a fork, a decoder that runs at every second step."""
    torch.manual_seed(0)
    plan = [[4, "M", 6, "fork", "M", 6, "A"], ["U", 5, "in"]]
    model = VGG_SNN_STDB_wFeedback(
        plan=plan, image_shape=(1, 9, 12), fc_layers=1, fc_width=8, timesteps=6, update="immediate", encoding="direct", bias=True,
        initial_potential=0.5, max_pool="count", default_threshold=0.3, readout="membrane_linear", feedback_interval=interval,
    ).eval()  # fmt: skip
    seen, run = drives_of(model, images(3, (1, 9, 12)))
    assert seen.keys() == run.keys() == model.neurons().keys()
    for name, drives in run.items():
        torch.testing.assert_close(seen[name], drives)
        assert len(torch.unique(seen[name].unflatten(0, (-1, 3)), dim=0)) > 1 or name == "features.1"  # steps differ


@torch.no_grad()
def test_layer_by_layer_a_drive_without_spikes_has_its_places():
    """A layer that fires from its bias, behind one that is silent in the first steps."""
    torch.manual_seed(0)
    own = {"plan": [[4, 6, 6, "D"], []], "image_shape": (1, 8, 8), "fc_layers": 0, "timesteps": 6, "encoding": "direct"}
    model = VGG_SNN_STDB_wFeedback(**own, update="immediate", bias=True, default_threshold=0.4).eval()
    model.features[0].weight.zero_()
    model.features[0].bias.fill_(0.15)
    model.features[3].bias.copy_(torch.linspace(0, 0.9, 6))
    seen, run = drives_of(model, images(3, (1, 8, 8)))
    for name in model.neurons():
        torch.testing.assert_close(seen[name], run[name])


@torch.no_grad()
def test_calibrated_biases_give_each_channel_the_rate_of_the_ann():
    torch.manual_seed(0)
    own = {"plan": [[6, "M", 8, "M", 8, "A"], []], "fc_layers": 1, "fc_width": 16, "image_shape": (1, 12, 12)}
    ann = VGG_wFeedback(**own, norm="batch", activation_ann="qcfs", init="kaiming").train()
    x = images(16, (1, 12, 12))
    for _ in range(20):
        ann(x, seed=0)
    ann.eval()
    snn = VGG_SNN_STDB_wFeedback(
        **own, bias=True, update="immediate", encoding="direct", timesteps=4, initial_potential=0.5, max_pool="count"
    ).eval()
    snn.load_state_dict(bounds_as_thresholds(folded_in(ann.state_dict()))[0], strict=False)
    biases, values, sent, said = biases_of(snn), {}, {}, []
    fit_thresholds(snn)
    fit_biases(snn, biases)
    calibrate_biases(snn, ann, x, lambda t: x, lambda *one: said.append(one))
    for name, module in ann.named_modules():
        if name in snn.neurons():
            module.register_forward_hook(lambda _, given, output, name=name: values.update({name: output}))
    for name, neuron in snn.neurons().items():
        neuron.register_forward_hook(lambda _, given, output, name=name: sent.setdefault(name, []).append(output[0]))
    ann(x), snn(x)
    assert [name for name, *_ in said] == list(snn.neurons())
    scale = {connection.target: unit for connection, unit in units(snn)}
    for node, (name, before, after) in enumerate(said, 1):
        wanted = channel_means(values[name]) / (scale[node] * snn.neurons()[name].threshold)
        off = (channel_means(torch.cat(sent[name])) - wanted).square().mean().sqrt().item()
        assert off == pytest.approx(after, abs=1e-6)
        assert after < before / 3 or (name == "features.1" and before < 1e-6)  # of a constant drive the rate is exact
    assert all(name in values for name in snn.neurons())


@pytest.mark.parametrize(
    ("steps", "rate", "bias", "off"),
    [
        (4, 0.5, 3.0, 0.0),  # off by 0.5, so 1.5 * 0.5 * 4 is added: V' = 3, 6, 5, 4, which is 2 spikes in 4 steps
        (1, 0.3, 0.0, 0.3),  # of rate 0 or 1: thrice 1.8 is added, it fires, 4.2 is taken off, …; after the 16th round it fires
    ],
)
@torch.no_grad()
def test_a_bias_is_shifted_in_thresholds_and_the_best_round_counts(steps, rate, bias, off):
    """One neuron of threshold 4 that gets nothing but its bias, from an ANN's that has this rate."""
    own = {"plan": [[1], []], "image_shape": (1, 1, 1), "kernel_size": 1, "fc_layers": 0}
    ann, snn = VGG_wFeedback(**own).eval(), VGG_SNN_STDB_wFeedback(
        **own, bias=True, update="immediate", encoding="direct", timesteps=steps, default_threshold=4.0
    ).eval()  # fmt: skip
    x, said = torch.ones(1, 1, 1, 1), []
    ann.features[0].weight.fill_(4 * rate)
    snn.features[0].weight.zero_()
    calibrate_biases(snn, ann, x, lambda t: x, lambda *one: said.append(one))
    assert said == [("features.1", pytest.approx(rate), pytest.approx(off))]
    assert snn.features[0].bias.item() == pytest.approx(bias)


def test_calibrating_says_what_it_needs(trained, tmp_path):
    here = f"--pretrained_ann {trained.ann} {SPIKING} --timesteps 3 --calibrate --output_dir {tmp_path}"
    assert "leave one of the two out" in refused(SNN, here, "--no-bias")
    assert "wants --update immediate" in refused(SNN, here, "--update delayed")
    assert "nothing is converted" in refused(SNN, f"--calibrate {DATA} --epochs 1 --update immediate --output_dir {tmp_path}")
    run_here(ANN, f"{TINY} --timesteps 2 --run_name passes --output_dir {tmp_path}")
    passes = f"--pretrained_ann {tmp_path}/trained_models/ann/passes.pth"
    assert "wants an ANN of one pass" in refused(SNN, here, passes)
    _, said = run_here(SNN, here, "--test_only --run_name x")
    assert "calibrating biases: " in said and "features.1: mean rates of its channels off by " in said


def test_a_second_conversion_does_not_begin_from_the_biases_of_the_first(trained):
    words = split([f"--pretrained_ann {trained.ann} {SPIKING} --timesteps 3 --calibrate"])
    args, start = resolve_snn(snn_wFeedback.build_parser().parse_args(words))
    said = SimpleNamespace(say=lambda line: None, place=SimpleNamespace(files=trained.folder))
    model, train = new_snn(args), random_set()
    found = []
    for _ in range(2):
        start_snn(model, start, train, args, said)
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    assert any(value.any() for name, value in found[0].items() if name.endswith(".bias"))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize(
    ("call", "said"),
    [(3, "balancing thresholds, 2 of "), (7 + 17 + 2, "calibrating biases, 1 of 7 layers done; nothing of that is kept")],
)
def test_a_signal_in_a_conversion_says_what_was_done(trained, tmp_path, monkeypatch, capsys, call, said):
    real, calls = harness.building.conversion.spikes_of, []

    def spikes_of(*given):
        calls.append(given)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(harness.building.conversion, "spikes_of", spikes_of)
    command = f"--pretrained_ann {trained.ann} {SPIKING} --calibrate --output_dir {tmp_path}"
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: run_here(SNN, command))
    assert stop.value.code == 128 + signal.SIGTERM
    line = capsys.readouterr().err
    assert f"interrupted while {said}" in line and line.count("\n") == 1
    before = digests(tmp_path)
    run_here(SNN, command)  # begins anew
    assert len(digests(tmp_path)) > len(before)
