"""Spiking neurons: one time step of a layer in plain PyTorch, differentiated by autograd through a surrogate gradient.

Charge: the membrane potential V takes the layer's current W a[t]. Fire: s = H(V/theta - 1), H(0) = 0. Reset: theta is subtracted
where a neuron has spiked (soft reset); a reset's spike carries no gradient.

The engines write these equations again, and run by default: a change here is a change there, too. CONTRIBUTING.md names the
files, and tests/test_models.py says which differs. A neuron of your own: docs/how_to/extend.md.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from self_models import assembly
from self_models.basics import ModelError
from self_models.basics.settings import FRACTION, POSITIVE, PROBABILITY, Registry, required
from self_models.layers.surrogates import new_age, next_age


class NeuronState(NamedTuple):
    """State of one layer between steps, all (B, ...). v: membrane potential; age: steps since the last spike, or None where no
    surrogate asks for it; current: of the synapse, None without one. Other neurons have named tuples of their own, with v."""

    v: torch.Tensor
    age: torch.Tensor | None = None
    current: torch.Tensor | None = None


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

    Charge, then fire and reset, as in snnTorch, SpikingJelly and Norse: depth costs no steps. Returns (s, V[t])."""
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
    """One layer of neurons:

    I[t] = synapse_leak I[t-1] + synapse_gain a[t]      (with a synapse; else I[t] = a[t], what arrives)
    then update, with the current gain I[t] + drive; where a neuron has spiked V = reset, if there is one.

    forward(current, state) -> (spikes, state): one step; current (B, ...) as the synapses deliver it, spikes likewise, 0 or 1;
    state a NeuronState, or None for neurons at rest, V = initial_potential * threshold, whose gradient a learned threshold gets,
    too. threshold, leak: in the state_dict; these and the rest: one value, or one for each neuron. floor: in thresholds, below
    which V does not fall. Neurons of one's own override forward and, for a state of their own, at_rest."""

    fires = True  # else it sends V
    charges_first = False  # True: it fires only when it has been charged by all that arrives
    may_be_negative = False  # thresholds: a distance from one is then divided by its size

    def __init__(
        self,
        surrogate,
        update,
        threshold=1.0,
        leak=1.0,
        learn_threshold=False,
        learn_leak=False,
        initial_potential=0.0,
        floor=None,
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
        self.set_constants()

    def set_constants(
        self,
        gain=1.0,
        drive=0.0,
        reset=None,
        synapse_leak=None,
        synapse_gain=1.0,
        start=None,
    ):
        """Set what the equations have beside threshold and leak.

        Parameters
        ----------
        gain, drive, synapse_leak, synapse_gain : float or Tensor
            As in the equations of the class; a tensor has a value for each neuron.
            Without a synapse_leak there is no synapse.
        reset : float, Tensor or None
            V after a spike; None subtracts the threshold.
        start : float, Tensor or None
            V before the first timestep; None is initial_potential * threshold.
        """
        constants = {
            "gain": gain,
            "drive": drive,
            "reset": reset,
            "synapse_leak": synapse_leak,
            "synapse_gain": synapse_gain,
            "start": start,
        }
        self.numbers = tuple(
            value for value in constants.values() if not isinstance(value, torch.Tensor)
        )
        for name, value in constants.items():
            if isinstance(value, torch.Tensor):
                vars(self).pop(name, None)
                self.register_buffer(name, value, persistent=False)
            else:
                setattr(self, name, value)

    @property
    def takes_as_is(self):
        """True if what arrives is the current that charges V."""
        numbers = (
            isinstance(self.gain, float)
            and isinstance(self.drive, float)
            and self.synapse_leak is None
        )
        return numbers and (self.gain, self.drive) == (1, 0)

    @property
    def rest(self):
        """V before the first step."""
        if self.start is not None:
            return self.start
        return self.initial_potential * self.threshold

    def at_rest(self, current):
        """The NeuronState before the first step, for a current (B, ...)."""
        v = torch.zeros_like(current)
        synapse = None if self.synapse_leak is None else v
        starts_at_zero = self.start is None and not self.initial_potential
        return NeuronState(v if starts_at_zero else v + self.rest, current=synapse)

    def forward(self, current, state=None):
        current = current.to(self.threshold.dtype)  # float32 where matrix products are bfloat16
        v, age, synapse = state or self.at_rest(current)
        if self.surrogate.needs_age and age is None and torch.is_grad_enabled():
            age = new_age(v)
        current, synapse = self.received(current, synapse)
        spikes, v = self.update(
            current, v, self.threshold, self.leak, partial(self.spike, age=age)
        )
        if self.reset is not None:  # delayed: the current of this step arrives behind the reset
            v = torch.where(
                spikes > 0, self.reset + current if self.update is delayed else self.reset, v
            )
        return spikes, NeuronState(
            self.floored(v), None if age is None else next_age(age, spikes), synapse
        )

    def received(self, current, synapse):
        """(the current that charges V, the synapse's) of what arrives."""
        if synapse is not None:
            current = synapse = self.synapse_leak * synapse + self.synapse_gain * current
        return current if self.takes_as_is else self.gain * current + self.drive, synapse

    def spike(self, v, theta, age=None):
        """s = H(V/theta - 1), with the surrogate's gradient; age: as in NeuronState."""
        distance = (
            (v - theta) / torch.where(theta == 0, 1, theta.abs())
            if self.may_be_negative
            else v / theta - 1
        )
        return Spike.apply(distance, age, self.surrogate)

    def floored(self, v):
        """V <- max(V, -floor theta)"""
        if self.floor is None:
            return v
        lowest = -self.floor * self.threshold
        return torch.where(v < lowest, lowest, v)


class Integrator(SpikingNeuron):
    """Neurons without a threshold (LI, I, CubaLI of NIR), which send V itself in each step."""

    fires = False

    def forward(self, current, state=None):
        v, age, synapse = state or self.at_rest(current)
        current, synapse = self.received(current, synapse)
        v = self.leak * v + current
        return v, NeuronState(v, age, synapse)


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


class AsElsewhere(SpikingNeuron):
    """Neurons as other simulators run them, where NIR has no word for it. V' = leak V + I is what a timestep charges,
    R = H(V > theta) before it.

    subtracts, reset_delay (snnTorch): V = V' - theta R, s = H(V > theta): a spike is subtracted in the next timestep.
    subtracts (snnTorch, reset_delay=False): s = H(V' - theta R > theta), V = V' - theta s.
    several (sinabs): s = floor(V' / theta), at most `most` unless None, V = V' - theta s.
    whole, reset_delay (Synaptic and RLeaky of snnTorch, zero): V = (1 - R) V': what arrives behind a spike is lost.
    none of them: V is never reset."""

    subtracts = reset_delay = several = whole = False
    most = None

    def forward(self, current, state=None):
        v, age, synapse = state or self.at_rest(current)
        current, synapse = self.received(current, synapse)
        theta, charged, before = (
            self.threshold,
            self.leak * v + current,
            (v > self.threshold).to(v.dtype),
        )
        if self.several:
            spikes = (charged / theta).floor().clamp(0, self.most)
            return spikes, NeuronState(self.floored(charged - spikes * theta), age, synapse)
        if self.subtracts:
            charged = charged - before * theta
        elif self.whole:
            charged = charged - before * charged
        spikes = self.spike(charged, theta, age)
        if self.subtracts and not self.reset_delay:
            charged = charged - (spikes.detach() - before) * theta
        return spikes, NeuronState(self.floored(charged), age, synapse)


NEURONS = SpikingNeuron, Integrator, AsElsewhere  # all kinds
