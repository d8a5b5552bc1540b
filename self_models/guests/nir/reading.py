"""NIR (Neuromorphic Intermediate Representation), the file that snnTorch, SpikingJelly, Norse, sinabs and others write:
from_nir(file) gives a GraphSNN."""

import warnings

import numpy as np

from self_models.basics import ModelError
from self_models.basics.settings import COUNT, POSITIVE, Choice, Switch, required
from self_models.guests.nir.files import ends_of, flat, read, said, with_sums
from self_models.guests.nir.graph_snn import GraphSNN
from self_models.guests.nir.nodes import (
    NODES_WITH,
    by_dt,
    check_values,
    is_written_by,
    module_of,
)
from self_models.runtime.graph import Graph
from self_models.runtime.outputs import INPUT

DT = 1e-3  # seconds of a timestep where nothing says
THEIRS = 1e-4  # in snnTorch's files
LIKE = {
    # What each simulator takes for granted, by its name in --like:
    # dt: seconds of a timestep, by which its files have time constants.
    # reset: zero, subtract or none; reset_delay: in the next timestep.
    # several: a neuron may send several spikes in a timestep.
    # at: it also fires where V is exactly at the threshold.
    # by_steps: time constants are numbers of timesteps, and a leak is exp(-1 / tau).
    # starts_at: where V begins, v_leak or v_reset; without it at 0.
    # whole_events: in a CubaLIF, an event adds its whole weight to the current.
    # rounds: its files have time constants that it has rounded to float32 twice.
    "nir": {},
    "snntorch": {"dt": THEIRS, "reset": "subtract", "reset_delay": True},
    "norse": {"dt": 1e-6, "starts_at": "v_leak", "whole_events": True, "rounds": True},
    "sinabs": {"reset": "subtract", "several": True, "at": True, "by_steps": True},
    "spikingjelly": {"dt": 1e-4, "at": True, "starts_at": "v_reset"},
}
LACKS = {
    # What files of a simulator do not say and how it is read; the names in a convention
    # of what says it. Simulators whose files say everything are left out.
    "snntorch": (
        "snnTorch does not write reset_mechanism and reset_delay: read with its defaults, "
        "reset='subtract' and reset_delay=True",
        ("reset", "reset_delay"),
    ),
    "norse": (
        "Norse does not write v_reset and reset_method: read with its defaults, v_reset=0 and "
        "reset='zero'",
        ("v_reset", "reset"),
    ),
    "sinabs": (
        "sinabs does not write norm_input, tau_syn, min_v_mem, spike_fn and reset_fn: read with "
        "its defaults, norm_input=True of LIF and norm_input=False of ExpLeak, reset='subtract', "
        "and without tau_syn, membrane_floor and max_spikes",
        ("norm_input", "tau_syn", "floor", "max_spikes", "reset"),
    ),
}
OF_SINABS = "norm_input", "tau_syn", "max_spikes"
INTEGRATORS = "LI", "I", "CubaLI"
READING = (  # arguments of from_nir that say how a file is to be read
    "like",
    "dt",
    "reset",
    "reset_delay",
    "membrane_floor",
    "norm_input",
    "tau_syn",
    "max_spikes",
    "v_reset",
)
RESETS = "zero", "subtract", "none"
NEARLY = 1 + 1e-6  # so much longer than a time constant may dt be: Euler's steps go wrong beyond
ROUND = 1.01  # time constants that agree so far make one dt


