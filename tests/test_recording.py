"""What `record` gives: spikes and membrane potentials as worked out by hand, the same of both engines."""

import numpy as np
import pytest
import torch
from conftest import ANALYSIS, REPOSITORY, build, inputs, run_undrawn
from PIL import Image

from harness.drawing.raster import some_of
from self_models import ModelError, load, load_data
from self_models.kernel.engine import EventEngine
from self_models.running.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

ENGINES = {"dense": lambda model: model, "event": EventEngine}


def everything(model):
    """A record of all that there is."""
    return {"input": "spikes", **dict.fromkeys(model.neurons(), ("spikes", "membrane")), "output": "membrane"}


def chain(update, timesteps):
    """One pixel -> 0.75 -> neuron -> 2 -> neuron -> 3 -> neuron -> (1, -1), thresholds 1, leak 0.5."""
    model = VGG_SNN_STDB_wFeedback(
        plan=[[1], []], image_shape=(1, 1, 1), kernel_size=1, fc_width=1, labels=2, leak=0.5, update=update, encoding="direct",
        timesteps=timesteps,
    ).eval()  # fmt: skip
    for layer, values in zip(("features.0", "classifier.0", "classifier.3", "classifier.6"), (0.75, 2, 3, [1, -1]), strict=True):
        weight = model.get_submodule(layer).weight
        weight.data = torch.tensor(values, dtype=torch.float32).reshape(weight.shape)
    return model


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("update", "traces"),
    [
        # V' = 0.75: none; V' = 0.375 + 0.75 = 1.125 spikes and leaves 0.125, and all behind it at once: 2 leaves 1, 3 leaves 2
        ("immediate", {"features.1": ([0, 1], [0.75, 0.125]), "classifier.1": ([0, 1], [0, 1]), "classifier.4": ([0, 1], [0, 2]),
                       "output": ([], [0, 1])}),
        # V = 0.75, 1.125: spikes a step later, 0.5625 + 0.75 - 1; it reaches the next one then, which spikes in its turn and
        # leaves 0.5 * 2 - 1, while the first one has not enough: 0.15625 + 0.75
        ("delayed", {"features.1": ([0, 0, 1, 0], [0.75, 1.125, 0.3125, 0.90625]), "classifier.1": ([0, 0, 0, 1], [0, 0, 2, 0]),
                     "classifier.4": ([0, 0, 0, 0], [0, 0, 0, 3]), "output": ([], [0, 0, 0, 0])}),
    ],
)  # fmt: skip
def test_by_hand(update, traces, engine):
    model = chain(update, len(traces["features.1"][0]))
    recorded = ENGINES[engine](model)(torch.ones(1, 1, 1, 1), record=everything(model)).recorded
    assert recorded["input"]["spikes"].all() and list(recorded) == ["input", *traces]
    for name, (spikes, membrane) in traces.items():
        assert recorded[name]["membrane"][:, 0, ..., 0].flatten().tolist() == membrane, name
        assert not spikes or recorded[name]["spikes"].flatten().tolist() == [bool(spike) for spike in spikes], name


@torch.no_grad()
@pytest.mark.parametrize("engine", ENGINES)
def test_chosen_neurons_are_those_of_the_whole(engine):
    model = build(leak=0.5)
    (x, uniforms), run = inputs(model), ENGINES[engine](model)
    whole = run(x, uniforms, record=everything(model)).recorded
    chosen = {"input": ("spikes", [300, 7]), "features.1": ("membrane", torch.tensor([9, 400, 1])), "output": ("membrane", [2])}
    part = run(x, uniforms, frames=False, record=chosen).recorded
    assert {name: list(of_kind) for name, of_kind in part.items()} == {name: [kind] for name, (kind, _) in chosen.items()}
    for name, (kind, neurons) in chosen.items():
        assert torch.equal(part[name][kind], whole[name][kind].flatten(2)[..., list(neurons)]), name


