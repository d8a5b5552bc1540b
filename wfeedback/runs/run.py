"""A run of a script: its name, the files that it writes, and what it says."""

import glob
import hashlib
import importlib.metadata
import json
import os
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
from filelock import FileLock, Timeout
from tqdm import tqdm

from self_models.errors import UserError
from self_models.places import HOME
from self_models.settings import Setting
from wfeedback.arguments import Arguments
from wfeedback.runs import ranks
from wfeedback.runs.saving import write_whole

BAR = "{desc} {percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
GROUPS = {  # what a command is for -> command of `wfeedback` -> its script, or its module
    "train": {
        "ann": "ann_wFeedback",
        "snn": "snn_wFeedback",
        "demo": "wfeedback.commands.demo",
    },
    "look": {
        "analysis": "snn_wFeedback_posthoc_model_analysis",
        "report": "wfeedback.commands.report",
    },
    "measure": {
        "obj1": "snn_wFeedback_posthoc_model_inference_obj1",
        "obj2": "snn_wFeedback_posthoc_model_inference_obj2",
        "obj3": "snn_wFeedback_posthoc_model_inference_obj3",
        "stream": "wfeedback.commands.stream",
        "compare": "wfeedback.commands.compare",
        "energy": "wfeedback.commands.energy",
    },
    "take elsewhere": {
        "export": "wfeedback.commands.export",
        "nir": "wfeedback.commands.nir",
    },
}
COMMANDS = {}  # command -> its script, or its module
for group in GROUPS.values():
    COMMANDS |= group
PREFIX = "wfeedback"  # sys.argv[0] begins with it where that command started the script
NOT_RECORDED = ("made_by", "seeds")  # flags that are no parameters of a single run
OWN = "_own"  # ends the name of a user's run, where the name alone came with the program
WAYS_OUT = (
    "--resume goes on with that run, --overwrite replaces it, "
    "--run_name or --output_dir keeps both"
)


def is_script(name: str) -> bool:
    """Return whether a command, a key of `COMMANDS`, is a script of the repository."""
    return "." not in COMMANDS[name]


def program(name: str) -> list[str]:
    """Return the words that start a command, as this program was started.

    Parameters
    ----------
    name : str
        A key of `COMMANDS`.

    Returns
    -------
    list of str
        ``["wfeedback", name]`` if this program was started so, or if ``name`` is no
        script, or else ``["python", "<script>.py"]``.
    """
    if is_script(name) and not sys.argv[0].startswith(f"{PREFIX} "):
        return ["python", f"{COMMANDS[name]}.py"]
    return [PREFIX, name]


def command_line() -> str:
    """Return the command that started this program, as typed."""
    return f"{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".rstrip()


# --- its files


class Paths:
    """The files of a run.

    Parameters
    ----------
    kind : {"ann", "snn"}
        What is trained or evaluated. It names the folder of the files, too.
    name : str
        Name of the run.
    output_dir : str or Path
        Folder of the user's logs and checkpoints.

    Attributes
    ----------
    logs : Path
        Folder of the logs.
    files : Path
        Folder of checkpoints and pictures.
    """

    def __init__(self, kind: str, name: str, output_dir: str | Path):
        self.kind = kind
        self.name = name
        self.logs = Path(output_dir) / "logs" / kind
        self.files = Path(output_dir) / "trained_models" / kind

    @property
    def log_path(self) -> Path:
        """The log for a reader."""
        return self.logs / f"{self.name}.log"

    @property
    def json_path(self) -> Path:
        """The log for programs, a record in each line."""
        return self.logs / f"{self.name}.jsonl"

    @property
    def best_path(self) -> Path:
        """The checkpoint of the best epoch."""
        return self.files / f"{self.name}.pth"

    @property
    def last_path(self) -> Path:
        """The last checkpoint, with which ``--resume`` goes on."""
        return self.files / f"{self.name}_last.pth"

    @property
    def training_paths(self) -> tuple[Path, ...]:
        """All files of a run that trains."""
        return (self.best_path, self.last_path, self.log_path, self.json_path)

    @property
    def evaluation_paths(self) -> tuple[Path, ...]:
        """The files of a run that evaluates, as far as they make its name taken."""
        pictures = [self.picture(ending) for ending in (".gif", ".png", "_sweep.png")]
        return (self.log_path, self.json_path, *pictures)

    @property
    def came_with_program(self) -> bool:
        """Whether the checkpoint of this name came with the program.

        It lies in the program's own folder, and its log among the published ones. A run
        of the user's would have left a last checkpoint, or at least a log of its own.
        """
        published = PublishedPaths(self.kind, self.name)
        if not (published.json_path.is_file() and published.best_path.is_file()):
            return False
        if self.last_path.is_file() or self.json_path.is_file():
            return False
        if not self.best_path.is_file():
            return False
        return self.best_path.samefile(published.best_path)

    def taken(self, trains: bool = True) -> str | None:
        """Say which file is in the way of a new run of this name.

        Parameters
        ----------
        trains : bool, default True
            Whether the new run trains, or evaluates.

        Returns
        -------
        str or None
            An error message on the first such file. None if there is none.
        """
        if self.came_with_program:
            return f"{self.best_path} came with the program: --run_name or --output_dir keeps both"
        paths = self.training_paths if trains else self.evaluation_paths
        for path in paths:
            if path.exists():
                return f"{path} exists: {WAYS_OUT}"
        return None

    def wrote(self, path: Path) -> bool:
        """Return whether a path is that of this run's last checkpoint."""
        return path.resolve() == self.last_path.resolve()

    def picture(self, ending: str) -> Path:
        """Return the path of a picture, NAME.gif for the ending ".gif"."""
        return self.files / f"{self.name}{ending}"


