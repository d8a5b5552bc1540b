"""Spikes, operations and energy: by hand, by brute force, by NeuroBench and SpikingJelly; what an evaluation adds up."""

import csv
import json
from collections import Counter
from dataclasses import replace
from math import prod
from types import SimpleNamespace

import pytest
import torch
from conftest import DATA, REPOSITORY, inputs, run_here
from test_engines import LASTS, networks, on_grid
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from energy import in_eight_bits
from harness.measuring.comparing import difficulty_correlations
from harness.measuring.tables import as_text
from results import ledger_of
from self_models import ModelError, load, load_data
from self_models.counting.evaluation import Average, Evaluation, evaluate, figures_per_image
from self_models.counting.operations import (
    CONVENTIONS,
    Convention,
    OperationCounter,
    conventions,
    energies,
    read_convention,
)
from self_models.data.sets import ImageSet
from self_models.engines.event.engine import EventEngine
from self_models.guests.energy import EXECUTIONS, Entry, Ledger, ledger
from self_models.guests.phased.timing import schedule_of
from self_models.layers.neurons import SpikingNeuron
from self_models.layers.scale import Scale
from self_models.runtime.chains import Chain
from self_models.runtime.loop import VALUES_AT_ONCE, chunk_length
from self_models.runtime.outputs import ANNOutput, SNNOutput
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

FEEDBACK = [[3, "D", 4, 5, "D"], ["U", 4, "drop", 3, "U", "in"]]
BASELINE = [[3, "D", 4, 5, "D"], []]
SMALL = [[2, "D"], ["U", "in"]]


def build(plan, shape=(1, 9, 10), steps=5, **settings):
    torch.manual_seed(1)
    own = {
        "readout": "membrane_linear",
        "update": "immediate",
        "default_threshold": 0.1,
        "fc_width": 7,
        "labels": 3,
        **settings,
    }
    model = VGG_SNN_STDB_wFeedback(plan=plan, image_shape=shape, timesteps=steps, **own).eval()
    for parameter in (each for each in model.parameters() if each.dim() > 1):
        parameter.data *= (
            torch.rand_like(parameter) > 0.1
        )  # some weights are 0, so that effective and dense differ
    return model


def test_two_layers_by_hand():
    """One 3x3 convolution to 2 channels on a 3x4 image, then the classifier; one spike in a corner, one inside."""
    model = build([[2], []], shape=(1, 3, 4), steps=1, default_threshold=1.0)
    for layer in (model.features[0], *model.classifier[::3]):
        nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, 3, 4)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = 1
    with torch.inference_mode(), OperationCounter(model) as counter:
        output = model(x, torch.full((1, 1, 1, 3, 4), 0.5))
    assert model.operation_counter is None  # none left
    result = counter.result(1)
    # a corner meets 4 places, the inner pixel 9, each with 2 channels; a neuron needs more than 1, so both spikes: the 4
    # places that see both, times 2 channels
    assert output.spikes["input"].item() == 2
    assert result["layers"]["effective_acs"]["features.0"] == (4 + 9) * 2
    assert output.spikes["features.1"].item() == 4 * 2
    # the 8 spikes meet 7 neurons each, which all fire; these meet 7 each; 7 more meet 3 outputs
    assert result["layers"]["effective_acs"]["classifier.0"] == 8 * 7
    assert (
        result["effective_macs"] == 0
        and result["layers"]["effective_acs"] == result["layers"]["event_acs"]
    )
    places = 4 * 4 + 6 * 6 + 2 * 9  # corners see 4, borders 6, the two inner pixels 9 places
    assert result["layers"]["dense"]["features.0"] == places * 2
    assert result["dense"] == places * 2 + 24 * 7 + 7 * 7 + 7 * 3
    neurons = 24 + 7 + 7
    fired = sum(count.item() for name, count in output.spikes.items() if name != "input")
    assert result["activation_sparsity"] == pytest.approx(1 - fired / neurons)
    assert result["layers"]["active_share"]["features.1"] == pytest.approx(8 / 24)


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_averages_are_real_values_whatever_they_are(engine):
    """1x1 convolutions to 2, and behind an average pool to 3 channels; of 4x4 pixels each is sent, and each neuron fires, in both
    steps. So all averages are 1, and they are multiplied; biases are 0, and added in each step."""
    model = build(
        [[2, "A", 3], []],
        shape=(1, 4, 4),
        steps=2,
        default_threshold=0.5,
        kernel_size=1,
        fc_layers=0,
        bias=True,
    )
    model.engine = EventEngine(model) if engine == "event" else None
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.ones_(parameter)
    with torch.no_grad(), OperationCounter(model) as counter:
        output = model(torch.ones(1, 1, 4, 4), torch.full((2, 1, 1, 4, 4), 0.5))
    assert [count.item() for count in output.spikes.values()] == [2 * 16, 2 * 16 * 2, 2 * 4 * 3]
    result = counter.result(1)
    layers = result["layers"]
    assert result["activation_sparsity"] == 0 and result["bias_additions"] == 2 * (16 * 2 + 4 * 3)
    assert list(layers["effective_acs"].values()) == [2 * 16 * 2, 0, 2 * 12 * 3]
    assert list(layers["effective_macs"].values()) == [0, 2 * (4 * 2) * 3, 0]


