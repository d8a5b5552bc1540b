"""Spiking neurons: one timestep of a layer in plain PyTorch.

Charge: the membrane potential V takes the layer's current W a[t]. Fire:
s = H(V/theta - 1), H(0) = 0. Reset: theta is subtracted where a neuron has spiked (soft
reset). autograd differentiates all this through a surrogate gradient; a reset's spike
carries none.

The engines, which run by default, have these equations in forms of their own: change
them there, too. CONTRIBUTING.md names the files, and tests/test_models.py says which of
them differs. A neuron of your own: docs/how_to/extend.md.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from self_models import assembly
from self_models.basics import ModelError
from self_models.basics.settings import FRACTION, POSITIVE, PROBABILITY, Registry, required
from self_models.layers.surrogates import Surrogate, new_age, next_age


class NeuronState(NamedTuple):
    """State of one layer between timesteps; neurons of one's own have one of their own.

    Attributes
    ----------
    v : Tensor (B, ...)
        Membrane potential, which the named tuples of other neurons have, too.
    age : Tensor (B, ...) or None
        Timesteps since the last spike; None where no surrogate asks for it.
    """

    v: torch.Tensor
    age: torch.Tensor | None = None


UPDATES = Registry("update")  # name -> function as those here


@UPDATES.register("delayed")
def delayed(current, v, theta, leak, spike):
    """s[t] = H(V[t]/theta - 1);   V[t+1] = leak V[t] + I[t] - theta s[t]

    Fire, then charge and reset: s[t] reads V before I[t] arrives, so each layer delays by one step (Rathi et al., ICLR 2020).
    theta in the unit of V and I; leak per step. Returns (s, V[t+1])."""
    s = spike(v, theta)
    return s, leak * v + current - theta * s.detach()


@UPDATES.register("immediate")
def immediate(current, v, theta, leak, spike):
    """V'[t] = leak V[t-1] + I[t];   s[t] = H(V'[t]/theta - 1);   V[t] = V'[t] - theta s[t]

    Charge, then fire and reset: depth costs no steps. Returns (s, V[t])."""
    v = leak * v + current
    s = spike(v, theta)
    return s, v - theta * s.detach()


UPDATES.offer(assembly.UPDATES)  # those of guests, which are imported when they are chosen


class Spike(torch.autograd.Function):
    """s = H(v), and backward ds/dv as the surrogate has it; v, age: (B, ...), age None where the surrogate needs none."""

    @staticmethod
    def forward(ctx, v, age, surrogate):
        ctx.save_for_backward(v, age)
        ctx.surrogate = surrogate
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx, gradient):
        v, age = ctx.saved_tensors
        return ctx.surrogate.scale * ctx.surrogate.onto(gradient, v.clone(), age), None, None


class SpikingNeuron(nn.Module):
    """One layer of spiking neurons.

    Neurons of one's own override `forward` and, for a state of their own, `at_rest`.

    Parameters
    ----------
    surrogate : Surrogate
        Gradient of a spike.
    update : str
        Name of one of UPDATES: the order of charge, fire and reset.
    threshold : float > 0
        In the unit of the current. A Parameter of one value, or one for each neuron.
    leak : float, 0 to 1
        Share of V that a timestep keeps. A Parameter, too.
    learn_threshold, learn_leak : bool
        Whether these have gradients.
    initial_potential : float, 0 to 1
        V before the first timestep, in thresholds.
    floor : float or None
        V does not fall below -floor thresholds; None for no bound.

    Raises
    ------
    ModelError
        If a value is out of its range, or there is no such update.
    """

    fires = True  # else it sends V
    charges_first = False  # True: it fires only when it has been charged by all that arrives

    def __init__(
        self,
        surrogate: Surrogate,
        update: str,
        threshold: float = 1.0,
        leak: float = 1.0,
        learn_threshold: bool = False,
        learn_leak: bool = False,
        initial_potential: float = 0.0,
        floor: float | None = None,
    ):
        super().__init__()
        self.surrogate = surrogate
        self.update = UPDATES.find(update)
        self.threshold = nn.Parameter(
            torch.tensor(required(POSITIVE, "threshold", threshold)), requires_grad=learn_threshold
        )
        self.leak = nn.Parameter(
            torch.tensor(required(FRACTION, "leak", leak)), requires_grad=learn_leak
        )
        self.initial_potential = required(PROBABILITY, "initial_potential", initial_potential)
        self.floor = floor

    @property
    def rest(self) -> torch.Tensor:
        """V before the first timestep. A learned threshold gets its gradient, too."""
        return self.initial_potential * self.threshold

    def at_rest(self, current: torch.Tensor) -> NeuronState:
        """Return the state before the first timestep, for a current (B, ...)."""
        v = torch.zeros_like(current)
        if self.initial_potential:
            v = v + self.rest
        return NeuronState(v)

    def forward(
        self, current: torch.Tensor, state: NeuronState | None = None
    ) -> tuple[torch.Tensor, NeuronState]:
        """Run one timestep.

        Parameters
        ----------
        current : Tensor (B, ...)
            What arrives, as the layer's weights deliver it.
        state : NeuronState or None
            Of the timestep before; None for neurons at rest.

        Returns
        -------
        spikes : Tensor (B, ...)
            0 or 1.
        state : NeuronState
        """
        current = current.to(self.threshold.dtype)  # float32 where matrix products are bfloat16
        v, age = state or self.at_rest(current)
        if self.surrogate.needs_age and age is None and torch.is_grad_enabled():
            age = new_age(v)
        spike = partial(self.spike, age=age)
        spikes, v = self.update(current, v, self.threshold, self.leak, spike)
        if age is not None:
            age = next_age(age, spikes)
        return spikes, NeuronState(self.floored(v), age)

    def spike(
        self, v: torch.Tensor, theta: torch.Tensor, age: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return s = H(V/theta - 1) with the surrogate's gradient; age: of NeuronState."""
        return Spike.apply(v / theta - 1, age, self.surrogate)

    def floored(self, v: torch.Tensor) -> torch.Tensor:
        """Return max(V, -floor theta)."""
        if self.floor is None:
            return v
        lowest = -self.floor * self.threshold
        return torch.where(v < lowest, lowest, v)


