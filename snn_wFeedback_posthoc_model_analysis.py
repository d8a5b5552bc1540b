#!/usr/bin/env python3
"""Draw a trained SNN's predictions over time, its spikes, and single neurons.

Writes a GIF with a frame for each timestep from the first that blocks a pixel, and charts."""

import harness.idle_threads  # noqa: F401  (before torch)

from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.command_line.flags import add_baseline_flag, add_picture_flags, posthoc_parser
from harness.command_line.parser import typed
from harness.command_line.posthoc import open_posthoc, resolve_evaluation
from harness.command_line.scripts import run_script
from harness.drawing.film import save_contact_sheet, save_gif
from harness.drawing.plots import save_spikes_over_time
from harness.drawing.raster import raster_of, save_raster
from harness.measuring.log_lines import spikes_text
from harness.runs.run import counted
from harness.runs.saving import write_whole
from self_models.basics.settings import COUNT
from self_models.counting.evaluation import spikes_over_time
from self_models.runtime.outputs import by_part
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN)
    group = add_picture_flags(parser)
    group.add_argument(
        "--chart_images",
        type=typed(COUNT),
        default=200,
        metavar="N",
        help="test images whose spikes are charted",
    )
    add_baseline_flag(group, "the baseline's spikes")
    group.add_argument(
        "--raster",
        type=typed(COUNT),
        nargs="?",
        const=20,
        default=None,
        metavar="N",
        help="also draw the "
        "first image's spikes of N neurons of each layer, and three membrane potentials, and save them as .npz; "
        "default of N: 20",
    )
    return parser


def main(argv=None):
    posthoc = open_posthoc(
        *resolve_evaluation(build_parser(argv).parse_args(argv)),
        InputBlockingSNN,
        "_posthoc_analysis",
    )
    posthoc.check_predicts()
    model, run, args = posthoc.model, posthoc.run, posthoc.args
    film, beside = posthoc.watch(), posthoc.baseline()
    charted = posthoc.test.part(0, args.chart_images)
    spikes, open_share, accuracy = spikes_over_time(
        model, charted.batches(args.batch_size, posthoc.device), args.seed
    )
    networks = {Path(args.pretrained_snn or args.pretrained_ann).stem: spikes}
    if beside:
        theirs = spikes_over_time(beside.model, [posthoc.chosen()], args.seed)[0]
        film = replace(
            film, baseline={layer: np.cumsum(counts) for layer, counts in theirs.items()}
        )
        theirs = spikes_over_time(
            beside.model, charted.batches(args.batch_size, posthoc.device), args.seed
        )[0]
        networks[Path(args.baseline).stem] = theirs
    posthoc.draw(".gif", save_gif, film, args.frame_seconds)
    posthoc.draw(".png", save_contact_sheet, film)
    kind = (
        "images of your own"
        if posthoc.files
        else "held-out images"
        if args.holdout
        else "test images"
    )
    all_charted = f"the first {len(charted):,} {kind}"
    posthoc.draw(
        "_spikes.png", save_spikes_over_time, networks, open_share, film.setting, all_charted
    )
    right = "charted" if accuracy is None else f"accuracy {100 * accuracy:.2f} %"
    run.result(
        f"{right}: {all_charted}",
        spikes_text(by_part({layer: sum(counts) for layer, counts in spikes.items()}), spikes),
    )
    run.say(f"the {counted(len(film.images), 'image')} shown:")
    for t in range(model.timesteps):
        error, share = film.errors[t].mean(), film.blocked[t].mean()
        line = f"  timestep {t + 1}: squared error {error:.2f} per image, {100 * share:.1f} % of non-zero pixels blocked"
        run.record(
            line,
            event="step",
            step=t + 1,
            squared_error=float(error),
            blocked_share=float(share),
            epsilon=args.epsilon,
        )
    shown = {part: count[-1].mean() for part, count in film.spikes_by_part().items()}
    run.say(f"  {spikes_text(shown, model.layers)}")
    if args.raster:
        batch = posthoc.chosen()
        raster = raster_of(model, batch, args.seed, args.raster)
        title = f"One image through the network ({posthoc.titles(batch)[0]})"
        posthoc.draw("_raster.png", save_raster, raster, title, model.classes)
        posthoc.draw(
            "_raster.npz", write_whole, lambda file: np.savez_compressed(file, **raster.arrays)
        )
    return posthoc.finish()


if __name__ == "__main__":
    run_script(main)
