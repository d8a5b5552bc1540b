"""A run: what it writes, what it says, and how far something has come."""

import glob
import json
import platform
import subprocess
import sys
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

import torch
import torchvision
from filelock import FileLock, Timeout
from tqdm import tqdm

from harness import UserError
from harness.runs import ranks
from harness.runs.commands import command_line
from harness.runs.paths import TAKEN, Paths, is_numbered, numbered
from harness.runs.saving import write_whole
from self_models.basics import HOME

EVERY = 30.0  # seconds from one line to the next, where standard error is no terminal
BAR = "{desc} {percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
LINE = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left{postfix}"
NOT_PARAMETERS = ("made_by", "seeds")


class Run(Paths, AbstractContextManager):
    """A run of this name, and its paths. kind: ann or snn, the folder; trains: else it is an evaluation.

    Records are appended to NAME.jsonl; NAME.log is written whole from their lines. Nothing is written or replaced before begin(),
    since until then the run may turn out to be impossible. A training run is refused where its files are there, unless told to
    resume or overwrite; an evaluation takes the next free name. Of several ranks only the first writes.
    """

    def __init__(self, kind, name, args, trains):
        super().__init__(kind, name, args.output_dir)
        self.args, self.trains, self._lock = args, trains, None
        self._records, self._begun = [], False
        self.is_resumed = bool(trains and args.resume) and self.wrote(Path(args.resume))
        try:
            for folder in (self.logs, self.files) if ranks.is_first() else ():
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from None
        if trains and ranks.is_first():
            self._take_name()
        if preset := getattr(args, "preset", ""):
            stands_for = f"preset {preset}: {args.preset_flags}".removesuffix(": ")
            self.say("; ".join([stands_for, *(f"from {path}" for path in args.made_by)]))

    def _take_name(self):
        """Lock the name. The system lets go of a lock when the process dies."""
        name, replaces = self.name, self.is_resumed or self.args.overwrite
        for number in count(2):
            self._lock = FileLock(self.files / f".{self.name}.lock", timeout=0)
            try:
                self._lock.acquire()
                taken = not replaces and self.taken(self.of_training if self.trains else self.of_evaluation)
                if not taken:
                    return
                self.release()
                why = f"{taken} exists: {TAKEN}"
                if self.trains and self.args.seed and not self.args.seeds and not is_numbered(self.args):
                    why += f", --seeds {self.args.seed} trains {numbered(name, self.args.seed)}"
            except Timeout:
                why = f"the run {self.name} in {self.files} is being written by another process: wait for it, or end it"
            except OSError as error:
                raise self._cannot_write(error) from None
            if self.trains or replaces:
                raise UserError(why)
            self.name = f"{name}_{number}"

    def _cannot_write(self, error):
        return UserError(f"--output_dir {self.args.output_dir}: cannot write there ({error.strerror})")

    def release(self):
        """Let another process have the name."""
        if self._lock:
            self._lock.release()

    def __exit__(self, *exception):
        self.release()

    def begin(self):
        """From now on the run writes. What it replaces goes, but the best checkpoint stays until there is a new one."""
        if self._begun:
            return
        waiting, self._begun = self._records, True
        if not ranks.is_first():
            return
        if not self.trains:
            self._take_name()
        for path in self.of_training if self.trains else ():  # what a killed run was writing
            for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                unfinished.unlink()
        if self.args.overwrite and not self.is_resumed:
            for path in (self.log_path, self.json_path, *[self.last_path] * self.trains):
                path.unlink(missing_ok=True)
        self._records = read_records(self.json_path)  # of a run that goes on
        opening = opening_record(self.args, "resumed" if self.is_resumed else "started")
        for record in (opening | {"lines": header(opening, self.args, self.name)}, *waiting):
            self._append(record)
        self._write_log()
        if not self.trains:
            self.release()

    def say(self, *lines, **values):
        """Lines for the reader: on standard output and in NAME.log."""
        if lines:
            self.record(*lines, event="text", **values)

    def note(self, line):
        """A line that is not printed; NAME.log has it from the next printed one on."""
        self._append({"event": "text", "lines": [line]})

    def result(self, *lines, **values):
        """Lines for the reader, too, with which NAME.log begins."""
        self.begin()
        self.record(*lines, event="result", **values)

    def record(self, *lines, **values):
        """One JSON object for programs, and lines for the reader. Of those with the same `event` and `epoch` the last counts."""
        for line in lines if ranks.is_first() else ():
            print(line, flush=True)
        self._append({**values, "lines": self._relative(lines)} if lines else values)
        if lines and self._begun:
            self._write_log()

    def _relative(self, lines):
        folder = Path(self.args.output_dir)
        for name in {str(folder), str(folder.resolve())} - {"."}:
            lines = [line.replace(f"{name}/", "") for line in lines]
        return list(lines)

    def _append(self, record):
        self._records.append(record)
        if not (self.args.log and self._begun and ranks.is_first()):
            return
        path = self.json_path
        try:
            with open(path, "ab+") as file:
                file.seek(max(file.tell() - 1, 0))
                if file.read(1) not in (b"", b"\n"):  # a crash or a full disk cut the last line short
                    file.write(b"\n")
                file.write(f"{json.dumps(record)}\n".encode())
        except OSError as error:
            kept = "; the last checkpoint is kept" * self.trains
            raise UserError(f"cannot write {path}: {error.strerror}{kept}") from None

    def _write_log(self):
        if self.args.log:
            text = "".join(f"{line}\n" for line in readable(self._records))
            write_whole(self.log_path, lambda file: file.write(text.encode()))


