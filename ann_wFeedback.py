#!/usr/bin/env python3
"""Train an ANN: a VGG classifier with a decoder that predicts its input."""

import torch
import torch.nn.functional as F

from harness.building.models import lines_on_own, load_ann, new_ann, teacher_from
from harness.building.start import resolve
from harness.command_line.flags import training_parser
from harness.command_line.parser import lines_on_unused
from harness.command_line.scripts import run_script, train_each
from harness.data.facts import data_for, lines_on
from harness.runs.paths import run_name
from harness.runs.run import Run
from harness.training.fit import fit, test_once
from harness.training.losses import Criterion

SMALL = 5e-4  # added to the variance of each whitened pattern, so that faint ones are not blown up
PATCHES = 5_000_000  # from about so many patterns are found, of images evenly spread over the set


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
    about_data = lines_on(data if not args.test_only else (None, None, data[2]), model.classes)
    with Run("ann", name, args, trains=not args.test_only) as run:
        run.say(*lines_on_unused(args, model), *about_data, *about_start, *lines_on_own(args.model))
        criterion = Criterion(args.trade_off, "sum", teacher=teacher, smoothing=args.label_smoothing)
        if args.test_only:
            return test_once(model, data[2], criterion, args, run)
        if model.settings["whitening"] and not start.kind:
            run.say(whiten_first_layer(model, data[0]))
        return fit(model, data, criterion, args, run, start.run)


@torch.no_grad()
def whiten_first_layer(model, images):
    """Fill the first convolution with filters that whiten the patches of an ImageSet, and their negatives: what it sends is
    uncorrelated, each channel of variance 1. Filters are the leading eigenvectors of the patches' covariance, each divided by the
    root of its eigenvalue + SMALL. Returns a line on them."""
    weight, number, sums, squares = model.features[0].weight, 0, 0.0, 0.0
    each, size = weight.shape[0] // 2, weight.shape[-1]
    index = torch.arange(0, len(images), -(-len(images) // max(1, PATCHES // images.images[0, 0].numel())))
    for part in index.split(100):
        patches = F.unfold(images.batch(part).images.flatten(0, -4).double(), size).transpose(1, 2).flatten(0, 1)
        number, sums, squares = number + len(patches), sums + patches.sum(0), squares + patches.t() @ patches
    mean = sums / number
    variances, patterns = (found.flip(-1) for found in torch.linalg.eigh(squares / number - mean.outer(mean)))
    filters = (patterns[:, :each] / (variances[:each].clamp(min=0) + SMALL).sqrt()).t().float()
    weight.copy_(torch.cat([filters, -filters]).view_as(weight))
    share = 100 * (variances[:each].sum() / variances.sum()).item()
    return f"whitening: {each} patterns of {size}x{size} pixels have {share:.1f} % of {len(index)} images' variance"


if __name__ == "__main__":
    run_script(main)
