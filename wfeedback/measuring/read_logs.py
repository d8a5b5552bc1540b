"""Runs, read from their logs."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from self_models.checkpoints.loading import MODELS
from self_models.data.images import ELSEWHERE, lasting_name
from self_models.errors import UserError
from self_models.notes import say_once, some
from wfeedback.runs.run import (
    Paths,
    PublishedPaths,
    name_for_training,
    path_from_here,
    read_records,
)

NEEDED = {  # event -> entries without which a record is left out
    "run": ("command", "seed", "parameters"),
    "epoch": ("epoch", "train"),
    "evaluation": ("accuracy", "images"),
}
PICTURES = (  # how the names of a run's pictures end
    ".gif",
    ".png",
    "_spikes.png",
    "_raster.png",
    "_sweep.png",
    "_extremes.png",
    "_steps.png",
)
# Entry of a record -> values that are not shown with a result. Its epsilon tells
# whether the gate is open or blocks.
USUAL = {
    "gate": ("open", "block"),
    "encoding": ("poisson",),
    "class": MODELS,
}


class Result:
    """An evaluation, or what an epoch was judged by.

    Parameters
    ----------
    record : dict
        Its record, as ``evaluation_record`` composes it.

    Attributes
    ----------
    record : dict
        The same.
    spikes : dict of {str: float} or None
        Spikes per image by part, of an SNN.
    settings : dict of {str: str}
        How the network was run, as far as it does not go without saying.
    on : str
        On how many images, and which.
    where : str
        That, and what these images have chosen.
    """

    def __init__(self, record: dict):
        self.record = record
        self.spikes = record.get("spikes")
        self.settings = _settings_of_result(record)
        epoch = record.get("epoch") if record.get("event") == "epoch" else None
        chose_epoch = record.get("selected_on") == "test"
        self.on = f"{record['images']:,} {_kind_of_images(record, epoch, chose_epoch)} images"
        self.where = self.on
        if epoch:
            self.where = f"{self.on}, which chose epoch {epoch}"
        elif chose_epoch:
            self.where = f"{self.on}, which chose the epoch"

    def label(self, names: Iterable[str]) -> str:
        """Return "T = 8, ε = 0.2" of those of these settings that it has."""
        texts = [f"{name} = {self.settings[name]}" for name in names if name in self.settings]
        return ", ".join(texts)


def _settings_of_result(record: dict) -> dict[str, str]:
    """Return how a network was run, from the record of its evaluation."""
    values = {}
    if record.get("spikes"):
        values["T"] = record.get("timesteps")
        values["ε"] = record.get("epsilon") if record.get("feedback") else None
        for name, usual in USUAL.items():
            if record.get(name) not in usual:
                values[name] = record.get(name)
    values["rule"] = record.get("rule")
    values |= record.get("bounds") or {}
    values["dimming"] = record.get("dimming")
    values["contrast"] = record.get("contrast")
    return {name: str(value) for name, value in values.items() if value is not None}


def _kind_of_images(record: dict, epoch: int | None, chose_epoch: bool) -> str:
    """Return which images were evaluated, such as "MNIST test" or "held-out".

    If only some of the held-out images were evaluated, their number is said, too.
    """
    holdout = record.get("holdout")
    if not holdout and (not epoch or chose_epoch):
        return f"{record.get('dataset') or ''} test".strip()
    if holdout and holdout != record["images"]:
        return f"{holdout:,} held-out"
    return "held-out"


@dataclass
class RunLog:
    """What a run has recorded.

    Attributes
    ----------
    path : Path
        Its log.
    records : dict of {str: list of dict}
        Event -> the records in it.
    openings, epochs, evaluations : list of dict
        The records of these events: each start of the run, its epochs, its evaluations.
    name : str
        What it is called here.
    seed : int
        Its seed.
    recipe : str
        Its name without the number of its seed, which its siblings have in common.
    """

    path: Path
    records: dict[str, list[dict]]

    def __post_init__(self):
        """Sort the records, and read name and seed from them."""
        self.openings = self.records.get("run", [])
        self.epochs = self.records.get("epoch", [])
        self.evaluations = self.records.get("evaluation", [])
        self.name = self.path.stem
        self.seed = self.openings[-1]["seed"] if self.openings else 0
        self.recipe = self.name
        if self.seed:
            self.recipe = self.name.removesuffix(f"_{self.seed}")

    @property
    def results(self) -> list[Result]:
        """Its evaluations; of a training without one, its best epoch so far."""
        known = {}
        dataset = self.parameters.get("dataset")
        if dataset:  # called as records of evaluations call it; those of epochs do not
            known["dataset"] = lasting_name(dataset).removeprefix(ELSEWHERE)
        if self.evaluations:
            return [Result(known | record) for record in self.evaluations]
        judged = [epoch | epoch["evaluated"] for epoch in self.epochs if epoch.get("evaluated")]
        if not judged:
            return []
        best = max(judged, key=lambda epoch: epoch["accuracy"])
        # The record of an epoch has other names for these than that of an evaluation.
        renamed = {"spikes": best.get("parts"), "timesteps": best.get("mean_steps")}
        return [Result(known | best | renamed)]

    @property
    def parameters(self) -> dict[str, str]:
        """The flags, as texts, of the run's last start."""
        if not self.openings:
            return {}
        return {name: str(value) for name, value in self.openings[-1]["parameters"].items()}

    @property
    def is_spiking(self) -> bool:
        """Whether it has results of an SNN."""
        return any(result.spikes for result in self.results)

    @property
    def pictures(self) -> list[Path]:
        """The pictures that it has drawn."""
        folder = self.path.absolute().parent
        paths = Paths(folder.name, self.path.stem, folder.parent.parent)
        pictures = [paths.picture(ending) for ending in PICTURES]
        return [path for path in pictures if path.is_file()]


