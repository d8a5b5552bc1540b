#!/usr/bin/env python3
"""Does the installed package work in a fresh environment, in a folder outside the repository?

Installs this tree by pip, then runs the commands below in an empty folder. One JSON object per line: `run`, `seconds`, `fault`,
empty if it worked; at the end `changed`, the installed files that are no longer the same (compiled code aside), which should be
empty. `--borrow` takes the dependencies from the environment that runs this: 3 minutes of one core. Without it, pip fetches them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser
from harness.command_line.scripts import run_script

REPOSITORY = Path(__file__).resolve().parents[2]
FEW = "--limit_train 640 --limit_test 100"
RUNS = [  # (command, exit status, words in what it prints)
    ("wfeedback", 0, "Train the ANN"),
    ("wfeedback obj1 --help", 0, "usage: wfeedback obj1"),
    ("wfeedback ann", 2, "--preset quick_feedback"),
    ("wfeedback anm", 2, "did you mean ann?"),
    ("wfeedback analysis --preset accurate_feedback --chart_images 16", 0, "wrote trained_models/snn/"),
    (
        "wfeedback snn_wFeedback_posthoc_model_inference_obj1.py --preset quick_feedback --limit_test 100",
        0,
        "git revision: unknown",
    ),
    ("wfeedback obj2 --preset quick_feedback --limit_test 100 --rules confidence", 0, "confidence"),
    ("wfeedback obj3 --preset quick_feedback --limit_test 100", 0, "contrast"),
    ("wfeedback snn --preset quick_feedback", 2, "this makes it: wfeedback ann --preset quick_feedback; the repository has"),
    ("wfeedback compare quick_feedback quick_baseline --seeds 0 1 2 3 4", 0, "5 pairs"),
    (f"wfeedback ann --preset quick_feedback {FEW}", 0, "accuracy"),
    (f"wfeedback snn --preset quick_feedback {FEW}", 0, "accuracy"),
    ("wfeedback report quick_feedback quick_feedback_posthoc_analysis", 2, "quick_feedback_posthoc_analysis"),
    ("wfeedback report quick_feedback", 0, "wrote report.html"),
    ("wfeedback export trained_models/snn/quick_feedback.pth --to torch", 0, "wrote"),
    ("wfeedback ann --dataset CIFAR10 -a VGG8_small", 2, "cache/snn_wFeedback/data"),  # no network: a proxy that is none
    ("wfeedback demo --help_all", 0, "usage: wfeedback demo"),
]
PYTHON = """
from self_models import load, evaluate, read_images, load_data
import harness.command_line.flags
test = load_data("MNIST")[2]
found = evaluate(load("trained_models/snn/quick_feedback.pth"), test.images[:50], test.labels[:50])
print("accuracy", found["accuracy"])
try:
    load("trained_models/snn/snn_feedback.pth")
except ValueError as error:
    load(str(error).split("; ")[1].split(" came")[0])
    print(error)
"""


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--borrow", action="store_true", help="install no other package: see above")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        fresh, work = folder / "fresh", folder / "work"
        work.mkdir()
        venv.create(fresh, with_pip=True)
        (site,) = (fresh / "lib").glob("*/site-packages")
        if args.borrow:
            (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
        python = fresh / "bin/python"
        subprocess.run([python, "-m", "pip", "install", "-q", *["--no-deps"] * args.borrow, REPOSITORY], check=True)
        before = state(site)
        no_network = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
        environment = {**os.environ, **no_network, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
        for command, status, words in [*RUNS, ([python, "-c", PYTHON], 0, "came with the program")]:
            began = time.perf_counter()
            own = [fresh / "bin/wfeedback", *command.split()[1:]] if isinstance(command, str) else command
            done = subprocess.run(own, capture_output=True, text=True, cwd=work, env=environment)
            said = done.stdout + done.stderr + "".join(path.read_text() for path in work.glob("logs/*/*.log"))
            ok = done.returncode == status and words in said and "Traceback" not in said
            run = command if isinstance(command, str) else "python: load, evaluate, load_data"
            fault = "" if ok else f"status {done.returncode}: {(done.stdout + done.stderr)[-400:]}"
            print(json.dumps({"run": run, "seconds": round(time.perf_counter() - began, 1), "fault": fault}), flush=True)
        print(json.dumps({"changed": sorted({path for path, _ in before ^ state(site)})}))


def state(site):
    """(relative path, size) of each file of the package, compiled code aside."""
    own = [path for room in ("wfeedback", "harness", "self_models") for path in (site / room).rglob("*") if path.is_file()]
    return {(str(path.relative_to(site)), path.stat().st_size) for path in own if "__pycache__" not in path.parts}


if __name__ == "__main__":
    run_script(main)
