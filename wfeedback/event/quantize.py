"""A trained SNN in whole numbers, so that no sum is ever rounded.

Weights have 8 bits; thresholds, membrane potentials and logits have 32. Sums of whole
numbers do not depend on the order in which a machine adds, so every spike of ``step()``
on a CPU is that of the kernel, which computes with integers, and of a program in C.

To the core this file adds ``quantize``, which makes an ``IntegerSNN`` of an SNN
(``load(..., weights="int8")``). Layers keep whole weights and biases as float64, in
which PyTorch adds whole numbers exactly. The decoder's output leaves the whole numbers:
read-out and gate compute in float32, one operation after the other, with a tanh that
every machine rounds alike.

Scales and units: each linear module has a scale s, and ``weight = s * whole number``,
-127 to 127. What 1 stands for in a signal is the *unit* of the signal: the product of
the scales on its way. The unit of a current into neurons is theta / n for a whole
number n, so the threshold is a whole number exactly. Average pools add up instead of
averaging, and their 1/4 goes into the unit.

Not supported are ANNs, networks with parts or methods of one's own, networks of
``from_ann`` whose layers are no architecture's, average pools of other windows than 2 x
2, and gates, rules, read-outs and encodings that the kernel does not have. A network in
whole numbers is not trained, and not saved.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import ceil, floor, log2
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from self_models.errors import ModelError
from self_models.feedback.encoders import ENCODINGS, Encoding, direct
from self_models.networks.stages import LINEAR
from self_models.neurons.spiking import NeuronState, SpikingLayers, SpikingNeuron
from self_models.running.chains import Chain
from self_models.running.dense.run import FoldedChain
from self_models.running.dense.run import fold_decoder as fold_layers
from self_models.running.graph import nodes_in_a_row
from self_models.running.known_layers import check_known, is_hooked
from self_models.running.outputs import INPUT
from self_models.running.phased import PhasedNeuron, PhasedState
from self_models.running.state import RunState, View
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.event.layout import is_halving
from wfeedback.event.tables import FORMS, K

if TYPE_CHECKING:
    from wfeedback.event.tables import Tables

LEVELS = 127  # largest weight
FEWEST_LEVELS = 63  # largest weight that is accepted so that potentials fit 16 bits
LARGEST = 2**30 - 1  # of a current, and of a potential: their sum fits into 32 bits
LARGEST_NARROW = 2**15 - 1  # largest membrane potential of 16 bits
SHARES = 2**15  # of so many parts a leak keeps a whole number
MOST_PARTS = 2**24  # of a unit: float32 holds all whole numbers up to here
MAX_PIXEL = 255  # of a pixel that is sent as it is, with the encoding "direct"
# Scales that are tried: so many, between these multiples of the largest one that fits
LOWEST_SCALE = 0.5
HIGHEST_SCALE = 1.25
NUM_SCALES = 64
WHO = "weights int8"  # in messages
INSTEAD = "load it with weights='float32'"


# --- arithmetic that every machine rounds alike


def portable_tanh(x: torch.Tensor) -> torch.Tensor:
    """Compute tanh(x) by operations that every machine rounds alike.

    The error is at most 2 units in the last place. The function is odd, and exactly 1
    beyond 9. The polynomials are those of S. Moshier's Cephes, tanhf.c and expf.c.

    Parameters
    ----------
    x : Tensor, float32

    Returns
    -------
    Tensor of the same shape, float32
    """
    # Additions, products, quotients and floor() of float32, one after the other: each
    # is rounded alike everywhere. exp() is not, and a fused multiply-add rounds
    # otherwise. C does the same in the same order, so no line may be regrouped.
    size = x.abs()
    # Below 0.625: x + x^3 P(x^2), with the polynomial P of tanhf.c
    square = x * x
    small = -5.70498872745e-3 * square + 2.06390887954e-2
    for factor in (-5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1):
        small = small * square + factor
    small = small * square * x + x

    # From there on: 1 - 2 / (e^(2 |x|) + 1), with e^double = 2^n e^rest as in expf.c
    double = 2 * size.clamp(max=9)
    n = (double * 1.44269504 + 0.5).floor()  # 1 / ln 2
    rest = double - n * 0.693359375  # ln 2 in two parts, the first without rounding
    rest = rest - n * -2.12194440e-4
    grown = 1.9875691500e-4 * rest + 1.3981999507e-3
    for factor in (8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        grown = grown * rest + factor
    grown = grown * (rest * rest) + rest + 1
    power_of_2 = ((n.to(torch.int32) + 127) << 23).view(torch.float32)  # 2^n, by its bits
    grown = grown * power_of_2
    large = torch.where(size > 9, 1.0, 1 - 2 / (grown + 1))
    return torch.where(size < 0.625, small, torch.where(x < 0, -large, large))


def portable_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """Compute the logistic function of x, float32, by ``portable_tanh``."""
    return (1 + portable_tanh(x / 2)) / 2


def in_shares(keep: float | torch.Tensor) -> torch.Tensor:
    """Return how many of SHARES parts a share, 0 to 1, is at least, in float32."""
    return (torch.as_tensor(keep, dtype=torch.float32) * SHARES).floor()


def decayed(values: torch.Tensor, keep: float | torch.Tensor) -> torch.Tensor:
    """Return what is left of values that keep a share of themselves.

    Parameters
    ----------
    values : Tensor of shape (B, ...)
        Integers stay integers: both they and the share, to whole parts of SHARES, are
        rounded down.
    keep : float, or Tensor of shape (B,)
        The share, 0 to 1; one for each image, or one for all.

    Returns
    -------
    Tensor of the shape and dtype of ``values``
    """
    if isinstance(keep, torch.Tensor):
        keep = keep.view(-1, *[1] * (values.dim() - 1))
    if values.is_floating_point():
        return values * keep
    return (values.double() * in_shares(keep) / SHARES).floor().to(values.dtype)


# --- a network in whole numbers


class Whole(NamedTuple):
    """What a layer of neurons, or the outputs, have as whole numbers.

    Attributes
    ----------
    threshold : int
        Threshold; 0 for the outputs.
    start : int
        V before the first timestep.
    lowest, highest : int
        Bounds within which V stays after each timestep.
    kept : int
        How many of SHARES parts of V a timestep keeps.
    unit : float
        What 1 stands for, in the unit of the network that it was made of.
    """

    threshold: int
    start: int
    lowest: int
    highest: int
    kept: int
    unit: float


class WholeForm(NamedTuple):
    """A network in whole numbers, for other programs.

    It stands beside the network's modules, whose weights (int8) and biases (int32) are
    whole.

    Attributes
    ----------
    neurons : dict of {str: Whole}
        Of each spiking layer by its name.
    output : Whole
        Of the logits.
    input_unit : float
        What 1 stands for in the input.
    decoded_unit : float
        What 1 stands for in the decoder's output.
    shares : int
        In how many parts leaks are counted.
    largest : int
        Largest current, and largest membrane potential.
    """

    neurons: dict[str, Whole]
    output: Whole
    input_unit: float
    decoded_unit: float
    shares: int = SHARES
    largest: int = LARGEST


class IntegerNeuron(SpikingNeuron):
    """A layer of neurons whose threshold and membrane potentials are int32.

    Attributes
    ----------
    unit : float
        What 1 stands for.
    """

    unit = 1.0

    @property
    def lowest(self) -> int:
        """Lower bound of V."""
        if self.floor is None:
            return -LARGEST
        return -round(self.floor * self.threshold.item())

    @property
    def rest(self) -> int:
        """V before the first timestep."""
        return round(self.initial_potential * self.threshold.item())

    def at_rest(self, current: torch.Tensor) -> NeuronState:
        """Return the state before the first timestep, for a current (B, ...)."""
        return NeuronState(torch.zeros_like(current, dtype=torch.int32) + self.rest)

    def forward(
        self, current: torch.Tensor, state: NeuronState | None = None
    ) -> tuple[torch.Tensor, NeuronState]:
        """Run one timestep in whole numbers, see `SpikingNeuron.forward`.

        Parameters
        ----------
        current : Tensor of shape (B, ...), float64
            What arrives, whole numbers.
        state : NeuronState or None
            Of the timestep before, with V as int32; None for neurons at rest.

        Returns
        -------
        spikes : Tensor of shape (B, ...), float64
            0 or 1.
        state : NeuronState
            V as int32, within its bounds.
        """
        v = (state or self.at_rest(current)).v
        # What leaks is rounded to a whole number. The update would multiply V by the
        # leak without rounding, so it gets a leak of 1, and a current less what leaks.
        lost = v - decayed(v, self.leak)
        no_leak = 1
        # float64 adds the whole numbers of 32 bits exactly, and is the currents' dtype.
        spikes, v = self.update(current - lost, v.double(), self.threshold, no_leak, self.spike)
        return spikes, NeuronState(self.floored(v).int())

    def spike(
        self, v: torch.Tensor, theta: torch.Tensor, age: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the spikes, in float64, without a gradient."""
        return (v > theta).double()

    def floored(self, v: torch.Tensor) -> torch.Tensor:
        """Return V within its bounds."""
        return v.clamp(self.lowest, LARGEST)


