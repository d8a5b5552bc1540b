"""Copies of a frame that are shifted by whole or half pixels."""

import torch
import torch.nn.functional as F

GREY_LEVELS = 255  # frames have 8 bits: their pixels are multiples of 1 / 255


class Shifts:
    """All shifts up to a reach, in both directions.

    Parameters
    ----------
    reach : int
        Largest shift, in pixels.
    half_pixels : bool
        Whether shifts by half pixels are among them.

    Attributes
    ----------
    vectors : Tensor of shape (S, 2)
        Rows down and columns right, by which the content of a frame moves, in pixels.
    lengths : Tensor of shape (S,)
        How far each shifts, in pixels.
    zero : int
        Which of them is no shift.
    """

    def __init__(self, reach: int = 6, half_pixels: bool = False):
        self.reach = reach
        self.fractions = [(0.0, 0.0)]
        if half_pixels:
            self.fractions += [(0.0, 0.5), (0.5, 0.0), (0.5, 0.5)]
        vectors = []
        for down, right in self.fractions:
            rows = down + self._whole_steps(down)
            columns = right + self._whole_steps(right)
            vectors.append(torch.cartesian_prod(rows, columns))
        self.vectors = torch.cat(vectors)
        self.lengths = self.vectors.norm(dim=1)
        self.zero = int(self.lengths.argmin())

    def __len__(self) -> int:
        """Return how many shifts there are."""
        return len(self.vectors)

    def _whole_steps(self, fraction: float) -> torch.Tensor:
        """Return the whole pixels to which a fraction is added, as copies stand."""
        largest = self.reach - 1 if fraction else self.reach
        return torch.arange(largest, -self.reach - 1, -1, dtype=torch.float32)

    def copies(self, frame: torch.Tensor) -> list[torch.Tensor]:
        """Shift a frame by each vector.

        Parameters
        ----------
        frame : Tensor of shape (H, W)

        Returns
        -------
        list of Tensors of shape (K, H, W)
            All copies, in the order of ``vectors``; those that differ only in their
            columns stand together, so that a caller can work on a few at a time. What
            lies beyond a border is the border's pixel.
        """
        height, width = frame.shape
        groups = []
        for plane in self._planes(frame):
            # A view of shape (rows, columns, H, W): a window for each whole shift.
            windows = plane.unfold(0, height, 1).unfold(1, width, 1)
            groups.extend(windows.unbind(0))
        return groups

    def _planes(self, frame: torch.Tensor) -> list[torch.Tensor]:
        """Return for each fraction the frame, moved by it, with margins of the reach.

        Each window (H, W) of a plane is the frame at one of the shifts. Row by row,
        from the plane's top left corner on, the windows are in the order of
        ``vectors``. Where a fraction is added, the first row or column is cut off: it
        would need pixels from beyond the margin.
        """
        padded = pad_borders(frame, self.reach)
        planes = []
        for down, right in self.fractions:
            moved = between_pixels(padded, down, right)
            first_row = 1 if down else 0
            first_column = 1 if right else 0
            planes.append(moved[first_row:, first_column:])
        return planes

    def take(self, frame: torch.Tensor, chosen: torch.Tensor, block: int) -> torch.Tensor:
        """Shift each block of a frame by a shift of its own.

        Parameters
        ----------
        frame : Tensor of shape (H, W)
        chosen : Tensor of shape (rows of blocks, columns of blocks), int64
            Which of the vectors. The last blocks may reach beyond the frame.
        block : int
            Side of a block, in pixels.

        Returns
        -------
        Tensor of shape (H, W)
        """
        height, width = frame.shape
        shift = chosen.repeat_interleave(block, 0).repeat_interleave(block, 1)
        shift = shift[:height, :width]  # of each pixel
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        taken = torch.zeros_like(frame)
        first_shift = 0  # of the plane
        for plane in self._planes(frame):
            windows_in_row = plane.shape[1] - width + 1
            windows_in_column = plane.shape[0] - height + 1
            num_shifts = windows_in_row * windows_in_column
            in_plane = (shift >= first_shift) & (shift < first_shift + num_shifts)
            # The number of a window says at which row and column of the plane it is.
            window = shift[in_plane] - first_shift
            rows = row[in_plane] + window // windows_in_row
            columns = column[in_plane] + window % windows_in_row
            taken[in_plane] = plane[rows, columns]
            first_shift += num_shifts
        return taken


def pad_borders(frame: torch.Tensor, margin: int) -> torch.Tensor:
    """Surround a frame (H, W) with copies of its border pixels."""
    return F.pad(frame[None], (margin,) * 4, mode="replicate")[0]


def between_pixels(frame: torch.Tensor, down: float, right: float) -> torch.Tensor:
    """Move the content of a frame by half a pixel down, right or both, in 8 bits.

    A pixel becomes the mean of itself and the one before it. The first row and column
    take theirs from the other side, and are of no use.
    """
    if down:
        frame = (frame + frame.roll(1, 0)) / 2
    if right:
        frame = (frame + frame.roll(1, 1)) / 2
    if down or right:
        frame = (frame * GREY_LEVELS).round() / GREY_LEVELS
    return frame
