"""What a run records: spikes and membrane potentials, of layers or some neurons.

A caller asks by the argument ``record`` of a network: a dict of layers, such as

    {"features.1": "spikes", "features.3": ("spikes", "membrane", [0, 7])}

Layers are "input" (its spikes), the spiking layers (spikes and membrane potentials),
neurons that send their potential (membrane potentials), and "output" (membrane
potentials: those that the last layer accumulates, which are the logits so far).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from self_models.errors import ModelError
from self_models.neurons.spiking import SpikingNeuron
from self_models.running.outputs import INPUT
from self_models.settings import choices

KINDS = ("spikes", "membrane")
KINDS_OF_ENDS = {"input": ("spikes",), "output": ("membrane",)}  # not all that neurons have


@dataclass(frozen=True)
class RecordSpec:
    """What to record of a layer.

    Attributes
    ----------
    kinds : tuple of {"spikes", "membrane"}
        Which quantities.
    shape : tuple of int
        Shape of the layer's signal of one image: (C, H, W) or (N,).
    neurons : list of int or None
        Which neurons, by their numbers in the flattened shape. None for all.
    """

    kinds: tuple[str, ...]
    shape: tuple[int, ...]
    neurons: list[int] | None

    def select(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of the neurons that are recorded.

        Parameters
        ----------
        values : Tensor of shape (..., C, H, W) or (..., N)
            Values of all neurons of the layer.

        Returns
        -------
        Tensor of shape (..., n), or that of ``values`` if all are recorded
            The values of these ``n`` neurons.
        """
        if self.neurons is None:
            return values
        return values.flatten(-len(self.shape))[..., self.neurons]


def parse_record(record: Mapping | str | None, model: nn.Module) -> dict[str, RecordSpec]:
    """Read the argument ``record`` of a network.

    Parameters
    ----------
    record : mapping, "all" or None
        Layer -> "spikes", "membrane", or a tuple of kinds, after which the numbers of
        neurons may come; "all": everything of all neurons; None: nothing. The docstring
        of this module says which layers there are.
    model : nn.Module
        A network with a graph.

    Returns
    -------
    dict of {str: RecordSpec}
        What to record of each layer.

    Raises
    ------
    ModelError
        If a layer, a kind or a neuron does not exist.
    """
    if record is None:
        return {}
    neurons = model.neurons()
    if record == "all":
        record = {name: recordable_kinds(neurons, name) for name in neurons}
    shapes = shapes_of_layers(model)
    specs = {}
    for name, request in record.items():
        if name not in shapes:
            raise ModelError(f"record: there is no layer {name!r}: {choices(name, shapes)}")
        if not shapes[name]:
            raise ModelError(
                f"record: {name} stands beside the network's stages, "
                "and how many neurons it has is not known"
            )
        specs[name] = record_spec(
            request, name, tuple(shapes[name]), recordable_kinds(neurons, name)
        )
    return specs


def record_spec(
    request: str | Sequence, name: str, shape: tuple[int, ...], possible_kinds: tuple[str, ...]
) -> RecordSpec:
    """Read what ``record`` says of one layer.

    Parameters
    ----------
    request : str or sequence
        A kind, or a sequence of kinds, whose last element may be numbers of neurons.
    name : str
        Name of the layer.
    shape : tuple of int
        Shape of the layer's signal of one image.
    possible_kinds : tuple of str
        What can be recorded of it.

    Returns
    -------
    RecordSpec
        What to record.

    Raises
    ------
    ModelError
        If the layer has no such kind or neuron.
    """
    kinds = [request] if isinstance(request, str) else list(request)
    numbers = None
    if not kinds:
        raise ModelError(f"record: {name}: choose from {', '.join(possible_kinds)}")
    if not isinstance(kinds[-1], str):
        numbers = checked_numbers(kinds.pop(), name, prod(shape))
    for kind in kinds:
        if kind not in possible_kinds:
            raise ModelError(
                f"record: {name} has no {kind!r}: choose from {', '.join(possible_kinds)}"
            )
    return RecordSpec(tuple(kinds), shape, numbers)


