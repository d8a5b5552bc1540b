"""An ANN with 8-bit weights and activations: a plain post-training quantisation, to be compared with."""

import copy

import torch
from torch import nn

LEVELS = 127  # of a signed 8-bit number
IMAGES = 128  # of training, whose largest activations set the scales


@torch.no_grad()
def in_eight_bits(model, images):
    """A copy of an ANN that computes with integers of 8 bits, exactly, in floating point: weights by output channel and what goes
    into each linear layer by layer, both symmetric, rounded to the nearest. images: of training, (N, C, H, W), floats; the
    largest activation on them is the largest number."""
    model, largest = copy.deepcopy(model).eval(), {}
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]

    def note(layer, inputs):
        largest[layer] = max(largest.get(layer, 0.0), inputs[0].abs().max().item())

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    model(images[:IMAGES])
    for hook in hooks:
        hook.remove()
    for layer in layers:
        out = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        others = [dim for dim in range(layer.weight.dim()) if dim != out]
        scale = layer.weight.abs().amax(others, keepdim=True).clamp(min=1e-12) / LEVELS
        layer.weight.copy_((layer.weight / scale).round() * scale)
        step = max(largest.get(layer, 0.0), 1e-12) / LEVELS
        layer.register_forward_pre_hook(lambda _, inputs, step=step: ((inputs[0] / step).round().clamp(-LEVELS, LEVELS) * step,))
    return model