@torch.no_grad()
@pytest.mark.parametrize("engine", ["dense", "event"])
def test_additions_and_multiplications_are_told_apart_image_by_image(engine):
    """Three of four pixels are sent as they are, in each of two steps, to 2 channels of a 1x1 convolution. The first image is
    binary, so weights are added; the second is not, so they are multiplied."""
    model = build(
        [[2], []], shape=(1, 2, 2), steps=2, kernel_size=1, encoding="direct", fc_layers=0
    )
    model.engine = EventEngine(model) if engine == "event" else None
    nn.init.ones_(model.features[0].weight)
    x = torch.tensor([[1.0, 1, 1, 0], [1, 1, 0.5, 0]]).view(2, 1, 2, 2)
    with OperationCounter(model) as counter:
        model(x)
    layers = counter.result(1)["layers"]
    assert [layers[kind]["features.0"] for kind in ("effective_acs", "effective_macs")] == [
        2 * 3 * 2,
        2 * 3 * 2,
    ]


@pytest.mark.others
@pytest.mark.parametrize(
    "settings",
    [{"plan": FEEDBACK}, {"plan": BASELINE}, {"plan": [[3, "M", 4, "A"], []], "bias": True}],
)
def test_neurobench_counts_the_same(settings):
    """Each layer that NeuroBench knows (it has no transposed convolution), and the sparsity of all spiking layers."""
    names = "hooks.layer", "hooks.neuron", "metrics.workload"
    layers, neurons, metrics = (pytest.importorskip(f"neurobench.{name}") for name in names)
    model = build(**settings)
    x, u = inputs(model, 4)
    with torch.no_grad(), OperationCounter(model) as counter:
        model(x, u)
    ours = counter.result(4)
    connections = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    hooks = {name: layers.LayerHook(layer) for name, layer in connections.items()}

    class SpikesHook(neurons.NeuronHook):  # our neurons return (spikes, state)
        def hook_fn(self, layer, inputs, output):
            self.activation_outputs.append(output[0])

    class Seen:
        activation_hooks = [  # noqa: RUF012
            SpikesHook(layer) for layer in model.modules() if isinstance(layer, SpikingNeuron)
        ]
        connection_hooks = ()

    model(x, u)  # with gradients: without, no layer is asked about a step in which nothing is sent
    assert metrics.ActivationSparsity()(Seen, None, (x, None)) == pytest.approx(
        ours["activation_sparsity"]
    )
    for name, hook in hooks.items():
        Seen.connection_hooks = [hook]
        theirs = metrics.SynapticOperations()(Seen, None, (x, None))
        for key in ("Effective_ACs", "Effective_MACs", "Dense"):
            assert ours["layers"][key.lower()][name] == theirs[key], (name, key)
    assert ours["effective_macs"] > 0 < ours["effective_acs"]


