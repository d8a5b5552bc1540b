"""Many timesteps of a layer of spiking neurons, with a gradient written by hand.

It computes what neurons/spiking.py says, in fewer passes over the tensors. In this file
``T`` is the number of timesteps, and ``B`` the number of images. Symbols are those of
docs/explanation/model.md: I current, V membrane potential, s spikes, θ threshold, λ
leak. L is the loss.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from self_models.neurons.spiking import NeuronState, SpikingNeuron, delayed, immediate
from self_models.neurons.surrogates import new_age, next_age
from self_models.running.state import RunState


class Update(NamedTuple):
    """An order of charge, fire and reset, forward and backward, for one timestep.

    Both functions write their results into tensors that the caller gives, and which may
    be the same as their inputs. So operations go element by element, and their order
    matters: nothing may be read behind the operation that writes over it.

    Attributes
    ----------
    step : callable
        ``step(current, v, theta, leak, tested_v, spikes, next_v)`` writes to the last
        three, in this order: ``tested_v`` is the membrane potential that decides on
        ``spikes``, and ``next_v`` the one before the next timestep. ``v``, ``tested_v``
        and ``next_v`` may be one tensor. So V is read for the last time in the
        operation that writes ``tested_v``, and ``tested_v`` in the one that writes
        ``next_v``. All Tensors are of shape (B, ...).
    gradient : callable
        ``gradient(grad_after, grad_spike, scale, leak, grad_current, grad_before)``
        writes to the last two. ``grad_after`` and ``grad_before`` are dL/dV after and
        before the timestep, and may be one tensor. ``scale * grad_spike`` is dL/ds
        ds/dV, of the potential that decides; ``grad_spike`` and ``grad_current`` may be
        one tensor. All Tensors are of shape (B, ...).
    """

    step: Callable
    gradient: Callable


def delayed_step(current, v, theta, leak, tested_v, spikes, next_v) -> None:
    """Fire, then charge and reset.

    s[t] = H(V[t]/θ - 1);   V[t+1] = λ V[t] + I[t] - θ s[t]
    """
    tested_v.copy_(v)  # does nothing if both are one tensor
    torch.gt(tested_v, theta, out=spikes)
    torch.addcmul(current, tested_v, leak, out=next_v).addcmul_(spikes, theta, value=-1)


def delayed_gradient(grad_after, grad_spike, scale, leak, grad_current, grad_before) -> None:
    """Go back through `delayed_step`.

    dL/dI[t] = dL/dV[t+1];   dL/dV[t] = λ dL/dV[t+1] + dL/ds[t] ds/dV[t]
    """
    # Of all inputs, before `grad_current` and `grad_before` may write over them.
    earlier = torch.addcmul(leak * grad_after, grad_spike, scale)
    grad_current.copy_(grad_after)
    grad_before.copy_(earlier)


def immediate_step(current, v, theta, leak, tested_v, spikes, next_v) -> None:
    """Charge, then fire and reset.

    V'[t] = λ V[t-1] + I[t];   s[t] = H(V'[t]/θ - 1);   V[t] = V'[t] - θ s[t]
    """
    torch.addcmul(current, v, leak, out=tested_v)
    torch.gt(tested_v, theta, out=spikes)
    torch.addcmul(tested_v, spikes, theta, value=-1, out=next_v)


def immediate_gradient(grad_after, grad_spike, scale, leak, grad_current, grad_before) -> None:
    """Go back through `immediate_step`.

    dL/dI[t] = dL/dV'[t] = dL/dV[t] + dL/ds[t] ds/dV'[t];   dL/dV[t-1] = λ dL/dV'[t]
    """
    torch.addcmul(grad_after, grad_spike, scale, out=grad_current)
    torch.mul(grad_current, leak, out=grad_before)


UPDATES = {
    delayed: Update(delayed_step, delayed_gradient),
    immediate: Update(immediate_step, immediate_gradient),
}


class SavedSteps(NamedTuple):
    """What the forward pass of a layer keeps for its backward pass.

    Attributes
    ----------
    tested_v : Tensor of shape (T, B, ...), or a list of T Tensors
        The membrane potential that decided on each spike.
    leaking_v : Tensor of shape (T, B, ...) or None
        The membrane potential that the leak multiplied. None if it is not learned.
    floored : Tensor of shape (T, B, ...), bool, or None
        Where V was below its floor after the timestep. None if there is none.
    """

    tested_v: torch.Tensor | Sequence[torch.Tensor]
    leaking_v: torch.Tensor | None
    floored: torch.Tensor | None


def run_steps(
    currents: torch.Tensor,
    v: torch.Tensor,
    update: Update,
    theta: torch.Tensor,
    leak: torch.Tensor,
    floor: float | None = None,
    saved: SavedSteps | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run T timesteps of one layer, without a gradient.

    V lies in one tensor, in which each timestep writes over that of the one before.

    Parameters
    ----------
    currents : Tensor of shape (T, B, ...)
        The current I of each timestep.
    v : Tensor of shape (B, ...)
        V before the first timestep. It is not changed.
    update : Update
        The order of charge, fire and reset.
    theta, leak : Tensor of one value
        Threshold and leak of the layer.
    floor : float or None
        After each timestep V = max(V, -floor θ). None for no bound.
    saved : SavedSteps, optional
        Tensors that are filled for a backward pass; ``floored`` only with a floor. None
        if there will be none.

    Returns
    -------
    spikes : Tensor of shape (T, B, ...)
        0 or 1.
    v : Tensor of shape (B, ...)
        V after the last timestep.
    counts : Tensor of shape (T, B), float32
        Spikes of each image in each timestep.
    """
    spikes = torch.empty_like(currents)
    next_v = torch.empty_like(v)  # V after the timestep that ran last
    if saved is None:
        # Nobody asks for the potentials that decide, so each may lie in next_v until
        # the update has found the spikes, and writes V there: see `Update`.
        saved = SavedSteps(tested_v=[next_v] * len(currents), leaking_v=None, floored=None)
    lowest = None if floor is None else -floor * theta
    steps = zip(currents.unbind(), saved.tested_v, spikes.unbind(), strict=True)
    for t, (current, tested_v, step_spikes) in enumerate(steps):
        if saved.leaking_v is not None:
            saved.leaking_v[t] = v  # a copy, since the update may write over V
        update.step(current, v, theta, leak, tested_v, step_spikes, next_v)
        if saved.floored is not None:
            # Before the clamp: after it, no V lies below the floor.
            torch.lt(next_v, lowest, out=saved.floored[t])
        if floor is not None:
            next_v.clamp_(min=lowest)
        # From the second timestep on V is read from next_v itself, so that of the
        # caller is read once, and never written to.
        v = next_v
    return spikes, v, count_events(spikes)


