"""Modules that version 0.6 moved: their old paths work until 0.7, with a warning."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings

PACKAGES = tuple(f"self_models.{name}" for name in ("fast", "kernel", "network", "running"))

MOVED = {  # old path -> where it is now
    "harness.data.events": "self_models.data.events",
    "harness.data.folders": "self_models.data.folders",
    "harness.data.sets": "self_models.data.sets",
    "self_models.adopting": "self_models.guests.from_ann.converting",
    "self_models.conformance": "self_models.guests.conformance",
    "self_models.counting.ledger": "self_models.guests.energy",
    "self_models.fast.neuron_steps": "self_models.engines.dense.neuron_steps",
    "self_models.fast.run": "self_models.engines.dense.run",
    "self_models.graph": "self_models.guests.nir.graph_snn",
    "self_models.integers": "self_models.guests.quantize",
    "self_models.kernel.__main__": "self_models.engines.event.__main__",
    "self_models.kernel.build": "self_models.engines.event.build",
    "self_models.kernel.engine": "self_models.engines.event.engine",
    "self_models.kernel.layout": "self_models.engines.event.layout",
    "self_models.kernel.state": "self_models.engines.event.state",
    "self_models.kernel.tables": "self_models.engines.event.tables",
    "self_models.network.chains": "self_models.runtime.chains",
    "self_models.network.graph": "self_models.runtime.graph",
    "self_models.network.known": "self_models.runtime.known_parts",
    "self_models.network.network_settings": "self_models.config",
    "self_models.network.neurons": "self_models.layers.neurons",
    "self_models.network.norms": "self_models.layers.norms",
    "self_models.network.plans": "self_models.layers.architectures",
    "self_models.network.stages": "self_models.layers.stages",
    "self_models.network.surrogates": "self_models.layers.surrogates",
    "self_models.network.tracing": "self_models.guests.from_ann.tracing",
    "self_models.nir": "self_models.guests.nir.reading",
    "self_models.running.draws": "self_models.runtime.draws",
    "self_models.running.outputs": "self_models.runtime.outputs",
    "self_models.running.steps": "self_models.runtime.loop",
    "self_models.running.stream": "self_models.guests.streams.stream",
}

NAMES = {  # names that left the module they were in: (old path, name) -> where they are now
    ("self_models.graph", "TracedSNN"): "self_models.guests.from_ann.traced_snn",
    ("self_models.graph", "TracedSettings"): "self_models.guests.from_ann.traced_snn",
    ("self_models.network.chains", "AT_ONCE"): "self_models.engines.event.windows",
    ("self_models.network.chains", "Scale"): "self_models.layers.scale",
    ("self_models.network.graph", "has_state"): "self_models.layers.node_kinds",
    ("self_models.network.graph", "is_sender"): "self_models.layers.node_kinds",
    ("self_models.network.graph", "passes"): "self_models.layers.node_kinds",
    ("self_models.network.known", "fingerprint"): "self_models.engines.fingerprint",
    ("self_models.network.neurons", "AsElsewhere"): "self_models.guests.nir.neurons",
    ("self_models.network.neurons", "Integrator"): "self_models.guests.nir.neurons",
    ("self_models.network.neurons", "PhasedNeuron"): "self_models.guests.phased",
    ("self_models.network.neurons", "PhasedState"): "self_models.guests.phased",
    ("self_models.network.neurons", "phased"): "self_models.guests.phased",
    ("self_models.network.stages", "graph_of_stages"): "self_models.runtime.graph",
    ("self_models.running.steps", "RunState"): "self_models.runtime.state",
    ("self_models.running.steps", "View"): "self_models.runtime.state",
    ("self_models.running.steps", "decayed"): "self_models.guests.quantize",
}


class OldPaths(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds a module under its old path: one that looks names up in the new."""

    def find_spec(
        self, fullname: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the specification of an old module, or None for any other."""
        if fullname not in PACKAGES and fullname not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=fullname in PACKAGES)

    def exec_module(self, module: types.ModuleType) -> None:
        """Have the module give what its new place has."""
        old = module.__name__
        if old in MOVED:
            module.__getattr__ = lambda name: moved_attribute(old, name)

    def is_package(self, fullname: str) -> bool:
        """Return whether an old path was that of a package."""
        return fullname in PACKAGES

    def get_source(self, fullname: str) -> str:
        """Return what ``python -m`` runs under an old path: the moved module."""
        return f"import runpy\nrunpy.run_module({MOVED[fullname]!r}, run_name='__main__')\n"


def moved_attribute(old: str, name: str) -> object:
    """Return what the old path of a module has under a name, and warn that it moved.

    The ``__getattr__`` of a module under its old path calls this.

    Raises
    ------
    AttributeError
        If the new place has no such name.
    """
    new = MOVED[old]
    if (old, name) in NAMES:  # this name went elsewhere than the rest of its module
        new = NAMES[old, name]
    module = importlib.import_module(new)
    if not hasattr(module, name):
        raise AttributeError(f"module {old!r} has no attribute {name!r}")
    if not name.startswith("__"):  # Python itself asks for such names when it imports
        warnings.warn(
            f"{old} is now {new}: import {name} from there; the old path ends with 0.7",
            DeprecationWarning,
            stacklevel=3,  # the line that imports
        )
    return getattr(module, name)


def keep_old_paths() -> None:
    """Let the old paths be imported."""
    if not any(isinstance(finder, OldPaths) for finder in sys.meta_path):
        # first, since a folder that only holds __pycache__ would be found as a package
        sys.meta_path.insert(0, OldPaths())
