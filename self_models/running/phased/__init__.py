"""Phased networks: each layer charges for T timesteps, and then fires for T.

What a layer sends in its T timesteps is a quantised activation of T + 1 values (QCFS,
Bu et al., ICLR 2022) as spikes. A network of a QCFS ANN answers as the ANN does, but
late: after T timesteps for each layer.

To the core this folder adds an update, ``update="phased"`` (``neurons.py``), a timing
that says when layers charge and fire (``timing.py``) by the phase of each
(``schedule.py``), and a faster way to run it (``many_timesteps.py``).
``self_models.plugins`` names the two places that the core asks for: the update, and
the timing.

Not supported are leaks, bounds of the membrane potential, neurons and surrogates of
one's own, early exit, gates that react to predictions, recordings with feedback, and
streams. ``PhasedTiming.check`` refuses them.
"""

from self_models.running.phased.neurons import PhasedNeuron, PhasedState, phased
from self_models.running.phased.timing import PhasedTiming

__all__ = ["PhasedNeuron", "PhasedState", "PhasedTiming", "phased"]
