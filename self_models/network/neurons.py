"""Leaky integrate-and-fire neurons: the steps and their gradients, and the module that holds a layer's threshold and leak.

Three words are used for what happens in a step. Charge: the membrane potential V takes the drive W a[t]. Fire: s = H(v),
v = V/theta - 1, H(0) = 0; in floating point too this is V > theta. Reset: theta is subtracted from the membrane of a neuron
that fired (soft reset); the reset carries no gradient.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from self_models.basics.errors import ModelError
from self_models.basics.settings import FRACTION, POSITIVE, PROBABILITY, Registry, required
from self_models.network.surrogates import new_age, next_age


class NeuronState(NamedTuple):
    """State of one layer between steps. v: membrane potential (B, ...); age: steps since the last spike (B, ...) or None; quiet:
    the SpikingNeuron.dynamics with which it is known that nothing changes until a drive comes, or None."""

    v: torch.Tensor
    age: torch.Tensor | None = None
    quiet: tuple | None = None


class Update(NamedTuple):
    """The order of charge, fire and reset, forward and backward. All tensors are (B, ...); the last ones are written to.

    step(drive, v, theta, leak, fired, s, following): fired is the membrane potential that decides on s, following the V of
    the next step. gradient(after, through, scale, leak, grad_drive, before): after and before are dL/dV on either side of
    the step, and may be one tensor, as may through and grad_drive; scale through = dL/ds ds/dfired. delays: whether a spike
    follows from the drives of earlier steps alone.
    """

    step: callable
    gradient: callable
    delays: bool = False


def delayed_step(drive, v, theta, leak, fired, s, following):
    """s[t] = H(V[t]/theta - 1);   V[t+1] = leak V[t] + drive[t] - theta s[t]

    Fire, then charge and reset: s[t] reads V before drive[t] arrives, so each layer delays by one step
    (Rathi et al., ICLR 2020). theta in the unit of V and drive; leak per step.
    """
    torch.gt(fired.copy_(v), theta, out=s)
    torch.addcmul(drive, fired, leak, out=following).addcmul_(s, theta, value=-1)


def delayed_gradient(after, through, scale, leak, grad_drive, before):
    """dL/ddrive[t] = dL/dV[t+1];   dL/dV[t] = leak dL/dV[t+1] + dL/ds[t] ds/dV[t]"""
    earlier = torch.addcmul(leak * after, through, scale)
    grad_drive.copy_(after)
    before.copy_(earlier)


def immediate_step(drive, v, theta, leak, fired, s, following):
    """V'[t] = leak V[t-1] + drive[t];   s[t] = H(V'[t]/theta - 1);   V[t] = V'[t] - theta s[t]

    Charge, then fire and reset, as in snnTorch, SpikingJelly and Norse: depth costs no steps.
    """
    torch.gt(torch.addcmul(drive, v, leak, out=fired), theta, out=s)
    torch.addcmul(fired, s, theta, value=-1, out=following)


def immediate_gradient(after, through, scale, leak, grad_drive, before):
    """dL/ddrive[t] = dL/dV'[t] = dL/dV[t] + dL/ds[t] ds/dV'[t];   dL/dV[t-1] = leak dL/dV'[t]"""
    torch.mul(torch.addcmul(after, through, scale, out=grad_drive), leak, out=before)


UPDATES = Registry(
    "update", delayed=Update(delayed_step, delayed_gradient, True), immediate=Update(immediate_step, immediate_gradient)
)


def run_steps(drive, v, update, theta, leak, floor=None, kept=None):
    """T steps of one layer: drive (T, B, ...), V before the first -> (spikes (T, B, ...), V after the last, spikes per image and
    step (T, B)). floor: before the first and after each step V = max(V, -floor theta), None for no floor. kept: tensors
    (T, B, ...) that are filled for a backward pass, see NeuronSteps."""
    s, following, lowest = torch.empty_like(drive), torch.empty_like(v), None if floor is None else -floor * theta
    fired, leaking, floored = kept or ([following] * len(drive), None, None)
    v = v if floor is None else v.clamp(min=lowest)  # it may have been another one before
    for t, (now, deciding, spikes) in enumerate(zip(drive.unbind(), fired, s.unbind(), strict=True)):
        if leaking is not None:
            leaking[t] = v
        update.step(now, v, theta, leak, deciding, spikes, following)
        if floored is not None:
            torch.lt(following, lowest, out=floored[t])
        v = following if floor is None else following.clamp_(min=lowest)
    return s, v, count_events(s)


