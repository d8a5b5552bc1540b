"""ANNs that are no VGG, converted by from_ann.

Random ones run by every engine, residual ones are held against their quantised ANN, and
what cannot be taken is refused.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from examples import residual
from self_models import ModelError, evaluate, first_difference, from_ann, load
from self_models.evaluation.operations import OperationCounter
from self_models.neurons.norms import QCFS
from self_models.neurons.surrogates import SURROGATES
from self_models.running.outputs import INPUT, SNNOutput
from self_models.running.phased import PhasedNeuron
from self_models.traced.layers import arguments_of
from self_models.traced.tracing import trace_layers
from self_models.vgg_wFeedback import VGG_wFeedback
from wfeedback.runs.saving import save_checkpoint

SHAPE = (2, 8, 8)


def mean_over_pixels(signal):
    return signal.mean((2, 3))


def flatten(signal):
    return signal.flatten(1)


def concatenate(first, second):
    return torch.cat([first, second], 1)


@dataclass
class Step:
    """A layer or function, and the numbers of the signals that it takes."""

    run: Callable[..., torch.Tensor]
    sources: tuple[int, ...]


# What stands here more often is drawn more often.
STEP_KINDS = ("conv", "conv", "act", "act", "act", "add", "add", "cat", "pool", "norm")


class RandomANN(nn.Module):
    """A network of random layers and connections between them.

    Signal 0 is the input, and each step adds one to the signals.
    """

    def __init__(self, seed):
        super().__init__()
        self.draw = np.random.default_rng(seed)
        self.layers = nn.ModuleList()
        self.steps = []
        self.shapes = [(2, *SHAPE)]  # of the signals

        last = self.add_step(nn.Conv2d(2, 4, 3, padding=1), 0)
        for _ in range(self.draw.integers(4, 12)):
            last = self.add_random_step(last)
        if self.draw.random() < 0.5:
            last = self.add_step(nn.ReLU(), last)
        size = self.shapes[last][-1]
        last = self.add_step(mean_over_pixels if size in (2, 4) else flatten, last)
        if self.draw.random() < 0.5:
            last = self.add_step(nn.Linear(self.shapes[last][1], 12), last)
            last = self.add_step(nn.ReLU(), last)
        self.add_step(nn.Linear(self.shapes[last][1], 5), last)

    def choose(self, *values):
        """Draw one of these values."""
        return values[self.draw.integers(len(values))]

    @torch.no_grad()
    def add_step(self, run, *sources):
        """Add a step that takes these signals, and return the number of its signal."""
        if isinstance(run, nn.Module):
            self.layers.append(run.eval())
        self.steps.append(Step(run, sources))
        output = run(*[torch.zeros(self.shapes[source]) for source in sources])
        self.shapes.append(tuple(output.shape))
        return len(self.shapes) - 1

    def add_random_step(self, last):
        """Add a step behind a signal, unless the kind that is drawn does not fit there.

        Returns the number of the signal that is now the last.
        """
        _, channels, size, _ = self.shapes[last]
        kind = self.choose(*STEP_KINDS)
        if kind == "conv":
            return self.add_step(self.random_conv(channels, size), last)
        if kind == "act":
            return self.add_step(self.choose(nn.ReLU(), nn.ReLU(), nn.ReLU6()), last)
        if kind == "norm":
            return self.add_step(nn.BatchNorm2d(channels), last)
        if kind in ("add", "cat"):
            return self.add_join(kind, last)
        if size not in (4, 8):
            return last
        return self.add_step(self.random_pool(), last)

    def add_join(self, kind, last):
        """Join a signal with another one of its shape, if there is one.

        Returns the number of the signal that is now the last.
        """
        partners = []
        for number, shape in enumerate(self.shapes):
            if number not in (0, last) and shape == self.shapes[last]:
                partners.append(number)
        if not partners:
            return last
        if kind == "add":
            return self.add_step(torch.add, last, self.choose(*partners))
        if self.shapes[last][1] < 9:
            return self.add_step(concatenate, last, self.choose(*partners))
        return last

    def random_conv(self, channels, size):
        """Make a plain or a depthwise convolution for an image of this size."""
        groups = self.choose(1, 1, channels)
        kernel_size = self.choose(1, 2, 3)
        stride = self.choose(1, 1, 2)
        padding = 1
        if size > 3 or kernel_size == 1:
            padding = self.choose(0, 1)
        if kernel_size == 1:
            padding = 0
        width = int(self.draw.integers(1, 5)) if groups == 1 else channels
        bias = bool(self.choose(0, 1))
        return nn.Conv2d(channels, width, kernel_size, stride, padding, groups=groups, bias=bias)

    def random_pool(self):
        """Make an average pool, or, where spikes come in, more often a maximum pool."""
        if isinstance(self.steps[-1].run, nn.ReLU) and self.draw.random() < 0.7:
            return nn.MaxPool2d(2)
        return nn.AvgPool2d(2)

    def forward(self, x):
        signals = [x]
        for step in self.steps:
            signals.append(step.run(*[signals[source] for source in step.sources]))
        return signals[-1]


@torch.no_grad()
def round_to_grid(model, seed):
    """Draw weights, biases and thresholds that make all sums exact."""
    draw = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if name.endswith((".threshold", ".scale")):
            value.fill_(2.0 ** torch.randint(-1, 2, (), generator=draw).item())
        elif not name.endswith("leak"):
            value.copy_(torch.randint(-3, 5, value.shape, generator=draw) / 4)


UPDATES = ("phased", "immediate", "delayed")


@torch.no_grad()
def check_events(seed, update):
    """Compare spikes and logits of every timestep, and operations, of all engines."""
    torch.manual_seed(seed)
    x = torch.randint(0, 17, (4, *SHAPE), generator=torch.Generator().manual_seed(seed)) / 16
    model = from_ann(RandomANN(seed), x, 3, update, calibrate=False)
    round_to_grid(model, seed)
    assert model.runs_by == "event", model.stays

    event = model(x)
    event_operations = evaluate(model, x, torch.arange(4))["operations"]
    model.engine = None
    dense = model(x)
    dense_operations = evaluate(model, x, torch.arange(4))["operations"]
    model.batched = False
    reference = model(x)

    assert model.runs_by == "reference"
    # MACs are left out: sums that are 0 by chance make other ones.
    for kind in ("event_acs", "effective_acs", "dense", "activation_sparsity"):
        assert event_operations[kind] == pytest.approx(dense_operations[kind])
    for output in (event, dense):
        assert first_difference(output, reference) is None
        torch.testing.assert_close(output.logits_by_step, reference.logits_by_step)


@pytest.mark.parametrize("seed", range(40))
def test_events_are_step_on_random_networks(seed):
    # benchmarks/robustness/random_networks.py takes more networks, with all updates.
    check_events(seed, UPDATES[seed % len(UPDATES)])


def run_layers(layers, images):
    """Run these Layers on images, and return the output of the last."""
    values = {INPUT: images}
    for layer in layers:
        total = sum(values[source] for source in layer.sources)
        values[layer.name] = layer.module(total)
    return values[layers[-1].name]


def with_statistics(model):
    """Give norms that scale and shift, as those of a trained model do."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return model.eval()


