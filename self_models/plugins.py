"""What extends the method, and where it is: the method asks for it by name.

Nothing else in self_models names wfeedback. An engine, a kind of file or a form of
weights is entered here, as the text "module:name", and is imported when it is first
asked for.
"""

import functools
import importlib

ENGINES = {  # they run a network faster than its own step()
    "dense": "self_models.running.dense.engine:DenseEngine",
    "event": "wfeedback.event.engine:EventEngine",
}
ENGINE_NAMES = ("auto", "dense", "event", "reference")  # what load(engine=...) takes

UPDATES = {  # orders of charge, fire and reset beside those in neurons/spiking.py
    "phased": "self_models.running.phased:phased",
}
TIMINGS = {  # update -> when its layers charge and fire, where not in every timestep
    "phased": "self_models.running.phased:PhasedTiming",
}
MODELS = {  # networks that checkpoints may name, beside those of the core
    "TracedSNN": "self_models.traced.traced_snn:TracedSNN",
}
FILES = {  # ending -> what load() makes of a file that is no checkpoint
    ".nir": "wfeedback.nir.loading:load_nir",
}
WEIGHTS = {  # what load(weights=...) takes beside float32 -> what makes it of a network
    "int8": "wfeedback.event.quantize:quantize",
    "int8_folded": "wfeedback.event.quantize:quantize_folded",
}

NAMES = {  # what `self_models` itself offers -> the module that has it
    "first_difference": "wfeedback.event.conformance",
    "from_nir": "wfeedback.nir.reading",
}

STREAM = "wfeedback.streams.stream:Stream"
FORGET = "wfeedback.streams.forgetting:forget"
FILL_UNIFORMS = "wfeedback.event.build:fill_uniforms"


class Place(str):
    """A text "module:name" that stands for what is at this place."""


@functools.cache
def load_object(place: str) -> object:
    """Import a class or function by its place, and return it.

    Parameters
    ----------
    place : str
        ``module:name``, such as a value of ``ENGINES``.

    Returns
    -------
    object
        What the module has under this name. It is imported once in a process.
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
