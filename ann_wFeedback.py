#!/usr/bin/env python3
"""Train an ANN: a VGG classifier with a decoder that predicts its input."""

import harness.idle_threads  # noqa: F401  (before torch)

from harness.building.models import lines_on_flags, load_ann, new_ann, teacher_from
from harness.building.start import resolve, whiten_first_layer
from harness.command_line.flags import training_parser
from harness.command_line.scripts import run_script, train_each
from harness.data.facts import data_for, lines_on
from harness.runs.run import Run, run_name
from harness.training.fit import fit
from harness.training.losses import Criterion


def build_parser(argv=None):
    return training_parser(__doc__, "ann", argv)


def main(argv=None):
    return train_each(train, build_parser(argv), argv, "ann")


def train(args):
    name, about_start = run_name("ann", args), []
    args, start = resolve(args, "ann", name)
    model = new_ann(args)
    if start.kind == "ann":
        load_ann(model, start.saved, start.path, None if args.test_only else about_start.append)
    model.precision = args.precision
    teacher = teacher_from(args)
    args, data = data_for(args, model)
    with Run("ann", name, args, trains=not args.test_only) as run:
        run.say(
            *lines_on_flags(args, model, start),
            *lines_on(data, model.classes, args.test_only),
            *about_start,
        )
        criterion = Criterion(
            args.trade_off, "sum", teacher=teacher, smoothing=args.label_smoothing
        )
        if model.settings["whitening"] and not start.kind:
            run.say(whiten_first_layer(model, data[0]))
        return fit(model, data, criterion, args, run, start.run)


if __name__ == "__main__":
    run_script(main)
