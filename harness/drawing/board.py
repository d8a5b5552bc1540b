"""A training run as TensorBoard shows it: figures, predictions of a few images, thresholds and leaks, at each epoch."""

from contextlib import AbstractContextManager
from importlib import import_module

import numpy as np
import torch

from harness import UserError
from harness.drawing.film import shown, still
from self_models.running.draws import EVALUATION, Draws

PICTURES = 8  # images whose prediction is shown


class Board(AbstractContextManager):
    """Events in a folder, opened by `with`. epoch: the last one completed; what a killed run wrote of later ones is withdrawn;
    where it is 0, an earlier run's events are removed. Raises UserError where the package tensorboard is missing."""

    def __init__(self, folder, epoch, seed):
        self.folder, self.epoch, self.seed = folder, epoch, seed
        try:
            self._open = import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs a package: pip install tensorboard, or leave the flag out") from None

    def __enter__(self):
        try:
            for old in self.folder.glob("events.out.tfevents.*") if self.epoch == 0 else ():
                old.unlink()
            self.writer = self._open(self.folder, purge_step=self.epoch + 1)
        except OSError as error:
            raise UserError(f"--tensorboard: cannot write in {self.folder}: {error.strerror}") from None
        return self

    def __exit__(self, *exception):
        self.writer.close()

    @torch.no_grad()
    def add(self, epoch, model, figures, images):
        """What the epoch has come to. figures: name -> number; images: an ImageSet, whose first ones are predicted."""
        for name, value in (figures | dynamics(model)).items():
            self.writer.add_scalar(name, value, epoch)
        if model.has_feedback:
            model.eval()
            picture = predictions(model, images, self.seed)
            self.writer.add_image("input above, prediction below", picture, epoch, dataformats="HWC")
        self.writer.flush()


def dynamics(model):
    """'threshold/LAYER' and 'leak/LAYER' -> value, of an SNN."""
    neurons = model.neurons().items() if hasattr(model, "neurons") else ()
    return {f"{kind}/{name}": getattr(neuron, kind).item() for name, neuron in neurons for kind in ("threshold", "leak")}


def predictions(model, images, seed):
    """The first images in a row, and below them their predictions after the last step, (2 H, N W, 3) uint8."""
    batch = images.part(0, PICTURES).whole(next(model.parameters()).device)
    predicted = model(batch.images, draws=Draws(seed, EVALUATION, batch.index)).predictions[-1]
    predicted = model.readout.on_pixel_scale(predicted) if hasattr(model, "readout") else predicted
    rows = [torch.cat([*shown(pictures)], 1) for pictures in (still(batch.images), predicted)]
    picture = torch.cat(rows).cpu().numpy()
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