class PublishedPaths(Paths):
    """The files of a run whose log, and perhaps checkpoint, came with the program.

    Their logs have a folder of their own, so that they are never in the way of a user's
    run.

    Parameters
    ----------
    kind : {"ann", "snn"}
        What was trained.
    name : str
        Name of the run, with the number of its seed.
    """

    def __init__(self, kind: str, name: str):
        super().__init__(kind, name, HOME)
        self.logs = HOME / "logs" / "published" / kind


def folder_of_run(kind: str, last: Path) -> Path | None:
    """Return the ``output_dir`` of the run that wrote a last checkpoint.

    None where the file does not lie as a run of this kind writes it.
    """
    # Without "..", which would count as a folder.
    folder = Path(os.path.abspath(last)).parent.parent.parent
    paths = Paths(kind, last.stem.removesuffix("_last"), folder)
    return path_from_here(folder) if paths.wrote(last) else None


def path_from_here(path: Path) -> Path:
    """Return a path as one would type it: relative, below the present folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# --- the run itself


class Run(Paths, AbstractContextManager):
    """A run, which writes two logs as it goes.

    Each record is appended to NAME.jsonl as it comes. NAME.log, for a reader, is
    written whole from the lines of all records. Before ``begin`` nothing is written or
    replaced, because until then the run may turn out to be impossible. Of several ranks
    only the first writes.

    As a context manager it lets go of its name at the end.

    Parameters
    ----------
    kind : {"ann", "snn"}
        What is trained or evaluated.
    name : str
        Name of the run. An evaluation whose name is taken gets the next free one,
        NAME_2.
    args : Arguments
        The flags. ``output_dir``, ``log``, ``resume`` and ``overwrite`` say where and
        whether it writes.
    trains : bool
        Whether it trains a network, or evaluates one.

    Attributes
    ----------
    is_resumed : bool
        Whether it goes on where an earlier run of this name has stopped.

    Raises
    ------
    UserError
        If the folders cannot be written to, or if it trains and files of its name are
        there that it may not replace.
    """

    def __init__(self, kind: str, name: str, args: Arguments, trains: bool):
        super().__init__(kind, name, args.output_dir)
        self.args = args
        self.trains = trains
        self.is_resumed = bool(trains and args.resume) and self.wrote(Path(args.resume))
        self._lock = None  # of the name, against other processes
        self._records = []
        self._has_begun = False
        if ranks.is_first():
            self._make_folders()
        if trains:
            if ranks.is_first():
                self._take_name()
            self._say_if_renamed()
        self._say_recipe()

    def __exit__(self, kind, error, traceback) -> None:
        """Let go of the name; mark and log an error that came after ``begin``."""
        self.release()
        if self._has_begun and isinstance(error, Exception):
            error.had_begun = True  # for --seeds: it is no usage error that concerns all seeds
            reason = " ".join(str(error).split())
            with suppress(Exception):  # the disk may be full, and the first error counts
                self.note(f"the run ended by an error: {type(error).__name__}: {reason}")
                self._write_log()

    def release(self) -> None:
        """Let another process have the name."""
        if self._lock:
            self._lock.release()

    # --- its name

    def _make_folders(self) -> None:
        try:
            for folder in (self.logs, self.files):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from None

    def _take_name(self) -> None:
        """Lock the name, or for an evaluation the next one that is free.

        The system lets go of a lock when the process dies.
        """
        wanted_name = self.name
        may_replace = self.is_resumed or self.args.overwrite
        may_rename = not (self.trains or may_replace)
        for number in count(2):
            obstacle = self._lock_name(may_replace)
            if obstacle is None:
                return
            if not may_rename:
                raise UserError(obstacle)
            self.name = f"{wanted_name}_{number}"

    def _lock_name(self, may_replace: bool) -> str | None:
        """Lock the present name; return None, or an error message."""
        self._lock = FileLock(self.files / f".{self.name}.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            return (
                f"the run {self.name} in {self.files} is being written by another process: "
                "wait for it, or end it"
            )
        except OSError as error:
            raise self._cannot_write(error) from None
        if may_replace:
            return None
        obstacle = self.taken(self.trains)
        if obstacle is not None:
            self.release()
        return obstacle

    def _cannot_write(self, error: OSError) -> UserError:
        folder = self.args.output_dir
        return UserError(f"--output_dir {folder}: cannot write there ({error.strerror})")

    def _say_if_renamed(self) -> None:
        """Say that the run has another name, see ``name_for_training``."""
        name = asked_name(self.kind, self.args)
        if self.name != name and Paths(self.kind, name, self.args.output_dir).came_with_program:
            self.say(f"{name} came with the program: this run is called {self.name}")

    def _say_recipe(self) -> None:
        """Say which flags a recipe stands for, and which networks it starts from."""
        preset = getattr(self.args, "preset", "")
        if not preset:
            return
        parts = [f"preset {preset}: {self.args.preset_flags}".removesuffix(": ")]
        for path in self.args.made_by:
            parts.append(f"from {path}")
        self.say("; ".join(parts))

    # --- its logs

    def begin(self) -> None:
        """Write from now on, beginning with what was recorded so far.

        What the run replaces is removed. The best checkpoint stays until there is a new
        one.
        """
        if self._has_begun:
            return
        self._has_begun = True
        if not ranks.is_first():
            return
        if self.trains:
            self._remove_unfinished_files()
        else:
            self._take_name()
        if self.args.overwrite and not self.is_resumed:
            self._remove_replaced_files()

        waiting = self._records
        self._records = read_records(self.json_path)  # of the run that goes on, if there is one
        goes_on = self.is_resumed and self.last_path.exists()  # else --resume begins it
        began = "resumed" if goes_on else "started"
        for record in (opening_record(self.args, self.name, began), *waiting):
            self._append(record)
        self._write_log()
        if not self.trains:
            self.release()

    def _remove_unfinished_files(self) -> None:
        """Remove what a run of this name was writing when it was killed."""
        for path in self.training_paths:
            for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
                unfinished.unlink()

    def _remove_replaced_files(self) -> None:
        """Remove the logs of an earlier run; in training its last checkpoint, too."""
        paths = [self.log_path, self.json_path]
        if self.trains:
            paths.append(self.last_path)
        for path in paths:
            path.unlink(missing_ok=True)

    def say(self, *lines: str, **values: object) -> None:
        """Print lines for the reader, and keep them in NAME.log.

        Parameters
        ----------
        *lines : str
            The lines. Without any, nothing is recorded.
        **values
            Further entries of their record.
        """
        if lines:
            self.record(*lines, event="text", **values)

    def note(self, line: str) -> None:
        """Record a line without printing it; NAME.log gets it with the next one."""
        self._append({"event": "text", "lines": [line]})

    def result(self, *lines: str, **values: object) -> None:
        """Print lines with which NAME.log shall begin, see ``say``."""
        self.begin()
        self.record(*lines, event="result", **values)

    def record(self, *lines: str, **values: object) -> None:
        """Record values for programs, with lines for the reader.

        Of the records with the same ``event`` and ``epoch`` the last counts.

        Parameters
        ----------
        *lines : str
            Printed, and kept in NAME.log, where paths are relative to ``output_dir``.
        **values
            Entries of the record, which JSON must know; one is ``event``.
        """
        if ranks.is_first():
            for line in lines:
                print(line, flush=True)
        if not lines:
            self._append(values)
            return
        folder = Path(self.args.output_dir)
        # The longer name first, because it may end with the shorter one.
        for name in (str(folder.resolve()), str(folder)):
            if name != ".":
                lines = [line.replace(f"{name}/", "") for line in lines]
        self._append({**values, "lines": list(lines)})
        if self._has_begun:
            self._write_log()

    def _append(self, record: dict) -> None:
        """Keep a record, and append it to NAME.jsonl once the run has begun."""
        self._records.append(record)
        if not (self.args.log and self._has_begun and ranks.is_first()):
            return
        try:
            with open(self.json_path, "ab+") as file:
                file.seek(max(file.tell() - 1, 0))
                # A crash, or a full disk, may have cut the last line short.
                if file.read(1) not in (b"", b"\n"):
                    file.write(b"\n")
                file.write(f"{json.dumps(record)}\n".encode())
        except OSError as error:
            kept = "; the last checkpoint is kept" if self.trains else ""
            raise UserError(f"cannot write {self.json_path}: {error.strerror}{kept}") from None

    def _write_log(self) -> None:
        """Write NAME.log: results, the last of them on top, then all other lines."""
        if not self.args.log:
            return
        results = []
        others = []
        for record in latest(self._records):
            if "lines" not in record:
                continue
            if record["event"] == "result":
                results.append(record["lines"])
            else:
                others.append(record["lines"])
        lines = []
        for result in reversed(results):
            lines += [*result, ""]
        for texts in others:
            lines += texts
        text = "".join(f"{line}\n" for line in lines)
        write_whole(self.log_path, lambda file: file.write(text.encode()))


# --- its name


def numbered(name: str, seed: int) -> str:
    """Return what a run is called with a seed: NAME with seed 0, NAME_1 with seed 1."""
    return f"{name}_{seed}" if seed else name


def run_name(kind: str, args: Arguments) -> str:
    """Name a run of a script that trains.

    Parameters
    ----------
    kind : {"ann", "snn"}
        What the script trains.
    args : Arguments
        Its flags.

    Returns
    -------
    str
        What was asked for, see ``asked_name``. A training never has the name of a
        network that came with the program, see ``name_for_training``.
    """
    name = asked_name(kind, args)
    if args.test_only:
        return name
    return name_for_training(kind, name, args.output_dir)


def name_for_training(kind: str, name: str, output_dir: str | Path) -> str:
    """Find what a training run is called that was to have this name.

    A run never replaces what came with the program. In its place it is called NAME_own,
    and with seed 1, NAME_own_1.

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


