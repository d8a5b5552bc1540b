"""From ANN to SNN: with the ANN's weights, balance the thresholds layer by layer, or take bounds for them, those of a QCFS ANN or
those that fit a ReLU ANN's activations; then, where asked, calibrate the biases.

A spike counts 1 here, whatever its layer's threshold; an ANN's activation is on the scale of its layer. So what drives a layer is
in a unit, the product of the thresholds before it, and with it that layer's bias and bound have to be divided.
"""

import math
import re
from contextlib import contextmanager
from functools import cache, reduce
from operator import add, itemgetter

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook

from self_models.basics import ModelError
from self_models.layers.neurons import SpikingNeuron
from self_models.layers.norms import by_channel
from self_models.layers.stages import pass_on
from self_models.runtime.known_parts import check_known
from self_models.runtime.outputs import INPUT

CACHED = (
    2**31
)  # bytes of a layer's drives that are kept until it is settled; more are computed again
BINS, CANDIDATES = (
    2**14,
    200,
)  # of the activations' histogram, of a layer's thresholds that are tried
ROUNDS, GAIN = (
    16,
    1.5,
)  # of calibrating a layer's biases; a change of a bias by a threshold is one of the rate by 1 at most


@torch.no_grad()
def balance_thresholds(
    model, images, draws, timesteps, percentile=100.0, on_layer=None, on_step=None
):
    """Thresholds of each spiking layer, encoder, decoder, classifier: the largest drive W a[t] over steps, images, neurons; with
    a percentile below 100 the largest over steps of that percentile over images and neurons (Rueckauer et al., 2017).

    Each layer is run with leak 1 and the thresholds found so far (Diehl et al., IJCNN 2015; Sengupta et al., 2019). The input
    neurons see the whole image, whatever the gate. The model's leaks are put back, its thresholds are the ones found, its biases,
    which were the ANN's, fit to them. Neurons of one's own are balanced as they run; those beside the stages of a plan keep their
    thresholds. images: (B, C, H, W), or recordings (B, T, C, H, W), which begin again at their end; draws: t -> (B, C, H, W),
    uniform in [0, 1); on_layer: called with (name, threshold); on_step: after each step of a layer. Raises ModelError for a part
    that no architecture makes."""
    check_known(model, "conversion", own=True)
    leaks, biases = [neuron.leak.item() for neuron in model.neurons().values()], biases_of(model)
    model.set_leak(1.0)

    def balance(name, neuron, drive, steps):
        most = torch.stack([largest(drive(t), percentile) for t in range(steps)]).max()
        neuron.threshold.copy_(
            torch.where(most > 0, most, 1.0)
        )  # 1 where nothing positive ever reaches it
        fit_biases(model, biases)
        spikes = spikes_of(neuron, drive, steps, on_step)
        if on_layer:
            on_layer(name, neuron.threshold.item())
        return spikes

    with in_evaluation(model):
        layer_by_layer(model, sent_by(model, images, draws), timesteps, balance)
    for neuron, leak in zip(model.neurons().values(), leaks, strict=True):
        neuron.leak.fill_(leak)
    return model.thresholds


def sent_by(model, images, draws):
    """t -> what the input neurons send of the whole images, or recordings, at step t."""
    shown = images.unbind(1) if images.dim() > 4 else [images]
    return lambda t: model.encoding.send(shown[t % len(shown)], draws(t))


@contextmanager
def in_evaluation(model):
    """Put a model into evaluation mode; afterwards, also after an error, into the mode that it had.

    Signals here are computed when somebody asks for them. So this has to enclose
    ``layer_by_layer`` and whatever asks for the signals that it returns: in training mode a
    dropout would look for its mask, which no conversion draws.
    """
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def layer_by_layer(model, sent, steps, settle):
    """Run a network in evaluation mode, each layer once for all steps on what those before it have sent. sent: t -> the input's
    signal; settle: runs a spiking layer: called with (name, the SpikingNeuron, its drive t -> (B, ...), its steps), it returns
    t -> what the layer sends, as spikes_of does. Returns t -> what the logits get (B, labels), still to be computed, so that
    the caller must be within in_evaluation(model)."""
    graph, signals = model.graph, {INPUT: sent}
    sources = {node.name: node.sources for node in graph.nodes}
    for (
        name,
        module,
    ) in graph.modules.items():  # encoder, decoder, classifier; or as the ANN has them
        is_neuron = isinstance(module, SpikingNeuron)
        signal = through(
            None if is_neuron else module, [signals[source] for source in sources[name]]
        )
        if is_neuron:
            signal = cache(signal) if steps * signal(0).nbytes <= CACHED else signal
            signal = settle(name, module, signal, steps)
        signals[name] = signal
    return signals[graph.ends["output"]]


