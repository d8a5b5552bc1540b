"""An energy ledger: what a network does for one image, and what that costs.

A ledger is a table with a row, an ``Entry``, for each layer of neurons, for the pixels
of the read-out, and for the outputs. It has numbers of operations, which follow from
the network alone. A ``Convention`` (self_models/evaluation) has the prices. Energies
follow from these two.

To the core's count of operations it adds memory traffic, membrane updates, the ANN of
the same layers, and the two executions of a network:

- *event-driven*: each spike is sent to the neurons that it reaches, and only neurons at
  which something arrives are updated;
- *layer by layer*: in each timestep a layer reads all its inputs, skips those that are
  0, and updates all neurons.

It supports networks of the architectures here, and counts of a ``GraphSNN``
(``graph_entries``). It does not support networks with parts of one's own, whose
operations are not known, and it does not know what hardware does in parallel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import nn

from self_models.errors import ModelError
from self_models.evaluation.evaluate import evaluate
from self_models.evaluation.operations import Convention, OperationCounter, synops
from self_models.running.graph import Link
from self_models.running.known_layers import check_known
from self_models.running.outputs import INPUT, part_of
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

if TYPE_CHECKING:
    from wfeedback.nir.graph_snn import GraphSNN

READOUT = "read-out, blocking test"
PARTS = ("input", "encoder", "decoder", READOUT, "classifier")
EXECUTIONS = ("event-driven", "layer by layer")
JOULES_PER_PICOJOULE = 1e-12
# Fields of an Entry that add up where several links lead to a layer
ADDED_FIELDS = (
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


@dataclass(frozen=True)
class Entry:
    """The operations of one layer, means per image.

    Attributes
    ----------
    layer : str
        Name of the layer.
    part : str
        The part of the network that it belongs to, one of PARTS.
    neurons : int
        Number of its neurons.
    weights : int
        Number of the weights that lead to it. Weights that are 0 count.
    sources : int
        Number of the neurons whose spikes it takes.
    formula : int
        Operations of one timestep by the usual formula: weights times places, with
        borders as if they were full.
    real : bool
        Whether it takes real values, so that its operations are MACs and not ACs.
    rate : float
        Spikes per image of each neuron whose spikes it takes.
    spikes : float
        Spikes that it sends.
    synops : float
        Synaptic operations: spikes that it takes, times the neurons that each reaches,
        exact at borders and strides.
    acs, macs : float
        Layer by layer: inputs that are not 0 times weights that are not 0.
    dense : float
        Layer by layer: all inputs times all weights.
    updates : float
        Membrane updates layer by layer: neurons times timesteps in which it runs.
    reached : float
        Membrane updates event-driven: neurons and timesteps in which something arrives,
        which includes a bias.
    biases : float
        How often a neuron gets a bias.
    comparisons : float
        How often the blocking test compares a pixel with its prediction.
    one_pass : float
        ``dense`` of a single pass, as an ANN makes it.
    """

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

    def fixed(self, convention: Convention) -> float:
        """Return the cost that does not depend on spikes: biases and the blocking test.

        Parameters
        ----------
        convention : Convention
            The prices.

        Returns
        -------
        float
            In pJ per image.
        """
        if convention.counts == "rate":
            return 0.0
        add = convention.picojoules["add"]
        additions = self.biases + self.comparisons
        reads = 2 * self.comparisons  # of a pixel, and of its prediction
        return additions * add + reads * convention.access(self.neurons)

    def picojoules(self, convention: Convention, execution: str, leaks: bool = False) -> float:
        """Return what the layer costs for one image.

        Parameters
        ----------
        convention : Convention
            The prices.
        execution : str
            One of EXECUTIONS.
        leaks : bool
            Whether membranes leak, so that each update multiplies.

        Returns
        -------
        float
            In pJ per image.
        """
        add = convention.picojoules["add"]  # pJ for one operation, as all prices
        multiply_add = convention.picojoules["multiply_add"]
        operation = multiply_add if self.real else add  # what one input costs at a weight
        if convention.counts == "rate":  # such a convention has neither memory nor leaks
            return self.rate * self.formula * operation
        leak = multiply_add - add if leaks else 0.0  # what it adds to an update
        if execution == "event-driven":
            return self._event_driven_picojoules(convention, operation, leak)
        return self._layer_by_layer_picojoules(convention, leak)

    def _event_driven_picojoules(
        self, convention: Convention, operation: float, leak: float
    ) -> float:
        """Return what the layer costs for one image if each spike is sent on at once.

        Parameters
        ----------
        convention : Convention
            The prices, with the memory's.
        operation : float
            pJ for a synaptic operation.
        leak : float
            pJ by which a leak makes the update of a membrane dearer.

        Returns
        -------
        float
            In pJ per image.
        """
        # A synaptic operation reads a weight, and reads and writes a membrane. A spike
        # is written once, as an event, and read once.
        weight_access = convention.access(self.weights)
        membrane_access = 2 * convention.access(self.neurons)
        event_access = 2 * convention.access(self.neurons)
        cost = self.fixed(convention)
        cost += self.synops * operation + self.synops * (weight_access + membrane_access)
        cost += self.spikes * event_access
        return cost + self.reached * leak

    def _layer_by_layer_picojoules(self, convention: Convention, leak: float) -> float:
        """Return what the layer costs for one image if it runs in every timestep.

        Parameters
        ----------
        convention : Convention
            The prices, with the memory's.
        leak : float
            pJ by which a leak makes the update of a membrane dearer.

        Returns
        -------
        float
            In pJ per image.
        """
        # An addition or multiply-add reads an input and a weight. A membrane is read
        # and written once in each timestep.
        input_access = convention.access(self.sources)
        weight_access = convention.access(self.weights)
        membrane_access = 2 * convention.access(self.neurons)
        add = convention.picojoules["add"]
        multiply_add = convention.picojoules["multiply_add"]
        arithmetic = self.acs * add + self.macs * multiply_add
        cost = self.fixed(convention)
        cost += arithmetic + (self.acs + self.macs) * (weight_access + input_access)
        return cost + self.updates * (membrane_access + leak)


@dataclass(frozen=True)
class Ledger:
    """What a network does for one image, see this module.

    Attributes
    ----------
    name : str
        Name of the network.
    images : int
        Over how many images its numbers are means.
    accuracy : float
        Share of the images that it classifies correctly.
    timesteps : int
        Timesteps of a run that is not stopped early.
    mean_steps : float
        Timesteps per image.
    leaks : bool
        Whether membranes leak.
    entries : list of Entry
        A row for each layer.
    """

    name: str
    images: int
    accuracy: float
    timesteps: int
    mean_steps: float
    leaks: bool
    entries: list[Entry] = field(repr=False)

    def total(self, count: str) -> float:
        """Return the sum of one of Entry's fields over all layers."""
        return sum(getattr(entry, count) for entry in self.entries)

    @property
    def neurons(self) -> int:
        """Number of neurons that spike, those of the input among them."""
        counts = []
        for entry in self.entries:
            if entry.spikes or entry.part in ("input", "encoder"):
                counts.append(entry.neurons)
        return sum(counts)

    def joules(self, convention: Convention, execution: str, part: str | None = None) -> float:
        """Estimate the energy per image.

        Parameters
        ----------
        convention : Convention
            The prices.
        execution : str
            One of EXECUTIONS.
        part : str, optional
            One of PARTS; by default all.

        Returns
        -------
        float
            In J.
        """
        entries = [entry for entry in self.entries if part in (None, entry.part)]
        return JOULES_PER_PICOJOULE * sum(
            entry.picojoules(convention, execution, self.leaks) for entry in entries
        )

    def ann_joules(self, convention: Convention, bits: int = 32) -> float:
        """Estimate the energy of a pass of the ANN of this encoder and classifier.

        Each input is multiplied with each weight that it meets. Each of these
        operations reads a word for the input and one for the weight, and each output is
        written once. An access costs the more the larger its memory is, which has as
        many words as the layer has inputs, weights or outputs.

        How many operations there are depends on the convention. By default they are
        exact: at borders, where a kernel reaches beyond the image, fewer. With
        ``counts`` "rate" they are ``Entry.formula``, as if borders were full.

        Parameters
        ----------
        convention : Convention
            The prices.
        bits : {32, 8}
            Width of its numbers.

        Returns
        -------
        float
            In J.
        """
        operation = "multiply_add" if bits == 32 else "multiply_add_int8"
        price = convention.picojoules[operation]
        bytes_per_word = bits // 8
        total = 0.0  # in pJ
        for entry in self.entries:
            if entry.part not in ("encoder", "classifier"):
                continue
            weight_access = convention.access(entry.weights, bytes_per_word)
            input_access = convention.access(entry.sources, bytes_per_word)
            output_access = convention.access(entry.neurons, bytes_per_word)
            operations = entry.formula if convention.counts == "rate" else entry.one_pass
            total += operations * (price + (weight_access + input_access)) + (
                entry.neurons * output_access
            )
        return JOULES_PER_PICOJOULE * total

    def break_even(self, convention: Convention) -> float | None:
        """Find the activity below which the network costs less than its ANN in 8 bits.

        The network runs event-driven, and all but its number of spikes stays as it is.

        Parameters
        ----------
        convention : Convention
            The prices.

        Returns
        -------
        float or None
            Spikes per neuron and image. None if what does not depend on spikes costs
            more already, or if nothing spikes.
        """
        spikes = self.total("spikes")
        snn_joules = self.joules(convention, "event-driven")
        fixed_picojoules = sum(entry.fixed(convention) for entry in self.entries)
        fixed = JOULES_PER_PICOJOULE * fixed_picojoules
        available = self.ann_joules(convention, 8) - fixed
        if available <= 0 or not spikes:
            return None
        joules_per_spike = (snn_joules - fixed) / spikes
        return available / joules_per_spike / self.neurons