class NormBesideItsInput(nn.Module):
    """A convolution whose output a norm takes, and a sum behind that norm, too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.end = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(108, 5))

    def forward(self, x):
        shared = self.conv(x)
        return self.end(self.norm(shared) + shared)


@torch.no_grad()
def check_traced(ann):
    """Compare the logits of an ANN with those of its traced Layers."""
    images = torch.rand(4, *SHAPE)
    found = run_layers(trace_layers(ann, images), images)
    torch.testing.assert_close(found, ann(images), rtol=1e-4, atol=1e-5)


def test_a_norm_is_not_folded_into_a_layer_that_others_take_too():
    torch.manual_seed(0)
    check_traced(with_statistics(NormBesideItsInput()))


@pytest.mark.parametrize("seed", range(40))
def test_traced_layers_are_the_random_ann(seed):
    torch.manual_seed(seed)
    check_traced(with_statistics(RandomANN(seed)))


def conv_and_norm(channels, width, kernel_size, stride=1):
    """Make a convolution that keeps the size at stride 1, and its norm."""
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size, stride, padding, bias=False),
        nn.BatchNorm2d(width),
    )


class Block(nn.Module):
    """Two convolutions and a way around them; `activation` makes a nonlinearity."""

    def __init__(self, channels, width, stride, activation):
        super().__init__()
        self.first = conv_and_norm(channels, width, 3, stride)
        self.second = conv_and_norm(width, width, 3)
        self.around = nn.Sequential()
        if stride > 1:
            self.around = conv_and_norm(channels, width, 1, stride)
        self.first_activation = activation()
        self.last_activation = activation()

    def forward(self, x):
        out = self.second(self.first_activation(self.first(x)))
        out += self.around(x)
        return self.last_activation(out)


def resnet(blocks, width, activation=nn.ReLU):
    """Make a ResNet for CIFAR-10: it begins with 3 x 3 and has no maximum pool."""
    layers = [conv_and_norm(3, width, 3), activation()]
    channels = width
    for stage in range(4):
        stage_width = width * 2**stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Block(channels, stage_width, stride, activation))
            channels = stage_width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def quantised_resnet18():
    """Make a ResNet-18 of random weights with QCFS, whose norms do not round."""
    ann = resnet(blocks=2, width=16, activation=lambda: QCFS(4, 2.0)).eval()
    for module in ann.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return ann


@torch.no_grad()
def test_resnet18_has_the_logits_of_its_quantised_ann():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    ann = quantised_resnet18()

    snn = from_ann(ann, x, 4, "phased")

    assert len(snn.neurons()) == 17
    assert snn.runs_by == "event"
    assert snn.latency == 4 * 18
    with OperationCounter(snn) as counter:
        assert torch.equal(snn(x).logits.argmax(1), ann(x).argmax(1))

    # Behind a sum, too, a neuron gets one bias in each of 4 timesteps.
    biased = [*snn.neurons(), snn.graph.ends["output"]]
    neurons = sum(prod(snn.graph.shapes[name]) for name in biased)
    assert sum(counter.counts()["biases"].values()) == 4 * len(x) * neurons

    # In float64, where folding and the worth of a spike do not round, logits are exact.
    snn.engine = None
    snn.double()
    x = x.double()
    expected = ann.double()(x)
    for batched, count in ((True, 2), (False, 1)):
        snn.batched = batched
        logits = snn(x[:count]).logits / 4
        torch.testing.assert_close(logits, expected[:count], rtol=0, atol=1e-9)


def test_the_example_shows_what_its_quantised_ann_answers(capsys):
    residual.main(limit=640, timesteps=(1, 4), calibration_images=50)

    rows = []
    for line in capsys.readouterr().out.splitlines():
        if re.match(r"\| \d", line):
            rows.append(line.strip("| ").split(" | "))
    assert [row[0] for row in rows] == ["1", "4"]
    for _, ann_accuracy, snn_accuracy, other_class, *_ in rows:
        assert abs(float(ann_accuracy) - float(snn_accuracy)) < 1
        assert int(other_class) <= 3  # a sum may be rounded to another level


def test_a_phased_neuron_keeps_what_comes_before_its_phase_by_hand():
    layer = PhasedNeuron(SURROGATES.find("Linear")(0.3, 0.01), "phased", initial_potential=0.5)
    layer.fires_in = 2
    layer.steps = 2  # T
    state = layer.at_rest(torch.zeros(1, 1))
    state = state._replace(zero_input_response=torch.full((1, 1), 0.25))  # quiet

    seen = []
    for drive in torch.tensor([0.75, 0.25, 0.25, 0.25, 9, 9]).view(-1, 1, 1):
        spikes, state = layer(drive, state)
        seen.append((spikes.item(), state.v.item()))

    # At rest V = 0.5. In phase 0 what exceeds the quiet drive of 0.25 is added: 0.5 of
    # 0.75, nothing of 0.25. In phase 1 the neuron charges with the drive itself: 0.25
    # twice. In phase 2 it fires, with threshold 1: V = 1.5 - 1 = 0.5, and then V is too
    # low. The drives of 9 come too late.
    assert seen == [(0, 1), (0, 1), (0, 1.25), (0, 1.5), (1, 0.5), (0, 0.5)]


@pytest.fixture(scope="module")
def small_resnet():
    """Make a ResNet whose norms have seen images; return it and the images."""
    torch.manual_seed(0)
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    ann = resnet(blocks=1, width=4)
    ann(x)  # statistics
    return ann.eval(), x


@pytest.mark.parametrize("update", ["immediate", "phased"])
def test_a_converted_network_is_fine_tuned(small_resnet, update):
    ann, x = small_resnet
    snn = from_ann(ann, x, 3, update).train()

    snn(x, seed=0).logits.square().mean().backward()

    weights = [value for name, value in snn.named_parameters() if name.endswith("weight")]
    assert weights
    assert all(weight.grad.any() for weight in weights)


def test_a_converted_network_is_saved_and_streams(small_resnet, tmp_path):
    ann, x = small_resnet
    snn = from_ann(ann, x, 3, "immediate")

    stream = snn.stream()
    save_checkpoint(tmp_path / "x.pth", snn)

    assert torch.equal(stream(x, 3).logits, load(tmp_path / "x.pth")(x).logits)


@torch.no_grad()
def test_a_maximum_pool_that_overlaps_runs_dense():
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.ReLU6(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(6, 6, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 5),
    ).eval()
    x = torch.rand(16, 1, 12, 12)

    snn = from_ann(ann, x, 64)

    assert snn.runs_by == "reference"
    assert "network._2 (CountingMaxPool)" in snn.stays
    torch.testing.assert_close(snn(x).logits / 64, ann(x), rtol=0, atol=0.01)


class Custom(nn.Module):
    """A module that runs a function of it and x.

    It has a convolution, a nonlinearity and a last layer.
    """

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.act = nn.ReLU()
        self.end = nn.Sequential(nn.Flatten(), nn.Linear(72, 5))
        self.scale = nn.Parameter(torch.ones(1))
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def stack(*layers):
    """Put layers between a convolution and a last layer."""
    return nn.Sequential(nn.Conv2d(1, 2, 3), *layers, nn.Flatten(), nn.Linear(72, 5))


def with_hook(module):
    """Add a hook that doubles what a module returns."""
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


class SqueezeExcite(nn.Module):
    """A convolution whose channels are multiplied by a function of their means."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.end = nn.Sequential(nn.Flatten(), nn.Linear(72, 5))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(2, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        x = self.conv(x).relu()
        return self.end(x * self.gate(x))


