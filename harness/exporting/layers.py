"""What other programs can take of a trained SNN: the layers from input to output, in order, and what is not among them."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from harness import UserError
from harness.data.facts import check_fits, where_images_lie
from harness.data.sets import load_data
from self_models.network.graph import passes
from self_models.network.known import check_known
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


class Layer(NamedTuple):
    """name: of the module in the checkpoint, say features.0, or flatten; module: Conv2d, AvgPool2d, MaxPool2d, Flatten, Linear
    or SpikingNeuron; before, after: shape of its input and output, without the batch."""

    name: str
    module: nn.Module
    before: tuple
    after: tuple


def check_spiking(model):
    """Raises UserError for an ANN."""
    if not isinstance(model, VGG_SNN_STDB_wFeedback):
        raise UserError("this checkpoint holds an ANN, which has no spiking layers: convert it with snn_wFeedback.py first")


def test_images(model, dataset="", data_dir="", skip_bad=False):
    """The test ImageSet of this data set, by default the model's own. Raises UserError where it is not to be had, and for images
    or classes that are not the model's."""
    name = dataset or where_images_lie(model.settings["dataset"], model.settings)
    _, _, test = load_data(name, data_dir, image_shape=model.image_shape, skip_bad=skip_bad)
    check_fits(test, model)
    return test


@torch.no_grad()
def forward_layers(model):
    """The Layers of encoder and classifier, without dropout. Raises UserError for an ANN, ModelError for what no architecture
    makes."""
    check_spiking(model)
    check_known(model, "an export")
    graph = model.graph
    if any(node.sources != (before.name,) for before, node in pairwise(graph.needed("output"))):
        raise UserError("this network has connections that no row of layers has: --to c takes it")
    return [Layer(node.name, node.module, graph.shapes[node.sources[0]], graph.shapes[node.name])
            for node in graph.needed("output") if not passes(node.module)]  # fmt: skip


def left_out(model):
    """What of the model is not among its forward layers, in words."""
    parts = [f"the decoder with its read-out {model.settings['readout']}"] if model.has_feedback else []
    parts += [f"the gate {model.settings['gate']}"] if model.has_feedback and model.gate.reacts else []
    return parts + ([f"the stopping rule {model.settings['rule']}"] if model.rule.stops else [])


def conventions(model):
    """How the layers are to be run, name -> text or number, for whoever reads the file."""
    settings = model.settings
    after = {"delayed": "one step later than charged", "immediate": "in the step that charges"}.get(
        settings["update"], f"in the {model.timesteps} steps after the {model.timesteps} in which the layer before fires"
    )
    floor, leak = settings["membrane_floor"], settings["output_leak"]
    held = "" if floor is None else f"; V does not fall below {-floor:g} thresholds"
    fades = "" if leak == 1 else f", of which a part of {leak:g} is kept per step"
    return {
        "timesteps": model.timesteps,
        "encoding": settings["encoding"],
        "update": settings["update"],
        "neuron": f"fires where V > threshold, {after}; then the threshold is subtracted from V{held}",
        "initial_potential": settings["initial_potential"],  # V before the first step, in thresholds
        "output": f"the last layer has no neurons: its output, summed over all steps{fades}, is the logits",
        "left_out": ", ".join(left_out(model)) or "nothing",
    }
