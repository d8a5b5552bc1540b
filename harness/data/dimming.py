"""The contrast benchmark: test images of which a part has been dimmed."""

from dataclasses import replace

HALF, WHOLE = 0.15, 0.30  # what is left of the brightness


def dimmed_sets(images):
    """name -> ImageSet: one half of each image (top, bottom, left, right) at 15 %, and the whole image at 30 %."""
    height, width = images.images.shape[2:]
    rows, columns = slice(None), slice(None)
    halves = {
        "top": (slice(height // 2), columns),
        "bottom": (slice(height // 2, height), columns),
        "left": (rows, slice(width // 2)),
        "right": (rows, slice(width // 2, width)),
    }
    sets = {f"{name} half": dimmed(images, where, HALF) for name, where in halves.items()}
    return sets | {"whole": dimmed(images, (rows, columns), WHOLE)}


def dimmed(images, where, part):
    """An ImageSet like this one; in its batches the pixels of where = (rows, columns) have this part of their light, rounded."""

    def change(pixels):
        region = pixels[..., where[0], where[1]]
        region.copy_((region.float() * part).round())
        return pixels

    return replace(images, change=change)