# --- networks of an architecture


def ledger(
    model: VGG_SNN_STDB_wFeedback,
    data: object,
    labels: torch.Tensor | None = None,
    name: str = "",
    batch_size: int = 64,
    seed: int = 0,
) -> Ledger:
    """Run an SNN on data, and write its ledger.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    data, labels
        Images and their classes, as ``evaluate`` takes them.
    name : str
        Name of the network; by default that of its class.
    batch_size : int
        How many images run at once.
    seed : int
        Seed of the input's draws.

    Returns
    -------
    Ledger

    Raises
    ------
    ModelError
        For an ANN, and for a network with a part whose operations are not known.
    """
    if not isinstance(model, VGG_SNN_STDB_wFeedback):
        raise ModelError("a ledger is of an SNN: it tells what its ANN would cost, too")
    check_known(
        model,
        "an energy ledger",
        "it counts what architectures here are made of; evaluations tell its spikes",
    )
    counter = OperationCounter(model, reaches=True)
    engine = model.engine
    model.engine = None  # the event engine does not say which neurons are reached
    try:
        figures = evaluate(model, data, labels, batch_size, seed, operations=counter)
    finally:
        model.engine = engine
    return Ledger(
        name=name or type(model).__name__,
        images=figures["images"],
        accuracy=figures["accuracy"],
        timesteps=model.timesteps,
        mean_steps=figures["mean_steps"],
        leaks=any(neuron.leak.min() < 1 for neuron in model.neurons().values()),
        entries=entries_of(model, counter.counts(), figures),
    )


