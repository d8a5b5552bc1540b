#!/usr/bin/env python3
"""Objective 3, attention through contrast: accuracy on dimmed images, with and without contrast.

Controls: the same network on images whose brightness is normalised instead."""

import harness.idle_threads  # noqa: F401  (before torch)

from dataclasses import replace

import numpy as np
import torch.nn.functional as F

from harness.command_line.flags import add_picture_flags, posthoc_parser
from harness.command_line.posthoc import open_posthoc, resolve_evaluation
from harness.command_line.scripts import run_script
from harness.drawing.film import save_gif
from harness.drawing.plots import save_dimming
from harness.measuring.tables import contrast_table
from self_models.objectives.contrast import WINDOW
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN

HALF, WHOLE = 0.15, 0.30  # what is left of the brightness of dimmed images
CONTROLS = {
    "normalised": 0,
    "locally": WINDOW,
}  # name -> side of the square whose brightest pixel others are divided by


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, ContrastAttentionSNN)
    add_picture_flags(parser)
    return parser


def main(argv=None):
    args, start = resolve_evaluation(build_parser(argv).parse_args(argv))
    posthoc = open_posthoc(
        args, start, ContrastAttentionSNN, f"_contrast_{args.contrast}_epsilon_{args.epsilon}"
    )
    posthoc.check_predicts()
    sets = {} if posthoc.files else {"clean": posthoc.test} | dimmed_sets(posthoc.test)
    if sets:
        rows = [accuracies(posthoc, dimming, images) for dimming, images in sets.items()]
        posthoc.keep({"event": "contrast"} | contrast_summary(rows))
        posthoc.run.result(*contrast_table(rows, posthoc.records[-1]))
        posthoc.draw(".png", save_dimming, rows, args.epsilon, len(posthoc.test))
    posthoc.draw(".gif", save_gif, posthoc.watch(sets.get("bottom half")), args.frame_seconds)
    return posthoc.finish()


def accuracies(posthoc, dimming, images):
    """dimming, and name of the case -> accuracy on these images: plain blocking, contrast, and the controls."""
    own, row = posthoc.args.contrast, {"dimming": dimming}
    cases = {"plain": ("none", images), "contrast": (own, images)}
    cases |= {
        name: ("none", changed(images, normalised, window)) for name, window in CONTROLS.items()
    }
    for name, (contrast, shown) in cases.items():
        posthoc.model.change(contrast=contrast)
        row[name] = posthoc.evaluate(shown, dimming=dimming, contrast=contrast, case=name)[0][
            "accuracy"
        ]
    posthoc.model.change(contrast=own)
    return row


def dimmed_sets(images):
    """name -> ImageSet: one half of each image (top, bottom, left, right) at 15 %, and the whole image at 30 %."""
    middle, centre = (size // 2 for size in images.images.shape[2:])
    where = {"top half": np.s_[..., :middle, :], "bottom half": np.s_[..., middle:, :]}
    where |= {
        "left half": np.s_[..., :centre],
        "right half": np.s_[..., centre:],
        "whole": np.s_[...],
    }
    return {
        name: changed(images, dimmed, part, WHOLE if name == "whole" else HALF)
        for name, part in where.items()
    }


def changed(images, change, *how):
    """An ImageSet like this one, in whose batches pixels are change(pixels, *how)."""
    before = images.change or (lambda pixels: pixels)
    return replace(images, change=lambda pixels: change(before(pixels), *how))


def dimmed(pixels, where, part):
    """Pixels of which those of where, an index, have this part of their light, rounded; changed in place."""
    pixels[where] = (pixels[where] * part).round().to(pixels.dtype)
    return pixels


def normalised(pixels, window):
    """Each pixel is divided by the brightest in a square of this side around it, or in the image if it is 0, but by a tenth at
    least."""
    brightest = pixels.float().amax(1, keepdim=True)
    brightest = (
        F.max_pool2d(brightest, window, 1, window // 2)
        if window
        else brightest.amax((2, 3), keepdim=True)
    )
    return (255 * pixels.float() / brightest.clamp(min=25.5)).round().byte()


def contrast_summary(rows):
    """clean (with contrast), clean_plain; dimmed_…, means over the kinds of dimming, of each case; regained, the part of the
    accuracy lost by dimming that contrast wins back."""
    clean, dimmed = rows[0], rows[1:]
    summary = {"clean": clean["contrast"], "clean_plain": clean["plain"]}
    summary |= {
        f"dimmed_{key}": sum(row[key] for row in dimmed) / len(dimmed)
        for key in clean
        if key != "dimming"
    }
    lost = clean["plain"] - summary["dimmed_plain"]
    return summary | {
        "regained": (summary["dimmed_contrast"] - summary["dimmed_plain"]) / lost
        if lost > 0
        else None
    }


if __name__ == "__main__":
    run_script(main)
