"""Many steps of a layer of spiking neurons at once, with a gradient written by hand: what layers/neurons.py says, in fewer
passes over the tensors."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from self_models.layers.neurons import NeuronState, delayed, immediate
from self_models.layers.surrogates import new_age, next_age


class Update(NamedTuple):
    """The order of charge, fire and reset, forward and backward. All tensors are (B, ...); the last ones are written to.

    step(drive, v, theta, leak, tested_v, s, following): tested_v is the membrane potential that decides on s, following the V of
    the next step. gradient(after, through, scale, leak, grad_drive, before): after and before are dL/dV on either side of
    the step, and may be one tensor, as may through and grad_drive; scale through = dL/ds ds/dtested_v."""

    step: callable
    gradient: callable


def delayed_step(drive, v, theta, leak, tested_v, s, following):
    """delayed() of layers/neurons.py."""
    torch.gt(tested_v.copy_(v), theta, out=s)
    torch.addcmul(drive, tested_v, leak, out=following).addcmul_(s, theta, value=-1)


def delayed_gradient(after, through, scale, leak, grad_drive, before):
    """dL/ddrive[t] = dL/dV[t+1];   dL/dV[t] = leak dL/dV[t+1] + dL/ds[t] ds/dV[t]"""
    earlier = torch.addcmul(leak * after, through, scale)
    grad_drive.copy_(after)
    before.copy_(earlier)


def immediate_step(drive, v, theta, leak, tested_v, s, following):
    """immediate() of layers/neurons.py."""
    torch.gt(torch.addcmul(drive, v, leak, out=tested_v), theta, out=s)
    torch.addcmul(tested_v, s, theta, value=-1, out=following)


def immediate_gradient(after, through, scale, leak, grad_drive, before):
    """dL/ddrive[t] = dL/dV'[t] = dL/dV[t] + dL/ds[t] ds/dV'[t];   dL/dV[t-1] = leak dL/dV'[t]"""
    torch.mul(torch.addcmul(after, through, scale, out=grad_drive), leak, out=before)


UPDATES = {
    delayed: Update(delayed_step, delayed_gradient),
    immediate: Update(immediate_step, immediate_gradient),
}


def run_steps(drive, v, update, theta, leak, floor=None, saved=None):
    """T steps of one layer: drive (T, B, ...), V before the first -> (spikes (T, B, ...), V after the last, spikes per image and
    step (T, B)). floor: after each step V = max(V, -floor theta), None for no floor. saved: tensors (T, B, ...) that are filled
    for a backward pass, see NeuronSteps."""
    s, following, lowest = (
        torch.empty_like(drive),
        torch.empty_like(v),
        None if floor is None else -floor * theta,
    )
    tested_v, leaking, floored = saved or ([following] * len(drive), None, None)
    for t, (now, deciding, spikes) in enumerate(
        zip(drive.unbind(), tested_v, s.unbind(), strict=True)
    ):
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
        tested_v = torch.empty_like(drive)
        leaking = (
            torch.empty_like(drive) if ctx.needs_input_grad[4] else None
        )  # V that the leak multiplies
        floored = (
            None if floor is None else torch.empty_like(drive, dtype=torch.bool)
        )  # where V was below its floor
        s, v, counts = run_steps(
            drive, v, update, theta, leak, floor, (tested_v, leaking, floored)
        )
        ages = None if age is None else torch.empty_like(drive)
        if age is not None:
            for t, spikes in enumerate(s):
                ages[t] = age
                age = next_age(age, spikes)
            ctx.mark_non_differentiable(age)
        ctx.save_for_backward(tested_v, ages, leaking, floored, theta, leak)
        ctx.floor, ctx.update, ctx.surrogate = floor, update, surrogate
        ctx.set_materialize_grads(False)
        return s, v, age, counts

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_s, grad_v, _, grad_counts):
        tested_v, ages, leaking, floored, theta, leak = ctx.saved_tensors
        grad_drive, g = torch.empty_like(tested_v), torch.empty_like(tested_v[0])
        grad_theta, grad_leak = torch.zeros_like(theta), torch.zeros_like(leak)
        each = g.new_zeros(tested_v.shape[:2]) if grad_counts is None else grad_counts
        each = each.view(*each.shape, *[1] * (g.dim() - 1))  # of a spike, by its step and image
        scale = ctx.surrogate.scale / theta  # of v = V/theta - 1
        after = torch.zeros_like(g) if grad_v is None else grad_v
        for t in reversed(range(len(tested_v))):
            if floored is not None:  # V is -floor theta there, whatever it was
                if ctx.needs_input_grad[3]:
                    grad_theta -= ctx.floor * (after * floored[t]).sum()
                after = after.masked_fill(floored[t], 0)
            onto = (
                each[t]
                if grad_s is None
                else grad_s[t]
                if grad_counts is None
                else grad_s[t] + each[t]
            )
            v = torch.div(tested_v[t], theta, out=grad_drive[t]).sub_(1)
            through = ctx.surrogate.onto(onto, v, None if ages is None else ages[t])
            if ctx.needs_input_grad[3]:  # theta in v = V/theta - 1, and in the reset
                grad_theta -= (
                    scale / theta * (through * tested_v[t]).sum()
                    + (after * (tested_v[t] > theta)).sum()
                )
            ctx.update.gradient(after, through, scale, leak, grad_drive[t], g)
            if leaking is not None:
                grad_leak += (grad_drive[t] * leaking[t]).sum()
            after = g
        return grad_drive, g, None, grad_theta, grad_leak, None, None, None


