"""From ANN to SNN: find thresholds for a network that has an ANN's weights.

There are three ways to find them:

- `balance_thresholds`: the largest current that arrives at each layer;
- `fit_thresholds`: the learned bounds of an ANN with QCFS;
- `fit_levels`, then `fit_thresholds`: bounds that fit a ReLU ANN's activations.

Biases are then brought to the unit of each layer (`fit_biases`), and may be calibrated
(`calibrate_biases`).

Units: a spike counts 1 here, whatever the threshold of its layer. An ANN's activation
is on a scale of its own, on which one spike is worth the neuron's threshold. So the
current of a layer is the ANN's, divided by a *unit*: the product of the thresholds of
all layers before it. That layer's bias and bound have to be divided by it, too.

A *signal* in this file is a function of the timestep: ``signal(t)`` returns a Tensor of
shape (B, ...). Signals are computed when they are asked for, in order from step 0 on,
and as often as wanted, so that a layer's currents of all timesteps need not lie in
memory.
"""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial, reduce
from operator import add
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from self_models.errors import ModelError
from self_models.networks.stages import pass_on
from self_models.neurons.norms import broadcast_channels
from self_models.neurons.spiking import SpikingNeuron
from self_models.running.graph import Link
from self_models.running.known_layers import check_known
from self_models.running.outputs import INPUT
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

CACHED = 2**31  # bytes of a layer's currents that are kept; if it has more, they are recomputed
BINS = 2**14  # of the histogram of a layer's activations
CANDIDATES = 200  # thresholds of a layer among which the best is found
ROUNDS = 16  # in which a layer's biases are calibrated
# A bias that changes by a threshold changes the rate by 1 at most, and often by less.
GAIN = 1.5

Signal = Callable[[int], torch.Tensor]  # timestep -> what is sent in it (B, ...)


# --- signals


def encode_input(
    model: VGG_SNN_STDB_wFeedback, images: torch.Tensor, draws: Signal, t: int
) -> torch.Tensor:
    """Return what the input neurons send of whole images in timestep ``t``.

    ``images``: (B, C, H, W), or recordings (B, T, C, H, W), which begin again at their
    end.
    """
    if images.dim() > 4:
        images = images[:, t % images.shape[1]]
    return model.encoding.send(images, draws(t))


def constant_signal(value: torch.Tensor, t: int) -> torch.Tensor:
    """Return the same value in every timestep."""
    return value


def add_shift(current: Signal, shift: torch.Tensor, t: int) -> torch.Tensor:
    """Return the current of a timestep with a shift for each channel, (C,)."""
    values = current(t)
    return values + broadcast_channels(shift, values)


class ModuleSignal:
    """What a module that does not spike makes of the sum of its sources' signals.

    A maximum pool that counts has a state. So the module runs once in each timestep,
    and step 0 begins a new run.

    Parameters
    ----------
    module : nn.Module or None
        The module. None: the sum itself.
    sources : list of Signal
        What arrives.
    """

    def __init__(self, module: nn.Module | None, sources: list[Signal]):
        self.module = module
        self.sources = sources
        self.memory = {}  # the module's state
        self.latest_step = None
        self.latest_value = None

    def __call__(self, t: int) -> torch.Tensor:
        """Return the module's output in a timestep.

        Parameters
        ----------
        t : int
            The same timestep as at the latest call, the next one, or 0.

        Returns
        -------
        Tensor of shape (B, ...)
            What the module makes of the sum of its sources.
        """
        if t == 0:
            self.memory.clear()
        elif t == self.latest_step:
            return self.latest_value
        arriving = reduce(add, (source(t) for source in self.sources))
        # Let the old value go first, since both may be large.
        self.latest_value = None
        if self.module is None:
            self.latest_value = arriving
        else:
            self.latest_value = pass_on(self.module, arriving, self.memory, "")
        self.latest_step = t
        return self.latest_value


class PackedSpikes(NamedTuple):
    """Spikes of a timestep, one bit each.

    Attributes
    ----------
    bits : array of uint8
        In the order in which the values lie in memory.
    strides : tuple of int
        Of the tensor: they may be of any order, such as channels last.
    """

    bits: np.ndarray
    strides: tuple


