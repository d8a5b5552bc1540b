"""The tables as arrays, and as one block of bytes that the kernel reads.

`Tables` is what network.h calls NetworkTables. `settings_of` makes the NetworkSettings
of a model, and `FORMS` says which gates, stopping rules, read-outs and encodings the
kernel has. layout.py and constants.py fill the tables.
"""

import ctypes
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from self_models.errors import ModelError
from self_models.feedback.encoders import ENCODINGS, direct, poisson
from self_models.feedback.gates import Blocking, Gate
from self_models.feedback.readouts import (
    Membrane,
    MembraneLinear,
    MembraneRescaled,
    SpikeCount,
    SpikeCountRescaled,
)
from self_models.feedback.stopping import AllPredicted, Both, Confidence, Entropy, Never
from self_models.settings import settings_in
from wfeedback.event.build import MAGIC, VERSION, Block, Network, Node, Settings, read_enums

K = SimpleNamespace(**read_enums())  # constants of network.h, without NETWORK_

# Setting that names a part -> class of the part, or function -> its number in
# network.h. For the kernel an open gate is a blocking one with epsilon 0.
FORMS = {
    "gate": {Gate: 0, Blocking: 0},
    "rule": {
        Never: K.NEVER,
        Confidence: K.CONFIDENCE,
        Entropy: K.ENTROPY,
        AllPredicted: K.ALL_PREDICTED,
        Both: K.BOTH,
    },
    "readout": {
        SpikeCount: K.SPIKE_COUNT,
        SpikeCountRescaled: K.SPIKE_COUNT_RESCALED,
        Membrane: K.MEMBRANE,
        MembraneLinear: K.MEMBRANE_LINEAR,
        MembraneRescaled: K.MEMBRANE_RESCALED,
    },
    "encoding": {poisson: K.POISSON, direct: K.DIRECT},
}
# Settings of parts that NetworkSettings has by the same name.
PART_SETTINGS = (
    "epsilon",
    "open_bound",
    "gap_bound",
    "entropy_bound",
    "readout_leak",
    "readout_slew",
    "surprise",
    "latch",
    "residual",
)
# Settings of gates that it has by another name: whether blocked pixels may open again,
# and whether the channels of a pixel are judged together.
GATE_FLAGS = ("blocking", "together")

NODE = np.dtype(Node)
HEADER = tuple(name for name, kind in Network._fields_ if kind is not ctypes.c_void_p)
FLOAT_SETTINGS = {name for name, kind in Settings._fields_ if kind is ctypes.c_float}
HIGHEST = np.finfo(np.float32).max  # ceiling of a potential that has none
LOWEST = -HIGHEST  # floor of a potential that has none
LARGEST = 2**31 - 1  # most neurons of a layer, and weights of a network: 32 bits number them
SPARE = 64  # weights behind the last one, which the kernel may read
LINE = 64  # bytes of a line of the cache, and by how many weights those of a link are aligned


class BlockParts(NamedTuple):
    """The parts of a block of bytes, in their order; see NetworkBlock in network.h.

    The C program finds each part behind the one before, by the numbers in the head. So
    neither their order, nor their types, may differ from what network.h says.

    Attributes
    ----------
    head : bytes
        NetworkBlock: how many numbers the other parts have, and the settings.
    nodes, order, places, constants : ndarray
        As in `Tables`.
    padding : bytes
        Zeros, so that the weights begin at a multiple of LINE bytes.
    weights : ndarray
        As in `Tables`.
    names : bytes
        Names of the layers, each ending in a byte of 0.
    """

    head: bytes
    nodes: np.ndarray
    order: np.ndarray
    places: np.ndarray
    constants: np.ndarray
    padding: bytes
    weights: np.ndarray
    names: bytes


class CountingMap(NamedTuple):
    """A node that counts how often something reaches each neuron of a layer's input.

    Attributes
    ----------
    node : int
        Its number.
    source : int
        Number of the node whose spikes pass through the layers.
    modules : tuple of nn.Module
        The layers behind the source, up to that whose inputs are counted, the last one.
    """

    node: int
    source: int
    modules: tuple


