#!/usr/bin/env python3
"""How long should what is dim wait? Objective 3 with rule `local` for several values of --attention, on held-out images.

One JSON object per line: `attention`, accuracy on clean images and, dimmed, the mean over the five kinds of dimming; then the
value with the best mean of the dimmed, the smallest of equals. The images are the last --holdout training images, which no
committed network was trained on; on test images nothing is chosen. `plain` is blocking without contrast.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.command_line.flags import posthoc_parser  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness import UserError
from harness.command_line.parser import typed
from harness.command_line.posthoc import open_posthoc
from harness.command_line.scripts import run_script
from harness.data.dimming import dimmed_sets
from self_models.basics.settings import FRACTION
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN


def main(argv=None):
    parser = posthoc_parser(__doc__, ContrastAttentionSNN, without=("attention",))
    values = [0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    parser.add_argument("--attention", type=typed(FRACTION), nargs="+", default=values, help="values to try")
    parser.set_defaults(epsilon=0.2, holdout=1000)
    args = parser.parse_args(argv)
    if not args.holdout:
        raise UserError("--holdout 0 is the test images, on which nothing is chosen: leave it out")
    posthoc = open_posthoc(args, ContrastAttentionSNN, "_attention_constant", attention=args.attention[0])
    sets = {"clean": posthoc.test} | dimmed_sets(posthoc.test)

    def measure(**settings):
        posthoc.model.change(**settings)
        found = {name: posthoc.evaluate(images, dimming=name, **settings)[0]["accuracy"] for name, images in sets.items()}
        dimmed = sum(accuracy for name, accuracy in found.items() if name != "clean") / (len(found) - 1)
        print(
            json.dumps({**settings, "images": len(posthoc.test), "clean": found["clean"], "dimmed": round(dimmed, 6)}), flush=True
        )
        return round(dimmed, 6)

    measure(contrast="none")
    posthoc.model.change(contrast="local")
    dimmed = {value: measure(attention=value) for value in args.attention}
    print(json.dumps({"best": max(sorted(dimmed), key=dimmed.get)}))
    posthoc.finish()


if __name__ == "__main__":
    run_script(main)
