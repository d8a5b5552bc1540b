"""Operations of a network while it runs, and what they cost.

They are counted in two ways, because there are two ways to build a machine.

*Layer by layer*, as NeuroBench counts: an operation is a non-zero input times a
non-zero weight, at every place where the weight is used, exact at borders. If all
inputs of a layer are -1, 0 or 1, it costs additions (ACs, accumulates), otherwise
multiplications with additions (MACs). NeuroBench decides this for a whole batch, and we
for each image and timestep, so that the counts do not depend on the batch. A 2x2 layer
or average takes spikes, so it costs ACs. It emits real values, so the layer after it
costs MACs, even if all values happen to be -1, 0 or 1. "Dense" counts zeros, too.

*Event-driven*, as a machine would that handles spikes one by one: a 2x2 layer or an
average pool is linear, so it is folded into the layer after it. Then each spike costs
one AC for each neuron of the next spiking layer that it reaches, and no MAC is left.
(With ``--encoding direct`` the input's values are counted as events, too.) A maximum
pool costs nothing. Of several spikes it lets one through, whose way on is counted.

Neither counts leaks, thresholds, biases, dropout and the read-out's own update. How
often a neuron gets a bias is said beside them, and costs an AC in both energies.
"""

import functools
import os
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from self_models.devices import wide
from self_models.errors import ModelError
from self_models.networks.stages import LINEAR
from self_models.running.graph import Link
from self_models.running.known_layers import check_known
from self_models.running.outputs import INPUT, part_of
from self_models.running.state import RunState
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

CONVENTIONS = Path(__file__).parent / "conventions"
PRICES = ("add", "multiply_add", "add_int8", "multiply_add_int8")
MEMORY = ("bytes", "picojoules")
MOST = 1e12  # of a price, in pJ, and of a size, in bytes
WORD = 4  # bytes of a weight, a membrane potential or an event


# --- prices


@dataclass(frozen=True)
class Convention:
    """Prices of operations, in pJ; checked when built.

    Attributes
    ----------
    title, source, technology, leaves_out : str
        What it is, in words.
    year : int
        Of the source.
    picojoules : dict of {str: float}
        Price of each of `PRICES`.
    memory : dict of {str: list of float} or None
        What an access to a word of 4 bytes costs, by the size of the memory: "bytes",
        which rise, and as many "picojoules", which do not fall. None: memory is free.
    counts : {"exact", "rate"}
        "rate": each layer's mean rate times ``Entry.formula``.

    Raises
    ------
    ValueError
        For tables or prices that are not complete, or no numbers.
    """

    title: str
    source: str
    year: int
    technology: str
    leaves_out: str
    picojoules: dict
    memory: dict | None = None
    counts: str = "exact"

    def __post_init__(self):
        """Raise ValueError where a table or a price cannot be."""
        check_keys(self.picojoules, PRICES)
        if self.memory:
            check_keys(self.memory, MEMORY)
        numbers = list(self.picojoules.values())
        if self.memory:
            self._check_memory()
            numbers += self.memory["bytes"] + self.memory["picojoules"]
        wrong = [number for number in numbers if not 0 <= number <= MOST]
        if wrong:
            raise ValueError(f"{wrong[0]} is no number from 0 to {MOST:g}")
        if self.counts not in ("exact", "rate") or (self.memory and self.counts == "rate"):
            raise ValueError("counts must be 'exact', or, where there is no memory, 'rate'")

    def _check_memory(self) -> None:
        """Raise ValueError where the sizes do not rise, or the prices fall."""
        sizes = self.memory["bytes"]
        prices = self.memory["picojoules"]
        is_table = len(sizes) == len(prices) and len(sizes) >= 2
        if not is_table or sizes != sorted(set(sizes)) or prices != sorted(prices):
            raise ValueError(
                "memory: give two bytes or more, which rise, and as many picojoules, "
                "which do not fall"
            )

    def access(self, words: float, word: int = WORD) -> float:
        """Return the energy of an access, in pJ.

        Parameters
        ----------
        words : float
            How many words the memory has.
        word : int, default 4
            Bytes of a word, all of which are accessed.

        Returns
        -------
        float
            Between two sizes of the table the price lies on a line; beyond the last one
            it rises as between the last two. 0 if memory is free.
        """
        if not self.memory:
            return 0.0
        sizes = self.memory["bytes"]
        prices = self.memory["picojoules"]
        size = max(words * word, sizes[0])
        if size > sizes[-1]:
            slope = (prices[-1] - prices[-2]) / (sizes[-1] - sizes[-2])
            return (prices[-1] + slope * (size - sizes[-1])) * word / WORD
        return float(np.interp(size, sizes, prices)) * word / WORD