class Tables(NamedTuple):
    """A network as the kernel reads it; see NetworkTables and NetworkNode in network.h.

    Attributes
    ----------
    header : dict of {str: int}
        The numbers in NetworkTables, by their names there.
    nodes : ndarray of NODE, shape (N,)
        The nodes, each with the link that leads to it.
    order : ndarray of int32
        Nodes in the order in which they run, first those that lead to the logits, then
        those of the decoder.
    constants : ndarray of float32, or of int32 in whole numbers
        Five of each node, threshold, leak, start, floor and ceiling; then biases and
        values of single neurons.
    weights : ndarray of float32, or of int8 in whole numbers
        Weights of all links.
    names : list of str
        Names of the layers: "input", then those that spike.
    shapes : list of (C, H, W)
        Of the neurons of each node.
    chains : dict of {int: WindowedChain}
        Node -> the linear layers whose windows of weights lead to it.
    numbers : dict of {str: int}
        Name in the graph -> node.
    maps : list of CountingMap
        The nodes that count for the operations of a run. Empty if nobody counts.
    places : ndarray of int32
        Of each row and column of a link's source: which set of weights it has, and
        where their window lies.
    """

    header: dict
    nodes: np.ndarray
    order: np.ndarray
    constants: np.ndarray
    weights: np.ndarray
    names: list
    shapes: list
    chains: dict
    numbers: dict
    maps: list
    places: np.ndarray

    def parts(self, settings: Settings) -> BlockParts:
        """Return the parts of a block, as NetworkBlock in network.h describes it.

        Parameters
        ----------
        settings : Settings
            The settings that the block holds.

        Returns
        -------
        BlockParts
            In the order in which they lie in the block.
        """
        names = "".join(f"{name}\0" for name in self.names).encode()
        # The fields of NetworkBlock in their order. HEADER has that of the numbers.
        head = Block(
            int.from_bytes(MAGIC, "little"),
            VERSION,
            self.weights.itemsize,
            *[self.header[name] for name in HEADER],
            len(self.places),
            len(self.constants),
            len(self.weights),
            len(names),
            settings,
        )
        arrays_before_weights = (self.nodes, self.order, self.places, self.constants)
        size = ctypes.sizeof(head) + sum(array.nbytes for array in arrays_before_weights)
        return BlockParts(
            head=bytes(head),
            nodes=self.nodes,
            order=self.order,
            places=self.places,
            constants=self.constants,
            padding=bytes(bytes_to_next_line(size)),
            weights=self.weights,
            names=names,
        )

    def block(self, settings: Settings) -> np.ndarray:
        """Return `parts` as one array of bytes, from a line of the cache on."""
        parts = [np.frombuffer(part, np.uint8) for part in self.parts(settings)]
        size = sum(len(part) for part in parts)
        return np.concatenate(parts, out=line_of_bytes(size))

    def links_run_first(self) -> bool:
        """Return whether further links to neurons run before these neurons do.

        They do if neurons are charged before they fire.
        """
        order = self.order.tolist()
        for number, node in enumerate(self.nodes):
            target = int(node["into"])
            if node["kind"] == K.ADDING and self.nodes[target]["kind"] == K.NEURONS:
                return order.index(number) < order.index(target)
        return True  # there are none

    def network(self, library: ctypes.CDLL) -> Network:
        """Open these tables in the kernel.

        Parameters
        ----------
        library : ctypes.CDLL
            The kernel.

        Returns
        -------
        Network
            The kernel's own view of them. It holds on to the block that it points into.

        Raises
        ------
        ModelError
            If network_open finds that they do not fit each other.
        """
        # A block holds settings, so here are some that network_open accepts. It refuses
        # those of which `immediate` does not go with the order of the nodes. A run gets
        # its own when it begins.
        settings = Settings(
            immediate=self.links_run_first(), timesteps=1, decoded_scale=1, logits_scale=1
        )
        block = self.block(settings)
        # network_open fills in both of these. The settings are those of the block, and
        # are not needed here.
        network = Network()
        settings_of_block = Settings()
        reason = library.network_open(
            block.ctypes.data,
            len(block),
            ctypes.byref(network),
            ctypes.byref(settings_of_block),
        )
        if reason:
            what = f"the event engine's tables do not fit each other ({reason.decode()})"
            raise ModelError(f"{what}: use --engine dense, and report this")
        network.held = block  # `network` has addresses in it
        return network


