"""A run: its command and name, where it writes, what it says, and how far something has come."""

import glob
import json
import platform
import re
import shlex
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
from harness.runs.saving import write_whole
from self_models.basics import HOME

BAR = "{desc} {percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
COMMANDS = {  # of `wfeedback`, once the package is installed -> the script
    "ann": "ann_wFeedback",
    "snn": "snn_wFeedback",
    "analysis": "snn_wFeedback_posthoc_model_analysis",
    "obj1": "snn_wFeedback_posthoc_model_inference_obj1",
    "obj2": "snn_wFeedback_posthoc_model_inference_obj2",
    "obj3": "snn_wFeedback_posthoc_model_inference_obj3",
    "stream": "snn_wFeedback_posthoc_model_stream",
    "compare": "compare",
    "report": "report",
    "energy": "energy",
    "export": "export",
    "nir": "run_nir",
    "results": "results",
    "demo": "demo",
}
PREFIX = "wfeedback"  # what sys.argv[0] begins with where that command started the script
NOT_PARAMETERS = ("made_by", "seeds")
OWN = "_own"  # ends the name of a run, before its seed, where the name alone came with the program
TAKEN = "--resume goes on with that run, --overwrite replaces it, --run_name or --output_dir keeps both"


def program(name):
    """The words that start a script of COMMANDS: wfeedback NAME where this one was started so, else python and its file."""
    return (
        [PREFIX, name]
        if sys.argv[0].startswith(f"{PREFIX} ")
        else ["python", f"{COMMANDS[name]}.py"]
    )


def command_line():
    """The command that started this program, as typed."""
    return f"{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".rstrip()


class Paths:
    """The paths of a run of this name. kind: ann or snn, the folder that they lie in."""

    def __init__(self, kind, name, output_dir):
        self.kind = kind
        self.name = name
        self.logs, self.files = (
            Path(output_dir) / folder / kind for folder in ("logs", "trained_models")
        )

    log_path = property(lambda self: self.logs / f"{self.name}.log")
    json_path = property(lambda self: self.logs / f"{self.name}.jsonl")
    best_path = property(lambda self: self.files / f"{self.name}.pth")
    last_path = property(lambda self: self.files / f"{self.name}_last.pth")
    of_training = property(
        lambda self: (self.best_path, self.last_path, self.log_path, self.json_path)
    )
    of_evaluation = property(
        lambda self: (
            self.log_path,
            self.json_path,
            *map(self.picture, (".gif", ".png", "_sweep.png")),
        )
    )

    @property
    def came_with_program(self):
        """Whether the checkpoint of this name came with the program.

        It lies in the program's own folder, and its log among the published ones. A run of
        the user's would have left a last checkpoint, or at least a log of its own.
        """
        published = PublishedPaths(self.kind, self.name)
        if not (published.json_path.is_file() and published.best_path.is_file()):
            return False
        if self.last_path.is_file() or self.json_path.is_file():
            return False
        if not self.best_path.is_file():
            return False
        return self.best_path.samefile(published.best_path)

    def taken(self, trains=True):
        """What to say of the first file of such a run that is there already, None where none is."""
        if self.came_with_program:
            return f"{self.best_path} came with the program: --run_name or --output_dir keeps both"
        there = (
            path for path in (self.of_training if trains else self.of_evaluation) if path.exists()
        )
        return next((f"{path} exists: {TAKEN}" for path in there), None)

    def wrote(self, path):
        """True for the run's last checkpoint."""
        return path.resolve() == self.last_path.resolve()

    def picture(self, ending):
        """Path of a picture, say NAME.gif."""
        return self.files / f"{self.name}{ending}"


class PublishedPaths(Paths):
    """The paths of a run whose log, and perhaps checkpoint, came with the program.

    Their logs have a folder of their own, so that they are never in the way of a user's run.

    Parameters
    ----------
    kind : {"ann", "snn"}
        What was trained.
    name : str
        Name of the run, with the number of its seed.
    """

    def __init__(self, kind, name):
        super().__init__(kind, name, HOME)
        self.logs = HOME / "logs" / "published" / kind


