#!/usr/bin/env python3
"""snn_wFeedback.py, its flags and files, but with a blind ramp in the decoder's place: what the rest learns without prediction.

After the first step, which closes the black pixels, every open pixel's prediction rises by the slew limit at each step. Then
`benchmarks/ramp_control.py --pretrained_snn` shows such a network in its case `ramp`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ramp_control import ControlSNN
from harness.command_line.scripts import run_script
from snn_wFeedback import main


class RampSNN(ControlSNN):
    """Input blocking by a ramp."""

    case = "ramp"


if __name__ == "__main__":
    run_script(lambda: main(blocking=RampSNN))