class IntegerPhasedNeuron(PhasedNeuron, IntegerNeuron):
    """The same with the update "phased".

    What T timesteps charge lies within the bounds, so only the dtype is different.
    """

    def forward(
        self, current: torch.Tensor, state: PhasedState | None = None
    ) -> tuple[torch.Tensor, PhasedState]:
        """Run one timestep, see `PhasedNeuron.forward`."""
        v, *rest = state or self.at_rest(current)
        spikes, state = super().forward(current, PhasedState(v.double(), *rest))
        return spikes, state._replace(v=state.v.int())


def whole_pixels(image: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Send pixels as numbers of 255ths: the encoding "direct"."""
    return (direct(image, draws) * MAX_PIXEL).round()


WHOLE_ENCODINGS = {  # encoding -> its form in whole numbers
    ENCODINGS["poisson"]: ENCODINGS["poisson"],
    ENCODINGS["direct"]: Encoding(whole_pixels, uses_draws=False),
}


class IntegerSNN(VGG_SNN_STDB_wFeedback):
    """An SNN in whole numbers, as ``quantize`` makes it.

    Logits are int32. Those that are shown, and that stopping rules ask for, are
    float32, times their unit.

    Attributes
    ----------
    input_unit, logits_unit, decoded_unit : float
        What 1 stands for in the input, the logits, and the decoder's output.

    Raises
    ------
    ModelError
        For a gate, rule, read-out or encoding that has no form in whole numbers.
    """

    input_unit = 1.0
    logits_unit = 1.0
    decoded_unit = 1.0
    image_dtype = torch.float32
    why_not_saved = (
        "a network with weights int8 is not saved: keep its checkpoint, and "
        "load(path, weights='int8')"
    )

    def new_neuron(self, stage: str, channels: int | None = None) -> IntegerNeuron:
        """Return a new layer of neurons."""
        settings = self.settings
        neuron_class = IntegerPhasedNeuron if self.timing.is_phased else IntegerNeuron
        return neuron_class(
            None,
            settings["update"],
            initial_potential=settings["initial_potential"],
            floor=settings["membrane_floor"],
        )

    def change(self, **settings: object) -> "IntegerSNN":
        """Change settings, see `VGG_SNN_STDB_wFeedback.change`."""
        super().change(**settings)
        self.encoding = WHOLE_ENCODINGS[self.encoding]
        return self

    def make_parts(self, **common: object) -> dict[str, object]:
        """Return gate, rule and read-out, see `VGG_SNN_STDB_wFeedback.make_parts`.

        Their tanh and sigmoid are those that every machine rounds alike.

        Raises
        ------
        ModelError
            If one of them, or the encoding, has no form in whole numbers.
        """
        parts = super().make_parts(**common, tanh=portable_tanh, sigmoid=portable_sigmoid)
        # FORMS has what the kernel in C knows: classes of gates, rules and read-outs,
        # and functions of encodings, which have no class of their own.
        classes = {name: type(part) for name, part in parts.items()}
        classes["encoding"] = ENCODINGS.find(self.settings["encoding"]).send
        for name, class_of_part in classes.items():
            if class_of_part not in FORMS[name]:
                raise ModelError(
                    f"{WHO} does not know the {name} {self.settings[name]}: {INSTEAD}"
                )
        return parts

    def whole_form(self) -> WholeForm:
        """Describe the network in whole numbers, for other programs.

        Returns
        -------
        WholeForm
            Its layers, units and bounds.
        """
        neurons = {}
        for name, layer in self.neurons().items():
            neurons[name] = Whole(
                threshold=layer.threshold.item(),
                start=layer.rest,
                lowest=layer.lowest,
                highest=LARGEST,
                kept=int(in_shares(layer.leak)),
                unit=layer.unit,
            )
        output = Whole(
            threshold=0,
            start=0,
            lowest=-LARGEST,
            highest=LARGEST,
            kept=int(in_shares(self.settings["output_leak"])),
            unit=self.logits_unit,
        )
        return WholeForm(neurons, output, self.input_unit, self.decoded_unit)

    def mark_bounds(self, tables: "Tables") -> None:
        """Mark in the kernel's tables where potentials surely stay within bounds.

        No timestep adds more to a potential than all inputs at once would. From that
        follow two columns of the table of nodes. ``narrow``: whether what the node adds
        up in a run fits 16 bits, in which small machines then keep it. ``unbounded``:
        for how many timesteps from rest no potential reaches a bound, in which the
        kernel need not compare.

        Parameters
        ----------
        tables : Tables
            The tables of this network. These two columns are changed.
        """
        # Number of a node -> what it sends. Node 0 is the input, which is `valued` if
        # it may send other than 0 and 1, for example pixels below 0.
        signals = {0: Signal(1.0, largest_sent(self), bool(tables.nodes[0]["valued"]))}
        neurons = {}
        for name, layer in self.whole_form().neurons.items():
            neurons[tables.numbers[name]] = layer
        for number in tables.order.tolist():  # as a timestep runs them: sources come first
            node = tables.nodes[number]
            chain = tables.chains.get(number)
            signal = signals[int(node["source"])]
            largest = largest_arriving(signal, chain, int(node["halvings"]))
            if node["kind"] == K.RELAY:  # it sends on the sum that arrives
                # Weights may be below 0, and so may sums of weights.
                signals[number] = Signal(1.0, largest, signal.signed or chain is not None)
            else:
                signals[number] = Signal(1.0, 1, signed=False)  # spikes

            if node["kind"] == K.NEURONS:
                layer = neurons[number]
                start = abs(layer.start)
                room = max(min(-layer.lowest, layer.highest) - start, 0)
                node["unbounded"] = room // max(largest, 1)
                largest_sum_of_node = largest * self.latency + start  # over a whole run
            else:
                largest_sum_of_node = largest
            adds_up = node["kind"] in (K.NEURONS, K.RELAY, K.DECODED)
            node["narrow"] = adds_up and largest_sum_of_node <= LARGEST_NARROW

    def start(self, *args: object, **kwargs: object) -> RunState:
        """Return a run at rest, see `VGG_SNN_STDB_wFeedback.start`."""
        run = super().start(*args, **kwargs)
        run.logits = run.logits.int()
        return run

    def decayed(self, values: torch.Tensor, keep: float | torch.Tensor) -> torch.Tensor:
        """Return what is left of values; integers stay integers, see `decayed` here."""
        return decayed(values, keep)

    def step(self, run: RunState, image: torch.Tensor, u: torch.Tensor) -> dict:
        """Run one timestep, see `VGG_SNN_STDB_wFeedback.step`."""
        shown = super().step(run, image, u)
        run.logits = run.logits.clamp(-LARGEST, LARGEST)
        return shown | {"logits": run.logits.float() * self.logits_unit}

    def propagate(self, run: RunState, signal: torch.Tensor) -> dict:
        """Run all layers, in float64, see `VGG_SNN_STDB_wFeedback.propagate`."""
        return super().propagate(run, signal.double())

    def integrate(
        self, readout_sum: torch.Tensor, decoded: torch.Tensor, view: View
    ) -> torch.Tensor:
        """Add the decoder's output, in float32, to the read-out's sum."""
        return super().integrate(readout_sum, decoded.float() * self.decoded_unit, view)


def largest_arriving(signal: "Signal", chain: Chain | None, halvings: int) -> float:
    """Return a bound on what arrives at a neuron of the kernel's node in a timestep.

    Parameters
    ----------
    signal : Signal
        What the node takes.
    chain : Chain or None
        The layer with weights through which it comes, just one in whole numbers. None
        if it comes through average pools alone, or as it is.
    halvings : int
        Number of these pools, each of which adds up four values.
    """
    if chain is None:
        return signal.bound * 4**halvings
    (module,) = chain.modules
    return largest_sum(module, signal)


# --- how a network gets whole numbers


class Signal(NamedTuple):
    """What goes from module to module, as whole numbers.

    Attributes
    ----------
    unit : float
        What the whole number 1 stands for in the SNN's own scale: a pixel sent as 255
        with unit 1/255 is a pixel of 1.
    bound : float
        The size of the largest whole number that can occur, and of the largest sum on
        the way to it.
    signed : bool
        Whether values may be below 0.
    """

    unit: float
    bound: float
    signed: bool = True


@torch.no_grad()
def quantize(model: SpikingLayers, fold: bool = False) -> IntegerSNN:
    """Make a network in whole numbers that does what an SNN does, as nearly as it can.

    A decoder's chain of U layers and a convolution becomes one convolution where that
    has no more weights.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The SNN, which stays as it is.
    fold : bool
        Also make one convolution of each strided convolution and the one behind it,
        which takes more weights and fewer additions; and choose scales such that
        potentials fit 16 bits where that leaves weights 6 bits beside their sign.

    Returns
    -------
    IntegerSNN

    Raises
    ------
    ModelError
        For a network with a part or method of its own, or with a gate, rule, read-out
        or encoding that has no form in whole numbers.
    """
    check_quantizable(model)
    # From here on only this copy changes, in place. The order of the steps matters: the
    # unit of the input comes before quantize_layers(), which derives all others of it.
    integer_snn = copied_as_integer_snn(model)
    sends_pixels = integer_snn.encoding.send is whole_pixels
    integer_snn.input_unit = 1 / MAX_PIXEL if sends_pixels else 1.0

    # Layers are folded while their weights still are fractions: products of weights of
    # 8 bits, which a folded kernel consists of, would not fit 8 bits.
    image_size = integer_snn.image_shape[1:]  # (H, W); also that of the decoder's output
    if fold:
        integer_snn.features = fold_strides(integer_snn.features, image_size)
    if integer_snn.has_feedback:
        integer_snn.generate = fold_decoder(integer_snn.generate, image_size)

    largest_current = None
    if fold:
        # V changes by one current in each of the `latency` timesteps of a run, and by
        # what a spike takes away, which brings it nearer to 0. So with currents of at
        # most this size V fits 16 bits.
        largest_current = LARGEST_NARROW // integer_snn.latency
    # Afterwards weights, biases and thresholds are whole numbers. The unit of what
    # arrives at an end of the graph is that of the logits, or of the decoder's output.
    signals_at_ends = quantize_layers(integer_snn, largest_current)
    if "output" in signals_at_ends:
        integer_snn.logits_unit = signals_at_ends["output"].unit
    if "decoded" in signals_at_ends:  # not without a decoder
        integer_snn.decoded_unit = signals_at_ends["decoded"].unit
    return integer_snn.requires_grad_(False)


def check_quantizable(model: SpikingLayers) -> None:
    """Raise ModelError for a network whose parts have no form in whole numbers.

    Gates, rules, read-outs and encodings are left to IntegerSNN, which checks them when
    it is built.
    """
    if not isinstance(model, SpikingLayers):
        raise ModelError(
            f"{WHO} is for SNNs, and this is an ANN: convert it with snn_wFeedback.py first"
        )
    check_known(model, WHO, INSTEAD, but=())
    for name, module in model.named_modules():
        # It would see whole numbers, or be lost with a layer that is folded.
        if is_hooked(module):
            raise ModelError(
                f"{WHO}: {name} ({type(module).__name__}) has a hook, or a forward of its own: "
                "remove it"
            )
    if not hasattr(model, "features"):
        raise ModelError(
            f"{WHO} is for networks of a plan, and this one has an ANN's own layers: "
            "load it with weights float32"
        )


def copied_as_integer_snn(model: VGG_SNN_STDB_wFeedback) -> IntegerSNN:
    """Return an IntegerSNN with copies of an SNN's layers and values, not rounded yet.

    Its neurons are new ones, for whole numbers; their thresholds and leaks are the
    SNN's, still as fractions.
    """
    # Initial weights are drawn, and replaced below. The caller's random numbers must
    # not depend on that.
    with torch.random.fork_rng([]):
        integer_snn = IntegerSNN(**model.settings)
    for stage_name, stage in model.named_children():
        for position, layer in stage.named_children():
            # A layer may have been replaced since the network was built, so that the
            # one that IntegerSNN has built from the settings is another.
            if not isinstance(layer, SpikingNeuron):
                new_stage = getattr(integer_snn, stage_name)
                new_stage.add_module(position, copy.deepcopy(layer))
    # Values come last, since they have to fit the layers.
    integer_snn.load_state_dict(model.state_dict())
    integer_snn.objective = model.objective
    integer_snn.train(model.training)
    return integer_snn


def quantize_folded(model: SpikingLayers) -> IntegerSNN:
    """Make a network in whole numbers with fold, for load(weights="int8_folded")."""
    return quantize(model, fold=True)


def largest_sent(model: IntegerSNN) -> int:
    """Return the largest whole number that a pixel sends.

    A prediction error, x - p, is up to twice as large as a pixel.
    """
    if model.encoding.send is not whole_pixels:
        return 1
    sends_errors = bool(getattr(model.gate, "residual", False))
    return MAX_PIXEL * (1 + sends_errors)


def quantize_layers(model: IntegerSNN, largest_current: int | None = None) -> dict[str, Signal]:
    """Give a network's layers whole numbers, in place.

    Parameters
    ----------
    model : IntegerSNN
        With the weights and thresholds of an SNN, as fractions.
    largest_current : int, optional
        Scales are chosen such that currents into neurons are not larger, as far as the
        largest weight of a module still is at least FEWEST_LEVELS: below that, weights
        would be too coarse, and currents may be larger. It does not hold for neurons of
        the decoder. By default weights alone decide.

    Returns
    -------
    dict of {str: Signal}
        What arrives at each end of the graph, "output" and "decoded".

    Raises
    ------
    ModelError
        If sums might not fit 32 bits.
    """
    graph = model.graph
    # A phased neuron adds up so many currents before it fires
    currents = model.timesteps if model.timing.is_phased else 1
    neurons_behind = {}  # last module before neurons -> these neurons
    for link in graph.links:
        if link.target in graph.neuron_names:
            neurons_behind[link.end] = graph.modules[link.target]
    # Nodes are in the order in which a timestep runs them, so the signal that a node
    # takes is known before the node's turn.
    signals = {INPUT: Signal(model.input_unit, largest_sent(model))}
    for node in graph.nodes:
        module = node.module
        (source,) = node.sources
        signal = signals[source]
        if isinstance(module, SpikingNeuron):
            signals[node.name] = quantize_neurons(module, signal)
        elif isinstance(module, (*LINEAR, nn.AvgPool2d)):
            # Without neurons behind it, before a pool or at an end, a module's scale is
            # bound to no threshold, and its sums need not fit a membrane.
            theta = None
            largest = None
            if node.name in neurons_behind:
                theta = neurons_behind[node.name].threshold.item()
                if not is_of_decoder(node.name):
                    largest = largest_current
            signals[node.name] = quantize_module(module.double(), signal, theta, largest)
            if signals[node.name].bound * currents > LARGEST:
                raise ModelError(
                    f"{WHO}: sums of layer {node.name} ({type(module).__name__}) "
                    f"might not fit 32 bits: {INSTEAD}"
                )
        else:  # a Flatten, dropout or maximum pool, which makes no new values
            signals[node.name] = signal
    return {end: signals[name] for end, name in graph.ends.items()}


def is_of_decoder(name: str) -> bool:
    """Return whether a node is one of the decoder's, which is ``model.generate``."""
    return name.startswith("generate")


def quantize_neurons(neurons: IntegerNeuron, signal: Signal) -> Signal:
    """Give neurons a whole threshold in a signal's unit; return what they send."""
    theta = neurons.threshold.item()
    neurons.unit = signal.unit
    threshold = torch.tensor(round(theta / signal.unit), dtype=torch.int32)
    neurons.threshold = nn.Parameter(threshold, requires_grad=False)
    return Signal(1.0, 1, signed=False)


def quantize_module(
    module: nn.Module, signal: Signal, theta: float | None, largest_current: int | None
) -> Signal:
    """Give a linear module, or an average pool, whole numbers, in place.

    Of a pool only ``signal`` counts; for the parameters see ``quantize_linear``.
    """
    if isinstance(module, nn.AvgPool2d):
        return quantize_pool(module, signal)
    return quantize_linear(module, signal, theta, largest_current)


def quantize_pool(pool: nn.AvgPool2d, signal: Signal) -> Signal:
    """Make an average pool of 2 x 2 add up, in place, and return what comes out.

    A mean of whole numbers may be a fraction, their sum is none. PyTorch's pool adds up
    if its divisor is 1; the division by 4 then is one of the unit.
    """
    if not is_halving(pool):
        raise ModelError(f"{WHO} does not know average pools of other sizes than 2 x 2: {INSTEAD}")
    pool.divisor_override = 1
    return Signal(signal.unit / 4, 4 * signal.bound, signal.signed)


def quantize_linear(
    module: nn.Module,
    signal: Signal,
    theta: float | None = None,
    largest_current: int | None = None,
) -> Signal:
    """Give a linear module whole weights, and a whole bias, in place.

    A weight becomes the nearest whole number of -LEVELS to LEVELS, times a scale:

        weight = whole number * scale,    scale = unit / parts

    with a fixed ``unit`` and a whole number of ``parts``. What comes out then counts in
    signal.unit * scale. With neurons behind the module, ``unit = theta / signal.unit``,
    so that theta is ``parts`` of what comes out, a whole number exactly. Otherwise the
    unit is a power of 2.

    Of ``candidate_parts`` this takes the number with the least squared error of the
    weights, the first one of equals. Among them is a scale that is a power of 2 times
    the unit: it is exact for weights on a grid.

    Parameters
    ----------
    module : nn.Module
        One of LINEAR, in float64. Its weight and bias are overwritten.
    signal : Signal
        What it takes.
    theta : float, optional
        Threshold of the neurons behind it, on the SNN's own scale.
    largest_current : int, optional
        Largest sum of weights and inputs. If that would leave less than FEWEST_LEVELS
        for the largest weight, sums may be larger.

    Returns
    -------
    Signal
        What comes out.
    """
    weight = module.weight.double()
    unit = theta / signal.unit if theta else power_of_2_above(weight)
    best_parts = None
    least_error = None
    for parts in candidate_parts(module, weight, signal, unit, largest_current):  # one at least
        rounded = round_weight(weight, unit, parts) * unit / parts
        error = (weight - rounded).square().sum().item()
        if least_error is None or error < least_error:
            best_parts = parts
            least_error = error
    unit_behind = signal.unit * unit / best_parts
    module.weight.copy_(round_weight(weight, unit, best_parts))
    if module.bias is not None:
        # A bias meets no signal, so it is counted in the unit of what comes out.
        module.bias.copy_((module.bias.double() / unit_behind).round())
    return Signal(unit_behind, largest_sum(module, signal))


def round_weight(weight: torch.Tensor, unit: float, parts: int) -> torch.Tensor:
    """Return weights as whole numbers of unit / parts, -LEVELS to LEVELS."""
    return (weight * parts / unit).round().clamp(-LEVELS, LEVELS)


def largest_weight(weight: torch.Tensor) -> float:
    """Return the size of the largest weight; not 0, by which nothing can be divided."""
    return max(weight.abs().max().item(), 1e-9)


def power_of_2_above(weight: torch.Tensor) -> float:
    """Return the least power of 2 from the largest weight on."""
    return 2.0 ** ceil(log2(largest_weight(weight)))


def candidate_parts(
    module: nn.Module,
    weight: torch.Tensor,
    signal: Signal,
    unit: float,
    largest_current: int | None,
) -> list[int]:
    """Return the numbers of parts with which a module's weights may be rounded.

    The scale of a module is ``unit / parts``: a weight w becomes the whole number
    ``w parts / unit``, rounded. So more parts round less, but make larger numbers.

    Parameters
    ----------
    module : nn.Module
        One of LINEAR.
    weight : Tensor
        Its weights, float64.
    signal : Signal
        What it takes.
    unit : float
        See ``quantize_linear``.
    largest_current : int or None
        Largest sum that is wanted, or None.

    Returns
    -------
    list of int
        At least 1 each. The first one makes the scale a power of 2 times the unit; the
        others lie evenly from LOWEST_SCALE to HIGHEST_SCALE times the number with which
        the largest weight just fits. Above 1 the largest weights are cut off, which may
        be worth it for the others.
    """
    # Largest sum of inputs and weights: signal.bound * inputs * parts / unit as a whole
    # number. It must stay below LARGEST, less a tenth for the bias and for rounding.
    inputs = max(fan_in(weight, module, signal.signed), 1e-9)  # not 0, to divide by it
    most = min(0.9 * LARGEST * unit / (signal.bound * inputs), MOST_PARTS)
    # With which the largest weight becomes LEVELS, or less if sums do not allow that
    fitting = min(LEVELS * unit / largest_weight(weight), most)
    if largest_current:
        narrow = largest_current * unit / (signal.bound * inputs)
        leaves_enough_levels = narrow > FEWEST_LEVELS / LEVELS * fitting
        if leaves_enough_levels:
            fitting = min(narrow, fitting)
            most = fitting  # no candidate may have larger sums
    power_of_2 = unit * 2.0 ** floor(log2(fitting / unit))
    multiples = torch.linspace(LOWEST_SCALE, HIGHEST_SCALE, NUM_SCALES)
    candidates = [power_of_2, *(fitting * multiples).tolist()]
    return [max(1, round(min(parts, most))) for parts in candidates]


def largest_sum(module: nn.Module, signal: Signal) -> float:
    """Return a bound on the sums that a module of whole numbers makes of a signal."""
    bias = 0
    if module.bias is not None:
        bias = module.bias.abs().max().item()
    return signal.bound * fan_in(module.weight, module, signal.signed) + bias


def fan_in(weight: torch.Tensor, module: nn.Module, signed: bool) -> float:
    """Return the largest sum of the weights that reach one output.

    Parameters
    ----------
    weight : Tensor
        Weights of the module.
    module : nn.Module
        One of LINEAR.
    signed : bool
        Whether inputs may be below 0. If so, the sizes of all weights add up; otherwise
        those of one sign do.

    Returns
    -------
    float
    """
    if signed:
        weights = [weight.abs()]
    else:
        weights = [weight.clamp(min=0), (-weight).clamp(min=0)]
    sums = []
    for values in weights:
        for reaching in weights_by_place(values, module):
            sums.append(reaching.flatten(1).sum(1).max().item())
    return max(sums)


def weights_by_place(weight: torch.Tensor, module: nn.Module) -> Iterator[torch.Tensor]:
    """Give the weights, output channels first, that reach the same place.

    In a transposed convolution of stride s, an output pixel gets only those weights
    that lie s apart in the kernel.
    """
    if not isinstance(module, nn.ConvTranspose2d):
        yield weight
        return
    weight = weight.transpose(0, 1)
    stride = module.stride[0]
    for y in range(stride):
        for x in range(stride):
            yield weight[..., y::stride, x::stride]


# --- layers that become one


def fold_strides(features: nn.Sequential, image_size: tuple[int, int]) -> nn.Sequential:
    """Fold each strided convolution into the convolution behind it.

    Take the modules (conv, neuron, strided, conv, neuron) at the positions 0 to 4, with
    the fork at 5. They become (conv, neuron, folded, neuron), with the fork at 4.

    Parameters
    ----------
    features : nn.Sequential
        An encoder. Its ``fork`` says how many of its modules the decoder needs; 0 if
        there is no decoder.
    image_size : tuple of (int, int)
        Height and width of its images.

    Returns
    -------
    nn.Sequential
        The encoder, with a ``fork`` of its own. A folded convolution has the name of
        the second one. Two stay apart where `may_fold` says no.
    """
    input_sizes = sizes_before(features, image_size)
    layers = []  # (name, module) of the encoder so far
    num_folded_before_fork = 0
    for position, (name, module) in enumerate(features.named_children()):
        previous = layers[-1][1] if layers else None
        previous_input_size = input_sizes[max(position - 1, 0)]
        # The decoder takes what the module before the fork sends, so that one must not
        # be folded into the module behind the fork.
        is_behind_fork = position == features.fork
        if not is_behind_fork and may_fold(previous, module, previous_input_size):
            layers[-1] = (name, fold_convolutions(previous, module))
            # `position` and `fork` both count the modules of `features`, not of the
            # encoder that is made here.
            if position < features.fork:
                num_folded_before_fork += 1
        else:
            layers.append((name, module))
    encoder = nn.Sequential(OrderedDict(layers))
    encoder.fork = features.fork - num_folded_before_fork
    return encoder


def sizes_before(features: nn.Sequential, image_size: Sequence[int]) -> list[Sequence[int]]:
    """Return the (height, width) of what arrives at each module of an encoder.

    In encoders of an architecture strides of 2 alone change it, of pools and of
    convolutions without padding: other convolutions are padded.
    """
    sizes = []
    size = image_size
    for module in features:
        sizes.append(size)
        if getattr(module, "stride", 1) in (2, (2, 2)):
            size = [length // 2 for length in size]
    return sizes


def may_fold(
    previous: nn.Module | None, module: nn.Module, previous_input_size: Sequence[int]
) -> bool:
    """Return whether one convolution can do what two modules in a row do.

    The first one has to be strided, and the second one to move by one place. If a side
    of the first one's input is odd, it never looks at the last row or column. The
    folded one would, where the second one has zeros as padding.

    Parameters
    ----------
    previous : nn.Module or None
        The first module, if there is any before ``module``.
    module : nn.Module
        The second one.
    previous_input_size : (height, width)
        Of what arrives at ``previous``.

    Returns
    -------
    bool
    """
    has_odd_side = any(length % 2 for length in previous_input_size)
    return is_strided(previous) and is_plain_convolution(module) and not has_odd_side


def is_strided(module: nn.Module | None) -> bool:
    """Return whether a module is a 2 x 2 convolution of stride 2 without bias."""
    if not isinstance(module, nn.Conv2d):
        return False
    return module.stride == module.kernel_size == (2, 2) and module.bias is None


def is_plain_convolution(module: nn.Module) -> bool:
    """Return whether a module is a convolution of stride 1."""
    return isinstance(module, nn.Conv2d) and module.stride == (1, 1)


def fold_convolutions(strided: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Return one convolution that does what these two do, one after the other.

    Parameters
    ----------
    strided : nn.Conv2d
        The first one: 2 x 2, of stride 2, without padding and bias.
    second : nn.Conv2d
        The second one: k x k, of stride 1, with the same padding on all sides, and
        without groups or dilation.

    Returns
    -------
    nn.Conv2d
        Of size 2k x 2k and stride 2. The bias is the second one's, the same Parameter.
    """
    # Each weight of the second kernel sits at one pixel between the two, which the
    # first kernel has made of 2 x 2 input pixels. So the joint kernel has the first
    # one, times that weight, there: a transposed convolution of stride 2 does that.
    kernel = F.conv_transpose2d(second.weight, strided.weight, stride=2)
    out_channels, in_channels, _, size = kernel.shape
    # A row of zeros between the two is two rows of zeros in the input.
    padding = 2 * second.padding[0]
    folded = nn.Conv2d(in_channels, out_channels, size, 2, padding, bias=False)
    folded.weight = nn.Parameter(kernel)
    folded.bias = second.bias
    return folded


def fold_decoder(decoder: nn.Sequential, image_size: tuple[int, int]) -> nn.Sequential:
    """Fold U layers into the convolution after them, where that has no more weights.

    A U layer is a transposed convolution that doubles height and width. Followed by a
    transposed convolution of stride 1, without neurons between, it is one linear map
    with it, so one layer can do what both do.

    Parameters
    ----------
    decoder : nn.Sequential
        The decoder, which stays as it is.
    image_size : tuple of (int, int)
        Height and width of what it gives.

    Returns
    -------
    nn.Sequential
        A folded layer has the name of the convolution. Others are the same modules.
    """
    nodes = nodes_in_a_row(decoder.named_children())
    folded = fold_layers(
        nodes,
        end=nodes[-1].name,
        signals=1,  # of use only for a criterion that counts operations
        image_size=image_size,
        pays=has_no_more_weights,
    )
    layers = OrderedDict()
    for node in folded:
        layer = node.module
        if isinstance(layer, FoldedChain):
            layer = layer.module()  # the chain as an nn.ConvTranspose2d
        layers[node.name] = layer
    return nn.Sequential(layers)


def has_no_more_weights(chain: FoldedChain, up: nn.ConvTranspose2d, places: int) -> bool:
    """Return whether a U layer can be folded into a chain without more weights.

    This is a criterion ``pays`` of ``fold_layers``, which passes ``places``, too: how
    many pixels the layer takes. Weights are the same at all of them.
    """
    return chain.size_with(up) <= chain.kernel.numel() + up.weight.numel()
