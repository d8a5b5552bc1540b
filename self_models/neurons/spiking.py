"""Spiking neurons: one timestep of a layer in plain PyTorch.

Charge: the membrane potential V takes the layer's current W a[t]. Fire:
s = H(V/theta - 1), H(0) = 0. Reset: theta is subtracted where a neuron has spiked (soft
reset). autograd differentiates all this through a surrogate gradient; a reset's spike
carries none.

The engines, which run by default, have these equations in forms of their own: change
them there, too. CONTRIBUTING.md names the files, and tests/self_models/test_models.py
says which of them differs. A neuron of your own: docs/how_to/extend.md.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from self_models import plugins
from self_models.errors import ModelError
from self_models.neurons.surrogates import Surrogate, new_age, next_age
from self_models.settings import FRACTION, POSITIVE, PROBABILITY, Registry, required


class NeuronState(NamedTuple):
    """State of one layer between timesteps; neurons of one's own have one of their own.

    Attributes
    ----------
    v : Tensor of shape (B, ...)
        Membrane potential, which the named tuples of other neurons have, too.
    age : Tensor of shape (B, ...) or None
        Timesteps since the last spike; None where no surrogate asks for it.
    """

    v: torch.Tensor
    age: torch.Tensor | None = None


# An update is a function of (current, v, theta, leak, spike) as those here. It returns
# the spikes of a timestep and the membrane potential after it.
UPDATES = Registry("update")


@UPDATES.register("delayed")
def delayed(
    current: torch.Tensor,
    v: torch.Tensor,
    theta: torch.Tensor,
    leak: torch.Tensor,
    spike: Callable,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fire, then charge and reset: each layer delays by one timestep.

        s[t] = H(V[t]/theta - 1);   V[t+1] = leak V[t] + I[t] - theta s[t]

    ``s[t]`` reads V before I[t] arrives (Rathi et al., ICLR 2020).

    Parameters
    ----------
    current : Tensor of shape (B, ...)
        I[t], the input current.
    v : Tensor of shape (B, ...)
        V[t], the membrane potential before the timestep.
    theta : Tensor, above 0
        The threshold, in the unit of V and I.
    leak : Tensor, 0 to 1
        Share of V that is kept in a timestep; 1: no leak.
    spike : callable
        ``spike(v, theta)`` returns H(V/theta - 1), with a surrogate gradient.

    Returns
    -------
    spikes : Tensor of shape (B, ...)
        s[t], 0 or 1.
    v : Tensor of shape (B, ...)
        V[t+1].
    """
    s = spike(v, theta)
    return s, leak * v + current - theta * s.detach()


