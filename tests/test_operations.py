"""Spikes and operations, counted by hand, by brute force, by NeuroBench and by SpikingJelly."""

import re
import tracemalloc
from unittest.mock import Mock

import conftest as known
import pytest
import torch
from conftest import UNKNOWN
from torch import nn

from harness.measuring.difficulty import difficulty_correlations
from self_models.basics import ModelError
from self_models.counting.evaluation import evaluate
from self_models.counting.ledger import ledger
from self_models.counting.operations import OperationCounter, energies, fan_out
from self_models.kernel.engine import EventEngine
from self_models.network.neurons import SpikingNeuron
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

FEEDBACK = [[3, "D", 4, 5, "D"], ["U", 4, "drop", 3, "U", "in"]]
BASELINE = [[3, "D", 4, 5, "D"], []]


def build(plan, shape=(1, 9, 10), steps=5, **settings):
    torch.manual_seed(1)
    settings = {"readout": "membrane_linear", "update": "immediate", "default_threshold": 0.1, "fc_width": 7, **settings}
    model = VGG_SNN_STDB_wFeedback(plan=plan, image_shape=shape, timesteps=steps, labels=3, **settings)
    for parameter in model.parameters():  # some weights are 0, so that effective and dense differ
        if parameter.dim() > 1:
            parameter.data *= torch.rand_like(parameter) > 0.1
    return model.eval()


def run(model, count=4):
    draw = torch.Generator().manual_seed(2)
    x = torch.rand(count, *model.image_shape, generator=draw) * (torch.rand(count, *model.image_shape, generator=draw) > 0.5)
    u = torch.rand(model.timesteps, *x.shape, generator=draw)
    with torch.no_grad(), OperationCounter(model) as counter:
        output = model(x, u)
    return x, u, output, counter.result(count)


def test_two_layers_by_hand():
    """One 3x3 convolution to 2 channels on a 3x4 image, then the classifier; one spike in a corner, one inside."""
    model = build([[2], []], shape=(1, 3, 4), steps=1, default_threshold=1.0)
    for layer in (model.features[0], *model.classifier[::3]):
        nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, 3, 4)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = 1
    with torch.no_grad(), OperationCounter(model) as counter:
        output = model(x, torch.full((1, 1, 1, 3, 4), 0.5))
    assert model.watcher is None  # none left
    result = counter.result(1)
    # a corner meets 4 places, the inner pixel 9, each with 2 channels; a neuron needs more than 1, so both spikes: the 4
    # places that see both, times 2 channels
    assert output.spikes["input"].item() == 2
    assert result["layers"]["effective_acs"]["features.0"] == (4 + 9) * 2
    assert output.spikes["features.1"].item() == 4 * 2
    # the 8 spikes meet 7 neurons each, which all fire; these meet 7 each; 7 more meet 3 outputs
    assert result["layers"]["effective_acs"]["classifier.0"] == 8 * 7
    assert result["effective_macs"] == 0 and result["layers"]["effective_acs"] == result["layers"]["event_acs"]
    places = 4 * 4 + 6 * 6 + 2 * 9  # corners see 4, borders 6, the two inner pixels 9 places
    assert result["layers"]["dense"]["features.0"] == places * 2
    assert result["dense"] == places * 2 + 24 * 7 + 7 * 7 + 7 * 3
    neurons = 24 + 7 + 7
    fired = sum(count.item() for name, count in output.spikes.items() if name != "input")
    assert result["activation_sparsity"] == pytest.approx(1 - fired / neurons)
    assert result["layers"]["active_share"]["features.1"] == pytest.approx(8 / 24)


def test_a_pool_and_biases_by_hand():
    """A 1x1 convolution to 2 channels on 4x4 pixels, three of one 2x2 square and one of another sent in each of two steps: every
    neuron there fires, and the pool lets one spike of each square through."""
    own = {"shape": (1, 4, 4), "steps": 2, "default_threshold": 0.5, "kernel_size": 1, "fc_layers": 1}
    model = build([[2, "M"], []], bias=True, **own)
    for layer in (model.features[0], *model.classifier[::3]):
        nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = x[0, 0, 0, 1] = x[0, 0, 1, 1] = x[0, 0, 3, 2] = 1
    with torch.no_grad(), OperationCounter(model) as counter:
        output = model(x, torch.full((2, 1, 1, 4, 4), 0.5))
    result = counter.result(1)
    assert output.spikes["features.1"].item() == 2 * 4 * 2  # at the neurons, before the pool
    assert result["layers"]["event_acs"]["features.0"] == 2 * 4 * 2
    assert result["layers"]["effective_acs"]["classifier.0"] == result["layers"]["event_acs"]["classifier.0"] == 2 * (2 * 2) * 7
    assert result["effective_macs"] == 0 and result["layers"]["dense"]["classifier.0"] == 2 * (2 * 2 * 2) * 7
    assert result["bias_additions"] == 2 * (2 * 16 + 7)  # at each step to each neuron, the outputs are none
    assert result["activation_sparsity"] == 1 - (2 * 4 * 2 + 2 * 7) / (2 * (2 * 16 + 7))
    assert "bias_additions" not in run(build([[2, "M"], []], **own))[-1]


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_averages_are_real_values_whatever_they_are(engine):
    """1x1 convolutions to 2, and behind an average pool to 3 channels; of 4x4 pixels each is sent, and each neuron fires, in both
    steps. So all averages are 1, and they are multiplied."""
    model = build([[2, "A", 3], []], shape=(1, 4, 4), steps=2, default_threshold=0.5, kernel_size=1, fc_layers=0)
    model.engine = EventEngine(model) if engine == "event" else None
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.ones_(parameter)
    with torch.no_grad(), OperationCounter(model) as counter:
        output = model(torch.ones(1, 1, 4, 4), torch.full((2, 1, 1, 4, 4), 0.5))
    assert [count.item() for count in output.spikes.values()] == [2 * 16, 2 * 16 * 2, 2 * 4 * 3]
    layers = counter.result(1)["layers"]
    assert list(layers["effective_acs"].values()) == [2 * 16 * 2, 0, 2 * 12 * 3]
    assert list(layers["effective_macs"].values()) == [0, 2 * (4 * 2) * 3, 0]