def test_difficulty_takes_ink_out():
    ink = torch.tensor([1.0, 2.0, 3.0, 4.0])
    per_image = {
        "spikes": 10 * ink,
        "ink": ink,
        "margin": -ink,
        "correct": torch.tensor([True, True, True, False]),
    }
    found = difficulty_correlations(per_image)
    assert (
        found["small margin"]["spikes"] == pytest.approx(1)
        and found["small margin"]["spikes_per_ink"] is None
    )
    assert found["wrong"]["spikes"] > 0 and "reconstruction error" not in found
    found = difficulty_correlations(per_image | {"error": torch.tensor([1.0, 3.0, 2.0, 4.0])})
    assert found["reconstruction error"] == {"spikes": pytest.approx(0.8), "spikes_per_ink": None}
    black = per_image | {
        "ink": torch.tensor([0.0, 2.0, 3.0, 4.0]),
        "spikes": torch.tensor([0.0, 2.0, 6.0, 12.0]),
    }
    assert difficulty_correlations(black)["small margin"]["spikes_per_ink"] == pytest.approx(
        1
    )  # 0, 1, 2, 3 and not 0 / 0


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
    assert energies(operations, 20, analog) == energies(
        operations | {"bias_additions": 0}, 20, analog
    )  # as without biases
    assert analog or energies(operations, 20) == energies(
        operations, 20, False
    )  # spikes unless told otherwise


class Recount:
    """Walks every spike to every synapse, by index. It stands in the place of an OperationCounter, and shares nothing with it but
    what the network notes: what each layer and each maximum pool sends."""

    def __init__(self, model):
        self.model, self.synops, self.reached = model, Counter(), Counter()

    def add(self, run, count, ends=None):
        images, graph = len(run.image), self.model.graph
        ends, first = [count] * images if ends is None else ends.tolist(), run.steps - count
        for one in (
            link for link in graph.links if link.target not in graph.pools and link.through
        ):
            end, size = one.end, prod(one.chain.after)
            synapses = [set(row.nonzero().flatten().tolist()) for row in self.impulses(one)]
            for steps, signal in run.activity.get(one.source, ()):
                for step, sent in zip(
                    steps, signal.unflatten(0, (len(steps), images)), strict=True
                ):
                    self.walk(
                        end,
                        one,
                        synapses,
                        [sent[n] for n in range(images) if step - first < ends[n]],
                    )
            for at in range(count if one.bias is not None else 0):
                phase = (first + at) // self.model.timesteps
                if (
                    not self.model.timing.is_phased
                    or phase == schedule_of(graph).depths[one.target] - 1
                ):  # in which the target's neurons charge
                    self.reached[end] += size * sum(at < ends[n] for n in range(images))

    def walk(self, end, one, synapses, sent):
        """One step: sent: of each image, what the source sends."""
        for image in sent:
            met = [synapses[n] for n in image.flatten().nonzero().flatten().tolist()]
            self.synops[end] += sum(map(len, met))
            self.reached[end] += len(set().union(*met)) if one.bias is None else 0

    @staticmethod
    def impulses(one):
        """For each neuron of a link's source which neurons of the target it reaches, bool (N, N')."""
        signal = torch.eye(prod(one.chain.before)).reshape(-1, *one.chain.before)
        for module in one.modules:
            ones = {
                name: torch.ones_like(value)
                for name, value in module.named_parameters()
                if name == "weight"
            }
            ones |= {
                name: torch.zeros_like(value)
                for name, value in module.named_parameters()
                if name == "bias"
            }
            signal = signal.flatten(1) if isinstance(module, nn.Linear) else signal
            signal = torch.func.functional_call(module, ones, signal)
        return signal.flatten(1) != 0


@torch.no_grad()
def check_counts(case, model):
    """Synaptic operations and reached neurons, to the unit; of images, recordings, or a stream in two pieces."""
    x, u = on_grid(model, case["run"], case["seed"])
    streams = case["run"]["ties"] and case["max_pool"] == "or" and model.gate.follows_changes
    if streams := streams and not model.frames and not model.timing.is_phased:
        model.change(rule="never")
    counter, recount = OperationCounter(model, reaches=True), Recount(model)
    for model.operation_counter in (counter, recount):
        if streams:
            stream = model.stream(seed=1)
            stream(x, 3), stream(x.flip(0), LASTS - 3)
        else:
            model(x, u)
    counts = counter.counts()
    for name, count in counts["events"].items():
        assert count == recount.synops[name], (name, case)
        assert (counts["reached"] | counts["biases"]).get(name, 0) == recount.reached[name], (
            name,
            case,
        )