def attention(self, x):
    """Weight channels by each other; the first product is the one to be named."""
    x = self.conv(x).flatten(2)
    weights = torch.bmm(x, x.transpose(1, 2)).softmax(2)
    return self.end((weights @ x).flatten(1))


def squares_by_einsum(self, x):
    x = self.conv(x)
    return self.end(torch.einsum("bchw,bchw->bchw", x, x))


def joins_images(self, x):
    x = self.act(self.conv(x))
    return self.end(torch.cat([x, x]))  # dimension 0 by default


@pytest.mark.parametrize(
    ("ann", "words"),
    [
        pytest.param(
            SqueezeExcite(),
            r"^operation mul of test_tracing.py, line \d+ "
            r"\(return self.end\(x \* self.gate\(x\)\)\) "
            "multiplies signals with each other, and a neuron here adds them: signals are joined",
            id="squeeze and excite",
        ),
        pytest.param(
            Custom(attention),
            "^operation bmm of .* multiplies signals with each other",
            id="attention",
        ),
        pytest.param(
            Custom(squares_by_einsum),
            "^operation einsum of .* multiplies signals with each other",
            id="einsum",
        ),
        pytest.param(
            Custom(lambda self, x: self.end(self.conv(x).mul_(x.shape[0]))),
            "^operation mul_ of .* is nothing that a network here has: signals are joined",
            id="factor in place",
        ),
        pytest.param(
            Custom(lambda self, x: self.end(self.conv(x).clamp(-1, 1))),
            r"^operation clamp of .* has other bounds: clamp\(min=0\), a ReLU, and clamp\(0, 6\)",
            id="clamp",
        ),
        pytest.param(
            Custom(lambda self, x: self.end(self.conv(x).mean(3).relu())),
            r"^operation relu of .* takes a mean over rows, or over columns, alone: flatten\(1\) ",
            id="mean over columns",
        ),
        pytest.param(
            Custom(lambda self, x: self.conv(x).mean(3).mean(1)),
            "^operation mean of .* is nothing that a network here has",
            id="mean over channels",
        ),
        pytest.param(
            Custom(lambda self, x: self.end(F.gelu(self.conv(x)))),
            r"^operation gelu of test_tracing.py, line \d+ \(.*gelu.*\) .*: train with nn.ReLU",
            id="gelu",
        ),
        pytest.param(
            Custom(lambda self, x: self.end(self.act(self.conv(x)) * self.scale)),
            "line .* takes a tensor that is no signal: signals",
            id="factor that is a parameter",
        ),
        pytest.param(
            Custom(lambda self, x: self.end(self.act(self.conv(x)) + 1)),
            "line .* adds what is no signal .*: constants belong",
            id="constant",
        ),
        pytest.param(
            Custom(lambda self, x: self.end(x if x.sum() > 0 else -x)),
            "line .* cannot be traced: what it does depends on values",
            id="branch",
        ),
        pytest.param(
            Custom(lambda self, x: self.end(self.conv(x).view(-1, 36))),
            "line .*view.* gives a signal another shape: Flatten",
            id="view",
        ),
        pytest.param(
            Custom(lambda self, x: self.act(self.conv(x))),
            "must return one tensor of logits",
            id="no last layer",
        ),
        pytest.param(
            Custom(joins_images),
            "joins signals along another dimension than channels",
            id="joined images",
        ),
        pytest.param(
            stack(with_hook(nn.ReLU())),
            r"layer 1 \(ReLU\) has a hook, or a forward of its own: remove it",
            id="hook",
        ),
        pytest.param(
            stack(nn.MaxPool2d(1)),
            r"layer 1 \(MaxPool2d\) pools what is no spike: put it right behind",
            id="maximum pool",
        ),
        pytest.param(
            stack(nn.BatchNorm2d(5)),
            r"layer 1 \(BatchNorm2d\) does not run: RuntimeError: running_mean",
            id="norm of another width",
        ),
        pytest.param(None, "give an nn.Module, not a NoneType", id="no module"),
    ],
)
def test_what_cannot_be_taken_is_named_by_its_line_or_layer(ann, words):
    with pytest.raises(ModelError, match=words) as error:
        from_ann(ann, torch.rand(2, 1, 8, 8))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 330


