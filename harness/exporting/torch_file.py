"""A network as a plain PyTorch file: what nn.Sequential is built from, and its state_dict."""

import io

import torch
from torch import nn

from self_models.network.neurons import CountingMaxPool, SpikingNeuron

ARGUMENTS = {  # class -> its arguments that rebuild it
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    nn.AvgPool2d: ("kernel_size",),
    nn.MaxPool2d: ("kernel_size",),
    CountingMaxPool: ("kernel_size",),
    nn.Flatten: (),
    nn.Linear: ("in_features", "out_features"),
}


def torch_bytes(layers, facts):
    """The file's content, for torch.load(path, weights_only=True): layers, a list of (class name, arguments); names, of the same
    layers in the checkpoint; state_dict of their nn.Sequential; and the facts, name -> text or number."""
    state, file = {}, io.BytesIO()
    for position, layer in enumerate(layers):
        if hasattr(layer.module, "weight"):
            own = layer.module.named_parameters()
            state |= {f"{position}.{name}": value.detach().contiguous() for name, value in own}
    described = [described_layer(layer.module) for layer in layers]
    torch.save({"layers": described, "names": [layer.name for layer in layers], "state_dict": state, **facts}, file)
    return file.getvalue()


def described_layer(module):
    """(class name, arguments)"""
    if isinstance(module, SpikingNeuron):
        threshold = module.threshold.item()
        return "Neuron", {"threshold": threshold, "leak": module.leak.item(), "start": module.initial_potential * threshold}
    arguments = {name: getattr(module, name) for name in ARGUMENTS[type(module)]}
    return type(module).__name__, arguments | ({"bias": module.bias is not None} if hasattr(module, "weight") else {})