@pytest.mark.parametrize("first", [0, 20])
def test_a_plain_recount_finds_the_same(first):
    """benchmarks/robustness/random_networks.py takes any number of cases."""
    for case, model in networks(range(first, first + 20)):
        check_counts(case, model)


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [nn.Conv2d(2, 4, 3, stride=2, padding=(0, 1), dilation=(1, 2), groups=2)],
        [
            nn.Conv2d(2, 2, (2, 1), stride=3),
            Scale(torch.tensor(2.0)),
            nn.Conv2d(2, 3, 4, padding=3),
        ],
        [nn.ConvTranspose2d(2, 3, 2, stride=3, padding=1), nn.Conv2d(3, 1, 3, padding="same")],
        [nn.AvgPool2d((3, 2), 2, (1, 0)), nn.ConvTranspose2d(2, 1, 2, stride=2, output_padding=1)],
        [nn.AvgPool2d(4, 3), nn.Conv2d(2, 4, 1, groups=2), nn.Flatten(), nn.Linear(8, 5)],
    ],
    ids=lambda layers: ", ".join(type(layer).__name__ for layer in layers),
)
@torch.no_grad()
def test_a_chain_reaches_what_its_layers_reach(layers):
    shape = (2, 7, 6)
    link = SimpleNamespace(chain=Chain.of_modules(layers, shape, shape))
    link.modules = link.chain.modules
    found = torch.from_numpy(link.chain.reach())
    assert torch.equal(found.flatten(), Recount.impulses(link).sum(1).double())


@pytest.fixture(scope="module")
def quick():
    test = load_data("MNIST", limit_test=32)[2]
    model = load(REPOSITORY / "trained_models/snn/quick_feedback.pth")
    return model, test, ledger(model, test, name="quick")


def test_a_ledger_costs_what_an_evaluation_says(quick):
    model, test, found = quick
    figures, convention = evaluate(model, test), conventions()["arithmetic_45nm"]
    assert (
        found.total("spikes") == pytest.approx(figures["parts"]["total"])
        and found.accuracy == figures["accuracy"]
    )
    event, layer = (found.joules(convention, execution) for execution in EXECUTIONS)
    assert (event, layer) == pytest.approx(
        (figures["energy_event_joules"], figures["energy_joules"])
    )
    parts = [
        found.joules(convention, EXECUTIONS[0], part)
        for part in dict.fromkeys(entry.part for entry in found.entries)
    ]
    assert sum(parts) == pytest.approx(event) and len(parts) == 4  # no layer of the decoder spikes
    read = ledger_of({**figures, "spikes_per_layer": figures["spikes"]}, model)
    for one in conventions().values():
        assert (
            read.joules(one, EXECUTIONS[0]) == pytest.approx(found.joules(one, EXECUTIONS[0]))
            and read.entries
        )
        assert read.ann_joules(one, 8) == pytest.approx(found.ann_joules(one, 8))
    assert not found.leaks and ledger(small(leak=0.75), torch.rand(2, 1, 4, 6), LABELS[:2]).leaks


def test_the_ann_beside_it_by_hand(quick):
    """One pass of 16 D 32 32 D and 256 256 10 on 28x28 pixels, exact at borders, in MACs of 4.6 and 0.23 pJ."""
    *_, found = quick
    inner = (
        (28 * 3 - 2) ** 2 * 16 + 14 * 14 * (16 * 16 * 4) + (14 * 3 - 2) ** 2 * (16 * 32 + 32 * 32)
    )
    macs = inner + 7 * 7 * 32 * 32 * 4 + 7 * 7 * 32 * 256 + 256 * 256 + 256 * 10
    convention = conventions()["arithmetic_45nm"]
    assert (found.ann_joules(convention), found.ann_joules(convention, 8)) == pytest.approx(
        (4.6e-12 * macs, 0.23e-12 * macs)
    )


