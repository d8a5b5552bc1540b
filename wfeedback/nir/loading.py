"""Files x.nir, for load()."""

from pathlib import Path

import torch

from self_models.errors import ModelError
from wfeedback.nir.conventions import READING
from wfeedback.nir.graph_snn import GraphSNN
from wfeedback.nir.reading import from_nir


def load_nir(
    path: str | Path,
    engine: str,
    device: str | torch.device,
    model: object,
    weights: str,
    **reading,
) -> GraphSNN:
    """Return the GraphSNN of a file, as ``load`` does of a checkpoint.

    Parameters
    ----------
    path : str or Path
        The file.
    engine, device, model, weights
        As ``load`` has them. A NIR graph has no other model, and float32 weights.
    **reading
        Arguments of ``from_nir``.

    Returns
    -------
    GraphSNN

    Raises
    ------
    ModelError
        For arguments that a NIR graph does not take.
    """
    if model or weights != "float32" or reading.keys() - {*READING}:
        taken = f"{', '.join(READING)}, engine and device"
        raise ModelError(f"{path}: a NIR graph takes {taken}, and weights of float32")
    return from_nir(path, engine=engine, **reading).to(device)
