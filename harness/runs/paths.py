"""Where a run writes: its name, its paths, and the right to them."""

import glob
from contextlib import suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from harness import UserError
from harness.runs import ranks

TAKEN = "--resume goes on with that run, --overwrite replaces it, --run_name or --output_dir keeps both"


class Paths:
    """The paths of a run of this name. kind: ann or snn, the folder that they lie in."""

    def __init__(self, kind, name, output_dir):
        self.name = name
        self.logs, self.files = (Path(output_dir) / folder / kind for folder in ("logs", "trained_models"))

    log_path = property(lambda self: self.logs / f"{self.name}.log")
    json_path = property(lambda self: self.logs / f"{self.name}.jsonl")
    best_path = property(lambda self: self.files / f"{self.name}.pth")
    last_path = property(lambda self: self.files / f"{self.name}_last.pth")
    of_training = property(lambda self: (self.best_path, self.last_path, self.log_path, self.json_path))

    def wrote(self, path):
        """Whether this is the run's last checkpoint."""
        return path.resolve() == self.last_path.resolve()

    def picture(self, ending):
        """Path of a picture, say NAME.gif."""
        return self.files / f"{self.name}{ending}"

    def taken(self):
        """The first file of a training run of this name that is there, or None."""
        return next((path for path in self.of_training if path.exists()), None)


class RunPaths(Paths):
    """The paths that a run has a right to. trains: else it is an evaluation. A new training run never touches an earlier one's
    files: it is refused unless told to resume or overwrite, and while another process trains under that name. An evaluation takes
    the next free name instead, unless told to overwrite. Nothing is replaced before take(): until then the run may turn out to be
    impossible. Only the first of several ranks has a say."""

    def __init__(self, kind, name, args, trains):
        super().__init__(kind, name, args.output_dir)
        self.trains, self.overwrites, self._lock = trains, args.overwrite, None
        self.is_resumed = bool(trains and args.resume) and self.wrote(Path(args.resume))
        if not ranks.is_first():
            return
        results = Path(args.results_json).absolute()
        if args.results_json and ((results.exists() and not results.is_file()) or not results.parent.is_dir()):
            raise UserError(f"--results_json {args.results_json}: give a file in a folder that exists")
        if "/" in name or name[0] in ". " or not name.isprintable():
            raise UserError(f"--run_name {name}: give a plain file name; --output_dir says where")
        try:
            for folder in (self.logs, self.files):
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".{self.last_path.name}.probe.tmp"  # as long as any name that will be needed
                probe.touch()
                probe.unlink()
            self._lock = self._locked() if trains else None
        except OSError as error:
            raise UserError(f"--output_dir {args.output_dir}: cannot write there ({error.strerror})") from None
        if trains and (objection := self._objection(args)):
            self.release()
            raise UserError(objection)

    def _locked(self):
        lock = FileLock(self.files / f".{self.name}.lock", timeout=0)  # the system lets go of it when the process dies
        try:
            lock.acquire()
        except Timeout:
            what = f"the run {self.name} in {self.files} is being written by another process"
            raise UserError(f"{what}: wait for it, or end it") from None
        return lock

    def _objection(self, args):
        """Why this training run may not have its name, or None. Removes what a killed run was writing."""
        taken, advice = self.taken(), TAKEN
        for path in self.of_training:
            for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                unfinished.unlink()
        if self.is_resumed or self.overwrites or not taken:
            return None
        if args.seed and not args.seeds and not is_numbered(args):
            advice += f", --seeds {args.seed} trains {numbered(self.name, args.seed)}"
        return f"{taken} exists: {advice}"

    def take(self):
        """Make way for the run's files: an evaluation gets its name, locked until release(), and what is to be overwritten goes.
        Raises UserError where another process trains the run that an evaluation is to overwrite."""
        if not self.trains and self.overwrites:
            self._lock = self._locked()
        elif not self.trains:
            self._take_free_name()
        if self.overwrites and not self.is_resumed:  # the best checkpoint stays until a new one takes its place
            last = (self.last_path,) if self.trains else ()  # which --resume would go on with
            for path in (self.log_path, self.json_path, *last):
                path.unlink(missing_ok=True)

    def _take_free_name(self):
        name = self.name
        for number in count(2):
            with suppress(UserError, PermissionError):  # another process, or user, is about to take this name or trains under it
                self._lock = self._locked()
                pictures = (self.picture(ending) for ending in (".gif", ".png", "_sweep.png"))
                if not any(path.exists() for path in (self.log_path, self.json_path, *pictures)):
                    return
                self.release()
            self.name = f"{name}_{number}"

    def release(self):
        """Let another process have the name."""
        if self._lock:
            self._lock.release()


def numbered(name, seed):
    """What a run of this name is called with a seed: NAME with seed 0, NAME_1 with seed 1."""
    return f"{name}_{seed}" if seed else name


def is_numbered(args):
    """Whether the run's name has its seed in it already, since a recipe named it."""
    return bool(args.run_name) and "run_name" not in args.given


def run_name(kind, args):
    """What a run of a training script is called: as --run_name says; --test_only as the checkpoint, with _test; --resume PATH as
    the run that it goes on with."""
    if not args.run_name and args.test_only:
        return f"{Path(getattr(args, 'pretrained_snn', '') or args.pretrained_ann).stem}_test"
    if not args.run_name and args.resume not in ("", "last"):
        return Path(args.resume).stem.removesuffix("_last")
    return args.run_name or (ann_name(args) if kind == "ann" else snn_name(args))


def ann_name(args):
    """As the original names its runs."""
    network = f"{args.architecture}_t{args.timesteps}_{Path(args.dataset).name}".lower()
    return f"ann_{network}_tradeoff{args.trade_off}_lr{args.learning_rate}"


def snn_name(args):
    """As the original names its runs; the learning rate and newer flags are in the log, not in the name."""
    network = f"{args.architecture}_{Path(args.dataset).name}_{args.timesteps}".lower()
    return f"snn_{network}_tradeoff{args.trade_off}_type{args.trade_off_type}"
