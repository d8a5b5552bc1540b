"""What a network does with single images, step by step: recorded, kept in a small file beside the log, and read for the page."""

import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from harness.drawing.film import in_words
from harness.runs.checkpoints import write_whole


@dataclass
class Steps:
    """N images over T steps, as numpy arrays.

    images (N, H, W[, 3]), guesses (T, N, H, W[, 3]): grey values 0 to 255; states (T, N, H, W): as in a Film;
    spikes (T, N, L): so far, of the layers named in layers (L,); outputs (T, N, classes): summed so far; labels (N,), -1 where
    nobody knows them; names (classes,): of the classes; titles (N,): of the images; stopped (N,): the step after
    which the image stopped; index (N,): positions in the data set; epsilon: of the gate, 0 for no blocking; misses (T, N, H, W):
    absolute error as in a Film, 255 being a pixel's range, from a gate of which each pixel sends once, else None.
    """

    images: np.ndarray
    guesses: np.ndarray
    states: np.ndarray
    spikes: np.ndarray
    layers: np.ndarray
    outputs: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    titles: np.ndarray
    stopped: np.ndarray
    index: np.ndarray
    epsilon: np.ndarray
    misses: np.ndarray | None = None

    def __post_init__(self):
        """Raises ValueError where the shapes do not fit each other."""
        steps, images, height, width = self.states.shape
        once = [] if self.misses is None else [("misses", self.states.shape)]
        for name, shape in (
            *once,
            ("images", (images, height, width)),
            ("guesses", (steps, images, height, width)),
            ("spikes", (steps, images, len(self.layers))),
            ("outputs", (steps, images)),
            ("labels", (images,)),
            ("stopped", (images,)),
            ("index", (images,)),
        ):
            if getattr(self, name).shape[: len(shape)] != shape:
                raise ValueError(f"{name} do not fit the states")


def steps_of(film):
    """The Steps of a Film."""
    return Steps(
        images=as_bytes(film.images),
        guesses=as_bytes(film.guesses),
        states=film.states.astype(np.uint8),
        spikes=np.stack(list(film.spikes.values()), -1).astype(np.int32),
        layers=np.array(in_words(film.spikes)),
        outputs=film.outputs,
        labels=film.labels,
        names=np.array(film.names),
        titles=np.array(film.titles),
        stopped=film.steps,
        index=film.index,
        epsilon=np.array(film.epsilon),
        misses=as_bytes(film.misses.clip(0, 1)) if film.once else None,
    )


def as_bytes(images):
    """[0, 1] -> grey values 0 to 255."""
    return (255 * images).round().astype(np.uint8)


def save_steps(path, steps):
    """Write them, compressed."""
    arrays = {name: array for name, array in vars(steps).items() if array is not None}
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def load_steps(path):
    """The Steps in a file. Raises ValueError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return Steps(**saved)
    except (OSError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from None
