#!/usr/bin/env python3
"""Does the decoder predict, or would any rising signal do? The same weights with the decoder, with a blind ramp, and free.

One JSON object per line: `case`, accuracy, spikes by part, error, and the share of active pixels open at the end. Cases:
decoder; ramp: after the first step, which closes the black pixels, every open pixel's prediction rises by the slew limit at
each step, whatever the network does; shuffled: each image gets the decoder output of another image; free: no blocking and no
latch, so that the prediction is the decoder's own. With --gap_bound each image stops when the network is that sure.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.command_line import flags  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.errors import run_script
from harness.measuring.posthoc import open_posthoc, posthoc_parser
from self_models.vgg_wFeedback_spiking_target_objective_2 import NEVER, AdaptiveTimestepsSNN

import torch


class ControlSNN(AdaptiveTimestepsSNN):
    """Input blocking and stopping with a decoder whose output may be replaced."""

    case = "decoder"

    def integrate(self, trace, decoded, view):
        if self.case == "ramp":
            looked = view.predicted.any() or not view.is_open.all()
            decoded = torch.full_like(decoded, 1e6 if looked else 0.0)  # limited to the slew
        elif self.case == "shuffled":
            decoded = decoded.roll(1, 0)
        return super().integrate(trace, decoded, view)


def main():
    parser = posthoc_parser(__doc__)
    parser.add_argument("--epsilon", type=flags.NOT_NEGATIVE, default=0.2, help="pixels predicted this well are blocked")
    help_text = "stop an image by the confidence rule of objective 2 at this gap; default: never"
    parser.add_argument("--gap_bound", type=flags.NOT_NEGATIVE, default=NEVER["gap_bound"], help=help_text)
    args = parser.parse_args()
    stop = {"rule": "confidence", "gap_bound": args.gap_bound}
    posthoc = open_posthoc(args, ControlSNN, "_ramp_control", epsilon=args.epsilon, **stop)
    model = posthoc.model
    for case in ("decoder", "ramp", "shuffled", "free"):
        model.case = case
        if case == "free":
            model.set_epsilon(0.0)
            model.latch = False
        record, _ = posthoc.evaluate(case=case)
        shown = {key: record[key] for key in ("accuracy", "mean_steps", "spikes", "reconstruction_error")}
        print(json.dumps({"case": case, "timesteps": model.timesteps, **shown, "open": record["open_share"][-1]}), flush=True)


if __name__ == "__main__":
    run_script(main)
