"""A model's layout, kept from run to run."""

import torch

from self_models.basics.devices import free_memory
from self_models.event.network import lay_out, memory_of


class KeptLayout:
    """layout: the model's Layout, or None before it is wanted, and once its weights have changed (but for a change through
    `.data`, which torch does not count)."""

    def __init__(self, model):
        self.model, self.layout, self._version = model, None, None
        self._parameters = [(module._parameters, name) for module in model.modules() for name in module._parameters]

    def forget_changed(self):
        """Let go of a layout that is no longer the model's, before the next one takes its memory; returns whether it was so."""
        version = [self.model.gate.completes, self.model.encoding.uses_draws, self.model.feedback_interval]
        for parameters, name in self._parameters:
            value = parameters[name]
            if value is not None:
                version += id(value), value._version
        if version == self._version:
            return False
        self.layout, self._version = None, version
        return True

    def why_not(self):
        """Why the model does not fit into the free memory, or ''. Nothing is taken for the answer. Raises ModelError for a layer
        whose neurons the engine cannot number."""
        if self.layout is not None:
            return ""
        needed, free = memory_of(self.model).total(torch.get_num_threads()) / 1e9, free_memory()
        if free is None or needed <= free / 1e9:
            return ""
        return f"the event engine needs {needed:.1f} GB for this network and {free / 1e9:.1f} GB are free: use --engine dense"

    def prepare(self):
        """The Layout, its weights folded now if they are not."""
        self.layout = self.layout or lay_out(self.model)
        return self.layout
