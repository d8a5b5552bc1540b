"""Spikes and operations, and what an evaluation adds up.

They are checked by hand, by brute force, and by NeuroBench.
"""

from collections import Counter
from math import prod
from types import SimpleNamespace

import pytest
import torch
from conftest import inputs, sparse_network
from test_engines import LASTS, networks, on_grid
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from self_models import ModelError
from self_models.data.sets import ImageSet
from self_models.evaluation.evaluate import Average, Evaluation, evaluate, figures_per_image
from self_models.evaluation.operations import (
    CONVENTIONS,
    OperationCounter,
    conventions,
    count_reached,
    energies,
    read_convention,
)
from self_models.networks.scale import Scale
from self_models.neurons.spiking import SpikingNeuron
from self_models.running.chains import Chain
from self_models.running.loop import VALUES_AT_ONCE, chunk_length
from self_models.running.outputs import ANNOutput, SNNOutput
from self_models.running.phased.schedule import schedule_of
from self_models.vgg_wFeedback import VGG_wFeedback
from wfeedback.event.engine import EventEngine

FEEDBACK = [[3, "D", 4, 5, "D"], ["U", 4, "drop", 3, "U", "in"]]
BASELINE = [[3, "D", 4, 5, "D"], []]
SMALL = [[2, "D"], ["U", "in"]]


def fill_weights_with_ones(model):
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.ones_(parameter)


def test_two_layers_by_hand():
    # One 3x3 convolution to 2 channels on a 3x4 image, then the classifier. One spike
    # comes from a corner, one from inside.
    model = sparse_network([[2], []], shape=(1, 3, 4), steps=1, default_threshold=1.0)
    fill_weights_with_ones(model)
    x = torch.zeros(1, 1, 3, 4)
    x[0, 0, 0, 0] = 1
    x[0, 0, 1, 1] = 1

    with torch.inference_mode(), OperationCounter(model) as counter:
        output = model(x, torch.full((1, 1, 1, 3, 4), 0.5))

    assert model.operation_counter is None  # none left
    assert output.spikes["input"].item() == 2
    result = counter.result(1)
    effective = result["layers"]["effective_acs"]
    # A corner meets 4 places, the inner pixel 9, each with 2 channels.
    assert effective["features.0"] == (4 + 9) * 2
    # A neuron needs more than 1, so both spikes: the 4 places that see both, in 2
    # channels.
    assert output.spikes["features.1"].item() == 4 * 2
    # These 8 spikes meet 7 neurons each, which all fire. They meet 7 each, and these 3
    # outputs.
    assert effective["classifier.0"] == 8 * 7
    assert effective == result["layers"]["event_acs"]
    assert result["effective_macs"] == 0

    # Corners see 4 places, borders 6, the two inner pixels 9.
    places = 4 * 4 + 6 * 6 + 2 * 9
    assert result["layers"]["dense"]["features.0"] == places * 2
    assert result["dense"] == places * 2 + 24 * 7 + 7 * 7 + 7 * 3

    neurons = 24 + 7 + 7
    fired = sum(count.item() for name, count in output.spikes.items() if name != "input")
    assert result["activation_sparsity"] == pytest.approx(1 - fired / neurons)
    assert result["layers"]["active_share"]["features.1"] == pytest.approx(8 / 24)


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_averages_are_real_values_whatever_they_are(engine):
    # 1x1 convolutions to 2 channels, and behind an average pool to 3. Each of 4x4
    # pixels is sent, and each neuron fires, in both steps. So all averages are 1, but
    # they are multiplied.
    model = sparse_network(
        [[2, "A", 3], []],
        shape=(1, 4, 4),
        steps=2,
        default_threshold=0.5,
        kernel_size=1,
        fc_layers=0,
        bias=True,
    )
    model.engine = EventEngine(model) if engine == "event" else None
    fill_weights_with_ones(model)

    with torch.no_grad(), OperationCounter(model) as counter:
        output = model(torch.ones(1, 1, 4, 4), torch.full((2, 1, 1, 4, 4), 0.5))

    counts = [count.item() for count in output.spikes.values()]
    assert counts == [2 * 16, 2 * 16 * 2, 2 * 4 * 3]
    result = counter.result(1)
    assert result["activation_sparsity"] == 0
    # Biases are 0, and added in each step all the same.
    assert result["bias_additions"] == 2 * (16 * 2 + 4 * 3)
    assert list(result["layers"]["effective_acs"].values()) == [2 * 16 * 2, 0, 2 * 12 * 3]
    assert list(result["layers"]["effective_macs"].values()) == [0, 2 * (4 * 2) * 3, 0]