class NeuronSettings(NamedTuple):
    """What describes a layer of neurons beside its threshold and leak.

    Attributes
    ----------
    floor : float or None
        V does not fall below -floor θ. None for no bound.
    update : Update
        The order of charge, fire and reset.
    surrogate : Surrogate
        Gradient of a spike.
    """

    floor: float | None
    update: Update
    surrogate: Any


class StepsArguments(NamedTuple):
    """One thing of each argument of `NeuronSteps.forward`, in the order of these.

    torch hands over which of them need a gradient, and takes their gradients, by
    position. So the names of the fields are those of the arguments.
    """

    currents: Any
    v: Any
    age: Any
    theta: Any
    leak: Any
    settings: Any


class NeuronSteps(torch.autograd.Function):
    """`run_steps` with a gradient.

    Written by hand, it passes over the tensors less often than one operation after the
    other. For the backward pass it keeps of each timestep only the membrane potential
    that decided, and what a surrogate, a learned leak or a floor needs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        currents: torch.Tensor,
        v: torch.Tensor,
        age: torch.Tensor | None,
        theta: torch.Tensor,
        leak: torch.Tensor,
        settings: NeuronSettings,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Run T timesteps.

        Parameters
        ----------
        ctx : context
            Of the backward pass.
        currents : Tensor of shape (T, B, ...)
            The current I of each timestep.
        v : Tensor of shape (B, ...)
            V before the first timestep.
        age : Tensor of shape (B, ...) or None
            Timesteps since the last spike before it. None if no surrogate asks for it.
        theta, leak : Tensor of one value
            Threshold and leak of the layer.
        settings : NeuronSettings
            What else describes its neurons.

        Returns
        -------
        spikes : Tensor of shape (T, B, ...)
            0 or 1.
        v : Tensor of shape (B, ...)
            V after the last timestep.
        age : Tensor of shape (B, ...) or None
            Timesteps since the last spike after it.
        counts : Tensor of shape (T, B), float32
            Spikes of each image in each timestep. It has a gradient, as ``spikes`` and
            ``v`` do; ``age`` has none.
        """
        learns_leak = StepsArguments(*ctx.needs_input_grad).leak
        has_floor = settings.floor is not None
        saved = SavedSteps(
            tested_v=torch.empty_like(currents),
            leaking_v=torch.empty_like(currents) if learns_leak else None,
            floored=torch.empty_like(currents, dtype=torch.bool) if has_floor else None,
        )
        # It also fills the tensors of `saved`, timestep by timestep.
        spikes, v, counts = run_steps(
            currents, v, settings.update, theta, leak, settings.floor, saved
        )
        ages = None
        if age is not None:
            ages = torch.empty_like(currents)  # before each timestep
            for t, step_spikes in enumerate(spikes):
                ages[t] = age
                age = next_age(age, step_spikes)
            ctx.mark_non_differentiable(age)
        # In the order in which backward() unpacks them.
        ctx.save_for_backward(saved.tested_v, saved.leaking_v, saved.floored, ages, theta, leak)
        ctx.settings = settings
        ctx.set_materialize_grads(False)  # a gradient that nobody computed is None
        return spikes, v, age, counts

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_spikes: torch.Tensor | None,
        grad_v: torch.Tensor | None,
        _: None,
        grad_counts: torch.Tensor | None,
    ) -> StepsArguments:
        """Return the gradient of the loss for each argument of ``forward``.

        It goes from the last timestep to the first. Let u be the potential that decided
        on the spikes of a timestep, and G = dL/dV after that timestep, set to 0 where
        V lay below its floor. With the surrogate ds/dv = scale * shape(v), where
        v = u/θ - 1, timestep t gives

            S = (dL/ds + dL/dcount) shape(u/θ - 1)
            dL/dI and dL/dV before it, by `Update.gradient`, from G and S scale / θ
            dL/dθ -= Σ S u scale / θ²  (θ in v)  + Σ G s  (the reset)
            dL/dθ -= floor Σ dL/dV where V lay below the floor, and became -floor θ
            dL/dλ += Σ dL/dI V, of the V that the leak has multiplied

        with sums over images and neurons.

        Parameters
        ----------
        ctx : context
            Of the forward pass.
        grad_spikes : Tensor of shape (T, B, ...) or None
            dL/ds. It is not changed, and neither are the other two.
        grad_v : Tensor of shape (B, ...) or None
            dL/dV after the last timestep.
        grad_counts : Tensor of shape (T, B) or None
            dL/dcounts: of each spike, by its timestep and image.

        Returns
        -------
        StepsArguments of Tensor or None
            None for what has no gradient.
        """
        tested_v, leaking_v, floored, ages, theta, leak = ctx.saved_tensors
        settings = ctx.settings
        learns_theta = StepsArguments(*ctx.needs_input_grad).theta
        grad_currents = torch.empty_like(tested_v)
        grad_before = torch.empty_like(tested_v[0])  # dL/dV before timestep t
        grad_theta = torch.zeros_like(theta)
        grad_leak = torch.zeros_like(leak)
        scale = settings.surrogate.scale / theta  # ds/du is scale times the surrogate's shape
        # dL/dV after timestep t. That after the last one is autograd's own tensor:
        # nothing below writes into grad_after while it is this one.
        grad_after = torch.zeros_like(grad_before) if grad_v is None else grad_v
        per_image = grad_counts  # (T, B), then (T, B, 1, ...)
        if grad_counts is None:
            per_image = grad_before.new_zeros(tested_v.shape[:2])
        per_image = per_image.view(*per_image.shape, *[1] * (grad_before.dim() - 1))

        for t in reversed(range(len(tested_v))):
            if floored is not None:  # V is -floor θ there, whatever it was
                if learns_theta:
                    grad_theta -= settings.floor * (grad_after * floored[t]).sum()
                grad_after = grad_after.masked_fill(floored[t], 0)  # a new tensor

            # A spike counts itself, and in the number of spikes of its image.
            if grad_spikes is None:
                grad_spike = per_image[t]
            elif grad_counts is None:
                grad_spike = grad_spikes[t]
            else:
                grad_spike = grad_spikes[t] + per_image[t]

            # Until `gradient` fills it below, grad_currents[t] is free memory. It gets
            # u/θ - 1 here, over which onto() may write what it returns, which is S.
            grad_current = grad_currents[t]
            distance = torch.div(tested_v[t], theta, out=grad_current).sub_(1)
            age = None if ages is None else ages[t]
            grad_spike = settings.surrogate.onto(grad_spike, distance, age)

            if learns_theta:  # θ in u/θ - 1, and in the reset
                grad_theta -= (
                    scale / theta * (grad_spike * tested_v[t]).sum()
                    + (grad_after * (tested_v[t] > theta)).sum()
                )
            # From here on grad_spike is lost, where it lies in grad_current.
            settings.update.gradient(
                grad_after,
                grad_spike,
                scale,
                leak,
                grad_current=grad_current,  # written
                grad_before=grad_before,  # written
            )
            if leaking_v is not None:
                grad_leak += (grad_current * leaking_v[t]).sum()
            # Before this timestep is after the one before it: one tensor from here on,
            # which `gradient` then reads and writes over. See `Update`.
            grad_after = grad_before
        # Now it is dL/dV before the first timestep, the gradient of the argument v.
        return StepsArguments(
            currents=grad_currents,
            v=grad_before,
            age=None,
            theta=grad_theta,
            leak=grad_leak,
            settings=None,
        )


