"""Networks of ours with another simulator's neurons.

They have the same weights, thresholds and input spikes. `stage_of` serves
train_step.py, too. `Peer` runs a whole SNN in evaluation. Gate, read-out and input code
are ours, since other simulators have none: `Peer` calls them timestep by timestep.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec

import torch
from torch import nn

from self_models.neurons.spiking import HeldDropout, SpikingNeuron
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


def stage_of(stage: nn.Sequential, simulator: str, by_layer: bool) -> nn.Sequential:
    """Copy a stage, with another simulator's neurons at our thresholds.

    Parameters
    ----------
    stage : nn.Sequential
        A stage of our network. Names of layers are kept, dropout is left out.
    simulator : str
        A key of SIMULATORS.
    by_layer : bool
        Whether the copy takes all timesteps at once, else one.

    Returns
    -------
    nn.Sequential
    """
    layers = OrderedDict()
    for name, module in stage.named_children():
        if isinstance(module, SpikingNeuron):
            layers[name] = SIMULATORS[simulator](module.threshold.item(), by_layer)
        elif isinstance(module, HeldDropout):
            continue
        elif by_layer:
            layers[name] = EachStep(copy.deepcopy(module))
        else:
            layers[name] = copy.deepcopy(module)
    return nn.Sequential(layers)


class EachStep(nn.Module):
    """A layer without state, on all timesteps as one batch.

    The first two dimensions of the signal, time and images, become one.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        """Run the layer on a signal (T, B, ...)."""
        return self.layer(signal.flatten(0, 1)).unflatten(0, signal.shape[:2])


# --- neurons


class Neurons(nn.Module):
    """One layer of integrate-and-fire neurons without leak, of one simulator.

    They charge, fire above theta, and are reset by subtraction of theta.

    Parameters
    ----------
    theta : float
        The threshold.
    by_layer : bool
        Whether forward takes and gives all timesteps at once, (T, B, ...), of sinabs
        (B, T, ...); else one, (B, ...).
    """

    def __init__(self, theta: float, by_layer: bool):
        super().__init__()
        self.theta = theta
        self.by_layer = by_layer

    def forward(self, drive: torch.Tensor) -> torch.Tensor:
        """Return the spikes for this input current."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget the batch, for the next one."""
        raise NotImplementedError


class SnnTorchNeurons(Neurons):
    """snnTorch's Leaky with beta 1.

    It subtracts theta one timestep later, V[t] = V[t-1] + drive[t] - theta s[t-1],
    which is ours but for rounding. (With reset_delay=False, a neuron that is still
    above theta after its reset would forget it.)
    """

    def __init__(self, theta: float, by_layer: bool):
        super().__init__(theta, by_layer)
        from snntorch import Leaky

        self.neuron = Leaky(beta=1.0, threshold=theta, init_hidden=True)

    def forward(self, drive: torch.Tensor) -> torch.Tensor:
        """Return the spikes for this input current."""
        if self.by_layer:  # it has no form for several timesteps
            return torch.stack([self.neuron(step_drive) for step_drive in drive])
        return self.neuron(drive)

    def reset(self) -> None:
        """Forget the batch, for the next one."""
        self.neuron.reset_mem()


class SpikingJellyNeurons(Neurons):
    """SpikingJelly's IFNode; by layer, its multi-step mode.

    It fires at V >= v_threshold, so that is the next float above theta. It also
    subtracts that, so rounding may differ.
    """

    def __init__(self, theta: float, by_layer: bool):
        super().__init__(theta, by_layer)
        from spikingjelly.activation_based.neuron import IFNode

        step_mode = "m" if by_layer else "s"
        self.neuron = IFNode(v_threshold=next_above(theta), v_reset=None, step_mode=step_mode)

    def forward(self, drive: torch.Tensor) -> torch.Tensor:
        """Return the spikes for this input current."""
        return self.neuron(drive)

    def reset(self) -> None:
        """Forget the batch, for the next one."""
        self.neuron.reset()