def through(module, signals):
    """t -> what a module that does not spike, or nothing, makes of the sum of these signals at step t, (B, ...); asked from step
    0 on, in turn, as often as wanted: a maximum pool counts."""
    memory, latest = {}, {}  # of the module; the last step that was asked for -> what it made

    def at(t):
        if t == 0:
            memory.clear()
        if t == 0 or t not in latest:
            values = reduce(add, (signal(t) for signal in signals))
            latest.clear()
            latest[t] = values if module is None else pass_on(module, values, memory, "")
        return latest[t]

    return at


def spikes_of(neuron, drive, steps, on_step=None):
    """t -> the spikes of a layer with these drives, t -> (B, ...), likewise, of which it keeps a bit each. Neurons that charge first send
    in the timesteps after these drives. Neurons of one's own may send other values than 0 and 1: these are kept as they are."""
    kept, state = [], None
    if neuron.charges_first:
        sent = neuron.fired(sum(drive(t) for t in range(steps)), steps).chunk(steps)
    for t in range(steps):
        spikes, state = (sent[t], None) if neuron.charges_first else neuron(drive(t), state)
        as_bits = spikes.bool()
        if torch.equal(as_bits.to(spikes.dtype), spikes):
            in_memory = as_bits.as_strided((as_bits.numel(),), (1,))
            # with the strides, since a drive without spikes has another order
            kept.append((np.packbits(in_memory.cpu().numpy()), as_bits.stride()))
        else:
            kept.append((spikes, None))
        if on_step:
            on_step()
    shape, kind = spikes.shape, (spikes.device, spikes.dtype)

    def at(t):
        packed, strides = kept[t]
        if strides is None:
            return packed
        return (
            torch.from_numpy(np.unpackbits(packed, count=shape.numel()))
            .as_strided(shape, strides)
            .to(*kind)
        )

    return at


def largest(values, percentile):
    """The smallest of the values that this percentage of them does not exceed; the largest where that is not above 0."""
    if percentile < 100:
        value = (
            values.flatten().kthvalue(max(1, math.ceil(percentile * values.numel() / 100))).values
        )
        if value > 0:
            return value
    return values.max()


@torch.no_grad()
def fit_levels(model, images, activations=None, on_layer=None):
    """Thresholds for a model with the weights and biases of a ReLU ANN, in the unit of its activations a: of each layer the theta
    with which the T + 1 values that a neuron can send in T steps come nearest to a, in the mean square over images and neurons,

        min over theta of mean (a - theta / T clip(floor(a T / theta + 1/2), 0, T))²

    (Li et al., ICML 2021), found among CANDIDATES parts of the largest a. The rest follows with fit_thresholds and fit_biases, as
    for an ANN with QCFS. images: (B, C, H, W), or recordings, of which the mean frame counts. activations: name -> what the ANN
    has in place of nn.ReLU; a QCFS has its bound, which stays. on_layer: called after each. Returns the ANN's rates, see
    rates_of, and its logits (B, labels). Raises ModelError for a part that no architecture makes.
    """
    check_known(model, "conversion", own=True)
    images, rates = images.mean(1) if images.dim() > 4 else images, {}

    def fit(name, neuron, drive, steps):
        nonlinearity = (activations or {}).get(name, torch.relu)
        activation, bound = nonlinearity(drive(0)), getattr(nonlinearity, "bound", None)
        neuron.threshold.fill_(
            nearest_bound(activation, model.timesteps) if bound is None else bound
        )
        rates[name] = channel_means((activation / neuron.threshold).clamp(max=1))
        if on_layer:
            on_layer()
        return lambda t: activation

    with in_evaluation(model):
        logits = layer_by_layer(model, lambda t: images, 1, fit)(0)
    return rates, logits


def nearest_bound(activation, levels):
    """The theta of fit_levels, a float; 1 where nothing is above 0. activation: of any shape, none below 0."""
    if not (top := activation.max().item()):
        return 1.0
    counts = torch.histc(activation, BINS, 0, top).double()
    counts[0] -= (activation == 0).sum()  # these are exact anyhow
    values = (torch.arange(BINS, device=counts.device) + 0.5) * (top / BINS)
    theta = top * torch.arange(1, CANDIDATES + 1, device=counts.device)[:, None] / CANDIDATES
    sent = theta / levels * (values * levels / theta + 0.5).floor().clamp(0, levels)
    return theta[((values - sent).square() * counts).sum(1).argmin()].item()


