"""Objective 2, adaptive number of timesteps: an image stops as soon as a rule holds.

See ``feedback/stopping.py``.
"""

from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


class AdaptiveTimestepsSNN(InputBlockingSNN):
    """An SNN that blocks its input, and stops each image when a rule holds.

    It is an InputBlockingSNN with the rule ``all_predicted`` by default. An image stops
    after the first timestep at which the rule holds, or after T timesteps.

    Attributes
    ----------
    defaults : dict
        Settings whose defaults differ from those of the base class.
    objective : str
        Name of the class in records.

    Raises
    ------
    ModelError
        For an unknown rule, for a rule on predictions in an architecture without a
        decoder, and as InputBlockingSNN does.
    """

    defaults = {"gate": "block", "rule": "all_predicted"}  # noqa: RUF012
    objective = "adaptive_timesteps"
