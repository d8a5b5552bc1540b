"""The models: plans, layers, neurons, and the objectives built on them. load() gives a trained one, evaluate() judges it,
read_images() turns image files into what it takes, from_layers() makes one of somebody else's layers."""

from self_models.adopting import from_layers
from self_models.basics.files import read_images
from self_models.counting.evaluation import evaluate
from self_models.loading import load

__all__ = ["evaluate", "from_layers", "load", "read_images"]
