"""When the layers of a phased network charge and fire, and what is shown when."""

import torch

from self_models.errors import ModelError
from self_models.neurons.spiking import SpikingNeuron
from self_models.neurons.surrogates import SURROGATES
from self_models.running.phased.many_timesteps import advance_phased
from self_models.running.phased.neurons import PhasedNeuron
from self_models.running.phased.schedule import schedule_of
from self_models.running.state import GraphState
from self_models.running.timing import EveryTimestep


class PhasedTiming(EveryTimestep):
    """A layer charges for T timesteps, while the one before it fires, then fires."""

    is_phased = True
    plain_neuron = PhasedNeuron

    def neuron_class(self, model) -> type[SpikingNeuron]:
        """Return the class of neurons that charge first."""
        return PhasedNeuron

    def latency(self, model) -> int:
        """Return the timesteps until an image is answered: T for each phase."""
        return schedule_of(model.graph).phases * model.timesteps

    def active_input_steps(self, model, steps: int) -> int:
        """Return in how many timesteps, from the first on, the input may send."""
        return min(steps, model.timesteps)

    def prepare(self, model) -> None:
        """Tell each layer in which phase it fires, and how long a phase is."""
        schedule = schedule_of(model.graph)
        for name, neuron in model.neurons().items():
            neuron.fires_in = schedule.depths[name]
            neuron.steps = model.timesteps

    def initial_state(self, model, image) -> GraphState:
        """Return the state of the layers before the first timestep.

        Layers need one only if they are *early* targets: neurons, or an end of the
        graph, to which a skip connection brings spikes in phases before the one in
        which they charge. These spikes count, but not the biases of the skip
        connection, which arrive with them in every timestep. So an early target keeps
        its *zero-input response*, what arrives while no layer sends anything, and
        subtracts it in each timestep of these phases.

        Parameters
        ----------
        model : VGG_SNN_STDB_wFeedback
            The network.
        image : Tensor of shape (B, C, H, W)
            Images of the run; only their number, size and type count.

        Returns
        -------
        GraphState
            Of neurons that are an early target, a PhasedState at rest, which has the
            zero-input response beside V. An end has no V and so no state: for it the
            response stands in ``zero_input_response``, where ``output_current`` reads
            it. Nothing of all other layers.
        """
        graph = model.graph
        neurons = model.neurons()
        state = GraphState()
        early = schedule_of(graph).early
        if not early:
            return state
        silent_outputs = graph.zero_input_response(image)  # of each node: what it sends then
        for name in early:
            if name in graph.ends:
                state.zero_input_response[name] = silent_outputs[name]
            else:
                arriving = graph.node_input(graph.node(name), silent_outputs, previous_outputs={})
                at_rest = neurons[name].at_rest(arriving)
                state.layer_states[name] = at_rest._replace(zero_input_response=arriving)
        return state

    def output_current(self, model, run, current) -> torch.Tensor:
        """Return what of the last layer's sums (B, labels) the logits take now.

        All in the phase in which the layer before fires; without the bias in the phases
        before it; nothing after it.
        """
        turn = run.steps // model.timesteps - schedule_of(model.graph).depths["output"]
        if turn == -1:
            return current
        if turn < -1 and "output" in run.graph_state.zero_input_response:
            return current - run.graph_state.zero_input_response["output"]
        return torch.zeros_like(current)

    def takes_all_at_once(self, model) -> bool:
        """Return True: what a layer sends follows from all that it has got."""
        return True

    def why_not_dense(self, model) -> str | None:
        """Return why layers cannot take many timesteps at once, or None if they can."""
        early_ends = model.graph.ends.keys() & set(schedule_of(model.graph).early)
        if early_ends:
            return "a skip connection leads to an end of a phased network"
        return None

    def interval(self, model) -> int:
        """Return after how many timesteps the next image may begin: a phase."""
        return model.timesteps

    def advance(self, model, run, draws) -> dict:
        """Take all timesteps of a run at once; see ``advance_phased``."""
        return advance_phased(model, run, draws)

    def check(self, model, gate, rule) -> None:
        """Raise ModelError, with all faults, for what a phased network does not have.

        Parameters
        ----------
        model : VGG_SNN_STDB_wFeedback
            The network.
        gate : Gate
            Its gate, as the settings say; ``reacts`` if it looks at predictions.
        rule : Rule
            Its stopping rule, as the settings say; ``stops`` if it may stop an image.
        """
        settings = model.settings
        only_values = {"leak": 1, "output_leak": 1, "membrane_floor": None, "learn_leak": False}
        faults = []
        for name, value in only_values.items():
            if settings[name] != value:
                faults.append(f"{name} must be {value}")
        # A prediction is there only once the input has been sent, so no gate may react
        # to it. Gate "block" with epsilon 0 never blocks a pixel, so it may stay.
        is_inactive_block = settings["gate"] == "block" and not (gate.epsilon or gate.residual)
        if gate.reacts and not is_inactive_block:
            faults.append(
                f"gate {settings['gate']} would react to predictions: "
                "give --gate block --epsilon 0 without --residual"
            )
        if rule.stops:
            faults.append(
                f"rule {settings['rule']} would ask for answers before the last timesteps: "
                "choose never"
            )
        if settings["recorded_frames"] and model.has_feedback:
            faults.append(
                "recordings are predicted when they are over: "
                "choose an architecture without feedback"
            )
        make_surrogate = SURROGATES.find(settings["activation"])
        surrogate = make_surrogate(settings["alpha"], settings["beta"])
        if surrogate.needs_age:
            faults.append(
                f"activation {settings['activation']} needs the time since a spike: choose Linear"
            )
        # Neurons of a model's own class would be replaced by PhasedNeuron
        if model.Neuron is not SpikingNeuron:
            faults.append(
                f"neurons of {type(model).__name__} are {model.Neuron.__name__}, "
                "and must be its own"
            )
        if faults:
            raise ModelError(f"update phased: {'; '.join(faults)}")
