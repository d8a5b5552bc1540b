"""What devices can do, and how a tensor gets to one."""

from collections.abc import Sequence

import torch


def wide(device: torch.device | str) -> torch.dtype:
    """Return a device's widest floating-point type, for long sums.

    It is float64, but float32 on mps, which has no float64.
    """
    if torch.device(device).type == "mps":
        return torch.float32
    return torch.float64


def to_device(values: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return a tensor of the CPU on the device.

    From memory that cannot be paged out it goes to a GPU while the host runs on.
    """
    if torch.device(device).type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def kept_in_memory(
    tensors: Sequence[torch.Tensor],
) -> tuple[Sequence[torch.Tensor], list[torch.Tensor]]:
    """Return what keeps the ids and addresses of tensors from being given to others."""
    # A tensor whose `.data` is set gives its memory free. The next one to be set might
    # get it, and would look as if it had never changed; an alias holds the memory.
    aliases = [tensor.detach() for tensor in tensors]
    return tensors, aliases


def compute_exactly() -> None:
    """Ask a GPU's convolutions for the same result each time, without rounding factors.

    So a run that was stopped goes on as if it had not been. Factors that are rounded to
    10 bits would flip spikes near the threshold.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
