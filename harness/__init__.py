"""Everything around a model: command line, data, training, measuring, drawing, and what a run writes and survives."""

import os
import time

from self_models.basics import UserError

__all__ = ["UserError"]


def others_running():
    """How many threads of other programs want a core right now, on Linux; elsewhere 0, as if the machine were idle."""
    try:
        counts = []
        for _ in range(3):
            with open("/proc/loadavg") as file:
                counts.append(int(file.read().split()[3].split("/")[0]) - 1)
            time.sleep(0.002)
        return min(counts)
    except (OSError, ValueError, IndexError):
        return 0


# How long an idle thread of libgomp spins before it sleeps; read when torch is imported, so this package comes first. On an idle
# machine threads that sleep at once make a training step 1.7 times slower; beside programs that keep the cores busy, threads that
# spin do, up to three times: see docs/notebook/training_speed.md.
if "GOMP_SPINCOUNT" not in os.environ and "OMP_WAIT_POLICY" not in os.environ:
    os.environ["GOMP_SPINCOUNT"] = "0" if 2 * others_running() >= os.cpu_count() else "3000"