def asked_name(kind: str, args: Arguments) -> str:
    """Find the name of a run by its flags.

    Parameters
    ----------
    kind : {"ann", "snn"}
        What the script trains.
    args : Arguments
        Its flags.

    Returns
    -------
    str
        The first of these that there is: ``--run_name``; that of the checkpoint that
        ``--test_only`` evaluates, with ``_test``; that of the run that ``--resume
        PATH`` goes on with; ``original_name``.
    """
    if args.run_name:
        return args.run_name
    if args.test_only:
        checkpoint = getattr(args, "pretrained_snn", "") or args.pretrained_ann
        return f"{Path(checkpoint).stem}_test"
    if args.resume not in ("", "last"):
        return Path(args.resume).stem.removesuffix("_last")
    return original_name(kind, args)


def original_name(kind: str, args: Arguments) -> str:
    """Return the name that the original implementation would give to a run.

    Flags that came later, and an SNN's learning rate, are not in the name.

    Parameters
    ----------
    kind : {"ann", "snn"}
        What is trained.
    args : Arguments
        Its flags.

    Returns
    -------
    str
        For example ``snn_vgg5_wfeedback_mnist_50_tradeoff1.0_typelinear``.
    """
    dataset = Path(args.dataset).name
    if kind == "ann":
        begin = f"ann_{args.architecture}_t{args.timesteps}_{dataset}_"
        end = f"tradeoff{args.trade_off}_lr{args.learning_rate}"
    else:
        begin = f"snn_{args.architecture}_{dataset}_{args.timesteps}_"
        end = f"tradeoff{args.trade_off}_type{args.trade_off_type}"
    return begin.lower() + end