class SpikeTrain:
    """A signal that keeps what a spiking layer has sent, as one bit for each spike.

    Neurons of one's own may send other values than 0 and 1, which are kept as they are.
    """

    def __init__(self):
        self.steps = []  # of each timestep: PackedSpikes, or a Tensor
        self.shape = None
        self.device = None
        self.dtype = None

    def append(self, spikes: torch.Tensor) -> None:
        """Keep the spikes of the next timestep.

        Parameters
        ----------
        spikes : Tensor of shape (B, ...)
            0 and 1, which are packed, or other values.
        """
        self.shape = spikes.shape
        self.device = spikes.device
        self.dtype = spikes.dtype
        as_bits = spikes.bool()
        if not torch.equal(as_bits.to(spikes.dtype), spikes):
            self.steps.append(spikes)
            return
        # Bits are packed as they lie, since convolutions may give channels last:
        # another order of the same values would change how sums are rounded.
        in_memory = as_bits.as_strided((as_bits.numel(),), (1,))
        bits = np.packbits(in_memory.cpu().numpy())
        self.steps.append(PackedSpikes(bits, as_bits.stride()))

    def __call__(self, t: int) -> torch.Tensor:
        """Return the spikes (B, ...) of a timestep."""
        kept = self.steps[t]
        if isinstance(kept, torch.Tensor):
            return kept
        bits = np.unpackbits(kept.bits, count=self.shape.numel())
        spikes = torch.from_numpy(bits).as_strided(self.shape, kept.strides)
        return spikes.to(self.device, self.dtype)


def run_neuron(
    neuron: SpikingNeuron, current: Signal, steps: int, on_step: Callable | None = None
) -> SpikeTrain:
    """Run a spiking layer on its own.

    Parameters
    ----------
    neuron : SpikingNeuron
        The layer. If it charges first, it sends in the timesteps after these currents.
    current : Signal
        What arrives, (B, ...).
    steps : int
        How many timesteps it arrives, and how many it sends.
    on_step : callable, optional
        Called after each timestep, without arguments.

    Returns
    -------
    SpikeTrain
        What the layer sends.
    """
    spike_train = SpikeTrain()
    if neuron.charges_first:
        total = sum(current(t) for t in range(steps))
        fired = neuron.fired(total, steps).chunk(steps)
    state = None
    for t in range(steps):
        if neuron.charges_first:
            spikes = fired[t]
        else:
            spikes, state = neuron(current(t), state)
        spike_train.append(spikes)
        if on_step:
            on_step()
    return spike_train