class SpikingLayers:
    """What a network of spiking layers tells of them all, and sets: their thresholds and leaks."""

    def neurons(self):
        """Name -> spiking layer, in the order encoder, decoder, classifier."""
        return {
            name: module
            for name, module in self.named_modules()
            if isinstance(module, SpikingNeuron)
        }

    @property
    def thresholds(self):
        """Threshold of each spiking layer, in the order encoder, decoder, classifier."""
        return [neuron.threshold.item() for neuron in self.neurons().values()]

    @torch.no_grad()
    def set_thresholds(self, thresholds):
        """Set the threshold of each spiking layer, in the same order. Raises ModelError for a wrong number or value."""
        neurons, thresholds = self.neurons(), [float(value) for value in thresholds]
        if len(thresholds) != len(neurons):
            raise ModelError(
                f"{len(thresholds)} thresholds given for {len(neurons)} spiking layers: {', '.join(neurons)}"
            )
        if not all(value > 0 for value in thresholds):
            raise ModelError(f"thresholds must be above 0: {thresholds}")
        for neuron, value in zip(neurons.values(), thresholds, strict=True):
            neuron.threshold.fill_(value)

    @torch.no_grad()
    def set_leak(self, leak):
        """Set the leak of every spiking layer, 0 to 1. Raises ModelError for another."""
        leak = required(FRACTION, "leak", leak)
        for neuron in self.neurons().values():
            neuron.leak.fill_(leak)

    @torch.no_grad()
    def clamp_dynamics(self):
        """Bring learned thresholds and leaks back into their range; call after each optimiser step. What is not learned stays."""
        for neuron in self.neurons().values():
            if neuron.threshold.requires_grad:
                neuron.threshold.clamp_(min=1e-2)
            if neuron.leak.requires_grad:
                neuron.leak.clamp_(0, 1)


class CountingMaxPool(nn.MaxPool2d):
    """A maximum pool of spike counts: it lets a spike through where the highest count of its window's neurons rises.

    After each step it has sent as many spikes as the neuron of its window that has sent most: the maximum of the rates, as in the
    ANN; the logical or of the spikes sends more wherever two neurons take turns. At most one spike a step, since a count rises by
    at most 1. (Rueckauer et al., Front. Neurosci. 2017, let the neuron of the highest estimated rate through.)"""

    def forward(self, spikes, counts=None, steps=1):
        """(what passes (steps B, C, H/2, W/2), the counts after it) for spikes (steps B, C, H, W), one step after the other;
        counts (B, C, H, W): of the steps before, None for none."""
        highest, passed = None if counts is None else super().forward(counts), []
        for now in spikes.chunk(steps):
            counts = now if counts is None else counts + now
            before, highest = highest, super().forward(counts)
            passed.append(highest if before is None else highest - before)
        return torch.cat(passed), counts


class HeldDropout(nn.Module):
    """Dropout whose mask is drawn once per image and held for all steps. layer: its number among the network's.

    forward(signal, mask, steps) -> (signal, mask). signal: (steps B, ...), one step after the other; mask: (B, ...), of new_mask,
    or None, which drops nothing."""

    def __init__(self, p, layer=0):
        super().__init__()
        self.p, self.layer = p, layer

    def new_mask(self, draws, shape, device):
        """The mask of a batch with these Draws, for signals (B, *shape), None in evaluation."""
        return draws.mask(self.layer, self.p, shape, device) if self.training and self.p else None

    def forward(self, signal, mask=None, steps=1):
        if mask is None:
            return signal, None
        return (signal.unflatten(0, (steps, -1)) * mask.to(signal.dtype)).flatten(0, 1), mask