@torch.no_grad()
@pytest.mark.parametrize("engine", ["dense", "event"])
def test_additions_and_multiplications_are_told_apart_image_by_image(engine):
    model = sparse_network(
        [[2], []], shape=(1, 2, 2), steps=2, kernel_size=1, encoding="direct", fc_layers=0
    )
    model.engine = EventEngine(model) if engine == "event" else None
    nn.init.ones_(model.features[0].weight)
    binary = [1.0, 1.0, 1.0, 0.0]
    not_binary = [1.0, 1.0, 0.5, 0.0]
    x = torch.tensor([binary, not_binary]).view(2, 1, 2, 2)

    with OperationCounter(model) as counter:
        model(x)

    # Of each image three pixels are sent as they are, in each of two steps, to 2
    # channels of a 1x1 convolution. For the binary image weights are added, for the
    # other multiplied.
    layers = counter.result(1)["layers"]
    assert layers["effective_acs"]["features.0"] == 2 * 3 * 2
    assert layers["effective_macs"]["features.0"] == 2 * 3 * 2


@pytest.mark.others
@pytest.mark.parametrize(
    "settings",
    [{"plan": FEEDBACK}, {"plan": BASELINE}, {"plan": [[3, "M", 4, "A"], []], "bias": True}],
    ids=["feedback", "baseline", "pools and biases"],
)
def test_neurobench_counts_the_same(settings):
    # NeuroBench has no transposed convolution, so those layers are not compared.
    layer_hooks = pytest.importorskip("neurobench.hooks.layer")
    neuron_hooks = pytest.importorskip("neurobench.hooks.neuron")
    metrics = pytest.importorskip("neurobench.metrics.workload")
    model = sparse_network(**settings)
    x, u = inputs(model, 4)
    with torch.no_grad(), OperationCounter(model) as counter:
        model(x, u)
    ours = counter.result(4)

    class SpikesHook(neuron_hooks.NeuronHook):  # our neurons return (spikes, state)
        def hook_fn(self, layer, inputs, output):
            self.activation_outputs.append(output[0])

    activation_hooks = []
    connection_hooks = {}
    for name, layer in model.named_modules():
        if isinstance(layer, SpikingNeuron):
            activation_hooks.append(SpikesHook(layer))
        if isinstance(layer, nn.Conv2d | nn.Linear):
            connection_hooks[name] = layer_hooks.LayerHook(layer)
    # With gradients: without, no layer is asked about a step in which nothing is sent.
    model(x, u)

    hooked = SimpleNamespace(activation_hooks=activation_hooks, connection_hooks=())
    sparsity = metrics.ActivationSparsity()(hooked, None, (x, None))
    assert sparsity == pytest.approx(ours["activation_sparsity"])
    for name, hook in connection_hooks.items():
        hooked.connection_hooks = [hook]
        theirs = metrics.SynapticOperations()(hooked, None, (x, None))
        for key in ("Effective_ACs", "Effective_MACs", "Dense"):
            assert ours["layers"][key.lower()][name] == theirs[key], (name, key)
    assert ours["effective_macs"] > 0
    assert ours["effective_acs"] > 0


