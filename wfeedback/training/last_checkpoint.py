"""The last checkpoint of a training run: written as it goes, and read by --resume."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

from torch import nn

from self_models.checkpoints.files import restore
from self_models.checkpoints.loading import check_parts, ignored
from self_models.errors import UserError
from self_models.evaluation.evaluate import Average
from wfeedback.runs import ranks
from wfeedback.runs.run import Run, counted
from wfeedback.runs.saving import save_checkpoint
from wfeedback.training.progress import NOT_FINITE, Progress


class Finished(UserError):
    """The run that was to go on has had all its epochs."""


class LastCheckpoint:
    """Saves and restores where a training run stands. It does not train.

    No state of a random generator is kept: draws follow from the seed, the epoch, and
    the step or the image.

    Parameters
    ----------
    run : Run
        Its ``last_path`` is written.
    model : nn.Module
        What is trained.
    optimizer : torch.optim.Optimizer
    schedule : torch.optim.lr_scheduler.LambdaLR
    progress : Progress
    epochs : int
        How many the run is to have.
    minutes : float
        ``save_if_due`` saves when so many have passed since the last time; 0: never.
    flags : dict of {str: object}
        Flags of the run, which a run that goes on takes.
    files : dict of {str: str}
        What is known of the training and test images.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        optimizer,
        schedule,
        progress: Progress,
        epochs: int,
        minutes: float,
        flags: dict,
        files: dict,
    ):
        self.run = run
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.progress = progress
        self.epochs = epochs
        self.minutes = minutes
        self.flags = flags
        self.files = files
        self.saved_at = time.monotonic()
        self._signals = None

    @contextmanager
    def noting_signals(self) -> Iterator[None]:
        """Let a signal wait, in a ``with`` block, for the next ``save_if_due``."""
        with ranks.noted_signals() as self._signals:
            yield

    def save(self) -> None:
        """Write the checkpoint.

        Raises
        ------
        UserError
            Where a weight is not finite; the checkpoint of before stays.
        """
        self.check_finite()
        progress = self.progress
        progress.means()  # the first rank, which writes, gets the figures of all
        save_checkpoint(
            self.run.last_path,
            self.model,
            epoch=progress.epoch,
            step=progress.step,
            seconds=progress.seconds,
            best=progress.best,
            finished=progress.finished,
            average=vars(progress.average),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            flags=self.flags,
            files=self.files,
        )
        self.saved_at = time.monotonic()

    def save_if_due(self) -> None:
        """Save when it is time, or a signal has come. Every rank must ask.

        Raises
        ------
        Interrupted
            After a signal to any rank; the message says how to go on.
        """
        is_due = False
        if ranks.is_first() and self.minutes > 0:
            is_due = time.monotonic() - self.saved_at >= 60 * self.minutes
        wish = ranks.largest(self._signals.caught or is_due)  # 0, 1, or a signal's number
        if wish:
            self.save()
        if wish > 1:
            ranks.largest(0)  # nobody goes before the first rank has saved
            name = signal.Signals(wish).name
            where = self.progress.where(self.epochs)
            done = f"stopped by {name} {where}, saved in {self.run.last_path}"
            raise ranks.Interrupted(wish, f"{done}; the same command with --resume goes on")

    def check_finite(self, loss: float = 0.0) -> None:
        """Raise UserError where a weight, or this loss, is not finite."""
        spoilt = []
        for name, value in self.model.state_dict().items():
            if not value.isfinite().all():
                spoilt.append(f"weight {name}")
        if not isfinite(loss):
            spoilt.append("the loss")
        if spoilt:
            where = self.progress.where(self.epochs)
            raise UserError(f"{spoilt[0]} is not finite {where}; {NOT_FINITE}")

    def restore(self, saved: dict | None, path: Path) -> None:
        """Go on from a last checkpoint.

        Parameters
        ----------
        saved : dict or None
            What ``resumed`` has read; None where the run begins.
        path : Path
            Where it lies.

        Raises
        ------
        Finished
            If nothing is left to train.
        UserError
            If it is of another optimiser, or damaged.
        """
        if saved is None:
            self.run.say(f"{path} is not there yet: the run begins")
            return
        check_parts(path, saved, self.model)
        restore(self.model, saved, path)
        progress = self.progress
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.load_state_dict(saved["schedule"])
            progress.epoch = saved["epoch"]
            progress.step = saved["step"]
            progress.seconds = saved["seconds"]
            finished = saved["finished"]
            if ranks.is_first():
                progress.average = Average(**saved["average"])
            if self.run.is_resumed:  # another run has a best epoch of its own
                progress.best = saved["best"]
        except (KeyError, TypeError, ValueError) as error:  # of another version, or damaged
            raise UserError(
                f"{path} does not fit this run's optimiser ({error}): train anew"
            ) from None
        self._set_learning_rates()
        is_done = progress.epoch == self.epochs and (finished or not self.run.is_resumed)
        if progress.epoch > self.epochs or is_done:
            trained = counted(progress.epoch, "epoch")
            raise Finished(
                f"{path} has trained {trained} already: raise --epochs {self.epochs} to go on"
            )
        if saved["gone"]:
            self.run.say(f"note: {path} has {ignored(saved)}")
        self.run.say(f"resumed from {path} {progress.where(self.epochs)}")

    def _set_learning_rates(self) -> None:
        """Compute the present rates anew: a raised --epochs stretches the schedule."""
        schedule = self.schedule
        groups = zip(
            self.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        )
        for group, base, factor in groups:
            group["lr"] = base * factor(schedule.last_epoch)
