"""What does not fit a file and its convention: what is refused, and what is noted."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from self_models.basics import ModelError
from self_models.guests.nir.conventions import (
    BY_NODE,
    OMISSIONS,
    SNNTORCH_DT,
    Convention,
    is_written_by,
)
from self_models.guests.nir.timesteps import is_inverse

KINDS_WITH = {  # argument that may differ between nodes -> kinds of nodes that have it
    "norm_input": ("LIF", "LI"),
    "tau_syn": ("IF", "LIF"),
    "max_spikes": ("IF", "LIF"),
    "v_reset": ("IF", "LIF", "CubaLIF"),
}
ONLY_SINABS = "norm_input", "tau_syn", "max_spikes"
INTEGRATORS = "LI", "I", "CubaLI"
DT_TOLERANCE = 1 + 1e-6  # dt may be so many times a time constant; Euler fails beyond
SAME_DT = 1.01  # timesteps that differ by no larger factor count as one

Nodes = Mapping[str, object]  # name -> nir.NIRNode


def kind_of(node: object) -> str:
    """Return the kind of a nir.NIRNode, such as "LIF"."""
    return type(node).__name__


# --- arguments


def check_arguments(nodes: Nodes, convention: Convention, like: str | None) -> None:
    """Raise ModelError for arguments that do not fit simulator, reset or nodes.

    Parameters
    ----------
    nodes : dict of {str: nir.NIRNode}
        The graph's nodes.
    convention : Convention
        How they are to be read.
    like : str or None
        The simulator.
    """
    for argument in BY_NODE:
        if getattr(convention, argument) is None:
            continue
        if argument in ONLY_SINABS and like != "sinabs":
            raise ModelError(f"{argument} says how sinabs ran a network: give like='sinabs', too")
        check_kinds(nodes, argument, getattr(convention, argument))
    if convention.v_reset is not None and convention.reset != "zero":
        raise ModelError(
            f"v_reset is where V goes with reset='zero', which is {convention.reset!r} here"
        )
    if convention.max_spikes is not None and convention.reset != "subtract":
        raise ModelError(
            "max_spikes goes with reset='subtract': otherwise a neuron sends one spike at most"
        )


def check_kinds(nodes: Nodes, argument: str, value: object) -> None:
    """Raise ModelError where no node, or not the named one, has such an argument."""
    kinds = KINDS_WITH[argument]
    fitting = [name for name, node in nodes.items() if kind_of(node) in kinds]
    misfits = []
    if isinstance(value, dict):
        misfits = [name for name in value if name not in fitting]
    if misfits or not fitting:
        what = f"node {misfits[0]!r} is not" if misfits else "no node here is"
        found = ", ".join(fitting) or "none"
        raise ModelError(f"{argument}: {what} {' or '.join(kinds)}; those are {found}")


# --- notes


def notes_on_nodes(
    nodes: Nodes, convention: Convention, like: str | None, given: Mapping[str, object]
) -> Iterator[str]:
    """Say what a simulator's files do not say, and what of them is not read.

    Parameters
    ----------
    nodes : dict of {str: nir.NIRNode}
        The graph's nodes.
    convention : Convention
        How they are to be read.
    like : str or None
        The simulator.
    given : dict of {str: object}
        Fields of Convention that the user has asked for; None for those where not.

    Yields
    ------
    str
        A note for the user.
    """
    kinds = {kind_of(node) for node in nodes.values()}
    omission = OMISSIONS.get(like)
    if omission and kinds & omission.kinds:
        if all(given[field] is None for field in omission.fields):
            yield omission.message

    unusual = quoted(
        name for name, node in nodes.items() if not is_written_by(like, kind_of(node), vars(node))
    )
    if unusual and like == "sinabs":
        yield f"sinabs writes v_leak 0 and r 1: those of {unusual} are ignored"
    if unusual and like == "norse":
        yield f"Norse writes r 1 and w_in 1: {unusual} is read as NIR has it"

    for name, node in nodes.items():
        if like == "spikingjelly" and kind_of(node) == "IF":
            if not is_inverse(node.r, convention.dt):
                dt = 1 / np.ravel(node.r)[0]
                yield (
                    f"SpikingJelly writes r = 1/dt, and r of {name!r} is that of "
                    f"timesteps of {1000 * dt:.3g} ms: give dt={dt:.3g}"
                )

    integrators = quoted(name for name, node in nodes.items() if kind_of(node) in INTEGRATORS)
    if convention.membrane_floor is not None and integrators:
        yield f"membrane_floor is in thresholds, which {integrators} has not: no floor there"


def note_on_inverse_r(nodes: Nodes, dt: float) -> str | None:
    """Say which nodes are read with r = 1 in place of 1/dt; None if there are none."""
    names = quoted(
        name
        for name, node in nodes.items()
        if kind_of(node) in ("IF", "I") and is_inverse(node.r, dt)
    )
    if not names:
        return None
    return f"r of {names} is 1/dt, which is taken as 1: V += I in each timestep"


def quoted(names: Iterator[str]) -> str:
    """Return names in quotation marks, with commas between them."""
    return ", ".join(repr(name) for name in names)


# --- the length of a timestep


class TimeConstant(NamedTuple):
    """The shortest time constant of a node, of one name (tau, tau_mem, tau_syn).

    Attributes
    ----------
    seconds : float
        How long it is.
    node : str
        Name of the node.
    """

    seconds: float
    node: str


def time_constants(nodes: Nodes) -> list[TimeConstant]:
    """Return the time constants of all nodes."""
    found = []
    for name, node in nodes.items():
        for key, value in vars(node).items():
            if key.startswith("tau"):
                shortest = np.asarray(value).min(initial=np.inf)
                found.append(TimeConstant(shortest, name))
    return found


class ImpliedTimestep(NamedTuple):
    """The timestep for which the weights of a file look trained.

    A leaky node takes r dt / tau times the weight of an event. Simulators in which an
    event adds its whole weight write an r that makes this 1: r = tau / dt. So tau / r
    gives back the dt of such a simulator. For example, snnTorch writes a beta of 0.9 as
    tau = 0.001 and r = 10: tau / r is its dt of 0.0001 seconds.

    Other files have an r that says nothing of the kind. So their tau / r is a timestep
    only if there is more to support it: `is_snntorch` or `has_round_leaks`.

    Attributes
    ----------
    dt : float
        Seconds of the timestep, on which all leaky nodes agree to 1 %; 0 if they do
        not, or if there are none.
    has_round_leaks : bool
        Whether each leak is above 0 and has three decimals at most, as somebody would
        choose it: 0.9 or 0.875. The leak is the share of V that a timestep keeps, 1 -
        dt / tau. With dt = tau / r, that is 1 - 1 / r. An r of 1 gives the leak 0, so
        it supports nothing.
    """

    dt: float
    has_round_leaks: bool

    @property
    def is_snntorch(self) -> bool:
        """Whether it is the timestep of snnTorch's files."""
        return is_same_dt(self.dt, SNNTORCH_DT)