@pytest.mark.parametrize(
    ("is_analog", "event_picojoules"),
    [
        pytest.param(False, 0.9 * (10 + 20 + 20), id="spikes"),
        # The first layer's 10 multiply.
        pytest.param(True, 0.9 * (20 + 20) + 4.6 * 10, id="analog"),
    ],
)
@pytest.mark.parametrize("biases", [0, 5])
def test_energy_of_both_executions_by_hand(is_analog, event_picojoules, biases):
    operations = {
        "effective_acs": 100,
        "effective_macs": 7,
        "event_acs": 30,
        "bias_additions": biases,
        "layers": {"event_acs": {"features.0": 10, "features.3": 20}},
    }
    found = energies(operations, 20, is_analog)
    # Each of 20 comparisons, and each time that a neuron gets its bias, costs an AC.
    layer_picojoules = 0.9 * (100 + 20 + biases) + 4.6 * 7
    assert 1e12 * found["energy_joules"] == pytest.approx(layer_picojoules)
    assert 1e12 * found["energy_event_joules"] == pytest.approx(event_picojoules + 0.9 * biases)


@pytest.mark.parametrize("is_analog", [False, True])
def test_operations_that_say_nothing_of_biases_have_none(is_analog):
    operations = {
        "effective_acs": 100,
        "effective_macs": 7,
        "event_acs": 30,
        "layers": {"event_acs": {"features.0": 10, "features.3": 20}},
    }
    expected = energies(operations | {"bias_additions": 0}, 20, is_analog)
    assert energies(operations, 20, is_analog) == expected
    if not is_analog:  # spikes unless told otherwise
        assert energies(operations, 20) == expected


def reached_by(link):
    """Say for each neuron of a link's source which of the target's it reaches."""
    neurons = prod(link.chain.before)
    signal = torch.eye(neurons).reshape(neurons, *link.chain.before)
    for module in link.modules:
        ones = {}  # in place of weights, of which some are 0
        for name, value in module.named_parameters():
            if name == "weight":
                ones[name] = torch.ones_like(value)
            elif name == "bias":
                ones[name] = torch.zeros_like(value)
        if isinstance(module, nn.Linear):
            signal = signal.flatten(1)
        signal = torch.func.functional_call(module, ones, signal)
    return signal.flatten(1) != 0


class Recount:
    """Walks every spike to every synapse, by index.

    It stands in the place of an OperationCounter, and shares nothing with it but what
    the network notes: what each layer and each maximum pool sends.
    """

    def __init__(self, model):
        self.model = model
        self.synops = Counter()
        self.reached = Counter()

    def add(self, run, count, ends=None):
        """Count the last `count` timesteps, of which image n had the first ends[n]."""
        ends = [count] * len(run.image) if ends is None else ends.tolist()
        first = run.steps - count
        graph = self.model.graph
        for link in graph.links:
            if link.target in graph.pools or not link.through:
                continue
            self.add_spikes(link, run.activity.get(link.source, ()), first, ends)
            if link.bias is not None:
                self.add_biases(link, range(first, run.steps), ends)

    def add_spikes(self, link, activity, first, ends):
        """Count what spikes reach in each step, of the images that take part in it."""
        synapses = reached_by(link)
        for steps, signal in activity:
            signal_by_step = signal.unflatten(0, (len(steps), len(ends)))
            for step, sent in zip(steps, signal_by_step, strict=True):
                for image, end in zip(sent, ends, strict=True):
                    if step - first >= end:
                        continue
                    met = synapses[image.flatten() != 0]
                    self.synops[link.end] += met.sum().item()
                    if link.bias is None:
                        self.reached[link.end] += met.any(0).sum().item()

    def add_biases(self, link, steps, ends):
        """Count the neurons that get a bias, in each step in which they charge."""
        neurons = prod(link.chain.after)
        for step in steps:
            if self.charges(link, step):
                images = sum(step - steps[0] < end for end in ends)
                self.reached[link.end] += neurons * images

    def charges(self, link, step):
        """Say whether the neurons of a link's target charge in a step."""
        if not self.model.timing.is_phased:
            return True
        phase = step // self.model.timesteps
        return phase == schedule_of(self.model.graph).depths[link.target] - 1


