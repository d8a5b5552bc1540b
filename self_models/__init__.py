"""The models: plans, layers, neurons, and the objectives built on them. load() gives a trained one, evaluate() judges it,
first_difference() says where two part, read_images() turns image files into what it takes, load_data() gives a data set's,
from_ann() makes one of somebody else's trained ANN, from_nir() of somebody else's spiking network."""

from self_models.adopting import from_ann
from self_models.basics import ModelError
from self_models.basics.images import read_images
from self_models.conformance import first_difference
from self_models.counting.evaluation import evaluate
from self_models.loading import load
from self_models.nir import from_nir

__all__ = [
    "ModelError",
    "evaluate",
    "first_difference",
    "from_ann",
    "from_nir",
    "load",
    "load_data",
    "read_images",
]


def __getattr__(name):
    """load_data, of the harness, which builds on the models: brought when it is asked for."""
    if name != "load_data":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness.data.sets import load_data

    return load_data
