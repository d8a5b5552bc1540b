"""The layers of an ANN, as they were traced, and what they are made of."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from self_models.networks.scale import Scale
from self_models.neurons.norms import QCFS
from self_models.running.outputs import INPUT

NONLINEARITIES = nn.ReLU, nn.ReLU6, QCFS  # in whose places neurons will stand
WEIGHTED = nn.Conv2d, nn.Linear
NORMS = nn.BatchNorm1d, nn.BatchNorm2d

ARGUMENTS = {  # class -> names of the arguments that its constructor takes
    nn.Conv2d: (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
    ),
    nn.Linear: ("in_features", "out_features"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "divisor_override"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation"),
}


class Layer(NamedTuple):
    """A layer of an ANN.

    Attributes
    ----------
    name : str
        Its name among the layers.
    module : nn.Module
        One that networks here have, or one of NONLINEARITIES.
    sources : tuple of str
        Names of the layers whose sum it takes, or "input".
    where : str
        Where the ANN has it, in words: a layer or operation, and the line that calls
        it.
    """

    name: str
    module: nn.Module
    sources: tuple[str, ...]
    where: str = ""

    @property
    def is_nonlinear(self) -> bool:
        """Whether it is a nonlinearity, in whose place neurons will stand."""
        return isinstance(self.module, NONLINEARITIES)


def arguments_of(module: nn.Module) -> dict[str, object]:
    """Return the arguments of the constructor of a module of the same form."""
    arguments = {}
    for module_class, names in ARGUMENTS.items():
        if isinstance(module, module_class):
            arguments = {name: getattr(module, name) for name in names}
            break
    if isinstance(module, WEIGHTED):
        arguments["bias"] = module.bias is not None
    return arguments


def copy_with_bias(module: nn.Module) -> nn.Module:
    """Copy a convolution or nn.Linear, without parametrizations and with a bias.

    The bias is 0 where the module has none. Calibration shifts it.
    """
    module_class = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
    arguments = arguments_of(module)
    arguments["bias"] = True
    new = module_class(**arguments)
    new.weight.data = module.weight.detach().clone()
    if module.bias is None:
        new.bias.data = torch.zeros(len(new.weight))
    else:
        new.bias.data = module.bias.detach().clone()
    return new


# --- scales where spikes of several layers meet


class ScaleInserter:
    """Builds layers in which each layer's spikes first meet a weight, or a Scale.

    That weight can be multiplied by the layer's threshold, by which spikes become the
    ANN's activation.

    Parameters
    ----------
    names : iterable of str
        Names of all layers that will be added. No Scale gets one of them.

    Attributes
    ----------
    layers : list of Layer
        What has been built.
    """

    def __init__(self, names: Iterable[str]):
        self.layers = []
        self._names = set(names)
        self._scale_of = {}  # name of a layer -> name of the Scale behind it
        # Name of a layer -> the neurons whose bare spikes it sends, that is spikes that
        # have met no weight since; or None if what it sends has met one. Pixels, of
        # "input", need none, since they are no spikes.
        self._bare_spikes_of = {INPUT: None}

    def add(self, layer: Layer) -> None:
        """Add a layer, with a Scale of 1 before it where it needs one.

        A spike stands for as much as the threshold of its neurons, by which the first
        weights behind them will be multiplied (``scale_by_thresholds``). Where spikes
        would meet no weight of their own, a Scale is put in as one: before neurons, and
        where spikes of different neurons, whose thresholds differ, are added.

        Parameters
        ----------
        layer : Layer
            It comes after its sources.
        """
        sources = layer.sources
        neurons_before = {self._bare_spikes_of[source] for source in sources}
        if layer.is_nonlinear or len(neurons_before) > 1:
            sources = tuple(self.scaled(source) for source in sources)
        if layer.is_nonlinear:
            bare_spikes_of = layer.name  # neurons will stand here
        elif isinstance(layer.module, WEIGHTED):
            bare_spikes_of = None  # its weights are what the spikes meet
        else:
            # A pool, Flatten or sum passes on what it takes. All of its sources now
            # agree: they send spikes of the same neurons, or all of them no bare ones.
            bare_spikes_of = self._bare_spikes_of[sources[0]]
        self._bare_spikes_of[layer.name] = bare_spikes_of
        self.layers.append(layer._replace(sources=sources))

    def scaled(self, name: str) -> str:
        """Return the name of a layer that sends the same, and no bare spikes.

        It is the layer itself, or a Scale behind it, which is added if it is not there.
        """
        if self._bare_spikes_of[name] is None:
            return name
        if name not in self._scale_of:
            scale = f"{name}_worth"
            while scale in self._names:
                scale += "_"
            self._names.add(scale)
            self.layers.append(Layer(scale, Scale(torch.ones(())), (name,)))
            self._scale_of[name] = scale
            self._bare_spikes_of[scale] = None
        return self._scale_of[name]


def add_scales(layers: Sequence[Layer]) -> list[Layer]:
    """Put a Scale of 1 where spikes would meet no weight of their own.

    Spikes of several layers meet in a sum, or reach neurons or the end, without weights
    between.
    """
    inserter = ScaleInserter([layer.name for layer in layers])
    for layer in layers:
        inserter.add(layer)
    inserter.scaled(layers[-1].name)
    return inserter.layers