# --- its records


def log_beside(checkpoint: str | Path, kind: str = "snn") -> Path:
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


def read_records(path: Path) -> list[dict]:
    """Read the records of a run that count.

    Parameters
    ----------
    path : Path
        Its ``.jsonl``, which need not be there.

    Returns
    -------
    list of dict
        Its records without those that a later one replaces, see ``latest``. A line that
        a crash has cut short is left out.
    """
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and "event" in record:
                records.append(record)
    return latest(records)


def latest(records: list[dict]) -> list[dict]:
    """Leave out the records that a later one of the same event and epoch replaces.

    An epoch has several if a run was stopped after it and resumed before it.
    """
    last = {}
    for number, record in enumerate(records):
        key = number
        if "epoch" in record:
            key = (record["event"], str(record["epoch"]))
        last.pop(key, None)  # so that it stands where the later one is
        last[key] = record
    return list(last.values())


def opening_record(args: Arguments, name: str, began: str) -> dict:
    """Compose the first record of a run.

    Parameters
    ----------
    args : Arguments
        Its flags.
    name : str
        Its name.
    began : {"started", "resumed"}
        How it begins.

    Returns
    -------
    dict
        The command, the versions, all parameters and where each comes from. Its lines
        name the parameters that differ from their defaults, by group.
    """
    parameters = {}
    for flag, value in sorted(vars(args).items()):
        if flag not in NOT_RECORDED:
            parameters[flag] = value
    origins = {}
    for flag, origin in sorted(args.origins.items()):
        if flag not in NOT_RECORDED:
            origins[flag] = origin
    versions = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        # Its import would take a second.
        "torchvision": importlib.metadata.version("torchvision"),
    }
    time = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    command = command_line()
    revision = git_revision() + own_script()

    version_texts = [" ".join(item) for item in versions.items()]
    lines = [
        f"{began} {time}",
        f"command: {command}",
        f"versions: {', '.join(version_texts)}; git revision: {revision}; seed: {args.seed}",
        f"parameters that differ from their defaults (all: {name}.jsonl):",
    ]
    for title, texts in changed_parameters(args, parameters).items():
        lines.append(f"  {title}: {', '.join(texts)}")
    lines.append("")
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


