"""Which neurons a network's spikes reach: its spiking layers as nodes, and the linear layers between two of them as connections.

Of modules that no architecture makes, derived classes among them, nobody knows what they do: see check_known. A maximum pool is
not linear: what comes out of it, spikes or-ed over 2x2 places, is a node, too, from which connections begin.

2x2 layers, strided convolutions, pools and their transposes are linear, so a spike reaches, through whatever lies between two
spiking layers, a window of neurons. Let d layers halve the image and u double it before a k x k convolution. A spike at (y, x)
lies in block (y // 2^d, x // 2^d) and reaches a window of (2^u + k - 1)^2 places, which may stick out over the border. A linear
layer is reached as a whole.
"""

from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
from torch import nn

from self_models.basics import ModelError
from self_models.network.neurons import UPDATES, CountingMaxPool, HeldDropout, PhasedNeuron, SpikingNeuron
from self_models.network.stages import LINEAR_OR_POOL, chains, encoder_parts, list_layers

STAGES, POOLS = ("features", "generate", "classifier"), (nn.AvgPool2d, nn.MaxPool2d)
FORMLESS = (nn.Linear, SpikingNeuron, PhasedNeuron, HeldDropout)  # classes of a plan's layers that have one form
KNOWN = (*LINEAR_OR_POOL, CountingMaxPool, *FORMLESS)  # all of them
OF_READOUT = ("integrate", "prediction", "on_pixel_scale")  # methods that change neither what layers run nor on what
PLAIN = {"dilation": (1, (1, 1)), "groups": (1,), "padding_mode": ("zeros",), "ceil_mode": (False,), "divisor_override": (None,)}


class Connection(NamedTuple):
    """Linear modules from one node to another, each node by its number and (C, H, W)."""

    source: int
    source_shape: tuple
    target: int
    modules: list
    target_shape: tuple

    @property
    def is_linear(self):
        return isinstance(self.modules[-1], nn.Linear)

    @property
    def bias(self):
        """What the target's neurons get at each step whatever comes, by channel (C',), or None."""
        return getattr(self.modules[-1], "bias", None)

    @property
    def halvings(self):
        """How many modules halve height and width: 2x2 average pools and strided convolutions."""
        return sum(isinstance(one, nn.AvgPool2d) or (isinstance(one, nn.Conv2d) and one.stride == (2, 2)) for one in self.modules)

    @property
    def doublings(self):
        return sum(layer.stride[0].bit_length() - 1 for layer in self.modules if isinstance(layer, nn.ConvTranspose2d))

    @property
    def padding(self):
        """Places of the target by which a window sticks out; a convolution that halves counts its own padding in the source's."""
        if self.is_linear:
            return 0
        _, stride, padding = form_of(self.modules[-1])
        return padding[0] if isinstance(self.modules[-1], nn.ConvTranspose2d) else padding[0] // stride[0]

    @property
    def side(self):
        """Side of the window that one spike reaches, in places."""
        return 1 if self.is_linear else 2**self.doublings + 2 * self.padding

    def sizes(self):
        """The shape (C, H, W) of what goes into each module, and of what comes out at the end."""
        shapes = [self.source_shape]
        for module in self.modules:
            shapes.append(shape_after(module, shapes[-1]))
        return shapes

    def multiply_adds(self):
        """Of each module in a step: weights times places, borders as if they were full; 0 of a pool."""
        found = []
        for module, (before, after) in zip(self.modules, pairwise(self.sizes()), strict=True):
            places = before if isinstance(module, nn.ConvTranspose2d) else after
            found.append(module.weight.numel() * prod(places[1:]) if hasattr(module, "weight") else 0)
        return found

    def corners(self, size):
        """Along a side of the source of this size: where each place's window begins in the target, and whether nothing of it is
        reached, since halving drops an odd row or column; two arrays (size,)."""
        at, block = np.arange(size), 2**self.halvings
        return (at // block) * 2**self.doublings - self.padding, at // block >= size // block

    def reach(self):
        """How many neurons of the target one spike reaches, for each place that it can start from, float64 (H, W)."""
        (_, *source), (channels, *target), sides = self.source_shape, self.target_shape, []
        for size, end in zip(source, target, strict=True):
            first, lost = self.corners(size)
            within = 1 if self.is_linear else np.minimum(first + self.side, end) - np.maximum(first, 0)
            sides.append(np.where(lost, 0, within))
        return channels * np.outer(*sides).astype(np.float64)


class Pool(NamedTuple):
    """A 2x2 maximum pool of the spikes of one node, which are another node's; name: of its module."""

    source: int
    target: int
    name: str


def shape_after(module, shape):
    """(C, H, W) of what a linear module, or a pool, makes of a signal of this shape, which any other is taken to keep."""
    if isinstance(module, nn.Linear):
        return module.out_features, 1, 1
    if not isinstance(module, LINEAR_OR_POOL):
        return shape
    kernel, stride, padding = form_of(module)
    if isinstance(module, nn.ConvTranspose2d):
        sides = [(n - 1) * s + k - 2 * p + more for n, k, s, p, more in
                 zip(shape[1:], kernel, stride, padding, module.output_padding, strict=True)]  # fmt: skip
    else:
        sides = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape[1:], kernel, stride, padding, strict=True)]
    return getattr(module, "out_channels", shape[0]), *sides


