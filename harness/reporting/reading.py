"""Runs as a report knows them: read from their JSON lines, whoever wrote these and however much of them is whole."""

import json
from dataclasses import dataclass
from pathlib import Path

from harness import UserError
from harness.drawing.film import Film, load_film
from harness.reporting.records import KINDS

MOST_FAULTS = 5  # of a log that are told one by one


@dataclass
class Run:
    """A run: its log's path and its name; openings, epochs, evaluations, analysis (its steps): what records.py makes of its JSON
    objects; ledgers: of energy; film: of single images, or None; faults: lines that say what was left out of it and why; seed: of
    its random choices; recipe: what runs have in common that only the seed tells apart, NAME of NAME, NAME_1 and NAME_2."""

    path: Path
    name: str
    openings: list
    epochs: list
    evaluations: list
    analysis: list
    ledgers: list
    film: Film | None
    faults: list

    def __post_init__(self):
        self.seed = self.openings[-1].seed if self.openings else 0
        self.recipe = self.name.removesuffix(f"_{self.seed}") if self.seed else self.name

    @property
    def results(self):
        """Its evaluations; of a training run without one its best epoch so far."""
        judged = [epoch.result for epoch in self.epochs if epoch.result]
        return self.evaluations or (judged and [max(judged, key=lambda result: result.accuracy)])

    @property
    def parameters(self):
        """name -> value as text, when the run was last started."""
        return self.openings[-1].parameters if self.openings else {}

    @property
    def is_spiking(self):
        return "pretrained_snn" in self.parameters or any(result.spikes for result in self.results)

    @property
    def has_feedback(self):
        """Whether the network has a decoder; before an evaluation has told, by its architecture's name, or what it predicts."""
        told = [result.feedback for result in self.evaluations if result.feedback is not None]
        predicts = self.film is not None and not self.film.once
        return told[0] if told else predicts or "wFeedback" in self.parameters.get("architecture", "")


def find_runs(words, output_dir):
    """(the Runs that these words name, lines that say which others were left out and why). words: paths of logs, or names of runs
    in output_dir, an ANN's and an SNN's. Raises UserError for a word that names none, and where no log has anything to show."""
    runs, left_out = [], []
    for path in dict.fromkeys(path.resolve() for word in words for path in find_logs(word, output_dir)):
        try:
            runs.append(read_run(path))
        except UserError as error:
            left_out.append(str(error))
    if not runs:
        raise UserError("; ".join(left_out))
    names = [run.name for run in runs]
    for run in runs:
        where = f" ({run.path.parent.name})" * (names.count(run.name) > 1)
        run.name, run.recipe = run.name + where, run.recipe + where
    return runs, [f"left out: {line}" for line in left_out]


def find_logs(word, output_dir):
    """Paths of the logs that a word names."""
    path = Path(word)
    if path.suffix == ".jsonl":
        if not path.is_file():
            raise UserError(f"{word} is not there: give the path of a run's .jsonl, or a run's name")
        return [path]
    if path.is_file():
        raise UserError(f"{word} is no log for programs: give the run's .jsonl")
    found = [Path(output_dir) / "logs" / kind / f"{word}.jsonl" for kind in ("ann", "snn")]
    if not any(path.is_file() for path in found):
        raise UserError(f"there is no run {word}: neither {found[0]} nor {found[1]} is there; --output_dir says where to look")
    return [path for path in found if path.is_file()]


def read_run(path):
    """The Run that wrote this log. Raises UserError where the file can't be read, or holds nothing that a report shows."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    found, faults = {}, []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                event, record = read_record(line)
                found.setdefault(event, []).append(KINDS.get(event, dict)(record))
        except (ValueError, RecursionError) as error:
            faults.append(f"line {number} left out: {str(error)[:200]}")
    if not found:
        raise UserError(f"{path} is no run's log: {faults[0] if faults else 'it is empty'}")
    if len(faults) > MOST_FAULTS:
        faults[MOST_FAULTS:] = [f"{len(faults) - MOST_FAULTS} more lines left out"]
    film, steps_path = None, path.with_name(f"{path.stem}_steps.npz")
    try:
        film = load_film(steps_path) if steps_path.is_file() else None
    except ValueError as error:
        faults.append(f"{steps_path.name} is damaged and left out: {str(error)[:200]}")
    run = Run(path, path.stem, *(found.get(event, []) for event in KINDS), film, faults)
    if not (run.results or run.epochs or run.analysis or run.ledgers or run.film):
        raise UserError(f"{path} has nothing to show yet: no whole epoch, evaluation or step")
    return run


def read_record(line):
    """(event, JSON object) of a line of a log. Raises ValueError or RecursionError."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(event := record.get("event"), str):
        raise ValueError("no whole JSON object with an event")
    return event, record
