#!/usr/bin/env python3
"""Check that a run that is killed at random and resumed equals an undisturbed one.

One JSON object is printed: `kills` that hit the run; `while_writing`, those during the
writing of a checkpoint; the number of `runs`; `differences`, which should be empty.
Weights, optimiser, schedule and the best checkpoint are compared bit by bit, records
and lines without their seconds. `python benchmarks/robustness/kill_resume.py`: half a
minute.
"""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wfeedback.idle_threads  # noqa: F401  (before torch)

import torch
from tqdm import tqdm

import snn_wFeedback
from self_models.checkpoints.files import load_checkpoint
from self_models.settings import COUNT, WHOLE
from wfeedback.command_line.parser import Parser, flag_type
from wfeedback.command_line.scripts import run_script
from wfeedback.runs.run import read_records

FLAGS = (
    "-a VGG5_wFeedback_small --fc_width 16 --timesteps 3 --update immediate "
    "--readout membrane_rescaled --epsilon 0.2 --learn_threshold --dropout 0.3 --augment "
    "-lr 2e-3 --lr_schedule cosine --limit_test 32 --holdout 64 --batch_size 16 "
    "--label_smoothing 0.1 --checkpoint_minutes 0.0005 --train_acc_batches 4 --run_name x"
)
CLOCK = ("seconds", "images_per_second", "command", "checkpoint_minutes", "lines")


def main(argv: Sequence[str] | None = None) -> None:
    """Kill and compare, and print what came of it."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--kills", type=flag_type(COUNT), default=20, metavar="N", help="how often to kill"
    )
    parser.add_argument("-s", "--seed", type=flag_type(WHOLE), default=0, help="of the moments")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(kill_and_compare(Path(folder), args.kills, args.seed)))


def kill_and_compare(
    folder: Path,
    kills: int,
    seed: int,
    flags: str = f"{FLAGS} --limit_train 640 --epochs 3",
) -> dict[str, object]:
    """Run a training undisturbed, then kill and resume it as often as asked for.

    Parameters
    ----------
    folder : Path
        An empty folder.
    kills : int
        How often to kill.
    seed : int
        Of the moments.
    flags : str
        Of the run.

    Returns
    -------
    dict
        The JSON object's contents.
    """
    draw = random.Random(seed)
    found = {"kills": 0, "while_writing": 0, "runs": 0, "differences": []}
    alone = folder / "alone"
    process = start(flags, alone)
    process.join()
    assert process.exitcode == 0
    seconds = 0.0
    for record in read_records(alone / "logs/snn/x.jsonl"):
        seconds += record.get("seconds", 0)
    longest_wait = 2 * seconds / kills
    while found["kills"] < kills:
        found["runs"] += 1
        place = folder / str(found["runs"])
        while not is_finished(place):
            process = start(flags, place)
            while_writing = False
            if found["kills"] < kills:
                while_writing = kill(process, place, draw, longest_wait)
            process.join()
            if process.exitcode == 0:
                break
            if process.exitcode != -signal.SIGKILL:
                found["differences"].append(f"exit status {process.exitcode}")
                return found
            found["kills"] += 1
            found["while_writing"] += while_writing
        found["differences"] += compare(alone, place)
    return found


def start(flags: str, place: Path) -> multiprocessing.Process:
    """Start the training script in a process of its own, resumed if the run has begun.

    It is forked from a process that has imported everything, which saves seconds.
    """
    words = [*flags.split(), "--output_dir", str(place)]
    if starts_of(place):
        words.append("--resume")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.robustness.kill_resume"])
    process = context.Process(target=train, args=(words,))
    process.start()
    return process


def train(flags: Sequence[str]) -> None:
    """Run snn_wFeedback.py with these flags, without output."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own lock outlives a killed process
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        run_script(lambda: snn_wFeedback.main(flags))


def kill(
    process: multiprocessing.Process, place: Path, draw: random.Random, longest_wait: float
) -> bool:
    """Kill a run at a random moment after the first record in its log.

    In half of the cases, wait until a file is being written.

    Returns
    -------
    bool
        Whether a file was being written.
    """
    starts = starts_of(place)
    wait_until(lambda: starts_of(place) > starts, process)
    time.sleep(draw.uniform(0, longest_wait))
    while_writing = False
    if draw.random() < 0.5:
        while_writing = wait_until(lambda: is_writing(place), process)
    process.kill()
    return while_writing


def wait_until(condition: Callable[[], bool], process: multiprocessing.Process) -> bool:
    """Wait until a condition holds or the process has ended; return whether it does."""
    while True:
        holds = condition()
        if holds or not process.is_alive():
            return holds
        time.sleep(0.0005)


def is_writing(place: Path) -> bool:
    """Return whether a checkpoint is being written."""
    return any(place.glob("trained_models/snn/.*.tmp"))


def is_finished(place: Path) -> bool:
    """Return whether the run has nothing left to do."""
    last = place / "trained_models/snn/x_last.pth"
    return last.exists() and load_checkpoint(last)["finished"]


def starts_of(place: Path) -> int:
    """Return how often the run has been started or resumed."""
    return sum(record["event"] == "run" for record in read_records(place / "logs/snn/x.jsonl"))


def compare(place: Path, other: Path) -> list[str]:
    """Return the names of what differs between two finished runs."""
    here = contents(place)
    there = contents(other)
    names = here.keys() | there.keys()
    return sorted(name for name in names if here.get(name) != there.get(name))


def contents(place: Path) -> dict[str, object]:
    """Read what a finished run has written, by name, as `timeless` has it."""
    found = {}
    for name in ("x.pth", "x_last.pth"):
        checkpoint = timeless(load_checkpoint(place / "trained_models/snn" / name))
        for key, value in checkpoint.items():
            found[f"{name}: {key}"] = value
    log = (place / "logs/snn/x.log").read_text().splitlines()
    epoch_lines = [line for line in log if line.startswith("epoch ")]
    found["epochs in the log"] = [line.rpartition(";")[0] for line in epoch_lines]
    found["records"] = []
    for record in read_records(place / "logs/snn/x.jsonl"):
        if record["event"] in ("epoch", "evaluation"):
            found["records"].append(timeless(record))
    found["left over"] = [path.name for path in place.rglob(".*.tmp")]
    return found


def timeless(value: object) -> object:
    """Copy a value without entries that depend on the clock or the command.

    Tensors become their type, shape and bytes, so that they are compared bit by bit.
    """
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.cpu().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in CLOCK}
    if isinstance(value, list | tuple):
        return type(value)(map(timeless, value))
    return value


if __name__ == "__main__":
    run_script(main)
