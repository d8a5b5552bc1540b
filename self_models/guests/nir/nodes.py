"""What a node of a NIR file means: its module, by the convention that reading.py finds."""

import numpy as np
import torch
from torch import nn

from self_models.basics import ModelError
from self_models.guests.nir.neurons import AsElsewhere, Constants, Integrator, NIRNeuron
from self_models.layers.neurons import SpikingNeuron
from self_models.layers.scale import Scale
from self_models.layers.surrogates import triangle

NODES_WITH = {  # argument of from_nir -> kinds of nodes that have it
    "norm_input": ("LIF", "LI"),
    "tau_syn": ("IF", "LIF"),
    "max_spikes": ("IF", "LIF"),
    "v_reset": ("IF", "LIF", "CubaLIF"),
}


def module_of(name, node, convention):
    """The module of a NIR node. Raises ModelError for one that is not known, and for values that cannot be."""
    kind = type(node).__name__
    if kind not in MODULES:
        raise ModelError(
            f"node {name!r} is a {kind}, which is not known here: known are {', '.join(MODULES)}"
        )
    try:
        module = neuron(node, convention, name) if MODULES[kind] is neuron else MODULES[kind](node)
        if wrong := [
            key for key, value in module.state_dict().items() if not value.isfinite().all()
        ]:
            raise ValueError(f"its {wrong[0]} is not finite")
        return module
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"node {name!r}, {kind}: {str(error).splitlines()[0]}") from None


def whole(value, count=1):
    """So many whole numbers, of one or as many, as a tuple."""
    return tuple(np.broadcast_to(np.ravel(value), count).tolist())


def linear(node):
    out, within = node.weight.shape
    return filled(nn.Linear(within, out, hasattr(node, "bias")), node)


def convolution(node):
    out, within, *kernel = node.weight.shape
    stride, dilation = (whole(each, len(kernel)) for each in (node.stride, node.dilation))
    padding = node.padding if isinstance(node.padding, str) else whole(node.padding, len(kernel))
    (groups,), kind = whole(node.groups), {1: nn.Conv1d, 2: nn.Conv2d}[len(kernel)]
    return filled(kind(within * groups, out, kernel, stride, padding, dilation, groups), node)


def pool(node):
    kernel, stride, padding = (
        whole(each, 2) for each in (node.kernel_size, node.stride, node.padding)
    )
    if any(2 * border > size for border, size in zip(padding, kernel, strict=True)):
        raise ValueError(f"its padding {padding} is more than half of its windows {kernel}")
    return nn.AvgPool2d(
        kernel, stride, padding, divisor_override=1 if type(node).__name__ == "SumPool2d" else None
    )


def flatten(node):
    return nn.Flatten(
        *(end + (end >= 0) for end in whole(node.start_dim) + whole(node.end_dim))
    )  # the batch is first


def filled(layer, node):
    """A layer with the weights and biases of a node."""
    for key, own in layer.named_parameters():
        value = torch.from_numpy(np.array(getattr(node, key), np.float32))
        if value.shape != own.shape:
            raise ValueError(f"its {key} is {tuple(value.shape)}, where {tuple(own.shape)} fits")
        own.data = value
    return layer