def read_records(path):
    """The records of a run's .jsonl that count, none without it; a line that is not whole is left out."""
    text, records = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "", []
    for line in text.split("\n"):
        with suppress(ValueError):
            records.append(json.loads(line))
    return latest([record for record in records if isinstance(record, dict) and "event" in record])


def latest(records):
    """These records without those that a later one of the same event and epoch replaces, of an epoch that was done again."""
    last = {}
    for number, record in enumerate(records):
        key = (record["event"], str(record["epoch"])) if "epoch" in record else number
        last.pop(key, None)
        last[key] = record
    return [*last.values()]


def readable(records):
    """The lines of NAME.log: results first, the last of them on top."""
    told = [record for record in latest(records) if "lines" in record]
    for record in reversed(told):
        if record["event"] == "result":
            yield from (*record["lines"], "")
    for record in told:
        if record["event"] != "result":
            yield from record["lines"]


def opening_record(args, began):
    """The first JSON object of a log, once more where a run goes on. began: 'started' or 'resumed'."""
    return {
        "event": "run",
        "began": began,
        "time": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "command": command_line(),
        "parameters": {key: value for key, value in sorted(args.values.items()) if key not in NOT_PARAMETERS},
        "origins": {key: layer for key, layer in sorted(args.origins.items()) if key not in NOT_PARAMETERS},
        "versions": {"Python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__},
        "seed": args.seed,
        "git_revision": git_revision(),
    }


def header(opening, args, name):
    """The same as lines: by group the parameters that differ from their defaults and count in this run. name: of the run."""
    parameters, groups = opening["parameters"], {}
    training = {one.flag(name) for name, one in args.known.items() if one.training}
    for flag, title in args.groups.items():
        value = parameters.get(flag, args.default[flag])
        if value != args.default[flag] and not (flag in training and parameters.get("test_only")):
            groups.setdefault(title, []).append(f"{flag}={value}")
    versions = ", ".join(f"{package} {version}" for package, version in opening["versions"].items())
    return (
        f"{opening['began']} {opening['time']}",
        f"command: {opening['command']}",
        f"versions: {versions}; git revision: {opening['git_revision']}; seed: {opening['seed']}",
        f"parameters that differ from their defaults (all: {name}.jsonl):",
        *(f"  {title}: {', '.join(words)}" for title, words in groups.items()),
        "",
    )


def git_revision():
    """Revision of the code, with '+changes' where it differs from it; 'unknown' outside a git checkout of its own."""
    if not (HOME / ".git").exists():  # git would tell of a repository around this folder
        return "unknown"
    command = ["git", "-C", HOME, "describe", "--always", "--exclude=*", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


class Lines:
    """A file for tqdm that makes each of its texts a line of its own."""

    def write(self, text):
        if text := text.strip():
            print(text, file=sys.stderr, flush=True)

    def flush(self):
        sys.stderr.flush()


def progress_bar(label, total, done=0):
    """A tqdm of `total` parts, of the first rank: a bar on a terminal, else a line every half minute; nothing stays behind."""
    if not ranks.is_first():
        return tqdm(disable=True)
    if sys.stderr.isatty():
        return tqdm(total=total, initial=done, desc=label, leave=False, dynamic_ncols=True, bar_format=BAR)
    often = {"mininterval": EVERY, "maxinterval": EVERY, "miniters": 1, "delay": EVERY}
    return tqdm(total=total, initial=done, desc=label, leave=False, file=Lines(), bar_format=LINE, **often)