class NorseNeurons(Neurons):
    """Norse's modules SNN and SNNCell, with an integrate-and-fire step that subtracts.

    Norse's own step, iaf_feed_forward_step, resets V to a value. Here is the same step
    with Norse's own reset_subtract, which is exactly ours.
    """

    def __init__(self, theta: float, by_layer: bool):
        super().__init__(theta, by_layer)
        from norse.torch.functional.iaf import IAFFeedForwardState, IAFParameters
        from norse.torch.functional.reset import reset_subtract
        from norse.torch.functional.threshold import threshold
        from norse.torch.module.snn import SNN, SNNCell

        def step(drive, state, p, dt):
            v = state.v + drive
            spikes = threshold(v - p.v_th, p.method, p.alpha)
            return spikes, IAFFeedForwardState(reset_subtract(spikes, v, p.v_reset, p.v_th))

        def rest(drive):
            first_drive = drive[0] if by_layer else drive
            return IAFFeedForwardState(torch.zeros_like(first_drive))

        parameters = IAFParameters(v_th=torch.tensor(theta), method="heaviside")
        module_class = SNN if by_layer else SNNCell
        self.neuron = module_class(step, rest, parameters)
        self.state = None

    def forward(self, drive: torch.Tensor) -> torch.Tensor:
        """Return the spikes for this input current."""
        spikes, self.state = self.neuron(drive, self.state)
        return spikes

    def reset(self) -> None:
        """Forget the batch, for the next one."""
        self.state = None


class SinabsNeurons(Neurons):
    """The IAF of sinabs, with SingleSpike: it would else send several spikes at once.

    It fires at V >= spike_threshold, the next float above theta, and subtracts theta:
    exactly ours. Time is its second dimension.
    """

    def __init__(self, theta: float, by_layer: bool):
        super().__init__(theta, by_layer)
        from sinabs.activation import MembraneSubtract, SingleSpike
        from sinabs.layers import IAF

        self.neuron = IAF(
            torch.tensor(next_above(theta)), spike_fn=SingleSpike, reset_fn=MembraneSubtract(theta)
        )

    def forward(self, drive: torch.Tensor) -> torch.Tensor:
        """Return the spikes for this input current."""
        if self.by_layer:
            return self.neuron(drive)
        one_timestep = drive[:, None]
        return self.neuron(one_timestep)[:, 0]

    def reset(self) -> None:
        """Forget the batch, for the next one."""
        self.neuron.reset_states()


SIMULATORS = {  # package -> its neurons
    "snntorch": SnnTorchNeurons,
    "spikingjelly": SpikingJellyNeurons,
    "norse": NorseNeurons,
    "sinabs": SinabsNeurons,
}
INSTALLED = [name for name in SIMULATORS if find_spec(name)]


def reset(network: nn.Module) -> None:
    """Bring all neurons of a network back to the state before any input."""
    for module in network.modules():
        if isinstance(module, Neurons):
            module.reset()


def next_above(theta: float) -> float:
    """Return the float32 after theta."""
    return torch.nextafter(torch.tensor(theta), torch.tensor(torch.inf)).item()


def watch(
    neurons: Mapping[str, nn.Module], total: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor | int]:
    """Collect the spikes of layers while a network runs.

    Parameters
    ----------
    neurons : mapping of {str: Module}
        Layers by name. Each gets a forward hook, which stays.
    total : callable
        From a layer's output to the spikes that are to be added.

    Returns
    -------
    dict of {str: Tensor or 0}
        Spikes of each layer so far. It grows while the network runs.
    """
    counts = dict.fromkeys(neurons, 0)
    for name, neuron in neurons.items():

        def add(module, args, output, name=name):
            counts[name] = counts[name] + total(output)

        neuron.register_forward_hook(add)
    return counts


# --- networks


