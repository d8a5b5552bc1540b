"""Linear layers of a decoder that run as one: the same map in fewer multiply-adds."""

from collections import Counter
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from self_models.network.known import is_hooked

UP = (2, 2), (2, 2), (0, 0), 1, None  # the token U: kernel, stride, padding, groups, bias: an output comes from one input
FEW_CHANNELS = 4  # up to here a transposed convolution is faster as a matrix product whose columns are added up


def folded(nodes, end, signals, image_size, pays=None):
    """Nodes of a graph, each chain of U layers and the convolution after it, of those that lead to this end, as one FoldedChain,
    as far as that pays: the same map in fewer multiply-adds. signals: how many of them will come at least; image_size: (height,
    width) of what the end sends; pays: in place of FoldedChain.pays_with. One with hooks is left as it is."""
    by_name, size, pays = {node.name: node for node in nodes}, list(image_size), pays or FoldedChain.pays_with
    takers, chain, last = Counter(source for node in nodes for source in node.sources), None, None
    while (node := by_name.get(end)) and len(node.sources) == 1:
        module, (source,) = node.module, node.sources
        is_transposed = type(module) is nn.ConvTranspose2d and not is_hooked(module)
        if is_transposed and module.stride[0] > 1:
            size = [(here - lost) // 2 for here, lost in zip(size, module.output_padding, strict=True)]
            form = module.kernel_size, module.stride, module.padding, module.groups, module.bias
            if chain and takers[end] == 1 and form == UP and pays(chain, module, signals * prod(size)):
                chain.fold_in(module)
                by_name[last] = by_name[last]._replace(sources=(source,))
                del by_name[end]
            else:
                chain = None
        elif is_transposed and can_begin(module):
            chain, last = FoldedChain(module), end
            by_name[end] = node._replace(module=chain)
        else:
            chain = None
        end = source
    return [*by_name.values()]


def can_begin(module):
    """True if a transposed convolution may end a FoldedChain, which is built from its end."""
    is_plain = (module.stride, module.groups, module.dilation) == ((1, 1), 1, (1, 1))
    return is_plain and len({*module.kernel_size}) == len({*module.padding}) == 1


class FoldedChain:
    """A k x k transposed convolution and U layers before it, which are linear together, as one transposed convolution.

    Two transposed convolutions after each other are one, whose kernel is the first kernel passed through the second as if it
    were an image. Begun at the end, where channels are fewest, that takes the fewest operations. At borders nothing changes: a
    U layer's output pixels each come from one input pixel.
    """

    def __init__(self, module):
        self.kernel, self.stride, self.padding, self.lost = module.weight, 1, module.padding[0], [0, 0]
        self.bias = module.bias

    def pays_with(self, up, places):
        """Whether fewer multiply-adds are needed with this U layer before it folded in than without, for this many places
        (of all signals together) before that layer. (The backward pass needs twice the forward pass's, whichever way.)"""
        channels, width, size, _ = self.kernel.shape
        apart = places * up.weight.numel() + 4 * places * channels * width * size**2
        return up.weight.numel() * width * size**2 + places * self.size_with(up) < apart

    def size_with(self, up):
        """How many weights its kernel has with this U layer before it folded in."""
        return up.in_channels * self.kernel.shape[1] * (self.kernel.shape[-1] + self.stride) ** 2

    def fold_in(self, up):
        """Become the map of this U layer and what was before."""
        self.kernel = transposed(up.weight, self.kernel, None, self.stride, 0, (0, 0))
        self.lost = [self.stride * here + rest for here, rest in zip(up.output_padding, self.lost, strict=True)]
        self.stride *= up.stride[0]

    def module(self):
        """The same as a module of its own."""
        channels, width, size, _ = self.kernel.shape
        module = nn.ConvTranspose2d(channels, width, size, self.stride, self.padding, self.lost, bias=False)
        module.weight, module.bias = nn.Parameter(self.kernel), self.bias
        return module

    def __call__(self, signal):
        """(B, C, H, W) -> (B, C', stride H + lost, stride W + lost)"""
        return transposed(signal, self.kernel, self.bias, self.stride, self.padding, self.lost)


def transposed(signal, kernel, bias, stride, padding, lost):
    """F.conv_transpose2d of a signal (B, C, H, W); lost: its output_padding."""
    channels, size = kernel.shape[1], kernel.shape[-1]
    if channels > FEW_CHANNELS:
        return F.conv_transpose2d(signal, kernel, bias, stride, padding, lost)
    shape = [stride * (here - 1) + size - 2 * padding + rest for here, rest in zip(signal.shape[2:], lost, strict=True)]
    # on a CPU torch.bmm has rounded alike in all batches tried, with and without a gradient, in one memory format
    inputs = signal.contiguous(memory_format=torch.channels_last).flatten(2)
    columns = torch.bmm(kernel.flatten(1).t().expand(len(signal), -1, -1), inputs)
    output = F.fold(columns, shape, size, padding=padding, stride=stride)
    return output if bias is None else output + bias.view(-1, 1, 1)
