"""Operations of a network while it runs, as NeuroBench counts them, and as an event-driven machine would.

NeuroBench: an operation is a non-zero input times a non-zero weight, at every place where the weight is used, exact at
borders. A layer call whose inputs are all -1, 0 or 1 costs accumulates (ACs), any other multiply-accumulates (MACs); NeuroBench
judges a whole batch, we each image and step, so that the counts do not depend on the batch. A 2x2 layer or average takes spikes
and costs ACs, if anything, and the layer after it takes real values and costs MACs, whatever they are (NeuroBench: ACs where all
happen to be -1, 0 or 1). Dense counts zeros too.

Event-driven: a 2x2 layer (and pooling) is linear, so it folds into the layer after it. Then each spike of a neuron costs
one AC for each neuron of the next spiking layer that it reaches, and no MAC is left. (With `--encoding direct` the input's
analog values are counted as events too.) A maximum pool costs nothing, and of several spikes lets one through, whose way on is
counted. Leaks, thresholds, biases and the read-out's own update are counted by neither; how often a neuron gets a bias is said
beside them, and costs an AC in both energies.
"""

from itertools import chain
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from self_models.basics import ModelError, wide
from self_models.counting.prices import conventions
from self_models.counting.spikes import part_of
from self_models.network.stages import LINEAR
from self_models.network.wiring import check_known

FIRST = "features.0"  # whose inputs are the events of the input neurons
COUNTED = ("acs", "macs", "dense", "events", "spikes", "neurons", "biases", "steps", "reached")


def energy_joules(acs, macs):
    """Estimated energy of the arithmetic alone, without memory traffic: of conventions/arithmetic_45nm.toml."""
    price = conventions()["arithmetic_45nm"].picojoules
    return 1e-12 * (price["add"] * acs + price["multiply_add"] * macs)


def energies(operations, comparisons, analog_input=False):
    """Estimated energy per image of the two ways to run a network, in J, for OperationCounter's result and the pixels compared
    with their prediction, an AC each, as is each bias that a neuron gets. energy_joules: layer by layer, effective ACs and MACs;
    energy_event_joules: event by event, ACs alone, but for an analog input (--encoding direct), each of whose events multiplies.
    """
    analog = next(iter(operations["layers"]["event_acs"].values())) if analog_input else 0.0  # the first layer's
    added = comparisons + operations.get("bias_additions", 0)
    return {
        "energy_joules": energy_joules(operations["effective_acs"] + added, operations["effective_macs"]),
        "energy_event_joules": energy_joules(operations["event_acs"] - analog + added, analog),
    }