class WithMean(nn.Module):
    """A convolution and a ReLU, a mean over pixels by a function, and a last layer."""

    def __init__(self, mean):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.mean = mean
        self.end = nn.Linear(6, 5)

    def forward(self, x):
        return self.end(self.mean(self.conv(x).relu()))


class WithNonlinearity(nn.Module):
    """A convolution, a nonlinearity by a function, and a last layer."""

    def __init__(self, nonlinearity):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.nonlinearity = nonlinearity
        self.end = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))

    def forward(self, x):
        return self.end(self.nonlinearity(self.conv(x)))


@dataclass
class Form:
    """What trace_layers and from_ann make of an ANN."""

    layers: list[tuple]  # of each its class, its arguments, and the places of its sources
    output: SNNOutput


def form_of(network, function, x):
    """Make the network with this function, and return its Form for images x."""
    torch.manual_seed(0)
    ann = network(function)
    traced = trace_layers(ann, x)
    places = {layer.name: place for place, layer in enumerate(traced)}
    layers = []
    for layer in traced:
        sources = [places.get(source) for source in layer.sources]  # None: the input
        layers.append((type(layer.module), arguments_of(layer.module), sources))
    return Form(layers, from_ann(ann, x, 6)(x))


@pytest.mark.parametrize(
    ("network", "usual", "other"),
    [
        pytest.param(WithNonlinearity, torch.relu, torch.relu_, id="relu_"),
        pytest.param(WithNonlinearity, torch.relu, lambda x: x.clamp(min=0), id="clamp(min=0)"),
        pytest.param(WithNonlinearity, torch.relu, lambda x: x.clamp(0), id="clamp(0)"),
        pytest.param(WithNonlinearity, torch.relu, lambda x: x.clamp_(0.0, None), id="clamp_"),
        pytest.param(
            WithNonlinearity, torch.relu, lambda x: torch.clamp(x, min=0), id="torch.clamp"
        ),
        pytest.param(
            WithNonlinearity, torch.relu, lambda x: torch.clip(input=x, min=0), id="torch.clip"
        ),
        pytest.param(WithNonlinearity, torch.relu, lambda x: x.clamp_min(0), id="clamp_min"),
        pytest.param(
            WithNonlinearity, torch.relu, lambda x: torch.clamp_min(x, min=0), id="torch.clamp_min"
        ),
        pytest.param(WithNonlinearity, F.relu6, lambda x: x.clamp(0, 6), id="clamp(0, 6)"),
        pytest.param(
            WithMean, mean_over_pixels, lambda x: x.mean(3).mean(2), id="mean(3).mean(2)"
        ),
        pytest.param(
            WithMean, mean_over_pixels, lambda x: x.mean(2).mean(-1), id="mean(2).mean(-1)"
        ),
        pytest.param(
            WithMean,
            mean_over_pixels,
            lambda x: torch.mean(torch.mean(x, dim=-1), dim=2),
            id="torch.mean",
        ),
        pytest.param(
            WithMean,
            mean_over_pixels,
            lambda x: x.mean(3, keepdim=True).mean(2, keepdim=True).flatten(1),
            id="mean(keepdim=True)",
        ),
    ],
)
def test_other_words_for_the_same_make_the_same_network(network, usual, other):
    torch.manual_seed(1)
    x = torch.rand(8, 1, 8, 6)

    expected = form_of(network, usual, x)
    found = form_of(network, other, x)

    assert found.layers == expected.layers
    assert len(found.layers) >= 4
    assert torch.equal(found.output.logits_by_step, expected.output.logits_by_step)
    all_spikes = list(found.output.spikes_by_step.values())
    expected_spikes = list(expected.output.spikes_by_step.values())
    assert len(all_spikes) == len(expected_spikes)
    assert all(map(torch.equal, all_spikes, expected_spikes))
    assert all(spikes.any() for spikes in expected_spikes)


