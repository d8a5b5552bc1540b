"""Objective 3, implicit attention through contrast.

What is not predicted yet gains contrast; see ``feedback/contrast.py``.
"""

from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


class ContrastAttentionSNN(InputBlockingSNN):
    """An SNN whose gate gives pixels more contrast until they are predicted.

    It is an InputBlockingSNN with the gate ``contrast`` by default.

    Attributes
    ----------
    defaults : dict
        Settings whose defaults differ from those of the base class.
    objective : str
        Name of the class in records.

    Raises
    ------
    ModelError
        For an unknown contrast rule, and as InputBlockingSNN does.
    """

    defaults = {"gate": "contrast"}  # noqa: RUF012
    objective = "contrast_attention"
