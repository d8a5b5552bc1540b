#!/usr/bin/env python3
"""Draw a trained SNN's predictions over time, its spikes, and single neurons.

Writes a GIF with a frame for each timestep from the first that blocks a pixel, and
charts.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

from dataclasses import replace
from pathlib import Path

import numpy as np

from self_models.evaluation.evaluate import spikes_over_time
from self_models.running.outputs import by_part
from self_models.settings import COUNT
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.building.models import lines_on_flags, new_snn, use_engine
from wfeedback.command_line.flags import add_baseline_flag, add_picture_flags
from wfeedback.command_line.parser import Parser, flag_type
from wfeedback.command_line.posthoc import (
    check_predicts,
    choose_images,
    end_run,
    film_images,
    load_weights,
    open_baseline,
    open_evaluated,
    open_run,
    posthoc_parser,
    shown_images,
    titles_of,
)
from wfeedback.command_line.scripts import run_script
from wfeedback.drawing.film import save_contact_sheet, save_gif
from wfeedback.drawing.plots import save_spikes_over_time
from wfeedback.drawing.raster import raster_of, save_raster
from wfeedback.measuring.log_lines import spikes_text
from wfeedback.measuring.tables import blocked_percent
from wfeedback.runs.run import counted
from wfeedback.runs.saving import write_whole


def build_parser(argv: list[str] | None = None) -> Parser:
    """Return the parser. argv may have a --model, whose settings are flags, too."""
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN)
    group = add_picture_flags(parser)
    group.add_argument(
        "--chart_images",
        type=flag_type(COUNT),
        default=200,
        metavar="N",
        help="test images whose spikes are charted",
    )
    add_baseline_flag(group, "the baseline's spikes")
    group.add_argument(
        "--raster",
        type=flag_type(COUNT),
        nargs="?",
        const=20,
        default=None,
        metavar="N",
        help=(
            "also draw the first image's spikes of N neurons of each layer, and three membrane "
            "potentials, and save them as .npz; default of N: 20"
        ),
    )
    return parser


def main(argv: list[str] | None = None) -> list[dict]:
    """Draw a network's predictions and spikes; there are no evaluations to return."""
    args = build_parser(argv).parse_args(argv)

    # --- the checkpoint, the network, and its images
    start = open_evaluated(args)
    model = new_snn(args, InputBlockingSNN)
    notes = list(lines_on_flags(args, model, start))
    images = choose_images(args, model, start)
    engine_line = use_engine(model, args)
    run = open_run(args, "_posthoc_analysis")
    run.say(*notes, *images.notes, engine_line)
    load_weights(model, start, images, args, run)
    check_predicts(model, args)
    device = next(model.parameters()).device

    # --- the images that are shown, and the spikes of those that are charted
    batch = shown_images(args, images, device)
    film = film_images(model, batch, images, args, run)
    baseline = open_baseline(args, model)
    charted = images.test.part(0, args.chart_images)
    spikes, open_share, accuracy = spikes_over_time(
        model, charted.batches(args.batch_size, device), args.seed
    )
    networks = {Path(args.pretrained_snn or args.pretrained_ann).stem: spikes}
    if baseline:
        shown_spikes, _, _ = spikes_over_time(baseline, [batch], args.seed)
        summed = {layer: np.cumsum(counts) for layer, counts in shown_spikes.items()}
        film = replace(film, baseline=summed)
        batches = charted.batches(args.batch_size, device)
        charted_spikes, _, _ = spikes_over_time(baseline, batches, args.seed)
        networks[Path(args.baseline).stem] = charted_spikes

    # --- pictures
    kind = "test images"
    if images.files:
        kind = "images of your own"
    elif args.holdout:
        kind = "held-out images"
    which = f"the first {len(charted):,} {kind}"
    pictures = [run.picture(".gif"), run.picture(".png"), run.picture("_spikes.png")]
    save_gif(pictures[0], film, args.frame_seconds)
    save_contact_sheet(pictures[1], film)
    save_spikes_over_time(pictures[2], networks, open_share, film.setting, which)

    # --- figures
    verdict = "charted" if accuracy is None else f"accuracy {100 * accuracy:.2f} %"
    totals = {layer: sum(counts) for layer, counts in spikes.items()}
    run.result(f"{verdict}: {which}", spikes_text(by_part(totals), spikes))
    run.say(f"the {counted(len(film.images), 'image')} shown:")
    for t in range(model.timesteps):
        error = film.errors[t].mean()
        share = film.blocked[t].mean()
        run.record(
            f"  timestep {t + 1}: squared error {error:.2f} per image, "
            f"{blocked_percent(share, 1)} of non-zero pixels blocked",
            event="step",
            step=t + 1,
            squared_error=float(error),
            blocked_share=float(share),
            epsilon=args.epsilon,
        )
    means = {part: counts[-1].mean() for part, counts in film.spikes_by_part().items()}
    run.say(f"  {spikes_text(means, model.layers)}")

    # --- single neurons
    if args.raster:
        raster = raster_of(model, batch, args.seed, args.raster)
        title = f"One image through the network ({titles_of(batch, images, model)[0]})"
        pictures += [run.picture("_raster.png"), run.picture("_raster.npz")]
        save_raster(pictures[-2], raster, title, model.classes)
        write_whole(pictures[-1], lambda file: np.savez_compressed(file, **raster.arrays))
    end_run(args, run, [], pictures)
    return []


if __name__ == "__main__":
    run_script(main)