@pytest.mark.parametrize("settings", [{"plan": FEEDBACK}, {"plan": BASELINE}, {"plan": [[3, "M", 4, "A"], []], "bias": True}])
def test_neurobench_counts_the_same(settings):
    """Each layer that NeuroBench knows (it has no transposed convolution), and the sparsity of all spiking layers."""
    layers, neurons, metrics = (
        pytest.importorskip(f"neurobench.{name}") for name in ("hooks.layer", "hooks.neuron", "metrics.workload")
    )
    model = build(**settings)
    x, u, _, ours = run(model)
    connections = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    hooks = {name: layers.LayerHook(layer) for name, layer in connections.items()}

    class SpikesHook(neurons.NeuronHook):  # our neurons return (spikes, state)
        def hook_fn(self, layer, inputs, output):
            self.activation_outputs.append(output[0])

    class Seen:
        activation_hooks = [SpikesHook(layer) for layer in model.modules() if isinstance(layer, SpikingNeuron)]  # noqa: RUF012
        connection_hooks = ()

    model(x, u)  # with gradients: without, no layer is asked about a step in which nothing is sent
    assert metrics.ActivationSparsity()(Seen, None, (x, None)) == pytest.approx(ours["activation_sparsity"])
    for name, hook in hooks.items():
        Seen.connection_hooks = [hook]
        theirs = metrics.SynapticOperations()(Seen, None, (x, None))
        for key in ("Effective_ACs", "Effective_MACs", "Dense"):
            assert ours["layers"][key.lower()][name] == theirs[key], (name, key)
    assert ours["effective_macs"] > 0 < ours["effective_acs"]


def test_spikingjelly_counts_the_same_where_inputs_are_binary():
    """SynOpCounter counts layers with {0, 1} inputs: in this plan all of them. It takes every weight as non-zero."""
    counting = pytest.importorskip("spikingjelly.activation_based.op_counter")
    model = build([[3, 4], []])
    for parameter in model.parameters():
        parameter.data[parameter == 0] = 0.01
    x, u, _, ours = run(model)
    counter = counting.SynOpCounter()
    with torch.no_grad(), counting.base.DispatchCounterMode([counter]):
        model(x, u)
    assert counter.get_total() == pytest.approx(ours["effective_acs"] * len(x))
    assert ours["effective_macs"] == 0


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, 2, stride=2),
        nn.ConvTranspose2d(2, 3, 2, stride=2, output_padding=(1, 0)),
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
    ],
)
def test_fan_out_is_the_number_of_weights_met(layer):
    """Against one impulse at a time through the layer with weights 1."""
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    impulses = torch.eye(2 * 5 * 6).reshape(-1, 2, 5, 6)
    met = layer(impulses).detach().flatten(1).sum(1).reshape(2, 5, 6)
    assert torch.equal(fan_out(layer, (2, 5, 6), every=True).float(), met)


def test_counting_at_size_takes_no_memory_to_speak_of():
    """What a spike reaches is separable."""
    model = build([[2, "D", 3, "D"], ["U", "U", "in"]], (3, 224, 224), steps=1)
    tracemalloc.start()
    OperationCounter(model)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_operations_do_not_depend_on_the_batch():
    """A black-and-white and a grey image, direct encoding: together they cost what they cost alone."""
    model = build(FEEDBACK, encoding="direct")
    x = torch.stack([(torch.arange(90.0).reshape(1, 9, 10) % 3 == 0).float(), torch.linspace(0, 0.9, 90).reshape(1, 9, 10)])
    found = []
    for images in (x, x[:1], x[1:]):
        with torch.no_grad(), OperationCounter(model) as counter:
            model(images)
        found.append(counter.counts())
    together, *alone = found
    assert together["acs"]["features.0"] > 0 and together["macs"]["features.0"] > 0
    for kind, layers in together.items():
        assert layers == {name: sum(each[kind].get(name, 0) for each in alone) for name in layers}


