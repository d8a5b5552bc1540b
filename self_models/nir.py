"""NIR (Neuromorphic Intermediate Representation), the file that snnTorch, SpikingJelly, Norse, sinabs and others write:
from_nir(file) gives a GraphSNN."""

import copy
import warnings

import numpy as np
import torch
from torch import nn

from self_models.basics import ModelError
from self_models.basics.settings import POSITIVE, Choice, required
from self_models.graph import GraphSNN
from self_models.network.chains import Scale
from self_models.network.graph import Graph, searched
from self_models.network.neurons import AsElsewhere, Integrator, SpikingNeuron
from self_models.network.surrogates import triangle
from self_models.running.outputs import INPUT

DT = 1e-3  # seconds of a timestep where nothing says
THEIRS = 1e-4  # in snnTorch's files
LIKE = {  # simulator -> what it takes for granted; reset: zero, subtract or none; several: spikes in a timestep; at: fires at the
    # threshold, too; by_steps: time constants are in timesteps, and a leak is exp(-1 / tau)
    "nir": {},
    "snntorch": {"dt": THEIRS, "reset": "subtract", "reset_delay": True},
    "norse": {"dt": 1e-6},
    "sinabs": {"reset": "subtract", "several": True, "at": True, "by_steps": True},
    "spikingjelly": {"dt": 1e-4, "at": True},
}
RESETS = "zero", "subtract", "none"
NEARLY = 1 + 1e-6  # so much longer than a time constant may dt be: Euler's steps go wrong beyond
ROUND = 1.01  # time constants that agree so far make one dt


def from_nir(
    source, dt=None, reset=None, engine="auto", like=None, reset_delay=None, membrane_floor=None
):
    """The GraphSNN of a NIR file, or nir.NIRGraph, in eval mode.

    like: the simulator whose conventions hold, see LIKE; 'nir' by default. What is given wins over it, and it over what the
    file says. dt: seconds of a timestep, by which time constants are read, else a millisecond. reset: of neurons that have
    spiked: 'zero', to v_reset; 'subtract', by the threshold; or 'none'. reset_delay: in the next timestep, as snnTorch has it.
    membrane_floor: lower bound of V, in thresholds below 0. engine: see GraphSNN. Raises ModelError for a file that cannot be
    read, and for a graph that cannot be run."""
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
    given = {"dt": dt, "reset": reset, "reset_delay": reset_delay, "floor": membrane_floor}
    convention = {"dt": DT, "reset": "zero"}
    for each in (says, LIKE[required(Choice(LIKE), "like", like or "nir")], given):
        convention |= {name: value for name, value in each.items() if value is not None}
    required(Choice(RESETS), "reset", convention["reset"])
    dt = required(POSITIVE, "dt", convention["dt"])
    convention["clamps"] = like == "snntorch" and dt == THEIRS  # betas, to 0 to 1
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
        edges = [(INPUT if a == first else a, b) for a, b in edges]
        convention["recurrent"] = {a for a, b in edges if (b, a) in edges}
        modules = {name: module_of(name, node, convention) for name, node in nodes.items()}
        check_dt(nodes, convention, is_asked=bool(like or dt != DT))
        graph = Graph(modules, edges, shape, {"output": last})
        check_values(graph)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    model = GraphSNN(graph, dt, engine).eval()
    model.metadata = facts
    model.reading = convention | {"like": like}
    return model


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
        graph = nir.read(source, type_check=False)
    except FileNotFoundError:
        raise ModelError(f"{source}: no such file") from None
    except Exception as error:  # whatever a damaged file makes h5py and nir raise
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{source} is no NIR file that can be read ({words}): use another copy, or write it again"
        ) from None
    return graph, str(source)


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
    s[t] = V[t] > v_threshold, then V[t] = v_reset, or V[t] - v_threshold (subtract). V of a Threshold is what has arrived."""
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
    leak, gain, drive = (
        np.float64(threshold is None),
        np.ones_like(r) if by_dt(r, dt) else r,
        np.float64(0),
    )
    if tau is not None and convention.get("by_steps"):
        leak = np.exp(-1 / tau)
        gain = 1 - leak
    elif tau is not None:
        part, gain = parts(dt, tau, r, convention["clamps"])
        leak, drive = 1 - part, values["v_leak"] * part
        gain = np.where(
            np.isclose(gain, 1, rtol=3e-7, atol=0), 1, gain
        )  # but for float32's rounding
    constants = {"gain": gain, "drive": drive}
    if "tau_syn" in values:
        part, gain = parts(dt, values["tau_syn"], values["w_in"], convention["clamps"])
        constants |= {"synapse_leak": 1 - part, "synapse_gain": gain}
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
    new = (SpikingNeuron if plain else AsElsewhere)(
        triangle(None, None), "delayed" if is_early else "immediate"
    )
    vars(new).update({} if plain else ways | {"reset_delay": bool(is_delayed)})
    if plain and reset == "zero":
        constants["reset"] = values.get("v_reset", np.float64(0))
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
    neuron.set_constants(**{name: in_float32(value) for name, value in constants.items()})
    return neuron


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
