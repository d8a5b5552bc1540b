"""A trained ANN as torch.fx traces it: which of our layers it has, and which takes what from which."""

import copy
import operator
import re
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from self_models.basics import ModelError
from self_models.network.chains import Scale
from self_models.network.norms import QCFS
from self_models.running.outputs import INPUT

NONLINEARITIES = nn.ReLU, nn.ReLU6, QCFS
WEIGHTED = nn.Conv2d, nn.Linear
NORMS = nn.BatchNorm1d, nn.BatchNorm2d
AS_MODULES = {  # function, or method of a tensor -> the module that does the same
    torch.relu: nn.ReLU, F.relu: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU, F.relu6: nn.ReLU6, F.avg_pool2d: nn.AvgPool2d,
    F.max_pool2d: nn.MaxPool2d, F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}  # fmt: skip
SUMS = operator.add, operator.iadd, torch.add, "add", "add_"
CATS = torch.cat, torch.concat
MEANS = torch.mean, "mean"
RESHAPES = "view|reshape|flatten|squeeze|contiguous|dropout|clone|detach|float"  # in evaluation
ADVICE = {  # part of a name -> what would do
    "softmax": "leave it out, since the class is that of the largest logit",
    "elu|silu|swish|mish|tanh|sigmoid": "train with nn.ReLU, nn.ReLU6 or QCFS in its place",
    "norm": "train with BatchNorm2d behind a Conv2d in its place",
    "mul|div|sub|matmul": "signals are joined by + and torch.cat(..., 1); constants belong into weights",
    "pool": "AvgPool2d, AdaptiveAvgPool2d of a size that divides the image, and MaxPool2d behind a nonlinearity do",
}
TAKEN = "Conv2d, Linear, BatchNorm, ReLU, ReLU6, QCFS, average and maximum pools, Flatten, +, torch.cat(..., 1) and Dropout do"


class Layer(NamedTuple):
    """module: one of ours, or of NONLINEARITIES; sources: names of the layers whose sum it takes; where: in the ANN, in words."""

    name: str
    module: nn.Module
    sources: tuple
    where: str = ""


class Tracer(fx.Tracer):
    """Stops at all that computes as torch.nn has it, and at QCFS; a node's meta["line"] is the line that calls it."""

    def create_node(self, *args, **options):
        node = super().create_node(*args, **options)
        node.meta["line"] = line_of(traceback.extract_stack()[:-1])
        return node

    def is_leaf_module(self, module, name):
        plain = type(module).forward.__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
        return plain or isinstance(module, QCFS)


def line_of(frames):
    """The last of these frames behind ours, but for torch's, in words, '' for none."""
    ours = max((at for at, frame in enumerate(frames) if frame.filename == __file__), default=-1)
    behind = [frame for frame in frames[ours + 1 :] if f"{Path(torch.__file__).parent}" not in frame.filename]
    return f"{Path(behind[-1].filename).name}, line {behind[-1].lineno} ({behind[-1].line})" if behind else ""


@torch.no_grad()
def traced(ann, images):
    """(the Layers of an ANN in evaluation, in the order in which they run, the name of the last). images: some that it takes,
    (B, C, H, W). Raises ModelError with the line, or layer, that a network here does not have, and what would do."""
    try:
        program = fx.GraphModule(ann, Tracer().trace(ann))
        program.graph.eliminate_dead_code()
    except Exception as error:  # whatever a forward makes of what stands for its input
        line, is_value = line_of(traceback.extract_tb(error.__traceback__)), isinstance(error, fx.proxy.TraceError)
        why = "what it does depends on values" if is_value else one_line(error)
        raise ModelError(f"{line or 'the model'} cannot be traced: {why}; give a forward of layers alone") from None
    tracing = Tracing(program)
    tracing.run(images[[0, -1]])
    return simplified(tracing.layers, tracing.last)


