"""Runs as a report knows them, read from their JSON lines, however much of these is whole."""

import json
from dataclasses import dataclass
from pathlib import Path

from harness import UserError
from harness.drawing.film import Film, load_film
from harness.runs.runlog import latest
from self_models.loading import MODELS

NUMBER = (int, float)
REQUIRED = {  # event -> what a report needs of its JSON object, name -> kind
    "run": {
        **dict.fromkeys(("began", "time", "command", "git_revision"), str),
        "seed": int,
        "versions": dict,
        "parameters": dict,
    },
    "epoch": {"epoch": int, "train": dict},
    "evaluation": {"accuracy": NUMBER, "images": int},
    "step": {"step": int, "squared_error": NUMBER},
    "ledger": {"lines": list, "tables": list},
}
TOLD = {"gate": ("open", "block"), "encoding": ("poisson",), "class": MODELS}  # where they are not these; of gates ε tells which


class Result:
    """An evaluation, or what an epoch was judged by. record: its JSON object, see evaluation_record; spikes: by part of an SNN;
    settings: name -> what it was run with, as text; on: which images; where: that without their number, and what they chose."""

    def __init__(self, record):
        told = record.get
        self.record, self.spikes, self.confusion = record, told("spikes"), told("confusion")
        found = {"T": told("timesteps"), "ε": told("epsilon")} if self.spikes else {}
        found |= {name: told(name) for name, usual in TOLD.items() if self.spikes and told(name) not in usual}
        found |= {"rule": told("rule"), **(told("bounds") or {}), "dimming": told("dimming"), "contrast": told("contrast")}
        self.settings = {name: str(value) for name, value in found.items() if value is not None}
        epoch = told("epoch") if told("event") == "epoch" else None
        holdout, chose = told("holdout"), told("selected_on") == "test"
        kind = "held-out" if holdout or (epoch and not chose) else f"{told('dataset') or ''} test".strip()
        images = f"{holdout:,} {kind} images" if holdout else f"{kind} images"
        self.on = f"{record['images']:,} {images}"
        self.where = f"{images}, which chose {f'epoch {epoch}' if epoch else 'the epoch'}" if epoch or chose else images

    def label(self, names):
        """'T = 8, ε = 0.2' of those of these settings that it has."""
        return ", ".join(f"{name} = {self.settings[name]}" for name in names if name in self.settings)


@dataclass
class Run:
    """A run: its log's path and its name; objects: event -> the JSON objects of its log; film: of single images, or None; faults:
    lines that say what was left out of it and why; seed: of its random choices; recipe: what runs have in common that only the
    seed tells apart, NAME of NAME, NAME_1 and NAME_2; mark: its short name in a page."""

    path: Path
    name: str
    objects: dict
    film: Film | None
    faults: list
    mark: str = ""

    def __post_init__(self):
        self.openings, self.epochs, self.evaluations, self.steps, self.ledgers = (self.objects[event] for event in REQUIRED)
        self.seed = self.openings[-1]["seed"] if self.openings else 0
        self.recipe = self.name.removesuffix(f"_{self.seed}") if self.seed else self.name

    @property
    def title(self):
        return f"{self.mark} {self.name}"

    @property
    def results(self):
        """Its evaluations; of a training run without one its best epoch so far."""
        if self.evaluations or not (judged := [epoch for epoch in self.epochs if epoch.get("evaluated")]):
            return list(map(Result, self.evaluations))
        best = max(judged, key=lambda epoch: epoch["evaluated"]["accuracy"])
        renamed = {"spikes": "parts", "spikes_per_layer": "spikes", "timesteps": "mean_steps"}  # an evaluation's name -> here
        return [Result(best | best["evaluated"] | {name: best["evaluated"].get(here) for name, here in renamed.items()})]

    @property
    def parameters(self):
        """name -> value as text, when the run was last started."""
        return {name: str(value) for name, value in self.openings[-1]["parameters"].items()} if self.openings else {}

    @property
    def is_spiking(self):
        return "pretrained_snn" in self.parameters or any(result.spikes for result in self.results)


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
    if path.suffix == ".jsonl" or path.is_file():
        if path.suffix != ".jsonl" or not path.is_file():
            raise UserError(f"{word} is no run's log: give the path of a .jsonl that is there, or a run's name")
        return [path]
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
    records, faults = [], []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                records.append(read_record(line))
        except ValueError as error:
            faults.append(f"line {number} {error}")
    found = {event: [] for event in REQUIRED}
    for record in latest(records):
        found.setdefault(record["event"], []).append(record)
    if not any(found.values()):
        raise UserError(f"{path} is no run's log: {faults[0] if faults else 'it is empty'}")
    faults = [f"left out {len(faults)} of its lines; the first: {faults[0]}"] if faults else []
    film, steps_path = None, path.with_name(f"{path.stem}_steps.npz")
    try:
        film = load_film(steps_path) if steps_path.is_file() else None
    except ValueError as error:
        faults.append(f"{steps_path.name} is damaged and left out: {str(error)[:200]}")
    run = Run(path, path.stem, found, film, faults)
    if not (run.results or run.epochs or run.steps or run.ledgers or run.film):
        raise UserError(f"{path} has nothing to show yet: no whole epoch, evaluation or timestep")
    return run


def read_record(line):
    """The JSON object of a line of a log. Raises ValueError where it is none, or lacks what a report needs."""
    try:
        record = json.loads(line)
        required = REQUIRED.get(record["event"], {})
    except (ValueError, TypeError, LookupError, RecursionError):
        raise ValueError("is no whole JSON object with an event") from None
    if lacking := [name for name, kind in required.items() if not isinstance(record.get(name), kind)]:
        raise ValueError(f"has no {lacking[0]}")
    return record
