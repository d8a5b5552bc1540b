"""NIR (Neuromorphic Intermediate Representation), the file that snnTorch, SpikingJelly, Norse, sinabs and others write:
from_nir(file) gives a GraphSNN."""

import warnings

import numpy as np
import torch
from torch import nn

from self_models.basics import ModelError
from self_models.graph import GraphSNN
from self_models.kernel.engine import GraphEngine
from self_models.network.chains import Pool, Scale
from self_models.network.graph import Graph
from self_models.network.neurons import Integrator, SpikingNeuron
from self_models.network.surrogates import triangle
from self_models.running.outputs import INPUT

RESETS = ("zero", "subtract")
DT = 1e-3  # seconds of a timestep where neither the caller nor the file says
NEARLY = 1 + 1e-6  # so much longer than a time constant may dt be: Euler's steps go wrong beyond


def from_nir(source, dt=None, reset=None, engine="auto"):
    """The GraphSNN of a NIR file, or nir.NIRGraph, in eval mode.

    dt: seconds of a timestep, by which time constants are read; None for what the file says, else a millisecond. reset: of
    neurons that have spiked: 'zero', to v_reset, or 'subtract', by the threshold; None for what the file says, else zero. engine:
    'event', the kernel; 'dense', step() alone; or 'auto', the kernel where it knows all nodes; its `stays` says which not. Raises
    ModelError for a file that cannot be read, and for a graph that cannot be run."""
    graph, where = read(source)
    facts = {name: said(value) for name, value in graph.metadata.items()}
    if dt is None:
        dt = facts.get("seconds_per_step", DT)
    if not 0 < dt < np.inf:
        raise ModelError(f"dt must be a number of seconds above 0, not {dt!r}")
    if reset is None:
        reset = "subtract" if "subtract" in str(facts.get("reset", "")) else "zero"
    if reset not in RESETS:
        raise ModelError(f"reset must be {' or '.join(RESETS)}, not {reset!r}")
    if facts.get("update") == "phased":
        raise ModelError(f"{where}: its layers fire in turn (update phased), which a graph does not: use its checkpoint")
    conventions = {"subtract": reset == "subtract", "delayed": facts.get("update") == "delayed",
            "start": facts.get("initial_potential", 0)}  # fmt: skip
    try:
        nodes, edges = flat(graph)
        first, last = ends_of(graph, "this graph")
        if back := [a for a, b in edges if b == first]:
            raise ModelError(f"an edge leads from {back[0]!r} to the input {first!r}: the input must be the first node")
        if more := [b for a, b in edges if a == last]:
            raise ModelError(f"an edge leads from the output {last!r} to {more[0]!r}: the output must be the last node")
        shape = np.atleast_1d(nodes.pop(first).input_type["input"]).tolist()
        if names := [repr(name) for name, node in nodes.items() if type(node).__name__ in ("IF", "I") and by_dt(node.r, dt)]:
            warnings.warn(f"r of {', '.join(names)} is 1/dt, which is taken as 1: V += I in each timestep", stacklevel=2)
        modules = {name: module_of(name, node, dt, conventions) for name, node in nodes.items()}
        taus = [(np.asarray(its).min(initial=np.inf), n) for n, node in nodes.items() for key, its in vars(node).items()
                if key[:3] == "tau"]  # fmt: skip
        least, name = min(taus, default=(np.inf, ""))  # of all nodes, so that the dt that is named fits
        if dt > least * NEARLY:
            fits = 10 ** np.floor(np.log10(least * NEARLY))
            raise ModelError(f"node {name!r}: its time constant of {least:g} s is shorter than dt, {dt:g} s: give dt={fits:g}")
        edges = [(INPUT if a == first else a, b) for a, b in edges]
        model = GraphSNN(Graph(modules, edges, shape, {"output": last}), dt)
        check_values(model.graph)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    if engine in ("auto", "event"):
        try:
            model.engine = GraphEngine(model)
        except ModelError as error:
            if engine == "event":
                raise
            model.stays = str(error)
    elif engine not in ("dense", "reference"):
        raise ModelError(f"engine must be auto, event or dense, not {engine!r}")
    return model.eval()


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
        raise ModelError(f"{source} is no NIR file that can be read ({words}): use another copy, or write it again") from None
    return graph, str(source)


def said(value):
    """A value of a file's metadata as Python has it."""
    value = value.item() if isinstance(value, (np.ndarray, np.generic)) and np.size(value) == 1 else value
    return value.decode() if isinstance(value, bytes) else value


def flat(graph, prefix=""):
    """(name -> node, edges) of a graph, those of graphs within it named GRAPH.NODE."""
    nodes, edges, entry, leaving = {}, [], {}, {}
    for name, node in graph.nodes.items():
        full = prefix + name
        entry[name] = leaving[name] = full
        if type(node).__name__ == "NIRGraph":
            inner, more = flat(node, f"{full}.")
            entry[name], leaving[name] = (f"{full}.{end}" for end in ends_of(node, f"the graph {full!r} within it"))
            nodes, edges = nodes | inner, edges + more
        else:
            nodes[full] = node
    for a, b in graph.edges:
        if not {a, b} <= entry.keys():
            raise ModelError(f"the edge {prefix + a} -> {prefix + b} leads to no node")
        edges.append((leaving[a], entry[b]))
    return nodes, list(dict.fromkeys(edges))


