"""From a checkpoint to a file in another format."""

from pathlib import Path

from harness import UserError
from harness.exporting import nir_file, torch_file
from harness.exporting.half_file import half_bytes
from harness.exporting.layers import conventions, forward_layers, left_out
from harness.runs.checkpoints import write_whole
from self_models.loading import load

HALF, HALF_ENDING = "half", "_half.pth"
FORMATS = {  # of other programs: (ending of the file, what makes its content, why the rest stays behind, what else is to be said)
    "nir": (".nir", nir_file.nir_bytes, nir_file.LACKS, [nir_file.RESET]),
    "torch": ("_torch.pt", torch_file.torch_bytes, "a chain of layers has no way back from output to input", []),
}


def export(checkpoint, to, output="", overwrite=False):
    """Write an SNN's encoder and classifier, or with HALF a whole checkpoint again. to: HALF or a name in FORMATS; output:
    path of the file, else beside the checkpoint.

    Returns what to tell the user, line by line. Raises UserError and CheckpointError, writing nothing.
    """
    ending = HALF_ENDING if to == HALF else FORMATS[to][0]
    checkpoint = Path(checkpoint)
    path = Path(output) if output else checkpoint.with_name(checkpoint.stem + ending)
    if path.exists() and checkpoint.exists() and path.samefile(checkpoint):
        raise UserError(f"--output {path} is the checkpoint itself: give another path")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: --overwrite replaces it, --output PATH keeps both")
    if to == HALF:
        made = half_bytes(checkpoint)
        write_whole(path, lambda file: file.write(made))
        return [f"wrote {path}: {len(made):,} bytes; evaluate it anew, its weights are rounded"]
    _, content, lacks, notes = FORMATS[to]
    model = load(checkpoint, engine="dense")
    layers, rest = forward_layers(model), left_out(model)
    facts = {"source": checkpoint.name, **conventions(model), "why_left_out": lacks if rest else "nothing is"}
    made = content(layers, facts)
    write_whole(path, lambda file: file.write(made))
    lines = [f"wrote {path}: encoder and classifier, {len(layers)} layers"]
    lines += [f"left out: {', '.join(rest)} ({lacks})"] if rest else []
    return lines + [f"note: {line}" for line in notes]
