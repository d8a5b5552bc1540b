#!/usr/bin/env python3
"""Train the ANN: a VGG classifier with a decoder that predicts its input."""

from harness.command_line import flags
from harness.command_line.errors import run_script
from harness.command_line.presets import ANN_PRESETS
from harness.data.sets import load_data
from harness.runs.runlog import Run, ann_name
from harness.training.building import ann_from
from harness.training.fit import fit, test_once
from harness.training.losses import Criterion


def build_parser():
    parser = flags.Parser(__doc__, ANN_PRESETS)
    flags.add_run_args(parser)
    flags.add_data_args(parser)
    network = flags.add_network_args(parser, dropout=0.2)
    network.add_argument("--timesteps", type=flags.COUNT, default=1, help="T, passes of feedback per image")
    network.add_argument("--pretrained_ann", default="", metavar="PATH", help="ANN checkpoint to start from, or to test")
    flags.add_training_args(parser, momentum=0.9, trade_off=10.0)
    flags.add_results_args(parser)
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    model = ann_from(args)
    model.precision = args.precision
    data = load_data(args.dataset, args.data_dir, args.limit_train, args.limit_test, args.holdout)
    with Run("ann", args.run_name or ann_name(args) + "_test" * args.test_only, args, trains=not args.test_only) as run:
        criterion = Criterion(args.trade_off, "sum")
        if args.test_only:
            return test_once(model, data[2], criterion, args, run)
        return fit(model, data, criterion, args, run)


if __name__ == "__main__":
    run_script(main)