class OperationCounter:
    """Counts the operations of an SNN's forward passes while it is entered: `with OperationCounter(model) as counter`. reaches:
    also the neurons that something arrives at in a step, which the event engine does not tell. Raises ModelError for a network
    with a part or a method whose operations are not known, and where they are being counted already."""

    def __init__(self, model, reaches=False):
        check_known(model, "a count of operations", "evaluate(..., operations=False) does without")
        self.model, self._noted, self._met = model, [], {}
        self.acs, self.macs, self.dense, self.events, self.spikes, self.neurons, self.biases = {}, {}, {}, {}, {}, {}, {}
        self.steps, self.reached, self._reaches = {}, {}, reaches
        names, wiring = {module: name for name, module in model.named_modules()}, model.wiring
        self._phases = wiring.phases if model.phased else 1  # in one of which a layer gets something
        self._connections = {}  # by the last of their linear layers
        self._modules, self._inputs = {}, {}  # of the connections, with what goes into them: (C, H, W), or (N,)
        self._behind = set()  # connections behind another one, or behind an average pool
        self._sizes = dict(zip(wiring.names, map(prod, wiring.shapes), strict=False))
        sources = dict(enumerate(wiring.names)) | {pool.target: pool.name for pool in wiring.pools}
        self._ends = {name: [] for name in sources.values()}  # where a node's spikes go: last connection, neurons that it reaches
        for one in (*wiring.forward, *wiring.feedback):
            for module, shape in zip(one.modules, one.sizes(), strict=False):
                if isinstance(module, LINEAR):
                    end = names[module]
                    self._modules[end] = module
                    self._inputs[end] = (prod(shape),) if isinstance(module, nn.Linear) else shape
                    if module is not one.modules[0]:
                        self._behind.add(end)
            self._ends[sources[one.source]].append((end, torch.from_numpy(one.reach())))
            self._connections[end] = one

    def __enter__(self):
        if self.model.watcher:
            raise ModelError("the operations of this model are being counted already")
        if self.model.engine:
            self.model.engine.start_counting()
        self.model.watcher = self
        return self

    def __exit__(self, *exception):
        self.model.watcher = None
        if self.model.engine:
            self._take(self.model.engine.stop_counting())

    def begin(self):
        """A run begins; of one that has failed nothing counts that was not settled."""
        self._noted = []

    def note(self, name, signal, steps):
        """What goes into the connection of this name, or comes out of the spiking layer or pool, in the steps of these numbers,
        one after the other (T B, ...); it counts with settle()."""
        self._noted.append((name, signal, steps))

    def settle(self, active_parts, images, ends=None):
        """Count what has been noted of some steps. active_parts: their ActiveParts; images: how many took them; ends: how many of
        them each image took (B,), None for all."""
        noted, self._noted = self._noted, []
        flags = [
            (True, not one.waits, not one.decoder_idle, now, not self.model.phased or self.model.phase(step) == 0)
            for one in active_parts
            for step, now in enumerate(one.decodes, one.first)
        ]
        always, goes_on, asks, decodes, charges = torch.tensor(flags).T  # charges: of a phased network one phase, as each layer
        runs = {"encoder": always, "after": goes_on, "decoder": decodes}  # which parts run in which steps
        takes = runs | {"decoder": asks}  # and which take the events of others
        device = ends.device if ends is not None else noted[0][1].device if noted else None  # all may have waited
        taken = torch.ones(len(flags), images, dtype=torch.bool, device=device)
        if ends is not None:
            taken = torch.arange(len(flags), device=device)[:, None] < ends
        spikes = active = None
        for name, signal, steps in noted:
            at = torch.tensor([step - active_parts[0].first for step in steps], dtype=torch.int64)
            rows, flat = taken[at.to(device)].flatten(), signal.detach()
            if name in self._modules:
                if signal is spikes:  # of the layer before: 0 or 1
                    self._count_operations(name, active, True)
                else:
                    self._count_inputs(name, flat, rows)
            if name in self._ends or name == FIRST:
                spikes, fired = signal, (flat != 0).float() if name == FIRST else flat
                active = sum_over_batch(fired, rows)
                left = {part: self._left_to(flag[at], taken[at.to(device)], active, fired) for part, flag in takes.items()}
                source = "input" if name == FIRST else name
                self._count_events(source, active, lambda end: left[self._part(end)])  # noqa: B023
                for end, _ in self._ends[source] if self._reaches else ():
                    taken_now = taken[at.to(device)] & takes[self._part(end)][at].to(device)[:, None]
                    self._count_reached(end, (flat != 0)[taken_now.flatten()])
        images_at = taken.sum(1).cpu()
        counted = {part: int(images_at[flag & charges].sum()) for part, flag in runs.items()}
        for name in self._modules:
            self._count_dense(name, counted[self._part(name)])
        for name, size in self._sizes.items():
            self.neurons[name] = self.neurons.get(name, 0) + size * counted[self._part(name)]
            self.spikes.setdefault(name, 0)
        for end, _ in chain(*self._ends.values()):  # which no spike may have reached yet
            self.events.setdefault(end, 0)

    @staticmethod
    def _left_to(flag, taken, active, fired):
        """How often each neuron fired in the steps of the flag, of the images that took them."""
        return active if flag.all() else sum_over_batch(fired, (taken & flag.to(taken.device)[:, None]).flatten())

    def _part(self, name):
        """The part of the network to which a layer belongs, as far as parts may rest: see ActiveParts."""
        if part_of(name) == "decoder":
            return "decoder"
        stage, position = (FIRST if name == "input" else name).split(".")
        return "encoder" if stage == "features" and int(position) < self.model.features.fork else "after"

    def _take(self, counted):
        """Add what the event engine counted."""
        names = {module: name for name, module in self.model.named_modules()}
        for module, inputs in counted.modules.items():
            if (name := names[module]) in self._modules:
                for active, is_binary in ((inputs.binary, True), (inputs.other, False)):
                    self._count_operations(name, active.double().reshape(self._inputs[name]), is_binary)
                self._count_dense(name, inputs.steps // self._phases)
        for name, inputs in counted.neurons.items():
            active = (inputs.binary + inputs.other).double()
            self._count_events(name, active, lambda end: active)  # noqa: B023
            if name in self._sizes:
                self.neurons[name] = self.neurons.get(name, 0) + active.numel() * (inputs.steps // self._phases)

    def counts(self):
        """What was counted so far, kind -> layer -> number."""
        return {kind: {name: float(value) for name, value in getattr(self, kind).items()} for kind in COUNTED}

    def result(self, images):
        """Means per image: effective_acs, effective_macs, dense, event_acs; feedback_acs, feedback_macs and feedback_event_acs,
        the decoder's part of them; activation_sparsity, zeros among all outputs of spiking layers; layers, the same counts and
        the active share by layer; and of a network with biases bias_additions, how often a neuron gets one."""
        totals = {"effective_acs": self.acs, "effective_macs": self.macs, "dense": self.dense, "event_acs": self.events}
        layers = {kind: {name: float(value) / images for name, value in by.items()} for kind, by in totals.items()}
        decoder = {kind: sum(v for name, v in by.items() if part_of(name) == "decoder") for kind, by in layers.items()}
        layers["active_share"] = {name: float(self.spikes[name]) / max(self.neurons[name], 1) for name in self.spikes}
        spikes = sum(float(value) for name, value in self.spikes.items() if name != "input")
        neurons = sum(value for name, value in self.neurons.items() if name != "input")
        return {
            **{kind: sum(layers[kind].values()) for kind in totals},
            "feedback_acs": decoder["effective_acs"],
            "feedback_macs": decoder["effective_macs"],
            "feedback_event_acs": decoder["event_acs"],
            "activation_sparsity": 1 - spikes / max(neurons, 1),
            "layers": layers,
            **({"bias_additions": sum(self.biases.values()) / images} if self.biases else {}),
        }

    def _count_inputs(self, name, signal, rows):
        """Add a connection's operations for its inputs, (N, ...), of which these rows count, bool (N,): binary are those of which
        all values are -1, 0 or 1."""
        is_active = (signal != 0).float()
        is_binary = ((signal == 0) | (signal.abs() == 1)).flatten(1).all(1) & (name not in self._behind)
        for among, kind in ((rows & is_binary, True), (rows & ~is_binary, False)):
            self._count_operations(name, sum_over_batch(is_active, among), kind)

    def _count_operations(self, name, active, is_binary):
        """Add a connection's operations; active: how often each of its inputs was not 0, (C, H, W) or (N,)."""
        operations = (active * self._weights_met(name)[0].to(active.device)).sum()
        counted_in, other = (self.acs, self.macs) if is_binary else (self.macs, self.acs)
        counted_in[name] = counted_in.get(name, 0) + operations
        other.setdefault(name, 0)

    def _count_dense(self, name, steps):
        """Add the operations of a connection that uses no sparsity, and its biases; steps: of all images together."""
        self.steps[name] = self.steps.get(name, 0) + steps
        self.dense[name] = self.dense.get(name, 0) + self._weights_met(name)[1] * steps
        if (one := self._connections.get(name)) and one.bias is not None:
            self.biases[name] = self.biases.get(name, 0) + prod(one.target_shape) * steps

    def _count_reached(self, end, active):
        """Add how many neurons of a connection's target something arrives at; active: what its source sends, bool (N, ...), of
        the steps and images that count."""
        one = self._connections[end]
        places = active.view(*active.shape, *[1] * (4 - active.dim())).float().amax(1, keepdim=True)
        for module in one.modules:
            if isinstance(module, nn.Linear):
                places = places.flatten(1).amax(1).view(-1, 1, 1, 1)
            elif isinstance(module, LINEAR):
                places = apply_connection(module, places, places.new_ones(1, 1, *module.kernel_size))
            else:
                places = module(places)
        self.reached[end] = self.reached.get(end, 0) + (places > 0).sum().item() * one.target_shape[0]

    def _weights_met(self, name):
        """(non-zero weights that each input of a connection meets, all weights that all of them meet)"""
        if name not in self._met:
            module, shape = self._modules[name], self._inputs[name]
            self._met[name] = fan_out(module, shape, every=False), fan_out(module, shape, every=True).sum()
        return self._met[name]

    def _count_events(self, name, active, taken_by):
        """Add spikes of a layer, or what a pool lets through; active: how often each neuron, or place, spiked; taken_by: the
        same, as far as the connection of a name takes them."""
        for end, reached in self._ends[name]:
            taken = taken_by(end)
            by_place = taken.sum(0) * reached.to(taken) if taken.dim() == 3 else taken * reached.item()
            self.events[end] = self.events.get(end, 0) + by_place.sum()
        if name in self._sizes:
            self.spikes[name] = self.spikes.get(name, 0) + active.sum()


def sum_over_batch(active, among=None):
    """(B, ...) float32 of zeros and ones -> (...) float64; among: of these images only, (B,) bool. A product: sum(0) is slow."""
    is_image = active.dim() == 4
    rows = active.permute(0, 2, 3, 1) if is_image else active
    weights = active.new_ones(len(active)) if among is None else among.to(active.dtype)
    total = (weights @ rows.flatten(1)).to(wide(active.device)).reshape(rows.shape[1:])
    return total.permute(2, 0, 1) if is_image else total


@torch.inference_mode(False)  # it takes a gradient, whatever the caller is about
def fan_out(layer, shape, every):
    """Weights that each input of a layer meets, float64 of this shape; every: all weights, else the non-zero ones."""
    ones = torch.ones(1, *shape, dtype=wide(layer.weight.device), device=layer.weight.device).requires_grad_()
    weight = layer.weight.detach().to(ones.dtype)
    weight = torch.ones_like(weight) if every else (weight != 0).to(weight.dtype)
    with torch.enable_grad():
        return torch.autograd.grad(apply_connection(layer, ones, weight).sum(), ones)[0][0].detach()


def apply_connection(layer, x, weight):
    """The layer's own map with another weight."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    if isinstance(layer, nn.ConvTranspose2d):
        return F.conv_transpose2d(x, weight, stride=layer.stride, padding=layer.padding, output_padding=layer.output_padding)
    return F.conv2d(x, weight, stride=layer.stride, padding=layer.padding)
