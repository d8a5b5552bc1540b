"""LayerBuilder: makes Layers of the operations of an ANN that torch.fx has traced."""

import copy
import re

import torch
from torch import fx, nn

from self_models.errors import ModelError
from self_models.running.known_layers import KNOWN_FORMS, is_hooked
from self_models.running.outputs import INPUT
from self_models.traced.layers import NONLINEARITIES, NORMS, WEIGHTED, Layer, copy_with_bias
from self_models.traced.operations import (
    ADVICE,
    AS_MODULES,
    CATS,
    CLAMPS,
    CLAMPS_FROM_BELOW,
    MEANS,
    OTHER_ADVICE,
    RESHAPES,
    SUMS,
    describe_error,
    describe_node,
)

Shape = torch.Size
# A TracedSNN has its modules in such a dictionary, which takes no module by the name of
# one of its own attributes, such as keys.
NO_MODULES = nn.ModuleDict()


class LayerBuilder(fx.Interpreter):
    """Runs a traced ANN on images, operation by operation, and makes Layers of it.

    An operation that changes nothing but a shape makes no layer: what it sends is then
    sent by the layer before it. To see that, it is run on images.

    Parameters
    ----------
    program : fx.GraphModule
        The ANN, as it was traced.

    Attributes
    ----------
    layers : dict of {str: Layer}
        The layers by name, in the order in which they run.
    """

    def __init__(self, program: fx.GraphModule):
        super().__init__(program, garbage_collect_values=False)
        self.layers = {}
        self.extra_traceback = False
        # Of fx.Interpreter there is also `self.env`: node -> what it has given.
        self._node = None  # which runs now
        self._sender_names = {}  # node -> name of the layer, or "input", that sends the same
        self._half_means = {}  # node that averages one axis of a signal -> the signal's node
        self._line_nodes = set()  # nodes that give (B, C, N), whose layer sends an image

    def run_node(self, node: fx.Node) -> object:
        """Run a node of the trace, and make a layer of it if it needs one.

        torch.fx calls this for each node in the order of the forward. A *signal* is a
        tensor that follows from the images. Its *sender* is the layer, or "input", that
        sends it; a node that changes nothing has the sender of what it takes. A
        parameter of the ANN is no signal and has no sender, and an operation that takes
        one, such as F.conv2d(x, weight), is refused.

        Parameters
        ----------
        node : fx.Node
            An input of the forward, a parameter, an operation, or the output.

        Returns
        -------
        object
            What the node gives, which fx hands to the nodes that take it.

        Raises
        ------
        ModelError
            If the node does not run, or is nothing that a network here has.
        """
        self._node = node  # for error messages, and the names of layers
        inputs = [
            source for source in node.all_input_nodes if isinstance(self.env[source], torch.Tensor)
        ]
        try:
            result = super().run_node(node)
        except Exception as error:
            raise ModelError(
                f"{describe_node(node)} does not run: {describe_error(error)}"
            ) from None
        is_first_argument = node.op == "placeholder" and not self._sender_names
        if is_first_argument:  # the images; other arguments of a forward are no signals
            self._sender_names[node] = INPUT
        elif node.op == "output":
            self._check_output(node.args[0])
        elif node.op == "get_attr":  # a parameter, which gets no sender
            pass
        elif isinstance(result, torch.Tensor):  # numbers and shapes need no layer
            takes_signals = all(source in self._sender_names for source in inputs)
            if not inputs or not takes_signals:
                raise self._refusal("takes a tensor that is no signal")
            self._sender_names[node] = self._layer_for(node, result, inputs)
        return result

    def _check_output(self, source: object) -> None:
        """Raise ModelError unless a forward returns one signal (B, classes)."""
        is_signal = isinstance(source, fx.Node) and source in self._sender_names
        if not is_signal or self.env[source].dim() != 2:
            raise ModelError(
                "the model must return one tensor of logits, (B, classes), made of its images"
            )

    def _refusal(
        self, what: str = "is nothing that a network here has", advice: str | None = None
    ) -> ModelError:
        """Return the error for the node that runs now, with what would do."""
        if advice is None:
            advice = self._advice()
        return ModelError(f"{describe_node(self._node)} {what}: {advice}")

    def _advice(self) -> str:
        """Say what would do in place of the node that runs now, by its name."""
        name = self._node.name
        if self._node.op == "call_module":
            name = type(self.fetch_attr(self._node.target)).__name__
        for part_of_name, advice in ADVICE.items():
            if re.search(part_of_name, name.lower()):
                return advice
        return OTHER_ADVICE

    def _add(self, module: nn.Module, sources: list[str], suffix: str = "") -> str:
        """Add a layer, named after the node that runs now, and return its name."""
        name = f"{self._node.name}{suffix}"
        while name in self.layers or hasattr(NO_MODULES, name):
            name += "_"
        self.layers[name] = Layer(name, module, tuple(sources), describe_node(self._node))
        return name

    # --- one method for each kind of operation; each returns the name of the layer that
    # sends what the operation gives

    def _layer_for(self, node: fx.Node, result: torch.Tensor, inputs: list[fx.Node]) -> str:
        """Add what an operation needs.

        Parameters
        ----------
        node : fx.Node
            The operation, which has run.
        result : Tensor
            What it has given.
        inputs : list of fx.Node
            The nodes whose signals it takes, one at least.

        Returns
        -------
        str
            Name of the layer that sends ``result``.

        Raises
        ------
        ModelError
            If a network here has no such operation.
        """
        # A function, or the name of a method of tensors, or of a module of the ANN. The
        # order of the tests matters in two places: sums and torch.cat take several
        # signals, so they come before what is done for one; and reshapes are found by
        # their name alone, so they come last.
        if not self._line_nodes.isdisjoint(inputs) and result.dim() != 2:
            raise self._refusal(
                "takes a mean over rows, or over columns, alone",
                "flatten(1) does right behind it, or x.mean((2, 3)) in its place",
            )
        operation = node.target
        is_module = node.op == "call_module"
        if operation in SUMS and not is_module:  # a module may be called add
            return self._add_sum(node, result)
        args, kwargs = self._other_arguments(node)
        if operation in CATS:
            return self._add_cat(node, result, *args, **kwargs)

        # All others take one signal, the first argument.
        signal = self.env[inputs[0]]
        sources = [self._sender_names[source] for source in inputs]
        if is_module or operation in AS_MODULES:
            module = self._module_of(node, args, kwargs)
            return self._add_module(module, sources, signal.shape, result.shape)
        if operation in CLAMPS or operation in CLAMPS_FROM_BELOW:
            return self._add_clamp(sources, signal.shape, result.shape, *args, **kwargs)
        if operation in MEANS:
            return self._add_mean(node, result, inputs[0], sources)
        # Many functions and methods change a shape alone. They are found by a part of
        # their name, which is also that of others: so the values are compared, too.
        may_reshape = re.search(RESHAPES, node.name) is not None
        if len(sources) == 1 and may_reshape and is_same(result, signal):
            return self._add_reshape(sources, signal.shape, result.shape)
        raise self._refusal()

    def _other_arguments(self, node: fx.Node) -> tuple[tuple, dict]:
        """Return the arguments of an operation but for its signal.

        The signal is the first one, or that with PyTorch's name, ``input``.

        Returns
        -------
        args : tuple
            Those without a name, behind the first one.
        kwargs : dict of {str: object}
            Those with a name. In both, what a node has given stands for the node.
        """
        kwargs = dict(node.kwargs)
        kwargs.pop("input", None)
        return fx.node.map_arg((node.args[1:], kwargs), self.env.__getitem__)

    def _module_of(self, node: fx.Node, args: tuple, kwargs: dict) -> nn.Module:
        """Return the module that a node calls, or that does what its function does."""
        if node.op == "call_module":
            return self.fetch_attr(node.target)
        return AS_MODULES[node.target](*args, **kwargs)

    def _add_reshape(self, sources: list[str], before: Shape, after: Shape) -> str:
        """Add a Flatten, or nothing where the shape stays."""
        if before == after:
            return sources[0]
        if len(after) != 2 or after[0] != before[0]:
            raise self._refusal(
                "gives a signal another shape", "Flatten, or view(x.shape[0], -1), do"
            )
        return self._add(nn.Flatten(), sources)

    def _add_clamp(
        self, sources: list[str], before: Shape, after: Shape, min=None, max=None
    ) -> str:
        """Add the nonlinearity that is a clamp to these bounds (PyTorch's names)."""
        is_number = isinstance(min, int | float)
        if is_number and min == 0 and max is None:
            return self._add_module(nn.ReLU(), sources, before, after)
        if is_number and min == 0 and isinstance(max, int | float) and max == 6:
            return self._add_module(nn.ReLU6(), sources, before, after)
        raise self._refusal(
            "has other bounds", "clamp(min=0), a ReLU, and clamp(0, 6), a ReLU6, do"
        )

    def _add_mean(
        self, node: fx.Node, result: torch.Tensor, source: fx.Node, sources: list[str]
    ) -> str:
        """Add an average pool for a mean over rows and columns, at once or one by one.

        ``x.mean((2, 3))`` becomes a pool. ``x.mean(3).mean(2)`` becomes the same pool:
        for ``x.mean(3)`` no layer is added, it is only noted to be half a mean of x,
        and its sender is that of x. For the second mean a pool of x is added. If
        something else than means takes ``x.mean(3)``, it becomes a pool of one row.

        Parameters
        ----------
        node : fx.Node
            The mean.
        result : Tensor
            What it has given.
        source : fx.Node
            What it is the mean of.
        sources : list of str
            The sender of ``source``. For the second of two means it is that of x, since
            the first one was given the sender of x.

        Returns
        -------
        str
            Name of the mean's layer; for the first of two means, the sender of x.
        """
        is_second = source in self._half_means
        origin = self._half_means.get(source, source)  # of two means what the first takes
        signal = self.env[origin]
        is_image = signal.dim() == 4
        # A call may give its dimensions in many ways: mean(3), mean(dim=[-1]). So the
        # result is compared with the mean that a pool computes.
        if is_image and result.dim() in (2, 4) and is_same(result, signal.mean((2, 3))):
            pool = self._add(nn.AvgPool2d(tuple(signal.shape[2:])), sources, "_pool")
            if result.dim() == 4:  # keepdim: (B, C, 1, 1)
                return pool
            return self._add(nn.Flatten(), [pool])
        axis = averaged_axis(result, signal) if is_image and not is_second else None
        if axis is not None and is_taken_by_means(node):
            self._half_means[node] = origin
            return sources[0]
        if axis is not None:
            kernel = (1, signal.shape[3]) if axis == 3 else (signal.shape[2], 1)
            if result.dim() == 3:  # the pool keeps the axis, with one place
                self._line_nodes.add(node)
            return self._add(nn.AvgPool2d(kernel), sources, "_pool")
        raise self._refusal(
            advice="x.mean((2, 3)), the mean over rows and columns, does, or AvgPool2d"
        )

    def _add_sum(self, node: fx.Node, result: torch.Tensor) -> str:
        """Add a layer that takes two signals, which are added."""
        terms = [term for term in node.args if isinstance(term, fx.Node)]
        has_other_shape = any(self.env[term].shape != result.shape for term in terms)
        if len(terms) != 2 or node.kwargs or has_other_shape:
            raise self._refusal(
                "adds what is no signal of the same shape", "constants belong into a bias"
            )
        first, second = (self._sender_names[term] for term in terms)
        if first == second:
            # An edge of the graph stands for one signal, so x + x takes a second way
            second = self._add(nn.Identity(), [second], "_again")
        return self._add(nn.Identity(), [first, second])

    def _add_cat(self, node: fx.Node, result: torch.Tensor, dim=0, tensors=()) -> str:
        """Add a sum of the parts, each put to its channels by weights of 0 and 1.

        Of parts with 2 and 3 channels, the first gets weights (5, 2) that have ones in
        rows 0 and 1, and the second (5, 3) with ones in rows 2 to 4.

        Parameters
        ----------
        node : fx.Node
            The call of torch.cat.
        result : Tensor
            What it has given.
        dim : int
            The dimension along which it joins.
        tensors : list of Tensor
            What it joins, if given by this name. Not used: the nodes are needed, not
            what they have given.

        Returns
        -------
        str
            Name of the layer that sends the sum.
        """
        if dim % result.dim() != 1:
            raise self._refusal(
                "joins signals along another dimension than channels", "torch.cat(..., 1) does"
            )
        parts = node.args[0] if node.args else node.kwargs["tensors"]
        all_channels = result.shape[1]
        names = []
        first = 0  # of the channels of a part
        for number, part in enumerate(parts):
            channels = self.env[part].shape[1]
            if result.dim() == 2:
                selector = nn.Linear(channels, all_channels, bias=False)
            else:
                selector = nn.Conv2d(channels, all_channels, 1, bias=False)
            weight = selector.weight.data.zero_().flatten(1)  # a view
            weight[first : first + channels] = torch.eye(channels)
            names.append(self._add(selector, [self._sender_names[part]], f"_part{number}"))
            first += channels
        return self._add(nn.Identity(), names)

    def _add_module(
        self, module: nn.Module, sources: list[str], before: Shape, after: Shape
    ) -> str:
        """Add what does the same as a module of the ANN.

        Parameters
        ----------
        module : nn.Module
            The ANN's own, which is not changed.
        sources : list of str
            Name of the layer that sends what it takes.
        before, after : torch.Size
            Shapes of what it takes and gives, (B, ...).

        Returns
        -------
        str
            Name of the layer that sends what the module gives: a new one; or one that
            is there already, for a module that changes nothing or a norm that is folded
            into it.

        Raises
        ------
        ModelError
            For a module that a network here does not have, or not in this form.
        """
        # All of torch's dropouts, which do nothing in evaluation, have the word in
        # their name, but no public class in common.
        if "Dropout" in type(module).__name__ or isinstance(module, nn.Flatten | nn.Identity):
            return self._add_reshape(sources, before, after)
        # Before the check, which refuses the adaptive pools that are left after this.
        if isinstance(module, nn.AdaptiveAvgPool2d):
            module = as_average_pool(module, before, after)
        self._check_module(module, sources, before)
        if isinstance(module, NORMS):
            return self._add_norm(module, sources)
        if not isinstance(module, (*WEIGHTED, *NONLINEARITIES, nn.AvgPool2d, nn.MaxPool2d)):
            raise self._refusal()
        if isinstance(module, WEIGHTED):
            module = copy_with_bias(module)
        else:
            module = copy.deepcopy(module)
        # A ReLU in place would change what other layers take, too. Other modules do not
        # look at this attribute.
        module.inplace = False
        return self._add(module, sources)

    def _check_module(self, module: nn.Module, sources: list[str], input_shape: Shape) -> None:
        """Raise ModelError for a module whose form a network here does not have.

        Parameters
        ----------
        module : nn.Module
            Of the ANN. An AdaptiveAvgPool2d is one with windows of several sizes: those
            with equal windows have been made an AvgPool2d before.
        sources : list of str
            Name of the layer that sends what it takes.
        input_shape : torch.Size
            Shape of what it takes, with the batch: (B, C, H, W) or (B, N).
        """
        if is_hooked(module):
            raise self._refusal("has a hook, or a forward of its own", "remove it")
        if isinstance(module, nn.AdaptiveAvgPool2d):
            raise self._refusal("has windows of several sizes")
        if isinstance(module, nn.Linear) and len(input_shape) != 2:
            raise self._refusal("takes several dimensions", "put a Flatten before it")
        if isinstance(module, NORMS) and module.running_mean is None:
            raise self._refusal("keeps no statistics", "track_running_stats=True does")
        if isinstance(module, nn.MaxPool2d) and not self._sends_spikes(sources[0]):
            raise self._refusal("pools what is no spike", "put it right behind a ReLU")
        # Attributes such as padding_mode, each with the values that are known, of which
        # there is one. A module that lacks the attribute passes.
        for option, known_values in KNOWN_FORMS.items():
            (plain_value,) = known_values
            if getattr(module, option, plain_value) != plain_value:
                raise self._refusal(f"has another {option}", f"{option}={plain_value!r} does")

    def _sends_spikes(self, name: str) -> bool:
        """Return whether a layer will send spikes."""
        if name not in self.layers:
            return False
        return isinstance(self.layers[name].module, (*NONLINEARITIES, nn.MaxPool2d))

    def _add_norm(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, sources: list[str]) -> str:
        """Fold a batch norm into the layer before it, in place.

        If something else takes that layer's output, too, it would get the norm as well.
        So the norm is then folded into a new layer, which without it changes nothing.

        Parameters
        ----------
        norm : nn.BatchNorm1d or nn.BatchNorm2d
            In evaluation, with running statistics.
        sources : list of str
            Name of the layer before it, or "input".

        Returns
        -------
        str
            Name of the layer that now computes the norm.
        """
        layer = self.layers.get(sources[0])  # None for "input"
        # Several nodes may have this layer as their sender: its own, and those behind
        # it that change nothing, such as a dropout. If they stand in a row, each has
        # one user, the next one, and the last one's user is the norm. A second user of
        # any of them is something else that takes the layer's output.
        senders = [node for node, name in self._sender_names.items() if name == sources[0]]
        is_shared = any(len(node.users) > 1 for node in senders)
        if layer is None or not isinstance(layer.module, WEIGHTED) or is_shared:
            layer = self.layers[self._add(unit_layer(norm), sources)]
        fold_norm(layer.module, norm)
        return layer.name