class Tracing(fx.Interpreter):
    """Runs what was traced on two images, and makes Layers of it. names: node -> the layer that sends what it sends."""

    def __init__(self, program):
        super().__init__(program, garbage_collect_values=False)
        self.layers, self.names, self.last, self.extra_traceback = [], {}, None, False

    def run_node(self, node):
        self.node, before = node, [one for one in node.all_input_nodes if isinstance(self.env[one], torch.Tensor)]
        try:
            value = super().run_node(node)
        except Exception as error:
            raise ModelError(f"{self.where()} does not run: {one_line(error)}") from None
        if node.op == "placeholder" and not self.names:
            self.names[node] = INPUT
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node) or node.args[0] not in self.names or self.env[node.args[0]].dim() != 2:
                raise ModelError("the model must return one tensor of logits, (B, classes), made of its images")
            self.last = self.names[node.args[0]]
        elif isinstance(value, torch.Tensor) and node.op != "get_attr":
            if not before or not self.names.keys() >= {*before}:
                raise self.refused("takes a tensor that is no signal")
            self.names[node] = self.taken(node, value, self.env[before[0]], [self.names[one] for one in before])
        return value

    def where(self):
        line = self.node.meta.get("line")
        layer = f"layer {self.node.target} ({self.kind()})" if self.node.op == "call_module" else ""
        return " of ".join(filter(None, (layer, line))) or self.node.name

    def kind(self):
        """The module's class, or the function's name."""
        return type(self.fetch_attr(self.node.target)).__name__ if self.node.op == "call_module" else self.node.name

    def refused(self, what="is nothing that a network here has", advice=""):
        found = (words for names, words in ADVICE.items() if re.search(names, self.kind().lower()))
        return ModelError(f"{self.where()} {what}: {advice or next(found, TAKEN)}")

    def add(self, module, sources, suffix=""):
        name = f"{self.node.name}{suffix}"
        self.layers.append(Layer(name, module, tuple(sources), self.where()))
        return name

    def taken(self, node, value, first, sources):
        """The name of the layer, of new ones, that does what a node does. value: what it sends; first: what it takes first;
        sources: names of the layers that it takes."""
        options = {name: value for name, value in node.kwargs.items() if name != "input"}
        args, options = fx.node.map_arg((node.args[1:], options), lambda one: self.env[one])
        if node.target in SUMS:
            return self.sum_of(node, value)
        if node.target in CATS:
            return self.cat_of(node, value, *args, **options)
        if node.op == "call_module" or node.target in AS_MODULES:
            module = AS_MODULES[node.target](*args, **options) if node.op != "call_module" else self.fetch_attr(node.target)
            return self.layer_of(module, sources, first.shape, value.shape)
        if node.target in MEANS and first.dim() == 4 and same(value, first.mean((2, 3))):
            pool = self.add(nn.AvgPool2d(tuple(first.shape[2:])), sources, "_pool")
            return pool if value.dim() == 4 else self.add(nn.Flatten(), [pool])
        if len(sources) == 1 and re.search(RESHAPES, node.name) and same(value, first):
            return self.reshaped(sources, first.shape, value.shape)
        raise self.refused()

    def reshaped(self, sources, before, after):
        if before == after:
            return sources[0]
        if len(after) != 2 or after[0] != before[0]:
            raise self.refused("gives a signal another shape", "Flatten, or view(len(x), -1), do")
        return self.add(nn.Flatten(), sources)

    def sum_of(self, node, value):
        one = [each for each in node.args if isinstance(each, fx.Node)]
        if len(one) != 2 or node.kwargs or any(self.env[each].shape != value.shape for each in one):
            raise self.refused("adds what is no signal of the same shape", "constants belong into a bias")
        first, second = (self.names[each] for each in one)
        return self.add(nn.Identity(), [first, self.add(nn.Identity(), [second], "_again") if first == second else second])

    def cat_of(self, node, value, dim=0, tensors=()):
        """A sum of the parts, each at its place among the channels."""
        if dim % value.dim() != 1:
            raise self.refused("joins signals along another dimension than channels", "torch.cat(..., 1) does")
        names, first = [], 0
        for number, one in enumerate(node.args[0] if node.args else node.kwargs["tensors"]):
            channels, all_ = self.env[one].shape[1], value.shape[1]
            new = nn.Linear(channels, all_, False) if value.dim() == 2 else nn.Conv2d(channels, all_, 1, bias=False)
            new.weight.data.zero_().flatten(1)[first : first + channels] = torch.eye(channels)
            names.append(self.add(new, [self.names[one]], f"_part{number}"))
            first += channels
        return self.add(nn.Identity(), names)

    def layer_of(self, module, sources, before, after):
        """The name of a layer that does what a module does to a signal of the shape before."""
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            raise self.refused("has a hook, or a forward of its own", "remove it")
        if "Dropout" in type(module).__name__ or isinstance(module, nn.Flatten | nn.Identity):
            return self.reshaped(sources, before, after)
        if isinstance(module, nn.AdaptiveAvgPool2d):
            sides = [divmod(*each) for each in zip(before[-2:], after[-2:], strict=True)]
            if any(rest for _, rest in sides):
                raise self.refused("has windows of several sizes")
            module = nn.AvgPool2d(tuple(side for side, _ in sides))
        if isinstance(module, nn.Linear) and len(before) != 2:
            raise self.refused("takes a signal of several dimensions", "put a Flatten before it")
        if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
            raise self.refused("pads its images with something", "padding_mode='zeros' does")
        if getattr(module, "ceil_mode", False) or not getattr(module, "count_include_pad", True):
            raise self.refused("counts windows at the border otherwise", "ceil_mode=False and count_include_pad=True do")
        if isinstance(module, NORMS) and module.running_mean is None:
            raise self.refused("keeps no statistics", "track_running_stats=True does")
        if isinstance(module, nn.MaxPool2d) and not isinstance(self.module_named(sources[0]), (*NONLINEARITIES, nn.MaxPool2d)):
            raise self.refused("pools what is no spike", "put it right behind a ReLU; its result is the same there")
        if not isinstance(module, (*WEIGHTED, *NORMS, *NONLINEARITIES, nn.AvgPool2d, nn.MaxPool2d)):
            raise self.refused()
        module = plain(module) if isinstance(module, WEIGHTED) else copy.deepcopy(module)
        module.inplace = False  # of a ReLU
        return self.add(module, sources)

    def module_named(self, name):
        return next((layer.module for layer in self.layers if layer.name == name), None)