def entries_of(
    model: VGG_SNN_STDB_wFeedback,
    counts: Mapping[str, Mapping[str, float]],
    figures: Mapping[str, object],
) -> list[Entry]:
    """Make the rows of a ledger.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    counts : dict of {str: dict of {str: float}}
        What an OperationCounter has counted, by kind and layer, of all images.
    figures : dict of {str: object}
        Of an evaluation: "images", "spikes" by layer, and "comparisons".

    Returns
    -------
    list of Entry
        Of the input, and of each layer in the order in which they run.
    """
    graph = model.graph
    spikes = figures["spikes"]
    entries = {INPUT: Entry("input", "input", prod(graph.shape), spikes=spikes[INPUT])}
    # A module before the fork is part of a link to the decoder and of one to the
    # classifier. It runs once, so only the first of these links is charged for it.
    charged = set()
    for link in graph.links:
        # No row is made of what leads to a maximum pool, which passes on spikes of the
        # neurons before it, nor of a link without modules, as from a decoder that ends
        # in neurons to its end "decoded": nothing is computed there.
        if link.target in graph.pools or not link.through:
            continue
        modules = counted_modules(link, counts["dense"])
        new_modules = [name for name in modules if name not in charged]
        charged.update(modules)
        entry = entry_of_link(model, link, new_modules, counts, figures)
        if link.target in entries:
            entry = add_entries(entries[link.target], entry)
        entries[link.target] = entry
    return [*entries.values()]