def checked_numbers(numbers: Any, name: str, size: int) -> list[int]:
    """Check the numbers of a layer's neurons, of which something is to be recorded.

    Parameters
    ----------
    numbers : array-like of int
        Numbers from 0 on, or from -1 down for those at the end.
    name : str
        Name of the layer.
    size : int
        How many neurons it has.

    Returns
    -------
    list of int
        The same numbers.

    Raises
    ------
    ModelError
        If they are no whole numbers, or there is no such neuron.
    """
    numbers = torch.as_tensor(numbers)
    if numbers.numel() == 0:
        return []
    is_whole = not (numbers.is_floating_point() or numbers.dtype == torch.bool)
    if not is_whole or numbers.long().min() < -size or numbers.long().max() >= size:
        raise ModelError(
            f"record: {name} has neurons 0 to {size - 1}, which are chosen by whole numbers"
        )
    return numbers.tolist()


def record_step(
    specs: Mapping[str, RecordSpec],
    sent: Mapping[str, torch.Tensor],
    layer_states: Mapping[str, Any],
    neurons: Mapping[str, SpikingNeuron],
) -> dict[tuple[str, str], torch.Tensor]:
    """Return what is to be recorded of the timestep that has just run.

    Of "output" nothing: its membrane potentials are the logits, which are kept anyway.

    Parameters
    ----------
    specs : mapping of {str: RecordSpec}
        What to record of each layer.
    sent : mapping of {str: Tensor of shape (B, ...)}
        What each layer, and "input", has sent.
    layer_states : mapping
        State of each layer after the timestep; of one that has not run yet it may lack.
    neurons : mapping of {str: SpikingNeuron}
        The network's layers of neurons.

    Returns
    -------
    dict of {(str, str): Tensor of shape (B, ...)}
        Values by layer and kind.
    """
    values = {}
    for name, spec in specs.items():
        if name == "output":
            continue
        nothing = torch.zeros(len(sent[INPUT]), *spec.shape, device=sent[INPUT].device)
        if "spikes" in spec.kinds:
            values[name, "spikes"] = spec.select(sent.get(name, nothing) != 0)
        if "membrane" in spec.kinds:
            state = layer_states.get(name) or neurons[name].at_rest(nothing)
            values[name, "membrane"] = spec.select(state.v)
    return values


def collect_records(
    specs: Mapping[str, RecordSpec], outputs: Mapping[Any, torch.Tensor]
) -> dict[str, dict[str, torch.Tensor]] | None:
    """Arrange what was recorded as ``SNNOutput.recorded`` has it.

    Parameters
    ----------
    specs : mapping of {str: RecordSpec}
        What to record of each layer.
    outputs : mapping of {object: Tensor of shape (T, B, ...)}
        Outputs of all timesteps: what ``record_step`` returned, and "logits".

    Returns
    -------
    dict of {str: dict of {str: Tensor of shape (T, B, ...)}} or None
        Values by layer and then by kind. None if nothing was to be recorded.
    """
    recorded = {}
    for name, spec in specs.items():
        recorded[name] = {}
        for kind in spec.kinds:
            if name == "output":
                recorded[name][kind] = spec.select(outputs["logits"])
            else:
                recorded[name][kind] = outputs[name, kind]
    return recorded or None


def shapes_of_layers(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of what each layer sends for one image in one timestep.

    Parameters
    ----------
    model : nn.Module
        A network with a graph.

    Returns
    -------
    dict of {str: tuple of int}
        By name of the layer, "input" among them: (C, H, W) or (N,); () for a layer
        beside the network's stages. "output": the shape of the logits.
    """
    graph = model.graph
    shapes = {}
    for name in (*model.layers, *graph.neuron_names):
        shapes[name] = graph.shapes.get(name, ())
    shapes["output"] = graph.shapes[graph.ends["output"]]
    return shapes


def recordable_kinds(neurons: Mapping[str, SpikingNeuron], name: str) -> tuple[str, ...]:
    """Return what can be recorded of a layer.

    Parameters
    ----------
    neurons : mapping of {str: SpikingNeuron}
        The network's layers of neurons.
    name : str
        Name of one of them, "input" or "output".

    Returns
    -------
    tuple of {"spikes", "membrane"}
        Neurons that send their potential have no spikes.
    """
    fires = getattr(neurons.get(name), "fires", True)
    if not fires:
        return ("membrane",)
    return KINDS_OF_ENDS.get(name, KINDS)
