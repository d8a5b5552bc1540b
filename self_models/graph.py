"""Somebody's spiking network, read from a NIR graph: from_nir(file) gives a GraphSNN.

NIR (Neuromorphic Intermediate Representation) is the file that snnTorch, SpikingJelly, Norse, sinabs and others write. The
semantics of each node stand in network/nodes.py.
"""

import warnings

import numpy as np
import torch
from torch import nn

from self_models.basics import ModelError, wide
from self_models.kernel.graphs import GraphEngine
from self_models.network.nodes import Ends, NIRNeuron, Pool, Scale
from self_models.running.outputs import SNNOutput

RESETS = ("zero", "subtract")
DT = 1e-3  # seconds of a timestep where neither the caller nor the file says
NEARLY = 1 + 1e-6  # so much longer than a time constant may dt be: Euler's steps go wrong beyond


class Run:
    """What a GraphSNN keeps between timesteps. memory: name of a neuron's node -> its Memory; sent: node -> what it sent in the
    latest timestep (B, ...), arrived: what arrived at it."""

    def __init__(self):
        self.memory, self.sent, self.arrived = {}, {}, {}


class GraphSNN(nn.Module):
    """A NIR graph as a network. Nodes stand in an order in which each comes behind its sources; an edge that goes back acts one
    timestep later.

    model(events) takes the events (B, T, *input_shape) that arrive in each of T timesteps of dt seconds: their numbers, or
    values. engine: what runs it in eval mode, or None for step(); stays: why the kernel does not run it. nodes: name -> module,
    in their order; sources, back: name -> nodes whose edges lead to it, in the same timestep or in the one before; shapes: name
    -> shape of what it sends; spiking: names of the nodes that spike.
    """

    engine, stays = None, ""

    def __init__(self, nodes, sources, back, input_shape, dt):
        super().__init__()
        self.input_shape, self.dt, self.sources, self.back = tuple(input_shape), dt, sources, back
        self._names, self._modules_of = list(nodes), nn.ModuleList(nodes.values())
        self.shapes = shapes_of(self)
        self.spiking = [name for name, node in nodes.items() if isinstance(node, NIRNeuron) and node.threshold is not None]

    @property
    def nodes(self):
        return dict(zip(self._names, self._modules_of, strict=True))

    def step(self, run, events):
        """One timestep, in place. events: (B, *input_shape). Returns what the output node sends (B, ...)."""
        sent = {}
        for name, node in self.nodes.items():
            arriving = [sent[source] for source in self.sources[name]]
            arriving += [run.sent[source] for source in self.back[name] if source in run.sent]
            run.arrived[name] = arriving = sum(arriving[1:], arriving[0]) if arriving else events
            if isinstance(node, NIRNeuron):
                sent[name], run.memory[name] = node(arriving, run.memory.get(name))
            else:
                sent[name] = node(arriving)
        run.sent = sent
        return sent[self._names[-1]]

    def forward(self, events, timesteps=None, record=None):
        """The SNNOutput of events (B, T, *input_shape), uint8 or float; or of a list of B recordings, whole numbers (n, 4), a row
        an event: its timestep, below `timesteps`, channel, row and column (of an input (N,): its timestep and number).

        logits (B, outputs): what the output node sends, added up over time: spikes, or, where its source is no neuron with a
        threshold, values. spikes, spikes_by_step: of 'input', the events, and of each node that spikes. record: node -> 'spikes',
        'membrane', or a tuple of both; or 'all'. In eval mode the engine runs it, if there is one, unless a gradient for the
        events is wanted. Raises ModelError for events that do not fit."""
        asked, on_kernel, shape = self.asked(record), self.engine and not self.training, self.input_shape
        if isinstance(events, (list, tuple)):
            lists, timesteps = lists_of(events, shape, timesteps)
            given = [for_kernel(each, shape, timesteps) for each in lists] if on_kernel else []
            events = None if on_kernel else frames_of(lists, shape, timesteps)
        else:
            events = self.checked(events)
            on_kernel, timesteps = on_kernel and not events.requires_grad and events.device.type == "cpu", events.shape[1]
            frames = events.detach().numpy() if on_kernel else ()
            given = [for_kernel(each.nonzero(), shape, timesteps, each[each != 0].astype(np.float32)) for each in frames]
        if on_kernel:
            logits, spikes, recorded = self.engine(given, timesteps, asked)
            arrived = [at if sizes is None else np.append(0, np.abs(sizes).cumsum(dtype=float))[at] for at, _, sizes in given]
            spikes = {"input": torch.from_numpy(np.diff(arrived).T.astype(np.float32)), **spikes}
            return output_of(logits, spikes, recorded)
        run, outputs, spikes, recorded = Run(), [], {name: [] for name in ("input", *self.spiking)}, {}
        for now in events.unbind(1):
            now = now.to(torch.float32)
            outputs.append(self.step(run, now).flatten(1))
            spikes["input"].append(now.detach().abs().flatten(1).sum(1, dtype=wide(now.device)).float())
            for name in self.spiking:
                spikes[name].append(run.sent[name].detach().flatten(1).sum(1))
            for name, kinds in asked.items():
                for kind in kinds:
                    value = run.sent[name] > 0 if kind == "spikes" else run.memory[name].v
                    recorded.setdefault(name, {}).setdefault(kind, []).append(value.detach())
        recorded = {name: {kind: torch.stack(values) for kind, values in kinds.items()} for name, kinds in recorded.items()}
        return output_of(torch.stack(outputs).cumsum(0), {name: torch.stack(each) for name, each in spikes.items()}, recorded)

    def checked(self, events):
        """Events as a tensor. Raises ModelError."""
        events = torch.from_numpy(events) if isinstance(events, np.ndarray) else events
        spaces = ", ".join(map(str, self.input_shape))
        if tuple(events.shape[2:]) != self.input_shape or 0 in events.shape:
            raise ModelError(f"events {tuple(events.shape)} do not fit this graph, whose input takes (B, T, {spaces})")
        return events

    def asked(self, record):
        """node -> kinds of what is to be recorded, of record as forward takes it."""
        both = ("spikes", "membrane")
        neurons = {name: both if name in self.spiking else both[1:] for name, node in self.nodes.items()
                   if isinstance(node, NIRNeuron)}  # fmt: skip
        if record == "all":
            return neurons
        asked = {name: (kinds,) if isinstance(kinds, str) else tuple(kinds) for name, kinds in (record or {}).items()}
        for name, kinds in asked.items():
            if not set(kinds) <= set(neurons.get(name, ())):
                raise ModelError(f"record: {name!r} has no {' and '.join(kinds)}; neurons are {', '.join(neurons)}")
        return asked


