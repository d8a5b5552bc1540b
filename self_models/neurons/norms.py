"""What stands behind the ANN's weights, and an SNN has not: norms and nonlinearities.

A conversion folds normalisation by the batch into the weights before it. The bound of a
nonlinearity, if it has one, becomes a threshold.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from self_models.settings import Registry

# Names in the state_dict, of a ScaledByBatch and of a BatchNorm.
STATISTICS = ("gain", "mean_square")
BATCH_STATE = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

MOMENTUM = 0.1  # share of a batch's statistics in the running ones
SMALL = 1e-5  # is added to a variance before its root is taken

# A norm is a function of (channels, nonlinearity, learns_scale), an activation one of
# (stage name, settings). Both return a module.
NORMS = Registry("norm")
ACTIVATIONS = Registry("activation_ann")


# --- norms


@NORMS.register("none")
def no_norm(channels: int, nonlinearity: nn.Module, learns_scale: bool = True) -> nn.Module:
    """Return the nonlinearity alone."""
    return nonlinearity


@NORMS.register("scale")
class ScaledByBatch(nn.Module):
    """Divide each channel by its root mean square over a batch.

        y = nonlinearity(gain x / sqrt(mean x² + 1e-5))

    with the mean over batch and space. This is batch normalisation (Ioffe & Szegedy,
    ICML 2015) without its two shifts, the mean and the bias, as in bias-free networks
    (Mohan et al., ICLR 2020). So it folds into the weights of the layer before, and
    neurons without a bias can take these over.

    In evaluation the running mean square of training takes the batch's place. At each
    pass it moves a tenth of the way.

    Parameters
    ----------
    channels : int
        Number of channels C.
    nonlinearity : nn.Module
        What follows.
    learns_scale : bool, default True
        Whether ``gain`` has a gradient.
    """

    def __init__(self, channels: int, nonlinearity: nn.Module, learns_scale: bool = True):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels), requires_grad=learns_scale)
        self.register_buffer("mean_square", torch.ones(channels))
        self.nonlinearity = nonlinearity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch and apply the nonlinearity.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W) or (B, C)
            Output of the layer before.

        Returns
        -------
        Tensor of the same shape
            y of the class's equation.
        """
        mean_square = self.mean_square
        if self.training:
            batch_and_space = (0, *range(2, x.dim()))
            norm = torch.linalg.vector_norm(x, dim=batch_and_space, dtype=torch.float32)
            mean_square = norm**2 / (x.numel() // x.shape[1])
            self.mean_square.lerp_(mean_square.detach(), MOMENTUM)
        scale = channel_scale(self.gain, mean_square).to(x.dtype)
        return self.nonlinearity(x * broadcast_channels(scale, x))


@NORMS.register("batch")
class BatchNorm(nn.BatchNorm2d):
    """Normalise each channel by its mean and variance, then apply a nonlinearity.

        y = nonlinearity(weight (x - mean x) / sqrt(var x + 1e-5) + bias)

    with mean and variance over batch and space (Ioffe & Szegedy, ICML 2015).

    In evaluation, and where the batch has one value of each channel, the running mean
    and variance take the batch's place. At each pass they move a tenth of the way.

    Parameters
    ----------
    channels : int
        Number of channels C.
    nonlinearity : nn.Module
        What follows.
    learns_scale : bool, default True
        Whether ``weight`` has a gradient.
    """

    def __init__(self, channels: int, nonlinearity: nn.Module, learns_scale: bool = True):
        super().__init__(channels, eps=SMALL, momentum=MOMENTUM)
        self.weight.requires_grad_(learns_scale)
        self.nonlinearity = nonlinearity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a batch and apply the nonlinearity.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W) or (B, C)
            Output of the layer before.

        Returns
        -------
        Tensor of the same shape
            y of the class's equation.
        """
        has_variance = x.numel() > x.shape[1]
        learns = self.training and has_variance
        if learns:
            self.num_batches_tracked.add_(1)
        normalised = F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=learns,
            momentum=self.momentum,
            eps=self.eps,
        )
        return self.nonlinearity(normalised)


def channel_scale(gain: torch.Tensor, mean_square: torch.Tensor) -> torch.Tensor:
    """Return the factor of each channel, for its mean square or its variance."""
    return gain * torch.rsqrt(mean_square + SMALL)


def broadcast_channels(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return values (C,) in a shape that goes with x (B, C, ...): (C, 1, ...)."""
    ones = [1] * (x.dim() - 2)
    return values.view(-1, *ones)