@torch.no_grad()
def check_counts(case, model):
    """Compare synaptic operations and reached neurons with those of a Recount.

    The model runs on images or recordings, or, in some cases that allow it, a stream in
    two pieces.
    """
    x, u = on_grid(model, case["run"], case["seed"])
    may_stream = (
        case["max_pool"] == "or"
        and model.gate.follows_changes
        and not model.frames
        and not model.timing.is_phased
    )
    streams = may_stream and case["run"]["ties"]  # half of those that may
    if streams:
        model.change(rule="never")
    counter = OperationCounter(model, reaches=True)
    recount = Recount(model)

    for operation_counter in (counter, recount):
        model.operation_counter = operation_counter
        if streams:
            stream = model.stream(seed=1)
            stream(x, 3)
            stream(x.flip(0), LASTS - 3)
        else:
            model(x, u)

    counts = counter.counts()
    reached = counts["reached"] | counts["biases"]
    for name, count in counts["events"].items():
        assert count == recount.synops[name], (name, case)
        assert reached.get(name, 0) == recount.reached[name], (name, case)


@pytest.mark.parametrize("first", [0, 20])
def test_a_plain_recount_finds_the_same(first):
    # benchmarks/robustness/random_networks.py takes any number of cases.
    for case, model in networks(range(first, first + 20)):
        check_counts(case, model)


def names_of_layers(layers):
    return ", ".join(type(layer).__name__ for layer in layers)


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
    ids=names_of_layers,
)
@torch.no_grad()
def test_a_chain_reaches_what_its_layers_reach(layers):
    shape = (2, 7, 6)
    chain = Chain.of_modules(layers, shape, shape)
    link = SimpleNamespace(chain=chain, modules=chain.modules)

    found = torch.from_numpy(chain.reach())

    synapses = reached_by(link)
    assert torch.equal(found.flatten(), synapses.sum(1).double())
    active = torch.rand(20, *shape, generator=torch.Generator().manual_seed(0)) < 0.05
    expected = sum(synapses[image.flatten()].any(0).sum().item() for image in active)
    assert count_reached(link, active) == expected


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # One spike reaches both output channels of its group, which are 1 x 1, and the
        # two spikes of the second image those of both groups.
        (nn.Conv2d(4, 4, 2, groups=2), 2 + 4),
        # Each of the three spikes is in a window of its own, in its own channel.
        (nn.AvgPool2d(2), 1 + 2),
        (Scale(torch.tensor(-2.0)), 1 + 2),
        # All four output channels take all inputs.
        (nn.Conv2d(4, 4, 2), 4 + 4),
    ],
    ids=["groups", "average pool", "scale", "no groups"],
)
@torch.no_grad()
def test_spikes_reach_the_neurons_of_their_own_channels(layer, expected):
    shape = (4, 2, 2)
    chain = Chain.of_modules([layer], shape, shape)
    link = SimpleNamespace(chain=chain, modules=chain.modules)
    active = torch.zeros(2, *shape, dtype=torch.bool)
    active[0, 0, 0, 1] = True
    active[1, 1, 1, 1] = True
    active[1, 3, 0, 0] = True

    assert count_reached(link, active) == expected


@pytest.mark.parametrize(
    ("words", "picojoules"), [(10, 10), (2048, 10), (8192, 20), (262144, 100)]
)
def test_memory_is_priced_by_its_size(words, picojoules):
    assert conventions()["with_memory"].access(words) == picojoules


