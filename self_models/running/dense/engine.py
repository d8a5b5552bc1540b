"""The dense engine: many timesteps of a layer at once, between two predictions."""

from self_models.running.dense.neuron_steps import UPDATES as MANY_STEP_UPDATES
from self_models.running.dense.run import advance, fold_decoder


class DenseEngine:
    """Takes many timesteps of each layer as one batch.

    It gives the results of the network's ``step()`` timestep by timestep, faster.
    Training and evaluation run on it unless the network has parts of somebody's own. A
    run makes one of its own.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    x : Tensor of shape (B, C, H, W)
        Images of the run; only their number and size count.

    Attributes
    ----------
    nodes : list of Node
        The nodes of the network's graph as this run takes them: linear layers of the
        decoder may be folded into one.
    """

    fold_decoder = staticmethod(fold_decoder)  # the ANN folds its decoder, too

    def __init__(self, model, x):
        self.nodes = model.graph.nodes
        if model.has_feedback and not model.timing.is_phased:  # a phased decoder runs only once
            # Folding pays from some number of signals on. An evaluation decides as for
            # one, so that rounding does not depend on the batch, nor on pieces of a
            # stream.
            signals = len(x) * model.timesteps if model.training else 1
            decoded = model.graph.ends["decoded"]
            self.nodes = fold_decoder(self.nodes, decoded, signals, x.shape[2:])

    @staticmethod
    def supports(model) -> str | None:
        """Return None if a network can run here, else what the engine does not know."""
        if model.is_custom:
            return f"methods or hooks of this {type(model).__name__}"
        if model.unknown_part:
            return model.unknown_part
        reason = model.timing.why_not_dense(model)
        if reason:
            return reason
        if model.timing.is_phased:
            return None
        for name, neuron in model.neurons().items():
            if neuron.update not in MANY_STEP_UPDATES:
                return f"the update of {name}"
        return None

    def run(self, model, run, draws) -> dict:
        """Run timesteps of a network.

        Parameters
        ----------
        model : VGG_SNN_STDB_wFeedback
            The network.
        run : RunState
            State before these timesteps. It is changed.
        draws : Tensor of shape (T, B, C, H, W), 0 to 1
            Uniform samples for the input encoding.

        Returns
        -------
        dict of {str: Tensor of shape (T, B, ...)}
            Their outputs, with frames. The docstring of ``running/loop.py`` lists the
            keys.
        """
        if model.timing.is_phased:
            return model.timing.advance(model, run, draws)
        return advance(model, run, draws, self.nodes)

    def refresh(self) -> None:
        """Do nothing: each run takes the weights as they are."""
