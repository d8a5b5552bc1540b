"""NIR (Neuromorphic Intermediate Representation), the file that snnTorch, SpikingJelly, Norse, sinabs and others write:
from_nir(file) gives a GraphSNN."""

import copy
import inspect
import warnings

import numpy as np
import torch
from torch import nn

from self_models.basics import ModelError
from self_models.basics.settings import COUNT, POSITIVE, Choice, Switch, required
from self_models.guests.nir.graph_snn import GraphSNN
from self_models.guests.nir.neurons import AsElsewhere, Constants, Integrator, NIRNeuron
from self_models.layers.neurons import SpikingNeuron
from self_models.layers.scale import Scale
from self_models.layers.surrogates import triangle
from self_models.runtime.graph import Graph, searched
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
NODES_WITH = {  # argument of from_nir -> kinds of nodes that have it
    "norm_input": ("LIF", "LI"),
    "tau_syn": ("IF", "LIF"),
    "max_spikes": ("IF", "LIF"),
    "v_reset": ("IF", "LIF", "CubaLIF"),
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


def read(source):
    """(nir.NIRGraph, its name in messages) of a file or graph. Raises ModelError."""
    import nir  # it brings HDF5, which nothing else needs

    if isinstance(source, nir.NIRGraph):
        return source, "this graph"
    try:
        graph = graph_in(source)
    except FileNotFoundError:
        raise ModelError(f"{source}: no such file") from None
    except Exception as error:  # whatever a damaged file makes h5py and nir raise
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{source} is no NIR file that can be read ({words}): use another copy, or write it again"
        ) from None
    return graph, str(source)


def graph_in(path):
    """Read a file with the nir that is installed, from 1.0.4 on.

    Up to 1.0.6 nir.read() checks no types, and up to 1.0.5 it knows no v_reset: the
    nodes get it behind its back, as the attribute that they have in later versions.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    nir.NIRGraph
    """
    import nir

    if "type_check" in inspect.signature(nir.read).parameters:
        return nir.read(path, type_check=False)
    if "v_reset" in inspect.signature(nir.LIF).parameters:
        return nir.read(path)

    import h5py
    from nir.serialization import hdf2dict

    with h5py.File(path, "r") as file:
        content = hdf2dict(file["node"])
    resets = taken_resets(content)
    graph = nir.dict2NIRNode(content)
    for place, value in resets.items():
        node = graph
        for name in place:
            node = node.nodes[name]
        node.v_reset = value
    return graph


def taken_resets(content, place=()):
    """Take v_reset out of a graph's content, and of graphs within it.

    Parameters
    ----------
    content : dict
        What a file says of a graph. Changed in place.
    place : tuple of str
        Names of the nodes that lead to this graph.

    Returns
    -------
    dict of {tuple of str: ndarray}
        v_reset by the names of the nodes that lead to it.
    """
    resets = {}
    for name, node in content.get("nodes", {}).items():
        if "v_reset" in node:
            resets[(*place, name)] = node.pop("v_reset")
        resets |= taken_resets(node, (*place, name))
    return resets


def said(value):
    """A value of a file's metadata as Python has it."""
    value = (
        value.item()
        if isinstance(value, (np.ndarray, np.generic)) and np.size(value) == 1
        else value
    )
    return value.decode() if isinstance(value, bytes) else value


def flat(graph, prefix=""):
    """(name -> node, edges) of a graph, those of graphs within it named GRAPH.NODE."""
    nodes, edges, entry, leaving = {}, [], {}, {}
    for name, node in graph.nodes.items():
        full = prefix + name
        entry[name] = leaving[name] = full
        if type(node).__name__ == "NIRGraph":
            inner, more = flat(node, f"{full}.")
            entry[name], leaving[name] = (
                f"{full}.{end}" for end in ends_of(node, f"the graph {full!r} within it")
            )
            nodes, edges = nodes | inner, edges + more
        else:
            nodes[full] = node
    for a, b in graph.edges:
        edges.append(
            (leaving.get(a, prefix + a), entry.get(b, prefix + b))
        )  # Graph refuses one that leads to no node
    return nodes, list(dict.fromkeys(edges))


