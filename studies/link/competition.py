"""A competition of shifts, in spikes: in each block one neuron for each shift.

    cost of a shift in a block            inhibits   the shift's neuron of this block
    mean cost in the 8 blocks around it   inhibits   the same neuron, less
    a drive that rises with time          excites    all neurons
    the first neuron to spike             silences   the other neurons of its block,
                                          excites    those of its shift around it

So a block whose evidence is clear decides early, and wins over neighbours in doubt.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

TIMESTEPS = 32
STEPS_TO_DOUBLE = 3  # timesteps in which the drive doubles
NOT_DECIDED = -1


@dataclass
class Race:
    """How a competition went.

    Attributes
    ----------
    winner : Tensor of shape (R, C), int64
        The shift that spiked first in each block, -1 where none did.
    spikes : int
        Of all blocks.
    updates : int
        How often a neuron's potential rose: each neuron, until its block had decided.
    """

    winner: torch.Tensor
    spikes: int
    updates: int


def around(maps: torch.Tensor) -> torch.Tensor:
    """Return the mean of the 8 blocks around each block, of maps (K, R, C).

    At a border there are fewer, and the mean is over those.
    """
    sums = F.avg_pool2d(maps[None], 3, 1, 1, divisor_override=1)[0] - maps
    one = torch.ones_like(maps[:1])
    count = F.avg_pool2d(one[None], 3, 1, 1, divisor_override=1)[0] - one
    return sums / count.clamp(min=1)


def shared_drive(step: int, at_the_end: float) -> float:
    """Return the excitation that all neurons have received by a timestep.

    It doubles every few timesteps. So the first ones tell small costs apart, which is
    where shifts compete closely, and the last ones still reach large costs.
    """
    return at_the_end * 2 ** ((step + 1 - TIMESTEPS) / STEPS_TO_DOUBLE)


def race(potentials: torch.Tensor, recruitment: float, at_the_end: float) -> Race:
    """Let the neurons of each block race to the threshold, which is 0.

    Parameters
    ----------
    potentials : Tensor of shape (S, R, C)
        Of each shift's neuron in each block at the start: minus its cost, in events.
    recruitment : float
        What a spike adds to the neurons of the same shift in the 8 blocks around, in
        events.
    at_the_end : float
        The drive of the last timestep, in events: blocks whose cost is larger decide
        nothing.

    Returns
    -------
    Race
    """
    potentials = potentials.clone()
    num_shifts, rows, columns = potentials.shape
    winner = torch.full((rows, columns), NOT_DECIDED)
    updates = 0
    for step in range(TIMESTEPS):
        undecided = winner == NOT_DECIDED
        updates += num_shifts * int(undecided.sum())
        # Of several neurons that spike in one timestep the one farthest above wins.
        highest, leader = potentials.max(0)
        decides = undecided & (highest + shared_drive(step, at_the_end) >= 0)
        winner = torch.where(decides, leader, winner)
        if recruitment and decides.any():
            recruit(potentials, decides, leader, recruitment)
    return Race(winner, int((winner != NOT_DECIDED).sum()), updates)


def recruit(
    potentials: torch.Tensor, decides: torch.Tensor, leader: torch.Tensor, recruitment: float
) -> None:
    """Excite the neurons of the same shift in the blocks around those that decide."""
    _, rows, columns = potentials.shape
    row, column = decides.nonzero(as_tuple=True)
    shift = leader[decides]
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if (down, right) == (0, 0):
                continue
            is_inside = (
                (row + down >= 0)
                & (row + down < rows)
                & (column + right >= 0)
                & (column + right < columns)
            )
            place = (shift[is_inside], row[is_inside] + down, column[is_inside] + right)
            excitation = torch.full(place[0].shape, recruitment)
            potentials.index_put_(place, excitation, accumulate=True)