def lists_of(recordings, shape, timesteps):
    """(of each recording the columns of its events: timesteps, then where they lie; timesteps); see GraphSNN.forward."""
    found = [np.asarray(rows) for rows in recordings]
    if timesteps is None:
        timesteps = 1 + max(int(rows[:, 0].max()) if rows.ndim == 2 and len(rows) else 0 for rows in found)
    limits = timesteps, *shape
    for number, rows in enumerate(found):
        what = f"recording {number}"
        if rows.ndim != 2 or rows.shape[1] != len(limits) or rows.dtype.kind not in "iu":
            raise ModelError(f"{what}: its events must be whole numbers (n, {len(limits)}), not {rows.dtype} {rows.shape}")
        found[number] = columns = np.ascontiguousarray(rows.T)
        if len(rows) and any(each.min() < 0 or each.max() >= most for each, most in zip(columns, limits, strict=True)):
            raise ModelError(f"{what}: an event lies outside of {timesteps} timesteps and the sensor {tuple(shape)}")
    return found, timesteps


def for_kernel(columns, shape, timesteps, sizes=None):
    """(first, events, sizes) of a recording's columns, as Run in network.h has them. sizes: of events in order, or None."""
    time, *places = columns
    if (time[1:] < time[:-1]).any():
        order = time.argsort(kind="stable")
        time, *places = time[order], *(each[order] for each in places)
    steps = {2: (1, shape[0]), 3: (1, shape[-1] * shape[0], shape[0])}  # by axis; channels lie side by side
    steps = steps.get(len(shape)) or np.cumprod([1, *shape[:0:-1]])[::-1].tolist()
    neurons = sum(each.astype(np.int32) * step for each, step in zip(places, steps, strict=True))
    return np.append(0, np.bincount(time, minlength=timesteps).cumsum()).astype(np.int32), neurons, sizes


