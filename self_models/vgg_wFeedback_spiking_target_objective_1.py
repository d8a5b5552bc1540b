"""Objective 1, input blocking: an input neuron whose pixel is predicted stops spiking.

Which pixels these are is decided by the gate; see ``feedback/gates.py``.
"""

from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


class InputBlockingSNN(VGG_SNN_STDB_wFeedback):
    """An SNN whose gate blocks the pixels that are predicted within epsilon.

    It is a VGG_SNN_STDB_wFeedback with the gate ``block`` by default.

    Attributes
    ----------
    defaults : dict
        Settings whose defaults differ from those of the base class.
    objective : str
        Name of the class in records.

    Raises
    ------
    ModelError
        Where epsilon is negative, or above 0 for an architecture without a decoder.
    """

    defaults = {"gate": "block"}  # noqa: RUF012
    objective = "input_blocking"
