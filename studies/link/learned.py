"""Synapses of the competition that gradients set, on the beginning of a film."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from self_models.running.draws import seed_for
from studies.link.matching import BlockCosts, to_side
from studies.link.shifts import Shifts

EVIDENCE = 5  # kinds of evidence for a shift, see `evidence_of`
UPDATES = 200  # of training, one frame each
RATE = 0.02  # of Adam
START_SPREAD = 0.05  # standard deviation of the synapses around the wired start


def evidence_of(now: BlockCosts, earlier: BlockCosts, share_held: torch.Tensor) -> torch.Tensor:
    """Put together what speaks for and against each shift in each block.

    Parameters
    ----------
    now, earlier : BlockCosts
        Of this frame and of the one before, for blocks of one side: (S, R, C).
    share_held : Tensor of shape (S, R, C), 0 to 1
        The part of a block that has had this shift.

    Returns
    -------
    Tensor of shape (S, 5, R, C)
    """
    kinds = [now.misses, now.costs, earlier.misses, earlier.costs, share_held]
    return torch.stack(kinds, 1)


class LearnedSynapses(nn.Module):
    """From the evidence in 3 x 3 blocks to the potential of a shift in the middle one.

    All shifts share the synapses. So synapses that were trained with whole pixels serve
    half pixels, too.

    Parameters
    ----------
    sides : tuple of int
        Of the blocks. Each side has synapses of its own.
    price, coupling : float
        Of the wired competition, from which training begins.
    """

    def __init__(self, sides: tuple[int, ...], price: float, coupling: float):
        super().__init__()
        self.of_side = nn.ModuleDict()
        for side in sides:
            synapses = nn.Conv2d(EVIDENCE, 1, 3, padding=1)
            with torch.no_grad():
                synapses.weight.normal_(0, START_SPREAD)
                synapses.weight[0, 1] += coupling / 8
                synapses.weight[0, 1, 1, 1] += 1 - coupling / 8
                synapses.weight[0, 4, 1, 1] -= price
                synapses.bias.fill_(price)
            self.of_side[str(side)] = synapses

    def forward(self, evidence: torch.Tensor, side: int) -> torch.Tensor:
        """Return the learned cost of each shift in each block.

        Parameters
        ----------
        evidence : Tensor of shape (S, 5, R, C)
        side : int
            Of the blocks, in pixels.

        Returns
        -------
        Tensor of shape (S, R, C)
            In events. The neuron's potential begins at minus this.
        """
        return self.of_side[str(side)](evidence)[:, 0]

    def count_products(self, evidence: torch.Tensor) -> int:
        """Count the multiply-adds: 3 x 3 synapses for each number of the evidence."""
        return 9 * evidence.numel()


@dataclass
class Example:
    """A frame to learn from.

    Attributes
    ----------
    now, earlier : BlockCosts
        What the receiver knows, for the smallest blocks.
    held : Tensor of shape (R, C), int64
        The shift that each of the smallest blocks had before.
    following : Tensor of shape (S, R, C)
        What each shift costs in the frame that comes next.
    """

    now: BlockCosts
    earlier: BlockCosts
    held: torch.Tensor
    following: torch.Tensor


def train_synapses(
    synapses: LearnedSynapses, examples: list[Example], shifts: Shifts, seed: int
) -> None:
    """Train synapses so that the shifts that they choose cost little at the next frame.

    What falls is the mean cost of the following frame over all blocks, expected over a
    softmax of the potentials.

    Parameters
    ----------
    synapses : LearnedSynapses
        Are trained in place.
    examples : list of Example
    shifts : Shifts
    seed : int
        Of the order of the frames.
    """
    draw = np.random.default_rng(seed_for(seed, "order of frames"))
    optimizer = torch.optim.Adam(synapses.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    for _ in range(UPDATES):
        example = examples[draw.integers(len(examples))]
        loss = torch.zeros(())
        for name in synapses.of_side:
            loss = loss + expected_cost(synapses, example, shifts, int(name))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def expected_cost(
    synapses: LearnedSynapses, example: Example, shifts: Shifts, side: int
) -> torch.Tensor:
    """Return what the shifts that synapses prefer would cost at the next frame.

    Parameters
    ----------
    synapses : LearnedSynapses
        Return learned costs (S, R, C). A neuron's potential is minus its learned cost,
        so the shift of least learned cost is the most likely choice.
    example : Example
    shifts : Shifts
    side : int
        Of the blocks, in pixels.

    Returns
    -------
    Tensor of shape ()
        In events: the mean over the blocks, expected over a softmax of the potentials.
        Gradients lead to the synapses.
    """
    share_held = held_shares(example.held, len(shifts), side)
    now = example.now.at_side(side)
    earlier = example.earlier.at_side(side)
    learned_costs = synapses(evidence_of(now, earlier, share_held), side)

    chance_of_choice = (-learned_costs).softmax(0)
    cost_at_next_frame = to_side(example.following, side)
    return (chance_of_choice * cost_at_next_frame).sum(0).mean()


def held_shares(held: torch.Tensor, num_shifts: int, side: int) -> torch.Tensor:
    """Return of each block and shift the share of its area that has this shift.

    Parameters
    ----------
    held : Tensor of shape (R, C), int64
        The shift of each of the smallest blocks.
    num_shifts : int
    side : int
        Of the blocks, in pixels.

    Returns
    -------
    Tensor of shape (S, rows of blocks, columns of blocks), 0 to 1
    """
    shares = torch.zeros(num_shifts, *held.shape).scatter_(0, held[None], 1)
    return to_side(shares, side) / to_side(torch.ones(1, *held.shape), side)
