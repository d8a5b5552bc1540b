"""A trained ANN as torch.fx traces it: its layers, and which takes what from which."""

import contextlib
import re
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import fx, nn

from self_models.errors import ModelError
from self_models.neurons.norms import QCFS
from self_models.traced.layer_builder import LayerBuilder
from self_models.traced.layers import Layer
from self_models.traced.operations import (
    PRODUCTS,
    PRODUCTS_ADVICE,
    describe_error,
    describe_node,
    operation_name,
)


class NotTraceable(ModelError):
    """torch.fx cannot follow the model's forward."""


@torch.no_grad()
def trace_layers(ann: nn.Module, images: torch.Tensor) -> list[Layer]:
    """Trace an ANN.

    Parameters
    ----------
    ann : nn.Module
        The ANN, in evaluation.
    images : Tensor of shape (B, C, H, W)
        Some that it takes.

    Returns
    -------
    list of Layer
        In the order in which they run; the last one sends the logits.

    Raises
    ------
    NotTraceable
        With the line that cannot be traced.
    ModelError
        With the line, or layer, that a network here does not have, and what would do.
    """
    try:
        program = fx.GraphModule(ann, Tracer().trace(ann))
        program.graph.eliminate_dead_code()  # so the layer that runs last sends the logits
    except Exception as error:  # whatever a forward makes of what stands for its input
        line = calling_line(traceback.extract_tb(error.__traceback__))
        reason = describe_error(error)
        if isinstance(error, fx.proxy.TraceError):
            reason = "what it does depends on values"
        raise NotTraceable(
            f"{line or 'the model'} cannot be traced: {reason}; give a forward of layers alone"
        ) from None
    # Values are needed since some operations are told apart by what they compute. Two
    # images are enough, and no batch of one, in which a shape may look like another.
    # Indexing copies them, each time: a forward may change its input in place.
    first_and_last = [0, -1]
    check_products(program, images[first_and_last])  # raises for a product of signals
    builder = LayerBuilder(program)
    builder.run(images[first_and_last])
    return [*builder.layers.values()]


class Tracer(fx.Tracer):
    """Follows a forward down to the modules of torch.nn, and to QCFS.

    ``meta["line"]`` of a node is the line of the forward that calls it.
    """

    def create_node(self, *args, **kwargs) -> fx.Node:
        """Create a node, and note the line that calls it."""
        node = super().create_node(*args, **kwargs)
        node.meta["line"] = calling_line(traceback.extract_stack()[:-1])
        return node

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Return whether a module is a layer, rather than a network of layers."""
        is_of_torch = type(module).forward.__module__.startswith("torch.nn")
        if is_of_torch and not isinstance(module, nn.Sequential):
            return True
        return isinstance(module, QCFS)


def calling_line(frames: Sequence[traceback.FrameSummary]) -> str | None:
    """Name the line of the ANN that calls an operation.

    Parameters
    ----------
    frames : sequence of FrameSummary
        A stack: that of this program, then of the ANN's code, and of PyTorch.

    Returns
    -------
    str or None
        The last of these frames behind those of this file that is not PyTorch's.
    """
    first = 0  # behind this file
    for number, frame in enumerate(frames):
        if frame.filename == __file__:
            first = number + 1
    torch_folder = str(Path(torch.__file__).parent)
    lines = [frame for frame in frames[first:] if torch_folder not in frame.filename]
    if not lines:
        return None
    last = lines[-1]
    return f"{Path(last.filename).name}, line {last.lineno} ({last.line})"


def check_products(program: fx.GraphModule, images: torch.Tensor) -> None:
    """Refuse a network that multiplies signals with each other.

    Squeeze-and-excitation and attention do. They have other operations, too, that would
    be refused, a sigmoid or a softmax, but to replace those would not help.

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
    products = [node for node in program.graph.nodes if is_product(node)]
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
                f"{describe_node(node)} multiplies signals with each other, and a neuron here "
                f"adds them: {PRODUCTS_ADVICE}"
            )


def is_product(node: fx.Node) -> bool:
    """Return whether a node multiplies what it takes."""
    if node.op not in ("call_function", "call_method"):
        return False
    return re.fullmatch(PRODUCTS, operation_name(node)) is not None


class SignalFinder(fx.Interpreter):
    """Runs what was traced, and finds the tensors that follow from the images.

    Attributes
    ----------
    signals : set of fx.Node
        The nodes that send them.
    """

    def __init__(self, program: fx.GraphModule):
        super().__init__(program)
        self.signals = set()
        self.extra_traceback = False

    def run_node(self, node: fx.Node) -> object:
        """Run a node, and look whether it makes a signal."""
        value = super().run_node(node)
        takes_signal = not self.signals.isdisjoint(node.all_input_nodes)
        if isinstance(value, torch.Tensor) and (node.op == "placeholder" or takes_signal):
            self.signals.add(node)
        return value
