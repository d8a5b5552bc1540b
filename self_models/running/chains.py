"""Linear layers in a row: which shapes their signals have, and how far a spike reaches.

Convolutions, transposed ones, pools, Flatten, Linear and Scale in a row are linear
together, but for biases. So each spike that goes in adds something to the neurons that
it reaches at the end, and how many these are depends on nothing but where it starts.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from torch import nn

from self_models.errors import ModelError


def spatial_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape (C, H, W) in which a signal of any shape lies.

    Up to three dimensions, what is missing is 1: of a vector H and W, of a line H. A
    signal of more dimensions is one column of channels.
    """
    if len(shape) > 3:
        return prod(shape), 1, 1
    missing = 3 - len(shape)
    return (shape[0], *[1] * missing, *shape[1:])


def shape_after(module: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of what a layer makes of a signal.

    Parameters
    ----------
    module : nn.Module
        The layer. One that is not known is taken to keep the shape.
    shape : sequence of int
        Of the signal, without the batch.

    Returns
    -------
    tuple of int
        Of what the layer gives, without the batch.

    Raises
    ------
    ValueError
        If the signal does not fit the layer.
    """
    if isinstance(module, nn.Flatten):
        return shape_flattened(module, shape)
    is_linear = isinstance(module, nn.Linear)
    if not is_linear and not hasattr(module, "kernel_size"):
        return tuple(shape)
    num_dimensions = 3
    if is_linear:
        num_dimensions = 1
    elif isinstance(module, nn.Conv1d):
        num_dimensions = 2
    if len(shape) != num_dimensions:
        hint = "; a Flatten is missing" if is_linear else ""
        raise ValueError(f"it takes {num_dimensions} dimensions{hint}")
    wanted = getattr(module, "in_channels", getattr(module, "in_features", shape[0]))
    if wanted != shape[0]:
        raise ValueError(f"it takes {wanted:,}")
    if is_linear:
        return (module.out_features,)
    sizes = []
    for axis in range(1 - num_dimensions, 0):
        sizes.append(AxisReach.along(module, axis).size_after(shape[axis]))
    if min(sizes) < 1:
        raise ValueError("it would leave nothing")
    return (getattr(module, "out_channels", shape[0]), *sizes)


def shape_flattened(module: nn.Flatten, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of what a Flatten makes of a signal of this shape."""
    # The module counts the batch as dimension 0, which the shape here has not.
    num_dimensions = len(shape) + 1
    start = module.start_dim
    if start < 0:
        start += num_dimensions
    end = module.end_dim
    if end < 0:
        end += num_dimensions
    return (*shape[: start - 1], prod(shape[start - 1 : end]), *shape[end:])


class AxisReach(NamedTuple):
    """Which outputs of a convolution or pool an input reaches, along one axis.

    With ``tap`` from 0 to kernel - 1, output ``j`` takes the inputs

        j * stride - padding + tap * dilation

    A transposed convolution gives its input ``i`` to the outputs

        i * stride - padding + tap * dilation

    Attributes
    ----------
    kernel, stride, padding, dilation : int
        As of the layer, along this axis.
    transposed : bool
        Whether it is a transposed convolution.
    end_padding : int
        Places that are added at the end of the axis alone: output_padding of a
        transposed convolution, else what "same" pads there in addition.
    """

    kernel: int
    stride: int
    padding: int
    dilation: int = 1
    transposed: bool = False
    end_padding: int = 0

    @classmethod
    def along(cls, module: nn.Module, axis: int) -> "AxisReach":
        """Return the reach of a layer along an axis: -2 rows, -1 columns."""
        if isinstance(module, nn.Conv1d) and axis == -2:
            return cls(kernel=1, stride=1, padding=0)  # it leaves rows alone
        kernel = value_along(module, "kernel_size", 1, axis)
        dilation = value_along(module, "dilation", 1, axis)
        padding_mode = getattr(module, "padding", 0)
        if padding_mode == "same":
            padding, end_padding = divmod(dilation * (kernel - 1), 2)
        elif padding_mode == "valid":
            padding = 0
            end_padding = 0
        else:
            padding = value_along(module, "padding", 0, axis)
            end_padding = value_along(module, "output_padding", 0, axis)
        return cls(
            kernel=kernel,
            stride=value_along(module, "stride", 1, axis),
            padding=padding,
            dilation=dilation,
            transposed=isinstance(module, nn.ConvTranspose2d),
            end_padding=end_padding,
        )

    def size_after(self, size: int) -> int:
        """Return how many outputs there are along the axis, for `size` inputs."""
        kernel_extent = self.dilation * (self.kernel - 1) + 1
        if self.transposed:
            stretched = (size - 1) * self.stride
            return stretched - 2 * self.padding + kernel_extent + self.end_padding
        padded = size + 2 * self.padding + self.end_padding
        return (padded - kernel_extent) // self.stride + 1

    def outputs_reached(self, places: np.ndarray) -> np.ndarray:
        """Return which outputs these inputs reach, sorted, also beyond the border."""
        inputs = np.asarray(places)[:, None]
        taps = self.dilation * np.arange(self.kernel)
        if self.transposed:
            return np.unique(inputs * self.stride - self.padding + taps)
        # From the equation above: j * stride = i + padding - tap * dilation
        strided = inputs + self.padding - taps
        return np.unique(strided[strided % self.stride == 0] // self.stride)


def value_along(module: nn.Module, name: str, default: int, axis: int) -> int:
    """Return an attribute of a layer along an axis, which may be one int for all axes.

    default: what it is if the layer has no such attribute.
    """
    value = getattr(module, name, default)
    if isinstance(value, int):
        return value
    return value[max(axis, -len(value))]


class Chain:
    """Linear layers in a row, without Flatten, which moves nothing.

    Parameters
    ----------
    modules : iterable of nn.Module
        The layers.
    shapes : iterable of (C, H, W)
        Of the signal before each layer, and of what the last one gives.
    """

    def __init__(self, modules: Iterable[nn.Module], shapes: Iterable[tuple[int, int, int]]):
        self.modules = list(modules)
        self.shapes = list(shapes)

    @classmethod
    def of_modules(
        cls,
        modules: Iterable[nn.Module],
        before: tuple[int, int, int],
        network_shape: tuple[int, ...],
    ) -> "Chain":
        """Return the chain of layers, with Flatten among them or without.

        Parameters
        ----------
        modules : iterable of nn.Module
            The layers.
        before : (C, H, W)
            Shape in which the signal before them lies.
        network_shape : tuple of int
            Shape that this signal has in the network.

        Returns
        -------
        Chain
            Of all but the Flatten.

        Raises
        ------
        ModelError
            For a Flatten of some dimensions alone.
        """
        kept = []
        shapes = [tuple(before)]
        for module in modules:
            after = shape_after(module, network_shape)
            if isinstance(module, nn.Flatten):
                if len(after) > 1 and after != tuple(network_shape):
                    raise ModelError(
                        f"a Flatten to the shape {after} stays with step(): it runs dense"
                    )
            else:
                kept.append(module)
                moves = isinstance(module, nn.Linear) or hasattr(module, "kernel_size")
                shapes.append(spatial_shape(after) if moves else shapes[-1])
            network_shape = after
        return cls(kept, shapes)

    @property
    def before(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of what comes in."""
        return self.shapes[0]

    @property
    def after(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of what comes out."""
        return self.shapes[-1]

    def reach(self) -> np.ndarray:
        """Return how many neurons at the end of the chain one spike reaches.

        Weights do not count here: a neuron is reached by a weight of 0, too.

        Returns
        -------
        ndarray of float64, (C, H, W)
            For each neuron before the chain: how many its spikes reach.
        """
        _, height, width = self.before
        rows = [self._num_reached(row, axis=-2) for row in range(height)]
        columns = [self._num_reached(column, axis=-1) for column in range(width)]
        places = np.outer(rows, columns).astype(np.float64)
        return self._num_channels_reached()[:, None, None] * places

    def _num_reached(self, place, axis):
        """Return how many rows (axis -2) or columns (-1) at the end a place reaches."""
        places = np.array([place])
        for module, shape in zip(self.modules, self.shapes[1:], strict=True):
            places = places_reached(module, places, axis)
            places = places[(places >= 0) & (places < shape[axis])]
        return len(places)

    def _num_channels_reached(self):
        """Return how many channels at the end each channel before the chain reaches.

        Returns
        -------
        ndarray of int, (C,)
        """
        # The channels that one channel reaches are neighbours, so their first and last
        # number are enough.
        first = np.arange(self.before[0])
        last = first
        for module, shape in zip(self.modules, self.shapes[:-1], strict=True):
            if hasattr(module, "out_channels"):  # a convolution
                # A channel reaches all output channels of its own group. With 8 inputs,
                # 4 outputs and 2 groups, inputs 0 to 3 reach outputs 0 and 1.
                inputs_per_group = shape[0] // module.groups
                outputs_per_group = module.out_channels // module.groups
                first_group = first // inputs_per_group
                last_group = last // inputs_per_group
                first = first_group * outputs_per_group
                last = (last_group + 1) * outputs_per_group - 1
            elif isinstance(module, nn.Linear):  # which has no groups
                first = np.zeros_like(first)
                last = np.full_like(last, module.out_features - 1)
        return last - first + 1


def places_reached(module: nn.Module, places: np.ndarray, axis: int) -> np.ndarray:
    """Return which places of its output a layer's inputs reach along an axis.

    Parameters
    ----------
    module : nn.Module
        A layer of a chain.
    places : ndarray of int
        Rows of the input, or its columns.
    axis : int
        -2 for rows, -1 for columns.

    Returns
    -------
    ndarray of int
        Sorted, places beyond the border of the output among them.
    """
    if isinstance(module, nn.Linear):
        return np.zeros(min(len(places), 1), int)  # the only place that it has
    if hasattr(module, "kernel_size"):
        return AxisReach.along(module, axis).outputs_reached(places)
    return places
