"""ANNs that are no VGG, by from_ann: random ones by every engine, residual ones against their quantised ANN, what is refused."""

from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from examples import residual
from harness.runs.saving import save_checkpoint
from self_models import ModelError, evaluate, first_difference, from_ann, load
from self_models.counting.operations import OperationCounter
from self_models.guests.from_ann.layers import arguments_of
from self_models.guests.from_ann.tracing import trace_layers
from self_models.guests.phased import PhasedNeuron
from self_models.layers.norms import QCFS
from self_models.layers.surrogates import SURROGATES
from self_models.runtime.outputs import INPUT
from self_models.vgg_wFeedback import VGG_wFeedback

SHAPE = (2, 8, 8)


class Random(nn.Module):
    """A network of random layers and connections between them; a step is (layer or function, numbers of what it takes)."""

    def __init__(self, seed):
        super().__init__()
        draw = np.random.default_rng(seed)
        some = lambda *values: values[draw.integers(len(values))]  # noqa: E731
        self.steps, self.layers, signals = [], nn.ModuleList(), [torch.zeros(2, *SHAPE)]

        def step(run, *taken):
            self.layers.extend([run.eval()] if isinstance(run, nn.Module) else [])
            self.steps.append((run, taken))
            signals.append(run(*(signals[each] for each in taken)))
            return len(signals) - 1

        last = step(nn.Conv2d(2, 4, 3, padding=1), 0)
        for _ in range(draw.integers(4, 12)):
            channels, size = signals[last].shape[1:3]
            alike = [
                n
                for n, signal in enumerate(signals[1:], 1)
                if signal.shape == signals[last].shape and n != last
            ]
            kind = some("conv", "conv", "act", "act", "act", "add", "add", "cat", "pool", "norm")
            if kind == "conv":
                groups, kernel, stride = some(1, 1, channels), some(1, 2, 3), some(1, 1, 2)
                padding = some(0, 1) if size > 3 or kernel == 1 else 1
                width = groups * int(draw.integers(1, 5)) if groups == 1 else channels
                conv = nn.Conv2d(
                    channels,
                    width,
                    kernel,
                    stride,
                    padding * (kernel > 1),
                    groups=groups,
                    bias=bool(some(0, 1)),
                )
                last = step(conv, last)
            elif kind == "act":
                last = step(some(nn.ReLU(), nn.ReLU(), nn.ReLU6()), last)
            elif kind == "norm":
                last = step(nn.BatchNorm2d(channels), last)
            elif kind == "add" and alike:
                last = step(torch.add, last, some(*alike))
            elif kind == "cat" and alike and channels < 9:
                last = step(lambda *both: torch.cat(both, 1), last, some(*alike))
            elif kind == "pool" and size in (4, 8):
                spikes = isinstance(self.steps[-1][0], nn.ReLU) and draw.random() < 0.7
                last = step(nn.MaxPool2d(2) if spikes else nn.AvgPool2d(2), last)
        last = step(nn.ReLU(), last) if draw.random() < 0.5 else last
        mean, flat = lambda signal: signal.mean((2, 3)), lambda signal: signal.flatten(1)
        last = step(mean if signals[last].shape[-1] in (2, 4) else flat, last)
        if draw.random() < 0.5:
            last = step(nn.ReLU(), step(nn.Linear(signals[last].shape[1], 12), last))
        step(nn.Linear(signals[last].shape[1], 5), last)

    def forward(self, x):
        signals = [x]
        for run, taken in self.steps:
            signals.append(run(*(signals[each] for each in taken)))
        return signals[-1]


@torch.no_grad()
def on_a_grid(model, seed):
    """The model, with weights, biases and thresholds that make all sums exact."""
    draw = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if name.endswith((".threshold", ".scale")):
            value.fill_(2.0 ** torch.randint(-1, 2, (), generator=draw).item())
        elif not name.endswith("leak"):
            value.copy_(torch.randint(-3, 5, value.shape, generator=draw) / 4)
    return model


UPDATES = ("phased", "immediate", "delayed")


