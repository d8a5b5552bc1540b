"""A checkpoint with its weights rounded to 16 bits: half the size, for these scripts."""

import io

import torch

from self_models.basics.checkpoints import load_checkpoint


def half_bytes(checkpoint):
    """The content of a checkpoint file like this one, but for weights in float16; load() makes float32 of them again. Thresholds
    and leaks stay as they are. Raises CheckpointError for a file that is none."""
    saved, file = load_checkpoint(checkpoint), io.BytesIO()
    state = {name: value.half() if value.dim() > 1 else value for name, value in saved["state_dict"].items()}
    torch.save({**saved, "state_dict": state}, file)
    return file.getvalue()
