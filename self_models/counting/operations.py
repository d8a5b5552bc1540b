"""Operations of a network while it runs, as NeuroBench counts them, and as an event-driven machine would.

NeuroBench: an operation is a non-zero input times a non-zero weight, at every place where the weight is used, exact at
borders. A layer call whose inputs are all -1, 0 or 1 costs accumulates (ACs), any other multiply-accumulates (MACs); NeuroBench
judges a whole batch, we each image and step, so that the counts do not depend on the batch. So a 2x2 layer takes spikes and
costs ACs, and the layer after it sees real values and costs MACs. Dense counts zeros too.

Event-driven: a 2x2 layer (and pooling) is linear, so it folds into the layer after it. Then each spike of a neuron costs
one AC for each neuron of the next spiking layer that it reaches, and no MAC is left. (With `--encoding direct` the input's
analog values are counted as events too.) Leaks, thresholds and the read-out's own update are counted by neither.
"""

import torch
import torch.nn.functional as F
from torch import nn

from self_models.basics.devices import wide
from self_models.counting.spikes import part_of
from self_models.network.neurons import SpikingNeuron
from self_models.network.stages import list_layers

CONNECTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
JOULES_PER_MAC = 4.6e-12  # 32-bit floating point, 45 nm (Horowitz, ISSCC 2014)
JOULES_PER_AC = 0.9e-12
COUNTED = ("acs", "macs", "dense", "events", "spikes", "neurons")


def energy_joules(acs, macs):
    """Estimated energy of the arithmetic alone, without memory traffic: 0.9 pJ per AC, 4.6 pJ per MAC, 45 nm."""
    return JOULES_PER_AC * acs + JOULES_PER_MAC * macs


def energies(operations, comparisons, analog_input=False):
    """Estimated energy per image of the two ways to run a network, in J, for OperationCounter's result and the pixels compared
    with their prediction, an AC each. energy_joules: layer by layer, effective ACs and MACs; energy_event_joules: event by
    event, ACs alone, but for an analog input (--encoding direct), each of whose events multiplies."""
    analog = next(iter(operations["layers"]["event_acs"].values())) if analog_input else 0.0  # the first layer's
    return {
        "energy_joules": energy_joules(operations["effective_acs"] + comparisons, operations["effective_macs"]),
        "energy_event_joules": energy_joules(operations["event_acs"] - analog + comparisons, analog),
    }


class OperationCounter:
    """Counts the operations of an SNN's forward passes while it is entered: `with OperationCounter(model) as counter`."""

    def __init__(self, model):
        self.model = model
        self.acs, self.macs, self.dense, self.events, self.spikes, self.neurons = {}, {}, {}, {}, {}, {}
        self._fan_out, self._reach, self._hooks = {}, {}, []
        self._spikes = self._active = None  # of the spiking layer that ran last, and their sum over the batch

    def __enter__(self):
        if self.model.engine:
            self.model.engine.start_counting()
        for name, module in self.model.named_modules():
            if isinstance(module, CONNECTIONS):
                self._hooks.append(module.register_forward_pre_hook(self._connection_hook(name)))
            elif isinstance(module, SpikingNeuron):
                self._hooks.append(module.register_forward_hook(self._neuron_hook(name)))
        first = next(iter(self.model.features))
        self._hooks.append(first.register_forward_pre_hook(self._input_hook))
        return self

    def __exit__(self, *exception):
        for hook in self._hooks:
            hook.remove()
        if self.model.engine:
            self._take(self.model.engine.stop_counting())

    def _take(self, counted):
        """Add what the event engine counted."""
        names = {module: name for name, module in self.model.named_modules()}
        for module, inputs in counted.modules.items():
            if isinstance(module, CONNECTIONS):
                for active, is_binary in ((inputs.binary, True), (inputs.other, False)):
                    self._count_operations(names[module], module, as_input(module, active), is_binary)
                self._count_dense(names[module], inputs.steps)
        for name, inputs in counted.neurons.items():
            active = torch.from_numpy(inputs.binary + inputs.other)
            active = active.flatten() if name.startswith("classifier") else active
            unread = torch.from_numpy(inputs.unread).to(torch.float64)
            self._count_events(name, active.to(torch.float64), active.numel() * inputs.steps, unread)

    def counts(self):
        """What was counted so far, kind -> layer -> number."""
        return {kind: {name: float(value) for name, value in getattr(self, kind).items()} for kind in COUNTED}

    def hold(self, parts):
        """Hold the sum of several counts() from now on; returns self."""
        for kind in COUNTED:
            names = dict.fromkeys(name for part in parts for name in part[kind])
            setattr(self, kind, {name: sum(part[kind].get(name, 0) for part in parts) for name in names})
        return self

    def result(self, images):
        """Means per image: effective_acs, effective_macs, dense, event_acs; feedback_acs, feedback_macs and
        feedback_event_acs, the decoder's part of them; activation_sparsity, zeros among all outputs of spiking layers; and
        layers, the same counts and the active share by layer."""
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
        }

    def _connection_hook(self, name):
        def hook(module, inputs):
            signal = inputs[0].detach()
            if inputs[0] is self._spikes:
                self._count_operations(name, module, self._active, True)
            else:
                is_active, is_binary = (signal != 0).float(), binary_rows(signal)
                for rows, kind in ((is_binary, True), (~is_binary, False)):
                    self._count_operations(name, module, sum_over_batch(is_active, rows), kind)
            self._count_dense(name, len(signal))

        return hook

    def _count_operations(self, name, module, active, is_binary):
        """Add a connection's operations; active: how often each of its inputs was not 0, (C, H, W) or (N,)."""
        if name not in self._fan_out:
            every = fan_out(module, active[None], every=True).sum()
            self._fan_out[name] = (fan_out(module, active[None], every=False), every)
        operations = (active * self._fan_out[name][0]).sum()
        counted_in, other = (self.acs, self.macs) if is_binary else (self.macs, self.acs)
        counted_in[name] = counted_in.get(name, 0) + operations
        other.setdefault(name, 0)

    def _count_dense(self, name, steps):
        """Add the operations of a connection that uses no sparsity; steps: of all images together."""
        self.dense[name] = self.dense.get(name, 0) + self._fan_out[name][1] * steps

    def _neuron_hook(self, name):
        def hook(module, inputs, output):
            self._spikes, self._active = output[0], sum_over_batch(output[0].detach())  # spikes are 0 or 1
            self._count_events(name, self._active, output[0].numel())

        return hook

    def _input_hook(self, module, inputs):
        self._count_events("input", sum_over_batch((inputs[0] != 0).float()), inputs[0].numel())

    def _taken(self, end, active, unread):
        """What the connection of this name takes of a layer's spikes; see _count_events."""
        stage, position = end.split(".")
        if unread is not None:
            return active - unread if is_decoder(end) else active
        if is_decoder(end):
            return active * (not self.model.rests)
        return active * (not self.model.waits or (stage == "features" and int(position) < self.model.features.fork))

    def _count_events(self, name, active, places, unread=None):
        """Add a layer's spikes; active: how often each neuron spiked; places: neurons times steps; unread: how often while the
        decoder, which it feeds, rested, over a whole run; None: these are of one step of a dense run."""
        if name not in self._reach:
            self._reach[name] = {end: reach(way, active.shape, active.device) for end, way in targets(self.model, name)}
        for end, reached in self._reach[name].items():
            self.events[end] = self.events.get(end, 0) + (self._taken(end, active, unread) * reached).sum()
        self.spikes[name] = self.spikes.get(name, 0) + active.sum()
        self.neurons[name] = self.neurons.get(name, 0) + places


