"""What record= records, by hand; and where two runs part."""

import numpy as np
import pytest
import torch
from conftest import FORK, REPOSITORY, build, inputs, run_undrawn
from PIL import Image

from self_models import ModelError, first_difference, load, load_data
from self_models.running.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.event.engine import EventEngine
from wfeedback.event.quantize import quantize

QUICK = REPOSITORY / "trained_models/snn/quick_feedback.pth"


def one_neuron(threshold=1.0, **settings):
    """Make a network of one neuron, which gets 0.75 of its only pixel in each step."""
    model = build(
        plan=[[1], []],
        image_shape=(1, 1, 1),
        kernel_size=1,
        fc_layers=0,
        labels=2,
        encoding="direct",
        epsilon=0.0,
        timesteps=4,
        default_threshold=threshold,
        **settings,
    )
    model.features[0].weight.data.fill_(0.75)
    return model


@pytest.mark.parametrize(
    ("update", "step", "potentials"),
    [("immediate", 2, (0.25, 1.0)), ("delayed", 3, (1.0, 1.75))],
)
def test_the_first_difference_of_two_thresholds_by_hand(update, step, potentials):
    # In step 1 both have 2 * 0.75 = 1.5, a spike, which leaves 0.5 or 0.25.
    # Immediate: in step 2 low has 0.5 + 0.75 = 1.25, spikes and keeps 0.25; high has 1.
    # Delayed: the spike is sent in step 2, after which low has 1.25 and high has 1. In
    # step 3 low spikes and has 1.25 + 0.75 - 1 = 1; high has 1 + 0.75.
    low = one_neuron(1.0, update=update)
    high = one_neuron(1.25, update=update)
    shown = torch.ones(3, 1, 1, 1)
    shown[0] = 0

    found = first_difference(low, high, shown)

    assert found.image == 1
    assert found.step == step
    assert found.layer == "features.1"
    assert found.neuron == 0
    assert found.a == 1
    assert found.b == 0
    assert found.potentials == potentials
    assert found.thresholds == (1.0, 1.25)
    where = f"image 1, timestep {step}, features.1, neuron 0: 1 and 0"
    why = f"potentials {potentials[0]:g} and {potentials[1]:g}, thresholds 1 and 1.25"
    assert str(found) == f"{where}; {why}"


@pytest.mark.parametrize("update", ["immediate", "delayed"])
def test_a_network_does_not_differ_from_itself(update):
    model = one_neuron(update=update)
    shown = torch.ones(3, 1, 1, 1)
    shown[0] = 0

    assert first_difference(model, model, shown, tolerance=0) is None


def build_reference(**settings):
    """Make a network that runs as its equations are written, step by step."""
    model = build(**settings)
    model.batched = False
    return model


def build_event_engine(**settings):
    """Make a network that the event engine runs."""
    return EventEngine(build(**settings))


def build_quantized(**settings):
    """Make a network with weights of 8 bits."""
    return quantize(build(**settings))


WAYS = {
    "dense": build,
    "reference": build_reference,
    "event": build_event_engine,
    "int8": build_quantized,
}


def network_in(model):
    """Return the network that an engine runs, or the network itself."""
    return getattr(model, "model", model)


@pytest.mark.parametrize("other_way", WAYS)
@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_a_weight_changed_by_hand_is_found_and_named(way, other_way):
    # Between any two ways to run a network.
    layer = "classifier.4"
    build_a = WAYS[way]
    build_b = WAYS[other_way]
    a = build_a(plan=FORK, epsilon=0.0)
    b = build_b(plan=FORK, epsilon=0.0)
    shown, _ = inputs(build(plan=FORK), 4)
    assert first_difference(a, b, shown) is None

    network_in(b).classifier[3].weight[5].neg_()
    found = first_difference(a, b, shown)

    # It is the neuron whose weights they are, with potentials that its weights explain.
    assert found.layer == layer
    assert found.neuron == 5
    assert found.a != found.b
    assert found.thresholds == (network_in(a).thresholds[-1], network_in(b).thresholds[-1])
    potential_a, potential_b = found.potentials
    threshold_a, threshold_b = found.thresholds
    assert potential_a / threshold_a != potential_b / threshold_b

    # The outputs themselves differ first in that image and step.
    spikes_a = a(shown, seed=0).spikes_by_step[layer]
    spikes_b = b(shown, seed=0).spikes_by_step[layer]
    differs = spikes_a != spikes_b
    first_image = differs.any(0).nonzero()[0].item()
    first_step = differs[:, first_image].nonzero()[0].item()
    assert found.image == first_image
    assert found.step == first_step


