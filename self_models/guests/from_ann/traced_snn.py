"""TracedSNN: what from_ann makes of an ANN whose layers are no architecture's."""

from dataclasses import dataclass

import torch
from torch import nn

from self_models.basics.settings import Text, setting
from self_models.config import SNNConfig
from self_models.guests.from_ann.tracing import NONLINEARITIES, arguments_of
from self_models.layers.scale import Scale
from self_models.layers.stages import MAX_POOLS
from self_models.runtime.graph import Graph
from self_models.runtime.outputs import INPUT
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

NEURON = "neuron"  # the kind of a node that spikes
KINDS = {
    cls.__name__: cls for cls in (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.Flatten, nn.Identity)
}
KINDS["Scale"] = lambda: Scale(torch.ones(()))


@dataclass
class TracedSettings(SNNConfig):
    nodes: list = setting(
        None,
        Text(),
        "(name, kind, arguments, sources) of each layer; the last sends the logits",
        flags=(),
    )


class TracedSNN(VGG_SNN_STDB_wFeedback):
    """The SNN of any layers and edges, which are in `network`, without a decoder."""

    Settings = TracedSettings

    def build(self):
        self.has_feedback = False
        self.change()
        kinds = KINDS | {
            NEURON: lambda: self.new_neuron("network"),
            "MaxPool2d": MAX_POOLS[self.settings["max_pool"]],
        }
        self.network = nn.ModuleDict(
            {name: kinds[kind](**own) for name, kind, own, _ in self.settings["nodes"]}
        )

    def make_graph(self):
        modules = {f"network.{name}": module for name, module in self.network.items()}
        edges = [
            (source if source == INPUT else f"network.{source}", f"network.{name}")
            for name, _, _, sources in self.settings["nodes"]
            for source in sources
        ]
        return Graph(modules, edges, self.image_shape, {"output": [*modules][-1]})

    @classmethod
    def of_layers(cls, layers, **settings):
        """A model with the weights of these Layers (guests/from_ann/tracing.py), with neurons for nonlinearities."""
        nodes = []
        for name, module, sources, _ in layers:
            kind = NEURON if isinstance(module, NONLINEARITIES) else type(module).__name__
            nodes.append((name, kind, {} if kind == NEURON else arguments_of(module), sources))
        model = cls(nodes=nodes, **settings).eval()
        for layer in layers:
            if not layer.is_nonlinear:
                model.network[layer.name].load_state_dict(layer.module.state_dict())
        return model
