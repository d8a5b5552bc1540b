"""When the layers of a network charge and fire."""

import torch

from self_models import plugins
from self_models.neurons.spiking import SpikingNeuron
from self_models.running.state import GraphState


class EveryTimestep:
    """Every layer charges and fires in each timestep, and the logits grow in each.

    A network asks its timing, an object of this class or of one with the same methods.
    ``model`` is the network, ``run`` its RunState.
    """

    is_phased = False
    plain_neuron = SpikingNeuron  # the class of neurons in networks of an architecture

    def neuron_class(self, model) -> type[SpikingNeuron]:
        """Return the class of the network's layers of neurons."""
        return model.Neuron

    def latency(self, model) -> int:
        """Return how many timesteps pass until an image is answered."""
        return model.timesteps

    def active_input_steps(self, model, steps: int) -> int:
        """Return how many of a run's next timesteps the input may send in."""
        return steps

    def prepare(self, model) -> None:
        """Tell the layers of neurons what they must know of the timing before a run."""

    def initial_state(self, model, image) -> GraphState:
        """Return the state of the layers before the first timestep."""
        return GraphState()

    def output_current(self, model, run, current) -> torch.Tensor:
        """Return what of the last layer's sums (B, labels) the logits take now."""
        return current

    def takes_all_at_once(self, model) -> bool:
        """Return whether all timesteps of an image must run together, if any do."""
        return False

    def why_not_dense(self, model) -> str | None:
        """Return why layers cannot take many timesteps at once, or None."""
        return None

    def interval(self, model) -> int | None:
        """Return the timesteps from one image to the next, if not the latency."""
        return None

    def check(self, model, gate, rule) -> None:
        """Raise ModelError where settings of the network do not go with this timing."""


EVERY_TIMESTEP = EveryTimestep()


def timing_of(update: str) -> EveryTimestep:
    """Return when the layers of a network with this update charge and fire.

    Parameters
    ----------
    update : str
        Name of the order of charge, fire and reset, as ``UPDATES`` has it.

    Returns
    -------
    EveryTimestep
        Or the object of another class that ``plugins.TIMINGS`` names for this update.
    """
    if update not in plugins.TIMINGS:
        return EVERY_TIMESTEP
    timing_class = plugins.load_object(plugins.TIMINGS[update])
    return timing_class()
