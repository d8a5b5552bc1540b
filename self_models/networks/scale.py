"""A layer that multiplies what arrives by fixed numbers."""

import torch
from torch import nn


class Scale(nn.Module):
    """Multiplies values by a scale.

    Parameters
    ----------
    scale : Tensor
        One number, or what broadcasts to the shape of the values without the batch.
    """

    def __init__(self, scale: torch.Tensor):
        super().__init__()
        self.scale = nn.Parameter(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the values, times the scale."""
        return x * self.scale