def as_average_pool(
    pool: nn.AdaptiveAvgPool2d, before: Shape, after: Shape
) -> nn.AvgPool2d | nn.AdaptiveAvgPool2d:
    """Return an adaptive pool as one with equal windows, if its windows are equal."""
    if any(size % parts for size, parts in zip(before, after, strict=True)):
        return pool
    return nn.AvgPool2d((before[-2] // after[-2], before[-1] // after[-1]))


def unit_layer(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> nn.Linear | nn.Conv2d:
    """Return a layer that changes nothing, for a norm to be folded into."""
    channels = norm.num_features
    if isinstance(norm, nn.BatchNorm1d):
        layer = nn.Linear(channels, channels)
        layer.weight.data = torch.eye(channels)
    else:
        layer = nn.Conv2d(channels, channels, 1, groups=channels)
        layer.weight.data = torch.ones(channels, 1, 1, 1)
    layer.bias.data.zero_()
    return layer


def fold_norm(layer: nn.Linear | nn.Conv2d, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Make a layer do what it and a batch norm behind it do, in place."""
    gamma = 1 if norm.weight is None else norm.weight
    beta = 0 if norm.bias is None else norm.bias
    scale = torch.rsqrt(norm.running_var + norm.eps) * gamma
    shift = beta - norm.running_mean * scale
    by_channel = scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.data = layer.weight.data * by_channel
    layer.bias.data = shift + layer.bias.data * scale


def is_taken_by_means(node: fx.Node) -> bool:
    """Return whether means take what a node gives, and nothing else does."""
    if not node.users:
        return False
    for user in node.users:
        if user.op == "call_module" or user.target not in MEANS:
            return False
    return True


def averaged_axis(value: torch.Tensor, signal: torch.Tensor) -> int | None:
    """Return the axis, 2 or 3, over which a value is the mean of a signal, or None."""
    if value.shape[:2] != signal.shape[:2]:
        return None
    for axis in (3, 2):
        kept = signal.mean(axis, keepdim=True)
        shapes = (kept.shape, kept.squeeze(axis).shape)
        if value.shape in shapes and is_same(value, kept):
            return axis
    return None


def is_same(values: torch.Tensor, others: torch.Tensor) -> bool:
    """Return whether two tensors have nearly the same values, whatever their shapes."""
    if values.numel() != others.numel():
        return False
    return torch.allclose(values.flatten(), others.flatten(), 1e-4, 1e-5, equal_nan=True)
