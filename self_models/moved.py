"""Modules that version 0.6 moved: their old paths work until 0.7, with a warning."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings

PACKAGES = ("fast", "kernel", "network", "running")  # they are no more

MOVED = {  # old path -> where it is now; both are below self_models
    "adopting": "guests.from_ann.converting",
    "conformance": "guests.conformance",
    "counting.ledger": "guests.energy",
    "fast.neuron_steps": "engines.dense.neuron_steps",
    "fast.run": "engines.dense.run",
    "graph": "guests.nir.graph_snn",
    "integers": "guests.quantize",
    "kernel.__main__": "engines.event.__main__",
    "kernel.build": "engines.event.build",
    "kernel.engine": "engines.event.engine",
    "kernel.layout": "engines.event.layout",
    "kernel.state": "engines.event.state",
    "kernel.tables": "engines.event.tables",
    "network.chains": "runtime.chains",
    "network.graph": "runtime.graph",
    "network.known": "runtime.known",
    "network.network_settings": "config",
    "network.neurons": "layers.neurons",
    "network.norms": "layers.norms",
    "network.plans": "layers.architectures",
    "network.stages": "layers.stages",
    "network.surrogates": "layers.surrogates",
    "network.tracing": "guests.from_ann.tracing",
    "nir": "guests.nir.reading",
    "running.draws": "runtime.draws",
    "running.outputs": "runtime.outputs",
    "running.steps": "runtime.loop",
    "running.stream": "guests.streams.stream",
}

NAMES = {  # names that left the module they were in: (old path, name) -> where it is now
    ("graph", "TracedSNN"): "guests.from_ann.traced_snn",
    ("graph", "TracedSettings"): "guests.from_ann.traced_snn",
    ("network.neurons", "AsElsewhere"): "guests.nir.neurons",
    ("network.neurons", "Integrator"): "guests.nir.neurons",
}


class OldPaths(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds a module under its old path: one that looks names up in the new."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the specification of an old module, or None for any other."""
        top, _, old = fullname.partition(".")
        if top != "self_models" or old not in {*PACKAGES, *MOVED}:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=old in PACKAGES)

    def exec_module(self, module: types.ModuleType) -> None:
        """Have the module give what its new place has."""
        old = module.__name__.removeprefix("self_models.")
        if old in MOVED:
            module.__getattr__ = lambda name: find(old, name)

    def is_package(self, fullname: str) -> bool:
        """Return whether an old path was that of a package."""
        return fullname.removeprefix("self_models.") in PACKAGES

    def get_source(self, fullname: str) -> str:
        """Return what ``python -m`` runs under an old path: the moved module."""
        new = MOVED[fullname.removeprefix("self_models.")]
        return f"import runpy\nrunpy.run_module('self_models.{new}', run_name='__main__')\n"


def find(old: str, name: str) -> object:
    """Return what a moved module has under a name, and warn that it has moved.

    Raises
    ------
    AttributeError
        If its new place has no such name.
    """
    new = NAMES.get((old, name), MOVED[old])
    module = importlib.import_module(f"self_models.{new}")
    if not hasattr(module, name):
        raise AttributeError(f"module 'self_models.{old}' has no attribute {name!r}")
    if not name.startswith("__"):
        warnings.warn(
            f"self_models.{old} is now self_models.{new}: import {name} from there",
            DeprecationWarning,
            stacklevel=3,
        )
    return getattr(module, name)


def keep_old_paths() -> None:
    """Let the old paths be imported."""
    if not any(isinstance(finder, OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(OldPaths())