@pytest.mark.parametrize(
    ("mean", "pool"),
    [
        pytest.param(lambda x: x.mean(3).flatten(1), (1, 6), id="mean(3)"),
        pytest.param(lambda x: torch.mean(x, 2).flatten(1), (6, 1), id="mean(2)"),
        pytest.param(lambda x: x.mean(3, keepdim=True).flatten(1), (1, 6), id="keepdim"),
        pytest.param(lambda x: x.mean(-1).view(x.shape[0], -1), (1, 6), id="view"),
    ],
)
def test_a_mean_over_one_axis_is_a_pool_of_that_axis(mean, pool):
    torch.manual_seed(0)
    ann = WithMean(mean)
    ann.end = nn.Linear(36, 5)
    x = torch.rand(8, 1, 8, 8)  # as many rows as columns: they must not be confused
    pools = [layer.module for layer in trace_layers(ann, x) if layer.name.endswith("_pool")]

    snn = from_ann(ann, x, 200)

    assert [module.kernel_size for module in pools] == [pool]
    assert torch.allclose(snn(x).logits / 200, ann(x), atol=0.02)
    assert snn.runs_by == "event"


class WithChild(nn.Module):
    """A residual network with x + x, one of whose layers has a name to choose."""

    def __init__(self, name):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.name = name
        self.add_module(name, nn.Conv2d(3, 3, 3, padding=1))
        self.end = nn.Linear(3, 4)

    def forward(self, x):
        x = self.conv(x).relu()
        x = (x + self.get_submodule(self.name)(x)).relu()
        return self.end((x + x).relu().mean((2, 3)))