def frames_of(lists, shape, timesteps):
    """Events (B, T, *shape) of recordings' columns."""
    frames = np.zeros((len(lists), timesteps, *shape), np.float32)
    for one, columns in zip(frames, lists, strict=True):
        np.add.at(one, tuple(columns), 1)
    return torch.from_numpy(frames)


def output_of(logits, spikes, recorded=None):
    """The SNNOutput of the logits after each timestep (T, B, outputs) and the spikes of each node in it (T, B)."""
    steps = torch.full((logits.shape[1],), len(logits))
    total = {name: each.sum(0, dtype=wide(each.device)) for name, each in spikes.items()}
    return SNNOutput(
        logits=logits[-1], predictions=None, errors=None, spikes=total, steps=steps, logits_by_step=logits, spikes_by_step=spikes,
        recorded=recorded or None,
    )  # fmt: skip


def shapes_of(model):
    """Node -> shape of what it sends for one image. Raises ModelError where a node does not fit what arrives."""
    shapes = {}
    for name, node in model.nodes.items():
        arriving = {shapes[source] for source in model.sources[name]} or {model.input_shape}
        if len(arriving) > 1:
            raise ModelError(f"node {name!r}: the shapes of its sources differ: {', '.join(map(str, sorted(arriving)))}")
        (shape,) = arriving
        try:
            fits(node, shape)
            sent = node(torch.zeros(1, *shape))
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(f"node {name!r} does not fit what arrives, {shape}: {str(error).splitlines()[0]}") from None
        shapes[name] = tuple((sent[0] if isinstance(node, NIRNeuron) else sent).shape[1:])
    for name, sources in model.back.items():
        arriving = shapes[model.sources[name][0]] if model.sources[name] else model.input_shape
        for source in sources:
            if shapes[source] != arriving:
                raise ModelError(f"the edge back from {source!r}, {shapes[source]}, does not fit node {name!r}, {arriving}")
    return shapes


def fits(node, shape):
    """Raises ValueError where a node's values, or the number of its dimensions, do not fit what arrives."""
    for value in node.state_dict().values() if isinstance(node, NIRNeuron | Scale) else ():
        if value.numel() != 1 and tuple(value.shape) not in (shape, shape[:1] + (1,) * (len(shape) - 1)):
            raise ValueError(f"it has values for {tuple(value.shape)}")
    wanted = {nn.Linear: 1, nn.Conv1d: 2, nn.Conv2d: 3, Pool: 3}.get(type(node), len(shape))
    if wanted != len(shape):
        raise ValueError(f"it takes {wanted} dimensions" + ("; a Flatten is missing" if wanted == 1 else ""))


# --- reading


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
        ends = ends_of(graph, "this graph")
        order, sources, back = ordered(*ends, nodes, edges)
        shape = np.atleast_1d(nodes[ends[0]].input_type["input"]).tolist()
        if names := [repr(name) for name in order if type(nodes[name]).__name__ in ("IF", "I") and by_dt(nodes[name].r, dt)]:
            warnings.warn(f"r of {', '.join(names)} is 1/dt, which is taken as 1: V += I in each timestep", stacklevel=2)
        modules = {name: module_of(name, nodes[name], dt, conventions) for name in order}
        taus = [
            (np.asarray(its).min(initial=np.inf), n) for n in order for key, its in vars(nodes[n]).items() if key[:3] == "tau"
        ]
        least, name = min(taus, default=(np.inf, ""))  # of all nodes, so that the dt that is named fits
        if dt > least * NEARLY:
            fits = 10 ** np.floor(np.log10(least * NEARLY))
            raise ModelError(f"node {name!r}: its time constant of {least:g} s is shorter than dt, {dt:g} s: give dt={fits:g}")
        model = GraphSNN(modules, sources, back, shape, dt)
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