def test_at_the_break_even_it_costs_what_its_ann_costs(quick):
    """With all counts of spikes scaled to it."""
    (*_, found), of_spikes = quick, ("spikes", "synops", "rate", "reached")
    for convention in conventions().values():
        factor = found.break_even(convention) / (found.total("spikes") / found.neurons)
        scaled = [
            {name: factor * getattr(entry, name) for name in of_spikes} for entry in found.entries
        ]
        entries = [
            replace(entry, **counts) for entry, counts in zip(found.entries, scaled, strict=True)
        ]
        assert replace(found, entries=entries).joules(convention, EXECUTIONS[0]) == pytest.approx(
            found.ann_joules(convention, 8)
        )


def test_a_layers_energy_by_hand():
    """An addition 100 pJ, a multiply-add 1000, and an access to a memory of n words n pJ: 9 biases and 8 comparisons, each with
    two accesses, cost 1748 in either execution; then spike by spike 5 synapses, each a weight and a potential read and written,
    and 2 events written and read; or by layers 13 operations, each a weight and an input, and 30 potentials read and written."""
    price = {"add": 100, "multiply_add": 1000, "add_int8": 3, "multiply_add_int8": 10}
    priced = Convention("", "", 0, "", "", price, {"bytes": [4, 4000], "picojoules": [1, 1000]})
    counts = {
        "spikes": 2,
        "synops": 5,
        "acs": 7,
        "macs": 6,
        "updates": 30,
        "reached": 11,
        "biases": 9,
        "comparisons": 8,
    }
    own = {"neurons": 3, "weights": 12, "sources": 4, "one_pass": 10, **counts}
    event, by_layer = (
        1748 + 5 * (100 + 12 + 2 * 3) + 2 * 2 * 3,
        1748 + 7 * 100 + 6 * 1000 + 13 * (12 + 4) + 30 * 2 * 3,
    )
    for real, leaks, wanted in (
        (False, False, (event, by_layer)),
        (True, False, (event + 5 * 900, by_layer)),
        (
            False,
            True,
            (event + 11 * 900, by_layer + 30 * 900),
        ),  # of what is reached, or of all: kept by a multiplication
    ):
        one = Ledger(
            "", 1, 1.0, 10, 10.0, leaks, [Entry("features.1", "encoder", real=real, **own)]
        )
        assert [1e12 * one.joules(priced, execution) for execution in EXECUTIONS] == pytest.approx(
            wanted
        )
    assert 1e12 * one.ann_joules(priced) == pytest.approx(10 * (1000 + 12 + 4) + 3 * 3)
    assert 1e12 * one.ann_joules(priced, 8) == pytest.approx(
        10 * (10 + 3 / 4 + 1 / 4) + 3 * 1 / 4
    )  # bytes, of words at least


def test_memory_is_priced_by_its_size():
    access = conventions()["with_memory"].access
    assert [access(words) for words in (10, 2048, 8192, 262144)] == [10, 10, 20, 100]
    assert (
        access(5120) == pytest.approx(15)
        and access(524288) > 180
        and access(8192, word=1) == pytest.approx(2.5)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("add = 0.1\n", ""), "a table has .*: it needs add"),
        (("year", "jear"), "got an unexpected keyword argument 'jear'"),
        (("add = 0.1", "add = -1"), "-1 is no number from 0 to 1e"),
        (
            ("[10, 20, 100]", "[10, 20, 1]"),
            "memory: give .* and as many picojoules, which do not fall",
        ),
    ],
)
def test_a_convention_that_is_none_is_refused(tmp_path, change, words):
    path, text = tmp_path / "own.toml", (CONVENTIONS / "with_memory.toml").read_text()
    path.write_text(text.replace(*change, 1))
    assert path.read_text() != text
    with pytest.raises(ModelError, match=f"own.toml: {words}"):
        read_convention(path)


