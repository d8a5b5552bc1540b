"""The contrast benchmark: test images of which a part has been dimmed."""

from dataclasses import replace

import numpy as np

HALF, WHOLE = 0.15, 0.30  # what is left of the brightness


def dimmed_sets(images):
    """name -> ImageSet: one half of each image (top, bottom, left, right) at 15 %, and the whole image at 30 %."""
    height, width = images.images.shape[2:]
    halves = {
        "top": np.s_[..., : height // 2, :],
        "bottom": np.s_[..., height // 2 :, :],
        "left": np.s_[..., : width // 2],
        "right": np.s_[..., width // 2 :],
    }
    return {f"{name} half": dimmed(images, where, HALF) for name, where in halves.items()} | {"whole": dimmed(images, ..., WHOLE)}


def dimmed(images, where, part):
    """An ImageSet like this one; in its batches the pixels of where, an index, have this part of their light, rounded."""

    def change(pixels):
        pixels[where] = (pixels[where] * part).round().to(pixels.dtype)
        return pixels

    return replace(images, change=change)
