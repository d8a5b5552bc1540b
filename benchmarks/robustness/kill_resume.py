#!/usr/bin/env python3
"""Is a training run that is killed at random moments and resumed equal to an undisturbed one?

One JSON object: `kills` that hit the run; `while_writing`, those during the writing of a checkpoint; the number of `runs`;
`differences`, which should be empty. Weights, optimiser, schedule and the best checkpoint are compared bit by bit, records and
lines without their seconds. `python benchmarks/robustness/kill_resume.py`: half a minute.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import torch
from tqdm import tqdm

import snn_wFeedback
from harness.command_line.parser import Parser, flag_type
from harness.command_line.scripts import run_script
from harness.runs.run import read_records
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import COUNT, WHOLE

FLAGS = (
    "-a VGG5_wFeedback_small --fc_width 16 --timesteps 3 --update immediate --readout membrane_rescaled --epsilon 0.2 "
    "--learn_threshold --dropout 0.3 --augment -lr 2e-3 --lr_schedule cosine --limit_test 32 --holdout 64 --batch_size 16 "
    "--label_smoothing 0.1 --checkpoint_minutes 0.0005 --train_acc_batches 4 --run_name x"
)
CLOCK = ("seconds", "images_per_second", "command", "checkpoint_minutes", "lines")


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument(
        "--kills", type=flag_type(COUNT), default=20, metavar="N", help="how often to kill"
    )
    parser.add_argument("-s", "--seed", type=flag_type(WHOLE), default=0, help="of the moments")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(kill_and_compare(Path(folder), args.kills, args.seed)))


def kill_and_compare(folder, kills, seed, flags=f"{FLAGS} --limit_train 640 --epochs 3"):
    """The JSON object's contents. flags: of the run; folder: an empty one."""
    draw, found = (
        random.Random(seed),
        {"kills": 0, "while_writing": 0, "runs": 0, "differences": []},
    )
    process = start(flags, folder / "alone")
    process.join()
    assert process.exitcode == 0
    seconds = sum(
        record.get("seconds", 0) for record in read_records(folder / "alone/logs/snn/x.jsonl")
    )
    while found["kills"] < kills:
        found["runs"] += 1
        place = folder / str(found["runs"])
        while not is_finished(place):
            process, while_writing = start(flags, place), False
            if found["kills"] < kills:
                while_writing = kill(process, place, draw, 2 * seconds / kills)
            process.join()
            if process.exitcode == 0:
                break
            if process.exitcode != -signal.SIGKILL:
                return found | {
                    "differences": [*found["differences"], f"exit status {process.exitcode}"]
                }
            found["kills"] += 1
            found["while_writing"] += while_writing
        found["differences"] += compare(folder / "alone", place)
    return found


def start(flags, place):
    """The training script in a process of its own, resumed if the run has begun. It is forked from a process that has imported
    everything, which saves seconds."""
    resume = ["--resume"] if starts_of(place) else []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.robustness.kill_resume"])
    process = context.Process(
        target=train, args=([*flags.split(), "--output_dir", str(place), *resume],)
    )
    process.start()
    return process


def train(flags):
    """Run snn_wFeedback.py with these flags, without output."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own lock outlives a killed process
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        run_script(lambda: snn_wFeedback.main(flags))


def kill(process, place, draw, longest):
    """SIGKILL at a random time after the log's first record; half of the time as soon as a file is being written. Returns
    whether one was."""
    starts = starts_of(place)
    wait_until(lambda: starts_of(place) > starts, process)
    time.sleep(draw.uniform(0, longest))
    while_writing = draw.random() < 0.5 and wait_until(
        lambda: any(place.glob("trained_models/snn/.*.tmp")), process
    )
    process.kill()
    return while_writing


def wait_until(condition, process):
    """The condition's value as soon as it is true, or when the process has ended."""
    while not (found := condition()) and process.is_alive():
        time.sleep(0.0005)
    return found


def is_finished(place):
    last = place / "trained_models/snn/x_last.pth"
    return last.exists() and load_checkpoint(last)["finished"]


def starts_of(place):
    """How often the run has been started or resumed."""
    return sum(record["event"] == "run" for record in read_records(place / "logs/snn/x.jsonl"))


def compare(place, other):
    """Names of what differs between two finished runs."""
    a, b = contents(place), contents(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def contents(place):
    """What a finished run has written, name -> value, see timeless()."""
    found = {}
    for name in ("x.pth", "x_last.pth"):
        checkpoint = timeless(load_checkpoint(place / "trained_models/snn" / name))
        found |= {f"{name}: {key}": value for key, value in checkpoint.items()}
    log, records = (
        (place / "logs/snn/x.log").read_text().splitlines(),
        read_records(place / "logs/snn/x.jsonl"),
    )
    found["epochs in the log"] = [
        line.rpartition(";")[0] for line in log if line.startswith("epoch ")
    ]
    found["records"] = [
        timeless(record) for record in records if record["event"] in ("epoch", "evaluation")
    ]
    return found | {"left over": [path.name for path in place.rglob(".*.tmp")]}


def timeless(value):
    """A value without entries that depend on the clock or the command, tensors as what they are bit by bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.cpu().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in CLOCK}
    return type(value)(map(timeless, value)) if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    run_script(main)
