"""Objective 3, implicit attention through contrast: what is not yet explained gains contrast. See objectives/contrast.py."""

from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


class ContrastAttentionSNN(InputBlockingSNN):
    """The SNN with the gate `contrast`. Raises ModelError for an unknown rule, and as InputBlockingSNN does."""

    defaults = {"gate": "contrast"}  # noqa: RUF012
    objective = "contrast_attention"  # in the records
