"""What a network does with single images, step by step: recorded, kept in a small file beside the log, and read for the page."""

import zipfile
import zlib
from dataclasses import dataclass, fields

import numpy as np
import torch

from harness.drawing.figures import shown
from harness.measuring.evaluation import dense_steps
from harness.runs.checkpoints import write_whole

SILENT, TOO_DARK, TOO_BRIGHT, BLOCKED, OPEN = range(5)  # states of a pixel's input neuron, see states_of


@dataclass
class Steps:
    """N images over T steps, as numpy arrays.

    images (N, H, W[, 3]), guesses (T, N, H, W[, 3]): grey values 0 to 255; states (T, N, H, W): see states_of; spikes (T, N, L):
    so far, of the layers named in layers (L,); outputs (T, N, labels): summed so far; labels (N,); stopped (N,): the step after
    which the image stopped; index (N,): positions in the data set; epsilon: of the gate, 0 for no blocking.
    """

    images: np.ndarray
    guesses: np.ndarray
    states: np.ndarray
    spikes: np.ndarray
    layers: np.ndarray
    outputs: np.ndarray
    labels: np.ndarray
    stopped: np.ndarray
    index: np.ndarray
    epsilon: np.ndarray

    def __post_init__(self):
        """Raises ValueError where the shapes do not fit each other."""
        steps, images, height, width = self.states.shape
        for name, shape in (
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


@torch.no_grad()
def record_steps(model, batch, seed, stopped):
    """Steps of a model with feedback over a Batch. stopped (B,): the step after which each image stops, by the model's rule."""
    guesses, states, spikes, outputs, guess = [], [], [], [], None
    for run, frame in dense_steps(model, batch, seed):
        states.append(states_of(batch.images, frame.is_open, guess, model.settings.get("residual", False)))
        guess = model.readout.guess(frame.prediction)
        guesses.append(as_bytes(guess))
        spikes.append(torch.stack(list(model.spikes_so_far(run).values()), 1).int().cpu().numpy())
        outputs.append(run.logits.float().cpu().numpy())
    return Steps(
        as_bytes(batch.images),
        np.stack(guesses),
        np.stack(states),
        np.stack(spikes),
        np.array(list(model.spikes_so_far(run))),
        np.stack(outputs),
        *(values.cpu().numpy() for values in (batch.labels, stopped, batch.index)),
        np.array(model.settings.get("epsilon", 0.0)),
    )


def states_of(images, is_open, guess, residual):
    """State of each pixel's input neuron in a step, (B, H, W) uint8, and why.

    images (B, C, H, W); is_open: bool, the same shape, None where nothing blocks; guess: what was predicted before this step,
    which decided, None before the first. SILENT: the pixel is 0, which sends nothing (with residual, a wrong prediction of it
    does); BLOCKED: predicted; open since the prediction was TOO_DARK or TOO_BRIGHT; OPEN: not compared with a prediction.
    """
    active = (images != 0) | (residual and guess is not None)
    is_open = torch.ones_like(images, dtype=torch.bool) if is_open is None else is_open
    state = torch.full_like(images[:, 0], OPEN, dtype=torch.uint8)
    if guess is not None:
        off = ((guess - images) * is_open).sum(1)
        state[off < 0], state[off > 0] = TOO_DARK, TOO_BRIGHT
    state[~is_open.any(1)] = BLOCKED
    state[~active.any(1)] = SILENT
    return state.cpu().numpy()


def as_bytes(images):
    """(..., C, H, W) on the model's scale -> grey values 0 to 255, (..., H, W[, 3])."""
    return (255 * shown(images)).round().astype(np.uint8)


def save_steps(path, steps):
    """Write them, compressed."""
    write_whole(path, lambda file: np.savez_compressed(file, **vars(steps)))


def load_steps(path):
    """The Steps in a file. Raises ValueError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            return Steps(**{field.name: saved[field.name] for field in fields(Steps)})
    except (OSError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from None