class NeuronSteps(torch.autograd.Function):
    """run_steps with a gradient: (drive (T, B, ...), v, age, theta, leak, floor, update, surrogate) -> (s (T, B, ...), v, age,
    counts).

    v and age (B, ...) are those before the first step and after the last, counts (T, B) spikes per image and step. Written by
    hand, it passes over the tensors less often than the operations one by one, and keeps for the backward pass of each step only
    the membrane potential that decided, and what a surrogate or a learned leak needs.
    """

    @staticmethod
    def forward(ctx, drive, v, age, theta, leak, floor, update, surrogate):
        fired = torch.empty_like(drive)
        leaking = torch.empty_like(drive) if ctx.needs_input_grad[4] else None  # V that the leak multiplies
        floored = None if floor is None else torch.empty_like(drive, dtype=torch.bool)  # where V was below its floor
        s, v, counts = run_steps(drive, v, update, theta, leak, floor, (fired, leaking, floored))
        ages = None if age is None else torch.empty_like(drive)
        if age is not None:
            for t, spikes in enumerate(s):
                ages[t] = age
                age = next_age(age, spikes)
            ctx.mark_non_differentiable(age)
        ctx.save_for_backward(fired, ages, leaking, floored, theta, leak)
        ctx.floor, ctx.update, ctx.surrogate = floor, update, surrogate
        ctx.set_materialize_grads(False)
        return s, v, age, counts

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_s, grad_v, _, grad_counts):
        fired, ages, leaking, floored, theta, leak = ctx.saved_tensors
        grad_drive, g = torch.empty_like(fired), torch.empty_like(fired[0])
        grad_theta, grad_leak = torch.zeros_like(theta), torch.zeros_like(leak)
        each = g.new_zeros(fired.shape[:2]) if grad_counts is None else grad_counts
        each = each.view(*each.shape, *[1] * (g.dim() - 1))  # of a spike, by its step and image
        scale = ctx.surrogate.scale / theta  # of v = V/theta - 1
        after = torch.zeros_like(g) if grad_v is None else grad_v
        for t in reversed(range(len(fired))):
            if floored is not None:  # V is -floor theta there, whatever it was
                if ctx.needs_input_grad[3]:
                    grad_theta -= ctx.floor * (after * floored[t]).sum()
                after = after.masked_fill(floored[t], 0)
            onto = each[t] if grad_s is None else grad_s[t] if grad_counts is None else grad_s[t] + each[t]
            v = torch.div(fired[t], theta, out=grad_drive[t]).sub_(1)
            through = ctx.surrogate.onto(onto, v, None if ages is None else ages[t])
            if ctx.needs_input_grad[3]:  # theta in v = V/theta - 1, and in the reset
                grad_theta -= scale / theta * (through * fired[t]).sum() + (after * (fired[t] > theta)).sum()
            ctx.update.gradient(after, through, scale, leak, grad_drive[t], g)
            if leaking is not None:
                grad_leak += (grad_drive[t] * leaking[t]).sum()
            after = g
        return grad_drive, g, None, grad_theta, grad_leak, None, None, None


def count_events(signal):
    """Sum per image and step, (T, B, ...) -> (T, B) float32: the number of spikes in {0, 1}."""
    return signal.sum(tuple(range(2, signal.dim())), dtype=torch.float32)


class SpikingNeuron(nn.Module):
    """One layer of neurons with a common threshold and leak, both in the state_dict.

    forward(drive, state, steps) -> (spikes, state, counts): drive (steps B, ...) as the synapses deliver it, one step after the
    other, spikes likewise; state a NeuronState, or None for neurons at rest, V = initial_potential * threshold, whose gradient a
    learned threshold gets, too; counts (steps, B), spikes per image. biased: whether there is a drive even where nothing is sent.
    floor: in thresholds, below which V does not fall, or None.
    begins_silent: whether at rest the first step's spikes are all 0, so is every gradient through them, and nothing but spikes
    drives others. stays_quiet: whether neurons that have not fired in a step will not, and keep their membrane, until others do.
    """

    def __init__(
        self, surrogate, update, threshold=1.0, leak=1.0, learn_threshold=False, learn_leak=False, initial_potential=0.0,
        biased=False, floor=None,
    ):  # fmt: skip
        super().__init__()
        self.surrogate = surrogate
        self.update = UPDATES.find(update)
        self.threshold = nn.Parameter(torch.tensor(required(POSITIVE, "threshold", threshold)), requires_grad=learn_threshold)
        self.leak = nn.Parameter(torch.tensor(required(FRACTION, "leak", leak)), requires_grad=learn_leak)
        self.initial_potential = required(PROBABILITY, "initial_potential", initial_potential)
        self.biased, self.floor = biased, floor
        self.begins_silent = self.update.delays and not (surrogate.at_rest() or self.initial_potential or biased)

    @property
    def dynamics(self):
        """(threshold, leak, floor), numbers."""
        return self.threshold.item(), self.leak.item(), self.floor

    @property
    def lowest(self):
        """The potential below which V does not fall."""
        return -self.floor * self.threshold

    @property
    def stays_quiet(self):
        return not self.update.delays and self.leak.item() == 1 and not self.biased

    def at_rest(self, drive):
        """The NeuronState before the first step, for a drive (B, ...)."""
        v = torch.zeros_like(drive)
        return NeuronState(v + self.initial_potential * self.threshold if self.initial_potential else v)

    def forward(self, drive, state=None, steps=1):
        drive = drive.to(self.threshold.dtype).unflatten(0, (steps, -1))  # float32 where matrix products are bfloat16
        v, age, _ = state or self.at_rest(drive[0])
        learns = torch.is_grad_enabled() and any(value.requires_grad for value in (drive, v, self.threshold, self.leak))
        if learns or age is not None:
            age = new_age(v) if age is None and self.surrogate.needs_age else age
            dynamics = self.threshold, self.leak, self.floor, self.update, self.surrogate
            spikes, v, age, counts = NeuronSteps.apply(drive, v, age, *dynamics)
        else:
            spikes, v, counts = run_steps(drive, v, self.update, self.threshold, self.leak, self.floor)
        return spikes.flatten(0, 1), NeuronState(v, age), counts

    def traced(self, drive, state=None, steps=1):
        """What forward gives, and the membrane potential after each step's reset, (steps B, ...)."""
        spikes, counts, membranes = [], [], []
        for now in drive.chunk(steps):
            fired, state, count = self(now, state)
            for values, one in ((spikes, fired), (counts, count), (membranes, state.v)):
                values.append(one)
        return torch.cat(spikes), state, torch.cat(counts), torch.cat(membranes)

    @torch.no_grad()
    def clamp_dynamics(self):
        """Bring a learned threshold or leak back into its range after an optimiser step; what is not learned stays."""
        if self.threshold.requires_grad:
            self.threshold.clamp_(min=1e-2)
        if self.leak.requires_grad:
            self.leak.clamp_(0, 1)