def counted_modules(link: Link, dense: Mapping[str, float]) -> list[str]:
    """Return the names of a link's modules for which an OperationCounter has numbers.

    These are the modules with weights, which have a number in ``dense``, and the last
    one, even if it is an average pool: what arrives at the target is counted under it.
    """
    return [name for name in link.through if name in dense or name == link.end]


def entry_of_link(
    model: VGG_SNN_STDB_wFeedback,
    link: Link,
    new_modules: Sequence[str],
    counts: Mapping[str, Mapping[str, float]],
    figures: Mapping[str, object],
) -> Entry:
    """Make the row of what one link leads to.

    The fields of `Entry` say what each number means. They come from three places: the
    layout of the link; spikes, as the evaluation gives them; and counts of operations.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    link : Link
        Modules from neurons, a pool or the input to other neurons or an end.
    new_modules : list of str
        Those of its modules that no earlier row has been charged with. Counts of other
        modules are left out, so that the sum over all rows has each module once.
    counts : dict of {str: dict of {str: float}}
        Sums over all images, see ``entries_of``.
    figures : dict of {str: object}
        Means per image, but for "images", their number; see ``entries_of``.

    Returns
    -------
    Entry
        Means per image.
    """
    entry = Entry(
        layer=link.target,
        part=part_of_target(link.target),
        neurons=prod(link.chain.after),
        weights=number_of_weights(link),
        sources=prod(link.chain.before),
        formula=operations_by_formula(link),
    )
    entry = with_spikes(entry, model, link, figures)
    return with_operations(entry, link, new_modules, counts, figures["images"])


def with_spikes(
    entry: Entry, model: VGG_SNN_STDB_wFeedback, link: Link, figures: Mapping[str, object]
) -> Entry:
    """Return a row with what a link's source and target send, per image.

    Parameters
    ----------
    entry : Entry
        The row.
    model : VGG_SNN_STDB_wFeedback
        The network.
    link : Link
        What the row is of.
    figures : dict of {str: object}
        Means per image: "spikes" by layer, and "comparisons" of a pixel with its
        prediction in all.
    """
    spikes = figures["spikes"]
    # A maximum pool has none of its own in `spikes`: it passes on those of the neurons
    # before it. But it has fewer outputs, which share them.
    firing_source = model.graph.before_pools(link.source)
    num_senders = prod(model.graph.shapes[link.source])
    # Without draws there are no input spikes: the pixels are sent as they are.
    sends_pixels = firing_source == INPUT and not model.encoding.uses_draws
    # Pixels are compared with what the decoder predicts, so its row has that.
    comparisons = figures["comparisons"] if link.target == "decoded" else 0.0
    return replace(
        entry,
        real=sends_pixels,
        rate=spikes[firing_source] / num_senders,
        spikes=spikes.get(link.target, 0.0),  # an end sends none
        comparisons=comparisons,
    )