def find_runs(words: Iterable[str], output_dir: str) -> list[RunLog]:
    """Read the logs of the runs that a user names.

    Parameters
    ----------
    words : iterable of str
        Paths of logs, or names of runs. A name may stand for an ANN and an SNN.
    output_dir : str
        Folder of the user's runs.

    Returns
    -------
    list of RunLog
        Each run once. Those that would have the same name are told apart by their
        folders.

    Raises
    ------
    UserError
        If a word names no log.
    """
    paths = []
    for word in words:
        paths += [path.resolve() for path in find_logs(word, output_dir)]
    runs = [read_run(path) for path in dict.fromkeys(paths)]
    for run in runs:
        folders = [other.path.parent for other in runs if other.path.stem == run.path.stem]
        if len(folders) > 1:
            common_folder = os.path.commonpath(folders)
            run.name = str(run.path.relative_to(common_folder).with_suffix(""))
    return runs


def find_logs(word: str, output_dir: str) -> list[Path]:
    """Find the logs that a word names.

    Parameters
    ----------
    word : str
        Path of a log, or the name of a run.
    output_dir : str
        Folder of the user's runs.

    Returns
    -------
    list of Path
        The user's own logs of this name, of an ANN and an SNN. If there are none, those
        that came with the program, which a note says.

    Raises
    ------
    UserError
        If there are none at all.
    """
    path = Path(word)
    if path.suffix == ".jsonl" or path.is_file():
        if path.suffix != ".jsonl" or not path.is_file():
            raise UserError(
                f"{word} is no run's log: give the path of a .jsonl that is there, or a run's name"
            )
        return [path]

    own_logs = []
    published_logs = []
    for kind in ("ann", "snn"):
        name = name_for_training(kind, word, output_dir)
        own_logs.append(Paths(kind, name, output_dir).json_path)
        published_logs.append(path_from_here(PublishedPaths(kind, word).json_path))
    found = [path for path in own_logs if path.is_file()]
    if found:
        return found
    found = [path for path in published_logs if path.is_file()]
    if found:
        say_once(f"note: {word} is the run that came with the program: {some(found)}")
        return found
    raise UserError(
        f"there is no run {word}: neither {own_logs[0]} nor {own_logs[1]} is there; "
        "--output_dir says where to look"
    )


def read_run(path: Path) -> RunLog:
    """Read the log of a run.

    Parameters
    ----------
    path : Path
        Its ``.jsonl``.

    Returns
    -------
    RunLog
        Without the records that lack what a report needs.

    Raises
    ------
    UserError
        If no record is left.
    """
    by_event = {}
    for record in read_records(path):
        event = record["event"]
        if all(record.get(name) is not None for name in NEEDED.get(event, ())):
            by_event.setdefault(event, []).append(record)
    if not by_event:
        raise UserError(f"{path} is no run's log")
    return RunLog(path, by_event)