def test_memory_between_and_beyond_known_sizes_is_priced():
    access = conventions()["with_memory"].access
    assert access(5120) == pytest.approx(15)  # half way from 2048 to 8192 words
    assert access(524288) > 180
    # 8192 bytes are 2048 words; a byte is a quarter of a word.
    assert access(8192, word=1) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("text", "instead", "words"),
    [
        pytest.param("add = 0.1\n", "", "a table has .*: it needs add", id="lacks a price"),
        pytest.param(
            "year", "jear", "got an unexpected keyword argument 'jear'", id="unknown key"
        ),
        pytest.param("add = 0.1", "add = -1", "-1 is no number from 0 to 1e", id="negative"),
        pytest.param(
            "[10, 20, 100]",
            "[10, 20, 1]",
            "memory: give .* and as many picojoules, which do not fall",
            id="falling prices",
        ),
    ],
)
def test_a_convention_that_is_none_is_refused(tmp_path, text, instead, words):
    good = (CONVENTIONS / "with_memory.toml").read_text()
    bad = good.replace(text, instead, 1)
    assert bad != good
    path = tmp_path / "own.toml"
    path.write_text(bad)
    with pytest.raises(ModelError, match=f"own.toml: {words}"):
        read_convention(path)


@pytest.fixture(scope="module")
def x():
    return torch.rand(5, 1, 4, 6, generator=torch.Generator().manual_seed(1))


def small(**settings):
    """Make a network that blocks, for images of 4x6 pixels."""
    common = {"steps": 3, "gate": "block", "epsilon": 0.3, "fc_width": 5}
    return sparse_network(SMALL, (1, 4, 6), **{**common, **settings})


LABELS = torch.tensor([0, 1, 2, 0, 1])


def test_averages_are_exact_and_have_no_gradient():
    losses = Average()
    losses.add(2, loss=torch.tensor(2.0**23, requires_grad=True))
    losses.add(2, loss=torch.tensor(0.5))
    # Two times each, over 4; in float32 the sum would stay at 2 ** 24.
    assert losses.means() == {"loss": (2**24 + 1) / 4}
    assert not losses.sums["loss"].requires_grad


def test_averages_go_on_where_their_figures_lie():
    resumed = Average({"spikes": torch.zeros(2)}, 3)  # as a checkpoint has it
    resumed.add(1, spikes=torch.zeros(2, device="meta"))
    assert resumed.sums["spikes"].device.type == "meta"


def spiking_output(numbers):
    """Make the output for numbered images: image n has n steps and 3 n spikes."""
    n = torch.tensor(numbers, dtype=torch.float32)
    return SNNOutput(
        logits=torch.stack([n, 0 * n, 0 * n - 1], 1),
        predictions=None,
        errors=None,
        spikes={"input": n, "features.1": 2 * n},
        steps=n.long(),
        is_open=None,
        comparisons=3 * n,
    )


