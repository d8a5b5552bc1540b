"""A network as the kernel reads it: the tables and settings of network.h, for this machine, for C, or for a page.

kernel/layout.py fills the tables.
"""

from math import prod
from typing import NamedTuple

import numpy as np

from self_models.basics import ModelError
from self_models.kernel.build import Network, Node, Settings, numbers_of
from self_models.objectives.encoders import ENCODINGS, direct, poisson
from self_models.objectives.gates import Blocking, Gate
from self_models.objectives.readouts import Membrane, MembraneLinear, MembraneRescaled, SpikeCount, SpikeCountRescaled
from self_models.objectives.stopping import AllPredicted, Both, Confidence, Entropy, Never

NUMBERS = numbers_of()
NEURONS, OUTPUT, DECODED, RELAY, POOL, COUNTING_POOL, MAP, INTEGRATOR, ADDING = (NUMBERS[name] for name in (
    "NEURONS", "OUTPUT", "DECODED", "RELAY", "POOL", "COUNTING_POOL", "MAP", "INTEGRATOR", "ADDING"))  # fmt: skip
SAME, PLACED = NUMBERS["SAME"], NUMBERS["PLACED"]
FORMS = {  # the setting that names a part -> its class, or function -> its number in network.h; open is a gate with epsilon 0
    "gate": {Gate: 0, Blocking: 0},
    "rule": {cls: NUMBERS[name] for cls, name in (
        (Never, "NEVER"), (Confidence, "CONFIDENCE"), (Entropy, "ENTROPY"), (AllPredicted, "ALL_PREDICTED"), (Both, "BOTH"))},
    "readout": {cls: NUMBERS[name] for cls, name in (
        (SpikeCount, "SPIKE_COUNT"), (SpikeCountRescaled, "SPIKE_COUNT_RESCALED"), (Membrane, "MEMBRANE"),
        (MembraneLinear, "MEMBRANE_LINEAR"), (MembraneRescaled, "MEMBRANE_RESCALED"))},
    "encoding": {poisson: NUMBERS["POISSON"], direct: NUMBERS["DIRECT"]},
}  # fmt: skip
OF_PARTS = (
    "epsilon", "open_bound", "gap_bound", "entropy_bound", "readout_leak", "readout_slew", "surprise", "latch", "residual",
    "together",
)  # fmt: skip
NODE = np.dtype(Node)
LOWEST, HIGHEST = -np.finfo(np.float32).max, np.finfo(np.float32).max  # bounds of a potential that has none
LARGEST = 2**31 - 1  # neurons of a layer, and weights of a network: both are numbered in 32 bits
SPARE = 64  # weights behind the last one that may be read
LINE = 64  # bytes of a line of the cache; of weights whole lines of bytes, whatever their kind


