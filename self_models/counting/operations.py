"""Operations of a network while it runs, as NeuroBench counts them, and as an event-driven machine would; and what they cost.

NeuroBench: an operation is a non-zero input times a non-zero weight, at every place where the weight is used, exact at
borders. A layer call whose inputs are all -1, 0 or 1 costs accumulates (ACs), any other multiply-accumulates (MACs); NeuroBench
judges a whole batch, we each image and step, so that the counts do not depend on the batch. A 2x2 layer or average takes spikes
and costs ACs, if anything, and the layer after it takes real values and costs MACs, whatever they are (NeuroBench: ACs where all
happen to be -1, 0 or 1). Dense counts zeros too.

Event-driven: a 2x2 layer (and pooling) is linear, so it folds into the layer after it. Then each spike of a neuron costs
one AC for each neuron of the next spiking layer that it reaches, and no MAC is left. (With `--encoding direct` the input's
analog values are counted as events too.) A maximum pool costs nothing, and of several spikes lets one through, whose way on is
counted. Leaks, thresholds, biases, dropout and the read-out's own update are counted by neither; how often a neuron gets a bias
is said beside them, and costs an AC in both energies.
"""

import functools
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from self_models.basics import ModelError
from self_models.basics.devices import wide
from self_models.layers.stages import LINEAR
from self_models.runtime.known_parts import check_known
from self_models.runtime.outputs import INPUT, part_of

COUNTED = ("acs", "macs", "dense", "events", "spikes", "neurons", "biases", "steps", "reached")


CONVENTIONS = Path(__file__).parent / "conventions"
PRICES = ("add", "multiply_add", "add_int8", "multiply_add_int8")
MEMORY = ("bytes", "picojoules")
MOST = 1e12  # of a price, in pJ, and of a size, in bytes
WORD = 4  # bytes of a weight, a membrane potential or an event


@dataclass(frozen=True)
class Convention:
    """Prices of operations, in pJ. title, source, year, technology, leaves_out: in words; picojoules: PRICES; memory: 'bytes' and
    'picojoules' of an access to a word, by the size of the memory, or None; counts: 'exact', or 'rate': each layer's mean rate
    times Entry.formula, as most papers have it."""

    title: str
    source: str
    year: int
    technology: str
    leaves_out: str
    picojoules: dict
    memory: dict | None = None
    counts: str = "exact"

    def __post_init__(self):
        """Raises ValueError, or TypeError, for prices that are not complete, or no numbers."""
        prices, memory = self.picojoules, self.memory
        for table, wanted in ((prices, PRICES), (memory or dict.fromkeys(MEMORY), MEMORY)):
            if {*table} != {*wanted}:
                raise ValueError(f"a table has {', '.join(table)}: it needs {', '.join(wanted)}")
        numbers = [*prices.values()]
        if memory:
            sizes, costs = (memory[name] for name in MEMORY)
            if (
                len(sizes) != len(costs)
                or len(sizes) < 2
                or sizes != sorted(set(sizes))
                or costs != sorted(costs)
            ):
                raise ValueError(
                    "memory: give two bytes or more, which rise, and as many picojoules, which do not fall"
                )
            numbers += sizes + costs
        if wrong := [value for value in numbers if not 0 <= value <= MOST]:
            raise ValueError(f"{wrong[0]} is no number from 0 to {MOST:g}")
        if self.counts not in ("exact", "rate") or (memory and self.counts == "rate"):
            raise ValueError("counts must be 'exact', or, where there is no memory, 'rate'")

    def access(self, words, word=WORD):
        """pJ of an access to so many bytes in a memory of so many words."""
        if not self.memory:
            return 0.0
        sizes, prices = self.memory["bytes"], self.memory["picojoules"]
        size = max(words * word, sizes[0])
        if size > sizes[-1]:  # on in the last proportion
            slope = (prices[-1] - prices[-2]) / (sizes[-1] - sizes[-2])
            return (prices[-1] + slope * (size - sizes[-1])) * word / WORD
        return float(np.interp(size, sizes, prices)) * word / WORD


