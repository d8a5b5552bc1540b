"""Spiking networks with predictive feedback.

``load`` gives a trained network, ``evaluate`` judges it, and ``first_difference`` says
where two networks part. ``read_images`` turns image files into what a network takes,
``load_data`` gives a data set's images. ``from_ann`` makes a spiking network of
somebody else's trained ANN, and ``from_nir`` of somebody else's spiking network.

These names are looked up when they are first used (PEP 562), so that importing one
module of this package does not import all the others.
"""

import importlib

from self_models import plugins

PLACES = {  # name -> the module that has it
    "ANNConfig": "self_models.config",
    "ModelError": "self_models.errors",
    "SNNConfig": "self_models.config",
    "VGG_SNN_STDB_wFeedback": "self_models.vgg_wFeedback_spiking",
    "VGG_wFeedback": "self_models.vgg_wFeedback",
    "evaluate": "self_models.evaluation.evaluate",
    "from_ann": "self_models.traced.converting",
    "load": "self_models.checkpoints.loading",
    "load_data": "self_models.data.sets",
    "read_images": "self_models.data.images",
    **plugins.NAMES,
}

__all__ = list(PLACES)


def __getattr__(name: str) -> object:
    """Return one of the names above.

    Raises
    ------
    AttributeError
        For any other name.
    """
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(PLACES[name]), name)
    globals()[name] = value  # found at once the next time
    return value


def __dir__() -> list[str]:
    """Return what can be imported from here, for completion in editors and shells."""
    return sorted({*globals(), *PLACES})
