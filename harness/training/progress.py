"""How far a training run has come: kept in its last checkpoint, read again by --resume."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness.command_line.errors import UserError
from harness.runs import ranks
from harness.runs.checkpoints import save_checkpoint
from harness.runs.health import spoilt_weights
from harness.training.epoch import Progress
from harness.training.schedules import set_rates
from self_models.basics.checkpoints import CheckpointError, load_checkpoint, restore
from self_models.counting.evaluation import Average

RECIPE = (  # flags that --resume must find again: the optimiser keeps some of them, the loss would change with others
    *("learning_rate", "lr_schedule", "lr_interval", "lr_reduce", "optimizer", "weight_decay", "momentum", "amsgrad"),
    *("trade_off", "trade_off_type", "classification_type", "spike_penalty", "precision"),
    *("teacher_ann", "distillation", "temperature", "train"),
)
COURSE = ("seed", "dataset", "batch_size", "limit_train", "holdout", "augment")  # flags that the order of the images follows from


@dataclass
class Training:
    """A model, its optimiser and schedule, and how far they have come.

    epoch: epochs completed; progress: of the epoch after them; seconds: that it has taken; best: figures of the best epoch;
    text, records: the lines on epochs in the two logs. finished: the final evaluation has been reported, too.

    No state of a random generator is kept: every draw follows from the seed, the epoch, and the step or the image.
    """

    model: object
    optimizer: object
    schedule: object
    args: object
    run: object
    epoch: int = 0
    progress: Progress = field(default_factory=Progress)
    seconds: float = 0.0
    best: dict | None = None
    text: list = field(default_factory=list)
    records: list = field(default_factory=list)
    finished: bool = False
    saved_at: float = field(default_factory=time.monotonic)
    keeps_previous: bool = True  # False until the first save after --resume NAME_last_previous.pth: the other is damaged

    def due(self):
        """Whether --checkpoint_minutes have passed since the last checkpoint; the first rank decides."""
        minutes = self.args.checkpoint_minutes
        return ranks.is_first() and minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes

    def save(self):
        """Write the last checkpoint; the one before it is kept until the run is finished. Raises UserError instead of saving
        weights that are not finite."""
        self.check_weights()
        average, fired = self.progress.gather()
        previous = self.run.previous_path
        save_checkpoint(
            self.run.last_path,
            self.model,
            previous=previous if self.keeps_previous else None,
            epoch=self.epoch,
            best=self.best,
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            step=self.progress.step,
            average={"sums": average.sums, "images": average.images},
            fired={"sums": fired.sums, "images": fired.images},
            seconds=self.seconds,
            logs=json.dumps({"text": self.text, "records": self.records}),
            course={name: getattr(self.args, name) for name in COURSE},
            recipe={name: getattr(self.args, name) for name in RECIPE if hasattr(self.args, name)},
            finished=self.finished,
        )
        self.keeps_previous = True
        if self.finished and ranks.is_first():
            previous.unlink(missing_ok=True)
        self.saved_at = time.monotonic()

    def check_weights(self):
        """Raises UserError where a weight is not finite."""
        if spoilt := spoilt_weights(self.model):
            raise UserError(
                f"weight {spoilt[0]} is not finite after epoch {self.where()}: training stopped, the last checkpoint is kept; "
                "try a lower --learning_rate or --trade_off"
            )

    def where(self):
        """'3, step 17': the epoch and step that were done last."""
        return f"{self.epoch + 1}, step {self.progress.step}" if self.progress.step else f"{self.epoch}"

    def resume(self):
        """Go on from a last checkpoint: the model, the optimiser and this object become what they were.

        Raises UserError where it is missing, damaged, of another run, or has nothing left to do.
        """
        args, run = self.args, self.run
        is_own = run.goes_on()
        path = run.last_path if args.resume == "last" else Path(args.resume)
        saved = ranks.from_first(lambda: self._read(path))
        if saved is None:
            return run.say(f"{path} is not there yet: the run begins anew")
        if "optimizer" not in saved:
            raise UserError(f"{path} has no optimiser state: --resume wants the checkpoint named ..._last.pth")
        restore(self.model, saved, path)
        was = saved.get("settings", {})
        changed = [name for name, value in self.model.settings.items() if was.get(name, value) != value]
        fixed = saved.get("recipe", {}) | (saved.get("course", {}) if saved.get("step") else {})
        changed += [name for name, value in fixed.items() if getattr(args, name, value) != value]
        if changed:
            raise UserError(f"{path} was trained with other settings ({', '.join(changed)}); --resume wants the same flags again")
        try:
            kinds = [state["param_groups"][0].keys() for state in (saved["optimizer"], self.optimizer.state_dict())]
            if kinds[0] != kinds[1]:
                raise ValueError("it comes from another kind of optimiser")
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.load_state_dict(saved["schedule"])
            set_rates(self.optimizer, self.schedule)
            self._take(saved, is_own)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} does not fit this run's optimiser ({error}); use the flags it was trained with") from None
        if self.epoch > args.epochs or (self.epoch == args.epochs and (saved.get("finished", True) or not is_own)):
            raise UserError(f"{path} has trained {self.epoch} epochs already: raise --epochs {args.epochs} to go on")
        if is_own and "logs" in saved:
            run.mend_logs(self.text, self.records)
        self.keeps_previous = path.resolve() != run.previous_path.resolve()
        run.say(f"resumed from {path} after epoch {self.where()}")

    def _read(self, path):
        """The checkpoint, or None where a run of this name has begun but not saved yet. Offers the one before a damaged one."""
        run = self.run
        is_last = path.resolve() == run.last_path.resolve()
        if is_last and not path.exists() and not run.previous_path.exists():
            if run.reports():
                raise UserError(f"{path} is gone, but the run has trained: put it back, or --overwrite to begin anew")
            return None
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            if is_last and run.previous_path.exists():
                load_checkpoint(run.previous_path)
                raise UserError(f"{error}; the one before it is whole: --resume {run.previous_path}") from None
            raise

    def _take(self, saved, is_own):
        """Become what a checkpoint of this version, or an earlier one that knew only whole epochs, tells."""
        self.epoch, self.seconds = int(saved["epoch"]), float(saved.get("seconds", 0.0))
        if saved.get("step") and ranks.is_first():
            self.progress.average, self.progress.fired = (Average(**saved[name]) for name in ("average", "fired"))
        self.progress.step = int(saved.get("step", 0))
        if is_own:
            self.best = saved["best"]
            logs = json.loads(saved.get("logs", "{}"))
            self.text, self.records = list(logs.get("text", [])), list(logs.get("records", []))
