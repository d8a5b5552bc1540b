"""What a run shows: record= by hand; and where two runs part."""

import numpy as np
import pytest
import torch
from conftest import FORK, REPOSITORY, build, inputs, run_undrawn
from PIL import Image

from self_models import ModelError, first_difference, load, load_data
from self_models.engines.event.engine import EventEngine
from self_models.guests.quantize import quantize
from self_models.runtime.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

QUICK = REPOSITORY / "trained_models/snn/quick_feedback.pth"


def one_neuron(threshold=1.0, **settings):
    """An image of one pixel, a neuron that gets 0.75 of it in each step, and one output."""
    common = {
        "plan": [[1], []],
        "image_shape": (1, 1, 1),
        "kernel_size": 1,
        "fc_layers": 0,
        "labels": 2,
        "encoding": "direct",
    }
    model = build(epsilon=0.0, timesteps=4, default_threshold=threshold, **common, **settings)
    model.features[0].weight.data.fill_(0.75)
    return model


@pytest.mark.parametrize("update", ["immediate", "delayed"])
def test_by_hand(update):
    """0.75 a step at a threshold of 1 or 1.25: V' = 0.75, 1.5 spikes in both, then V' = 1.25 is above 1 and not above 1.25."""
    models, x = (
        [one_neuron(threshold, update=update) for threshold in (1.0, 1.25)],
        torch.ones(3, 1, 1, 1),
    )
    x[0] = 0
    found = first_difference(*models, x)
    step, after = (2, (0.25, 1.0)) if update == "immediate" else (3, (1.0, 1.75))
    assert (found.image, found.step, found.layer, found.neuron) == (1, step, "features.1", 0)
    assert (found.a, found.b, found.potentials, found.thresholds) == (1, 0, after, (1.0, 1.25))
    said = f"potentials {after[0]:g} and {after[1]:g}, thresholds 1 and 1.25"
    assert str(found) == f"image 1, timestep {step}, features.1, neuron 0: 1 and 0; {said}"
    assert first_difference(models[0], models[0], x, tolerance=0) is None


ENGINES = {
    "dense": lambda model: model,
    "reference": lambda model: setattr(model, "batched", False) or model,
    "event": EventEngine,
    "int8": quantize,
}


@pytest.mark.parametrize("other", ENGINES)
@pytest.mark.parametrize("one", ENGINES)
def test_a_weight_changed_by_hand_is_found_and_named(one, other):
    """Between any two ways to run a network: the neuron whose weights they are, and potentials that its weights explain."""
    a, b = (ENGINES[way](build(plan=FORK, epsilon=0.0)) for way in (one, other))
    x, _ = inputs(build(plan=FORK), 8)
    assert first_difference(a, b, x) is None
    with torch.no_grad():
        getattr(b, "model", b).classifier[3].weight[5].neg_()
    found = first_difference(a, b, x)
    assert (found.layer, found.neuron) == ("classifier.4", 5) and found.a != found.b
    v, others = (
        value / theta for value, theta in zip(found.potentials, found.thresholds, strict=True)
    )
    assert v != others and found.thresholds == (
        getattr(a, "model", a).thresholds[-1],
        getattr(b, "model", b).thresholds[-1],
    )
    assert (found.step, found.image) == first_in_counts(a, b, x)


def first_in_counts(a, b, x):
    """(step, image) of the first image whose spikes of classifier.4 differ, from the outputs themselves."""
    counts = [one(x, seed=0).spikes_by_step["classifier.4"] for one in (a, b)]
    image = (counts[0] != counts[1]).any(0).nonzero()[0].item()
    return (counts[0] != counts[1])[:, image].nonzero()[0].item(), image