class Run(Paths, AbstractContextManager):
    """A run of this name, and its paths. kind: ann or snn, the folder; trains: else it is an evaluation.

    Records are appended to NAME.jsonl; NAME.log is written whole from their lines. Nothing is written or replaced before begin(),
    since until then the run may turn out to be impossible. A training run is refused where its files are there, unless told to
    resume or overwrite; an evaluation takes the next free name. Of several ranks only the first writes."""

    def __init__(self, kind, name, args, trains):
        super().__init__(kind, name, args.output_dir)
        self.args, self.trains = args, trains
        self._lock, self._records, self._begun = None, [], False
        self.is_resumed = bool(trains and args.resume) and self.wrote(Path(args.resume))
        try:
            for folder in (self.logs, self.files) if ranks.is_first() else ():
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from None
        if trains and ranks.is_first():
            self._take_name()
        if trains:
            self._say_if_renamed()
        if preset := getattr(args, "preset", ""):
            stands_for = f"preset {preset}: {args.preset_flags}".removesuffix(": ")
            self.say("; ".join([stands_for, *(f"from {path}" for path in args.made_by)]))

    def _take_name(self):
        """Lock the name; for an evaluation, the next one that is free. The system lets go of a lock when the process dies."""
        name, replaces = self.name, self.is_resumed or self.args.overwrite
        for number in count(2):
            self._lock = FileLock(self.files / f".{self.name}.lock", timeout=0)
            try:
                self._lock.acquire()
            except Timeout:
                why = f"the run {self.name} in {self.files} is being written by another process: wait for it, or end it"
            except OSError as error:
                raise self._cannot_write(error) from None
            else:
                why = self.taken(self.trains)
                if replaces or not why:
                    return
                self.release()
            if self.trains or replaces:
                raise UserError(why)
            self.name = f"{name}_{number}"

    def _say_if_renamed(self):
        """Say that the run has another name than asked for, see name_for_training()."""
        asked = asked_name(self.kind, self.args)
        if self.name != asked and Paths(self.kind, asked, self.args.output_dir).came_with_program:
            self.say(f"{asked} came with the program: this run is called {self.name}")

    def _cannot_write(self, error):
        return UserError(
            f"--output_dir {self.args.output_dir}: cannot write there ({error.strerror})"
        )

    def release(self):
        """Let another process have the name."""
        if self._lock:
            self._lock.release()

    def __exit__(self, kind, error, traceback):
        self.release()
        if self._begun and isinstance(error, Exception):
            error.had_begun = True  # for --seeds: it is no usage error that concerns all seeds

    def begin(self):
        """From now on the run writes. What it replaces goes, but the best checkpoint stays until there is a new one."""
        if self._begun:
            return
        self._begun = True
        if not ranks.is_first():
            return
        if not self.trains:
            self._take_name()
        for path in self.of_training if self.trains else ():  # what a killed run was writing
            for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                unfinished.unlink()
        if self.args.overwrite and not self.is_resumed:
            for path in (
                self.log_path,
                self.json_path,
                *([self.last_path] if self.trains else ()),
            ):
                path.unlink(missing_ok=True)
        waiting, self._records = (
            self._records,
            read_records(self.json_path),
        )  # those of a run that goes on come first
        for record in (
            opening_record(self.args, self.name, "resumed" if self.is_resumed else "started"),
            *waiting,
        ):
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
        folder = Path(self.args.output_dir)
        for name in {str(folder), str(folder.resolve())} - {"."}:  # paths in the log are within it
            lines = [line.replace(f"{name}/", "") for line in lines]
        self._append({**values, "lines": list(lines)} if lines else values)
        if lines and self._begun:
            self._write_log()

    def _append(self, record):
        self._records.append(record)
        if not (self.args.log and self._begun and ranks.is_first()):
            return
        try:
            with open(self.json_path, "ab+") as file:
                file.seek(max(file.tell() - 1, 0))
                if file.read(1) not in (
                    b"",
                    b"\n",
                ):  # a crash or a full disk cut the last line short
                    file.write(b"\n")
                file.write(f"{json.dumps(record)}\n".encode())
        except OSError as error:
            kept = "; the last checkpoint is kept" if self.trains else ""
            raise UserError(f"cannot write {self.json_path}: {error.strerror}{kept}") from None

    def _write_log(self):
        """NAME.log, whole: results first, the last of them on top."""
        if not self.args.log:
            return
        records = [record for record in latest(self._records) if "lines" in record]
        results = [
            (*record["lines"], "") for record in reversed(records) if record["event"] == "result"
        ]
        others = [record["lines"] for record in records if record["event"] != "result"]
        text = "".join(f"{line}\n" for lines in (*results, *others) for line in lines)
        write_whole(self.log_path, lambda file: file.write(text.encode()))


def path_from_here(path):
    """The path as one would type it: without the present folder, where it lies below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# --- its name


def numbered(name, seed):
    """What a run of this name is called with a seed: NAME with seed 0, NAME_1 with seed 1."""
    return f"{name}_{seed}" if seed else name


def run_name(kind, args):
    """The name of a run of the scripts that train: what was asked for, or NAME_own in its place."""
    name = asked_name(kind, args)
    if args.test_only:
        return name
    return name_for_training(kind, name, args.output_dir)


def name_for_training(kind, name, output_dir):
    """Find what a training run is called that was to have this name.

    A run never replaces what came with the program. In its place it is called NAME_own, and
    with seed 1, NAME_own_1.

    Parameters
    ----------
    kind : {"ann", "snn"}
        What is trained.
    name : str
        Name that was asked for, with the number of its seed.
    output_dir : str or Path
        Folder of the run's logs and checkpoints.

    Returns
    -------
    str
        The name itself, unless it came with the program.
    """
    if not Paths(kind, name, output_dir).came_with_program:
        return name
    base, number = re.fullmatch(r"(.+?)(_\d+)?", name).groups(default="")
    return f"{base}{OWN}{number}"


def asked_name(kind, args):
    """A run's name by its flags: --run_name, the --test_only checkpoint, the run that --resume PATH continues, or original_name()."""
    if args.run_name:
        return args.run_name
    if args.test_only:
        return f"{Path(getattr(args, 'pretrained_snn', '') or args.pretrained_ann).stem}_test"
    if args.resume not in ("", "last"):
        return Path(args.resume).stem.removesuffix("_last")
    return original_name(kind, args)