class Peer(nn.Module):
    """An SNN of ours, update `immediate` and no leak, with a simulator's neurons.

    All T steps run; no rule stops them. It is written to be fast: inference_mode, and
    weights channels last as ours are, which is up to a quarter faster than PyTorch's
    usual format.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        Our network.
    simulator : str
        A key of SIMULATORS.
    by_layer : bool
        Whether each layer takes all timesteps as one batch (multi-step), else all
        layers take a timestep, then the next one. With a gate that reacts to
        predictions this is a choice for the classifier alone: the input spikes of a
        timestep follow from the timestep before.
    """

    def __init__(self, model: VGG_SNN_STDB_wFeedback, simulator: str, by_layer: bool):
        super().__init__()
        self.gate = model.gate
        self.encoding = model.encoding
        self.readout = model.readout
        self.integrate = model.integrate
        self.on_pixel_scale = model.on_pixel_scale
        self.by_layer = by_layer
        self.encoder_by_layer = by_layer and not self.gate.reacts
        self.time_axis = 1 if simulator == "sinabs" else 0
        self.input = nn.Identity()  # where input spikes are counted
        self.features = stage_of(model.features, simulator, self.encoder_by_layer)
        self.classifier = stage_of(model.classifier, simulator, by_layer)
        self.generate = None
        if self.gate.reacts:
            self.generate = stage_of(model.generate, simulator, by_layer=False)

    @torch.inference_mode()
    def forward(self, x: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Run all timesteps.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            The images.
        uniforms : Tensor of shape (T, B, C, H, W)
            Draws of the input encoding, as for our network.

        Returns
        -------
        Tensor of shape (B, labels)
            The logits.
        """
        reset(self)
        if not self.by_layer:
            return sum(self.classifier(codes.flatten(1)) for codes in self.encoded(x, uniforms))
        if self.gate.reacts:
            codes = torch.stack(list(self.encoded(x, uniforms)), self.time_axis)
        else:
            input_spikes = self.encoding.send(x, uniforms).movedim(0, self.time_axis)
            codes = self.features(self.input(input_spikes))
        return self.classifier(codes.flatten(2)).sum(self.time_axis)

    def encoded(self, x: torch.Tensor, uniforms: torch.Tensor) -> Iterator[torch.Tensor]:
        """Run encoder, decoder and gate timestep by timestep.

        The open input neurons send spikes to the simulator's encoder. From its output
        the decoder predicts the image. The gate compares, and blocks input neurons from
        the next timestep on. Arguments are those of `forward`.

        Yields
        ------
        Tensor of shape (B, ...)
            The encoder's output in each timestep.
        """
        view = self.gate.start(x)
        readout_sum = torch.zeros_like(x)
        for draws in uniforms:
            input_spikes = self.input(self.encoding.send(view.unexplained(), draws))
            codes = self.features(input_spikes)
            if self.generate is not None:
                readout_sum = self.integrate(readout_sum, self.generate(codes), view)
                prediction = self.on_pixel_scale(self.readout.prediction(readout_sum))
                view = self.gate.next_view(x, prediction, view)
            yield codes

    def spikes(self, x: torch.Tensor, uniforms: torch.Tensor) -> dict[str, torch.Tensor]:
        """Count the spikes of each image (B,), by layer as in SNNOutput.spikes.

        The hooks that count stay, so use this Peer for nothing else. Arguments are
        those of `forward`.
        """
        before_fork = {"input": self.input}
        classifier = {}
        for name, module in self.named_modules():
            if isinstance(module, Neurons):
                group = classifier if name.startswith("classifier") else before_fork
                group[name] = module
        counts = watch(before_fork, lambda spikes: self.per_image(spikes, self.encoder_by_layer))
        classifier_counts = watch(classifier, lambda spikes: self.per_image(spikes, self.by_layer))
        self(x, uniforms)
        return counts | classifier_counts

    def per_image(self, spikes: torch.Tensor, all_timesteps: bool) -> torch.Tensor:
        """Count the spikes of each image (B,); of an analog input values other than 0.

        all_timesteps: whether these are all timesteps', else one's.
        """
        is_spike = spikes != 0
        if all_timesteps:
            return is_spike.flatten(2).sum((self.time_axis, 2))
        return is_spike.flatten(1).sum(1)
