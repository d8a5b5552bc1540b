"""A NIR graph on the kernel: GraphEngine(model) runs a GraphSNN event by event, with the spikes of its step().

An edge to a neuron, or to the output, is a link: pools that do not overlap, one linear module, and scales of channels, in one set
of weights. A further module makes a link of its own, behind a relay. Recurrent edges and CubaLIF stay with step().
"""

from math import prod

import numpy as np
import torch
from torch import nn

from self_models.basics import ModelError
from self_models.kernel.build import Run, Settings, library
from self_models.kernel.folding import CACHE, NEAR
from self_models.kernel.state import Rooms
from self_models.kernel.tables import HIGHEST, LARGEST, LINE, LOWEST, NODE, NUMBERS, SPARE, Tables, line_of_bytes
from self_models.network.nodes import Ends, NIRNeuron, Pool, Scale
from self_models.network.known import fingerprint
from self_models.running.draws import in_space

NEURONS, OUTPUT, RELAY, INTEGRATOR, ADDING, PLACED = (
    NUMBERS[name] for name in ("NEURONS", "OUTPUT", "RELAY", "INTEGRATOR", "ADDING", "PLACED")
)


def placed(shape):
    """(C, H, W) in which the kernel has values of this shape."""
    return (shape[0], *(1,) * (3 - len(shape)), *shape[1:]) if len(shape) <= 3 else (prod(shape), 1, 1)


