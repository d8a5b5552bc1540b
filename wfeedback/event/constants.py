"""Constants of nodes: thresholds, leaks, bounds, biases, and values to reset to.

The kernel reads all of them from one flat array. It begins with five numbers of each
node, node after node, in the order of network.h: K.THRESHOLD, K.LEAK, K.START, K.FLOOR
and K.CEILING. Behind them lies what only some nodes have, in any order. Fields of the
node in the tables say where, as positions in the array; 0 means that there is none:

- ``first_reset``: the value to which V is set after a spike, one number;
- ``first_own``: threshold, leak and reset of each neuron, where the neurons of a node
  differ: 3 * H * W * C numbers;
- ``first_bias``: what is added in each timestep: H * W * C numbers if there is a
  ``first_own``, else C, one of each channel.

Numbers of neurons lie row by row, with the C channels of a place together.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from self_models.errors import ModelError
from self_models.neurons.nir import Constants, NIRNeuron
from self_models.neurons.spiking import SpikingNeuron
from wfeedback.event.tables import HIGHEST, LOWEST, K

# The leak of a node in which each neuron has its own, by first_own. It is never
# applied, but has to be other than 1: for such a node the kernel remembers up to which
# timestep the leaks of a place are made up for.
LEAKS_DIFFER = 0


class ConstantsArray:
    """The array of constants while it is filled.

    Parameters
    ----------
    defaults : sequence of 5 numbers
        Threshold, leak, start, floor and ceiling of a node of which nothing else is
        known.
    num_nodes : int
        Number of nodes.
    dtype : np.dtype
        float32, or int32 in whole numbers.

    Attributes
    ----------
    of_nodes : ndarray, shape (num_nodes, 5)
        The five constants of each node.
    """

    def __init__(self, defaults, num_nodes: int, dtype):
        self.of_nodes = np.tile(np.array(defaults, dtype), (num_nodes, 1))
        self._appended = []
        self._size = self.of_nodes.size

    def append(self, values) -> int:
        """Append constants, and return where they begin in the array."""
        values = np.ascontiguousarray(values, self.of_nodes.dtype).ravel()
        begin = self._size
        self._appended.append(values)
        self._size += values.size
        return begin

    def array(self) -> np.ndarray:
        """Return all constants, one after the other."""
        return np.concatenate([self.of_nodes.ravel(), *self._appended])


@dataclass
class NeuronValues:
    """What the neurons of a node have, each (C, H, W), or (1, 1, 1) for all of them.

    Attributes
    ----------
    threshold, leak : ndarray of float32
        V spikes above its threshold, and keeps a share of `leak` in a timestep.
    reset : ndarray of float32
        V after a spike; 0 where the threshold is subtracted.
    """

    threshold: np.ndarray
    leak: np.ndarray
    reset: np.ndarray

    def as_list(self) -> list:
        """Return them in the order of the kernel; see OWN_THRESHOLD in network.c."""
        return [self.threshold, self.leak, self.reset]


def constants_of(model, layout, nodes: np.ndarray) -> np.ndarray:
    """Make the array of constants.

    Parameters
    ----------
    model : nn.Module
        The network.
    layout : Layout
        Its nodes.
    nodes : ndarray of NODE
        The same nodes in the tables: ``first_reset``, ``first_own`` and ``first_bias``
        are filled in.

    Returns
    -------
    ndarray
        float32, or int32 in whole numbers.

    Raises
    ------
    ModelError
        For neurons that the kernel has no room for.
    """
    if layout.whole:
        constants = whole_constants(layout)
    else:
        # No leak, V begins at 0, and no bounds. Neurons get theirs in add_constants().
        # The output is no neuron, but may have a leak, a setting of the model.
        defaults = five_constants(threshold=1, leak=1, start=0, floor=LOWEST, ceiling=HIGHEST)
        constants = ConstantsArray(defaults, len(nodes), np.float32)
        constants.of_nodes[layout.numbers["output"], K.LEAK] = model.output_leak
    for n, node in enumerate(layout.nodes):
        add_constants(constants, n, node, nodes[n], is_whole=bool(layout.whole))
    return constants.array()


def whole_constants(layout) -> ConstantsArray:
    """Return the array of constants of a network in whole numbers.

    Potentials are whole numbers, within -largest to largest. A leak is counted in parts
    of which ``shares`` (2^15) are all of V: so many parts are no leak.

    Parameters
    ----------
    layout : Layout
        The nodes. Its ``whole`` is the network's WholeForm, not None.

    Returns
    -------
    ConstantsArray
        With the five constants of all nodes. Those that neither spike nor are the
        output, such as relays, have no leak, and the bounds of all potentials.
    """
    whole = layout.whole
    defaults = five_constants(
        threshold=1, leak=whole.shares, start=0, floor=-whole.largest, ceiling=whole.largest
    )
    constants = ConstantsArray(defaults, len(layout.nodes), np.int32)
    forms = whole.neurons | {"output": whole.output}
    for name, form in forms.items():
        constants.of_nodes[layout.numbers[name]] = five_constants(
            threshold=form.threshold,
            leak=form.kept,
            start=form.start,
            floor=form.lowest,
            ceiling=form.highest,
        )
    return constants


def five_constants(threshold, leak, start, floor, ceiling) -> list:
    """Return the constants that each node has, in the order of the kernel's columns."""
    columns = {
        K.THRESHOLD: threshold,
        K.LEAK: leak,
        K.START: start,
        K.FLOOR: floor,
        K.CEILING: ceiling,
    }
    return [columns[n] for n in range(K.CONSTANTS)]