def with_operations(
    entry: Entry,
    link: Link,
    new_modules: Sequence[str],
    counts: Mapping[str, Mapping[str, float]],
    images: int,
) -> Entry:
    """Return a row with the operations of a link's modules, per image.

    Parameters
    ----------
    entry : Entry
        The row.
    link : Link
        What it is of.
    new_modules : list of str
        Modules that the row is charged with, see ``entry_of_link``.
    counts : dict of {str: dict of {str: float}}
        Kind of an operation -> name of a module -> number, over all images. Of each
        module: "dense", operations of all inputs with all weights; "acs" and "macs",
        those with inputs that are not 0, as additions and as multiply-adds; and
        "steps", timesteps. Of the last module before neurons: "events", additions that
        spikes cause there; "biases"; and "reached", at how many neurons spikes arrive.
    images : int
        Number of images.
    """
    # How many timesteps an image takes: each module runs in all of them, so the first
    # one says it as well as any other.
    steps = next(iter(counts["steps"].values()), 0) / images
    dense = mean_count(counts["dense"], new_modules, images)

    # Counts of the last module alone; none if an earlier row has them
    last_module = [link.end] if link.end in new_modules else []
    biases = mean_count(counts["biases"], last_module, images)
    # A bias arrives at its neuron, too. It goes to all of them, spikes only to some.
    reached_by_spikes = mean_count(counts["reached"], last_module, images)
    return replace(
        entry,
        synops=mean_count(counts["events"], last_module, images),
        acs=mean_count(counts["acs"], new_modules, images),
        macs=mean_count(counts["macs"], new_modules, images),
        dense=dense,
        updates=entry.neurons * steps,
        reached=max(reached_by_spikes, biases),
        biases=biases,
        one_pass=dense / steps if steps else 0.0,
    )


def mean_count(counts: Mapping[str, float], modules: Sequence[str], images: int) -> float:
    """Return what was counted of one kind at these modules, per image."""
    return sum(counts.get(name, 0) for name in modules) / images


def part_of_target(name: str) -> str:
    """Return the part of the network, of PARTS, that a layer or an end belongs to."""
    if name == "decoded":
        return READOUT
    if name == "output":
        return "classifier"
    return part_of(name)


def number_of_weights(link: Link) -> int:
    """Return the number of the weights of a link's modules."""
    return sum(module.weight.numel() for module in link.modules if hasattr(module, "weight"))


def operations_by_formula(link: Link) -> int:
    """Return weights times places of a link, with borders as if they were full."""
    shapes = link.chain.shapes  # before the first module, and after each
    total = 0
    for module, before, after in zip(link.modules, shapes, shapes[1:], strict=False):
        if hasattr(module, "weight"):
            places = before if isinstance(module, nn.ConvTranspose2d) else after
            total += module.weight.numel() * prod(places[1:])
    return total


def add_entries(entry: Entry, other: Entry) -> Entry:
    """Return the row of a layer that several links lead to, from the rows of two.

    What belongs to links adds up: ADDED_FIELDS. What belongs to the layer, such as its
    neurons, updates and spikes, is the same in both rows, and stays as ``entry`` has
    it. A new field of Entry needs to be looked at here.

    Parameters
    ----------
    entry : Entry
        The row of the links so far.
    other : Entry
        The row of one more link to the same layer.
    """
    added = {}
    for name in ADDED_FIELDS:
        added[name] = getattr(entry, name) + getattr(other, name)
    # Sources that send more or less are weighted by how often a weight meets them, so
    # that rate times formula is the sum of both rows'.
    rate = entry.rate * entry.formula + other.rate * other.formula
    return replace(
        entry,
        **added,
        rate=rate / max(1, added["formula"]),
        # One price for the row: if any source sends pixels, operations are MACs.
        real=entry.real or other.real,
        # Spikes of both links may reach the same neuron in the same timestep, which is
        # one update. How often they do is not known; the larger number is the least.
        reached=max(entry.reached, other.reached),
    )