@torch.no_grad()
def test_what_differs_beside_spikes_is_found_too():
    """In outputs that were made before: values as far as a tolerance asks, blocked pixels and early exit at once."""
    model = build(rule="never")
    x, u = inputs(model)
    output = model(x, u)
    assert (
        first_difference(output, output._replace(logits_by_step=output.logits_by_step + 1e-3))
        is None
    )
    for name, layer, at in (
        ("logits_by_step", "output", (4, 2, 7)),
        ("predictions", "prediction", (4, 2, 0, 0, 7)),
    ):
        values = getattr(output, name).clone()
        values[at] += 1e-3
        changed = output._replace(**{name: values})
        assert first_difference(output, changed, tolerance=1e-2) is None
        found = first_difference(output, changed, tolerance=0)
        assert found[:4] == (2, 4, layer, 7) and found.b - found.a == pytest.approx(1e-3, rel=1e-2)
    is_open = output.is_open.clone()
    is_open[3, 1, 0, 2, 2] ^= True
    assert first_difference(output, output._replace(is_open=is_open))[:4] == (
        1,
        3,
        "is_open",
        2 * 28 + 2,
    )
    steps = output.steps.clone()
    steps[0] = 5
    assert (
        str(first_difference(output._replace(steps=steps), output))
        == "image 0, timestep 5, running: 0 and 1"
    )
    with pytest.raises(ModelError, match="cannot be compared: they have other layers"):
        first_difference(output, build(timesteps=4)(x, u[:4]))


def everything(model):
    """A record of all that there is."""
    return {
        "input": "spikes",
        **dict.fromkeys(model.neurons(), ("spikes", "membrane")),
        "output": "membrane",
    }


def chain(update, timesteps):
    """One pixel -> 0.75 -> neuron -> 2 -> neuron -> 3 -> neuron -> (1, -1), thresholds 1, leak 0.5."""
    model = VGG_SNN_STDB_wFeedback(
        plan=[[1], []],
        image_shape=(1, 1, 1),
        kernel_size=1,
        fc_width=1,
        labels=2,
        leak=0.5,
        update=update,
        encoding="direct",
        timesteps=timesteps,
    ).eval()
    for layer, values in zip(
        ("features.0", "classifier.0", "classifier.3", "classifier.6"),
        (0.75, 2, 3, [1, -1]),
        strict=True,
    ):
        weight = model.get_submodule(layer).weight
        weight.data = torch.tensor(values, dtype=torch.float32).reshape(weight.shape)
    return model


@pytest.mark.parametrize(
    ("update", "traces"),
    [
        # V' = 0.75: none; V' = 0.375 + 0.75 = 1.125 spikes and leaves 0.125, and all behind it at once: 2 leaves 1, 3 leaves 2
        (
            "immediate",
            {
                "features.1": ([0, 1], [0.75, 0.125]),
                "classifier.1": ([0, 1], [0, 1]),
                "classifier.4": ([0, 1], [0, 2]),
                "output": ([], [0, 1]),
            },
        ),
        # V = 0.75, 1.125: spikes a step later, 0.5625 + 0.75 - 1; it reaches the next one then, which spikes in its turn and
        # leaves 0.5 * 2 - 1, while the first one has not enough: 0.15625 + 0.75
        (
            "delayed",
            {
                "features.1": ([0, 0, 1, 0], [0.75, 1.125, 0.3125, 0.90625]),
                "classifier.1": ([0, 0, 0, 1], [0, 0, 2, 0]),
                "classifier.4": ([0, 0, 0, 0], [0, 0, 0, 3]),
                "output": ([], [0, 0, 0, 0]),
            },
        ),
    ],
)
def test_records_by_hand(update, traces):
    model = chain(update, len(traces["features.1"][0]))
    recorded = model(torch.ones(1, 1, 1, 1), record=everything(model)).recorded
    assert recorded["input"]["spikes"].all() and list(recorded) == ["input", *traces]
    for name, (spikes, membrane) in traces.items():
        assert recorded[name]["membrane"][:, 0, ..., 0].flatten().tolist() == membrane, name
        assert not spikes or recorded[name]["spikes"].flatten().tolist() == [
            bool(spike) for spike in spikes
        ], name