def add_constants(constants: ConstantsArray, n: int, node, fields, is_whole: bool) -> None:
    """Add one node's constants to the array, and note in the tables where they lie.

    ``fields`` gets positions in the array. They stay 0 where nothing is appended; no
    appended number lies at position 0, where the five constants of node 0 begin.

    - ``first_reset``: one number, the value of V after a spike. Only for neurons that
      get such a value; others get V less their threshold.
    - ``first_own``: threshold, leak and reset of each neuron, (3, H, W, C). Only if
      neurons of the node differ in one of these, or in their bias by more than the
      channel.
    - ``first_bias``: what is added in each timestep, (H, W, C) if there is a
      ``first_own``, else (C,). Only if there is a bias.

    Parameters
    ----------
    constants : ConstantsArray
        The array. Row n of ``constants.of_nodes``, the node's threshold, leak, start,
        floor and ceiling, is overwritten, and what else the node needs is appended.
    n : int
        Number of the node.
    node : LayoutNode
        The node.
    fields : NODE
        The same node in the tables. The three fields above are filled in.
    is_whole : bool
        The network is one in whole numbers. Then `whole_constants` has filled in the
        five constants, and only the bias is looked at here.

    Raises
    ------
    ModelError
        For neurons that the kernel has no room for.
    """
    neuron = None if is_whole else node.neuron
    values = neuron_values(node, neuron)
    bias = node.bias  # (C,), (C, H, W), or None
    if neuron is not None:
        bias = bias_with_drive(node, neuron)
    fill_five_constants(constants.of_nodes[n], node, neuron, values)
    if neuron is not None and has_reset_value(neuron):
        # Also where each neuron has a value of its own below: only a first_reset that
        # is not 0 makes the kernel set V, instead of subtracting the threshold.
        fields["first_reset"] = constants.append(values.reset.flat[0])

    # If one of these differs between the neurons, the kernel gets all of them of each
    # neuron, so that a place has the same layout in every such node.
    bias_differs = bias is not None and prod(bias.shape[1:]) > 1  # within a channel
    values_differ = [not is_uniform(value) for value in values.as_list()]
    has_own = bias_differs or any(values_differ)
    if has_own:
        check_room(constants.of_nodes[n], values)
        own_values = [in_rows_of_places(value, node.shape) for value in values.as_list()]
        fields["first_own"] = constants.append(np.stack(own_values))  # (3, H, W, C)
    if bias is not None:
        bias = in_rows_of_places(by_place(bias), node.shape)  # (H, W, C)
        # With a first_own the kernel reads a bias of each neuron. Without, one of each
        # channel, which all places of the channel share.
        fields["first_bias"] = constants.append(bias if has_own else bias[0, 0])


def fill_five_constants(
    five: np.ndarray, node, neuron: SpikingNeuron | None, values: NeuronValues
) -> None:
    """Fill in the five constants of a node that has neurons, or is a synapse's current.

    Any other node, such as a relay, keeps the defaults; so do all in whole numbers. The
    ceiling always is the default: neurons of networks with fractions have none.

    Parameters
    ----------
    five : ndarray, shape (5,)
        A row of ``ConstantsArray.of_nodes``, which is changed: threshold, leak, start,
        floor and ceiling. It has the defaults.
    node : LayoutNode
        The node. It has a ``leak`` if it is the current of a synapse. Then it has no
        neurons.
    neuron : SpikingNeuron or None
        Its neurons, if it has any that are not in whole numbers.
    values : NeuronValues
        What `neuron_values` has of the node.
    """
    if neuron is None and node.leak is None:
        return
    # Where thresholds differ, the kernel takes each neuron's own, see add_constants().
    five[K.THRESHOLD] = values.threshold.flat[0]
    five[K.LEAK] = values.leak.flat[0] if is_uniform(values.leak) else LEAKS_DIFFER
    if neuron is None:
        return  # a current begins at 0, and has no floor, as the defaults say
    # The first neuron's, for all of them: why_not_run() of layout.py has refused a
    # start that differs between the neurons, and check_room() refuses differing
    # thresholds where start or floor depend on them.
    five[K.START] = tensor_of(neuron.rest).flatten()[0].item()
    five[K.FLOOR] = lowest_potential(neuron)


