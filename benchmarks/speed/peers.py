"""Networks of ours with another simulator's neurons: the same weights, thresholds and input spikes.

stage_of serves train_step.py, too. Peer runs a whole SNN in evaluation. Gate, read-out and input code are ours, since other
simulators have none: Peer calls them timestep by timestep.
"""

import copy
from collections import OrderedDict
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn

from self_models.layers.neurons import HeldDropout, SpikingNeuron


def stage_of(stage, simulator, by_layer):
    """A copy of a stage, an nn.Sequential with its names, without dropout, with a simulator's neurons at our thresholds.
    by_layer: it takes all timesteps at once, else one."""
    layers = OrderedDict()
    for name, module in stage.named_children():
        if isinstance(module, SpikingNeuron):
            layers[name] = Neurons(simulator, module.threshold.item(), by_layer)
        elif not isinstance(module, HeldDropout):
            layers[name] = EachStep(copy.deepcopy(module)) if by_layer else copy.deepcopy(module)
    return nn.Sequential(layers)


class EachStep(nn.Module):
    """A layer without state on all timesteps as one batch: the first two dimensions, time and images, become one."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, signal):
        return self.layer(signal.flatten(0, 1)).unflatten(0, signal.shape[:2])


# --- neurons


class Neurons(nn.Module):
    """One layer of integrate-and-fire neurons without leak: charge, fire above theta, reset by subtraction of theta.

    by_layer: forward takes and gives all steps at once, (T, B, ...), of sinabs (B, T, ...); else one, (B, ...). reset() is for
    the next batch.
    """

    def __init__(self, simulator, theta, by_layer):
        super().__init__()
        self.neuron, self.run, self.reset = SIMULATORS[simulator](theta, by_layer)

    def forward(self, drive):
        return self.run(drive)


def reset(network):
    """All neurons of a network are as they were before any input."""
    for module in network.modules():
        if isinstance(module, Neurons):
            module.reset()


def snntorch(theta, by_layer):
    """Leaky with beta 1. It subtracts theta one timestep later: V[t] = V[t-1] + drive[t] - theta s[t-1], which is ours but for
    rounding (with reset_delay=False, a neuron that is still above theta after its reset would forget it)."""
    from snntorch import Leaky

    neuron = Leaky(beta=1.0, threshold=theta, init_hidden=True)
    return (
        neuron,
        (lambda drive: torch.stack([*map(neuron, drive)])) if by_layer else neuron,
        neuron.reset_mem,
    )


def spikingjelly(theta, by_layer):
    """IFNode, multi-step (step_mode "m") by layer. It fires at V >= v_threshold, so that is the next float above theta. It also
    subtracts that, so rounding may differ."""
    from spikingjelly.activation_based.neuron import IFNode

    neuron = IFNode(
        v_threshold=next_above(theta), v_reset=None, step_mode="m" if by_layer else "s"
    )
    return neuron, neuron, neuron.reset


def norse(theta, by_layer):
    """Its integrate-and-fire step (iaf_feed_forward_step) resets V to a value; here the same step with Norse's own
    reset_subtract, in Norse's modules. That is exactly ours."""
    from norse.torch.functional.iaf import IAFFeedForwardState, IAFParameters
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.functional.threshold import threshold
    from norse.torch.module.snn import SNN, SNNCell

    def step(drive, state, p, dt):
        v = state.v + drive
        spikes = threshold(v - p.v_th, p.method, p.alpha)
        return spikes, IAFFeedForwardState(reset_subtract(spikes, v, p.v_reset, p.v_th))

    def rest(drive):
        return IAFFeedForwardState(torch.zeros_like(drive[0] if by_layer else drive))

    parameters = IAFParameters(v_th=torch.tensor(theta), method="heaviside")
    neuron, state = (SNN if by_layer else SNNCell)(step, rest, parameters), None

    def run(drive):
        nonlocal state
        spikes, state = neuron(drive, state)
        return spikes

    def reset():
        nonlocal state
        state = None

    return neuron, run, reset


def sinabs(theta, by_layer):
    """IAF with SingleSpike, since it would else emit several spikes in a timestep. It fires at V >= spike_threshold, the next
    float above theta, and subtracts theta: exactly ours. Time is its second dimension."""
    from sinabs.activation import MembraneSubtract, SingleSpike
    from sinabs.layers import IAF

    neuron = IAF(
        torch.tensor(next_above(theta)), spike_fn=SingleSpike, reset_fn=MembraneSubtract(theta)
    )
    return (
        neuron,
        neuron if by_layer else (lambda drive: neuron(drive[:, None])[:, 0]),
        neuron.reset_states,
    )


