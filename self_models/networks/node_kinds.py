"""What kind of layer a module is: what whoever runs a network must know of it."""

from torch import nn

from self_models.neurons.spiking import CountingMaxPool, HeldDropout, SpikingNeuron


def is_sender(module: nn.Module) -> bool:
    """Return whether a module sends a signal of its own: neurons and maximum pools do.

    All other layers are linear, but for their bias: they pass on what a sender sends.
    """
    return isinstance(module, SpikingNeuron | nn.MaxPool2d)


def passes(module: nn.Module) -> bool:
    """Return whether a module, in evaluation, passes on what arrives as it is."""
    return isinstance(module, HeldDropout | nn.Identity)


def has_state(module: nn.Module) -> bool:
    """Return whether a module is called with its state, and returns the next one."""
    return isinstance(module, SpikingNeuron | HeldDropout | CountingMaxPool)