# --- layer by layer


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and afterwards into the mode that it had.

    Signals are computed when somebody asks for them. So this has to enclose a
    `LayerWalk` and whatever asks for its signals: in training mode a dropout would look
    for its mask, which no conversion draws. The mode comes back after an error, too.
    """
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class LayerInput(NamedTuple):
    """A spiking layer, and what arrives at it.

    Attributes
    ----------
    name : str
        Name of the layer.
    neuron : SpikingNeuron
        The layer.
    current : Signal
        Its input current in each timestep, (B, ...).
    """

    name: str
    neuron: SpikingNeuron
    current: Signal


class LayerWalk:
    """Visit the spiking layers of a network, each with what those before it have sent.

    Each layer is visited once, for all timesteps. Whoever visits it says what it sends,
    before the next one comes::

        walk = LayerWalk(model, input_signal, steps)
        for name, neuron, current in walk:
            walk.set_output(name, run_neuron(neuron, current, steps))

    The model must be in evaluation mode, see `in_evaluation`.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    input_signal : Signal
        What the input neurons send.
    steps : int
        Number of timesteps.
    """

    def __init__(self, model: VGG_SNN_STDB_wFeedback, input_signal: Signal, steps: int):
        self.graph = model.graph
        self.steps = steps
        self.signals = {INPUT: input_signal}  # node -> what it sends

    def __iter__(self) -> Iterator[LayerInput]:
        """Visit each spiking layer.

        Yields
        ------
        LayerInput
            The layer and its input current, in the order encoder, decoder, classifier.
        """
        sources = {node.name: node.sources for node in self.graph.nodes}
        for name, module in self.graph.modules.items():
            arriving = [self.signals[source] for source in sources[name]]
            if not isinstance(module, SpikingNeuron):
                self.signals[name] = ModuleSignal(module, arriving)
                continue
            current = ModuleSignal(None, arriving)
            if self.steps * current(0).nbytes <= CACHED:
                current = cache(current)
            yield LayerInput(name, module, current)

    def set_output(self, name: str, signal: Signal) -> None:
        """Say what a spiking layer sends."""
        self.signals[name] = signal

    def output(self) -> Signal:
        """Return what arrives at the logits (B, labels); still to be computed."""
        return self.signals[self.graph.ends["output"]]


# --- thresholds from currents


@torch.no_grad()
def balance_thresholds(
    model: VGG_SNN_STDB_wFeedback,
    images: torch.Tensor,
    draws: Signal,
    timesteps: int,
    percentile: float = 100.0,
    on_layer: Callable[[str, float], None] | None = None,
    on_step: Callable[[], None] | None = None,
) -> list[float]:
    """Set each layer's threshold to the largest current that arrives at it.

    The largest is taken over timesteps, images and neurons. Each layer runs with leak
    1, which means no leak, and on what the layers before it send with the thresholds
    found so far (Diehl et al., IJCNN 2015; Sengupta et al., 2019). The input neurons
    see the whole image, whatever the gate. ``convert`` in snn_wFeedback.py multiplies
    the result by ``--scaling_factor``.

    The model keeps its leaks. Its biases, which were the ANN's, are brought to the unit
    of the new thresholds. Neurons of one's own are balanced as they run; those beside
    the stages of an architecture keep their thresholds.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network, with the ANN's weights. Changed in place.
    images : Tensor of shape (B, C, H, W) or (B, T, C, H, W)
        Images, or recordings, which begin again at their end.
    draws : callable
        Timestep -> uniform samples in [0, 1), Tensor of shape (B, C, H, W).
    timesteps : int
        How long each layer runs.
    percentile : float, 0 to 100
        Below 100, a threshold is the largest over timesteps of this percentile over
        images and neurons (Rueckauer et al., 2017).
    on_layer : callable, optional
        Called after each layer with its name and its threshold.
    on_step : callable, optional
        Called after each timestep of each layer, without arguments.

    Returns
    -------
    list of float
        The thresholds, in the order encoder, decoder, classifier.

    Raises
    ------
    ModelError
        If the model has a part that no architecture makes.
    """
    check_known(model, "conversion", own=True)
    leaks = [neuron.leak.item() for neuron in model.neurons().values()]
    ann_biases = biases_of(model)
    model.set_leak(1.0)

    with in_evaluation(model):
        walk = LayerWalk(model, partial(encode_input, model, images, draws), timesteps)
        for name, neuron, current in walk:
            neuron.threshold.copy_(balanced_threshold(current, timesteps, percentile))
            # A layer's bias is in the unit of the thresholds before it. This threshold
            # changes the unit of all layers behind, the next of which is balanced next.
            fit_biases(model, ann_biases)
            walk.set_output(name, run_neuron(neuron, current, timesteps, on_step))
            if on_layer:
                on_layer(name, neuron.threshold.item())

    for neuron, leak in zip(model.neurons().values(), leaks, strict=True):
        neuron.leak.fill_(leak)
    return model.thresholds


def balanced_threshold(current: Signal, timesteps: int, percentile: float) -> torch.Tensor:
    """Return the largest current over timesteps; 1 where nothing above 0 arrives."""
    largest = [percentile_of(current(t), percentile) for t in range(timesteps)]
    threshold = torch.stack(largest).max()
    return torch.where(threshold > 0, threshold, 1.0)


def percentile_of(values: torch.Tensor, percentile: float) -> torch.Tensor:
    """Return the smallest of the values that this percentage of them does not exceed.

    Where that is not above 0, since most neurons get nothing, return the largest value.
    """
    if percentile < 100:
        position = max(1, math.ceil(percentile * values.numel() / 100))  # of the sorted, from 1
        value = values.flatten().kthvalue(position).values
        if value > 0:
            return value
    return values.max()


# --- thresholds from activations


@torch.no_grad()
def fit_levels(
    model: VGG_SNN_STDB_wFeedback,
    images: torch.Tensor,
    activations: dict[str, Callable] | None = None,
    on_layer: Callable[[], None] | None = None,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Choose thresholds whose levels come nearest to an ANN's activations.

    A neuron of threshold theta can send T + 1 values in T timesteps: 0, theta / T, …,
    theta. Each layer gets the theta that minimises, over images and neurons with
    activations ``a``,

        mean (a - theta / T clip(floor(a T / theta + 1/2), 0, T))²

    (Li et al., ICML 2021). The thresholds are in the unit of the activations. What
    remains to be done is as for an ANN with QCFS: `fit_thresholds`, then `fit_biases`.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network, with the ANN's weights and biases. Its thresholds are changed.
    images : Tensor of shape (B, C, H, W) or (B, T, C, H, W)
        Images, or recordings, of which the mean frame counts.
    activations : dict of {str: callable}, optional
        Name of a layer -> what the ANN has there, where that is not ReLU. The bound of
        a QCFS becomes the threshold.
    on_layer : callable, optional
        Called after each layer, without arguments.

    Returns
    -------
    rates : dict of {str: Tensor of shape (C,)}
        The ANN's rates, as `rates_of` returns them.
    logits : Tensor of shape (B, num_classes)
        The ANN's logits.

    Raises
    ------
    ModelError
        If the model has a part that no architecture makes.
    """
    check_known(model, "conversion", own=True)
    if images.dim() > 4:
        images = images.mean(1)
    if activations is None:
        activations = {}

    rates = {}
    with in_evaluation(model):
        walk = LayerWalk(model, partial(constant_signal, images), steps=1)
        for name, neuron, current in walk:
            nonlinearity = activations.get(name, torch.relu)
            activation = nonlinearity(current(0))
            bound = getattr(nonlinearity, "bound", None)
            if bound is None:
                bound = nearest_bound(activation, model.timesteps)
            neuron.threshold.fill_(bound)
            rates[name] = channel_means((activation / neuron.threshold).clamp(max=1))
            walk.set_output(name, partial(constant_signal, activation))
            if on_layer:
                on_layer()
        logits = walk.output()(0)
    return rates, logits


