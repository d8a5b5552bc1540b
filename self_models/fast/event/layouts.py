"""A model's layout, kept from run to run."""

import torch

from self_models.basics.devices import free_memory
from self_models.fast.event.network import lay_out, memory_of
from self_models.network.neurons import SpikingNeuron
from self_models.network.wiring import is_altered, modules_of, unknown


class KeptLayout:
    """layout: the model's Layout, or None before it is wanted, and once what it was made of has changed.

    Weights, thresholds, leaks and biases are compared byte by byte with a copy, at every run: torch counts no change that a fused
    optimiser makes, nor one through `.data` or numpy.
    """

    def __init__(self, model):
        self.model, self.layout, self._made_of, self._copies = model, None, None, []

    def forget_changed(self, frozen=False):
        """Let go of a layout that is no longer the model's, before the next one takes its memory; returns whether it was so.
        frozen: nobody has changed a value of the model's tensors."""
        unchanged = self.layout is None or self._made_of == parts_of(self.model)
        if unchanged and (frozen or all(copy == now.data for copy, now in self._copies)):
            return False
        self.layout, self._copies = None, []
        return True

    def why_not(self):
        """Why there is no layout of the model, or '': a part that no architecture makes, or that would not be called, or too
        little free memory, of which nothing is taken for the answer. Raises ModelError for a layer whose neurons the engine
        cannot number."""
        if self.layout is not None:
            return ""
        if part := unknown(self.model) or altered(self.model):
            return f"the event engine does not know {part}: use --engine dense"
        needed, free = memory_of(self.model).total(torch.get_num_threads()) / 1e9, free_memory()
        if free is None or needed <= free / 1e9:
            return ""
        return f"the event engine needs {needed:.1f} GB for this network and {free / 1e9:.1f} GB are free: use --engine dense"

    def prepare(self):
        """The Layout, its weights folded now if they are not."""
        if self.layout is None:
            self._made_of = parts_of(self.model)
            storages = [tensor.untyped_storage() for tensor in tensors_of(self._made_of[0])]
            storages = {storage.data_ptr(): storage for storage in storages}.values()
            self._copies = [(bytearray(now), now) for now in map(bytes_of, storages)]  # compared as fast as memory is read
            self.layout = lay_out(self.model)
        return self.layout


def parts_of(model):
    """(modules, where their tensors lie in the memory, what else a layout is made of): equal while nothing but values of these
    tensors has changed."""
    modules = modules_of(model)
    others = [model.settings[name] for name in ("feedback_interval", "output_leak")]
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
