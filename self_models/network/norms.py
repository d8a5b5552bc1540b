"""Normalisation of the ANN's layers by the batch, which conversion folds into the weights: an SNN has none."""

from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import nn

STATISTICS = ("gain", "mean_square")  # of a ScaledByBatch, in the state_dict
MOMENTUM, SMALL = 0.1, 1e-5
COUNTS = ContextVar("whether this rank's part of the batch counts; None where it is the whole", default=None)


@contextmanager
def part_of_a_batch(counts):
    """Within, batch_mean is that over the parts of all ranks, as one process has it; each rank must come by the same layers,
    on the way back, too. counts: False for a stand-in, which is no part of the batch; None for a batch that is whole."""
    token = COUNTS.set(counts)
    try:
        yield
    finally:
        COUNTS.reset(token)


class SumOverRanks(torch.autograd.Function):
    """The sum of the ranks' tensors, for each of them; so is its gradient."""

    @staticmethod
    def forward(ctx, mine):
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return SumOverRanks.apply(gradient)


def batch_mean(sums, number):
    """Means over a batch, by channel: sums (C,) of `number` values each."""
    counts = COUNTS.get()
    if counts is None:
        return sums / number
    both = SumOverRanks.apply(counts * torch.cat([sums, sums.new_full((1,), number)]))
    return both[:-1] / both[-1]


class ScaledByBatch(nn.Module):
    """y = nonlinearity(gain x / sqrt(mean x² + 1e-5)), the mean over batch and space, of each channel.

    Batch normalisation (Ioffe & Szegedy, ICML 2015) without its two shifts, the mean and the bias, as in bias-free networks
    (Mohan et al., ICLR 2020): so it folds into the weights of the layer before, and neurons without a bias can take these over.
    forward(x): (B, C, H, W) or (B, C). In evaluation the running mean square of training takes the batch's place; it moves a
    tenth of the way at each pass.
    """

    momentum = MOMENTUM

    def __init__(self, channels, nonlinearity):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.register_buffer("mean_square", torch.ones(channels))
        self.nonlinearity = nonlinearity

    def forward(self, x):
        mean_square = self.mean_square
        if self.training:
            norm = torch.linalg.vector_norm(x, dim=(0, *range(2, x.dim())), dtype=torch.float32)
            mean_square = batch_mean(norm**2, x.numel() // x.shape[1])
            self.mean_square.lerp_(mean_square.detach(), self.momentum)
        scale = scale_of(self.gain, mean_square).to(x.dtype)
        return self.nonlinearity(x * scale.view(-1, *[1] * (x.dim() - 2)))


def scale_of(gain, mean_square):
    """What each channel is multiplied by."""
    return gain * torch.rsqrt(mean_square + SMALL)


NORMS = {"none": lambda channels, nonlinearity: nonlinearity, "scale": ScaledByBatch}  # --norm


def folded_in(state):
    """A state_dict of an ANN with every normalisation folded into the weights of the layer before it; any other as it is."""
    state = dict(state)
    for name in [name for name in state if name.endswith(f".{STATISTICS[0]}")]:
        stage, position, _ = name.split(".")
        gain, mean_square = (state.pop(f"{stage}.{position}.{kind}") for kind in STATISTICS)
        before = f"{stage}.{int(position) - 1}.weight"
        out = 1 if stage == "generate" else 0  # of a transposed convolution's weight (in, out, k, k)
        shape = [-1 if dim == out else 1 for dim in range(state[before].dim())]
        state[before] = state[before] * scale_of(gain, mean_square).view(shape)
    return state
