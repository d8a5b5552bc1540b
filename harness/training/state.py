"""The state of a training run: kept in its last checkpoint, taken up again by --resume."""

import json
import time
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from harness import UserError
from harness.runs import ranks
from harness.runs.checkpoints import keep, save_checkpoint
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
class TrainingState:
    """A model, its optimiser and schedule, and how far they have come.

    epoch: epochs completed; progress: of the epoch after them; seconds: that it has taken; best: figures of the best epoch;
    lines, json_lines: on epochs, in the two logs. finished: the final evaluation has been reported, too.

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
    lines: list = field(default_factory=list)
    json_lines: list = field(default_factory=list)
    finished: bool = False
    saved_at: float = field(default_factory=time.monotonic)

    def wants_saving(self):
        """Whether --checkpoint_minutes have passed since the last checkpoint; the first rank decides."""
        minutes = self.args.checkpoint_minutes
        return ranks.is_first() and minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes

    def save(self):
        """Write the last checkpoint; the one before it is kept until the run is finished. Raises UserError instead of saving
        weights that are not finite."""
        self.check_finite()
        average, fired = self.progress.gather()
        more = {name: getattr(self, name) for name in ("epoch", "seconds", "best", "finished")}
        more |= {"step": self.progress.step, "average": vars(average), "fired": vars(fired)}
        more |= {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        more |= {"logs": json.dumps({"text": self.lines, "records": self.json_lines})}
        more |= {"course": {name: getattr(self.args, name) for name in COURSE}}
        more |= {"recipe": {name: getattr(self.args, name) for name in RECIPE if hasattr(self.args, name)}}
        save_checkpoint(self.run.place.last_path, self.model, self.run.place.previous_path, **more)
        self.saved_at = time.monotonic()
        if self.finished and ranks.is_first():
            self.run.place.previous_path.unlink(missing_ok=True)

    def check_finite(self, loss=0.0):
        """Raises UserError where a weight, or this loss, is not finite."""
        faults = [f"weight {name} is not finite" for name in spoilt_weights(self.model)]
        if faults or not isfinite(loss):
            fault, advice = (*faults, f"the loss is {loss}")[0], "try a lower --learning_rate or --trade_off"
            raise UserError(f"{fault} after epoch {self.where()}: training stopped, the last checkpoint is kept; {advice}")

    def where(self):
        """'3, step 17': the epoch and step that were done last."""
        return f"{self.epoch + 1}, step {self.progress.step}" if self.progress.step else f"{self.epoch}"

    def resume(self):
        """Go on from a last checkpoint: the model, the optimiser and this object become what they were.

        Raises UserError where it is missing, damaged, of another run, or has nothing left to do.
        """
        args, place = self.args, self.run.place
        path = place.last_path if args.resume == "last" else Path(args.resume)
        saved = ranks.from_first(lambda: self._read(path))
        if saved is None:
            return self.run.say(f"{path} is not there yet: the run begins anew")
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
            self.epoch, self.seconds = int(saved["epoch"]), float(saved.get("seconds", 0.0))  # earlier versions knew only epochs
            self.progress.step = int(saved.get("step", 0))
            if self.progress.step and ranks.is_first():
                self.progress.average, self.progress.fired = (Average(**saved[name]) for name in ("average", "fired"))
            if place.is_resumed:
                self.best, logs = saved["best"], json.loads(saved.get("logs", "{}"))
                self.lines, self.json_lines = list(logs.get("text", [])), list(logs.get("records", []))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} does not fit this run's optimiser ({error}); use the flags it was trained with") from None
        if self.epoch > args.epochs or (self.epoch == args.epochs and (saved.get("finished", True) or not place.is_resumed)):
            raise UserError(f"{path} has trained {self.epoch} epochs already: raise --epochs {args.epochs} to go on")
        if place.is_resumed and "logs" in saved:
            self.run.repair(self.lines, self.json_lines)
        if ranks.is_first() and path.resolve() == place.previous_path.resolve():
            keep(path, place.last_path)  # else a damaged one would be kept in its place
        self.run.say(f"resumed from {path} after epoch {self.where()}")

    def _read(self, path):
        """The checkpoint, or None where a run of this name has begun but not saved yet. Offers the one before a damaged one."""
        place = self.run.place
        is_last, previous = path.resolve() == place.last_path.resolve(), place.previous_path
        if is_last and not path.exists() and not previous.exists():
            if self.run.has_epochs():
                raise UserError(f"{path} is gone, but the run has trained: put it back, or --overwrite to begin anew")
            return None
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            if not is_last or not previous.exists():
                raise
            load_checkpoint(previous)
            raise UserError(f"{error}; the one before it is whole: --resume {previous}") from None