def neuron_steps(
    neuron: SpikingNeuron,
    currents: torch.Tensor,
    state: NeuronState | None = None,
    steps: int = 1,
) -> tuple[torch.Tensor, NeuronState, torch.Tensor]:
    """Run timesteps of a layer of neurons, with a gradient if one is needed.

    Without a gradient that is `run_steps`, which keeps nothing for a backward pass.

    Parameters
    ----------
    neuron : SpikingNeuron
        The layer. Its update must be one of ``UPDATES``.
    currents : Tensor of shape (T * B, ...)
        Its current, one timestep after the other.
    state : NeuronState, optional
        The state before: V, and the age, the number of timesteps since each neuron's
        last spike, or None for it. Its tensors are not changed. None for neurons at
        rest.
    steps : int, default 1
        Number of timesteps ``T``.

    Returns
    -------
    spikes : Tensor of shape (T * B, ...)
        0 or 1.
    state : NeuronState
        The state after the last timestep.
    counts : Tensor of shape (T, B), float32
        Spikes of each image in each timestep.
    """
    theta = neuron.threshold
    leak = neuron.leak
    # A threshold, and with it V, is float32 where matrix products are bfloat16.
    currents = currents.to(theta.dtype).unflatten(0, (steps, -1))
    v, age = state or neuron.at_rest(currents[0])
    update = UPDATES[neuron.update]
    learns = torch.is_grad_enabled() and any(
        value.requires_grad for value in (currents, v, theta, leak)
    )
    # A state with an age comes from timesteps with a gradient, of a surrogate that
    # needs one. Timesteps without a gradient carry it on, as only NeuronSteps does.
    if learns or age is not None:
        if age is None and neuron.surrogate.needs_age:  # as if nobody had spiked so far
            age = new_age(v)
        settings = NeuronSettings(neuron.floor, update, neuron.surrogate)
        spikes, v, age, counts = NeuronSteps.apply(currents, v, age, theta, leak, settings)
    else:
        spikes, v, counts = run_steps(currents, v, update, theta, leak, neuron.floor)
    return spikes.flatten(0, 1), NeuronState(v, age), counts


