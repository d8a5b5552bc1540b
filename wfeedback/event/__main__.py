"""Build the kernel, and check it: ``python -m wfeedback.event``."""

import argparse
import shlex
import sys

import torch

from self_models.errors import ModelError
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.event.build import KINDS, kernel_build, library
from wfeedback.event.conformance import Difference, first_difference
from wfeedback.event.engine import EventEngine
from wfeedback.event.quantize import quantize

DESCRIPTION = (
    "python -m wfeedback.event: build the kernel, say how and where, "
    "and check it against the reference step."
)


def difference_from_step(kind: str) -> Difference | None:
    """Compare the kernel with step() on a small network whose sums are not rounded.

    Parameters
    ----------
    kind : str
        Of the weights, a key of `KINDS`.

    Returns
    -------
    Difference or None
        The first difference; None if there is none.
    """
    torch.manual_seed(0)
    model = InputBlockingSNN(
        "VGG5_wFeedback_small",
        timesteps=6,
        fc_width=32,
        readout="membrane_linear",
        update="immediate",
        default_threshold=0.25,
        epsilon=0.2,
    ).eval()
    for parameter in model.parameters():
        parameter.data.mul_(16).round_().div_(16)
    if kind == "int8":
        model = quantize(model)
    model.batched = False  # the reference step, not whole layers at once
    images = torch.randint(256, (4, *model.image_shape), dtype=torch.uint8)
    return first_difference(model, EventEngine(model), images)


def build_and_check(kind: str) -> None:
    """Build the kernel for weights of this kind, say how and where, and check it.

    Raises
    ------
    ModelError
        If it cannot be built, or differs from the reference step.
    """
    library(kind)
    build = kernel_build(kind)
    for reason in build.reasons:
        print(f"passed over {reason}")
    print(f"{kind}: {shlex.join(build.command)}")
    if build.is_cached:
        print(f"  {build.path}")
    else:
        print("  for this process alone: the user's cache cannot be written")
    difference = difference_from_step(kind)
    if difference:
        raise ModelError(
            f"the kernel differs from the reference step: {difference}: "
            "use --engine dense, and report this"
        )
    print("  spike for spike as the reference step")


def main() -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m wfeedback.event", description=DESCRIPTION)
    parser.parse_args()
    try:
        for kind in KINDS:
            build_and_check(kind)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