def form_of(module):
    """(kernel size, stride, padding) of a convolution or pool, each (height, width)."""
    sizes = module.kernel_size, module.stride, module.padding
    return tuple((size, size) if isinstance(size, int) else size for size in sizes)


class Wiring(NamedTuple):
    """names: of the nodes that spike, 'input' first, then the spiking layers in the order encoder, decoder, classifier; after
    them come the nodes output and decoded, the decoder's output, -1 without a decoder, and then those that Pools make. shapes:
    (C, H, W) of every node, () of neurons beside the stages. forward, feedback: the Connections that run at every step, and those
    of the decoder, in their order; forked: the node whose spikes the decoder takes; pools: in the order in which they run, each
    after its source."""

    names: list
    shapes: list
    forward: list
    feedback: list
    forked: int
    output: int
    decoded: int
    pools: list

    def before_pools(self, node):
        """The node of the neurons that fire the spikes of this node."""
        sources = {pool.target: pool.source for pool in self.pools}
        while node in sources:
            node = sources[node]
        return node

    @property
    def depths(self):
        """Of each node that a connection leads to how many lead there one after the other, the input being at 0."""
        found = {0: 0}
        for one in (*self.forward, *self.feedback):
            found[one.target] = found[self.before_pools(one.source)] + 1
        return found

    @property
    def phases(self):
        """How many phases a phased network takes until its outputs, and its decoder's, are complete."""
        return max(depth + (0 < node < self.output) for node, depth in self.depths.items())

    @property
    def largest(self):
        """Numbers of the largest node."""
        return max(map(prod, self.shapes))


def modules_of(model):
    """A model and all modules in it, once for each place that has one; in a few microseconds."""
    found = [model]
    for module in found:
        found += [part for part in module._modules.values() if part is not None]
    return found


