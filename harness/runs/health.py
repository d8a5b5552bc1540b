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


class FiniteCheck:
    """Whether the loss and the gradients of a step are finite, by their sums. (Where finite ones add up to infinity, their
    squares would, too, which optimisers keep.) On a GPU the host need not wait for the answer: failed() does.

    flag: 1.0 where a value is not finite, else 0.0, on the device. A fused optimiser that is given it as found_inf changes
    nothing then.
    """

    def __init__(self, loss, model):
        values = [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]
        self.flag = 1 - torch.stack([value.sum() for value in values]).isfinite().all().float()
        self._seen, self._arrived = self.flag, None
        if self.flag.is_cuda:
            self._seen, self._arrived = torch.empty((), pin_memory=True), torch.cuda.Event()
            self._seen.copy_(self.flag, non_blocking=True)
            self._arrived.record()

    def failed(self):
        if self._arrived:
            self._arrived.synchronize()
        return bool(self._seen)


def spoilt_weights(model):
    """Names of the weights that are not finite."""
    return [name for name, value in model.state_dict().items() if not value.isfinite().all()]
