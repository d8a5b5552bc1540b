"""An energy ledger: what a network does for one image, counted layer by layer, and what that costs under a convention.

What is counted, means per image, of each layer of neurons, the read-out's pixels and the outputs among them:
spikes that it sends; synops, spikes times the neurons that each reaches, exact at borders and strides (weights that are 0 count);
of an execution layer by layer acs and macs, non-zero inputs times non-zero weights, MACs where a layer takes real values, and
dense, all inputs times all weights; updates, neurons times steps in which the layer runs; reached, neurons and steps in which
something arrives, a bias included, which is what an event-driven execution updates.
The blocking test compares pixels with their predictions. What a network costs follows from these numbers and a Convention alone.
"""

from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import nn

from self_models.basics import ModelError
from self_models.counting.evaluation import evaluate
from self_models.counting.operations import OperationCounter, synops
from self_models.runtime.known_parts import check_known
from self_models.runtime.outputs import INPUT, part_of
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

PARTS = ("input", "encoder", "decoder", "read-out, blocking test", "classifier")
EXECUTIONS = ("event-driven", "layer by layer")


@dataclass(frozen=True)
class Entry:
    """A layer's counts, means per image. neurons, weights: how many it has; sources: neurons whose spikes it takes; formula:
    operations of one step as most papers compute them, borders as if they were full; real: whether it takes real values."""

    layer: str
    part: str
    neurons: int
    weights: int = 0
    sources: int = 0
    formula: int = 0
    real: bool = False
    rate: float = 0.0
    spikes: float = 0.0
    synops: float = 0.0
    acs: float = 0.0
    macs: float = 0.0
    dense: float = 0.0
    updates: float = 0.0
    reached: float = 0.0
    biases: float = 0.0
    comparisons: float = 0.0
    one_pass: float = 0.0

    def fixed(self, convention):
        """pJ for one image of what does not depend on spikes: biases and the blocking test."""
        if convention.counts == "rate":
            return 0.0
        add, access = convention.picojoules["add"], convention.access(self.neurons)
        return (self.biases + self.comparisons) * add + 2 * self.comparisons * access

    def picojoules(self, convention, execution, leaks=False):
        """What the layer costs for one image."""
        price, memory = convention.picojoules, convention.access
        add, multiply_add = price["add"], price["multiply_add"]
        if convention.counts == "rate":
            return self.rate * self.formula * (multiply_add if self.real else add)
        cost = self.fixed(convention)
        weight, membrane = (
            memory(self.weights),
            2 * memory(self.neurons),
        )  # of a membrane potential, which is read and written
        membrane_leak = leaks * (multiply_add - add)
        if execution == "event-driven":
            cost += self.synops * (multiply_add if self.real else add) + self.synops * (
                weight + membrane
            )
            cost += self.spikes * 2 * memory(self.neurons)  # an event is written and read
            return cost + self.reached * membrane_leak
        cost += (
            self.acs * add
            + self.macs * multiply_add
            + (self.acs + self.macs) * (weight + memory(self.sources))
        )
        return cost + self.updates * (membrane + membrane_leak)