# package -> (theta, by_layer) -> (its module, what forward calls, what resets it)
SIMULATORS = {"snntorch": snntorch, "spikingjelly": spikingjelly, "norse": norse, "sinabs": sinabs}
INSTALLED = [name for name in SIMULATORS if find_spec(name)]


def next_above(theta):
    """The float32 after theta."""
    return torch.nextafter(torch.tensor(theta), torch.tensor(torch.inf)).item()


def watch(neurons, total):
    """A dict that collects the spikes of neurons, name -> module, while the network runs; total: output -> spikes to add."""
    counts = dict.fromkeys(neurons, 0)
    for name, neuron in neurons.items():

        def note(module, args, output, name=name):
            counts[name] = counts[name] + total(output)

        neuron.register_forward_hook(note)
    return counts


# --- networks


class Peer(nn.Module):
    """An SNN of ours, update `immediate` and no leak, with a simulator's neurons: peer(x, uniforms) -> logits (B, labels).

    x (B, C, H, W), uniforms (T, B, C, H, W): draws of the input encoding, as for the model. All T steps run; no rule stops them.
    by_layer: each layer takes all steps as one batch (multi-step), else all layers take a step, then the next one. With a gate
    that reacts to predictions this is a choice for the classifier alone: the input spikes of a step follow from the step before.
    Written to be fast: inference_mode, and weights channels last as ours are, up to a quarter faster than PyTorch's usual format.
    """

    def __init__(self, model, simulator, by_layer):
        super().__init__()
        self.gate, self.encoding, self.readout = model.gate, model.encoding, model.readout
        self.integrate, self.on_pixel_scale = model.integrate, model.on_pixel_scale
        self.by_layer, self.time_axis = by_layer, int(simulator == "sinabs")
        self.ahead = by_layer and not self.gate.reacts
        self.input = nn.Identity()  # where input spikes are counted
        self.features = stage_of(model.features, simulator, self.ahead)
        self.classifier = stage_of(model.classifier, simulator, by_layer)
        self.generate = stage_of(model.generate, simulator, False) if self.gate.reacts else None

    @torch.inference_mode()
    def forward(self, x, uniforms):
        reset(self)
        if not self.by_layer:
            return sum(self.classifier(codes.flatten(1)) for codes in self.encoded(x, uniforms))
        if self.gate.reacts:
            codes = torch.stack(list(self.encoded(x, uniforms)), self.time_axis)
        else:
            codes = self.features(
                self.input(self.encoding.send(x, uniforms).movedim(0, self.time_axis))
            )
        return self.classifier(codes.flatten(2)).sum(self.time_axis)

    def encoded(self, x, uniforms):
        """The encoder's output at each timestep (B, ...): spikes of the open input neurons, the simulator's encoder, the decoder,
        the prediction, and the gate's comparison, which blocks input neurons from the next timestep on."""
        view, readout_sum = self.gate.start(x), torch.zeros_like(x)
        for draws in uniforms:
            codes = self.features(self.input(self.encoding.send(view.unexplained(), draws)))
            if self.generate is not None:
                readout_sum = self.integrate(readout_sum, self.generate(codes), view)
                view = self.gate.next_view(
                    x, self.on_pixel_scale(self.readout.prediction(readout_sum)), view
                )
            yield codes

    def spikes(self, x, uniforms):
        """Spikes of each image (B,), by layer as in SNNOutput.spikes. The hooks stay: this Peer is for nothing else."""
        neurons = {"input": self.input} | {
            name: each for name, each in self.named_modules() if isinstance(each, Neurons)
        }
        of_classifier = {
            name: neurons.pop(name) for name in [*neurons] if name.startswith("classifier")
        }
        counts = (
            watch(neurons, partial(self.sent, self.ahead)),
            watch(of_classifier, partial(self.sent, self.by_layer)),
        )
        self(x, uniforms)
        return counts[0] | counts[1]

    def sent(self, by_layer, spikes):
        """How many spikes there are for each image (B,); of an analog input values other than 0."""
        return (
            (spikes != 0).flatten(2).sum((self.time_axis, 2))
            if by_layer
            else (spikes != 0).flatten(1).sum(1)
        )
