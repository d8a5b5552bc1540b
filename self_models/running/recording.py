"""What `record` asks of a run: the spikes and membrane potentials of its layers, or of some of their neurons, at each step."""

from math import prod
from typing import NamedTuple

import torch

from self_models.basics import ModelError
from self_models.basics.settings import choices

KINDS = ("spikes", "membrane")
OF_ENDS = {"input": ("spikes",), "output": ("membrane",)}  # what these have of them


class Asked(NamedTuple):
    """What is asked of a layer: kinds, of KINDS; space: its shape, (C, H, W) or (N,); neurons: their numbers in the order of the
    flattened space, (n,), or None for all."""

    kinds: tuple
    space: tuple
    neurons: torch.Tensor | None

    def chosen(self, values):
        """Of the layer's values, (..., C, H, W) or (..., N), those that are asked for, (..., n) or all."""
        return values if self.neurons is None else values.flatten(-len(self.space))[..., self.neurons.to(values.device)]


def asked_by(record, wiring):
    """Layer -> Asked, of a model's `record`: layer -> 'spikes', 'membrane', or a tuple of both, after which the numbers of
    neurons may come. Layers are 'input' (spikes: which input neurons send), the spiking layers by their names, and 'output'
    (membrane: the potential that the last layer accumulates, the logits so far). Raises ModelError for anything else."""
    if record is None:
        return {}
    asked, spaces = {}, spaces_of(wiring)
    if not isinstance(record, dict):
        raise ModelError("record: give a dict, such as {'features.1': 'spikes'}")
    for name, words in record.items():
        if name not in spaces:
            raise ModelError(f"record: there is no layer {name!r}: {choices(name, spaces)}")
        if not spaces[name]:
            raise ModelError(f"record: {name} stands beside the network's stages, and how many neurons it has is not known")
        asked[name] = asked_of(name, words, spaces[name])
    return asked


def recorded_now(run, neurons):
    """What is asked for of the step that a RunState has just taken, (layer, kind) -> (B, ...), but for the logits. neurons:
    layer -> SpikingNeuron."""
    found = {}
    for name, one in run.asked.items():
        at_rest = torch.zeros(len(run.image), *one.space, device=run.image.device)
        for kind in one.kinds if name != "output" else ():
            if kind == "spikes":
                values = run.spikes.get(name, at_rest) != 0
            else:
                values = (run.memory.get(name) or neurons[name].at_rest(at_rest)).v
            found[name, kind] = one.chosen(values)
    return found


def recorded(asked, shown):
    """Layer -> kind -> (T, B, ...) of what steps show, where anything is asked for, else None."""
    return {
        name: {kind: one.chosen(shown["logits"]) if name == "output" else shown[name, kind] for kind in one.kinds}
        for name, one in asked.items()
    } or None


def spaces_of(wiring):
    """Layer -> shape of what it sends of one image in one step, (C, H, W) or (N,); of 'output', what the last one accumulates."""
    flat = {one.target for one in wiring.forward if one.is_linear}
    spaces = enumerate(zip([*wiring.names, "output"], wiring.shapes, strict=False))
    return {name: shape[:1] if node in flat else shape for node, (name, shape) in spaces}


def asked_of(name, words, space):
    """The Asked of one layer of this space. Raises ModelError for words that ask for nothing that it has."""
    parts = list(words) if isinstance(words, tuple | list) else [words]
    kinds, others = [part for part in parts if isinstance(part, str)], [part for part in parts if not isinstance(part, str)]
    has = OF_ENDS.get(name, KINDS)
    if wrong := [kind for kind in kinds if kind not in has]:
        raise ModelError(f"record: {name} has no {wrong[0]!r}: choose from {', '.join(has)}")
    if not kinds or len(others) > 1:
        example = f"{has[0]!r}, or for neurons 0 and 5 ({has[0]!r}, [0, 5])"
        raise ModelError(f"record: of {name} ask for {example}, not for {words!r}")
    return Asked(tuple(dict.fromkeys(kinds)), tuple(space), neurons_of(name, others[0], prod(space)) if others else None)


def neurons_of(name, numbers, size):
    """Numbers of neurons, anything like a list of them, as a tensor. Raises ModelError for what are none of this many."""
    try:
        neurons = torch.as_tensor(numbers).cpu()
    except (TypeError, ValueError, RuntimeError):
        neurons = torch.zeros(0)
    whole = neurons.dim() == 1 and len(neurons) and not (neurons.is_floating_point() or neurons.dtype == torch.bool)
    if not whole or neurons.min() < 0 or neurons.max() >= size or len(neurons.unique()) < len(neurons):
        raise ModelError(f"record: neurons of {name} are a list of numbers from 0 to {size - 1}, each once, not {numbers!r}")
    return neurons.long()
