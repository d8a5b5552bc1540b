#!/usr/bin/env python3
"""Does the decoder predict, or would any rising signal do? The same weights with the decoder, with a blind ramp, and free.

One JSON object per line: `case`, accuracy, spikes by part, error, and the share of active pixels open at the end. Cases:
decoder; ramp: after the first step, which closes the black pixels, every open pixel's prediction rises by the slew limit at
each step, whatever the network does; shuffled: each image gets the decoder output of another image of its batch; free: no
blocking and no latch, so that the prediction is the decoder's own. With --rule and its bound each image stops as in objective 2,
but in the case shuffled all run on to the last step (`rule` never): an image that has stopped has no output for another.
`python benchmarks/findings/ramp_control.py --pretrained_snn trained_models/snn/snn_feedback.pth`: 2 minutes.

With `train` as its first word it is snn_wFeedback.py, with its flags, and the ramp in the decoder's place from the first step of
training on: `python benchmarks/findings/ramp_control.py train --preset quick_feedback --run_name ramp --output_dir runs`.
"""

import json
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.flags import posthoc_parser  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.command_line.posthoc import open_posthoc
from harness.building.models import OF_GATE
from benchmarks.findings.controls import ControlSNN, RampSNN
from self_models.loading import MODELS
import snn_wFeedback


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:
        with patch.dict(OF_GATE, block=RampSNN), patch.dict(MODELS, RampSNN=RampSNN):
            return snn_wFeedback.main(argv[1:])
    parser = posthoc_parser(__doc__, ControlSNN)
    parser.set_defaults(epsilon=0.2)
    args = parser.parse_args(argv)
    with patch.dict(MODELS, RampSNN=RampSNN):  # what `train` makes
        posthoc = open_posthoc(args, ControlSNN, "_ramp_control")
    model = posthoc.model
    for case in ("decoder", "ramp", "shuffled", "free"):
        model.case = case
        model.change(rule="never" if case == "shuffled" else args.rule)
        if case == "free":
            model.change(epsilon=0.0, latch=False)
        record, _ = posthoc.evaluate(case=case)
        shown = {key: record[key] for key in ("accuracy", "mean_steps", "spikes", "reconstruction_error")}
        about = {"case": case, "rule": model.settings["rule"], "timesteps": model.timesteps}
        print(json.dumps({**about, **shown, "open": record["open_share"][-1]}), flush=True)


if __name__ == "__main__":
    run_script(main)
