"""A run: its name, its files, its readable log and its JSON lines."""

import contextlib
import glob
import json
import platform
import subprocess
from datetime import datetime
from pathlib import Path

import torch
import torchvision

from harness.command_line.commands import command_line
from harness.command_line.errors import UserError
from harness.runs import ranks
from harness.runs.journal import mend, reports_in_json, reports_in_text
from harness.runs.lock import Lock

REPOSITORY = Path(__file__).resolve().parents[2]


class Run:
    """Where a run writes. name: of its log, checkpoints and pictures; kind: ann or snn, the folder they lie in.

    A new training run never touches an earlier one's files: it is refused unless told to resume or overwrite, or while
    another process trains under that name; `with Run(...) as run` gives the name free at the end. An evaluation takes the
    next free name instead, unless told to overwrite. Of several ranks only the first writes, and nothing before begin():
    until then the run may turn out to be impossible, and what it was to replace must still be there.
    """

    def __init__(self, kind, name, args, trains):
        self.args, self.trains = args, trains
        self._waiting = []  # (ending of the log, line) said before begin(); None after it
        root = Path(args.output_dir)
        self.logs, self.files = root / "logs" / kind, root / "trained_models" / kind
        self.name, self.lock = name, None
        if not ranks.is_first():
            return
        results = Path(args.results_json).absolute()
        if args.results_json and ((results.exists() and not results.is_file()) or not results.parent.is_dir()):
            raise UserError(f"--results_json {args.results_json}: give a file in a folder that exists")
        if "/" in name:
            raise UserError(f"--run_name {name}: give a name without a slash; --output_dir says where")
        try:
            for folder in (self.logs, self.files):
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".{self.previous_path.name}.probe.tmp"  # as long as any name that will be needed
                probe.touch()
                probe.unlink()
            self.lock = self._lock() if trains else None
        except OSError as error:
            raise UserError(f"--output_dir {args.output_dir}: cannot write there ({error.strerror})") from None
        try:
            if trains:
                self._check_name()
        except BaseException:
            self.close()
            raise
        if preset := getattr(args, "preset", ""):
            self.say(f"preset {preset}: {args.preset_flags}")

    def _lock(self):
        return Lock(self.files / f".{self.name}.lock", f"the run {self.name} in {self.files}")

    def _check_name(self):
        """Raises UserError unless this training run may have its name."""
        args, mine = self.args, (self.best_path, self.last_path, self.previous_path, self.log_path, self.json_path)
        taken = next((path for path in mine if path.exists()), None)
        for path in mine:
            for rest in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a run that was killed while it wrote
                rest.unlink()
        if self.goes_on():
            if not taken:
                raise UserError(f"{self.last_path}: no such checkpoint file, and no log of such a run")
        elif taken and not args.overwrite:
            raise UserError(
                f"{taken} exists: --resume goes on with that run, --overwrite replaces it, --run_name or --output_dir keeps both"
            )

    def goes_on(self):
        """Whether this is a training run that --resume tells to go on from a checkpoint of its own."""
        resume = self.trains and self.args.resume
        return bool(resume) and (resume == "last" or self.owns(resume))

    def begin(self):
        """From now on the run writes: an earlier one's files make way where told to, an evaluation's name is settled, and the
        log gets its header and what was said so far. Called again it does nothing. Raises UserError where an evaluation is told
        to overwrite a run that another process trains."""
        if self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        if not ranks.is_first():
            return
        lock = None if self.trains else self._free_name()
        if self.args.overwrite and not self.goes_on():  # the best checkpoint stays until a new one takes its place
            for path in (self.log_path, self.json_path, *((self.last_path, self.previous_path) if self.trains else ())):
                path.unlink(missing_ok=True)  # a last checkpoint that stayed would be what --resume goes on with
        self._write_header("resumed" if self.goes_on() else "started")
        for ending, line in waiting:
            self._append(ending, line)
        if lock:
            lock.release()

    def _free_name(self):
        """Give this evaluation its name, that of the flags or the next one that is free; returns the Lock on it."""
        name, number = self.name, 1
        while True:
            try:
                lock = self._lock()
            except UserError:  # another process is about to take this name, or trains under it
                if self.args.overwrite:
                    raise
            else:
                if self.args.overwrite or not any(path.exists() for path in self._results()):
                    return lock
                lock.release()
            number += 1
            self.name = f"{name}_{number}"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Let another process have this name."""
        if self.lock:
            with contextlib.suppress(OSError):  # the folder may be gone
                self.lock.release()

    log_path = property(lambda self: self.logs / f"{self.name}.log")
    json_path = property(lambda self: self.logs / f"{self.name}.jsonl")
    best_path = property(lambda self: self.files / f"{self.name}.pth")
    last_path = property(lambda self: self.files / f"{self.name}_last.pth")
    previous_path = property(lambda self: self.files / f"{self.name}_last_previous.pth")

    def owns(self, path):
        """Whether path is this run's last checkpoint or the one before it."""
        return Path(path).resolve() in (self.last_path.resolve(), self.previous_path.resolve())

    def picture(self, ending):
        """Path of a picture of this run, say NAME.gif."""
        return self.files / f"{self.name}{ending}"

    def _results(self):
        return self.log_path, self.json_path, *(self.picture(ending) for ending in (".gif", ".png", "_sweep.png"))

    def say(self, text=""):
        """A line for the reader: on standard output and in the log."""
        if ranks.is_first():
            print(text, flush=True)
        self._append(".log", text)

    def note(self, text):
        """A line for the log only."""
        self._append(".log", text)

    def record(self, **values):
        """One JSON object for programs."""
        self._append(".jsonl", json.dumps(values))

    def _append(self, ending, text):
        if not self.args.log or not ranks.is_first():
            return
        if self._waiting is not None:
            self._waiting.append((ending, text))
            return
        path = self.logs / f"{self.name}{ending}"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; the last checkpoint is kept") from None

    def mend_logs(self, text, json_lines):
        """Make both logs tell what the checkpoint knows: its lines on epochs, and no others; see journal.py."""
        if not self.args.log or not ranks.is_first():
            return
        for path, known, reports in ((self.log_path, text, reports_in_text), (self.json_path, json_lines, reports_in_json)):
            if aside := mend(path, known, reports):
                self.say(f"{path} differed from the checkpoint and was put right; as it was: {aside}")

    def reports(self):
        """Whether this run has completed an epoch: its log says so, or without a log there is a best checkpoint."""
        if not self.log_path.exists():
            return self.best_path.exists()
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return any(reports_in_text(line) for line in file)

    def _write_header(self, event):
        settings = {key: value for key, value in sorted(vars(self.args).items()) if key != "given"}
        self.note(f"{event} {datetime.now():%Y-%m-%d %H:%M:%S}")
        self.note(f"command: {command_line()}")
        self.note(f"parameters: {', '.join(f'{key}={value}' for key, value in settings.items())}")
        self.note(f"versions: {versions()}")
        self.note(f"seed: {self.args.seed}")
        self.note(f"git revision: {git_revision()}")
        self.note("")


def versions():
    """Versions of Python, torch and torchvision, for the log."""
    return f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"


def git_revision():
    """Revision of the code, with '+changes' where it differs from it; 'unknown' outside a git checkout."""
    try:
        ask = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=True
        ).stdout.strip()
        return ask("rev-parse", "--short", "HEAD") + ("+changes" if ask("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def ann_name(args):
    """As the original names its runs."""
    network = f"{args.architecture.lower()}_t{args.timesteps}_{args.dataset.lower()}"
    return f"ann_{network}_tradeoff{args.trade_off}_lr{args.learning_rate}"


def snn_name(args):
    """As the original names its runs; the learning rate and newer flags are in the log, not in the name."""
    return (
        f"snn_{args.architecture.lower()}_{args.dataset.lower()}_{args.timesteps}"
        f"_tradeoff{args.trade_off}_type{args.trade_off_type}"
    )