def is_hooked(module):
    """True if the module has forward hooks, or a forward of its own in place of its class's: a fast path would not call them."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def fingerprint(model):
    """(what is equal while nothing of a model has changed, its tensors): modules, hooks, where tensors lie, and how often torch
    has counted a change of them. It counts none by a fused optimiser or through `.data`, nor any of inference tensors."""
    modules, tensors = modules_of(model), []
    found = [*modules]
    for module in modules:
        found += type(module), is_hooked(module)
        if isinstance(module, SpikingNeuron):
            found += module.initial_potential, module.floor, module.update
        for values in (module._parameters, module._buffers):
            tensors += [value for value in values.values() if value is not None]
    found += [(id(value), value.data_ptr(), value.is_inference() or value._version) for value in tensors]
    return found, tensors


def check_known(model, who, instead="it takes what architectures here are made of (network/plans.py)", own=False, but=OF_READOUT):
    """Raises ModelError where a model has a part that no architecture makes, or a method of its own but for these: who, in words,
    does not know it; instead: what to do. own: methods may be its own, and neurons, and what stands beside its stages."""
    if not own and model.replaces(but):
        raise ModelError(f"{who} does not know the methods of {type(model).__name__}: {instead}")
    if part := unknown(model, own):
        raise ModelError(f"{who} does not know {part}: {instead}")


def unknown(model, own=False):
    """The first part of a model that no architecture makes, in words, '' for none: its own parameter, a module beside its stages,
    or in one of them a layer of another class (derived from a known one, too), of another form or update, or out of place. own:
    as in check_known."""
    known, update = {""}, UPDATES.find(model.settings["update"])
    for name, stage in ((name, getattr(model, name)) for name in STAGES):
        if type(stage) is nn.Sequential:
            plain = {at for at, layer in list_layers(stage) if is_plain(layer) and getattr(layer, "update", update) == update}
            known |= {name, *(f"{name}.{at}" for at in plain.difference(misplaced_in(stage)))}
    parts = [*model._parameters.items(), *model._buffers.items()]
    parts += [(name, module) for name, module in model.named_modules() if name not in known]
    found = (one for one in parts if not own or (in_stages(one[0]) and not isinstance(one[1], SpikingNeuron)))
    return next((f"{name} ({type(part).__name__})" for name, part in found), "")


def in_stages(name):
    """Whether a module or tensor of this name belongs to one of the stages that plans make."""
    return name.split(".")[0] in STAGES


def names_of_ones_own(model):
    """Names of a model's tensors that no plan's network has: beside its stages, and of its neurons but for threshold and leak."""
    neurons = [f"{name}." for name, module in model.named_modules() if isinstance(module, SpikingNeuron)]
    of_neurons = {name for name in model.state_dict() if name.startswith(tuple(neurons))}
    plain = {f"{neuron}{kind}" for neuron in neurons for kind in ("threshold", "leak")}
    return [name for name in model.state_dict() if not in_stages(name) or name in of_neurons - plain]


def is_plain(layer):
    """Whether a layer is one of a plan's: of 3x3 or another odd size that keeps the image's, or 2x2 and halving or doubling."""
    if type(layer) not in KNOWN or type(layer) in FORMLESS:
        return type(layer) in KNOWN
    (side, *_), *_ = form = form_of(layer)
    keeps = not isinstance(layer, POOLS) and side % 2 == 1 and form == ((side, side), (1, 1), (side // 2, side // 2))
    resizes = form == ((2, 2), (2, 2), (0, 0))
    return (keeps or resizes) and all(getattr(layer, name, plain[0]) in plain for name, plain in PLAIN.items())


def misplaced_in(stage):
    """Positions of a stage's layers with a bias that neither neurons get at once nor the logits, and of maximum pools of what is
    no spike."""
    for linear, neuron in chains(list_layers(stage)):
        for number, (position, module) in enumerate(linear, 1):
            ends = number == len(linear) and (neuron or isinstance(module, nn.Linear))
            pools = [isinstance(one, nn.MaxPool2d) for _, one in linear[:number]]
            if (getattr(module, "bias", None) is not None and not ends) or (pools[-1] and not all(pools)):
                yield position


def wire(model):
    """The Wiring of an SNN, which takes no memory to speak of."""
    names = ["input", *model.neurons()]
    output = len(names)
    decoded = output + 1 if model.has_feedback else -1
    shapes, pools, first_pool = dict.fromkeys(range(output), ()), [], output + 1 + model.has_feedback
    shapes[0] = model.image_shape

    def walk(stage, layers, source, rest, end=None):
        """(Connections of a stage's layers, the node in which they end, the linear modules after it); rest: modules before them;
        end: the node after these, if they lead to one."""
        found = []
        for linear, neuron in chains(layers):
            for position, module in linear:
                if isinstance(module, nn.MaxPool2d):
                    pools.append(Pool(source, first_pool + len(pools), f"{stage}.{position}"))
                    shapes[pools[-1].target] = shape_after(module, shapes[source])
                    source = pools[-1].target
                else:
                    rest = [*rest, module]
            target = names.index(f"{stage}.{neuron[0]}") if neuron else end
            if target is not None:
                connection = Connection(source, shapes[source], target, rest, ())
                shapes[target] = connection.sizes()[-1]
                found.append(connection._replace(target_shape=shapes[target]))
                source, rest = target, []
        return found, source, rest

    before_fork, after_fork = encoder_parts(model.features)
    forward, forked, rest = walk("features", before_fork, 0, [])
    later, source, last = walk("features", after_fork, forked, rest)
    forward += later + walk("classifier", list_layers(model.classifier), source, last, output)[0]
    feedback = []
    if model.has_feedback:
        feedback, end, _ = walk("generate", list_layers(model.generate), forked, rest, decoded)
        shapes[decoded] = shapes[end]
    return Wiring(names, [shapes[node] for node in sorted(shapes)], forward, feedback, forked, output, decoded, pools)
