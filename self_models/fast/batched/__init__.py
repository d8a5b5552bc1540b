"""How are many steps of a layer one product, with a gradient written by hand?"""

from self_models.fast.batched.run import advance, prepared, why_not

__all__ = ["advance", "prepared", "why_not"]
