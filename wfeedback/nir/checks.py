"""What does not fit a file and its convention: what is refused, and what is noted."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from self_models.errors import ModelError
from wfeedback.nir.conventions import BY_NODE, OMISSIONS, SNNTORCH_DT, Convention, is_written_by
from wfeedback.nir.timesteps import is_inverse

KINDS_WITH = {  # argument that may differ between nodes -> kinds of nodes that have it
    "norm_input": ("LIF", "LI"),
    "tau_syn": ("IF", "LIF"),
    "max_spikes": ("IF", "LIF"),
    "v_reset": ("IF", "LIF", "CubaLIF"),
}
ONLY_SINABS = "norm_input", "tau_syn", "max_spikes"
INTEGRATORS = "LI", "I", "CubaLI"
NOT_IN_SINABS = "CubaLIF", "CubaLI"  # it writes neither, and reads neither
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
    for name, node in nodes.items():
        if like == "sinabs" and kind_of(node) in NOT_IN_SINABS:
            raise ModelError(
                f"node {name!r} is a {kind_of(node)}, which sinabs neither writes nor reads, so "
                "nothing says whether its time constants count timesteps or seconds: read the "
                "file as another simulator's, or as NIR's (like='nir')"
            )
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
    # A generator to its end: each note is told before the next one is looked for.
    yield from notes_on_omissions(nodes, like, given)
    yield from notes_on_unusual_constants(nodes, like)
    if like == "spikingjelly":
        yield from notes_on_spikingjelly_r(nodes, convention.dt)
    if convention.membrane_floor is not None:
        yield from notes_on_floor(nodes)


def notes_on_omissions(
    nodes: Nodes, like: str | None, given: Mapping[str, object]
) -> Iterator[str]:
    """Say what a simulator's files leave out, so that its defaults are taken.

    `OMISSIONS` has for each simulator what its exporter does not write, such as
    snnTorch's reset_mechanism, and which kinds of nodes would need it. Nothing is said
    if there is no such node, or if the user has given any of it, and so knows of it.
    """
    omission = OMISSIONS.get(like)
    if omission is None:
        return
    kinds = {kind_of(node) for node in nodes.values()}
    is_needed = bool(kinds & omission.kinds)
    if is_needed and all(given[field] is None for field in omission.fields):
        yield omission.message


def notes_on_unusual_constants(nodes: Nodes, like: str | None) -> Iterator[str]:
    """Say which nodes have constants that the simulator's exporter never writes.

    sinabs always writes v_leak 0 and r 1, and Norse r 1 and w_in 1. Of the constants of
    other simulators nothing is said.
    """
    unusual = []
    for name, node in nodes.items():
        if not is_written_by(like, kind_of(node), vars(node)):
            unusual.append(name)
    if unusual and like == "sinabs":
        yield f"sinabs writes v_leak 0 and r 1: those of {quoted(unusual)} are ignored"
    if unusual and like == "norse":
        yield f"Norse writes r 1 and w_in 1: {quoted(unusual)} is read as NIR has it"


def notes_on_spikingjelly_r(nodes: Nodes, dt: float) -> Iterator[str]:
    """Say which dt an IF node of SpikingJelly was written for, if it is another one.

    Its exporter gives all neurons of a node the same r, so the first one's says it.
    """
    for name, node in nodes.items():
        if kind_of(node) == "IF" and not is_inverse(node.r, dt):
            written_dt = 1 / np.ravel(node.r)[0]
            yield (
                f"SpikingJelly writes r = 1/dt, and r of {name!r} is that of "
                f"timesteps of {1000 * written_dt:.3g} ms: give dt={written_dt:.3g}"
            )


def notes_on_floor(nodes: Nodes) -> Iterator[str]:
    """Say which nodes have no threshold, in which a membrane_floor is counted."""
    integrators = quoted(name for name, node in nodes.items() if kind_of(node) in INTEGRATORS)
    if integrators:
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


def quoted(names: Iterable[str]) -> str:
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

    A leaky node takes ``r dt / tau`` times the weight of an event. Simulators in which
    an event adds its whole weight write ``r = tau / dt``, which makes this 1. So
    ``tau / r`` is their dt, and ``1 - dt / tau = 1 - 1 / r`` the share of V that a
    timestep keeps. `ImpliedTimestep` says when to believe it.

    Parameters
    ----------
    nodes : dict of {str: nir.NIRNode}
        The graph's nodes. Only those with a finite tau and an r other than 0 count.

    Returns
    -------
    ImpliedTimestep
        Its dt is 0 if no node counts, or if those that do disagree.
    """
    timesteps = []  # tau / r of each neuron, in seconds
    leaks = []  # 1 - 1 / r of each neuron
    for node in nodes.values():
        constants = vars(node)
        # LIF and LI have a tau, CubaLIF and CubaLI a tau_mem. Others get nan here,
        # which is not finite, so they are left out whatever their r.
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
    # Without any node dt is 0, and what the leaks are does not matter.
    leaks = np.array(leaks)
    are_positive = bool((leaks > 0).all())
    # Files have float32, so a leak of 0.9 is not 0.9 to the last digit.
    are_round = np.allclose(leaks, leaks.round(3), rtol=0, atol=1e-6)
    return ImpliedTimestep(dt, are_positive and are_round)