@pytest.mark.parametrize(
    # what operations are called; layers that from_ann adds; what nn.ModuleDict has
    "name",
    ["add", "relu", "mean", "cat", "relu_worth", "add_1_again", "mean_pool", "keys", "pop"],
)
def test_a_layer_may_have_any_name(tmp_path, name):
    x = torch.rand(8, 1, 6, 6)
    torch.manual_seed(0)
    usual = from_ann(WithChild("usual"), x, 5, engine="dense")
    torch.manual_seed(0)
    snn = from_ann(WithChild(name), x, 5, engine="dense")

    assert torch.equal(snn(x).logits, usual(x).logits)
    save_checkpoint(tmp_path / "x.pth", snn)
    assert torch.equal(load(tmp_path / "x.pth", engine="dense")(x).logits, usual(x).logits)


class ReusedSignal(nn.Module):
    """A signal that is used again after a ReLU6 has clipped it.

    A ReLU6 in place changes it, but only where it is above 6.
    """

    def __init__(self, inplace):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        nn.init.constant_(self.conv.weight, 8.0)
        nn.init.zeros_(self.conv.bias)
        self.act = nn.ReLU6(inplace)
        self.end = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

    def forward(self, x):
        x = self.conv(x).relu()
        return self.end(self.act(x) + x)


