"""Stopping rules: whether an image may stop after a step, because it is predicted or the network is sure.

holds(run) -> (B,) bool for the RunState after a step, without its memory.
"""

import math
from dataclasses import dataclass

from self_models.basics.settings import Number, Registry, objective_setting
from self_models.running.outputs import share_of_active

RULES = Registry("rule", keeps_all=True)
ANY = Number(float)


def output_gap(logits):
    """Margin of the two largest logits, in units of the output (B,)."""
    best, second = logits.topk(2).values.unbind(1)
    return best - second


def output_entropy(logits):
    """Entropy of softmax(logits) as a part of its largest value, 0 (sure) to 1 (B,) (as in DT-SNN, Li et al., DAC 2023)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1) / math.log(logits.shape[1])


@RULES.register("never")
@dataclass
class Never:
    """Every image takes all T steps."""

    stops = looks_at_input = False


class Rule(Never):
    """A rule after which images stop: derive one from it, with holds(run). looks_at_input: whether it asks what of the input is
    open, which needs a gate that blocks."""

    stops = True


RULES.base = Rule


@RULES.register("all_predicted")
@dataclass
class AllPredicted(Rule):
    """The share of active (non-zero) input pixels still open is at most open_bound."""

    open_bound: float = objective_setting(
        0.0,
        ANY,
        "all_predicted: largest share of non-zero pixels still open",
        group="stopping",
        tried=(0.0, 0.05, 0.1, 0.2),
    )
    looks_at_input = True

    def holds(self, run):
        return share_of_active(run.view.is_open, run.image) <= self.open_bound


@RULES.register("confidence")
@dataclass
class Confidence(Rule):
    """The margin of the two largest logits is at least gap_bound."""

    gap_bound: float = objective_setting(
        8.0,
        ANY,
        "confidence: smallest margin of the two largest logits",
        group="stopping",
        tried=(2.0, 4.0, 8.0, 16.0),
        common=True,
    )

    def holds(self, run):
        return output_gap(run.logits) >= self.gap_bound


@RULES.register("entropy")
@dataclass
class Entropy(Rule):
    """The entropy of the outputs, 0 to 1, is at most entropy_bound."""

    entropy_bound: float = objective_setting(
        0.05,
        ANY,
        "entropy: largest normalised entropy of the outputs",
        group="stopping",
        tried=(0.2, 0.05, 0.01, 0.001),
    )

    def holds(self, run):
        return output_entropy(run.logits) <= self.entropy_bound


@RULES.register("both")
@dataclass
class Both(AllPredicted, Confidence):
    """all_predicted and confidence."""

    def holds(self, run):
        return AllPredicted.holds(self, run) & Confidence.holds(self, run)