@torch.no_grad()
def check_events(seed, update):
    """Spikes and logits of every timestep, and the operations counted, by all engines."""
    torch.manual_seed(seed)
    x = torch.randint(0, 17, (4, *SHAPE), generator=torch.Generator().manual_seed(seed)) / 16
    model = on_a_grid(from_ann(Random(seed), x, 3, update, calibrate=False), seed)
    assert model.runs_by == "event", model.stays
    found, counted = model(x), evaluate(model, x, torch.arange(4))["operations"]
    model.engine = None
    dense, wanted = model(x), evaluate(model, x, torch.arange(4))["operations"]
    for kind in (
        "event_acs",
        "effective_acs",
        "dense",
        "activation_sparsity",
    ):  # sums that are 0 by chance make other MACs
        assert counted[kind] == pytest.approx(wanted[kind])
    model.batched = False
    reference = model(x)
    assert model.runs_by == "reference"
    for output in (found, dense):
        assert first_difference(output, reference) is None
        torch.testing.assert_close(output.logits_by_step, reference.logits_by_step)


@pytest.mark.parametrize("seed", range(40))
def test_events_are_step_on_random_networks(seed):
    """Each network with one of the updates.

    benchmarks/robustness/random_networks.py takes any number of networks with all updates.
    """
    check_events(seed, UPDATES[seed % len(UPDATES)])


def run_layers(layers, images):
    """What the last of these Layers makes of images."""
    values = {INPUT: images}
    for layer in layers:
        total = sum(values[source] for source in layer.sources)
        values[layer.name] = layer.module(total)
    return values[layers[-1].name]


def with_statistics(model):
    """The model with norms that scale and shift, as those that have been trained do."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return model.eval()


class Shared(nn.Module):
    """A convolution whose output a norm takes, and a sum behind that norm, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.end = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(108, 5))

    def forward(self, x):
        shared = self.conv(x)
        return self.end(self.norm(shared) + shared)


@torch.no_grad()
def check_traced(ann):
    """The Layers of an ANN give the ANN's logits."""
    images = torch.rand(4, *SHAPE)
    found = run_layers(trace_layers(ann, images), images)
    torch.testing.assert_close(found, ann(images), rtol=1e-4, atol=1e-5)


def test_a_norm_is_not_folded_into_a_layer_that_others_take_too():
    torch.manual_seed(0)
    check_traced(with_statistics(Shared()))


@pytest.mark.parametrize("seed", range(40))
def test_traced_layers_are_the_random_ann(seed):
    torch.manual_seed(seed)
    check_traced(with_statistics(Random(seed)))


class Block(nn.Module):
    """Two convolutions and a way around them; activation: () -> a new nonlinearity."""

    def __init__(self, channels, width, stride, activation):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        )
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        )
        self.around = nn.Sequential(
            nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        )
        self.around = self.around if stride > 1 else nn.Sequential()
        self.act1, self.act2 = activation(), activation()

    def forward(self, x):
        out = self.second(self.act1(self.first(x)))
        out += self.around(x)
        return self.act2(out)


def resnet(blocks, width, channels=3, activation=nn.ReLU):
    """The ResNet of CIFAR-10: 3 x 3 first, no pool, four stages of so many blocks."""
    layers, at = (
        [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), activation()],
        width,
    )
    for stage in range(4):
        for block in range(blocks):
            layers.append(Block(at, width << stage, 1 + (stage > 0 and block == 0), activation))
            at = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(at, 10))


@torch.no_grad()
def test_resnet18_has_the_logits_of_its_quantised_ann():
    """Of random weights, with QCFS: exactly, where folding and what a spike is worth do not round. Behind a sum, too, a neuron
    gets one bias in each of 4 timesteps."""
    torch.manual_seed(0)
    x, ann = (
        torch.rand(2, 3, 32, 32) * 2 - 1,
        resnet(2, 32, activation=lambda: QCFS(4, 2.0)).eval(),
    )
    for module in ann.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            module.eps, _ = 0.0, module.bias.uniform_(-0.3, 0.3)
    snn = from_ann(ann, x, 4, "phased")
    assert len(snn.neurons()) == 17 and snn.runs_by == "event" and snn.latency == 4 * 18
    with OperationCounter(snn) as counter:
        assert torch.equal(snn(x).logits.argmax(1), ann(x).argmax(1))
    biased = [*snn.neurons(), snn.graph.ends["output"]]
    assert sum(counter.counts()["biases"].values()) == 4 * len(x) * sum(
        prod(snn.graph.shapes[name]) for name in biased
    )
    snn.engine, wanted = None, ann.double()(x.double())
    for batched, few in ((True, 2), (False, 1)):
        snn.double().batched = batched
        torch.testing.assert_close(
            snn(x.double()[:few]).logits / 4, wanted[:few], rtol=0, atol=1e-9
        )


