"""The whole path on MNIST: train an ANN, convert it, fine-tune the SNN, draw it, block its input."""  # noqa: E501, W505

import wfeedback.idle_threads  # noqa: F401  (before torch)

from pathlib import Path
from typing import NamedTuple

from wfeedback.command_line.parser import Parser
from wfeedback.command_line.scripts import call

OUTPUT = Path("demo")
QUICK = f"--preset quick_feedback --output_dir {OUTPUT} --overwrite"
FEWER = "--limit_train 30000"  # half of the recipe's images, in half the time
REPORT = OUTPUT / "report.html"


class Stage(NamedTuple):
    """A command that the demo runs.

    Attributes
    ----------
    title : str
        What it does.
    command : str
        One of ``wfeedback.runs.run.COMMANDS``.
    flags : str
        As they would be typed.
    """

    title: str
    command: str
    flags: str


STAGES = (
    Stage("train the ANN", "ann", f"{QUICK} {FEWER}"),
    Stage("convert, fine-tune the SNN", "snn", f"{QUICK} {FEWER}"),
    Stage("pictures", "analysis", QUICK),
    Stage(
        "inference",
        "obj1",
        f"{QUICK} --timesteps 50 --epsilon 0 0.2 --limit_test 2000 --run_name inference",
    ),
    Stage(
        "report",
        "report",
        f"quick_feedback quick_feedback_posthoc_analysis inference --output_dir {OUTPUT} "
        f"--output {REPORT} --overwrite",
    ),
)


def main(argv: list[str] | None = None) -> None:
    """Run all stages, one after the other."""
    Parser(f"{__doc__} All is written to {OUTPUT}/, in place of an earlier demo.").parse_args(argv)
    for stage in STAGES:
        print(f"\n== {stage.title}", end="")
        call(stage.command, stage.flags)
    print(f"\n{REPORT} shows all")
