"""Stopping rules (objective 2): whether an image may stop after a timestep.

An image may stop because its input is predicted, or because the network is sure of the
class. In this file ``B`` is the number of images.
"""

import math
from dataclasses import dataclass

import torch

from self_models.errors import ModelError
from self_models.running.outputs import share_of_active
from self_models.running.state import RunState
from self_models.settings import Number, Registry, objective_setting

RULES = Registry("rule", keeps_all=True)
ANY = Number(float)


def output_gap(logits: torch.Tensor) -> torch.Tensor:
    """Return the margin between the two largest logits.

    Parameters
    ----------
    logits : Tensor of shape (B, num_classes)
        Output of the network.

    Returns
    -------
    Tensor of shape (B,), >= 0
        Largest minus second largest logit, in units of the output.
    """
    largest, second = logits.topk(2).values.unbind(1)
    return largest - second


def output_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the normalised entropy of ``softmax(logits)``.

    DT-SNN (Li et al., DAC 2023) stops by this measure.

    Parameters
    ----------
    logits : Tensor of shape (B, num_classes)
        Output of the network.

    Returns
    -------
    Tensor of shape (B,), 0 to 1
        Entropy divided by its largest value, ``log(num_classes)``: 0 is sure.
    """
    num_classes = logits.shape[1]
    log_probabilities = logits.log_softmax(1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
    return entropy / math.log(num_classes)


@RULES.register("never")
@dataclass
class Never:
    """No early exit: every image takes all timesteps.

    Attributes
    ----------
    stops : bool
        Whether images can stop under this rule.
    looks_at_input : bool
        Whether the rule asks which input neurons are open, which needs a gate that
        blocks.
    compares_classes : bool
        Whether the rule compares the logits of several classes, so that a network of
        one class cannot have it.
    """

    stops = False
    looks_at_input = False
    compares_classes = False


class Rule(Never):
    """Base class of the rules by which an image stops. Derive your own from it."""

    stops = True

    def holds(self, run: RunState) -> torch.Tensor:
        """Return which images may stop after this timestep.

        Parameters
        ----------
        run : RunState
            State after the timestep, without the neurons' states. Its ``logits`` are
            summed over the timesteps so far.

        Returns
        -------
        Tensor of shape (B,), bool
            Whether the rule holds.
        """
        raise ModelError(f"rule {type(self).__name__} needs a method holds(run)")


RULES.base = Rule


@RULES.register("all_predicted")
@dataclass
class AllPredicted(Rule):
    """Stop once the input is predicted.

    Attributes
    ----------
    open_bound : float
        Largest share of the active (non-zero) pixels that may still be open.
    """

    open_bound: float = objective_setting(
        0.0,
        ANY,
        "all_predicted: largest share of non-zero pixels still open",
        group="stopping",
        tried=(0.0, 0.05, 0.1, 0.2),
    )
    looks_at_input = True

    def holds(self, run: RunState) -> torch.Tensor:
        """Return whether the open share of active pixels is at most ``open_bound``."""
        return share_of_active(run.view.is_open, run.image) <= self.open_bound


@RULES.register("confidence")
@dataclass
class Confidence(Rule):
    """Stop once the largest logit leads clearly.

    Attributes
    ----------
    gap_bound : float
        Smallest margin between the two largest logits, in units of the output.
    """

    gap_bound: float = objective_setting(
        8.0,
        ANY,
        "confidence: smallest margin of the two largest logits",
        group="stopping",
        tried=(2.0, 4.0, 8.0, 16.0),
        common=True,
    )
    compares_classes = True

    def holds(self, run: RunState) -> torch.Tensor:
        """Return whether the margin is at least ``gap_bound``."""
        return output_gap(run.logits) >= self.gap_bound


@RULES.register("entropy")
@dataclass
class Entropy(Rule):
    """Stop once the entropy of the outputs is low.

    Attributes
    ----------
    entropy_bound : float
        Largest normalised entropy, from 0 (sure) to 1.
    """

    entropy_bound: float = objective_setting(
        0.05,
        ANY,
        "entropy: largest normalised entropy of the outputs",
        group="stopping",
        tried=(0.2, 0.05, 0.01, 0.001),
    )
    compares_classes = True

    def holds(self, run: RunState) -> torch.Tensor:
        """Return whether the entropy is at most ``entropy_bound``."""
        return output_entropy(run.logits) <= self.entropy_bound


@RULES.register("both")
@dataclass
class Both(AllPredicted, Confidence):
    """Stop once `AllPredicted` and `Confidence` both hold."""

    def holds(self, run: RunState) -> torch.Tensor:
        """Return whether both rules hold."""
        is_predicted = AllPredicted.holds(self, run)
        is_confident = Confidence.holds(self, run)
        return is_predicted & is_confident