def original_name(kind, args):
    """As the original names its runs; newer flags, and an SNN's learning rate, are in the log, not in the name."""
    architecture, dataset, more = (
        args.architecture,
        Path(args.dataset).name,
        f"tradeoff{args.trade_off}",
    )
    if kind == "ann":
        return (
            f"ann_{architecture}_t{args.timesteps}_{dataset}_".lower()
            + f"{more}_lr{args.learning_rate}"
        )
    return (
        f"snn_{architecture}_{dataset}_{args.timesteps}_".lower()
        + f"{more}_type{args.trade_off_type}"
    )


# --- its records


def log_beside(checkpoint, kind="snn"):
    """Find the records of the run that wrote a checkpoint.

    Parameters
    ----------
    checkpoint : str or Path
        The checkpoint, in the folder that the run made.
    kind : {"ann", "snn"}
        What it holds.

    Returns
    -------
    Path
        The ``.jsonl`` of the run, which need not be there.
    """
    path = Path(checkpoint).absolute()
    paths = Paths(kind, path.stem, path.parent.parent.parent)
    if paths.came_with_program:
        return PublishedPaths(kind, path.stem).json_path
    return paths.json_path


def read_records(path):
    """The records of a run's .jsonl that count, none without it; a line that is not whole is left out."""
    text, records = (
        path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "",
        [],
    )
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


def opening_record(args, name, began):
    """The first record of a run, 'started' or 'resumed' (began). Its lines: by group, parameters that are no defaults."""
    time, command, revision = f"{datetime.now():%Y-%m-%d %H:%M:%S}", command_line(), git_revision()
    parameters = {
        key: value for key, value in sorted(vars(args).items()) if key not in NOT_PARAMETERS
    }
    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    unused = unused_flags(args.parser.settings, vars(args))
    defaults = args.parser.defaults()
    groups = {}
    for flag, title in args.parser.groups_of_flags().items():
        value = parameters.get(flag, defaults[flag])
        if value != defaults[flag] and flag not in unused:
            groups.setdefault(title, []).append(f"{flag}={value}")
    lines = (
        f"{began} {time}",
        f"command: {command}",
        f"versions: {', '.join(map(' '.join, versions.items()))}; git revision: {revision}; seed: {args.seed}",
        f"parameters that differ from their defaults (all: {name}.jsonl):",
        *(f"  {title}: {', '.join(words)}" for title, words in groups.items()),
        "",
    )
    origins = {
        key: layer for key, layer in sorted(args.origins.items()) if key not in NOT_PARAMETERS
    }
    return {
        "event": "run",
        "began": began,
        "time": time,
        "command": command,
        "parameters": parameters,
        "origins": origins,
        "versions": versions,
        "seed": args.seed,
        "git_revision": revision,
        "lines": lines,
    }


def unused_flags(known, values):
    """Name the flags without effect in a run that trained nothing or converted no ANN.

    Parameters
    ----------
    known : dict of {str: Setting}
        The declared flags of the run's script, or of all scripts.
    values : dict of {str: object}
        What each flag was in the run. Flags that its script lacks may be missing.

    Returns
    -------
    set of str
        Names of flags.
    """
    converts = bool(values.get("pretrained_ann")) and not values.get("pretrained_snn")
    unused = set()
    for flag, declared in known.items():
        if declared.group == "conversion" and not converts:
            unused.add(flag)
        if not declared.training:
            continue
        if values.get("test_only"):
            unused.add(flag)
        elif values.get("epochs") == 0:
            # The network begins as these make it, and is judged on what was held out.
            decides = not declared.of_run or declared.group == "data" or flag == "epochs"
            if not decides:
                unused.add(flag)
    return unused


def git_revision():
    """Revision of the code, with '+changes' where it differs from it; 'unknown' outside a git checkout of its own."""
    if not (HOME / ".git").exists():  # git would tell of a repository around this folder
        return "unknown"
    command = ["git", "-C", HOME, "describe", "--always", "--exclude=*", "--dirty=+changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


# --- lines


def progress_bar(label, total, done=0):
    """A tqdm of `total` parts on the first rank's terminal, of which nothing stays behind; without a terminal nothing."""
    hidden = None if ranks.is_first() else True  # tqdm: None hides it where there is no terminal
    return tqdm(
        total=total,
        initial=done,
        desc=label,
        disable=hidden,
        leave=False,
        dynamic_ncols=True,
        bar_format=BAR,
    )


def counted(number, word):
    """'1 update', '1,200 updates'"""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
