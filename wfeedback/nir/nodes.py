"""What a node of a NIR file becomes: a function for each kind, in the order of NIR.

``module_of`` finds the function. Those of layers take the node alone. Those of neurons
take its constants and the Convention too, since a file does not say all that its
simulator does. Each has the equations as NIR writes them: S is what arrives, I a
current, v the potential and z the spikes. ``timesteps.py`` brings them into timesteps.

For a kind that is new, write a function, and enter it into LAYERS or NEURONS. If it is
a neuron, look at these places, too:

- ``neurons.py``: a class with its state, and what it keeps between timesteps;
- ``conventions.py``: KINDS_WITH and OMISSIONS say what arguments concern it;
- ``checks.py``: time_constants() takes each field whose name begins with "tau" for one
  of Euler's steps;
- ``event/layout.py``: NEURONS and why_not_run(), which refuses what C lacks. A
  new field of Constants must be known or refused there, or C runs without it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from self_models.errors import ModelError
from self_models.networks.scale import Scale
from self_models.neurons.nir import AsElsewhere, Constants, Integrator, NIRNeuron
from self_models.neurons.spiking import SpikingNeuron
from self_models.neurons.surrogates import triangle
from self_models.running.graph import Graph
from wfeedback.nir.conventions import Convention, is_written_by
from wfeedback.nir.timesteps import (
    Membrane,
    Synapse,
    euler_membrane,
    euler_synapse,
    integrating_membrane,
    sinabs_membrane,
    sinabs_synapse,
    to_float32,
    without_rounding,
)

ZERO = np.float64(0)


class NeuronNode(NamedTuple):
    """What a node of neurons has in its file.

    Attributes
    ----------
    kind : str
        Kind of the node, such as "LIF".
    values : dict of {str: ndarray}
        Constants by NIR's names, in float64.
    is_recurrent : bool
        Whether an edge leads back to it from a node to which it sends.
    """

    kind: str
    values: Mapping[str, np.ndarray]
    is_recurrent: bool


class Equations(NamedTuple):
    """The equations of a node's neurons in timesteps, but for the reset.

    Attributes
    ----------
    membrane : Membrane
        How V changes.
    synapse : Synapse or None
        How what arrives becomes a current. None: it is the current.
    start : ndarray
        V before the first timestep. With 0, ``initial_potential`` thresholds.
    threshold : ndarray or None
        V above which a neuron spikes. None: it sends V.
    v_reset : ndarray
        V after a spike, if the reset is "zero".
    """

    membrane: Membrane
    synapse: Synapse | None = None
    start: np.ndarray = ZERO
    threshold: np.ndarray | None = None
    v_reset: np.ndarray = ZERO


def module_of(
    name: str, node: object, convention: Convention, is_recurrent: bool = False
) -> nn.Module:
    """Make the module of a node.

    Parameters
    ----------
    name : str
        Name of the node.
    node : nir.NIRNode
        The node.
    convention : Convention
        How it is to be read.
    is_recurrent : bool
        Whether an edge leads back to it from a node to which it sends.

    Returns
    -------
    nn.Module

    Raises
    ------
    ModelError
        For a kind that is not known, and for values that cannot be.
    """
    kind = type(node).__name__
    if kind not in LAYERS and kind not in NEURONS:
        known = ", ".join([*LAYERS, *NEURONS])
        raise ModelError(f"node {name!r} is a {kind}, which is not known here: known are {known}")
    try:
        if kind in NEURONS:
            neuron_node = NeuronNode(kind, float64_values(node), is_recurrent)
            module = NEURONS[kind](neuron_node, convention.for_node(name))
        else:
            module = LAYERS[kind](node)
        check_finite(module)
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"node {name!r}, {kind}: {str(error).splitlines()[0]}") from None
    return module


def check_finite(module: nn.Module) -> None:
    """Raise ValueError where a weight of a module is not finite."""
    for key, value in module.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"its {key} is not finite")


def float64_values(node: object) -> dict[str, np.ndarray]:
    """Return the constants of a node by name; its dicts have shapes and metadata."""
    values = {}
    for key, value in vars(node).items():
        if not isinstance(value, dict):
            values[key] = np.asarray(value, np.float64)
    return values


# --- layers


def identity_layer(node: object) -> nn.Module:
    """Input, Output, Identity: ``S``."""
    return nn.Identity()


def affine_layer(node: object) -> nn.Module:
    """Affine: ``W S + b``. Linear: ``W S``."""
    out_features, in_features = node.weight.shape
    layer = nn.Linear(in_features, out_features, bias=hasattr(node, "bias"))
    set_weights(layer, node)
    return layer


def pooling_layer(node: object) -> nn.Module:
    """AvgPool2d: the mean of ``S`` over each window. SumPool2d: the sum."""
    kernel_size = integers(node.kernel_size, 2)
    stride = integers(node.stride, 2)
    padding = integers(node.padding, 2)
    for border, size in zip(padding, kernel_size, strict=True):
        if 2 * border > size:
            raise ValueError(
                f"its padding {padding} is more than half of its windows {kernel_size}"
            )
    is_sum = type(node).__name__ == "SumPool2d"
    divisor = 1 if is_sum else None
    return nn.AvgPool2d(kernel_size, stride, padding, divisor_override=divisor)


def convolution_layer(node: object) -> nn.Module:
    """Conv1d, Conv2d: ``f * S + b``."""
    out_channels, channels_per_group, *kernel_size = node.weight.shape
    dimensions = len(kernel_size)
    stride = integers(node.stride, dimensions)
    dilation = integers(node.dilation, dimensions)
    padding = node.padding  # "same" or "valid", or numbers
    if not isinstance(padding, str):
        padding = integers(padding, dimensions)
    (groups,) = integers(node.groups)
    convolution = {1: nn.Conv1d, 2: nn.Conv2d}[dimensions]
    layer = convolution(
        channels_per_group * groups, out_channels, kernel_size, stride, padding, dilation, groups
    )
    set_weights(layer, node)
    return layer


def flatten_layer(node: object) -> nn.Module:
    """Flatten: ``S`` with the dimensions from start_dim to end_dim as one.

    NIR does not count the dimension of the batch, which is the first one in PyTorch.
    """
    dimensions = integers(node.start_dim) + integers(node.end_dim)
    start_dim, end_dim = (number + 1 if number >= 0 else number for number in dimensions)
    return nn.Flatten(start_dim, end_dim)


def scale_layer(node: object) -> nn.Module:
    """Scale: ``s S``, element by element."""
    return Scale(torch.as_tensor(to_float32(node.scale)))


def integers(value: object, count: int = 1) -> tuple[int, ...]:
    """Return so many whole numbers of one, or of as many."""
    return tuple(np.broadcast_to(np.ravel(value), count).tolist())


def set_weights(layer: nn.Module, node: object) -> None:
    """Replace the parameters of a layer by those of a node, in float32, in place.

    Parameters
    ----------
    layer : nn.Module
        An nn.Linear, nn.Conv1d or nn.Conv2d, whose parameters are called "weight" and
        "bias".
    node : nir.NIRNode
        It has an array of each of these names, or AttributeError is raised.

    Raises
    ------
    ValueError
        If an array of the node has another shape than the layer's parameter.
    """
    for key, parameter in layer.named_parameters():
        value = torch.from_numpy(np.array(getattr(node, key), np.float32))
        if value.shape != parameter.shape:
            found = tuple(value.shape)
            raise ValueError(f"its {key} is {found}, where {tuple(parameter.shape)} fits")
        parameter.data = value


# --- neurons


def cuba_li_neurons(node: NeuronNode, convention: Convention) -> NIRNeuron:
    """CubaLI: ``tau_syn dI/dt = -I + w_in S``, ``tau_mem dv/dt = (v_leak - v) + R I``.

    The output is v. Norse begins at v_leak.
    """
    equations = Equations(
        membrane=leaky_membrane(node, convention, node.values["tau_mem"]),
        synapse=cuba_synapse(node, convention),
        start=start_potential(node, convention, ZERO),
    )
    return integrators(equations)


def cuba_lif_neurons(node: NeuronNode, convention: Convention) -> NIRNeuron:
    """CubaLIF: ``tau_syn dI/dt = -I + w_in S``, ``tau_mem dv/dt = (v_leak - v) + R I``.

    ``z = v > v_threshold``, then ``v = v_reset`` where z is 1. In Norse an event adds
    its whole weight to I, and V begins at v_leak. SpikingJelly begins at v_reset. With
    a reset to zero and reset_delay, what arrives behind a spike is lost (snnTorch).
    """
    v_reset = reset_potential(node, convention)
    equations = Equations(
        membrane=leaky_membrane(node, convention, node.values["tau_mem"]),
        synapse=cuba_synapse(node, convention),
        start=start_potential(node, convention, v_reset),
        threshold=node.values["v_threshold"],
        v_reset=v_reset,
    )
    return spiking_neurons(node, convention, equations, convention.reset)


def i_neurons(node: NeuronNode, convention: Convention) -> NIRNeuron:
    """I: ``dv/dt = R S``. The output is v."""
    equations = Equations(membrane=integrating_membrane(node.values["r"], convention.dt))
    return integrators(equations)


def if_neurons(node: NeuronNode, convention: Convention) -> NIRNeuron:
    """IF: ``dv/dt = R S``, ``z = v > v_threshold``, then ``v = v_reset`` where z is 1.

    sinabs may have a synapse before it, and sends several spikes in a timestep. In
    Norse and SpikingJelly, V begins at v_reset.
    """
    v_reset = reset_potential(node, convention)
    equations = Equations(
        membrane=integrating_membrane(node.values["r"], convention.dt),
        synapse=given_synapse(convention),
        start=start_potential(node, convention, v_reset),
        threshold=node.values["v_threshold"],
        v_reset=v_reset,
    )
    return spiking_neurons(node, convention, equations, convention.reset)


def li_neurons(node: NeuronNode, convention: Convention) -> NIRNeuron:
    """LI: ``tau dv/dt = (v_leak - v) + R S``. The output is v.

    In sinabs this is ExpLeak, see ``leaky_membrane``. Norse begins at v_leak.
    """
    equations = Equations(
        membrane=leaky_membrane(node, convention, node.values["tau"]),
        start=start_potential(node, convention, ZERO),
    )
    return integrators(equations)


def lif_neurons(node: NeuronNode, convention: Convention) -> NIRNeuron:
    """LIF: ``tau dv/dt = (v_leak - v) + R S``, ``z = v > v_threshold``, then a reset.

    ``v = v_reset`` where z is 1. sinabs has another membrane, see ``leaky_membrane``,
    may have a synapse before it, and sends several spikes in a timestep. Norse begins
    at v_leak, SpikingJelly at v_reset.
    """
    v_reset = reset_potential(node, convention)
    equations = Equations(
        membrane=leaky_membrane(node, convention, node.values["tau"]),
        synapse=given_synapse(convention),
        start=start_potential(node, convention, v_reset),
        threshold=node.values["v_threshold"],
        v_reset=v_reset,
    )
    return spiking_neurons(node, convention, equations, convention.reset)


def threshold_neurons(node: NeuronNode, convention: Convention) -> NIRNeuron:
    """Threshold: ``z = S > threshold``: a neuron that forgets V after each timestep."""
    forgetful = Membrane(leak=ZERO, gain=np.float64(1), bias_current=ZERO)
    equations = Equations(membrane=forgetful, threshold=node.values["threshold"])
    return spiking_neurons(node, convention, equations, reset="zero")


# --- what neurons are made of


def leaky_membrane(node: NeuronNode, convention: Convention, tau: np.ndarray) -> Membrane:
    """Bring ``tau dv/dt = (v_leak - v) + R I`` into timesteps, as a simulator does.

    All simulators but sinabs take forward Euler, see ``euler_membrane``. In sinabs tau
    counts timesteps, r and v_leak are not used, and norm_input is True of LIF and False
    of ExpLeak by default.

    Parameters
    ----------
    node : NeuronNode
        What the file has.
    convention : Convention
        Of the simulator.
    tau : ndarray
        Time constants of the membrane, as the file has them.

    Returns
    -------
    Membrane
    """
    if convention.tau_in_timesteps:
        norm_input = convention.norm_input
        if norm_input is None:
            norm_input = node.kind == "LIF"
        return sinabs_membrane(tau, norm_input)
    return euler_membrane(
        intended_tau(tau, convention),
        node.values["r"],
        node.values["v_leak"],
        convention.dt,
        convention.clamped_leaks,
    )


def cuba_synapse(node: NeuronNode, convention: Convention) -> Synapse:
    """Bring ``tau_syn dI/dt = -I + w_in S`` into timesteps, as a simulator does.

    By forward Euler, an event that arrives adds ``w_in dt / tau_syn`` times its weight
    to the current I. In Norse's LIFCell it adds its whole weight. A file does not say
    that it is Norse's. But Norse's exporter writes w_in 1 and r 1 of each CubaLIF, and
    no CubaLI. So other nodes are not from there, and are read as NIR has them.

    Parameters
    ----------
    node : NeuronNode
        What the file has.
    convention : Convention
        Of the simulator; ``whole_events`` is True of Norse alone.

    Returns
    -------
    Synapse
    """
    synapse = euler_synapse(
        intended_tau(node.values["tau_syn"], convention),
        node.values["w_in"],
        convention.dt,
        convention.clamped_leaks,
    )
    is_lif_cell = convention.whole_events and is_written_by("norse", node.kind, node.values)
    if not is_lif_cell:
        return synapse
    return Synapse(leak=synapse.leak, gain=np.float64(1))


def intended_tau(tau: np.ndarray, convention: Convention) -> np.ndarray:
    """Return time constants as they were before their simulator rounded them.

    Norse has rates, 1 / tau, in float32. Its exporter makes time constants of them, and
    rounds again. The leak 1 - dt / tau would then be off by a little, which is enough
    to move a spike. ``without_rounding`` finds the time constant that was meant.
    """
    if not convention.rounded_taus:
        return tau
    return without_rounding(tau, convention.dt)


def given_synapse(convention: Convention) -> Synapse | None:
    """Return the synapse of IF and LIF in sinabs, which its files do not have."""
    if convention.tau_syn is None:
        return None
    return sinabs_synapse(convention.tau_syn)


def reset_potential(node: NeuronNode, convention: Convention) -> np.ndarray:
    """Return V after a spike: what the user says, else the file, else 0."""
    if convention.v_reset is not None:
        return convention.v_reset
    return node.values.get("v_reset", ZERO)


def start_potential(node: NeuronNode, convention: Convention, v_reset: np.ndarray) -> np.ndarray:
    """Return V before the first timestep; 0 for ``initial_potential``."""
    if convention.starts_at is None:
        return ZERO
    if convention.starts_at == "v_leak" and "v_leak" in node.values:
        return node.values["v_leak"]
    return v_reset


def integrators(equations: Equations) -> Integrator:
    """Make neurons without a threshold."""
    neurons = Integrator(triangle(None, None), "immediate")
    set_constants(neurons, equations, v_reset=None)
    return neurons


def spiking_neurons(
    node: NeuronNode, convention: Convention, equations: Equations, reset: str
) -> NIRNeuron:
    """Make neurons that spike, of the class that has their reset.

    V' is the potential that a timestep has charged. R is 1 where V was above the
    threshold already when the timestep began, and s the number of spikes:

        reset     convention             class        attribute    V after the timestep
        zero                             NIRNeuron                 v_reset where s is 1
        zero      reset_delay is True *  AsElsewhere  whole        (1 - R) V'
        subtract  reset_delay is None    NIRNeuron                 V' - threshold s
        subtract  reset_delay is True    AsElsewhere  subtracts    V' - threshold R
        subtract  reset_delay is False   AsElsewhere  subtracts    V' - threshold s
        subtract  several_spikes         AsElsewhere  several      V' - threshold s
        none                             AsElsewhere               V'

    (*) Only of neurons with a synapse, or with an edge back to them: those of snnTorch
    (Synaptic, RLeaky) lose what arrives in the timestep after a spike. With reset_delay
    None, of all simulators but snnTorch, neurons are reset at once. False is at once,
    too, but as snnTorch computes it, which rounds and decides otherwise.

    Parameters
    ----------
    node : NeuronNode
        What the file has.
    convention : Convention
        How it is to be read.
    equations : Equations
        With a threshold.
    reset : {"zero", "subtract", "none"}
        What follows a spike.

    Returns
    -------
    NIRNeuron
        Of this class where NIR has a word for the reset, otherwise an AsElsewhere. The
        constants are set, and the threshold is a Parameter without a gradient.

    Raises
    ------
    ValueError
        If a constant is not finite, or if the threshold is not above 0 with
        several_spikes.
    """
    sends_several = reset == "subtract" and convention.several_spikes
    subtracts_as_snntorch = reset == "subtract" and convention.reset_delay is not None
    loses_input = False
    if reset == "zero" and convention.reset_delay:
        loses_input = node.is_recurrent or "tau_syn" in node.values

    # triangle() takes the two arguments of every surrogate, and uses neither.
    surrogate = triangle(None, None)
    if reset == "none" or sends_several or subtracts_as_snntorch or loses_input:
        neurons = AsElsewhere(surrogate, "immediate")
        neurons.several = sends_several
        neurons.subtracts = subtracts_as_snntorch
        neurons.whole = loses_input
        neurons.reset_delay = bool(convention.reset_delay)
        if sends_several:
            neurons.most = convention.max_spikes
        v_reset = None  # an AsElsewhere has no value to which V is reset
    else:
        update = "delayed" if convention.fires_before_charge else "immediate"
        neurons = NIRNeuron(surrogate, update)
        v_reset = equations.v_reset if reset == "zero" else None

    threshold = spike_threshold(equations.threshold, convention, sends_several)
    neurons.threshold = nn.Parameter(threshold, requires_grad=False)
    neurons.initial_potential = convention.initial_potential
    neurons.floor = convention.membrane_floor
    neurons.may_be_negative = bool((threshold <= 0).any())
    set_constants(neurons, equations, v_reset)
    return neurons


def spike_threshold(
    values: np.ndarray, convention: Convention, sends_several: bool
) -> torch.Tensor:
    """Return the float32 threshold such that a neuron spikes where V is above it.

    Raises
    ------
    ValueError
        If it is not above 0 where a neuron sends a spike for each threshold in V.
    """
    threshold = np.asarray(values, np.float32)
    if convention.spikes_at_threshold and not sends_several:
        # V >= threshold is V > the number before the threshold
        threshold = np.nextafter(threshold, np.float32(-np.inf))
    rounded = torch.as_tensor(to_float32(threshold))
    if sends_several and (rounded <= 0).any():
        raise ValueError("its threshold must be above 0")
    return rounded


def set_constants(neurons: NIRNeuron, equations: Equations, v_reset: np.ndarray | None) -> None:
    """Give neurons the constants of their equations, rounded to float32, in place.

    Constants that have no part in the equations are left out: their defaults in
    `Constants` say so.

    Parameters
    ----------
    neurons : NIRNeuron
        All of its constants but the threshold are replaced.
    equations : Equations
        In float64.
    v_reset : ndarray or None
        V after a spike. None if a spike does not set V to a value: the threshold is
        then subtracted, or the class of the neurons has a reset of its own.
    """
    membrane = equations.membrane
    synapse = equations.synapse
    constants = {
        "gain": to_float32(membrane.gain),
        "drive": to_float32(membrane.bias_current),
    }
    if synapse is not None:  # by default what arrives is the current
        constants["synapse_leak"] = to_float32(synapse.leak)
        constants["synapse_gain"] = to_float32(synapse.gain)
    if equations.start.any():  # by default V begins at initial_potential thresholds
        constants["start"] = to_float32(equations.start)
    if v_reset is not None:
        constants["reset"] = to_float32(v_reset)
    neurons.set_constants(Constants(**constants))
    # The leak is a Parameter of every SpikingNeuron, and so in the state_dict, which
    # the other constants are not. It does not depend on them.
    leak = torch.as_tensor(to_float32(membrane.leak))
    neurons.leak = nn.Parameter(leak, requires_grad=False)


# --- tables


# In messages kinds are named in this order.
LAYERS = {
    "Input": identity_layer,
    "Output": identity_layer,
    "Identity": identity_layer,
    "Scale": scale_layer,
    "Conv1d": convolution_layer,
    "Conv2d": convolution_layer,
    "Linear": affine_layer,
    "Affine": affine_layer,
    "Flatten": flatten_layer,
    "SumPool2d": pooling_layer,
    "AvgPool2d": pooling_layer,
}
NEURONS = {
    "IF": if_neurons,
    "LIF": lif_neurons,
    "LI": li_neurons,
    "I": i_neurons,
    "CubaLIF": cuba_lif_neurons,
    "CubaLI": cuba_li_neurons,
    "Threshold": threshold_neurons,
}


def check_shapes(graph: Graph) -> None:
    """Raise ModelError where a node has values for another shape than what arrives."""
    shapes = graph.shapes
    for node in graph.nodes:
        if not isinstance(node.module, SpikingNeuron | Scale):
            continue
        shape = shapes[node.sources[0]]
        by_channel = shape[:1] + (1,) * (len(shape) - 1)
        for value in [*node.module.parameters(), *node.module.buffers()]:
            found = tuple(value.shape)
            if value.numel() != 1 and found not in (shape, by_channel):
                raise ModelError(
                    f"node {node.name!r} does not fit what arrives, {shape}: "
                    f"it has values for {found}"
                )
