"""NIR's differential equations in timesteps: the constants of membranes and synapses.

All is computed in float64, and rounded to float32 once, by ``to_float32``, when a
module is made of it.
"""

from typing import NamedTuple

import numpy as np
import torch

TAU_GRID = 4096  # if dt / tau of Norse is near a multiple of 1/4096, it is meant to be it
TWO_ROUNDINGS = 2.5e-7  # relative error of a number that was rounded to float32 twice


class Membrane(NamedTuple):
    """The constants of ``V[t] = leak V[t-1] + gain I[t] + bias_current``.

    Each is a float64 array of one value, or of one for each neuron.

    Attributes
    ----------
    leak : ndarray
        Share of V that a timestep keeps; 1 means that nothing leaks.
    gain : ndarray
        Factor of the input current.
    bias_current : ndarray
        What is added in each timestep.
    """

    leak: np.ndarray
    gain: np.ndarray
    bias_current: np.ndarray


class Synapse(NamedTuple):
    """The constants of ``I[t] = leak I[t-1] + gain a[t]``, where a is what arrives.

    Attributes
    ----------
    leak : ndarray
        Share of the current that a timestep keeps.
    gain : ndarray
        Factor of what arrives.
    """

    leak: np.ndarray
    gain: np.ndarray


# --- membranes


def integrating_membrane(r: np.ndarray, dt: float) -> Membrane:
    """Return the membrane of ``dv/dt = R I``: ``V += r I``, or ``V += I`` for r = 1/dt.

    An event has no duration. So it adds r, whatever the length of a timestep.
    """
    gain = np.ones_like(r) if is_inverse(r, dt) else r
    return Membrane(leak=np.float64(1), gain=gain, bias_current=np.float64(0))


def euler_membrane(
    tau: np.ndarray, r: np.ndarray, v_leak: np.ndarray, dt: float, clamped: bool
) -> Membrane:
    """Bring ``tau dv/dt = (v_leak - v) + R I`` into timesteps, by forward Euler.

    ``V[t] = (1 - dt/tau) V[t-1] + r dt/tau I[t] + v_leak dt/tau``

    With ``clamped``, for snnTorch, a dt/tau below 0 or above 1 counts as 0 or 1 in the
    first and the last term, but not in that of I[t].

    Parameters
    ----------
    tau : ndarray
        Time constants, in seconds.
    r, v_leak : ndarray
        Resistance, and the potential to which V leaks.
    dt : float
        Seconds of a timestep.
    clamped : bool
        Whether dt/tau may lie outside of 0 to 1. It does in files of snnTorch with a
        beta above 1 or below 0. See ``timestep_share`` for what else is refused.

    Returns
    -------
    Membrane
    """
    share = timestep_share(tau, dt, clamped)
    # snnTorch clamps its beta, 1 - dt/tau, when it runs, but adds inputs as they are.
    # Its exporter has made r of the beta as it was, so that r dt/tau is 1 exactly for
    # the dt/tau that is not clamped.
    gain = euler_gain(share, tau, r)
    # r and tau were rounded to float32 each, so their product is off by up to some
    # 1.2e-7 of itself, and what is within 3e-7 of 1 was meant to be 1.
    is_one = np.isclose(gain, 1, rtol=3e-7, atol=0)
    leaking = share.clip(0, 1)
    return Membrane(
        leak=1 - leaking,
        gain=np.where(is_one, 1, gain),
        bias_current=v_leak * leaking,
    )


def sinabs_membrane(tau: np.ndarray, norm_input: bool) -> Membrane:
    """Return the membrane of LIF and ExpLeak in sinabs, with a = exp(-1 / tau).

    ``V[t] = a V[t-1] + (1 - a) I[t]``, or with norm_input False ``V[t] = a V[t-1] +
    I[t]``. ``tau`` counts timesteps; r and v_leak have no part in it.
    """
    leak = sinabs_decay(tau)
    gain = 1 - leak if norm_input else np.float64(1)
    return Membrane(leak, gain, bias_current=np.float64(0))


# --- synapses


def euler_synapse(tau_syn: np.ndarray, w_in: np.ndarray, dt: float, clamped: bool) -> Synapse:
    """Bring ``tau_syn dI/dt = -I + w_in S`` into timesteps, by forward Euler.

    ``I[t] = (1 - dt/tau_syn) I[t-1] + w_in dt/tau_syn a[t]``, of what arrives, a.
    """
    share = timestep_share(tau_syn, dt, clamped)
    return Synapse(leak=1 - share.clip(0, 1), gain=euler_gain(share, tau_syn, w_in))


def sinabs_synapse(tau_syn: np.ndarray) -> Synapse:
    """Return ``I[t] = exp(-1 / tau_syn) (I[t-1] + a[t])``, tau_syn in timesteps."""
    decay = sinabs_decay(tau_syn)
    return Synapse(leak=decay, gain=decay)


# --- time constants


def timestep_share(tau: np.ndarray, dt: float, clamped: bool) -> np.ndarray:
    """Compute dt / tau, the share of a potential that leaks in a timestep.

    Parameters
    ----------
    tau : ndarray
        Time constants, in seconds.
    dt : float
        Seconds of a timestep.
    clamped : bool
        Whether a time constant may be below 0. snnTorch makes one of a beta above 1,
        and then clamps the leak, but not the gain. So the share is not clamped here.

    Returns
    -------
    ndarray
        Above 0 and at most 1, unless ``clamped``.

    Raises
    ------
    ValueError
        For a time constant that is not above 0; with ``clamped`` only for one of 0.
    """
    if clamped and tau.all():
        return dt / tau
    if not (tau > 0).all():
        raise ValueError(
            f"a time constant must be above 0 seconds, not {tau.min():g} "
            "(snnTorch's beta above 1? like='snntorch')"
        )
    return np.minimum(dt / tau, 1)


def euler_gain(share: np.ndarray, tau: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Compute r dt / tau, where ``share`` is dt / tau.

    If both r and tau are infinite, which snnTorch writes for a beta of 1, it is 1.
    """
    both_infinite = np.isinf(r) & np.isinf(tau)
    finite_r = np.where(both_infinite, 0, r)  # infinity times 0 would warn
    return np.where(both_infinite, 1, finite_r * share)


def without_rounding(tau: np.ndarray, dt: float) -> np.ndarray:
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
        Time constants that differ from ``tau`` by two roundings at most.
    """
    if not (tau > 0).all():
        return tau  # which is refused later
    share = dt / tau
    nearest = (share * TAU_GRID).round() / TAU_GRID
    is_near = np.isclose(share, nearest, rtol=TWO_ROUNDINGS, atol=0) & (nearest > 0)
    return np.where(is_near, dt / np.where(is_near, nearest, 1), tau)


def sinabs_decay(tau: np.ndarray) -> np.ndarray:
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


# --- numbers


def is_inverse(r: np.ndarray, dt: float) -> bool:
    """Return whether r is 1/dt, by which some simulators say ``V += I``."""
    return dt != 1 and np.allclose(r * np.float64(dt), 1, rtol=1e-5)


def to_float32(value: object) -> float | torch.Tensor:
    """Round to float32: to a number, or where values differ to a Tensor of them.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    rounded = np.array(value, np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError("one of its values is not finite")
    first = rounded.flat[0]
    if (rounded == first).all():
        return float(first)
    return torch.from_numpy(rounded)