def neuron_steps(neuron, drive, state=None, steps=1):
    """(spikes (steps B, ...), NeuronState, spikes per image (steps, B)) of a SpikingNeuron, for its current drive (steps B, ...),
    one step after the other."""
    drive = drive.to(neuron.threshold.dtype).unflatten(
        0, (steps, -1)
    )  # float32 where matrix products are bfloat16
    v, age = state or neuron.at_rest(drive[0])
    update = UPDATES[neuron.update]
    learns = torch.is_grad_enabled() and any(
        value.requires_grad for value in (drive, v, neuron.threshold, neuron.leak)
    )
    if learns or age is not None:
        age = new_age(v) if age is None and neuron.surrogate.needs_age else age
        own = neuron.threshold, neuron.leak, neuron.floor, update, neuron.surrogate
        spikes, v, age, counts = NeuronSteps.apply(drive, v, age, *own)
    else:
        spikes, v, counts = run_steps(
            drive, v, update, neuron.threshold, neuron.leak, neuron.floor
        )
    return spikes.flatten(0, 1), NeuronState(v, age), counts


def count_events(signal):
    """Sum per image and step, (T, B, ...) -> (T, B) float32: the number of spikes in {0, 1}."""
    return signal.sum(tuple(range(2, signal.dim())), dtype=torch.float32)


def counts_by_layer(run, names, steps):
    """Spikes of these layers in each of the last `steps` steps of a run, (T, B, layers): 0 where a layer did not run."""
    layers = []
    for name in names:
        numbers, pieces = zip(*run.counts[name], strict=True)
        counts, before = torch.cat(pieces), numbers[0][0] - (run.steps - steps)
        layers.append(F.pad(counts, (0, 0, before, steps - before - len(counts))))
    return torch.stack(layers, -1)


def accumulated(logits, drives, leak, at_once):
    """The outputs O after each step, (T, B, labels): O <- leak O + d, for the drives d (T, B, labels). at_once: whether what does
    not leak may be one operation, which rounds otherwise than steps do."""
    if at_once and leak == 1:
        return logits + drives.cumsum(0)
    by_step = []
    for drive in drives:
        logits = (logits if leak == 1 else leak * logits) + drive
        by_step.append(logits)
    return torch.stack(by_step)