def folded_in(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fold the norms of an ANN into the weights of the layers before them.

    Parameters
    ----------
    state : dict of {str: Tensor}
        The ANN's state_dict.

    Returns
    -------
    dict of {str: Tensor}
        The same without norms: weights are scaled, and a layer before a BatchNorm has a
        bias. A state_dict without norms stays as it is.
    """
    state = dict(state)
    for name in list(state):
        if name.endswith(f".{STATISTICS[0]}"):
            _fold_scale(state, norm=name.removesuffix(f".{STATISTICS[0]}"))
        elif name.endswith(".running_mean"):
            _fold_batch_norm(state, norm=name.removesuffix(".running_mean"))
    return state


def _fold_scale(state: dict, norm: str) -> None:
    """Fold a ScaledByBatch of this name, such as features.1, in place."""
    gain, mean_square = (state.pop(f"{norm}.{kind}") for kind in STATISTICS)
    _scale_weight(state, norm, channel_scale(gain, mean_square))


def _fold_batch_norm(state: dict, norm: str) -> None:
    """Fold a BatchNorm of this name, in place: what it adds becomes a bias."""
    weight, bias, mean, variance, _ = (state.pop(f"{norm}.{kind}") for kind in BATCH_STATE)
    scale = channel_scale(weight, variance)
    state[f"{_layer_before(norm)}.bias"] = bias - mean * scale
    _scale_weight(state, norm, scale)


def _scale_weight(state: dict, norm: str, scale: torch.Tensor) -> None:
    """Multiply the weight of the layer before a norm by a factor for each channel."""
    name = f"{_layer_before(norm)}.weight"
    weight = state[name]
    shape = [1] * weight.dim()
    # The decoder has transposed convolutions, whose weights are (in, out, k, k).
    output_dimension = 1 if norm.startswith("generate.") else 0
    shape[output_dimension] = -1
    state[name] = weight * scale.view(shape)


def _layer_before(norm: str) -> str:
    """Return the name of the layer before a norm: features.0 for features.1."""
    stage, position = norm.split(".")
    return f"{stage}.{int(position) - 1}"


# --- nonlinearities


class Staircase(torch.autograd.Function):
    """The function of `QCFS`, and its gradient, in few passes over memory.

    What is kept for the backward pass is x and y, which the next layer keeps anyway.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, bound: torch.Tensor, levels: int) -> torch.Tensor:
        """Compute the staircase y of `QCFS`.

        Parameters
        ----------
        ctx : context of autograd
            Keeps what ``backward`` needs.
        x : Tensor of any shape
            Input current.
        bound : Tensor of shape ()
            The largest y, theta.
        levels : int
            L, the number of steps; 0: y is a ramp.

        Returns
        -------
        Tensor of the shape of x
            0 to theta.
        """
        ctx.top = levels or 1
        share = x.mul(ctx.top / bound)
        if levels:
            share = share.add_(0.5).clamp_(0, levels).floor_()
        else:
            share = share.clamp_(0, 1)
        y = share.mul_(bound / ctx.top)
        ctx.save_for_backward(x, y, bound)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Pass the floor straight through; `QCFS` has the derivatives.

        Parameters
        ----------
        ctx : context of autograd
            What ``forward`` has kept.
        gradient : Tensor of the shape of y
            Of the loss, with respect to y.

        Returns
        -------
        tuple of (Tensor, Tensor, None)
            Gradients with respect to x and the bound. The levels have none.
        """
        x, y, bound = ctx.saved_tensors
        # dy/dx = 1 for 0 < x < theta, else 0
        onto_x = torch.ops.aten.hardtanh_backward(gradient, x.mul(ctx.top / bound), 0, ctx.top)
        # dy/dtheta = (y - x dy/dx) / theta
        onto_bound = gradient.mul(y).addcmul_(onto_x, x, value=-1)
        return onto_x, onto_bound.sum().view_as(bound).to(bound.dtype) / bound, None


class QCFS(nn.Module):
    """A staircase: what a spiking neuron of this threshold sends on average.

        y = theta clip(floor(x L / theta + 1/2) / L, 0, 1),
        y = theta clip(x / theta, 0, 1)                        for L = 0

    It is the mean that a neuron of threshold theta sends in L timesteps of input
    current x, if its membrane potential begins at half the threshold (quantisation,
    clip, floor and shift; Bu et al., ICLR 2022).

    Backward, the floor is passed straight through: dy/dx = 1 for 0 < x < theta, else 0;
    dy/dtheta = (y - x) / theta there, 0 below and 1 above.

    Parameters
    ----------
    levels : int, from 0
        L, the number of steps of the staircase; 0: none, y is a ramp.
    bound : float, above 0
        theta at first, in the unit of x. It is learned, one for the layer.
    """

    def __init__(self, levels: int, bound: float):
        super().__init__()
        self.levels = levels
        self.bound = nn.Parameter(torch.tensor(float(bound)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y for x of any shape."""
        return Staircase.apply(x, self.bound, self.levels)


# The bound of a QCFS layer at first: as in its paper, and where the norm has made the
# variance 1.
BOUND = 8.0
NORMALISED_BOUND = 2.5


@ACTIVATIONS.register("relu")
def rectified(stage: str, settings: dict) -> nn.Module:
    """Return a ReLU, and in the decoder a LeakyReLU(0.01)."""
    if stage == "generate":
        return nn.LeakyReLU(0.01)
    return nn.ReLU()


@ACTIVATIONS.register("qcfs")
def clipped(stage: str, settings: dict) -> nn.Module:
    """Return a QCFS, in all stages alike."""
    bound = BOUND if settings["norm"] == "none" else NORMALISED_BOUND
    return QCFS(settings["qcfs_levels"], bound)