# --- networks of events


@torch.no_grad()
def graph_entries(
    model: "GraphSNN", recordings: Sequence | torch.Tensor, timesteps: int
) -> list[Entry]:
    """Count what a network of events does for its inputs, layer by layer.

    Each event that a node sends costs an addition for each neuron that it reaches. If
    what arrives are values that are not whole, such as the pixels of an image, each one
    that is not 0 counts as an event, and costs a multiplication in place of an
    addition.

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
        Of the input, of each layer of neurons, and of the output where weights lead to
        it. They are means over the recordings.
    """
    graph = model.graph
    count = len(recordings)
    spiking_layers = model.layers[1:]  # layers[0] is "input"
    record = dict.fromkeys(spiking_layers, "spikes")
    output = model(recordings, timesteps, record=record, counts=True)
    arriving, are_values = arriving_events(recordings, graph.shape)
    # Of "input" and the layers with a threshold: how many events each of their neurons
    # sends, per recording
    sent = {INPUT: arriving / count}
    for name in spiking_layers:
        sent[name] = output.recorded[name]["spikes"].sum((0, 1)) / count

    of_input = Entry(INPUT, "input", prod(graph.shape), spikes=sent[INPUT].sum().item())
    entries = {INPUT: of_input}
    for link in graph.links:
        # Not counted: what nodes without a threshold send, which are potentials and no
        # events; and a link without weights to an end, where only the output is read.
        is_plain_output = link.target in graph.ends and not link.through
        if link.source not in sent or is_plain_output:
            continue
        name = link.target
        entry = Entry(
            name,
            "encoder",  # a graph of any nodes has no decoder and no classifier
            neurons=prod(link.chain.after),
            weights=number_of_weights(link),
            real=are_values and link.source == INPUT,
            spikes=sent[name].sum().item() if name in sent else 0.0,
            synops=synops(link, sent[link.source]),
        )
        if name in entries:  # another link leads there, too
            entry = add_entries(entries[name], entry)
        entries[name] = entry
    return [*entries.values()]


def arriving_events(
    recordings: Sequence | torch.Tensor, shape: tuple[int, ...]
) -> tuple[torch.Tensor, bool]:
    """Count the events that arrive at each place of a network's input.

    Parameters
    ----------
    recordings : list of array (n, 1 + d), or Tensor of shape (B, T, *shape)
        As a GraphSNN takes them. A row of an array is an event: its timestep, and its
        place in the input, d whole numbers. A Tensor has numbers of events, of either
        sign, or values that are not all whole.
    shape : tuple of int
        Shape of the input, of d dimensions.

    Returns
    -------
    events : Tensor of this shape
        Events at each place, of all recordings and timesteps together: float64 of a
        Tensor, float32 of arrays. A number counts by its size, since two events of sign
        -1 are two events; a value that is not 0 counts as one.
    are_values : bool
        Whether what arrives are values, some of them not whole, rather than events.
    """
    if isinstance(recordings, torch.Tensor):
        sizes = recordings.abs()
        are_values = bool((sizes % 1 != 0).any())
        if are_values:
            sizes = (sizes != 0).float()
        return sizes.sum((0, 1), dtype=torch.float64), are_values
    # All columns but the timestep, for index_put one Tensor for each dimension
    places = torch.cat([torch.as_tensor(rows)[:, 1:] for rows in recordings]).long().T
    ones = torch.ones(())
    return torch.zeros(shape).index_put(tuple(places), ones, accumulate=True), False