@dataclass(frozen=True)
class Ledger:
    """What a network does for one image, in the mean over `images` images; see the module. leaks: whether membranes leak."""

    name: str
    images: int
    accuracy: float
    timesteps: int
    mean_steps: float
    leaks: bool
    entries: list = field(repr=False)

    def total(self, count):
        return sum(getattr(entry, count) for entry in self.entries)

    @property
    def neurons(self):
        """Neurons that spike, the input's among them."""
        return sum(
            entry.neurons
            for entry in self.entries
            if entry.spikes or entry.part in ("input", "encoder")
        )

    def joules(self, convention, execution, part=None):
        """Estimated energy per image, in J, of all or of one of PARTS."""
        entries = [entry for entry in self.entries if part in (None, entry.part)]
        return 1e-12 * sum(
            entry.picojoules(convention, execution, self.leaks) for entry in entries
        )

    def ann_joules(self, convention, bits=32):
        """Estimated energy per image, in J, of one pass of the ANN of the same encoder and classifier, with numbers of 32 or 8
        bits: each input times each weight, exact at borders; memory: a word for each input and weight, and for each output."""
        price, total = (
            convention.picojoules["multiply_add" if bits == 32 else "multiply_add_int8"],
            0.0,
        )
        word = bits // 8
        for entry in self.entries:
            if entry.part in ("encoder", "classifier"):
                near = convention.access(entry.weights, word) + convention.access(
                    entry.sources, word
                )
                count = entry.formula if convention.counts == "rate" else entry.one_pass
                total += count * (price + near) + entry.neurons * convention.access(
                    entry.neurons, word
                )
        return 1e-12 * total

    def break_even(self, convention):
        """Spikes per neuron and image below which the network, event-driven, costs less than its ANN with 8 bits, if all but the
        number of spikes stays; None where what does not depend on spikes costs more already."""
        spikes, all_ = self.total("spikes"), self.joules(convention, "event-driven")
        fixed = 1e-12 * sum(entry.fixed(convention) for entry in self.entries)
        left = self.ann_joules(convention, 8) - fixed
        return left / ((all_ - fixed) / spikes) / self.neurons if left > 0 and spikes else None


def ledger(model, data, labels=None, name="", batch_size=64, seed=0):
    """The Ledger of an SNN on data, as evaluate() takes them. Raises ModelError for an ANN, and for a network with a part whose
    operations are not known."""
    if not isinstance(model, VGG_SNN_STDB_wFeedback):
        raise ModelError("a ledger is of an SNN: it tells what its ANN would cost, too")
    check_known(
        model,
        "an energy ledger",
        "it counts what architectures here are made of; evaluations tell its spikes",
    )
    counter, engine = OperationCounter(model, reaches=True), model.engine
    model.engine = None  # the event engine does not say which neurons are reached
    try:
        figures = evaluate(model, data, labels, batch_size, seed, operations=counter)
    finally:
        model.engine = engine
    leaks = any(neuron.leak.min() < 1 for neuron in model.neurons().values())
    steps = figures["mean_steps"]
    return Ledger(
        name or type(model).__name__,
        figures["images"],
        figures["accuracy"],
        model.timesteps,
        steps,
        leaks,
        entries_of(model, counter.counts(), figures),
    )


def entries_of(model, kinds, figures):
    """The Entries of a network's layers, of an OperationCounter's counts, and an evaluation's figures."""
    images, graph, spikes = figures["images"], model.graph, figures["spikes"]
    entries = {INPUT: Entry("input", "input", prod(graph.shape), spikes=spikes[INPUT])}
    analog, counted, ran = (
        not model.encoding.uses_draws,
        set(),
        next(iter(kinds["steps"].values()), 0),
    )
    for link in graph.links:
        if link.target in graph.pools:
            continue
        name, size, end, source = (
            link.target,
            prod(link.chain.after),
            link.end,
            graph.before_pools(link.source),
        )
        ends = [each for each in link.through if each in kinds["dense"] or each == end]
        own = [
            each for each in ends if each not in counted
        ]  # a layer before the fork serves decoder and classifier
        counted.update(ends)
        if not link.through:  # a decoder that ends in neurons
            continue

        def per_image(kind, of=own):
            return sum(kinds[kind].get(each, 0) for each in of) / images

        of_end = [end] if end in own else []  # several links may share it
        dense, steps, biases = per_image("dense"), ran / images, per_image("biases", of_end)
        formula = 0  # weights times places, borders as if they were full
        for module, before, after in zip(
            link.modules, link.chain.shapes, link.chain.shapes[1:], strict=False
        ):
            places = before if isinstance(module, nn.ConvTranspose2d) else after
            formula += module.weight.numel() * prod(places[1:]) if hasattr(module, "weight") else 0
        entry = Entry(
            layer=name,
            part="read-out, blocking test"
            if name == "decoded"
            else "classifier"
            if name == "output"
            else part_of(name),
            neurons=size,
            weights=sum(
                module.weight.numel() for module in link.modules if hasattr(module, "weight")
            ),
            sources=prod(link.chain.before),
            formula=formula,
            real=analog and source == INPUT,
            rate=spikes[source] / prod(graph.shapes[link.source]),
            spikes=spikes.get(name, 0.0),
            synops=per_image("events", of_end),
            acs=per_image("acs"),
            macs=per_image("macs"),
            dense=dense,
            updates=size * steps,
            reached=max(per_image("reached", of_end), biases),
            biases=biases,
            comparisons=figures["comparisons"] * (name == "decoded"),
            one_pass=dense / steps if steps else 0.0,
        )
        entries[name] = joined(entries[name], entry) if name in entries else entry
    return [*entries.values()]


