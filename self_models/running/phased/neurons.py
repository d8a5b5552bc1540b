"""Neurons that charge in one phase, and fire in the next."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from self_models.neurons.spiking import SpikingNeuron

CHARGES = -1  # the turn in which a layer adds up what arrives
FIRES = 0  # the turn in which it fires, and nothing arrives any more


def phased(
    current: torch.Tensor,
    v: torch.Tensor,
    theta: torch.Tensor,
    leak: torch.Tensor,
    spike: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    turn: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one timestep of a layer in a phase of its network.

    A layer charges for T timesteps, while the one before it fires, and then fires for
    T:

        charges:  V += I[t]
        fires:    s[t] = H(V / theta - 1);   V -= theta s[t]

    With V = V0 + the sum of I at the end of its charging phase it sends ``n =
    clip(ceil(V / theta) - 1, 0, T)`` spikes; at V = n theta exactly one fewer than n.
    This is a quantised activation of T levels (QCFS, Bu et al., ICLR 2022) as spikes.
    What is left of V is dropped.

    Parameters
    ----------
    current : Tensor of shape (B, ...)
        Input current I of this timestep.
    v : Tensor of shape (B, ...)
        Membrane potential V.
    theta : Tensor
        Threshold, in the unit of V.
    leak : Tensor
        Not used: nothing leaks. All updates take the same arguments.
    spike : callable
        ``spike(v, theta)`` returns the spikes, with the surrogate's gradient.
    turn : int
        Phases since the one in which the layer fires: below 0 it charges, at 0 it
        fires, and above 0 it does neither. wfeedback/event/c does the same.

    Returns
    -------
    spikes : Tensor of shape (B, ...)
        0 or 1.
    v : Tensor of shape (B, ...)
        V after the timestep.
    """
    spikes = torch.zeros_like(v)
    if turn < 0:
        v = v + current
    elif turn == 0:
        spikes = spike(v, theta)
        v = v - theta * spikes.detach()
    return spikes, v


class PhasedState(NamedTuple):
    """State of one layer between timesteps.

    Attributes
    ----------
    v : Tensor of shape (B, ...)
        Membrane potential.
    step : int
        Timesteps of the run so far.
    zero_input_response : Tensor of shape (B, ...) or None
        What arrives in a timestep while nothing is sent: biases. None where nothing
        arrives before the phase in which the layer charges.
    """

    v: torch.Tensor
    step: int = 0
    zero_input_response: torch.Tensor | None = None


class PhasedNeuron(SpikingNeuron):
    """One layer of spiking neurons with the update "phased".

    Phases have numbers from 0 on. Skip connections may bring spikes before the phase in
    which the layer charges. Those count, but not the biases that come with them.

    Attributes
    ----------
    fires_in : int
        Number of the phase in which the layer fires: its depth in the graph. It charges
        in the phase before.
    steps : int
        Timesteps of a phase. The network's timing sets both.
    """

    fires_in = 1
    steps = 1
    charges_first = True

    def at_rest(self, current: torch.Tensor) -> PhasedState:
        """Return the state before the first timestep, for a current (B, ...)."""
        return PhasedState(super().at_rest(current).v)

    def forward(
        self, current: torch.Tensor, state: PhasedState | None = None
    ) -> tuple[torch.Tensor, PhasedState]:
        """Run one timestep of the phase in which the network is.

        A phase is ``self.steps`` timesteps. In phase ``fires_in - 1`` the layer charges
        (turn -1), in phase ``fires_in`` it fires (turn 0), and then it rests.

        Parameters
        ----------
        current : Tensor of shape (B, ...)
            What arrives, with the biases of the layers that bring it.
        state : PhasedState or None
            Of the timestep before; None for neurons at rest.

        Returns
        -------
        spikes : Tensor of shape (B, ...)
            0 or 1; 0 in all phases but one.
        state : PhasedState
        """
        current = current.to(self.threshold.dtype)  # float32 where products are bfloat16
        v, step, zero_input_response = state or self.at_rest(current)
        phase = step // self.steps
        turn = phase - self.fires_in
        # Before the layer charges, spikes may come by a skip connection. These count,
        # and V adds them up. The biases that come with them are those of silent
        # timesteps, and do not: PhasedTiming.initial_state() has put their sum into
        # the state, or None where no skip connection leads, so that nothing counts.
        is_early = turn < CHARGES
        if is_early and zero_input_response is None:
            current = torch.zeros_like(v)
        elif is_early:
            current = current - zero_input_response
        spikes, v = self.update(current, v, self.threshold, self.leak, self.spike, turn)
        return spikes, PhasedState(v, step + 1, zero_input_response)

    def fired(self, drive: torch.Tensor, steps: int) -> torch.Tensor:
        """Return all spikes of a layer, from all that it has been charged with.

        A layer charges for T timesteps, a phase, and then fires for T. While it
        charges, only the sum of what arrives matters, so it gets that sum at once.

        Parameters
        ----------
        drive : Tensor of shape (B, ...)
            The sum of all currents that arrive before it fires: in its charging phase,
            and by skip connections in phases before that.
        steps : int
            Timesteps T of a phase.

        Returns
        -------
        Tensor of shape (T B, ...)
            Spikes of its firing phase, one timestep after the other. They are those of
            ``forward``, called in each timestep.
        """
        drive = drive.to(self.threshold.dtype)  # float32 where matrix products are bfloat16
        constants = (self.threshold, self.leak, self.spike)
        v = self.at_rest(drive).v
        # update() is `phased` of this file: V += drive, and no spike, while it charges
        _, v = self.update(drive, v, *constants, turn=CHARGES)
        spikes = []
        for _ in range(steps):
            # While it fires a current is ignored. It is given since there must be one.
            spikes_now, v = self.update(drive, v, *constants, turn=FIRES)
            spikes.append(spikes_now)
        return torch.cat(spikes)