@functools.cache
def conventions():
    """name -> Convention of those that come with the program. Not to be changed."""
    return {path.stem: read_convention(path) for path in sorted(CONVENTIONS.glob("*.toml"))}


def read_convention(path):
    """The Convention of a TOML file. Raises ModelError, with the file, for what is none."""
    try:
        return Convention(**tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {str(error).removeprefix('Convention.__init__() ')}") from None


def energy_joules(acs, macs):
    """Estimated energy of the arithmetic alone, without memory traffic: of conventions/arithmetic_45nm.toml."""
    price = conventions()["arithmetic_45nm"].picojoules
    return 1e-12 * (price["add"] * acs + price["multiply_add"] * macs)


def energies(operations, comparisons, analog_input=False):
    """Estimated energy per image of the two ways to run a network, in J, for OperationCounter's result and the pixels compared
    with their prediction, an AC each, as is each bias that a neuron gets. energy_joules: layer by layer, effective ACs and MACs;
    energy_event_joules: event by event, ACs alone, but for an analog input (--encoding direct), each of whose events multiplies.
    """
    analog = (
        next(iter(operations["layers"]["event_acs"].values())) if analog_input else 0.0
    )  # the first layer's
    added = comparisons + operations.get("bias_additions", 0)
    return {
        "energy_joules": energy_joules(
            operations["effective_acs"] + added, operations["effective_macs"]
        ),
        "energy_event_joules": energy_joules(operations["event_acs"] - analog + added, analog),
    }


class OperationCounter:
    """Counts the operations of an SNN's forward passes while it is entered: `with OperationCounter(model) as counter`. reaches:
    also the neurons that something arrives at in a step, which the event engine does not tell. Raises ModelError for a network
    with a part or a method whose operations are not known.

    What has reached the layers, of all images and steps together, sums of counts, which are exact: sent: layer, or pool ->
    (2, N): how often each neuron has sent something, where all that was sent in an image's step was -1, 0 or 1, and else; inputs:
    linear module that takes what another one gives -> the same of its inputs; ran: how many steps, each of one image; reached:
    last module -> how many neurons something arrived at, if that is asked for."""

    def __init__(self, model, reaches=False):
        check_known(model, "a count of operations", "evaluate(..., operations=False) does without")
        self.model, self.reaches, self.ran = model, reaches, 0
        self.inputs, self.sent, self.reached = (defaultdict(int) for _ in range(3))
        self._links = [link for link in model.graph.links if link.target not in model.graph.pools]

    def __enter__(self):
        if self.model.engine:
            self.model.engine.start_counting()
        self.model.operation_counter = self
        return self

    def __exit__(self, *exception):
        self.model.operation_counter = None
        if self.model.engine:
            self.model.engine.stop_counting(self)

    # --- from a run to events

    @torch.no_grad()
    def add(self, run, count, ends=None):
        """Count the last `count` steps of a RunState; ends: how many of them each image took (B,), None for all."""
        first = run.steps - count
        taken = torch.ones(count, len(run.image), dtype=torch.bool, device=run.image.device)
        if ends is not None:
            taken = torch.arange(count, device=ends.device)[:, None] < ends
        # steps in which the input is active: in others each layer only fires what it was charged with
        self.ran += sum(
            images
            for at, images in enumerate(taken.sum(1).tolist())
            if self.model.input_is_active(first + at)
        )
        signals, counted = {}, set()

        def rows(steps):
            """Which signals of these steps, bool (t B,), are of images that take them."""
            return taken[
                torch.tensor([step - first for step in steps], device=taken.device)
            ].flatten()

        for source, pieces in run.activity.items():
            numbers, parts = zip(*pieces, strict=True)
            steps, signal = [*chain(*numbers)], parts[0] if len(parts) == 1 else torch.cat(parts)
            signals[source] = steps, signal
            if source == INPUT:
                self.sent[source] += sent_of(signal, rows(steps), may_be_binary=True)
            else:
                spikes = sum_over_batch(signal, rows(steps)).flatten()
                self.sent[source] += torch.stack([spikes, torch.zeros_like(spikes)])
        for link in self._links:
            steps, signal = signals[link.source]
            if self.reaches:
                self.reached[link.end] += reached(link, signal[rows(steps)] != 0)
            for at, (name, module) in enumerate(zip(link.through, link.modules, strict=True)):
                shared = (
                    link.source,
                    link.through[: at + 1],
                )  # of what a sender sends, once on the same way
                signal = signal.flatten(1) if isinstance(module, nn.Linear) else signal
                if at and isinstance(module, LINEAR) and shared not in counted:
                    self.inputs[name] += sent_of(signal, rows(steps), may_be_binary=False)
                counted.add(shared)
                if module is not link.modules[-1]:
                    signal = signal.to(
                        run.logits.dtype
                    )  # of spikes alone: a bias is none of the inputs that events bring
                    signal = (
                        apply_layer(module, signal, module.weight)
                        if isinstance(module, LINEAR)
                        else module(signal)
                    )

    # --- from events to operations

    def counts(self):
        """What was counted so far, kind -> layer -> number: acs, macs, dense, biases and steps of linear layers, events and
        reached of the last one before neurons, spikes and neurons of spiking layers."""
        shapes, kinds, biased = self.model.graph.shapes, {kind: {} for kind in COUNTED}, set()
        inputs, sent = (
            self.inputs.copy(),
            {name: counts.sum(0) for name, counts in self.sent.items()},
        )
        # what a sender sends is what the first module behind it gets, once, however many links begin with it
        for name, source in dict.fromkeys(
            (link.through[0], link.source) for link in self._links if link.through
        ):
            inputs[name] = inputs[name] + (
                self.sent[source] if source in sent else torch.zeros(2, 1)
            )
        for link in self._links:
            for name, module, shape in zip(
                link.through, link.modules, link.chain.shapes, strict=False
            ):
                if not isinstance(module, LINEAR) or name in kinds["steps"]:
                    continue
                shape = (prod(shape),) if isinstance(module, nn.Linear) else shape
                met, weights = (
                    fan_out(module, shape, every=False),
                    fan_out(module, shape, every=True).sum().item(),
                )
                effective = inputs.get(name, torch.zeros(2, 1)) * met.flatten()
                kinds["acs"][name], kinds["macs"][name] = effective.sum(1).tolist()
                kinds["steps"][name] = steps = self.ran
                kinds["dense"][name] = weights * steps
            if (
                any(getattr(module, "bias", None) is not None for module in link.modules)
                and link.target not in biased
            ):
                biased.add(link.target)  # several biases of a neuron are added as one
                kinds["biases"][link.end] = prod(link.chain.after) * self.ran
            if link.through:
                met = synops(link, sent.get(link.source, torch.zeros(prod(link.chain.before))))
                kinds["events"][link.end] = kinds["events"].get(link.end, 0) + met
        kinds["reached"] = dict(self.reached)
        for name in self.model.layers:
            kinds["spikes"][name] = sent[name].sum().item() if name in sent else 0
            kinds["neurons"][name] = prod(shapes.get(name, ())) * self.ran
        return kinds

    def result(self, images):
        """Means per image: effective_acs, effective_macs, dense, event_acs; feedback_acs, feedback_macs and feedback_event_acs,
        the decoder's part of them; activation_sparsity, zeros among all outputs of spiking layers; layers, the same counts and
        the active share by layer; and of a network with biases bias_additions, how often a neuron gets one."""
        kinds = self.counts()
        named = {
            "effective_acs": "acs",
            "effective_macs": "macs",
            "dense": "dense",
            "event_acs": "events",
        }
        layers = {
            name: {layer: count / images for layer, count in kinds[kind].items()}
            for name, kind in named.items()
        }
        spikes, neurons = kinds["spikes"], kinds["neurons"]
        fired, all_ = (sum(by.values()) - by["input"] for by in (spikes, neurons))
        decoder = {
            name: sum(v for layer, v in by.items() if part_of(layer) == "decoder")
            for name, by in layers.items()
        }
        return {
            **{name: sum(by.values()) for name, by in layers.items()},
            "feedback_acs": decoder["effective_acs"],
            "feedback_macs": decoder["effective_macs"],
            "feedback_event_acs": decoder["event_acs"],
            "activation_sparsity": 1 - fired / max(all_, 1),
            "layers": layers
            | {
                "active_share": {
                    name: count / max(neurons[name], 1) for name, count in spikes.items()
                }
            },
            **(
                {"bias_additions": sum(kinds["biases"].values()) / images}
                if kinds["biases"]
                else {}
            ),
        }


def synops(link, sent):
    """Additions of a link: of what each neuron of its source has sent (N,), one for each neuron of the target that it reaches."""
    return (
        (sent.double().reshape(link.chain.before).cpu() * torch.from_numpy(link.chain.reach()))
        .sum()
        .item()
    )


def sent_of(signal, rows, may_be_binary):
    """How often each value was not 0 in these rows of a signal (N, ...), bool (N,): (2, ...), see OperationCounter."""
    is_binary = torch.zeros_like(rows)
    if may_be_binary:
        is_binary = ((signal == 0) | (signal.abs() == 1)).flatten(1).all(1)
    return sum_over_batch(
        (signal != 0).float(), torch.stack([rows & is_binary, rows & ~is_binary])
    ).flatten(1)


def sum_over_batch(active, rows):
    """(B, ...) of zeros and ones -> (..., ...) in float64: the sum of these rows, bool (..., B). A product: sum(0) is slow."""
    if active.dim() < 4:
        return (rows.to(active.dtype) @ active).to(wide(active.device))
    by_place = active.permute(0, 2, 3, 1)
    total = (rows.to(active.dtype) @ by_place.flatten(1)).to(wide(active.device))
    return total.unflatten(-1, by_place.shape[1:]).movedim(-1, -3)


def reached(link, active):
    """How many neurons of a link's target something arrives at in all; active: what its source sends, bool (N, ...)."""
    places = active.view(*active.shape, *[1] * (4 - active.dim())).float().amax(1, keepdim=True)
    for module in link.modules:
        if isinstance(module, nn.Linear):
            places = places.flatten(1).amax(1).view(-1, 1, 1, 1)
        elif isinstance(module, LINEAR):
            places = apply_layer(module, places, places.new_ones(1, 1, *module.kernel_size), 1)
        else:
            places = module(places)
    return (places > 0).sum().item() * link.chain.after[0]


@torch.inference_mode(False)  # it takes a gradient, whatever the caller is about
def fan_out(layer, shape, every):
    """Weights that each input of a layer meets, float64 of this shape; every: all weights, else the non-zero ones."""
    ones = torch.ones(
        1, *shape, dtype=wide(layer.weight.device), device=layer.weight.device
    ).requires_grad_()
    weight = layer.weight.detach().to(ones.dtype)
    weight = torch.ones_like(weight) if every else (weight != 0).to(weight.dtype)
    with torch.enable_grad():
        return torch.autograd.grad(apply_layer(layer, ones, weight).sum(), ones)[0][0].detach()


def apply_layer(layer, x, weight, groups=None):
    """The layer's own map with another weight, and number of groups."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    form = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": groups or layer.groups,
    }
    if isinstance(layer, nn.ConvTranspose2d):
        return F.conv_transpose2d(x, weight, output_padding=layer.output_padding, **form)
    return F.conv2d(x, weight, **form)
