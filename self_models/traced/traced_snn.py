"""TracedSNN: what from_ann makes of an ANN whose layers are no architecture's."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from self_models.config import SNNConfig
from self_models.networks.scale import Scale
from self_models.networks.stages import MAX_POOLS
from self_models.running.graph import Graph
from self_models.running.outputs import INPUT
from self_models.settings import Text, setting
from self_models.traced.layers import NONLINEARITIES, Layer, arguments_of
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

NEURON = "neuron"  # the kind of a node that spikes
LINEAR_KINDS = {  # kind of a node -> class of its module
    "Conv2d": nn.Conv2d,
    "Linear": nn.Linear,
    "AvgPool2d": nn.AvgPool2d,
    "Flatten": nn.Flatten,
    "Identity": nn.Identity,
}


@dataclass
class TracedSettings(SNNConfig):
    """Settings of a TracedSNN.

    Attributes
    ----------
    nodes : list of (str, str, dict, tuple of str)
        Of each layer its name, its kind, the arguments of its module, and the names of
        the layers that it takes. The last layer sends the logits.
    """

    nodes: list = setting(
        None,
        Text(),
        "(name, kind, arguments, sources) of each layer; the last sends the logits",
        flags=(),
    )


class TracedSNN(VGG_SNN_STDB_wFeedback):
    """An SNN of any layers and edges, without a decoder.

    Its modules are in ``network``, by the names that ``settings["nodes"]`` has.
    """

    Settings = TracedSettings

    def build(self) -> None:
        """Make the modules, from the settings."""
        self.has_feedback = False
        self.change()
        modules = {}
        for name, kind, arguments, _ in self.settings["nodes"]:
            modules[name] = self._new_module(kind, arguments)
        self.network = nn.ModuleDict(modules)

    def _new_module(self, kind: str, arguments: dict) -> nn.Module:
        """Make the module of a node."""
        if kind == NEURON:
            return self.new_neuron("network")
        if kind == "Scale":
            return Scale(torch.ones(()))
        if kind == "MaxPool2d":
            return MAX_POOLS[self.settings["max_pool"]](**arguments)
        return LINEAR_KINDS[kind](**arguments)

    def make_graph(self) -> Graph:
        """Return the network's graph, from the settings."""
        modules = {f"network.{name}": module for name, module in self.network.items()}
        edges = []
        for name, _, _, sources in self.settings["nodes"]:
            for source in sources:
                source_name = INPUT if source == INPUT else f"network.{source}"
                edges.append((source_name, f"network.{name}"))
        last = [*modules][-1]
        return Graph(modules, edges, self.image_shape, {"output": last})

    @classmethod
    def of_layers(cls, layers: Sequence[Layer], **settings: object) -> "TracedSNN":
        """Make a network with the weights of an ANN's layers.

        Parameters
        ----------
        layers : list of Layer
            The layers. Neurons stand in the places of nonlinearities.
        **settings
            The network's other settings.

        Returns
        -------
        TracedSNN
            In evaluation.
        """
        nodes = []
        for layer in layers:
            if isinstance(layer.module, NONLINEARITIES):
                kind = NEURON
                arguments = {}
            else:
                kind = type(layer.module).__name__
                arguments = arguments_of(layer.module)
            nodes.append((layer.name, kind, arguments, layer.sources))
        model = cls(nodes=nodes, **settings).eval()
        for layer in layers:
            if not layer.is_nonlinear:
                weights = layer.module.state_dict()
                model.network[layer.name].load_state_dict(weights)
        return model