def rates_of(ann, model, images):
    """Name of a spiking layer -> the rates that the ANN asks of its channels (C,): the mean over images and neurons of its
    activation as a share of the model's threshold, 0 to 1. ann: in evaluation, its layers named as the model's."""
    units_of, rates = {link.target: unit for link, unit in units(model)}, {}
    names = {module: name for name, module in ann.named_modules()}
    worth = {
        name: units_of[name] * neuron.threshold for name, neuron in model.neurons().items()
    }  # of a spike, as the ANN has it

    def note(module, _, output):
        if (name := names.get(module)) in worth:
            rates[name] = channel_means((output / worth[name]).clamp(0, 1))

    with torch.no_grad(), register_module_forward_hook(note):
        ann(images)
    return rates


@torch.no_grad()
def calibrate_biases(model, rates, images, draws, on_layer=None, on_step=None):
    """Shift each bias so that its channel's mean rate over images, neurons and the model's T steps is that of the ANN it comes
    from, in the order encoder, decoder, classifier, each layer on what those before it send then.

    What a layer gets is not spread evenly over the steps, and in a few steps the difference is largely one of whole channels,
    which a bias takes away (Li et al., ICML 2021, who correct it once; here the best of ROUNDS rounds counts, since most neurons
    are silent and do not feel a small change). Every neuron has a bias; update is not delayed. rates: see rates_of; on_layer:
    called with (name, root mean square over channels of the rates' difference before, after); on_step: after each step of each
    round, or with the number of those that a layer does not need; the rest, also what is raised, as in balance_thresholds.
    """
    check_known(model, "conversion", own=True)
    shifts = []  # (bias, what is added to it)

    def calibrate(name, neuron, drive, steps):
        bias = model.graph.bias_before(name)
        if name not in rates or bias is None:  # a decoder's last layer spikes in the SNN alone
            if on_step:
                on_step(ROUNDS * steps)
            return spikes_of(neuron, drive, steps, on_step)
        shift, tried = torch.zeros_like(bias), []

        def shifted(t):
            now = drive(t)
            return now + by_channel(shift, now)

        for _ in range(ROUNDS + 1):
            spikes = spikes_of(neuron, shifted, steps, on_step)
            off = rates[name] - sum(channel_means(spikes(t)) for t in range(steps)) / steps
            tried.append((off.square().mean().sqrt().item(), shift, spikes))
            shift = shift + GAIN * off * neuron.threshold
        least, shift, spikes = min(tried, key=itemgetter(0))
        shifts.append((bias, shift))
        if on_layer:
            on_layer(name, tried[0][0], least)
        return spikes

    with in_evaluation(model):
        layer_by_layer(model, sent_by(model, images, draws), model.timesteps, calibrate)
    for bias, shift in shifts:
        bias.add_(shift)


def channel_means(values):
    """(B, C, ...) -> (C,)"""
    return values.mean((0, *range(2, values.dim())))


def bounds_as_thresholds(state):
    """(an ANN's state_dict with the bounds of its QCFS layers as thresholds, whether it has any)"""
    renamed = {
        re.sub(r"(\.nonlinearity)?\.bound$", ".threshold", name): value
        for name, value in state.items()
    }
    return renamed, renamed.keys() != state.keys()


def biases_of(model):
    """Target of a link -> a copy of its bias."""
    return {
        link.target: link.bias.detach().clone()
        for link in model.graph.links
        if link.bias is not None
    }


def fit_biases(model, biases):
    """Bring the model's biases from the ANN's, see biases_of, to the unit of what drives each layer, for the thresholds now."""
    with torch.no_grad():
        for link, unit in units(model):
            if link.target in biases:
                link.bias.copy_(biases[link.target] / unit)


@torch.no_grad()
def fit_thresholds(model):
    """Bring thresholds that are the ANN's bounds to the unit of what drives each layer."""
    neurons = model.neurons()
    for link, unit in units(model):
        if link.target in neurons:
            neurons[link.target].threshold.div_(unit)


def units(model):
    """Yield each link, in order, with the factor that converts its input current to the ANN's activation. A threshold may be
    changed when its link is yielded. Raises ModelError for a part that no architecture makes, and a bias that is not at a link's
    end."""
    check_known(model, "conversion", own=True)
    graph, neurons, units_of = model.graph, model.neurons(), {INPUT: 1.0}
    for link in graph.links:
        if link.target in graph.pools:
            continue
        if any(getattr(module, "bias", None) is not None for module in link.modules[:-1]):
            raise ModelError(
                f"conversion: a layer before {link.end} has a bias, which has no neurons of its own"
            )
        unit = units_of[graph.before_pools(link.source)]
        yield link, unit
        if link.target in neurons:
            units_of[link.target] = unit * neurons[link.target].threshold.item()
