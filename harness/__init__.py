"""Everything around a model: command line, data, training, measuring, drawing, and what a run writes and survives."""

import os

# How long an idle thread of libgomp spins before it sleeps; read when torch is imported, so this package comes first. With
# libgomp's own default two programs on the same cores slow each other down ninefold; with this, threefold, and a program
# alone loses 4 % (two cores, a training step of VGG5_wFeedback_linear, T = 8, batch 64).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


class UserError(Exception):
    """Something the user can put right; the message says what was wrong and what to do."""
