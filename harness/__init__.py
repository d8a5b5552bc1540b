"""Everything around a model: command line, training, measuring, drawing, and runs.

`harness.idle_threads`, which a script imports before torch, is a part of this package.
So nothing here may import torch.
"""

from self_models.errors import UserError

__all__ = ["UserError"]
