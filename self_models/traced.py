"""TracedSNN: the network that from_ann makes of an ANN which is no VGG, of layers as it has them."""

from dataclasses import dataclass

import torch
from torch import nn

from self_models.basics.settings import Text, setting
from self_models.network.chains import Scale
from self_models.network.graph import Graph
from self_models.network.network_settings import SpikingSettings
from self_models.network.stages import MAX_POOLS
from self_models.network.tracing import NONLINEARITIES, arguments_of
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

NEURON, KINDS = "neuron", {cls.__name__: cls for cls in (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.Flatten, nn.Identity)}


@dataclass
class TracedSettings(SpikingSettings):
    nodes: list = setting(None, Text(), "(name, kind, arguments, sources) of each layer; the last sends the logits", flags=())


class TracedSNN(VGG_SNN_STDB_wFeedback):
    """The same around layers that any edges join, without a decoder; they are in `network`. A spike is worth its neurons'
    threshold, by which weights are multiplied: thresholds and biases are the ANN's, logits / T its logits."""

    Settings = TracedSettings

    def build(self):
        self.has_feedback = False
        self.change()
        self.network = nn.ModuleDict({name: self.made(kind, own) for name, kind, own, _ in self.settings["nodes"]})

    def made(self, kind, own):
        if kind == NEURON:
            return self.new_neuron("network")
        if kind == "Scale":
            return Scale(torch.ones(()))
        return (MAX_POOLS[self.settings["max_pool"]] if kind == "MaxPool2d" else KINDS[kind])(**own)

    def make_graph(self):
        modules = {f"network.{name}": module for name, module in self.network.items()}
        edges = [
            (source if source == "input" else f"network.{source}", f"network.{name}")
            for name, _, _, sources in self.settings["nodes"]
            for source in sources
        ]
        return Graph(modules, edges, self.image_shape, {"output": [*modules][-1]})


def rows_of(layers):
    """The setting `nodes` of these Layers."""
    kinds = [NEURON if isinstance(layer.module, NONLINEARITIES) else type(layer.module).__name__ for layer in layers]
    return [
        (layer.name, kind, {} if kind == NEURON else arguments_of(layer.module), layer.sources)
        for kind, layer in zip(kinds, layers, strict=True)
    ]
