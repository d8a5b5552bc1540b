"""What devices can and cannot do."""

import torch


def wide(device):
    """The widest floating-point type of a device, for long sums: float64, but float32 on mps."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64