def changed_parameters(args: Arguments, parameters: dict[str, object]) -> dict[str, list[str]]:
    """Name the parameters that have an effect and differ from their defaults.

    Parameters
    ----------
    args : Arguments
        The flags of the run, whose parser knows defaults and groups.
    parameters : dict of {str: object}
        The value of each flag.

    Returns
    -------
    dict of {str: list of str}
        Title of a group of flags -> ``flag=value`` of each such flag.
    """
    unused = unused_flags(args.parser.settings, vars(args))
    defaults = args.parser.defaults()
    groups = {}
    for flag, title in args.parser.groups_of_flags().items():
        value = parameters.get(flag, defaults[flag])
        if value != defaults[flag] and flag not in unused:
            groups.setdefault(title, []).append(f"{flag}={value}")
    return groups


def unused_flags(known: dict[str, Setting], values: dict[str, object]) -> set[str]:
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


def git_revision() -> str:
    """Return the revision of the code.

    Returns
    -------
    str
        A short hash, with "+changes" if the files differ from that revision. "unknown"
        outside a git checkout.
    """
    # Without this check git would tell of a repository around this folder.
    if not (HOME / ".git").exists():
        return "unknown"
    command = ["git", "-C", HOME, "describe", "--always", "--exclude=*", "--dirty=+changes"]
    try:
        described = subprocess.run(command, capture_output=True, text=True)
    except OSError:  # git is not installed
        return "unknown"
    return described.stdout.strip() or "unknown"


def own_script() -> str:
    """Say which script runs, with its digest, if it is none of the program's.

    Git does not tell of a new file, so the revision alone would not say what ran.
    """
    path = Path(sys.argv[0])
    is_ours = path.stem in COMMANDS.values() or sys.argv[0].startswith(f"{PREFIX} ")
    if is_ours or path.suffix != ".py" or not path.is_file():
        return ""
    digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    return f", script {path.name} of digest {digest}"


# --- lines


def progress_bar(label: str, total: int, done: int = 0) -> tqdm:
    """Open a progress bar, which vanishes when it is closed.

    Parameters
    ----------
    label : str
        What stands before it.
    total : int
        Number of its parts.
    done : int, default 0
        How many of them are done already.

    Returns
    -------
    tqdm
        The bar, to be used in a ``with`` block. It is seen on a terminal alone, and of
        several ranks on the first one's.
    """
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


def counted(number: int, word: str) -> str:
    """Return a number with its noun: "1 update", "1,200 updates"."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