def test_the_tables_of_a_network_by_the_script(trained, tmp_path, capsys):
    """For readers and for programs; in 8 bits the ANN is nearly what it was."""
    flags = f"{trained.snn} --against {trained.ann} {DATA} --output_dir {tmp_path}"
    found, said = run_here("energy", flags, f"--picture {tmp_path / 'x.png'}")
    lines = said.splitlines()
    assert lines[0].startswith("network") and "with memory, 45 nm" in lines[0]
    assert f"\n{trained.snn}, means over 16 images; event-driven it costs " in said
    assert (tmp_path / "x.png").stat().st_size > 5000
    told = json.loads(run_here("energy", flags, "--format json")[1])[str(trained.snn)]
    assert abs(told["ann_accuracy"] - told["ann_8_bits_accuracy"]) <= 2 / 16
    assert told["joules"]["rate"]["ann"] == found[str(trained.snn)].ann_joules(
        conventions()["rate"]
    )
    table = run_here("energy", flags, "--format csv")[1].split("\n\n")[0]
    assert len(next(csv.reader(table.splitlines()))) == 6
    rows = [["network", "a_b, %"], ["x_1", 1.25]]
    assert as_text(rows, "md") == "| network | a_b, % |\n| --- | ---: |\n| x_1 | 1.25 |"


def test_eight_bits_are_integers_times_a_scale():
    model = load(REPOSITORY / "trained_models/ann/ann_feedback.pth")
    test = load_data("MNIST", limit_test=200)[2]
    small = in_eight_bits(model, test.batch(torch.arange(128)).images)
    weight = small.features[0].weight[0]
    whole = weight / (weight.abs().max() / 127)
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-4)
    assert evaluate(small, test)["accuracy"] == pytest.approx(
        evaluate(model, test)["accuracy"], abs=0.01
    )
    x = test.batch(torch.arange(8)).images
    with torch.no_grad():  # of a decoder, too
        found, wanted = small(x).predictions, model(x).predictions
    assert (found - wanted).abs().mean() < 0.02 < wanted.std()


@pytest.fixture(scope="module")
def x():
    return torch.rand(5, 1, 4, 6, generator=torch.Generator().manual_seed(1))


def small(**settings):
    """A network that blocks, for these images."""
    return build(
        SMALL,
        (1, 4, 6),
        **{"steps": 3, "gate": "block", "epsilon": 0.3, "fc_width": 5, **settings},
    )


LABELS = torch.tensor([0, 1, 2, 0, 1])


def test_averages_are_exact_and_have_no_gradient():
    """In float32 the sum would stay at 2 ** 24."""
    losses = Average()
    losses.add(2, loss=torch.tensor(2.0**23, requires_grad=True))
    losses.add(2, loss=torch.tensor(0.5))
    assert losses.means() == {"loss": (2**24 + 1) / 4} and not losses.sums["loss"].requires_grad
    resumed = Average({"spikes": torch.zeros(2)}, 3)  # as a checkpoint has it
    resumed.add(1, spikes=torch.zeros(2, device="meta"))
    assert resumed.sums["spikes"].device.type == "meta"


def spiking_output(n):
    n = torch.tensor(n, dtype=torch.float32)
    logits, spikes = torch.stack([n, 0 * n, 0 * n - 1], 1), {"input": n, "features.1": 2 * n}
    return SNNOutput(logits, None, None, spikes, steps=n.long(), is_open=None, comparisons=3 * n)


def test_batches_of_several_sizes_are_one_evaluation():
    evaluation = Evaluation(None)
    for images in ([1, 2, 3], [4, 5, 6], [7]):
        labels = torch.zeros(len(images), dtype=torch.int64)
        evaluation.add(
            spiking_output(images), torch.ones(len(images), 1, 1, 2), labels, loss=images[0]
        )
    found = evaluation.result()
    assert found["per_image"]["steps"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (found["images"], found["mean_steps"], found["comparisons"]) == (7, 4.0, 12.0)
    assert (found["median_steps"], found["p95_steps"]) == (4, pytest.approx(1 + 0.95 * 6))
    assert found["spikes"] == {"input": 4.0, "features.1": 8.0} and found["parts"]["total"] == 12
    assert found["loss"] == pytest.approx((3 * 1 + 3 * 4 + 7) / 7)


def test_what_an_ann_has_not():
    evaluation = Evaluation(None)
    errors = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 9.0]]]).reshape(
        2, 2, 1, 1, 2
    )
    output = ANNOutput(torch.tensor([[1.0, 3.0, 2.5], [0.0, 1.0, -2.0]]), None, errors)
    evaluation.add(output, torch.ones(2, 1, 1, 2), torch.tensor([1, 0]))
    found = evaluation.result()
    figures = {name: values.tolist() for name, values in found.pop("per_image").items()}
    assert figures == {
        "label": [1, 0],
        "found": [1, 1],
        "correct": [True, False],
        "margin": [0.5, 1.0],
        "error": [11.0, 16.0],
    }
    assert found.pop("images_per_second") * found.pop("seconds") == pytest.approx(2)
    assert found == {"images": 2, "accuracy": 0.5, "error": 13.5}


