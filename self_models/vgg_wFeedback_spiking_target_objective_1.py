"""Objective 1, input blocking: an input neuron whose pixel is predicted within epsilon stops spiking. See objectives/gates.py."""

from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


class InputBlockingSNN(VGG_SNN_STDB_wFeedback):
    """The SNN with the gate `block`. Raises ModelError where epsilon is negative, or above 0 for an architecture without
    feedback."""

    defaults = {"gate": "block"}  # noqa: RUF012
    objective = "input_blocking"  # in the records
