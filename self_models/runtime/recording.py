"""What `record` asks of a run: spikes and membrane potentials of layers, or of some of their
neurons, at each step."""

from math import prod
from typing import NamedTuple

import torch

from self_models.basics import ModelError
from self_models.basics.settings import choices
from self_models.runtime.outputs import INPUT

KINDS = ("spikes", "membrane")
OF_ENDS = {"input": ("spikes",), "output": ("membrane",)}  # what these have of them


class Asked(NamedTuple):
    """What is asked of a layer: kinds, of KINDS; space: its shape, (C, H, W) or (N,); neurons: their numbers in the order of the
    flattened space, a list, or None for all."""

    kinds: tuple
    space: tuple
    neurons: list | None

    def chosen(self, values):
        """Of the layer's values, (..., C, H, W) or (..., N), those that are asked for, (..., n) or all."""
        return (
            values if self.neurons is None else values.flatten(-len(self.space))[..., self.neurons]
        )


def asked_by(record, model):
    """Layer -> Asked, of a model's `record`: layer -> 'spikes', 'membrane', or a tuple of both, after which the numbers of
    neurons may come; or 'all', of all neurons. Layers are 'input' (spikes: which input neurons send), the spiking layers by their
    names, neurons that send their potential (membrane), and 'output' (membrane: the potential that the last layer accumulates,
    the logits so far). Raises ModelError for anything else."""
    if record is None:
        return {}
    neurons, asked, spaces = model.neurons(), {}, spaces_of(model)
    if record == "all":
        record = {name: kinds_of(neurons, name) for name in neurons}
    for name, words in record.items():
        if name not in spaces:
            raise ModelError(f"record: there is no layer {name!r}: {choices(name, spaces)}")
        if not spaces[name]:
            raise ModelError(
                f"record: {name} stands beside the network's stages, and how many neurons it has is not known"
            )
        *kinds, last = [words] if isinstance(words, str) else words
        if isinstance(last, str):
            kinds, numbers = (*kinds, last), None
        else:
            kinds, numbers = tuple(kinds), checked_numbers(last, name, prod(spaces[name]))
        has = kinds_of(neurons, name)
        if wrong := [kind for kind in kinds if kind not in has]:
            raise ModelError(f"record: {name} has no {wrong[0]!r}: choose from {', '.join(has)}")
        asked[name] = Asked(kinds, tuple(spaces[name]), numbers)
    return asked


def checked_numbers(numbers, name, size):
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


def recorded_now(asked, sent, memory, neurons):
    """What is asked for of a step that has been taken, (layer, kind) -> (B, ...), but for the logits. sent: layer -> what it has
    sent; memory: layer -> its state; neurons: layer -> SpikingNeuron."""
    values = {}
    for name, layer in asked.items():
        nothing = torch.zeros(len(sent[INPUT]), *layer.space, device=sent[INPUT].device)
        if name != "output" and "spikes" in layer.kinds:
            values[name, "spikes"] = layer.chosen(sent.get(name, nothing) != 0)
        if name != "output" and "membrane" in layer.kinds:
            values[name, "membrane"] = layer.chosen(
                (memory.get(name) or neurons[name].at_rest(nothing)).v
            )
    return values


def recorded(asked, shown):
    """Layer -> kind -> (T, B, ...) of what steps show, where anything is asked for, else None."""
    return {
        name: {
            kind: layer.chosen(shown["logits"]) if name == "output" else shown[name, kind]
            for kind in layer.kinds
        }
        for name, layer in asked.items()
    } or None


def spaces_of(model):
    """Layer -> shape of what it sends of one image in one step, (C, H, W) or (N,), () beside the stages; and 'output', the
    logits."""
    graph = model.graph
    spaces = {name: graph.shapes.get(name, ()) for name in (*model.layers, *graph.neuron_names)}
    return spaces | {"output": graph.shapes[graph.ends["output"]]}


def kinds_of(neurons, name):
    """What can be recorded of a layer. neurons: layer -> SpikingNeuron."""
    return OF_ENDS.get(name, KINDS) if getattr(neurons.get(name), "fires", True) else ("membrane",)
