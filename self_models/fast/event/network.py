"""A model laid out for the kernels of the event engine: its nodes, where each one's spikes go, and with which weights.

The linear modules of a connection (network/wiring.py) are folded into one: a spike then adds one row of weights to the membranes
of the window that it reaches. The weights depend on its place in its block, the phase. Before a linear layer each place is a
phase of its own, and the window is one place wide.
"""

import copy
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from self_models.basics.errors import ModelError
from self_models.fast.event.compiled.nets import NODE, WORD, Net, padded_places, state_sizes
from self_models.network.neurons import CountingMaxPool
from self_models.network.wiring import Connection, wire

AT_ONCE = 2**23  # numbers of a layer's signal while it is folded, in float64; a part of its weights after the other
CACHE, NEAR = 2**18, 3 * 2**16  # floats of a connection whose weights stay in the cache, and of a part of a larger one
LARGEST = 2**31 - 1  # neurons of a layer: places, channels and phases of one are numbered in 32 bits, all else in 64


class Folded(Connection):
    """A Connection with its folded weights."""

    @property
    def phases(self):
        return self.source_shape[1] * self.source_shape[2] if self.is_linear else 4**self.halvings

    @property
    def row(self):
        """Floats of one row of a window, with zeros at its end: fours are added faster than ones."""
        return -(-self.side * self.target_shape[0] // 4) * 4

    @property
    def size(self):
        """Number of folded weights, with these zeros."""
        return self.phases * self.source_shape[0] * self.side * self.row

    @property
    def group(self):
        """Channels of the source whose weights stay in the cache, where each place uses the same ones."""
        channels, together = self.source_shape[0], max(1, NEAR // (self.side * self.row))
        return channels if self.phases > 1 or self.size <= CACHE else min(channels, together)

    def tables(self):
        """(phase, row, column) of each source place, int32 (H W,)."""
        (_, height, width), block = self.source_shape, 2**self.halvings
        y, x = (grid.ravel() for grid in np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
        (rows, lost_rows), (columns, lost_columns) = self.corners(height), self.corners(width)
        if self.is_linear:
            phase, row, column = y * width + x, 0 * y, 0 * x
        else:
            phase, row, column = (y % block) * block + x % block, rows[y], columns[x]
        phase = np.where(lost_rows[y] | lost_columns[x], -1, phase)
        return [table.astype(np.int32) for table in (phase, row, column)]

    @torch.no_grad()
    def weights(self):
        """Folded weights (phase, channel, window row, window column by target channel, with each row's zeros), float32 but added
        up in float64."""
        modules = copy.deepcopy(nn.Sequential(*self.modules)).double()
        modules[-1].bias = None  # which is no weight of a spike
        folded = np.zeros((self.phases, self.source_shape[0], self.side, self.row), np.float32)
        (self._fold_linear if self.is_linear else self._fold_window)(modules, folded)
        return folded

    @property
    def around(self):
        """Shape (C, H, W) of a signal in which a block lies far enough from the border."""
        blocks, block = 2 * self._margin + 1, 2**self.halvings
        return self.source_shape[0], blocks * block, blocks * block

    @property
    def _margin(self):
        return -(-self.padding // 2**self.doublings)  # blocks

    @property
    def part(self):
        """(signals that fold it at once, numbers that each takes at most): a convolution in float64 writes out every place's
        k x k inputs."""
        signals, shape = (self.target_shape[0], self.source_shape) if self.is_linear else (self.source_shape[0], self.around)
        sizes = self._replace(source_shape=shape).sizes()
        numbers = max(map(prod, sizes))
        for module, before, after in zip(self.modules, sizes, sizes[1:], strict=False):
            if isinstance(module, nn.Conv2d):
                numbers = max(numbers, before[0] * prod(module.kernel_size) * prod(after[1:]))
        return min(signals, max(1, AT_ONCE // numbers)), numbers

    def _fold_window(self, modules, folded):
        """The modules' answer to one spike of each channel at each phase of a block far enough from the border."""
        block, corner = 2**self.halvings, self._margin * 2**self.doublings - self.padding
        for part in torch.arange(self.source_shape[0]).split(self.part[0]):
            for phase, (y, x) in enumerate(np.ndindex(block, block)):
                impulses = torch.zeros(len(part), *self.around).double()
                impulses[torch.arange(len(part)), part, self._margin * block + y, self._margin * block + x] = 1
                window = modules(impulses)[..., corner : corner + self.side, corner : corner + self.side]
                rows = window.permute(0, 2, 3, 1).flatten(2).float().numpy()
                folded[phase, part[0] : part[-1] + 1, :, : rows.shape[2]] = rows

    def _fold_linear(self, modules, folded):
        """Each output's weights carried back to the source, by the transposed map."""
        linear, before = modules[-1], modules[:-1]
        for rows in torch.arange(linear.out_features).split(self.part[0]):
            spikes = torch.zeros(len(rows), *self.source_shape).double().requires_grad_()
            with torch.enable_grad():
                (back,) = torch.autograd.grad(before(spikes).flatten(1), spikes, linear.weight[rows])
            folded[:, :, 0, rows[0] : rows[-1] + 1] = back.permute(2, 3, 1, 0).flatten(0, 1).numpy()


class Layout(NamedTuple):
    """names: of the Wiring; pools: its Pools; shapes: (C, H, W) of every node of the Net; connections: Folded; and the Net."""

    names: list
    pools: list
    shapes: list
    connections: list
    net: Net


def nodes_of(model):
    """(Wiring, shapes of the Net's nodes, connections as Folded, the Net's numbers of nodes by name), without taking memory."""
    wiring = wire(model)
    shapes, forked, waiting = list(wiring.shapes), wiring.forked, -1
    if model.has_feedback and model.feedback_interval > 1:
        waiting = len(shapes)
        shapes.append(shapes[forked])
    feedback = [one._replace(source=waiting) if waiting > 0 and one.source == forked else one for one in wiring.feedback]
    special = {name: np.array([one.target for one in part], np.int64)
               for name, part in (("forward", wiring.forward), ("feedback", feedback))}  # fmt: skip
    special |= {"forked": forked, "output": wiring.output, "decoded": wiring.decoded, "waiting": waiting}
    return wiring, shapes, [Folded(*one) for one in (*wiring.forward, *feedback)], special


@torch.inference_mode(False)  # folding takes gradients, whatever the caller is about
@torch.no_grad()
def lay_out(model):
    """The Layout of an SNN, in evaluation, with its present weights, thresholds and leaks."""
    wiring, shapes, connections, special = nodes_of(model)
    net = _net(model, wiring, shapes, connections, **special)
    return Layout(wiring.names, wiring.pools, shapes, connections, net)


class Memory(NamedTuple):
    """Bytes that the engine takes for a model: weights, folded, with their tables; copy: of the model's own, see layouts.py;
    folding: more for a while, at the most; state: of each thread."""

    weights: int
    copy: int
    folding: int
    state: int

    def total(self, states):
        """With this many states at once, which come when the folding is done."""
        return self.weights + self.copy + max(self.folding, states * self.state)


def memory_of(model):
    """The Memory of an SNN, before any of it is taken. Raises ModelError for a layer whose neurons the engine cannot number."""
    wiring, shapes, connections, _ = nodes_of(model)
    neurons = max(map(prod, shapes))
    if neurons > LARGEST:
        raise ModelError(f"the event engine numbers at most {LARGEST:,} neurons of a layer, not {neurons:,}: use --engine dense")
    biases = sum(connection.bias.numel() for connection in connections if connection.bias is not None)
    floats = sum(connection.size for connection in connections) + biases + 2 * WORD
    places = sum(prod(connection.source_shape[1:]) for connection in connections)
    state = sum(size * np.dtype(kind).itemsize for size, kind in state_sizes(nodes_with_pools(model, wiring, shapes)).values())
    copy = sum(value.nbytes for value in model.parameters())
    return Memory(4 * floats + 12 * places, copy, max(map(_folding, connections)), state)


def _folding(connection):
    """Bytes that hold one connection while it is folded, at the most: its weights, its modules in float32 and float64, and
    signals on their way through them, with copies."""
    parameters = sum(value.numel() for module in connection.modules for value in module.parameters())
    return 4 * connection.size + 12 * parameters + 3 * 8 * prod(connection.part)


def node_table(shapes):
    """Net.nodes as far as they follow from the nodes' shapes."""
    nodes = np.zeros(len(shapes), NODE)
    first_v = first_place = 0
    for node, (channels, height, width) in zip(nodes, shapes, strict=True):
        node["height"], node["width"], node["channels"] = height, width, channels
        node["first_v"], node["first_place"] = first_v, first_place
        first_v += channels * height * width
        first_place += padded_places(height * width)
    return nodes


def nodes_with_pools(model, wiring, shapes):
    """node_table, and which nodes are maximum pools of which others."""
    nodes = node_table(shapes)
    for pool in wiring.pools:
        nodes["pool"][pool.source] = pool.target
        nodes["counts"][pool.target] = isinstance(model.get_submodule(pool.name), CountingMaxPool)
    for node, depth in wiring.depths.items():
        nodes["depth"][node] = depth
    return nodes


def lay_connections(nodes, connections, valued=()):
    """A Net's (weights, phase, row, column) for these of its nodes, each with the Folded connection into it, noted in it.
    valued: nodes whose events have values other than 1."""
    weights, tables = np.zeros(sum(one.size for one in connections) + WORD, np.float32), [np.zeros((3, 0), np.int32)]
    first_w = first_entry = 0
    for node, one in zip(nodes, connections, strict=True):
        node["source"], node["valued"] = one.source, one.source in valued
        node["side"], node["fan"], node["group"], node["row"] = one.side, one.source_shape[0], one.group, one.row
        node["first_w"], node["first_entry"] = first_w, first_entry
        weights[first_w : first_w + one.size] = one.weights().ravel()
        tables.append(one.tables())
        first_w += one.size
        first_entry += len(tables[-1][0])
    return weights, *np.concatenate(tables, 1)


def _net(model, wiring, shapes, connections, **special):
    nodes, biases = nodes_with_pools(model, wiring, shapes), [np.zeros(WORD, np.float32)]
    laid = lay_connections([nodes[one.target] for one in connections], connections, valued=(0, special["waiting"]))
    for one in connections:
        if one.bias is not None:
            nodes["first_bias"][one.target] = sum(map(len, biases))
            biases.append(one.bias.detach().float().numpy())
    threshold, leak, start, floor = (np.full(len(shapes), value, np.float32) for value in (1, 1, 0, -np.inf))
    leak[special["output"]] = model.settings["output_leak"]
    for n, neuron in enumerate(model.neurons().values(), 1):
        threshold[n], leak[n] = neuron.threshold.item(), neuron.leak.item()
        start[n] = float(neuron.rest)
        floor[n] = -np.inf if neuron.floor is None else (-neuron.floor * neuron.threshold).item()
    immediate, bias = model.settings["update"] != "delayed", np.concatenate(biases)
    return Net(nodes, threshold, leak, start, floor, bias, immediate, *laid, **special)
