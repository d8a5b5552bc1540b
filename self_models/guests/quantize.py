"""A trained SNN in whole numbers: weights of 8 bits, thresholds and membrane potentials of 32, so that no sum is ever rounded.

Layers hold whole weights and biases as float64, which adds them up exactly in whatever order a machine takes, so on a CPU every
spike of step() is the kernel's, which adds integers. The decoder's output leaves the whole numbers: read-out and gate compute in
float32, one operation after the other, with portable_tanh.

Each linear module has a scale s: weight = s times whole number, -127 to 127. A signal's unit is the product of the scales on its
way; of the current into neurons it is theta / n, n a whole number: the threshold in whole numbers, exactly. Average pools add
up, and their 1/4 goes into the unit. A decoder's chain of U layers and a convolution becomes one convolution where that has no
more weights.
"""

import copy
from collections import OrderedDict
from itertools import product
from math import ceil, floor, log2
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from self_models.basics import ModelError
from self_models.engines.dense.run import FoldedChain, fold_decoder
from self_models.engines.event.layout import is_halving
from self_models.engines.event.tables import FORMS, K
from self_models.guests.phased import PhasedNeuron, PhasedState
from self_models.layers.neurons import (
    NeuronState,
    SpikingLayers,
    SpikingNeuron,
)
from self_models.layers.stages import LINEAR
from self_models.objectives.encoders import ENCODINGS, Encoding, direct
from self_models.runtime.graph import nodes_in_a_row
from self_models.runtime.known_parts import check_known
from self_models.runtime.outputs import INPUT
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

LEVELS, FEWEST = 127, 63  # of a weight, and as many below 0; with potentials of 16 bits
LARGEST = 2**30 - 1  # of a current, and of a membrane potential: their sum fits into 32 bits
SHARES = 2**15  # a leak is so many parts
NARROW = 2**15 - 1  # the largest membrane potential of 16 bits
MOST_PARTS = 2**24  # of a unit: float32 holds all whole numbers up to here
TRIED = (
    0.5,
    1.25,
    64,
)  # scales beside a power of 2: these parts of the one by which the largest weight just fits, so many of them
BRIGHTEST = 255  # of a pixel that is sent as it is, `direct`
WHO, INSTEAD = "weights int8", "load it with weights='float32'"


