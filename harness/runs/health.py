"""What goes wrong inside a network: values that are not finite, and layers that fall silent."""

import torch

from harness import UserError

HELPS_AGAINST_SILENCE = (
    "a lower threshold (--scaling_factor, --default_threshold), more --timesteps, a lower --learning_rate or --spike_penalty, "
    "or --update immediate usually help"
)


def not_finite(fault):
    """The UserError that ends training. fault: what is not finite, and when."""
    return UserError(f"{fault}; training stopped, the last checkpoint is kept; try a lower --learning_rate or --trade_off")


def is_finite(loss, model):
    """Whether the loss and the gradients of a step are finite, by their sums. (Where finite ones add up to infinity, their
    squares would, too, which optimisers keep.)"""
    values = [loss, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]
    return bool(torch.stack([value.sum() for value in values]).isfinite().all())