def ordered(first, last, nodes, edges):
    """(names in an order in which each comes behind its sources, the output last; name -> sources; name -> sources of edges that
    go back). Warns of edges back that targets in another order than by name would not give: a circle has several entries."""
    targets, sources, back = ({name: [] for name in nodes} for _ in range(3))
    for a, b in sorted(edges):
        targets[a].append(b)
    done, again = searched(first, targets)
    for a, b in sorted(edges):
        (back if (a, b) in again else sources)[b].append(a)
    if lost := [name for name in nodes if name not in done]:
        raise ModelError(f"node {lost[0]!r} is not reached from the input: no edge leads to it")
    if back[first]:
        raise ModelError(f"an edge leads from {back[first][0]!r} to the input {first!r}: the input must be the first node")
    if targets[last]:
        raise ModelError(f"an edge leads from the output {last!r} to {targets[last][0]!r}: the output must be the last node")
    if chosen := [f"{a!r} -> {b!r}" for a, b in again if a != b and a in searched(first, targets | {b: []})[0]]:
        warnings.warn(f"a circle has several entries; these edges act a timestep later: {', '.join(chosen)}", stacklevel=3)
    return [*(name for name in reversed(done) if name != last), last], sources, back


def searched(first, targets):
    """(nodes that the first leads to, and itself, each behind its targets; edges back, to a node on the path), depth first."""
    done, again, seen, stack = {}, [], {first}, [(first, iter(targets[first]))]
    while stack:
        name, rest = stack[-1]
        target = next(rest, None)
        if target is None:
            stack.pop()
            done[name] = True
        elif target not in seen:
            seen.add(target)
            stack.append((target, iter(targets[target])))
        elif target not in done:
            again.append((name, target))
    return done, again


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
    """The NIRNeuron of a node; its values are worked out in float64."""
    values = {key: np.asarray(value, np.float64) for key, value in vars(node).items() if not isinstance(value, dict)}
    one, tau, threshold = np.float64(1), values.get("tau", values.get("tau_mem")), values.get("threshold")
    r = values.get("r", one)
    found = {"leak": one, "gain": np.ones_like(r) if by_dt(r, dt) else r, "drive": 0 * one}
    if tau is not None:
        part = dt_over(dt, tau)
        found = {"leak": 1 - part, "gain": r * part, "drive": values["v_leak"] * part}
        found["gain"] = np.where(np.isclose(found["gain"], 1, rtol=3e-7, atol=0), 1, found["gain"])  # but for float32's rounding
    if "tau_syn" in values:
        part = dt_over(dt, values["tau_syn"])
        found |= {"synapse_leak": 1 - part, "synapse_gain": values["w_in"] * part}
    if threshold is not None:
        found |= {"leak": 0 * one, "threshold": threshold, "reset": 0 * one}
    if "v_threshold" in values:
        found |= {"threshold": values["v_threshold"], "reset": values["v_reset"]}
    found = {key: tensor_of(value) for key, value in found.items()}
    return NIRNeuron(found, **conventions | {"subtract": conventions["subtract"] and threshold is None})


MODULES = {
    **dict.fromkeys(("Input", "Output", "Identity"), lambda node: Ends()), "Scale": lambda node: Scale(tensor_of(node.scale)),
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


def tensor_of(value):
    """A tensor of float32; one value has no dimension."""
    value = torch.from_numpy(np.array(value, np.float32))
    return value.reshape(()) if value.numel() == 1 and value.dim() < 2 else value
