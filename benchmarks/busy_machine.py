#!/usr/bin/env python3
"""How much slower is each script where cores are busy? It runs alone and beside programs that only compute, in turns.

One JSON object per line and script: seconds alone and beside `hogs` busy processes (medians over rounds), and their `ratio`; with
as many threads as cores, and as many hogs, 2 is what sharing alone costs. --environment NAME=VALUE is set for the scripts, to
compare (GOMP_SPINCOUNT, OMP_NUM_THREADS; harness/__init__.py says what is set otherwise). --ranks: two ranks of training with one
thread each beside one rank with two, instead.
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import UserError
from harness.command_line.parser import Parser, typed
from harness.command_line.scripts import run_script
from self_models.basics.settings import COUNT

REPOSITORY = Path(__file__).resolve().parents[1]
SNN = "--pretrained_snn trained_models/snn/snn_feedback.pth --epsilon 0.2 --timesteps 8 --engine dense"
POSTHOC = "snn_wFeedback_posthoc_model_"
TRAINING = "--preset quick_feedback --holdout 512 --epochs 1 --overwrite"
SCRIPTS = {  # name -> its flags, for some ten seconds each
    "ann_wFeedback.py": f"{TRAINING} --limit_train 20000 --limit_test 2000",
    "snn_wFeedback.py": f"{TRAINING} --limit_train 4500 --limit_test 1000 --pretrained_ann trained_models/ann/ann_feedback.pth",
    f"{POSTHOC}analysis.py": f"{SNN} --limit_test 1000",
    f"{POSTHOC}inference_obj1.py": f"{SNN} --limit_test 3000",
    f"{POSTHOC}inference_obj2.py": f"{SNN} --limit_test 500",
    f"{POSTHOC}inference_obj3.py": f"{SNN} --limit_test 300",
}
RANKS = {"one rank, two threads": ("1", "2"), "two ranks, one thread each": ("2", "1")}  # name -> ranks, threads


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--scripts", nargs="+", default=list(SCRIPTS), choices=list(SCRIPTS), metavar="SCRIPT")
    parser.add_argument("--hogs", type=typed(COUNT), default=2, metavar="N", help="busy processes")
    parser.add_argument("--rounds", type=typed(COUNT), default=3)
    parser.add_argument("--environment", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--ranks", action="store_true", help="compare ranks on an idle machine instead")
    return parser


def spin():
    while True:
        pass


def timed(command, environment):
    """Seconds that a command takes. Raises UserError with its last line where it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command[1:3])}: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - began


def beside_hogs(count, run):
    """What run() returns while so many processes are busy."""
    hogs = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for hog in hogs:
        hog.start()
    try:
        return run()
    finally:
        for hog in hogs:
            hog.kill()
            hog.join()


def say_script(name, folder, environment, args):
    command = [sys.executable, name, *SCRIPTS[name].split(), "--output_dir", folder]
    alone, beside = [], []
    for _ in range(args.rounds):
        alone.append(timed(command, environment))
        beside.append(beside_hogs(args.hogs, lambda: timed(command, environment)))
    idle, busy = statistics.median(alone), statistics.median(beside)
    row = {"case": name, "idle_s": round(idle, 2), "busy_s": round(busy, 2), "ratio": round(busy / idle, 2)}
    print(json.dumps(row | {"hogs": args.hogs, "environment": environment, "rounds": args.rounds}), flush=True)


def say_ranks(folder, environment, args):
    seconds = {name: [] for name in RANKS}
    for _ in range(args.rounds):
        for name, (ranks, threads) in RANKS.items():
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
            command = [*launcher, "snn_wFeedback.py", *SCRIPTS["snn_wFeedback.py"].split(), "--output_dir", folder]
            seconds[name].append(timed(command, {**environment, "OMP_NUM_THREADS": threads}))
    one, two = (statistics.median(times) for times in seconds.values())
    row = {"case": "ranks", **{f"{name}, s": round(statistics.median(times), 2) for name, times in seconds.items()}}
    print(json.dumps(row | {"ratio": round(two / one, 2), "environment": environment, "rounds": args.rounds}), flush=True)


def main(argv=None):
    args = build_parser().parse_args(argv)
    if bad := [text for text in args.environment if "=" not in text]:
        raise UserError(f"--environment {bad[0]}: write NAME=VALUE")
    environment = dict(text.split("=", 1) for text in args.environment)
    with tempfile.TemporaryDirectory() as folder:
        if args.ranks:
            say_ranks(folder, environment, args)
        for name in () if args.ranks else args.scripts:
            say_script(name, folder, environment, args)


if __name__ == "__main__":
    run_script(main)