def joined(entry, other):
    """The Entry of a layer that several links lead to, of those of each."""
    sums = (
        "weights",
        "sources",
        "formula",
        "synops",
        "acs",
        "macs",
        "dense",
        "one_pass",
        "biases",
    )
    both = {name: getattr(entry, name) + getattr(other, name) for name in sums}
    rate = entry.rate * entry.formula + other.rate * other.formula  # of what each takes
    both |= {"rate": rate / max(1, both["formula"]), "real": entry.real or other.real}
    return replace(entry, **both, reached=max(entry.reached, other.reached))


@torch.no_grad()
def graph_entries(model, recordings, timesteps):
    """Count what a network of events does for its inputs, layer by layer.

    Each event that a node sends costs an addition for each neuron that it reaches. If what
    arrives are values that are not whole, such as the pixels of an image, each one that is
    not 0 counts as an event, and costs a multiplication in place of an addition.

    Parameters
    ----------
    model : GraphSNN
        The network.
    recordings : list of array, or Tensor of shape (B, T, ...)
        Recordings, or what still images send, as the model takes them.
    timesteps : int
        How many timesteps they have.

    Returns
    -------
    list of Entry
        Of the input, of each layer of neurons, and of the output where weights lead to it.
        They are means over the recordings.
    """
    graph = model.graph
    output = model(
        recordings, timesteps, record=dict.fromkeys(model.layers[1:], "spikes"), counts=True
    )
    arriving, are_values = arriving_events(recordings, graph.shape)
    sent = {INPUT: arriving / len(recordings)}
    for name in model.layers[1:]:
        sent[name] = output.recorded[name]["spikes"].sum((0, 1)) / len(recordings)
    entries = {INPUT: Entry(INPUT, "input", prod(graph.shape), spikes=sent[INPUT].sum().item())}
    for link in graph.links:
        if link.source not in sent or (link.target in graph.ends and not link.through):
            continue
        name = link.target
        entry = Entry(
            name,
            "encoder",
            prod(link.chain.after),
            sum(module.weight.numel() for module in link.modules if hasattr(module, "weight")),
            real=are_values and link.source == INPUT,
            spikes=sent[name].sum().item() if name in sent else 0.0,
            synops=synops(link, sent[link.source]),
        )
        entries[name] = joined(entries[name], entry) if name in entries else entry
    return [*entries.values()]


def arriving_events(recordings, shape):
    """Count the events that arrive at each place of a network's input.

    Parameters
    ----------
    recordings : list of array, or Tensor of shape (B, T, *shape)
        As a GraphSNN takes them.
    shape : tuple of int
        Shape of the input.

    Returns
    -------
    events : Tensor of this shape
        Events at each place, of all recordings and timesteps together.
    are_values : bool
        Whether what arrives are values, some of them not whole, rather than events.
    """
    if isinstance(recordings, torch.Tensor):
        sizes = recordings.abs()
        are_values = bool((sizes % 1 != 0).any())
        if are_values:
            sizes = (sizes != 0).float()
        return sizes.sum((0, 1), dtype=torch.float64), are_values
    places = torch.cat([torch.as_tensor(rows)[:, 1:] for rows in recordings]).long().T
    ones = torch.ones(())
    return torch.zeros(shape).index_put(tuple(places), ones, accumulate=True), False
