#!/usr/bin/env python3
"""Objective 3, attention through contrast: accuracy on dimmed images, with and without contrast.

Controls: the same network on images whose brightness is normalised instead.
"""  # noqa: W505

import wfeedback.idle_threads  # noqa: F401  (before torch)

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from self_models.data.sets import ImageSet
from self_models.feedback.contrast import WINDOW
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN
from wfeedback.arguments import Arguments
from wfeedback.building.models import lines_on_flags, new_snn, use_engine
from wfeedback.command_line.flags import add_picture_flags
from wfeedback.command_line.parser import Parser
from wfeedback.command_line.posthoc import (
    check_predicts,
    choose_images,
    end_run,
    evaluate,
    film_images,
    load_weights,
    open_evaluated,
    open_run,
    posthoc_parser,
    shown_images,
)
from wfeedback.command_line.scripts import run_script
from wfeedback.drawing.film import save_gif
from wfeedback.drawing.plots import save_dimming
from wfeedback.measuring.log_lines import counts_operations
from wfeedback.measuring.tables import contrast_table
from wfeedback.runs.run import Run

DIMMED_HALF = 0.15  # what is left of the brightness of half an image
DIMMED_WHOLE = 0.30  # and of a whole image
# Control -> side in pixels of the square whose brightest pixel each pixel is divided
# by; 0: of the image.
CONTROLS = {"normalised": 0, "locally": WINDOW}


def build_parser(argv: list[str] | None = None) -> Parser:
    """Return the parser. argv may have a --model, whose settings are flags, too."""
    parser = posthoc_parser(__doc__, argv, ContrastAttentionSNN)
    add_picture_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> list[dict]:
    """Evaluate all kinds of dimming; return the records, and a summary."""
    args = build_parser(argv).parse_args(argv)

    # --- the checkpoint, the network, and its images
    start = open_evaluated(args)
    model = new_snn(args, ContrastAttentionSNN)
    notes = list(lines_on_flags(args, model, start))
    images = choose_images(args, model, start)
    engine_line = use_engine(model, args)
    run = open_run(args, f"_contrast_{args.contrast}_epsilon_{args.epsilon}")
    run.say(*notes, *images.notes, engine_line)
    load_weights(model, start, images, args, run)
    check_predicts(model, args)

    # --- accuracy on dimmed images. Those of one's own have no labels, so none is
    # known.
    records = []
    pictures = []
    filmed = images.test
    if not images.files:
        counts = counts_operations(model, run.say)
        rows = []
        sets = {"clean": images.test} | dimmed_sets(images.test)
        for dimming, dimmed_images in sets.items():
            row, row_records = accuracies(model, dimming, dimmed_images, args, run, counts)
            rows.append(row)
            records += row_records
        summary = {"event": "contrast"} | contrast_summary(rows)
        records.append(summary)
        run.record(**summary)
        run.result(*contrast_table(rows, summary))
        pictures.append(run.picture(".png"))
        save_dimming(pictures[-1], rows, args.epsilon, len(images.test))
        filmed = sets["bottom half"]

    # --- a GIF of what the network sees and predicts
    device = next(model.parameters()).device
    batch = shown_images(args, images, device, filmed)
    film = film_images(model, batch, images, args, run)
    pictures.append(run.picture(".gif"))
    save_gif(pictures[-1], film, args.frame_seconds)
    end_run(args, run, records, pictures)
    return records


def accuracies(
    model: VGG_SNN_STDB_wFeedback,
    dimming: str,
    images: ImageSet,
    args: Arguments,
    run: Run,
    counts: bool,
) -> tuple[dict, list[dict]]:
    """Evaluate plain blocking, contrast, and the controls on the same images.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
    dimming : str
        How the images are dimmed, for the records.
    images : ImageSet
    args : Arguments
    run : Run
    counts : bool
        Whether operations are counted.

    Returns
    -------
    row : dict
        ``dimming``, and the accuracy of each case by its name.
    records : list of dict
        The record of each evaluation.
    """
    cases = {"plain": ("none", images), "contrast": (args.contrast, images)}
    for name, window in CONTROLS.items():
        cases[name] = ("none", with_change(images, normalised, window))
    row = {"dimming": dimming}
    records = []
    for name, (contrast, shown) in cases.items():
        model.change(contrast=contrast)
        record, _ = evaluate(
            model, shown, args, run, counts, dimming=dimming, contrast=contrast, case=name
        )
        records.append(record)
        row[name] = record["accuracy"]
    model.change(contrast=args.contrast)
    return row, records


