"""Neurons as NIR files have them.

Those of the core with constants of a file, neurons without a threshold, and those of
other simulators for which NIR has no word.
"""

from typing import NamedTuple

import torch

from self_models.neurons.spiking import NeuronState, Spike, SpikingNeuron, delayed
from self_models.neurons.surrogates import Surrogate


class Constants(NamedTuple):
    """What the equations of a NIRNeuron have beside threshold and leak.

    With the defaults they are those of SpikingNeuron. A tensor has a value for each
    neuron.

    Attributes
    ----------
    gain, drive : float or Tensor
        The current gain I[t] + drive charges V.
    reset : float, Tensor or None
        V after a spike; None subtracts the threshold.
    synapse_leak : float, Tensor or None
        Share of the synapse's current that a timestep keeps; None without a synapse.
    synapse_gain : float or Tensor
        By which what arrives is added to the synapse's current.
    start : float, Tensor or None
        V before the first timestep; None is initial_potential * threshold.
    """

    gain: float | torch.Tensor = 1.0
    drive: float | torch.Tensor = 0.0
    reset: float | torch.Tensor | None = None
    synapse_leak: float | torch.Tensor | None = None
    synapse_gain: float | torch.Tensor = 1.0
    start: float | torch.Tensor | None = None


class NIRState(NamedTuple):
    """State of one layer between timesteps.

    Attributes
    ----------
    v, age : Tensor (B, ...)
        As in NeuronState.
    current : Tensor (B, ...) or None
        That of the synapse; None without one.
    """

    v: torch.Tensor
    age: torch.Tensor | None = None
    current: torch.Tensor | None = None


