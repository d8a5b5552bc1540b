"""The models: plans, layers, neurons, and the objectives built on them. load() gives a trained one, evaluate() judges it,
from_layers() makes one of somebody else's layers."""

from self_models.adopting import from_layers
from self_models.counting.evaluation import evaluate
from self_models.loading import load

__all__ = ["evaluate", "from_layers", "load"]
