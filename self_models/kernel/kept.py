"""A model's tables, kept from run to run."""

import ctypes

import torch

from self_models.basics import free_memory
from self_models.kernel.build import Network, library
from self_models.kernel.state import Rooms
from self_models.kernel.tables import graph_of, header_of, lay_out, own_settings, table_of, unknown_part, whole_form
from self_models.network.neurons import SpikingNeuron
from self_models.network.wiring import is_altered, modules_of, unknown


class Kept:
    """rooms: whether events are counted -> Rooms of the model's tables; none before they are wanted, and once what they were made
    of has changed.

    Weights, thresholds, leaks and biases are compared byte by byte with a copy, at every run: torch counts no change that a fused
    optimiser makes, nor one through `.data` or numpy.
    """

    def __init__(self, model):
        self.model, self.rooms, self._made_of, self._copies = model, {}, None, []

    def __getstate__(self):
        """Of a copy, or a pickle, which lays out its own."""
        return {**vars(self), "rooms": {}, "_made_of": None, "_copies": []}

    def forget_changed(self, frozen=False):
        """Discard tables if the model changed. Returns True if so. frozen: nobody has changed a value of the model's tensors."""
        unchanged = not self.rooms or self._made_of == made_of(self.model)
        if unchanged and (frozen or all(copy == now.data for copy, now in self._copies)):
            return False
        self.rooms, self._copies = {}, []
        return True

    def why_not(self):
        """Why the kernel cannot run the model as it is now, or ''. Raises ModelError for a layer whose neurons are too many."""
        if words := why_not(self.model):
            return words
        if self.rooms:
            return ""
        if not whole_form(self.model) and (part := unknown(self.model) or altered(self.model)):
            return f"the event engine does not know {part}: use --engine dense"
        needed, free = memory_of(self.model, torch.get_num_threads()) / 1e9, free_memory()
        if free is None or needed <= free / 1e9:
            return ""
        return f"the event engine needs {needed:.1f} GB for this network and {free / 1e9:.1f} GB are free: use --engine dense"

    def prepare(self, counting=False):
        """The Rooms; with counting those that count."""
        if not self.rooms:
            self._made_of = made_of(self.model)
            storages = [tensor.untyped_storage() for tensor in tensors_of(self._made_of[0])]
            storages = {storage.data_ptr(): storage for storage in storages}.values()
            self._copies = [(bytearray(now), now) for now in map(bytes_of, storages)]  # compared as fast as memory is read
        if counting not in self.rooms:
            kind = library("int8" if whole_form(self.model) else "float32")
            self.rooms[counting] = Rooms(kind, lay_out(self.model, counting=counting))
        return self.rooms[counting]


def why_not(model):
    """Why the kernel has no form of what a model does, or ''."""
    if not whole_form(model):  # which has been looked at when it was made
        if hook := model.overridden():
            return f"the event engine does not know {type(model).__name__}.{hook}: use --engine dense"
        if model.settings["update"] not in ("delayed", "immediate", "phased"):
            return "the event engine knows the updates delayed, immediate and phased: use --engine dense"
    if part := unknown_part(model):
        return f"the event engine has no form of the {' '.join(map(str, part))}: use --engine dense"
    return ""


def memory_of(model, threads):
    """Bytes that the engine takes for a model: folded weights, a copy of the model's own, and a state for each thread, or, before
    that, what folding takes. Raises ModelError for a layer whose neurons the kernel cannot number."""
    graph, kind = graph_of(model), "int8" if whole_form(model) else "float32"
    nodes, constants = table_of(model, graph), (ctypes.c_int32 * (5 * len(graph.nodes)))()  # as if all leaked
    network = Network(**header_of(model, graph), node=nodes.ctypes.data, constants=ctypes.addressof(constants))
    state = library(kind).network_size(ctypes.byref(network))
    copy = sum(value.nbytes for value in model.parameters())
    weights = sum(one.size for one in graph.links.values()) * (1 if kind == "int8" else 4)
    return weights + copy + max(threads * state, *(one.memory for one in graph.links.values()))


def made_of(model):
    """(modules, where their tensors lie in the memory, what else tables are made of): equal while nothing but values of these
    tensors has changed."""
    modules, own = modules_of(model), own_settings(model)
    others = [own[name] for name in ("output_leak", "encoding")] + [bool(own.get("residual"))]
    others += [(one.initial_potential, one.floor, one.update) for one in modules if isinstance(one, SpikingNeuron)]
    others += map(type, modules)
    others += map(is_altered, modules)
    return modules, [(value.data_ptr(), value.dtype, value.shape, value.stride()) for value in tensors_of(modules)], others


def altered(model):
    """The first of a model's altered modules, in words, or ''."""
    names = (name or "the network" for name, module in model.named_modules() if is_altered(module))
    return next((f"a hook or forward of its own of {name}" for name in names), "")


def tensors_of(modules):
    """Their parameters and buffers."""
    return [value for one in modules for kind in (one._parameters, one._buffers) for value in kind.values() if value is not None]


def bytes_of(storage):
    """A tensor's memory as an array, uint8, whatever its type and order."""
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