def nearest_bound(activation: torch.Tensor, levels: int) -> float:
    """Return the threshold whose levels come nearest to activations; see `fit_levels`.

    Parameters
    ----------
    activation : Tensor of any shape, from 0
        Activations of one layer.
    levels : int
        T: the levels are k theta / T, for k from 0 to T.

    Returns
    -------
    float
        The best of `CANDIDATES` equal parts of the largest activation; 1 where all are
        0.
    """
    largest = activation.max().item()
    if largest == 0:
        return 1.0
    # The errors are summed over a histogram: a layer has millions of activations, and
    # for each of them 200 candidates would be tried.
    counts = torch.histc(activation, BINS, 0, largest).double()
    counts[0] -= (activation == 0).sum()  # 0 is a level of every threshold
    centres = (torch.arange(BINS, device=counts.device) + 0.5) * (largest / BINS)
    numbers = torch.arange(1, CANDIDATES + 1, device=counts.device)[:, None]
    thetas = largest * numbers / CANDIDATES  # (CANDIDATES, 1)
    nearest_level = (centres * levels / thetas + 0.5).floor().clamp(0, levels)
    sent = thetas / levels * nearest_level  # (CANDIDATES, BINS)
    squared_errors = ((centres - sent).square() * counts).sum(1)
    return thetas[squared_errors.argmin()].item()


def bounds_as_thresholds(
    state: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], bool]:
    """Rename the learned bounds of an ANN's QCFS layers to thresholds.

    Parameters
    ----------
    state : dict of {str: Tensor}
        The ANN's state_dict.

    Returns
    -------
    renamed : dict of {str: Tensor}
        The same with names as an SNN has them.
    has_bounds : bool
        Whether there are any.
    """
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"(\.nonlinearity)?\.bound$", ".threshold", name)
        renamed[name] = value
    return renamed, renamed.keys() != state.keys()


# --- rates