def test_figures_of_spiking_images():
    output = spiking_output([2, 3])._replace(errors=torch.ones(2, 2, 1, 1, 2))
    found = figures_per_image(
        output, torch.tensor([0.25, -0.25, 0.5, 0.0]).reshape(2, 1, 1, 2), torch.tensor([0, 1])
    )
    assert {name: values.tolist() for name, values in found.items()} == {
        "label": [0, 1],
        "found": [0, 0],
        "correct": [True, False],
        "margin": [2.0, 3.0],
        "error": [2.0, 2.0],
        "spikes": [6.0, 9.0],
        "steps": [2, 3],
        "ink": [0.5, 0.5],
        "comparisons": [6.0, 9.0],
    }


@pytest.mark.parametrize("encoding", ["poisson", "direct"])
def test_evaluate_counts_a_run_with_seed_0(x, encoding):
    """Energies are those of its operations and comparisons."""
    model = small(encoding=encoding)
    output, found = model(x, seed=0), evaluate(model, x, LABELS)
    assert found["spikes"] == {
        name: pytest.approx(count.double().mean().item()) for name, count in output.spikes.items()
    }
    assert found["comparisons"] == output.comparisons.mean(dtype=torch.float64).item() > 0
    assert (
        energies(found["operations"], found["comparisons"], encoding == "direct").items()
        <= found.items()
    )
    assert not any(value.requires_grad for value in found["per_image"].values())


@pytest.mark.parametrize("is_spiking", [True, False])
def test_evaluate_runs_in_evaluation_and_leaves_the_mode(x, is_spiking):
    """Dropout of 1/2 would show; and operations are those of an SNN."""
    model = (
        small()
        if is_spiking
        else VGG_wFeedback(plan=SMALL, image_shape=(1, 4, 6), fc_width=5, labels=3)
    )
    expected = evaluate(model.eval(), x, LABELS)
    assert (
        not model.training
        and ("operations" in expected) == ("energy_joules" in expected) == is_spiking
    )
    found = evaluate(model.train(), x, LABELS)
    assert (
        model.training
        and found["per_image"]["margin"].tolist() == expected["per_image"]["margin"].tolist()
    )
    with pytest.raises(ModelError):
        evaluate(model, x[:, :, :3], LABELS)
    assert model.training


def test_evaluate_takes_what_people_have(x):
    """Arrays, an ImageSet, pairs of torch's Dataset and a DataLoader: the same figures."""
    model, pairs = small(), TensorDataset(x, LABELS)
    expected = evaluate(model, x, LABELS)
    for data in (
        [ImageSet("own", x, LABELS)],
        [pairs],
        [DataLoader(pairs, batch_size=2)],
        [x.numpy(), LABELS.numpy()],
    ):
        found = evaluate(model, *data)
        assert all(found[name] == expected[name] for name in ("accuracy", "spikes", "operations"))


def test_steps_at_once_keep_to_the_bound_on_memory(monkeypatch):
    model, large = small(steps=50), torch.empty(4, 3, 224, 224)
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 6 * 2 * model.graph.largest_signal)
    assert [
        chunk_length(model, images, 50, False)
        for images in (large[:2], large, torch.empty(100, 1))
    ] == [6, 3, 1]
    model.change(rule="confidence")
    assert (
        chunk_length(model, large[:2], 50, True) == 1
    )  # images that are sure leave the batch before long
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 100 * 2 * model.graph.largest_signal)
    assert chunk_length(model, large[:2], 50, True) == 4
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 6 * 2 * model.graph.largest_signal)
    model.train().set_bptt_segments(4)
    assert chunk_length(model, large, 50, False) == 13
