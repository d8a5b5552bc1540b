"""Runs, read from their logs."""

import os
from dataclasses import dataclass
from pathlib import Path

from harness import UserError
from harness.runs.run import (
    Paths,
    PublishedPaths,
    name_for_training,
    path_from_here,
    read_records,
)
from self_models.basics.notes import say_once, some
from self_models.loading import MODELS

NEEDED = {
    "run": ("command", "seed", "parameters"),
    "epoch": ("epoch", "train"),
    "evaluation": ("accuracy", "images"),
}  # by event
PICTURES = (
    ".gif",
    ".png",
    "_spikes.png",
    "_raster.png",
    "_sweep.png",
    "_extremes.png",
    "_steps.png",
)  # of a run
USUAL = {
    "gate": ("open", "block"),
    "encoding": ("poisson",),
    "class": MODELS,
}  # other values are told; of gates ε tells which


class Result:
    """An evaluation, or what an epoch was judged by. record: its JSON object, see evaluation_record; spikes: by part of an SNN;
    settings: name -> what it was run with, as text; on: which images; where: that, and what they chose."""

    def __init__(self, record):
        told = record.get
        self.record, self.spikes, values = record, told("spikes"), {}
        if self.spikes:
            values = {"T": told("timesteps"), "ε": told("epsilon") if told("feedback") else None}
            values |= {
                name: told(name) for name, usual in USUAL.items() if told(name) not in usual
            }
        values |= {
            "rule": told("rule"),
            **(told("bounds") or {}),
            "dimming": told("dimming"),
            "contrast": told("contrast"),
        }
        self.settings = {name: str(value) for name, value in values.items() if value is not None}
        epoch = told("epoch") if told("event") == "epoch" else None
        holdout, chose = told("holdout"), told("selected_on") == "test"
        kind = (
            "held-out"
            if holdout or (epoch and not chose)
            else f"{told('dataset') or ''} test".strip()
        )
        if holdout and holdout != record["images"]:
            kind = f"{holdout:,} {kind}"
        self.on = f"{record['images']:,} {kind} images"
        self.where = (
            f"{self.on}, which chose {f'epoch {epoch}' if epoch else 'the epoch'}"
            if epoch or chose
            else self.on
        )

    def label(self, names):
        """'T = 8, ε = 0.2' of those of these settings that it has."""
        return ", ".join(
            f"{name} = {self.settings[name]}" for name in names if name in self.settings
        )


@dataclass
class Run:
    """A run: its log, and event -> the JSON objects in it. recipe: its name without the seed's number, common to its siblings."""

    path: Path
    records: dict

    def __post_init__(self):
        self.openings, self.epochs, self.evaluations = (
            self.records.get(event, []) for event in NEEDED
        )
        self.name, self.seed = self.path.stem, self.openings[-1]["seed"] if self.openings else 0
        self.recipe = self.name.removesuffix(f"_{self.seed}") if self.seed else self.name

    @property
    def results(self):
        """Its evaluations; of a training run without one its best epoch so far."""
        judged = [epoch | epoch["evaluated"] for epoch in self.epochs if epoch.get("evaluated")]
        if self.evaluations or not judged:
            return list(map(Result, self.evaluations))
        best = max(judged, key=lambda epoch: epoch["accuracy"])
        return [Result(best | {"spikes": best.get("parts"), "timesteps": best.get("mean_steps")})]

    @property
    def parameters(self):
        """name -> value as text, when the run was last started."""
        return (
            {name: str(value) for name, value in self.openings[-1]["parameters"].items()}
            if self.openings
            else {}
        )

    @property
    def is_spiking(self):
        return any(result.spikes for result in self.results)

    @property
    def pictures(self):
        """Paths of the pictures that the run has drawn."""
        folder = self.path.absolute().parent
        paths = Paths(folder.name, self.path.stem, folder.parent.parent)
        return [path for path in map(paths.picture, PICTURES) if path.is_file()]


def find_runs(words, output_dir):
    """The Runs that words name: paths of logs, or names in output_dir (ANN and SNN). Raises UserError for any other word."""
    runs = [
        read_run(path)
        for path in dict.fromkeys(
            path.resolve() for word in words for path in find_logs(word, output_dir)
        )
    ]
    for run in runs:
        alike = [other.path.parent for other in runs if other.path.stem == run.path.stem]
        if len(alike) > 1:
            run.name = str(run.path.relative_to(os.path.commonpath(alike)).with_suffix(""))
    return runs


def find_logs(word, output_dir):
    """Paths of the logs that a word names: the user's own or, where there are none, those that came with the program."""
    path = Path(word)
    if path.suffix == ".jsonl" or path.is_file():
        if path.suffix != ".jsonl" or not path.is_file():
            raise UserError(
                f"{word} is no run's log: give the path of a .jsonl that is there, or a run's name"
            )
        return [path]
    names = {kind: name_for_training(kind, word, output_dir) for kind in ("ann", "snn")}
    own = [Paths(kind, name, output_dir).json_path for kind, name in names.items()]
    published = [path_from_here(PublishedPaths(kind, word).json_path) for kind in names]
    found = [path for path in own if path.is_file()]
    if not found:
        found = [path for path in published if path.is_file()]
        if found:
            say_once(f"note: {word} is the run that came with the program: {some(found)}")
    if found:
        return found
    raise UserError(
        f"there is no run {word}: neither {own[0]} nor {own[1]} is there; --output_dir says where to look"
    )


def read_run(path):
    """The Run that wrote this log, without records that lack what a report needs. Raises UserError where there are none."""
    by_event = {}
    for record in read_records(path):
        if all(record.get(name) is not None for name in NEEDED.get(record["event"], ())):
            by_event.setdefault(record["event"], []).append(record)
    if not by_event:
        raise UserError(f"{path} is no run's log")
    return Run(path, by_event)