def test_the_example_shows_what_its_quantised_ann_answers(capsys):
    residual.main(limit=640, timesteps=(1, 4), calibration_images=50)
    rows = [
        line.strip("| ").split(" | ")
        for line in capsys.readouterr().out.splitlines()
        if line[2:3].isdigit()
    ]
    assert [row[0] for row in rows] == ["1", "4"]
    for _, wanted, found, differ, *_ in rows:
        assert (
            abs(float(wanted) - float(found)) < 1 and int(differ) <= 3
        )  # a sum may be rounded to another level


def test_a_phased_neuron_keeps_what_comes_before_its_phase_by_hand():
    """T = 2, threshold 1, quiet 0.25, fires in phase 2: of 0.75 and 0.25 at first 0.5 stays; then 0.25 comes twice, as it is."""
    layer = PhasedNeuron(SURROGATES.find("Linear")(0.3, 0.01), "phased", initial_potential=0.5)
    layer.fires_in, layer.steps, seen = 2, 2, []
    state = layer.at_rest(torch.zeros(1, 1))._replace(zero_input_response=torch.full((1, 1), 0.25))
    for drive in torch.tensor([0.75, 0.25, 0.25, 0.25, 9, 9]).view(-1, 1, 1):
        spikes, state = layer(drive, state)
        seen.append((spikes.item(), state.v.item()))
    assert seen == [(0, 1), (0, 1), (0, 1.25), (0, 1.5), (1, 0.5), (0, 0.5)]


