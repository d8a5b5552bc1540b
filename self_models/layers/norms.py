"""What stands behind the ANN's weights, and an SNN has not: normalisation by the batch, which conversion folds into the weights,
and the nonlinearity, whose bound, if it has one, becomes a threshold."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from self_models.basics.settings import Registry

STATISTICS = ("gain", "mean_square")  # of a ScaledByBatch, in the state_dict
BATCH_STATE = (
    "weight",
    "bias",
    "running_mean",
    "running_var",
    "num_batches_tracked",
)  # of a BatchNorm
MOMENTUM, SMALL = 0.1, 1e-5


NORMS = Registry("norm")  # name -> (channels, nonlinearity, whether it learns a scale) -> module
ACTIVATIONS = Registry("activation_ann")  # name -> (stage name, settings) -> module


@NORMS.register("none")
def no_norm(channels, nonlinearity, learns_scale=True):
    return nonlinearity


@NORMS.register("scale")
class ScaledByBatch(nn.Module):
    """y = nonlinearity(gain x / sqrt(mean x² + 1e-5)), the mean over batch and space, of each channel.

    Batch normalisation (Ioffe & Szegedy, ICML 2015) without its two shifts, the mean and the bias, as in bias-free networks
    (Mohan et al., ICLR 2020): so it folds into the weights of the layer before, and neurons without a bias can take these over.
    forward(x): (B, C, H, W) or (B, C). In evaluation the running mean square of training takes the batch's place; it moves a
    tenth of the way at each pass."""

    def __init__(self, channels, nonlinearity, learns_scale=True):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels), requires_grad=learns_scale)
        self.register_buffer("mean_square", torch.ones(channels))
        self.nonlinearity = nonlinearity

    def forward(self, x):
        mean_square = self.mean_square
        if self.training:
            norm = torch.linalg.vector_norm(x, dim=(0, *range(2, x.dim())), dtype=torch.float32)
            mean_square = norm**2 / (x.numel() // x.shape[1])
            self.mean_square.lerp_(mean_square.detach(), MOMENTUM)
        scale = scale_of(self.gain, mean_square).to(x.dtype)
        return self.nonlinearity(x * by_channel(scale, x))


def scale_of(gain, mean_square):
    """What each channel is multiplied by, for its mean square or variance."""
    return gain * torch.rsqrt(mean_square + SMALL)


@NORMS.register("batch")
class BatchNorm(nn.BatchNorm2d):
    """y = nonlinearity(weight (x - mean x) / sqrt(var x + 1e-5) + bias), mean and variance over batch and space, of each channel
    (Ioffe & Szegedy, ICML 2015).

    forward(x): (B, C, H, W) or (B, C). In evaluation, and where the batch has one value of each channel, the running mean and
    variance take the batch's place; they move a tenth of the way at each pass.
    """

    def __init__(self, channels, nonlinearity, learns_scale=True):
        super().__init__(channels, eps=SMALL, momentum=MOMENTUM)
        self.weight.requires_grad_(learns_scale)
        self.nonlinearity = nonlinearity

    def forward(self, x):
        learns = self.training and x.numel() > x.shape[1]
        if learns:
            self.num_batches_tracked.add_(1)
        own = self.running_mean, self.running_var, self.weight, self.bias
        return self.nonlinearity(F.batch_norm(x, *own, learns, self.momentum, self.eps))


def by_channel(values, x):
    """values (C,), shaped to go with x (B, C, ...)."""
    return values.view(-1, *[1] * (x.dim() - 2))


def folded_in(state):
    """A state_dict of an ANN with every normalisation folded into the weights of the layer before it, whose bias takes what
    BatchNorm adds; any other as it is."""
    state = dict(state)
    for name in [name for name in state if name.endswith((f".{STATISTICS[0]}", ".running_mean"))]:
        stage, position, kind = name.split(".")
        before, own = f"{stage}.{int(position) - 1}", f"{stage}.{position}"
        if kind == "running_mean":
            weight, bias, mean, variance, _ = (state.pop(f"{own}.{kind}") for kind in BATCH_STATE)
            scale = scale_of(weight, variance)
            state[f"{before}.bias"] = bias - mean * scale
        else:
            scale = scale_of(*(state.pop(f"{own}.{kind}") for kind in STATISTICS))
        weight = state[f"{before}.weight"]
        out = (
            1 if stage == "generate" else 0
        )  # of a transposed convolution's weight (in, out, k, k)
        state[f"{before}.weight"] = weight * scale.view(
            [-1 if dim == out else 1 for dim in range(weight.dim())]
        )
    return state


class Staircase(torch.autograd.Function):
    """QCFS's function and its gradient, see there, in few passes. Kept are x and y, which the next layer keeps anyway."""

    @staticmethod
    def forward(ctx, x, bound, levels):
        ctx.top = levels or 1
        share = x.mul(ctx.top / bound)
        share = share.add_(0.5).clamp_(0, levels).floor_() if levels else share.clamp_(0, 1)
        y = share.mul_(bound / ctx.top)
        ctx.save_for_backward(x, y, bound)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, y, bound = ctx.saved_tensors
        onto_x = torch.ops.aten.hardtanh_backward(gradient, x.mul(ctx.top / bound), 0, ctx.top)
        onto_bound = gradient.mul(y).addcmul_(onto_x, x, value=-1)
        return onto_x, onto_bound.sum().view_as(bound).to(bound.dtype) / bound, None


class QCFS(nn.Module):
    """y = theta clip(floor(x L / theta + 1/2) / L, 0, 1), for L = 0 theta clip(x / theta, 0, 1): what a neuron of threshold theta
    that begins at half of it sends in L steps of drive x, on average (quantisation, clip, floor and shift; Bu et al., ICLR 2022).

    theta is the layer's learned bound, in the unit of x, L its levels. Backward, the floor is passed straight through:
    dy/dx = 1 for 0 < x < theta, else 0; dy/dtheta = (y - x) / theta there, 0 below and 1 above.
    """

    def __init__(self, levels, bound):
        super().__init__()
        self.levels, self.bound = levels, nn.Parameter(torch.tensor(float(bound)))

    def forward(self, x):
        return Staircase.apply(x, self.bound, self.levels)


BOUND, NORMALISED_BOUND = (
    8.0,
    2.5,
)  # a QCFS layer's at first: as in its paper; where the norm makes the variance 1


@ACTIVATIONS.register("relu")
def rectified(stage, settings):
    """ReLU, and LeakyReLU(0.01) in the decoder."""
    return nn.LeakyReLU(0.01) if stage == "generate" else nn.ReLU()


@ACTIVATIONS.register("qcfs")
def clipped(stage, settings):
    """QCFS in all stages."""
    return QCFS(settings["qcfs_levels"], BOUND if settings["norm"] == "none" else NORMALISED_BOUND)