def count_events(signal: torch.Tensor) -> torch.Tensor:
    """Count the spikes of each image in each timestep.

    Parameters
    ----------
    signal : Tensor of shape (T, B, ...), bool, or 0 and 1
        Spikes.

    Returns
    -------
    Tensor of shape (T, B), float32
        Their sums.
    """
    return signal.sum(tuple(range(2, signal.dim())), dtype=torch.float32)


def counts_by_layer(run: RunState, names: Sequence[str], steps: int) -> torch.Tensor:
    """Return the spikes of layers in the last timesteps of a run.

    Parameters
    ----------
    run : RunState
        State after these timesteps. Its ``counts`` have a list for each of these
        layers: pairs of a range of timesteps, by number, and the counts in them, (t,
        B). The ranges follow each other without a gap, and none begins before the T
        timesteps asked for.
    names : sequence of str
        Names of the layers, "input" among them.
    steps : int
        Number of timesteps ``T``.

    Returns
    -------
    Tensor of shape (T, B, num_layers), float32
        0 in timesteps before a layer first ran, or after it last did.
    """
    first_step = run.steps - steps
    layers = []
    for name in names:
        step_ranges, pieces = zip(*run.counts[name], strict=True)
        counts = torch.cat(pieces)
        steps_before = step_ranges[0].start - first_step
        steps_after = steps - steps_before - len(counts)
        layers.append(F.pad(counts, (0, 0, steps_before, steps_after)))  # zeros
    return torch.stack(layers, -1)


def accumulate_logits(
    logits: torch.Tensor, currents: torch.Tensor, leak: float, at_once: bool
) -> torch.Tensor:
    """Return the logits O after each timestep: O <- μ O + W s.

    Parameters
    ----------
    logits : Tensor of shape (B, num_classes)
        O before the first timestep.
    currents : Tensor of shape (T, B, num_classes)
        What arrives in each timestep, W s.
    leak : float, 0 to 1
        The part μ that is kept per timestep; 1 means no leak.
    at_once : bool
        Whether one operation may add up what does not leak. It rounds otherwise than
        timestep by timestep.

    Returns
    -------
    Tensor of shape (T, B, num_classes)
        O after each timestep.
    """
    if at_once and leak == 1:
        return logits + currents.cumsum(0)
    logits_by_step = []
    for current in currents:
        if leak != 1:
            logits = leak * logits
        logits = logits + current
        logits_by_step.append(logits)
    return torch.stack(logits_by_step)
