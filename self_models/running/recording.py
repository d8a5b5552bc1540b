"""What `record` asks of a run: the spikes and membrane potentials of its layers, or of some of their neurons, at each step."""

from typing import NamedTuple

import torch

from self_models.basics import ModelError
from self_models.basics.settings import choices
from self_models.running.outputs import INPUT

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
            raise ModelError(f"record: {name} stands beside the network's stages, and how many neurons it has is not known")
        asked[name] = asked_of(name, words, spaces[name], kinds_of(neurons, name))
    return asked


def recorded_now(asked, sent, memory, neurons):
    """What is asked for of a step that has been taken, (layer, kind) -> (B, ...), but for the logits. sent: layer -> what it has
    sent; memory: layer -> its state; neurons: layer -> SpikingNeuron."""
    found = {}
    for name, one in asked.items():
        at_rest = torch.zeros(len(sent[INPUT]), *one.space, device=sent[INPUT].device)
        for kind in one.kinds if name != "output" else ():
            state = memory.get(name) or neurons[name].at_rest(at_rest) if kind == "membrane" else None
            found[name, kind] = one.chosen(state.v if state else sent.get(name, at_rest) != 0)
    return found


def recorded(asked, shown):
    """Layer -> kind -> (T, B, ...) of what steps show, where anything is asked for, else None."""
    return {
        name: {kind: one.chosen(shown["logits"]) if name == "output" else shown[name, kind] for kind in one.kinds}
        for name, one in asked.items()
    } or None


def spaces_of(model):
    """Layer -> shape of what it sends of one image in one step, (C, H, W) or (N,), () beside the stages; and 'output', the
    logits."""
    graph = model.graph
    spaces = {name: graph.shapes.get(name, ()) for name in (*model.layers, *graph.senders)}
    return spaces | {"output": graph.shapes[graph.ends["output"]]}


def kinds_of(neurons, name):
    """What can be recorded of a layer. neurons: layer -> SpikingNeuron."""
    return OF_ENDS.get(name, KINDS) if getattr(neurons.get(name), "fires", True) else ("membrane",)


def asked_of(name, words, space, has):
    """The Asked of one layer of this space, which has these kinds. Raises ModelError for words that ask for nothing of them."""
    *kinds, last = [words] if isinstance(words, str) else words
    kinds, neurons = ((*kinds, last), None) if isinstance(last, str) else (kinds, torch.as_tensor(last))
    if wrong := [kind for kind in kinds if kind not in has]:
        raise ModelError(f"record: {name} has no {wrong[0]!r}: choose from {', '.join(has)}")
    return Asked(tuple(kinds), tuple(space), neurons)