def check_time_constants(nodes: Nodes, convention: Convention) -> str | None:
    """Check that no time constant of a file is shorter than a timestep.

    By forward Euler a timestep keeps the share ``1 - dt / tau`` of V, which then is
    below 0. snnTorch clamps it to 0, which is noted; for other simulators the file is
    refused. In sinabs tau counts timesteps, and nothing is checked.

    Parameters
    ----------
    nodes : dict of {str: nir.NIRNode}
        The graph's nodes.
    convention : Convention
        How they are to be read, with the dt in seconds.

    Returns
    -------
    str or None
        A note that names the nodes that are clamped; None if there are none.

    Raises
    ------
    ModelError
        For a time constant that is shorter than dt, unless leaks are clamped.
    """
    if convention.tau_in_timesteps:
        return None
    dt = convention.dt
    taus = time_constants(nodes)
    # Files have float32, so a tau that is meant to be dt may be a little below it.
    shorter = [tau for tau in taus if dt > tau.seconds * DT_TOLERANCE]
    if not shorter:
        return None
    if not convention.clamped_leaks:
        shortest = min(taus)  # by seconds, which is the first field
        raise ModelError(too_short(shortest, dt, find_implied_timestep(nodes)))
    names = quoted(dict.fromkeys(tau.node for tau in shorter))  # each node once
    return f"{names}: a beta below 0 or above 1 is clamped, as snnTorch does"


def note_on_implied_dt(nodes: Nodes, convention: Convention) -> str | None:
    """Say for which timestep the weights of a file look written, if it is another one.

    Parameters
    ----------
    nodes : dict of {str: nir.NIRNode}
        The graph's nodes.
    convention : Convention
        How they are to be read, with a dt that nobody has chosen.

    Returns
    -------
    str or None
        A note with the dt that the constants imply (see `ImpliedTimestep`). None if
        they imply none, or that of the convention, or if this is not sure.
    """
    if convention.tau_in_timesteps:  # sinabs: time constants say nothing of seconds
        return None
    implied = find_implied_timestep(nodes)
    if not implied.dt:
        return None
    is_supported = implied.is_snntorch or implied.has_round_leaks
    if not is_supported or is_same_dt(implied.dt, convention.dt):
        return None
    note = (
        f"these weights look written for timesteps of {1000 * implied.dt:.3g} ms: "
        f"dt={implied.dt:.3g}"
    )
    if implied.is_snntorch:
        note += ", or like='snntorch'"
    return note


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
