"""From a checkpoint to a file in another format: of other programs, or these scripts' own with weights of 16 bits."""

import io
from pathlib import Path

import torch

from harness import UserError
from harness.exporting import nir_file, torch_file
from harness.exporting.layers import conventions, forward_layers, left_out
from harness.runs.checkpoints import write_whole
from self_models.basics.checkpoints import CheckpointError, load_checkpoint
from self_models.loading import load


def export(checkpoint, to, output="", overwrite=False, own=None):
    """Write a checkpoint's network in another format. to: a name in FORMATS; output: the file's path, else beside it; own: the
    network's class, where it is somebody's own.

    Returns what to tell the user, line by line. Raises UserError and CheckpointError, writing nothing.
    """
    ending, content_of = FORMATS[to]
    checkpoint = Path(checkpoint)
    path = Path(output) if output else checkpoint.with_name(checkpoint.stem + ending)
    if path.exists() and checkpoint.exists() and path.samefile(checkpoint):
        raise UserError(f"--output {path} is the checkpoint itself: give another path")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: --overwrite replaces it, --output PATH keeps both")
    content, what, *notes = content_of(checkpoint, own)
    write_whole(path, lambda file: file.write(content))
    return [f"wrote {path}: {what}", *notes]


def half(checkpoint, own=None):
    """(a checkpoint file like this one, but for weights in float16, a line on it); load() makes float32 of them again. Thresholds
    and leaks stay as they are. Raises CheckpointError for a file that is none, has more in it, or weights that are too large."""
    saved, file = load_checkpoint(checkpoint), io.BytesIO()
    state = {name: value.half() if value.dim() > 1 else value for name, value in saved["state_dict"].items()}
    if "optimizer" in saved:
        raise CheckpointError(f"{checkpoint} is one to go on training from: give the best one, beside it")
    if not all(value.isfinite().all() for value in state.values()):
        raise CheckpointError(f"{checkpoint} has weights too large for 16 bits (65,504): it stays as it is")
    torch.save({**saved, "state_dict": state}, file)
    return file.getvalue(), f"{file.tell():,} bytes; evaluate it anew, its weights are rounded"


def forward_part(bytes_of, lacks, notes=lambda facts: ()):
    """What makes (the file, lines on it) of a checkpoint's encoder and classifier. bytes_of(layers, facts): the file; lacks: why
    the rest stays behind; notes: facts -> what else is to be said. It raises UserError for an ANN."""

    def content_of(checkpoint, own):
        model = load(checkpoint, engine="dense", model=own)
        layers, rest = forward_layers(model), left_out(model)
        facts = {"source": checkpoint.name, **conventions(model), "why_left_out": lacks if rest else "nothing is"}
        lines = [f"encoder and classifier, {len(layers)} layers"]
        lines += [f"left out: {', '.join(rest)} ({lacks})"] if rest else []
        return bytes_of(layers, facts), *lines, *(f"note: {line}" for line in notes(facts))

    return content_of


FORMATS = {  # ending of the file, what makes (its content, lines for the user) of a checkpoint's Path
    "nir": (".nir", forward_part(nir_file.nir_bytes, nir_file.LACKS, nir_file.notes)),
    "torch": ("_torch.pt", forward_part(torch_file.torch_bytes, "a chain of layers has no way back from output to input")),
    "half": ("_half.pth", half),
}