def test_difficulty_takes_ink_out():
    ink = torch.tensor([1.0, 2.0, 3.0, 4.0])
    per_image = {"spikes": 10 * ink, "ink": ink, "margin": -ink, "correct": torch.tensor([True, True, True, False])}
    found = difficulty_correlations(per_image)
    assert found["small margin"]["spikes"] == pytest.approx(1) and found["small margin"]["spikes_per_ink"] is None
    assert found["wrong"]["spikes"] > 0 and "reconstruction error" not in found
    found = difficulty_correlations(per_image | {"error": torch.tensor([1.0, 3.0, 2.0, 4.0])})
    assert found["reconstruction error"] == {"spikes": pytest.approx(0.8), "spikes_per_ink": None}
    faint = per_image | {"ink": ink / 100, "spikes": torch.tensor([1.0, 3.0, 6.0, 12.0])}  # 100, 150, 200 and 300 per ink
    assert difficulty_correlations(faint)["small margin"]["spikes_per_ink"] == pytest.approx(1)
    black = per_image | {"ink": torch.tensor([0.0, 2.0, 3.0, 4.0]), "spikes": torch.tensor([0.0, 2.0, 6.0, 12.0])}
    assert difficulty_correlations(black)["small margin"]["spikes_per_ink"] == pytest.approx(1)  # 0, 1, 2, 3 and not 0 / 0


@pytest.mark.parametrize(("analog", "event"), [(False, 0.9 * 50), (True, 0.9 * 40 + 4.6 * 10)])
def test_energy_of_both_executions_by_hand(analog, event):
    """10 + 20 event-driven ACs, the first layer's 10 multiply where the input is analog; 20 comparisons cost an AC each, and so
    does each time that a neuron gets its bias."""
    operations = {"effective_acs": 100, "effective_macs": 7, "event_acs": 30}
    operations["layers"] = {"event_acs": {"features.0": 10, "features.3": 20}}
    for biases in (0, 5):
        found = energies(operations | {"bias_additions": biases}, 20, analog)
        assert 1e12 * found["energy_joules"] == pytest.approx(0.9 * (120 + biases) + 4.6 * 7)
        assert 1e12 * found["energy_event_joules"] == pytest.approx(event + 0.9 * biases)
    assert energies(operations, 20, analog) == energies(operations | {"bias_additions": 0}, 20, analog)  # as without biases
    assert analog or energies(operations, 20) == energies(operations, 20, False)  # spikes unless told otherwise


@pytest.mark.parametrize("gate", [{}, {"gate": "block", "epsilon": 0.3}])
def test_counts_hold_after_a_failure_and_without_autograd(gate, monkeypatch):
    """A run that failed leaves nothing behind; nobody counts twice."""
    model = build([[4, "D"], ["U", "in"]], shape=(1, 8, 8), steps=4, default_threshold=0.1, **gate)
    x, u, _, expected = run(model)
    with torch.inference_mode(), OperationCounter(model) as counter:
        with monkeypatch.context() as broken:
            broken.setattr(model.classifier[0], "forward", Mock(side_effect=MemoryError))
            with pytest.raises(MemoryError):
                model(torch.cat([x, x]), torch.cat([u, u], 1))
        model(x, u)
        with pytest.raises(ModelError, match="already"), OperationCounter(model):
            pass
    assert counter.result(len(x)) == expected
    assert expected["layers"]["active_share"].keys() == {"input", *model.neurons()}


def test_a_network_that_has_what_no_plan_has_is_evaluated_without_operations():
    """What it does there is not known, and a count without it would be wrong."""
    for part, change in UNKNOWN.items():
        model = known.build()
        x, labels = known.inputs(model)[0], torch.zeros(known.COUNT, dtype=torch.int64)
        change(model)
        unknown = rf"^a count of operations does not know {re.escape(part)}: evaluate"
        with pytest.raises(ModelError, match=unknown):
            OperationCounter(model)
        with pytest.raises(ModelError, match=unknown):
            evaluate(model, x, labels)
        with pytest.raises(ModelError, match=rf"^an energy ledger does not know {re.escape(part)}: it counts what archit"):
            ledger(model, x, labels)
    found, output = evaluate(model, x, labels, operations=False), model(x, seed=0)
    assert "operations" not in found and "energy_joules" not in found
    assert found["spikes"] == {name: pytest.approx(count.mean().item()) for name, count in output.spikes.items()}
    assert found["parts"]["total"] == pytest.approx(sum(found["spikes"].values()))


def test_layers_that_no_spike_has_reached_are_counted_as_silent():
    short, long = (
        run(build([[4, "D"], ["U", "in"]], shape=(1, 8, 8), steps=steps, update="delayed"))[3]["layers"] for steps in (1, 9)
    )
    assert {kind: by.keys() for kind, by in short.items()} == {kind: by.keys() for kind, by in long.items()}
    assert list(short["active_share"].values())[1:] == [0] * 3 and any(long["active_share"].values())