def with_sums(graph, like):
    """The graph with the sums that snnTorch's exporter loses: of c(b) + a, into neurons n, it leaves an Input of its own to n
    and an edge from c to the Output. A sum is put back, with a warning, where one c and one a can be meant; else a ModelError
    names all that can be, and the lines that mend it. Of neurons at the end it leaves nothing: refused if like is snnTorch."""
    mended = copy.copy(graph)
    mended.nodes, mended.edges = dict(graph.nodes), list(graph.edges)
    inputs = [
        name
        for name, node in graph.nodes.items()
        if type(node).__name__ == "Input" and "input" in graph.nodes
    ]
    lost = [(a, b) for a, b in graph.edges if a in inputs and a != "input"]
    while lost and all(terms_of(mended, to)[0] for _, to in lost):  # else others have written it
        found, unclear = {edge: terms_of(mended, edge[1]) for edge in lost}, []
        sole = [ends[0] for ends, _ in found.values() if len(ends) == 1]
        for (own, to), (ends, others) in found.items():
            ends = [
                edge for edge in ends if edge not in sole
            ] or ends  # an edge belongs to one sum
            others = sorted(
                others, key=lambda name: all((name, c) not in graph.edges for c, _ in ends)
            )  # first as in c(a) + a
            terms = [c for c, _ in ends] + others
            gone, new = [(own, to), *ends], [(term, to) for term in terms[: max(2, len(ends))]]
            if len(ends) == len(others) == 1:
                break
            unclear.append(
                f"into {to!r}, of {', '.join(map(repr, terms))}: del graph.nodes[{own!r}]; graph.edges = "
                f"[e for e in graph.edges if e not in {gone}] + {new}"
            )
        else:
            raise ModelError(
                f"its exporter has lost sums. Before nir.write, put back what forward() adds: {'; '.join(unclear)}"
            )
        warnings.warn(
            f"{to!r} is read as {' + '.join(terms)}, a guess: the file has lost how forward() joins them",
            stacklevel=3,
        )
        mended.edges = [edge for edge in mended.edges if edge not in gone] + new
        del mended.nodes[own]
        lost.remove((own, to))
    last = {
        b: a
        for a, b in mended.edges
        if type(mended.nodes.get(b)).__name__ == "Output" and a in mended.nodes
    }
    for name in [
        each
        for each, node in mended.nodes.items()
        if last and type(node).__name__ == "Output" and each not in last
    ]:
        del mended.nodes[name]  # it was that of c
    for name in last.values() if like == "snntorch" else ():
        if not sends_spikes(graph.nodes[name]) and terms_of(mended, name)[1]:
            raise ModelError(
                f"it ends in {name!r}, no neuron; one that takes a sum is lost there: add nn.Flatten() in any case"
            )
    return mended


def terms_of(graph, to):
    """(edges to the Output, nodes that send spikes): the source of one and one of the others may be the sum into a node whose
    input is lost. All have its shape, and none comes behind the node."""
    shapes = {
        name: np.ravel((node.output_type or {}).get("output")).tolist()
        for name, node in graph.nodes.items()
    }
    sources = {name: [a for a, b in graph.edges if b == name and a in shapes] for name in shapes}
    fit = [
        name
        for name in shapes
        if shapes[name] == shapes.get(to) and to not in searched(name, sources)[0]
    ]
    ends = [
        (a, b)
        for a, b in graph.edges
        if a in fit and type(graph.nodes.get(b)).__name__ == "Output"
    ]
    ends = [
        edge for edge in ends if not sends_spikes(graph.nodes[edge[0]])
    ] or ends  # the Output's own only if need be
    return ends, [
        name for name in fit if sends_spikes(graph.nodes[name]) and name not in dict(ends)
    ]


def sends_spikes(node):
    return hasattr(node, "v_threshold") or type(node).__name__ in ("NIRGraph", "Flatten")


def ends_of(graph, which):
    """Names of its Input and its Output."""
    ends = []
    for kind in ("Input", "Output"):
        ends += (
            names := [name for name, node in graph.nodes.items() if type(node).__name__ == kind]
        )
        if len(names) != 1:
            raise ModelError(f"{which} must have one {kind}, and has {len(names)}")
    return ends


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
