"""A trained network in other people's programs, and theirs here: spike for spike, on weights whose sums are never rounded."""

import re
import sys

import pytest
import torch
from conftest import FORK, GRID, ONCE, PLAN, REPOSITORY, build, digests, images, refused, run_here

from benchmarks.shared import watch
from harness.exporting.layers import conventions, forward_layers
from harness.exporting.nir_file import nir_bytes
from harness.runs.saving import save_checkpoint
from self_models import first_difference, load
from self_models.running.draws import draws_for
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

nir = pytest.importorskip("nir", reason="pip install nir")
FEEDBACK = REPOSITORY / "trained_models/snn/snn_feedback.pth"
OPEN = {"cls": VGG_SNN_STDB_wFeedback}  # sees its input, whatever is predicted
BASELINE, POOLING, ODD = [[4, "D", 6, 6, "D"], []], [[4, "A", 6, 5, "A"], []], (1, 9, 14)
LOW = {"default_threshold": 0.0625}  # else the second layer of pooled spikes is silent


@pytest.fixture
def exported(tmp_path):
    """export(to, **settings) of a network on a grid: the model with its gate open, and the path of the file."""

    def export(to, **settings):
        model = build(**settings)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.uniform_(-0.1, 0.2).mul_(GRID).round_().div_(GRID)
        save_checkpoint(tmp_path / "net.pth", model)
        run_here("export", tmp_path / "net.pth", "--overwrite --to", to)
        return load(tmp_path / "net.pth", engine="dense"), tmp_path / ("net.nir" if to == "nir" else "net_torch.pt")

    return export


@torch.no_grad()
def here(model):
    """layer -> spikes of each neuron over all steps (B, ...), logits, and what the input sends (T, B, C, H, W). Gate open."""
    x = images(3, model.image_shape)
    draws = draws_for(x, seed=5)
    neurons = {name: module for name, module in model.neurons().items() if not name.startswith("generate")}
    counts = watch(neurons, lambda output: output[0].unflatten(0, (-1, len(x))).sum(0))
    logits = model(x, draws=draws).logits
    return counts, logits, model.encoding.send(x, draws.uniforms(model.timesteps, model.image_shape))


