"""Files x.nir, for load()."""

from self_models.basics import ModelError
from self_models.guests.nir.reading import READING, from_nir


def load_nir(path, engine, device, model, weights, **changed):
    """Return the GraphSNN of a file, as ``load`` does of a checkpoint.

    Raises
    ------
    ModelError
        For arguments that a NIR graph does not take.
    """
    if model or weights != "float32" or changed.keys() - {*READING}:
        own = f"{', '.join(READING)}, engine and device"
        raise ModelError(f"{path}: a NIR graph takes {own}, and weights of float32")
    return from_nir(path, engine=engine, **changed).to(device)