def from_nir(
    source,
    dt=None,
    reset=None,
    engine="auto",
    like=None,
    reset_delay=None,
    membrane_floor=None,
    norm_input=None,
    tau_syn=None,
    max_spikes=None,
    v_reset=None,
):
    """Read a NIR file as a GraphSNN in eval mode.

    What is given here wins over what the simulator takes for granted, and that over what
    the file says. Where a file of this simulator does not say something, a warning names
    what was taken for it.

    Parameters
    ----------
    source : str, Path or nir.NIRGraph
        The file, or its graph.
    dt : float, optional
        Seconds of a timestep, by which time constants are read. By default as `like`, else
        as the file says, else 0.001.
    reset : {"zero", "subtract", "none"}, optional
        Reset of neurons that have spiked: to v_reset, by the threshold, or none.
    engine : {"auto", "event", "dense"}
        See GraphSNN.
    like : {"nir", "snntorch", "norse", "sinabs", "spikingjelly"}, optional
        Simulator whose conventions hold; by default NIR's own. docs/how_to/nir.md says for
        each of its neurons under which conditions the spikes are the same.
    reset_delay : bool, optional
        Reset in the next timestep, as snnTorch does.
    membrane_floor : float, optional
        Lower bound of V, in thresholds below 0.
    norm_input : bool or dict of {str: bool}, optional
        Only sinabs: its LIF and ExpLeak multiply what arrives by 1 - exp(-1 / tau). By
        default True of LIF and False of ExpLeak, as in sinabs. One value for all nodes, or
        by the node's name.
    tau_syn : float, array or dict of {str: float or array}, optional
        Only sinabs: synaptic time constant of its IAF and LIF, in timesteps. By default
        they have none.
    max_spikes : int or dict of {str: int}, optional
        Only sinabs: most spikes of a neuron in a timestep; 1 is its SingleSpike. By default
        there is no limit, as with MultiSpike.
    v_reset : float, array or dict of {str: float or array}, optional
        V after a spike, instead of what the file says.

    Returns
    -------
    GraphSNN

    Raises
    ------
    ModelError
        If the file cannot be read, if its graph cannot be run, or if arguments do not fit.
    """
    graph, where = read(source)
    facts = {name: said(value) for name, value in graph.metadata.items()}
    if facts.get("update") == "phased":
        raise ModelError(
            f"{where}: its layers fire in turn (update phased), which a graph does not: use its checkpoint"
        )
    says = {
        "dt": facts.get("seconds_per_step"),
        "reset": "subtract" if "subtract" in str(facts.get("reset", "")) else None,
        "delayed": facts.get("update") == "delayed",
        "start": facts.get("initial_potential", 0),
    }
    given = {
        "dt": dt,
        "reset": reset,
        "reset_delay": reset_delay,
        "floor": membrane_floor,
        "norm_input": norm_input,
        "tau_syn": tau_syn,
        "max_spikes": max_spikes,
        "v_reset": v_reset,
    }
    convention = {"dt": DT, "reset": "zero"}
    for each in (says, LIKE[required(Choice(LIKE), "like", like or "nir")], given):
        convention |= {name: value for name, value in each.items() if value is not None}
    required(Choice(RESETS), "reset", convention["reset"])
    dt = required(POSITIVE, "dt", convention["dt"])
    convention["clamps"] = like == "snntorch" and dt == THEIRS  # betas, to 0 to 1
    for name in NODES_WITH:
        if convention.get(name) is not None:
            convention[name] = checked_values(name, convention[name])
    try:
        graph = with_sums(graph, like)
        nodes, edges = flat(graph)
        first, last = ends_of(graph, "this graph")
        if back := [a for a, b in edges if b == first]:
            raise ModelError(
                f"an edge leads from {back[0]!r} to the input {first!r}: the input must be the first node"
            )
        if more := [b for a, b in edges if a == last]:
            raise ModelError(
                f"an edge leads from the output {last!r} to {more[0]!r}: the output must be the last node"
            )
        shape = np.atleast_1d(nodes.pop(first).input_type["input"]).tolist()
        if names := [
            repr(name)
            for name, node in nodes.items()
            if type(node).__name__ in ("IF", "I") and by_dt(node.r, dt)
        ]:
            warnings.warn(
                f"r of {', '.join(names)} is 1/dt, which is taken as 1: V += I in each timestep",
                stacklevel=2,
            )
        check_given(nodes, convention, like)
        warn_of_what_is_lacking(nodes, convention, like, given)
        edges = [(INPUT if a == first else a, b) for a, b in edges]
        convention["recurrent"] = {a for a, b in edges if (b, a) in edges}
        modules = {name: module_of(name, node, convention) for name, node in nodes.items()}
        is_asked = bool(like or dt != DT)
        if like == "spikingjelly":  # whose users may export with a dt of their own
            is_asked = given["dt"] is not None
        check_dt(nodes, convention, is_asked)
        graph = Graph(modules, edges, shape, {"output": last})
        check_values(graph)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    model = GraphSNN(graph, dt, engine).eval()
    model.metadata = facts
    model.reading = convention | {"like": like}
    return model


def checked_values(name, given):
    """Check an argument that holds for all nodes, or for each by its name.

    Parameters
    ----------
    name : str
        The argument of from_nir, a key of NODES_WITH.
    given : object
        Its value, or a dict of node names and values.

    Returns
    -------
    object
        The same with numbers as float64 arrays.

    Raises
    ------
    ModelError
        If a value cannot be.
    """
    if isinstance(given, dict):
        return {node: checked_values(f"{name} of {node!r}", one) for node, one in given.items()}
    kind = name.split()[0]
    if kind == "norm_input":
        return required(Switch(), name, given)
    if kind == "max_spikes":
        return required(COUNT, name, given)
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise ModelError(f"{name}: {given!r} is not a number, nor an array of numbers") from None
    if not np.isfinite(values).all():
        raise ModelError(f"{name}: {given!r} is not finite")
    if kind == "tau_syn" and not (values > 0).all():
        raise ModelError(f"{name}: {given!r} is not above 0")
    return values