def neuron(node, convention, name):
    """The neurons of a node, by forward Euler; values are worked out in float64:

    I[t] = (1 - dt/tau_syn) I[t-1] + w_in dt/tau_syn a[t]     (CubaLIF, CubaLI; else I[t] = a[t], what arrives)
    V[t] = (1 - dt/tau) V[t-1] + r dt/tau I[t] + v_leak dt/tau                      IF, I: V[t] = V[t-1] + r I[t]
    s[t] = V[t] > v_threshold, then V[t] = v_reset, or V[t] - v_threshold (subtract). V of a Threshold is what has arrived.

    V before the first timestep is 0, or where the simulator begins. In sinabs, with
    a = exp(-1/tau), V[t] = a V[t-1] + (1 - a) I[t], or a V[t-1] + I[t] where norm_input is
    False; with a tau_syn I[t] = exp(-1/tau_syn) (I[t-1] + a[t])."""
    values = {
        key: np.asarray(value, np.float64)
        for key, value in vars(node).items()
        if not isinstance(value, dict)
    }
    dt = convention["dt"]
    tau, threshold, r = (
        values.get("tau", values.get("tau_mem")),
        values.get("threshold"),
        values.get("r", np.float64(1)),
    )
    if convention.get("rounds"):
        tau = tau if tau is None else without_rounding(tau, dt)
        if "tau_syn" in values:
            values["tau_syn"] = without_rounding(values["tau_syn"], dt)
    leak, gain, drive = (
        np.float64(threshold is None),
        np.ones_like(r) if by_dt(r, dt) else r,
        np.float64(0),
    )
    kind = type(node).__name__
    if tau is not None and convention.get("by_steps"):
        leak = sinabs_decay(tau)
        norm_input = value_for(convention.get("norm_input"), name)
        if norm_input is None:
            norm_input = kind == "LIF"  # sinabs' own default, which is False of ExpLeak
        gain = 1 - leak if norm_input else np.float64(1)
    elif tau is not None:
        part, gain = parts(dt, tau, r, convention["clamps"])
        leak, drive = 1 - part, values["v_leak"] * part
        gain = np.where(
            np.isclose(gain, 1, rtol=3e-7, atol=0), 1, gain
        )  # but for float32's rounding
    constants = {"gain": gain, "drive": drive}
    if "tau_syn" in values:
        part, gain = parts(dt, values["tau_syn"], values["w_in"], convention["clamps"])
        if convention.get("whole_events") and is_written_by("norse", node):
            gain = np.float64(1)  # its LIFCell
        constants |= {"synapse_leak": 1 - part, "synapse_gain": gain}
    tau_syn = value_for(convention.get("tau_syn"), name) if kind in NODES_WITH["tau_syn"] else None
    if tau_syn is not None:
        decay = sinabs_decay(tau_syn)
        constants |= {"synapse_leak": decay, "synapse_gain": decay}
    v_reset = values.get("v_reset", np.float64(0))
    if kind in NODES_WITH["v_reset"]:
        own = value_for(convention.get("v_reset"), name)
        v_reset = v_reset if own is None else own
    start = start_of(values, v_reset, convention)
    if start.any():
        constants["start"] = start
    if threshold is None and "v_threshold" not in values:
        return with_values(Integrator(triangle(None, None), "immediate"), leak, constants)
    reset, is_delayed = (
        "zero" if threshold is not None else convention["reset"],
        convention.get("reset_delay"),
    )
    ways = {
        "several": reset == "subtract" and convention.get("several", False),
        "subtracts": reset == "subtract" and is_delayed is not None,
        "whole": reset == "zero"
        and bool(is_delayed)
        and (name in convention["recurrent"] or "tau_syn" in values),
    }
    plain = reset != "none" and not any(ways.values())
    is_early = convention["delayed"] and plain
    new = (NIRNeuron if plain else AsElsewhere)(
        triangle(None, None), "delayed" if is_early else "immediate"
    )
    vars(new).update({} if plain else ways | {"reset_delay": bool(is_delayed)})
    if ways["several"]:
        new.most = value_for(convention.get("max_spikes"), name)
    if plain and reset == "zero":
        constants["reset"] = v_reset
    theta = np.asarray(values["v_threshold"] if threshold is None else threshold, np.float32)
    at = convention.get("at") and not ways["several"]  # V >= theta is V > the number before it
    theta = torch.as_tensor(in_float32(np.nextafter(theta, np.float32(-np.inf)) if at else theta))
    if ways["several"] and (theta <= 0).any():
        raise ValueError("its threshold must be above 0")
    new.threshold, new.initial_potential = (
        nn.Parameter(theta, requires_grad=False),
        convention["start"],
    )
    new.floor, new.may_be_negative = convention.get("floor"), bool((theta <= 0).any())
    return with_values(new, leak, constants)


def with_values(neuron, leak, constants):
    neuron.leak = nn.Parameter(torch.as_tensor(in_float32(leak)), requires_grad=False)
    in_file = {name: in_float32(value) for name, value in constants.items()}
    neuron.set_constants(Constants(**in_file))
    return neuron


def value_for(given, name):
    """Find a node's value in one for all nodes, or in a dict by node name; else None."""
    return given.get(name) if isinstance(given, dict) else given


def start_of(values, v_reset, convention):
    """Find where V begins.

    Parameters
    ----------
    values : dict of {str: ndarray}
        The node's constants.
    v_reset : ndarray
        Where V goes after a spike.
    convention : dict
        What holds, see from_nir.

    Returns
    -------
    ndarray
        V before the first timestep; 0 for initial_potential, see SpikingNeuron.
    """
    starts_at = convention.get("starts_at")
    if starts_at is None or "threshold" in values:  # a Threshold has no state
        return np.zeros(1)
    if starts_at == "v_leak" and "v_leak" in values:
        return values["v_leak"]
    return v_reset


