#!/usr/bin/env python3
"""Train the ANN: a VGG classifier with a decoder that predicts its input."""

from harness.building.models import load_ann, new_ann, teacher_from
from harness.building.own import lines_on_own
from harness.building.start import resolve
from harness.building.whitening import whiten_first_layer
from harness.command_line.flags import ann_parser, ann_settings
from harness.command_line.parser import lines_on_idle
from harness.command_line.scripts import run_script
from harness.command_line.seeds import train_each
from harness.data.facts import lines_on
from harness.runs.paths import run_name
from harness.runs.runlog import RunLog
from harness.training.fit import fit, test_once
from harness.training.losses import Criterion
from harness.training.selection import data_for


def build_parser(argv=None):
    return ann_parser(__doc__, argv)


def main(argv=None):
    return train_each(train, build_parser(argv), argv, "ann")


def train(args):
    name, declared, about_start = run_name("ann", args), ann_settings(args.model), []
    args, start = resolve(args, "ann", name, declared)
    model = new_ann(args)
    if start.kind == "ann":
        load_ann(model, start.saved, start.path, None if args.test_only else about_start.append)
    model.precision = args.precision
    teacher = teacher_from(args)
    warnings = lines_on_idle(args, declared)
    args, data = data_for(args, model)
    about_data = lines_on(data if not args.test_only else (None, None, data[2]), model.classes)
    with RunLog("ann", name, args, trains=not args.test_only) as run:
        run.say(*warnings, *about_data, *about_start, *lines_on_own(args, model, start.saved, start.path))
        criterion = Criterion(args.trade_off, "sum", teacher=teacher, smoothing=args.label_smoothing)
        if args.test_only:
            return test_once(model, data[2], criterion, args, run)
        if model.settings["whitening"] and not start.kind:
            run.say(whiten_first_layer(model, data[0]))
        return fit(model, data, criterion, args, run, declared, start.run)


if __name__ == "__main__":
    run_script(main)