def test_a_network_that_computes_something_else_for_one_image_is_refused():
    torch.manual_seed(0)
    x = torch.rand(8, 1, 8, 8) / 2
    x[-1] *= 2  # times the weight of 8, only this image gets beyond the ReLU6's bound

    with pytest.raises(ModelError, match="computes other logits than the model: is there a hook"):
        from_ann(ReusedSignal(inplace=True), x)
    from_ann(ReusedSignal(inplace=False), x)


@pytest.fixture(scope="module")
def ann_of_this_package():
    plan = [[4, "D", 6, 6, "D"], ["U", 4, "drop", "U", "in"]]
    return VGG_wFeedback(plan=plan, fc_width=8)


def test_an_ann_of_this_package_is_told_what_converts_it(ann_of_this_package):
    wrapper = Custom(lambda self, x: self.act(x).logits)
    wrapper.act = ann_of_this_package

    for ann in (ann_of_this_package, wrapper):
        with pytest.raises(ModelError, match=r"by `wfeedback snn --pretrained_ann PATH`$"):
            from_ann(ann, torch.rand(2, 1, 28, 28))


def test_parts_of_an_ann_of_this_package_are_taken_as_any_others(ann_of_this_package):
    parts = Custom(lambda self, x: F.gelu(self.act.features[0](x)))
    parts.act = ann_of_this_package

    with pytest.raises(ModelError, match=r"^operation gelu of "):
        from_ann(parts, torch.rand(2, 1, 28, 28))


def test_a_network_that_spikes_already_is_refused():
    x = torch.rand(2, 1, 28, 28)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 3))
    snn = from_ann(ann, x)

    with pytest.raises(ModelError, match="sends with spikes already: give an ANN"):
        from_ann(snn, x)
