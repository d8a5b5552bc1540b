"""Predictors of the next frame, for `run_link`: each call is one frame.

A predictor that works at the sender compares copies of the last rebuilt frame with the
frame that is to be sent, and sends the shifts that it finds. One that works at the
receiver compares copies of the rebuilt frame before the last with the last one, and
sends nothing: each block moves on as it last moved.
"""

from dataclasses import dataclass, field

import torch

from studies.link.competition import NOT_DECIDED, Race, around, race
from studies.link.learned import LearnedSynapses, evidence_of, held_shares
from studies.link.matching import (
    EVENT,
    SMALLEST,
    TIE,
    BlockCosts,
    Candidates,
    ChangedBlocks,
    best_shifts,
    choose_shifts,
    match_costs,
)
from studies.link.shifts import Shifts

IMPOSSIBLE = 1e6  # cost of a candidate that is none
NEIGHBOURS = 8
BOTH_SIDES = 2  # sender and receiver compute the same


@dataclass
class Report:
    """What a predictor did for one frame.

    Attributes
    ----------
    changes : list of ChangedBlocks
        The blocks that have a new shift. At the sender each is an event.
    additions : int
        Subtractions, comparisons and synapses that a spike reaches, too.
    multiply_adds : int
        Of learned synapses.
    spikes : int
        Of the competition.
    """

    changes: list[ChangedBlocks] = field(default_factory=list)
    additions: int = 0
    multiply_adds: int = 0
    spikes: int = 0

    def num_changes(self) -> int:
        """Return how many blocks have a new shift."""
        return sum(int(blocks.changed.sum()) for blocks in self.changes)


class SendOnDelta:
    """Predict that nothing changes: a pixel is sent when it has changed by epsilon."""

    at_sender = False

    def __call__(self, seen: torch.Tensor, frame: torch.Tensor) -> tuple[torch.Tensor, Report]:
        """Return the last rebuilt frame. See `run_link` for the arguments."""
        return seen[:, 0], Report()


class BestShift:
    """Shift the last frame as a whole, as the last two rebuilt frames agree best.

    Parameters
    ----------
    epsilon : float
    reach : int
        Largest shift, in pixels.
    """

    at_sender = False

    def __init__(self, epsilon: float, reach: int = 6):
        self.epsilon = epsilon
        self.shifts = Shifts(reach)

    def __call__(self, seen: torch.Tensor, frame: torch.Tensor) -> tuple[torch.Tensor, Report]:
        """Return the last frame, shifted as a whole.

        The shift is the one that best makes the last frame of the frame before it. The
        frame that is to be sent is not used, so both sides of the link find the same
        shift. See `run_link` for the arguments; B is 1.
        """
        last, before = seen[0]
        found = match_costs(self.shifts, before, last, self.epsilon)
        of_frame = found.costs.sum((1, 2), keepdim=True)
        best = best_shifts(of_frame, self.shifts.lengths)
        prediction = torch.cat(self.shifts.copies(last))[best.item()]
        additions = additions_of_search(self.shifts, last, found)
        return prediction[None], Report(additions=BOTH_SIDES * additions)


@dataclass
class Motion:
    """How a predictor finds the motion of blocks.

    Attributes
    ----------
    method : {"matching", "coupling", "competition", "learned"}
        The shift of least cost; the same, the neighbours' costs included; the spiking
        competition; that with learned synapses.
    at_sender : bool
        Whether the sender finds and sends the shifts, else both sides find them.
    held : bool
        Whether each frame begins with the shifts of the frame before, else with none.
    sides : tuple of int
        Sides of the blocks, in pixels: of 4, 8 and 16.
    half_pixels : bool
    reach : int
        Largest shift, in pixels.
    price : float
        Of a change, in events, for choosing shifts. At the sender it is 1.
    coupling : float
        What the mean cost of the 8 blocks around adds to a block's own cost.
    recruitment : float
        What a spike adds to the same shift in the 8 blocks around, in events.
    """

    method: str = "matching"
    at_sender: bool = False
    held: bool = True
    sides: tuple[int, ...] = (8,)
    half_pixels: bool = False
    reach: int = 6
    price: float = EVENT
    coupling: float = 0.0
    recruitment: float = 0.0


