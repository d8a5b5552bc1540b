"""Runs as a report knows them: read from their JSON lines, whoever wrote these and however much of them is whole."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from harness import UserError
from harness.reporting.records import KINDS
from harness.reporting.steps import Steps, load_steps


@dataclass
class Run:
    """A run: its log's path and its name; openings, epochs, evaluations, analysis (its steps): what records.py makes of its JSON
    objects; steps: of single images, or None; readable: the text of the log beside it; faults: what was not whole, in words."""

    path: Path
    name: str
    openings: list
    epochs: list
    evaluations: list
    analysis: list
    steps: Steps | None
    readable: str
    faults: list

    @property
    def results(self):
        """Its evaluations; of a training run without one its best epoch so far."""
        judged = [epoch.result for epoch in self.epochs if epoch.result]
        return self.evaluations or (judged and [max(judged, key=lambda result: result.accuracy)])

    @property
    def parameters(self):
        """name -> value as text, when the run was last started; of an earlier version's log from the readable one."""
        if self.openings:
            return self.openings[-1].parameters
        found = re.findall(r"^parameters: (.*)$", self.readable, re.MULTILINE)
        return dict(re.findall(r"(\w+)=(.*?)(?=, \w+=|$)", found[-1])) if found else {}

    @property
    def commands(self):
        """Its commands, with when and by which code where that is known."""
        said = [f"{one.command}   ({one.when}; {one.code})" for one in self.openings]
        said = said or re.findall(r"^command: (.*)$", self.readable, re.MULTILINE)
        return said or list(dict.fromkeys(result.command for result in self.evaluations if result.command))

    @property
    def has_feedback(self):
        """Whether the network has a decoder, as far as the log tells; else by its name."""
        told = [result.feedback for result in self.evaluations if result.feedback is not None]
        plan = self.parameters.get("architecture", "" if "twin" in self.name else "wFeedback")
        return told[0] if told else "wFeedback" in plan or (self.steps is not None and self.steps.misses is None)

    @property
    def family(self):
        """What a network, its twin, and evaluations of them have in common: the name up to 'feedback' or 'twin'."""
        evaluated = "" if self.epochs else self.parameters.get("pretrained_snn", "")
        name = Path(evaluated).stem or self.path.stem
        return re.split("feedback|twin", name)[0].strip("_") or name


def find_runs(words, output_dir):
    """The Runs that these words name: paths of logs, or names of runs in output_dir, an ANN's and an SNN's. Raises UserError for
    a word that names none, and for a log with nothing to show."""
    paths = dict.fromkeys(path.resolve() for word in words for path in find_logs(word, output_dir))
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name += f" ({run.path.parent.name})"
    return runs


def find_logs(word, output_dir):
    """Paths of the logs that a word names."""
    path = Path(word)
    if path.suffix == ".jsonl" and path.is_file():
        return [path]
    if path.is_file():
        raise UserError(f"{word} is no log for programs: give the run's .jsonl")
    if path.suffix == ".jsonl":
        raise UserError(f"{word} is not there: give the path of a run's .jsonl, or a run's name")
    found = [Path(output_dir) / "logs" / kind / f"{word}.jsonl" for kind in ("ann", "snn")]
    if not any(path.is_file() for path in found):
        raise UserError(f"there is no run {word}: neither {found[0]} nor {found[1]} is there; --output_dir says where to look")
    return [path for path in found if path.is_file()]


def read_run(path):
    """The Run that wrote this log. Raises UserError where the file can't be read, or holds nothing that a report shows."""
    try:
        lines = path.read_bytes().decode("utf-8", "replace").split("\n")
        readable = path.with_suffix(".log").read_bytes().decode("utf-8", "replace") if path.with_suffix(".log").is_file() else ""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    found, others, skipped = {kind: [] for kind in KINDS}, 0, 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
            event = record["event"]
            if not isinstance(event, str):
                raise TypeError("an event has a name")
            if event in KINDS:
                found[event].append(KINDS[event].of(record))
            others += event not in KINDS
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            skipped += 1
    if not others and not any(found.values()):
        raise UserError(f"{path} is no run's log: none of its {skipped} lines is a whole JSON object with an event")
    faults = [f"{skipped} damaged line{'s' * (skipped > 1)} skipped"] if skipped else []
    run = Run(path, path.stem, *found.values(), _steps_beside(path, faults), readable, faults)
    if not (run.results or run.epochs or run.analysis or run.steps):
        raise UserError(f"{path} has nothing to show yet: no whole epoch, evaluation or step")
    return run


def _steps_beside(path, faults):
    """The Steps that the analysis has written beside a log, or None; a damaged file is one of the faults."""
    path = path.with_name(f"{path.stem}_steps.npz")
    try:
        return load_steps(path) if path.is_file() else None
    except ValueError:
        faults.append(f"{path.name} is damaged and left out")
        return None