def bytes_to_next_line(size: int) -> int:
    """Return how many bytes are missing to a multiple of LINE: 28 behind 100 bytes."""
    return -size % LINE


def line_of_bytes(size: int) -> np.ndarray:
    """Return an array of so many bytes, not filled in, from a line of the cache on.

    Vectors that lie across two lines are read at half the speed.
    """
    memory = np.empty(size + LINE, np.uint8)
    first = bytes_to_next_line(memory.ctypes.data)
    return memory[first : first + size]


# --- settings


def part_forms(model) -> dict:
    """Return for each setting that names a part by what `FORMS` finds the part."""
    forms = {name: type(getattr(model, name)) for name in model.parts}
    forms["encoding"] = ENCODINGS.find(model.settings["encoding"]).send
    return forms


def unknown_part(model) -> str | None:
    """Find what of a model's parts the kernel does not know.

    Parts are the gate, the stopping rule, the read-out and the encoding. The kernel
    knows one in two steps:

    1. Its class, or function, is in `FORMS`: the kernel has code for it.
    2. Its settings are among PART_SETTINGS and GATE_FLAGS, which are handed to the
       kernel. A setting that is not must be at its default, in which the kernel runs.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.

    Returns
    -------
    str or None
        The first that fails, as the setting's name and value: "readout my_own" for step
        1, "my_setting 0.5" for step 2. None if the kernel knows all.
    """
    for name, form in part_forms(model).items():
        if form not in FORMS[name]:
            return f"{name} {model.settings[name]}"
    for part_name in model.parts:
        part = getattr(model, part_name)
        for name, setting in settings_in(type(part)).items():
            is_known = name in PART_SETTINGS or name in GATE_FLAGS
            if not is_known and getattr(part, name) != setting.default:
                return f"{name} {getattr(part, name)}"
    return None


def current_settings(model) -> dict:
    """Return a model's settings, those of its parts as they are now.

    A part may have been changed in place.
    """
    return model.settings | vars(model.gate) | vars(model.rule) | vars(model.readout)


def whole_form(model) -> object | None:
    """Return the WholeForm of event/quantize.py, or None if floats are used."""
    if hasattr(model, "whole_form"):
        return model.whole_form()
    return None


def settings_of(model) -> Settings:
    """Return the settings of a model as they are now, for the kernel.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network; `unknown_part` finds nothing in it.

    Returns
    -------
    Settings
        NetworkSettings of network.h.
    """
    current = current_settings(model)
    forms = part_forms(model)
    whole = whole_form(model)
    # 0 for settings that the model's parts do not have, and for those that are None:
    # the kernel does not read them for such parts, or 0 turns them off.
    values = {name: current.get(name) or 0 for name in PART_SETTINGS}
    for name in ("rule", "readout", "encoding"):
        values[name] = FORMS[name][forms[name]]
    # Names of the kernel, which network.h explains, for what has another name here.
    values["dynamic"] = model.gate.reopens  # whether blocked pixels may open again
    values["per_pixel"] = bool(current.get("together"))  # channels are judged as one
    values["feedback"] = model.has_feedback
    values["immediate"] = current["update"] != "delayed"  # "phased" charges first, too
    # A phased network runs its T timesteps in each of its phases, one phase after the
    # other. So until it answers, its latency, there are several times T. In others both
    # are the same.
    values["timesteps"] = model.latency
    values["phase_steps"] = model.timesteps if model.timing.is_phased else 0
    # What 1 in whole numbers is worth: in the decoder's output, and in a logit.
    values["decoded_scale"] = whole.decoded_unit if whole else 1
    values["logits_scale"] = whole.output.unit if whole else 1
    for name, value in values.items():
        values[name] = float(value) if name in FLOAT_SETTINGS else int(value)
    return Settings(**values)