def test_membranes_carry_gradients_in_training():
    """In segments, whose steps are computed again, as in one piece."""
    model = build(timesteps=6).train()
    x, uniforms = inputs(model)
    gradients = []
    for segments in (0, 3):
        model.set_bptt_segments(segments)
        model.zero_grad()
        torch.manual_seed(0)
        recorded = model(x, uniforms, seed=0, record={"features.1": ("membrane", "spikes")}).recorded["features.1"]
        recorded["membrane"].sum().backward()
        gradients.append(model.features[0].weight.grad.clone())
    assert gradients[0].abs().sum() > 0 and torch.allclose(*gradients)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_recorded_is_said(engine):
    model = build()
    run, (x, _) = ENGINES[engine](model), inputs(model)
    for record, words in (
        ("features.1", "record: give a dict"),
        ({"feature.1": "spikes"}, r"no layer 'feature.1': did you mean features.1\? choose from input, .*, output"),
        ({"features.1": "voltage"}, "features.1 has no 'voltage': choose from spikes, membrane"),
        ({"input": "membrane"}, "input has no 'membrane': choose from spikes"),
        ({"output": ("spikes",)}, "output has no 'spikes': choose from membrane"),
        ({"features.1": [0, 1]}, r"ask for 'spikes', or for neurons 0 and 5 \('spikes', \[0, 5\]\), not for \[0, 1\]"),
        ({"classifier.1": ("spikes", [24])}, "neurons of classifier.1 are a list of numbers from 0 to 23, each once"),
        ({"classifier.1": ("spikes", [1, 1])}, "each once"),
        ({"classifier.1": ("spikes", [0.5])}, "each once"),
        ({"classifier.1": ("spikes", 3)}, "each once"),
    ):
        with pytest.raises(ModelError, match=words):
            run(x, record=record)


@torch.no_grad()
def test_the_raster_is_what_record_gives(tmp_path):
    """Of a network and test image that stop early: silent from then on, and the arrays those of one's own run."""
    flags = f"--limit_test 8 --chart_images 1 --index 5 --engine dense --rule confidence --gap_bound 4 --output_dir {tmp_path}"
    _, printed = run_undrawn(ANALYSIS, f"--preset quick_feedback --raster 6 --seed 0 {flags}")
    picture, file = (tmp_path / f"trained_models/snn/quick_feedback_posthoc_analysis_raster.{end}" for end in ("png", "npz"))
    assert f"wrote {picture}" in printed and f"wrote {file}" in printed and min(Image.open(picture).size) > 600
    arrays = dict(np.load(file))
    snn = load(REPOSITORY / "trained_models/snn/quick_feedback.pth", engine="dense", rule="confidence", gap_bound=4)
    test = load_data("MNIST", limit_test=8)[2].batch(torch.tensor([5]))
    neurons = {name: arrays[f"{name}.neurons"] for name in snn.wiring.names}
    record = {name: ("spikes", *["membrane"] * (name != "input"), numbers) for name, numbers in neurons.items()}
    output = snn(test.images, draws=Draws(0, EVALUATION, test.index), record=record | {"output": "membrane"})
    kept = {f"{name}.{kind}": part[:, 0].numpy() for name, parts in output.recorded.items() for kind, part in parts.items()}
    assert arrays.keys() - kept.keys() == {f"{name}.{what}" for name in snn.neurons() for what in ("neurons", "threshold")} | {
        "input.neurons"
    }
    for name, values in kept.items():
        assert np.array_equal(arrays[name], values), name
    for name, total in output.spikes.items():
        assert arrays[f"{name}.spikes"].any(0).all() and len(neurons[name]) == 6 <= total.item()  # those that spike, as many
    assert output.steps.item() < snn.timesteps and not arrays["input.spikes"][output.steps.item() :].any()


def test_neurons_of_a_raster_are_drawn_by_the_seed_among_those_that_spike():
    totals = torch.tensor([0, 3, 1, 0, 2, 1, 5])
    assert some_of(totals, 0, 9).tolist() == [6, 1, 4, 2, 5]
    assert len({tuple(some_of(totals, seed, 2).tolist()) for seed in range(20)}) > 5
    assert len(some_of(0 * totals, 0, 3)) == 3