def without_rounding(tau, dt):
    """Undo rounding where dt / tau was meant to be a multiple of 1/4096.

    Parameters
    ----------
    tau : ndarray
        Time constants, in seconds, of a simulator that computed them in float32.
    dt : float
        Seconds of a timestep.

    Returns
    -------
    ndarray
        Time constants that differ from `tau` by two roundings at most.
    """
    if not (tau > 0).all():
        return tau  # which is refused later
    part = dt / tau
    meant = (part * 4096).round() / 4096
    is_meant = np.isclose(part, meant, rtol=2.5e-7, atol=0) & (meant > 0)
    return np.where(is_meant, dt / np.where(is_meant, meant, 1), tau)


def sinabs_decay(tau):
    """Compute exp(-1 / tau) in float32, to the bit as sinabs does.

    Parameters
    ----------
    tau : ndarray
        Time constants, in timesteps.

    Returns
    -------
    ndarray of float64

    Raises
    ------
    ValueError
        If a time constant is not above 0.
    """
    if not (tau > 0).all():
        raise ValueError(f"a time constant must be above 0 timesteps, not {tau.min():g}")
    tau = torch.as_tensor(np.asarray(tau, np.float32))
    return torch.exp(-1.0 / tau).double().numpy()


MODULES = {
    **dict.fromkeys(("Input", "Output", "Identity"), lambda node: nn.Identity()),
    "Scale": lambda node: Scale(torch.as_tensor(in_float32(node.scale))),
    "Conv1d": convolution,
    "Conv2d": convolution,
    "Linear": linear,
    "Affine": linear,
    "Flatten": flatten,
    "SumPool2d": pool,
    "AvgPool2d": pool,
    **dict.fromkeys(("IF", "LIF", "LI", "I", "CubaLIF", "CubaLI", "Threshold"), neuron),
}


def is_written_by(like, node):
    """Whether the constants of a leaky node are such as this simulator writes."""
    kind = type(node).__name__
    if like == "sinabs" and kind in ("LIF", "LI"):
        return bool((np.asarray(node.v_leak) == 0).all() and (np.asarray(node.r) == 1).all())
    if like == "norse" and kind == "CubaLI":
        return False  # its exporter knows none
    if like == "norse" and kind == "CubaLIF":
        return bool((np.asarray(node.w_in) == 1).all() and (np.asarray(node.r) == 1).all())
    return True


def by_dt(r, dt):
    """Whether r is 1/dt, by which some libraries say that V += I in each timestep."""
    return dt != 1 and np.allclose(r * np.float64(dt), 1, rtol=1e-5)


def parts(dt, tau, r, clamps):
    """(dt/tau within 0 to 1, r dt/tau) of a time constant; 1 for r and tau that are infinite. Raises ValueError for a time
    constant that is not above 0, unless leaks are clamped."""
    if not (tau > 0).all() and not (clamps and tau.all()):
        raise ValueError(
            f"a time constant must be above 0 seconds, not {tau.min():g} (snnTorch's beta above 1? like='snntorch')"
        )
    part, both = dt / tau if clamps else np.minimum(dt / tau, 1), np.isinf(r) & np.isinf(tau)
    return part.clip(0, 1), np.where(both, 1, np.where(both, 0, r) * part)


def in_float32(value):
    """A number of float32, or a tensor of them where they differ. Raises ValueError for what is not finite."""
    value = np.array(value, np.float32)
    if not np.isfinite(value).all():
        raise ValueError("one of its values is not finite")
    return float(value.flat[0]) if (value == value.flat[0]).all() else torch.from_numpy(value)


def check_values(graph):
    """Raises ModelError where a node has values for another shape than what arrives."""
    for name, module, (source, *_), _ in graph.nodes:
        shape = graph.shapes[source]
        for value in (
            [*module.parameters(), *module.buffers()]
            if isinstance(module, SpikingNeuron | Scale)
            else ()
        ):
            if value.numel() != 1 and tuple(value.shape) not in (
                shape,
                shape[:1] + (1,) * (len(shape) - 1),
            ):
                raise ModelError(
                    f"node {name!r} does not fit what arrives, {shape}: it has values for {tuple(value.shape)}"
                )