class MotionPredictor:
    """Shift each block of the last rebuilt frame by a shift of its own.

    It keeps the shifts from frame to frame, so each film needs a new one.

    Parameters
    ----------
    motion : Motion
    epsilon : float
        Of the link.
    synapses : LearnedSynapses, optional
        Of the method "learned".

    Attributes
    ----------
    chosen : Tensor of shape (R, C), int64
        The shift of each of the smallest blocks in the last frame, None before.
    found : BlockCosts
        What each shift cost in the last call, None before.
    """

    def __init__(self, motion: Motion, epsilon: float, synapses: LearnedSynapses | None = None):
        self.motion = motion
        self.at_sender = motion.at_sender
        self.epsilon = epsilon
        self.synapses = synapses
        self.shifts = Shifts(motion.reach, motion.half_pixels)
        self.chosen = None
        self.found = None

    def __call__(self, seen: torch.Tensor, frame: torch.Tensor) -> tuple[torch.Tensor, Report]:
        """Find a shift for each block, and return the last frame, shifted by them.

        The shifts and their costs are kept for the next call.

        Parameters
        ----------
        seen : Tensor of shape (1, 2, H, W)
            The last rebuilt frame, and the one before.
        frame : Tensor of shape (1, H, W)
            The one that is to be sent. Only a predictor at the sender looks at it.

        Returns
        -------
        prediction : Tensor of shape (1, H, W)
        report : Report
        """
        last, before = seen[0]
        if self.motion.at_sender:
            # Which shifts of the last frame make the one that is to be sent?
            reference = last
            target = frame[0]
        else:
            # Which shifts of the frame before have made the last one?
            reference = before
            target = last
        found = match_costs(self.shifts, reference, target, self.epsilon)
        report = Report(additions=additions_of_search(self.shifts, target, found))

        held = self.held_shifts(found)
        candidates = self._find_candidates(found, held, report)
        chosen, changes = choose_shifts(held, found.costs, candidates, self.motion.price)
        report.changes = changes
        self.chosen = chosen
        self.found = found
        if not self.motion.at_sender:
            # Sender and receiver each have to find the shifts.
            report.additions *= BOTH_SIDES
            report.multiply_adds *= BOTH_SIDES
            report.spikes *= BOTH_SIDES
        return self.shifts.take(last, self.chosen, SMALLEST)[None], report

    def held_shifts(self, found: BlockCosts) -> torch.Tensor:
        """Return the shifts (R, C) with which the smallest blocks begin a frame."""
        if self.chosen is not None and self.motion.held:
            return self.chosen
        return torch.full(found.costs.shape[1:], self.shifts.zero)

    def _find_candidates(
        self, found: BlockCosts, held: torch.Tensor, report: Report
    ) -> dict[int, Candidates]:
        """Propose a shift for each block of each size, and count what that took."""
        candidates = {}
        for side in self.motion.sides:
            of_blocks = found.at_side(side)
            share_held = held_shares(held, len(self.shifts), side)
            if self.motion.method == "matching":
                shift = best_shifts(of_blocks.costs, self.shifts.lengths)
            else:
                if self.motion.method == "learned":
                    costs = self._learned_costs(of_blocks, share_held, side, report)
                else:
                    costs = self._coupled_costs(of_blocks, share_held, report)
                shift = self._decide(costs, side, report)
            is_proposed = shift != NOT_DECIDED
            shift = shift.clamp(min=0)
            cost = of_blocks.costs.gather(0, shift[None])[0]
            candidates[side] = Candidates(shift, cost.where(is_proposed, IMPOSSIBLE))
        return candidates

    def _coupled_costs(
        self, found: BlockCosts, share_held: torch.Tensor, report: Report
    ) -> torch.Tensor:
        """Return the costs (S, R, C), the price of a change and neighbours included."""
        costs = found.costs + self.motion.price * (1 - share_held)
        if self.motion.coupling:
            costs = costs + self.motion.coupling * around(costs)
            report.additions += NEIGHBOURS * costs.numel()
        return costs

    def _learned_costs(
        self, found: BlockCosts, share_held: torch.Tensor, side: int, report: Report
    ) -> torch.Tensor:
        """Return the costs (S, R, C) that the learned synapses make of the evidence."""
        earlier = found if self.found is None else self.found.at_side(side)
        evidence = evidence_of(found, earlier, share_held)
        report.multiply_adds += self.synapses.count_products(evidence)
        return self.synapses(evidence, side)

    def _decide(self, costs: torch.Tensor, side: int, report: Report) -> torch.Tensor:
        """Return a shift for each block, by least cost or by the race of spikes.

        Parameters
        ----------
        costs : Tensor of shape (S, R, C)
            Of each shift in each block, in events.
        side : int
            Of the blocks, in pixels.
        report : Report
            What the race computes is added to it.

        Returns
        -------
        Tensor of shape (R, C), int64
            -1 where no neuron reached its threshold.
        """
        if self.motion.method == "coupling":
            return best_shifts(costs, self.shifts.lengths)
        potentials = -costs - TIE * self.shifts.lengths[:, None, None]
        # A block in which every pixel is missed costs up to 1.6 events a pixel, so with
        # twice its pixels nearly every block decides.
        outcome = race(potentials, self.motion.recruitment, at_the_end=2 * side**2)
        self._count_race(outcome, report)
        return outcome.winner

    def _count_race(self, outcome: Race, report: Report) -> None:
        """Add the spikes and additions of a race to a report."""
        neurons_reached = len(self.shifts)  # a spike silences those of its block
        if self.motion.recruitment:
            neurons_reached += NEIGHBOURS
        report.spikes += outcome.spikes
        report.additions += outcome.updates + neurons_reached * outcome.spikes


def additions_of_search(shifts: Shifts, frame: torch.Tensor, found: BlockCosts) -> int:
    """Count what it takes to compare a frame (H, W) with all copies.

    For each pixel and shift a subtraction, a comparison with epsilon, and the adding up
    of the difference; each miss is added up, too. A half pixel in one direction is one
    addition for each pixel, in both directions it is two.
    """
    additions = 3 * frame.numel() * len(shifts) + int(found.misses.sum())
    for down, right in shifts.fractions:
        additions += frame.numel() * (bool(down) + bool(right))
    return additions
