"""Phased networks: each layer charges for T timesteps, and then fires for T.

What a layer sends in its T timesteps is a quantised activation of T + 1 values (QCFS, Bu et
al., ICLR 2022) as spikes. A setting, ``update="phased"``, chooses it; ``self_models.assembly``
names the two places that the core asks for: the update, and the timing.
"""

from self_models.guests.phased.neurons import PhasedNeuron, PhasedState, phased
from self_models.guests.phased.timing import PhasedTiming

__all__ = ["PhasedNeuron", "PhasedState", "PhasedTiming", "phased"]