def check_keys(table: dict, wanted: Iterable[str]) -> None:
    """Raise ValueError unless a table of a convention has just these keys."""
    if set(table) != set(wanted):
        raise ValueError(f"a table has {', '.join(table)}: it needs {', '.join(wanted)}")


@functools.cache
def conventions() -> dict[str, Convention]:
    """Return the conventions that come with the program, by name. Not to be changed."""
    paths = sorted(CONVENTIONS.glob("*.toml"))
    return {path.stem: read_convention(path) for path in paths}


def read_convention(path: str | os.PathLike) -> Convention:
    """Read a convention from a TOML file.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    Convention
        What it says.

    Raises
    ------
    ModelError
        If it is none; the message names the file.
    """
    try:
        return Convention(**tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {str(error).removeprefix('Convention.__init__() ')}") from None


def energy_joules(acs: float, macs: float) -> float:
    """Estimate the energy of arithmetic alone, without memory traffic.

    Prices are those of ``conventions/arithmetic_45nm.toml``.

    Parameters
    ----------
    acs, macs : float
        Numbers of accumulates and of multiply-accumulates.

    Returns
    -------
    float
        Energy in J.
    """
    price = conventions()["arithmetic_45nm"].picojoules
    return 1e-12 * (price["add"] * acs + price["multiply_add"] * macs)


def energies(operations: dict, comparisons: float, analog_input: bool = False) -> dict[str, float]:
    """Estimate the energy per image of the two ways to run a network.

    Each comparison of a pixel with its prediction costs an AC, and so does each bias
    that a neuron gets.

    Parameters
    ----------
    operations : dict
        What ``OperationCounter.result`` returns.
    comparisons : float
        Comparisons per image.
    analog_input : bool, default False
        Whether the input sends real values (--encoding direct), each of which
        multiplies.

    Returns
    -------
    dict of {str: float}
        In J. "energy_joules": layer by layer, effective ACs and MACs.
        "energy_event_joules": event by event, ACs alone, but for an analog input.
    """
    analog_events = 0.0
    if analog_input:
        first_layer = next(iter(operations["layers"]["event_acs"]))
        analog_events = operations["layers"]["event_acs"][first_layer]
    added = comparisons + operations.get("bias_additions", 0)
    by_layer = energy_joules(operations["effective_acs"] + added, operations["effective_macs"])
    event_acs = operations["event_acs"] - analog_events + added
    by_event = energy_joules(event_acs, analog_events)
    return {"energy_joules": by_layer, "energy_event_joules": by_event}


# --- counts


class SenderSignal(NamedTuple):
    """What a layer, a pool or the input has sent in some timesteps.

    Attributes
    ----------
    values : Tensor of shape (t B, ...)
        Of one timestep after the other, in each of them of all images.
    is_counted : Tensor of shape (t B,), bool
        Whether the image had not stopped before that timestep. What an image sends once
        it has stopped is not counted.
    """

    values: torch.Tensor
    is_counted: torch.Tensor


class OperationCounter:
    """Counts the operations of an SNN while it runs.

    Run the network inside ``with OperationCounter(model) as counter``, and then ask for
    ``counter.result(images)``.

    It keeps sums over all images and timesteps together. They are sums of counts, and
    so exact. Some have two rows. The first row counts values that cost ACs, because in
    that timestep all values of the image's signal were -1, 0 or 1. The second counts
    all others, which cost MACs.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    reaches : bool, default False
        Whether to count the neurons that something arrives at in a timestep, too, which
        the event engine does not tell.

    Attributes
    ----------
    sent : dict of {str: Tensor of shape (2, N)}
        Layer, pool or "input" -> how often each of its N neurons has sent something.
    inputs : dict of {str: Tensor of shape (2, N)}
        Linear module that takes what another linear one gives -> how often each of its
        inputs was not 0.
    active_steps : int
        Timesteps in which the input was active, of all images together.
    reached : dict of {str: int}
        Last module before neurons -> at how many of them something arrived in a
        timestep; empty without ``reaches``.

    Raises
    ------
    ModelError
        If the network has a part or a method whose operations are not known.
    """

    def __init__(self, model: VGG_SNN_STDB_wFeedback, reaches: bool = False):
        check_known(model, "a count of operations", "evaluate(..., operations=False) does without")
        self.model = model
        self.reaches = reaches
        self.sent = defaultdict(int)
        self.inputs = defaultdict(int)
        self.reached = defaultdict(int)
        self.active_steps = 0
        pools = model.graph.pools
        self._links = [link for link in model.graph.links if link.target not in pools]

    def __enter__(self):
        """Count from now on."""
        if self.model.engine:
            self.model.engine.start_counting()
        self.model.operation_counter = self
        return self

    def __exit__(self, *exception):
        """Count no more. The event engine says only now what it has counted."""
        self.model.operation_counter = None
        if self.model.engine:
            self.model.engine.stop_counting(self)

    # --- from a run to events

    @torch.no_grad()
    def add(self, run: RunState, count: int, ends: torch.Tensor | None = None) -> None:
        """Add what layers have sent and received in the latest timesteps of a run.

        Parameters
        ----------
        run : RunState
            State after these timesteps. Its ``activity`` has what each layer has sent
            in them.
        count : int
            How many timesteps.
        ends : Tensor of shape (B,), int64, optional
            After how many of them each image stopped. Default: no image has stopped.
        """
        num_images = len(run.image)
        first_step = run.steps - count
        # Row t says which images still ran in the t-th of these timesteps.
        still_runs = torch.ones(count, num_images, dtype=torch.bool, device=run.image.device)
        if ends is not None:
            still_runs = torch.arange(count, device=ends.device)[:, None] < ends

        # Biases arrive only in timesteps in which the input is active. (In phased
        # networks, layers then fire what they were charged with.)
        for position, num_running in enumerate(still_runs.sum(1).tolist()):
            if self.model.input_is_active(first_step + position):
                self.active_steps += num_running

        signals = {}
        for sender, chunks in run.activity.items():
            signals[sender] = join_chunks(chunks, still_runs, first_step)
            self._add_sent(sender, signals[sender])

        # Links that begin with the same modules share what arrives at these, so it is
        # counted for the first of them.
        counted_paths = set()
        for link in self._links:
            signal = signals[link.source]
            self._add_inputs(link, signal, run.logits.dtype, counted_paths)
            if self.reaches:
                active = signal.values[signal.is_counted] != 0
                self.reached[link.end] += count_reached(link, active)

    def _add_sent(self, source: str, signal: SenderSignal) -> None:
        """Add how often each neuron has sent something.

        Parameters
        ----------
        source : str
            Name of a layer or a pool, or "input".
        signal : SenderSignal
            What it has sent.
        """
        if source == INPUT:
            self.sent[source] += count_active(signal, may_be_binary=True)
            return
        spikes = sum_over_batch(signal.values, signal.is_counted).flatten()
        self.sent[source] += torch.stack([spikes, torch.zeros_like(spikes)])

    def _add_inputs(
        self, link: Link, signal: SenderSignal, dtype: torch.dtype, counted_paths: set
    ) -> None:
        """Add how often inputs were not 0, for linear modules behind another one.

        The first module of a link takes what the sender sends, which is counted
        already.

        Parameters
        ----------
        link : Link
            Modules in a row, from a sender to the next one.
        signal : SenderSignal
            What the sender has sent.
        dtype : torch.dtype
            In which modules compute.
        counted_paths : set of (str, tuple of str)
            Beginnings of links whose inputs have been counted, since several links may
            begin with the same modules. This link's are added.
        """
        values = signal.values
        for position, (name, module) in enumerate(zip(link.through, link.modules, strict=True)):
            if isinstance(module, nn.Linear):
                values = values.flatten(1)
            path = (link.source, link.through[: position + 1])
            is_inner = position > 0 and isinstance(module, LINEAR)
            if is_inner and path not in counted_paths:
                inputs = SenderSignal(values, signal.is_counted)
                self.inputs[name] += count_active(inputs, may_be_binary=False)
            counted_paths.add(path)
            if module is not link.modules[-1]:
                # Of spikes alone: events bring no bias to the next module.
                values = values.to(dtype)
                if isinstance(module, LINEAR):
                    values = apply_layer(module, values, module.weight)
                else:
                    values = module(values)

    # --- from events to operations

    def counts(self) -> dict[str, dict[str, float]]:
        """Return what was counted so far, over all images.

        Returns
        -------
        dict of {str: dict of {str: float}}
            Kind -> layer -> number.

            Of linear modules:

            - "acs" and "macs": effective ones, without zeros;
            - "dense": operations if zeros count, too;
            - "steps": timesteps in which it ran.

            Of the last module before neurons:

            - "events": event-driven ACs;
            - "biases": how often a neuron got one;
            - "reached": at how many neurons something arrived.

            Of spiking layers "spikes" and "neurons": how often a neuron has fired, and
            could have fired.
        """
        spikes = {}
        neurons = {}
        shapes = self.model.graph.shapes
        for name in self.model.layers:
            # A layer that has sent nothing yet is not in self.sent.
            spikes[name] = self.sent[name].sum(0).sum().item() if name in self.sent else 0
            neurons[name] = prod(shapes.get(name, ())) * self.active_steps
        return {
            **self._linear_counts(),
            "events": self._event_counts(),
            "spikes": spikes,
            "neurons": neurons,
            "biases": self._bias_counts(),
            "reached": dict(self.reached),
        }

    def _linear_counts(self) -> dict[str, dict[str, float]]:
        """Return what linear modules have cost, each of which is counted once.

        Links may share modules: one before the fork leads to the decoder and to the
        classifier, but runs once.

        Returns
        -------
        dict of {str: dict of {str: float}}
            "acs", "macs", "dense" and "steps": name of a linear module -> number, see
            `counts`.
        """
        kinds = {"acs": {}, "macs": {}, "dense": {}, "steps": {}}
        active_inputs = self._inputs_of_modules()
        never_active = torch.zeros(2, 1)
        for link in self._links:
            # Shapes are one more than modules: the last one is that behind the link.
            input_shapes = link.chain.shapes[:-1]
            layers = zip(link.through, link.modules, input_shapes, strict=True)
            for name, module, shape in layers:
                is_new = name not in kinds["steps"]
                if isinstance(module, LINEAR) and is_new:
                    inputs = active_inputs.get(name, never_active)
                    self._add_linear(kinds, name, module, shape, inputs)
        return kinds

    def _event_counts(self) -> dict[str, float]:
        """Return event-driven ACs by the last module before the neurons.

        All links count, those that share modules, too: an event-driven machine folds a
        link into one layer of weights, and each event goes through each of them.
        """
        additions = {}
        for link in self._links:
            if not link.through:  # without weights nothing is added
                continue
            if link.source in self.sent:
                sent = self.sent[link.source].sum(0)  # (2, N): binary values, and others
            else:  # it has sent nothing yet
                sent = torch.zeros(prod(link.chain.before))
            additions[link.end] = additions.get(link.end, 0) + synops(link, sent)
        return additions

    def _bias_counts(self) -> dict[str, float]:
        """Return how often a neuron gets a bias, by the last module before the neurons.

        Of the links to one target only the first one that has a bias counts: a machine
        adds up all biases of a neuron beforehand, and then adds one number per
        timestep.
        """
        biases = {}
        targets_with_bias = set()
        for link in self._links:
            if has_bias(link) and link.target not in targets_with_bias:
                targets_with_bias.add(link.target)
                biases[link.end] = prod(link.chain.after) * self.active_steps
        return biases

    def _inputs_of_modules(self) -> dict[str, torch.Tensor]:
        """Return how often each linear module's inputs were not 0: name -> (2, N)."""
        inputs = self.inputs.copy()
        # The first module behind a sender takes what that sends, once, however many
        # links begin with it.
        starts = dict.fromkeys(
            (link.through[0], link.source) for link in self._links if link.through
        )
        for name, source in starts:
            sent = self.sent[source] if source in self.sent else torch.zeros(2, 1)
            inputs[name] = inputs[name] + sent
        return inputs

    def _add_linear(
        self,
        kinds: dict[str, dict[str, float]],
        name: str,
        module: nn.Module,
        shape: tuple[int, ...],
        active_inputs: torch.Tensor,
    ) -> None:
        """Add what a linear module has cost: acs, macs, dense and steps.

        Parameters
        ----------
        kinds : dict of {str: dict of {str: float}}
            Kind -> layer -> number, see `counts`. Changed in place.
        name : str
            Name of the module.
        module : nn.Module
            The module.
        shape : tuple of int
            Of its input.
        active_inputs : Tensor of shape (2, N)
            How often each of its inputs was not 0: among binary ones, and among others.
        """
        if isinstance(module, nn.Linear):
            shape = (prod(shape),)
        nonzero_weights = fan_out(module, shape, every=False)
        num_weights = fan_out(module, shape, every=True).sum().item()
        effective = active_inputs * nonzero_weights.flatten()
        acs, macs = effective.sum(1).tolist()
        kinds["acs"][name] = acs
        kinds["macs"][name] = macs
        kinds["steps"][name] = self.active_steps
        kinds["dense"][name] = num_weights * self.active_steps

    def result(self, images: int) -> dict:
        """Return means per image.

        Parameters
        ----------
        images : int
            How many images the network has run on.

        Returns
        -------
        dict
            - "effective_acs", "effective_macs", "dense", "event_acs": sums over layers;
            - "feedback_acs", "feedback_macs", "feedback_event_acs": the decoder's part
              of them;
            - "activation_sparsity": share of zeros among all outputs of spiking layers;
            - "layers": the first four by layer, and "active_share", the share of a
              spiking layer's outputs that are not 0;
            - "bias_additions", if there are biases: how often a neuron gets one.
        """
        kinds = self.counts()
        layers = {
            "effective_acs": divide_by_images(kinds["acs"], images),
            "effective_macs": divide_by_images(kinds["macs"], images),
            "dense": divide_by_images(kinds["dense"], images),
            "event_acs": divide_by_images(kinds["events"], images),
        }
        result = {name: sum(by_layer.values()) for name, by_layer in layers.items()}
        result["feedback_acs"] = decoder_sum(layers["effective_acs"])
        result["feedback_macs"] = decoder_sum(layers["effective_macs"])
        result["feedback_event_acs"] = decoder_sum(layers["event_acs"])

        spikes = kinds["spikes"]
        neurons = kinds["neurons"]
        fired = sum(spikes.values()) - spikes[INPUT]
        could_fire = sum(neurons.values()) - neurons[INPUT]
        result["activation_sparsity"] = 1 - fired / max(could_fire, 1)
        active_share = {}
        for name, count in spikes.items():
            active_share[name] = count / max(neurons[name], 1)
        result["layers"] = {**layers, "active_share": active_share}
        if kinds["biases"]:
            result["bias_additions"] = sum(kinds["biases"].values()) / images
        return result


def divide_by_images(counts: dict[str, float], images: int) -> dict[str, float]:
    """Divide the counts of layers by the number of images."""
    return {layer: count / images for layer, count in counts.items()}


def decoder_sum(counts: dict[str, float]) -> float:
    """Sum the counts of the decoder's layers."""
    return sum(count for layer, count in counts.items() if part_of(layer) == "decoder")


def has_bias(link: Link) -> bool:
    """Return whether a module of a link has a bias."""
    return any(getattr(module, "bias", None) is not None for module in link.modules)


def join_chunks(pieces: list[tuple], still_runs: torch.Tensor, first: int) -> SenderSignal:
    """Join what a sender has sent in several chunks of timesteps.

    Parameters
    ----------
    pieces : list of (sequence of int, Tensor of shape (t B, ...))
        Numbers of the timesteps of a chunk, and what was sent in them.
    still_runs : Tensor of shape (T, B), bool
        Whether an image takes part in a timestep.
    first : int
        Number of the first of these T timesteps.

    Returns
    -------
    SenderSignal
        Of all chunks.
    """
    positions = []
    values = []
    for steps, chunk in pieces:
        positions += [step - first for step in steps]
        values.append(chunk)
    is_counted = still_runs[torch.tensor(positions, device=still_runs.device)].flatten()
    # One chunk is the usual case, and torch.cat would copy it.
    joined = values[0] if len(values) == 1 else torch.cat(values)
    return SenderSignal(joined, is_counted)


def synops(link: Link, sent: torch.Tensor) -> float:
    """Return the additions of a link: one for each neuron that each spike reaches.

    Parameters
    ----------
    link : Link
        What leads from one spiking layer to the next.
    sent : Tensor of shape (N,)
        How often each neuron of its source has sent something.

    Returns
    -------
    float
        Additions at the link's target.
    """
    reach = torch.from_numpy(link.chain.reach())
    return (sent.double().reshape(link.chain.before).cpu() * reach).sum().item()


def count_active(signal: SenderSignal, may_be_binary: bool) -> torch.Tensor:
    """Count how often each value of a signal was not 0.

    A layer that takes only -1, 0 and 1 needs no multiplications. So there are two
    counts: of the timesteps of images in which all N values are such ones, and of all
    other timesteps of images.

    Take a signal of 2 values in three timesteps of one image: (1, 0), (1, -1) and
    (0.5, 1). The first two timesteps are binary, so the counts are ((2, 1), (1, 1)).

    Parameters
    ----------
    signal : SenderSignal
        In t timesteps of B images: values of shape (t B, ...), N for each of these t B
        rows, and which rows are counted.
    may_be_binary : bool
        Whether to look for binary rows. If not, all count as others.

    Returns
    -------
    Tensor of shape (2, N)
        In binary rows, and in others; see `OperationCounter`.
    """
    values, is_counted = signal
    is_binary = torch.zeros_like(is_counted)  # (t B,)
    if may_be_binary:
        value_is_binary = (values == 0) | (values.abs() == 1)
        is_binary = value_is_binary.flatten(1).all(1)
    counted_rows = torch.stack([is_counted & is_binary, is_counted & ~is_binary])  # (2, t B)
    is_active = (values != 0).float()
    # It gives (2, ...), for each of the two choices of rows a sum.
    return sum_over_batch(is_active, counted_rows).flatten(1)


def sum_over_batch(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Sum some rows of a batch.

    Parameters
    ----------
    values : Tensor of shape (B, ...)
        Zeros and ones.
    rows : Tensor of shape (B,) or (K, B), bool
        The rows that count, or K such choices.

    Returns
    -------
    Tensor of shape (...) or (K, ...)
        The sums, in the device's widest type.
    """
    # A matrix product does it in a fraction of the time that sum(0) takes.
    if values.dim() < 4:
        return (rows.to(values.dtype) @ values).to(wide(values.device))
    # With channels last no copy is made of signals that lie so in memory.
    channels_last = values.permute(0, 2, 3, 1)
    total = (rows.to(values.dtype) @ channels_last.flatten(1)).to(wide(values.device))
    return total.unflatten(-1, channels_last.shape[1:]).movedim(-1, -3)


def count_reached(link: Link, active: torch.Tensor) -> float:
    """Count the neurons of a link's target at which something arrives.

    Parameters
    ----------
    link : Link
        What leads to them.
    active : Tensor of shape (N, ...), bool
        What its source sends, of N timesteps of images.

    Returns
    -------
    float
        Over all N.
    """
    missing = [1] * (4 - active.dim())
    reached = active.view(*active.shape, *missing).float()  # above 0: something arrives
    mixes = any(mixes_channels(module) for module in link.modules)
    if mixes:
        # All channels of a place reach the same neurons, so one channel is enough.
        reached = reached.amax(1, keepdim=True)
    for module in link.modules:
        if isinstance(module, nn.Linear):
            reached = reached.flatten(1).amax(1).view(-1, 1, 1, 1)
        elif isinstance(module, LINEAR) and mixes:
            ones = reached.new_ones(1, 1, *module.kernel_size)
            reached = apply_layer(module, reached, ones, groups=1)
        elif isinstance(module, LINEAR):
            reached = apply_layer(module, reached, reached.new_ones(module.weight.shape))
        elif hasattr(module, "kernel_size"):  # an average pool; a Scale moves nothing
            reached = module(reached)
    num_channels = link.chain.after[0] if mixes else 1
    return (reached > 0).sum().item() * num_channels


def mixes_channels(module: nn.Module) -> bool:
    """Return whether each output channel of a layer takes all of its input channels."""
    return isinstance(module, LINEAR) and getattr(module, "groups", 1) == 1


@torch.inference_mode(False)  # it takes a gradient, whatever the caller is about
def fan_out(layer: nn.Module, shape: tuple, every: bool) -> torch.Tensor:
    """Count the weights that each input of a layer meets.

    Parameters
    ----------
    layer : nn.Conv2d, nn.ConvTranspose2d or nn.Linear
        The layer. At borders an input meets fewer weights.
    shape : tuple of int
        Of its input, without the batch.
    every : bool
        Whether weights of 0 count, too.

    Returns
    -------
    Tensor of this shape, float64
        Number of weights. (float32 on mps, which has no float64.)
    """
    # Each output is a sum of weights times inputs. So the gradient of the sum of all
    # outputs is, for each input, the sum of the weights that it meets. With weights of
    # 1 that is their number.
    dtype = wide(layer.weight.device)
    inputs = torch.ones(1, *shape, dtype=dtype, device=layer.weight.device).requires_grad_()
    weight = layer.weight.detach().to(dtype)
    if every:
        ones = torch.ones_like(weight)
    else:
        ones = (weight != 0).to(dtype)
    with torch.enable_grad():
        total = apply_layer(layer, inputs, ones).sum()
        (gradient,) = torch.autograd.grad(total, inputs)
    return gradient[0].detach()


def apply_layer(
    layer: nn.Module, x: torch.Tensor, weight: torch.Tensor, groups: int | None = None
) -> torch.Tensor:
    """Apply a linear layer's map without its bias, and with another weight.

    Parameters
    ----------
    layer : nn.Conv2d, nn.ConvTranspose2d or nn.Linear
        Gives stride, padding and so on.
    x : Tensor of shape (B, ...)
        Its input.
    weight : Tensor
        In place of the layer's.
    groups : int, optional
        In place of the layer's.

    Returns
    -------
    Tensor of shape (B, ...)
        Its output.
    """
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