def same(values, others):
    return values.numel() == others.numel() and torch.allclose(values.flatten(), others.flatten(), 1e-4, 1e-5, equal_nan=True)


def one_line(error):
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def plain(module):
    """A convolution or nn.Linear of the same weights, without parametrizations."""
    cls = nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d
    new = cls(**arguments_of(module))
    for name in ("weight", "bias"):
        if getattr(new, name) is not None:
            getattr(new, name).data = getattr(module, name).detach().clone()
    return new


ARGUMENTS = {  # class -> what one like it is made of
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    nn.Linear: ("in_features", "out_features"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "divisor_override"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation"),
}


def arguments_of(module):
    """Name -> value of what a module of the same form is made of."""
    names = next((names for cls, names in ARGUMENTS.items() if isinstance(module, cls)), ())
    bias = {"bias": module.bias is not None} if isinstance(module, WEIGHTED) else {}
    return {name: getattr(module, name) for name in names} | bias


# --- the same network in fewer layers


def simplified(layers, last):
    """(Layers, the name of the last) without batch norms, and sums that one layer takes alone."""
    layers, users = {layer.name: layer for layer in layers}, Counter(name for layer in layers for name in {*layer.sources})
    users[last] += 1

    def replace(name, sources):
        """Have those that take what a layer sends take the sum of these instead."""
        del layers[name]
        for user in layers.values():
            taken = [other for source in user.sources for other in (sources if source == name else [source])]
            layers[user.name] = user._replace(sources=tuple(taken))

    for name in list(layers):
        module, sources = layers[name].module, layers[name].sources
        if isinstance(module, NORMS):
            before = layers.get(sources[0]) if len(sources) == 1 else None
            if before and users[before.name] == 1 and isinstance(before.module, WEIGHTED):
                fold(before.module, *affine(module))
                users[before.name] = users[name]
                last = before.name if name == last else last
                replace(name, sources)
            else:
                layers[name] = layers[name]._replace(module=of_channels(module))
        elif isinstance(module, nn.Identity) and users[name] == 1 and name != last and not any(
            {*sources} & {*user.sources} for user in layers.values() if name in user.sources
        ):  # fmt: skip
            replace(name, sources)  # but where a signal would reach the same layer twice: that is two ways
    for layer in layers.values():
        firsts = [layers[name].module for name in layer.sources if name != INPUT and users[name] == 1]
        firsts = [module for module in firsts if isinstance(module, WEIGHTED)]
        if isinstance(layer.module, NONLINEARITIES) and firsts and all(module.bias is None for module in firsts):
            firsts[0].bias = nn.Parameter(torch.zeros(len(firsts[0].weight)))  # for calibrate_biases
    return [*layers.values()], last


def affine(norm):
    """(scale, shift) of each channel by a batch norm in evaluation."""
    scale = torch.rsqrt(norm.running_var + norm.eps) * (1 if norm.weight is None else norm.weight)
    return scale, (0 if norm.bias is None else norm.bias) - norm.running_mean * scale


def fold(module, scale, shift):
    """Have a layer's output times a scale, plus a shift."""
    module.weight.data = module.weight.data * scale.view(-1, *[1] * (module.weight.dim() - 1))
    module.bias = nn.Parameter(shift + (0 if module.bias is None else module.bias.data * scale))


def of_channels(norm):
    """A batch norm as a layer with weights of its own."""
    channels, (scale, shift) = norm.num_features, affine(norm)
    is_flat = isinstance(norm, nn.BatchNorm1d)
    new = nn.Linear(channels, channels) if is_flat else nn.Conv2d(channels, channels, 1, groups=channels)
    new.weight.data = torch.diag(scale) if is_flat else scale.view(-1, 1, 1, 1)
    new.bias.data = shift
    return new


def with_worths(layers, last):
    """(Layers, name of a layer -> that of the neurons by whose threshold its weights are multiplied, so that
    what spikes bring is the ANN's activation). Where there are no weights it has a Scale."""
    new, worth, scaled = [], {INPUT: None}, {}

    def in_the_anns_unit(name):
        if worth[name] is None:
            return name
        if (scale := f"{name}_worth") not in worth:
            new.append(Layer(scale, Scale(torch.ones(())), (name,)))
            scaled[scale], worth[scale] = worth[name], None
        return scale

    for layer in layers:
        name, module, sources = layer.name, layer.module, layer.sources
        units = {worth[source] for source in sources}
        if isinstance(module, NONLINEARITIES) or len(units) > 1:
            sources, units = tuple(map(in_the_anns_unit, sources)), {None}
        (worth[name],) = units
        if isinstance(module, NONLINEARITIES):
            worth[name] = name
        elif isinstance(module, WEIGHTED) and worth[name] is not None:
            scaled[name], worth[name] = worth[name], None
        new.append(layer._replace(sources=sources))
    in_the_anns_unit(last)
    return new, scaled