def is_same_dt(dt: float, other: float) -> bool:
    """Return whether two timesteps are nearly of the same length."""
    return 1 / SAME_DT < dt / other < SAME_DT


def find_implied_timestep(nodes: Nodes) -> ImpliedTimestep:
    """Find the timestep for which the weights of a file look trained.

    Parameters
    ----------
    nodes : dict of {str: nir.NIRNode}
        The graph's nodes. Those without a finite tau and an r count for nothing.

    Returns
    -------
    ImpliedTimestep
        Whose docstring has the reasoning.
    """
    timesteps = []  # tau / r of each neuron, in seconds
    leaks = []  # 1 - 1 / r of each neuron
    for node in nodes.values():
        constants = vars(node)
        # LIF and LI have a tau, CubaLIF and CubaLI a tau_mem, and others nan here.
        tau = np.asarray(constants.get("tau", constants.get("tau_mem", np.nan)))
        r = np.asarray(constants.get("r", constants.get("r_mem", np.nan)))
        if np.isfinite(tau).all() and (r != 0).all():
            timesteps += np.ravel(tau / r).tolist()
            leaks += np.ravel(1 - 1 / r).tolist()

    dt = 0
    if timesteps:
        are_same = 0 < max(timesteps) < min(timesteps) * SAME_DT
        if are_same:
            dt = timesteps[0]
    leaks = np.array(leaks)
    are_positive = bool((leaks > 0).all())
    # Files have float32, so a leak of 0.9 is not 0.9 to the last digit.
    are_round = np.allclose(leaks, leaks.round(3), rtol=0, atol=1e-6)
    return ImpliedTimestep(dt, are_positive and are_round)


def notes_on_dt(nodes: Nodes, convention: Convention, dt_is_chosen: bool) -> Iterator[str]:
    """Compare the length of a timestep with the time constants of a file.

    Parameters
    ----------
    nodes : dict of {str: nir.NIRNode}
        The graph's nodes.
    convention : Convention
        How they are to be read.
    dt_is_chosen : bool
        Whether somebody has asked for this timestep.

    Yields
    ------
    str
        Which leaks of snnTorch are clamped, and whether the weights look written for
        another timestep.

    Raises
    ------
    ModelError
        For a time constant that is shorter than a timestep.
    """
    if convention.tau_in_timesteps:
        return
    dt = convention.dt
    implied = find_implied_timestep(nodes)
    taus = time_constants(nodes)
    shorter = [tau for tau in taus if dt > tau.seconds * DT_TOLERANCE]
    if shorter and convention.clamped_leaks:
        names = quoted(dict.fromkeys(tau.node for tau in shorter))
        yield f"{names}: a beta below 0 or above 1 is clamped, as snnTorch does"
    elif shorter:
        raise ModelError(too_short(min(taus), dt, implied))

    if dt_is_chosen or not implied.dt:
        return
    is_supported = implied.is_snntorch or implied.has_round_leaks
    if is_supported and not is_same_dt(implied.dt, dt):
        note = (
            f"these weights look written for timesteps of {1000 * implied.dt:.3g} ms: "
            f"dt={implied.dt:.3g}"
        )
        if implied.is_snntorch:
            note += ", or like='snntorch'"
        yield note


def too_short(tau: TimeConstant, dt: float, implied: ImpliedTimestep) -> str:
    """Say that the shortest time constant of a file is too short, and what to give."""
    longest_dt = tau.seconds * DT_TOLERANCE
    # The power of ten below: 0.001 for a time constant of 0.005 seconds
    advice = f"dt={10 ** np.floor(np.log10(longest_dt)):g}"
    if implied.is_snntorch:
        advice += ", or like='snntorch'"
        if longest_dt < SNNTORCH_DT:  # a beta below 0, which is clamped
            advice = "like='snntorch', without another timestep"
    return (
        f"node {tau.node!r}: its time constant of {tau.seconds:g} s is shorter than dt, "
        f"{dt:g} s: give {advice}"
    )
