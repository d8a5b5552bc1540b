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

from harness import ranks
from harness.commands import command_line
from harness.errors import UserError
from harness.journal import mend, reports_in_json, reports_in_text
from harness.lock import Lock

REPOSITORY = Path(__file__).resolve().parents[1]


class Run:
    """Where a run writes. name: of its log, checkpoints and pictures; kind: ann or snn, the folder they lie in.

    A new training run never touches an earlier one's files: it is refused unless told to resume or overwrite, or while
    another process trains under that name; `with Run(...) as run` gives the name free at the end. An evaluation takes the
    next free name instead, unless told to overwrite. Of several ranks only the first writes.
    """

    def __init__(self, kind, name, args, trains):
        self.args = args
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
            self.lock = Lock(self.files / f".{name}.lock", f"the run {name} in {self.files}") if trains else None
        except OSError as error:
            raise UserError(f"--output_dir {args.output_dir}: cannot write there ({error.strerror})") from None
        try:
            self._claim(name, trains)
        except BaseException:
            self.close()
            raise

    def _claim(self, name, trains):
        """Make sure that this run may have its name, and write the log's header."""
        args, mine = self.args, (self.best_path, self.last_path, self.previous_path, self.log_path, self.json_path)
        taken = next((path for path in mine if path.exists()), None)
        if trains:
            for path in mine:
                for rest in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a run that was killed while it wrote
                    rest.unlink()
        if trains and args.resume and (args.resume == "last" or self.owns(args.resume)):
            if not taken:
                raise UserError(f"{self.last_path}: no such checkpoint file, and no log of such a run")
            return self._write_header("resumed")
        if args.overwrite:  # the best checkpoint stays until a new one takes its place
            for path in (self.log_path, self.json_path, *((self.last_path, self.previous_path) if trains else ())):
                path.unlink(missing_ok=True)  # a last checkpoint that stayed would be what --resume goes on with
        elif trains and taken:
            raise UserError(
                f"{taken} exists: --resume goes on with that run, --overwrite replaces it, --run_name or --output_dir keeps both"
            )
        number = 1
        while not (trains or args.overwrite) and any(path.exists() for path in self._results()):
            number += 1
            self.name = f"{name}_{number}"
        self._write_header("started")

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
        self._append(self.log_path, text)

    def note(self, text):
        """A line for the log only."""
        self._append(self.log_path, text)

    def record(self, **values):
        """One JSON object for programs."""
        self._append(self.json_path, json.dumps(values))

    def _append(self, path, text):
        if not self.args.log or not ranks.is_first():
            return
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

    def _write_header(self, event):
        settings = {key: value for key, value in sorted(vars(self.args).items()) if key != "given"}
        self.note(f"{event} {datetime.now():%Y-%m-%d %H:%M:%S}")
        self.note(f"command: {command_line()}")
        self.note(f"parameters: {', '.join(f'{key}={value}' for key, value in settings.items())}")
        self.note(f"versions: {versions()}")
        self.note(f"seed: {self.args.seed}")
        if preset := getattr(self.args, "preset", ""):
            self.say(f"preset {preset}: {self.args.preset_flags}")
        self.note(f"git revision: {git_revision()}")
        self.note("")


def versions():
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
