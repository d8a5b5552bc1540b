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

from self_models.networks.scale import Scale
from self_models.running.chains import AxisReach, Chain, places_reached

AT_ONCE = 2**22  # numbers of a window's signal while it is folded, in float64
ROWS = -2  # axes of a shape (C, H, W)
COLUMNS = -1


class Span(NamedTuple):
    """Rows, or columns, that follow each other: `first` to ``first + count - 1``."""

    first: int
    count: int

    @property
    def as_slice(self) -> slice:
        """The slice that cuts them out of an axis."""
        return slice(self.first, self.first + self.count)


class PlaceNumbers(NamedTuple):
    """What the kernel knows of a row, or column, of the source of a chain.

    Attributes
    ----------
    set_share : int
        What it adds to the number of a place's set of weights. -1 if its spikes reach
        nothing.
    corner : int
        First row, or column, of its window in the target. It may lie beyond the border.
    skipped : int
        How many rows, or columns, of the window, from the corner on, have no weights.
    """

    set_share: int
    corner: int
    skipped: int


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
        """Return what the biases of these layers make at the end if nothing comes in.

        That is the output for an input of 0, which the target gets in each timestep.
        Take two layers with outputs W1 x + b1 and W2 x + b2. If both biases count, this
        is W2 b1 + b2. If the first one does not, it is b2 alone.

        Parameters
        ----------
        bias_counts : list of bool
            Of each layer: whether to add its bias. Chains with layers in common may
            lead to one target, which must get a shared layer's bias once. So the bias
            counts in one of these chains, and not in the others.

        Returns
        -------
        ndarray of float64, or None
            One value of each channel, (C,), where it is the same at all places of the
            channel, as of a Linear layer, whose output is (C, 1, 1). Otherwise one of
            each neuron, (C, H, W): padding brings no bias to places at the border. None
            if no layer has a bias that counts.
        """
        biases = []  # of each layer a Tensor (C',), or None if there is nothing to add
        for module, counts in zip(self.modules, bias_counts, strict=True):
            biases.append(getattr(module, "bias", None) if counts else None)
        if all(bias is None for bias in biases):
            return None
        signal = torch.zeros(1, *self.before, dtype=torch.float64)  # (1, C, H, W)
        for n, bias in enumerate(biases):
            # _apply_layer() can compute a part of a signal. Here it is the whole one:
            # all rows, and all columns.
            whole_input = [Span(0, length) for length in self.shapes[n][1:]]
            whole_output = [Span(0, length) for length in self.shapes[n + 1][1:]]
            # It leaves out the layer's own bias, which is added if it counts.
            signal = self._apply_layer(n, signal, whole_input, whole_output)
            if bias is not None:
                signal = signal + bias.double().view(-1, 1, 1)
        values = signal[0].numpy()  # (C, H, W)
        first_place = values[:, :1, :1]
        if (values == first_place).all():
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
        """Find which rows the spikes of one row reach behind each layer of the chain.

        The same goes for columns. That is the *route* of the row. Take a convolution of
        3 x 3 with padding 1, and two of them in a row, on 8 rows. Row 4 has the route
        (4,), (3, 4, 5), (2, 3, 4, 5, 6). Row 0 has (0,), (0, 1), (-1, 0, 1, 2).

        Behind a layer, what lies beyond the border of its output is cut off, since the
        next layer does not get it: row -1 behind the first convolution. Behind the last
        layer that moves signals nothing is cut off: row -1 behind the second one. Only
        scales follow, which treat all places alike, and the kernel itself leaves out
        what is beyond the border of the target. So rows near that border have the same
        weights as those further inside.

        Parameters
        ----------
        place : int
            Number of the row, or column, before the first layer.
        axis : int
            ROWS or COLUMNS: the axis of ``self.shapes``, which are (C, H, W).

        Returns
        -------
        tuple of Span, or None
            What is reached before the first layer, which is the place itself, and
            behind each layer: one Span more than there are layers. None if the spikes
            reach nothing within the border.
        """
        places = np.array([place])
        route = [Span(place, 1)]
        # From this layer on nothing is cut off. -1: no layer moves anything, so nothing
        # can stick out, or a scale behind differs from place to place: then all is cut.
        first_uncut = self.last_moving if self.last_moving >= 0 else len(self.modules)
        for n, module in enumerate(self.modules):
            places = places_reached(module, places, axis)
            inside = places[(places >= 0) & (places < self.shapes[n + 1][axis])]
            if not len(inside):
                return None
            if n < first_uncut:
                places = inside
            # A dilated kernel leaves gaps. The Span has them, too, with weights of 0.
            route.append(Span(int(places[0]), int(places[-1] - places[0] + 1)))
        return tuple(route)

    def _route_kind(self, route, axis):
        """Return a key that two routes share if and only if they have the same weights.

        Then their rows have one *set* of weights, which is folded and stored once. For
        example, row 4 of a convolution of 3 x 3 with padding 1 reaches the rows 3 to 5,
        and row 5 the rows 4 to 6. Both have the kind ((-1, 1, 3),): from 1 input on 3
        outputs, from one before its own number on. Row 0 has that kind, too, if
        its row -1 was not cut off, else ((0, 1, 2),).

        Parameters
        ----------
        route : tuple of Span
            Which rows, or columns, are reached before the first layer and behind each
            layer; see `_route`.
        axis : int
            ROWS or COLUMNS.

        Returns
        -------
        tuple
            An entry for each layer whose weights depend on the place.
        """
        kind = []
        for n, (before, after) in enumerate(pairwise(route)):
            module = self.modules[n]
            if hasattr(module, "kernel_size"):
                # A kernel moves along with the place. So it does not matter which
                # inputs and outputs these are, only how many, and which weight of the
                # kernel leads from the first input to the first output. That follows
                # from their offset: a convolution's output j begins at the input
                # j * stride - padding, and a transposed one's input i at the output
                # i * stride - padding. The padding is the same for all places.
                step = AxisReach.along(module, axis)
                if step.transposed:
                    offset = after.first - before.first * step.stride
                else:
                    offset = after.first * step.stride - before.first
                if before.count == 1 and isinstance(module, nn.AvgPool2d):
                    offset = None  # all places of a pool's window have one weight
                kind.append((offset, before.count, after.count))
            elif isinstance(module, nn.Linear) or self.varies[n]:
                # Each input has weights of its own, or a scale: it does matter which.
                kind.append(before)
            # A scale that does not vary is the same everywhere: no entry.
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
            The `PlaceNumbers` of each, which are SET, CORNER and SKIPPED of network.h.
        """
        num_column_sets = len(self.column_sets.examples)
        rows = self._numbers_along_axis(self.row_routes, self.row_sets, num_column_sets)
        columns = self._numbers_along_axis(self.column_routes, self.column_sets, 1)
        return np.array([*rows, *columns], np.int32)

    def _numbers_along_axis(self, routes, sets, stride):
        """Return the PlaceNumbers of all rows, or of all columns, of the source.

        A spike at a place, a row and a column, adds a window of weights to the target:
        `side` x `side` places from a corner on. Many places share a *set* of weights.
        With 2 sets of rows and 3 of columns, a place has the set

            3 * (set of its row) + (set of its column)

        of which its row gives the first part, with the stride 3, and its column the
        second, with the stride 1.

        Windows that a border in between has cut off have fewer rows than `side`. Cut
        off at whichever border, their weights lie in the last rows of the window, and
        its first ones are skipped. Take a window of side 3, of which the rows 0 and 1
        are left. Its corner is row -1, and 1 row is skipped. If it has set 1 of the
        rows, its numbers are (3, -1, 1).

        Parameters
        ----------
        routes : list of tuple of Span, or None
            Of each row, or column: what its spikes reach before the first layer and
            behind each one, so at last its window; see `_route`. None: nothing.
        sets : AxisSets
            Which sets these rows, or columns, have.
        stride : int
            By what the number of a set is multiplied, as above.

        Returns
        -------
        list of PlaceNumbers
            One for each route.
        """
        numbers = []
        for route, set_number in zip(routes, sets.numbers.tolist(), strict=True):
            if route is None:
                numbers.append(PlaceNumbers(set_share=-1, corner=0, skipped=0))
                continue
            window = route[-1]  # rows of the target, as far as they have weights
            end = window.first + window.count
            numbers.append(
                PlaceNumbers(
                    # A row reaches nothing, too, if no column reaches anything. Then
                    # there is no set of any place.
                    set_share=set_number * stride if self.num_sets else -1,
                    corner=end - self.side,
                    skipped=self.side - window.count,
                )
            )
        return numbers

    @property
    def max_windows(self) -> int:
        """Most spikes of one timestep that the kernel adds to one window together.

        It visits the places of the source row by row, and adds up the weights of
        neighbours whose windows have the same corner. Behind a pool of 2 x 2, for
        example, these are two places of a row, with a spike of each channel at most.
        """
        num_channels, num_rows, _ = self.before
        # Of each row, and then of each column, (corner, rows to skip).
        windows = [tuple(numbers) for numbers in self.places[:, 1:].tolist()]
        row_counts = Counter(windows[:num_rows])
        column_counts = Counter(windows[num_rows:])
        # After the last place of a row comes the first one of the next. So places of
        # several rows are neighbours only if a whole row has one window.
        rows_together = max(row_counts.values()) if len(column_counts) == 1 else 1
        return num_channels * max(column_counts.values()) * rows_together

    # --- weights

    @torch.inference_mode(False)
    @torch.no_grad()
    def folded_weights(self) -> np.ndarray:
        """Fold the weights of all layers into windows.

        A window is what a spike adds to the target. Source places of one *set* have the
        same weights, so they are folded at one place of each set, its example. Rows and
        columns are looked at apart: with 2 sets of rows and 3 of columns there are 6
        sets, and i of a row and j of a column make set 3 i + j.

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
        # So many channels at once that no signal takes more than AT_ONCE numbers.
        largest = max(shape[0] * self.side**2 for shape in self.shapes)
        for channels in torch.arange(num_channels).split(max(1, AT_ONCE // largest)):
            part = slice(channels[0], channels[-1] + 1)
            for i, row in enumerate(row_examples):
                for j, column in enumerate(column_examples):
                    rows = self._window_rows(row, column, channels)
                    folded[i, j, part, :, : rows.shape[2]] = rows
        return folded.reshape(-1, *folded.shape[2:])

    def _window_rows(self, row, column, channels):
        """Fold the windows of one source place: what its spikes add to the target.

        A spike of each channel goes through all layers, in float64. Of the signal
        behind a layer only those rows and columns are computed that it reaches. They
        are the Spans of two routes: element 0 of a route is the row, or column, of the
        source itself, and element n + 1 is what is reached behind layer n. What comes
        out of the last layer is the window.

        Parameters
        ----------
        row, column : int
            The source place.
        channels : Tensor of int64, shape (B,)
            Source channels whose windows are wanted.

        Returns
        -------
        ndarray of float32, shape (B, side, side * C')
            The rows of each window, of which all have `side` x `side` places. In a row
            lie its places side by side, and in a place the C' target channels.
        """
        num_windows = len(channels)
        # (B, C, 1, 1): image b has one place, where channel channels[b] sends a spike.
        signal = torch.zeros(num_windows, self.before[0], 1, 1, dtype=torch.float64)
        signal[torch.arange(num_windows), channels] = 1
        row_route = self.row_routes[row]
        column_route = self.column_routes[column]
        for n in range(len(self.modules)):
            before = (row_route[n], column_route[n])
            after = (row_route[n + 1], column_route[n + 1])
            signal = self._apply_layer(n, signal, before, after)

        # All windows have side x side places. One that a border has cut off has fewer,
        # height x width. Those lie in the last rows and columns, at whichever border
        # it was, and the first ones stay 0. _numbers_along_axis() tells the kernel the
        # same: how many to skip, and a corner that is so much further up and left.
        height, width = signal.shape[2:]
        first_row = self.side - height
        first_column = self.side - width
        windows = np.zeros((num_windows, self.side, self.side, self.after[0]), np.float32)
        channels_last = signal.permute(0, 2, 3, 1)  # (B, height, width, C')
        windows[:, first_row:, first_column:] = channels_last.float().numpy()
        return windows.reshape(num_windows, self.side, -1)

    def _scale_varies(self, n):
        """Return whether layer n, a Scale, differs between the places of a channel."""
        scale = self._scale(n)
        return bool((scale != scale[:, :1, :1]).any())

    def _scale(self, n):
        """Return the scale of layer n, a Scale, for each neuron: float64 (C, H, W)."""
        scale = self.modules[n].scale.detach().double()
        shape = self.shapes[n]
        if scale.numel() == prod(shape):
            return scale.reshape(shape)
        return scale.reshape(-1, 1, 1).expand(shape)

    def _apply_layer(self, n, signal, before, after):
        """Apply layer n, without its bias, to a part of its input.

        Parameters
        ----------
        n : int
            Number of the layer: a Linear layer, a Scale, a convolution, a transposed
            one or an average pool.
        signal : Tensor of float64, shape (B, C, h, w)
            Some rows and columns of its input. The input is 0 elsewhere.
        before : (Span, Span)
            Which rows and columns of the input these are.
        after : (Span, Span)
            Which rows and columns of the output are wanted. Of convolutions and pools
            some may lie beyond the border of the output: these are computed as if the
            output had no border there. A Linear layer has one place, and a Scale leaves
            all where they are, so of them ``after`` says nothing new.

        Returns
        -------
        Tensor of float64, shape (B, C', h', w')
            The output in these rows and columns.
        """
        module = self.modules[n]
        rows = before[0].as_slice
        columns = before[1].as_slice
        if isinstance(module, nn.Linear):
            # (C', C * H * W) -> (C', C, H, W), and of that where there is a signal
            weight = module.weight.double().reshape(-1, *self.shapes[n])[..., rows, columns]
            return (signal.flatten(1) @ weight.flatten(1).T)[..., None, None]
        if isinstance(module, Scale):
            scale = self._scale(n)
            if self.varies[n]:  # between places: then no route goes beyond the border
                return signal * scale[:, rows, columns]
            # Rows and columns may lie beyond the border, where `scale` has no numbers.
            # It is the same at all places of a channel, so the first place stands for
            # all of them.
            return signal * scale[:, :1, :1]
        return convolve_part(module, signal, before, after)


def convolve_part(
    module: nn.Module, signal: torch.Tensor, before: Sequence[Span], after: Sequence[Span]
) -> torch.Tensor:
    """Apply a convolution, a transposed one or a pool to a part of its input.

    The padding of the layer itself is not used. Instead, a convolution's input gets
    just so many zeros around it that the output has the rows and columns that are
    wanted. A transposed convolution gives all that its input reaches, and zeros are
    added to that, or some of it is cut off.

    Parameters
    ----------
    module : nn.Module
        The layer: a Conv1d, Conv2d, ConvTranspose2d or an average pool, which counts
        its padding in what it divides by. Its bias is left out.
    signal : Tensor of float64, shape (B, C, h, w)
        Some rows and columns of its input. The input is 0 elsewhere.
    before, after : (Span, Span)
        Which rows and columns of the input these are, and which of the output are
        wanted. The latter may lie beyond its border.

    Returns
    -------
    Tensor of float64, shape (B, C', h', w')
        The output in these rows and columns.
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
    # Of each axis [before the first place, behind the last one]; below 0: cut off.
    row_padding = padding_along(steps[0], before[0], after[0])
    column_padding = padding_along(steps[1], before[1], after[1])
    padding = column_padding + row_padding  # F.pad takes the last axis first
    if steps[0].transposed:
        output = F.conv_transpose2d(signal, weight, None, stride, groups=groups, dilation=dilation)
        return F.pad(output, padding)
    padded = F.pad(signal, padding)
    return F.conv2d(padded, weight, None, stride, padding=0, dilation=dilation, groups=groups)


def padding_along(step: AxisReach, before: Span, after: Span) -> list[int]:
    """Return how many places to add before and behind a signal along one axis.

    For example, a convolution of 3 places with padding 1 gets place 4, and is to give
    the places 3 to 5. For these it takes the places 2 to 6: 2 are to be added on each
    side.

    Parameters
    ----------
    step : AxisReach
        The layer along this axis.
    before : Span
        Places of its input that the signal has.
    after : Span
        Places of its output that are wanted.

    Returns
    -------
    list of two int
        Places to add before the first one and behind the last one; negative numbers cut
        off. Of a convolution the input gets them, of a transposed one the output.
    """
    if step.transposed:
        given_first = before.first * step.stride - step.padding
        given_count = num_places_covered(step, before.count)
        return [
            given_first - after.first,
            after.first + after.count - (given_first + given_count),
        ]
    needed_first = after.first * step.stride - step.padding
    needed_count = num_places_covered(step, after.count)
    return [
        before.first - needed_first,
        needed_first + needed_count - (before.first + before.count),
    ]


def num_places_covered(step: AxisReach, count: int) -> int:
    """Return how many places so many kernels cover, each a stride behind the last."""
    kernel_extent = step.dilation * (step.kernel - 1) + 1
    return (count - 1) * step.stride + kernel_extent