def as_input(module, active):
    """A count by input, array (C, H, W), as float64 tensor in the shape of this module's input."""
    active = torch.from_numpy(active).to(torch.float64)
    return active.flatten() if isinstance(module, nn.Linear) else active


def sum_over_batch(active, among=None):
    """(B, ...) float32 of zeros and ones -> (...) float64; among: of these images only, (B,) bool, else of all. As a product
    with ones in memory order, since sum(0) is slow."""
    is_image = active.dim() == 4
    rows = active.permute(0, 2, 3, 1) if is_image else active
    weights = active.new_ones(len(active)) if among is None else among.to(active.dtype)
    total = (weights @ rows.reshape(len(active), -1)).to(wide(active.device)).reshape(rows.shape[1:])
    return total.permute(2, 0, 1) if is_image else total


def binary_rows(signal):
    """(B, ...) -> (B,) bool: whether all values of an image are -1, 0 or 1."""
    return ((signal == 0) | (signal.abs() == 1)).flatten(1).all(1)


def fan_out(layer, signal, every):
    """Weights that each input of a layer meets, (C, H, W) or (N,) float64; every: all weights, else the non-zero ones."""
    ones = torch.ones_like(signal[:1], dtype=wide(signal.device)).requires_grad_()
    weight = layer.weight.detach().to(wide(signal.device))
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


def targets(model, name):
    """Where a layer's spikes go: (name of the connection they end in, modules on the way) pairs, one per spiking layer or
    output reached."""
    stage, position = ("features", -1) if name == "input" else (name.split(".")[0], int(name.split(".")[1]))
    if stage != "features":
        end, modules, _ = _until_neuron(stage, list_layers(getattr(model, stage))[position + 1 :])
        return [(end, modules)] if modules else []
    encoder = list_layers(model.features)
    found, (end, modules, is_inside) = [], _until_neuron(stage, encoder[position + 1 :])
    if is_inside:
        found.append((end, modules))
    before_fork = _until_neuron(stage, encoder[position + 1 : model.features.fork])
    is_decoded = model.has_feedback and position < model.features.fork and not before_fork[2]
    for following, way, reaches in (("generate", before_fork[1], is_decoded), ("classifier", modules, not is_inside)):
        if reaches:
            end, others, _ = _until_neuron(following, list_layers(getattr(model, following)))
            found.append((end, way + others))
    return found


def is_decoder(name):
    return part_of(name) == "decoder"


def _until_neuron(stage, children):
    """(name of the last connection, linear modules, whether a spiking layer ends them)."""
    end, modules = None, []
    for position, module in children:
        if isinstance(module, SpikingNeuron):
            return end, modules, True
        if isinstance(module, (*CONNECTIONS, nn.AvgPool2d)):
            modules.append(module)
            end = f"{stage}.{position}"
    return end, modules, False


def reach(modules, shape, device):
    """How many neurons at the end of these linear modules one spike reaches, for each place it can start from.

    shape: (C, H, W) or (N,) of the spiking layer -> float64 of a shape that broadcasts with it.
    """
    if len(shape) == 1:
        return torch.tensor(float(modules[-1].out_features), dtype=wide(device), device=device)
    height, width = shape[1:]
    places = torch.eye(height * width, dtype=wide(device), device=device).reshape(-1, 1, height, width)
    for module in modules:
        if isinstance(module, nn.Linear):
            reached = (places.flatten(1) > 0).any(1) * float(module.out_features)
            return reached.reshape(1, height, width)
        if isinstance(module, nn.AvgPool2d):
            reached = module(places)
        else:
            reached = apply_connection(module, places, places.new_ones(1, 1, *module.kernel_size))
        places = (reached > 0).to(places.dtype)
    channels = next(module.out_channels for module in reversed(modules) if not isinstance(module, nn.AvgPool2d))
    return (places.flatten(1).sum(1) * channels).reshape(1, height, width)