@torch.no_grad()
def test_chosen_neurons_are_those_of_the_whole():
    model = build(leak=0.5, rule="confidence", gap_bound=0.5)  # images stop one after the other
    x, uniforms = inputs(model)
    whole = model(x, uniforms, record=everything(model)).recorded
    chosen = {
        "input": ("spikes", [300, 7]),
        "features.1": ("membrane", torch.tensor([9, 400, 1])),
        "output": ("membrane", [2]),
    }
    part = model(x, uniforms, frames=False, record=chosen).recorded
    assert {name: list(of_kind) for name, of_kind in part.items()} == {
        name: [kind] for name, (kind, _) in chosen.items()
    }
    for name, (kind, neurons) in chosen.items():
        assert torch.equal(part[name][kind], whole[name][kind].flatten(2)[..., list(neurons)]), (
            name
        )


def test_membranes_carry_gradients_in_training():
    """In segments, whose steps are computed again, as in one piece."""
    model = build(timesteps=6).train()
    x, uniforms = inputs(model)
    gradients = []
    for segments in (0, 3):
        model.set_bptt_segments(segments)
        model.zero_grad()
        torch.manual_seed(0)
        recorded = model(
            x, uniforms, seed=0, record={"features.1": ("membrane", "spikes")}
        ).recorded["features.1"]
        recorded["membrane"].sum().backward()
        gradients.append(model.features[0].weight.grad.clone())
    assert gradients[0].abs().sum() > 0 and torch.allclose(*gradients)


def test_what_cannot_be_recorded_is_said():
    model = build()
    x, _ = inputs(model)
    for record, words in (
        (
            {"feature.1": "spikes"},
            r"no layer 'feature.1': did you mean features.1\? choose from input, .*, output",
        ),
        ({"input": "membrane"}, "input has no 'membrane': choose from spikes"),
        ({"input": ("spikes", [0, 784])}, "input has neurons 0 to 783, which are chosen by whole"),
        ({"input": ("spikes", [-785])}, "input has neurons 0 to 783"),
        ({"output": ("membrane", [1.5])}, "output has neurons 0 to 9, which are chosen by whole"),
    ):
        with pytest.raises(ModelError, match=words):
            model(x, record=record)


@torch.no_grad()
def test_the_raster_is_what_record_gives(tmp_path):
    """Of a network and test image that stop early: silent from then on, and the arrays those of one's own run."""
    flags = f"--limit_test 8 --chart_images 1 --index 5 --engine dense --rule confidence --gap_bound 4 --output_dir {tmp_path}"
    run_undrawn("analysis", f"--preset quick_feedback --raster 6 --seed 0 {flags}")
    picture, file = (
        tmp_path / f"trained_models/snn/quick_feedback_posthoc_analysis_raster.{end}"
        for end in ("png", "npz")
    )
    assert min(Image.open(picture).size) > 600
    arrays, snn = dict(np.load(file)), load(QUICK, engine="dense", rule="confidence", gap_bound=4)
    test = load_data("MNIST", limit_test=8)[2].batch(torch.tensor([5]))
    neurons = {name: arrays[f"{name}.neurons"] for name in snn.layers}
    record = {
        name: ("spikes", *["membrane"] * (name != "input"), numbers)
        for name, numbers in neurons.items()
    }
    output = snn(
        test.images, draws=Draws(0, EVALUATION, test.index), record=record | {"output": "membrane"}
    )
    for name, parts in output.recorded.items():
        for kind, values in parts.items():
            assert np.array_equal(arrays[f"{name}.{kind}"], values[:, 0].numpy()), name
    for name, total in output.spikes.items():
        assert (
            arrays[f"{name}.spikes"].any(0).all() and len(neurons[name]) == 6 <= total.item()
        )  # those that spike, as many
    assert (
        output.steps.item() < snn.timesteps
        and not arrays["input.spikes"][output.steps.item() :].any()
    )
