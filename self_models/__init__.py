"""The models: plans, layers, neurons, and the objectives built on them. load() gives a trained one, evaluate() judges it."""

from self_models.counting.evaluation import evaluate
from self_models.loading import load

__all__ = ["evaluate", "load"]
