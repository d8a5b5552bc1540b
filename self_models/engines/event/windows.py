"""A chain of linear layers as windows of weights.

A spike adds a *window* of weights to the neurons that it reaches: some rows of places,
with all target channels of each place. Two source places have the same *set* of weights
if their windows differ by nothing but where they lie. Most places of an image do. Where
a layer in between cuts windows off at its border, the places near that border have sets
of their own. The end of the chain cuts nothing off: there a window may stick out over
the border.

Rows and columns do not influence each other, so both are looked at apart: the set of a
place is that of its row combined with that of its column.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from self_models.layers.scale import Scale
from self_models.runtime.chains import AxisReach, Chain, places_reached

AT_ONCE = 2**22  # numbers of a window's signal while it is folded, in float64
ROWS = 1  # axes of a shape (C, H, W)
COLUMNS = 2


class Span(NamedTuple):
    """Rows, or columns, that follow each other: `first` to ``first + count - 1``."""

    first: int
    count: int


class AxisSets(NamedTuple):
    """Which sets of weights the rows, or the columns, before a chain have.

    Attributes
    ----------
    numbers : ndarray of int
        Of each row: the number of its set; -1 if its spikes reach nothing.
    examples : list of int
        Of each set: a row that has it.
    """

    numbers: np.ndarray
    examples: list


def moves(module: nn.Module) -> bool:
    """Return whether a layer takes a signal to other places."""
    return isinstance(module, nn.Linear) or hasattr(module, "kernel_size")


class WindowedChain(Chain):
    """A chain of linear layers that can be folded into windows of weights.

    Parameters
    ----------
    modules : iterable of nn.Module
        The layers.
    shapes : iterable of (C, H, W)
        Of the signal before each layer, and of what the last one gives.

    Attributes
    ----------
    varies : list of bool
        Of each layer: whether it is a Scale that differs between the places of a
        channel.
    last_moving : int
        Number of the last layer that moves a signal. What lies behind it treats all
        places alike, so windows need not be cut off at its border. -1 if there is none,
        or if a Scale varies.
    """

    def __init__(self, modules, shapes):
        super().__init__(modules, shapes)
        self.varies = []
        self.last_moving = -1
        for n, module in enumerate(self.modules):
            self.varies.append(isinstance(module, Scale) and self._scale_varies(n))
            if moves(module):
                self.last_moving = n
        if any(self.varies):
            self.last_moving = -1

    @classmethod
    def of(cls, chain: Chain) -> "WindowedChain":
        """Return the same layers as a chain that has windows."""
        return cls(chain.modules, chain.shapes)

    def part(self, first: int, last: int) -> "WindowedChain":
        """Return the chain of layers `first` to ``last - 1``."""
        return WindowedChain(self.modules[first:last], self.shapes[first : last + 1])

    def scaled(self, scale: torch.Tensor) -> "WindowedChain":
        """Return this chain times a scale: one value, or each neuron's, (C, H, W)."""
        return WindowedChain([*self.modules, Scale(scale)], [*self.shapes, self.after])

    @property
    def factor(self) -> float | None:
        """The number that the chain multiplies by; None if it does anything else."""
        factor = 1
        for module in self.modules:
            if not isinstance(module, Scale) or module.scale.numel() != 1:
                return None
            factor *= module.scale.item()
        return factor

    @torch.no_grad()
    def constant(self, bias_counts: list[bool]) -> np.ndarray | None:
        """Return what comes out of the chain if nothing comes in.

        Parameters
        ----------
        bias_counts : list of bool
            Of each layer: whether its bias counts.

        Returns
        -------
        ndarray of float64, shape (C,) or (C, H, W), or None
            The latter shape if places differ. None if no bias counts.
        """
        biases = []
        for module, counts in zip(self.modules, bias_counts, strict=True):
            biases.append(getattr(module, "bias", None) if counts else None)
        if all(bias is None for bias in biases):
            return None
        signal = torch.zeros(1, *self.before, dtype=torch.float64)
        for n, bias in enumerate(biases):
            before = [Span(0, size) for size in self.shapes[n][1:]]
            after = [Span(0, size) for size in self.shapes[n + 1][1:]]
            signal = self._apply(n, signal, before, after)
            if bias is not None:
                signal = signal + bias.double().view(-1, 1, 1)
        values = signal[0].numpy()
        if (values == values[:, :1, :1]).all():
            return values[:, 0, 0]
        return values

    # --- which places have which set of weights

    @functools.cached_property
    def row_routes(self) -> list:
        """Of each row before the chain its route, as `_route` has it."""
        return [self._route(row, ROWS) for row in range(self.before[ROWS])]

    @functools.cached_property
    def column_routes(self) -> list:
        """Of each column before the chain its route, as `_route` has it."""
        return [self._route(column, COLUMNS) for column in range(self.before[COLUMNS])]

    def _route(self, place, axis):
        """Follow a row, or column, through the chain.

        Returns the Span that it reaches before the first layer and behind each, or None
        if it reaches nothing.
        """
        places = np.array([place])
        route = [Span(place, 1)]
        for n, module in enumerate(self.modules):
            places = places_reached(module, places, axis - 3)
            inside = places[(places >= 0) & (places < self.shapes[n + 1][axis])]
            if not len(inside):
                return None
            may_stick_out = 0 <= self.last_moving <= n
            if not may_stick_out:
                places = inside
            route.append(Span(int(places[0]), int(places[-1] - places[0] + 1)))
        return tuple(route)

    def _route_kind(self, route, axis):
        """Return what is equal for two routes just if they have one set of weights."""
        kind = []
        for n, (before, after) in enumerate(pairwise(route)):
            module = self.modules[n]
            if hasattr(module, "kernel_size"):
                step = AxisReach.along(module, axis - 3)
                if step.transposed:
                    offset = after.first - before.first * step.stride
                else:
                    offset = after.first * step.stride - before.first
                if before.count == 1 and isinstance(module, nn.AvgPool2d):
                    offset = None  # all places of a pool's window have one weight
                kind.append((offset, before.count, after.count))
            elif isinstance(module, nn.Linear) or self.varies[n]:
                kind.append(before)  # each place has weights of its own
        return tuple(kind)

    @functools.cached_property
    def row_sets(self) -> AxisSets:
        """Sets of weights of the rows."""
        return self._find_sets(self.row_routes, ROWS)

    @functools.cached_property
    def column_sets(self) -> AxisSets:
        """Sets of weights of the columns."""
        return self._find_sets(self.column_routes, COLUMNS)

    def _find_sets(self, routes, axis):
        """Return the AxisSets of rows, or columns, with these routes."""
        number_by_kind = {}
        numbers = []
        examples = []
        for place, route in enumerate(routes):
            if route is None:
                numbers.append(-1)
                continue
            kind = self._route_kind(route, axis)
            if kind not in number_by_kind:
                number_by_kind[kind] = len(number_by_kind)
                examples.append(place)
            numbers.append(number_by_kind[kind])
        return AxisSets(np.array(numbers), examples)

    @property
    def num_sets(self) -> int:
        """Number of sets of weights."""
        return len(self.row_sets.examples) * len(self.column_sets.examples)

    # --- windows

    @functools.cached_property
    def side(self) -> int:
        """Places of a side of a window; all windows are as large as the largest."""
        counts = [1]
        for route in (*self.row_routes, *self.column_routes):
            if route:
                counts.append(route[-1].count)
        return max(counts)

    @property
    def row_size(self) -> int:
        """Weights of one row of a window, with zeros up to a multiple of 4 at its end.

        The kernel adds fours faster than ones.
        """
        return -(-self.side * self.after[0] // 4) * 4

    @property
    def size(self) -> int:
        """Number of folded weights, zeros at the ends of rows included."""
        return self.num_sets * self.before[0] * self.side * self.row_size

    @functools.cached_property
    def places(self) -> np.ndarray:
        """What `places` of the tables has of the source's rows, then of its columns.

        Returns
        -------
        ndarray of int32, shape (H + W, 3)
            What a row, or column, adds to the number of the set of weights (-1: it
            reaches nothing); the first row of the window; how many rows of the window,
            from its first on, have no weights.
        """
        num_column_sets = len(self.column_sets.examples)
        rows = self._axis_places(self.row_routes, self.row_sets, num_column_sets)
        columns = self._axis_places(self.column_routes, self.column_sets, 1)
        return np.array([*rows, *columns], np.int32)

    def _axis_places(self, routes, sets, stride):
        """Return the part of `places` of one axis; sets are numbered by `stride`."""
        places = []
        for route, number in zip(routes, sets.numbers.tolist(), strict=True):
            window = route[-1] if route else Span(0, self.side)
            reaches = route and self.num_sets
            corner = window.first + window.count - self.side
            skipped = self.side - window.count
            places.append((number * stride if reaches else -1, corner, skipped))
        return places

    @property
    def max_windows(self) -> int:
        """Most spikes of one timestep that the kernel adds to one place together.

        It visits places row by row, and adds up those whose windows lie at the same
        place.
        """
        rows, columns = np.split(self.places[:, 1:], [self.before[ROWS]])
        row_counts = Counter(map(tuple, rows.tolist()))
        column_counts = Counter(map(tuple, columns.tolist()))
        # Spikes of several rows come one after the other only if all columns are alike.
        rows_together = max(row_counts.values()) if len(column_counts) == 1 else 1
        return self.before[0] * max(column_counts.values()) * rows_together

    # --- weights

    @torch.inference_mode(False)
    @torch.no_grad()
    def folded_weights(self) -> np.ndarray:
        """Fold the weights of all layers into windows.

        Returns
        -------
        ndarray of float32, shape (num_sets, C, side, row_size)
            Of each set and source channel a window: its rows, each with the target
            channels of its places side by side. Products are added up in float64.
        """
        row_examples = self.row_sets.examples
        column_examples = self.column_sets.examples
        num_channels = self.before[0]
        folded = np.zeros(
            (len(row_examples), len(column_examples), num_channels, self.side, self.row_size),
            np.float32,
        )
        largest = max(shape[0] * self.side**2 for shape in self.shapes)
        for channels in torch.arange(num_channels).split(max(1, AT_ONCE // largest)):
            part = slice(channels[0], channels[-1] + 1)
            for i, row in enumerate(row_examples):
                for j, column in enumerate(column_examples):
                    rows = self._window_rows(row, column, channels)
                    folded[i, j, part, :, : rows.shape[2]] = rows
        return folded.reshape(-1, *folded.shape[2:])

    def _window_rows(self, row, column, channels):
        """Return the windows of a source place, float32 (channels, rows, columns)."""
        window = torch.zeros(len(channels), self.before[0], 1, 1, dtype=torch.float64)
        window[torch.arange(len(channels)), channels] = 1  # a spike of each channel
        spans = zip(self.row_routes[row], self.column_routes[column], strict=True)
        for n, (before, after) in enumerate(pairwise(spans)):
            window = self._apply(n, window, before, after)
        height, width = window.shape[2:]
        rows = np.zeros((len(channels), self.side, self.side, self.after[0]), np.float32)
        # A window that is cut off lies at the end of the rows and columns.
        values = window.permute(0, 2, 3, 1).float().numpy()
        rows[:, self.side - height :, self.side - width :] = values
        return rows.reshape(len(channels), self.side, -1)

    def _scale_varies(self, n):
        """Return whether layer n, a Scale, differs between the places of a channel."""
        scale = self._scale(n)
        return bool((scale != scale[:, :1, :1]).any())

    def _scale(self, n):
        """Return the scale of layer n as float64 (C, H, W)."""
        scale = self.modules[n].scale.detach().double()
        shape = self.shapes[n]
        if scale.numel() == prod(shape):
            return scale.reshape(shape)
        return scale.reshape(-1, 1, 1).expand(shape)

    def _apply(self, n, signal, before, after):
        """Apply layer n, without its bias, to a part of its input.

        `signal` is float64 (B, C, h, w), the rows and columns of two Spans, `before`.
        What is returned are the rows and columns of the Spans `after`.
        """
        module = self.modules[n]
        rows, columns = (slice(span.first, span.first + span.count) for span in before)
        if isinstance(module, nn.Linear):
            weight = module.weight.double().reshape(-1, *self.shapes[n])[..., rows, columns]
            return (signal.flatten(1) @ weight.flatten(1).T)[..., None, None]
        if isinstance(module, Scale):
            scale = self._scale(n)
            return signal * (scale[:, rows, columns] if self.varies[n] else scale[:, :1, :1])
        return convolve_part(module, signal, before, after)


def convolve_part(
    module: nn.Module, signal: torch.Tensor, before: Sequence[Span], after: Sequence[Span]
) -> torch.Tensor:
    """Apply a convolution, a transposed one or a pool to a part of its input.

    See `WindowedChain._apply` for `signal`, `before` and `after`.
    """
    steps = [AxisReach.along(module, axis) for axis in (-2, -1)]
    kernel_size = [step.kernel for step in steps]
    stride = [step.stride for step in steps]
    dilation = [step.dilation for step in steps]
    if hasattr(module, "weight"):
        groups = module.groups
        weight = module.weight.double()
        weight = weight.reshape(*weight.shape[:2], *kernel_size)
    else:  # an average pool: every channel by itself, with one weight
        groups = signal.shape[1]
        divisor = module.divisor_override or prod(kernel_size)
        weight = torch.full((groups, 1, *kernel_size), 1 / divisor, dtype=torch.float64)
    padding = []  # as F.pad has it, from the last axis to the first: negative numbers cut off
    for step, span, wanted in zip(steps, before, after, strict=True):
        padding = padding_of(step, span, wanted) + padding
    if steps[0].transposed:
        output = F.conv_transpose2d(signal, weight, None, stride, groups=groups, dilation=dilation)
        return F.pad(output, padding)
    return F.conv2d(F.pad(signal, padding), weight, None, stride, 0, dilation, groups)


def padding_of(step: AxisReach, before: Span, after: Span) -> list[int]:
    """Return how many places to add before and behind a signal along one axis.

    Of a convolution it is the input that is padded, so that the places of the Span
    `after` come out; of a transposed one the output, to these places. Negative numbers
    cut off.
    """
    if step.transposed:
        first = before.first * step.stride - step.padding  # of what comes out
        size = (before.count - 1) * step.stride + step.dilation * (step.kernel - 1) + 1
        return [first - after.first, after.first + after.count - first - size]
    first = after.first * step.stride - step.padding  # of what must come in
    size = (after.count - 1) * step.stride + step.dilation * (step.kernel - 1) + 1
    return [before.first - first, first + size - before.first - before.count]