def ends_of(graph, which):
    """Names of its Input and its Output."""
    ends = [[name for name, node in graph.nodes.items() if type(node).__name__ == kind] for kind in ("Input", "Output")]
    for kind, names in zip(("Input", "Output"), ends, strict=True):
        if len(names) != 1:
            raise ModelError(f"{which} must have one {kind}, and has {len(names)}")
    return ends[0][0], ends[1][0]


def module_of(name, node, dt, conventions):
    """The module of a NIR node. Raises ModelError for one that is not known, and for values that cannot be."""
    kind = type(node).__name__
    if kind not in MODULES:
        raise ModelError(f"node {name!r} is a {kind}, which is not known here: known are {', '.join(MODULES)}")
    try:
        module = neuron(node, dt, conventions) if MODULES[kind] is neuron else MODULES[kind](node)
        if wrong := [key for key, value in module.state_dict().items() if not value.isfinite().all()]:
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
    sizes = [whole(each, 2) for each in (node.kernel_size, node.stride, node.padding)]
    return Pool(*sizes, mean=type(node).__name__ == "AvgPool2d")


def flatten(node):
    return nn.Flatten(*(end + (end >= 0) for end in whole(node.start_dim) + whole(node.end_dim)))  # the batch is first


def filled(layer, node):
    """A layer with the weights and biases of a node."""
    for key, own in layer.named_parameters():
        value = torch.from_numpy(np.array(getattr(node, key), np.float32))
        if value.shape != own.shape:
            raise ValueError(f"its {key} is {tuple(value.shape)}, where {tuple(own.shape)} fits")
        own.data = value
    return layer


def neuron(node, dt, conventions):
    """The neurons of a node, by forward Euler; values are worked out in float64:

    I[t] = (1 - dt/tau_syn) I[t-1] + w_in dt/tau_syn a[t]     (CubaLIF, CubaLI; else I[t] = a[t], what arrives)
    V[t] = (1 - dt/tau) V[t-1] + r dt/tau I[t] + v_leak dt/tau                      IF, I: V[t] = V[t-1] + r I[t]
    s[t] = V[t] > v_threshold, then V[t] = v_reset, or V[t] - v_threshold (subtract). V of a Threshold is what has arrived."""
    values = {key: np.asarray(value, np.float64) for key, value in vars(node).items() if not isinstance(value, dict)}
    tau, threshold, r = values.get("tau", values.get("tau_mem")), values.get("threshold"), values.get("r", np.float64(1))
    leak, gain, drive = np.float64(threshold is None), np.ones_like(r) if by_dt(r, dt) else r, np.float64(0)
    if tau is not None:
        part = dt_over(dt, tau)
        leak, gain, drive = 1 - part, r * part, values["v_leak"] * part
        gain = np.where(np.isclose(gain, 1, rtol=3e-7, atol=0), 1, gain)  # but for float32's rounding
    reset, constants = values.get("v_reset", np.float64(0)), {"gain": gain, "drive": drive}
    if "tau_syn" in values:
        part = dt_over(dt, values["tau_syn"])
        constants |= {"synapse_leak": 1 - part, "synapse_gain": values["w_in"] * part}
    fires = threshold is not None or "v_threshold" in values
    if fires and not (conventions["subtract"] and threshold is None):
        constants["reset"] = reset
    update = "delayed" if conventions["delayed"] and fires else "immediate"
    new = (SpikingNeuron if fires else Integrator)(triangle(None, None), update)
    new.set_constants(**{name: in_float32(value) for name, value in constants.items()})
    new.leak = nn.Parameter(torch.as_tensor(in_float32(leak)), requires_grad=False)
    if fires:
        theta = torch.as_tensor(in_float32(values["v_threshold"] if threshold is None else threshold))
        new.threshold, new.initial_potential = nn.Parameter(theta, requires_grad=False), conventions["start"]
        new.may_be_negative = bool((theta <= 0).any())
    return new


MODULES = {
    **dict.fromkeys(("Input", "Output", "Identity"), lambda node: nn.Identity()),
    "Scale": lambda node: Scale(torch.as_tensor(in_float32(node.scale))),
    "Conv1d": convolution, "Conv2d": convolution, "Linear": linear, "Affine": linear, "Flatten": flatten, "SumPool2d": pool,
    "AvgPool2d": pool, **dict.fromkeys(("IF", "LIF", "LI", "I", "CubaLIF", "CubaLI", "Threshold"), neuron),
}  # fmt: skip


def by_dt(r, dt):
    """Whether r is 1/dt, by which some libraries say that V += I in each timestep."""
    return dt != 1 and np.allclose(r * np.float64(dt), 1, rtol=1e-5)


def dt_over(dt, tau):
    """dt / tau. Raises ValueError for a time constant that is not above 0."""
    if not (tau > 0).all():
        raise ValueError(f"a time constant must be above 0 seconds, not {tau.min():g}")
    return np.minimum(dt / tau, 1)


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
        for value in [*module.parameters(), *module.buffers()] if isinstance(module, SpikingNeuron | Scale) else ():
            if value.numel() != 1 and tuple(value.shape) not in (shape, shape[:1] + (1,) * (len(shape) - 1)):
                raise ModelError(f"node {name!r} does not fit what arrives, {shape}: it has values for {tuple(value.shape)}")