class Tables(NamedTuple):
    """header: field of Network -> number; nodes: NODE (N,); order: nodes as they run; constants, weights: float32, or int32 and
    int8 in whole numbers; names: of the layers; shapes: (C, H, W) of every node; chains: node -> the Chain whose weights lead to
    it; numbers: name in the graph -> node; maps: the first node that is one, the last nodes; places: see network.h."""

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

    def check(self):
        """Raises ModelError where the tables do not fit each other: the kernel trusts them, and would read and write beyond."""

        def want(what, holds):
            if not holds:
                raise ModelError(f"the event engine's tables do not fit each other ({what}): use --engine dense, and report this")

        own, order, kinds, constants = self.header, self.order.tolist(), self.nodes["kind"].tolist(), NUMBERS["CONSTANTS"]
        types = (NODE, np.int32, np.int32, *((np.int32, np.int8) if self.weights.dtype == np.int8 else (np.float32, np.float32)))
        for each, kind in zip((self.nodes, self.order, self.places, self.constants, self.weights), types, strict=True):
            want("types", each.dtype == kind and each.ndim == 1 and each.flags.c_contiguous)
        want("nodes", own["nodes"] == len(kinds) == len(self.shapes) and constants * len(kinds) <= len(self.constants))
        want("order", min(own["forward"], own["feedback"]) >= 0 and own["forward"] + own["feedback"] == len(order))
        want("layers", 0 < own["layers"] <= len(kinds))
        want("order", sorted(order) == [*range(1, len(kinds))] and own["output"] > 0)
        want("rows", 0 < own["rows"] <= max(map(prod, self.shapes)))
        ends = {NEURONS: range(own["layers"]), OUTPUT: [own["output"]], DECODED: [own["decoded"]]}
        for kind, nodes in ends.items():
            want("kinds", [n for n, its in enumerate(kinds) if its == kind] == [n for n in nodes if n != -1])
        want("kinds", set(kinds) <= set(range(ADDING + 1)) and own["counting"] in range(MAP in kinds, 2))
        want("decoder", (own["decoded"] == -1) == (own["feedback"] == 0) and own["layers"] == len(self.names))
        want("decoder", own["decoded"] == -1 or prod(self.shapes[own["decoded"]]) == prod(self.shapes[0]))
        for n, values in enumerate(self.nodes.tolist()):
            node, shape = dict(zip(NODE.names, values, strict=True)), tuple(self.shapes[n])
            want(f"shape of {n}", shape == (node["channels"], node["height"], node["width"]) and min(shape) > 0)
            want(f"shape of {n}", prod(shape) + SPARE <= LARGEST and 0 <= node["depth"] <= len(kinds))
            each, first = (prod(shape) if node["first_own"] else shape[0]), constants * len(kinds)
            kept = {"first_bias": each, "first_reset": 1, "first_own": 3 * prod(shape)}
            want(f"biases of {n}", all(not node[at] or first <= node[at] <= len(self.constants) - kept[at] for at in kept))
            if n == 0:
                continue
            want(f"source of {n}", 0 <= node["source"] < len(kinds) and 0 <= node["halvings"] < 16)
            want(f"source of {n}", kinds[node["source"]] not in (OUTPUT, DECODED, MAP, ADDING))
            if node["kind"] == ADDING:
                want(f"target of {n}", 0 < node["into"] < len(kinds) and shape == tuple(self.shapes[node["into"]]))
            if kinds[n] in (POOL, COUNTING_POOL) or node["link"] == SAME:
                want(f"channels of {n}", self.shapes[node["source"]][0] == shape[0])
                want(f"weights of {n}", 0 <= node["first_weight"] < len(self.weights))
            else:
                want(f"window of {n}", node["link"] == PLACED)
                self.check_places(n, node, want)

    def check_places(self, n, node, want):
        """The same of a PLACED link."""
        (channels, height, width), side, row = self.shapes[node["source"]], node["side"], node["row"]
        first, count = node["first_place"], 3 * (height + width)
        want(f"places of {n}", 0 <= first <= len(self.places) - count)
        phases, corners, skipped = self.places[first : first + count].reshape(-1, 3).T.astype(np.int64)
        want(f"places of {n}", min(phases) >= -1 and max(abs(corners)) < LARGEST // 2)
        want(f"places of {n}", 0 <= min(skipped) <= max(skipped) <= side)
        phases = max(phases[:height]) + max(phases[height:]) + 1
        end = node["first_weight"] + phases * channels * side * row
        want(f"weights of {n}", node["first_weight"] >= 0 and end <= len(self.weights) - SPARE and node["group"] > 0)
        want(f"window of {n}", side > 0 and row == -(-side * self.shapes[n][0] // 4) * 4)

    def network(self):
        """The Network, which holds on to its arrays. Raises ModelError as check does."""
        self.check()
        names = "".join(f"{name}\0" for name in self.names).encode()
        pointers = {name: getattr(self, name) for name in ("order", "places", "constants", "weights")} | {"node": self.nodes}
        network = Network(**self.header, **{name: array.ctypes.data for name, array in pointers.items()})
        network.held = *pointers.values(), names
        return network


def parts_of(model):
    """The setting that names a part -> that by which FORMS finds it."""
    return {name: type(getattr(model, name)) for name in model.parts} | {
        "encoding": ENCODINGS.find(model.settings["encoding"]).send
    }


def unknown_part(model):
    """(setting, its value) of the first part of a model that the kernel has no form of, or None."""
    found = parts_of(model).items()
    return next(((name, model.settings[name]) for name, part in found if part not in FORMS[name]), None)


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
        "dynamic": model.gate.reopens, "feedback": model.has_feedback, "immediate": own["update"] != "delayed",
        "timesteps": model.latency, "phase": model.timesteps * model.phased,
        "decoded_scale": whole.decoded_unit if whole else 1, "logits_scale": whole.output.unit if whole else 1,
    }  # fmt: skip
    return Settings(**{name: float(value) if kinds[name] is kinds["epsilon"] else int(value) for name, value in values.items()})


def whole_form(model):
    """The WholeForm of a network in whole numbers, else None."""
    return model.whole_form() if hasattr(model, "whole_form") else None


def line_of_bytes(size):
    """So many bytes, not filled in, from a line of the cache on: vectors that lie across two are read at half the speed."""
    room = np.empty(size + LINE, np.uint8)
    first = -room.ctypes.data % LINE
    return room[first : first + size]
