"""A checkpoint with its weights rounded to 16 bits: half the size, for these scripts."""

import io

import torch

from self_models.basics.checkpoints import CheckpointError, load_checkpoint


def half_bytes(checkpoint):
    """The content of a checkpoint file like this one, but for weights in float16; load() makes float32 of them again. Thresholds
    and leaks stay as they are. Raises CheckpointError for a file that is none, has more in it, or weights
    that are too large."""
    saved, file = load_checkpoint(checkpoint), io.BytesIO()
    state = {name: value.half() if value.dim() > 1 else value for name, value in saved["state_dict"].items()}
    if "optimizer" in saved:
        raise CheckpointError(f"{checkpoint} is one to go on training from: give the best one, beside it")
    if not all(value.isfinite().all() for value in state.values()):
        raise CheckpointError(f"{checkpoint} has weights too large for 16 bits (65,504): it stays as it is")
    torch.save({**saved, "state_dict": state}, file)
    return file.getvalue()