class SpikingLayers:
    """What a network of spiking layers tells of them all, and sets: their thresholds and leaks."""

    def neurons(self):
        """Name -> spiking layer, in the order encoder, decoder, classifier."""
        return {name: module for name, module in self.named_modules() if isinstance(module, SpikingNeuron)}

    @property
    def thresholds(self):
        """Threshold of each spiking layer, in the order encoder, decoder, classifier."""
        return [neuron.threshold.item() for neuron in self.neurons().values()]

    @torch.no_grad()
    def set_thresholds(self, thresholds):
        """Set the threshold of each spiking layer, in the same order. Raises ModelError for a wrong number or value."""
        neurons, thresholds = self.neurons(), [float(value) for value in thresholds]
        if len(thresholds) != len(neurons):
            raise ModelError(f"{len(thresholds)} thresholds given for {len(neurons)} spiking layers: {', '.join(neurons)}")
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

    def set_floor(self, floor):
        """Set the floor of every spiking layer's membranes, in thresholds below 0, or None."""
        for neuron in self.neurons().values():
            neuron.floor = floor

    def clamp_dynamics(self):
        """Bring learned thresholds and leaks back into their range; call after each optimiser step."""
        for neuron in self.neurons().values():
            neuron.clamp_dynamics()


class CountingMaxPool(nn.MaxPool2d):
    """A maximum pool of spike counts: it lets a spike through where the highest count of its window's neurons rises.

    After each step it has sent as many spikes as the neuron of its window that has sent most: the maximum of the rates, as in the
    ANN; the logical or of the spikes sends more wherever two neurons take turns. At most one spike a step, since a count rises by
    at most 1. (Rueckauer et al., Front. Neurosci. 2017, let the neuron of the highest estimated rate through.)
    """

    def run(self, spikes, counts=None, steps=1):
        """(what passes (steps B, C, H/2, W/2), the counts after it) for spikes (steps B, C, H, W), one step after the other;
        counts (B, C, H, W): of the steps before, None for none."""
        highest, passed = None if counts is None else self(counts), []
        for now in spikes.chunk(steps) if steps else ():
            counts = now if counts is None else counts + now
            before, highest = highest, self(counts)
            passed.append(highest if before is None else highest - before)
        return torch.cat(passed) if passed else self(spikes), counts


class HeldDropout(nn.Module):
    """Dropout whose mask is drawn once per image and held for all steps. layer: its number among the network's.

    forward(signal, mask, steps, draws) -> (signal, mask). signal: (steps B, ...), one step after the other; mask: (B, ...), or
    None to take it from draws, the batch's Draws.
    """

    def __init__(self, p, layer=0):
        super().__init__()
        self.p, self.layer = p, layer

    def forward(self, signal, mask=None, steps=1, draws=None):
        if not self.training or self.p == 0 or not steps:
            return signal, mask
        signal = signal.unflatten(0, (steps, -1))
        if mask is None:
            mask = draws.mask(self.layer, self.p, signal.shape[2:], signal.device).to(signal.dtype)
        return (signal * mask).flatten(0, 1), mask