class NIRNeuron(SpikingNeuron):
    """One layer of neurons with the constants that a NIR file may give.

    What arrives, a[t], is the current I[t]; or, with a synapse, it adds to it:

        I[t] = synapse_leak * I[t-1] + synapse_gain * a[t]

    Then the update of SpikingNeuron charges V by gain * I[t] + drive. With a reset,
    V = reset where a neuron has spiked. The constants are those of `Constants`.

    Parameters
    ----------
    surrogate : Surrogate
        Gradient of a spike.
    update : str
        As SpikingNeuron has it.
    **settings
        The others of SpikingNeuron.
    """

    may_be_negative = False  # whether thresholds may be: spike() then divides by their size

    def __init__(self, surrogate: Surrogate, update: str, **settings):
        super().__init__(surrogate, update, **settings)
        self.set_constants(Constants())

    def set_constants(self, constants: Constants) -> None:
        """Set the constants, as attributes that are not in the state_dict."""
        numbers = []
        for name, value in constants._asdict().items():
            vars(self).pop(name, None)  # a number becomes a tensor, or the reverse
            self._buffers.pop(name, None)
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value, persistent=False)
            else:
                setattr(self, name, value)
                numbers.append(value)
        self.numbers = tuple(numbers)  # by which a change is noticed, see fingerprint()

    @property
    def constants(self) -> Constants:
        """The constants, see set_constants()."""
        return Constants(*(getattr(self, name) for name in Constants._fields))

    @property
    def takes_as_is(self) -> bool:
        """Whether what arrives is the current that charges V."""
        if self.synapse_leak is not None:
            return False
        if isinstance(self.gain, torch.Tensor) or isinstance(self.drive, torch.Tensor):
            return False
        return self.gain == 1 and self.drive == 0

    @property
    def rest(self) -> float | torch.Tensor:
        """V before the first timestep."""
        if self.start is None:
            return super().rest
        return self.start

    def at_rest(self, current: torch.Tensor) -> NIRState:
        """Return the state before the first timestep, for a current (B, ...)."""
        nothing = torch.zeros_like(current)
        v = nothing
        if self.start is not None or self.initial_potential:
            v = nothing + self.rest
        synapse = None if self.synapse_leak is None else nothing
        return NIRState(v, current=synapse)

    def forward(
        self, current: torch.Tensor, state: NIRState | None = None
    ) -> tuple[torch.Tensor, NIRState]:
        """Run one timestep, see `SpikingNeuron.forward`.

        In this order: the synapse makes a current of what arrives; the current charges
        V, and neurons fire where V is above the threshold; V is reset there.

        Parameters
        ----------
        current : Tensor of shape (B, ...)
            What arrives, a[t].
        state : NIRState or None
            Of the timestep before; None for neurons at rest.

        Returns
        -------
        spikes : Tensor of shape (B, ...)
            0 or 1.
        state : NIRState
            Its ``age`` counts on as SpikingNeuron does it.
        """
        arriving = current.to(self.threshold.dtype)  # matrix products may be bfloat16
        v, age, synapse = state or self.at_rest(arriving)
        charge, synapse = self.received(arriving, synapse)
        # The class above charges, fires, subtracts the threshold from the V of neurons
        # that have fired, and keeps V above its floor. With a reset to a value that V
        # is replaced, where a neuron has fired.
        spikes, (v, age) = super().forward(charge, NeuronState(v, age))
        if self.reset is not None:
            v = torch.where(spikes > 0, self.after_spike(charge), v)
            v = self.floored(v)  # the value itself may lie below the floor
        return spikes, NIRState(v, age, synapse)

    def received(
        self, current: torch.Tensor, synapse: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the current that charges V, and the synapse's, of what arrives."""
        if synapse is not None:
            synapse = self.synapse_leak * synapse + self.synapse_gain * current
            current = synapse
        if not self.takes_as_is:
            current = self.gain * current + self.drive
        return current, synapse

    def after_spike(self, current: torch.Tensor) -> float | torch.Tensor:
        """Return V after a spike, where there is a reset."""
        if self.update is delayed:  # this timestep's current arrives behind the reset
            return self.reset + current
        return self.reset

    def spike(
        self, v: torch.Tensor, theta: torch.Tensor, age: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the spikes, of thresholds below 0, too: see `SpikingNeuron.spike`."""
        if not self.may_be_negative:
            return super().spike(v, theta, age)
        size = torch.where(theta == 0, 1, theta.abs())
        return Spike.apply((v - theta) / size, age, self.surrogate)


class Integrator(NIRNeuron):
    """Neurons without a threshold (LI, I, CubaLI), which send V in each timestep."""

    fires = False

    def forward(
        self, current: torch.Tensor, state: NIRState | None = None
    ) -> tuple[torch.Tensor, NIRState]:
        """Run one timestep, see `SpikingNeuron.forward`; what is sent is V."""
        v, age, synapse = state or self.at_rest(current)
        current, synapse = self.received(current, synapse)
        v = self.leak * v + current
        return v, NIRState(v, age, synapse)


class AsElsewhere(NIRNeuron):
    """Neurons with a reset for which NIR has no word, as other simulators have them.

    Below, ``V' = leak V + I`` is the potential once a timestep has charged it, and
    ``R = H(V > theta)`` whether the neuron was above its threshold before that. An
    attribute says which reset it has; with none of them, V is never reset.

    Attributes
    ----------
    several : bool
        A spike for each threshold in V', as in sinabs:
        ``s = floor(V' / theta)``, at most ``most``, and ``V = V' - theta s``.
    most : int or None
        The largest s; None for no limit.
    subtracts : bool
        snnTorch's reset "subtract", of which ``reset_delay`` says when. True: in the
        timestep after a spike, ``V = V' - theta R`` and ``s = H(V > theta)``. False:
        at once, ``s = H(V' - theta R > theta)`` and ``V = V' - theta s``.
    whole : bool
        snnTorch's reset "zero" of Synaptic and RLeaky with reset_delay:
        ``V = (1 - R) V'``, so what arrives behind a spike is lost.
    reset_delay : bool
        See ``subtracts``.
    """

    subtracts = False
    reset_delay = False
    several = False
    most: int | None = None
    whole = False

    def forward(
        self, current: torch.Tensor, state: NIRState | None = None
    ) -> tuple[torch.Tensor, NIRState]:
        """Run one timestep, see `SpikingNeuron.forward`.

        Parameters
        ----------
        current : Tensor of shape (B, ...)
            What arrives: spikes of other layers, as the weights deliver them.
        state : NIRState or None
            Of the timestep before; None for neurons at rest.

        Returns
        -------
        spikes : Tensor of shape (B, ...)
            0 or 1; with ``several`` 0, 1, 2 and so on.
        state : NIRState
            V after the reset, and not below ``membrane_floor`` if there is one.
        """
        # The age, timesteps since the last spike, stays None: the surrogate of neurons
        # of files does not ask for it.
        v, age, synapse = state or self.at_rest(current)
        # With a synapse, its current charges V; without, what arrives, times the gain.
        current, synapse = self.received(current, synapse)
        charged = self.leak * v + current  # V' in the class's docstring
        if self.several:
            spikes, v = self.fire_several(charged)
        else:
            spikes, v = self.fire_and_reset(v, charged, age)
        return spikes, NIRState(self.floored(v), age, synapse)

    def fire_several(self, charged: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fire as in sinabs: a spike for each threshold in V'.

        With theta = 1 and V' = 2.3 there are 2 spikes, and V is 0.3 after them.

        Parameters
        ----------
        charged : Tensor of shape (B, ...)
            V'.

        Returns
        -------
        spikes : Tensor of shape (B, ...)
            0, 1, 2 and so on.
        v : Tensor of shape (B, ...)
            V after the timestep.
        """
        theta = self.threshold
        spikes = (charged / theta).floor().clamp(0, self.most)
        return spikes, charged - spikes * theta

    def fire_and_reset(
        self, v: torch.Tensor, charged: torch.Tensor, age: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fire as in snnTorch, with the reset that the attributes of the class say.

        Before V is compared with theta, it is reset for having been above theta when
        the timestep began. With ``reset_delay`` that is all. Without, the reset of
        ``subtracts`` is then exchanged for one of this timestep's own spikes. For
        ``subtracts`` and theta = 1:

            V before, R    V'     V' - R    s    V with reset_delay    V without
            0.5       0    1.2    1.2       1    1.2                   0.2
            1.2       1    1.7    0.7       0    0.7                   1.7

        Parameters
        ----------
        v : Tensor of shape (B, ...)
            V before this timestep.
        charged : Tensor of shape (B, ...)
            V' = leak V + I.
        age : Tensor of shape (B, ...) or None
            Timesteps since the last spike, for the surrogate.

        Returns
        -------
        spikes : Tensor of shape (B, ...)
            0 or 1.
        v : Tensor of shape (B, ...)
            V after the timestep.
        """
        theta = self.threshold
        was_above = (v > theta).to(v.dtype)  # R, which has no gradient
        if self.subtracts:
            tested_v = charged - was_above * theta
        elif self.whole:
            tested_v = charged - was_above * charged  # 0, with what has just arrived
        else:
            tested_v = charged  # never reset
        spikes = self.spike(tested_v, theta, age)
        if self.subtracts and not self.reset_delay:
            # V' - theta s = (V' - theta R) - theta (s - R). As in snnTorch, the reset
            # has no gradient of its own: s is detached, and R has none.
            return spikes, tested_v - (spikes.detach() - was_above) * theta
        return spikes, tested_v
