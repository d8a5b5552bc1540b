"""The state of a training run: kept in its last checkpoint, restored by --resume."""

import signal
import time
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from harness import UserError
from harness.runs import ranks
from harness.runs.health import not_finite
from harness.runs.saving import save_checkpoint
from harness.runs.signals import Interrupted
from harness.training.epoch import Progress
from harness.training.resuming import flags_to_save
from harness.training.schedules import counted, set_rates
from self_models.basics.checkpoints import restore
from self_models.counting.evaluation import Average


class Finished(UserError):
    """The run that was to go on has had all its epochs."""


@dataclass
class TrainingState:
    """A model, its optimiser and schedule, and how far they have come. data: (training, selection or None, test) ImageSets;
    epoch: epochs completed; progress: of the epoch after them; seconds: that it has taken;
    best: figures of the best epoch; finished: the final evaluation has been reported, too; signals: see noted_signals. No state
    of a random generator is kept: every draw follows from the seed, the epoch, and the step or the image."""

    model: object
    data: tuple
    criterion: object
    args: object
    run: object
    optimizer: object
    schedule: object
    epoch: int = 0
    progress: Progress = field(default_factory=Progress)
    seconds: float = 0.0
    best: dict | None = None
    finished: bool = False
    saved_at: float = field(default_factory=time.monotonic)
    signals: object = None

    @property
    def device(self):
        return next(self.model.parameters()).device

    @property
    def judging(self):
        """The images that choose the best epoch, None where none do."""
        return self.data[2] if self.args.selected_on == "test" else self.data[1]

    def wants_saving(self):
        """Whether --checkpoint_minutes have passed since the last checkpoint; the first rank decides."""
        minutes = self.args.checkpoint_minutes
        return ranks.is_first() and minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes

    def save(self):
        """Write the last checkpoint. Raises UserError for weights not finite."""
        self.check_finite()
        average = self.progress.gather()
        more = {name: getattr(self, name) for name in ("epoch", "seconds", "best", "finished")}
        more |= {"step": self.progress.step, "average": vars(average)}
        more |= {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        more |= {"flags": flags_to_save(self.args, self.model)}
        more |= {"files": {part: images.known_by for part, images in (("train", self.data[0]), ("test", self.data[2]))}}
        save_checkpoint(self.run.place.last_path, self.model, **more)
        self.saved_at = time.monotonic()

    def save_if_asked(self, wants_saving=False):
        """Save where a rank wants it, or was sent a signal, for which Interrupted is raised; every rank must ask."""
        wish = ranks.largest(self.signals.caught or wants_saving)  # 0, 1, or a signal's larger number
        if wish:
            self.save()
        if wish > 1:
            ranks.largest(0)  # nobody goes before the first rank has saved
            done = f"stopped by {signal.Signals(wish).name} after epoch {self.where()}, saved in {self.run.place.last_path}"
            raise Interrupted(wish, f"{done}; the same command with --resume goes on")

    def check_finite(self, loss=0.0):
        """Raises UserError where a weight, or this loss, is not finite."""
        spoilt = [f"weight {name}" for name, value in self.model.state_dict().items() if not value.isfinite().all()]
        if spoilt or not isfinite(loss):
            raise not_finite(f"{(*spoilt, 'the loss')[0]} is not finite after epoch {self.where()}")

    def where(self):
        """'3, update 17': the epoch and update that were done last."""
        return f"{self.epoch + 1}, update {self.progress.step}" if self.progress.step else f"{self.epoch}"

    def resume(self, saved):
        """Go on from a last checkpoint, as resumed() read it; None: the run begins. The model, the optimiser and this object
        become what they were. Raises UserError where it is of another run, or has nothing left to do."""
        args, place, path = self.args, self.run.place, Path(self.args.resume)
        if saved is None:
            return self.run.say(f"{path} is not there yet: the run begins")
        was, name = saved.get("model"), type(self.model).__name__
        if was not in (None, name):
            raise UserError(f"--resume: {path} holds a {was}, not a {name}; it needs the same flags, or none")
        restore(self.model, saved, path)
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.load_state_dict(saved["schedule"])
            set_rates(self.optimizer, self.schedule)
            self.epoch, self.progress.step, finished = int(saved["epoch"]), int(saved["step"]), saved["finished"]
            self.seconds = float(saved["seconds"])
            if self.progress.step and ranks.is_first():
                self.progress.average = Average(**saved["average"])
            if place.is_resumed:
                self.best = saved["best"]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} does not fit this run's optimiser ({error}); use the flags it was trained with") from None
        if self.epoch > args.epochs or (self.epoch == args.epochs and (finished or not place.is_resumed)):
            raise Finished(f"{path} has trained {counted(self.epoch, 'epoch')} already: raise --epochs {args.epochs} to go on")
        self.run.say(f"resumed from {path} after epoch {self.where()}")
