#!/usr/bin/env python3
"""Convert an ANN to an SNN, balance its thresholds, and fine-tune it with surrogate gradients."""

import harness.idle_threads  # noqa: F401  (before torch)

from harness.building.models import (
    choose_trained,
    lines_on_flags,
    new_snn,
    teacher_from,
    use_engine,
)
from harness.building.start import resolve, start_snn
from harness.command_line.flags import training_parser
from harness.command_line.scripts import run_script, train_each
from harness.data.facts import data_for, lines_on
from harness.runs.run import Run, run_name
from harness.training.fit import fit
from harness.training.losses import Criterion, own_losses


def build_parser(argv=None):
    return training_parser(__doc__, "snn", argv)


def main(argv=None):
    return train_each(train, build_parser(argv), argv, "snn")


def train(args):
    name = run_name("snn", args)
    args, start = resolve(args, "snn", name)
    model = new_snn(args)
    model.set_bptt_segments(args.bptt_segments)
    model.precision = args.precision
    choose_trained(model, args)
    teacher = teacher_from(args)
    trade_off = (
        args.trade_off if model.has_feedback else 0.0
    )  # what a gate makes of the image by itself is not learned
    terms = (
        args.trade_off_type,
        args.spike_penalty,
        args.classification_type,
        teacher,
        args.label_smoothing,
    )
    criterion = Criterion(trade_off, *terms, own_losses(args, model))
    args, data = data_for(args, model)
    engine = use_engine(model, args)
    with Run("snn", name, args, trains=not args.test_only) as run:
        run.say(
            *lines_on_flags(args, model, start),
            *lines_on(data, model.classes, args.test_only),
            engine,
        )
        start_snn(model, start, data[0], args, run, may_grow=not args.test_only)
        return fit(model, data, criterion, args, run, start.run)


if __name__ == "__main__":
    run_script(main)
