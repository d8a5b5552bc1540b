"""A network as a NIR graph (Neuromorphic Intermediate Representation), the file that other simulators and chips read."""

import io
from itertools import pairwise

import numpy as np
from torch import nn

from harness import UserError
from self_models.network.neurons import SpikingNeuron

STEP = 1e-4  # seconds per step that snnTorch and Norse read a time constant by
LACKS = "NIR has no transposed convolution, no gate of two signals and no rule that stops"
START = "membranes begin at initial_potential times the threshold, which NIR has no word for: set that where you read the file"
RESET = "NIR knows a reset to a value only; here the threshold is subtracted from V: set that where you read the file"
PHASED = "layers fire one after the other (update phased), which NIR has no word for; the metadata says when each fires"


def nir_bytes(layers, facts):
    """(the file's content, lines on it). facts: its metadata, name -> text or number. from_nir() reads back the same spikes."""
    import nir  # it brings HDF5

    nodes = {"input": nir.Input({"input": np.array(layers[0].before)})}
    nodes |= {layer.name.replace(".", "_"): node_of(layer, nir) for layer in layers}  # PyTorch has no dots in a name
    nodes["output"] = nir.Output({"output": np.array(layers[-1].after)})
    file, more = io.BytesIO(), {"reset": RESET, "seconds_per_step": STEP}
    nir.write(file, nir.NIRGraph(nodes, list(pairwise(nodes)), metadata={**facts, **more}))
    return file.getvalue(), RESET, *[START] * bool(facts["initial_potential"]), *[PHASED] * (facts["update"] == "phased")


def node_of(layer, nir):
    """The NIR node of a Layer. A matrix is an Affine, since not every reader knows Linear; a neuron with a leak a LIF, whose time
    constant gives that leak in steps of STEP. Raises UserError for a maximum pool."""
    module = layer.module
    if isinstance(module, SpikingNeuron):
        values = module.threshold.item(), module.leak.item(), 1, 0
        threshold, leak, one, zero = (np.full(layer.after, value, np.float32) for value in values)
        if leak.flat[0] == 1:
            return nir.IF(r=one, v_threshold=threshold)
        return nir.LIF(tau=np.float32(STEP) / (1 - leak), r=1 / (1 - leak), v_leak=zero, v_threshold=threshold)
    if isinstance(module, nn.AvgPool2d):
        pair = np.array([module.kernel_size] * 2)
        return nir.AvgPool2d(kernel_size=pair, stride=pair, padding=np.zeros(2, int))
    if isinstance(module, nn.MaxPool2d):
        raise UserError(f"NIR has no maximum pool, which {layer.name} is: use --to torch")
    if isinstance(module, nn.Flatten):
        return nir.Flatten({"input": np.array(layer.before)}, start_dim=0, end_dim=-1)
    weight = np.ascontiguousarray(module.weight.detach().numpy())
    bias = np.zeros(len(weight), weight.dtype) if module.bias is None else module.bias.detach().numpy()
    if isinstance(module, nn.Linear):
        return nir.Affine(weight, bias)
    return nir.Conv2d(layer.before[1:], weight, module.stride, module.padding, module.dilation, module.groups, bias)