@torch.no_grad()
def on_the_page(title, path, signals, names):
    """The same of a file that is read by the lines of the page that begin with this title. names: layer -> module there."""
    page = (REPOSITORY / "docs/how_to/own_model.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"^```python\n(# {title}\n.*?)^```$", page, re.M | re.S)
    before, after = re.sub('"trained_models.*?"', repr(str(path)), code).split("logits = ")
    space = {"input_spikes": signals}
    exec(before, space)
    by_step = signals.shape[1::-1] if title == "sinabs" else (1, signals.shape[1])  # time runs fastest there
    neurons = {name: space["network"].get_submodule(module) for name, module in names.items()}
    counts = watch(neurons, lambda spikes: spikes.unflatten(0, by_step).sum(int(title == "sinabs")))
    exec("logits = " + after, space)
    return counts, space["logits"]


def same(found, ours, logits):
    """Every neuron's spikes and all logits are the same, and no layer was silent."""
    counts, output = found
    assert list(ours) == sorted(counts, key=list(ours).index)
    for name, count in ours.items():
        assert count.sum() > 0 and torch.equal(counts[name].view_as(count), count), name
    assert torch.equal(output, logits)


BIASED = {"plan": BASELINE, "bias": True}
PLANS = [{}, {"plan": BASELINE}, {"plan": FORK}, BIASED, {"image_shape": ODD}, {"image_shape": (3, 12, 10), "kernel_size": 5}]
READERS = {"sinabs": PLANS, "snntorch": [*PLANS, {"plan": POOLING, **LOW}]}  # one knows AvgPool2d


@pytest.mark.parametrize(
    ("package", "settings"), [(name, settings) for name, plans in READERS.items() for settings in plans], ids=str
)
def test_a_simulator_that_reads_the_nir_file_sends_the_same_spikes(exported, package, settings):
    """Its neurons set to ours; strided layers between spiking layers, a decoder left out, the input's sizes odd."""
    pytest.importorskip(package, reason=f"{package} is not installed, see docs/how_to/own_model.md")
    model, path = exported("nir", **OPEN, **settings)
    ours, logits, signals = here(model)
    same(on_the_page(package, path, signals, in_nir(ours)), ours, logits)


def test_a_delayed_network_is_the_same_with_one_step_more_per_layer(exported):
    pytest.importorskip("snntorch")
    model, path = exported("nir", **OPEN, update="delayed", timesteps=12)
    neurons = [layer.name for layer in forward_layers(model) if layer.name in model.neurons()]
    ours, logits, signals = here(model)
    for delay, name in enumerate(neurons, 1):  # a layer's spikes of 12 steps are those of 12 - delay steps elsewhere
        counts, output = on_the_page("snntorch", path, signals[: 12 - delay], in_nir(ours))
        assert torch.equal(counts[name], ours[name]) and ours[name].sum() > 0, name
    assert torch.equal(output, logits)


def in_nir(names):
    return {name: name.replace(".", "_") for name in names}


def test_a_leak_is_read_as_it_is(exported):
    """NIR has it as a time constant; snnTorch makes the same leak of it."""
    snntorch = pytest.importorskip("snntorch")
    from snntorch.import_nir import import_from_nir

    _, path = exported("nir", **OPEN, leak=0.75)
    neurons = [module for module in import_from_nir(nir.read(path)).modules() if isinstance(module, snntorch.Leaky)]
    assert len(neurons) == 5
    for neuron in neurons:
        torch.testing.assert_close(neuron.beta.float(), torch.full_like(neuron.beta.float(), 0.75))
        assert neuron.threshold == 0.25


def test_the_nir_file_says_what_it_lacks(exported):
    _, path = exported("nir", timesteps=7)  # one that blocks
    said = nir.read(path).metadata
    assert "decoder" in said["left_out"] and "gate block" in said["left_out"] and "transposed" in said["why_left_out"]
    assert said["update"] == "immediate" and said["timesteps"] == 7 and "subtracted" in said["reset"]
    _, path = exported("nir", **OPEN, **BIASED, initial_potential=0.5)
    assert nir.read(path).metadata["initial_potential"] == 0.5
    free, *_ = nir_bytes(forward_layers(baseline := build(VGG_SNN_STDB_wFeedback, plan=BASELINE)), conventions(baseline))
    assert b"nothing" in free
    phased = build(VGG_SNN_STDB_wFeedback, plan=BASELINE, update="phased")
    assert "update phased" in nir_bytes(forward_layers(phased), conventions(phased))[-1]
    assert conventions(build(VGG_SNN_STDB_wFeedback, plan=BASELINE, **ONCE))["left_out"] == "the gate once"


@pytest.mark.parametrize(
    "settings",
    [
        {"leak": 0.5},
        {"plan": [[4, "M", 6, "M"], []], "bias": True, "initial_potential": 0.5, "fc_layers": 1},
        {"plan": [[4, "M", 6, "M"], []], "max_pool": "count"},
        {"plan": [[4, "M", 6, "M"], []], "max_pool": "count", "update": "phased", "bias": True, "initial_potential": 0.5},
    ],
    ids=str,
)
def test_the_pages_pytorch_runs_as_it_stands_and_sends_the_same_spikes(exported, settings):
    """Loaded without executing code, rebuilt by the few lines of docs/how_to/own_model.md."""
    model, path = exported("torch", **OPEN, **settings)
    ours, logits, signals = here(model)
    names = torch.load(path, weights_only=True)["names"]
    same(on_the_page("rebuild", path, signals, {name: str(names.index(name)) for name in ours}), ours, logits)


def test_export_tells_and_replaces_nothing_unasked(tmp_path):
    path, flags = tmp_path / "net.nir", f"--to nir --output {tmp_path}/net.nir"
    _, said = run_here("export", FEEDBACK, flags)
    assert str(path) in said and "left out: the decoder" in said and "subtracted" in said
    before = digests(tmp_path)
    assert "--overwrite" in refused("export", FEEDBACK, flags) and digests(tmp_path) == before
    path.write_bytes(b"old")
    run_here("export", FEEDBACK, flags, "--overwrite")
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("{pooled} --to nir", "no maximum pool, which features.2 is"),
        ("{ann} --to torch", "holds an ANN"),
        ("none.pth --to torch", "no such checkpoint"),
        ("{ann} --to torch --overwrite --output {ann}", "checkpoint itself"),
        (f"{FEEDBACK} --to torch --output no/such/folder.pt", "cannot write"),
        (f"{FEEDBACK}", "--to"),
        (f"{FEEDBACK} --to nir --output {{folder}}/net.nir", "pip install nir"),
    ],
)
def test_export_refuses_what_it_cannot_do(tmp_path, monkeypatch, flags, words):
    ann, pooled = tmp_path / "ann.pth", tmp_path / "pooled.pth"
    save_checkpoint(ann, VGG_wFeedback(plan=PLAN, fc_width=8))
    save_checkpoint(pooled, VGG_SNN_STDB_wFeedback(plan=[[4, "M"], []], fc_width=8))
    before = digests(tmp_path)
    if "pip" in words:
        monkeypatch.setitem(sys.modules, "nir", None)  # as if it were not installed
    assert words in refused("export", flags.format(ann=ann, pooled=pooled, folder=tmp_path))
    assert digests(tmp_path) == before


@torch.no_grad()
def test_half_is_the_whole_network_with_rounded_weights(tmp_path):
    half = tmp_path / "half.pth"
    _, said = run_here("export", FEEDBACK, "--to half --output", half)
    assert "evaluate it anew" in said
    ours, rounded = load(FEEDBACK, "dense", weights="float16"), load(half, "dense")
    assert rounded.settings == ours.settings and rounded.thresholds == load(FEEDBACK).thresholds
    assert first_difference(ours, rounded, images(2), tolerance=0) is None
    for value in rounded.parameters():
        assert value.dtype == torch.float32 and (value.dim() < 2 or torch.equal(value, value.half().float()))
    assert half.stat().st_size < 0.6 * FEEDBACK.stat().st_size
