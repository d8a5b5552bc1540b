"""Block matching: what each shift would cost in each block, and what the blocks choose.

The smallest blocks have a side of 4 pixels. A map of blocks has one number for each.
Larger blocks, of 8 or 16 pixels, are made of 4 smaller ones each.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from studies.link.shifts import Shifts

SMALLEST = 4  # side of the smallest blocks, in pixels
LARGEST = 16
SIDES = (4, 8, 16)  # of blocks, each of four of the size before
DIFFERENCE = 0.6  # what a whole range of grey, missing in one pixel, adds to the cost
EVENT = 1.0  # what a pixel that is sent costs
TIE = 1e-3  # of equal costs the shorter shift wins: cost of a pixel's length


def block_sums(pixels: torch.Tensor) -> torch.Tensor:
    """Add up the pixels (K, H, W) of each of the smallest blocks.

    The frame is filled up with zeros to whole blocks of the largest size. The sums are
    made row by row and column by column, which takes a fifth of the time of a pooling.

    Returns
    -------
    Tensor of shape (K, rows of blocks, columns of blocks)
    """
    height, width = pixels.shape[1:]
    below = -height % LARGEST
    beside = -width % LARGEST
    if below or beside:
        pixels = F.pad(pixels, (0, beside, 0, below))
    count, height, width = pixels.shape
    rows = pixels.view(count, height // SMALLEST, SMALLEST, width)
    sums = rows[:, :, 0] + rows[:, :, 1] + rows[:, :, 2] + rows[:, :, 3]
    columns = sums.view(count, height // SMALLEST, width // SMALLEST, SMALLEST)
    return columns[..., 0] + columns[..., 1] + columns[..., 2] + columns[..., 3]


def coarser(blocks: torch.Tensor) -> torch.Tensor:
    """Add up maps (K, R, C) of blocks for blocks of twice the side."""
    return F.avg_pool2d(blocks[None], 2)[0] * 4


def to_side(blocks: torch.Tensor, side: int) -> torch.Tensor:
    """Add up maps of the smallest blocks (K, R, C) for blocks of a larger side."""
    while side > SMALLEST:
        blocks = coarser(blocks)
        side //= 2
    return blocks


@dataclass
class BlockCosts:
    """What each shift costs in each block.

    Attributes
    ----------
    misses : Tensor of shape (S, R, C)
        Pixels that would be missed.
    costs : Tensor of shape (S, R, C)
        In events: the misses, plus 0.6 times the sum of the differences.
    """

    misses: torch.Tensor
    costs: torch.Tensor

    def at_side(self, side: int) -> "BlockCosts":
        """Return the same for blocks of a larger side than the smallest."""
        return BlockCosts(to_side(self.misses, side), to_side(self.costs, side))


def match_costs(
    shifts: Shifts, reference: torch.Tensor, target: torch.Tensor, epsilon: float
) -> BlockCosts:
    """Compute what each shift of a reference would cost in each of the smallest blocks.

    Parameters
    ----------
    shifts : Shifts
    reference : Tensor of shape (H, W)
        The frame that is shifted.
    target : Tensor of shape (H, W)
        The frame that it should become.
    epsilon : float
        A pixel is missed where copy and target differ by so much or more; 1 is the
        range from black to white.

    Returns
    -------
    BlockCosts
    """
    # One group of copies (K, H, W) at a time, which fits into the processor's cache.
    misses = []
    costs = []
    for copies in shifts.copies(reference):
        differences = (copies - target).abs_()
        # As bytes, of which 16 in a block add up without overflow, and quickly.
        is_missed = (differences >= epsilon).view(torch.uint8)
        missed = block_sums(is_missed).float()
        misses.append(missed)
        costs.append(missed + DIFFERENCE * block_sums(differences))
    return BlockCosts(torch.cat(misses), torch.cat(costs))


def best_shifts(costs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the shift of least cost in each block; of equal ones the shorter.

    Parameters
    ----------
    costs : Tensor of shape (S, R, C)
    lengths : Tensor of shape (S,)

    Returns
    -------
    Tensor of shape (R, C), int64
    """
    return (costs + TIE * lengths[:, None, None]).argmin(0)


@dataclass
class Candidates:
    """A new shift for each block of one size.

    Attributes
    ----------
    shift : Tensor of shape (R, C), int64
    cost : Tensor of shape (R, C)
        What it costs in its block, without the price of the change.
    """

    shift: torch.Tensor
    cost: torch.Tensor


@dataclass
class ChangedBlocks:
    """The blocks of one size that change their shift.

    Attributes
    ----------
    side : int
        Of a block, in pixels.
    changed : Tensor of shape (R, C), bool
    shift : Tensor of shape (R, C), int64
        The new shift, of use where a block has changed.
    """

    side: int
    changed: torch.Tensor
    shift: torch.Tensor


def enlarge(blocks: torch.Tensor) -> torch.Tensor:
    """Give each block's value (R, C) to the four blocks of half its side (2 R, 2 C)."""
    return blocks.repeat_interleave(2, 0).repeat_interleave(2, 1)


def choose_shifts(
    held: torch.Tensor, costs: torch.Tensor, candidates: dict[int, Candidates], price: float
) -> tuple[torch.Tensor, list[ChangedBlocks]]:
    """Decide which blocks keep their shift, and which take a new one.

    A block keeps what its parts have decided, or takes its candidate as a whole, which
    is one change, whatever costs less. This is decided from the smallest blocks to the
    largest, so that the sum over the frame is the least that these candidates allow.

    Parameters
    ----------
    held : Tensor of shape (R, C), int64
        The shift that each of the smallest blocks has.
    costs : Tensor of shape (S, R, C)
        Of each shift in the smallest blocks.
    candidates : dict of int to Candidates
        Side of a block, 4, 8 or 16 -> the new shifts.
    price : float
        Of a change, in events.

    Returns
    -------
    chosen : Tensor of shape (R, C), int64
        The shift of each of the smallest blocks.
    changes : list of ChangedBlocks
        Of each side, from the largest to the smallest.
    """
    # From the smallest blocks up: the least cost so far, and where a candidate has it.
    # At first each block keeps its shift. The shape is (R, C), and half of that in both
    # directions for blocks of twice the side.
    least = costs.gather(0, held[None])[0]
    is_better = {}
    for side in SIDES:
        if side > SMALLEST:
            least = coarser(least[None])[0]
        if side in candidates:
            cost_of_change = candidates[side].cost + price
            is_better[side] = cost_of_change < least
            least = torch.minimum(least, cost_of_change)

    # From the largest blocks down: where one is changed, its parts are not asked.
    changes = []
    is_changed = torch.zeros_like(least, dtype=torch.bool)
    new_shift = torch.zeros_like(least, dtype=torch.int64)
    for side in reversed(SIDES):
        if side < LARGEST:
            is_changed = enlarge(is_changed)
            new_shift = enlarge(new_shift)
        if side in candidates:
            changed = is_better[side] & ~is_changed
            new_shift = torch.where(changed, candidates[side].shift, new_shift)
            is_changed = is_changed | changed
            changes.append(ChangedBlocks(side, changed, candidates[side].shift))
    return torch.where(is_changed, new_shift, held), changes