@pytest.fixture
def output():
    """Run a network that blocks, without early exit; return its output."""
    model = build(rule="never")
    shown, uniforms = inputs(model)
    with torch.no_grad():
        return model(shown, uniforms)


@pytest.mark.parametrize(
    ("name", "layer", "place"),
    [
        ("logits_by_step", "output", (4, 2, 7)),
        ("predictions", "prediction", (4, 2, 0, 0, 7)),
    ],
)
def test_values_differ_as_far_as_the_tolerance_asks(output, name, layer, place):
    values = getattr(output, name).clone()
    values[place] += 1e-3
    changed = output._replace(**{name: values})

    assert first_difference(output, changed, tolerance=1e-2) is None
    found = first_difference(output, changed, tolerance=0)

    assert found.image == 2
    assert found.step == 4
    assert found.layer == layer
    assert found.neuron == 7
    assert found.b - found.a == pytest.approx(1e-3, rel=1e-2)


def test_values_do_not_count_where_no_tolerance_is_given(output):
    changed = output._replace(logits_by_step=output.logits_by_step + 1e-3)

    assert first_difference(output, changed) is None


def test_a_pixel_that_is_blocked_in_one_run_alone_is_found(output):
    is_open = output.is_open.clone()
    is_open[3, 1, 0, 2, 2] ^= True

    found = first_difference(output, output._replace(is_open=is_open))

    assert found.image == 1
    assert found.step == 3
    assert found.layer == "is_open"
    assert found.neuron == 2 * 28 + 2  # row 2, column 2 of 28 x 28 pixels


def test_an_early_exit_of_one_run_alone_is_found(output):
    steps = output.steps.clone()
    steps[0] = 5

    found = first_difference(output._replace(steps=steps), output)

    assert str(found) == "image 0, timestep 5, running: 0 and 1"


def test_runs_of_networks_with_other_layers_are_refused(output):
    other = build(timesteps=4)
    shown, uniforms = inputs(other)

    with pytest.raises(ModelError, match="cannot be compared: they have other layers"):
        first_difference(output, other(shown, uniforms))


def record_everything(model):
    """Return a record of all that there is."""
    record = {"input": "spikes"}
    for name in model.neurons():
        record[name] = ("spikes", "membrane")
    record["output"] = "membrane"
    return record


def chain(update, timesteps):
    """Make a chain: a pixel, 0.75, a neuron, 2, a neuron, 3, a neuron, and 1 and -1."""
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
    weights = {
        "features.0": [0.75],
        "classifier.0": [2.0],
        "classifier.3": [3.0],
        "classifier.6": [1.0, -1.0],
    }
    for layer, values in weights.items():
        weight = model.get_submodule(layer).weight
        weight.data = torch.tensor(values).reshape(weight.shape)
    return model


def check_recorded(update, timesteps, spikes, membranes):
    """Check what a chain records of its only image.

    Parameters
    ----------
    update : str
        When a neuron spikes.
    timesteps : int
        Number of timesteps.
    spikes, membranes : dict of {str: list}
        For each layer, the spikes and the potentials after each timestep.
    """
    model = chain(update, timesteps)
    record = record_everything(model)

    recorded = model(torch.ones(1, 1, 1, 1), record=record).recorded

    assert list(recorded) == list(record)
    assert recorded["input"]["spikes"].all()
    for name, values in spikes.items():
        found = recorded[name]["spikes"].flatten().tolist()
        assert found == [value == 1 for value in values], name
    for name, values in membranes.items():
        first_neuron = recorded[name]["membrane"][:, 0, ..., 0]
        assert first_neuron.flatten().tolist() == values, name


def test_what_neurons_with_immediate_update_record_by_hand():
    # Thresholds are 1, the leak is 0.5. Step 1: 0.75, no spike. Step 2:
    # 0.5 * 0.75 + 0.75 = 1.125 spikes and leaves 0.125. All behind it spike at once: 2
    # leaves 1, 3 leaves 2, and the output gets 1.
    check_recorded(
        "immediate",
        timesteps=2,
        spikes={"features.1": [0, 1], "classifier.1": [0, 1], "classifier.4": [0, 1]},
        membranes={
            "features.1": [0.75, 0.125],
            "classifier.1": [0, 1],
            "classifier.4": [0, 2],
            "output": [0, 1],
        },
    )