@UPDATES.register("immediate")
def immediate(
    current: torch.Tensor,
    v: torch.Tensor,
    theta: torch.Tensor,
    leak: torch.Tensor,
    spike: Callable,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Charge, then fire and reset: depth costs no timesteps.

        V'[t] = leak V[t-1] + I[t];   s[t] = H(V'[t]/theta - 1)
        V[t] = V'[t] - theta s[t]

    Parameters
    ----------
    current, v, theta, leak, spike
        As of `delayed`; ``v`` is V[t-1].

    Returns
    -------
    spikes : Tensor of shape (B, ...)
        s[t], 0 or 1.
    v : Tensor of shape (B, ...)
        V[t].
    """
    v = leak * v + current
    s = spike(v, theta)
    return s, v - theta * s.detach()


UPDATES.offer(plugins.UPDATES)  # those are imported when they are chosen


class Spike(torch.autograd.Function):
    """Heaviside step ``s = H(v)``, with a surrogate in place of its gradient ds/dv."""

    @staticmethod
    def forward(
        ctx, v: torch.Tensor, age: torch.Tensor | None, surrogate: Surrogate
    ) -> torch.Tensor:
        """Return 1 where v is above 0, else 0.

        Parameters
        ----------
        ctx : context of autograd
            Keeps what ``backward`` needs.
        v : Tensor of shape (B, ...)
            V/theta - 1.
        age : Tensor of shape (B, ...) or None
            Timesteps since the last spike. None if the surrogate does not ask for it.
        surrogate : Surrogate
            What replaces the gradient.

        Returns
        -------
        Tensor of shape (B, ...)
            The spikes, in the type of v.
        """
        ctx.save_for_backward(v, age)
        ctx.surrogate = surrogate
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient with respect to v. The other two have none."""
        v, age = ctx.saved_tensors
        surrogate = ctx.surrogate
        # `onto` may write into the v that it is given.
        return surrogate.scale * surrogate.onto(gradient, v.clone(), age), None, None


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
        Share of V that a timestep keeps; 1: no leak. A Parameter, too.
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

    def __init__(  # noqa: PLR0913 - each is a setting, and users' classes hand them on by name
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
        current : Tensor of shape (B, ...)
            What arrives, as the layer's weights deliver it.
        state : NeuronState or None
            Of the timestep before; None for neurons at rest.

        Returns
        -------
        spikes : Tensor of shape (B, ...)
            0 or 1.
        state : NeuronState
        """
        current = current.to(self.threshold.dtype)  # float32 where matrix products are bfloat16
        if state is None:
            self._check_threshold(current.shape)
            state = self.at_rest(current)
        v, age = state
        if self.surrogate.needs_age and age is None and torch.is_grad_enabled():
            age = new_age(v)
        spike = partial(self.spike, age=age)
        spikes, v = self.update(current, v, self.threshold, self.leak, spike)
        if age is not None:
            age = next_age(age, spikes)
        return spikes, NeuronState(self.floored(v), age)

    def _check_threshold(self, shape: torch.Size) -> None:
        """Raise ModelError if the threshold does not fit neurons (B, ...)."""
        threshold = tuple(self.threshold.shape)
        try:
            fits = torch.broadcast_shapes(threshold, shape) == shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ModelError(
                f"a threshold of shape {threshold} does not fit neurons of shape "
                f"{tuple(shape[1:])}: one for each channel has shape (C, 1, 1)"
            )

    def spike(
        self, v: torch.Tensor, theta: torch.Tensor, age: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the spikes s = H(V/theta - 1), with the surrogate's gradient.

        Parameters
        ----------
        v : Tensor of shape (B, ...)
            Membrane potential.
        theta : Tensor
            Threshold.
        age : Tensor of shape (B, ...) or None
            See `NeuronState`.

        Returns
        -------
        Tensor of shape (B, ...)
            0 or 1.
        """
        return Spike.apply(v / theta - 1, age, self.surrogate)

    def floored(self, v: torch.Tensor) -> torch.Tensor:
        """Return max(V, -floor theta)."""
        if self.floor is None:
            return v
        lowest = -self.floor * self.threshold
        return torch.where(v < lowest, lowest, v)


class SpikingLayers:
    """What a network, which is a Module, offers of all its spiking layers."""

    def neurons(self) -> dict[str, SpikingNeuron]:
        """Return the spiking layers by name: encoder, decoder, classifier."""
        neurons = {}
        for name, module in self.named_modules():
            if isinstance(module, SpikingNeuron):
                neurons[name] = module
        return neurons

    @property
    def thresholds(self) -> list[float]:
        """Threshold of each spiking layer: encoder, decoder, classifier."""
        return [neuron.threshold.item() for neuron in self.neurons().values()]

    @torch.no_grad()
    def set_thresholds(self, thresholds: Sequence[float]) -> None:
        """Set the threshold of each spiking layer.

        Parameters
        ----------
        thresholds : sequence of float, above 0
            In the order encoder, decoder, classifier.

        Raises
        ------
        ModelError
            If they are no numbers, their number is wrong, or a value is not above 0.
            Nothing is set then.
        """
        neurons = self.neurons()
        try:
            thresholds = [float(value) for value in thresholds]
        except (TypeError, ValueError):
            raise ModelError(
                f"thresholds must be {len(neurons)} numbers, one for each spiking layer, "
                f"not {thresholds!r}"
            ) from None
        if len(thresholds) != len(neurons):
            raise ModelError(
                f"{len(thresholds)} thresholds given for {len(neurons)} spiking layers: "
                f"{', '.join(neurons)}"
            )
        if not all(value > 0 for value in thresholds):
            raise ModelError(f"thresholds must be above 0: {thresholds}")
        for neuron, value in zip(neurons.values(), thresholds, strict=True):
            neuron.threshold.fill_(value)

    @torch.no_grad()
    def set_leak(self, leak: float) -> None:
        """Set the leak of every spiking layer.

        Parameters
        ----------
        leak : float, 0 to 1
            Share of the membrane potential that is kept in a timestep; 1: no leak.

        Raises
        ------
        ModelError
            If the value is out of this range.
        """
        leak = required(FRACTION, "leak", leak)
        for neuron in self.neurons().values():
            neuron.leak.fill_(leak)

    @torch.no_grad()
    def clamp_dynamics(self) -> None:
        """Bring learned thresholds and leaks back into their range.

        Call it after each optimiser step. What is not learned stays as it is.
        """
        for neuron in self.neurons().values():
            if neuron.threshold.requires_grad:
                neuron.threshold.clamp_(min=1e-2)
            if neuron.leak.requires_grad:
                neuron.leak.clamp_(0, 1)


class CountingMaxPool(nn.MaxPool2d):
    """A maximum pool of spike counts.

    A spike passes where the highest count in a window rises. So after each timestep as
    many have passed as the window's busiest neuron has sent. This is the maximum of the
    rates, as in the ANN. The logical or of the spikes would send more, wherever two
    neurons take turns. At most one spike passes in a timestep, since a count rises by
    at most 1.

    (Rueckauer et al., Front. Neurosci. 2017, let spikes of the neuron pass whose
    estimated rate is the highest.)
    """

    def forward(
        self, spikes: torch.Tensor, counts: torch.Tensor | None = None, steps: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let spikes pass.

        Parameters
        ----------
        spikes : Tensor of shape (steps B, C, H, W)
            Of one timestep after the other.
        counts : Tensor of shape (B, C, H, W) or None
            Spikes of each neuron in the timesteps before. None for no timesteps.
        steps : int, default 1
            How many timesteps these are.

        Returns
        -------
        passed : Tensor of shape (steps B, C, H / 2, W / 2)
            Spikes that pass.
        counts : Tensor of shape (B, C, H, W)
            Spikes of each neuron, these included.
        """
        highest = None  # count of each window so far
        if counts is not None:
            highest = super().forward(counts)
        passed = []
        for step_spikes in spikes.chunk(steps):
            counts = step_spikes if counts is None else counts + step_spikes
            highest_before = highest
            highest = super().forward(counts)
            rise = highest if highest_before is None else highest - highest_before
            passed.append(rise)
        return torch.cat(passed), counts


class HeldDropout(nn.Module):
    """Dropout whose mask is drawn once for each image, and held for all timesteps.

    Parameters
    ----------
    p : float, 0 to 1
        Share of the values that are dropped in training.
    layer : int
        Its number among the network's dropouts. Masks follow from it.
    """

    def __init__(self, p: float, layer: int = 0):
        super().__init__()
        self.p = p
        self.layer = layer

    def new_mask(
        self, draws, shape: Sequence[int], device: torch.device | str
    ) -> torch.Tensor | None:
        """Draw the mask of a batch.

        Parameters
        ----------
        draws : Draws
            Random numbers of the batch's images.
        shape : sequence of int
            Of the signal of an image.
        device : torch.device or str
            Where the mask is to lie.

        Returns
        -------
        Tensor of shape (B, *shape) or None
            Factors on the signal. None where nothing is dropped, as in evaluation.
        """
        if not self.training or not self.p:
            return None
        return draws.mask(self.layer, self.p, shape, device)

    def forward(
        self, signal: torch.Tensor, mask: torch.Tensor | None = None, steps: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Drop values of a signal.

        Parameters
        ----------
        signal : Tensor of shape (steps B, ...)
            Of one timestep after the other.
        mask : Tensor of shape (B, ...) or None
            Of `new_mask`. None drops nothing.
        steps : int, default 1
            How many timesteps these are.

        Returns
        -------
        signal : Tensor of shape (steps B, ...)
            The signal, times the mask.
        mask : Tensor of shape (B, ...) or None
            The same, for the timesteps that follow.
        """
        if mask is None:
            return signal, None
        by_step = signal.unflatten(0, (steps, -1))
        return (by_step * mask.to(signal.dtype)).flatten(0, 1), mask