def check_room(five: np.ndarray, values: NeuronValues) -> None:
    """Raise ModelError if start and floor of a node's neurons differ with thresholds.

    Both are shares of the threshold, except for a start of NIR, but a node has one
    number of each for all its neurons. So where thresholds differ, V has to begin at 0,
    and to have no floor.
    """
    begins_elsewhere = five[K.START] or five[K.FLOOR] != LOWEST
    if begins_elsewhere and not is_uniform(values.threshold):
        raise ModelError(
            "neurons with thresholds of their own that begin above 0, or have a floor: "
            "it runs dense"
        )


def neuron_values(node, neuron: SpikingNeuron | None) -> NeuronValues:
    """Return threshold, leak and reset of a node's neurons, or of a synapse's current.

    Parameters
    ----------
    node : LayoutNode
        The node. Its ``shape`` (C, H, W) is that in the tables; ``natural`` is the one
        that its neurons have in the network, which may be (N,), or None if it has none.
        The current of a synapse has a ``leak``, and no neurons.
    neuron : SpikingNeuron or None
        Its neurons, if they are looked at.

    Returns
    -------
    NeuronValues
        Each (C, H, W), or (1, 1, 1) if all neurons share one number. Thresholds and
        resets are in the unit of V; a leak is the share of V that a timestep keeps. A
        node of neither kind has threshold 1, leak 1 and reset 0.
    """
    threshold = 1
    leak = 1
    reset = 0
    if neuron is not None:
        nir = nir_constants(neuron)
        threshold = neuron.threshold if neuron.fires else 0
        leak = neuron.leak
        reset = 0 if nir.reset is None else nir.reset
    elif node.leak is not None:  # the current of a synapse, which has no threshold
        threshold = 0
        leak = node.leak
    natural = node.shape if node.natural is None else node.natural
    return NeuronValues(
        placed_values(threshold, natural, node.shape),
        placed_values(leak, natural, node.shape),
        placed_values(reset, natural, node.shape),
    )


def bias_with_drive(node, neuron: SpikingNeuron) -> np.ndarray | None:
    """Return the bias of neurons, with the constant current that drives them."""
    drive = placed_values(nir_constants(neuron).drive, node.natural, node.shape)
    # A neuron with a threshold below 0 spikes although nothing arrives. The kernel
    # looks at it only if it has a bias, of 0 too.
    always_looked_at = neuron.fires and neuron.threshold.min() < 0
    if not drive.any() and not always_looked_at:
        return node.bias
    return drive + (0 if node.bias is None else by_place(node.bias))


def lowest_potential(neuron: SpikingNeuron) -> float:
    """Return the floor of neurons, below which V does not fall."""
    if neuron.floor is None:
        return LOWEST
    return (-neuron.floor * neuron.threshold).flatten()[0].item()


def has_reset_value(neuron: SpikingNeuron) -> bool:
    """Return whether V gets a value after a spike; else the threshold is subtracted."""
    is_reset = nir_constants(neuron).reset is not None or getattr(neuron, "whole", False)
    return neuron.fires and is_reset


def nir_constants(neuron: SpikingNeuron) -> Constants:
    """Return the constants of neurons; those of the core have none but the defaults."""
    return neuron.constants if isinstance(neuron, NIRNeuron) else Constants()


# --- shapes


def tensor_of(value) -> torch.Tensor:
    """Return a number or a parameter as a tensor without a gradient."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    return torch.tensor(float(value))


def placed_values(value, natural: tuple, shape: tuple) -> np.ndarray:
    """Return a value of neurons as float32 (C, H, W), or (1, 1, 1) for one of all.

    Parameters
    ----------
    value : float or Tensor
        One value, or what broadcasts to `natural`.
    natural : tuple of int
        Shape of the neurons in the network.
    shape : (C, H, W)
        Shape in which they lie in the tables.
    """
    values = tensor_of(value).float().numpy()
    if values.size == 1:
        return values.reshape(1, 1, 1)
    return np.broadcast_to(values, natural).reshape(shape)


def by_place(values: np.ndarray) -> np.ndarray:
    """Return values of channels, (C,), as (C, 1, 1); others, (C, H, W), as they are."""
    return values if values.ndim > 1 else values[:, None, None]


def in_rows_of_places(values: np.ndarray, shape: tuple) -> np.ndarray:
    """Return values, (C, H, W) or (1, 1, 1), with the channels of a place together."""
    return np.broadcast_to(values, shape).transpose(1, 2, 0)


def is_uniform(values: np.ndarray) -> bool:
    """Return whether all values are equal."""
    return bool((values == values.flat[0]).all())
