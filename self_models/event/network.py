"""A trained SNN as flat arrays for the event engine: one connection for each spiking layer, its linear layers folded.

The 2x2 layers (D, A, U) carry no neurons, so each folds into the layer after it: one spike then adds one row of weights to
the membranes it reaches. Let d layers halve the image and u double it before a k x k convolution. A spike at (y, x) lies in
block (y // 2^d, x // 2^d) and reaches a window of (2^u + k - 1)^2 places; its weights depend on its place in its block, the
phase. Before a linear layer each place is a phase of its own, and the window is one place wide.
"""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from self_models.event.kernels import SOURCE, WORD, Net, padded_places
from self_models.network.neurons import SpikingNeuron
from self_models.network.stages import encoder_parts, list_layers

ROWS_AT_ONCE = 256  # of a linear layer, while it is folded


class Connection(NamedTuple):
    """Linear modules from one node to another, each node by its number and (C, H, W)."""

    source: int
    source_shape: tuple
    target: int
    modules: list
    target_shape: tuple

    @property
    def is_linear(self):
        return isinstance(self.modules[-1], nn.Linear)

    @property
    def halvings(self):
        return sum(is_halving(layer) for layer in self.modules)

    @property
    def doublings(self):
        return sum(is_doubling(layer) for layer in self.modules)

    @property
    def padding(self):
        last = self.modules[-1]
        return 0 if self.is_linear or is_halving(last) or is_doubling(last) else last.kernel_size[0] // 2

    @property
    def side(self):
        """Side of the window that one spike reaches, in places."""
        return 1 if self.is_linear else 2**self.doublings + 2 * self.padding

    @property
    def phases(self):
        return self.source_shape[1] * self.source_shape[2] if self.is_linear else 4**self.halvings

    @property
    def size(self):
        """Number of folded weights."""
        return self.phases * self.source_shape[0] * self.side**2 * self.target_shape[0]

    @property
    def row(self):
        """Floats of one row of a window, with zeros at its end: fours are added faster than ones."""
        return -(-self.side * self.target_shape[0] // 4) * 4

    @property
    def padded_size(self):
        """Number of folded weights with these zeros."""
        return self.phases * self.source_shape[0] * self.side * self.row

    def tables(self):
        """(phase, row, column) of each source place, int32 (H W,)."""
        (_, height, width), block = self.source_shape, 2**self.halvings
        y, x = (grid.ravel() for grid in np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
        lost = (y // block >= height // block) | (x // block >= width // block)  # where halving drops an odd row or column
        if self.is_linear:
            phase, row, column = y * width + x, 0 * y, 0 * x
        else:
            phase = (y % block) * block + x % block
            row, column = ((at // block) * 2**self.doublings - self.padding for at in (y, x))
        return [table.astype(np.int32) for table in (np.where(lost, -1, phase), row, column)]

    @torch.no_grad()
    def weights(self):
        """Folded weights (phase, channel, window row, window column, target channel), float32 but added up in float64."""
        modules = copy.deepcopy(nn.Sequential(*self.modules)).double()
        return self._linear_weights(modules) if self.is_linear else self._window_weights(modules)

    def padded_weights(self):
        """The same with each row's zeros."""
        rows = self.weights().reshape(-1, self.side * self.target_shape[0])
        return np.pad(rows, ((0, 0), (0, self.row - rows.shape[1]))).ravel()

    def _window_weights(self, modules):
        """The modules' answer to one spike of each channel at each phase of a block far enough from the border."""
        channels, block = self.source_shape[0], 2**self.halvings
        margin = -(-self.padding // 2**self.doublings)  # blocks
        impulses = torch.zeros(block, block, channels, channels, (2 * margin + 1) * block, (2 * margin + 1) * block).double()
        each = torch.arange(channels)
        for y in range(block):
            for x in range(block):
                impulses[y, x, each, each, margin * block + y, margin * block + x] = 1
        corner = margin * 2**self.doublings - self.padding
        window = modules(impulses.flatten(0, 2))[..., corner : corner + self.side, corner : corner + self.side]
        return window.permute(0, 2, 3, 1).float().numpy().ravel()

    def _linear_weights(self, modules):
        """Each output's weights carried back to the source, by the transposed map."""
        linear, before = modules[-1], modules[:-1]
        folded = np.empty((self.phases, self.source_shape[0], linear.out_features), np.float32)
        for rows in torch.arange(linear.out_features).split(ROWS_AT_ONCE):
            spikes = torch.zeros(len(rows), *self.source_shape).double().requires_grad_()
            with torch.enable_grad():
                (back,) = torch.autograd.grad(before(spikes).flatten(1), spikes, linear.weight[rows])
            folded[:, :, rows[0] : rows[-1] + 1] = back.permute(2, 3, 1, 0).flatten(0, 1).numpy()
        return folded.ravel()


def is_halving(layer):
    """Whether a layer halves height and width: a 2x2 pool or strided convolution."""
    return isinstance(layer, nn.AvgPool2d) or (isinstance(layer, nn.Conv2d) and layer.stride == (2, 2))


def is_doubling(layer):
    """Whether a layer doubles height and width."""
    return isinstance(layer, nn.ConvTranspose2d) and layer.stride == (2, 2)


class Layout(NamedTuple):
    """names: of the nodes that spike, 'input' first; shapes: (C, H, W) of every node; connections; signals: node -> shapes of
    what goes into each module of its connection; v_size: membranes of all nodes; and the Net."""

    names: list
    shapes: list
    connections: list
    signals: dict
    v_size: int
    net: Net


@torch.inference_mode(False)  # folding takes gradients, whatever the caller is about
@torch.no_grad()
def lay_out(model):
    """The Layout of an SNN, in evaluation, with its present weights, thresholds and leaks."""
    neurons = model.neurons()
    number = {name: n for n, name in enumerate(neurons, 1)}
    shapes, connections, signals = {0: model.image_shape}, [], {}
    output = len(neurons) + 1
    decoded = output + 1 if model.has_feedback else -1
    waiting = output + 2 if model.has_feedback and model.feedback_interval > 1 else -1
    drive = output + 3 if model.gate.completes else -1

    def walk(stage, layers, source, chain, end):
        """Connections of a stage's layers; returns the node they end in and the linear modules after it."""
        for position, module in layers:
            if isinstance(module, SpikingNeuron):
                source, chain = connect(source, number[f"{stage}.{position}"], chain), []
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.AvgPool2d | nn.Linear):
                chain = [*chain, module]
        return (connect(source, end, chain), []) if chain and end is not None else (source, chain)

    def connect(source, target, chain):
        signal, signals[target] = torch.zeros(1, *shapes[source]), []
        for module in chain:
            signals[target].append(in_space(signal))
            signal = module(signal.flatten(1) if isinstance(module, nn.Linear) else signal)
        shapes[target] = in_space(signal)
        connections.append(Connection(source, shapes[source], target, chain, shapes[target]))
        return target

    before_fork, after_fork = encoder_parts(model.features)
    forked, rest = walk("features", before_fork, 0, [], None)
    walk("classifier", list_layers(model.classifier), *walk("features", after_fork, forked, rest, None), output)
    forward = [connection.target for connection in connections]
    if model.has_feedback:
        shapes[decoded] = model.image_shape
        if waiting > 0:
            shapes[waiting] = shapes[forked]
        walk("generate", list_layers(model.generate), waiting if waiting > 0 else forked, rest, decoded)
    feedback = [connection.target for connection in connections[len(forward) :]]
    if drive > 0:
        shapes[drive] = shapes[forward[0]]
    count = max(shapes) + 1
    shapes = [shapes.get(n, (0, 0, 0)) for n in range(count)]
    special = {"forked": forked, "output": output, "decoded": decoded, "waiting": waiting, "drive": drive}
    net = _net(model, shapes, connections, forward=np.array(forward), feedback=np.array(feedback, np.int64), **special)
    v_size = sum(int(np.prod(shape)) for shape in shapes)
    return Layout(["input", *neurons], shapes, connections, signals, v_size, net)


def in_space(signal):
    """Shape (C, H, W) of a signal (1, C, H, W) or (1, N)."""
    return (*signal.shape[1:], 1, 1)[:3]


def _net(model, shapes, connections, **special):
    nodes = np.zeros((len(shapes), 12), np.int64)
    first_v = first_place = 0
    for node, (channels, height, width) in zip(nodes, shapes, strict=True):
        node[:SOURCE] = height, width, channels, first_v, first_place
        first_v += channels * height * width
        first_place += padded_places(height * width)
    weights = np.zeros(sum(connection.padded_size for connection in connections) + WORD, np.float32)
    tables, first_w, first_entry = [], 0, 0
    for connection in connections:
        nodes[connection.target, SOURCE:] = (
            connection.source, connection.side, connection.source_shape[0], connection.row, first_w, first_entry,
            connection.source in (0, special["waiting"]),
        )  # fmt: skip
        weights[first_w : first_w + connection.padded_size] = connection.padded_weights()
        tables.append(connection.tables())
        first_w += connection.padded_size
        first_entry += len(tables[-1][0])
    if special["drive"] > 0:
        nodes[special["drive"], SOURCE:] = nodes[connections[0].target, SOURCE:]
    neurons = list(model.neurons().values())
    threshold, leak = (np.ones(len(shapes), np.float32) for _ in range(2))
    for n, neuron in enumerate(neurons, 1):
        threshold[n], leak[n] = neuron.threshold.item(), neuron.leak.item()
    phase, row, column = (np.concatenate(parts) for parts in zip(*tables, strict=True))
    immediate = model.settings["update"] == "immediate"
    return Net(nodes, threshold, leak, immediate=immediate, weights=weights, phase=phase, row=row, column=column,
               **special)  # fmt: skip
