"""What `record` asks of a run: the spikes and membrane potentials of its layers, or of some of their neurons, at each step."""

from math import prod
from typing import NamedTuple

import torch

from self_models.basics import ModelError
from self_models.basics.settings import choices

FIELDS = {"spikes": "recorded_spikes", "membrane": "recorded_v"}  # of a Frame
KINDS = tuple(FIELDS)
OF_ENDS = {"input": ("spikes",), "output": ("membrane",)}  # what these have of them


class Asked(NamedTuple):
    """What is asked of a layer: kinds, of KINDS; space: its shape, (C, H, W) or (N,); neurons: their numbers in the order of the
    flattened space, (n,), or None for all."""

    kinds: tuple
    space: tuple
    neurons: torch.Tensor | None

    @property
    def shape(self):
        """Of what is recorded of one image in one step."""
        return self.space if self.neurons is None else (len(self.neurons),)

    def chosen(self, values):
        """Of the layer's values, (t, B, ...), those that are asked for, (t, B, n)."""
        return values.flatten(2) if self.neurons is None else values.flatten(2)[..., self.neurons.to(values.device)]


class Recorder:
    """asked: layer -> Asked, of a model's `record`: layer -> 'spikes', 'membrane', or a tuple of both, after which the numbers of
    neurons may come. Layers are 'input' (spikes: which input neurons send), the spiking layers by their names, and 'output'
    (membrane: the potential that the last layer accumulates, the logits so far). Raises ModelError for anything else.

    A run keeps (T, B, n) of the n neurons of all layers in a row, a tensor for each kind.
    """

    def __init__(self, record=None, wiring=None):
        self.asked, self._parts, self._neurons, self._before = {}, {}, {}, {}
        if record is None:
            return
        spaces = spaces_of(wiring)
        if not isinstance(record, dict):
            raise ModelError("record: give a dict, such as {'features.1': 'spikes'}")
        for name, words in record.items():
            if name not in spaces:
                raise ModelError(f"record: there is no layer {name!r}: {choices(name, spaces)}")
            if not spaces[name]:
                raise ModelError(f"record: {name} stands beside the network's stages, and how many neurons it has is not known")
            self.asked[name] = asked_of(name, words, spaces[name])

    def of(self, kind):
        """(name, Asked) of the layers of which this kind is kept, in a row; of the output nothing is, but the logits."""
        return [(name, one) for name, one in self.asked.items() if kind in one.kinds and name != "output"]

    # --- the dense engine

    def begin(self, neurons, memory):
        """What a run is to keep of these layers, layer -> kind -> None until it has. neurons: layer -> SpikingNeuron; memory:
        module name -> state."""
        self._neurons, self._before = neurons, dict(memory)
        return {name: dict.fromkeys(self.asked[name].kinds) for name in neurons if name in self.asked}

    def end(self, recorded, steps, among, images):
        """Take what has been recorded of these steps, for the steps among: in others nothing spikes, membranes stay."""
        for name, of_kind in recorded.items():
            asked = self.asked[name]
            for kind, values in of_kind.items():
                values = [] if values is None else asked.chosen(values if kind == "membrane" else values != 0)
                at, found = dict(zip(steps, values, strict=False)), []  # none where the layer did not run
                last = torch.zeros(len(images), prod(asked.shape), device=images.device)
                if kind == "spikes":
                    last = last.bool()
                elif name in self._before:
                    (last,) = asked.chosen(self._before[name].v[None])
                else:
                    last = self._neurons[name].at_rest(last).v
                for step in among:
                    now = at.get(step, last)
                    found.append(now)
                    last = now if kind == "membrane" else last
                self._parts.setdefault((name, kind), []).append(torch.stack(found))

    def note_input(self, sent):
        """Take which input neurons send in some steps, bool (T, B, C, H, W)."""
        if "input" in self.asked:
            self._parts.setdefault(("input", "spikes"), []).append(self.asked["input"].chosen(sent))

    def taken(self):
        """What has been taken since it was last asked, kind -> (T, B, n), None for none."""
        parts, self._parts = self._parts, {}
        rows = {kind: [torch.cat(parts[name, kind]) for name, _ in self.of(kind)] for kind in KINDS}
        return {FIELDS[kind]: torch.cat(row, -1) if row else None for kind, row in rows.items()}

    # --- step by step

    def of_step(self, spikes, memory, neurons, images):
        """As taken(), of one step, (B, n). spikes: layer -> what it has sent, of those that ran; memory: module name -> state."""
        rows = {kind: [] for kind in KINDS}
        for kind in KINDS:
            for name, one in self.of(kind):
                values = torch.zeros(len(images), *one.space, device=images.device)
                if kind == "spikes":
                    values = spikes.get(name, values) != 0
                else:
                    values = (memory.get(name) or neurons[name].at_rest(values)).v
                rows[kind].append(one.chosen(values[None])[0])
        return {FIELDS[kind]: torch.cat(row, -1) if row else None for kind, row in rows.items()}

    # --- of a whole run

    def recorded(self, spikes, membranes, logits):
        """layer -> kind -> (T, B, ...), for what a run has recorded and the logits after each step (T, B, labels); None where
        nothing is asked for."""
        rows = {}
        for kind, values in zip(KINDS, (spikes, membranes), strict=True):
            sizes = [prod(one.shape) for _, one in self.of(kind)]
            rows[kind] = iter(values.split(sizes, -1) if sizes else ())
        return {
            name: {
                kind: (one.chosen(logits) if name == "output" else next(rows[kind])).unflatten(-1, one.shape)
                for kind in one.kinds
            }
            for name, one in self.asked.items()
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
