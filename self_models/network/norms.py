"""Normalisation of the ANN's layers by the batch, which conversion folds into the weights: an SNN has none."""

import torch
from torch import nn

STATISTICS = ("gain", "mean_square")  # of a ScaledByBatch, in the state_dict
MOMENTUM, SMALL = 0.1, 1e-5


class ScaledByBatch(nn.Module):
    """y = nonlinearity(gain x / sqrt(mean x² + 1e-5)), the mean over batch and space, of each channel.

    Batch normalisation (Ioffe & Szegedy, ICML 2015) without its two shifts, the mean and the bias, as in bias-free networks
    (Mohan et al., ICLR 2020): so it folds into the weights of the layer before, and neurons without a bias can take these over.
    forward(x): (B, C, H, W) or (B, C). In evaluation the running mean square of training takes the batch's place; it moves a
    tenth of the way at each step, to the mean over all ranks where there are several.
    """

    def __init__(self, channels, nonlinearity):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.register_buffer("mean_square", torch.ones(channels))
        self.nonlinearity = nonlinearity

    def forward(self, x):
        mean_square = self.mean_square
        if self.training:
            others = (0, *range(2, x.dim()))
            mean_square = torch.linalg.vector_norm(x, dim=others, dtype=torch.float32) ** 2 / (x.numel() // x.shape[1])
            self.follow(mean_square.detach())
        scale = scale_of(self.gain, mean_square).to(x.dtype)
        return self.nonlinearity(x * scale.view(-1, *[1] * (x.dim() - 2)))

    @torch.no_grad()
    def follow(self, mean_square):
        """Move the running mean square towards this one."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            mean_square = mean_square / torch.distributed.get_world_size()  # a copy: forward goes on with its own
            torch.distributed.all_reduce(mean_square)
        self.mean_square.lerp_(mean_square, MOMENTUM)


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
