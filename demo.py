#!/usr/bin/env python3
"""The whole path on MNIST: train an ANN, convert it, fine-tune the SNN, draw it, block its input."""

import harness.idle_threads  # noqa: F401  (before torch)

from pathlib import Path

from harness.command_line.parser import Parser
from harness.command_line.scripts import call, run_script

OUTPUT = Path("demo")
QUICK = f"--preset quick_feedback --output_dir {OUTPUT} --overwrite"
FEWER = "--limit_train 30000"  # half of the recipe's images, in half the time
STAGES = {  # what it does -> (command, its flags)
    "train the ANN": ("ann", f"{QUICK} {FEWER}"),
    "convert, fine-tune the SNN": ("snn", f"{QUICK} {FEWER}"),
    "pictures": ("analysis", QUICK),
    "inference": (
        "obj1",
        f"{QUICK} --timesteps 50 --epsilon 0 0.2 --limit_test 2000 --run_name inference",
    ),
    "report": (
        "report",
        f"quick_feedback quick_feedback_posthoc_analysis inference --output_dir {OUTPUT} "
        f"--output {OUTPUT / 'report.html'} --overwrite",
    ),
}


def main(argv=None):
    Parser(f"{__doc__} All is written to {OUTPUT}/, in place of an earlier demo.").parse_args(argv)
    for stage, (name, flags) in STAGES.items():
        print(f"\n== {stage}", end="")
        call(name, flags)
    print(f"\n{OUTPUT / 'report.html'} shows all")


if __name__ == "__main__":
    run_script(main)
