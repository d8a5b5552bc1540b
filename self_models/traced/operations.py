"""The operations of an ANN that are known, by what torch.fx calls them."""

import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

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
# Names of operations in which a neuron would have to multiply what arrives
PRODUCTS = "i?mul_?|multiply_?|i?matmul|b?mm|einsum|scaled_dot_product_attention"
# Part of a name of what may change the shape of a signal alone, in evaluation
RESHAPES = "view|reshape|flatten|squeeze|contiguous|dropout|clone|detach|float"

PRODUCTS_ADVICE = "signals are joined by + and torch.cat(..., 1); constants belong into weights"
ADVICE = {  # part of the name of an operation that is refused -> what would do
    "softmax": "leave it out, since the class is that of the largest logit",
    "elu|silu|swish|mish|tanh|sigmoid": "train with nn.ReLU, nn.ReLU6 or QCFS in its place",
    "norm": "train with BatchNorm2d behind a Conv2d in its place",
    "mul|div|sub|matmul": PRODUCTS_ADVICE,
    "pool": (
        "AvgPool2d, AdaptiveAvgPool2d of a size that divides the image, "
        "and MaxPool2d behind a nonlinearity do"
    ),
}
OTHER_ADVICE = (
    "Conv2d, Linear, BatchNorm, ReLU, ReLU6, QCFS, average and maximum pools, Flatten, +, "
    "torch.cat(..., 1) and Dropout do"
)


def operation_name(node: fx.Node) -> str:
    """Return what a node's function or method is called: relu, mul, clamp."""
    if isinstance(node.target, str):
        return node.target
    return getattr(node.target, "__name__", node.name)


def describe_node(node: fx.Node) -> str:
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


def describe_error(error: Exception) -> str:
    """Return the class of an error and its first line, cut to 200 characters."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]