def test_it_is_fine_tuned_saved_and_streams(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    for update in ("immediate", "phased"):
        ann = resnet(1, 4)
        ann(x)  # statistics
        snn = from_ann(ann.eval(), x, 3, update)
        assert snn.train()(x, seed=0).logits.square().mean().backward() is None
        assert all(
            value.grad.any() for name, value in snn.named_parameters() if name.endswith("weight")
        )
        if update == "immediate":
            stream = snn.eval().stream()
            save_checkpoint(tmp_path / "x.pth", snn)
            assert torch.equal(stream(x, 3).logits, load(tmp_path / "x.pth")(x).logits)


@torch.no_grad()
def test_a_maximum_pool_that_overlaps_runs_dense():
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
    snn = from_ann(ann, x, 256)
    assert snn.runs_by == "reference" and "network._2 (CountingMaxPool)" in snn.stays
    torch.testing.assert_close(snn(x).logits / 256, ann(x), rtol=0, atol=0.03)


class Own(nn.Module):
    """A module of its own with this forward, of a convolution, a nonlinearity and a last layer."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.act, self.end = (
            nn.Conv2d(1, 2, 3),
            nn.ReLU(),
            nn.Sequential(nn.Flatten(), nn.Linear(72, 5)),
        )
        self.scale, self.way = nn.Parameter(torch.ones(1)), forward

    def forward(self, x):
        return self.way(self, x)


def row(*layers):
    return nn.Sequential(nn.Conv2d(1, 2, 3), *layers, nn.Flatten(), nn.Linear(72, 5))


def hooked(module):
    module.register_forward_hook(lambda module, given, output: 2 * output)
    return module


class SqueezeExcite(nn.Module):
    """A convolution whose channels are multiplied by what two more make of their means."""

    def __init__(self):
        super().__init__()
        self.conv, self.end = nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(72, 5))
        self.gate = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1), nn.ReLU()),
            *(nn.Conv2d(2, 2, 1), nn.Sigmoid()),
        )

    def forward(self, x):
        x = self.conv(x).relu()
        return self.end(x * self.gate(x))


def attention(self, x):
    """Of channels to each other, with a softmax before the product that is named."""
    x = self.conv(x).flatten(2)
    return self.end((torch.bmm(x, x.transpose(1, 2)).softmax(2) @ x).flatten(1))


@pytest.mark.parametrize(
    ("ann", "words"),
    [
        (
            SqueezeExcite(),
            r"^operation mul of test_tracing.py, line \d+ \(return self.end\(x \* self.gate\(x\)\)\) "
            "multiplies signals with each other, and a neuron here adds them: signals are joined",
        ),
        (Own(attention), "^operation bmm of .* multiplies signals with each other"),
        (
            Own(lambda self, x: self.end(torch.einsum("bchw,bchw->bchw", *2 * [self.conv(x)]))),
            "^operation einsum of .* multiplies signals with each other",
        ),
        (
            Own(lambda self, x: self.end(self.conv(x).mul_(x.shape[0]))),
            "^operation mul_ of .* is nothing that a network here has: signals are joined",
        ),
        (
            Own(lambda self, x: self.end(self.conv(x).clamp(-1, 1))),
            r"^operation clamp of .* has other bounds: clamp\(min=0\), a ReLU, and clamp\(0, 6\)",
        ),
        (
            Own(lambda self, x: self.end(self.conv(x).mean(3).relu())),
            r"^operation mean of .* is nothing that .*: x.mean\(\(2, 3\)\), the mean over rows and",
        ),
        (
            Own(lambda self, x: self.conv(x).mean(3).mean(1)),
            "^operation mean of .* is nothing that a network here has",
        ),
        (
            Own(lambda self, x: self.end(F.gelu(self.conv(x)))),
            r"^operation gelu of test_tracing.py, line \d+ \(.*gelu.*\) .*: train with nn.ReLU",
        ),
        (
            Own(lambda self, x: self.end(self.act(self.conv(x)) * self.scale)),
            "line .* takes a tensor that is no signal: signals",
        ),
        (
            Own(lambda self, x: self.end(self.act(self.conv(x)) + 1)),
            "line .* adds what is no signal .*: constants belong",
        ),
        (
            Own(lambda self, x: self.end(x if x.sum() > 0 else -x)),
            "line .* cannot be traced: what it does depends on values",
        ),
        (
            Own(lambda self, x: self.end(self.conv(x).view(-1, 36))),
            "line .*view.* gives a signal another shape: Flatten",
        ),
        (Own(lambda self, x: self.act(self.conv(x))), "must return one tensor of logits"),
        (
            Own(lambda self, x: self.end(torch.cat([self.act(self.conv(x))] * 2))),
            "joins signals along another dimension than channels",  # torch's default is 0
        ),
        (
            row(hooked(nn.ReLU())),
            r"layer 1 \(ReLU\) has a hook, or a forward of its own: remove it",
        ),
        (
            row(nn.MaxPool2d(1)),
            r"layer 1 \(MaxPool2d\) pools what is no spike: put it right behind",
        ),
        (
            row(nn.BatchNorm2d(5)),
            r"layer 1 \(BatchNorm2d\) does not run: RuntimeError: running_mean",
        ),
        (None, "give an nn.Module, not a NoneType"),
    ],
)
def test_what_cannot_be_taken_is_named_by_its_line_or_layer(ann, words):
    with pytest.raises(ModelError, match=words) as error:
        from_ann(ann, torch.rand(2, 1, 8, 8))
    assert "\n" not in str(error.value) and len(str(error.value)) < 330


class Averaged(nn.Module):
    """A convolution and a ReLU, this, and a last layer of 6 numbers."""

    def __init__(self, average):
        super().__init__()
        self.conv, self.end, self.average = nn.Conv2d(1, 6, 3), nn.Linear(6, 5), average

    def forward(self, x):
        return self.end(self.average(self.conv(x).relu()))


def relu_by(function):
    return lambda: Own(lambda self, x: self.end(function(self.conv(x))))


def mean_by(function):
    return lambda: Averaged(function)


RELU = relu_by(torch.relu)
RELU6 = relu_by(F.relu6)
MEAN = mean_by(lambda x: x.mean((2, 3)))


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        (RELU, relu_by(torch.relu_)),
        (RELU, relu_by(lambda x: x.clamp(min=0))),
        (RELU, relu_by(lambda x: x.clamp(0))),
        (RELU, relu_by(lambda x: x.clamp_(0.0, None))),
        (RELU, relu_by(lambda x: torch.clamp(x, min=0))),
        (RELU, relu_by(lambda x: torch.clip(input=x, min=0))),
        (RELU, relu_by(lambda x: x.clamp_min(0))),
        (RELU, relu_by(lambda x: torch.clamp_min(x, min=0))),
        (RELU6, relu_by(lambda x: x.clamp(0, 6))),
        (MEAN, mean_by(lambda x: x.mean(3).mean(2))),
        (MEAN, mean_by(lambda x: x.mean(2).mean(-1))),
        (MEAN, mean_by(lambda x: torch.mean(torch.mean(x, dim=-1), dim=2))),
        (MEAN, mean_by(lambda x: x.mean(3, keepdim=True).mean(2, keepdim=True).flatten(1))),
    ],
)
def test_other_words_for_the_same_make_the_same_network(wanted, other):
    """The same layers between the same layers, and an SNN of the same spikes and logits."""
    torch.manual_seed(1)
    x, forms, outputs = torch.rand(8, 1, 8, 6), [], []
    for make in (wanted, other):
        torch.manual_seed(0)
        ann = make()
        if isinstance(ann, Own):
            ann.end[1] = nn.Linear(48, 5)
        layers = trace_layers(ann, x)
        places = {layer.name: place for place, layer in enumerate(layers)}
        forms.append(
            [
                (type(one.module), arguments_of(one.module), [*map(places.get, one.sources)])
                for one in layers
            ]
        )
        outputs.append(from_ann(ann, x, 6)(x))
    assert forms[0] == forms[1] and len(forms[0]) >= 4
    assert torch.equal(outputs[0].logits_by_step, outputs[1].logits_by_step)
    first, second = (list(output.spikes_by_step.values()) for output in outputs)
    assert all(map(torch.equal, first, second)) and all(spikes.any() for spikes in first)


class Reused(nn.Module):
    """A signal that is used again after a ReLU6 has changed it in place, where it is above 6."""

    def __init__(self, inplace):
        super().__init__()
        self.conv, self.end = nn.Conv2d(1, 1, 1), nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
        nn.init.constant_(self.conv.weight, 8.0)
        nn.init.zeros_(self.conv.bias)
        self.act = nn.ReLU6(inplace)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.end(self.act(x) + x)


def test_a_network_that_computes_something_else_for_one_image_is_refused():
    """Of 8 images only the last reaches the ReLU6's bound."""
    torch.manual_seed(0)
    x = torch.rand(8, 1, 8, 8) / 2
    x[-1] *= 2
    with pytest.raises(ModelError, match="computes other logits than the model: is there a hook"):
        from_ann(Reused(inplace=True), x)
    from_ann(Reused(inplace=False), x)


def test_an_ann_of_this_package_is_told_what_converts_it():
    """Also within another module; what cannot be taken for another reason is told as ever."""
    plan = [[4, "D", 6, 6, "D"], ["U", 4, "drop", "U", "in"]]
    ours, x = VGG_wFeedback(plan=plan, fc_width=8), torch.rand(2, 1, 28, 28)
    within = Own(lambda self, x: self.act(x).logits)
    within.act = ours
    for ann in (ours, within):
        with pytest.raises(ModelError, match=r"by `wfeedback snn --pretrained_ann PATH`$"):
            from_ann(ann, x)
    parts = Own(lambda self, x: F.gelu(self.act.features[0](x)))
    parts.act = ours
    with pytest.raises(ModelError, match=r"^operation gelu of "):
        from_ann(parts, x)
    spiking = from_ann(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 3)), x
    )
    with pytest.raises(ModelError, match="sends with spikes already: give an ANN"):
        from_ann(spiking, x)