def test_what_neurons_with_delayed_update_record_by_hand():
    # The first neuron has 0.75 and 1.125, spikes a step later, and has 0.5 * 1.125 +
    # 0.75 - 1 = 0.3125 then. This spike reaches the next one, which has 2, spikes in
    # step 4, and has 0.5 * 2 - 1 = 0, while the first one has not enough: 0.5 * 0.3125
    # + 0.75 = 0.90625. The third one gets 3.
    check_recorded(
        "delayed",
        timesteps=4,
        spikes={
            "features.1": [0, 0, 1, 0],
            "classifier.1": [0, 0, 0, 1],
            "classifier.4": [0, 0, 0, 0],
        },
        membranes={
            "features.1": [0.75, 1.125, 0.3125, 0.90625],
            "classifier.1": [0, 0, 2, 0],
            "classifier.4": [0, 0, 0, 3],
            "output": [0, 0, 0, 0],
        },
    )


@torch.no_grad()
def test_chosen_neurons_are_those_of_the_whole():
    model = build(leak=0.5, rule="confidence", gap_bound=0.5)  # images stop one after the other
    shown, uniforms = inputs(model)
    whole = model(shown, uniforms, record=record_everything(model)).recorded
    chosen = {
        "input": ("spikes", [300, 7]),
        "features.1": ("membrane", torch.tensor([9, 400, 1])),
        "output": ("membrane", [2]),
    }

    part = model(shown, uniforms, frames=False, record=chosen).recorded

    assert list(part) == list(chosen)
    for name, (kind, neurons) in chosen.items():
        assert list(part[name]) == [kind]
        expected = whole[name][kind].flatten(2)[..., list(neurons)]
        assert torch.equal(part[name][kind], expected), name


def test_membranes_carry_the_same_gradients_with_and_without_segments():
    model = build(timesteps=6).train()
    shown, uniforms = inputs(model)

    gradients = []
    for segments in (0, 3):  # in three, the backward pass computes the timesteps again
        model.set_bptt_segments(segments)
        model.zero_grad()
        torch.manual_seed(0)
        record = {"features.1": ("membrane", "spikes")}
        recorded = model(shown, uniforms, seed=0, record=record).recorded
        recorded["features.1"]["membrane"].sum().backward()
        gradients.append(model.features[0].weight.grad.clone())

    in_one_piece, in_segments = gradients
    assert in_one_piece.abs().sum() > 0
    assert torch.allclose(in_one_piece, in_segments)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            {"feature.1": "spikes"},
            r"no layer 'feature.1': did you mean features.1\? choose from input, .*, output",
        ),
        ({"input": "membrane"}, "input has no 'membrane': choose from spikes"),
        (
            {"input": ("spikes", [0, 784])},
            "input has neurons 0 to 783, which are chosen by whole",
        ),
        ({"input": ("spikes", [-785])}, "input has neurons 0 to 783"),
        (
            {"output": ("membrane", [1.5])},
            "output has neurons 0 to 9, which are chosen by whole",
        ),
    ],
    ids=["no layer", "no membrane", "beyond the last", "before the first", "between two"],
)
def test_what_cannot_be_recorded_is_refused(record, words):
    model = build()
    shown, _ = inputs(model)

    with pytest.raises(ModelError, match=words):
        model(shown, record=record)


@torch.no_grad()
def test_the_raster_of_an_image_that_stops_early_is_what_record_gives(tmp_path):
    flags = (
        "--preset quick_feedback --raster 6 --seed 0 --limit_test 8 --chart_images 1 --index 5"
        " --engine dense --rule confidence --gap_bound 4"
    )

    run_undrawn("analysis", f"{flags} --output_dir {tmp_path}")

    picture = tmp_path / "trained_models/snn/quick_feedback_posthoc_analysis_raster.png"
    assert min(Image.open(picture).size) > 600

    # One's own run of the same image records the same arrays.
    arrays = dict(np.load(picture.with_suffix(".npz")))
    snn = load(QUICK, engine="dense", rule="confidence", gap_bound=4)
    test = load_data("MNIST", limit_test=8)[2].batch(torch.tensor([5]))
    record = {"output": "membrane"}
    for name in snn.layers:
        neurons = arrays[f"{name}.neurons"]
        assert len(neurons) == 6
        if name == "input":
            record[name] = ("spikes", neurons)
        else:
            record[name] = ("spikes", "membrane", neurons)
    output = snn(test.images, draws=Draws(0, EVALUATION, test.index), record=record)
    for name, recorded in output.recorded.items():
        for kind, values in recorded.items():
            assert np.array_equal(arrays[f"{name}.{kind}"], values[:, 0].numpy()), name

    # The chosen neurons are those that spike, and nothing does after the last timestep.
    for name, total in output.spikes.items():
        assert arrays[f"{name}.spikes"].any(0).all()
        assert total.item() >= 6
    num_steps = output.steps.item()
    assert num_steps < snn.timesteps
    assert not arrays["input.spikes"][num_steps:].any()
