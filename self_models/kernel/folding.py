"""A connection's linear modules folded into one set of weights: a spike then adds rows of weights to the window that it reaches.

The weights depend on a spike's place in its block, the phase (network/wiring.py says what a block is). Before a linear layer each
place is a phase of its own, and the window is one place wide.
"""

import copy
from math import prod

import numpy as np
import torch
from torch import nn

from self_models.network.known import Connection

AT_ONCE = 2**23  # numbers of a layer's signal while it is folded, in float64; a part of its weights after the other
CACHE, NEAR = 2**18, 3 * 2**16  # floats of a connection whose weights stay in the cache, and of a part of a larger one


class Folded(Connection):
    """A Connection with its folded weights."""

    @property
    def phases(self):
        return self.source_shape[1] * self.source_shape[2] if self.is_linear else 4**self.halvings

    @property
    def row(self):
        """Numbers of one row of a window, with zeros at its end: fours are added faster than ones."""
        return -(-self.side * self.target_shape[0] // 4) * 4

    @property
    def size(self):
        """How many folded weights there are, with these zeros."""
        return self.phases * self.source_shape[0] * self.side * self.row

    @property
    def group(self):
        """Channels of the source whose weights stay in the cache together, where each place uses the same ones."""
        channels, together = self.source_shape[0], max(1, NEAR // (self.side * self.row))
        return channels if self.phases > 1 or self.size <= CACHE else min(channels, together)

    @property
    def met(self):
        """How many spikes of a step may share a window, at the most."""
        places = prod(self.source_shape[1:]) if self.is_linear else 2**self.halvings
        return self.source_shape[0] * places

    @torch.inference_mode(False)  # folding takes gradients, whatever the caller is about
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
    def _around(self):
        """Shape (C, H, W) of a signal in which a block lies far enough from the border."""
        blocks, block = 2 * self._margin + 1, 2**self.halvings
        return self.source_shape[0], blocks * block, blocks * block

    @property
    def _margin(self):
        return -(-self.padding // 2**self.doublings)  # blocks

    @property
    def _part(self):
        """(signals that fold it at once, numbers that each takes at most): a convolution in float64 writes out every place's
        k x k inputs."""
        signals, shape = (self.target_shape[0], self.source_shape) if self.is_linear else (self.source_shape[0], self._around)
        sizes = self._replace(source_shape=shape).sizes()
        numbers = max(map(prod, sizes))
        for module, before, after in zip(self.modules, sizes, sizes[1:], strict=False):
            if isinstance(module, nn.Conv2d):
                numbers = max(numbers, before[0] * prod(module.kernel_size) * prod(after[1:]))
        return min(signals, max(1, AT_ONCE // numbers)), numbers

    def _fold_window(self, modules, folded):
        """The modules' answer to one spike of each channel at each phase of a block far enough from the border."""
        block, corner = 2**self.halvings, self._margin * 2**self.doublings - self.padding
        for part in torch.arange(self.source_shape[0]).split(self._part[0]):
            for phase, (y, x) in enumerate(np.ndindex(block, block)):
                impulses = torch.zeros(len(part), *self._around).double()
                impulses[torch.arange(len(part)), part, self._margin * block + y, self._margin * block + x] = 1
                window = modules(impulses)[..., corner : corner + self.side, corner : corner + self.side]
                rows = window.permute(0, 2, 3, 1).flatten(2).float().numpy()
                folded[phase, part[0] : part[-1] + 1, :, : rows.shape[2]] = rows

    def _fold_linear(self, modules, folded):
        """Each output's weights carried back to the source, by the transposed map."""
        linear, before = modules[-1], modules[:-1]
        for rows in torch.arange(linear.out_features).split(self._part[0]):
            spikes = torch.zeros(len(rows), *self.source_shape).double().requires_grad_()
            with torch.enable_grad():
                (back,) = torch.autograd.grad(before(spikes).flatten(1), spikes, linear.weight[rows])
            folded[:, :, 0, rows[0] : rows[-1] + 1] = back.permute(2, 3, 1, 0).flatten(0, 1).numpy()