def check_given(nodes, convention, like):
    """Raise ModelError for arguments that do not fit simulator, reset or nodes.

    Parameters
    ----------
    nodes : dict of {str: nir.NIRNode}
        The graph's nodes.
    convention : dict
        What holds, see from_nir.
    like : str or None
        The simulator.
    """
    for name, kinds in NODES_WITH.items():
        given = convention.get(name)
        if given is None:
            continue
        if name in OF_SINABS and like != "sinabs":
            raise ModelError(f"{name} says how sinabs ran a network: give like='sinabs', too")
        having = [node for node, one in nodes.items() if type(one).__name__ in kinds]
        wrong = [node for node in given if node not in having] if isinstance(given, dict) else []
        if wrong or not having:
            what = f"node {wrong[0]!r} is not" if wrong else "no node here is"
            raise ModelError(
                f"{name}: {what} {' or '.join(kinds)}; those are {', '.join(having) or 'none'}"
            )
    if convention.get("v_reset") is not None and convention["reset"] != "zero":
        raise ModelError(
            f"v_reset is where V goes with reset='zero', which is {convention['reset']!r} here"
        )
    if convention.get("max_spikes") is not None and convention["reset"] != "subtract":
        raise ModelError(
            "max_spikes goes with reset='subtract': otherwise a neuron sends one spike at most"
        )


def warn_of_what_is_lacking(nodes, convention, like, given):
    """Warn of what a simulator's files do not say, and of what is not read.

    Parameters
    ----------
    nodes : dict of {str: nir.NIRNode}
        The graph's nodes.
    convention : dict
        What holds, see from_nir.
    like : str or None
        The simulator.
    given : dict
        Arguments of from_nir; None for those that were not given.
    """
    kinds = {type(node).__name__ for node in nodes.values()}
    concerned = {"IF", "LIF", "CubaLIF"}
    if like == "sinabs":
        concerned = {"IF", "LIF", "LI"}
    words, arguments = LACKS.get(like, ("", ()))
    if words and kinds & concerned and all(given.get(name) is None for name in arguments):
        warnings.warn(words, stacklevel=3)

    other = [repr(name) for name, node in nodes.items() if not is_written_by(like, node)]
    if other and like == "sinabs":
        warnings.warn(
            f"sinabs writes v_leak 0 and r 1: those of {', '.join(other)} are ignored",
            stacklevel=3,
        )
    if other and like == "norse":
        warnings.warn(
            f"Norse writes r 1 and w_in 1: {', '.join(other)} is read as NIR has it",
            stacklevel=3,
        )

    for name, node in nodes.items():
        if like == "spikingjelly" and type(node).__name__ == "IF":
            if not by_dt(node.r, convention["dt"]):
                written = 1 / np.ravel(node.r)[0]
                warnings.warn(
                    f"SpikingJelly writes r = 1/dt, and r of {name!r} is that of "
                    f"timesteps of {1000 * written:.3g} ms: give dt={written:.3g}",
                    stacklevel=3,
                )
    without = [repr(name) for name, node in nodes.items() if type(node).__name__ in INTEGRATORS]
    if convention.get("floor") is not None and without:
        warnings.warn(
            f"membrane_floor is in thresholds, which {', '.join(without)} has not: no floor there",
            stacklevel=3,
        )


def check_dt(nodes, convention, is_asked):
    """Raises ModelError for time constants shorter than dt, or warns that snnTorch's are clamped; warns where those of all leaky
    nodes with a gain are written for another timestep, unless somebody has asked for this one (is_asked)."""
    if convention.get("by_steps"):
        return
    dt, taus, steps, betas = convention["dt"], [], [], np.zeros(0)
    for name, node in nodes.items():
        taus += [
            (np.asarray(value).min(initial=np.inf), name)
            for key, value in vars(node).items()
            if key[:3] == "tau"
        ]
        tau, r = (
            np.asarray(vars(node).get(key, vars(node).get(f"{key}_mem", np.nan)))
            for key in ("tau", "r")
        )
        if np.isfinite(tau).all() and (r != 0).all():
            steps += np.ravel(tau / r).tolist()
            betas = np.append(betas, 1 - 1 / r)  # for timesteps of tau / r
    written = steps[0] if steps and 0 < max(steps) < min(steps) * ROUND else 0
    is_theirs = 1 / ROUND < written / THEIRS < ROUND
    least, name = min(
        taus, default=(np.inf, "")
    )  # of all nodes, so that the dt that is named fits
    if dt > least * NEARLY and convention["clamps"]:
        names = ", ".join(dict.fromkeys(repr(each) for tau, each in taus if dt > tau * NEARLY))
        warnings.warn(
            f"{names}: a beta below 0 or above 1 is clamped, as snnTorch does", stacklevel=3
        )
    elif dt > least * NEARLY:
        fits = f"dt={10 ** np.floor(np.log10(least * NEARLY)):g}"
        if is_theirs:
            fits = f"{fits}, or like='snntorch'"
        if is_theirs and least * NEARLY < THEIRS:  # a beta below 0
            fits = "like='snntorch', without another timestep"
        raise ModelError(
            f"node {name!r}: its time constant of {least:g} s is shorter than dt, {dt:g} s: give {fits}"
        )
    is_beta = is_theirs or (
        (betas > 0).all() and np.allclose(betas, betas.round(3), rtol=0, atol=1e-6)
    )
    if written and not is_asked and is_beta and not 1 / ROUND < written / dt < ROUND:
        words = f"these weights look written for timesteps of {1000 * written:.3g} ms: dt={written:.3g}"
        warnings.warn(f"{words}, or like='snntorch'" if is_theirs else words, stacklevel=3)
