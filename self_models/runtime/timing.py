"""When the layers of a network charge and fire."""

from self_models import assembly
from self_models.layers.neurons import SpikingNeuron


class EveryTimestep:
    """Every layer charges and fires in each timestep, and the logits grow in each.

    A network asks its timing, an object of this class or of one with the same methods.
    ``model`` is the network, ``run`` its RunState.
    """

    is_phased = False
    plain_neuron = SpikingNeuron  # the class of neurons in networks of an architecture

    def neuron_class(self, model):
        """Return the class of the network's layers of neurons."""
        return model.Neuron

    def latency(self, model) -> int:
        """Return how many timesteps pass until an image is answered."""
        return model.timesteps

    def active_input_steps(self, model, steps: int) -> int:
        """Return how many of a run's next timesteps the input may send in."""
        return steps

    def initial_memory(self, model, image) -> dict:
        """Return what layers remember before the first timestep, by name of the layer."""
        return {}

    def output_current(self, model, run, current):
        """Return what of the last layer's sums (B, labels) the logits take now."""
        return current

    def takes_all_at_once(self, model) -> bool:
        """Return whether all timesteps of an image must run together, if any do."""
        return False

    def why_not_dense(self, model) -> str | None:
        """Return why layers cannot take many timesteps at once, or None where they can."""
        return None

    def interval(self, model) -> int | None:
        """Return the timesteps from one image to the next where they are not the latency."""
        return None

    def check(self, model, gate, rule) -> None:
        """Raise ModelError where settings of the network do not go with this timing."""


EVERY_TIMESTEP = EveryTimestep()


def timing_of(update: str):
    """Return the timing of networks with this update, a name in ``UPDATES``."""
    place = assembly.TIMINGS.get(update)
    if place is None:
        return EVERY_TIMESTEP
    return assembly.found(place)()
