"""A network as the kernel reads it: the tables and settings of network.h, for this machine, for C, or for a page.

engines/event/layout.py fills the tables.
"""

import ctypes
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from self_models.basics import ModelError
from self_models.basics.settings import settings_in
from self_models.engines.event.build import (
    MAGIC,
    VERSION,
    Block,
    Network,
    Node,
    Settings,
    numbers_of,
)
from self_models.objectives.encoders import ENCODINGS, direct, poisson
from self_models.objectives.gates import Blocking, Gate
from self_models.objectives.readouts import (
    Membrane,
    MembraneLinear,
    MembraneRescaled,
    SpikeCount,
    SpikeCountRescaled,
)
from self_models.objectives.stopping import AllPredicted, Both, Confidence, Entropy, Never

K = SimpleNamespace(**numbers_of())
FORMS = {  # the setting that names a part -> its class, or function -> its number in network.h; open is a gate with epsilon 0
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
OF_PARTS = (
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
AS_FLAGS = (
    "blocking",
    "together",
)  # of a gate: whether pixels reopen, whether a pixel is judged over its channels
NODE = np.dtype(Node)
HEADER = tuple(name for name, kind in Network._fields_ if kind is not ctypes.c_void_p)
LOWEST, HIGHEST = (
    -np.finfo(np.float32).max,
    np.finfo(np.float32).max,
)  # bounds of a potential that has none
LARGEST = 2**31 - 1  # neurons of a layer, and weights of a network: both are numbered in 32 bits
SPARE = 64  # weights behind the last one, which may be read
LINE = 64  # bytes of a line of the cache; of weights whole lines of bytes, whatever their kind


class Tables(NamedTuple):
    """header: field of Network -> number; nodes: NODE (N,); order: nodes as they run; constants, weights: float32, or int32 and
    int8 in whole numbers; names: of the layers; shapes: (C, H, W) of every node; chains: node -> the WindowedChain whose
    weights lead to it; numbers: name in the graph -> node; maps: the first node that is one, the last nodes; places: see network.h."""

    header: dict
    nodes: np.ndarray
    order: np.ndarray
    constants: np.ndarray
    weights: np.ndarray
    names: list
    shapes: list
    chains: dict
    numbers: dict
    maps: int
    places: np.ndarray

    def parts(self, settings):
        """These tables, and Settings, as the parts of a block, in their order: see NetworkBlock in network.h. One but the last is
        the weights."""
        names = "".join(f"{name}\0" for name in self.names).encode()
        arrays = [self.nodes, self.order, self.places, self.constants]
        lengths = map(len, (self.places, self.constants, self.weights, names))
        header = [self.header[name] for name in HEADER]
        head = Block(
            int.from_bytes(MAGIC, "little"),
            VERSION,
            self.weights.itemsize,
            *header,
            *lengths,
            settings,
        )
        before = ctypes.sizeof(head) + sum(array.nbytes for array in arrays)
        return [bytes(head), *arrays, bytes(-before % LINE), self.weights, names]

    def block(self, settings):
        """The same in one array of bytes."""
        parts = [np.frombuffer(part, np.uint8) for part in self.parts(settings)]
        return np.concatenate(parts, out=line_of_bytes(sum(map(len, parts))))

    def links_run_first(self):
        """Return whether further links to neurons run before these, as where they are charged before they fire."""
        order = self.order.tolist()
        for number, node in enumerate(self.nodes):
            target = int(node["into"])
            if node["kind"] == K.ADDING and self.nodes[target]["kind"] == K.NEURONS:
                return order.index(number) < order.index(target)
        return True  # there are none

    def network(self, library):
        """The Network of these tables, which holds on to its block. Raises ModelError where network_open refuses it."""
        # Any settings that network_open accepts; those of a run are given when it begins.
        settings = Settings(
            immediate=self.links_run_first(), timesteps=1, decoded_scale=1, logits_scale=1
        )
        block, network = self.block(settings), Network()
        why = library.network_open(
            block.ctypes.data, len(block), ctypes.byref(network), ctypes.byref(Settings())
        )
        if why:
            what = f"the event engine's tables do not fit each other ({why.decode()})"
            raise ModelError(f"{what}: use --engine dense, and report this")
        network.held = block
        return network


def parts_of(model):
    """The setting that names a part -> that by which FORMS finds it."""
    return {name: type(getattr(model, name)) for name in model.parts} | {
        "encoding": ENCODINGS.find(model.settings["encoding"]).send
    }


def unknown_part(model):
    """(setting, its value) of the first part of a model that the kernel has no form of, or of the first setting of a part that it
    does not know and that is not at its default; None where there is neither."""
    for name, part in parts_of(model).items():
        if part not in FORMS[name]:
            return name, model.settings[name]
    for part in (getattr(model, name) for name in model.parts):
        for name, setting in settings_in(type(part)).items():
            if name not in (*OF_PARTS, *AS_FLAGS) and getattr(part, name) != setting.default:
                return name, getattr(part, name)
    return None


def own_settings(model):
    """A model's settings, with those of its parts as they are now: a part may have been changed in place."""
    return model.settings | vars(model.gate) | vars(model.rule) | vars(model.readout)


def settings_of(model):
    """The Settings of a model as they are now."""
    own, parts, whole = own_settings(model), parts_of(model), whole_form(model)
    kinds = dict(Settings._fields_)
    values = {name: own.get(name) or 0 for name in OF_PARTS}
    values |= {name: FORMS[name][parts[name]] for name in ("rule", "readout", "encoding")}
    values |= {
        "dynamic": model.gate.reopens,
        "per_pixel": bool(own.get("together")),
        "feedback": model.has_feedback,
        "immediate": own["update"] != "delayed",
        "timesteps": model.latency,
        "phase_steps": model.timesteps * model.timing.is_phased,
        "decoded_scale": whole.decoded_unit if whole else 1,
        "logits_scale": whole.output.unit if whole else 1,
    }
    return Settings(
        **{
            name: float(value) if kinds[name] is kinds["epsilon"] else int(value)
            for name, value in values.items()
        }
    )


def whole_form(model):
    """The WholeForm of a network in whole numbers, else None."""
    return model.whole_form() if hasattr(model, "whole_form") else None


def line_of_bytes(size):
    """So many bytes, not filled in, from a line of the cache on: vectors that lie across two are read at half the speed."""
    room = np.empty(size + LINE, np.uint8)
    first = -room.ctypes.data % LINE
    return room[first : first + size]
