"""What a run says: its log for the reader, and its JSON lines for programs."""

import json
import platform
import subprocess
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

import torch
import torchvision

from harness import UserError
from harness.processes import ranks
from harness.runs.commands import command_line
from harness.runs.journal import COMMAND, is_epoch_line, is_epoch_record, repair
from harness.runs.paths import RunPaths
from self_models.basics.home import HOME

NOT_PARAMETERS = ("made_by", "seeds")


class RunLog(AbstractContextManager):
    """NAME.log and NAME.jsonl of the run at `place`; kind, name, trains: see RunPaths. settings: of the network, where a flag may
    stand for another one (--epsilon alone for --gate block), so that the parameters say what is.

    Both begin with what the run is: when it started, its command, all parameters, versions, seed and git revision. Lines are kept
    back until begin(), since until then the run may turn out to be impossible; `with RunLog(...) as run` gives the name free at
    the end. Of several ranks only the first writes.
    """

    def __init__(self, kind, name, args, trains, settings=()):
        self.args, self.place, self._writes = args, RunPaths(kind, name, args, trains), args.log and ranks.is_first()
        self._settings = dict(settings)
        self._waiting = []  # (line, ending of the log) said before begin(); None after it
        if preset := getattr(args, "preset", ""):
            stands_for = f"preset {preset}: {args.preset_flags}".removesuffix(": ")
            self.say("; ".join([stands_for, *(f"from {self._told(path)}" for path in args.made_by)]))

    def _told(self, path):
        """A path that a preset starts from; one elsewhere than in --output_dir is what came with the program."""
        here = self.args.output_dir
        is_here = Path(path).resolve().is_relative_to(Path(here).resolve())
        return path if is_here else f"{path}, which came with the program: --output_dir {here} has none of that name"

    def __exit__(self, *exception):
        self.place.release()

    def begin(self):
        """From now on the run writes: it takes its place, and the logs get their header and what was said so far. Called again
        it does nothing."""
        if self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        if ranks.is_first():
            self.place.take()
            opening = opening_record(self.args, "resumed" if self.place.is_resumed else "started", self._settings)
            for line in header(opening, self.args.about):
                self.note(line)
            self.record(**opening)
            for words in waiting:
                self.note(*words)
            if not self.place.trains:
                self.place.release()

    def say(self, text=""):
        """A line for the reader: on standard output and in the log, where paths are relative to --output_dir."""
        if ranks.is_first():
            print(text, flush=True)
        folder = Path(self.args.output_dir)
        for name in {str(folder), str(folder.resolve())} - {"."}:
            text = text.replace(f"{name}/", "")
        self.note(text)

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
            raise UserError(f"cannot write {path}: {error.strerror}; the last checkpoint is kept") from None

    def repair(self, lines, json_lines):
        """Make both logs tell what the checkpoint knows: its lines on epochs, and no others; see journal.py."""
        logs = (self.place.log_path, lines, is_epoch_line), (self.place.json_path, json_lines, is_epoch_record)
        for path, known, is_known in logs if self._writes else ():
            if old := repair(path, known, is_known):
                self.say(f"{path} differed from the checkpoint and was put right; as it was: {old}")


def opening_record(args, began, settings=()):
    """The first JSON object of a log, once more where a run goes on: what the run is. began: 'started' or 'resumed'; settings: as
    in RunLog."""
    values = args.values | {name: value for name, value in dict(settings).items() if name in args.values}
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


def header(opening, about):
    """The same as lines for a reader: of the parameters first those that differ from their defaults, then all, by the groups of
    --help. about: flag -> (its group, its default)."""
    parameters, groups = opening["parameters"], {title: [] for title, _ in about.values()} | {"found": []}
    for name, value in parameters.items():
        groups[about[name][0] if name in about else "found"].append(f"{name}={value}")
    differ = [f"{name}={value}" for name, value in parameters.items() if name in about and value != about[name][1]]
    versions = ", ".join(f"{name} {version}" for name, version in opening["versions"].items())
    return (
        f"{opening['began']} {opening['time']}",
        f"{COMMAND}{opening['command']}",
        f"not as by default: {', '.join(differ) or 'nothing'}",
        "all parameters:",
        *(f"  {title}: {', '.join(words)}" for title, words in groups.items() if words),
        *(f"versions: {versions}", f"seed: {opening['seed']}", f"git revision: {opening['git_revision']}", ""),
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
