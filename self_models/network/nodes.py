"""The nodes of a NIR graph as modules: neurons with NIR's equations in timesteps of dt, pools, scales.

The neurons are written once more, in kernel/network.c, which runs by default: an edit here alone shows with engine="dense".
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from self_models.network.neurons import Spike
from self_models.network.surrogates import triangle


class Memory(NamedTuple):
    """State of a neuron between timesteps, both (B, ...). v: membrane potential; current: of the synapse, None without one."""

    v: torch.Tensor
    current: torch.Tensor | None = None


class NIRNeuron(nn.Module):
    """IF, LIF, CubaLIF, LI, I, CubaLI and Threshold, by forward Euler:

    I[t] = synapse_leak I[t-1] + synapse_gain a[t]      (CubaLIF, CubaLI; else I[t] = a[t], what arrives)
    V[t] = leak V[t-1] + gain I[t] + drive              leak = 1 - dt/tau, gain = r dt/tau, drive = v_leak dt/tau; IF: 1, r, 0
    s[t] = V[t] > threshold                             then V[t] = reset, or V[t] - threshold (subtract)

    values: name -> tensor, of one value or one for each neuron, of those above; without a threshold V is what is sent. delayed:
    it fires by the V of the timestep before, then is charged. start: V before the first timestep, in thresholds. V of a
    Threshold, whose leak is 0, is what has arrived. Spikes have the surrogate gradient of the distance from the threshold, in
    thresholds.
    """

    surrogate = triangle(None, None)

    def __init__(self, values, subtract=False, delayed=False, start=0.0):
        super().__init__()
        fires = "threshold" in values
        self.subtract, self.delayed, self.start = subtract, delayed and fires, start if fires else 0.0
        for name in ("leak", "gain", "drive", "threshold", "reset", "synapse_leak", "synapse_gain"):
            self.register_buffer(name, values.get(name))

    def forward(self, arriving, memory=None):
        """What arrives in a timestep (B, ...), and the Memory before it, None at rest -> what is sent, the Memory after it."""
        if memory is None:
            zeros = torch.zeros_like(arriving)
            start = zeros if not self.start else zeros + self.start * self.threshold
            memory = Memory(start, None if self.synapse_leak is None else zeros)
        v, current = memory
        if current is not None:
            arriving = current = self.synapse_leak * current + self.synapse_gain * arriving
        received = self.gain * arriving + self.drive
        v = self.leak * v + received if not self.delayed else v
        if self.threshold is None:
            return v, Memory(v, current)
        spikes = self.fire(v)
        v = self.leak * v if self.delayed else v
        v = v - spikes.detach() * self.threshold if self.subtract else torch.where(spikes > 0, self.reset, v)
        return spikes, Memory(v + received if self.delayed else v, current)

    def fire(self, v):
        scale = torch.where(self.threshold == 0, 1, self.threshold.abs())
        return Spike.apply((v - self.threshold) / scale, None, self.surrogate)


class Pool(nn.Module):
    """SumPool2d and AvgPool2d: sums over windows, or means, to which the border's zeros count. kernel, stride, padding: pairs."""

    def __init__(self, kernel, stride, padding, mean):
        super().__init__()
        self.kernel, self.stride, self.padding, self.mean = kernel, stride, padding, mean

    def forward(self, x):
        (top, left) = self.padding
        return F.avg_pool2d(F.pad(x, (left, left, top, top)), self.kernel, self.stride, divisor_override=None if self.mean else 1)


class Scale(nn.Module):
    """Values times a scale, of one value or one for each."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(scale)

    def forward(self, x):
        return x * self.scale


class Ends(nn.Identity):
    """Input and Output, of the graph or of a graph within it."""