class Link:
    """From a node (a dict) through modules: weights (phase, channel, window row, window column, target channel); for each row of
    the source, and each column, its phase, -1 for none, the window's corner, and how many of the window's rows, or columns, are
    skipped. shape: (C, H, W) of what arrives; natural: its shape in the graph."""

    def __init__(self, source):
        self.source, self.shape, self.natural, self.weights, self.factor = source, source["shape"], source["natural"], None, 1.0
        self.bias, self.at, self.skipped = np.zeros((1, 1, 1)), [np.arange(size) for size in self.shape[1:]], None

    def takes(self, module, natural):
        """Whether it takes in a module, which gives what has the shape natural; then it has."""
        if isinstance(module, nn.Flatten):
            if len(natural) > 1 and natural != self.natural:
                raise ModelError(f"a Flatten to the shape {natural} stays with step(): it runs dense")
        elif isinstance(module, Scale) and module.scale.numel() == 1:
            self.factor, self.bias = self.factor * module.scale.item(), self.bias * module.scale.item()
        elif self.weights is None and isinstance(module, Pool) and module.kernel == module.stride and module.padding == (0, 0):
            self.shape = natural
            self.at = [np.where(at < 0, -1, at // k) for at, k in zip(self.at, module.kernel, strict=True)]
            self.at = [np.where(at < size, at, -1) for at, size in zip(self.at, natural[1:], strict=True)]
            self.factor /= prod(module.kernel) if module.mean else 1
        elif isinstance(module, Scale) and self.weights is not None and (scale := self.by_channel(module)) is not None:
            self.weights, self.bias = self.weights * scale, self.bias * scale[:, None, None]
        elif self.weights is None:
            self.fold(module, natural)
        else:
            return False
        self.natural = natural
        return True

    def scale_of(self, module):
        """(C, H, W) of a Scale, in float64."""
        return np.broadcast_to(module.scale.detach().double().numpy(), self.natural).reshape(self.shape)

    def by_channel(self, module):
        """A Scale as one of channels (C,), or None."""
        scale = self.scale_of(module)
        return scale[:, 0, 0] if (scale == scale[:, :1, :1]).all() else None

    def fold(self, module, natural):
        """Take in a linear module, None for none."""
        (channels, height, width), bias = self.shape, getattr(module, "bias", None)
        self.bias = self.bias + (0 if bias is None else bias.detach().double().numpy()[:, None, None])
        if isinstance(module, (nn.Conv1d, nn.Conv2d, Pool)):
            self.convolve(module, natural)
        elif module is None or (isinstance(module, Scale) and self.by_channel(module) is not None):
            each = np.ones(channels) if module is None else self.by_channel(module)
            self.weights, self.corners = np.diag(each)[None, :, None, None], self.at
            self.phases = [np.where(at < 0, -1, 0) for at in self.at]
        else:  # a place's phase is its number
            if isinstance(module, Scale):
                scale = self.scale_of(module).transpose(1, 2, 0).reshape(height * width, channels)
                self.weights = (scale[:, :, None] * np.eye(channels))[:, :, None, None]
                self.corners = self.at
            else:
                weight = module.weight.detach().double().numpy().reshape(-1, *self.shape)
                self.weights = weight.transpose(2, 3, 1, 0).reshape(height * width, channels, 1, 1, -1)
                self.shape, self.corners = placed(natural), [0 * at for at in self.at]
            rows, columns = self.at
            self.phases = [np.where(rows < 0, -1, rows * width), columns]

    def convolve(self, module, natural):
        """Take in a convolution, or pool: a spike at y, with q = y + padding, has the phase q mod stride and reaches `side`
        places up to q / stride."""
        channels = self.shape[0]
        if isinstance(module, Pool):
            kernel, stride, padding = module.kernel, module.stride, module.padding
            weight = np.eye(channels)[:, :, None, None] * np.full(kernel, 1 / prod(kernel) if module.mean else 1)
        else:
            compact = module.weight.detach().double().numpy().reshape(module.out_channels, -1, *(1, *module.kernel_size)[-2:])
            stride, dilation = (1, *module.stride)[-2:], (1, *module.dilation)[-2:]
            reach = [d * (k - 1) + 1 for d, k in zip(dilation, compact.shape[2:], strict=True)]
            within, out = compact.shape[1], module.out_channels // module.groups
            weight = np.zeros((len(compact), channels, *reach))
            for group in range(module.groups):
                rows, columns = slice(group * out, (group + 1) * out), slice(group * within, (group + 1) * within)
                weight[rows, columns, :: dilation[0], :: dilation[1]] = compact[rows]
            padding = (0, *module.padding)[-2:] if not isinstance(module.padding, str) else [
                (size - 1) // 2 if module.padding == "same" else 0 for size in reach]  # fmt: skip
        stride = [min(s, size + 2 * p) for s, size, p in zip(stride, self.shape[1:], padding, strict=True)]  # beyond it alike
        side = max(-(-size // s) for size, s in zip(weight.shape[2:], stride, strict=True))
        full = np.zeros((*weight.shape[:2], side * stride[0], side * stride[1]))
        full[:, :, : weight.shape[2], : weight.shape[3]] = weight
        full = full.reshape(*weight.shape[:2], side, stride[0], side, stride[1])[:, :, ::-1, :, ::-1]
        self.weights = full.transpose(3, 5, 1, 2, 4, 0).reshape(-1, channels, side, side, len(weight))
        reached = [at + p for at, p in zip(self.at, padding, strict=True)]
        self.phases = [np.where(at < 0, -1, q % s * times) for at, q, s, times in zip(
            self.at, reached, stride, (stride[1], 1), strict=True)]  # fmt: skip
        self.corners = [q // s - (side - 1) for q, s in zip(reached, stride, strict=True)]
        self.skipped = [side - 1 - (size - 1 - q % s) // s for q, s, size in zip(reached, stride, weight.shape[2:], strict=True)]
        self.shape = placed(natural)


class Layout:
    """A GraphSNN's nodes, as dicts, in the order in which they run. of: name of a neuron's node -> its node."""

    def __init__(self, model):
        self.model, self.order, self.of = model, [], {}
        self.input = {"kind": NEURONS, "shape": placed(model.input_shape), "natural": model.input_shape, "valued": 1}
        signals = {}  # name -> (node, modules behind it, the shape of each) of all that it sends
        for name, node in model.nodes.items():
            if model.back[name]:
                raise ModelError(f"the edge back from {model.back[name][0]!r} to {name!r} stays with step(): it runs dense")
            arriving = [signal for source in model.sources[name] for signal in signals[source]]
            if isinstance(node, NIRNeuron):
                signals[name] = [(self.neuron(name, node, arriving), [])]
            elif isinstance(node, Ends):
                signals[name] = arriving or [(self.input, [])]
            else:
                if len(arriving) > 1:
                    arriving = [(self.received(arriving, {"kind": RELAY, "valued": 1}), [])]
                signals[name] = [(each, [*behind, (node, model.shapes[name])]) for each, behind in arriving]
        self.received(signals[name], {"kind": OUTPUT})

    def neuron(self, name, node, arriving):
        """The new node of neurons."""
        if node.synapse_leak is not None:
            raise ModelError(f"node {name!r}, with a current of its own (CubaLIF, CubaLI), stays with step(): it runs dense")
        if node.delayed and (node.threshold < 0).any():
            raise ModelError(f"node {name!r}, which fires before it is charged, has thresholds below 0: it runs dense")
        shape, gain = self.model.shapes[name], Scale(node.gain)
        if (node.gain != 1).any():
            arriving = [(each, [*behind, (gain, shape)]) for each, behind in arriving]
        fires = node.threshold is not None
        new = {"kind": NEURONS, "start": node.start} if fires else {"kind": INTEGRATOR, "valued": 1}
        new |= {"neuron": node}
        self.of[name] = self.received(arriving, new)
        return self.of[name]

    def received(self, arriving, new):
        """The new node, with a link from each (node, modules behind it)."""
        links = [self.link(each, behind) for each, behind in arriving]
        shapes = {link.shape for link in links}
        if len(shapes) > 1:
            raise ModelError(f"a sum of signals of other shapes, {', '.join(map(str, shapes))}: it runs dense")
        new |= {"shape": shapes.pop(), "natural": links[0].natural, "bias": sum(link.bias for link in links)}
        more = [{"kind": ADDING, "into": new, "shape": new["shape"], "link": link} for link in links[1:]]
        new["link"] = links[0]
        delayed = "neuron" in new and new["neuron"].delayed  # then it fires before it is charged
        self.order += [new, *more] if delayed else [*more, new]
        return new

    def link(self, source, behind):
        """A Link from a node through modules, behind as many relays as they need."""
        link = Link(source)
        for at, (module, natural) in enumerate(behind):
            if not link.takes(module, natural):
                relay = self.received([(source, behind[:at])], {"kind": RELAY, "valued": 1})
                return self.link(relay, behind[at:])
        if link.weights is None:
            link.fold(None, link.natural)
        return link


def lay_out(model):
    """(the Tables of a GraphSNN, name of a neuron's node -> its number). Raises ModelError for what stays with step()."""
    layout = Layout(model)
    firing = [layout.of[name] for name in model.spiking]
    nodes = [layout.input, *firing, *(node for node in layout.order if all(node is not one for one in firing))]
    number = {id(node): n for n, node in enumerate(nodes)}
    table, constants = np.zeros(len(nodes), NODE), np.tile(np.float32([1, 1, 0, LOWEST, HIGHEST]), (len(nodes), 1))
    more, weights, places = [np.zeros(0, np.float32)], [], [np.zeros(0, np.int32)]

    def keep(values):
        """Where these constants begin."""
        more.append(np.ascontiguousarray(values, np.float32).ravel())
        return constants.size + sum(each.size for each in more[:-1])

    first_weight = first_place = 0
    for n, node in enumerate(nodes):
        row, shape = table[n], node["shape"]
        row["kind"], row["valued"] = node["kind"], node.get("valued", 0)
        row["channels"], row["height"], row["width"] = shape
        bias, always = np.broadcast_to(node.get("bias", 0.0), shape), False
        if "neuron" in node:
            bias, always = neurons(node, bias, row, constants[n], keep)
        if bias.any() or always:
            row["first_bias"] = keep(bias.transpose(1, 2, 0) if row["first_own"] else bias[:, 0, 0])
        if n == 0:
            continue
        link = node["link"]
        row["source"], row["link"], row["into"] = number[id(link.source)], PLACED, number.get(id(node.get("into")), 0)
        values = (link.weights * link.factor).astype(np.float32)
        phases, channels, side, _, out = values.shape
        length = -(-side * out // 4) * 4
        values = np.pad(values.reshape(phases, channels, side, side * out), ((0, 0),) * 3 + ((0, length - side * out),))
        together = max(1, NEAR // (side * length))
        row["side"], row["row"], row["first_weight"], row["first_place"] = side, length, first_weight, first_place
        row["group"] = channels if link.weights.shape[0] > 1 or values.size <= CACHE else min(channels, together)
        weights.append(np.pad(values.ravel(), (0, -values.size % LINE)))
        first_weight += weights[-1].size
        axes = zip(link.phases, link.corners, link.skipped or [0 * at for at in link.at], strict=True)
        places.append(np.concatenate([np.stack(each, 1).ravel() for each in axes]))
        first_place += places[-1].size
    if first_weight + SPARE > LARGEST:
        raise ModelError(f"the kernel numbers at most {LARGEST:,} weights, not {first_weight:,}: it runs dense")
    weights = np.concatenate(
        [*weights, np.zeros(SPARE, np.float32)], out=line_of_bytes(4 * (first_weight + SPARE)).view(np.float32)
    )
    header = {
        "layers": 1 + len(firing), "nodes": len(nodes), "forward": len(nodes) - 1, "feedback": 0,
        "output": number[id(layout.order[-1])], "decoded": -1, "colour": 0, "counting": 0,
        "rows": max(prod(node["shape"]) for node in nodes),
    }  # fmt: skip
    order = np.array([number[id(node)] for node in layout.order], np.int32)
    tables = Tables(
        header, table, order, np.concatenate([constants.ravel(), *more]), weights, ["input", *model.spiking],
        [node["shape"] for node in nodes], {}, [], len(nodes), np.concatenate(places).astype(np.int32),
    )  # fmt: skip
    return tables, {name: number[id(node)] for name, node in layout.of.items()}


def settings_for(model, timesteps):
    """The Settings of a GraphSNN."""
    delayed = any(its.delayed for its in model.modules() if isinstance(its, NIRNeuron))
    return Settings(immediate=not delayed, decoded_scale=1, logits_scale=1, timesteps=timesteps)


def neurons(node, bias, row, constants, keep):
    """Fill in the constants of a node of neurons, in its row and those of all; returns (its biases, whether they are to be added
    even where they are 0: neurons may spike that nothing reaches)."""
    its, shape = node["neuron"], node["shape"]

    def of(values):
        return np.broadcast_to(values.numpy(), node["natural"]).reshape(shape)

    fires = its.threshold is not None
    found = [of(its.threshold if fires else its.leak * 0), of(its.leak), of(its.reset if fires else its.leak * 0)]
    bias = bias + of(its.drive)
    own = any((values != values.flat[0]).any() for values in found) or (bias != bias[:, :1, :1]).any()
    theta, leak, reset = (values.flat[0] for values in found)
    constants[:3] = theta, leak if (found[1] == leak).all() else 0, node.get("start", 0) * theta
    if own and node.get("start"):
        raise ModelError("neurons with values of their own that begin above 0 stay with step(): it runs dense")
    if own:
        row["first_own"] = keep(np.stack([values.transpose(1, 2, 0) for values in found]))
    if fires and not its.subtract:
        row["first_reset"] = keep([reset])
    return bias, fires and found[0].min() < 0


class GraphEngine:
    """Runs a GraphSNN event by event, in torch.get_num_threads() threads; its tables are laid out again when the model has
    changed as fingerprint() tells, or after refresh(). Raises ModelError for a graph that stays with step(), and without a C
    compiler."""

    def __init__(self, model):
        library("float32")
        self.model = model
        self.refresh()
        self.rooms()

    def __getstate__(self):
        return {"model": self.model, "_made_of": None, "_rooms": None, "_tensors": []}

    def rooms(self):
        """The Rooms of the model as it is now."""
        made_of, tensors = fingerprint(self.model)
        if made_of != self._made_of:
            tables, self.numbers = lay_out(self.model)
            self._rooms, self._made_of, self._tensors = Rooms(library("float32"), tables), made_of, tensors
        return self._rooms

    def refresh(self):
        """Lay the tables out again at the next run."""
        self._rooms, self._made_of, self._tensors = None, None, []

    def __call__(self, recordings, timesteps, asked):
        """(logits after each timestep (T, B, outputs), spikes of each node that spikes (T, B), what is recorded) of recordings,
        each (first, events, sizes): see Run in network.h. asked: see GraphSNN.asked."""
        rooms, batch = self.rooms(), len(recordings)
        tables, settings = rooms.tables, settings_for(self.model, timesteps)
        logits = np.zeros((batch, timesteps, prod(tables.shapes[tables.header["output"]])), np.float32)
        counts, runs = np.zeros((batch, timesteps, len(tables.nodes)), np.int32), np.zeros(batch, np.dtype(Run))
        runs["steps"] = timesteps
        runs["logits"], runs["counts"] = (
            values.ctypes.data + np.arange(batch) * values.strides[0] for values in (logits, counts)
        )
        for one, (first, events, sizes) in zip(runs, recordings, strict=True):
            one["first"], one["events"] = first.ctypes.data, events.ctypes.data
            one["sizes"] = 0 if sizes is None else sizes.ctypes.data
        recorded = {name: {kind: [] for kind in kinds} for name, kinds in asked.items()}
        if not asked:
            rooms.run(runs, settings)
        for one in runs if asked else ():
            self.record(rooms, one, settings, timesteps, recorded)
        for name, kinds in recorded.items():
            for kind, values in kinds.items():
                values = torch.from_numpy(np.stack(values)).reshape(batch, timesteps, -1).transpose(0, 1)
                values = in_space(values, tables.shapes[self.numbers[name]])
                kinds[kind] = values.reshape(timesteps, batch, *self.model.shapes[name])
        spikes = {name: torch.from_numpy(counts[..., n].T.astype(np.float32)) for n, name in enumerate(tables.names) if n}
        return torch.from_numpy(np.ascontiguousarray(logits.swapaxes(0, 1))), spikes, recorded

    def record(self, rooms, one, settings, timesteps, recorded):
        """Run one recording, timestep by timestep, and add what is asked for."""
        room, nodes = rooms.new(settings), len(rooms.tables.nodes)
        outputs = rooms.tables.shapes[rooms.tables.header["output"]]
        rooms.library.network_reset(room.address, 0, 0, 0)
        step = np.array([one])
        step["state"], step["steps"] = room.address, 1
        for _ in range(timesteps):
            rooms.library.network_runs(room.address, step.ctypes.data, 1)
            rooms.library.network_settle(room.address)
            for name, kinds in recorded.items():
                n = self.numbers[name]
                part, (channels, *sides) = room.parts[n], rooms.tables.shapes[n]
                if "membrane" in kinds:
                    kinds["membrane"].append(room.potentials(n).copy())
                if "spikes" in kinds:
                    words = room.at(part.spikes, 4 * prod(sides) * part.words, np.uint8).reshape(prod(sides), -1)
                    bits = np.unpackbits(words, axis=1, count=channels, bitorder="little")
                    kinds["spikes"].append(bits.ravel().astype(bool))
            step["first"] += 4
            step["logits"] += 4 * prod(outputs)
            step["counts"] += 4 * nodes
