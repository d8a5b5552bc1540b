#!/usr/bin/env python3
"""Objective 3, attention through contrast: accuracy on dimmed images, with and without contrast.

Controls: the same network on images whose brightness is normalised instead."""

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
CASES = (  # name, contrast (''; what the flags say), and the side of the square whose brightest pixel others are divided by
    ("plain", "none", None), ("contrast", "", None), ("normalised", "none", 0), ("locally", "none", WINDOW),
)  # fmt: skip


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, ContrastAttentionSNN)
    add_picture_flags(parser)
    return parser


def main(argv=None):
    args, start = resolve_evaluation(build_parser(argv).parse_args(argv), ContrastAttentionSNN)
    suffix = f"_contrast_{args.contrast}_epsilon_{args.epsilon}"
    posthoc = open_posthoc(args, start, ContrastAttentionSNN, suffix)
    posthoc.check_predicts()
    if posthoc.files:
        save_gif(posthoc.run.picture(".gif"), posthoc.watch(), args.frame_seconds)
        posthoc.run.say(f"wrote {posthoc.run.picture('.gif')}")
        return posthoc.finish()
    sets, rows = {"clean": posthoc.test} | dimmed_sets(posthoc.test), []
    for dimming, images in sets.items():
        row = {"dimming": dimming}
        for key, rule, window in CASES:
            posthoc.model.change(contrast=rule or args.contrast)
            shown = images if window is None else normalised(images, window)
            row[key] = posthoc.evaluate(shown, dimming=dimming, contrast=rule or args.contrast, case=key)[0]["accuracy"]
        rows.append(row)
    run, summary = posthoc.run, contrast_summary(rows)
    run.record(event="contrast", **summary)
    posthoc.records.append({"event": "contrast", **summary})
    run.result(*contrast_table(rows, summary))
    save_dimming(run.picture(".png"), rows, args.epsilon, len(posthoc.test))
    posthoc.model.change(contrast=args.contrast)
    save_gif(run.picture(".gif"), posthoc.watch(sets["bottom half"]), args.frame_seconds)
    run.say(f"wrote {run.picture('.png')}, {run.picture('.gif')}")
    return posthoc.finish()


def dimmed_sets(images):
    """name -> ImageSet: one half of each image (top, bottom, left, right) at 15 %, and the whole image at 30 %."""
    height, width = images.images.shape[2:]
    halves = {
        "top": np.s_[..., : height // 2, :],
        "bottom": np.s_[..., height // 2 :, :],
        "left": np.s_[..., : width // 2],
        "right": np.s_[..., width // 2 :],
    }
    return {f"{name} half": dimmed(images, where, HALF) for name, where in halves.items()} | {"whole": dimmed(images, ..., WHOLE)}


def dimmed(images, where, part):
    """An ImageSet like this one; in its batches the pixels of where, an index, have this part of their light, rounded."""

    def change(pixels):
        pixels[where] = (pixels[where] * part).round().to(pixels.dtype)
        return pixels

    return replace(images, change=change)


def normalised(images, window):
    """An ImageSet like this one; in its batches each pixel is divided by the brightest in a square of this side around it,
    or in the image if it is 0, but by a tenth at least."""

    def change(pixels):
        pixels = (images.change(pixels) if images.change else pixels).float()
        brightest = pixels.amax(1, keepdim=True)
        brightest = F.max_pool2d(brightest, window, 1, window // 2) if window else brightest.amax((2, 3), keepdim=True)
        return (255 * pixels / brightest.clamp(min=25.5)).round().byte()

    return replace(images, change=change)


def contrast_summary(rows):
    """clean (with contrast), clean_plain; dimmed_…, means over the kinds of dimming, of each case; regained, the part of the
    accuracy lost by dimming that contrast wins back."""
    clean, dimmed = rows[0], rows[1:]
    summary = {"clean": clean["contrast"], "clean_plain": clean["plain"]}
    summary |= {f"dimmed_{key}": sum(row[key] for row in dimmed) / len(dimmed) for key in clean if key != "dimming"}
    lost = clean["plain"] - summary["dimmed_plain"]
    return summary | {"regained": (summary["dimmed_contrast"] - summary["dimmed_plain"]) / lost if lost > 0 else None}


if __name__ == "__main__":
    run_script(main)