class RateRecorder:
    """A forward hook that keeps the mean rates of an ANN's layers.

    Attributes
    ----------
    layer_names : dict of {nn.Module: str}
        The ANN's modules.
    spike_values : dict of {str: Tensor}
        Layer -> the activation that stands for a spike in every timestep.
    rates : dict of {str: Tensor of shape (C,)}
        Layer -> rates of its channels, 0 to 1.
    """

    def __init__(self, ann: nn.Module, spike_values: dict[str, torch.Tensor]):
        self.layer_names = {module: name for name, module in ann.named_modules()}
        self.spike_values = spike_values
        self.rates = {}

    def __call__(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        """Keep the rates of a module that has run, if its layer spikes in the SNN."""
        name = self.layer_names.get(module)
        if name in self.spike_values:
            rates = (output / self.spike_values[name]).clamp(0, 1)
            self.rates[name] = channel_means(rates)


def rates_of(
    ann: nn.Module, model: VGG_SNN_STDB_wFeedback, images: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the spike rates that an ANN's activations ask of an SNN's channels.

    Parameters
    ----------
    ann : VGG_wFeedback
        The ANN, in evaluation. Its layers are named as the model's.
    model : VGG_SNN_STDB_wFeedback
        The SNN, with its thresholds.
    images : Tensor of shape (B, C, H, W)
        Images, as the ANN takes them.

    Returns
    -------
    dict of {str: Tensor of shape (C,)}
        Name of a spiking layer -> mean over images and neurons of the activation, as a
        share of the threshold, clipped to 0…1.
    """
    unit_before = {link.target: unit for link, unit in iter_units(model)}
    spike_values = {}
    for name, neuron in model.neurons().items():
        spike_values[name] = unit_before[name] * neuron.threshold
    recorder = RateRecorder(ann, spike_values)
    with torch.no_grad(), register_module_forward_hook(recorder):
        ann(images)
    return recorder.rates


def channel_means(values: torch.Tensor) -> torch.Tensor:
    """Return the mean of each channel over images and places: (B, C, ...) -> (C,)."""
    return values.mean((0, *range(2, values.dim())))


# --- biases


@dataclass
class Calibration:
    """What calibrating the biases of a layer has found.

    Attributes
    ----------
    error_before, error : float
        Root mean square over channels of the difference between the ANN's rates and the
        layer's, before and with the shift.
    shift : Tensor of shape (C,)
        What to add to the bias.
    spikes : SpikeTrain
        What the layer sends with the shift.
    """

    error_before: float
    error: float
    shift: torch.Tensor
    spikes: SpikeTrain


@torch.no_grad()
def calibrate_biases(
    model: VGG_SNN_STDB_wFeedback,
    rates: dict[str, torch.Tensor],
    images: torch.Tensor,
    draws: Signal,
    on_layer: Callable[[str, float, float], None] | None = None,
    on_step: Callable[..., None] | None = None,
) -> None:
    """Shift each bias so that its channel's mean rate is that of the ANN.

    The rate is the mean over images, neurons and the model's T timesteps. Layers are
    calibrated in the order encoder, decoder, classifier, each on what those before it
    then send.

    What a layer gets is not spread evenly over the timesteps. If these are few, the
    error is largely one of whole channels, which a bias takes away (Li et al., ICML
    2021). They correct it once. Here the best of `ROUNDS` rounds counts, since most
    neurons are silent and do not feel a small change.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network; changed in place. Its update is not "delayed", and all its neurons
        have biases.
    rates : dict of {str: Tensor of shape (C,)}
        Rates of the ANN, see `rates_of`.
    images : Tensor of shape (B, C, H, W) or (B, T, C, H, W)
        See `balance_thresholds`.
    draws : callable
        See `balance_thresholds`.
    on_layer : callable, optional
        Called after each layer with its name, and the root mean square over channels of
        the difference of the rates, before and after.
    on_step : callable, optional
        Called without arguments after each timestep of each round, or with the number
        of those that a layer does not need.

    Raises
    ------
    ModelError
        If the model has a part that no architecture makes.
    """
    check_known(model, "conversion", own=True)
    steps = model.timesteps
    calibrated = []  # pairs of a bias and what is to be added to it
    with in_evaluation(model):
        walk = LayerWalk(model, partial(encode_input, model, images, draws), steps)
        for name, neuron, current in walk:
            bias = model.graph.bias_before(name)
            # A decoder's last layer spikes in the SNN alone, so it has no rates.
            if name not in rates or bias is None:
                if on_step:
                    on_step(ROUNDS * steps)
                walk.set_output(name, run_neuron(neuron, current, steps, on_step))
                continue
            found = calibrate_layer(neuron, current, rates[name], steps, on_step)
            calibrated.append((bias, found.shift))
            walk.set_output(name, found.spikes)
            if on_layer:
                on_layer(name, found.error_before, found.error)
    # Only now, since a bias may be that of a layer whose signals are computed again.
    for bias, shift in calibrated:
        bias.add_(shift)


def calibrate_layer(
    neuron: SpikingNeuron,
    current: Signal,
    wanted_rates: torch.Tensor,
    steps: int,
    on_step: Callable[..., None] | None,
) -> Calibration:
    """Find what to add to the bias of a layer so that its channels have these rates.

    The first round has no shift. After each round the shift grows by the rates that
    lack, times the threshold. The round with the least error counts, the first one of
    several.
    """
    shift = torch.zeros_like(wanted_rates)
    best = None
    for _ in range(ROUNDS + 1):
        spikes = run_neuron(neuron, partial(add_shift, current, shift), steps, on_step)
        rates = sum(channel_means(spikes(t)) for t in range(steps)) / steps
        lacking = wanted_rates - rates
        error = lacking.square().mean().sqrt().item()
        if best is None:
            best = Calibration(error, error, shift, spikes)
        elif error < best.error:
            best = Calibration(best.error_before, error, shift, spikes)
        shift = shift + GAIN * lacking * neuron.threshold
    return best


def biases_of(model: VGG_SNN_STDB_wFeedback) -> dict[str, torch.Tensor]:
    """Return a copy of each bias, by the layer that it is added to."""
    biases = {}
    for link in model.graph.links:
        if link.bias is not None:
            biases[link.target] = link.bias.detach().clone()
    return biases


@torch.no_grad()
def fit_biases(model: VGG_SNN_STDB_wFeedback, biases: dict[str, torch.Tensor]) -> None:
    """Bring an ANN's biases to the unit of each layer, for the thresholds as they are.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network; its biases are set.
    biases : dict of {str: Tensor of shape (C,)}
        The ANN's, as `biases_of` returned them before any was changed.
    """
    for link, unit in iter_units(model):
        if link.target in biases:
            link.bias.copy_(biases[link.target] / unit)


@torch.no_grad()
def fit_thresholds(model: VGG_SNN_STDB_wFeedback) -> None:
    """Bring thresholds that are an ANN's bounds to the unit of each layer, in place."""
    neurons = model.neurons()
    for link, unit in iter_units(model):
        if link.target in neurons:
            neurons[link.target].threshold.div_(unit)


def iter_units(model: VGG_SNN_STDB_wFeedback) -> Iterator[tuple[Link, float]]:
    """Iterate over a network's links and their units, from the input on.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network. The threshold of a link's target may be changed when the link has
        been yielded: the units after it follow from the new one.

    Yields
    ------
    link : Link
        What leads from the input, or a spiking layer, to the next one, or to an end.
    unit : float
        The current that it brings is the ANN's, divided by this.

    Raises
    ------
    ModelError
        If the model has a part that no architecture makes, or a bias that is not that
        of the last layer before neurons.
    """
    check_known(model, "conversion", own=True)
    graph = model.graph
    neurons = model.neurons()
    unit_after = {INPUT: 1.0}  # sender -> what a spike of it is worth in the ANN
    for link in graph.links:
        if link.target in graph.pools:  # passes on spikes of the layer before
            continue
        if any(getattr(module, "bias", None) is not None for module in link.modules[:-1]):
            raise ModelError(
                f"conversion: a layer before {link.end} has a bias, "
                "which has no neurons of its own"
            )
        unit = unit_after[graph.before_pools(link.source)]
        yield link, unit
        if link.target in neurons:
            unit_after[link.target] = unit * neurons[link.target].threshold.item()