def portable_tanh(x):
    """tanh(x), float32, by operations that every machine rounds alike: an error of at most 2 units in the last place, odd, and
    exactly 1 beyond 9 (polynomials of S. Moshier's Cephes, tanhf.c and expf.c)."""
    size, square = x.abs(), x * x
    small = -5.70498872745e-3 * square + 2.06390887954e-2
    for factor in (-5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1):
        small = small * square + factor
    small = small * square * x + x
    double = 2 * size.clamp(max=9)
    n = (double * 1.44269504 + 0.5).floor()  # e^double = 2^n e^rest
    rest = double - n * 0.693359375
    rest = rest - n * -2.12194440e-4
    grown = 1.9875691500e-4 * rest + 1.3981999507e-3
    for factor in (8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        grown = grown * rest + factor
    grown = grown * (rest * rest) + rest + 1
    grown = grown * ((n.to(torch.int32) + 127) << 23).view(torch.float32)
    large = torch.where(size > 9, 1.0, 1 - 2 / (grown + 1))
    return torch.where(size < 0.625, small, torch.where(x < 0, -large, large))


def portable_sigmoid(x):
    return (1 + portable_tanh(x / 2)) / 2


def in_shares(keep):
    """How many of SHARES parts a share, 0 to 1, is at least: a float32 tensor."""
    return (torch.as_tensor(keep, dtype=torch.float32) * SHARES).floor()


def decayed(values, keep):
    """Values (B, ...) times keep, a number or one for each image (B,). Integers stay integers: both are rounded down, keep to
    whole parts of SHARES."""
    keep = keep.view(-1, *[1] * (values.dim() - 1)) if isinstance(keep, torch.Tensor) else keep
    if values.is_floating_point():
        return values * keep
    return (values.double() * in_shares(keep) / SHARES).floor().to(values.dtype)


class Whole(NamedTuple):
    """What a layer of neurons, or the outputs, have as whole numbers: threshold, V at rest, the bounds within which V stays after
    each step, and how many of SHARES parts of it a step keeps. unit: what 1 stands for, in the unit of the network as it was."""

    threshold: int
    start: int
    lowest: int
    highest: int
    kept: int
    unit: float


class WholeForm(NamedTuple):
    """A network in whole numbers, for other programs, beside its modules, whose weights (int8) and biases (int32) are whole.
    neurons: name -> Whole, of its spiking layers; output: that of the logits; input_unit, decoded_unit: what 1 stands for in the
    input and in the decoder's output; shares, largest: SHARES and LARGEST."""

    neurons: dict
    output: Whole
    input_unit: float
    decoded_unit: float
    shares: int = SHARES
    largest: int = LARGEST


class IntegerNeuron(SpikingNeuron):
    """A layer of neurons whose threshold and potentials are int32, the potentials within lowest and LARGEST. unit: what 1 stands
    for."""

    unit = 1.0
    lowest = property(
        lambda self: -LARGEST if self.floor is None else -round(self.floor * self.threshold.item())
    )
    rest = property(lambda self: round(self.initial_potential * self.threshold.item()))

    def at_rest(self, current):
        return NeuronState(torch.zeros_like(current, dtype=torch.int32) + self.rest)

    def forward(self, current, state=None):
        v = (state or self.at_rest(current)).v
        lost = v - decayed(v, self.leak)
        spikes, v = self.update(current - lost, v.double(), self.threshold, 1, self.spike)
        return spikes, NeuronState(self.floored(v).int())

    def spike(self, v, theta, age=None):
        return (v > theta).double()

    def floored(self, v):
        return v.clamp(self.lowest, LARGEST)


class IntegerPhasedNeuron(PhasedNeuron, IntegerNeuron):
    """The same with the update phased. What T steps charge lies within lowest and LARGEST."""

    def forward(self, current, state=None):
        v, *rest = state or self.at_rest(current)
        spikes, state = super().forward(current, PhasedState(v.double(), *rest))
        return spikes, state._replace(v=state.v.int())


def whole_pixels(image, draws):
    """A pixel k / 255, or 2 k / 255 - 1 in colour, as a whole number of 255ths."""
    return (direct(image, draws) * BRIGHTEST).round()


WHOLE_ENCODINGS = {
    ENCODINGS["poisson"]: ENCODINGS["poisson"],
    ENCODINGS["direct"]: Encoding(whole_pixels, False),
}


class IntegerSNN(VGG_SNN_STDB_wFeedback):
    """An SNN in whole numbers: see in_whole_numbers. logits_unit, decoded_unit, input_unit: see WholeForm. Logits are int32;
    those that are shown, and that rules ask for, are float32, times their unit. Raises ModelError for a gate, rule, read-out or
    encoding that has no form in whole numbers, too."""

    input_unit, logits_unit, decoded_unit, image_dtype = 1.0, 1.0, 1.0, torch.float32
    why_not_saved = (
        "a network with weights int8 is not saved: keep its checkpoint, and "
        "load(path, weights='int8')"
    )

    def new_neuron(self, stage, channels=None):
        own, cls = self.settings, IntegerPhasedNeuron if self.timing.is_phased else IntegerNeuron
        return cls(
            None,
            own["update"],
            initial_potential=own["initial_potential"],
            floor=own["membrane_floor"],
        )

    def change(self, **settings):
        super().change(**settings)
        self.encoding = WHOLE_ENCODINGS[self.encoding]
        return self

    def make_parts(self, **common):
        parts = super().make_parts(**common, tanh=portable_tanh, sigmoid=portable_sigmoid)
        forms = {name: type(part) for name, part in parts.items()} | {
            "encoding": ENCODINGS.find(self.settings["encoding"]).send
        }
        for name, form in forms.items():
            if form not in FORMS[name]:
                raise ModelError(
                    f"{WHO} does not know the {name} {self.settings[name]}: {INSTEAD}"
                )
        return parts

    def whole_form(self):
        """The WholeForm, for other programs."""
        neurons = {
            name: Whole(
                layer.threshold.item(),
                layer.rest,
                layer.lowest,
                LARGEST,
                int(in_shares(layer.leak)),
                layer.unit,
            )
            for name, layer in self.neurons().items()
        }
        output = Whole(
            0, 0, -LARGEST, LARGEST, int(in_shares(self.settings["output_leak"])), self.logits_unit
        )
        return WholeForm(neurons, output, self.input_unit, self.decoded_unit)

    def mark_bounds(self, tables):
        """Mark, in Tables, the nodes whose potentials surely fit 16 bits, and for how many timesteps those of neurons surely stay
        within their bounds: no timestep adds more than all inputs at once would."""
        sent = {0: Signal(1.0, largest_sent(self), bool(tables.nodes[0]["valued"]))}
        neurons = {
            tables.numbers[name]: layer for name, layer in self.whole_form().neurons.items()
        }
        for n in tables.order.tolist():
            node, chain, came = (
                tables.nodes[n],
                tables.chains.get(n),
                sent[int(tables.nodes[n]["source"])],
            )
            most, kind = (
                largest_sum(*chain.modules, came)
                if chain
                else came.bound * 4 ** int(node["halvings"]),
                node["kind"],
            )
            sent[n] = (
                Signal(1.0, most, came.signed or chain is not None)
                if kind == K.RELAY
                else Signal(1.0, 1, signed=False)
            )
            if kind == K.NEURONS:
                start = abs(neurons[n].start)
                node["unbounded"] = max(
                    min(-neurons[n].lowest, neurons[n].highest) - start, 0
                ) // max(most, 1)
                most = most * self.latency + start
            node["narrow"] = kind in (K.NEURONS, K.RELAY, K.DECODED) and most <= NARROW

    def start(self, *args, **more):
        run = super().start(*args, **more)
        run.logits = run.logits.int()
        return run

    def decayed(self, values, keep):
        """As the model's; integers stay integers, see decayed() here."""
        return decayed(values, keep)

    def step(self, run, image, u):
        shown = super().step(run, image, u)
        run.logits = run.logits.clamp(-LARGEST, LARGEST)
        return shown | {"logits": run.logits.float() * self.logits_unit}

    def propagate(self, run, signal):
        return super().propagate(run, signal.double())

    def integrate(self, readout_sum, decoded, view):
        return super().integrate(readout_sum, decoded.float() * self.decoded_unit, view)


class Signal(NamedTuple):
    """What goes from module to module: unit: what 1 stands for; bound: no value is larger, nor any sum on the way to it; signed:
    whether values may be below 0."""

    unit: float
    bound: float
    signed: bool = True


@torch.no_grad()
def in_whole_numbers(model, fold=False):
    """An IntegerSNN that does what this SNN does, as nearly as weights of 8 bits allow. fold: each strided convolution and the
    one behind it become one (more weights, fewer additions), and scales are such that potentials fit 16 bits where that leaves
    weights 6 bits beside their sign. Raises ModelError for one with a part or method of its own, or with
    a gate, rule, read-out or encoding that has no form in whole numbers."""
    if not isinstance(model, SpikingLayers):
        raise ModelError(
            f"{WHO} is for SNNs, and this is an ANN: convert it with snn_wFeedback.py first"
        )
    check_known(model, WHO, INSTEAD, but=())
    if not hasattr(model, "features"):
        raise ModelError(
            f"{WHO} is for networks of a plan, and this one has an ANN's own layers: load it with weights float32"
        )
    with torch.random.fork_rng([]):
        whole = IntegerSNN(**model.settings)
    for name, stage in model.named_children():
        for position, layer in stage.named_children():
            if not isinstance(layer, SpikingNeuron):  # it may be another than the plan's
                getattr(whole, name)._modules[position] = copy.deepcopy(layer)
    whole.load_state_dict(model.state_dict())
    whole.objective = model.objective
    whole.train(model.training)
    whole.input_unit = 1 / BRIGHTEST if whole.encoding.send is whole_pixels else 1.0
    if fold:
        whole.features = strides_folded(whole.features, whole.image_shape[1:])
    if whole.has_feedback:
        whole.generate = in_one(whole.generate, whole.image_shape[1:])
    ends = quantise(whole, NARROW // whole.latency if fold else None)
    whole.logits_unit, whole.decoded_unit = (
        ends[end].unit if end in ends else 1.0 for end in ("output", "decoded")
    )
    return whole.requires_grad_(False)


def in_whole_numbers_folded(model):
    """in_whole_numbers with fold, for load(weights="int8_folded")."""
    return in_whole_numbers(model, fold=True)


def largest_sent(model):
    """The largest whole number that a pixel sends; a residual, x - p, is up to twice as large."""
    sends_values = model.encoding.send is whole_pixels
    return BRIGHTEST * (1 + bool(getattr(model.gate, "residual", False))) if sends_values else 1


def quantise(model, most=None):
    """Give a network's layers whole numbers, in place; returns its ends' Signals, by name. most: largest current into neurons,
    those of the decoder aside, where that leaves FEWEST levels."""
    graph, charges = (
        model.graph,
        model.timesteps if model.timing.is_phased else 1,
    )  # before it fires a neuron adds up so many currents
    before = {
        link.end: graph.modules[link.target]
        for link in graph.links
        if link.target in graph.neuron_names
    }
    signals = {INPUT: Signal(model.input_unit, largest_sent(model))}
    for name, module, (source,), _ in graph.nodes:
        signal, neuron = signals[source], before.get(name)
        if isinstance(module, SpikingNeuron):
            theta, module.unit = module.threshold.item(), signal.unit
            module.threshold = nn.Parameter(
                torch.tensor(round(theta / signal.unit), dtype=torch.int32), requires_grad=False
            )
            signal = Signal(1.0, 1, signed=False)
        elif isinstance(module, (*LINEAR, nn.AvgPool2d)):
            theta, of_decoder = neuron and neuron.threshold.item(), name.startswith("generate")
            signal = whole_sums(
                module.double(), signal, theta, most if neuron and not of_decoder else None
            )
            if signal.bound * charges > LARGEST:
                raise ModelError(
                    f"{WHO}: sums of layer {name} ({type(module).__name__}) might not fit 32 bits: {INSTEAD}"
                )
        signals[name] = signal
    return {end: signals[name] for end, name in graph.ends.items()}


def whole_sums(module, signal, theta=None, most=None):
    """Give a linear module whole weights, and a bias, for this Signal; returns the one that comes out, in whose unit theta, that
    of neurons behind it, is a whole number. Of scales near that of the largest weight the one with the least squared error; a
    power of 2 is tried, too, which is exact on a grid."""
    if isinstance(module, nn.AvgPool2d):
        if not is_halving(module):
            raise ModelError(
                f"{WHO} does not know average pools of other sizes than 2 x 2: {INSTEAD}"
            )
        module.divisor_override = 1
        return Signal(signal.unit / 4, 4 * signal.bound, signal.signed)
    weight = module.weight.double()
    largest, inputs = (
        max(weight.abs().max().item(), 1e-9),
        max(fan_in(weight, module, signal.signed), 1e-9),
    )
    unit = theta / signal.unit if theta else 2.0 ** ceil(log2(largest))
    room = min(0.9 * LARGEST * unit / (signal.bound * inputs), MOST_PARTS)
    fits = min(LEVELS * unit / largest, room)
    if most and (narrow := most * unit / (signal.bound * inputs)) > FEWEST / LEVELS * fits:
        fits = room = min(narrow, fits)
    tried = [unit * 2.0 ** floor(log2(fits / unit)), *(fits * torch.linspace(*TRIED)).tolist()]
    tried = [
        max(1, round(min(parts, room))) for parts in tried
    ]  # of the unit: a weight of 1 is one of them

    def whole(parts):
        return (weight * parts / unit).round().clamp(-LEVELS, LEVELS)

    parts = min(
        tried, key=lambda parts: (weight - whole(parts) * unit / parts).square().sum().item()
    )
    after = signal.unit * unit / parts
    module.weight.copy_(whole(parts))
    if module.bias is not None:
        module.bias.copy_((module.bias.double() / after).round())
    return Signal(after, largest_sum(module, signal))


def largest_sum(module, signal):
    """No sum that a linear module of whole numbers makes of this Signal is larger."""
    bias = 0 if module.bias is None else module.bias.abs().max().item()
    return signal.bound * fan_in(module.weight, module, signal.signed) + bias


def fan_in(weight, module, signed):
    """The largest sum of the weights that reach one output, their signs left aside; of what is not signed, of one sign."""
    is_transposed = isinstance(module, nn.ConvTranspose2d)
    weight, apart = (weight.transpose(0, 1), module.stride[0]) if is_transposed else (weight, 1)
    weights = (weight.abs(),) if signed else (weight.clamp(min=0), (-weight).clamp(min=0))
    places = product(weights, range(apart), range(apart))
    return max(
        values[..., y::apart, x::apart].flatten(1).sum(1).max().item() for values, y, x in places
    )


def strides_folded(features, size):
    """An encoder, for images of this size (height, width), in which each strided convolution without bias and the convolution
    behind it are one: the second kernel passed through the first, turned around, as if it were an image. An odd side is left:
    its last row would be seen where the second has padding."""
    made, fork, before = [], features.fork, size
    for at, (position, module) in enumerate(features.named_children()):
        first = made[-1][1] if made else None
        strided = (
            isinstance(first, nn.Conv2d)
            and first.stride == first.kernel_size == (2, 2)
            and first.bias is None
        )
        strided = strided and at != features.fork
        if (
            strided
            and isinstance(module, nn.Conv2d)
            and module.stride == (1, 1)
            and not any(length % 2 for length in before)
        ):
            kernel = F.conv_transpose2d(module.weight, first.weight, stride=2)
            both = nn.Conv2d(
                *kernel.shape[1::-1], kernel.shape[-1], 2, 2 * module.padding[0], bias=False
            )
            both.weight, both.bias = nn.Parameter(kernel), module.bias
            made[-1], fork = (position, both), fork - (at < features.fork)
        else:
            made.append((position, module))
        before = size
        if getattr(module, "stride", 1) in (2, (2, 2)):
            size = [length // 2 for length in size]
    encoder = nn.Sequential(OrderedDict(made))
    encoder.fork = fork
    return encoder


def in_one(decoder, image_size):
    """A decoder with U layers and the convolution after them as one convolution, where that has no more weights."""

    def is_small(chain, up, _):
        return chain.size_with(up) <= chain.kernel.numel() + up.weight.numel()

    nodes = nodes_in_a_row(decoder.named_children())
    layers = (
        (node.name, node.module)
        for node in fold_decoder(nodes, nodes[-1].name, 1, image_size, is_small)
    )
    return nn.Sequential(
        OrderedDict(
            (at, one.module() if isinstance(one, FoldedChain) else one) for at, one in layers
        )
    )
