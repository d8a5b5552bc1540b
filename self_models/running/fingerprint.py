"""Whether a network has changed since an engine prepared for it, or a stream began."""

import itertools

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from self_models.neurons.spiking import SpikingNeuron
from self_models.running.known_layers import is_hooked, modules_of

step_numbers = itertools.count(1)  # of all optimiser steps of this process
latest_steps = {}  # id of a tensor: the number of the latest optimiser step that changed it


def note_optimizer_step(optimizer, args, kwargs) -> None:
    """Note which tensors an optimiser has changed; torch calls this after each step."""
    # torch does not raise the version of what a fused optimiser writes, nor of what
    # other optimisers write through `.data`. A number that no other step has, in place
    # of a count, tells two tensors apart of which the later has got the id of the
    # first.
    number = next(step_numbers)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                latest_steps[id(parameter)] = number


register_optimizer_step_post_hook(note_optimizer_step)


def fingerprint(model: nn.Module) -> tuple[list, list[torch.Tensor]]:
    """Describe what a model is made of, to tell later whether it has changed.

    Seen are changed modules, hooks and neurons, tensors that were replaced or whose
    memory was (``.data = ...``), what torch counts as a change in place
    (``tensor._version``), and steps of optimisers. Not seen are writes in place through
    ``.data``, a NumPy array or another process, and into inference tensors.

    Parameters
    ----------
    model : nn.Module
        The network.

    Returns
    -------
    state : list
        Equal to that of an earlier call if nothing has changed meanwhile. It is for
        comparison alone: modules, which are equal only to themselves; their classes,
        hooks and numbers; and four numbers of each tensor.
    tensors : list of Tensor
        Parameters and buffers of the model. Whoever keeps ``state`` for comparison must
        also keep what ``kept_in_memory(tensors)`` of basics returns: else another
        tensor might get the id, or the memory, of one that is gone.
    """
    modules = modules_of(model)
    state = [*modules]
    tensors = []
    for module in modules:
        state += (type(module), is_hooked(module))
        if isinstance(module, SpikingNeuron):
            state += (module.initial_potential, module.floor, module.update)
            state += getattr(module, "numbers", ())  # constants of a file's neurons
        for values in (module._parameters, module._buffers):
            tensors += [value for value in values.values() if value is not None]
    for value in tensors:
        # torch counts up the version with each change in place. Inference tensors have
        # none, and would raise an error.
        version = True if value.is_inference() else value._version
        # None if no optimiser has changed it; note_optimizer_step() keeps the numbers.
        latest_step = latest_steps.get(id(value))
        state.append((id(value), value.data_ptr(), version, latest_step))
    return state, tensors
