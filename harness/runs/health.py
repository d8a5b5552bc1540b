"""What goes wrong inside a network: values that are not finite, and layers that fall silent."""

from collections import Counter

import torch
from torch.nn.modules.module import register_module_forward_hook

from harness import UserError
from self_models.network.neurons import SpikingNeuron

HELPS_AGAINST_SILENCE = (
    "a lower threshold (--scaling_factor, --default_threshold), more --timesteps, a lower --learning_rate or --spike_penalty, "
    "or --update immediate usually help"
)


def not_finite(fault):
    """The UserError that ends training. fault: what is not finite, and where."""
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


def first_not_finite(model, run):
    """Where the model first yields a value that is not finite, in words. run(): the same step again, returns its loss. Layers are
    watched in the order in which they run; where all their outputs are finite, their gradients on the way back."""
    if spoilt := spoilt_weights(model):
        return f"weight {spoilt[0]} was not finite before the update"
    names = {module: name for name, module in model.named_modules() if not list(module.children())}
    found, calls = [], Counter()

    def bad(gradient):
        return gradient is not None and not gradient.isfinite().all()

    def look(module, inputs, output):
        if module not in names:
            return
        calls[module] += 1
        where = f"layer {names[module]} ({type(module).__name__})"
        signal, *more = output if isinstance(output, tuple) else (output,)
        for value in (signal, more[0].v) if isinstance(module, SpikingNeuron) else (signal,):
            if not value.isfinite().all():
                found.append(f"the output of {where}, call {calls[module]} of the update")
            elif value.requires_grad:
                value.register_hook(lambda gradient: found.append(f"the gradient at {where}") if bad(gradient) else None)

    with register_module_forward_hook(look):
        loss = run()
        if not found and torch.isfinite(loss):
            loss.backward()
    return found[0] if found else "the loss itself"