def dimmed_sets(images: ImageSet) -> dict[str, ImageSet]:
    """Return images with each half in turn dimmed to 15 %, or the whole to 30 %."""
    height, width = images.images.shape[2:]
    where = {
        "top half": np.s_[..., : height // 2, :],
        "bottom half": np.s_[..., height // 2 :, :],
        "left half": np.s_[..., : width // 2],
        "right half": np.s_[..., width // 2 :],
    }
    sets = {name: with_change(images, dimmed, part, DIMMED_HALF) for name, part in where.items()}
    sets["whole"] = with_change(images, dimmed, np.s_[...], DIMMED_WHOLE)
    return sets


def with_change(images: ImageSet, change: Callable, *arguments: object) -> ImageSet:
    """Return an image set like this one, in whose batches pixels are changed.

    Parameters
    ----------
    images : ImageSet
    change : callable
        ``change(pixels, *arguments)`` returns other pixels (B, C, H, W), uint8.
    *arguments
        For ``change``.
    """
    earlier_change = images.change

    def change_pixels(pixels: torch.Tensor) -> torch.Tensor:
        if earlier_change:
            pixels = earlier_change(pixels)
        return change(pixels, *arguments)

    return replace(images, change=change_pixels)


def dimmed(pixels: torch.Tensor, where: tuple, part: float) -> torch.Tensor:
    """Darken some pixels, in place.

    Parameters
    ----------
    pixels : Tensor of shape (B, C, H, W), uint8
    where : tuple
        Index of the pixels.
    part : float
        What is left of their brightness.
    """
    pixels[where] = (pixels[where] * part).round().to(pixels.dtype)
    return pixels


def normalised(pixels: torch.Tensor, window: int) -> torch.Tensor:
    """Divide each pixel by the brightest around it, but at least by a tenth of full.

    Parameters
    ----------
    pixels : Tensor of shape (B, C, H, W), uint8
    window : int
        Side of the square around a pixel whose brightest counts; 0: the whole image.
    """
    brightest = pixels.float().amax(1, keepdim=True)
    if window:
        brightest = F.max_pool2d(brightest, window, 1, window // 2)
    else:
        brightest = brightest.amax((2, 3), keepdim=True)
    return (255 * pixels.float() / brightest.clamp(min=25.5)).round().byte()


def contrast_summary(rows: list[dict]) -> dict[str, float | None]:
    """Summarise the accuracies of all kinds of dimming.

    Parameters
    ----------
    rows : list of dict
        See ``accuracies``. The first is of images that are not dimmed.

    Returns
    -------
    dict
        ``clean`` (with contrast), ``clean_plain``; ``dimmed_CASE``, means over the
        kinds of dimming; ``regained``, the part of the accuracy lost by dimming that
        contrast wins back, None where none is lost.
    """
    clean = rows[0]
    dimmed_rows = rows[1:]
    summary = {"clean": clean["contrast"], "clean_plain": clean["plain"]}
    for case in clean:
        if case != "dimming":
            total = sum(row[case] for row in dimmed_rows)
            summary[f"dimmed_{case}"] = total / len(dimmed_rows)
    lost = clean["plain"] - summary["dimmed_plain"]
    summary["regained"] = None
    if lost > 0:
        summary["regained"] = (summary["dimmed_contrast"] - summary["dimmed_plain"]) / lost
    return summary


if __name__ == "__main__":
    run_script(main)
