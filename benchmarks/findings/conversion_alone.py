#!/usr/bin/env python3
"""What does conversion alone give, without any training of the SNN? Accuracy at several T and percentiles beside the ANN's.

One JSON object per line: first the ANN's accuracy (`case` ann), then that of the converted SNN for each `encoding`, `percentile`
and `timesteps` with its spikes per image, then, with --tuned_snn, that of an SNN fine-tuned from this ANN, at its own T: what
training adds. The decoder is left out, since nothing is blocked. The images are the last --holdout training images.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.flags import posthoc_parser, posthoc_settings  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness import UserError
from harness.building.models import ann_as_saved, snn_from, use_engine
from harness.building.source import SNNSource
from harness.command_line.parser import lines_on_idle
from harness.command_line.parser import typed
from harness.command_line.posthoc import Posthoc, find_images
from harness.command_line.scripts import run_script
from harness.measuring.evaluation import evaluate
from harness.runs.runlog import RunLog
from harness.training.losses import Criterion
from self_models import load
from self_models.basics.settings import COUNT
from self_models.network.plans import find_plan
from self_models.objectives.encoders import ENCODINGS
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

TRIED = {"timesteps": [8, 50, 200], "encoding": ["direct"], "balance_percentile": [100.0, 99.9, 99.0]}


def build_parser():
    parser = posthoc_parser(__doc__, VGG_SNN_STDB_wFeedback, without=TRIED)
    group = parser.add_argument_group("what to try")
    group.add_argument("--timesteps", type=typed(COUNT), nargs="+", default=TRIED["timesteps"], help="T, one or several")
    group.add_argument("--encoding", choices=list(ENCODINGS), nargs="+", default=TRIED["encoding"], help="one or both")
    percentile = posthoc_settings(VGG_SNN_STDB_wFeedback)["balance_percentile"]
    group.add_argument(
        "--balance_percentile", type=typed(percentile.kind), nargs="+", default=TRIED["balance_percentile"], help=percentile.help
    )
    group.add_argument("--tuned_snn", default="", metavar="PATH", help="an SNN fine-tuned from this ANN, to compare with")
    parser.set_defaults(holdout=1000, scaling_factor=1.0)
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    if not args.pretrained_ann or args.pretrained_snn:
        raise UserError("give --pretrained_ann PATH, the ANN to convert, and no SNN")
    if not args.holdout:
        raise UserError("--holdout 0 is the test images, on which nothing is chosen: leave it out")
    ann, _ = ann_as_saved(args)
    source, steps, encodings, percentiles = SNNSource(args), args.timesteps, args.encoding, args.balance_percentile
    args.timesteps, args.encoding = max(steps), encodings[0]
    encoder = [token for token in find_plan(args.architecture, args.plan).encoder if token != "fork"]
    model = snn_from(args, plan=[encoder, []])
    if source.settings.get("activation_ann") == "qcfs":
        percentiles = [None]  # nothing is balanced
    lines = lines_on_idle(args, posthoc_settings(VGG_SNN_STDB_wFeedback))
    train, images = find_images(args, model)
    lines.append(use_engine(model, args, len(images)))
    run = RunLog("snn", args.run_name or f"{Path(args.pretrained_ann).stem}_conversion_alone", args, trains=False)
    for line in lines:
        run.say(line)
    posthoc = Posthoc(args, model, images, run)

    def show(**row):
        print(json.dumps(row), flush=True)

    batches = images.batches(args.batch_size, posthoc.device)
    show(case="ann", accuracy=evaluate(ann, batches, Criterion(args.trade_off, "sum"), args.seed)["accuracy"])
    for encoding in encodings:
        model.change(encoding=encoding)
        for args.balance_percentile in percentiles:
            for number, timesteps in enumerate(steps):
                model.change(timesteps=timesteps)
                if args.calibrate or not number:
                    source.fill(model, train, run)
                tried = {"encoding": encoding, "percentile": args.balance_percentile, "timesteps": timesteps}
                show(case="converted", **tried, **figures_of(posthoc, **tried))
    if args.tuned_snn:
        posthoc.model = load(args.tuned_snn, "event" if model.engine else "dense", posthoc.device)
        tuned = posthoc.model.settings
        about = {"encoding": tuned["encoding"], "percentile": None, "timesteps": tuned["timesteps"]}
        show(case="tuned", **about, **figures_of(posthoc, case="tuned"))
    return posthoc.finish()


def figures_of(posthoc, **about):
    """accuracy and spikes per image of the model as it is; about: of its record."""
    record, _ = posthoc.evaluate(**about)
    return {"accuracy": record["accuracy"], "spikes": record["spikes"]["total"]}


if __name__ == "__main__":
    run_script(main)
