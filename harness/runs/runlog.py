"""What a run says: its log for the reader, its JSON lines for programs, and how far something has come."""

import json
import platform
import re
import subprocess
import sys
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

import torch
import torchvision
from tqdm import tqdm

from harness import UserError
from harness.processes import ranks
from harness.runs.commands import command_line
from harness.runs.paths import RunPaths
from harness.runs.saving import write_whole
from self_models.basics import HOME

EVERY = 30.0  # seconds from one line to the next, where standard error is no terminal
BAR = "{desc} {percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
LINE = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left{postfix}"
NOT_PARAMETERS = ("made_by", "seeds")
COMMAND = "command: "  # begins the line of the readable log that says how the run was started
on_epoch = re.compile(r'(?:(?:warning: )?epoch |\{"event": "epoch", "epoch": )(\d+)\b').match  # a line of either log


class RunLog(AbstractContextManager):
    """NAME.log and NAME.jsonl of the run at `place`; kind, name, trains: see RunPaths. settings: of the network, where a flag may
    stand for another one (--epsilon alone for --gate block), so that the parameters say what is.

    Both begin with what the run is, see opening_record; result() puts what it found before that in NAME.log. Lines are kept back
    until begin(), since until then the run may turn out to be impossible; `with RunLog(...) as run` gives the name free at the
    end. Of several ranks only the first writes.
    """

    def __init__(self, kind, name, args, trains, settings=()):
        self.args, self.place, self._writes = args, RunPaths(kind, name, args, trains), args.log and ranks.is_first()
        self._settings, self._waiting = dict(settings), []  # (line, ending of the log) said before begin(); None after it
        if preset := getattr(args, "preset", ""):
            stands_for = f"preset {preset}: {args.preset_flags}".removesuffix(": ")
            self.say("; ".join([stands_for, *(f"from {path}" for path in args.made_by)]))

    def __exit__(self, *exception):
        self.place.release()

    def begin(self):
        """From now on the run writes: it takes its place, and the logs get their header and what was said so far."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and ranks.is_first():
            self.place.take()
            opening = opening_record(self.args, "resumed" if self.place.is_resumed else "started", self._settings)
            for line in header(opening, self.args.about, self.place.name):
                self.note(line)
            self.record(**opening)
            for words in waiting:
                self.note(*words)
            if not self.place.trains:
                self.place.release()

    def say(self, *lines):
        """Lines for the reader: on standard output and in the log, where paths are relative to --output_dir."""
        for text in self._told(lines):
            self.note(text)

    def result(self, *lines):
        """Lines for the reader, too, which the log begins with."""
        self.begin()
        texts, path = [*self._told(lines), ""], self.place.log_path
        if self._writes:
            rest = path.read_bytes() if path.exists() else b""
            write_whole(path, lambda file: file.writelines([*(f"{text}\n".encode() for text in texts), rest]))

    def _told(self, lines):
        """These lines as the log has them, once they have been printed."""
        folder = Path(self.args.output_dir)
        for text in lines:
            if ranks.is_first():
                print(text, flush=True)
            for name in {str(folder), str(folder.resolve())} - {"."}:
                text = text.replace(f"{name}/", "")
            yield text

    def record(self, **values):
        """One JSON object for programs."""
        self.note(json.dumps(values), ".jsonl")

    def note(self, text, ending=".log"):
        """A line for a log only."""
        if not self._writes:
            return
        if self._waiting is not None:
            self._waiting.append((text, ending))
            return
        path = self.place.logs / f"{self.place.name}{ending}"
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            kept = "; the last checkpoint is kept" * self.place.trains
            raise UserError(f"cannot write {path}: {error.strerror}{kept}") from None

    def take_back(self, epoch, finished):
        """Take out of both logs what a run that goes on after this epoch will do again: later ones, its last evaluation unless it
        has finished, and a line that was being written."""
        for path in (self.place.log_path, self.place.json_path) if self._writes else ():
            lines, known, at = path.read_bytes().split(b"\n") if path.exists() else [], [], 0
            for line in lines[:-1]:
                text = line.decode("utf-8", "replace")
                found, is_evaluation = on_epoch(text), text.startswith('{"event": "evaluation"')
                at = int(found[1]) if found else at
                if at <= epoch - (is_evaluation and not finished) or not (found or is_evaluation):
                    known.append(line)
            if lines and lines != (new := [*known, b""]):
                write_whole(path, lambda file, new=new: file.write(b"\n".join(new)))


def opening_record(args, began, settings):
    """The first JSON object of a log, once more where a run goes on. began: 'started' or 'resumed'; settings: see RunLog."""
    values = args.values | {name: value for name, value in settings.items() if name in args.values}
    return {
        "event": "run",
        "began": began,
        "time": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "command": command_line(),
        "parameters": {key: value for key, value in sorted(values.items()) if key not in NOT_PARAMETERS},
        "versions": {"Python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__},
        "seed": args.seed,
        "git_revision": git_revision(),
    }


def header(opening, about, name):
    """The same as lines: by group the parameters that differ from their defaults and count in this run. about: see Configuration;
    name: of the run."""
    parameters, groups = opening["parameters"], {}
    for flag, (title, default, of_training) in about.items():
        value = parameters.get(flag, default)
        if value != default and not (of_training and parameters.get("test_only")):
            groups.setdefault(title, []).append(f"{flag}={value}")
    versions = ", ".join(f"{package} {version}" for package, version in opening["versions"].items())
    return (
        f"{opening['began']} {opening['time']}",
        f"{COMMAND}{opening['command']}",
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
    """A tqdm of `total` parts that leaves nothing behind; none but for the first rank. On a terminal a bar; else, every half
    minute, a line with percent, time gone and left, and what set_postfix_str was last told."""
    if not ranks.is_first():
        return tqdm(disable=True)
    if sys.stderr.isatty():
        return tqdm(total=total, initial=done, desc=label, leave=False, dynamic_ncols=True, bar_format=BAR)
    often = {"mininterval": EVERY, "maxinterval": EVERY, "miniters": 1, "delay": EVERY}
    return tqdm(total=total, initial=done, desc=label, leave=False, file=Lines(), bar_format=LINE, **often)
