"""A trained ANN as torch.fx traces it: which of our layers it has, and which takes what from which."""

import contextlib
import copy
import operator
import re
import traceback
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from self_models.basics import ModelError
from self_models.layers.norms import QCFS
from self_models.layers.scale import Scale
from self_models.runtime.known_parts import KNOWN_FORMS, is_hooked
from self_models.runtime.outputs import INPUT

NONLINEARITIES = nn.ReLU, nn.ReLU6, QCFS
WEIGHTED = nn.Conv2d, nn.Linear
NORMS = nn.BatchNorm1d, nn.BatchNorm2d
AS_MODULES = {  # function, or method of a tensor -> the module that does the same
    torch.relu: nn.ReLU,
    torch.relu_: nn.ReLU,
    F.relu: nn.ReLU,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    F.relu6: nn.ReLU6,
    F.avg_pool2d: nn.AvgPool2d,
    F.max_pool2d: nn.MaxPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
SUMS = operator.add, operator.iadd, torch.add, "add", "add_"
CATS = torch.cat, torch.concat
MEANS = torch.mean, "mean"
CLAMPS = torch.clamp, torch.clamp_, torch.clip, torch.clip_, "clamp", "clamp_", "clip", "clip_"
CLAMPS_FROM_BELOW = torch.clamp_min, torch.clamp_min_, "clamp_min", "clamp_min_"
# names of operations in which a neuron would have to multiply what arrives
PRODUCTS = "i?mul_?|multiply_?|i?matmul|b?mm|einsum|scaled_dot_product_attention"
RESHAPES = "view|reshape|flatten|squeeze|contiguous|dropout|clone|detach|float"  # in evaluation
ADVICE = {  # part of a name -> what would do
    "softmax": "leave it out, since the class is that of the largest logit",
    "elu|silu|swish|mish|tanh|sigmoid": "train with nn.ReLU, nn.ReLU6 or QCFS in its place",
    "norm": "train with BatchNorm2d behind a Conv2d in its place",
    "mul|div|sub|matmul": "signals are joined by + and torch.cat(..., 1); constants belong into weights",
    "pool": "AvgPool2d, AdaptiveAvgPool2d of a size that divides the image, and MaxPool2d behind a nonlinearity do",
}
TAKEN = "Conv2d, Linear, BatchNorm, ReLU, ReLU6, QCFS, average and maximum pools, Flatten, +, torch.cat(..., 1) and Dropout do"


class NotTraceable(ModelError):
    """torch.fx cannot follow the model's forward."""


class Layer(NamedTuple):
    """module: one of ours, or of NONLINEARITIES; sources: names of the layers whose sum it takes; where: in the ANN, in words."""

    name: str
    module: nn.Module
    sources: tuple
    where: str = ""

    is_nonlinear = property(lambda self: isinstance(self.module, NONLINEARITIES))


class Tracer(fx.Tracer):
    """Stops at all that computes as torch.nn has it, and at QCFS; a node's meta["line"] is the line that calls it."""

    def create_node(self, *args, **options):
        node = super().create_node(*args, **options)
        node.meta["line"] = line_of(traceback.extract_stack()[:-1])
        return node

    def is_leaf_module(self, module, name):
        plain = type(module).forward.__module__.startswith("torch.nn") and not isinstance(
            module, nn.Sequential
        )
        return plain or isinstance(module, QCFS)


def line_of(frames):
    """The last of these frames behind ours, but for torch's, in words; None if there is none."""
    ours = max((at for at, frame in enumerate(frames) if frame.filename == __file__), default=-1)
    behind = [
        frame
        for frame in frames[ours + 1 :]
        if f"{Path(torch.__file__).parent}" not in frame.filename
    ]
    return (
        f"{Path(behind[-1].filename).name}, line {behind[-1].lineno} ({behind[-1].line})"
        if behind
        else None
    )


@torch.no_grad()
def traced(ann, images):
    """The Layers of an ANN in evaluation, in the order in which they run. images: some that it takes, (B, C, H, W). Raises
    ModelError with the line, or layer, that a network here does not have, and what would do.
    """
    try:
        program = fx.GraphModule(ann, Tracer().trace(ann))
        program.graph.eliminate_dead_code()  # so the layer that runs last sends the logits
    except Exception as error:  # whatever a forward makes of what stands for its input
        line, is_value = (
            line_of(traceback.extract_tb(error.__traceback__)),
            isinstance(error, fx.proxy.TraceError),
        )
        why = "what it does depends on values" if is_value else one_line(error)
        raise NotTraceable(
            f"{line or 'the model'} cannot be traced: {why}; give a forward of layers alone"
        ) from None
    check_products(program, images[[0, -1]])
    tracing = Tracing(program)
    tracing.run(images[[0, -1]])
    return [*tracing.layers.values()]


def operation_name(node):
    """Return what a node's function or method is called: relu, mul, clamp."""
    if isinstance(node.target, str):
        return node.target
    return getattr(node.target, "__name__", node.name)


def words_for(node):
    """Name a node's layer or operation with the line that calls it."""
    line = node.meta.get("line")
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(node.target)
        what = f"layer {node.target} ({type(module).__name__})"
    elif node.op in ("call_function", "call_method"):
        what = f"operation {operation_name(node)}"
    else:
        return line or node.name
    return f"{what} of {line}" if line else what


def check_products(program, images):
    """Refuse a network that multiplies signals with each other.

    Squeeze-and-excitation and attention do. They have other operations, too, that would be
    refused, a sigmoid or a softmax, but to replace those would not help.

    Parameters
    ----------
    program : fx.GraphModule
        The network as it was traced.
    images : Tensor of shape (B, C, H, W)
        Some that it takes. In-place operations may change them.

    Raises
    ------
    ModelError
        With the first such operation and its line.
    """
    products = [
        node
        for node in program.graph.nodes
        if node.op in ("call_function", "call_method")
        and re.fullmatch(PRODUCTS, operation_name(node))
    ]
    if not products:
        return
    finder = SignalFinder(program)
    with contextlib.suppress(Exception):  # what does not run is told later, with its line
        finder.run(images)
    for node in products:
        factors = []
        fx.node.map_arg((node.args, node.kwargs), factors.append)  # each, also one that is twice
        if sum(factor in finder.signals for factor in factors) > 1:
            raise ModelError(
                f"{words_for(node)} multiplies signals with each other, and a neuron here adds "
                f"them: {ADVICE['mul|div|sub|matmul']}"
            )


class SignalFinder(fx.Interpreter):
    """Runs what was traced. ``signals`` : set of fx.Node, those whose tensors follow from the images."""

    def __init__(self, program):
        super().__init__(program)
        self.signals, self.extra_traceback = set(), False

    def run_node(self, node):
        value = super().run_node(node)
        follows = node.op == "placeholder" or not self.signals.isdisjoint(node.all_input_nodes)
        if follows and isinstance(value, torch.Tensor):
            self.signals.add(node)
        return value


class Tracing(fx.Interpreter):
    """Runs what was traced on two images, and makes Layers of it. names: node -> that of the layer that sends the same."""

    def __init__(self, program):
        super().__init__(program, garbage_collect_values=False)
        self.layers, self.names, self.extra_traceback = {}, {}, False
        self.averaged = {}  # node that averages one axis of a signal -> the node of that signal

    def run_node(self, node):
        self.node, before = (
            node,
            [each for each in node.all_input_nodes if isinstance(self.env[each], torch.Tensor)],
        )
        try:
            value = super().run_node(node)
        except Exception as error:
            raise ModelError(f"{self.where()} does not run: {one_line(error)}") from None
        if node.op == "placeholder" and not self.names:
            self.names[node] = INPUT
        elif node.op == "output":
            if (
                not isinstance(node.args[0], fx.Node)
                or node.args[0] not in self.names
                or self.env[node.args[0]].dim() != 2
            ):
                raise ModelError(
                    "the model must return one tensor of logits, (B, classes), made of its images"
                )
        elif isinstance(value, torch.Tensor) and node.op != "get_attr":
            if not before or not self.names.keys() >= {*before}:
                raise self.refused("takes a tensor that is no signal")
            self.names[node] = self.layer_for(
                node, value, before[0], [self.names[each] for each in before]
            )
        return value

    # --- words

    def where(self):
        """The layer or operation that runs now, and its line."""
        return words_for(self.node)

    def kind(self):
        """The module's class, or the function's name."""
        return (
            type(self.fetch_attr(self.node.target)).__name__
            if self.node.op == "call_module"
            else self.node.name
        )

    def refused(self, what="is nothing that a network here has", advice=None):
        by_kind = (
            words for names, words in ADVICE.items() if re.search(names, self.kind().lower())
        )
        return ModelError(f"{self.where()} {what}: {advice or next(by_kind, TAKEN)}")

    # --- layers

    def add(self, module, sources, suffix=""):
        name = f"{self.node.name}{suffix}"
        self.layers[name] = Layer(name, module, tuple(sources), self.where())
        return name

    def layer_for(self, node, value, taken, sources):
        """The name of the layer, a new one if need be, that sends what a node does. value: that; taken: the node of the first
        tensor that it takes; sources: names of the layers that it takes.
        """
        first = self.env[taken]
        options = {name: value for name, value in node.kwargs.items() if name != "input"}
        args, options = fx.node.map_arg((node.args[1:], options), lambda each: self.env[each])
        if node.target in SUMS:
            return self.add_sum(node, value)
        if node.target in CATS:
            return self.add_cat(node, value, *args, **options)
        if node.op == "call_module" or node.target in AS_MODULES:
            module = (
                AS_MODULES[node.target](*args, **options)
                if node.op != "call_module"
                else self.fetch_attr(node.target)
            )
            return self.add_module(module, sources, first.shape, value.shape)
        if node.target in CLAMPS or node.target in CLAMPS_FROM_BELOW:
            return self.add_clamp(sources, first.shape, value.shape, *args, **options)
        if node.target in MEANS:
            return self.add_mean(node, value, taken, sources)
        if len(sources) == 1 and re.search(RESHAPES, node.name) and same(value, first):
            return self.add_reshape(sources, first.shape, value.shape)
        raise self.refused()

    def add_reshape(self, sources, before, after):
        if before == after:
            return sources[0]
        if len(after) != 2 or after[0] != before[0]:
            raise self.refused("gives a signal another shape", "Flatten, or view(len(x), -1), do")
        return self.add(nn.Flatten(), sources)

    def add_clamp(self, sources, before, after, min=None, max=None):
        """Add the nonlinearity that is a clamp to these bounds; the names are PyTorch's."""
        is_number = isinstance(min, int | float)
        if is_number and min == 0 and max is None:
            return self.add_module(nn.ReLU(), sources, before, after)
        if is_number and min == 0 and isinstance(max, int | float) and max == 6:
            return self.add_module(nn.ReLU6(), sources, before, after)
        raise self.refused(
            "has other bounds", "clamp(min=0), a ReLU, and clamp(0, 6), a ReLU6, do"
        )

    def add_mean(self, node, value, taken, sources):
        """Add an average pool for a mean over rows and columns, taken at once or one after the other.

        Parameters
        ----------
        node : fx.Node
            The mean.
        value : Tensor
            What it gives.
        taken : fx.Node
            What it is the mean of.
        sources : list of str
            Name of the layer that sends the signal.

        Returns
        -------
        str
            Name of the layer that sends the mean. Of the first of two means it is the layer that
            sends the signal: the second then makes a layer of both.
        """
        is_second = taken in self.averaged
        origin = self.averaged.get(taken, taken)
        signal = self.env[origin]
        if signal.dim() == 4 and value.dim() in (2, 4) and same(value, signal.mean((2, 3))):
            pool = self.add(nn.AvgPool2d(tuple(signal.shape[2:])), sources, "_pool")
            return pool if value.dim() == 4 else self.add(nn.Flatten(), [pool])
        if signal.dim() == 4 and not is_second and self.is_half_a_mean(node, value, signal):
            self.averaged[node] = origin
            return sources[0]
        raise self.refused(
            advice="x.mean((2, 3)), the mean over rows and columns, does, or AvgPool2d"
        )

    def is_half_a_mean(self, node, value, signal):
        """Whether a node averages rows or columns of a signal (B, C, H, W), for other means alone."""
        if not node.users or any(user.target not in MEANS for user in node.users):
            return False
        if value.shape[:2] != signal.shape[:2]:
            return False
        return any(same(value, signal.mean(axis)) for axis in (2, 3))

    def add_sum(self, node, value):
        terms = [each for each in node.args if isinstance(each, fx.Node)]
        if (
            len(terms) != 2
            or node.kwargs
            or any(self.env[each].shape != value.shape for each in terms)
        ):
            raise self.refused(
                "adds what is no signal of the same shape", "constants belong into a bias"
            )
        first, second = (self.names[each] for each in terms)
        # an edge of the graph stands for one signal, so x + x takes a second way
        return self.add(
            nn.Identity(),
            [first, self.add(nn.Identity(), [second], "_again") if first == second else second],
        )

    def add_cat(self, node, value, dim=0, tensors=()):
        """A sum of the parts, each put to its place among the channels by weights of 0 and 1."""
        if dim % value.dim() != 1:
            raise self.refused(
                "joins signals along another dimension than channels", "torch.cat(..., 1) does"
            )
        names, first = [], 0
        for number, part in enumerate(node.args[0] if node.args else node.kwargs["tensors"]):
            channels, all_ = self.env[part].shape[1], value.shape[1]
            new = (
                nn.Linear(channels, all_, False)
                if value.dim() == 2
                else nn.Conv2d(channels, all_, 1, bias=False)
            )
            new.weight.data.zero_().flatten(1)[first : first + channels] = torch.eye(channels)
            names.append(self.add(new, [self.names[part]], f"_part{number}"))
            first += channels
        return self.add(nn.Identity(), names)

    def add_module(self, module, sources, before, after):
        """The name of a layer that does what a module does to a signal of the shape before."""
        if "Dropout" in type(module).__name__ or isinstance(module, nn.Flatten | nn.Identity):
            return self.add_reshape(sources, before, after)
        if isinstance(module, nn.AdaptiveAvgPool2d) and not any(
            size % parts for size, parts in zip(before, after, strict=True)
        ):
            module = nn.AvgPool2d((before[-2] // after[-2], before[-1] // after[-1]))
        pools_spikes = sources[0] in self.layers and isinstance(
            self.layers[sources[0]].module, (*NONLINEARITIES, nn.MaxPool2d)
        )
        for is_wrong, what, advice in (
            (is_hooked(module), "has a hook, or a forward of its own", "remove it"),
            (isinstance(module, nn.AdaptiveAvgPool2d), "has windows of several sizes", None),
            (
                isinstance(module, nn.Linear) and len(before) != 2,
                "takes several dimensions",
                "put a Flatten before it",
            ),
            (
                isinstance(module, NORMS) and module.running_mean is None,
                "keeps no statistics",
                "track_running_stats=True does",
            ),
            (
                isinstance(module, nn.MaxPool2d) and not pools_spikes,
                "pools what is no spike",
                "put it right behind a ReLU",
            ),
        ):
            if is_wrong:
                raise self.refused(what, advice)
        for option, (plain_value,) in KNOWN_FORMS.items():
            if getattr(module, option, plain_value) != plain_value:
                raise self.refused(f"has another {option}", f"{option}={plain_value!r} does")
        if isinstance(module, NORMS):
            return self.add_norm(module, sources)
        if not isinstance(module, (*WEIGHTED, *NONLINEARITIES, nn.AvgPool2d, nn.MaxPool2d)):
            raise self.refused()
        module = plain(module) if isinstance(module, WEIGHTED) else copy.deepcopy(module)
        module.inplace = False  # of a ReLU
        return self.add(module, sources)

    def add_norm(self, norm, sources):
        """Fold a batch norm into the layer whose output nothing else takes, or into a new one that changes nothing."""
        before, senders = (
            self.layers.get(sources[0]),
            [node for node, name in self.names.items() if name == sources[0]],
        )
        if (
            before is None
            or not isinstance(before.module, WEIGHTED)
            or any(len(node.users) > 1 for node in senders)
        ):
            channels = norm.num_features
            is_flat = isinstance(norm, nn.BatchNorm1d)
            new = (
                nn.Linear(channels, channels)
                if is_flat
                else nn.Conv2d(channels, channels, 1, groups=channels)
            )
            new.weight.data = torch.eye(channels) if is_flat else torch.ones(channels, 1, 1, 1)
            new.bias.data.zero_()
            before = self.layers[self.add(new, sources)]
        scale = torch.rsqrt(norm.running_var + norm.eps) * (
            1 if norm.weight is None else norm.weight
        )
        module, shift = (
            before.module,
            (0 if norm.bias is None else norm.bias) - norm.running_mean * scale,
        )
        module.weight.data = module.weight.data * scale.view(-1, *[1] * (module.weight.dim() - 1))
        module.bias.data = shift + module.bias.data * scale
        return before.name


def same(values, others):
    return values.numel() == others.numel() and torch.allclose(
        values.flatten(), others.flatten(), 1e-4, 1e-5, equal_nan=True
    )


def one_line(error):
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


ARGUMENTS = {  # class -> what another of the same form is made of
    nn.Conv2d: (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
    ),
    nn.Linear: ("in_features", "out_features"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "divisor_override"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation"),
}


def arguments_of(module):
    """Name -> value of what a module of the same form is made of."""
    names = next((names for cls, names in ARGUMENTS.items() if isinstance(module, cls)), ())
    bias = {"bias": module.bias is not None} if isinstance(module, WEIGHTED) else {}
    return {name: getattr(module, name) for name in names} | bias


def plain(module):
    """A convolution or nn.Linear of the same weights, without parametrizations, with a bias, 0 if need be: calibration shifts
    it.
    """
    new = (nn.Linear if isinstance(module, nn.Linear) else nn.Conv2d)(
        **arguments_of(module) | {"bias": True}
    )
    new.weight.data = module.weight.detach().clone()
    new.bias.data = (
        torch.zeros(len(new.weight)) if module.bias is None else module.bias.detach().clone()
    )
    return new


def with_scales(layers):
    """Layers with a Scale of 1 where spikes of other layers meet in a sum, or reach neurons or the end, without weights between:
    so each layer's spikes first meet a weight, or scale, of their own.
    """
    new, senders = (
        [],
        {INPUT: None},
    )  # name of a layer -> that of the neurons whose spikes it passes on without weights

    def scaled(name):
        if senders[name] is None:
            return name
        if (scale := f"{name}_worth") not in senders:
            new.append(Layer(scale, Scale(torch.ones(())), (name,)))
            senders[scale] = None
        return scale

    for layer in layers:
        name, sources = layer.name, layer.sources
        if layer.is_nonlinear or len({senders[source] for source in sources}) > 1:
            sources = tuple(map(scaled, sources))
        senders[name] = (
            name
            if layer.is_nonlinear
            else None
            if isinstance(layer.module, WEIGHTED)
            else senders[sources[0]]
        )
        new.append(layer._replace(sources=sources))
    scaled(layers[-1].name)
    return new
