"""The state of a training run: kept in its last checkpoint, restored by --resume, with the flags that it had."""

import signal
import time
from math import isfinite
from pathlib import Path

from harness import UserError
from harness.data.facts import facts_of
from harness.measuring.log_lines import running
from harness.runs import ranks
from harness.runs.run import Paths, counted, read_records
from harness.runs.saving import save_checkpoint
from harness.training.losses import loss_settings
from harness.training.optimizers import make_optimizer, make_schedule
from self_models.basics.checkpoints import restore
from self_models.basics.images import IMAGE_SHAPES, lasting_name
from self_models.counting.evaluation import Average
from self_models.data.folders import list_folder
from self_models.loading import ignored, load_known

FIXED = (
    "network",
    "objective",
    "recipe",
)  # scopes of settings of which a run that goes on has those that it began with
NOT_FINITE = (
    "training stopped, the last checkpoint is kept; try a lower --learning_rate or --trade_off"
)


class Finished(UserError):
    """The run that was to go on has had all its epochs."""


class TrainingState:
    """A model, its optimiser and schedule, and how far they have come. data: (training, selection or None, test) ImageSets;
    updates: of an epoch. No state of a random generator is kept: draws follow from the seed, the epoch, and step or image."""

    def __init__(self, model, data, args, run, updates):
        self.model, self.data, self.args, self.run = model, data, args, run
        self.judging = (
            data[2] if args.selected_on == "test" else data[1]
        )  # images that choose the best epoch, None where none do
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, args)
        self.schedule = make_schedule(self.optimizer, args, updates)
        self.epoch, self.best = 0, None  # epochs completed; figures of the best
        self.step, self.average, self.seconds = (
            0,
            Average(),
            0.0,
        )  # of the epoch after them: steps, their figures, their time
        self.finished = False  # the final evaluation has been reported, too
        self.saved_at, self.signals = time.monotonic(), None  # see noted_signals

    def count(self, images, figures, seconds):
        """Count a step: figures are means over its images; seconds: since the epoch began."""
        self.step, self.seconds = self.step + 1, seconds
        self.average.add(images, **figures)
        if self.step % self.args.train_acc_batches == 0:
            self.run.note(f"  batch {self.step}: {running(self.learned())}")

    def learned(self):
        """Mean figures of the epoch so far, of all ranks. The first has their sums from now on, the others begin at nothing."""
        own = Average(
            {name: value.cpu() for name, value in self.average.sums.items()}, self.average.images
        )
        whole = sum(ranks.gathered(own), Average())
        self.average = whole if ranks.is_first() else Average()
        return whole.means()

    def save(self):
        """Write the last checkpoint. Raises UserError for weights not finite."""
        self.check_finite()
        self.learned()
        progress = {
            name: getattr(self, name) for name in ("epoch", "step", "seconds", "best", "finished")
        }
        save_checkpoint(
            self.run.last_path,
            self.model,
            **progress,
            average=vars(self.average),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            flags={flag: getattr(self.args, flag) for flag in kept_settings(self.args)},
            files={"train": self.data[0].known_by, "test": self.data[2].known_by},
        )
        self.saved_at = time.monotonic()

    def save_if_asked(self):
        """Save after --checkpoint_minutes, or for a signal to any rank, which then raises Interrupted; every rank must ask."""
        minutes = self.args.checkpoint_minutes
        is_due = (
            ranks.is_first() and minutes > 0 and time.monotonic() - self.saved_at >= 60 * minutes
        )
        if wish := ranks.largest(
            self.signals.caught or is_due
        ):  # 0, 1, or a signal's larger number
            self.save()
        if wish > 1:
            ranks.largest(0)  # nobody goes before the first rank has saved
            done = f"stopped by {signal.Signals(wish).name} {self.where()}, saved in {self.run.last_path}"
            raise ranks.Interrupted(wish, f"{done}; the same command with --resume goes on")

    def check_finite(self, loss=0.0):
        """Raises UserError where a weight, or this loss, is not finite."""
        spoilt = [
            f"weight {name}"
            for name, value in self.model.state_dict().items()
            if not value.isfinite().all()
        ]
        if spoilt or not isfinite(loss):
            raise UserError(
                f"{(*spoilt, 'the loss')[0]} is not finite {self.where()}; {NOT_FINITE}"
            )

    def where(self):
        """'in epoch 3 of 4, after update 17', or 'after epoch 3': what was done last."""
        within = f"in epoch {self.epoch + 1} of {self.args.epochs}, after update {self.step}"
        return within if self.step else f"after epoch {self.epoch}"

    def resume(self, saved):
        """Go on from a last checkpoint, as resumed() read it; None: the run begins. Raises Finished where nothing is left."""
        args, run, path = self.args, self.run, Path(self.args.resume)
        if saved is None:
            return run.say(f"{path} is not there yet: the run begins")
        restore(self.model, saved, path)
        try:
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.load_state_dict(saved["schedule"])
            self.epoch, self.step, self.seconds, finished = (
                saved[name] for name in ("epoch", "step", "seconds", "finished")
            )
            self.average = Average(**saved["average"]) if ranks.is_first() else Average()
            self.best = (
                saved["best"] if run.is_resumed else None
            )  # another run has a best epoch of its own
        except (KeyError, TypeError, ValueError) as error:  # of another version, or damaged
            raise UserError(
                f"{path} does not fit this run's optimiser ({error}): train anew"
            ) from None
        # a raised --epochs changes the rate of the present step
        schedule = self.schedule
        for group, base, factor in zip(
            self.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(schedule.last_epoch)
        if self.epoch > args.epochs or (
            self.epoch == args.epochs and (finished or not run.is_resumed)
        ):
            raise Finished(
                f"{path} has trained {counted(self.epoch, 'epoch')} already: raise --epochs {args.epochs} to go on"
            )
        if saved["gone"]:
            run.say(f"note: {path} has {ignored(saved)}")
        run.say(f"resumed from {path} {self.where()}")


def kept_settings(args):
    """flag -> Setting of those that a last checkpoint keeps, and that --resume takes from it."""
    return {flag: known for flag, known in args.known.items() if known.scope != "command"}


def resumed(args, kind, name, own=None):
    """(the Configuration, the checkpoint that --resume asks for, whose flags hold unless they are typed); None where the run is
    to begin. kind, name: of the run; own: the class of --model. Raises UserError where the run would not be the same."""
    if not args.resume or args.test_only:
        return args, None
    paths = Paths(kind, name, args.output_dir)
    path = paths.last_path if args.resume == "last" else Path(args.resume)
    args = args.having("found", resume=str(path))
    saved = ranks.from_first(
        lambda: load_known(path, own) if path.exists() or not paths.wrote(path) else None
    )
    if saved is None:
        check_may_begin(args, paths)
        return args, None
    if not {"optimizer", "flags", "settings"} <= saved.keys():
        raise UserError(
            f"{path} has no optimiser state: --resume needs the checkpoint named ..._last.pth"
        )
    was = {flag: known.default for flag, known in loss_settings().items()} | saved[
        "flags"
    ]  # losses that it did not know
    if (typed := args.given.get("dataset")) and lasting_name(typed) == lasting_name(
        was.get("dataset", typed)
    ):
        was["dataset"] = typed  # the same, though it may have moved
    check_same_flags(args, path, was)
    args = args.having(
        "checkpoint", **{flag: was[flag] for flag in kept_settings(args) if flag in was}
    )
    args = args.having(
        "found",
        plan=saved["settings"].get("plan"),
        facts=facts_of(saved["settings"], args.dataset),
    )
    files, were = (
        {} if args.dataset in IMAGE_SHAPES else list_folder(args.dataset).known_by,
        saved["files"],
    )
    if changed := [
        f"{part}/ had {were[part]} and has {files[part]}"
        for part in files
        if were[part] != files[part]
    ]:
        again = "bring them back, or begin a new run: another --run_name, or --overwrite, in place of --resume"
        raise UserError(
            f"the images of {args.dataset} are not those that {path} began with: {'; '.join(changed)}; {again}"
        )
    return args, saved


def check_same_flags(args, path, was):
    """Raises UserError where a run that goes on would have another recipe than these flags of its checkpoint."""
    if lost := [
        flag for flag in was if flag.endswith("_weight") and was[flag] and flag not in args.known
    ]:
        unknown = f"--{lost[0]} {was[lost[0]]:g}, a loss that is not registered here"
        raise UserError(f"{path} was trained with {unknown}: add its --model FILE.py")
    fixed = [
        flag for flag, known in kept_settings(args).items() if known.scope in FIXED and flag in was
    ]
    if changed := [flag for flag in fixed if args.given.get(flag, was[flag]) != was[flag]]:
        raise UserError(
            f"{path} was trained with other settings ({', '.join(changed)}); --resume needs the same flags, or none"
        )
    if args.updates and not was.get("updates"):
        raise UserError(
            f"{path} has its length in epochs: give --epochs instead of --updates {args.updates}"
        )


def check_may_begin(args, paths):
    """Raises UserError where a run without its last checkpoint has trained, or where no flag says what to train."""
    records = read_records(paths.json_path)
    epochs = [record.get("epoch") for record in records if record["event"] == "epoch"]
    if epochs not in ([], [1]) or (
        not records and paths.best_path.exists()
    ):  # an epoch is recorded before it is saved
        raise UserError(
            f"{paths.last_path} is gone, but the run has trained: put it back, or --overwrite in place of --resume"
        )
    says = {
        flag for flag, known in args.known.items() if known.scope in FIXED and known.group != "run"
    }
    if not (says | {"preset", "pretrained_ann", "pretrained_snn"}) & args.typed.keys():
        nothing = f"{paths.last_path} is not there, and no flag says what to train"
        raise UserError(f"--resume: {nothing}: give its --run_name, or more flags")
