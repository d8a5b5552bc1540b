"""Everything around a model: flags, data, losses, loops, conversion, checkpoints, run logs, counts and figures."""