def test_batches_of_several_sizes_are_one_evaluation():
    evaluation = Evaluation(None)
    for numbers in ([1, 2, 3], [4, 5, 6], [7]):
        images = torch.ones(len(numbers), 1, 1, 2)
        labels = torch.zeros(len(numbers), dtype=torch.int64)
        evaluation.add(spiking_output(numbers), images, labels, loss=numbers[0])

    found = evaluation.result()

    assert found["images"] == 7
    assert found["per_image"]["steps"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found["mean_steps"] == 4.0
    assert found["median_steps"] == 4
    assert found["p95_steps"] == pytest.approx(1 + 0.95 * 6)
    assert found["comparisons"] == 3 * 4.0
    assert found["spikes"] == {"input": 4.0, "features.1": 2 * 4.0}
    assert found["parts"]["total"] == 4 + 8
    assert found["loss"] == pytest.approx((3 * 1 + 3 * 4 + 7) / 7)


def test_an_ann_has_no_figures_of_spikes():
    first = [[1.0, 2.0], [3.0, 4.0]]
    second = [[5.0, 6.0], [7.0, 9.0]]
    errors = torch.tensor([first, second]).reshape(2, 2, 1, 1, 2)
    logits = torch.tensor([[1.0, 3.0, 2.5], [0.0, 1.0, -2.0]])
    evaluation = Evaluation(None)
    evaluation.add(ANNOutput(logits, None, errors), torch.ones(2, 1, 1, 2), torch.tensor([1, 0]))

    found = evaluation.result()

    per_image = found.pop("per_image")
    assert {name: values.tolist() for name, values in per_image.items()} == {
        "label": [1, 0],
        "found": [1, 1],
        "correct": [True, False],
        "margin": [3 - 2.5, 1 - 0.0],
        # of the last step
        "error": [5.0 + 6.0, 7.0 + 9.0],
    }
    assert found.pop("images_per_second") * found.pop("seconds") == pytest.approx(2)
    assert found == {"images": 2, "accuracy": 0.5, "error": (11 + 16) / 2}


def test_figures_of_spiking_images():
    output = spiking_output([2, 3])._replace(errors=torch.ones(2, 2, 1, 1, 2))
    images = torch.tensor([0.25, -0.25, 0.5, 0.0]).reshape(2, 1, 1, 2)

    found = figures_per_image(output, images, torch.tensor([0, 1]))

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
    model = small(encoding=encoding)

    output = model(x, seed=0)
    found = evaluate(model, x, LABELS)

    assert found["spikes"].keys() == output.spikes.keys()
    for name, count in output.spikes.items():
        assert found["spikes"][name] == pytest.approx(count.double().mean().item())
    assert found["comparisons"] == output.comparisons.mean(dtype=torch.float64).item()
    assert found["comparisons"] > 0
    joules = energies(found["operations"], found["comparisons"], encoding == "direct")
    assert joules.items() <= found.items()
    for values in found["per_image"].values():
        assert not values.requires_grad


@pytest.mark.parametrize("is_spiking", [True, False])
def test_evaluate_runs_in_evaluation_and_leaves_the_mode(x, is_spiking):
    if is_spiking:
        model = small()
    else:
        model = VGG_wFeedback(plan=SMALL, image_shape=(1, 4, 6), fc_width=5, labels=3)

    in_evaluation = evaluate(model.eval(), x, LABELS)
    assert not model.training
    in_training = evaluate(model.train(), x, LABELS)
    assert model.training

    # A dropout of 1/2 would show.
    margins = in_evaluation["per_image"]["margin"].tolist()
    assert in_training["per_image"]["margin"].tolist() == margins
    # Operations are those of an SNN.
    assert ("operations" in in_evaluation) == is_spiking
    assert ("energy_joules" in in_evaluation) == is_spiking

    with pytest.raises(ModelError):
        evaluate(model, x[:, :, :3], LABELS)
    assert model.training


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda x, labels: [ImageSet("own", x, labels)], id="ImageSet"),
        pytest.param(lambda x, labels: [TensorDataset(x, labels)], id="Dataset"),
        pytest.param(
            lambda x, labels: [DataLoader(TensorDataset(x, labels), batch_size=2)],
            id="DataLoader",
        ),
        pytest.param(lambda x, labels: [x.numpy(), labels.numpy()], id="arrays"),
    ],
)
def test_evaluate_takes_what_people_have(x, form):
    model = small()
    expected = evaluate(model, x, LABELS)
    found = evaluate(model, *form(x, LABELS))
    for name in ("accuracy", "spikes", "operations"):
        assert found[name] == expected[name]


def test_steps_at_once_keep_to_the_bound_on_memory(monkeypatch):
    model = small(steps=50)
    large = torch.empty(4, 3, 224, 224)
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 6 * 2 * model.graph.largest_signal)

    # 6 * 2 values of the largest signal: 6 steps of two images, 3 of four, and at least
    # one.
    assert chunk_length(model, large[:2], 50, False) == 6
    assert chunk_length(model, large, 50, False) == 3
    assert chunk_length(model, torch.empty(100, 1), 50, False) == 1
    # Images that are sure leave the batch before long.
    model.change(rule="confidence")
    assert chunk_length(model, large[:2], 50, True) == 1
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 100 * 2 * model.graph.largest_signal)
    assert chunk_length(model, large[:2], 50, True) == 4


def test_a_segment_of_the_backward_pass_is_one_chunk(monkeypatch):
    model = small(steps=50).train()
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 6 * 2 * model.graph.largest_signal)
    model.set_bptt_segments(4)
    assert chunk_length(model, torch.empty(4, 3, 224, 224), 50, False) == 13  # 50 / 4, rounded up
