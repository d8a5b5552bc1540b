"""The dense engine: how are many timesteps of a layer one product, with a gradient written by hand?"""

from self_models.fast.run import advance, can_run, prepared

__all__ = ["advance", "can_run", "prepared"]
