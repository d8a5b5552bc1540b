"""Objective 2, adaptive number of steps: an image stops as soon as a rule holds. See objectives/stopping.py."""

from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


class AdaptiveTimestepsSNN(InputBlockingSNN):
    """Input blocking, and each image stops after the first step at which its rule holds, or after T steps.

    Raises ModelError for an unknown rule, a rule on predictions in an architecture without feedback, and as InputBlockingSNN
    does."""

    defaults = {"gate": "block", "rule": "all_predicted"}  # noqa: RUF012
    objective = "adaptive_timesteps"  # in the records
