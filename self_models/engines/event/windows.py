"""A chain of linear modules as one map: where a spike's window of weights lies, and which weights it has.

Along rows, and along columns, places whose windows differ by nothing but where they lie share a set of weights; where a module in
between cuts a window off at its border, the places near that border have sets of their own. The chain's own end cuts nothing off:
a window may stick out there.
"""

import functools
from collections import Counter
from itertools import pairwise
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from self_models.layers.scale import Scale
from self_models.runtime.chains import AxisReach, Chain, places_reached

AT_ONCE = 2**22  # numbers of a window's signal while it is folded, in float64


class WindowedChain(Chain):
    """A Chain that folds into windows of weights. ways: of each row, then of each column, its way through the chain: (first,
    count) of the places that it reaches, before the first module and after each, or None where it reaches nothing."""

    def __init__(self, modules, shapes):
        super().__init__(modules, shapes)
        self.by_place = [
            isinstance(module, Scale) and self._by_place(n)
            for n, module in enumerate(self.modules)
        ]
        moving = [
            n
            for n, module in enumerate(self.modules)
            if isinstance(module, nn.Linear) or hasattr(module, "kernel_size")
        ]
        self.last = (
            moving[-1] if moving and not any(self.by_place) else -1
        )  # behind it nothing asks where its border is

    @classmethod
    def of(cls, chain):
        """The same chain of a graph's Link, with windows."""
        return cls(chain.modules, chain.shapes)

    def part(self, first, last):
        """Modules first to last - 1."""
        return WindowedChain(self.modules[first:last], self.shapes[first : last + 1])

    def scaled(self, scale):
        """The same, times a scale, a tensor of one value or one for each neuron (C, H, W)."""
        return WindowedChain([*self.modules, Scale(scale)], [*self.shapes, self.after])

    @property
    def factor(self):
        """What it multiplies each value by, where it does nothing else; else None."""
        scales = [
            module.scale
            for module in self.modules
            if isinstance(module, Scale) and module.scale.numel() == 1
        ]
        return prod(scale.item() for scale in scales) if len(scales) == len(self.modules) else None

    @torch.no_grad()
    def constant(self, counted):
        """What comes out where nothing comes in, float64 (C,), or (C, H, W) where it differs between places; None for no bias.
        counted: of each module whether its bias counts."""
        biases = [
            getattr(module, "bias", None) if counts else None
            for module, counts in zip(self.modules, counted, strict=True)
        ]
        if all(bias is None for bias in biases):
            return None
        signal = torch.zeros(1, *self.before, dtype=torch.float64)
        for n, bias in enumerate(biases):
            signal = self._through(
                n, signal, *([(0, size) for size in shape[1:]] for shape in self.shapes[n : n + 2])
            )
            signal = signal if bias is None else signal + bias.double().view(-1, 1, 1)
        values = signal[0].numpy()
        return values[:, 0, 0] if (values == values[:, :1, :1]).all() else values

    @functools.cached_property
    def ways(self):
        """Ways of rows, and of columns."""
        return [[self._way(at, axis) for at in range(self.before[axis])] for axis in (1, 2)]

    def _way(self, at, axis):
        places, ranges = np.array([at]), [(at, 1)]
        for n, module in enumerate(self.modules):
            places = places_reached(module, places, axis - 3)
            inside = places[(places >= 0) & (places < self.shapes[n + 1][axis])]
            places = places if 0 <= self.last <= n else inside
            if not len(inside):
                return None
            ranges.append((int(places[0]), int(places[-1] - places[0] + 1)))
        return tuple(ranges)

    def _kind(self, way, axis):
        """What two places with one set of weights have in common."""
        kind = []
        for n, ((first, count), (then, more)) in enumerate(pairwise(way)):
            module = self.modules[n]
            step = AxisReach.along(module, axis - 3) if hasattr(module, "kernel_size") else None
            if step:
                at = then - first * step.stride if step.transposed else then * step.stride - first
                is_alike = count == 1 and isinstance(
                    module, nn.AvgPool2d
                )  # all places of a window have one weight
                kind.append((None if is_alike else at, count, more))
            elif isinstance(module, nn.Linear) or self.by_place[n]:
                kind.append((first, count))
        return tuple(kind)

    def _by_place(self, n):
        """Whether a Scale, number n of the modules, differs between the places of a channel."""
        scale = self._scale(n)
        return bool((scale != scale[:, :1, :1]).any())

    def _scale(self, n):
        """(C, H, W) of a Scale, number n of the modules, in float64."""
        scale, shape = self.modules[n].scale.detach().double(), self.shapes[n]
        return scale.reshape(shape if scale.numel() == prod(shape) else (-1, 1, 1)).expand(shape)

    @functools.cached_property
    def sets(self):
        """(number of each row's set of weights, -1 for none; of each column's; a place of each set of rows; of columns)"""
        numbers, examples = [], []
        for axis, ways in enumerate(self.ways, 1):
            kinds = {}
            numbers.append(
                np.array(
                    [
                        -1
                        if way is None
                        else kinds.setdefault(self._kind(way, axis), (len(kinds), at))[0]
                        for at, way in enumerate(ways)
                    ]
                )
            )
            examples.append([at for _, at in kinds.values()])
        return (*numbers, *examples)

    @functools.cached_property
    def side(self):
        """Side of the window of a spike, in places."""
        return max((way[-1][1] for ways in self.ways for way in ways if way), default=1)

    @property
    def row(self):
        """Numbers of one row of a window, with zeros at its end: fours are added faster than ones."""
        return -(-self.side * self.after[0] // 4) * 4

    count = property(lambda self: len(self.sets[2]) * len(self.sets[3]))  # of sets of weights
    size = property(
        lambda self: self.count * self.before[0] * self.side * self.row
    )  # of the folded weights, with these zeros

    @functools.cached_property
    def places(self):
        """For each row, then for each column: what it adds to the number of the set of weights, -1 for none; the window's
        corner; how many of its first rows, or columns, have no weights: int32 (H + W, 3)."""
        places = []
        for ways, numbers, times in zip(
            self.ways, self.sets, (len(self.sets[3]), 1), strict=False
        ):
            for way, number in zip(ways, numbers.tolist(), strict=True):
                first, count = way[-1] if way else (0, self.side)
                places.append(
                    (
                        number * times if way and self.count else -1,
                        first + count - self.side,
                        self.side - count,
                    )
                )
        return np.array(places, np.int32)

    @property
    def met(self):
        """How many spikes of a step may share a window, at the most."""
        rows, columns = (
            Counter(map(tuple, axis.tolist()))
            for axis in np.split(self.places[:, 1:], [self.before[1]])
        )
        together = max(rows.values()) if len(columns) == 1 else 1  # places come row by row
        return self.before[0] * max(columns.values()) * together

    @torch.inference_mode(False)
    @torch.no_grad()
    def folded_weights(self):
        """Folded weights (set, channel, window row, window column by target channel, with each row's zeros), float32 but added
        up in float64."""
        rows, columns = self.sets[2:]
        folded = np.zeros(
            (len(rows), len(columns), self.before[0], self.side, self.row), np.float32
        )
        most = max(shape[0] * self.side**2 for shape in self.shapes)
        for part in torch.arange(self.before[0]).split(max(1, AT_ONCE // most)):
            impulses = torch.zeros(len(part), self.before[0], 1, 1, dtype=torch.float64)
            impulses[torch.arange(len(part)), part] = 1
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    window, ranges = (
                        impulses,
                        zip(self.ways[0][row], self.ways[1][column], strict=True),
                    )
                    for n, (at, then) in enumerate(pairwise(ranges)):
                        window = self._through(n, window, at, then)
                    height, width = window.shape[2:]
                    lines = np.zeros((len(part), self.side, self.side, self.after[0]), np.float32)
                    lines[:, self.side - height :, self.side - width :] = (
                        window.permute(0, 2, 3, 1).float().numpy()
                    )
                    lines = lines.reshape(len(part), self.side, -1)
                    folded[i, j, part[0] : part[-1] + 1, :, : lines.shape[2]] = lines
        return folded.reshape(-1, *folded.shape[2:])

    def _through(self, n, signal, at, then):
        """What module n makes of a signal that lies at these ranges of rows and columns, where those lie, without its bias."""
        module, (rows, columns) = (
            self.modules[n],
            (slice(first, first + count) for first, count in at),
        )
        if isinstance(module, nn.Linear):
            weight = module.weight.double().reshape(-1, *self.shapes[n])[..., rows, columns]
            return (signal.flatten(1) @ weight.flatten(1).T)[..., None, None]
        if isinstance(module, Scale):
            scale = self._scale(n)
            return signal * (scale[:, rows, columns] if self.by_place[n] else scale[:, :1, :1])
        return self._passed(module, signal, at, then)

    def _passed(self, module, signal, at, then):
        """A convolution, or pool, of a signal that lies at these ranges of rows and columns, where those lie."""
        steps, channels = [AxisReach.along(module, axis) for axis in (-2, -1)], signal.shape[1]
        sizes = [step.kernel for step in steps]
        if hasattr(module, "weight"):
            weight, groups = module.weight.double(), module.groups
            weight = weight.reshape(*weight.shape[:2], *sizes)
        else:
            groups, divisor = channels, module.divisor_override or prod(sizes)
            weight = torch.full((channels, 1, *sizes), 1 / divisor, dtype=torch.float64)
        stride, dilation = [step.stride for step in steps], [step.dilation for step in steps]
        cut = []  # from the right to the left: columns, then rows
        for step, (first, count), (begin, more) in zip(steps, at, then, strict=True):
            if step.transposed:
                begun = first * step.stride - step.padding
                size = (count - 1) * step.stride + step.dilation * (step.kernel - 1) + 1
                cut = [begun - begin, begin + more - begun - size, *cut]
            else:
                begun = begin * step.stride - step.padding
                size = (more - 1) * step.stride + step.dilation * (step.kernel - 1) + 1
                cut = [first - begun, begun + size - first - count, *cut]
        if steps[0].transposed:
            return F.pad(
                F.conv_transpose2d(signal, weight, None, stride, groups=groups, dilation=dilation),
                cut,
            )
        return F.conv2d(F.pad(signal, cut), weight, None, stride, 0, dilation, groups)
