"""python -m self_models.engines.event: build the kernel, say how and where, and check it against the reference step."""

import argparse
import shlex
import sys

import torch

from self_models.basics import ModelError
from self_models.engines.event.build import KINDS, built, library
from self_models.engines.event.engine import EventEngine
from self_models.guests.conformance import first_difference
from self_models.guests.quantize import quantize
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def checked(kind):
    """The first difference between the kernel and step() on a small network whose sums are not rounded, or None."""
    torch.manual_seed(0)
    settings = {
        "readout": "membrane_linear",
        "update": "immediate",
        "default_threshold": 0.25,
        "epsilon": 0.2,
    }
    model = InputBlockingSNN("VGG5_wFeedback_small", timesteps=6, fc_width=32, **settings).eval()
    for parameter in model.parameters():
        parameter.data.mul_(16).round_().div_(16)
    if kind == "int8":
        model = quantize(model)
    model.batched = False
    return first_difference(
        model, EventEngine(model), torch.randint(256, (4, *model.image_shape), dtype=torch.uint8)
    )


def main():
    argparse.ArgumentParser(
        prog="python -m self_models.engines.event", description=__doc__
    ).parse_args()
    try:
        for kind in KINDS:
            library(kind)
            compiled = built(kind)
            print(
                *(f"passed over {reason}\n" for reason in compiled.reasons),
                f"{kind}: {shlex.join(compiled.command)}",
                sep="",
            )
            print(
                f"  {compiled.path}"
                if compiled.kept
                else "  for this process alone: the user's cache cannot be written"
            )
            if differs := checked(kind):
                raise ModelError(
                    f"the kernel differs from the reference step: {differs}: use --engine dense, and report this"
                )
            print("  spike for spike as the reference step")
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
